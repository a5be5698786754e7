"""From the fraction of the beam that reaches the detector to the numbers in a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from tiltsim.errors import SettingsError
from tiltsim.synth.limits import check_limits, number
from tiltsim.synth.ranges import Range, check_range

Pixels = NDArray[np.float32]

_LIMITS = {
    "flicker": (0.0, 0.3, ""),
    "tail": (0.0, 0.5, ""),
    "tail_pixels": (0.1, 200.0, "px"),
    "readout": (0.0, 1e4, "electrons"),
    "counts_per_electron": (0.0, 1e6, ""),
    "exposure": (0.05, 20.0, "of full scale"),
    "offset": (0.0, 0.9, "of full scale"),
    "saturation": (0.0, 1.0, "of full scale"),
}

#: Bits of a stored number, and how they are stored.
_BITS = {0: np.float32, 8: np.uint8, 12: np.uint16, 16: np.uint16}


@dataclass(frozen=True)
class Detection:
    """Dose, detector and digits; by default a perfect detector of unlimited dose.

    In this order: Poisson noise, gain of each row, afterglow, readout noise, black level, saturation, digits.

    Parameters
    ----------
    dose_per_A2 : Range
        Incident electrons per Å²; ``inf`` is noise-free.
    flicker : Range
        Gain of each row, rms relative to the mean.
    tail, tail_pixels : Range
        Share of a pixel's signal that comes late, and the pixels over which it decays along the scan, running on into the
        next row (the scan's way back is taken as instant). Fast scans smear bright columns to the right by it.
    readout : Range
        Noise of the electronics, electrons rms. It needs a finite dose.
    counts_per_electron : Range
        Gain. 0 sets it for each image as an operator does, by ``exposure``; or, where ``bits`` is 0, to 1.
    exposure : Range
        Where the brightest noise-free pixel lies between the black level (0) and full scale (1).
    offset : Range
        Black level, fraction of full scale.
    saturation : Range
        Signal at which detector or amplifier give no more, fraction of full scale; 0: only where the digits end.
    bits : int
        8, 12 or 16 for whole numbers up to full scale 2^bits − 1; 0 for fractional counts without a limit, full scale being
        set by ``exposure``.
    """

    dose_per_A2: Range = field(default=float("inf"), metadata={"logarithmic": True})
    flicker: Range = 0.0
    tail: Range = 0.0
    tail_pixels: Range = 3.0
    readout: Range = 0.0
    counts_per_electron: Range = 0.0
    exposure: Range = 0.8
    offset: Range = 0.0
    saturation: Range = 0.0
    bits: int = 0

    def __post_init__(self) -> None:
        """Refuse doses, gains and digits that no detector has."""
        if self.dose_per_A2 != float("inf"):
            check_range("detection.dose_per_A2", self.dose_per_A2, 1.0, 1e10, "e/Å²")
        elif self.readout != 0.0 or self.counts_per_electron != 0.0:
            raise SettingsError(
                "detection.dose_per_A2 inf has no electrons to which detection.readout or detection.counts_per_electron "
                "could refer; give a dose, e.g. 1e5, or leave them 0."
            )
        check_limits(self, "detection", _LIMITS)
        if self.bits not in _BITS:
            raise SettingsError(
                f"detection.bits {self.bits} must be 8, 12 or 16, or 0 for fractional counts."
            )


def detect(
    image: NDArray[Any],
    detection: Detection,
    pixel: float,
    rng: np.random.Generator,
    *,
    own_dose: float = float("inf"),
) -> tuple[NDArray[Any], dict[str, float]]:
    """What the detector makes of an image.

    Parameters
    ----------
    image : ndarray (y, x)
        Fraction of the incident beam; NaN where there is none.
    detection : Detection
        Settled.
    pixel : float
        Å.
    rng : Generator
    own_dose : float
        Electrons per Å² whose noise the image has already. Only the noise that is missing at the lower dose D asked for is
        added: Poisson noise of a dose D', 1/D' = 1/D − 1/own, so that mean and variance are those of dose D.

    Returns
    -------
    counts : ndarray (y, x)
        float32, uint8 or uint16. NaN stays NaN, or becomes 0 in whole numbers. With neither a dose nor digits it remains the fraction of the beam.
    attributes : dict
        ``fraction = (counts − black_level) / counts_per_fraction`` takes counts back to the beam; besides
        ``dose_per_A2``, ``full_scale`` (counts; inf where there is none) and ``saturated``, the fraction of pixels
        at the limit.

    Raises
    ------
    SettingsError
        If a setting is still a range, or the image has too few electrons already.
    """
    dose = number(detection, "detection", "dose_per_A2")
    value = {name: number(detection, "detection", name) for name in _LIMITS}
    signal = np.asarray(image, dtype=np.float32)
    dead = ~np.isfinite(signal)
    holes = bool(dead.any())
    if holes:
        signal = np.where(dead, np.float32(0.0), signal)
    brightest = max(float(signal.max()), 1e-12)
    electrons = dose * pixel**2 if np.isfinite(dose) else 1.0
    # A stream for each stage, so that a change to one leaves the others' noise as it was.
    for_dose, for_rows, for_readout = rng.spawn(3)
    if np.isfinite(dose):
        if own_dose <= dose:
            raise SettingsError(
                f"detection.dose_per_A2 {dose:g} e/Å² must be below the {own_dose:g} e/Å² that the image was taken with; "
                "lower it, or leave it inf to add no noise."
            )
        missing = 1.0 / (1.0 / dose - 1.0 / own_dose)
        expected = np.maximum(signal, 0.0, dtype=np.float64)
        expected *= missing * pixel**2
        signal = for_dose.poisson(expected).astype(np.float32)
        if missing != dose:
            signal *= np.float32(dose / missing)
    if value["flicker"] > 0:
        gains = 1.0 + value["flicker"] * for_rows.standard_normal((len(signal), 1))
        signal = signal * np.maximum(gains, 0.0).astype(np.float32)
    if value["tail"] > 0:
        signal = _afterglow(signal, value["tail"], value["tail_pixels"])
    if value["readout"] > 0:
        noise = for_readout.standard_normal(signal.shape, dtype=np.float32)
        noise *= np.float32(value["readout"])
        noise += signal
        signal = noise
    gain, full_scale = _scale(detection.bits, value, brightest * electrons)
    black = value["offset"] * full_scale
    if gain != 1.0 or black != 0.0:
        signal = signal * np.float32(gain) + np.float32(black)
    top = value["saturation"] * full_scale if value["saturation"] > 0 else np.inf
    if detection.bits:
        top = min(top, full_scale)
    saturated = float((signal >= top).mean()) if np.isfinite(top) else 0.0
    if np.isfinite(top):
        signal = np.minimum(signal, np.float32(top))
    counts: NDArray[Any] = signal
    if detection.bits:
        counts = np.rint(np.maximum(signal, 0.0)).astype(_BITS[detection.bits])
    if holes:
        counts = np.where(dead, counts.dtype.type(0 if detection.bits else np.nan), counts)
    return counts, {
        "dose_per_A2": dose,
        "counts_per_fraction": gain * electrons,
        "black_level": black,
        "full_scale": full_scale,
        "saturated": saturated,
    }


def _scale(bits: int, value: dict[str, float], brightest: float) -> tuple[float, float]:
    """Counts per electron and full scale, counts, for an image whose brightest pixel expects so many electrons."""
    fixed = value["counts_per_electron"]
    if bits:
        full_scale = 2.0**bits - 1.0
        return fixed or value["exposure"] * (1.0 - value["offset"]) * full_scale / brightest, full_scale
    gain = fixed or 1.0
    return gain, gain * brightest / (value["exposure"] * (1.0 - value["offset"]))


def _afterglow(signal: Pixels, share: float, pixels: float) -> Pixels:
    """A ``share`` of the signal late by an exponential decay; what came before the first pixel was like it."""
    kept = float(np.exp(-1.0 / pixels))
    ahead = np.array([1.0 - share * kept, -(1.0 - share) * kept], dtype=np.float32)
    back = np.array([1.0, -kept], dtype=np.float32)
    flat = signal.ravel()
    # The state of a filter that has seen the first pixel's value for ever.
    state = np.array([share * kept * flat[0]], dtype=np.float32)
    return lfilter(ahead, back, flat, zi=state)[0].reshape(signal.shape)
