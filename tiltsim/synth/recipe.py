"""What a set of synthetic fields is made of, from one small TOML or YAML file, checked key by key."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from tiltsim.errors import SettingsError
from tiltsim.synth.faults import Faults
from tiltsim.synth.ranges import Range, check_range, settle, stream
from tiltsim.synth.scanning import margin
from tiltsim.synth.specimen_request import SpecimenRequest

RECIPES = ("synth-quick", "synth-films", "synth-networks")

#: Parts of a set, in the order of ``Recipe.split``.
PARTS = ("train", "validation", "test")

#: Pixels along an axis: below, a field holds no lattice to speak of; above, a single image takes gigabytes.
_SIZES = (64, 16384)


@dataclass(frozen=True)
class Recipe:
    """Fields of one size, each of one of several kinds of specimen, seen through one set of microscope faults.

    In a file, each ``[[specimens]]`` carries its own ``weight``, and the faults are the sections ``[probe]``,
    ``[scan]``, ``[cover]`` and ``[detection]``.

    Parameters
    ----------
    title : str
    size : (int, int)
        Rows and columns of an image, px.
    pixel : Range
        Å.
    split : (float, float, float)
        Fractions of the fields for training, validation and test.
    specimens : tuple of SpecimenRequest
        Kinds of specimen, of which each field shows one.
    weights : tuple of float
        How often each kind occurs, relative to the others; empty: all alike.
    faults : Faults
        Of the microscope; none by default.
    """

    title: str = "Synthetic micrographs"
    size: tuple[int, int] = (1024, 1024)
    pixel: Range = 0.2
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    specimens: tuple[SpecimenRequest, ...] = ()
    weights: tuple[float, ...] = ()
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        """Refuse fields of nothing, of absurd size, and parts that make no whole."""
        if not self.specimens:
            raise SettingsError("specimens: name at least one [[specimens]] with a phase.")
        if not all(_SIZES[0] <= s <= _SIZES[1] for s in self.size):
            raise SettingsError(
                f"size {list(self.size)} must be [rows, columns] of {_SIZES[0]} to {_SIZES[1]} pixels each."
            )
        check_range("pixel", self.pixel, 0.02, 0.5, "Å")
        if not all(0.0 <= part <= 1.0 for part in self.split) or abs(sum(self.split) - 1.0) > 1e-6:
            raise SettingsError(
                f"split {list(self.split)} must be fractions for {', '.join(PARTS)} that add up to 1."
            )
        if self.weights and len(self.weights) != len(self.specimens):
            raise SettingsError(
                f"weights {list(self.weights)} must be as many as the {len(self.specimens)} specimens."
            )
        if any(not np.isfinite(w) or w < 0 for w in self.weights) or (self.weights and not sum(self.weights)):
            raise SettingsError(f"weight: {list(self.weights)} must not be negative, nor all 0.")

    @property
    def shares(self) -> tuple[float, ...]:
        """Probability of each kind of specimen."""
        weights = self.weights or (1.0,) * len(self.specimens)
        return tuple(w / sum(weights) for w in weights)

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height of the largest field that may be drawn, Å."""
        pixel = max(self.pixel) if isinstance(self.pixel, tuple) else self.pixel
        return self.size[1] * pixel, self.size[0] * pixel

    @property
    def reached(self) -> tuple[float, float]:
        """Width and height of what the beam of any field may reach, Å: the crystal's."""
        pixel = self.extent[0] / self.size[1]
        beyond = margin(self.faults.scan, self.size, pixel)
        return self.extent[0] + 2 * beyond, self.extent[1] + 2 * beyond

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able form, laid out as in a file."""
        table = asdict(self)
        weights = table.pop("weights") or [1.0] * len(self.specimens)
        for specimen, weight in zip(table["specimens"], weights, strict=True):
            specimen["weight"] = weight
        table |= table.pop("faults")
        return dict(json.loads(json.dumps(table)))

    @property
    def digest(self) -> str:
        """Of every setting."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def on_axis(recipe: Recipe) -> Recipe:
    """``recipe`` with every specimen on the zone axis: no tilt, no bending, no lean."""
    flat = tuple(replace(one, tilt=0.0, bending=0.0, lean_scale=0.0) for one in recipe.specimens)
    return replace(recipe, specimens=flat)


def kind_drawn(recipe: Recipe, seed: int, field: int) -> int:
    """Index of the specimen that ``field`` of the set with ``seed`` shows."""
    return _kind(recipe, stream(seed, field, "settings"))


def _kind(recipe: Recipe, rng: np.random.Generator) -> int:
    kind = int(np.searchsorted(np.cumsum(recipe.shares), rng.random(), side="right"))
    # Rounding may leave the sum of the shares a hair below 1.
    return min(kind, len(recipe.specimens) - 1)


def draw(recipe: Recipe, seed: int = 0, field: int = 0) -> Recipe:
    """The recipe of one field of a set: one kind of specimen, and a number for each range."""
    rng = stream(seed, field, "settings")
    chosen = recipe.specimens[_kind(recipe, rng)]
    settled = settle(replace(recipe, specimens=(chosen,), weights=()), rng)
    return replace(settled, specimens=(settle(chosen, rng),))


def settings_drawn(recipe: Recipe) -> tuple[str, ...]:
    """Names of all settings that ``recipe`` leaves open, such as "specimen.thickness" and "detection.dose_per_A2"."""
    names = [name for one in recipe.specimens for name, value in _numbers(replace(recipe, specimens=(one,), weights=()))
             if isinstance(value, tuple)]  # fmt: skip
    return tuple(dict.fromkeys(names))


def values_drawn(settled: Recipe, names: Sequence[str]) -> NDArray[np.float64]:
    """Numbers that the recipe of one field has for ``names``; NaN for what its kind of specimen does not have."""
    numbers = dict(_numbers(settled))
    return np.array([numbers.get(name, np.nan) for name in names], dtype=np.float64)


def _numbers(request: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of all fields of ``request``, and of requests within it, that may be ranges."""
    for one in fields(request):
        value = getattr(request, one.name)
        if one.name == "specimens":
            yield from _numbers(value[0], "specimen.")
        elif is_dataclass(value):
            # Faults are sections of the file's top level.
            yield from _numbers(value, "" if one.name == "faults" else f"{prefix}{one.name}.")
        elif "Range" in str(one.type):
            yield prefix + one.name, value


def parse_recipe(table: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """A checked :class:`Recipe` from nested tables.

    Raises
    ------
    SettingsError
        Naming the key at fault.
    """
    known = [f.name for f in fields(Recipe) if f.name not in ("weights", "faults")]
    sections = [f.name for f in fields(Faults)]
    for key in table:
        if key not in (*known, *sections):
            raise SettingsError(
                f"{source}: {key} is not a setting; there are {', '.join((*known, *sections))}."
            )
    specimens = table.get("specimens") or []
    if not isinstance(specimens, list):
        raise SettingsError(f"{source}: specimens must be a list of tables, [[specimens]] in TOML.")
    kinds, weights = [], []
    for i, entry in enumerate(specimens):
        _check_keys(SpecimenRequest, entry, f"specimens[{i}]", source, also=("weight",))
        kinds.append({k: v for k, v in entry.items() if k != "weight"})
        weights.append(entry.get("weight", 1.0))
    faults = {name: table[name] for name in sections if name in table}
    _check_keys(Faults, faults, "", source)
    plain = {k: v for k, v in table.items() if k in known}
    try:
        return TypeAdapter(Recipe).validate_python(
            plain | {"specimens": kinds, "weights": weights, "faults": faults}
        )
    except ValidationError as error:
        raise SettingsError(f"{source}: {_explain(error)}.") from error


def _check_keys(cls: type, table: Any, name: str, source: str, also: tuple[str, ...] = ()) -> None:
    """Refuse keys that ``cls``, or a request within it, does not have, by their full name."""
    if not isinstance(table, Mapping):
        raise SettingsError(f"{source}: {name} must be a table of settings.")
    allowed = (*(f.name for f in fields(cls)), *also)
    types = get_type_hints(cls)
    for key, value in table.items():
        full = f"{name}.{key}" if name else key
        if key not in allowed:
            raise SettingsError(f"{source}: {full} is not a setting; {name} knows {', '.join(allowed)}.")
        if is_dataclass(types.get(key)):
            _check_keys(types[key], value, full, source)


def _explain(error: ValidationError) -> str:
    """The first thing that is wrong, in half a sentence."""
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ").removesuffix(".")
    if first["type"] == "value_error":
        return message
    parts = [p for p in first["loc"] if p not in ("faults", "float", "tuple[float, float]")]
    as_range = any(p in ("float", "tuple[float, float]") for p in first["loc"])
    if as_range:
        # Where one end of a range is at fault, its name and not the end's number is said.
        parts = parts[:-1] if isinstance(parts[-1], int) else parts
        message = "must be a number, or [lowest, highest]"
    where = ""
    for part in parts:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    where = "specimens[].weight" if where.startswith("weights") else where
    return f"{where}{'' if as_range else ':'} {message[0].lower()}{message[1:]}, not {first['input']!r}"


def recipe_text(name: str) -> str:
    """The TOML file behind a recipe that comes with tiltsim.

    Raises
    ------
    SettingsError
        If there is no such recipe.
    """
    if name not in RECIPES:
        raise SettingsError(f"{name!r} is no recipe of tiltsim's; choose one of {', '.join(RECIPES)}.")
    return files("tiltsim").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")


def load_recipe(source: str | Path) -> Recipe:
    """A recipe from its name (of :data:`RECIPES`) or a ``.toml``, ``.yaml`` or ``.yml`` file.

    Raises
    ------
    SettingsError
        If the file is missing, does not parse or holds a bad setting.
    """
    if str(source) in RECIPES:
        return parse_recipe(tomllib.loads(recipe_text(str(source))), f"recipe {source}")
    path = Path(source)
    if not path.is_file():
        raise SettingsError(
            f"{path}: no such recipe; give a TOML or YAML file or one of {', '.join(RECIPES)}."
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
        raise SettingsError(f"{path.name}: holds no settings; see the recipe synth-quick for an example.")
    return parse_recipe(table, path.name)
