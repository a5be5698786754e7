"""Sets of synthetic fields by the thousand: one sharded store, made in parallel, resumed where it stopped.

A set is a folder with ``fields.zarr`` (or ``fields.nc``), ``summary.json`` and ``preview.png``. The same recipe, library
and seed give the same bytes in every file, whatever the number of workers and however often it was interrupted; only
summary.json, which says how long it took, differs.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import xarray as xr

from tiltsim.errors import SettingsError
from tiltsim.library import Library
from tiltsim.output import check_folder, write_json
from tiltsim.progress import Reporter, Silent
from tiltsim.synth.figures import plot_fields
from tiltsim.synth.packing import FORMAT, fields_a_shard, frame, parts, stack
from tiltsim.synth.reading import read_set
from tiltsim.synth.recipe import PARTS, Recipe
from tiltsim.synth.running import Work, run
from tiltsim.synth.shard_store import STORES, ShardStore
from tiltsim.synth.slab import reach
from tiltsim.synth.synthesis import Field, synthesize

#: Larger sets do not become one netCDF file: it is gathered in memory.
_NETCDF_BYTES = 2 * 2**30

#: Fields shown in preview.png.
_SHOWN = 12


def write_set(
    recipe: Recipe,
    library: Library,
    out: Path,
    n: int,
    *,
    seed: int = 0,
    workers: int | None = None,
    scheduler: str | None = None,
    format: str = "zarr",
    shard: int | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Synthesize ``n`` fields into the folder ``out``; an interrupted set goes on where it stopped, a finished one grows.

    Parameters
    ----------
    recipe : Recipe
    library : Library
        Response library that the images are made from.
    out : Path
        Gets ``fields.zarr`` (or ``fields.nc``), ``summary.json`` and ``preview.png``.
    n : int
        Fields of the set. Fewer than it holds changes nothing.
    seed : int
        Field k follows from the recipe, the library, ``seed`` and k, and from nothing else.
    workers : int, optional
        Fields at a time in threads of this process; default: as many as there are cores.
    scheduler : str, optional
        Address of a ``distributed`` scheduler, whose workers make whole shards.
    format : str
        "zarr", or "netcdf": one file, for sets of up to 2 GB.
    shard : int, optional
        Fields that one file of the store gathers. Default 64, fewer for images above 2 MB.
    reporter : Reporter, optional
        Told how far it is.

    Returns
    -------
    dict
        What is in summary.json.

    Raises
    ------
    SettingsError
        If a setting cannot be or may ask more than the library holds, ``out`` holds another set or cannot be written, or the scheduler is lost. Finished
        shards are kept.
    """
    start = time.perf_counter()
    show = reporter or Silent()
    workers = (os.cpu_count() or 1) if workers is None else workers
    check_request(n, seed, workers, format, shard, out)
    check_reach(recipe, library)
    trial = synthesize(recipe, library, seed, 0)
    shard = shard or fields_a_shard(trial.image)
    _check_size(n, trial, format)
    attributes = _attributes(recipe, library, seed, shard)
    store = ShardStore(out, {k: attributes[k] for k in _IDENTITY} | {"format": format}, shard)
    held = _held(store.final)
    n = max(n, held)
    missing = [] if format == "netcdf" and held == n else _missing(store, n, workers, show)
    wanted = sum(len(store.numbers(index, n)) for index in missing)
    show.stage("synthesize", n)
    show.advance(n - wanted)
    work = Work(recipe, library, seed, {index: store.numbers(index, n) for index in missing}, shard)
    run(work, store.put, lambda done: show.advance(n - wanted + done), workers=workers, scheduler=scheduler)
    if format == "zarr":
        _show_whole(store, stack(recipe, seed, [0], [trial]), n, attributes)
    elif held < n:
        _show_whole(store, stack(recipe, seed, [0], [trial]), n, attributes)
        _to_netcdf(store)
    dataset = read_set(store.final)
    picture = BytesIO()
    plot_fields(dataset.isel(field=slice(_SHOWN)).load()).savefig(picture, format="png", dpi=110)
    store.write(out / "preview.png", picture.getvalue())
    split = parts(recipe, seed, range(n))
    seconds = time.perf_counter() - start
    summary = {
        "title": recipe.title,
        "fields": n,
        "made": wanted,
        "seconds": seconds,
        "fields_per_second": wanted / seconds,
        "bytes": _size(store.final),
        "split": {part: split.count(part) for part in PARTS},
        "seed": seed,
        "workers": workers if scheduler is None else None,
        "store": store.final.name,
        "library_digest": library.digest,
        "tiltsim_version": attributes["tiltsim_version"],
        "recipe": recipe.as_dict(),
    }
    write_json(summary, out / "summary.json")
    return summary


def check_request(n: int, seed: int, workers: int, format: str, shard: int | None, out: Path) -> None:
    """Refuse what no set can be made of, before any work."""
    for name, value in (("--n", n), ("--workers", workers), ("shard", shard or 1)):
        if value < 1:
            raise SettingsError(f"{name} {value} must be at least 1.")
    if not 0 <= seed < 2**32:
        raise SettingsError(f"--seed {seed} must be a whole number from 0 to {2**32 - 1}.")
    if format not in STORES:
        raise SettingsError(f"--format {format!r} is unknown; choose one of {', '.join(STORES)}.")
    check_folder(out)


def check_reach(recipe: Recipe, library: Library) -> None:
    """Refuse a recipe of which some field, however late, might ask for more than the library holds."""
    low, high = library.thickness_range
    for i, kind in enumerate(recipe.specimens):
        tilt, (thin, thick) = reach(kind, recipe.reached)
        if tilt > library.tilt_limit:
            raise SettingsError(
                f"specimens[{i}]: tilt with bending and leans may reach {tilt:.1f} mrad, beyond the library's "
                f"{library.tilt_limit:g} mrad; lower its tilt, bending or lean_scale."
            )
        if thin < low or thick > high:
            raise SettingsError(
                f"specimens[{i}]: thickness with wedge and terraces may run from {thin:.0f} to {thick:.0f} Å, beyond the "
                f"library's {low:.0f} to {high:.0f} Å; change its thickness, or lower its wedge or terraces."
            )


def _check_size(n: int, trial: Field, format: str) -> None:
    size = n * (trial.image.nbytes + trial.truth.nbytes)
    if format == "netcdf" and size > _NETCDF_BYTES:
        raise SettingsError(
            f"--format netcdf: {n} fields are {size / 2**30:.1f} GiB, too much for one file; use zarr, or fewer fields."
        )


#: Attributes of a set that all its bytes follow from.
_IDENTITY = (
    "synthetic_fields",
    "tiltsim_version",
    "numpy_version",
    "recipe",
    "library_digest",
    "seed",
    "fields_a_shard",
)


def _attributes(recipe: Recipe, library: Library, seed: int, shard: int) -> dict[str, Any]:
    return {
        "title": recipe.title,
        "synthetic_fields": FORMAT,
        "recipe": json.dumps(recipe.as_dict(), sort_keys=True),
        "recipe_digest": recipe.digest,
        "library_digest": library.digest,
        "seed": seed,
        "fields_a_shard": shard,
        "tiltsim_version": version("tiltsim"),
        "numpy_version": version("numpy"),
        "conventions": "x right, y down; d = mean of surrounding A columns − B column; tilt: direction of the beam inside "
        "the crystal",
    }


def _held(final: Path) -> int:
    """Fields of the set that can be seen at ``final``."""
    try:
        return read_set(final).sizes["field"]
    except SettingsError:
        # Missing or damaged: what is lacking is made anew.
        return 0


def _missing(store: ShardStore, n: int, workers: int, show: Reporter) -> list[int]:
    shards = range(-(-n // store.shard))
    show.stage("check what is there", len(shards))
    missing = []
    with ThreadPoolExecutor(workers) as pool:
        for index, whole in enumerate(pool.map(partial(store.finished, n=n), shards)):
            show.advance(index + 1)
            if not whole:
                missing.append(index)
    return missing


def _show_whole(store: ShardStore, dataset: xr.Dataset, n: int, attributes: dict[str, Any]) -> None:
    """Write what makes the shards one store of ``n`` fields; readers see it once the last of these files is there."""
    for path, data in frame(dataset, store.shard, n, attributes).items():
        store.write(store.root / path, data)


def _to_netcdf(store: ShardStore) -> None:
    """Turn the zarr store into one netCDF file."""
    dataset = read_set(store.root).load()
    encoding = {
        str(name): {"zlib": True, "complevel": 4, "shuffle": True}
        for name, variable in dataset.variables.items()
        if variable.dtype.kind not in "TUO" and variable.ndim > 1
    }
    partial_file = store.markers / "fields.nc.partial"
    try:
        dataset.drop_encoding().to_netcdf(partial_file, engine="netcdf4", encoding=encoding)
        os.replace(partial_file, store.final)
    except (OSError, RuntimeError) as error:  # RuntimeError: HDF5's, of a full disk
        partial_file.unlink(missing_ok=True)
        raise SettingsError(
            f"{store.final.name}: cannot be written ({error}); make room or give another --out. Finished shards are kept, "
            "and the same command goes on with them."
        ) from error
    shutil.rmtree(store.root)
    for marker in store.markers.glob("shard-*.json"):
        marker.unlink()


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())
