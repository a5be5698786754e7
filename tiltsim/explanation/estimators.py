"""Independent ways to say what tilt adds to d in every domain, each with its error and what it takes for granted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import analysis
import dcnn
from tiltsim.explanation.apparent import apparent_d, noise_of
from tiltsim.explanation.inversion import Inversion, invert
from tiltsim.explanation.misfit import WORST_CHI2
from tiltsim.explanation.model import PRIORS, Model
from tiltsim.explanation.regions import Region
from tiltsim.library import Library

Floats = NDArray[np.float64]

#: Steps by which the response is differentiated: of tilt, mrad, and of what else film and reference share, Å.
_STEP = 2.0
_CONDITIONS = {"thickness": 15.0, "defocus": 10.0, "C12_x": 6.0, "C12_y": 6.0, "C21_x": 150.0, "C21_y": 150.0}

#: Rounds of the search for the d that shows the apparent one.
_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Estimate:
    """What one estimator says of every variant.

    Parameters
    ----------
    name : str
    assumes : str
        What it takes for granted.
    bias : ndarray (variant, 2)
        Apparent d − d, pm, along the image's axes; NaN where it has nothing to say.
    bias_cov : ndarray (variant, 2, 2)
    tilt : ndarray (variant, 2)
        Of the beam inside the variant, mrad; NaN where it does not read tilt.
    tilt_cov : ndarray (variant, 2, 2)
    silent : str
        Why it says nothing; empty where it does.
    """

    name: str
    assumes: str
    bias: Floats
    bias_cov: Floats
    tilt: Floats = field(default_factory=lambda: np.full((0, 2), np.nan))
    tilt_cov: Floats = field(default_factory=lambda: np.full((0, 2, 2), np.nan))
    silent: str = ""

    @property
    def speaks(self) -> bool:
        """Whether there is an answer."""
        return not self.silent


def _nothing(name: str, assumes: str, count: int, why: str) -> Estimate:
    pair, square = np.full((count, 2), np.nan), np.full((count, 2, 2), np.nan)
    return Estimate(name, assumes, pair, square, pair, square, why)


def blocks(covariance: Floats, count: int) -> Floats:
    """(count, 2, 2) blocks on the diagonal of a (2 · count, 2 · count) covariance."""
    return np.stack([covariance[2 * n : 2 * n + 2, 2 * n : 2 * n + 2] for n in range(count)])


def from_inversion(inversion: Inversion) -> Estimate:
    """The joint fit's own answer, of the variants (references come last and are left out)."""
    count = sum(r.name != "reference" for r in inversion.regions)
    return Estimate(
        "image inversion",
        "the library's microscope and crystal; one thickness, lens and source for all domains",
        inversion.bias[:count], blocks(inversion.bias_cov, count), inversion.tilt[:count],
        blocks(inversion.tilt_cov, count),
    )  # fmt: skip


def from_reference(
    regions: Sequence[Region],
    library: Library,
    pixel: float,
    *,
    samarium: float = 0.0,
    priors: Mapping[str, tuple[float, float]] = PRIORS,
) -> Estimate:
    """Tilt, thickness and lens of the reference alone, and what the simulated response makes of them in the film.

    Parameters
    ----------
    regions : sequence of Region
        Variants, and the reference last where there is one.
    library : Library
    pixel : float
        Å.
    samarium : float
        Fraction, in the film.
    priors : mapping of str to (float, float)
        See :func:`~tiltsim.explanation.inversion.invert`.
    """
    name = "null reference"
    assumes = "the film's columns are parallel to the reference's, it is as thick, and SrTiO3 has no d"
    variants = [r for r in regions if r.name != "reference"]
    reference = [r for r in regions if r.name == "reference"]
    if not reference:
        return _nothing(name, assumes, len(variants), "the image shows no region without polarization")
    null = invert(reference, library, priors=priors)
    if not null.misfit.reduced <= WORST_CHI2:
        return _nothing(
            name,
            assumes,
            len(variants),
            f"its averaged cell is unlike the library's SrTiO3 (reduced χ² {null.misfit.reduced:.1f})",
        )
    noise = noise_of(reference)
    layout = null.model.layout
    places = [layout.place("tilt_x", 0), layout.place("tilt_y", 0), *(layout.place(n) for n in _CONDITIONS)]
    conditions = np.concatenate([null.tilt[0], null.solution.theta[places[2:]]])
    turn = np.eye(len(places))
    turn[:2, :2] = reference[0].turn()
    low, high = null.model.limits
    middle = 0.5 * (low[places] + high[places])
    covariance = turn @ null.covariance[np.ix_(places, places)] @ turn.T
    bias, cov = [], []
    for region in variants:
        model = Model(library, [region], samarium)

        def shown(d: Floats, at: Floats, region: Region = region, model: Model = model) -> Floats:
            return apparent_d(_period(null, model, region, at, d), region.frame, pixel, noise)

        d = region.apparent.copy()
        limit = 0.98 * library.d_limit
        for _ in range(_ROUNDS):
            d = np.clip(d + region.apparent - shown(d, conditions), -limit, limit)
        bias.append(region.apparent - d)
        base = shown(d, conditions)
        steps = np.diag([_STEP, _STEP, *_CONDITIONS.values()])
        # Towards the middle of what the library holds.
        steps *= np.where(conditions > middle, -1.0, 1.0)
        slope = np.stack([(shown(d, conditions + one) - base) / one.sum() for one in steps], axis=1)
        cov.append(slope @ covariance @ slope.T + region.apparent_cov)
    count = len(variants)
    return Estimate(
        name, assumes, np.stack(bias), np.stack(cov), np.repeat(null.tilt[:1], count, axis=0),
        np.repeat(blocks(null.tilt_cov, 1), count, axis=0),
    )  # fmt: skip


def _period(null: Inversion, model: Model, region: Region, conditions: Floats, d: Floats) -> Floats:
    """One cell of the film (n, n), in units of the image's mean, with tilt and d (image's axes) and all else as in the reference."""
    theta = np.zeros(len(model.layout.names))
    for place, (name, number) in enumerate(model.layout.names):
        if number < 0:
            theta[place] = null.solution.theta[null.model.layout.place(name)]
    for name, value in zip(_CONDITIONS, conditions[2:], strict=True):
        theta[model.layout.place(name)] = value
    tilt, along = np.linalg.solve(region.turn(), conditions[:2]), np.linalg.solve(region.stretch(), d)
    for name, value in zip(("tilt_x", "tilt_y", "d_x", "d_y"), (*tilt, *along), strict=True):
        theta[model.layout.of(name)[0]] = value
    return model.predict(model.within(theta)[None])[0][0, 0]


def from_symmetry(cells: xr.Dataset, domains: xr.Dataset, regions: Sequence[Region]) -> Estimate:
    """The inversion centre of the (d_x, d_y) cloud, taken to be the bias of every variant."""
    name = "variant symmetry"
    assumes = "opposite variants have opposite d, and tilt adds the same to all: none leans on its own"
    count = sum(r.name != "reference" for r in regions)
    found = analysis.inversion_centre(cells, domains)
    if found.attrs["reason"]:
        return _nothing(name, assumes, count, str(found.attrs["reason"]))
    square = np.repeat(found["centre_cov"].values[None], count, axis=0)
    bias = np.repeat(found["centre"].values[None], count, axis=0)
    return Estimate(name, assumes, bias, square, np.full((count, 2), np.nan), np.full((count, 2, 2), np.nan))


def from_network(
    model: dcnn.Model, image: xr.DataArray, cells: xr.Dataset, regions: Sequence[Region], device: str = "auto"
) -> Estimate:
    """Means over each variant of what a tilt-aware network reads from the windows of its cells."""
    name = "network"
    assumes = (
        "the image is like those that the network was trained on; its errors are the same for neighbours"
    )
    variants = [r for r in regions if r.name != "reference"]
    answer = dcnn.predict(model, image, cells, device=device)
    novelty = float(answer.attrs.get("novelty", np.nan))
    if "tilt" not in answer or not answer.sizes["cell"]:
        return _nothing(name, assumes, len(variants), "the network does not read tilt, or no window is whole")
    if not novelty <= dcnn.NOVEL:
        return _nothing(
            name, assumes, len(variants),
            f"the image is unlike what the network knows (novelty {novelty:.1f}, trusted up to {dcnn.NOVEL:g})",
        )  # fmt: skip
    row = np.full(cells.sizes["cell"], -1)
    row[answer["index"].values] = np.arange(answer.sizes["cell"])
    bias, bias_cov, tilt, tilt_cov = [], [], [], []
    for region in variants:
        mine = row[region.rows]
        mine = mine[mine >= 0]
        if not len(mine):
            return _nothing(name, assumes, len(variants), f"no window of {region.name} is whole")
        bias.append(region.apparent - answer["d"].values[mine].mean(axis=0))
        tilt.append(answer["tilt"].values[mine].mean(axis=0))
        # Errors that neighbours share do not average out; four cells' worth do, see docs/networks.md.
        bias_cov.append(np.diag((answer["d_std"].values[mine] ** 2).mean(axis=0) / 4))
        tilt_cov.append(np.diag((answer["tilt_std"].values[mine] ** 2).mean(axis=0) / 4))
    return Estimate(name, assumes, np.stack(bias), np.stack(bias_cov), np.stack(tilt), np.stack(tilt_cov))
