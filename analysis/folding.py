"""Fold an image into its average cell and decide what is A, what is B, and which zone axis it is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .errors import ImageError
from .lattice import B_FRACTIONS, Lattice, busiest_patch, flattened, reduced

Floats = NDArray[np.float64]

_BINS = 16  # bins along each cell vector: a third of an Å or less
_CELLS = 14  # cells across the folded patch: more would blur where the lattice is distorted
_SIGNIFICANT = 5.0  # standard errors that a second kind of column must stand out by
_FAINTEST = 0.01  # of the A column: below this a maximum is a ripple, not a column
_ZONES = ("100", "110")


@dataclass(frozen=True)
class _Folded:
    """Average over 2 × 2 cells: values and their standard error, both (2 bins, 2 bins), first axis along u."""

    values: Floats
    error: Floats


def find_sublattices(values: Floats, periods: Floats, zone: str = "auto") -> Lattice:
    """A-site lattice and place of the B column, from the image's shortest periods.

    Parameters
    ----------
    values : (ny, nx) array
        NaN marks pixels without data.
    periods : (2, 2) array
        Rows are two periods of the image, px; half or double the A lattice will do.
    zone : {"auto", "100", "110"}

    Returns
    -------
    Lattice
        In px. The A column is the brighter one.

    Raises
    ------
    ImageError
        Only one kind of column is seen, or B is not where `zone` wants it.
    """
    zones = _ZONES if zone == "auto" else (zone,)
    vectors = reduced(periods)
    cell = float(np.sqrt(abs(np.linalg.det(vectors))))
    flat = flattened(values, 1.5 * cell)
    rows, columns = busiest_patch(flat, int(np.ceil(_CELLS * cell)))
    corner = np.array([columns.start or 0, rows.start or 0], float)
    patch = flat[rows, columns]

    for _ in range(3):
        folded = _fold(patch, vectors)
        mean = _mean_cell(folded.values)
        peaks = _peaks(mean)
        if len(peaks) < 3:
            break
        # Three or more columns a cell: a superstructure, whose average over the small cell is wanted.
        vectors = reduced(_halved(mean, vectors))
    top = np.array(peaks[0])
    fraction = _second(folded, mean, top, zones)
    if fraction is None:
        vectors, top, fraction = _doubled(folded, vectors, top, zone, zones)
        folded = _fold(patch, vectors)
        top = np.array(_peaks(_mean_cell(folded.values))[0])
    found = next(name for name in _ZONES if fraction in B_FRACTIONS[name])
    start = top / _BINS @ vectors
    # The origin nearest the patch's middle: there a small error of the vectors matters least.
    middle = 0.5 * np.array(patch.shape[::-1])
    origin = start + np.rint((middle - start) @ np.linalg.inv(vectors)) @ vectors + corner
    return Lattice(
        (float(origin[0]), float(origin[1])), (float(vectors[0, 0]), float(vectors[0, 1])),
        (float(vectors[1, 0]), float(vectors[1, 1])), fraction, found,
    )  # fmt: skip


def _fold(patch: Floats, vectors: Floats) -> _Folded:
    rows, columns = np.nonzero(np.isfinite(patch))
    inverse = np.linalg.inv(vectors)
    n = 2 * _BINS
    fractional = np.stack([columns, rows], 1) @ inverse
    index = np.rint(fractional * _BINS).astype(int) % n
    flat = index[:, 0] * n + index[:, 1]
    data = patch[rows, columns]
    count = np.bincount(flat, minlength=n * n).reshape(n, n)
    total = np.bincount(flat, data, n * n).reshape(n, n)
    square = np.bincount(flat, data**2, n * n).reshape(n, n)
    smooth = [
        ndimage.gaussian_filter(part.astype(float), 1.0, mode="wrap") for part in (count, total, square)
    ]
    count_s = np.maximum(smooth[0], 1e-9)
    mean = smooth[1] / count_s
    variance = np.maximum(smooth[2] / count_s - mean**2, 0.0)
    # A Gaussian of one bin averages over 4π bins.
    return _Folded(mean, np.sqrt(variance / np.maximum(4 * np.pi * count_s, 1.0)))


def _mean_cell(double: Floats) -> Floats:
    return double.reshape(2, _BINS, 2, _BINS).mean((0, 2))


def _peaks(cell: Floats) -> list[tuple[int, int]]:
    """Maxima of a periodic cell above a quarter of its range, brightest first."""
    top = cell == ndimage.maximum_filter(cell, 3, mode="wrap")
    top &= cell > cell.min() + 0.25 * np.ptp(cell)
    rows, columns = np.nonzero(top)
    order = np.argsort(-cell[rows, columns])
    chosen: list[tuple[int, int]] = []
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if all(max(_apart(i, m), _apart(j, n)) > _BINS // 8 for m, n in chosen):
            chosen.append((i, j))
    return chosen


def _apart(i: int, j: int) -> int:
    return min((i - j) % _BINS, (j - i) % _BINS)


def _halved(cell: Floats, vectors: Floats) -> Floats:
    """The index-2 finer lattice whose extra translation changes the cell least."""
    half = _BINS // 2
    centred = cell - cell.mean()
    shifts = {(1, 0): (half, 0), (0, 1): (0, half), (1, 1): (half, half)}
    best = max(shifts, key=lambda s: float((centred * np.roll(centred, shifts[s], (0, 1))).sum()))
    u, v = vectors
    return {(1, 0): np.array([u / 2, v]), (0, 1): np.array([u, v / 2]), (1, 1): np.array([(u + v) / 2, v])}[
        best
    ]


def _second(
    folded: _Folded, mean: Floats, top: NDArray[np.int64], zones: tuple[str, ...]
) -> tuple[float, float] | None:
    """Where in the cell a second, fainter column stands, if anywhere."""
    height = float(mean[tuple(top)] - mean.min())
    error = float(np.median(folded.error)) / 2  # the mean cell averages four
    reach = _BINS // 5  # ± 0.19 cell: a polar displacement moves B by up to 0.1
    best: tuple[float, tuple[float, float] | None] = (0.0, None)
    centred = np.roll(mean, (-top).tolist(), (0, 1))
    for fraction in (f for name in zones for f in B_FRACTIONS[name]):
        middle = [round(f * _BINS) for f in fraction]
        around = np.roll(centred, (reach - middle[0], reach - middle[1]), (0, 1))[
            : 2 * reach + 1, : 2 * reach + 1
        ]
        inner = np.unravel_index(np.argmax(around), around.shape)
        if not all(0 < n < 2 * reach for n in inner):
            continue  # a slope of the A column, not a maximum of its own
        ring = np.concatenate([around[0], around[-1], around[:, 0], around[:, -1]])
        # A saddle towards A is allowed to be high, the average ring is not.
        rise = float(around[inner] - np.median(ring))
        if rise > max(_FAINTEST * height, _SIGNIFICANT * error) and around[inner] > best[0] + mean.min():
            best = (float(around[inner] - mean.min()), fraction)
    return best[1]


def _doubled(
    folded: _Folded, vectors: Floats, top: NDArray[np.int64], zone: str, zones: tuple[str, ...]
) -> tuple[Floats, NDArray[np.int64], tuple[float, float]]:
    """The index-2 coarser lattice on which bright and less bright columns alternate."""
    site = {
        (m, n): (folded.values[at], folded.error[at])
        for m, n in product((0, 1), repeat=2)
        for at in [((top[0] + m * _BINS) % (2 * _BINS), (top[1] + n * _BINS) % (2 * _BINS))]
    }
    total = sum(value for value, _ in site.values()) - 4 * float(folded.values.min())
    error = float(np.sqrt(sum(e**2 for _, e in site.values())))
    u, v = vectors
    options = {
        (1, 0): (np.array([2 * u, v]), "110"), (0, 1): (np.array([u, 2 * v]), "110"),
        (1, 1): (np.array([u + v, u - v]), "100"),
    }  # fmt: skip
    contrast = {
        key: abs(sum(value * (-1) ** (m * key[0] + n * key[1]) for (m, n), (value, _) in site.items()))
        for key, (_, name) in options.items()
        if name in zones
    }
    key = max(contrast, key=lambda k: float(contrast[k]))
    if contrast[key] < max(_SIGNIFICANT * error, 0.015 * total):
        wanted = "" if zone == "auto" else f" where zone='{zone}' has B"
        raise ImageError(
            f"image: only one sublattice is seen{wanted} (one kind of column, {np.hypot(*u):.1f} × {np.hypot(*v):.1f} px, "
            "alternating brightness "
            f"{100 * contrast[key] / total:.1f} %); A and B columns must both be visible and differ in brightness."
        )
    basis = reduced(options[key][0])
    fraction = np.linalg.solve(basis.T, v if key == (0, 1) else u) % 1
    rounded = np.rint(2 * fraction) / 2 % 1
    return basis, top, (float(rounded[0]), float(rounded[1]))
