"""What a smaller detector, a lower band limit and a coarser scan cost in fitted positions, in pm.

One frozen-phonon pair of R3c BiFeO3, tilt 0 and 8 mrad, at the band limit of a 200 mrad detector; every
smaller detector is read from the same waves. The `quick` preset's settings are then run by themselves.
"""

from __future__ import annotations

import time
from typing import Any

import abtem
import dask
import numpy as np
import xarray as xr
from _common import arguments, machine, report

import analysis
import structures
import tiltsim
from tiltsim import multislice
from tiltsim.config import load_study
from tiltsim.images import evaluate
from tiltsim.phonons import configurations
from tiltsim.simulate import image_extent

REFERENCE = 200.0
OUTERS = (80.0, 88.0, 95.0, 110.0, 130.0, 150.0, REFERENCE)
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


def main() -> None:
    args = arguments(__doc__ or "")
    thicknesses = (24.0, 40.0) if args.quick else (40.0, 70.0, 100.0)
    specimen = structures.build("R3c", thickness=max(thicknesses))
    microscope = tiltsim.Microscope()
    coarse = tiltsim.Numerics(scan_oversampling=0.66)
    detectors = [tiltsim.Detector(65.0, outer) for outer in OUTERS]
    periods, seconds, setup = images_of(specimen, microscope, detectors, coarse, thicknesses)
    names = [f"{outer:g}" for outer in OUTERS]
    response = positions(periods, specimen, microscope, names, thicknesses)
    reference = response.sel(phase=f"{REFERENCE:g}")
    results: dict[str, Any] = {
        "machine": machine(),
        "reference": {
            "outer_mrad": REFERENCE,
            "gpts": setup.gpts,
            "seconds": seconds,
            "sem_of_d_bias_pm": float(reference.d_bias_sem.max()),
        },
        "detector_against_200_mrad": {
            name: difference(response.sel(phase=name), reference) for name in names[:-1]
        },
    }
    quick = load_study("quick")
    own, seconds, setup = images_of(specimen, microscope, [quick.detector], quick.numerics, thicknesses)
    alone = positions(own, specimen, microscope, ["quick"], thicknesses).sel(phase="quick")
    results["quick_preset"] = {
        "outer_mrad": quick.detector.outer,
        "gpts": setup.gpts,
        "scan": setup.scan,
        "seconds": seconds,
        "band_limit_alone": difference(alone, response.sel(phase=f"{quick.detector.outer:g}")),
        "against_200_mrad": difference(alone, reference),
    }
    report(results, args.json)


if __name__ == "__main__":
    main()
