"""What a column has in common with the others of its kind, and with those around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_WIDER_THAN_MOST = 1.3  # times the median standard deviation of its kind
_WIDTHS_FROM = 8  # columns
_AROUND = 25  # columns
_FEWEST = 8  # columns around
_FEWEST_SCATTER = 30  # columns
_NARROWEST_PRIOR = 0.01  # of a width, or of an amplitude: no prior is sharper
_SHAPE = (4, 5, 6)


def narrowest(parameters: Floats, kind: Ints) -> Floats:
    """Lower bounds (n, 2) of p and r: no column much wider, along x or y, than most of its kind.

    Beside bright neighbours, a faint column that widens over their remains fits nearly as well as the column
    itself, tens of pm away; which of the two wins is chance. All columns of a kind share probe and vibration.
    """
    bound = np.zeros((len(parameters), 2))
    for each in np.unique(kind):
        rows = kind == each
        if rows.sum() >= _WIDTHS_FROM:
            bound[rows] = np.median(parameters[rows][:, [4, 6]], axis=0) / _WIDER_THAN_MOST
    return bound


def steadied(parameters: Floats, kind: Ints) -> Floats:
    """Columns as subtracted from their neighbours: one that fits badly is given an ordinary shape."""
    tails = parameters.copy()
    for each in np.unique(kind):
        same = np.flatnonzero(kind == each)
        middle = np.median(parameters[same], 0)
        ratio = parameters[same][:, [4, 6]] / middle[[4, 6]]
        tilted = np.abs(parameters[same, 5] - middle[5]) > 0.5 * middle[4]
        odd = same[((ratio < 0.6) | (ratio > 1.7)).any(1) | tilted]
        tails[odd, 4:] = middle[4:]
        tails[same, 0] = np.clip(tails[same, 0], 0, 3 * middle[0])
    return tails


def widths(parameters: Floats, kind: Ints) -> Floats:
    """Median standard deviation of the kind of every column, px."""
    sigma = 1 / np.sqrt(parameters[:, 4] * parameters[:, 6])
    result = np.empty(len(sigma))
    for each in np.unique(kind):
        result[kind == each] = np.median(sigma[kind == each])
    return result


@dataclass(frozen=True)
class Surroundings:
    """Which columns stand around which, by rows.

    Attributes
    ----------
    any : (n, k) array
        Nearest columns of all kinds.
    same : tuple of ((m,) array, (m, k) array)
        For each kind its rows, and the nearest columns of that kind.
    """

    any: Ints
    same: tuple[tuple[Ints, Ints], ...]

    @classmethod
    def of(cls, position: Floats, kind: Ints) -> Surroundings:
        """From positions (n, 2)."""

        def nearest(rows: Ints) -> Ints:
            found = KDTree(position[rows]).query(position[rows], min(_AROUND, len(rows)))[1]
            return rows[found.reshape(len(rows), -1)]

        kinds = [np.flatnonzero(kind == each) for each in np.unique(kind)]
        return cls(nearest(np.arange(len(kind))), tuple((rows, nearest(rows)) for rows in kinds))


def background(parameters: Floats, kind: Ints, around: Ints) -> tuple[Floats, Floats]:
    """Slope (n, 2) and level (n,) of the background at every column, from the columns around it.

    A slope inside one window cannot be told from a displacement; over some cells it can. With too few columns
    the slope is zero and the level NaN.
    """
    position, level = parameters[:, 2:4], parameters[:, 1]
    if around.shape[1] < _FEWEST:
        return np.zeros((len(level), 2)), np.full(len(level), np.nan)
    away = position[around] - position[:, None]
    # Each other kind of column may sit on a level of its own.
    own = [(kind[around] == each) - (kind[:, None] == each).astype(float) for each in np.unique(kind)[1:]]
    design = np.stack([away[..., 0], away[..., 1], np.ones(around.shape), *own], -1)
    near = level[around]
    middle = np.median(near, 1, keepdims=True)
    spread = np.median(np.abs(near - middle), 1, keepdims=True)
    weighted = design * (np.abs(near - middle) <= 5 * spread)[..., None]
    normal = weighted.transpose(0, 2, 1) @ design
    size = np.sqrt(np.einsum("nii->ni", normal)) + 1e-9
    normal /= size[:, :, None] * size[:, None, :]
    normal += 1e-6 * np.eye(normal.shape[1])
    right = (weighted.transpose(0, 2, 1) @ near[..., None])[..., 0] / size
    solution = np.linalg.solve(normal, right[..., None])[..., 0] / size
    return solution[:, :2], solution[:, 2]


@dataclass(frozen=True)
class Prior:
    """Independent Gaussians: mean and precision of every parameter of every column, (n, 7) arrays."""

    mean: Floats
    weight: Floats

    @classmethod
    def none(cls, count: int) -> Prior:
        """Nothing is known."""
        return cls(np.zeros((count, 7)), np.zeros((count, 7)))

    def of(self, rows: NDArray[np.bool_] | Ints) -> Prior:
        """Of some of the columns."""
        return Prior(self.mean[rows], self.weight[rows])


def learned(
    parameters: Floats, kind: Ints, level: Floats, sample: Ints, covariance: Floats, around: Surroundings
) -> Prior:
    """What shape and background each column is likely to have, as those around it have them.

    Empirical Bayes: the spread of a parameter over columns, less the part that noise explains, is how much columns
    truly differ. Where they differ by more than the noise, the prior has next to no weight.

    Parameters
    ----------
    parameters : (n, 7) array
        Fitted without a prior.
    kind : (n,) array
    level : (n,) array
        Background by the columns around, from `background`; NaN where there are too few.
    sample : (m,) array
        Rows whose precision is known.
    covariance : (m, 7, 7) array
        Of those.
    around : Surroundings
    """
    mean, weight = np.zeros_like(parameters), np.zeros_like(parameters)
    good = np.isfinite(covariance).all((1, 2))
    for rows, near in around.same:
        known = covariance[good & (kind[sample] == kind[rows[0]])]
        if near.shape[1] < _FEWEST or len(known) < _FEWEST or np.isnan(level[rows]).any():
            continue
        for n in (1, *_SHAPE):
            expected = level[rows] if n == 1 else np.median(parameters[near, n], 1)
            spread = (1.4826 * float(np.median(np.abs(parameters[rows, n] - expected)))) ** 2
            noise = float(np.median(known[:, n, n]))
            scale = float(np.median(parameters[rows, 0 if n == 1 else 4]))
            mean[rows, n] = expected
            weight[rows, n] = 1 / max(spread - noise, (_NARROWEST_PRIOR * scale) ** 2)
    return Prior(mean, weight)


def scatter(position: Floats, index: Ints) -> float:
    """Variance of positions (mean of x and y) about the mean of their four neighbours on the lattice.

    An upper bound for the variance of errors, as slow strain drops out and real disorder adds; infinite where there are
    too few columns.

    Parameters
    ----------
    position : (n, 2) array
        Of one kind.
    index : (n, 2) array
        Lattice indices.
    """
    low = index.min(0) - 1
    table = np.full(tuple(index.max(0) - low + 2), -1)
    table[tuple((index - low).T)] = np.arange(len(index))
    near = np.stack([table[tuple((index + step - low).T)] for step in ((1, 0), (-1, 0), (0, 1), (0, -1))], 1)
    whole = (near >= 0).all(1)
    if whole.sum() < _FEWEST_SCATTER:
        return float("inf")
    away = position[whole] - position[near[whole]].mean(1)
    # The mean of four adds a quarter.
    return float(((1.4826 * np.median(np.abs(away), 0)) ** 2).mean() / 1.25)
