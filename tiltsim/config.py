"""A study from one small TOML or YAML file, checked key by key."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from tiltsim.errors import SettingsError
from tiltsim.settings import Detector, FrozenPhonons, Microscope, Numerics, TiltSeries

PRESETS = ("quick", "full")


@dataclass(frozen=True)
class SpecimenRequest:
    """One ``[[specimens]]`` entry; the names are those of :func:`structures.build`."""

    phase: str
    name: str | None = None
    samarium: float = 0.0
    lateral: tuple[int, int] = (2, 2)
    variant: str = "[111]"
    beam: str = "[100]"
    up: str = "[001]"
    seed: int = 0
    file: str | None = None
    a_site: tuple[str, ...] = ()
    b_site: tuple[str, ...] = ()


@dataclass(frozen=True)
class TiltRequest:
    """``[tilt]``: ``n`` tilts from −``largest`` to ``largest`` mrad along each axis.

    ``layout`` is "cross" (only along the axes), "grid" (all n × n) or "disc" (those within ``largest`` of the axis).
    """

    largest: float = 8.0
    n: int = 5
    layout: str = "cross"

    def __post_init__(self) -> None:
        """Refuse series without the zone axis itself."""
        if self.n % 2 == 0:
            raise SettingsError(f"tilt.n {self.n} must be odd, so that tilt 0 is among them.")

    def series(self) -> TiltSeries:
        """The tilts asked for."""
        makers = {"cross": TiltSeries.cross, "grid": TiltSeries.grid, "disc": TiltSeries.disc}
        if self.layout not in makers:
            raise SettingsError(f"tilt.layout {self.layout!r} is unknown; choose one of {', '.join(makers)}.")
        return makers[self.layout](self.largest, self.n)


@dataclass(frozen=True)
class FieldRequest:
    """``[field]``: the film of domains that the networks learn from.

    Parameters
    ----------
    cells : (int, int)
        Unit cells along x and y.
    domains : int
        Number of domains, shared evenly among phases and variants.
    dose_per_A2 : float
        Electrons per Å².
    pixel : float
        Å.
    """

    cells: tuple[int, int] = (48, 32)
    domains: int = 48
    dose_per_A2: float = 5.0e4
    pixel: float = 0.2

    def __post_init__(self) -> None:
        """Refuse fields too small to split or sample."""
        if min(self.cells) < 12 or max(self.cells) > 1000:
            raise SettingsError(
                f"field.cells {list(self.cells)} must be between 12 and 1000 along each axis."
            )
        if not 1 <= self.domains <= 10000:
            raise SettingsError(f"field.domains {self.domains} must be between 1 and 10000.")
        if not self.dose_per_A2 > 0:
            raise SettingsError(
                f"field.dose_per_A2 {self.dose_per_A2:g} must be positive, in electrons per Å²."
            )
        if not 0.05 <= self.pixel <= 0.4:
            raise SettingsError(f"field.pixel {self.pixel:g} Å is outside 0.05 to 0.4 Å.")


@dataclass(frozen=True)
class NetworkRequest:
    """``[network]``: training of the two networks."""

    epochs: int = 40
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """A whole study; every section may be left out.

    ``engine`` is "smatrix" (all tilts from one scattering matrix) or "multislice" (abTEM's, the reference).
    ``thicknesses`` are in Å, ascending. ``seed`` governs phonons (added to ``phonons.seed``), domains and
    dose.
    """

    title: str = "Apparent polarization from mis-tilt"
    seed: int = 0
    engine: str = "smatrix"
    thicknesses: tuple[float, ...] = (40.0, 70.0, 100.0)
    specimens: tuple[SpecimenRequest, ...] = ()
    microscope: Microscope = dataclasses.field(default_factory=Microscope)
    detector: Detector = dataclasses.field(default_factory=Detector)
    tilt: TiltRequest = dataclasses.field(default_factory=TiltRequest)
    phonons: FrozenPhonons = dataclasses.field(default_factory=FrozenPhonons)
    numerics: Numerics = dataclasses.field(default_factory=Numerics)
    field: FieldRequest = dataclasses.field(default_factory=FieldRequest)
    network: NetworkRequest = dataclasses.field(default_factory=NetworkRequest)

    def __post_init__(self) -> None:
        """Refuse a study of nothing."""
        if not self.specimens:
            raise SettingsError("specimens: name at least one [[specimens]] with a phase.")
        if not self.thicknesses:
            raise SettingsError("thicknesses: give at least one, in Å.")
        if self.seed < 0:
            raise SettingsError(f"seed {self.seed} must not be negative.")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able form."""
        return asdict(self)


def _known(cls: type, table: Any, name: str) -> None:
    """Refuse keys that ``cls`` does not have, by their full name."""
    if not isinstance(table, Mapping):
        raise SettingsError(f"{name} must be a table of settings.")
    allowed = [f.name for f in fields(cls)]
    for key in table:
        if key not in allowed:
            raise SettingsError(f"{name}.{key} is not a setting; {name} knows {', '.join(allowed)}.")


_SECTIONS: dict[str, type] = {
    "microscope": Microscope,
    "detector": Detector,
    "tilt": TiltRequest,
    "phonons": FrozenPhonons,
    "numerics": Numerics,
    "field": FieldRequest,
    "network": NetworkRequest,
}


def parse_study(table: Mapping[str, Any], source: str = "study") -> Study:
    """A checked :class:`Study` from nested tables.

    Raises
    ------
    SettingsError
        Naming the key at fault.
    """
    for key in table:
        if key not in {f.name for f in fields(Study)}:
            raise SettingsError(
                f"{source}: {key} is not a setting; there are {', '.join(f.name for f in fields(Study))}."
            )
    for name, cls in _SECTIONS.items():
        if name in table:
            _known(cls, table[name], name)
    specimens = table.get("specimens") or []
    if not isinstance(specimens, list):
        raise SettingsError(f"{source}: specimens must be a list of tables, [[specimens]] in TOML.")
    for i, entry in enumerate(specimens):
        _known(SpecimenRequest, entry, f"specimens[{i}]")
    try:
        return TypeAdapter(Study).validate_python(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or source
        message = str(first["msg"]).removeprefix("Value error, ").removesuffix(".")
        if where != source:
            message = (
                f"{where}: {message[0].lower()}{message[1:]}, not {first['input']!r}"
                if first["type"] != "value_error"
                else message
            )
        raise SettingsError(f"{source}: {message}.") from error


def preset_text(name: str) -> str:
    """The TOML file behind a preset.

    Raises
    ------
    SettingsError
        If there is no such preset.
    """
    if name not in PRESETS:
        raise SettingsError(f"{name!r} is no preset; choose one of {', '.join(PRESETS)}.")
    return files("tiltsim").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")


def load_study(source: str | Path) -> Study:
    """A study from a preset's name or a ``.toml``, ``.yaml`` or ``.yml`` file.

    Raises
    ------
    SettingsError
        If the file is missing, does not parse or holds a bad setting.
    """
    if str(source) in PRESETS:
        return parse_study(tomllib.loads(preset_text(str(source))), f"preset {source}")
    path = Path(source)
    return parse_study(_table(path), path.name)


def _table(path: Path) -> Mapping[str, Any]:
    """What a TOML or YAML file holds."""
    if not path.is_file():
        raise SettingsError(
            f"{path}: no such study file; give a TOML or YAML file or one of {', '.join(PRESETS)}."
        )
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"{path.name}: not valid {path.suffix.lstrip('.') or 'TOML'}: {reason}."
        ) from error
    if not isinstance(table, Mapping):
        raise SettingsError(f"{path.name}: holds no settings; see the preset quick for an example.")
    return table


def load_microscope(source: str | Path) -> tuple[Microscope, Detector]:
    """Microscope and detector from the sections ``[microscope]`` and ``[detector]`` of a TOML or YAML file, such as a study's.

    Raises
    ------
    SettingsError
        As :func:`load_study`.
    """
    path = Path(source)
    table = _table(path)
    sections = {name: table[name] for name in ("microscope", "detector") if name in table}
    if not sections:
        raise SettingsError(f"{path.name}: has neither [microscope] nor [detector].")
    study = parse_study(sections | {"specimens": [{"phase": "R3c"}]}, path.name)  # a study has specimens
    return study.microscope, study.detector
