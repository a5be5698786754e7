"""The verb ``measure``: micrographs, one or many, to columns, cells, figures and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tiltsim.cli_options import (
    DatasetName,
    Device,
    Lattice,
    Out,
    PixelSize,
    Zone,
    console,
    in_options,
    print_lines,
)
from tiltsim.measuring import MeasureOptions, measure_into
from tiltsim.measuring_folder import TABLE, measure_many
from tiltsim.progress import progress_bars


def measure(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="dm3, dm4, emd, emi/ser, hspy/HDF5, tif, npy, mrc or Sm-BFO HDF5 files, or folders of them."
        ),
    ],
    out: Out = Path("out/measure"),
    pixel_size: PixelSize = None,
    lattice_parameter: Lattice = None,
    anisotropic: Annotated[
        bool, typer.Option(help="With --lattice-parameter: scale x and y apart (scan distortion).")
    ] = False,
    zone: Zone = "auto",
    dataset: DatasetName = None,
    radius: Annotated[float, typer.Option(help="Radius of the colour wheel, pm.")] = 50.0,
    weights: Annotated[
        str, typer.Option(help="Of pixels: auto (the noise measured in the image), poisson or uniform.")
    ] = "auto",
    estimator: Annotated[
        str, typer.Option(help="Of positions: gaussian, mass (centre of mass) or template (average column).")
    ] = "gaussian",
    figures: Annotated[str, typer.Option(help="page, or all: every map, cloud and histogram.")] = "page",
    scan: Annotated[
        str, typer.Option(help="Jitter of the scan lines: off, report, correct or propagate (into errors).")
    ] = "off",
    device: Device = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Images measured at the same time.")] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Of many: also those measured before with the same options.")
    ] = False,
) -> None:
    """Fit columns and map polar displacement in micrographs: cells, columns, figures, summary.json.

    One image: results lie in --out. Several, or a folder: each lies in --out/NAME, with table.csv and summary.json
    over all of them; images finished before with the same content and options are skipped. A file that fails does
    not stop the others; the exit code is 2 if any failed.

    Examples: tiltsim measure film.dm4 --lattice-parameter 3.96 --out out/film;
    tiltsim measure session/ --lattice-parameter 3.96 --jobs 2 --out out/session
    """
    options = MeasureOptions(
        pixel_size,
        lattice_parameter,
        anisotropic,
        zone,
        dataset,
        radius,
        weights,
        estimator,
        figures,
        scan,
        device,
    )
    if len(images) == 1 and not images[0].is_dir():
        with console.status("fitting columns"):
            summary = measure_into(images[0], out, options)
        _print_one(summary, out)
        return
    with progress_bars(console) as bars:
        total = measure_many(
            images,
            out,
            options,
            jobs=jobs,
            force=force,
            reporter=bars,
            say=lambda text: print_lines([in_options(text)]),
        )
    console.print(
        f"{total['measured']} measured, {total['skipped']} skipped, {len(total['failures'])} failed"
        + (f", {total['ignored']} other files ignored" if total["ignored"] else "")
        + f" → {out / TABLE}"
    )
    if total["failures"]:
        raise typer.Exit(2)


def _print_one(summary: dict[str, Any], out: Path) -> None:
    def pair(name: str, form: str) -> str:
        return ", ".join("–" if value is None else format(value, form) for value in summary[name])

    table = Table(show_header=False, box=None)
    for label, value in (
        ("unit cells", f"{summary['cells']}"),
        ("A, B columns", f"{summary['columns_a']}, {summary['columns_b']}"),
        ("mean d (x, y)", f"{pair('d_mean_pm', '+.2f')} pm (A − B, y down)"),
        ("spread of d", f"{pair('d_std_pm', '.2f')} pm"),
        ("fit error of a cell", f"{pair('d_error_pm', '.2f')} pm"),
        ("pixel", f"{summary['pixel_size_angstrom']:.4f} Å"),
        ("results", str(out)),
    ):
        table.add_row(label, value)
    console.print(table)
    for warning in _warnings(summary):
        console.print(warning)


def _warnings(summary: dict[str, Any]) -> list[str]:
    quality, found = summary["quality"], []
    if not summary["cells"]:
        found.append(
            "no cell is free of flags: look at columns.png, and give a less noisy or better sampled image"
        )
    if (quality["residual_correlation"] or 0) > 0.4:
        found.append(
            "neighbouring pixels are correlated (filtered image, or columns that are no Gaussians): fit errors are "
            "widened for it, but compare them with the spread"
        )
    if not quality["settled"]:
        found.append("columns overlap so far that the fit has not settled: d may be some percent too small")
    if max(filter(None, quality["scatter_over_error"].values()), default=0.0) > 1.5:
        found.append(
            "columns scatter about their neighbours by more than their errors: disorder, or a scan that jitters "
            "(analysis.scan_distortion tells and takes it off)"
        )
    return found
