"""One picture of how tilt makes a symmetric distribution of polarization lopsided, and of whose doing it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from analysis.drawing import CONVENTION, PALETTE, SMALL, TEXT, signed
from tiltsim.figures import SITE_COLOURS

#: Colours of the two variants, unlike those of the sites.
_VARIANTS = (PALETTE[2], PALETTE[3])

#: Of each panel, and of what stands around them, inches.
_PANEL, _RIGHT = (1.45, 1.35), 2.3

#: Width of all histograms together, however few: the legend above them needs it.
_LEAST = 5.6

#: Share of a panel that bars and lines may fill; above it stands the offset.
_HEADROOM = 0.83


def plot_asymmetry(result: xr.Dataset) -> Figure:
    """Histograms of apparent d for every Sm fraction and tilt, and what A and B columns add to their mean.

    Parameters
    ----------
    result : Dataset
        From :func:`tiltsim.asymmetry_study`.

    Returns
    -------
    Figure
        A row for each Sm fraction, a column for each tilt: share of cells by apparent d along the polar axis, each
        variant in its colour; dashed: true values; black: the mean of both. On the right: that mean, and the parts of it
        that are A and B columns', against tilt, with one standard error.
    """
    rows, columns = result.sizes["samarium"], result.sizes["tilt"]
    panels = max(columns * _PANEL[0], _LEAST)
    width, height = panels + _RIGHT + 0.75, rows * _PANEL[1] + 1.3
    figure = Figure(figsize=(width, height))
    left, right, top, bottom = 0.75 / width, 1 - 0.1 / width, 1 - 0.72 / height, 0.64 / height
    split = left + panels / width
    grid = GridSpec(
        rows, columns, figure, left=left, right=split, top=top, bottom=bottom, wspace=0.08, hspace=0.16
    )
    beside = GridSpec(
        rows, 1, figure, left=split + 0.72 / width, right=right, top=top, bottom=bottom, hspace=0.16
    )
    histograms = grid.subplots(sharex=True, sharey=True, squeeze=False)
    parts = beside.subplots(sharex=True, sharey=True, squeeze=False)[:, 0]
    share = 100 * result.counts / result.cells
    limit = _shown(result)
    for i in range(rows):
        for j in range(columns):
            _histogram(histograms[i, j], result.isel(samarium=i, tilt=j), share.isel(samarium=i, tilt=j))
        _contributions(parts[i], result.isel(samarium=i))
        fraction = float(result.samarium[i])
        # On the left of a row, as its title.
        histograms[i, 0].set_ylabel(f"{_samarium(fraction)}\nshare of cells (%)", fontsize=TEXT)
        parts[i].set_ylabel("offset (pm)", fontsize=TEXT)
    histograms[0, 0].set(xlim=(-limit, limit), ylim=(0, 1.03 / _HEADROOM * float(share.max())))
    for j, tilt in enumerate(result.tilt.values):
        histograms[0, j].set_title(f"tilt {tilt:g} mrad", fontsize=TEXT, pad=4)
    parts[0].set_title("parts of the offset", fontsize=TEXT, pad=4)
    parts[-1].set_xlabel("tilt (mrad)", fontsize=TEXT)
    parts[0].margins(y=0.12)
    middle = (left + split) / 2
    figure.text(
        middle, 0.33 / height, "apparent d along the polar axis (pm)", ha="center", va="center", fontsize=TEXT
    )
    figure.text(0.5, 0.07 / height, CONVENTION, ha="center", va="bottom", fontsize=SMALL)
    figure.text(left, 1 - 0.06 / height, _heading(result), va="top", fontsize=TEXT + 1, fontweight="bold")
    _legends(figure, result, left, split + 0.45 / width, 1 - 0.3 / height)
    return figure


def _heading(result: xr.Dataset) -> str:
    azimuth = float(result.attrs["azimuth_degrees"])
    along = f"{azimuth:g}° (90°: down)" if azimuth else "+x"
    nm = float(result.attrs["thickness_angstrom"]) / 10
    return f"One crystal a row, {nm:g} nm thick, beam tilted along {along}: symmetric in truth, lopsided in the image"


def _samarium(fraction: float) -> str:
    return f"{100 * fraction:g} % Sm"


def _arrow(d: NDArray[np.float64]) -> str:
    """Where d (x, y down) points in the image."""
    return {(1, -1): "↗", (-1, 1): "↙", (1, 1): "↘", (-1, -1): "↖"}[int(np.sign(d[0])), int(np.sign(d[1]))]


def _shown(result: xr.Dataset) -> float:
    """Half of what the axis of d shows, pm: all but the outermost thousandth of cells."""
    total = result.counts.sum(("samarium", "tilt", "variant"))
    folded = total.values + total.values[::-1]
    inside = np.cumsum(folded[len(folded) // 2 :]) / folded[len(folded) // 2 :].sum()
    edge = result.bin.values[len(folded) // 2 :][np.searchsorted(inside, 0.999)]
    return float(1.08 * edge + 2.0)


def _histogram(ax: Axes, one: xr.Dataset, share: xr.DataArray) -> None:
    step = float(one.bin[1] - one.bin[0])
    edges = np.append(one.bin.values - step / 2, one.bin.values[-1] + step / 2)
    for colour, name in zip(_VARIANTS, one.variant.values, strict=True):
        ax.stairs(share.sel(variant=name), edges, fill=True, color=colour, alpha=0.75, linewidth=0)
        true = float(one.d_true.sel(variant=name) @ one["axis"])
        ax.axvline(true, 0.0, _HEADROOM, color=colour, linewidth=1.3, linestyle=(0, (3, 1.5)))
    offset, sem = float(one.offset_polar), float(one.offset_polar_sem)
    ax.axvline(0.0, 0.0, _HEADROOM, color="0.6", linewidth=0.6, zorder=0)
    ax.axvline(offset, 0.0, _HEADROOM, color="black", linewidth=1.8)
    digits = 1 if sem >= 0.05 else 2
    # Rounded first, lest nothing has a sign.
    shown = round(offset, digits)
    said = signed(shown, digits) if shown else f"{0:.{digits}f}"
    ax.text(
        0.5,
        0.97,
        f"{said} ± {sem:.{digits}f} pm",
        transform=ax.transAxes,
        ha="center",
        va="top",
        fontsize=TEXT,
    )
    ax.tick_params(labelsize=SMALL, direction="in")


def _contributions(ax: Axes, one: xr.Dataset) -> None:
    for name, colour, marker, label, wide in (
        ("offset_polar_A", SITE_COLOURS["A"], "o", "A sites", 1.2),
        ("offset_polar_B", SITE_COLOURS["B"], "s", "B sites", 1.2),
        ("offset_polar", "black", "D", "both", 1.8),
    ):
        ax.errorbar(
            one.tilt, one[name], one[f"{name}_sem"], color=colour, marker=marker, markersize=3.5, linewidth=wide, capsize=2,
            label=label,
        )  # fmt: skip
    ax.axhline(0.0, color="0.6", linewidth=0.6, zorder=0)
    ax.tick_params(labelsize=SMALL, direction="in")


def _legends(figure: Figure, result: xr.Dataset, left: float, beside: float, top: float) -> None:
    handles = [
        *(
            Patch(color=colour, alpha=0.75, linewidth=0, label=f"variant {name} {_arrow(d)}")
            for colour, name, d in zip(
                _VARIANTS, result.variant.values, result.d_true.values[0, 0], strict=True
            )
        ),
        Line2D([], [], color="0.35", linewidth=1.3, linestyle=(0, (3, 1.5)), label="true d"),
        Line2D([], [], color="black", linewidth=1.6, label="offset: mean of both variants (truth: 0)"),
    ]
    options: dict[str, Any] = {
        "fontsize": SMALL, "frameon": False, "loc": "upper left", "borderaxespad": 0.0, "columnspacing": 1.2,
        "handlelength": 1.6, "handletextpad": 0.5,
    }  # fmt: skip
    figure.legend(handles=handles, ncols=len(handles), bbox_to_anchor=(left, top), **options)
    lines = figure.axes[-1].get_legend_handles_labels()
    figure.legend(*lines, ncols=3, bbox_to_anchor=(beside, top), **options)
