"""Fitted columns and unit cells as labelled datasets, in Å and pm."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .columns import FLAG_ATTRS, FLAG_EDGE, FLAG_NOT_CONVERGED, FLAG_POOR_FIT, FittedColumns
from .lattice import Lattice

Floats = NDArray[np.float64]

#: Said in every dataset and on every figure.
SIGN_CONVENTION = "d = mean of the surrounding A columns - central B column; x right, y down"
COVARIANCE_NOTE = "residual variance x inverse normal matrix: independent noise in every pixel is assumed"

_PM = 100.0  # pm in 1 Å


def column_table(fitted: FittedColumns, pixel_size: tuple[float, float], attrs: dict[str, Any]) -> xr.Dataset:
    """One row a column, in Å.

    Parameters
    ----------
    fitted : FittedColumns
        In px.
    pixel_size : tuple of float
        (x, y), Å per px.
    attrs : dict
        Of the dataset.

    Returns
    -------
    xr.Dataset
        dims ``column`` (and ``component``, ``component_2``).
    """
    scale = np.array(pixel_size)
    parameters, covariance = fitted.fit.parameters, fitted.fit.covariance
    position = parameters[:, 2:4] * scale
    position_cov = covariance[:, 2:4, 2:4] * np.outer(scale, scale)
    shape, shape_sem = _shape(parameters[:, 4:], covariance[:, 4:, 4:], scale)

    def sem(n: int) -> Floats:
        return np.sqrt(covariance[:, n, n])

    intensity = {"units": "1", "note": "in the image's own intensity unit"}
    column = "column"
    variables = {
        "x": (column, position[:, 0], {"units": "Å"}),
        "y": (column, position[:, 1], {"units": "Å", "direction": "down"}),
        "position_cov": (
            (column, "component", "component_2"), position_cov, {"units": "Å2", "note": COVARIANCE_NOTE},
        ),
        "site": (column, np.where(fitted.is_a, "A", "B").astype(object), {"units": "1", "note": "A is the brighter"}),
        "a": (column, fitted.index[:, 0].astype(np.int32), {"units": "1", "long_name": "lattice index"}),
        "b": (column, fitted.index[:, 1].astype(np.int32), {"units": "1", "long_name": "lattice index"}),
        "amplitude": (column, parameters[:, 0], intensity),
        "amplitude_sem": (column, sem(0), intensity),
        "background": (column, parameters[:, 1], intensity),
        "background_sem": (column, sem(1), intensity),
        "sigma_major": (column, shape[:, 0], {"units": "Å"}),
        "sigma_major_sem": (column, shape_sem[:, 0], {"units": "Å"}),
        "sigma_minor": (column, shape[:, 1], {"units": "Å"}),
        "sigma_minor_sem": (column, shape_sem[:, 1], {"units": "Å"}),
        "theta": (column, shape[:, 2], {"units": "rad", "long_name": "major axis, from x towards y (down)"}),
        "theta_sem": (column, shape_sem[:, 2], {"units": "rad"}),
        "residual": (column, fitted.fit.residual, intensity | {"long_name": "root mean square residual"}),
        "flag": (column, fitted.flag, FLAG_ATTRS),
    }  # fmt: skip
    return xr.Dataset(variables, _components(), attrs)


def cell_table(columns: xr.Dataset, lattice: Lattice, attrs: dict[str, Any]) -> xr.Dataset:
    """One row a cell that has its B column and all surrounding A columns.

    Parameters
    ----------
    columns : xr.Dataset
        From `column_table`.
    lattice : Lattice
        In Å.
    attrs : dict
        Of the dataset.

    Returns
    -------
    xr.Dataset
        dims ``cell`` (and ``component``, ``component_2``); ``x``, ``y`` are the B column's.
    """
    is_a = columns["site"].values == "A"
    index = np.stack([columns["a"].values, columns["b"].values], 1).astype(int)
    position = np.stack([columns["x"].values, columns["y"].values], 1)
    cov, flag = columns["position_cov"].values, columns["flag"].values
    amplitude = columns["amplitude"].values
    a_row = _lookup(index, is_a)
    b_row, corners = whole_cells(index, is_a, lattice)
    count = len(lattice.a_offsets)
    d = position[corners].mean(1) - position[b_row]
    d_cov = cov[corners].sum(1) / count**2 + cov[b_row]
    bad = flag[b_row].copy()
    for corner in corners.T:
        bad |= flag[corner]
    vectors = _cell_vectors(index[b_row], position, a_row, lattice)
    va, vb = vectors[:, 0], vectors[:, 1]
    cross = va[:, 0] * vb[:, 1] - va[:, 1] * vb[:, 0]
    angle = np.degrees(np.arctan2(np.abs(cross), (va * vb).sum(1)))

    intensity = {"units": "1", "note": "fitted amplitude, in the image's own intensity unit"}
    cell, pm = "cell", {"units": "pm", "convention": SIGN_CONVENTION}
    variables = {
        "x": (cell, position[b_row, 0], {"units": "Å", "long_name": "position of the B column"}),
        "y": (cell, position[b_row, 1], {"units": "Å", "long_name": "position of the B column", "direction": "down"}),
        "a": (cell, index[b_row, 0].astype(np.int32), {"units": "1", "long_name": "lattice index"}),
        "b": (cell, index[b_row, 1].astype(np.int32), {"units": "1", "long_name": "lattice index"}),
        "d": ((cell, "component"), d * _PM, pm),
        "d_cov": ((cell, "component", "component_2"), d_cov * _PM**2, {"units": "pm2", "note": COVARIANCE_NOTE}),
        "vector_a": ((cell, "component"), va, {"units": "Å"}),
        "vector_b": ((cell, "component"), vb, {"units": "Å"}),
        "area": (cell, np.abs(cross), {"units": "Å2"}),
        "angle": (cell, angle, {"units": "degree", "long_name": "angle between a and b"}),
        "intensity_a": (cell, amplitude[corners].mean(1), intensity),
        "intensity_b": (cell, amplitude[b_row], intensity),
        "flag": (cell, bad, FLAG_ATTRS | {"long_name": "flags of the cell's columns, combined"}),
    }  # fmt: skip
    return xr.Dataset(variables, _components(), attrs | {"convention": SIGN_CONVENTION})


def whole_cells(
    index: NDArray[np.int64], is_a: NDArray[np.bool_], lattice: Lattice
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the columns of every cell that has them all: (m,) B and (m, k) surrounding A."""
    a_row, b_row = _lookup(index, is_a), np.flatnonzero(~is_a)
    corners = np.stack([a_row(index[b_row] + offset) for offset in lattice.a_offsets], 1)
    whole = (corners >= 0).all(1)
    return b_row[whole], corners[whole]


def flag_counts(flag: NDArray[np.uint8]) -> dict[str, int]:
    """How many rows carry each flag."""
    names = {"poor_fit": FLAG_POOR_FIT, "edge": FLAG_EDGE, "not_converged": FLAG_NOT_CONVERGED}
    return {name: int(((flag & bit) != 0).sum()) for name, bit in names.items()}


def _components() -> dict[str, Any]:
    labels = np.array(["x", "y"], dtype=object)
    attrs = {"units": "1", "note": "image axes: x right, y down"}
    return {"component": ("component", labels, attrs), "component_2": ("component_2", labels, attrs)}


def _lookup(index: NDArray[np.int64], select: NDArray[np.bool_]) -> Any:
    rows = np.flatnonzero(select)
    low = index.min(0) - 2
    table = np.full(tuple(index.max(0) - low + 4), -1)
    table[tuple((index[rows] - low).T)] = rows

    def row_of(nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        return table[tuple((nodes - low).T)]

    return row_of


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


def _shape(factor: Floats, covariance: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """(n, 3) sigma_major, sigma_minor, theta and their standard errors, by numerical propagation."""
    base = principal_axes(factor, scale)
    gradient = np.empty((*base.shape, 3))
    for n in range(3):
        step = np.zeros(3)
        step[n] = 1e-5
        size = np.maximum(np.abs(factor[:, :1]), 1e-6)
        change = principal_axes(factor + step * size, scale) - principal_axes(factor - step * size, scale)
        change[:, 2] = (change[:, 2] + np.pi / 2) % np.pi - np.pi / 2
        gradient[:, :, n] = change / (2e-5 * size)
    variance = np.einsum("nki,nij,nkj->nk", gradient, covariance, gradient)
    # An angle is unknown by at most π/√12, that of a round column.
    error = np.sqrt(np.maximum(variance, 0))
    error[:, 2] = np.minimum(error[:, 2], np.pi / np.sqrt(12))
    return base, error


def principal_axes(factor: Floats, scale: Floats) -> Floats:
    """(n, 3) sigma_major, sigma_minor, theta of fitted (n, 3) p, q, r; `scale` is the pixel size (x, y)."""
    p, q, r = factor.T
    # Covariance of the Gaussian: the inverse of [[p², pq], [pq, q² + r²]].
    xx = (q**2 + r**2) / (p * r) ** 2 * scale[0] ** 2
    yy = 1 / r**2 * scale[1] ** 2
    xy = -q / (p * r**2) * scale[0] * scale[1]
    mean, half = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    minor = (xx * yy - xy**2) / (mean + half)
    theta = 0.5 * np.arctan2(2 * xy, xx - yy)
    return np.stack([np.sqrt(mean + half), np.sqrt(np.maximum(minor, 0)), theta], 1)
