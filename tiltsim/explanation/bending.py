"""Tilt that changes across the film: a plane through the tilts of blocks of cells, where the image carries it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from tiltsim.explanation.inversion import Inversion

Floats = NDArray[np.float64]

#: Unknowns of every block, beside which those that all share stay as they are.
_OWN = ("tilt_x", "tilt_y", "d_x", "d_y", "origin_x", "origin_y")
_SHARED = ("thickness", "scale")

#: How far these vary within one film at most: prior standard deviations from block to block.
_VARIES = {
    "tilt_x": 5.0, "tilt_y": 5.0, "d_x": 5.0, "d_y": 5.0, "origin_x": 20.0, "origin_y": 20.0, "thickness": 30.0,
}  # fmt: skip

#: Chance with which no bending would look like this much.
_BY_CHANCE = 1e-3

#: Fewest blocks that a plane is put through, for each of its six numbers of a component and more.
_FEWEST = 8


@dataclass(frozen=True, eq=False)
class Bending:
    """A plane through tilts, the same in all variants.

    Parameters
    ----------
    gradient : ndarray (2, 2)
        Change of tilt (x, y; rows) per Å along x and y (columns), mrad, along the image's axes.
    gradient_cov : ndarray (4, 4)
        Of its entries, row by row.
    middles : ndarray (region, 2)
        Where each variant has its mean tilt, Å.
    gain : float
        Fall of χ² by it.
    found : bool
        Whether that is more than chance.
    places, tilts, errors : ndarray (block, 2)
        Å; mrad less the variant's mean; mrad.
    """

    gradient: Floats
    gradient_cov: Floats
    middles: Floats
    gain: float
    found: bool
    places: Floats
    tilts: Floats
    errors: Floats

    def tilt_cov(self, region: int, xy: Floats) -> Floats:
        """Covariance (n, 2, 2) of :meth:`tilt`, mrad²."""
        x, y = (xy - self.middles[region]).T
        design = np.zeros((len(xy), 2, 4))
        design[:, 0, 0] = design[:, 1, 2] = x
        design[:, 0, 1] = design[:, 1, 3] = y
        return np.asarray(design @ self.gradient_cov @ np.swapaxes(design, 1, 2))

    def tilt(self, region: int, xy: Floats) -> Floats:
        """Tilt (n, 2) at places (n, 2) less the variant's mean, mrad."""
        return (xy - self.middles[region]) @ self.gradient.T


def find_bending(inversion: Inversion) -> Bending | None:
    """Read a gradient of tilt.

    Parameters
    ----------
    inversion : Inversion

    Returns
    -------
    Bending or None
        None where there are too few blocks of cells.
    """
    image, slopes = inversion.model.predict(inversion.solution.theta[None])
    layout = inversion.model.layout
    rows: list[tuple[int, Floats, Floats, Floats]] = []
    middles = np.zeros((len(inversion.regions), 2))
    for number, region in enumerate(inversion.regions):
        names = [n for n in _OWN if layout.of(n)[number] >= 0]
        places = [layout.of(n)[number] for n in names] + [layout.place(n) for n in _SHARED]
        known = np.array([1.0 / _VARIES[n] ** 2 if n in _VARIES else 0.0 for n in (*names, *_SHARED)])
        flat = slopes[0][places, number].reshape(len(places), -1)
        total = np.maximum(region.pixels.sum(axis=0), 1.0)
        weights = region.pixels.sum(axis=(1, 2))
        middles[number] = weights @ region.places / weights.sum()
        for counts, pixels, place in zip(region.counts, region.pixels, region.places, strict=True):
            weight = np.where(pixels > 0, pixels / total / np.maximum(region.variance, 1e-30), 0.0).ravel()
            left = (counts / np.maximum(pixels, 1.0) - image[0, number]).ravel()
            information = (flat * weight) @ flat.T + np.diag(known)
            covariance = np.linalg.inv(information)
            step = covariance @ (flat @ (weight * left))
            # What the prior holds back of tilt is given back: it is to bound the other unknowns.
            own = np.linalg.inv(covariance[:2, :2])
            free = np.linalg.inv(own - np.diag(known[:2]))
            turn = region.turn()
            rows.append((number, place, turn @ free @ own @ step[:2], turn @ free @ turn.T))
    if len(rows) < _FEWEST:
        return None
    normal, right, bare = np.zeros((4, 4)), np.zeros(4), 0.0
    centred = []
    for number in range(len(inversion.regions)):
        mine = [r for r in rows if r[0] == number]
        information = [np.linalg.inv(r[3]) for r in mine]
        whole = np.linalg.inv(sum(information, np.zeros((2, 2))))
        mean = whole @ sum((i @ r[2] for i, r in zip(information, mine, strict=True)), np.zeros(2))
        for i, (_, place, tilt, covariance) in zip(information, mine, strict=True):
            x, y = place - middles[number]
            design = np.array([[x, y, 0.0, 0.0], [0.0, 0.0, x, y]])
            away = tilt - mean
            normal += design.T @ i @ design
            right += design.T @ i @ away
            bare += float(away @ i @ away)
            centred.append((place, away, np.sqrt(np.diag(covariance))))
    spread = np.asarray(np.linalg.pinv(normal), dtype=float)
    gradient = spread @ right
    gain = float(right @ gradient)
    # Blocks differ by more than their counts tell where the scan jitters.
    freedom = 2 * len(rows) - 2 * len(inversion.regions) - 4
    excess = max((bare - gain) / max(freedom, 1), 1.0)
    return Bending(
        gradient.reshape(2, 2), spread * excess, middles, gain / excess,
        bool(chi2.sf(gain / excess, 4) < _BY_CHANCE), *(np.stack(v) for v in zip(*centred, strict=True)),
    )  # fmt: skip
