"""What is asked of a simulation: microscope, detector, tilts, phonons. Frozen and checked when made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from abtem.core.energy import energy2wavelength
from abtem.transfer import polar_aliases, polar_symbols

from tiltsim.errors import SettingsError

#: Beyond 1° the drift per slice and the excitation of higher Laue zones are not treated faithfully.
MAX_TILT_MRAD = 17.45


def _check(name: str, value: float, low: float, high: float, unit: str, hint: str) -> None:
    if not np.isfinite(value) or not low <= value <= high:
        raise SettingsError(f"{name} {value:g} {unit} is outside {low:g} to {high:g} {unit}; {hint}.")


def _whole(**values: float) -> None:
    for name, value in values.items():
        if value != int(value):
            raise SettingsError(f"{name.replace('__', '.')} {value:g} must be a whole number.")


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
    edge : float
        Width over which the aperture fades out, centred on ``semiangle_cutoff``, mrad. Images are
        differentiable in the semi-angle only with a smooth edge, which the scattering-matrix engine has;
        0 is abTEM's edge of one grid step.
    """

    energy_keV: float = 200.0
    semiangle_cutoff: float = 30.0
    source_fwhm: float = 0.8
    aberrations: Mapping[str, float] = field(default_factory=dict)
    edge: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings no microscope has."""
        _check("energy_keV", self.energy_keV, 20, 1500, "keV", "give the beam energy in keV, e.g. 200")
        _check(
            "semiangle_cutoff", self.semiangle_cutoff, 5, 60, "mrad", "give the semi-angle in mrad, e.g. 30"
        )
        _check("source_fwhm", self.source_fwhm, 0, 3, "Å", "give the source size in Å, e.g. 0.8")
        _check(
            "microscope.edge", self.edge, 0, self.semiangle_cutoff, "mrad",
            "it cannot be wider than the semi-angle, and 0 is a sharp aperture",
        )  # fmt: skip
        known = {*polar_symbols, *polar_aliases}
        for name, value in self.aberrations.items():
            if name not in known or not np.isfinite(value):
                raise SettingsError(
                    f"aberrations.{name} = {value} is not one abTEM knows; use finite values of "
                    f"{', '.join(sorted(known))}."
                )
        symbols = [polar_aliases.get(name, name) for name in self.aberrations]
        for symbol in symbols:
            if symbols.count(symbol) > 1:
                raise SettingsError(f"aberrations give {symbol} twice, under two names; keep one of them.")

    @property
    def wavelength(self) -> float:
        """Relativistic electron wavelength, Å."""
        return float(energy2wavelength(self.energy_keV * 1e3))

    @property
    def defocus(self) -> float:
        """Depth of the focus below the entrance surface, Å."""
        given = self.aberrations
        return float(given["defocus"] if "defocus" in given else -given.get("C10", 0.0))

    @property
    def image_cutoff(self) -> float:
        """Highest spatial frequency in an incoherent image, 1/Å: twice the aperture."""
        return 2.0 * self.semiangle_cutoff * 1e-3 / self.wavelength


@dataclass(frozen=True)
class Detector:
    """Disc or ring centred on the tilted beam, whole or in equal sectors.

    Parameters
    ----------
    inner, outer : float
        mrad; ``inner`` 0 is a disc.
    name : str
        Label of its images; default its angles, e.g. "65-200 mrad".
    segments : int
        Equal sectors in azimuth, numbered from +x (right) towards +y (down): clockwise in the image.
    rotation : float
        Azimuth at which sector 0 begins, in the same sense, degrees. Four sectors with −45 lie right, down,
        left and up.
    edge : float
        Width over which the ring fades out, centred on ``inner`` and on ``outer``, mrad. Images are
        differentiable in the angles only with a smooth edge, which the scattering-matrix engine has; 0 is
        sharp.
    """

    inner: float = 65.0
    outer: float = 200.0
    name: str = ""
    segments: int = 1
    rotation: float = 0.0
    edge: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an empty or inverted ring."""
        _check("detector.inner", self.inner, 0, 400, "mrad", "give it in mrad, e.g. 65")
        _check("detector.outer", self.outer, 1, 400, "mrad", "give it in mrad, e.g. 200")
        if self.outer <= self.inner:
            raise SettingsError(
                f"detector.outer {self.outer:g} mrad must exceed detector.inner {self.inner:g} mrad."
            )
        _check("detector.segments", self.segments, 1, 360, "", "give the number of equal sectors, e.g. 4")
        _whole(detector__segments=self.segments)
        _check("detector.rotation", self.rotation, -360, 360, "degrees", "give it in degrees, e.g. -45")
        _check(
            "detector.edge", self.edge, 0, self.outer - self.inner, "mrad",
            "it cannot be wider than the ring, and 0 is a sharp ring",
        )  # fmt: skip

    @property
    def label(self) -> str:
        """Name, or the angles where there is none."""
        return self.name or f"{self.inner:g}-{self.outer:g} mrad"

    @property
    def labels(self) -> tuple[str, ...]:
        """One label for each segment, in order."""
        if self.segments == 1:
            return (self.label,)
        return tuple(f"{self.label} [{i}]" for i in range(self.segments))

    @classmethod
    def bright_field(cls, semiangle: float, **others: Any) -> Detector:
        """The whole bright-field disc of an aperture of ``semiangle`` mrad."""
        return cls(0.0, semiangle, **{"name": "BF", **others})

    @classmethod
    def annular_bright_field(cls, semiangle: float, **others: Any) -> Detector:
        """Outer half of the bright-field disc of an aperture of ``semiangle`` mrad, where light atoms show."""
        return cls(semiangle / 2, semiangle, **{"name": "ABF", **others})


@dataclass(frozen=True)
class TiltSeries:
    """Beam tilts, mrad, in tiltsim's convention (see :mod:`tiltsim.conventions`).

    Parameters
    ----------
    x, y : tuple of float
        Values of ``tilt_x`` and ``tilt_y``, ascending.
    axes_only : bool
        Only the tilts along the two axes (a cross), not the whole grid.
    radius : float, optional
        Only the tilts within this many mrad of the axis (a disc).
    """

    x: tuple[float, ...] = (0.0,)
    y: tuple[float, ...] = (0.0,)
    axes_only: bool = False
    radius: float | None = None

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
        if not self.points():
            raise SettingsError(f"tilt radius {self.radius:g} mrad leaves no tilt; make it larger.")

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

    @classmethod
    def disc(cls, largest: float, n: int) -> TiltSeries:
        """Those of ``n`` × ``n`` tilts that lie within ``largest`` mrad of the axis: 49 for n = 9."""
        values = _symmetric(largest, n)
        return cls(values, values, radius=largest)

    def points(self) -> list[tuple[int, int]]:
        """Indices (into ``x``, into ``y``) of the tilts to simulate."""
        return [
            (i, j)
            for i, tx in enumerate(self.x)
            for j, ty in enumerate(self.y)
            if (not self.axes_only or tx == 0.0 or ty == 0.0)
            and (self.radius is None or np.hypot(tx, ty) <= self.radius + 1e-9)
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
    """Seeded displacements of the atoms, in pairs u and −u.

    Opposite displacements move a column's image oppositely to first order, so the mean of a pair cancels
    most of what a single frozen configuration fakes. Displacements are Einstein's, independent and with the
    specimen's ``sigmas``, unless a trajectory or force constants are given.

    Parameters
    ----------
    pairs : int
        Number of (u, −u) pairs; 0 is a still lattice. With a target, the number to begin with.
    seed : int
        Pair p of a specimen is drawn with ``(seed, p)``, the same for every tilt.
    target_sem_pm : float, optional
        Pairs are added until the standard error of every fitted A and B position is below this, pm, or
        ``max_pairs`` is reached. Default: exactly ``pairs``.
    max_pairs : int
        Most pairs that a target may ask for.
    spread : bool
        Each residual wave vector of the scattering matrix sees configurations of its own. The image is
        linear in the mean over configurations, so this is unbiased and gives more independent draws for the
        same work. The multislice engine ignores it.
    redraw : bool
        The elements on A sites (Bi, Sm) change places at random with each pair.
    trajectory : str, optional
        File of molecular dynamics that ASE reads, atoms in the specimen's order: the displacements are those
        of a frame from the mean of all frames. Each pair takes a frame of its own, drawn by the seed.
    force_constants : str, optional
        ``.npy`` file of shape (3N, 3N) or (N, 3, N, 3), eV/Å², atoms in the specimen's order: correlated
        harmonic displacements of quantum oscillators at ``temperature``.
    temperature : float
        Of the oscillators, K.
    """

    pairs: int = 1
    seed: int = 0
    target_sem_pm: float | None = None
    max_pairs: int = 32
    spread: bool = True
    redraw: bool = False
    trajectory: str | None = None
    force_constants: str | None = None
    temperature: float = 300.0

    def __post_init__(self) -> None:
        """Refuse counts, targets and sources that cannot be."""
        _check("phonons.pairs", self.pairs, 0, 10000, "", "give a whole number of (u, −u) pairs")
        _check("phonons.seed", self.seed, 0, 2**63, "", "give a whole number that is not negative")
        _whole(phonons__pairs=self.pairs, phonons__seed=self.seed, phonons__max_pairs=self.max_pairs)
        _check("phonons.max_pairs", self.max_pairs, 1, 10000, "", "give the most pairs to compute, e.g. 32")
        _check("phonons.temperature", self.temperature, 0, 2000, "K", "give it in kelvin, e.g. 300")
        if self.trajectory is not None and self.force_constants is not None:
            raise SettingsError(
                "phonons.trajectory and phonons.force_constants exclude each other; give one of them."
            )
        if self.target_sem_pm is None:
            return
        _check("phonons.target_sem_pm", self.target_sem_pm, 0.01, 10, "pm", "give it in pm, e.g. 0.3")
        if self.pairs < 2:
            raise SettingsError(
                f"phonons.pairs {self.pairs} gives no standard error to compare with phonons.target_sem_pm; "
                "begin with at least 2."
            )
        if self.max_pairs < self.pairs:
            raise SettingsError(
                f"phonons.max_pairs {self.max_pairs} is below the {self.pairs} pairs to begin with; "
                "raise it or lower phonons.pairs."
            )

    @classmethod
    def until(
        cls, sem_pm: float = 0.3, *, max_pairs: int = 32, seed: int = 0, **others: Any
    ) -> FrozenPhonons:
        """As many pairs as a standard error of ``sem_pm`` pm takes, from 2 to ``max_pairs``."""
        return cls(**{"pairs": 2, "seed": seed, "target_sem_pm": sem_pm, "max_pairs": max_pairs, **others})


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
        2 × semi-angle × thickness, plus the drift of the largest tilt, and at least 15 Å.
    scan_oversampling : float
        Scan points per point demanded by the image's band limit. At 1 the Fourier interpolation is
        exact; below 1 it aliases frequencies that the source size has all but removed.
    pixel : float
        Pixel of the images returned, Å.
    memory_GB : float
        What the scattering-matrix engine may hold at once, GB.
    wave_vectors : int, optional
        Residual wave vectors of the scattering matrix along each axis; default what the probe's width asks.
    """

    band_limit: float | None = None
    minimum_box: float | None = None
    scan_oversampling: float = 1.0
    pixel: float = 0.1
    memory_GB: float = 4.0
    wave_vectors: int | None = None

    def __post_init__(self) -> None:
        """Refuse absurd values."""
        if self.minimum_box is not None:
            _check("minimum_box", self.minimum_box, 1, 200, "Å", "8 to 40 Å is usual")
        _check("scan_oversampling", self.scan_oversampling, 0.6, 4, "", "1 is exact")
        _check("pixel", self.pixel, 0.02, 0.3, "Å", "0.1 Å is usual")
        _check("numerics.memory_GB", self.memory_GB, 0.1, 10000, "GB", "give it in GB, e.g. 4")
        if self.wave_vectors is not None:
            _whole(numerics__wave_vectors=self.wave_vectors)
            _check("numerics.wave_vectors", self.wave_vectors, 1, 64, "", "leave it out for the default")
