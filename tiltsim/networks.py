"""The networks of a study, trained on the truth on axis and tested at every tilt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

import analysis
import dcnn
from tiltsim.config import Study
from tiltsim.film import at_tilt
from tiltsim.output import make_folder, write_json
from tiltsim.progress import Reporter

#: The two networks of a study: sub-images on B columns, and a regular window.
MODES: tuple[Literal["centred"], Literal["sliding"]] = ("centred", "sliding")


def train_networks(
    study: Study,
    fields: dict[tuple[float, float], xr.DataArray],
    cells: xr.Dataset,
    out: Path,
    device: str,
    reporter: Reporter,
) -> dict[str, Any]:
    """Train the centred and the sliding-window network on the truth at zero tilt; test them at every tilt."""
    folder = make_folder(out / "dcnn")
    zero = (0.0, 0.0)
    # The true displacement at the fitted B column: the label a simulation has and an experiment lacks.
    labelled = {tilt: _labelled(at_tilt(cells, tilt)) for tilt in fields}
    results: dict[str, Any] = {}
    for mode in MODES:
        settings = train_settings(study, mode, device)
        reporter.stage(f"train network ({mode})", settings.epochs)
        model = dcnn.train(
            fields[zero], labelled[zero], settings, progress=lambda epoch, *_: reporter.advance(epoch)
        )
        dcnn.save(model, folder / f"{mode}.safetensors")
        predictions, metrics = dcnn.evaluate_split(model, fields[zero], labelled[zero])
        analysis.write_dataset(predictions, folder / f"{mode}.nc")
        bias = {}
        for tilt, image in fields.items():
            _, at = dcnn.evaluate_split(model, image, labelled[tilt])
            bias[tilt] = at["test"]["bias_pm"]
        results[mode] = {"model": model, "predictions": predictions, "metrics": metrics, "bias": bias}
    # Fits are judged on the cells that the centred network is tested on.
    line, windows = dcnn.split_line(fields[zero]), dcnn.Windows()
    fit = {}
    for tilt in fields:
        table = at_tilt(cells, tilt)
        right = table.isel(
            cell=np.flatnonzero((dcnn.split(table, windows, line) == "test") & (table.flag == 0))
        )
        error = (right.d - right.d_true).values
        fit[tilt] = {"bias": error.mean(axis=0), "rmse": np.sqrt(np.mean(error**2, axis=0)), "n": len(error)}
    results["fit"] = fit
    write_json(
        {
            **{mode: results[mode]["metrics"] for mode in MODES},
            "fit_on_test_part": fit[zero],
            "bias_at_tilt": [
                {
                    "tilt_mrad": list(tilt),
                    "fit": fit[tilt]["bias"],
                    **{mode: results[mode]["bias"][tilt] for mode in MODES},
                }
                for tilt in fields
            ],
        },
        folder / "metrics.json",
    )
    return results


def train_settings(study: Study, mode: Literal["centred", "sliding"], device: str) -> dcnn.TrainSettings:
    """Training as a study asks for it; raises :class:`dcnn.ModelError` if it cannot be met."""
    return dcnn.TrainSettings(
        windows=dcnn.Windows(mode=mode),
        epochs=study.network.epochs,
        seed=study.network.seed,
        device=device,
    )


def _labelled(table: xr.Dataset) -> xr.Dataset:
    return table[["x", "y", "flag"]].assign(d=table.d_true)
