"""The page of an explanation: the answer in words, every picture, every number."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from numpy.typing import NDArray

from tiltsim.explanation.explaining import Explanation
from tiltsim.library import Library
from tiltsim.output import write_text

Floats = NDArray[np.float64]

#: Pictures in their order: file, title, caption.
PICTURES = (
    ("answer", "The map, what is added to it, and what is left",
     "Colour is direction and length of d. Bars: the share of each cause in the mean of the map; the line is the map itself."),
    ("distributions", "Distributions before and after", "Cells of the film that are not flagged."),
    ("posterior", "Tilt, thickness and lens", "Ellipses, bars and bands hold 90 %. Numbers are those of the variants. Below: how the best fit worsens as one unknown is moved and all others follow, along the lattice's axes."),
    ("evidence", "The averaged cells and what the model leaves over", "An A column in the upper left of each cell."),
)  # fmt: skip


def answer_in_words(found: Explanation) -> list[str]:
    """The answer, a few sentences."""
    lines = []
    inversion, verdict = found.inversion, found.verdict
    variants = [n for n, r in enumerate(inversion.regions) if r.name != "reference"]
    apparent = np.stack([inversion.regions[n].apparent for n in variants])
    if verdict.identified:
        size = np.hypot(*inversion.bias[variants].T)
        error = [float(np.sqrt(np.trace(e) / 2)) for e in (found.estimates[0].bias_cov)]
        lines.append(
            f"Tilt, lens and fit add {size.min():.1f} to {size.max():.1f} pm to d (± {max(error):.1f} pm along each axis): it appears "
            f"{np.hypot(*apparent.T).min():.1f} to {np.hypot(*apparent.T).max():.1f} pm long, and is "
            f"{np.hypot(*inversion.d[variants].T).min():.1f} to {np.hypot(*inversion.d[variants].T).max():.1f} pm."
        )
    else:
        lines.append(
            "The image does not decide: only the apparent displacement is reported, and no map is corrected."
        )
    thick, error_of = inversion.number("thickness")
    if verdict.identified:
        if found.leans is not None and found.leans.decided:
            grain = found.regions[0].turn() @ found.leans.grain
            lines.append(
                f"The grain is tilted by ({grain[0]:+.2f}, {grain[1]:+.2f}) ± {found.leans.grain_std.max():.2f} mrad; its variants lean by "
                f"{100 * found.leans.share:.0f} ± {100 * found.leans.share_std:.0f} % of the full rhombohedral lean; it is "
                f"{thick / 10:.1f} ± {error_of / 10:.1f} nm thick."
            )
        else:
            tilt = inversion.tilt[variants[0]]
            lines.append(
                f"In {inversion.regions[variants[0]].name} the beam is tilted by ({tilt[0]:+.2f}, {tilt[1]:+.2f}) mrad against the columns; how "
                f"much of it is the grain's tilt and how much the variant's own lean cannot be told. The film is {thick / 10:.1f} ± "
                f"{error_of / 10:.1f} nm thick."
            )
    if verdict.identified and found.bending is not None and found.bending.found:
        change = 100.0 * np.abs(found.bending.gradient).max()
        lines.append(
            f"The film is bent: tilt changes by up to {change:.1f} mrad over 10 nm, which the corrected map takes into account."
        )
    lines.append(verdict.weakest[0].upper() + verdict.weakest[1:] + ".")
    return lines


def write_page(
    found: Explanation,
    attribution: xr.Dataset | None,
    library: Library,
    folder: Path,
    *,
    image: str,
    seconds: float,
) -> None:
    """Write ``explain.html`` into ``folder``, where the pictures are.

    Raises
    ------
    SettingsError
        If it cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("tiltsim"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    request = library.request
    inversion = found.inversion
    page = environment.get_template("explain.html").render(
        image=image,
        version=version("tiltsim"),
        seconds=f"{seconds:.0f} s",
        microscope=f"{request.microscope.energy_keV:g} kV, {request.microscope.semiangle_cutoff:g} mrad, detector "
        f"{request.detector.inner:g}–{request.detector.outer:g} mrad",
        identified=found.verdict.identified,
        answer=answer_in_words(found),
        objections=found.verdict.objections,
        advice=found.verdict.advice,
        remarks=found.verdict.remarks,
        pictures=[
            {"title": title, "caption": caption, "source": _embedded(folder / f"{name}.png")}
            for name, title, caption in PICTURES
        ],
        regions=[
            {
                "name": region.name,
                "cells": region.cells,
                "apparent": _pair(region.apparent, region.apparent_cov),
                "tilt": _pair(inversion.tilt[n], _block(inversion.tilt_cov, n), 2),
                "bias": _pair(inversion.bias[n], _block(inversion.bias_cov, n)),
                "d": _pair(inversion.d[n], _block(inversion.bias_cov, n)),
            }
            for n, region in enumerate(inversion.regions)
        ],
        variants=[r.name for r in inversion.regions if r.name != "reference"],
        causes=_causes(attribution),
        estimators=[
            {
                "name": e.name, "assumes": e.assumes, "silent": e.silent,
                "bias": [_pair(b, c) for b, c in zip(e.bias, e.bias_cov, strict=True)],
            }
            for e in found.estimates
        ],
        library=f"{library.digest}, {request.phonons.pairs} phonon pairs",
    )  # fmt: skip
    write_text(page, folder / "explain.html")


def _causes(attribution: xr.Dataset | None) -> list[Mapping[str, Any]]:
    if attribution is None:
        return []
    rows: list[Mapping[str, Any]] = []
    for n, cause in enumerate(attribution.cause.values):
        values = zip(attribution.contribution.values[n], attribution.contribution_std.values[n], strict=True)
        rows.append({"name": str(cause), "cells": [f"{v:+.2f} ± {e:.2f}" for v, e in values]})
    rows.append({"name": "the map", "cells": [f"{v:+.2f}" for v in attribution.total.values]})
    return rows


def _block(covariance: Floats, n: int) -> Floats:
    return covariance[2 * n : 2 * n + 2, 2 * n : 2 * n + 2]


def _pair(value: Floats, covariance: Floats, digits: int = 1) -> str:
    if not np.isfinite(value).all():
        return "–"
    error = np.sqrt(np.diag(covariance))
    return ", ".join(f"{v:+.{digits}f} ± {e:.{digits}f}" for v, e in zip(value, error, strict=True))


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
