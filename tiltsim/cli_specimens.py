"""The verbs that make images: ``structure`` and ``simulate``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import analysis
import structures
import tiltsim
from tiltsim import figures
from tiltsim.cli_options import Device, Out, console
from tiltsim.config import TiltRequest
from tiltsim.errors import SettingsError
from tiltsim.multislice import abtem_device, plan
from tiltsim.output import check_folder, complete_folder, write_json
from tiltsim.progress import progress_bars
from tiltsim.simulate import image_count


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


def simulate(
    structure_file: Annotated[Path, typer.Argument(help="Extended XYZ written by `tiltsim structure`.")],
    out: Out = Path("out/simulate"),
    tilt: Annotated[float, typer.Option(help="Largest tilt, mrad.")] = 8.0,
    steps: Annotated[int, typer.Option(help="Tilts along each axis, from −tilt to +tilt.")] = 5,
    layout: Annotated[str, typer.Option(help="cross (along the axes) or grid.")] = "cross",
    thicknesses: Annotated[str, typer.Option(help="Å, comma-separated, ascending.")] = "50,100",
    energy: Annotated[float, typer.Option(help="keV.")] = 200.0,
    semiangle: Annotated[float, typer.Option(help="Convergence semi-angle, mrad.")] = 30.0,
    inner: Annotated[float, typer.Option(help="Detector inner angle, mrad.")] = 65.0,
    outer: Annotated[float, typer.Option(help="Detector outer angle, mrad.")] = 200.0,
    source: Annotated[float, typer.Option(help="Effective source, FWHM, Å.")] = 0.8,
    pairs: Annotated[int, typer.Option(help="Frozen-phonon pairs (u, −u); 0 for a still lattice.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the phonons.")] = 0,
    device: Device = "auto",
) -> None:
    """Simulate ADF-STEM images over tilts and thicknesses: images.nc, tilt_response.nc and figures.

    Time grows with the square of the outer angle and of the lateral size: at 10 nm an image of 2×2 cells takes
    some 12 s on two cores for --outer 88, ten times that for 200.

    Example: tiltsim simulate out/cc7/Cc-Sm7.xyz --tilt 8 --steps 5 --outer 88 --out out/sim
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
    tilts = TiltRequest(tilt, steps, layout).series()
    phonons = tiltsim.FrozenPhonons(pairs, seed)
    microscope, detector = tiltsim.Microscope(energy, semiangle, source), tiltsim.Detector(inner, outer)
    # Refused here rather than under a progress bar.
    abtem_device(device)
    plan(specimen, microscope, tilts, tuple(wanted), detector, tiltsim.Numerics())
    with complete_folder(out) as folder, progress_bars(console) as bars:
        bars.stage("simulate images", image_count([specimen], tilts, phonons))
        images = tiltsim.simulate(
            specimen,
            microscope,
            tilts,
            thicknesses=wanted,
            detector=detector,
            phonons=phonons,
            keep_configs=pairs > 1,
            device=device,
            progress=lambda done, _: bars.advance(done),
        )
        analysis.write_dataset(images, folder / "images.nc")
        response = analysis.tilt_response(tiltsim.pair_images(images), {specimen.name: specimen.truth})
        analysis.write_dataset(response, folder / "tilt_response.nc")
        analysis.save(figures.plot_tilt_response(response), folder / "tilt_response")
        analysis.save(figures.plot_gallery(images), folder / "gallery")
        write_json(
            {
                "images": int(np.isfinite(images.intensity.isel(x=0, y=0)).sum()),
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
    console.print(f"images, tilt response and figures → {out}")
