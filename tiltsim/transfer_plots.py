"""Figure of a transfer study: test error against the number of labels, and maps of the best network."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tiltsim.transfer import TRAININGS, best_map

_FONT = 8
# Okabe and Ito (2008): distinct for colour-blind readers; marks tell them apart in grey too.
_LOOK = {
    "scratch": ("#D55E00", "o", "from scratch"),
    "pre-trained": ("#009E73", "s", "pre-trained, as it is"),
    "fine-tuned": ("#0072B2", "^", "pre-trained, fine-tuned"),
}


def plot_transfer(study: xr.Dataset) -> Figure:
    """Draw test errors against the number of labelled cells, and maps of the network with the smallest.

    Parameters
    ----------
    study : Dataset
        From :func:`~tiltsim.transfer.transfer_study`.

    Returns
    -------
    matplotlib.figure.Figure
        (a), (b) RMSE of d_x and d_y on the test part: mean and range of the repeats. Dotted: saying the mean of the training
        labels everywhere; dashed: the noise of the labels themselves. (c) to (h) labels, prediction and difference.
    """
    kind, share = best_map(study)
    xy = np.column_stack([study["x"].values, study["y"].values])
    side = _spacing(xy)
    low, high = xy.min(axis=0) - side / 2, xy.max(axis=0) + side / 2
    width = 7.2
    maps = 2 * 1.8 * (high[1] - low[1]) / (high[0] - low[0]) + 0.7
    figure = Figure(figsize=(width, 2.55 + maps), layout="constrained", dpi=200)
    rows = figure.add_gridspec(2, 1, height_ratios=(2.55, maps))
    upper, lower = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
    curves = upper.subplots(1, 2)
    for k, ax in enumerate(curves):
        _curves(ax, study, k)
        ax.set_title(f"({'ab'[k]}) $d_{'xy'[k]}$, test part", loc="left", fontsize=_FONT)
    handles, names = curves[0].get_legend_handles_labels()
    upper.legend(
        handles, names, loc="outside lower center", ncols=len(names), fontsize=_FONT - 1, frameon=False,
        handlelength=1.8, columnspacing=1.1,
    )  # fmt: skip
    _maps(lower, study, kind, share, xy, side, (low, high))
    return figure


def _curves(ax: Axes, study: xr.Dataset, k: int) -> None:
    one = study.isel(component=k, drop=True)
    cells = one["labelled"].mean("repeat").values
    order = np.argsort(cells)
    highest = 0.0
    for kind in TRAININGS:
        colour, mark, name = _LOOK[kind]
        rmse = one["rmse"].sel(training=kind, drop=True).transpose("share", "repeat").values[order]
        mean = rmse.mean(axis=1)
        highest = max(highest, float(rmse.max()))
        if kind == "pre-trained":  # needs no labels
            ax.axhline(mean[0], color=colour, lw=1.3, label=name)
            continue
        spread = np.abs(np.array([rmse.min(axis=1), rmse.max(axis=1)]) - mean)
        ax.errorbar(
            cells[order], mean, spread, color=colour, marker=mark, ms=4, lw=1.3, capsize=2, label=name
        )
    mean_rmse, noise = float(one["mean_rmse"]), float(one["label_noise"])
    ax.axhline(mean_rmse, color="0.4", ls=":", lw=1.2, label="mean label")
    if np.isfinite(noise):
        ax.axhline(noise, color="0.4", ls="--", lw=1.0, label="noise of labels")
    ax.set_xscale("log")
    ticks = np.unique(np.round(cells).astype(int))
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_ylim(0, 1.12 * max(highest, mean_rmse, noise if np.isfinite(noise) else 0.0))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel("labelled cells in the training area", fontsize=_FONT)
    ax.set_ylabel("RMSE against column fits (pm)", fontsize=_FONT)
    ax.tick_params(labelsize=_FONT - 1)


def _maps(
    figure: SubFigure,
    study: xr.Dataset,
    kind: str,
    share: float,
    xy: NDArray[np.float64],
    side: float,
    box: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> None:
    """Column fit, prediction and difference; rows d_x, d_y."""
    label = study["d_label"].transpose("component", "cell").values
    d = study["d"].sel(training=kind, share=share).transpose("component", "cell").values
    line = float(study.attrs["split_x_angstrom"])
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    cells = int(study["labelled"].sel(share=share).isel(repeat=0))
    short = {"scratch": f"from scratch, {cells} cells", "fine-tuned": f"fine-tuned, {cells} cells"}
    names = ("column fit", short.get(kind, "pre-trained"), "difference")
    low, high = box
    for row, component in enumerate("xy"):
        # Real d has a mean, of tilt and of the crystal, beside which its variation would not be seen.
        middle = float(np.median(label[row]))
        reach = max(float(np.percentile(np.abs(label[row] - middle), 98)), 1e-3)
        for column, values in enumerate((label[row], d[row], d[row] - label[row])):
            ax = axes[row, column]
            centre = 0.0 if column == 2 else middle
            squares = _squares(xy, side, values, centre - reach, centre + reach)
            ax.add_collection(squares)
            ax.set_facecolor("0.8")
            ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal")
            ax.axvline(line, color="k", lw=0.9, ls="--")
            ax.tick_params(labelsize=_FONT - 1)
            ax.set_title(
                f"({'cdefgh'[3 * row + column]}) {names[column]}",
                loc="left",
                fontsize=_FONT,
                pad=12 if row == 0 else 4,
            )
            if row == 0:
                for shift, text, ha in ((-3, "← train", "right"), (3, "test →", "left")):
                    ax.annotate(text, (line, 1), (shift, 2), xycoords=ax.get_xaxis_transform(),
                                textcoords="offset points", ha=ha, fontsize=_FONT - 2)  # fmt: skip
            if row == 1:
                ax.set_xlabel("x (Å)", fontsize=_FONT)
            if column == 0:
                ax.set_ylabel("y (Å), down", fontsize=_FONT)
            else:
                bar = figure.colorbar(squares, ax=ax, extend="both", fraction=0.06, pad=0.03, aspect=18)
                what = f"$d_{component}$" if column == 1 else f"$\\Delta d_{component}$"
                bar.set_label(f"{what} (pm)", fontsize=_FONT)
                bar.ax.tick_params(labelsize=_FONT - 1)


def _spacing(xy: NDArray[np.float64]) -> float:
    """Median distance to the four nearest neighbours: the side of a cell, or the stride, Å."""
    near = min(5, len(xy))
    return float(np.median(cKDTree(xy).query(xy, k=near)[0][:, 1:])) if near > 1 else 1.0


def _squares(
    xy: NDArray[np.float64], side: float, values: NDArray[np.float64], low: float, high: float
) -> PolyCollection:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2
    squares = PolyCollection(
        list(xy[:, None, :] + corners), cmap="RdBu_r", edgecolor="face", linewidth=0.2, clim=(low, high)
    )
    squares.set_array(values)
    squares.set_rasterized(True)  # thousands of squares; text and axes stay vectors
    return squares
