"""The study of what transfers, on synthetic fields that stand in for an experiment."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import xarray as xr
from typer.testing import CliRunner

import dcnn
from tiltsim import synthesize
from tiltsim.cli_transfer import transfer
from tiltsim.synth.labelling import labelled
from tiltsim.synth.recipe import parse_recipe
from tiltsim.transfer import best_map, fine_tuning, transfer_study
from tiltsim.transfer_plots import plot_transfer

RECIPE = parse_recipe(
    {
        "title": "wide walls, so that d takes any size",
        "size": [220, 400],
        "pixel": 0.2,
        "specimens": [
            {
                "phase": "R3c",
                "thickness": [60.0, 90.0],
                "tilt": [0.0, 4.0],
                "lean_scale": 0.0,
                "polar": [0.6, 1.2],
                "domains": {"pattern": "random", "count": 4, "wall_width": 20.0},
            }
        ],
        "detection": {"dose_per_A2": 4e4},
    }
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def experiment(library):
    """A field that no network has seen, and its true cells."""
    return labelled(synthesize(RECIPE, library, seed=11))


@pytest.fixture(scope="module")
def start(library):
    fields = [labelled(synthesize(RECIPE, library, seed=12, field=k)) for k in range(4)]
    settings = dcnn.TrainSettings(
        epochs=12, train_fraction=1.0, weight_decay=0.01, jitter_angstrom=0.03, device="cpu"
    )
    return dcnn.train(fields, settings)


def quick(start, **changes):
    return fine_tuning(start, **{"epochs": 6, "patience": 6, "validation_fraction": 0.0} | changes)


@pytest.fixture(scope="module")
def study(experiment, start):
    image, cells = experiment
    return transfer_study(image, cells, start, quick(start), (0.25, 1.0), repeats=2)


def test_pre_training_on_the_same_kind_of_field_transfers(study):
    rmse = np.sqrt((study["rmse"] ** 2).mean(["repeat", "component"]))
    baseline = float(np.sqrt((study["mean_rmse"] ** 2).mean()))
    assert baseline > 8  # pm: there is something to learn
    assert float(rmse.sel(training="pre-trained").max()) < baseline / 3
    # With a quarter of the labels, what was learned before is worth most.
    few = rmse.sel(share=0.25)
    assert float(few.sel(training="fine-tuned")) < 0.8 * float(few.sel(training="scratch"))
    assert float(study["r2"].sel(training="fine-tuned").min()) > 0.8
    assert best_map(study)[0] != "scratch"


def test_a_study_says_what_it_compared(study, experiment):
    image, cells = experiment
    line = dcnn.split_line(image)
    sides = dcnn.split(cells, dcnn.Windows(), line)
    counts = study["labelled"].transpose("share", "repeat").values
    assert (counts[1] == (sides == "train").sum()).all()
    assert (np.abs(counts[0] / counts[1] - 0.25) < 0.08).all()
    assert (study["subset"].values == "test").sum() == (sides == "test").sum()
    assert study.attrs["split_x_angstrom"] == pytest.approx(line)
    # Numbers follow from the maps that come with them.
    test = study["subset"] == "test"
    error = (study["d"] - study["d_label"]).where(test)
    np.testing.assert_allclose(np.sqrt((error**2).mean("cell")).transpose("training", "share", "component"),
                               study["rmse"].isel(repeat=0, drop=True).transpose("training", "share", "component"))  # fmt: skip
    assert np.isnan(study["label_noise"]).all()  # true labels state none
    assert np.isnan(study["r2_corrected"]).all()


def test_labels_of_the_test_part_and_of_the_guard_band_teach_nothing(experiment, start):
    image, cells = experiment
    line = dcnn.split_line(image)
    wrong = cells.copy(deep=True)
    wrong["d"].values[dcnn.split(cells, dcnn.Windows(), line) != "train"] += 1e3
    settings = quick(start, epochs=2)
    one, other = (
        transfer_study(
            image, c, start, settings, (0.5,), scratch=replace(settings, targets=("d",)), repeats=1
        )
        for c in (cells, wrong)
    )
    np.testing.assert_array_equal(one["d"], other["d"])
    assert float(other["rmse"].min()) > 900


def test_a_sign_that_is_turned_shows(experiment, start):
    """Pre-training that knows nothing of an experiment's convention is worse than no network."""
    image, cells = experiment
    turned = cells.assign(d=-cells["d"])
    turned["d"].attrs = cells["d"].attrs
    result = transfer_study(image, turned, start, quick(start, epochs=1), (1.0,), repeats=1)
    ready = result["rmse"].sel(training="pre-trained").isel(share=0, repeat=0)
    assert (ready > 1.5 * result["mean_rmse"]).all()
    assert (result["r2"].sel(training="pre-trained") < 0).all()


def test_noise_of_labels_is_taken_off(experiment, start):
    image, cells = experiment
    rng = np.random.default_rng(3)
    sigma = np.array([6.0, 3.0])
    noisy = cells.copy(deep=True)
    # Of one size and random sign: so its square does not depend on how few cells there are.
    noisy["d"].values += sigma * rng.choice([-1.0, 1.0], noisy["d"].shape)
    noisy["d_cov"] = (
        ("cell", "component", "component_2"),
        np.broadcast_to(np.diag(sigma**2), (cells.sizes["cell"], 2, 2)).copy(),
        {"units": "pm²"},
    )
    noisy = noisy.assign_coords(component_2=["x", "y"])
    settings = quick(start, epochs=1)
    clean, result = (transfer_study(image, c, start, settings, (1.0,), repeats=1) for c in (cells, noisy))
    np.testing.assert_allclose(result["label_noise"], sigma)
    expected = clean["label_std"] ** 2 / (clean["label_std"] ** 2 + sigma**2)
    np.testing.assert_allclose(result["reliability"], expected, atol=0.08)
    # Noise that the network has not seen: what is left when it is taken off is the agreement with the truth.
    at = {"training": "pre-trained", "share": 1.0, "repeat": 0}
    np.testing.assert_allclose(result["r2_corrected"].sel(at), clean["r2"].sel(at), atol=0.12)
    assert (result["r2"].sel(at) < clean["r2"].sel(at) - sigma**2 / 4 / clean["label_std"] ** 2).all()


def test_a_model_is_handed_over_for_every_training(experiment, start):
    seen = []
    image, cells = experiment
    settings = quick(start, epochs=1)
    scratch = replace(settings, targets=("d",))
    transfer_study(image, cells, start, settings, (1.0,), scratch=scratch, repeats=2, keep=lambda *what: seen.append(what))  # fmt: skip
    assert [what[:3] for what in seen] == [
        (kind, 1.0, k) for k in (0, 1) for kind in ("scratch", "fine-tuned")
    ]
    assert len({w[3].settings.seed for w in seen}) == 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"shares": ()}, "shares"),
        ({"shares": (0.0, 1.0)}, "shares"),
        ({"shares": (1.5,)}, "shares"),
        ({"shares": (0.5, 0.5)}, "differ"),
        ({"repeats": 0}, "repeats"),
        ({"settings": {"windows": dcnn.Windows(size_angstrom=8.0)}}, "windows"),
        ({"settings": {"train_fraction": 1.0}}, "train_fraction"),
        ({"scratch": dcnn.TrainSettings(train_fraction=0.5)}, "scratch"),
    ],
)
def test_what_makes_no_study_is_refused_before_any_training(experiment, start, change, word):
    image, cells = experiment
    if "settings" in change:
        change = change | {"settings": fine_tuning(start, **change["settings"])}
    with pytest.raises(dcnn.ModelError, match=word):
        transfer_study(image, cells, start, keep=pytest.fail, **change)


def test_the_figure_has_letters_units_and_both_sides(study):
    figure = plot_transfer(study)
    axes = [ax for part in figure.subfigs for ax in part.axes]
    titles = [ax.get_title(loc="left")[:3] for ax in axes if ax.get_title(loc="left")]
    assert titles == [f"({letter})" for letter in "abcdefgh"]
    labels = {ax.get_ylabel() for ax in axes} | {ax.get_xlabel() for ax in axes}
    assert {"RMSE against column fits (pm)", "x (Å)", "labelled cells in the training area"} <= labels
    assert sum("→" in text.get_text() for ax in axes for text in ax.texts) == 3


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(transfer)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_command_leaves_a_study_of_a_real_film(command, start, tmp_path, real_film):
    dcnn.save(start, tmp_path / "net.safetensors")
    done = command(real_film, tmp_path / "net.safetensors", "--lattice-parameter", 4.0, "--shares", "0.3,1",
                   "--repeats", 1, "--epochs", 4, "--device", "cpu", "--out", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    study = xr.open_dataset(tmp_path / "out/transfer.nc")
    assert summary["shares"] == [0.3, 1.0]
    assert 500 < summary["labelled_cells"][1] < 720
    assert {"transfer.png", "transfer.svg", "model.safetensors"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
    # In this film fits state 2 pm of noise, more than a third of all variance: a reader must be told.
    assert all(1.5 < v < 3 for v in summary["label_noise_pm"])
    assert all(0.2 < v < 0.8 for v in summary["label_reliability"])
    np.testing.assert_allclose(
        summary["scratch"]["rmse_pm"], study["rmse"].sel(training="scratch").isel(repeat=0)
    )
    # Trained on its own labels a network does better than their mean; there is something to learn.
    assert np.all(np.array(summary["scratch"]["rmse_pm"])[1] < summary["mean_label_rmse_pm"])


def test_command_refuses_absurd_shares_first(command, tmp_path):
    for shares in ("", "a", "0,1", "0.5,0.5", "2"):
        done = command(tmp_path / "no.dm4", tmp_path / "no.safetensors", "--shares", shares)
        assert "--shares" in str(done.exception)


@pytest.fixture(scope="session")
def real_film():
    for folder in (os.environ.get("TILTSIM_DATA"), Path(__file__).parents[3] / "shared/data"):
        if folder and (Path(folder) / "BTO_crystal_1.dm4").is_file():
            return Path(folder) / "BTO_crystal_1.dm4"
    pytest.skip("no real micrographs: set TILTSIM_DATA or put them in ../shared/data")
