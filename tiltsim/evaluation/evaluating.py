"""The benchmark itself: estimators and conditions in, one dataset out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import dcnn
from tiltsim.errors import SettingsError
from tiltsim.evaluation import statistics
from tiltsim.evaluation.estimators import Estimator, estimators
from tiltsim.evaluation.fields import make_all
from tiltsim.evaluation.kept import Drawn, Kept
from tiltsim.evaluation.results import write_results
from tiltsim.evaluation.scoring import FieldScore, score
from tiltsim.evaluation.suites import AXES, FIELDS, SIZE, Condition, Suite, suite
from tiltsim.library import Library, open_library
from tiltsim.output import check_folder
from tiltsim.progress import Reporter, Silent
from tiltsim.scheduling import reproducible
from tiltsim.seeds import EVALUATION

#: Folder of finished conditions within the results.
KEPT = ".evaluation"


def evaluate(
    models: Any,
    suite_name: str | Suite = "tilt",
    library: Library | str | Path = "library.nc",
    *,
    out: str | Path | None = None,
    fields: int = FIELDS,
    size: int = SIZE,
    seed: int = 0,
    workers: int = 1,
    windows: dcnn.Windows | None = None,
    fit: bool = True,
    quick: bool = False,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Hold estimators of displacement against the truth of held-out fields.

    Parameters
    ----------
    models : spec, sequence of specs, or mapping of names to specs
        See :func:`~tiltsim.evaluation.estimators.estimator`.
    suite_name : str or Suite
        One of :data:`~tiltsim.evaluation.suites.SUITES`, or conditions of your own.
    library : Library, str or Path
        Response library that fields are made from.
    out : str or Path, optional
        Folder for evaluation.nc, summary.json, curves and card.html. Finished conditions are kept there: an interrupted
        evaluation goes on, and a further model costs only its own time.
    fields, size : int
        Fields a condition, and rows and columns of each in pixels of 0.2 Å.
    seed : int
        Another seed, other fields.
    workers : int
        Fields made at a time; results are the same whatever the number.
    windows : dcnn.Windows, optional
        Patches that other people's networks get; 6 Å and 24 samples by default.
    fit : bool
        Compare with column fitting too.
    quick : bool
        Fewer conditions, to try things out.
    device : str
        For this toolkit's networks.
    reporter : Reporter, optional

    Returns
    -------
    Dataset
        Dims (estimator, condition[, field[, component]]). Each statistic of
        :func:`tiltsim.evaluation.statistics.statistics` with its standard error ``…_sem``; coordinates ``suite``, ``value``,
        ``unit`` and ``panel`` of each condition; per field its mean error ``field_d_bias`` and so on, and what was drawn.
        Fields are independent samples, cells are not: errors come from drawing fields anew.

    Raises
    ------
    SettingsError, dcnn.ModelError
        If a model, the suite or the library will not do.
    """
    if fields < 1 or seed < 0 or workers < 1:
        raise SettingsError(
            f"fields {fields} and workers {workers} must be at least 1, and seed {seed} not below 0."
        )
    folder = Path(out) if out is not None else None
    if folder is not None:
        check_folder(folder)
    start = time.perf_counter()
    compared = estimators(models, windows=windows, device=device, fit=fit)
    opened = library if isinstance(library, Library) else open_library(Path(library))
    asked = (
        suite_name
        if isinstance(suite_name, Suite)
        else suite(suite_name, fields=fields, size=size, library=opened, quick=quick)
    )
    if len({c.fields for c in asked.conditions}) != 1:
        raise SettingsError("suite: all of its conditions must have the same number of fields.")
    kept = Kept(opened.digest, seed, folder / KEPT if folder is not None else None)
    scores, drawn = _run(asked, compared, opened, kept, seed, workers, reporter or Silent())
    result = _dataset(asked, compared, scores, drawn)
    result.attrs = _about(asked, compared, opened, seed)
    if folder is not None:
        write_results(result, folder, time.perf_counter() - start)
    return result


Scores = dict[tuple[int, int], list[FieldScore]]


def _run(
    asked: Suite,
    compared: Sequence[Estimator],
    library: Library,
    kept: Kept,
    seed: int,
    workers: int,
    reporter: Reporter,
) -> tuple[Scores, list[Drawn]]:
    """Scores by (estimator, condition), and what was drawn for the fields of each condition."""
    scores: Scores = {}
    drawn: list[Drawn] = []
    reporter.stage("held-out fields", sum(c.fields for c in asked.conditions))
    done = 0
    for c, condition in enumerate(asked.conditions):
        missing: list[int] = []
        settings: Drawn = []
        for e, one in enumerate(compared):
            found = kept.get(one, condition)
            if found is None:
                missing.append(e)
            else:
                scores[e, c], settings = found
        if missing:
            settings = _score_condition(condition, c, missing, compared, scores, library, seed, workers)
            for e in missing:
                kept.put(compared[e], condition, scores[e, c], settings)
        drawn.append(settings)
        done += condition.fields
        reporter.advance(done)
    return scores, drawn


def _score_condition(
    condition: Condition,
    c: int,
    missing: Sequence[int],
    compared: Sequence[Estimator],
    scores: Scores,
    library: Library,
    seed: int,
    workers: int,
) -> Drawn:
    """Let the ``missing`` estimators see every field of a condition; returns what was drawn."""
    settings: Drawn = []
    for e in missing:
        scores[e, c] = []
    for field in make_all(condition, library, seed, workers):
        settings.append(field.drawn)
        for e in missing:
            one = compared[e]
            with reproducible(1):  # sums may depend in their last bit on the number
                found = one.predict(field.sight) if field.sight is not None else None
            scores[e, c].append(score(found, field.truth, one.name))
    return settings


def _dataset(
    asked: Suite, compared: Sequence[Estimator], scores: Scores, drawn: Sequence[Drawn]
) -> xr.Dataset:
    conditions, n = asked.conditions, asked.conditions[0].fields
    shape = (len(compared), len(conditions))
    columns: dict[str, np.ndarray] = {}
    for (e, c), fields in scores.items():
        azimuths = np.array([d["azimuth"] for d in drawn[c]])
        for name, pair in statistics.with_errors(fields, azimuths).items():
            for key, value in zip((name, f"{name}_sem"), pair, strict=True):
                columns.setdefault(key, np.full(shape, np.nan))[e, c] = value
    result = statistics.assemble(columns)
    result = result.assign_coords(
        estimator=[one.name for one in compared],
        kind=("estimator", [one.kind for one in compared]),
        suite=("condition", [c.suite for c in conditions]),
        axis=("condition", [AXES[c.suite].name for c in conditions]),
        value=("condition", [c.value for c in conditions], {"long_name": "of the suite's axis, in its unit"}),
        unit=("condition", [AXES[c.suite].unit for c in conditions]),
        panel=("condition", [c.panel for c in conditions]),
        field=np.arange(n),
        component=["x", "y"],
    )
    units = {"azimuth": "degrees", "tilt": "mrad", "thickness": "Å", "dose": "e/Å²"}
    for name, unit in units.items():
        values = np.array([[d[name] for d in fields] for fields in drawn])
        result[f"field_{name}"] = (("condition", "field"), values, {"units": unit, "long_name": "drawn"})
    per_field: dict[str, np.ndarray] = {}
    for (e, c), fields in scores.items():
        for f, one in enumerate(fields):
            for name, number in statistics.field_values(one).items():
                row = np.atleast_1d(number)
                per_field.setdefault(name, np.full((*shape, n, len(row)), np.nan))[e, c, f] = row
    for name, values in per_field.items():
        dims: tuple[str, ...] = ("estimator", "condition", "field")
        if values.shape[-1] == 2:
            dims = (*dims, "component")
        else:
            values = values[..., 0]
        result[f"field_{name}"] = (dims, values, {"units": statistics.unit_of(name.replace("novelty", "x"))})
    return result


def _about(asked: Suite, compared: Sequence[Estimator], library: Library, seed: int) -> dict[str, Any]:
    request = library.request
    recipe = asked.conditions[0].recipe
    return {
        "suite": asked.name,
        "left_out": json.dumps(list(asked.left_out), ensure_ascii=False),
        "estimators": json.dumps({one.name: {"kind": one.kind, **one.about} for one in compared}),
        "recipes": json.dumps([c.recipe.as_dict() for c in asked.conditions], ensure_ascii=False),
        "fields": asked.conditions[0].fields,
        "size_px": list(recipe.size),
        "seed": seed,
        "field_seed": EVALUATION + seed,
        "bootstrap_draws": statistics.DRAWS,
        "library": library.digest,
        "energy_keV": request.microscope.energy_keV,
        "semiangle_cutoff_mrad": request.microscope.semiangle_cutoff,
        "detector_mrad": [request.detector.inner, request.detector.outer],
        "convention": "d = mean of surrounding A columns − B column; x right, y down; tilt = direction of the beam in the crystal",
        "tiltsim_version": version("tiltsim"),
    }
