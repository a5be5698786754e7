"""What a set of synthetic fields will take, from a trial of a few fields on this machine."""

from __future__ import annotations

import os
import time

from tiltsim.estimate import duration
from tiltsim.library import Library
from tiltsim.synth.packing import fields_a_shard, pack, parts, stack
from tiltsim.synth.recipe import PARTS, Recipe, settings_drawn
from tiltsim.synth.synthesis import synthesize

#: Fields of the trial, after one that everything is compiled for.
_TRIAL = 3


def forecast_set(
    recipe: Recipe, library: Library, n: int, *, seed: int = 0, workers: int | None = None
) -> list[str]:
    """What :func:`~tiltsim.synth.shards.write_set` will make, its size on disk and its time, line by line (``--dry-run``)."""
    workers = workers or os.cpu_count() or 1
    made = [synthesize(recipe, library, seed, 0)]
    start = time.perf_counter()
    made += [synthesize(recipe, library, seed, number) for number in range(1, 1 + _TRIAL)]
    numbers = range(len(made))
    files = pack(stack(recipe, seed, numbers, made), 0, len(made))
    each = (time.perf_counter() - start) / _TRIAL
    size = sum(len(data) for data in files.values()) / len(made)
    images = sum(len(data) for path, data in files.items() if path.startswith("image/")) / len(made)
    split = parts(recipe, seed, range(n))
    shard = fields_a_shard(made[0].image)
    image = made[0].image
    return [
        f"{recipe.title}: {n} fields of {image.shape[0]} × {image.shape[1]} px, {image.dtype}, "
        f"{', '.join(f'{split.count(part)} {part}' for part in PARTS)}",
        f"  {len(recipe.specimens)} kind{'s' * (len(recipe.specimens) > 1)} of specimen, {len(settings_drawn(recipe))} settings "
        "drawn for each field",
        f"  on disk: {_size(size * n)} ({_size(images)} an image, {_size(size - images)} its truth), "
        f"{-(-n // shard)} shards of {shard} fields",
        f"  memory: about {_size(2 * shard * (image.nbytes + made[0].truth.nbytes))} beyond the program itself",
        f"  expected: {each:.2f} s a field, {duration(each * n / workers)} in all with {workers} workers "
        "(from a trial on this machine, one field at a time)",
    ]


def _size(count: float) -> str:
    """``count`` bytes as people say it."""
    for unit, least in (("GB", 1e9), ("MB", 1e6)):
        if count >= least:
            return f"{count / least:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
