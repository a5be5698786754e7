"""Cells that a motif may have, given two periods of an image."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .lattice import Lattice, reduced
from .motif import Motif

Floats = NDArray[np.float64]

# Copies of a cell in 2 × 2 periods: twice as large as one period, as large, and a half, a third, a quarter of it.
_COPIES = (2, 4, 8, 12, 16)
# Super-tetragonal BiFeO3 has c/a = 1.23 (Béa et al. 2009, 10.1103/PhysRevLett.102.217603); uncalibrated scans
# add some percent. Seen along [101] of a tetragonal crystal the ratio is √(1 + (a/c)²), along [110] √2 c/a.
_SQUARE = 1.32
_OBLONG = (1.2, 1.87)
_RIGHT = 10.0  # degrees from 90: monoclinic perovskites have 2, a sheared scan a few more
_OWN_RATIO, _OWN_ANGLE = 0.15, 8.0  # relative, degrees: how far a user's cell may be from what it says
_COMBINE = (-2, -1, 0, 1, 2)  # of reduced vectors, in a cell that need not be reduced


@dataclass(frozen=True)
class Sublattice:
    """All translations of a cell that repeats a whole number of times in 2 × 2 periods.

    Attributes
    ----------
    form : tuple of int
        (p, q, r): the cells of 2 × 2 periods are p a, q a + r b of this lattice's own vectors.
    """

    form: tuple[int, int, int]

    @property
    def copies(self) -> int:
        """Cells in 2 × 2 periods."""
        return self.form[0] * self.form[2]

    def vectors(self, periods: Floats) -> Floats:
        """(2, 2) basis, px."""
        p, q, r = self.form
        return np.linalg.inv([[p, q], [0, r]]) @ (2 * np.asarray(periods))

    def shifts(self, size: int) -> NDArray[np.int64]:
        """(copies, 2) translations in bins, where 2 × 2 periods have `size` × `size` of them."""
        p, q, r = self.form
        basis = np.linalg.inv([[p, q], [0, r]]) * size
        steps = np.array(list(product(range(p * r), range(r)))) @ basis
        return np.unique(np.rint(steps).astype(int) % size, axis=0)

    def averaged(self, values: Floats) -> Floats:
        """A fold (size, size) averaged over all translations."""
        shifts = self.shifts(values.shape[0])
        return np.mean([np.roll(values, s.tolist(), (0, 1)) for s in shifts], axis=0)


@dataclass(frozen=True)
class Candidate:
    """A cell for a motif: its basis (2, 2) in px, and how far ratio and angle are from the ideal (0 to about 1)."""

    motif: Motif
    lattice: Sublattice
    vectors: Floats
    misfit: float

    @property
    def area(self) -> float:
        """px²."""
        return float(abs(np.linalg.det(self.vectors)))

    @property
    def near(self) -> float:
        """Shortest distance between columns of two kinds, px."""
        (ax, ay), (bx, by) = self.vectors.tolist()
        return Lattice((0.0, 0.0), (ax, ay), (bx, by), self.motif).neighbour_distance


def candidates(periods: Floats, motifs: tuple[Motif, ...], *, free: bool) -> list[Candidate]:
    """All cells with about the right shape.

    Parameters
    ----------
    periods : (2, 2) array
        px.
    motifs : tuple of Motif
        Any of these.
    free : bool
        A user's motif, in any orientation; perovskites come in their few orientations already.

    Returns
    -------
    list of Candidate
    """
    found = []
    for copies in _COPIES:
        for p in (n for n in range(1, copies + 1) if copies % n == 0):
            for q in range(p):
                lattice = Sublattice((p, q, copies // p))
                base = reduced(lattice.vectors(periods))
                for motif in motifs:
                    found += _own(motif, lattice, base) if free else _perovskite(motif, lattice, base)
    return found


def _shape(vectors: Floats) -> tuple[float, float]:
    a, b = np.hypot(*vectors.T)
    cosine = float(vectors[0] @ vectors[1] / (a * b))
    return float(b / a), float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _perovskite(motif: Motif, lattice: Sublattice, base: Floats) -> list[Candidate]:
    ratio, angle = _shape(base)
    if abs(angle - 90) > _RIGHT:
        return []
    if motif.ratio == 1:
        fits = 1 / _SQUARE < ratio < _SQUARE
    else:
        # B lies half-way along the longer vector.
        long = ratio if motif.ratio > 1 else 1 / ratio
        fits = _OBLONG[0] < long < _OBLONG[1]
    return [Candidate(motif, lattice, base, 0.0)] if fits else []


def _own(motif: Motif, lattice: Sublattice, base: Floats) -> list[Candidate]:
    found = []
    steps = np.array(list(product(_COMBINE, _COMBINE)))
    area = abs(np.linalg.det(base))
    for m, n in product(steps, steps):
        if abs(m[0] * n[1] - m[1] * n[0]) != 1:
            continue
        vectors = np.array([m, n]) @ base
        ratio, angle = _shape(vectors)
        misfit = max(abs(np.log(ratio / motif.ratio)) / _OWN_RATIO, abs(angle - motif.angle) / _OWN_ANGLE)
        if area > 0 and misfit < 1:
            found.append(Candidate(motif, lattice, vectors, float(misfit)))
    return found
