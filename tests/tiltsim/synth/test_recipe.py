"""Recipes: what a file says is what is drawn, and a mistake is one sentence with the key's full name."""

from collections import Counter

import numpy as np
import pytest

from tiltsim.errors import SettingsError
from tiltsim.synth.recipe import (
    RECIPES,
    draw,
    kind_drawn,
    load_recipe,
    parse_recipe,
    recipe_text,
    settings_drawn,
    values_drawn,
)

TABLE = {
    "title": "two kinds",
    "size": [256, 128],
    "pixel": [0.15, 0.25],
    "specimens": [
        {"weight": 3, "phase": "R3c", "samarium": [0.0, 0.1]},
        {"phase": "SrTiO3", "thickness": [50, 100]},
    ],
    "detection": {"dose_per_A2": [1e4, 1e5]},
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_that_come_with_tiltsim_are_commented_and_drawn(name):
    recipe = load_recipe(name)
    assert "#" in recipe_text(name)
    assert parse_recipe(recipe.as_dict()) == recipe
    kinds = {kind_drawn(recipe, 0, k) for k in range(300)}
    assert kinds == set(range(len(recipe.specimens)))
    assert not settings_drawn(draw(recipe))
    assert "detection.dose_per_A2" in settings_drawn(recipe)


def test_files_are_read_as_presets_are(tmp_path):
    (tmp_path / "mine.toml").write_text(recipe_text("synth-quick"))
    assert load_recipe(tmp_path / "mine.toml") == load_recipe("synth-quick")
    (tmp_path / "mine.yaml").write_text(
        "size: [256, 128]\nspecimens:\n  - {phase: R3c, samarium: [0.0, 0.1]}\ndetection:\n  dose_per_A2: 20000.0\n"
    )
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.size == (256, 128)
    assert recipe.specimens[0].samarium == (0.0, 0.1)
    assert recipe.faults.detection.dose_per_A2 == 20000.0


def test_kinds_are_drawn_by_weight_and_ranges_within_their_ends():
    recipe = parse_recipe(TABLE)
    assert recipe.shares == (0.75, 0.25)
    assert recipe.extent == (128 * 0.25, 256 * 0.25)
    fields = [draw(recipe, 7, k) for k in range(400)]
    count = Counter(one.specimens[0].phase for one in fields)
    assert abs(count["R3c"] - 300) < 35  # four standard deviations
    assert [recipe.specimens[kind_drawn(recipe, 7, k)].phase for k in range(400)] == [
        one.specimens[0].phase for one in fields
    ]
    pixels = np.array([one.pixel for one in fields])
    assert pixels.min() >= 0.15
    assert pixels.max() <= 0.25
    assert pixels.mean() == pytest.approx(0.2, abs=0.006)
    assert np.ptp([one.specimens[0].samarium for one in fields if one.specimens[0].phase == "R3c"]) > 0.08
    assert {one.specimens[0].samarium for one in fields if one.specimens[0].phase == "SrTiO3"} == {0.0}


def test_a_field_follows_from_seed_and_number_alone():
    recipe = parse_recipe(TABLE)
    assert draw(recipe, 1, 5) == draw(recipe, 1, 5)
    assert draw(recipe, 1, 5) != draw(recipe, 1, 6)
    assert draw(recipe, 1, 5) != draw(recipe, 2, 5)


def test_drawn_numbers_are_named():
    recipe = parse_recipe(TABLE)
    names = settings_drawn(recipe)
    assert {"pixel", "specimen.samarium", "specimen.thickness", "detection.dose_per_A2"} <= set(names)
    assert not {"size", "split", "specimen.polar", "specimen.domains.wall_width", "scan.drift"} & set(names)
    assert len(set(names)) == len(names)
    one = draw(recipe, 0, 3)
    values = dict(zip(names, values_drawn(one, names), strict=True))
    assert values["pixel"] == one.pixel
    assert values["specimen.thickness"] == one.specimens[0].thickness
    assert values["detection.dose_per_A2"] == one.faults.detection.dose_per_A2
    assert np.isnan(values_drawn(one, ["specimen.unheard_of"])).all()


def test_the_digest_tells_every_setting():
    base = parse_recipe(TABLE)
    assert parse_recipe(TABLE).digest == base.digest
    changed = [
        TABLE | {"pixel": 0.2},
        TABLE | {"detection": {"dose_per_A2": [1e4, 2e5]}},
        TABLE | {"specimens": TABLE["specimens"][::-1]},
        TABLE | {"specimens": [TABLE["specimens"][0] | {"weight": 2}, TABLE["specimens"][1]]},
    ]
    assert len({base.digest, *(parse_recipe(t).digest for t in changed)}) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sise": 3}, "sise is not a setting"),
        ({"weights": [1, 2]}, "weights is not a setting"),
        ({"specimens": []}, r"at least one \[\[specimens\]\]"),
        ({"specimens": {"phase": "R3c"}}, "must be a list"),
        ({"specimens": [3]}, r"specimens\[0\] must be a table"),
        ({"specimens": [{"phas": "R3c"}]}, r"specimens\[0\].phas is not a setting; .* knows .*phase.*weight"),
        ({"specimens": [{"domains": {"patern": 1}}]}, r"specimens\[0\].domains.patern is not a setting"),
        (
            {"specimens": [{"samarium": "much"}]},
            r"specimens\[0\].samarium must be a number, or \[lowest, highest\]",
        ),
        ({"specimens": [{"samarium": [0, 0.1, 0.2]}]}, r"specimens\[0\].samarium must be a number, or"),
        ({"specimens": [{"samarium": [0.2, 0.1]}]}, "samarium"),
        ({"specimens": [{"weight": "heavy"}]}, r"weight.*valid number"),
        ({"specimens": [{"weight": -1}]}, "weight"),
        ({"specimens": [{"weight": 0}]}, "nor all 0"),
        ({"detection": {"dose": 3}}, "detection.dose is not a setting"),
        ({"detection": {"dose_per_A2": -3}}, "detection.dose_per_A2"),
        ({"detection": 3}, "detection must be a table"),
        ({"size": [20, 20]}, "64 to 16384"),
        ({"size": 512}, "size: "),
        ({"pixel": 2.0}, "pixel 2 Å"),
        ({"split": [0.8, 0.1, 0.2]}, "add up to 1"),
        ({"split": [1.2, -0.1, -0.1]}, "add up to 1"),
    ],
)
def test_mistakes_are_one_sentence_with_the_key(change, words):
    with pytest.raises(SettingsError, match=words) as caught:
        parse_recipe(TABLE | change, "mine.toml")
    assert str(caught.value).startswith("mine.toml: ")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.toml", "size = [", "not valid toml"),
        ("a.yaml", "size: [", "not valid yaml"),
        ("a.yaml", "- 1", "holds no settings"),
        ("a.toml", "\xff", "not valid toml"),
    ],
)
def test_unreadable_files_are_one_sentence(tmp_path, name, text, words):
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(SettingsError, match=words):
        load_recipe(tmp_path / name)


def test_a_missing_file_names_the_recipes(tmp_path):
    with pytest.raises(SettingsError, match="synth-quick, synth-films"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="synth-quick, synth-films"):
        recipe_text("quick")
