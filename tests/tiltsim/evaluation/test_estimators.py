"""Models from anywhere, and what is said when they will not do."""

import numpy as np
import pytest
import torch
import xarray as xr

import dcnn
from tiltsim.errors import SettingsError
from tiltsim.evaluation.estimators import estimator, estimators
from tiltsim.evaluation.fields import Sight

PIXELS = 16
WINDOWS = dcnn.Windows(size_angstrom=6.0, pixels=PIXELS)


class Moments(torch.nn.Module):
    """Where a patch is bright: first moments, so that x and y differ, in samples times 100."""

    def __init__(self, channel=False):
        super().__init__()
        self.channel = channel
        self.register_buffer("ramp", torch.arange(PIXELS) - (PIXELS - 1) / 2)

    def forward(self, stack):
        if self.channel:
            assert stack.ndim == 4, "wants a channel"
            stack = stack[:, 0]
        else:
            assert stack.ndim == 3, "wants no channel"
        return (
            torch.stack([(stack * self.ramp).mean((1, 2)), (stack * self.ramp[:, None]).mean((1, 2))], dim=1)
            * 100
        )


@pytest.fixture(scope="module")
def sight():
    """Blobs of known places in 40 × 30 Å; the second is off its centre by (+0.5, −0.3) Å, the last one at the border."""
    centres = np.array([[8.0, 8.0], [20.0, 9.0], [15.0, 20.0], [30.0, 15.0], [1.0, 1.0]])
    at = centres + np.array([[0, 0], [0.5, -0.3], [0, 0.4], [-0.4, 0], [0, 0]])
    y, x = np.mgrid[0:150, 0:200] * 0.2
    values = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 0.5**2)) for px, py in at)
    image = xr.DataArray(
        values,
        dims=("y", "x"),
        coords={"y": ("y", y[:, 0], {"units": "Å"}), "x": ("x", x[0], {"units": "Å"})},
    )
    n = len(centres)
    cells = xr.Dataset(
        {
            "x": ("cell", centres[:, 0]),
            "y": ("cell", centres[:, 1]),
            "d": (("cell", "component"), np.arange(2.0 * n).reshape(n, 2)),
            "d_cov": (("cell", "component", "component_2"), np.tile(np.diag([4.0, 9.0]), (n, 1, 1))),
            "flag": ("cell", np.array([0, 0, 1, 0, 0], np.uint8)),
        },
        coords={"component": ["x", "y"]},
    )
    return Sight(image, cells)


@pytest.fixture(scope="module")
def expected(sight):
    cut = dcnn.sub_images(sight.image, WINDOWS, sight.cells)
    with torch.no_grad():
        return Moments()(torch.from_numpy(cut.intensity.values)).numpy()


def test_fit_gives_cells_that_are_not_flagged_with_ninety_percent_intervals(sight):
    found = estimator("fit").predict(sight)
    np.testing.assert_allclose(found.x, [8, 20, 30, 1])
    np.testing.assert_allclose(found.d, sight.cells.d.values[[0, 1, 3, 4]])
    np.testing.assert_allclose(found.d_interval, np.tile([1.645 * 2, 1.645 * 3], (4, 1)))


def test_a_callable_gets_standardised_patches_on_the_columns(sight):
    given = []

    def mine(stack):
        given.append(stack)
        return np.tile([1.5, -2.5], (len(stack), 1))

    one = estimator(mine, windows=WINDOWS)
    assert (one.name, one.kind, one.digest) == ("mine", "callable", "")
    found = one.predict(sight)
    np.testing.assert_allclose(found.x, [8, 20, 15, 30])  # the one at the border has no whole patch
    np.testing.assert_allclose(found.d, np.tile([1.5, -2.5], (4, 1)))
    assert "d_interval" not in found
    (stack,) = given
    assert stack.dtype == np.float32
    assert stack.shape == (4, PIXELS, PIXELS)
    np.testing.assert_allclose(stack.mean((1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(stack.std((1, 2)), 1.0, rtol=1e-4)


def test_patches_have_x_along_columns_and_y_down(sight):
    found = estimator(Moments(), windows=WINDOWS).predict(sight)
    assert found.d.values[1, 0] > 1.0
    assert found.d.values[1, 1] < -1.0
    assert abs(found.d.values[2, 0]) < 0.1 < found.d.values[2, 1]


def test_four_numbers_a_patch_are_displacements_and_half_widths(sight):
    found = estimator(lambda s: np.tile([1.0, 2.0, 3.0, 4.0], (len(s), 1)), windows=WINDOWS).predict(sight)
    np.testing.assert_allclose(found.d.values[0], [1, 2])
    np.testing.assert_allclose(found.d_interval.values[0], [3, 4])


@pytest.mark.parametrize("channel", [False, True])
def test_torch_modules_with_and_without_a_channel(sight, expected, channel):
    found = estimator(Moments(channel), windows=WINDOWS).predict(sight)
    np.testing.assert_allclose(found.d, expected, rtol=1e-5)


@pytest.mark.parametrize(("channel", "batch"), [(False, None), (True, None), (False, 3), (True, 1)])
def test_exported_programs_of_free_and_fixed_batch(sight, expected, tmp_path, channel, batch):
    example = torch.zeros(batch or 4, *([1] if channel else []), PIXELS, PIXELS)
    dynamic = None if batch else ({0: torch.export.Dim("n", min=1, max=4096)},)
    program = torch.export.export(Moments(channel), (example,), dynamic_shapes=dynamic)
    torch.export.save(program, tmp_path / "net.pt2")
    one = estimator(tmp_path / "net.pt2", windows=WINDOWS)
    assert (one.name, one.kind) == ("net", "torch")
    np.testing.assert_allclose(one.predict(sight).d, expected, rtol=1e-5)
    with pytest.raises(SettingsError, match=r"--window-pixels"):
        estimator(tmp_path / "net.pt2", windows=dcnn.Windows(pixels=24))


@pytest.mark.parametrize(("channel", "batch"), [(False, None), (True, None), (True, 3)])
def test_onnx_graphs(sight, tmp_path, channel, batch):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weights = np.random.default_rng(0).normal(size=(PIXELS * PIXELS, 2)).astype(np.float32)
    shape = [batch or "n", *([1] if channel else []), PIXELS, PIXELS]
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["patches"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["d"]),
        ],
        "linear",
        [helper.make_tensor_value_info("patches", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, [batch or "n", 2])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    cut = dcnn.sub_images(sight.image, WINDOWS, sight.cells)
    found = estimator(tmp_path / "net.onnx", windows=WINDOWS).predict(sight)
    expected = cut.intensity.values.reshape(4, -1) @ weights
    np.testing.assert_allclose(found.d, expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(SettingsError, match="--window-pixels"):
        estimator(tmp_path / "net.onnx", windows=dcnn.Windows(pixels=24))
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(SettingsError, match="is not an ONNX graph"):
        estimator(tmp_path / "broken.onnx")


def test_without_onnxruntime_the_fix_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "net.onnx").write_bytes(b"graph")
    with pytest.raises(SettingsError, match="pip install onnxruntime"):
        estimator(tmp_path / "net.onnx")


def test_functions_of_a_file(sight, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nscale = 2.0\ndef network(stack):\n    return np.full((len(stack), 2), scale)\nnumber = 3\n"
    )
    one = estimator(f"{tmp_path}/mine.py:network", windows=WINDOWS)
    assert (one.name, one.kind) == ("network", "callable")
    assert (one.predict(sight).d.values == 2.0).all()
    assert estimator(f"label={tmp_path}/mine.py:network").name == "label"


def test_our_own_models(sight, tmp_path):
    d = xr.DataArray(
        np.arange(10.0).reshape(5, 2), dims=("cell", "component"), coords={"component": ["x", "y"]}
    )
    cells = sight.cells[["x", "y"]].assign(d=d).isel(cell=slice(0, 4))
    settings = dcnn.TrainSettings(windows=WINDOWS, epochs=1, train_fraction=1.0, validation_fraction=0.0)
    model = dcnn.train([(sight.image, cells)], settings)
    (tmp_path / "robust").mkdir()
    dcnn.save(model, tmp_path / "robust" / "model.safetensors")
    one = estimator(tmp_path / "robust" / "model.safetensors")
    assert one.name == "robust"
    assert len(one.digest) == 64
    for found in (one.predict(sight), estimator(model).predict(sight)):
        np.testing.assert_allclose(found.d, dcnn.predict(model, sight.image, sight.cells).d)


BROKEN = {
    "there is no such": ("nowhere.safetensors", "no such model file"),
    "pickle": ("weights.pt", "run hidden code"),
    "unknown": ("weights.bin", "is no model"),
    "no file": ("missing.py:network", "no such Python file"),
    "no name": ("broken_name.py:network", "has no 'network'"),
    "not callable": ("broken_name.py:number", "must be a function"),
    "error on import": ("broken_import.py:network", "ZeroDivisionError: division by zero"),
    "no module": ("no_such_package.of_mine:network", "importing no_such_package.of_mine failed"),
    "not exported": ("damaged.pt2", "write it with torch.export.save"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_specs_are_one_sentence(tmp_path, case):
    (tmp_path / "broken_name.py").write_text("number = 3\n")
    (tmp_path / "broken_import.py").write_text("1 / 0\n")
    for name in ("weights.pt", "weights.bin", "damaged.pt2"):
        (tmp_path / name).write_bytes(b"nothing")
    spec, words = BROKEN[case]
    spec = spec if case == "no module" else f"{tmp_path}/{spec}"
    with pytest.raises(SettingsError, match=words) as caught:
        estimator(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda s: np.zeros((len(s), 3)), r"shape \(4, 3\) for 4 patches"),
        (lambda s: np.zeros((1, 2)), r"shape \(1, 2\) for 4 patches"),
        (lambda s: "nothing", "returned str"),
        (lambda s: s @ np.zeros(3), "failed on patches of shape"),
        (torch.nn.Conv2d(3, 1, 3), "takes neither patches"),
    ],
)
def test_models_that_misbehave_are_one_sentence(sight, function, words):
    with pytest.raises(SettingsError, match=words) as caught:
        estimator(function, windows=WINDOWS, name="mine").predict(sight)
    assert "\n" not in str(caught.value)


def test_several_models_and_the_fit():
    assert [e.name for e in estimators([Moments(), lambda s: s])] == ["fit", "Moments", "<lambda>"]
    assert [e.name for e in estimators({"mine": Moments(), "fits": "fit"})] == ["mine", "fits"]
    assert [e.name for e in estimators(Moments(), fit=False)] == ["Moments"]
    with pytest.raises(SettingsError, match="two models are named 'Moments'"):
        estimators([Moments(), Moments()])
    with pytest.raises(SettingsError, match="at least one model"):
        estimators([], fit=False)
