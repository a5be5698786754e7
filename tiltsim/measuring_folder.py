"""Measure many micrographs, each by itself: a bad file never stops the rest, a finished one is not done again."""

from __future__ import annotations

import csv
import io
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import analysis
from tiltsim.errors import SettingsError
from tiltsim.measuring import SUMMARY, MeasureOptions, finished, measure_into
from tiltsim.output import check_folder, make_folder, write_json, write_text
from tiltsim.progress import Reporter, Silent

#: File types that ``analysis.load`` reads.
SUFFIXES = (
    ".dm3", ".dm4", ".emd", ".emi", ".h5", ".hdf5", ".hspy", ".mrc", ".npy", ".ser", ".tif", ".tiff",
)  # fmt: skip

#: Unit cells published beside micrographs (Nelson et al. 2021): of a type that images have, but none.
_NO_IMAGE = "_UCParameterization.h5"

TABLE = "table.csv"

#: Of the table, one row an image.
COLUMNS = (
    "image", "folder", "status", "cells", "d_mean_x_pm", "d_mean_y_pm", "d_std_x_pm", "d_std_y_pm",
    "d_error_x_pm", "d_error_y_pm", "lattice_parameter_angstrom", "zone", "pixel_size_angstrom", "failure",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What files and folders came to.

    Parameters
    ----------
    images : tuple of Path
        Files to measure, each once, in the order given; those of a folder by name.
    failures : dict of str to str
        Folders that hold no image, with the reason.
    ignored : int
        Files of folders that are hidden or of another type.
    """

    images: tuple[Path, ...]
    failures: dict[str, str]
    ignored: int


def find_images(given: Iterable[Path]) -> Found:
    """Micrographs among files and folders.

    A file that is named is taken for an image, whatever it is: what is wrong with it is found when it is read.
    Folders are not searched deeper. A .ser file beside its .emi is read through that.
    """
    images: dict[Path, Path] = {}
    failures: dict[str, str] = {}
    ignored = 0
    for path in given:
        if not path.is_dir():
            images.setdefault(path.resolve(), path)
            continue
        try:
            files = sorted(p for p in path.iterdir() if p.is_file())
        except OSError as error:
            failures[str(path)] = f"{path}: cannot be read ({error.strerror}); check its permissions."
            continue
        starts = tuple(f"{p.stem}_" for p in files if p.suffix.lower() == ".emi")
        parts = [p for p in files if starts and p.suffix.lower() == ".ser" and p.name.startswith(starts)]
        chosen = [p for p in files if _looks_like_an_image(p) and p not in parts]
        ignored += len(files) - len(chosen) - len(parts)
        if not chosen:
            failures[str(path)] = (
                f"{path}: holds no image; give a folder with {', '.join(SUFFIXES)} files (deeper folders by name)."
            )
        for p in chosen:
            images.setdefault(p.resolve(), p)
    return Found(tuple(images.values()), failures, ignored)


def _looks_like_an_image(path: Path) -> bool:
    name = path.name
    return path.suffix.lower() in SUFFIXES and not name.startswith(".") and not name.endswith(_NO_IMAGE)


def folder_names(images: Sequence[Path]) -> list[str]:
    """A folder name for each image: its stem, and where stems collide also its type, its folder, a number."""
    levels = []
    for path in images:
        kind = path.suffix.lstrip(".")
        levels.append((path.stem, f"{path.stem}-{kind}", f"{path.absolute().parent.name}-{path.stem}-{kind}"))
    # File systems may not tell capitals apart.
    counts = [Counter(name.casefold() for name in level) for level in zip(*levels, strict=True)]
    taken = {SUMMARY, TABLE}
    names = []
    for labels in levels:
        unique = (name for name, count in zip(labels, counts, strict=True) if count[name.casefold()] == 1)
        base = name = next(unique, labels[-1])
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def measure_many(
    given: Iterable[Path],
    out: Path,
    options: MeasureOptions,
    *,
    jobs: int = 1,
    force: bool = False,
    reporter: Reporter | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure files and all images of folders, each into a folder of its own below ``out``.

    Parameters
    ----------
    given : iterable of Path
        Files and folders.
    out : Path
        Gets one folder an image, ``table.csv`` with one row an image, and ``summary.json``.
    options : MeasureOptions
    jobs : int
        Images measured at the same time, in processes of their own.
    force : bool
        Also measure what an earlier run finished with the same content and options.
    reporter : Reporter, optional
        Told how far it is.
    say : callable, optional
        Given one sentence on each image.

    Returns
    -------
    dict
        What is in summary.json: counts ``images``, ``measured``, ``skipped``, ``ignored``; ``failures``, from a
        file to the reason; ``unfinished``, images that an interrupt left out; ``results``, the rows of the table.

    Raises
    ------
    ImageError
        No image was found.
    SettingsError
        `out` cannot be written, or `jobs` is no positive number.

    Notes
    -----
    An interrupt (Ctrl-C) leaves what is finished whole; table and summary then hold that much.
    """
    start = time.perf_counter()
    if jobs < 1:
        raise SettingsError(f"--jobs {jobs} must be at least 1.")
    found, reporter = find_images(given), reporter or Silent()
    if not found.images:
        raise analysis.ImageError(
            next(iter(found.failures.values()), "no image was given; name a file or folder.")
        )
    check_folder(out)
    make_folder(out)
    for path in found.failures:
        say(found.failures[path])
    folders = {
        image: out / name for image, name in zip(found.images, folder_names(found.images), strict=True)
    }
    rows: dict[Path, dict[str, Any]] = {}
    reporter.stage("look for finished", len(folders))
    for number, (image, folder) in enumerate(folders.items()):
        before = None if force else finished(image, folder, options)
        if before is not None:
            rows[image] = _row(image, folder, "skipped", before)
            say(f"{image.name}: measured before with these options, skipped (--force measures it again).")
        reporter.advance(number + 1)
    left = {image: folder for image, folder in folders.items() if image not in rows}
    if left:
        reporter.stage("measure images", len(left))
    try:
        for number, (image, outcome) in enumerate(_outcomes(left, options, jobs)):
            if isinstance(outcome, str):
                rows[image] = {"image": str(image), "status": "failed", "failure": outcome}
                say(outcome)
            else:
                rows[image] = _row(image, left[image], "measured", outcome)
                say(f"{image.name}: {outcome['cells']} cells → {left[image]}")
            reporter.advance(number + 1)
    finally:
        # Also when interrupted: other processes have then finished what they were at.
        for image in (image for image in left if image not in rows):
            if (late := finished(image, left[image], options)) is not None:
                rows[image] = _row(image, left[image], "measured", late)
        summary = _write(found, rows, out, time.perf_counter() - start)
    return summary


def _outcomes(
    folders: dict[Path, Path], options: MeasureOptions, jobs: int
) -> Iterator[tuple[Path, dict[str, Any] | str]]:
    """Every image with its summary, or with the reason why there is none, as they finish."""
    if jobs == 1 or len(folders) < 2:
        for image, folder in folders.items():
            yield image, _attempt(image, folder, options)
        return
    pool, waiting = _pool(jobs), deque(folders)
    running: dict[Future[dict[str, Any] | str], Path] = {}
    try:
        while waiting or running:
            # No more than are measured at once: what a pool has in its queue cannot be called back.
            while waiting and len(running) < jobs:
                image = waiting.popleft()
                try:
                    future = pool.submit(_attempt, image, folders[image], options)
                except BrokenProcessPool:
                    pool = _pool(jobs)
                    future = pool.submit(_attempt, image, folders[image], options)
                running[future] = image
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                image = running.pop(future)
                try:
                    yield image, future.result()
                except BrokenProcessPool:
                    yield (
                        image,
                        f"{image}: a process died, most often for want of memory; run again with fewer --jobs.",
                    )
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(jobs: int) -> ProcessPoolExecutor:
    # Spawned, since forked processes inherit the locks of this one's threads.
    return ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_leave_interrupts)


def _leave_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal; the first one decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _attempt(image: Path, folder: Path, options: MeasureOptions) -> dict[str, Any] | str:
    try:
        return measure_into(image, folder, options)
    except (analysis.ImageError, SettingsError) as error:
        return str(error)
    except Exception as error:  # a fault of this program must not cost the other images either
        return f"{image}: unexpected {type(error).__name__} ({error}); measure it alone to see more."


def _row(image: Path, folder: Path, status: str, summary: dict[str, Any]) -> dict[str, Any]:
    numbers = {
        f"{name}_{axis}_pm": summary[f"{name}_pm"][n]
        for name in ("d_mean", "d_std", "d_error")
        for n, axis in enumerate("xy")
    }
    return {
        "image": str(image),
        "folder": folder.name,
        "status": status,
        "cells": summary["cells"],
        **numbers,
        "lattice_parameter_angstrom": summary["lattice"]["lattice_parameter"],
        "zone": summary["lattice"]["zone"],
        "pixel_size_angstrom": summary["pixel_size_angstrom"],
    }


def _write(found: Found, rows: dict[Path, dict[str, Any]], out: Path, seconds: float) -> dict[str, Any]:
    """Table and summary of what is finished, in the order in which images were given."""
    ordered = [rows[image] for image in found.images if image in rows]
    status = Counter(row["status"] for row in ordered)
    summary = {
        "images": len(found.images),
        "measured": status["measured"],
        "skipped": status["skipped"],
        "ignored": found.ignored,
        "failures": found.failures
        | {row["image"]: row["failure"] for row in ordered if row["status"] == "failed"},
        "unfinished": [str(image) for image in found.images if image not in rows],
        "results": ordered,
        "seconds": seconds,
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()} for row in ordered
    )
    write_text(text.getvalue(), out / TABLE)
    write_json(summary, out / SUMMARY)
    return summary
