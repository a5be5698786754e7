"""What the probe's own periodic copies cost: the default multislice box against one twice as wide, in pm.

R3c BiFeO3 with the quick preset's detector, one frozen-phonon pair, tilt 0 and 8 mrad.
"""

from __future__ import annotations

from dataclasses import replace

from _common import arguments, machine, report
from _positions import difference, images_of, positions

import structures
from tiltsim.config import load_study


def main() -> None:
    args = arguments(__doc__ or "")
    thicknesses = (24.0, 40.0) if args.quick else (40.0, 70.0, 100.0)
    study = load_study("quick")
    specimen = structures.build("R3c", thickness=max(thicknesses))
    width = study.numerics.box(max(thicknesses), study.microscope)
    responses, runs = [], {}
    for factor in (1, 2):
        numerics = replace(study.numerics, minimum_box=factor * specimen.box[0])
        periods, seconds, setup = images_of(
            specimen, study.microscope, [study.detector], numerics, thicknesses
        )
        name = f"{setup.tile[0] * specimen.box[0]:.2f} Å"
        runs[name] = {"gpts": setup.gpts, "seconds": seconds}
        responses.append(positions(periods, specimen, study.microscope, [name], thicknesses).isel(phase=0))
    report(
        {
            "machine": machine(),
            "default_width_angstrom": width,
            "runs": runs,
            "difference": {
                f"{t:g} Å": difference(*(r.sel(thickness=[t]) for r in responses)) for t in thicknesses
            },
        },
        args.json,
    )


if __name__ == "__main__":
    main()
