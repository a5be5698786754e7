"""Conditions that differ in their axis and in nothing else."""

from types import SimpleNamespace

import pytest

from tiltsim.errors import SettingsError
from tiltsim.evaluation.suites import AXES, SUITES, THICKNESS, suite
from tiltsim.synth.recipe import draw


def test_every_suite_varies_its_axis_alone():
    for name in AXES:
        asked = suite(name, fields=3, size=128)
        assert {c.suite for c in asked.conditions} == {name}
        tables = [c.recipe.as_dict() for c in asked.conditions]
        for table in tables:
            specimen = table["specimens"][0]
            if name in ("tilt", "zero"):
                assert isinstance(specimen.pop("tilt"), float)
            else:
                assert specimen["tilt"] == [0.0, 10.0]
            if name in ("thickness", "composition"):
                specimen.pop({"thickness": "thickness", "composition": "samarium"}[name])
            assert specimen.get("thickness", 0.0) in (0.0, list(THICKNESS))
            if name in ("tilt", "dose"):
                assert isinstance(table["detection"].pop("dose_per_A2"), float)
            if name == "blur":
                table["probe"].pop("source_fwhm")
            if name == "coma":
                table["probe"].pop("C21")
            if name == "scan":
                assert table["scan"].pop("jitter_x") == table["scan"].pop("jitter_y")
        assert all(t == tables[0] for t in tables), name


def test_tilt_is_a_grid_of_every_tilt_at_every_dose():
    asked = suite("tilt")
    grid = {(c.value, c.recipe.faults.detection.dose_per_A2) for c in asked.conditions}
    assert grid == {(t, d) for t in (0.0, 2.5, 5.0, 7.5, 10.0) for d in (1e4, 3e4, 1e5)}
    assert all(c.recipe.specimens[0].tilt == c.value for c in asked.conditions)


def test_zero_tilt_means_that_every_domain_is_on_the_zone_axis():
    (condition,) = suite("zero").conditions
    assert not condition.recipe.specimens[0].own_leans
    assert condition.recipe.specimens[0].tilt == 0.0


def test_samarium_is_in_percent():
    asked = suite("composition")
    assert [c.value for c in asked.conditions] == [0, 7, 10, 13, 20]
    assert [c.recipe.specimens[0].samarium for c in asked.conditions] == pytest.approx(
        [0, 0.07, 0.1, 0.13, 0.2]
    )


def test_a_field_draws_the_same_specimen_in_every_condition():
    low, *_, high = (draw(c.recipe, 900000, 3) for c in suite("tilt").conditions)
    assert low.specimens[0].tilt != high.specimens[0].tilt
    assert low.specimens[0].thickness == high.specimens[0].thickness
    assert low.specimens[0].azimuth == high.specimens[0].azimuth


def test_all_holds_every_suite():
    assert {c.suite for c in suite("all").conditions} == set(AXES)
    assert set(SUITES) == {*AXES, "all"}


def test_a_small_library_limits_thickness_and_leaves_conditions_out():
    library = SimpleNamespace(tilt_limit=8.0, thickness_range=(23.0, 250.0))
    asked = suite("tilt", library=library)
    assert max(c.value for c in asked.conditions) == 7.5
    assert all(c.recipe.specimens[0].thickness == (50.0, 250.0) for c in asked.conditions)
    assert any("mis-tilt 10 mrad" in words for words in asked.left_out)
    assert any("above 250 Å" in words for words in asked.left_out)
    with pytest.raises(SettingsError, match="no condition that the library holds"):
        suite("dose", library=library)  # draws tilts up to 10 mrad
    with pytest.raises(SettingsError, match="build a thicker one"):
        suite("tilt", library=SimpleNamespace(tilt_limit=16.0, thickness_range=(10.0, 40.0)))


def test_unknown_suites_and_empty_conditions_are_one_sentence():
    with pytest.raises(SettingsError, match="suite 'tilts' is unknown; choose one of tilt, "):
        suite("tilts")
    with pytest.raises(SettingsError, match="fields 0 must be at least 1"):
        suite("tilt", fields=0)
