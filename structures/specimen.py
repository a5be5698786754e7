"""The specimen: a slab of perovskite with its truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms
from numpy.typing import NDArray

from structures.errors import SpecimenError
from structures.orient import cut, orient, periods, slices_per_layer
from structures.parents import U_ISO_ASSUMED, ParentCell, parse_direction
from structures.phases import (
    MonoclinicModel,
    monoclinic,
    orthorhombic,
    rhombohedral,
    strontium_titanate,
)
from structures.truth import born_polarization, image_frame, projected_truth

PHASES = ("R3c", "Cc", "Pnma", "SrTiO3")


@dataclass(frozen=True, eq=False)
class Specimen:
    """An orthogonal slab, periodic in x and y, with the beam along +z and the entrance surface at z = 0.

    Parameters
    ----------
    name : str
        Label used for the ``phase`` coordinate of datasets.
    atoms : ase.Atoms
        Atoms, Å.
    sites : ndarray of str, shape (atoms,)
        "A", "B" or "X".
    layer : float
        Translation period of the crystal along the beam, Å: thicknesses are whole numbers of it, so that
        the projected truth is that of every thickness.
    slices : int
        Multislice slices in a layer; each holds one atomic plane at its centre.
    lean_mrad : tuple of float
        Lean (x, y) of this variant's columns that was taken out to make the box orthogonal. A microscope
        tilt t looks along the columns where t equals the lean: add it to a simulated tilt to get the tilt
        relative to the orthogonal reference axes.
    shear_mrad : float
        In-plane shear taken out: how far the angle between x and y fell short of 90°.
    sigmas : mapping
        Debye-Waller rms displacement per axis of each element, Å.
    polarization : ndarray, shape (3,)
        Born polarization along image x, y, z (right, down, along the beam), µC/cm²; NaN if charges are
        not known.
    specification : mapping
        How it was asked for, including seed and modelling assumptions; JSON-able.
    """

    name: str
    atoms: Atoms
    sites: NDArray[np.str_]
    layer: float
    slices: int = 2
    lean_mrad: tuple[float, float] = (0.0, 0.0)
    shear_mrad: float = 0.0
    sigmas: Mapping[str, float] = field(default_factory=dict)
    polarization: NDArray[np.float64] = field(default_factory=lambda: np.full(3, np.nan))
    specification: Mapping[str, Any] = field(default_factory=dict)

    @property
    def box(self) -> tuple[float, float]:
        """Lateral period (x, y), Å."""
        return float(self.atoms.cell[0, 0]), float(self.atoms.cell[1, 1])

    @property
    def slice_thickness(self) -> float:
        """Thickness of a multislice slice that holds one atomic plane, Å."""
        return self.layer / self.slices

    @property
    def thickness(self) -> float:
        """Thickness along the beam, Å."""
        return float(self.atoms.cell[2, 2])

    @cached_property
    def truth(self) -> xr.Dataset:
        """Projected A and B columns, per-cell d, Born polarization and Debye-Waller σ; see DESIGN."""
        truth = projected_truth(self.atoms, self.sites)
        truth["polarization"] = (
            "axis",
            np.asarray(self.polarization),
            {
                "units": "µC/cm²",
                "long_name": "Born polarization of the full structure",
                "comment": "Born charges attributed to Neaton et al. 2005, not checked (unverified)",
            },
        )
        truth["lean"] = ("component", np.asarray(self.lean_mrad), {"units": "mrad"})
        elements = sorted(self.sigmas)
        truth["debye_waller_sigma"] = (
            "element",
            np.array([self.sigmas[e] for e in elements]),
            {"units": "Å", "long_name": "rms displacement per axis"},
        )
        return truth.assign_coords(axis=["x", "y", "z"], element=elements)


def assemble(
    parent: ParentCell,
    name: str,
    *,
    samarium: float,
    lateral: tuple[int, int],
    thickness: float,
    beam: tuple[int, int, int] | str,
    up: tuple[int, int, int] | str,
    seed: int,
    specification: Mapping[str, Any],
) -> Specimen:
    """Cut ``parent`` into a slab and dope its A site; see :func:`build` for the arguments."""
    beam_axis, up_axis = parse_direction(beam, "beam"), parse_direction(up, "up")
    if not np.isfinite(thickness) or not 0 < thickness <= 2000:
        raise SpecimenError(f"thickness {thickness} Å is outside 0 to 2000 Å; give it in Å (100 Å = 10 nm).")
    orientation = orient(parent, beam_axis, up_axis)
    repeats = periods(parent, orientation.z)
    layer = float(orientation.lengths[2]) * repeats
    layers = max(1, round(thickness / layer))
    atoms, sites = cut(parent, orientation, lateral, layers)
    if seed < 0:
        raise SpecimenError(f"seed {seed} must not be negative.")
    if not name.strip() or set(name) & set("/\\:") or name.startswith("."):
        raise SpecimenError(
            f"name {name!r} must be usable as a file name: no slashes, colons or leading dots."
        )
    if samarium:
        sites_a = np.flatnonzero(sites == "A")
        chosen = np.random.default_rng(seed).choice(
            sites_a, size=round(samarium * len(sites_a)), replace=False
        )
        atoms.symbols[chosen] = "Sm"
    elements = sorted(set(atoms.get_chemical_symbols()))
    sigmas = {e: float(np.sqrt(parent.u_iso.get(e, U_ISO_ASSUMED))) for e in elements}
    frame = image_frame(parent, np.array([orientation.x, orientation.y, orientation.z]))
    assumptions = [*parent.assumptions]
    unknown = [e for e in elements if e not in parent.u_iso]
    if unknown:
        assumptions.append(
            f"No displacement parameter known for {', '.join(unknown)}: {U_ISO_ASSUMED} Å² is assumed."
        )
    return Specimen(
        name=name,
        atoms=atoms,
        sites=sites,
        layer=layer,
        slices=slices_per_layer(float(orientation.lengths[2])) * repeats,
        lean_mrad=orientation.lean_mrad,
        shear_mrad=orientation.shear_mrad,
        sigmas=sigmas,
        polarization=frame @ born_polarization(parent, parent.born_charges),
        specification={
            **specification,
            "samarium": samarium,
            "samarium_atoms": int(np.sum(np.array(atoms.get_chemical_symbols()) == "Sm")),
            "lateral": list(lateral),
            "beam": list(beam_axis),
            "up": list(up_axis),
            "seed": seed,
            "lean_mrad": list(orientation.lean_mrad),
            "shear_mrad": orientation.shear_mrad,
            "assumptions": assumptions,
        },
    )


def build(
    phase: str,
    *,
    samarium: float = 0.0,
    lateral: tuple[int, int] = (2, 2),
    thickness: float = 100.0,
    variant: str | tuple[int, int, int] = "[111]",
    beam: str | tuple[int, int, int] = "[100]",
    up: str | tuple[int, int, int] = "[001]",
    seed: int = 0,
    name: str | None = None,
    model: MonoclinicModel | None = None,
    antipolar: float = 1.0,
) -> Specimen:
    """Build a specimen of Sm-doped BiFeO3, or the SrTiO3 null.

    Parameters
    ----------
    phase : {"R3c", "Cc", "Pnma", "SrTiO3"}
        Crystal phase.
    samarium : float
        Fraction of A sites taken by Sm, 0 to 1; placed at random with ``seed``.
    lateral : (int, int)
        Periods along image x and y. The distorted phases need multiples of two along ⟨100⟩.
    thickness : float
        Along the beam, Å; rounded to whole periods of the crystal (two pseudocubic cells in the distorted
        phases).
    variant : direction
        Which of the eight ⟨111⟩ variants: the direction of d, up to the phase's own [uuv].
    beam, up : direction
        Pseudocubic direction the beam travels, and the film normal pointing up in the image. The default
        is the cross-section that films are imaged in; plan view is ``beam="[001]", up="[010]"``.
    seed : int
        Of the Sm distribution.
    name : str, optional
        Label; default ``phase`` with the Sm percentage.
    model : MonoclinicModel, optional
        Overrides for the Cc model.
    antipolar : float
        Scale of Pnma's antipolar A shifts.

    Returns
    -------
    Specimen

    Raises
    ------
    SpecimenError
        Naming the argument and the fix.

    Examples
    --------
    >>> specimen = build("R3c", samarium=0.07, thickness=40.0, seed=1)
    >>> specimen.truth["cell_d"].mean("cell").round(0).values
    array([-24., -24.])
    """
    if not 0.0 <= samarium <= 1.0:
        raise SpecimenError(f"samarium {samarium} is not a fraction; give 0.07 for 7 %.")
    phase = next((known for known in PHASES if known.lower() == phase.lower()), phase)
    if phase == "R3c":
        parent = rhombohedral(samarium)
    elif phase == "Cc":
        parent = monoclinic(samarium, model)
    elif phase == "Pnma":
        parent = orthorhombic(samarium, antipolar)
    elif phase == "SrTiO3":
        parent = strontium_titanate(samarium)
    else:
        raise SpecimenError(f"phase {phase!r} is unknown; choose one of {', '.join(PHASES)}.")
    signs = parse_direction(variant, "variant")
    if any(abs(s) != 1 for s in signs):
        raise SpecimenError(f"variant {variant!r} is not a ⟨111⟩ direction; write e.g. '[1-11]'.")
    label = name or (f"{phase}-Sm{100 * samarium:g}" if samarium else phase)
    return assemble(
        parent.variant(signs),
        label,
        samarium=samarium,
        lateral=lateral,
        thickness=thickness,
        beam=beam,
        up=up,
        seed=seed,
        specification={"phase": phase, "variant": list(signs)},
    )
