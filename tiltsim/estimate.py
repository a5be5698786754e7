"""What a simulation will take: memory from its sizes, time from a short trial on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tiltsim import planning, smatrix
from tiltsim.errors import SettingsError
from tiltsim.jobs import Job, Unit
from tiltsim.propagation import batch_size, scattering_matrix, torch_device
from tiltsim.reciprocal import beams, pixels
from tiltsim.scheduling import count_units
from tiltsim.settings import TiltSeries

_GB = 1e9

#: What the process grows by, over what its arrays count: the allocator's share, measured between 1.06 and 1.15 (0.91 for a
#: single tilt) by benchmarks/tilt_cost.py.
_ALLOCATED = 1.1


@dataclass(frozen=True)
class Needs:
    """Memory and arrangement of a job on the scattering-matrix engine.

    Parameters
    ----------
    beams, pixels : int
        Incident and exit waves of the largest residual wave vector.
    workers : int
        Units at a time.
    passes : int
        Portions of exit waves, each with a propagation of its own.
    memory_GB : float
        Peak memory of all workers, beyond the program itself.
    """

    beams: int
    pixels: int
    workers: int
    passes: int
    memory_GB: float


def needs(job: Job, workers: int | None = None) -> Needs:
    """How a job fits into ``numerics.memory_GB``: fewer workers first, then more passes.

    Raises
    ------
    SettingsError
        If even one worker with the smallest portions does not fit.
    """
    grid = job.grid
    n = max(len(beams(grid, job.microscope, job.points, q)) for q in grid.wave_vectors)
    m = max(len(pixels(grid, job.detectors, job.points, q)) for q in grid.wave_vectors)
    device = torch_device(job.device)
    available = 1 if device.type == "cuda" else (workers or os.cpu_count() or 1)
    budget = job.numerics.memory_GB
    for count in range(available, 0, -1):
        if count * _unit_memory(job, n, m, 1, device) <= budget:
            return Needs(n, m, count, 1, count * _unit_memory(job, n, m, 1, device))
    passes = 1
    while _unit_memory(job, n, m, passes, device) > budget:
        if passes >= m:
            least = _unit_memory(job, n, m, m, device)
            raise SettingsError(
                f"numerics.memory_GB {budget:g} GB is too small: {job.specimen.name} needs {least:.2f} GB at the "
                "least; raise it, or choose a smaller supercell, thickness or detector."
            )
        passes = min(m, passes + max(1, passes // 4))
    return Needs(n, m, 1, passes, _unit_memory(job, n, m, passes, device))


def _unit_memory(job: Job, n: int, m: int, passes: int, device: torch.device) -> float:
    """Peak memory of one unit with ``n`` incident and ``m`` exit waves, GB.

    Counted from the arrays alive at each stage, and held against the measured peak by benchmarks/tilt_cost.py.
    """
    grid = job.grid
    points = job.plan.gpts[0] * job.plan.gpts[1]
    slices, planes = job.plan.exit_planes[-1] + 1, len(job.plan.exit_planes)
    segments, tilts = len(job.segments), len(job.points)
    kept = -(-m // passes)
    step = grid.wavelength / np.array(grid.box) * 1e3  # mrad
    entering = min(n, int(np.pi * job.microscope.semiangle_cutoff**2 / step.prod()))
    rings = max(np.pi * (d.outer**2 - d.inner**2) / step.prod() / d.segments for d in job.detectors)
    ring = min(kept, int(rings))
    # The potential (float32) beside the transmission functions (complex64).
    building = 12 * points * slices
    batch = min(n, batch_size(grid, device)) * points * 8
    held = 8 * points * slices + 8 * planes * kept * n + 4 * kept * tilts * segments
    # Overlaps of the shared detector in every plane, and what is gathered and weighted for them …
    shared = 24 * ring * n + 8 * planes * n**2
    # … or for one tilt, with the terms of its Fourier coefficients.
    gathered = min(kept, int(1.4 * ring))
    direct = (
        8 * planes * n**2
        + 64 * entering**2
        + max(8 * gathered * n + 16 * gathered * entering, 32 * gathered * entering)
    )
    images = 24 * segments * tilts * planes * job.plan.samples[0] * job.plan.samples[1]
    return _ALLOCATED * float(max(building, held + max(3 * batch, shared, direct)) + images) / _GB


def trial_seconds(job: Job, arrangement: Needs) -> float:
    """Seconds of one unit on one worker, from a trial of a second or two that has the machine to itself."""
    device = torch_device(job.device)
    grid = job.grid
    q = (0, 0)
    start = time.perf_counter()
    transmission = smatrix.transmission_functions(job, Unit(0, 0, 0), device)
    building = time.perf_counter() - start
    incident = beams(grid, job.microscope, job.points, q)
    wanted = pixels(grid, job.detectors, job.points, q)
    sample = incident[: batch_size(grid, device)]
    slices = min(20, job.plan.exit_planes[-1] + 1)
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // arrangement.workers))
    try:
        laps = []
        for _ in range(4):
            start = time.perf_counter()
            planes = scattering_matrix(
                transmission, grid, q, job.specimen.slice_thickness, sample, wanted, (slices - 1,)
            )
            laps.append(time.perf_counter() - start)
        per_wave_slice = min(laps[1:]) / (len(sample) * slices)
        reading = _reading_seconds(job, arrangement.passes, planes[0].device)
    finally:
        torch.set_num_threads(before)
    propagating = per_wave_slice * len(incident) * (job.plan.exit_planes[-1] + 1)
    # With a lens a unit is of all residual wave vectors, see tiltsim.smatrix.units.
    parts = len(grid.wave_vectors) if job.lens else 1
    return parts * (building + arrangement.passes * propagating + reading)


def _reading_seconds(job: Job, passes: int, device: torch.device) -> float:
    """Seconds to read all images of a unit: those of one tilt, times their number."""
    single = replace(job, tilts=TiltSeries((job.points[0][0],), (job.points[0][1],)))
    q = (0, 0)
    incident = beams(job.grid, job.microscope, single.points, q)
    # As many exit waves as a portion has, from all over the detectors.
    portion = pixels(job.grid, job.detectors, single.points, q)[::passes]
    amplitudes = torch.ones((len(portion), len(incident)), dtype=torch.complex64, device=device)
    planes = [amplitudes] * len(job.plan.exit_planes)
    laps = []
    for _ in range(2):
        reader = smatrix.Reader(single, q, incident, device)
        start = time.perf_counter()
        reader.add(planes, portion)
        laps.append(time.perf_counter() - start)
    return min(laps) * len(job.points) * passes


def forecast(jobs: Sequence[Job]) -> list[str]:
    """What ``jobs`` will compute, why, and the memory and time expected, line by line (``--dry-run``)."""
    lines, total = [], 0.0
    for job in jobs:
        units = count_units(job)
        if job.engine == "multislice":
            lines.append(_multislice_line(job, units))
            continue
        arrangement = needs(job)
        seconds = trial_seconds(job, arrangement)
        whole = seconds * units / arrangement.workers
        total += whole
        lines += describe(job, arrangement, units)
        lines.append(
            f"  expected: {seconds:.1f} s a unit, {duration(whole)} in all (from a trial on this machine)"
        )
        pairs, most = job.phonons.pairs, job.phonons.max_pairs
        if job.phonons.target_sem_pm is not None and most > pairs:
            lines.append(
                f"  that is {pairs} phonon pairs; more are added, up to {most} ({duration(whole * most / pairs)}), until "
                f"every A and B position is known to {job.phonons.target_sem_pm:g} pm"
            )
    if len(jobs) > 1 and total:
        lines.append(f"all specimens: {duration(total)}")
    return lines


def _multislice_line(job: Job, images: int) -> str:
    plan = job.plan
    points = [g * r for g, r in zip(plan.gpts, plan.repeats, strict=True)]
    return (
        f"{job.specimen.name}: {images} multislice runs of {plan.scan[0]} × {plan.scan[1]} probes on {points[0]} × "
        f"{points[1]} points and {plan.exit_planes[-1] + 1} slices (abTEM; engine smatrix is far faster)"
    )


def describe(job: Job, arrangement: Needs, units: int) -> list[str]:
    """The plan in sentences: what was chosen and why."""
    plan, box = job.plan, np.array(job.specimen.box)
    thickest = plan.thicknesses[-1]
    cone, drift = planning.cone(thickest, job.microscope), planning.drift(thickest, job.tilts)
    wide = box * plan.repeats
    if job.numerics.wave_vectors is not None:
        why = "as numerics.wave_vectors asks"
    elif job.numerics.minimum_box is not None:
        why = f"numerics.minimum_box is {job.numerics.minimum_box:g} Å"
    elif cone + drift < planning.LEAST_WIDTH:
        why = f"never narrower than {planning.LEAST_WIDTH:g} Å (cone and drift of the probe: {cone + drift:.1f} Å)"
    else:
        why = f"at {thickest:.0f} Å the probe's cone is {cone:.1f} Å wide and drifts {drift:.1f} Å"
    return [
        f"{job.specimen.name}: period {box[0]:.2f} × {box[1]:.2f} Å, {len(job.specimen.atoms)} atoms",
        f"  {plan.repeats[0]} × {plan.repeats[1]} residual wave vectors (box {wide[0]:.1f} × {wide[1]:.1f} Å): {why}",
        f"  grid {plan.gpts[0]} × {plan.gpts[1]}, band limit {plan.band_limit:.0f} mrad, "
        f"{plan.exit_planes[-1] + 1} slices of {job.specimen.slice_thickness:.2f} Å",
        f"  {arrangement.beams} incident waves (aperture and all {len(job.points)} tilts), "
        f"{arrangement.pixels} exit waves (all detectors and tilts)",
        f"  {units} units of work, {arrangement.workers} at a time, {arrangement.passes} "
        f"{'propagation' if arrangement.passes == 1 else 'propagations'} each; memory "
        f"{arrangement.memory_GB:.2f} of {job.numerics.memory_GB:g} GB",
    ]


def duration(seconds: float) -> str:
    """``seconds`` as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
