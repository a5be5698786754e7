"""Grow a lattice of A columns over the maxima of an image, from column to column.

Every column predicts its neighbours with a basis of its own, learned from the columns found before it, so that
growth follows strain, rotation and a change of lattice. Sure steps come first: only where none is left is the
surest of the doubtful ones taken. So a second crystal is entered where it fits the first best, and then grown from
within, and what does not fit lies along the interface.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .maxima import Maxima

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEPS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)])

_FAINTEST_A = 0.35  # of the A columns around: what is fainter is a vacancy, vacuum, or B
_LOOSE = 0.3  # of the A-B distance: a maximum farther from where a column is expected is another one
_TIGHT = (0.08, 0.2)  # of the same: bounds of what counts as a sure step
_SPREAD = 3.5  # times the median miss: the same
_BLOCK = 7  # columns of nine
_STIFF = 2.0  # neighbours' worth of trust in the basis that a column inherits
_ONE_BY_ONE = 100  # doubtful steps; after so many, a tenth at a time: much is doubtful
_AGREE = (
    0.12,
    0.25,
)  # of the A-B distance: bounds of how far a column may be from where a neighbour expects it
_SUPPORT = (3, 2)  # neighbours that must agree: at first, and with those that passed the first


@dataclass(frozen=True)
class Grown:
    """A connected piece of the lattice.

    Attributes
    ----------
    index : (n, 2) array
    row : (n,) array
        Of the maximum that each column is.
    basis : (n, 2, 2) array
        Local a and b, px.
    miss : float
        Median distance of a column from where a neighbour expects it, px.
    """

    index: Ints
    row: Ints
    basis: Floats
    miss: float

    def kept(self, rows: NDArray[np.bool_] | Ints) -> Grown:
        """Some of the columns."""
        return Grown(self.index[rows], self.row[rows], self.basis[rows], self.miss)


class Table:
    """Row of every lattice index, −1 where there is none."""

    def __init__(self, index: Ints, margin: int = 3) -> None:
        self.low = index.min(0) - margin
        self.values = np.full(tuple(index.max(0) - self.low + 1 + margin), -1)
        self.values[tuple((index - self.low).T)] = np.arange(len(index))

    def __call__(self, nodes: Ints) -> Ints:
        """Rows (…) of nodes (…, 2)."""
        at = nodes - self.low
        inside = ((at >= 0) & (at < self.values.shape)).all(-1)
        at = np.where(inside[..., None], at, 0)
        return np.where(inside, self.values[at[..., 0], at[..., 1]], -1)


def grow_from(
    maxima: Maxima, seed: int, basis: Floats, free: NDArray[np.bool_], usual: float | None = None
) -> Grown:
    """All columns that can be reached from one.

    Parameters
    ----------
    maxima : Maxima
    seed : int
        Row of the maximum that is column (0, 0).
    basis : (2, 2) array
        a and b there, px.
    free : (n,) bool array
        Maxima that may be taken.
    usual : float, optional
        How far columns elsewhere in the image miss, px; else their own median says.

    Returns
    -------
    Grown
        The largest piece whose columns agree with their neighbours.
    """
    state = _State(maxima, seed, basis, free.copy())
    front, tight, alone = state.index[:1], _TIGHT[0], 0
    while True:
        while len(front):
            front = state.advance(front, tight * maxima.near)
            if state.count > 50:
                tight = float(np.clip(_SPREAD * np.median(state.miss) / maxima.near, *_TIGHT))
        alone += 1
        front = state.doubtful(1 if alone < _ONE_BY_ONE else 0.1)
        if len(front) == 0:
            break
    return _agreeing(maxima, state.result(), usual)


class _State:
    """What is found so far, and the doubtful steps that were put off."""

    def __init__(self, maxima: Maxima, seed: int, basis: Floats, free: NDArray[np.bool_]) -> None:
        self.maxima, self.free = maxima, free
        self.free[seed] = False
        # Steps across the whole image, over cells a fifth smaller than this one.
        extent = float(np.hypot(*np.ptp(maxima.position, axis=0)))
        lowest = abs(np.linalg.det(basis)) / np.hypot(*basis.T).max()
        self.half = int(np.ceil(extent / (0.8 * lowest))) + 3
        self.table = np.full((2 * self.half + 1, 2 * self.half + 1), -1)
        self.table[self.half, self.half] = 0
        self.index, self.row, self.basis = np.zeros((1, 2), int), np.array([seed]), basis[None].copy()
        self._misses = [np.zeros(1)]
        self.pending = [(np.zeros((0, 2), int), np.zeros(0), np.zeros(0, int))]

    @property
    def count(self) -> int:
        return len(self.row)

    @property
    def miss(self) -> Floats:
        """How far sure steps missed, px."""
        return np.concatenate(self._misses)

    def result(self) -> Grown:
        return Grown(self.index, self.row, self.basis, float(np.median(self.miss)))

    def advance(self, front: Ints, tight: float) -> Ints:
        """Take all sure steps from the front; returns the new front."""
        nodes = (front[:, None] + STEPS).reshape(-1, 2)
        nodes = nodes[(np.abs(nodes) < self.half).all(1)]
        nodes = nodes[self._known(nodes) < 0]
        if len(nodes) == 0:
            return nodes
        code = np.unique(nodes[:, 0] * (4 * self.half) + nodes[:, 1])
        first = np.rint(code / (4 * self.half)).astype(int)
        nodes = np.stack([first, code - first * (4 * self.half)], 1)
        gap, row = self._nearest(nodes)
        sure = gap < tight
        later = (gap < _LOOSE * self.maxima.near) & ~sure
        self.pending.append((nodes[later], gap[later], row[later]))
        self._misses.append(gap[sure])
        return self._take(nodes[sure], gap[sure], row[sure])

    def doubtful(self, share: float) -> Ints:
        """Take the surest (1), or a share, of the steps that were put off; returns the new front."""
        nodes = np.concatenate([part[0] for part in self.pending])
        gap = np.concatenate([part[1] for part in self.pending])
        row = np.concatenate([part[2] for part in self.pending])
        open_ = (self._known(nodes) < 0) & self.free[row]
        nodes, gap, row = nodes[open_], gap[open_], row[open_]
        order = np.argsort(gap, kind="stable")[: 1 if share == 1 else int(np.ceil(share * len(gap)))]
        rest = np.ones(len(gap), bool)
        rest[order] = False
        self.pending = [(nodes[rest], gap[rest], row[rest])]
        return self._take(nodes[order], gap[order], row[order])

    def _known(self, nodes: Ints) -> Ints:
        return self.table[nodes[..., 0] + self.half, nodes[..., 1] + self.half]

    def _nearest(self, nodes: Ints) -> tuple[Floats, Ints]:
        """How far (px) the maximum nearest to any neighbour's prediction is from it, and its row."""
        maxima = self.maxima
        around = self._known(nodes[:, None] + STEPS)
        near = around >= 0
        known = around[near]
        steps = np.broadcast_to(STEPS, (*around.shape, 2))[near]
        guess = maxima.position[self.row[known]] - np.einsum("nk,nkc->nc", steps, self.basis[known])
        gap, row = (np.full(around.shape, fill) for fill in (np.inf, 0))
        gap[near], found = maxima.tree.query(guess, distance_upper_bound=_LOOSE * maxima.near)
        row[near] = np.minimum(found, len(maxima.position) - 1)
        bright = np.where(near, maxima.height[self.row[around]], 0.0).sum(1) / near.sum(1)
        poor = ~self.free[row] | (maxima.height[row] < _FAINTEST_A * bright[:, None])
        gap[poor] = np.inf
        best = np.argmin(gap, 1)
        here = np.arange(len(nodes))
        return gap[here, best], row[here, best]

    def _take(self, nodes: Ints, gap: Floats, row: Ints) -> Ints:
        # Of two nodes that want one maximum, the nearer gets it.
        order = np.argsort(gap, kind="stable")
        order = order[np.unique(row[order], return_index=True)[1]]
        # And of two maxima that want one node.
        order = order[np.argsort(gap[order], kind="stable")]
        code = nodes[order, 0] * (4 * self.half) + nodes[order, 1]
        order = order[np.unique(code, return_index=True)[1]]
        nodes, gap, row = nodes[order], gap[order], row[order]
        if len(nodes) == 0:
            return nodes
        basis = self._learned(nodes, gap, row)
        self.table[nodes[:, 0] + self.half, nodes[:, 1] + self.half] = self.count + np.arange(len(nodes))
        self.free[row] = False
        self.index = np.concatenate([self.index, nodes])
        self.row = np.concatenate([self.row, row])
        self.basis = np.concatenate([self.basis, basis])
        return nodes

    def _learned(self, nodes: Ints, gap: Floats, row: Ints) -> Floats:
        """Basis (n, 2, 2) of new columns, from the neighbours that predicted them well."""
        position = self.maxima.position
        around = self._known(nodes[:, None] + STEPS)
        basis = self.basis[around]
        away = position[self.row[around]] - position[row][:, None]
        miss = np.hypot(*np.moveaxis(away - np.einsum("sk,nskc->nsc", STEPS, basis), -1, 0))
        good = (around >= 0) & (miss <= np.maximum(1.5 * gap, _TIGHT[1] * self.maxima.near)[:, None])
        weight = good.astype(float)
        normal = np.einsum("ns,si,sj->nij", weight, STEPS, STEPS) + _STIFF * np.eye(2)
        inherited = np.einsum("ns,nsij->nij", weight, basis) / weight.sum(1)[:, None, None]
        target = np.einsum("ns,si,nsc->nic", weight, STEPS, away) + _STIFF * inherited
        return np.linalg.solve(normal, target)


def _agreeing(maxima: Maxima, grown: Grown, usual: float | None) -> Grown:
    """The largest connected piece of columns that are where their neighbours expect them.

    Speckle of something amorphous lets growth go on, but not in step.
    """
    if len(grown.row) < 4:
        return grown
    around = Table(grown.index)(grown.index[:, None] + STEPS)
    position = maxima.position[grown.row]
    away = position[around] - position[:, None]
    mean = 0.5 * (grown.basis[around] + grown.basis[:, None])
    miss = np.hypot(*np.moveaxis(away - np.einsum("sk,nskc->nsc", STEPS, mean), -1, 0))
    middle = float(np.median(miss[around >= 0]))
    grown = replace(grown, miss=middle)
    most = np.clip(3 * (middle if usual is None else usual) / maxima.near, *_AGREE)
    good = (around >= 0) & (miss < most * maxima.near)
    passed = good.sum(1) >= _SUPPORT[0]
    passed = (good & passed[around]).sum(1) >= _SUPPORT[1]
    if not passed.any():
        return grown.kept(passed)
    solid = passed.copy()
    solid[passed] = in_blocks(maxima, grown.kept(passed))
    if solid.any():
        passed &= solid | ((good & solid[around]).sum(1) >= _SUPPORT[1])
    table = Table(grown.index[passed])
    label, _ = ndimage.label(table.values >= 0, np.ones((3, 3)))
    own = label[tuple((grown.index[passed] - table.low).T)]
    return grown.kept(np.flatnonzero(passed)[own == np.argmax(np.bincount(own))])


def in_blocks(maxima: Maxima, grown: Grown) -> NDArray[np.bool_]:
    """Which columns are in a block of 3 × 3 nodes that nearly all hold one, or no data.

    Threads and crumbs that grew through speckle are not.
    """
    table = Table(grown.index)
    steps = np.einsum("sk,nkc->nsc", STEPS, grown.basis)
    blank = ~maxima.holds_data(maxima.position[grown.row][:, None] + steps)
    found = table.values >= 0
    found[tuple(((grown.index[:, None] + STEPS)[blank] - table.low).T)] = True
    block = np.ones((3, 3), int)
    full = ndimage.convolve(found.astype(int), block, mode="constant") >= _BLOCK
    return np.asarray(ndimage.binary_dilation(full, block)[tuple((grown.index - table.low).T)])
