"""Networks and column fitting against the truth of held-out fields: on axis, at every tilt, with errors, and how fast.

    python benchmarks/dcnn.py --library out/library/library.nc --models out/networks --out out/networks --json dcnn.json

Five networks are trained unless ``--models`` holds them (three quarters of an hour on two cores): on B columns, on a plain grid and fully
convolutional, all three on the zone axis; one on fitted labels of tilted fields, as an experimenter would have them; and the tilt-aware one. Then:
the suites "zero" and "tilt" of ``tiltsim evaluate``; tilt read from 1, 20 and 400 cells beside the bound of Fisher
information; the unknown told from the known; and the time that training and dense maps take, beside AtomAI where it is installed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from _atomai_peer import compared
from _common import library_of, machine, parser, report
from _dcnn_speed import dense_speed, training_speed
from _networks import TRAININGS, network, recipe_for

import analysis
import dcnn
from tiltsim import synthesize
from tiltsim.evaluation import evaluate, novelty_roc, plot_roc, plot_tilt_accuracy, tilt_accuracy
from tiltsim.library import Library
from tiltsim.output import make_folder
from tiltsim.synth.labelling import labelled


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument(
        "--library", type=Path, help="library.nc of the default microscope; default: built anew"
    )
    arguments.add_argument("--models", type=Path, help="folder of trained networks, and for those to train")
    arguments.add_argument("--out", type=Path, help="folder for cards, curves and figures")
    arguments.add_argument("--fields", type=int, help="held-out fields a condition; default 40")
    arguments.add_argument("--atomai-python", help="interpreter that has AtomAI")
    options = arguments.parse_args()
    library = library_of(options)
    with tempfile.TemporaryDirectory() as scratch:
        models_at = make_folder(options.models or Path(scratch) / "models")
        out = make_folder(options.out or Path(scratch) / "out")
        fields = options.fields or (2 if options.quick else 40)
        results: dict[str, Any] = {
            "machine": machine(),
            "library": library.digest,
            "fields_a_condition": fields,
        }
        models, results["trainings"] = {}, {}
        for name in TRAININGS:
            models[name], results["trainings"][name] = network(
                name, library, options.library, models_at, options.quick
            )
        results |= on_axis(models, library, fields, out)
        results |= at_every_tilt(models, library, fields, out, options.quick)
        results["tilt_mrad"] = tilt_against_bound(models["aware"], library, out, options.quick)
        results["novelty"] = the_unknown(models["aware"], library, out, options.quick)
        results["speed"] = speed(models["dense"], library, options.atomai_python, options.quick)
    for name, value in results.items():
        print(name, value)
    report(results, options.json)


def on_axis(models: Mapping[str, dcnn.Model], library: Library, fields: int, out: Path) -> dict[str, Any]:
    """Show 1: RMSE of d on the zone axis, doses and thicknesses drawn as the suite does."""
    chosen = {name: models[name] for name in ("centred", "sliding", "dense", "aware")}
    card = evaluate(chosen, "zero", library, out=out / "zero", fields=fields)
    rmse = card.d_rmse.mean("condition")
    return {f"rmse_{name}_pm": float(rmse.sel(estimator=name)) for name in card.estimator.values} | {
        f"rmse_{name}_sem_pm": _sem(card, "d_rmse", name) for name in card.estimator.values
    }


def at_every_tilt(
    models: Mapping[str, dcnn.Model], library: Library, fields: int, out: Path, quick: bool
) -> dict[str, Any]:
    """Show 2 and 4: error, bias and coverage of intervals at 0 to 10 mrad and 10⁴ to 10⁵ e/Å²."""
    chosen = {name: models[name] for name in ("centred", "naive", "aware")}
    card = evaluate(chosen, "tilt", library, out=out / "tilt", fields=fields, quick=quick)
    tilted = card.isel(condition=np.flatnonzero(card.value.values > 0))
    found: dict[str, Any] = {}
    for name in card.estimator.values:
        own = tilted.sel(estimator=name)
        found[f"tilted_rmse_{name}_pm"] = float(np.sqrt((own.d_rmse**2).mean()))
        # Mean length of a field's mean error vector, and how long it would be by chance alone.
        found[f"tilted_bias_{name}_pm"] = float(own.d_bias_abs.mean())
        found[f"tilted_bias_floor_{name}_pm"] = float(own.d_bias_floor.mean())
        found[f"tilted_bias_along_{name}_pm"] = float(own.d_bias_along.mean())
        found[f"largest_bias_{name}_pm"] = float(own.d_bias_abs.max())
    coverage = card.sel(estimator="aware").d_coverage
    found |= {
        "coverage90": float(coverage.mean()),
        "coverage90_least": float(coverage.min()),
        "coverage90_most": float(coverage.max()),
        "coverage90_fit": float(card.sel(estimator="fit").d_coverage.mean()),
        "by_condition": [
            {
                "tilt_mrad": float(card.value[k]),
                "panel": str(card.panel.values[k]),
                **{
                    f"{name}_{short}": round(float(card[long].sel(estimator=name)[k]), 3)
                    for name in card.estimator.values
                    for short, long in (
                        ("rmse", "d_rmse"),
                        ("bias", "d_bias_abs"),
                        ("coverage", "d_coverage"),
                    )
                },
            }
            for k in range(card.sizes["condition"])
        ],
    }
    return found


def tilt_against_bound(model: dcnn.Model, library: Library, out: Path, quick: bool) -> dict[str, Any]:
    """Show 3: RMSE of the tilt from 1, 20 and 400 cells, and the bound; a maximum likelihood fit of the folded cell beside it."""
    found = tilt_accuracy(model, library, fields=2 if quick else 100, likelihood=True)
    analysis.write_dataset(found, out / "tilt_accuracy.nc")
    analysis.save(plot_tilt_accuracy(found), out / "tilt_accuracy")
    names = ("rms_bound", "rms_bound_prior")
    return {
        "dose_per_A2": found.dose.values.tolist(),
        "cells": found.cells.values.tolist(),
        **{name: found[name].transpose("dose", "cells").values.round(3).tolist() for name in names},
        **{
            f"{what}_{one}": found[what]
            .sel(estimator=one)
            .transpose("dose", "cells")
            .values.round(3)
            .tolist()
            for one in found.estimator.values
            for what in ("rmse", "ratio")
        },
    }


def the_unknown(model: dcnn.Model, library: Library, out: Path, quick: bool) -> dict[str, Any]:
    """Show 4: what the network was not made for, told from what it was."""
    folder = os.environ.get("TILTSIM_DATA", Path(__file__).parents[2] / "shared" / "data")
    data = Path(folder) if Path(folder).is_dir() else None
    found = novelty_roc(model, library, fields=3 if quick else 40, data=data)
    analysis.write_dataset(found, out / "novelty.nc")
    analysis.save(plot_roc(found), out / "novelty")
    return {
        str(kind): {
            "auc": round(float(found.auc[k]), 4),
            "flagged": round(float(found.flagged[k]), 3),
            "cell_auc": round(float(found.cell_auc[k]), 4),
        }
        for k, kind in enumerate(found.kind.values)
    }


def speed(dense: dcnn.Model, library: Library, python: str | None, quick: bool) -> dict[str, Any]:
    """Show 6: seconds of training and of a dense map, and AtomAI on the same windows."""
    recipe = replace(
        recipe_for(TRAININGS["centred"], library), size=(256, 256) if quick else (768, 768), pixel=0.2
    )
    image, cells = labelled(synthesize(recipe, library, seed=1), "fit")
    settings = dcnn.TrainSettings(device="cpu", epochs=2) if quick else dcnn.TrainSettings(device="cpu")
    budget = {"batches": 3, "seconds": 2.0} if quick else {}
    peer = {} if python is None else {"python": python}
    return {
        "baseline_training": training_speed(image, cells, settings, repeats=1 if quick else 3),
        "dense_map": dense_speed(dense, 512 if quick else 4096, repeats=1 if quick else 3),
        "atomai": compared(image, cells, settings, **budget, **peer),
    }


def _sem(card: xr.Dataset, name: str, estimator: str) -> float:
    own = card[f"{name}_sem"].sel(estimator=estimator)
    return float(np.sqrt((own**2).sum()) / own.size)


if __name__ == "__main__":
    main()
