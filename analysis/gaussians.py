"""Compiled loops over columns: drawing them, and fitting one elliptical Gaussian in each window.

The shape of a column is held as the Cholesky factor of its inverse covariance,
``Q = (p u + q v)² + (r v)²`` with ``u = x − x0``, ``v = y − y0``: unlike widths and an angle it has
no degenerate direction for a round column, and is positive definite for any p, r > 0.

Along a row of pixels the exponent is a parabola, so that each value follows from the last by two products: no
exponential per pixel. Derivatives are the Gaussian times polynomials in u and v, so that the normal
matrix follows from 15 moments instead of 28 products per pixel.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Order of the fitted parameters along the last axis of every parameter array.
PARAMETERS = ("amplitude", "background", "x", "y", "p", "q", "r")

#: Standard deviations after which a tail (4e-6 of the height) is neglected.
SUPPORT = 5.0

#: Damping at which a fit that still finds no better step has ended.
DAMPED_OUT = 1e4

_N = len(PARAMETERS)


@njit(cache=True, nogil=True, fastmath=True)
def row(out: Floats, start: int, count: int, first: float, p: float, qv: float, rv2: float) -> None:
    """Gaussian of unit height on `count` pixels of a row, from u = `first`.

    Runs outward from the pixel nearest the ridge, so that nothing can overflow.
    """
    ridge = -qv / p - first
    middle = min(max(round(ridge), 0), count - 1)
    step = math.exp(-p * p)
    e = p * (first + middle) + qv
    top = math.exp(-0.5 * (e * e + rv2))
    value, ratio = top, math.exp(-p * e - 0.5 * p * p)
    for i in range(middle, count):
        out[start + i] = value
        value *= ratio
        ratio *= step
    value, ratio = top, math.exp(p * e - 0.5 * p * p)
    for i in range(middle, -1, -1):
        out[start + i] = value
        value *= ratio
        ratio *= step


@njit(cache=True, nogil=True, fastmath=True)
def render(total: Floats, parameters: Floats, first_row: int, last_row: int) -> None:
    """Add all Gaussians, without backgrounds, to the rows from `first_row` up to `last_row`.

    Parameters
    ----------
    total : (ny, nx) array
        Changed in place.
    parameters : (n, 7) array
        Columns may lie beyond the image.
    first_row, last_row : int
    """
    nx = total.shape[1]
    line = np.empty(nx)
    for n in range(len(parameters)):
        amplitude, x0, y0 = parameters[n, 0], parameters[n, 2], parameters[n, 3]
        p, q, r = parameters[n, 4], parameters[n, 5], parameters[n, 6]
        top = max(math.ceil(y0 - SUPPORT / r), first_row)
        bottom = min(math.floor(y0 + SUPPORT / r), last_row - 1)
        for y in range(top, bottom + 1):
            v = y - y0
            room = SUPPORT * SUPPORT - (r * v) ** 2
            if room <= 0:
                continue
            centre, half = x0 - q * v / p, math.sqrt(room) / p
            left = max(math.ceil(centre - half), 0)
            right = min(math.floor(centre + half), nx - 1)
            if right < left:
                continue
            row(line, 0, right - left + 1, left - x0, p, q * v, (r * v) ** 2)
            for i in range(right - left + 1):
                total[y, left + i] += amplitude * line[i]


@njit(cache=True, nogil=True)
def window(
    image: Floats, total: Floats, parameter: Floats, centre: Floats, slope: Floats, radius: float, noise: Floats,
    rows: NDArray[np.int64], data: Floats, weight: Floats, line: Floats,
) -> int:  # fmt: skip
    """Pixels around `centre` with all other columns and the background's slope taken away.

    Returns the number of rows; `rows` holds y, first x and length of each, `data` and `weight` its pixels one after
    the other.
    """
    ny, nx = image.shape
    amplitude, background, x0, y0 = parameter[0], parameter[1], parameter[2], parameter[3]
    p, q, r = parameter[4], parameter[5], parameter[6]
    top = max(math.ceil(centre[1] - radius), 0)
    bottom = min(math.floor(centre[1] + radius), ny - 1)
    n_rows, at = 0, 0
    for y in range(top, bottom + 1):
        half = math.sqrt(max(radius * radius - (y - centre[1]) ** 2, 0.0))
        left = max(math.ceil(centre[0] - half), 0)
        right = min(math.floor(centre[0] + half), nx - 1)
        count = right - left + 1
        if count <= 0:
            continue
        v = y - y0
        row(line, 0, count, left - x0, p, q * v, (r * v) ** 2)
        for i in range(count):
            value = image[y, left + i]
            others = total[y, left + i] - amplitude * line[i]
            rise = slope[0] * (left + i - centre[0]) + slope[1] * (y - centre[1])
            variance = noise[0] + noise[1] * (total[y, left + i] + background + rise)
            seen = math.isfinite(value)
            weight[at + i] = 1.0 / max(variance, noise[2]) if seen else 0.0
            data[at + i] = value - others - rise if seen else 0.0
        rows[n_rows, 0], rows[n_rows, 1], rows[n_rows, 2] = y, left, count
        n_rows += 1
        at += count
    return n_rows


@njit(cache=True, nogil=True, fastmath=True)
def normal_matrix(
    parameter: Floats, rows: NDArray[np.int64], n_rows: int, data: Floats, weight: Floats, line: Floats,
    normal: Floats, gradient: Floats,
) -> float:  # fmt: skip
    """Weighted normal matrix, gradient and cost at the given parameters."""
    amplitude, background, x0, y0 = parameter[0], parameter[1], parameter[2], parameter[3]
    p, q, r = parameter[4], parameter[5], parameter[6]
    square = np.zeros((5, 5))  # sums of w g² uⁱ vʲ
    single = np.zeros((3, 3))  # sums of w g uⁱ vʲ
    rest = np.zeros((3, 3))  # sums of w g (data − model) uⁱ vʲ
    total_weight, total_rest, cost = 0.0, 0.0, 0.0
    at = 0
    for n in range(n_rows):
        v, first, count = rows[n, 0] - y0, rows[n, 1] - x0, rows[n, 2]
        row(line, 0, count, first, p, q * v, (r * v) ** 2)
        s0 = s1 = s2 = s3 = s4 = 0.0
        g0 = g1 = g2 = 0.0
        r0 = r1 = r2 = 0.0
        w0 = wr = c0 = 0.0
        for i in range(count):
            g, w, u = line[i], weight[at + i], first + i
            e = data[at + i] - amplitude * g - background
            wg = w * g
            wgg = wg * g
            wge = wg * e
            u2 = u * u
            w0 += w
            wr += w * e
            c0 += w * e * e
            g0 += wg
            g1 += wg * u
            g2 += wg * u2
            r0 += wge
            r1 += wge * u
            r2 += wge * u2
            s0 += wgg
            s1 += wgg * u
            s2 += wgg * u2
            s3 += wgg * u2 * u
            s4 += wgg * u2 * u2
        at += count
        total_weight += w0
        total_rest += wr
        cost += c0
        power = 1.0
        for j in range(5):
            square[0, j] += s0 * power
            if j < 4:
                square[1, j] += s1 * power
            if j < 3:
                square[2, j] += s2 * power
                single[0, j] += g0 * power
                rest[0, j] += r0 * power
            if j < 2:
                square[3, j] += s3 * power
                single[1, j] += g1 * power
                rest[1, j] += r1 * power
            if j < 1:
                square[4, j] += s4 * power
                single[2, j] += g2 * power
                rest[2, j] += r2 * power
            power *= v
    _assemble(amplitude, p, q, r, square, single, rest, normal, gradient)
    normal[1, 1] = total_weight
    gradient[1] = total_rest
    return cost


@njit(cache=True, nogil=True)
def _assemble(
    amplitude: float, p: float, q: float, r: float, square: Floats, single: Floats, rest: Floats,
    normal: Floats, gradient: Floats,
) -> None:  # fmt: skip
    """From moments to the normal matrix; every derivative is g times a polynomial in u and v."""
    # Powers of u and v of 1, u, v, u², uv, v².
    pu, pv = (0, 1, 0, 2, 1, 0), (0, 0, 1, 0, 1, 2)
    c = np.zeros((6, 6))
    c[0, 0] = 1.0
    c[1, 1], c[1, 2] = amplitude * p * p, amplitude * p * q
    c[2, 1], c[2, 2] = amplitude * p * q, amplitude * (q * q + r * r)
    c[3, 3], c[3, 4] = -amplitude * p, -amplitude * q
    c[4, 4], c[4, 5] = -amplitude * p, -amplitude * q
    c[5, 5] = -amplitude * r
    for i in range(6):
        into = i if i == 0 else i + 1
        to_background, slope = 0.0, 0.0
        for k in range(6):
            if c[i, k] != 0.0:
                to_background += c[i, k] * single[pu[k], pv[k]]
                slope += c[i, k] * rest[pu[k], pv[k]]
        normal[into, 1] = normal[1, into] = to_background
        gradient[into] = slope
        for j in range(i + 1):
            value = 0.0
            for k in range(6):
                if c[i, k] != 0.0:
                    for m in range(6):
                        if c[j, m] != 0.0:
                            value += c[i, k] * c[j, m] * square[pu[k] + pu[m], pv[k] + pv[m]]
            also = j if j == 0 else j + 1
            normal[into, also] = normal[also, into] = value


@njit(cache=True, nogil=True)
def _factor(normal: Floats, factor: Floats) -> bool:
    """Cholesky factor of a positive definite matrix; False if it is not."""
    size = len(normal)
    for i in range(size):
        for j in range(i + 1):
            value = normal[i, j]
            for k in range(j):
                value -= factor[i, k] * factor[j, k]
            if i == j:
                if not value > 0.0:
                    return False
                factor[i, i] = math.sqrt(value)
            else:
                factor[i, j] = value / factor[j, j]
    return True


@njit(cache=True, nogil=True)
def _step(
    normal: Floats, gradient: Floats, damping: float, here: Floats, lower: Floats, upper: Floats,
    factor: Floats, step: Floats,
) -> None:  # fmt: skip
    """Damped step within bounds: a parameter that would cross a bound goes to it, and the others reckon with that."""
    size = len(gradient)
    fixed, scale = np.zeros(size, np.bool_), np.empty(size)
    scaled, right = np.empty((size, size)), np.empty(size)
    step[:] = 0.0
    for _ in range(size):
        for i in range(size):
            scale[i] = 0.0 if fixed[i] or not normal[i, i] > 0.0 else 1.0 / math.sqrt(normal[i, i])
        for i in range(size):
            right[i] = gradient[i]
            for j in range(size):
                scaled[i, j] = normal[i, j] * scale[i] * scale[j]
                if fixed[j]:
                    right[i] -= normal[i, j] * step[j]
            # A parameter without influence (an empty window) must not make the system singular.
            scaled[i, i] = 1.0 + damping + 1e-12
        if not _factor(scaled, factor):
            step[:] = 0.0
            return
        for i in range(size):
            value = right[i] * scale[i]
            for k in range(i):
                value -= factor[i, k] * right[k]
            right[i] = value / factor[i, i]
        for i in range(size - 1, -1, -1):
            value = right[i]
            for k in range(i + 1, size):
                value -= factor[k, i] * right[k]
            right[i] = value / factor[i, i]
        crossed = False
        for i in range(size):
            if fixed[i]:
                continue
            step[i] = right[i] * scale[i]
            aim = min(max(here[i] + step[i], lower[i]), upper[i])
            if aim != here[i] + step[i]:
                step[i] = aim - here[i]
                fixed[i] = crossed = True
        if not crossed:
            return


@njit(cache=True, nogil=True)
def add_prior(here: Floats, mean: Floats, weight: Floats, normal: Floats, gradient: Floats) -> float:
    """Add independent Gaussian priors, of precision `weight`, on the parameters; returns their cost."""
    cost = 0.0
    for i in range(_N):
        if weight[i] > 0.0:
            away = mean[i] - here[i]
            normal[i, i] += weight[i]
            gradient[i] += weight[i] * away
            cost += weight[i] * away * away
    return cost


@njit(cache=True, nogil=True)
def fit(
    image: Floats, total: Floats, parameters: Floats, centre: Floats, slope: Floats, radius: Floats, noise: Floats,
    prior_mean: Floats, prior_weight: Floats, lower: Floats, upper: Floats, most: int, tolerance: float,
    result: Floats, converged: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Levenberg-Marquardt fit of every column with all others held where they are.

    Parameters
    ----------
    image : (ny, nx) array
        NaN pixels take no part.
    total : (ny, nx) array
        All columns as drawn by `render` with `parameters`.
    parameters : (n, 7) array
        Start, and what `total` shows of each column; in the order of `PARAMETERS`, px.
    centre : (n, 2) array
        Of the windows, px.
    slope : (n, 2) array
        Of the background, per px.
    radius : (n,) array
        Of the windows, px.
    noise : (3,) array
        Variance of a pixel: offset, share of its intensity, least value. Taken at the start's model, so that
        repeated calls end at the maximum of the (Poisson) likelihood.
    prior_mean, prior_weight : (n, 7) arrays
        What is known of each parameter, and with what precision (0: nothing).
    lower, upper : (n, 7) arrays
        Bounds that every step is clipped to.
    most : int
        Steps at most.
    tolerance : float
        A fit has converged when a step moves the centre by less than this, px.
    result : (n, 7) array
        Out.
    converged : (n,) bool array
        Out.
    """
    widest = 2 * math.ceil(radius.max()) + 3
    rows = np.empty((widest, 3), np.int64)
    data, weight, line = np.empty(widest * widest), np.empty(widest * widest), np.empty(widest)
    normal, gradient = np.zeros((_N, _N)), np.zeros(_N)
    trial_normal, trial_gradient = np.zeros((_N, _N)), np.zeros(_N)
    factor, step, trial = np.zeros((_N, _N)), np.zeros(_N), np.zeros(_N)
    for n in range(len(parameters)):
        n_rows = window(
            image, total, parameters[n], centre[n], slope[n], radius[n], noise, rows, data, weight, line
        )
        here = result[n]
        for i in range(_N):
            here[i] = min(max(parameters[n, i], lower[n, i]), upper[n, i])
        cost = normal_matrix(here, rows, n_rows, data, weight, line, normal, gradient)
        cost += add_prior(here, prior_mean[n], prior_weight[n], normal, gradient)
        damping = 1e-3
        converged[n] = False
        for _ in range(most):
            _step(normal, gradient, damping, here, lower[n], upper[n], factor, step)
            for i in range(_N):
                trial[i] = min(max(here[i] + step[i], lower[n, i]), upper[n, i])
            trial_cost = normal_matrix(trial, rows, n_rows, data, weight, line, trial_normal, trial_gradient)
            trial_cost += add_prior(trial, prior_mean[n], prior_weight[n], trial_normal, trial_gradient)
            moved = math.hypot(trial[2] - here[2], trial[3] - here[3])
            gain = (cost - trial_cost) / cost if cost > 0 else 0.0
            better = trial_cost <= cost
            if better:
                here[:] = trial
                cost = trial_cost
                normal, trial_normal = trial_normal, normal
                gradient, trial_gradient = trial_gradient, gradient
                damping = max(0.1 * damping, 1e-12)
            else:
                damping *= 10.0
            # A step that only a huge damping would let through also means that the minimum is reached.
            if (moved < tolerance and abs(gain) < 1e-5) or (not better and damping >= DAMPED_OUT):
                converged[n] = True
                break


@njit(cache=True, nogil=True)
def inverse(matrix: Floats) -> Floats:
    """Inverse of a positive definite matrix, NaN where it is (nearly) none."""
    size = len(matrix)
    result = np.full((size, size), np.nan)
    scale = np.empty(size)
    for i in range(size):
        if not (matrix[i, i] > 0.0 and math.isfinite(matrix[i, i])):
            return result
        scale[i] = 1.0 / math.sqrt(matrix[i, i])
    scaled = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            scaled[i, j] = matrix[i, j] * scale[i] * scale[j]
    factor = np.zeros((size, size))
    if not _factor(scaled, factor):
        return result
    least = factor[0, 0]
    for i in range(size):
        least = min(least, factor[i, i])
    if least < 1e-6:
        return result
    # Columns of the inverse of the factor, then their products.
    lower = np.zeros((size, size))
    for j in range(size):
        lower[j, j] = 1.0 / factor[j, j]
        for i in range(j + 1, size):
            value = 0.0
            for k in range(j, i):
                value -= factor[i, k] * lower[k, j]
            lower[i, j] = value / factor[i, i]
    for i in range(size):
        for j in range(size):
            value = 0.0
            for k in range(max(i, j), size):
                value += lower[k, i] * lower[k, j]
            result[i, j] = value * scale[i] * scale[j]
    return result
