"""The whole chain: specimens, images, columns, networks, datasets, report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xarray as xr

import analysis
import structures
from tiltsim import figures
from tiltsim.config import SpecimenRequest, Study
from tiltsim.errors import SettingsError
from tiltsim.film import beside_truth, film_truth, lay_out, render
from tiltsim.images import apply_dose
from tiltsim.multislice import abtem_device, plan
from tiltsim.networks import MODES, train_networks, train_settings
from tiltsim.output import make_folder, read_dataset, write_json
from tiltsim.progress import Reporter, Silent
from tiltsim.report import write_report
from tiltsim.simulate import distinct_names, image_count, image_extent, pair_images, simulate
from tiltsim.summary import summarise


def build_specimen(request: SpecimenRequest, thickness: float) -> structures.Specimen:
    """The specimen that one ``[[specimens]]`` entry asks for."""
    if request.file is not None:
        return structures.read(
            request.file,
            a_site=request.a_site,
            b_site=request.b_site,
            lateral=request.lateral,
            thickness=thickness,
            beam=request.beam,
            up=request.up,
            name=request.name or request.phase,
        )
    return structures.build(
        request.phase,
        samarium=request.samarium,
        lateral=request.lateral,
        thickness=thickness,
        variant=request.variant,
        beam=request.beam,
        up=request.up,
        seed=request.seed,
        name=request.name,
    )


def run_study(
    study: Study, out: Path, *, device: str = "auto", reporter: Reporter | None = None
) -> dict[str, Any]:
    """Run ``study`` into the folder ``out`` and return its summary.

    Finished images are kept in ``out/.work``: a study that was interrupted goes on where it stopped, and a
    changed setting recomputes what depends on it.

    Raises
    ------
    SettingsError, structures.SpecimenError
        Before anything is written, if a setting cannot be met.
    """
    start = time.perf_counter()
    reporter = reporter or Silent()
    thickest = max(study.thicknesses)
    specimens = [build_specimen(r, thickest) for r in study.specimens]
    truth = {s.name: s.truth for s in specimens}
    _refuse_early(study, specimens, device)
    out = make_folder(out)
    for stale in ("summary.json", "report.html"):
        (out / stale).unlink(missing_ok=True)  # of an earlier run: they would not fit the new datasets
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        seconds[name] = time.perf_counter() - start - sum(seconds.values())

    folder = make_folder(out / "structures")
    for specimen in specimens:
        structures.write(specimen, folder / f"{specimen.name}.xyz")
    images = _images(study, specimens, out, device, reporter)
    analysis.write_dataset(images, out / "images.nc")
    lap("simulate")

    samples = pair_images(images)
    reporter.stage("fit columns", samples.intensity.isel(x=0, y=0).size)
    response = analysis.tilt_response(samples, truth, progress=lambda done, _: reporter.advance(done))
    response["thickness_actual"] = images.thickness_actual
    analysis.write_dataset(response, out / "tilt_response.nc")
    lap("measure")

    fields, cells = _film(study, images, truth, reporter)
    analysis.write_dataset(cells, out / "unit_cells.nc")
    lap("film")

    networks = train_networks(study, fields, cells, out, device, reporter)
    lap("networks")

    summary = summarise(study, images, response, cells, networks, specimens)
    figures.draw_all(images, response, fields, cells, networks, out)
    lap("figures")
    summary["seconds"] = {**seconds, "total": time.perf_counter() - start}
    write_json(summary, out / "summary.json")
    write_report(summary, out)
    return summary


def _refuse_early(study: Study, specimens: Sequence[structures.Specimen], device: str) -> None:
    """Everything that a user can get wrong is found before anything is written or simulated."""
    distinct_names(specimens)
    abtem_device(device)
    for mode in MODES:
        train_settings(study, mode, device)
    for specimen in specimens:
        if specimen.truth.attrs["zone"] != "100":
            raise SettingsError(
                f"specimen {specimen.name}: a study's film of domains needs a [100]-type projection; "
                "use `tiltsim simulate` for [110]."
            )
        plan(
            specimen, study.microscope, study.tilt.series(), study.thicknesses, study.detector, study.numerics
        )


def _images(
    study: Study, specimens: Sequence[structures.Specimen], out: Path, device: str, reporter: Reporter
) -> xr.Dataset:
    """Simulated images of all specimens, each kept as soon as it is finished."""
    tilts = study.tilt.series()
    phonons = replace(study.phonons, seed=study.phonons.seed + study.seed)
    per_specimen = image_count(specimens[:1], tilts, phonons)
    extent = image_extent(specimens)
    work = make_folder(out / ".work")
    reporter.stage("simulate images", per_specimen * len(specimens))
    parts = []
    for n, specimen in enumerate(specimens):
        key = json.dumps(
            [
                _fingerprint(specimen),
                study.as_dict() | {"specimens": [], "title": "", "field": {}, "network": {}},
                extent,
                version("tiltsim"),
                version("abtem"),
            ],
            sort_keys=True,
        )
        path = work / f"{specimen.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.nc"
        if path.exists():
            parts.append(read_dataset(path))
        else:
            part = simulate(
                specimen,
                study.microscope,
                tilts,
                thicknesses=study.thicknesses,
                detector=study.detector,
                phonons=phonons,
                numerics=study.numerics,
                device=device,
                keep_configs=phonons.pairs > 1,
                field=extent,
                progress=_counting_from(n * per_specimen, reporter),
            )
            analysis.write_dataset(part, path)
            parts.append(part)
        reporter.advance((n + 1) * per_specimen)
    images = xr.concat(
        parts, dim="phase", data_vars="minimal", coords="minimal", compat="override", join="exact"
    )
    specification = [json.loads(part.attrs["specification"]) for part in parts]
    merged = specification[0]
    for other in specification[1:]:
        merged["specimens"] |= other["specimens"]
        merged["plans"] |= other["plans"]
    images.attrs = {**parts[0].attrs, "specification": json.dumps(merged, ensure_ascii=False)}
    return images


def _fingerprint(specimen: structures.Specimen) -> str:
    """Digest of everything about a specimen that its images depend on."""
    atoms = specimen.atoms
    parts = (
        atoms.positions.round(9).tobytes(), atoms.cell.array.round(9).tobytes(), atoms.numbers.tobytes(),
        "".join(specimen.sites).encode(), json.dumps(dict(specimen.sigmas), sort_keys=True).encode(),
        json.dumps([specimen.name, specimen.layer, specimen.slices, dict(specimen.specification)]).encode(),
    )  # fmt: skip
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def _counting_from(base: int, reporter: Reporter) -> Callable[[int, int], None]:
    def advance(done: int, _: int) -> None:
        reporter.advance(base + done)

    return advance


def _film(
    study: Study, images: xr.Dataset, truth: dict[str, xr.Dataset], reporter: Reporter
) -> tuple[dict[tuple[float, float], xr.DataArray], xr.Dataset]:
    """Image of the film of domains at every tilt, and its cells fitted at every tilt beside the truth."""
    names = [str(p) for p in images.phase.values]
    polar = [n for n in names if float(abs(truth[n].cell_d.mean("cell")).max()) > 0.5]
    film = lay_out(images, study.field, polar or names, study.seed)
    true_cells = film_truth(film, truth, names)
    thickness = float(images.thickness[-1])
    tilts = study.tilt.series()
    points = [(tilts.x[i], tilts.y[j]) for i, j in tilts.points()]
    reporter.stage("film of domains", len(points))
    fields, tables = {}, []
    for n, tilt in enumerate(points):
        clean = render(film, images, tilt, thickness)
        fields[tilt] = apply_dose(clean, study.field.dose_per_A2, seed=study.seed + n)
        measured = analysis.measure(fields[tilt], zone="100").unit_cells
        tables.append(beside_truth(measured, true_cells, tilt, film.lattice))
        reporter.advance(n + 1)
    cells = xr.concat(
        tables, dim="cell", data_vars="all", coords="minimal", compat="override", join="override"
    )
    cells.attrs = {
        "title": "cells of the film of domains, fitted at every tilt, beside the truth",
        "thickness_angstrom": thickness,
        "dose_per_A2": study.field.dose_per_A2,
        "seed": study.seed,
        "kinds": true_cells.attrs["kinds"],
        "convention": "d = mean of surrounding A columns − B column, pm, x right, y down",
        "specification": json.dumps(study.as_dict(), ensure_ascii=False),
    }
    return fields, cells
