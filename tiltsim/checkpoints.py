"""Finished units of work, each in a file of its own that appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiltsim.errors import SettingsError
from tiltsim.jobs import Job, Unit


class Checkpoints:
    """Results of the units of one job, in a folder or, without one, in memory.

    A file is an ``.npy`` followed by the SHA-256 digest of it: what a crash, a bad disk or a curious editor has
    left of another is not taken for a result. May be used from several threads.

    Parameters
    ----------
    job : Job
        Files are kept under a digest of its settings: another setting finds none of them.
    folder : Path, optional
        Default: nothing is kept after the process ends.

    Raises
    ------
    SettingsError
        If the folder cannot be written.
    """

    def __init__(self, job: Job, folder: Path | None = None) -> None:
        self._folder = folder / f"{job.specimen.name}-{job.key}" if folder is not None else None
        self._held: dict[Unit, NDArray[np.float32]] = {}
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(_unwritable(self._folder, error)) from error

    def __getitem__(self, unit: Unit) -> NDArray[np.float32]:
        """Result of a finished ``unit``."""
        found = self.get(unit)
        if found is None:
            raise KeyError(unit)
        return found

    def get(self, unit: Unit) -> NDArray[np.float32] | None:
        """Result of ``unit``, or None if it is not finished; a damaged file counts as unfinished."""
        if self._folder is None:
            return self._held.get(unit)
        try:
            content = self._path(self._folder, unit).read_bytes()
        except OSError:
            return None
        data, digest = content[:-_DIGEST], content[-_DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            return None
        return np.asarray(np.load(BytesIO(data), allow_pickle=False))

    def put(self, unit: Unit, result: NDArray[np.float32]) -> None:
        """Keep ``result``; once this returns, no kill loses it.

        Raises
        ------
        SettingsError
            If the disk is full or the folder not writable; finished units stay intact.
        """
        if self._folder is None:
            self._held[unit] = result
            return
        buffer = BytesIO()
        np.save(buffer, result)
        data = buffer.getvalue()
        partial = None
        try:
            handle, partial = tempfile.mkstemp(prefix=".", suffix=".partial", dir=self._folder)
            with os.fdopen(handle, "wb") as file:
                file.write(data + hashlib.sha256(data).digest())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self._path(self._folder, unit))
        except OSError as error:
            if partial is not None:
                Path(partial).unlink(missing_ok=True)
            raise SettingsError(_unwritable(self._folder, error)) from error

    def forget(self, units: Iterable[Unit]) -> None:
        """Free the memory of units that are done with; what lies in a folder stays."""
        for unit in units:
            self._held.pop(unit, None)

    @staticmethod
    def _path(folder: Path, unit: Unit) -> Path:
        return folder / f"{unit.name}.npy"


#: Bytes of a SHA-256 digest.
_DIGEST = hashlib.sha256().digest_size


def _unwritable(folder: Path, error: OSError) -> str:
    return (
        f"{folder}: cannot be written ({error.strerror or error}); make room or give another --out. Finished "
        "units are kept, and the same command goes on with them."
    )
