"""The whole chain: specimens, images, columns, networks, datasets, report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import xarray as xr
from scipy.spatial import cKDTree

import analysis
import dcnn
import structures
from tiltsim import figures
from tiltsim.config import SpecimenRequest, Study
from tiltsim.errors import SettingsError
from tiltsim.film import Film, film_truth, lay_out, render
from tiltsim.images import apply_dose
from tiltsim.multislice import abtem_device, plan
from tiltsim.output import make_folder, read_dataset, write_json
from tiltsim.report import write_report
from tiltsim.simulate import distinct_names, image_count, image_extent, pair_images, simulate

#: The two networks of a study: sub-images on B columns, and a regular window.
MODES: tuple[Literal["centred"], Literal["sliding"]] = ("centred", "sliding")


class Reporter(Protocol):
    """Shows where a study is."""

    def stage(self, text: str, total: int) -> None:
        """A stage of ``total`` steps begins."""

    def advance(self, done: int) -> None:
        """``done`` steps of the stage are finished."""


class Silent:
    """Shows nothing."""

    def stage(self, text: str, total: int) -> None:
        """Nothing."""

    def advance(self, done: int) -> None:
        """Nothing."""


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

    film, fields, cells = _film(study, images, truth, reporter)
    analysis.write_dataset(cells, out / "unit_cells.nc")
    lap("film")

    networks = _networks(study, fields, cells, out, device, reporter)
    lap("networks")

    summary = _summary(study, images, response, cells, networks, specimens)
    drawn = figures.draw_all(images, response, film, fields, cells, networks, out)
    lap("figures")
    summary["seconds"] = {**seconds, "total": time.perf_counter() - start}
    write_json(summary, out / "summary.json")
    write_report(summary, drawn, out / "report.html")
    return summary


def _refuse_early(study: Study, specimens: Sequence[structures.Specimen], device: str) -> None:
    """Everything that a user can get wrong is found before anything is written or simulated."""
    distinct_names(specimens)
    abtem_device(device)
    for mode in MODES:
        _train_settings(study, mode, device)
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
) -> tuple[Film, dict[tuple[float, float], xr.DataArray], xr.Dataset]:
    """The film of domains, its image at every tilt, and its cells fitted at every tilt beside the truth."""
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
        tables.append(_beside_truth(measured, true_cells, tilt, film.lattice))
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
    return film, fields, cells


def _beside_truth(
    measured: xr.Dataset, truth: xr.Dataset, tilt: tuple[float, float], lattice: float
) -> xr.Dataset:
    """Fitted cells with the true cell each belongs to; cells without one (the border) are left out.

    Off the axis the whole pattern drifts, by less than half a cell at the tilts and thicknesses allowed
    here, but a single cell's match is made after removing the mean drift.
    """
    tree = cKDTree(np.c_[truth.x, truth.y])
    found = np.c_[measured.x, measured.y]
    drift = np.zeros(2)
    for _ in range(3):
        distance, nearest = tree.query(found - drift)
        offset = found - np.c_[truth.x, truth.y][nearest]
        drift = np.median(offset[distance < lattice / 2], axis=0)
    distance, nearest = tree.query(found - drift)
    keep = np.flatnonzero(distance < lattice / 3)
    matched = truth.isel(cell=nearest[keep])
    n = len(keep)
    chosen = measured.isel(cell=keep).drop_attrs(deep=False)
    return chosen.assign(
        d_true=(("cell", "component"), matched.d.values, dict(truth.d.attrs)),
        kind=("cell", matched.kind.values, {"units": "1"}),
        share=("cell", matched.share.values, {"units": "1", "long_name": "largest domain share"}),
        tilt_x=("cell", np.full(n, tilt[0]), {"units": "mrad"}),
        tilt_y=("cell", np.full(n, tilt[1]), {"units": "mrad"}),
    )


def at_tilt(cells: xr.Dataset, tilt: tuple[float, float]) -> xr.Dataset:
    """Cells of the film fitted at one tilt."""
    return cells.isel(cell=np.flatnonzero((cells.tilt_x == tilt[0]) & (cells.tilt_y == tilt[1])))


def _networks(
    study: Study,
    fields: dict[tuple[float, float], xr.DataArray],
    cells: xr.Dataset,
    out: Path,
    device: str,
    reporter: Reporter,
) -> dict[str, Any]:
    """Train the centred and the sliding-window network on the truth at zero tilt; test them at every tilt."""
    folder = make_folder(out / "dcnn")
    zero = (0.0, 0.0)
    # The true displacement at the fitted B column: the label a simulation has and an experiment lacks.
    labelled = {tilt: _labelled(at_tilt(cells, tilt)) for tilt in fields}
    results: dict[str, Any] = {}
    for mode in MODES:
        settings = _train_settings(study, mode, device)
        reporter.stage(f"train network ({mode})", settings.epochs)
        model = dcnn.train(
            fields[zero], labelled[zero], settings, progress=lambda epoch, *_: reporter.advance(epoch)
        )
        dcnn.save(model, folder / f"{mode}.safetensors")
        predictions, metrics = dcnn.evaluate_split(model, fields[zero], labelled[zero])
        analysis.write_dataset(predictions, folder / f"{mode}.nc")
        bias = {}
        for tilt, image in fields.items():
            _, at = dcnn.evaluate_split(model, image, labelled[tilt])
            bias[tilt] = at["test"]["bias_pm"]
        results[mode] = {"model": model, "predictions": predictions, "metrics": metrics, "bias": bias}
    # Fits are judged on the cells that the centred network is tested on.
    line, windows = dcnn.split_line(fields[zero]), dcnn.Windows()
    fit = {}
    for tilt in fields:
        table = at_tilt(cells, tilt)
        right = table.isel(
            cell=np.flatnonzero((dcnn.split(table, windows, line) == "test") & (table.flag == 0))
        )
        error = (right.d - right.d_true).values
        fit[tilt] = {"bias": error.mean(axis=0), "rmse": np.sqrt(np.mean(error**2, axis=0)), "n": len(error)}
    results["fit"] = fit
    write_json(
        {
            **{mode: results[mode]["metrics"] for mode in MODES},
            "fit_on_test_part": fit[zero],
            "bias_at_tilt": [
                {
                    "tilt_mrad": list(tilt),
                    "fit": fit[tilt]["bias"],
                    **{mode: results[mode]["bias"][tilt] for mode in MODES},
                }
                for tilt in fields
            ],
        },
        folder / "metrics.json",
    )
    return results


def _train_settings(study: Study, mode: Literal["centred", "sliding"], device: str) -> dcnn.TrainSettings:
    return dcnn.TrainSettings(
        windows=dcnn.Windows(mode=mode),
        epochs=study.network.epochs,
        seed=study.network.seed,
        device=device,
    )


def _labelled(table: xr.Dataset) -> xr.Dataset:
    return table[["x", "y", "flag"]].assign(d=table.d_true)


def _summary(
    study: Study,
    images: xr.Dataset,
    response: xr.Dataset,
    cells: xr.Dataset,
    networks: dict[str, Any],
    specimens: Sequence[structures.Specimen],
) -> dict[str, Any]:
    """The numbers of a study, JSON-able."""
    slopes = []
    for phase in response.phase.values:
        for thickness in response.thickness.values:
            one = response.sel(phase=phase, thickness=thickness)
            for component in ("x", "y"):
                along = one.sel(component=component, tilt_axis=component)
                on_axis = along.sel(tilt_x=0.0, tilt_y=0.0)
                slopes.append(
                    {
                        "phase": str(phase),
                        "thickness_angstrom": float(thickness),
                        "thickness_actual_angstrom": float(one.thickness_actual),
                        "along": component,
                        "A_pm_per_mrad": float(along.shift_per_mrad.sel(site="A")),
                        "A_sem": float(along.shift_per_mrad_sem.sel(site="A")),
                        "B_pm_per_mrad": float(along.shift_per_mrad.sel(site="B")),
                        "B_sem": float(along.shift_per_mrad_sem.sel(site="B")),
                        "bias_pm_per_mrad": float(along.d_bias_per_mrad),
                        "bias_sem": float(along.d_bias_per_mrad_sem),
                        "bias_at_zero_pm": float(on_axis.d_bias),
                        "bias_at_zero_sem": float(on_axis.d_bias_sem),
                    }
                )
    return {
        "title": study.title,
        "tiltsim_version": version("tiltsim"),
        "tilt_response": slopes,
        "specimens": [
            {
                "name": s.name,
                "thickness_angstrom": s.thickness,
                "atoms": len(s.atoms),
                "lean_mrad": list(s.lean_mrad),
                "d_true_pm": s.truth.cell_d.mean("cell").values,
                "polarization_uC_per_cm2": np.asarray(s.polarization),
                "assumptions": list(s.specification.get("assumptions", [])),
            }
            for s in specimens
        ],
        "networks": {
            **{mode: networks[mode]["metrics"] for mode in MODES},
            "fit_on_test_part": networks["fit"][(0.0, 0.0)],
        },
        "cells": int(cells.sizes["cell"]),
        "columns_per_site": {
            str(phase): int(response.samples.sel(phase=phase).min()) for phase in response.phase.values
        },
        "study": study.as_dict(),
        "tilt_convention": images.attrs["tilt_convention"],
    }
