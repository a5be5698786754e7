"""The verb ``explain``: is it the crystal or the tilt?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tiltsim.cli_options import DatasetName, Device, Lattice, Out, PixelSize, console, print_lines
from tiltsim.explaining import ExplainOptions, explain_into
from tiltsim.progress import progress_bars


def explain(
    image: Annotated[Path, typer.Argument(help="The micrograph: whatever `tiltsim measure` reads.")],
    library: Annotated[
        Path,
        typer.Option(
            help="library.nc for the image's microscope and detector, from `tiltsim library build --lens`."
        ),
    ],
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
        library,
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
    with progress_bars(console) as bars:
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
