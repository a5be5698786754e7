"""What is varied, what is compared, and that the default is finer than it need be."""

import json

import numpy as np
import pytest
import xarray as xr

import analysis
import structures
import tiltsim
from tiltsim.converge import QUANTITIES, converge
from tiltsim.converge_figures import plot_convergence
from tiltsim.converge_sweeps import SWEEPS, Setup

SETTINGS = {
    "tilts": tiltsim.TiltSeries((0.0, 8.0)),
    "detector": tiltsim.Detector(60.0, 80.0),
}


@pytest.fixture(scope="module")
def null():
    """SrTiO3, one cell wide: the probe's cone outgrows it at 60 Å."""
    return structures.build("SrTiO3", lateral=(1, 1), thickness=60.0)


@pytest.fixture(scope="module")
def still(null):
    """The sweeps of pure numerics on a still lattice."""
    sweeps = {
        "band_limit": (1.0, 1.75, 2.5),
        "slices": (0.5, 1.0, 3.0),
        "wave_vectors": (1, 2, 3),
    }
    return converge(
        null, thicknesses=[24.0, 60.0], phonons=tiltsim.FrozenPhonons(0), sweeps=sweeps, **SETTINGS
    )


@pytest.fixture(scope="module")
def shaken(null):
    """The sweeps that change displacements."""
    return converge(
        null,
        thicknesses=[24.0],
        phonons=tiltsim.FrozenPhonons(3),
        sweeps=["supercell", "configurations"],
        **SETTINGS,
    )


def of(dataset, sweep):
    return dataset.isel(run=np.flatnonzero(dataset["sweep"].values == sweep))


def test_the_finest_value_has_no_change_and_others_do(still, shaken):
    for dataset in (still, shaken):
        for name in np.unique(dataset["sweep"].values):
            one = of(dataset, name)
            assert np.all(np.diff(one["setting"]) > 0)
            assert one["default"].sum() == 1
            assert np.all(one["largest"].isel(run=-1) == 0)
            assert np.all(one["rms"].isel(run=slice(None, -1)).max("quantity") > 0)
            assert np.all(one["largest"] >= one["rms"])


def test_one_setting_varies_and_the_others_stay(still):
    varied = {"band_limit": "band_limit", "slices": "slice_thickness", "wave_vectors": "repeats"}
    for name, variable in varied.items():
        one = of(still, name)
        for other in varied.values():
            spread = one[other].max("run") - one[other].min("run")
            assert np.all((spread > 0) == (other == variable)), (name, other)
    np.testing.assert_allclose(of(still, "slices")["slice_thickness"], 3.905 / np.array([1, 2, 6]))
    # a grid holds at least the limit that is asked for
    assert np.all(of(still, "band_limit")["band_limit"] >= 88.0 * np.array([1.0, 1.75, 2.5]) - 1e-6)


def test_the_default_band_limit_is_better_than_the_least(still):
    change = of(still, "band_limit")["rms"].sel(quantity="B-A").values
    assert change[1] < 0.5 * change[0]
    assert change[1] < 0.1  # pm


def test_a_box_narrower_than_the_cone_shows_and_wider_ones_converge(still):
    one = of(still, "wave_vectors").sel(thickness=60.0)
    change = np.abs(one["change"]).max(["quantity", "tilt_x", "tilt_y", "component"]).values
    assert change[1] < 0.5 * change[0]
    assert change[0] > 0.1


def test_thinner_slices_put_planes_deeper(still):
    """A plane acts at the entrance of its slice: finer, it is deeper and its column further along −tilt."""
    change = of(still, "slices")["change"].sel(tilt_y=0, quantity="A", component="x")
    np.testing.assert_allclose(change.sel(tilt_x=0), 0, atol=0.02)
    default = change.sel(tilt_x=8).isel(run=1)
    most = 100 * 3.905 / 4 * np.tan(8e-3)  # half a slice, pm; the focus moves with it and takes some back
    assert np.all((default > 0) & (default < most))


def test_every_ideal_plane_lies_inside_a_slice(null):
    depth = null.atoms.positions[:, 2]
    for per_plane in SWEEPS["slices"].values(setup_of(null)):
        place = depth / (null.slice_thickness / per_plane) % 1.0
        assert place.min() > 0.2
        assert place.max() < 0.8


def setup_of(specimen):
    return Setup(
        specimen, tiltsim.Microscope(), SETTINGS["tilts"], (24.0,), SETTINGS["detector"],
        tiltsim.FrozenPhonons(3), tiltsim.Numerics(),
    )  # fmt: skip


def test_changes_of_displacements_come_with_their_expected_error(shaken, still):
    assert np.isnan(still["expected"]).all()
    supercell, pairs = of(shaken, "supercell"), of(shaken, "configurations")
    # the same box, from cells of one edge and of twice that
    np.testing.assert_allclose(supercell["period"] * supercell["repeats"], 4 * 3.905)
    assert np.all(supercell["expected"].isel(run=0) > 0)
    assert np.all(supercell["rms"].isel(run=0) < 4 * supercell["expected"].isel(run=0))
    assert list(pairs["pairs"].values) == [1, 2, 3]
    # √(3/n − 1) times the error of all three
    ratio = (pairs["expected"][0] / pairs["expected"][1]).values
    np.testing.assert_allclose(ratio, np.sqrt(2 / 0.5))


def test_units_everywhere_and_reads_back_equal(still, tmp_path):
    for name in [*still.data_vars, *still.coords]:
        assert still[name].attrs["units"], name
    assert json.loads(still.attrs["specification"])["detector"]["outer"] == 80.0
    analysis.write_dataset(still, tmp_path / "convergence.nc")
    with xr.open_dataset(tmp_path / "convergence.nc") as back:
        xr.testing.assert_identical(still, back.load())


def test_figure_has_a_panel_for_each_sweep_with_its_default(still):
    panels = [ax for ax in plot_convergence(still).axes if ax.get_xlabel()]
    assert len(panels) == 3
    assert all("default" in [t.get_text() for t in ax.texts] for ax in panels)


@pytest.mark.parametrize(
    ("sweeps", "pairs", "names"),
    [
        (["bandlimit"], 2, ("bandlimit", *SWEEPS)),
        ({"slices": (2.0,)}, 2, ("slices", "odd")),
        ({"slices": (0.3,)}, 2, ("slices", "0.5")),
        ({"band_limit": (0.9,)}, 2, ("band_limit", "at least 1")),
        ({"wave_vectors": (1.5,)}, 2, ("wave_vectors", "whole")),
        ({"configurations": (5,)}, 2, ("configurations", "phonons.pairs 2")),
        (["supercell"], 1, ("supercell", "at least 2")),
        ({"slices": (1.0,)}, 2, ("slices", "another value")),
    ],
)
def test_mistakes_are_one_sentence_that_names_the_fix(null, sweeps, pairs, names):
    with pytest.raises(tiltsim.SettingsError) as refused:
        converge(null, thicknesses=[24.0], phonons=tiltsim.FrozenPhonons(pairs), sweeps=sweeps, **SETTINGS)
    message = str(refused.value)
    assert all(name in message for name in names)
    assert message.endswith(".")
    assert "\n" not in message


def test_the_verb_writes_everything_and_goes_on_from_its_checkpoints(null, tmp_path, tiltsim_command):
    structures.write(null, tmp_path / "null.xyz")
    out = tmp_path / "out"
    arguments = (
        "converge", tmp_path / "null.xyz", "--out", out, "--thicknesses", "12,24",
        "--inner", 60, "--outer", 80, "--sweep", "configurations", "--pairs", 2,
    )  # fmt: skip
    code, printed = tiltsim_command(*arguments)
    assert code == 0, printed
    assert "configurations" in printed
    assert "reference" in printed
    kept = sorted((out / ".work").rglob("*.npy"))
    assert len(kept) == 2 * 2 * 16  # two pairs of two signs, N = 4: the first pair is not computed again
    for name in ("convergence.nc", "convergence.png", "convergence.svg", "summary.json"):
        assert (out / name).is_file()
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["default"]["configurations"]["rms_pm"]) == set(QUANTITIES)
    before = [path.stat().st_mtime_ns for path in kept]
    assert tiltsim_command(*arguments)[0] == 0
    assert [path.stat().st_mtime_ns for path in kept] == before
