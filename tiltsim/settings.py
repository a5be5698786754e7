"""What is asked of a simulation: microscope, detector, tilts, phonons. Frozen and checked when made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from abtem.core.energy import energy2wavelength
from abtem.transfer import polar_aliases, polar_symbols

from tiltsim.errors import SettingsError

#: Beyond 1° the drift per slice and the excitation of higher Laue zones are not treated faithfully.
MAX_TILT_MRAD = 17.45

#: The band limit must exceed this times (detector outer + largest tilt): multiply scattered electrons
#: pass through higher angles on their way to the detector (measured; see docs/physics.md).
BAND_LIMIT_FACTOR = 1.75


def _check(name: str, value: float, low: float, high: float, unit: str, hint: str) -> None:
    if not np.isfinite(value) or not low <= value <= high:
        raise SettingsError(f"{name} {value:g} {unit} is outside {low:g} to {high:g} {unit}; {hint}.")


@dataclass(frozen=True)
class Microscope:
    """A probe-forming microscope.

    Parameters
    ----------
    energy_keV : float
        Beam energy.
    semiangle_cutoff : float
        Convergence semi-angle, mrad.
    source_fwhm : float
        Full width at half maximum of the Gaussian effective source, Å.
    aberrations : mapping
        Names as abTEM's (``defocus``, ``C30``, ``C12``, ``phi12``, …), Å and radians. None by default: an
        aberration-corrected probe focused on the entrance surface.
    """

    energy_keV: float = 200.0
    semiangle_cutoff: float = 30.0
    source_fwhm: float = 0.8
    aberrations: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse settings no microscope has."""
        _check("energy_keV", self.energy_keV, 20, 1500, "keV", "give the beam energy in keV, e.g. 200")
        _check(
            "semiangle_cutoff", self.semiangle_cutoff, 5, 60, "mrad", "give the semi-angle in mrad, e.g. 30"
        )
        _check("source_fwhm", self.source_fwhm, 0, 3, "Å", "give the source size in Å, e.g. 0.8")
        known = {*polar_symbols, *polar_aliases}
        for name, value in self.aberrations.items():
            if name not in known or not np.isfinite(value):
                raise SettingsError(
                    f"aberrations.{name} = {value} is not one abTEM knows; use finite values of "
                    f"{', '.join(sorted(known))}."
                )

    @property
    def wavelength(self) -> float:
        """Relativistic electron wavelength, Å."""
        return float(energy2wavelength(self.energy_keV * 1e3))

    @property
    def image_cutoff(self) -> float:
        """Highest spatial frequency in an incoherent image, 1/Å: twice the aperture."""
        return 2.0 * self.semiangle_cutoff * 1e-3 / self.wavelength


@dataclass(frozen=True)
class Detector:
    """Annulus centred on the tilted beam; ``inner`` and ``outer`` in mrad."""

    inner: float = 65.0
    outer: float = 200.0

    def __post_init__(self) -> None:
        """Refuse an empty or inverted ring."""
        _check("detector.inner", self.inner, 0, 400, "mrad", "give it in mrad, e.g. 65")
        _check("detector.outer", self.outer, 1, 400, "mrad", "give it in mrad, e.g. 200")
        if self.outer <= self.inner:
            raise SettingsError(
                f"detector.outer {self.outer:g} mrad must exceed detector.inner {self.inner:g} mrad."
            )


@dataclass(frozen=True)
class TiltSeries:
    """Beam tilts, mrad, in tiltsim's convention (see :mod:`tiltsim.conventions`).

    Parameters
    ----------
    x, y : tuple of float
        Values of ``tilt_x`` and ``tilt_y``, ascending.
    axes_only : bool
        Only the tilts along the two axes (a cross), not the whole grid.
    """

    x: tuple[float, ...] = (0.0,)
    y: tuple[float, ...] = (0.0,)
    axes_only: bool = False

    def __post_init__(self) -> None:
        """Refuse tilts beyond 1°, unsorted ones, and a cross without a centre."""
        for name, values in (("tilt_x", self.x), ("tilt_y", self.y)):
            if not values or any(b <= a for a, b in pairwise(values)):
                raise SettingsError(f"{name} {list(values)} must be ascending and not empty.")
            for value in values:
                _check(
                    name, value, -MAX_TILT_MRAD, MAX_TILT_MRAD, "mrad",
                    "the method holds to 1°, so orient the specimen closer to the zone axis",
                )  # fmt: skip
            if self.axes_only and 0.0 not in values:
                raise SettingsError(f"{name} {list(values)} needs 0 for tilts along the axes.")

    @classmethod
    def grid(cls, largest: float, n: int) -> TiltSeries:
        """``n`` × ``n`` tilts from −``largest`` to +``largest`` mrad."""
        values = _symmetric(largest, n)
        return cls(values, values)

    @classmethod
    def cross(cls, largest: float, n: int) -> TiltSeries:
        """``n`` tilts along x and ``n`` along y, sharing zero (``n`` odd)."""
        values = _symmetric(largest, n)
        return cls(values, values, axes_only=True)

    def points(self) -> list[tuple[int, int]]:
        """Indices (into ``x``, into ``y``) of the tilts to simulate."""
        return [
            (i, j)
            for i, tx in enumerate(self.x)
            for j, ty in enumerate(self.y)
            if not self.axes_only or tx == 0.0 or ty == 0.0
        ]

    @property
    def largest(self) -> float:
        """Largest tilt from the axis, mrad."""
        return max(float(np.hypot(self.x[i], self.y[j])) for i, j in self.points())


def _symmetric(largest: float, n: int) -> tuple[float, ...]:
    if n < 1 or largest < 0 or (n > 1 and largest == 0):
        raise SettingsError(
            f"tilt.largest {largest:g} and tilt.n {n} make no series; give e.g. 8 mrad and 5 steps."
        )
    # + 0.0 turns −0.0 into 0.0
    return tuple(float(round(v, 6)) + 0.0 for v in (np.linspace(-largest, largest, n) if n > 1 else [0.0]))


@dataclass(frozen=True)
class FrozenPhonons:
    """Seeded Einstein displacements, in pairs u and −u.

    Opposite displacements move a column's image oppositely to first order, so the mean of a pair cancels
    most of what a single frozen configuration fakes.

    Parameters
    ----------
    pairs : int
        Number of (u, −u) pairs; 0 is a still lattice.
    seed : int
        Pair p of a specimen is drawn with ``(seed, p)``, the same for every tilt.
    """

    pairs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse negative counts."""
        _check("phonons.pairs", self.pairs, 0, 10000, "", "give a whole number of (u, −u) pairs")
        _check("phonons.seed", self.seed, 0, 2**63, "", "give a whole number that is not negative")


@dataclass(frozen=True)
class Numerics:
    """Numerical settings of the multislice.

    Parameters
    ----------
    band_limit : float, optional
        Largest scattering angle kept, mrad; default 1.75 × (detector outer + largest tilt).
    minimum_box : float, optional
        The supercell is repeated laterally until the box is at least this wide, Å, so that the probe
        does not meet its own periodic copy. Default: the width of the probe's cone at the exit surface,
        2 × semi-angle × thickness, and at least 7.5 Å (docs/physics.md).
    scan_oversampling : float
        Scan points per point demanded by the image's band limit. At 1 the Fourier interpolation is
        exact; below 1 it aliases frequencies that the source size has all but removed.
    pixel : float
        Pixel of the images returned, Å.
    """

    band_limit: float | None = None
    minimum_box: float | None = None
    scan_oversampling: float = 1.0
    pixel: float = 0.1

    def __post_init__(self) -> None:
        """Refuse absurd values."""
        if self.minimum_box is not None:
            _check("minimum_box", self.minimum_box, 1, 200, "Å", "8 to 40 Å is usual")
        _check("scan_oversampling", self.scan_oversampling, 0.6, 4, "", "1 is exact")
        _check("pixel", self.pixel, 0.02, 0.3, "Å", "0.1 Å is usual")

    def box(self, thickness: float, microscope: Microscope) -> float:
        """Least width of the multislice box for a ``thickness`` in Å, Å."""
        if self.minimum_box is not None:
            return self.minimum_box
        return max(7.5, 2.0 * microscope.semiangle_cutoff * 1e-3 * thickness)

    def angle(self, detector: Detector, tilts: TiltSeries) -> float:
        """Band limit in mrad for ``detector`` and ``tilts``.

        Raises
        ------
        SettingsError
            If a given ``band_limit`` does not hold the detector.
        """
        needed = detector.outer + tilts.largest
        if self.band_limit is None:
            return BAND_LIMIT_FACTOR * needed
        if self.band_limit < needed:
            raise SettingsError(
                f"detector.outer {detector.outer:g} mrad plus the largest tilt {tilts.largest:g} mrad lies beyond "
                f"the band limit of {self.band_limit:g} mrad; raise numerics.band_limit to "
                f"{BAND_LIMIT_FACTOR * needed:.0f} mrad or lower detector.outer."
            )
        return self.band_limit
