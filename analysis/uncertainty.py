"""What fitted columns are worth: errors with those of neighbours and of correlated noise, goodness, skewness."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from . import population
from .engines import in_parts
from .noise import Noise, correlation, inflation, measured, residuals, side_by_side
from .precision import couple, precision
from .sweeps import Setting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SCATTER = 3.0  # by which chance makes a scatter of n columns too small, times the root of n
_OVERLAP = 2.5  # root of the sum of variances: neighbours nearer than this share errors
_SETTLED = 1e-3  # px
_RESTLESS = 0.5  # standard errors: a column that moved further in the last sweep is not settled


@dataclass(frozen=True)
class Fit:
    """Fitted columns, one row each.

    Attributes
    ----------
    parameters : (n, 7) array
        In the order of `analysis.gaussians.PARAMETERS`; x, y in px, p, q, r in 1/px.
    covariance : (n, 7, 7) array
        NaN where singular.
    residual : (n,) array
        Root mean square residual over the window, in intensity units.
    chi2 : (n,) array
        Per degree of freedom; 1 where the noise is as measured and the column a Gaussian.
    skewness : (n, 2) array
        E[t |t|²] along x and y, t in the column's own standard deviations.
    skewness_cov : (n, 2, 2) array
    converged : (n,) bool array
        Moved by little of its error in the last sweep.
    neighbours : (m, 2) array
        Rows of overlapping columns.
    neighbour_cov : (m, 2, 2) array
        Covariance of their positions, px².
    inflation : (n,) array
        By how much errors of position exceed those of white noise of the image's variance.
    """

    parameters: Floats
    covariance: Floats
    residual: Floats
    chi2: Floats
    skewness: Floats
    skewness_cov: Floats
    converged: NDArray[np.bool_]
    neighbours: Ints
    neighbour_cov: Floats
    inflation: Floats


def precisions(
    values: Floats, total: Floats, parameters: Floats, setting: Setting
) -> tuple[Floats, Floats, Floats]:
    """Covariance (n, 7, 7), quality (n, 2) and skewness (n, 5) of columns by themselves.

    See `analysis.precision.precision`.
    """
    count = len(parameters)
    covariance, quality, skewness = np.empty((count, 7, 7)), np.empty((count, 2)), np.empty((count, 5))
    noise, prior = setting.noise.as_array, setting.prior

    def work(first: int, last: int) -> None:
        s = slice(first, last)
        precision(
            values, total, parameters[s], setting.slope[s], setting.radius[s], noise, prior.mean[s], prior.weight[s],
            covariance[s], quality[s], skewness[s],
        )  # fmt: skip

    in_parts(count, work)
    return covariance, quality, skewness


def assessed(
    values: Floats, total: Floats, parameters: Floats, previous: Floats, index: Ints, kind: Ints, setting: Setting,
    level: float | None,
) -> tuple[Fit, Noise, float]:  # fmt: skip
    """The fit with its errors, the noise, and the correlation of residuals side by side.

    Parameters
    ----------
    values, total, parameters, setting
        As for `analysis.gaussians.fit`.
    previous : (n, 7) array
        Before the last sweep.
    index, kind : arrays
    level : float or None
        A typical intensity, to measure the noise once more; None to keep the setting's.
    """
    slope, radius, prior = setting.slope, setting.radius, setting.prior
    left = residuals(values, total, parameters, slope, radius, kind, np.ones(len(kind), bool))
    noise = setting.noise if level is None else measured(left, level)
    alone, quality, skewness = precisions(values, total, parameters, replace(setting, noise=noise))
    first, neighbour = _overlapping(parameters)
    covariance, cross = alone.copy(), np.zeros((len(neighbour), 2, 2))
    if len(neighbour):

        def work(start: int, end: int) -> None:
            couple(
                values, total, parameters, slope, radius, noise.as_array, alone, first, neighbour,
                start, end, covariance, cross,
            )  # fmt: skip

        in_parts(len(parameters), work)
    # Without a measured noise the residuals give its scale; with one, a misfit can only add to the error.
    chi2 = quality[:, 1]
    scale = np.maximum(chi2, 1.0) if noise.measured else chi2
    autocorrelation = correlation(left, noise)
    factor = np.ones((len(parameters), 7))
    for each, rho in autocorrelation.items():
        same = kind == each
        typical = np.median(parameters[same], 0)
        factor[same] = inflation(
            rho, typical, float(radius[same].mean()), noise, np.median(prior.weight[same], 0)
        )
    factor *= np.sqrt(scale)[:, None]
    # What is left of misfit may pass for correlated noise. No error is larger than the scatter it is part of.
    claimed = covariance[:, [2, 3], [2, 3]] * factor[:, 2:4] ** 2
    for each in np.unique(kind):
        same = kind == each
        bound = population.scatter(parameters[same, 2:4], index[same])
        bound *= 1 + _SCATTER / np.sqrt(same.sum())
        factor[same] *= np.sqrt(min(1.0, bound / np.nanmedian(claimed[same].mean(1))))
    covariance *= factor[:, :, None] * factor[:, None, :]
    row = np.repeat(np.arange(len(parameters)), np.diff(first))
    cross *= factor[row, 2:4, None] * factor[neighbour, None, 2:4]
    skewness_cov = skewness[:, [2, 3, 3, 4]].reshape(-1, 2, 2) * (factor[:, 2] * factor[:, 3])[:, None, None]
    error = np.sqrt(np.einsum("nii->n", covariance[:, 2:4, 2:4]))
    moved = np.hypot(*(parameters - previous)[:, 2:4].T)
    fit = Fit(
        parameters, covariance, quality[:, 0], chi2, skewness[:, :2], skewness_cov,
        moved < np.maximum(_SETTLED, _RESTLESS * error), np.stack([row, neighbour], 1), cross,
        np.sqrt(factor[:, 2] * factor[:, 3]),
    )  # fmt: skip
    return fit, noise, side_by_side(autocorrelation)


def _overlapping(parameters: Floats) -> tuple[Ints, Ints]:
    """First entry of every column, and rows of the columns that overlap with it."""
    position = parameters[:, 2:4]
    variance = 1 / (parameters[:, 4] * parameters[:, 6])
    reach = _OVERLAP * float(np.sqrt(2 * np.quantile(variance, 0.95)))
    pairs = KDTree(position).query_pairs(reach, output_type="ndarray")
    both = np.vstack([pairs, pairs[:, ::-1]])
    order = np.lexsort((both[:, 1], both[:, 0]))
    both = both[order]
    first = np.searchsorted(both[:, 0], np.arange(len(parameters) + 1))
    return first, np.ascontiguousarray(both[:, 1])
