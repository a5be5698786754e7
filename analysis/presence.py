"""Is there a column where the A columns around expect one?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .maxima import Maxima

Floats = NDArray[np.float64]

_REACH = 0.3  # of the A-B distance: how far a displaced column may be from its place
_RING = 0.5  # of the same: where what surrounds a column is measured
_POINTS = 12  # on that ring
_INNER = 0.25  # of the same: where the width of A columns is measured
_AROUND = 25  # columns that say how bright one should be
_ENOUGH = 0.4  # of that: there is a column
_CLEAR = 0.01  # of the A columns: where most stand out by less, brightness says nothing
_TAIL = 1.6  # A-B distances after which an A column's tail is neglected


def present(
    maxima: Maxima, a_position: Floats, guess: Floats, reference: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which expected columns stand out from what the A columns around leave there.

    Parameters
    ----------
    maxima : Maxima
    a_position : (m, 2) array
        Of the A columns found, px.
    guess : (n, 2) array
        Where columns are expected, px.
    reference : (n,) bool array
        Those in the middle of whole cells, of which most are there: how bright the others should be.

    Returns
    -------
    (n,) bool array
        All of them where the columns are too faint to tell.
    """
    if not reference.any():
        return np.ones(len(guess), bool)
    gap, row = maxima.tree.query(guess, distance_upper_bound=_REACH * maxima.near)
    own = np.where(
        np.isfinite(gap)[:, None], maxima.position[np.minimum(row, len(maxima.position) - 1)], guess
    )
    sigma = _width(maxima, a_position)
    rise = _rise(maxima, own) - _tails(maxima, a_position, own, sigma)
    a_rise = _rise(maxima, a_position)
    typical = rise[reference]
    tree = KDTree(guess[reference])
    around = tree.query(guess, min(_AROUND, len(typical)))[1].reshape(len(guess), -1)
    usual = np.median(typical[around], 1)
    if np.median(typical) < _CLEAR * np.median(a_rise):
        return np.ones(len(guess), bool)
    return np.asarray(rise > _ENOUGH * usual)


def _rise(maxima: Maxima, position: Floats) -> Floats:
    """Height above the mean of a ring around."""
    angle = 2 * np.pi * np.arange(_POINTS) / _POINTS
    ring = _RING * maxima.near * np.stack([np.cos(angle), np.sin(angle)], 1)
    return maxima.sampled(maxima.smooth, position) - maxima.sampled(
        maxima.smooth, position[:, None] + ring
    ).mean(1)


def _width(maxima: Maxima, a_position: Floats) -> float:
    """Standard deviation of the smoothed A columns, px."""
    angle = 2 * np.pi * np.arange(_POINTS) / _POINTS
    ring = _INNER * maxima.near * np.stack([np.cos(angle), np.sin(angle)], 1)
    top = maxima.sampled(maxima.relief, a_position)
    side = maxima.sampled(maxima.relief, a_position[:, None] + ring).mean(1)
    fall = float(np.median(np.clip(side / np.maximum(top, 1e-12), 0.05, 0.95)))
    return _INNER * maxima.near / np.sqrt(-2 * np.log(fall))


def _tails(maxima: Maxima, a_position: Floats, position: Floats, sigma: float) -> Floats:
    """What the A columns around add to the rise at places between them."""
    height = maxima.sampled(maxima.relief, a_position)
    tree = KDTree(a_position)
    count = min(6, len(a_position))
    distance, row = tree.query(position, count, distance_upper_bound=_TAIL * maxima.near)
    distance, row = (part.reshape(len(position), -1) for part in (distance, row))
    there = np.isfinite(distance)
    distance = np.where(there, distance, 0.0)
    angle = 2 * np.pi * np.arange(_POINTS) / _POINTS
    radius = _RING * maxima.near
    squares = distance[..., None] ** 2 + radius**2 + 2 * distance[..., None] * radius * np.cos(angle)
    tail = np.exp(-0.5 * distance**2 / sigma**2) - np.exp(-0.5 * squares / sigma**2).mean(-1)
    tail *= height[np.minimum(row, len(height) - 1)]
    return np.where(there, tail, 0.0).sum(1)
