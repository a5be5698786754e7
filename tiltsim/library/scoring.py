"""Scores of many states, and their derivatives, from a table of spline coefficients."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiltsim.library import splines


@njit(cache=True, nogil=True)
def _through_nodes(s: float, derivative: bool, weights: NDArray[np.float64]) -> None:
    """Weights of the nodes −n … n of the polynomial through all of them at ``s``, or those of its derivative."""
    side = len(weights)
    half = side // 2
    for i in range(side):
        total = 0.0
        for k in range(side):
            if derivative and k == i:
                continue
            product = 1.0
            for m in range(side):
                if m != i and not (derivative and m == k):
                    product *= (s - (m - half)) / (i - m)
            if derivative:
                total += product / (i - k)
            else:
                total = product
        weights[i] = total


@njit(cache=True, nogil=True)
def score(
    table: NDArray[np.float32], places: NDArray[np.float64], material: NDArray[np.int64], wanted: NDArray[np.int64],
    result: NDArray[np.float32],
) -> None:  # fmt: skip
    """Scores of states, and their derivatives.

    Parameters
    ----------
    table : ndarray (row, tilt_x + 2, tilt_y + 2, cells + 2, mode)
        Rows are the nodes of d, Sm and SrTiO3.
    places : ndarray (state, 6)
        In steps between nodes (tilt_x, tilt_y, cells, d_x, d_y, samarium).
    material : ndarray (state,)
    wanted : ndarray (k,)
        −1 for the scores, else the place to differentiate by.
    result : ndarray (k, state, mode)
        Is filled.
    """
    rows, nx, ny, nz, modes = table.shape
    value, slope = np.empty((3, 4)), np.empty((3, 4))
    first = np.empty(3, np.int64)
    sizes = (nx - 2, ny - 2, nz - 2)
    samarium, null = rows - 2, rows - 1
    side = int(np.sqrt(samarium) + 0.5)
    across, along = np.empty((2, side)), np.empty((2, side))
    # Of every row: the scores, and their derivatives by tilt_x, tilt_y and cells, where they are wanted.
    local = np.zeros((4, rows, modes), np.float32)
    needed = np.zeros(4, np.bool_)
    for which in wanted:
        needed[which + 1 if 0 <= which < 3 else 0] = True
    known, begin, end = -1, 0, 0
    for n in range(places.shape[0]):
        begin, end = (0, null) if material[n] == 0 else (null, null + 1)
        same = known == material[n]
        if same:
            for axis in range(3):
                same = same and places[n, axis] == places[n - 1, axis]
        if not same:  # neighbours often share tilt and thickness
            known = material[n]
            for axis in range(3):
                first[axis] = splines.weights(places[n, axis], sizes[axis], value[axis], slope[axis])
            local[:, begin:end] = 0.0
            for row in range(begin, end):
                for i in range(4):
                    for j in range(4):
                        for k in range(4):
                            source = table[row, first[0] + i, first[1] + j, first[2] + k]
                            for q in range(4):
                                if not needed[q]:
                                    continue
                                x = slope[0, i] if q == 1 else value[0, i]
                                y = slope[1, j] if q == 2 else value[1, j]
                                z = slope[2, k] if q == 3 else value[2, k]
                                weight = np.float32(x * y * z)
                                for m in range(modes):
                                    local[q, row, m] += weight * source[m]
        for axis in range(2):
            _through_nodes(places[n, 3 + axis], False, across[axis])
            _through_nodes(places[n, 3 + axis], True, along[axis])
        for number, which in enumerate(wanted):
            mine = local[which + 1 if 0 <= which < 3 else 0]
            out = result[number, n]
            out[:] = 0.0
            if begin == null:
                if which < 3:
                    out[:] = mine[null]
                continue
            if which != 5:
                for i in range(side):
                    for j in range(side):
                        x = along[0, i] if which == 3 else across[0, i]
                        y = along[1, j] if which == 4 else across[1, j]
                        weight = np.float32(x * y)
                        for m in range(modes):
                            out[m] += weight * mine[side * i + j, m]
            if which < 3 or which == 5:
                weight = np.float32(1.0 if which == 5 else places[n, 5])
                if weight != 0.0:
                    for m in range(modes):
                        out[m] += weight * mine[samarium, m]
