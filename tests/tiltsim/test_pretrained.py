"""The network that comes with tiltsim, on fields of a library it has never seen."""

import numpy as np
import pytest

import analysis
import dcnn
from tiltsim import synthesize
from tiltsim.errors import SettingsError
from tiltsim.pretrained import MODELS, model_path
from tiltsim.synth.labelling import SetFields, SynthesizedFields, labelled, true_cells
from tiltsim.synth.recipe import load_recipe, on_axis, parse_recipe


def recipe(tilt, azimuth):
    return parse_recipe(
        {
            "size": [320, 320],
            "pixel": 0.2,
            "specimens": [
                {
                    "phase": "R3c",
                    "thickness": 85.0,
                    "tilt": tilt,
                    "azimuth": azimuth,
                    "domains": {"pattern": "single", "variants": ["[111]"]},
                }
            ],
            "probe": {"source_fwhm": 0.8},
            "detection": {"dose_per_A2": 5e4},
        }
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_tilt_aware_sees_opposite_tilts_as_opposite_and_d_as_one(library, axis):
    """One pair of phonons gives the small library an asymmetry of some mrad of its own: it goes out of differences."""
    model = dcnn.load(model_path("tilt-aware"))
    tilts, d, fits = [], [], []
    for sign in (1, -1):
        field = synthesize(recipe(7.0, 90.0 * axis + (0.0 if sign > 0 else 180.0)), library, seed=4)
        measured = analysis.measure(field.image).unit_cells
        found = dcnn.predict(model, field.image, measured)
        truth = true_cells(field.truth).d.values.mean(axis=0)
        tilts.append(found.tilt.values.mean(axis=0))
        d.append(found.d.values.mean(axis=0) - truth)
        fits.append(measured.d.values.mean(axis=0) - truth)
        # Simulated otherwise than what it was trained on, and it says so.
        assert found.attrs["novelty"] > 1.0
    half = (tilts[0] - tilts[1]) / 2
    assert abs(half[axis] - 7.0) < 2.5
    assert abs(half[1 - axis]) < 2.5
    moved, fit_moved = (abs(v[0][axis] - v[1][axis]) / 2 for v in (d, fits))
    assert fit_moved > 3.0
    assert moved < 0.5 * fit_moved


def test_models_are_known_by_name_or_path(tmp_path):
    for name in MODELS:
        assert model_path(name).is_file()
        card = dcnn.load(model_path(name)).card
        assert card["data"]["training"]["labels"] == "truth"
        assert card["calibration"]["coverage"] == 0.9
    assert model_path(tmp_path / "own.safetensors") == tmp_path / "own.safetensors"


def test_fields_of_a_set_and_synthesized_ones_are_the_same(library, tmp_path):
    from tiltsim.synth.shards import write_set

    few = recipe([0.0, 6.0], 30.0)
    write_set(few, library, tmp_path, 6, seed=3, workers=1)
    made = SynthesizedFields(few, library, 6, seed=3)
    parts = [SetFields(tmp_path, part) for part in ("train", "validation", "test")]
    assert sum(len(p) for p in parts) == 6
    truth = [made[k] for k in range(6)]
    for part in parts:
        for k in range(len(part)):
            image, cells = part[k]
            same = [c for i, c in truth if np.array_equal(i.values, image.values)]
            assert len(same) == 1
            for name in ("x", "y", "d", "tilt", "thickness", "x_a"):
                np.testing.assert_allclose(cells[name].values, same[0][name].values, atol=1e-3)
    assert made.about["seed"] == 3
    with pytest.raises(SettingsError, match="part"):
        SetFields(tmp_path, "all")
    with pytest.raises(SettingsError, match="labels"):
        SynthesizedFields(few, library, 6, labels="guess")


def test_true_cells_lie_where_the_fit_finds_them(library):
    image, cells = labelled(synthesize(recipe(0.0, 0.0), library, seed=5))
    _, fitted = labelled(synthesize(recipe(0.0, 0.0), library, seed=5), "fit")
    for axes, place in ((("x", "y"), cells), (("x_a", "y_a"), cells)):
        one, other = (np.column_stack([t[a].values for a in axes]) for t in (place, fitted))
        nearest = np.linalg.norm(other[:, None] - one[None], axis=-1).min(axis=1)
        assert np.median(nearest) < 0.2  # Å; oxygen pulls the fitted B column
    assert image.dims == ("y", "x")


def test_on_axis_takes_all_tilt_out():
    for specimen in on_axis(load_recipe("synth-networks")).specimens:
        assert (specimen.tilt, specimen.bending, specimen.lean_scale) == (0.0, 0.0, 0.0)
