"""Images that others simulated, with what is true about them, in the layout of synthetic fields.

So that a model can be tested on abTEM's, Prismatic's or muSTEM's images too, whatever their signs and units.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import abtem
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

import analysis
from tiltsim.conventions import TiltConvention
from tiltsim.errors import SettingsError

#: Å per unit of length, and pm per unit of displacement.
LENGTHS = {"Å": 1.0, "angstrom": 1.0, "nm": 10.0, "pm": 0.01, "px": float("nan")}
_DISPLACEMENTS = {"pm": 1.0, "Å": 100.0, "angstrom": 100.0, "nm": 1000.0}

_NEEDED, _OPTIONAL = ("x", "y", "d_x", "d_y"), ("tilt_x", "tilt_y", "thickness")


@dataclass(frozen=True)
class TableConventions:
    """What the numbers of a truth table mean.

    Parameters
    ----------
    length : {"Å", "angstrom", "nm", "pm", "px"}
        Of x, y and (except px, then Å) thickness.
    displacement : {"pm", "Å", "angstrom", "nm"}
        Of d_x and d_y.
    d : {"A-B", "B-A"}
        d = mean of the surrounding A columns − B column (ours), or the opposite.
    y_up : bool
        Whether the table's y counts from the image's bottom row upwards, for d_y and tilt_y too.
    tilt : TiltConvention
        ``SPECIMEN`` for muSTEM, Prismatic's multislice and Dr. Probe. mrad.
    """

    length: str = "Å"
    displacement: str = "pm"
    d: str = "A-B"
    y_up: bool = False
    tilt: TiltConvention = TiltConvention.BEAM

    def __post_init__(self) -> None:
        """Refuse units and signs that are unknown."""
        for name, value, known in (
            ("length", self.length, LENGTHS), ("displacement", self.displacement, _DISPLACEMENTS), ("d", self.d, ("A-B", "B-A")),
        ):  # fmt: skip
            if value not in known:
                raise SettingsError(f"{name} {value!r} is unknown; choose one of {', '.join(known)}.")


@dataclass(frozen=True, eq=False)
class Imported:
    """An image (y, x) with coordinates in Å, and the truth of its cells: ``x``, ``y`` of B columns, Å, ``d``, pm, …"""

    image: xr.DataArray
    truth: xr.Dataset


def import_image(
    image: Any,
    truth: str | Path | pd.DataFrame | xr.Dataset,
    *,
    pixel_size: float | None = None,
    conventions: TableConventions | None = None,
    thickness: float | None = None,
    tilt_mrad: tuple[float, float] | None = None,
) -> Imported:
    """Bring an image from another program, with its truth, into the layout of synthetic fields.

    Parameters
    ----------
    image : abtem measurement, path or array
        abTEM's ``Images`` (or ``.zarr`` of one; its first axis is x), any file that ``analysis.load`` reads (Prismatic's
        and muSTEM's through RosettaSciIO), a HyperSpy signal, or an array (ny, nx), row 0 at the top.
    truth : path, DataFrame or Dataset
        One row a cell: x, y of the B column and d_x, d_y; tilt_x, tilt_y (mrad) and thickness if known. CSV or netCDF.
    pixel_size : float, optional
        Å; needed where the image does not say.
    conventions : TableConventions, optional
        Units and signs of the table, ours by default.
    thickness, tilt_mrad : optional
        Of the whole image, Å and mrad (in the table's convention), where the table does not give them.

    Returns
    -------
    Imported

    Raises
    ------
    SettingsError
        If the table lacks a column, holds what is not finite, or does not lie on the image.
    ImageError
        If the image cannot be read.
    """
    conventions = conventions or TableConventions()
    picture = _picture(image, pixel_size)
    if not picture.attrs.get("calibrated"):
        raise SettingsError("pixel_size: the image does not say how large its pixels are; give it in Å.")
    pixel = float(picture.attrs["pixel_size_angstrom"])
    table = _table(truth)
    columns = {name: _column(table, name) for name in (*_NEEDED, *_OPTIONAL) if name in table}
    for name in _NEEDED:
        if name not in columns:
            raise SettingsError(f"truth: lacks column {name!r}; it needs {', '.join(_NEEDED)}.")
    count = len(columns["x"])
    if thickness is not None:
        columns.setdefault("thickness", np.full(count, thickness / _angstrom(conventions.length, 1.0)))
    if tilt_mrad is not None:
        for name, value in zip(("tilt_x", "tilt_y"), tilt_mrad, strict=True):
            columns.setdefault(name, np.full(count, value))
    return Imported(picture, _converted(columns, conventions, picture, pixel))


def _picture(image: Any, pixel_size: float | None) -> xr.DataArray:
    if isinstance(image, str | Path) and Path(image).suffix == ".zarr":
        if not Path(image).exists():
            raise SettingsError(f"{image}: no such file; check the path.")
        image = abtem.from_zarr(str(image))
    if isinstance(image, str | Path):
        return analysis.load(image, pixel_size=pixel_size)
    if isinstance(image, xr.DataArray):
        return image
    if hasattr(image, "sampling") and hasattr(image, "array"):
        sampling = np.broadcast_to(np.asarray(image.sampling, dtype=float), (2,))
        if abs(sampling[0] / sampling[1] - 1.0) > 1e-3:
            raise SettingsError(
                f"the image is sampled at {sampling[0]:.4g} × {sampling[1]:.4g} Å; interpolate it to square pixels first."
            )
        values = np.asarray(image.compute().array if hasattr(image, "compute") else image.array)
        if values.ndim != 2:
            raise SettingsError(
                f"the image has shape {values.shape}; pick one of an ensemble, e.g. images[0]."
            )
        # abTEM's first axis is x.
        return analysis.as_image(
            values.T, pixel_size=pixel_size or float(sampling.mean()), source="abTEM image"
        )
    return analysis.as_image(image, pixel_size=pixel_size)


def _table(truth: str | Path | pd.DataFrame | xr.Dataset) -> Any:
    if not isinstance(truth, str | Path):
        return truth
    path = Path(truth)
    if not path.is_file():
        raise SettingsError(f"{path}: no such truth table; give a CSV or netCDF file.")
    try:
        if path.suffix == ".nc":
            with xr.open_dataset(path) as dataset:
                return dataset.load()
        return pd.read_csv(path, comment="#")
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise SettingsError(f"{path}: cannot be read as a table; it may be truncated.") from error


def _column(table: Any, name: str) -> NDArray[np.float64]:
    try:
        values = np.asarray(table[name], dtype=float).ravel()
    except (TypeError, ValueError) as error:
        raise SettingsError(f"truth: column {name!r} holds what is no number.") from error
    if not len(values) or not np.isfinite(values).all():
        raise SettingsError(f"truth: column {name!r} is empty or not finite in every row; drop such rows.")
    return values


def _angstrom(unit: str, pixel: float) -> float:
    return pixel if unit == "px" else LENGTHS[unit]


def _converted(
    columns: dict[str, NDArray[np.float64]], conventions: TableConventions, picture: xr.DataArray, pixel: float
) -> xr.Dataset:  # fmt: skip
    length = _angstrom(conventions.length, pixel)
    up = -1.0 if conventions.y_up else 1.0
    x, y = columns["x"] * length, columns["y"] * length
    if conventions.y_up:
        y = (picture.sizes["y"] - 1) * pixel - y
    reach = np.array([picture.sizes["x"], picture.sizes["y"]]) * pixel
    if not ((x > -reach[0]) & (x < 2 * reach[0]) & (y > -reach[1]) & (y < 2 * reach[1])).all():
        raise SettingsError(
            f"truth: x and y run to {max(np.abs(x).max(), np.abs(y).max()):.3g} Å, far off an image of {reach[0]:.3g} × "
            f"{reach[1]:.3g} Å; check length {conventions.length!r} and pixel_size."
        )
    scale = _DISPLACEMENTS[conventions.displacement] * (1.0 if conventions.d == "A-B" else -1.0)
    d = np.stack([columns["d_x"], columns["d_y"] * up], axis=1) * scale
    if np.abs(d).max() > 200.0:
        raise SettingsError(
            f"truth: d reaches {np.abs(d).max():.3g} pm, more than any perovskite; check displacement "
            f"{conventions.displacement!r}."
        )
    component = ("cell", "component")
    data: dict[str, Any] = {
        "x": ("cell", x, {"units": "Å", "long_name": "B column"}),
        "y": ("cell", y, {"units": "Å", "direction": "down"}),
        "d": (component, d, {"units": "pm", "long_name": "mean of surrounding A columns − B column"}),
    }
    if {"tilt_x", "tilt_y"} <= columns.keys():
        sign = np.array(conventions.tilt.to_beam((1.0, 1.0))) * np.array([1.0, up])
        tilt = np.stack([columns["tilt_x"], columns["tilt_y"]], axis=1) * sign
        data["tilt"] = (
            component,
            tilt,
            {"units": "mrad", "long_name": "direction of the beam inside the crystal"},
        )
    if "thickness" in columns:
        data["thickness"] = (
            "cell",
            columns["thickness"] * _angstrom(conventions.length, 1.0),
            {"units": "Å"},
        )
    return xr.Dataset(data, coords={"component": ["x", "y"]})
