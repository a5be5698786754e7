"""Where cells lie: their middles, edges and outlines, and who is whose neighbour."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .errors import ImageError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Steps on the lattice to the cells that share an edge, each pair of cells once.
EDGE_STEPS = ((1, 0), (0, 1))

_CORNERS = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])


def require(cells: xr.Dataset, *names: str) -> None:
    """Refuse a table of cells that lacks a variable.

    Raises
    ------
    ImageError
        Names what is missing.
    """
    missing = [name for name in names if name not in cells]
    if missing:
        raise ImageError(
            f"unit_cells: lacks {', '.join(missing)}; give the unit_cells that analysis.measure made."
        )


def usable_cells(cells: xr.Dataset) -> NDArray[np.bool_]:
    """(n,) Cells without flag whose displacement and its covariance are finite."""
    require(cells, "d", "d_cov", "flag")
    finite = np.isfinite(cells["d"].values).all(1) & np.isfinite(cells["d_cov"].values).all((1, 2))
    return np.asarray((cells["flag"].values == 0) & finite)


def middles(cells: xr.Dataset) -> Floats:
    """(n, 2) Mean position of every cell's A columns, Å: these tile the plane, wherever B is."""
    require(cells, "x", "y", "d")
    return np.stack([cells["x"].values, cells["y"].values], 1) + cells["d"].values / 100


def edge_vectors(cells: xr.Dataset, fallback: Floats | None = None) -> Floats:
    """Edges of every cell, Å.

    Parameters
    ----------
    cells : xr.Dataset
    fallback : (2, 2) array, optional
        Rows a, b for cells without edges of their own; without it, a straight lattice through all cells.

    Returns
    -------
    (n, 2, 2) array
        Rows a, b; components x, y.
    """
    require(cells, "a", "b", "vector_a", "vector_b")
    own = np.stack([cells["vector_a"].values, cells["vector_b"].values], 1)
    if np.isfinite(own).all():
        return own
    if fallback is None:
        index = np.stack([cells["a"].values, cells["b"].values], 1).astype(float)
        design = np.column_stack([np.ones(len(index)), index])
        fallback = np.linalg.lstsq(design, middles(cells), rcond=None)[0][1:]
    return np.where(np.isfinite(own), own, fallback)


def outlines(cells: xr.Dataset, fallback: Floats | None = None) -> Floats:
    """(n, 4, 2) Corners of every cell, Å; for `fallback` see `edge_vectors`."""
    return middles(cells)[:, None] + np.einsum("kv,nvc->nkc", _CORNERS, edge_vectors(cells, fallback))


def lattice_grid(cells: xr.Dataset) -> tuple[Indices, Indices]:
    """Cells on a rectangle of lattice indices.

    Returns
    -------
    rows : (na, nb) array
        Row of the cell with these indices, -1 where there is none.
    place : (n, 2) array
        Where each cell is in `rows`.
    """
    require(cells, "a", "b")
    index = np.stack([cells["a"].values, cells["b"].values], 1).astype(np.int64)
    if not len(index):
        return np.full((1, 1), -1), index
    place = index - index.min(0)
    rows = np.full(tuple(place.max(0) + 1), -1)
    rows[place[:, 0], place[:, 1]] = np.arange(len(place))
    return rows, place


def neighbour_pairs(cells: xr.Dataset, step: tuple[int, int]) -> Indices:
    """(m, 2) Rows of cells that lie one `step` of lattice indices apart."""
    rows, _ = lattice_grid(cells)
    da, db = step
    first, second = rows[: rows.shape[0] - da, : rows.shape[1] - db], rows[da:, db:]
    both = (first >= 0) & (second >= 0)
    return np.stack([first[both], second[both]], 1)
