"""What the numerical settings cost in pm: columns fitted with every value of every sweep, against the finest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import analysis
from structures import Specimen
from tiltsim.checkpoints import Checkpoints
from tiltsim.converge_sweeps import SWEEPS, Run, Setup, plan_sweeps
from tiltsim.dataset import assemble, pair_images
from tiltsim.jobs import Job
from tiltsim.settings import Detector, FrozenPhonons, Microscope, Numerics, TiltSeries
from tiltsim.simulate import Progress, sample

Floats = NDArray[np.float64]

#: What is compared: fitted positions of both sites and of one relative to the other.
QUANTITIES = ("A", "B", "B-A")

#: Fine enough for any question asked of a column, pm.
GOAL_PM = 0.1


def converge(
    specimen: Specimen,
    microscope: Microscope | None = None,
    tilts: TiltSeries | None = None,
    *,
    thicknesses: Sequence[float] = (25.0, 50.0),
    detector: Detector | None = None,
    phonons: FrozenPhonons | None = None,
    numerics: Numerics | None = None,
    sweeps: Sequence[str] | Mapping[str, Sequence[float]] | None = None,
    shared_pairs: int = 1,
    device: str = "auto",
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """How far fitted columns still move when one numerical setting is made finer.

    Parameters
    ----------
    specimen : Specimen
        One specimen.
    microscope, tilts, thicknesses, detector, phonons, numerics, device
        The default that is varied, as for :func:`tiltsim.simulate`. By default tilts of 0 and 8 mrad along x
        and four phonon pairs. ``phonons.pairs`` are those of the sweeps that change displacements; a target
        is ignored.
    sweeps : sequence of str, or mapping of str to values, optional
        Names from :data:`tiltsim.converge_sweeps.SWEEPS`, with their own values or given ones; the default is
        always among them. Default: all.
    shared_pairs : int
        Phonon pairs of the sweeps whose values all see the same displacements.
    checkpoints : Path, optional
        Folder for finished work, as for :func:`tiltsim.simulate`.
    progress : callable, optional
        Called as ``progress(done, expected)`` after every unit of work.

    Returns
    -------
    xarray.Dataset
        One entry of ``run`` for each value of each sweep, coarse to fine: ``position`` and ``change`` (run,
        quantity, tilt_x, tilt_y, thickness, component), pm, the latter against the finest value of the sweep;
        their root mean square ``rms``, the ``largest``, and ``expected``, the root mean square of the standard
        error that phonons give the change (NaN where all values see the same displacements), each (run,
        quantity), pm; and every run's actual settings.

    Raises
    ------
    SettingsError
        Naming the sweep or the setting, and the fix.

    Notes
    -----
    The finest value has no change by construction, so that its own error is unknown: trust a sweep only where
    the change has already levelled off before it.
    """
    setup = Setup(
        specimen,
        microscope or Microscope(),
        tilts or TiltSeries((0.0, 8.0)),
        tuple(float(t) for t in thicknesses),
        detector or Detector(),
        phonons or FrozenPhonons(4),
        numerics or Numerics(),
        device,
        shared_pairs,
    )
    return measure_sweeps(plan_sweeps(setup, sweeps), checkpoints=checkpoints, progress=progress)


def measure_sweeps(
    runs: Sequence[Run], *, checkpoints: Path | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """Simulate and measure runs from :func:`~tiltsim.converge_sweeps.plan_sweeps`; arguments and result as :func:`converge`'s."""
    # Runs that differ in nothing but the number of pairs find each other's results in the same store.
    stores: dict[str, Checkpoints] = {}
    expected, before, responses = sum(run.units for run in runs), 0, list[xr.Dataset]()
    for run in runs:
        store = stores.setdefault(run.job.key, Checkpoints(run.job, checkpoints))

        def counted(done: int, _: int, base: int = before) -> None:
            if progress is not None:
                progress(base + done, expected)

        sampled = sample(run.job, store, progress=counted)
        images = pair_images(assemble([run.job], [sampled], keep_configs=True, mean=False))
        specimen = run.job.specimen
        response = analysis.tilt_response(images, {specimen.name: specimen.truth})
        responses.append(response.isel(phase=0, drop=True))
        before += run.units
    return _dataset(runs, responses)


def _by_quantity(response: xr.Dataset) -> tuple[Floats, Floats]:
    """Positions of A, B and B − A and their standard errors, shape (quantity, tilt_x, tilt_y, thickness, component), pm."""
    order = ("site", "tilt_x", "tilt_y", "thickness", "component")
    a, b = response["shift"].transpose(*order).values
    error_a, error_b = response["shift_sem"].transpose(*order).values
    return np.stack([a, b, b - a]), np.stack([error_a, error_b, np.hypot(error_a, error_b)])


def _rms(values: Floats) -> Floats:
    """Root mean square over all but the first two axes, NaN only where nothing is known."""
    flat = values.reshape(*values.shape[:2], -1)
    known = np.isfinite(flat)
    count = known.sum(-1)
    total = np.where(known, flat**2, 0.0).sum(-1)
    return np.sqrt(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def _against_finest(runs: Sequence[Run], positions: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Change of every run against the finest of its sweep, and the standard error phonons give it, pm."""
    finest = {run.sweep: index for index, run in enumerate(runs)}
    change, expected = np.empty_like(positions), np.full_like(positions, np.nan)
    for index, run in enumerate(runs):
        last = finest[run.sweep]
        change[index] = positions[index] - positions[last]
        noise = SWEEPS[run.sweep].noise
        if noise is not None and index != last:
            pairs, most = run.job.phonons.pairs, runs[last].job.phonons.pairs
            expected[index] = noise(errors[index], errors[last], pairs, most)
    return change, expected


def _dataset(runs: Sequence[Run], responses: Sequence[xr.Dataset]) -> xr.Dataset:
    by_run = [_by_quantity(response) for response in responses]
    positions, errors = (np.stack([one[part] for one in by_run]) for part in (0, 1))
    change, expected = _against_finest(runs, positions, errors)
    flat = change.reshape(*change.shape[:2], -1)
    full, short = ("run", "quantity", "tilt_x", "tilt_y", "thickness", "component"), ("run", "quantity")
    pm, one, angstrom, mrad = ({"units": unit} for unit in ("pm", "1", "Å", "mrad"))
    against = "against the finest value of the sweep"
    plans = [run.job.plan for run in runs]
    limits = [run.job.grid.limit * 1e3 for run in runs]
    data: dict[str, Any] = {
        "position": (full, positions, pm | {"long_name": "fitted minus true mean position"}),
        "change": (full, change, pm | {"long_name": f"change of position {against}"}),
        "rms": (short, _rms(change), pm | {"long_name": f"root mean square change {against}"}),
        "largest": (short, np.nanmax(np.abs(flat), axis=-1), pm | {"long_name": f"largest change {against}"}),
        "expected": (short, _rms(expected), pm | {"long_name": "standard error of the change from phonons, rms"}),
        "band_limit": ("run", np.array(limits), mrad | {"long_name": "actual, of the grid"}),
        "slice_thickness": ("run", np.array([run.job.specimen.slice_thickness for run in runs]), angstrom),
        "repeats": (("run", "component"), np.array([plan.repeats for plan in plans]), one),
        "period": (("run", "component"), np.array([run.job.specimen.box for run in runs]), angstrom),
        "pairs": ("run", np.array([run.job.phonons.pairs for run in runs]), one),
    }  # fmt: skip
    coords: dict[str, Any] = {
        "sweep": ("run", np.array([run.sweep for run in runs], dtype=object), one),
        "setting": ("run", np.array([run.setting for run in runs]), one | {"long_name": "value of the setting"}),
        "default": ("run", np.array([run.default for run in runs]).astype(np.int8), one),
        "quantity": ("quantity", np.array(QUANTITIES, dtype=object), one),
        "component": ("component", np.array(["x", "y"], dtype=object), one),
        "tilt_x": ("tilt_x", responses[0].tilt_x.values, mrad),
        "tilt_y": ("tilt_y", responses[0].tilt_y.values, mrad),
        "thickness": ("thickness", responses[0].thickness.values, angstrom),
    }  # fmt: skip
    return xr.Dataset(data, coords, attrs=_attributes(next(run.job for run in runs if run.default)))


def _attributes(job: Job) -> dict[str, Any]:
    """How it was computed, from the default of the first sweep."""
    specification = {
        "specimen": dict(job.specimen.specification),
        "microscope": asdict(job.microscope),
        "detector": asdict(job.detectors[0]),
        "tilts": asdict(job.tilts),
        "phonons": asdict(job.phonons),
    }
    return {
        "title": f"numerical convergence of fitted columns, {job.specimen.name}",
        "specification": json.dumps(specification, ensure_ascii=False),
        "seed": job.phonons.seed,
        "tiltsim_version": version("tiltsim"),
        "abtem_version": version("abtem"),
    }
