"""The column fit of `analysis.gaussians` in torch: all columns at once, in double precision, on any device.

Windows, weights, damping and stopping rules are those of the compiled loops, so that both lead to the same columns.
Here a window is a square patch of pixels whose weight is 0 outside the circle. Every derivative is the Gaussian times a
polynomial in u and v: one product of the matrix of g, 1, gu, gv, gu², guv, gv² and the residual with its own weighted
transpose holds the normal matrix, the gradient and the cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .gaussians import DAMPED_OUT, PARAMETERS, SUPPORT

Floats = NDArray[np.float64]

_N = len(PARAMETERS)
_MEMORY = {"cpu": 32 << 20, "cuda": 512 << 20}  # bytes that one batch of columns may take
_PER_PIXEL = 48  # doubles that a pixel of a patch takes at the peak of a fit (measured)


def render(shape: tuple[int, ...], parameters: Tensor) -> Tensor:
    """Sum of all Gaussians, without backgrounds.

    Parameters
    ----------
    shape : (ny, nx)
    parameters : (n, 7) tensor
        Columns may lie beyond the image.

    Returns
    -------
    (ny, nx) tensor
        On the device of `parameters`.

    Notes
    -----
    On CUDA columns are added in no fixed order: the last bit may differ from call to call.
    """
    ny, nx = shape
    total = parameters.new_zeros(ny * nx)
    _, _, x0, y0, p, q, r = parameters.T
    # Where the ellipse of SUPPORT standard deviations begins and ends.
    wide, high = SUPPORT * torch.hypot(q, r) / (p * r), SUPPORT / r
    left, right = (x0 - wide).floor().clamp(min=0), (x0 + wide).ceil().clamp(max=nx - 1)
    top, bottom = (y0 - high).ceil().clamp(min=0), (y0 + high).floor().clamp(max=ny - 1)
    seen = torch.nonzero((right >= left) & (bottom >= top))[:, 0]
    side = torch.maximum(right - left, bottom - top)[seen].long() + 1
    for some, across in _batches(side):
        n = seen[some]
        amplitude, _, x0, y0, p, q, r = parameters[n].T[:, :, None, None]
        pixel = torch.arange(across, dtype=total.dtype, device=total.device)
        x, y = left[n, None, None] + pixel, top[n, None, None] + pixel[:, None]
        v = y - y0
        room = SUPPORT * SUPPORT - (r * v) ** 2
        middle, half = x0 - q * v / p, room.clamp(min=0).sqrt() / p
        inside = (room > 0) & (y <= bottom[n, None, None]) & (x <= right[n, None, None])
        inside = inside & (x >= (middle - half).ceil()) & (x <= (middle + half).floor())
        value = amplitude * torch.exp(-0.5 * ((p * (x - x0) + q * v) ** 2 + (r * v) ** 2))
        total.index_add_(0, (y * nx + x)[inside].long(), value[inside])
    return total.reshape(ny, nx)


def fit(
    image: Tensor, total: Tensor, parameters: Tensor, centre: Tensor, slope: Tensor, radius: Tensor, noise: Tensor,
    prior_mean: Tensor, prior_weight: Tensor, lower: Tensor, upper: Tensor, most: int, tolerance: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Levenberg-Marquardt fit of every column with all others held where they are.

    Parameters
    ----------
    image, total, parameters, centre, slope, radius, noise, prior_mean, prior_weight, lower, upper, most, tolerance
        As for `analysis.gaussians.fit`: double precision tensors, all on one device.

    Returns
    -------
    (n, 7) tensor, (n,) bool tensor
        Parameters, and which have converged.
    """
    result = torch.minimum(torch.maximum(parameters, lower), upper)
    converged = torch.zeros(len(result), dtype=torch.bool, device=result.device)
    for n, across in _batches((2 * radius).floor().long() + 1):
        windows = _windows(
            image, total, parameters[n], centre[n], slope[n], radius[n], noise, across,
            _Terms(prior_mean[n], prior_weight[n], lower[n], upper[n]),
        )  # fmt: skip
        result[n], converged[n] = _fitted(windows, result[n], most, tolerance)
    return result, converged


class TorchEngine:
    """Draws and fits columns on a torch device; see `analysis.engines.Engine`.

    Parameters
    ----------
    device : str
        "cpu" or "cuda", or one of several as "cuda:1".
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def hold(self, values: Floats) -> Tensor:
        """On the device, to be used there for many fits."""
        return torch.as_tensor(values, dtype=torch.float64, device=self.device)

    def draw(self, shape: tuple[int, ...], parameters: Floats) -> Tensor:
        """See `render`."""
        return render(shape, self.hold(parameters))

    def fit(
        self, image: Tensor, total: Tensor, parameters: Floats, centre: Floats, slope: Floats, radius: Floats,
        noise: Floats, prior_mean: Floats, prior_weight: Floats, lower: Floats, upper: Floats,
        most: int, tolerance: float,
    ) -> tuple[Floats, NDArray[np.bool_]]:  # fmt: skip
        """See `fit`."""
        hold = self.hold
        result, converged = fit(
            image, total, hold(parameters), hold(centre), hold(slope), hold(radius), hold(noise), hold(prior_mean),
            hold(prior_weight), hold(lower), hold(upper), most, tolerance,
        )  # fmt: skip
        return result.cpu().numpy(), converged.cpu().numpy()


@dataclass(frozen=True)
class _Terms:
    """What is known of columns beside their pixels; (m, 7) each."""

    prior_mean: Tensor
    prior_weight: Tensor
    lower: Tensor
    upper: Tensor

    def clipped(self, here: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(here, self.lower), self.upper)

    def of(self, rows: Tensor) -> _Terms:
        return _Terms(self.prior_mean[rows], self.prior_weight[rows], self.lower[rows], self.upper[rows])


@dataclass(frozen=True)
class _Windows:
    """Patches of m columns, (m, pixels) each; weight is 0 where there is nothing to fit."""

    x: Tensor
    y: Tensor
    data: Tensor
    weight: Tensor
    terms: _Terms

    def of(self, rows: Tensor) -> _Windows:
        return _Windows(self.x[rows], self.y[rows], self.data[rows], self.weight[rows], self.terms.of(rows))


def _batches(side: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows whose patches fit in memory together, and the side of the largest of them; large ones first."""
    if not len(side):
        return
    most = _MEMORY.get(side.device.type, _MEMORY["cpu"]) // (8 * _PER_PIXEL)
    ordered, order = torch.sort(side, descending=True)
    sides, at = ordered.tolist(), 0
    while at < len(sides):
        count = max(1, most // sides[at] ** 2)
        yield order[at : at + count], sides[at]
        at += count


def _gaussian(parameter: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of unit height, and its u and v, (m, pixels)."""
    _, _, x0, y0, p, q, r = parameter.T[:, :, None]
    u, v = x - x0, y - y0
    return torch.exp(-0.5 * ((p * u + q * v) ** 2 + (r * v) ** 2)), u, v


def _windows(
    image: Tensor, total: Tensor, parameter: Tensor, centre: Tensor, slope: Tensor, radius: Tensor, noise: Tensor,
    across: int, terms: _Terms,
) -> _Windows:  # fmt: skip
    """Pixels around `centre` with all other columns and the background's slope taken away."""
    ny, nx = image.shape
    pixel = torch.arange(across, dtype=image.dtype, device=image.device)
    cx, cy, radius = centre[:, :1], centre[:, 1:], radius[:, None]
    x = (cx - radius).ceil() + pixel.repeat(across)
    y = (cy - radius).ceil() + pixel.repeat_interleave(across)
    half = (radius * radius - (y - cy) ** 2).clamp(min=0).sqrt()
    inside = (y <= (cy + radius).floor()) & (x >= (cx - half).ceil()) & (x <= (cx + half).floor())
    inside = inside & (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    at = (y.clamp(0, ny - 1) * nx + x.clamp(0, nx - 1)).long()
    value, drawn = image.reshape(-1)[at], total.reshape(-1)[at]
    inside = inside & value.isfinite()
    g, _, _ = _gaussian(parameter, x, y)
    rise = slope[:, :1] * (x - cx) + slope[:, 1:] * (y - cy)
    variance = noise[0] + noise[1] * (drawn + parameter[:, 1:2] + rise)
    weight = torch.where(inside, 1 / torch.maximum(variance, noise[2]), 0.0)
    data = torch.where(inside, value - (drawn - parameter[:, :1] * g) - rise, 0.0)
    return _Windows(x, y, data, weight, terms)


def _normal(here: Tensor, windows: _Windows) -> tuple[Tensor, Tensor, Tensor]:
    """Normal matrix (m, 7, 7), gradient (m, 7) and cost (m,) with priors."""
    g, u, v = _gaussian(here, windows.x, windows.y)
    amplitude, background, _, _, p, q, r = here.T
    gu, gv = g * u, g * v
    rest = windows.data - amplitude[:, None] * g - background[:, None]
    parts = torch.stack([g, torch.ones_like(g), gu, gv, gu * u, gu * v, gv * v, rest], 1)
    moments = (parts * windows.weight[:, None]) @ parts.mT
    # How each derivative is made of these: rows are parameters.
    zero, one = torch.zeros_like(p), torch.ones_like(p)
    made = torch.stack(
        [
            *(one, zero, zero, zero, zero, zero, zero),
            *(zero, one, zero, zero, zero, zero, zero),
            *(zero, zero, amplitude * p * p, amplitude * p * q, zero, zero, zero),
            *(zero, zero, amplitude * p * q, amplitude * (q * q + r * r), zero, zero, zero),
            *(zero, zero, zero, zero, -amplitude * p, -amplitude * q, zero),
            *(zero, zero, zero, zero, zero, -amplitude * p, -amplitude * q),
            *(zero, zero, zero, zero, zero, zero, -amplitude * r),
        ],
        1,
    ).reshape(-1, _N, _N)
    normal = made @ moments[:, :_N, :_N] @ made.mT
    gradient = (made @ moments[:, :_N, _N:])[:, :, 0]
    terms = windows.terms
    away = torch.where(terms.prior_weight > 0, terms.prior_mean - here, 0.0)
    pull = terms.prior_weight * away
    normal = normal + torch.diag_embed(terms.prior_weight)
    return normal, gradient + pull, moments[:, _N, _N] + (pull * away).sum(1)


def _step(normal: Tensor, gradient: Tensor, damping: Tensor, here: Tensor, terms: _Terms) -> Tensor:
    """Damped step within bounds: a parameter that would cross a bound goes to it, and the others reckon with that."""
    diagonal = torch.diagonal(normal, dim1=1, dim2=2)
    step, fixed = torch.zeros_like(here), torch.zeros_like(here, dtype=torch.bool)
    for _ in range(_N):
        scale = torch.where(fixed | ~(diagonal > 0), 0.0, diagonal.rsqrt())
        scaled = normal * scale[:, :, None] * scale[:, None, :]
        # A parameter without influence (an empty window) must not make the system singular.
        torch.diagonal(scaled, dim1=1, dim2=2)[:] = 1.0 + damping[:, None] + 1e-12
        right = gradient - (normal @ torch.where(fixed, step, 0.0)[:, :, None])[:, :, 0]
        factor, info = torch.linalg.cholesky_ex(scaled)
        solved = torch.cholesky_solve((right * scale)[:, :, None], factor)[:, :, 0] * scale
        step = torch.where(fixed, step, solved)
        failed = (info > 0) | ~solved.isfinite().all(1)
        step = torch.where(failed[:, None], 0.0, step)
        aim = terms.clipped(here + step)
        crossed = ~fixed & ~failed[:, None] & (aim != here + step)
        if not crossed.any():
            break
        # A column without a crossing comes out of the next pass as it is.
        step, fixed = torch.where(crossed, aim - here, step), fixed | crossed
    return step


def _fitted(windows: _Windows, start: Tensor, most: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Parameters of a batch of columns, and which have converged."""
    result, converged = start.clone(), torch.zeros(len(start), dtype=torch.bool, device=start.device)
    row = torch.arange(len(start), device=start.device)  # of those still at work
    here, damping = start, torch.full_like(start[:, 0], 1e-3)
    normal, gradient, cost = _normal(here, windows)
    for _ in range(most):
        step = _step(normal, gradient, damping, here, windows.terms)
        trial = windows.terms.clipped(here + step)
        trial_normal, trial_gradient, trial_cost = _normal(trial, windows)
        moved = torch.hypot(*(trial - here)[:, 2:4].T)
        gain = torch.where(cost > 0, (cost - trial_cost) / cost, 0.0)
        better = trial_cost <= cost
        here = torch.where(better[:, None], trial, here)
        normal = torch.where(better[:, None, None], trial_normal, normal)
        gradient = torch.where(better[:, None], trial_gradient, gradient)
        cost = torch.where(better, trial_cost, cost)
        damping = torch.where(better, (0.1 * damping).clamp(min=1e-12), 10 * damping)
        # A step that only a huge damping would let through also means that the minimum is reached.
        done = ((moved < tolerance) & (gain.abs() < 1e-5)) | (~better & (damping >= DAMPED_OUT))
        result[row], converged[row] = here, done
        left = torch.nonzero(~done)[:, 0]
        if not len(left):
            break
        if len(left) < len(row):
            row, here, damping, windows = row[left], here[left], damping[left], windows.of(left)
            normal, gradient, cost = normal[left], gradient[left], cost[left]
    return result, converged
