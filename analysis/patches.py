"""Images made fit for a search: without spikes, without slow background, coarser, in patches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Patch = tuple[slice, slice]

_SPIKE = 2.0  # times the range of its eight neighbours: a pixel so far beyond them is no column
_DARKEST, _BRIGHTEST = 1.0, 99.0  # percentiles that dead and hot pixels are beyond
_TILES = 12  # across a patch: how finely patches are placed
_SAMPLES = 12  # across a tile


def despiked(values: Floats) -> Floats:
    """Copy (ny, nx) with hot and dead pixels, alone or in pairs, replaced by the extreme of their neighbours."""
    # Only the brightest and darkest are looked at: elsewhere a few counts on nothing are spikes, too.
    bottom, top = np.nanpercentile(values.ravel()[:: max(1, values.size // 50_000)], (_DARKEST, _BRIGHTEST))
    rows, columns = np.nonzero((values > top) | (values < bottom))
    limit_y, limit_x = values.shape[0] - 1, values.shape[1] - 1
    around = np.stack(
        [
            values[np.clip(rows + dy, 0, limit_y), np.clip(columns + dx, 0, limit_x)]
            for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dx, dy) != (0, 0)
        ]
    )  # fmt: skip
    here = values[rows, columns]
    around = np.sort(np.where(np.isnan(around), here, around), axis=0)
    # The most extreme neighbour may be a spike as well.
    low, high = around[1], around[-2]
    margin = _SPIKE * (high - low)
    mended = values.copy()
    mended[rows, columns] = np.where(here > high + margin, high, np.where(here < low - margin, low, here))
    return mended


def binned(values: Floats, factor: int) -> Floats:
    """Means (ny // factor, nx // factor) over squares of pixels; NaN where more than half of one is NaN."""
    if factor == 1:
        return values
    ny, nx = (n // factor for n in values.shape)
    blocks = values[: ny * factor, : nx * factor].reshape(ny, factor, nx, factor)
    mean = blocks.mean((1, 3))
    holes = np.isnan(mean)
    if holes.any():
        valid = np.isfinite(blocks)
        count = valid.sum((1, 3))
        total = np.where(valid, blocks, 0.0).sum((1, 3))
        mean = np.where(2 * count >= factor**2, total / np.maximum(count, 1), np.nan)
    return mean


def flattened(values: Floats, sigma: float) -> Floats:
    """Image without its slow background, NaN where the image has none.

    Parameters
    ----------
    values : (ny, nx) array
        NaN marks pixels without data.
    sigma : float
        Standard deviation of the Gaussian blur that defines "slow", px.
    """
    valid = np.isfinite(values)
    # A blur is smooth: a quarter of its width samples it well, and costs less.
    factor = int(np.clip(sigma / 4, 1, max(1, min(values.shape) // 4)))
    weight = _blocks(valid.astype(float), factor)
    total = _blocks(np.where(valid, values, 0.0), factor)
    blur = [ndimage.gaussian_filter(part, sigma / factor, truncate=3.0) for part in (total, weight)]
    slow = blur[0] / np.maximum(blur[1], 1e-12)
    rows, columns = ((np.arange(n) - (factor - 1) / 2).clip(0) / factor for n in values.shape)
    return np.where(valid, values - _between(slow, rows, columns), np.nan)


def patches(values: Floats, size: int, count: int) -> list[Patch]:
    """Windows of at most size × size px with much contrast, each half a window or more from the others, the busiest first.

    Parameters
    ----------
    values : (ny, nx) array
        Without spikes.
    size, count : int
        Of the windows, px and number.
    """
    ny, nx = values.shape
    size_y, size_x = min(size, ny), min(size, nx)
    if ny <= size and nx <= size:
        return [(slice(0, ny), slice(0, nx))]
    tile = max(2, size // _TILES)
    # Some pixels of a tile say how much it varies.
    stride = max(1, tile // _SAMPLES)
    tile = stride * (tile // stride)
    sample = values[::stride, ::stride]
    valid = np.isfinite(sample)
    bounds = np.percentile(sample[valid], (_DARKEST, _BRIGHTEST))
    filled = np.where(valid, np.clip(sample, *bounds) - bounds.mean(), 0.0)
    weight, total, square = (
        _blocks(part, tile // stride) for part in (valid.astype(float), filled, filled**2)
    )
    mean = total / np.maximum(weight, 1)
    # The standard deviation, not the variance: one bright particle must not outweigh a crystal.
    busy = weight * np.sqrt(np.maximum(square / np.maximum(weight, 1) - mean**2, 0))
    reach = (max(1, size_y // tile), max(1, size_x // tile))
    table = np.pad(busy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    energy = (
        table[reach[0] :, reach[1] :] - table[: -reach[0], reach[1] :]
        - table[reach[0] :, : -reach[1]] + table[: -reach[0], : -reach[1]]
    )  # fmt: skip
    chosen: list[Patch] = []
    for _ in range(count):
        row, column = np.unravel_index(np.argmax(energy), energy.shape)
        if energy[row, column] <= 0:
            break
        y, x = min(int(row) * tile, ny - size_y), min(int(column) * tile, nx - size_x)
        chosen.append((slice(y, y + size_y), slice(x, x + size_x)))
        far = [max(1, n // 2) for n in reach]
        energy[max(0, row - far[0]) : row + far[0] + 1, max(0, column - far[1]) : column + far[1] + 1] = 0
    return chosen


def _blocks(values: Floats, factor: int) -> Floats:
    """Sums over squares; the last ones may be cut by the border."""
    ny, nx = (-(-n // factor) for n in values.shape)
    padded = np.zeros((ny * factor, nx * factor))
    padded[: values.shape[0], : values.shape[1]] = values
    return padded.reshape(ny, factor, -1).sum(1).reshape(ny, nx, factor).sum(2)


def _between(coarse: Floats, rows: Floats, columns: Floats) -> Floats:
    """Bilinear interpolation at all (rows, columns)."""
    for axis, at in ((0, rows), (1, columns)):
        last = coarse.shape[axis] - 1
        low = np.minimum(at.astype(int), max(last - 1, 0))
        part = np.minimum(at - low, 1.0).reshape((-1, 1) if axis == 0 else (1, -1))
        high = np.minimum(low + 1, last)
        coarse = np.take(coarse, low, axis) * (1 - part) + np.take(coarse, high, axis) * part
    return coarse
