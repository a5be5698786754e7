"""Image inversion: tilt, thickness and displacement of all domains from their averaged cells, and how far to believe them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltsim.explanation.fitting import Posterior, Solution
from tiltsim.explanation.misfit import Misfit, find_misfit
from tiltsim.explanation.model import Model
from tiltsim.explanation.regions import Region
from tiltsim.library import Library

Floats = NDArray[np.float64]

#: Solutions are rivals if their −2 log posteriors differ by less than this (4 standard deviations of one unknown).
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
        The best; ``rivals`` explain the image nearly as well.
    covariance : ndarray (unknown, unknown)
        Of the solution: noise as blocks of cells show it, and what is wrong with the model.
    misfit : Misfit
        What the solution leaves over.
    tilt, d, bias : ndarray (region, 2)
        mrad and pm; ``bias`` is the apparent d less d.
    tilt_cov, bias_cov : ndarray (2 · region, 2 · region)
        Of all regions together. That of d is that of the bias but for the noise of the apparent d, which both share.
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

    def number(self, name: str) -> tuple[float, float]:
        """Value and standard error of an unknown that all regions share."""
        place = self.model.layout.place(name)
        return float(self.solution.theta[place]), float(np.sqrt(self.covariance[place, place]))


def invert(regions: Sequence[Region], library: Library, **options: object) -> Inversion:
    """Fit the averaged cells of all regions together.

    Parameters
    ----------
    regions : sequence of Region
    library : Library
        With a lens.
    **options
        Of :class:`~tiltsim.explanation.fitting.Posterior`.
    """
    model = Model(library, regions)
    posterior = Posterior(model, regions, **options)  # type: ignore[arg-type]
    found = posterior.solutions()
    best = found[0]
    covariance = posterior.sandwich(best)
    tilt, d, turn_tilt, turn_d = in_image_axes(model, regions, best.theta)
    apparent = np.stack([r.apparent for r in regions])
    return Inversion(
        list(regions), posterior, best, [s for s in found[1:] if s.value - best.value < RIVAL], covariance,
        find_misfit(posterior, best), tilt, turn_tilt @ covariance @ turn_tilt.T, d, apparent - d,
        turn_d @ covariance @ turn_d.T,
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
