"""Frozen-phonon configurations in antithetic pairs: Einstein, from molecular dynamics, or harmonic.

Every configuration is a pure function of its labels, so that they can be computed in any order and in
different processes. Files are read, checked and decomposed once for each process and specimen.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.geometry import find_mic
from ase.md.velocitydistribution import phonon_harmonics
from numpy.typing import NDArray

from structures import Specimen
from tiltsim.errors import SettingsError
from tiltsim.settings import FrozenPhonons

#: Streams of random numbers that must not repeat each other.
_DISPLACE, _REDRAW, _FRAMES = range(3)

#: A mean position this far from the specimen's, Å, belongs to another structure or order of atoms.
_FARTHEST_MEAN = 1.0

#: Oscillations of this rms along one axis, Å, are beyond the melting of any crystal.
_WIDEST_RMS = 0.5


def labels(phonons: FrozenPhonons, pairs: int) -> list[tuple[int, int]]:
    """Labels (pair, sign) of the configurations of ``pairs`` pairs.

    Parameters
    ----------
    phonons : FrozenPhonons
        With ``phonons.pairs`` 0 the lattice is still, whatever ``pairs``.
    pairs : int
        Number of pairs.

    Returns
    -------
    list of (int, int)
        u (sign +1) and −u (−1) of each pair; ``[(0, 0)]`` for the still lattice.
    """
    if phonons.pairs == 0:
        return [(0, 0)]
    return [(pair, sign) for pair in range(pairs) for sign in (1, -1)]


def configuration(specimen: Specimen, phonons: FrozenPhonons, pair: int, sign: int, part: int = 0) -> Atoms:
    """Displaced copy of the specimen's atoms: mean positions + ``sign`` × u(seed, pair, part).

    Parameters
    ----------
    specimen : Specimen
        Mean positions, Å, and rms displacements.
    phonons : FrozenPhonons
        Where displacements come from, and the seed.
    pair : int
        Number of the (u, −u) pair.
    sign : int
        +1 for u, −1 for −u, 0 for the still lattice.
    part : int
        Number of the residual wave vector that sees it; each has displacements and, with
        ``phonons.redraw``, A elements of its own. 0 where all see the same.

    Returns
    -------
    ase.Atoms

    Raises
    ------
    SettingsError
        If the trajectory or the force constants cannot be read or do not fit the specimen.
    """
    atoms = specimen.atoms.copy()
    if sign == 0:
        return atoms
    if phonons.redraw:
        sites = np.flatnonzero(specimen.sites == "A")
        atoms.numbers[sites] = _generator(phonons.seed, pair, _REDRAW, part).permutation(atoms.numbers[sites])
    if phonons.trajectory is not None:
        u = _frame(specimen, phonons, phonons.trajectory, pair, part)
    else:
        generator = _generator(phonons.seed, pair, _DISPLACE, part)
        if phonons.force_constants is not None:
            u = _harmonic(specimen, phonons.force_constants, phonons.temperature, generator)
        else:
            sigma = np.array([specimen.sigmas[symbol] for symbol in atoms.get_chemical_symbols()])
            u = generator.normal(size=(len(atoms), 3)) * sigma[:, None]
    atoms.positions += sign * u
    return atoms


def _generator(seed: int, number: int, stream: int, part: int) -> np.random.Generator:
    """Random numbers of ``stream`` for pair ``number``; displacements of part 0 are those of (seed, number) alone."""
    # A spawn key is hashed after the padded entropy, so no (seed, number, key) meets another of the same seed.
    key = (stream, part) if (stream, part) != (_DISPLACE, 0) else ()
    return np.random.default_rng(np.random.SeedSequence((seed, number), spawn_key=key))


def _frame(
    specimen: Specimen, phonons: FrozenPhonons, path: str, pair: int, part: int
) -> NDArray[np.float64]:
    atoms = specimen.atoms
    excursions = _excursions(
        path,
        _modified("phonons.trajectory", path),
        atoms.numbers.tobytes(),
        atoms.positions.tobytes(),
        atoms.cell.array.tobytes(),
    )
    asked = phonons.max_pairs if phonons.target_sem_pm is not None else phonons.pairs
    if asked > len(excursions):
        raise SettingsError(
            f"phonons.trajectory {path} holds {len(excursions)} frames for {asked} pairs, which would not be independent; "
            "give a longer one or lower phonons.pairs or phonons.max_pairs."
        )
    order = _generator(phonons.seed, 0, _FRAMES, part).permutation(len(excursions))
    return excursions[order[pair]]


def _harmonic(
    specimen: Specimen, path: str, temperature: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    modes = _modes(
        path,
        _modified("phonons.force_constants", path),
        specimen.atoms.get_masses().tobytes(),
        temperature,
    )
    return (modes @ generator.normal(size=modes.shape[1])).reshape(-1, 3)


def _modified(name: str, path: str) -> int:
    """Time of the last change, ns: a file that changed is read again."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError as error:
        raise SettingsError(f"{name} {path}: {error.strerror}; give the path of a file to read.") from error


# The caches are keyed by values, not by the specimen: in a worker process each unit unpickles its own.


@lru_cache(maxsize=4)
def _excursions(path: str, modified: int, numbers: bytes, positions: bytes, cell: bytes) -> NDArray[Any]:
    """Displacements of every frame of a trajectory from the mean of all, (frame, atom, 3), Å."""
    name = f"phonons.trajectory {path}"
    try:
        frames = list(ase.io.iread(path, index=":"))
    except Exception as error:  # each of ASE's readers fails in its own way
        raise SettingsError(
            f"{name}: ASE cannot read it ({type(error).__name__}: {error}); convert it to .traj or extended .xyz."
        ) from error
    if len(frames) < 2:
        raise SettingsError(
            f"{name} has {len(frames)} frame, and a mean needs two; give the whole trajectory."
        )
    elements = np.frombuffer(numbers, dtype=int)
    means = np.frombuffer(positions).reshape(-1, 3)
    offsets = np.empty((len(frames), *means.shape))
    for i, frame in enumerate(frames):
        if len(frame) != len(means):
            raise SettingsError(
                f"{name}: frame {i} has {len(frame)} atoms and the specimen {len(means)}; run the dynamics of "
                "this very specimen."
            )
        if not np.array_equal(frame.numbers, elements):
            raise SettingsError(
                f"{name}: the elements of frame {i} are not the specimen's; keep its atoms and their order."
            )
        if not np.isfinite(frame.positions).all():
            raise SettingsError(f"{name}: frame {i} has positions that are not finite; leave it out.")
        # Atoms wander across the box, whose size is the frame's own at constant pressure.
        box = frame.cell if frame.cell.rank == 3 else np.frombuffer(cell).reshape(3, 3)
        offsets[i] = find_mic(frame.positions - means, box, pbc=True)[0]
    mean = offsets.mean(axis=0)
    away = np.linalg.norm(mean, axis=1)
    if away.max() > _FARTHEST_MEAN:
        raise SettingsError(
            f"{name}: the mean of atom {away.argmax()} is {away.max():.2f} Å from the specimen's; keep the order "
            "of atoms and the origin, and take out drift."
        )
    return offsets - mean


@lru_cache(maxsize=4)
def _modes(path: str, modified: int, masses: bytes, temperature: float) -> NDArray[np.float64]:
    """Displacement of every mode at its rms amplitude, (3 × atom, mode), Å."""
    name = f"phonons.force_constants {path}"
    mass = np.frombuffer(masses)
    constants = _force_constants(name, path, len(mass))
    try:
        # ASE's sampler solves for the modes and checks them. Its draw is not used, as it would solve again
        # for each: _harmonic draws from the same distribution.
        with np.errstate(divide="ignore", invalid="ignore"):
            *_, squares, vectors = phonon_harmonics(
                constants, mass, temperature_K=300.0, return_eigensolution=True
            )
    except ValueError as error:
        raise SettingsError(
            f"{name}: ASE finds the crystal unstable or not free to translate ({error}); relax the structure and "
            "impose the acoustic sum rule."
        ) from error
    with np.errstate(divide="ignore", invalid="ignore"):
        frequency = np.sqrt(squares[3:])  # the first three translate the crystal
        hbar = units._hbar * units.J * units.s
        energy = hbar * frequency
        # Bose-Einstein: ⟨n⟩ + 1/2 = coth(E / 2kT) / 2, which is the zero-point motion at 0 K
        amplitude = np.sqrt(hbar / (2 * frequency * np.tanh(energy / (2 * units.kB * temperature))))
        modes = vectors[:, 3:] * amplitude * (mass**-0.5).repeat(3)[:, None]
    rms = np.sqrt(np.max(np.sum(modes**2, axis=1)))
    if not rms < _WIDEST_RMS:
        raise SettingsError(
            f"{name}: atoms would vibrate by {rms:.2g} Å rms along an axis at {temperature:g} K; check the unit "
            "(eV/Å²), soft modes, and that the atoms hang together."
        )
    return modes


def _force_constants(name: str, path: str, atoms: int) -> NDArray[np.float64]:
    """Symmetric (3N, 3N) matrix in a file, eV/Å²."""
    try:
        constants = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SettingsError(
            f"{name}: NumPy cannot read it ({error}); save one array with numpy.save."
        ) from error
    if not isinstance(constants, np.ndarray) or constants.dtype.kind not in "fiu":
        raise SettingsError(f"{name} does not hold one array of real numbers; save one with numpy.save.")
    size = 3 * atoms
    if constants.shape not in ((size, size), (atoms, 3, atoms, 3)):
        raise SettingsError(
            f"{name} has shape {constants.shape}; the specimen's {atoms} atoms need {(size, size)} or "
            f"{(atoms, 3, atoms, 3)} (phonopy's (N, N, 3, 3) transposed by (0, 2, 1, 3))."
        )
    constants = constants.reshape(size, size).astype(np.float64)
    if not np.isfinite(constants).all():
        raise SettingsError(f"{name} holds values that are not finite; compute the missing force constants.")
    asymmetry = np.abs(constants - constants.T).max()
    if asymmetry > 1e-3 * np.abs(constants).max():
        raise SettingsError(
            f"{name} is not symmetric (by up to {asymmetry:.2g} eV/Å²); symmetrize it, and check the order of axes."
        )
    return (constants + constants.T) / 2
