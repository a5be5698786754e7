"""How much of an asymmetric polarization comes from what: crystal, channelling, lens, the grain's tilt, each variant's lean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tiltsim.explanation.apparent import apparent_d, noise_of
from tiltsim.explanation.inversion import Inversion
from tiltsim.explanation.leans import Leans
from tiltsim.lens import COMPONENTS

Floats = NDArray[np.float64]

#: Steps on the way from the crystal to what the fit of its columns shows.
CAUSES = ("crystal", "fit and channelling", "lens", "tilt of the grain", "lean of the variants")

#: Without leans to part: tilt of the beam in the columns comes in one.
CAUSES_ALONE = (*CAUSES[:3], "tilt of the columns")

#: Numbers that are told, and their units.
STATISTICS = {
    "mean_x": "pm", "mean_y": "pm", "difference": "pm", "skewness": "1", "spread": "pm",
}  # fmt: skip

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
}

#: Cells along each edge of the images that are measured.
_CELLS = 16


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

    @property
    def variants(self) -> int:
        """Number of them; a reference comes after them."""
        return sum(r.name != "reference" for r in self.inversion.regions)

    def bias(self, variant: int, **changes: float) -> Floats:
        """(2,) pm along the image's axes, with unknowns of this variant or of all (lattice axes) replaced."""
        inversion = self.inversion
        layout = inversion.model.layout
        theta = inversion.solution.theta.copy()
        for name, value in changes.items():
            theta[layout.place(name, -1 if (name, -1) in layout.names else variant)] = value
        low, high = inversion.model.limits
        theta = np.clip(theta, low, high)
        region = inversion.regions[variant]
        period = inversion.model.predict(theta[None])[0][0, variant]
        shown, _ = apparent_d(period, region.frame, self.pixel, noise_of(inversion.regions), cells=_CELLS)
        return np.asarray(shown - inversion.d[variant])

    def tilted(self, variant: int, tilt: Floats, **changes: float) -> Floats:
        """As :meth:`bias`, with the beam in the variant's columns along ``tilt``, mrad along the image's axes."""
        along = np.linalg.solve(self.inversion.regions[variant].turn(), tilt)
        return self.bias(variant, tilt_x=float(along[0]), tilt_y=float(along[1]), **changes)

    def slopes(self, variant: int, names: Sequence[str] = tuple(_STEPS)) -> tuple[list[str], Floats]:
        """Unknowns, along the lattice's axes, and the derivatives (2, unknown) of the bias by them."""
        layout, theta = self.inversion.model.layout, self.inversion.solution.theta
        low, high = self.inversion.model.limits
        columns = []
        for name in names:
            step = _STEPS[name]
            place = layout.place(name, -1 if (name, -1) in layout.names else variant)
            ends = [float(np.clip(theta[place] + s, low[place], high[place])) for s in (step, -step)]
            columns.append(
                (self.bias(variant, **{name: ends[0]}) - self.bias(variant, **{name: ends[1]}))
                / (ends[0] - ends[1])
            )
        return list(names), np.stack(columns, axis=1)


def attribute(
    cells: xr.Dataset,
    inversion: Inversion,
    leans: Leans | None,
    pixel: float,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Part what the map shows into what causes it.

    Parameters
    ----------
    cells : Dataset
        From :func:`~tiltsim.explanation.explaining.explain`, with ``d_corrected``.
    inversion : Inversion
    leans : Leans or None
        None: the grain's tilt and a variant's lean cannot be told apart.
    pixel : float
        Å.
    progress : callable, optional
        Called as ``progress(done, expected)``.

    Returns
    -------
    Dataset
        ``bias`` (cause, variant, component) that each cause adds to d, pm, and ``bias_std``; ``contribution`` (cause, statistic)
        that it adds to each of :data:`STATISTICS` and ``contribution_std``; ``total`` (statistic) of the map as it is. The causes add up
        in their order; "fit and channelling" is what a perfect lens shows without tilt.
    """
    forward = Forward(inversion, pixel)
    causes = CAUSES if leans is not None else CAUSES_ALONE
    count = forward.variants
    none = dict.fromkeys(COMPONENTS, 0.0)
    turn = inversion.regions[0].turn()
    states = np.zeros((len(causes), count, 2))
    errors = np.zeros((len(causes), count, 2, 2))
    for v in range(count):
        names, slopes = forward.slopes(v)
        layout = inversion.model.layout
        places = [layout.place(n, -1 if (n, -1) in layout.names else v) for n in names]
        covariance = inversion.covariance[np.ix_(places, places)]

        def of(chosen: slice, slopes: Floats = slopes, covariance: Floats = covariance) -> Floats:
            return np.asarray(slopes[:, chosen] @ covariance[chosen, chosen] @ slopes[:, chosen].T)

        states[1, v] = forward.tilted(v, np.zeros(2), **none)
        states[2, v] = forward.tilted(v, np.zeros(2))
        errors[1, v], errors[2, v] = of(slice(2, 3)), of(slice(3, 8))
        if leans is not None:
            grain = turn @ leans.grain
            states[3, v] = forward.tilted(v, grain)
            # Slopes are along the lattice, as the grain's errors.
            errors[3, v] = slopes[:, :2] @ np.diag(leans.grain_std**2) @ slopes[:, :2].T
            errors[4, v] = of(slice(0, 2)) + errors[3, v]
        else:
            errors[3, v] = of(slice(0, 2))
        # The last is what was measured, so that all add up.
        states[-1, v] = inversion.bias[v]
        errors[0, v] = inversion.bias_cov[2 * v : 2 * v + 2, 2 * v : 2 * v + 2]
        if progress is not None:
            progress(v + 1, count)
    added = np.diff(states, axis=0, prepend=np.zeros((1, count, 2)))
    added[0] = inversion.d[:count]
    label = cells["domain"].values
    good = (label >= 0) & (label < count) & np.isfinite(cells["d_corrected"].values).all(axis=1)
    good &= cells["flag"].values == 0
    crystal, label = cells["d_corrected"].values[good], label[good]
    maps = [crystal + states[n][label] for n in range(len(causes))]
    values = np.stack([statistics(m, label) for m in maps])
    contribution = np.diff(values, axis=0, prepend=np.zeros((1, len(STATISTICS))))
    rng = np.random.default_rng(0)
    draws = []
    roots = np.stack([[_root(errors[c, v]) for v in range(count)] for c in range(len(causes))])
    for _ in range(40):
        moved = np.einsum("cvij,cvj->cvi", roots, rng.standard_normal((len(causes), count, 2)))
        moved[0] *= -1.0
        shifted = states + np.concatenate([moved[:1], np.cumsum(moved[1:], axis=0) + moved[:1]])
        one = np.stack([statistics(crystal + shifted[n][label], label) for n in range(len(causes))])
        draws.append(np.diff(one, axis=0, prepend=np.zeros((1, len(STATISTICS)))))
    square = errors.diagonal(axis1=-2, axis2=-1)
    return xr.Dataset(
        {
            "bias": (("cause", "variant", "component"), added, {"units": "pm", "note": "of crystal: d itself"}),
            "bias_std": (("cause", "variant", "component"), np.sqrt(square), {"units": "pm"}),
            "contribution": (("cause", "statistic"), contribution),
            "contribution_std": (("cause", "statistic"), np.std(draws, axis=0)),
            "total": ("statistic", values[-1]),
        },
        coords={
            "cause": list(causes), "component": ["x", "y"], "statistic": list(STATISTICS),
            "unit": ("statistic", list(STATISTICS.values())),
        },
        attrs={"convention": "d = mean of surrounding A columns - B column; x right, y down"},
    )  # fmt: skip


def statistics(d: Floats, label: NDArray[np.int_]) -> Floats:
    """:data:`STATISTICS` of a map: mean d, the longest variant's mean less the shortest's, skewness and spread of |d|."""
    size = np.hypot(*d.T)
    means = [np.hypot(*d[label == k].mean(axis=0)) for k in np.unique(label)]
    spread = size.std()
    skewness = float(((size - size.mean()) ** 3).mean() / max(spread, 1e-9) ** 3)
    return np.array([*d.mean(axis=0), max(means) - min(means), skewness, spread])


def _root(covariance: Floats) -> Floats:
    value, vector = np.linalg.eigh(covariance)
    return np.asarray(vector * np.sqrt(np.maximum(value, 0.0)))
