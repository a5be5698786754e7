"""The grain's tilt and each variant's own lean, from the direction of the beam inside every variant.

In a rhombohedral variant columns lean by 9.9 mrad along x and along y, to one side or the other as d along the beam points out of or
into the page, which the image does not show; a film that is clamped leans by less. The beam inside variant v is then at

    tilt_v = grain − share · z_v · lean(signs of d in the plane)

with the grain's tilt and the share of the lean the same for all, and z_v = ±1. A substrate does not lean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tiltsim.synth.variants import variant

Floats = NDArray[np.float64]

#: Largest share of the lean; less evidence than this (of χ²) leaves readings of the grain open, and of the signs along the beam.
_LARGEST_SHARE, _DECIDED, _SIGNS = 1.1, 4.0, 9.0


@dataclass(frozen=True, eq=False)
class Leans:
    """How tilts are explained by one grain.

    Parameters
    ----------
    grain, grain_std : ndarray (2,)
        mrad.
    share, share_std : float
        Of the full rhombohedral lean.
    along : tuple of int
        Sign z of d along the beam of each variant; 0 for the reference, and where its lean does not tell.
    leans : ndarray (region, 2)
        tilt_v − grain, mrad.
    chi2 : float
        Of ``freedom``.
    freedom : int
    decided : bool
        Whether nothing else explains the tilts nearly as well with another grain: another reading of the signs, or another share where
        all variants lean alike.
    """

    grain: Floats
    grain_std: Floats
    share: float
    share_std: float
    along: tuple[int, ...]
    leans: Floats
    chi2: float
    freedom: int
    decided: bool


def full_lean() -> float:
    """Of rhombohedral BiFeO3 along x and along y, mrad."""
    return float(np.abs(variant("R3c", "[111]").lean[0]))


def part_leans(tilts: Floats, covariance: Floats, d: Sequence[Floats | None]) -> Leans | None:
    """Explain the tilts of several regions by one grain.

    Parameters
    ----------
    tilts : ndarray (region, 2)
        Along the lattice's axes, mrad.
    covariance : ndarray (2 · region, 2 · region)
        Of their errors, mrad².
    d : sequence of ndarray (2,) or None
        Along the lattice's axes; None for a reference.

    Returns
    -------
    Leans or None
        None where there are fewer than two regions: one tilt cannot be parted.
    """
    if len(tilts) < 2:
        return None
    size = full_lean()
    signs = [np.zeros(2) if one is None else np.where(np.asarray(one) >= 0, 1.0, -1.0) for one in d]
    choices = [(0,) if one is None else (1, -1) for one in d]
    root = np.linalg.inv(np.linalg.cholesky(covariance + 1e-9 * np.eye(len(covariance))))
    target = root @ tilts.ravel()
    found = []
    for along in product(*choices):
        lean = np.concatenate([-size * z * s for z, s in zip(along, signs, strict=True)])
        plain = np.column_stack([np.tile(np.eye(2), (len(tilts), 1)), lean])
        design = root @ plain
        told = np.linalg.matrix_rank(plain) == 3
        solution = np.linalg.lstsq(design, target, rcond=None)[0]
        if not told or not 0.0 <= solution[2] <= _LARGEST_SHARE:
            solution[2] = np.clip(solution[2], 0.0, _LARGEST_SHARE) if told else 0.0
            solution[:2] = np.linalg.lstsq(design[:, :2], target - design[:, 2] * solution[2], rcond=None)[0]
        error = np.linalg.pinv(design.T @ design)
        found.append((float(((target - design @ solution) ** 2).sum()), along, solution, error, told))
    found.sort(key=lambda one: one[0])
    chi2, along, solution, error, _ = found[0]
    rivals = [one for one in found[1:] if one[0] - chi2 < _DECIDED]
    spread = np.sqrt(np.diag(error))
    told = all(one[4] for one in (found[0], *rivals))
    if not told:
        # All lean alike: any share goes with a grain moved along.
        spread = spread + _LARGEST_SHARE / np.sqrt(12.0) * np.array([size, size, 1.0])
    apart = max((float(np.abs(one[2][:2] - solution[:2]).max()) for one in rivals), default=0.0)
    decided = told and apart < 3 * float(spread[:2].max())
    readings = np.array([one[1] for one in found if one[0] - chi2 < _SIGNS])
    sure = (readings == readings[0]).all(axis=0) & (solution[2] > 3.0 * spread[2])
    return Leans(
        solution[:2], spread[:2], float(solution[2]), float(spread[2]),
        tuple(int(z) if s else 0 for z, s in zip(along, sure, strict=True)), tilts - solution[:2], chi2, 2 * len(tilts) - 3, decided,
    )  # fmt: skip
