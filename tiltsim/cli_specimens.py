"""The verbs that make images: ``structure`` and ``simulate``."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import analysis
import structures
import tiltsim
from tiltsim import figures
from tiltsim.cli_options import Device, DryRun, Engine, Out, Scheduler, console, print_lines
from tiltsim.config import TiltRequest
from tiltsim.errors import SettingsError
from tiltsim.estimate import forecast
from tiltsim.output import check_folder, complete_folder, write_json
from tiltsim.progress import progress_bars
from tiltsim.simulate import prepare, run_jobs


def _two(text: str, name: str) -> tuple[float, float]:
    parts = text.replace("x", ",").split(",")
    try:
        values = [float(p) for p in parts]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        raise SettingsError(f"{name} {text!r} must be one or two numbers, such as 4 or 4,2.")
    return values[0], values[-1]


def _lateral(text: str) -> tuple[int, int]:
    x, y = _two(text, "--lateral")
    if not np.isfinite([x, y]).all() or x != int(x) or y != int(y):
        raise SettingsError(f"--lateral {text!r} must be whole numbers of cells, such as 2 or 2,4.")
    return int(x), int(y)


def structure(
    phase: Annotated[
        str,
        typer.Argument(
            help=f"One of {', '.join(structures.PHASES)}, or a CIF file with --a-site and --b-site."
        ),
    ],
    out: Out = Path("out/structure"),
    samarium: Annotated[float, typer.Option(help="Fraction of A sites taken by Sm, e.g. 0.07.")] = 0.0,
    lateral: Annotated[str, typer.Option(help="Cells along image x and y.")] = "2,2",
    thickness: Annotated[float, typer.Option(help="Along the beam, Å.")] = 100.0,
    variant: Annotated[
        str, typer.Option(help="Ferroelectric variant: direction of d, e.g. '[1-11]'.")
    ] = "[111]",
    beam: Annotated[str, typer.Option(help="Pseudocubic direction the beam travels.")] = "[100]",
    up: Annotated[
        str,
        typer.Option(
            help="Film normal, up in the image, across the beam; plan view: --beam '[001]' --up '[010]'."
        ),
    ] = "[001]",
    a_site: Annotated[str, typer.Option(help="Elements on A, comma-separated; needed for a CIF.")] = "",
    b_site: Annotated[str, typer.Option(help="Elements on B, comma-separated; needed for a CIF.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the Sm distribution.")] = 0,
) -> None:
    """Build a specimen and its truth: extended XYZ, CIF, truth.nc.

    "own lean" is the shear of the variant in mrad: in a film tilted by T it is seen at tilt T − lean.

    Example: tiltsim structure Cc --samarium 0.07 --thickness 200 --out out/cc7
    """
    check_folder(out)
    if phase.lower() in (known.lower() for known in structures.PHASES):
        specimen = structures.build(
            phase,
            samarium=samarium,
            lateral=_lateral(lateral),
            thickness=thickness,
            variant=variant,
            beam=beam,
            up=up,
            seed=seed,
        )
    elif Path(phase).suffix:
        specimen = structures.read(
            phase,
            a_site=[e for e in a_site.split(",") if e],
            b_site=[e for e in b_site.split(",") if e],
            lateral=_lateral(lateral),
            thickness=thickness,
            beam=beam,
            up=up,
        )
    else:
        raise structures.SpecimenError(
            f"phase {phase!r} is unknown; choose one of {', '.join(structures.PHASES)} or give a CIF file."
        )
    truth = specimen.truth
    with complete_folder(out) as folder:
        structures.write(specimen, folder / f"{specimen.name}.xyz")
        structures.write(specimen, folder / f"{specimen.name}.cif")
        analysis.write_dataset(truth, folder / "truth.nc")
        write_json(
            {
                "name": specimen.name,
                "atoms": len(specimen.atoms),
                "box_angstrom": list(specimen.box),
                "thickness_angstrom": specimen.thickness,
                "lean_mrad": list(specimen.lean_mrad),
                "d_true_pm": truth.cell_d.mean("cell").values,
                "polarization_uC_per_cm2": np.asarray(specimen.polarization),
                "specification": dict(specimen.specification),
            },
            folder / "summary.json",
        )
    d = truth.cell_d.mean("cell").values
    console.print(
        f"{specimen.name}: {len(specimen.atoms)} atoms, {specimen.thickness:.1f} Å thick, "
        f"d = ({d[0]:+.1f}, {d[1]:+.1f}) pm, own lean ({specimen.lean_mrad[0]:+.1f}, {specimen.lean_mrad[1]:+.1f}) mrad → {out}"
    )


def _detectors(inner: float, outer: float, others: list[str]) -> list[tiltsim.Detector]:
    """The main ring and further detectors written as ``[NAME=]INNER-OUTER[/SEGMENTS]``."""
    detectors = [tiltsim.Detector(inner, outer)]
    for text in others:
        found = re.fullmatch(r"(?:([^=]*)=)?([\d.]+)-([\d.]+)(?:/(\d+))?", text.strip())
        if found is None:
            raise SettingsError(
                f"--also {text!r} must be [NAME=]INNER-OUTER[/SEGMENTS] in mrad, such as BF=0-30 or DPC=10-40/4."
            )
        name, low, high, segments = found.groups()
        detectors.append(tiltsim.Detector(float(low), float(high), name or "", int(segments or 1)))
    return detectors


def _aberrations(texts: list[str]) -> dict[str, float]:
    result = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            result[name.strip()] = float(value)
        except ValueError:
            raise SettingsError(
                f"--aberration {text!r} must be NAME=VALUE in Å or rad, such as defocus=40 or C21=500."
            ) from None
    return result


def simulate(
    structure_file: Annotated[Path, typer.Argument(help="Extended XYZ written by `tiltsim structure`.")],
    out: Out = Path("out/simulate"),
    tilt: Annotated[float, typer.Option(help="Largest tilt, mrad.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Tilts along each axis, from −tilt to +tilt.")] = 7,
    layout: Annotated[
        str, typer.Option(help="grid, disc (within --tilt of the axis) or cross (along the axes).")
    ] = "grid",
    thicknesses: Annotated[str, typer.Option(help="Å, comma-separated, ascending.")] = "50,100",
    energy: Annotated[float, typer.Option(help="keV.")] = 200.0,
    semiangle: Annotated[float, typer.Option(help="Convergence semi-angle, mrad.")] = 30.0,
    inner: Annotated[float, typer.Option(help="Detector inner angle, mrad.")] = 65.0,
    outer: Annotated[float, typer.Option(help="Detector outer angle, mrad.")] = 200.0,
    also: Annotated[
        list[str] | None,
        typer.Option(
            help=r"A further detector, \[NAME=]INNER-OUTER\[/SEGMENTS]; repeatable.", show_default=False
        ),
    ] = None,
    source: Annotated[float, typer.Option(help="Effective source, FWHM, Å.")] = 0.8,
    aberration: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE, abTEM's names, Å or rad: defocus=40, C12, C21…; repeatable.", show_default=False
        ),
    ] = None,
    pairs: Annotated[int, typer.Option(help="Frozen-phonon pairs (u, −u); 0 for a still lattice.")] = 2,
    target: Annotated[
        float | None,
        typer.Option(
            help="Add pairs until every A and B position is known to this, pm.",
            show_default="exactly --pairs",
        ),
    ] = None,
    max_pairs: Annotated[int, typer.Option(help="Most pairs for --target.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of the phonons.")] = 0,
    engine: Engine = "smatrix",
    memory: Annotated[float, typer.Option(help="Memory the engine may use, GB.")] = 4.0,
    device: Device = "auto",
    scheduler: Scheduler = None,
    dry_run: DryRun = False,
) -> None:
    """Simulate ADF-STEM images over tilts and thicknesses: images.nc, tilt_response.nc and figures.

    All tilts, thicknesses and detectors come from one propagation of each phonon configuration. An interrupted
    simulation goes on where it stopped when run again with the same --out.

    Example: tiltsim simulate out/cc7/Cc-Sm7.xyz --tilt 8 --steps 5 --outer 120 --also BF=0-30 --out out/sim
    """
    start = time.perf_counter()
    check_folder(out)
    if structure_file.suffix.lower() == ".cif":
        raise SettingsError(
            f"{structure_file}: a CIF has no slab yet; run `tiltsim structure {structure_file} --a-site … --b-site …` "
            "first and simulate the .xyz that it writes."
        )
    specimen = structures.read(structure_file)
    try:
        wanted = [float(t) for t in thicknesses.split(",")]
    except ValueError:
        raise SettingsError(f"--thicknesses {thicknesses!r} must be numbers in Å, such as 50,100.") from None
    jobs = prepare(
        specimen,
        tiltsim.Microscope(energy, semiangle, source, _aberrations(aberration or [])),
        TiltRequest(tilt, steps, layout).series(),
        thicknesses=wanted,
        detector=_detectors(inner, outer, also or []),
        phonons=tiltsim.FrozenPhonons(pairs, seed, target, max_pairs),
        numerics=tiltsim.Numerics(memory_GB=memory),
        engine=engine,
        device=device,
    )
    if dry_run:
        print_lines(forecast(jobs))
        return
    with complete_folder(out) as folder, progress_bars(console) as bars:
        bars.stage("simulate images", 1)
        images = run_jobs(
            jobs, keep_configs=True, checkpoints=out / ".work", scheduler=scheduler, progress=bars.advance
        )
        analysis.write_dataset(images, folder / "images.nc")
        if "detector" in images.dims:
            images = images.isel(detector=0, drop=True)
        response = analysis.tilt_response(tiltsim.pair_images(images), {specimen.name: specimen.truth})
        analysis.write_dataset(response, folder / "tilt_response.nc")
        analysis.save(figures.plot_tilt_response(response), folder / "tilt_response")
        analysis.save(figures.plot_gallery(images), folder / "gallery")
        largest = float(analysis.largest_sem(response).max())
        write_json(
            {
                "images": int(np.isfinite(images.intensity.isel(x=0, y=0)).sum()),
                "pairs": int(images.pairs[0]),
                "largest_sem_pm": largest,
                "d_bias_per_mrad_pm": response.d_bias_per_mrad.values,
                "seconds": time.perf_counter() - start,
            },
            folder / "summary.json",
        )
    for t in response.thickness.values:
        along = response.isel(phase=0).sel(thickness=t)
        slopes = ", ".join(
            f"{c}: {float(along.d_bias_per_mrad.sel(component=c, tilt_axis=c)):+.2f} ± "
            f"{float(along.d_bias_per_mrad_sem.sel(component=c, tilt_axis=c)):.2f}"
            for c in "xy"
        )
        console.print(f"{t / 10:g} nm: apparent d moves by {slopes} pm per mrad")
    console.print(f"{int(images.pairs[0])} phonon pairs, positions known to {largest:.2f} pm or better")
    if target is not None and not largest <= target:
        console.print(f"the target of {target:g} pm was not met: raise --max-pairs")
    console.print(f"images, tilt response and figures → {out}")
