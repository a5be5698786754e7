"""Where the fit of the columns of an image begins, and within which bounds."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import KDTree

from . import population
from .growth import Sites
from .sweeps import Ghosts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Radius of the fit windows, in median standard deviations of a kind, and its bounds in A-B distances. Where
#: columns overlap by more than ``_CROWDED`` (the wider kind's standard deviation in A-B distances), a wide window would show more of the
#: misfit of its neighbours than of its own column: the upper bound comes down to ``COVERED``.
WINDOW_SIGMAS, WINDOW_BOUNDS = 3.0, (0.4, 0.75)
#: Radius within which a column needs data, in A-B distances.
COVERED = 0.5

_CROWDED, _NARROWING = 0.245, 8.0  # and by how much it comes down for each standard deviation beyond
_DEEPEST = 0.2  # of the local contrast: how far a background may lie under the darkest pixel
_WIDEST = 0.6  # standard deviation, in A-B distances
_SAME = 0.35  # of the A-B distance: an earlier column so near is the same one


def ghosts_of(sites: Sites, inside: Ints) -> Ghosts:
    """Columns beyond the border, each modelled on the nearest of the columns `inside`."""
    ghost = np.flatnonzero(~sites.inside)
    row_of = np.full(len(sites.inside), -1)
    row_of[inside] = np.arange(len(inside))
    model = sites.neighbour[ghost]
    return Ghosts(row_of[model], (sites.index[ghost] - sites.index[model]) @ sites.vectors)


def radii(parameters: Floats, kind: Ints, near: float, window: float | None) -> Floats:
    """Of the windows, px; `window` in A-B distances, or None for what suits the columns' widths."""
    if window is not None:
        return np.full(len(parameters), max(window * near, 2.0))
    sigma = population.widths(parameters, kind)
    low, most = (bound * near for bound in WINDOW_BOUNDS)
    high = np.clip(most - _NARROWING * (sigma.max() - _CROWDED * near), COVERED * near, most)
    return np.maximum(np.clip(WINDOW_SIGMAS * sigma, low, high), 2.0)


def first_guess(values: Floats, position: Floats, near: float) -> tuple[Floats, Floats, Floats]:
    """First guess and bounds.

    Where columns overlap, wider columns on a lower background fit nearly as well: hence bounds tied to the
    local contrast.
    """
    darkest, brightest, peak = _extremes(values, position, near, 0.35 * near)
    contrast = np.maximum(brightest - darkest, np.finfo(float).tiny)
    start = np.empty((len(position), 7))
    start[:, 0] = np.maximum(peak - darkest, 0.05 * contrast)
    start[:, 1] = darkest
    start[:, 2:4] = position
    start[:, 4] = start[:, 6] = 1.0 / (0.2 * near)
    start[:, 5] = 0.0
    lower, upper = start.copy(), start.copy()
    lower[:, 0], upper[:, 0] = -contrast, 2 * contrast
    lower[:, 1], upper[:, 1] = darkest - _DEEPEST * contrast, brightest
    lower[:, 2:4] -= 0.5 * near
    upper[:, 2:4] += 0.5 * near
    lower[:, [4, 6]], upper[:, [4, 6]] = 1 / (_WIDEST * near), 1 / 0.4
    lower[:, 5], upper[:, 5] = -1 / 0.4, 1 / 0.4
    return start, lower, upper


@njit(cache=True, nogil=True)
def _extremes(values: Floats, position: Floats, radius: float, inner: float) -> tuple[Floats, Floats, Floats]:
    """Darkest and brightest pixel within `radius` of every position, and the brightest within `inner`."""
    ny, nx = values.shape
    darkest, brightest = np.full(len(position), np.inf), np.full(len(position), -np.inf)
    peak = np.full(len(position), -np.inf)
    for n in range(len(position)):
        x0, y0 = position[n]
        for y in range(max(math.ceil(y0 - radius), 0), min(math.floor(y0 + radius), ny - 1) + 1):
            for x in range(max(math.ceil(x0 - radius), 0), min(math.floor(x0 + radius), nx - 1) + 1):
                value, distance = values[y, x], (x - x0) ** 2 + (y - y0) ** 2
                if distance > radius**2 or not math.isfinite(value):
                    continue
                darkest[n], brightest[n] = min(darkest[n], value), max(brightest[n], value)
                if distance <= inner**2:
                    peak[n] = max(peak[n], value)
        if not math.isfinite(peak[n]):
            peak[n] = brightest[n]
    return darkest, brightest, peak


def carried(guess: Floats, kind: Ints, earlier: Floats, earlier_kind: Ints, near: float) -> Floats:
    """The guess with what an earlier image says about the same columns, moved by the common drift."""
    result = guess.copy()
    drift = np.zeros(2)
    # A before B: where a B column is expected knows nothing yet of its displacement, so A gives the drift.
    for each in np.unique(kind):
        good = earlier[earlier_kind == each]
        here = np.flatnonzero(kind == each)
        if len(good) == 0:
            continue
        model = good[KDTree(good[:, 2:4]).query(guess[here, 2:4] - drift)[1]]
        gap = guess[here, 2:4] - model[:, 2:4]
        if each == 0:
            drift = np.median(gap, 0)
        # At a border, the nearest earlier column may be another one: it still has the right shape.
        same = np.hypot(*(gap - drift).T) < _SAME * near
        result[here] = model
        result[here, 2:4] = np.where(same[:, None], model[:, 2:4] + drift, guess[here, 2:4])
    return result
