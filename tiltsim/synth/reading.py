"""Sets of synthetic fields, read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import xarray as xr

from tiltsim.errors import SettingsError
from tiltsim.output import read_dataset
from tiltsim.synth.packing import FORMAT
from tiltsim.synth.shard_store import STORES, WORK, damaged


def find_store(path: str | Path) -> Path:
    """``fields.zarr`` or ``fields.nc`` of a set, given that or the set's folder.

    Raises
    ------
    SettingsError
        If there is none, or it is not finished.
    """
    path = Path(path)
    if path.name.endswith((".zarr", ".nc")):
        folder, stores = path.parent, [path]
    else:
        folder, stores = path, [path / name for name in STORES.values()]
    for store in stores:
        if store.is_file() or (store / "zarr.json").is_file():
            return store
    finished = sum(marker["fields"] for marker in _markers(folder))
    if finished:
        raise SettingsError(
            f"{folder}: not finished, {finished} fields so far; run the same `tiltsim synth` again to go on with it."
        )
    raise SettingsError(
        f"{path}: holds no set of synthetic fields; make one with `tiltsim synth --out {folder}`."
    )


def read_set(path: str | Path, verify: bool = False) -> xr.Dataset:
    """A set that :func:`~tiltsim.synth.shards.write_set` wrote; images are read when they are asked for.

    Parameters
    ----------
    path : path
        Folder of the set, or its store.
    verify : bool
        Also compare every file with what was written.

    Returns
    -------
    Dataset
        Dimension ``field``; see :func:`~tiltsim.synth.packing.stack`. ``set.isel(field=set.split == "train")`` is a part
        of it.

    Raises
    ------
    SettingsError
        If there is no set, or it is unfinished, foreign or damaged.
    """
    store = find_store(path)
    if store.suffix == ".nc":
        dataset = read_dataset(store)
    else:
        try:
            dataset = xr.open_zarr(store, chunks=None, zarr_format=3, consolidated=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"{store}: not a readable zarr store; it may be damaged or foreign."
            ) from error
    if dataset.attrs.get("synthetic_fields") != FORMAT:
        raise SettingsError(
            f"{store}: no set of synthetic fields of this version of tiltsim; make one with `tiltsim synth`."
        )
    if store.suffix == ".zarr":
        _refuse_damaged(store, dataset, verify)
    return dataset


def _refuse_damaged(store: Path, dataset: xr.Dataset, verify: bool) -> None:
    shards = -(-dataset.sizes["field"] // int(dataset.attrs["fields_a_shard"]))
    lost = [
        f"image/c/{i}/0/0"
        for i in range(shards)
        if not (store / "image" / "c" / str(i) / "0" / "0").is_file()
    ]
    if verify:
        lost += [path for marker in _markers(store.parent) for path in damaged(store, marker["files"])]
    if lost:
        raise SettingsError(
            f"{store}: {len(set(lost))} of its files are missing or damaged, such as {lost[0]}; run the same `tiltsim synth` "
            "again to mend them."
        )


def _markers(folder: Path) -> Iterator[dict]:
    for path in sorted((folder / WORK).glob("*/shard-*.json")):
        try:
            yield json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
