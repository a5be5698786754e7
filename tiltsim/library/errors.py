"""What is wrong with the images of a library: its phonons are few, and what it makes of a lens leaves a rest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tiltsim.images import resample
from tiltsim.lens import COMPONENTS, LensBox
from tiltsim.library.lens_modes import symmetrized_terms
from tiltsim.library.periods import library_periods
from tiltsim.library.request import EDGES, Node
from tiltsim.library.response import ERROR_KINDS, Library
from tiltsim.library.symmetry import symmetrized

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

#: Tilts that errors are kept for, as shares of all along each axis.
_TILTS = ((0.5, 0.5), (0.25, 0.5), (0.5, 0.75), (0.75, 0.25), (0.25, 0.25), (0.625, 0.625))


def phonon_errors(node: Node, pairs: Floats) -> Singles:
    """Errors of the mean image of a node, as its phonon pairs differ.

    Parameters
    ----------
    node : Node
    pairs : ndarray (pair, tilt_x, tilt_y, cells, y, x)

    Returns
    -------
    ndarray (error, cells, y, x)
        The mean of their outer products estimates the covariance of the mean image; none from a single pair.
    """
    if len(pairs) < 2:
        return np.zeros((0, *pairs.shape[3:]), dtype=np.float32)
    away = (pairs - pairs.mean(axis=0)) / np.sqrt(len(pairs) - 1.0)
    return np.concatenate([_at_tilts(symmetrized(one, node.place, node.place)) for one in away])


def lens_errors(library: Library, node: Node, changes: Singles, left: Singles) -> Singles:
    """What a library makes of lenses less what they do: its polynomial and its few modes leave something.

    Parameters
    ----------
    library : Library
        With a lens, without errors so far.
    node : Node
    changes : ndarray (term, tilt_x, tilt_y, cells, y, x)
        By each term of the polynomial.
    left : ndarray (lens, tilt_x, tilt_y, cells, y, x)
        What that leaves of the lenses of :meth:`~tiltsim.lens.LensBox.tried`.

    Returns
    -------
    ndarray (error, cells, y, x)
    """
    request = library.request
    box, tilts = request.lens or LensBox(), request.series.x
    cells, samples = request.cells, changes.shape[-1]
    changes = symmetrized_terms(changes, node.place, node.place)
    state = {
        "thickness": np.array(cells) * EDGES[node.material],
        "d": np.broadcast_to(np.array(node.place) * request.step_pm, (len(cells), 2)),
        "material": library.materials.index(node.material),
        "samples": samples,
    }
    found = []
    for i, j in _places(changes.shape[1]):
        tilt = np.array([tilts[i], tilts[j]])
        none, _ = library_periods(library, tilt, aberrations=np.zeros(len(COMPONENTS)), **state)
        for lens, rest in zip(box.tried(), left, strict=True):
            told, _ = library_periods(library, tilt, aberrations=lens, **state)
            true = np.tensordot(box.basis(lens), changes[:, i, j], (-1, 0)) + rest[i, j]
            found.append(true - (told - none))
    return np.stack(found).astype(np.float32)


def _at_tilts(images: NDArray[np.floating]) -> Singles:
    """Some of the tilts (tilt, cells, y, x) of images (tilt_x, tilt_y, cells, y, x)."""
    return np.stack([images[i, j].astype(np.float32) for i, j in _places(images.shape[0])])


def _places(count: int) -> list[tuple[int, int]]:
    """Numbers of these tilts among ``count`` along each axis."""
    return [(round(x * (count - 1)), round(y * (count - 1))) for x, y in _TILTS]


def error_table(found: Mapping[Node, tuple[Singles, Singles]], cells: tuple[int, ...]) -> xr.Dataset:
    """The errors of all nodes, of :func:`phonon_errors` and of :func:`lens_errors`.

    Returns
    -------
    Dataset
        ``library_error`` (error, error_y, error_x), fraction of the beam, an A column at the origin, d as the node's; with
        ``error_kind`` ("phonons" or "lens"), ``error_material``, and ``error_cells`` of each.
    """
    most = max(e.shape[-1] for both in found.values() for e in both)
    images, kind, material, thick = [], [], [], []
    for node, both in found.items():
        for name, errors in zip(ERROR_KINDS, both, strict=True):
            if len(errors):
                images.append(resample(errors, most, most).reshape(-1, most, most))
                kind += [name] * len(images[-1])
                material += [node.material] * len(images[-1])
                thick.append(np.tile(cells, len(errors)))
    return xr.Dataset(
        {
            "library_error": (
                ("error", "error_y", "error_x"), np.concatenate(images),
                {"units": "1", "long_name": "samples of the error of the library's images, fraction of the beam"},
            ),
            "error_kind": ("error", kind),
            "error_material": ("error", material),
            "error_cells": ("error", np.concatenate(thick), {"units": "1"}),
        }
    )  # fmt: skip
