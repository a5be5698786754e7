"""Cubic splines on evenly spaced nodes: twice differentiable, four coefficients at a time."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def coefficients(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Coefficients of the B-splines whose sum passes through ``values`` along ``axis``: two more than values.

    At the ends the third derivative is continuous across the last node but one ("not a knot"), so that cubics are
    reproduced exactly.
    """
    n = values.shape[axis]
    system = np.zeros((n + 2, n + 2))
    for i in range(n):
        system[i, i : i + 3] = 1 / 6, 4 / 6, 1 / 6
    ends = np.array([-1.0, 4.0, -6.0, 4.0, -1.0])
    system[n, :5], system[n + 1, -5:] = ends, ends
    inverse = np.linalg.inv(system)[:, :n]
    return np.moveaxis(np.tensordot(inverse, values, (1, axis)), 0, axis)


@njit(cache=True, nogil=True)
def weights(place: float, nodes: int, value: NDArray[np.float64], slope: NDArray[np.float64]) -> int:
    """Weights of the four coefficients that matter at ``place`` (in steps from the first node), and their slopes.

    Returns the index of the first of them; ``place`` must lie within 0 to ``nodes`` − 1.
    """
    first = min(max(int(np.floor(place)), 0), nodes - 2)
    t = place - first
    s = 1.0 - t
    value[0] = s * s * s / 6.0
    value[1] = (4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0
    value[2] = (4.0 - 6.0 * s * s + 3.0 * s * s * s) / 6.0
    value[3] = t * t * t / 6.0
    slope[0] = -s * s / 2.0
    slope[1] = (3.0 * t * t - 4.0 * t) / 2.0
    slope[2] = (4.0 * s - 3.0 * s * s) / 2.0
    slope[3] = t * t / 2.0
    return first
