"""How the scan strays: drift, jitter, fly-back, wrong scales and angles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from tiltsim.errors import SettingsError
from tiltsim.synth.limits import check_limits, number
from tiltsim.synth.path import ScanPath
from tiltsim.synth.ranges import Range

Floats = NDArray[np.float64]

_LIMITS = {
    "drift": (0.0, 50.0, "Å"),
    "drift_direction": (-360.0, 360.0, "degrees"),
    "wander": (0.0, 5.0, "Å"),
    "wander_rows": (2.0, 1e5, "rows"),
    "jitter_x": (0.0, 0.5, "Å"),
    "jitter_y": (0.0, 0.5, "Å"),
    "jitter_rows": (0.0, 1000.0, "rows"),
    "flyback": (-10.0, 10.0, "Å"),
    "flyback_pixels": (1.0, 1000.0, "px"),
    "shear": (-100.0, 100.0, "mrad"),
    "scale_x": (-0.2, 0.2, ""),
    "scale_y": (-0.2, 0.2, ""),
    "rotation": (-45.0, 45.0, "degrees"),
}

#: How many standard deviations a random offset may reach, for :func:`margin`.
_SIGMAS = 5.0


@dataclass(frozen=True)
class ScanFaults:
    """Departures of the scan from the square grid that the user is told of; directions turn from x towards y (down).

    Parameters
    ----------
    drift, drift_direction : Range
        How far the *specimen* moves while the frame is taken, Å, and where to, degrees. It appears further along
        this way the later its row: the beam stands ever further back on it.
    wander, wander_rows : Range
        Unsteady drift, Å rms along x and along y, and the number of rows over which it changes: Gaussian noise
        smoothed by a Gaussian of that standard deviation.
    jitter_x, jitter_y : Range
        By how much each row is out, Å rms.
    jitter_rows : Range
        Rows over which jitter is correlated, falling off exponentially; 0: each row has its own.
    flyback, flyback_pixels : Range
        The beam is still on its way back when a row begins, and stands too far right by this many Å, which decays
        exponentially over so many pixels. It must not turn back within the row: flyback < flyback_pixels × pixel.
    shear : Range
        Rows start further right by this much per length down, mrad.
    scale_x, scale_y : Range
        Relative error of the steps: 0.01 for steps 1 % longer than the user is told, and so a crystal 1 % smaller.
    rotation : Range
        By which the rows are turned, degrees. The crystal appears turned the other way.
    """

    drift: Range = 0.0
    drift_direction: Range = 0.0
    wander: Range = 0.0
    wander_rows: Range = 200.0
    jitter_x: Range = 0.0
    jitter_y: Range = 0.0
    jitter_rows: Range = 0.0
    flyback: Range = 0.0
    flyback_pixels: Range = 20.0
    shear: Range = 0.0
    scale_x: Range = 0.0
    scale_y: Range = 0.0
    rotation: Range = 0.0

    def __post_init__(self) -> None:
        """Refuse scans that show no lattice."""
        check_limits(self, "scan", _LIMITS)


def draw_path(faults: ScanFaults, shape: tuple[int, int], pixel: float, rng: np.random.Generator) -> ScanPath:
    """Where the beam stands on the specimen at each pixel.

    Parameters
    ----------
    faults : ScanFaults
        Settled. Steady faults leave the middle of the frame where it is.
    shape : (int, int)
        Rows and columns.
    pixel : float
        What the user is told, Å.
    rng : Generator
        Draws the same numbers whatever the faults.

    Raises
    ------
    SettingsError
        If a setting is still a range, or the fly-back turns the beam round.
    """
    value = {name: number(faults, "scan", name) for name in _LIMITS}
    rows, columns = shape
    if abs(value["flyback"]) >= 0.9 * value["flyback_pixels"] * pixel:
        raise SettingsError(
            f"scan.flyback {value['flyback']:g} Å must be less than 0.9 × scan.flyback_pixels × pixel = "
            f"{0.9 * value['flyback_pixels'] * pixel:.3g} Å, or the beam would run backwards; lower it or let it decay more slowly."
        )
    angle, drift = np.radians(value["rotation"]), np.radians(value["drift_direction"])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    steps = np.array([[1.0 + value["scale_x"], value["shear"] * 1e-3], [0.0, 1.0 + value["scale_y"]]])
    moved = value["drift"] * np.array(
        [np.cos(drift), np.sin(drift)]
    )  # of the specimen: the beam's is opposite
    matrix = turn @ steps * pixel - moved[:, None] * np.array([1.0 / (rows * columns), 1.0 / rows])
    middle = np.array([columns - 1, rows - 1]) / 2
    rms = np.array([value["jitter_x"], value["jitter_y"]])
    row_offset = rms * _correlated(rng.standard_normal((rows, 2)), value["jitter_rows"])
    row_offset += value["wander"] * _wandering(rng.standard_normal((3 * rows, 2)), value["wander_rows"])
    column_offset = np.zeros((columns, 2))
    late = value["flyback"] * np.exp(-np.arange(columns) / value["flyback_pixels"])
    column_offset[:] = late[:, None] * turn[:, 0]
    return ScanPath(shape, pixel, middle * pixel - matrix @ middle, matrix, row_offset, column_offset)


def margin(faults: ScanFaults, shape: tuple[int, int], pixel: float) -> float:
    """How far beyond the nominal frame the beam may stand, Å, whatever is drawn from ``faults``."""
    worst = {name: float(np.max(np.abs(getattr(faults, name)))) for name in _LIMITS}
    width, height = shape[1] * pixel, shape[0] * pixel
    # Of a point half a diagonal from the middle, by scale, shear and rotation.
    stretch = np.hypot(1.0 + max(worst["scale_x"], worst["scale_y"]), worst["shear"] * 1e-3) - 1.0
    radius = np.hypot(width, height) / 2
    turned = 2.0 * np.sin(np.radians(worst["rotation"]) / 2)
    random = _SIGMAS * (worst["wander"] + max(worst["jitter_x"], worst["jitter_y"]))
    return float(
        radius * (stretch + worst["shear"] * 1e-3 + turned * (1 + stretch))
        + worst["drift"] / 2
        + random
        + worst["flyback"]
    )


def _wandering(noise: Floats, rows: float) -> Floats:
    """The middle third of white ``noise`` (3 × rows, 2), smoothed along its first axis and brought back to variance 1."""
    smooth = gaussian_filter1d(noise, rows, axis=0, mode="wrap")
    kernel = gaussian_filter1d(np.eye(1, len(noise))[0], rows, mode="wrap")
    third = len(noise) // 3
    return smooth[third : 2 * third] / np.sqrt((kernel**2).sum())


def _correlated(noise: Floats, rows: float) -> Floats:
    """White ``noise`` (rows, 2) as a first-order autoregressive process of variance 1."""
    if rows == 0.0:
        return noise
    kept = np.exp(-1.0 / rows)
    driven = noise * np.sqrt(1.0 - kept**2)
    driven[0] = noise[0]
    return lfilter([1.0], [1.0, -kept], driven, axis=0)
