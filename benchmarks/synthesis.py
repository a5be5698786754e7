"""Fields with truth per second: painting from a library beside Gaussian columns and multislice, in one run.

    python benchmarks/synthesis.py --library out/library/library.nc --json synthesis.json

Ours is the whole of `write_set` on all cores: drawing, painting, faults, truth, compressed zarr. Gaussian columns are what
networks are usually trained on: an isotropic Gaussian on every true column, as bright and wide as the columns of the
on-axis image, and Poisson noise; compiled here, so that what differs is the physics and not the language. Multislice is abTEM's: a
few probes on one phonon configuration are timed and scaled to the probes of one field. Errors are those of the noise-free
image of uniform R3c, 10 nm, 6 mrad off axis, against a simulation with other phonons: the image, and where its columns are fitted.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import abtem
import numpy as np
import xarray as xr
from _common import library_of, machine, parser, report
from numba import njit

import analysis
import tiltsim
from tiltsim.images import evaluate
from tiltsim.library import Library, LibraryRequest
from tiltsim.library.building import node_job, simulated
from tiltsim.library.request import EDGES, Node
from tiltsim.settings import TiltSeries
from tiltsim.synth.covering import cover
from tiltsim.synth.detection import detect
from tiltsim.synth.lattice import grid_shape, lay_out
from tiltsim.synth.painting import paint
from tiltsim.synth.probe import transfer
from tiltsim.synth.ranges import stream
from tiltsim.synth.recipe import draw, load_recipe
from tiltsim.synth.scanning import draw_path
from tiltsim.synth.shards import write_set
from tiltsim.synth.synthesis import describe

TILT, D, CELLS, SOURCE, PIXEL = (6.0, 0.0), (-23.6, -23.6), 26, 0.8, 0.2


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument(
        "--library", type=Path, help="library.nc of the default microscope; default: built anew"
    )
    arguments.add_argument("--recipe", default="synth-films", help="recipe, of 1024² pixels")
    arguments.add_argument("--n", type=int, help="fields; default 64")
    options = arguments.parse_args()
    library = library_of(options)
    recipe = load_recipe(options.recipe)
    recipe = replace(recipe, size=(1024, 1024))
    if options.quick:  # what the small library holds
        thin = tuple(replace(kind, thickness=(60.0, 90.0), terraces=0) for kind in recipe.specimens)
        recipe = replace(recipe, size=(256, 256), specimens=thin)
    number = options.n or (4 if options.quick else 64)
    results: dict[str, Any] = {
        "machine": machine(),
        "library": library.digest,
        "size": recipe.size,
        "fields": number,
    }
    results["ours"] = ours(recipe, library, number)
    results["gaussian"] = {"fields_per_second_one_core": gaussian_speed(recipe, library)}
    results["multislice"] = multislice(recipe, 2 if options.quick else 8)
    errors = compared(library)
    results["ours"].update(errors["ours"])
    results["gaussian"].update(errors["gaussian"])
    for name in ("ours", "gaussian", "multislice"):
        print(name, results[name])
    report(results, options.json)


def ours(recipe: Any, library: Library, number: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_set(recipe, library, Path(folder) / "warm", 2, seed=1)
        start = time.perf_counter()
        summary = write_set(recipe, library, Path(folder) / "set", number, seed=0)
        seconds = time.perf_counter() - start
    return {
        "fields_per_second": number / seconds,
        "cores": os.cpu_count(),
        "bytes_a_field": summary["bytes"] / number,
        "stages_ms_one_core": stages(recipe, library),
    }


def stages(recipe: Any, library: Library, rounds: int = 8) -> dict[str, float]:
    """Median milliseconds of every stage of one field."""
    laps: dict[str, list[float]] = {}

    def lap(name: str, call: Any) -> Any:
        start = time.perf_counter()
        result = call()
        laps.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
        return result

    shapes = [grid_shape(kind, recipe.extent) for kind in recipe.specimens]
    shape = max(s[0] for s in shapes), max(s[1] for s in shapes)
    for field in range(rounds):
        settled = draw(recipe, 0, field)
        pixel, faults = float(settled.pixel), settled.faults  # type: ignore[arg-type]
        extent = settled.size[1] * pixel, settled.size[0] * pixel
        crystal = lap(
            "crystal",
            lambda: lay_out(
                settled.specimens[0], extent, stream(0, field, "crystal"), shape=shape,  # noqa: B023
                tilt_limit_mrad=library.tilt_limit, thickness_limits=library.thickness_range,
            ),
        )  # fmt: skip
        path = draw_path(faults.scan, settled.size, pixel, stream(0, field, "scan"))
        image = lap(
            "painting",
            lambda: paint(
                crystal, library, path, lambda kx, ky: transfer(faults.probe, library.request.microscope, kx, ky)  # noqa: B023
            ),
        )  # fmt: skip
        image = lap("covering", lambda: cover(image, faults.cover, pixel, stream(0, field, "cover")))  # noqa: B023
        lap("detection", lambda: detect(image, faults.detection, pixel, stream(0, field, "detection")))  # noqa: B023
        lap("truth", lambda: describe(crystal, path))  # noqa: B023
    return {name: round(statistics.median(times), 1) for name, times in laps.items()}


@njit(cache=True, nogil=True)
def gaussians(columns: np.ndarray, amplitude: np.ndarray, sigma: float, rows: int, width: int) -> np.ndarray:
    """Isotropic Gaussians at ``columns`` (n, 2), px, out to four standard deviations."""
    image = np.zeros((rows, width), np.float32)
    reach = int(4 * sigma) + 1
    for n in range(len(columns)):
        x0, y0 = columns[n]
        for i in range(max(0, int(y0) - reach), min(rows, int(y0) + reach + 2)):
            for j in range(max(0, int(x0) - reach), min(width, int(x0) + reach + 2)):
                image[i, j] += amplitude[n] * np.exp(-((j - x0) ** 2 + (i - y0) ** 2) / (2 * sigma * sigma))
    return image


def gaussian_speed(recipe: Any, library: Library, rounds: int = 5) -> float:
    pixel = PIXEL
    n = int(recipe.size[0] * pixel / EDGES["BiFeO3"])
    grid = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) * EDGES["BiFeO3"] / pixel
    columns = np.concatenate([grid, grid + EDGES["BiFeO3"] / pixel / 2])
    amplitude = np.repeat([1.0, 0.25], len(grid))
    rng = np.random.default_rng(0)
    laps = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        rng.poisson(gaussians(columns, amplitude, 0.5 / pixel, *recipe.size) * 100 + 5)
        laps.append(time.perf_counter() - start)
    return 1 / statistics.median(laps[1:])


def multislice(recipe: Any, probes: int) -> dict[str, float]:
    """Seconds that abTEM would take for one field of one phonon configuration, from a few probes."""
    microscope, detector = tiltsim.Microscope(), tiltsim.Detector(65, 110)
    job = node_job(LibraryRequest(), Node("BiFeO3"), TiltSeries(TILT[:1], TILT[1:]), (CELLS,))
    slab = job.specimen.atoms * (4, 4, 1)
    slab.pbc = True
    size = [g * 4 for g in job.plan.gpts]
    with abtem.config.set({"diagnostics.progress_bar": False}):
        potential = abtem.Potential(
            slab, gpts=tuple(size), slice_thickness=job.specimen.slice_thickness, projection="infinite"
        ).build(lazy=False)
        probe = abtem.Probe(
            energy=microscope.energy_keV * 1e3, semiangle_cutoff=microscope.semiangle_cutoff, tilt=TILT
        )
        probe.grid.match(potential)
        ring = abtem.AnnularDetector(inner=detector.inner, outer=detector.outer)
        laps = []
        for _ in range(2):
            scan = abtem.CustomScan(np.random.default_rng(0).uniform(4, 8, (probes, 2)))
            start = time.perf_counter()
            probe.scan(potential, scan=scan, detectors=ring, lazy=True).compute()
            laps.append(time.perf_counter() - start)
    per_probe = min(laps) / probes
    side = recipe.size[0] * PIXEL * 2 * microscope.image_cutoff
    return {
        "seconds_a_probe": per_probe,
        "probes_a_field": side**2,
        "hours_a_field_one_configuration": per_probe * side**2 / 3600,
    }


def compared(library: Library) -> dict[str, dict[str, float]]:
    """Errors of ours and of Gaussian columns against a simulation with phonons that the library has not seen."""
    edge = EDGES["BiFeO3"]
    request = replace(library.request, phonons=replace(library.request.phonons, pairs=2, seed=4242))
    job = node_job(request, Node("BiFeO3"), TiltSeries((TILT[0],), (TILT[1],)), (CELLS,), D)
    period = simulated(job, None).mean(axis=0)[0, 0, 0]
    pixels = 160
    axis = np.arange(pixels) * PIXEL
    simulation = evaluate(period, (edge, edge), axis, axis, SOURCE)
    state = {"d": D, "source_fwhm": SOURCE / edge, "thickness": CELLS * edge}
    painted = library.uniform_image(axis / edge, axis / edge, tilt=TILT, **state)  # type: ignore[arg-type]
    # Brightness and width from the image on axis, places from the truth.
    on_axis = measured(library.uniform_image(axis / edge, axis / edge, tilt=(0.0, 0.0), **state))  # type: ignore[arg-type]
    grid = np.stack(np.meshgrid(np.arange(-1, 10), np.arange(-1, 10)), -1).reshape(-1, 2) * edge
    drawn = np.zeros((pixels, pixels))
    for site, offset in (("A", np.zeros(2)), ("B", edge / 2 - np.array(D) / 100)):
        of = on_axis.isel(column=np.flatnonzero(on_axis.site.values == site))
        sigma = float(np.sqrt(of.sigma_major * of.sigma_minor).median()) / PIXEL
        drawn += gaussians(
            (grid + offset) / PIXEL, np.full(len(grid), float(of.amplitude.median())), sigma, pixels, pixels
        )
    drawn += float(on_axis.background.median())
    truth = {"it": job.specimen.truth}
    shifts = [shift(image, axis, truth) for image in (painted, drawn, simulation)]
    result = {}
    for name, image, ours in (("ours", painted, shifts[0]), ("gaussian", drawn, shifts[1])):
        error = ours - shifts[2]
        result[name] = {
            "nrmse": float(np.sqrt(((image - simulation) ** 2).mean() / (simulation**2).mean())),
            "a_error_pm": [float(v) for v in error[0]],
            "b_error_pm": [float(v) for v in error[1]],
            "d_error_pm": [float(v) for v in error[0] - error[1]],
        }
    return result


def measured(image: np.ndarray) -> xr.Dataset:
    axes = {n: (n, np.arange(k) * PIXEL, {"units": "Å"}) for n, k in zip("yx", image.shape, strict=True)}
    return analysis.measure(xr.DataArray(image, dims=("y", "x"), coords=axes), weights="poisson").columns


def shift(image: np.ndarray, axis: np.ndarray, truth: Any) -> np.ndarray:
    dims = ("phase", "tilt_x", "tilt_y", "thickness", "y", "x")
    coords = {
        "phase": ["it"], "tilt_x": [TILT[0]], "tilt_y": [TILT[1]], "thickness": [CELLS * EDGES["BiFeO3"]],
        "y": ("y", axis, {"units": "Å"}), "x": ("x", axis, {"units": "Å"}),
    }  # fmt: skip
    data = xr.Dataset({"intensity": (dims, image[None, None, None, None])}, coords)
    return analysis.tilt_response(data, truth)["shift"].values[0, 0, 0, 0]


if __name__ == "__main__":
    main()
