"""Hold a response library against simulations at points that it was not built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import analysis
from tiltsim.errors import SettingsError
from tiltsim.images import evaluate
from tiltsim.library.building import node_job, simulated
from tiltsim.library.request import EDGES, LibraryRequest, Node
from tiltsim.library.response import Library
from tiltsim.library.symmetry import symmetrized
from tiltsim.settings import TiltSeries

#: Held-out tilts along each axis, in steps between nodes; symmetric, so that a mirrored crystal is seen at a mirrored tilt.
_BETWEEN = (-1.6, -0.4, 0.4, 1.6)

#: Thicknesses per check; they lie between the nodes.
_THICKNESSES = 6

#: Side of the images that are fitted, Å, and their pixel and source, Å.
_SIDE, _PIXEL, _SOURCE = 20.0, 0.15, 0.8


@dataclass(frozen=True)
class HeldOut:
    """A simulation that the library has to foretell.

    Parameters
    ----------
    label : str
        What it tests.
    node : Node
    d_pm : (float, float)
    fresh : bool
        With displacements of its own: the difference then holds the noise of both.
    """

    label: str
    node: Node
    d_pm: tuple[float, float]
    fresh: bool = False


def held_out(request: LibraryRequest) -> tuple[HeldOut, ...]:
    """Points between the nodes: tilt and thickness alone, displacement too, composition too, and all with other phonons."""
    p = request.polar_pm
    return (
        HeldOut("tilt and thickness", Node("BiFeO3", (1, 1)), (p, p)),
        HeldOut("and displacement", Node("BiFeO3", (1, 1)), (0.55 * p, 0.55 * p)),
        HeldOut("and Sm", Node("BiFeO3", (1, 1), samarium=request.samarium / 2), (0.55 * p, 0.55 * p)),
        HeldOut("SrTiO3, tilt and thickness", Node("SrTiO3"), (0.0, 0.0)),
        HeldOut("other phonons", Node("BiFeO3", (1, 1)), (0.79 * p, 0.79 * p), fresh=True),
    )


def check_library(
    library: Library,
    *,
    work: Path | None = None,
    thickest: float | None = None,
    pairs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Simulate held-out points with the engine and compare.

    Parameters
    ----------
    library : Library
    work : Path, optional
        Folder for finished units.
    thickest : float, optional
        Å; default the library's.
    pairs : int, optional
        Phonon pairs; default the library's. With fewer, noise adds to the errors of interpolation.
    progress : callable, optional
        Called as ``progress(done, expected)``.

    Returns
    -------
    xarray.Dataset
        dims (check, tilt_x, tilt_y, cells[, site, component]): ``nrmse``, rms difference over the image's rms, and
        ``position_error``, difference of fitted positions from the simulation's, pm; both for a source of 0.8 Å. The
        first checks share the phonons of the library's nodes, so that only interpolation differs; the last does not.

    Raises
    ------
    SettingsError
        If the library does not say how it was made.
    """
    request = library.request
    if pairs is not None:
        request = replace(request, phonons=replace(request.phonons, pairs=pairs))
    step = library.tilt_limit * 2 / (request.tilts - 1)
    axis = tuple(round(step * t, 4) for t in _BETWEEN)
    series = TiltSeries(axis, axis)
    limit = thickest or request.thickest
    between = [n + 2 for n in request.cells[:-1] if (n + 2) * EDGES["BiFeO3"] <= limit]
    if not between:
        raise SettingsError(f"thickest {limit:g} Å lies below the library's thicknesses; give a larger one.")
    cells = tuple(sorted({between[int(n)] for n in np.linspace(0, len(between) - 1, _THICKNESSES)}))
    results = []
    checks = held_out(request)
    for number, point in enumerate(checks):
        used = replace(
            request, phonons=replace(request.phonons, seed=request.phonons.seed + 1000 * point.fresh)
        )
        job = node_job(used, point.node, series, cells, point.d_pm)

        def counted(done: int, expected: int, number: int = number) -> None:
            if progress is not None:
                progress(number * expected + done, len(checks) * expected)

        images = symmetrized(
            simulated(job, work, progress=counted).mean(axis=0), point.node.place, point.node.place
        )
        results.append(_compared(library, point, images, series, cells, job.specimen.truth))
    return xr.concat(results, xr.DataArray([p.label for p in checks], dims="check", name="check"))


def _compared(
    library: Library, point: HeldOut, images: NDArray[np.float64], series: TiltSeries, cells: tuple[int, ...],
    truth: xr.Dataset,
) -> xr.Dataset:  # fmt: skip
    edge = EDGES[point.node.material]
    axis = np.arange(0.0, _SIDE, _PIXEL)
    simulation = evaluate(images, (edge, edge), axis, axis, _SOURCE)
    foretold = np.empty_like(simulation)
    for i, tilt_x in enumerate(series.x):
        for j, tilt_y in enumerate(series.y):
            for k, n in enumerate(cells):
                foretold[i, j, k] = library.uniform_image(
                    axis / edge,
                    axis / edge,
                    source_fwhm=_SOURCE / edge,
                    d=point.d_pm,
                    material=library.materials.index(point.node.material),
                    tilt=(tilt_x, tilt_y),
                    thickness=n * edge,
                    samarium=point.node.samarium,
                )
    difference = np.sqrt(((foretold - simulation) ** 2).mean(axis=(-1, -2)))
    mrad = {"units": "mrad"}
    coords = {
        "phase": ["it"], "tilt_x": ("tilt_x", np.array(series.x), mrad), "tilt_y": ("tilt_y", np.array(series.y), mrad),
        "thickness": ("thickness", np.array(cells) * edge, {"units": "Å"}),
        "y": ("y", axis, {"units": "Å"}), "x": ("x", axis, {"units": "Å"}),
    }  # fmt: skip
    shifts = [
        analysis.tilt_response(
            xr.Dataset(
                {"intensity": (("phase", "tilt_x", "tilt_y", "thickness", "y", "x"), picture[None])}, coords
            ),
            {"it": truth},
        )["shift"].isel(phase=0, drop=True)
        for picture in (foretold, simulation)
    ]
    dims = ("tilt_x", "tilt_y", "cells")
    return xr.Dataset(
        {
            "nrmse": (dims, difference / np.sqrt((simulation**2).mean(axis=(-1, -2))), {"units": "1"}),
            "position_error": ((*dims, "site", "component"), (shifts[0] - shifts[1]).values, {"units": "pm"}),
        },
        coords={
            "tilt_x": coords["tilt_x"], "tilt_y": coords["tilt_y"],
            "cells": ("cells", np.array(cells), {"units": "1"}), "site": ["A", "B"], "component": ["x", "y"],
        },
    )  # fmt: skip
