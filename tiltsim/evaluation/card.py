"""One self-contained page about an evaluation, to be sent along with a model."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from tiltsim.evaluation.suites import AXES
from tiltsim.output import write_text

#: Columns of the tables: statistic, heading, digits, factor.
COLUMNS = (
    ("d_rmse", "RMSE d, per axis (pm)", 1, 1.0),
    ("d_bias_abs", "|bias| (pm)", 1, 1.0),
    ("d_bias_along", "bias along (pm)", 1, 1.0),
    ("d_bias_across", "bias across (pm)", 1, 1.0),
    ("d_gain", "gain", 2, 1.0),
    ("d_coverage", "coverage (%)", 0, 100.0),
    ("d_width", "90 % half width (pm)", 1, 1.0),
    ("predicted", "cells predicted (%)", 0, 100.0),
    ("tilt_rmse", "RMSE tilt, per axis (mrad)", 2, 1.0),
    ("tilt_bias_along", "tilt bias along (mrad)", 2, 1.0),
    ("tilt_coverage", "tilt coverage (%)", 0, 100.0),
    ("thickness_rmse", "RMSE thickness (Å)", 0, 1.0),
    ("thickness_bias", "thickness bias (Å)", 0, 1.0),
    ("novel", "fields flagged novel (%)", 0, 100.0),
)

_SIGNED = ("d_bias_along", "d_bias_across", "tilt_bias_along", "thickness_bias")


def write_card(result: xr.Dataset, pictures: Mapping[str, Path], path: Path) -> None:
    """Write the page.

    Parameters
    ----------
    result : Dataset
        From :func:`tiltsim.evaluation.evaluate`.
    pictures : mapping of str to Path
        PNG of the curves of each suite.
    path : Path
        Of the page.

    Raises
    ------
    SettingsError
        If it cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("tiltsim"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    recipes = json.loads(result.attrs["recipes"])
    suites = [
        {
            "name": name,
            "axis": AXES[name].label,
            "frame": "coma" if name == "coma" else "tilt",
            "picture": "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode(),
            **_table(result, name),
        }
        for name, picture in pictures.items()
    ]
    page = environment.get_template("evaluation.html").render(
        a=result.attrs,
        suites=suites,
        estimators=json.loads(result.attrs["estimators"]),
        left_out=json.loads(result.attrs["left_out"]),
        names=[str(n) for n in result.estimator.values],
        headlines=_headlines(result),
        drawn=_drawn(recipes),
    )
    write_text(page, path)


#: Settings that the page states: section, key, words, unit.
_SETTINGS = (
    ("specimen", "thickness", "thickness", "Å"),
    ("specimen", "tilt", "tilt", "mrad"),
    ("specimen", "azimuth", "azimuth of the tilt", "°"),
    ("specimen", "samarium", "Sm fraction on A", ""),
    ("specimen", "disorder_a", "static disorder of A, rms along each axis", "pm"),
    ("specimen", "disorder_b", "static disorder of B", "pm"),
    ("detection", "dose_per_A2", "dose", "e/Å²"),
    ("probe", "source_fwhm", "source, full width at half maximum", "Å"),
    ("probe", "C21", "coma C21", "Å"),
    ("scan", "jitter_x", "jitter of rows, rms", "Å"),
    ("", "pixel", "pixel", "Å"),
)


def _drawn(recipes: list[dict[str, Any]]) -> list[str]:
    """What fields are made of, in words; settings that conditions set, with all of their values."""
    lines = []
    for section, key, words, unit in _SETTINGS:
        tables = [
            r["specimens"][0] if section == "specimen" else r[section] if section else r for r in recipes
        ]
        values = list(dict.fromkeys(tuple(np.atleast_1d(t[key]).tolist()) for t in tables))
        if values == [(0.0,)]:
            continue
        texts = [
            f"{v[0]:g}" if len(v) == 1 else f"drawn from {v[0]:g} to {v[1]:g}"
            for v in sorted(values, key=lambda v: (len(v), v))
        ]
        lines.append(f"{words} {' | '.join(texts)} {unit}".rstrip().replace(" °", "°"))
    return lines


def _table(result: xr.Dataset, suite: str) -> dict[str, Any]:
    """Headings, and rows of cells as text, of the conditions of one suite."""
    part = result.isel(condition=np.flatnonzero(result.suite.values == suite))
    shown = [c for c in COLUMNS if np.isfinite(part[c[0]].values).any()]
    rows = []
    for c in range(part.sizes["condition"]):
        for e, name in enumerate(part.estimator.values):
            one = part.isel(condition=c, estimator=e)
            condition = f"{float(one.value):g}" + (f", {one.panel.item()}" if one.panel.item() else "")
            cells = [
                _text(float(one[key]), float(one[f"{key}_sem"]), digits, factor, key in _SIGNED)
                for key, _, digits, factor in shown
            ]
            rows.append({"condition": condition, "estimator": str(name), "first": e == 0, "cells": cells})
    return {
        "headings": [heading for _, heading, _, _ in shown],
        "rows": rows,
        "models": part.sizes["estimator"],
    }


def _text(value: float, sem: float, digits: int, factor: float, signed: bool) -> str:
    """A number with its standard error."""
    if not np.isfinite(value):
        return "–"
    text = f"{value * factor:{'+' if signed else ''}.{digits}f}"
    if np.isfinite(sem) and sem > 0:
        text += f" ± {sem * factor:.{digits}f}"
    return text.replace("-", "−")


def _headlines(result: xr.Dataset) -> list[dict[str, str]]:
    """What happens to each estimator from the first to the last value of the first suite's axis, panels pooled."""
    suite = str(result.suite.values[0])
    part = result.isel(condition=np.flatnonzero(result.suite.values == suite))
    low, high = float(part.value.min()), float(part.value.max())
    lines = []
    for e, name in enumerate(part.estimator.values):
        numbers = {}
        for end, at in (("low", low), ("high", high)):
            there = part.isel(estimator=e, condition=np.flatnonzero(part.value.values == at))
            for key in ("d_rmse", "d_bias_abs", "d_coverage"):
                values = there[key].values
                text = "–"
                if np.isfinite(values).any():
                    factor, digits = (100.0, 0) if key == "d_coverage" else (1.0, 1)
                    ends = [f"{factor * v:.{digits}f}" for v in (np.nanmin(values), np.nanmax(values))]
                    text = ends[0] if ends[0] == ends[1] else f"{ends[0]}–{ends[1]}"
                numbers[f"{key}_{end}"] = text
        unit = AXES[suite].unit
        lines.append(
            {"name": str(name), "low": f"{low:g} {unit}", "high": f"{high:g} {unit}", "same": str(low == high), **numbers}
        )  # fmt: skip
    return lines
