"""The whole chain, small: every file, every unit, resumed without recomputing."""

import json

import numpy as np
import pytest
import xarray as xr

from tiltsim import SettingsError
from tiltsim.config import load_study, parse_study
from tiltsim.study import run_study

SMALL = {
    "title": "small study",
    "thicknesses": [8.0, 16.0],
    "specimens": [{"phase": "R3c"}, {"phase": "SrTiO3"}],
    "detector": {"inner": 65.0, "outer": 80.0},
    "tilt": {"largest": 6.0, "n": 3},
    "numerics": {"scan_oversampling": 0.65},
    "field": {"cells": [30, 20], "domains": 10},
    "network": {"epochs": 3},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    return out, run_study(parse_study(SMALL), out)


def test_every_result_is_there(finished):
    out, _ = finished
    for name in (
        "images.nc", "tilt_response.nc", "unit_cells.nc", "summary.json", "report.html",
        "dcnn/centred.safetensors", "dcnn/sliding.safetensors", "dcnn/metrics.json",
        "dcnn/maps_centred.png", "dcnn/maps_sliding.svg", "structures/R3c.xyz",
        "lopsided.png", "tilt_response.svg", "slopes.png", "gallery.png", "polarization.svg",
    ):  # fmt: skip
        assert (out / name).stat().st_size > 200, name
    assert not list(out.glob("*.partial"))


def test_every_dataset_has_units_and_reads_back_equal(finished, tmp_path):
    out, _ = finished
    for path in [*out.glob("*.nc"), *out.glob("dcnn/*.nc")]:
        with xr.open_dataset(path) as opened:
            dataset = opened.load()
        missing = [name for name, variable in dataset.data_vars.items() if "units" not in variable.attrs]
        assert not missing, (path.name, missing)
        dataset.to_netcdf(tmp_path / "again.nc")
        with xr.open_dataset(tmp_path / "again.nc") as again:
            xr.testing.assert_identical(dataset, again.load())


def test_bias_per_mrad_is_in_the_dataset_the_summary_and_the_report(finished):
    out, summary = finished
    with xr.open_dataset(out / "tilt_response.nc") as response:
        rows = {(r["phase"], r["thickness_angstrom"], r["along"]): r for r in summary["tilt_response"]}
        assert len(rows) == 2 * 2 * 2
        page = (out / "report.html").read_text(encoding="utf-8")
        for (phase, thickness, along), row in rows.items():
            one = response.sel(phase=phase, thickness=thickness, component=along, tilt_axis=along)
            assert row["bias_pm_per_mrad"] == pytest.approx(float(one.d_bias_per_mrad))
            assert row["bias_sem"] > 0
            # d_apparent = d_true + (s_A − s_B), so slopes subtract
            assert row["bias_pm_per_mrad"] == pytest.approx(row["A_pm_per_mrad"] - row["B_pm_per_mrad"])
            assert f"{row['bias_pm_per_mrad']:+.2f} ± {row['bias_sem']:.2f}" in page
    assert json.loads((out / "summary.json").read_text())["tilt_response"][0]["phase"] == "R3c"


def test_report_stands_alone(finished):
    page = (finished[0] / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 7
    for outside in ('src="http', "href=", "<script"):
        assert outside not in page


def test_cells_of_the_film_lie_beside_their_truth(finished):
    with xr.open_dataset(finished[0] / "unit_cells.nc") as cells:
        zero = cells.isel(
            cell=np.flatnonzero((cells.tilt_x == 0) & (cells.tilt_y == 0) & (cells.share > 0.99))
        )
        assert zero.sizes["cell"] > 100
        error = np.median(zero.d - zero.d_true, axis=0)
        assert np.abs(error).max() < 10  # pm: the known on-axis bias; a flipped sign is 47
        assert len(np.unique(np.c_[cells.tilt_x, cells.tilt_y], axis=0)) == 5


def test_resumed_study_simulates_nothing_twice(finished, monkeypatch):
    out, first = finished

    def units():
        return {p: p.stat().st_mtime_ns for p in (out / ".work").glob("*/*.npy")}

    kept = units()
    assert len(kept) == 2 * 2 * 4  # two specimens, u and −u, 2 × 2 residual wave vectors

    def refuse(*_, **__):
        raise AssertionError("simulated again")

    monkeypatch.setattr("tiltsim.smatrix.compute", refuse)
    second = run_study(parse_study({**SMALL, "network": {"epochs": 1}}), out)
    assert units() == kept
    assert second["tilt_response"] == first["tilt_response"]
    with xr.open_dataset(out / "images.nc") as images:
        assert list(images.phase.values) == ["R3c", "SrTiO3"]
    with pytest.raises(AssertionError, match="simulated again"):
        run_study(parse_study({**SMALL, "seed": 7}), out)


def test_bad_study_leaves_nothing(tmp_path):
    table = {**SMALL, "specimens": [{"phase": "SrTiO3"}, {"phase": "SrTiO3"}]}
    with pytest.raises(SettingsError, match="names"):
        run_study(parse_study(table), tmp_path / "out")
    with pytest.raises(ValueError, match="lateral"):
        run_study(
            parse_study({**SMALL, "specimens": [{"phase": "R3c", "lateral": [3, 3]}]}), tmp_path / "out"
        )
    for change in (
        {"network": {"epochs": 0}},
        {"specimens": [{"phase": "R3c", "beam": "[110]"}]},
        {"specimens": [{"phase": "R3c", "name": "../x"}]},
    ):
        with pytest.raises(ValueError, match=r"epochs|\[110\]|name"):
            run_study(parse_study({**SMALL, **change}), tmp_path / "out")
    with pytest.raises(SettingsError, match="device"):
        run_study(parse_study(SMALL), tmp_path / "out", device="tpu")
    assert list(tmp_path.iterdir()) == []


def test_an_edited_structure_is_not_taken_for_the_old_one(tmp_path):
    import ase.io
    from ase import Atoms

    import structures
    from tiltsim.simulate import prepare

    keys = set()
    for z in (0.5, 0.45):
        unit = Atoms(
            "BaTiO3",
            scaled_positions=[(0, 0, 0), (0.5, 0.5, z), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)],
            cell=[4, 4, 4],
            pbc=True,
        )
        ase.io.write(tmp_path / "mine.cif", unit)
        specimen = structures.read(tmp_path / "mine.cif", a_site=["Ba"], b_site=["Ti"], thickness=8)
        (job,) = prepare(specimen, thicknesses=[8.0])
        keys.add(job.key)
    assert len(keys) == 2


@pytest.mark.slow
def test_quick_preset_null_is_null_at_every_thickness(tmp_path):
    """SrTiO3 of the quick study: |d| ≤ 1 pm or two standard errors on axis, odd in tilt."""
    study = load_study("quick")
    import analysis
    import structures
    import tiltsim

    specimen = structures.build("SrTiO3", thickness=max(study.thicknesses))
    images = tiltsim.simulate(
        specimen,
        study.microscope,
        study.tilt.series(),
        thicknesses=study.thicknesses,
        detector=study.detector,
        phonons=study.phonons,
        numerics=study.numerics,
    )
    response = analysis.tilt_response(images, {specimen.name: specimen.truth}).isel(phase=0)
    zero = response.sel(tilt_x=0, tilt_y=0)
    assert (abs(zero.d_apparent) <= np.maximum(1.0, 2 * zero.d_apparent_sem)).all()
    for axis, other in (("tilt_x", "tilt_y"), ("tilt_y", "tilt_x")):
        line = response.sel({other: 0})
        odd = line.d_apparent + line.d_apparent.sel({axis: -line[axis].values}).assign_coords(
            {axis: line[axis]}
        )
        flipped = line.d_apparent_sem.sel({axis: -line[axis].values}).assign_coords({axis: line[axis]})
        assert (abs(odd) <= np.maximum(1.0, 2 * np.hypot(line.d_apparent_sem, flipped))).all()
