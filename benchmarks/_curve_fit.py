"""The plain way: scipy's curve_fit column by column, from the true places moved by 1 px; a process of its own.

python _curve_fit.py PROBLEM.npz RESULT.npz
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version

import numpy as np
from scipy.optimize import curve_fit


def gaussian(
    place: np.ndarray, height: float, x: float, y: float, xx: float, xy: float, yy: float, background: float
) -> np.ndarray:
    """Elliptical Gaussian on a constant at (2, n) places."""
    dx, dy = place[0] - x, place[1] - y
    return height * np.exp(-0.5 * (xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy)) + background


def fit(image: np.ndarray, starts: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 2) and their covariances (n, 2, 2), px, NaN where the fit fails.

    The window is a disc of half the A-B distance; the neighbours' tails stay in it.
    """
    radius = 0.5 * cell / np.sqrt(2)
    position, covariance = np.full((len(starts), 2), np.nan), np.full((len(starts), 2, 2), np.nan)
    width = (8 / cell) ** 2  # a standard deviation of an eighth of a cell
    for n, (x, y) in enumerate(starts):
        rows, columns = (slice(max(0, int(p - radius)), int(p + radius) + 2) for p in (y, x))
        gy, gx = np.mgrid[rows, columns]
        gy, gx = gy[: image.shape[0] - rows.start], gx[:, : image.shape[1] - columns.start]
        near = (gx - x) ** 2 + (gy - y) ** 2 <= radius**2
        values = image[rows, columns][near]
        first = [np.ptp(values), x, y, width, 0.0, width, values.min()]
        try:
            best, cov = curve_fit(gaussian, np.stack([gx[near], gy[near]]), values, first)
        except RuntimeError:  # too many steps
            continue
        position[n], covariance[n] = best[1:3], cov[1:3, 1:3]
    return position, covariance


if __name__ == "__main__":
    problem = np.load(sys.argv[1])
    result: dict[str, np.ndarray] = {"version": np.array(version("scipy"))}
    start, process = time.perf_counter(), time.process_time()
    for site in "AB":
        result[site], result[f"cov_{site}"] = fit(
            problem["image"], problem[f"start_{site}"], float(problem["cell"])
        )
    result["seconds_cpu"] = np.array(time.process_time() - process)
    result["seconds"] = np.array(time.perf_counter() - start)
    np.savez(sys.argv[2], **result)
