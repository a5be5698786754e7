"""Studies of networks in small, on the small library."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial import cKDTree
from typer.testing import CliRunner

import analysis
import dcnn
from tiltsim.cli_networks import networks
from tiltsim.errors import SettingsError
from tiltsim.network_studies import (
    NetworkStudy,
    centred_study,
    cross_study,
    features_study,
    fresh_model,
    make_field,
    maps_study,
    maps_summary,
    noise_study,
    plot_centred,
    plot_cross,
    plot_features,
    plot_maps,
    plot_noise,
    plot_saliency,
    saliency_study,
    tilted_fields,
    windows_of,
)
from tiltsim.network_studies.fields import matched
from tiltsim.network_studies.judging import held_out_score, judge, learn, scatter, score

SMALL = NetworkStudy(labels="truth", dose_per_A2=1e5, thickness=60.0, size=448, epochs=20, seed=1)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def field(library):
    return make_field(SMALL.recipe(0.0), library, SMALL.seed)


def table(d, truth, subset=None):
    n = len(d)
    return xr.Dataset(
        {
            "d": (("cell", "component"), np.asarray(d, float)),
            "d_true": (("cell", "component"), np.asarray(truth, float)),
            "subset": ("cell", np.full(n, "test") if subset is None else subset),
        }
    )


def drawn(figure, folder, name):
    files = analysis.save_figure(figure, folder / name)
    assert [f.suffix for f in files] == [".png", ".svg", ".pdf"]
    assert all(f.stat().st_size > 5000 for f in files)


def test_scores_are_those_of_known_errors():
    truth = np.array([[10.0, 0.0], [-10.0, 0.0], [10.0, 4.0], [-10.0, -4.0]])
    one = score(truth + np.array([3.0, -1.0]), truth)
    assert one.bias == pytest.approx((3.0, -1.0))
    assert one.rmse == pytest.approx(np.sqrt(5.0))
    assert one.r2 == pytest.approx(1 - 5.0 / ((100.0 + 8.0) / 2))
    assert np.isnan(score(truth, np.zeros((4, 2))).r2)


def test_a_calibration_takes_away_gain_and_offset_and_leaves_noise():
    rng = np.random.default_rng(0)
    truth = rng.normal(scale=20.0, size=(2000, 2))
    noisy = truth + rng.normal(scale=2.0, size=truth.shape)
    d = noisy @ np.array([[1.4, 0.1], [-0.2, 0.8]]) + [5.0, -3.0]
    assert scatter([table(d, truth)]) == pytest.approx(2.0, rel=0.05)
    constant = np.zeros_like(truth)
    assert scatter([table(constant, truth)]) == pytest.approx(20.0, rel=0.05)
    # Only the test part counts.
    subset = np.where(np.arange(2000) < 1000, "train", "test")
    spoiled = np.where((subset == "train")[:, None], 1e3, truth)
    assert held_out_score([table(spoiled, truth, subset)]).rmse == 0.0


def test_truth_belongs_to_the_cell_that_was_fitted(field):
    cells = field.cells
    assert cells.sizes["cell"] > 150
    # Different directions of d, seen by fits with their sign.
    for component in "xy":
        fit, true = (cells[name].sel(component=component).values for name in ("d_fit", "d_true"))
        assert true.std() > 8.0
        assert np.corrcoef(fit, true)[0, 1] > 0.9
    assert np.abs(cells.tilt.values).max() < 1e-9  # leans of variants are left out
    _, labelled = field.labelled("fit")
    assert "tilt" not in labelled  # fits know none
    xr.testing.assert_equal(labelled.d.drop_attrs(), cells.d_fit.drop_attrs().rename("d"))
    assert labelled.sizes["column_a"] > cells.sizes["cell"]


def test_cells_without_truth_are_left_out(field):
    cells = field.cells
    fitted = cells.rename(d_fit="d").drop_vars("d_true")
    true = cells.rename(d_true="d").drop_vars("d_fit")
    known = cells.x.values > np.quantile(cells.x.values, 0.3)
    some = matched(fitted, true.isel(cell=np.flatnonzero(known)))
    np.testing.assert_array_equal(some.x.values, cells.x.values[known])
    np.testing.assert_array_equal(some.d_true.values, cells.d_true.values[known])
    flagged = fitted.assign(flag=("cell", known.astype(np.uint8)))
    assert matched(flagged, true.isel(cell=np.flatnonzero(~known))).sizes["cell"] == (~known).sum()
    with pytest.raises(SettingsError, match="Column fits found 0 of"):
        matched(fitted.assign(x=cells.x + 1e3), true)


def test_networks_learn_the_truth_better_than_fits_find_it(field):
    """Fits sit off iron even on the zone axis; a network taught the truth has no such error."""
    model = learn([field], SMALL, dcnn.Windows(), epochs=40)  # some 200 steps
    result = judge(model, field)
    right = result.isel(cell=np.flatnonzero(result.subset.values == "test"))
    line = result.attrs["split_x_angstrom"]
    assert right.x.min() >= line + 3.0
    own, fit = held_out_score([result]), held_out_score([result], "d_fit")
    assert own.n == fit.n == right.sizes["cell"]
    # The cells are those of the image right of the line whose windows are whole, each with its own fit.
    cells, last = field.cells, float(field.image.x[-1])
    whole = (cells.x - 3 >= line) & (cells.x + 3 <= last) & (cells.y - 3 >= 0) & (cells.y + 3 <= last)
    expected = score(*(cells[name].values[whole.values] for name in ("d_fit", "d_true")))
    assert fit.rmse == pytest.approx(expected.rmse)
    assert fit.n == expected.n
    assert own.rmse < 0.6 * fit.rmse
    assert own.r2 > 0.95


def test_maps_of_two_compositions(library, tmp_path):
    result = maps_study(SMALL, library, compositions=(0.0, 0.2))
    assert set(np.unique(result.samarium)) == {0.0, 0.2}
    polar, flat = (
        result.d_true.isel(cell=np.flatnonzero(result.samarium.values == s)).values for s in (0.0, 0.2)
    )
    # 23.6 pm along both axes against disorder of 3 pm in A and B alone: sqrt(9/4 + 9).
    assert np.median(np.abs(polar)) > 12.0
    assert flat.std() == pytest.approx(3.35, rel=0.15)
    # The test part's number is what the table says.
    test = result.isel(
        cell=np.flatnonzero((result.samarium.values == 0.0) & (result.subset.values == "test"))
    )
    rmse = np.sqrt(np.mean((test.d - test.d_true).values ** 2))
    assert float(result.rmse_network.sel(composition=0.0)) == pytest.approx(rmse)
    assert maps_summary(result)["0 % Sm"]["rmse_network"] == pytest.approx(rmse)
    assert np.corrcoef(test.d.values[:, 0], test.d_true.values[:, 0])[0, 1] > 0.8
    drawn(plot_maps(result, "y"), tmp_path, "maps")
    analysis.write_dataset(result, tmp_path / "maps.nc")
    with xr.open_dataset(tmp_path / "maps.nc") as back:
        np.testing.assert_allclose(back.d.values, result.d.values)


def test_noise_and_window(library, tmp_path):
    result = noise_study(SMALL, library, doses=(3e3, 1e6), sizes=(4.0, 8.0))
    assert result.rmse.dims == ("dose", "window")
    # A hundred times the dose: a tenth of the noise, and what calibration leaves of fits is mostly noise.
    noisy, clean = result.scatter_fit.values
    assert noisy > 3 * clean
    assert (result.scatter.isel(dose=0) > result.scatter.isel(dose=1)).all()
    # The same specimen at both doses, and the cells the largest window leaves.
    assert (result.cells > 20).all()
    drawn(plot_noise(result), tmp_path, "noise")


def test_cross_training(library, tmp_path):
    result = cross_study(SMALL, library, compositions=(0.0, 0.2))
    assert result.rmse.shape == (2, 2)
    # Fits of polar cells err by what they are polar, those of others by noise alone.
    assert float(result.rmse_fit.sel(tested=0.0)) > 2 * float(result.rmse_fit.sel(tested=0.2))
    np.testing.assert_allclose(result.r2, 1 - (result.rmse / result.spread) ** 2, atol=0.03)
    # A network that has seen no polar cell answers worse for polar ones than one that has.
    on_polar = result.rmse.sel(tested=0.0)
    assert float(on_polar.sel(trained=0.0)) < float(on_polar.sel(trained=0.2))
    assert float(result.spread.sel(tested=0.0)) > 3 * float(result.spread.sel(tested=0.2))
    drawn(plot_cross(result), tmp_path, "cross")


def test_centred_and_elsewhere(library, tmp_path):
    result = centred_study(SMALL, library, doses=(1e5,))
    assert list(result.way_tested.values) == ["B", "A", "sliding"]
    # Each window's way has its places: on A columns they lie half a cell off the B columns.
    at = {w: result.isel(cell=np.flatnonzero(result.way.values == w)) for w in ("B", "A")}
    on_b, on_a = (np.column_stack([at[w].x.values, at[w].y.values]) for w in ("B", "A"))
    assert np.median(cKDTree(on_b).query(on_a)[0]) == pytest.approx(2.8, abs=0.2)
    for way in ("B", "A"):
        assert float(result.r2.sel(way_tested=way, dose=1e5)) > 0.5
    drawn(plot_centred(result), tmp_path, "centred")


@pytest.fixture(scope="module")
def looked(library):
    study = NetworkStudy(labels="truth", dose_per_A2=1e5, thickness=60.0, epochs=15, seed=1)
    model = fresh_model(study, library, 10)
    return model, windows_of(model, tilted_fields(study, library, 6, first=1000))


def test_features_and_saliency(looked, tmp_path):
    model, windowed = looked
    assert model.targets == ("d", "tilt")
    assert np.ptp(windowed.labels["tilt_x"]) > 5.0
    views = features_study(model, windowed)
    assert float(views.r2.sel(layer="dense1", quantity="d_x")) > 0.8
    drawn(plot_features(views), tmp_path, "features")
    maps = saliency_study(model, windowed, cells=80)
    read = maps.on_site.sel(approach="integrated_gradients")
    # Windows stand on B, so that d is where A columns lie.
    assert (read.sel(target=["d_x", "d_y"], site="A") > 0.6).all()
    assert float(maps.share.sel(approach="saliency").sum(["row", "col"]).mean()) == pytest.approx(
        16.0
    )  # × (¼ Å)²
    drawn(plot_saliency(maps), tmp_path, "saliency")


def test_verbs_leave_dataset_figure_and_summary(looked, library_file, tmp_path):
    model, _ = looked
    file = dcnn.save(model, tmp_path / "model.safetensors")
    out = tmp_path / "out"
    asked = [
        "saliency",
        "--library",
        library_file,
        "--model",
        file,
        "--thickness",
        60,
        "--quick",
        "--out",
        out,
    ]
    done = CliRunner().invoke(networks, [str(a) for a in asked])
    assert done.exit_code == 0, done.output
    names = {f.name for f in out.iterdir()}
    assert names == {"saliency.nc", "saliency.png", "saliency.svg", "saliency.pdf", "summary.json"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["on_site"]["integrated_gradients"]["d_x"]["A"] > 0.5
    assert summary["study"]["thickness"] == 60.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["maps"], "--library"),
        (["maps", "--labels", "guess"], "guess"),
        (["centred", "--component", "z"], "--component"),
        (["cross", "--network", "gpt"], "network"),
        (["noise", "--tilt", "400"], "tilt"),
        (["features", "--network", "dense"], "dense"),
    ],
)
def test_refusals_come_before_any_work(options, says, library_file, tmp_path):
    if says != "--library":
        options = [*options, "--library", str(library_file)]
    done = CliRunner().invoke(networks, [*options, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, SettingsError | dcnn.ModelError)
    assert says in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["maps", "noise", "cross", "centred", "features"])
def test_every_verb_runs(verb, library_file, tmp_path):
    asked = [verb, "--library", library_file, "--thickness", 60, "--quick", "--out", tmp_path / "out"]
    done = CliRunner().invoke(networks, [str(a) for a in asked])
    assert done.exit_code == 0, done.output
    assert {f.suffix for f in (tmp_path / "out").iterdir()} == {".nc", ".png", ".svg", ".pdf", ".json"}
