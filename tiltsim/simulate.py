"""From specimens to the ``images`` dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import analysis
from structures import Specimen
from tiltsim import estimate
from tiltsim.checkpoints import Checkpoints
from tiltsim.dataset import Sampled, assemble, pair_images
from tiltsim.errors import SettingsError
from tiltsim.jobs import Job, combine
from tiltsim.multislice import abtem_device, refuse_edges
from tiltsim.phonons import configuration, labels
from tiltsim.planning import plan
from tiltsim.propagation import torch_device
from tiltsim.scheduling import engine_units, run_units
from tiltsim.settings import Detector, FrozenPhonons, Microscope, Numerics, TiltSeries

ENGINES = ("smatrix", "multislice")

#: Called with the number of units done and the number expected, which grows while a target is not met.
Progress = Callable[[int, int], None]


def distinct_names(specimens: Sequence[Specimen]) -> list[str]:
    """Names of the specimens, which must differ: they label the ``phase`` coordinate."""
    names = [s.name for s in specimens]
    if not names or len(set(names)) < len(names):
        raise SettingsError(f"specimens {names} need different names; give each its own name.")
    return names


def prepare(
    specimens: Specimen | Sequence[Specimen],
    microscope: Microscope | None = None,
    tilts: TiltSeries | None = None,
    *,
    thicknesses: Sequence[float] = (50.0, 100.0),
    detector: Detector | Sequence[Detector] | None = None,
    phonons: FrozenPhonons | None = None,
    numerics: Numerics | None = None,
    engine: str = "smatrix",
    device: str = "auto",
    seed: int | None = None,
) -> list[Job]:
    """One checked job for each specimen; arguments as :func:`simulate`'s.

    Raises
    ------
    SettingsError
        Naming the setting and the fix.
    """
    chosen = [specimens] if isinstance(specimens, Specimen) else list(specimens)
    distinct_names(chosen)
    if engine not in ENGINES:
        raise SettingsError(f"engine {engine!r} is unknown; choose one of {', '.join(ENGINES)}.")
    microscope, numerics = microscope or Microscope(), numerics or Numerics()
    if detector is None:
        detectors: tuple[Detector, ...] = (Detector(),)
    else:
        detectors = (detector,) if isinstance(detector, Detector) else tuple(detector)
    seen = [label for d in detectors for label in d.labels]
    if not seen or len(set(seen)) < len(seen):
        raise SettingsError(f"detectors {seen} need different names; give each its own detector.name.")
    if engine == "multislice":
        abtem_device(device)
        refuse_edges(microscope, detectors)
        phonons = phonons or FrozenPhonons()
        tilts = tilts or TiltSeries.cross(8.0, 5)
    else:
        torch_device(device)
        phonons = phonons or FrozenPhonons.until()
        tilts = tilts or TiltSeries.grid(10.0, 7)
    if seed is not None:
        phonons = replace(phonons, seed=seed)
    if phonons.trajectory is not None or phonons.force_constants is not None:
        for s in chosen:  # read and checked now rather than in the middle of the work
            configuration(s, phonons, 0, 1)
    wanted = tuple(float(t) for t in thicknesses)
    jobs = [
        Job(
            s, microscope, tilts, detectors, phonons, numerics,
            plan(s, microscope, tilts, wanted, detectors, numerics), engine, device,
        )
        for s in chosen
    ]  # fmt: skip
    if engine == "smatrix":
        for job in jobs:
            estimate.needs(job)
    return jobs


def sample(
    job: Job,
    store: Checkpoints,
    *,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Sampled:
    """Compute the configurations of ``job``: the pairs asked for, or as many as its target takes."""
    workers, passes = (1, 1)
    if job.engine == "smatrix":
        arrangement = estimate.needs(job)
        workers, passes = arrangement.workers, arrangement.passes
    phonons, pairs = job.phonons, job.phonons.pairs
    periods: dict[tuple[int, int], NDArray[np.float32]] = {}
    finished, sem = 0, float("nan")

    def done(number: int) -> None:
        nonlocal finished
        finished += number
        if progress is not None:
            progress(finished, expected)

    while True:
        wanted = labels(phonons, pairs)
        groups = {label: engine_units(job, *label) for label in wanted if label not in periods}
        expected = finished + sum(map(len, groups.values()))
        # In one go, so that no worker waits for the last unit of each configuration.
        units = [unit for group in groups.values() for unit in group]
        run_units(job, units, store, workers=workers, passes=passes, scheduler=scheduler, done=done)
        for label, group in groups.items():
            periods[label] = combine(job, group, store).astype(np.float32)
            store.forget(group)
        result = Sampled(wanted, np.stack([periods[label] for label in wanted]), sem)
        if phonons.target_sem_pm is None or phonons.pairs == 0:
            return result
        sem = _largest_sem(job, result)
        result = replace(result, largest_sem=sem)
        if sem <= phonons.target_sem_pm or pairs >= phonons.max_pairs:
            return result
        # Errors fall with the root of the number of pairs; never more than threefold on so rough a guess.
        needed = ceil(pairs * min(3.0, (sem / phonons.target_sem_pm) ** 2))
        pairs = min(phonons.max_pairs, max(pairs + 1, needed))


def _largest_sem(job: Job, sampled: Sampled) -> float:
    """Largest standard error of an A or B position on the first detector, pm."""
    images = assemble([job], [sampled], keep_configs=True, pixel=max(job.numerics.pixel, 0.2), mean=False)
    if "detector" in images.dims:
        images = images.isel(detector=0, drop=True)
    response = analysis.tilt_response(pair_images(images), {job.specimen.name: job.specimen.truth})
    return float(analysis.largest_sem(response).max())


def simulate(
    specimens: Specimen | Sequence[Specimen],
    microscope: Microscope | None = None,
    tilts: TiltSeries | None = None,
    *,
    thicknesses: Sequence[float] = (50.0, 100.0),
    detector: Detector | Sequence[Detector] | None = None,
    phonons: FrozenPhonons | None = None,
    numerics: Numerics | None = None,
    engine: str = "smatrix",
    device: str = "auto",
    seed: int | None = None,
    keep_configs: bool = False,
    field: float | None = None,
    checkpoints: Path | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """ADF-STEM images of specimens over tilts and thicknesses.

    Parameters
    ----------
    specimens : Specimen or sequence of Specimen
        Each becomes one entry of ``phase``; names must differ.
    microscope, tilts, phonons, numerics
        See :mod:`tiltsim.settings`. Defaults: 200 kV and 30 mrad; 7 × 7 tilts to ±10 mrad (multislice: 5 along
        each axis to ±8 mrad); pairs until every position is known to 0.3 pm (multislice: one pair).
    thicknesses : sequence of float
        Å, ascending; rounded to whole layers. The actual ones are in ``thickness_actual``.
    detector : Detector or sequence of Detector
        Default: 65–200 mrad. Several, or one in segments, give the images a leading ``detector``.
    engine : {"smatrix", "multislice"}
        All tilts from one scattering matrix, or abTEM's multislice, the reference.
    device : {"auto", "cpu", "cuda"}
        Auto takes CUDA where there is one.
    seed : int, optional
        Overrides ``phonons.seed``.
    keep_configs : bool
        Also return every phonon configuration, as images of one period (see :func:`pair_images`).
    field : float, optional
        Side of the square images, Å; default one period and 16 Å more.
    checkpoints : Path, optional
        Folder for finished units: the same call with the same folder goes on where it was interrupted.
    scheduler : str, optional
        Address of a ``distributed`` scheduler whose workers compute; default threads of this machine.
    progress : callable, optional
        Called as ``progress(done, expected)`` after every unit of work.

    Returns
    -------
    xarray.Dataset
        ``intensity`` ([detector,] phase, tilt_x, tilt_y, thickness, y, x), float32, fraction of the incident beam,
        NaN at tilts that were not asked for; ``pairs`` (phase), and with a target ``largest_sem`` (phase), pm; with
        ``keep_configs`` also ``intensity_period`` with a leading ``config``, whose coordinates ``pair`` and
        ``sign`` tell u from −u. Coordinates are those of the specimen's entrance surface, Å, y down.

    Raises
    ------
    SettingsError
        Naming the setting and the fix.
    """
    jobs = prepare(
        specimens, microscope, tilts, thicknesses=thicknesses, detector=detector, phonons=phonons,
        numerics=numerics, engine=engine, device=device, seed=seed,
    )  # fmt: skip
    return run_jobs(
        jobs,
        keep_configs=keep_configs,
        field=field,
        checkpoints=checkpoints,
        scheduler=scheduler,
        progress=progress,
    )


def run_jobs(
    jobs: Sequence[Job],
    *,
    keep_configs: bool = False,
    field: float | None = None,
    checkpoints: Path | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Compute jobs from :func:`prepare` one after another; arguments and result as :func:`simulate`'s."""
    before, sampled = 0, list[Sampled]()
    for number, job in enumerate(jobs):
        latest = 0

        def counted(done: int, expected: int, base: int = before, rest: int = len(jobs) - number) -> None:
            nonlocal latest
            latest = done
            if progress is not None:
                # Specimens still to come are expected to take as much as this one.
                progress(base + done, base + expected * rest)

        sampled.append(sample(job, Checkpoints(job, checkpoints), scheduler=scheduler, progress=counted))
        before += latest
    return assemble(jobs, sampled, keep_configs=keep_configs, field=field)
