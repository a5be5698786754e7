"""Normal variants in a cloud of displacements, each cell with its own error.

Cell i of variant k has d = m_k + a deviation of covariance V_k + an error of the cell's own covariance C_i
(the model of Bovy, Hogg and Roweis, Ann. Appl. Stat. 5, 1657, 2011), and a few cells lie anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.special import logsumexp

Floats = NDArray[np.float64]

_STARTS = 3
_TRIAL = 15  # steps until the best start is chosen
_CONVERGED = 0.02  # change of the log-likelihood; what BIC is compared by is of order 1
_STRAY = 0.02  # share of stray cells to start from
_MOST_STRAY = 0.1
_FLOOR = 0.05**2  # pm²: no variant is known, or spread, less than this


@dataclass(frozen=True)
class Mixture:
    """Variants of a cloud.

    Attributes
    ----------
    weights : (k,) array
        Shares of the variants.
    means : (k, 2) array
        pm.
    spread : (k, 2, 2) array
        Covariance of the cells of a variant beyond their errors, pm².
    stray : float
        Share of cells that lie anywhere in the cloud's box.
    area : float
        Of that box, pm².
    shared : bool
        All variants have one spread.
    log_likelihood : float
    """

    weights: Floats
    means: Floats
    spread: Floats
    stray: float
    area: float
    shared: bool
    log_likelihood: float = -np.inf

    @property
    def parameters(self) -> int:
        """How many numbers were fitted."""
        k = len(self.weights)
        return 3 * k + 3 * (1 if self.shared else k)

    def bic(self, cells: int) -> float:
        """Bayesian information criterion (Schwarz, Ann. Stat. 6, 461, 1978); the smaller, the better."""
        return float(self.parameters * np.log(cells) - 2 * self.log_likelihood)


def fit_mixture(d: Floats, cov: Floats, k: int, *, shared: bool, rng: np.random.Generator) -> Mixture:
    """The best maximum-likelihood fit with k variants from a few starts.

    Parameters
    ----------
    d : (n, 2) array
        pm.
    cov : (n, 2, 2) array
        Error of each cell, pm².
    k : int
    shared : bool
        One spread for all variants.
    rng : np.random.Generator
        For the starting points.

    Returns
    -------
    Mixture
    """
    starts = [_start(d, cov, k, shared, rng) for _ in range(_STARTS if k > 1 else 1)]
    tried = [improve(d, cov, start, _TRIAL) for start in starts]
    return improve(d, cov, max(tried, key=lambda mixture: mixture.log_likelihood))


def improve(d: Floats, cov: Floats, mixture: Mixture, iterations: int = 300) -> Mixture:
    """Expectation-maximization from a given mixture until the likelihood stays."""
    before = -np.inf
    for _ in range(iterations):
        view = _view(d, cov, mixture)
        mixture = replace(mixture, log_likelihood=float(view.total.sum()))
        if mixture.log_likelihood - before < _CONVERGED:
            break
        before = mixture.log_likelihood
        mixture = _maximized(d, mixture, view)
    return mixture


def evidence(d: Floats, cov: Floats, mixture: Mixture) -> Floats:
    """(n, k) Log-likelihood of each cell in each variant.

    A cell that no variant explains is as likely in one as in another.
    """
    return np.logaddexp(_view(d, cov, mixture).density, np.log(max(mixture.stray, 1e-6) / mixture.area))


def scores(d: Floats, cov: Floats, mixture: Mixture) -> Floats:
    """Derivatives of each cell's log-likelihood by all that was fitted.

    Returns
    -------
    (n, p) array
        The first 2k columns belong to the means (x, y of the first variant, of the second, …), the others to
        shares and spreads.
    """
    view = _view(d, cov, mixture)
    n, k = view.share.shape
    px, py = _pull(d, mixture.means, view.inverse)
    by_mean = view.share[..., None] * np.stack([px, py], -1)
    by_weight = (view.share - mixture.weights)[:, 1:]
    xx, xy, yy = view.inverse
    by_spread = 0.5 * view.share[..., None] * np.stack([px**2 - xx, 2 * (px * py - xy), py**2 - yy], -1)
    by_spread = by_spread.sum(1) if mixture.shared else by_spread.reshape(n, -1)
    return np.concatenate([by_mean.reshape(n, 2 * k), by_weight, by_spread], 1)


@dataclass(frozen=True)
class _View:
    """Cells as a mixture sees them: (n, k) log densities and shares, (3, n, k) xx, xy, yy of the inverse covariance."""

    density: Floats
    share: Floats
    inverse: Floats
    total: Floats


def _view(d: Floats, cov: Floats, mixture: Mixture) -> _View:
    xx, xy, yy = (
        cov[:, i, j, None] + mixture.spread[:, i, j] + (_FLOOR if i == j else 0.0)
        for i, j in ((0, 0), (0, 1), (1, 1))
    )
    determinant = xx * yy - xy**2
    inverse = np.stack([yy, -xy, xx]) / determinant
    px, py = _pull(d, mixture.means, inverse)
    away = d[:, None] - mixture.means
    density = -0.5 * (away[..., 0] * px + away[..., 1] * py + np.log(determinant)) - np.log(2 * np.pi)
    weighted = density + np.log(mixture.weights)
    anywhere = np.log(max(mixture.stray, 1e-12) / mixture.area)
    total = np.logaddexp(logsumexp(weighted, axis=1), anywhere)
    return _View(density, np.exp(weighted - total[:, None]), inverse, total)


def _pull(d: Floats, means: Floats, inverse: Floats) -> Floats:
    """(2, n, k) Inverse covariance times the deviation from each mean."""
    x, y = d[:, :1] - means[:, 0], d[:, 1:] - means[:, 1]
    return np.stack([inverse[0] * x + inverse[1] * y, inverse[1] * x + inverse[2] * y])


def _maximized(d: Floats, mixture: Mixture, view: _View) -> Mixture:
    share, inverse = view.share, view.inverse
    # A variant that lost its cells keeps a trace, so that nothing divides by zero.
    amount = share.sum(0) + 1e-9
    weights = amount / len(d)
    stray = float(np.clip(1 - weights.sum(), 0, _MOST_STRAY))
    weights = weights / weights.sum() * (1 - stray)
    weighted = share * inverse
    precision = _square(weighted.sum(1)) + 1e-12 * np.eye(2)
    sums = np.tensordot(weighted, d, (1, 0))  # (3, k, 2)
    right = np.stack([sums[0, :, 0] + sums[1, :, 1], sums[1, :, 0] + sums[2, :, 1]], -1)
    means: Floats = np.linalg.solve(precision, right[..., None])[..., 0].astype(np.float64)
    # The expected square of a cell's deviation from its variant, given its d and its error.
    px, py = _pull(d, means, inverse)
    gain = _square((share * (np.stack([px**2, px * py, py**2]) - inverse)).sum(1))
    if mixture.shared:
        gain = np.broadcast_to(gain.sum(0), gain.shape)
        amount = np.full(len(amount), amount.sum())
    spread = mixture.spread + mixture.spread @ (gain / amount[:, None, None]) @ mixture.spread
    spread = 0.5 * (spread + spread.transpose(0, 2, 1)) + 1e-9 * np.eye(2)
    return replace(mixture, weights=weights, means=means, spread=spread, stray=stray)


def _square(xx_xy_yy: Floats) -> Floats:
    """(k, 2, 2) from (3, k)."""
    return np.asarray(xx_xy_yy[[0, 1, 1, 2]].T.reshape(-1, 2, 2))


def _start(d: Floats, cov: Floats, k: int, shared: bool, rng: np.random.Generator) -> Mixture:
    centres, label = kmeans2(d, k, minit="++", rng=rng, missing="warn") if k > 1 else (d.mean(0)[None], 0)
    inside = np.cov((d - centres[label]).T) - cov.mean(0)
    value, vector = np.linalg.eigh(inside)
    spread = (vector * np.maximum(value, 0.1 * np.abs(value).max() + _FLOOR)) @ vector.T
    area = float(np.prod(np.maximum(np.ptp(d, axis=0), 10 * np.sqrt(_FLOOR))))
    weights = np.full(k, (1 - _STRAY) / k)
    return Mixture(weights, np.asarray(centres, float), np.tile(spread, (k, 1, 1)), _STRAY, area, shared)
