"""A film of domains laid out from simulated cells: labelled images for training and for seeing tilt.

Each domain shows one simulated phase in one of the four variants that mirrors of the projection give.
A mirror of the specimen mirrors the tilt too, so variant images at tilt (tx, ty) are mirrored images of the
simulated variant at (±tx, ±ty). Domains meet through a soft wall; strain and each variant's own lean are
left out (all domains share one lattice and one tilt).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from tiltsim.config import FieldRequest
from tiltsim.errors import SettingsError
from tiltsim.synth.domains import spread

#: Gaussian half-width of a domain wall, Å: about half a unit cell.
_WALL = 2.0

#: Pseudocubic edge, Å, good enough to count the cells in a period.
EDGE = 3.95

#: Mirrors of the projection (x, y): the four in-plane variants.
_MIRRORS = ((1, 1), (-1, 1), (1, -1), (-1, -1))


@dataclass(frozen=True, eq=False)
class Film:
    """Domains of a film: the same at every tilt.

    Parameters
    ----------
    lattice : float
        Edge of the common square cell, Å.
    cells : (int, int)
        Number of cells along x, y.
    pixel : float
        Å.
    kinds : tuple of (int, (int, int))
        Phase index and mirror of every kind of domain.
    weights : ndarray, shape (kinds, ny, nx)
        Share of each kind at every pixel.
    """

    lattice: float
    cells: tuple[int, int]
    pixel: float
    kinds: tuple[tuple[int, tuple[int, int]], ...]
    weights: NDArray[np.float32]

    @property
    def x(self) -> NDArray[np.float64]:
        """Pixel coordinates along x, Å."""
        return np.arange(self.weights.shape[2], dtype=np.float64) * self.pixel

    @property
    def y(self) -> NDArray[np.float64]:
        """Pixel coordinates along y, Å."""
        return np.arange(self.weights.shape[1], dtype=np.float64) * self.pixel


def lay_out(images: xr.Dataset, request: FieldRequest, phases: list[str], seed: int) -> Film:
    """Random domains, evenly shared by ``phases`` and their four variants.

    Parameters
    ----------
    images : Dataset
        Simulated ``images``; gives the mean lattice.
    request : FieldRequest
        Size and number of domains.
    phases : list of str
        Which phases take part.
    seed : int
        Of the positions and kinds of the domains.
    """
    index = [list(images.phase.values).index(p) for p in phases]
    chosen = images.isel(phase=index)
    periods = np.r_[chosen.period_x.values, chosen.period_y.values]
    lattice = float(np.mean(periods / np.round(periods / EDGE)))
    kinds = tuple((i, mirror) for i in index for mirror in _MIRRORS)
    rng = np.random.default_rng(seed)
    nx, ny = (round(n * lattice / request.pixel) for n in request.cells)
    size = np.array([nx, ny]) * request.pixel
    centres = spread(rng, request.domains, size)
    # Even shares in random order: every kind appears on both sides of a split.
    order = np.concatenate([rng.permutation(len(kinds)) for _ in range(-(-request.domains // len(kinds)))])[
        : request.domains
    ]
    grid_y, grid_x = np.meshgrid(np.arange(ny) * request.pixel, np.arange(nx) * request.pixel, indexing="ij")
    _, nearest = cKDTree(centres).query(np.stack([grid_x, grid_y], axis=-1))
    kind_of_pixel = order[nearest]
    weights = blended(kind_of_pixel, len(kinds), request.pixel)
    return Film(lattice, request.cells, request.pixel, kinds, weights)


def blended(kind_of_pixel: NDArray[np.int_], kinds: int, pixel: float) -> NDArray[np.float32]:
    """Share of every kind at every pixel (of ``pixel`` Å), shape (kinds, ny, nx): walls are soft."""
    weights = np.stack(
        [
            gaussian_filter((kind_of_pixel == k).astype(np.float32), _WALL / pixel, mode="nearest")
            for k in range(kinds)
        ]
    )
    return np.asarray(weights / weights.sum(axis=0))


def _mirrored_axis(
    coordinate: NDArray[np.float64], mirror: int, lattice: float, period: float, extent: float
) -> NDArray[np.float64]:
    """Where a periodic image of side ``extent`` shows ``coordinate`` of the film, mirrored about an A column.

    Kept in the middle of the image, where interpolation is safe.
    """
    edge = period / round(period / EDGE)
    start = (extent - period) / 2
    return start + np.mod(mirror * coordinate / lattice * edge - start, period)


def render(film: Film, images: xr.Dataset, tilt_mrad: tuple[float, float], thickness: float) -> xr.DataArray:
    """Noise-free image of ``film`` at one of the simulated tilts and thicknesses.

    Returns
    -------
    DataArray (y, x)
        Fraction of the incident beam.

    Raises
    ------
    SettingsError
        If that tilt, or one of its mirrors, was not simulated.
    """
    pixel = float(images.x[1] - images.x[0])
    extent = images.sizes["x"] * pixel
    result = np.zeros(film.weights.shape[1:])
    for weight, (phase, (mx, my)) in zip(film.weights, film.kinds, strict=True):
        try:
            source = images.intensity.isel(phase=phase).sel(
                tilt_x=mx * tilt_mrad[0], tilt_y=my * tilt_mrad[1], thickness=thickness
            )
        except KeyError:
            source = None
        if source is None or not np.isfinite(source).all():
            raise SettingsError(
                f"tilt {tilt_mrad} mrad at {thickness:g} Å and its mirrors are not all in the simulated images; "
                "choose a simulated tilt of a symmetric series."
            )
        px, py = float(images.period_x[phase]), float(images.period_y[phase])
        x = _mirrored_axis(film.x, mx, film.lattice, px, extent) / pixel
        y = _mirrored_axis(film.y, my, film.lattice, py, extent) / pixel
        rows, columns = np.meshgrid(y, x, indexing="ij")
        result += weight * map_coordinates(source.values.astype(float), [rows, columns], order=3)
    angstrom = {"units": "Å"}
    return xr.DataArray(
        result.astype(np.float32),
        dims=("y", "x"),
        coords={"y": ("y", film.y, angstrom), "x": ("x", film.x, angstrom)},
        attrs={
            "units": "1",
            "long_name": "fraction of the incident beam",
            "pixel_size_angstrom": film.pixel,
            "calibrated": 1,
            "source": "tiltsim film of domains",
            "tilt_x_mrad": float(tilt_mrad[0]),
            "tilt_y_mrad": float(tilt_mrad[1]),
            "thickness_angstrom": float(thickness),
        },
    )


def stretch(truth: xr.Dataset, lattice: float) -> NDArray[np.float64]:
    """By how much a film of edge ``lattice`` (Å) draws the cells of a specimen larger, along x and y."""
    periods = np.array([truth.attrs["period_x"], truth.attrs["period_y"]])
    return np.asarray(lattice / (periods / np.round(periods / EDGE)))


def domain_shares(film: Film, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of every kind of domain at positions in Å, shape (positions, kinds)."""
    return np.stack(
        [map_coordinates(w, [y / film.pixel, x / film.pixel], order=1) for w in film.weights], axis=1
    )


def film_truth(film: Film, truth: dict[str, xr.Dataset], phases: list[str]) -> xr.Dataset:
    """True polar displacement of every cell of ``film``, away from its border.

    Parameters
    ----------
    film : Film
    truth : mapping
        Truth of each simulated specimen by name.
    phases : list of str
        All phases of the images the film was made from, in order.

    Returns
    -------
    Dataset
        ``x``, ``y`` (cell): centre of the A cage, Å; ``d`` (cell, component), pm, walls as blended in the
        image; ``kind`` and ``share``: the domain kind with the largest share there, and its share.
    """
    n = [np.arange(1, count - 1) + 0.5 for count in film.cells]
    grid_y, grid_x = np.meshgrid(n[1] * film.lattice, n[0] * film.lattice, indexing="ij")
    x, y = grid_x.ravel(), grid_y.ravel()
    share = domain_shares(film, x, y)
    of_kind = [(truth[phases[phase]], mirror) for phase, mirror in film.kinds]
    d = np.array(
        [one.cell_d.mean("cell").values * stretch(one, film.lattice) * mirror for one, mirror in of_kind]
    )
    angstrom = {"units": "Å"}
    return xr.Dataset(
        {
            "x": ("cell", x, angstrom),
            "y": ("cell", y, angstrom),
            "d": (
                ("cell", "component"),
                share @ d,
                {"units": "pm", "long_name": "true mean of surrounding A columns − B column"},
            ),
            "kind": ("cell", share.argmax(axis=1), {"units": "1"}),
            "share": ("cell", share.max(axis=1), {"units": "1"}),
        },
        coords={"component": ["x", "y"]},
        attrs={"kinds": "; ".join(f"{phases[p]} mirrored ({mx:+d}, {my:+d})" for p, (mx, my) in film.kinds)},
    )


def beside_truth(
    measured: xr.Dataset, truth: xr.Dataset, tilt: tuple[float, float], lattice: float
) -> xr.Dataset:
    """Fitted cells with the true cell each belongs to; cells without one (the border) are left out.

    Off the axis the whole pattern drifts, by less than half a cell at the tilts and thicknesses allowed
    here, but a single cell's match is made after removing the mean drift.
    """
    tree = cKDTree(np.c_[truth.x, truth.y])
    found = np.c_[measured.x, measured.y]
    drift = np.zeros(2)
    for _ in range(3):
        distance, nearest = tree.query(found - drift)
        offset = found - np.c_[truth.x, truth.y][nearest]
        drift = np.median(offset[distance < lattice / 2], axis=0)
    distance, nearest = tree.query(found - drift)
    keep = np.flatnonzero(distance < lattice / 3)
    matched = truth.isel(cell=nearest[keep])
    n = len(keep)
    chosen = measured.isel(cell=keep).drop_attrs(deep=False)
    return chosen.assign(
        d_true=(("cell", "component"), matched.d.values, dict(truth.d.attrs)),
        kind=("cell", matched.kind.values, {"units": "1"}),
        share=("cell", matched.share.values, {"units": "1", "long_name": "largest domain share"}),
        tilt_x=("cell", np.full(n, tilt[0]), {"units": "mrad"}),
        tilt_y=("cell", np.full(n, tilt[1]), {"units": "mrad"}),
    )


def at_tilt(cells: xr.Dataset, tilt: tuple[float, float]) -> xr.Dataset:
    """Cells of the film fitted at one tilt."""
    return cells.isel(cell=np.flatnonzero((cells.tilt_x == tilt[0]) & (cells.tilt_y == tilt[1])))
