"""The map that this crystal would give under another tilt, thickness or lens."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

import analysis
from analysis.drawing import CONVENTION, SMALL, TEXT
from tiltsim.errors import SettingsError
from tiltsim.explanation.explaining import Explanation
from tiltsim.explanation.inversion import shared_turn
from tiltsim.explanation.model import SHARED

Floats = NDArray[np.float64]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class WhatIf:
    """What is changed; the rest stays as the image has it.

    Parameters
    ----------
    tilt : (float, float), optional
        Of the grain, mrad along the image's axes; of the columns where grain and lean cannot be told apart.
    thickness, defocus : float, optional
        Å.
    coma, astigmatism : (float, float), optional
        C21 along x and y, C12 along 0° and 45° of the image, Å.
    """

    tilt: tuple[float, float] | None = None
    thickness: float | None = None
    defocus: float | None = None
    coma: tuple[float, float] | None = None
    astigmatism: tuple[float, float] | None = None

    def __str__(self) -> str:
        """As it is written."""
        said = []
        for one in fields_of(self):
            value = getattr(self, one.name)
            if value is not None:
                numbers = value if isinstance(value, tuple) else (value,)
                said.append(f"{one.name} {','.join(f'{v:g}' for v in numbers)}")
        return " ".join(said)


def parse_what_if(text: str) -> WhatIf:
    """Read e.g. "tilt 4,-2", "tilt 0,0 coma 0,0" or "thickness 150".

    Raises
    ------
    SettingsError
        Naming the part that is not understood.
    """
    known = {f.name: 2 if "tuple" in str(f.type) else 1 for f in fields_of(WhatIf)}
    found: dict[str, float | tuple[float, float]] = {}
    rest = text.strip()
    while rest:
        part = re.match(rf"([a-z]+)[ =]+({_NUMBER}(?:\s*,\s*{_NUMBER})*)[\s;,]*", rest)
        if part is None or part[1] not in known:
            raise SettingsError(
                f'--what-if {text!r}: "{rest}" is not understood; write e.g. "tilt 4,-2", with names of '
                f"{', '.join(known)} (mrad, Å)."
            )
        numbers = [float(v) for v in re.findall(_NUMBER, part[2])]
        if len(numbers) != known[part[1]] or not np.isfinite(numbers).all():
            raise SettingsError(f"--what-if {part[0].strip()!r}: {part[1]} takes {known[part[1]]} number(s).")
        found[part[1]] = numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
        rest = rest[part.end() :]
    if not found:
        raise SettingsError('--what-if is empty; write e.g. "tilt 4,-2".')
    return WhatIf(**found)  # type: ignore[arg-type]


def what_if(found: Explanation, changed: WhatIf) -> xr.Dataset:
    """The table of cells with ``d_what_if`` (cell, component), pm.

    Raises
    ------
    SettingsError
        If the image did not allow a correction, or the library does not reach so far.
    """
    if not found.verdict.identified:
        raise SettingsError(
            f"--what-if {str(changed)!r} needs the crystal's own d, which this image does not give: {found.verdict.objections[0]}."
        )
    inversion, library = found.inversion, found.inversion.model.library
    forward = found.forward
    replaced: dict[str, float] = {}
    for name, value in (("thickness", changed.thickness), ("defocus", changed.defocus)):
        if value is not None:
            replaced[name] = value
    back = np.linalg.inv(shared_turn(found.regions[0]))
    names = list(SHARED)
    for prefix, pair in (("C21", changed.coma), ("C12", changed.astigmatism)):
        if pair is not None:
            at = [names.index(f"{prefix}_{axis}") for axis in "xy"]
            along = back[np.ix_(at, at)] @ pair
            replaced |= {names[place]: float(value) for place, value in zip(at, along, strict=True)}
    low, high = inversion.model.limits
    layout = inversion.model.layout
    asked = np.where(np.isfinite(high), 0.5 * (low + high), 1.0)
    for name, value in replaced.items():
        asked[layout.place(name)] = value
    moved = inversion.model.within(asked)
    for name, value in replaced.items():
        place = layout.place(name)
        if abs(moved[place] - value) > 1e-6 * high[place]:
            raise SettingsError(
                f"--what-if {str(changed)!r}: {name} {value:g} Å lies outside what the library holds, {low[place]:.4g} to {high[place]:.4g} Å."
            )
    d = found.cells["d_corrected"].values.copy()
    for v in range(forward.variants):
        tilt = inversion.tilt[v]
        if changed.tilt is not None:
            told = found.leans is not None and found.leans.decided
            lean = found.regions[0].turn() @ found.leans.leans[v] if told and found.leans else np.zeros(2)
            tilt = np.array(changed.tilt) + lean
        if np.abs(np.linalg.solve(found.regions[v].turn(), tilt)).max() > library.tilt_limit:
            raise SettingsError(
                f"--what-if {str(changed)!r}: the beam in {found.regions[v].name} would be tilted by ({tilt[0]:.1f}, {tilt[1]:.1f}) mrad, "
                f"beyond the library's {library.tilt_limit:g} mrad along each axis."
            )
        d[found.regions[v].rows] += forward.tilted(v, tilt, **replaced)
    null = found.cells["reference"].values == 1
    d[null] = np.nan
    return found.cells.assign(
        d_what_if=(("cell", "component"), d, {"units": "pm", "long_name": f"apparent d with {changed}"})
    )


def plot_what_if(found: Explanation, cells: xr.Dataset, changed: WhatIf, radius_pm: float = 40.0) -> Figure:
    """The map as measured, without what tilt and fit add, and as it would be."""
    figure = Figure(figsize=(10.6, 3.9), layout="constrained")
    shown = (("as measured", "d"), ("the crystal", "d_corrected"), (str(changed), "d_what_if"))
    for ax, (title, name) in zip(figure.subplots(1, 3), shown, strict=True):
        table = cells.assign(d=(cells["d"].dims, cells[name].values, cells["d"].attrs))
        analysis.polarization_map(replace(found.measurement, unit_cells=table), radius_pm=radius_pm, ax=ax)
        ax.set_title(title, fontsize=TEXT + 2, loc="left")
    figure.supxlabel(CONVENTION, fontsize=SMALL)
    return figure
