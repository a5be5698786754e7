"""The verb ``synth``: synthetic micrographs with ground truth, by the thousand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tiltsim.cli_options import Out, Scheduler, console, print_lines
from tiltsim.errors import SettingsError
from tiltsim.library import open_library
from tiltsim.progress import Bars
from tiltsim.synth.forecast import forecast_set
from tiltsim.synth.recipe import RECIPES, load_recipe, recipe_text
from tiltsim.synth.shards import check_reach, check_request, write_set


class _Speed(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        """What is shown of ``task``."""
        return Text(f"{task.speed:.2f}/s" if task.speed else "")


def synth(
    recipe: Annotated[
        str, typer.Option(help=f"A TOML or YAML file, or one of {', '.join(RECIPES)}.")
    ] = "synth-quick",
    library: Annotated[
        Path | None,
        typer.Option(help="Response library, made by `tiltsim library build`.", show_default=False),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Fields of the set.")] = 100,
    out: Out = Path("out/synth"),
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(help="Fields made at the same time.", show_default="as many as there are cores"),
    ] = None,
    format: Annotated[
        str, typer.Option(help="zarr (sharded), or netcdf: one file, for sets of up to 2 GB.")
    ] = "zarr",
    scheduler: Scheduler = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print sizes, parts and the time expected from a trial of a few fields; stop."
        ),
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print a recipe that comes with tiltsim, to copy and change; stop.")
    ] = False,
) -> None:
    """Synthesize micrographs with the truth of every cell: fields.zarr, preview.png, summary.json.

    `tiltsim synth --show > mine.toml` gives a commented recipe: specimens, domains, tilts, thicknesses and microscope
    faults, each a number or a range to draw it from. Each field as a whole is for training, validation or test.

    An interrupted set goes on where it stopped when run again with the same --out, and a finished one grows with a
    larger --n. The same recipe, library and --seed give the same bytes, whatever the number of workers.

    In Python: `tiltsim.synth.read_set(out)`, or `tiltsim.synth.FieldDataset(out, "train")` for PyTorch.

    Example: tiltsim synth --recipe synth-films --library library.nc --n 10000 --out out/films
    """
    if show:
        typer.echo(recipe_text(recipe), nl=False)
        return
    request = load_recipe(recipe)
    check_request(n, seed, 1 if workers is None else workers, format, None, out)
    if library is None:
        raise SettingsError("--library is missing; make one with `tiltsim library build` and give its file.")
    response = open_library(library)
    check_reach(request, response)
    if dry_run:
        print_lines(forecast_set(request, response, n, seed=seed, workers=workers))
        return
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=60.0) as bars:
        summary = write_set(
            request,
            response,
            out,
            n,
            seed=seed,
            workers=workers,
            scheduler=scheduler,
            format=format,
            reporter=Bars(bars),
        )
    made = f"{summary['made']} made now" if summary["made"] else "all there already"
    if summary["made"]:
        made += f", {summary['fields_per_second']:.2f} a second"
    print_lines(
        [
            f"{summary['fields']} fields ({made}): "
            + ", ".join(f"{count} {part}" for part, count in summary["split"].items()),
            f"{summary['bytes'] / 1e6:.3g} MB → {out / summary['store']}",
        ]
    )
