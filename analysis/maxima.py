"""Intensity maxima that may be columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from .errors import ImageError
from .lattice import Lattice
from .patches import binned, despiked, flattened

Floats = NDArray[np.float64]

_FINE = 7.0  # px of the coarser image between neighbouring columns: enough to see them apart
_SMOOTH = 0.15  # of that distance: about the width of a column, which is what noise is best suppressed with
_SEPARATION = 0.3  # of that distance: of two nearer maxima the lower is dropped
_FLAT = 1e-6  # of the range: what rises less is a plateau


@dataclass(frozen=True)
class Maxima:
    """Maxima of the smoothed image, and that image.

    Attributes
    ----------
    position : (n, 2) array
        (x, y), px of the full image.
    height : (n,) array
        Above the darkest place within about a cell, which slow changes of background do not alter.
    near : float
        Shortest distance between columns, px.
    smooth, relief : (my, mx) arrays
        Smoothed image, and its height above the darkest place around, `factor` times coarser.
    factor : int
    valid : (my, mx) bool array
        Where the image has data.
    """

    position: Floats
    height: Floats
    near: float
    smooth: Floats
    relief: Floats
    factor: int
    valid: NDArray[np.bool_]

    @cached_property
    def tree(self) -> KDTree:
        """Of the positions."""
        return KDTree(self.position)

    def sampled(self, image: Floats, position: Floats) -> Floats:
        """Values (…) of `smooth` or `relief` at positions (…, 2), px; the border's value beyond it."""
        at = (position - 0.5 * (self.factor - 1)) / self.factor
        rows, columns = at[..., 1].ravel(), at[..., 0].ravel()
        values = ndimage.map_coordinates(image, [rows, columns], order=1, mode="nearest")
        return np.asarray(values).reshape(position.shape[:-1])

    def holds_data(self, position: Floats) -> NDArray[np.bool_]:
        """Whether the image has data at positions (…, 2), px."""
        at = np.rint((position - 0.5 * (self.factor - 1)) / self.factor).astype(int)
        limit = np.array(self.valid.shape[::-1])
        inside = ((at >= 0) & (at < limit)).all(-1)
        at = np.clip(at, 0, limit - 1)
        return np.asarray(inside & self.valid[at[..., 1], at[..., 0]])


def find_maxima(values: Floats, lattice: Lattice) -> Maxima:
    """Maxima of an image, at the scale of a lattice.

    Parameters
    ----------
    values : (ny, nx) array
        NaN marks pixels without data.
    lattice : Lattice
        px.

    Raises
    ------
    ImageError
        There are none.
    """
    near, cell = lattice.neighbour_distance, float(np.sqrt(lattice.area))
    factor = max(1, int(near / _FINE))
    coarse = binned(despiked(values), factor)
    flat = flattened(coarse, 1.5 * cell / factor)
    valid = np.isfinite(flat)
    filled = np.where(valid, flat, 0.0).astype(np.float32)
    smooth = ndimage.gaussian_filter(filled, max(_SMOOTH * near / factor, 0.6), truncate=3.0)
    relief = smooth - ndimage.minimum_filter(smooth, size=max(3, int(cell / factor)))
    size = 2 * max(1, int(_SEPARATION * near / factor)) + 1
    top = (smooth == ndimage.maximum_filter(smooth, size=size)) & valid
    top &= relief > _FLAT * (float(smooth.max()) - float(smooth.min()))
    rows, columns = np.nonzero(top)
    if len(rows) == 0:
        raise ImageError("image: shows no intensity maxima; give an atomically resolved image.")
    y = rows + _vertex(smooth, rows, columns, 0)
    x = columns + _vertex(smooth, rows, columns, 1)
    position = np.stack([x, y], 1) * factor + 0.5 * (factor - 1)
    return Maxima(position, relief[rows, columns].astype(float), near, smooth, relief, factor, valid)


def _vertex(image: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64], axis: int) -> Floats:
    """Of the parabola through three pixels along an axis, relative to the middle one."""
    limit = image.shape[axis] - 1
    at = [rows, columns]
    before, after = at.copy(), at.copy()
    before[axis] = np.maximum(at[axis] - 1, 0)
    after[axis] = np.minimum(at[axis] + 1, limit)
    low, here, high = (image[tuple(place)].astype(float) for place in (before, at, after))
    curvature = low - 2 * here + high
    inner = (at[axis] > 0) & (at[axis] < limit) & (curvature < 0)
    return np.where(inner, 0.5 * (low - high) / np.where(inner, curvature, -1.0), 0.0)
