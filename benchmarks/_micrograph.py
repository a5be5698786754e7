"""A perovskite micrograph whose columns are known, and how well counting electrons lets one know them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_REACH = 6.0  # standard deviations after which a column (2e-8) is not drawn


@dataclass(frozen=True)
class Case:
    """A square lattice seen along [100], an A column in the middle, at least one cell left empty along the border.

    Attributes
    ----------
    size : int
        px a side.
    cell : float
        Distance of neighbouring A columns, px.
    rotation : float
        Of the lattice, degrees, from x towards y (down).
    disorder : float
        Standard deviation of every column from its place in the lattice, per axis, px.
    sigma, amplitude : tuple of float
        Of A and B; px, and the peak in units of A's.
    background : float
        In the same unit.
    counts : float
        Electrons a pixel at amplitude 1.
    """

    size: int = 1024
    cell: float = 24.0
    rotation: float = 0.0
    disorder: float = 0.15
    sigma: tuple[float, float] = (2.8, 2.5)
    amplitude: tuple[float, float] = (1.0, 0.35)
    background: float = 0.2
    counts: float = 200.0


CASES = {"base": Case(), "low": Case(counts=20.0), "wide": Case(sigma=(4.2, 3.8))}


@dataclass(frozen=True)
class Truth:
    """Where the columns are.

    Attributes
    ----------
    a, b : (n, 2) and (m, 2) arrays
        Positions (x, y), px.
    corners : (m, 4) array
        Rows of `a` around each B column.
    """

    a: np.ndarray
    b: np.ndarray
    corners: np.ndarray

    @property
    def d(self) -> np.ndarray:
        """(m, 2) mean of the surrounding A columns − B, px."""
        return self.a[self.corners].mean(1) - self.b


def micrograph(case: Case, seed: int) -> tuple[np.ndarray, Truth]:
    """Image in units of A's amplitude, and the truth."""
    rng = np.random.default_rng(seed)
    a, b, corners = _lattice(case)
    truth = Truth(
        a + case.disorder * rng.standard_normal(a.shape),
        b + case.disorder * rng.standard_normal(b.shape),
        corners,
    )
    clean = np.full((case.size, case.size), case.background)
    for places, sigma, amplitude in zip((truth.a, truth.b), case.sigma, case.amplitude, strict=True):
        for x, y in places:
            rows, columns = (
                slice(max(0, int(p - _REACH * sigma)), int(p + _REACH * sigma) + 2) for p in (y, x)
            )
            part = clean[rows, columns]
            gy, gx = (
                np.exp(-0.5 * ((np.arange(n) + s.start - p) / sigma) ** 2)
                for n, s, p in zip(part.shape, (rows, columns), (y, x), strict=True)
            )
            part += amplitude * gy[:, None] * gx
    return rng.poisson(clean * case.counts) / case.counts, truth


def bound(case: Case) -> tuple[float, float]:
    """Cramér-Rao bound of the position of an A and a B column, px per axis.

    Poisson counts. Unknown are amplitude, x, y and three shape parameters of the column and of all within 1.5
    cells, and one background; the lattice goes on beyond them, known.
    """
    return _bound(case, 0), _bound(case, 1)


def _bound(case: Case, site: int) -> float:
    span = np.arange(-3, 4)
    index = np.stack(np.meshgrid(span, span), -1).reshape(-1, 2).astype(float)
    shift = 0.5 * np.array([1 - 2 * site, 1])  # of the other site; the column asked for is at 0
    places = np.concatenate([index, index + shift])
    kinds = np.repeat([site, 1 - site], len(index))
    c, s = np.cos(np.radians(case.rotation)), np.sin(np.radians(case.rotation))
    places = case.cell * places @ np.array([[c, s], [-s, c]])
    free = np.hypot(*places.T) < 1.5 * case.cell
    free_first = np.argsort(np.hypot(*places.T))
    half = int(2 * case.cell)
    y, x = np.mgrid[-half : half + 1, -half : half + 1].reshape(2, -1).astype(float)
    mean, slopes = np.full(x.size, case.background), [np.ones(x.size)]
    for n in free_first:
        sigma, amplitude = case.sigma[kinds[n]], case.amplitude[kinds[n]]
        dx, dy = (x - places[n, 0]) / sigma, (y - places[n, 1]) / sigma
        g = amplitude * np.exp(-0.5 * (dx**2 + dy**2))
        mean += g
        if free[n]:
            slopes += [g * dx / sigma, g * dy / sigma, g, g * dx**2, g * dx * dy, g * dy**2]
    slopes = np.array(slopes)
    fisher = case.counts * (slopes / mean) @ slopes.T
    return float(np.sqrt(np.linalg.inv(fisher)[1:3, 1:3].trace() / 2))


def _lattice(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A and B sites inside the border, and the rows of the four A around every B."""
    c, s = np.cos(np.radians(case.rotation)), np.sin(np.radians(case.rotation))
    vectors = case.cell * np.array([[c, s], [-s, c]])
    span = np.arange(-int(case.size / case.cell), int(case.size / case.cell) + 1)
    index = np.stack(np.meshgrid(span, span), -1).reshape(-1, 2)
    middle = 0.5 * (case.size - 1)
    sites = index @ vectors + middle
    inside = ((sites >= case.cell) & (sites <= case.size - 1 - case.cell)).all(1)
    row = {tuple(i): n for n, i in enumerate(index[inside])}
    cells = [
        (i, corners)
        for i in index[inside]
        if None not in (corners := [row.get((i[0] + m, i[1] + n)) for n in (0, 1) for m in (0, 1)])
    ]
    b = (np.array([i for i, _ in cells]) + 0.5) @ vectors + middle
    return sites[inside], b, np.array([corners for _, corners in cells])
