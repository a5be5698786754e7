"""Straight lines through many short series at once, with gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def fit_lines(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Least-squares slope and value at x = 0 of every series.

    Parameters
    ----------
    x : (n,) array
    y : (..., n) array
        NaN marks points that are not known.

    Returns
    -------
    slope, zero : (...) arrays
        NaN for a series with fewer than two different x. A single point at x = 0 still gives `zero`.
    """
    known = np.isfinite(y)
    count = known.sum(-1)
    safe = np.maximum(count, 1)
    filled = np.where(known, y, 0.0)
    mean_x = (known * x).sum(-1) / safe
    mean_y = filled.sum(-1) / safe
    dx = np.where(known, x - mean_x[..., None], 0.0)
    spread = (dx**2).sum(-1)
    two = spread > 1e-12
    slope = np.divide((dx * filled).sum(-1), spread, out=np.full(mean_y.shape, np.nan), where=two)
    only_zero = (count > 0) & (np.abs(mean_x) < 1e-12)
    zero = np.where(two, mean_y - np.nan_to_num(slope) * mean_x, np.where(only_zero, mean_y, np.nan))
    return slope, zero
