"""What the figures of these studies share."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.spatial import cKDTree

FONT = 8
WIDTH = 7.1  # inch: a page of two columns

#: A diverging scale whose white is zero; sequential for sizes of errors.
SIGNED, SIZES = "RdBu_r", "viridis"


def spacing(cells: xr.Dataset) -> float:
    """Side of a cell or stride, Å: median distance to the nearest neighbour."""
    at = np.column_stack([cells["x"].values, cells["y"].values])
    return float(np.median(cKDTree(at).query(at, k=2)[0][:, 1]))


def draw_cells(
    ax: Axes, cells: xr.Dataset, values: NDArray[Any], norm: Normalize, cmap: str = SIGNED
) -> PolyCollection:
    """One square a cell; grey where there is none; y points down."""
    at, side = np.column_stack([cells["x"].values, cells["y"].values]), spacing(cells)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2
    squares = PolyCollection(
        list(at[:, None] + corners), cmap=cmap, norm=norm, edgecolor="face", linewidth=0.2
    )
    squares.set_array(np.asarray(values))
    squares.set_rasterized(True)  # thousands of vector squares make a heavy page
    ax.add_collection(squares)
    low, high = at.min(axis=0) - side / 2, at.max(axis=0) + side / 2
    ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal")
    ax.set_facecolor("0.85")
    ax.tick_params(labelsize=FONT - 1, length=2)
    return squares


def mark_split(ax: Axes, line: float, *, named: bool = False) -> None:
    """The line between the training and the test part of a field."""
    ax.axvline(line, color="k", lw=0.8, ls="--")
    if named:
        for x, text, ha in ((line - 2, "train", "right"), (line + 2, "test", "left")):
            ax.text(
                x, 0.015, text, transform=ax.get_xaxis_transform(), ha=ha, va="bottom", fontsize=FONT - 2,
                bbox={"facecolor": "w", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip


def heat_map(
    ax: Axes,
    values: NDArray[Any],
    norm: Normalize,
    rows: list[str],
    columns: list[str],
    *,
    cmap: str = SIZES,
    text: str = "{:.1f}",
) -> Any:
    """A matrix with its numbers written in; returns the image for a colour bar."""
    picture = ax.imshow(values, norm=norm, cmap=cmap, aspect="auto")
    ax.set_xticks(range(len(columns)), columns, fontsize=FONT - 1)
    ax.set_yticks(range(len(rows)), rows, fontsize=FONT - 1)
    ax.tick_params(length=0)
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        red, green, blue, _ = picture.cmap(picture.norm(value))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        ax.text(
            column, row, text.format(value).replace("-", "−"), ha="center", va="center",
            fontsize=FONT - 1, color="w" if dark else "k",
        )  # fmt: skip
    return picture


def colour_bar(figure: Figure, picture: Any, label: str, **place: Any) -> None:
    """A colour bar with its label in the page's font."""
    bar = figure.colorbar(picture, **place)
    if "ticks" in place:
        bar.set_ticks(place["ticks"], labels=[f"{tick:g}" for tick in place["ticks"]])
        bar.minorticks_off()
    bar.set_label(label, fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT - 1)


def limit(values: NDArray[Any], share: float = 99.0) -> float:
    """Size that ``share`` percent of values stay below; never zero."""
    finite = np.abs(values)[np.isfinite(values)]
    return max(float(np.percentile(finite, share)) if finite.size else 0.0, 1e-3)


def power(dose: float) -> str:
    """A dose as a power of ten."""
    exponent = int(np.floor(np.log10(dose)))
    lead = dose / 10.0**exponent
    return rf"$10^{{{exponent}}}$" if np.isclose(lead, 1) else rf"${lead:g}·10^{{{exponent}}}$"
