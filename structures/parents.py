"""Perovskite unit cells, each written in one or 2×2×2 pseudocubic blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.cell import Cell
from numpy.typing import NDArray

from structures.errors import SpecimenError

#: Isotropic displacement parameters at room temperature, Å². Bi, Fe, O: 298 K neutron refinement of
#: BiFeO3, Acta Cryst. B (2007), doi 10.1107/S0108768107023956. Sm: assumed equal to Bi, whose site it
#: takes. Sr, Ti: attributed to Abramov et al., Acta Cryst. B 51, 942 (1995), not checked (unverified).
U_ISO: Mapping[str, float] = {
    "Bi": 0.0054,
    "Sm": 0.0054,
    "Fe": 0.0047,
    "O": 0.0081,
    "Sr": 0.0079,
    "Ti": 0.0056,
}

#: For elements without an entry in :data:`U_ISO`: an assumption (rms 0.08 Å per axis), to be overridden.
U_ISO_ASSUMED = 0.0064

#: Born effective charges in units of e, attributed to Neaton et al., Phys. Rev. B 71, 014113 (2005);
#: not checked against the paper (unverified). Sm is given the charge of the Bi it replaces.
BORN_CHARGES: Mapping[str, float] = {"Bi": 4.37, "Sm": 4.37, "Fe": 3.49, "O": -2.61}


@dataclass(frozen=True)
class ParentCell:
    """A perovskite crystal in a pseudocubic setting.

    Parameters
    ----------
    name : str
        Phase label, e.g. ``"R3c"``.
    atoms : ase.Atoms
        Periodic cell made of ``repeat`` pseudocubic blocks; lengths in Å.
    sites : ndarray of str, shape (atoms,)
        ``"A"``, ``"B"`` or ``"X"`` (anion) of every atom.
    repeat : tuple of int
        Pseudocubic blocks along the three cell vectors.
    u_iso : mapping
        Isotropic displacement parameter of each element, Å².
    born_charges : mapping
        Born effective charge of each element, e; empty where none is known.
    assumptions : tuple of str
        What is modelled rather than measured, one sentence each.
    """

    name: str
    atoms: Atoms
    sites: NDArray[np.str_]
    repeat: tuple[int, int, int]
    u_iso: Mapping[str, float] = field(default_factory=lambda: dict(U_ISO))
    born_charges: Mapping[str, float] = field(default_factory=lambda: dict(BORN_CHARGES))
    assumptions: tuple[str, ...] = ()

    @property
    def pseudocubic(self) -> NDArray[np.float64]:
        """Pseudocubic lattice vectors as rows, Å."""
        return np.asarray(self.atoms.cell.array) / np.asarray(self.repeat)[:, None]

    def variant(self, signs: tuple[int, int, int]) -> ParentCell:
        """Ferroelectric variant made by reversing pseudocubic axes.

        ``signs`` multiplies the components of every displacement (and so of the polar axis), and turns
        the shear of the lattice with it. All eight combinations are symmetry operations of the cubic
        parent, hence equivalent crystals.
        """
        s = np.asarray(signs)
        metric = self.atoms.cell.array @ self.atoms.cell.array.T
        lengths = np.sqrt(np.diag(metric))
        cosines = metric / np.outer(lengths, lengths) * np.outer(s, s)
        angles = np.degrees(np.arccos([cosines[1, 2], cosines[0, 2], cosines[0, 1]]))
        cell = Cell.fromcellpar([*lengths, *angles])
        fractional = self.atoms.get_scaled_positions(wrap=False) * s
        atoms = Atoms(self.atoms.symbols, scaled_positions=fractional, cell=cell, pbc=True)
        return ParentCell(
            self.name, atoms, self.sites, self.repeat, self.u_iso, self.born_charges, self.assumptions
        )


def parse_direction(text: str | tuple[int, int, int], name: str = "direction") -> tuple[int, int, int]:
    """Three integers from ``"[1-10]"``, ``"1 -1 0"`` or a sequence.

    Raises
    ------
    SpecimenError
        If the text does not hold three integers, not all zero.
    """
    if not isinstance(text, str):
        values = [int(v) for v in text]
    else:
        body = text.strip().strip("[]<>()").replace(",", " ")
        if " " in body.strip():
            parts = body.split()
        else:
            parts = []
            sign = ""
            for character in body:
                if character in "+-":
                    sign = character
                else:
                    parts.append(sign + character)
                    sign = ""
        try:
            values = [int(part) for part in parts]
        except ValueError:
            values = []
    if len(values) != 3 or not any(values):
        raise SpecimenError(f"{name} {text!r} is not a direction; write three integers such as '[1-10]'.")
    return values[0], values[1], values[2]


def ideal_perovskite(repeat: tuple[int, int, int]) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Ideal sites of ABX3 in units of the pseudocubic edge, and their labels A, B, X.

    Returns
    -------
    positions : ndarray, shape (5 · blocks, 3)
    sites : ndarray of str, shape (5 · blocks,)
    """
    basis = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    blocks = np.stack(np.meshgrid(*(np.arange(n) for n in repeat), indexing="ij"), axis=-1).reshape(-1, 3)
    positions = (blocks[:, None, :] + basis[None]).reshape(-1, 3)
    return positions, np.tile(np.array(["A", "B", "X", "X", "X"]), len(blocks))
