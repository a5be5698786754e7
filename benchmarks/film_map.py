"""A film of two domains on a substrate, off the axis and noisy: is it mapped as truth plus known bias?

Sm7 % BiFeO3 (R3c, two variants) on SrTiO3, beam tilted by (6, −4) mrad, 100 Å, 65-110 mrad, 3e4 electrons per Å².
`analysis.measure` sees the noisy image only. Each of its cells is compared with d_true + d_bias, where d_bias comes from
`analysis.tilt_response` of perfect crystals: of the film's own phonons (left over: noise, and what differs between the
two ways to fit) and of other phonons (left over: also what a finite number of phonon pairs leaves unknown).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from _common import machine, parser, report
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import analysis
import structures
import tiltsim
from tiltsim.film import Film, beside_truth, domain_shares, film_truth, render
from tiltsim.substrate import film_bias, lay_out_on_substrate

TILT = (6.0, -4.0)
REGIONS = ("left domain", "right domain", "substrate")

#: Share of its kind from which a cell counts as inside: its centre is 5 Å or more, 1.3 cells, from any border.
INSIDE = 0.995


def images_of(
    specimens: Sequence[structures.Specimen],
    thickness: float,
    detector: tiltsim.Detector,
    pairs: int,
    seed: int,
) -> xr.Dataset:
    """The tilt and its mirrors."""
    return tiltsim.simulate(
        specimens,
        tilts=tiltsim.TiltSeries(*(tuple(sorted((-abs(t), abs(t)))) for t in TILT)),
        thicknesses=[thickness],
        detector=detector,
        phonons=tiltsim.FrozenPhonons(pairs, seed=seed),
        keep_configs=True,
    )


def compared(
    measured: analysis.Measurement, film: Film, truth: dict[str, xr.Dataset], names: list[str]
) -> xr.Dataset:
    """Usable cells beside their truth: ``region`` is 0 to 2 inside, 3 at the wall, 4 at the interface."""
    true_cells = film_truth(film, truth, names)
    cells = beside_truth(measured.unit_cells, true_cells, TILT, film.lattice)
    cells = cells.isel(cell=np.flatnonzero(cells.flag == 0))
    # Off the axis the pattern drifts by some 0.1 cells: the nearest place is still the right one.
    place = np.floor(np.c_[cells.x, cells.y] / film.lattice).astype(int)
    share = domain_shares(film, *((place.T + 0.5) * film.lattice))
    border = np.where(share[:, 2] > 1 - INSIDE, 4, 3)
    region = np.where(share.max(axis=1) > INSIDE, share.argmax(axis=1), border)
    return cells.assign(
        region=("cell", region), place=(("cell", "component"), place), shares=(("cell", "domain"), share)
    )


def error_of_mean(columns: xr.Dataset, cells: xr.Dataset) -> np.ndarray:
    """Standard error (x, y) of the mean d of ``cells``, pm.

    Neighbouring cells share A columns, so that errors of single cells do not average out as if independent: a mean over
    many cells is that of as many A columns minus that of as many B columns.
    """
    wanted = set(zip(cells.a.values.tolist(), cells.b.values.tolist(), strict=True))
    index = zip(columns.a.values.tolist(), columns.b.values.tolist(), strict=True)
    chosen = columns.isel(column=np.flatnonzero([one in wanted for one in index]))
    variance = np.einsum("nii->ni", chosen.position_cov.values) * 1e4  # pm²
    sites = [variance[chosen.site.values == site].mean(axis=0) for site in "AB"]
    return np.sqrt(sum(sites) / cells.sizes["cell"])


def judged(cells: xr.Dataset, columns: xr.Dataset, own: xr.Dataset, other: xr.Dataset) -> dict[str, Any]:
    """Residuals inside every region, against both biases; ``pull`` is their spread over the errors reported."""
    result = {}
    for k, name in enumerate(REGIONS):
        inside = cells.isel(cell=np.flatnonzero(cells.region == k))
        noise = error_of_mean(columns, inside)
        sigma = np.sqrt(np.einsum("nii->ni", inside.d_cov.values))
        rest = inside.d.values - inside.d_true.values - own.d_bias.values[k]
        rest_other = inside.d.values - inside.d_true.values - other.d_bias.values[k]
        error_other = np.sqrt(noise**2 + own.d_bias_sem.values[k] ** 2 + other.d_bias_sem.values[k] ** 2)
        result[name] = {
            "cells": int(inside.sizes["cell"]),
            "d_true_pm": inside.d_true.values.mean(axis=0).tolist(),
            "d_bias_pm": own.d_bias.values[k].tolist(),
            "d_measured_pm": inside.d.values.mean(axis=0).tolist(),
            "residual_pm": rest.mean(axis=0).tolist(),
            "error_pm": noise.tolist(),
            "residual_other_phonons_pm": rest_other.mean(axis=0).tolist(),
            "error_other_phonons_pm": error_other.tolist(),
            "spread_pm": rest.std(axis=0).tolist(),
            "cell_error_pm": np.median(sigma, axis=0).tolist(),
            "pull": np.sqrt((((rest - rest.mean(axis=0)) / sigma) ** 2).mean(axis=0)).tolist(),
        }
    return result


def at_borders(cells: xr.Dataset, expected: np.ndarray) -> dict[str, Any]:
    """Residuals of the cells at the wall and at the interface, where the image is a blend."""
    rest = cells.d.values - expected
    return {
        name: {
            "cells": int((cells.region == k).sum()),
            "residual_pm": rest[cells.region == k].mean(axis=0).tolist(),
            "rms_pm": np.sqrt((rest[cells.region == k] ** 2).mean(axis=0)).tolist(),
        }
        for k, name in ((3, "wall"), (4, "interface"))
    }


def across_wall(cells: xr.Dataset, expected: np.ndarray, film: Film) -> dict[str, list[float]]:
    """d along x through the film's rows, away from the substrate: mean over each column of cells."""
    rows = np.flatnonzero(cells["shares"].values[:, 2] < 1 - INSIDE)
    x = cells.place.values[rows, 0]
    profile: dict[str, list[float]] = {
        "cells_from_wall": [],
        "measured_pm": [],
        "error_pm": [],
        "expected_pm": [],
        "true_pm": [],
    }
    for n in np.unique(x):
        one = rows[x == n]
        if len(one) < 3:
            continue
        profile["cells_from_wall"].append(float(n + 0.5 - film.cells[0] // 2))
        profile["measured_pm"].append(float(cells.d.values[one, 0].mean()))
        profile["error_pm"].append(float(np.sqrt(cells.d_cov.values[one, 0, 0].mean() / len(one))))
        profile["expected_pm"].append(float(expected[one, 0].mean()))
        profile["true_pm"].append(float(cells.d_true.values[one, 0].mean()))
    return profile


def draw(
    cells: xr.Dataset,
    expected: np.ndarray,
    image: xr.DataArray,
    profile: dict[str, list[float]],
    film: Film,
    path: Path,
) -> None:
    """Measured map, expected map, residuals in units of their errors, and the profile across the wall."""
    figure = Figure(figsize=(9.0, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    radius = 40.0
    residual = (cells.d.values - expected) / np.sqrt(np.einsum("nii->ni", cells.d_cov.values))

    def as_map(ax: Axes, values: np.ndarray, title: str, **style: Any) -> Any:
        grid = np.full((film.cells[1], film.cells[0], *values.shape[1:]), np.nan)
        grid[cells.place.values[:, 1], cells.place.values[:, 0]] = values
        ax.set_title(title, fontsize=9, loc="left")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_facecolor("0.8")
        return ax.imshow(grid, interpolation="nearest", **style)

    (shown, found, known), (along_x, along_y, ax) = axes
    low, high = np.percentile(image.values, (0.5, 99.7))
    # The substrate is much darker than the film: show the root of the intensity.
    shown.imshow(np.sqrt(np.clip((image.values - low) / (high - low), 0, 1)), cmap="gray")
    tilt = f"({TILT[0]:+g}, {TILT[1]:+g}) mrad".replace("-", "−")
    shown.set_title(f"image, tilt {tilt}", fontsize=9, loc="left")
    shown.set_axis_off()
    as_map(found, analysis.direction_colours(cells.d.values, radius), "d measured")
    as_map(known, analysis.direction_colours(expected, radius), "d true + known bias")
    analysis.colour_wheel(known.inset_axes((0.75, 0.09, 0.22, 0.22)), radius)
    for panel, values, component in zip((along_x, along_y), residual.T, "xy", strict=True):
        title = f"residual of d$_{component}$ / its error"
        mesh = as_map(panel, values, title, cmap="RdBu_r", vmin=-4, vmax=4)
        figure.colorbar(mesh, ax=panel, location="bottom", shrink=0.7, pad=0.02).ax.tick_params(labelsize=7)
    x = profile["cells_from_wall"]
    ax.plot(x, profile["true_pm"], color="0.7", lw=1, ls="--", label="true")
    ax.plot(x, profile["expected_pm"], color="0.4", lw=1.5, label="true + bias")
    ax.errorbar(
        x,
        profile["measured_pm"],
        profile["error_pm"],
        fmt=".",
        ms=4,
        lw=0.8,
        color="#d1603d",
        label="measured",
    )
    ax.set_title("d$_x$ across the wall, mean of rows", fontsize=9, loc="left")
    ax.set_xlabel("cells from the wall", fontsize=8)
    ax.set_ylabel("pm", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--figure", type=Path, help="draw the maps into this file")
    args = options.parse_args()
    thickness, outer, pairs, dose = (40.0, 80.0, 2, 5e4) if args.quick else (100.0, 110.0, 4, 3e4)
    detector = tiltsim.Detector(65.0, outer)
    specimens = [
        structures.build("R3c", samarium=0.07, thickness=thickness),
        structures.build("SrTiO3", thickness=thickness),
    ]
    names = [s.name for s in specimens]
    truth = {s.name: s.truth for s in specimens}
    start = time.perf_counter()
    images, others = (images_of(specimens, thickness, detector, pairs, seed) for seed in (0, 1))
    simulating = time.perf_counter() - start
    film = lay_out_on_substrate(images, *names)
    image = tiltsim.apply_dose(render(film, images, TILT, thickness), dose, seed=0)
    start = time.perf_counter()
    measured = analysis.measure(image)
    measuring = time.perf_counter() - start
    own, other = (
        film_bias(film, truth, analysis.tilt_response(tiltsim.pair_images(each), truth), TILT, thickness)
        for each in (images, others)
    )
    cells = compared(measured, film, truth, names)
    expected = cells.d_true.values + cells["shares"].values @ own.d_bias.values
    profile = across_wall(cells, expected, film)
    if args.figure:
        draw(cells, expected, image, profile, film, args.figure)
    report(
        {
            "machine": machine(),
            "tilt_mrad": TILT,
            "thickness_angstrom": images.thickness_actual.values[:, 0].tolist(),
            "detector_mrad": [detector.inner, detector.outer],
            "pairs": pairs,
            "dose_per_A2": dose,
            "pixel_angstrom": film.pixel,
            "film_drawn_smaller_by": 1 - film.lattice / (specimens[0].box[0] / 2),
            "seconds": {"simulating": simulating, "measuring": measuring},
            "cells_true": int(film_truth(film, truth, names).sizes["cell"]),
            "cells_used": int(cells.sizes["cell"]),
            "inside": judged(cells, measured.columns, own, other),
            "borders": at_borders(cells, expected),
            "across_wall": profile,
        },
        args.json,
    )


if __name__ == "__main__":
    main()
