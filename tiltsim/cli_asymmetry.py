"""The verb ``asymmetry``: how tilt makes distributions of polarization lopsided."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import xarray as xr
from rich.table import Table

import analysis
from tiltsim.asymmetry import AsymmetryRequest, asymmetry_study
from tiltsim.asymmetry_figure import plot_asymmetry
from tiltsim.cli_library import built_library
from tiltsim.cli_options import Device, Out, console
from tiltsim.errors import SettingsError
from tiltsim.library import open_library
from tiltsim.library.request import small_library
from tiltsim.output import check_folder, complete_folder, write_json
from tiltsim.progress import progress_bars

_DEFAULT = AsymmetryRequest()


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{v:g}" for v in values)


def asymmetry(
    library: Annotated[
        Path | None,
        typer.Option(
            help="library.nc from `tiltsim library build`.",
            show_default="a small one, built first into the --out folder: 12 mrad, 12 nm, two minutes",
        ),
    ] = None,
    out: Out = Path("out/asymmetry"),
    samarium: Annotated[
        str, typer.Option(help="Sm fractions, comma-separated, ascending: R3c for 0, the Cc film for others.")
    ] = _listed(_DEFAULT.samarium),
    tilts: Annotated[str, typer.Option(help="mrad, comma-separated, ascending.")] = _listed(_DEFAULT.tilts),
    azimuth: Annotated[
        float, typer.Option(help="Direction of the tilt, degrees from +x towards +y (down).")
    ] = _DEFAULT.azimuth,
    thickness: Annotated[float, typer.Option(help="Å.")] = _DEFAULT.thickness,
    dose: Annotated[float, typer.Option(help="Electrons per Å²; inf: no noise.")] = _DEFAULT.dose_per_A2,
    size: Annotated[int, typer.Option(help="Of an image, px of 0.2 Å.")] = _DEFAULT.size,
    lean_scale: Annotated[
        float, typer.Option(help="Share of its own lean that each variant keeps, 0 to 1.")
    ] = _DEFAULT.lean_scale,
    seed: Annotated[int, typer.Option(min=0, help="Of crystal and noise, the same at all tilts.")] = 0,
    device: Device = "auto",
) -> None:
    """How does tilt make distributions of polarization lopsided, and is it the A or the B sites?

    Films of two variants with exactly opposite d, 0, 7 and 10 % Sm, painted at several tilts and measured as experimental
    images are: histograms, the offset of their mean, and the parts of A and B columns in it. Without --library, the small
    library is built into the --out folder first, so that one command does everything.

    Example: tiltsim asymmetry --library out/library/library.nc --out out/asymmetry
    """
    start = time.perf_counter()
    request = AsymmetryRequest(
        _numbers(samarium, "samarium"), _numbers(tilts, "tilts"), azimuth, thickness, dose, size, lean_scale, seed
    )  # fmt: skip
    check_folder(out)
    if library is None:
        small = small_library()
        # Before minutes are spent on it.
        request.check_reach(small.largest_tilt, small.thickness_range)
    with progress_bars(console) as bars:
        opened = (
            open_library(library) if library else built_library(small, out / "library", bars, device=device)
        )
        request.check_reach(opened.tilt_limit, opened.thickness_range)
        with complete_folder(out) as folder:
            bars.stage("paint and measure", len(request.samarium) * len(request.tilts))
            result = asymmetry_study(opened, request, progress=bars.advance)
            analysis.write_dataset(result, folder / "asymmetry.nc")
            analysis.save_figure(plot_asymmetry(result), folder / "asymmetry")
            write_json(
                {
                    "rows": _rows(result),
                    "request": json.loads(result.attrs["request"]),
                    "phases": json.loads(result.attrs["phases"]),
                    "library": opened.digest,
                    "convention": result.attrs["convention"],
                    "tiltsim_version": result.attrs["tiltsim_version"],
                    "seconds": time.perf_counter() - start,
                },
                folder / "summary.json",
            )
    console.print(_table(result))
    console.print(f"figure: {out / 'asymmetry.png'}")


def _rows(result: xr.Dataset) -> list[dict[str, Any]]:
    rows = []
    for share in result.samarium.values:
        for tilt in result.tilt.values:
            one = result.sel(samarium=share, tilt=tilt)
            row: dict[str, Any] = {
                "samarium": float(share),
                "tilt_mrad": float(tilt),
                "cells": int(one.cells.sum()),
            }
            for name in (
                "offset",
                "offset_A",
                "offset_B",
                "offset_polar",
                "offset_polar_A",
                "offset_polar_B",
            ):
                row[f"{name}_pm"] = one[name].values.tolist()
                row[f"{name}_sem_pm"] = one[f"{name}_sem"].values.tolist()
            row["magnitude_difference_pm"] = float(one.magnitude_difference)
            row["magnitude_difference_sem_pm"] = float(one.magnitude_difference_sem)
            for name in ("skewness", "skewness_about_zero"):
                row[name], row[f"{name}_sem"] = float(one[name]), float(one[f"{name}_sem"])
            row["variants"] = {
                str(v): {
                    f"{name}_pm": one[name].sel(variant=v).values.tolist()
                    for name in ("d_true", "d_apparent", "contribution_A", "contribution_B")
                }
                for v in one.variant.values
            }
            rows.append(row)
    return rows


def _table(result: xr.Dataset) -> Table:
    # Narrow enough for 80 characters; x and y are in summary.json.
    table = Table(
        title="mean of a symmetric distribution, along the polar axis, pm",
        caption="|d|: mean of the first variant less that of the second; skew: about d = 0",
    )
    for heading in ("Sm", "mrad", "offset", "A sites", "B sites", "|d| differs", "skew"):
        table.add_column(heading, justify="right")
    for share in result.samarium.values:
        for tilt in result.tilt.values:
            one = result.sel(samarium=share, tilt=tilt)
            table.add_row(
                f"{100 * share:g} %",
                f"{tilt:g}",
                *(
                    f"{float(one[n]):+.1f} ± {float(one[f'{n}_sem']):.1f}"
                    for n in ("offset_polar", "offset_polar_A", "offset_polar_B", "magnitude_difference")
                ),
                f"{float(one.skewness_about_zero):+.2f}",
            )
        table.add_section()
    return table


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in text.split(","))
    except ValueError as error:
        raise SettingsError(f"--{option} {text!r}: write numbers with commas between them.") from error
