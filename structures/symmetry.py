"""Space groups, by spglib."""

from __future__ import annotations

import spglib
from ase import Atoms

from structures.errors import SpecimenError


def space_group(atoms: Atoms, tolerance: float = 1e-3) -> tuple[int, str]:
    """International number and symbol of a crystal.

    Parameters
    ----------
    atoms : ase.Atoms
        Periodic cell.
    tolerance : float
        Distance within which atoms count as equivalent, Å.
    """
    found = spglib.get_symmetry_dataset(
        (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=tolerance
    )
    if found is None:
        raise SpecimenError("spglib finds no space group for this cell; check that no two atoms coincide.")
    return int(found.number), str(found.international)
