"""Images of one phonon pair and the columns fitted in them, for benchmarks that compare settings in pm."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

import analysis
import tiltsim
from tiltsim.checkpoints import Checkpoints
from tiltsim.dataset import image_extent
from tiltsim.images import evaluate
from tiltsim.jobs import Job
from tiltsim.simulate import prepare, sample

TILTS = (0.0, 8.0)


def images_of(
    specimen: Any,
    microscope: tiltsim.Microscope,
    detectors: Sequence[tiltsim.Detector],
    numerics: tiltsim.Numerics,
    thicknesses: Sequence[float],
    engine: str = "smatrix",
) -> tuple[np.ndarray, float, Job]:
    """Pair-averaged period images, shape (detector, tilt, thickness, y, x), and the seconds they took.

    Every residual wave vector sees the same atoms, so that settings are compared on the same specimen.
    """
    (job,) = prepare(
        specimen,
        microscope,
        tiltsim.TiltSeries(TILTS),
        thicknesses=thicknesses,
        detector=detectors,
        phonons=tiltsim.FrozenPhonons(1, spread=False),
        numerics=numerics,
        engine=engine,
        device="cpu",
    )
    start = time.perf_counter()
    periods = sample(job, Checkpoints(job)).periods.astype(np.float64).mean(0)
    return periods, time.perf_counter() - start, job


def positions(
    periods: np.ndarray, specimen: Any, microscope: tiltsim.Microscope, names: list[str], thicknesses: Any
) -> xr.Dataset:
    """Shift of the A and B columns, mean over the supercell, pm; ``names`` label the first axis of ``periods``."""
    axis = np.arange(0.0, image_extent([specimen]), 0.1)
    pictures = evaluate(periods, specimen.box, axis, axis, microscope.source_fwhm)
    dataset = xr.Dataset(
        {"intensity": (("phase", "tilt_x", "thickness", "y", "x"), pictures)},
        coords={
            "phase": names,
            "tilt_x": ("tilt_x", list(TILTS), {"units": "mrad"}),
            "thickness": ("thickness", list(thicknesses), {"units": "Å"}),
            "x": ("x", axis, {"units": "Å"}),
            "y": ("y", axis, {"units": "Å"}),
        },
    ).expand_dims(tilt_y=[0.0])
    return analysis.tilt_response(dataset, dict.fromkeys(names, specimen.truth))


def difference(one: xr.Dataset, other: xr.Dataset) -> dict[str, dict[str, float]]:
    """Root mean square and largest differences over thickness, tilt and component of two responses of one phase."""
    shift = one["shift"].values - other["shift"].values  # (tilt_x, tilt_y, thickness, site, component)
    bias = one.d_bias.values - other.d_bias.values
    slope = (one.d_bias.diff("tilt_x").values - other.d_bias.diff("tilt_x").values) / (TILTS[1] - TILTS[0])
    result = {}
    for name, values in {
        "a_pm": shift[..., 0, :],
        "b_pm": shift[..., 1, :],
        "d_bias_pm": bias,
        "d_bias_pm_per_mrad": slope,
    }.items():
        result[name] = {"rms": float(np.sqrt(np.mean(values**2))), "max": float(abs(values).max())}
    return result
