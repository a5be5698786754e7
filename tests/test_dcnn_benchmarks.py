"""What the benchmarks of networks compare is what they say."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import dcnn

FOLDER = Path(__file__).parent.parent / "benchmarks"
SETTINGS = dcnn.TrainSettings(epochs=2, device="cpu")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return import_module


@pytest.fixture
def field(benchmark):
    return benchmark("_dcnn_speed").gaussian_field(320)


def test_stand_in_shows_its_cells(field):
    image, cells = field
    at_b = image.sel(x=cells["x"], y=cells["y"], method="nearest")
    # A columns, half a cell away along both axes, are more than twice as bright; edges have only background.
    at_a = image.sel(x=cells["x"] + 2.0, y=cells["y"] + 2.0, method="nearest")
    assert float(at_a.mean()) > 1.5 * float(at_b.mean()) > 2 * float(image[:4].mean())
    assert 8 < float(cells["d"].std()) < 16


def test_both_networks_see_the_same_windows_and_the_missing_one_is_named(benchmark, field, monkeypatch):
    peer = benchmark("_atomai_peer")
    handed = []

    def stand_in(parts, label, seed, python, threads, **budget):
        handed.append(budget)
        # Nothing but the windows goes over: here what says the mean label, everywhere.
        assert parts["train"]["intensity"].shape[1:] == (24, 24)
        assert len(parts["train"]["intensity"]) == len(label["train"])
        edge = float(parts["train"]["x"].max()) + 3
        assert edge <= dcnn.split_line(field[0]) <= float(parts["test"]["x"].min()) - 3
        mean = np.broadcast_to(label["train"].mean(axis=0), label["test"].shape)
        return peer._scores(mean, label["test"]) | {"seconds": 1.0, "batches": 1, "weights": 2}

    monkeypatch.setattr(peer, "has_atomai", lambda python: True)
    monkeypatch.setattr(peer, "_elsewhere", stand_in)
    threads = torch.get_num_threads()
    result = peer.compared(*field, SETTINGS, batches=4, seconds=0.2, threads=1)
    assert torch.get_num_threads() == threads
    assert handed == [{"batches": 4}, {"seconds": 0.2}]
    assert result["4 mini-batches"]["baseline"]["batches"] == 4
    assert result["4 mini-batches"]["AtomAI"]["rmse_pm"] == pytest.approx(result["mean_label_rmse_pm"])
    assert result["4 mini-batches"]["AtomAI"]["r2"]["x"] <= 0
    monkeypatch.setattr(peer, "has_atomai", lambda python: False)
    result = peer.compared(*field, SETTINGS, batches=2, seconds=0.1, threads=1)
    assert result["0.1 s"]["AtomAI"] == "not installed"
    assert peer.table(result).row_count == 4


def test_atomai_learns_where_a_spot_is(benchmark):
    pytest.importorskip("atomai")
    peer = benchmark("_atomai_peer")
    rng = np.random.default_rng(0)
    place = rng.uniform(-1, 1, (400, 2))
    axis = np.arange(24) - 11.5
    x, y = ((axis - 5 * place[:, k, None]) for k in (0, 1))
    stack = np.exp(-(x[:, None, :] ** 2 + y[:, :, None] ** 2) / 8).astype(np.float32)
    found = peer.regressed(stack[:320], place[:320].astype(np.float32), stack[320:], batches=150)
    assert found["d"].shape == (80, 2)
    assert np.corrcoef(found["d"][:, 0], place[320:, 0])[0, 1] > 0.7
    assert int(found["batches"]) == 150


def test_speeds_are_of_the_whole_work(benchmark):
    speed = benchmark("_dcnn_speed")
    field = speed.gaussian_field(320)
    trained = speed.training_speed(*field, SETTINGS, threads=1, repeats=2)
    assert trained["epochs"] == 2
    assert len(trained["runs"]) == 2
    line = dcnn.split_line(field[0])
    labelled = dcnn.labelled_windows(*field, SETTINGS.windows, subset="train", split_x=line).sizes["window"]
    # Windows that overlap those held back are neither trained on nor validated with.
    assert 0.6 * labelled < trained["windows"] <= labelled
    model = dcnn.train(*field, dcnn.TrainSettings(dcnn.Windows("sliding"), epochs=1, device="cpu"))
    mapped = speed.dense_speed(model, 300, threads=1, repeats=1)
    # A grid every 1.5 Å over 59.8 Å, less half a window at each side.
    assert mapped["places"] == (int((299 * 0.2 - 6) / 1.5) + 1) ** 2
    assert mapped["seconds"] == mapped["runs"][0]
