"""The ⟨111⟩ variants of the polar phases as `structures.build` makes them: displacement, lean, shear, edges.

Seen along [100] with [001] up: image x is −[010], y is −[001] and z, along the beam, is [100].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from structures import build
from structures.phases import SRTIO3_A, vegard

#: The eight directions that d can take, written as :func:`structures.build` reads them.
VARIANTS = ("[111]", "[11-1]", "[1-11]", "[1-1-1]", "[-111]", "[-11-1]", "[-1-11]", "[-1-1-1]")


@dataclass(frozen=True)
class Variant:
    """What one variant looks like in projection.

    Parameters
    ----------
    d : ndarray, shape (2, 2)
        d (x, y) at Sm fractions 0 and 1, pm: both phases are linear in between.
    lean : ndarray, shape (2,)
        Lean of its columns, mrad; see :class:`structures.Specimen`.
    shear : float
        How far its angle between x and y falls short of 90°, mrad.
    """

    d: NDArray[np.float64]
    lean: NDArray[np.float64]
    shear: float


@lru_cache(maxsize=32)
def variant(phase: str, name: str) -> Variant:
    """``name`` (of :data:`VARIANTS`) in ``phase`` "R3c" or "Cc"."""
    pure, full = (build(phase, samarium=x, thickness=8.0, variant=name) for x in (0.0, 1.0))
    d = np.array([s.truth.cell_d.mean("cell").values for s in (pure, full)])
    return Variant(d, np.array(pure.lean_mrad), pure.shear_mrad)


def edges(phase: str, samarium: float, clamped: bool) -> tuple[float, float, float]:
    """Edges of a cell along x, y and the beam, Å.

    ``clamped`` films share SrTiO3's in-plane edge (along x and the beam) and keep their own along y. Cc has it anyway.
    """
    if phase == "SrTiO3":
        return SRTIO3_A, SRTIO3_A, SRTIO3_A
    if phase == "R3c":
        own = vegard(samarium)
        return (SRTIO3_A, own, SRTIO3_A) if clamped else (own, own, own)
    x, y, z = _cc_edges()
    return x, y * vegard(samarium) / vegard(0.0), z


@lru_cache(maxsize=1)
def _cc_edges() -> tuple[float, float, float]:
    lengths = build("Cc", thickness=8.0).atoms.cell.lengths() / 2.0
    return float(lengths[0]), float(lengths[1]), float(lengths[2])


def signs(name: str) -> tuple[int, int, int]:
    """Signs of d of variant ``name`` along image x, y, z."""
    u, v, w = (-1 if text.startswith("-") else 1 for text in _indices(name))
    return -v, -w, u


def named(xyz: tuple[int, int, int]) -> str:
    """The variant whose d has these signs along image x, y, z: the inverse of :func:`signs`."""
    x, y, z = xyz
    return f"[{z}{-x}{-y}]"


def _indices(name: str) -> list[str]:
    return name.strip("[]").replace("1", "1 ").split()
