"""From specimens to the ``images`` dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr

from structures import Specimen
from tiltsim import multislice
from tiltsim.conventions import TiltConvention
from tiltsim.errors import SettingsError
from tiltsim.images import evaluate
from tiltsim.settings import Detector, FrozenPhonons, Microscope, Numerics, TiltSeries

#: Beyond one period, the images show this much more, Å, so that every column is seen whole with its
#: neighbours and column finding has six cells to work with.
_MARGIN = 16.0

#: Called with the number of images done and the total.
Progress = Callable[[int, int], None]


def image_count(
    specimens: Sequence[Specimen], tilts: TiltSeries, phonons: FrozenPhonons | None = None
) -> int:
    """Multislice images that :func:`simulate` will compute."""
    configurations = max(1, 2 * (phonons or FrozenPhonons()).pairs)
    return len(specimens) * len(tilts.points()) * configurations


def image_extent(specimens: Sequence[Specimen]) -> float:
    """Side of the images, Å, that shows every column of every specimen whole and with its neighbours."""
    return max(max(s.box) for s in specimens) + _MARGIN


def distinct_names(specimens: Sequence[Specimen]) -> list[str]:
    """Names of the specimens, which must differ: they label the ``phase`` coordinate."""
    names = [s.name for s in specimens]
    if not names or len(set(names)) < len(names):
        raise SettingsError(f"specimens {names} need different names; give each its own name.")
    return names


def simulate(
    specimens: Specimen | Sequence[Specimen],
    microscope: Microscope | None = None,
    tilts: TiltSeries | None = None,
    *,
    thicknesses: Sequence[float] = (50.0, 100.0),
    detector: Detector | None = None,
    phonons: FrozenPhonons | None = None,
    numerics: Numerics | None = None,
    engine: str = "multislice",
    device: str = "auto",
    seed: int | None = None,
    keep_configs: bool = False,
    field: float | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """ADF-STEM images of specimens over tilts and thicknesses.

    Parameters
    ----------
    specimens : Specimen or sequence of Specimen
        Each becomes one entry of ``phase``; names must differ.
    microscope, tilts, detector, phonons, numerics
        See :mod:`tiltsim.settings` for the defaults.
    thicknesses : sequence of float
        Å, ascending; rounded to whole layers. The actual ones are in ``thickness_actual``.
    engine : {"multislice"}
        abTEM's multislice, the reference.
    device : {"auto", "cpu", "cuda"}
        Auto takes CUDA where there is one.
    seed : int, optional
        Overrides ``phonons.seed``.
    keep_configs : bool
        Also return every phonon configuration before averaging.
    field : float, optional
        Side of the square images, Å; default one period and 16 Å more.
    progress : callable, optional
        Called as ``progress(done, total)`` after every image.

    Returns
    -------
    xarray.Dataset
        ``intensity`` (phase, tilt_x, tilt_y, thickness, y, x), float32, fraction of the incident beam,
        NaN at tilts that were not asked for; with ``keep_configs`` also ``intensity_config`` with a
        leading ``config``, whose coordinates ``pair`` and ``sign`` tell u from −u. Coordinates are those
        of the specimen's entrance surface, Å, y down.

    Raises
    ------
    SettingsError
        Naming the setting and the fix.
    """
    chosen = [specimens] if isinstance(specimens, Specimen) else list(specimens)
    names = distinct_names(chosen)
    if engine != "multislice":
        raise SettingsError(f"engine {engine!r} is unknown; 'multislice' is the one there is.")
    microscope, tilts = microscope or Microscope(), tilts or TiltSeries.cross(8.0, 5)
    detector, numerics = detector or Detector(), numerics or Numerics()
    phonons = phonons or FrozenPhonons()
    if seed is not None:
        phonons = FrozenPhonons(phonons.pairs, seed)
    wanted = tuple(float(t) for t in thicknesses)
    plans = [multislice.plan(s, microscope, tilts, wanted, detector, numerics) for s in chosen]

    extent = field or image_extent(chosen)
    axis = np.arange(0.0, extent, numerics.pixel)
    shape = (len(chosen), len(tilts.x), len(tilts.y), len(wanted), len(axis), len(axis))
    configs = [(0, 0)] if phonons.pairs == 0 else [(p, s) for p in range(phonons.pairs) for s in (1, -1)]
    kept = np.full((len(configs), *shape), np.nan, dtype=np.float32) if keep_configs else None
    mean = np.full(shape, np.nan, dtype=np.float64)
    done, total = 0, image_count(chosen, tilts, phonons)
    for index, (specimen, setup) in enumerate(zip(chosen, plans, strict=True)):
        for pair, sign, i, j, period in multislice.run(
            specimen, microscope, tilts, detector, phonons, setup, device
        ):
            image = evaluate(period, specimen.box, axis, axis, microscope.source_fwhm)
            mean[index, i, j] = np.nan_to_num(mean[index, i, j]) + image / len(configs)
            if kept is not None:
                kept[configs.index((pair, sign)), index, i, j] = image
            done += 1
            if progress is not None:
                progress(done, total)

    intensity_attrs = {"units": "1", "long_name": "fraction of the incident beam"}
    dims = ("phase", "tilt_x", "tilt_y", "thickness", "y", "x")
    angstrom = {"units": "Å"}
    mrad = {"units": "mrad", "long_name": "direction of the beam inside the crystal"}
    data: dict[str, Any] = {
        "intensity": (dims, mean.astype(np.float32), intensity_attrs),
        "thickness_actual": (("phase", "thickness"), np.array([p.thicknesses for p in plans]), angstrom),
        "period_x": ("phase", np.array([s.box[0] for s in chosen]), angstrom),
        "period_y": ("phase", np.array([s.box[1] for s in chosen]), angstrom),
        "lean": (("phase", "component"), np.array([s.lean_mrad for s in chosen]), {"units": "mrad"}),
    }
    coords: dict[str, Any] = {
        "phase": names,
        "tilt_x": ("tilt_x", np.array(tilts.x), mrad),
        "tilt_y": ("tilt_y", np.array(tilts.y), mrad),
        "thickness": ("thickness", np.array(wanted), angstrom),
        "y": ("y", axis, {**angstrom, "long_name": "down the image, entrance surface"}),
        "x": ("x", axis, {**angstrom, "long_name": "entrance surface"}),
        "component": ["x", "y"],
    }
    if kept is not None:
        data["intensity_config"] = (("config", *dims), kept, intensity_attrs)
        coords["pair"] = ("config", np.array([p for p, _ in configs]), {"units": "1"})
        coords["sign"] = ("config", np.array([s for _, s in configs]), {"units": "1"})
    specification = {
        "microscope": asdict(microscope),
        "detector": asdict(detector),
        "tilts": asdict(tilts),
        "phonons": asdict(phonons),
        "numerics": asdict(numerics),
        "engine": engine,
        "specimens": {s.name: dict(s.specification) for s in chosen},
        "plans": {s.name: asdict(p) for s, p in zip(chosen, plans, strict=True)},
    }
    return xr.Dataset(
        data,
        coords=coords,
        attrs={
            "title": "simulated ADF-STEM images",
            "tilt_convention": TiltConvention.BEAM.value,
            "axes": "x right, y down, beam into the page",
            "specification": json.dumps(specification, ensure_ascii=False),
            "seed": phonons.seed,
            "tiltsim_version": version("tiltsim"),
            "abtem_version": version("abtem"),
        },
    )


def pair_images(images: xr.Dataset) -> xr.Dataset:
    """``images`` with ``intensity`` resolved by phonon pair: the mean of u and −u, dims (pair, phase, …).

    Pairs are independent samples, which is what a standard error needs.
    """
    if "intensity_config" not in images:
        return images
    by_pair = images["intensity_config"].groupby("pair").mean("config", skipna=False, keep_attrs=True)
    return images.drop_vars(["intensity_config", "intensity", "sign"]).assign(intensity=by_pair)
