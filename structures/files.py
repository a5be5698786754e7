"""CIF and extended-XYZ, in and out, so that a user's own crystal goes through everything."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from structures.errors import SpecimenError
from structures.parents import BORN_CHARGES, U_ISO, ParentCell
from structures.specimen import Specimen, assemble


def write(specimen: Specimen, path: str | Path) -> Path:
    """Write ``specimen`` to ``.xyz`` (extended XYZ, lossless, with sites and settings) or ``.cif``.

    The file appears under its name only when complete.
    """
    path = Path(path)
    if path.suffix not in (".xyz", ".extxyz", ".cif"):
        raise SpecimenError(f"{path.name}: unknown structure format; use .xyz or .cif.")
    atoms = specimen.atoms.copy()
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    if path.suffix != ".cif":
        atoms.set_array("site", specimen.sites.astype("U1"))
        atoms.info["tiltsim"] = json.dumps(
            {
                "name": specimen.name,
                "layer": specimen.layer,
                "slices": specimen.slices,
                "lean_mrad": list(specimen.lean_mrad),
                "shear_mrad": specimen.shear_mrad,
                "sigmas": dict(specimen.sigmas),
                "polarization": [float(p) for p in specimen.polarization],
                "specification": dict(specimen.specification),
            },
            ensure_ascii=False,
        )
    try:
        ase.io.write(partial, atoms, format="cif" if path.suffix == ".cif" else "extxyz")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _load_atoms(path: Path) -> Atoms:
    if not path.is_file():
        raise SpecimenError(f"{path}: no such structure file; check the path.")
    try:
        atoms = ase.io.read(path, format="cif" if path.suffix.lower() == ".cif" else "extxyz")
    except Exception as error:
        raise SpecimenError(
            f"{path.name}: not a readable {path.suffix or 'structure'} file "
            f"({type(error).__name__}); export it again as CIF or extended XYZ."
        ) from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0 or atoms.cell.rank != 3:
        raise SpecimenError(f"{path.name}: holds no periodic crystal; a cell and atoms are needed.")
    return atoms


def _label_sites(
    atoms: Atoms, a_site: Sequence[str], b_site: Sequence[str], name: str
) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    symbols = np.array(atoms.get_chemical_symbols())
    shared = sorted(set(a_site) & set(b_site))
    if shared:
        raise SpecimenError(
            f"{name}: {', '.join(shared)} cannot be on a_site and b_site; name each element once."
        )
    sites = np.full(len(symbols), "X")
    for label, elements in (("A", a_site), ("B", b_site)):
        missing = [e for e in elements if e not in symbols]
        if not elements or missing:
            what = f"{', '.join(missing)} not found" if missing else "not named"
            raise SpecimenError(
                f"{name}: {label} site: {what}; name the elements on it with {label.lower()}_site "
                f"(the file holds {', '.join(sorted(set(symbols)))})."
            )
        sites[np.isin(symbols, list(elements))] = label
    return sites


def _restored(atoms: Atoms, name: str) -> Specimen:
    """The specimen that :func:`write` stored."""
    # extxyz hands JSON objects over already parsed
    stored = atoms.info["tiltsim"]
    try:
        stored = json.loads(stored) if isinstance(stored, str) else stored
        return Specimen(
            name=stored["name"],
            atoms=Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=(True, True, False)),
            sites=np.asarray(atoms.arrays["site"], dtype="U1"),
            layer=float(stored["layer"]),
            slices=int(stored["slices"]),
            lean_mrad=(float(stored["lean_mrad"][0]), float(stored["lean_mrad"][1])),
            shear_mrad=float(stored["shear_mrad"]),
            sigmas=stored["sigmas"],
            polarization=np.asarray(stored["polarization"], dtype=float),
            specification=stored["specification"],
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SpecimenError(
            f"{name}: its specimen settings are damaged; write it again with tiltsim."
        ) from error


def read(
    path: str | Path,
    *,
    a_site: Sequence[str] = (),
    b_site: Sequence[str] = (),
    lateral: tuple[int, int] = (2, 2),
    thickness: float = 100.0,
    beam: str | tuple[int, int, int] = "[100]",
    up: str | tuple[int, int, int] = "[001]",
    name: str | None = None,
    u_iso: Mapping[str, float] | None = None,
    born_charges: Mapping[str, float] | None = None,
) -> Specimen:
    """Read a specimen written by :func:`write`, or build one from any crystal with A and B sites named.

    Parameters
    ----------
    path : path
        ``.xyz`` written by :func:`write` is taken as it is (the other arguments are then not used); any
        other crystal is cut into a slab as :func:`structures.build` does, with ``beam`` and ``up`` given
        along the file's own cell vectors.
    a_site, b_site : sequence of str
        Elements on the two sites, e.g. ``("Bi", "Sm")`` and ``("Fe",)``.
    u_iso, born_charges : mapping, optional
        Å² and e by element, added to the built-in tables.

    Raises
    ------
    SpecimenError
        For a missing, damaged or non-orthogonal file, or one without the named sites.
    """
    path = Path(path)
    atoms = _load_atoms(path)
    if "tiltsim" in atoms.info:
        return _restored(atoms, path.name)
    parent = ParentCell(
        path.stem,
        Atoms(atoms.symbols, scaled_positions=atoms.get_scaled_positions(), cell=atoms.cell, pbc=True),
        _label_sites(atoms, a_site, b_site, path.name),
        (1, 1, 1),
        u_iso={**U_ISO, **(u_iso or {})},
        born_charges={**BORN_CHARGES, **(born_charges or {})},
        assumptions=("Structure as given by the user.",),
    )
    return assemble(
        parent,
        name or path.stem,
        samarium=0.0,
        lateral=lateral,
        thickness=thickness,
        beam=beam,
        up=up,
        seed=0,
        specification={"file": path.name, "a_site": list(a_site), "b_site": list(b_site)},
    )
