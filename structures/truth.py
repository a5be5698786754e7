"""What is true about a slab: projected columns, polar displacements, Born polarization."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from ase import Atoms
from ase.cell import Cell
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from structures.errors import SpecimenError
from structures.parents import ParentCell

#: e per Å², in µC/cm².
_E_PER_A2 = 1602.176634

#: Atoms of one site within this lateral distance belong to one column, Å. Neighbouring columns of the
#: same site are at least 2.7 Å apart in a perovskite, antipolar shifts spread a column by up to 0.7 Å.
_COLUMN_RADIUS = 1.2


def _columns(xy: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean positions of the columns that the projected points ``xy`` (n, 2) form in a periodic box."""
    wrapped = xy % box
    wrapped[wrapped >= box] = 0.0  # what % leaves of −1e-17
    tree = cKDTree(wrapped, boxsize=box)
    pairs = tree.query_pairs(_COLUMN_RADIUS, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(xy), len(xy)))
    count, label = connected_components(graph, directed=False)
    means = np.empty((count, 2))
    for i in range(count):
        members = xy[label == i]
        offset = members - members[0]
        offset -= np.round(offset / box) * box
        means[i] = members[0] + offset.mean(axis=0)
    means %= box
    # Rows top to bottom, then left to right, robust to picometres of disorder.
    order = np.lexsort((means[:, 0], np.round(means[:, 1] / _COLUMN_RADIUS)))
    return means[order]


def projected_truth(atoms: Atoms, sites: NDArray[np.str_]) -> xr.Dataset:
    """Projected mean columns of the A and B sites and the polar displacement of every B column.

    Parameters
    ----------
    atoms : Atoms
        Orthogonal slab, beam along z, Å.
    sites : ndarray of str, shape (atoms,)
        "A", "B" or anything else (ignored).

    Returns
    -------
    xarray.Dataset
        ``x``, ``y`` (column), Å, with ``site``; ``cell_x``, ``cell_y`` (cell): the B column, Å;
        ``cell_d`` (cell, component): mean of the surrounding A columns − B column, pm. Surrounding are
        the A columns at the shortest distance: four along [100], two along [110], as attribute ``zone``
        tells.

    Raises
    ------
    SpecimenError
        If a site is missing or B columns do not have two or four nearest A columns.
    """
    box = np.diag(atoms.cell.array)[:2]
    xy = atoms.positions[:, :2]
    for site in ("A", "B"):
        if not np.any(sites == site):
            raise SpecimenError(
                f"the specimen has no {site} site; name its elements with {site.lower()}_site."
            )
    a, b = (_columns(xy[sites == site], box) for site in ("A", "B"))
    offset = a[None] - b[:, None]
    # Copies of every A column in the neighbouring periods, for boxes one cell wide.
    shifts = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(-1, 2) * box
    offset = (offset[:, :, None, :] + shifts).reshape(len(b), -1, 2)
    distance = np.linalg.norm(offset, axis=-1)
    d, neighbours = np.empty((len(b), 2)), set()
    for i in range(len(b)):
        # With the largest displacements known (60 pm) the far A columns are at 1.4 × the near ones along
        # [110]; the next shell is at 1.7 or more.
        near = distance[i] < 1.5 * distance[i].min()
        if near.sum() not in (2, 4):
            raise SpecimenError(
                f"a B column has {near.sum()} nearest A columns in this projection, not 4 ([100]) or 2 ([110]); "
                "choose another beam direction."
            )
        neighbours.add(int(near.sum()))
        d[i] = offset[i][near].mean(axis=0) * 100.0
    if len(neighbours) > 1:
        raise SpecimenError(
            "B columns differ in their number of A neighbours; choose another beam direction."
        )
    angstrom = {"units": "Å"}
    return xr.Dataset(
        {
            "x": ("column", np.r_[a[:, 0], b[:, 0]], angstrom),
            "y": ("column", np.r_[a[:, 1], b[:, 1]], angstrom),
            "site": ("column", np.array(["A"] * len(a) + ["B"] * len(b)), {"units": "1"}),
            "cell_x": ("cell", b[:, 0], angstrom),
            "cell_y": ("cell", b[:, 1], angstrom),
            "cell_d": (
                ("cell", "component"),
                d,
                {"units": "pm", "long_name": "mean of surrounding A columns − B column"},
            ),
        },
        coords={"component": ["x", "y"]},
        attrs={
            "period_x": float(box[0]),
            "period_y": float(box[1]),
            "period_units": "Å",
            "axes": "x right, y down, z along the beam",
            "zone": "100" if neighbours == {4} else "110",
        },
    )


def born_polarization(parent: ParentCell, charges: Mapping[str, float]) -> NDArray[np.float64]:
    """Polarization of the crystal from Born effective charges, µC/cm², along the crystal's Cartesian axes.

    Each B atom is weighed against the means of its 8 A and 6 anion neighbours, which needs no choice of
    origin once the charges add up to zero; the small remainder of the tabulated charges is taken from
    the anions (acoustic sum rule).

    Parameters
    ----------
    parent : ParentCell
        Periodic crystal with A, B and X sites.
    charges : mapping
        Born effective charge of each element, e.

    Returns
    -------
    ndarray, shape (3,)
        NaN where a charge is missing.
    """
    atoms, sites = parent.atoms, parent.sites
    symbols = np.array(atoms.get_chemical_symbols())
    if any(s not in charges for s in set(symbols)):
        return np.full(3, np.nan)
    z = np.array([charges[s] for s in symbols])
    z_a, z_b = z[sites == "A"].mean(), z[sites == "B"].mean()
    z_x = -(z_a + z_b) / 3.0
    cell = atoms.cell.array
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ cell
    dipole = np.zeros(3)
    b = atoms.positions[sites == "B"]
    for site, count, weight in (("A", 8, z_a), ("X", 6, 3.0 * z_x)):
        around = (atoms.positions[sites == site][:, None] + shifts[None]).reshape(-1, 3)
        offsets = around[None] - b[:, None]
        nearest = np.argsort(np.linalg.norm(offsets, axis=-1), axis=1)[:, :count]
        dipole += weight * np.take_along_axis(offsets, nearest[..., None], axis=1).mean(axis=1).sum(axis=0)
    return dipole / atoms.cell.volume * _E_PER_A2


def image_frame(parent: ParentCell, axes: NDArray[np.int_]) -> NDArray[np.float64]:
    """Orthonormal rows x, y, z of the image in the crystal's Cartesian axes.

    The box is orthogonal only after its shear is taken out; the beam (z) and up (y) are kept, x completes.
    """
    frame = Cell(axes @ parent.pseudocubic).array
    z = frame[2] / np.linalg.norm(frame[2])
    y = frame[1] - (frame[1] @ z) * z
    y /= np.linalg.norm(y)
    return np.array([np.cross(y, z), y, z])
