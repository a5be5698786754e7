"""Carry the lattice over the whole image: which column is which, and about where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from .errors import ImageError
from .growing import STEPS, Grown, Table, grow_from
from .lattice import Lattice
from .maxima import Maxima, find_maxima
from .pieces import with_other_pieces
from .presence import present

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FEWEST = 4  # A columns: one cell
_SEEDS = 3  # cells around the origin in which growth may begin
_DISAGREE = 0.25  # of the A-B distance: A columns that expect B so far apart are not of one lattice
_SAME = 0.5  # of the same: two places nearer than this are one
_WHOLE = 0.9  # of its window: a column with less is cut, and its maximum not its middle
_CLOSING = 2  # cells: gaps up to twice as wide count as missing columns


@dataclass(frozen=True)
class Sites:
    """Where columns are expected.

    Attributes
    ----------
    position : (n, 2) array
        (x, y), px.
    index : (n, 2) array
        Lattice indices (a, b); every other column carries the index of its cell.
    kind : (n,) int array
        Which site of the motif; 0 is A.
    inside : (n,) bool array
        False for columns beyond the border of the data: never fitted, but their tails reach in.
    neighbour : (n,) array
        For those beyond the border, the row of the nearest fitted column of the same kind.
    vectors : (2, 2) array
        Mean lattice vectors over the whole image, px.
    expected : int
        A columns that the crystal's outline should hold: those found and those missing inside.
    """

    position: Floats
    index: Ints
    kind: Ints
    inside: NDArray[np.bool_]
    neighbour: Ints
    vectors: Floats
    expected: int

    @property
    def is_a(self) -> NDArray[np.bool_]:
        """Which rows are A columns."""
        return self.kind == 0


def grow(values: Floats, lattice: Lattice, *, radius: float, least_coverage: float) -> Sites:
    """Find the A columns one by one, then place all others between them.

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
    maxima = find_maxima(values, lattice)
    grown = _grown(maxima, lattice)
    position = _settled(values, grown, maxima.position[grown.row], radius)
    shell = _Shell.around(grown, position)
    covered = coverage(values, shell.position, radius) >= least_coverage
    # A beyond the border by one ring; within the data only those that were found.
    keep = shell.known | ~covered
    parts = [(shell.index[keep], shell.position[keep], covered[keep])]
    for site in range(1, len(lattice.motif.sites)):
        cells, guess, has_a = _between(shell, lattice, site)
        inside = coverage(values, guess, radius) >= least_coverage
        seen = present(maxima, position, guess, inside & has_a.all(1))
        keep = np.where(inside, has_a.any(1) & seen, True)
        parts.append((cells[keep], guess[keep], inside[keep]))
    count = [len(part[0]) for part in parts]
    index, places = np.vstack([part[0] for part in parts]), np.vstack([part[1] for part in parts])
    inside = np.concatenate([part[2] for part in parts])
    kind = np.repeat(np.arange(len(parts)), count)
    neighbour = np.full(len(inside), -1)
    for k in range(len(parts)):
        real, ghost = (np.flatnonzero((inside == here) & (kind == k)) for here in (True, False))
        if len(real) == 0:
            raise ImageError(
                f"image: no full window around any {lattice.motif.labels[k]} column; give a larger image."
            )
        if len(ghost):
            neighbour[ghost] = real[KDTree(places[real]).query(places[ghost])[1]]
    design = np.column_stack([np.ones(len(grown.index)), grown.index])
    vectors = np.asarray(np.linalg.lstsq(design, position, rcond=None)[0][1:], float)
    gaps = _gaps(grown, position, maxima.near)
    missing = int((coverage(values, gaps, radius) >= least_coverage).sum()) if len(gaps) else 0
    return Sites(places, index, kind, inside, neighbour, vectors, int((inside & (kind == 0)).sum()) + missing)


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
    ny, nx = values.shape
    centre = np.rint(position).astype(int)
    inner = ((centre >= reach) & (centre < np.array([nx, ny]) - reach)).all(1)
    fraction = np.ones(len(position))
    # Without NaN only windows at the border need a look.
    rows = np.flatnonzero(~inner | ~np.isfinite(values.sum()))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = dx**2 + dy**2 <= radius**2
    x, y = centre[rows, :1] + dx[disc], centre[rows, 1:] + dy[disc]
    within = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    valid = np.isfinite(values[np.clip(y, 0, ny - 1), np.clip(x, 0, nx - 1)])
    fraction[rows] = (within & valid).mean(1)
    return fraction


def _grown(maxima: Maxima, lattice: Lattice) -> Grown:
    """All A columns, from the likeliest start near the lattice's origin."""
    free = np.ones(len(maxima.position), bool)
    grown = grow_from(maxima, _seed(lattice, maxima), lattice.vectors, free)
    if len(grown.row) < _FEWEST:
        raise ImageError(
            f"image: only {len(grown.row)} A columns are found on the lattice; give an image with at least one full cell."
        )
    return with_other_pieces(maxima, lattice, grown)


def _seed(lattice: Lattice, maxima: Maxima) -> int:
    """A maximum on a lattice node near the origin, as the column at the origin itself may be missing."""
    span = np.arange(-_SEEDS, _SEEDS + 1)
    nodes = np.stack(np.meshgrid(span, span), -1).reshape(-1, 2)
    gap, row = maxima.tree.query(np.array(lattice.origin) + nodes @ lattice.vectors)
    on = gap < 0.3 * lattice.neighbour_distance
    if not on.any():
        raise ImageError("image: no intensity maxima lie on its lattice; give a less noisy image.")
    # All but the faintest are A: of those, the one nearest the origin.
    bright = on & (maxima.height[row] > 0.8 * np.median(maxima.height[row[on]]))
    return int(row[bright][np.argmin(np.hypot(*(nodes[bright] @ lattice.vectors).T))])


@dataclass(frozen=True)
class _Shell:
    """The A columns found and one ring of nodes around them: index, position, basis, and which are found."""

    index: Ints
    position: Floats
    basis: Floats
    known: NDArray[np.bool_]

    @classmethod
    def around(cls, grown: Grown, position: Floats) -> _Shell:
        nodes = (grown.index[:, None] + STEPS).reshape(-1, 2)
        guess = (position[:, None] + np.einsum("sk,nkc->nsc", STEPS, grown.basis)).reshape(-1, 2)
        basis = np.repeat(grown.basis, len(STEPS), 0)
        new = Table(grown.index)(nodes) < 0
        unique, inverse = np.unique(nodes[new], axis=0, return_inverse=True)
        mean = _mean_by(inverse.ravel(), np.column_stack([guess[new], basis[new].reshape(-1, 4)]))
        return cls(
            np.concatenate([grown.index, unique]),
            np.concatenate([position, mean[:, :2]]),
            np.concatenate([grown.basis, mean[:, 2:].reshape(-1, 2, 2)]),
            np.arange(len(grown.index) + len(unique)) < len(grown.index),
        )


def _settled(values: Floats, grown: Grown, position: Floats, radius: float) -> Floats:
    """Columns cut by the border of the data moved to where their whole neighbours expect them."""
    whole = coverage(values, position, radius) >= _WHOLE
    around = Table(grown.index)(grown.index[~whole][:, None] + STEPS)
    good = (around >= 0) & whole[around]
    guess = position[around] - np.einsum("sk,nskc->nsc", STEPS, grown.basis[around])
    cut = np.flatnonzero(~whole)[good.any(1)]
    # The median, as neighbours across an interface may expect it elsewhere.
    settled = position.copy()
    settled[cut] = np.nanmedian(np.where(good[..., None], guess, np.nan)[good.any(1)], 1)
    return settled


def _mean_by(group: Ints, values: Floats) -> Floats:
    count = np.bincount(group)
    return np.stack([np.bincount(group, column) / count for column in values.T], 1).reshape(
        len(count), values.shape[1]
    )


def _between(shell: _Shell, lattice: Lattice, site: int) -> tuple[Ints, Floats, NDArray[np.bool_]]:
    """Cells (n, 2), place of a site in each, and which of its surrounding A columns (n, k) are found.

    Each A column found expects it at its own place, with its own basis; only where none is found do the nodes
    beyond say. Where they disagree, at an interface or a dislocation, most of them are believed.
    """
    offsets = lattice.motif.surroundings(site)
    fraction = lattice.motif.fractions[site]
    cells = np.unique((shell.index[:, None] - offsets).reshape(-1, 2), axis=0)
    row = Table(shell.index)(cells[:, None] + offsets)
    known: NDArray[np.bool_] = (row >= 0) & shell.known[row]
    steps = fraction - offsets
    guess = shell.position[row] + np.einsum("sk,nskc->nsc", steps, shell.basis[row])
    near = lattice.neighbour_distance
    usable = np.where(np.any(known, axis=1)[:, None], known, row >= 0)
    apart = np.hypot(*np.moveaxis(guess[:, :, None] - guess[:, None], -1, 0))
    alike = (apart < _DISAGREE * near) & usable[:, :, None] & usable[:, None]
    weight = alike[np.arange(len(cells)), alike.sum(2).argmax(1)][..., None].astype(float)
    mean = (guess * weight).sum(1) / weight.sum(1)
    # No other column stands on an A column, or on one of its own kind with more A columns around it.
    real = KDTree(shell.position[shell.known])
    agree: NDArray[np.bool_] = real.query(mean)[0] > _SAME * near
    rank = np.argsort(-(known * weight[..., 0]).sum(1), kind="stable")
    rank = rank[agree[rank]]
    tree = KDTree(mean[rank])
    for first, second in sorted(tree.query_pairs(_SAME * near)):
        if agree[rank[first]]:
            agree[rank[second]] = False
    return cells[agree], mean[agree], known[agree]


def _gaps(grown: Grown, position: Floats, near: float) -> Floats:
    """Places (n, 2) in small gaps of what is found, where there is no column."""
    table = Table(grown.index, margin=2 * _CLOSING + 2)
    found = table.values >= 0
    whole = ndimage.binary_closing(found, np.ones((3, 3)), iterations=_CLOSING)
    missing = np.argwhere(whole & ~found) + table.low
    nearest = KDTree(grown.index).query(missing)[1]
    step = np.einsum("nk,nkc->nc", missing - grown.index[nearest], grown.basis[nearest])
    guess = position[nearest] + step
    return guess[KDTree(position).query(guess)[0] > _SAME * near]
