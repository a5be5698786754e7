"""Whole fields from the real chain: truth, determinism, what analysis finds in them."""

import hashlib
import json

import numpy as np
import pytest
from scipy.spatial import cKDTree

import analysis
import tiltsim
from tiltsim.synth import FieldDataset, SyntheticFields, read_set, synthesize, write_set
from tiltsim.synth.recipe import parse_recipe

PLAIN = {
    "size": [256, 256],
    "pixel": 0.2,
    "specimens": [
        {
            "phase": "R3c",
            "thickness": 60.0,
            "domains": {"pattern": "wall", "variants": ["[111]"], "wall": "109"},
        }
    ],
}
FAULTY = PLAIN | {
    "size": [128, 128],
    "pixel": [0.18, 0.22],
    "specimens": [
        {"phase": "R3c", "thickness": [40.0, 80.0], "tilt": [0.0, 8.0], "rotation": [-5.0, 5.0], "disorder_b": 3.0},
        {"phase": "Cc", "samarium": [0.0, 0.1], "substrate": 0.4, "thickness": 60.0, "lean_scale": 0.2},
    ],
    "probe": {"C21": [0.0, 300.0], "C12": 10.0},
    "scan": {"drift": [0.0, 3.0], "drift_direction": [0.0, 360.0], "jitter_x": 0.05, "flyback": 0.5},
    "cover": {"contamination": 0.003, "amorphous": 10.0},
    "detection": {"dose_per_A2": [1e4, 1e5], "tail": 0.05, "readout": 0.3, "bits": 12},
}  # fmt: skip


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "summary.json"
    }


@pytest.fixture(scope="module")
def recipe():
    return parse_recipe(FAULTY)


def test_analysis_finds_the_columns_where_the_truth_has_them(library):
    field = synthesize(parse_recipe(PLAIN), library, seed=3)
    found = analysis.measure(field.image, weights="poisson")
    cells = found.unit_cells
    truth = field.truth
    place, d = truth.b_image.values.reshape(-1, 2), truth.d.values.reshape(-1, 2)
    distance, nearest = cKDTree(place).query(np.c_[cells.x, cells.y])
    assert len(cells.x) > 100
    assert np.median(distance) < 0.5
    # Iron is pulled off by its oxygen by a few pm along d; the sign and size of d are the truth's.
    assert np.polyfit(d[nearest, 1], cells.d.values[:, 1], 1)[0] == pytest.approx(1.2, abs=0.25)
    assert set(np.sign(np.round(d[:, 1]))) >= {-1.0, 1.0}  # 109°: d_y reverses, d_x does not
    assert (d[:, 0] < 0).all() or (d[:, 0] > 0).all()


def test_the_truth_is_whole_and_says_its_units(library, recipe):
    field = synthesize(recipe, library, seed=1, field=4)
    truth = field.truth
    corners = truth.a.values
    cage = (corners[:-1, :-1] + corners[1:, :-1] + corners[:-1, 1:] + corners[1:, 1:]) / 4
    np.testing.assert_allclose((cage - truth.b.values) * 100, truth.d.values, atol=1e-9)
    assert all("units" in v.attrs for v in truth.data_vars.values())
    assert field.image.attrs["units"] == "counts"
    assert field.image.dtype == np.uint16
    assert 20 < int(truth.inside.sum()) < truth.inside.size
    drawn = json.loads(field.image.attrs["recipe"])
    assert drawn["specimens"][0]["phase"] in ("R3c", "Cc")
    assert isinstance(drawn["detection"]["dose_per_A2"], float)


def test_a_drifting_specimen_is_shown_where_a_image_says(library):
    still = parse_recipe(PLAIN)
    moving = parse_recipe(PLAIN | {"scan": {"drift": 4.0, "drift_direction": 0.0, "scale_x": 0.01}})
    field = synthesize(moving, library, seed=3)
    found = analysis.measure(field.image, weights="poisson").columns
    a = found.isel(column=np.flatnonzero(found.site.values == "A"))
    distance, _ = cKDTree(field.truth.a_image.values.reshape(-1, 2)).query(np.c_[a.x, a.y])
    assert np.percentile(distance, 90) < 0.05
    distance, _ = cKDTree(synthesize(still, library, seed=3).truth.a_image.values.reshape(-1, 2)).query(
        np.c_[a.x, a.y]
    )
    assert np.percentile(distance, 90) > 0.5


def test_terraces_are_shown_where_a_image_says_and_turned_scans_turn_d_image(library):
    steps = parse_recipe(
        PLAIN
        | {"specimens": [{"phase": "R3c", "thickness": 60.0, "tilt": 8.0, "azimuth": 0.0, "terraces": 6}]}
    )
    truth = synthesize(steps, library, seed=2).truth
    height = truth.height.values
    assert np.ptp(height) > 3.0
    moved = (truth.b_image - truth.b).values[..., 0]
    np.testing.assert_allclose(moved, -np.tan(truth.tilt.values[..., 0] * 1e-3) * height, atol=1e-9)
    turned = synthesize(parse_recipe(PLAIN | {"scan": {"rotation": 10.0}}), library, seed=3).truth
    # Rows turned clockwise show the crystal turned anticlockwise: d along +y leans to +x.
    angle = np.radians(10.0)
    c, s = np.cos(angle), np.sin(angle)
    np.testing.assert_allclose(
        turned.d_image.values, turned.d.values @ np.array([[c, -s], [s, c]]), atol=1e-6
    )


def test_same_seed_same_bytes_whatever_the_workers_and_interruptions(library, recipe, tmp_path):
    write_set(recipe, library, tmp_path / "one", 6, seed=9, workers=1, shard=2)
    write_set(recipe, library, tmp_path / "four", 6, seed=9, workers=4, shard=2)
    write_set(recipe, library, tmp_path / "grown", 3, seed=9, workers=2, shard=2)
    write_set(recipe, library, tmp_path / "grown", 6, seed=9, workers=1, shard=2)
    first = digests(tmp_path / "one")
    assert len(first) > 10
    assert digests(tmp_path / "four") == first
    assert digests(tmp_path / "grown") == first
    write_set(recipe, library, tmp_path / "other", 6, seed=10, workers=2, shard=2)
    assert digests(tmp_path / "other") != first
    whole = read_set(tmp_path / "one")
    np.testing.assert_array_equal(
        whole.image.isel(field=3).values, synthesize(recipe, library, seed=9, field=3).image.values
    )
    image, truth = SyntheticFields(recipe, library, length=6, seed=9)[3]
    np.testing.assert_array_equal(image[0].numpy(), whole.image.isel(field=3).values.astype(np.float32))
    assert "d" in truth
    parts = [len(FieldDataset(tmp_path / "one", split)) for split in ("train", "validation", "test")]
    assert sum(parts) == 6


def test_what_the_library_does_not_hold_is_refused_before_any_work(library, tmp_path):
    thick = parse_recipe(PLAIN | {"specimens": [{"phase": "R3c", "thickness": 300.0}]})
    with pytest.raises(tiltsim.SettingsError, match="thickness"):
        write_set(thick, library, tmp_path / "set", 4)
    assert not (tmp_path / "set").exists()
