"""The lattice of A columns, and its reciprocal basis found in the Fourier transform.

No number here is tuned to a magnification: the shortest and longest period come from the image's
own size and sampling, and everything else is a ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from .errors import ImageError
from .motif import MOTIFS, Motif
from .patches import despiked, flattened, patches

Floats = NDArray[np.float64]

# px. Small patches stand distortion and second crystals, large ones noise; the first is enough for most images.
_PATCHES = (512, 256, 1024, 128)
_PLACES = 3  # patches of each size
_GOOD, _ENOUGH = 0.85, 0.6  # of the power in the spots: one lattice explains it, and that without doubt
_SPOTS = 14  # strongest spots of half the plane that a basis must explain


@dataclass(frozen=True)
class Lattice:
    """A-site lattice: column (i, j) sits at origin + i a + j b.

    Attributes
    ----------
    origin, a, b : tuple of float
        (x, y) in `units`; of a perovskite, a points rather right and b rather down.
    motif : Motif
        The columns of one cell.
    units : str
        "Å" or "px".
    """

    origin: tuple[float, float]
    a: tuple[float, float]
    b: tuple[float, float]
    motif: Motif
    units: str = "px"

    @property
    def zone(self) -> str:
        """Name of the motif: "100" or "110" for perovskites."""
        return self.motif.name

    @property
    def b_fraction(self) -> tuple[float, float]:
        """Place of the B column in units of a and b: (½, ½) for zone "100", (½, 0) or (0, ½) for "110"."""
        u, v = self.motif.fractions[self.motif.centre]
        return float(u), float(v)

    @property
    def vectors(self) -> Floats:
        """(2, 2) array with rows a, b."""
        return np.array([self.a, self.b])

    @property
    def area(self) -> float:
        """Area of the cell, units²."""
        return float(abs(np.linalg.det(self.vectors)))

    @property
    def a_offsets(self) -> NDArray[np.int64]:
        """Indices (n, 2) of the A columns around B, relative to the cell's own: four for "100", two for "110"."""
        return self.motif.a_offsets

    @property
    def neighbour_distance(self) -> float:
        """Shortest distance between columns of two kinds, in `units`: from A to B in perovskites."""
        places = self.motif.fractions
        span = np.arange(-2, 3)
        cells = np.stack(np.meshgrid(span, span), -1).reshape(-1, 2)
        pairs = np.array([p - q for p, q in combinations(places, 2)])
        return float(np.hypot(*((pairs[:, None] + cells).reshape(-1, 2) @ self.vectors).T).min())

    @property
    def lattice_parameter(self) -> float:
        """Pseudocubic parameter that the cell area stands for, in `units`.

        Seen along [110] the cell of a perovskite is a × a/√2; of other motifs it is the root of the area.
        """
        is_110 = self.motif in (MOTIFS["110"], MOTIFS["110"].turned())
        return float(np.sqrt(self.area * (np.sqrt(2.0) if is_110 else 1.0)))

    def scaled(self, x: float, y: float, units: str) -> Lattice:
        """The same lattice with all x and y coordinates multiplied."""
        factor = np.array([x, y])
        origin, a, b = (
            (float(v[0]), float(v[1])) for v in (np.array(p) * factor for p in (self.origin, self.a, self.b))
        )
        return Lattice(origin, a, b, self.motif, units)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able numbers."""
        return {
            "origin": list(self.origin), "a": list(self.a), "b": list(self.b), "units": self.units,
            "b_fraction": list(self.b_fraction), "zone": self.zone, "sites": [list(site) for site in self.motif.sites],
            "lattice_parameter": self.lattice_parameter,
        }  # fmt: skip


def find_periods(values: Floats) -> Floats:
    """Two shortest periods of an image, from its strongest Fourier spots.

    The periods are those of the strong spots: a centred arrangement of nearly equal columns gives the
    small centred cell, and `analysis.folding.find_sublattices` then decides what is A and what is B.

    Parameters
    ----------
    values : (ny, nx) array
        NaN marks pixels without data.

    Returns
    -------
    (2, 2) array
        Rows are the reduced basis vectors (x, y), px.

    Raises
    ------
    ImageError
        The image shows no two-dimensional lattice.
    """
    best: tuple[float, Floats | None] = (0.0, None)
    most = 0
    for size in dict.fromkeys(min(size, max(values.shape)) for size in _PATCHES):
        for place in patches(values, size, _PLACES):
            spots, power, resolution = _spots(
                flattened(despiked(values[place]), min(size, *values.shape) / 8)
            )
            most = max(most, len(power))
            score, basis = _basis(spots, power, resolution)
            if basis is not None and score > best[0]:
                best = score, basis
            if best[0] > _GOOD:
                break
        if best[0] > _GOOD:
            break
    if best[1] is None or best[0] < _ENOUGH:
        seen = f"{most} Fourier spots fit no common basis" if most > 1 else "no Fourier spots"
        raise ImageError(
            f"image: shows no lattice in two dimensions ({seen}); give an atomically resolved image along a zone axis."
        )
    return reduced(np.linalg.inv(best[1]).T)


def reduced(vectors: NDArray[Any]) -> Floats:
    """Gauss-reduced basis, a pointing rather along +x and b rather along +y."""
    u, v = np.asarray(vectors, float)
    while True:
        if u @ u > v @ v:
            u, v = v, u
        # The small margin keeps a vector that is exactly half-way from being swapped for ever.
        m = np.rint((u @ v) / (u @ u) * (1 - 1e-9))
        if m == 0:
            break
        v = v - m * u
    if abs(u[0]) * abs(v[1]) < abs(u[1]) * abs(v[0]):
        u, v = v, u
    return np.array([u * (1 if u[0] >= 0 else -1), v * (1 if v[1] >= 0 else -1)])


def _spots(patch: Floats) -> tuple[Floats, Floats, float]:
    ny, nx = patch.shape
    valid = np.isfinite(patch)
    # What spikes and dirt are left would put a white floor under every spot.
    limit = 6 * np.nanstd(patch)
    patch = np.clip(patch, -limit, limit)
    # The taper follows the data's own border, wherever NaN puts it.
    if valid.all():
        rows, columns = (np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)) for n in (ny, nx))
        depth = np.minimum(rows[:, None], columns)
    else:
        depth = ndimage.distance_transform_edt(np.pad(valid, 1))[1:-1, 1:-1]
    taper = np.sin(0.5 * np.pi * np.clip(depth / depth.max(), 0, 1)) ** 2
    data = np.where(valid, patch, 0.0)
    data = ((data - (data * taper).sum() / taper.sum()) * taper).astype(np.float32)
    shape = (fft.next_fast_len(2 * ny), fft.next_fast_len(2 * nx))
    amplitude = np.abs(fft.rfft2(data, shape))
    ky, kx = np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1]), indexing="ij")
    k = np.hypot(kx, ky)
    resolution = 1.0 / min(ny, nx)
    ring = np.rint(k / (4 * resolution)).astype(int)
    # The floor of every spot is the median of its own ring: noise is never white over the whole plane.
    rings = np.arange(ring.max() + 1)
    floor = np.asarray(ndimage.median(amplitude[::3, ::3], ring[::3, ::3], rings))[ring]
    window = (5, 5)
    peak = amplitude == ndimage.maximum_filter(amplitude, window, mode=("wrap", "nearest"))
    peak &= (k > 2.2 * resolution) & (k < 0.5) & ~((kx == 0) & (ky < 0))
    rows, columns = np.nonzero(peak & (amplitude > 5 * floor))
    order = np.argsort(-amplitude[rows, columns])[:_SPOTS]
    rows, columns = rows[order], columns[order]
    if len(rows) == 0:
        return np.empty((0, 2)), np.empty(0), resolution
    keep = amplitude[rows, columns] > 0.05 * amplitude[rows[0], columns[0]]
    rows, columns = rows[keep], columns[keep]
    spots = np.empty((len(rows), 2))
    for n, (row, column) in enumerate(zip(rows, columns, strict=True)):
        above, below = amplitude[(row - 1) % shape[0], column], amplitude[(row + 1) % shape[0], column]
        left = amplitude[row, abs(column - 1)]
        right = amplitude[row, min(column + 1, amplitude.shape[1] - 1)]
        here = amplitude[row, column]
        spots[n] = (
            kx[row, column] + _vertex(left, here, right) / shape[1],
            ky[row, column] + _vertex(above, here, below) / shape[0],
        )
    return spots, amplitude[rows, columns] ** 2, resolution


def _vertex(before: float, here: float, after: float) -> float:
    curvature = before - 2 * here + after
    return float(0.5 * (before - after) / curvature) if curvature < 0 else 0.0


def _basis(spots: Floats, power: Floats, resolution: float) -> tuple[float, Floats | None]:
    """Share of the spots' power that a reciprocal lattice indexes, and the coarsest that indexes (nearly) as much."""
    found: list[tuple[float, float, Floats]] = []
    for i, j in combinations(range(len(spots)), 2):
        pair = np.array([spots[i], spots[j]])
        lengths = np.hypot(*pair.T)
        area = abs(np.linalg.det(pair))
        if area < 0.25 * lengths[0] * lengths[1]:
            continue
        index = np.rint(spots @ np.linalg.inv(pair))
        error = np.hypot(*(spots - index @ pair).T)
        tolerance = 0.5 * resolution + 0.02 * np.hypot(*spots.T)
        hit = error < tolerance
        # A dense lattice indexes anything: chance hits are what its density predicts.
        chance = np.clip(np.pi * tolerance**2 / area, 0, 1)
        found.append((float(power[hit] @ (1 - chance[hit])) / float(power.sum()), float(area), pair))
    if not found:
        return 0.0, None
    best = max(score for score, _, _ in found)
    _, _, pair = max((entry for entry in found if entry[0] > 0.9 * best), key=lambda entry: entry[1])
    index = np.rint(spots @ np.linalg.inv(pair))
    hit = np.hypot(*(spots - index @ pair).T) < 0.5 * resolution + 0.02 * np.hypot(*spots.T)
    weight = np.sqrt(power[hit])[:, None]
    refined, *_ = np.linalg.lstsq(index[hit] * weight, spots[hit] * weight, rcond=None)
    return best, refined
