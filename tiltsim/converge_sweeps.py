"""What is varied to test the numerical settings: one at a time around a default.

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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm

import numpy as np
from numpy.typing import NDArray

from structures import Specimen
from tiltsim.errors import SettingsError
from tiltsim.jobs import Job
from tiltsim.planning import band_limit, repeats
from tiltsim.scheduling import count_units
from tiltsim.settings import Detector, FrozenPhonons, Microscope, Numerics, TiltSeries
from tiltsim.simulate import prepare

Floats = NDArray[np.float64]


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
        return count_units(self.job)


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
    """Checked simulations of all values of ``sweeps``, coarse to fine within each; see :func:`tiltsim.converge.converge`.

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
