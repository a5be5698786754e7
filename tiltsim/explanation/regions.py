"""The evidence of an image: every domain's averaged cell, kept in blocks so that its errors can be seen rather than assumed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, map_coordinates

from analysis import Measurement
from tiltsim.errors import SettingsError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Bins along a cell's edge: 0.12 Å.
BINS = 32

#: Blocks that each region's cells are parted into, about, and most bands of its scan lines.
BLOCKS, BANDS = 30, 48

#: The lattice that cells are folded by is that of the fitted A columns, smoothed over so many cells: their errors, and what is random
#: from cell to cell, must not sharpen or blur the average.
_SMOOTH = 1.5

#: Rounds of the search for the cell that a pixel lies in.
_ROUNDS = 3

#: Smoothing of the variance of pixels within bins, bins.
_BLUR = 1.5

#: Fewest cells of a region that is looked at.
FEWEST = 6


@dataclass(frozen=True, eq=False)
class Region:
    """The averaged cell of one domain, or of the reference.

    Parameters
    ----------
    name : str
        "variant 1" (largest first) or "reference".
    material : str
        Of the library's.
    counts, pixels : ndarray, shape (block, n, n)
        Sum of the image, in units of its mean, and number of pixels, in bins k / n of a cell (y, x), an A column at 0.
    band_counts, band_pixels : ndarray, shape (band, n, n)
        The same by bands of scan lines (along x), about a cell high: what lines share, bands do not.
    offset : ndarray, shape (2, n, n)
        Mean place (x, y) of a bin's pixels relative to its middle, cells.
    variance : ndarray, shape (n, n)
        Of the mean of each bin, from the scatter of its pixels.
    frame : ndarray, shape (2, 2)
        Columns: one cell along the lattice's x and y, Å, along the image's axes.
    cells : int
        That are averaged.
    rows : ndarray of int
        Rows of all cells of this domain in the table, walls included.
    places : ndarray, shape (block, 2)
        Middle (x, y) of every block, Å.
    apparent, apparent_cov : ndarray, shapes (2,), (2, 2)
        Mean of the fitted d of the cells that are averaged, pm, along the image's axes, and its covariance from bands.
    """

    name: str
    material: str
    counts: Floats
    pixels: Floats
    band_counts: Floats
    band_pixels: Floats
    offset: Floats
    variance: Floats
    frame: Floats
    cells: int
    rows: Indices
    places: Floats
    apparent: Floats
    apparent_cov: Floats

    @property
    def mean(self) -> Floats:
        """(n, n) The averaged cell; 0 where no pixel fell."""
        return np.asarray(self.counts.sum(axis=0) / np.maximum(self.pixels.sum(axis=0), 1.0))

    def scatter(self) -> Floats:
        """(band, n · n) What each band of scan lines adds to :attr:`mean` beyond its share, less what changes evenly along y.

        The sum of outer products estimates the covariance of the mean, whatever its noise. A tilt or thickness that changes along the
        image is no noise of the mean.
        """
        number = self.band_pixels.sum(axis=0)
        part = (self.band_counts - self.band_pixels * self.mean) / np.maximum(number, 1.0)
        part = part.reshape(len(part), -1)
        count = len(part)
        if count < 4:
            return np.asarray(part * np.sqrt(count / max(count - 1, 1)))
        weight = np.sqrt(self.band_pixels.sum(axis=(1, 2)))
        along = np.arange(count) - (weight**2 @ np.arange(count)) / (weight**2).sum()
        line = weight * along
        # Each band's share is its deviation times its size: deviations follow the line, shares it times the size.
        slope = (along @ part) / max(float(line @ line), 1e-300)
        part = part - (weight**2 * along)[:, None] * slope
        return np.asarray(part * np.sqrt(count / (count - 2)))

    @property
    def weight(self) -> Floats:
        """(n, n) Inverse variance of :attr:`mean`; 0 where no pixel fell."""
        seen = self.pixels.sum(axis=0) > 1
        return np.asarray(np.where(seen, 1.0 / np.maximum(self.variance, 1e-30), 0.0))

    @property
    def edges(self) -> Floats:
        """(2,) Lengths of a cell along the lattice's x and y, Å."""
        return np.hypot(*self.frame)

    def turn(self) -> Floats:
        """(2, 2) Takes tilts along the lattice's axes to the image's."""
        m = self.frame / self.edges
        angle = np.arctan2(m[1, 0] - m[0, 1], m[0, 0] + m[1, 1])
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[c, -s], [s, c]])

    def stretch(self) -> Floats:
        """(2, 2) Takes d along the lattice's axes, which a sheared scan does not show at right angles, to the image's."""
        return self.frame / self.edges


def gather(
    measurement: Measurement,
    labels: NDArray[np.int_],
    *,
    reference: int | None = None,
    film: str = "BiFeO3",
    substrate: str = "SrTiO3",
) -> list[Region]:
    """Average the cells of every label.

    Parameters
    ----------
    measurement : Measurement
        Of a perovskite seen along [100].
    labels : ndarray of int (cell,)
        Domain of each cell of ``measurement.unit_cells``, 0 the first; -1 for none.
    reference : int, optional
        Label of the region without polarization.
    film, substrate : str
        Materials of the library.

    Returns
    -------
    list of Region
        Of labels with enough cells, in their order.

    Raises
    ------
    SettingsError
        If the image does not show [100].
    """
    lattice = measurement.lattice
    if lattice.zone != "100":
        raise SettingsError(
            f"image: shows zone {lattice.zone}; only ⟨100⟩ images have a response library so far."
        )
    cells = measurement.unit_cells
    values = np.asarray(measurement.image.values, dtype=float)
    values = values - float(measurement.image.attrs.get("black_level", 0.0))
    at = np.stack([cells["a"].values, cells["b"].values], -1).astype(np.int64)
    origin = at.min(axis=0)
    at = at - origin
    inner = _inner_labels(at, labels)
    usable = np.isfinite(cells["d"].values).all(axis=1) & (cells["flag"].values == 0)
    chosen = []
    for label in range(int(labels.max(initial=-1)) + 1):
        averaged = usable & (inner[at[:, 0], at[:, 1]] == label)
        if averaged.sum() >= FEWEST:
            chosen.append((label, averaged, _unfolded(measurement, values, at, averaged, origin)))
    level = float(np.mean([one[2][0].mean() for one in chosen])) if chosen else 1.0
    if not level > 0:
        raise SettingsError(
            "image: its mean is not positive; give an image whose background is not taken off."
        )
    found: list[Region] = []
    for label, averaged, (light, fraction, cell, line) in chosen:
        number = len([r for r in found if r.name != "reference"]) + 1
        found.append(
            _region(
                "reference" if label == reference else f"variant {number}",
                substrate if label == reference else film,
                light / level, fraction, cell, line, measurement, averaged, np.flatnonzero(labels == label), at,
            )
        )  # fmt: skip
    return found


def _unfolded(
    measurement: Measurement, values: Floats, at: Indices, averaged: NDArray[np.bool_], origin: Indices
) -> tuple[Floats, Floats, Indices, Floats]:
    """Pixels of the ``averaged`` cells: values (n,), places in their cell (n, 2), cells (n, 2) and y (n,), Å.

    Each region has a lattice of its own: smoothed across an interface, it would fall between both.
    """
    columns = measurement.columns
    wanted = np.zeros(at.max(axis=0) + 1, dtype=bool)
    wanted[tuple(at[averaged].T)] = True
    corners = binary_dilation(np.pad(wanted, ((0, 1), (0, 1))), [[1, 1], [1, 1]], origin=(-1, -1))
    index = np.stack([columns["a"].values, columns["b"].values], -1).astype(np.int64) - origin
    good = (columns["site"].values == "A") & (columns["flag"].values == 0)
    good &= ((index >= 0) & (index < corners.shape)).all(axis=1)
    good[good] = corners[tuple(index[good].T)]
    index = index[good]
    xy = np.stack([columns["x"].values, columns["y"].values], -1)[good]
    straight = np.linalg.lstsq(np.column_stack([np.ones(len(index)), index]), xy, rcond=None)[0]
    there, field = np.zeros(corners.shape), np.zeros((*corners.shape, 2))
    there[tuple(index.T)] = 1.0
    field[tuple(index.T)] = xy - straight[0] - index @ straight[1:]
    share = np.maximum(gaussian_filter(there, _SMOOTH, mode="constant"), 1e-6)
    smooth = [gaussian_filter(field[..., n], _SMOOTH, mode="constant") / share for n in (0, 1)]
    image = measurement.image
    x, y = np.meshgrid(image.x.values, image.y.values)
    flat = np.column_stack([x[np.isfinite(values)], y[np.isfinite(values)]]) - straight[0]
    light = values[np.isfinite(values)]
    inverse = np.linalg.inv(straight[1:])
    place = flat @ inverse
    # Only pixels that may be in one of the cells.
    near = binary_dilation(np.pad(wanted, 1), np.ones((3, 3)))
    cell = np.clip(np.floor(place).astype(np.int64) + 1, 0, np.array(near.shape) - 1)
    close = near[tuple(cell.T)]
    flat, light, place, line = flat[close], light[close], place[close], y[np.isfinite(values)][close]
    for _ in range(_ROUNDS):
        moved = [map_coordinates(s, place.T, order=1, mode="nearest") for s in smooth]
        place = (flat - np.stack(moved, -1)) @ inverse
    cell = np.floor(place).astype(np.int64)
    inside = np.asarray(((cell >= 0) & (cell < wanted.shape)).all(axis=1))
    inside[inside] = wanted[tuple(cell[inside].T)]
    return light[inside], (place - cell)[inside], cell[inside], line[inside]


def _inner_labels(at: Indices, labels: NDArray[np.int_]) -> Indices:
    """Label of every cell on the lattice whose surrounding cells all have it too or none; -1 elsewhere."""
    grid = np.full(at.max(axis=0) + 1, -1)
    grid[tuple(at.T)] = labels
    inner = np.full(grid.shape, -1)
    for label in range(int(labels.max(initial=-1)) + 1):
        other = (grid >= 0) & (grid != label)
        inner[(grid == label) & ~binary_dilation(other, np.ones((3, 3)))] = label
    return inner


def _region(
    name: str, material: str, values: Floats, fraction: Floats, cell: Indices, line: Floats, measurement: Measurement,
    averaged: NDArray[np.bool_], rows: Indices, at: Indices,
) -> Region:  # fmt: skip
    count = int(averaged.sum())
    size = max(1, int(np.ceil(np.sqrt(count / BLOCKS))))
    keys = np.unique(at[averaged] // size, axis=0, return_inverse=True)[1]
    table = np.full(at.max(axis=0) + 1, -1)
    table[tuple(at[averaged].T)] = keys.ravel()
    block = table[tuple(cell.T)]
    place = fraction * BINS
    whole = np.round(place)
    index = (whole[:, 1].astype(int) % BINS) * BINS + whole[:, 0].astype(int) % BINS
    blocks = int(keys.max()) + 1

    frame = np.column_stack(
        [
            np.nanmean(measurement.unit_cells[name].values[averaged], axis=0)
            for name in ("vector_a", "vector_b")
        ]
    )
    low, high = line.min(), line.max() + 1e-9
    bands = int(np.clip((high - low) / np.hypot(*frame).mean(), 1, BANDS))
    b = np.stack([measurement.unit_cells[n].values[averaged] for n in ("x", "y")], -1)

    def band_of(y: Floats) -> Indices:
        return np.clip(((y - low) / (high - low) * bands).astype(np.int64), 0, bands - 1)

    def gathered(weights: Floats | None = None, group: Indices | None = None, groups: int = 1) -> Floats:
        where = index if group is None else group * BINS**2 + index
        total = np.bincount(where, weights, groups * BINS**2).astype(float)
        return total.reshape((BINS, BINS) if group is None else (groups, BINS, BINS))

    number = gathered()
    apart = (place - whole) / BINS
    offset = np.stack([gathered(apart[:, n]) for n in (0, 1)]) / np.maximum(number, 1.0)
    mean = gathered(values) / np.maximum(number, 1.0)
    # Scatter within a bin is noise, once what the cell changes across it is taken off.
    smooth = gaussian_filter(mean, 1.0, mode="wrap")
    slope_y, slope_x = ((np.roll(smooth, -1, n) - np.roll(smooth, 1, n)).ravel() * (BINS / 2) for n in (0, 1))
    across = (apart - offset.reshape(2, -1).T[index]) * np.stack([slope_x, slope_y], -1)[index]
    left = (values - mean.ravel()[index] - across.sum(axis=1)) ** 2
    enough = np.where(number > 1, number, 0.0)
    freedom = gaussian_filter(np.maximum(enough - 1.0, 0.0), _BLUR, mode="wrap")
    scatter = gaussian_filter(np.where(enough > 0, gathered(left), 0.0), _BLUR, mode="wrap")
    variance = scatter / np.maximum(freedom, 1e-9) / np.maximum(number, 1.0)
    d = measurement.unit_cells["d"].values[averaged]
    size_of = np.bincount(keys.ravel(), minlength=blocks)
    places = np.stack([np.bincount(keys.ravel(), b[:, n], blocks) for n in (0, 1)], -1) / size_of[:, None]
    rows_of = band_of(b[:, 1])
    left_d = np.stack([np.bincount(rows_of, (d - d.mean(axis=0))[:, n], bands) for n in (0, 1)], -1)
    seen = max(len(np.unique(rows_of)), 2)
    band = band_of(line)
    return Region(
        name, material, gathered(values, block, blocks), gathered(None, block, blocks),
        gathered(values, band, bands), gathered(None, band, bands), offset, variance,
        frame, count, rows, places, d.mean(axis=0), left_d.T @ left_d / count**2 * seen / (seen - 1),
    )  # fmt: skip
