"""What the phonons of a library leave wrong with its images: samples of the error of its means."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tiltsim.images import resample
from tiltsim.library.request import Node
from tiltsim.library.symmetry import symmetrized

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

#: Tilts that errors are kept for, as shares of all along each axis.
_TILTS = ((0.5, 0.5), (0.25, 0.5), (0.5, 0.75), (0.75, 0.25), (0.25, 0.25), (0.625, 0.625))


def errors_of(node: Node, pairs: Floats) -> Singles:
    """Errors of the mean image of a node, as its phonon pairs differ.

    Parameters
    ----------
    node : Node
    pairs : ndarray (pair, tilt_x, tilt_y, cells, y, x)
        At least two.

    Returns
    -------
    ndarray (error, cells, y, x)
        The mean of their outer products estimates the covariance of the mean image.
    """
    away = (pairs - pairs.mean(axis=0)) / np.sqrt(len(pairs) - 1.0)
    found = []
    for one in away:
        whole = symmetrized(one, node.place, node.place)
        for shares in _TILTS:
            i, j = (round(s * (n - 1)) for s, n in zip(shares, whole.shape[:2], strict=True))
            found.append(whole[i, j].astype(np.float32))
    return np.stack(found)


def error_table(found: Mapping[Node, Singles], cells: tuple[int, ...]) -> xr.Dataset:
    """The errors of all nodes.

    Returns
    -------
    Dataset
        ``phonon_error`` (error, error_y, error_x), fraction of the beam, an A column at the origin, d as the node's; with
        ``error_material``, ``error_polar`` (d along x and y in steps of the nodes) and ``error_cells`` of each.
    """
    most = max(e.shape[-1] for e in found.values())
    images = [resample(e, most, most).reshape(-1, most, most) for e in found.values()]
    counts = [len(i) for i in images]
    return xr.Dataset(
        {
            "phonon_error": (
                ("error", "error_y", "error_x"), np.concatenate(images),
                {"units": "1", "long_name": "samples of the error of the mean over phonons, fraction of the beam"},
            ),
            "error_material": ("error", np.repeat([n.material for n in found], counts)),
            "error_polar": (("error", "component"), np.repeat([n.place for n in found], counts, axis=0)),
            "error_cells": ("error", np.concatenate([np.tile(cells, e.shape[0]) for e in found.values()]), {"units": "1"}),
        }
    )  # fmt: skip
