"""Where the images of a library are centred, and the blur that its modes are found under."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tiltsim.library.request import EDGES

Floats = NDArray[np.float64]

#: Columns that responses are centred on: interpolation in d is smooth only where the column itself stands still.
SITES = ("A", "B")

#: A blur that every source exceeds, Å: without one, half the modes would hold the speckle of phonons at the finest spacings.
LEAST_SOURCE = 0.5


def around(site: str, images: Floats, d: tuple[float, float]) -> Floats:
    """Images (…, y, x) around an A column of crystals with ``d``, in cells, moved so that the origin is on the ``site``'s column."""
    if site == "A":
        return images
    n = images.shape[-1]
    k = np.fft.fftfreq(n, 1.0 / n)
    wave = np.exp(2j * np.pi * (k[:, None] * (0.5 - d[1]) + k * (0.5 - d[0])))
    return np.asarray(np.fft.ifft2(np.fft.fft2(images) * wave).real)


def filtered(images: Floats, power: float, source: float = LEAST_SOURCE) -> Floats:
    """Images (…, y, x) over one cell blurred by a source, Å, or with power −1 sharpened again."""
    n = images.shape[-1]
    sigma = source / np.sqrt(8.0 * np.log(2.0)) / EDGES["BiFeO3"]
    k = np.fft.fftfreq(n, 1.0 / n)
    gain = np.exp(-2.0 * power * (np.pi * sigma) ** 2 * (k[:, None] ** 2 + k**2))
    return np.fft.ifft2(np.fft.fft2(images) * gain).real
