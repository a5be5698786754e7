"""What is asked of a synthetic specimen. Frozen and checked when made; what is a range is drawn by ``settle``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tiltsim.errors import SettingsError
from tiltsim.synth.ranges import Range, check_range
from tiltsim.synth.variants import VARIANTS

PATTERNS = ("single", "wall", "stripes", "random", "none")
PHASES = ("R3c", "Cc", "SrTiO3")
TERMINATIONS = ("TiO2", "SrO")
LEANS = ("auto", "variant", "common")
ORIENTATIONS = ("compatible", "given")

#: Components of d (image axes, z along the beam) that each wall may reverse; the first is the default.
WALLS = {"180": ("xyz",), "109": ("yz", "xz", "xy"), "71": ("x", "y", "z")}


@dataclass(frozen=True)
class DomainRequest:
    """Which ⟨111⟩ variants there are and where. All walls are seen edge-on; d follows tanh(distance / width) across them.

    ======== ======== =============================== ==============================================
    wall     reverses compatible normal               charge
    ======== ======== =============================== ==============================================
    180      xyz      across the in-plane d           none
    109      yz       x                               none
    109      xz       y                               none
    109      xy       along the in-plane d            head to head in projection, or tail to tail
    71       x        x                               head to head in projection, or tail to tail
    71       y        y                               head to head in projection, or tail to tail
    71       z        along the in-plane d            none; the in-plane d is the same on both sides
    ======== ======== =============================== ==============================================

    "Compatible" is a plane on which the spontaneous strains of both sides agree (Fousek and Janovec 1969, doi
    10.1063/1.1657018). A 71° wall that reverses an in-plane component and is also neutral, {011}, lies at 45° to the
    beam; such inclined walls are left out, because no column there is the same at all depths.

    Parameters
    ----------
    pattern : {"single", "wall", "stripes", "random", "none"}
        One domain; two; two that alternate; several; or no displacement at all.
    variants : tuple of str
        Variants (direction of d, with the beam along [100] and [001] up) from which the first domain, or all of a
        random pattern, are drawn. One alone sets it.
    wall : {"180", "109", "71"}
        Angle between d on the two sides of a "wall" or of "stripes".
    reverses : str
        Components of d that reverse, along image x, y and the beam z; default the first for each wall in the table.
    orientation : {"compatible", "given"}
        Whether ``normal`` counts from the table's normal or from the lattice's x.
    normal : Range
        Direction across the wall, from the first domain to the second, degrees from +x towards +y (down).
    position : Range
        Where the wall crosses, as a fraction of the field's extent along its normal.
    wall_width : Range
        Half width, Å: d is 76 % of its value this far from the wall. About a cell is assumed.
    period : Range
        Of stripes, Å: two domains. Where they begin is random.
    count : int
        Number of domains of a random pattern (Voronoi cells of well-spread seeds).
    """

    pattern: str = "single"
    variants: tuple[str, ...] = VARIANTS
    wall: str = "109"
    reverses: str = ""
    orientation: str = "compatible"
    normal: Range = 0.0
    position: Range = 0.5
    wall_width: Range = 4.0
    period: Range = 120.0
    count: int = 6

    def __post_init__(self) -> None:
        """Refuse patterns and walls that cannot be."""
        _choice("domains.pattern", self.pattern, PATTERNS)
        _choice("domains.wall", self.wall, tuple(WALLS))
        _choice("domains.reverses", self.reverses, ("", *WALLS[self.wall]))
        _choice("domains.orientation", self.orientation, ORIENTATIONS)
        if isinstance(self.variants, str) or not self.variants:
            raise SettingsError('domains.variants must be a list of variants, e.g. ["[111]", "[1-11]"].')
        for name in self.variants:
            _choice("domains.variants", name, VARIANTS)
        check_range("domains.normal", self.normal, -360, 360, "degrees")
        check_range("domains.position", self.position, 0, 1, "")
        check_range("domains.wall_width", self.wall_width, 0.1, 100, "Å")
        check_range("domains.period", self.period, 8, 10000, "Å")
        _whole("domains.count", self.count, 1, 100)
        if self.pattern == "stripes" and ends(self.wall_width)[1] > ends(self.period)[0] / 4:
            raise SettingsError(
                f"domains.wall_width up to {ends(self.wall_width)[1]:g} Å leaves nothing of stripes of "
                f"domains.period {ends(self.period)[0]:g} Å; keep it below a quarter of the period."
            )

    @property
    def reversed(self) -> str:
        """Components of d that reverse across the wall."""
        return self.reverses or WALLS[self.wall][0]

    @property
    def compatible(self) -> bool:
        """Whether every wall has its compatible normal."""
        if self.pattern in ("wall", "stripes"):
            return self.orientation == "compatible" and ends(self.normal) == (0.0, 0.0)
        return self.pattern != "random"


@dataclass(frozen=True)
class SpecimenRequest:
    """The specimen of one field, seen along [100] with [001] up. Directions are degrees from +x towards +y (down).

    **Tilt.** A cell sees ``tilt`` + bending − ``lean_scale`` × lean. Where ``lean`` is "variant", each domain has the
    lean of its own, 9.9 mrad along x and y in R3c, and ``tilt`` refers to the pseudocubic axes that all share (see
    docs/physics.md). Across a compatible wall that is seen edge-on the displacement gradient can only jump along its
    normal, so that columns are parallel on both sides: "common" leaves leans out, and ``tilt`` is that against the
    columns. "auto" is "common" for one domain or a compatible wall, and "variant" for stripes and random
    domains, as if each were free to relax: the most that they can differ in tilt. SrTiO3 has none, and near an interface the film's rises with d.

    **Edges** of the cells follow the mean Sm fraction, d the local one.

    Parameters
    ----------
    phase : {"R3c", "Cc", "SrTiO3"}
        Bulk; strained film (:class:`structures.MonoclinicModel`); or SrTiO3 alone.
    domains : DomainRequest
        Variants and walls.
    polar : Range
        Factor on d of the phase (23.6 pm along x and y in R3c).
    samarium : Range
        Mean fraction of Sm on A at the field's centre.
    samarium_gradient, samarium_direction : Range
        Change of the fraction per 100 Å, and along what, degrees; where it would leave 0 to 1 it stays there.
    samarium_disorder : bool
        Whether each column holds a binomial number of Sm atoms, or exactly the mean fraction.
    substrate : Range
        Fraction of the field's height that is SrTiO3, from the bottom; 0 is none. The film is coherent: it takes
        the in-plane edge of SrTiO3 and keeps its own along y.
    termination : {"TiO2", "SrO"}
        Last plane of the substrate. The row of A columns at the interface is the film's on TiO2, Sr on SrO.
    interface_width : Range
        d rises from the interface as tanh(height / width), Å; 0 is at once. A cell is assumed.
    disorder_a, disorder_b : Range
        Static displacements of A and B columns at random, pm rms along each axis.
    strain_xx, strain_yy, strain_xy : Range
        Of the whole field, along the lattice's axes.
    rotation : Range
        Of the lattice (with d and leans) against the scan, degrees, from +x towards +y.
    shear : bool
        Whether angles between rows differ from 90° as each variant's do (9.9 mrad in R3c): displacements integrated
        along y, from the interface if there is one, or along x across walls with that normal. Left out by default.
    tilt, azimuth : Range
        Of the grain at the field's centre, mrad and degrees.
    bending, bending_direction : Range
        Change of tilt per 100 Å, mrad; the tilt changes along the direction in which the specimen is bent, degrees.
    lean : {"auto", "variant", "common"}
        See above.
    lean_scale : Range
        Factor on the leans: below 1 in a lamella or film that is clamped.
    thickness : Range
        At the field's centre, Å.
    wedge, wedge_direction : Range
        Change of thickness, Å per 100 Å, on the exit side, and along what, degrees.
    terraces : int
        Number of straight steps, one cell high, on the entrance side, anywhere in the field.
    """

    phase: str = "R3c"
    domains: DomainRequest = field(default_factory=DomainRequest)
    polar: Range = 1.0
    samarium: Range = 0.0
    samarium_gradient: Range = 0.0
    samarium_direction: Range = (0.0, 360.0)
    samarium_disorder: bool = True
    substrate: Range = 0.0
    termination: str = "TiO2"
    interface_width: Range = 4.0
    disorder_a: Range = 0.0
    disorder_b: Range = 0.0
    strain_xx: Range = 0.0
    strain_yy: Range = 0.0
    strain_xy: Range = 0.0
    rotation: Range = 0.0
    shear: bool = False
    tilt: Range = 0.0
    azimuth: Range = (0.0, 360.0)
    bending: Range = 0.0
    bending_direction: Range = (0.0, 360.0)
    lean: str = "auto"
    lean_scale: Range = 1.0
    thickness: Range = 200.0
    wedge: Range = 0.0
    wedge_direction: Range = (0.0, 360.0)
    terraces: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers no specimen has, and shears that do not fit together."""
        _choice("specimen.phase", self.phase, PHASES)
        _choice("specimen.termination", self.termination, TERMINATIONS)
        _choice("specimen.lean", self.lean, LEANS)
        for name, (low, high, unit) in _LIMITS.items():
            check_range(f"specimen.{name}", getattr(self, name), low, high, unit)
        _whole("specimen.terraces", self.terraces, 0, 50)
        if not self.shear:
            return
        if not self.domains.compatible:
            raise SettingsError(
                "specimen.shear needs walls on which shears fit together; set it to false, or use one domain or "
                'domains.orientation "compatible" with domains.normal 0.'
            )
        if self.shears_along_x and ends(self.substrate)[1] > 0:
            raise SettingsError(
                "specimen.shear kinks the rows at walls across x, which a coherent substrate forbids; set specimen.shear "
                "to false or specimen.substrate to 0."
            )

    @property
    def own_leans(self) -> bool:
        """Whether each domain has the lean of its own variant."""
        if self.lean == "auto":
            return self.domains.pattern in ("stripes", "random") or not self.domains.compatible
        return self.lean == "variant"

    @property
    def shears_along_x(self) -> bool:
        """Whether shears differ from column to column, because walls lie across x."""
        return self.domains.pattern in ("wall", "stripes") and self.domains.reversed in ("yz", "x")


#: Lowest, highest and unit of what may be asked.
_LIMITS: dict[str, tuple[float, float, str]] = {
    "polar": (0, 2.5, ""),
    "samarium": (0, 1, ""),
    "samarium_gradient": (-1, 1, "per 100 Å"),
    "samarium_direction": (-360, 360, "degrees"),
    "substrate": (0, 1, ""),
    "interface_width": (0, 200, "Å"),
    "disorder_a": (0, 50, "pm"),
    "disorder_b": (0, 50, "pm"),
    "strain_xx": (-0.1, 0.1, ""),
    "strain_yy": (-0.1, 0.1, ""),
    "strain_xy": (-0.1, 0.1, ""),
    "rotation": (-180, 180, "degrees"),
    "tilt": (0, 100, "mrad"),
    "azimuth": (-360, 360, "degrees"),
    "bending": (-50, 50, "mrad per 100 Å"),
    "bending_direction": (-360, 360, "degrees"),
    "lean_scale": (0, 1, ""),
    "thickness": (4, 2000, "Å"),
    "wedge": (-200, 200, "Å per 100 Å"),
    "wedge_direction": (-360, 360, "degrees"),
}


def ends(value: Range) -> tuple[float, float]:
    """Lowest and highest that ``value`` may be."""
    return (value[0], value[1]) if isinstance(value, tuple) else (value, value)


def number(value: Range) -> float:
    """``value`` of a settled request."""
    if isinstance(value, tuple):
        raise TypeError("the request still holds ranges; settle it first")
    return value


def largest(value: Range) -> float:
    """Largest size of ``value``, whatever its sign."""
    return max(abs(e) for e in ends(value))


def _choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        listed = ", ".join(f'"{k}"' for k in known)
        raise SettingsError(f'{name} "{value}" is unknown; choose one of {listed}.')


def _whole(name: str, value: float, low: int, high: int) -> None:
    if not math.isfinite(value) or value != int(value) or not low <= value <= high:
        raise SettingsError(f"{name} {value:g} must be a whole number from {low} to {high}.")
