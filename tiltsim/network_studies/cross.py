"""Networks trained on one composition and tested on all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import dcnn
from tiltsim.library import Library
from tiltsim.network_studies.drawing import FONT, WIDTH, colour_bar, heat_map
from tiltsim.network_studies.fields import make_fields
from tiltsim.network_studies.judging import held_out_score, judge, learn
from tiltsim.network_studies.settings import COMPOSITIONS, NetworkStudy
from tiltsim.progress import Reporter, Silent


def cross_study(
    study: NetworkStudy,
    library: Library,
    *,
    compositions: Sequence[float] = tuple(COMPOSITIONS),
    windows: dcnn.Windows | None = None,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Train on the left 2/3 of each composition's field, test on the right 1/3 of each.

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
        Dims (trained, tested): ``rmse`` (pm, of a component, against the truth) and ``r2``; (tested): ``rmse_fit``,
        ``r2_fit`` of column fits and ``spread``, the standard deviation of the true d (pm).
    """
    shown = reporter or Silent()
    fields = {}
    shown.stage("fields", len(compositions))
    for k, samarium in enumerate(compositions, 1):
        fields[samarium] = make_fields(study, library, samarium)
        shown.advance(k)
    rmse, r2 = np.full((2, len(compositions), len(compositions)), np.nan)
    fit = np.full((len(compositions), 2), np.nan)
    spread = np.full(len(compositions), np.nan)
    for i, trained in enumerate(compositions):
        model = learn(fields[trained], study, windows or dcnn.Windows(), shown, f"train, {trained:.0%} Sm")
        for j, other in enumerate(compositions):
            tables = [judge(model, field) for field in fields[other]]
            own, fitted = held_out_score(tables), held_out_score(tables, "d_fit")
            rmse[i, j], r2[i, j] = own.rmse, own.r2
            fit[j] = fitted.rmse, fitted.r2
            right = [t["d_true"].values[t["subset"].values == "test"] for t in tables]
            spread[j] = np.concatenate(right).std(axis=0).mean()
    both, pm, one = ("trained", "tested"), {"units": "pm"}, {"units": "1"}
    places = np.asarray(compositions, float)
    return xr.Dataset(
        {
            "rmse": (both, rmse, pm),
            "r2": (both, r2, one),
            "rmse_fit": ("tested", fit[:, 0], pm),
            "r2_fit": ("tested", fit[:, 1], one),
            "spread": ("tested", spread, pm),
        },
        coords={"trained": ("trained", places, one), "tested": ("tested", places, one)},
        attrs={"labels": study.labels},
    )


def cross_summary(result: xr.Dataset) -> dict[str, Any]:
    """Both matrices, rows by what was trained on, for ``summary.json``."""
    return {
        "samarium": result.trained.values,
        "rmse_pm": result.rmse.values,
        "r2": result.r2.values,
        "rmse_fit_pm": result.rmse_fit.values,
        "r2_fit": result.r2_fit.values,
        "spread_pm": result.spread.values,
    }


def plot_cross(result: xr.Dataset) -> Figure:
    """Matrices of RMSE and R² with their numbers, the column fit as their last row."""
    figure = Figure(figsize=(WIDTH, 0.36 * result.sizes["trained"] + 1.3), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    columns = [f"{100 * s:.0f}" for s in result.tested.values]
    rows = [f"{100 * s:.0f} % Sm" for s in result.trained.values] + ["column fit"]
    high = float(np.nanmax(result.rmse))
    panels = (
        ("rmse", "RMSE against the truth", Normalize(0, high), "viridis", "{:.1f}", "pm per component"),
        ("r2", "R²", Normalize(0, 1), "viridis_r", "{:.2f}", "R²"),
    )
    for ax, letter, (name, title, norm, cmap, text, unit) in zip(axes, "ab", panels, strict=True):
        values = np.vstack([result[name].values, result[f"{name}_fit"].values])
        picture = heat_map(ax, values, norm, rows, columns, cmap=cmap, text=text)
        ax.axhline(len(rows) - 1.5, color="w", lw=3)
        ax.set_title(f"({letter}) {title}", fontsize=FONT, loc="left")
        ax.set_xlabel("tested on (% Sm)", fontsize=FONT)
        extend = "min" if name == "r2" and float(np.nanmin(values)) < 0 else "neither"
        colour_bar(figure, picture, unit, ax=ax, pad=0.02, extend=extend)
    axes[0].set_ylabel("trained on", fontsize=FONT)
    return figure
