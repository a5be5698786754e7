"""What columns recorded in the same scan lines have in common, told from what they have not.

One component of the columns' displacement from a straight lattice is taken as

    u = X β + W g + ε,

with X a few smooth functions of position, g the displacement of the scan lines, W the lines' weight in
each column, and ε what single columns do, alike in neighbours to some degree, whatever the direction. g is a stationary Gaussian process whose correlation
falls as exp(−|Δ|/length); its variance and length come from the restricted likelihood (Patterson and
Thompson, Biometrika 58 (1971) 545), which takes what X and ε feign off by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve, cho_solve_banded, cholesky, cholesky_banded, matmul_toeplitz
from scipy.optimize import brentq, minimize_scalar
from scipy.sparse.linalg import splu

Floats = NDArray[np.float64]

_RATIOS = (1e-6, 1e5)  # variance of jitter over that of scatter: from none to nothing else
_LENGTHS = 12  # correlation lengths tried, first widely, then where they are likely
_UNLIKELY = 8.0  # above the least −2 log-likelihood
_NEGLIGIBLE = 0.01  # share of the probability
_FINEST = 1e-5  # Å


@dataclass(frozen=True)
class Lines:
    """The model of one component, with the products that every evaluation needs.

    Attributes
    ----------
    nodes : (m,) array
        Positions along the slow axis at which g is described, Å, `step` apart.
    weights : sparse (n, m)
        W.
    smooth : (n, p) array
        X.
    displacement : (n,) array
        u, Å.
    slow_terms : (q,) array
        Columns of X that depend on the slow coordinate only.
    slow_at_nodes : (m, q) array
        Those at the nodes.
    precision : sparse (n, n)
        Q: inverse of ε's correlation. `log_det` is of it.
    """

    nodes: Floats
    weights: sparse.csr_array
    smooth: Floats
    displacement: Floats
    slow_terms: NDArray[np.int64]
    slow_at_nodes: Floats
    precision: sparse.csr_array
    log_det: float
    overlap: Floats  # mean over columns of Σ w(m) w(m + k), k = 0, 1 ..
    slow_cross: Floats  # (m, q) W' times the slow terms
    slow_part: Floats  # (q, m) least-squares coefficients of the slow terms in W g
    band: Floats  # W'QW, as scipy's banded routines want it
    cross: Floats  # W'Q[X u]
    square: Floats  # [X u]'Q[X u]

    @property
    def step(self) -> float:
        """Distance of nodes, Å."""
        return float(self.nodes[1] - self.nodes[0])


@dataclass(frozen=True)
class Jitter:
    """Statistics of one component.

    Attributes
    ----------
    rms, rms_sem : float
        Of the lines' displacement as a column feels it, without slow terms, Å.
    scatter : float
        Standard deviation of ε, Å.
    gain : float
        How much −2 log-likelihood falls by having jitter at all.
    lengths, ratios, weights : (k,) array
        Correlation lengths that the columns allow, Å, the variance of jitter over that of scatter that suits
        each, and its share of the probability (flat in the logarithm of the length).
    """

    rms: float
    rms_sem: float
    scatter: float
    gain: float
    lengths: Floats
    ratios: Floats
    weights: Floats

    def length(self, *levels: float) -> list[float]:
        """Quantiles of the correlation length, Å."""
        below = np.cumsum(self.weights) - 0.5 * self.weights
        return [float(np.exp(np.interp(level, below, np.log(self.lengths)))) for level in levels]


@dataclass(frozen=True)
class Posterior:
    """Best estimate given the columns.

    Attributes
    ----------
    nodes : (m,) array
        Å.
    lines, lines_cov : (m,), (m, m) array
        D g and covariance of its error, Å, Å².
    smooth, smooth_cov : (p,), (p, p) array
        β.
    slow, slow_cov : (q,), (q, q) array
        Coefficients of the slow terms together with what of them is in g.
    """

    nodes: Floats
    lines: Floats
    lines_cov: Floats
    smooth: Floats
    smooth_cov: Floats
    slow: Floats
    slow_cov: Floats


def prepare(
    nodes: Floats,
    weights: sparse.csr_array,
    smooth: Floats,
    displacement: Floats,
    slow_terms: NDArray[np.int64],
    slow_at_nodes: Floats,
    precision: tuple[sparse.csr_array, float],
) -> Lines:
    """Gather the model of one component; arguments as in `Lines`, the precision with its log-determinant."""
    matrix, log_det = precision
    both = np.column_stack([smooth, displacement])
    weighed = matrix @ both
    square = both.T @ weighed
    # A drawn lattice may have no scatter at all; its logarithm must stay finite.
    square[-1, -1] += len(both) * _FINEST**2
    slow = smooth[:, slow_terms]
    slow_cross = weights.T @ slow
    slow_part = np.asarray(np.linalg.solve(slow.T @ slow, slow_cross.T))
    overlap = _diagonals(weights.T @ weights).sum(1) / len(both)
    return Lines(
        nodes, weights, smooth, displacement, slow_terms, slow_at_nodes, matrix, log_det, overlap, slow_cross,
        slow_part, _diagonals(weights.T @ matrix @ weights), weights.T @ weighed, square,
    )  # fmt: skip


def fit(candidates: Sequence[Lines]) -> tuple[Jitter, int]:
    """Variance and correlation length of the jitter, by restricted maximum likelihood.

    The error of the rms is how far it can change until −2 log-likelihood has risen by 1, whatever the
    length: the mean of both sides, or what it can grow where it may as well be zero.

    Parameters
    ----------
    candidates : sequence of Lines
        Differing in the correlation of ε only.

    Returns
    -------
    tuple of Jitter and int
        The likeliest candidate's, and which it is.
    """
    step, extent = candidates[0].step, float(np.ptp(candidates[0].nodes))
    coarse = np.geomspace(0.5 * step, 0.5 * extent, _LENGTHS)
    levels = [_profile(lines, coarse[::2])[1].min() for lines in candidates]
    none = min(_deviance(lines, _RATIOS[0], step) for lines in candidates)
    chosen = int(np.argmin(levels))
    lines = candidates[chosen]
    level = _profile(lines, coarse)[1]
    likely = np.flatnonzero(level < level.min() + _UNLIKELY)
    lengths = np.geomspace(coarse[max(likely[0] - 1, 0)], coarse[min(likely[-1] + 1, _LENGTHS - 1)], _LENGTHS)
    felt, level, log_ratios = _profile(lines, lengths)
    best = int(np.argmin(level))

    def risen(log_ratio: float) -> float:
        at = [_deviance(lines, np.exp(log_ratio) / f, each) for f, each in zip(felt, lengths, strict=True)]
        return min(at) - float(level[best]) - 1.0

    low, high = np.log(_RATIOS)
    at = float(log_ratios[best])
    above = np.exp(0.5 * brentq(risen, at, high, xtol=0.01)) if risen(high) > 0 else np.exp(0.5 * high)
    rms = np.exp(0.5 * at)
    below = np.exp(0.5 * brentq(risen, low, at, xtol=0.01)) if risen(low) > 0 else 2 * rms - above
    scatter = np.sqrt(_scatter2(lines, np.exp(log_ratios[best]) / felt[best], lengths[best]))
    weights = np.exp(-0.5 * (level - level[best]))
    jitter = Jitter(
        rms=float(scatter * rms),
        rms_sem=float(scatter * 0.5 * (above - below)),
        scatter=float(scatter),
        gain=float(max(none - level[best], 0.0)),
        lengths=lengths,
        ratios=np.exp(log_ratios),
        weights=weights / weights.sum(),
    )
    return jitter, chosen


def _profile(lines: Lines, lengths: Floats) -> tuple[Floats, Floats, Floats]:
    """Felt variance of unit lines, and lowest deviance with the log ratio it has, at each length."""
    felt = np.array([_felt(lines, length) for length in lengths])
    found = [
        minimize_scalar(
            lambda log_ratio, f=f, length=length: _deviance(lines, np.exp(log_ratio) / f, length),
            bounds=tuple(np.log(_RATIOS)), method="bounded", options={"xatol": 0.01},
        )
        for f, length in zip(felt, lengths, strict=True)
    ]  # fmt: skip
    return felt, np.array([each.fun for each in found]), np.array([each.x for each in found])


def posterior(lines: Lines, jitter: Jitter) -> Posterior:
    """Displacement of the lines and smooth terms, averaged over the correlation lengths."""
    likely = np.flatnonzero(jitter.weights > _NEGLIGIBLE)
    found = [_posterior(lines, jitter.scatter, jitter.ratios[k], jitter.lengths[k]) for k in likely]
    weights = jitter.weights[likely] / jitter.weights[likely].sum()
    merged = []
    for value, cov in (("lines", "lines_cov"), ("smooth", "smooth_cov"), ("slow", "slow_cov")):
        values = np.stack([getattr(each, value) for each in found])
        mean = weights @ values
        rest = (values - mean) * np.sqrt(weights)[:, None]
        within = sum(w * getattr(each, cov) for w, each in zip(weights, found, strict=True))
        merged += [mean, within + rest.T @ rest]
    return Posterior(lines.nodes, *merged)


def _posterior(lines: Lines, scatter: float, ratio: float, length: float) -> Posterior:
    chol, _ = _precision(lines, ratio / _felt(lines, length), length)
    solved = cho_solve_banded((chol, True), lines.cross)
    reduced = lines.square - lines.cross.T @ solved
    factor = cho_factor(reduced[:-1, :-1])
    smooth = cho_solve(factor, reduced[:-1, -1])
    smooth_cov = scatter**2 * cho_solve(factor, np.eye(len(smooth)))
    own = scatter**2 * cho_solve_banded((chol, True), np.eye(len(lines.nodes)))
    through = solved[:, :-1]
    raw = solved[:, -1] - through @ smooth
    raw_cov = own + through @ smooth_cov @ through.T
    slow_part, at = lines.slow_part, lines.slow_at_nodes
    both = -slow_part @ through @ smooth_cov[:, lines.slow_terms]
    moved = slow_part @ raw_cov
    in_lines = moved @ slow_part.T
    cov = raw_cov - at @ moved - (at @ moved).T + at @ in_lines @ at.T
    return Posterior(
        lines.nodes, raw - at @ (slow_part @ raw), cov, smooth, smooth_cov,
        smooth[lines.slow_terms] + slow_part @ raw,
        smooth_cov[np.ix_(lines.slow_terms, lines.slow_terms)] + both + both.T + in_lines,
    )  # fmt: skip


def prior_covariance(lines: Lines, jitter: Jitter) -> Floats:
    """(m, m) covariance of g before any column is looked at, Å²."""
    lag = np.abs(lines.nodes[:, None] - lines.nodes)
    total = np.zeros_like(lag)
    for length, ratio, weight in zip(jitter.lengths, jitter.ratios, jitter.weights, strict=True):
        total += weight * ratio * jitter.scatter**2 / _felt(lines, length) * np.exp(-lag / length)
    return total


def power_spectrum(lines: Lines, found: Posterior, slow: Floats, scatter: float, finest: float) -> Floats:
    """(k, 2) frequencies, 1/Å, and power of the lines' displacement, Å³, less what the scatter gives.

    Parameters
    ----------
    slow : (n,) array
        Columns' positions along the slow axis, Å.
    finest : float
        Shortest period asked for, Å.
    """
    rest = lines.displacement - lines.smooth @ found.smooth
    extent = float(np.ptp(slow))
    frequency = np.arange(1, max(int(extent / finest), 1) + 1) / extent
    waves = np.exp(-2j * np.pi * slow[:, None] * frequency) / len(slow)
    solve = splu(lines.precision.tocsc()).solve
    shares = [wave.real @ solve(wave.real) + wave.imag @ solve(wave.imag) for wave in waves.T]
    return np.stack([frequency, extent * (np.abs(rest @ waves) ** 2 - scatter**2 * np.array(shares))], 1)


def _diagonals(matrix: sparse.csr_array) -> Floats:
    """Main and lower diagonals of a symmetric sparse matrix, one a row."""
    entries = matrix.tocoo()
    depth = int(np.abs(entries.row - entries.col).max())
    band = np.zeros((max(depth, 1) + 1, matrix.shape[0]))
    for k in range(depth + 1):
        band[k, : matrix.shape[0] - k] = matrix.diagonal(k)
    return band


def _felt(lines: Lines, length: float) -> float:
    """Variance that a column feels of lines of unit variance, without their slow part."""
    fall = np.exp(-lines.step / length) ** np.arange(len(lines.nodes))
    near = fall[: len(lines.overlap)]
    whole = lines.overlap[0] + 2 * lines.overlap[1:] @ near[1:]
    slow = np.einsum("qm,mq->", lines.slow_part, matmul_toeplitz(fall, lines.slow_cross))
    return float(whole - slow / len(lines.displacement))


def _precision(lines: Lines, variance: float, length: float) -> tuple[Floats, float]:
    """Cholesky factor of cov(g)⁻¹ + W'QW, and log |1 + Q W cov(g) W'|, `variance` of g in units of the scatter's."""
    rho = np.exp(-lines.step / length)
    inner = 1.0 / (variance * (1 - rho**2))
    matrix = lines.band.copy()
    matrix[0] += (1 + rho**2) * inner
    matrix[0, [0, -1]] -= rho**2 * inner
    matrix[1, :-1] -= rho * inner
    chol = cholesky_banded(matrix, lower=True)
    m = len(lines.nodes)
    return chol, float(m * np.log(variance) + (m - 1) * np.log1p(-(rho**2)) + 2 * np.log(chol[0]).sum())


def _reduced(lines: Lines, variance: float, length: float) -> tuple[Floats, float]:
    """Cholesky factor of [X u]' V⁻¹ [X u], and log |V|, both in units of the scatter."""
    chol, log_det = _precision(lines, variance, length)
    half = _forward(chol, lines.cross)
    matrix = lines.square - half.T @ half
    return cholesky(matrix, lower=True), log_det


@njit(cache=True, nogil=True)
def _forward(chol: Floats, right: Floats) -> Floats:
    """L⁻¹ ``right`` (n, m) for a banded Cholesky factor (band, n), lower form: LAPACK goes column by column, three times slower."""
    result = right.copy()
    band, n = chol.shape
    for i in range(n):
        for k in range(1, min(band - 1, i) + 1):
            factor = chol[k, i - k]
            for j in range(result.shape[1]):
                result[i, j] -= factor * result[i - k, j]
        factor = 1.0 / chol[0, i]
        for j in range(result.shape[1]):
            result[i, j] *= factor
    return result


def _scatter2(lines: Lines, variance: float, length: float) -> float:
    factor, _ = _reduced(lines, variance, length)
    return float(factor[-1, -1] ** 2 / (lines.smooth.shape[0] - lines.smooth.shape[1]))


def _deviance(lines: Lines, variance: float, length: float) -> float:
    """−2 log restricted likelihood, with the scatter at its best."""
    n, p = lines.smooth.shape
    factor, log_det = _reduced(lines, variance, length)
    log_scatter2 = 2 * np.log(factor[-1, -1]) - np.log(n - p)
    return float(
        (n - p) * log_scatter2 + log_det - lines.log_det + 2 * np.log(np.diagonal(factor)[:-1]).sum()
    )
