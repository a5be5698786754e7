"""How well A and B positions are known after so many phonon configurations, and what pairs (u, −u) save.

R3c BiFeO3, 100 Å, 65-110 mrad, tilts 0 and 10 mrad along x, 2 × 2 wave vectors with phonons of their own. The same configurations are taken as pairs and as if
u and −u were independent draws. Standard errors are over unique columns × samples, root mean square over x and y
and over all runs of n successive pairs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from _common import machine, parser, report

import analysis
import structures
import tiltsim


def sems(images: xr.Dataset, truth: dict[str, xr.Dataset]) -> xr.DataArray:
    """Standard errors of A and B, pm: root mean square over components, dims (tilt_x, site)."""
    found = analysis.tilt_response(images, truth)["shift_sem"].squeeze(drop=True)
    return np.sqrt((found**2).mean("component")).transpose("tilt_x", "site")


def curve(samples: xr.Dataset, truth: dict[str, xr.Dataset], counts: list[int], every: int) -> np.ndarray:
    """Root mean square error (count, tilt, site) of runs of ``counts`` samples that begin at each ``every``-th."""
    total = samples.sizes["pair"]
    result = []
    for count in counts:
        runs = [np.arange(first, first + count) % total for first in range(0, total, every)]
        if count == total:
            runs = runs[:1]
        result.append(
            np.sqrt(np.mean([sems(samples.isel(pair=run), truth).values ** 2 for run in runs], axis=0))
        )
    return np.array(result)


def draw(results: dict[str, Any], path: Path) -> None:
    """Error over the number of configurations, one panel a tilt."""
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 9})
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.1), layout="constrained", sharey=True)
    number = np.array(results["configurations"])
    styles = {"pairs": ("o-", "pairs (u, −u)"), "independent": ("s--", "independent")}
    colours = {"A": "#6a3d9a", "B": "#e08214"}
    for axis, tilt in zip(axes, results["sem_pm"], strict=True):
        for kind, (line, words) in styles.items():
            for site, colour in colours.items():
                axis.plot(
                    number, results["sem_pm"][tilt][kind][site], line, ms=4, color=colour,
                    mfc=colour if kind == "pairs" else "none", label=f"{site}, {words}",
                )  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="phonon configurations")
        axis.set_xticks(number, [str(n) for n in number])
        axis.minorticks_off()
        axis.set_title("on the zone axis" if float(tilt) == 0 else f"tilted by {tilt} mrad", loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("standard error of position (pm)")
    ticks = [v for v in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5) if axes[0].get_ylim()[0] <= v]
    ticks = [v for v in ticks if v <= axes[0].get_ylim()[1]]
    axes[0].set_yticks(ticks, [f"{v:g}" for v in ticks])
    axes[0].minorticks_off()
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside upper center")
    figure.savefig(path, dpi=200)
    plt.close(figure)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--figure", type=Path, help="draw the results into this file")
    options.add_argument("--pairs", type=int, help="phonon pairs (8; quick: 2)")
    args = options.parse_args()
    pairs = args.pairs or (2 if args.quick else 8)
    thickness, outer = (24.0, 88.0) if args.quick else (100.0, 110.0)
    specimen = structures.build("R3c", thickness=thickness)
    truth = {specimen.name: specimen.truth}
    start = time.perf_counter()
    images = tiltsim.simulate(
        specimen,
        tilts=tiltsim.TiltSeries((0.0, 10.0)),
        thicknesses=[thickness],
        detector=tiltsim.Detector(65.0, outer),
        phonons=tiltsim.FrozenPhonons(pairs, spread=True),
        numerics=tiltsim.Numerics(pixel=0.2, wave_vectors=2),
        keep_configs=True,
        device="cpu",
    )
    simulating = time.perf_counter() - start
    # Every configuration a pair of its own.
    single = images.assign_coords(pair=("config", np.arange(images.sizes["config"])))
    start = time.perf_counter()
    counts = list(range(2, pairs + 1))
    paired = curve(tiltsim.pair_images(images), truth, counts, 1)
    independent = curve(tiltsim.pair_images(single), truth, [2 * n for n in counts], 2)
    measuring = time.perf_counter() - start
    ratio = paired[-1] / independent[-1]
    tilts, sites = ("0", "10"), ("A", "B")
    report_of = {
        "machine": machine(),
        "thickness_angstrom": thickness,
        "outer_mrad": outer,
        "wave_vectors": 4,
        "seconds": {"simulating": simulating, "measuring": measuring},
        "configurations": [2 * n for n in counts],
        "sem_pm": {
            tilt: {
                kind: {site: values[:, t, s].tolist() for s, site in enumerate(sites)}
                for kind, values in (("pairs", paired), ("independent", independent))
            }
            for t, tilt in enumerate(tilts)
        },
        "pairs_over_independent": {
            tilt: {site: float(ratio[t, s]) for s, site in enumerate(sites)} for t, tilt in enumerate(tilts)
        },
        # Errors fall with the root of the number of configurations.
        "configurations_saved_factor": {
            tilt: {site: float(ratio[t, s] ** -2) for s, site in enumerate(sites)}
            for t, tilt in enumerate(tilts)
        },
    }
    if args.figure:
        draw(report_of, args.figure)
    report(report_of, args.json)


if __name__ == "__main__":
    main()
