"""What tilt, thickness and lens add to d: the model's image under any of them, measured as the micrograph was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tiltsim.explanation.apparent import apparent_d, noise_of
from tiltsim.explanation.inversion import Inversion

Floats = NDArray[np.float64]

#: Steps by which the bias is differentiated.
_STEPS = {
    "tilt_x": 2.0,
    "tilt_y": 2.0,
    "thickness": 15.0,
    "defocus": 10.0,
    "C12_x": 6.0,
    "C12_y": 6.0,
    "C21_x": 150.0,
    "C21_y": 150.0,
    "d_x": 4.0,
    "d_y": 4.0,
}

#: Of tilt, thickness and lens, in this order.
CONDITIONS = tuple(name for name in _STEPS if not name.startswith("d_"))


@dataclass(frozen=True, eq=False)
class Forward:
    """The bias of every variant under any tilt, thickness and lens: the model's image, measured as the micrograph was.

    Parameters
    ----------
    inversion : Inversion
    pixel : float
        Å.
    """

    inversion: Inversion
    pixel: float

    @cached_property
    def _known(self) -> dict[tuple[object, ...], Floats]:
        """What has been asked for before: correction, attribution and what-if maps ask for the same slopes."""
        return {}

    @cached_property
    def noise(self) -> tuple[float, float]:
        """See :func:`~tiltsim.explanation.apparent.noise_of`."""
        return noise_of(self.inversion.regions)

    @property
    def variants(self) -> int:
        """Number of them; a reference comes after them."""
        return sum(r.name != "reference" for r in self.inversion.regions)

    def bias(self, variant: int, **changes: float) -> Floats:
        """(2,) pm along the image's axes, with unknowns of this variant or of all (lattice axes) replaced."""
        key = (variant, *sorted(changes.items()))
        if key not in self._known:
            self._known[key] = self._bias(variant, changes)
        return self._known[key].copy()

    def _bias(self, variant: int, changes: Mapping[str, float]) -> Floats:
        inversion = self.inversion
        layout = inversion.model.layout
        theta = inversion.solution.theta.copy()
        for name, value in changes.items():
            theta[layout.place(name, -1 if (name, -1) in layout.names else variant)] = value
        theta = inversion.model.within(theta)
        region = inversion.regions[variant]
        period = inversion.model.predict(theta[None])[0][0, variant]
        shown = apparent_d(period, region.frame, self.pixel, self.noise)
        true = [theta[layout.place(name, variant)] for name in ("d_x", "d_y")]
        return np.asarray(shown - region.stretch() @ np.array(true))

    def tilted(self, variant: int, tilt: Floats, **changes: float) -> Floats:
        """As :meth:`bias`, with the beam in the variant's columns along ``tilt``, mrad along the image's axes."""
        along = np.linalg.solve(self.inversion.regions[variant].turn(), tilt)
        return self.bias(variant, tilt_x=float(along[0]), tilt_y=float(along[1]), **changes)

    def slopes(self, variant: int, names: Sequence[str] = CONDITIONS) -> tuple[list[str], Floats]:
        """Unknowns, along the lattice's axes, and the derivatives (2, unknown) of the bias by them."""
        layout, theta = self.inversion.model.layout, self.inversion.solution.theta
        high = self.inversion.model.limits[1]
        base = self.bias(variant)
        columns = []
        for name in names:
            place = layout.place(name, -1 if (name, -1) in layout.names else variant)
            step = _STEPS[name] if theta[place] + _STEPS[name] <= high[place] else -_STEPS[name]
            columns.append((self.bias(variant, **{name: float(theta[place]) + step}) - base) / step)
        return list(names), np.stack(columns, axis=1)
