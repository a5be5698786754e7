"""49 tilts at five thicknesses: the scattering matrix against abTEM's multislice on the same atoms and the same box.

One displaced configuration of R3c BiFeO3 (2 × 2 cells), 200 kV, 30 mrad, no blur by the source. The scattering
matrix computes everything. abTEM (`Probe(tilt=...).scan`, exit planes, one potential built once) is timed on a
subset of tilts and of probe positions, in whole batches of the size that a trial found fastest, and scaled to all;
the error is between both on those very positions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from _common import machine, parser, report
from _peer import batch_trial, built_potential, intensities, scan_places, setting, workers

import structures
import tiltsim
from tiltsim import estimate, multislice, smatrix
from tiltsim.checkpoints import Checkpoints
from tiltsim.jobs import Job, combine
from tiltsim.scheduling import engine_units, run_units
from tiltsim.simulate import prepare


@contextmanager
def stopwatch(device: str) -> Iterator[dict[str, float]]:
    """Seconds in the engine's pieces, summed over the threads that run them."""
    seconds: dict[str, float] = {}

    def timed(name: str, function: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
            return result

        return wrapper

    pieces = {
        "potential": (smatrix, "transmission_functions"),
        "propagation": (smatrix, "scattering_matrix"),
        "reading": (smatrix.Reader, "add"),
    }
    before = {name: getattr(*where) for name, where in pieces.items()}
    for name, where in pieces.items():
        setattr(*where, timed(name, before[name]))
    try:
        yield seconds
    finally:
        for name, where in pieces.items():
            setattr(*where, before[name])


def ours(job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    """Period images (tilt, thickness, y, x) and what they took."""
    arrangement = estimate.needs(job)
    units, store = engine_units(job, 0, 1), Checkpoints(job)
    with stopwatch(job.device) as pieces:
        start = time.perf_counter()
        run_units(job, units, store, workers=arrangement.workers, passes=arrangement.passes)
        images = combine(job, units, store)[0]
        seconds = time.perf_counter() - start
    return images, {
        "seconds": seconds,
        "units": len(units),
        **asdict(arrangement),
        "thread_seconds": {name: round(value, 2) for name, value in pieces.items()},
    }


def peer(job: Job, images: np.ndarray, args: Any, tilts: list[tuple[float, float]]) -> dict[str, Any]:
    """AbTEM's time, scaled to all tilts and probes, and its distance from ``images`` where it was run."""
    on = multislice.abtem_device(job.device)
    sizes = (8, 16) if args.quick else (8, 16, 32, 64)
    box, scan = job.specimen.box, job.plan.scan
    x, y = (np.arange(n) * length / n for n, length in zip(scan, box, strict=True))
    errors, seconds = {}, []
    with setting(on):
        trial = batch_trial(job, on, sizes if on == "cpu" else (*sizes, 128, 256))
        batch = min(trial, key=lambda size: trial[size])
        whole = batch * workers(on)
        places = scan_places(job, -(-args.probes // whole) * whole)
        start = time.perf_counter()
        built = built_potential(job, on)
        building = time.perf_counter() - start
        intensities(built, job, (0.0, 0.0), places[:: max(1, len(places) // whole)][:whole], batch, on)
        for tilt in tilts:
            start = time.perf_counter()
            reference = intensities(built, job, tilt, places, batch, on)
            seconds.append(time.perf_counter() - start)
            exact = tiltsim.evaluate(images[job.points.index(tilt)], box, x, y)
            difference = exact[:, places[:, 1], places[:, 0]] - reference
            largest = reference.max(1)
            errors[f"{tilt[0]:.2f}, {tilt[1]:.2f} mrad"] = {
                f"{t:g} Å": {"max": float(m), "rms": float(r)}
                for t, m, r in zip(
                    job.plan.requested,
                    abs(difference).max(1) / largest,
                    np.sqrt((difference**2).mean(1)) / largest,
                    strict=True,
                )
            }
    probes, all_probes = len(places), scan[0] * scan[1]
    per_tilt = float(np.mean(seconds)) * all_probes / probes
    return {
        "device": on,
        "gpts": [g * n for g, n in zip(job.plan.gpts, job.plan.repeats, strict=True)],
        "ms_per_probe_and_slice_by_batch": trial,
        "batch": batch,
        "batches_at_a_time": workers(on),
        "potential_seconds": building,
        "measured": {"tilts": len(tilts), "probes_a_tilt": probes, "seconds": seconds},
        "scaled_to": {"tilts": len(job.points), "probes_a_tilt": all_probes},
        "seconds_per_tilt": per_tilt,
        "seconds": building + len(job.points) * per_tilt,
        "error_over_maximum": errors,
    }


def compare(args: Any, device: str) -> dict[str, Any]:
    thicknesses = (16.0, 24.0) if args.quick else (80.0, 160.0, 240.0, 320.0, 400.0)
    specimen = structures.build("R3c", thickness=max(thicknesses))
    (job,) = prepare(
        specimen,
        tilts=tiltsim.TiltSeries.grid(10.0, 3 if args.quick else 7),
        thicknesses=thicknesses,
        detector=tiltsim.Detector(65.0, args.outer),
        phonons=tiltsim.FrozenPhonons(1, spread=False),
        numerics=tiltsim.Numerics(memory_GB=args.memory, wave_vectors=2 if args.quick else None),
        device=device,
    )
    if device == "cuda":  # not the first use of the device
        ours(job)
    images, result = ours(job)
    summary = {"plan": asdict(job.plan), "tilts": len(job.points), "smatrix": result}
    # An oblique tilt first: on the axis both have the same band limit.
    first = [(10.0, 0.0), (0.0, 0.0), (-10.0, -10.0)]
    tilts = [*first, *(p for p in job.points if p not in first)][: args.tilts_timed]
    try:
        summary["abtem"] = peer(job, images, args, tilts)
    except tiltsim.SettingsError as error:  # no CuPy
        return {**summary, "abtem": str(error)}
    worst = [one for by_tilt in summary["abtem"]["error_over_maximum"].values() for one in by_tilt.values()]
    return {
        **summary,
        "speed_up": summary["abtem"]["seconds"] / result["seconds"],
        "largest_error_over_maximum": {name: max(one[name] for one in worst) for name in ("max", "rms")},
    }


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--outer", type=float, help="detector's outer angle, mrad (200; quick: 88)")
    options.add_argument("--tilts-timed", type=int, default=1, help="tilts that abTEM computes (1)")
    options.add_argument("--probes", type=int, help="probes a tilt that abTEM computes (64; quick: 16)")
    options.add_argument("--memory", type=float, default=4.0, help="numerics.memory_GB (4)")
    options.add_argument("--device", choices=("cpu", "cuda"), help="only this device (all there are)")
    args = options.parse_args()
    args.outer = args.outer or (88.0 if args.quick else 200.0)
    args.probes = args.probes or (16 if args.quick else 64)
    devices = [args.device] if args.device else ["cpu", *["cuda"] * torch.cuda.is_available()]
    results: dict[str, Any] = {"machine": machine()}
    if torch.cuda.is_available():
        results["machine"]["gpu"] = torch.cuda.get_device_name()
    for device in devices:
        results[device] = compare(args, device)
    report(results, args.json)


if __name__ == "__main__":
    main()
