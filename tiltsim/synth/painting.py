"""Paint a crystal: around every column the image that a uniform crystal of its kind would show there.

A cell's image depends on its surroundings only as far as the probe reaches. So the field is made of the library's
periodic images, one for each column with the column's own displacement, composition, tilt and thickness, which fade
into each other halfway between columns: Fourier coefficients that vary in space. docs/synthesis.md has what that costs at walls.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiltsim.library import Library
from tiltsim.synth.crystal import Crystal, around, at_corners
from tiltsim.synth.path import ScanPath

Floats = NDArray[np.float64]

#: Factor on Fourier coefficients at spatial frequencies (kx, ky), 1/Å: what the probe and its source do.
Transfer = Callable[[Floats, Floats], NDArray[np.complex128]]

#: Samples of a table along one cell, a power of two: cubic splines on 0.12 Å are exact to 1e-4 for images blurred by 0.5 Å.
_SAMPLES = 32


def gaussian_source(fwhm: float) -> Transfer:
    """The blur of a Gaussian source, full width at half maximum in Å."""
    variance = fwhm**2 / (8.0 * np.log(2.0))
    return lambda kx, ky: np.exp(-2.0 * np.pi**2 * variance * (kx**2 + ky**2)) + 0j


def paint(
    crystal: Crystal, library: Library, path: ScanPath, transfer: float | Transfer = 0.8
) -> NDArray[np.float32]:
    """Noise-free image of ``crystal``.

    Parameters
    ----------
    crystal : Crystal
        It must cover the scanned area.
    library : Library
    path : ScanPath
        Where the beam stands at every pixel.
    transfer : float or callable
        Full width at half maximum of a Gaussian source, Å, or a factor on the image's Fourier coefficients.

    Returns
    -------
    ndarray, shape ``path.shape``, float32
        Fraction of the incident beam; NaN where there is no crystal.

    Raises
    ------
    SettingsError
        If tilt, thickness or displacement lie beyond the library.
    """
    filtered = gaussian_source(transfer) if isinstance(transfer, int | float) else transfer
    painted = np.zeros(path.shape, np.float32)
    share = np.zeros(path.shape, np.float32)
    back = np.linalg.inv(path.matrix)
    frequency = library.dataset.order_x.values / library.edges["BiFeO3"]
    factor = np.asarray(filtered(*np.meshgrid(frequency, frequency)))
    for site in ("A", "B"):
        place, frame, scores = _columns(crystal, library, site)
        tables = scores @ _tables(library, site, factor)
        # From pixels to cells, around each column.
        to_cell = np.linalg.inv(frame) @ path.matrix
        where = (place - path.origin) @ back.T
        _add(
            painted, share, where, to_cell, tables, path.row_offset @ back.T, path.column_offset @ back.T, _SAMPLES
        )  # fmt: skip
    with np.errstate(invalid="ignore", divide="ignore"):
        return painted / share


def _columns(crystal: Crystal, library: Library, site: str) -> tuple[Floats, Floats, NDArray[np.float32]]:
    """Where the beam shows the columns of a site (n, 2), Å, their lattice (n, 2, 2), and their scores (n, modes)."""
    along_x, along_y = np.diff(crystal.a, axis=1), np.diff(crystal.a, axis=0)
    edges = (along_x[:-1] + along_x[1:]) / 2, (along_y[:, :-1] + along_y[:, 1:]) / 2
    if site == "B":
        place, lattice = crystal.b, edges
        tilt, thickness, height, d = crystal.tilt, crystal.thickness, crystal.height, crystal.d
        samarium, material = around(crystal.samarium), crystal.material
    else:
        place, lattice = crystal.a, (at_corners(edges[0]), at_corners(edges[1]))
        tilt, thickness, height, d = (
            at_corners(v) for v in (crystal.tilt, crystal.thickness, crystal.height, crystal.d)
        )
        samarium, material = crystal.samarium, crystal.material_a
    scores = library.scores(
        "B" if site == "B" else "A", tilt=tilt, thickness=thickness, d=d, samarium=samarium, material=material
    )
    # A surface that lies deeper is reached by a tilted beam further on: its columns appear further back.
    shown = place - np.tan(tilt * 1e-3) * height[..., None]
    # Columns of each matrix: one cell to the right, one down.
    frame = np.stack(lattice, axis=-1)
    return shown.reshape(-1, 2), frame.reshape(-1, 2, 2), scores.reshape(-1, scores.shape[-1])


def _tables(library: Library, site: str, factor: NDArray[np.complex128]) -> NDArray[np.float32]:
    """Spline coefficients of every mode over one cell, shape (modes, samples²), column at the first sample.

    ``factor`` (order_y, order_x) is what the probe and its source do to Fourier coefficients.
    """
    c = library.coefficients["AB".index(site)]
    orders = library.dataset.order_x.values
    # A cubic spline's samples are 1/6, 4/6, 1/6 of its coefficients.
    spline = (2.0 + np.cos(2.0 * np.pi * orders / _SAMPLES)) / 3.0
    wide = np.zeros((len(c), _SAMPLES, _SAMPLES), dtype=complex)
    wide[:, orders[:, None] % _SAMPLES, orders % _SAMPLES] = c * factor / (spline[:, None] * spline)
    return np.fft.ifft2(wide, norm="forward").real.reshape(len(c), -1).astype(np.float32)


@njit(cache=True, nogil=True)
def _add(
    painted: NDArray[np.float32], share: NDArray[np.float32], where: Floats, to_cell: Floats,
    tables: NDArray[np.float32], rows: Floats, columns: Floats, samples: int,
) -> None:  # fmt: skip
    """Add the surroundings of every column, weighted, to ``painted``, and the weights to ``share``.

    ``where`` (n, 2) and the offsets ``rows`` and ``columns`` are in pixels (x, y), ``to_cell`` (n, 2, 2) turns pixels into cells.
    """
    height, width = painted.shape
    mask = samples - 1
    wx, wy = np.empty(4, np.float32), np.empty(4, np.float32)
    ix, iy = np.empty(4, np.int64), np.empty(4, np.int64)
    slack_x = np.abs(rows[:, 0]).max() + np.abs(columns[:, 0]).max()
    slack_y = np.abs(rows[:, 1]).max() + np.abs(columns[:, 1]).max()
    for n in range(where.shape[0]):
        m = to_cell[n]
        determinant = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
        # The surroundings are |u| + |v| < 1 in cells; this box in pixels holds them.
        reach_x = max(abs(m[1, 1]), abs(m[0, 1])) / abs(determinant) + slack_x
        reach_y = max(abs(m[1, 0]), abs(m[0, 0])) / abs(determinant) + slack_y
        top, bottom = max(0, int(np.ceil(where[n, 1] - reach_y))), min(height - 1, int(where[n, 1] + reach_y))
        left, right = max(0, int(np.ceil(where[n, 0] - reach_x))), min(width - 1, int(where[n, 0] + reach_x))
        if top > bottom or left > right:
            continue
        table = tables[n]
        for i in range(top, bottom + 1):
            for j in range(left, right + 1):
                x = j + rows[i, 0] + columns[j, 0] - where[n, 0]
                y = i + rows[i, 1] + columns[j, 1] - where[n, 1]
                u = m[0, 0] * x + m[0, 1] * y
                v = m[1, 0] * x + m[1, 1] * y
                p, q = 1.0 - abs(u + v), 1.0 - abs(u - v)
                if p <= 0.0 or q <= 0.0:
                    continue
                weight = np.float32(p * p * (3.0 - 2.0 * p) * q * q * (3.0 - 2.0 * q))
                su, sv = u * samples, v * samples
                fu, fv = int(np.floor(su)), int(np.floor(sv))
                t, s = np.float32(su - fu), np.float32(sv - fv)
                _cubic(t, wx)
                _cubic(s, wy)
                for k in range(4):
                    ix[k] = (fu + k - 1) & mask
                    iy[k] = ((fv + k - 1) & mask) * samples
                value = np.float32(0.0)
                for k in range(4):
                    base = iy[k]
                    value += wy[k] * (
                        wx[0] * table[base + ix[0]] + wx[1] * table[base + ix[1]]
                        + wx[2] * table[base + ix[2]] + wx[3] * table[base + ix[3]]
                    )  # fmt: skip
                painted[i, j] += weight * value
                share[i, j] += weight


@njit(cache=True, nogil=True)
def _cubic(t: np.float32, weights: NDArray[np.float32]) -> None:
    """Weights of four neighbouring spline coefficients at ``t`` between the middle two."""
    s = np.float32(1.0) - t
    sixth = np.float32(1.0 / 6.0)
    weights[0] = s * s * s * sixth
    weights[1] = (np.float32(4.0) - np.float32(6.0) * t * t + np.float32(3.0) * t * t * t) * sixth
    weights[2] = (np.float32(4.0) - np.float32(6.0) * s * s + np.float32(3.0) * s * s * s) * sixth
    weights[3] = t * t * t * sixth
