"""The whole chain: specimens, images, columns, networks, datasets, report."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import analysis
import structures
from tiltsim import figures
from tiltsim.config import SpecimenRequest, Study
from tiltsim.dataset import pair_images
from tiltsim.errors import SettingsError
from tiltsim.film import beside_truth, film_truth, lay_out, render
from tiltsim.images import apply_dose
from tiltsim.jobs import Job
from tiltsim.networks import MODES, train_networks, train_settings
from tiltsim.output import make_folder, write_json
from tiltsim.progress import Reporter, Silent
from tiltsim.report import write_report
from tiltsim.simulate import prepare, run_jobs
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
    study: Study,
    out: Path,
    *,
    device: str = "auto",
    scheduler: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Run ``study`` into the folder ``out`` and return its summary.

    Finished units of work are kept in ``out/.work``: a study that was interrupted goes on where it stopped, and a
    changed setting recomputes what depends on it. ``scheduler`` is the address of a ``distributed`` scheduler.

    Raises
    ------
    SettingsError, structures.SpecimenError
        Before anything is written, if a setting cannot be met.
    """
    start = time.perf_counter()
    reporter = reporter or Silent()
    jobs = prepare_study(study, device)
    specimens = [job.specimen for job in jobs]
    truth = {s.name: s.truth for s in specimens}
    out = make_folder(out)
    for stale in ("summary.json", "report.html"):
        (out / stale).unlink(missing_ok=True)  # of an earlier run: they would not fit the new datasets
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        seconds[name] = time.perf_counter() - start - sum(seconds.values())

    folder = make_folder(out / "structures")
    for specimen in specimens:
        structures.write(specimen, folder / f"{specimen.name}.xyz")
    reporter.stage("simulate images", 1)
    images = run_jobs(
        jobs, checkpoints=out / ".work", scheduler=scheduler, keep_configs=True, progress=reporter.advance
    )
    analysis.write_dataset(images, out / "images.nc")
    lap("simulate")

    response = _response(images, truth, reporter)
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


def prepare_study(study: Study, device: str = "auto") -> list[Job]:
    """The checked simulations of ``study``: whatever a user can get wrong is found before any work.

    Raises
    ------
    SettingsError, structures.SpecimenError
        If a setting cannot be met.
    """
    thickest = max(study.thicknesses)
    specimens = [build_specimen(r, thickest) for r in study.specimens]
    for specimen in specimens:
        if specimen.truth.attrs["zone"] != "100":
            raise SettingsError(
                f"specimen {specimen.name}: a study's film of domains needs a [100]-type projection; "
                "use `tiltsim simulate` for [110]."
            )
    jobs = prepare(
        specimens,
        study.microscope,
        study.tilt.series(),
        thicknesses=study.thicknesses,
        detector=study.detector,
        phonons=replace(study.phonons, seed=study.phonons.seed + study.seed),
        numerics=study.numerics,
        engine=study.engine,
        device=device,
    )
    for mode in MODES:
        train_settings(study, mode, device)
    return jobs


def _response(images: xr.Dataset, truth: dict[str, xr.Dataset], reporter: Reporter) -> xr.Dataset:
    """Tilt response of all phases, one after another: pair images of all at once would fill the memory."""
    per_phase = int(np.prod([images.sizes[d] for d in ("tilt_x", "tilt_y", "thickness")]))
    reporter.stage("fit columns", per_phase * images.sizes["phase"])
    parts = []
    for n in range(images.sizes["phase"]):

        def advance(done: int, _: int, base: int = n * per_phase) -> None:
            reporter.advance(base + done)

        parts.append(analysis.tilt_response(pair_images(images.isel(phase=[n])), truth, progress=advance))
    response = xr.concat(
        parts, dim="phase", data_vars="minimal", coords="minimal", compat="override", join="exact"
    )
    response.attrs["pairs"] = images.pairs.values.tolist()
    return response


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
    # Along the axes only: a film takes seconds to fit, and its tilts are for seeing.
    points = [(x, y) for i, j in tilts.points() for x, y in [(tilts.x[i], tilts.y[j])] if x == 0 or y == 0]
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
