"""Figures of one measured image."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from .calibration import with_pixel_size
from .colours import colour_wheel, direction_colours
from .errors import ImageError
from .measuring import Measurement, summary

Floats = NDArray[np.float64]

_STYLE: dict[str, Any] = {"fontsize": 8}
_CROP_CELLS = 9  # cells across the close-up


def plot_polarization(image: xr.DataArray, measurement: Measurement, radius_pm: float = 50.0) -> Figure:
    """Image, displacement map, vectors and statistics on one page.

    Parameters
    ----------
    image : xr.DataArray
        The image that was measured, calibrated or not.
    measurement : Measurement
    radius_pm : float
        Displacement of full colour, pm.

    Returns
    -------
    Figure
        Not registered with pyplot; see `analysis.save`.

    Raises
    ------
    ImageError
        The radius is not positive.
    """
    if not (np.isfinite(radius_pm) and radius_pm > 0):
        raise ImageError(f"radius_pm={radius_pm:g} must be positive: the displacement of full colour, in pm.")
    image = _aligned(image, measurement)
    # The upper row takes the image's own shape, so that wide and tall fields leave no gaps.
    tallness = float(np.clip(image.sizes["y"] / image.sizes["x"], 0.4, 1.6))
    figure = Figure(figsize=(7.2, 3.8 + 3.1 * tallness))
    # Panel titles are texts that the layout does not see: leave them room at the top.
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 0.965), hspace=0.05)
    axes = figure.subplots(2, 3, width_ratios=(1, 1, 0.22), height_ratios=(tallness, 1))
    legend, empty = axes[:, 2]
    empty.set_axis_off()
    numbers = summary(measurement)
    cells = measurement.unit_cells.isel(cell=np.flatnonzero(measurement.unit_cells["flag"].values == 0))

    _show(axes[0, 0], image)
    _scale_bar(axes[0, 0])
    _title(axes[0, 0], "a", f"image, {numbers['cells']} cells, zone [{measurement.lattice.zone}]")

    _map(axes[0, 1], image, measurement, radius_pm)
    _scale_bar(axes[0, 1], colour="black")
    colour_wheel(legend, radius_pm)
    _title(axes[0, 1], "b", "displacement d per cell")

    _vectors(axes[1, 0], image, cells, measurement)
    _title(axes[1, 0], "c", "close-up, arrows from B")

    _cloud(axes[1, 1], cells)
    _title(axes[1, 1], "d", "d of all cells and error of one cell")
    figure.supxlabel(
        "d = mean of the surrounding A columns − central B column;  x right, y down (image coordinates)",
        **_STYLE,
    )
    return figure


def plot_columns(image: xr.DataArray, measurement: Measurement) -> Figure:
    """The image with every fitted column marked, to see at a glance what was taken for what.

    Parameters
    ----------
    image : xr.DataArray
    measurement : Measurement

    Returns
    -------
    Figure
        A as circles, B as dots, flagged columns as red crosses.
    """
    image = _aligned(image, measurement)
    ratio = image.sizes["y"] / image.sizes["x"]
    figure = Figure(figsize=(7.2, 7.2 * ratio + 0.5), layout="constrained")
    ax = figure.subplots()
    _show(ax, image)
    columns = measurement.columns
    site, flag = columns["site"].values, columns["flag"].values
    x, y = columns["x"].values, columns["y"].values
    size = (0.35 * measurement.lattice.neighbour_distance * 7.2 * 72 / float(np.ptp(image["x"].values))) ** 2
    marks: tuple[tuple[str, NDArray[np.bool_], dict[str, Any]], ...] = (
        (
            "A",
            (site == "A") & (flag == 0),
            {"facecolors": "none", "edgecolors": "#ffb000", "marker": "o", "linewidths": 0.6},
        ),
        ("B", (site == "B") & (flag == 0), {"color": "#42d4f4", "marker": ".", "linewidths": 0}),
        ("flagged", flag != 0, {"color": "#ff4d4d", "marker": "x", "linewidths": 0.8}),
    )
    for name, select, style in marks:
        ax.scatter(x[select], y[select], s=size, label=f"{name} ({int(select.sum())})", **style)
    ax.legend(loc="upper right", fontsize=7, framealpha=0.9)
    _scale_bar(ax, share=0.14, inches=7.0)
    _title(ax, "", f"fitted columns, {columns.attrs['source']}")
    return figure


def _aligned(image: xr.DataArray, measurement: Measurement) -> xr.DataArray:
    attrs = measurement.columns.attrs
    size = (float(attrs["pixel_size_x_angstrom"]), float(attrs["pixel_size_y_angstrom"]))
    return with_pixel_size(image, size, str(attrs["calibration"]))


def _extent(image: xr.DataArray) -> tuple[float, float, float, float]:
    x, y = image["x"].values, image["y"].values
    dx, dy = x[1] - x[0], y[1] - y[0]
    return x[0] - dx / 2, x[-1] + dx / 2, y[-1] + dy / 2, y[0] - dy / 2


def _show(ax: Axes, image: xr.DataArray) -> None:
    low, high = np.nanpercentile(image.values, (0.5, 99.7))
    ax.imshow(image.values, cmap="gray", vmin=low, vmax=high, extent=_extent(image), interpolation="nearest")
    ax.set_facecolor("#5b6b7a")  # no data
    ax.set_xticks([])
    ax.set_yticks([])


def _title(ax: Axes, letter: str, text: str) -> None:
    ax.set_title(text, loc="left", pad=5, x=0.07 if letter else 0.0, **_STYLE)
    if letter:
        ax.text(0.0, 1.0, letter, transform=ax.transAxes, fontsize=11, fontweight="bold", va="bottom")


def _scale_bar(ax: Axes, colour: str = "white", share: float = 0.2, inches: float = 3.0) -> None:
    left, right = sorted(ax.get_xlim())
    width, height = right - left, abs(np.ptp(ax.get_ylim()))
    options = np.array([2, 5, 10, 20, 50, 100, 200, 500], float)
    length = options[np.argmin(np.abs(options - share * width))]
    x, y = left + 0.04 * width, max(ax.get_ylim()) - 0.04 * height
    point = width / (72 * inches)  # in Å, for an axes about so wide
    thick, pad = 3 * point, 4 * point
    text = f"{length:g} Å" if length < 10 else f"{length / 10:g} nm"
    box: dict[str, Any] = {"facecolor": "black" if colour == "white" else "white", "alpha": 0.6, "lw": 0}
    tall = 16 * point
    ax.add_patch(Rectangle((x - pad, y - tall), length + 2 * pad, tall + pad, zorder=4, **box))
    ax.add_patch(Rectangle((x, y - thick), length, thick, color=colour, lw=0, zorder=5))
    ax.text(
        x + length / 2, y - 1.3 * thick, text, color=colour, ha="center", va="bottom", fontsize=8, zorder=5
    )  # fmt: skip


def _map(ax: Axes, image: xr.DataArray, measurement: Measurement, radius_pm: float) -> None:
    cells = measurement.unit_cells
    # The middle of the A columns tiles the plane, wherever B is.
    centre = np.stack([cells["x"].values, cells["y"].values], 1) + cells["d"].values / 100
    vectors = np.stack([cells["vector_a"].values, cells["vector_b"].values], 1)
    vectors = np.where(np.isfinite(vectors), vectors, measurement.lattice.vectors)
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    outlines = centre[:, None] + np.einsum("kv,nvc->nkc", corners, vectors)
    good = cells["flag"].values == 0
    colours = direction_colours(np.where(good[:, None], cells["d"].values, np.nan), radius_pm)
    colours[~good] = 0.8
    ax.add_collection(PolyCollection(list(outlines), facecolors=colours, edgecolors=colours, linewidths=0.3))
    left, right, bottom, top = _extent(image)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])


def _vectors(ax: Axes, image: xr.DataArray, cells: xr.Dataset, measurement: Measurement) -> None:
    cell = float(np.sqrt(measurement.lattice.area))
    half = 0.5 * _CROP_CELLS * cell
    x, y = cells["x"].values, cells["y"].values
    middle = (
        (float(np.median(x)), float(np.median(y)))
        if len(x)
        else (float(image["x"].mean()), float(image["y"].mean()))
    )
    _show(ax, image)
    ax.set_xlim(middle[0] - half, middle[0] + half)
    ax.set_ylim(middle[1] + half, middle[1] - half)
    near = (np.abs(x - middle[0]) < half) & (np.abs(y - middle[1]) < half)
    d = cells["d"].values[near]
    size = np.hypot(d[:, 0], d[:, 1])
    typical = float(np.quantile(size, 0.9)) if len(size) else 1.0
    # A round number of pm spans one cell, and the longer arrows nearly as much.
    options = np.array([1, 2, 5, 10, 20, 50, 100], float)
    per_cell = options[np.argmin(np.abs(np.log(options / max(1.2 * typical, 1e-9))))]
    scale = per_cell / cell
    ax.quiver(
        x[near], y[near], d[:, 0] / scale, d[:, 1] / scale, angles="xy", scale_units="xy", scale=1.0,
        color="#ffd23f", edgecolor="black", linewidth=0.3, width=0.009, headwidth=3.4, headlength=3.6, headaxislength=3.3,
    )  # fmt: skip
    _scale_bar(ax)
    top = middle[1] - half
    ax.add_patch(
        Rectangle(
            (middle[0] + half - 1.95 * cell, top),
            1.95 * cell,
            1.15 * cell,
            color="black",
            alpha=0.55,
            lw=0,
            zorder=4,
        )
    )
    ax.quiver(
        middle[0] + half - 1.45 * cell, top + 0.9 * cell, cell, 0, angles="xy", scale_units="xy", scale=1.0,
        color="#ffd23f", width=0.009, headwidth=3.4, headlength=3.6, headaxislength=3.3, zorder=6,
    )  # fmt: skip
    ax.text(
        middle[0] + half - 0.97 * cell, top + 0.65 * cell, f"{per_cell:g} pm", color="white", ha="center", va="bottom",
        fontsize=8, zorder=6,
    )  # fmt: skip


def _cloud(ax: Axes, cells: xr.Dataset) -> None:
    d = cells["d"].values
    error = np.sqrt(np.einsum("nii->ni", cells["d_cov"].values))
    ax.set_box_aspect(1)
    if len(d) < 2:
        ax.text(0.5, 0.5, "fewer than two cells", ha="center", transform=ax.transAxes, **_STYLE)
        return
    mean, std = d.mean(0), d.std(0, ddof=1)
    reach = 1.15 * float(np.quantile(np.abs(d - mean), 0.998))
    ax.plot(d[:, 0], d[:, 1], ".", ms=2.5, mew=0, alpha=0.45, color="#31688e")
    ax.axhline(0, lw=0.6, color="0.6", zorder=0)
    ax.axvline(0, lw=0.6, color="0.6", zorder=0)
    ax.errorbar(
        mean[0], mean[1], xerr=std[0], yerr=std[1], color="black", lw=1, capsize=2, marker="o", ms=3, zorder=5
    )
    ax.set_xlim(mean[0] - 1.45 * reach, mean[0] + 1.45 * reach)
    ax.set_ylim(mean[1] + 1.9 * reach, mean[1] - reach)
    ax.set_xlabel("$d_x$ (pm), right", **_STYLE)
    ax.set_ylabel("$d_y$ (pm), down", **_STYLE)
    ax.tick_params(labelsize=7)
    sem = std / np.sqrt(len(d))
    label = "\n".join(
        f"$\\langle d_{name}\\rangle$ = {m:.2f} ± {s:.2f} pm,  sd {v:.1f} pm"
        for name, m, s, v in zip("xy", mean, sem, std, strict=True)
    )
    ax.text(
        0.03,
        0.02,
        label + "\nbars: sd; ±: standard error",
        transform=ax.transAxes,
        va="bottom",
        fontsize=6,
        bbox={"color": "white", "pad": 1},
    )
    inset = ax.inset_axes((0.64, 0.14, 0.34, 0.18))
    top = float(np.quantile(error, 0.99)) * 1.6
    for n, (name, colour) in enumerate((("x", "#31688e"), ("y", "#d1603d"))):
        inset.hist(
            error[:, n], bins=30, range=(0, top), histtype="step", color=colour, lw=1, label=f"$d_{name}$"
        )
    inset.set_xlabel("fit error of one cell (pm)", fontsize=6, labelpad=1)
    inset.set_yticks([])
    inset.tick_params(labelsize=6, pad=1)
    inset.legend(fontsize=6, frameon=False, handlelength=1, loc="upper right")
