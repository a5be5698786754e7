"""Columns fitted in torch are those of the compiled loops; positions in px."""

import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import analysis
from analysis import engines, measuring
from analysis.gaussians_torch import TorchEngine

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU that torch can use"),
    ),
]
SHAPE = (90, 110)
NO_BOUND = np.array([1e6, 1e6, 1e6, 1e6, 10, 10, 10])


@dataclass(frozen=True)
class Request:
    """What an engine's `fit` takes."""

    image: np.ndarray
    drawn: np.ndarray  # parameters of all columns, as the total shows them
    parameters: np.ndarray
    centre: np.ndarray
    slope: np.ndarray
    radius: np.ndarray
    noise: np.ndarray
    prior_mean: np.ndarray
    prior_weight: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    most: int = 30
    tolerance: float = 1e-6

    def fitted(self, engine):
        image, total = engine.hold(self.image), engine.draw(self.image.shape, self.drawn)
        rest = [getattr(self, field.name) for field in fields(self)[2:]]
        return engine.fit(image, total, *rest)


def columns(seed=0):
    """Elliptical columns on a grid, (n, 7); some windows reach over the border."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(3.0, SHAPE[1], 11), np.arange(4.0, SHAPE[0], 11))
    n = x.size
    return np.column_stack(
        [
            rng.uniform(0.5, 2, n),
            rng.uniform(0.1, 0.4, n),
            x.ravel() + rng.uniform(-1, 1, n),
            y.ravel() + rng.uniform(-1, 1, n),
            rng.uniform(0.3, 0.5, n),
            rng.uniform(-0.1, 0.1, n),
            rng.uniform(0.3, 0.5, n),
        ]
    )


@pytest.fixture(scope="module")
def request_():
    """Start some way off the columns of a noisy image on a tilted background."""
    rng = np.random.default_rng(1)
    true = columns()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = engines.COMPILED.draw(SHAPE, true) + 0.2 + 0.002 * x - 0.001 * y
    image += 0.02 * rng.standard_normal(SHAPE)
    start = true * (1 + 0.05 * rng.standard_normal(true.shape))
    start[:, 2:4] = true[:, 2:4] + 0.3 * rng.standard_normal((len(true), 2))
    n = len(true)
    return Request(
        image, start, start, true[:, 2:4].copy(), np.tile([0.002, -0.001], (n, 1)), np.full(n, 6.0),
        np.array([1e-4, 3e-4, 2.5e-4]), np.zeros((n, 7)), np.zeros((n, 7)),
        np.tile(-NO_BOUND, (n, 1)), np.tile(NO_BOUND, (n, 1)),
    )  # fmt: skip


def assert_same(request, device):
    expected, expected_end = request.fitted(engines.COMPILED)
    result, end = request.fitted(TorchEngine(device))
    np.testing.assert_allclose(result[:, 2:4], expected[:, 2:4], atol=1e-7, rtol=0)
    # The lean q may be next to nothing: it counts in units of p.
    np.testing.assert_allclose(result[:, 5] / result[:, 4], expected[:, 5] / expected[:, 4], atol=1e-6)
    others = [0, 1, 4, 6]
    np.testing.assert_allclose(result[:, others], expected[:, others], rtol=1e-6)
    np.testing.assert_array_equal(end, expected_end)
    assert np.abs(expected - request.parameters).max() > 0.1  # there was something to do
    return result


@pytest.mark.parametrize("device", DEVICES)
def test_drawing_agrees(device):
    some = columns()
    # Beyond every border, far outside, narrower than a pixel, and wider than the image.
    odd = np.tile([1.5, 0.0, 50.0, 40.0, 0.4, 0.05, 0.3], (8, 1))
    odd[:4, 2:4] = [(-3.2, 30.1), (113.7, 20.2), (40.3, -4.4), (60.6, 92.9)]
    odd[4:6, 2:4] = [(-400.0, 30.0), (50.0, 700.0)]
    odd[6, 4:] = [5.0, 0.5, 4.0]
    odd[7, 4:] = [0.01, 0.002, 0.012]
    everything = np.vstack([some, odd])
    expected = engines.COMPILED.draw(SHAPE, everything)
    drawn = TorchEngine(device).draw(SHAPE, everything).cpu().numpy()
    assert expected.max() > 1
    np.testing.assert_allclose(drawn, expected, atol=1e-12, rtol=0)


def test_a_drawn_column_stands_at_x_along_rows_and_leans_as_told():
    drawn = TorchEngine("cpu").draw((40, 60), np.array([[2.0, 9.0, 41.0, 12.0, 0.5, 0.2, 0.5]])).numpy()
    assert np.unravel_index(drawn.argmax(), drawn.shape) == (12, 41)
    assert drawn[12, 41] == pytest.approx(2.0)
    assert drawn[14, 43] == pytest.approx(2 * np.exp(-0.5 * (1.4**2 + 1)))
    assert drawn[14, 39] == pytest.approx(2 * np.exp(-0.5 * (0.6**2 + 1)))
    assert TorchEngine("cpu").draw((40, 60), np.zeros((0, 7))).abs().max() == 0


def test_columns_are_found_where_they_were_drawn():
    true = columns(3)
    n = len(true)
    true[:, 1] = 0.2
    true[:, 4:] *= 1.4
    start = true.copy()
    start[:, 2:4] += np.random.default_rng(0).uniform(-0.5, 0.5, (n, 2))
    request = Request(
        engines.COMPILED.draw(SHAPE, true) + 0.2, start, start, start[:, 2:4].copy(), np.zeros((n, 2)),
        np.full(n, 6.0), np.array([1.0, 0.0, 1.0]), np.zeros((n, 7)), np.zeros((n, 7)),
        np.tile(-NO_BOUND, (n, 1)), np.tile(NO_BOUND, (n, 1)),
    )  # fmt: skip
    for _ in range(12):
        now, converged = request.fitted(TorchEngine("cpu"))
        request = replace(request, drawn=now, parameters=now)
    assert converged.all()
    np.testing.assert_allclose(now, true, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_plain_fits_agree(request_, device):
    assert_same(request_, device)


@pytest.mark.parametrize("device", DEVICES)
def test_fits_cut_short_agree(request_, device):
    short = replace(request_, most=2)
    assert_same(short, device)
    assert not short.fitted(TorchEngine(device))[1].any()


def test_a_fit_that_finds_no_better_step_has_ended(request_):
    # No step is shorter than nothing: only damping ends these.
    _, ended = replace(request_, tolerance=0.0, most=100).fitted(TorchEngine("cpu"))
    assert ended.mean() > 0.3


@pytest.mark.parametrize("device", DEVICES)
def test_fits_within_bounds_agree(request_, device):
    lower, upper = request_.parameters - 0.02, request_.parameters + 0.02
    result = assert_same(replace(request_, lower=lower - 0.2, upper=upper + 0.2), device)
    tight = replace(request_, lower=lower, upper=upper)
    # Every position is further off than that: the bound holds, to the digit.
    result, _ = tight.fitted(TorchEngine(device))
    expected, _ = tight.fitted(engines.COMPILED)
    np.testing.assert_allclose(result, expected, atol=1e-7)
    at_bound = (result == lower) | (result == upper)
    assert at_bound.sum(1).max() >= 4
    np.testing.assert_array_equal(at_bound, (expected == lower) | (expected == upper))


@pytest.mark.parametrize("device", DEVICES)
def test_fits_with_priors_agree(request_, device):
    mean, weight = np.zeros((2, *request_.parameters.shape))
    mean[:, [1, 4, 5, 6]] = [0.25, 0.4, 0.02, 0.4]
    weight[::2, [1, 4, 5, 6]] = 1e7
    known = replace(request_, prior_mean=mean, prior_weight=weight)
    result = assert_same(known, device)
    np.testing.assert_allclose(result[::2, 4], 0.4, atol=0.03)
    assert np.abs(result[1::2, 4] - 0.4).max() > 0.05


@pytest.mark.parametrize("device", DEVICES)
def test_missing_pixels_and_uneven_windows_agree(request_, device):
    rng = np.random.default_rng(2)
    image = np.where(rng.random(SHAPE) < 0.1, np.nan, request_.image)
    uneven = rng.uniform(4.5, 8.0, len(request_.radius))
    assert_same(replace(request_, image=image, radius=uneven), device)


def test_a_column_without_pixels_stays_where_it_is(request_):
    image = request_.image.copy()
    image[:40, :40] = np.nan
    blind = replace(request_, image=image)
    rows = (request_.centre < 30).all(1)
    result, _ = blind.fitted(TorchEngine("cpu"))
    expected, _ = blind.fitted(engines.COMPILED)
    np.testing.assert_array_equal(result[rows], request_.parameters[rows])
    np.testing.assert_array_equal(expected[rows], request_.parameters[rows])


def test_batches_change_nothing(request_, monkeypatch):
    rng = np.random.default_rng(4)
    uneven = replace(request_, radius=rng.uniform(4.5, 8.0, len(request_.radius)))
    whole, drawn = uneven.fitted(TorchEngine("cpu"))[0], TorchEngine("cpu").draw(SHAPE, uneven.drawn)
    monkeypatch.setattr("analysis.gaussians_torch._MEMORY", {"cpu": 1 << 18})
    np.testing.assert_allclose(uneven.fitted(TorchEngine("cpu"))[0], whole, atol=1e-9)
    np.testing.assert_allclose(TorchEngine("cpu").draw(SHAPE, uneven.drawn), drawn, atol=1e-13)


@pytest.mark.parametrize("device", DEVICES)
def test_a_measurement_in_torch_is_the_compiled_one(lattice_image, monkeypatch, device):
    values, _, _ = lattice_image(shape=(130, 150), shift=(0.8, -0.5), vary=0.05)
    values = values + 0.01 * np.random.default_rng(0).standard_normal(values.shape)
    values[50:58, 60:66] = np.nan
    image = analysis.as_image(values, pixel_size=0.2)
    expected = analysis.measure(image, device="cpu")
    monkeypatch.setattr(measuring, "chosen", lambda name: TorchEngine(device))
    result = analysis.measure(image)
    for axis in ("x", "y"):
        np.testing.assert_allclose(result.columns[axis], expected.columns[axis], atol=1e-4 * 0.2, rtol=0)
    np.testing.assert_array_equal(result.columns["flag"], expected.columns["flag"])
    np.testing.assert_array_equal(result.unit_cells["flag"], expected.unit_cells["flag"])
    assert (expected.unit_cells["flag"] == 0).sum() > 10


def test_the_device_decides_who_fits(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engines.chosen("cpu") is engines.chosen("auto") is engines.COMPILED
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(engines, "_DRIVER", (Path("/"),))
    assert engines.chosen("cpu") is engines.COMPILED
    for name in ("auto", "cuda"):
        assert engines.chosen(name).device.type == "cuda"


def test_a_device_that_is_not_there_is_refused(lattice_image, monkeypatch):
    image = analysis.as_image(lattice_image(shape=(60, 60))[0], pixel_size=0.2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(analysis.ImageError, match="device='cuda' needs a CUDA GPU"):
        analysis.measure(image, device="cuda")
    with pytest.raises(analysis.ImageError, match="device='gpu' is unknown"):
        analysis.measure(image, device="gpu")


def test_analysis_comes_without_torch():
    code = "import sys, analysis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
