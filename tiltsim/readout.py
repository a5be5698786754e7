"""Images from a scattering matrix: a shifted aperture in, a shifted detector out.

Everything here is plain torch and differentiable: with smooth edges (``Microscope.edge``,
``Detector.edge``) the image has gradients in tilt, defocus and every aberration.

With the amplitudes S(k, g) from incident wave g to exit wave k, a probe at r carries the incident waves
P(g) exp(−2πi g·r), so the detected intensity is

    I(r) = Σ_Q c(Q) exp(2πi Q·r),   c(Q) = Σ_g P(g) P*(g + Q) M(g, g + Q),   M(g, h) = Σ_k w(k) S(k, g) S*(k, h),

no scan needed. A beam tilted by t enters and leaves through an aperture and a detector shifted by tan(t)/λ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from abtem.transfer import polar_aliases
from torch import Tensor

from tiltsim.lens import COMPONENTS, LensBox, named
from tiltsim.settings import Detector, Microscope

#: Keeps square roots differentiable at zero, 1/Å².
_TINY = 1e-24


def aberration_phase(k: Tensor, aberrations: Mapping[str, Any], wavelength: float) -> Tensor:
    """Phase χ of the lens, rad; the wave is multiplied by exp(−iχ).

    Parameters
    ----------
    k : Tensor (n, 2)
        Wave vectors relative to the optic axis, 1/Å.
    aberrations : mapping
        abTEM's names and signs (``defocus`` = −C10), Å and rad; values may be tensors that need gradients.
    wavelength : float
        Å.

    Notes
    -----
    χ = 2π/λ Σ C_nm/(n+1) α^(n+1) cos(m(φ − φ_nm)), written as polynomials in αx, αy so that it has
    derivatives on the axis too.
    """
    coefficients: dict[str, Any] = {}
    for name, value in aberrations.items():
        symbol = polar_aliases.get(name, name)
        coefficients[symbol] = -value if name == "defocus" else value
    ax, ay = wavelength * k[:, 0], wavelength * k[:, 1]
    square, direction = ax**2 + ay**2, torch.complex(ax, ay)
    total = torch.zeros_like(ax)
    for symbol, value in coefficients.items():
        found = re.fullmatch(r"C(\d)(\d)", symbol)
        if found is None:  # an angle, read with its coefficient
            continue
        n, m = int(found[1]), int(found[2])
        angle = m * torch.as_tensor(coefficients.get(f"phi{n}{m}", 0.0), dtype=ax.dtype, device=ax.device)
        power = direction**m * torch.complex(torch.cos(angle), -torch.sin(angle))
        total = total + value / (n + 1) * square ** ((n + 1 - m) // 2) * power.real
    return 2.0 * math.pi / wavelength * total


def _ramp(distance: Tensor) -> Tensor:
    """0 to 1 over −½ to ½, with a continuous derivative."""
    x = torch.clamp(distance + 0.5, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def aperture(k: Tensor, microscope: Microscope, step: tuple[float, float]) -> Tensor:
    """Transmission (n,) of the aperture for wave vectors ``k`` (n, 2) relative to its centre.

    ``step`` is the angle between neighbouring waves along x and y, rad: the edge is a straight ramp over one
    step, as abTEM's, unless the microscope has a smooth ``edge``.
    """
    wavelength, cutoff = microscope.wavelength, microscope.semiangle_cutoff * 1e-3
    length = torch.sqrt((k**2).sum(1) + _TINY)
    alpha = wavelength * length
    if microscope.edge > 0:
        return _ramp((cutoff - alpha) / (microscope.edge * 1e-3))
    width = torch.sqrt((k[:, 0] * step[0]) ** 2 + (k[:, 1] * step[1]) ** 2 + _TINY) / length
    return torch.where(alpha < min(step) / 4, 1.0, torch.clamp((cutoff - alpha) / width + 0.5, 0.0, 1.0))


def probe(
    k: Tensor, everything: Tensor, shift: Tensor, microscope: Microscope, aberrations: Mapping[str, Any],
    step: tuple[float, float],
) -> Tensor:  # fmt: skip
    """Amplitudes P (n,) of a tilted probe in the incident waves ``k`` (n, 2), complex.

    ``everything`` (m, 2) holds the waves of all residual wave vectors, over which the probe has intensity 1;
    ``shift`` (2,) is tan(tilt)/λ, 1/Å.
    """
    norm = torch.sqrt((aperture(everything - shift, microscope, step) ** 2).sum())
    relative = k - shift
    amplitude = aperture(relative, microscope, step) / norm
    return torch.polar(amplitude, -aberration_phase(relative, aberrations, microscope.wavelength))


def collection(
    k: Tensor, shift: Tensor, detector: Detector, wavelength: float, step: tuple[float, float]
) -> Tensor:
    """Weights (segments, n) with which ``detector`` collects the exit waves ``k`` (n, 2) of a tilted beam.

    ``step`` is as for :func:`aperture`. A sharp ring can only sit on the grid of waves: between its points it is
    the linear interpolation of the four nearest places, so that its area does not jump from tilt to tilt.
    """
    if detector.edge > 0:
        return _ring(k - shift, detector, wavelength)
    spacing = torch.as_tensor(step, dtype=k.dtype, device=k.device) / wavelength
    place = shift / spacing
    # A tilt on the grid must not be rounded off it.
    corner = torch.floor(place + 1e-6).detach()
    right = torch.clamp(place - corner, 0.0, 1.0)
    total = k.new_zeros((detector.segments, len(k)))
    for x in (0, 1):
        for y in (0, 1):
            share = (right[0] if x else 1 - right[0]) * (right[1] if y else 1 - right[1])
            if share > 0:
                at = (corner + corner.new_tensor([x, y])) * spacing
                total = total + share * _ring(k - at, detector, wavelength)
    return total


def _ring(k: Tensor, detector: Detector, wavelength: float) -> Tensor:
    """Weights (segments, n) of exit waves ``k`` relative to the detector's centre."""
    alpha = wavelength * torch.sqrt((k**2).sum(1) + _TINY) * 1e3
    if detector.edge > 0:
        ring = _ramp((detector.outer - alpha) / detector.edge)
        if detector.inner > 0:
            ring = ring * _ramp((alpha - detector.inner) / detector.edge)
    else:
        # The hair's breadth keeps waves on a rim alike, whichever way their distance is rounded.
        ring = ((alpha >= detector.inner - 1e-7) & (alpha < detector.outer - 1e-7)).to(k.dtype)
    if detector.segments == 1:
        return ring[None]
    turn = 2.0 * math.pi
    azimuth = torch.atan2(k[:, 1], k[:, 0]).detach() - math.radians(detector.rotation)
    sector = torch.floor(torch.remainder(azimuth + 1e-9, turn) / turn * detector.segments)
    return torch.stack([ring * (sector == n) for n in range(detector.segments)])


def overlap(amplitudes: Tensor, weights: Tensor) -> Tensor:
    """M(g, h) = Σ_k w(k) S(k, g) S*(k, h) for S ``amplitudes`` (pixels, beams), shape (beams, beams)."""
    return amplitudes.T @ (weights[:, None] * amplitudes.conj())


def hermitian_overlap(amplitudes: Tensor, weights: Tensor, panels: int = 4) -> Tensor:
    """As :func:`overlap`, computing only the upper triangle, in ``panels`` block rows."""
    n = amplitudes.shape[1]
    weighted = weights[:, None] * amplitudes.conj()
    result = amplitudes.new_zeros((n, n))
    edges = [n * p // panels for p in range(panels + 1)]
    for start, stop in pairwise(edges):
        block = amplitudes[:, start:stop].T @ weighted[:, start:]
        result[start:stop, start:] = block
        result[stop:, start:stop] = block[:, stop - start :].mH
    return result


def difference_index(indices: Tensor, half: tuple[int, int]) -> Tensor:
    """Where the pair (g, h) of ``indices`` (n, 2) adds to a flat (2·half + 1)² grid of Q = h − g, shape (n·n,)."""
    difference = indices[None, :, :] - indices[:, None, :]
    return ((difference[..., 0] + half[0]) * (2 * half[1] + 1) + difference[..., 1] + half[1]).flatten()


def coefficients(matrix: Tensor, probe_waves: Tensor, index: Tensor, half: tuple[int, int]) -> Tensor:
    """Fourier coefficients c(Q), complex128, shape (2·half_x + 1, 2·half_y + 1), Q = 0 in the middle."""
    terms = matrix * (probe_waves[:, None] * probe_waves.conj()[None, :])
    total = torch.zeros(
        (2 * half[0] + 1) * (2 * half[1] + 1), dtype=torch.complex128, device=matrix.device
    ).index_add(0, index, terms.flatten().to(torch.complex128))
    return total.reshape(2 * half[0] + 1, 2 * half[1] + 1)


class Lens:
    """How Fourier coefficients change with the lens' aberrations: the terms of a box's polynomial, and what it leaves.

    M(g, h) does not depend on the lens. What does, P(g) P*(h) for every lens of the box's design, is projected on the terms first,
    so that reading all of them is one product of matrices for each difference Q = h − g.

    Parameters
    ----------
    box : LensBox
    microscope : Microscope
    indices : Tensor (n, 2)
        Of the incident waves.
    half : (int, int)
        Largest Q.
    """

    def __init__(self, box: LensBox, microscope: Microscope, indices: Tensor, half: tuple[int, int]) -> None:
        self._design = torch.as_tensor(box.design(), device=indices.device)
        self._units = [named(unit) for unit in np.eye(len(COMPONENTS))]
        rows = np.concatenate([box.projector(), box.residuals()])
        self._projector = torch.as_tensor(rows, dtype=torch.float32, device=indices.device)
        self._wavelength, self._indices, self._half = microscope.wavelength, indices, half

    def changes(self, matrices: Tensor, probe_waves: Tensor, relative: Tensor, use: Tensor) -> Tensor:
        """Coefficients (Q, term, plane), complex64, of the flattened Q up to 0, see :meth:`whole`.

        Parameters
        ----------
        matrices : Tensor (plane, n, n)
            M(g, h) of the incident waves ``use``.
        probe_waves : Tensor (n,)
            Their amplitudes in the probe without the box's aberrations.
        relative : Tensor (n, 2)
            Wave vectors from the optic axis, 1/Å.
        use : Tensor of int (n,)
        """
        n = len(use)
        place = difference_index(self._indices[use], self._half)
        size = (2 * self._half[0] + 1) * (2 * self._half[1] + 1)
        # The coefficients of −Q are conjugate: pairs up to Q = 0 are enough.
        order = torch.argsort(place, stable=True)[: int((place <= size // 2).sum())]
        g, h = order // n, order % n
        # A phase is linear in the components: few small operations, which threads would queue for.
        units = torch.stack([aberration_phase(relative, unit, self._wavelength) for unit in self._units])
        phases = self._design @ units
        turns = torch.polar(torch.ones_like(phases), -phases).to(torch.complex64)
        # Real and imaginary parts, since the projector is real; the first lens is without aberrations.
        pairs = torch.view_as_real(turns[:, g] * turns[:, h].conj() - 1.0).flatten(1)
        changed = torch.view_as_complex((self._projector @ pairs).unflatten(1, (-1, 2)))
        weights = changed * (probe_waves[g] * probe_waves[h].conj())
        # Every Q's pairs in a row of their own, filled up with one of weight 0.
        count = torch.bincount(place[order], minlength=size // 2 + 1)
        column = torch.arange(len(order), device=place.device) - (count.cumsum(0) - count)[place[order]]
        slots = torch.full((len(count), int(count.max())), len(order), device=place.device)
        slots[place[order], column] = torch.arange(len(order), device=place.device)
        left = torch.nn.functional.pad(weights, (0, 1))[:, slots].transpose(0, 1)
        flat = matrices.reshape(len(matrices), n * n)[:, order]
        right = torch.nn.functional.pad(flat, (0, 1))[:, slots].permute(1, 2, 0)
        return torch.bmm(left, right)

    def whole(self, below: Tensor) -> Tensor:
        """Coefficients (…, x, y) of all Q from those up to Q = 0 (…, Q)."""
        above = below[..., :-1].flip(-1).conj().resolve_conj()
        return torch.cat([below, above], dim=-1).unflatten(-1, (2 * self._half[0] + 1, 2 * self._half[1] + 1))


def period_image(c: Tensor) -> Tensor:
    """Intensities over one period, shape (..., y, x), at exactly the rate that the coefficients (..., x, y) need."""
    samples = torch.fft.ifft2(torch.fft.ifftshift(c, dim=(-2, -1)), norm="forward").real
    return samples.transpose(-2, -1)
