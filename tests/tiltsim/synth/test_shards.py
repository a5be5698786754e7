"""Sets of fields: the same bytes whoever makes them and however often they are interrupted; nothing half-done is taken for whole."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

from tests.tiltsim.synth import fake_fields
from tests.tiltsim.synth.fake_fields import LIBRARY, RECIPE, TABLE
from tiltsim.errors import SettingsError
from tiltsim.synth import packing, running, shard_store, shards
from tiltsim.synth.figures import plot_fields
from tiltsim.synth.recipe import draw, parse_recipe
from tiltsim.synth.shards import read_set, write_set

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setattr(shards, "synthesize", fake_fields.synthesize)
    monkeypatch.setattr(running, "synthesize", fake_fields.synthesize)
    monkeypatch.setattr(shards, "plot_fields", lambda dataset: Figure(figsize=(1, 1)))


@pytest.fixture
def counted(monkeypatch):
    """Fields that were synthesized, the trial of each run left out."""
    made = []

    def synthesize(recipe, library, seed=0, field=0):
        made.append(field)
        return fake_fields.synthesize(recipe, library, seed, field)

    monkeypatch.setattr(running, "synthesize", synthesize)
    return made


def digests(out):
    """SHA-256 of every file but summary.json, which says how long it took."""
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.name != "summary.json"
    }


def write(out, n=11, **others):
    return write_set(RECIPE, LIBRARY, out, n, **{"shard": 4, "workers": 1, "seed": 5} | others)


def test_a_set_holds_its_fields_labelled(tmp_path):
    summary = write(tmp_path / "set")
    with xr.open_zarr(tmp_path / "set" / "fields.zarr") as found:
        dataset = found.load()
    assert dataset.sizes["field"] == 11
    for k in (0, 3, 4, 10):
        made = fake_fields.synthesize(RECIPE, LIBRARY, 5, k)
        one = dataset.isel(field=k)
        assert one.field == k
        np.testing.assert_array_equal(one.image, made.image)
        np.testing.assert_allclose(one.d, made.truth.d, atol=1e-5)
        np.testing.assert_allclose(one.b_image, made.truth.b_image, atol=2e-6)
        assert json.loads(one.settings.item()) == made.recipe.as_dict()
        assert json.loads(one.about.item())["image"]["gain"] == made.image.attrs["gain"]
        assert one.drawn.sel(setting="detection.dose_per_A2") == made.recipe.faults.detection.dose_per_A2
        phase = draw(RECIPE, 5, k).specimens[0]
        kind = RECIPE.specimens[int(one.kind)]
        assert (phase.thickness == kind.thickness) == (not isinstance(kind.thickness, tuple))
    assert dataset.image.dtype == np.uint16
    assert dataset.image.units == "counts"
    assert dataset.d.units == "pm"
    assert dataset.x.units == "Å"
    np.testing.assert_allclose(dataset.x, np.arange(80) * 0.25)
    assert list(dataset.component.values) == ["x", "y"]
    assert parse_recipe(json.loads(dataset.attrs["recipe"])) == RECIPE
    assert dataset.attrs["seed"] == 5
    assert summary["fields"] == summary["made"] == sum(summary["split"].values()) == 11
    assert json.loads((tmp_path / "set" / "summary.json").read_text())["bytes"] == summary["bytes"]
    assert (tmp_path / "set" / "preview.png").is_file()


def test_pixels_that_vary_leave_no_common_coordinates(tmp_path):
    recipe = parse_recipe(TABLE | {"pixel": [0.2, 0.3]})
    write_set(recipe, LIBRARY, tmp_path, 3, workers=1)
    dataset = read_set(tmp_path)
    assert "x" not in dataset.coords
    assert len(np.unique(dataset.pixel)) == 3
    assert [draw(recipe, 0, k).pixel for k in range(3)] == dataset.pixel.values.tolist()


def test_same_bytes_for_any_number_of_workers(tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "three", workers=3)
    assert digests(tmp_path / "one") == digests(tmp_path / "three")
    write(tmp_path / "other", seed=6)
    assert (
        digests(tmp_path / "one")["fields.zarr/image/c/0/0/0"]
        != digests(tmp_path / "other")["fields.zarr/image/c/0/0/0"]
    )


def test_same_bytes_after_kills(tmp_path):
    write(tmp_path / "whole", n=14, shard=2)
    out = tmp_path / "killed"
    code = (
        "from pathlib import Path\n"
        "from tests.tiltsim.synth import fake_fields as fake\n"
        "from tiltsim.synth import running, shards\n"
        "shards.synthesize = running.synthesize = fake.synthesize\n"
        f"shards.write_set(fake.RECIPE, fake.LIBRARY, Path({str(out)!r}), 14, shard=2, workers=3, seed=5)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"FAKE_SECONDS": "0.15", "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while len(list(out.glob(".work/*/shard-*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = len(list(out.glob(".work/*/shard-*.json")))
    assert 3 <= finished < 7
    with pytest.raises(SettingsError, match=f"not finished, {2 * finished} fields so far"):
        read_set(out)
    # What a kill in the midst of a file leaves.
    next(out.glob(".work/*/")).joinpath("1-1.partial").write_bytes(b"half")
    assert write(out, n=14, shard=2)["made"] == 14 - 2 * finished
    assert digests(out) == digests(tmp_path / "whole")


def test_a_finished_set_grows_and_is_never_made_twice(tmp_path, counted):
    write(tmp_path / "whole", n=13)
    counted.clear()
    out = tmp_path / "grown"
    write(out, n=6)
    before = read_set(out).load()
    assert write(out, n=6)["made"] == 0
    assert write(out, n=3)["fields"] == 6
    assert Counter(counted) == Counter(range(6))
    write(out, n=13)
    # Only the shard that was not full is made again.
    assert Counter(counted) == Counter([*range(6), *range(4, 13)])
    assert digests(out) == digests(tmp_path / "whole")
    xr.testing.assert_identical(read_set(out).isel(field=slice(6)).load(), before)


@pytest.mark.parametrize("harm", ["lost", "changed", "marker"])
def test_damaged_shards_are_found_and_mended(tmp_path, counted, harm):
    write(tmp_path)
    before = digests(tmp_path)
    file = tmp_path / "fields.zarr" / "image" / "c" / "1" / "0" / "0"
    if harm == "lost":
        file.unlink()
        with pytest.raises(SettingsError, match="missing or damaged"):
            read_set(tmp_path)
    elif harm == "changed":
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
        with pytest.raises(SettingsError, match=r"missing or damaged, such as image/c/1/0/0"):
            read_set(tmp_path, verify=True)
    else:
        next(tmp_path.glob(".work/*/shard-00001.json")).write_text("{")
    counted.clear()
    write(tmp_path)
    assert sorted(counted) == [4, 5, 6, 7]
    assert digests(tmp_path) == before
    read_set(tmp_path, verify=True)


@pytest.mark.parametrize(
    ("others", "word"),
    [
        ({"recipe": parse_recipe(TABLE | {"pixel": 0.3})}, "another recipe"),
        ({"library": SimpleNamespace(**vars(LIBRARY) | {"digest": "other"})}, "another library"),
        ({"seed": 6}, "another --seed"),
        ({"shard": 5}, "another number of fields a shard"),
        ({"format": "netcdf"}, "another --format"),
    ],
)
def test_another_set_is_refused(tmp_path, others, word):
    write(tmp_path, n=2)
    before = digests(tmp_path)
    wanted = {"recipe": RECIPE, "library": LIBRARY, "seed": 5, "shard": 4, "workers": 1} | others
    with pytest.raises(SettingsError, match=word):
        write_set(wanted.pop("recipe"), wanted.pop("library"), tmp_path, 2, **wanted)
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    ("others", "word"),
    [
        ({"n": 0}, "--n 0"),
        ({"seed": -1}, "--seed"),
        ({"workers": -2}, "--workers"),
        ({"format": "tiff"}, "zarr, netcdf"),
        ({"shard": -1}, "shard"),
        ({"n": 10**7, "format": "netcdf"}, "GiB"),
    ],
)
def test_bad_requests_are_one_sentence(tmp_path, others, word):
    with pytest.raises(SettingsError, match=word) as caught:
        write(tmp_path / "out", **others)
    assert str(caught.value).endswith(".")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("specimen", "words"),
    [
        (
            {"tilt": [0.0, 15.0], "bending": [-4.0, 0.0]},
            r"specimens\[1\]: tilt .* beyond the library's 16 mrad",
        ),
        ({"tilt": 8.0, "domains": {"pattern": "random"}}, r"specimens\[1\]: tilt .*lean_scale"),
        ({"thickness": [30.0, 410.0]}, r"specimens\[1\]: thickness .* 30 to 410 Å"),
        ({"thickness": [30.0, 390.0], "terraces": 6}, r"specimens\[1\]: thickness .*terraces"),
    ],
)
def test_what_only_a_late_field_might_ask_is_refused_at_once(tmp_path, specimen, words):
    recipe = parse_recipe(TABLE | {"specimens": [{}, specimen]})
    with pytest.raises(SettingsError, match=words):
        write_set(recipe, LIBRARY, tmp_path / "out", 2, workers=1)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_keeps_what_is_done(tmp_path, monkeypatch):
    write(tmp_path / "whole")
    replace, room = os.replace, [30]

    def full(source, target):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(shard_store.os, "replace", full)
        with pytest.raises(SettingsError, match=r"No space left on device.*Finished shards are kept"):
            write(tmp_path / "full")
    assert not list((tmp_path / "full").rglob("*.partial"))
    assert write(tmp_path / "full")["made"] < 11
    assert digests(tmp_path / "full") == digests(tmp_path / "whole")


def test_the_preview_shows_true_d_where_the_image_shows_b(tmp_path):
    write(tmp_path, n=3)
    dataset = read_set(tmp_path).load()
    axes = plot_fields(dataset).axes
    assert len(axes) == 3
    for k, ax in enumerate(axes):
        one = dataset.isel(field=k)
        (arrows,) = [c for c in ax.collections if isinstance(c, Quiver)]
        d, place = one.d.values.reshape(-1, 2), one.b_image.values.reshape(-1, 2)
        shown = np.hypot(*d.T) > 8.0
        np.testing.assert_allclose(np.stack([arrows.U, arrows.V], axis=1), d[shown])
        np.testing.assert_allclose(arrows.XY, place[shown], atol=1e-6)
        np.testing.assert_array_equal(ax.images[0].get_array(), one.image)
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # y points down


def test_shards_are_made_one_after_the_other(tmp_path, monkeypatch):
    """Memory: no more than the shards under way are held, whatever the size of the set."""
    held, most, lock = set(), [0], threading.Lock()

    def synthesize(recipe, library, seed=0, field=0):
        with lock:
            held.add(field)
            most[0] = max(most[0], len(held))
        return fake_fields.synthesize(recipe, library, seed, field)

    def pack(dataset, index, shard):
        with lock:
            held.difference_update(dataset.field.values.tolist())
        return packing.pack(dataset, index, shard)

    monkeypatch.setattr(running, "synthesize", synthesize)
    monkeypatch.setattr(running, "pack", pack)
    write(tmp_path, n=60, workers=3)
    assert most[0] <= 4 + 2 * 3


def test_netcdf_is_the_same_set_in_one_file(tmp_path):
    write(tmp_path / "zarr")
    write(tmp_path / "one", format="netcdf")
    write(tmp_path / "two", format="netcdf", workers=3, n=5)
    write(tmp_path / "two", format="netcdf", workers=3)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert write(tmp_path / "one", format="netcdf")["made"] == 0
    many, single = read_set(tmp_path / "zarr").load(), read_set(tmp_path / "one")
    for name in many.variables:
        assert (many[name].values.astype(single[name].dtype) == single[name].values).all(), name
        assert many[name].attrs == single[name].attrs, name
    assert not (tmp_path / "one" / ".work" / "fields.zarr").exists()


def test_parts_do_not_depend_on_the_size_of_the_set():
    recipe = parse_recipe(TABLE | {"split": [0.7, 0.2, 0.1]})
    long = packing.parts(recipe, 3, range(1000))
    assert packing.parts(recipe, 3, range(20)) == long[:20]
    assert packing.parts(recipe, 3, [17, 500]) == [long[17], long[500]]
    for n in (30, 100, 1000):
        count = Counter(long[:n])
        assert abs(count["train"] - 0.7 * n) <= 2
        assert abs(count["test"] - 0.1 * n) <= 2
    assert packing.parts(recipe, 4, range(1000)) != long
    assert set(packing.parts(parse_recipe(TABLE | {"split": [1, 0, 0]}), 0, range(50))) == {"train"}


def test_large_images_make_smaller_shards():
    for size, expected in ((256, 64), (1024, 64), (2048, 16), (4096, 4), (16384, 1)):
        image = SimpleNamespace(nbytes=2 * size**2)
        assert packing.fields_a_shard(image) == expected


def test_fields_of_unlike_shape_are_refused():
    small = parse_recipe(TABLE | {"size": [64, 64]})
    made = [fake_fields.synthesize(r, LIBRARY, 0, 0) for r in (RECIPE, small)]
    with pytest.raises(ValueError, match="differ in the shape of image"):
        packing.stack(RECIPE, 0, [0, 1], made)


def test_reading_says_what_is_wrong(tmp_path):
    with pytest.raises(SettingsError, match="holds no set"):
        read_set(tmp_path)
    with pytest.raises(SettingsError, match="holds no set"):
        read_set(tmp_path / "missing.zarr")
    xr.Dataset({"a": ("x", [1.0])}).to_zarr(tmp_path / "other.zarr", zarr_format=3, consolidated=True)
    with pytest.raises(SettingsError, match="no set of synthetic fields"):
        read_set(tmp_path / "other.zarr")
    (tmp_path / "fields.nc").write_text("hello")
    with pytest.raises(SettingsError, match="not a readable netCDF4"):
        read_set(tmp_path)
    write(tmp_path / "set", n=2)
    (tmp_path / "set" / "fields.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(SettingsError, match="not a readable zarr store"):
        read_set(tmp_path / "set")
    write(tmp_path / "set", n=2)
    assert read_set(tmp_path / "set").sizes["field"] == 2
    other = tmp_path / "moved"
    other.mkdir()
    (tmp_path / "set" / "fields.zarr").rename(other / "fields.zarr")
    read_set(other)
    with pytest.raises(SettingsError, match=r"its .work is missing"):
        write(other, n=2)


def test_a_cluster_makes_the_same_bytes(tmp_path):
    from distributed import LocalCluster

    write(tmp_path / "threads")
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=":0",
    ) as cluster:
        done = []
        show = SimpleNamespace(stage=lambda *_: None, advance=lambda d, total=None: done.append(d))
        write(tmp_path / "cluster", scheduler=cluster.scheduler_address, reporter=show)
    assert done[-1] == 11
    assert digests(tmp_path / "threads") == digests(tmp_path / "cluster")


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(SettingsError, match="cannot be reached"):
        write(tmp_path, scheduler="nonsense://there")
