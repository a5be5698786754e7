"""What a multislice scan coarser than the image's band limit costs, in pm, behind the source size.

R3c BiFeO3 with the quick preset's detector, one frozen-phonon pair, tilt 0 and 8 mrad, scanned at the band limit;
coarser scans are the exact image taken at fewer points. The scattering matrix has no scan.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from _common import arguments, machine, report
from _positions import TILTS, difference, images_of, positions

import structures
from tiltsim.config import load_study
from tiltsim.images import evaluate

RATIOS = (1.0, 0.8, 0.7, 0.65, 0.6, 0.55)


def main() -> None:
    args = arguments(__doc__ or "")
    thicknesses = (16.0, 24.0) if args.quick else (40.0, 70.0, 100.0)
    study = load_study("quick")
    specimen = structures.build("R3c", thickness=max(thicknesses))
    # One period wide: the comparison is of the same box, and a wider one takes four times as long.
    numerics = replace(study.numerics, scan_oversampling=1.0, wave_vectors=1)
    exact, seconds, job = images_of(
        specimen, study.microscope, [study.detector], numerics, thicknesses, engine="multislice"
    )
    responses, points = {}, {}
    for ratio in RATIOS:
        n = [int(np.ceil(2 * study.microscope.image_cutoff * length * ratio)) for length in specimen.box]
        x, y = (np.arange(k) * length / k for k, length in zip(n, specimen.box, strict=True))
        coarse = evaluate(exact, specimen.box, x, y)
        name = f"{ratio:g}"
        points[name] = n
        responses[name] = positions(coarse, specimen, study.microscope, [name], thicknesses).isel(phase=0)
    report(
        {
            "machine": machine(),
            "exact_scan": {
                "gpts": job.plan.gpts,
                "repeats": job.plan.repeats,
                "scan": job.plan.scan,
                "seconds_per_image": seconds / (2 * len(TILTS)),
            },
            "points": points,
            "difference_from_exact": {
                name: difference(one, responses["1"]) for name, one in responses.items() if name != "1"
            },
        },
        args.json,
    )


if __name__ == "__main__":
    main()
