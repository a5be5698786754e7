"""Measure one image of a periodic specimen and match it to the columns that are truly there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .calibration import pixel_sizes
from .cells import whole_cells
from .columns import FittedColumns
from .errors import ImageError
from .lattice import Lattice, reduced
from .measuring import check_spacing, fit_columns, neighbour_distance, straight_lattice, usable
from .motif import MOTIFS, perovskites
from .pairs import pair_moves
from .tables import principal_axes

Floats = NDArray[np.float64]

_PM = 100.0
_MARGIN = 1.5  # cells added around an image that covers whole periods, so that no column is at an edge


@dataclass(frozen=True)
class TruthColumns:
    """Measured values on the unique columns and cells of the truth, NaN where none was matched.

    Attributes
    ----------
    shift : (n, 2) array
        Fitted minus true, pm.
    pair_shift : (p, n, 2) array
        The same of every phonon pair, pm.
    shape : (n, 5) array
        Amplitude, sigma_major, sigma_minor (Å), cosine and sine of 2 theta.
    cell_d : (m, 2) array
        Apparent displacement, pm.
    """

    shift: Floats
    pair_shift: Floats
    shape: Floats
    cell_d: Floats


@dataclass(frozen=True)
class Grid:
    """Pixels shared by all images of a series.

    Attributes
    ----------
    first, step : (2,) arrays
        Position of the first pixel and pixel size along x and y, Å.
    count : (2,) array of int
        Pixels along x and y.
    """

    first: Floats
    step: Floats
    count: NDArray[np.int64]

    @classmethod
    def of(cls, image: xr.DataArray) -> Grid:
        """From the coordinates of an image with dims ("y", "x"), Å."""
        return cls(
            np.array([float(image[axis][0]) for axis in ("x", "y")]),
            np.array(pixel_sizes(image)),
            np.array([image.sizes[axis] for axis in ("x", "y")]),
        )

    @property
    def last(self) -> Floats:
        """Position of the last pixel, Å."""
        return self.first + (self.count - 1) * self.step


@dataclass(frozen=True)
class Truth:
    """The columns of one period.

    Attributes
    ----------
    position : (n, 2) array
        Å.
    is_a : (n,) bool array
    cell_position : (m, 2) array
        Of B, Å.
    cell_d : (m, 2) array
        pm.
    period : (2,) array
        Å along x and y.
    """

    position: Floats
    is_a: NDArray[np.bool_]
    cell_position: Floats
    cell_d: Floats
    period: Floats

    @property
    def lattice(self) -> Floats:
        """(2, 2) reduced A-A vectors, Å, averaged over the period."""
        a = self.position[self.is_a]
        tiles = np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3)]) * self.period
        tiled = (a[:, None] + tiles).reshape(-1, 2)
        steps = (tiled[None, :, :] - a[:, None, :]).reshape(-1, 2)
        length = np.hypot(*steps.T)
        cell = np.sqrt(self.period.prod() / len(a))
        steps = steps[(length > 0.3 * cell) & (length < 2.5 * cell)]
        steps = steps[np.argsort(np.hypot(*steps.T))]
        first = steps[0]
        sine = np.abs(steps[:, 0] * first[1] - steps[:, 1] * first[0]) / (
            np.hypot(*steps.T) * np.hypot(*first)
        )
        second = steps[sine > 0.5][0]
        means = [steps[np.hypot(*(steps - v).T) < 0.3 * np.hypot(*v)].mean(0) for v in (first, second)]
        return reduced(np.array(means))

    def guess(self, middle: Floats, zone: str) -> Lattice:
        """Lattice in Å around an A column near the middle of an image.

        Raises
        ------
        ImageError
            B does not sit where the zone wants it.
        """
        if zone not in MOTIFS:
            raise ImageError(f"zone={zone!r} is unknown; choose one of {', '.join(MOTIFS)}.")
        vectors = self.lattice
        motifs = perovskites(zone)
        fractions = [motif.fractions[motif.centre] for motif in motifs]
        a, b = self.position[self.is_a], self.position[~self.is_a]
        misfit = []
        for fraction in fractions:
            gap = b[:, None] - (a[None] + fraction @ vectors)
            gap -= np.rint(gap / self.period) * self.period
            misfit.append(float(np.hypot(gap[..., 0], gap[..., 1]).min(1).mean()))
        spacing = float(np.hypot(*(fractions[int(np.argmin(misfit))] @ vectors)))
        if min(misfit) > 0.3 * spacing:
            raise ImageError(f"zone {zone}: the truth's B columns do not sit there; use the other zone.")
        # Of all copies, an A column near the image's middle: growth is surest from there.
        copies = a + np.rint((middle - a) / self.period) * self.period
        origin = copies[np.argmin(np.hypot(*(copies - middle).T))]
        return Lattice(
            (float(origin[0]), float(origin[1])), (float(vectors[0, 0]), float(vectors[0, 1])),
            (float(vectors[1, 0]), float(vectors[1, 1])), motifs[int(np.argmin(misfit))], "Å",
        )  # fmt: skip


@dataclass(frozen=True)
class Matcher:
    """Measures all images of one phase.

    Attributes
    ----------
    truth : Truth
    grid : Grid
        Of the images.
    zone : {"100", "110"}
    window : float, optional
        Radius of the fit windows in A-B distances, see `analysis.measure`.
    weights : {"poisson", "uniform", "auto"}
    """

    truth: Truth
    grid: Grid
    zone: str
    window: float | None = None
    weights: str = "poisson"

    def measure(
        self, pairs: Floats, start: FittedColumns | None = None
    ) -> tuple[TruthColumns, FittedColumns]:
        """Fit the mean over phonon pairs, then each pair, and average the copies of every unique column.

        Parameters
        ----------
        pairs : (p, ny, nx) array
            Images of one tilt and thickness.
        start : FittedColumns, optional
            Of a similar image of the same phase, to begin from.

        Returns
        -------
        TruthColumns, FittedColumns
            The second, all columns of the mean image in px, is a start for the next.

        Raises
        ------
        ImageError
            The image cannot be measured, or less than half of the true columns are found in it.
        """
        pairs = self._extended(pairs)
        values = usable(pairs.mean(0))
        near = neighbour_distance(self._guess)
        fitted = fit_columns(values, self._guess, near, self.window, self.weights, start)
        straight = straight_lattice(fitted, self._guess)[0].scaled(self.grid.step[0], self.grid.step[1], "Å")
        check_spacing(straight)
        row, gap, offset = self._matched(fitted, straight.neighbour_distance)
        use = row >= 0
        count = len(self.truth.position)
        shape = principal_axes(fitted.fit.parameters[:, 4:], self.grid.step)
        twice = 2 * shape[:, 2]
        values_of = np.column_stack(
            [gap * _PM, fitted.fit.parameters[:, 0], shape[:, :2], np.cos(twice), np.sin(twice)]
        )
        mean = _average(values_of[use], row[use], count)
        if len(pairs) > 1:
            moves = pair_moves(pairs, values, fitted) * self.grid.step * _PM
            pair_shift = mean[:, :2] + np.stack([_average(one[use], row[use], count) for one in moves])
        else:
            pair_shift = mean[None, :, :2]
        cell_d = self._cells(fitted, straight, offset)
        return TruthColumns(mean[:, :2], pair_shift, mean[:, 2:], cell_d), fitted

    @cached_property
    def _pad(self) -> NDArray[np.int64]:
        """Pixels along x and y by which an image that covers whole periods is continued."""
        length, period = self.grid.count * self.grid.step, self.truth.period
        repeats = np.maximum(1, np.rint(length / period))
        whole = np.abs(length - repeats * period) < 0.25 * self.grid.step
        margin = _MARGIN * float(np.hypot(*self.truth.lattice.T).max())
        return np.where(whole, np.ceil(margin / self.grid.step), 0).astype(int)

    @cached_property
    def _guess(self) -> Lattice:
        """In px of the continued image."""
        found = self.truth.guess(0.5 * (self.grid.first + self.grid.last), self.zone)
        found = found.scaled(1 / self.grid.step[0], 1 / self.grid.step[1], "px")
        first = self.grid.first / self.grid.step - self._pad
        moved = float(found.origin[0] - first[0]), float(found.origin[1] - first[1])
        return Lattice(moved, found.a, found.b, found.motif)

    def _extended(self, images: Floats) -> Floats:
        (x, y) = self._pad
        return np.pad(images, ((0, 0), (y, y), (x, x)), mode="wrap") if x or y else images

    def _positions(self, fitted: FittedColumns) -> Floats:
        """Å on the truth's coordinates."""
        return (fitted.fit.parameters[:, 2:4] - self._pad) * self.grid.step + self.grid.first

    def _inside(self, position: Floats, margin: float) -> NDArray[np.bool_]:
        """Within the image proper, without what a periodic continuation added."""
        within = (position > self.grid.first - margin) & (position < self.grid.last + margin)
        return np.asarray(within.all(1))

    def _matched(self, fitted: FittedColumns, near: float) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Row of the truth of every fitted column or −1, its way from there, and the common drift, Å."""
        truth, position = self.truth, self._positions(fitted)
        good = (fitted.flag == 0) & self._inside(position, 0.25 * near)
        # Under tilt all columns drift by up to half an Å together: match on what is left.
        offset = np.zeros(2)
        for _ in range(4):
            row, gap = np.full(len(position), -1), np.zeros_like(position)
            for kind in (True, False):
                true, here = np.flatnonzero(truth.is_a == kind), np.flatnonzero(good & (fitted.is_a == kind))
                nearest, gap[here] = _nearest(truth.position[true], position[here] - offset, truth.period)
                row[here] = np.where(np.hypot(*gap[here].T) < 0.5 * near, true[nearest], -1)
            gap += offset
            if not (row >= 0).any():
                break
            offset = np.median(gap[row >= 0], 0)
        for kind, site in ((True, "A"), (False, "B")):
            wanted = np.flatnonzero(truth.is_a == kind)
            seen = np.isin(wanted, row).sum()
            if seen < 0.5 * len(wanted):
                raise ImageError(
                    f"only {seen} of {len(wanted)} true {site} columns are found; check the truth's positions and periods."
                )
        return row, gap, offset

    def _cells(self, fitted: FittedColumns, lattice: Lattice, offset: Floats) -> Floats:
        """Apparent displacement of every unique cell, pm."""
        truth, near, position = self.truth, lattice.neighbour_distance, self._positions(fitted)
        b_row, corners = whole_cells(fitted.index, fitted.is_a, fitted.kind == lattice.motif.centre, lattice)
        good = (fitted.flag[b_row] == 0) & (fitted.flag[corners] == 0).all(1)
        good &= self._inside(position[b_row], 0.25 * near)
        b_row, corners = b_row[good], corners[good]
        d = (position[corners].mean(1) - position[b_row]) * _PM
        row, gap = _nearest(truth.cell_position, position[b_row] - offset, truth.period)
        close = np.hypot(*gap.T) < 0.5 * near
        return _average(d[close], row[close], len(truth.cell_position))


def read_truth(truth: xr.Dataset, name: str) -> Truth:
    """Check and unpack the truth of one phase.

    Parameters
    ----------
    truth : xr.Dataset
        As `analysis.tilt_response` describes.
    name : str
        Of the phase, for messages.

    Raises
    ------
    ImageError
        A variable or attribute is missing.
    """
    for variable in ("x", "y", "site", "cell_x", "cell_y", "cell_d"):
        if variable not in truth:
            raise ImageError(f"truth of phase {name!r}: lacks the variable '{variable}'; add it.")
    for attribute in ("period_x", "period_y"):
        if not float(truth.attrs.get(attribute, 0)) > 0:
            raise ImageError(
                f"truth of phase {name!r}: lacks a positive attribute '{attribute}' (Å); add it."
            )
    site = truth["site"].values.astype(str)
    # Oxygen and other light columns may be listed; the image does not show them.
    seen = np.isin(site, ("A", "B"))
    is_a = site[seen] == "A"
    if is_a.all() or not is_a.any():
        raise ImageError(
            f"truth of phase {name!r}: needs columns of both sites 'A' and 'B'; add the missing ones."
        )
    return Truth(
        np.stack([truth["x"].values, truth["y"].values], 1)[seen].astype(float),
        is_a,
        np.stack([truth["cell_x"].values, truth["cell_y"].values], 1).astype(float),
        truth["cell_d"].transpose("cell", "component").values.astype(float),
        np.array([float(truth.attrs["period_x"]), float(truth.attrs["period_y"])]),
    )


def _nearest(true: Floats, position: Floats, period: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Row of the nearest periodic copy, and the way from it to the position."""
    if len(position) == 0:
        return np.empty(0, np.int64), np.empty((0, 2))
    wrapped = [np.where(p >= period, 0.0, p) for p in (np.mod(true, period), np.mod(position, period))]
    row = KDTree(wrapped[0], boxsize=period).query(wrapped[1])[1]
    gap = position - true[row]
    return row, gap - np.rint(gap / period) * period


def _average(values: Floats, row: NDArray[np.int64], count: int) -> Floats:
    total = np.zeros((count, values.shape[1]))
    np.add.at(total, row, values)
    number = np.bincount(row, minlength=count)[:, None]
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
