"""Error, bias and coverage along a suite's axis, one line an estimator."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis.drawing import PALETTE, SMALL, TEXT
from tiltsim.errors import SettingsError
from tiltsim.evaluation.suites import AXES

#: Statistics, the labels of their axes, and whether they are shares.
ROWS = (
    ("d_rmse", "RMSE of d, per axis (pm)", False),
    ("d_bias_abs", "|bias| of a field (pm)", False),
    ("d_coverage", "coverage of 90 % intervals", True),
)

_MARKERS = "osD^vPX*"
_WIDTH = 7.2  # inches, two columns of a journal

NOTE = (
    "d = mean of surrounding A columns − B column; bars: ± 1 standard error, fields drawn anew; "
    "dotted: |bias| that scatter alone would give"
)


def plot_curves(result: xr.Dataset, suite: str) -> Figure:
    """Curves of one suite.

    Parameters
    ----------
    result : Dataset
        From :func:`tiltsim.evaluation.evaluate`.
    suite : str
        Which of its suites.

    Returns
    -------
    Figure
        Panels side by side; below each other with a column each where the suite has several series (doses).

    Raises
    ------
    SettingsError
        If the result does not hold the suite.
    """
    part = result.isel(condition=np.flatnonzero(result.suite.values == suite))
    if not part.sizes["condition"]:
        raise SettingsError(f"suite {suite!r} is not part of this evaluation.")
    panels = list(dict.fromkeys(part.panel.values.tolist()))
    across = len(panels) > 1
    height = 6.4 if across else 3.0
    figure = Figure(figsize=(_WIDTH if across or len(ROWS) > 2 else 3.5, height), layout="constrained")
    shape = (len(ROWS), len(panels)) if across else (1, len(ROWS))
    axes = figure.subplots(*shape, sharey="row" if across else False, sharex="all", squeeze=False)
    for i, (name, label, share) in enumerate(ROWS):
        for j, panel in enumerate(panels):
            ax = axes[i, j] if across else axes[0, i]
            chosen = part.isel(condition=np.flatnonzero(part.panel.values == panel))
            _lines(ax, chosen, name)
            _dress(ax, part, name, share)
            letter = "abcdefghijkl"[i * len(panels) + j]
            ax.set_title(f"({letter})  {panel if across and i == 0 else ''}", loc="left", fontsize=TEXT)
            if not across or j == 0:
                ax.set_ylabel(label, fontsize=TEXT)
            if not across or i == len(ROWS) - 1:
                ax.set_xlabel(_x_label(part), fontsize=TEXT)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=min(len(labels), 4), fontsize=TEXT, frameon=False
    )
    figure.supxlabel(NOTE, fontsize=SMALL - 0.5)
    return figure


def _single(part: xr.Dataset) -> bool:
    return len(set(part.value.values.tolist())) == 1


def _x_label(part: xr.Dataset) -> str:
    axis = AXES[str(part.suite.values[0])]
    return f"at {axis.name} {part.value.values[0]:g} {axis.unit}" if _single(part) else axis.label


def _lines(ax: Axes, part: xr.Dataset, name: str) -> None:
    values = part.value.values
    order = np.argsort(values)
    x = values[order]
    logarithmic = AXES[str(part.suite.values[0])].logarithmic
    for e, estimator in enumerate(part.estimator.values):
        one = part.isel(estimator=e, condition=order)
        # A little to the side of each other, so that error bars can be told apart.
        aside = e - (part.sizes["estimator"] - 1) / 2
        if _single(part):
            at = np.array([float(e)])
        elif logarithmic:
            at = x * (x[-1] / x[0]) ** (0.006 * aside)
        else:
            at = x + 0.008 * aside * (x[-1] - x[0])
        colour = PALETTE[e % len(PALETTE)]
        error = np.nan_to_num(one[f"{name}_sem"].values)
        ax.errorbar(
            at, one[name].values, error, color=colour, marker=_MARKERS[e % len(_MARKERS)], ms=3.5, lw=1.2,
            elinewidth=0.8, capsize=2, label=str(estimator),
        )  # fmt: skip
        if name == "d_bias_abs":
            marker = "_" if _single(part) else ""
            ax.plot(
                at, one["d_bias_floor"].values, color=colour, lw=0.9, ls=":", marker=marker, label="_floor"
            )
    if logarithmic and not _single(part):
        ax.set_xscale("log")


def _dress(ax: Axes, part: xr.Dataset, name: str, share: bool) -> None:
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9", lw=0.6)
    ax.set_axisbelow(True)
    if _single(part):
        ax.set_xticks(range(part.sizes["estimator"]), part.estimator.values, rotation=20, ha="right")
        ax.margins(x=0.25)
    if share:
        ax.axhline(0.9, color="0.3", lw=0.8, ls="--")
        ax.set_ylim(0.0, 1.02)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        if not np.isfinite(part[name].values).any():
            ax.text(0.5, 0.5, "no intervals given", transform=ax.transAxes, ha="center", fontsize=TEXT)
    else:
        ax.set_ylim(bottom=0.0)
