"""Lattices that vacuum, missing data or a grain boundary cut in pieces."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .growing import STEPS, Grown, Table, grow_from, in_blocks
from .lattice import Lattice
from .maxima import Maxima

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FAINTEST = 0.3  # of the A columns found: a piece is begun from no fainter maximum
_REACH = 0.3  # of the A-B distance: a seed is a maximum whose eight neighbours are so near their places
_HITS = 6  # of the eight
_FEWEST = 9  # columns that make a piece
_TRIES = 12  # seeds
_SURE_GAP = 3.0  # cells: across less, the lattice itself says what is A
_SURE_PLACE = 0.2  # cells: if it fits so well
_SHIFT = 3  # cells: how far indices are moved to keep those of two pieces apart
_PAIRS = 20  # columns on either side that say how two pieces lie


def with_other_pieces(maxima: Maxima, lattice: Lattice, main: Grown) -> Grown:
    """Add what cannot be reached column by column.

    Parameters
    ----------
    maxima : Maxima
    lattice : Lattice
        px.
    main : Grown
        The piece that holds the lattice's origin.

    Returns
    -------
    Grown
        Indices run on across a gap as the lattice nearest to it does. Which columns of another piece are A is
        said by the lattice across a narrow gap where it fits, else by brightness: as in the main piece.
    """
    fractions = lattice.motif.fractions
    free = np.ones(len(maxima.position), bool)
    typical = _heights(maxima, main, fractions)
    found = main
    least = _FAINTEST * float(np.median(maxima.height[main.row]))
    free &= maxima.height > least
    for _ in range(_TRIES):
        free &= ~_covered(maxima, found)
        seed, basis = _seed(maxima, found, free)
        if seed < 0:
            break
        piece = grow_from(maxima, seed, basis, free, main.miss)
        if _solid(maxima, piece):
            site = _site(maxima, found, piece, fractions, typical)
            if site:
                piece = _restarted(maxima, piece, fractions[site], free, main.miss)
        if _solid(maxima, piece):
            found = _joined(maxima, found, piece)
        free[seed] = False
    return found


def _solid(maxima: Maxima, piece: Grown) -> bool:
    return len(piece.row) >= _FEWEST and bool(in_blocks(maxima, piece).any())


def _covered(maxima: Maxima, found: Grown) -> NDArray[np.bool_]:
    """Maxima within the cells of columns that are found."""
    cell = float(np.median(np.hypot(found.basis[..., 0], found.basis[..., 1]).min(1)))
    tree = KDTree(maxima.position[found.row])
    return tree.query(maxima.position, distance_upper_bound=0.95 * cell)[0] < np.inf


def _seed(maxima: Maxima, found: Grown, free: NDArray[np.bool_]) -> tuple[int, Floats]:
    """The free maximum with the most neighbours at lattice steps, the brightest of those; −1 if there is none."""
    rows = np.flatnonzero(free)
    if len(rows) < _FEWEST:
        return -1, np.eye(2)
    nearest = KDTree(maxima.position[found.row]).query(maxima.position[rows])[1]
    basis = found.basis[nearest]
    guess = maxima.position[rows][:, None] + np.einsum("sk,nkc->nsc", STEPS, basis)
    gap, _ = KDTree(maxima.position[rows]).query(guess, distance_upper_bound=_REACH * maxima.near)
    hits = np.isfinite(gap).sum(1)
    good = hits >= _HITS
    if not good.any():
        return -1, np.eye(2)
    best = np.flatnonzero(good)[np.argmax(maxima.height[rows[good]] * (hits[good] - _HITS + 1))]
    return int(rows[best]), basis[best]


def _heights(maxima: Maxima, grown: Grown, fractions: Floats) -> Floats:
    """Median height of the image at every site, relative to the cell's darkest place."""
    steps = np.einsum("sk,nkc->nsc", fractions, grown.basis)
    at = maxima.position[grown.row][:, None] + steps
    return np.median(maxima.sampled(maxima.relief, at), 0)


def _site(maxima: Maxima, found: Grown, piece: Grown, fractions: Floats, typical: Floats) -> int:
    """Which site of the motif a piece was grown on."""
    step, gap = _across(maxima, found, piece)
    if gap < _SURE_GAP:
        rest = step - fractions
        rest -= np.rint(rest)
        far = np.hypot(*rest.T)
        if far.min() < _SURE_PLACE:
            return int(np.argmin(far))
    scores = []
    for fraction in fractions:
        seen = _heights(maxima, piece, fractions - fraction)
        scores.append(float(seen @ typical / np.linalg.norm(seen)))
    return int(np.argmax(scores))


def _across(maxima: Maxima, found: Grown, piece: Grown) -> tuple[Floats, float]:
    """From a found column to the piece's own origin, in cells (2,), and the width of the gap, in cells."""
    own, other = maxima.position[piece.row], maxima.position[found.row]
    distance, nearest = KDTree(other).query(own)
    closest = np.argsort(distance, kind="stable")[:_PAIRS]
    partner = nearest[closest]
    mean = 0.5 * (found.basis[partner] + piece.basis[closest])
    step = np.linalg.solve(np.swapaxes(mean, 1, 2), (own[closest] - other[partner])[..., None])[..., 0]
    place = found.index[partner] + step - piece.index[closest]
    # Means around the first, as places a whole cell apart are the same.
    rest = place - place[0]
    mean_place = place[0] + np.median(rest - np.rint(rest), 0)
    mean_place += np.median(np.rint(rest), 0)
    return mean_place, float(np.median(np.hypot(*step.T)))


def _restarted(
    maxima: Maxima, piece: Grown, fraction: Floats, free: NDArray[np.bool_], usual: float
) -> Grown:
    """The same piece grown on A."""
    starts = maxima.position[piece.row] - np.einsum("k,nkc->nc", fraction, piece.basis)
    gap, row = maxima.tree.query(starts)
    gap = np.where(free[row], gap, np.inf)
    best = int(np.argmin(gap))
    if gap[best] > _REACH * maxima.near:
        return piece.kept(np.zeros(len(piece.row), bool))
    return grow_from(maxima, int(row[best]), piece.basis[best], free, usual)


def _joined(maxima: Maxima, found: Grown, piece: Grown) -> Grown:
    step, _ = _across(maxima, found, piece)
    table = Table(found.index)
    start = np.rint(step).astype(int)
    shifts = np.array(
        sorted(product(range(-_SHIFT, _SHIFT + 1), repeat=2), key=lambda s: s[0] ** 2 + s[1] ** 2)
    )
    clashes = [int((table(piece.index + start + shift) >= 0).sum()) for shift in shifts]
    index = piece.index + start + shifts[int(np.argmin(clashes))]
    new = table(index) < 0
    return Grown(
        np.concatenate([found.index, index[new]]),
        np.concatenate([found.row, piece.row[new]]),
        np.concatenate([found.basis, piece.basis[new]]),
        found.miss,
    )
