"""The response of cells at any displacement, composition, tilt and thickness, and its derivatives."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError

from tiltsim.errors import SettingsError
from tiltsim.lens import LensBox
from tiltsim.library import splines
from tiltsim.library.request import FORMAT, LibraryRequest
from tiltsim.output import read_dataset

#: What the response can be differentiated by, and its units.
PARAMETERS = {"tilt_x": "mrad", "tilt_y": "mrad", "thickness": "Å", "d_x": "pm", "d_y": "pm", "samarium": "1"}

#: How far beyond the outermost d the parabolas are still used, in steps of d.
_BEYOND = 0.5

#: What a library holds, and what is added for a lens.
_ARRAYS = ("coefficients", "scores_BiFeO3", "scores_samarium", "scores_SrTiO3")
_LENS_ARRAYS = ("lens_coefficients", "lens_scores_BiFeO3", "lens_scores_SrTiO3", "library_error")

#: Fourier coefficients of less than this share of the largest are none.
_NOTHING = 1e-6

#: Thicknesses whose errors stand for that of a specimen.
_NEAR_THICKNESSES = 3

Parameter = Literal["tilt_x", "tilt_y", "thickness", "d_x", "d_y", "samarium"]


@dataclass(frozen=True, eq=False)
class Library:
    """A response library, ready to be asked.

    Parameters
    ----------
    dataset : xarray.Dataset
        From :func:`tiltsim.library.build_library`.
    """

    dataset: xr.Dataset

    @property
    def digest(self) -> str:
        """Of what was asked for and of the numbers that came of it."""
        content = hashlib.sha256(str(self.dataset.attrs["digest"]).encode())
        for name in (*_ARRAYS, *(_LENS_ARRAYS if self.lens else ())):
            content.update(np.ascontiguousarray(self.dataset[name].values).tobytes())
        return content.hexdigest()[:16]

    @cached_property
    def edges(self) -> dict[str, float]:
        """Pseudocubic edge of every material, Å."""
        return {str(k): float(v) for k, v in json.loads(self.dataset.attrs["edges_angstrom"]).items()}

    @property
    def materials(self) -> tuple[str, ...]:
        """Names of the materials, in the order of their numbers."""
        return tuple(self.edges)

    @cached_property
    def tilt_limit(self) -> float:
        """Largest tilt along x and along y, mrad."""
        return float(self.dataset.tilt_x[-1])

    @cached_property
    def thickness_range(self) -> tuple[float, float]:
        """Least and largest thickness that all materials have, Å."""
        cells = self.dataset.cells.values
        return float(cells[0] * max(self.edges.values())), float(cells[-1] * min(self.edges.values()))

    @cached_property
    def d_limit(self) -> float:
        """Largest |d| along x and along y, pm."""
        d = self.dataset.d_x.values
        return float(d[-1] + _BEYOND * (d[-1] - d[-2]))

    @cached_property
    def splines(self) -> NDArray[np.float32]:
        """Spline coefficients, shape (site, row, tilt_x + 2, tilt_y + 2, cells + 2, mode)."""
        d = self.dataset
        return _splined(d.scores_BiFeO3.values, d.scores_samarium.values, d.scores_SrTiO3.values)

    @cached_property
    def lens(self) -> LensBox | None:
        """Aberrations that the library answers for, beside its microscope's."""
        return self.request.lens

    @cached_property
    def lens_splines(self) -> NDArray[np.float32]:
        """As :attr:`splines`, of the lens' modes."""
        d = self.dataset
        null = d.lens_scores_SrTiO3.values
        return _splined(d.lens_scores_BiFeO3.values, np.zeros_like(null), null)

    @cached_property
    def lens_orders(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Orders, numbered row by row, of :attr:`lens_coefficients`, and those of opposite sign, whose coefficients are conjugate.

        Images are real, and a probe lets nothing through beyond the diameter of its aperture.
        """
        orders = self.dataset.order_x.values
        n = len(orders)
        y, x = np.meshgrid(orders, orders, indexing="ij")
        half = (y > 0) | ((y == 0) & (x >= 0)) | (n % 2 == 0)  # of even numbers the lowest have no opposite
        strength = np.abs(self.dataset.lens_coefficients.values).max(axis=(0, 1, 2, 5))
        kept = np.flatnonzero(half & (strength > _NOTHING * strength.max()))
        opposite = (n - 1 - kept // n) * n + (n - 1 - kept % n) if n % 2 else kept
        return kept, opposite

    @cached_property
    def lens_coefficients(self) -> NDArray[np.float32]:
        """Fourier coefficients by which the lens' terms change the image: (site, mode, term, part × order of :attr:`lens_orders`)."""
        parts = self.dataset.lens_coefficients.values
        sites, modes, count, rows, columns, _ = parts.shape
        flat = np.moveaxis(parts, -1, 3).reshape(sites, modes, count, 2, rows * columns)
        return np.ascontiguousarray(
            flat[..., self.lens_orders[0]].reshape(sites, modes, count, -1), dtype=np.float32
        )

    @cached_property
    def coefficients(self) -> NDArray[np.complex128]:
        """Fourier coefficients of the modes, shape (site, mode, order_y, order_x), order 0 in the middle."""
        parts = self.dataset.coefficients.values.astype(np.float64)
        return parts[..., 0] + 1j * parts[..., 1]

    def errors(self, material: str, thickness: float, signs: tuple[int, int]) -> NDArray[np.float64]:
        """What is wrong with images of a material: the sum of their outer products is the covariance of the image's error.

        See :func:`tiltsim.library.errors.error_table`.

        Parameters
        ----------
        material : str
        thickness : float
            Å; of the thicknesses next to it.
        signs : (int, int)
            Of d along x and y.

        Returns
        -------
        ndarray, shape (sample, n, n)
            Fraction of the beam; none where the library was built without a lens.
        """
        data = self.dataset
        if self.lens is None:
            return np.zeros((0, 1, 1))
        cells = data.error_cells.values
        apart = np.abs(cells - thickness / self.edges[material])
        of = data.error_material.values == material
        near = of & (apart <= np.sort(np.unique(apart[of]))[:_NEAR_THICKNESSES].max() + 1e-9)
        images = data.library_error.values[near].astype(np.float64)
        kind = data.error_kind.values[near]
        for one in np.unique(kind):
            images[kind == one] /= np.sqrt((kind == one).sum())
        for axis, sign in ((2, signs[0]), (1, signs[1])):
            if sign < 0:
                images = np.roll(np.flip(images, axis), 1, axis)
        return images

    def scores(
        self,
        site: Literal["A", "B"],
        *,
        tilt: ArrayLike,
        thickness: ArrayLike,
        d: ArrayLike = (0.0, 0.0),
        samarium: ArrayLike = 0.0,
        material: ArrayLike = 0,
        derivative: Parameter | None = None,
        of_lens: bool = False,
    ) -> NDArray[np.float32]:
        """How much of each mode the image around columns holds.

        Parameters
        ----------
        site : {"A", "B"}
            Which columns the image is centred on.
        tilt : array_like, shape (..., 2)
            mrad.
        thickness : array_like, shape (...)
            Å.
        d : array_like, shape (..., 2)
            pm.
        samarium : array_like, shape (...)
            Fraction.
        material : array_like of int, shape (...)
            Index into :attr:`materials`.
        derivative : str, optional
            Instead, the derivative with respect to one of :data:`PARAMETERS`, per its unit.
        of_lens : bool
            Instead of the image's modes those of what the lens changes, which know nothing of Sm.

        Returns
        -------
        ndarray, shape (..., mode)

        Raises
        ------
        SettingsError
            If something lies beyond what the library holds.
        """
        tilt, d = np.asarray(tilt, dtype=float), np.asarray(d, dtype=float)
        thickness, samarium = np.asarray(thickness, dtype=float), np.asarray(samarium, dtype=float)
        number = np.asarray(material)
        shape = np.broadcast_shapes(
            tilt.shape[:-1], d.shape[:-1], thickness.shape, samarium.shape, number.shape
        )
        number = np.broadcast_to(number, shape).ravel().astype(np.int64)
        states = np.empty((len(number), 6))
        for column, values in enumerate(
            (tilt[..., 0], tilt[..., 1], thickness, d[..., 0], d[..., 1], samarium)
        ):
            states[:, column] = np.broadcast_to(values, shape).ravel()
        edge = np.array(list(self.edges.values()))[number]
        self._check(states, edge)
        first, step = self._nodes
        states[:, 2] /= edge
        places = (states - first) / step
        which = -1 if derivative is None else list(PARAMETERS).index(derivative)
        table = self.lens_splines if of_lens else self.splines
        result = np.empty((len(number), table.shape[-1]), dtype=np.float32)
        _scores(table["AB".index(site)], places, number, which, result)
        if derivative is not None:
            result /= step[which] * (edge[:, None] if derivative == "thickness" else 1.0)
        return result.reshape(*shape, -1)

    @cached_property
    def _nodes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """First node and step along each axis of a state: from units to steps between nodes."""
        data = self.dataset
        first = np.array([float(data[n][0]) for n in ("tilt_x", "tilt_y", "cells")] + [0.0, 0.0, 0.0])
        step = np.array(
            [float(data[n][1] - data[n][0]) for n in ("tilt_x", "tilt_y", "cells", "d_x", "d_y")] + [1.0]
        )
        return first, step

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Least and largest thickness, cells."""
        return np.asarray(self.dataset.cells.values[[0, -1]])

    def _check(self, states: NDArray[np.float64], edge: NDArray[np.float64]) -> None:
        cells = self._ends
        limits = (
            ("tilt_x", -self.tilt_limit, self.tilt_limit, "mrad"),
            ("tilt_y", -self.tilt_limit, self.tilt_limit, "mrad"),
            ("thickness", cells[0] * edge, cells[1] * edge, "Å"),
            ("d_x", -self.d_limit, self.d_limit, "pm"),
            ("d_y", -self.d_limit, self.d_limit, "pm"),
            ("samarium", 0.0, 1.0, ""),
        )
        for column, (name, low, high, unit) in enumerate(limits):
            values, low, high = np.broadcast_arrays(states[:, column], low, high)
            inside = (values >= low - 1e-6) & (values <= high + 1e-6)  # not so for NaN
            if not inside.all():
                worst = int(np.argmin(inside))
                raise SettingsError(
                    f"{name} {values[worst]:.4g} {unit} lies outside the library's {low[worst]:.4g} to {high[worst]:.4g} "
                    f"{unit}; stay within, or build a larger library."
                )

    @cached_property
    def request(self) -> LibraryRequest:
        """How the library was made."""
        try:
            return TypeAdapter(LibraryRequest).validate_json(self.dataset.attrs["request"])
        except ValidationError as error:
            raise SettingsError("the library does not say how it was made; build it anew.") from error

    def uniform_image(
        self, x: ArrayLike, y: ArrayLike, *, source_fwhm: float = 0.0, d: tuple[float, float] = (0.0, 0.0),
        material: int = 0, **state: ArrayLike,
    ) -> NDArray[np.float64]:  # fmt: skip
        """Image of a uniform crystal with an A column at the origin, blended as the painting of fields does.

        Parameters
        ----------
        x, y : array_like, shape (nx,), (ny,)
            Places, in cells.
        source_fwhm : float
            Gaussian blur, in cells.
        d, material, **state
            A single state, as :meth:`scores` takes it.

        Returns
        -------
        ndarray, shape (ny, nx)
            Fraction of the incident beam.
        """
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        step = np.array(d) / 100.0 / list(self.edges.values())[material]
        at_b = 0.5 - step
        whole = {"source_fwhm": source_fwhm, "d": d, "material": material, **state}
        around_a = self.cell_image("A", x, y, **whole)  # type: ignore[arg-type]
        around_b = self.cell_image("B", x - at_b[0], y - at_b[1], **whole)  # type: ignore[arg-type]
        share = [column_share(x - c[0], y[:, None] - c[1]) for c in ((0.0, 0.0), at_b)]
        return (share[0] * around_a + share[1] * around_b) / (share[0] + share[1])

    def cell_image(
        self,
        site: Literal["A", "B"],
        x: ArrayLike,
        y: ArrayLike,
        *,
        source_fwhm: float = 0.0,
        **state: ArrayLike,
    ) -> NDArray[np.float64]:
        """Image of a uniform crystal around one of its columns.

        Parameters
        ----------
        site : {"A", "B"}
            The column at the origin.
        x, y : array_like, shape (nx,), (ny,)
            Places, in cells.
        source_fwhm : float
            Gaussian blur, in cells.
        **state
            A single state, as :meth:`scores` takes it; ``derivative`` too.

        Returns
        -------
        ndarray, shape (ny, nx)
            Fraction of the incident beam.
        """
        scores = self.scores(site, **state).astype(np.float64)  # type: ignore[arg-type]
        c = np.tensordot(scores, self.coefficients["AB".index(site)], (-1, 0))
        orders = self.dataset.order_x.values
        sigma = source_fwhm / np.sqrt(8.0 * np.log(2.0))
        soft = np.exp(-2.0 * (np.pi * sigma * orders) ** 2)
        along_x, along_y = (
            soft * np.exp(2j * np.pi * np.asarray(v, dtype=float)[:, None] * orders) for v in (x, y)
        )
        return np.real(along_y @ c @ along_x.T)


def _splined(
    polar: NDArray[np.float32], samarium: NDArray[np.float32], null: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Spline coefficients (site, row, tilt_x + 2, tilt_y + 2, cells + 2, mode) of scores, in the order of rows of ``_scores``."""
    rows = np.concatenate(
        [polar.reshape(polar.shape[0], -1, *polar.shape[3:]), samarium[:, None], null[:, None]], axis=1
    ).astype(np.float64)
    for axis in (2, 3, 4):
        rows = splines.coefficients(rows, axis)
    return np.ascontiguousarray(rows, dtype=np.float32)


#: Over this share of the way from one column to the next their images fade into each other. Nearer to a column only its own
#: counts, so that a brighter or displaced neighbour does not move it.
BLEND = 0.5


def column_share(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight, before it is normalized, of all columns of a site at (``u``, ``v``) cells from one of them.

    1 around a column, 0 around the four nearest of the other site; the same as in the painting of fields.
    """
    u, v = u - np.round(u), v - np.round(v)
    total = np.zeros(np.broadcast_shapes(u.shape, v.shape))
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            p, q = (np.clip((0.5 - np.abs(t)) / BLEND + 0.5, 0, 1) for t in (u - i + v - j, u - i - v + j))
            total += p**2 * (3.0 - 2.0 * p) * q**2 * (3.0 - 2.0 * q)
    return total


@njit(cache=True, nogil=True)
def _through_nodes(s: float, derivative: bool, weights: NDArray[np.float64]) -> None:
    """Weights of the nodes −n … n of the polynomial through all of them at ``s``, or those of its derivative."""
    side = len(weights)
    half = side // 2
    for i in range(side):
        total = 0.0
        for k in range(side):
            if derivative and k == i:
                continue
            product = 1.0
            for m in range(side):
                if m != i and not (derivative and m == k):
                    product *= (s - (m - half)) / (i - m)
            if derivative:
                total += product / (i - k)
            else:
                total = product
        weights[i] = total


@njit(cache=True, nogil=True)
def _scores(
    table: NDArray[np.float32], places: NDArray[np.float64], material: NDArray[np.int64], which: int,
    result: NDArray[np.float32],
) -> None:  # fmt: skip
    """Scores of states in steps between nodes (tilt_x, tilt_y, cells, d_x, d_y, samarium); ``which`` to differentiate."""
    rows, nx, ny, nz, modes = table.shape
    value, slope = np.empty((3, 4)), np.empty((3, 4))
    first = np.empty(3, np.int64)
    sizes = (nx - 2, ny - 2, nz - 2)
    samarium, null = rows - 2, rows - 1
    side = int(np.sqrt(samarium) + 0.5)
    across = np.empty((2, side))
    local = np.zeros((rows, modes), np.float32)
    known, begin, end = -1, 0, 0
    for n in range(places.shape[0]):
        begin, end = (0, null) if material[n] == 0 else (null, null + 1)
        same = known == material[n]
        if same:
            for axis in range(3):
                same = same and places[n, axis] == places[n - 1, axis]
        if not same:  # neighbours often share tilt and thickness
            known = material[n]
            for axis in range(3):
                first[axis] = splines.weights(places[n, axis], sizes[axis], value[axis], slope[axis])
                if which == axis:
                    value[axis] = slope[axis]
            local[begin:end] = 0.0
            for row in range(begin, end):
                for i in range(4):
                    for j in range(4):
                        for k in range(4):
                            weight = np.float32(value[0, i] * value[1, j] * value[2, k])
                            source = table[row, first[0] + i, first[1] + j, first[2] + k]
                            for m in range(modes):
                                local[row, m] += weight * source[m]
        for axis in range(2):
            _through_nodes(places[n, 3 + axis], which == 3 + axis, across[axis])
        out = result[n]
        out[:] = 0.0
        if begin == null:
            if which < 3:
                out[:] = local[null]
            continue
        if which != 5:
            for i in range(side):
                for j in range(side):
                    weight = np.float32(across[0, i] * across[1, j])
                    for m in range(modes):
                        out[m] += weight * local[side * i + j, m]
        if which < 3 or which == 5:
            weight = np.float32(1.0 if which == 5 else places[n, 5])
            for m in range(modes):
                out[m] += weight * local[samarium, m]


def open_library(path: str | Path) -> Library:
    """Read a library from its netCDF file.

    Raises
    ------
    SettingsError
        If the file is missing, damaged, of another kind or of another version.
    """
    dataset = read_dataset(Path(path))
    if "coefficients" not in dataset or "request" not in dataset.attrs:
        raise SettingsError(f"{path}: is no response library; make one with `tiltsim library build`.")
    if dataset.attrs.get("format") != FORMAT:
        raise SettingsError(
            f"{path}: has format {dataset.attrs.get('format')}, this version reads {FORMAT}; build it anew with "
            "`tiltsim library build`."
        )
    library = Library(dataset)
    for name in (*_ARRAYS[1:], *(_LENS_ARRAYS if library.lens else ())):
        if name not in dataset or not np.isfinite(dataset[name].values).all():
            raise SettingsError(f"{path}: {name} is missing or not finite; build the library anew.")
    wanted = dataset.attrs.get("content")
    if wanted is not None and wanted != library.digest:
        raise SettingsError(f"{path}: its numbers have changed since it was built; build it anew.")
    return library
