"""Fit every column, with the tails of its neighbours taken away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .gaussians import GaussianFit, evaluate, fit_gaussians
from .growth import Sites, coverage

Floats = NDArray[np.float64]

#: Bits of the flag of a column and of a cell.
FLAG_POOR_FIT, FLAG_EDGE, FLAG_NOT_CONVERGED = 1, 2, 4
FLAG_ATTRS = {
    "units": "1",
    "flag_masks": np.array([1, 2, 4], np.uint8),
    "flag_meanings": "poor_fit edge not_converged",
    "note": "0 is good",
}

#: Radius of the fit window, in units of the shortest distance from A to B.
WINDOW = 0.5
#: A column is fitted if this fraction of its window holds data, and flagged "edge" below the second.
LEAST_COVERAGE, FULL_COVERAGE = 0.6, 0.8

_SWEEPS = 8
_IN_NOISE = 0.05  # standard errors: or less than this
_SETTLED = 2e-4  # px: sweeps end when 95 % of the columns move less
_ITERATIONS = (30, 25)  # of one fit, in the first sweep and in those that start near the answer
_MEMORY = 3  # earlier sweeps that the mixing learns from
_DEEPEST = 0.2  # of the local contrast: how far a background may lie under the darkest pixel
_SLOPE_FROM = 21  # columns
_WIDEST = 0.6  # standard deviation, in A-B distances
_WIDER_THAN_MOST = 1.3  # times the median standard deviation of its kind
_WIDTHS_FROM = 8  # columns
_SUPPORT = 5.0  # standard deviations after which a tail (4e-6) is neglected
_LARGEST_SUPPORT = 2.0  # cells; a column fitted too wide must not slow down everything
_POOR_RESIDUAL = 5.0  # times the median residual of its kind
_EXACT = 0.02  # of the amplitude: a residual below this is never poor, even in an image without noise
_POOR_DRIFT = 0.35  # of the A-B distance, away from where the lattice expects the column


@dataclass(frozen=True)
class Windows:
    """What the last sweep fitted, one row a column, and the columns beyond the border.

    Attributes
    ----------
    x, y : (n, m) arrays
        Pixel coordinates, px; outside the image where a window is cut.
    data, weight : (n, m) arrays
        Intensities without the tails of the neighbours; 0 where a pixel takes no part.
    lower, upper : (n, 7) arrays
        Bounds of the fit.
    ghost_row, ghost_offset : (k,) and (k, 2) arrays
        For every column beyond the border, the fitted column that it copies and its way from there, px.
    """

    x: Floats
    y: Floats
    data: Floats
    weight: Floats
    lower: Floats
    upper: Floats
    ghost_row: NDArray[np.int64]
    ghost_offset: Floats


@dataclass(frozen=True)
class FittedColumns:
    """All columns inside the image, in px.

    Attributes
    ----------
    fit : GaussianFit
    index : (n, 2) array
    is_a : (n,) bool array
    flag : (n,) uint8 array
    sweeps : int
        Rounds of neighbour subtraction.
    last_move : float
        Largest movement of an unflagged column in the last round, px.
    residual_correlation : float
        Correlation of the residuals of pixels side by side; near 0 for white noise.
    windows : Windows
    """

    fit: GaussianFit
    index: NDArray[np.int64]
    is_a: NDArray[np.bool_]
    flag: NDArray[np.uint8]
    sweeps: int
    last_move: float
    residual_correlation: float
    windows: Windows


def refine(
    values: Floats, sites: Sites, *, near: float, radius: float, start: FittedColumns | None = None
) -> FittedColumns:
    """Fit an elliptical Gaussian on a constant to every site, sweeping until neighbours agree.

    Parameters
    ----------
    values : (ny, nx) array
        NaN pixels take no part.
    sites : Sites
        From `analysis.growth.grow`.
    near : float
        Shortest A-B distance, px.
    radius : float
        Of the circular window, px.
    start : FittedColumns, optional
        Of an image of the same crystal that looks much alike, on the same pixels: saves sweeps.

    Returns
    -------
    FittedColumns

    Notes
    -----
    Columns beyond the border are given the shape of the nearest fitted column of their kind and stay at
    a fixed distance from it.
    """
    inside = np.flatnonzero(sites.inside)
    ghost = np.flatnonzero(~sites.inside)
    row_of = np.full(len(sites.inside), -1)
    row_of[inside] = np.arange(len(inside))
    model_row = row_of[sites.neighbour[ghost]]
    ghost_offset = (sites.index[ghost] - sites.index[sites.neighbour[ghost]]) @ sites.vectors

    expected, is_a = sites.position[inside], sites.is_a[inside]
    padded = _Padded(values, int(np.ceil(near)) + 2)
    parameters, lower, upper = _start(padded, expected, near)
    if start is not None:
        parameters = np.clip(_carried(parameters, is_a, start, near), lower, upper)
    previous = parameters[:, 2:4].copy()
    tails = parameters
    mixing = _Mixing()
    sweep, moved = 0, np.inf
    # Without a start the first sweep has no neighbours yet; each later one divides what is left by five or more.
    for sweep in range(_SWEEPS):
        x, y, data, weight = padded.windows(parameters[:, 2:4], radius)
        if sweep or start is not None:
            lower[:, [4, 6]] = np.maximum(lower[:, [4, 6]], _narrowest(parameters, is_a))
            parameters = np.maximum(parameters, lower)
            fresh = _steadied(parameters, is_a)
            tails = mixing.next(tails, fresh) if sweep > 1 else fresh
            data = data - neighbours(tails, model_row, ghost_offset, x, y, padded.shape, near)
            slope = _background_slope(parameters, is_a)
            data -= (x - parameters[:, 2:3]) * slope[:, :1] + (y - parameters[:, 3:4]) * slope[:, 1:]
        fit = fit_gaussians(
            data,
            weight,
            x,
            y,
            parameters,
            lower=lower,
            upper=upper,
            max_iterations=_ITERATIONS[sweep > 0],
            errors=sweep > 0,
        )
        parameters = fit.parameters
        moved = float(np.quantile(np.hypot(*(parameters[:, 2:4] - previous).T), 0.95))
        previous = parameters[:, 2:4]
        if sweep:
            error = float(np.sqrt(np.nanmedian(np.einsum("nii->ni", fit.covariance[:, 2:4, 2:4]))))
            if moved < max(_SETTLED, _IN_NOISE * error):
                break
    flag = _flags(values, fit, is_a, expected, near, radius)
    residual = np.where(
        weight > 0, data - evaluate(fit.parameters, x, y) - fit.parameters[:, 1, None], np.nan
    )
    return FittedColumns(
        fit, sites.index[inside], is_a, flag, sweep + 1, moved,
        _side_by_side(residual[flag == 0], x[flag == 0], y[flag == 0]),
        Windows(x, y, data, weight, lower, upper, model_row, ghost_offset),
    )  # fmt: skip


def _narrowest(parameters: Floats, is_a: NDArray[np.bool_]) -> Floats:
    """Lower bounds (n, 2) of p and r: no column much wider, along x or y, than most of its kind.

    Beside bright neighbours, a faint column that widens over their remains fits nearly as well as the column
    itself, tens of pm away; which of the two wins is chance. All columns of a kind share probe and vibration.
    """
    bound = np.zeros((len(parameters), 2))
    for kind in (True, False):
        rows = is_a == kind
        if rows.sum() >= _WIDTHS_FROM:
            bound[rows] = np.median(parameters[rows][:, [4, 6]], axis=0) / _WIDER_THAN_MOST
    return bound


def neighbours(
    parameters: Floats,
    ghost_row: NDArray[np.int64],
    ghost_offset: Floats,
    x: Floats,
    y: Floats,
    shape: tuple[int, ...],
    near: float,
) -> Floats:
    """Intensity of all other columns, within and beyond the border, in the window of each.

    Parameters
    ----------
    parameters : (n, 7) array
        Of the columns inside the image.
    ghost_row, ghost_offset : arrays
        Of the columns beyond the border, see `Windows`.
    x, y : (n, m) arrays
        Pixel coordinates of the windows, px; those outside the image are given the value at its border.
    shape : tuple of int
        Of the image.
    near : float
        Shortest A-B distance, px.

    Returns
    -------
    (n, m) array
    """
    ghosts = parameters[ghost_row]
    ghosts[:, 2:4] += ghost_offset
    total = _render(np.vstack([parameters, ghosts]), shape, near)
    column, row = np.clip(x, 0, shape[1] - 1).astype(int), np.clip(y, 0, shape[0] - 1).astype(int)
    return total[row, column] - evaluate(parameters, x, y)


def _start(padded: _Padded, position: Floats, near: float) -> tuple[Floats, Floats, Floats]:
    """First guess and bounds.

    Where columns overlap, wider columns on a lower background fit nearly as well, and with neighbours
    subtracted in turn nothing holds that trade back: hence bounds tied to the local contrast.
    """
    _, _, data, weight = padded.windows(position, near)
    data = np.where(weight > 0, data, np.nan)
    darkest, brightest = np.nanmin(data, axis=1), np.nanmax(data, axis=1)
    contrast = np.maximum(brightest - darkest, np.finfo(float).tiny)
    _, _, data, weight = padded.windows(position, 0.35 * near)
    peak = np.nanmax(np.where(weight > 0, data, np.nan), axis=1)
    start = np.empty((len(position), 7))
    start[:, 0] = np.maximum(peak - darkest, 0.05 * contrast)
    start[:, 1] = darkest
    start[:, 2:4] = position
    start[:, 4] = start[:, 6] = 1.0 / (0.25 * near)
    start[:, 5] = 0.0
    lower, upper = start.copy(), start.copy()
    lower[:, 0], upper[:, 0] = -contrast, 2 * contrast
    lower[:, 1], upper[:, 1] = darkest - _DEEPEST * contrast, brightest
    lower[:, 2:4] -= 0.5 * near
    upper[:, 2:4] += 0.5 * near
    lower[:, [4, 6]], upper[:, [4, 6]] = 1 / (_WIDEST * near), 1 / 0.4
    lower[:, 5], upper[:, 5] = -1 / 0.4, 1 / 0.4
    return start, lower, upper


def _carried(guess: Floats, is_a: NDArray[np.bool_], earlier: FittedColumns, near: float) -> Floats:
    """The guess with what an earlier image says about the same columns, moved by the common drift."""
    carried = guess.copy()
    drift = np.zeros(2)
    # A before B: where a B column is expected knows nothing yet of its displacement, so A gives the drift.
    for kind in (True, False):
        good = earlier.fit.parameters[(earlier.is_a == kind) & (earlier.flag == 0)]
        here = np.flatnonzero(is_a == kind)
        if len(good) == 0 or len(here) == 0:
            continue
        model = good[KDTree(good[:, 2:4]).query(guess[here, 2:4] - drift)[1]]
        gap = guess[here, 2:4] - model[:, 2:4]
        if kind:
            drift = np.median(gap, 0)
        # At a border, the nearest earlier column may be another one: it still has the right shape.
        same = np.hypot(*(gap - drift).T) < _POOR_DRIFT * near
        carried[here] = model
        carried[here, 2:4] = np.where(same[:, None], model[:, 2:4] + drift, guess[here, 2:4])
    return carried


def _steadied(parameters: Floats, is_a: NDArray[np.bool_]) -> Floats:
    """Columns as subtracted from their neighbours: one that fits badly is given an ordinary shape."""
    tails = parameters.copy()
    for kind in (True, False):
        same = np.flatnonzero(is_a == kind)
        if len(same) == 0:
            continue
        middle = np.median(parameters[same], 0)
        ratio = parameters[same][:, [4, 6]] / middle[[4, 6]]
        tilted = np.abs(parameters[same, 5] - middle[5]) > 0.5 * middle[4]
        odd = same[((ratio < 0.6) | (ratio > 1.7)).any(1) | tilted]
        tails[odd, 4:] = middle[4:]
        tails[same, 0] = np.clip(tails[same, 0], 0, 3 * middle[0])
    return tails


class _Mixing:
    """Anderson mixing: finds where sweeps lead to, from how the last few of them went.

    Columns correct each other's tails with alternating sign, and trade width for background slowly; plain
    sweeps converge slowly for both reasons.
    """

    def __init__(self) -> None:
        self.inputs: list[Floats] = []
        self.outputs: list[Floats] = []

    def next(self, given: Floats, result: Floats) -> Floats:
        self.inputs = [*self.inputs, given][-_MEMORY - 1 :]
        self.outputs = [*self.outputs, result][-_MEMORY - 1 :]
        rest = [out - into for out, into in zip(self.outputs, self.inputs, strict=True)]
        # Every parameter counts in units of how much it still moves; columns that jump are left out.
        size = np.median(np.abs(rest[-1]), 0) + 1e-12 * np.abs(given).max(0) + np.finfo(float).tiny
        calm = (np.abs(rest[-1]) < 10 * size).all(1)
        if len(rest) < 2 or not calm.any():
            return 0.7 * result + 0.3 * given
        steps = np.stack([((rest[-1] - r) / size)[calm].ravel() for r in rest[:-1]], 1)
        share, *_ = np.linalg.lstsq(steps, (rest[-1] / size)[calm].ravel(), rcond=1e-3)
        share = np.clip(share, -2, 2)
        mixed = result.copy()
        for weight, out in zip(share, self.outputs[:-1], strict=True):
            mixed -= weight * (result - out)
        return mixed


def _background_slope(parameters: Floats, is_a: NDArray[np.bool_]) -> Floats:
    """Slope (n, 2) of the background, from the fitted backgrounds of the columns around each.

    A slope inside one window cannot be told from a displacement; over some cells it can.
    """
    position, level = parameters[:, 2:4], parameters[:, 1]
    count = min(_SLOPE_FROM, len(level))
    if count < 8:
        return np.zeros((len(level), 2))
    around = KDTree(position).query(position, count)[1]
    away = position[around] - position[:, None]
    # The second kind of column may sit on a level of its own.
    design = np.concatenate([away, np.ones((*around.shape, 1)), (~is_a[around])[..., None]], -1)
    middle = np.median(level[around], 1, keepdims=True)
    spread = np.median(np.abs(level[around] - middle), 1, keepdims=True)
    calm = np.abs(level[around] - middle) <= 5 * spread
    weighted = design * calm[..., None]
    normal = weighted.transpose(0, 2, 1) @ design
    size = np.sqrt(np.einsum("nii->ni", normal)) + 1e-9
    normal /= size[:, :, None] * size[:, None, :]
    target = np.einsum("nki,nk->ni", weighted, level[around] - middle) / size
    solution = np.linalg.solve(normal + 1e-9 * np.eye(4), target[..., None])[..., 0] / size
    return solution[:, :2]


class _Padded:
    """The image with a NaN margin, so that windows at the border need no special case."""

    def __init__(self, values: Floats, margin: int) -> None:
        self.margin = margin
        self.shape = values.shape
        self.values = np.pad(values, margin, constant_values=np.nan)

    def windows(self, position: Floats, radius: float) -> tuple[Floats, Floats, Floats, Floats]:
        """Pixel coordinates, data and weights, each (n, m)."""
        # All pixels that can be within the radius of a centre that is rounded to the nearest pixel.
        reach = int(np.ceil(radius + 0.71))
        span = np.arange(-reach, reach + 1)
        dy, dx = np.meshgrid(span, span, indexing="ij")
        near = np.hypot(dx, dy) <= radius + 0.71
        dx, dy = dx[near], dy[near]
        limit = np.array(self.shape[::-1]) - 1
        centre = np.clip(np.rint(position), 0, limit).astype(int)
        x, y = centre[:, :1] + dx, centre[:, 1:] + dy
        data = self.values[y + self.margin, x + self.margin]
        close = (x - position[:, :1]) ** 2 + (y - position[:, 1:]) ** 2 <= radius**2
        weight = (close & np.isfinite(data)).astype(float)
        return x.astype(float), y.astype(float), np.nan_to_num(data), weight


def _render(parameters: Floats, shape: tuple[int, ...], near: float) -> Floats:
    """Sum of all Gaussians, without backgrounds."""
    widest = 1.0 / np.minimum(parameters[:, 4], parameters[:, 6])
    reach = int(np.ceil(min(_SUPPORT * float(np.quantile(widest, 0.95)), _LARGEST_SUPPORT * 1.5 * near)))
    # On a canvas with a border as wide as the support, no pixel needs a test of its own.
    wide = np.array(shape[::-1]) + 2 * reach
    centre = np.rint(parameters[:, 2:4]).astype(int) + reach
    on = ((centre >= 0) & (centre < wide)).all(1)
    parameters, centre = parameters[on], centre[on]
    span = np.arange(-reach, reach + 1)
    dy, dx = (part.ravel() for part in np.meshgrid(span, span, indexing="ij"))
    stride = wide[0] + 2 * reach
    offset = dy * stride + dx
    first_pixel = (centre[:, 1] + reach) * stride + centre[:, 0] + reach
    total = np.zeros((wide[1] + 2 * reach) * stride)
    for first in range(0, len(parameters), 1024):
        some = slice(first, first + 1024)
        middle = centre[some] - float(reach)
        height = evaluate(parameters[some], middle[:, :1] + dx, middle[:, 1:] + dy)
        place = first_pixel[some, None] + offset
        total += np.bincount(place.ravel(), height.ravel(), total.size)
    crop = slice(2 * reach, 2 * reach + shape[0]), slice(2 * reach, 2 * reach + shape[1])
    return total.reshape(-1, stride)[crop]


def _flags(
    values: Floats, fit: GaussianFit, is_a: NDArray[np.bool_], expected: Floats, near: float, radius: float
) -> NDArray[np.uint8]:
    flag = np.zeros(len(is_a), np.uint8)
    amplitude, position = fit.parameters[:, 0], fit.parameters[:, 2:4]
    poor = ~np.isfinite(fit.covariance).all((1, 2)) | (amplitude <= 0)
    poor |= np.hypot(*(position - expected).T) > _POOR_DRIFT * near
    poor |= np.minimum(fit.parameters[:, 4], fit.parameters[:, 6]) <= 1.001 / (_WIDEST * near)
    poor |= amplitude < 3 * np.sqrt(np.nan_to_num(fit.covariance[:, 0, 0]))
    for kind in (True, False):
        same = is_a == kind
        typical = np.median(fit.residual[same])
        poor[same] |= fit.residual[same] > np.maximum(_POOR_RESIDUAL * typical, _EXACT * amplitude[same])
        poor[same] |= amplitude[same] < 0.2 * np.median(amplitude[same])
    flag[poor] |= FLAG_POOR_FIT
    flag[coverage(values, position, radius) < FULL_COVERAGE] |= FLAG_EDGE
    flag[~fit.converged] |= FLAG_NOT_CONVERGED
    return flag


def _side_by_side(residual: Floats, x: Floats, y: Floats) -> float:
    """Correlation of residuals one pixel apart along x."""
    if len(residual) == 0:
        return float("nan")
    # Pixels of a window are stored row by row.
    neighbours = (np.diff(x, axis=1) == 1) & (np.diff(y, axis=1) == 0)
    left, right = residual[:, :-1], residual[:, 1:]
    both = neighbours & np.isfinite(left) & np.isfinite(right)
    norm = float(np.sqrt((left[both] ** 2).sum() * (right[both] ** 2).sum()))
    return float((left[both] * right[both]).sum() / norm) if norm else 0.0
