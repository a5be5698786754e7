"""Fold the image of a uniform crystal into one cell, keeping every electron where it fell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tiltsim.errors import SettingsError

Floats = NDArray[np.float64]

#: Farthest that a cell may lie from its place on the lattice, as a share of an edge.
_ASTRAY = 0.25


@dataclass(frozen=True, eq=False)
class Grating:
    """Where the cells of a uniform crystal are.

    Parameters
    ----------
    origin : (float, float)
        A B column, Å.
    frame : ndarray, shape (2, 2)
        Columns: one cell along the lattice's x and y, Å.
    """

    origin: tuple[float, float]
    frame: Floats

    @property
    def angle(self) -> float:
        """Of the lattice against the image, rad, from x towards y."""
        m = self.frame
        return float(np.arctan2(m[1, 0] - m[0, 1], m[0, 0] + m[1, 1]))

    def turned(self, vector: Floats) -> Floats:
        """Components (…, 2) along the image's axes of what is given along the lattice's."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.stack(
            [c * vector[..., 0] - s * vector[..., 1], s * vector[..., 0] + c * vector[..., 1]], -1
        )


@dataclass(frozen=True, eq=False)
class Folded:
    """Counts of many cells in the bins of one.

    Parameters
    ----------
    counts : ndarray, shape (n, n)
        Electrons detected in bins k / n of a cell (y, x), the corner nearest to an A column at 0.
    electrons : ndarray, shape (n, n)
        Incident there; 0 where no pixel fell.
    offset : ndarray, shape (2, n, n)
        Mean place (x, y) of a bin's pixels relative to its middle, cells.
    grating : Grating
    cells : float
        Area that the pixels cover, in cells.
    """

    counts: Floats
    electrons: Floats
    offset: Floats
    grating: Grating
    cells: float


def grating(xy: Floats) -> Grating:
    """The lattice on which the B columns ``xy`` (n, 2), Å, of a uniform crystal lie.

    Raises
    ------
    SettingsError
        If fewer than 3 × 3 cells are given, or they lie on no lattice within 40° of the image's axes.
    """
    xy = np.asarray(xy, dtype=float)
    if len(xy) < 9:
        raise SettingsError(f"cells: {len(xy)} are too few to tell the lattice; give at least 3 × 3.")
    middle = int(np.argmin(((xy - xy.mean(0)) ** 2).sum(1)))
    between = xy[None] - xy[:, None]
    length = np.hypot(between[..., 0], between[..., 1]) + np.where(np.eye(len(xy)), np.inf, 0.0)
    edge = float(np.median(length.min(axis=1)))
    near = between[length < 1.25 * edge]
    frame = np.empty((2, 2))
    for axis in (0, 1):
        along = near[near[:, axis] > np.abs(near[:, 1 - axis])]
        if not len(along):
            raise SettingsError("cells: they lie on no square lattice along the image's axes.")
        frame[:, axis] = np.median(along, axis=0)
    origin = xy[middle]
    for _ in range(3):  # indices that are off far from the middle come right as the frame does
        index = (xy - origin) @ np.linalg.inv(frame).T
        whole = np.round(index)
        good = np.abs(index - whole).max(axis=1) < _ASTRAY
        design = np.column_stack([np.ones(good.sum()), whole[good]])
        if good.sum() < 9 or np.linalg.matrix_rank(design) < 3:
            raise SettingsError("cells: they lie on no square lattice along the image's axes.")
        solution = np.linalg.lstsq(design, xy[good], rcond=None)[0]
        origin, frame = solution[0], solution[1:].T
    return Grating((float(origin[0]), float(origin[1])), frame)


def electrons_of(image: xr.DataArray) -> tuple[Floats, float]:
    """Electrons detected in every pixel, and incident on one.

    Parameters
    ----------
    image : DataArray (y, x)
        From :func:`tiltsim.synthesize` or :func:`tiltsim.apply_dose`: with ``dose_per_A2``, and for counts
        ``counts_per_fraction`` and ``black_level``.

    Raises
    ------
    SettingsError
        If the image does not say its dose, or has none.
    """
    dose = float(image.attrs.get("dose_per_A2", np.nan))
    if not 0 < dose < np.inf:
        raise SettingsError(
            f"dose_per_A2 {dose:g} of the image says nothing about its noise; apply a dose first."
        )
    area = float(abs(image.x[1] - image.x[0]) * abs(image.y[1] - image.y[0]))
    black = float(image.attrs.get("black_level", 0.0))
    fraction = (image.values.astype(np.float64) - black) / float(image.attrs.get("counts_per_fraction", 1.0))
    return fraction * dose * area, dose * area


def fold(image: xr.DataArray, lattice: Grating, bins: int) -> Folded:
    """Add up the pixels of an image by their place in the cell.

    Parameters
    ----------
    image : DataArray (y, x)
        See :func:`electrons_of`; pixels that are not finite are left out.
    lattice : Grating
    bins : int
        Along each axis of a cell.

    Returns
    -------
    Folded
    """
    counts, incident = electrons_of(image)
    x, y = np.meshgrid(image.x.values, image.y.values)
    places = np.stack([x.ravel(), y.ravel()], -1) - lattice.origin
    # An A column lies half a cell from B, but for d.
    place = (places @ np.linalg.inv(lattice.frame).T + 0.5) * bins
    seen = np.isfinite(counts).ravel()
    place, found = place[seen], counts.ravel()[seen]
    whole = np.round(place)
    index = (whole[:, 1].astype(int) % bins) * bins + whole[:, 0].astype(int) % bins

    def gathered(values: Floats) -> Floats:
        return np.asarray(np.bincount(index, values, bins**2), dtype=np.float64).reshape(bins, bins)

    number = gathered(np.ones(len(found)))
    apart = (place - whole) / bins
    offset = np.stack([gathered(apart[:, i]) for i in (0, 1)]) / np.maximum(number, 1.0)
    pixel = float(abs(image.x[1] - image.x[0]) * abs(image.y[1] - image.y[0]))
    cells = len(found) * pixel / float(abs(np.linalg.det(lattice.frame)))
    return Folded(gathered(found), number * incident, offset, lattice, cells)


def stack(folded: Sequence[Folded]) -> tuple[Floats, Floats, Floats]:
    """Counts (k, n, n), electrons and offsets (2, k, n, n) of several."""
    return (
        np.stack([f.counts for f in folded]),
        np.stack([f.electrons for f in folded]),
        np.stack([f.offset for f in folded], axis=1),
    )
