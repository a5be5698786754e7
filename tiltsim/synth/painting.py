"""Paint a crystal: around every column the image that a uniform crystal of its kind would show there.

A cell's image depends on its surroundings only as far as the probe reaches. So the field is made of the library's
periodic images, one for each column with the column's own displacement, composition, tilt and thickness, which fade
into each other halfway between columns: Fourier coefficients that vary in space. docs/synthesis.md has what that costs at walls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiltsim.library import Library
from tiltsim.library.response import BLEND
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
        Full width at half maximum of a Gaussian source, Å, or a factor on the image's Fourier coefficients. Libraries keep
        what a source of 0.5 Å leaves; with a smaller one the finest details are incomplete.

    Returns
    -------
    ndarray, shape ``path.shape``, float32
        Fraction of the incident beam; NaN where there is no crystal.

    Raises
    ------
    SettingsError
        If tilt or thickness lie beyond the library.

    Notes
    -----
    Columns lie where ``crystal`` has them, however large d is. What the library gives is how the image around them depends on
    d; where d goes beyond ``library.d_limit``, that is taken at the limit.
    """
    filtered = gaussian_source(transfer) if isinstance(transfer, int | float) else transfer
    painted = np.zeros(path.shape, np.float32)
    share = np.zeros(path.shape, np.float32)
    back = np.linalg.inv(path.matrix)
    frequency = library.dataset.order_x.values / library.edges["BiFeO3"]
    # The library's frequencies lie along the lattice's axes, the microscope's faults along the image's.
    c, s = np.cos(crystal.angle), np.sin(crystal.angle)
    kx, ky = np.meshgrid(frequency, frequency)
    factor = np.asarray(filtered(c * kx - s * ky, s * kx + c * ky))
    for site in ("A", "B"):
        columns = _columns(crystal, site)
        where = (columns.shown - path.origin) @ back.T
        # From pixels to cells, around each column.
        to_cell = np.linalg.inv(columns.frame) @ path.matrix
        seen = _in_view(where, to_cell, path)
        where, to_cell = where[seen], to_cell[seen]
        scores = library.scores(
            "B" if site == "B" else "A",
            tilt=columns.tilt[seen],
            d=np.clip(columns.d[seen], -library.d_limit, library.d_limit),
            thickness=columns.thickness[seen],
            samarium=columns.samarium[seen],
            material=columns.material[seen],
        )
        modes = _tables(library, site, factor)
        _add(
            painted, share, where, to_cell, scores, modes, path.row_offset @ back.T, path.column_offset @ back.T, _SAMPLES
        )  # fmt: skip
    with np.errstate(invalid="ignore", divide="ignore"):
        return painted / share


@dataclass(frozen=True, eq=False)
class _Columns:
    """Columns of a site: where a tilted beam shows them (n, 2), Å, their lattice (n, 2, 2), and their state along it."""

    shown: Floats
    frame: Floats
    tilt: Floats
    d: Floats
    thickness: Floats
    samarium: Floats
    material: NDArray[np.int_]


def _columns(crystal: Crystal, site: str) -> _Columns:
    along_x, along_y = np.diff(crystal.a, axis=1), np.diff(crystal.a, axis=0)
    edges = (along_x[:-1] + along_x[1:]) / 2, (along_y[:, :-1] + along_y[:, 1:]) / 2
    if site == "B":
        shown, lattice = crystal.shown_b, edges
        tilt, thickness, d = crystal.tilt, crystal.thickness, crystal.d
        samarium, material = around(crystal.samarium), crystal.material
    else:
        shown, lattice = crystal.shown_a, (at_corners(edges[0]), at_corners(edges[1]))
        tilt, thickness, d = (at_corners(v) for v in (crystal.tilt, crystal.thickness, crystal.d))
        samarium, material = crystal.samarium, crystal.material_a
    # Columns of each matrix: one cell to the right, one down.
    frame = np.stack(lattice, axis=-1)
    # The library's crystal is upright: displacement and tilt as seen along the lattice's own axes.
    angle = np.arctan2(frame[..., 1, 0] - frame[..., 0, 1], frame[..., 0, 0] + frame[..., 1, 1])
    return _Columns(
        shown.reshape(-1, 2),
        frame.reshape(-1, 2, 2),
        _turned_back(tilt, angle).reshape(-1, 2),
        _turned_back(d, angle).reshape(-1, 2),
        thickness.ravel(),
        samarium.ravel(),
        material.ravel(),
    )


def _in_view(where: Floats, to_cell: Floats, path: ScanPath) -> NDArray[np.bool_]:
    """Which columns at ``where``, pixels, have surroundings that the scan may reach."""
    offset = np.abs(path.row_offset).max() + np.abs(path.column_offset).max()
    reach = np.abs(np.linalg.inv(to_cell)).max(axis=(1, 2)) + 2.0 * offset / path.pixel
    size = np.array(path.shape[::-1])
    return np.asarray(((where > -reach[:, None]) & (where < size + reach[:, None])).all(axis=1))


def _turned_back(vector: Floats, angle: Floats) -> Floats:
    """Components of ``vector`` (…, 2) along axes turned by ``angle`` (…), rad, from x towards y."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack(
        [c * vector[..., 0] + s * vector[..., 1], c * vector[..., 1] - s * vector[..., 0]], axis=-1
    )


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
    scores: NDArray[np.float32], modes: NDArray[np.float32], rows: Floats, columns: Floats, samples: int,
) -> None:  # fmt: skip
    """Add the surroundings of every column, weighted, to ``painted``, and the weights to ``share``.

    ``where`` (n, 2) and the offsets ``rows`` and ``columns`` are in pixels (x, y); ``to_cell`` (n, 2, 2) turns pixels into
    cells; ``scores`` (n, modes) make each column's table from those of the ``modes``.
    """
    height, width = painted.shape
    mask = samples - 1
    farthest = 0.5 + BLEND / 2  # |u + v| and |u − v| of what a column is seen in, cells
    table = np.empty(samples * samples, np.float32)
    wx, wy = np.empty(4, np.float32), np.empty(4, np.float32)
    slack_x, slack_down = np.abs(columns[:, 0]).max(), np.abs(columns[:, 1]).max()
    slack_y, slack_row = np.abs(rows[:, 1]).max() + slack_down, np.abs(rows[:, 0]).max()
    for n in range(where.shape[0]):
        m = to_cell[n]
        determinant = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
        # Rows of pixels that hold them.
        reach = farthest * max(abs(m[1, 0]), abs(m[0, 0])) / abs(determinant) + slack_y
        top, bottom = max(0, int(np.ceil(where[n, 1] - reach))), min(height - 1, int(where[n, 1] + reach))
        across = farthest * max(abs(m[1, 1]), abs(m[0, 1])) / abs(determinant) + slack_x + slack_row
        if top > bottom or where[n, 0] + across < 0 or where[n, 0] - across > width - 1:
            continue
        table[:] = 0.0
        for k in range(modes.shape[0]):  # not by BLAS, whose sums may depend on its threads
            amount, mode = scores[n, k], modes[k]
            for place in range(table.size):
                table[place] += amount * mode[place]
        for i in range(top, bottom + 1):
            y = i + rows[i, 1] - where[n, 1]
            begin, end = -across, across
            for sign in (-1.0, 1.0):  # |u + v| and |u − v| stay below it between two places along the row
                along, offset = m[0, 0] + sign * m[1, 0], (m[0, 1] + sign * m[1, 1]) * y
                spare = abs(m[0, 1] + sign * m[1, 1]) * slack_down
                if abs(along) > 1e-9:
                    half, centre = (farthest + spare) / abs(along), -offset / along
                    begin, end = max(begin, centre - half), min(end, centre + half)
            base = where[n, 0] - rows[i, 0]
            for j in range(
                max(0, int(np.ceil(base + begin - slack_x))), min(width - 1, int(base + end + slack_x)) + 1
            ):
                x, down = j + columns[j, 0] - base, y + columns[j, 1]
                u = m[0, 0] * x + m[0, 1] * down
                v = m[1, 0] * x + m[1, 1] * down
                p = np.float32(0.5 + (0.5 - abs(u + v)) / BLEND)
                q = np.float32(0.5 + (0.5 - abs(u - v)) / BLEND)
                if p <= 0.0 or q <= 0.0:
                    continue
                p, q = min(p, np.float32(1.0)), min(q, np.float32(1.0))
                three, two = np.float32(3.0), np.float32(2.0)
                weight = p * p * (three - two * p) * q * q * (three - two * q)
                su, sv = u * samples, v * samples
                fu, fv = int(np.floor(su)), int(np.floor(sv))
                _cubic(np.float32(su - fu), wx)
                _cubic(np.float32(sv - fv), wy)
                i0, i1, i2, i3 = (fu - 1) & mask, fu & mask, (fu + 1) & mask, (fu + 2) & mask
                value = np.float32(0.0)
                for k in range(4):
                    line = ((fv + k - 1) & mask) * samples
                    value += wy[k] * (
                        wx[0] * table[line + i0] + wx[1] * table[line + i1]
                        + wx[2] * table[line + i2] + wx[3] * table[line + i3]
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
