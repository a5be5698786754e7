"""Profile likelihoods: how the best fit worsens as one unknown is moved and all others follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltsim.explanation.fitting import Posterior, Solution

Floats = NDArray[np.float64]

#: Places of a profile, in standard errors by curvature, and most steps of the fit at each.
_PLACES, _STEPS = (-3.5, -2.2, -1.1, 0.0, 1.1, 2.2, 3.5), 8

#: Fall of −2 log posterior at which a place's fit has ended.
_CONVERGED = 0.02

#: −2 log likelihood beyond the best that bounds 90 % of one unknown.
_NINETY = 2.706

#: Unknowns of all regions that are profiled, and those of each region.
SHARED, OWN = ("thickness",), ("tilt_x", "tilt_y", "d_x", "d_y")


@dataclass(frozen=True, eq=False)
class Profile:
    """One unknown's profile.

    Parameters
    ----------
    name : str
    region : int
        −1: of all regions.
    values : ndarray (place,)
        Of the unknown, along the lattice's axes.
    rise : ndarray (place,)
        −2 log posterior beyond the least that was found, in units in which a normal distribution of the unknown's standard error
        (of the sandwich, not of the curvature alone) rises by 1 at one standard error.
    interval : (float, float)
        That holds 90 %; infinite where the profile does not rise so far.
    std : float
        Standard error from the sandwich.
    """

    name: str
    region: int
    values: Floats
    rise: Floats
    interval: tuple[float, float]
    std: float

    @property
    def stretch(self) -> float:
        """Half the interval over that of a normal distribution with the same standard error."""
        low, high = self.interval
        return (high - low) / (2.0 * np.sqrt(_NINETY) * self.std)


def find_profiles(
    posterior: Posterior, solution: Solution, covariance: Floats, wanted: Sequence[tuple[str, int]]
) -> list[Profile]:
    """Profile some unknowns of a solution.

    Parameters
    ----------
    posterior : Posterior
    solution : Solution
        Its maximum.
    covariance : ndarray (unknown, unknown)
        The sandwich's.
    wanted : sequence of (str, int)
        Names and regions of unknowns; those that do not exist (d of a reference) are left out.

    Returns
    -------
    list of Profile
    """
    names = posterior.model.layout.names
    found = []
    for name, region in wanted:
        if (name, region) not in names:
            continue
        place = names.index((name, region))
        width = float(np.sqrt(solution.covariance[place, place]))
        error = float(np.sqrt(covariance[place, place]))
        # Far enough that the wider error's interval lies inside.
        reach = max(1.0, 0.6 * error / width)
        values = np.clip(
            solution.theta[place] + reach * width * np.array(_PLACES),
            posterior.low[place],
            posterior.high[place],
        )
        along = solution.covariance[:, place] / width**2
        starts = solution.theta + (values - solution.theta[place])[:, None] * along
        starts[:, place] = values
        _, best = posterior.climb(starts, _STEPS, fixed=place, converged=_CONVERGED)
        least = min(float(best.min()), solution.value)
        rise = np.maximum(best - least, 0.0) * (width / max(error, 1e-12)) ** 2
        found.append(Profile(name, region, values, rise, _interval(values, rise), error))
    return found


def _interval(values: Floats, rise: Floats) -> tuple[float, float]:
    """Where the rise crosses 90 %'s, by the square root, in which a parabola is a straight line."""
    root, target = np.sqrt(rise), float(np.sqrt(_NINETY))
    middle = int(np.argmin(root))
    ends = []
    for side in (-1, 1):
        end = -np.inf if side < 0 else np.inf
        n = middle
        while 0 <= n + side < len(values):
            here, there = root[n], root[n + side]
            if there >= target:
                share = (target - here) / max(there - here, 1e-12)
                end = float(values[n] + share * (values[n + side] - values[n]))
                break
            n += side
        ends.append(end)
    return ends[0], ends[1]
