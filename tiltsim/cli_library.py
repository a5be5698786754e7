"""The verb ``library``: build, look at and check the response of cells under one microscope."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

import analysis
import tiltsim
from tiltsim.cli_options import Device, DryRun, Out, Scheduler, console, print_lines
from tiltsim.errors import SettingsError
from tiltsim.estimate import forecast
from tiltsim.lens import LensBox
from tiltsim.library import Library, LibraryRequest, build_library, check_library, open_library
from tiltsim.library.building import library_jobs
from tiltsim.library.figures import plot_check, plot_library
from tiltsim.library.request import small_library
from tiltsim.output import check_folder, complete_folder, write_json
from tiltsim.progress import Reporter, progress_bars

library = typer.Typer(
    help="Response library: the image of a cell over displacement, Sm, tilt and thickness, for one microscope.\n\n"
    "Synthetic micrographs (`tiltsim synth`) are painted with it. Five structures are simulated; the symmetry of the "
    "square projection gives all others.",
    no_args_is_help=True,
)

LibraryFile = Annotated[Path, typer.Argument(help="library.nc written by `tiltsim library build`.")]


@library.command()
def build(
    out: Out = Path("out/library"),
    energy: Annotated[float, typer.Option(help="keV.")] = 200.0,
    semiangle: Annotated[float, typer.Option(help="Convergence semi-angle, mrad.")] = 30.0,
    inner: Annotated[float, typer.Option(help="Detector inner angle, mrad.")] = 65.0,
    outer: Annotated[float, typer.Option(help="Detector outer angle, mrad.")] = 110.0,
    tilt: Annotated[
        float, typer.Option(help="Largest tilt of the beam inside a crystal along x and y, mrad.")
    ] = 16.0,
    steps: Annotated[int, typer.Option(help="Tilts along each axis, odd.")] = 9,
    thickest: Annotated[float, typer.Option(help="Å.")] = 400.0,
    pairs: Annotated[int, typer.Option(help="Phonon pairs a structure, 16 draws each.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the phonons.")] = 0,
    small: Annotated[
        bool, typer.Option("--small", help="12 mrad, 12 nm, 2 pairs: two minutes instead of twenty.")
    ] = False,
    lens: Annotated[
        bool,
        typer.Option(
            "--lens",
            help="Residual aberrations too, and finer steps of d, as `explain` needs: an hour and a half on two cores.",
        ),
    ] = False,
    device: Device = "auto",
    scheduler: Scheduler = None,
    dry_run: DryRun = False,
) -> None:
    """Simulate the cells that all others follow from: library.nc.

    An interrupted build goes on where it stopped when run again with the same --out.

    Example: tiltsim library build --outer 120 --out out/library
    """
    check_folder(out)
    microscope, ring = tiltsim.Microscope(energy, semiangle), tiltsim.Detector(inner, outer)
    request = (
        small_library(microscope, ring, seed)
        if small
        else LibraryRequest(
            microscope, ring, largest_tilt=tilt, tilts=steps, thickest=thickest,
            phonons=tiltsim.FrozenPhonons(pairs=pairs, seed=seed, redraw=True),
        )
    )  # fmt: skip
    if lens:
        request = replace(request, lens=LensBox(), d_steps=2)
    if dry_run:
        print_lines(forecast(library_jobs(request, device)))
        return
    with progress_bars(console) as bars:
        build_into(request, out, bars, device=device, scheduler=scheduler)
    _print_facts(open_library(out / "library.nc"))
    console.print(f"library → {out / 'library.nc'}")


def build_into(
    request: LibraryRequest, out: Path, bars: Reporter, *, device: str = "auto", scheduler: str | None = None
) -> None:
    """Build a library into ``out``: library.nc, its figure, summary.json; units of work are kept in ``out/.work``."""
    start = time.perf_counter()
    with complete_folder(out) as folder:
        bars.stage("simulate cells", 1)
        dataset = build_library(
            request, work=out / ".work", device=device, scheduler=scheduler, progress=bars.advance
        )
        analysis.write_dataset(dataset, folder / "library.nc")
        built = open_library(folder / "library.nc")
        analysis.save(plot_library(built), folder / "library")
        write_json(
            {
                **_facts(built),
                "bytes": (folder / "library.nc").stat().st_size,
                "seconds": time.perf_counter() - start,
            },
            folder / "summary.json",
        )


def built_library(request: LibraryRequest, folder: Path, bars: Reporter, *, device: str = "auto") -> Library:
    """The library in ``folder``; built unless an earlier run left it there."""
    file = folder / "library.nc"
    if file.is_file():
        found = open_library(file)
        if found.request.digest == request.digest:
            return found
    build_into(request, folder, bars, device=device)
    return open_library(file)


@library.command()
def info(file: LibraryFile) -> None:
    """Say what a library holds and how it was made.

    Example: tiltsim library info out/library/library.nc
    """
    _print_facts(open_library(file))


@library.command()
def check(
    file: LibraryFile,
    out: Out = Path("out/library-check"),
    thickest: Annotated[
        float | None, typer.Option(help="Largest thickness to check, Å.", show_default="the library's")
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option(
            help="Phonon pairs; fewer than the library's leave noise.", show_default="the library's"
        ),
    ] = None,
) -> None:
    """Simulate points that the library was not built from and compare: check.nc, a figure and a table.

    Tilts, thicknesses, displacements and compositions between the nodes, with the same phonons (interpolation alone) and
    with others (phonon noise of both too).

    Example: tiltsim library check out/library/library.nc --out out/check
    """
    start = time.perf_counter()
    opened = open_library(file)
    if pairs is not None and pairs < 1:
        raise SettingsError(f"--pairs {pairs} must be at least 1.")
    check_folder(out)
    with complete_folder(out) as folder, progress_bars(console) as bars:
        bars.stage("simulate held-out points", 1)
        result = check_library(
            opened, work=out / ".work", thickest=thickest, pairs=pairs, progress=bars.advance
        )
        analysis.write_dataset(result, folder / "check.nc")
        analysis.save(plot_check(result), folder / "check")
        over = ("tilt_x", "tilt_y", "cells")
        rows = {
            str(label): {
                "nrmse": float(np.sqrt((one.nrmse**2).mean())),
                **{
                    f"{site.lower()}_rms_pm": float(np.sqrt((one.position_error.sel(site=site) ** 2).mean()))
                    for site in "AB"
                },
                **{
                    f"{site.lower()}_largest_pm": float(
                        np.abs(one.position_error.sel(site=site)).max(over).max()
                    )
                    for site in "AB"
                },
            }
            for label in result.check.values
            for one in [result.sel(check=label)]
        }
        write_json({"checks": rows, "seconds": time.perf_counter() - start}, folder / "summary.json")
    table = Table(title="the library against simulations that it was not built from")
    for heading in ("between nodes in", "image, %", "A, pm rms (largest)", "B, pm rms (largest)"):
        table.add_column(heading)
    for label, row in rows.items():
        table.add_row(
            label,
            f"{100 * row['nrmse']:.2f}",
            *(f"{row[f'{s}_rms_pm']:.2f} ({row[f'{s}_largest_pm']:.2f})" for s in "ab"),
        )
    console.print(table)


def _facts(opened: Library) -> dict[str, object]:
    request = opened.request
    low, high = opened.thickness_range
    return {
        "digest": opened.digest,
        "energy_keV": request.microscope.energy_keV,
        "semiangle_mrad": request.microscope.semiangle_cutoff,
        "detector_mrad": [request.detector.inner, request.detector.outer],
        "tilt_mrad": opened.tilt_limit,
        "tilts": request.tilts,
        "thickness_angstrom": [low, high],
        "thicknesses": len(request.cells),
        "d_limit_pm": opened.d_limit,
        "pairs": request.phonons.pairs,
        "modes": opened.dataset.sizes["mode"],
        "noise": float(np.sqrt((opened.dataset.noise**2).mean())),
        "materials": list(opened.materials),
    }


def _print_facts(opened: Library) -> None:
    f = _facts(opened)
    low, high = opened.thickness_range
    print_lines(
        [
            f"library {f['digest']}: {', '.join(opened.materials)}, Sm in BiFeO3",
            f"  {f['energy_keV']:g} keV, {f['semiangle_mrad']:g} mrad, detector "
            f"{opened.request.detector.inner:g}-{opened.request.detector.outer:g} mrad",
            f"  tilt to ±{opened.tilt_limit:g} mrad along x and y ({f['tilts']} × {f['tilts']}), "
            f"{low / 10:.1f} to {high / 10:.1f} nm ({f['thicknesses']}), |d| to {opened.d_limit:g} pm along x and y",
            f"  {f['pairs']} phonon pairs, {f['modes']} modes; noise {100 * float(f['noise']):.2g} % of the image before "  # type: ignore[arg-type]
            "symmetry is used",
        ]
    )
