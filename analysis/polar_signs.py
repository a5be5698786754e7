"""Polar displacement as other packages write it: which sign, from where, in which unit.

Here d runs from the B column to the centre of the surrounding A columns, in pm. Atomap and TEMUL keep four
arrays ``x, y, u, v`` in px, with y down the image as here:

- Atomap (0.4.2, `get_polarization_from_second_sublattice`): x, y is the centre of the A columns and u, v the
  way from B to it. Same sign as d. Its own picture draws from x, y to x − u, y − v: from the centre to B.
- TEMUL (0.1.9, `find_polarisation_vectors(a, b)`): u, v is b − a, the way from the first list to the second.
  With the centres of the A columns first and B second it is the opposite of d, and that is what its examples
  plot: they negate Atomap's u, v. With the lists exchanged it has the sign of d.

TEMUL's `atom_deviation_from_straight_line_fit` has no converter: its sign changes with the slope of the line
and the order of its columns, so it cannot be told from the numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from .errors import ImageError
from .tables import SIGN_CONVENTION

Floats = NDArray[np.float64]
PixelSize = float | tuple[float, float]

_PM = 100.0  # pm in 1 Å


class Arrows(NamedTuple):
    """Displacements as Atomap and TEMUL take them.

    Attributes
    ----------
    x, y : (n,) arrays
        Centre of the surrounding A columns, px; y down.
    u, v : (n,) arrays
        The displacement along x and y, px.
    """

    x: Floats
    y: Floats
    u: Floats
    v: Floats


def from_atomap(
    x: ArrayLike, y: ArrayLike, u: ArrayLike, v: ArrayLike, pixel_size: PixelSize,
    *, origin: tuple[float, float] = (0.0, 0.0),
) -> xr.Dataset:  # fmt: skip
    """Cells from the rows of Atomap's ``signal.metadata.vector_list``, transposed.

    Parameters
    ----------
    x, y, u, v : (n,) array_like
        px, as `get_polarization_from_second_sublattice` leaves them.
    pixel_size : float or (float, float)
        Å per px, or that along x and y.
    origin : (float, float)
        Where the centre of pixel (0, 0) lies, x and y, Å.

    Returns
    -------
    xr.Dataset
        dims ``cell`` and ``component``: ``x``, ``y`` of the B column, Å, and ``d``, pm.

    Raises
    ------
    ImageError
        The arrays differ in length or the pixel size is no positive number.
    """
    return _cells(Arrows(*_columns(x, y, u, v)), pixel_size, origin)


def to_atomap(
    cells: xr.Dataset, *, pixel_size: PixelSize | None = None, origin: tuple[float, float] = (0.0, 0.0)
) -> Arrows:
    """Displacements in Atomap's form, the inverse of `from_atomap`.

    Parameters
    ----------
    cells : xr.Dataset
        With ``x``, ``y`` and ``d``, such as ``Measurement.unit_cells``.
    pixel_size : float or (float, float), optional
        Å per px; without it what the dataset's attributes say.
    origin : (float, float)
        Where the centre of pixel (0, 0) lies, x and y, Å.

    Returns
    -------
    Arrows

    Raises
    ------
    ImageError
        Nothing says how large a pixel is.
    """
    if pixel_size is None:
        try:
            pixel_size = (cells.attrs["pixel_size_x_angstrom"], cells.attrs["pixel_size_y_angstrom"])
        except KeyError as error:
            raise ImageError(
                "cells: their attributes name no pixel size; pass pixel_size, Å per px."
            ) from error
    step = _step(pixel_size)
    shift = cells["d"].transpose("cell", "component").sel(component=["x", "y"]).values / _PM / step
    b = (np.stack([cells["x"].values, cells["y"].values], 1) - np.array(origin)) / step
    return Arrows(*(b + shift).T, *shift.T)


def from_temul(
    x: ArrayLike, y: ArrayLike, u: ArrayLike, v: ArrayLike, pixel_size: PixelSize,
    *, origin: tuple[float, float] = (0.0, 0.0),
) -> xr.Dataset:  # fmt: skip
    """Cells from TEMUL's vectors from the centre of the A columns to B.

    Parameters
    ----------
    x, y : (n,) array_like
        The first list given to `find_polarisation_vectors`: centres of the A columns, px.
    u, v : (n,) array_like
        What it returned, px.
    pixel_size : float or (float, float)
        Å per px, or that along x and y.
    origin : (float, float)
        Where the centre of pixel (0, 0) lies, x and y, Å.

    Returns
    -------
    xr.Dataset
        As from `from_atomap`.

    Raises
    ------
    ImageError
        The arrays differ in length or the pixel size is no positive number.
    """
    x, y, u, v = _columns(x, y, u, v)
    return _cells(Arrows(x, y, -u, -v), pixel_size, origin)


def to_temul(
    cells: xr.Dataset, *, pixel_size: PixelSize | None = None, origin: tuple[float, float] = (0.0, 0.0)
) -> Arrows:
    """Displacements from the centre of the A columns to B, the inverse of `from_temul`.

    Parameters
    ----------
    cells, pixel_size, origin
        As in `to_atomap`.

    Returns
    -------
    Arrows
        For `plot_polarisation_vectors`: its arrows show where B went, against the polarization.

    Raises
    ------
    ImageError
        Nothing says how large a pixel is.
    """
    x, y, u, v = to_atomap(cells, pixel_size=pixel_size, origin=origin)
    return Arrows(x, y, -u, -v)


def _columns(*arrays: ArrayLike) -> tuple[Floats, ...]:
    columns = tuple(np.atleast_1d(np.asarray(values, dtype=np.float64)) for values in arrays)
    if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
        shapes = ", ".join(str(column.shape) for column in columns)
        raise ImageError(f"x, y, u, v: have shapes {shapes}; give four lists of the same length.")
    return columns


def _step(pixel_size: PixelSize) -> Floats:
    step = np.broadcast_to(np.asarray(pixel_size, dtype=np.float64), 2)
    if not (np.isfinite(step) & (step > 0)).all():
        raise ImageError(f"pixel_size={pixel_size} must be a positive number of Å per px.")
    return step


def _cells(arrows: Arrows, pixel_size: PixelSize, origin: tuple[float, float]) -> xr.Dataset:
    step = _step(pixel_size)
    shift = np.stack([arrows.u, arrows.v], 1) * step
    b = np.stack([arrows.x, arrows.y], 1) * step + np.array(origin) - shift
    place = {"units": "Å", "long_name": "position of the B column"}
    variables = {
        "x": ("cell", b[:, 0], place),
        "y": ("cell", b[:, 1], place | {"direction": "down"}),
        "d": (("cell", "component"), shift * _PM, {"units": "pm", "convention": SIGN_CONVENTION}),
    }
    attrs = {
        "convention": SIGN_CONVENTION,
        "pixel_size_x_angstrom": float(step[0]),
        "pixel_size_y_angstrom": float(step[1]),
    }
    note = {"units": "1", "note": "image axes: x right, y down"}
    return xr.Dataset(variables, {"component": ("component", ["x", "y"], note)}, attrs)
