"""Images as the dense network sees them, and maps of labels for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import (
    distance_transform_edt,
    gaussian_filter,
    gaussian_filter1d,
    map_coordinates,
    spline_filter1d,
)

from dcnn._errors import ModelError
from dcnn._labels import between, usable_cells
from dcnn._networks import PITCH, STRIDE
from dcnn._windows import frame

_LOCAL = 16.0
"""Å: contrast is judged over this σ, so that a wedge or carbon does not change what the network sees."""

_LEAST = 33  # samples along a side: less shows hardly two cells


def resampled(image: xr.DataArray) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]]:
    """Bring an image to the dense network's sampling, and to zero mean and unit contrast around each place.

    Parameters
    ----------
    image : xarray.DataArray
        Dims ("y", "x"), coordinates in Å.

    Returns
    -------
    samples : ndarray, shape (rows, columns)
        Every `PITCH` Å; rows and columns are one more than a multiple of `STRIDE`.
    origin : ndarray, shape (2,)
        Place (x, y) of the first sample, Å.
    bad : ndarray of bool, shape (rows, columns)
        Samples for which the image has no finite pixel.

    Raises
    ------
    ModelError
        If the image has no coordinates in Å, is too small, or shows nothing.
    """
    box = frame(image)
    number = np.floor((box.last - box.origin) / PITCH + 1e-6).astype(int) + 1
    number = (number - 1) // STRIDE * STRIDE + 1
    if (number < _LEAST).any():
        raise ModelError(f"The image is smaller than {_LEAST * PITCH:g} Å; take a larger one.")
    # What is left over is shared between both borders.
    origin = box.origin + (box.last - box.origin - (number - 1) * PITCH) / 2
    values = np.array(image.values, dtype=np.float32)
    holes = ~np.isfinite(values)
    if holes.all():
        raise ModelError("The image holds no finite pixel.")
    if holes.any():
        rows, cols = distance_transform_edt(holes, return_distances=False, return_indices=True)
        values = values[rows, cols]
    values -= values.mean(dtype=float)
    steps = PITCH / box.step
    at = [(origin[k] - box.origin[k]) / box.step[k] + np.arange(number[k]) * steps[k] for k in (0, 1)]
    # An average over one sample, then a cubic spline, one axis after the other.
    for axis, (places, step) in ((1, (at[0], steps[0])), (0, (at[1], steps[1]))):
        values = gaussian_filter1d(values, step / math.sqrt(12), axis=axis, mode="mirror")
        values = _read_along(values, places, axis)
    sigma = _LOCAL / PITCH
    bad = np.zeros(values.shape, dtype=bool)
    if holes.any():
        nearest = [np.clip(np.round(a).astype(int), 0, n - 1) for a, n in zip(at, box.count, strict=True)]
        bad = holes[np.ix_(nearest[1], nearest[0])]
    mean = _broad(values, sigma)
    values = values - mean
    spread = np.sqrt(np.maximum(_broad(np.square(values), sigma), 0))
    if not spread.max() > 0:
        raise ModelError("The image shows no contrast.")
    return (values / np.maximum(spread, 1e-3 * spread.max())).astype(np.float32), origin, bad


def _read_along(values: NDArray[np.float32], places: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """A cubic spline along one axis, read at ``places`` in pixels."""
    coefficients = spline_filter1d(values, 3, axis=axis, output=np.float32, mode="mirror")
    whole = np.floor(places).astype(int)
    t = places - whole
    weights = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    last = values.shape[axis] - 1
    result = np.zeros((), dtype=np.float32)
    for shift, weight in zip((-1, 0, 1, 2), weights, strict=True):
        index = np.abs(whole + shift)
        index = np.where(index > last, 2 * last - index, index)
        shape = [1, 1]
        shape[axis] = -1
        result = result + coefficients.take(index, axis=axis) * weight.astype(np.float32).reshape(shape)
    return np.asarray(result, dtype=np.float32)


def _broad(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """A wide Gaussian blur: of every eighth sample of a narrow one, which it cannot tell from all."""
    coarse = gaussian_filter(values, STRIDE / 2, mode="mirror")[::STRIDE, ::STRIDE]
    coarse = gaussian_filter(coarse, math.sqrt(sigma**2 / STRIDE**2 - 0.25), mode="mirror")
    at = [np.arange(n) / STRIDE for n in values.shape]
    return _read_linear(_read_linear(coarse, at[0], 0), at[1], 1)


def _read_linear(values: NDArray[np.float32], places: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    low = np.minimum(places.astype(int), values.shape[axis] - 2)
    shape = [1, 1]
    shape[axis] = -1
    t = (places - low).astype(np.float32).reshape(shape)
    return values.take(low, axis=axis) * (1 - t) + values.take(low + 1, axis=axis) * t


def map_places(
    shape: Sequence[int], origin: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates x and y (Å) of the outputs for samples of ``shape``."""
    rows, columns = ((n - 1) // STRIDE + 1 for n in shape)
    return origin[0] + np.arange(columns) * STRIDE * PITCH, origin[1] + np.arange(rows) * STRIDE * PITCH


def label_map(
    cells: xr.Dataset, targets: Sequence[str], shape: Sequence[int], origin: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Labels (rows, columns, channel) at every output, interpolated linearly between cells; NaN outside them."""
    xy, labels = usable_cells(cells, targets)
    x, y = map_places(shape, origin)
    centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return between(xy, labels, centres).reshape(len(y), len(x), -1).astype(np.float32)


def read_map(
    values: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64], xy: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Read a map (y, x, channel) at places ``xy`` (n, 2), between its points linearly; NaN outside."""
    at = [(xy[:, 1] - y[0]) / (y[1] - y[0]), (xy[:, 0] - x[0]) / (x[1] - x[0])]
    return np.stack(
        [
            map_coordinates(values[..., k], at, order=1, mode="constant", cval=np.nan)
            for k in range(values.shape[-1])
        ],
        axis=1,
    )
