"""The engine that makes reference fields against abTEM's own multislice, probe by probe, in the very same crystal.

    nice python benchmarks/reference_probes.py --json probes.json

benchmarks/multislice_fields.py holds synthetic fields against whole fields of the scattering-matrix engine, which made the library
too. So here the same frozen crystal (one field, one phonon configuration, walls, film and all) goes through abTEM: its Potential,
Probe, tilt, multislice and AnnularDetector, at places drawn at random over the field, and through the engine, whose period is
evaluated at those places. Nothing is blurred by the source and nothing is scaled. abTEM takes a second or two a probe on a core.
"""

from __future__ import annotations

import json
import time
from typing import Any

import abtem
import numpy as np
from _common import machine, parser, report
from _reference_fields import BOX, CELLS, DETECTOR, MICROSCOPE, Reference, references

from tiltsim import FrozenPhonons, Numerics, TiltSeries, evaluate, multislice, smatrix
from tiltsim.jobs import Job, combine
from tiltsim.phonons import configuration
from tiltsim.simulate import prepare

#: Probes that abTEM propagates together.
BATCH = 4


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--probes", type=int, default=48)
    arguments.add_argument("--fields", nargs="*", default=["wall", "interface"])
    options = arguments.parse_args()
    fields = ["uniform"] if options.quick else options.fields
    probes = 4 if options.quick else options.probes
    results: dict[str, Any] = {"machine": machine(), "fields": {}}
    for field in (f for f in references() if f.name in fields):
        found = compared(field, probes)
        results["fields"][field.name] = found
        print(field.title, flush=True)
        for row in found["thicknesses"]:
            print("  " + json.dumps(row), flush=True)
    report(results, options.json)


def compared(field: Reference, probes: int) -> dict[str, Any]:
    job = prepare(
        field.specimen,
        MICROSCOPE,
        TiltSeries((field.tilt[0],), (field.tilt[1],)),
        thicknesses=[n * field.specimen.layer / 2 for n in CELLS],
        detector=DETECTOR,
        # Shared by all residual wave vectors: one crystal, as abTEM sees it.
        phonons=FrozenPhonons(pairs=1, seed=77, spread=False),
        numerics=Numerics(minimum_box=BOX),
    )[0]
    places = np.random.default_rng(5).uniform(size=(probes, 2)) * field.specimen.box
    began = time.perf_counter()
    ours = by_engine(job, places)
    middle = time.perf_counter()
    theirs = by_abtem(job, places)
    table = []
    for cells, one, other in zip(CELLS, ours, theirs, strict=True):
        row = {
            "thickness_angstrom": cells * field.specimen.layer / 2,
            "rms_difference": np.sqrt(((one - other) ** 2).mean() / (other**2).mean()),
            "largest_difference_of_maximum": np.abs(one - other).max() / other.max(),
            "mean_ratio": one.mean() / other.mean(),
        }
        table.append({k: round(float(v), 5) for k, v in row.items()})
    return {
        "title": field.title, "probes": probes, "thicknesses": table,
        "engine_seconds": round(middle - began, 1), "abtem_seconds_per_probe": round((time.perf_counter() - middle) / probes, 2),
    }  # fmt: skip


def by_engine(job: Job, places: np.ndarray) -> np.ndarray:
    """Intensities at ``places`` (probe, 2), Å, shape (thickness, probe)."""
    units = smatrix.units(job, 0, 1)
    period = combine(job, units, {unit: smatrix.compute(job, unit) for unit in units})[0, 0]
    return np.stack(
        [evaluate(period, job.specimen.box, x[None], y[None])[..., 0, 0] for x, y in places], axis=-1
    )


def by_abtem(job: Job, places: np.ndarray) -> np.ndarray:
    """The same by abTEM."""
    with abtem.config.set({"device": "cpu", "diagnostics.progress_bar": False}):
        atoms = configuration(job.specimen, job.phonons, 0, 1)
        built = multislice.potential(job.specimen, atoms, job.plan, "cpu")
        probe = abtem.Probe(
            energy=MICROSCOPE.energy_keV * 1e3,
            semiangle_cutoff=MICROSCOPE.semiangle_cutoff,
            tilt=job.points[0],
        )
        probe.grid.match(built)
        ring = abtem.AnnularDetector(inner=DETECTOR.inner, outer=DETECTOR.outer)
        measured = probe.scan(built, scan=abtem.CustomScan(places), detectors=ring, max_batch=BATCH)
        return np.asarray(measured.compute().array, dtype=float).reshape(len(CELLS), len(places))


if __name__ == "__main__":
    main()
