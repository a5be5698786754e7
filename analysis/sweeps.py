"""Rounds of fits: every column with the tails of all others taken away, until they agree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engines import COMPILED, Engine
from .noise import Noise
from .population import Prior

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MEMORY = 3  # earlier sweeps that the mixing learns from


@dataclass(frozen=True)
class Ghosts:
    """Columns beyond the border: never fitted, but their tails reach in.

    Attributes
    ----------
    row : (k,) array
        The fitted column that each copies.
    offset : (k, 2) array
        Its way from there, px.
    """

    row: Ints
    offset: Floats

    def without(self, gone: NDArray[np.bool_]) -> Ghosts:
        """Those whose model is not gone, with the rows that are left."""
        new, stay = np.cumsum(~gone) - 1, ~gone[self.row]
        return Ghosts(new[self.row[stay]], self.offset[stay])

    def below(self, parameters: Floats) -> Floats:
        """Parameters of the fitted columns, and below them those of the ghosts."""
        beyond = parameters[self.row]
        beyond[:, 2:4] += self.offset
        return np.vstack([parameters, beyond])


@dataclass(frozen=True)
class Setting:
    """What the last sweep fitted with, so that other images of the same columns can be fitted alike.

    Attributes
    ----------
    slope : (n, 2) array
        Of the background.
    radius : (n,) array
        Of the windows, px.
    noise : Noise
    prior : Prior
    lower, upper : (n, 7) arrays
        Bounds of the fit.
    ghosts : Ghosts
    """

    slope: Floats
    radius: Floats
    noise: Noise
    prior: Prior
    lower: Floats
    upper: Floats
    ghosts: Ghosts

    def of(self, rows: Ints) -> Setting:
        """Of some of the columns."""
        return replace(
            self, slope=self.slope[rows], radius=self.radius[rows], prior=self.prior.of(rows),
            lower=self.lower[rows], upper=self.upper[rows],
        )  # fmt: skip


def draw(shape: tuple[int, ...], parameters: Floats, ghosts: Ghosts) -> Floats:
    """Sum of all Gaussians, within and beyond the border, without backgrounds.

    Parameters
    ----------
    shape : tuple of int
        Of the image.
    parameters : (n, 7) array
        Of the columns inside the image.
    ghosts : Ghosts
    """
    return COMPILED.draw(shape, ghosts.below(parameters))


def sweep_all(
    values: Any, parameters: Floats, centre: Floats, kind: Ints, setting: Setting, *, steps: int,
    tolerance: float = 1e-5, engine: Engine = COMPILED,
) -> tuple[Floats, NDArray[np.bool_]]:  # fmt: skip
    """Fit every column once, one kind after the other: of each, the next sees where the last has put it.

    That converges however far columns overlap (it descends one likelihood); all at once, neighbours that share
    intensity would hand it to and fro.

    Parameters
    ----------
    values : (ny, nx) array
        As `engine` holds it.
    parameters : (n, 7) array
        Start.
    centre : (n, 2) array
        Of the windows, px.
    kind : (n,) array
    setting : Setting
    steps, tolerance
        See `analysis.gaussians.fit`.
    engine : Engine

    Returns
    -------
    (n, 7) array, (n,) bool array
        Parameters, and which have converged.
    """
    now, converged = parameters.copy(), np.zeros(len(parameters), bool)
    everywhere = np.concatenate([kind, kind[setting.ghosts.row]])

    def drawn(each: int) -> Any:
        return engine.draw(values.shape, setting.ghosts.below(now)[everywhere == each])

    kinds = np.unique(kind)
    shown = {each: drawn(each) for each in kinds}
    for each in kinds:
        total = reduce(add, shown.values())
        rows = np.flatnonzero(kind == each)
        s = setting.of(rows)
        now[rows], converged[rows] = engine.fit(
            values, total, now[rows], centre[rows], s.slope, s.radius, s.noise.as_array, s.prior.mean, s.prior.weight,
            s.lower, s.upper, steps, tolerance,
        )  # fmt: skip
        if each != kinds[-1]:
            shown[each] = drawn(each)
    return now, converged


class Mixing:
    """Anderson mixing: finds where sweeps lead to, from how the last few of them went.

    Columns correct each other's tails with alternating sign, and trade width for background slowly; plain
    sweeps converge slowly for both reasons.
    """

    def __init__(self) -> None:
        self.inputs: list[Floats] = []
        self.outputs: list[Floats] = []

    def next(self, given: Floats, result: Floats) -> Floats:
        """Where to start the next sweep, after one that led from `given` to `result`."""
        self.inputs = [*self.inputs, given][-_MEMORY - 1 :]
        self.outputs = [*self.outputs, result][-_MEMORY - 1 :]
        rest = [out - into for out, into in zip(self.outputs, self.inputs, strict=True)]
        # Every parameter counts in units of how much it still moves; columns that jump are left out.
        size = np.median(np.abs(rest[-1]), 0) + 1e-12 * np.abs(given).max(0) + np.finfo(float).tiny
        calm = (np.abs(rest[-1]) < 10 * size).all(1)
        if len(rest) < 2 or not calm.any():
            return result
        steps = np.stack([((rest[-1] - r) / size)[calm].ravel() for r in rest[:-1]], 1)
        share, *_ = np.linalg.lstsq(steps, (rest[-1] / size)[calm].ravel(), rcond=1e-3)
        share = np.clip(share, -2, 2)
        mixed = result.copy()
        for weight, out in zip(share, self.outputs[:-1], strict=True):
            mixed -= weight * (result - out)
        return mixed
