"""Other ways to say where a column is, once all are fitted: its centre of mass, and the average column as template.

Both look at each column with its neighbours and background taken away, in the windows of the fit.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from .columns import FLAG_POOR_FIT, FittedColumns
from .engines import in_parts
from .gaussians import window
from .sweeps import draw

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Names of the estimators of position.
ESTIMATORS = ("gaussian", "mass", "template")

_STEPS = 20
_SETTLED = 1e-4  # px
_FINEST = 4  # bins of a template per px
_PER_BIN = 10  # pixels that a bin should hold
_SMOOTH = 0.5  # standard deviations of the column
_CHUNK = 2000  # columns fitted to a template in one go


def located(values: Floats, fitted: FittedColumns, estimator: str) -> FittedColumns:
    """The same columns with positions, and their covariance, from another estimator.

    Parameters
    ----------
    values : (ny, nx) array
        The image that was fitted.
    fitted : FittedColumns
    estimator : {"gaussian", "mass", "template"}
        "gaussian" changes nothing. "mass": mean position of the intensity in the window; moves with asymmetry that
        a Gaussian's centre hardly sees, and is noisier. "template": the average over all columns of a kind is
        shifted and scaled to each; needs no assumption on the shape, but that all share it.

    Notes
    -----
    A template knows shifts only: its own zero is where the Gaussian fits have their mean. Errors leave out those of
    what was taken away, and of the template: they are 5 to 20 % too small.
    """
    if estimator == "gaussian":
        return fitted
    data, weight, x, y = _windows(values, fitted)
    position, covariance = (_mass if estimator == "mass" else _template)(data, weight, x, y, fitted)
    bad = ~(np.isfinite(position).all(1) & np.isfinite(covariance).all((1, 2)))
    bad |= np.hypot(*(position - fitted.fit.parameters[:, 2:4]).T) > fitted.setting.radius
    parameters, full = fitted.fit.parameters.copy(), fitted.fit.covariance.copy()
    parameters[~bad, 2:4] = position[~bad]
    full[~bad, 2:4, 2:4] = (covariance * fitted.fit.inflation[:, None, None] ** 2)[~bad]
    flag = np.where(bad, fitted.flag | FLAG_POOR_FIT, fitted.flag).astype(np.uint8)
    return replace(fitted, fit=replace(fitted.fit, parameters=parameters, covariance=full), flag=flag)


def _windows(values: Floats, fitted: FittedColumns) -> tuple[Floats, Floats, Floats, Floats]:
    """Intensity of the columns alone, (n, m), its weight (1 over variance, 0 outside), and pixel coordinates."""
    parameters, setting = fitted.fit.parameters, fitted.setting
    total = draw(values.shape, parameters, setting.ghosts)
    side = 2 * math.ceil(float(setting.radius.max())) + 3
    data, weight, x, y = (np.zeros((len(parameters), side * side)) for _ in range(4))

    def work(first: int, last: int) -> None:
        s = slice(first, last)
        _filled(
            values, total, parameters[s], setting.slope[s], setting.radius[s], setting.noise.as_array,
            data[s], weight[s], x[s], y[s],
        )  # fmt: skip

    in_parts(len(parameters), work)
    return data, weight, x, y


@njit(cache=True, nogil=True)
def _filled(
    image: Floats, total: Floats, parameters: Floats, slope: Floats, radius: Floats, noise: Floats,
    data: Floats, weight: Floats, x: Floats, y: Floats,
) -> None:  # fmt: skip
    rows = np.empty((math.ceil(math.sqrt(data.shape[1])) + 1, 3), np.int64)
    line = np.empty(len(rows))
    for n in range(len(parameters)):
        here = parameters[n]
        n_rows = window(
            image, total, here, here[2:4], slope[n], radius[n], noise, rows, data[n], weight[n], line
        )
        at = 0
        for k in range(n_rows):
            for i in range(rows[k, 2]):
                data[n, at] -= here[1]
                x[n, at], y[n, at] = rows[k, 1] + i, rows[k, 0]
                at += 1


def _mass(
    data: Floats, weight: Floats, x: Floats, y: Floats, fitted: FittedColumns
) -> tuple[Floats, Floats]:  # fmt: skip
    centre, radius = fitted.fit.parameters[:, 2:4], fitted.setting.radius[:, None]
    # A pixel at the rim counts in part: else the window's own pixels would move the mean.
    share = np.clip(radius - np.hypot(x - centre[:, :1], y - centre[:, 1:]), 0, 1) * (weight > 0)
    # Where the image has no pixel, or is cut, the fitted Gaussian stands in: only what departs from it is summed.
    parameters = fitted.fit.parameters
    rest = data - parameters[:, :1] * _unit(parameters, x - centre[:, :1], y - centre[:, 1:])
    total = 2 * np.pi * parameters[:, 0] / (parameters[:, 4] * parameters[:, 6]) + (share * rest).sum(1)
    away = np.stack([x, y], -1) - centre[:, None]
    position = centre + np.einsum("nm,nmi->ni", share * rest, away) / total[:, None]
    variance = np.divide(share**2, weight, out=np.zeros_like(share), where=weight > 0)
    covariance = np.einsum("nm,nmi,nmj->nij", variance, away, away) / total[:, None, None] ** 2
    return position, covariance


def _template(
    data: Floats, weight: Floats, x: Floats, y: Floats, fitted: FittedColumns
) -> tuple[Floats, Floats]:  # fmt: skip
    count = len(data)
    position, covariance = np.full((count, 2), np.nan), np.full((count, 2, 2), np.nan)
    for kind in np.unique(fitted.kind):
        rows = np.flatnonzero(fitted.kind == kind)
        good = rows[fitted.flag[rows] == 0] if (fitted.flag[rows] == 0).any() else rows
        radius = float(fitted.setting.radius[rows].max())
        spline, bins = _average(
            data[good], weight[good], x[good], y[good], fitted.fit.parameters[good], radius
        )
        for first in range(0, len(rows), _CHUNK):
            some = rows[first : first + _CHUNK]
            position[some], covariance[some] = _matched(
                spline, bins, radius, data[some], weight[some], x[some], y[some], fitted.fit.parameters[some]
            )
    return position, covariance


def _average(
    data: Floats, weight: Floats, x: Floats, y: Floats, parameters: Floats, radius: float
) -> tuple[Floats, int]:
    """Mean column of unit height as spline coefficients on a grid of 1 / bins px."""
    bins = int(np.clip(math.sqrt(len(data) / _PER_BIN), 1, _FINEST))
    half = math.ceil(radius + 2) * bins
    side = 2 * half + 1
    seen = weight > 0
    column = np.rint((x - parameters[:, 2:3]) * bins).astype(int) + half
    line = np.rint((y - parameters[:, 3:4]) * bins).astype(int) + half
    # Each pixel is moved to the middle of its bin along the slope of the Gaussian, so that bins do not blur.
    u, v = x - parameters[:, 2:3], y - parameters[:, 3:4]
    there = _unit(parameters, (column - half) / bins, (line - half) / bins)
    value = data / parameters[:, :1] + there - _unit(parameters, u, v)
    where = (np.clip(line, 0, side - 1) * side + np.clip(column, 0, side - 1))[seen]
    height = np.broadcast_to(parameters[:, :1] ** 2, data.shape)[seen] * weight[seen]
    total = np.bincount(where, height * value[seen], side * side)
    norm = np.bincount(where, height, side * side)
    span = (np.arange(side) - half) / bins
    typical = np.median(parameters, 0)[None]
    model = _unit(typical, np.tile(span, side)[None], np.repeat(span, side)[None])[0]
    # What departs from a Gaussian is smooth; the noise of a bin is not, and would pass for slopes to hold on to.
    blur = _SMOOTH * bins / math.sqrt(typical[0, 4] * typical[0, 6])
    rest, norm = (
        ndimage.gaussian_filter(part.reshape(side, side), blur) for part in (total - norm * model, norm)
    )
    mean = model.reshape(side, side) + np.divide(
        rest, norm, out=np.zeros_like(rest), where=norm > 1e-6 * norm.max()
    )
    return ndimage.spline_filter(mean, order=3, mode="nearest"), bins


def _unit(parameters: Floats, u: Floats, v: Floats) -> Floats:
    p, q, r = (parameters[:, n, None] for n in (4, 5, 6))
    return np.exp(-0.5 * ((p * u + q * v) ** 2 + (r * v) ** 2))


def _matched(
    spline: Floats,
    bins: int,
    radius: float,
    data: Floats,
    weight: Floats,
    x: Floats,
    y: Floats,
    start: Floats,
) -> tuple[Floats, Floats]:
    """Gauss-Newton fit of height, background and place of a template."""
    middle = spline.shape[0] // 2
    now = np.stack([start[:, 0], np.zeros(len(start)), start[:, 2], start[:, 3]], 1)
    normal = np.zeros((len(start), 4, 4))
    for _ in range(_STEPS):

        def sampled(dx: float, dy: float) -> Floats:
            place = np.stack([(y - now[:, 3:4] + dy) * bins + middle, (x - now[:, 2:3] + dx) * bins + middle])  # noqa: B023
            return ndimage.map_coordinates(spline, place, order=3, prefilter=False, mode="nearest")

        step = 0.5 / bins
        value = sampled(0, 0)
        height = now[:, :1]
        along_x = -height * (sampled(step, 0) - sampled(-step, 0)) / (2 * step)
        along_y = -height * (sampled(0, step) - sampled(0, -step)) / (2 * step)
        jac = np.stack([value, np.ones_like(value), along_x, along_y], 1)
        normal = np.einsum("nim,nm,njm->nij", jac, weight, jac)
        right = np.einsum("nim,nm->ni", jac, weight * (data - height * value - now[:, 1:2]))
        floor = 1e-12 * np.einsum("nii->ni", normal).max(1)[:, None, None] + np.finfo(float).tiny
        move = np.linalg.solve(normal + floor * np.eye(4), right[..., None])[..., 0]
        move[:, 2:] = np.clip(move[:, 2:], -1.0, 1.0)
        now = now + move
        if np.quantile(np.abs(move[:, 2:]), 0.95) < _SETTLED:
            break
    scale = np.sqrt(np.maximum(np.einsum("nii->ni", normal), np.finfo(float).tiny))
    inverse = np.linalg.pinv(normal / (scale[:, :, None] * scale[:, None, :]), hermitian=True)
    covariance = inverse / (scale[:, :, None] * scale[:, None, :])
    return now[:, 2:], covariance[:, 2:, 2:]
