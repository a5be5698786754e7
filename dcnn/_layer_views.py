"""Feature maps of every layer, what each responds to, and what can be read from each, as one dataset and one figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from dcnn._activations import activations, probe_layers, responses
from dcnn._errors import ModelError
from dcnn._model import Model
from dcnn._readout import SYMBOLS
from dcnn._windows import ANGSTROM

_FONT = 8
_ACROSS = 3  # layers side by side
_MAPS = 4  # of each layer


def view_layers(
    model: Model, windows: NDArray[Any], labels: Mapping[str, NDArray[Any]], held_out: NDArray[np.bool_]
) -> xr.Dataset:
    """Mean feature maps of a network, how they change with each label, and how well each layer tells the labels.

    Parameters
    ----------
    model : Model
        Of network "baseline" or "residual".
    windows : ndarray, shape (n, pixels, pixels)
        Of cells on which the averages and slopes are taken: all, or those of one displacement.
    labels : mapping of str to ndarray, shape (n,)
        Such as "d_x", "d_y" (pm), "tilt_x", "tilt_y" (mrad).
    held_out : ndarray of bool, shape (n,)
        Cells to judge readings on, see `probe_layers`.

    Returns
    -------
    xarray.Dataset
        ``r2`` (layer, quantity); for the input and each convolution, such as "conv1", ``mean_conv1`` (map, row, col) and
        ``response_conv1`` (quantity, map, row, col), the slope with each label while the others are held, dims named after
        the layer, rows and columns in Å from the window's middle; coordinate ``unit`` (quantity).

    Raises
    ------
    ModelError
        If windows or labels do not fit.
    """
    unknown = [name for name in labels if name not in SYMBOLS]
    if unknown or not labels:
        raise ModelError(f"labels must be among {', '.join(SYMBOLS)}, not {', '.join(unknown) or 'none'}.")
    result = probe_layers(model, windows, labels, held_out)
    result = result.assign_coords(unit=("quantity", [SYMBOLS[name][1] for name in labels]))
    seen = {"input": np.asarray(windows)[:, None], **activations(model, windows)}
    half = model.windows.size_angstrom / 2
    for layer, values in seen.items():
        if values.ndim != 4:
            continue
        dims = tuple(f"{dim}_{layer}" for dim in ("map", "row", "col"))
        slopes = np.stack(list(responses(values, labels).values()))
        result[f"mean_{layer}"] = (dims, values.mean(axis=0), {"units": "1"})
        result[f"response_{layer}"] = (("quantity", *dims), slopes, {"units": "1 / unit of the quantity"})
        for dim, n in zip(dims[1:], values.shape[2:], strict=True):
            at = ((np.arange(n) + 0.5) / n * 2 - 1) * half
            result = result.assign_coords({dim: (dim, at, {"units": ANGSTROM})})
    return result.assign_attrs(cells_shown=len(windows), size_angstrom=2 * half)


def plot_activations(views: xr.Dataset, maps: int = _MAPS) -> Figure:
    """Draw the input, the feature maps of every convolution, and what can be read from each layer.

    Parameters
    ----------
    views : xarray.Dataset
        From `view_layers`.
    maps : int
        Feature maps of each layer: those that respond most.

    Returns
    -------
    matplotlib.figure.Figure
        (a) the mean window and how it changes, (b) R² of linear readings, (c) … one block a convolution. Mean maps are
        each on their own scale; responses of a row share one, from blue (falls) through white to red (rises), whose end
        stands beside the row.
    """
    convolutions = [str(name) for name in views.layer.values if f"mean_{name}" in views and name != "input"]
    shown = _shown([str(q) for q in views["quantity"].values])
    deep = -(-len(convolutions) // _ACROSS)
    tall = 0.62 * (1 + len(shown)) + 0.25
    figure = Figure(figsize=(7.1, 1.95 + tall * deep), layout="constrained", dpi=200)
    parts = figure.subfigures(1 + deep, 1, height_ratios=[1.95] + [tall] * deep, squeeze=False)[:, 0]
    left, right = parts[0].subfigures(1, 2, width_ratios=(1.55, 1))
    _draw_input(left, views, shown)
    _draw_readings(right, views)
    for k, part in enumerate(parts[1:]):
        blocks = part.subfigures(1, _ACROSS)
        for j, layer in enumerate(convolutions[_ACROSS * k : _ACROSS * (k + 1)]):
            _draw_layer(blocks[j], views, layer, shown, maps, "cdefghijklmnop"[_ACROSS * k + j])
    return figure


def _shown(quantities: list[str]) -> list[str]:
    """Two quantities whose responses tell most: d and tilt along x where both are there."""
    wanted: list[str] = [q for q in ("d_x", "tilt_x") if q in quantities]
    return wanted if len(wanted) == 2 else quantities[:2]


def _draw_input(figure: SubFigure, views: xr.Dataset, shown: list[str]) -> None:
    axes = figure.subplots(1, 1 + len(shown), sharey=True)
    half = views.attrs["size_angstrom"] / 2
    box = (-half, half, half, -half)
    axes[0].imshow(views["mean_input"].values[0], cmap="gray", extent=box)
    axes[0].set_title("(a) mean window", fontsize=_FONT, loc="left")
    for ax, quantity in zip(axes[1:], shown, strict=True):
        slope = views["response_input"].sel(quantity=quantity).values[0]
        symbol, unit = SYMBOLS[quantity]
        end = float(np.abs(slope).max()) or 1.0
        picture = ax.imshow(slope, cmap="RdBu_r", vmin=-end, vmax=end, extent=box)
        ax.set_title(f"change with {symbol}", fontsize=_FONT, loc="left")
        bar = figure.colorbar(picture, ax=ax, location="bottom", pad=0.02, shrink=0.85)
        bar.set_label(f"contrast per {unit}", fontsize=_FONT - 1)
        bar.ax.tick_params(labelsize=_FONT - 2)
        bar.set_ticks([-end, 0, end], labels=[f"−{end:.2g}", "0", f"{end:.2g}"])
    for ax in axes:
        ax.set_xlabel("x (Å)", fontsize=_FONT - 1)
        ax.tick_params(labelsize=_FONT - 2, length=2)
    axes[0].set_ylabel("y (Å)", fontsize=_FONT - 1)


def _draw_readings(figure: SubFigure, views: xr.Dataset) -> None:
    ax = figure.subplots()
    quantities = [str(q) for q in views["quantity"].values]
    at = np.arange(views.sizes["layer"])
    width = 0.8 / len(quantities)
    colours = {"d_x": "C0", "d_y": "#8fc1e3", "tilt_x": "C3", "tilt_y": "#f0a3a0", "thickness": "0.5"}
    for k, quantity in enumerate(quantities):
        values = np.clip(views["r2"].sel(quantity=quantity).values, 0, 1)
        x = at + (k - (len(quantities) - 1) / 2) * width
        ax.bar(x, values, 0.95 * width, color=colours[quantity], label=SYMBOLS[quantity][0])
    ax.set_xticks(at, [str(name) for name in views.layer.values], fontsize=_FONT - 1, rotation=45, ha="right")
    ax.tick_params(labelsize=_FONT - 1)
    ax.set_ylim(0, 1)
    ax.set_ylabel("R² of a linear reading", fontsize=_FONT - 1)
    ax.set_title("(b) held-out cells", fontsize=_FONT, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=_FONT - 1, frameon=False, loc="outside lower center", ncols=4, handlelength=1)


def _draw_layer(
    figure: SubFigure, views: xr.Dataset, layer: str, shown: list[str], maps: int, letter: str
) -> None:
    mean = views[f"mean_{layer}"].values
    slopes = [views[f"response_{layer}"].sel(quantity=q).values for q in shown]
    ends = [float(np.abs(s).max()) or 1.0 for s in slopes]
    strength = sum(np.abs(s).max(axis=(1, 2)) / end for s, end in zip(slopes, ends, strict=True))
    best = np.sort(np.argsort(-np.asarray(strength))[:maps])
    axes = figure.subplots(1 + len(shown), maps, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.set_visible(False)
    for column, k in enumerate(best):
        for row, values in enumerate([mean, *slopes]):
            ax, end = axes[row, column], ends[row - 1]
            ax.set_visible(True)
            scale = {"cmap": "RdBu_r", "vmin": -end, "vmax": end} if row else {"cmap": "gray"}
            ax.imshow(values[k], **scale)
        axes[0, column].set_title(f"{k + 1}", fontsize=_FONT - 2, pad=2)
    axes[0, 0].set_ylabel("mean", fontsize=_FONT - 2)
    for row, (quantity, end) in enumerate(zip(shown, ends, strict=True), 1):
        symbol, unit = SYMBOLS[quantity]
        axes[row, 0].set_ylabel(f"{symbol}\n±{end:.1g}/{unit}", fontsize=_FONT - 2)
    figure.suptitle(f"({letter}) {layer}, {len(best)} of {len(mean)} maps", fontsize=_FONT, x=0.02, ha="left")
