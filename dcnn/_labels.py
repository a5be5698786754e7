"""Labels: which displacement belongs to a window, and on which side of the field it lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import Delaunay, QhullError, cKDTree

from dcnn._errors import ModelError
from dcnn._targets import COMPONENTS, as_variables, read_targets
from dcnn._windows import ANGSTROM, Centres, Windows, frame, grid, positions, sub_images

Subset = Literal["train", "test"]

_FARTHEST_CORNER = (
    0.92  # in lattice spacings: A columns are 0.71 from the B columns around them, 1.58 from the next
)
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


def usable_cells(
    cells: xr.Dataset, targets: Sequence[str] = ("d",)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read positions (n, 2) in Å and labels (n, channel) of the cells that are not flagged.

    Raises
    ------
    ModelError
        If a variable is missing or in other units, or a displacement of an unflagged cell is not finite.
    """
    if isinstance(cells, xr.Dataset) and "flag" in cells:
        cells = cells.isel(cell=np.flatnonzero(np.asarray(cells["flag"].values) == 0))
    labels = read_targets(cells, targets)
    bad = int((~np.isfinite(read_targets(cells, ("d",)))).any(axis=1).sum())
    if bad:
        raise ModelError(f"{bad} cells have a displacement that is not finite; set their flag or drop them.")
    return positions(cells), labels


def with_columns(cells: xr.Dataset, columns: xr.Dataset) -> xr.Dataset:
    """``cells`` with the places of the A columns, ``x_a`` and ``y_a`` (Å), which windows centred on A need.

    Parameters
    ----------
    cells : xarray.Dataset
        Cells of an image.
    columns : xarray.Dataset
        Its columns: ``x``, ``y`` (Å), ``site`` and, optionally, ``flag``; flagged ones are left out.
    """
    good = columns["site"].values == "A"
    if "flag" in columns:
        good &= columns["flag"].values == 0
    at = positions(columns)[good]
    length = {"units": ANGSTROM, "long_name": "place of an A column"}
    return cells.assign(x_a=("column_a", at[:, 0], length), y_a=("column_a", at[:, 1], length))


def centres_of(cells: Centres, windows: Windows) -> NDArray[np.float64]:
    """Places (n, 2), Å, on which windows of mode "centred" are cut: B columns, or the A columns that come with the cells.

    Raises
    ------
    ModelError
        If A columns are wanted and not there.
    """
    if windows.site == "B" or not isinstance(cells, xr.Dataset):
        return positions(cells)
    if "x_a" not in cells or "y_a" not in cells:
        raise ModelError("Windows centred on A columns need their places; add them with dcnn.with_columns.")
    return positions(np.column_stack([cells["x_a"].values, cells["y_a"].values]))


def labelled_windows(
    image: xr.DataArray,
    cells: xr.Dataset,
    windows: Windows,
    *,
    subset: Subset | None = None,
    split_x: float | None = None,
    targets: Sequence[str] = ("d",),
    columns: Centres | None = None,
    jitter: NDArray[np.float64] | None = None,
) -> xr.Dataset:
    """Cut windows and give each its label.

    A window centred on a B column takes the displacement of its cell, one on an A column the mean of the four cells around
    it, and a sliding one the displacement at its centre, interpolated linearly between the B columns around it; windows outside
    the cells, or where cells are missing over more than about two spacings, are left out.

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
    targets : sequence of str
        Labels to give: "d", "tilt", "thickness". Those that the cells lack are NaN.
    columns : xarray.Dataset or array_like, optional
        A columns for windows centred on them; default those that `with_columns` added to ``cells``.
    jitter : ndarray, shape (n, 2), optional
        Å by which windows of mode "centred" are shifted off their columns, label unchanged.

    Returns
    -------
    xarray.Dataset
        As `sub_images`, with ``d_label`` (window, component) in pm, and so for other targets.

    Raises
    ------
    ModelError
        If the field cannot be read, or labels are missing.
    """
    xy, labels = usable_cells(cells, targets)
    on_a = windows.mode == "centred" and windows.site == "A"
    centres = (centres_of(cells, windows) if columns is None else positions(columns)) if on_a else xy
    if windows.mode == "sliding":
        centres = grid(image, windows)
    if subset is not None:
        if split_x is None:
            raise ModelError("A subset needs the position of its line; pass split_x in Å.")
        own = split(xy, windows, split_x) == subset
        xy, labels = xy[own], labels[own]
        centres = centres[split(centres, windows, split_x) == subset]
    if on_a or windows.mode == "sliding":
        labels = (around if on_a else between)(xy, labels, centres)
        known = np.isfinite(labels[:, : len(COMPONENTS)]).all(axis=1)
        centres, labels = centres[known], labels[known]
    if jitter is not None:
        centres = centres + jitter[: len(centres)]
        if subset is not None and split_x is not None:
            own = split(centres, windows, split_x) == subset
            centres, labels = centres[own], labels[own]
    cut = sub_images(image, windows, centres)
    for name, (dims, values, attrs) in as_variables(labels[cut["index"].values], targets, "_label").items():
        cut[name] = (("window", *dims[1:]), values, attrs)
    return cut.assign_coords(component=list(COMPONENTS))


def around(
    xy: NDArray[np.float64], labels: NDArray[np.float64], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean labels (n, channel) of the four cells around A columns; NaN where there are not four."""
    if len(xy) < 4:
        return np.full((len(centres), labels.shape[1]), np.nan)
    tree = cKDTree(xy)
    spacing = float(np.median(tree.query(xy, k=2)[0][:, 1]))
    distance, near = tree.query(centres, k=4)
    mean = labels[near].mean(axis=1)
    mean[distance.max(axis=1) > _FARTHEST_CORNER * spacing] = np.nan
    return np.asarray(mean)


def between(
    xy: NDArray[np.float64], labels: NDArray[np.float64], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate labels (n, channel) linearly between cells; NaN outside them."""
    try:
        mesh = Delaunay(xy)
    except (QhullError, ValueError):
        # Fewer than three cells, or all on a line, enclose no area.
        return np.full((len(centres), labels.shape[1]), np.nan)
    at = LinearNDInterpolator(mesh, labels)(centres)
    spacing = float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]))
    corners = xy[mesh.simplices]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=1)
    simplex = mesh.find_simplex(centres)
    at[(simplex < 0) | (longest[simplex] > _LONGEST_EDGE * spacing)] = np.nan
    return at


def cells_like(xy: NDArray[np.float64], index: NDArray[np.int64]) -> xr.Dataset:
    """Begin a dataset with the columns of ``cells``: x, y (Å) and index."""
    return xr.Dataset(
        {
            "x": ("cell", xy[:, 0], {"units": ANGSTROM}),
            "y": ("cell", xy[:, 1], {"units": ANGSTROM}),
            "index": ("cell", index, {"units": "1", "long_name": "row among the centres"}),
        },
        coords={"component": list(COMPONENTS)},
    )
