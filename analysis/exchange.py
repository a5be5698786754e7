"""Columns and unit cells to and from the files that other programs read."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase
import ase.io
import h5py
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from .calibration import is_calibrated, pixel_sizes
from .errors import ImageError
from .loading import labelled
from .measuring import Measurement
from .writing import write_whole

Floats = NDArray[np.float64]

#: Elements that stand for the two sites of BiFeO3.
ELEMENTS = {"A": "Bi", "B": "Fe"}

_COMPONENTS = ("component", "component_2")


def to_dataframe(table: xr.Dataset) -> pd.DataFrame:
    """One row a column or cell, one number or word an entry.

    Parameters
    ----------
    table : xr.Dataset
        Such as ``Measurement.columns`` or ``Measurement.unit_cells``.

    Returns
    -------
    pd.DataFrame
        A vector ``d`` becomes ``d_x`` and ``d_y``, a covariance ``d_cov`` becomes ``d_cov_xx``, ``d_cov_xy``
        and ``d_cov_yy``. ``attrs["units"]`` maps every column to its unit; the other ``attrs`` are the
        dataset's.

    Raises
    ------
    ImageError
        The dataset has no rows, or more than one dimension of them.
    """
    rows = [str(name) for name in table.dims if name not in _COMPONENTS]
    if len(rows) != 1:
        raise ImageError(
            f"table: has dims {tuple(table.dims)}; give one with rows along 'column' or 'cell' only."
        )
    table = table.transpose(rows[0], ..., *(name for name in _COMPONENTS if name in table.dims))
    entries: dict[str, Any] = {}
    units: dict[str, str] = {}
    for key, variable in table.variables.items():
        if rows[0] not in variable.dims:
            continue
        values: Any = variable.values
        unit = str(variable.attrs.get("units", ""))
        for suffix, index in _entries(table, variable.dims[1:]):
            entries[f"{key}{suffix}"] = values[:, *index]
            units[f"{key}{suffix}"] = unit
    frame = pd.DataFrame(entries)
    frame.attrs = {str(key): value for key, value in table.attrs.items()} | {"units": units}
    return frame


def write_csv(table: xr.Dataset, path: str | Path) -> Path:
    """Write a table as CSV: comment lines with units and conventions, a line of names, then the rows.

    ``pandas.read_csv(path, comment="#")`` reads it back.

    Parameters
    ----------
    table : xr.Dataset
        As in `to_dataframe`.
    path : str or Path
        Folders are made.

    Returns
    -------
    Path

    Raises
    ------
    ImageError
        The dataset is no table, or the file cannot be written.
    """
    frame = to_dataframe(table)
    attrs = {key: value for key, value in frame.attrs.items() if key != "units"}
    notes = [f"{key}: {value}" for key, value in attrs.items()]
    notes += [f"{name} [{unit}]" for name, unit in frame.attrs["units"].items()]

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.writelines(f"# {' '.join(note.split())}\n" for note in notes)
            # Words are quoted so that a "#" in one starts no comment.
            frame.to_csv(file, index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")

    return write_whole(Path(path), write)


def write_xyz(measurement: Measurement, path: str | Path, *, elements: Mapping[str, str] = ELEMENTS) -> Path:
    """Write all columns as atoms of an extended XYZ file, for OVITO or `ase.io.read`.

    Parameters
    ----------
    measurement : Measurement
    path : str or Path
        Folders are made.
    elements : mapping
        Which element stands for each site.

    Returns
    -------
    Path

    Raises
    ------
    ImageError
        A site has no element, or ASE knows none of that name, or the file cannot be written.

    Notes
    -----
    Positions in Å: x right, y down, z = 0. The lattice is the image, to the edges of its pixels, from ``Origin``,
    and 1 Å deep, since it must not be flat. Per atom: ``sigma_major``, ``sigma_minor`` (Å), ``theta`` (rad),
    ``amplitude``, ``flag`` and ``d`` (pm, z = 0), which is NaN where no cell was measured.
    """
    columns, cells, image = measurement.columns, measurement.unit_cells, measurement.image
    site = columns["site"].values.astype(str)
    missing = sorted(set(site) - set(elements))
    if missing:
        raise ImageError(f"elements: has none for site {', '.join(missing)}; add it.")
    step = np.array(pixel_sizes(image))
    first = np.array([float(image["x"][0]), float(image["y"][0])])
    size = step * [image.sizes["x"], image.sizes["y"]]
    position = np.stack([columns["x"].values, columns["y"].values, np.zeros(len(site))], 1)
    try:
        atoms = ase.Atoms([elements[name] for name in site], position, cell=[*size, 1.0], pbc=False)
    except KeyError as error:
        raise ImageError(f"elements: {error} is no element; give symbols such as 'Bi'.") from error
    for name in ("sigma_major", "sigma_minor", "theta", "amplitude"):
        atoms.set_array(name, columns[name].values)
    atoms.set_array("flag", columns["flag"].values.astype(int))
    atoms.set_array("d", _by_column(columns, cells))
    atoms.info = {
        "Origin": np.array([*(first - step / 2), 0.0]),
        "source": str(columns.attrs["source"]),
        "convention": f"{cells['d'].attrs['convention']}; d in pm, lengths in Å",
    }
    return write_whole(Path(path), lambda temporary: ase.io.write(temporary, atoms, format="extxyz"))


def load_atomap(
    path: str | Path, *, sites: Mapping[str, str] | None = None, pixel_size: float | None = None
) -> tuple[xr.DataArray, xr.Dataset]:
    """Read what Atomap's `Atom_Lattice.save` wrote: the image and the columns of all sublattices.

    Parameters
    ----------
    path : str or Path
        HDF5 file of Atomap (layout of version 0.4.2).
    sites : mapping, optional
        Site of a sublattice of that name, such as ``{"Bi": "A", "Fe": "B"}``; others keep their own name.
    pixel_size : float, optional
        Å per px; overrides what the file says.

    Returns
    -------
    image : xr.DataArray
        As from `analysis.load`: Atomap's original image.
    columns : xr.Dataset
        dims ``column``: ``x``, ``y``, ``site``, ``sigma_major``, ``sigma_minor``, ``theta``, as far as the
        file carries them (it keeps neither amplitudes nor errors); px if the file is not calibrated.

    Raises
    ------
    ImageError
        The file is missing, foreign or damaged, or has no sublattice named in `sites`.

    Notes
    -----
    Atomap turns its Gaussians by ``rotation`` against y down, so sigma_x lies at −rotation from x towards y
    here.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: no such file; check the path.")
    try:
        with h5py.File(path) as file:
            groups = [group for key, group in file.items() if "sublattice" in key or "atom_lattice" in key]
            groups.sort(key=lambda group: int(group.attrs.get("sublattice_index", 0)))
            tables = [_sublattice(group, n) for n, group in enumerate(groups)]
            places = [*(file.get(key) for key in ("original_image_data", "image_data"))]
            places += [group.get("original_image_data") for group in groups]
            pixels = next((np.asarray(place[()]) for place in places if place is not None), None)
            scales = [
                (float(group.attrs["pixel_size"]), _text(group.attrs.get("units", ""))) for group in groups
            ]
    except (OSError, KeyError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read as a file of Atomap ({error}); save it again.") from error
    if not tables or pixels is None:
        raise ImageError(
            f"{path}: holds no sublattice or no image; give a file that Atom_Lattice.save wrote."
        )
    frame = pd.concat(tables, ignore_index=True)
    known = list(frame["site"].unique())
    if unknown := sorted(set(sites or {}) - set(known)):
        raise ImageError(
            f"sites: {', '.join(unknown)} is no sublattice of {path.name}; choose among {known}."
        )
    size, unit = scales[0]
    image = labelled(pixels, path, pixel_size, (size, size), unit)
    step = pixel_sizes(image)[0]
    lengths = frame.columns.intersection(["x", "y", "sigma_major", "sigma_minor"])
    frame[lengths] *= step
    frame["site"] = frame["site"].replace(dict(sites or {}))
    length = {"units": "Å" if is_calibrated(image) else "px"}
    attrs = dict.fromkeys(lengths, length) | {
        "y": length | {"direction": "down"},
        "site": {"units": "1", "note": "sublattice of Atomap"},
        "theta": {"units": "rad", "long_name": "major axis, from x towards y (down)"},
    }
    variables = {
        name: ("column", frame[name].to_numpy(object if name == "site" else float), attrs[name])
        for name in frame
    }
    note = {"source": path.name, "calibration": image.attrs["calibration"], "directions": "x right, y down"}
    if is_calibrated(image):
        note |= {"pixel_size_x_angstrom": step, "pixel_size_y_angstrom": step}
    return image, xr.Dataset(variables, attrs=note)


def _entries(table: xr.Dataset, dims: tuple[Any, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """Suffix and index of every number that a row of a variable holds; a covariance is symmetric."""
    if not dims:
        return [("", ())]
    labels = [str(label) for label in table[dims[0]].values]
    if len(dims) == 1:
        return [(f"_{label}", (n,)) for n, label in enumerate(labels)]
    pairs = zip(*np.triu_indices(len(labels)), strict=True)
    return [(f"_{labels[m]}{labels[n]}", (int(m), int(n))) for m, n in pairs]


def _by_column(columns: xr.Dataset, cells: xr.Dataset) -> Floats:
    """(n, 3) displacement of the cell around each B column, NaN elsewhere."""
    keys = pd.MultiIndex.from_arrays([cells["a"].values, cells["b"].values])
    row = keys.get_indexer(pd.MultiIndex.from_arrays([columns["a"].values, columns["b"].values]))
    row = np.where(columns["site"].values == "B", row, -1)
    d = np.full((len(row), 3), np.nan)
    d[row >= 0, :2] = cells["d"].values[row[row >= 0]]
    d[row >= 0, 2] = 0.0
    return d


def _sublattice(group: h5py.Group, number: int) -> pd.DataFrame:
    """Columns of one of Atomap's sublattices, px."""
    position = np.asarray(group["atom_positions"][()], dtype=np.float64).reshape(-1, 2)
    name = _text(group.attrs.get("name", group.attrs.get("tag", ""))) or f"sublattice {number}"
    columns: dict[str, Any] = {"x": position[:, 0], "y": position[:, 1], "site": name}
    if {"sigma_x", "sigma_y", "rotation"} <= set(group):
        along, across, rotation = (np.asarray(group[key][()]) for key in ("sigma_x", "sigma_y", "rotation"))
        theta = -rotation + np.where(across > along, np.pi / 2, 0.0)
        columns |= {
            "sigma_major": np.maximum(along, across),
            "sigma_minor": np.minimum(along, across),
            "theta": np.pi / 2 - (np.pi / 2 - theta) % np.pi,  # in (−π/2, π/2]
        }
    return pd.DataFrame(columns)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
