"""One self-contained page that a microscopist can read without the manual."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from tiltsim.errors import SettingsError
from tiltsim.output import write_text

#: Figures of a study that the page shows, as :func:`tiltsim.figures.draw_all` names them.
PICTURES = (
    "lopsided",
    "tilt_response",
    "slopes",
    "gallery",
    "polarization",
    "network_bias",
    "dcnn/maps_centred",
    "dcnn/maps_sliding",
)


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _pm(value: float | None, sem: float | None = None) -> str:
    """A number with sign and, in brackets, its standard error."""
    if value is None or value != value:
        return "–"
    if sem is None or sem != sem:
        return f"{value:+.2f}"
    return f"{value:+.2f} ± {sem:.2f}"


def write_report(summary: Mapping[str, Any], folder: Path) -> None:
    """Write ``report.html`` into the ``folder`` of a study, from its summary and the PNG figures there.

    Raises
    ------
    SettingsError
        If the folder or the summary is not that of a finished study.
    """
    missing = [stem for stem in PICTURES if not (folder / f"{stem}.png").is_file()]
    if missing or "tilt_response" not in summary:
        raise SettingsError(
            f"{folder}: not a finished study ({', '.join(missing) or 'summary'}); run it again."
        )
    environment = Environment(
        loader=PackageLoader("tiltsim"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    environment.filters["pm"] = _pm
    clear = [
        r for r in summary["tilt_response"] if abs(r["bias_pm_per_mrad"] or 0) > 3 * (r["bias_sem"] or 0)
    ]
    worst = max(clear, key=lambda row: abs(row["bias_pm_per_mrad"]), default=None)
    pictures = {Path(stem).name: _embedded(folder / f"{stem}.png") for stem in PICTURES}
    write_text(
        environment.get_template("report.html").render(s=summary, worst=worst, pictures=pictures),
        folder / "report.html",
    )
