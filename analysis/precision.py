"""What the fit of a column is worth: covariance, goodness, skewness, and what its neighbours' errors add."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .gaussians import PARAMETERS, add_prior, inverse, normal_matrix, row, window

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_N = len(PARAMETERS)


@njit(cache=True, nogil=True)
def _derivatives(parameter: Floats, u: float, v: float, g: float, out: Floats) -> None:
    p, q, r = parameter[4], parameter[5], parameter[6]
    ag = parameter[0] * g
    e1, e2 = p * u + q * v, r * v
    out[0], out[1], out[2], out[3] = g, 1.0, ag * e1 * p, ag * (e1 * q + e2 * r)
    out[4], out[5], out[6] = -ag * e1 * u, -ag * e1 * v, -ag * e2 * v


@njit(cache=True, nogil=True)
def precision(
    image: Floats, total: Floats, parameters: Floats, slope: Floats, radius: Floats, noise: Floats,
    prior_mean: Floats, prior_weight: Floats, covariance: Floats, quality: Floats, skewness: Floats,
) -> None:  # fmt: skip
    """Covariance, goodness of fit and skewness of every column by itself.

    Parameters
    ----------
    image, total, parameters, slope, radius, noise, prior_mean, prior_weight
        As for `analysis.gaussians.fit`, around the fitted positions.
    covariance : (n, 7, 7) array
        Out: inverse Fisher matrix, with all other columns known; NaN where singular.
    quality : (n, 2) array
        Out: root mean square residual, and chi² per degree of freedom.
    skewness : (n, 5) array
        Out: the vector E[t |t|²] of the column in its own standard deviations t, along x and y, and the xx, xy, yy of
        its covariance. One step of maximum likelihood from the Gaussian, in the vector part of the third order
        of the Gram-Charlier series.
    """
    widest = 2 * math.ceil(radius.max()) + 3
    rows = np.empty((widest, 3), np.int64)
    data, weight, line = np.empty(widest * widest), np.empty(widest * widest), np.empty(widest)
    normal, gradient = np.zeros((_N, _N)), np.zeros(_N)
    jac = np.empty(_N)
    for n in range(len(parameters)):
        here = parameters[n]
        n_rows = window(image, total, here, here[2:4], slope[n], radius[n], noise, rows, data, weight, line)
        cost = normal_matrix(here, rows, n_rows, data, weight, line, normal, gradient)
        amplitude, background, x0, y0 = here[0], here[1], here[2], here[3]
        p, q, r = here[4], here[5], here[6]
        # Symmetric root of [[p², pq], [pq, q² + r²]]: whitened coordinates that keep their directions.
        root = p * r
        norm = math.sqrt(p * p + q * q + r * r + 2 * root)
        sxx, sxy, syy = (p * p + root) / norm, p * q / norm, (q * q + r * r + root) / norm
        with_fit, among, with_rest = np.zeros((2, _N)), np.zeros((2, 2)), np.zeros(2)
        square, pixels, at = 0.0, 0, 0
        for k in range(n_rows):
            v, first, count = rows[k, 0] - y0, rows[k, 1] - x0, rows[k, 2]
            row(line, 0, count, first, p, q * v, (r * v) ** 2)
            for i in range(count):
                w, g, u = weight[at + i], line[i], first + i
                if w == 0.0:
                    continue
                ag = amplitude * g
                e = data[at + i] - ag - background
                square += e * e
                pixels += 1
                tx, ty = sxx * u + sxy * v, sxy * u + syy * v
                form = ag * (tx * tx + ty * ty - 4.0) / 8.0
                fx, fy = form * tx, form * ty
                _derivatives(here, u, v, g, jac)
                for j in range(_N):
                    with_fit[0, j] += w * fx * jac[j]
                    with_fit[1, j] += w * fy * jac[j]
                among[0, 0] += w * fx * fx
                among[0, 1] += w * fx * fy
                among[1, 1] += w * fy * fy
                with_rest[0] += w * fx * e
                with_rest[1] += w * fy * e
            at += count
        among[1, 0] = among[0, 1]
        quality[n, 0] = math.sqrt(square / max(pixels, 1))
        quality[n, 1] = cost / max(pixels - _N, 1)
        add_prior(here, prior_mean[n], prior_weight[n], normal, gradient)
        covariance[n] = inverse(normal)
        if not math.isfinite(covariance[n, 0, 0]):
            skewness[n] = np.nan
            continue
        # What the fitted parameters can imitate is not skewness.
        score = with_rest - with_fit @ covariance[n] @ gradient
        error = inverse(among - with_fit @ covariance[n] @ with_fit.T)
        skewness[n, :2] = error @ score
        skewness[n, 2], skewness[n, 3], skewness[n, 4] = error[0, 0], error[0, 1], error[1, 1]


@njit(cache=True, nogil=True)
def couple(
    image: Floats, total: Floats, parameters: Floats, slope: Floats, radius: Floats, noise: Floats,
    alone: Floats, first: Ints, neighbour: Ints, start: int, end: int, joint: Floats, cross: Floats,
) -> None:  # fmt: skip
    """Covariance of each column together with the neighbours that overlap with it.

    Where O couples column i to neighbour j, the neighbour takes O D⁻¹ Oᵀ of the information on i (a Schur
    complement), with D the neighbour's own normal matrix: exact for two columns, and for more as far as the
    neighbours do not overlap with each other.

    Parameters
    ----------
    image, total, parameters, slope, radius, noise
        As for `analysis.gaussians.fit`.
    alone : (n, 7, 7) array
        From `precision`; NaN is passed over.
    first : (n + 1,) array
    neighbour : (k,) array
        Rows of the columns that overlap with column i: ``neighbour[first[i]:first[i + 1]]``.
    start, end : int
        Columns to work on.
    joint : (n, 7, 7) array
        Out.
    cross : (k, 2, 2) array
        Out: covariance of the positions of column i (rows) and its neighbour.
    """
    widest = 2 * math.ceil(radius.max()) + 3
    rows = np.empty((widest, 3), np.int64)
    data, weight = np.empty(widest * widest), np.empty(widest * widest)
    line, other = np.empty(widest), np.empty(widest)
    mine, its = np.empty(_N), np.empty(_N)
    most = 1
    for n in range(start, end):
        most = max(most, first[n + 1] - first[n])
    through, block = np.zeros((most, _N, _N)), np.empty((_N, _N))
    for n in range(start, end):
        joint[n] = alone[n]
        for k in range(first[n], first[n + 1]):
            cross[k] = 0.0
        if first[n] == first[n + 1] or not math.isfinite(alone[n, 0, 0]):
            continue
        taken = np.zeros((_N, _N))
        here = parameters[n]
        n_rows = window(image, total, here, here[2:4], slope[n], radius[n], noise, rows, data, weight, line)
        for k in range(first[n], first[n + 1]):
            there = parameters[neighbour[k]]
            through[k - first[n]] = 0.0
            if not math.isfinite(alone[neighbour[k], 0, 0]):
                continue
            block[:] = 0.0
            at = 0
            for m in range(n_rows):
                y, left, count = rows[m, 0], rows[m, 1], rows[m, 2]
                v, v2 = y - here[3], y - there[3]
                row(line, 0, count, left - here[2], here[4], here[5] * v, (here[6] * v) ** 2)
                row(other, 0, count, left - there[2], there[4], there[5] * v2, (there[6] * v2) ** 2)
                for i in range(count):
                    # Pixels where the neighbour is nearly nothing couple nothing.
                    if other[i] < 1e-3 or weight[at + i] == 0.0:
                        continue
                    _derivatives(here, left + i - here[2], v, line[i], mine)
                    _derivatives(there, left + i - there[2], v2, other[i], its)
                    its[1] = 0.0  # its background is not in this window
                    for a in range(_N):
                        for b in range(_N):
                            block[a, b] += weight[at + i] * mine[a] * its[b]
                at += count
            through[k - first[n]] = block @ alone[neighbour[k]]
            taken += through[k - first[n]] @ block.T
        both = inverse(inverse(alone[n]) - taken)
        if math.isfinite(both[0, 0]):
            joint[n] = both
        else:  # too much overlap for this: to the first order
            joint[n] = alone[n] + alone[n] @ taken @ alone[n]
        for k in range(first[n], first[n + 1]):
            cross[k] = -(joint[n] @ through[k - first[n]])[2:4, 2:4]
