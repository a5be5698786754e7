"""Blind films through `tiltsim explain`: how far its tilt, its corrected d and its errors can be trusted, and what it refuses.

Films come from the engine, with phonons, tilts, thicknesses, lenses and noise that no library holds (benchmarks/_blind_films.py).

    python benchmarks/explain.py --library out/library/library.nc --out out/explain_benchmark --json explain.json
"""

from __future__ import annotations

import argparse
import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from _blind_films import simulate_films
from _common import machine, parser
from _explain_bound import bound_study, plot_bound_study
from _explain_films import Answer, answer_film, comparison, film_sets, statistics

import analysis

#: Films of the blind set and of every other one; phonon pairs behind their images.
_FULL, _QUICK = (48, 10, 6), (2, 1, 1)


def main() -> None:
    """Run all of it."""
    argue = parser(__doc__ or "")
    argue.add_argument(
        "--library", type=Path, required=True, help="built with `tiltsim library build --lens`"
    )
    argue.add_argument("--out", type=Path, default=Path("out/explain_benchmark"))
    options = argue.parse_args()
    result: dict[str, Any] = {"machine": machine(), "library": str(options.library.name)}
    answers = run_sets(options)
    for name, found in answers.items():
        result[name] = statistics(found)
        print(name, json.dumps(result[name], indent=1))
    result["comparators"] = comparison(answers["blind"])
    print("comparators", json.dumps(result["comparators"], indent=1))
    undecidable = [
        a for n in ("three-fold", "wrong aperture", "few cells", "few electrons") for a in answers[n]
    ]
    result["flagged_share"] = float(np.mean([not a.identified for a in undecidable]))
    null = np.concatenate([a.comparators["null reference"] for a in answers["reference"] if not a.refused])
    null = null[np.isfinite(null).all(axis=1)]
    result["null_rmse_pm"] = float(np.sqrt((null**2).mean())) if len(null) else float("nan")
    print(
        "flagged of what cannot be decided",
        result["flagged_share"],
        "; null reference, pm",
        result["null_rmse_pm"],
    )
    bound = bound_study(options.library, quick=options.quick)
    result["bound"] = {
        str(n): bound[n].values.tolist() for n in ("ratio_tilt", "ratio_d", "ratio_tilt_with_lens")
    }
    analysis.save(plot_bound_study(bound), options.out / "bound")
    blind = result["blind"]
    result |= {
        key: blind.get(source)
        for key, source in (
            ("tilt_rmse_mrad", "tilt_rmse_mrad"), ("d_bias_pm", "d_film_bias_pm"), ("coverage90", "d_coverage90"),
            ("tilt_coverage90", "tilt_coverage90"), ("wrong_sign", "wrong_sign"),
        )
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


def run_sets(options: argparse.Namespace) -> dict[str, list[Answer]]:
    """Simulate, paint and explain every set."""
    count, others, pairs = _QUICK if options.quick else _FULL
    sets = film_sets(count, others)
    options.out.mkdir(parents=True, exist_ok=True)
    every = [film for films in sets.values() for film in films]
    images = simulate_films(every, options.out / f"films-{count}-{others}", pairs)
    jobs = [(film, image, str(options.library), 0) for film, image in zip(every, images, strict=True)]
    answers: list[Answer] = []
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for answer in pool.map(answer_film, jobs):
            answers.append(answer)
            print(f"explained {len(answers)} of {len(jobs)}", end="\r", flush=True)
    (options.out / "answers.pickle").write_bytes(pickle.dumps(answers))
    parted, start = {}, 0
    for name, films in sets.items():
        parted[name] = answers[start : start + len(films)]
        start += len(films)
    return parted


if __name__ == "__main__":
    main()
