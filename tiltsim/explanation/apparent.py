"""What the fit of columns makes of a crystal: the apparent d of a model's image, measured as the micrograph was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

import analysis
from analysis import Lattice
from tiltsim.explanation.regions import Region
from tiltsim.images import resample

Floats = NDArray[np.float64]

#: Cells along each edge of the image that is measured: all of them show the same.
_CELLS = 6

#: Factor by which one period is refined before pixels are read from it.
_FINE = 8


def noise_of(regions: Sequence[Region]) -> tuple[float, float]:
    """Variance of a pixel, a + b · intensity, in units of the image's mean: from the scatter within bins."""
    variance = np.concatenate([(r.variance * r.pixels.sum(axis=0)).ravel() for r in regions])
    level = np.concatenate([r.mean.ravel() for r in regions])
    design = np.column_stack([np.ones_like(level), level]) / np.maximum(variance, 1e-12)[:, None]
    a, b = np.linalg.lstsq(design, np.ones_like(level), rcond=None)[0]
    return float(max(a, 0.0)), float(max(b, 1e-6))


def apparent_d(period: Floats, frame: Floats, pixel: float, noise: tuple[float, float]) -> Floats:
    """Apparent d of a uniform crystal, without noise.

    Parameters
    ----------
    period : ndarray (n, n)
        One cell, in units of the image's mean, an A column at the origin.
    frame : ndarray (2, 2)
        Columns: one cell along the lattice's x and y, Å, along the image's axes.
    pixel : float
        Å.
    noise : (float, float)
        See :func:`noise_of`: pixels are weighted as the micrograph's were.

    Returns
    -------
    ndarray (2,)
        pm, along the image's axes.
    """
    corners = frame @ np.array([[0.0, _CELLS, 0.0, _CELLS], [0.0, 0.0, _CELLS, _CELLS]])
    low, high = corners.min(axis=1), corners.max(axis=1)
    x, y = (np.arange(low[n], high[n], pixel) for n in (0, 1))
    across = np.stack(np.meshgrid(x, y), -1) @ np.linalg.inv(frame).T
    n = _FINE * period.shape[0] + 1
    fine = resample(period.astype(np.float32), n, n)
    picture = map_coordinates(
        fine, [across[..., 1] % 1.0 * n, across[..., 0] % 1.0 * n], order=3, mode="grid-wrap"
    )
    # Counts on a level of a / b have the variance b · (a / b + intensity); the fit has a background of its own.
    picture = picture + noise[0] / noise[1]
    image = xr.DataArray(
        picture, dims=("y", "x"),
        coords={"y": ("y", y - low[1], {"units": "Å"}), "x": ("x", x - low[0], {"units": "Å"})},
        attrs={"pixel_size_angstrom": pixel, "calibrated": 1},
    )  # fmt: skip
    lattice = Lattice(
        (float(-low[0]), float(-low[1])), tuple(frame[:, 0].tolist()), tuple(frame[:, 1].tolist()),
        analysis.MOTIFS["100"], "Å",
    )  # fmt: skip
    found = analysis.measure(image, lattice=lattice, weights="poisson").unit_cells
    d = found["d"].values[(found["flag"].values == 0) & np.isfinite(found["d"].values).all(axis=1)]
    return np.asarray(np.median(d, axis=0))
