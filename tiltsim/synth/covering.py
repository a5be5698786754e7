"""What lies on the specimen: carbon that grows under the beam, and an amorphous surface layer.

Both add to an image what a crystal does not give; the layer also scatters part of the beam before the crystal sees it.
How bright a material is follows from its atoms scattering one by one: n σ per Å of thickness, with
σ = ∫ |γ f(θ)|² dΩ over the detector and f of I. Lobato and D. Van Dyck, Acta Cryst. A 70, 636 (2014),
10.1107/S205327331401643X. Computed so for 200 kV and 65–110 mrad: carbon of 2.0 g/cm³ 1.0·10⁻⁵ of the incident beam
per Å, BiFeO3 2.5·10⁻⁴ per Å (98.6 % of the variance of single atoms is bismuth's).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from tiltsim.synth.limits import check_limits, number
from tiltsim.synth.ranges import Range

Pixels = NDArray[np.float32]

_LIMITS = {
    "contamination": (0.0, 0.5, "of the beam"),
    "unevenness": (0.0, 1.0, ""),
    "patch": (5.0, 1e4, "Å"),
    "amorphous": (0.0, 200.0, "Å"),
    "amorphous_per_angstrom": (0.0, 0.01, "of the beam per Å"),
    "speckle": (0.0, 1.0, ""),
    "probe_fwhm": (0.3, 5.0, "Å"),
    "mean_free_path": (50.0, 1e5, "Å"),
    "scattered_fwhm": (0.5, 20.0, "Å"),
}

#: Bismuth atoms per volume in BiFeO3, 1/Å³ (one in a pseudocubic cell of 62.4 Å³).
_HEAVY_ATOMS = 1.0 / 62.4


@dataclass(frozen=True)
class Covering:
    """Carbon and an amorphous layer on the specimen; none by default.

    Parameters
    ----------
    contamination : Range
        Mean level of the carbon's background, fraction of the incident beam. 100 Å of carbon give 0.001 at
        65–110 mrad (see the module): recipes may well assume more, for other rings collect more.
    unevenness : Range
        Of that level from place to place, rms relative to the mean.
    patch : Range
        Å over which it changes (standard deviation of the bumps).
    amorphous : Range
        Thickness of the amorphous layer on the entrance surface, Å.
    amorphous_per_angstrom : Range
        Its background, fraction of the incident beam per Å. Default: amorphized BiFeO3 at 65–110 mrad (see the module).
    speckle : Range
        Contrast of its speckle relative to that of atoms strewn independently of each other. A glass has less,
        because its atoms keep apart; 0.5 is assumed.
    probe_fwhm : Range
        Width of the probe with its source, Å: the size of speckle. Assumed.
    mean_free_path : Range
        Elastic mean free path in the layer, Å: 230 in BiFeO3, 2000 in carbon (from ∫ |γ f|² dΩ, as above).
    scattered_fwhm : Range
        Width of the patch that scattered electrons spread over within the crystal, Å. 4 is assumed: ±20 mrad over 100 Å.

    Notes
    -----
    The layer's model: of the beam, exp(−t/Λ) passes and sees the crystal as ever. The rest is scattered by some 20 mrad and sees
    it blurred. Speckle is Gaussian noise as wide as the probe, with the variance N/(4πs²) · (mean/N)² of N atoms of Bi per
    Å² under a Gaussian of standard deviation s, cut off at zero. Nothing is said about how scattered electrons channel.
    """

    contamination: Range = 0.0
    unevenness: Range = 0.2
    patch: Range = 60.0
    amorphous: Range = 0.0
    amorphous_per_angstrom: Range = 2.5e-4
    speckle: Range = 0.5
    probe_fwhm: Range = 1.1
    mean_free_path: Range = 230.0
    scattered_fwhm: Range = 4.0

    def __post_init__(self) -> None:
        """Refuse layers under which nothing is seen."""
        check_limits(self, "cover", _LIMITS)


def cover(image: NDArray[Any], covering: Covering, pixel: float, rng: np.random.Generator) -> Pixels:
    """``image`` with what lies on the specimen.

    Parameters
    ----------
    image : ndarray (y, x)
        Noise-free, fraction of the incident beam. NaN where there is no specimen stays NaN.
    covering : Covering
        Settled.
    pixel : float
        Å.
    rng : Generator

    Returns
    -------
    ndarray (y, x), float32

    Raises
    ------
    SettingsError
        If a setting is still a range.
    """
    value = {name: number(covering, "cover", name) for name in _LIMITS}
    # A stream for each, so that one layer does not change what is drawn for the other.
    for_carbon, for_layer = rng.spawn(2)
    result = np.asarray(image, dtype=np.float32)
    if value["amorphous"] > 0:
        result = _layered(result, value, pixel, for_layer)
    if value["contamination"] > 0:
        bumps = _smooth_noise(result.shape, value["patch"] / pixel, for_carbon)
        bumps *= np.float32(value["unevenness"])
        bumps += np.float32(1.0)
        np.maximum(bumps, 0.0, out=bumps)
        bumps *= np.float32(value["contamination"])
        result = result + bumps
    return result


def _layered(image: Pixels, value: dict[str, float], pixel: float, rng: np.random.Generator) -> Pixels:
    thickness = value["amorphous"]
    passed = np.exp(-thickness / value["mean_free_path"])
    mean = thickness * value["amorphous_per_angstrom"]
    to_sigma = 1.0 / np.sqrt(8.0 * np.log(2.0))
    s = value["probe_fwhm"] * to_sigma
    atoms = thickness * _HEAVY_ATOMS
    rms = value["speckle"] * mean / np.sqrt(4.0 * np.pi * s**2 * atoms)
    grains = rng.standard_normal(image.shape, dtype=np.float32)
    # White noise, filtered to the probe's width; the filter's mean square is what it leaves of the variance.
    fy, fx = fft.fftfreq(image.shape[0]), fft.rfftfreq(image.shape[1])
    gy, gx = (np.exp(-2.0 * (np.pi * s / pixel * f) ** 2).astype(np.float32) for f in (fy, fx))
    both = np.exp(-2.0 * (np.pi * s / pixel * fft.fftfreq(image.shape[1])) ** 2)
    left = np.sqrt((gy**2).mean() * (both**2).mean())
    spectrum = fft.rfft2(grains, workers=1)
    spectrum *= gy[:, None] * gx
    grains = fft.irfft2(spectrum, s=image.shape, workers=1, overwrite_x=True)
    grains *= np.float32(rms / left)
    grains += np.float32(mean)
    np.maximum(grains, 0.0, out=grains)
    blurred = _blurred(image, value["scattered_fwhm"] * to_sigma / pixel)
    blurred *= np.float32(1.0 - passed)
    grains += blurred
    grains += np.float32(passed) * image
    return grains


def _blurred(image: Pixels, sigma: float) -> Pixels:
    """Gaussian blur of ``sigma`` px, as if the image went on mirrored beyond its border. NaN stays out of it."""

    def smooth(values: Pixels) -> Pixels:
        # Cosines are the mirrored image's own waves.
        spectrum = fft.dctn(values, workers=1)
        for axis, n in enumerate(values.shape):
            factor = np.exp(-0.5 * (np.pi * sigma / n * np.arange(n)) ** 2).astype(np.float32)
            spectrum *= factor[:, None] if axis == 0 else factor
        return fft.idctn(spectrum, workers=1, overwrite_x=True)

    known = np.isfinite(image)
    if known.all():
        return smooth(image)
    share = smooth(known.astype(np.float32))
    blurred = smooth(np.where(known, image, np.float32(0.0)))
    return np.divide(blurred, share, out=np.full_like(image, np.nan), where=known & (share > 0))


def _smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Pixels:
    """Gaussian random field of mean 0 and variance 1: bumps of standard deviation ``sigma`` px on a grid as wide."""
    along = [_bumps(n, sigma) for n in shape]
    white = rng.standard_normal((along[0].shape[1], along[1].shape[1]), dtype=np.float32)
    # Not by BLAS, whose rounding may depend on the number of its threads.
    rows = np.einsum("ik,kl->il", along[0], white)
    return np.einsum("il,jl->ij", rows, along[1])


def _bumps(pixels: int, sigma: float) -> Pixels:
    """Heights (pixels, knots) of bumps on knots ``sigma`` apart, scaled to a sum of squares of 1 at each pixel."""
    knots = np.arange(-4, np.ceil(pixels / sigma) + 5) * sigma
    heights = np.exp(-0.5 * ((np.arange(pixels)[:, None] - knots) / sigma) ** 2)
    return np.asarray(heights / np.sqrt((heights**2).sum(axis=1, keepdims=True)), dtype=np.float32)
