"""From image to columns, unit cells and polar displacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .calibration import is_calibrated, lattice_scale, pixel_sizes, with_pixel_size
from .cells import cell_table
from .columns import LEAST_COVERAGE, FittedColumns, in_units, refine
from .engines import COMPILED, Engine, chosen
from .errors import ImageError
from .estimators import ESTIMATORS, located
from .folding import find_sublattices
from .growth import grow
from .guesses import COVERED
from .lattice import Lattice, find_periods
from .motif import Motif
from .noise import WEIGHTS
from .population import scatter
from .tables import COVARIANCE_NOTE, SIGN_CONVENTION, column_table, flag_counts

Floats = NDArray[np.float64]

ZONES = ("auto", "100", "110")
A_SITES = ("bright", "dark")


@dataclass(frozen=True)
class Measurement:
    """What `measure` found.

    Attributes
    ----------
    columns : xr.Dataset
        One row a column.
    unit_cells : xr.Dataset
        One row a cell; ``d`` in pm.
    lattice : Lattice
        Straight line fit to the A columns, Å.
    quality : dict
        JSON-able numbers about the fit.
    image : xr.DataArray
        The image on the coordinates that the tables use, Å.
    """

    columns: xr.Dataset
    unit_cells: xr.Dataset
    lattice: Lattice
    quality: dict[str, Any]
    image: xr.DataArray


_SAMPLE = 50_000  # pixels that tell how bright an image is

#: Shortest distance of neighbouring A columns, Å, that is taken for a perovskite (2.7 to 4.2 are known).
PLAUSIBLE_SPACING = (2.0, 6.0)


def measure(
    image: xr.DataArray,
    *,
    zone: str = "auto",
    pixel_size: float | None = None,
    lattice_parameter: float | None = None,
    anisotropic: bool = False,
    a_site: str = "bright",
    window: float | None = None,
    weights: str = "auto",
    estimator: str = "gaussian",
    lattice: Lattice | None = None,
    motif: Motif | None = None,
    device: str = "auto",
) -> Measurement:
    """Fit all columns of a perovskite image and measure the polar displacement of every cell.

    Parameters
    ----------
    image : xr.DataArray
        dims ("y", "x"), y down; NaN where there is no data.
    zone : {"auto", "100", "110"}
        "100": B in the middle of four A columns. "110": B half-way between two A columns.
    pixel_size : float, optional
        Å per px; overrides the image's coordinates.
    lattice_parameter : float, optional
        Pseudocubic, Å: recalibrates the image on its own A lattice. Needed, or `pixel_size`, if the image
        is not calibrated.
    anisotropic : bool
        Let that recalibration scale x and y separately.
    a_site : {"bright", "dark"}
        Which of the two kinds of column is A.
    window : float, optional
        Radius of the fit windows in units of the shortest A-B distance; by default 3 standard deviations of the
        columns of each kind.
    weights : {"auto", "poisson", "uniform"}
        How pixels are weighted: by the noise measured in the image, as counts (variance proportional to
        intensity), or alike.
    estimator : {"gaussian", "mass", "template"}
        What says where a column is: the centre of the fitted Gaussian, the centre of mass, or the best place of the
        average column of its kind; the last two after neighbours and background are taken away by the fit.
    lattice : Lattice, optional
        Skip the search and start from this lattice, in the image's coordinates. What it calls A is A.
    motif : Motif, optional
        The columns of one cell, of a crystal that is no perovskite.
    device : {"auto", "cpu", "cuda"}
        What fits the columns: the processor, or a CUDA GPU by way of torch; "auto" takes the GPU where torch finds one.
        Both lead to the same columns, within a part of where the fit stops.

    Returns
    -------
    Measurement

    Raises
    ------
    ImageError
        The image shows no lattice, or only one sublattice; or a parameter is wrong.

    Notes
    -----
    The fitted centre of an asymmetric column is not its centre of mass and depends on windows and weights:
    compare images fitted alike.
    """
    _check(zone, a_site, pixel_size, window, weights)
    if estimator not in ESTIMATORS:
        raise ImageError(f"estimator={estimator!r} is unknown; choose one of {', '.join(ESTIMATORS)}.")
    engine = chosen(device)
    step = pixel_sizes(image)
    calibrated = is_calibrated(image)
    if not calibrated and pixel_size is None and lattice_parameter is None:
        raise ImageError(
            "image: is not calibrated; pass pixel_size (Å per px) or lattice_parameter (Å, to use its own lattice)."
        )
    values = usable(image.values)
    some = values.ravel()[:: max(1, values.size // _SAMPLE)]
    some = some[np.isfinite(some)] if np.isfinite(some).any() else values[np.isfinite(values)]
    if weights == "poisson" and np.percentile(some, 5) < 0:
        raise ImageError(
            "weights='poisson' wants counts but much of the image is negative; add the offset back, or use 'auto'."
        )
    # Numbers of order one: an offset of 10⁹ counts would drown what is fitted.
    shift = 0.0 if weights == "poisson" else float(np.median(some))
    scale = float(np.percentile(np.abs(some - shift), 99)) or float(np.nanmax(np.abs(values - shift)))
    values = (values - shift) / scale
    if lattice is None:
        found = find_sublattices(values, find_periods(values), zone, motif)
    else:
        found = _in_pixels(lattice, image, step)
    near = neighbour_distance(found)
    if a_site == "dark" and motif is not None:
        raise ImageError("a_site='dark' has no meaning with a motif; exchange its sites A and B.")
    if a_site == "dark" and lattice is None:
        found = _swapped(found)
    fitted = fit_columns(values, found, near, window, weights, engine=engine)
    if lattice is None and motif is None and _brighter_b(fitted) != (a_site == "dark"):
        # A narrow column can stand out as the higher one before both are fitted.
        found = _swapped(found)
        fitted = fit_columns(values, found, near, window, weights, engine=engine)
    fitted = in_units(located(values, fitted, estimator), shift, scale)
    result = _measurement(image, fitted, found, _Scale(pixel_size, lattice_parameter, anisotropic), near)
    check_spacing(result.lattice)
    return result


def neighbour_distance(lattice: Lattice) -> float:
    """Shortest A-B distance, px.

    Raises
    ------
    ImageError
        The pixels are too coarse.
    """
    near = lattice.neighbour_distance
    if near < 2.5:
        raise ImageError(
            f"image: A and B columns are only {near:.1f} px apart; give an image with finer sampling."
        )
    return near


def check_spacing(lattice: Lattice) -> None:
    """Refuse a lattice, in Å, that no perovskite has."""
    spacing = min(float(np.hypot(*lattice.a)), float(np.hypot(*lattice.b)))
    if not PLAUSIBLE_SPACING[0] <= spacing <= PLAUSIBLE_SPACING[1]:
        raise ImageError(
            f"image: A columns come out {spacing:.4g} Å apart, which no perovskite has; check pixel_size or "
            "lattice_parameter (both in Å: 0.02 nm is 0.2 Å)."
        )


def summary(measurement: Measurement) -> dict[str, Any]:
    """Numbers of a measurement that fit on one screen, JSON-able.

    Parameters
    ----------
    measurement : Measurement

    Returns
    -------
    dict
        ``cells`` (unflagged), ``cells_found``, ``columns_a``, ``columns_b``, ``d_mean_pm``, ``d_sem_pm``
        and ``d_std_pm`` over unflagged cells as [x, y] (null without cells), ``d_error_pm`` (median
        standard error of one cell), ``pixel_size_angstrom``, ``lattice``, ``quality``.
    """
    cells, columns = measurement.unit_cells, measurement.columns
    good = cells["flag"].values == 0
    d, cov = cells["d"].values[good], cells["d_cov"].values[good]
    count = int(good.sum())
    std = d.std(0, ddof=1) if count > 1 else np.full(2, np.nan)
    error = np.sqrt(np.median(np.einsum("nii->ni", cov), 0)) if count else np.full(2, np.nan)
    site = columns["site"].values
    return {
        "cells": count,
        "cells_found": len(good),
        "columns_a": int((site == "A").sum()),
        "columns_b": int((site == "B").sum()),
        "d_mean_pm": _plain(d.mean(0) if count else np.full(2, np.nan)),
        "d_sem_pm": _plain(std / np.sqrt(max(count, 1))),
        "d_std_pm": _plain(std),
        "d_error_pm": _plain(error),
        "convention": SIGN_CONVENTION,
        "pixel_size_angstrom": float(measurement.image.attrs["pixel_size_angstrom"]),
        "lattice": measurement.lattice.as_dict(),
        "quality": measurement.quality,
    }


@dataclass(frozen=True)
class _Scale:
    """What the caller says about the scale."""

    pixel_size: float | None
    lattice_parameter: float | None
    anisotropic: bool


def _check(zone: str, a_site: str, pixel_size: float | None, window: float | None, weights: str) -> None:
    if zone not in ZONES:
        raise ImageError(f"zone={zone!r} is unknown; choose one of {', '.join(ZONES)}.")
    if a_site not in A_SITES:
        raise ImageError(f"a_site={a_site!r} is unknown; choose one of {', '.join(A_SITES)}.")
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ImageError(f"pixel_size={pixel_size} must be a positive number of Å per px.")
    check_fit(window, weights)


def check_fit(window: float | None, weights: str) -> None:
    """Refuse unknown weights, and a fit window that holds too few pixels or a neighbouring column."""
    if weights not in WEIGHTS:
        raise ImageError(f"weights={weights!r} is unknown; choose one of {', '.join(WEIGHTS)}.")
    if window is not None and not 0.3 <= window <= 1.0:
        raise ImageError(f"window={window} must lie between 0.3 and 1 A-B distances.")


def usable(values: NDArray[Any]) -> Floats:
    """Values in double precision, NaN for all that is not finite.

    Raises
    ------
    ImageError
        There is nothing to see in them.
    """
    values = np.asarray(values, dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("image: holds no finite pixel; give an image with data.")
    if np.nanmax(values) == np.nanmin(values):
        raise ImageError("image: is constant; give an image with data.")
    return values


def fit_columns(
    values: Floats,
    lattice: Lattice,
    near: float,
    window: float | None,
    weights: str,
    start: FittedColumns | None = None,
    engine: Engine = COMPILED,
) -> FittedColumns:
    """Find all columns from a lattice, in px, and fit them; see `analysis.columns.refine`."""
    sites = grow(values, lattice, radius=max(COVERED * near, 2.0), least_coverage=LEAST_COVERAGE)
    return refine(values, sites, near=near, window=window, weights=weights, start=start, engine=engine)


def _in_pixels(lattice: Lattice, image: xr.DataArray, step: tuple[float, float]) -> Lattice:
    unit = "Å" if is_calibrated(image) else "px"
    if lattice.units != unit:
        raise ImageError(
            f"lattice: is in {lattice.units} but the image in {unit}; give both in the same unit."
        )
    start = float(image["x"][0]), float(image["y"][0])
    moved = Lattice(
        (lattice.origin[0] - start[0], lattice.origin[1] - start[1]),
        lattice.a, lattice.b, lattice.motif, lattice.units,
    )  # fmt: skip
    return moved.scaled(1 / step[0], 1 / step[1], "px")


def _brighter_b(fitted: FittedColumns) -> bool:
    amplitude, good = fitted.fit.parameters[:, 0], fitted.flag == 0
    a, b = amplitude[fitted.is_a & good], amplitude[(fitted.kind == 1) & good]
    return bool(len(a) and len(b) and np.median(b) > np.median(a))


def _swapped(lattice: Lattice) -> Lattice:
    origin = np.array(lattice.origin) + np.array(lattice.b_fraction) @ lattice.vectors
    return Lattice((float(origin[0]), float(origin[1])), lattice.a, lattice.b, lattice.motif)


def _measurement(
    image: xr.DataArray,
    fitted: FittedColumns,
    found: Lattice,
    request: _Scale,
    near: float,
) -> Measurement:
    straight, spread = straight_lattice(fitted, found)
    step, calibrated = pixel_sizes(image), is_calibrated(image)
    size, note = step, str(image.attrs.get("calibration", "from the image's coordinates"))
    if request.pixel_size is not None:
        size, note = (request.pixel_size, request.pixel_size), "pixel size given by the user"
    if request.lattice_parameter is not None:
        # An uncalibrated image counts as square pixels of one unit until its lattice sets the scale.
        before = straight.scaled(size[0], size[1], "Å" if calibrated else "px")
        scale = lattice_scale(before, request.lattice_parameter, anisotropic=request.anisotropic)
        size = (size[0] * scale[0], size[1] * scale[1])
        note = f"on its own lattice of {request.lattice_parameter:g} Å"
        note += ", x and y separately" if request.anisotropic else ""
    scaled = with_pixel_size(image, size, note)
    attrs = {
        "source": str(image.attrs.get("source", "array")),
        "pixel_size_x_angstrom": size[0],
        "pixel_size_y_angstrom": size[1],
        "calibration": note,
        "zone": found.zone,
        "directions": "x right, y down",
    }
    columns = column_table(fitted, found.motif.labels, size, attrs)
    cells = cell_table(columns, straight.scaled(size[0], size[1], "Å"), attrs)
    start = float(scaled["x"][0]), float(scaled["y"][0])
    for table in (columns, cells):
        for axis, first in zip(("x", "y"), start, strict=True):
            table[axis] = (table[axis] + first).assign_attrs(table[axis].attrs)
    cells["centre"] = (cells["centre"] + np.array(start)).assign_attrs(cells["centre"].attrs)
    final = straight.scaled(size[0], size[1], "Å")
    moved = (final.origin[0] + start[0], final.origin[1] + start[1])
    final = Lattice(moved, final.a, final.b, final.motif, "Å")
    good = fitted.flag == 0
    amplitude = fitted.fit.parameters[:, 0]
    kinds = [amplitude[good & kind] for kind in (fitted.is_a, fitted.kind == found.motif.centre)]
    medians = [float(np.median(kind)) if len(kind) else None for kind in kinds]
    quality: dict[str, Any] = {
        "columns_flagged": flag_counts(columns["flag"].values),
        "columns_a_expected": fitted.expected,
        "columns_absent": fitted.absent,
        "settled": fitted.settled,
        "scatter_over_error": {
            name: _scatter_over_error(fitted, n) for n, name in enumerate(found.motif.labels)
        },
        "cells_flagged": flag_counts(cells["flag"].values),
        "b_over_a": medians[1] / medians[0] if medians[0] and medians[1] is not None else None,
        "residual_over_amplitude": float(np.median(fitted.fit.residual / np.abs(amplitude))),
        "residual_correlation": _plain(np.array([fitted.residual_correlation]))[0],
        "lattice_rms_angstrom": spread * float(np.sqrt(size[0] * size[1])),
        "neighbour_distance_px": near,
        "window_radius_px": {
            name: _median(fitted.setting.radius[fitted.kind == n])
            for n, name in enumerate(found.motif.labels)
        },
        "noise": {
            "offset": fitted.setting.noise.offset,
            "gain": fitted.setting.noise.gain,
            "measured": fitted.setting.noise.measured,
        },
        "chi2": _median(fitted.fit.chi2[fitted.flag == 0]),
        "sweeps": fitted.sweeps,
        "last_move_px": fitted.last_move,
        "errors_assume": COVARIANCE_NOTE,
    }
    return Measurement(columns, cells, final, quality, scaled)


def straight_lattice(fitted: FittedColumns, found: Lattice) -> tuple[Lattice, float]:
    """Least-squares lattice through the good A columns, and their rms distance from it, px."""
    use = fitted.is_a & (fitted.flag == 0)
    if use.sum() < 4:
        use = fitted.is_a
    index = fitted.index[use]
    design = np.column_stack([np.ones(len(index)), index])
    position = fitted.fit.parameters[use, 2:4]
    if np.linalg.matrix_rank(design) < 3:
        raise ImageError("image: its A columns lie on one line; give an image with at least one full cell.")
    solution, *_ = np.linalg.lstsq(design, position, rcond=None)
    rest = position - design @ solution
    origin, a, b = ((float(row[0]), float(row[1])) for row in solution)
    return Lattice(origin, a, b, found.motif), float(np.sqrt((rest**2).sum(1).mean()))


def _scatter_over_error(fitted: FittedColumns, kind: int) -> float | None:
    """Scatter of good columns about their neighbours, over their standard error; None with too few."""
    rows = np.flatnonzero((fitted.kind == kind) & (fitted.flag == 0))
    if len(rows) == 0:
        return None
    variance = np.einsum("nii->n", fitted.fit.covariance[rows, 2:4, 2:4]) / 2
    ratio = float(
        np.sqrt(scatter(fitted.fit.parameters[rows, 2:4], fitted.index[rows]) / np.median(variance))
    )
    return ratio if np.isfinite(ratio) else None


def _median(values: Floats) -> float | None:
    return float(np.median(values)) if len(values) else None


def _plain(values: Floats) -> list[float | None]:
    """JSON has no NaN."""
    return [float(v) if np.isfinite(v) else None for v in values]
