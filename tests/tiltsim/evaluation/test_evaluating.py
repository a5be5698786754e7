"""Evaluations of held-out fields, from a small library."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import tiltsim.cli
from tiltsim.cli_evaluate import evaluate as verb
from tiltsim.errors import SettingsError
from tiltsim.evaluation import Estimator, Suite, evaluate, evaluating, plot_curves, suite
from tiltsim.evaluation.fields import make
from tiltsim.output import read_dataset
from tiltsim.synth.ranges import Range


def two_tilts(low, high, fields=4, size=160, dose: Range = 1e5):
    """A suite of two tilts of specimens of 60 to 90 Å, for the small library."""
    (first, *_) = suite("tilt", fields=fields, size=size).conditions
    conditions = []
    for tilt in (low, high):
        specimen = replace(first.recipe.specimens[0], tilt=tilt, thickness=(60.0, 90.0))
        faults = replace(
            first.recipe.faults, detection=replace(first.recipe.faults.detection, dose_per_A2=dose)
        )
        recipe = replace(first.recipe, specimens=(specimen,), faults=faults)
        conditions.append(replace(first, value=tilt, recipe=recipe, panel=""))
    return Suite("tilt", tuple(conditions))


def knowing(asked, library, change=lambda d: d, name="truth"):
    """An estimator that knows the truth of every image, and says it with a ``change``."""
    answers = {}
    for condition in asked.conditions:
        for number in range(condition.fields):
            field = make(condition, library, 0, number)
            answers[field.sight.image.values.tobytes()] = field.truth

    def predict(sight):
        truth = answers[sight.image.values.tobytes()]
        found = truth[["x", "y", "tilt", "thickness"]]
        found["d"] = change(truth.d)
        for quantity in ("d", "tilt", "thickness"):
            found[f"{quantity}_interval"] = xr.full_like(truth[quantity], 1e-9)
        return found

    return Estimator(name, "estimator", predict, "", {})


@pytest.fixture(scope="module")
def asked():
    return two_tilts(0.0, 8.0)


@pytest.fixture(scope="module")
def result(asked, library):
    """Truth, truth displaced, truth with y upwards, and column fitting at 0 and at 8 mrad."""
    offset, up = xr.DataArray([3.0, -2.0], dims="component"), xr.DataArray([1.0, -1.0], dims="component")
    compared = [
        knowing(asked, library),
        knowing(asked, library, lambda d: d + offset, "displaced"),
        knowing(asked, library, lambda d: d * up, "flipped"),
    ]
    return evaluate(compared, asked, library)


def test_the_truth_passes(result):
    truth = result.sel(estimator="truth")
    for name in ("d_rmse", "d_bias_abs", "tilt_rmse", "thickness_rmse"):
        np.testing.assert_allclose(truth[name], 0.0, atol=1e-9)
    for name in ("d_coverage", "tilt_coverage", "thickness_coverage", "predicted", "lattice_found"):
        np.testing.assert_array_equal(truth[name], 1.0)


def test_an_offset_is_found_and_a_flipped_axis_breaks(result):
    displaced = result.sel(estimator="displaced")
    np.testing.assert_allclose(displaced.d_bias_x, 3.0)
    np.testing.assert_allclose(displaced.d_bias_y, -2.0)
    np.testing.assert_allclose(displaced.d_bias_abs, np.sqrt(13.0))
    np.testing.assert_allclose(displaced.d_coverage, 0.0)
    angle = np.radians(result.field_azimuth)
    along = (3.0 * np.cos(angle) - 2.0 * np.sin(angle)).mean("field")
    np.testing.assert_allclose(displaced.d_bias_along, along)
    flipped = result.sel(estimator="flipped")
    np.testing.assert_allclose(flipped.d_rmse_x, 0.0, atol=1e-9)
    assert (flipped.d_rmse_y > 40.0).all()


def test_mis_tilt_biases_column_fits_along_its_azimuth(result):
    fit = result.sel(estimator="fit")
    at_zero, tilted = fit.isel(condition=0), fit.isel(condition=1)
    assert float(tilted.d_bias_abs) > float(at_zero.d_bias_abs) + 2.0
    # The same crystals: what tilt adds lies along it, at 5 to 10 nm opposite to it.
    assert float(tilted.d_bias_along - at_zero.d_bias_along) < -2.0
    assert abs(float(tilted.d_bias_across - at_zero.d_bias_across)) < 1.0
    # Its intervals count noise, which at this dose is less than the bias.
    assert (fit.d_coverage < 0.8).all()
    assert np.isnan(tilted.tilt_rmse)


def test_azimuths_are_those_of_the_true_tilt(asked, library):
    field = make(asked.conditions[1], library, 0, 2)
    tilt = field.truth.tilt.mean("cell").values
    assert np.hypot(*tilt) == pytest.approx(8.0)
    expected = np.degrees(np.arctan2(tilt[1], tilt[0])) % 360.0
    assert field.drawn["azimuth"] % 360.0 == pytest.approx(expected)


def test_estimators_see_nothing_that_gives_the_truth_away(asked, library):
    sight = make(asked.conditions[1], library, 0, 0).sight
    assert not {"recipe", "seed", "field", "dose_per_A2"} & set(sight.image.attrs)


def test_fields_of_another_seed_are_others(asked, library):
    first, again, other = (make(asked.conditions[0], library, seed, 0) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.sight.image, again.sight.image)
    assert not np.array_equal(first.sight.image, other.sight.image)


def test_the_number_of_workers_changes_nothing(result, asked, library):
    other = evaluate("fit", asked, library, workers=2)
    xr.testing.assert_identical(other.d_rmse.sel(estimator="fit"), result.d_rmse.sel(estimator="fit"))


def test_coma_is_counted_in_its_own_frame(library):
    coma = suite("coma", fields=1, size=96).conditions[-1]
    specimen = replace(coma.recipe.specimens[0], tilt=0.0, thickness=80.0)
    coma = replace(coma, recipe=replace(coma.recipe, specimens=(specimen,)))
    drawn = make(coma, library, 0, 0).drawn
    assert -180.0 <= drawn["azimuth"] <= 180.0
    assert drawn["azimuth"] != make(replace(coma, frame="tilt"), library, 0, 0).drawn["azimuth"]


def test_images_without_a_lattice_are_counted(library):
    blind = two_tilts(0.0, 4.0, fields=1, size=64, dose=1.0)
    found = evaluate("fit", blind, library)
    np.testing.assert_array_equal(found.lattice_found, 0.0)
    np.testing.assert_array_equal(found.predicted, 0.0)
    assert np.isnan(found.d_rmse).all()


def test_finished_conditions_are_kept_and_a_further_model_costs_its_own_time(library, tmp_path, monkeypatch):
    asked = two_tilts(0.0, 4.0, fields=2, size=128)
    whole = evaluate("fit", asked, library)
    real, calls = evaluating.make_all, []

    def interrupted(condition, *rest):
        calls.append(condition.value)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(condition, *rest)

    monkeypatch.setattr(evaluating, "make_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate("fit", asked, library, out=tmp_path / "out")
    resumed = evaluate("fit", asked, library, out=tmp_path / "out")
    assert calls == [0.0, 4.0, 4.0]
    xr.testing.assert_identical(resumed, whole)
    evaluate("fit", asked, library, out=tmp_path / "out")
    assert len(calls) == 3
    evaluate("fit", asked, library, out=tmp_path / "out", seed=1)
    assert len(calls) == 5


def test_curves_show_the_numbers_with_units(result):
    figure = plot_curves(result, "tilt")
    bias = figure.axes[1]
    assert bias.get_ylabel() == "|bias| of a field (pm)"
    assert bias.get_xlabel() == "mis-tilt (mrad)"
    lines = [line.get_ydata() for line in bias.get_lines()]
    expected = result.d_bias_abs.sel(estimator="fit").values
    assert any(len(y) == 2 and np.allclose(y, expected) for y in lines)
    with pytest.raises(SettingsError, match="suite 'coma' is not part"):
        plot_curves(result, "coma")


@pytest.mark.parametrize(
    ("words", "changes"),
    [("fields 0", {"fields": 0}), ("workers 0", {"workers": 0}), ("seed -1", {"seed": -1})],
)
def test_impossible_requests_are_one_sentence(library, words, changes):
    with pytest.raises(SettingsError, match=words):
        evaluate("fit", "tilt", library, **changes)


@pytest.fixture
def command(tiltsim_command):
    """``tiltsim evaluate``."""
    if not any(
        c.callback is not None and c.callback.__name__ == "evaluate"
        for c in tiltsim.cli.app.registered_commands
    ):
        tiltsim.cli.app.command()(verb)
    return lambda *arguments: tiltsim_command("evaluate", *arguments)


class Nothing(torch.nn.Module):
    def forward(self, stack):
        return stack.mean((1, 2))[:, None] * torch.zeros(2)


def test_the_command_leaves_every_file(command, library_file, tmp_path):
    program = torch.export.export(
        Nothing(), (torch.zeros(4, 24, 24),), dynamic_shapes=({0: torch.export.Dim("n", max=4096)},)
    )
    torch.export.save(program, tmp_path / "net.pt2")
    out = tmp_path / "out"
    arguments = (f"zeros={tmp_path / 'net.pt2'}", "--library", library_file, "--out", out)
    code, text = command(*arguments, "--suite", "zero", "--quick", "--size", 128, "--fields", 2)
    assert code == 0, text
    assert "zeros" in text
    names = {p.name for p in out.iterdir() if not p.name.startswith(".")}
    assert names == {"evaluation.nc", "summary.json", "curves.png", "curves.svg", "curves.pdf", "card.html"}
    page = (out / "card.html").read_text()
    assert "zeros" in page
    assert 'src="http' not in page
    assert "data:image/png;base64," in page
    assert "The library does not hold" in page  # up to 96 Å only
    summary = json.loads((out / "summary.json").read_text())
    rows = {row["estimator"]: row for row in summary["results"]}
    assert set(rows) == {"fit", "zeros"}
    # d = 0 everywhere misses all of ±23.6 pm; column fits do not.
    assert 15.0 < rows["zeros"]["d_rmse"] < 30.0
    assert rows["fit"]["d_rmse"] < 12.0
    stored = read_dataset(out / "evaluation.nc")
    assert float(stored.d_rmse.sel(estimator="zeros", condition=0)) == rows["zeros"]["d_rmse"]
    for name, variable in stored.data_vars.items():
        assert "units" in variable.attrs, name


def test_the_command_says_what_is_missing(command, library_file, tmp_path):
    out = tmp_path / "out"
    for arguments, words in (
        (("fit", "--out", out), "--library is missing"),
        (("fit", "--library", library_file, "--suite", "tilts", "--out", out), "suite 'tilts' is unknown"),
        ((tmp_path / "no.onnx", "--library", library_file, "--out", out), "no such model file"),
    ):
        code, text = command(*arguments)
        assert code == 2
        assert words in " ".join(text.split())
    assert not out.exists()
