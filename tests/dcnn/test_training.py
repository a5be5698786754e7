import json

import numpy as np
import pytest
import torch
import xarray as xr

from dcnn import (
    ModelError,
    TrainSettings,
    Windows,
    evaluate_split,
    load,
    plot_learning_curve,
    plot_split_maps,
    predict,
    save,
    split_line,
    train,
)
from dcnn._model import CONVENTIONS
from dcnn._samples import gather, hold_back
from dcnn._symmetry import mirrored_windows

NOISE = 0.03
MODES = ("centred", "sliding")
SETTINGS = {
    "centred": TrainSettings(Windows(), epochs=20, batch_size=32, device="cpu"),
    "sliding": TrainSettings(Windows("sliding", stride_angstrom=1.5), epochs=10, batch_size=64, device="cpu"),
}
QUICK = TrainSettings(Windows(), epochs=2, batch_size=32, device="cpu", train_fraction=1.0)


@pytest.fixture(scope="session")
def scene(make_scene):
    return make_scene(30, 20)


@pytest.fixture(scope="session")
def image(scene):
    return scene.draw(noise=NOISE)


@pytest.fixture(scope="session")
def models(scene, image):
    return {mode: train(image, scene.cells, settings) for mode, settings in SETTINGS.items()}


@pytest.fixture(scope="session", params=MODES)
def model(request, models):
    return models[request.param]


def weights(model):
    return model.network.state_dict()


def same_weights(one, other):
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


# What it learns -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "share"), [("centred", 0.15), ("sliding", 0.3)])
def test_the_right_third_is_predicted_far_better_than_by_the_mean(models, scene, image, mode, share):
    dataset, metrics = evaluate_split(models[mode], image, scene.cells)
    test = dataset.isel(cell=np.flatnonzero(dataset["subset"] == "test"))
    for component in ("x", "y"):
        result = {name: values[component] for name, values in metrics["test"].items() if name != "n"}
        assert result["rmse_pm"] < share * result["baseline_rmse_pm"]
        assert abs(result["bias_pm"]) < 1.5
        # The numbers reported are those of the dataset returned.
        label, d = (test[name].sel(component=component).values for name in ("d_label", "d"))
        assert result["rmse_pm"] == pytest.approx(np.sqrt(np.mean((d - label) ** 2)))
        assert result["bias_pm"] == pytest.approx(np.mean(d - label))
        assert result["r2"] == pytest.approx(1 - np.mean((d - label) ** 2) / np.var(label))
        assert result["baseline_rmse_pm"] > 15
    assert metrics["test"]["n"] == test.sizes["cell"]
    json.dumps(metrics)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("swapped", lambda d: d[:, ::-1]),
        ("x mirrored", lambda d: d * [-1, 1]),
        ("y mirrored", lambda d: d * [1, -1]),
        ("only x", lambda d: np.column_stack([np.full(len(d), 20.0), np.zeros(len(d))])),
    ],
)
def test_axes_and_signs_are_those_of_the_crystal(model, make_scene, name, change):
    # A new field whose displacements are known by construction, not by the labels of the training.
    other = make_scene(12, 10, seed=5, change=change)
    image = other.draw(noise=NOISE, seed=1)
    if model.windows.mode == "centred":
        found = predict(model, image, other.cells)
    else:
        inner = (
            (other.cells["x"] > 8)
            & (other.cells["x"] < 46)
            & (other.cells["y"] > 8)
            & (other.cells["y"] < 38)
        )
        found = predict(model, image, other.cells.isel(cell=np.flatnonzero(inner)))
        found["index"].values[:] = np.flatnonzero(inner)[found["index"].values]
    truth = other.cells["d"].values[found["index"].values]
    error = np.sqrt(np.mean((found["d"].values - truth) ** 2, axis=0))
    assert (error < 8).all()


def test_a_mirrored_image_turns_the_prediction(models, scene, image):
    mirrored = image.copy(data=image.values[:, ::-1])
    cells = scene.cells.assign(x=image.x.values[-1] - scene.cells.x)
    before, after = (
        predict(models["centred"], image, scene.cells),
        predict(models["centred"], mirrored, cells),
    )
    both = before["d"].values, after["d"].values
    assert np.corrcoef(both[0][:, 0], both[1][:, 0])[0, 1] < -0.95
    assert np.corrcoef(both[0][:, 1], both[1][:, 1])[0, 1] > 0.95


def test_a_model_serves_another_pixel_size(model, scene, image):
    fine = scene.draw(pixel=0.13, noise=NOISE, seed=2)
    _, metrics = evaluate_split(model, fine, scene.cells, split_x=80.0)
    for component in ("x", "y"):
        assert metrics["test"]["rmse_pm"][component] < 0.35 * metrics["test"]["baseline_rmse_pm"][component]


def test_several_fields_teach_one_model(make_scene):
    # Each field alone shows one direction; only together do they hold both.
    fields = []
    for seed, sign in ((1, 1.0), (2, -1.0)):
        part = make_scene(12, 12, seed=seed, change=lambda d, sign=sign: sign * np.abs(d))
        fields.append((part.draw(noise=NOISE, seed=seed), part.cells))
    settings = TrainSettings(Windows(), epochs=15, batch_size=16, device="cpu", train_fraction=1.0)
    model = train(fields, settings)
    assert model.card["fields"]["number"] == 2
    assert model.card["training"]["n_train"] + model.card["training"]["n_validation"] <= 288
    for (image, cells), sign in zip(fields, (1, -1), strict=True):
        assert (sign * predict(model, image, cells)["d"].mean("cell") > 15).all()


# Reproducibility ----------------------------------------------------------------------------------


def test_the_seed_decides_the_weights_and_nothing_else_is_touched(make_scene):
    small = make_scene(10, 10)
    image = small.draw(noise=NOISE)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (the global state is what must stay as it is)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = train(image, small.cells, QUICK)
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    torch.manual_seed(99)
    again = train(image, small.cells, QUICK)
    other = train(
        image, small.cells, TrainSettings(Windows(), epochs=2, device="cpu", train_fraction=1.0, seed=1)
    )
    assert same_weights(first, again)
    assert first.card == again.card
    assert not same_weights(first, other)


def test_validation_windows_share_no_pixel_with_training_windows(scene, image):
    for settings in SETTINGS.values():
        samples, lines = gather([(image, scene.cells), (image, scene.cells)], settings)
        assert lines == [split_line(image)] * 2
        held, free = hold_back(samples, settings)
        assert 0.1 * len(samples) < len(held) < 0.35 * len(samples)
        assert len(free) > 0.4 * len(samples)
        apart = np.abs(samples.xy[held][:, None] - samples.xy[free][None]).max(axis=-1)
        same_field = samples.field[held][:, None] == samples.field[free][None]
        assert apart[same_field].min() >= settings.windows.size_angstrom


def test_training_stops_when_validation_no_longer_improves(make_scene):
    small = make_scene(12, 12)
    seen = []
    settings = TrainSettings(
        Windows(), epochs=200, patience=1, learning_rate=0.01, batch_size=32, device="cpu", train_fraction=1.0
    )
    model = train(
        small.draw(noise=0.3), small.cells, settings, progress=lambda epoch, row: seen.append((epoch, row))
    )
    training = model.card["training"]
    errors = [row["validation_rmse_pm"] for row in training["history"]]
    assert len(seen) == len(errors) < 200
    assert [epoch for epoch, _ in seen] == list(range(1, len(seen) + 1))
    assert training["best_epoch"] == 1 + int(np.argmin(errors)) == len(seen) - 1


def test_augmentation_moves_windows_and_labels_together():
    # A bright spot at the end of d: after any mirror or transposition it must still lie there.
    pixels = 24
    d = torch.tensor(np.random.default_rng(0).integers(-10, 11, (200, 2)), dtype=torch.float32)
    stack = torch.zeros(200, pixels, pixels)
    col, row = ((d[:, k] + (pixels - 1) / 2).round().long() for k in (0, 1))
    d = torch.stack([col, row], dim=1) - (pixels - 1) / 2
    stack[torch.arange(200), row, col] = 1
    # A tilt along d, a thickness that no mirror changes, and another vector across d.
    across = torch.stack([-d[:, 1], d[:, 0]], dim=1)
    labels = torch.cat([d, 2 * d, torch.full((200, 1), 7.0)], dim=1)
    turned, found, which = mirrored_windows(stack, labels, [(0, 1), (2, 3)], torch.Generator().manual_seed(0))
    spot = turned.flatten(1).argmax(dim=1)
    at = torch.stack([spot % pixels, spot // pixels], dim=1) - (pixels - 1) / 2
    assert torch.equal(at, found[:, :2])
    assert torch.equal(2 * at, found[:, 2:4])
    assert (found[:, 4] == 7.0).all()
    assert set(which.tolist()) == set(range(8))
    # Mirrors keep lengths and turn a cross product over, by an odd number of the three bits.
    _, other, _ = mirrored_windows(stack, across, [(0, 1)], torch.Generator(), which)
    cross = at[:, 0] * other[:, 1] - at[:, 1] * other[:, 0]
    odd = sum(which >> bit & 1 for bit in range(3)) % 2
    assert torch.equal(cross, d.square().sum(dim=1) * (1 - 2 * odd))


def test_augmentation_is_used_only_on_request(make_scene):
    small = make_scene(8, 8)
    image = small.draw(noise=NOISE)
    assert not TrainSettings().augment
    plain, turned = (
        train(image, small.cells, TrainSettings(epochs=1, device="cpu", train_fraction=1.0, augment=augment))
        for augment in (False, True)
    )
    assert not same_weights(plain, turned)


# Prediction and files -----------------------------------------------------------------------------


def test_predictions_have_the_columns_of_cells_and_survive_netcdf(model, scene, image, tmp_path):
    torn = image.copy(deep=True)
    torn.values[:, :60] = np.nan
    found = predict(model, torn, scene.cells if model.windows.mode == "centred" else None)
    assert found["d"].dims == ("cell", "component")
    assert found["component"].values.tolist() == ["x", "y"]
    assert {name: found[name].attrs["units"] for name in found.data_vars} == {
        "x": "Å",
        "y": "Å",
        "d": "pm",
        "d_std": "pm",
        "index": "1",
    } | ({"flag": "1"} if "flag" in found else {})
    assert found.attrs["left_out_nan"] > 0
    assert found["x"].min() >= torn.x.values[60] + 3 - 0.2
    assert np.isfinite(found["d"]).all()
    evaluated, _ = evaluate_split(model, image, scene.cells)
    for number, dataset in enumerate((found, evaluated)):
        assert all(variable.attrs.get("units") for variable in dataset.data_vars.values())
        path = tmp_path / f"{number}.nc"
        dataset.to_netcdf(path, engine="netcdf4")
        with xr.open_dataset(path, engine="netcdf4") as back:
            xr.testing.assert_identical(back.load(), dataset)


def test_sliding_prediction_follows_the_stride(models, image):
    coarse, fine = (predict(models["sliding"], image, stride_angstrom=s) for s in (8.0, 4.0))
    # Every second point of the fine grid is a point of the coarse one.
    pairs = {
        (round(x, 3), round(y, 3)): d
        for x, y, d in zip(fine.x.values, fine.y.values, fine.d.values, strict=True)
    }
    for x, y, d in zip(coarse.x.values, coarse.y.values, coarse.d.values, strict=True):
        np.testing.assert_allclose(pairs[round(x, 3), round(y, 3)], d, atol=1e-3)


def test_an_image_of_nothing_but_nan_gives_no_cells(model, scene, image):
    empty = image.copy(data=np.full(image.shape, np.nan))
    found = predict(model, empty, scene.cells if model.windows.mode == "centred" else None)
    assert found["d"].shape == (0, 2)


def test_a_saved_model_predicts_the_same(model, scene, image, tmp_path):
    path = save(model, tmp_path / "m.safetensors")
    back = load(path)
    centres = scene.cells if model.windows.mode == "centred" else None
    xr.testing.assert_identical(predict(back, image, centres), predict(model, image, centres))
    assert back.card == model.card
    assert back.settings == model.settings == SETTINGS[model.windows.mode]
    assert back.card["conventions"] == CONVENTIONS
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_loading_leaves_the_random_state_alone(models, tmp_path):
    path = save(models["centred"], tmp_path / "m.safetensors")
    state = torch.random.get_rng_state()
    load(path)
    assert torch.equal(state, torch.random.get_rng_state())


def test_damaged_and_foreign_files_are_refused(models, tmp_path):
    import safetensors.torch

    good = save(models["centred"], tmp_path / "good.safetensors").read_bytes()
    bad = tmp_path / "bad.safetensors"
    flipped = bytearray(good)
    flipped[-1000] ^= 1
    renamed = good.replace(b"tiltsim-dcnn/3", b"tiltsim-dcnn/9")
    edited = good.replace(b"pm, x right, y down", b"pm, x right, y up  ")
    assert len({good, bytes(flipped), renamed, edited}) == 4
    foreign = safetensors.torch.save({"w": torch.zeros(3)})
    for content, word in (
        (good[: len(good) // 2], "whole"),
        (good[:4], "whole"),
        (b"", "whole"),
        (b"not a model at all", "whole"),
        (bytes(flipped), "checksum"),
        (edited, "checksum"),
        (renamed, "format"),
        (foreign, "format"),
    ):
        bad.write_bytes(content)
        with pytest.raises(ModelError, match=word) as caught:
            load(bad)
        assert "bad.safetensors" in str(caught.value)
    with pytest.raises(ModelError, match="no model file"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(ModelError, match="Cannot write"):
        save(models["centred"], tmp_path / "absent" / "m.safetensors")


def test_the_network_is_small(model):
    assert 100_000 < sum(value.numel() for value in model.network.parameters()) < 200_000


# What it refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"patience": 0},
        {"seed": -1},
        {"epochs": 2.5},
        {"learning_rate": -0.1},
        {"train_fraction": 1.5},
        {"validation_fraction": 0.9},
        {"device": "abacus"},
        {"windows": "centred"},
    ],
)
def test_absurd_settings_are_refused(bad):
    with pytest.raises(ModelError, match=next(iter(bad))):
        TrainSettings(**bad)


def test_fields_that_cannot_be_trained_on_are_refused(make_scene):
    small = make_scene(8, 8)
    image = small.draw()
    flagged = small.cells.assign(flag=small.cells["flag"] + 1)
    line = small.cells.isel(cell=slice(0, 8))
    with pytest.raises(ModelError, match="No window is left"):
        train(image, flagged)
    with pytest.raises(ModelError, match="No window is left"):
        train(image, line, SETTINGS["sliding"])
    with pytest.raises(ModelError, match="No window is left"):
        train(image.copy(data=np.full(image.shape, np.nan)), small.cells)
    with pytest.raises(ModelError, match="validation_fraction"):
        train(image, small.cells.isel(cell=[27, 28]), QUICK)
    with pytest.raises(ModelError, match="at least one"):
        train([])
    with pytest.raises(ModelError, match="needs its cells"):
        train(image, QUICK)
    with pytest.raises(ModelError, match="diverged"):
        train(
            image, small.cells, TrainSettings(epochs=5, learning_rate=1e30, device="cpu", train_fraction=1.0)
        )


def test_arguments_of_the_other_mode_are_refused(models, scene, image):
    for mode, arguments, word in (
        ("centred", {}, "pass the centres"),
        ("centred", {"centres": scene.cells, "stride_angstrom": 2.0}, "takes no stride"),
        ("sliding", {"centres": scene.cells, "stride_angstrom": 2.0}, "not both"),
        ("sliding", {"stride_angstrom": -1.0}, "stride_angstrom"),
        ("sliding", {"device": "abacus"}, "abacus"),
        ("sliding", {"device": "meta"}, "meta"),
    ):
        with pytest.raises(ModelError, match=word):
            predict(models[mode], image, **arguments)
    with pytest.raises(ModelError, match="No test window"):
        evaluate_split(models["centred"], image, scene.cells, split_x=1e3)


# Figures ------------------------------------------------------------------------------------------


def test_maps_show_the_numbers_of_the_dataset(models, scene, image, tmp_path):
    dataset, _ = evaluate_split(models["centred"], image, scene.cells)
    figure = plot_split_maps(dataset, truth_name="Column fit")
    axes = figure.axes[:6]
    d, label = dataset["d"].values, dataset["d_label"].values
    for row in (0, 1):
        for ax, expected in zip(axes[3 * row : 3 * row + 3], (label, d, d - label), strict=True):
            np.testing.assert_array_equal(ax.collections[0].get_array(), expected[:, row])
            low, high = ax.get_ylim()
            assert low > high  # y points down
            assert ax.lines[0].get_xdata()[0] == dataset.attrs["split_x_angstrom"]
    texts = {text.get_text() for ax in axes for text in ax.texts}
    assert texts == {"← train", "test →"}
    figure.savefig(tmp_path / "maps.png")
    with pytest.raises(ModelError, match="evaluate_split"):
        plot_split_maps(dataset.drop_vars("d_label"))


def test_the_learning_curve_shows_the_history(models):
    figure = plot_learning_curve(models["centred"])
    training = models["centred"].card["training"]
    lines = figure.axes[0].lines
    for line, name in zip(lines, ("train_rmse_pm", "validation_rmse_pm"), strict=False):
        assert list(line.get_ydata()) == [row[name] for row in training["history"]]
