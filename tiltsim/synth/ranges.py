"""Numbers that a recipe leaves open: a value, or a range to draw it from."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import numpy as np

from tiltsim.errors import SettingsError

#: A number, or (lowest, highest) between which it is drawn evenly.
Range = float | tuple[float, float]

#: What random numbers are drawn for; each has a stream of its own, so that a change to one leaves the others alone.
STREAMS = ("settings", "crystal", "scan", "cover", "detection")

Request = TypeVar("Request")


def stream(seed: int, field: int, purpose: str) -> np.random.Generator:
    """Random numbers of one ``purpose`` (of :data:`STREAMS`) for one ``field`` of a set, whoever draws them and when."""
    return np.random.default_rng([seed, field, STREAMS.index(purpose)])


def check_range(name: str, value: Range, low: float, high: float, unit: str) -> None:
    """Refuse what is no number or range within ``low`` to ``high``."""
    ends = value if isinstance(value, tuple) else (value, value)
    unit = f" {unit}" if unit else ""
    if len(ends) != 2 or not all(np.isfinite(e) and low <= e <= high for e in ends) or ends[0] > ends[1]:
        shown = f"[{', '.join(f'{e:g}' for e in ends)}]" if isinstance(value, tuple) else f"{value:g}"
        raise SettingsError(
            f"{name} {shown}{unit} must be a number, or [lowest, highest], within {low:g} to {high:g}{unit}."
        )


def settle(request: Request, rng: np.random.Generator) -> Request:
    """``request`` with a value drawn for every field that is declared as a :data:`Range`, in their order.

    Drawn evenly, or evenly in the logarithm where the field's metadata say ``logarithmic``. Requests within a request are
    settled too.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(request):  # type: ignore[arg-type]
        value = getattr(request, field.name)
        if str(field.type) == "Range":
            # Drawn even where it is settled: what follows does not depend on it.
            even = rng.random()
            if isinstance(value, tuple) and field.metadata.get("logarithmic"):
                changes[field.name] = float(value[0] * (value[1] / value[0]) ** even)
            elif isinstance(value, tuple):
                changes[field.name] = float(value[0] + (value[1] - value[0]) * even)
        elif dataclasses.is_dataclass(value):
            changes[field.name] = settle(value, rng)
    return dataclasses.replace(request, **changes)  # type: ignore[type-var]
