"""Uniform crystals, and pieces of their images that show a given number of cells: what estimates of tilt are tried on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tiltsim.bounds.folding import Grating, grating
from tiltsim.errors import SettingsError
from tiltsim.library import Library
from tiltsim.synth import synthesize
from tiltsim.synth.faults import Faults
from tiltsim.synth.labelling import true_cells
from tiltsim.synth.probe import ProbeFaults
from tiltsim.synth.recipe import Recipe
from tiltsim.synth.specimen_request import SpecimenRequest

Floats = NDArray[np.float64]

#: Largest tilt of a field, mrad; static disorder, pm, of every other field.
_TILT, _DISORDER = 10.0, 2.0

#: Pixel and source, Å.
PIXEL, SOURCE = 0.2, 0.8

#: Thicknesses that are drawn, Å, where the library has them, and d relative to bulk.
_THICKNESS, _POLAR, _BULK = (50.0, 390.0), (0.2, 1.2), 23.6

#: Two pixels to spare around a window.
_SPARE = 2


@dataclass(frozen=True, eq=False)
class UniformField:
    """A crystal that is the same everywhere, free of noise, and what is true of it."""

    image: xr.DataArray
    cells: xr.Dataset
    lattice: Grating
    tilt: Floats
    thickness: float
    d: Floats


def uniform_field(library: Library, edge: float, seed: int, number: int) -> UniformField:
    """Draw one field.

    Parameters
    ----------
    library : Library
    edge : float
        Of the square image, Å.
    seed, number : int
        Every field is a function of the library and of these; odd ones have static disorder of 2 pm.
    """
    limit, thickness = drawn(library)
    disorder = _DISORDER * (number % 2)
    specimen = SpecimenRequest(
        phase="R3c", polar=_POLAR, tilt=(0.0, limit), rotation=(-3.0, 3.0), disorder_a=disorder, disorder_b=disorder,
        thickness=thickness,
    )  # fmt: skip
    pixels = int(np.ceil(edge / PIXEL))
    recipe = Recipe(
        title="One uniform crystal", size=(max(64, pixels),) * 2, pixel=PIXEL, specimens=(specimen,),
        faults=Faults(probe=ProbeFaults(source_fwhm=SOURCE)),
    )  # fmt: skip
    field = synthesize(recipe, library, seed, number)
    cells = true_cells(field.truth)
    lattice = grating(np.column_stack([cells.x.values, cells.y.values]))
    return UniformField(
        field.image,
        cells,
        lattice,
        cells["tilt"].values.mean(axis=0),
        float(cells["thickness"].mean()),
        cells["d"].values.mean(axis=0),
    )


def drawn(library: Library) -> tuple[float, tuple[float, float]]:
    """Largest tilt, mrad, and range of thickness, Å, of the fields: as far as ``library`` goes."""
    low, high = library.thickness_range
    # The tilt's components along a turned lattice stay within the library.
    return min(_TILT, library.tilt_limit / 1.3), (
        max(low * 1.02, min(_THICKNESS[0], high / 2)),
        min(_THICKNESS[1], high * 0.98),
    )


def priors(library: Library) -> dict[str, tuple[float, float]]:
    """Means and widths of Gaussians as wide as what :func:`uniform_field` draws."""
    limit, (low, high) = drawn(library)
    tilt = limit / np.sqrt(6.0)  # a modulus that is even in 0 to limit, in any direction
    d = _BULK * float(np.sqrt((_POLAR[1] ** 3 - _POLAR[0] ** 3) / 3 / (_POLAR[1] - _POLAR[0])))
    return {
        "tilt_x": (0.0, tilt), "tilt_y": (0.0, tilt), "thickness": ((low + high) / 2, (high - low) / np.sqrt(12)),
        "d_x": (0.0, d), "d_y": (0.0, d),
    }  # fmt: skip


def patches(field: UniformField, cells: float, window: float, most: int) -> list[xr.DataArray]:
    """Disjoint square pieces of an image that show as many ``cells``, or one ``window`` (Å) where that is more.

    The first piece lies as central as a whole number of pieces allows; a piece of a single window is centred on a B column.
    """
    area = float(abs(np.linalg.det(field.lattice.frame)))
    side = max(np.sqrt(cells * area), window + _SPARE * PIXEL)
    size = round(side / PIXEL)
    rows, columns = field.image.shape
    if size > min(rows, columns):
        raise SettingsError(
            f"cells {cells:g} do not fit into a field of {rows} × {columns} pixels; make it larger."
        )
    found: list[xr.DataArray] = []
    xy = np.column_stack([field.cells.x.values, field.cells.y.values])
    count = min(rows, columns) // size
    start = (min(rows, columns) - count * size) // 2
    for i in range(count):
        for j in range(count):
            corner = np.array([start + j * size, start + i * size])  # x, y
            if side > np.sqrt(cells * area):
                # Onto the column nearest to the middle; pieces may then overlap by a part of a cell's edge at most.
                middle = (corner + size / 2) * PIXEL
                nearest = xy[np.argmin(((xy - middle) ** 2).sum(axis=1))]
                corner = np.clip(
                    np.round(nearest / PIXEL - (size - 1) / 2), 0, min(rows, columns) - size
                ).astype(int)
            found.append(
                field.image.isel(y=slice(corner[1], corner[1] + size), x=slice(corner[0], corner[0] + size))
            )
    # Spread over the field rather than from one corner.
    chosen = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))
    return [found[n] for n in chosen]


def cells_within(cells: xr.Dataset, image: xr.DataArray) -> xr.Dataset:
    """Those of ``cells`` whose B column ``image`` shows."""
    inside = np.ones(cells.sizes["cell"], dtype=bool)
    for name in ("x", "y"):
        axis = image[name].values
        inside &= (cells[name].values >= axis[0]) & (cells[name].values <= axis[-1])
    return cells.isel(cell=np.flatnonzero(inside))
