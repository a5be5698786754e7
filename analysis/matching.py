"""Measure one image of a periodic specimen and match it to the columns that are truly there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .calibration import pixel_sizes
from .columns import WINDOW
from .errors import ImageError
from .lattice import B_FRACTIONS, Lattice, reduced
from .measuring import Measurement, measure

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
    shape : (n, 5) array
        Amplitude, sigma_major, sigma_minor (Å), cosine and sine of 2 theta.
    cell_d : (m, 2) array
        Apparent displacement, pm.
    """

    shift: Floats
    shape: Floats
    cell_d: Floats


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

    def measure(self, image: xr.DataArray, zone: str, window: float | None) -> TruthColumns:
        """Fit one image and average the copies of every unique column.

        Parameters
        ----------
        image : xr.DataArray
            dims ("y", "x"), Å on the truth's coordinates.
        zone : {"100", "110"}
        window : float or None
            See `analysis.measure`.

        Raises
        ------
        ImageError
            The image cannot be measured, or less than half of the true columns are found in it.
        """
        extended = _extended(image, self.period, _MARGIN * float(np.hypot(*self.lattice.T).max()))
        measurement = measure(
            extended, zone=zone, window=WINDOW if window is None else window, lattice=self._guess(image, zone)
        )
        return self._matched(measurement, image)

    def _guess(self, image: xr.DataArray, zone: str) -> Lattice:
        vectors = self.lattice
        fractions = B_FRACTIONS[zone]
        a, b = self.position[self.is_a], self.position[~self.is_a]
        misfit = []
        for fraction in fractions:
            gap = b[:, None] - (a[None] + np.array(fraction) @ vectors)
            gap -= np.rint(gap / self.period) * self.period
            misfit.append(float(np.hypot(gap[..., 0], gap[..., 1]).min(1).mean()))
        spacing = float(np.hypot(*(np.array(fractions[int(np.argmin(misfit))]) @ vectors)))
        if min(misfit) > 0.3 * spacing:
            raise ImageError(f"zone {zone}: the truth's B columns do not sit there; use the other zone.")
        # Of all copies, an A column near the image's middle: growth is surest from there.
        middle = np.array([float(image["x"].mean()), float(image["y"].mean())])
        copies = a + np.rint((middle - a) / self.period) * self.period
        origin = copies[np.argmin(np.hypot(*(copies - middle).T))]
        return Lattice(
            (float(origin[0]), float(origin[1])), (float(vectors[0, 0]), float(vectors[0, 1])),
            (float(vectors[1, 0]), float(vectors[1, 1])), fractions[int(np.argmin(misfit))], zone, "Å",
        )  # fmt: skip

    def _matched(self, measurement: Measurement, image: xr.DataArray) -> TruthColumns:
        near = measurement.lattice.neighbour_distance
        columns = _inside(measurement.columns, image, 0.25 * near)
        fitted_a = columns["site"].values == "A"
        fitted = np.stack([columns["x"].values, columns["y"].values], 1)
        theta = columns["theta"].values
        shape = np.stack(
            [columns[name].values for name in ("amplitude", "sigma_major", "sigma_minor")]
            + [np.cos(2 * theta), np.sin(2 * theta)], 1,
        )  # fmt: skip
        # Under tilt all columns drift by up to half an Å together: match on what is left.
        offset = np.zeros(2)
        for _ in range(4):
            row, gap = np.full(len(fitted), -1), np.zeros_like(fitted)
            for kind in (True, False):
                true, here = np.flatnonzero(self.is_a == kind), np.flatnonzero(fitted_a == kind)
                nearest, gap[here] = _nearest(self.position[true], fitted[here] - offset, self.period)
                row[here] = np.where(np.hypot(*gap[here].T) < 0.5 * near, true[nearest], -1)
            if not (row >= 0).any():
                break
            offset = offset + np.median(gap[row >= 0], 0)
            gap = gap - np.median(gap[row >= 0], 0)
        for kind, site in ((True, "A"), (False, "B")):
            wanted = np.flatnonzero(self.is_a == kind)
            seen = np.isin(wanted, row).sum()
            if seen < 0.5 * len(wanted):
                raise ImageError(
                    f"only {seen} of {len(wanted)} true {site} columns are found; check the truth's positions and periods."
                )
        use = row >= 0
        values = np.column_stack([(gap + offset)[use] * _PM, shape[use]])
        mean = _average(values, row[use], len(self.position))
        cells = _inside(measurement.unit_cells, image, 0.25 * near)
        centre = np.stack([cells["x"].values, cells["y"].values], 1) - offset
        cell_row, cell_gap = _nearest(self.cell_position, centre, self.period)
        close = np.hypot(*cell_gap.T) < 0.5 * near
        d = _average(cells["d"].values[close], cell_row[close], len(self.cell_position))
        return TruthColumns(mean[:, :2], mean[:, 2:], d)


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


def _extended(image: xr.DataArray, period: Floats, margin: float) -> xr.DataArray:
    """The image continued periodically, if it covers whole periods; else itself."""
    values, coords = image.values, {}
    for axis, step, length in zip(("x", "y"), pixel_sizes(image), period, strict=True):
        count = image.sizes[axis]
        repeats = max(1, round(count * step / length))
        at = image[axis].values
        if abs(count * step - repeats * length) < 0.25 * step:
            pad = int(np.ceil(margin / step))
            values = np.pad(
                values, [(pad, pad) if dim == axis else (0, 0) for dim in image.dims], mode="wrap"
            )
            at = at[0] + step * np.arange(-pad, count + pad)
        coords[axis] = (axis, at, {"units": "Å"})
    return xr.DataArray(values, coords, image.dims, attrs={"units": "1", "calibrated": 1})


def _inside(table: xr.Dataset, image: xr.DataArray, margin: float) -> xr.Dataset:
    """Unflagged rows within the image proper, without what a periodic continuation added."""
    keep = table["flag"].values == 0
    for axis in ("x", "y"):
        keep &= table[axis].values > float(image[axis][0]) - margin
        keep &= table[axis].values < float(image[axis][-1]) + margin
    return table.isel({table["flag"].dims[0]: np.flatnonzero(keep)})


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
