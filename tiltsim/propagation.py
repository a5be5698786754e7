"""Plane waves through the specimen: the scattering matrix of one residual wave vector, in torch.

Conventional multislice (Goodman & Moodie, Acta Cryst. A 30, 280 (1974)) with abTEM's transmission functions,
propagator and antialias aperture, for many incident plane waves at once over a single period.
"""

from __future__ import annotations

from collections.abc import Sequence

import abtem
import numpy as np
import torch
from abtem.core.energy import energy2sigma
from numpy.typing import NDArray
from torch import Tensor

from tiltsim.errors import SettingsError
from tiltsim.reciprocal import Grid, Ints

#: Waves propagated together hold about this many bytes on a CPU, so that a batch stays in the second-level
#: cache (2 MB here: 8 waves of 180², measured fastest or within 5 % from 1 to 4 MB).
_CPU_BATCH_BYTES = 2 << 20
_CUDA_BATCH_BYTES = 512 << 20


def torch_device(device: str) -> torch.device:
    """The torch device for "auto", "cpu" or "cuda"; auto takes CUDA where there is one.

    Raises
    ------
    SettingsError
        If the name is unknown or CUDA was asked for and is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise SettingsError(f"device {device!r} is unknown; choose auto, cpu or cuda.")
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise SettingsError(
            "device 'cuda' needs a CUDA GPU that torch can use; none was found: use auto or cpu."
        )
    return torch.device("cuda" if found and device != "cpu" else "cpu")


def batch_size(grid: Grid, device: torch.device) -> int:
    """Waves to propagate together."""
    wave = 8 * grid.gpts[0] * grid.gpts[1]
    return max(1, (_CUDA_BATCH_BYTES if device.type == "cuda" else _CPU_BATCH_BYTES) // wave)


def band_limit(grid: Grid, q: tuple[int, int]) -> NDArray[np.floating]:
    """Antialias aperture, abTEM's, on the waves q + G, shape ``grid.gpts``, FFT order."""
    rate = 1.0 / float(np.max(np.array(grid.box) / np.array(grid.gpts)))
    cutoff, taper = (abtem.config.get(f"antialias.{name}") * rate for name in ("cutoff", "taper"))
    cutoff /= 2
    kx, ky = _wave_vectors(grid, q)
    k = np.hypot(kx, ky)
    edge = 0.5 * (1 + np.cos(np.pi * (k - cutoff + taper) / taper))
    return np.where(k > cutoff, 0.0, np.where(k > cutoff - taper, edge, 1.0))


def _wave_vectors(grid: Grid, q: tuple[int, int]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Components of q + G, 1/Å, FFT order, shapes (nx, 1) and (1, ny)."""
    nx, ny = grid.gpts
    kx = (np.fft.fftfreq(nx, 1.0 / nx) + q[0] / grid.repeats[0]) / grid.box[0]
    ky = (np.fft.fftfreq(ny, 1.0 / ny) + q[1] / grid.repeats[1]) / grid.box[1]
    return kx[:, None], ky[None, :]


def propagator(grid: Grid, q: tuple[int, int], thickness: float) -> NDArray[np.complex64]:
    """Fresnel propagator of the waves q + G over ``thickness`` Å, band-limited, FFT order."""
    kx, ky = _wave_vectors(grid, q)
    phase = -np.pi * thickness * grid.wavelength * (kx**2 + ky**2)
    return (np.exp(1j * phase) * band_limit(grid, q)).astype(np.complex64)


def transmissions(
    potential: NDArray[np.float32], grid: Grid, energy_keV: float, device: torch.device
) -> Tensor:
    """Band-limited transmission functions (slices, nx, ny) of projected potentials in V·Å."""
    sigma = float(energy2sigma(energy_keV * 1e3))
    keep = torch.as_tensor(band_limit(grid, (0, 0)), dtype=torch.float32, device=device)
    result = torch.empty(potential.shape, dtype=torch.complex64, device=device)
    for n, plane in enumerate(potential):  # slice by slice: the temporaries stay small
        phase = sigma * torch.as_tensor(plane, device=device)
        result[n] = torch.fft.ifft2(torch.fft.fft2(torch.polar(torch.ones_like(phase), phase)) * keep)
    return result


def scattering_matrix(
    transmission: Tensor,
    grid: Grid,
    q: tuple[int, int],
    slice_thickness: float,
    beams: Ints,
    pixels: Ints,
    exit_planes: Sequence[int],
) -> list[Tensor]:
    """Amplitudes from every incident wave q + g into every exit wave q + k.

    Parameters
    ----------
    transmission : Tensor (slices, nx, ny)
        complex64; its device is where the work is done.
    grid, q
        The period and the residual wave vector.
    slice_thickness : float
        Å, the same for all slices.
    beams, pixels : ndarray (n, 2), (m, 2)
        Reciprocal vectors g of the incident and k of the exit waves that are kept.
    exit_planes : sequence of int
        Slice after which each thickness is read, ascending.

    Returns
    -------
    list of Tensor (m, n), complex64
        One a thickness.
    """
    device = transmission.device
    step = torch.as_tensor(propagator(grid, q, slice_thickness), device=device)
    nx, ny = grid.gpts
    sources = torch.as_tensor((beams[:, 0] % nx) * ny + beams[:, 1] % ny, device=device)
    targets = torch.as_tensor((pixels[:, 0] % nx) * ny + pixels[:, 1] % ny, device=device)
    planes = [
        torch.empty((len(pixels), len(beams)), dtype=torch.complex64, device=device) for _ in exit_planes
    ]
    batch = batch_size(grid, device)
    for start in range(0, len(beams), batch):
        chosen = sources[start : start + batch]
        wave = torch.zeros((len(chosen), nx * ny), dtype=torch.complex64, device=device)
        wave[torch.arange(len(chosen), device=device), chosen] = 1.0
        wave = wave.reshape(-1, nx, ny)
        plane = 0
        for n in range(exit_planes[-1] + 1):
            wave = torch.fft.ifft2(wave, norm="forward").mul_(transmission[n])
            wave = torch.fft.fft2(wave, norm="forward").mul_(step)
            if n == exit_planes[plane]:
                planes[plane][:, start : start + batch] = wave.reshape(len(chosen), -1)[:, targets].T
                plane += 1
    return planes
