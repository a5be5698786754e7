"""Every kind of network: what it learns, what it expects of its error, what it does not know."""

import numpy as np
import pytest
import torch

from dcnn import (
    ModelError,
    TrainSettings,
    Windows,
    calibrate,
    evaluate_split,
    load,
    predict,
    predict_map,
    save,
    train,
)
from dcnn._networks import NETWORKS, initialised
from dcnn._samples import neighbourhoods

TARGETS = ("d", "tilt", "thickness")
WINDOWS_SEEN = ("baseline", "residual", "context")


def tilted(make_scene, seed, nx=12, ny=12):
    """A scene whose columns are all drawn to one side by a 'tilt' that only A columns feel, and its noise."""
    rng = np.random.default_rng(seed)
    tilt = rng.uniform(-5, 5, 2)
    scene = make_scene(nx, ny, seed=seed)
    cells = scene.cells.assign(
        tilt=(("cell", "component"), np.tile(tilt, (scene.cells.sizes["cell"], 1)), {"units": "mrad"}),
        thickness=("cell", np.full(scene.cells.sizes["cell"], 100.0 + 20 * seed % 7), {"units": "Å"}),
    )
    columns = scene.columns.copy()
    is_a = columns[:, 2] == 1.0
    columns[is_a, :2] += tilt * 0.02  # 2 pm per mrad, so that fitted d would be wrong by as much
    # What tells tilt from d: A columns grow fainter along it.
    columns[is_a, 2] *= 1 + 0.04 * tilt[0]
    columns[~is_a, 2] *= 1 + 0.1 * tilt[1]
    image = type(scene)(columns, cells, scene.extent).draw(noise=0.02, seed=seed)
    return image, cells


@pytest.fixture(scope="module")
def fields(make_scene):
    return [tilted(make_scene, seed) for seed in range(40)]


def settings_for(network, **more):
    return TrainSettings(
        network=network,
        targets=TARGETS,
        epochs={"dense": 9, "context": 12, "residual": 4}.get(network, 5),
        batch_size={"dense": 4, "context": 256}.get(network, 64),
        learning_rate=2e-3,
        weight_decay=0.01,
        train_fraction=1.0,
        device="cpu",
        **more,
    )


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def model(request, fields):
    made = train(fields[:26], settings_for(request.param), validation=fields[26:28])
    return calibrate(made, fields[28:38])


@pytest.fixture(scope="module")
def dense(fields):
    return train(fields[:6], settings_for("dense"), validation=fields[26:28])


def test_d_tilt_and_their_errors_are_learned(model, fields):
    for image, cells in fields[38:]:
        found = predict(model, image, cells)
        inner = found["index"].values
        error = found["d"].values - cells["d"].values[inner]
        # Truth is ±20 pm in bands a few cells wide, and a fit would be wrong by 2 pm per mrad. A dense map learns from
        # labels interpolated across walls of no width, where it stays smooth.
        assert np.sqrt(np.mean(error**2)) < (8.0 if model.settings.network == "dense" else 6.0)
        assert found["d"].attrs["units"] == "pm"
        off = found["tilt"].values.mean(axis=0) - cells["tilt"].values[0]
        assert np.abs(off).max() < 2.0
        assert (
            np.sign(cells["tilt"].values[0][np.abs(cells["tilt"].values[0]) > 2]).tolist()
            == np.sign(found["tilt"].values.mean(axis=0)[np.abs(cells["tilt"].values[0]) > 2]).tolist()
        )
        assert (found["d_std"].values > 0).all()
        assert (found["d_interval"].values > 0).all()


def test_intervals_hold_the_share_they_promise(model, fields):
    inside, count = 0, 0
    for image, cells in fields[28:]:
        found = predict(model, image, cells)
        error = np.abs(found["d"].values - cells["d"].values[found["index"].values])
        inside, count = inside + (error <= found["d_interval"].values).sum(), count + error.size
    assert 0.85 < inside / count < 0.95
    assert found.attrs["coverage"] == 0.9


def test_the_unknown_is_flagged(model, fields):
    image, cells = fields[38]
    known = predict(model, image, cells)
    noise = image.copy(data=np.random.default_rng(0).normal(size=image.shape))
    strange = predict(model, noise, cells)
    assert known.attrs["novelty"] < 1.3
    assert strange.attrs["novelty"] > max(1.0, 1.3 * known.attrs["novelty"])
    assert np.median(strange["novelty"]) > np.median(known["novelty"])


def test_a_calibrated_model_survives_its_file(model, fields, tmp_path):
    image, cells = fields[38]
    back = load(save(model, tmp_path / "m.safetensors"))
    one, other = (predict(m, image, cells) for m in (model, back))
    assert one.identical(other)
    assert back.card == model.card


def test_a_map_agrees_with_its_cells(fields, dense):
    image, cells = fields[38]
    whole = predict_map(dense, image)
    assert whole["d"].dims == ("y", "x", "component")
    found = predict(dense, image, cells)
    read = whole["d"].interp(x=found["x"], y=found["y"]).values
    np.testing.assert_allclose(found["d"].values, read, atol=1e-3)
    holed = image.copy(deep=True)
    holed.values[:100, :80] = np.nan
    torn = predict_map(dense, holed)
    gone = np.isnan(torn["d"].values[..., 0])
    y, x = np.meshgrid(torn.y.values, torn.x.values, indexing="ij")
    np.testing.assert_array_equal(gone, (y < image.y.values[100] - 0.1) & (x < image.x.values[80] - 0.1))
    with pytest.raises(ModelError, match="centred"):
        predict_map(train(*fields[0], TrainSettings(epochs=1, device="cpu")), image)


def test_tiles_of_a_dense_map_leave_no_seams(dense, make_scene):
    large = make_scene(70, 30, seed=9)
    image = large.draw(noise=0.02)
    steps = []
    tiled = predict_map(dense, image, progress=steps.append)
    assert steps == sorted(steps)
    assert steps[-1] == pytest.approx(1.0)
    from dcnn import _responses

    before, _responses._TILE = _responses._TILE, 10_000
    try:
        whole = predict_map(dense, image)
    finally:
        _responses._TILE = before
    assert whole.x.size > before
    # Where no tile ends, what a place sees is all there.
    np.testing.assert_allclose(tiled["d"].values, whole["d"].values, atol=0.5)


def test_a_cell_belongs_to_one_tile_only():
    rng = np.random.default_rng(0)
    for extent in (3.0, 60.0, 400.0):
        xy = rng.uniform(0, extent, (2000, 2)) * [1.0, 0.7]
        owned = np.zeros(len(xy), int)
        for members, inner in neighbourhoods(xy):
            owned[members[inner]] += 1
            assert np.ptp(xy[members], axis=0).max() <= 80 + 1e-6 or extent < 80
        assert (owned == 1).all()


def test_equal_cells_know_tilt_better_together(make_scene, fields):
    made = train(fields[:26], settings_for("context"), validation=fields[26:28])
    image, cells = fields[39]
    alone = [predict(made, image, cells.isel(cell=[k])) for k in range(30, 60)]
    together = predict(made, image, cells)
    assert float(together["tilt_std"].mean()) < 0.97 * np.mean([float(a["tilt_std"].mean()) for a in alone])


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_weights_come_from_the_generator_alone(name):
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    one, other = (initialised(name, 24, 4, torch.Generator().manual_seed(1)).state_dict() for _ in range(2))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert all(torch.isfinite(v).all() for v in one.values())
    assert torch.equal(state, torch.random.get_rng_state())


def test_windows_on_a_columns_learn_too(make_scene):
    scene = make_scene(20, 16)
    a = scene.columns[scene.columns[:, 2] == 1.0]
    cells = scene.cells.assign(
        x_a=("column_a", a[:, 0], {"units": "Å"}), y_a=("column_a", a[:, 1], {"units": "Å"})
    )
    image = scene.draw(noise=0.02)
    made = train(image, cells, TrainSettings(Windows(site="A"), epochs=20, device="cpu", batch_size=32))
    dataset, metrics = evaluate_split(made, image, cells)
    assert metrics["test"]["r2"]["x"] > 0.7
    # Each window lies on an A column.
    at = np.column_stack([dataset["x"], dataset["y"]])
    assert np.abs(at[:, None] - a[None, :, :2]).sum(-1).min(axis=1).max() < 1e-9
    with pytest.raises(ModelError, match="with_columns"):
        predict(made, image, scene.cells)


def test_settings_that_do_not_go_together_are_refused():
    for bad, word in (
        ({"network": "transformer"}, "network"),
        ({"targets": ("tilt",)}, "targets"),
        ({"targets": ("d", "strain")}, "targets"),
        ({"network": "context", "windows": Windows("sliding")}, "centred"),
        ({"network": "dense", "windows": Windows(site="A")}, "site"),
        ({"jitter_angstrom": -1.0}, "jitter_angstrom"),
    ):
        with pytest.raises(ModelError, match=word):
            TrainSettings(**bad)
    with pytest.raises(ModelError, match="coverage"):
        calibrate(None, [], coverage=1.2)
