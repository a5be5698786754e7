"""Figure of a frame's scan distortion."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .errors import ImageError
from .scans import AXES

_COLOURS = {"fast": "#31688e", "slow": "#d1603d"}
_SURE_GAIN = 6.0  # χ² of two parameters at 5 %


def plot_distortion(distortion: xr.Dataset) -> Figure:
    """Displacement of the lines, its spectrum, slow drift and the numbers of one frame.

    Parameters
    ----------
    distortion : xr.Dataset
        From `scan_distortion`.

    Returns
    -------
    Figure
        Not registered with pyplot; see `analysis.save`.

    Raises
    ------
    ImageError
        `distortion` is not of `scan_distortion`.
    """
    if not {"jitter", "spectrum", "slow_drift"} <= set(distortion.data_vars):
        raise ImageError("distortion: is not what scan_distortion returns; pass that dataset.")
    figure = Figure(figsize=(7.2, 6.0), layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=(1, 1, 1.3))
    top = figure.add_subplot(grid[0, :])
    _jitter(top, distortion, "fast", "a")
    lower = figure.add_subplot(grid[1, :], sharex=top, sharey=top)
    _jitter(lower, distortion, "slow", "b")
    top.tick_params(labelbottom=False)
    slow = AXES[1 if distortion.attrs["fast_axis"] == "x" else 0]
    lower.set_xlabel(f"position {slow} along the slow axis (Å)", fontsize=8)
    _spectrum(figure.add_subplot(grid[2, 0]), distortion)
    _drift(figure.add_subplot(grid[2, 1]), distortion, slow)
    return figure


def _one(distortion: xr.Dataset, axis: str) -> xr.Dataset:
    return distortion.isel(component=int(np.flatnonzero(distortion["axis"].values == axis)[0]))


def _title(ax: Axes, letter: str, text: str) -> None:
    ax.set_title(f"$\\bf{{{letter}}}$  {text}", loc="left", fontsize=8)
    ax.tick_params(labelsize=7)


def _band(ax: Axes, x: Any, value: Any, error: Any, axis: str, label: str) -> None:
    ax.fill_between(x, value - error, value + error, color=_COLOURS[axis], alpha=0.3, lw=0)
    ax.plot(x, value, color=_COLOURS[axis], lw=0.9, label=label)


def _jitter(ax: Axes, distortion: xr.Dataset, axis: str, letter: str) -> None:
    one = _one(distortion, axis)
    component = str(one["component"].values)
    _band(ax, one["line"].values, one["jitter"].values, one["jitter_sem"].values, axis, axis)
    ax.axhline(0, color="0.5", lw=0.6, zorder=0)
    ax.margins(x=0)
    ax.set_ylabel(f"shift along {component} (pm)", fontsize=8)
    low, high = one["correlation_range"].values
    text = f"{axis} axis: jitter {float(one['jitter_rms']):.2f} ± {float(one['jitter_rms_sem']):.2f} pm rms"
    if float(one["jitter_gain"]) > _SURE_GAIN:
        text += f", correlated over {float(one['correlation_length']):.2g} Å ({low:.2g} to {high:.2g})"
    else:
        text += ", not significant"
    _title(ax, letter, text + f"; scatter of single columns {float(one['scatter']):.1f} pm")


def _spectrum(ax: Axes, distortion: xr.Dataset) -> None:
    for axis, colour in _COLOURS.items():
        power = _one(distortion, axis)["spectrum"]
        ax.step(
            power["frequency"].values, power.values, where="mid", color=colour, lw=0.9, label=f"{axis} axis"
        )
    ax.axhline(0, color="0.5", lw=0.6, zorder=0)
    ax.set_xlabel("frequency along the slow axis (1/Å)", fontsize=8)
    ax.set_ylabel("power (pm² Å)", fontsize=8)
    ax.margins(x=0)
    ax.legend(fontsize=7, frameon=False)
    _title(ax, "c", "spectrum of the lines, less the scatter's share")


def _drift(ax: Axes, distortion: xr.Dataset, slow: str) -> None:
    lines = []
    for axis in _COLOURS:
        one = _one(distortion, axis)
        component = str(one["component"].values)
        _band(
            ax,
            one["line"].values,
            one["slow_drift"].values,
            one["slow_drift_sem"].values,
            axis,
            f"along {component}",
        )
        value, sem = float(one["linear_drift"]), float(one["linear_drift_sem"])
        lines.append(f"linear, along {component}: {value:.2f} ± {sem:.2f} pm/nm".replace("-", "−"))
    ax.axhline(0, color="0.5", lw=0.6, zorder=0)
    ax.margins(x=0)
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.55 * (high - low), high + 0.1 * (high - low))  # room for the numbers
    ax.set_xlabel(f"position {slow} (Å)", fontsize=8)
    ax.set_ylabel("slow shift (pm)", fontsize=8)
    ax.legend(fontsize=7, frameon=False, loc="upper right", ncols=2)
    ax.text(
        0.02, 0.02, "\n".join([*lines, "drift or strain: one frame cannot tell"]),
        transform=ax.transAxes, fontsize=7, va="bottom",
    )  # fmt: skip
    _title(ax, "d", "what varies slowly")
