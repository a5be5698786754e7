"""The verb ``evaluate``: how far a model can be trusted, condition by condition."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import xarray as xr
from rich.table import Table

import dcnn
from tiltsim.cli_options import Device, Out, console
from tiltsim.errors import SettingsError
from tiltsim.evaluation import SUITES
from tiltsim.evaluation import evaluate as run
from tiltsim.evaluation.suites import FIELDS, SIZE
from tiltsim.progress import progress_bars


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="fit; a .safetensors, .onnx or .pt2 file; module.py:function or package.module:function. "
            "label=MODEL names it in the card.",
        ),
    ],
    suite: Annotated[str, typer.Option(help=f"One of {', '.join(SUITES)}.")] = "tilt",
    library: Annotated[
        Path | None,
        typer.Option(help="Response library, made by `tiltsim library build`.", show_default=False),
    ] = None,
    out: Out = Path("out/evaluate"),
    fields: Annotated[
        int | None,
        typer.Option(help=f"Held-out fields a condition.  [default: {FIELDS}]", show_default=False),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help=f"Rows and columns of a field, px of 0.2 Å.  [default: {SIZE}]", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the fields; counts from 900000, where no training draws.")
    ] = 0,
    workers: Annotated[int, typer.Option(help="Fields made at the same time.")] = 1,
    fit: Annotated[bool, typer.Option(help="Compare with column fitting too.")] = True,
    window: Annotated[float, typer.Option(help="Width of the patches for other people's networks, Å.")] = 6.0,
    window_pixels: Annotated[int, typer.Option(help="Samples across such a patch.")] = 24,
    quick: Annotated[
        bool, typer.Option("--quick", help="3 fields of 192 px under few conditions, to try things out.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Hold models against the truth of held-out synthetic fields: card.html, curves, evaluation.nc, summary.json.

    Error, bias, and whether 90 % intervals hold, at every tilt and dose (--suite tilt), or along thickness, dose, blur,
    coma, scan or composition; "all" runs them one after the other. Several models are compared in one card.

    A model that is not tiltsim's gets patches (n, p, p), float32, zero mean, unit standard deviation, centred on B columns,
    and returns d = mean of surrounding A columns − B column as (n, 2) in pm, x right, y down; or (n, 4) with half widths
    of 90 % intervals. .safetensors and .onnx files are data; .pt2 files and Python modules are run, so trust their author.

    An interrupted evaluation goes on when run again with the same --out.

    Example: tiltsim evaluate out/net/model.safetensors mine.py:network --suite tilt --library library.nc --out out/card
    """
    if library is None:
        raise SettingsError("--library is missing; make one with `tiltsim library build` and give its file.")
    windows = dcnn.Windows(size_angstrom=window, pixels=window_pixels)
    with progress_bars(console) as bars:
        result = run(
            models,
            suite,
            library,
            out=out,
            fields=fields if fields is not None else 3 if quick else FIELDS,
            size=size if size is not None else 192 if quick else SIZE,
            seed=seed,
            workers=workers,
            windows=windows,
            fit=fit,
            quick=quick,
            device=device,
            reporter=bars,
        )
    _print(result)
    console.print(f"card: {out / 'card.html'}")


def _print(result: xr.Dataset) -> None:
    table = Table(title="error of d against held-out truth")
    for heading in ("condition", "estimator", "RMSE (pm)", "|bias| (pm)", "coverage"):
        table.add_column(heading)
    for c in range(result.sizes["condition"]):
        for e, name in enumerate(result.estimator.values):
            one = result.isel(condition=c, estimator=e)
            words = (one.axis.item(), f"{float(one.value):g}", one.unit.item(), one.panel.item())
            coverage = float(one.d_coverage)
            table.add_row(
                " ".join(w for w in words if w) if e == 0 else "",
                str(name),
                f"{float(one.d_rmse):.1f}",
                f"{float(one.d_bias_abs):.1f}",
                f"{coverage:.0%}" if np.isfinite(coverage) else "–",
            )
    console.print(table)
