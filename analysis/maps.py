"""Maps of one measurement: displacement, arrows, uncertainty, strain, intensity ratio.

Each is a whole figure, or a panel where `ax` is given; a panel states no convention, its figure has to
(`drawing.new_figure`). Flagged cells are grey.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from .colours import colour_wheel, direction_colours
from .drawing import DENSE, FLAGGED, SMALL, TEXT, figure_of, frame, map_axes, scale_bar, show_image, title
from .errors import ImageError
from .measuring import Measurement
from .tiling import lattice_grid, middles, outlines, usable_cells

Floats = NDArray[np.float64]

_MOST_ARROWS = 45  # along the longer side of a map
_ROUND = np.outer(10.0 ** np.arange(-2, 4), (1, 2, 5)).ravel()  # pm


def polarization_map(measurement: Measurement, *, radius_pm: float = 50.0, ax: Axes | None = None) -> Figure:
    """Every cell in the colour of its displacement.

    Parameters
    ----------
    measurement : Measurement
    radius_pm : float
        Displacement of full colour, pm.
    ax : Axes, optional
        Draw a panel there instead of a new figure.

    Returns
    -------
    Figure
        Not registered with pyplot.

    Raises
    ------
    ImageError
        The radius is not positive.
    """
    check_radius(radius_pm)
    ax = map_axes(measurement.image, ax)
    draw_cells(ax, measurement, direction_colours(measurement.unit_cells["d"].values, radius_pm))
    _wheel(ax, radius_pm)
    title(ax, f"displacement d of each cell{flagged_note(measurement.unit_cells)}")
    return figure_of(ax)


def arrow_map(measurement: Measurement, *, radius_pm: float = 50.0, ax: Axes | None = None) -> Figure:
    """Displacements as arrows on the image; where cells are many, means of square blocks of cells.

    Parameters
    ----------
    measurement : Measurement
    radius_pm : float
        Displacement of full colour, pm.
    ax : Axes, optional
        Draw a panel there instead of a new figure.

    Returns
    -------
    Figure
        With the length of the arrows in pm at the upper right.

    Raises
    ------
    ImageError
        The radius is not positive.
    """
    check_radius(radius_pm)
    ax = map_axes(measurement.image, ax)
    cells = measurement.unit_cells
    show_image(ax, measurement.image)
    bad = ~usable_cells(cells)
    ax.add_collection(
        PolyCollection(
            list(outlines(cells, measurement.lattice.vectors)[bad]), facecolors=FLAGGED, alpha=0.85, lw=0
        )
    )
    block, position, d = block_means(cells)
    draw_arrows(
        ax, position, d, block * float(np.sqrt(measurement.lattice.area)), direction_colours(d, radius_pm)
    )
    frame(ax, measurement.image)
    scale_bar(ax)
    _wheel(ax, radius_pm)
    each = "each cell" if block == 1 else f"blocks of {block} × {block} cells"
    title(ax, f"displacement d of {each}{flagged_note(cells)}")
    return figure_of(ax)


def uncertainty_map(measurement: Measurement, *, ax: Axes | None = None) -> Figure:
    """One standard error of every cell's displacement, along the direction in which it is largest.

    Parameters
    ----------
    measurement : Measurement
    ax : Axes, optional
        Draw a panel there instead of a new figure.

    Returns
    -------
    Figure
    """
    cells = measurement.unit_cells
    good = usable_cells(cells)
    error = np.full(len(good), np.nan)
    error[good] = np.sqrt(np.linalg.eigvalsh(cells["d_cov"].values[good])[:, 1])
    median = f", median {np.median(error[good]):.2g} pm" if good.any() else ""
    label = "standard error of d (pm), larger axis"
    ax = _scalar_map(measurement, error, label, "viridis", _limits(error), ax)
    title(ax, f"uncertainty of d from the fit{median}{flagged_note(cells)}")
    return figure_of(ax)


def strain_map(measurement: Measurement, component: str = "xx", *, ax: Axes | None = None) -> Figure:
    """One component of the cells' strain, in percent.

    Parameters
    ----------
    measurement : Measurement
        Its ``unit_cells`` hold ``strain`` (cell, component, component_2).
    component : {"xx", "yy", "xy"}
    ax : Axes, optional
        Draw a panel there instead of a new figure.

    Returns
    -------
    Figure

    Raises
    ------
    ImageError
        There is no strain, or no such component.
    """
    if component not in ("xx", "yy", "xy"):
        raise ImageError(f"component={component!r} is unknown; choose one of xx, yy, xy.")
    values = _wanted(measurement.unit_cells, "strain")
    strain = values.sel(component=component[0], component_2=component[1])
    percent = strain.values * (1.0 if values.attrs.get("units") == "%" else 100.0)
    reach = max(
        abs(limit) for limit in _limits(np.where(usable_cells(measurement.unit_cells), percent, np.nan))
    )
    ax = _scalar_map(measurement, percent, f"strain $ε_{{{component}}}$ (%)", "RdBu_r", (-reach, reach), ax)
    title(ax, f"strain of the A lattice{flagged_note(measurement.unit_cells)}")
    return figure_of(ax)


def ratio_map(measurement: Measurement, *, ax: Axes | None = None) -> Figure:
    """Every cell's intensity of B over that of A.

    Parameters
    ----------
    measurement : Measurement
        Its ``unit_cells`` hold ``intensity_ratio``.
    ax : Axes, optional
        Draw a panel there instead of a new figure.

    Returns
    -------
    Figure

    Raises
    ------
    ImageError
        There is no such ratio.
    """
    cells = measurement.unit_cells
    ratio = _wanted(cells, "intensity_ratio").values
    limits = _limits(np.where(usable_cells(cells), ratio, np.nan))
    ax = _scalar_map(measurement, ratio, "intensity of B over A", "viridis", limits, ax)
    title(ax, f"ratio of column intensities{flagged_note(cells)}")
    return figure_of(ax)


def check_radius(radius_pm: float) -> None:
    """Refuse a displacement of full colour that is none."""
    if not (np.isfinite(radius_pm) and radius_pm > 0):
        raise ImageError(f"radius_pm={radius_pm:g} must be positive: the displacement of full colour, in pm.")


def flagged_note(cells: xr.Dataset) -> str:
    """Says how many cells are drawn grey."""
    count = int((~usable_cells(cells)).sum())
    return f"; grey: {count} flagged" if count else ""


def draw_cells(ax: Axes, measurement: Measurement, colours: Floats) -> None:
    """Fill every cell with its (n, 3) colour, flagged ones grey, and add the scale bar."""
    cells = measurement.unit_cells
    colours = np.array(colours)
    colours[~usable_cells(cells)] = FLAGGED
    ax.add_collection(
        PolyCollection(
            list(outlines(cells, measurement.lattice.vectors)), facecolors=colours, edgecolors=colours, linewidths=0.3,
            rasterized=cells.sizes["cell"] > DENSE,
        )
    )  # fmt: skip
    frame(ax, measurement.image)
    scale_bar(ax)


def draw_arrows(
    ax: Axes, position: Floats, d: Floats, spacing: float, colours: Any, pivot: str = "mid"
) -> None:
    """Arrows of (n, 2) `d` in pm at (n, 2) `position` in Å, a long one about one `spacing`, and their key above."""
    size = np.hypot(d[:, 0], d[:, 1])
    typical = max(float(np.quantile(size, 0.9)), 1e-3) if len(size) else 1.0
    per_spacing = float(_ROUND[np.argmin(np.abs(np.log(_ROUND / (1.1 * typical))))])
    length = d / per_spacing * spacing
    width = 0.11 * spacing
    quiver = ax.quiver(
        position[:, 0], position[:, 1], length[:, 0], length[:, 1], color=colours, pivot=pivot, angles="xy",
        units="xy", scale_units="xy", scale=1.0, width=width, edgecolor="black", linewidth=0.25, headwidth=3.2,
        headlength=3.4, headaxislength=3.1, minlength=0.5, zorder=4, rasterized=len(d) > DENSE,
    )  # fmt: skip
    share = spacing / abs(np.ptp(ax.get_xlim()))
    height = ax.get_position().height * figure_of(ax).get_figheight()  # inches, nearly
    ax.quiverkey(
        quiver, 1 - share, 1.0 + 0.1 / height, spacing, f"{per_spacing:g} pm", labelpos="W", labelsep=0.05, color="black", fontproperties={"size": TEXT},
    )  # fmt: skip


def block_means(cells: xr.Dataset) -> tuple[int, Floats, Floats]:
    """Mean displacement of square blocks of cells, so many that arrows stay readable.

    Returns
    -------
    block : int
        Cells along the side of a block.
    position, d : (m, 2) arrays
        Mean middle of the cells, Å, and mean displacement, pm; flagged cells take no part.
    """
    rows, place = lattice_grid(cells)
    good = usable_cells(cells)
    block = max(1, int(np.ceil(max(rows.shape) / _MOST_ARROWS)))
    index = place[good] // block
    _, group = np.unique(index @ np.array([rows.shape[1] + 1, 1]), return_inverse=True)
    count = np.bincount(group)
    values = np.concatenate([middles(cells)[good], cells["d"].values[good]], 1)
    mean = np.stack([np.bincount(group, column) / np.maximum(count, 1) for column in values.T], 1)
    # Blocks at the border hold few cells; a lone one would be drawn as noisily as a cell.
    mean = mean[count >= 0.3 * block**2]
    return block, mean[:, :2], mean[:, 2:]


def _scalar_map(
    measurement: Measurement,
    values: Floats,
    label: str,
    cmap: str,
    limits: tuple[float, float],
    ax: Axes | None,
) -> Axes:
    ax = map_axes(measurement.image, ax, side=1.15)
    scale = ScalarMappable(Normalize(*limits), cmap)
    draw_cells(ax, measurement, scale.to_rgba(np.nan_to_num(values, nan=limits[0]))[:, :3])
    outside = values[usable_cells(measurement.unit_cells)]
    low, high = bool((outside < limits[0]).any()), bool((outside > limits[1]).any())
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[low, high]
    bar = figure_of(ax).colorbar(scale, ax=ax, pad=0.02, fraction=0.045, extend=extend)
    bar.set_label(label, fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL)
    return ax


def _limits(values: Floats) -> tuple[float, float]:
    """Colour range that the outermost hundredth of the values may leave."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = (float(v) for v in np.quantile(finite, (0.01, 0.99)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _wanted(cells: xr.Dataset, name: str) -> xr.DataArray:
    if name not in cells:
        raise ImageError(f"unit_cells: holds no {name}; measure it before it is drawn.")
    return cells[name]


def _wheel(ax: Axes, radius_pm: float) -> None:
    figure = figure_of(ax)
    size = float(np.clip(0.2 * ax.get_position().width * figure.get_figwidth(), 0.7, 1.0))  # inches
    # Inches from the upper right corner, so that the layout knows the room beside the map whatever its size.
    corner = figure.dpi_scale_trans + ScaledTranslation(1, 1, ax.transAxes)  # type: ignore[arg-type]
    colour_wheel(ax.inset_axes((0.08, -size - 0.15, size, size), transform=corner), radius_pm)
