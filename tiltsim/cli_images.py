"""The verbs of networks, which read images: ``train`` and ``predict``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import analysis
import dcnn
from tiltsim.cli_options import DatasetName, Device, Lattice, Out, PixelSize, Zone, console
from tiltsim.measuring import MeasureOptions, measure_file
from tiltsim.output import check_folder, complete_folder, write_json
from tiltsim.progress import progress_bars


def _measured(
    image: Path, dataset: str | None, pixel_size: float | None, lattice_parameter: float | None, zone: str
) -> analysis.Measurement:
    options = MeasureOptions(pixel_size, lattice_parameter, zone=zone, dataset=dataset)
    with console.status("fitting columns"):
        return measure_file(image, options)


def _learned(metrics: Mapping[str, Any]) -> bool:
    """Whether a network explains most of what it was tested on."""
    return all((metrics["test"]["r2"][c] or 0.0) > 0.5 for c in "xy")


def train(
    image: Annotated[Path, typer.Argument(help="A measured image; its own fitted cells are the labels.")],
    out: Out = Path("out/train"),
    mode: Annotated[
        str, typer.Option(help="centred (on B columns) or sliding (no atoms needed).")
    ] = "centred",
    window: Annotated[float, typer.Option(help="Side of a sub-image, Å.")] = 6.0,
    epochs: Annotated[int, typer.Option(help="Passes over the training part.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and batches.")] = 0,
    pixel_size: PixelSize = None,
    lattice_parameter: Lattice = None,
    zone: Zone = "auto",
    dataset: DatasetName = None,
    device: Device = "auto",
) -> None:
    """Train a network on the left 2/3 of an image and test it on the right 1/3.

    Example: tiltsim train film.dm4 --lattice-parameter 3.96 --mode sliding --out out/net
    """
    start = time.perf_counter()
    settings = dcnn.TrainSettings(
        windows=dcnn.Windows(mode=mode, size_angstrom=window),  # type: ignore[arg-type]  # checked by Windows
        epochs=epochs,
        seed=seed,
        device=device,
    )
    check_folder(out)
    m = _measured(image, dataset, pixel_size, lattice_parameter, zone)
    picture = m.image
    with complete_folder(out) as folder, progress_bars(console) as bars:
        bars.stage("train", epochs)
        model = dcnn.train(picture, m.unit_cells, settings, progress=lambda epoch, *_: bars.advance(epoch))
        predictions, metrics = dcnn.evaluate_split(model, picture, m.unit_cells)
        dcnn.save(model, folder / "model.safetensors")
        analysis.write_dataset(predictions, folder / "predictions.nc")
        maps = dcnn.plot_split_maps(predictions, dcnn.split_line(picture), truth_name="Column fit")
        analysis.save(maps, folder / "maps")
        analysis.save(dcnn.plot_learning_curve(model), folder / "learning")
        write_json(
            {"image": image.name, "metrics": metrics, "seconds": time.perf_counter() - start},
            folder / "summary.json",
        )
    test = metrics["test"]["rmse_pm"]
    console.print(f"test RMSE against column fits: d_x {test['x']:.2f} pm, d_y {test['y']:.2f} pm → {out}")
    if not _learned(metrics):
        console.print(
            "the network explains less than half of the test part's variance: train longer, or the image shows "
            "little but noise to learn from"
        )


def predict(
    model: Annotated[Path, typer.Argument(help="Weights written by `tiltsim train` or `tiltsim study`.")],
    image: Annotated[Path, typer.Argument(help="A micrograph.")],
    out: Out = Path("out/predict"),
    pixel_size: PixelSize = None,
    lattice_parameter: Lattice = None,
    zone: Zone = "auto",
    dataset: DatasetName = None,
    stride: Annotated[float | None, typer.Option(help="Sliding window step, Å.", show_default=False)] = None,
    device: Device = "auto",
) -> None:
    """Predict polar displacement in an image with a trained network (its kind of window comes with it).

    Example: tiltsim predict out/net/model.safetensors other.dm4 --lattice-parameter 3.96 --out out/predicted
    """
    start = time.perf_counter()
    check_folder(out)
    network = dcnn.load(model)
    centres = None
    if network.windows.mode == "centred" or lattice_parameter is not None:
        m = _measured(image, dataset, pixel_size, lattice_parameter, zone)
        picture = m.image
        centres = m.unit_cells if network.windows.mode == "centred" else None
    else:
        picture = analysis.load(image, pixel_size=pixel_size, dataset=dataset)
    cells = dcnn.predict(network, picture, centres, stride, device=device)
    with complete_folder(out) as folder:
        analysis.write_dataset(cells, folder / "predicted_cells.nc")
        analysis.save(dcnn.plot_prediction(picture, cells), folder / "prediction")
        d = cells.d.values
        write_json(
            {
                "image": image.name,
                "model": model.name,
                "cells": int(cells.sizes["cell"]),
                "d_mean_pm": d.mean(axis=0),
                "d_std_pm": d.std(axis=0),
                "seconds": time.perf_counter() - start,
            },
            folder / "summary.json",
        )
    mean = cells.d.mean("cell").values
    console.print(f"{cells.sizes['cell']} predictions, mean d ({mean[0]:+.1f}, {mean[1]:+.1f}) pm → {out}")
    console.print("a network knows only crystals, doses and tilts like those it was trained on")
