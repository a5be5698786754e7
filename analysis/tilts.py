"""How fitted columns move with specimen tilt: shifts, apparent displacement, and their slopes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .errors import ImageError
from .matching import Truth, TruthColumns, read_truth
from .slopes import fit_lines
from .tables import SIGN_CONVENTION

Floats = NDArray[np.float64]

_DIMS = ("phase", "tilt_x", "tilt_y", "thickness", "y", "x")
_SITES = ("A", "B")


def tilt_response(
    images: xr.Dataset,
    truth: Mapping[str, xr.Dataset],
    *,
    zone: str | None = None,
    window: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Measure every image of a tilt series and compare with the true columns.

    Parameters
    ----------
    images : xr.Dataset
        Variable ``intensity`` with dims (phase, tilt_x, tilt_y, thickness, y, x), in any order, and
        optionally ``pair``: independent phonon samples, each measured by itself. Tilts in mrad, lengths
        in Å. An image that is all NaN was not simulated and stays NaN in the result.
    truth : mapping of str to xr.Dataset
        One per phase: dims ``column`` (``x``, ``y`` in Å inside one period, ``site``) and
        ``cell`` (``cell_x``, ``cell_y`` in Å, ``cell_d`` in pm); attributes ``period_x``, ``period_y``, Å.
    zone : {"100", "110"}, optional
        How B sits between A, see `measure`; by default the attribute ``zone`` of each phase's truth, or
        "100" where it has none.
    window : float, optional
        Radius of the fit window in A-B distances, see `measure`.
    progress : callable, optional
        Called with (images done, images in all).

    Returns
    -------
    xr.Dataset
        dims (phase, tilt_x, tilt_y, thickness, site, component) and, for the linear coefficients,
        ``tilt_axis``. Shifts in pm: fitted minus true mean position, on the entrance surface's
        coordinates. Standard errors are over unique columns × pairs.

    Raises
    ------
    ImageError
        A dimension or a phase of the truth is missing, or an image cannot be measured; the message names
        phase, tilt and thickness.

    Notes
    -----
    d_apparent = d_true + (shift of A − shift of B). Slopes are least squares along each tilt axis through
    the zero of the other. Every tilt of a column sees the same phonons, so errors of slopes and of the
    value at zero come from the scatter between columns, of lines fitted column by column.
    """
    intensity, has_pair = _ordered(images)
    phases = [str(name) for name in intensity["phase"].values]
    lacking = [name for name in phases if name not in truth]
    if lacking:
        raise ImageError(f"truth: lacks phase {lacking[0]!r}; give one dataset for each phase of the images.")
    shape = intensity.shape[:5]  # phase, tilt_x, tilt_y, thickness, pair
    truths = [read_truth(truth[name], name) for name in phases]
    zones = [zone or str(truth[name].attrs.get("zone", "100")) for name in phases]
    results: dict[tuple[int, ...], TruthColumns] = {}
    total = int(np.prod(shape))
    for done, where in enumerate(product(*(range(n) for n in shape)), 1):
        values = intensity[where]
        if np.isfinite(values.values).any():
            try:
                results[where] = truths[where[0]].measure(values, zones[where[0]], window)
            except ImageError as error:
                raise ImageError(f"{_named(intensity, where, has_pair)}: {error}") from error
        if progress is not None:
            progress(done, total)
    if not results:
        raise ImageError("images: hold no finite image; simulate at least one tilt.")
    return _assembled(intensity, truths, results, ", ".join(sorted(set(zones))))


def _ordered(images: xr.Dataset) -> tuple[xr.DataArray, bool]:
    if "intensity" not in images:
        raise ImageError("images: has no variable 'intensity'; give the dataset that the simulation returns.")
    intensity = images["intensity"]
    missing = [dim for dim in _DIMS if dim not in intensity.dims or dim not in intensity.coords]
    if missing:
        raise ImageError(f"images: intensity lacks the dimension or coordinate '{missing[0]}'; add it.")
    extra = set(intensity.dims) - {*_DIMS, "pair"}
    if extra:
        raise ImageError(
            f"images: intensity has the extra dimension '{sorted(map(str, extra))[0]}'; average over it."
        )
    has_pair = "pair" in intensity.dims
    if not has_pair:
        intensity = intensity.expand_dims("pair")
    return intensity.transpose(*_DIMS[:4], "pair", "y", "x"), has_pair


def _named(intensity: xr.DataArray, where: tuple[int, ...], has_pair: bool) -> str:
    phase, tilt_x, tilt_y, thickness = (
        intensity[dim].values[n] for dim, n in zip(_DIMS[:4], where[:4], strict=True)
    )
    pair = f", pair {where[4]}" if has_pair else ""
    return f"phase {phase}, tilt ({tilt_x:g}, {tilt_y:g}) mrad, thickness {thickness:g} Å{pair}"


def _assembled(
    intensity: xr.DataArray, truths: list[Truth], results: dict[tuple[int, ...], TruthColumns], zone: str
) -> xr.Dataset:
    dims = _DIMS[:4]
    grid, n_pair = intensity.shape[:4], intensity.shape[4]
    most = max(len(truth.is_a) for truth in truths)
    most_cells = max(len(truth.cell_d) for truth in truths)
    shifts = np.full((*grid, n_pair, most, 2), np.nan)
    shapes = np.full((*grid, n_pair, most, 5), np.nan)
    cells = np.full((*grid, n_pair, most_cells, 2), np.nan)
    for where, found in results.items():
        shifts[where][: len(found.shift)] = found.shift
        shapes[where][: len(found.shape)] = found.shape
        cells[where][: len(found.cell_d)] = found.cell_d
    is_site = np.zeros((2, grid[0], most), bool)
    for n, one in enumerate(truths):
        is_site[0, n, : len(one.is_a)] = one.is_a
        is_site[1, n, : len(one.is_a)] = ~one.is_a

    axes = np.array([intensity["tilt_x"].values, intensity["tilt_y"].values], dtype=object)
    by_site: dict[str, list[Floats]] = {}
    for site in is_site:
        mask = site[:, None, None, None, None, :, None]
        sample = np.where(mask, shifts, np.nan).reshape(*grid, n_pair * most, 2)
        mean, sem = _mean_sem(sample)
        shape_mean, _ = _mean_sem(np.where(mask, shapes, np.nan).reshape(*grid, n_pair * most, 5))
        slope, slope_sem, zero, zero_sem = _lines(sample, axes)
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
    d_apparent, _ = _mean_sem(cells.reshape(*grid, n_pair * most_cells, 2))
    measured = np.isfinite(by_site["shift"][0])
    shape_both = both("shape", 4)
    # Angles repeat every π: average the direction of twice the angle.
    theta = 0.5 * np.arctan2(shape_both[..., 4], shape_both[..., 3])
    full, flat = (*dims, "site", "component"), (*dims, "component")
    lines = ("phase", "thickness")
    pm, per = {"units": "pm"}, {"units": "pm/mrad"}
    d_attrs = pm | {"convention": SIGN_CONVENTION}
    variables: dict[str, Any] = {
        "shift": (full, both("shift", 4), pm | {"long_name": "fitted minus true mean position"}),
        "shift_sem": (full, both("shift_sem", 4), pm),
        "amplitude": ((*dims, "site"), shape_both[..., 0], {"units": "1", "note": "in the image's intensity unit"}),
        "sigma_major": ((*dims, "site"), shape_both[..., 1], {"units": "Å"}),
        "sigma_minor": ((*dims, "site"), shape_both[..., 2], {"units": "Å"}),
        "theta": ((*dims, "site"), theta, {"units": "rad", "long_name": "mean major axis, x towards y"}),
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
            ("phase", "site"), n_pair * is_site.sum(-1).T, {"units": "1", "long_name": "unique columns x pairs"},
        ),
    }  # fmt: skip
    coords: dict[str, Any] = {
        dim: (dim, intensity[dim].values, {"units": unit} | dict(intensity[dim].attrs))
        for dim, unit in zip(dims, ("1", "mrad", "mrad", "Å"), strict=True)
    }
    for name, labels in {"site": _SITES, "component": ("x", "y"), "tilt_axis": ("x", "y")}.items():
        coords[name] = (name, np.array(labels, dtype=object), {"units": "1"})
    attrs = {"convention": SIGN_CONVENTION, "zone": zone, "directions": "x right, y down", "pairs": n_pair}
    return xr.Dataset(variables, coords, attrs)


def _mean_sem(sample: Floats) -> tuple[Floats, Floats]:
    """Mean and standard error over the axis before the last, NaN where nothing (or one) is known."""
    known = np.isfinite(sample)
    count = known.sum(-2)
    total = np.where(known, sample, 0.0).sum(-2)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    square = np.where(known, (sample - mean[..., None, :]) ** 2, 0.0).sum(-2)
    freedom = np.asarray(count * (count - 1.0))
    sem = np.sqrt(np.divide(square, freedom, out=np.full(total.shape, np.nan), where=freedom > 0))
    return mean, sem


def _lines(sample: Floats, axes: NDArray[Any]) -> tuple[Floats, Floats, Floats, Floats]:
    """Slopes (phase, thickness, component, tilt_axis) and values at zero (phase, thickness, component)."""
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
    zero, zero_sem = _mean_sem(both)
    parts = [_mean_sem(slopes[..., axis]) for axis in (0, 1)]
    return np.stack([p[0] for p in parts], -1), np.stack([p[1] for p in parts], -1), zero, zero_sem
