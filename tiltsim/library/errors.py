"""What is wrong with the images of a library: its phonons are few, and between its nodes, and of a lens, it knows but so much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tiltsim.images import resample
from tiltsim.lens import LensBox, terms
from tiltsim.library.lens_modes import symmetrized_terms
from tiltsim.library.periods import library_periods
from tiltsim.library.request import EDGES, Node
from tiltsim.library.response import Library
from tiltsim.library.symmetry import symmetrized

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

#: Tilts that errors of phonons are kept for, as shares of all along each axis.
_TILTS = ((0.5, 0.5), (0.25, 0.5), (0.5, 0.75), (0.75, 0.25), (0.25, 0.25), (0.625, 0.625))


@dataclass(frozen=True, eq=False)
class Errors:
    """Samples of an error of a material's images.

    Parameters
    ----------
    kind : str
        Of :data:`~tiltsim.library.response.ERROR_KINDS`.
    material : str
    cells : tuple of int
        Thicknesses.
    images : ndarray (error, cells, y, x)
        Fraction of the beam, an A column at the origin, d along +x and +y; the mean of their outer products estimates the covariance.
    """

    kind: str
    material: str
    cells: tuple[int, ...]
    images: Singles


def phonon_errors(node: Node, pairs: Floats, cells: tuple[int, ...]) -> Errors:
    """Errors of the mean image of a node, as its phonon pairs (pair, tilt_x, tilt_y, cells, y, x) differ; none from a single pair."""
    away = (pairs - pairs.mean(axis=0)) / np.sqrt(max(len(pairs) - 1.0, 1.0))
    count = pairs.shape[1] - 1
    places = [(round(x * count), round(y * count)) for x, y in _TILTS]
    images = np.stack([symmetrized(one, node.place, node.place)[i, j] for one in away for i, j in places])
    return Errors(
        "phonons", node.material, cells, images[: len(images) * (len(pairs) > 1)].astype(np.float32)
    )


def model_errors(
    library: Library, node: Node, d: tuple[float, float], images: Floats, changes: Singles
) -> Errors:
    """What a library foretells of a structure that it was not built from, seen through lenses, less what the engine shows.

    Both have the same phonons: what is left is interpolation, and what the polynomial of a lens and its few modes leave.

    Parameters
    ----------
    library : Library
        With a lens, without errors so far.
    node : Node
        The structure's material, and the kind of its symmetry.
    d : (float, float)
        pm.
    images : ndarray (tilt_x, tilt_y, cells, y, x)
        At the held-out tilts and thicknesses of the library's request.
    changes : ndarray (term + lens, tilt_x, tilt_y, cells, y, x)
        By each term of the lens' polynomial, and what that leaves of the lenses of :meth:`~tiltsim.lens.LensBox.tried`.
    """
    request, samples = library.request, images.shape[-1]
    box, cells, axis = request.lens or LensBox(), request.held_out_cells, request.held_out_tilts.x
    count = len(terms())
    by_terms, left = symmetrized_terms(changes[:count], node.place, node.place), changes[count:]
    plain = symmetrized(images, node.place, node.place)
    thickness = np.array(cells) * EDGES[node.material]
    low, high = library.thickness_range
    inside = np.flatnonzero((thickness >= low) & (thickness <= high))
    state = {
        "thickness": thickness[inside], "d": np.broadcast_to(np.array(d), (len(inside), 2)),
        "material": library.materials.index(node.material), "samples": samples,
    }  # fmt: skip
    found = []
    for i, j in np.ndindex(len(axis), len(axis)):
        tilt = np.array([axis[i], axis[j]])
        for lens, rest in zip(box.tried(), left, strict=True):
            told, _ = library_periods(library, tilt, aberrations=lens, **state)
            true = plain[i, j] + np.tensordot(box.basis(lens), by_terms[:, i, j], (-1, 0)) + rest[i, j]
            found.append(told - true[inside])
    return Errors("model", node.material, tuple(cells[n] for n in inside), np.stack(found).astype(np.float32))


def error_table(found: Sequence[Errors]) -> xr.Dataset:
    """All errors.

    Returns
    -------
    Dataset
        ``library_error`` (error, error_y, error_x), fraction of the beam, an A column at the origin; with ``error_kind``,
        ``error_material``, and ``error_cells`` of each.
    """
    most = max(e.images.shape[-1] for e in found)
    images = [resample(e.images, most, most).reshape(-1, most, most) for e in found]
    return xr.Dataset(
        {
            "library_error": (
                ("error", "error_y", "error_x"), np.concatenate(images),
                {"units": "1", "long_name": "samples of the error of the library's images, fraction of the beam"},
            ),
            "error_kind": ("error", np.concatenate([np.full(len(i), e.kind) for e, i in zip(found, images, strict=True)])),
            "error_material": ("error", np.concatenate([np.full(len(i), e.material) for e, i in zip(found, images, strict=True)])),
            "error_cells": ("error", np.concatenate([np.tile(e.cells, len(e.images)) for e in found]), {"units": "1"}),
        }
    )  # fmt: skip
