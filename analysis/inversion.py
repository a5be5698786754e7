"""The centre about which a cloud of displacements turns into itself by inversion.

Opposite variants have opposite displacements, so that the middle between them is what all cells have in common:
the apparent displacement of mis-tilt, aberrations or an asymmetric column, not polarization. How many cells each
variant has does not matter, unlike for the mean of the cloud.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .domains import find_domains
from .tables import SIGN_CONVENTION

Floats = NDArray[np.float64]
Pairing = tuple[tuple[int, int], ...]

#: Variants count as opposite if they lie at least so far apart in direction, degrees.
LEAST_ANGLE = 120.0
#: Middles of several pairs agree within this, pm, beyond their errors: real variants differ a little in size.
TOLERANCE = 2.0
#: Largest spread of the cells of a variant beyond their errors, in halves of the distance to the opposite one. A
#: wider one may hold several variants that overlap, whose common mean depends on how many cells each has.
WIDEST = 0.6
_AGREEMENT = 9.0  # χ² for each degree of freedom up to which middles count as one


def inversion_centre(unit_cells: xr.Dataset, domains: xr.Dataset | None = None) -> xr.Dataset:
    """Where no displacement would lie, from the middles between opposite variants.

    Parameters
    ----------
    unit_cells : xr.Dataset
        From `measure`.
    domains : xr.Dataset, optional
        From `find_domains` of the same cells, which is called otherwise.

    Returns
    -------
    xr.Dataset
        ``centre`` (component; pm) and ``centre_cov`` (pm²), NaN without opposite variants, which ``attrs["reason"]``
        then says; ``partner`` (variant): the opposite variant, -1 where there is none.

    Notes
    -----
    Two variants alone are symmetric about their middle whatever they are. They count as opposite if their
    directions differ by at least `LEAST_ANGLE`, which takes the common displacement to be smaller than the
    polar one, and if their cells do not spread as far as they lie apart (`WIDEST`); with two pairs and more their
    middles must agree as well.
    """
    if domains is None:
        domains = find_domains(unit_cells)
    mean = domains["mean"].values
    k = len(mean)
    joint = domains["joint_cov"].values.reshape(2 * k, 2 * k)
    centre: Floats = np.full(2, np.nan)
    covariance: Floats = np.full((2, 2), np.nan)
    pairs: Pairing = ()
    reason = ""
    narrow = _narrow(mean, domains["spread"].values)
    opposite = [pairing for pairing in _pairings(tuple(range(k))) if pairing and _opposite(mean, pairing)]
    candidates = [pairing for pairing in opposite if all(narrow[pair] for pair in pairing)]
    agreeing = []
    for pairing in candidates:
        where, spread, chi2 = _middle(mean, joint, pairing)
        if chi2 <= _AGREEMENT * max(2 * (len(pairing) - 1), 1):
            agreeing.append((-len(pairing), chi2, where, spread, pairing))
    if agreeing:
        _, _, centre, covariance, pairs = min(agreeing, key=lambda found: found[:2])
    elif k < 2:
        reason = "there is one variant only; an inversion centre needs two opposite ones"
    elif opposite:
        reason = "opposite variants spread nearly as far as they lie apart; more variants may hide in them"
    else:
        reason = f"no two of the {k} variants point in opposite directions (to {180 - LEAST_ANGLE:g}°)"
    partner = np.full(k, -1, np.int32)
    for first, second in pairs:
        partner[first], partner[second] = second, first
    return xr.Dataset(
        {
            "centre": ("component", centre, {"units": "pm", "convention": SIGN_CONVENTION}),
            "centre_cov": (("component", "component_2"), covariance, {"units": "pm2"}),
            "partner": ("variant", partner, {"units": "1", "note": "-1: has no opposite"}),
        },
        {name: domains[name] for name in ("component", "component_2")},
        {"reason": reason, "pairs": len(pairs), "convention": SIGN_CONVENTION},
    )


def _pairings(left: tuple[int, ...]) -> Iterator[Pairing]:
    """All ways to pair some of these: 764 for eight."""
    if len(left) < 2:
        yield ()
        return
    first, rest = left[0], left[1:]
    yield from _pairings(rest)
    for n, second in enumerate(rest):
        for others in _pairings(rest[:n] + rest[n + 1 :]):
            yield ((first, second), *others)


def _opposite(mean: Floats, pairing: Pairing) -> bool:
    least = np.cos(np.radians(LEAST_ANGLE))
    size = np.hypot(mean[:, 0], mean[:, 1])
    return all(mean[i] @ mean[j] <= least * size[i] * size[j] for i, j in pairing)


def _narrow(mean: Floats, spread: Floats) -> NDArray[np.bool_]:
    """(k, k) Pairs of variants whose spread is small against their distance."""
    half = 0.5 * np.hypot(*(mean[:, None] - mean).transpose(2, 0, 1))
    widest = np.sqrt(np.maximum(np.linalg.eigvalsh(spread)[:, -1], 0))
    return np.asarray(np.maximum(widest[:, None], widest) <= WIDEST * half)


def _middle(mean: Floats, joint: Floats, pairing: Pairing) -> tuple[Floats, Floats, float]:
    """Weighted mean of the pairs' middles, its covariance and their χ²."""
    pick = np.zeros((len(pairing), len(mean)))
    for row, pair in enumerate(pairing):
        pick[row, list(pair)] = 0.5
    pick = np.asarray(np.kron(pick, np.eye(2)))
    middles = np.asarray(pick @ mean.ravel())
    covariance = np.asarray(pick @ joint @ pick.T)
    design = np.tile(np.eye(2), (len(pairing), 1))
    weight = np.linalg.inv(covariance)
    result: Floats = np.linalg.inv(design.T @ weight @ design).astype(np.float64)
    centre = result @ design.T @ weight @ middles
    rest = middles - design @ centre
    alike = np.linalg.inv(covariance + TOLERANCE**2 * np.eye(len(covariance)))
    # Middles that differ by more than their errors say that the common centre is known less well.
    excess = float(rest @ weight @ rest) / max(2 * (len(pairing) - 1), 1)
    return centre, result * max(excess, 1.0), float(rest @ alike @ rest)
