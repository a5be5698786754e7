"""Fitted cells beside the truth: by how much the image shows the A columns around a cell, and its B column, elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

import analysis
from analysis.tiling import usable_cells
from tiltsim.errors import SettingsError
from tiltsim.synth.crystal import around
from tiltsim.synth.synthesis import Field

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: A fitted column further than this from a true one is another column, Å: A and B of a cell are 2.8 Å apart.
_NEAR = 1.0

#: How far the true d of a cell may be from its variant's, pm; beyond it lies in the wall.
_IN_WALL = 0.05

#: Cells along the sides of a block.
_BLOCK = 4


@dataclass(frozen=True, eq=False)
class MatchedCells:
    """Cells of a film that are measured and lie away from the wall.

    Parameters
    ----------
    variant : ndarray of int, shape (n,)
        0 or 1.
    block : ndarray of int, shape (n,)
        Which block of 4 × 4 cells.
    d_true, d_apparent, s_a, s_b : ndarray, shape (n, 2)
        pm; ``s_a`` is the mean of fitted − true position over the four surrounding A columns, ``s_b`` the B column's.
    """

    variant: Ints
    block: Ints
    d_true: Floats
    d_apparent: Floats
    s_a: Floats
    s_b: Floats

    @property
    def residual(self) -> float:
        """Largest |d_apparent − d_true − (s_A − s_B)|, pm: zero if pipeline and truth mean the same columns."""
        return float(np.abs(self.d_apparent - self.d_true - (self.s_a - self.s_b)).max())


def matched_cells(field: Field, measured: analysis.Measurement, d: Floats) -> MatchedCells:
    """Match what was measured to the columns that are truly there.

    A and B columns are matched one by one, so that which of them surround a cell is taken from the truth and not from the
    pipeline that is put to the test.

    Parameters
    ----------
    field : Field
    measured : Measurement
        Of its image.
    d : ndarray, shape (2, 2)
        True d of the two variants, (variant, component), pm.

    Raises
    ------
    SettingsError
        If a variant has no cells left.
    """
    columns, cells = measured.columns, measured.unit_cells
    place = np.column_stack([columns.x, columns.y])
    site = columns.site.values
    true_a, true_b = field.truth.a_image.values, field.truth.b_image.values
    s_a = around(_shifts(place[site == "A"], true_a))
    s_b = _shifts(place[site == "B"], true_b)

    true_d = field.truth.d_image.values
    away = np.linalg.norm(true_d[..., None, :] - d, axis=-1)
    good = cells.isel(cell=np.flatnonzero(usable_cells(cells)))
    distance, nearest = cKDTree(true_b.reshape(-1, 2)).query(np.column_stack([good.x, good.y]))
    row, column = np.unravel_index(nearest, true_b.shape[:2])
    use = (distance < _NEAR) & (away[row, column].min(-1) < _IN_WALL)
    use &= np.isfinite(s_a[row, column]).all(-1)
    row, column = row[use], column[use]
    which = away[row, column].argmin(-1)
    if len(np.unique(which)) < 2:
        raise SettingsError("size: the image holds no cells of one of the variants; make it larger.")
    wide = true_b.shape[1] // _BLOCK + 1
    return MatchedCells(
        which,
        (row // _BLOCK) * wide + column // _BLOCK,
        true_d[row, column],
        good.d.values[use],
        s_a[row, column],
        s_b[row, column],
    )


def _shifts(fitted: Floats, true: Floats) -> Floats:
    """Fitted − true position, pm, of true columns (rows, columns, 2); NaN where none was fitted nearby."""
    shifts = np.full((true.shape[0] * true.shape[1], 2), np.nan)
    distance, nearest = cKDTree(true.reshape(-1, 2)).query(fitted)
    near = distance < _NEAR
    shifts[nearest[near]] = (fitted[near] - true.reshape(-1, 2)[nearest[near]]) * 100.0
    return shifts.reshape(true.shape)
