"""Pages and folders of figures of one measured image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .calibration import with_pixel_size
from .clouds import cloud, histograms
from .domain_maps import domain_map, wall_map
from .domains import find_domains
from .drawing import (
    ARROW,
    DENSE,
    FORMATS,
    SMALL,
    figure_of,
    frame,
    map_axes,
    new_figure,
    save_figure,
    scale_bar,
    show_image,
    title,
)  # fmt: skip
from .errors import ImageError
from .maps import (
    arrow_map,
    check_radius,
    draw_arrows,
    flagged_note,
    polarization_map,
    ratio_map,
    strain_map,
    uncertainty_map,
)  # fmt: skip
from .measuring import Measurement
from .tiling import usable_cells

Floats = NDArray[np.float64]

_CROP_CELLS = 9  # cells across the close-up


def plot_polarization(
    image: xr.DataArray, measurement: Measurement, radius_pm: float = 50.0, domains: xr.Dataset | None = None
) -> Figure:
    """Image, displacement map, close-up with arrows and cloud on one page.

    Parameters
    ----------
    image : xr.DataArray
        The image that was measured, calibrated or not.
    measurement : Measurement
    radius_pm : float
        Displacement of full colour, pm.
    domains : xr.Dataset, optional
        From `find_domains` of the measurement's cells, which is called otherwise.

    Returns
    -------
    Figure
        Not registered with pyplot; see `save_figure`.

    Raises
    ------
    ImageError
        The radius is not positive.
    """
    check_radius(radius_pm)
    image = _aligned(image, measurement)
    cells = measurement.unit_cells
    # The upper row takes the image's own shape, so that wide and tall fields leave no gaps.
    tallness = float(np.clip(image.sizes["y"] / image.sizes["x"], 0.4, 1.6))
    top = 3.05 * tallness + 0.3  # inches
    figure = new_figure(7.2, top + 3.2)
    # Two rows laid out apart: wheel and legend differ in width.
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(top, 3.0)))
    left, right = upper.subplots(1, 2)
    near, spread = lower.subplots(1, 2)
    show_image(left, image)
    scale_bar(left)
    title(left, f"image, {int(usable_cells(cells).sum())} cells, zone [{measurement.lattice.zone}]", "a")
    polarization_map(measurement, radius_pm=radius_pm, ax=right)
    title(right, f"displacement d{flagged_note(cells)}", "b")
    _close_up(near, image, measurement)
    title(near, "close-up, arrows from B", "c")
    try:
        cloud(measurement, domains, ax=spread)
    except ImageError as error:
        spread.text(
            0.5,
            0.5,
            fill(str(error), 30),
            ha="center",
            va="center",
            fontsize=SMALL,
            transform=spread.transAxes,
        )
        spread.set(xticks=[], yticks=[])
        spread.set_box_aspect(1)
    title(spread, "d of all cells", "d")
    return figure


def plot_columns(image: xr.DataArray, measurement: Measurement, missing: xr.Dataset | None = None) -> Figure:
    """The image with every fitted column marked, to see at a glance what was taken for what.

    Parameters
    ----------
    image : xr.DataArray
    measurement : Measurement
    missing : xr.Dataset, optional
        Sites without a column: ``x`` and ``y``, Å.

    Returns
    -------
    Figure
        A as circles, B as dots, flagged columns as crosses, missing sites as squares.

    Raises
    ------
    ImageError
        `missing` holds no positions.
    """
    image = _aligned(image, measurement)
    ax = map_axes(image, None, side=1.3)
    show_image(ax, image)
    columns = measurement.columns
    site, flag = columns["site"].values, columns["flag"].values
    position = np.stack([columns["x"].values, columns["y"].values], 1)
    marks: list[tuple[str, Floats, dict[str, Any]]] = [
        (
            "A",
            position[(site == "A") & (flag == 0)],
            {"facecolors": "none", "edgecolors": "#E69F00", "marker": "o"},
        ),
        ("B", position[(site == "B") & (flag == 0)], {"color": "#56B4E9", "marker": "."}),
        ("flagged", position[flag != 0], {"color": "#F0E442", "marker": "x"}),
    ]
    if missing is not None:
        if "x" not in missing or "y" not in missing:
            raise ImageError("missing: lacks x or y; give the positions of missing sites in Å.")
        places = np.stack([missing["x"].values, missing["y"].values], 1)
        marks.append(("missing", places, {"facecolors": "none", "edgecolors": "#CC79A7", "marker": "s"}))
    # As wide as a third of the shortest distance on the page, in points.
    width = float(ax.get_figure().get_figwidth() - 1.3) * 72  # type: ignore[union-attr]
    size = float(
        np.clip(0.35 * measurement.lattice.neighbour_distance * width / np.ptp(ax.get_xlim()), 0.8, 12)
    )
    for name, where, style in marks:
        if not len(where):
            continue
        ax.scatter(
            where[:, 0], where[:, 1], s=size**2, linewidths=min(0.8, 0.2 * size), rasterized=len(where) > DENSE,
            label=f"{name} ({len(where)})", **style,
        )  # fmt: skip
    frame(ax, image)
    ax.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=SMALL, frameon=True, facecolor="0.3", labelcolor="white",
        markerscale=max(1.0, 4.0 / size),
    )  # fmt: skip
    scale_bar(ax)
    title(ax, f"fitted columns, {columns.attrs['source']}")
    return figure_of(ax)


def plot_all(
    measurement: Measurement,
    folder: str | Path,
    *,
    radius_pm: float = 50.0,
    formats: tuple[str, ...] = FORMATS,
) -> list[Path]:
    """Write every figure that the measurement has data for.

    Parameters
    ----------
    measurement : Measurement
    folder : str or Path
        Made if needed.
    radius_pm : float
        Displacement of full colour, pm.
    formats : tuple of str
        Of "png", "svg" and "pdf".

    Returns
    -------
    list of Path
        All files: polarization (the page), columns, polarization_map, arrows, uncertainty; histograms and cloud
        where there are enough cells, domains and walls where there are several variants; strain_xx, strain_yy, strain_xy and intensity_ratio where
        they were measured.

    Raises
    ------
    ImageError
        The radius is not positive, a format is unknown, or a file cannot be written.
    """
    m, image, cells = measurement, measurement.image, measurement.unit_cells
    try:
        domains = find_domains(cells)
    except ImageError:  # too few cells; the page says so
        domains = None
    drawings: dict[str, Callable[[], Figure]] = {
        "polarization": lambda: plot_polarization(image, m, radius_pm, domains),
        "columns": lambda: plot_columns(image, m),
        "polarization_map": lambda: polarization_map(m, radius_pm=radius_pm),
        "arrows": lambda: arrow_map(m, radius_pm=radius_pm),
        "uncertainty": lambda: uncertainty_map(m),
    }
    if domains is not None:
        drawings |= {
            "histograms": lambda: histograms(m),
            "cloud": lambda: cloud(m, domains),
        }
    if domains is not None and domains.sizes["variant"] > 1:
        drawings |= {
            "domains": lambda: domain_map(m, domains),
            "walls": lambda: wall_map(m, domains),
        }
    if "strain" in cells:
        for name in ("xx", "yy", "xy"):
            drawings[f"strain_{name}"] = lambda name=name: strain_map(m, name)  # type: ignore[misc]
    if "intensity_ratio" in cells:
        drawings["intensity_ratio"] = lambda: ratio_map(m)
    return [
        path for name, draw in drawings.items() for path in save_figure(draw(), Path(folder) / name, formats)
    ]


def _aligned(image: xr.DataArray, measurement: Measurement) -> xr.DataArray:
    attrs = measurement.columns.attrs
    size = (float(attrs["pixel_size_x_angstrom"]), float(attrs["pixel_size_y_angstrom"]))
    return with_pixel_size(image, size, str(attrs["calibration"]))


def _close_up(ax: Axes, image: xr.DataArray, measurement: Measurement) -> None:
    """Some cells around the middle of all, with arrows that start from their B columns."""
    cells = measurement.unit_cells.isel(cell=np.flatnonzero(usable_cells(measurement.unit_cells)))
    spacing = float(np.sqrt(measurement.lattice.area))
    half = 0.5 * _CROP_CELLS * spacing
    x, y = cells["x"].values, cells["y"].values
    middle = (np.median(x), np.median(y)) if len(x) else (image["x"].mean().item(), image["y"].mean().item())
    show_image(ax, image)
    ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] + half, middle[1] - half))
    near = (np.abs(x - middle[0]) < half) & (np.abs(y - middle[1]) < half)
    draw_arrows(ax, np.stack([x, y], 1)[near], cells["d"].values[near], spacing, ARROW, pivot="tail")
    scale_bar(ax)
