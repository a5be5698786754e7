"""Every benchmark runs, in its small form, and says what it must."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(p.name for p in FOLDER.glob("[a-z]*.py")))
def test_benchmark_runs(script, tmp_path):
    result = tmp_path / "result.json"
    subprocess.run([sys.executable, FOLDER / script, "--quick", "--json", result], check=True, timeout=900)
    report = json.loads(result.read_text())
    assert report["machine"]["abtem"]
    assert len(report) > 1


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return import_module


def test_bound_of_a_lonely_column_is_its_width_over_the_root_of_its_electrons(benchmark):
    micrograph = benchmark("_micrograph")
    case = micrograph.Case(cell=60.0, background=1e-6)
    for best, sigma, amplitude in zip(micrograph.bound(case), case.sigma, case.amplitude, strict=True):
        electrons = case.counts * amplitude * 2 * np.pi * sigma**2
        assert best == pytest.approx(sigma / np.sqrt(electrons), rel=1e-3)


@pytest.mark.parametrize("rotation", [0.0, 20.0])
def test_micrograph_shows_its_truth(benchmark, rotation):
    micrograph = benchmark("_micrograph")
    case = micrograph.Case(size=160, rotation=rotation, counts=1e6)
    image, truth = micrograph.micrograph(case, seed=1)
    if not rotation:
        assert (len(truth.a), len(truth.b)) == (25, 16)
    x, y = truth.a.round().astype(int).T
    # The height of the nearest pixel: at most 0.71 px from the top.
    height = np.exp(-0.5 * ((truth.a - [*zip(x, y, strict=True)]) ** 2).sum(1) / case.sigma[0] ** 2)
    np.testing.assert_allclose(image[y, x], case.background + height, atol=0.02)
    assert image[:5].mean() == pytest.approx(case.background, abs=0.01)
    spread = truth.d.std()
    assert spread == pytest.approx(case.disorder * np.sqrt(1.25), rel=0.3)


def test_scores_count_false_and_duplicate_columns_and_know_the_error(benchmark):
    micrograph, scores = benchmark("_micrograph"), benchmark("_scores")
    case = micrograph.Case(size=160)
    _, truth = micrograph.micrograph(case, seed=1)
    right = np.array([0.1, 0.0])
    found = {
        # All A are 0.1 px too far right; one is missing, one is there twice and one is far from any.
        "A": np.concatenate([truth.a[1:] + right, truth.a[5:6] + 20 * right, [[-40.0, 3.0]]]),
        "B": truth.b,
        "cov_A": np.tile(np.diag([0.1**2, 1.0]), (len(truth.a) + 1, 1, 1)),
        "seconds_cpu": np.array(2.0),
        "version": np.array("1"),
    }
    result = scores.score(found, truth, case.cell, (0.05, 0.1))
    a = result["A"]
    assert (a["true"], a["found"], a["false"], a["duplicates"]) == (25, 24, 1, 1)
    assert a["rmse_px"] == pytest.approx(0.1 / np.sqrt(2))
    assert a["rmse_over_bound"] == pytest.approx(2 / np.sqrt(2))
    assert a["pull"] == pytest.approx(0.5)  # half of the pulls are 1, half 0
    assert result["B"]["rmse_px"] == 0
    assert result["d"]["cells"] == 15  # one cell lacks a corner
    assert result["d"]["rmse_px"] == pytest.approx(0.1 / np.sqrt(2))
    assert result["columns_per_cpu_second"] == (24 + 16) / 2
