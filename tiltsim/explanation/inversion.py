"""Image inversion: tilt, thickness and displacement of all domains from their averaged cells, and how far to believe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tiltsim.explanation.fitting import Posterior, Solution
from tiltsim.explanation.misfit import Misfit, find_misfit
from tiltsim.explanation.model import PRIORS, SHARED, Model
from tiltsim.explanation.regions import Region
from tiltsim.library import Library

Floats = NDArray[np.float64]

#: Solutions are rivals if their −2 log posteriors differ by less than this (4 standard deviations of one unknown), in units of how much
#: more than counting noise the averaged cells scatter.
RIVAL = 16.0


@dataclass(frozen=True, eq=False)
class Inversion:
    """The joint fit of all regions, along the image's axes.

    Parameters
    ----------
    regions : list of Region
    posterior : Posterior
        Data, model and priors.
    solution : Solution
        The best; ``rivals`` explain the image nearly as well. Along the lattice's axes.
    covariance : ndarray (unknown, unknown)
        Of the solution: noise as bands of scan lines show it, and what is wrong with the model; widened where the fit leaves more.
    misfit : Misfit
        What the solution leaves over.
    tilt, d, bias : ndarray (region, 2)
        mrad and pm; ``bias`` is the apparent d less d.
    tilt_cov, bias_cov : ndarray (2 · region, 2 · region)
        Of all regions together. ``bias_cov`` is that of d: a corrected map has the mean d, whatever the apparent one.
    """

    regions: list[Region]
    posterior: Posterior
    solution: Solution
    rivals: list[Solution]
    covariance: Floats
    misfit: Misfit
    tilt: Floats
    tilt_cov: Floats
    d: Floats
    bias: Floats
    bias_cov: Floats

    @property
    def model(self) -> Model:
        """Of the averaged cells."""
        return self.posterior.model

    @cached_property
    def _shared(self) -> tuple[Floats, Floats]:
        """Unknowns that all regions share and their covariance, along the image's axes."""
        layout = self.model.layout
        places = [layout.place(name) for name in SHARED]
        turn = shared_turn(self.regions[0])
        return turn @ self.solution.theta[places], turn @ self.covariance[np.ix_(places, places)] @ turn.T

    def number(self, name: str) -> tuple[float, float]:
        """Value and standard error of an unknown that all regions share, along the image's axes."""
        values, covariance = self._shared
        place = list(SHARED).index(name)
        return float(values[place]), float(np.sqrt(covariance[place, place]))


def shared_turn(region: Region) -> Floats:
    """(shared, shared) Takes what all regions share from the lattice's axes, which are turned by θ, to the image's.

    Coma turns with the axes, two-fold astigmatism by twice as much, and the source's covariance as a matrix.
    """
    names = list(SHARED)
    result = np.eye(len(names))
    m = region.turn()
    theta = float(np.arctan2(m[1, 0], m[0, 0]))
    for name, order in (("C12", 2), ("C21", 1)):
        at = [names.index(f"{name}_{axis}") for axis in "xy"]
        c, s = np.cos(order * theta), np.sin(order * theta)
        result[np.ix_(at, at)] = [[c, -s], [s, c]]
    at = [names.index(f"source_{pair}") for pair in ("xx", "yy", "xy")]
    c, s = np.cos(theta), np.sin(theta)
    result[np.ix_(at, at)] = [
        [c * c, s * s, -2 * c * s],
        [s * s, c * c, 2 * c * s],
        [c * s, -c * s, c * c - s * s],
    ]
    return result


def invert(
    regions: Sequence[Region],
    library: Library,
    *,
    samarium: float = 0.0,
    priors: Mapping[str, tuple[float, float]] = PRIORS,
) -> Inversion:
    """Fit the averaged cells of all regions together.

    Parameters
    ----------
    regions : sequence of Region
    library : Library
        With a lens.
    samarium : float
        Fraction, in the film.
    priors : mapping of str to (float, float)
        Mean and standard deviation, by the unknown's name.
    """
    model = Model(library, regions, samarium)
    posterior = Posterior(model, regions, priors)
    found = posterior.solutions()
    best = found[0]
    misfit = find_misfit(posterior, best)
    # An error of the model that is small enough to pass may still be larger than what the library knows of its own.
    covariance = posterior.sandwich(best) * max(misfit.reduced, 1.0)
    tilt, d, turn_tilt, turn_d = in_image_axes(model, regions, best.theta)
    apparent = np.stack([r.apparent for r in regions])
    near = RIVAL * misfit.noise * max(misfit.reduced, 1.0)
    return Inversion(
        list(regions), posterior, best, [s for s in found[1:] if s.value - best.value < near], covariance, misfit,
        tilt, turn_tilt @ covariance @ turn_tilt.T, d, apparent - d, turn_d @ covariance @ turn_d.T,
    )  # fmt: skip


def in_image_axes(
    model: Model, regions: Sequence[Region], theta: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Tilts (region, 2), mrad, and d, pm, along the image's axes, and the matrices (2 · region, unknown) that give them."""
    layout, size = model.layout, len(theta)
    matrices = []
    for names, linear in ((("tilt_x", "tilt_y"), "turn"), (("d_x", "d_y"), "stretch")):
        matrix = np.zeros((2 * len(regions), size))
        for number, region in enumerate(regions):
            block = region.turn() if linear == "turn" else region.stretch()
            for axis, name in enumerate(names):
                place = layout.of(name)[number]
                if place >= 0:
                    matrix[2 * number : 2 * number + 2, place] = block[:, axis]
        matrices.append(matrix)
    tilt, d = ((m @ theta).reshape(-1, 2) for m in matrices)
    return tilt, d, matrices[0], matrices[1]
