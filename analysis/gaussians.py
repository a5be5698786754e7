"""Batched Levenberg-Marquardt fit of elliptical Gaussians on a constant background.

All columns of an image are fitted at once: every array has the column as its first axis, so the
cost is that of a few dense numpy operations and not of a Python loop over columns.

The shape of a column is held as the Cholesky factor of its inverse covariance,
``Q = (p u + q v)² + (r v)²`` with ``u = x − x0``, ``v = y − y0``: unlike widths and an angle it has
no degenerate direction for a round column, and is positive definite for any p, r > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Order of the fitted parameters along the last axis of every parameter array.
PARAMETERS = ("amplitude", "background", "x", "y", "p", "q", "r")

# Columns handled in one go: a Jacobian of some 2 MB stays in the processor's cache.
_CHUNK = 128


@dataclass(frozen=True)
class GaussianFit:
    """Result of `fit_gaussians`, one row a column.

    Attributes
    ----------
    parameters : (n, 7) array
        In the order of `PARAMETERS`; x, y in px, p, q, r in 1/px.
    covariance : (n, 7, 7) array
        Residual variance × (JᵀJ)⁻¹; NaN where the normal matrix is singular.
    residual : (n,) array
        Root mean square residual over the window, in intensity units.
    converged : (n,) bool array
    """

    parameters: Floats
    covariance: Floats
    residual: Floats
    converged: NDArray[np.bool_]


def evaluate(parameters: Floats, x: Floats, y: Floats) -> Floats:
    """Gaussians without their backgrounds.

    Parameters
    ----------
    parameters : (n, 7) array
    x, y : (n, m) arrays
        Pixel coordinates.

    Returns
    -------
    (n, m) array
    """
    amplitude, _, x0, y0, p, q, r = (parameters[:, i, None] for i in range(7))
    v = y - y0
    exponent = p * (x - x0)
    exponent += q * v
    exponent *= exponent
    v *= r
    v *= v
    exponent += v
    exponent *= -0.5
    np.exp(exponent, out=exponent)
    exponent *= amplitude
    return exponent


def _jacobian(parameters: Floats, x: Floats, y: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Model with background (n, m), and weighted derivatives (n, 7, m)."""
    amplitude, background, x0, y0, p, q, r = (parameters[:, i, None] for i in range(7))
    u, v = x - x0, y - y0
    e1, e2 = p * u + q * v, r * v
    g = np.exp(-0.5 * (e1**2 + e2**2))
    jac = np.empty((len(x), 7, x.shape[1]))
    np.multiply(g, weight, out=jac[:, 0])
    jac[:, 1] = weight
    h1 = amplitude * jac[:, 0]
    h2 = h1 * e2
    h1 *= e1
    np.multiply(p, h1, out=jac[:, 2])
    np.add(q * h1, r * h2, out=jac[:, 3])
    np.multiply(h1, -u, out=jac[:, 4])
    np.multiply(h1, -v, out=jac[:, 5])
    np.multiply(h2, -v, out=jac[:, 6])
    return amplitude * g + background, jac


def fit_gaussians(
    data: Floats,
    weight: Floats,
    x: Floats,
    y: Floats,
    start: Floats,
    *,
    lower: Floats,
    upper: Floats,
    max_iterations: int = 30,
    tolerance: float = 1e-5,
    errors: bool = True,
) -> GaussianFit:
    """Fit one elliptical Gaussian and one constant background to every window.

    Parameters
    ----------
    data : (n, m) array
        Intensities of the m pixels of every window; values where `weight` is 0 are ignored.
    weight : (n, m) array
        1 for a pixel that takes part, 0 for one that does not (outside the window, NaN).
    x, y : (n, m) arrays
        Pixel coordinates, px.
    start : (n, 7) array
        First guess, in the order of `PARAMETERS`.
    lower, upper : (n, 7) arrays
        Bounds that every step is clipped to.
    max_iterations : int
    tolerance : float
        A fit has converged when a step moves the centre by less than this, px.
    errors : bool
        Work out the covariance; else it is NaN.

    Returns
    -------
    GaussianFit

    Notes
    -----
    The covariance assumes independent noise of one variance inside a window, estimated from the
    residuals with the number of pixels minus seven degrees of freedom. Smoothed or resampled images
    have correlated noise, for which it is too small.
    """
    parts = [
        _fit_chunk(
            data[s],
            weight[s],
            x[s],
            y[s],
            start[s],
            lower[s],
            upper[s],
            max_iterations=max_iterations,
            tolerance=tolerance,
            errors=errors,
        )
        for s in (slice(i, i + _CHUNK) for i in range(0, max(len(data), 1), _CHUNK))
    ]
    return GaussianFit(
        np.concatenate([part.parameters for part in parts]),
        np.concatenate([part.covariance for part in parts]),
        np.concatenate([part.residual for part in parts]),
        np.concatenate([part.converged for part in parts]),
    )


def _fit_chunk(
    data: Floats,
    weight: Floats,
    x: Floats,
    y: Floats,
    start: Floats,
    lower: Floats,
    upper: Floats,
    *,
    max_iterations: int,
    tolerance: float,
    errors: bool,
) -> GaussianFit:
    data = np.where(weight > 0, data, 0.0)
    # Coordinates relative to the window and intensities of order one keep the normal matrix well scaled.
    scale = np.maximum(np.abs(start[:, 0]), np.finfo(float).tiny)
    unit, shift = np.ones((len(data), 7)), np.zeros((len(data), 7))
    unit[:, :2] = scale[:, None]
    shift[:, 2], shift[:, 3] = x[:, 0], y[:, 0]
    x, y, data = x - x[:, :1], y - y[:, :1], data / scale[:, None]
    low, high = (lower - shift) / unit, (upper - shift) / unit
    current = np.clip((start - shift) / unit, low, high)

    cost = _cost(current, data, weight, x, y)
    damping = np.full(len(data), 1e-3)
    converged = np.zeros(len(data), bool)
    rows, live = np.arange(len(data)), (data, weight, x, y)
    for _ in range(max_iterations):
        if converged[rows].any():
            rows = np.flatnonzero(~converged)
            live = data[rows], weight[rows], x[rows], y[rows]
        if rows.size == 0:
            break
        live_data, live_weight, live_x, live_y = live
        model, jac = _jacobian(current[rows], live_x, live_y, live_weight)
        normal = jac @ jac.transpose(0, 2, 1)
        gradient = (jac @ (live_data - model)[..., None])[..., 0]
        here = current[rows]
        held = ((here <= low[rows]) & (gradient < 0)) | ((here >= high[rows]) & (gradient > 0))
        step = _solve(normal, gradient, damping[rows], held)
        trial = np.clip(here + step, low[rows], high[rows])
        trial_cost = _cost(trial, *live)
        better = trial_cost <= cost[rows]
        moved = np.hypot(trial[:, 2] - here[:, 2], trial[:, 3] - here[:, 3])
        gain = (cost[rows] - trial_cost) / np.maximum(cost[rows], np.finfo(float).tiny)
        current[rows[better]] = trial[better]
        cost[rows[better]] = trial_cost[better]
        damping[rows] = np.clip(damping[rows] * np.where(better, 0.1, 10.0), 1e-12, 1e8)
        # So does a step that only a huge damping would let through, or that fails by rounding alone, mean
        # that the minimum is reached.
        done = ((moved < tolerance) & (np.abs(gain) < 1e-5)) | (~better & (damping[rows] >= 1e4))
        converged[rows] = done

    covariance = np.full((len(data), 7, 7), np.nan)
    if errors:
        _, jac = _jacobian(current, x, y, weight)
        freedom = np.maximum(weight.sum(1) - len(PARAMETERS), 1.0)
        covariance = _inverse(jac @ jac.transpose(0, 2, 1)) * (cost / freedom)[:, None, None]
        covariance *= unit[:, :, None] * unit[:, None, :]
    residual = np.sqrt(cost / np.maximum(weight.sum(1), 1.0)) * scale
    return GaussianFit(current * unit + shift, covariance, residual, converged)


def _cost(parameters: Floats, data: Floats, weight: Floats, x: Floats, y: Floats) -> Floats:
    residual = (data - evaluate(parameters, x, y) - parameters[:, 1, None]) * weight
    return np.einsum("nm,nm->n", residual, residual)


def _solve(normal: Floats, gradient: Floats, damping: Floats, held: NDArray[np.bool_]) -> Floats:
    """Damped step; parameters held at a bound do not move, and the others do not reckon with them."""
    free = (~held).astype(float)
    normal = normal * free[:, :, None] * free[:, None, :]
    diagonal = np.einsum("nii->ni", normal)
    # The floor keeps a parameter without influence (an empty window) from making the system singular.
    floor = 1e-12 * diagonal.max(1, keepdims=True) + np.finfo(float).tiny
    damped = normal + np.eye(7) * (damping[:, None] * diagonal + floor + held)[:, None, :]
    return np.linalg.solve(damped, (gradient * free)[..., None])[..., 0]


def _inverse(normal: Floats) -> Floats:
    scale = np.sqrt(np.maximum(np.einsum("nii->ni", normal), np.finfo(float).tiny))
    scaled = normal / (scale[:, :, None] * scale[:, None, :])
    good = np.isfinite(scaled).all((1, 2))
    # Symmetric: its condition number is the ratio of the eigenvalues.
    eigenvalues = np.linalg.eigvalsh(scaled[good])
    good[good] &= eigenvalues[:, -1] < 1e12 * eigenvalues[:, 0]
    inverse = np.full_like(normal, np.nan)
    inverse[good] = np.linalg.inv(scaled[good])
    return inverse / (scale[:, :, None] * scale[:, None, :])
