"""Blind films through `tiltsim explain`: how far its tilt, its corrected d and its errors can be trusted, and what it refuses.

Films come from the engine, with phonons, tilts, thicknesses, lenses and noise that no library holds (benchmarks/_blind_films.py).

    python benchmarks/explain.py --library out/library/library.nc --out out/explain_benchmark --json explain.json
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from _blind_films import Film, render, simulate_films
from _common import machine, parser
from _explain_bound import bound_study, plot_bound_study
from _explain_figures import plot_blind
from _explain_films import UNDECIDABLE, Answer, answer_film, comparison, film_sets, statistics

import analysis
import tiltsim
from tiltsim.explaining import ExplainOptions, explain_into
from tiltsim.lens import LensBox

#: Films of the blind set and of every other one; phonon pairs behind their images.
_FULL, _QUICK = (44, 10, 8), (2, 1, 1)


def main() -> None:
    """Run all of it."""
    argue = parser(__doc__ or "")
    argue.add_argument(
        "--library",
        type=Path,
        help="built with `tiltsim library build --lens`; default: built anew into --out, an hour and a half (--quick: a small one)",
    )
    argue.add_argument("--out", type=Path, default=Path("out/explain_benchmark"))
    argue.add_argument(
        "--first", type=int, default=0, help="number of the first film of each set: other films"
    )
    options = argue.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.library = options.library or new_library(options)
    result: dict[str, Any] = {"machine": machine(), "library": tiltsim.open_library(options.library).digest}
    films, images = simulated(options)
    answers = answered(options, films, images)
    result["sets"] = {name: statistics(found) for name, found in answers.items()}
    result["comparators"] = comparison(answers["blind"])
    undecidable = [a for name in UNDECIDABLE for a in answers[name]]
    result["flagged_share"] = float(np.mean([not a.identified for a in undecidable]))
    result["confident_and_wrong"] = sum(a.identified and a.wrong for found in answers.values() for a in found)
    null = np.concatenate([a.comparators["null reference"] for a in answers["reference"] if not a.refused])
    null = null[np.isfinite(null).all(axis=1)]
    result["null_rmse_pm"] = float(np.sqrt((null**2).mean())) if len(null) else float("nan")
    blind = result["sets"]["blind"]
    result |= {
        key: blind.get(source)
        for key, source in (
            ("tilt_rmse_mrad", "tilt_rmse_mrad"), ("d_bias_pm", "d_film_bias_pm"), ("coverage90", "d_coverage90"),
            ("tilt_coverage90", "tilt_coverage90"), ("wrong_sign", "wrong_sign"),
        )
    }  # fmt: skip
    analysis.save(plot_blind(answers), options.out / "blind")
    result["large"] = large_image(options, films["blind"][0], images["blind"][0])
    bound = bound_study(options.library, quick=options.quick)
    result["bound"] = {str(n): bound[n].values.tolist() for n in bound.data_vars}
    analysis.save(plot_bound_study(bound), options.out / "bound")
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


def new_library(options: argparse.Namespace) -> Path:
    """Build the default library with a lens, or a small one."""
    request = tiltsim.LibraryRequest(lens=LensBox(), d_steps=2)
    if options.quick:
        request = replace(
            request, tilts=5, thickest=120.0, d_steps=1, phonons=tiltsim.FrozenPhonons(pairs=1, redraw=True)
        )
    dataset = tiltsim.build_library(request, work=options.out / "library-work")
    return Path(analysis.write_dataset(dataset, options.out / "library.nc"))


def simulated(options: argparse.Namespace) -> tuple[dict[str, list[Film]], dict[str, list[list[np.ndarray]]]]:
    """All sets of films, and the images of their variants."""
    count, others, pairs = _QUICK if options.quick else _FULL
    sets = film_sets(count, others, cells=22 if options.quick else None, first=options.first)
    every = [film for films in sets.values() for film in films]
    images = iter(simulate_films(every, options.out / "films", pairs))
    return sets, {name: [next(images) for _ in films] for name, films in sets.items()}


def answered(
    options: argparse.Namespace, films: dict[str, list[Film]], images: dict[str, list[list[np.ndarray]]]
) -> dict[str, list[Answer]]:
    """Explain every film, two at a time; answers are kept in answers.pickle."""
    jobs = [
        (name, (film, image, str(options.library), 0))
        for name in films
        for film, image in zip(films[name], images[name], strict=True)
    ]
    found: dict[str, list[Answer]] = {name: [] for name in films}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for number, ((name, _), answer) in enumerate(
            zip(jobs, pool.map(answer_film, [job for _, job in jobs]), strict=True)
        ):
            found[name].append(answer)
            print(f"{number + 1} of {len(jobs)}: {name} {answer}", flush=True)
    (options.out / "answers.pickle").write_bytes(pickle.dumps(found))
    return found


def large_image(options: argparse.Namespace, film: Film, images: Sequence[np.ndarray]) -> dict[str, Any]:
    """Time and memory of the whole of ``tiltsim explain``, from file to report, on a large image."""
    size = 512 if options.quick else 2048
    image, _ = render(replace(film, size=size), images)
    path = options.out / "large.tif"
    tifffile.imwrite(path, image.values.astype(np.float32))
    summary, found = explain_into(
        path, options.out / "large", ExplainOptions(options.library, pixel_size=film.pixel)
    )
    return {
        "pixels": size, "cells": int(found.cells.sizes["cell"]), "variants": len(found.inversion.regions),
        "identified": bool(summary["identified"]), "seconds": summary["seconds"],
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }  # fmt: skip


if __name__ == "__main__":
    main()
