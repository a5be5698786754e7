"""Every column found, at the Cramér-Rao bound and with honest errors, in images of 1024² px with known truth."""

import sys
from pathlib import Path

import numpy as np
import pytest

import analysis

PX = 0.16
ALONE = {"base": (0.042, 0.094), "low": (0.133, 0.296)}  # the bounds, px per axis
WIDE = (0.055, 0.105)


@pytest.fixture(scope="module")
def scored():
    """Function from a case to its scores."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        from _micrograph import CASES, bound, micrograph
        from _scores import score
    finally:
        sys.path.pop(0)

    def scores(name, seed=11):
        case = CASES[name]
        image, truth = micrograph(case, seed)
        m = analysis.measure(analysis.as_image(image, pixel_size=PX))
        columns, cells = m.columns, m.unit_cells
        site, good = columns["site"].values, columns["flag"].values == 0
        place = np.stack([columns["x"].values, columns["y"].values], 1) / PX
        found = {s: place[(site == s) & good] for s in "AB"}
        found |= {f"cov_{s}": columns["position_cov"].values[(site == s) & good] / PX**2 for s in "AB"}
        found |= {
            "cell": np.stack([cells["x"].values, cells["y"].values], 1) / PX,
            "d": cells["d"].values / 100 / PX,
        }
        found |= {"seconds_cpu": 1.0, "version": ""}  # not timed here
        error = _d_pull(cells, truth)
        return score(found, truth, case.cell, bound(case)), error

    return scores


def _d_pull(cells, truth):
    place = np.stack([cells["x"].values, cells["y"].values], 1) / PX
    row = np.hypot(*(place[:, None] - truth.b[None]).transpose(2, 0, 1)).argmin(1)
    variance = np.einsum("nii->ni", cells["d_cov"].values)
    return (cells["d"].values - truth.d[row] * 100 * PX) / np.sqrt(variance)


@pytest.mark.parametrize("name", ["base", "low", "wide"])
def test_columns_are_found_at_the_limit_of_the_noise(scored, name):
    result, d_pull = scored(name)
    for n, (site, number) in enumerate((("A", 1681), ("B", 1600))):
        one = result[site]
        assert one["found"] == one["true"] == number
        assert one["false"] == one["duplicates"] == 0
        limit = 1.05 * ALONE[name][n] if name in ALONE else WIDE[n]
        assert one["rmse_px"] <= limit
        assert 0.9 < one["pull"] < 1.1
    assert np.all((d_pull.std(0) > 0.9) & (d_pull.std(0) < 1.1))
    if name == "base":
        assert result["d"]["rmse_px"] <= 0.11
