"""Domains: which variant each cell belongs to, and the walls between them.

The cloud of (d_x, d_y) says which variants there are (`mixtures`), and the neighbours of a cell help to say which
of them it is: a Potts field on the lattice, solved in mean-field approximation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import convolve
from scipy.special import softmax

from .errors import ImageError
from .mixtures import Mixture, evidence, fit_mixture, improve, scores
from .tables import SIGN_CONVENTION
from .tiling import EDGE_STEPS, edge_vectors, lattice_grid, middles, neighbour_pairs, usable_cells

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Most variants that are tried: <111> has eight directions.
MOST_VARIANTS = 8
#: Logarithm of how much more likely each of four neighbours makes its own variant.
COUPLING = 1.0
#: Angles that variants along <100>, <110> or <111> make in projection along [100] and [110], degrees.
PROJECTED_ANGLES = {"100": (0, 45, 90, 135, 180), "110": (0, 35, 55, 71, 90, 109, 125, 145, 180)}

#: Difference of BIC that counts as positive evidence (Kass and Raftery, J. Am. Stat. Assoc. 90, 773, 1995).
EVIDENCE = 2.0
#: Two equal Gaussians nearer than so many standard deviations make one hump: a d that varies, not two variants.
SEPARATION = 2.0
#: Least excess of neighbours in the same variant over chance: 0 for scattered cells, 0.5 for a line of cells.
COHESION = 0.35

_ENOUGH = 4000  # cells that the number of variants is decided on
_FEWEST = 8  # cells for each variant
_PATIENCE = 2  # numbers of variants in a row without gain before the search ends
_FINAL = 40  # steps of the fit to all cells
_SWEEPS, _SETTLED = 50, 1e-3
_ONE: dict[str, Any] = {"units": "1"}


def find_domains(
    unit_cells: xr.Dataset,
    n: int | None = None,
    *,
    symmetric: bool = True,
    coupling: float = COUPLING,
    seed: int = 0,
) -> xr.Dataset:
    """Assign every cell to a variant of the displacement.

    Parameters
    ----------
    unit_cells : xr.Dataset
        From `measure`; the error ``d_cov`` of every cell is taken into account.
    n : int, optional
        Number of variants. Without it that of the least BIC, up to `MOST_VARIANTS`: more variants must better it
        by `EVIDENCE`, be `SEPARATION` standard deviations apart (else it is one d that varies), and the cells of
        each must lie together.
    symmetric : bool
        Variants are related by symmetry, so that d spreads alike in all of them; False gives each a spread of
        its own.
    coupling : float
        How much a cell follows its neighbours: each of four makes its own variant exp(coupling) times as likely.
        0 takes every cell by itself.
    seed : int
        For the starting points of the fit.

    Returns
    -------
    xr.Dataset
        dim ``cell``: ``domain`` (number of the variant, -1 where flagged), ``probability``;
        dim ``variant``, the largest first: ``mean`` (pm), ``mean_cov`` (pm²), ``joint_cov`` (of all means, pm²),
        ``spread`` (pm²), ``cells``, ``area`` (nm²), ``angle`` (degree);
        dim ``n``: ``bic`` of every number of variants that was tried.

    Raises
    ------
    ImageError
        Too few cells, or an argument makes no sense.

    Notes
    -----
    Means are those of the fitted variants, not of the assigned cells: where clouds overlap, the latter lie too far
    apart. Neighbouring cells share A columns, and the errors of means count them as correlated. A variant that is
    left without a cell is dropped, so that fewer than `n` may come back.
    """
    usable = usable_cells(unit_cells)
    _check(n, coupling, int(usable.sum()))
    d, cov = unit_cells["d"].values[usable], unit_cells["d_cov"].values[usable]
    rng = np.random.default_rng(seed)
    mixture, criteria = _choose(d, cov, unit_cells, usable, _Choice(n, symmetric, coupling, rng))
    share = _with_neighbours(evidence(d, cov, mixture), unit_cells, usable, coupling)
    label = np.where(usable, share.argmax(1), -1)
    size = np.bincount(label[usable], minlength=len(mixture.weights))
    order = np.array([k for k in np.argsort(-size, kind="stable") if size[k]])
    rank = np.full(len(size) + 1, -1)  # the last is that of cells without a variant
    rank[order] = np.arange(len(order))
    label = rank[label].astype(np.int32)
    variables = {
        "domain": ("cell", label, _ONE | {"long_name": "number of the variant", "note": "-1: flagged, not assigned"}),
        "probability": ("cell", np.where(usable, share.max(1), np.nan), _ONE | {"long_name": "of this variant"}),
        "bic": ("n", list(criteria.values()), _ONE | {"long_name": "Bayesian information criterion"}),
        **_variant_table(unit_cells, label, mixture, _joint_covariance(d, cov, mixture, unit_cells, usable), order),
    }  # fmt: skip
    labels = np.array(["x", "y"], dtype=object)
    coords: dict[str, Any] = {
        name: (name, labels, _ONE | {"note": "image axes: x right, y down"})
        for name in ("component", "component_2")
    } | {"n": ("n", list(criteria), _ONE | {"long_name": "variants tried"})}
    attrs = {
        "convention": SIGN_CONVENTION, "zone": str(unit_cells.attrs.get("zone", "100")), "seed": seed,
        "coupling": float(coupling), "symmetric": int(symmetric), "stray_share": mixture.stray,
    }  # fmt: skip
    return xr.Dataset(variables, coords, attrs)


def find_walls(unit_cells: xr.Dataset, domains: xr.Dataset, centre: Floats | None = None) -> xr.Dataset:
    """Edges between neighbouring cells of different variants.

    Parameters
    ----------
    unit_cells : xr.Dataset
        From `measure`.
    domains : xr.Dataset
        From `find_domains` of the same cells.
    centre : (2,) array, optional
        Where no displacement would lie, pm (see `inversion_centre`): angles are between directions seen from there.

    Returns
    -------
    xr.Dataset
        dim ``wall``, one edge each: ends ``x0``, ``y0``, ``x1``, ``y1`` (Å), ``variant_1``, ``variant_2``,
        ``angle`` between the two mean displacements and the ``nominal`` angle next to it (degree).

    Notes
    -----
    Angles are between displacements projected along the beam: in a rhombohedral crystal seen along [100] a
    projected 90° is a 71° or a 109° wall, and a projected 180° a 109° or a 180° wall.
    """
    label = domains["domain"].values
    if len(label) != unit_cells.sizes["cell"]:
        raise ImageError(
            f"domains: is of {len(label)} cells but unit_cells of {unit_cells.sizes['cell']}; find them in these cells."
        )
    middle, edges = middles(unit_cells), edge_vectors(unit_cells)
    ends, sides = [np.empty((0, 2, 2))], [np.empty((0, 2), int)]
    for axis, step in enumerate(EDGE_STEPS):
        pairs = neighbour_pairs(unit_cells, step)
        pairs = pairs[(label[pairs] >= 0).all(1) & (label[pairs[:, 0]] != label[pairs[:, 1]])]
        along = edges[pairs, 1 - axis].mean(1)
        ends.append(middle[pairs].mean(1)[:, None] + along[:, None] * np.array([-0.5, 0.5])[:, None])
        sides.append(label[pairs])
    end, side = np.concatenate(ends), np.concatenate(sides)
    seen = domains["mean"].values - (np.zeros(2) if centre is None else np.asarray(centre))
    unit = seen / np.maximum(np.hypot(seen[:, 0], seen[:, 1]), 1e-12)[:, None]
    angle = np.degrees(np.arccos(np.clip((unit[side[:, 0]] * unit[side[:, 1]]).sum(1), -1, 1)))
    classes = np.array(PROJECTED_ANGLES.get(domains.attrs["zone"], (-1,)))
    nominal = classes[np.abs(angle[:, None] - classes).argmin(1)]
    note = {"units": "degree", "note": "between displacements projected along the beam"}
    variables = {
        "x0": ("wall", end[:, 0, 0], {"units": "Å"}), "y0": ("wall", end[:, 0, 1], {"units": "Å", "direction": "down"}),
        "x1": ("wall", end[:, 1, 0], {"units": "Å"}), "y1": ("wall", end[:, 1, 1], {"units": "Å", "direction": "down"}),
        "variant_1": ("wall", side[:, 0].astype(np.int32), _ONE), "variant_2": ("wall", side[:, 1].astype(np.int32), _ONE),
        "angle": ("wall", angle, note), "nominal": ("wall", nominal.astype(np.int32), note),
    }  # fmt: skip
    return xr.Dataset(variables, attrs={"convention": SIGN_CONVENTION, "zone": domains.attrs["zone"]})


def _check(n: int | None, coupling: float, count: int) -> None:
    if n is not None and not 1 <= n <= MOST_VARIANTS:
        raise ImageError(
            f"n={n} variants must lie between 1 and {MOST_VARIANTS}; leave it out to let BIC decide."
        )
    if not (np.isfinite(coupling) and coupling >= 0):
        raise ImageError(f"coupling={coupling:g} must not be negative; 0 takes every cell by itself.")
    needed = _FEWEST * (n or 1)
    if count < needed:
        raise ImageError(
            f"unit_cells: has {count} unflagged cells but needs {needed}; give an image of more cells."
        )


@dataclass(frozen=True)
class _Choice:
    """How the number of variants is chosen."""

    n: int | None
    shared: bool
    coupling: float
    rng: np.random.Generator


def _choose(
    d: Floats, cov: Floats, cells: xr.Dataset, usable: Mask, choice: _Choice
) -> tuple[Mixture, dict[int, float]]:
    """The mixture, and the BIC of every number of variants that was tried."""
    many, rng = len(d) > _ENOUGH, choice.rng
    some = np.sort(rng.choice(len(d), _ENOUGH, replace=False)) if many else np.arange(len(d))
    numbers = [choice.n] if choice.n else range(1, min(MOST_VARIANTS, len(d) // _FEWEST) + 1)
    best, chosen, criteria = None, 0, {}
    for k in numbers:
        fit = fit_mixture(d[some], cov[some], k, shared=choice.shared, rng=rng)
        criteria[k] = fit.bic(len(some))
        if best is None or (
            criteria[k] < criteria[chosen] - EVIDENCE
            and _separation(fit, cov) > SEPARATION
            and _cohesion(_with_neighbours(evidence(d, cov, fit), cells, usable, choice.coupling), cells)
            > COHESION
        ):
            best, chosen = fit, k
        elif k - chosen >= _PATIENCE:
            break
    assert best is not None
    return (improve(d, cov, best, _FINAL) if many else best), criteria


def _separation(mixture: Mixture, cov: Floats) -> float:
    """Least distance of two variants, in standard deviations of their cells."""
    least, error = np.inf, np.median(cov, 0)
    for one, other in combinations(range(len(mixture.weights)), 2):
        away = mixture.means[one] - mixture.means[other]
        spread = 0.5 * (mixture.spread[one] + mixture.spread[other]) + error
        least = min(least, float(np.sqrt(away @ np.linalg.solve(spread, away))))
    return least


def _cohesion(share: Floats, cells: xr.Dataset) -> float:
    """Of the variant that holds together least: how far its cells' neighbours are in it more often than by chance."""
    label = np.where(share.any(1), share.argmax(1), -1)
    pairs = np.concatenate([neighbour_pairs(cells, step) for step in EDGE_STEPS])
    pairs = pairs[(label[pairs] >= 0).all(1)]
    k = share.shape[1]
    ends = np.bincount(label[pairs].ravel(), minlength=k)
    together = 2 * np.bincount(label[pairs[:, 0]][label[pairs[:, 0]] == label[pairs[:, 1]]], minlength=k)
    chance = ends / max(ends.sum(), 1)
    kept = (ends > 0) & (chance < 1)
    return float(
        ((together / np.maximum(ends, 1) - chance) / np.maximum(1 - chance, 1e-9))[kept].min(initial=1.0)
    )


def _with_neighbours(log_evidence: Floats, cells: xr.Dataset, usable: Mask, coupling: float) -> Floats:
    """(n, k) Probability of each variant for every cell, 0 for cells that are not usable."""
    rows, place = lattice_grid(cells)
    own = np.zeros((*rows.shape, log_evidence.shape[1]))
    there = np.zeros(rows.shape, bool)
    i, j = place[usable].T
    own[i, j], there[i, j] = log_evidence, True
    share = np.where(there[..., None], softmax(own, axis=-1), 0.0)
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], float)[..., None]
    # Cells of one colour of a chessboard are no neighbours: to update them together is stable.
    colour = np.indices(rows.shape).sum(0) % 2
    turns = [there & (colour == turn) for turn in (0, 1)]
    for _ in range(_SWEEPS):
        before = share.copy()
        for now in turns:
            field = convolve(share, cross, mode="constant")
            share[now] = softmax(own[now] + coupling * field[now], axis=-1)
        if np.abs(share - before).max() < _SETTLED:
            break
    return share[place[:, 0], place[:, 1]]


def _joint_covariance(d: Floats, cov: Floats, mixture: Mixture, cells: xr.Dataset, usable: Mask) -> Floats:
    """(2k, 2k) Covariance of all means, from each cell's score and the correlation of neighbouring ones.

    Neighbours share A columns, up to the diagonal ones: a sandwich estimate over blocks of 3 × 3 cells (Conley,
    J. Econometrics 92, 1, 1999), but never less than for independent cells.
    """
    score = scores(d, cov, mixture)
    scale = np.sqrt((score**2).mean(0)) + 1e-300
    score = score / scale
    rows, place = lattice_grid(cells)
    field = np.zeros((*rows.shape, score.shape[1]))
    i, j = place[usable].T
    field[i, j] = score
    around = convolve(field, np.ones((3, 3, 1)), mode="constant")[i, j]
    value, vector = np.linalg.eigh(score.T @ score)
    root = vector / np.sqrt(np.maximum(value, 1e-9 * value.max()))
    inflation, axes = np.linalg.eigh(0.5 * root.T @ (score.T @ around + around.T @ score) @ root)
    factor = (root @ axes) * np.sqrt(np.maximum(inflation, 1.0)) / scale[:, None]
    size = 2 * len(mixture.weights)
    return np.asarray((factor @ factor.T)[:size, :size])


def _variant_table(
    cells: xr.Dataset, label: NDArray[np.int32], mixture: Mixture, joint: Floats, order: NDArray[np.int64]
) -> dict[str, Any]:
    k = len(mixture.weights)
    mean, spread = mixture.means[order], mixture.spread[order]
    blocks = joint.reshape(k, 2, k, 2)[order][:, :, order]
    own = blocks[np.arange(len(order)), :, np.arange(len(order))]
    area = cells["area"].values
    area = np.where(np.isfinite(area), area, np.nanmedian(area)) / 100
    count = np.bincount(label[label >= 0], minlength=len(order))
    angle = np.degrees(np.arctan2(-mean[:, 1], mean[:, 0]))
    square = ("variant", "component", "component_2")
    return {
        "mean": (("variant", "component"), mean, {"units": "pm", "convention": SIGN_CONVENTION}),
        "mean_cov": (square, own, {"units": "pm2"}),
        "joint_cov": (("variant", "component", "variant_2", "component_2"), blocks, {"units": "pm2"}),
        "spread": (square, spread, {"units": "pm2", "long_name": "covariance of cells beyond their errors"}),
        "cells": ("variant", count.astype(np.int32), _ONE),
        "area": ("variant", np.bincount(label[label >= 0], area[label >= 0], len(order)), {"units": "nm2"}),
        "angle": (
            "variant", angle,
            {"units": "degree", "long_name": "direction of the mean, counter-clockwise from x as seen: 90 is up, -y"},
        ),
    }  # fmt: skip
