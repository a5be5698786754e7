"""Errors of the joint fit against the Fisher bound, over dose and number of cells, with and without an unknown lens."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import tiltsim
from analysis.drawing import PALETTE, SMALL, TEXT
from tiltsim.explanation.fitting import Posterior
from tiltsim.explanation.inversion import in_image_axes
from tiltsim.explanation.model import PRIORS, SOURCE, Model
from tiltsim.explanation.regions import BINS, Region
from tiltsim.library.periods import library_periods

_DOSES, _CELLS = (1e4, 3e4, 1e5), (20, 100, 400, 1600)

#: Residual aberrations of the crystals, Å, and how well they are known beforehand where they are not unknown.
_LENS, _KNOWN = np.array([10.0, 6.0, -4.0, 250.0, -200.0]), 1e-3


def bound_study(path: Path, *, quick: bool = False, trials: int = 12, seed: int = 0) -> xr.Dataset:
    """Ratios of errors to their bound: root mean square over crystals of error / bound of each component.

    Crystals are the library's own, so that only counting noise stands between the fit and the truth.

    Returns
    -------
    Dataset
        dims (dose, cells): ``ratio_tilt``, ``ratio_d`` and ``bound_tilt`` (mrad, median), with aberrations known, and the same
        ``…_with_lens`` with all of them unknown.
    """
    doses, cells = (_DOSES[:1], _CELLS[1:2]) if quick else (_DOSES, _CELLS)
    names = [f"{a}_{b}{c}" for a in ("ratio", "bound") for b in ("tilt", "d") for c in ("", "_with_lens")]
    table = {n: np.zeros((len(doses), len(cells))) for n in names}
    jobs = [
        (str(path), dose, count, lens, 2 if quick else trials, (seed, i, j))
        for i, dose in enumerate(doses) for j, count in enumerate(cells) for lens in (False, True)
    ]  # fmt: skip
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for (_, _, _, lens, _, (_, i, j)), found in zip(jobs, pool.map(_trials, jobs), strict=True):
            ending = "_with_lens" if lens else ""
            for name, (error, bound) in found.items():
                table[f"ratio_{name}{ending}"][i, j] = np.sqrt(np.mean(np.square(error / bound)))
                table[f"bound_{name}{ending}"][i, j] = np.median(bound)
    return xr.Dataset(
        {n: (("dose", "cells"), v) for n, v in table.items()},
        coords={"dose": list(doses), "cells": list(cells)},
    )


@lru_cache(maxsize=1)
def _library(path: str) -> tiltsim.Library:
    return tiltsim.open_library(path)


def _trials(
    job: tuple[str, float, int, bool, int, tuple[int, int, int]],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Errors and bounds (crystal, component) of tilt and d of several crystals; for a pool of processes."""
    path, dose, count, lens, trials, seeds = job
    found = [
        _one(_library(path), dose, count, lens, np.random.default_rng([*seeds, trial]))
        for trial in range(trials)
    ]
    return {name: tuple(np.stack([f[name][k] for f in found]) for k in (0, 1)) for name in ("tilt", "d")}  # type: ignore[misc]


def _one(
    library: tiltsim.Library, dose: float, cells: int, lens: bool, rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Error and bound of tilt and d of one crystal."""
    edge = library.edges["BiFeO3"]
    low, high = library.thickness_range
    tilt, d = rng.uniform(-7, 7, 2), rng.choice((-1, 1), 2) * rng.uniform(12, 25, 2)
    thickness = rng.uniform(max(low, 50.0), high * 0.97)
    image, _ = library_periods(library, tilt, np.array(thickness), d, samples=BINS, aberrations=_LENS)
    k = np.fft.fftfreq(BINS, edge / BINS)
    soft = np.exp(-2 * np.pi**2 * SOURCE * (k[:, None] ** 2 + k**2))
    image = np.fft.ifft2(np.fft.fft2(image) * soft).real
    blocks = 30
    electrons = dose * edge**2 / BINS**2 * cells / blocks
    counts = rng.poisson(np.maximum(image, 0) * electrons, (blocks, BINS, BINS)) / electrons
    level = image.mean()
    ones = np.ones_like(counts)
    region = Region(
        "variant 1", "BiFeO3", counts / level, ones, counts / level, ones, np.zeros((2, BINS, BINS)),
        np.maximum(image, 1e-6) / electrons / blocks / level**2, np.eye(2) * edge, cells, np.arange(cells), np.zeros((blocks, 2)), d, np.eye(2),
    )  # fmt: skip
    model = Model(library, [region])
    priors = dict(PRIORS)
    if not lens:
        for name, value in zip(("defocus", "C12_x", "C12_y", "C21_x", "C21_y"), _LENS, strict=True):
            priors[name] = (float(value), _KNOWN)
    posterior = Posterior(model, [region], priors)
    # The library is the truth here: its own errors do not count.
    posterior.doubt = lambda theta: None  # type: ignore[method-assign]
    best = posterior.solutions()[0]
    found_tilt, found_d, turn_tilt, turn_d = in_image_axes(model, [region], best.theta)
    return {
        "tilt": (found_tilt[0] - tilt, np.sqrt(np.diag(turn_tilt @ best.covariance @ turn_tilt.T))),
        "d": (found_d[0] - d, np.sqrt(np.diag(turn_d @ best.covariance @ turn_d.T))),
    }


def plot_bound_study(found: xr.Dataset) -> Figure:
    """Bounds and ratios against the number of cells."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for n, dose in enumerate(found.dose.values):
        one = found.sel(dose=dose)
        for ending, style in (("", "--o"), ("_with_lens", "-s")):
            label = f"{dose / 1e4:g}·10⁴ e/Å², lens {'unknown' if ending else 'known'}"
            left.loglog(
                one.cells, one[f"bound_tilt{ending}"], style, color=PALETTE[n], markersize=4, label=label
            )
            right.semilogx(one.cells, one[f"ratio_tilt{ending}"], style, color=PALETTE[n], markersize=4)
    right.axhline(1, color="0.4", linewidth=0.8)
    right.set_ylim(0, 2.5)
    left.set_ylabel("Fisher bound of tilt, along each axis (mrad)", fontsize=TEXT)
    right.set_ylabel("RMSE of tilt / bound", fontsize=TEXT)
    for ax in (left, right):
        ax.set_xlabel("cells averaged", fontsize=TEXT)
        ax.tick_params(labelsize=SMALL)
    left.legend(fontsize=SMALL - 1)
    return figure
