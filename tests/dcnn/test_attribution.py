import numpy as np
import pytest
import torch

import dcnn
from dcnn._attribution import attribution, attributions
from dcnn._readout import channel


@pytest.fixture(scope="module")
def trained(make_scene):
    """A network that knows d, and windows it has not seen."""
    scene = make_scene(seed=1)
    image = scene.draw(noise=0.02)
    model = dcnn.train(image, scene.cells, dcnn.TrainSettings(epochs=30, seed=0))
    other = make_scene(nx=12, ny=12, seed=2)
    cut = dcnn.sub_images(other.draw(noise=0.02, seed=3), model.windows, other.cells)
    return model, cut.intensity.values


@pytest.mark.parametrize("target", ["d_x", "d_y"])
def test_attributions_add_up_to_the_answer(trained, target):
    model, stack = trained
    each = attributions(model, stack, target)
    with torch.no_grad():
        both = torch.from_numpy(np.concatenate([stack, stack.mean(axis=0, keepdims=True)]))
        answer = model.network(both)[:, channel(model, target)].numpy()
    difference = answer[:-1] - answer[-1]
    assert each.shape == stack.shape
    assert difference.std() > 0.5  # something to add up to
    np.testing.assert_allclose(each.sum(axis=(1, 2)), difference, atol=5e-3)


def test_saliency_is_the_gradient(trained):
    model, stack = trained
    slope = attributions(model, stack[:1], "d_y", "saliency")[0]
    row, col = np.unravel_index(np.abs(slope).argmax(), slope.shape)
    step = 1e-2
    changed = np.repeat(stack[:1], 2, axis=0)
    changed[:, row, col] += [-step, step]
    with torch.no_grad():
        low, high = model.network(torch.from_numpy(changed))[:, 1].double().numpy()
    assert slope[row, col] == pytest.approx((high - low) / (2 * step), rel=0.02)


def test_displacement_is_read_on_the_flanks_of_a_columns(trained):
    # Windows stand on B, so that d is where the A columns are; one that moves along x changes left and right of itself.
    model, stack = trained
    offset = model.windows.offsets
    x, y = np.meshgrid(np.abs(offset) - 2.0, np.abs(offset) - 2.0)
    on_a = np.hypot(x, y) < 1.0
    for target, along, across in (("d_x", x, y), ("d_y", y, x)):
        share = attribution(model, stack, target)
        assert share[on_a].sum() > 0.6
        assert (share * along**2)[on_a].sum() > 1.5 * (share * across**2)[on_a].sum()


def test_a_cell_without_columns_gets_nothing(trained):
    """Samples that are alike in all windows have no share."""
    model, stack = trained
    flat = stack.copy()
    flat[:, :6] = 0.0
    share = attribution(model, flat, "d_x")
    assert np.abs(share[:6]).max() == 0.0
    assert share.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("method", ["integrated_gradients", "saliency"])
def test_shares_add_up_to_one(trained, method):
    model, stack = trained
    assert attribution(model, stack, "d_y", method).sum() == pytest.approx(1.0)


def test_refuses_what_does_not_fit(trained):
    model, stack = trained
    with pytest.raises(dcnn.ModelError, match="tilt_x"):
        attribution(model, stack, "tilt_x")
    with pytest.raises(dcnn.ModelError, match="method"):
        attribution(model, stack, "d_x", "occlusion")
    with pytest.raises(dcnn.ModelError, match="shape"):
        attribution(model, stack[:, :10], "d_x")
    with pytest.raises(dcnn.ModelError, match="alike"):
        attribution(model, np.repeat(stack[:1], 4, axis=0), "d_x")
