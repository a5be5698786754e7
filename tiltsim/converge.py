"""What the numerical settings cost in pm: one setting varied at a time around a default.

Five sweeps (:data:`SWEEPS`), each compared with its own finest value:

``band_limit``
    Largest scattering angle kept, in units of detector outer + largest tilt.
``slices``
    Slices per atomic plane.
``wave_vectors``
    Residual wave vectors along each axis: how wide the box is before the probe meets its copy.
``supercell``
    The same box from a larger supercell repeated less often: more disorder in a column's surroundings.
``configurations``
    Mean over the first n phonon pairs.

The first three show all their values the same atomic displacements, so that what changes is the numerics
alone. The last two change the displacements, and tell how much of the change chance explains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import analysis
from structures import Specimen
from tiltsim.checkpoints import Checkpoints
from tiltsim.dataset import assemble, pair_images
from tiltsim.errors import SettingsError
from tiltsim.jobs import Job
from tiltsim.phonons import labels
from tiltsim.planning import band_limit, repeats
from tiltsim.scheduling import engine_units
from tiltsim.settings import Detector, FrozenPhonons, Microscope, Numerics, TiltSeries
from tiltsim.simulate import Progress, prepare, sample

Floats = NDArray[np.float64]

#: What is compared: fitted positions of both sites and of one relative to the other.
QUANTITIES = ("A", "B", "B-A")

#: Fine enough for any question asked of a column, pm.
GOAL_PM = 0.1


@dataclass(frozen=True, eq=False)
class Setup:
    """What is simulated, and with which settings; arguments as :func:`tiltsim.simulate`'s.

    Parameters
    ----------
    shared_pairs : int
        Phonon pairs of the sweeps whose values all see the same displacements: one is enough, since what
        it leaves to chance is the same for every value.
    """

    specimen: Specimen
    microscope: Microscope
    tilts: TiltSeries
    thicknesses: tuple[float, ...]
    detector: Detector
    phonons: FrozenPhonons
    numerics: Numerics
    device: str = "auto"
    shared_pairs: int = 1

    @property
    def reach(self) -> float:
        """Largest angle that must be kept: detector outer + largest tilt, mrad."""
        return self.detector.outer + self.tilts.largest

    def job(self) -> Job:
        """The simulation, checked."""
        return prepare(
            self.specimen, self.microscope, self.tilts, thicknesses=self.thicknesses, detector=self.detector,
            phonons=self.phonons, numerics=self.numerics, device=self.device,
        )[0]  # fmt: skip

    def same_displacements(self) -> Setup:
        """As this, with the pairs of sweeps that only compare numerics."""
        pairs = min(self.phonons.pairs, self.shared_pairs)
        return replace(self, phonons=replace(self.phonons, pairs=pairs))


@dataclass(frozen=True)
class Sweep:
    """One setting, and how to vary it.

    Parameters
    ----------
    label : str
        What the values are, with their unit, as an axis says it.
    vary : callable
        The setup with the setting at a value.
    default : callable
        Value that a setup has by itself.
    values : callable
        Values to try unless others are asked for.
    noise : callable, optional
        Standard error that phonons give the change, from those of a value and of the finest and from their
        numbers of pairs; None where all values see the same displacements.
    logarithmic : bool
        Whether values are ratios, spaced evenly in the logarithm.
    common : callable, optional
        The setup as all of the values, which are given, need it.
    """

    label: str
    vary: Callable[[Setup, float], Setup]
    default: Callable[[Setup], float]
    values: Callable[[Setup], Sequence[float]]
    noise: Callable[[Floats, Floats, int, int], Floats] | None = None
    logarithmic: bool = False
    common: Callable[[Setup, Sequence[float]], Setup] | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """One value of one sweep."""

    sweep: str
    setting: float
    default: bool
    job: Job

    @property
    def units(self) -> int:
        """Pieces of work, as progress counts them."""
        each = len(engine_units(self.job, 0, 1))
        return each * len(labels(self.job.phonons, max(1, self.job.phonons.pairs)))


def _whole(sweep: str, value: float, least: int = 1) -> int:
    if not np.isfinite(value) or value != int(value) or value < least:
        raise SettingsError(f"sweep {sweep}: {value:g} must be a whole number of at least {least}.")
    return int(value)


def _band_limit(setup: Setup, factor: float) -> Setup:
    if not np.isfinite(factor) or factor < 1:
        raise SettingsError(
            f"sweep band_limit: {factor:g} must be at least 1, or the detector is not reached."
        )
    chosen = setup.same_displacements()
    return replace(chosen, numerics=replace(setup.numerics, band_limit=factor * setup.reach))


def _slices(setup: Setup, per_plane: float) -> Setup:
    # An infinite projection puts an atom whole into the slice that it lies in, where it acts at the entrance.
    # Planes lie at the centres of the specimen's slices. Cutting each slice into an odd number keeps every
    # plane in the middle of one; an even number would put planes on borders, where displacements of
    # picometres decide between two slices. Joining k slices has their borders between planes in any case.
    # No atom is moved: each acts at its own depth to within one slice, which is what is to be tested. In a
    # thin specimen a plane that acts z deeper moves its column by −tan(tilt)·z; A and B move alike unless
    # their planes are joined.
    number = setup.specimen.slices * per_plane
    odd = per_plane >= 1 and per_plane % 2 == 1
    joined = 0 < per_plane < 1 and abs(1 / per_plane - round(1 / per_plane)) < 1e-9
    if not (odd or joined) or abs(number - round(number)) > 1e-9:
        raise SettingsError(
            f"sweep slices: {per_plane:g} per atomic plane must be odd (planes would lie on borders), or a "
            f"fraction such as 0.5 that leaves a whole number of the {setup.specimen.slices} slices in a layer."
        )
    chosen = setup.same_displacements()
    # Layers stay, and with them the thicknesses, which are whole layers.
    return replace(chosen, specimen=replace(setup.specimen, slices=round(number)))


def _wave_vectors(setup: Setup, number: float) -> Setup:
    chosen = setup.same_displacements()
    return replace(
        chosen,
        # Otherwise each wave vector sees displacements of its own, and another number of them another mean.
        phonons=replace(chosen.phonons, spread=False),
        numerics=replace(setup.numerics, wave_vectors=_whole("wave_vectors", number)),
    )


def _common_box(setup: Setup, values: Sequence[float]) -> Setup:
    """The setup in a box that every one of ``values`` supercells fills, at least as wide as its own."""
    multiple = lcm(*(_whole("supercell", value) for value in values))
    box = multiple * -(-_repeats(setup) // multiple)
    return replace(setup, numerics=replace(setup.numerics, wave_vectors=box))


def _supercell(setup: Setup, times: float) -> Setup:
    count, whole = int(times), setup.specimen
    # The still crystal is the same, dopants included: what grows is the period of the displacements.
    larger = replace(whole, atoms=whole.atoms.repeat((count, count, 1)), sites=np.tile(whole.sites, count**2))
    return replace(
        setup,
        specimen=larger,
        # Draws of its own: with the same seed, the first cells would move alike in both.
        phonons=replace(setup.phonons, seed=setup.phonons.seed + count - 1),
        numerics=replace(setup.numerics, wave_vectors=_repeats(setup) // count),
    )


def _configurations(setup: Setup, number: float) -> Setup:
    pairs = _whole("configurations", number)
    if pairs > setup.phonons.pairs:
        raise SettingsError(f"sweep configurations: {pairs} exceeds phonons.pairs {setup.phonons.pairs}.")
    return replace(setup, phonons=replace(setup.phonons, pairs=pairs))


def _repeats(setup: Setup) -> int:
    """Residual wave vectors that the setup asks for by itself, the larger number of both axes."""
    thickest = max(setup.thicknesses)
    return max(repeats(setup.specimen.box, thickest, setup.microscope, setup.tilts, setup.numerics))


def _independent(one: Floats, finest: Floats, pairs: int, most: int) -> Floats:
    """Standard error of the difference of two independent means."""
    return np.hypot(one, finest)


def _nested(one: Floats, finest: Floats, pairs: int, most: int) -> Floats:
    """Standard error of the mean of the first ``pairs`` of ``most`` minus the mean of all."""
    return finest * np.sqrt(most / pairs - 1.0)


SWEEPS: dict[str, Sweep] = {
    "band_limit": Sweep(
        "band limit / (outer + tilt)",
        _band_limit,
        default=lambda s: round(band_limit([s.detector], s.microscope, s.tilts, s.numerics) / s.reach, 6),
        values=lambda s: (1.0, 1.25, 1.5, 1.75, 2.0, 2.5),
    ),
    "slices": Sweep(
        "slices per atomic plane",
        _slices,
        default=lambda s: 1.0,
        values=lambda s: (0.5, 1.0, 3.0, 5.0) if s.specimen.slices % 2 == 0 else (1.0, 3.0, 5.0),
        logarithmic=True,
    ),
    "wave_vectors": Sweep(
        "residual wave vectors N along each axis",
        _wave_vectors,
        default=lambda s: float(_repeats(s)),
        values=lambda s: range(1, _repeats(s) + 3),
    ),
    "supercell": Sweep(
        "supercell edge in the same box / default",
        _supercell,
        default=lambda s: 1.0,
        values=lambda s: (1.0, 2.0),
        noise=_independent,
        logarithmic=True,
        common=_common_box,
    ),
    "configurations": Sweep(
        "phonon pairs",
        _configurations,
        default=lambda s: float(s.phonons.pairs),
        values=lambda s: range(1, s.phonons.pairs + 1),
        noise=_nested,
    ),
}


def plan_sweeps(
    setup: Setup, sweeps: Sequence[str] | Mapping[str, Sequence[float]] | None = None
) -> list[Run]:
    """Checked simulations of all values of ``sweeps``, coarse to fine within each; see :func:`converge`.

    Raises
    ------
    SettingsError
        Naming the sweep or the setting, and the fix.
    """
    if setup.detector.segments > 1:
        raise SettingsError(f"detector.segments {setup.detector.segments} must be 1 to compare positions.")
    asked = sweeps if isinstance(sweeps, Mapping) else dict.fromkeys(sweeps or SWEEPS)
    settled = replace(setup, phonons=replace(setup.phonons, target_sem_pm=None))
    return [run for name, values in asked.items() for run in _planned(settled, name, values)]


def _planned(setup: Setup, name: str, values: Sequence[float] | None) -> list[Run]:
    if name not in SWEEPS:
        raise SettingsError(f"sweep {name!r} is unknown; choose one of {', '.join(SWEEPS)}.")
    sweep = SWEEPS[name]
    if sweep.noise is not None and setup.phonons.pairs < 2:
        raise SettingsError(
            f"phonons.pairs {setup.phonons.pairs} tells sweep {name} nothing of chance; give at least 2."
        )
    default = sweep.default(setup)
    chosen = sorted({default, *map(float, sweep.values(setup) if values is None else values)})
    if len(chosen) < 2:
        raise SettingsError(f"sweep {name}: nothing to compare with {default:g}; give another value.")
    shared = sweep.common(setup, chosen) if sweep.common else setup
    return [Run(name, value, value == default, sweep.vary(shared, value).job()) for value in chosen]


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
        Names from :data:`SWEEPS`, with their own values or given ones; the default is always among them.
        Default: all.
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
    """Simulate and measure runs from :func:`plan_sweeps`; arguments and result as :func:`converge`'s."""
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
