"""From the columns measured at every tilt to the dataset of shifts, errors and slopes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .matching import Truth, TruthColumns
from .slopes import fit_lines
from .tables import SIGN_CONVENTION

Floats = NDArray[np.float64]

#: One image for each of these.
IMAGE_DIMS = ("phase", "tilt_x", "tilt_y", "thickness")
SITES = ("A", "B")


def assembled(
    intensity: xr.DataArray,
    truths: list[Truth],
    results: Mapping[tuple[int, ...], TruthColumns],
    pairs: NDArray[np.bool_],
    zone: str,
) -> xr.Dataset:
    """Means over unique columns, standard errors over pairs, and slopes.

    Parameters
    ----------
    intensity : xr.DataArray
        dims (phase, tilt_x, tilt_y, thickness, pair, y, x); only its coordinates are used.
    truths : list of Truth
        One per phase.
    results : mapping
        From (phase, tilt_x, tilt_y, thickness) indices to what was measured there.
    pairs : (phase, tilt_x, tilt_y, thickness, pair) bool array
        Which images there are.
    zone : str

    Returns
    -------
    xr.Dataset
        As `analysis.tilt_response` describes.
    """
    grid, n_pair = intensity.shape[:4], intensity.shape[4]
    most = max(len(truth.is_a) for truth in truths)
    most_cells = max(len(truth.cell_d) for truth in truths)
    shifts = np.full((*grid, most, 2), np.nan)
    samples = np.full((*grid, n_pair, most, 2), np.nan)
    shapes = np.full((*grid, most, 5), np.nan)
    cells = np.full((*grid, most_cells, 2), np.nan)
    for where, found in results.items():
        shifts[where][: len(found.shift)] = found.shift
        samples[where][pairs[where], : len(found.shift)] = found.pair_shift
        shapes[where][: len(found.shape)] = found.shape
        cells[where][: len(found.cell_d)] = found.cell_d
    is_site = np.zeros((2, grid[0], most), bool)
    for n, one in enumerate(truths):
        is_site[0, n, : len(one.is_a)] = one.is_a
        is_site[1, n, : len(one.is_a)] = ~one.is_a

    axes = np.array([intensity["tilt_x"].values, intensity["tilt_y"].values], dtype=object)
    by_site: dict[str, list[Floats]] = {}
    for site in is_site:
        mask = site[:, None, None, None, :, None]
        columns = np.where(mask, shifts, np.nan)
        sample = np.where(mask[..., None, :, :], samples, np.nan).reshape(*grid, n_pair * most, 2)
        mean, sem = _mean(columns), _standard_error(sample, n_pair)
        shape_mean = _mean(np.where(mask, shapes, np.nan))
        slope, zero = (_mean(line) for line in _lines(columns, axes))
        slope_sem, zero_sem = (_standard_error(line, n_pair) for line in _lines(sample, axes))
        # Last axis: along which tilt, after the component.
        slope, slope_sem = (v.reshape(*v.shape[:-1], 2, 2) for v in (slope, slope_sem))
        for name, value in {
            "shift": mean, "shift_sem": sem, "shape": shape_mean, "slope": slope, "slope_sem": slope_sem,
            "zero": zero, "zero_sem": zero_sem,
        }.items():  # fmt: skip
            by_site.setdefault(name, []).append(value)

    def both(name: str, axis: int) -> Floats:
        return np.stack(by_site[name], axis)

    def difference(name: str) -> Floats:
        return by_site[name][0] - by_site[name][1]

    def quadrature(name: str) -> Floats:
        return np.hypot(by_site[name][0], by_site[name][1])

    d_true = np.stack([one.cell_d.mean(0) for one in truths])[:, None, None, None, :]
    # Cells share their A columns, so their own scatter would be too small an error: A and B columns are the
    # independent samples.
    d_apparent = _mean(cells)
    measured = np.isfinite(by_site["shift"][0])
    shape_both = both("shape", 4)
    # Angles repeat every π: average the direction of twice the angle.
    theta = 0.5 * np.arctan2(shape_both[..., 4], shape_both[..., 3])
    full, flat = (*IMAGE_DIMS, "site", "component"), (*IMAGE_DIMS, "component")
    lines = ("phase", "thickness")
    pm, per = {"units": "pm"}, {"units": "pm/mrad"}
    d_attrs = pm | {"convention": SIGN_CONVENTION}
    variables: dict[str, Any] = {
        "shift": (full, both("shift", 4), pm | {"long_name": "fitted minus true mean position"}),
        "shift_sem": (full, both("shift_sem", 4), pm),
        "amplitude": ((*IMAGE_DIMS, "site"), shape_both[..., 0], {"units": "1", "note": "in the image's intensity unit"}),
        "sigma_major": ((*IMAGE_DIMS, "site"), shape_both[..., 1], {"units": "Å"}),
        "sigma_minor": ((*IMAGE_DIMS, "site"), shape_both[..., 2], {"units": "Å"}),
        "theta": ((*IMAGE_DIMS, "site"), theta, {"units": "rad", "long_name": "mean major axis, x towards y"}),
        "d_true": (flat, np.where(measured, d_true, np.nan), d_attrs),
        "d_apparent": (flat, d_apparent, d_attrs),
        "d_apparent_sem": (flat, quadrature("shift_sem"), pm),
        "d_bias": (flat, difference("shift"), d_attrs | {"long_name": "shift of A minus shift of B"}),
        "d_bias_sem": (flat, quadrature("shift_sem"), pm),
        "shift_per_mrad": ((*lines, "site", "component", "tilt_axis"), both("slope", 2), per),
        "shift_per_mrad_sem": ((*lines, "site", "component", "tilt_axis"), both("slope_sem", 2), per),
        "shift_at_zero": ((*lines, "site", "component"), both("zero", 2), pm),
        "shift_at_zero_sem": ((*lines, "site", "component"), both("zero_sem", 2), pm),
        "d_bias_per_mrad": ((*lines, "component", "tilt_axis"), difference("slope"), per),
        "d_bias_per_mrad_sem": ((*lines, "component", "tilt_axis"), quadrature("slope_sem"), per),
        "d_bias_at_zero": ((*lines, "component"), difference("zero"), d_attrs),
        "d_bias_at_zero_sem": ((*lines, "component"), quadrature("zero_sem"), pm),
        "samples": (
            ("phase", "site"), (pairs.any((1, 2, 3)).sum(-1) * is_site.sum(-1)).T, {"units": "1", "long_name": "unique columns x pairs"},
        ),
    }  # fmt: skip
    coords: dict[str, Any] = {
        dim: (dim, intensity[dim].values, {"units": unit} | dict(intensity[dim].attrs))
        for dim, unit in zip(IMAGE_DIMS, ("1", "mrad", "mrad", "Å"), strict=True)
    }
    for name, labels in {"site": SITES, "component": ("x", "y"), "tilt_axis": ("x", "y")}.items():
        coords[name] = (name, np.array(labels, dtype=object), {"units": "1"})
    attrs = {"convention": SIGN_CONVENTION, "zone": zone, "directions": "x right, y down", "pairs": n_pair}
    return xr.Dataset(variables, coords, attrs)


def _mean(sample: Floats) -> Floats:
    """Mean over the axis before the last, NaN where nothing is known."""
    known = np.isfinite(sample)
    count = known.sum(-2)
    total = np.where(known, sample, 0.0).sum(-2)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _standard_error(sample: Floats, n_pair: int) -> Floats:
    """Standard error of the mean over columns and pairs, NaN where it cannot be told.

    Parameters
    ----------
    sample : (..., n_pair · columns, component) array
        Pair after pair; NaN where there is none.
    n_pair : int

    Notes
    -----
    Columns of one site need not be equivalent (octahedra turn in opposite senses, Sm sits on some), so that
    their spread is no error: with two pairs or more, the error of each column's mean comes from its own spread
    over pairs. A single pair leaves nothing but the spread of columns, which is an upper bound.
    """
    by_pair = sample.reshape(*sample.shape[:-2], n_pair, -1, sample.shape[-1])
    several = np.isfinite(by_pair).sum(-3).max(-2) > 1
    return np.where(several, _stratified(by_pair), _stratified(np.swapaxes(by_pair, -3, -2)))


def _stratified(sample: Floats) -> Floats:
    """Standard error of the mean of ``sample`` (..., draw, stratum, component) when strata may differ."""
    known = np.isfinite(sample)
    count = known.sum(-3)
    total = np.where(known, sample, 0.0).sum(-3)
    mean = np.divide(total, count, out=np.zeros(total.shape), where=count > 0)
    square = np.where(known, (sample - mean[..., None, :, :]) ** 2, 0.0).sum(-3)
    freedom = count * (count - 1.0)
    told = freedom > 0
    variance = np.divide(square, freedom, out=np.zeros(total.shape), where=told).sum(-2)
    number = told.sum(-2)
    return np.sqrt(np.divide(variance, number**2, out=np.full(variance.shape, np.nan), where=number > 0))


def _lines(sample: Floats, axes: NDArray[Any]) -> tuple[Floats, Floats]:
    """Slopes (phase, thickness, sample, component · tilt axis) and values at zero (phase, thickness, sample, component)."""
    n_phase, _, _, n_t = sample.shape[:4]
    tilt_x, tilt_y = (np.asarray(axis, float) for axis in axes)
    slopes = np.full((n_phase, n_t, sample.shape[4], 2, 2), np.nan)
    zeros = np.full((n_phase, n_t, sample.shape[4], 2, 2), np.nan)
    at_y, at_x = int(np.argmin(np.abs(tilt_y))), int(np.argmin(np.abs(tilt_x)))
    for axis, tilt, line in ((0, tilt_x, sample[:, :, at_y]), (1, tilt_y, sample[:, at_x])):
        other = (tilt_y[at_y], tilt_x[at_x])[axis]
        if abs(other) > 1e-6:
            continue  # no line runs through the zero of the other tilt
        slope, zero = fit_lines(tilt, np.moveaxis(line, 1, -1))
        slopes[..., axis], zeros[..., axis] = slope, zero
    # The value at zero is one number: the mean of what both axes say about each column.
    known = np.isfinite(zeros)
    both = np.divide(
        np.where(known, zeros, 0).sum(-1),
        known.sum(-1),
        out=np.full(zeros.shape[:-1], np.nan),
        where=known.any(-1),
    )
    return slopes.reshape(*slopes.shape[:-2], 4), both
