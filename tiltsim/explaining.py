"""Explain one micrograph from its file to a folder of results."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import analysis
import dcnn
from tiltsim.errors import SettingsError
from tiltsim.explanation import attribute, explain
from tiltsim.explanation.explaining import STAGES, Explanation
from tiltsim.explanation.figures import plot_answer, plot_distributions, plot_evidence, plot_posterior
from tiltsim.explanation.page import answer_in_words, write_page
from tiltsim.explanation.what_if import parse_what_if, plot_what_if, what_if
from tiltsim.library import Library, open_library
from tiltsim.output import check_folder, complete_folder, write_json
from tiltsim.pretrained import model_path
from tiltsim.progress import Reporter, Silent
from tiltsim.settings import Detector, Microscope


@dataclass(frozen=True)
class ExplainOptions:
    """How an image is loaded and explained.

    Parameters
    ----------
    library : Path
    pixel_size, lattice_parameter : float, optional
        Å.
    dataset : str, optional
    reference : str
        "auto", "none" or "x0,y0,x1,y1" in Å.
    variants : int, optional
    network : str
        A model, or "none".
    radius : float
        Displacement of full colour, pm.
    samarium : float
        Fraction of A sites with Sm, in the film.
    black_level : float, optional
        What the detector gives without electrons, in the image's unit.
    device : str
    what_if : str
        See :func:`~tiltsim.explanation.what_if.parse_what_if`; empty for nothing.
    """

    library: Path
    pixel_size: float | None = None
    lattice_parameter: float | None = None
    dataset: str | None = None
    reference: str = "auto"
    variants: int | None = None
    network: str = "none"
    radius: float = 40.0
    samarium: float = 0.0
    black_level: float | None = None
    device: str = "auto"
    what_if: str = ""

    def __post_init__(self) -> None:
        """Refuse what no image can be explained with, before any is read."""
        if not self.radius > 0:
            raise SettingsError(f"--radius {self.radius:g} must be positive, in pm.")
        if not 0.0 <= self.samarium <= 1.0:
            raise SettingsError(f"--samarium {self.samarium:g} must be a fraction from 0 to 1, e.g. 0.07.")
        if self.black_level is not None and not np.isfinite(self.black_level):
            raise SettingsError("--black-level must be a number, in the image's unit.")
        self.region()
        if self.what_if:
            parse_what_if(self.what_if)

    def region(self) -> str | tuple[float, float, float, float]:
        """The reference, parsed."""
        if self.reference in ("auto", "none"):
            return self.reference
        try:
            x0, y0, x1, y1 = (float(v) for v in self.reference.split(","))
        except ValueError as error:
            raise SettingsError(
                f"--reference {self.reference!r} must be auto, none or four numbers x0,y0,x1,y1 in Å."
            ) from error
        return x0, y0, x1, y1


def explain_into(
    path: Path, out: Path, options: ExplainOptions, reporter: Reporter | None = None
) -> tuple[dict[str, Any], Explanation]:
    """Explain a micrograph and write page, tables and pictures to ``out``, all of them or none.

    Returns
    -------
    summary : dict
        What is in summary.json.
    Explanation

    Raises
    ------
    ImageError, SettingsError, ModelError
        One sentence about what is wrong.
    """
    start = time.perf_counter()
    bars = reporter or Silent()
    check_folder(out)
    library = open_library(options.library)
    network = None if options.network == "none" else dcnn.load(model_path(options.network))
    image = analysis.load(path, pixel_size=options.pixel_size, dataset=options.dataset)
    if options.black_level is not None:
        image = image.assign_attrs(black_level=options.black_level)
    bars.stage("explain the image", len(STAGES))
    found = explain(
        image, library, reference=options.region(), variants=options.variants, network=network,
        samarium=options.samarium, lattice_parameter=options.lattice_parameter, device=options.device,
        progress=lambda stage: bars.advance(STAGES.index(stage)),
    )  # fmt: skip
    bars.advance(len(STAGES))
    parts = None
    if found.verdict.identified:
        bars.stage("part what the map shows", 1)
        parts = attribute(found, bars.advance)
    imagined = None
    if options.what_if and found.verdict.identified:
        imagined = what_if(found, parse_what_if(options.what_if))
    with complete_folder(out) as folder:
        bars.stage("draw", 4)
        if imagined is not None:
            figure = plot_what_if(found, imagined, parse_what_if(options.what_if), options.radius)
            analysis.save(figure, folder / "what_if")
            analysis.write_dataset(imagined, folder / "what_if.nc")
        analysis.write_dataset(found.summary, folder / "explanation.nc")
        analysis.write_dataset(found.cells, folder / "unit_cells.nc")
        analysis.write_csv(found.cells, folder / "unit_cells.csv")
        if parts is not None:
            analysis.write_dataset(parts, folder / "attribution.nc")
        pictures = {
            "answer": plot_answer(found, parts, options.radius), "distributions": plot_distributions(found),
            "posterior": plot_posterior(found), "evidence": plot_evidence(found),
        }  # fmt: skip
        for number, (name, figure) in enumerate(pictures.items()):
            analysis.save(figure, folder / name)
            bars.advance(number + 1)
        seconds = time.perf_counter() - start
        write_page(found, parts, library, folder, image=path.name, seconds=seconds)
        summary = _summary(found, path, library, seconds)
        write_json(summary, folder / "summary.json")
    return summary, found


def check_microscope(library: Library, microscope: Microscope, detector: Detector, source: str) -> None:
    """Refuse a library of another microscope or detector.

    Raises
    ------
    SettingsError
        Naming the first setting that differs.
    """
    request = library.request
    for name, unit, wanted, built in (
        ("energy", "keV", microscope.energy_keV, request.microscope.energy_keV),
        ("semiangle_cutoff", "mrad", microscope.semiangle_cutoff, request.microscope.semiangle_cutoff),
        ("detector.inner", "mrad", detector.inner, request.detector.inner),
        ("detector.outer", "mrad", detector.outer, request.detector.outer),
    ):
        if abs(wanted - built) > 1e-3 * abs(built):
            raise SettingsError(
                f"--microscope {source}: {name} is {wanted:g} {unit}, but the library was built for {built:g} {unit}; build one for "
                "this microscope with `tiltsim library build --lens`."
            )


def _summary(found: Explanation, path: Path, library: Library, seconds: float) -> dict[str, Any]:
    inversion = found.inversion
    thickness, error = inversion.number("thickness")
    return {
        "image": path.name,
        "identified": found.verdict.identified,
        "answer": answer_in_words(found),
        "objections": found.verdict.objections,
        "remarks": found.verdict.remarks,
        "advice": found.verdict.advice,
        "regions": [
            {
                "name": region.name, "cells": region.cells, "apparent_pm": region.apparent,
                "tilt_mrad": inversion.tilt[n], "tilt_std_mrad": _std(inversion.tilt_cov, n),
                "bias_pm": inversion.bias[n], "bias_std_pm": _std(inversion.bias_cov, n),
                "d_pm": inversion.d[n] if found.verdict.identified else None,
            }
            for n, region in enumerate(inversion.regions)
        ],
        "thickness_angstrom": [thickness, error],
        "reduced_chi2": inversion.misfit.reduced,
        "library": library.digest,
        "seconds": seconds,
    }  # fmt: skip


def _std(covariance: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    return np.sqrt(np.diag(covariance)[2 * n : 2 * n + 2])
