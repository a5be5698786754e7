"""What a smaller detector and a lower band limit cost in fitted positions, in pm, against 65-200 mrad.

One frozen-phonon pair of R3c BiFeO3, tilt 0 and 8 mrad, at the band limit of a 200 mrad detector: all detectors
are read from one propagation. The detector of the `quick` preset is then run at its own band limit.
"""

from __future__ import annotations

from dataclasses import asdict
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
    thicknesses = (24.0, 40.0) if args.quick else (50.0, 100.0, 200.0)
    specimen = structures.build("R3c", thickness=max(thicknesses))
    microscope, numerics = tiltsim.Microscope(), tiltsim.Numerics()
    detectors = [tiltsim.Detector(65.0, outer) for outer in OUTERS]
    periods, seconds, job = images_of(specimen, microscope, detectors, numerics, thicknesses)
    names = [f"{outer:g}" for outer in OUTERS]
    response = positions(periods, specimen, microscope, names, thicknesses)
    reference = response.sel(phase=f"{REFERENCE:g}")
    results: dict[str, Any] = {
        "machine": machine(),
        "reference": {
            "outer_mrad": REFERENCE,
            "thicknesses_angstrom": thicknesses,
            "plan": asdict(job.plan),
            "seconds_all_detectors": seconds,
            "sem_of_d_bias_pm": float(reference.d_bias_sem.max()),
        },
        "detector_against_200_mrad": {
            name: difference(response.sel(phase=name), reference) for name in names[:-1]
        },
    }
    detector = load_study("quick").detector
    own, seconds, job = images_of(specimen, microscope, [detector], numerics, thicknesses)
    alone = positions(own, specimen, microscope, ["quick"], thicknesses).sel(phase="quick")
    results["quick_preset"] = {
        "outer_mrad": detector.outer,
        "plan": asdict(job.plan),
        "seconds": seconds,
        "band_limit_alone": difference(alone, response.sel(phase=f"{detector.outer:g}")),
        "against_200_mrad": difference(alone, reference),
    }
    report(results, args.json)


if __name__ == "__main__":
    main()
