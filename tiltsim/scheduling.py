"""Units of work on dask: threads of this machine, or the workers of a distributed cluster."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import abtem
import dask
import numpy as np
import pyfftw  # type: ignore[import-untyped]
import torch
from dask.callbacks import Callback
from numpy.typing import NDArray

from tiltsim import multislice, smatrix
from tiltsim.checkpoints import Checkpoints
from tiltsim.errors import SettingsError
from tiltsim.jobs import Job, Unit
from tiltsim.phonons import labels

#: Called with the number of units that have just been finished.
Done = Callable[[int], None]


def engine_units(job: Job, pair: int, sign: int) -> list[Unit]:
    """The units of one phonon configuration, in the order in which they are combined."""
    return (smatrix if job.engine == "smatrix" else multislice).units(job, pair, sign)


def count_units(job: Job) -> int:
    """Units of all configurations of ``job``; with a target, of those that it begins with."""
    return sum(len(engine_units(job, *label)) for label in labels(job.phonons, job.phonons.pairs))


def compute_unit(job: Job, unit: Unit, passes: int, threads: int) -> NDArray[np.float32]:
    """One unit's result; runs in a thread of this process or on a worker of a cluster."""
    with reproducible(threads):
        if job.engine == "multislice":
            return multislice.compute(job, unit)
        return smatrix.compute(job, unit, passes)


_lock = threading.Lock()
_inside = threading.local()
_users = 0
_before: tuple[int, str, tuple[bytes, ...]] = (1, "", ())


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """The same numbers to the last bit in every process while anyone is inside; what was set before, afterwards.

    Torch has ``threads`` threads an operation. FFTW, by default, measures which of its algorithms is fastest, takes another one from
    process to process, and remembers it: here it estimates, and forgets what had been measured. Both are settings of the whole process.
    """
    global _users, _before
    outer = torch.get_num_threads() if getattr(_inside, "depth", 0) else None
    with _lock:
        if _users == 0:
            _before = (
                torch.get_num_threads(),
                abtem.config.get("fftw.planning_effort"),
                pyfftw.export_wisdom(),
            )
            pyfftw.forget_wisdom()
            abtem.config.set({"fftw.planning_effort": "FFTW_ESTIMATE"})
        # In every thread: OpenMP keeps a number for each, and sums depend in their last bit on it.
        torch.set_num_threads(threads)
        _users += 1
    _inside.depth = getattr(_inside, "depth", 0) + 1
    try:
        yield
    finally:
        _inside.depth -= 1
        with _lock:
            _users -= 1
            torch.set_num_threads(_before[0] if outer is None else outer)
            if _users == 0:
                abtem.config.set({"fftw.planning_effort": _before[1]})
                pyfftw.forget_wisdom()
                pyfftw.import_wisdom(_before[2])


def run_units(
    job: Job,
    units: Sequence[Unit],
    store: Checkpoints,
    *,
    workers: int = 1,
    passes: int = 1,
    scheduler: str | None = None,
    done: Done | None = None,
) -> None:
    """Compute what ``store`` does not hold of ``units``; each result is stored as soon as it is there.

    Parameters
    ----------
    workers : int
        Units at a time in threads of this process.
    passes : int
        See :func:`tiltsim.smatrix.compute`.
    scheduler : str, optional
        Address of a ``distributed`` scheduler, e.g. ``tcp://127.0.0.1:8786``.
    done : callable, optional
        Called with 1 after each unit, and at the start with how many were already there; in the caller's thread.

    Raises
    ------
    SettingsError
        If a result cannot be stored, or the scheduler not be reached or is lost. Whatever is raised, by a unit, by
        ``done`` or by Ctrl-C: no further unit begins, and those under way in this process are finished and stored.
    """
    missing = [unit for unit in units if store.get(unit) is None]
    report = done or (lambda number: None)
    report(len(units) - len(missing))
    if not missing:
        return
    if scheduler is None:
        _in_threads(job, missing, store, workers, passes, report)
    else:
        _on_cluster(job, missing, store, passes, scheduler, report)


def _in_threads(
    job: Job, missing: Sequence[Unit], store: Checkpoints, workers: int, passes: int, report: Done
) -> None:
    threads = max(1, (os.cpu_count() or 1) // workers)

    def finish(unit: Unit) -> None:
        # Stored by the thread that computed it, so that it is kept even if the others have meanwhile been stopped.
        store.put(unit, compute_unit(job, unit, passes, threads))

    tasks = [dask.delayed(finish, pure=False)(unit, dask_key_name=f"unit-{unit.name}") for unit in missing]
    with (
        # Global in abTEM, and set by each unit: whichever thread is last would leave its own behind.
        abtem.config.set({"diagnostics.progress_bar": False}),
        # One of our own: dask keeps its pools' threads, and the numbers of torch's threads in them, for ever.
        ThreadPoolExecutor(workers, thread_name_prefix="tiltsim") as pool,
        Callback(posttask=lambda *_: report(1)),
    ):
        dask.compute(*tasks, scheduler="threads", pool=pool, optimize_graph=False)


def _on_cluster(
    job: Job, missing: Sequence[Unit], store: Checkpoints, passes: int, address: str, report: Done
) -> None:
    from distributed import CancelledError, Client, KilledWorker, as_completed
    from distributed.comm import CommClosedError

    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (AssertionError, OSError, TypeError, ValueError) as error:  # of the network, or of an odd address
        raise SettingsError(
            f"--scheduler {address} cannot be reached; start it with `dask scheduler` and give the address it prints."
        ) from error
    prefix = job.key
    with client:
        # The job travels with each unit: what is scattered once dies with the worker that holds it.
        units = {
            client.submit(compute_unit, job, unit, passes, 1, pure=False, key=f"{prefix}-{unit.name}"): unit
            for unit in missing
        }
        try:
            for future in as_completed(list(units), loop=client.loop):
                store.put(units[future], future.result())
                report(1)
                future.release()
        except KilledWorker as error:
            raise SettingsError(
                f"--scheduler {address}: workers died again and again, most likely for want of memory; give them more, "
                "or fewer threads each. Finished units are kept, and the same command goes on with them."
            ) from error
        except (CancelledError, CommClosedError) as error:
            raise SettingsError(
                f"--scheduler {address} has been lost; start it again. Finished units are kept, and the same command "
                "goes on with them."
            ) from error
