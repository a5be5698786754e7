"""How fitted columns move with specimen tilt: shifts, apparent displacement, and their slopes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .errors import ImageError
from .matching import Grid, Matcher, TruthColumns, read_truth
from .measuring import check_fit
from .responses import IMAGE_DIMS, assembled


def tilt_response(
    images: xr.Dataset,
    truth: Mapping[str, xr.Dataset],
    *,
    zone: str | None = None,
    window: float | None = None,
    weights: str = "poisson",
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Measure every image of a tilt series and compare with the true columns.

    Parameters
    ----------
    images : xr.Dataset
        Variable ``intensity`` with dims (phase, tilt_x, tilt_y, thickness, y, x), in any order, and
        optionally ``pair``: independent phonon samples. Tilts in mrad, lengths in Å. An image that is all
        NaN was not simulated: left out if there are other pairs of it, else NaN in the result.
    truth : mapping of str to xr.Dataset
        One per phase: dims ``column`` (``x``, ``y`` in Å inside one period, ``site``) and
        ``cell`` (``cell_x``, ``cell_y`` in Å, ``cell_d`` in pm); attributes ``period_x``, ``period_y``, Å.
    zone : {"100", "110"}, optional
        How B sits between A, see `measure`; by default the attribute ``zone`` of each phase's truth, or
        "100" where it has none.
    window : float, optional
        Radius of the fit window in A-B distances, see `measure`.
    weights : {"poisson", "uniform", "auto"}
        See `measure`; simulated images have no noise to measure, so that they are weighted as counts are.
    progress : callable, optional
        Called with (images done, images in all), where all pairs of a tilt and thickness are one image.

    Returns
    -------
    xr.Dataset
        dims (phase, tilt_x, tilt_y, thickness, site, component) and, for the linear coefficients,
        ``tilt_axis``. Shifts in pm: fitted minus true mean position, on the entrance surface's
        coordinates. Standard errors come from the spread of each unique column over pairs; with a
        single pair, from the spread of the columns, which need not be equivalent.

    Raises
    ------
    ImageError
        A dimension or a phase of the truth is missing, or an image cannot be measured; the message names
        phase, tilt and thickness.

    Notes
    -----
    d_apparent = d_true + (shift of A − shift of B). What is measured is the mean image over pairs, since
    intensities add up in an experiment; each pair is then refitted from there for the scatter only. Slopes,
    too, are those of the mean image, so that they are the slopes of the shifts beside them: least squares
    along each tilt axis through the zero of the other. Every tilt of a column sees the same phonons, so
    errors of slopes and of the value at zero come from the spread, over pairs, of lines fitted to each column.

    Within a phase and thickness, the fit starts from the tilt before, which saves time only.
    """
    intensity = _ordered(images)
    check_fit(window, weights)
    phases = [str(name) for name in intensity["phase"].values]
    lacking = [name for name in phases if name not in truth]
    if lacking:
        raise ImageError(f"truth: lacks phase {lacking[0]!r}; give one dataset for each phase of the images.")
    truths = [read_truth(truth[name], name) for name in phases]
    zones = [zone or str(truth[name].attrs.get("zone", "100")) for name in phases]
    grid = Grid.of(intensity[(0,) * 5])
    matchers = [Matcher(one, grid, kind, window, weights) for one, kind in zip(truths, zones, strict=True)]
    pairs = np.stack([np.isfinite(one).any((-2, -1)) for one in intensity.values])
    results = _measured(intensity, pairs, matchers, progress)
    if not results:
        raise ImageError("images: hold no finite image; simulate at least one tilt.")
    return assembled(intensity, truths, results, pairs, ", ".join(sorted(set(zones))))


def largest_sem(response: xr.Dataset) -> xr.DataArray:
    """Worst standard error of each phase, to decide whether it needs more phonon pairs.

    Parameters
    ----------
    response : xr.Dataset
        From `tilt_response`.

    Returns
    -------
    xr.DataArray
        dims (phase,): the largest ``shift_sem`` over tilts, thicknesses, sites and components, pm; NaN for
        a phase without any.
    """
    error = response["shift_sem"]
    worst = error.max([dim for dim in error.dims if dim != "phase"], skipna=True)
    return worst.rename("largest_sem").assign_attrs(units="pm")


def _ordered(images: xr.Dataset) -> xr.DataArray:
    if "intensity" not in images:
        raise ImageError("images: has no variable 'intensity'; give the dataset that the simulation returns.")
    intensity = images["intensity"]
    missing = [
        dim for dim in (*IMAGE_DIMS, "y", "x") if dim not in intensity.dims or dim not in intensity.coords
    ]
    if missing:
        raise ImageError(f"images: intensity lacks the dimension or coordinate '{missing[0]}'; add it.")
    extra = set(intensity.dims) - {*IMAGE_DIMS, "pair", "y", "x"}
    if extra:
        raise ImageError(
            f"images: intensity has the extra dimension '{sorted(map(str, extra))[0]}'; average over it."
        )
    if "pair" not in intensity.dims:
        intensity = intensity.expand_dims("pair")
    return intensity.transpose(*IMAGE_DIMS, "pair", "y", "x")


def _measured(
    intensity: xr.DataArray,
    pairs: NDArray[np.bool_],
    matchers: list[Matcher],
    progress: Callable[[int, int], None] | None,
) -> dict[tuple[int, ...], TruthColumns]:
    """Everything that can be measured, by (phase, tilt_x, tilt_y, thickness)."""
    n_phase, n_x, n_y, n_thickness = intensity.shape[:4]
    values = intensity.values
    results: dict[tuple[int, ...], TruthColumns] = {}
    done, total = 0, n_phase * n_x * n_y * n_thickness
    for phase, thickness in product(range(n_phase), range(n_thickness)):
        start = None
        for tilt in _boustrophedon(n_x, n_y):
            where = (phase, *tilt, thickness)
            if pairs[where].any():
                try:
                    results[where], start = matchers[phase].measure(
                        values[where][pairs[where]].astype(float), start
                    )
                except ImageError as error:
                    raise ImageError(f"{_named(intensity, where)}: {error}") from error
            done += 1
            if progress is not None:
                progress(done, total)
    return results


def _boustrophedon(n_x: int, n_y: int) -> list[tuple[int, int]]:
    """All indices of a grid, each beside the one before."""
    return [(x, y if x % 2 == 0 else n_y - 1 - y) for x in range(n_x) for y in range(n_y)]


def _named(intensity: xr.DataArray, where: tuple[int, ...]) -> str:
    phase, tilt_x, tilt_y, thickness = (
        intensity[dim].values[n] for dim, n in zip(IMAGE_DIMS, where, strict=True)
    )
    return f"phase {phase}, tilt ({tilt_x:g}, {tilt_y:g}) mrad, thickness {thickness:g} Å"
