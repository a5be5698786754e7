"""What the probe does to an image beyond the library's: its source, defocus and aberrations.

An incoherent image is its object convolved with the probe's intensity, so that aberrations multiply its Fourier
coefficients by a ratio of optical transfer functions (OTF, the autocorrelation of the pupil; J. W. Goodman,
Introduction to Fourier Optics). A crystal is no thin object: depth z sees the probe at a defocus less by z, and the OTFs are means over depth
with the weight exp(−z/30 Å). Beyond that, channelling is left as it is for the unaberrated probe.

Measured here against the scattering-matrix engine (BiFeO3 without in-plane d, 200 kV, 30 mrad, 65–110 mrad, source 0.8 Å, two phonon pairs):
root mean square error of the image by its standard deviation, with the aberration left out in brackets.

====================  =============  =============  =============  =============
aberration            24 Å           40 Å           100 Å          200 Å
====================  =============  =============  =============  =============
defocus 30 Å          0.04 (0.12)    0.04 (0.05)    0.13 (0.21)    0.15 (0.13)
C12 20 Å              0.03 (0.29)    0.04 (0.28)    0.08 (0.29)    0.13 (0.25)
C21 600 Å             0.02 (0.21)    0.02 (0.19)    0.05 (0.15)    0.05 (0.15)
C23 600 Å             0.02 (0.10)    0.02 (0.12)    0.05 (0.16)    0.06 (0.17)
first three together  0.07 (0.48)    0.07 (0.33)    0.17 (0.25)    0.14 (0.27)
====================  =============  =============  =============  =============

A single OTF for all depths is 8 times as far off for a defocus of 30 Å at 24 Å. Positions are less faithful than images.
In the engine, C21 of 600 Å moves A by 12.4, 11.6, 9.0 and 9.2 pm and B by 10.8, 7.6, 5.1 and 7.3 pm at these thicknesses;
here A moves by 14.0, 13.4, 11.6 and 11.3 pm and B by 12.1, 10.7, 9.1 and 9.6 pm, in the engine's direction to 2°. B thus moves against A
as in the engine to 1.3 pm. C23 of 600 Å moves B by 27 pm at 100 Å, here by 12. Where this counts, build a library for a microscope
that has the aberrations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray

from tiltsim.readout import aberration_phase, aperture
from tiltsim.settings import Microscope
from tiltsim.synth.limits import check_limits, number
from tiltsim.synth.ranges import Range

Floats = NDArray[np.float64]

#: Decay length of the depths that an image is made of, Å: a column's image comes from where channelling first peaks, the
#: layers beyond see a beam that is dispersed. See the figures in the module's text.
DEPTH = 30.0

_LIMITS = {
    "source_fwhm": (0.0, 3.0, "Å"),
    "defocus": (-300.0, 300.0, "Å"),
    "C12": (0.0, 200.0, "Å"),
    "phi12": (-180.0, 180.0, "degrees"),
    "C21": (0.0, 5000.0, "Å"),
    "phi21": (-180.0, 180.0, "degrees"),
    "C23": (0.0, 5000.0, "Å"),
    "phi23": (-180.0, 180.0, "degrees"),
}

#: Below this the OTF of the ideal probe is nothing to divide by; what it passes is as little.
_FAINT = 1e-6

#: Unused where the aperture's edge is smooth.
_NO_STEP = (1e-6, 1e-6)

#: Most that a frequency is raised by, where a library's own aberrations all but quench it.
_RAISED = 5.0


@dataclass(frozen=True)
class ProbeFaults:
    """Source and aberrations, added to those of the library's microscope.

    Parameters
    ----------
    source_fwhm : Range
        Full width at half maximum of the Gaussian effective source, Å.
    defocus : Range
        Depth of the focus below the entrance surface, Å (abTEM's sign, −C10).
    C12, phi12 : Range
        Two-fold astigmatism, Å, and its direction, degrees.
    C21, phi21 : Range
        Axial coma, Å, and its direction, degrees.
    C23, phi23 : Range
        Three-fold astigmatism, Å, and its direction, degrees.

    Notes
    -----
    Directions turn from x (right) towards y (down), as abTEM's. χ = 2π/λ Σ C_nm/(n+1) α^(n+1) cos(m(φ − φ_nm)).
    """

    source_fwhm: Range = 0.8
    defocus: Range = 0.0
    C12: Range = 0.0
    phi12: Range = 0.0
    C21: Range = 0.0
    phi21: Range = 0.0
    C23: Range = 0.0
    phi23: Range = 0.0

    def __post_init__(self) -> None:
        """Refuse what no corrected microscope has."""
        check_limits(self, "probe", _LIMITS)

    @property
    def aberrations(self) -> dict[str, float]:
        """Settled aberrations under abTEM's names, Å and rad; empty where there are none."""
        sizes = {name: number(self, "probe", name) for name in ("defocus", "C12", "C21", "C23")}
        given = {name: value for name, value in sizes.items() if value}
        for name in [n for n in given if n != "defocus"]:
            given[f"phi{name[1:]}"] = float(np.radians(number(self, "probe", f"phi{name[1:]}")))
        return given


def transfer(
    faults: ProbeFaults, microscope: Microscope, kx: Floats, ky: Floats, thickness: float = 100.0
) -> NDArray[np.complex128]:
    """Factor on an image's Fourier coefficients at spatial frequencies (kx, ky).

    Parameters
    ----------
    faults : ProbeFaults
        Settled.
    microscope : Microscope
        That the image was computed for, without its source.
    kx, ky : ndarray, same shape
        1/Å; the image is Σ c(k) exp(2πi k·r).
    thickness : float
        Of the specimen, Å. It hardly matters beyond 2 × :data:`DEPTH`.

    Returns
    -------
    ndarray of complex, shape of ``kx``
        0 where the ideal probe passes nothing.

    Raises
    ------
    SettingsError
        If a setting of ``faults`` is still a range.
    """
    sigma = number(faults, "probe", "source_fwhm") / np.sqrt(8.0 * np.log(2.0))
    factor = np.exp(-2.0 * (np.pi * sigma) ** 2 * (np.square(kx) + np.square(ky))).astype(complex)
    added = faults.aberrations
    if not added:
        return factor
    k = np.stack([np.ravel(kx), np.ravel(ky)], axis=1).astype(float)
    # The image is real: opposite frequencies have conjugate factors, and are computed once.
    opposite = (k[:, 1] < 0) | ((k[:, 1] == 0) & (k[:, 0] < 0))
    half, where = np.unique(np.where(opposite[:, None], -k, k), axis=0, return_inverse=True)
    own, changed = optical_transfer(half, microscope, ({}, added), thickness)
    ratio = np.divide(changed, own, out=np.zeros_like(own), where=np.abs(own) > _FAINT)
    ratio = (ratio * np.minimum(1.0, _RAISED / np.maximum(np.abs(ratio), 1e-12)))[where.ravel()]
    return factor * np.where(opposite, ratio.conj(), ratio).reshape(factor.shape)


def optical_transfer(
    k: Floats, microscope: Microscope, added: Sequence[Mapping[str, float]], thickness: float = 0.0
) -> list[NDArray[np.complex128]]:
    """OTF at the frequencies ``k`` (n, 2), 1/Å, with each set of aberrations ``added`` to the microscope's.

    H(k) = Σ_g P(g) P*(g + k) / Σ_g |P(g)|², by Gauss–Legendre quadrature of the lens where both pupils overlap; its mean
    over depths down to ``thickness``, Å, weighted as :data:`DEPTH` says.
    """
    wavelength = microscope.wavelength
    radius = (microscope.semiangle_cutoff + microscope.edge / 2) * 1e-3 / wavelength
    half = np.hypot(k[:, 0], k[:, 1]) / 2
    inside = half < radius * (1 - 1e-9)
    # Enough points to follow the phase.
    fastest = max(_at_rim(microscope, radius, one) for one in added)
    points, weights = leggauss((24 if microscope.edge > 0 else 10) + int(0.8 * fastest))
    g, area = _overlap(k[inside], half[inside], radius, points, weights)
    shift = k[inside, None, :] / 2
    before, after = torch.as_tensor(g - shift).reshape(-1, 2), torch.as_tensor(g + shift).reshape(-1, 2)
    power = np.pi * radius**2
    if microscope.edge > 0:
        passed = aperture(before, microscope, _NO_STEP) * aperture(after, microscope, _NO_STEP)
        area = area * passed.numpy().reshape(area.shape)
        power = _disc_power(microscope, radius)

    def difference(aberrations: Mapping[str, float]) -> Floats:
        if not aberrations:
            return np.zeros(area.shape)
        ends = (aberration_phase(side, aberrations, wavelength).numpy() for side in (after, before))
        return np.subtract(*ends).reshape(area.shape)

    # A depth z is a C10 of z: the phase grows by this much per Å.
    per_depth = 2.0 * np.pi * wavelength * (g * k[inside, None, :]).sum(axis=-1)
    common = area * np.exp(1j * difference(microscope.aberrations)) * _through(thickness, per_depth)
    result = []
    for aberrations in added:
        total = np.zeros(len(k), dtype=complex)
        phase = np.exp(1j * difference(aberrations)) if aberrations else 1.0
        total[inside] = (phase * common).sum(axis=1) / power
        result.append(total)
    return result


def _through(thickness: float, per_depth: Floats) -> NDArray[np.complex128]:
    """Mean of exp(i z ``per_depth``) over depths z from 0 to ``thickness`` with the weight exp(−z/DEPTH)."""
    if thickness == 0.0:
        return np.ones(per_depth.shape, dtype=complex)
    decay = 1.0 / DEPTH - 1j * per_depth
    return (1.0 - np.exp(-thickness * decay)) / decay / (DEPTH * (1.0 - np.exp(-thickness / DEPTH)))


def _at_rim(microscope: Microscope, radius: float, added: Mapping[str, float]) -> float:
    """Largest phase of all aberrations together at the rim of the aperture, rad."""
    rim = torch.tensor([[radius, 0.0]], dtype=torch.float64)
    sizes = [
        {name: value}
        for one in (microscope.aberrations, added)
        for name, value in one.items()
        if not name.startswith("phi")
    ]
    return float(sum(abs(float(aberration_phase(rim, one, microscope.wavelength))) for one in sizes))


def _overlap(
    k: Floats, half: Floats, radius: float, points: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """Points (n, m, 2) amid two discs ``k`` (n, 2) apart, relative to their middle, and their areas (n, m).

    Along k, u = radius cos θ − half: the chord is then 2 radius sin θ long, and all is smooth in θ.
    """
    length = 2 * half
    along = np.divide(k, length[:, None], out=np.tile([1.0, 0.0], (len(k), 1)), where=length[:, None] > 0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    widest = np.arccos(np.clip(half / radius, 0.0, 1.0))
    theta = widest[:, None] * (points + 1) / 2
    u = radius * np.cos(theta) - half[:, None]
    chord = radius * np.sin(theta)
    # du = radius sin θ dθ, dv = chord dw
    strip = weights * widest[:, None] / 2 * chord**2
    v = chord[:, :, None] * points
    area = strip[:, :, None] * weights
    sides = []
    for sign in (1.0, -1.0):
        uu = np.broadcast_to(sign * u[:, :, None], v.shape)
        sides.append(uu[..., None] * along[:, None, None] + v[..., None] * across[:, None, None])
    n = len(k)
    g = np.stack(sides, axis=1).reshape(n, -1, 2)
    return g, np.stack([area, area], axis=1).reshape(n, -1)


def _disc_power(microscope: Microscope, radius: float) -> float:
    """∫|P|² of a pupil with a smooth edge, 1/Å²."""
    points, weights = leggauss(200)
    k = radius * (points + 1) / 2
    passed = aperture(torch.as_tensor(np.stack([k, 0 * k], 1)), microscope, _NO_STEP).numpy()
    return float(np.pi * radius * (weights * passed**2 * k).sum())
