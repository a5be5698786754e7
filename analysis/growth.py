"""Carry the lattice over the whole image: which column is which, and about where.

The lattice found in one patch is only good near it. Growing from column to column follows drift,
strain and rotation, because only one step is ever predicted from the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.feature import peak_local_max

from .errors import ImageError
from .lattice import Lattice, flattened

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_STEPS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)])
_FAINTEST_A = 0.35  # of the typical A height: what is fainter is a vacancy, vacuum, or B
_FEWEST = 4  # A columns: one cell


@dataclass(frozen=True)
class Sites:
    """Where columns are expected.

    Attributes
    ----------
    position : (n, 2) array
        (x, y), px.
    index : (n, 2) array
        Lattice indices (a, b); a B column carries the index of its cell.
    is_a : (n,) bool array
    inside : (n,) bool array
        False for columns beyond the border of the data: never fitted, but their tails reach in.
    neighbour : (n,) array
        For those beyond the border, the row of the nearest fitted column of the same kind.
    vectors : (2, 2) array
        Mean lattice vectors over the whole image, px.
    """

    position: Floats
    index: Ints
    is_a: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    neighbour: Ints
    vectors: Floats

    @property
    def kind(self) -> Ints:
        """0 for A, 1 for B."""
        return np.where(self.is_a, 0, 1)


def grow(values: Floats, lattice: Lattice, *, radius: float, least_coverage: float) -> Sites:
    """Find the A columns one by one, then place B between them.

    Parameters
    ----------
    values : (ny, nx) array
        NaN marks pixels without data.
    lattice : Lattice
        In px, good at its origin.
    radius : float
        Of the fit window, px.
    least_coverage : float
        Fraction of the window that must hold data for a column to be fitted.

    Returns
    -------
    Sites

    Raises
    ------
    ImageError
        Fewer than four A columns are found.
    """
    index, position = _grow_a(values, lattice)
    if len(index) < _FEWEST:
        raise ImageError(
            f"image: only {len(index)} A columns are found on the lattice; give an image with at least one full cell."
        )
    parts = []
    for is_a in (True, False):
        # A beyond the border by one ring; B wherever one of its A columns is known or beyond the border.
        shifts = np.vstack([[(0, 0)], _STEPS])
        nodes, guess = _predicted(index, position, lattice.vectors, shifts)
        if is_a:
            known = _rows_of(nodes, index)
            guess = np.where(known[:, None] >= 0, position[known], guess)
            covered = coverage(values, guess, radius) >= least_coverage
            keep = (known >= 0) | ~covered
        else:
            nodes, guess = _predicted_b(index, position, nodes, guess, lattice)
            covered = coverage(values, guess, radius) >= least_coverage
            keep = np.ones(len(nodes), bool)
            near_a = np.zeros(len(nodes), bool)
            for a_offset in lattice.a_offsets:
                near_a |= _rows_of(nodes + a_offset, index) >= 0
            keep &= near_a | ~covered
        parts.append((nodes[keep], guess[keep], covered[keep]))
    all_index = np.vstack([part[0] for part in parts])
    all_position = np.vstack([part[1] for part in parts])
    inside = np.concatenate([part[2] for part in parts])
    is_a_all = np.repeat([True, False], [len(part[0]) for part in parts])
    neighbour = np.full(len(inside), -1)
    for kind in (True, False):
        real = np.flatnonzero(inside & (is_a_all == kind))
        ghost = np.flatnonzero(~inside & (is_a_all == kind))
        if len(real) == 0:
            raise ImageError("image: no full window around any column; give a larger image.")
        if len(ghost):
            neighbour[ghost] = real[KDTree(all_position[real]).query(all_position[ghost])[1]]
    design = np.column_stack([np.ones(len(index)), index])
    vectors = np.asarray(np.linalg.lstsq(design, position, rcond=None)[0][1:], float)
    return Sites(all_position, all_index, is_a_all, inside, neighbour, vectors)


def coverage(values: Floats, position: Floats, radius: float) -> Floats:
    """Fraction of the circular window around each position that holds data.

    Parameters
    ----------
    values : (ny, nx) array
    position : (n, 2) array
        (x, y), px.
    radius : float
        px.

    Returns
    -------
    (n,) array
    """
    reach = int(np.ceil(radius))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = dx**2 + dy**2 <= radius**2
    limit = np.array(values.shape[::-1])
    centre = np.rint(position).astype(int)
    x, y = centre[:, :1] + dx[disc], centre[:, 1:] + dy[disc]
    within = (x >= 0) & (x < limit[0]) & (y >= 0) & (y < limit[1])
    valid = np.isfinite(values)[np.clip(y, 0, limit[1] - 1), np.clip(x, 0, limit[0] - 1)]
    return (within & valid).mean(1)


def _grow_a(values: Floats, lattice: Lattice) -> tuple[Ints, Floats]:
    near = lattice.neighbour_distance
    cell = float(np.sqrt(lattice.area))
    flat = flattened(values, 1.5 * cell)
    valid = np.isfinite(flat)
    smooth = ndimage.gaussian_filter(np.where(valid, flat, 0.0), max(0.12 * near, 0.6))
    peaks = peak_local_max(
        np.where(valid, smooth, smooth.min()), min_distance=max(1, int(0.3 * near)), exclude_border=False
    )
    candidates = peaks[:, ::-1].astype(float)
    # Height above the darkest place of the surrounding cell is free of slow changes of background.
    height = (smooth - ndimage.minimum_filter(smooth, size=max(3, int(cell))))[peaks[:, 0], peaks[:, 1]]
    if len(candidates) == 0:
        raise ImageError("image: shows no intensity maxima; give an atomically resolved image.")
    tree = KDTree(candidates)

    seed = _seed(lattice, tree, height)
    index: dict[tuple[int, int], int] = {(0, 0): seed}
    steps = _STEPS @ lattice.vectors
    front = [(0, 0)]
    heights = [height[seed]]
    while front:
        wanted: dict[tuple[int, int], list[Floats]] = {}
        for node in front:
            for step, vector in zip(_STEPS.tolist(), steps, strict=True):
                target = (node[0] + step[0], node[1] + step[1])
                if target not in index:
                    wanted.setdefault(target, []).append(candidates[index[node]] + vector)
        front = []
        if not wanted:
            break
        nodes = list(wanted)
        guess = np.array([np.mean(wanted[node], 0) for node in nodes])
        distance, nearest = tree.query(guess)
        typical = float(np.median(heights))
        for node, gap, row in zip(nodes, distance.tolist(), nearest.tolist(), strict=True):
            if gap < 0.3 * near and height[row] > _FAINTEST_A * typical:
                index[node] = row
                heights.append(height[row])
                front.append(node)
    nodes_array = np.array(list(index))
    rows = np.array(list(index.values()))
    # Two indices on one maximum are a mistake of the growth: keep the first.
    _, first = np.unique(rows, return_index=True)
    return nodes_array[first], candidates[rows[first]]


def _seed(lattice: Lattice, tree: KDTree, height: Floats) -> int:
    """A maximum on a lattice node near the origin, as the column at the origin itself may be missing."""
    span = np.arange(-3, 4)
    nodes = np.stack(np.meshgrid(span, span), -1).reshape(-1, 2)
    gap, row = tree.query(np.array(lattice.origin) + nodes @ lattice.vectors)
    on = gap < 0.3 * lattice.neighbour_distance
    if not on.any():
        raise ImageError("image: no intensity maxima lie on its lattice; give a less noisy image.")
    # All but the faintest are A: of those, the one nearest the origin.
    bright = on & (height[row] > 0.8 * np.median(height[row[on]]))
    return int(row[bright][np.argmin(np.hypot(*(nodes[bright] @ lattice.vectors).T))])


def _rows_of(nodes: Ints, index: Ints) -> Ints:
    """Row in `index` of every node, −1 where there is none."""
    low = np.minimum(nodes.min(0), index.min(0))
    span = np.maximum(nodes.max(0), index.max(0)) - low + 1
    table = np.full(tuple(span), -1)
    table[tuple((index - low).T)] = np.arange(len(index))
    return table[tuple((nodes - low).T)]


def _predicted(index: Ints, position: Floats, vectors: Floats, shifts: Ints) -> tuple[Ints, Floats]:
    """Nodes reached by the shifts from known columns, and the mean of what those columns predict."""
    nodes = (index[:, None] + shifts).reshape(-1, 2)
    guess = (position[:, None] + shifts @ vectors).reshape(-1, 2)
    unique, inverse = np.unique(nodes, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    count = np.bincount(inverse)
    mean = np.stack([np.bincount(inverse, guess[:, c]) / count for c in (0, 1)], 1)
    return unique, mean


def _predicted_b(
    index: Ints, position: Floats, nodes: Ints, guess: Floats, lattice: Lattice
) -> tuple[Ints, Floats]:
    """B of every cell that has an A column, real or predicted, from its own A columns."""
    cells = np.unique((nodes[:, None] - lattice.a_offsets).reshape(-1, 2), axis=0)
    total, count = np.zeros((len(cells), 2)), np.zeros(len(cells))
    fallback, fallback_count = np.zeros((len(cells), 2)), np.zeros(len(cells))
    for a_offset in lattice.a_offsets:
        vector = (np.array(lattice.b_fraction) - a_offset) @ lattice.vectors
        row = _rows_of(cells + a_offset, index)
        total[row >= 0] += position[row[row >= 0]] + vector
        count += row >= 0
        row = _rows_of(cells + a_offset, nodes)
        fallback[row >= 0] += guess[row[row >= 0]] + vector
        fallback_count += row >= 0
    real = count > 0
    mean = fallback / np.maximum(fallback_count, 1)[:, None]
    mean[real] = total[real] / count[real, None]
    return cells, mean
