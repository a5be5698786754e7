"""Fit every column of an image, all of them together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import population
from .engines import COMPILED, Engine
from .growth import Sites, coverage
from .guesses import COVERED, carried, first_guess, ghosts_of, radii
from .noise import Noise, assumed, measured, residuals
from .population import Prior, Surroundings
from .sweeps import Mixing, Setting, draw, sweep_all
from .uncertainty import Fit, assessed, precisions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Bits of the flag of a column and of a cell.
FLAG_POOR_FIT, FLAG_EDGE, FLAG_NOT_CONVERGED = 1, 2, 4
FLAGS = {"poor_fit": FLAG_POOR_FIT, "edge": FLAG_EDGE, "not_converged": FLAG_NOT_CONVERGED}
FLAG_ATTRS = {
    "units": "1",
    "flag_masks": np.array(list(FLAGS.values()), np.uint8),
    "flag_meanings": " ".join(FLAGS),
    "note": "0 is good",
}

#: A column is fitted if this fraction of the window holds data, and flagged "edge" below the second.
LEAST_COVERAGE, FULL_COVERAGE = 0.6, 0.8

_SWEEPS = 20
_SAMPLE = 600  # columns that tell how precise a fit is
_IN_NOISE = 0.05  # standard errors: or less than this
_SETTLED = 2e-4  # px: sweeps end when 90 % of the columns move less
_STEPS = (8, 4, 3)  # of one fit, in the first sweeps and in those that start near the answer
_PRUNE = 3  # sweep before which columns that are not there are given up
_SLOWER = 0.7  # of the sweep before: columns that still move by more than this do not settle by themselves
_COARSE = 0.6  # standard errors: columns that move less are good enough to learn from
_POOR_RESIDUAL = 5.0  # times the median residual of its kind
_EXACT = 0.02  # of the amplitude: a residual below this is never poor, even in an image without noise
_WIDEST = 0.59  # standard deviation, in A-B distances: at the bound of the fit
_STRAYED = 0.35  # of the A-B distance, away from where the lattice expects the column
_STRAY = 0.2  # of its brightness is left to a column that is not where it should be, while others settle
_FAINT = 0.2  # of the median amplitude of its kind: below, there is no column
_SEEN = 5.0  # standard errors: the best of many places for a column in noise alone reaches nearly as far


@dataclass(frozen=True)
class FittedColumns:
    """All columns inside the image, in px.

    Attributes
    ----------
    fit : Fit
    index : (n, 2) array
    kind : (n,) array
        0 is A.
    flag : (n,) uint8 array
    absent : int
        Sites without a column.
    expected : int
        A columns that the crystal's outline should hold.
    settled : bool
        Whether the sweeps have ended by themselves.
    sweeps : int
        Rounds of fitting with what neighbours showed in the round before.
    last_move : float
        90 % of the columns moved less in the last round, px.
    residual_correlation : float
        Of the residuals of pixels side by side; near 0 for white noise.
    setting : Setting
    """

    fit: Fit
    index: Ints
    kind: Ints
    flag: NDArray[np.uint8]
    absent: int
    expected: int
    settled: bool
    sweeps: int
    last_move: float
    residual_correlation: float
    setting: Setting

    @property
    def is_a(self) -> NDArray[np.bool_]:
        """Which are A columns."""
        return self.kind == 0


def refine(
    values: Floats,
    sites: Sites,
    *,
    near: float,
    window: float | None = None,
    weights: str = "auto",
    start: FittedColumns | None = None,
    engine: Engine = COMPILED,
) -> FittedColumns:
    """Fit an elliptical Gaussian on a sloping background to every site, sweeping until neighbours agree.

    Parameters
    ----------
    values : (ny, nx) array
        NaN pixels take no part.
    sites : Sites
        From `analysis.growth.grow`.
    near : float
        Shortest A-B distance, px.
    window : float, optional
        Radius of the circular windows in A-B distances; by default 3 median standard deviations of each
        kind of column, where nearly all that an image says about a position is.
    weights : {"auto", "poisson", "uniform"}
        Variance of a pixel: measured in the image (a line in intensity), proportional to intensity, or the same
        everywhere.
    start : FittedColumns, optional
        Of an image of the same crystal that looks much alike, on the same pixels: saves sweeps.
    engine : Engine
        What draws and fits in the sweeps.

    Returns
    -------
    FittedColumns

    Notes
    -----
    Columns beyond the border are given the shape of the nearest fitted column of their kind and stay at
    a fixed distance from it.

    Weights follow the model of the sweep before, so that what the sweeps lead to is the maximum of the
    likelihood for that noise (iteratively reweighted least squares).
    """
    run = _Run.begun(values, sites, near, window, weights, start, engine)
    for _ in range(_SWEEPS):
        if run.sweep == _PRUNE:
            run.prune()
        run.share(steady=run.sweep > 0 or start is not None)
        run.learn()
        run.fit()
        if run.settled and run.sweep > (_PRUNE if start is None else 0) + 1:
            break
    return run.finished(int(sites.inside.sum()), sites.expected)


def in_units(fitted: FittedColumns, shift: float, scale: float) -> FittedColumns:
    """Columns that were fitted in (image − shift) / scale, with intensities in the image's own unit."""
    fit, noise = fitted.fit, fitted.setting.noise
    factor = np.ones(7)
    factor[:2] = scale
    parameters = fit.parameters * factor
    parameters[:, 1] += shift
    fit = replace(
        fit,
        parameters=parameters,
        covariance=fit.covariance * np.outer(factor, factor),
        residual=fit.residual * scale,
    )
    unit = Noise(
        noise.offset * scale**2 - noise.gain * scale * shift,
        noise.gain * scale,
        noise.least * scale**2,
        noise.measured,
    )
    return replace(fitted, fit=fit, setting=replace(fitted.setting, noise=unit))


@dataclass
class _Run:
    """All that changes from sweep to sweep; rows are columns."""

    values: Floats
    near: float
    window: float | None
    index: Ints
    kind: Ints
    expected: Floats
    parameters: Floats
    setting: Setting
    typical: float  # intensity
    measuring: bool  # whether the noise is measured
    tails: Floats  # parameters as the next sweep starts from, and subtracts from neighbours
    previous: Floats
    around: Surroundings
    engine: Engine
    held: Any  # values, as the engine takes them
    # Columns that know from each other what to look like settle without help.
    mixing: Mixing | None = field(default_factory=Mixing)
    sweep: int = 0
    moved: float = np.inf
    moved_before: float = np.inf
    error: float = 0.0  # of a typical position, px; 0 while not known
    knowing: bool = False

    @classmethod
    def begun(
        cls,
        values: Floats,
        sites: Sites,
        near: float,
        window: float | None,
        weights: str,
        start: FittedColumns | None,
        engine: Engine,
    ) -> _Run:
        inside = np.flatnonzero(sites.inside)
        kind, expected = sites.kind[inside], sites.position[inside]
        parameters, lower, upper = first_guess(values, expected, near)
        if start is not None:
            good = start.flag == 0
            parameters = carried(parameters, kind, start.fit.parameters[good], start.kind[good], near)
            parameters = np.clip(parameters, lower, upper)
        typical = float(np.median(parameters[:, 1] + 0.5 * np.abs(parameters[:, 0])))
        measuring = weights == "auto"
        setting = Setting(
            np.zeros((len(kind), 2)), radii(parameters, kind, near, window or (COVERED if start is None else None)),
            assumed("uniform" if measuring else weights, typical), Prior.none(len(kind)), lower, upper,
            ghosts_of(sites, inside),
        )  # fmt: skip
        return cls(
            values, near, window, sites.index[inside], kind, expected, parameters, setting, typical, measuring,
            parameters, parameters, Surroundings.of(expected, kind), engine, engine.hold(values), knowing=not measuring,
        )  # fmt: skip

    def there(self, parameters: Floats) -> NDArray[np.bool_]:
        """Columns that are there: bright enough for their kind, and where the lattice expects them."""
        result = np.hypot(*(parameters[:, 2:4] - self.expected).T) < _STRAYED * self.near
        for each in np.unique(self.kind):
            same = self.kind == each
            result[same] &= parameters[same, 0] > _FAINT * np.median(parameters[same, 0])
        return result

    def prune(self) -> None:
        """Give up columns that are not there."""
        keep = np.flatnonzero(self.there(self.parameters) & self._above_noise())
        if len(keep) == len(self.kind):
            return
        gone = np.ones(len(self.kind), bool)
        gone[keep] = False
        self.setting = replace(self.setting.of(keep), ghosts=self.setting.ghosts.without(gone))
        for name in ("index", "kind", "expected", "parameters", "tails", "previous"):
            setattr(self, name, getattr(self, name)[keep])
        self.around, self.mixing = Surroundings.of(self.expected, self.kind), Mixing()

    def _above_noise(self) -> NDArray[np.bool_]:
        """Columns that noise alone would not make: nearer in brightness to their kind than to nothing, or far above it."""
        result, amplitude = np.ones(len(self.kind), bool), self.parameters[:, 0]
        typical = np.empty(len(self.kind))
        for each in np.unique(self.kind):
            typical[self.kind == each] = np.median(amplitude[self.kind == each])
        doubtful = np.flatnonzero(amplitude < 0.5 * typical)
        if len(doubtful) == 0:
            return result
        total = draw(self.values.shape, self.parameters, self.setting.ghosts)
        covariance, quality, _ = precisions(
            self.values, total, self.parameters[doubtful], self.setting.of(doubtful)
        )
        error = np.sqrt(np.nan_to_num(covariance[:, 0, 0], nan=np.inf))
        if not self.setting.noise.measured:
            error *= np.sqrt(quality[:, 1])
        result[doubtful] = amplitude[doubtful] > np.minimum(_SEEN * error, 0.5 * typical[doubtful])
        return result

    def share(self, steady: bool) -> None:
        """Settle what the columns are to each other in the next sweep: tails, background, windows."""
        if steady:
            lower = self.setting.lower.copy()
            lower[:, [4, 6]] = np.maximum(lower[:, [4, 6]], population.narrowest(self.parameters, self.kind))
            fresh = population.steadied(np.maximum(self.parameters, lower), self.kind)
            stray = ~self.there(self.parameters)
            fresh[stray, 0] *= _STRAY
            fresh[stray, 2:4] = self.expected[stray]
            if self.mixing and self.sweep > 1:
                fresh = self.mixing.next(self.tails, fresh)
            elif self.knowing and self.moved > _SLOWER * self.moved_before:
                fresh = 0.5 * (fresh + self.tails)  # to and fro: go half the way
            self.tails = fresh
            self.setting = replace(self.setting, lower=lower)
            if self.mixing:
                slope, self.level = population.background(self.tails, self.kind, self.around.any)
                self.setting = replace(self.setting, slope=slope)
            if self.sweep <= _PRUNE:
                radius = radii(self.tails, self.kind, self.near, self.window)
                self.setting = replace(self.setting, radius=radius)

    def learn(self) -> None:
        """Measure the noise, and what a column is likely to look like, once columns are near enough where they belong."""
        near = self.sweep >= _PRUNE and self.moved < max(_SETTLED, _COARSE * self.error)
        if self.knowing or not (self.sweep == 1 or near):
            return
        total = draw(self.values.shape, self.tails, self.setting.ghosts)
        left = residuals(
            self.values,
            total,
            self.tails,
            self.setting.slope,
            self.setting.radius,
            self.kind,
            self.there(self.tails),
        )
        self.setting = replace(self.setting, noise=measured(left, self.typical))
        some = np.linspace(0, len(self.tails) - 1, min(len(self.tails), _SAMPLE)).astype(int)
        alone, *_ = precisions(self.values, total, self.tails[some], self.setting.of(some))
        self.error = float(np.sqrt(np.nanmedian(np.einsum("nii->ni", alone[:, 2:4, 2:4]))))
        # What looked like noise may have been columns on their way: then sweep on.
        if near and self.moved < max(_SETTLED, _COARSE * self.error):
            prior = population.learned(self.tails, self.kind, self.level, some, alone, self.around)
            self.setting, self.mixing, self.knowing = replace(self.setting, prior=prior), None, True

    def fit(self) -> None:
        """One sweep."""
        enough = self._enough
        self.previous = self.parameters
        self.parameters, _ = sweep_all(
            self.held, self.tails, self.tails[:, 2:4], self.kind, self.setting, engine=self.engine,
            steps=_STEPS[min(self.sweep, 2)], tolerance=0.3 * enough if self.error else 1e-5,
        )  # fmt: skip
        there, step = self.there(self.parameters), np.hypot(*(self.parameters - self.previous)[:, 2:4].T)
        self.moved_before = self.moved
        self.moved = float(np.quantile(step[there], 0.9)) if there.any() else 0.0
        self.sweep += 1

    @property
    def _enough(self) -> float:
        return max(_SETTLED, _IN_NOISE * self.error)

    @property
    def settled(self) -> bool:
        """Whether sweeps can end."""
        return self.knowing and self.moved < self._enough

    def finished(self, sites: int, expected: int) -> FittedColumns:
        """Errors and flags of what the sweeps have led to."""
        total = draw(self.values.shape, self.parameters, self.setting.ghosts)
        fit, noise, correlated = assessed(
            self.values, total, self.parameters, self.previous, self.index, self.kind, self.setting,
            self.typical if self.measuring else None,
        )  # fmt: skip
        return FittedColumns(
            fit, self.index, self.kind, self._flags(fit), sites - len(self.kind), expected, self.settled, self.sweep, self.moved, correlated,
            replace(self.setting, noise=noise),
        )  # fmt: skip

    def _flags(self, fit: Fit) -> NDArray[np.uint8]:
        flag = np.zeros(len(self.kind), np.uint8)
        amplitude, position = fit.parameters[:, 0], fit.parameters[:, 2:4]
        poor = ~np.isfinite(fit.covariance).all((1, 2)) | ~self.there(fit.parameters)
        poor |= np.minimum(fit.parameters[:, 4], fit.parameters[:, 6]) <= 1 / (_WIDEST * self.near)
        poor |= amplitude < 3 * np.sqrt(np.nan_to_num(fit.covariance[:, 0, 0]))
        for each in np.unique(self.kind):
            same = self.kind == each
            typical = np.median(fit.residual[same])
            poor[same] |= fit.residual[same] > np.maximum(_POOR_RESIDUAL * typical, _EXACT * amplitude[same])
        flag[poor] |= FLAG_POOR_FIT
        flag[coverage(self.values, position, COVERED * self.near) < FULL_COVERAGE] |= FLAG_EDGE
        flag[~fit.converged] |= FLAG_NOT_CONVERGED
        return flag
