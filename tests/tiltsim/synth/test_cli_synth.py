"""The verb ``synth`` as a newcomer meets it."""

import json

import pytest

from tests.tiltsim.synth import fake_fields
from tiltsim import cli_synth
from tiltsim.synth import forecast, running, shards
from tiltsim.synth.recipe import RECIPES, load_recipe, parse_recipe
from tiltsim.synth.shards import read_set

RECIPE = """
size = [64, 80]
[[specimens]]
samarium = [0.0, 0.1]
[detection]
dose_per_A2 = [1e4, 1e5]
"""


@pytest.fixture
def synth(tiltsim_command, monkeypatch, tmp_path):
    """Run ``tiltsim synth`` on faked fields."""
    for module in (shards, running, forecast):
        monkeypatch.setattr(module, "synthesize", fake_fields.synthesize)
    monkeypatch.setattr(cli_synth, "open_library", lambda path: fake_fields.LIBRARY)
    (tmp_path / "mine.toml").write_text(RECIPE)
    given = ("--recipe", tmp_path / "mine.toml", "--library", "library.nc", "--out", tmp_path / "set")
    return lambda *arguments: tiltsim_command("synth", *given, *arguments)


def test_a_set_is_made_grows_and_is_not_made_twice(synth, tmp_path):
    code, text = synth("--n", 5, "--workers", 2)
    assert code == 0, text
    assert "5 fields (5 made now" in text
    assert read_set(tmp_path / "set").sizes["field"] == 5
    summary = json.loads((tmp_path / "set" / "summary.json").read_text())
    assert {"fields", "seconds", "fields_per_second", "bytes", "split"} <= set(summary)
    code, text = synth("--n", 5)
    assert code == 0
    assert "all there already" in text
    code, text = synth("--n", 8)
    assert code == 0
    assert read_set(tmp_path / "set").sizes["field"] == 8


def test_netcdf(synth, tmp_path):
    code, text = synth("--n", 2, "--format", "netcdf")
    assert code == 0, text
    assert (tmp_path / "set" / "fields.nc").is_file()


def test_dry_run_says_sizes_parts_and_time_and_writes_nothing(synth, tmp_path):
    code, text = synth("--n", 1000, "--dry-run", "--workers", 2)
    assert code == 0, text
    for words in (
        "1000 fields of 64 × 80 px, uint16",
        "799 train",
        "MB",
        "an image",
        "s a field",
        "2 workers",
    ):
        assert words in text
    # Sm fraction, dose, and the four directions that are random by default
    assert "1 kind of specimen, 6 settings drawn for each field" in text
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--recipe", "none.toml"), "no such recipe"),
        (("--n", "0"), "--n 0 must be at least 1"),
        (("--workers", "0"), "--workers 0 must be at least 1"),
        (("--format", "tiff"), "zarr, netcdf"),
        (("--seed", "-1"), "--seed -1"),
        (("--scheduler", "nonsense://x"), "cannot be reached"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(synth, arguments, word):
    code, text = synth(*arguments)
    assert code == 2
    assert word in text
    assert len([line for line in text.splitlines() if line.startswith("tiltsim: ")]) == 1
    assert "Traceback" not in text


def test_another_recipe_in_the_same_folder_is_refused(synth, tmp_path):
    assert synth("--n", 2)[0] == 0
    (tmp_path / "mine.toml").write_text(RECIPE.replace("1e5", "2e5"))
    code, text = synth("--n", 2)
    assert code == 2
    assert "another recipe" in text


def test_a_missing_library_says_how_to_make_one(tiltsim_command, tmp_path):
    code, text = tiltsim_command("synth", "--out", tmp_path / "set")
    assert code == 2
    assert "tiltsim library build" in text
    code, text = tiltsim_command("synth", "--library", tmp_path / "none.nc", "--out", tmp_path / "set")
    assert code == 2
    assert "no such file" in text
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_show_prints_a_recipe_to_copy(tiltsim_command, tmp_path, name):
    code, text = tiltsim_command("synth", "--recipe", name, "--show")
    assert code == 0
    (tmp_path / "mine.toml").write_text(text)
    assert load_recipe(tmp_path / "mine.toml") == load_recipe(name)
    assert parse_recipe(load_recipe(name).as_dict()).digest == load_recipe(name).digest
    assert "#" in text


def test_help_teaches(tiltsim_command):
    code, text = tiltsim_command("synth", "--help")
    assert code == 0
    assert "Example" in text
    assert "--dry-run" in text
