"""The picture of a novelty test: what was shown, and how well it was told apart."""

from __future__ import annotations

import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_FONT = 8


def plot_roc(table: xr.Dataset) -> Figure:
    """Draw pieces of the images beside the receiver operating characteristics.

    Parameters
    ----------
    table : Dataset
        From :func:`tiltsim.evaluation.novelty.novelty_roc`.

    Returns
    -------
    Figure
        (a) One piece of each kind, framed in the colour of its curves; below, true against false positives of (b) whole
        images and (c) single cells, with the area under each curve, and (d) the shares above the limit.
    """
    kinds = [str(k) for k in table.kind.values]
    palette = colormaps["tab10"].colors  # type: ignore[attr-defined]
    colours = {kind: "0.2" if n == 0 else palette[(n - 1) % 10] for n, kind in enumerate(kinds)}
    figure = Figure(figsize=(7.1, 3.9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.0, 3.0))  # type: ignore[misc]
    axes = top.subplots(1, len(kinds), squeeze=False)[0]
    for ax, kind in zip(axes, kinds, strict=True):
        ax.imshow(table.example.sel(kind=kind), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set(color=colours[kind], linewidth=2.0)
        ax.set_title(_broken(kind), fontsize=6.5, pad=3)
    axes[0].set_ylabel("(a)", fontsize=_FONT, rotation=0, labelpad=8, va="top", y=1.0)
    panels = bottom.subplots(1, 3)
    for ax, letter, prefix, what in (
        (panels[0], "b", "", "images"),
        (panels[1], "c", "cell_", "cells"),
    ):
        for kind in kinds[1:]:
            one = table.sel(kind=kind)
            ax.plot(
                table.false_positive, one[f"{prefix}true_positive"], color=colours[kind], lw=1.3,
                label=f"{kind} ({float(one[f'{prefix}auc']):.3f})",
            )  # fmt: skip
        ax.plot([0, 1], [0, 1], color="0.6", lw=0.7, ls=":")
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        ax.set_xlabel(f"known {what} called new", fontsize=_FONT)
        ax.set_ylabel(f"new {what} called new", fontsize=_FONT)
        ax.legend(fontsize=5.5, frameon=False, loc="lower right", title="area under curve", title_fontsize=6)
        _tidy(ax, letter)
    _shares(panels[2], table, kinds, colours)
    return figure


def _shares(ax: Axes, table: xr.Dataset, kinds: list[str], colours: dict[str, object]) -> None:
    """Bars of what is above the limit, images dark and cells light."""
    for n, kind in enumerate(kinds):
        one = table.sel(kind=kind)
        ax.barh(n - 0.2, 100 * float(one.flagged), 0.38, color=colours[kind])
        ax.barh(n + 0.2, 100 * float(one.cells_flagged), 0.38, color=colours[kind], alpha=0.45)
    ax.barh([-5], [0], color="0.3", label=f"images > {table.attrs['limit']:g}")
    ax.barh([-5], [0], color="0.3", alpha=0.45, label=f"cells > {table.attrs['cell_limit']:g}")
    ax.set(xlim=(0, 105), ylim=(len(kinds) + 0.6, -0.7))
    ax.set_yticks(range(len(kinds)), kinds)
    ax.set_xlabel("novelty above the limit (%)", fontsize=_FONT)
    ax.legend(fontsize=6, frameon=False, loc="lower center", ncols=2)
    _tidy(ax, "d")
    ax.tick_params(axis="y", labelsize=6, length=0)


def _broken(kind: str) -> str:
    """A title on two lines where it has two words."""
    words = kind.split(" ")
    return kind if len(words) == 1 else " ".join(words[:-1]) + "\n" + words[-1]


def _tidy(ax: Axes, letter: str) -> None:
    ax.set_title(f"({letter})", loc="left", fontsize=_FONT, pad=3)
    ax.tick_params(labelsize=7, direction="in", top=True, right=True)
    ax.grid(alpha=0.25, linewidth=0.4)
