"""What the probe does to an image beyond the library's: its source, defocus and aberrations.

An incoherent image is its object convolved with the probe's intensity, so that aberrations multiply its Fourier
coefficients by a ratio of optical transfer functions (OTF, the autocorrelation of the pupil; J. W. Goodman,
Introduction to Fourier Optics). Channelling is left as it is for the unaberrated probe: see :func:`transfer`.
"""

from __future__ import annotations

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

#: Below this part of the beam the OTF of the ideal probe is nothing to divide by; what it passes is as little.
_FAINT = 1e-6


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


def transfer(faults: ProbeFaults, microscope: Microscope, kx: Floats, ky: Floats) -> NDArray[np.complex128]:
    """Factor on an image's Fourier coefficients at spatial frequencies (kx, ky).

    Parameters
    ----------
    faults : ProbeFaults
        Settled.
    microscope : Microscope
        That the image was computed for, without its source.
    kx, ky : ndarray, same shape
        1/Å; the image is Σ c(k) exp(2πi k·r).

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
    own, changed = optical_transfer(k, microscope, ({}, added))
    ratio = np.divide(changed, own, out=np.zeros_like(own), where=np.abs(own) > _FAINT)
    return factor * ratio.reshape(factor.shape)


def optical_transfer(
    k: Floats, microscope: Microscope, added: tuple[dict[str, float], ...]
) -> list[NDArray[np.complex128]]:
    """OTF at the frequencies ``k`` (n, 2), 1/Å, with each set of aberrations ``added`` to the microscope's.

    H(k) = Σ_g P(g) P*(g + k) / Σ_g |P(g)|², by Gauss–Legendre quadrature of the lens where both pupils overlap.
    """
    wavelength = microscope.wavelength
    radius = (microscope.semiangle_cutoff + microscope.edge / 2) * 1e-3 / wavelength
    half = np.hypot(k[:, 0], k[:, 1]) / 2
    inside = half < radius * (1 - 1e-9)
    rim = np.array([[radius, 0.0]])
    sizes: dict[str, float] = {}
    for one in (microscope.aberrations, *added):
        for name, value in one.items():
            if not name.startswith("phi"):
                sizes[name] = sizes.get(name, 0.0) + abs(value)
    # Enough points to follow the phase: it turns by at most twice its value at the rim.
    fastest = sum(
        abs(float(aberration_phase(torch.as_tensor(rim), {n: v}, wavelength))) for n, v in sizes.items()
    )
    points, weights = leggauss(12 + int(np.ceil(fastest)))
    g, area = _overlap(k[inside], half[inside], radius, points, weights)
    shift = k[inside, None, :] / 2
    before, after = torch.as_tensor(g - shift).reshape(-1, 2), torch.as_tensor(g + shift).reshape(-1, 2)
    if microscope.edge > 0:
        step = (1e-6, 1e-6)  # unused where the edge is smooth
        passed = aperture(before, microscope, step) * aperture(after, microscope, step)
        area = area * passed.numpy().reshape(area.shape)
        power = _disc_power(microscope, radius)
    else:
        power = np.pi * radius**2

    def difference(aberrations: dict[str, float]) -> Floats:
        if not aberrations:
            return np.zeros(area.shape)
        turned = aberration_phase(after, aberrations, wavelength) - aberration_phase(
            before, aberrations, wavelength
        )
        return turned.numpy().reshape(area.shape)

    own = difference(dict(microscope.aberrations))
    result = []
    for aberrations in added:
        total = np.zeros(len(k), dtype=complex)
        total[inside] = (np.exp(1j * (own + difference(aberrations))) * area).sum(axis=1) / power
        result.append(total)
    return result


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
    passed = aperture(torch.as_tensor(np.stack([k, 0 * k], 1)), microscope, (1e-6, 1e-6)).numpy()
    return float(np.pi * radius * (weights * passed**2 * k).sum())
