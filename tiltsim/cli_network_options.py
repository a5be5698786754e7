"""Options that the studies of networks share, and how each leaves its dataset, figure and summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import xarray as xr
from matplotlib.figure import Figure

import analysis
import dcnn
from tiltsim.cli_options import console
from tiltsim.errors import SettingsError
from tiltsim.library import Library, open_library
from tiltsim.network_studies import NetworkStudy, Windowed, fresh_model, tilted_fields, windows_of
from tiltsim.output import check_folder, complete_folder, write_json
from tiltsim.pretrained import model_path
from tiltsim.progress import Bars, progress_bars
from tiltsim.seeds import UNSEEN_FIELD

LibraryFile = Annotated[
    Path | None,
    typer.Option("--library", help="Response library, made by `tiltsim library build`.", show_default=False),
]
Labels = Annotated[
    str, typer.Option(help="What networks learn: fit (column fits of the image, as published) or truth.")
]
Dose = Annotated[float, typer.Option(help="Incident electrons per Å².")]
Thickness = Annotated[float, typer.Option(help="Å.")]
Tilt = Annotated[float, typer.Option(min=0, help="Mis-tilt of all fields, mrad.")]
Azimuth = Annotated[float, typer.Option(help="Direction of it, degrees from x (right) towards y (down).")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training windows, at most.")]
Fields = Annotated[int, typer.Option(min=1, help="Fields each network learns from.")]
Network = Annotated[str, typer.Option(help="baseline (small CNN) or residual.")]
Seed = Annotated[int, typer.Option(min=0, help="Of specimens, noise and weights.")]
Quick = Annotated[bool, typer.Option("--quick", help="Small fields, short training: does it all work?")]
Component = Annotated[str, typer.Option(help="Component of d in the maps: x or y.")]
ModelFile = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A trained model to look into (baseline or residual); default: one is trained.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Made:
    """What a verb leaves: its name, dataset, summary, figure and a line to print."""

    name: str
    result: xr.Dataset
    summary: dict[str, Any]
    draw: Callable[[], Figure]
    line: str


def _ready(library: Path | None, out: Path) -> Library:
    if library is None:
        raise SettingsError("--library is missing; make one with `tiltsim library build` and give its file.")
    check_folder(out)
    return open_library(library)


def _leave(study: NetworkStudy, made: Made, folder: Path, begin: float) -> None:
    analysis.write_dataset(made.result, folder / f"{made.name}.nc")
    analysis.save_figure(made.draw(), folder / made.name)
    write_json(
        {**made.summary, "study": asdict(study), "seconds": time.perf_counter() - begin},
        folder / "summary.json",
    )


def one_component(name: str) -> str:
    """Refuse a component that d does not have, before any work."""
    if name not in ("x", "y"):
        raise SettingsError(f"--component {name!r} is unknown; choose x or y.")
    return name


def run(
    study: NetworkStudy,
    library: Path | None,
    out: Path,
    quick: bool,
    work: Callable[[NetworkStudy, Library, Bars], Made],
) -> None:
    """Do the work of a verb under progress bars, and leave what it made in ``out``."""
    begin = time.perf_counter()
    response = _ready(library, out)
    settled = study.quick if quick else study
    with complete_folder(out) as folder, progress_bars(console) as bars:
        made = work(settled, response, bars)
        _leave(settled, made, folder, begin)
    console.print(f"{made.line} → {out}")


def looked_into(
    study: NetworkStudy, library: Library, model: str | None, quick: bool, bars: Bars
) -> tuple[dcnn.Model, Windowed]:
    """The model, trained or read, and windows of fields that it has not seen."""
    count = min(study.fields, 10) if quick else study.fields
    seen = fresh_model(study, library, count, bars) if model is None else dcnn.load(model_path(model))
    fields = tilted_fields(study, library, 4 if quick else 24, first=UNSEEN_FIELD, reporter=bars)
    return seen, windows_of(seen, fields)
