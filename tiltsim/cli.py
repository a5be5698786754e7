"""The command ``tiltsim``: one verb a step, each with ``--out`` and a ``summary.json``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import xarray as xr
from rich.console import Console
from rich.table import Table

import analysis
import dcnn
import structures
import tiltsim
from tiltsim.config import PRESETS, load_study
from tiltsim.errors import SettingsError
from tiltsim.output import complete_folder, write_json
from tiltsim.progress import progress_bars
from tiltsim.report import write_report
from tiltsim.simulate import image_count
from tiltsim.study import run_study

USER_ERRORS = (SettingsError, structures.SpecimenError, analysis.ImageError, dcnn.ModelError)

app = typer.Typer(
    help="How much of the polarization in a HAADF-STEM image is the crystal, and how much is specimen mis-tilt?\n\n"
    "Lengths are Å (shifts pm), angles mrad, tilt is the direction of the beam inside the crystal, "
    "x points right, y down, d = mean of surrounding A columns − B column.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)
console = Console(stderr=True)

Out = Annotated[Path, typer.Option("--out", help="Folder for the results; made if missing.")]
Zone = Annotated[str, typer.Option(help="Projection: 100 (B amid four A), 110 (B between two A), or auto.")]
PixelSize = Annotated[
    float | None, typer.Option(help="Å per pixel; overrides the file's calibration.", show_default=False)
]
Lattice = Annotated[
    float | None,
    typer.Option(
        help="True A–A distance, Å: recalibrates the image on its own lattice (pseudocubic edge for [100]; "
        "the longer, B-carrying period for [110]).",
        show_default=False,
    ),
]
DatasetName = Annotated[
    str | None, typer.Option(help="Which signal of a file that holds several.", show_default=False)
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


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
    if x != int(x) or y != int(y):
        raise SettingsError(f"--lateral {text!r} must be whole numbers of cells, such as 2 or 2,4.")
    return int(x), int(y)


@app.command()
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
    up: Annotated[str, typer.Option(help="Film normal, up in the image.")] = "[001]",
    a_site: Annotated[str, typer.Option(help="Elements on A of a CIF, comma-separated.")] = "",
    b_site: Annotated[str, typer.Option(help="Elements on B of a CIF, comma-separated.")] = "",
    seed: Annotated[int, typer.Option(help="Of the Sm distribution.")] = 0,
) -> None:
    """Build a specimen and its truth: extended XYZ, CIF, truth.nc.

    Example: tiltsim structure Cc --samarium 0.07 --thickness 200 --out out/cc7
    """
    if phase in structures.PHASES:
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


@app.command()
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
    seed: Annotated[int, typer.Option(help="Of the phonons.")] = 0,
    device: Device = "auto",
) -> None:
    """Simulate ADF-STEM images over tilts and thicknesses: images.nc and tilt_response.nc.

    Example: tiltsim simulate out/cc7/Cc-Sm7.xyz --tilt 8 --steps 5 --outer 80 --out out/sim
    """
    from tiltsim.config import TiltRequest

    start = time.perf_counter()
    specimen = structures.read(structure_file)
    try:
        wanted = [float(t) for t in thicknesses.split(",")]
    except ValueError:
        raise SettingsError(f"--thicknesses {thicknesses!r} must be numbers in Å, such as 50,100.") from None
    tilts = TiltRequest(tilt, steps, layout).series()
    phonons = tiltsim.FrozenPhonons(pairs, seed)
    with complete_folder(out) as folder, progress_bars(console) as bars:
        bars.stage("simulate images", image_count([specimen], tilts, phonons))
        images = tiltsim.simulate(
            specimen,
            tiltsim.Microscope(energy, semiangle, source),
            tilts,
            thicknesses=wanted,
            detector=tiltsim.Detector(inner, outer),
            phonons=phonons,
            keep_configs=pairs > 1,
            device=device,
            progress=lambda done, _: bars.advance(done),
        )
        analysis.write_dataset(images, folder / "images.nc")
        response = analysis.tilt_response(tiltsim.pair_images(images), {specimen.name: specimen.truth})
        analysis.write_dataset(response, folder / "tilt_response.nc")
        write_json(
            {
                "images": int(np.isfinite(images.intensity.isel(x=0, y=0)).sum()),
                "d_bias_per_mrad_pm": response.d_bias_per_mrad.values,
                "seconds": time.perf_counter() - start,
            },
            folder / "summary.json",
        )
    console.print(f"images and tilt response → {out}")


def _load(image: Path, pixel_size: float | None, dataset: str | None) -> xr.DataArray:
    return analysis.load(image, pixel_size=pixel_size, dataset=dataset)


@app.command()
def measure(
    image: Annotated[
        Path, typer.Argument(help="dm3, dm4, emd, emi/ser, hspy/HDF5, tif, npy, mrc or Sm-BFO HDF5 file.")
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
) -> None:
    """Fit columns and map polar displacement in a micrograph: cells, columns, figures, summary.json.

    Example: tiltsim measure film.dm4 --lattice-parameter 3.96 --out out/film
    """
    start = time.perf_counter()
    picture = _load(image, pixel_size, dataset)
    with console.status("fitting columns"):
        m = analysis.measure(picture, zone=zone, lattice_parameter=lattice_parameter, anisotropic=anisotropic)
    shown = m.image
    with complete_folder(out) as folder:
        analysis.write_dataset(m.columns, folder / "columns.nc")
        analysis.write_dataset(m.unit_cells, folder / "unit_cells.nc")
        analysis.save(analysis.plot_polarization(shown, m, radius_pm=radius), folder / "polarization")
        analysis.save(analysis.plot_columns(shown, m), folder / "columns")
        summary = {"image": image.name, **analysis.summary(m), "seconds": time.perf_counter() - start}
        write_json(summary, folder / "summary.json")
    table = Table(show_header=False, box=None)
    for label, value in (
        ("unit cells", f"{summary['cells']}"),
        ("A, B columns", f"{summary['columns_a']}, {summary['columns_b']}"),
        (
            "mean d (x, y)",
            f"{summary['d_mean_pm'][0]:+.2f}, {summary['d_mean_pm'][1]:+.2f} pm (A − B, y down)",
        ),
        ("spread of d", f"{summary['d_std_pm'][0]:.2f}, {summary['d_std_pm'][1]:.2f} pm"),
        ("pixel", f"{summary['pixel_size_angstrom']:.4f} Å"),
        ("results", str(out)),
    ):
        table.add_row(label, value)
    console.print(table)


@app.command()
def train(
    image: Annotated[Path, typer.Argument(help="A measured image; its own fitted cells are the labels.")],
    out: Out = Path("out/train"),
    mode: Annotated[
        str, typer.Option(help="centred (on B columns) or sliding (no atoms needed).")
    ] = "centred",
    window: Annotated[float, typer.Option(help="Side of a sub-image, Å.")] = 6.0,
    epochs: Annotated[int, typer.Option(help="Passes over the training part.")] = 60,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    pixel_size: PixelSize = None,
    lattice_parameter: Lattice = None,
    zone: Zone = "auto",
    dataset: DatasetName = None,
    device: Device = "auto",
) -> None:
    """Train a network on the left 2/3 of an image and test it on the right 1/3.

    Example: tiltsim train film.dm4 --lattice-parameter 3.96 --mode sliding --out out/net
    """
    start = time.perf_counter()
    settings = dcnn.TrainSettings(
        windows=dcnn.Windows(mode=mode, size_angstrom=window),  # type: ignore[arg-type]  # checked by Windows
        epochs=epochs,
        seed=seed,
        device=device,
    )
    with console.status("fitting columns for the labels"):
        m = analysis.measure(
            _load(image, pixel_size, dataset), zone=zone, lattice_parameter=lattice_parameter
        )
    picture = m.image
    with complete_folder(out) as folder, progress_bars(console) as bars:
        bars.stage("train", epochs)
        model = dcnn.train(picture, m.unit_cells, settings, progress=lambda epoch, *_: bars.advance(epoch))
        predictions, metrics = dcnn.evaluate_split(model, picture, m.unit_cells)
        dcnn.save(model, folder / "model.safetensors")
        analysis.write_dataset(predictions, folder / "predictions.nc")
        maps = dcnn.plot_split_maps(predictions, dcnn.split_line(picture), truth_name="Column fit")
        analysis.save(maps, folder / "maps")
        analysis.save(dcnn.plot_learning_curve(model), folder / "learning")
        write_json(
            {"image": image.name, "metrics": metrics, "seconds": time.perf_counter() - start},
            folder / "summary.json",
        )
    test = metrics["test"]["rmse_pm"]
    console.print(f"test RMSE against column fits: d_x {test['x']:.2f} pm, d_y {test['y']:.2f} pm → {out}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Weights written by `tiltsim train` or `tiltsim study`.")],
    image: Annotated[Path, typer.Argument(help="A micrograph.")],
    out: Out = Path("out/predict"),
    pixel_size: PixelSize = None,
    lattice_parameter: Lattice = None,
    zone: Zone = "auto",
    dataset: DatasetName = None,
    stride: Annotated[float | None, typer.Option(help="Sliding window step, Å.", show_default=False)] = None,
    device: Device = "auto",
) -> None:
    """Predict polar displacement in an image with a trained network.

    Example: tiltsim predict out/net/model.safetensors other.dm4 --lattice-parameter 3.96 --out out/predicted
    """
    start = time.perf_counter()
    network = dcnn.load(model)
    picture = _load(image, pixel_size, dataset)
    centres = None
    if network.windows.mode == "centred" or lattice_parameter is not None:
        with console.status("finding columns"):
            m = analysis.measure(picture, zone=zone, lattice_parameter=lattice_parameter)
        picture = m.image
        centres = m.unit_cells if network.windows.mode == "centred" else None
    cells = dcnn.predict(network, picture, centres, stride, device=device)
    with complete_folder(out) as folder:
        analysis.write_dataset(cells, folder / "predicted_cells.nc")
        analysis.save(dcnn.plot_prediction(picture, cells), folder / "prediction")
        d = cells.d.values
        write_json(
            {
                "image": image.name,
                "model": model.name,
                "cells": int(cells.sizes["cell"]),
                "d_mean_pm": d.mean(axis=0),
                "d_std_pm": d.std(axis=0),
                "seconds": time.perf_counter() - start,
            },
            folder / "summary.json",
        )
    console.print(f"{cells.sizes['cell']} predictions → {out}")


@app.command()
def study(
    source: Annotated[
        str, typer.Argument(help=f"A TOML or YAML file, or a preset: {', '.join(PRESETS)}.")
    ] = "quick",
    out: Out = Path("out/study"),
    device: Device = "auto",
) -> None:
    """Run the whole chain from one small file: structures, images, columns, networks, datasets, report.html.

    An interrupted study goes on where it stopped when run again with the same --out.

    Example: tiltsim study quick --out out/study
    """
    request = load_study(source)
    with progress_bars(console) as bars:
        summary = run_study(request, out, device=device, reporter=bars)
    table = Table(title="apparent polarization per mrad of tilt (pm per mrad, A − B)")
    for heading in ("phase", "thickness", "along x", "along y"):
        table.add_column(heading)
    rows = summary["tilt_response"]
    for along_x, along_y in zip(rows[::2], rows[1::2], strict=True):
        table.add_row(
            along_x["phase"],
            f"{along_x['thickness_angstrom'] / 10:g} nm",
            *(f"{r['bias_pm_per_mrad']:+.2f} ± {r['bias_sem']:.2f}" for r in (along_x, along_y)),
        )
    console.print(table)
    console.print(f"report: {out / 'report.html'}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished study.")] = Path("out/study"),
) -> None:
    """Write report.html anew from a study's summary and figures."""
    import json

    path = folder / "summary.json"
    if not path.is_file():
        raise SettingsError(f"{folder}: holds no summary.json; run `tiltsim study --out {folder}` first.")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SettingsError(f"{path}: not valid JSON; run the study again.") from error
    names = ("lopsided", "tilt_response", "slopes", "gallery", "polarization", "network_bias")
    pictures = {name: folder / f"{name}.png" for name in names}
    pictures |= {f"maps_{mode}": folder / "dcnn" / f"maps_{mode}.png" for mode in ("centred", "sliding")}
    missing = [p.name for p in pictures.values() if not p.is_file()]
    if missing or "tilt_response" not in summary:
        raise SettingsError(
            f"{folder}: not a finished study ({', '.join(missing) or 'summary'}); run it again."
        )
    write_report(summary, pictures, folder / "report.html")
    console.print(f"report: {folder / 'report.html'}")


def main() -> None:
    """Entry point: a user's error is one sentence and exit code 2."""
    try:
        app()
    except USER_ERRORS as error:
        console.print(f"tiltsim: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
