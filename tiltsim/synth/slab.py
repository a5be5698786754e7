"""What the beam meets at every cell: tilt, thickness, Sm; and how far that may go."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from structures.phases import SRTIO3_A
from tiltsim.errors import SettingsError
from tiltsim.synth.crystal import at_corners
from tiltsim.synth.ranges import Range
from tiltsim.synth.specimen_request import SpecimenRequest, ends, largest, number
from tiltsim.synth.variants import edges, variant

Floats = NDArray[np.float64]

#: Cells beyond the scanned area on every side.
MARGIN = 3

#: How far beyond the scanned area gradients go on, Å; from there on values are held.
BEYOND = MARGIN * SRTIO3_A


def reach(request: SpecimenRequest, extent: tuple[float, float]) -> tuple[float, tuple[float, float]]:
    """Bounds on what fields drawn from ``request`` may ask of a library: largest tilt along an axis, mrad; thicknesses, Å.

    No draw goes beyond them; whether one gets there depends on directions that are drawn too.
    """
    radius = float(np.hypot(*extent)) / 2.0 + 2.0**0.5 * BEYOND
    tilt = ends(request.tilt)[1] + largest(request.bending) * radius / 100.0
    if request.own_leans and request.phase != "SrTiO3":
        # All variants of a phase lean equally far.
        lean = variant(request.phase, request.domains.variants[0]).lean
        tilt += ends(request.lean_scale)[1] * float(np.abs(lean).max())
    steps = request.terraces * edges("R3c", 0.0, False)[2] + largest(request.wedge) * radius / 100.0
    low, high = ends(request.thickness)
    return tilt, (low - steps, high + steps)


def towards(degrees: Range) -> Floats:
    """Unit vector at ``degrees`` from +x towards +y."""
    angle = np.radians(number(degrees))
    return np.array([np.cos(angle), np.sin(angle)])


def tilts(request: SpecimenRequest, place: Floats, lean: Floats) -> Floats:
    """Tilt that each cell at ``place`` (relative to the field's centre, Å) with this ``lean`` sees, mrad."""
    bent = towards(request.bending_direction)
    grain = number(request.tilt) * towards(request.azimuth)
    return np.asarray(
        grain + (number(request.bending) / 100.0 * (place @ bent))[..., None] * bent - lean, dtype=float
    )


def thicknesses(
    request: SpecimenRequest,
    place: Floats,
    extent: tuple[float, float],
    step: float,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Thickness and height of the entrance surface; both as asked at the field's centre."""
    height = np.zeros(place.shape[:2])
    for _ in range(request.terraces):
        point = (rng.random(2) - 0.5) * np.asarray(extent)
        angle = 2.0 * np.pi * rng.random()
        down = np.array([np.cos(angle), np.sin(angle)])
        height += step * ((((place - point) @ down) > 0).astype(float) - float(-point @ down > 0))
    wedge = number(request.wedge) / 100.0 * (place @ towards(request.wedge_direction))
    return number(request.thickness) + wedge - height, height


def check_limits(
    tilt: Floats, thickness: Floats, tilt_limit: float | None, limits: tuple[float, float]
) -> None:
    """Refuse what the library does not hold; ``tilt`` is along the lattice's axes, as the library's."""
    seen = float(np.abs(tilt).max())
    if tilt_limit is not None and seen > tilt_limit + 1e-9:
        raise SettingsError(
            f"specimen.tilt with bending and leans reaches {seen:.2f} mrad along an axis, beyond the library's {tilt_limit:g} mrad; "
            "lower specimen.tilt, specimen.bending or specimen.lean_scale."
        )
    thin, thick = float(thickness.min()), float(thickness.max())
    if thin < limits[0] - 1e-9 or thick > limits[1] + 1e-9:
        raise SettingsError(
            f"specimen.thickness with wedge and terraces runs from {thin:.1f} to {thick:.1f} Å, beyond "
            f"{limits[0]:g} to {limits[1]:g} Å; change specimen.thickness, or lower specimen.wedge or specimen.terraces."
        )


def sprinkled(
    request: SpecimenRequest,
    samarium: Floats,
    thickness: Floats,
    edge: float,
    doped: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Floats:
    """Sm in each A column: of its n atoms a binomial number, or the mean fraction."""
    mean = np.where(doped, at_corners(samarium), 0.0)
    if not request.samarium_disorder:
        return mean
    atoms = np.maximum(1, np.round(at_corners(thickness) / edge)).astype(int)
    return rng.binomial(atoms, mean) / atoms
