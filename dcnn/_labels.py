"""Labels: which displacement belongs to a window, and on which side of the field it lies."""

from __future__ import annotations

from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import Delaunay, QhullError, cKDTree

from dcnn._errors import ModelError
from dcnn._windows import ANGSTROM, Centres, Windows, frame, grid, positions, sub_images

Subset = Literal["train", "test"]

COMPONENTS = ("x", "y")
DISPLACEMENT = {
    "units": "pm",
    "long_name": "polar displacement, mean of the surrounding A columns − B column",
}
_LONGEST_EDGE = 2.5  # in lattice spacings: one missing cell is bridged, a gap of two is not


def split_line(image: xr.DataArray, fraction: float = 2 / 3) -> float:
    """Position x (Å) of the line that leaves ``fraction`` of the image's width on its left."""
    box = frame(image)
    return float(box.origin[0] + fraction * (box.last[0] - box.origin[0]))


def split(centres: Centres, windows: Windows, split_x: float) -> NDArray[np.str_]:
    """Sort windows into those wholly left and wholly right of a line.

    Windows that the line crosses form a guard band, so no training window shares a pixel with a test
    window.

    Parameters
    ----------
    centres : xarray.Dataset or array_like
        Window centres in Å: variables x and y, or shape (n, 2).
    windows : Windows
        Gives the width of a window.
    split_x : float
        Position of the line in Å, see `split_line`.

    Returns
    -------
    numpy.ndarray
        Shape (n,): "train", "guard" or "test".

    Raises
    ------
    ModelError
        If the centres cannot be read.
    """
    x = positions(centres)[:, 0]
    half = windows.size_angstrom / 2
    return np.where(x + half <= split_x, "train", np.where(x - half >= split_x, "test", "guard"))


def usable_cells(cells: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read positions (n, 2) in Å and labels (n, 2) in pm of the cells that are not flagged.

    Raises
    ------
    ModelError
        If a variable is missing or in other units, or a label of an unflagged cell is not finite.
    """
    if not isinstance(cells, xr.Dataset) or "d" not in cells:
        raise ModelError("The cells must be an xarray.Dataset with variables x, y and d.")
    d = cells["d"]
    if set(d.dims) != {"cell", "component"} or set(d.coords.get("component", d).values.flat) != set(
        COMPONENTS
    ):
        raise ModelError(
            "Variable 'd' of the cells needs dims (cell, component) with components 'x' and 'y'."
        )
    if d.attrs.get("units", "pm") != "pm":
        raise ModelError(
            f"Variable 'd' of the cells must be in pm, not {d.attrs['units']!r}; convert it first."
        )
    if "flag" in cells:
        cells = cells.isel(cell=np.flatnonzero(np.asarray(cells["flag"].values) == 0))
    labels = cells["d"].sel(component=list(COMPONENTS)).transpose("cell", "component").values.astype(float)
    bad = int((~np.isfinite(labels)).any(axis=1).sum())
    if bad:
        raise ModelError(f"{bad} cells have a displacement that is not finite; set their flag or drop them.")
    return positions(cells), labels


def labelled_windows(
    image: xr.DataArray,
    cells: xr.Dataset,
    windows: Windows,
    *,
    subset: Subset | None = None,
    split_x: float | None = None,
) -> xr.Dataset:
    """Cut windows and give each its label.

    A centred window takes the displacement of its cell. A sliding window takes the displacement at its
    centre, interpolated linearly between the B columns around it; windows outside the cells, or where
    cells are missing over more than about two spacings, are left out.

    Parameters
    ----------
    image, cells : xarray.DataArray, xarray.Dataset
        The field. Cells with a nonzero ``flag`` are left out.
    windows : Windows
        How to cut.
    subset : {"train", "test"}, optional
        Keep only windows wholly left or right of ``split_x``. Their labels too come only from cells on
        the same side, guard band left out.
    split_x : float, optional
        Position of the line in Å; needed with ``subset``.

    Returns
    -------
    xarray.Dataset
        As `sub_images`, with ``d_label`` (window, component) in pm.

    Raises
    ------
    ModelError
        If the field cannot be read, or labels are missing.
    """
    xy, labels = usable_cells(cells)
    if subset is not None:
        if split_x is None:
            raise ModelError("A subset needs the position of its line; pass split_x in Å.")
        own = split(xy, windows, split_x) == subset
        xy, labels = xy[own], labels[own]
    if windows.mode == "centred":
        centres = xy
    else:
        centres = grid(image, windows)
        if subset is not None and split_x is not None:
            centres = centres[split(centres, windows, split_x) == subset]
        labels = _between(xy, labels, centres)
        known = np.isfinite(labels).all(axis=1)
        centres, labels = centres[known], labels[known]
    cut = sub_images(image, windows, centres)
    cut["d_label"] = (("window", "component"), labels[cut["index"].values], DISPLACEMENT)
    return cut.assign_coords(component=list(COMPONENTS))


def _between(
    xy: NDArray[np.float64], labels: NDArray[np.float64], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate labels linearly between cells; NaN outside them."""
    try:
        mesh = Delaunay(xy)
    except (QhullError, ValueError):
        # Fewer than three cells, or all on a line, enclose no area.
        return np.full((len(centres), 2), np.nan)
    at = LinearNDInterpolator(mesh, labels)(centres)
    spacing = float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]))
    corners = xy[mesh.simplices]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=1)
    simplex = mesh.find_simplex(centres)
    at[(simplex < 0) | (longest[simplex] > _LONGEST_EDGE * spacing)] = np.nan
    return at


def cells_like(xy: NDArray[np.float64], index: NDArray[np.int64], **vectors: NDArray) -> xr.Dataset:
    """Build a dataset with the columns of ``cells``: x, y (Å), index, and vectors (n, 2) in pm."""
    dataset = xr.Dataset(
        {
            "x": ("cell", xy[:, 0], {"units": ANGSTROM}),
            "y": ("cell", xy[:, 1], {"units": ANGSTROM}),
            "index": ("cell", index, {"units": "1", "long_name": "row among the centres"}),
        },
        coords={"component": list(COMPONENTS)},
    )
    for name, values in vectors.items():
        dataset[name] = (("cell", "component"), values.astype(float), DISPLACEMENT)
    return dataset
