"""Several ways to say what tilt adds to d in every domain, each with its error and what it takes for granted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import analysis
import dcnn
from tiltsim.explanation.inversion import Inversion
from tiltsim.explanation.misfit import WORST_CHI2
from tiltsim.explanation.regions import Region

Floats = NDArray[np.float64]


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
    apart_cov : ndarray (variant, 2, 2), optional
        Covariance of its difference from the inversion's bias, where they share data; by default they are independent.
    """

    name: str
    assumes: str
    bias: Floats
    bias_cov: Floats
    tilt: Floats = field(default_factory=lambda: np.full((0, 2), np.nan))
    tilt_cov: Floats = field(default_factory=lambda: np.full((0, 2, 2), np.nan))
    silent: str = ""
    apart_cov: Floats | None = None

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


def from_reference(inversion: Inversion) -> Estimate:
    """What all images say of d of a variant if its columns are as tilted as the reference's.

    Parameters
    ----------
    inversion : Inversion
        Of variants, and of the reference last where there is one. A few hundred cells of SrTiO3 alone tell tilt from coma and
        thickness to a milliradian only, so lens, source and thickness are those that all regions agree on.
    """
    name = "null reference"
    assumes = "the film's columns are parallel to the reference's, it is as thick, and SrTiO3 has no d"
    regions, layout = inversion.regions, inversion.model.layout
    count = sum(r.name != "reference" for r in regions)
    if count == len(regions):
        return _nothing(name, assumes, count, "the image shows no region without polarization")
    if not inversion.misfit.reduced <= WORST_CHI2:
        return _nothing(
            name, assumes, count,
            f"the averaged cells are unlike the library's, and so is the lens that it would use (reduced χ² {inversion.misfit.reduced:.1f})",
        )  # fmt: skip
    theta, curvature = inversion.solution.theta, inversion.solution.covariance
    reference = [layout.place(n, count) for n in ("tilt_x", "tilt_y")]
    bias, cov, apart_cov = [], [], []
    for number in range(count):
        region = regions[number]
        # How the film's tilt differs from the reference's, along the film's lattice: where that is held at 0, d and all else follow.
        apart, d = np.zeros((2, len(theta))), np.zeros((2, len(theta)))
        apart[:, [layout.place(n, number) for n in ("tilt_x", "tilt_y")]] = np.eye(2)
        apart[:, reference] = -region.turn().T @ regions[count].turn()
        d[:, [layout.place(n, number) for n in ("d_x", "d_y")]] = region.stretch()
        follows = d @ curvature @ apart.T @ np.linalg.inv(apart @ curvature @ apart.T)
        held = d - follows @ apart
        bias.append(region.apparent - held @ theta)
        cov.append(held @ inversion.covariance @ held.T)
        moved = follows @ apart
        apart_cov.append(moved @ inversion.covariance @ moved.T)
    tilt, tilt_cov = inversion.tilt[count], inversion.tilt_cov[2 * count :, 2 * count :]
    return Estimate(
        name, assumes, np.stack(bias), np.stack(cov), np.repeat(tilt[None], count, axis=0),
        np.repeat(tilt_cov[None], count, axis=0), apart_cov=np.stack(apart_cov),
    )  # fmt: skip


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
