"""From a settled request to the crystal: its lattice, and the displacements of columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from structures.phases import SRTIO3_A
from tiltsim.synth.crystal import MATERIALS, Crystal, around
from tiltsim.synth.domains import Pattern, lay_pattern
from tiltsim.synth.slab import BEYOND, MARGIN, check_limits, sprinkled, thicknesses, tilts, towards
from tiltsim.synth.specimen_request import SpecimenRequest, ends, largest, number
from tiltsim.synth.variants import edges, variant

Floats = NDArray[np.float64]

#: Largest shear of a variant, rad; R3c and Cc have 9.9 mrad.
_SHEAR = 0.011

_POLAR, _SUBSTRATE = MATERIALS.index("BiFeO3"), MATERIALS.index("SrTiO3")


@dataclass(frozen=True, eq=False)
class _Frame:
    """The undistorted lattice, relative to the field's centre and along its own axes, Å.

    ``x`` and ``y`` are those of the A columns, and row ``interface`` of A columns is where the film ends (the last
    row where there is no substrate). ``height`` of each row of cells above it, Å, is negative in the substrate.
    """

    x: Floats
    y: Floats
    edge: tuple[float, float, float]
    interface: int
    height: Floats


def grid_shape(request: SpecimenRequest, extent: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns of cells that cover ``extent`` (width, height; Å) whatever is drawn from ``request``."""
    half = _half(request, extent)
    clamped = ends(request.substrate)[1] > 0
    small = np.min(
        [edges(request.phase, x, c) for x in ends(request.samarium) for c in {False, clamped}], axis=0
    )
    if clamped:
        small = np.minimum(small, SRTIO3_A)
    columns, rows = (int(np.ceil(2.0 * h / e)) + 3 for h, e in zip(half, small[:2], strict=True))
    return rows, columns


def _half(request: SpecimenRequest, extent: tuple[float, float]) -> tuple[float, float]:
    """Half of what the undistorted lattice must cover along its axes, Å, for any draw from ``request``."""
    w, h = extent[0] / 2.0, extent[1] / 2.0
    # A rotated box fits in its circle, and in itself widened by the sine times the other side.
    turn = float(np.sin(np.radians(min(largest(request.rotation), 90.0))))
    radius = float(np.hypot(w, h))
    w, h = min(radius, w + turn * h), min(radius, h + turn * w)
    xx, yy, xy = (largest(s) for s in (request.strain_xx, request.strain_yy, request.strain_xy))
    room = 1.0 - xx - yy - xy
    # Sheared rows count from the interface, which may lie at the border.
    sideways = xy + (2.0 * _SHEAR if request.shear else 0.0)
    margin = MARGIN * max(edges("R3c", 0.0, False)[0], edges("Cc", 0.0, False)[1])
    return (w + sideways * h + margin) / room, (h + sideways * w + margin) / room


def lay_out(
    request: SpecimenRequest,
    extent: tuple[float, float],
    rng: np.random.Generator,
    *,
    shape: tuple[int, int] | None = None,
    tilt_limit_mrad: float | None = None,
    thickness_limits: tuple[float, float] = (4.0, 2000.0),
) -> Crystal:
    """The crystal of one field.

    Parameters
    ----------
    request : SpecimenRequest
        Settled: all its ranges are numbers.
    extent : (float, float)
        Width and height of the scanned area, which begins at (0, 0), Å.
    rng : Generator
        Origin of the lattice, domains, terraces, Sm and disorder, each with numbers of its own.
    shape : (int, int), optional
        Rows and columns of cells, from :func:`grid_shape` of the request before it was settled, so that all
        fields of a set agree; default that of ``request``.
    tilt_limit_mrad : float, optional
        Largest tilt that a cell may see.
    thickness_limits : (float, float)
        Thinnest and thickest that a cell may be, Å: those of the library.

    Returns
    -------
    Crystal
        Covers the scanned area and :data:`MARGIN` cells around it. Gradients end there.

    Raises
    ------
    SettingsError
        If tilt or thickness go beyond the limits.
    """
    for_origin, for_domains, for_terraces, for_samarium, for_disorder = rng.spawn(5)
    rows, columns = shape or grid_shape(request, extent)
    frame = _frame(request, extent, (rows, columns), for_origin)
    in_substrate = np.broadcast_to((frame.height < 0)[:, None], (rows, columns))
    reference = np.stack(np.meshgrid(frame.x, frame.y), axis=-1)
    pattern = lay_pattern(request.domains, around(reference), extent, for_domains)
    # How much of the film's distortion is left near the interface, none below it.
    with np.errstate(divide="ignore"):
        rise = np.where(frame.height < 0, 0.0, np.tanh(frame.height / number(request.interface_width)))
    names = pattern.names or ("none",)
    if request.phase == "SrTiO3":
        in_substrate, rise, names = np.ones((rows, columns), bool), np.zeros(rows), ()
    shares = pattern.shares * rise[:, None, None]

    angle = np.radians(number(request.rotation))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    xx, yy, xy = (number(s) for s in (request.strain_xx, request.strain_yy, request.strain_xy))
    distort = turn @ np.array([[1.0 + xx, xy], [xy, 1.0 + yy]])
    if request.shear:
        reference = reference + _sheared(request, pattern, shares, frame)
    centre = np.asarray(extent) / 2.0
    a = centre + reference @ distort.T
    cage = around(a)
    held = np.clip(cage, -BEYOND, np.asarray(extent) + BEYOND) - centre

    gradient = number(request.samarium_gradient) / 100.0 * towards(request.samarium_direction)
    samarium = np.clip(number(request.samarium) + held @ gradient, 0.0, 1.0)
    d, lean = _distortions(request, pattern, shares, samarium)
    tilt = tilts(request, held, lean @ turn.T)
    thickness, height = thicknesses(request, held, extent, frame.edge[2], for_terraces)
    check_limits(tilt @ turn, thickness, tilt_limit_mrad, thickness_limits)

    material = np.where(in_substrate, _SUBSTRATE, _POLAR)
    material_a = np.full((rows + 1, columns + 1), material[0, 0])
    if frame.interface < rows:
        material_a[frame.interface + (request.termination == "TiO2") :] = _SUBSTRATE
    domain = pattern.shares.argmax(axis=-1) if pattern.names else np.zeros((rows, columns), int)
    if in_substrate.any():
        domain, names = np.where(in_substrate, len(names), domain), (*names, "SrTiO3")
    shaken = for_disorder.standard_normal((2, rows + 1, columns + 1, 2)) / 100.0
    return Crystal(
        a=a + number(request.disorder_a) * shaken[0],
        b=cage - d @ turn.T / 100.0 + number(request.disorder_b) * shaken[1, 1:, 1:],
        tilt=tilt,
        thickness=thickness,
        height=height,
        samarium=sprinkled(request, samarium, thickness, frame.edge[2], material_a == _POLAR, for_samarium),
        material_a=material_a,
        material=material,
        domain=domain,
        domain_names=names,
    )


def _frame(
    request: SpecimenRequest, extent: tuple[float, float], shape: tuple[int, int], rng: np.random.Generator
) -> _Frame:
    rows, columns = shape
    share = number(request.substrate)
    edge = edges(request.phase, number(request.samarium), share > 0)
    half = _half(request, extent)
    start = rng.random(2) - 0.5
    x = (np.arange(columns + 1) - columns / 2.0 + start[0]) * edge[0]
    if share > 0:
        level = (0.5 - share) * extent[1]
        needed = (half[1] + level) / edge[1], (half[1] - level) / SRTIO3_A
        interface = int(np.floor(needed[0] + (rows - sum(needed)) / 2.0))
        steps = np.arange(rows + 1) - interface
        y = np.where(steps > 0, level + steps * SRTIO3_A, level + steps * edge[1])
        height = level - (y[1:] + y[:-1]) / 2.0
    else:
        interface = rows
        y = (np.arange(rows + 1) - rows / 2.0 + start[1]) * edge[1]
        height = np.full(rows, np.inf)
    if min(-x[0], x[-1]) < half[0] or min(-y[0], y[-1]) < half[1]:
        raise ValueError(f"{rows} × {columns} cells do not cover {extent} Å; take grid_shape's")
    return _Frame(x, y, edge, interface, height)


def _sheared(request: SpecimenRequest, pattern: Pattern, shares: Floats, frame: _Frame) -> Floats:
    """Displacement of the A columns whose gradient is each variant's in-plane shear, Å.

    It changes only along the normal of compatible walls. From the interface down there is none.
    """
    moved = np.zeros((len(frame.y), len(frame.x), 2))
    if not pattern.names or request.phase == "SrTiO3":
        return moved
    shear = shares @ np.array([variant(request.phase, name).shear for name in pattern.names]) / 1e3
    if request.shears_along_x:
        slope, along, zero = shear[0], frame.x, len(frame.x) // 2
    else:
        slope, along = shear[:, 0], frame.y
        zero = frame.interface if frame.interface < len(slope) else len(slope) // 2
    total = np.r_[0.0, np.cumsum(slope * np.diff(along))]
    total -= total[zero]
    if request.shears_along_x:
        moved[..., 1] = total
    else:
        moved[..., 0] = total[:, None]
    return moved


def _distortions(
    request: SpecimenRequest, pattern: Pattern, shares: Floats, samarium: Floats
) -> tuple[Floats, Floats]:
    """d, pm, and lean as far as it counts, mrad, of every cell along the lattice's axes."""
    if not pattern.names or request.phase == "SrTiO3":
        return np.zeros((*samarium.shape, 2)), np.zeros((*samarium.shape, 2))
    known = [variant(request.phase, name) for name in pattern.names]
    pure = shares @ np.array([v.d[0] for v in known])
    full = shares @ np.array([v.d[1] for v in known])
    d = number(request.polar) * (pure + samarium[..., None] * (full - pure))
    scale = number(request.lean_scale) if request.own_leans else 0.0
    return d, scale * (shares @ np.array([v.lean for v in known]))
