"""Which variant lies where: single domains, walls, stripes and random patterns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tiltsim.synth.specimen_request import DomainRequest, number
from tiltsim.synth.variants import named, signs

Floats = NDArray[np.float64]

#: Candidates for each seed of a random pattern; the one farthest from the seeds so far is taken.
_CANDIDATES = 20


@dataclass(frozen=True, eq=False)
class Pattern:
    """Shares of the variants in every cell.

    Parameters
    ----------
    names : tuple of str
        Variants, each once.
    shares : ndarray, shape (rows, columns, variants)
        They add up to 1; a wall is where more than one differs from 0.
    """

    names: tuple[str, ...]
    shares: Floats


def lay_pattern(
    request: DomainRequest, place: Floats, extent: tuple[float, float], rng: np.random.Generator
) -> Pattern:
    """Variants of the cells at ``place``.

    Parameters
    ----------
    request : DomainRequest
        Settled.
    place : ndarray, shape (rows, columns, 2)
        Centres of the cells relative to the field's centre, along the lattice's axes, Å.
    extent : (float, float)
        Width and height of the field, Å.
    rng : Generator
        Draws the variants, and where stripes begin and random domains lie.
    """
    if request.pattern == "none":
        return Pattern((), np.zeros((*place.shape[:2], 0)))
    if request.pattern == "random":
        return _random(request, place, np.asarray(extent), rng)
    first = request.variants[rng.integers(len(request.variants))]
    if request.pattern == "single":
        return Pattern((first,), np.ones((*place.shape[:2], 1)))
    second = across(first, request.reversed)
    normal = wall_normal(first, request)
    distance = place @ normal
    reach = float(np.abs(normal) @ np.asarray(extent))
    width = number(request.wall_width)
    if request.pattern == "wall":
        distance = distance - (number(request.position) - 0.5) * reach
        share = _share(distance, width)
    else:
        half = number(request.period) / 2.0
        step = distance / half + 2.0 * rng.random()
        # Distance from the nearest wall, and whether the second domain lies beyond it.
        nearest = np.round(step)
        side = np.where(nearest % 2 == 0, 1.0, -1.0)
        share = _share(side * (step - nearest) * half, width)
    return Pattern((first, second), np.stack([1.0 - share, share], axis=-1))


def across(first: str, reverses: str) -> str:
    """The variant on the other side of a wall that ``reverses`` these components of d (image axes)."""
    x, y, z = (-s if axis in reverses else s for axis, s in zip("xyz", signs(first), strict=True))
    return named((x, y, z))


def wall_normal(first: str, request: DomainRequest) -> Floats:
    """Unit normal of the wall from domain ``first`` to its neighbour, along the lattice's axes.

    That of the table in :class:`~tiltsim.synth.specimen_request.DomainRequest`, turned by ``request.normal``; or that
    alone.
    """
    angle = np.radians(number(request.normal))
    if request.orientation == "compatible":
        x, y, _ = signs(first)
        if request.reversed == "xyz":
            base = np.array([-y, x])  # d stays within the wall
        elif request.reversed in ("yz", "x"):
            base = np.array([1, 0])
        elif request.reversed in ("xz", "y"):
            base = np.array([0, 1])
        else:
            base = np.array([x, y])
        angle += np.arctan2(base[1], base[0])
    return np.array([np.cos(angle), np.sin(angle)])


def _share(distance: Floats, width: float) -> Floats:
    """Share of the domain that lies at positive ``distance``."""
    return np.asarray(0.5 * (1.0 + np.tanh(distance / width)))


def _random(request: DomainRequest, place: Floats, size: Floats, rng: np.random.Generator) -> Pattern:
    """Voronoi cells of spread seeds; variants in equal numbers as far as the count goes."""
    seeds = spread(rng, request.count, size) - size / 2.0
    rounds = -(-request.count // len(request.variants))
    order = [str(v) for _ in range(rounds) for v in rng.permutation(request.variants)][: request.count]
    names = tuple(dict.fromkeys(order))
    index = np.array([names.index(name) for name in order])
    squared = np.stack([np.sum((place - seed) ** 2, axis=-1) for seed in seeds])
    shares = np.zeros((*place.shape[:2], len(names)))
    for k, seed in enumerate(seeds):
        # Depth inside domain k: distance from the nearest of the planes halfway to other domains' seeds.
        depth = np.full(place.shape[:2], np.inf)
        for j, other in enumerate(seeds):
            if index[j] != index[k]:
                depth = np.minimum(depth, (squared[j] - squared[k]) / (2.0 * np.linalg.norm(other - seed)))
        inside = _share(depth, number(request.wall_width))
        # Domains of one variant have no wall between them.
        shares[..., index[k]] = np.maximum(shares[..., index[k]], inside)
    return Pattern(names, shares / shares.sum(axis=-1, keepdims=True))


def spread(rng: np.random.Generator, n: int, size: Floats) -> Floats:
    """``n`` points in a box, each the best of several candidates, so that domains have similar areas."""
    points = [rng.uniform(size=2) * size]
    while len(points) < n:
        candidates = rng.uniform(size=(_CANDIDATES, 2)) * size
        distance, _ = cKDTree(points).query(candidates)
        points.append(candidates[np.argmax(distance)])
    return np.array(points)
