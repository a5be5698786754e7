"""The peer: abTEM's multislice of a job, on as many probe positions as one has time for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import abtem
import dask
import numpy as np

from tiltsim import multislice
from tiltsim.jobs import Job
from tiltsim.phonons import configuration

#: Slices of the short trials that choose the batch.
_TRIAL_SLICES = 4


def workers(on: str) -> int:
    """Batches at a time: one a core, or one on a GPU."""
    return 1 if on == "gpu" else os.cpu_count() or 1


@contextmanager
def setting(on: str) -> Iterator[None]:
    """abTEM's configuration for a device, all cores busy; undone on leaving."""
    with (
        abtem.config.set({"device": on, "diagnostics.progress_bar": False}),
        dask.config.set(scheduler="threads", num_workers=workers(on)),
    ):
        yield


def built_potential(job: Job, on: str, slices: int | None = None) -> Any:
    """Potential of the first configuration of ``job``, all of it or its first ``slices``."""
    plan = job.plan if slices is None else replace(job.plan, exit_planes=(slices - 1,))
    return multislice.potential(
        job.specimen, configuration(job.specimen, job.phonons, 0, 1), plan, on, slices
    )


def scan_places(job: Job, count: int) -> np.ndarray:
    """Indices (n, 2) of ``count`` probe positions spread evenly over the exact scan, or all of them."""
    total = job.plan.scan[0] * job.plan.scan[1]
    flat = np.arange(min(count, total)) * total // min(count, total)
    return np.stack(np.unravel_index(flat, job.plan.scan), axis=-1)


def intensities(
    built: Any, job: Job, tilt: tuple[float, float], places: np.ndarray, batch: int, on: str
) -> np.ndarray:
    """What abTEM's probes detect on the first detector at ``places`` (n, 2) of the scan, shape (thickness, n)."""
    probe = abtem.Probe(
        energy=job.microscope.energy_keV * 1e3,
        semiangle_cutoff=job.microscope.semiangle_cutoff,
        tilt=tilt,
        aberrations=dict(job.microscope.aberrations),
        device=on,
    )
    probe.grid.match(built)
    ring = job.detectors[0]
    measured = probe.scan(
        built,
        scan=abtem.CustomScan(places * np.array(job.specimen.box) / job.plan.scan),
        detectors=abtem.AnnularDetector(inner=ring.inner, outer=ring.outer),
        max_batch=batch,
        lazy=True,
    )
    return np.asarray(measured.to_cpu().compute().array, dtype=np.float64).reshape(-1, len(places))


def batch_trial(job: Job, on: str, batches: Sequence[int]) -> dict[int, float]:
    """Milliseconds per probe and slice for each size of batch, with all workers busy."""
    built = built_potential(job, on, _TRIAL_SLICES)
    result = {}
    for batch in batches:
        places = np.zeros((batch * workers(on), 2))
        laps = []
        for _ in range(2):  # the first plans the Fourier transforms
            start = time.perf_counter()
            intensities(built, job, (0.0, 0.0), places, batch, on)
            laps.append(time.perf_counter() - start)
        result[batch] = 1e3 * min(laps) / (len(places) * _TRIAL_SLICES)
    return result
