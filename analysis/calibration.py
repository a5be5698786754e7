"""Put a scale on an image: from the user, or from the lattice it shows."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .errors import ImageError
from .lattice import Lattice


def pixel_sizes(image: xr.DataArray) -> tuple[float, float]:
    """(x, y) step of an image's coordinates, in their own unit.

    Raises
    ------
    ImageError
        The image is no ("y", "x") array with evenly spaced coordinates.
    """
    if image.dims != ("y", "x"):
        raise ImageError(f"image: has dims {image.dims}; give a 2-D image with dims ('y', 'x').")
    steps = []
    for axis in ("x", "y"):
        if axis not in image.coords:
            raise ImageError(
                f"image: has no coordinate '{axis}'; give positions in Å, as analysis.load does."
            )
        step = np.diff(image[axis].values.astype(float))
        if len(step) == 0 or not (step > 0).all() or np.ptp(step) > 1e-3 * step.mean():
            raise ImageError(f"image: coordinate '{axis}' must grow in even steps; resample the image.")
        steps.append(float(step.mean()))
    return steps[0], steps[1]


def is_calibrated(image: xr.DataArray) -> bool:
    """Whether the coordinates are in Å."""
    return image["x"].attrs.get("units") == "Å" and image["y"].attrs.get("units") == "Å"


def lattice_scale(
    lattice: Lattice, lattice_parameter: float, *, anisotropic: bool = False
) -> tuple[float, float]:
    """Factors (x, y) that bring a lattice to a known parameter.

    Parameters
    ----------
    lattice : Lattice
        Measured, in any unit.
    lattice_parameter : float
        Pseudocubic, Å. Seen along [110] the cell is a × a/√2.
    anisotropic : bool
        Scale x and y by themselves, so that both axes have the right length; else keep the shape and
        match the area.

    Raises
    ------
    ImageError
        `lattice_parameter` is not positive, or the lattice stands so that x and y cannot be told apart.
    """
    if not (np.isfinite(lattice_parameter) and lattice_parameter > 0):
        raise ImageError(f"lattice_parameter={lattice_parameter} must be a positive number of Å.")
    if not anisotropic:
        factor = lattice_parameter / lattice.lattice_parameter
        return factor, factor
    lengths = np.full(2, float(lattice_parameter))
    if lattice.zone == "110":
        lengths[0 if lattice.b_fraction[0] == 0 else 1] /= np.sqrt(2.0)
    squares: NDArray[np.float64] = lattice.vectors**2
    if abs(np.linalg.det(squares)) < 0.1 * np.prod(squares.sum(1)):
        raise ImageError("lattice: its axes run near 45° to x and y; recalibrate with anisotropic=False.")
    x2, y2 = np.linalg.solve(squares, lengths**2)
    if min(x2, y2) <= 0:
        raise ImageError(
            "lattice: no scale of x and y gives it equal axes; recalibrate with anisotropic=False."
        )
    return float(np.sqrt(x2)), float(np.sqrt(y2))


def recalibrate(
    image: xr.DataArray, lattice: Lattice, lattice_parameter: float, *, anisotropic: bool = False
) -> xr.DataArray:
    """The same image with coordinates on which its A lattice has the given parameter.

    Parameters
    ----------
    image : xr.DataArray
        dims ("y", "x").
    lattice : Lattice
        Measured in the image's own coordinates, as `measure(image).lattice`.
    lattice_parameter : float
        Pseudocubic, Å.
    anisotropic : bool
        Also correct the ratio of x and y, as for a scan with unequal steps.

    Returns
    -------
    xr.DataArray
        In Å.

    Raises
    ------
    ImageError
        As from `lattice_scale`, or the units of image and lattice differ.
    """
    unit = str(image["x"].attrs.get("units", "px"))
    if unit != lattice.units:
        raise ImageError(f"lattice: is in {lattice.units} but the image in {unit}; measure this very image.")
    scale = lattice_scale(lattice, lattice_parameter, anisotropic=anisotropic)
    dx, dy = pixel_sizes(image)
    note = f"on its own lattice of {lattice_parameter:g} Å" + (", x and y separately" if anisotropic else "")
    return with_pixel_size(image, (dx * scale[0], dy * scale[1]), note)


def with_pixel_size(image: xr.DataArray, pixel_size: tuple[float, float], note: str) -> xr.DataArray:
    """The same image on coordinates in Å with the given (x, y) step."""
    old = dict(zip(("x", "y"), pixel_sizes(image), strict=True))
    new = dict(zip(("x", "y"), pixel_size, strict=True))
    coords = {
        axis: (axis, image[axis].values * (new[axis] / old[axis]), image[axis].attrs | {"units": "Å"})
        for axis in ("y", "x")
    }
    attrs = {"calibrated": 1, "calibration": note, "pixel_size_angstrom": float(np.sqrt(new["x"] * new["y"]))}
    result = image.assign_coords(coords)
    result.attrs = dict(image.attrs) | attrs
    return result
