"""Statistics of errors whose truth is known."""

import json

import numpy as np
import pytest
import xarray as xr

from tiltsim.errors import SettingsError
from tiltsim.evaluation import statistics
from tiltsim.evaluation.scoring import as_table, from_table, score
from tiltsim.output import write_json

COMPONENTS = ["x", "y"]


def cells(d, step=4.0, offset=0.0, **others):
    """A row of cells with displacements ``d`` (n, 2) pm; others as (dims, values)."""
    n = len(d)
    return xr.Dataset(
        {
            "x": ("cell", np.arange(n) * step + offset, {"units": "Å"}),
            "y": ("cell", np.zeros(n), {"units": "Å"}),
            "d": (("cell", "component"), np.asarray(d, float), {"units": "pm"}),
            **others,
        },
        coords={"component": COMPONENTS},
    )


def truth_of(d, tilt=(3.0, -4.0), thickness=120.0):
    n = len(d)
    return cells(
        d,
        tilt=(("cell", "component"), np.tile(np.asarray(tilt, float), (n, 1))),
        thickness=("cell", np.full(n, thickness)),
    )


def displaced(truth, by):
    found = truth[["x", "y"]]
    found["d"] = truth.d + xr.DataArray(np.asarray(by, float), dims="component")
    return found


def draws(n=40, seed=0):
    return np.random.default_rng(seed).normal(0.0, 20.0, (n, 2))


def value(scores, name, azimuths=None):
    azimuths = np.zeros(len(scores)) if azimuths is None else np.asarray(azimuths, float)
    return statistics.with_errors(scores, azimuths)[name][0]


def test_truth_has_no_error_and_full_coverage():
    truth = truth_of(draws())
    found = truth.copy()
    for name in ("d", "tilt", "thickness"):
        found[f"{name}_interval"] = xr.zeros_like(truth[name])
    one = score(found, truth)
    for name in ("d_rmse", "d_bias_abs", "d_spread", "tilt_rmse", "thickness_rmse"):
        assert value([one], name) == 0.0
    for name in ("d_coverage", "tilt_coverage", "thickness_coverage", "predicted"):
        assert value([one], name) == 1.0
    assert value([one], "d_gain") == pytest.approx(1.0)


def test_an_offset_is_exactly_that_bias_in_the_image_and_in_the_frame_of_the_tilt():
    scores = [score(displaced(t, (3.0, -2.0)), t) for t in (truth_of(draws(seed=s)) for s in range(4))]
    for azimuth in (0.0, 90.0, 30.0):
        of = {k: v[0] for k, v in statistics.with_errors(scores, np.full(4, azimuth)).items() if "bias" in k}
        cos, sin = np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth))
        assert of["d_bias_x"] == pytest.approx(3.0)
        assert of["d_bias_y"] == pytest.approx(-2.0)
        assert of["d_bias_along"] == pytest.approx(3.0 * cos - 2.0 * sin)
        # Across is 90° from x towards y, so that at azimuth 0 it is y.
        assert of["d_bias_across"] == pytest.approx(-2.0 * cos - 3.0 * sin)
        assert of["d_bias_abs"] == pytest.approx(np.sqrt(13.0))
    assert value(scores, "d_rmse") == pytest.approx(np.sqrt(13.0 / 2.0))
    assert value(scores, "d_rmse_x") == pytest.approx(3.0)
    assert value(scores, "d_spread") == pytest.approx(0.0, abs=1e-6)


def test_bias_that_follows_the_tilt_does_not_hide_behind_random_azimuths():
    azimuths = np.arange(8) * 45.0
    scores = []
    for a in np.radians(azimuths):
        truth = truth_of(draws())
        scores.append(score(displaced(truth, (-5.0 * np.cos(a), -5.0 * np.sin(a))), truth))
    assert value(scores, "d_bias_x", azimuths) == pytest.approx(0.0, abs=1e-9)
    assert value(scores, "d_bias_along", azimuths) == pytest.approx(-5.0)
    assert value(scores, "d_bias_across", azimuths) == pytest.approx(0.0, abs=1e-9)
    assert value(scores, "d_bias_abs", azimuths) == pytest.approx(5.0)


def test_a_flipped_axis_and_exchanged_axes_show():
    truth = truth_of(draws())
    flipped, exchanged = truth[["x", "y"]], truth[["x", "y"]]
    flipped["d"] = truth.d * xr.DataArray([1.0, -1.0], dims="component")
    exchanged["d"] = (("cell", "component"), truth.d.values[:, ::-1])
    rms = float(np.sqrt(np.mean(truth.d.values[:, 1] ** 2)))
    one = score(flipped, truth)
    assert value([one], "d_rmse_y") == pytest.approx(2.0 * rms)
    assert value([one], "d_rmse_x") == 0.0
    assert value([one], "d_gain") < 0.5
    assert value([score(exchanged, truth)], "d_rmse") > 15.0


def test_components_are_taken_by_name():
    truth = truth_of(draws())
    found = truth[["x", "y", "d"]].isel(component=[1, 0]).transpose("component", "cell")
    assert value([score(found, truth)], "d_rmse") == 0.0


def test_gain_is_the_slope_within_fields():
    truth = truth_of(draws())
    found = truth[["x", "y"]]
    found["d"] = 1.1 * truth.d + 40.0
    assert value([score(found, truth)], "d_gain") == pytest.approx(1.1)


def test_coverage_counts_each_component():
    truth = truth_of(draws())
    found = displaced(truth, (3.0, -2.0))
    found["d_interval"] = xr.full_like(truth.d, 2.5)
    one = [score(found, truth)]
    assert value(one, "d_coverage_x") == 0.0
    assert value(one, "d_coverage_y") == 1.0
    assert value(one, "d_coverage") == 0.5
    assert value(one, "d_width") == pytest.approx(2.5)


def test_coverage_of_honest_normal_intervals_is_ninety_percent():
    rng = np.random.default_rng(5)
    truth = truth_of(draws(20000))
    found = truth[["x", "y"]]
    found["d"] = truth.d + rng.normal(0.0, 4.0, truth.d.shape)
    found["d_interval"] = xr.full_like(truth.d, 1.645 * 4.0)
    # Standard error of 40000 independent components: 0.15 %.
    assert value([score(found, truth)], "d_coverage") == pytest.approx(0.9, abs=0.006)


def test_each_cell_counts_once_and_only_when_something_is_near():
    truth = truth_of(draws(10))
    near = truth[["x", "y", "d"]]
    worse = displaced(truth, (50.0, 0.0)).assign(x=truth.x + 0.4)
    both = xr.concat([worse, near], "cell")
    one = score(both, truth)
    assert one.d.n == 10
    assert value([one], "d_rmse") == 0.0
    beyond = near.assign(x=near.x + 1.1)
    assert score(beyond, truth).d.n == 0
    assert value([score(near.isel(cell=slice(0, 4)), truth)], "predicted") == pytest.approx(0.4)


def test_a_field_without_a_lattice_counts_as_not_predicted_and_not_as_zero():
    truth = truth_of(draws())
    scores = [score(None, truth), score(displaced(truth, (3.0, 0.0)), truth)]
    assert value(scores, "predicted") == pytest.approx(0.5)
    assert value(scores, "lattice_found") == pytest.approx(0.5)
    assert value(scores, "d_bias_abs") == pytest.approx(3.0)
    assert value(scores, "d_bias_x") == pytest.approx(3.0)


def test_tilt_and_thickness_errors_and_novelty():
    truth = truth_of(draws(), tilt=(6.0, 8.0))
    found = truth[["x", "y", "d"]]
    found["tilt"] = truth.tilt * 0.5  # half of it missed, along its azimuth
    found["thickness"] = truth.thickness - 7.0
    found.attrs["novelty"] = 2.0
    one, plain = score(found, truth), score(truth[["x", "y", "d"]], truth)
    azimuth = np.degrees(np.arctan2(8.0, 6.0))
    assert value([one], "tilt_bias_along", [azimuth]) == pytest.approx(-5.0)
    assert value([one], "tilt_bias_across", [azimuth]) == pytest.approx(0.0, abs=1e-9)
    assert value([one], "thickness_bias") == pytest.approx(-7.0)
    assert value([one], "novel") == 1.0
    assert np.isnan(value([plain], "novel"))
    assert np.isnan(value([plain], "tilt_rmse"))


def noisy(fields, n, common, own, seed):
    """Fields of ``n`` cells whose errors share ``common`` pm and have ``own`` pm each."""
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(fields):
        truth = truth_of(draws(n))
        found = truth[["x", "y"]]
        found["d"] = truth.d + rng.normal(0.0, common, 2) + rng.normal(0.0, own, truth.d.shape)
        scores.append(score(found, truth))
    return scores


def test_standard_error_is_that_of_fields_not_of_cells():
    fields, common = 60, 3.0
    scores = noisy(fields, 200, common, 1.0, 1)
    value, sem = statistics.with_errors(scores, np.zeros(fields))["d_bias_x"]
    # Cells alone would give 1 pm / √12000 = 0.01 pm.
    assert sem == pytest.approx(common / np.sqrt(fields), rel=0.25)
    assert abs(value) < 4 * sem


def test_standard_errors_hold_the_truth_as_often_as_they_should():
    inside = 0
    for seed in range(120):
        value, sem = statistics.with_errors(noisy(12, 5, 3.0, 1.0, 100 + seed), np.zeros(12))["d_bias_x"]
        inside += abs(value) < sem
    # Student's t of 11 degrees: 66 % within one standard error; 120 draws scatter by 4.3 %.
    assert 0.52 < inside / 120 < 0.80


def test_floor_is_what_scatter_alone_gives():
    scores = noisy(400, 50, 0.0, 5.0, 2)
    measured, floor = value(scores, "d_bias_abs"), value(scores, "d_bias_floor")
    assert floor == pytest.approx(np.sqrt(np.pi / 2) * 5.0 / np.sqrt(50), rel=0.02)
    assert measured == pytest.approx(floor, rel=0.1)
    assert value(noisy(50, 50, 4.0, 5.0, 3), "d_bias_abs") > 4 * floor


def test_scores_survive_a_file(tmp_path):
    truth = truth_of(draws())
    one = score(displaced(truth, (3.0, -2.0)), truth)
    write_json(as_table(one), tmp_path / "score.json")
    again = from_table(json.loads((tmp_path / "score.json").read_text()))
    before, after = (statistics.with_errors([s], np.array([30.0])) for s in (one, again))
    np.testing.assert_equal(after, before)


def test_predictions_that_cannot_be_compared_are_one_sentence():
    truth = truth_of(draws())
    with pytest.raises(SettingsError, match="mine returned a dataset without 'd'"):
        score(truth[["x", "y"]], truth, "mine")
    bad = displaced(truth, (np.nan, 0.0))
    with pytest.raises(SettingsError, match="mine returned a d that is not finite"):
        score(bad, truth, "mine")
