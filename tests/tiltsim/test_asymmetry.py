"""Symmetric films off axis: signs, sizes and sites of what tilt adds to d, in pm."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from scipy.stats import skew

import analysis
import tiltsim
from tiltsim import cli_asymmetry, cli_library
from tiltsim.asymmetry import variant_d
from tiltsim.asymmetry_cells import MatchedCells, matched_cells
from tiltsim.asymmetry_figure import plot_asymmetry
from tiltsim.asymmetry_statistics import MEANING, statistics
from tiltsim.output import read_dataset

REQUEST = tiltsim.AsymmetryRequest(samarium=(0.0, 0.07), tilts=(0.0, 4.0, 8.0), thickness=80.0, size=360)


@pytest.fixture(scope="module")
def study(library):
    return tiltsim.asymmetry_study(library, REQUEST)


def columns_where(truth, move_a, move_b):
    """What a perfect fit would find if A and B columns stood elsewhere by ``move_a`` and ``move_b``, pm."""
    a = truth.a_image.values.reshape(-1, 2) + np.array(move_a) / 100
    b = truth.b_image.values.reshape(-1, 2) + np.array(move_b) / 100
    columns = xr.Dataset(
        {
            "x": ("column", np.r_[a, b][:, 0]), "y": ("column", np.r_[a, b][:, 1]),
            "site": ("column", np.array(["A"] * len(a) + ["B"] * len(b), object)),
        }
    )  # fmt: skip
    d = truth.d.values.reshape(-1, 2) + np.array(move_a) - np.array(move_b)
    cells = xr.Dataset(
        {
            "x": ("cell", b[:, 0]), "y": ("cell", b[:, 1]), "d": (("cell", "component"), d),
            "d_cov": (("cell", "component", "component_2"), np.tile(np.eye(2), (len(b), 1, 1))),
            "flag": ("cell", np.zeros(len(b), int)),
        }
    )  # fmt: skip
    return SimpleNamespace(columns=columns, unit_cells=cells)


def test_shifts_of_sites_have_their_signs(library):
    field = tiltsim.synthesize(REQUEST.recipe(0.0, 4.0), library)
    found = matched_cells(field, columns_where(field.truth, (-9.0, 2.0), (3.0, -1.0)), variant_d(0.0))
    np.testing.assert_allclose(found.s_a, np.tile((-9.0, 2.0), (len(found.s_a), 1)), atol=1e-6)
    np.testing.assert_allclose(found.s_b, np.tile((3.0, -1.0), (len(found.s_b), 1)), atol=1e-6)
    assert found.residual < 1e-6
    # A pipeline with the other sign of d, or other columns around a cell, is found out.
    wrong = columns_where(field.truth, (0.0, 0.0), (0.0, 0.0))
    wrong.unit_cells["d"] = -wrong.unit_cells.d
    assert matched_cells(field, wrong, variant_d(0.0)).residual > 40.0


def test_truth_is_symmetric_and_the_same_at_every_tilt(study, library):
    np.testing.assert_allclose(study.d_true.sum("variant"), 0.0, atol=0.01)
    np.testing.assert_allclose(study.d_true, study.d_true.isel(tilt=[0] * 3), atol=1e-9)
    # R3c: 23.6 pm along both, the first variant to the right and up; the Cc film less along x, more along y.
    np.testing.assert_allclose(study.d_true[0, 0, 0], (23.6, -23.6), atol=0.05)
    np.testing.assert_allclose(study.d_true[1, 0, 0], (20.7, -24.9), atol=0.1)
    assert (study.cells > 60).all()
    here, there = (tiltsim.synthesize(REQUEST.recipe(0.07, tilt), library).truth for tilt in (0.0, 8.0))
    xr.testing.assert_equal(here[["a", "b", "d", "samarium"]], there[["a", "b", "d", "samarium"]])
    np.testing.assert_allclose(there.tilt, np.broadcast_to((8.0, 0.0), there.tilt.shape))


def test_apparent_d_is_true_d_and_what_the_sites_add(study):
    assert (study.residual < 1e-6).all()
    np.testing.assert_allclose(
        study.d_apparent - study.d_true, study.contribution_A + study.contribution_B, atol=1e-9
    )
    np.testing.assert_allclose(study.offset, study.offset_A + study.offset_B, atol=0.01)
    np.testing.assert_allclose(study.offset_polar, (study.offset * study["axis"]).sum("component"), atol=1e-9)


def test_on_axis_variants_are_wrong_by_opposite_amounts_and_nothing_is_lopsided(study):
    one = study.sel(tilt=0.0)
    assert (np.abs(one.offset) < 4 * one.offset_sem).all()
    assert (np.abs(one.magnitude_difference) < 4 * one.magnitude_difference_sem).all()
    assert (np.abs(one.skewness_about_zero) < 4 * one.skewness_about_zero_sem).all()
    bias = one.d_apparent - one.d_true
    assert (np.abs(bias) > 2.0).all()
    np.testing.assert_allclose(bias.sum("variant"), 0.0, atol=1.5)


def test_offset_grows_with_tilt_as_a_and_b_say(study):
    grown = study.offset.sel(component="x", drop=True)
    assert (grown.diff("tilt") < -2.0).all()  # towards −x for a beam towards +x
    assert (np.abs(study.offset.sel(component="y")) < 1.5).all()
    together = (study.offset_A + study.offset_B).sel(component="x")
    assert (np.sign(together.isel(tilt=slice(1, None))) == -1).all()
    # A columns go first, and B columns after them.
    last = study.isel(tilt=-1).sel(component="x")
    assert (last.offset_A < last.offset - 2.0).all()
    assert (last.offset_B > 2.0).all()
    # The variant whose d points right looks weaker, the other stronger: more than one number says so.
    assert (study.magnitude_difference.isel(tilt=-1) < -5.0).all()
    assert (study.skewness_about_zero.isel(tilt=-1) < -0.2).all()


@pytest.mark.parametrize(("azimuth", "turn"), [(180.0, ((-1, 0), (0, -1))), (90.0, ((0, -1), (1, 0)))])
def test_offset_turns_with_the_tilt(study, library, azimuth, turn):
    turned = tiltsim.asymmetry_study(
        library, replace(REQUEST, samarium=(0.0,), tilts=(8.0,), azimuth=azimuth)
    )
    before = study.offset.sel(samarium=0.0, tilt=8.0).values
    np.testing.assert_allclose(turned.offset[0, 0], np.array(turn) @ before, atol=0.8)
    assert np.linalg.norm(before) > 5.0


def test_leans_tilt_variants_apart(library):
    request = replace(REQUEST, lean_scale=0.3)
    truth = tiltsim.synthesize(request.recipe(0.0, 2.0), library).truth
    first, second = (
        truth.tilt.values[np.linalg.norm(truth.d.values - d, axis=-1) < 0.05].mean(0) for d in variant_d(0.0)
    )
    np.testing.assert_allclose((first + second) / 2, (2.0, 0.0), atol=0.01)
    np.testing.assert_allclose(np.abs(first - second), 2 * 0.3 * 9.9, atol=0.1)
    request.check_reach(12.0, (20.0, 90.0))
    with pytest.raises(tiltsim.SettingsError, match="leans"):
        replace(request, tilts=(10.0,)).check_reach(12.0, (20.0, 90.0))


def test_statistics_against_plain_ones():
    rng = np.random.default_rng(5)
    n = 4000
    which, block = np.repeat([0, 1], n // 2), np.arange(n)  # blocks of one cell: all independent
    d_true = np.where(which[:, None] == 0, (20.0, 0.0), (-20.0, 0.0))
    s_a, s_b = rng.normal((-3.0, 0.0), 4.0, (n, 2)), rng.normal((1.0, 0.0), 3.0, (n, 2))
    s_b[which == 1] += rng.exponential(6.0, (n // 2, 1)) * (1.0, 0.0)  # lopsided within one variant
    cells = MatchedCells(which, block, d_true, d_true + s_a - s_b, s_a, s_b)
    found = statistics(cells, np.array([1.0, 0.0]), 3)
    assert set(found) == set(MEANING)
    x = cells.d_apparent[:, 0]
    assert found["offset"][0][0] == pytest.approx(x.mean())
    assert found["offset_B"][0][0] == pytest.approx(-s_b[:, 0].mean())
    assert found["skewness"][0] == pytest.approx(skew(x))
    assert found["skewness_about_zero"][0] == pytest.approx((x**3).mean() / (x**2).mean() ** 1.5)
    one = cells.d_apparent[which == 0]
    np.testing.assert_allclose(found["d_apparent"][1][0], one.std(0) / np.sqrt(len(one)), rtol=0.1)
    # Each variant weighs half, however many cells it has.
    few = np.r_[0:2000, 2000:2300]
    part = MatchedCells(which[few], block[few], d_true[few], cells.d_apparent[few], s_a[few], s_b[few])
    expected = (x[:2000].mean() + x[2000:2300].mean()) / 2
    assert statistics(part, np.array([1.0, 0.0]), 3)["offset"][0][0] == pytest.approx(expected)


def test_errors_say_how_far_repeats_scatter(library):
    """A film with other noise and another origin is off by what its error bars allow."""
    request = replace(REQUEST, samarium=(0.0,), tilts=(8.0,), size=256)
    runs = [tiltsim.asymmetry_study(library, replace(request, seed=seed)) for seed in range(4)]
    offsets = np.array([run.offset_polar.item() for run in runs])
    errors = np.array([run.offset_polar_sem.item() for run in runs])
    chi2 = (((offsets - offsets.mean()) / errors) ** 2).sum()  # of 3 degrees of freedom
    assert 0.07 < chi2 < 16.3


def test_dataset_reads_back_equal_and_says_what_it_is(study, library, tmp_path):
    xr.testing.assert_identical(read_dataset(analysis.write_dataset(study, tmp_path / "a.nc")), study)
    assert all("units" in v.attrs for v in study.data_vars.values())
    assert study.tilt.attrs["units"] == "mrad"
    assert json.loads(study.attrs["request"])["tilts"] == [0.0, 4.0, 8.0]
    assert json.loads(study.attrs["phases"]) == {"0": "R3c", "0.07": "Cc"}
    assert study.attrs["library"] == library.digest
    np.testing.assert_array_equal(study.counts.sum("bin"), study.cells)
    middle = (study.counts * study.bin).sum("bin") / study.cells
    mean = (study.d_apparent * study["axis"]).sum("component")
    np.testing.assert_allclose(middle, mean.transpose(*middle.dims), atol=0.2)


def test_figure_has_a_panel_for_every_film(study):
    axes = plot_asymmetry(study).axes
    assert len(axes) == 2 * 3 + 2
    said = axes[2].texts[0].get_text()
    assert said.startswith(f"−{abs(study.offset_polar[0, 2].item()):.1f}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tilts": (0.0, 15.0)}, "15.0 mrad along an axis, beyond the library's 12 mrad"),
        ({"thickness": 200.0}, "thickness 200 Å"),
        ({"tilts": (5.0, 0.0)}, "tilts 5, 0"),
        ({"tilts": (-2.0,)}, "tilts -2"),
        ({"samarium": (0.0, 0.4)}, "samarium 0, 0.4"),
        ({"size": 100}, "size 100"),
        ({"dose_per_A2": 0.0}, "dose"),
        ({"azimuth": float("nan")}, "azimuth"),
    ],
)
def test_what_cannot_be_is_one_sentence(library, changes, said):
    with pytest.raises(tiltsim.SettingsError, match=said) as found:
        tiltsim.asymmetry_study(library, replace(REQUEST, **changes))
    assert str(found.value).endswith(".")
    assert "\n" not in str(found.value)


SMALL = ("--samarium", "0.07", "--tilts", "0,6", "--thickness", 80, "--size", 256)


def test_command_leaves_everything(library_file, tmp_path, tiltsim_command):
    out = tmp_path / "out"
    code, text = tiltsim_command("asymmetry", "--library", library_file, *SMALL, "--out", out)
    assert code == 0, text
    kinds = ("nc", "png", "svg", "pdf")
    assert {p.name for p in out.iterdir()} == {"summary.json", *(f"asymmetry.{kind}" for kind in kinds)}
    summary, result = json.loads((out / "summary.json").read_text()), read_dataset(out / "asymmetry.nc")
    assert [row["tilt_mrad"] for row in summary["rows"]] == [0.0, 6.0]
    assert summary["rows"][1]["offset_pm"] == pytest.approx(result.offset[0, 1].values.tolist())
    assert summary["rows"][1]["offset_A_pm"][0] < summary["rows"][1]["offset_pm"][0] < -2.0


def test_command_builds_a_small_library_once(library_file, library, tmp_path, tiltsim_command, monkeypatch):
    built = []

    def build_into(request, folder, bars, *, device, scheduler=None):
        built.append(request)
        folder.mkdir(parents=True)
        shutil.copy(library_file, folder / "library.nc")

    # The session's library stands for the small one, which takes minutes.
    monkeypatch.setattr(cli_asymmetry, "small_library", lambda: library.request)
    monkeypatch.setattr(cli_library, "build_into", build_into)
    for _ in range(2):
        code, text = tiltsim_command("asymmetry", *SMALL, "--out", tmp_path / "out")
        assert code == 0, text
    assert built == [library.request]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--tilts", "0,13"), "13.0 mrad"),
        (("--tilts", "a"), "--tilts"),
        (("--thickness", "300"), "thickness 300"),
        (("--library", "nowhere.nc"), "nowhere.nc"),
    ],
)
def test_bad_requests_exit_2_before_a_library_is_built(options, word, tmp_path, tiltsim_command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text = tiltsim_command("asymmetry", *options, "--out", "out")
    assert code == 2
    assert word in text
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []
