"""Tables of truth that others write beside their simulated images, in this toolkit's axes, units and signs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from tiltsim.conventions import TiltConvention
from tiltsim.errors import SettingsError

Floats = NDArray[np.float64]

#: Å in a unit of length; "px" is the image's.
_LENGTHS = {"Å": 1.0, "\u212b": 1.0, "A": 1.0, "angstrom": 1.0, "Angstrom": 1.0, "pm": 0.01, "nm": 10.0}

#: mrad in a unit of angle.
_ANGLES = {"mrad": 1.0, "rad": 1e3, "deg": np.radians(1e3), "°": np.radians(1e3)}

#: What the columns of a table are, and the unit they get.
_QUANTITY = {
    "x": "position", "y": "position", "d_x": "d", "d_y": "d", "tilt_x": "tilt", "tilt_y": "tilt", "thickness": "thickness",
}  # fmt: skip

#: Attributes of tilts in a dataset.
TILT = {"units": "mrad", "long_name": "direction of the beam inside this crystal"}

#: Largest values that can be meant, in pm, mrad and Å: twice any displacement known between A and B columns, far beyond
#: what small-angle tilts describe, and beyond what high angles see through. A wrong unit is out by ten or more.
_LARGEST = {"d": 200.0, "tilt": 200.0, "thickness": 5000.0}
_OWN_UNIT = {"d": "pm", "tilt": "mrad", "thickness": "Å"}

#: "d_x [pm]" or "d_x (pm)".
_WITH_UNIT = re.compile(r"^\s*(?P<name>[^\[(]+?)\s*[\[(]\s*(?P<unit>[^\])]*?)\s*[\])]\s*$")

#: A column of numbers and its unit, where the table states one.
Columns = dict[str, tuple[Floats, str | None]]


@dataclass(frozen=True)
class TableConventions:
    """What the numbers of a truth table mean; the defaults are this toolkit's own.

    Parameters
    ----------
    length : {"Å", "angstrom", "nm", "pm", "px"}
        Of x, y and (except px, then Å) thickness, where the table does not state it.
    displacement : {"pm", "Å", "angstrom", "nm", "px"}
        Of d_x and d_y, where the table does not state it.
    angle : {"mrad", "rad", "deg"}
        Of tilt_x and tilt_y, where the table does not state it.
    d : {"A-B", "B-A"}
        d = mean of the surrounding A columns − B column (ours), or the opposite.
    y_up : bool
        Whether the table's y axis points up the image, against its rows as they are stored, for y, d_y and tilt_y.
    tilt : TiltConvention
        ``SPECIMEN`` for muSTEM, Prismatic's multislice and Dr. Probe.
    origin : (float, float), optional
        Where the table's x = y = 0 lies in the image's coordinates, Å. Default: (0, 0), and with y up the image's last row.
    """

    length: str = "Å"
    displacement: str = "pm"
    angle: str = "mrad"
    d: str = "A-B"
    y_up: bool = False
    tilt: TiltConvention = TiltConvention.BEAM
    origin: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse units and signs that are unknown."""
        for name, value, known in (
            ("length", self.length, (*_LENGTHS, "px")), ("displacement", self.displacement, (*_LENGTHS, "px")),
            ("angle", self.angle, tuple(_ANGLES)), ("d", self.d, ("A-B", "B-A")),
        ):  # fmt: skip
            if value not in known:
                raise SettingsError(f"{name} {value!r} is unknown; choose one of {', '.join(known)}.")
        if not isinstance(self.tilt, TiltConvention):
            raise SettingsError(f"tilt {self.tilt!r} is no convention; give a tiltsim.TiltConvention.")
        if self.origin is not None and not (len(self.origin) == 2 and np.isfinite(self.origin).all()):
            raise SettingsError(f"origin {self.origin} is no place; give (x, y) in Å.")

    def unit(self, quantity: str) -> str:
        """The unit of "position", "d", "tilt" or "thickness"."""
        if quantity == "thickness":
            return "Å" if self.length == "px" else self.length
        return {"position": self.length, "d": self.displacement, "tilt": self.angle}[quantity]


def read_truth(truth: Any) -> tuple[Columns, str]:
    """The columns of a table of truth, as they stand, and what messages call it.

    Parameters
    ----------
    truth : path, Dataset, DataFrame or mapping
        CSV (with commas, semicolons or tabs), or netCDF; or the table itself. A cell is a row. Columns ``x``, ``y`` (the B
        column), ``d_x``, ``d_y`` and, if known, ``tilt_x``, ``tilt_y``, ``thickness``; others are left alone. Units stand
        in the names, as in "d_x [pm]", in comment lines of a CSV that say the same, or in ``units`` attributes; else they are
        those of :class:`TableConventions`. A dataset may have ``d`` and ``tilt`` with a dimension "component"; fitted cells
        and a specimen's own truth (``structures.Specimen.truth``) will do.

    Raises
    ------
    SettingsError
        If it cannot be read, or x, y, d_x or d_y is missing.
    """
    name = "truth"
    if isinstance(truth, str | Path):
        name, truth = str(truth), _opened(Path(truth))
    if isinstance(truth, xr.Dataset):
        columns = _of_dataset(truth, name)
    elif isinstance(truth, pd.DataFrame | Mapping):
        columns = _of_frame(truth, name)
    else:
        raise SettingsError(
            f"truth is a {type(truth).__name__}; give the path of a CSV or netCDF file, an xarray Dataset or a pandas DataFrame."
        )
    for needed in ("x", "y", "d_x", "d_y"):
        if needed not in columns:
            raise SettingsError(
                f"{name}: has no {needed} but {', '.join(columns) or 'nothing that is known'}; name its columns x, y, d_x and d_y."
            )
    for one, other in (("tilt_x", "tilt_y"), ("tilt_y", "tilt_x")):
        if one in columns and other not in columns:
            raise SettingsError(f"{name}: has {one} but no {other}; give both, 0 where there is no tilt.")
    lengths = {column: len(values) for column, (values, _) in columns.items()}
    if len(set(lengths.values())) > 1:
        raise SettingsError(f"{name}: its columns differ in length, {lengths}; give every cell one row.")
    if not lengths["x"]:
        raise SettingsError(f"{name}: has no rows; give one for every cell.")
    for column, (values, _) in columns.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise SettingsError(
                f"{name}: {column} is no finite number in {len(bad)} of {len(values)} rows, first in row {bad[0]}; leave these cells out."
            )
    return columns, name


def cells_of(columns: Columns, name: str, conventions: TableConventions, image: xr.DataArray) -> xr.Dataset:
    """Cells of ``image`` in the toolkit's convention.

    Parameters
    ----------
    columns, name
        From :func:`read_truth`.
    conventions : TableConventions
    image : DataArray (y, x)
        Coordinates in Å.

    Returns
    -------
    Dataset
        Dims (cell, component): ``x``, ``y`` of the B column in the image's coordinates, Å; ``d``, mean of the surrounding
        A columns − B column, pm; where the table has them ``tilt``, direction of the beam inside the crystal, mrad, and
        ``thickness``, Å; ``inside``: whether the image shows the B column.

    Raises
    ------
    SettingsError
        If a unit is unknown, a value is larger than can be meant, or the cells do not lie on the image.
    """
    x, y = (image[n].values.astype(float) for n in ("x", "y"))
    pixel = {"x": float(x[1] - x[0]), "y": float(y[1] - y[0])}
    own = {n: _converted(n, *columns[n], name, conventions, pixel) for n in columns}
    up = conventions.y_up
    down = np.array([1.0, -1.0 if up else 1.0])  # of components along the image's axes
    origin = conventions.origin or (0.0, float(y[-1]) if up else 0.0)
    place = np.stack([own["x"], own["y"]], axis=-1) * down + np.asarray(origin)
    d = np.stack([own["d_x"], own["d_y"]], axis=-1) * down * (-1.0 if conventions.d == "B-A" else 1.0)
    first, last = np.array([x[0], y[0]]), np.array([x[-1], y[-1]])
    inside = ((place >= first) & (place <= last)).all(axis=1)
    if not inside.any() or (np.maximum(first - place, place - last) > last - first).any():
        low, high = place.min(axis=0), place.max(axis=0)
        raise SettingsError(
            f"{name}: its cells, x {low[0]:.4g} to {high[0]:.4g} and y {low[1]:.4g} to {high[1]:.4g} Å, do not lie on the image, "
            f"x {x[0]:.4g} to {x[-1]:.4g} and y {y[0]:.4g} to {y[-1]:.4g} Å; check length {conventions.length!r}, y_up and origin."
        )
    vector = ("cell", "component")
    variables: dict[str, Any] = {
        "x": ("cell", place[:, 0], {"units": "Å", "long_name": "B column"}),
        "y": ("cell", place[:, 1], {"units": "Å", "long_name": "B column"}),
        "d": (vector, _bounded("d", d, name), {"units": "pm", "long_name": "mean of surrounding A columns − B column"}),
        "inside": ("cell", inside, {"units": "1", "long_name": "the image shows the B column"}),
    }  # fmt: skip
    if "tilt_x" in own:
        tilt = turned(np.stack([own["tilt_x"], own["tilt_y"]], axis=-1), conventions)
        variables["tilt"] = (vector, _bounded("tilt", tilt, name), dict(TILT))
    if "thickness" in own:
        thickness = own["thickness"]
        if thickness.min() <= 0:
            raise SettingsError(f"{name}: thickness {thickness.min():g} Å is none; give positive ones.")
        variables["thickness"] = ("cell", _bounded("thickness", thickness, name), {"units": "Å"})
    return xr.Dataset(
        variables,
        coords={"component": ["x", "y"]},
        attrs={"convention": "d = mean of surrounding A columns − B column; x right, y down"},
    )


def turned(tilt_mrad: Floats, conventions: TableConventions) -> Floats:
    """Tilts (…, 2) in mrad of a table's axes and sign in the toolkit's."""
    x, y = tilt_mrad[..., 0], tilt_mrad[..., 1] * (-1.0 if conventions.y_up else 1.0)
    sign = conventions.tilt.to_beam((1.0, 1.0))
    return np.stack([sign[0] * x, sign[1] * y], axis=-1) + 0.0  # no −0


def _opened(path: Path) -> xr.Dataset | pd.DataFrame:
    if not path.is_file():
        raise SettingsError(f"{path}: no such file; give the path of a table of truth.")
    try:
        if path.suffix.lower() in (".nc", ".nc4", ".h5", ".hdf5"):
            with xr.open_dataset(path) as opened:
                return opened.load()
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        notes = [line.lstrip("# ") for line in lines if line.startswith("#")]
        header = next((line for line in lines if line.strip() and not line.startswith("#")), "")
        separator = max(",;\t", key=header.count)
        frame = pd.read_csv(path, comment="#", sep=separator, skipinitialspace=True, encoding="utf-8-sig")
    except (OSError, ValueError, RuntimeError) as error:  # what pandas, UnicodeDecodeError and netCDF4 raise
        raise SettingsError(
            f"{path}: cannot be read as {'netCDF' if path.suffix.startswith('.n') else 'CSV'} ({str(error).splitlines()[0]}); "
            "write it again, with a line of names above the numbers."
        ) from error
    stated = (m for m in map(_WITH_UNIT.match, notes) if m)
    frame.attrs["units"] = {m["name"]: m["unit"] for m in stated}
    return frame


def _of_frame(table: pd.DataFrame | Mapping[str, Any], name: str) -> Columns:
    units = table.attrs.get("units", {}) if isinstance(table, pd.DataFrame) else {}
    columns: Columns = {}
    for label in table:
        match = _WITH_UNIT.match(str(label))
        column = match["name"] if match else str(label).strip()
        unit = match["unit"] if match else str(units.get(label, ""))
        if column in columns:
            raise SettingsError(f"{name}: has two columns {column}; keep one.")
        if column in _QUANTITY:
            columns[column] = _numbers(table[label], column, name), unit or None
    return columns


def _of_dataset(table: xr.Dataset, name: str) -> Columns:
    if "cell_d" in table:  # of structures: x and y are those of all columns
        table = table[["cell_x", "cell_y", "cell_d"]].rename(cell_x="x", cell_y="y", cell_d="d")
    if "x" not in table or table["x"].ndim != 1:
        raise SettingsError(
            f"{name}: has no x with one value for every cell; name its variables x, y, d and so on."
        )
    rows = table.sizes[table["x"].dims[0]]
    if table.sizes.get("component") == 2 and "component" not in table.coords:
        table = table.assign_coords(component=["x", "y"])
    columns: Columns = {}
    for label, variable in table.variables.items():
        unit = str(variable.attrs.get("units", "")) or None
        parts = {str(label): variable.values}
        if label in ("d", "tilt") and "component" in variable.dims:
            parts = {f"{label}_{c}": table[label].sel(component=c).values for c in ("x", "y")}
        for column, values in parts.items():
            if column in _QUANTITY:
                if np.ndim(values) == 0:  # of the whole image
                    values = np.full(rows, values)
                columns[column] = _numbers(values, column, name), unit
    return columns


def _numbers(values: Any, column: str, name: str) -> Floats:
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"{name}: {column} holds words ({error}); give numbers and put units in the line of names."
        ) from error
    if numbers.ndim != 1:
        raise SettingsError(f"{name}: {column} has shape {numbers.shape}; give one number for every cell.")
    return numbers


def _converted(
    column: str, values: Floats, stated: str | None, name: str, conventions: TableConventions, pixel: Mapping[str, float]
) -> Floats:  # fmt: skip
    """``values`` in Å, or pm for d and mrad for tilt."""
    quantity = _QUANTITY[column]
    unit = stated or conventions.unit(quantity)
    known = _ANGLES if quantity == "tilt" else _LENGTHS
    if quantity in ("position", "d"):
        known = known | {"px": pixel[column[-1]]}
    if unit not in known:
        raise SettingsError(
            f"{name}: {column} is in {unit!r}, which is not known; use one of {', '.join(dict.fromkeys(known))}."
        )
    return values * known[unit] * (100.0 if quantity == "d" else 1.0)


def _bounded(quantity: str, values: Floats, name: str) -> Floats:
    largest, unit = float(np.abs(values).max()), _OWN_UNIT[quantity]
    if largest > _LARGEST[quantity]:
        raise SettingsError(
            f"{name}: {quantity} of {largest:.4g} {unit} is beyond the {_LARGEST[quantity]:g} {unit} that can be meant; check its unit."
        )
    return values
