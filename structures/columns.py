"""A slab in which every cell has a displacement and a material of its own: domain walls, interfaces, library nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from structures.errors import SpecimenError
from structures.parents import U_ISO, ideal_perovskite
from structures.phases import antiphase_rotation, decompose, rhombohedral, vegard
from structures.specimen import Specimen

#: Elements on the A and B site of the materials that cells can be made of.
MATERIALS = {"BiFeO3": ("Bi", "Fe"), "SrTiO3": ("Sr", "Ti")}

#: Largest |d| along an axis that the modes of R3c are stretched to, pm (its own is 23.6).
_MAX_D_PM = 60.0


@dataclass(frozen=True)
class _Bulk:
    """Bulk R3c: how far anions move along and across their bonds when B moves by 1, and how far octahedra turn."""

    along: float
    across: float
    rotation: float


@lru_cache(maxsize=1)
def _bulk() -> _Bulk:
    parent = rhombohedral()
    ideal, sites = ideal_perovskite(parent.repeat)
    u = parent.atoms.get_scaled_positions(wrap=False) * np.asarray(parent.repeat) - ideal
    u -= u[sites == "A"].mean(axis=0)
    b = u[sites == "B"].mean()
    bonded = np.isclose(ideal[sites == "X"] % 1.0, 0.0)  # rotations cancel in the means
    x = u[sites == "X"]
    return _Bulk(float(x[bonded].mean() / b), float(x[~bonded].mean() / b), decompose(parent).rotation)


def build_columns(
    d_pm: ArrayLike,
    *,
    thickness: float,
    d_z_pm: ArrayLike = 23.6,
    edge_x: float | None = None,
    edge_y: float | Sequence[float] | None = None,
    edge_z: float | None = None,
    samarium: float = 0.0,
    material: ArrayLike = "BiFeO3",
    material_a: ArrayLike | None = None,
    rotation_deg: float | None = None,
    seed: int = 0,
    name: str = "columns",
) -> Specimen:
    """Build an orthogonal slab of R3c's modes with the in-plane d of every cell given.

    A columns stay on the lattice; B and the anions of a cell move against its d in the proportion of bulk R3c
    (anions between two cells by the mean of both), and octahedra turn in antiphase as in R3c. Cells of SrTiO3
    do neither.

    Parameters
    ----------
    d_pm : array_like, shape (rows, columns, 2)
        Mean of the surrounding A columns − B column of every cell, (x right, y down), pm.
    thickness : float
        Along the beam, Å; rounded to an even number of cells, since octahedra alternate.
    d_z_pm : array_like, shape () or (rows, columns)
        Component of d along the beam, pm.
    edge_x, edge_z : float, optional
        Edges of the cells across the image and along the beam, Å; default Vegard's pseudocubic edge.
    edge_y : float or sequence of float, optional
        Heights of the rows, top to bottom, Å.
    samarium : float
        Fraction of Bi replaced by Sm at random with ``seed``.
    material : array_like of str, shape () or (rows, columns)
        "BiFeO3" or "SrTiO3", of the B column of each cell.
    material_a : array_like of str, optional
        Of the A column at each cell's upper left corner; default ``material``.
    rotation_deg : float, optional
        Angle of the antiphase rotations; default bulk R3c's. Their axis is the ⟨111⟩ nearest to each cell's d, as in
        bulk R3c. With an odd number of rows or columns they still alternate along the beam, but not across it.
    seed : int
        Of the Sm atoms.
    name : str
        Label.

    Returns
    -------
    Specimen
        Periodic in x and y.

    Raises
    ------
    SpecimenError
        Naming the argument and the fix.
    """
    d = np.asarray(d_pm, dtype=float)
    if d.ndim != 3 or d.shape[2] != 2 or d.size == 0:
        raise SpecimenError(f"d_pm has shape {d.shape}; give (rows, columns, 2), pm.")
    d_z = np.asarray(d_z_pm, dtype=float)
    if d_z.shape not in ((), d.shape[:2]):
        raise SpecimenError(f"d_z_pm has shape {d_z.shape}; give one number or {d.shape[:2]}, pm.")
    if not np.isfinite(d).all() or not max(np.abs(d).max(), np.abs(d_z).max()) <= _MAX_D_PM:
        raise SpecimenError(f"d_pm must be finite and within ±{_MAX_D_PM:g} pm along each axis.")
    if not 0.0 <= samarium <= 1.0:
        raise SpecimenError(f"samarium {samarium} is not a fraction; give 0.07 for 7 %.")
    rows, columns = d.shape[:2]
    if seed < 0:
        raise SpecimenError(f"seed {seed} must not be negative.")
    own = vegard(samarium)
    ex, ez = (own if edge is None else edge for edge in (edge_x, edge_z))
    heights = np.broadcast_to(np.asarray(own if edge_y is None else edge_y, dtype=float), (rows,))
    if not all(2.0 <= edge <= 6.0 for edge in (ex, ez, *heights)):
        raise SpecimenError(
            "edge_x, edge_y and edge_z must be within 2 to 6 Å, the edges of one pseudocubic cell."
        )
    if not 0 < thickness <= 2000:
        raise SpecimenError(f"thickness {thickness} Å is outside 0 to 2000 Å; give it in Å (100 Å = 10 nm).")
    layers = 2 * max(1, round(thickness / ez / 2))
    of_b, of_a = (
        _materials(m, (rows, columns)) for m in (material, material if material_a is None else material_a)
    )

    ideal, sites = ideal_perovskite((columns, rows, layers))
    block = np.floor(ideal + 1e-9).astype(int)
    i, j = block[:, 1], block[:, 0]
    polar = (of_b == "BiFeO3").astype(float)
    vector = (
        np.concatenate([d, np.broadcast_to(d_z, (rows, columns))[..., None]], axis=2)
        * polar[..., None]
        / 100.0
    )  # Å
    # The cells that share an anion: both it lies between; a cell's own for what lies inside.
    on_edge = np.isclose(ideal[:, :2] % 1.0, 0.0) & (sites == "X")[:, None]
    before = i - on_edge[:, 1], j - on_edge[:, 0]
    shared = (vector[i, j] + vector[before]) / 2
    signs = np.where(vector < 0, -1.0, 1.0) / np.sqrt(3.0) * polar[..., None]
    axis = (signs[i, j] + signs[before]) / 2
    bulk = _bulk()
    shift = np.zeros((len(ideal), 3))
    shift[sites == "B"] = -shared[sites == "B"]
    anion = sites == "X"
    angle = bulk.rotation if rotation_deg is None else np.radians(rotation_deg)
    turned = angle * antiphase_rotation(ideal[anion], axis[anion]) * ez
    ratio = np.where(np.isclose(ideal[anion] % 1.0, 0.0), bulk.along, bulk.across)
    shift[anion] = -ratio * shared[anion] + turned

    tops = np.concatenate([[0.0], np.cumsum(heights)])
    lattice = np.stack(
        [
            ideal[:, 0] * ex,
            tops[i] + (ideal[:, 1] - i) * heights[i],
            (ideal[:, 2] + 0.25) * ez,  # half a slice deep: every slice holds one plane at its centre
        ],
        axis=1,
    )
    symbols = np.where(sites == "X", "O", "").astype("<U2")
    for site, chosen in (("A", of_a), ("B", of_b)):
        for label, elements in MATERIALS.items():
            symbols[(sites == site) & (chosen[i, j] == label)] = elements["AB".index(site)]
    if samarium:
        bismuth = np.flatnonzero(symbols == "Bi")
        doped = np.random.default_rng(seed).choice(
            bismuth, size=round(samarium * len(bismuth)), replace=False
        )
        symbols[doped] = "Sm"
    cell = [columns * ex, float(heights.sum()), layers * ez]
    atoms = Atoms(list(symbols), positions=lattice + shift, cell=cell, pbc=(True, True, False))
    atoms.wrap()
    return Specimen(
        name=name,
        atoms=atoms,
        sites=sites,
        layer=2 * ez,
        slices=4,
        sigmas={e: float(np.sqrt(U_ISO[e])) for e in sorted({str(s) for s in symbols})},
        specification={
            "rows": rows, "columns": columns, "d_z_pm": d_z.tolist(), "samarium": samarium, "seed": seed,
            "edges": [ex, [float(h) for h in heights], ez],
            "assumptions": ["B and anions move against d, and octahedra turn, as in bulk R3c."],
        },
    )  # fmt: skip


def _materials(given: ArrayLike, shape: tuple[int, int]) -> NDArray[np.str_]:
    names = np.broadcast_to(np.asarray(given, dtype=str), shape)
    for name in np.unique(names):
        if name not in MATERIALS:
            raise SpecimenError(f"material {name!r} is unknown; choose one of {', '.join(MATERIALS)}.")
    return names
