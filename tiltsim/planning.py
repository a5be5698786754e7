"""What follows from the settings for one specimen: repeats, grid, scan, exit planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.fft import next_fast_len

from structures import Specimen
from tiltsim.errors import SettingsError
from tiltsim.settings import Detector, Microscope, Numerics, TiltSeries

#: The band limit must exceed this times (detector outer + largest tilt): multiply scattered electrons
#: pass through higher angles on their way to the detector (measured; see docs/physics.md).
BAND_LIMIT_FACTOR = 1.75

#: Least width of the repeated box, Å: the waves are then at most 1.7 mrad apart at 200 kV, fine enough for the
#: rims of aperture and detector (docs/physics.md).
LEAST_WIDTH = 15.0


@dataclass(frozen=True)
class Plan:
    """Everything that follows from the settings for one specimen.

    Parameters
    ----------
    repeats : (int, int)
        How often the specimen's box is repeated before the probe meets its own copy: multislice tiles it,
        the scattering matrix takes as many residual wave vectors.
    gpts : (int, int)
        Grid of the waves over one period (x, y).
    scan : (int, int)
        Probe positions of multislice over one period (x, y).
    samples : (int, int)
        Samples of an image over one period (x, y) that hold all its Fourier coefficients.
    exit_planes : tuple of int
        Slice after which each thickness is read.
    requested, thicknesses : tuple of float
        Thicknesses asked for and, in whole layers, actual ones, Å.
    band_limit : float
        mrad.
    """

    repeats: tuple[int, int]
    gpts: tuple[int, int]
    scan: tuple[int, int]
    samples: tuple[int, int]
    exit_planes: tuple[int, ...]
    requested: tuple[float, ...]
    thicknesses: tuple[float, ...]
    band_limit: float


def plan(
    specimen: Specimen,
    microscope: Microscope,
    tilts: TiltSeries,
    thicknesses: Sequence[float],
    detectors: Sequence[Detector],
    numerics: Numerics,
) -> Plan:
    """Repeats, grid, scan and exit planes for a simulation.

    Raises
    ------
    SettingsError
        If a thickness exceeds the specimen or a detector exceeds the band limit.
    """
    angle = band_limit(detectors, microscope, tilts, numerics)
    box = np.array(specimen.box)
    # abTEM keeps the inner two thirds of the reciprocal grid.
    sampling = (2.0 / 3.0) / (2.0 * angle * 1e-3 / microscope.wavelength)
    gpts = [_fast_length(length / sampling) for length in box]
    scan = [
        int(np.ceil(2.0 * microscope.image_cutoff * length * numerics.scan_oversampling)) for length in box
    ]
    layers = []
    for t in thicknesses:
        n = round(t / specimen.layer)
        if not np.isfinite(t) or n < 1 or t > specimen.thickness + specimen.layer / 2:
            raise SettingsError(
                f"thickness {t:g} Å is outside the specimen's {specimen.layer:.1f} to {specimen.thickness:.1f} Å; "
                "build a thicker specimen or ask for thinner images."
            )
        layers.append(n)
    if sorted(set(layers)) != layers:
        raise SettingsError(
            f"thicknesses {list(thicknesses)} Å must ascend by at least one layer ({specimen.layer:.2f} Å)."
        )
    times = repeats(specimen.box, max(thicknesses), microscope, tilts, numerics)
    # The aperture's soft edge lets waves half a step (or half its width) beyond the cutoff through.
    step = float(np.hypot(*(microscope.wavelength / (np.array(times) * box))))
    radius = microscope.semiangle_cutoff * 1e-3 + max(step, microscope.edge * 1e-3) / 2
    samples = [2 * int(np.floor(2 * radius / microscope.wavelength * length)) + 1 for length in box]
    return Plan(
        times,
        (gpts[0], gpts[1]),
        (scan[0], scan[1]),
        (samples[0], samples[1]),
        tuple(n * specimen.slices - 1 for n in layers),
        tuple(float(t) for t in thicknesses),
        tuple(n * specimen.layer for n in layers),
        angle,
    )


def band_limit(
    detectors: Sequence[Detector], microscope: Microscope, tilts: TiltSeries, numerics: Numerics
) -> float:
    """Largest scattering angle kept, mrad: one that holds the ``detectors`` and the aperture at all ``tilts``.

    Raises
    ------
    SettingsError
        If a given ``numerics.band_limit`` does not hold them.
    """
    outer = max(d.outer + d.edge / 2 for d in detectors)
    aperture = microscope.semiangle_cutoff + microscope.edge / 2
    needed = max(outer, aperture) + tilts.largest
    if numerics.band_limit is None:
        return BAND_LIMIT_FACTOR * needed
    if numerics.band_limit < needed:
        name = "detector.outer" if outer >= aperture else "semiangle_cutoff"
        raise SettingsError(
            f"{name} {max(outer, aperture):g} mrad plus the largest tilt {tilts.largest:g} mrad lies beyond "
            f"the band limit of {numerics.band_limit:g} mrad; raise numerics.band_limit to "
            f"{BAND_LIMIT_FACTOR * needed:.0f} mrad or lower {name}."
        )
    return numerics.band_limit


def repeats(
    box: tuple[float, float],
    thickness: float,
    microscope: Microscope,
    tilts: TiltSeries,
    numerics: Numerics,
) -> tuple[int, int]:
    """How often ``box`` (Å) is repeated along x and y so that the probe does not meet its copy."""
    if numerics.wave_vectors is not None:
        return numerics.wave_vectors, numerics.wave_vectors
    width = box_width(thickness, microscope, tilts, numerics)
    nx, ny = (max(1, int(np.ceil(width / length - 1e-6))) for length in box)
    return nx, ny


def box_width(thickness: float, microscope: Microscope, tilts: TiltSeries, numerics: Numerics) -> float:
    """Least width of the repeated box for a ``thickness`` in Å, Å: the probe's cone and its drift.

    A tilted probe drifts together with its copies, so the drift is a margin for what is scattered out of
    the cone, not a necessity (docs/physics.md has the measured cost of too few repeats).
    """
    if numerics.minimum_box is not None:
        return numerics.minimum_box
    return max(LEAST_WIDTH, cone(thickness, microscope) + drift(thickness, tilts))


def cone(thickness: float, microscope: Microscope) -> float:
    """Largest width of the probe between entrance and exit surface, Å: its cone, focused at the defocus."""
    focus = microscope.defocus
    return 2.0 * microscope.semiangle_cutoff * 1e-3 * max(abs(focus), abs(thickness - focus))


def drift(thickness: float, tilts: TiltSeries) -> float:
    """How far the largest tilt moves the beam between entrance and exit surface, Å."""
    return float(np.tan(max(map(abs, (*tilts.x, *tilts.y))) * 1e-3)) * thickness


def _fast_length(least: float) -> int:
    """Grid of at least ``least`` points that fast Fourier transforms like: four times a product of 2, 3 and 5.

    Measured with MKL on one core, ns per point: 160, 1.0; 162, 2.3; 180, 1.4; 375, 2.7; 384, 1.8.
    """
    return 4 * int(next_fast_len(int(np.ceil(least / 4)), real=True))
