"""Columns found, their error and the time they took: this toolkit, Atomap and scipy's curve_fit on the same images.

Perovskite micrographs with Poisson noise, 24 px a cell, columns 0.15 px off their lattice: *base* (200 electrons a pixel
at the top of an A column), *low* (20) and *wide* (columns that overlap). Errors stand beside the Cramér-Rao bound. Every
fit is a process of its own: peers on one core, the toolkit on one and on all. Only curve_fit is told where to begin, 1 px
off the truth. Atomap is run by this Python if it is installed there, else by that of --peer-python. Last, one image of
4096² px.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, parser, report
from _micrograph import CASES, Case, Truth, bound, micrograph
from _scores import median, score
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--seeds", type=int, default=3, help="images a case for the toolkit")
    arguments.add_argument("--peer-seeds", type=int, default=1, help="images a case for the peers")
    arguments.add_argument("--peer-python", default=sys.executable, help="a Python that has Atomap")
    args = arguments.parse_args()
    size, large, seeds = (256, 512, 1) if args.quick else (1024, 4096, args.seeds)
    methods = {"measure": ("_measure.py", sys.executable, 1, seeds)}
    if ALL > 1:
        methods[f"measure, {ALL} cores"] = ("_measure.py", sys.executable, ALL, seeds)
    methods["curve_fit"] = ("_curve_fit.py", sys.executable, 1, args.peer_seeds)
    if _has_atomap(args.peer_python):
        methods["Atomap"] = ("_atomap.py", args.peer_python, 1, args.peer_seeds)
    else:
        print(
            f"Atomap is skipped: {args.peer_python} cannot import it; name one that can with --peer-python."
        )
    results: dict[str, Any] = {}
    for name, case in CASES.items():
        case = replace(case, size=size)
        results[name] = {"bound_px": dict(zip("AB", bound(case), strict=True))}
        for method, (script, python, threads, count) in methods.items():
            scores = []
            for seed in range(count):
                image, truth = micrograph(case, seed)
                found = fitted(script, python, threads, image, truth, case, seed)
                scores.append(score(found, truth, case.cell, bound(case)))
            results[name][method] = median(scores) | {"seeds": count, "threads": threads}
    case = replace(CASES["base"], size=large)
    image, truth = micrograph(case, 0)
    found = fitted("_measure.py", sys.executable, ALL, image, truth, case, 0)
    results["large"] = score(found, truth, case.cell, bound(case)) | {"size_px": large, "threads": ALL}
    show(results)
    report({"machine": machine(), "size_px": size, "cell_px": case.cell, **results}, args.json)


def fitted(
    script: str, python: str, threads: int, image: np.ndarray, truth: Truth, case: Case, seed: int
) -> dict[str, np.ndarray]:
    """What a method finds, in a fresh process on so many cores."""
    rng = np.random.default_rng([seed, 1])
    problem = {"image": image, "cell": np.array(case.cell)}
    for site, true in (("A", truth.a), ("B", truth.b)):
        angle = rng.uniform(0, 2 * np.pi, len(true))
        problem[f"start_{site}"] = true + np.stack([np.cos(angle), np.sin(angle)], 1)
    environment = os.environ | dict.fromkeys(THREADS, str(threads)) | {"MPLBACKEND": "agg"}
    if python == sys.executable:
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "problem.npz", Path(folder) / "result.npz"
        np.savez(given, **problem)
        command = [python, str(HERE / script), str(given), str(result)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, preexec_fn=lambda: _pin(threads)
        )
        if done.returncode:
            raise SystemExit(f"{script} failed on {case}:\n{done.stderr[-2000:]}")
        with np.load(result) as arrays:
            return dict(arrays)


def show(results: dict[str, Any]) -> None:
    """Print what one reads first."""
    table = Table(title="Errors per axis in px; found, missed, false, duplicate; pull = error / stated error")
    for head in ("case", "method", "A found", "B found", "A error", "× bound", "pull", "B error", "× bound", "pull",
                 "d error", "× bound", "CPU s", "columns / CPU s"):  # fmt: skip
        table.add_column(head, justify="left" if head in ("case", "method") else "right")
    for name, methods in results.items():
        if name == "large":
            continue
        for method, one in methods.items():
            if method == "bound_px":
                table.add_row(
                    name, "bound", "", "", f"{one['A']:.4f}", "1", "", f"{one['B']:.4f}", "1", *[""] * 5
                )
                continue
            cells = []
            for site in "AB":
                pull = one[site].get("pull")
                cells += [f"{one[site]['rmse_px']:.4f}", f"{one[site]['rmse_over_bound']:.2f}"]
                cells += [f"{pull:.2f}" if pull else "–"]
            table.add_row(
                name, method, *(_counts(one[site]) for site in "AB"), *cells, f"{one['d']['rmse_px']:.4f}",
                f"{one['d']['rmse_over_bound']:.2f}", f"{one['seconds_cpu']:.2f}", f"{one['columns_per_cpu_second']:.0f}",
            )  # fmt: skip
    console = Console(width=170)
    console.print(table)
    large = results["large"]
    console.print(
        f"{large['size_px']}² px on {large['threads']} cores: {large['seconds']:.1f} s, {large['seconds_cpu']:.1f} CPU s, "
        f"peak {large['peak_mb']:.0f} MB, {_counts(large['A'])} A, {_counts(large['B'])} B."
    )


def _counts(site: dict[str, Any]) -> str:
    missed = site["true"] - site["found"]
    return " ".join(f"{n:.0f}" for n in (site["found"], missed, site["false"], site["duplicates"]))


def _has_atomap(python: str) -> bool:
    if python == sys.executable:
        return importlib.util.find_spec("atomap") is not None
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('atomap') is None)"
    return subprocess.run([python, "-c", code]).returncode == 0


def _pin(cores: int) -> None:
    """Keep this process to the first cores it may use, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))


if __name__ == "__main__":
    main()
