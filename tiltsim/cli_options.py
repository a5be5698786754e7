"""Options that several verbs share."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(stderr=True)


def print_lines(lines: list[str]) -> None:
    """Print ``lines`` as they are."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def flowing(app: typer.Typer) -> None:
    """Let the help of each verb flow to the width of the terminal: line breaks of a docstring's paragraphs are ours alone."""
    for command in app.registered_commands:
        text = inspect.cleandoc((command.callback and command.callback.__doc__) or "")
        command.help = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            flowing(group.typer_instance)


Out = Annotated[Path, typer.Option("--out", help="Folder for the results; made if missing.")]
Zone = Annotated[str, typer.Option(help="Projection: 100 (B amid four A), 110 (B between two A), or auto.")]
PixelSize = Annotated[
    float | None, typer.Option(help="Å per pixel; overrides the file's calibration.", show_default=False)
]
Lattice = Annotated[
    float | None,
    typer.Option(
        help="True A–A distance, Å: recalibrates the image on its own lattice (pseudocubic edge for [100]; "
        "the longer, B-carrying period for [110]).",
        show_default=False,
    ),
]
DatasetName = Annotated[
    str | None, typer.Option(help="Which signal of a file that holds several.", show_default=False)
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Engine = Annotated[
    str,
    typer.Option(help="smatrix (all tilts from one scattering matrix) or multislice (abTEM, the reference)."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="Address of a dask scheduler (`dask scheduler` prints it); default: threads of this machine.",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be computed, why, and its memory and time; stop.")
]

#: What the library calls a setting, and the option that sets it here.
_OPTIONS = {
    "a_site": "--a-site",
    "b_site": "--b-site",
    "pixel_size": "--pixel-size",
    "lattice_parameter": "--lattice-parameter",
    "radius_pm": "--radius",
    "size_angstrom": "--window",
    "source_fwhm": "--source",
    "semiangle_cutoff": "--semiangle",
    "energy_keV": "--energy",
    "detector.outer": "--outer",
    "detector.inner": "--inner",
    "phonons.pairs": "--pairs",
    "phonons.seed": "--seed",
    "phonons.target_sem_pm": "--target",
    "phonons.max_pairs": "--max-pairs",
    "numerics.memory_GB": "--memory",
    "tilt.largest": "--tilt",
    "tilt.n": "--steps",
    "tilt.layout": "--layout",
}


def in_options(message: str) -> str:
    """``message`` with settings named as the command line names them."""
    for name, option in _OPTIONS.items():
        message = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w.])", option, message)
    return message
