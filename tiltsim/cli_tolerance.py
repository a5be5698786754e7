"""The verb ``tolerance``: how well must I tilt, and with which detector?"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import analysis
import structures
import tiltsim
from tiltsim.cli_options import Device, Out, console, print_lines
from tiltsim.errors import SettingsError
from tiltsim.output import check_folder, complete_folder, write_json
from tiltsim.progress import progress_bars
from tiltsim.tolerance import best_detectors, plot_tolerance, tilt_tolerance


def tolerance(
    phases: Annotated[
        str,
        typer.Option(
            help=f"Comma-separated: {', '.join(structures.PHASES)}, with :FRACTION for Sm, e.g. R3c:0.07."
        ),
    ] = "R3c",
    out: Out = Path("out/tolerance"),
    target: Annotated[float, typer.Option(help="Change of apparent d that is tolerated, pm.")] = 2.0,
    thicknesses: Annotated[str, typer.Option(help="Å, comma-separated, ascending.")] = "50,100,200,400",
    detectors: Annotated[
        str, typer.Option(help="INNER-OUTER, mrad, comma-separated.")
    ] = "45-110,65-110,85-110",
    energies: Annotated[str, typer.Option(help="keV, comma-separated.")] = "200",
    semiangle: Annotated[float, typer.Option(help="Convergence semi-angle, mrad.")] = 30.0,
    tilt: Annotated[float, typer.Option(help="Largest tilt along x and y, mrad.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Tilts along each axis, odd.")] = 9,
    pairs: Annotated[int, typer.Option(help="Phonon pairs.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of phonons and Sm.")] = 0,
    device: Device = "auto",
) -> None:
    """How well must I tilt for 2 pm? A table and a figure by phase, thickness, detector and voltage.

    One propagation serves all tilts, thicknesses and detectors of a phase at one voltage; an interrupted run goes on where it stopped.

    Example: tiltsim tolerance --phases R3c,Cc:0.07 --detectors 45-110,65-110,85-110 --energies 200,300
    """
    start = time.perf_counter()
    check_folder(out)
    depths = _numbers(thicknesses, "thicknesses")
    rings = []
    for text in detectors.split(","):
        found = re.fullmatch(r"\s*([\d.]+)-([\d.]+)\s*", text)
        if found is None:
            raise SettingsError(
                f"--detectors {text!r}: write rings as INNER-OUTER in mrad, e.g. 65-110,85-110."
            )
        rings.append(tiltsim.Detector(float(found[1]), float(found[2])))
    specimens = []
    for text in phases.split(","):
        name, _, fraction = text.strip().partition(":")
        share = _numbers(fraction, "phases")[0] if fraction else 0.0
        specimens.append(structures.build(name, samarium=share, thickness=max(depths), seed=seed))
    with complete_folder(out) as folder, progress_bars(console) as bars:
        bars.stage("simulate", 1)
        result = tilt_tolerance(
            specimens, rings, energies=_numbers(energies, "energies"), semiangle=semiangle, thicknesses=depths,
            target_pm=target, largest_tilt=tilt, tilts=steps, pairs=pairs, seed=seed, checkpoints=out / ".work",
            device=device, progress=bars.advance,
        )  # fmt: skip
        said = best_detectors(result)
        analysis.write_dataset(result, folder / "tolerance.nc")
        analysis.save(plot_tolerance(result), folder / "tolerance")
        rows = [
            {
                "energy_keV": float(e), "detector": str(d), "phase": str(p), "thickness_angstrom": float(t),
                "tolerance_mrad": float(one.tolerance), "tolerance_sem": float(one.tolerance_sem), "reached": bool(one.reached),
                "slope_pm_per_mrad": float(one.slope), "slope_sem": float(one.slope_sem),
            }
            for e in result.energy.values for d in result.detector.values for p in result.phase.values
            for t in result.thickness.values
            for one in [result.sel(energy=e, detector=d, phase=p, thickness=t)]
        ]  # fmt: skip
        write_json(
            {"target_pm": target, "rows": rows, "detectors": said, "seconds": time.perf_counter() - start},
            folder / "summary.json",
        )
    table = Table(title=f"tilt that changes apparent d by {target:g} pm, mrad (slope, pm per mrad)")
    for heading in ("kV", "phase", "detector, mrad", *(f"{t / 10:g} nm" for t in depths)):
        table.add_column(heading)
    for energy in result.energy.values:
        for phase in result.phase.values:
            for detector in result.detector.values:
                one = result.sel(energy=energy, phase=phase, detector=detector)
                table.add_row(
                    f"{energy:g}", str(phase), str(detector).removesuffix(" mrad"),
                    *(
                        f"{'' if r else '> '}{v:.1f} ({s:.2f} ± {e:.2f})"
                        for v, r, s, e in zip(one.tolerance.values, one.reached.values, one.slope.values, one.slope_sem.values, strict=True)
                    ),
                )  # fmt: skip
    console.print(table)
    print_lines(said)
    console.print(f"figure: {out / 'tolerance.png'}")


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(v) for v in text.split(",")]
    except ValueError as error:
        raise SettingsError(f"--{option} {text!r}: write numbers with commas between them.") from error
