"""Files of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import analysis
from tiltsim.evaluation.card import write_card
from tiltsim.evaluation.curves import plot_curves
from tiltsim.output import complete_folder, write_json


def write_results(result: xr.Dataset, out: Path, seconds: float) -> None:
    """Write evaluation.nc, summary.json, curves in three formats and card.html, all or none.

    Raises
    ------
    SettingsError, analysis.ImageError
        If the folder cannot be written.
    """
    names = list(dict.fromkeys(result.suite.values.tolist()))
    with complete_folder(out) as folder:
        analysis.write_dataset(result, folder / "evaluation.nc")
        pictures = {}
        for name in names:
            stem = folder / ("curves" if len(names) == 1 else f"curves_{name}")
            analysis.save_figure(plot_curves(result, name), stem)
            pictures[name] = stem.with_suffix(".png")
        write_card(result, pictures, folder / "card.html")
        write_json(summarise(result) | {"seconds": seconds}, folder / "summary.json")


def summarise(result: xr.Dataset) -> dict[str, Any]:
    """The numbers of an evaluation, JSON-able: one row an estimator and condition."""
    statistics = [str(n) for n in result.data_vars if result[n].dims == ("estimator", "condition")]
    rows = []
    for e, name in enumerate(result.estimator.values):
        for c in range(result.sizes["condition"]):
            one = result.isel(estimator=e, condition=c)
            row: dict[str, Any] = {
                "estimator": str(name),
                **{k: str(one[k].item()) for k in ("suite", "axis", "unit", "panel")},
                "value": float(one.value),
            }
            numbers = {n: float(one[n]) for n in statistics}
            row |= {n: v for n, v in numbers.items() if np.isfinite(v)}
            rows.append(row)
    known = ("suite", "fields", "seed", "field_seed", "library", "tiltsim_version", "convention")
    return {
        **{name: result.attrs[name] for name in known},
        "left_out": json.loads(result.attrs["left_out"]),
        "estimators": json.loads(result.attrs["estimators"]),
        "units": {n: result[n].attrs["units"] for n in statistics},
        "results": rows,
    }
