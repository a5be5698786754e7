"""The files of a set of fields on disk: each appears whole, and a shard counts once its marker is there."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiltsim.errors import SettingsError
from tiltsim.output import make_folder

#: Of a set: by format, the name of what holds its fields.
STORES = {"zarr": "fields.zarr", "netcdf": "fields.nc"}

#: Of a set: the folder with what an interrupted run goes on from.
WORK = ".work"

#: How a user calls what makes one set differ from another.
_NAMES = {
    "synthetic_fields": "layout",
    "tiltsim_version": "version of tiltsim",
    "numpy_version": "version of NumPy",
    "recipe": "recipe",
    "library_digest": "library",
    "seed": "--seed",
    "fields_a_shard": "number of fields a shard",
    "format": "--format",
}


class ShardStore:
    """The shards of one set.

    Parameters
    ----------
    out : Path
        Folder of the set.
    identity : mapping
        What every byte follows from, JSON-able; see ``_NAMES``.
    shard : int
        Fields of a shard.

    Raises
    ------
    SettingsError
        If ``out`` holds another set or cannot be written.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], shard: int) -> None:
        self.shard = shard
        self.final = out / STORES[identity["format"]]
        work = out / WORK
        text = json.dumps(dict(identity), sort_keys=True)
        _refuse_another(out, work / "set.json", identity)
        #: The zarr store; a netCDF file is made of it in the end.
        self.root = self.final if identity["format"] == "zarr" else work / STORES["zarr"]
        self.markers = make_folder(work / hashlib.sha256(text.encode()).hexdigest()[:16])
        for left in self.markers.glob("*.partial"):
            left.unlink(missing_ok=True)
        self.write(work / "set.json", text.encode())

    def numbers(self, index: int, n: int) -> range:
        """Fields of shard ``index`` in a set of ``n``."""
        return range(index * self.shard, min(n, (index + 1) * self.shard))

    def finished(self, index: int, n: int) -> bool:
        """Whether a shard holds its fields of a set of ``n``, every byte as it was written."""
        try:
            marker = json.loads(self._marker(index).read_text(encoding="utf-8"))
            return bool(marker["fields"] >= len(self.numbers(index, n))) and not damaged(
                self.root, marker["files"]
            )
        except (OSError, ValueError, KeyError):
            return False

    def put(self, index: int, fields: int, files: Mapping[str, bytes]) -> None:
        """Keep the ``files`` of a shard, then its marker; once this returns, no kill loses it."""
        for path, data in files.items():
            self.write(self.root / path, data)
        digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
        self.write(self._marker(index), json.dumps({"fields": fields, "files": digests}, indent=1).encode())

    def write(self, path: Path, data: bytes) -> None:
        """Write a file that appears whole or not at all.

        Raises
        ------
        SettingsError
            If the disk is full or the folder not writable; finished shards stay intact.
        """
        # Beside the markers, so that nothing but whole files is ever seen in the store.
        partial = self.markers / f"{os.getpid()}-{threading.get_ident()}.partial"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise SettingsError(
                f"{path.name}: cannot be written ({error.strerror or error}); make room or give another --out. "
                "Finished shards are kept, and the same command goes on with them."
            ) from error

    def _marker(self, index: int) -> Path:
        return self.markers / f"shard-{index:05d}.json"


def damaged(root: Path, digests: Mapping[str, str]) -> list[str]:
    """Files below ``root`` that are missing or not what they were when written."""
    return [path for path, digest in digests.items() if _digest(root / path) != digest]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _refuse_another(out: Path, record: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder that another recipe, library or seed has been made into, or that is of another origin."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = [name for name in STORES.values() if (out / name).exists()]
        if held:
            raise SettingsError(
                f"--out {out} holds a {held[0]} that cannot be gone on with (its {WORK} is missing); choose another folder."
            ) from None
        return
    unlike = [said for key, said in _NAMES.items() if found.get(key) != identity[key]]
    if unlike:
        raise SettingsError(
            f"--out {out} holds a set made with another {' and another '.join(unlike)}; choose another folder, or repeat "
            "what made that one."
        )
