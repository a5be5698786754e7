"""Images out of other programs: abTEM, Prismatic and whatever ``analysis.load`` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import abtem
import dask
import h5py
import numpy as np
import xarray as xr
from rsciio import emd

import analysis
from analysis.calibration import is_calibrated
from analysis.loading import labelled
from tiltsim.errors import SettingsError

#: Where Prismatic 1.2 and 2.0 keep images: Å whatever their attribute of units says. It says "[n_m]" in files of 1.2,
#: among them HyperSpy's Si100: 16 pixels of 0.339375 are one cell of silicon, 5.43 Å.
_PRISMATIC = "4DSTEM_simulation/data/realslices"


@dataclass(frozen=True, eq=False)
class Picture:
    """An image and what its file states of it: the tilt (toolkit's sign), mrad, and the thickness, Å.

    ``on_axis``: the beam was never tilted to the box, which says nothing of how the crystal was turned in the box.
    """

    image: xr.DataArray
    tilt: tuple[float, float] | None = None
    thickness: float | None = None
    on_axis: bool = False


def pictures(source: Any, pixel_size: float | None, dataset: str | int | None) -> Iterator[Picture]:
    """The images of a ``source``, as :func:`tiltsim.synth.importing.import_images` takes it.

    Raises
    ------
    SettingsError
        If it is of another kind, or holds several where one is wanted.
    ImageError
        If it has no usable image.
    """
    called = "image"
    if isinstance(source, str | Path):
        path = Path(source)
        called = path.name
        if path.is_dir() or path.suffix.lower() in (".zarr", ".zip"):
            source = _from_zarr(path)
        elif prismatic := _prismatic_image(path, pixel_size, dataset):
            yield prismatic
            return
        else:
            yield Picture(analysis.load(path, pixel_size=pixel_size, dataset=dataset))
            return
    if isinstance(source, list | tuple) and all(hasattr(s, "ensemble_axes_metadata") for s in source):
        if not isinstance(dataset, int) or not 0 <= dataset < len(source):
            raise SettingsError(
                f"{called}: holds {len(source)} measurements; choose one with dataset=0 to {len(source) - 1}."
            )
        source = source[dataset]
    if hasattr(source, "ensemble_axes_metadata"):
        yield from _abtem_pictures(source, called, pixel_size)
    elif isinstance(source, xr.DataArray):
        yield Picture(_of_data_array(source, pixel_size))
    else:
        yield Picture(analysis.as_image(source, pixel_size=pixel_size, source=called))


def _of_data_array(source: xr.DataArray, pixel_size: float | None) -> xr.DataArray:
    if set(source.dims) != {"y", "x"}:
        raise SettingsError(f"image: has dims {source.dims}; give one image with dims ('y', 'x').")
    source = source.transpose("y", "x")
    if pixel_size is not None or not all(n in source.coords for n in ("y", "x")) or not is_calibrated(source):
        return analysis.as_image(source.values, pixel_size=pixel_size, source="image")
    return source


def _from_zarr(path: Path) -> Any:
    if not path.exists():
        raise SettingsError(f"{path}: no such file; check the path.")
    try:
        return abtem.from_zarr(str(path))
    except Exception as error:  # foreign stores fail in many ways
        raise SettingsError(
            f"{path}: cannot be read as abTEM's zarr ({type(error).__name__}: {error}); write it with Images.to_zarr."
        ) from error


def _abtem_pictures(images: Any, called: str, pixel_size: float | None) -> Iterator[Picture]:
    if not isinstance(images, abtem.measurements.Images):
        raise SettingsError(
            f"{called}: holds abTEM's {type(images).__name__}, which are no images; integrate over a detector first."
        )
    frozen = tuple(
        i for i, axis in enumerate(images.ensemble_axes_metadata)
        if type(axis).__name__ == "FrozenPhononsAxis" or getattr(axis, "_ensemble_mean", False)
    )  # fmt: skip
    with abtem.config.set({"diagnostics.progress_bar": False}), dask.config.set(scheduler="threads"):
        if frozen:
            images = images.reduce_ensemble(frozen)
        images = images.compute() if images.is_lazy else images
        images = images.to_cpu()
    axes = images.ensemble_axes_metadata
    series = any(hasattr(axis, "tilt") for axis in axes)
    for index in np.ndindex(images.ensemble_shape):
        depths = [
            float(axis.values[i])
            for axis, i in zip(axes, index, strict=True)
            if type(axis).__name__ == "ThicknessAxis"
        ]
        if depths == [0.0]:
            continue
        one = images[index] if index else images
        stated = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in one.metadata.items()}
        # abTEM's arrays have x first, and its sampling too.
        image = labelled(one.array.T, Path(called), pixel_size, one.sampling[::-1], "Å")
        image.attrs["abtem"] = json.dumps(stated, default=str)
        tilt = float(stated.get("base_tilt_x", 0.0)), float(stated.get("base_tilt_y", 0.0))
        yield Picture(image, tilt, depths[0] if depths else None, on_axis=not series and not any(tilt))


def _prismatic_image(path: Path, pixel_size: float | None, dataset: str | int | None) -> Picture | None:
    """An image out of Prismatic's HDF5 file; None for any other file."""
    if path.suffix.lower() not in (".h5", ".emd", ".hdf5") or not path.is_file() or not h5py.is_hdf5(path):
        return None
    with h5py.File(path) as file:
        group = file.get(_PRISMATIC)
        if group is None:
            return None
        names = [n for n in group if n == dataset or (dataset is None and n.startswith("annular_detector"))]
        if len(names) != 1:
            raise SettingsError(
                f"{path}: choose an image with dataset=, one of {', '.join(group) or 'none'}."
            )
        inner = next((n for n in ("realslice", "data") if n in group[names[0]]), None)
        if inner is None:
            raise SettingsError(f"{path}: {names[0]} holds no image; choose another with dataset=.")
    try:
        signal = emd.file_reader(str(path), dataset_path=f"{_PRISMATIC}/{names[0]}/{inner}")[0]
    except Exception as error:  # what is missing in a file makes it fail in many ways
        raise SettingsError(
            f"{path}: cannot be read as Prismatic's ({type(error).__name__}: {error}); copy it again, or give the image as an array."
        ) from error
    if np.ndim(signal["data"]) != 2:
        raise SettingsError(
            f"{path}: {names[0]} has shape {np.shape(signal['data'])}; sum the rings of the detector you want to an image."
        )
    steps = tuple(float(axis["scale"]) for axis in signal["axes"])
    return Picture(labelled(np.asarray(signal["data"]), path, pixel_size, (steps[0], steps[1]), "Å"))
