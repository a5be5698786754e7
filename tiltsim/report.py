"""One self-contained page that a microscopist can read without the manual."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from tiltsim.output import write_text


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _pm(value: float | None, sem: float | None = None) -> str:
    """A number with sign and, in brackets, its standard error."""
    if value is None or value != value:
        return "–"
    if sem is None or sem != sem:
        return f"{value:+.2f}"
    return f"{value:+.2f} ± {sem:.2f}"


def write_report(summary: Mapping[str, Any], pictures: Mapping[str, Path], path: Path) -> None:
    """Write ``report.html`` from a study's summary and its PNG figures, embedded."""
    environment = Environment(
        loader=PackageLoader("tiltsim"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    environment.filters["pm"] = _pm
    clear = [
        r for r in summary["tilt_response"] if abs(r["bias_pm_per_mrad"] or 0) > 3 * (r["bias_sem"] or 0)
    ]
    worst = max(clear, key=lambda row: abs(row["bias_pm_per_mrad"]), default=None)
    write_text(
        environment.get_template("report.html").render(
            s=summary, worst=worst, pictures={name: _embedded(p) for name, p in pictures.items()}
        ),
        path,
    )
