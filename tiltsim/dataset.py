"""The ``images`` dataset: sampled configurations in, labelled images out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from structures import Specimen
from tiltsim.conventions import TiltConvention
from tiltsim.images import evaluate, resample
from tiltsim.jobs import Job

#: Beyond one period, the images show this much more, Å, so that every column is seen whole with its
#: neighbours and column finding has six cells to work with.
_MARGIN = 16.0

#: What images are labelled by, behind the detector.
_DIMS = ("phase", "tilt_x", "tilt_y", "thickness")

_FRACTION = {"units": "1", "long_name": "fraction of the incident beam"}
_ANGSTROM = {"units": "Å"}


@dataclass(frozen=True, eq=False)
class Sampled:
    """Images of one specimen, configuration by configuration.

    Parameters
    ----------
    labels : list of (int, int)
        (pair, sign) of each configuration.
    periods : ndarray, shape (config, segment, tilt, thickness, y, x)
        Intensities over one period, before the source's blur, float32.
    largest_sem : float
        Largest standard error of a fitted position, pm; NaN where it was not needed.
    """

    labels: list[tuple[int, int]]
    periods: NDArray[np.float32]
    largest_sem: float


def image_extent(specimens: Sequence[Specimen]) -> float:
    """Side of the images, Å, that shows every column of every specimen whole and with its neighbours."""
    return max(max(s.box) for s in specimens) + _MARGIN


def assemble(
    jobs: Sequence[Job],
    sampled: Sequence[Sampled],
    *,
    keep_configs: bool = False,
    field: float | None = None,
    pixel: float | None = None,
    mean: bool = True,
) -> xr.Dataset:
    """The ``images`` dataset of finished jobs that share all settings but the specimen.

    Parameters
    ----------
    jobs : sequence of Job
    sampled : sequence of Sampled
        One for each job.
    keep_configs : bool
        Also give every configuration, as images of one period.
    field : float, optional
        Side of the images, Å; default :func:`image_extent`.
    pixel : float, optional
        Å, instead of the numerics'.
    mean : bool
        Whether to give the mean images.

    Returns
    -------
    xarray.Dataset
        As :func:`tiltsim.simulate` describes.
    """
    first = jobs[0]
    extent = field or image_extent([job.specimen for job in jobs])
    axis = np.arange(0.0, extent, pixel or first.numerics.pixel)
    mrad = {"units": "mrad", "long_name": "direction of the beam inside the crystal"}
    data: dict[str, Any] = {
        "thickness_actual": (
            ("phase", "thickness"), np.array([job.plan.thicknesses for job in jobs]), _ANGSTROM,
        ),
        "period_x": ("phase", np.array([job.specimen.box[0] for job in jobs]), _ANGSTROM),
        "period_y": ("phase", np.array([job.specimen.box[1] for job in jobs]), _ANGSTROM),
        "lean": (("phase", "component"), np.array([job.specimen.lean_mrad for job in jobs]), {"units": "mrad"}),
        "pairs": (
            "phase", np.array([sum(sign >= 0 for _, sign in s.labels) for s in sampled]),
            {"units": "1", "long_name": "phonon pairs used (1 for a still lattice)"},
        ),
        "largest_sem": (
            "phase", np.array([s.largest_sem for s in sampled]),
            {"units": "pm", "long_name": "largest standard error of a fitted A or B position; NaN without a target"},
        ),
    }  # fmt: skip
    coords: dict[str, Any] = {
        "phase": [job.specimen.name for job in jobs],
        "tilt_x": ("tilt_x", np.array(first.tilts.x), mrad),
        "tilt_y": ("tilt_y", np.array(first.tilts.y), mrad),
        "thickness": ("thickness", np.array(first.plan.requested), _ANGSTROM),
        "y": ("y", axis, {**_ANGSTROM, "long_name": "down the image, entrance surface"}),
        "x": ("x", axis, {**_ANGSTROM, "long_name": "entrance surface"}),
        "component": ["x", "y"],
        "detector": first.segments,
    }
    if mean:
        data["intensity"] = _mean_images(jobs, sampled, axis)
    if keep_configs:
        configs = max((s.labels for s in sampled), key=len)
        data["intensity_period"] = _periods(jobs, sampled, len(configs))
        coords["pair"] = ("config", np.array([pair for pair, _ in configs]), {"units": "1"})
        coords["sign"] = ("config", np.array([sign for _, sign in configs]), {"units": "1"})
    dataset = xr.Dataset(data, coords, _attributes(jobs))
    return dataset.isel(detector=0, drop=True) if len(first.segments) == 1 else dataset


def _sizes(jobs: Sequence[Job]) -> tuple[int, ...]:
    """Lengths of the dimensions that label images."""
    tilts = jobs[0].tilts
    return len(jobs), len(tilts.x), len(tilts.y), len(jobs[0].plan.thicknesses)


def _mean_images(jobs: Sequence[Job], sampled: Sequence[Sampled], axis: NDArray[np.float64]) -> xr.Variable:
    """Mean over configurations at the coordinates ``axis`` along y and x, blurred by the source."""
    first = jobs[0]
    shape = (len(first.segments), *_sizes(jobs), len(axis), len(axis))
    images = np.full(shape, np.nan, dtype=np.float32)
    i, j = np.array(first.tilts.points()).T
    for index, (job, s) in enumerate(zip(jobs, sampled, strict=True)):
        average = s.periods.mean(axis=0, dtype=np.float64)
        images[:, index, i, j] = evaluate(average, job.specimen.box, axis, axis, first.microscope.source_fwhm)
    return xr.Variable(("detector", *_DIMS, "y", "x"), images, _FRACTION)


def _periods(jobs: Sequence[Job], sampled: Sequence[Sampled], configs: int) -> xr.Variable:
    """Every configuration over one period, NaN where a phase has fewer than ``configs``."""
    first = jobs[0]
    ny, nx = (max(s.periods.shape[a] for s in sampled) for a in (-2, -1))
    shape = (configs, len(first.segments), *_sizes(jobs), ny, nx)
    periods = np.full(shape, np.nan, dtype=np.float32)
    i, j = np.array(first.tilts.points()).T
    for index, s in enumerate(sampled):
        periods[: len(s.labels), :, index, i, j] = resample(s.periods, ny, nx)
    comment = {"comment": "one period, evenly sampled, before the source's blur"}
    return xr.Variable(("config", "detector", *_DIMS, "v", "u"), periods, _FRACTION | comment)


def _attributes(jobs: Sequence[Job]) -> dict[str, Any]:
    """How it was computed: the full specification as JSON, versions, seed and conventions."""
    first = jobs[0]
    specification = {
        "microscope": asdict(first.microscope),
        "detectors": [asdict(d) for d in first.detectors],
        "tilts": asdict(first.tilts),
        "phonons": asdict(first.phonons),
        "numerics": asdict(first.numerics),
        "engine": first.engine,
        "specimens": {job.specimen.name: dict(job.specimen.specification) for job in jobs},
        "plans": {job.specimen.name: asdict(job.plan) for job in jobs},
    }
    return {
        "title": "simulated ADF-STEM images",
        "tilt_convention": TiltConvention.BEAM.value,
        "axes": "x right, y down, beam into the page",
        "source_fwhm_angstrom": first.microscope.source_fwhm,
        "specification": json.dumps(specification, ensure_ascii=False),
        "seed": first.phonons.seed,
        "tiltsim_version": version("tiltsim"),
        "abtem_version": version("abtem"),
    }


def pair_images(images: xr.Dataset) -> xr.Dataset:
    """``images`` with ``intensity`` resolved by phonon pair: the mean of u and −u, dims (pair, [detector,] phase, …).

    Pairs are independent samples, which is what a standard error needs.
    """
    if "intensity_period" not in images:
        return images
    means = images["intensity_period"].groupby("pair").mean("config", skipna=False)
    means = means.transpose("phase", "pair", ..., "v", "u")
    x, y = images["x"].values, images["y"].values
    blur = float(images.attrs["source_fwhm_angstrom"])
    pictures = np.empty((*means.shape[:-2], len(y), len(x)), dtype=np.float32)
    boxes = zip(images["period_x"].values, images["period_y"].values, strict=True)
    for index, box in enumerate(boxes):
        # One at a time: the intermediate is four times the result.
        for pair, period in enumerate(means.values[index]):
            pictures[index, pair] = evaluate(period.astype(np.float64), box, x, y, blur)
    intensity = xr.Variable((*means.dims[:-2], "y", "x"), pictures, _FRACTION).transpose(
        "pair", "detector", "phase", ..., missing_dims="ignore"
    )
    dropped = images.drop_vars(["intensity_period", "intensity", "sign", "pair"], errors="ignore")
    return dropped.assign(intensity=intensity).assign_coords(
        pair=("pair", means["pair"].values, {"units": "1"})
    )
