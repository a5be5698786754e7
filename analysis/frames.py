"""Two frames of one area, the second scanned in another direction: drift and lattice told apart.

While a frame is recorded the specimen moves by s for every Å of slow scan. What is recorded at p in a frame whose
scan is turned by θ therefore lay, when the first line was drawn, at

    q = R(θ) p − s (slow component of p),

with R(θ) the rotation from x towards y. Two frames have the same lattice in q and the same s: an own formulation
of the idea of Sang and LeBeau, Ultramicroscopy 138 (2014) 28, and Ophus, Ciston and Nelson, Ultramicroscopy 162
(2016) 1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.linalg import block_diag
from scipy.optimize import least_squares

from .calibration import pixel_sizes
from .distortion import correct_distortion, propagated, scan_distortion
from .errors import ImageError
from .measuring import Measurement
from .scans import AXES
from .tables import SIGN_CONVENTION

Floats = NDArray[np.float64]

_PM = 100.0  # pm in 1 Å
_SEARCH = 3  # cells: how far the second field may have shifted
_SURE = 20.0  # how much more −2 log-likelihood a shift must explain to be believed
_FEWEST = 9  # cells in common
_LEAST_TURN = 20.0  # degrees


def affine_from_pair(
    first: Measurement, second: Measurement, *, rotation: float = 90.0, fast_axis: str = "x"
) -> xr.Dataset:
    """Drift and true lattice from two frames whose scans are turned against each other.

    Parameters
    ----------
    first, second : Measurement
        As recorded, not corrected: what jitter does to the mean lattice must stay in its error. Same line
        time and steps.
    rotation : float
        Of the second scan against the first, degrees, from x towards y (clockwise, since y points down): the
        second image's +x runs along this direction of the first.
    fast_axis : {"x", "y"}
        Of both images.

    Returns
    -------
    xr.Dataset
        In the first image's axes: ``drift`` of the specimen per length of slow scan (pm/nm) and per line
        (pm), ``lattice`` (Å; vectors a and b of the first frame without drift), ``lengths``, ``ratio`` b/a
        and ``angle``, each with its error; ``rotation_error`` (degrees), found beside the drift; ``misfit``,
        χ² of the one degree of freedom that is left (large when the drift changed, a scale differs, or
        `rotation` has the wrong sign).

    Raises
    ------
    ImageError
        The frames do not fit together or are corrected already, or `rotation` leaves drift undetermined.
    """
    return _affine(first, second, rotation, fast_axis)[0]


def correct_pair(
    first: Measurement, second: Measurement, *, rotation: float = 90.0, fast_axis: str = "x"
) -> xr.Dataset:
    """Cells seen in both frames, without jitter and linear drift, averaged.

    Parameters
    ----------
    first, second, rotation, fast_axis
        As for `affine_from_pair`; the middles of both images show the same place, within three cells.

    Returns
    -------
    xr.Dataset
        dims ``cell``, in the first image's axes and indices: ``x``, ``y``, ``d`` and ``d_cov`` (mean weighted by
        the inverse covariances), ``d_difference`` (second − first) and its covariance, ``vector_a``, ``vector_b``,
        ``area``, ``angle``, ``intensity_a``, ``intensity_b``, ``flag``; the drift and what the field
        shifted between the frames in the attributes.

    Raises
    ------
    ImageError
        As `affine_from_pair`, or fewer than nine cells are in both.
    """
    affine, pair = _affine(first, second, rotation, fast_axis)
    one, two = (
        _in_first_axes(correct_distortion(measurement, scan), matrix, index)
        for measurement, scan, matrix, index in zip(
            (first, second), pair.scans, pair.matrices, (np.eye(2), pair.index), strict=True
        )
    )
    one, two, shift = _matched(one, two)
    weights: list[Floats] = [np.asarray(np.linalg.inv(frame.d_cov)) for frame in (one, two)]
    d_cov: Floats = np.asarray(np.linalg.inv(weights[0] + weights[1]))
    d = _times(d_cov, _times(weights[0], one.d) + _times(weights[1], two.d))
    middle = [float(first.image[axis].mean()) for axis in AXES]
    # The frames agree on where cells are but for the drift between them: keep the first one's place.
    between = (two.place - one.place).mean(0)
    place = 0.5 * (one.place + two.place - between) + middle
    vectors = np.where(np.isnan(one.vectors), two.vectors, one.vectors)
    vectors = 0.5 * (vectors + np.where(np.isnan(two.vectors), vectors, two.vectors))
    va, vb = vectors[:, 0], vectors[:, 1]
    cross = va[:, 0] * vb[:, 1] - va[:, 1] * vb[:, 0]
    pm, intensity = (
        {"units": "pm", "convention": SIGN_CONVENTION},
        {"units": "1", "note": "mean of both frames"},
    )
    cell, covariance = ("cell",), ("cell", "component", "component_2")
    data = {
        "x": (cell, place[:, 0], {"units": "Å", "long_name": "position of the B column"}),
        "y": (cell, place[:, 1], {"units": "Å", "long_name": "position of the B column", "direction": "down"}),
        "a": (cell, one.index[:, 0].astype(np.int32), {"units": "1", "long_name": "lattice index of the first frame"}),
        "b": (cell, one.index[:, 1].astype(np.int32), {"units": "1", "long_name": "lattice index of the first frame"}),
        "d": (("cell", "component"), d, pm),
        "d_cov": (covariance, d_cov, {"units": "pm2", "note": "of the mean weighted by both frames' covariances"}),
        "d_difference": (("cell", "component"), two.d - one.d, pm | {"long_name": "second - first"}),
        "d_difference_cov": (covariance, one.d_cov + two.d_cov, {"units": "pm2"}),
        "vector_a": (("cell", "component"), va, {"units": "Å"}),
        "vector_b": (("cell", "component"), vb, {"units": "Å"}),
        "area": (cell, np.abs(cross), {"units": "Å2"}),
        "angle": (cell, np.degrees(np.arctan2(np.abs(cross), (va * vb).sum(1))), {"units": "degree"}),
        "intensity_a": (cell, 0.5 * (one.intensity + two.intensity)[:, 0], intensity),
        "intensity_b": (cell, 0.5 * (one.intensity + two.intensity)[:, 1], intensity),
        "flag": (cell, one.flag | two.flag, first.unit_cells["flag"].attrs),
    }  # fmt: skip
    attrs = {
        "convention": SIGN_CONVENTION,
        "scan_correction": "jitter of scan lines and linear drift taken off, mean of two frames",
        "rotation_degree": float(rotation),
        "drift_pm_per_nm": affine["drift"].values.tolist(),
        "misfit": float(affine["misfit"]),
        "shift_between_frames_angstrom": between.tolist(),
        "shift_in_cells": shift.tolist(),
    }
    coords = {
        name: (name, np.array(AXES, dtype=object), {"units": "1"}) for name in ("component", "component_2")
    }
    return xr.Dataset(data, coords, attrs)


@dataclass(frozen=True)
class _Pair:
    """What brings both frames to the first one's axes and indices."""

    scans: tuple[xr.Dataset, xr.Dataset]
    matrices: tuple[Floats, Floats]  # recorded -> undrifted, each (2, 2)
    index: Floats  # (2, 2): index in the first = this @ index in the second


@dataclass(frozen=True)
class _Cells:
    """Rows of a cell table, in the first frame's axes and indices."""

    index: NDArray[np.int64]
    place: Floats  # Å, from the middle of the image
    d: Floats
    d_cov: Floats
    vectors: Floats
    intensity: Floats
    flag: NDArray[np.uint8]

    def take(self, rows: NDArray[np.int64]) -> _Cells:
        """Those rows only."""
        return _Cells(*(getattr(self, field.name)[rows] for field in fields(self)))


def _affine(
    first: Measurement, second: Measurement, rotation: float, fast_axis: str
) -> tuple[xr.Dataset, _Pair]:
    if not abs((rotation + 180) % 360 - 180) >= _LEAST_TURN:  # nor NaN
        raise ImageError(
            f"rotation={rotation:g} tells nothing of the drift; give the degrees, best near 90, between the scans."
        )
    for name, measurement in (("first", first), ("second", second)):
        if "scan_correction" in measurement.columns.attrs:
            raise ImageError(f"{name}: is corrected already; pass the measurement from measure.")
    steps = pixel_sizes(first.image), pixel_sizes(second.image)
    if not np.allclose(steps[0], steps[1], rtol=1e-4):
        raise ImageError(
            f"second: has pixels of {steps[1][0]:.5g} × {steps[1][1]:.5g} Å, the first {steps[0][0]:.5g} × "
            f"{steps[0][1]:.5g} Å; measure both with one pixel_size."
        )
    scans = scan_distortion(first, fast_axis=fast_axis), scan_distortion(second, fast_axis=fast_axis)
    # As matrices with the vectors in columns.
    seen = [scan["lattice"].transpose("component", "vector").values for scan in scans]
    index = np.linalg.solve(seen[0], _turn(rotation) @ seen[1])
    whole = np.rint(index)
    if np.abs(index - whole).max() > 0.2 or abs(abs(np.linalg.det(whole)) - 1) > 0.1:
        raise ImageError(
            f"second: its lattice is not the first's turned by {rotation:g}°; check rotation (degrees, from x towards y)."
        )
    slow = np.array([0.0, 1.0]) if fast_axis == "x" else np.array([1.0, 0.0])
    cov = block_diag(*(block for scan in scans for block in scan["lattice_cov"].values))
    whiten = np.linalg.inv(np.linalg.cholesky(cov))

    def matrices(parameters: Floats) -> tuple[Floats, Floats]:
        drift, turned = np.outer(parameters[4:6], slow), _turn(rotation + np.degrees(parameters[6]))
        return np.eye(2) - drift, turned - drift

    def misfit(parameters: Floats) -> Floats:
        true = parameters[:4].reshape(2, 2)
        one, two = matrices(parameters)
        expected = np.linalg.solve(one, true), np.linalg.solve(two, true @ whole)
        return whiten @ np.concatenate([(e - s).ravel() for e, s in zip(expected, seen, strict=True)])

    found = least_squares(
        misfit, np.append(seen[0].ravel(), np.zeros(3)), x_scale="jac", xtol=1e-12, ftol=1e-12
    )
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    step = steps[0][1 if fast_axis == "x" else 0]
    return _affine_dataset(found.x, covariance, 2 * float(found.cost), step, rotation), _Pair(
        scans, matrices(found.x), whole
    )


def _affine_dataset(
    found: Floats, covariance: Floats, misfit: float, step: float, rotation: float
) -> xr.Dataset:
    def shape(flat: Floats) -> Floats:
        a, b = flat.reshape(2, 2).T
        length = np.hypot(*a), np.hypot(*b)
        angle = np.degrees(np.arctan2(abs(a[0] * b[1] - a[1] * b[0]), a @ b))
        return np.array([*length, length[1] / length[0], angle])

    metric, metric_cov = propagated(shape, found[:4], covariance[:4, :4])
    sem, metric_sem = np.sqrt(np.diagonal(covariance)), np.sqrt(np.diagonal(metric_cov))
    component, vector = ("component",), ("vector",)
    per_length, pm, angstrom, degree, one = ({"units": u} for u in ("pm/nm", "pm", "Å", "degree", "1"))
    data = {
        "drift": (component, found[4:6] * 1e3, per_length | {"long_name": "of the specimen, per length of slow scan"}),
        "drift_sem": (component, sem[4:6] * 1e3, per_length),
        "drift_cov": (("component", "component_2"), covariance[4:6, 4:6] * 1e6, {"units": "pm2/nm2"}),
        "drift_per_line": (component, found[4:6] * step * _PM, pm | {"note": "divide by the line time for a velocity"}),
        "drift_per_line_sem": (component, sem[4:6] * step * _PM, pm),
        "lattice": (("vector", "component"), found[:4].reshape(2, 2).T, angstrom | {"long_name": "without drift"}),
        "lattice_sem": (("vector", "component"), sem[:4].reshape(2, 2).T, angstrom),
        "lengths": (vector, metric[:2], angstrom),
        "lengths_sem": (vector, metric_sem[:2], angstrom),
        "ratio": ((), metric[2], one | {"long_name": "b / a"}),
        "ratio_sem": ((), metric_sem[2], one),
        "angle": ((), metric[3], degree | {"long_name": "between a and b"}),
        "angle_sem": ((), metric_sem[3], degree),
        "rotation_error": ((), float(np.degrees(found[6])), degree | {"long_name": "true rotation - stated"}),
        "rotation_error_sem": ((), float(np.degrees(sem[6])), degree),
        "misfit": ((), misfit, one | {"long_name": "chi2 of one degree of freedom"}),
    }  # fmt: skip
    names = {"component": AXES, "component_2": AXES, "vector": ("a", "b")}
    coords = {key: (key, np.array(value, dtype=object), {"units": "1"}) for key, value in names.items()}
    attrs = {"rotation_degree": float(rotation), "directions": "x right, y down, of the first image"}
    return xr.Dataset(data, coords, attrs)


def _turn(degrees: float) -> Floats:
    """Rotation from x towards y."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


def _times(matrices: Floats, vectors: Floats) -> Floats:
    return np.asarray(np.einsum("nij,nj->ni", matrices, vectors))


def _in_first_axes(measurement: Measurement, matrix: Floats, index: Floats) -> _Cells:
    cells = measurement.unit_cells
    middle = np.array([float(measurement.image[axis].mean()) for axis in AXES])
    own = np.stack([cells["a"].values, cells["b"].values], 1)
    vectors = np.stack([cells["vector_a"].values, cells["vector_b"].values], 1) @ matrix.T
    return _Cells(
        np.rint(own @ index.T).astype(int),
        (np.stack([cells["x"].values, cells["y"].values], 1) - middle) @ matrix.T,
        cells["d"].values @ matrix.T,
        matrix @ cells["d_cov"].values @ matrix.T,
        np.einsum("ji,njc->nic", np.linalg.inv(index), vectors),
        np.stack([cells["intensity_a"].values, cells["intensity_b"].values], 1),
        cells["flag"].values,
    )


def _matched(one: _Cells, two: _Cells) -> tuple[_Cells, _Cells, NDArray[np.int64]]:
    """Cells that both frames have, and by how many cells the second field had shifted.

    A lattice looks alike after any whole step: among those near the middle, the one at which d and intensities
    agree best is taken, if they tell it at all.
    """
    design = np.column_stack([np.ones(len(one.index)), one.index])
    origin, *vectors = np.linalg.lstsq(design, one.place, rcond=None)[0]
    away = (two.place - two.index @ np.array(vectors)).mean(0) - origin
    middle = np.rint(np.linalg.solve(np.array(vectors).T, away)).astype(int)
    span = np.arange(-_SEARCH, _SEARCH + 1)
    steps = np.stack(np.meshgrid(span, span), -1).reshape(-1, 2)
    pairs = [_overlap(one.index, two.index + middle + step) for step in steps]
    likeness = np.array([_likeness(one.take(rows), two.take(others)) for rows, others in pairs])
    still = int(np.flatnonzero((steps == 0).all(1))[0])
    best = int(np.argmax(likeness))
    chosen = best if likeness[best] > likeness[still] + _SURE else still
    rows, others = pairs[chosen]
    if len(rows) < _FEWEST:
        raise ImageError(
            f"second: has {len(rows)} cells in common with the first; give frames of the same area."
        )
    return one.take(rows), two.take(others), steps[chosen]


def _overlap(one: NDArray[np.int64], two: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    low = np.minimum(one.min(0), two.min(0))
    width = int(max(one[:, 1].max(), two[:, 1].max()) - low[1] + 1)
    keys = [(index - low) @ [width, 1] for index in (one, two)]
    _, rows, others = np.intersect1d(*keys, return_indices=True)
    return rows, others


def _likeness(one: _Cells, two: _Cells) -> float:
    """Log-likelihood gain (times two) of taking d and intensities as correlated."""
    good = (one.flag == 0) & (two.flag == 0)
    if good.sum() < _FEWEST:
        return 0.0
    total = 0.0
    for a, b in zip(np.hstack([one.d, one.intensity]).T, np.hstack([two.d, two.intensity]).T, strict=True):
        a, b = a[good] - a[good].mean(), b[good] - b[good].mean()
        size = np.sqrt((a @ a) * (b @ b))
        if size > 0 and a @ b > 0:
            total -= float(good.sum() * np.log(max(1 - (a @ b / size) ** 2, 1e-9)))
    return total
