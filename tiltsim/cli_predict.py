"""The verb ``predict``: maps of an image by a trained network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

import analysis
import dcnn
from tiltsim.cli_options import DatasetName, Device, Lattice, Out, PixelSize, Zone, console
from tiltsim.cli_train import measured_file
from tiltsim.errors import SettingsError
from tiltsim.output import check_folder, complete_folder, write_json
from tiltsim.pretrained import MODELS, model_path
from tiltsim.progress import progress_bars


def predict(
    model: Annotated[
        str,
        typer.Argument(
            help=f"Weights written by `tiltsim train` or `tiltsim study`; or {', '.join(MODELS)}, which comes with tiltsim."
        ),
    ],
    image: Annotated[Path, typer.Argument(help="A micrograph.")],
    out: Out = Path("out/predict"),
    pixel_size: PixelSize = None,
    lattice_parameter: Lattice = None,
    zone: Zone = "auto",
    dataset: DatasetName = None,
    stride: Annotated[
        float | None,
        typer.Option(help="Step of a sliding network, Å; default that of its training.", show_default=False),
    ] = None,
    device: Device = "auto",
) -> None:
    """Predict polar displacement in an image with a trained network (its kind of window comes with it).

    Leaves predicted_cells.nc, with the columns of fitted cells; for dense and sliding networks also predicted_map.nc; a
    picture; and summary.json, which says how far the image is from anything the network was calibrated on.

    Example: tiltsim predict tilt-aware film.dm4 --lattice-parameter 3.96 --out out/predicted

    Example: tiltsim predict out/net/model.safetensors other.dm4 --lattice-parameter 3.96 --out out/predicted
    """
    start = time.perf_counter()
    check_folder(out)
    network = dcnn.load(model_path(model))
    if stride is not None and network.settings.network == "dense":
        raise SettingsError("--stride: a dense map has a place every 2 Å; leave it out.")
    centred = network.windows.mode == "centred" and network.settings.network != "dense"
    centres = None
    if centred or lattice_parameter is not None:
        m = measured_file(image, dataset, pixel_size, lattice_parameter, zone)
        picture = m.image
        centres = dcnn.with_columns(m.unit_cells, m.columns) if centred else None
    else:
        picture = analysis.load(image, pixel_size=pixel_size, dataset=dataset)
    with progress_bars(console) as bars:
        bars.stage("predict", 100)
        cells = dcnn.predict(
            network,
            picture,
            centres,
            stride,
            device=device,
            progress=lambda share: bars.advance(round(100 * share)),
        )
    if not cells.sizes["cell"]:
        raise SettingsError(
            f"{image.name} shows no cell whole within its border and holes; take a larger image, or a network of smaller windows."
        )
    d = cells.d.values
    summary: dict[str, Any] = {
        "image": image.name,
        "model": Path(model).name,
        "cells": int(cells.sizes["cell"]),
        "d_mean_pm": d.mean(axis=0),
        "d_std_pm": d.std(axis=0),
    }
    if "tilt" in cells:
        summary |= {
            "tilt_mean_mrad": cells.tilt.values.mean(axis=0),
            "tilt_std_mrad": cells.tilt.values.std(axis=0),
            "thickness_mean_angstrom": float(cells.thickness.mean()),
        }
    novelty = cells.attrs.get("novelty")
    if novelty is not None:
        summary |= {"novelty": novelty, "flagged": not novelty <= dcnn.NOVEL}
    with complete_folder(out) as folder:
        analysis.write_dataset(cells, folder / "predicted_cells.nc")
        if not centred:
            analysis.write_dataset(
                dcnn.predict_map(network, picture, stride, device=device), folder / "predicted_map.nc"
            )
        analysis.save(dcnn.plot_prediction(picture, cells), folder / "prediction")
        write_json(summary | {"seconds": time.perf_counter() - start}, folder / "summary.json")
    mean = cells.d.mean("cell").values
    console.print(f"{cells.sizes['cell']} predictions, mean d ({mean[0]:+.1f}, {mean[1]:+.1f}) pm → {out}")
    if "tilt" in cells:
        tilt = cells.tilt.mean("cell").values
        console.print(
            f"mean tilt ({tilt[0]:+.2f}, {tilt[1]:+.2f}) mrad, thickness {float(cells.thickness.mean()):.0f} Å"
        )
    if novelty is None:
        console.print("a network knows only crystals, doses and tilts like those it was trained on")
    elif not novelty <= dcnn.NOVEL:
        console.print(
            f"unlike anything the network was calibrated on (novelty {novelty:.1f}, limit {dcnn.NOVEL:g}): do not trust these numbers",
            style="red",
        )
