import numpy as np
import pytest
import torch

import dcnn
from dcnn._activations import activations, layers, probe_layers, responses


@pytest.fixture(scope="module")
def trained(make_scene):
    """A network that knows d, and windows it has not seen with their labels."""
    scene = make_scene(seed=1)
    model = dcnn.train(scene.draw(noise=0.02), scene.cells, dcnn.TrainSettings(epochs=30, seed=0))
    other = make_scene(nx=16, ny=16, seed=2)
    cut = dcnn.sub_images(other.draw(noise=0.02, seed=3), model.windows, other.cells)
    d = other.cells.d.values[cut["index"].values]
    return model, cut.intensity.values, {"d_x": d[:, 0], "d_y": d[:, 1]}


def test_activations_are_what_the_next_layer_reads(trained):
    model, stack, _ = trained
    found = activations(model, stack)
    assert list(found) == ["conv1", "conv2", "conv3", "dense1", "dense2"]
    with torch.no_grad():
        value, expected = torch.from_numpy(stack)[:, None], {}
        names = iter(found)
        parts = list(model.network.layers)
        for k, part in enumerate(parts):
            value = part(value)
            last = k == len(parts) - 1
            if isinstance(part, torch.nn.SiLU) or last:
                expected[next(names)] = value.numpy().copy()
        answer = model.network(torch.from_numpy(stack)).numpy()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
    np.testing.assert_allclose(found["dense2"], answer, atol=1e-5)


def test_hooks_are_taken_off(trained):
    model, stack, _ = trained
    activations(model, stack[:2])
    with pytest.raises(dcnn.ModelError):
        activations(model, stack[:2, :5])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in layers(model).values())


def test_batches_do_not_matter(trained, monkeypatch):
    model, stack, _ = trained
    whole = activations(model, stack)
    monkeypatch.setattr("dcnn._readout._BATCH", 50)
    for name, values in activations(model, stack).items():
        np.testing.assert_allclose(values, whole[name], atol=1e-5)


def test_residual_blocks_count_what_they_add(trained):
    """The convolution that ends a block hands on the sum with the block's input."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Conv2d(4, 4, 3, padding=1)
            self.two = torch.nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return torch.relu(x + self.two(torch.relu(self.one(x))))

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.block = torch.nn.Conv2d(1, 4, 3, padding=1), Block()
            self.last = torch.nn.Linear(4 * 24 * 24, 2)

        def forward(self, x):
            return self.last(self.block(torch.relu(self.first(x[:, None]))).flatten(1))

    model, stack, _ = trained
    torch.manual_seed(0)
    net = Net()
    found = activations(dcnn.Model(net, model.card), stack[:8])
    with torch.no_grad():
        first = torch.relu(net.first(torch.from_numpy(stack[:8])[:, None]))
        np.testing.assert_allclose(found["conv1"], first.numpy(), atol=1e-5)
        np.testing.assert_allclose(found["conv2"], torch.relu(net.block.one(first)).numpy(), atol=1e-5)
        np.testing.assert_allclose(found["conv3"], net.block(first).numpy(), atol=1e-5)


def test_d_becomes_readable_and_noise_does_not(trained):
    model, stack, labels = trained
    held = np.arange(len(stack)) % 2 == 0
    nothing = np.random.default_rng(0).normal(size=len(stack))
    probe = probe_layers(model, stack, {**labels, "nothing": nothing}, held)
    assert list(probe.layer.values) == ["input", "conv1", "conv2", "conv3", "dense1", "dense2"]
    last = probe.r2.sel(layer="dense1")
    assert (last.sel(quantity=["d_x", "d_y"]) > 0.95).all()
    assert (probe.r2.sel(quantity="nothing") < 0.1).all()
    # The network's own answer is a straight line from the layer before: its reading can hardly be better.
    answer = activations(model, stack)["dense2"][held, 0]
    assert float(last.sel(quantity="d_x")) >= np.corrcoef(answer, labels["d_x"][held])[0, 1] ** 2 - 0.02


def test_ridge_reads_a_straight_line():
    from dcnn._activations import _ridge_r2

    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 40))
    signal = x @ rng.normal(size=40)
    y = np.column_stack([signal, signal + signal.std() * rng.normal(size=300)])
    held = np.arange(300) >= 200
    clean, noisy = _ridge_r2(x, y, held)
    assert clean > 0.999
    assert 0.25 < noisy < 0.6  # half of the variance is noise, 40 weights from 200 cells cost some


def test_responses_are_slopes():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 200))
    values = 3.0 + np.einsum("n,ij->nij", a, [[2.0, 0.0]]) + np.einsum("n,ij->nij", b, [[0.0, -5.0]])
    found = responses(values, {"a": a, "b": b, "constant": np.ones(200)})
    np.testing.assert_allclose(found["a"], [[2.0, 0.0]], atol=1e-9)
    np.testing.assert_allclose(found["b"], [[0.0, -5.0]], atol=1e-9)
    np.testing.assert_allclose(found["constant"], 0.0, atol=1e-9)


def test_refuses_what_does_not_fit(trained):
    model, stack, labels = trained
    with pytest.raises(dcnn.ModelError, match="held_out"):
        probe_layers(model, stack, labels, np.zeros(len(stack), bool))
    with pytest.raises(dcnn.ModelError, match="d_x"):
        probe_layers(model, stack, {"d_x": labels["d_x"][:3]}, np.arange(len(stack)) % 2 == 0)
    dense = dcnn.Model(
        model.network, {**model.card, "settings": {**model.card["settings"], "network": "dense"}}
    )
    with pytest.raises(dcnn.ModelError, match="dense"):
        activations(dense, stack)


def test_residual_network(make_scene):
    """Of the package's own residual network, each second convolution of a block hands on the block's output."""
    scene = make_scene(nx=14, ny=12, seed=4)
    settings = dcnn.TrainSettings(network="residual", epochs=1, validation_fraction=0.0)
    model = dcnn.train(scene.draw(noise=0.02), scene.cells, settings)
    stack = dcnn.sub_images(scene.draw(noise=0.02, seed=5), model.windows, scene.cells).intensity.values[:20]
    found = activations(model, stack)
    assert list(found) == [*(f"conv{k}" for k in range(1, 7)), "dense1", "dense2"]
    parts = list(model.network.layers)
    with torch.no_grad():
        first = parts[1](parts[0](torch.from_numpy(stack)[:, None]))
        np.testing.assert_allclose(found["conv3"], parts[2](first).numpy(), atol=1e-5)
        np.testing.assert_allclose(found["dense2"], model.network(torch.from_numpy(stack)).numpy(), atol=1e-5)
