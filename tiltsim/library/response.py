"""The response of cells at any displacement, composition, tilt and thickness, and its derivatives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from numba import vectorize
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError

from tiltsim.errors import SettingsError
from tiltsim.lens import LensBox
from tiltsim.library import splines
from tiltsim.library.request import LibraryRequest
from tiltsim.library.scoring import score
from tiltsim.output import read_dataset

#: What the response can be differentiated by, and its units.
PARAMETERS = {"tilt_x": "mrad", "tilt_y": "mrad", "thickness": "Å", "d_x": "pm", "d_y": "pm", "samarium": "1"}

#: How far beyond the outermost d the parabolas are still used, in steps of d.
_BEYOND = 0.5

#: What a library holds, and what is added for a lens.
_ARRAYS = ("coefficients", "scores_BiFeO3", "scores_samarium", "scores_SrTiO3")
_LENS_ARRAYS = ("lens_coefficients", "lens_scores_BiFeO3", "lens_scores_SrTiO3", "library_error")

#: Where the library's errors come from: its few phonons; and interpolation, and what it makes of a lens.
ERROR_KINDS = ("phonons", "model")

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
        """Orders of :attr:`lens_coefficients`, numbered row by row, and those of opposite sign, whose coefficients are conjugate."""
        n = self.dataset.sizes["order_x"]
        y, x = (self.dataset[f"lens_order_{axis}"].values.astype(np.int64) for axis in "yx")
        return (y + n // 2) * n + x + n // 2, (n // 2 - y) * n + n // 2 - x

    @cached_property
    def lens_coefficients(self) -> NDArray[np.float32]:
        """Fourier coefficients by which the lens' terms change the image: (site, term, mode × part × order of :attr:`lens_orders`)."""
        parts = self.dataset.lens_coefficients.transpose(
            "site", "term", "lens_mode", "part", "lens_order"
        ).values
        return np.ascontiguousarray(parts.reshape(*parts.shape[:2], -1))

    @cached_property
    def coefficients(self) -> NDArray[np.complex128]:
        """Fourier coefficients of the modes, shape (site, mode, order_y, order_x), order 0 in the middle."""
        parts = self.dataset.coefficients.values.astype(np.float64)
        return parts[..., 0] + 1j * parts[..., 1]

    def errors(
        self, material: str, thickness: float, signs: tuple[int, int]
    ) -> dict[str, NDArray[np.float64]]:
        """What is wrong with images of a material: the sum of a kind's outer products is the covariance of that error of the image.

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
        dict of str to ndarray, shape (sample, n, n)
            By :data:`ERROR_KINDS`, fraction of the beam; empty where the library was built without a lens.
        """
        data = self.dataset
        if self.lens is None:
            return {}
        cells = data.error_cells.values
        apart = np.abs(cells - thickness / self.edges[material])
        of = data.error_material.values == material
        found = {}
        for kind in ERROR_KINDS:
            mine = of & (data.error_kind.values == kind)
            nearest = np.unique(apart[mine])[:_NEAR_THICKNESSES].max(initial=0.0)
            images = data.library_error.values[mine & (apart <= nearest + 1e-9)].astype(np.float64)
            # The crystal mirrored at its diagonal is one as well.
            images = np.concatenate([images, np.swapaxes(images, 1, 2)])
            for axis, sign in ((2, signs[0]), (1, signs[1])):
                if sign < 0:
                    images = np.roll(np.flip(images, axis), 1, axis)
            found[kind] = images / np.sqrt(max(len(images), 1))
        return found

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
        """How much of each mode the image around columns holds: one of :meth:`scores_and_slopes`, which see; shape (..., mode)."""
        state = {"tilt": tilt, "thickness": thickness, "d": d, "samarium": samarium, "material": material}
        return self.scores_and_slopes(site, (derivative,), **state, of_lens=of_lens)[0]

    def scores_and_slopes(
        self,
        site: Literal["A", "B"],
        wanted: Sequence[Parameter | None],
        *,
        tilt: ArrayLike,
        thickness: ArrayLike,
        d: ArrayLike = (0.0, 0.0),
        samarium: ArrayLike = 0.0,
        material: ArrayLike = 0,
        of_lens: bool = False,
    ) -> NDArray[np.float32]:
        """How much of each mode the image around columns holds, and how that changes.

        Parameters
        ----------
        site : {"A", "B"}
            Which columns the image is centred on.
        wanted : sequence of str or None
            None for the scores, one of :data:`PARAMETERS` for their derivative by it, per its unit; together they cost little more than one.
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
        of_lens : bool
            Instead of the image's modes those of what the lens changes, which know nothing of Sm.

        Returns
        -------
        ndarray, shape (wanted, ..., mode)

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
        which = np.array([-1 if name is None else list(PARAMETERS).index(name) for name in wanted])
        table = self.lens_splines if of_lens else self.splines
        result = np.empty((len(which), len(number), table.shape[-1]), dtype=np.float32)
        score(table["AB".index(site)], places, number, which, result)
        for name, one in zip(wanted, result, strict=True):
            if name is not None:
                one /= step[list(PARAMETERS).index(name)] * (edge[:, None] if name == "thickness" else 1.0)
        return result.reshape(len(which), *shape, -1)

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
    """Spline coefficients (site, row, tilt_x + 2, tilt_y + 2, cells + 2, mode) of scores, in the order of rows of :func:`~tiltsim.library.scoring.score`."""
    rows = np.concatenate(
        [polar.reshape(polar.shape[0], -1, *polar.shape[3:]), samarium[:, None], null[:, None]], axis=1
    ).astype(np.float64)
    for axis in (2, 3, 4):
        rows = splines.coefficients(rows, axis)
    return np.ascontiguousarray(rows, dtype=np.float32)


#: Over this share of the way from one column to the next their images fade into each other. Nearer to a column only its own
#: counts, so that a brighter or displaced neighbour does not move it.
BLEND = 0.5


@vectorize(cache=True)
def column_share(u: float, v: float) -> float:
    """Weight, before it is normalized, of all columns of a site at (``u``, ``v``) cells from one of them; of arrays, too.

    1 around a column, 0 around the four nearest of the other site; the same as in the painting of fields.
    """
    u, v = u - np.rint(u), v - np.rint(v)
    total = 0.0
    for i in range(-1, 2):
        for j in range(-1, 2):
            p = min(max((0.5 - abs(u - i + v - j)) / BLEND + 0.5, 0.0), 1.0)
            q = min(max((0.5 - abs(u - i - v + j)) / BLEND + 0.5, 0.0), 1.0)
            total += p * p * (3.0 - 2.0 * p) * q * q * (3.0 - 2.0 * q)
    return total


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
    library = Library(dataset)
    if dataset.attrs.get("format") != library.request.format:
        raise SettingsError(
            f"{path}: has format {dataset.attrs.get('format')}, this version reads {library.request.format}; build it anew with "
            f"`tiltsim library build{' --lens' if library.lens else ''}`."
        )
    for name in (*_ARRAYS[1:], *(_LENS_ARRAYS if library.lens else ())):
        if name not in dataset or not np.isfinite(dataset[name].values).all():
            raise SettingsError(f"{path}: {name} is missing or not finite; build the library anew.")
    wanted = dataset.attrs.get("content")
    if wanted is not None and wanted != library.digest:
        raise SettingsError(f"{path}: its numbers have changed since it was built; build it anew.")
    return library
