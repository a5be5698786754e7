"""What a smaller detector, a lower band limit and a coarser scan cost in fitted positions, in pm.

One frozen-phonon pair of R3c BiFeO3, tilt 0 and 8 mrad, at the band limit of a 200 mrad detector; every
smaller detector is read from the same waves. The `quick` preset's settings are then run by themselves.
"""

from __future__ import annotations

from typing import Any

from _common import arguments, machine, report
from _positions import difference, images_of, positions

import structures
import tiltsim
from tiltsim.config import load_study

REFERENCE = 200.0
OUTERS = (80.0, 88.0, 95.0, 110.0, 130.0, 150.0, REFERENCE)


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
