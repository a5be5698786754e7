"""Checks that the microscope's faults share: numbers within limits when asked for, settled when used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiltsim.errors import SettingsError
from tiltsim.synth.ranges import Range, check_range


def check_limits(request: Any, section: str, limits: Mapping[str, tuple[float, float, str]]) -> None:
    """Refuse fields of ``request`` that are beyond their (lowest, highest, unit)."""
    for name, (low, high, unit) in limits.items():
        check_range(f"{section}.{name}", getattr(request, name), low, high, unit)


def number(request: Any, section: str, name: str) -> float:
    """The value of a field that has been settled."""
    value: Range = getattr(request, name)
    if isinstance(value, tuple):
        raise SettingsError(
            f"{section}.{name} {list(value)} is a range; draw a number from it with tiltsim.synth.ranges.settle."
        )
    return float(value)
