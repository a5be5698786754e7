"""Figures: maps on either side of the split, and the learning curve."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dcnn._errors import ModelError
from dcnn._model import Model

_FONT = 8
_COLOURS = "RdBu_r"


def plot_split_maps(
    dataset: xr.Dataset,
    split_x: float | None = None,
    *,
    truth_name: str = "Truth",
    limit_pm: float | None = None,
    limit_difference_pm: float | None = None,
) -> Figure:
    """Draw maps of label, prediction and difference for both components.

    Parameters
    ----------
    dataset : xarray.Dataset
        From `evaluate_split`.
    split_x : float, optional
        Position of the split line in Å; defaults to the dataset's own.
    truth_name : str
        What the labels are, for instance "Truth" or "Column fit".
    limit_pm, limit_difference_pm : float, optional
        Ends of the colour scales; default to the 99th percentile.

    Returns
    -------
    matplotlib.figure.Figure
        Two rows (d_x, d_y) of three maps; y points down as in the image.

    Raises
    ------
    ModelError
        If variables are missing or the dataset is empty.
    """
    missing = {"x", "y", "d", "d_label", "subset"} - set(dataset.variables)
    if missing or not dataset.sizes.get("cell"):
        raise ModelError("The maps need a dataset with cells from evaluate_split.")
    line = float(dataset.attrs["split_x_angstrom"]) if split_x is None else split_x
    xy = np.column_stack([dataset["x"].values, dataset["y"].values])
    test = dataset["subset"].values == "test"
    label, d = (
        dataset[name].sel(component=["x", "y"]).transpose("component", "cell").values
        for name in ("d_label", "d")
    )
    scale = _limit(limit_pm, np.concatenate([label, d]))
    scale_difference = _limit(limit_difference_pm, d - label)

    side = _spacing(xy)
    low, high = xy.min(axis=0) - side / 2, xy.max(axis=0) + side / 2
    width, height = high - low
    panel = 1.75  # inch; three panels and two colour bars fill a page 7.1 inch wide
    figure = Figure(figsize=(7.1, 2 * panel * height / width + 1.0), layout="constrained", dpi=200)
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    columns = (truth_name, "Prediction", f"Prediction − {truth_name.lower()}")
    for row, component in enumerate("xy"):
        for column, values in enumerate((label[row], d[row], d[row] - label[row])):
            ax = axes[row, column]
            norm = scale_difference if column == 2 else scale
            cells = _squares(xy, side, values, norm)
            ax.add_collection(cells)
            # White is zero; grey, in the guard band and elsewhere, is "no value".
            ax.set_facecolor("0.8")
            ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal")
            if test.any() and not test.all():
                _mark_split(ax, line, named=row == 0)
            ax.tick_params(labelsize=_FONT - 1)
            letter = "abcdef"[3 * row + column]
            ax.set_title(
                f"({letter}) {columns[column]}", loc="left", fontsize=_FONT, pad=13 if row == 0 else 4
            )
            if row == 1:
                ax.set_xlabel("x (Å)", fontsize=_FONT)
            if column == 0:
                ax.set_ylabel("y (Å)", fontsize=_FONT)
            if column > 0:
                bar = figure.colorbar(
                    cells, cax=ax.inset_axes((1.05, 0, 0.05, 1)), extend="both", extendfrac=0.03
                )
                what = f"$d_{component}$" if column == 1 else f"$\\Delta d_{component}$"
                bar.set_label(f"{what} (pm)", fontsize=_FONT)
                bar.ax.tick_params(labelsize=_FONT - 1)
    return figure


def plot_prediction(image: xr.DataArray, cells: xr.Dataset, limit_pm: float | None = None) -> Figure:
    """Draw the image beside maps of both predicted components.

    Parameters
    ----------
    image : xarray.DataArray
        The image predicted from.
    cells : xarray.Dataset
        From `predict`.
    limit_pm : float, optional
        End of the colour scales; defaults to the 99th percentile.

    Returns
    -------
    matplotlib.figure.Figure
        Image, d_x and d_y; y points down.
    """
    xy = np.column_stack([cells["x"].values, cells["y"].values])
    d = cells["d"].sel(component=["x", "y"]).transpose("component", "cell").values
    side, norm = _spacing(xy), _limit(limit_pm, d)
    x, y = image["x"].values, image["y"].values
    width, height = abs(x[-1] - x[0]), abs(y[-1] - y[0])
    figure = Figure(figsize=(9.5, 2.6 * min(height / width, 1.6) + 1.0), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    low, high = np.nanquantile(image.values, [0.005, 0.998])
    axes[0].imshow(image.values, cmap="gray", extent=(x[0], x[-1], y[-1], y[0]), vmin=low, vmax=high)
    axes[0].set_title("image", fontsize=_FONT)
    for ax, values, name in zip(axes[1:], d, "xy", strict=True):
        squares = ax.add_collection(_squares(xy, side, values, norm))
        ax.set_title(f"predicted $d_{name}$, A − B", fontsize=_FONT)
        ax.set_aspect("equal")
        bar = figure.colorbar(squares, ax=ax, shrink=0.9)
        bar.set_label("pm", fontsize=_FONT)
        bar.ax.tick_params(labelsize=_FONT - 1)
    for ax in axes:
        ax.set_xlabel("x (Å)", fontsize=_FONT)
        ax.tick_params(labelsize=_FONT - 1)
    axes[0].set_ylabel("y (Å), down", fontsize=_FONT)
    return figure


def plot_learning_curve(model: Model) -> Figure:
    """Draw training and validation error in pm over the epochs, with the epoch that was kept.

    Parameters
    ----------
    model : Model
        Its card holds the history.

    Returns
    -------
    matplotlib.figure.Figure
        One panel, logarithmic in the error.
    """
    training = model.card["training"]
    figure = Figure(figsize=(3.5, 2.5), layout="constrained", dpi=200)
    ax = figure.subplots()
    curves = (("train_rmse_pm", "training", "C0"), ("validation_rmse_pm", "validation", "C1"))
    for name, text, colour in curves:
        values = [row[name] for row in training["history"] if name in row]
        if values:
            ax.plot(np.arange(1, len(values) + 1), values, color=colour, lw=1.2, label=text)
    ax.axhline(training["baseline_rmse_pm"], color="0.4", ls=":", lw=1, label="mean label")
    ax.axvline(training["best_epoch"], color="0.4", ls="--", lw=0.8, label="kept")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.set_xlabel("epoch", fontsize=_FONT)
    ax.set_ylabel("RMSE per component (pm)", fontsize=_FONT)
    ax.tick_params(labelsize=_FONT - 1, which="both")
    ax.legend(fontsize=_FONT - 1, frameon=False)
    return figure


def _limit(limit: float | None, values: NDArray[np.float64]) -> Normalize:
    """Symmetric colour scale, so that white is zero; a floor of 1e-3 pm where nothing varies."""
    end = max(float(np.percentile(np.abs(values), 99)), 1e-3) if limit is None else limit
    return Normalize(-end, end)


def _spacing(xy: NDArray[np.float64]) -> float:
    """Median distance to the four nearest neighbours: the side of a cell, or the stride."""
    near = min(5, len(xy))
    return float(np.median(cKDTree(xy).query(xy, k=near)[0][:, 1:])) if near > 1 else 1.0


def _squares(
    xy: NDArray[np.float64], side: float, values: NDArray[np.float64], norm: Normalize
) -> PolyCollection:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2
    squares = PolyCollection(
        list(xy[:, None, :] + corners), cmap=_COLOURS, norm=norm, edgecolor="face", linewidth=0.2
    )
    squares.set_array(values)
    # Thousands of vector squares make a heavy page; text and axes stay vectors.
    squares.set_rasterized(True)
    return squares


def _mark_split(ax: Axes, line: float, *, named: bool) -> None:
    """Draw the line, and name both sides above the upper row."""
    ax.axvline(line, color="k", lw=1, ls="--")
    if named:
        for shift, text, ha in ((-4, "← train", "right"), (4, "test →", "left")):
            ax.annotate(
                text,
                (line, 1),
                (shift, 2),
                xycoords=ax.get_xaxis_transform(),
                textcoords="offset points",
                ha=ha,
                fontsize=_FONT - 1,
            )
