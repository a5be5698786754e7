"""The cloud of displacements, and how its components and sizes are distributed."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import NDArray
from scipy.stats import rayleigh

from .domains import find_domains
from .drawing import DENSE, FLAGGED, PALETTE, SMALL, TEXT, figure_of, new_figure, signed, title, with_error
from .errors import ImageError
from .inversion import inversion_centre
from .measuring import Measurement
from .tiling import require, usable_cells

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Share of cells without any displacement that noise alone leaves below the noise floor.
FLOOR_LEVEL = 0.95


def cloud(
    measurement: Measurement | xr.Dataset, domains: xr.Dataset | None = None, *, ax: Axes | None = None
) -> Figure:
    """Displacements of all cells, their mean, the means of variants and the inversion centre.

    Parameters
    ----------
    measurement : Measurement or xr.Dataset
        Or its unit cells.
    domains : xr.Dataset, optional
        From `find_domains` of these cells, which is called otherwise.
    ax : Axes, optional
        Draw a panel there instead of a new figure.

    Returns
    -------
    Figure
        y points down, as in the image.

    Raises
    ------
    ImageError
        Too few cells to find domains in.
    """
    cells = _cells(measurement)
    domains = find_domains(cells) if domains is None else domains
    found = inversion_centre(cells, domains)
    if ax is None:
        ax = new_figure(6.2, 4.6).subplots()
    good = usable_cells(cells)
    d, label = cells["d"].values, domains["domain"].values
    dense = bool(good.sum() > DENSE)
    size = float(np.clip(3 * np.sqrt(800 / good.sum()), 0.8, 3.0))  # pt
    finite = np.isfinite(d).all(1)
    several = domains.sizes["variant"] > 1
    groups: list[tuple[str, Any, Mask]] = (
        [(f"flagged ({int((~good).sum())})", FLAGGED, ~good & finite)] if (~good).any() else []
    )
    for k in range(domains.sizes["variant"]):
        name = f"variant {k + 1}" if several else "cells"
        of = good & (label == k)
        groups.append((f"{name} ({int(of.sum())})", PALETTE[k], of))
    for name, colour, of in groups:
        ax.plot(*d[of].T, ".", color=colour, markersize=size, markeredgewidth=0, alpha=0.6, rasterized=dense, zorder=2)  # fmt: skip
        ax.plot([], [], ".", color=colour, markersize=7, label=name)
    ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    ax.axvline(0, color="0.7", linewidth=0.6, zorder=0)
    marks: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "black", "zorder": 5}
    if several:
        ax.plot(
            *domains["mean"].values.T, "D", color="white", markersize=5, label="mean of a variant", **marks
        )
    mean, spread = d[good].mean(0), d[good].std(0)
    text = f"mean: {signed(mean[0], 2)}, {signed(mean[1], 2)} pm\nsd: {spread[0]:.1f}, {spread[1]:.1f} pm"
    ax.plot(*mean, "+", markersize=9, markeredgewidth=1.8, label=text, **marks)
    centre, error = found["centre"].values, np.sqrt(np.diagonal(found["centre_cov"].values))
    if np.isfinite(centre).all():
        where, uncertain = with_error(centre, error)
        text = f"inversion centre:\n{where} pm\n± {uncertain} pm"
        ax.plot(*centre, "*", color="#D55E00", markersize=9, markeredgewidth=0.6, label=text, **marks)
        ax.errorbar(
            centre[0],
            centre[1],
            xerr=error[0],
            yerr=error[1],
            color="black",
            linewidth=1,
            capsize=2,
            zorder=6,
        )
    _limit(ax, d[good])
    _error_ellipse(ax, np.median(cells["d_cov"].values[good], axis=0))
    ax.set_xlabel("$d_x$ (pm), right", fontsize=TEXT)
    ax.set_ylabel("$d_y$ (pm), down", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=SMALL, frameon=False, labelspacing=0.8)
    title(ax, "d of all cells")
    return figure_of(ax)


def histograms(measurement: Measurement | xr.Dataset) -> Figure:
    """Distributions of d_x, d_y and |d| beside what noise alone would give.

    Parameters
    ----------
    measurement : Measurement or xr.Dataset
        Or its unit cells.

    Returns
    -------
    Figure
        Flagged cells are stacked in grey. The noise floor is the size below which `FLOOR_LEVEL` of the cells
        would lie if none had a displacement (Rayleigh distribution of the median standard error); sizes near it
        follow Rice's distribution, whose mean lies above the true size.

    Raises
    ------
    ImageError
        There is no unflagged cell.
    """
    cells = _cells(measurement)
    good = usable_cells(cells)
    if not good.any():
        raise ImageError("unit_cells: every cell is flagged; give an image with at least one good cell.")
    d = cells["d"].values
    sigma = np.sqrt(np.median(np.einsum("nii->ni", cells["d_cov"].values[good]), 0))
    figure = new_figure(7.2, 2.7)
    axes = figure.subplots(1, 3)
    size = np.hypot(d[:, 0], d[:, 1])
    panels = (("$d_x$ (pm), right", d[:, 0]), ("$d_y$ (pm), down", d[:, 1]), ("|d| (pm)", size))
    for letter, ax, (name, values) in zip("abc", axes, panels, strict=True):
        bins = _bins(values[good], floor=letter == "c")
        bad = values[~good & np.isfinite(values)]
        parts = [values[good], bad] if len(bad) else [values[good]]
        ax.hist(parts, bins, stacked=True, color=[PALETTE[0], FLAGGED][: len(parts)], alpha=0.85)
        ax.set_xlabel(name, fontsize=TEXT)
        ax.tick_params(labelsize=SMALL)
        top = 1.25 * ax.get_ylim()[1]
        ax.set_ylim(0, top)
        if letter == "c":
            _floor(ax, bins[-1], size[good], float(np.sqrt(0.5 * (sigma**2).sum())), _at_floor(cells, good))
        else:
            s, middle, spread = sigma["ab".index(letter)], values[good].mean(), values[good].std()
            label = f"error of one cell, ±{s:.1f} pm"
            ax.errorbar(
                middle, 0.86 * top, xerr=s, color="black", marker="+", capsize=2, linewidth=1, label=label
            )
            title(ax, f"mean {signed(middle, 2)}, sd {spread:.1f} pm", letter)
        ax.legend(fontsize=SMALL, frameon=False, loc="upper right", handlelength=1.2, borderaxespad=0.2)
    axes[0].set_ylabel("cells", fontsize=TEXT)
    return figure


def _cells(measurement: Measurement | xr.Dataset) -> xr.Dataset:
    cells = measurement.unit_cells if isinstance(measurement, Measurement) else measurement
    require(cells, "d", "d_cov", "flag")
    return cells


def _limit(ax: Axes, d: Floats) -> None:
    """Equal scales, y down, and room for 99.8 % of the cells on the same length in x and y."""
    low, high = np.quantile(d, (0.001, 0.999), axis=0)
    middle = 0.5 * (low + high)
    half = 0.66 * max(float((high - low).max()), 1e-3)
    ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] + half, middle[1] - half))
    ax.set_box_aspect(1)


def _error_ellipse(ax: Axes, covariance: Floats) -> None:
    """The standard error of one cell in the lower left corner."""
    value, vector = np.linalg.eigh(covariance)
    left, right = ax.get_xlim()
    width = right - left
    wide, tall = 2 * np.sqrt(np.diagonal(covariance))
    x = left + 0.05 * width + 0.5 * wide
    y = ax.get_ylim()[0] - 0.05 * width - 0.5 * tall
    major, minor = 2 * np.sqrt(value[::-1])
    angle = np.degrees(np.arctan2(vector[1, 1], vector[0, 1]))
    ax.add_patch(
        Ellipse(
            (x, y), major, minor, angle=angle, facecolor="white", edgecolor="black", linewidth=1, zorder=7
        )
    )
    ax.text(x + 0.5 * wide + 0.02 * width, y, "error of one cell", fontsize=SMALL, va="center", zorder=7,
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1})  # fmt: skip


def _bins(values: Floats, *, floor: bool) -> Floats:
    low, high = np.quantile(values, (0.002, 0.998))
    reach = 0.15 * max(high - low, 1e-3)
    low, high = (0.0 if floor else low - reach), high + reach
    return np.linspace(low, high, int(np.clip(np.sqrt(len(values)), 12, 60)) + 1)


def _at_floor(cells: xr.Dataset, good: NDArray[np.bool_]) -> Mask | None:
    return cells["at_noise_floor"].values[good].astype(bool) if "at_noise_floor" in cells else None


def _floor(ax: Axes, end: float, size: Floats, sigma: float, at_floor: Mask | None) -> None:
    floor = float(rayleigh.ppf(FLOOR_LEVEL, scale=sigma))
    share = float((size < floor).mean() if at_floor is None else at_floor.mean())
    x = np.linspace(0, end, 400)
    noise = rayleigh.pdf(x, scale=sigma) * 0.75 * ax.get_ylim()[1] / rayleigh.pdf(sigma, scale=sigma)
    ax.axvspan(0, floor, color="#E69F00", alpha=0.25, linewidth=0, zorder=0)
    ax.plot(x, noise, color="black", linewidth=1, label="noise alone, not to scale")
    ax.set_xlim(0, end)
    title(ax, f"{100 * share:.0f} % at the noise floor, {floor:.1f} pm", "c")
