"""Truth, prediction and difference for every composition, with the line between training and test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

import dcnn
from tiltsim.library import Library
from tiltsim.network_studies.drawing import FONT, WIDTH, colour_bar, draw_cells, limit, mark_split
from tiltsim.network_studies.fields import make_fields
from tiltsim.network_studies.judging import judge, learn, score
from tiltsim.network_studies.settings import COMPOSITIONS, NetworkStudy, percent
from tiltsim.progress import Reporter, Silent


def maps_study(
    study: NetworkStudy,
    library: Library,
    *,
    compositions: Sequence[float] = tuple(COMPOSITIONS),
    windows: dcnn.Windows | None = None,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Train on the left 2/3 of one field of each composition and test on the right 1/3.

    Parameters
    ----------
    study : NetworkStudy
        Its compositions are model specimens, see there.
    library : Library
    compositions : sequence of float
        Sm fractions.
    windows : dcnn.Windows, optional
        Default: on B columns.
    reporter : Reporter, optional

    Returns
    -------
    Dataset
        Dim cell, all compositions one after the other: ``x``, ``y`` (Å), ``samarium``, ``subset`` ("train", "test"), ``d``
        (prediction), ``d_fit``, ``d_true`` (cell, component) pm. Dim composition: ``split_x`` (Å), and on the test
        part ``rmse_network``, ``rmse_fit``, ``rmse_to_fit`` (pm, of a component; network against fit) with ``r2_…`` likewise.
    """
    shown = reporter or Silent()
    parts, lines, scores = [], [], []
    for samarium in compositions:
        shown.stage(f"field, {percent(samarium)}", 1)
        fields = make_fields(study, library, samarium)
        shown.advance(1)
        model = learn(fields, study, windows or dcnn.Windows(), shown, f"train, {percent(samarium)}")
        table = judge(model, fields[0])
        lines.append(float(table.attrs["split_x_angstrom"]))
        test = table.isel(cell=np.flatnonzero(table["subset"].values == "test"))
        d, d_fit, d_true = (test[name].values for name in ("d", "d_fit", "d_true"))
        scores.append({"network": score(d, d_true), "fit": score(d_fit, d_true), "to_fit": score(d, d_fit)})
        parts.append(table.assign(samarium=("cell", np.full(table.sizes["cell"], samarium))))
    result = xr.concat(parts, "cell", data_vars="minimal").drop_attrs(deep=False)
    result = result.assign_coords(composition=list(compositions))
    result["split_x"] = ("composition", lines, {"units": "Å"})
    for name in scores[0]:
        result[f"rmse_{name}"] = ("composition", [s[name].rmse for s in scores], {"units": "pm"})
        result[f"r2_{name}"] = ("composition", [s[name].r2 for s in scores], {"units": "1"})
    return result.assign_attrs(labels=study.labels)


def maps_summary(result: xr.Dataset) -> dict[str, Any]:
    """Scores of each composition, for ``summary.json``."""
    names = [n for n in result.data_vars if str(n).startswith(("rmse_", "r2_"))]
    return {
        percent(float(s)): {str(n): float(result[n].sel(composition=s)) for n in names}
        for s in result.composition.values
    }


def plot_maps(result: xr.Dataset, component: str = "x") -> Figure:
    """Rows of compositions: truth, prediction, and differences of network and column fit.

    Parameters
    ----------
    result : Dataset
        From `maps_study`.
    component : {"x", "y"}
        Which component of d the maps show; errors written in are of both.
    """
    rows = [float(s) for s in result.composition.values]
    data = result.sel(component=component)
    d, fit, true = (data[name].values for name in ("d", "d_fit", "d_true"))
    scale = Normalize(-limit(np.concatenate([d, true])), limit(np.concatenate([d, true])))
    end = limit(np.concatenate([d - true, fit - true]))
    off = Normalize(-end, end)
    columns = (
        ("truth", true, scale, ""),
        ("network", d, scale, ""),
        ("network − fit", d - fit, off, "to_fit"),
        ("network − truth", d - true, off, "network"),
        ("fit − truth", fit - true, off, "fit"),
    )
    figure = Figure(figsize=(WIDTH, 1.42 * len(rows) + 0.75), layout="constrained")
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    axes = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    drawn: dict[int, Any] = {}
    for i, samarium in enumerate(rows):
        own = np.flatnonzero(result["samarium"].values == samarium)
        for j, (name, values, norm, scored) in enumerate(columns):
            ax = axes[i, j]
            drawn[j] = draw_cells(ax, result.isel(cell=own), values[own], norm)
            mark_split(ax, float(result["split_x"][i]), named=j < 2 and i == 0)
            if i == 0:
                ax.set_title(f"({'abcde'[j]}) {name}", fontsize=FONT, loc="left", pad=14)
            if scored:
                rmse, r2 = (float(result[f"{kind}_{scored}"][i]) for kind in ("rmse", "r2"))
                text = f"{rmse:.1f} pm, R² {r2:.2f}".replace("-", "−")
                ax.annotate(
                    text, (0.5, 1), (0, 1.5), xycoords="axes fraction", textcoords="offset points",
                    ha="center", va="bottom", fontsize=FONT - 1.5,
                )  # fmt: skip
        axes[i, 0].set_ylabel(f"{percent(samarium)}\ny (Å)", fontsize=FONT)
    for ax in axes[-1]:
        ax.set_xlabel("x (Å)", fontsize=FONT)
    place = {"location": "bottom", "aspect": 30, "pad": 0.01, "extend": "both", "shrink": 0.8}
    colour_bar(figure, drawn[1], f"$d_{component}$, mean A − B (pm)", ax=axes[:, :2], **place)
    colour_bar(figure, drawn[4], f"difference of $d_{component}$ (pm)", ax=axes[:, 2:], **place)
    return figure
