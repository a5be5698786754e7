"""The verb ``transfer``: what a network trained on synthetic fields is worth on a real image."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr

import analysis
import dcnn
from tiltsim.cli_options import DatasetName, Device, Lattice, Out, PixelSize, Zone, console, print_lines
from tiltsim.errors import SettingsError
from tiltsim.measuring import MeasureOptions, measure_file
from tiltsim.output import check_folder, complete_folder, write_json
from tiltsim.pretrained import MODELS, model_path
from tiltsim.progress import progress_bars
from tiltsim.transfer import TRAININGS, best_map, fine_tuning, transfer_study
from tiltsim.transfer_plots import plot_transfer


def transfer(
    image: Annotated[Path, typer.Argument(help="A measured image; its own fitted cells are the labels.")],
    model: Annotated[
        str,
        typer.Argument(help=f"The pre-trained network: a file of `tiltsim train`, or {', '.join(MODELS)}."),
    ],
    out: Out = Path("out/transfer"),
    shares: Annotated[
        str,
        typer.Option(help="Shares of the training area that have labels, above 0 to 1, with commas between."),
    ] = "0.1,0.25,0.5,1",
    repeats: Annotated[int, typer.Option(min=1, help="Draws of the labelled part, weights and batches.")] = 3,
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over all labels; smaller shares take as many steps.")
    ] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Of labelled parts, weights and batches.")] = 0,
    pixel_size: PixelSize = None,
    lattice_parameter: Lattice = None,
    zone: Zone = "auto",
    dataset: DatasetName = None,
    device: Device = "auto",
) -> None:
    """Measure what transfers from synthetic pre-training: train anew, use as it is, or fine-tune on a part of the image.

    Labels are column fits on the left 2/3, tests their right 1/3, with windows across the line left out.

    Example: tiltsim transfer film.dm4 net.safetensors --lattice-parameter 3.96 --out out/transfer
    """
    begin = time.perf_counter()
    wanted = _numbers(shares)
    check_folder(out)
    start = dcnn.load(model_path(model))
    settings = fine_tuning(start, epochs=epochs, seed=seed, device=device)
    with console.status("fitting columns"):
        m = measure_file(image, MeasureOptions(pixel_size, lattice_parameter, zone=zone, dataset=dataset))
    cells = m.unit_cells
    if start.windows.site == "A":
        cells = dcnn.with_columns(cells, m.columns)
    with complete_folder(out) as folder, progress_bars(console) as bars:
        bars.stage("trainings", 2 * len(wanted) * repeats)
        done = [0]

        def keep(kind: str, share: float, repeat: int, network: dcnn.Model) -> None:
            done[0] += 1
            bars.advance(done[0])
            if kind == "fine-tuned" and share == max(wanted) and repeat == 0:
                dcnn.save(network, folder / "model.safetensors")

        study = transfer_study(m.image, cells, start, settings, wanted, repeats=repeats, keep=keep)
        study.attrs |= {"image": image.name, "model": Path(model).name}
        analysis.write_dataset(study, folder / "transfer.nc")
        analysis.save(plot_transfer(study), folder / "transfer")
        write_json(
            {
                "image": image.name,
                "model": Path(model).name,
                **summary(study),
                "seconds": time.perf_counter() - begin,
            },
            folder / "summary.json",
        )
    print_lines([*_said(study), f"→ {out}"])


def summary(study: xr.Dataset) -> dict[str, Any]:
    """Means over the repeats of a transfer study, JSON-able.

    Returns
    -------
    dict
        ``shares``, ``labelled_cells``; a list by share of [x, y] for each training: ``rmse_pm``, ``bias_pm``, ``r2``,
        ``r2_corrected``; of the test labels [x, y] ``label_std_pm``, ``label_noise_pm``, ``label_reliability``,
        ``mean_label_rmse_pm``; ``best`` (training, share).
    """
    mean = study[["rmse", "bias", "r2", "r2_corrected"]].mean("repeat").transpose("training", "share", ...)
    names = {"rmse": "rmse_pm", "bias": "bias_pm", "r2": "r2", "r2_corrected": "r2_corrected"}
    labels = {
        "label_std": "label_std_pm",
        "label_noise": "label_noise_pm",
        "reliability": "label_reliability",
        "mean_rmse": "mean_label_rmse_pm",
    }
    return {
        "shares": study["share"].values,
        "labelled_cells": study["labelled"].mean("repeat").values,
        **{
            kind: {text: mean[name].sel(training=kind).values for name, text in names.items()}
            for kind in TRAININGS
        },
        **{text: study[name].values for name, text in labels.items()},
        "best": best_map(study),
    }


def _numbers(shares: str) -> list[float]:
    try:
        found = [float(part) for part in shares.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < s <= 1 for s in found) or len(set(found)) < len(found):
        raise SettingsError(
            f"--shares {shares!r} must be different numbers above 0 and at most 1, with commas between, such as 0.1,0.5,1."
        )
    return found


def _said(study: xr.Dataset) -> list[str]:
    """Test errors in words, the noise of labels with them."""
    most = int(np.argmax(study["share"].values))
    rmse = study["rmse"].mean("repeat").isel(share=most)
    cells = float(study["labelled"].mean("repeat")[most])
    lines = [f"RMSE against column fits on the test part, {cells:.0f} labelled cells:"]
    for kind in TRAININGS:
        x, y = rmse.sel(training=kind).values
        lines.append(f"  {kind}: d_x {x:.2f} pm, d_y {y:.2f} pm")
    x, y = study["label_noise"].values
    lines.append(f"  noise of the fits themselves, as they state it: {x:.2f}, {y:.2f} pm")
    trained = study["rmse"].sel(training=["scratch", "fine-tuned"]).mean("repeat")
    if bool((trained < study["label_noise"]).all("component").any()):
        lines.append(
            "below its labels' noise a network repeats the fit, noise and all, and is no nearer to the truth"
        )
    return lines
