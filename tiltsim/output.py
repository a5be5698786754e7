"""Results that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tiltsim.errors import SettingsError


def check_folder(out: Path) -> None:
    """Refuse a folder that cannot be written into, before any work and without creating anything."""
    if out.exists() and not out.is_dir():
        raise SettingsError(f"--out {out} cannot be written (it is a file); choose another folder.")
    nearest = next(parent for parent in (out, *out.absolute().parents) if parent.is_dir())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SettingsError(
            f"--out {out} cannot be written (no permission in {nearest}); choose another folder."
        )


@contextmanager
def complete_folder(out: Path) -> Iterator[Path]:
    """A folder to write into whose files move to ``out`` only if the block ends without an error."""
    make_folder(out.parent)
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise SettingsError(
            f"--out {out} cannot be written ({error.strerror}); choose another folder."
        ) from error
    try:
        yield partial
        make_folder(out)
        for item in sorted(partial.iterdir()):
            target = out / item.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(item, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents, or say in one sentence why not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"--out {path} cannot be written ({error.strerror}); choose another folder."
        ) from error
    return path


def write_text(text: str, path: Path) -> None:
    """Write ``text`` under a temporary name and rename it to ``path``."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise SettingsError(
            f"{path.name} cannot be written ({error.strerror}); make room in {path.parent} or give another --out."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} does not go into JSON")


def write_json(data: Mapping[str, Any], path: Path) -> None:
    """Write ``data`` as JSON; NaN becomes null, so that any reader accepts it."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): clean(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [clean(v) for v in value]
        if isinstance(value, np.ndarray):
            return clean(value.tolist())
        if isinstance(value, float | np.floating) and not np.isfinite(value):
            return None
        return value

    write_text(
        json.dumps(clean(data), indent=2, ensure_ascii=False, default=_plain, allow_nan=False) + "\n", path
    )


def read_dataset(path: Path) -> xr.Dataset:
    """A netCDF dataset of this toolkit, loaded and closed.

    Raises
    ------
    SettingsError
        If the file is missing, damaged or not netCDF.
    """
    if not path.is_file():
        raise SettingsError(f"{path}: no such file; check the path (a folder will not do).")
    try:
        with xr.open_dataset(path, engine="netcdf4") as dataset:
            # Encodings of the file (string lengths!) must not limit what is joined to it and written again.
            return dataset.load().drop_encoding()
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingsError(f"{path.name}: not a readable netCDF4 dataset; it may be truncated.") from error
