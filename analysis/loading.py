"""Read a micrograph of any common format as a labelled image, or say in one sentence why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
import xarray as xr
from numpy.typing import NDArray

from .errors import ImageError

#: Å in one of the units found in microscope files.
_ANGSTROM = {
    "å": 1.0, "angstrom": 1.0, "angstroms": 1.0, "ang": 1.0, "a": 1.0,
    "pm": 1e-2, "nm": 10.0, "nanometer": 10.0, "nanometre": 10.0,
    "µm": 1e4, "μm": 1e4, "um": 1e4, "micron": 1e4, "mm": 1e7, "cm": 1e8, "m": 1e10,
}  # fmt: skip

# Outside these bounds columns cannot be resolved, so the number is no calibration: a TIFF's print
# resolution of 72 dpi, for example, reads as 0.35 mm a pixel.
_PIXEL_BOUNDS = (1e-3, 2.0)

_READERS = {
    ".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".emd": "emd", ".emi": "tia", ".ser": "tia",
    ".hspy": "hspy", ".hdf5": "hspy", ".h5": "hspy", ".tif": "tiff", ".tiff": "tiff", ".mrc": "mrc",
}  # fmt: skip

_SMALLEST = 16  # px: no lattice can be seen in less


def load(
    path: str | Path,
    *,
    pixel_size: float | None = None,
    dataset: str | int | None = None,
    allow_pickle: bool = False,
) -> xr.DataArray:
    """Read one 2-D micrograph.

    Parameters
    ----------
    path : str or Path
        dm3, dm4, emd, emi, ser, hspy, hdf5, h5, tif, tiff, mrc or npy. An HDF5 file with a dataset
        ``MainImage`` (the layout of Nelson et al. 2021, doi:10.5281/zenodo.4555978) is read as such.
    pixel_size : float, optional
        Å per px; overrides what the file says.
    dataset : str or int, optional
        Which image of a file that holds several: title or number, or the key of a plain HDF5 dataset.
    allow_pickle : bool
        Unpickle a ``.npy`` file that holds Python objects. A pickle can run any code: only for files you
        trust.

    Returns
    -------
    xr.DataArray
        dims ``("y", "x")``, float64, y growing downwards. Coordinates are in Å; without a calibration
        they are in px, and the attribute ``calibrated`` is 0. Pixels without data stay NaN.

    Raises
    ------
    ImageError
        The file is missing, truncated, foreign, in colour, a diffraction pattern, or holds no usable
        or more than one image.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: no such file; check the path.")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        values, size, unit = _read_npy(path, dataset, allow_pickle), None, ""
    elif (
        suffix in (".h5", ".hdf5", ".hspy", ".emd") and (plain := _read_plain_hdf5(path, dataset)) is not None
    ):
        values, size, unit = plain, None, ""
    elif suffix in _READERS:
        values, size, unit = _read_rosettasciio(path, _READERS[suffix], dataset)
    else:
        known = ", ".join(sorted([*_READERS, ".npy"]))
        raise ImageError(f"{path}: unknown file type '{suffix}'; convert it to one of {known}.")
    return labelled(values, path, pixel_size, size, unit)


def as_image(values: Any, *, pixel_size: float | None = None, source: str = "array") -> xr.DataArray:
    """Label a bare 2-D array, or a HyperSpy signal, as an image.

    Parameters
    ----------
    values : (ny, nx) array or hyperspy Signal2D
        Row 0 is the top of the image. A signal brings its scale, offset and unit along.
    pixel_size : float, optional
        Å per px, instead of a signal's scale; without either, coordinates are in px.
    source : str
        What messages call it.

    Returns
    -------
    xr.DataArray
        As from `load`.

    Raises
    ------
    ImageError
        It is not one usable 2-D image, or the signal's axes are uneven or in two units.
    """
    scales, first, unit = None, (0.0, 0.0), ""
    if hasattr(values, "axes_manager") and hasattr(values, "data"):
        (scales, first, unit), values = _signal_axes(values, source), values.data
    return labelled(np.asarray(values), Path(source), pixel_size, scales, unit, first)


def load_published_cells(path: str | Path) -> xr.Dataset:
    """Read the unit cells published beside a micrograph (``*_UCParameterization.h5``).

    Parameters
    ----------
    path : str or Path
        HDF5 file in the layout of Nelson et al., npj Comput. Mater. 7, 149 (2021).

    Returns
    -------
    xr.Dataset
        dims ``cell`` (and ``component`` for ``xy_COM`` and ``Pxy``, ``index`` for ``ab``), raw numbers
        under the file's own names.

    Raises
    ------
    ImageError
        The file is missing, no HDF5 file, or lacks ``ab``, ``xy_COM`` or ``Pxy``.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: no such file; check the path.")
    try:
        with h5py.File(path) as file:
            raw = {key: np.asarray(file[key][()]) for key in file if isinstance(file[key], h5py.Dataset)}
    except OSError as error:
        raise ImageError(f"{path}: not a readable HDF5 file ({error}); fetch it again.") from error
    missing = [key for key in ("ab", "xy_COM", "Pxy") if key not in raw]
    if missing:
        raise ImageError(f"{path}: lacks {', '.join(missing)}; give a *_UCParameterization.h5 file.")
    count = max(raw["ab"].shape)
    pairs = {
        "ab": ("index", ["a", "b"]),
        "xy_COM": ("component", ["x", "y"]),
        "Pxy": ("component", ["x", "y"]),
    }
    units = {"ab": "1", "xy_COM": "px", "alpha": "as published", "Vol": "as published", "a": "as published"}
    variables: dict[str, Any] = {}
    for key, values in raw.items():
        attrs = {"units": units.get(key, "as published")}
        if key in pairs:
            if values.shape not in ((2, count), (count, 2)):
                raise ImageError(f"{path}: {key} has shape {values.shape}; expected 2 × {count} numbers.")
            variables[key] = (
                ("cell", pairs[key][0]),
                values if values.shape == (count, 2) else values.T,
                attrs,
            )
        elif values.size == count:
            variables[key] = ("cell", values.reshape(count), attrs)
    coords = {name: (name, labels) for name, labels in pairs.values()}
    note = "as published: the sign of Pxy and the direction of its y axis are not stated in the file"
    return xr.Dataset(variables, coords, {"source": path.name, "note": note})


def _read_npy(path: Path, dataset: str | int | None, allow_pickle: bool) -> NDArray[Any]:
    try:
        values = np.load(path, allow_pickle=allow_pickle)
    except Exception as error:  # a foreign header can raise nearly anything
        if "allow_pickle" in str(error):
            raise ImageError(
                f"{path}: holds pickled Python objects, which can run code; pass allow_pickle=True if you trust it."
            ) from error
        raise ImageError(
            f"{path}: not a readable .npy file ({_first_line(error)}); save it again."
        ) from error
    if values.dtype != object:
        return values
    content = values.item() if values.ndim == 0 else None
    if not isinstance(content, Mapping):
        raise ImageError(f"{path}: its pickle is no dictionary of images; save the image as a plain array.")
    if dataset not in content:
        raise ImageError(f"{path}: holds {_some(content)}; choose one with dataset=.")
    entry = content[dataset]
    return np.asarray(entry["main_image"] if isinstance(entry, Mapping) and "main_image" in entry else entry)


def _read_plain_hdf5(path: Path, dataset: str | int | None) -> NDArray[Any] | None:
    """The array of a plain HDF5 file, or None when RosettaSciIO knows the layout."""
    try:
        with h5py.File(path) as file:
            if isinstance(dataset, str) and isinstance(file.get(dataset), h5py.Dataset):
                return np.asarray(file[dataset][()])
            if isinstance(file.get("MainImage"), h5py.Dataset):
                return np.asarray(file["MainImage"][()])
            if "Experiments" in file or path.suffix.lower() == ".emd":
                return None
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if getattr(item, "ndim", 0) == 2 else None)
            if len(names) == 1:
                return np.asarray(file[names[0]][()])
            raise ImageError(f"{path}: holds {_some(names)}; choose a 2-D dataset with dataset=.")
    except OSError as error:
        raise ImageError(
            f"{path}: not a readable HDF5 file ({_first_line(error)}); fetch it again."
        ) from error


def _read_rosettasciio(
    path: Path, reader: str, dataset: str | int | None
) -> tuple[NDArray[Any], tuple[float, float] | None, str]:
    try:
        signals = import_module(f"rsciio.{reader}").file_reader(str(path))
    except Exception as error:  # each reader has its own ways to fail on a truncated or foreign file
        if reader != "tiff":
            raise ImageError(
                f"{path}: cannot be read as {path.suffix} ({_first_line(error)}); it may be truncated or foreign."
            ) from error
        return _read_tifffile(path), None, ""
    images = [signal for signal in signals if np.ndim(signal["data"]) == 2]
    titles = [str(signal["metadata"].get("General", {}).get("title", "")) for signal in images]
    if isinstance(dataset, int) and 0 <= dataset < len(images):
        chosen = dataset
    elif isinstance(dataset, str) and titles.count(dataset) == 1:
        chosen = titles.index(dataset)
    elif dataset is not None:
        raise ImageError(
            f"{path}: has no image {dataset!r}; choose dataset= from {_some(titles)} or by number."
        )
    elif len(images) == 1:
        chosen = 0
    elif images:
        raise ImageError(f"{path}: holds {len(images)} images, {_some(titles)}; choose one with dataset=.")
    else:
        shapes = ", ".join(str(np.shape(signal["data"])) for signal in signals) or "nothing"
        raise ImageError(f"{path}: holds no 2-D image but {shapes}; export one averaged frame.")
    axes = images[chosen]["axes"]
    scales = (float(axes[0].get("scale", 1.0)), float(axes[1].get("scale", 1.0)))
    unit = axes[1].get("units")
    return np.asarray(images[chosen]["data"]), scales, unit if isinstance(unit, str) else ""


def _read_tifffile(path: Path) -> NDArray[Any]:
    try:
        return np.squeeze(tifffile.imread(path))
    except Exception as error:  # as above
        raise ImageError(
            f"{path}: cannot be read as TIFF ({_first_line(error)}); it may be truncated."
        ) from error


def _signal_axes(signal: Any, source: str) -> tuple[tuple[float, float], tuple[float, float], str]:
    """Scales and the place of the first pixel, px, both (y, x), and the unit of a HyperSpy signal."""
    axes = signal.axes_manager.signal_axes  # from the fastest: x, then y
    if len(axes) != 2 or len(signal.axes_manager.navigation_axes):
        raise ImageError(f"{source}: is a signal of data shape {signal.data.shape}; give one 2-D image.")
    x, y = axes
    if not all(hasattr(axis, "scale") for axis in axes) or str(x.units) != str(y.units):
        raise ImageError(f"{source}: has uneven axes or two units; give both even steps in one unit.")
    return (float(y.scale), float(x.scale)), (y.offset / y.scale, x.offset / x.scale), str(x.units)


def _checked(values: NDArray[Any], path: Path) -> NDArray[np.float64]:
    if values.dtype.names is not None or (values.ndim == 3 and values.shape[-1] in (3, 4)):
        raise ImageError(f"{path}: is a colour image; export the detector's grey values.")
    if values.dtype.kind == "c":
        raise ImageError(f"{path}: is complex; give its intensity or magnitude.")
    if values.dtype.kind not in "fiub":
        raise ImageError(f"{path}: holds {values.dtype} and not numbers; export the detector's grey values.")
    if values.ndim != 2:
        raise ImageError(f"{path}: has shape {values.shape}; give one 2-D image, such as the averaged frame.")
    if min(values.shape) < _SMALLEST:
        raise ImageError(
            f"{path}: is only {values.shape[1]}×{values.shape[0]} px; give at least {_SMALLEST} px a side."
        )
    image = values.astype(np.float64)
    image[~np.isfinite(image)] = np.nan
    if np.isnan(image).all():
        raise ImageError(f"{path}: holds no finite pixel; export the image again.")
    if np.nanmax(image) == np.nanmin(image):
        raise ImageError(f"{path}: is constant; export the image again.")
    return image


def labelled(
    values: NDArray[Any],
    path: Path,
    pixel_size: float | None,
    scales: tuple[float, float] | None,
    unit: str,
    first: tuple[float, float] = (0.0, 0.0),
) -> xr.DataArray:
    """Check an array and put coordinates on it: `scales` in `unit` and `first` pixel in px, both (y, x)."""
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ImageError(f"pixel_size={pixel_size} must be a positive number of Å per px.")
    image = _checked(values, path)
    step, note = (pixel_size, pixel_size), "pixel size given by the user"
    if pixel_size is None:
        step, note = _calibration(path, scales, unit)
    calibrated = step[0] is not None and step[1] is not None
    dy, dx = (float(s or 1.0) for s in step)
    coord_unit = "Å" if calibrated else "px"
    attrs: dict[str, Any] = {
        "units": "1", "long_name": "intensity", "source": path.name,
        "calibrated": int(calibrated), "calibration": note,
    }  # fmt: skip
    if calibrated:
        attrs |= {"pixel_size_angstrom": float(np.sqrt(dx * dy))}
    coords = {
        "y": ("y", (first[0] + np.arange(image.shape[0])) * dy, {"units": coord_unit, "direction": "down"}),
        "x": ("x", (first[1] + np.arange(image.shape[1])) * dx, {"units": coord_unit, "direction": "right"}),
    }
    return xr.DataArray(image, coords, ("y", "x"), "image", attrs)


def _calibration(
    path: Path, scales: tuple[float, float] | None, unit: str
) -> tuple[tuple[float | None, float | None], str]:
    name = unit.strip().lower()
    if scales is None or name in ("", "px", "pixel", "pixels", "<undefined>"):
        return (None, None), "none: the file states no unit"
    if name.startswith("1/") or name.endswith(("^-1", "⁻¹")) or name == "mrad":
        raise ImageError(
            f"{path}: is calibrated in {unit}, a diffraction pattern; give an image or pass pixel_size."
        )
    if name not in _ANGSTROM:
        return (None, None), f"none: the unit '{unit}' is unknown"
    step = (scales[0] * _ANGSTROM[name], scales[1] * _ANGSTROM[name])
    if not all(_PIXEL_BOUNDS[0] <= s <= _PIXEL_BOUNDS[1] for s in step):
        return (None, None), f"none: {step[1]:g} Å a pixel cannot be that of an atomically resolved image"
    return step, f"from the file, in {unit}"


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:120].rstrip(".")


def _some(names: Iterable[Any], most: int = 8) -> str:
    listed = [repr(name) for name in names]
    return (
        ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
        or "nothing"
    )
