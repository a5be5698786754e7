"""The verb ``explain``: is it the crystal or the tilt?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import analysis
from tiltsim.cli_library import built_library
from tiltsim.cli_options import DatasetName, Device, Lattice, Out, PixelSize, console, print_lines
from tiltsim.config import load_microscope
from tiltsim.errors import SettingsError
from tiltsim.explaining import ExplainOptions, check_microscope, explain_into
from tiltsim.lens import LensBox
from tiltsim.library import LibraryRequest, open_library
from tiltsim.output import check_folder
from tiltsim.progress import progress_bars
from tiltsim.settings import Microscope


def explain(
    image: Annotated[Path, typer.Argument(help="The micrograph: whatever `tiltsim measure` reads.")],
    library: Annotated[
        Path | None,
        typer.Option(
            help="library.nc for the image's microscope and detector, from `tiltsim library build --lens`.",
            show_default="built first, of --microscope, into the --out folder: an hour and a half on two cores",
        ),
    ] = None,
    microscope: Annotated[
        Path | None,
        typer.Option(
            help="TOML or YAML file with \\[microscope] energy_keV, semiangle_cutoff and \\[detector] inner, outer (mrad), as in a study "
            "file; with --library only to check that they agree.",
            show_default=False,
        ),
    ] = None,
    out: Out = Path("out/explain"),
    pixel_size: PixelSize = None,
    lattice_parameter: Lattice = None,
    dataset: DatasetName = None,
    reference: Annotated[
        str,
        typer.Option(
            help="Region without polarization: auto (a substrate's dimmer A columns), none, or x0,y0,x1,y1 in Å."
        ),
    ] = "auto",
    variants: Annotated[
        int | None,
        typer.Option(help="Number of variants.", min=1, max=8, show_default="decided by the image"),
    ] = None,
    network: Annotated[
        str, typer.Option(help="A tilt-aware network to ask too: tilt-aware, a .safetensors file, or none.")
    ] = "none",
    samarium: Annotated[
        float, typer.Option(help="Fraction of A sites with Sm in the film.", min=0.0, max=1.0)
    ] = 0.0,
    black_level: Annotated[
        float | None,
        typer.Option(
            help="What the detector gives without electrons, in the image's unit.",
            show_default="an unknown of the fit",
        ),
    ] = None,
    radius: Annotated[float, typer.Option(help="Displacement of full colour, pm.")] = 40.0,
    what_if: Annotated[
        str,
        typer.Option(
            help='Also the map that this crystal would give otherwise, e.g. "tilt 4,-2" (mrad), "thickness 150 coma 0,0" (Å).',
            show_default=False,
        ),
    ] = "",
    device: Device = "auto",
) -> None:
    """Read mis-tilt from the image alone, correct the polarization for it, and say what cannot be known.

    Cells of every domain are averaged and fitted together with simulated images: tilt, thickness, d, defocus, astigmatism,
    coma, source. A map is corrected only where the evidence allows it; explain.html says why, or why not, and what
    measurement would settle it.

    Example: tiltsim explain film.dm4 --library out/library/library.nc --lattice-parameter 3.96 --out out/explain
    """
    options = ExplainOptions(
        library or out / "library" / "library.nc",
        pixel_size,
        lattice_parameter,
        dataset,
        reference,
        variants,
        network,
        radius,
        samarium,
        black_level,
        device,
        what_if,
    )
    if library is None and microscope is None:
        raise SettingsError(
            "explain: give --library, or --microscope for a library to be built of; `tiltsim library build --lens` builds one too."
        )
    check_folder(out)
    with progress_bars(console) as bars:
        if microscope is not None:
            wanted, detector = load_microscope(microscope)
            if library is None:
                plain = Microscope(wanted.energy_keV, wanted.semiangle_cutoff)
                request = LibraryRequest(plain, detector, lens=LensBox(), d_steps=2)
                analysis.load(
                    image, pixel_size=pixel_size, dataset=dataset
                )  # before more than an hour is spent on it
                built_library(request, out / "library", bars, device=device)
            else:
                check_microscope(open_library(library), wanted, detector, microscope.name)
        summary, found = explain_into(image, out, options, bars)
    table = Table(title="direction of the beam, and what tilt, lens and fit add to d")
    for heading in ("region", "cells", "tilt (x, y), mrad", "adds (x, y), pm"):
        table.add_column(heading)
    for one in summary["regions"]:
        tilt, bias = (
            ", ".join(f"{v:+.{digits}f} ± {e:.{digits}f}" for v, e in zip(one[name], one[error], strict=True))
            for name, error, digits in (("tilt_mrad", "tilt_std_mrad", 2), ("bias_pm", "bias_std_pm", 1))
        )
        table.add_row(one["name"], str(one["cells"]), tilt, bias if found.verdict.identified else f"({bias})")
    console.print(table)
    print_lines(list(summary["answer"]))
    for heading, lines in (
        ("why not:", found.verdict.objections), ("note:", found.verdict.remarks), ("would settle it:", found.verdict.advice),
    ):  # fmt: skip
        print_lines([f"{heading} {line}" for line in lines])
    if what_if:
        drawn = (
            f"{out / 'what_if.png'}"
            if found.verdict.identified
            else "not drawn: the image does not give the crystal's own d"
        )
        console.print(f"what if {what_if}: {drawn}")
    console.print(f"report: {out / 'explain.html'}")
