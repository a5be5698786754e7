"""Frozen-phonon configurations in antithetic pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from ase import Atoms

from tiltsim.settings import FrozenPhonons


def configurations(
    atoms: Atoms, sigmas: Mapping[str, float], phonons: FrozenPhonons
) -> Iterator[tuple[int, int, Atoms]]:
    """Displaced copies of ``atoms``.

    Parameters
    ----------
    atoms : Atoms
        Mean positions, Å.
    sigmas : mapping
        Rms displacement per axis of each element, Å.
    phonons : FrozenPhonons
        How many pairs, and the seed.

    Yields
    ------
    pair : int
    sign : int
        +1 for u, −1 for −u; 0 for the still lattice (``pairs = 0``).
    displaced : Atoms
    """
    if phonons.pairs == 0:
        yield 0, 0, atoms.copy()
        return
    sigma = np.array([sigmas[symbol] for symbol in atoms.get_chemical_symbols()])
    for pair in range(phonons.pairs):
        u = np.random.default_rng((phonons.seed, pair)).normal(size=(len(atoms), 3)) * sigma[:, None]
        for sign in (1, -1):
            displaced = atoms.copy()
            displaced.positions += sign * u
            yield pair, sign, displaced
