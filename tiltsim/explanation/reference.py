"""The region of an image that has no polarization: a substrate of SrTiO3 below its film, found by its dimmer A columns."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label
from skimage.filters import threshold_otsu

from analysis.tiling import lattice_grid, middles, usable_cells
from tiltsim.errors import SettingsError

#: Two kinds of A column are parted by so many standard deviations; each has this share of the cells at least, in one piece.
_APART, _SHARE, _WHOLE = 4.0, 0.04, 0.9

#: A is dimmer in the reference by this factor at least, and B over A brighter: Sr (38) against Bi (83) makes 2.3 and more of the first and 2.2 and
#: more of the second in films of 11 to 37 nm, variants under unlike tilts of one film 1.06 and 1.2.
_DIMMER, _RATIO = 1.4, 1.5

#: Smoothing of intensities before they are parted, cells.
_SMOOTH = 1.0


def find_reference(cells: xr.Dataset) -> NDArray[np.bool_]:
    """Which cells belong to the substrate; none where the image shows one material only.

    Parameters
    ----------
    cells : Dataset
        From ``analysis.measure``.
    """
    usable = usable_cells(cells)
    none = np.zeros(cells.sizes["cell"], dtype=bool)
    light_a, light_b = cells["intensity_a"].values, cells["intensity_b"].values
    usable &= (light_a > 0) & (light_b > 0)
    if usable.sum() < 40:
        return none
    rows, place = lattice_grid(cells)
    i, j = place.T

    def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        field, there = np.zeros(rows.shape), np.zeros(rows.shape)
        field[i[usable], j[usable]], there[i[usable], j[usable]] = np.log(values[usable]), 1.0
        share = gaussian_filter(there, _SMOOTH, mode="constant")
        return np.asarray((gaussian_filter(field, _SMOOTH, mode="constant") / np.maximum(share, 1e-9))[i, j])

    a, b = smoothed(light_a), smoothed(light_b)
    dim = a < threshold_otsu(a[usable])
    parts = [usable & dim, usable & ~dim]
    if min(p.sum() for p in parts) < _SHARE * usable.sum():
        return none
    # Quartiles: cells at the interface are neither.
    spread = [np.subtract(*np.percentile(a[p], [75, 25])) / 1.35 for p in parts]
    middle = [np.median(a[p]) for p in parts]
    ratio = [np.median((b - a)[p]) for p in parts]
    grid = np.zeros(rows.shape, dtype=bool)
    grid[i[parts[0]], j[parts[0]]] = True
    pieces, _ = label(grid)
    largest = np.bincount(pieces[grid]).max()
    found = (
        middle[1] - middle[0] > max(_APART * float(np.hypot(*spread)), np.log(_DIMMER))
        and ratio[0] - ratio[1] > np.log(_RATIO)
        and largest >= _WHOLE * grid.sum()
    )
    return parts[0] if found else none


def in_box(cells: xr.Dataset, box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """Cells whose middle lies in a box (x0, y0, x1, y1), Å.

    Raises
    ------
    SettingsError
        If the box is empty, or holds no cell.
    """
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise SettingsError(f"reference {list(box)} must be x0 < x1 and y0 < y1, Å.")
    x, y = middles(cells).T
    inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    if not inside.any():
        raise SettingsError(f"reference {list(box)} Å holds no cell of the image; give a box within it.")
    return np.asarray(inside)
