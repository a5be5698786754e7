"""The image of one averaged cell and how it changes with tilt, thickness and displacement: from a library or the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiltsim.errors import SettingsError
from tiltsim.images import evaluate
from tiltsim.library import Library, LibraryRequest
from tiltsim.library.building import node_job, simulated
from tiltsim.library.periods import SAMPLES, library_periods
from tiltsim.library.request import EDGES, Node
from tiltsim.settings import Microscope, TiltSeries

Floats = NDArray[np.float64]

#: Steps of central differences: tilt, mrad (a plane wave's spacing, so that the ring's jumps from wave to wave average out); d, pm;
#: thickness, cells (octahedra alternate).
_TILT_STEP, _D_STEP, _CELL_STEP = 1.6, 4.0, 2

#: Of aberrations, Å, see :data:`ABERRATIONS`.
_ABERRATION_STEP = {"defocus": 10.0, "C12": 5.0, "C21": 100.0}

#: Aberrations as components, and their abTEM name and direction in rad: C21_y is C21 along +y.
ABERRATIONS: dict[str, tuple[str, float]] = {
    "defocus": ("defocus", 0.0),
    "C12_x": ("C12", 0.0),
    "C12_y": ("C12", np.pi / 4),
    "C21_x": ("C21", 0.0),
    "C21_y": ("C21", np.pi / 2),
}


@dataclass(frozen=True, eq=False)
class CellResponse:
    """One period of the image of a uniform crystal, before the source's blur, and its derivatives.

    Parameters
    ----------
    image : ndarray, shape (n, n)
        Fraction of the incident beam at k · edge / n, an A column at the origin.
    slopes : mapping of str to ndarray (n, n)
        Derivative by each of :data:`~tiltsim.library.periods.SPECIMEN`, and perhaps of :data:`ABERRATIONS`, per its unit (Å).
    edge : float
        Of the cell, Å.
    microscope : Microscope
        That the image was computed for.
    tilt, d : (float, float)
        mrad, pm.
    thickness : float
        Å.
    """

    image: Floats
    slopes: Mapping[str, Floats]
    edge: float
    microscope: Microscope
    tilt: tuple[float, float]
    thickness: float
    d: tuple[float, float]


def library_response(
    library: Library, *, tilt: tuple[float, float], thickness: float, d: tuple[float, float] = (0.0, 0.0),
    material: int = 0,
) -> CellResponse:  # fmt: skip
    """Image and derivatives from a response library, whose splines have derivatives of their own.

    Parameters
    ----------
    library : Library
    tilt, d : (float, float)
        mrad, pm.
    thickness : float
        Å.
    material : int
        Index into the library's materials.

    Raises
    ------
    SettingsError
        If the state lies beyond the library.
    """
    image, slopes = library_periods(library, tilt, thickness, d, material=material)
    return CellResponse(
        image,
        slopes,
        list(library.edges.values())[material],
        replace(library.request.microscope, source_fwhm=0.0),
        (float(tilt[0]), float(tilt[1])),
        float(thickness),
        (float(d[0]), float(d[1])),
    )


def engine_derivatives(
    request: LibraryRequest,
    *,
    tilt: tuple[float, float],
    thickness: float,
    d: tuple[float, float] = (0.0, 0.0),
    aberrations: tuple[str, ...] = (),
    tilt_step_mrad: float = _TILT_STEP,
    work: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> CellResponse:
    """Image and derivatives from the scattering-matrix engine, without a library between.

    All differences are of simulations with the same phonons. Tilts are read from one scattering matrix, thicknesses from its
    exit planes; each component of d, and each aberration, takes two more simulations.

    Parameters
    ----------
    request : LibraryRequest
        Its microscope, detector and phonons; :class:`LibraryRequest` () is the default library's.
    tilt, d : (float, float)
        mrad, pm.
    thickness : float
        Å; rounded to an even number of cells, see the result's.
    aberrations : tuple of str
        Of :data:`ABERRATIONS`, also to differentiate by.
    tilt_step_mrad : float
        Half the distance of the tilts in a difference.
    work : Path, optional
        Folder for finished units.
    device : {"auto", "cpu", "cuda"}
    progress : callable, optional
        Called as ``progress(done, expected)`` after each simulation.

    Returns
    -------
    CellResponse

    Raises
    ------
    SettingsError
        If an aberration is unknown or a setting impossible.
    """
    unknown = set(aberrations) - set(ABERRATIONS)
    if unknown:
        raise SettingsError(f"aberration {min(unknown)!r} is unknown; choose among {', '.join(ABERRATIONS)}.")
    edge = EDGES["BiFeO3"]
    cells = max(2 + _CELL_STEP, 2 * round(thickness / edge / 2))
    h = tilt_step_mrad
    stencil = TiltSeries((tilt[0] - h, tilt[0], tilt[0] + h), (tilt[1] - h, tilt[1], tilt[1] + h))
    single = TiltSeries((tilt[0],), (tilt[1],))
    total, done = 1 + 4 + 2 * len(aberrations), 0

    def run(
        series: TiltSeries, planes: tuple[int, ...], shift: tuple[float, float], changed: LibraryRequest
    ) -> Floats:
        nonlocal done
        job = node_job(changed, Node("BiFeO3"), series, planes, (d[0] + shift[0], d[1] + shift[1]), device)
        # The band limit must not change with the tilts that happen to be asked for: node_job takes the request's.
        found = simulated(job, work).mean(axis=0)
        done += 1
        if progress is not None:
            progress(done, total)
        axis = np.arange(SAMPLES) * edge / SAMPLES
        return evaluate(found, (edge, edge), axis, axis)

    # Every job must have the same slab, or phonons would differ: the deepest plane is asked for in all.
    planes = (cells - _CELL_STEP, cells, cells + _CELL_STEP)
    centre = run(stencil, planes, (0.0, 0.0), request)
    slopes = {
        "tilt_x": (centre[2, 1, 1] - centre[0, 1, 1]) / (2 * h),
        "tilt_y": (centre[1, 2, 1] - centre[1, 0, 1]) / (2 * h),
        "thickness": (centre[1, 1, 2] - centre[1, 1, 0]) / (2 * _CELL_STEP * edge),
    }
    for number, name in enumerate(("d_x", "d_y")):
        ends = []
        for sign in (1.0, -1.0):
            shift = (sign * _D_STEP, 0.0) if number == 0 else (0.0, sign * _D_STEP)
            ends.append(run(single, planes, shift, request)[0, 0, 1])
        slopes[name] = (ends[0] - ends[1]) / (2 * _D_STEP)
    for name in aberrations:
        size = _ABERRATION_STEP[ABERRATIONS[name][0]]
        ends = []
        for sign in (1.0, -1.0):
            lens = replace(request.microscope, aberrations=aberration(name, sign * size))
            # Not replaced in the request, which refuses what is not round.
            job = node_job(request, Node("BiFeO3"), single, planes, d, device)
            job = replace(job, microscope=replace(lens, source_fwhm=0.0))
            axis = np.arange(SAMPLES) * edge / SAMPLES
            ends.append(evaluate(simulated(job, work).mean(axis=0), (edge, edge), axis, axis)[0, 0, 1])
            done += 1
            if progress is not None:
                progress(done, total)
        slopes[name] = (ends[0] - ends[1]) / (2 * size)
    microscope = replace(request.microscope, source_fwhm=0.0)
    return CellResponse(centre[1, 1, 1], slopes, edge, microscope, tilt, cells * edge, d)


def aberration(name: str, size: float) -> dict[str, float]:
    """One component of :data:`ABERRATIONS` of ``size`` Å, of either sign, under abTEM's names."""
    symbol, angle = ABERRATIONS[name]
    if symbol == "defocus":
        return {"defocus": size}
    order = int(symbol[2])
    turned = angle - (np.pi / order if size < 0 else 0.0)  # cos(m(φ − φ0)) changes its sign
    return {symbol: abs(size), f"phi{symbol[1:]}": turned}
