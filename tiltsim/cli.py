"""The command ``tiltsim``: one verb a step, each with ``--out`` and a ``summary.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import analysis
import dcnn
import structures
from tiltsim.cli_asymmetry import asymmetry
from tiltsim.cli_converge import converge
from tiltsim.cli_evaluate import evaluate
from tiltsim.cli_explain import explain
from tiltsim.cli_library import library
from tiltsim.cli_measure import measure
from tiltsim.cli_networks import networks
from tiltsim.cli_options import Device, DryRun, Out, Scheduler, console, flowing, in_options, print_lines
from tiltsim.cli_predict import predict
from tiltsim.cli_specimens import simulate, structure
from tiltsim.cli_synth import synth
from tiltsim.cli_tolerance import tolerance
from tiltsim.cli_train import train
from tiltsim.cli_transfer import transfer
from tiltsim.config import PRESETS, load_study, preset_text
from tiltsim.errors import SettingsError
from tiltsim.estimate import forecast
from tiltsim.output import check_folder
from tiltsim.progress import progress_bars
from tiltsim.report import write_report
from tiltsim.study import prepare_study, run_study

USER_ERRORS = (SettingsError, structures.SpecimenError, analysis.ImageError, dcnn.ModelError)

app = typer.Typer(
    help="How much of the polarization in a HAADF-STEM image is the crystal, and how much is specimen mis-tilt?\n\n"
    "Lengths are Å (shifts pm), angles mrad, tilt is the direction of the beam inside the crystal, "
    "x points right, y down, d = mean of surrounding A columns − B column.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)
for verb in (
    structure,
    simulate,
    converge,
    measure,
    synth,
    train,
    predict,
    evaluate,
    transfer,
    explain,
    tolerance,
    asymmetry,
):
    app.command()(verb)
app.add_typer(library, name="library")
app.add_typer(networks, name="networks")


@app.command()
def study(
    source: Annotated[
        str, typer.Argument(help=f"A TOML or YAML file, or a preset: {', '.join(PRESETS)}.")
    ] = "quick",
    out: Out = Path("out/study"),
    device: Device = "auto",
    scheduler: Scheduler = None,
    dry_run: DryRun = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print a preset's file, to copy and change, and stop.")
    ] = False,
) -> None:
    """Run the whole chain from one small file: structures, images, columns, networks, datasets, report.html.

    `tiltsim study quick --show > mine.toml` gives a commented file with every section; leave out what you do not
    change. An interrupted study goes on where it stopped when run again with the same --out.

    Example: tiltsim study quick --out out/study
    """
    if show:
        typer.echo(preset_text(source), nl=False)
        return
    request = load_study(source)
    check_folder(out)
    if dry_run:
        print_lines(forecast(prepare_study(request, device)))
        return
    with progress_bars(console) as bars:
        summary = run_study(request, out, device=device, scheduler=scheduler, reporter=bars)
    table = Table(title="apparent polarization per mrad of tilt (pm per mrad, A − B)")
    for heading in ("phase", "thickness", "along x", "along y"):
        table.add_column(heading)
    rows = summary["tilt_response"]
    for along_x, along_y in zip(rows[::2], rows[1::2], strict=True):
        table.add_row(
            along_x["phase"],
            f"{along_x['thickness_angstrom'] / 10:g} nm",
            *(f"{r['bias_pm_per_mrad']:+.2f} ± {r['bias_sem']:.2f}" for r in (along_x, along_y)),
        )
    console.print(table)
    console.print(f"report: {out / 'report.html'}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished study.")] = Path("out/study"),
) -> None:
    """Write report.html anew from a study's summary and figures."""
    path = folder / "summary.json"
    if not path.is_file():
        raise SettingsError(f"{folder}: holds no summary.json; run `tiltsim study --out {folder}` first.")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SettingsError(f"{path}: not valid JSON; run the study again.") from error
    write_report(summary, folder)
    console.print(f"report: {folder / 'report.html'}")


flowing(app)


def main() -> None:
    """Entry point: a user's error is one sentence and exit code 2."""
    try:
        app()
    except USER_ERRORS as error:
        # A study's settings are named by its file, everything else by an option.
        text = str(error) if "study" in sys.argv[1:2] else in_options(str(error))
        console.print(f"tiltsim: {text}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
