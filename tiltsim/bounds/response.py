"""The image of one averaged cell and how it changes with tilt, thickness and displacement: from a library or the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltsim.errors import SettingsError
from tiltsim.images import evaluate
from tiltsim.lens import COMPONENTS
from tiltsim.library import Library, LibraryRequest
from tiltsim.library.building import node_job, simulated
from tiltsim.library.request import EDGES, Node
from tiltsim.library.response import column_share
from tiltsim.settings import Microscope, TiltSeries

Floats = NDArray[np.float64]

#: What of the specimen an image depends on here, and its units.
SPECIMEN = {"tilt_x": "mrad", "tilt_y": "mrad", "thickness": "Å", "d_x": "pm", "d_y": "pm"}

#: Samples of a period along each axis: the engine's images need 15 to 20.
_SAMPLES = 40

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
        Derivative by each of :data:`SPECIMEN`, and perhaps of :data:`ABERRATIONS`, per its unit (Å).
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


def library_periods(
    library: Library, tilt: ArrayLike, thickness: ArrayLike, d: ArrayLike, *, material: ArrayLike = 0,
    samples: int = _SAMPLES, aberrations: ArrayLike | None = None, edges: ArrayLike | None = None,
    samarium: ArrayLike = 0.0,
) -> tuple[Floats, dict[str, Floats]]:  # fmt: skip
    """Images of uniform crystals over one period, an A column at the origin, and their derivatives.

    Parameters
    ----------
    library : Library
    tilt, d : array_like, shape (..., 2)
        mrad, pm.
    thickness : array_like, shape (...)
        Å.
    material : array_like of int, shape (...)
        Index into the library's materials.
    samples : int
        Along each axis of a period.
    aberrations : array_like, shape (..., 5), optional
        :data:`tiltsim.lens.COMPONENTS`, Å, of a library with a lens.
    edges : array_like, shape (..., 2), optional
        Of the cell along x and y, Å, where it is strained: columns keep their images and stand further apart.
    samarium : array_like, shape (...)
        Fraction.

    Returns
    -------
    image : ndarray, shape (..., samples, samples)
        Fraction of the beam, without a source: the same as :meth:`Library.uniform_image`.
    slopes : dict of str to ndarray, same shape
        By each of :data:`SPECIMEN`, per its unit, and with ``aberrations`` by each of them.

    Raises
    ------
    SettingsError
        If a state lies beyond the library, or the library has no lens.
    """
    d, material = np.asarray(d, dtype=float), np.asarray(material)
    shape = d.shape[:-1]
    state = {"tilt": tilt, "thickness": thickness, "d": d, "material": material, "samarium": samarium}
    axis = np.arange(samples) / samples
    own = np.broadcast_to(np.array(list(library.edges.values()))[material], shape)[..., None]
    scale = np.ones((*shape, 2)) if edges is None else np.broadcast_to(edges, (*shape, 2)) / own
    step = 0.01 / own / scale  # 1 pm in cells
    # B stands at half a cell less d; the images of A and B columns fade into each other as in a painted field.
    at_b = 0.5 - d * step
    pictures: dict[str, list[Floats]] = {}
    for site in ("A", "B"):
        orders, listed = _coefficients(library, site, state, aberrations)
        place = np.zeros_like(at_b) if site == "A" else at_b
        away = axis - place[..., None]
        away = (away - np.round(away)) * scale[..., None]
        along_x, along_y = (np.exp(2j * np.pi * away[..., i, :, None] * orders) for i in (0, 1))
        if site == "B":  # with d, B moves
            turn = 0.02j * np.pi * orders / own[..., None]
            listed["d_x"] = listed["d_x"] + listed[""] * turn
            listed["d_y"] = listed["d_y"] + listed[""] * np.swapaxes(turn, -1, -2)
        drawn = np.real(along_y @ np.stack(list(listed.values())) @ np.swapaxes(along_x, -1, -2))
        for name, picture in zip(listed, drawn, strict=True):
            pictures.setdefault(name, []).append(picture)
    share_a = column_share(axis, axis[:, None])

    def share_b(shift: tuple[float, float]) -> Floats:
        x, y = (axis - (at_b[..., i, None] - shift[i] * step[..., i, None]) for i in (0, 1))
        return column_share(x[..., None, :], y[..., :, None])

    b = share_b((0.0, 0.0))
    total = share_a + b
    of_a, of_b = pictures.pop("")
    slopes = {n: (share_a * of[0] + b * of[1]) / total for n, of in pictures.items()}
    for name, (i, j) in {"d_x": (1.0, 0.0), "d_y": (0.0, 1.0)}.items():
        fading = (share_b((i, j)) - share_b((-i, -j))) / 2.0
        slopes[name] += fading * share_a * (of_b - of_a) / total**2
    return (share_a * of_a + b * of_b) / total, slopes


def _coefficients(
    library: Library, site: str, state: Mapping[str, ArrayLike], aberrations: ArrayLike | None
) -> tuple[Floats, dict[str, NDArray[np.complex128]]]:
    """Orders, and Fourier coefficients (..., order_y, order_x) around a column: of the image, "", and its derivatives."""
    number, names = "AB".index(site), (None, *SPECIMEN)
    orders = library.dataset.order_x.values

    def scores(of_lens: bool, names: Sequence[str | None] = names) -> Floats:
        # What Sm does to the effect of aberrations is not known to the library.
        every = [library.scores(site, **state, derivative=n, of_lens=of_lens) for n in names]  # type: ignore[arg-type]
        return np.stack(np.broadcast_arrays(*every)).astype(np.float64)

    plain = np.tensordot(scores(False), library.coefficients[number], (-1, 0))
    found = dict(zip(("", *SPECIMEN), plain, strict=True))
    if aberrations is None:
        return orders, found
    if library.lens is None:
        raise SettingsError("the library knows no aberrations; build it with `tiltsim library build --lens`.")
    lens = np.asarray(aberrations, dtype=float)
    basis = [library.lens.basis(lens, n) for n in (None, *range(len(COMPONENTS)))]
    # Without aberrations there is nothing but slopes, each by one term.
    some = bool(basis[0].any())
    changed = scores(True, names if some else names[:1])
    weights = [one[..., :, None] * basis[0][..., None, :] for one in changed] if some else []
    weights += [changed[0][..., :, None] * of[..., None, :] for of in basis[1:]]
    # All in one product: the table is large.
    flat = np.stack(np.broadcast_arrays(*weights)).astype(np.float32)
    table = library.lens_coefficients[number]
    used = np.flatnonzero(np.any([of.reshape(-1, of.shape[-1]).any(axis=0) for of in basis], axis=0))
    if len(used) < table.shape[1]:
        flat, table = flat[..., used], table[:, used]
    lead = flat.shape[:-2]
    product = flat.reshape(-1, flat.shape[-2] * flat.shape[-1]) @ table.reshape(-1, table.shape[-1])
    kept, opposite = library.lens_orders
    half = product.reshape(*lead, 2, len(kept))
    half = half[..., 0, :] + 1j * half[..., 1, :]
    parts = np.zeros((*lead, len(orders) ** 2), dtype=np.complex64)
    parts[..., opposite] = half.conj()
    parts[..., kept] = half
    parts = parts.reshape(*lead, len(orders), len(orders))
    if some:
        for name, part in zip(("", *SPECIMEN), parts, strict=False):
            found[name] = found[name] + part
    return orders, found | dict(zip(COMPONENTS, parts[-len(COMPONENTS) :], strict=True))


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
        axis = np.arange(_SAMPLES) * edge / _SAMPLES
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
            axis = np.arange(_SAMPLES) * edge / _SAMPLES
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
