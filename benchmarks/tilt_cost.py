"""What tilts, thickness and supercell cost the scattering matrix in time and memory, beside the planner's word.

R3c BiFeO3, square grids of tilts to ±10 mrad, 200 kV, 30 mrad, 65-88 mrad. As many residual wave vectors as the
machine runs at a time are timed, and scaled to all of one phonon configuration. The peak memory is that of one in
a process of its own. The line for abTEM is its measured time for a few probes of one tilt, scaled to all probes
and in proportion to the number of tilts.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from _common import machine, parser, report
from _peer import batch_trial, built_potential, intensities, scan_places, setting, workers
from _unit_memory import job_of, unit_memory

from tiltsim import estimate
from tiltsim.checkpoints import Checkpoints
from tiltsim.scheduling import engine_units, run_units

TILTS, THICKNESS, CELLS = 49, 100.0, (2, 2)


def cost(tilts: int, thickness: float, cells: tuple[int, int], outer: float) -> dict[str, Any]:
    """Time and memory of one setting, measured and planned."""
    settings = {"tilts": tilts, "thickness": thickness, "cells": cells, "outer": outer}
    job = job_of(**settings)
    arrangement = estimate.needs(job)
    # Where one configuration is a single unit, the next ones keep the other cores as busy as in a real run.
    units = [unit for pair in range(arrangement.workers) for unit in engine_units(job, pair, 1)]
    units = units[: arrangement.workers]
    number = len(engine_units(job, 0, 1))
    start = time.perf_counter()
    run_units(job, units, Checkpoints(job), workers=arrangement.workers, passes=arrangement.passes)
    unit = (time.perf_counter() - start) / len(units)
    planned = estimate.trial_seconds(job, arrangement) / arrangement.workers
    return {
        **settings,
        "atoms": len(job.specimen.atoms),
        "gpts": job.plan.gpts,
        "beams": arrangement.beams,
        "pixels": arrangement.pixels,
        "units": number,
        "units_timed": len(units),
        "seconds": number * unit,
        "planned_seconds": number * planned,
        **unit_memory(**settings),
    }


def abtem_seconds(tilts: int, outer: float, batches: tuple[int, ...], thickness: float) -> dict[str, Any]:
    """AbTEM's time for one tilt of the setting of the first panel."""
    job = job_of(tilts, thickness, CELLS, outer)
    with setting("cpu"):
        trial = batch_trial(job, "cpu", batches)
        batch = min(trial, key=lambda size: trial[size])
        places = scan_places(job, batch * workers("cpu"))
        built = built_potential(job, "cpu")
        intensities(built, job, (0.0, 0.0), places, batch, "cpu")
        start = time.perf_counter()
        intensities(built, job, (0.0, 0.0), places, batch, "cpu")
        seconds = time.perf_counter() - start
    probes = job.plan.scan[0] * job.plan.scan[1]
    return {
        "batch": batch,
        "probes_timed": len(places),
        "probes_scaled_to": probes,
        "seconds_per_tilt": seconds * probes / len(places),
    }


def draw(results: dict[str, Any], path: Path) -> None:
    """Three panels: time over tilts, time over thickness, time and memory over supercell."""
    ours, theirs, planned = "#0b5394", "#b45f06", "#666666"
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 9, "svg.fonttype": "none"})
    figure = plt.figure(figsize=(10.2, 3.3), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1.15, 1, 0.8))
    left, middle = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[:, 1])
    upper, lower = figure.add_subplot(grid[0, 2]), figure.add_subplot(grid[1, 2])

    rows = results["tilts"]
    number = np.array([row["tilts"] for row in rows])
    left.plot(number, [r["planned_seconds"] for r in rows], "o", mfc="white", ms=7, color=planned)
    left.plot(number, [r["seconds"] for r in rows], "o-", ms=4, color=ours, label="scattering matrix")
    rate = results["abtem"]["seconds_per_tilt"]
    left.plot(number, rate * number, "--", color=theirs, label="abTEM multislice, ∝ tilts")
    left.plot([], [], "o", mfc="white", ms=7, color=planned, label="planner's trial")
    left.set(xscale="log", yscale="log", xlabel="tilts, to ±10 mrad", ylabel="s per phonon configuration")
    left.set_title(f"a  R3c, 2 × 2 cells, {rows[0]['thickness']:g} Å", loc="left")
    left.set_xticks(number, [str(n) for n in number], minor=False)
    left.minorticks_off()
    left.legend(frameon=False, loc="upper left")
    span = [r["seconds"] for r in rows]
    left.set_ylim(0.3 * min(span), 6 * max(rate * number[-1], max(span)))

    rows = results["thickness"]
    depth = [row["thickness"] for row in rows]
    middle.plot(depth, [r["planned_seconds"] for r in rows], "o", mfc="white", ms=7, color=planned)
    middle.plot(depth, [r["seconds"] for r in rows], "o-", ms=4, color=ours)
    for row in rows:
        side = round(row["units"] ** 0.5)
        middle.annotate(
            f"{side} × {side}", (row["thickness"], row["seconds"]), xytext=(0, 9), textcoords="offset points",
            ha="right",
        )  # fmt: skip
    middle.set(xlabel="thickness (Å)", ylabel="s per phonon configuration")
    middle.set_ylim(0, 1.2 * max(max(r["seconds"], r["planned_seconds"]) for r in rows))
    middle.set_xlim(0, 1.06 * max(depth))
    middle.set_title(f"b  {rows[0]['tilts']} tilts; N × N wave vectors", loc="left")

    rows = results["supercell"]
    names = [f"{a} × {b}" for a, b in (row["cells"] for row in rows)]
    place = np.arange(len(rows))
    for axis, measured, word, unit in (
        (upper, "seconds", "planned_seconds", "s per config."),
        (lower, "measured_GB", "planned_GB", "GB per worker"),
    ):
        axis.bar(place, [row[measured] for row in rows], 0.5, color=ours, alpha=0.75)
        axis.plot(place, [row[word] for row in rows], "o", mfc="white", ms=7, color=planned)
        axis.set(ylabel=unit, xlim=(-0.6, len(rows) - 0.4))
        axis.set_ylim(0, 1.2 * max(max(row[measured], row[word]) for row in rows))
        axis.set_xticks(place, names)
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("supercell (pseudocubic cells)")
    upper.set_title(f"c  {rows[0]['tilts']} tilts, {rows[0]['thickness']:g} Å", loc="left")
    for axis in (left, middle, upper, lower):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=200)
    plt.close(figure)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--figure", type=Path, help="draw the results into this file")
    options.add_argument("--outer", type=float, help="detector's outer angle, mrad (88)")
    args = options.parse_args()
    outer = args.outer or 88.0
    tilts = (1, 9) if args.quick else (1, 9, 25, 49, 121, 225)
    depths = (8.0, 16.0) if args.quick else (100.0, 200.0, 300.0, 400.0)
    supercells = ((2, 2),) if args.quick else ((2, 2), (2, 4), (4, 4))
    usual, depth = (9, 16.0) if args.quick else (TILTS, THICKNESS)
    job = job_of(1, 8.0, CELLS, 70.0)  # a warm-up: imports, thread pools, abTEM's tables
    run_units(job, engine_units(job, 0, 1), Checkpoints(job))
    done: dict[tuple[Any, ...], dict[str, Any]] = {}

    def once(n: int, thickness: float, cells: tuple[int, int]) -> dict[str, Any]:
        if (n, thickness, cells) not in done:
            done[n, thickness, cells] = cost(n, thickness, cells, outer)
        return done[n, thickness, cells]

    results = {
        "machine": machine(),
        "outer_mrad": outer,
        "tilts": [once(n, depth, CELLS) for n in tilts],
        "thickness": [once(usual, thickness, CELLS) for thickness in depths],
        "supercell": [once(usual, depth, cells) for cells in supercells],
        "abtem": abtem_seconds(usual, outer, (8,) if args.quick else (8, 32), depth),
    }
    if args.figure:
        draw(results, args.figure)
    report(results, args.json)


if __name__ == "__main__":
    main()
