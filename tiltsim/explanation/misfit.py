"""What the best model leaves over, where a faithful model would leave nothing but noise: the coarse structure of a cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

from tiltsim.explanation.fitting import Posterior, Solution
from tiltsim.explanation.regions import BINS

Floats = NDArray[np.float64]

#: Harmonics of a cell that are looked at, along and across: what a probe of some 30 mrad and a source of 0.8 Å let through. Noise is in all
#: of a bin's thousand components, a wrong model in these.
HARMONICS = 6

#: Largest reduced χ² that an answer may leave. Of 95 faithful films from the engine one leaves 2.4, the others 0.4 to 1.2; an aperture of 25 mrad instead of 30
#: leaves 0.8 to 2.6, thin films the less, 100 nm of three-fold astigmatism 28 and more (`benchmarks/explain.py`). Errors are widened by what is left.
WORST_CHI2 = 1.5

#: Directions known better than this share of the best are as if known exactly, and left out.
_RANK = 1e-7


@dataclass(frozen=True)
class Misfit:
    """χ² of what is left over in the coarse structure of all averaged cells.

    Parameters
    ----------
    chi2 : float
        With the covariance that noise, the library's own errors and the fit itself give what is left over.
    freedom : int
    chance : float
        With which a faithful model would leave as much.
    noise : float
        Variance of the averaged cells' coarse structure as bands of scan lines show it, over that from the scatter of pixels.
    """

    chi2: float
    freedom: int
    chance: float
    noise: float

    @property
    def reduced(self) -> float:
        """χ² for each degree of freedom."""
        return self.chi2 / max(self.freedom, 1)


def harmonics(count: int = HARMONICS) -> Floats:
    """Orthonormal rows (mode, n · n): cosines and sines of a cell up to ``count`` periods, in a disc."""
    axis = 2.0 * np.pi * np.arange(BINS) / BINS
    rows = []
    for i in range(count + 1):
        for j in range(-count, count + 1):
            if (i == 0 and j < 0) or np.hypot(i, j) > count + 1e-9:
                continue
            phase = i * axis[:, None] + j * axis[None, :]
            rows.append(np.cos(phase).ravel())
            if (i, j) != (0, 0):
                rows.append(np.sin(phase).ravel())
    table = np.array(rows)
    return np.asarray(table / np.linalg.norm(table, axis=1, keepdims=True))


def find_misfit(posterior: Posterior, solution: Solution) -> Misfit:
    """Compare what ``solution`` leaves over with what noise and the library's errors explain.

    Parameters
    ----------
    posterior : Posterior
    solution : Solution

    Returns
    -------
    Misfit
    """
    modes = harmonics()
    count, size = len(posterior.regions), BINS * BINS
    left = (posterior.data - solution.image).reshape(count, size) @ modes.T
    noise = _noise(posterior, modes)
    slopes = posterior.model.predict(solution.theta[None])[1][0].reshape(len(solution.theta), -1)
    # What is left over of an error ε of the data: (1 − J G) ε, J the slopes and G the gain.
    coarse = np.einsum("mb,prb->rmp", modes, slopes.reshape(len(slopes), count, size))
    total, wrong = (
        np.zeros((count * len(modes),) * 2),
        np.zeros((count * len(modes), posterior.errors.shape[1])),
    )
    for number in range(count):
        block = slice(number * size, (number + 1) * size)
        moved = -coarse.reshape(-1, len(slopes)) @ solution.gain[:, block]
        moved[number * len(modes) : (number + 1) * len(modes)] += modes
        weight = posterior.weight[number].ravel()
        variance = np.where(weight > 0, noise / np.maximum(weight, 1e-300), 0.0)
        total += (moved * variance) @ moved.T
        wrong += moved @ posterior.errors[block]
    total += wrong @ wrong.T
    # Priors pull: where an unknown lies away from its prior's mean, the best fit is not the nearest.
    pulled = coarse.reshape(-1, len(slopes)) @ solution.covariance
    total += (pulled * posterior.known) @ pulled.T
    power, vectors = np.linalg.eigh(total)
    known = power > _RANK * power[-1]
    parts = vectors[:, known].T @ left.ravel()
    value, freedom = float((parts**2 / power[known]).sum()), int(known.sum())
    # Directions that the fit has taken are singular: without priors there are as many as unknowns.
    return Misfit(value, freedom, float(chi2_distribution.sf(value, freedom)), noise)


def _noise(posterior: Posterior, modes: Floats) -> float:
    """Factor by which bands of scan lines differ more than their pixels' scatter tells; at least 1."""
    seen, expected = 0.0, 0.0
    for number, region in enumerate(posterior.regions):
        seen += float(((region.scatter() @ modes.T) ** 2).sum())
        weight = posterior.weight[number].ravel()
        expected += float((modes**2 @ np.where(weight > 0, 1.0 / np.maximum(weight, 1e-300), 0.0)).sum())
    return max(seen / max(expected, 1e-300), 1.0)
