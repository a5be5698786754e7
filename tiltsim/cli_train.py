"""The verb ``train``: a network from an experiment, from synthetic fields, or from one after the other."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import analysis
import dcnn
from dcnn import window_angstrom
from tiltsim.cli_options import DatasetName, Device, Lattice, Out, PixelSize, Zone, console
from tiltsim.errors import SettingsError
from tiltsim.measuring import MeasureOptions, measure_file
from tiltsim.output import check_folder, complete_folder, make_folder, write_json
from tiltsim.pretrained import MODELS, model_path
from tiltsim.progress import Bars, progress_bars
from tiltsim.seeds import EVALUATION, VALIDATION
from tiltsim.synth.labelling import Labelled, SetFields, SynthesizedFields, check_labels
from tiltsim.synth.recipe import RECIPES, load_recipe
from tiltsim.synth.recipe import on_axis as without_tilt
from tiltsim.transfer import GENTLY

#: The state of an unfinished training, beside its results.
CHECKPOINT = "checkpoint.safetensors"


_Fields = SetFields | SynthesizedFields


def measured_file(
    image: Path, dataset: str | None, pixel_size: float | None, lattice_parameter: float | None, zone: str
) -> analysis.Measurement:
    """Measure a micrograph as the options say, with a sign of life."""
    options = MeasureOptions(pixel_size, lattice_parameter, zone=zone, dataset=dataset)
    with console.status("fitting columns"):
        return measure_file(image, options)


def train(
    source: Annotated[
        str,
        typer.Argument(
            help="A measured image, whose fitted cells are the labels; a set of `tiltsim synth`; or a recipe "
            f"({', '.join(RECIPES)}, or a file), whose fields are made as they are needed (with --library)."
        ),
    ],
    out: Out = Path("out/train"),
    network: Annotated[
        str,
        typer.Option(
            help="baseline (small CNN), residual (deeper), dense (a map of the whole image in one pass, no atoms needed), "
            "context (cells look at their neighbours; the one for tilt)."
        ),
    ] = "baseline",
    tilt: Annotated[
        bool,
        typer.Option("--tilt", help="Learn tilt and thickness too (needs the truth of synthetic fields)."),
    ] = False,
    on_axis: Annotated[
        bool,
        typer.Option("--on-axis", help="Take all tilt out of a recipe: what most networks are trained on."),
    ] = False,
    mode: Annotated[str, typer.Option(help="centred (on columns) or sliding (no atoms needed).")] = "centred",
    site: Annotated[str, typer.Option(help="Columns that centre the windows: B or A.")] = "B",
    window: Annotated[
        str, typer.Option(help="Side of a sub-image: Å, or with a unit, as 1.5cells or 30px.")
    ] = "6",
    labels: Annotated[
        str | None,
        typer.Option(
            help="truth or fit, of synthetic fields; an image has fits only.",
            show_default="truth, where there is one",
        ),
    ] = None,
    library: Annotated[
        Path | None, typer.Option(help="Response library, for a recipe.", show_default=False)
    ] = None,
    fields: Annotated[int, typer.Option(min=2, help="Fields to make of a recipe, for training.")] = 2000,
    start: Annotated[
        str | None,
        typer.Option(
            help=f"A model to train further, e.g. on an experiment: a file, or {', '.join(MODELS)}.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes, at most.", show_default="60 for an image, 12 for fields")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Sub-images a step.", show_default="64 for an image, 512 for fields; 16 crops for dense"
        ),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate.", show_default="0.002")] = None,
    seed: Annotated[int, typer.Option(min=0, max=EVALUATION - 1, help="Of weights, batches and fields.")] = 0,
    pixel_size: PixelSize = None,
    lattice_parameter: Lattice = None,
    zone: Zone = "auto",
    dataset: DatasetName = None,
    device: Device = "auto",
) -> None:
    """Train a network: model.safetensors, learning curve, summary.json.

    From an image: trained on the left 2/3 and tested on the right 1/3, with maps. From synthetic fields: trained
    on the truth (or on fits of columns, to see what those teach), the best epoch chosen and the errors calibrated on
    held-out fields. Interrupted, it goes on where it stopped when run again with the same --out.

    Several GPUs: torchrun --nproc-per-node 4 -m tiltsim train …

    Example: tiltsim train film.dm4 --lattice-parameter 3.96 --mode sliding --out out/net

    Example: tiltsim train synth-networks --library library.nc --network context --tilt --out out/aware

    Example: tiltsim train film.dm4 --start out/net/model.safetensors --epochs 10 --out out/tuned
    """
    begin = time.perf_counter()
    check_folder(out)
    experiment = _is_image(source)
    if experiment and labels == "truth":
        raise SettingsError("--labels truth: an image has none; leave it out, or train on synthetic fields.")
    labels = labels or ("fit" if experiment else "truth")
    check_labels(labels)
    if tilt and start is None and labels == "fit":
        raise SettingsError("--tilt needs fields with truth; fits of columns know no tilt.")
    given = dcnn.load(model_path(start)) if start is not None else None
    if given is not None and tuple(given.targets) != (("d", "tilt", "thickness") if tilt else ("d",)):
        raise SettingsError(
            f"--start {start} learned {', '.join(given.targets)}; {'leave --tilt out' if tilt else 'add --tilt'}."
        )
    m = measured_file(Path(source), dataset, pixel_size, lattice_parameter, zone) if experiment else None
    pixel, cell = _scale(m)
    synthetic = not experiment
    settings = dcnn.TrainSettings(
        windows=dcnn.Windows(
            mode=mode,  # type: ignore[arg-type]  # checked by Windows
            site=site,  # type: ignore[arg-type]
            size_angstrom=window_angstrom(window, pixel_angstrom=pixel, cell_angstrom=cell),
        ),
        network=network,
        targets=("d", "tilt", "thickness") if tilt else ("d",),
        epochs=_given(epochs, 60 if experiment else 12),
        batch_size=_given(
            batch, 16 if network == "dense" else 64 if experiment else 1024 if network == "context" else 512
        ),
        learning_rate=_given(
            learning_rate, (1e-3 if network == "context" else 2e-3) * (GENTLY if given else 1.0)
        ),
        weight_decay=0.3 if experiment else 0.01,
        seed=seed,
        device=device,
        train_fraction=1.0 if synthetic else 2 / 3,
        augment=synthetic and labels == "truth",
        jitter_angstrom=0.08 if synthetic and labels == "truth" else 0.0,
    )
    synthesized = None if experiment else _fields(source, library, fields, seed, labels, on_axis)
    make_folder(out)
    checkpoint = out / CHECKPOINT
    leads = int(os.environ.get("RANK", "0")) == 0
    with progress_bars(console) as bars:
        if m is not None:
            cells = dcnn.with_columns(m.unit_cells, m.columns)
            bars.stage("train", settings.epochs)
            model = dcnn.train(
                m.image,
                cells,
                settings,
                start=given,
                checkpoint=checkpoint,
                progress=lambda e, _: bars.advance(e),
            )
            data: dict[str, Any] = {
                "image": Path(source).name,
                "cells": int(cells.sizes["cell"]),
                "labels": "fit",
            }
        elif synthesized is not None:
            training, held, test = synthesized
            model = _train_on_fields(training, held, settings, given, checkpoint, bars)
            bars.stage("calibrate", 1)
            # Intervals are about the truth, and are measured on none of the fields that chose the epoch.
            model = dcnn.calibrate(model, test, device=device) if leads else model
            bars.advance(1)
            data = {"training": training.about, "validation": held.about, "calibration": test.about}
    if not leads:
        return
    model = replace(model, card={**model.card, "data": data})
    with complete_folder(out) as folder:
        dcnn.save(model, folder / "model.safetensors")
        analysis.save(dcnn.plot_learning_curve(model), folder / "learning")
        summary: dict[str, Any] = {
            "source": Path(source).name,
            "labels": labels,
            "network": network,
            "training": {k: v for k, v in model.card["training"].items() if k != "history"},
            "last_epoch": model.card["training"]["history"][-1],
        }
        if m is not None:
            summary["metrics"] = metrics = _test(model, m.image, cells, folder)
        write_json(summary | {"seconds": time.perf_counter() - begin}, folder / "summary.json")
    checkpoint.unlink(missing_ok=True)
    if m is not None:
        _say(metrics, out)
        if given is not None and "calibration" in given.card:
            console.print(
                "trained further on column fits, which are no truth: intervals and novelty of --start no longer hold and are left out"
                + ("; its tilt and thickness had no labels here and drift" if tilt else ""),
                style="red",
            )
    else:
        best = model.card["training"]["history"][model.card["training"]["best_epoch"] - 1]
        console.print(f"held-out fields: {_errors(best)} → {out / 'model.safetensors'}")


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _is_image(source: str) -> bool:
    """Whether to read ``source`` as a micrograph, and not as a set of fields or a recipe."""
    path = Path(source)
    is_set = path.is_dir() or path.name in ("fields.zarr", "fields.nc")
    return not (is_set or source in RECIPES or path.suffix in (".toml", ".yaml", ".yml"))


def _scale(m: analysis.Measurement | None) -> tuple[float | None, float | None]:
    """Pixel size and edge of a cell, Å, of a measured image; of synthetic fields that of BiFeO3."""
    if m is None:
        return None, 3.96
    x = m.image.x.values
    # The area of the median cell: B columns may be displaced, cells are not.
    return float(x[-1] - x[0]) / (len(x) - 1), float(np.sqrt(np.median(m.unit_cells["area"].values)))


def _fields(
    source: str, library: Path | None, number: int, seed: int, labels: Any, on_axis: bool
) -> tuple[_Fields, _Fields, _Fields]:
    """Fields to train on, to choose the epoch on, and, with the truth, to calibrate on."""
    if Path(source).is_dir() or Path(source).name in ("fields.zarr", "fields.nc"):
        if on_axis:
            raise SettingsError("--on-axis changes a recipe; the fields of a set are what they are.")
        training, held = SetFields(source, "train", labels), SetFields(source, "validation", labels)
        test = SetFields(source, "test", "truth")
        for name, part, least in (("train", training, 1), ("validation", held, 1), ("test", test, 10)):
            if len(part) < least:
                raise SettingsError(
                    f"{source} has {len(part)} fields in its part {name!r}, and training needs {least}; make a larger set."
                )
        return training, held, test
    if library is None:
        raise SettingsError(
            "--library is missing; a recipe needs the file that `tiltsim library build` makes."
        )
    recipe = without_tilt(load_recipe(source)) if on_axis else load_recipe(source)
    few = max(20, min(100, number // 10))
    return (
        SynthesizedFields(recipe, library, number, seed, labels),
        SynthesizedFields(recipe, library, few, seed + VALIDATION, labels),
        SynthesizedFields(recipe, library, max(40, few), seed + VALIDATION, "truth", first=few),
    )


class _Watched(Sequence[Labelled]):
    """Fields whose reading is seen on a progress bar."""

    def __init__(self, fields: Sequence[Labelled], bars: Bars) -> None:
        self._fields, self._bars = fields, bars

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, index: Any) -> Any:
        made = self._fields[index]
        self._bars.advance(index + 1)
        if index + 1 == len(self):
            self._bars.stage("train", 1)
        return made


def _train_on_fields(
    training: Sequence[Labelled],
    held: Sequence[Labelled],
    settings: dcnn.TrainSettings,
    given: dcnn.Model | None,
    checkpoint: Path,
    bars: Bars,
) -> dcnn.Model:
    bars.stage("fields", len(training))

    def shown(epoch: int, row: Any) -> None:
        bars.advance(epoch, settings.epochs)
        console.print(f"epoch {epoch}: {_errors(row)}")

    return dcnn.train(
        _Watched(training, bars),
        settings,
        validation=held,
        start=given,
        checkpoint=checkpoint,
        progress=shown,
    )


def _errors(row: Any) -> str:
    text = f"d {row['validation_rmse_pm']:.2f} pm"
    if "validation_tilt_mrad" in row:
        text += f", tilt {row['validation_tilt_mrad']:.2f} mrad, thickness {row['validation_thickness_angstrom']:.0f} Å"
    return text


def _test(model: dcnn.Model, image: Any, cells: Any, folder: Path) -> dict[str, Any]:
    """Maps and metrics of an image's two sides."""
    predictions, metrics = dcnn.evaluate_split(model, image, cells)
    analysis.write_dataset(predictions, folder / "predictions.nc")
    maps = dcnn.plot_split_maps(predictions, dcnn.split_line(image), truth_name="Column fit")
    analysis.save(maps, folder / "maps")
    return metrics


def _say(metrics: Any, out: Path) -> None:
    test = metrics["test"]["rmse_pm"]
    console.print(f"test RMSE against column fits: d_x {test['x']:.2f} pm, d_y {test['y']:.2f} pm → {out}")
    if not all((metrics["test"]["r2"][c] or 0.0) > 0.5 for c in "xy"):
        console.print(
            "the network explains less than half of the test part's variance: train longer, or the image shows "
            "little but noise to learn from"
        )
