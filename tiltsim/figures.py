"""The pictures of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import analysis
import dcnn
from tiltsim.networks import MODES

#: A and B sites keep these colours everywhere (Okabe and Ito's colour-blind-safe palette).
SITE_COLOURS = {"A": "#0072B2", "B": "#D55E00"}
_MARKERS = "osD^v"
_STYLE = {"fontsize": 8}


def _tidy(ax: Axes) -> None:
    ax.tick_params(labelsize=7, direction="in", top=True, right=True)
    ax.grid(alpha=0.25, linewidth=0.4)


def plot_tilt_response(response: xr.Dataset) -> Figure:
    """Shift of A and B and apparent bias against tilt, one column of panels a phase.

    Parameters
    ----------
    response : Dataset
        From :func:`analysis.tilt_response`.

    Returns
    -------
    Figure
        Rows: shift along x of both sites at the greatest thickness; d bias along x; d bias along y.
    """
    phases = [str(p) for p in response.phase.values]
    fig = Figure(figsize=(2.1 * len(phases) + 0.8, 5.8), layout="constrained")
    axes = np.atleast_2d(fig.subplots(3, len(phases), sharex=True, sharey="row", squeeze=False))
    last = response.isel(thickness=-1)
    shades = [str(v) for v in np.linspace(0.7, 0.0, response.sizes["thickness"])]
    for column, phase in enumerate(phases):
        top = axes[0, column]
        along = last.sel(phase=phase, tilt_y=0.0, component="x")
        for site in ("A", "B"):
            one = along.sel(site=site)
            top.errorbar(
                one.tilt_x, one["shift"], one.shift_sem, fmt="o-", ms=3, lw=1, capsize=2,
                color=SITE_COLOURS[site], label=f"{site} site",
            )  # fmt: skip
        top.set_title(phase, **_STYLE)
        for row, (axis, other, component) in enumerate(
            (("tilt_x", "tilt_y", "x"), ("tilt_y", "tilt_x", "y")), start=1
        ):
            ax = axes[row, column]
            bias = response.sel({"phase": phase, other: 0.0, "component": component})
            for t, (shade, marker) in enumerate(zip(shades, _MARKERS, strict=False)):
                one = bias.isel(thickness=t)
                ax.errorbar(
                    one[axis], one.d_bias, one.d_bias_sem, fmt=f"{marker}-", ms=3, lw=1, capsize=2,
                    color=shade, label=f"{float(one.thickness) / 10:g} nm",
                )  # fmt: skip
            ax.axhline(0, color="0.5", lw=0.6)
        axes[2, column].set_xlabel("tilt (mrad)", **_STYLE)
    thickest = float(last.thickness) / 10
    axes[0, 0].set_ylabel(f"column shift along x (pm)\nat {thickest:g} nm, tilt along x", **_STYLE)
    axes[1, 0].set_ylabel("apparent − true $d_x$ (pm)\ntilt along x", **_STYLE)
    axes[2, 0].set_ylabel("apparent − true $d_y$ (pm)\ntilt along y", **_STYLE)
    axes[0, 0].legend(fontsize=7, frameon=False)
    axes[1, 0].legend(fontsize=7, frameon=False)
    for ax in axes.flat:
        _tidy(ax)
    return fig


def plot_slopes(response: xr.Dataset) -> Figure:
    """Picometres per milliradian of A, B and d against thickness, one panel a phase and axis."""
    phases = [str(p) for p in response.phase.values]
    fig = Figure(figsize=(2.1 * len(phases) + 0.8, 4.0), layout="constrained")
    axes = np.atleast_2d(fig.subplots(2, len(phases), sharex=True, sharey=True, squeeze=False))
    nm = response.thickness.values / 10
    for column, phase in enumerate(phases):
        for row, component in enumerate("xy"):
            ax = axes[row, column]
            one = response.sel(phase=phase, component=component, tilt_axis=component)
            for site in ("A", "B"):
                s = one.sel(site=site)
                ax.errorbar(
                    nm, s.shift_per_mrad, s.shift_per_mrad_sem, fmt="o-", ms=3, lw=1, capsize=2,
                    color=SITE_COLOURS[site], label=f"{site} site",
                )  # fmt: skip
            ax.errorbar(
                nm, one.d_bias_per_mrad, one.d_bias_per_mrad_sem, fmt="s-", ms=4, lw=1.6, capsize=2,
                color="k", label="apparent $d$ (A − B)",
            )  # fmt: skip
            ax.axhline(0, color="0.5", lw=0.6)
            _tidy(ax)
        axes[0, column].set_title(phase, **_STYLE)
        axes[1, column].set_xlabel("thickness (nm)", **_STYLE)
    axes[0, 0].set_ylabel("along x\n(pm per mrad)", **_STYLE)
    axes[1, 0].set_ylabel("along y\n(pm per mrad)", **_STYLE)
    fig.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=7, frameon=False
    )
    return fig


def plot_gallery(images: xr.Dataset, side: float = 12.0) -> Figure:
    """Images of every phase at the ends and the middle of the tilt series along x, greatest thickness."""
    phases = [str(p) for p in images.phase.values]
    tilts = [images.tilt_x.values[0], 0.0, images.tilt_x.values[-1]]
    fig = Figure(figsize=(5.4, 1.75 * len(phases)), layout="constrained")
    axes = np.atleast_2d(fig.subplots(len(phases), 3, squeeze=False))
    centre = float(images.x.mean())
    low, high = centre - side / 2, centre + side / 2
    for row, phase in enumerate(phases):
        crop = images.intensity.isel(thickness=-1).sel(
            phase=phase, tilt_y=0.0, x=slice(low, high), y=slice(low, high)
        )
        for column, tilt in enumerate(tilts):
            ax = axes[row, column]
            ax.imshow(
                crop.sel(tilt_x=tilt), cmap="gray", vmin=float(crop.min()), vmax=float(crop.max()),
                extent=(0, side, side, 0), interpolation="bicubic",
            )  # fmt: skip
            ax.set_xticks([])
            ax.set_yticks([])
            if row == 0:
                ax.set_title(f"tilt_x = {tilt:+g} mrad" if tilt else "on axis", **_STYLE)
        axes[row, 0].set_ylabel(phase, **_STYLE)
    bar = axes[-1, 0]
    bar.plot([0.8, 5.8], [side - 0.9] * 2, color="w", lw=2.5)
    bar.text(3.3, side - 1.4, "5 Å", color="w", ha="center", va="bottom", fontsize=7)
    return fig


def plot_lopsided(
    fields: dict[tuple[float, float], xr.DataArray], cells: xr.Dataset, limit: float = 60.0
) -> Figure:
    """The film, and the cloud of its fitted displacements at the ends and the middle of the series along x.

    Crosses mark the true displacement of each kind of domain, dots the fitted cells inside domains.
    """
    tilts = sorted({t for t in fields if t[1] == 0.0})
    chosen = [tilts[0], (0.0, 0.0), tilts[-1]]
    fig = Figure(figsize=(8.6, 2.7), layout="constrained")
    picture, *clouds = fig.subplots(1, 4, width_ratios=[1.45, 1, 1, 1])
    image = fields[(0.0, 0.0)]
    extent_nm = (0, float(image.x[-1]) / 10, float(image.y[-1]) / 10, 0)
    picture.imshow(
        image,
        cmap="gray",
        extent=extent_nm,
        vmin=float(image.quantile(0.005)),
        vmax=float(image.quantile(0.998)),
    )
    picture.set_title(f"film of domains, {image.attrs['dose_per_A2']:.0e} e/Å²", **_STYLE)
    picture.set_xlabel("x (nm)", **_STYLE)
    picture.set_ylabel("y (nm)", **_STYLE)
    picture.tick_params(labelsize=7)
    for ax, tilt in zip(clouds, chosen, strict=True):
        inside = (
            (cells.tilt_x == tilt[0]) & (cells.tilt_y == tilt[1]) & (cells.flag == 0) & (cells.share > 0.95)
        )
        table = cells.isel(cell=np.flatnonzero(inside))
        ax.scatter(table.d[:, 0], table.d[:, 1], s=3, alpha=0.3, color="#009E73", lw=0, rasterized=True)
        kinds = np.unique(table.kind)
        true = np.array([table.d_true.values[table.kind.values == k].mean(axis=0) for k in kinds])
        ax.plot(true[:, 0], true[:, 1], "x", color="k", ms=5, mew=1.1, label="true")
        mean = table.d.mean("cell").values
        ax.plot(*mean, "P", color="#CC79A7", ms=8, mec="w", label="mean of cells")
        ax.set_xlim(-limit, limit)
        ax.set_ylim(limit, -limit)
        ax.set_aspect("equal")
        ax.axhline(0, color="0.5", lw=0.6)
        ax.axvline(0, color="0.5", lw=0.6)
        name = f"tilt_x = {tilt[0]:+g} mrad" if tilt[0] else "on axis"
        ax.set_title(f"{name}\nmean ({mean[0]:+.1f}, {mean[1]:+.1f}) pm", fontsize=7)
        ax.set_xlabel("apparent $d_x$ (pm)", **_STYLE)
        _tidy(ax)
    clouds[0].set_ylabel("apparent $d_y$ (pm), y down", **_STYLE)
    fig.legend(
        *clouds[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, fontsize=7, frameon=False
    )
    return fig


def plot_network_bias(networks: dict[str, Any]) -> Figure:
    """Mean error of column fitting and of both networks on the test part against tilt."""
    fig = Figure(figsize=(6.2, 2.6), layout="constrained")
    axes = fig.subplots(1, 2, sharey=True)
    styles = {
        "fit": ("k", "s", "column fit"),
        "centred": ("#0072B2", "o", "network, B-centred"),
        "sliding": ("#D55E00", "^", "network, sliding"),
    }
    for ax, component, name in zip(axes, (0, 1), "xy", strict=True):
        for key, (colour, marker, label) in styles.items():
            bias = (
                {t: b["bias"] for t, b in networks["fit"].items()} if key == "fit" else networks[key]["bias"]
            )
            tilts = sorted(t for t in bias if t[1 - component] == 0.0)
            values = [bias[t][component] if key == "fit" else bias[t][name] for t in tilts]
            ax.plot(
                [t[component] for t in tilts], values, color=colour, marker=marker, ms=4, lw=1.2, label=label
            )
        ax.axhline(0, color="0.5", lw=0.6)
        ax.set_xlabel(f"tilt along {name} (mrad)", **_STYLE)
        ax.set_ylabel(f"mean error of $d_{name}$ (pm)", **_STYLE)
        _tidy(ax)
    axes[0].legend(fontsize=7, frameon=False)
    return fig


def draw_all(
    images: xr.Dataset,
    response: xr.Dataset,
    fields: dict[tuple[float, float], xr.DataArray],
    cells: xr.Dataset,
    networks: dict[str, Any],
    out: Path,
) -> None:
    """Draw every figure of a study into ``out``, PNG and SVG."""
    zero = (0.0, 0.0)
    drawings: dict[str, Figure] = {
        "lopsided": plot_lopsided(fields, cells),
        "tilt_response": plot_tilt_response(response),
        "slopes": plot_slopes(response),
        "gallery": plot_gallery(images),
        "polarization": analysis.plot_polarization(fields[zero], analysis.measure(fields[zero], zone="100")),
        "network_bias": plot_network_bias(networks),
    }
    for mode in MODES:
        line = dcnn.split_line(fields[zero])
        drawings[f"dcnn/maps_{mode}"] = dcnn.plot_split_maps(networks[mode]["predictions"], line)
        drawings[f"dcnn/learning_{mode}"] = dcnn.plot_learning_curve(networks[mode]["model"])
    for stem, fig in drawings.items():
        analysis.save(fig, out / stem)
