"""Maps of domains and of the walls between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import ndimage

from .domains import find_domains, find_walls
from .drawing import (
    FLAGGED,
    PALETTE,
    SMALL,
    figure_of,
    frame,
    map_axes,
    scale_bar,
    show_image,
    title,
    with_error,
)
from .inversion import inversion_centre
from .maps import draw_cells, flagged_note
from .measuring import Measurement
from .tiling import lattice_grid, middles

Floats = NDArray[np.float64]

_SIDE = 1.75  # inches for the legend
_KNOWN = 3.0  # standard errors of a mean from which it has a direction
_LEAST_PATCH = 0.01  # of all cells: smaller ones get no arrow
_ARROW: dict[str, Any] = {
    "arrowstyle": "simple,head_width=0.9,head_length=0.9,tail_width=0.35", "shrinkA": 0, "shrinkB": 0,
    "facecolor": "white", "edgecolor": "black", "linewidth": 0.7,
}  # fmt: skip
_WALL_COLOURS = ("#56B4E9", "#E69F00", "#F0E442", "#CC79A7", "#009E73", "#D55E00")


def domain_map(
    measurement: Measurement, domains: xr.Dataset | None = None, *, ax: Axes | None = None
) -> Figure:
    """Every cell in the colour of its variant, paler where the variant is uncertain.

    Parameters
    ----------
    measurement : Measurement
    domains : xr.Dataset, optional
        From `find_domains` of the measurement's cells, which is called otherwise.
    ax : Axes, optional
        Draw a panel there instead of a new figure.

    Returns
    -------
    Figure
        Arrows show the mean displacement of the variants, from the inversion centre where there is one.
    """
    cells = measurement.unit_cells
    domains = find_domains(cells) if domains is None else domains
    ax = map_axes(measurement.image, ax, side=_SIDE)
    label = domains["domain"].values
    chance = 1 / max(domains.sizes["variant"], 1.5)
    certain = np.clip((np.nan_to_num(domains["probability"].values) - chance) / (1 - chance), 0, 1)[:, None]
    colours = np.array([to_rgb(PALETTE[k]) for k in range(domains.sizes["variant"])] + [FLAGGED])[label]
    draw_cells(ax, measurement, certain * colours + (1 - certain))
    centre = inversion_centre(cells, domains)["centre"].values
    _draw_directions(ax, measurement, domains, centre)
    handles = [
        Patch(facecolor=PALETTE[k], label=_described(domains, k)) for k in range(domains.sizes["variant"])
    ]
    ax.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=SMALL, frameon=False, handlelength=1.0,
        labelspacing=0.9, title="mean d (x, y)", title_fontsize=SMALL, alignment="left",
    )  # fmt: skip
    found = domains.sizes["variant"]
    title(ax, f"domains: {found} variant{'s' if found > 1 else ''}{_seen_from(centre)}{flagged_note(cells)}")
    return figure_of(ax)


def wall_map(
    measurement: Measurement, domains: xr.Dataset | None = None, *, ax: Axes | None = None
) -> Figure:
    """Domain walls on the image, by the angle between the projected displacements on both sides.

    Parameters
    ----------
    measurement : Measurement
    domains : xr.Dataset, optional
        From `find_domains` of the measurement's cells, which is called otherwise.
    ax : Axes, optional
        Draw a panel there instead of a new figure.

    Returns
    -------
    Figure
        The legend tells how long the walls of each kind are.
    """
    cells = measurement.unit_cells
    domains = find_domains(cells) if domains is None else domains
    centre = inversion_centre(cells, domains)["centre"].values
    walls = find_walls(cells, domains, centre if np.isfinite(centre).all() else None)
    ax = map_axes(measurement.image, ax, side=_SIDE)
    show_image(ax, measurement.image)
    ends = np.stack([walls[name].values for name in ("x0", "y0", "x1", "y1")], 1).reshape(-1, 2, 2)
    length = np.hypot(*(ends[:, 1] - ends[:, 0]).T) / 10
    handles = []
    for n, angle in enumerate(np.unique(walls["nominal"].values)):
        of = walls["nominal"].values == angle
        style: dict[str, Any] = {"color": _WALL_COLOURS[n % len(_WALL_COLOURS)], "linewidth": 2.2}
        ax.add_collection(LineCollection(list(ends[of]), capstyle="round", zorder=3, **style))
        handles.append(Line2D([], [], label=f"{angle}°: {length[of].sum():.3g} nm", **style))
    if handles:
        ax.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=SMALL, frameon=False,
            title="projected angle\nand length of walls", title_fontsize=SMALL, alignment="left",
        )  # fmt: skip
    _draw_directions(ax, measurement, domains, centre)
    frame(ax, measurement.image)
    scale_bar(ax)
    title(ax, f"domain walls{'' if handles else ': none'}{_seen_from(centre)}")
    return figure_of(ax)


def _described(domains: xr.Dataset, k: int) -> str:
    mean, error = with_error(domains["mean"].values[k], np.sqrt(np.diagonal(domains["mean_cov"].values[k])))
    area = float(domains["area"][k])
    size = f"{area:.0f}" if area >= 100 else f"{area:.2g}"
    return f"({mean}) pm\n± {error} pm\n{size} nm², {int(domains['cells'][k])} cells"


def _seen_from(centre: Floats) -> str:
    return f"; arrows: direction of d{' from the inversion centre' if np.isfinite(centre).all() else ''}"


def _draw_directions(ax: Axes, measurement: Measurement, domains: xr.Dataset, centre: Floats) -> None:
    """An arrow in the middle of every larger patch of a variant, all alike in length, where d is not lost in noise."""
    cells = measurement.unit_cells
    rows, place = lattice_grid(cells)
    label = np.full(rows.shape, -1)
    label[place[:, 0], place[:, 1]] = domains["domain"].values
    seen = domains["mean"].values - np.nan_to_num(centre)
    middle = middles(cells)
    length = 3.0 * float(np.sqrt(measurement.lattice.area)) * max(1.0, np.sqrt(cells.sizes["cell"]) / 40)
    for k, direction in enumerate(seen / np.maximum(np.hypot(seen[:, 0], seen[:, 1]), 1e-12)[:, None]):
        if np.hypot(*seen[k]) < _KNOWN * np.sqrt(np.trace(domains["mean_cov"].values[k])):
            continue
        patches, count = ndimage.label(label == k)
        for patch in range(1, count + 1):
            inside = patches == patch
            if inside.sum() < max(_LEAST_PATCH * cells.sizes["cell"], 4):
                continue
            depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
            where = middle[rows[np.unravel_index(depth.argmax(), depth.shape)]]
            tail, tip = where - 0.5 * length * direction, where + 0.5 * length * direction
            ax.annotate("", tip, tail, arrowprops=_ARROW, zorder=6)
