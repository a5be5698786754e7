"""Where the beam stands at every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Rounds of the fixed-point search for the pixel that shows a place; jitter of a tenth of a pixel converges in four.
_ROUNDS = 12


@dataclass(frozen=True, eq=False)
class ScanPath:
    """Positions of the beam: pixel (i, j) lies at ``origin + matrix @ (j, i) + row_offset[i] + column_offset[j]``.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the image.
    pixel : float
        Nominal pixel size, Å: what a user is told.
    origin : ndarray, shape (2,)
        (x, y) on the specimen of pixel (0, 0), Å.
    matrix : ndarray, shape (2, 2)
        Å per pixel; columns are the steps along a row and from row to row: scale, shear, rotation, steady drift.
    row_offset : ndarray, shape (rows, 2)
        (x, y) by which every row is out (jitter, unsteady drift), Å.
    column_offset : ndarray, shape (columns, 2)
        (x, y) by which every column is out (fly-back), Å.
    """

    shape: tuple[int, int]
    pixel: float
    origin: Floats
    matrix: Floats
    row_offset: Floats
    column_offset: Floats

    @classmethod
    def ideal(cls, shape: tuple[int, int], pixel: float) -> ScanPath:
        """The scan of a perfect microscope."""
        rows, columns = shape
        return cls(shape, pixel, np.zeros(2), np.eye(2) * pixel, np.zeros((rows, 2)), np.zeros((columns, 2)))

    def positions(self) -> tuple[Floats, Floats]:
        """X and y on the specimen of every pixel, each of shape (rows, columns), Å."""
        rows, columns = self.shape
        j, i = np.arange(columns, dtype=float), np.arange(rows, dtype=float)[:, None]
        x, y = (
            self.origin[n]
            + self.matrix[n, 0] * j
            + self.matrix[n, 1] * i
            + self.row_offset[:, n, None]
            + self.column_offset[:, n]
            for n in (0, 1)
        )
        return x, y

    def shown_at(self, xy: Floats) -> Floats:
        """Where the image shows places ``xy`` (…, 2) of the specimen: pixel (column, row) × ``pixel``, Å.

        The inverse of :meth:`positions`, between pixels by interpolation; beyond the border the offsets of the
        outermost row and column hold.
        """
        back = np.linalg.inv(self.matrix)
        i, j = np.arange(self.shape[0]), np.arange(self.shape[1])
        place = (xy - self.origin) @ back.T
        for _ in range(_ROUNDS):
            offset = np.stack(
                [
                    np.interp(place[..., 1], i, self.row_offset[:, n])
                    + np.interp(place[..., 0], j, self.column_offset[:, n])
                    for n in (0, 1)
                ],
                axis=-1,
            )
            place = (xy - self.origin - offset) @ back.T
        return place * self.pixel
