"""Calibration: on what a model will be asked, and on nothing that is flagged; files whose cards lack it."""

import json

import numpy as np
import pytest
import torch

from dcnn import ModelError, TrainSettings, Windows, calibrate, load, predict, predict_map, save, train
from dcnn._checkpoint import FORMAT as CHECKPOINT
from dcnn._model import FORMAT, read_tensors, write_tensors


@pytest.fixture(scope="module")
def fields(make_scene):
    scenes = [make_scene(12, 12, seed=seed) for seed in range(24)]
    return [(scene.draw(noise=0.02, seed=k), scene.cells) for k, scene in enumerate(scenes)]


def quick(**more):
    return TrainSettings(
        **{
            "epochs": 3,
            "train_fraction": 1.0,
            "weight_decay": 0.01,
            "device": "cpu",
            "batch_size": 64,
            **more,
        }
    )


@pytest.fixture(scope="module")
def centred(fields):
    return calibrate(train(fields[:6], quick()), fields[6:18])


def test_a_sliding_network_knows_its_own_grid(fields):
    model = calibrate(train(fields[:6], quick(windows=Windows("sliding"))), fields[6:18])
    for image, cells in fields[18:22]:
        for where in (None, cells):  # on its grid, and read at columns
            found = predict(model, image, where)
            assert found.attrs["novelty"] < 1.3
            assert (found["novelty"] > 1).mean() < 0.06
    whole = predict_map(model, fields[18][0], 4.0)
    assert np.diff(whole.x) == pytest.approx(4.0)
    np.testing.assert_allclose(
        whole["d"].values.reshape(-1, 2), predict(model, fields[18][0], stride_angstrom=4.0)["d"], atol=1e-6
    )


def test_an_image_of_one_known_cell_is_known(centred, fields):
    flags = [
        predict(centred, image, cells.isel(cell=[k])).attrs["novelty"] > 1
        for image, cells in fields[18:]
        for k in range(20, 120, 5)
    ]
    assert len(flags) == 120
    assert np.mean(flags) < 0.06


def test_flagged_cells_and_empty_fields_do_not_count(centred, fields):
    (image, cells), *others = fields[6:18]
    flag = cells["flag"].values.copy()
    flag[::3] = 1
    wrong = cells["d"].values.copy()
    wrong[::3] += 1e3
    spoiled = cells.assign(d=(("cell", "component"), wrong, {"units": "pm"}))
    marked, kept = spoiled.assign(flag=("cell", flag)), cells.isel(cell=np.flatnonzero(flag == 0))
    one, other = (
        calibrate(centred, [*others, (image, marked), (image, cells.isel(cell=[]))]),
        calibrate(centred, [*others, (image, kept)]),
    )
    assert one.card["calibration"]["channels"] == other.card["calibration"]["channels"]
    with pytest.raises(ModelError, match="No field shows"):
        calibrate(centred, [(image, cells.isel(cell=[]))] * 10)


def test_a_files_card_must_hold_what_predictions_need(centred, tmp_path):
    path = save(centred, tmp_path / "good.safetensors")
    tensors, card = read_tensors(path, FORMAT)

    def without(name):
        return {k: v for k, v in card.items() if k != name}

    novelty = card["novelty"]
    weights = {k: v for k, v in tensors.items() if not k.startswith("extra.")}
    first = next(iter(weights))
    cases = [
        (without("label_scale"), tensors),
        (card | {"label_scale": ["a", "b"]}, tensors),
        (card | {"label_scale": [1.0]}, tensors),
        (card | {"label_scale": [1.0, -1.0]}, tensors),
        (card | {"label_mean": [0.0, float("nan")]}, tensors),
        (card | {"calibration": {}}, tensors),
        (card | {"calibration": []}, tensors),
        (without("novelty"), tensors),
        (card | {"novelty": {**novelty, "image_limits": {"cells": [], "limit": []}}}, tensors),
        (card, weights),
        (card, tensors | {first: tensors[first].double()}),
        (card, tensors | {first: tensors[first] * float("nan")}),
        ([1, 2], tensors),
    ]
    for k, (changed, parts) in enumerate(cases):
        bad = write_tensors(tmp_path / f"bad{k}.safetensors", parts, changed, FORMAT)
        with pytest.raises(ModelError, match="do not belong together"):
            load(bad)
    assert load(path).card == json.loads(json.dumps(centred.card))


def test_a_checkpoint_without_a_card_is_refused(fields, tmp_path):
    path = write_tensors(tmp_path / "c.safetensors", {"w": torch.zeros(2)}, [1], CHECKPOINT)
    with pytest.raises(ModelError, match="of a training with other"):
        train(fields[:2], quick(), checkpoint=path)
    with pytest.raises(ModelError, match="does not exist"):
        train(fields[:2], quick(), checkpoint=tmp_path / "nowhere" / "c.safetensors")


def test_a_model_that_was_off_centre_can_be_trained_on_mirrors(make_scene):
    """What it predicts stays, though the mean that its labels had is not subtracted of mirrored ones."""
    scene = make_scene(12, 12, change=lambda d: d + np.array([30.0, 20.0]))
    field = (scene.draw(noise=0.02), scene.cells)
    start = train([field], quick(epochs=6))
    assert np.abs(start.mean).min() > 10
    still = train([field], quick(epochs=1, learning_rate=1e-12, augment=True), start=start)
    assert still.mean.tolist() == [0.0, 0.0]
    before, after = (predict(m, *field)["d"].values for m in (start, still))
    np.testing.assert_allclose(after, before, atol=1e-3)


def test_targets_without_labels_have_no_error(make_scene, fields):
    model = train(fields[:4], quick(network="context", targets=("d", "tilt", "thickness"), epochs=1))
    row = model.card["training"]["history"][-1]
    assert "validation_rmse_pm" in row
    assert "validation_tilt_mrad" not in row
    assert "validation_thickness_angstrom" not in row


def test_where_an_image_lies_does_not_matter(fields):
    model = train(fields[:4], quick(network="context", epochs=2))
    image, cells = fields[18]
    far = 1e5
    moved = image.assign_coords({a: (a, image[a].values + far, {"units": "Å"}) for a in ("x", "y")})
    cells_there = cells.assign({a: ("cell", cells[a].values + far, {"units": "Å"}) for a in ("x", "y")})
    here, there = (predict(model, *field)["d"].values for field in ((image, cells), (moved, cells_there)))
    np.testing.assert_allclose(there, here, atol=0.01)


def test_a_stride_of_millions_of_windows_is_refused(fields):
    model = train(fields[:2], quick(windows=Windows("sliding"), epochs=1))
    with pytest.raises(ModelError, match="stride_angstrom"):
        predict(model, fields[0][0], stride_angstrom=1e-4)
    with pytest.raises(ModelError, match="stride_angstrom"):
        predict_map(model, fields[0][0], 1e-4)
