"""The verb ``converge``: are the numerical settings fine enough for what is to be measured?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.table import Table

import analysis
import structures
import tiltsim
from tiltsim.cli_options import Device, DryRun, Out, console, print_lines
from tiltsim.converge import GOAL_PM, QUANTITIES, measure_sweeps
from tiltsim.converge_figures import plot_convergence
from tiltsim.converge_sweeps import SWEEPS, Run, Setup, plan_sweeps
from tiltsim.errors import SettingsError
from tiltsim.output import check_folder, complete_folder, write_json
from tiltsim.progress import progress_bars

_CELLS = 2


def converge(
    structure_file: Annotated[
        Path | None,
        typer.Argument(
            help="Extended XYZ written by `tiltsim structure`; without it, --phase is built.",
            show_default=False,
        ),
    ] = None,
    out: Out = Path("out/converge"),
    phase: Annotated[str, typer.Option(help=f"One of {', '.join(structures.PHASES)}, 2 × 2 cells.")] = "R3c",
    samarium: Annotated[float, typer.Option(help="Fraction of A sites taken by Sm, e.g. 0.07.")] = 0.0,
    sweep: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(SWEEPS)}; repeatable.", show_default="all"),
    ] = None,
    tilt: Annotated[float, typer.Option(help="Largest tilt along x, mrad.")] = 8.0,
    steps: Annotated[int, typer.Option(help="Tilts from 0 to --tilt.")] = 2,
    thicknesses: Annotated[str, typer.Option(help="Å, comma-separated, ascending.")] = "24,48",
    energy: Annotated[float, typer.Option(help="keV.")] = 200.0,
    semiangle: Annotated[float, typer.Option(help="Convergence semi-angle, mrad.")] = 30.0,
    inner: Annotated[float, typer.Option(help="Detector inner angle, mrad.")] = 65.0,
    outer: Annotated[
        float, typer.Option(help="Detector outer angle, mrad; 200 takes some ten times as long.")
    ] = 110.0,
    source: Annotated[float, typer.Option(help="Effective source, FWHM, Å.")] = 0.8,
    pairs: Annotated[
        int,
        typer.Option(
            help="Frozen-phonon pairs of the sweeps supercell and configurations; the others take one."
        ),
    ] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of Sm and of the phonons.")] = 0,
    memory: Annotated[float, typer.Option(help="Memory the engine may use, GB.")] = 4.0,
    device: Device = "auto",
    dry_run: DryRun = False,
) -> None:
    """Vary one numerical setting at a time and see how far the fitted columns still move, in pm.

    Each sweep is compared with its own finest value. Where the change has levelled off below the accuracy you need
    before the default is reached, the default will do. band_limit: largest angle kept, over detector outer + tilt.
    slices: per atomic plane. wave_vectors: width of the box against the probe's own copies. These three show every
    value the same atoms. supercell: twice the period of the disorder in the same box; configurations: the first n
    phonon pairs. There, compare the change with its expected standard error.

    Test what you will simulate: thickness matters most. An interrupted test goes on when run again with the same --out.

    Example: tiltsim converge --phase Cc --samarium 0.07 --thicknesses 50,100 --sweep slices --sweep band_limit --out out/c
    """
    start = time.perf_counter()
    check_folder(out)
    wanted = _numbers(thicknesses)
    setup = Setup(
        _specimen(structure_file, phase, samarium, max(wanted), seed),
        tiltsim.Microscope(energy, semiangle, source),
        _tilts(tilt, steps),
        wanted,
        tiltsim.Detector(inner, outer),
        tiltsim.FrozenPhonons(pairs, seed),
        tiltsim.Numerics(memory_GB=memory),
        device,
    )
    runs = plan_sweeps(setup, sweep or None)
    if dry_run:
        print_lines([_line(run) for run in runs])
        return
    with complete_folder(out) as folder, progress_bars(console) as bars:
        bars.stage("vary the settings", sum(run.units for run in runs))
        result = measure_sweeps(runs, checkpoints=out / ".work", progress=bars.advance)
        analysis.write_dataset(result, folder / "convergence.nc")
        analysis.save(plot_convergence(result), folder / "convergence")
        seconds = time.perf_counter() - start
        write_json(
            {"goal_pm": GOAL_PM, "default": _defaults(result), "seconds": seconds}, folder / "summary.json"
        )
    console.print(_table(result))
    console.print(f"convergence and figure → {out}")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(t) for t in text.split(","))
    except ValueError:
        raise SettingsError(f"--thicknesses {text!r} must be numbers in Å, such as 50,100.") from None


def _tilts(largest: float, steps: int) -> tiltsim.TiltSeries:
    if steps < 2 or not largest > 0:
        raise SettingsError(f"--tilt {largest:g} and --steps {steps} make no series; give e.g. 8 mrad and 2.")
    return tiltsim.TiltSeries(tuple(float(t) for t in np.linspace(0.0, largest, steps)))


def _specimen(
    path: Path | None, phase: str, samarium: float, thickness: float, seed: int
) -> structures.Specimen:
    if path is None:
        # The slab is rounded to whole layers: one more holds the greatest thickness in any case.
        lateral = (_CELLS, _CELLS)
        layer = structures.build(phase, samarium=samarium, lateral=lateral, thickness=1.0, seed=seed).layer
        return structures.build(
            phase, samarium=samarium, lateral=lateral, thickness=thickness + layer, seed=seed
        )
    if path.suffix.lower() == ".cif":
        raise SettingsError(
            f"{path}: a CIF has no slab yet; run `tiltsim structure {path} --a-site … --b-site …` first and give the "
            ".xyz that it writes."
        )
    return structures.read(path)


def _line(run: Run) -> str:
    plan = run.job.plan
    return (
        f"{run.sweep} {run.setting:g}{' (default)' if run.default else ''}: {run.units} units, {plan.repeats[0]} × "
        f"{plan.repeats[1]} residual wave vectors, grid {plan.gpts[0]} × {plan.gpts[1]}, band limit "
        f"{plan.band_limit:.0f} mrad, {plan.exit_planes[-1] + 1} slices"
    )


def _defaults(result: xr.Dataset) -> dict[str, Any]:
    """Setting and changes of the default of every sweep, pm."""
    found = {}
    for index in np.flatnonzero(result["default"].values):
        one = result.isel(run=index)
        changes = {
            f"{name}_pm": dict(zip(QUANTITIES, one[name].values.tolist(), strict=True))
            for name in ("rms", "largest", "expected")
        }
        found[str(one["sweep"].item())] = {"setting": float(one["setting"]), **changes}
    return found


def _table(result: xr.Dataset) -> Table:
    table = Table(
        title="change against the finest value, rms / largest over tilts, thicknesses and x, y (pm)"
    )
    for heading in ("sweep", "value", *QUANTITIES):
        table.add_column(heading, justify="left" if heading == "sweep" else "right")
    names = result["sweep"].values
    for index in range(result.sizes["run"]):
        one = result.isel(run=index)
        last = index + 1 == len(names) or names[index + 1] != names[index]
        cells = ["reference"] * len(QUANTITIES) if last else [_cell(one, q) for q in QUANTITIES]
        first = index == 0 or names[index - 1] != names[index]
        style = "bold" if one["default"] else None
        table.add_row(
            str(names[index]) if first else "", f"{float(one['setting']):g}", *cells, style=style, end_section=last
        )  # fmt: skip
    table.caption = "bold: the default; ±: standard error that phonons give the change"
    return table


def _cell(one: xr.Dataset, quantity: str) -> str:
    rms, largest, expected = (
        float(one[name].sel(quantity=quantity)) for name in ("rms", "largest", "expected")
    )
    chance = f" ± {expected:.2f}" if np.isfinite(expected) else ""
    return f"{rms:.3f} / {largest:.3f}{chance}"
