"""What the probe's own periodic copies cost, in pm: N × N residual wave vectors, N = 1, 2, 3, against N = 4.

N wave vectors along each axis are a box of N supercells. R3c BiFeO3 with the quick preset's detector, one
frozen-phonon pair, tilt 0 and 8 mrad; all wave vectors see the same atoms.
"""

from __future__ import annotations

from dataclasses import replace

from _common import arguments, machine, report
from _positions import TILTS, difference, images_of, positions

import structures
import tiltsim
from tiltsim.config import load_study
from tiltsim.planning import repeats


def main() -> None:
    args = arguments(__doc__ or "")
    thicknesses = (24.0, 40.0) if args.quick else (50.0, 100.0, 200.0)
    counts = (1, 2) if args.quick else (1, 2, 3, 4)
    study = load_study("quick")
    specimen = structures.build("R3c", thickness=max(thicknesses))
    responses, runs = {}, {}
    for n in counts:
        numerics = replace(study.numerics, wave_vectors=n)
        periods, seconds, job = images_of(specimen, study.microscope, [study.detector], numerics, thicknesses)
        responses[n] = positions(periods, specimen, study.microscope, [str(n)], thicknesses).isel(phase=0)
        runs[n] = {"width_angstrom": n * specimen.box[0], "gpts": job.plan.gpts, "seconds": seconds}
    tilts, reference = tiltsim.TiltSeries(TILTS), responses[counts[-1]]
    report(
        {
            "machine": machine(),
            "runs": runs,
            "default_wave_vectors": {
                f"{t:g} Å": repeats(specimen.box, t, study.microscope, tilts, study.numerics)[0]
                for t in thicknesses
            },
            f"difference_from_{counts[-1]}": {
                f"{t:g} Å": {
                    n: difference(one.sel(thickness=[t]), reference.sel(thickness=[t]))
                    for n, one in responses.items()
                    if n != counts[-1]
                }
                for t in thicknesses
            },
        },
        args.json,
    )


if __name__ == "__main__":
    main()
