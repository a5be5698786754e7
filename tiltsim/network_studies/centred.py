"""Windows centred on B or A columns, windows anywhere, and column fits, against dose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import dcnn
from tiltsim.library import Library
from tiltsim.network_studies.drawing import FONT, WIDTH, colour_bar, draw_cells, limit, mark_split, power
from tiltsim.network_studies.fields import make_fields
from tiltsim.network_studies.judging import held_out_score, judge, learn, score
from tiltsim.network_studies.settings import NetworkStudy
from tiltsim.progress import Reporter, Silent

DOSES = (1e4, 3e4, 1e5)

#: Ways to lay windows, and how they are called in figures.
WAYS = {"B": "on B columns", "A": "on A columns", "sliding": "anywhere"}

_COLOURS = {"fit": "0.45", "B": "C0", "A": "C1", "sliding": "C2"}


def centred_study(
    study: NetworkStudy,
    library: Library,
    *,
    doses: Sequence[float] = DOSES,
    samarium: float = 0.0,
    size_angstrom: float = 6.0,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Train one network for every way of laying windows and every dose, all on the same specimens.

    A window on a B column maps the d of its cell. One on an A column, or anywhere, maps d as interpolated linearly between
    cells, which is smoother than d itself; column fits are therefore also judged interpolated to the same places.

    Parameters
    ----------
    study : NetworkStudy
    library : Library
    doses : sequence of float
        e/Å²; the first field's maps are kept of the middle one.
    samarium : float
        Composition.
    size_angstrom : float
        Width of all windows, Å.
    reporter : Reporter, optional

    Returns
    -------
    Dataset
        Dims (dose, way): ``rmse`` of the networks against the truth and ``rmse_fit`` of column fits at the same places (pm,
        of a component), ``r2``, ``n`` places tested. Dim cell: ``x``, ``y`` (Å), ``way``, ``subset``, ``d``, ``d_fit``,
        ``d_true`` (cell, component) pm at dose ``map_dose_per_A2``; attribute ``split_x_angstrom``.
    """
    shown = reporter or Silent()
    shape, ways = (len(doses), len(WAYS)), list(WAYS)
    values = {name: np.full(shape, np.nan) for name in ("rmse", "rmse_fit", "r2")}
    places = np.zeros(shape, int)
    middle, parts, line = len(doses) // 2, [], float("nan")
    for i, dose in enumerate(doses):
        shown.stage(f"fields, {dose:.0e} e/Å²", 1)
        fields = make_fields(study, library, samarium, dose)
        shown.advance(1)
        for j, way in enumerate(ways):
            model = learn(fields, study, _windows(way, size_angstrom), shown, f"{WAYS[way]}, {dose:.0e} e/Å²")
            tables = [judge(model, field) for field in fields]
            own = held_out_score(tables)
            values["rmse"][i, j], values["r2"][i, j], places[i, j] = own.rmse, own.r2, own.n
            values["rmse_fit"][i, j] = held_out_score(tables, "d_fit").rmse
            if i == middle:
                parts.append(tables[0].assign(way=("cell", np.full(tables[0].sizes["cell"], way))))
                line = float(tables[0].attrs["split_x_angstrom"])
    result = xr.concat(parts, "cell", data_vars="minimal").drop_attrs(deep=False)
    both = ("dose", "way_tested")
    result = result.assign(
        rmse=(both, values["rmse"], {"units": "pm"}),
        rmse_fit=(both, values["rmse_fit"], {"units": "pm"}),
        r2=(both, values["r2"], {"units": "1"}),
        n=(both, places, {"units": "1"}),
    )
    return result.assign_coords(
        dose=("dose", np.asarray(doses, float), {"units": "e/Å²"}), way_tested=ways
    ).assign_attrs(
        labels=study.labels,
        samarium=samarium,
        size_angstrom=size_angstrom,
        map_dose_per_A2=float(doses[middle]),
        split_x_angstrom=line,
    )


def _windows(way: str, size: float) -> dcnn.Windows:
    pixels = max(8, round(size / 0.25))
    if way == "sliding":
        return dcnn.Windows(mode="sliding", size_angstrom=size, pixels=pixels)
    return dcnn.Windows(mode="centred", site="A" if way == "A" else "B", size_angstrom=size, pixels=pixels)


def centred_summary(result: xr.Dataset) -> dict[str, Any]:
    """Errors by dose and way, for ``summary.json``."""
    return {
        "dose_per_A2": result.dose.values,
        **{
            way: {f"{name}_pm": result[name].sel(way_tested=way).values for name in ("rmse", "rmse_fit")}
            | {"r2": result.r2.sel(way_tested=way).values}
            for way in WAYS
        },
    }


def plot_centred(result: xr.Dataset, component: str = "x") -> Figure:
    """Maps of the error of a component at one dose, above bars of RMSE against dose.

    Parameters
    ----------
    result : Dataset
        From `centred_study`.
    component : {"x", "y"}
        Of the maps; bars are of both.
    """
    data = result.sel(component=component)
    off = {
        "d": data["d"].values - data["d_true"].values,
        "d_fit": data["d_fit"].values - data["d_true"].values,
    }
    end = limit(np.concatenate(list(off.values())))
    norm = Normalize(-end, end)
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.15, 1))  # type: ignore[misc]
    axes = upper.subplots(1, 4, sharex=True, sharey=True)
    panels = (("B", "d_fit", "column fit"), *((way, "d", name) for way, name in WAYS.items()))
    for ax, letter, (way, name, title) in zip(axes, "abcd", panels, strict=True):
        own = np.flatnonzero(result["way"].values == way)
        cells = result.isel(cell=own)
        picture = draw_cells(ax, cells, off[name][own], norm)
        mark_split(ax, float(result.attrs["split_x_angstrom"]), named=letter == "a")
        ax.set_title(f"({letter}) {title}", fontsize=FONT, loc="left")
        ax.set_xlabel("x (Å)", fontsize=FONT)
        right = cells["subset"].values == "test"
        rmse = score(cells[name].values[right], cells["d_true"].values[right]).rmse
        ax.text(
            0.97, 0.97, f"{rmse:.1f} pm", transform=ax.transAxes, ha="right", va="top", fontsize=FONT - 1,
            bbox={"facecolor": "w", "alpha": 0.8, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axes[0].set_ylabel("y (Å)", fontsize=FONT)
    colour_bar(
        upper,
        picture,
        f"error of $d_{component}$ (pm)",
        ax=axes,
        pad=0.01,
        aspect=25,
        shrink=0.75,
        extend="both",
    )
    _bars(lower, result)
    return figure


def _bars(figure: Any, result: xr.Dataset) -> None:
    ax = figure.subplots()
    at = np.arange(result.sizes["dose"])
    fit = result["rmse_fit"].sel(way_tested="B").values
    bars = [("fit", "column fit", fit)]
    bars += [
        (way, f"network {name}", result["rmse"].sel(way_tested=way).values) for way, name in WAYS.items()
    ]
    width = 0.8 / len(bars)
    for k, (key, name, heights) in enumerate(bars):
        x = at + (k - (len(bars) - 1) / 2) * width
        ax.bar(x, heights, 0.92 * width, color=_COLOURS[key], label=name)
        beside = result["rmse_fit"].sel(way_tested="B" if key == "fit" else key).values
        for place, height, other in zip(x, heights, beside, strict=True):
            clear = max(height, other) if key in ("A", "sliding") else height
            ax.annotate(
                f"{height:.1f}",
                (place, clear),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=FONT - 2,
            )
        if key in ("A", "sliding"):
            ax.plot(
                x, beside, ls="", marker="_", ms=11, color="k",
                label="column fit, interpolated" if key == "A" else None,
            )  # fmt: skip
    ax.set_xticks(at, [f"{power(dose)} e/Å²" for dose in result.dose.values], fontsize=FONT - 1)
    ax.tick_params(labelsize=FONT - 1)
    ax.set_ylabel("RMSE (pm per component)", fontsize=FONT)
    ax.set_ylim(0, 1.12 * max(float(result["rmse"].max()), float(result["rmse_fit"].max())))
    ax.set_title("(e) test third", fontsize=FONT, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=FONT - 1, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
