"""Plane waves of one residual wave vector: which beams enter the lens, which pixels a detector can need.

A specimen of box L repeated N × N mixes only plane waves that differ by a reciprocal vector of L. The waves
of the N × N box therefore fall into N² families q + G, each with its own residual wave vector q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltsim.settings import Detector, Microscope

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """The box of the specimen, its repetition, and the grid that holds its waves.

    Parameters
    ----------
    box : (float, float)
        Period of the specimen along x and y, Å.
    gpts : (int, int)
        Points over one period.
    repeats : (int, int)
        How often the period is repeated before the probe meets its copy: the residual wave vectors along
        x and y.
    wavelength : float
        Å.
    """

    box: tuple[float, float]
    gpts: tuple[int, int]
    repeats: tuple[int, int]
    wavelength: float

    @property
    def wave_vectors(self) -> list[tuple[int, int]]:
        """Residual wave vectors, in units of 1/(N L)."""
        return [(i, j) for i in range(self.repeats[0]) for j in range(self.repeats[1])]

    @property
    def angular_step(self) -> Floats:
        """Angle between neighbouring waves of the repeated box along x and y, rad."""
        return self.wavelength / (np.array(self.repeats) * np.array(self.box))

    @property
    def limit(self) -> float:
        """Largest scattering angle that the grid holds, rad: abTEM keeps the inner two thirds."""
        sampling = np.array(self.box) / np.array(self.gpts)
        return float(self.wavelength / sampling.max() / 3.0)

    def vectors(self, indices: Ints, q: tuple[int, int]) -> Floats:
        """Wave vectors q + G of reciprocal ``indices`` (n, 2), 1/Å."""
        return (indices + np.array(q) / np.array(self.repeats)) / np.array(self.box)

    def within(self, angle: float, q: tuple[int, int]) -> Ints:
        """Indices (n, 2) of the reciprocal vectors G for which q + G lies within ``angle``, rad."""
        half = np.ceil(angle / self.wavelength * np.array(self.box)).astype(int) + 1
        axes = [np.arange(-h, h + 1) for h in half]
        indices = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        k = np.hypot(*self.vectors(indices, q).T) * self.wavelength
        return indices[k <= angle]


def shifts(tilts_mrad: Sequence[tuple[float, float]], wavelength: float) -> Floats:
    """Wave vectors (n, 2) of tilted beams, 1/Å: tan(tilt)/λ, the drift per depth over the wavelength."""
    return np.tan(np.asarray(tilts_mrad, dtype=float).reshape(-1, 2) * 1e-3) / wavelength


def beams(
    grid: Grid, microscope: Microscope, tilts_mrad: Sequence[tuple[float, float]], q: tuple[int, int]
) -> Ints:
    """Reciprocal vectors G (n, 2) whose wave q + G lies inside the aperture at any of the tilts."""
    centres = shifts(tilts_mrad, grid.wavelength)
    # The soft edge reaches half a step (or half its own width) beyond the cutoff.
    margin = max(float(np.hypot(*grid.angular_step)), microscope.edge * 1e-3) / 2
    radius = microscope.semiangle_cutoff * 1e-3 + margin
    largest = float(np.hypot(*centres.T).max()) * grid.wavelength
    indices = grid.within(radius + largest, q)
    return indices[_any_within(grid.vectors(indices, q), centres, 0.0, radius / grid.wavelength)]


def pixels(
    grid: Grid, detectors: Sequence[Detector], tilts_mrad: Sequence[tuple[float, float]], q: tuple[int, int]
) -> Ints:
    """Reciprocal vectors G (n, 2) whose wave q + G hits any detector at any of the tilts."""
    centres = shifts(tilts_mrad, grid.wavelength)
    largest = float(np.hypot(*centres.T).max()) * grid.wavelength
    # A sharp ring is interpolated between neighbouring places of the grid, a smooth one fades.
    step = float(np.hypot(*grid.angular_step))
    rims = [
        (d.inner * 1e-3 - margin, d.outer * 1e-3 + margin)
        for d in detectors
        for margin in [d.edge * 1e-3 / 2 or step]
    ]
    indices = grid.within(min(max(high for _, high in rims) + largest, grid.limit), q)
    k = grid.vectors(indices, q)
    hit = np.zeros(len(k), dtype=bool)
    for low, high in rims:
        hit |= _any_within(k, centres, low / grid.wavelength, high / grid.wavelength)
    return indices[hit]


def _any_within(k: Floats, centres: Floats, low: float, high: float) -> NDArray[np.bool_]:
    """Which of ``k`` lie within ``low`` to ``high`` of any of ``centres``, 1/Å."""
    hit = np.zeros(len(k), dtype=bool)
    for centre in centres:
        distance = np.hypot(*(k - centre).T)
        hit |= (distance >= low) & (distance <= high)
    return hit
