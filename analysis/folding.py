"""Fold an image into its average cell and find the cell and the places of a motif in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .candidates import Candidate, candidates
from .errors import ImageError
from .lattice import Lattice, reduced
from .motif import Motif, perovskites
from .patches import binned, despiked, flattened, patches

Floats = NDArray[np.float64]

_BINS = 24  # along each period: divides by 2, 3 and 4, and is a fifth of an Å or less
_SMOOTH = 1.5  # bins
_CELLS = 14  # cells across the folded patch: more would blur where the lattice is distorted
_PLACES = 9  # patches that are tried
_FINEST = 12  # px per period that a fold needs
_SIGNIFICANT = 5.0  # standard errors that a column must stand out by, and A above B
_FAINTEST = 0.01  # of the A column: below this a maximum is a ripple, not a column
_ALIKE = 0.015  # of the summed heights: A and B that differ by less cannot be told apart
_REACH = 0.3  # of the shortest distance between columns: a displaced column is sought so far from its place
_WIDTHS = (0.12, 0.17, 0.22, 0.28, 0.35)  # of the same: standard deviations of columns that are tried
# A perovskite's own periods, and those of its centred cells, are no more oblique (degrees) or elongated.
_OBLIQUE, _LONG = 20.0, 2.0
_UNEVEN = 0.3  # of the brightest copy of A in a superstructure: less is no column
_WORSE = 1.3  # times the unexplained rest of the best candidate: as good
_UNEXPLAINED = 0.35  # of the variance: more, and the motif is not what the image shows


@dataclass(frozen=True)
class _Folded:
    """Average over 2 × 2 periods: values and their standard error, both (2 bins, 2 bins), first axis along u."""

    values: Floats
    error: float
    periods: Floats

    @cached_property
    def apart(self) -> Floats:
        """Distance of every bin from bin (0, 0) or its nearest copy, px."""
        n = 2 * _BINS
        span = np.arange(n) / _BINS
        bins = np.stack(np.meshgrid(span, span, indexing="ij"), -1)
        copies = np.stack(np.meshgrid((-2, 0), (-2, 0), indexing="ij"), -1).reshape(-1, 2)
        steps = (bins[..., None, :] + copies) @ self.periods
        return np.hypot(steps[..., 0], steps[..., 1]).min(-1)


@dataclass(frozen=True)
class _Fit:
    """How a candidate fits: place of A and of all sites from there (bins), heights, and what is wrong with it."""

    candidate: Candidate
    top: NDArray[np.int64]
    where: Floats
    height: Floats
    fault: str = ""


def find_sublattices(
    values: Floats, periods: Floats, zone: str = "auto", motif: Motif | None = None
) -> Lattice:
    """Lattice of A columns and places of all others, from the image's shortest periods.

    Parameters
    ----------
    values : (ny, nx) array
        NaN marks pixels without data.
    periods : (2, 2) array
        Rows are two periods of the image, px; those of a centred cell, or of a superstructure, will do.
    zone : {"auto", "100", "110"}
        Of a perovskite; without meaning where a motif is given.
    motif : Motif, optional
        What to look for in place of a perovskite, in any orientation and seen from either side.

    Returns
    -------
    Lattice
        In px. The A column is the brighter one where the motif leaves the choice.

    Raises
    ------
    ImageError
        The cell is none of the motif's, only one kind of column is seen, or columns are not where the motif
        has them.
    """
    wanted = perovskites(zone) if motif is None else (motif,)
    vectors = reduced(periods)
    folded, corner, size = _best_fold(values, vectors)
    options = candidates(folded.periods, wanted, free=motif is not None)
    if not options:
        raise ImageError(_no_cell(vectors, wanted, free=motif is not None))
    fits = [fit for option in options for fit in _fits(folded, option, told_apart=motif is None)]
    good = [fit for fit in fits if not fit.fault]
    if not good:
        ratio = np.hypot(*vectors[0]) / np.hypot(*vectors[1])
        if motif is None and not (abs(_angle(vectors) - 90) < _OBLIQUE and 1 / _LONG < ratio < _LONG):
            raise ImageError(_no_cell(vectors, wanted, free=False))
        # Of the cells as large as the period, the one with the clearest columns says what is missing.
        own = [fit for fit in fits if fit.candidate.lattice.copies == 4] or fits
        raise ImageError(max(own, key=lambda fit: fit.height[0]).fault)
    best, rest = _chosen(good, [_unexplained(folded, fit) for fit in good])
    if rest > _UNEXPLAINED:
        raise ImageError(
            f"image: its columns are not where the motif {best.candidate.motif.name!r} has them "
            f"({100 * rest:.0f} % of the average cell's contrast is unexplained); give a motif that fits."
        )
    a, b = best.candidate.vectors
    start = best.top / _BINS @ folded.periods
    # The origin nearest the patch's middle: there a small error of the vectors matters least.
    middle = 0.5 * size
    origin = start + np.rint((middle - start) @ np.linalg.inv([a, b])) @ np.array([a, b]) + corner
    return Lattice(
        (float(origin[0]), float(origin[1])), (float(a[0]), float(a[1])), (float(b[0]), float(b[1])),
        best.candidate.motif,
    )  # fmt: skip


def _best_fold(values: Floats, vectors: Floats) -> tuple[_Folded, Floats, Floats]:
    """Of the patches with much contrast, the one that repeats best, with its first corner and size (x, y), px."""
    cell = float(np.sqrt(abs(np.linalg.det(vectors))))
    factor = max(1, int(cell / _FINEST))
    best: tuple[float, _Folded, Floats, Floats] | None = None
    for rows, columns in patches(values, int(np.ceil(_CELLS * cell)), _PLACES):
        patch = binned(despiked(values[rows, columns]), factor)
        flat = flattened(patch, 1.5 * cell / factor)
        centre = 0.5 * (factor - 1)  # of the first square of pixels
        folded = _fold(flat, vectors, factor, centre)
        # Contrast of the average cell beyond what noise leaves, in units of what varies in the patch.
        contrast = (folded.values.var() - folded.error**2) / max(float(np.nanvar(flat)), 1e-300)
        if best is None or contrast > best[0]:
            corner = np.array([columns.start, rows.start], float)
            best = contrast, folded, corner, factor * np.array(flat.shape[::-1], float)
    if best is None:
        raise ImageError("image: has no contrast; give an atomically resolved image.")
    return best[1:]


def _fold(patch: Floats, vectors: Floats, factor: int, centre: float) -> _Folded:
    rows, columns = np.nonzero(np.isfinite(patch))
    n = 2 * _BINS
    fractional = (np.stack([columns, rows], 1) * factor + centre) @ np.linalg.inv(vectors)
    index = np.rint(fractional * _BINS).astype(int) % n
    flat = index[:, 0] * n + index[:, 1]
    data = patch[rows, columns]
    parts = [np.bincount(flat, w, n * n).reshape(n, n) for w in (np.ones(len(data)), data, data**2)]
    count, total, square = (ndimage.gaussian_filter(part, _SMOOTH, mode="wrap") for part in parts)
    count = np.maximum(count, 1e-9)
    mean = total / count
    variance = np.maximum(square / count - mean**2, 0.0)
    # A Gaussian averages over 4π times its variance.
    error = np.sqrt(variance / np.maximum(4 * np.pi * _SMOOTH**2 * count, 1.0))
    return _Folded(mean, float(np.median(error)), vectors)


def _fits(folded: _Folded, option: Candidate, *, told_apart: bool) -> list[_Fit]:
    """One for every column of the average cell that may be A, the brightest first."""
    lattice = option.lattice
    mean = lattice.averaged(folded.values)
    error = folded.error / np.sqrt(lattice.copies)
    step = option.vectors
    place = option.motif.fractions @ step @ np.linalg.inv(folded.periods) * _BINS
    near = option.near
    apart = folded.apart
    fits = []
    for top in _tops(mean, 1 if told_apart else len(place)):
        centred = np.roll(mean, (-top).tolist(), (0, 1))
        found = [_column(centred, p, apart, near) for p in place]
        height = np.array([rise for _, rise in found])
        where = np.array([p if spot is None else spot for p, (spot, _) in zip(place, found, strict=True)])
        least = max(_FAINTEST * height[0], _SIGNIFICANT * error)
        unseen = [k for k, (spot, rise) in enumerate(found) if spot is None or rise < least]
        alike = height[0] - height[1] < max(_SIGNIFICANT * error * np.sqrt(2), _ALIKE * height.sum())
        if (told_apart and alike) or not _repeats(folded, lattice.shifts(len(mean)) + top):
            unseen.append(1)
        fault = _unseen(option, unseen[0], height, told_apart) if unseen else ""
        fits.append(_Fit(option, top, where, height, fault))
    return fits


def _repeats(folded: _Folded, places: NDArray[np.int64]) -> bool:
    """Whether all copies of A are there: half a cell, averaged, has all columns as well, but half as high."""
    height = folded.values[tuple((places % folded.values.shape).T)] - folded.values.min()
    return bool(height.min() > _UNEVEN * height.max())


def _column(
    centred: Floats, place: Floats, apart: Floats, near: float
) -> tuple[NDArray[np.int64] | None, float]:
    """Bin of the maximum at a place, if there is one, and how far it rises above what surrounds it."""
    middle = np.rint(place).astype(int)
    around = np.roll(centred, (-middle).tolist(), (0, 1))
    inner = np.where(apart < _REACH * near, around, -np.inf)
    spot = np.array(np.unravel_index(np.argmax(inner), inner.shape))
    height = around[tuple(spot)]
    moved = np.roll(around, (-spot).tolist(), (0, 1))
    ring = moved[(apart > 0.4 * near) & (apart < 0.6 * near)]
    # A saddle towards a bright neighbour may be high, the median of the ring is not.
    rise = float(height - np.median(ring))
    if height < moved[[0, 0, 1, -1, 1, 1, -1, -1], [1, -1, 0, 0, 1, -1, 1, -1]].max():
        return None, rise  # a slope of another column
    return spot + middle, rise


def _tops(mean: Floats, count: int) -> list[NDArray[np.int64]]:
    """Bins of the brightest maxima, one of every set of equivalent ones."""
    top = np.argwhere(mean == ndimage.maximum_filter(mean, 3, mode="wrap"))
    _, first = np.unique(np.round(-mean[tuple(top.T)], 12), return_index=True)
    return [top[n] for n in first[:count]]


def _unexplained(folded: _Folded, fit: _Fit) -> float:
    """Share of the fold's variance that round columns at all places of a candidate leave.

    Each copy of a site has a height of its own, so that a superstructure does not count against a cell that has
    its columns in the right places.
    """
    size, near = folded.values.shape[0], fit.candidate.near
    places = (fit.top + np.rint(fit.where).astype(int))[:, None] + fit.candidate.lattice.shifts(size)
    places = np.unique(places.reshape(-1, 2) % size, axis=0)
    data = (folded.values - folded.values.mean()).ravel()
    smooth = _SMOOTH / _BINS * np.sqrt(abs(np.linalg.det(folded.periods)))
    rest = 1.0
    for width in _WIDTHS:
        kernel = np.exp(-0.5 * folded.apart**2 / ((width * near) ** 2 + smooth**2))
        design = np.stack([np.roll(kernel, p.tolist(), (0, 1)).ravel() for p in places], 1)
        design -= design.mean(0)
        normal = design.T @ design
        # Wide columns side by side are nearly the same: a little stiffness keeps their heights apart.
        normal += 1e-6 * np.trace(normal) / len(normal) * np.eye(len(normal))
        left = data - design @ np.linalg.solve(normal, design.T @ data)
        rest = min(rest, float(left @ left / max(data @ data, 1e-300)))
    return rest


def _chosen(fits: list[_Fit], rests: list[float]) -> tuple[_Fit, float]:
    """The largest cell among those that explain the fold about as well as the best; then the brightest A."""
    alike = [n for n, rest in enumerate(rests) if rest <= _WORSE * min(rests) + 0.005]
    area = max(fits[n].candidate.area for n in alike)
    alike = [n for n in alike if fits[n].candidate.area > 0.9 * area]
    tallest = max(fits[n].height[0] for n in alike)

    def merit(n: int) -> float:
        # Brightness first; among equals the cell nearest the ideal, not mirrored, a to the right.
        candidate = fits[n].candidate
        (ax, ay), (bx, by) = candidate.vectors
        shape = 0.002 * (ax * by > ay * bx) + 0.001 * ax / np.hypot(ax, ay) - 0.05 * candidate.misfit
        return float(0.1 * fits[n].height[0] / tallest - rests[n] + shape)

    best = max(alike, key=merit)
    return fits[best], rests[best]


def _angle(vectors: Floats) -> float:
    u, v = vectors
    return float(np.degrees(np.arctan2(abs(u[0] * v[1] - u[1] * v[0]), u @ v)))


def _no_cell(vectors: Floats, wanted: tuple[Motif, ...], *, free: bool) -> str:
    u, v = vectors
    what = f"the motif {wanted[0].name!r}" if free else "a perovskite along [100] or [110]"
    return (
        f"image: its lattice, {np.hypot(*u):.1f} × {np.hypot(*v):.1f} px at {_angle(vectors):.0f}°, is not that of {what}; "
        f"{'check its ratio and angle' if free else 'give a motif for other crystals'}."
    )


def _unseen(option: Candidate, site: int, height: Floats, told_apart: bool) -> str:
    a, b = (float(np.hypot(*v)) for v in option.vectors)
    label = option.motif.labels[site]
    if site == 0:
        return (
            "image: its average cell shows no columns; give an atomically resolved image along a zone axis."
        )
    if told_apart:
        return (
            f"image: only one sublattice is seen where zone='{option.motif.name}' has A and B (cell {a:.1f} × {b:.1f} px, "
            f"{label} {100 * height[site] / max(height[0], 1e-300):.1f} % of A); "
            "A and B columns must both be visible and differ in brightness."
        )
    return (
        f"image: shows no column at site {site} ({label}) of the motif {option.motif.name!r} "
        f"(cell {a:.1f} × {b:.1f} px); give a motif that fits."
    )
