"""A film of two domains on its substrate, and what tilt is known to add to d in each part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from tiltsim.errors import SettingsError
from tiltsim.film import EDGE, Film, blended, stretch


def lay_out_on_substrate(
    images: xr.Dataset, film: str, substrate: str, cells: tuple[int, int] = (40, 40), pixel: float = 0.18
) -> Film:
    """Two domains of one phase above a substrate: the left as simulated, the right mirrored along x.

    The substrate fills the lower third; the wall stands upright in the middle of what is above. The interface is
    coherent: all cells have the substrate's edge, so the film's are drawn slightly smaller (Sm-doped BiFeO3 on
    SrTiO3: 1.4 %). In a real film only the in-plane edge is the substrate's. d and its bias are drawn smaller by
    as much, which :func:`tiltsim.film.film_truth` and :func:`film_bias` take into account.

    Parameters
    ----------
    images : Dataset
        Simulated ``images``.
    film, substrate : str
        Which of its phases.
    cells : (int, int)
        Number of cells along x, y.
    pixel : float
        Å.

    Returns
    -------
    Film
        With the kinds 0: left domain, 1: right domain, 2: substrate.

    Raises
    ------
    SettingsError
        If a phase is not in the images.
    """
    names = [str(p) for p in images.phase.values]
    for name in (film, substrate):
        if name not in names:
            raise SettingsError(f"phase {name!r} is not in the images; choose from {', '.join(names)}.")
    upper, lower = names.index(film), names.index(substrate)
    periods = np.array([images.period_x.values[lower], images.period_y.values[lower]])
    lattice = float(np.mean(periods / np.round(periods / EDGE)))
    nx, ny = (round(n * lattice / pixel) for n in cells)
    # Wall and interface run along rows of A columns, which both sides share.
    right = np.arange(nx) * pixel > cells[0] // 2 * lattice
    below = np.arange(ny) * pixel > (cells[1] - cells[1] // 3) * lattice
    kind_of_pixel = np.where(below[:, None], 2, right.astype(int))
    kinds = ((upper, (1, 1)), (upper, (-1, 1)), (lower, (1, 1)))
    return Film(lattice, cells, pixel, kinds, blended(kind_of_pixel, len(kinds), pixel))


def film_bias(
    film: Film,
    truth: Mapping[str, xr.Dataset],
    response: xr.Dataset,
    tilt_mrad: tuple[float, float],
    thickness: float,
) -> xr.Dataset:
    """What tilt and thickness are known to add to d in every kind of domain of ``film``.

    A mirrored domain under a tilt is the mirror image of the simulated one under the mirrored tilt: the bias is
    looked up there and mirrored back.

    Parameters
    ----------
    film : Film
    truth : mapping
        Truth of each simulated specimen by name.
    response : Dataset
        From ``analysis.tilt_response``, of the phases that the film was laid out from, in that order.
    tilt_mrad : (float, float)
        Of the film.
    thickness : float
        Å.

    Returns
    -------
    Dataset
        ``d_bias`` and ``d_bias_sem`` (kind, component), pm, as the film is drawn.

    Raises
    ------
    SettingsError
        If that tilt, or one of its mirrors, is not in the response.
    """
    bias, sem = np.full((2, len(film.kinds), 2), np.nan)
    for kind, (phase, mirror) in enumerate(film.kinds):
        mirrored = {"tilt_x": mirror[0] * tilt_mrad[0], "tilt_y": mirror[1] * tilt_mrad[1]}
        one = response.isel(phase=phase)
        if all(float(value) in one[name] for name, value in {**mirrored, "thickness": thickness}.items()):
            at = one.sel(mirrored).sel(thickness=thickness)
            scale = stretch(truth[str(at.phase.values)], film.lattice)
            bias[kind], sem[kind] = at.d_bias.values * scale * mirror, at.d_bias_sem.values * scale
    if not np.isfinite(bias).all():
        raise SettingsError(
            f"tilt {tilt_mrad} mrad at {thickness:g} Å and its mirrors are not all in the tilt response; "
            "choose a tilt of a symmetric series."
        )
    dims, pm = ("kind", "component"), {"units": "pm"}
    return xr.Dataset(
        {"d_bias": (dims, bias, pm), "d_bias_sem": (dims, sem, pm)},
        coords={"component": ["x", "y"]},
    )
