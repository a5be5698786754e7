"""Images of one phonon pair and the columns fitted in them, for benchmarks that compare settings in pm."""

from __future__ import annotations

import time
from typing import Any

import abtem
import dask
import numpy as np
import xarray as xr

import analysis
import tiltsim
from tiltsim import multislice
from tiltsim.images import evaluate
from tiltsim.phonons import configurations
from tiltsim.simulate import image_extent

TILTS = (0.0, 8.0)


def images_of(specimen: Any, microscope: Any, detectors: list[Any], numerics: Any, thicknesses: Any) -> Any:
    """Pair-averaged period images, shape (detector, tilt, thickness, y, x), and the time they took."""
    setup = multislice.plan(
        specimen, microscope, tiltsim.TiltSeries(TILTS), thicknesses, detectors[-1], numerics
    )
    start = time.perf_counter()
    total = 0.0
    with abtem.config.set({"diagnostics.progress_bar": False}), dask.config.set(scheduler="threads"):
        for _, _, atoms in configurations(specimen.atoms, specimen.sigmas, tiltsim.FrozenPhonons(1)):
            built = multislice.potential(specimen, atoms, setup, "cpu")
            total = total + np.stack(
                [
                    multislice.scan_image(built, specimen, microscope, detectors, (t, 0.0), setup, "cpu")
                    for t in TILTS
                ],
                axis=1,
            )
    return total / 2, time.perf_counter() - start, setup


def positions(periods: Any, specimen: Any, microscope: Any, names: list[str], thicknesses: Any) -> xr.Dataset:
    """Shift of the A and B columns, mean over the supercell, pm."""
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
