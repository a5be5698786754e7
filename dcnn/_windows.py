"""Sub-images: what the network sees, whatever the pixel size of the image it is cut from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates, spline_filter

from dcnn._errors import ModelError

Mode = Literal["centred", "sliding"]
"""``"centred"``: one window on each column of a site; ``"sliding"``: a regular grid that needs no atoms."""

Site = Literal["A", "B"]
"""Which columns centre the windows."""

Centres = xr.Dataset | ArrayLike
"""A dataset with variables ``x`` and ``y`` in Å, or an (n, 2) array of (x, y) in Å."""

ANGSTROM = "Å"
_ANGSTROM_SPELLINGS = {"Å", "\u212b", "A", "angstrom", "Angstrom", "angstroms", "Angstroms"}

SMALLEST, LARGEST = 2.0, 100.0
"""Sides of a window, Å: below the first it holds no column with its flanks, above the second it is no local measurement."""

_MOST = 1e7  # windows of a grid: what they are told of them fills a few GB
_CHUNK = 4096  # windows sampled at once: bounds the memory of the coordinates to about 100 MB


@dataclass(frozen=True)
class Windows:
    """How sub-images are cut from an image.

    Parameters
    ----------
    mode : {"centred", "sliding"}
        ``"centred"`` cuts one window on each column of ``site``; ``"sliding"`` a regular grid of windows,
        wherever the atoms are.
    size_angstrom : float
        Width and height of a window in Å. The default, 6 Å, is one and a half pseudocubic cells of about
        4 Å: centred on a B column it holds the four A columns around it with 1 Å to spare (more than
        twice the width σ of a column) and stops short of the next B columns; placed anywhere, it still
        holds at least one column of each kind 1 Å or more inside its border.
    pixels : int
        Samples across a window after resampling. The default, 24, means 0.25 Å between samples, about a
        quarter of the width of an atomic column. One network serves every pixel size.
    stride_angstrom : float
        Distance between sliding windows in Å. The default, 1.5 Å, is a cell over the square of the
        golden ratio, so that successive windows meet the lattice at evenly spread phases; a simple fraction
        of the cell would show the network only a few. Not used by ``"centred"``.
    site : {"B", "A"}
        Which columns centre the windows of mode ``"centred"``. Centred on an A column, a window holds the four B columns
        around it, and its label is the displacement between them.

    Raises
    ------
    ModelError
        If a value is out of range.
    """

    mode: Mode = "centred"
    size_angstrom: float = 6.0
    pixels: int = 24
    stride_angstrom: float = 1.5
    site: Site = "B"

    def __post_init__(self) -> None:
        for name, choices in (("mode", get_args(Mode)), ("site", get_args(Site))):
            if getattr(self, name) not in choices:
                raise ModelError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}.")
        require_positive("size_angstrom", self.size_angstrom)
        if not SMALLEST <= self.size_angstrom <= LARGEST:
            raise ModelError(
                f"window {self.size_angstrom:g} Å must be from {SMALLEST:g} to {LARGEST:g} Å; 6 Å is usual."
            )
        require_positive("stride_angstrom", self.stride_angstrom)
        if isinstance(self.pixels, bool) or not isinstance(self.pixels, int) or not 8 <= self.pixels <= 256:
            raise ModelError(f"pixels must be a whole number from 8 to 256, not {self.pixels!r}.")

    @property
    def offsets(self) -> NDArray[np.float64]:
        """Positions of the samples along one side, in Å from the centre: symmetric, so mirrors are exact."""
        pitch = self.size_angstrom / self.pixels
        return np.asarray((np.arange(self.pixels) + 0.5 - self.pixels / 2) * pitch, dtype=np.float64)


def require_positive(name: str, value: float) -> None:
    """Raise ModelError unless ``value`` is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(f"{name} must be a finite number above 0, not {value!r}.")


@dataclass(frozen=True)
class Frame:
    """Where the pixels of an image lie: first pixel, pixel size (Å) and number, along x and y."""

    origin: NDArray[np.float64]
    step: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def last(self) -> NDArray[np.float64]:
        """Position (x, y) of the last pixel in Å."""
        return self.origin + self.step * (self.count - 1)


def frame(image: xr.DataArray) -> Frame:
    """Read the pixel grid of an image, refusing one that is not evenly spaced in Å.

    Raises
    ------
    ModelError
        If dims are not ("y", "x"), or a coordinate is missing, uneven, falling or not in Å.
    """
    if not isinstance(image, xr.DataArray) or image.dims != ("y", "x"):
        raise ModelError("The image must be an xarray.DataArray with dims ('y', 'x').")
    origin, step, count = [], [], []
    for dim in ("x", "y"):
        if dim not in image.coords or image[dim].attrs.get("units") not in _ANGSTROM_SPELLINGS:
            raise ModelError(
                f"The image has no coordinate {dim!r} in Å; assign pixel positions with attrs units 'Å'."
            )
        values = np.asarray(image[dim].values, dtype=float)
        if values.size < 2 or not np.isfinite(values).all() or values[-1] <= values[0]:
            raise ModelError(f"Coordinate {dim!r} of the image must rise over two or more finite pixels.")
        pitch = (values[-1] - values[0]) / (values.size - 1)
        # Coordinates often come from float32 files, so the spacing is trusted to 1 % of a pixel only.
        if np.abs(values - values[0] - pitch * np.arange(values.size)).max() > 0.01 * pitch:
            raise ModelError(
                f"Coordinate {dim!r} of the image is not evenly spaced; resample the image first."
            )
        origin.append(values[0])
        step.append(pitch)
        count.append(values.size)
    return Frame(np.array(origin), np.array(step), np.array(count))


def positions(centres: Centres) -> NDArray[np.float64]:
    """Read window centres as an (n, 2) array of (x, y) in Å.

    Raises
    ------
    ModelError
        If the shape or a unit is wrong, or a position is not finite.
    """
    if isinstance(centres, xr.Dataset):
        for name in ("x", "y"):
            if name not in centres.variables or centres[name].ndim != 1:
                raise ModelError(f"The centres need a one-dimensional variable {name!r} in Å.")
            if centres[name].attrs.get("units", ANGSTROM) not in _ANGSTROM_SPELLINGS:
                raise ModelError(f"Variable {name!r} of the centres must be in Å; convert it first.")
        xy = np.column_stack([np.asarray(centres[name].values, dtype=float) for name in ("x", "y")])
    else:
        xy = np.asarray(centres, dtype=float)
        if xy.ndim != 2 or xy.shape[1] != 2:
            raise ModelError(f"The centres must be an (n, 2) array of (x, y) in Å, not of shape {xy.shape}.")
    if not np.isfinite(xy).all():
        raise ModelError("The centres hold positions that are not finite; drop those rows first.")
    return xy


def grid(image: xr.DataArray, windows: Windows) -> NDArray[np.float64]:
    """Centres (n, 2) of the sliding windows that lie wholly inside the image, row by row, in Å."""
    box = frame(image)
    half = windows.size_angstrom / 2
    _require_room(box, windows)
    number = float(np.prod((box.last - box.origin - 2 * half) / windows.stride_angstrom + 1))
    if number > _MOST:
        raise ModelError(
            f"stride_angstrom {windows.stride_angstrom:g} Å makes {number:.1g} windows, above {_MOST:g}; take a larger one."
        )
    x, y = (
        np.arange(box.origin[k] + half, box.last[k] - half + 1e-6, windows.stride_angstrom) for k in (0, 1)
    )
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def sub_images(image: xr.DataArray, windows: Windows, centres: Centres | None = None) -> xr.Dataset:
    """Cut windows from an image and resample them to one common grid in Å.

    The image is first smoothed as much as an average over one sample of the window would (a Gaussian of
    σ = sample/√12, the same in Å for every pixel size), so that no dose is thrown away by sampling
    and the windows do not depend on the pixel size; then a cubic spline is read at the samples.

    Each window is brought to zero mean and unit standard deviation, because intensity scale and offset
    (beam current, detector gain, thickness) say nothing about where the columns are.

    Parameters
    ----------
    image : xarray.DataArray
        Dims ("y", "x"), coordinates in Å with attrs units "Å".
    windows : Windows
        Size, sampling and mode.
    centres : xarray.Dataset or array_like, optional
        Centres in Å (variables x and y, or shape (n, 2)); needed by mode "centred". Mode "sliding" takes
        a regular grid where none are given.

    Returns
    -------
    xarray.Dataset
        Dims (window, row, col): ``intensity`` (dimensionless), the centres ``x`` and ``y`` (Å) and
        ``index``, the row of each window among the centres. Windows that leave the image, touch a
        pixel that is not finite, or hold no contrast are left out; attributes ``left_out_border``,
        ``left_out_nan`` and ``left_out_flat`` count them.

    Raises
    ------
    ModelError
        If the image has no coordinates in Å, is smaller than a window, or centres are missing.
    """
    box = frame(image)
    _require_room(box, windows)
    if centres is None:
        if windows.mode == "centred":
            raise ModelError("Windows of mode 'centred' need centres; pass the cells, or use mode 'sliding'.")
        xy = grid(image, windows)
    else:
        xy = positions(centres)

    half = windows.size_angstrom / 2
    inside = ((xy - half >= box.origin - 1e-6) & (xy + half <= box.last + 1e-6)).all(axis=1)
    values = np.asarray(image.values, dtype=float)
    holes = ~np.isfinite(values)
    index = np.flatnonzero(inside)
    index = index[~_touches(holes, box, xy[index], half)]
    left_out_nan = int(inside.sum()) - len(index)

    stack = _sample(values, holes, box, xy[index], windows)
    level = abs(float(values[~holes].mean())) if len(index) else 0.0
    mean = stack.mean(axis=(1, 2), keepdims=True)
    std = stack.std(axis=(1, 2), keepdims=True)
    # Rounding leaves a trace of contrast in a constant window; 1e-6 of the image's level is above it.
    contrast = (std > 1e-6 * level).ravel()
    intensity = ((stack - mean)[contrast] / std[contrast]).astype(np.float32)
    index = index[contrast]

    offsets = windows.offsets
    length = {"units": ANGSTROM}
    return xr.Dataset(
        {
            "intensity": (("window", "row", "col"), intensity, {"units": "1"}),
            "x": ("window", xy[index, 0], length),
            "y": ("window", xy[index, 1], length),
            "index": ("window", index, {"units": "1", "long_name": "row among the centres"}),
        },
        coords={"row": ("row", offsets, length), "col": ("col", offsets, length)},
        attrs={
            "left_out_border": int((~inside).sum()),
            "left_out_nan": left_out_nan,
            "left_out_flat": int((~contrast).sum()),
            "size_angstrom": float(windows.size_angstrom),
        },
    )


def _require_room(box: Frame, windows: Windows) -> None:
    extent = box.last - box.origin
    if (extent < windows.size_angstrom).any():
        raise ModelError(
            f"A window of {windows.size_angstrom:g} Å is larger than the image "
            f"({extent[0]:.3g} × {extent[1]:.3g} Å); lower size_angstrom."
        )


def _touches(holes: NDArray[np.bool_], box: Frame, xy: NDArray[np.float64], half: float) -> NDArray[np.bool_]:
    """Tell which windows hold a bad pixel, from a running sum over the image."""
    total = np.zeros((holes.shape[0] + 1, holes.shape[1] + 1), dtype=np.int64)
    total[1:, 1:] = holes.cumsum(axis=0).cumsum(axis=1)
    low = np.clip(np.floor((xy - half - box.origin) / box.step).astype(int), 0, box.count - 1)
    high = np.clip(np.ceil((xy + half - box.origin) / box.step).astype(int) + 1, 1, box.count)
    (x0, y0), (x1, y1) = low.T, high.T
    return (total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]) > 0


def _sample(
    values: NDArray[np.float64],
    holes: NDArray[np.bool_],
    box: Frame,
    xy: NDArray[np.float64],
    windows: Windows,
) -> NDArray[np.float32]:
    """Read the smoothed image at the samples of every window: (n, pixels, pixels)."""
    stack = np.empty((len(xy), windows.pixels, windows.pixels), dtype=np.float32)
    if not len(xy):
        return stack
    if holes.any():
        # Filters spread a bad pixel over the image; the nearest good value keeps windows beside it clean.
        rows, cols = distance_transform_edt(holes, return_distances=False, return_indices=True)
        values = values[rows, cols]
    sigma = windows.size_angstrom / windows.pixels / math.sqrt(12) / box.step[::-1]
    # Removing the level before float32 keeps faint contrast on a bright background.
    spline = spline_filter(
        gaussian_filter(values - values.mean(), sigma, mode="mirror"), order=3, mode="mirror"
    )
    for start in range(0, len(xy), _CHUNK):
        centre = xy[start : start + _CHUNK]
        x, y = (
            (centre[:, k, None] + windows.offsets - box.origin[k]) / box.step[k] for k in (0, 1)
        )  # each (n, pixels)
        shape = (len(centre), windows.pixels, windows.pixels)
        at = np.stack([np.broadcast_to(y[:, :, None], shape), np.broadcast_to(x[:, None, :], shape)])
        stack[start : start + _CHUNK] = map_coordinates(spline, at, order=3, mode="mirror", prefilter=False)
    return stack
