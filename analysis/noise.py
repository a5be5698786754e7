"""The noise of an image, from what the fit leaves: how its variance grows with intensity, how far it is correlated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import fft

from .gaussians import row, window

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: How pixels are weighted.
WEIGHTS = ("auto", "poisson", "uniform")

_SAMPLE = 250  # columns of a kind that are looked at: 10⁵ pixels
_LEAST = 0.05  # of a typical pixel's variance: no pixel is trusted more than one so dark
_OUTLIER = 3.0  # times the median residual of its kind
_LAGS = 8  # px: correlations are followed so far
_ROUNDS = 3
_UNFOLDING, _RELAXED = 30, 0.5  # rounds, and how much of what is missing each adds
_WHITE = 0.05  # correlation of pixels side by side, beyond what the fit causes, that passes for none


@dataclass(frozen=True)
class Noise:
    """Variance of a pixel is offset + gain × intensity.

    Attributes
    ----------
    offset, gain : float
        In the image's own unit (squared, and plain).
    least : float
        Variance that no pixel goes below.
    measured : bool
        Whether it comes from the image; else only its form is known, and each column's residuals give its scale.
    """

    offset: float
    gain: float
    least: float
    measured: bool

    @property
    def as_array(self) -> Floats:
        """What `analysis.gaussians.fit` takes."""
        return np.array([self.offset, self.gain, self.least])


@dataclass(frozen=True)
class Residuals:
    """What the fit leaves around a sample of columns, on square patches.

    Attributes
    ----------
    rest : (n, s, s) array
        Image minus model, without what all columns of a kind leave alike; NaN outside the windows.
    model : (n, s, s) array
        Fitted intensity.
    kind : (n,) array
    freedom : float
        Share of the degrees of freedom that the fit has left.
    """

    rest: Floats
    model: Floats
    kind: Ints
    freedom: float


def assumed(weights: str, level: float) -> Noise:
    """Noise of a known form: "uniform", or "poisson" with zero intensity at zero."""
    if weights == "uniform":
        return Noise(1.0, 0.0, 1.0, False)
    return Noise(0.0, 1.0, _LEAST * level, False)


def residuals(
    image: Floats, total: Floats, parameters: Floats, slope: Floats, radius: Floats, kind: Ints, good: NDArray[np.bool_]
) -> Residuals:  # fmt: skip
    """Sample what the fit leaves.

    Parameters
    ----------
    image, total, parameters, slope, radius
        As for `analysis.gaussians.fit`.
    kind : (n,) array
    good : (n,) bool array
        Columns to choose from.
    """
    chosen = []
    for each in np.unique(kind):
        rows = np.flatnonzero((kind == each) & good)
        chosen.append(rows[np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(int)])
    pick = np.concatenate(chosen)
    side = 2 * math.ceil(float(radius.max())) + 3
    rest, model = np.full((2, len(pick), side, side), np.nan)
    if len(pick):
        _sampled(image, total, parameters[pick], slope[pick], radius[pick], rest, model)
    kinds = kind[pick]
    rms = np.sqrt(np.nanmean(rest**2, (1, 2)))
    keep = np.ones(len(pick), bool)
    for each in np.unique(kinds):
        same = kinds == each
        keep[same] = rms[same] < _OUTLIER * np.median(rms[same])
    rest, model, kinds = rest[keep], model[keep], kinds[keep]
    pixels = np.isfinite(rest).sum()
    fitted = parameters.shape[1] * len(rest)
    for each in np.unique(kinds):
        same = kinds == each
        if same.sum() > 20:
            # Columns are no Gaussians: what they all leave alike is not noise.
            seen = np.isfinite(rest[same]).sum(0)
            mean = np.where(seen > 10, np.nansum(rest[same], 0) / np.maximum(seen, 1), 0.0)
            rest[same] -= mean
            fitted += int((seen > 10).sum())
    return Residuals(rest, model, kinds, max(1.0 - fitted / max(pixels, 1), 0.1))


def measured(left: Residuals, level: float) -> Noise:
    """Variance against intensity: a line, by least squares that knows the scatter of a variance.

    Parameters
    ----------
    left : Residuals
    level : float
        A typical intensity, to bound the weight of dark pixels.
    """
    seen = np.isfinite(left.rest)
    square, model = left.rest[seen] ** 2 / left.freedom, left.model[seen]
    if len(square) < 100 or not square.max() > 0:
        return assumed("poisson", level)
    variance = np.full(len(square), square.mean())
    offset, gain = float(square.mean()), 0.0
    middle, size = float(model.mean()), float(model.std())
    if not size > 0:
        return Noise(offset, gain, offset, True)
    line = (model - middle) / size
    for _ in range(_ROUNDS):
        weight = 1 / variance**2
        s0, s1, s2 = weight.sum(), (weight * line).sum(), (weight * line * line).sum()
        t0, t1 = (weight * square).sum(), (weight * line * square).sum()
        slope = (s0 * t1 - s1 * t0) / (s0 * s2 - s1 * s1)
        # Noise does not fall with intensity: a slope below zero is chance.
        slope = max(slope, 0.0)
        base = (t0 - slope * s1) / s0
        gain, offset = float(slope / size), float(base - slope * middle / size)
        variance = np.maximum(base + slope * line, _LEAST * max(base, 1e-300))
    typical = max(offset + gain * level, float(np.median(variance)))
    return Noise(offset, gain, _LEAST * typical, True)


def correlation(left: Residuals, noise: Noise) -> dict[int, Floats]:
    """Autocorrelation of each kind's residuals, (2 lags + 1)², 1 in the middle."""
    variance = np.maximum(noise.offset + noise.gain * left.model, noise.least)
    unit = left.rest / np.sqrt(variance)
    result = {}
    for kind in np.unique(left.kind):
        part = unit[left.kind == kind]
        result[int(kind)] = _autocorrelation(np.nan_to_num(part), np.isfinite(part))
    return result


def inflation(
    autocorrelation: Floats, parameter: Floats, radius: float, noise: Noise, prior_weight: Floats
) -> Floats:
    """By how much correlated noise makes each parameter's standard error larger than white noise would.

    Parameters
    ----------
    autocorrelation : (2 l + 1, 2 l + 1) array
        Of the residuals, see `correlation`.
    parameter : (7,) array
        A typical column.
    radius : float
        Of its window, px.
    noise : Noise
    prior_weight : (7,) array

    Returns
    -------
    (7,) array
        1 for white noise.

    Notes
    -----
    The fit takes from the residuals what its parameters can follow, above all what varies slowly. So the
    autocorrelation of the noise itself is sought, by fixed-point iteration: the one that would leave residuals such as these.
    """
    reach = math.ceil(radius)
    v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(float)
    inside = u**2 + v**2 <= radius**2
    amplitude, background, _, _, p, q, r = parameter
    e1, e2 = p * u + q * v, r * v
    g = np.exp(-0.5 * (e1**2 + e2**2))
    ag = amplitude * g
    jac = np.stack(
        [g, np.ones_like(g), ag * e1 * p, ag * (e1 * q + e2 * r), -ag * e1 * u, -ag * e1 * v, -ag * e2 * v]
    )
    jac *= inside / np.sqrt(np.maximum(noise.offset + noise.gain * (ag + background), noise.least))
    flat = jac.reshape(7, -1)
    inverse = np.linalg.pinv(flat @ flat.T + np.diag(prior_weight), hermitian=True)
    hat = np.einsum("ab,bij->aij", inverse, jac)
    lags = autocorrelation.shape[0] // 2
    pairs = np.maximum(np.rint(_lagged(inside[None], inside[None], lags)), 1)
    trial = np.zeros_like(autocorrelation)
    trial[lags, lags] = 1.0
    kernel, least, kept = trial, np.inf, 1.0
    for turn in range(_UNFOLDING):
        spread = _convolved(jac, trial) * inside
        within = hat.reshape(7, -1) @ spread.reshape(7, -1).T
        mixed = np.einsum("ab,bij->aij", within, jac)
        taken = _lagged(hat, spread, lags) + _lagged(spread, hat, lags) - _lagged(hat, mixed, lags)
        left = trial - taken / pairs
        missing = autocorrelation - left / left[lags, lags]
        if turn == 0 and max(missing[lags, lags + 1], missing[lags + 1, lags]) < _WHITE:
            return np.ones(len(parameter))
        misfit = float((missing**2).sum())
        if misfit < least:
            kernel, least, kept = trial, misfit, float(left[lags, lags])
        trial = _physical(trial + _RELAXED * missing)
    actual = inverse @ (flat @ (_convolved(jac, kernel) * inside).reshape(7, -1).T) @ inverse
    alone = inverse @ (flat @ flat.T) @ inverse
    # The fit has taken more of such noise than of white noise, for which the measured variance allows.
    share = (1 - len(parameter) / inside.sum()) / max(kept, 0.1)
    return np.sqrt(np.maximum(share * np.diag(actual) / np.diag(alone), 1.0))


def _physical(kernel: Floats) -> Floats:
    """The nearest autocorrelation: no negative power, 1 in the middle."""
    power = np.fft.fft2(np.fft.ifftshift(np.pad(kernel, kernel.shape[0]))).real
    lags = kernel.shape[0]
    whole = np.fft.fftshift(np.fft.ifft2(np.maximum(power, 0.0)).real)[lags:-lags, lags:-lags]
    return whole / whole[lags // 2, lags // 2]


def _convolved(stack: Floats, kernel: Floats) -> Floats:
    """Every plane convolved with a symmetric kernel, nothing beyond the border."""
    shape = [fft.next_fast_len(n + kernel.shape[0]) for n in stack.shape[1:]]
    lags = kernel.shape[0] // 2
    whole = fft.irfft2(fft.rfft2(stack, shape) * fft.rfft2(kernel, shape), shape)
    return whole[:, lags : lags + stack.shape[1], lags : lags + stack.shape[2]]


def _lagged(first: NDArray, second: NDArray, lags: int) -> Floats:
    """Sum over planes and pixels of first × second, moved against each other by up to `lags` along y and x."""
    shape = [fft.next_fast_len(n + lags) for n in first.shape[1:]]
    product = (fft.rfft2(first.astype(float), shape) * fft.rfft2(second.astype(float), shape).conj()).sum(0)
    around = np.arange(-lags, lags + 1)
    return fft.irfft2(product, shape)[np.ix_(around, around)]


def side_by_side(autocorrelation: dict[int, Floats]) -> float:
    """Correlation of residuals one pixel apart, mean over kinds and both directions."""
    values = [0.5 * (a[_LAGS, _LAGS + 1] + a[_LAGS + 1, _LAGS]) for a in autocorrelation.values()]
    return float(np.mean(values)) if values else float("nan")


def _autocorrelation(values: Floats, seen: NDArray[np.bool_]) -> Floats:
    square = float((values**2).sum() / max(seen.sum(), 1))
    if not square > 0:
        return np.pad(np.ones((1, 1)), _LAGS)
    pairs = np.maximum(np.rint(_lagged(seen, seen, _LAGS)), 1)
    result = _lagged(values, values, _LAGS) / pairs / square
    result[_LAGS, _LAGS] = 1.0
    return result


@njit(cache=True, nogil=True)
def _sampled(
    image: Floats, total: Floats, parameters: Floats, slope: Floats, radius: Floats, rest: Floats, model: Floats
) -> None:  # fmt: skip
    side = rest.shape[1]
    middle = side // 2
    rows = np.empty((side, 3), np.int64)
    data, weight, line = np.empty(side * side), np.empty(side * side), np.empty(side)
    noise = np.array([1.0, 0.0, 1.0])
    for n in range(len(parameters)):
        here = parameters[n]
        n_rows = window(image, total, here, here[2:4], slope[n], radius[n], noise, rows, data, weight, line)
        cx, cy = round(here[2]), round(here[3])
        at = 0
        for k in range(n_rows):
            y, left, count = rows[k, 0], rows[k, 1], rows[k, 2]
            v = y - here[3]
            row(line, 0, count, left - here[2], here[4], here[5] * v, (here[6] * v) ** 2)
            for i in range(count):
                a, b = y - cy + middle, left + i - cx + middle
                if weight[at + i] > 0 and 0 <= a < side and 0 <= b < side:
                    rise = slope[n, 0] * (left + i - here[2]) + slope[n, 1] * (y - here[3])
                    rest[n, a, b] = data[at + i] - here[0] * line[i] - here[1]
                    model[n, a, b] = total[y, left + i] + here[1] + rise
            at += count
