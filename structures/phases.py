"""The phases of (Bi,Sm)FeO3 and the SrTiO3 null, as pseudocubic parent cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.spacegroup import crystal
from numpy.typing import NDArray

from structures.errors import SpecimenError
from structures.parents import ParentCell, ideal_perovskite

#: BiFeO3 at 298 K, hexagonal setting of R3c: Acta Cryst. B (2007), doi 10.1107/S0108768107023956.
R3C_A, R3C_C = 5.57882, 13.86932
R3C_SITES = (("Bi", (0.0, 0.0, 0.0)), ("Fe", (0.0, 0.0, 0.22021)), ("O", (0.4469, 0.0181, 0.95183)))

#: SmFeO3, Pnma, a density-functional structure; experiment is close to 5.60/7.71/5.40 Å.
PNMA_CELL = (5.649, 7.716, 5.389)
PNMA_SITES = (
    ("Sm", (0.0634, 0.25, 0.0157)),
    ("Fe", (0.0, 0.0, 0.5)),
    ("O", (0.1990, 0.5520, 0.8025)),
    ("O", (0.0310, 0.75, 0.4002)),
)

#: Lattice parameter of SrTiO3 at room temperature, Å: the in-plane lattice of a coherent film.
SRTIO3_A = 3.905

#: Cube roots of the volumes per formula unit of the two end members, Å.
_A_BIFEO3 = (R3C_A**2 * R3C_C * np.sin(np.radians(120.0)) / 6.0) ** (1 / 3)
_A_SMFEO3 = float(np.prod(PNMA_CELL) / 4.0) ** (1 / 3)


def vegard(samarium: float) -> float:
    """Edge of the cube with the volume of one (Bi,Sm)FeO3 formula unit, Å, linear in the Sm fraction."""
    return float((1.0 - samarium) * _A_BIFEO3 + samarium * _A_SMFEO3)


def _in_pseudocubic(unit: Atoms, axes: NDArray[np.float64], origin: NDArray[np.float64]) -> Atoms:
    """``unit`` rewritten in the 2×2×2 box of the pseudocubic ``axes``, atoms in ideal-site order.

    Parameters
    ----------
    unit : Atoms
        Conventional cell.
    axes : ndarray, shape (3, 3)
        Pseudocubic vectors as rows, in fractional coordinates of ``unit``.
    origin : ndarray, shape (3,)
        Fractional position in ``unit`` of the ideal A site at the pseudocubic origin.
    """
    block = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    fractional = unit.get_scaled_positions()[:, None, :] + block[None] - origin
    inside = fractional.reshape(-1, 3) @ np.linalg.inv(axes)
    symbols = np.repeat(np.array(unit.get_chemical_symbols()), len(block))
    ideal, sites = ideal_perovskite((2, 2, 2))
    anion = symbols == "O"
    iron = symbols == "Fe"
    kinds = {"A": ~anion & ~iron, "B": iron, "X": anion}
    positions, chosen = np.empty((40, 3)), []
    for row, (target, site) in enumerate(zip(ideal, sites, strict=True)):
        candidates = np.flatnonzero(kinds[str(site)])
        nearest = candidates[np.argmin(np.linalg.norm(inside[candidates] - target, axis=1))]
        positions[row] = inside[nearest]
        chosen.append(str(symbols[nearest]))
    cell = 2.0 * axes @ unit.cell.array
    return Atoms(chosen, scaled_positions=positions / 2.0, cell=cell, pbc=True)


def rhombohedral(samarium: float = 0.0) -> ParentCell:
    """R3c BiFeO3 from the 298 K neutron refinement, polar along [111], lattice scaled by Vegard's law.

    The pseudocubic edge is 3.965 Å, the angle 89.43°, and Fe sits 41.3 pm from the centre of its eight
    Bi, so d points along +[111].
    """
    unit = crystal(
        [symbol for symbol, _ in R3C_SITES],
        [position for _, position in R3C_SITES],
        spacegroup=161,
        setting=1,
        cellpar=[R3C_A, R3C_A, R3C_C, 90, 90, 120],
    )
    # Pseudocubic edges in hexagonal fractions; their sum is half of c, the cube's body diagonal.
    axes = np.array([[-2, -1, 0.5], [1, -1, 0.5], [1, 2, 0.5]]) / 3.0
    atoms = _in_pseudocubic(unit, axes, np.zeros(3))
    atoms.set_cell(atoms.cell * (vegard(samarium) / _A_BIFEO3), scale_atoms=True)
    assumptions = (
        ("Sm enters R3c at fixed fractional coordinates; only the volume follows Vegard's law.",)
        if samarium
        else ()
    )
    return ParentCell("R3c", atoms, ideal_perovskite((2, 2, 2))[1], (2, 2, 2), assumptions=assumptions)


@dataclass(frozen=True)
class MonoclinicModel:
    """The Cc (M_A) film: R3c's distortion as modes of the cubic parent, turned towards the film normal.

    No refined coordinates of these films were found in print: every number here is a modelling
    assumption, meant to be overridden.

    Parameters
    ----------
    in_plane : float
        Pseudocubic in-plane lattice parameter, Å (coherent on SrTiO3).
    c_over_a : float
        Tetragonality of the undoped film; 1.01 to 1.04 is reported. Sm scales c by Vegard's law.
    lean_deg : float
        How far the angles between c and both in-plane axes fall short of 90°; default: bulk R3c's 0.57°.
    polar_axis : tuple of float
        [uuv] of the polar displacements; v > u turns them from [111] towards the film normal [001].
    polar_slope : float
        Polar amplitude relative to bulk R3c is ``1 − polar_slope · samarium``.
    rotation_axis : tuple of float, optional
        [uuv] of the antiphase octahedral rotations; the polar axis if not given.
    rotation_deg : float, optional
        Angle of the rotations about that axis; bulk R3c's if not given.
    """

    in_plane: float = SRTIO3_A
    c_over_a: float = 1.02
    lean_deg: float = 0.57
    polar_axis: tuple[float, float, float] = (1.0, 1.0, 1.2)
    polar_slope: float = 1.0
    rotation_axis: tuple[float, float, float] | None = None
    rotation_deg: float | None = None

    def __post_init__(self) -> None:
        """Refuse what would not be monoclinic M_A."""
        for name in ("polar_axis", "rotation_axis"):
            axis = getattr(self, name)
            if axis is not None and (len(axis) != 3 or axis[0] != axis[1] or not any(axis)):
                raise SpecimenError(f"{name} {axis} must have the form [u, u, v] for a Cc (M_A) film.")
        if not 0.9 < self.c_over_a < 1.3:
            raise SpecimenError(
                f"c_over_a {self.c_over_a} is outside 0.9 to 1.3; give c/a of the film, e.g. 1.02."
            )


@dataclass(frozen=True)
class Modes:
    """Distortion of a perovskite relative to its A sublattice.

    ``polar_b`` and ``polar_x`` are mean displacements of B and anions along the polar axis, Å;
    ``rotation`` is the angle of the antiphase rotation about it, radians.
    """

    polar_b: float
    polar_x: float
    rotation: float


def antiphase_rotation(ideal: NDArray[np.float64], axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Displacement of every anion per radian of antiphase rotation about ``axis`` (3,) or (anions, 3), in pseudocubic edges."""
    # An anion has B neighbours half an edge away on either side; they turn oppositely, so one will do.
    along = np.isclose(ideal % 1.0, 0.0)  # the direction in which the anion is bonded
    arm = 0.5 * along
    block = np.floor(ideal - arm + 1e-9).astype(int)
    sense = 1 - 2 * (block.sum(axis=1) % 2)
    return sense[:, None] * np.cross(axis, arm)


def decompose(parent: ParentCell, axis: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Modes:
    """Polar and rotational amplitudes of ``parent`` about ``axis``, by projection onto the modes."""
    axis_length = np.linalg.norm(axis)
    ideal, sites = ideal_perovskite(parent.repeat)
    u = parent.atoms.get_scaled_positions(wrap=False) * np.asarray(parent.repeat) - ideal
    u = (u - u[sites == "A"].mean(axis=0)) @ parent.pseudocubic
    polar = np.asarray(axis) @ parent.pseudocubic
    polar /= np.linalg.norm(polar)
    anion = sites == "X"
    pattern = antiphase_rotation(ideal[anion], np.asarray(axis) / axis_length) @ parent.pseudocubic
    return Modes(
        polar_b=float((u[sites == "B"] @ polar).mean()),
        polar_x=float((u[anion] @ polar).mean()),
        rotation=float(np.sum(pattern * u[anion]) / np.sum(pattern**2)),
    )


def monoclinic(samarium: float = 0.0, model: MonoclinicModel | None = None) -> ParentCell:
    """Monoclinic Cc (M_A) film: a model built from R3c's modes, see :class:`MonoclinicModel`."""
    model = model or MonoclinicModel()
    modes = decompose(rhombohedral())
    scale = 1.0 - model.polar_slope * samarium
    if scale < 0:
        raise SpecimenError(f"polar_slope {model.polar_slope} reverses the polarization at Sm {samarium}.")
    polar = np.asarray(model.polar_axis) / np.linalg.norm(model.polar_axis)
    turn = np.asarray(model.rotation_axis or model.polar_axis, dtype=float)
    turn /= np.linalg.norm(turn)
    angle = modes.rotation if model.rotation_deg is None else np.radians(model.rotation_deg)
    a = model.in_plane
    c = a * model.c_over_a * vegard(samarium) / vegard(0.0)
    ideal, sites = ideal_perovskite((2, 2, 2))
    edges = np.array([a, a, c])
    shift = np.zeros((40, 3))  # Å; A columns are the origin
    shift[sites == "B"] = scale * modes.polar_b * polar
    shift[sites == "X"] = scale * modes.polar_x * polar
    shift[sites == "X"] += angle * antiphase_rotation(ideal[sites == "X"], turn) * edges.mean()
    angle_deg = 90.0 - model.lean_deg
    symbols = [{"A": "Bi", "B": "Fe", "X": "O"}[str(site)] for site in sites]
    atoms = Atoms(
        symbols,
        scaled_positions=(ideal + shift / edges) / 2.0,
        cell=[2 * a, 2 * a, 2 * c, angle_deg, angle_deg, 90.0],
        pbc=True,
    )
    assumptions = (
        "Cc is a model: rigid polar shifts of B and O and rigid antiphase octahedral rotations, "
        "amplitudes taken from bulk R3c.",
        f"Polar axis along {list(model.polar_axis)}, amplitude {scale:.3f} of bulk "
        f"(falls by {model.polar_slope:g} per unit Sm fraction).",
        f"In-plane lattice {a:g} Å, c = {c:.4f} Å, c leans so that its angles with a and b are {angle_deg:g}°.",
    )
    return ParentCell("Cc", atoms, sites, (2, 2, 2), assumptions=assumptions)


def orthorhombic(samarium: float = 0.13, antipolar: float = 1.0) -> ParentCell:
    """Pnma (Bi,Sm)FeO3: SmFeO3's coordinates in a cell with the volume of Vegard's law.

    ``antipolar`` scales the A-site shifts (1: those of SmFeO3). Pseudocubic axes: [001] is Pnma's b,
    [100] and [010] are its (a ± c)/2 diagonals.
    """
    positions = [
        (np.multiply((antipolar, 1.0, antipolar), p) if s == "Sm" else np.asarray(p)) for s, p in PNMA_SITES
    ]
    unit = crystal([s for s, _ in PNMA_SITES], positions, spacegroup=62, cellpar=[*PNMA_CELL, 90, 90, 90])
    axes = np.array([[0.5, 0, -0.5], [0.5, 0, 0.5], [0, -0.5, 0]])
    atoms = _in_pseudocubic(unit, axes, np.array([0.0, 0.25, 0.0]))
    atoms.set_cell(atoms.cell * (vegard(samarium) / _A_SMFEO3), scale_atoms=True)
    symbols = np.array(atoms.get_chemical_symbols())
    symbols[symbols == "Sm"] = "Bi"  # the build step puts Sm back at random
    atoms.set_chemical_symbols(list(symbols))
    assumptions = (
        "Pnma coordinates are those of SmFeO3 (a DFT structure); the cell's shape is SmFeO3's, "
        "its volume follows Vegard's law.",
        f"Antipolar A-site shifts are {antipolar:g} times SmFeO3's.",
    )
    return ParentCell("Pnma", atoms, ideal_perovskite((2, 2, 2))[1], (2, 2, 2), assumptions=assumptions)


def strontium_titanate(samarium: float = 0.0) -> ParentCell:
    """Cubic SrTiO3, one cell: the non-polar null."""
    if samarium:
        raise SpecimenError("samarium must be 0 for SrTiO3; doping is defined for the BiFeO3 phases.")
    positions, sites = ideal_perovskite((1, 1, 1))
    atoms = Atoms("SrTiO3", scaled_positions=positions, cell=[SRTIO3_A] * 3, pbc=True)
    return ParentCell("SrTiO3", atoms, sites, (1, 1, 1), born_charges={})
