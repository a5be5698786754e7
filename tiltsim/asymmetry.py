"""How tilt makes distributions of polarization lopsided: films whose true distribution is symmetric, measured at several tilts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import analysis
from tiltsim.asymmetry_cells import MatchedCells, matched_cells
from tiltsim.asymmetry_statistics import BOOTSTRAP_SEED, DRAWS, MEANING, statistics
from tiltsim.errors import SettingsError
from tiltsim.library import Library
from tiltsim.synth import synthesize
from tiltsim.synth.detection import Detection
from tiltsim.synth.domains import across
from tiltsim.synth.faults import Faults
from tiltsim.synth.recipe import Recipe
from tiltsim.synth.specimen_request import DomainRequest, SpecimenRequest
from tiltsim.synth.variants import variant

Floats = NDArray[np.float64]

#: The variant whose d points right and up the image, and what its neighbour reverses: all of d that a projection shows.
FIRST, REVERSES = "[1-11]", "xy"

#: Half width of the wall, Å. Cells that it reaches are left out.
_WALL = 2.0

#: Å a pixel.
_PIXEL = 0.2

#: Width of a bin of the histograms, pm.
BIN_PM = 1.0

#: Largest Sm fraction: where a library has its node; beyond some 13 % the crystal is no longer polar.
_LARGEST_SAMARIUM = 0.2

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AsymmetryRequest:
    """Films of two variants with exactly opposite in-plane d, at several Sm fractions and tilts.

    Parameters
    ----------
    samarium : tuple of float
        Fractions, ascending. 0 is bulk R3c; anything else the Cc film of :class:`structures.MonoclinicModel`.
    tilts : tuple of float
        Size of the tilt, mrad, ascending.
    azimuth : float
        Its direction, degrees from +x towards +y (down).
    thickness : float
        Å.
    dose_per_A2 : float
        Electrons; ``inf`` is free of noise.
    size : int
        Rows and columns of an image, px of 0.2 Å.
    lean_scale : float
        Share of its own lean that each variant keeps: with 0 the columns of both are parallel, with 1 the variants of
        R3c lean 9.9 mrad along x and y in opposite senses.
    seed : int
        Of the crystal (origin, Sm) and of the noise: the same at every tilt.
    """

    samarium: tuple[float, ...] = (0.0, 0.07, 0.10)
    tilts: tuple[float, ...] = (0.0, 2.5, 5.0, 10.0)
    azimuth: float = 0.0
    thickness: float = 100.0
    dose_per_A2: float = 4e4
    size: int = 1024
    lean_scale: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be painted, whatever the library."""
        for name, values, top in (
            ("samarium", self.samarium, _LARGEST_SAMARIUM),
            ("tilts", self.tilts, float("inf")),
        ):
            rises = all(a < b for a, b in pairwise(values))
            if not values or not rises or not all(np.isfinite(v) and 0 <= v <= top for v in values):
                limit = f" up to {top:g}" if np.isfinite(top) else ""
                raise SettingsError(
                    f"{name} {', '.join(f'{v:g}' for v in values)} must be ascending numbers from 0{limit}, each once."
                )
        if not 256 <= self.size <= 8192:
            raise SettingsError(f"size {self.size} px must lie within 256 to 8192 px.")
        if self.seed < 0:
            raise SettingsError(f"seed {self.seed} must not be negative.")
        for share in self.samarium:
            self.recipe(share, 0.0)  # the rest is checked by those who use it

    def specimen(self, samarium: float, tilt: float) -> SpecimenRequest:
        """The film with this fraction of Sm at this tilt, mrad."""
        domains = DomainRequest(
            pattern="wall", variants=(FIRST,), wall="109", reverses=REVERSES, wall_width=_WALL
        )
        return SpecimenRequest(
            phase=phase_of(samarium), domains=domains, samarium=samarium, tilt=tilt, azimuth=self.azimuth,
            thickness=self.thickness, lean="variant" if self.lean_scale else "common", lean_scale=self.lean_scale,
        )  # fmt: skip

    def recipe(self, samarium: float, tilt: float) -> Recipe:
        """What is painted: no aberrations, a perfect scan, counting noise alone."""
        return Recipe(
            title=f"{100 * samarium:g} % Sm, {tilt:g} mrad",
            size=(self.size, self.size),
            pixel=_PIXEL,
            specimens=(self.specimen(samarium, tilt),),
            faults=Faults(detection=Detection(dose_per_A2=self.dose_per_A2)),
        )

    def check_reach(self, tilt_limit: float, thickness_range: tuple[float, float]) -> None:
        """Refuse tilts (mrad along an axis) and thicknesses (Å) beyond those of a library.

        Raises
        ------
        SettingsError
        """
        angle = np.radians(self.azimuth)
        along = max(self.tilts) * np.abs([np.cos(angle), np.sin(angle)])
        leans = [variant(phase_of(s), FIRST).lean for s in self.samarium]
        reached = float((along + self.lean_scale * np.abs(leans).max(axis=0)).max())
        if reached > tilt_limit + 1e-9:
            leaning = " with the variants' leans" if self.lean_scale else ""
            raise SettingsError(
                f"tilts to {max(self.tilts):g} mrad{leaning} reach {reached:.1f} mrad along an axis, beyond the library's "
                f"{tilt_limit:g} mrad; lower the tilts{' or lean_scale' if leaning else ''}, or take a library that goes further."
            )
        low, high = thickness_range
        if not low <= self.thickness <= high:
            raise SettingsError(
                f"thickness {self.thickness:g} Å lies beyond the library's {low:.0f} to {high:.0f} Å; change it, or take a "
                "library that goes further."
            )


def phase_of(samarium: float) -> str:
    """Phase that stands for a fraction of Sm: bulk R3c without, the Cc film with."""
    return "Cc" if samarium else "R3c"


def variant_d(samarium: float) -> Floats:
    """True d of the two variants, shape (variant, component), pm."""
    names = FIRST, across(FIRST, REVERSES)
    ends = np.array([variant(phase_of(samarium), name).d for name in names])
    return np.asarray(ends[:, 0] + samarium * (ends[:, 1] - ends[:, 0]))


def asymmetry_study(
    library: Library, request: AsymmetryRequest | None = None, *, progress: Progress | None = None
) -> xr.Dataset:
    """Apparent polarization of symmetric films against tilt, with what the A and the B columns contribute.

    Every film is painted by :func:`tiltsim.synthesize` and measured by :func:`analysis.measure` as an experimental image
    is. Cells are matched to the truth, so that d_apparent = d_true + s_A − s_B cell by cell, s being fitted − true
    position.

    Parameters
    ----------
    library : Library
        Its microscope and detector are the images'.
    request : AsymmetryRequest, optional
    progress : callable, optional
        Called as ``progress(done, expected)`` in images.

    Returns
    -------
    xarray.Dataset
        dims samarium (fraction), tilt (mrad), variant, component. Per variant, pm: ``d_true``, ``d_apparent``,
        ``contribution_A`` (s_A), ``contribution_B`` (−s_B) with ``_sem``, and ``cells``. Per film: what
        :data:`tiltsim.asymmetry_statistics.MEANING` lists, with ``_sem``; ``axis``: the unit vector that "polar" refers to;
        ``residual``: largest |d_apparent − d_true − (s_A − s_B)| of a cell, pm; ``counts`` (samarium, tilt, variant,
        bin): cells by d_apparent along that axis. Standard errors: scatter over 1000 draws of blocks of 4 × 4 cells, since
        neighbouring cells share A columns.

    Raises
    ------
    SettingsError
        If the request goes beyond the library.
    """
    request = request or AsymmetryRequest()
    request.check_reach(library.tilt_limit, library.thickness_range)
    found: dict[tuple[int, int], MatchedCells] = {}
    expected = len(request.samarium) * len(request.tilts)
    for i, share in enumerate(request.samarium):
        for j, tilt in enumerate(request.tilts):
            field = synthesize(request.recipe(share, tilt), library, request.seed)
            found[i, j] = matched_cells(field, analysis.measure(field.image), variant_d(share))
            if progress is not None:
                progress(len(found), expected)
    return _dataset(request, library, found)


def _dataset(
    request: AsymmetryRequest, library: Library, found: dict[tuple[int, int], MatchedCells]
) -> xr.Dataset:
    grid = (len(request.samarium), len(request.tilts))
    true = np.array([variant_d(s) for s in request.samarium])
    axis = true[:, 0] / np.linalg.norm(true[:, 0], axis=-1, keepdims=True)
    values: dict[str, Floats] = {}
    for at, cells in found.items():
        for name, (value, sem) in statistics(cells, axis[at[0]], request.seed).items():
            for key, number in ((name, value), (f"{name}_sem", sem)):
                values.setdefault(key, np.full((*grid, *number.shape), np.nan))[at] = number
    variables: dict[str, Any] = {}
    for name, one in MEANING.items():
        dims = ("samarium", "tilt", *one.dims)
        about = {"units": one.unit, "long_name": one.text}
        variables[name] = (dims, values[name], about)
        variables[f"{name}_sem"] = (
            dims,
            values[f"{name}_sem"],
            about | {"long_name": f"standard error: {one.text}"},
        )
    polar = {at: cells.d_apparent @ axis[at[0]] for at, cells in found.items()}
    most = max(float(np.abs(p).max()) for p in polar.values())
    half = int(np.ceil(most / BIN_PM))
    edges = BIN_PM * np.arange(-half, half + 1)
    counts = np.zeros((*grid, 2, 2 * half), np.int32)
    cells_in = np.zeros((*grid, 2), np.int32)
    residual = np.zeros(grid)
    for at, cells in found.items():
        residual[at] = cells.residual
        for k in range(2):
            one_variant = polar[at][cells.variant == k]
            counts[(*at, k)] = np.histogram(one_variant, edges)[0]
            cells_in[(*at, k)] = len(one_variant)
    film = ("samarium", "tilt")
    variables |= {
        "cells": ((*film, "variant"), cells_in, {"units": "1", "long_name": "cells measured, away from the wall"}),
        "counts": ((*film, "variant", "bin"), counts, {"units": "1", "long_name": "cells by apparent d along the polar axis"}),
        "residual": (film, residual, {"units": "pm", "long_name": "largest |d_apparent − d_true − (s_A − s_B)| of a cell"}),
        "axis": (("samarium", "component"), axis, {"units": "1", "long_name": "polar axis: along the first variant's true d"}),
    }  # fmt: skip
    return xr.Dataset(
        variables,
        coords={
            "samarium": ("samarium", list(request.samarium), {"units": "1", "long_name": "fraction of Sm on A"}),
            "tilt": ("tilt", list(request.tilts), {"units": "mrad", "long_name": "tilt along the azimuth"}),
            "variant": ("variant", [FIRST, across(FIRST, REVERSES)]),
            "component": ("component", ["x", "y"]),
            "bin": ("bin", (edges[1:] + edges[:-1]) / 2, {"units": "pm", "long_name": "middle of a bin of d"}),
        },
        attrs={
            "title": "Apparent polarization of films with a symmetric true distribution",
            "convention": "d = mean of surrounding A columns − central B column; x right, y down",
            "identity": "d_apparent = d_true + contribution_A + contribution_B; contribution_A = s_A, contribution_B = −s_B, "
            "s = fitted − true position",
            "request": json.dumps(asdict(request), allow_nan=True),
            "phases": json.dumps({f"{s:g}": phase_of(s) for s in request.samarium}),
            "azimuth_degrees": request.azimuth,
            "thickness_angstrom": request.thickness,
            "standard_errors": f"bootstrap: {DRAWS} draws of blocks of 4 × 4 cells",
            "seed": request.seed,
            "bootstrap_seed": BOOTSTRAP_SEED,
            "library": library.digest,
            "tiltsim_version": version("tiltsim"),
        },
    )  # fmt: skip
