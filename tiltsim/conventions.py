"""What a tilt means: ours, and how to convert from others.

``tilt_x``, ``tilt_y`` give the direction of the beam inside the crystal, in mrad. The wave drifts by
+tan(tilt)·dz through each slice, so a scatterer at depth z appears at −tan(tilt)·z in an image whose
coordinates are those of the entrance surface.
"""

from __future__ import annotations

from enum import Enum


class TiltConvention(Enum):
    """Sign of a tilt in different programs, relative to the direction of the beam inside the crystal."""

    BEAM = "beam"  #: abTEM and tiltsim: where the beam goes
    SPECIMEN = "specimen"  #: opposite phase: muSTEM, Prismatic multislice, Dr. Probe (DESIGN)

    def to_beam(self, tilt_mrad: tuple[float, float]) -> tuple[float, float]:
        """``tilt_mrad`` (x, y) of this convention in tiltsim's."""
        sign = 1.0 if self is TiltConvention.BEAM else -1.0
        return sign * tilt_mrad[0], sign * tilt_mrad[1]

    def from_beam(self, tilt_mrad: tuple[float, float]) -> tuple[float, float]:
        """Tilt (x, y) in mrad of tiltsim's convention, in this one. The two differ by a sign only."""
        return self.to_beam(tilt_mrad)
