"""Study files: presets load, mistakes are named."""

import pytest

from tiltsim import SettingsError
from tiltsim.config import PRESETS, load_study


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_load_and_hold_what_the_study_promises(preset):
    study = load_study(preset)
    assert len(study.tilt.series().points()) >= 9
    assert study.tilt.largest >= 8.0
    assert len(study.thicknesses) >= 3
    assert study.thicknesses[-1] >= 100.0
    phases = [(s.phase, s.samarium) for s in study.specimens]
    for wanted in (("R3c", 0.0), ("Cc", 0.07), ("Cc", 0.10), ("SrTiO3", 0.0)):
        assert wanted in phases
    assert study.microscope.energy_keV == 200
    assert study.detector.inner == 65


def test_yaml_and_toml_say_the_same(tmp_path):
    (tmp_path / "a.toml").write_text(
        'thicknesses = [40.0]\n[[specimens]]\nphase = "R3c"\n[tilt]\nlargest = 4\n'
    )
    (tmp_path / "a.yaml").write_text("thicknesses: [40.0]\nspecimens:\n  - phase: R3c\ntilt:\n  largest: 4\n")
    assert load_study(tmp_path / "a.toml") == load_study(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "specimens"),
        ("colour = 3", "colour"),
        ('[[specimens]]\nphase = "R3c"\nsamarum = 0.1', r"specimens\[0\]\.samarum"),
        ('[[specimens]]\nphase = "R3c"\n[tilt]\nlargest = "far"', "tilt.largest"),
        ('[[specimens]]\nphase = "R3c"\n[detector]\ninner = 90\nouter = 80', "detector.*outer"),
        ('[[specimens]]\nphase = "R3c"\n[field]\ncells = [2, 2]', "field.cells"),
        ('[[specimens]]\nphase = "R3c"\n[microscope]\nenergy = 200', "microscope.energy"),
        ("specimens = [", "not valid toml"),
        ("specimens = 3", "list"),
        ('seed = -1\n[[specimens]]\nphase = "R3c"', "seed"),
        ('[[specimens]]\nphase = "R3c"\n[tilt]\nn = 4', "tilt.*odd"),
    ],
)
def test_mistakes_name_the_key(tmp_path, text, words):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=words) as error:
        load_study(path)
    assert "\n" not in str(error.value)


def test_missing_file_names_the_presets(tmp_path):
    with pytest.raises(SettingsError, match="quick"):
        load_study(tmp_path / "none.toml")
