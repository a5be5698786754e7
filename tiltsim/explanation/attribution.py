"""How much of an asymmetric polarization comes from what: crystal, channelling, lens, the grain's tilt, each variant's lean, the scan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import analysis
from analysis import Measurement
from analysis.errors import ImageError
from analysis.tiling import usable_cells
from tiltsim.explanation.explaining import Explanation
from tiltsim.lens import COMPONENTS

Floats = NDArray[np.float64]

#: Steps on the way from the crystal to what the fit of its columns shows.
CAUSES = (
    "crystal",
    "thickness and fit",
    "lens",
    "tilt of the grain",
    "lean of the variants",
    "not explained",
    "scan distortion",
)

#: Without leans to part: tilt of the beam in the columns comes in one.
CAUSES_ALONE = (*CAUSES[:3], "tilt of the columns", *CAUSES[-2:])

#: Numbers that are told, and their units.
STATISTICS = {
    "mean_x": "pm", "mean_y": "pm", "difference": "pm", "population": "%", "skewness": "1", "spread": "pm",
}  # fmt: skip

#: Fall of −2 log-likelihood below which an image shows no jitter of its scan lines (``analysis.scan_distortion``).
_JITTER = 6.0

#: Draws from which errors of the statistics come.
_DRAWS = 40


def attribute(found: Explanation, progress: Callable[[int, int], None] | None = None) -> xr.Dataset:
    """Part what the map shows into what causes it.

    Parameters
    ----------
    found : Explanation
        With a corrected map.
    progress : callable, optional
        Called as ``progress(done, expected)``.

    Returns
    -------
    Dataset
        ``bias`` (cause, variant, component) that each cause adds to d, pm, and ``bias_std``; ``contribution`` (cause, statistic)
        that it adds to each of :data:`STATISTICS` and ``contribution_std``; ``total`` (statistic) of the map as it is. The causes add up
        in their order; "thickness and fit" is what a perfect lens shows without tilt, "not explained" what the fit of the image's columns
        shows beyond that of the model's. Where grain and lean cannot be told apart, "tilt of the columns" stands for both.
    """
    inversion, cells = found.inversion, found.cells
    leans = found.leans if found.leans is not None and found.leans.decided else None
    forward = found.forward
    causes = CAUSES if leans is not None else CAUSES_ALONE
    count, last = forward.variants, len(causes) - 1
    none = dict.fromkeys(COMPONENTS, 0.0)
    turn = inversion.regions[0].turn()
    states = np.zeros((last, count, 2))
    errors = np.zeros((last, count, 2, 2))
    for v in range(count):
        names, slopes = forward.slopes(v)
        layout = inversion.model.layout
        places = [layout.place(n, -1 if (n, -1) in layout.names else v) for n in names]
        covariance = inversion.covariance[np.ix_(places, places)]

        def of(chosen: slice, slopes: Floats = slopes, covariance: Floats = covariance) -> Floats:
            return np.asarray(slopes[:, chosen] @ covariance[chosen, chosen] @ slopes[:, chosen].T)

        states[1, v] = forward.tilted(v, np.zeros(2), **none)
        states[2, v] = forward.tilted(v, np.zeros(2))
        errors[1, v], errors[2, v] = of(slice(2, 3)), of(slice(3, 8))
        if leans is not None:
            grain = turn @ leans.grain
            states[3, v] = forward.tilted(v, grain)
            # Slopes are along the lattice, as the grain's errors.
            errors[3, v] = slopes[:, :2] @ np.diag(leans.grain_std**2) @ slopes[:, :2].T
            errors[4, v] = of(slice(0, 2)) + errors[3, v]
        else:
            errors[3, v] = of(slice(0, 2))
        states[-2, v] = forward.bias(v)
        states[-1, v] = inversion.bias[v]
        errors[0, v] = inversion.bias_cov[2 * v : 2 * v + 2, 2 * v : 2 * v + 2]
        if progress is not None:
            progress(v + 1, count)
    label = cells["domain"].values
    good = (label >= 0) & (label < count) & np.isfinite(cells["d_corrected"].values).all(axis=1)
    good &= usable_cells(cells)
    label = label[good]
    scan, scan_cov = (part[good] for part in scan_shifts(found.measurement))
    lines = np.unique(cells["b"].values[good], return_inverse=True)[1]
    crystal = cells["d_corrected"].values[good] - scan
    axis = polar_axis(crystal)

    def told(bases: Floats, moved: Floats) -> Floats:
        """Contributions (cause, statistic) where causes up to each add ``bases`` (cause, variant, 2), and the scan ``moved``."""
        maps = [crystal + base[label] for base in bases]
        maps.append(maps[-1] + moved)
        values = np.stack([statistics(m, label, axis) for m in maps])
        return np.diff(values, axis=0, prepend=np.zeros((1, values.shape[1])))

    contribution = told(states, scan)
    rng = np.random.default_rng(0)
    draws = []
    roots = np.stack([[_root(errors[c, v]) for v in range(count)] for c in range(last)])
    wrong = _root(scan_cov.mean(axis=0))
    for _ in range(_DRAWS):
        moved = np.einsum("cvij,cvj->cvi", roots, rng.standard_normal((last, count, 2)))
        # What is taken for the crystal's is missing in the rest: the map is what it is.
        moved[0] *= -1.0
        shifted = states + np.concatenate([moved[:1], np.cumsum(moved[1:], axis=0) + moved[:1]])
        draws.append(told(shifted, scan + (rng.standard_normal((lines.max() + 1, 2)) @ wrong.T)[lines]))
    added = np.concatenate(
        [np.diff(states, axis=0, prepend=np.zeros((1, count, 2))), np.zeros((1, count, 2))]
    )
    added[0] = inversion.d[:count]
    square = np.concatenate([errors.diagonal(axis1=-2, axis2=-1), np.zeros((1, count, 2))])
    for v in range(count):
        added[-1, v] = scan[label == v].mean(axis=0)
        square[-1, v] = scan_cov[label == v].mean(axis=0).diagonal() / len(np.unique(lines[label == v]))
    # What the scan adds to a domain's mean is in the mean that was measured.
    added[0] -= added[-1]
    return xr.Dataset(
        {
            "bias": (("cause", "variant", "component"), added, {"units": "pm", "note": "of crystal: d itself"}),
            "bias_std": (("cause", "variant", "component"), np.sqrt(square), {"units": "pm"}),
            "contribution": (("cause", "statistic"), contribution),
            "contribution_std": (("cause", "statistic"), np.std(draws, axis=0)),
            "total": ("statistic", contribution.sum(axis=0)),
            "polar_axis": ("component", axis, {"units": "1", "long_name": "along which populations are counted"}),
        },
        coords={
            "cause": list(causes), "component": ["x", "y"], "statistic": list(STATISTICS),
            "unit": ("statistic", list(STATISTICS.values())),
        },
        attrs={"convention": "d = mean of surrounding A columns - B column; x right, y down"},
    )  # fmt: skip


def scan_shifts(measurement: Measurement) -> tuple[Floats, Floats]:
    """What jitter of the scan lines (taken to run along x) adds to every cell's d (cell, 2), pm, and its covariance (cell, 2, 2).

    Nothing where the A columns show no jitter, or are too few to tell.
    """
    cells = measurement.unit_cells
    none = np.zeros((cells.sizes["cell"], 2)), np.zeros((cells.sizes["cell"], 2, 2))
    if "scan_correction" in measurement.columns.attrs:
        return none
    try:
        distortion = analysis.scan_distortion(measurement)
        if not float(distortion["jitter_gain"].max()) > _JITTER:
            return none
        corrected = analysis.correct_distortion(measurement, distortion).unit_cells
    except ImageError:  # too few columns to tell
        return none
    moved = cells["d"].values - corrected["d"].values
    covariance = corrected["d_cov"].values - cells["d_cov"].values
    bad = ~np.isfinite(moved).all(axis=1)
    moved[bad], covariance[bad] = 0.0, 0.0
    return moved, covariance


def polar_axis(d: Floats) -> Floats:
    """(2,) Unit vector along which d (cell, 2) is longest, opposite directions counted alike."""
    return np.asarray(np.linalg.eigh(d.T @ d)[1][:, -1])


def statistics(d: Floats, label: NDArray[np.int_], axis: Floats) -> Floats:
    """:data:`STATISTICS` of a map.

    Mean d; the longest variant's mean length less the shortest's; cells that point along ``axis`` less those against it, % of all;
    skewness and standard deviation of the length of d.
    """
    size = np.hypot(*d.T)
    means = [np.hypot(*d[label == k].mean(axis=0)) for k in np.unique(label)]
    spread = size.std()
    skewness = float(((size - size.mean()) ** 3).mean() / max(spread, 1e-9) ** 3)
    population = 100.0 * float(np.sign(d @ axis).mean())
    return np.array([*d.mean(axis=0), max(means) - min(means), population, skewness, spread])


def _root(covariance: Floats) -> Floats:
    value, vector = np.linalg.eigh(covariance)
    return np.asarray(vector * np.sqrt(np.maximum(value, 0.0)))
