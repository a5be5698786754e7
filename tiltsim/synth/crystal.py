"""The specimen under the beam as a lattice of columns, each with what its image depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Materials that a cell can be made of, by number; see ``structures.columns.MATERIALS``.
MATERIALS = ("BiFeO3", "SrTiO3")


@dataclass(frozen=True, eq=False)
class Crystal:
    """Cells of a perovskite seen along ⟨100⟩: rows from the top down, columns from the left.

    Lengths across the image are Å on the specimen's entrance surface (x right, y down). Cell (i, j) has its B column
    amid the A columns (i, j), (i, j + 1), (i + 1, j), (i + 1, j + 1).

    Parameters
    ----------
    a : ndarray, shape (rows + 1, columns + 1, 2)
        True mean positions of the A columns, Å.
    b : ndarray, shape (rows, columns, 2)
        True mean positions of the B columns, Å.
    tilt : ndarray, shape (rows, columns, 2)
        Direction of the beam inside the crystal of this cell (grain, bending and the variant's own lean), mrad.
    thickness : ndarray, shape (rows, columns)
        Along the beam, Å.
    height : ndarray, shape (rows, columns)
        How far the entrance surface lies beneath the plane that the beam's position refers to, Å.
    samarium : ndarray, shape (rows + 1, columns + 1)
        Fraction of Sm in each A column.
    material_a, material : ndarray of int, shapes (rows + 1, columns + 1) and (rows, columns)
        Index into :data:`MATERIALS` of the A columns and of the cells' B columns.
    domain : ndarray of int, shape (rows, columns)
        Index into ``domain_names``.
    domain_names : tuple of str
        E.g. "[1-11]", "SrTiO3".
    """

    a: Floats
    b: Floats
    tilt: Floats
    thickness: Floats
    height: Floats
    samarium: Floats
    material_a: NDArray[np.int_]
    material: NDArray[np.int_]
    domain: NDArray[np.int_]
    domain_names: tuple[str, ...] = field(default=("",))

    @cached_property
    def cage(self) -> Floats:
        """Means of the four A columns around each cell, shape (rows, columns, 2), Å."""
        return around(self.a)

    @cached_property
    def shown_a(self) -> Floats:
        """Where a tilted beam shows the A columns: further back where their surface lies deeper, as `a`."""
        return self.a - np.tan(at_corners(self.tilt) * 1e-3) * at_corners(self.height)[..., None]

    @cached_property
    def shown_b(self) -> Floats:
        """Where a tilted beam shows the B columns, as `b`."""
        return self.b - np.tan(self.tilt * 1e-3) * self.height[..., None]

    @cached_property
    def angle(self) -> float:
        """Mean direction of the rows, rad, from x towards y."""
        along, down = np.diff(self.a, axis=1).mean(axis=(0, 1)), np.diff(self.a, axis=0).mean(axis=(0, 1))
        return float(np.arctan2(along[1] - down[0], along[0] + down[1]))

    @cached_property
    def d(self) -> Floats:
        """Mean of the surrounding A columns − B column, shape (rows, columns, 2), pm."""
        return (self.cage - self.b) * 100.0


def around(corners: Floats) -> Floats:
    """Means over the four corners of each cell, shape (rows, columns, …)."""
    return (corners[:-1, :-1] + corners[1:, :-1] + corners[:-1, 1:] + corners[1:, 1:]) / 4.0


def at_corners(cells: Floats) -> Floats:
    """Means over the cells that meet at each corner, shape (rows + 1, columns + 1, …); fewer at the border."""
    wide = np.pad(cells, [(1, 1), (1, 1)] + [(0, 0)] * (cells.ndim - 2), mode="edge")
    return around(wide)
