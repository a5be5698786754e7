"""Fields for training: the same from disk and made on the fly, in this process and in workers."""

import json
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.tiltsim.synth import fake_fields
from tests.tiltsim.synth.fake_fields import LIBRARY, RECIPE
from tiltsim.errors import SettingsError
from tiltsim.synth import running, shards, torch_data
from tiltsim.synth.shards import read_set, write_set
from tiltsim.synth.torch_data import FieldDataset, SyntheticFields


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    for module in (shards, running, torch_data):
        monkeypatch.setattr(module, "synthesize", fake_fields.synthesize)


@pytest.fixture(scope="module", params=["zarr", "netcdf"])
def written(tmp_path_factory, request):
    """A set of twenty fields."""
    out = tmp_path_factory.mktemp("set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "synthesize", fake_fields.synthesize)
        patch.setattr(running, "synthesize", fake_fields.synthesize)
        write_set(RECIPE, LIBRARY, out, 20, seed=5, workers=1, shard=8, format=request.param)
    return out


def test_parts_are_fields_as_a_whole(written):
    parts = {name: FieldDataset(written, name) for name in ("train", "validation", "test")}
    numbers = np.concatenate([p.numbers for p in parts.values()])
    assert sorted(numbers) == list(range(20))
    assert len(FieldDataset(written, "all")) == 20
    assert 15 <= len(parts["train"]) <= 17


def test_an_item_is_the_field(written):
    fields = FieldDataset(written, "test")
    image, truth = fields[1]
    number = int(truth["field"])
    assert number == fields.numbers[1]
    made = fake_fields.synthesize(RECIPE, LIBRARY, 5, number)
    assert image.shape == (1, 64, 80)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image[0].numpy(), made.image.values)
    np.testing.assert_allclose(truth["d"].numpy(), made.truth.d.values, atol=1e-5)
    assert truth["inside"].dtype == torch.bool
    assert truth["domain"].dtype == torch.int64
    assert float(truth["pixel"]) == 0.25
    assert not {"settings", "about", "split", "image"} & set(truth)
    with pytest.raises(IndexError):
        fields[len(fields)]


def test_on_the_fly_equals_what_is_written(written):
    fly = SyntheticFields(RECIPE, LIBRARY, 20, seed=5)
    disk = FieldDataset(written, "all")
    for k in (0, 13, -1):
        (image, truth), (image_disk, truth_disk) = fly[k], disk[k]
        assert torch.equal(image, image_disk)
        assert set(truth) <= set(truth_disk)
        for name in truth:
            assert torch.equal(truth[name], truth_disk[name]), name
            assert truth[name].dtype == truth_disk[name].dtype
    assert not torch.equal(SyntheticFields(RECIPE, LIBRARY, 20, seed=6)[0][0], fly[0][0])
    with pytest.raises(IndexError):
        fly[20]
    assert len(list(iter(SyntheticFields(RECIPE, LIBRARY, 2)))) == 2


def test_forked_workers_see_the_same(written):
    fields = FieldDataset(written, "train")
    here = torch.stack([fields[i][0] for i in range(len(fields))])  # opened before the fork
    loader = DataLoader(fields, batch_size=4, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert torch.equal(torch.cat([image for image, truth in loader]), here)
    fly = SyntheticFields(RECIPE, LIBRARY, 6, seed=5)
    loader = DataLoader(fly, batch_size=3, num_workers=2, multiprocessing_context="fork", timeout=60)
    numbers = [truth["field"] for image, truth in loader]
    assert torch.cat(numbers).tolist() == list(range(6))


def test_spawned_workers_see_the_same(tmp_path):
    write_set(RECIPE, LIBRARY, tmp_path, 20, workers=1, shard=8)
    fields = FieldDataset(tmp_path, "test")
    here = torch.stack([fields[i][0] for i in range(len(fields))])
    loader = DataLoader(fields, batch_size=2, num_workers=1, multiprocessing_context="spawn", timeout=120)
    assert torch.equal(torch.cat([image for image, truth in loader]), here)


def test_a_library_given_by_path_is_opened_by_each_worker(monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(torch_data, "open_library", lambda path: opened.append(path) or LIBRARY)
    fly = SyntheticFields(RECIPE, tmp_path / "library.nc", 3)
    state = pickle.dumps(fly)
    assert b"fake" not in state.replace(b"fake_fields", b"").split(b"_library")[-1]
    again = pickle.loads(state)
    assert opened == [tmp_path / "library.nc"] * 2
    assert torch.equal(again[2][0], fly[2][0])


def test_transforms_take_image_and_truth(written):
    def halve(image, truth):
        return image[:, ::2, ::2], truth["d"]

    image, d = FieldDataset(written, transform=halve)[0]
    assert image.shape == (1, 32, 40)
    assert d.shape == (4, 5, 2)
    assert SyntheticFields(RECIPE, LIBRARY, 1, transform=halve)[0][0].shape == (1, 32, 40)


def test_what_cannot_be_is_said(written, tmp_path):
    with pytest.raises(SettingsError, match="train, validation, test, all"):
        FieldDataset(written, "training")
    with pytest.raises(SettingsError, match="holds no set"):
        FieldDataset(tmp_path)
    with pytest.raises(SettingsError, match="length"):
        SyntheticFields(RECIPE, LIBRARY, 0)
    assert json.loads(read_set(written).attrs["recipe"])["title"] == "fake"
