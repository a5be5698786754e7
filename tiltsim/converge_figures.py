"""The picture of a convergence test."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tiltsim.converge import GOAL_PM, QUANTITIES
from tiltsim.converge_sweeps import SWEEPS
from tiltsim.figures import SITE_COLOURS

_COLOURS = {**SITE_COLOURS, "B-A": "k"}
_MARKERS = dict(zip(QUANTITIES, "osD", strict=True))
_NAMES = {"A": "A site", "B": "B site", "B-A": "B − A"}
_COLUMNS = 3


def plot_convergence(dataset: xr.Dataset) -> Figure:
    """How far A, B and B − A still move, one panel a sweep.

    Parameters
    ----------
    dataset : Dataset
        From :func:`tiltsim.converge.converge`.

    Returns
    -------
    Figure
        Change against the finest value of the sweep in pm, logarithmic, against the setting: root mean square
        over tilts, thicknesses and components as lines, the largest as light marks, what phonons explain
        dotted. The vertical line is the default, the horizontal one the goal of 0.1 pm, the triangle the
        finest value.
    """
    names = list(dict.fromkeys(str(name) for name in dataset["sweep"].values))
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    fig = Figure(figsize=(2.35 * columns + 0.5, 2.3 * rows + 0.5), layout="constrained")
    axes = fig.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for letter, name, ax in zip("abcdefgh", names, axes, strict=False):
        _panel(ax, dataset.isel(run=np.flatnonzero(dataset["sweep"].values == name)), name)
        ax.set_title(f"({letter})", fontsize=8, loc="left", pad=3)
    axes[0].set_ylim(*_limits(dataset))
    for ax in axes[: len(names) : columns]:
        ax.set_ylabel("change against finest (pm)", fontsize=8)
    _legend(fig, axes[: len(names)], list(axes[len(names) :]))
    return fig


def _limits(dataset: xr.Dataset) -> tuple[float, float]:
    """Ends of the axis of change, pm: all that is not zero by construction, but nothing below 1 fm."""
    values = np.concatenate([dataset[name].values.ravel() for name in ("rms", "largest", "expected")])
    shown = np.append(values[np.isfinite(values) & (values > 0)], GOAL_PM)
    return max(1e-3, float(shown.min()) / 2), float(shown.max()) * 2


def _panel(ax: Axes, one: xr.Dataset, name: str) -> None:
    sweep = SWEEPS[name]
    setting = one["setting"].values
    ax.set_yscale("log")
    if sweep.logarithmic:
        ax.set_xscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    rows = one.isel(run=slice(None, -1))  # the finest is zero by construction
    alone = rows.sizes["run"] == 1
    for place, quantity in enumerate(QUANTITIES, start=-1):
        # A single value has no lines to tell its marks apart by: side by side, with bars instead of dots.
        x = rows["setting"].values * (1.05**place if alone else 1.0)
        values = rows.sel(quantity=quantity)
        style: dict[str, Any] = {"color": _COLOURS[quantity], "marker": _MARKERS[quantity], "ms": 3.5}
        ax.plot(x, values["rms"], lw=1.2, label=f"{_NAMES[quantity]}, rms", **style)
        ax.plot(
            x, values["largest"], ls="", alpha=0.4, mfc="none", label=f"{_NAMES[quantity]}, largest", **style
        )
        if sweep.noise is not None:
            ax.plot(
                x, values["expected"], color=_COLOURS[quantity], lw=1.1, ls=":", marker="_" if alone else "",
                ms=10, mew=1.2,
            )  # fmt: skip
    ax.axhline(GOAL_PM, color="0.55", lw=0.8, ls="--", zorder=0)
    ax.plot(setting[-1], 0, "^", color="0.35", ms=5, transform=ax.get_xaxis_transform(), clip_on=False)
    _mark_default(ax, float(setting[one["default"].values.astype(bool)][0]))
    _ticks(ax, setting, sweep.logarithmic)
    ax.set_xlabel(sweep.label, fontsize=8)
    ax.tick_params(labelsize=7, direction="in", top=True, right=True, which="both")
    ax.grid(alpha=0.25, linewidth=0.4)


def _mark_default(ax: Axes, default: float) -> None:
    ax.axvline(default, color="0.35", lw=0.8, zorder=0)
    ax.annotate(
        "default", (default, 0.98), xycoords=("data", "axes fraction"), xytext=(-2, 0), rotation=90,
        textcoords="offset points", ha="right", va="top", fontsize=6.5, color="0.35",
    )  # fmt: skip


def _ticks(ax: Axes, setting: np.ndarray, logarithmic: bool) -> None:
    """A tick for each value that was tried, thinned where there are many, and room beside the ends."""
    every = -(-len(setting) // 8)
    ax.xaxis.set_major_locator(FixedLocator(list(setting[::-every])))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = setting[0], setting[-1]
    if logarithmic:
        # Marks of a single value lie side by side.
        room = (high / low) ** (0.3 if len(setting) == 2 else 0.15)
        ax.set_xlim(low / room, high * room)
    else:
        ax.set_xlim(low - 0.12 * (high - low), high + 0.12 * (high - low))


def _legend(fig: Figure, used: np.ndarray, free: list[Axes]) -> None:
    handles, texts = used[0].get_legend_handles_labels()
    extra: list[tuple[str, dict[str, Any]]] = [
        ("standard error from phonons\n(dotted, or bars)", {"color": "0.2", "ls": ":", "lw": 1.1}),
        (f"{GOAL_PM:g} pm", {"color": "0.55", "ls": "--", "lw": 0.8}),
        ("finest value: reference", {"color": "0.35", "ls": "", "marker": "^", "ms": 5}),
    ]
    for text, style in extra:
        (handle,) = used[0].plot([], [], **style)
        handles.append(handle)
        texts.append(text)
    for ax in free:
        ax.set_axis_off()
    if free:
        free[0].legend(handles, texts, fontsize=7, frameon=False, loc="center", borderaxespad=0)
    else:
        fig.legend(handles, texts, fontsize=7, frameon=False, loc="outside lower center", ncols=3)
