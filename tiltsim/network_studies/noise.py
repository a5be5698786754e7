"""How dose and the size of the window decide what a network knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

import dcnn
from tiltsim.library import Library
from tiltsim.network_studies.drawing import FONT, WIDTH, colour_bar, heat_map, power
from tiltsim.network_studies.fields import make_fields
from tiltsim.network_studies.judging import held_out_score, judge, learn, scatter
from tiltsim.network_studies.settings import NetworkStudy
from tiltsim.progress import Reporter, Silent

DOSES = (3e3, 1e4, 3e4, 1e5, 3e5)
SIZES = (4.0, 6.0, 8.0, 12.0)

_TICKS = (1, 1.5, 2, 3, 4, 6, 8, 10, 15, 20, 30, 50, 100)
_PITCH = 0.25  # Å between a window's samples, whatever its size


def noise_study(
    study: NetworkStudy,
    library: Library,
    *,
    doses: Sequence[float] = DOSES,
    sizes: Sequence[float] = SIZES,
    samarium: float = 0.0,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Train one network for every dose and size of window, on B columns of the same specimen.

    All are tested on the same cells: those that the largest window leaves.

    Parameters
    ----------
    study : NetworkStudy
    library : Library
    doses : sequence of float
        e/Å².
    sizes : sequence of float
        Widths of windows, Å; a sample is 0.25 Å in all.
    samarium : float
        Composition.
    reporter : Reporter, optional

    Returns
    -------
    Dataset
        Dims (dose, window): ``rmse`` against the truth, ``scatter`` (pm, of a component; what is left of the error when d
        is calibrated by a linear map to the truth: the random part) and ``r2``; (dose): ``rmse_fit`` and ``scatter_fit`` of
        column fits; ``cells`` tested.
    """
    shown = reporter or Silent()
    names = ("rmse", "scatter", "r2")
    values = {name: np.full((len(doses), len(sizes)), np.nan) for name in names}
    fit = {name: np.full(len(doses), np.nan) for name in ("rmse", "scatter")}
    cells = np.zeros(len(doses), int)
    for i, dose in enumerate(doses):
        shown.stage(f"field, {dose:.0e} e/Å²", 1)
        fields = make_fields(study, library, samarium, dose)
        shown.advance(1)
        largest: list[xr.Dataset] | None = None
        for j in np.argsort(sizes)[::-1]:
            size = float(sizes[j])
            windows = dcnn.Windows(size_angstrom=size, pixels=round(size / _PITCH))
            model = learn(fields, study, windows, shown, f"train, {dose:.0e} e/Å², {size:g} Å")
            tables = [judge(model, field) for field in fields]
            largest = largest or tables
            tables = [_common(table, other) for table, other in zip(tables, largest, strict=True)]
            own = held_out_score(tables)
            values["rmse"][i, j], values["r2"][i, j] = own.rmse, own.r2
            values["scatter"][i, j] = scatter(tables)
            fit["rmse"][i], fit["scatter"][i] = held_out_score(tables, "d_fit").rmse, scatter(tables, "d_fit")
            cells[i] = own.n
    units = {"rmse": "pm", "scatter": "pm", "r2": "1"}
    return xr.Dataset(
        {n: (("dose", "window"), v, {"units": units[n]}) for n, v in values.items()}
        | {f"{n}_fit": ("dose", v, {"units": "pm"}) for n, v in fit.items()}
        | {"cells": ("dose", cells, {"units": "1"})},
        coords={
            "dose": ("dose", np.asarray(doses, float), {"units": "e/Å²"}),
            "window": ("window", np.asarray(sizes, float), {"units": "Å"}),
        },
        attrs={"labels": study.labels, "samarium": samarium},
    )


def _common(table: xr.Dataset, other: xr.Dataset) -> xr.Dataset:
    """Test cells of ``table`` that ``other`` tests too."""
    right = [t.isel(cell=np.flatnonzero(t["subset"].values == "test")) for t in (table, other)]
    own, wanted = (np.column_stack([t["x"].values, t["y"].values]) for t in right)
    return right[0].isel(cell=np.flatnonzero(cKDTree(wanted).query(own)[0] < 1e-6))


def noise_summary(result: xr.Dataset) -> dict[str, Any]:
    """Errors by dose and window, for ``summary.json``."""
    return {
        "window_angstrom": result.window.values,
        "dose_per_A2": result.dose.values,
        **{f"{n}_pm": result[n].values for n in ("rmse", "scatter", "rmse_fit", "scatter_fit")},
        "r2": result.r2.values,
    }


def plot_noise(result: xr.Dataset) -> Figure:
    """Two heat maps, error and its random part, each with the column fit beside the windows."""
    figure = Figure(figsize=(WIDTH, 0.36 * result.sizes["dose"] + 1.1), layout="constrained")
    axes = figure.subplots(1, 2)
    columns = [f"{size:g}" for size in result.window.values] + ["column\nfit"]
    rows = [power(dose) for dose in result.dose.values]
    panels = (("rmse", "RMSE against the truth"), ("scatter", "RMSE left by a linear calibration"))
    for ax, letter, (name, title) in zip(axes, "ab", panels, strict=True):
        values = np.column_stack([result[name].values, result[f"{name}_fit"].values])
        picture = heat_map(ax, values, LogNorm(values.min(), values.max()), rows, columns)
        ax.axvline(len(columns) - 1.5, color="w", lw=3)
        ax.set_title(f"({letter}) {title}", fontsize=FONT, loc="left")
        ax.set_xlabel("window (Å)", fontsize=FONT)
        ticks = [t for t in _TICKS if values.min() <= t <= values.max()]
        colour_bar(figure, picture, "pm per component", ax=ax, pad=0.02, ticks=ticks)
    axes[0].set_ylabel("dose (e/Å²)", fontsize=FONT)
    return figure
