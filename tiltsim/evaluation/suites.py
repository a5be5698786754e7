"""Which conditions an estimator of displacement is put to: one axis at a time, all else as in a good experiment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tiltsim.errors import SettingsError
from tiltsim.library import Library
from tiltsim.synth.detection import Detection
from tiltsim.synth.faults import Faults
from tiltsim.synth.probe import ProbeFaults
from tiltsim.synth.ranges import Range
from tiltsim.synth.recipe import Recipe
from tiltsim.synth.scanning import ScanFaults
from tiltsim.synth.specimen_request import DomainRequest, SpecimenRequest

#: Fields of a condition, and rows and columns of each in pixels.
FIELDS, SIZE = 12, 320

#: Thicknesses and doses that fields are drawn from, Å and electrons per Å²; largest tilt of suites of other axes, mrad.
THICKNESS, DOSE, TILT = (50.0, 395.0), (1e4, 1e5), 10.0

Frame = Literal["tilt", "coma"]
Change = Callable[[Recipe], Recipe]


@dataclass(frozen=True)
class Condition:
    """Fields that differ in nothing but what is drawn at random.

    Parameters
    ----------
    suite : str
        That it belongs to.
    value : float
        Of the suite's axis, in the suite's unit.
    recipe : Recipe
        Of the fields.
    fields : int
        How many.
    panel : str
        What else sets it apart from the suite's other conditions; empty where nothing does.
    frame : {"tilt", "coma"}
        Direction along which errors are counted as "along": the azimuth of the tilt (of the beam inside the crystal), or that of coma.
    """

    suite: str
    value: float
    recipe: Recipe
    fields: int
    panel: str = ""
    frame: Frame = "tilt"

    def __post_init__(self) -> None:
        """Refuse conditions without a field."""
        if self.fields < 1:
            raise SettingsError(f"fields {self.fields} must be at least 1 a condition.")


@dataclass(frozen=True)
class Axis:
    """What a suite varies.

    Parameters
    ----------
    name : str
        As on the axis of a figure.
    unit : str
        Empty for pure numbers.
    logarithmic : bool
        How it is drawn.
    """

    name: str
    unit: str
    logarithmic: bool = False

    @property
    def label(self) -> str:
        """Name with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


#: Every suite's axis.
AXES = {
    "tilt": Axis("mis-tilt", "mrad"),
    "thickness": Axis("thickness", "Å"),
    "dose": Axis("dose", "e/Å²", logarithmic=True),
    "blur": Axis("effective source, full width", "Å"),
    "coma": Axis("axial coma C21", "Å"),
    "scan": Axis("jitter of rows, rms", "Å"),
    "composition": Axis("Sm on A", "%"),
    "zero": Axis("mis-tilt", "mrad"),
}

SUITES = (*AXES, "all")


@dataclass(frozen=True)
class Suite:
    """Conditions to evaluate under.

    Parameters
    ----------
    name : str
    conditions : tuple of Condition
    left_out : tuple of str
        What the library does not hold and is therefore missing, in words.
    """

    name: str
    conditions: tuple[Condition, ...]
    left_out: tuple[str, ...] = ()


def base_recipe(size: int = SIZE, thickness: Range = THICKNESS) -> Recipe:
    """Recipe that all suites start from.

    Four random R3c domains (⟨111⟩ variants, sharp walls) of parallel columns, so that tilt is the same in all of them; static
    disorder of 2 pm; source 0.8 Å; dose drawn evenly in its logarithm; tilt 0 to 10 mrad towards any side.
    """
    specimen = SpecimenRequest(
        phase="R3c",
        domains=DomainRequest(pattern="random", count=4, wall_width=0.1),
        polar=1.0,
        disorder_a=2.0,
        disorder_b=2.0,
        tilt=(0.0, TILT),
        # With leans of its own (9.9 mrad), no domain would be on the zone axis at zero tilt.
        lean="common",
        thickness=thickness,
    )
    faults = Faults(probe=ProbeFaults(source_fwhm=0.8), detection=Detection(dose_per_A2=DOSE))
    return Recipe("Held-out fields", (size, size), 0.2, specimens=(specimen,), faults=faults)


def suite(
    name: str, *, fields: int = FIELDS, size: int = SIZE, library: Library | None = None, quick: bool = False
) -> Suite:
    """A suite by its name.

    Field k has the same draw of domains, thickness, azimuth, tilt and dose in every condition, but for what the condition
    sets: differences along an axis are those of the axis, hardly of the sample.

    Parameters
    ----------
    name : str
        One of :data:`SUITES`.
    fields : int
        Of each condition.
    size : int
        Rows and columns of a field, px of 0.2 Å.
    library : Library, optional
        Thicknesses are kept within what it holds, and conditions beyond it are left out.
    quick : bool
        Only the first, the middle and the last value of each axis, and the lowest and the highest dose.

    Returns
    -------
    Suite

    Raises
    ------
    SettingsError
        If there is no such suite, or the library holds none of its conditions.
    """
    if name not in SUITES:
        raise SettingsError(f"suite {name!r} is unknown; choose one of {', '.join(SUITES)}.")
    limits, left_out = _limits(library)
    recipe = base_recipe(size, limits)
    conditions: list[Condition] = []
    for one in AXES if name == "all" else (name,):
        for panel, frame, values in _plan(one, quick):
            for value, change in values:
                changed = change(recipe)
                if library is not None and not _held(changed, library):
                    axis = AXES[one]
                    left_out.append(f"{axis.name} {value:g} {axis.unit}".rstrip())
                    continue
                conditions.append(Condition(one, value, changed, fields, panel, frame))
    if not conditions:
        raise SettingsError(
            f"suite {name!r} has no condition that the library holds; build a library of more tilts and thicknesses."
        )
    return Suite(name, tuple(conditions), tuple(dict.fromkeys(left_out)))


def _limits(library: Library | None) -> tuple[tuple[float, float], list[str]]:
    """Thicknesses to draw from, and what is thereby left out."""
    if library is None:
        return THICKNESS, []
    low, high = library.thickness_range
    limits = (max(THICKNESS[0], low), min(THICKNESS[1], high))
    if limits[0] >= limits[1]:
        raise SettingsError(
            f"library: holds {low:g} to {high:g} Å only, but fields are {THICKNESS[0]:g} to {THICKNESS[1]:g} Å thick; "
            "build a thicker one."
        )
    if limits == THICKNESS:
        return limits, []
    return limits, [
        f"thicknesses below {limits[0]:.3g} and above {limits[1]:.3g} Å, wherever thickness is drawn"
    ]


def _held(recipe: Recipe, library: Library) -> bool:
    """Whether ``library`` holds the tilts and thicknesses of ``recipe``."""
    specimen = recipe.specimens[0]
    tilt = max(specimen.tilt) if isinstance(specimen.tilt, tuple) else specimen.tilt
    ends = specimen.thickness if isinstance(specimen.thickness, tuple) else (specimen.thickness,) * 2
    low, high = library.thickness_range
    return tilt <= library.tilt_limit and low <= ends[0] and ends[1] <= high


Panel = tuple[str, Frame, list[tuple[float, Change]]]


def _plan(name: str, quick: bool) -> list[Panel]:
    """Panels of a suite: caption, frame, and values with the change that each makes to the base recipe."""
    if name == "tilt":
        tilts = _few([0.0, 2.5, 5.0, 7.5, 10.0], quick)
        doses = [1e4, 1e5] if quick else [1e4, 3e4, 1e5]
        return [
            (f"dose {_power(dose)} e/Å²", "tilt", [(t, _specimen(tilt=t, dose=dose)) for t in tilts])
            for dose in doses
        ]
    axes: dict[str, tuple[list[float], Callable[[float], Change], Frame]] = {
        "thickness": ([50, 100, 200, 300, 395], lambda v: _specimen(thickness=v), "tilt"),
        "dose": ([3e3, 1e4, 3e4, 1e5, 3e5], lambda v: _specimen(dose=v), "tilt"),
        "blur": ([0.6, 0.7, 0.8, 0.9, 1.0, 1.2], lambda v: _probe(source_fwhm=v), "tilt"),
        "coma": ([0, 150, 300, 600, 900], lambda v: _probe(C21=v, phi21=(-180.0, 180.0)), "coma"),
        "scan": ([0, 0.01, 0.02, 0.04, 0.08], _jitter, "tilt"),
        "composition": ([0, 7, 10, 13, 20], lambda v: _specimen(samarium=v / 100.0), "tilt"),
        "zero": ([0.0], lambda v: _specimen(tilt=v), "tilt"),
    }
    values, change, frame = axes[name]
    return [("", frame, [(float(v), change(v)) for v in _few(values, quick)])]


def _few(values: list[float], quick: bool) -> list[float]:
    return values if not quick or len(values) < 3 else [values[0], values[len(values) // 2], values[-1]]


def _specimen(dose: float | None = None, **changes: float) -> Change:
    def change(recipe: Recipe) -> Recipe:
        faults = recipe.faults
        if dose is not None:
            faults = replace(faults, detection=replace(faults.detection, dose_per_A2=dose))
        return replace(
            recipe, specimens=(replace(recipe.specimens[0], **changes),), faults=faults  # type: ignore[arg-type]
        )  # fmt: skip

    return change


def _probe(**changes: Range) -> Change:
    return lambda recipe: replace(
        recipe, faults=replace(recipe.faults, probe=replace(recipe.faults.probe, **changes))
    )


def _jitter(rms: float) -> Change:
    scan = ScanFaults(jitter_x=rms, jitter_y=rms)
    return lambda recipe: replace(recipe, faults=replace(recipe.faults, scan=scan))


def _power(dose: float) -> str:
    """A dose as 3 × 10⁴."""
    digits, exponent = f"{dose:.0e}".split("e")
    power = "10" + "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(c)] for c in str(int(exponent)))
    return power if digits == "1" else f"{digits} × {power}"
