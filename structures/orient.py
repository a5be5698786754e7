"""A crystal cut as an orthogonal slab along a chosen beam and up direction."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from numpy.typing import NDArray

from structures.errors import SpecimenError
from structures.parents import ParentCell

#: Largest shear that may be taken out of the cell and carried as a lean instead, mrad.
MAX_SHEAR_MRAD = 60.0


@dataclass(frozen=True)
class Orientation:
    """Lattice directions of the image axes and what was done to make them orthogonal.

    Axes are right-handed: x to the right, y down the image (``-up``), z along the beam, away from the
    viewer.

    Parameters
    ----------
    x, y, z : tuple of int
        Pseudocubic directions.
    lengths : ndarray, shape (3,)
        Length of one period along x, y, z, Å.
    lean_mrad : tuple of float
        Direction of the atom columns relative to the beam, (x, y): with the shear put back, an atom at
        depth z would sit at +lean·z. Columns are upright for a beam tilted by the same amount.
    shear_mrad : float
        In-plane shear taken out: how far the angle between x and y falls short of 90°.
    """

    x: tuple[int, int, int]
    y: tuple[int, int, int]
    z: tuple[int, int, int]
    lengths: NDArray[np.float64]
    lean_mrad: tuple[float, float]
    shear_mrad: float


def orient(parent: ParentCell, beam: tuple[int, int, int], up: tuple[int, int, int]) -> Orientation:
    """Image axes of ``parent`` for a ``beam`` (+z) and ``up`` (−y) direction.

    Raises
    ------
    SpecimenError
        If the two directions, or the lattice found for them, are not orthogonal to within 60 mrad.
    """
    lattice = parent.pseudocubic
    z = np.asarray(beam)
    y = -np.asarray(up)
    cross = np.cross(y @ lattice, z @ lattice)
    if np.linalg.norm(cross) < 1e-6:
        raise SpecimenError(f"beam {list(beam)} and up {list(up)} are parallel; choose up across the beam.")
    cross /= np.linalg.norm(cross)
    # The shortest lattice vector close enough to the third axis.
    candidates = np.array([v for v in product(range(-4, 5), repeat=3) if any(v)])
    vectors = candidates @ lattice
    norms = np.linalg.norm(vectors, axis=1)
    deviation = np.arccos(np.clip(vectors @ cross / norms, -1, 1)) * 1e3
    allowed = np.flatnonzero(deviation < MAX_SHEAR_MRAD)
    if len(allowed) == 0:
        raise SpecimenError(
            f"no lattice vector lies across beam {list(beam)} and up {list(up)}; choose another pair."
        )
    x = candidates[allowed[np.argmin(norms[allowed])]]
    frame = np.array([x, y, z]) @ lattice
    lengths = np.linalg.norm(frame, axis=1)
    cosines = frame @ frame.T / np.outer(lengths, lengths) * 1e3
    shears = cosines[0, 2], cosines[1, 2], cosines[0, 1]
    if max(abs(s) for s in shears) > MAX_SHEAR_MRAD:
        raise SpecimenError(
            f"beam {list(beam)} and up {list(up)} are {np.degrees(max(map(abs, shears)) / 1e3):.1f}° from "
            "orthogonal in this cell; choose directions that are orthogonal, since abTEM needs an orthogonal box."
        )
    return Orientation(
        (int(x[0]), int(x[1]), int(x[2])),
        (int(y[0]), int(y[1]), int(y[2])),
        beam,
        lengths,
        (float(shears[0]), float(shears[1])),
        float(shears[2]),
    )


def periods(parent: ParentCell, axis: tuple[int, int, int]) -> int:
    """How many times ``axis`` must be repeated to be a translation of the distorted crystal."""
    for n in (1, 2):
        if all(n * component % repeat == 0 for component, repeat in zip(axis, parent.repeat, strict=True)):
            return n
    raise SpecimenError(f"cell repeats {parent.repeat} are not supported; use 1 or 2 along each axis.")


def slices_per_layer(period: float) -> int:
    """Multislice slices in one ``period`` (Å) along the beam: even and at most 2 Å thick (perovskite planes
    are half of 3.9 Å apart along [100], a quarter of 5.5 Å along [110]).
    """
    return 2 * int(np.ceil(period / 4.0))


def cut(
    parent: ParentCell, orientation: Orientation, lateral: tuple[int, int], layers: int
) -> tuple[Atoms, NDArray[np.str_]]:
    """Orthogonal slab of ``lateral`` × ``layers`` periods, entrance surface at z = 0.

    Fractional coordinates are those of the crystal; the axes are made orthogonal, which takes out the
    shear that :class:`Orientation` records. The first atomic plane lies half a slice deep, so that each
    slice holds one plane at its centre.

    Parameters
    ----------
    lateral : (int, int)
        Pseudocubic periods along x and y.
    layers : int
        Translation periods of the crystal along the beam.

    Returns
    -------
    atoms : ase.Atoms
        Periodic in x and y; lengths in Å.
    sites : ndarray of str
    """
    for name, n, axis in zip("xy", lateral, (orientation.x, orientation.y), strict=True):
        need = periods(parent, axis)
        if n < 1 or n % need:
            raise SpecimenError(
                f"lateral {lateral}: {parent.name} repeats every {need} periods along {name} "
                f"{list(axis)}; use a multiple of {need}."
            )
    if layers < 1:
        raise SpecimenError("thickness is below one layer; ask for at least one period along the beam.")
    stack = layers * periods(parent, orientation.z)
    counts = np.array([*lateral, stack])
    axes = np.array([orientation.x, orientation.y, orientation.z]) * counts[:, None]
    matrix = axes / np.asarray(parent.repeat)
    source = parent.atoms.copy()
    source.set_array("row", np.arange(len(source)))
    block = make_supercell(source, np.rint(matrix).astype(int))
    block.set_cell(np.diag(orientation.lengths * counts), scale_atoms=True)
    period = float(orientation.lengths[2])
    z = (block.positions[:, 2] / period + 0.5 / slices_per_layer(period)) % stack
    positions = block.positions.copy()
    positions[:, 2] = z * period
    atoms = Atoms(block.symbols, positions=positions, cell=block.cell, pbc=(True, True, False))
    atoms.wrap()
    return atoms, parent.sites[block.get_array("row")]
