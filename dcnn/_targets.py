"""What networks are asked for: polar displacement, and what explains its error, tilt and thickness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dcnn._errors import ModelError

COMPONENTS = ("x", "y")


@dataclass(frozen=True)
class Target:
    """A quantity of a cell: its unit, and whether it is a vector (x, y) or one number."""

    name: str
    units: str
    vector: bool
    long_name: str

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of its numbers, such as ("d_x", "d_y")."""
        return tuple(f"{self.name}_{c}" for c in COMPONENTS) if self.vector else (self.name,)

    @property
    def dims(self) -> tuple[str, ...]:
        """Dims of it in a table of cells."""
        return ("cell", "component") if self.vector else ("cell",)


TARGETS = {
    t.name: t
    for t in (
        Target("d", "pm", True, "polar displacement, mean of the surrounding A columns − B column"),
        Target("tilt", "mrad", True, "direction of the beam inside the crystal"),
        Target("thickness", "Å", False, "thickness along the beam"),
    )
}


def channels(targets: Sequence[str]) -> tuple[str, ...]:
    """Names of all numbers of ``targets``, in the order of a network's output."""
    return tuple(name for target in targets for name in TARGETS[target].channels)


def vectors(targets: Sequence[str]) -> list[tuple[int, int]]:
    """Places of the (x, y) components of every vector among the channels of ``targets``."""
    places, at = [], 0
    for target in targets:
        if TARGETS[target].vector:
            places.append((at, at + 1))
        at += len(TARGETS[target].channels)
    return places


def read_targets(cells: xr.Dataset, targets: Sequence[str]) -> NDArray[np.float64]:
    """Values (cell, channel) of ``targets``; NaN where a target is not among the variables of ``cells``.

    Raises
    ------
    ModelError
        If a variable has other dims or units than it must, or the displacement is missing.
    """
    if not isinstance(cells, xr.Dataset) or "d" not in cells:
        raise ModelError("The cells must be an xarray.Dataset with variables x, y and d.")
    columns: list[NDArray[np.float64]] = []
    for target in (TARGETS[name] for name in targets):
        if target.name not in cells:
            columns += [np.full(cells.sizes["cell"], np.nan)] * len(target.channels)
            continue
        values = cells[target.name]
        named = (
            set(np.atleast_1d(values.coords["component"].values)) if "component" in values.coords else set()
        )
        if set(values.dims) != set(target.dims) or (target.vector and named != set(COMPONENTS)):
            expected = " with components 'x' and 'y'" if target.vector else ""
            raise ModelError(
                f"Variable {target.name!r} of the cells needs dims ({', '.join(target.dims)}){expected}."
            )
        if values.attrs.get("units", target.units) != target.units:
            raise ModelError(
                f"Variable {target.name!r} of the cells must be in {target.units}, not {values.attrs['units']!r}; "
                "convert it first."
            )
        if target.vector:
            values = values.sel(component=list(COMPONENTS)).transpose("cell", "component")
        columns += list(
            np.asarray(values.values, dtype=float).reshape(cells.sizes["cell"], len(target.channels)).T
        )
    return np.stack(columns, axis=1)


def as_variables(
    values: NDArray[Any], targets: Sequence[str], suffix: str = ""
) -> dict[str, tuple[Any, ...]]:
    """Variables of a table of cells from values (cell, channel)."""
    made: dict[str, tuple[Any, ...]] = {}
    at = 0
    for target in (TARGETS[name] for name in targets):
        width = len(target.channels)
        own = values[:, at : at + width] if target.vector else values[:, at]
        attrs: Mapping[str, str] = {"units": target.units, "long_name": target.long_name + _MEANING[suffix]}
        made[target.name + suffix] = (target.dims, own.astype(float), dict(attrs))
        at += width
    return made


_MEANING = {
    "": "",
    "_label": ": label",
    "_std": ": standard deviation the network expects of its error",
    "_interval": ": half width of the calibrated interval",
}
