"""Nasty synthetic images with known columns, and a score of what was found in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from analysis.growth import coverage

#: Widths and heights of the image that every other one varies: 24 px a cell.
SIGMA, AMPLITUDE = (2.8, 2.5), (1.0, 0.35)
BACKGROUND = 0.2


@dataclass(frozen=True)
class Picture:
    """An image (y, x) and where its columns are: one (n, 2) array of (x, y), px, a site."""

    image: np.ndarray
    places: tuple[np.ndarray, ...]

    def noisy(self, counts, seed=0):
        """With Poisson noise of so many counts at intensity 1."""
        rng = np.random.default_rng(seed)
        clean = np.nan_to_num(self.image)
        drawn = rng.poisson(np.maximum(clean, 0) * counts) / counts
        return replace(self, image=np.where(np.isnan(self.image), np.nan, drawn))

    def cut(self, dead):
        """NaN where `dead` (ny, nx) is true."""
        return replace(self, image=np.where(dead, np.nan, self.image))


class Score(NamedTuple):
    """Of one site: found and expected columns, and found ones that are none."""

    found: int
    expected: int
    wrong: int


def render(shape, places, heights, sigma, background=BACKGROUND):
    """Sum of round Gaussians; heights (n,) or a number."""
    image = np.full(shape, background, float)
    reach = int(np.ceil(5 * sigma))
    span = np.arange(-reach, reach + 1)
    heights = np.broadcast_to(heights, len(places))
    padded = np.zeros((shape[0] + 2 * reach, shape[1] + 2 * reach))
    for (px, py), height in zip(places, heights, strict=True):
        cx, cy = round(px), round(py)
        if -reach <= cx < shape[1] + reach and -reach <= cy < shape[0] + reach:
            gx = np.exp(-0.5 * ((span + cx - px) / sigma) ** 2)
            gy = height * np.exp(-0.5 * ((span + cy - py) / sigma) ** 2)
            y0, x0 = max(cy, 0), max(cx, 0)
            y1, x1 = min(cy + 2 * reach + 1, padded.shape[0]), min(cx + 2 * reach + 1, padded.shape[1])
            padded[y0:y1, x0:x1] += np.outer(gy[y0 - cy : y1 - cy], gx[x0 - cx : x1 - cx])
    return image + padded[reach : shape[0] + reach, reach : shape[1] + reach]


def turned(degrees, a=24.0, b=None, angle=90.0):
    """Cell vectors (2, 2) of lengths a, b (px), a turned from +x towards +y."""
    first, second = np.radians(degrees), np.radians(degrees + angle)
    b = a if b is None else b
    return np.array([(a * np.cos(first), a * np.sin(first)), (b * np.cos(second), b * np.sin(second))])


def nodes(count):
    """(n, 2) indices of count × count cells around 0."""
    span = np.arange(count) - (count - 1) / 2
    return np.stack(np.meshgrid(span, span), -1).reshape(-1, 2)


def crystal(
    shape=(1024, 1024),
    vectors=None,
    count=41,
    fractions=((0.5, 0.5),),
    amplitude=AMPLITUDE,
    sigma=SIGMA,
    disorder=0.15,
    shift=(0.0, 0.0),
    bend=None,
    keep=None,
    seed=0,
):
    """A block of count × count A columns, with the other sites inside it, in the middle of the image.

    `shift` (px) moves all other sites; `bend` maps positions (n, 2) to positions; `keep` maps positions to a mask
    of columns that exist.
    """
    rng = np.random.default_rng(seed)
    vectors = turned(0) if vectors is None else np.asarray(vectors, float)
    middle = (np.array(shape[::-1]) - 1) / 2
    sites = [nodes(count)]
    for fraction in fractions:
        other = nodes(count) + np.array(fraction)
        sites.append(other[(other < (count - 1) / 2 + 1e-9).all(1)])
    places = []
    for n, index in enumerate(sites):
        where = index @ vectors + middle + (np.array(shift) if n else 0.0)
        where = where if bend is None else bend(where)
        where = where if keep is None else where[keep(where)]
        places.append(where + disorder * rng.standard_normal(where.shape))
    return drawn(shape, places, amplitude, sigma)


def drawn(shape, places, amplitude=AMPLITUDE, sigma=SIGMA):
    """Picture of given columns; amplitudes may be arrays, one value a column."""
    image = np.full(shape, BACKGROUND)
    inside = []
    for where, height, width in zip(places, amplitude, sigma, strict=True):
        image += render(shape, where, height, width, 0.0)
        inside.append(where[((where > -3) & (where < np.array(shape[::-1]) + 2)).all(1)])
    return Picture(image, tuple(inside))


def film(shape=(600, 600), cell=22.0, misfit=0.03, heights=((1.0, 0.3), (0.45, 0.3)), coherent=True, seed=0):
    """A film (upper half) on a substrate whose cell is (1 + misfit) times as large, both beyond the border.

    Coherent films share the spacing along the interface; others have misfit dislocations in it.
    """
    rng = np.random.default_rng(seed)
    middle = np.array(shape[::-1]) / 2
    places, amplitude = [], []
    for fraction in ((0.0, 0.0), (0.5, 0.5)):
        span = np.arange(-40, 41)
        i, j = (g.ravel() for g in np.meshgrid(span, span))
        where, height = [], []
        for upper in (True, False):
            n = (j < 0) if upper else (j >= 0)
            along = cell if upper or coherent else cell * (1 + misfit)
            down = cell if upper else cell * (1 + misfit)
            xy = np.stack([(i[n] + fraction[0]) * along, (j[n] + fraction[1]) * down], 1) + middle
            where.append(xy)
            height.append(np.full(len(xy), heights[0 if upper else 1][int(fraction[0] > 0)]))
        xy, height = np.concatenate(where), np.concatenate(height)
        inside = ((xy > -30) & (xy < np.array(shape[::-1]) + 30)).all(1)
        places.append(xy[inside] + 0.15 * rng.standard_normal((inside.sum(), 2)))
        amplitude.append(height[inside])
    return drawn(shape, places, amplitude, np.array(SIGMA) * cell / 24)


def speckle(shape, size, seed=0):
    """Amorphous: smooth noise of mean 0 and standard deviation 1, correlated over `size` px."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), size)
    return noise / noise.std()


def score(sites, picture, near, tolerance=0.3):
    """Compare found sites with the true ones, one `Score` a site.

    A columns must lie within `tolerance` × `near` (px) of the truth, others within half as much again, as their
    places are where the lattice expects them. Columns of which data hold little are neither expected nor wrong.
    """
    results = []
    for kind, true in enumerate(picture.places):
        found = sites.position[(sites.kind == kind) & sites.inside]
        reach = tolerance * near * (1 if kind == 0 else 1.5)
        hit = KDTree(found).query(true)[0] < reach if len(found) else np.zeros(len(true), bool)
        gap = KDTree(true).query(found)[0] if len(found) and len(true) else np.full(len(found), np.inf)
        sure = coverage(picture.image, true, max(0.5 * near, 2)) > 0.7
        results.append(Score(int((hit & sure).sum()), int(sure.sum()), int((gap > reach).sum())))
    return results
