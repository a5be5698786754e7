"""Synthetic fields as one labelled dataset, and that as the files of a sharded zarr store."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from tiltsim.synth.recipe import PARTS, Recipe, kind_drawn, settings_drawn, values_drawn
from tiltsim.synth.synthesis import Field

#: Changes whenever the layout of a set does.
FORMAT = 1

#: Uncompressed images that one file gathers at most: what a worker holds in memory, bytes.
_SHARD_BYTES = 128 * 2**20

#: Fields that one file gathers at most.
_SHARD_FIELDS = 64

#: Steps by the golden ratio fill the unit interval evenly, however many there are.
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0

#: A purpose of random numbers beside those of ``tiltsim.synth.ranges.STREAMS``.
_SPLIT = 1000


def parts(recipe: Recipe, seed: int, numbers: Sequence[int]) -> list[str]:
    """Which of :data:`PARTS` each field belongs to, whatever the size of the set.

    Fields are dealt out by the golden ratio from a random start, so that the fractions asked for hold in every run of
    fields, to within a field or two.
    """
    start = np.random.default_rng([seed, 0, _SPLIT]).random()
    place = (start + np.asarray(numbers, dtype=np.float64) * _GOLDEN) % 1.0
    ends = np.cumsum(recipe.split)[:-1]
    return [PARTS[i] for i in np.searchsorted(ends, place, side="right")]


def fields_a_shard(image: xr.DataArray) -> int:
    """Fields that one file gathers: 64, or fewer where images are large."""
    return int(np.clip(_SHARD_BYTES // image.nbytes, 1, _SHARD_FIELDS))


def stack(recipe: Recipe, seed: int, numbers: Sequence[int], made: Sequence[Field]) -> xr.Dataset:
    """Fields ``numbers`` of a set as one dataset with the dimension ``field``.

    Beside the image and what the truth of a field holds: ``pixel``, Å; ``kind``, the index of its specimen in the
    recipe; ``split``; ``drawn``, the numbers drawn for what the recipe leaves open; ``settings``, the field's own
    recipe, and ``about``, attributes of its image and truth, both as JSON.

    Raises
    ------
    ValueError
        If fields differ in shape.
    """
    first = made[0]
    arrays: dict[str, Any] = {"image": _join([one.image for one in made])}
    for name in (*first.truth.data_vars, *_changing(first.truth)):
        arrays[str(name)] = _join([one.truth[name] for one in made])
    names = settings_drawn(recipe)
    drawn = np.stack([values_drawn(one.recipe, names) for one in made])
    arrays["drawn"] = (("field", "setting"), drawn, {"long_name": "drawn for the ranges of the recipe"})
    arrays["kind"] = (
        "field",
        np.array([kind_drawn(recipe, seed, number) for number in numbers], dtype=np.int16),
        {"long_name": "index into the recipe's specimens"},
    )
    arrays["settings"] = (
        "field",
        _text([json.dumps(one.recipe.as_dict(), sort_keys=True) for one in made]),
        {"long_name": "recipe of the field, JSON"},
    )
    about = [
        # Without what settings and the set's own attributes say.
        {"image": {k: v for k, v in one.image.attrs.items() if k != "recipe"}, "truth": one.truth.attrs}
        for one in made
    ]
    arrays["about"] = (
        "field",
        _text([json.dumps(a, sort_keys=True, default=_plain) for a in about]),
        {"long_name": "attributes of image and truth, JSON"},
    )
    coords: dict[str, Any] = {
        "field": ("field", np.asarray(numbers, dtype=np.int64), {"long_name": "number in the set"}),
        "setting": ("setting", _text(names)),
        "split": ("field", _text(parts(recipe, seed, numbers)), {"long_name": "part of the set"}),
        "pixel": (
            "field",
            np.array([one.recipe.pixel for one in made], dtype=np.float64),
            {"units": "Å", "long_name": "nominal pixel size"},
        ),
    }
    coords |= {str(n): c.variable for n, c in first.truth.coords.items() if n in first.truth.dims}
    if not isinstance(recipe.pixel, tuple):
        coords |= {n: first.image[n].variable for n in ("y", "x")}
    dataset = xr.Dataset(arrays, coords=coords)
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "UO":
            dataset[name] = (
                variable.dims,
                _text(variable.values.ravel()).reshape(variable.shape),
                variable.attrs,
            )
    return dataset


def _changing(truth: xr.Dataset) -> list[Any]:
    """Coordinates of ``truth`` that belong to a field and not to the axes that all fields share."""
    return [name for name in truth.coords if name not in truth.dims]


def _join(arrays: Sequence[xr.DataArray]) -> tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]:
    shapes = {one.shape for one in arrays}
    if len(shapes) > 1:
        raise ValueError(f"fields of a set differ in the shape of {arrays[0].name}: {sorted(shapes)}.")
    values = np.stack([one.values for one in arrays])
    # 0.006 pm at a place of 800 Å.
    values = values.astype(np.float32) if values.dtype == np.float64 else values
    units = {k: v for k, v in arrays[0].attrs.items() if k in ("units", "long_name", "flag_meanings")}
    return ("field", *(str(d) for d in arrays[0].dims)), values, units


def _text(values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    # The only type of text that zarr's third format specifies.
    return np.array(list(values), dtype=np.dtypes.StringDType())


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not go into JSON")


def pack(dataset: xr.Dataset, index: int, shard: int) -> dict[str, bytes]:
    """Files of shard ``index`` of a store with ``shard`` fields in each, from their path within the store.

    The same fields give the same bytes, and what the shard holds beyond its fields is left empty.
    """
    return {
        f"{name}/c/{index}{rest}": data
        for path, data in _encode(dataset, shard).items()
        for name, found, rest in [path.partition("/c/0")]
        if found and dataset[name].dims[:1] == ("field",)
    }


def frame(dataset: xr.Dataset, shard: int, n: int, attributes: Mapping[str, Any]) -> dict[str, bytes]:
    """Files of a store of ``n`` fields such as those of ``dataset`` that belong to no shard; the last makes it visible."""
    store = MemoryStore()
    _write(dataset.assign_attrs(attributes), shard, store)
    group = zarr.open_group(store, mode="r+")
    for name, array in group.arrays():
        if dataset[name].dims[:1] == ("field",):
            array.resize((n, *array.shape[1:]))
    with warnings.catch_warnings():
        # Readers that do not know it read the arrays' own metadata, which says the same.
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(store)
    files = {path: data.to_bytes() for path, data in store._store_dict.items()}
    shared = {
        path: data
        for path, data in sorted(files.items())
        if "/c/" not in path or dataset[path.partition("/")[0]].dims[:1] != ("field",)
    }
    top = shared.pop("zarr.json")
    return shared | {"zarr.json": top}


def _encode(dataset: xr.Dataset, shard: int) -> dict[str, bytes]:
    store = MemoryStore()
    _write(dataset, shard, store)
    return {path: data.to_bytes() for path, data in sorted(store._store_dict.items())}


def _write(dataset: xr.Dataset, shard: int, store: MemoryStore) -> None:
    encoding: dict[str, dict[str, Any]] = {}
    for name, variable in dataset.variables.items():
        rest = variable.shape[1:]
        chosen: dict[str, Any] = {}
        if variable.dims[:1] == ("field",) and rest:
            # Each field can be read by itself.
            chosen |= {"chunks": (1, *rest), "shards": (shard, *rest)}
        elif variable.dims[:1] == ("field",):
            chosen |= {"chunks": (shard,)}
        if variable.dtype.kind != "T":
            # Counts of 1e4 e/Å² take 5 bits a pixel and 4 ms a megapixel; without shuffling by bits a fifth more.
            chosen["compressors"] = [BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")]
        encoding[str(name)] = chosen
    dataset.drop_encoding().to_zarr(store, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
