"""Images from one period: Fourier interpolation, source size, dose."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tiltsim.errors import SettingsError


def evaluate(
    period: NDArray[np.float64],
    box: tuple[float, float],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    source_fwhm: float = 0.0,
) -> NDArray[np.float64]:
    """Values at any coordinates of a periodic image sampled over one period.

    Parameters
    ----------
    period : ndarray, shape (..., ny, nx)
        Samples at ``k · box / n``; exact if sampled at its band limit.
    box : (float, float)
        Period along x and y, Å.
    x, y : ndarray, shape (nx_out,), (ny_out,)
        Coordinates, Å; they may exceed the period.
    source_fwhm : float
        Full width at half maximum of a Gaussian to convolve with, Å.

    Returns
    -------
    ndarray, shape (..., ny_out, nx_out)
    """
    ny, nx = period.shape[-2:]
    coefficients = np.fft.fft2(period) / (nx * ny)
    fx, fy = np.fft.fftfreq(nx, box[0] / nx), np.fft.fftfreq(ny, box[1] / ny)
    sigma = source_fwhm / np.sqrt(8.0 * np.log(2.0))
    along_x = np.exp(2j * np.pi * fx[:, None] * x) * np.exp(-2.0 * (np.pi * sigma * fx[:, None]) ** 2)
    along_y = np.exp(2j * np.pi * fy[:, None] * y) * np.exp(-2.0 * (np.pi * sigma * fy[:, None]) ** 2)
    for n, waves in ((nx, along_x), (ny, along_y)):
        if n % 2 == 0:  # the Nyquist term stands for ± its frequency
            waves[n // 2] = waves[n // 2].real
    return np.real(np.swapaxes(along_y, 0, 1) @ coefficients @ along_x)


def resample(period: NDArray[np.float32], ny: int, nx: int) -> NDArray[np.float32]:
    """The same periodic images on ``ny`` × ``nx`` samples, not fewer than they have; shape (..., ny, nx)."""
    if period.shape[-2:] == (ny, nx):
        return period
    y, x = np.arange(ny) / ny, np.arange(nx) / nx
    return evaluate(period.astype(np.float64), (1.0, 1.0), x, y).astype(np.float32)


def apply_dose(image: xr.DataArray, dose_per_A2: float, seed: int) -> xr.DataArray:
    """Poisson noise of a finite dose.

    Parameters
    ----------
    image : DataArray (..., y, x)
        Fraction of the incident beam; coordinates in Å.
    dose_per_A2 : float
        Incident electrons per Å²; ``inf`` returns the image unchanged.
    seed : int
        Of the random draw.

    Returns
    -------
    DataArray
        Detected fraction, with ``dose_per_A2`` and ``dose_seed`` in its attributes.
    """
    if not dose_per_A2 > 0:
        raise SettingsError(
            f"dose {dose_per_A2:g} e/Å² must be positive; 1e4 to 1e5 is usual, inf is noise-free."
        )
    if np.isinf(dose_per_A2):
        return image.copy()
    area = float(abs(image.x[1] - image.x[0]) * abs(image.y[1] - image.y[0]))
    electrons = dose_per_A2 * area
    counts = np.random.default_rng(seed).poisson(np.clip(np.nan_to_num(image.values), 0, None) * electrons)
    noisy = image.copy(
        data=np.where(np.isfinite(image.values), counts / electrons, np.nan).astype(np.float32)
    )
    noisy.attrs = {**image.attrs, "dose_per_A2": float(dose_per_A2), "dose_seed": seed}
    return noisy
