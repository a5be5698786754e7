"""Shards of a set made side by side: in dask threads of this machine, or by the workers of a distributed cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import dask
from dask.callbacks import Callback

from tiltsim.errors import SettingsError
from tiltsim.library import Library
from tiltsim.synth.packing import pack, stack
from tiltsim.synth.recipe import Recipe
from tiltsim.synth.synthesis import Field, synthesize

#: Takes a shard's index, its number of fields and its files.
Put = Callable[[int, int, dict[str, bytes]], None]

#: Tells the keys of tasks that make a field from others'.
_FIELD = "synthetic-field-"


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be made of a set.

    Parameters
    ----------
    recipe : Recipe
    library : Library
    seed : int
    shards : mapping of int to sequence of int
        From the index of each shard that is missing to its fields.
    shard : int
        Fields of a whole shard.
    """

    recipe: Recipe
    library: Library
    seed: int
    shards: Mapping[int, Sequence[int]]
    shard: int


def run(
    work: Work, put: Put, done: Callable[[int], None], *, workers: int = 1, scheduler: str | None = None
) -> None:
    """Make all of ``work``; each shard is ``put`` as soon as it is there.

    Parameters
    ----------
    work : Work
    put : callable
        Stores a shard; called from any thread.
    done : callable
        Called in the caller's thread with how many fields have been made.
    workers : int
        Fields at a time in threads of this process.
    scheduler : str, optional
        Address of a ``distributed`` scheduler, whose workers are used instead.

    Raises
    ------
    SettingsError
        If the scheduler cannot be reached or is lost, or whatever ``put`` raises. Whatever is raised: no further field
        begins, and shards that were put stay.
    """
    if not work.shards:
        return
    if scheduler is None:
        _in_threads(work, put, done, workers)
    else:
        _on_cluster(work, put, done, scheduler)


def _in_threads(work: Work, put: Put, done: Callable[[int], None], workers: int) -> None:
    # Closures, since dask would look for tasks within the fields of arguments.
    def make(number: int) -> Field:
        return synthesize(work.recipe, work.library, work.seed, number)

    def finish(index: int, made: Sequence[Field]) -> None:
        dataset = stack(work.recipe, work.seed, work.shards[index], made)
        # By the thread that gathers it, so that it is kept even if the others have meanwhile been stopped.
        put(index, len(made), pack(dataset, index, work.shard))

    # A shard's fields have nothing to do with another's, so dask goes through one shard after the other.
    field, shard = dask.delayed(make, pure=False), dask.delayed(finish, pure=False)
    tasks = [
        shard(
            index,
            [field(number, dask_key_name=f"{_FIELD}{number:07d}") for number in numbers],
            dask_key_name=f"synthetic-shard-{index:06d}",
        )
        for index, numbers in work.shards.items()
    ]
    made = 0

    def told(key: Any, *_: Any) -> None:
        nonlocal made
        if str(key).startswith(_FIELD):
            made += 1
            done(made)

    with ThreadPoolExecutor(workers, thread_name_prefix="tiltsim") as pool, Callback(posttask=told):
        dask.compute(*tasks, scheduler="threads", pool=pool, optimize_graph=False)


def make_shard(
    recipe: Recipe, library: Library, seed: int, index: int, numbers: Sequence[int], shard: int
) -> dict[str, bytes]:
    """Files of one shard, from their path within the store; runs on a worker of a cluster."""
    made = [synthesize(recipe, library, seed, number) for number in numbers]
    return pack(stack(recipe, seed, numbers, made), index, shard)


def _on_cluster(work: Work, put: Put, done: Callable[[int], None], address: str) -> None:
    from distributed import CancelledError, Client, KilledWorker, as_completed
    from distributed.comm import CommClosedError

    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (AssertionError, OSError, TypeError, ValueError) as error:  # of the network, or of an odd address
        raise SettingsError(
            f"--scheduler {address} cannot be reached; start it with `dask scheduler` and give the address it prints."
        ) from error
    made = 0
    with client:
        try:
            client.wait_for_workers(1)
            # To every worker, so that it does not die with one of them.
            library = client.scatter(work.library, broadcast=True, hash=False)
            futures = {
                client.submit(
                    make_shard, work.recipe, library, work.seed, index, numbers, work.shard, pure=False
                ): index
                for index, numbers in work.shards.items()
            }
            for future in as_completed(list(futures), loop=client.loop):
                index = futures[future]
                put(index, len(work.shards[index]), future.result())
                made += len(work.shards[index])
                done(made)
                future.release()
        except KilledWorker as error:
            raise SettingsError(
                f"--scheduler {address}: workers died again and again, most likely for want of memory; give them more, "
                "or fewer threads each. Finished shards are kept, and the same command goes on with them."
            ) from error
        except (CancelledError, CommClosedError) as error:
            raise SettingsError(
                f"--scheduler {address} has been lost; start it again. Finished shards are kept, and the same command "
                "goes on with them."
            ) from error
