"""Unit cells: polar displacement, shape, strain and brightness of each, with errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import KDTree

from .columns import FLAG_ATTRS
from .errors import ImageError
from .lattice import Lattice
from .tables import COVARIANCE_NOTE, SIGN_CONVENTION, components

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PM = 100.0  # pm in 1 Å
_MARGIN = 6  # cells: motifs of sharp angles look so far for the A columns around B
_FLOOR = 5.991  # 95 % of chi² with two degrees of freedom


def cell_table(columns: xr.Dataset, lattice: Lattice, attrs: dict[str, Any]) -> xr.Dataset:
    """One row a cell that has its B column and all surrounding A columns.

    Parameters
    ----------
    columns : xr.Dataset
        From `analysis.tables.column_table`.
    lattice : Lattice
        In Å; strain is relative to it.
    attrs : dict
        Of the dataset.

    Returns
    -------
    xr.Dataset
        dims ``cell`` (and ``component``, ``component_2``); ``x``, ``y`` are the B column's.
    """
    site = columns["site"].values
    is_a = site == "A"
    index = np.stack([columns["a"].values, columns["b"].values], 1).astype(int)
    position = np.stack([columns["x"].values, columns["y"].values], 1)
    flag = columns["flag"].values
    b_row, corners = whole_cells(index, is_a, site == "B", lattice)
    d = position[corners].mean(1) - position[b_row]
    d_cov = _propagated(columns, differences(b_row, corners, len(site)))
    bad = flag[b_row].copy()
    for corner in corners.T:
        bad |= flag[corner]
    vectors = _cell_vectors(index[b_row], position, lookup(index, is_a), lattice)
    va, vb = vectors[:, 0], vectors[:, 1]
    cross = va[:, 0] * vb[:, 1] - va[:, 1] * vb[:, 0]
    angle = np.degrees(np.arctan2(np.abs(cross), (va * vb).sum(1)))
    strain, rotation = _strain(vectors, lattice)
    variance_a = np.einsum("ncii->n", columns["position_cov"].values[corners]) / (2 * corners.shape[1])
    size, size_sem, floor = _magnitude(d, d_cov)
    light, light_sem = columns["intensity"].values, columns["intensity_sem"].values
    light_a, light_b = light[corners].mean(1), light[b_row]
    error_a = np.sqrt((light_sem[corners] ** 2).sum(1)) / corners.shape[1]
    ratio = np.divide(light_b, light_a, out=np.full(len(d), np.nan), where=light_a > 0)
    ratio_sem = np.abs(ratio) * np.hypot(light_sem[b_row] / light_b, error_a / light_a)

    bright = {"units": "Å2", "note": "integral of the fitted Gaussian, in the image's own intensity unit"}
    cell, pm = "cell", {"units": "pm", "convention": SIGN_CONVENTION}
    matrix = (cell, "component", "component_2")
    mean = {"long_name": "relative to the image's mean lattice"}
    variables = {
        "x": (cell, position[b_row, 0], {"units": "Å", "long_name": "position of the B column"}),
        "y": (cell, position[b_row, 1], {"units": "Å", "long_name": "position of the B column", "direction": "down"}),
        "centre": ((cell, "component"), position[corners].mean(1), {"units": "Å", "long_name": "mean of the surrounding A columns"}),
        "a": (cell, index[b_row, 0].astype(np.int32), {"units": "1", "long_name": "lattice index"}),
        "b": (cell, index[b_row, 1].astype(np.int32), {"units": "1", "long_name": "lattice index"}),
        "d": ((cell, "component"), d * _PM, pm),
        "d_cov": (matrix, d_cov * _PM**2, {"units": "pm2", "note": COVARIANCE_NOTE}),
        "magnitude": (cell, size * _PM, {"units": "pm", "long_name": "|d| without what noise adds to it: the root of |d|2 minus the trace of d_cov, or 0"}),
        "magnitude_sem": (cell, size_sem * _PM, {"units": "pm"}),
        "at_noise_floor": (cell, floor.astype(np.int8), {"units": "1", "long_name": "1 where d is zero within its 95 % error ellipse"}),
        "vector_a": ((cell, "component"), va, {"units": "Å"}),
        "vector_b": ((cell, "component"), vb, {"units": "Å"}),
        "area": (cell, np.abs(cross), {"units": "Å2"}),
        "angle": (cell, angle, {"units": "degree", "long_name": "angle between a and b"}),
        "strain": (matrix, strain, {"units": "1", **mean}),
        "strain_sem": (cell, np.sqrt(variance_a) / np.sqrt(lattice.area), {"units": "1", "long_name": "of a normal component; of shear and rotation, 0.7 times that"}),
        "rotation": (cell, rotation * 1e3, {"units": "mrad", "note": "from x towards y (down)", **mean}),
        "intensity_a": (cell, light_a, bright),
        "intensity_a_sem": (cell, error_a, bright),
        "intensity_b": (cell, light_b, bright),
        "intensity_b_sem": (cell, light_sem[b_row], bright),
        "intensity_ratio": (cell, ratio, {"units": "1", "long_name": "B over A"}),
        "intensity_ratio_sem": (cell, ratio_sem, {"units": "1"}),
        "flag": (cell, bad, FLAG_ATTRS | {"long_name": "flags of the cell's columns, combined"}),
    }  # fmt: skip
    return xr.Dataset(variables, components(), attrs | {"convention": SIGN_CONVENTION})


def local_average(columns: xr.Dataset, cells: xr.Dataset, lattice: Lattice, radius: float) -> xr.Dataset:
    """The same cells, each with the mean d of all good cells around it.

    Parameters
    ----------
    columns, cells : xr.Dataset
        Of one measurement; a selection of its cells will do.
    lattice : Lattice
        Of the same.
    radius : float
        Å; cells whose B column lies within it count alike.

    Returns
    -------
    xr.Dataset
        Like `cells`, with ``d``, ``d_cov``, ``magnitude``, ``magnitude_sem`` and ``at_noise_floor`` of the mean and
        ``averaged``, the number of cells in it (0: none, and d is NaN). That cells share A columns is reckoned with.

    Raises
    ------
    ImageError
        The radius is not positive, or cells and columns do not belong together.
    """
    if not (np.isfinite(radius) and radius > 0):
        raise ImageError(f"radius={radius:g} must be positive: average over cells within so many Å.")
    site = columns["site"].values
    index = np.stack([columns["a"].values, columns["b"].values], 1).astype(int)
    b_row, corners = whole_cells(index, site == "A", site == "B", lattice)
    own = lookup(index[b_row], np.ones(len(b_row), bool))(
        np.stack([cells["a"].values, cells["b"].values], 1).astype(int)
    )
    if (own < 0).any():
        raise ImageError(
            "cells: some are not made of these columns; pass columns and cells of one measurement."
        )
    b_row, corners = b_row[own], corners[own]
    place = np.stack([cells["x"].values, cells["y"].values], 1)
    tree = KDTree(place)
    near = tree.sparse_distance_matrix(tree, radius, output_type="coo_matrix")
    good = cells["flag"].values == 0
    use = good[near.col]
    share = sparse.csr_matrix(
        (np.ones(int(use.sum())), (near.row[use], near.col[use])), shape=(len(place),) * 2
    )
    count = np.asarray(share.sum(1)).ravel()
    share = sparse.diags(1 / np.maximum(count, 1)) @ share
    d = np.where(count[:, None] > 0, share @ cells["d"].values, np.nan) / _PM
    d_cov = _propagated(columns, share @ differences(b_row, corners, len(site)))
    d_cov[count == 0] = np.nan
    result = restated(cells, d * _PM, d_cov * _PM**2)
    result["averaged"] = ("cell", count.astype(np.int32), {"units": "1", "long_name": "cells in the mean"})
    return result.assign_attrs(averaged_within_angstrom=float(radius))


def whole_cells(
    index: Ints, is_a: NDArray[np.bool_], is_b: NDArray[np.bool_], lattice: Lattice
) -> tuple[Ints, Ints]:
    """Rows of the columns of every cell that has them all: (m,) B and (m, k) surrounding A."""
    a_row, b_row = lookup(index, is_a), np.flatnonzero(is_b)
    corners = np.stack([a_row(index[b_row] + offset) for offset in lattice.a_offsets], 1)
    whole = (corners >= 0).all(1)
    return b_row[whole], corners[whole]


def lookup(index: Ints, select: NDArray[np.bool_]) -> Any:
    """Function from lattice nodes (n, 2) to rows of the selected columns, −1 where there is none."""
    rows = np.flatnonzero(select)
    low = index.min(0) - _MARGIN
    table = np.full(tuple(index.max(0) - low + 1 + _MARGIN), -1)
    table[tuple((index[rows] - low).T)] = rows

    def row_of(nodes: Ints) -> Ints:
        return table[tuple((nodes - low).T)]

    return row_of


def restated(cells: xr.Dataset, d: Floats, d_cov: Floats) -> xr.Dataset:
    """The same cells with another d (n, 2), pm, and covariance (n, 2, 2), pm², and all that follows from them."""
    size, size_sem, floor = _magnitude(d, d_cov)
    values = {
        "d": d, "d_cov": d_cov, "magnitude": size, "magnitude_sem": size_sem, "at_noise_floor": floor.astype(np.int8),
    }  # fmt: skip
    return cells.assign({name: cells[name].copy(data=value) for name, value in values.items()})


def differences(b_row: Ints, corners: Ints, columns: int) -> sparse.csr_matrix:
    """Matrix (cells, columns) that takes positions to d."""
    cells, count = corners.shape
    row = np.concatenate([np.repeat(np.arange(cells), count), np.arange(cells)])
    column = np.concatenate([corners.ravel(), b_row])
    value = np.concatenate([np.full(cells * count, 1 / count), np.full(cells, -1.0)])
    return sparse.csr_matrix((value, (row, column)), shape=(cells, columns))


def _propagated(columns: xr.Dataset, linear: sparse.csr_matrix) -> Floats:
    """Covariance (n, 2, 2) of linear combinations of columns' positions, Å²."""
    own = columns["position_cov"].values.reshape(-1, 4)
    result = linear.multiply(linear) @ own
    if "overlap_cov" in columns:
        first, second = columns["overlap_first"].values, columns["overlap_second"].values
        shared = columns["overlap_cov"].values
        shared = (shared + shared.transpose(0, 2, 1)).reshape(-1, 4)
        by_column = linear.tocsc()
        coupled = np.asarray(result + by_column[:, first].multiply(by_column[:, second]) @ shared).reshape(
            -1, 2, 2
        )
        # Where columns overlap too far for the coupling to be known well, it is left out.
        sound = (np.linalg.det(coupled) > 0) & (np.einsum("nii->n", coupled) > 0)
        return np.where(sound[:, None, None], coupled, np.asarray(result).reshape(-1, 2, 2))
    return np.asarray(result).reshape(-1, 2, 2)


def _magnitude(d: Floats, cov: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Size without what noise adds, its standard error, and whether d is zero within its error."""
    square = (d**2).sum(1)
    trace = np.einsum("nii->n", cov)
    along = np.divide(
        d, np.sqrt(square)[:, None], out=np.full(d.shape, np.sqrt(0.5)), where=square[:, None] > 0
    )
    sem = np.sqrt(np.einsum("ni,nij,nj->n", along, cov, along))
    det = cov[:, 0, 0] * cov[:, 1, 1] - cov[:, 0, 1] * cov[:, 1, 0]
    dx, dy = d.T
    distance = dx**2 * cov[:, 1, 1] - dx * dy * (cov[:, 0, 1] + cov[:, 1, 0]) + dy**2 * cov[:, 0, 0]
    return np.sqrt(np.maximum(square - trace, 0)), sem, distance < _FLOOR * det


def _strain(vectors: Floats, lattice: Lattice) -> tuple[Floats, Floats]:
    """Symmetric strain (n, 2, 2) and rotation, rad, of cells relative to the lattice."""
    change = np.linalg.inv(lattice.vectors) @ vectors - np.eye(2)
    # Rows of `vectors` are a and b: `change` maps row vectors, so its transpose is the displacement gradient.
    gradient = change.transpose(0, 2, 1)
    strain = 0.5 * (gradient + gradient.transpose(0, 2, 1))
    return strain, 0.5 * (gradient[:, 1, 0] - gradient[:, 0, 1])


def _cell_vectors(cells: NDArray[np.int64], position: Floats, a_row: Any, lattice: Lattice) -> Floats:
    """Mean A-A steps along a and b over the cell's own edges, NaN where none is whole.

    Seen along [110] a cell has two A columns only; across them the step is taken from their neighbours on
    both sides.
    """
    vectors = np.full((len(cells), 2, 2), np.nan)
    for axis, unit in enumerate(np.eye(2, dtype=int)):
        starts = [o for o in lattice.a_offsets if lattice.b_fraction[axis] == 0 or o[axis] == 0]
        steps = [0] if lattice.b_fraction[axis] else [0, -1]
        total, count = np.zeros((len(cells), 2)), np.zeros(len(cells))
        for start in starts:
            for back in steps:
                first = a_row(cells + start + back * unit)
                last = a_row(cells + start + (back + 1) * unit)
                both = (first >= 0) & (last >= 0)
                total[both] += position[last[both]] - position[first[both]]
                count += both
        known = count > 0
        vectors[known, axis] = total[known] / count[known, None]
    return vectors
