"""How well one must tilt: from curves of known shape, and from a real simulation."""

import json

import numpy as np
import pytest
import xarray as xr

import tiltsim
import tiltsim.tolerance
from tiltsim.tolerance import _crossing, _of_response, best_detectors


def response(slope, curve=0.0):
    """A response whose bias along x grows by ``slope`` pm per mrad of tilt along x, and bends by ``curve`` pm per mrad²."""
    tilt = np.array([-8.0, -4.0, 0.0, 4.0, 8.0])
    bias = np.zeros((1, 1, 5, 5, 2))
    bias[0, 0, :, :, 0] = 3.0 + slope * tilt[:, None] + curve * tilt[:, None] ** 2
    dims = ("phase", "thickness", "tilt_x", "tilt_y", "component")
    matrix = np.array([[[[slope, 0.0], [0.0, 0.0]]]])
    pair = ("phase", "thickness", "component", "tilt_axis")
    return xr.Dataset(
        {
            "d_bias": (dims, bias), "d_bias_per_mrad": (pair, matrix),
            "d_bias_per_mrad_sem": (pair, np.full((1, 1, 2, 2), 0.01)),
        },
        coords={
            "phase": ["it"], "thickness": [100.0], "tilt_x": tilt, "tilt_y": tilt, "component": ["x", "y"],
            "tilt_axis": ["x", "y"],
        },
    )  # fmt: skip


def test_a_straight_response_is_crossed_where_it_should_be():
    found = _of_response(response(0.5), 2.0)
    assert found.tolerance.item() == pytest.approx(4.0)
    assert found.reached.item()
    assert found.slope.item() == pytest.approx(0.5)
    # 0.01 √2 pm per mrad of error at 4 mrad, where the change grows by 0.5 pm per mrad.
    assert found.tolerance_sem.item() == pytest.approx(0.01 * np.sqrt(2) * 4.0 / 0.5, rel=0.01)
    assert found.change.sel(axis="x", tilt=8.0).item() == pytest.approx(4.0)
    assert found.change.sel(axis="y", tilt=8.0).item() == pytest.approx(0.0)


def test_the_worse_side_of_a_bent_response_counts():
    # −0.5 × 4 + 0.05 × 16 = −1.2 at +4 … the other side reaches 2 pm sooner.
    found = _of_response(response(-0.5, 0.05), 2.0)
    assert found.tolerance.item() == pytest.approx(4.0 * 2.0 / 2.8)


def test_a_response_that_stays_below_is_said_to():
    found = _of_response(response(0.1), 2.0)
    assert not found.reached.item()
    assert found.tolerance.item() == 8.0


def test_crossing():
    assert _crossing(np.array([0.0, 2.0, 4.0]), np.array([0.0, 1.0, 3.0]), 2.0) == pytest.approx(3.0)
    assert _crossing(np.array([0.0, 2.0]), np.array([0.0, 1.0]), 2.0) == float("inf")


def test_best_detector_is_named_only_where_it_is_clear():
    rings = [_of_response(response(s), 2.0) for s in (0.5, 0.2)]
    table = xr.concat(rings, xr.DataArray(["a", "b"], dims="detector", name="detector")).expand_dims(
        energy=[200.0]
    )
    assert "b is least sensitive, 0.20 ± 0.01 pm per mrad (most: a, 0.50 ± 0.01)" in best_detectors(table)[0]
    three = [_of_response(response(s), 2.0) for s in (0.5, 0.2, 0.21)]
    table = xr.concat(three, xr.DataArray(["a", "b", "c"], dims="detector", name="detector")).expand_dims(
        energy=[200.0]
    )
    assert "b and c are least sensitive" in best_detectors(table)[0]
    alike = [_of_response(response(s), 2.0) for s in (0.5, 0.51)]
    table = xr.concat(alike, xr.DataArray(["a", "b"], dims="detector", name="detector")).expand_dims(
        energy=[200.0]
    )
    assert "no detector is clearly less sensitive" in best_detectors(table)[0]


def test_command_leaves_a_table_and_a_figure(tmp_path, tiltsim_command):
    code, printed = tiltsim_command(
        "tolerance", "--thicknesses", "24,48", "--detectors", "45-75,60-75", "--steps", 3, "--pairs", 1, "--semiangle", 22,
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, printed
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert len(rows) == 4
    assert all(r["tolerance_mrad"] > 0 for r in rows)
    assert (tmp_path / "tolerance.png").is_file()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--detectors", "65", "INNER-OUTER"),
        ("--target", "0", "target 0"),
        ("--thicknesses", "a", "--thicknesses"),
        ("--phases", "X", "X"),
    ],
)
def test_bad_arguments_get_one_sentence(option, value, said, tmp_path, tiltsim_command):
    code, printed = tiltsim_command("tolerance", option, value, "--out", tmp_path / "out")
    assert code == 2
    assert said in printed


def test_detectors_must_differ():
    with pytest.raises(tiltsim.SettingsError, match="each once"):
        tiltsim.tolerance.tilt_tolerance([], [tiltsim.Detector(65, 110)] * 2)
