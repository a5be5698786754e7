"""A library at a glance: what a cell looks like over tilt and thickness, and how well it foretells."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from tiltsim.library.response import Library

#: Source of the pictures, Å, and d of the cell shown, pm: bulk BiFeO3's.
_SOURCE, _D = 0.8, (-23.6, -23.6)


def plot_library(library: Library) -> Figure:
    """Two by two cells of BiFeO3 at tilts along x (columns) and thicknesses (rows)."""
    tilts = np.linspace(-library.tilt_limit, library.tilt_limit, 7)
    low, high = library.thickness_range
    wanted = [t for t in (50.0, 100.0, 200.0, 300.0, 400.0) if low <= t <= high] or [low, high]
    thicknesses = sorted({min(t, high) for t in (*wanted, high)})[:5]
    edge = library.edges["BiFeO3"]
    axis = np.linspace(-0.25, 1.75, 101)
    figure = Figure(figsize=(1.15 * len(tilts) + 0.6, 1.2 * len(thicknesses) + 0.7), layout="constrained")
    axes = figure.subplots(len(thicknesses), len(tilts), squeeze=False)
    for row, thickness in enumerate(thicknesses):
        for column, tilt in enumerate(tilts):
            ax = axes[row][column]
            image = library.uniform_image(
                axis, axis, source_fwhm=_SOURCE / edge, d=_D, tilt=(tilt, 0.0), thickness=thickness
            )
            # B is a fifth as bright as A; one cell is left without marks.
            ax.imshow(np.sqrt(image), cmap="gray", extent=(-0.25, 1.75, 1.75, -0.25), interpolation="bicubic")
            ax.plot([0, 1], [0, 0], "+", color="tab:orange", markersize=5, markeredgewidth=0.8)
            ax.plot(
                *(0.5 - np.array(_D) / 100 / edge), "+", color="tab:cyan", markersize=5, markeredgewidth=0.8
            )
            ax.set_xticks([])
            ax.set_yticks([])
            if row == 0:
                ax.set_title(f"{tilt:+.3g} mrad", fontsize=8)
            if column == 0:
                ax.set_ylabel(f"{thickness / 10:.3g} nm", fontsize=8)
    figure.suptitle(
        "BiFeO3, tilt along x, √intensity; + true places of A (orange) and B (blue) columns", fontsize=9
    )
    return figure


def plot_check(check: xr.Dataset) -> Figure:
    """Errors against thickness for every kind of held-out point."""
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    axes = figure.subplots(1, 3)
    over = ("tilt_x", "tilt_y")
    for label in check.check.values:
        one = check.sel(check=label)
        nm = one.cells * 0.3965
        axes[0].plot(nm, 100 * np.sqrt((one.nrmse**2).mean(over)), "o-", markersize=3, label=str(label))
        for ax, site in zip(axes[1:], "AB", strict=True):
            error = np.sqrt((one.position_error.sel(site=site) ** 2).mean((*over, "component")))
            ax.plot(nm, error, "o-", markersize=3)
    for ax, title in zip(axes, ("image, %", "A position, pm", "B position, pm"), strict=True):
        ax.set_title(f"rms error: {title}", fontsize=9)
        ax.set_xlabel("thickness, nm")
        ax.set_ylim(bottom=0)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=6, frameon=False)
    return figure
