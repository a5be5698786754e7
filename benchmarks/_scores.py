"""How well columns were found: against the truth, and against what the electrons allow."""

from __future__ import annotations

from typing import Any

import numpy as np
from _micrograph import Truth
from scipy.spatial import KDTree

_NEAR = 0.3  # cells: farther from every true column, a found one is false


def score(
    found: dict[str, np.ndarray], truth: Truth, cell: float, bounds: tuple[float, float]
) -> dict[str, Any]:
    """Counts, errors per axis in px, and pulls.

    Parameters
    ----------
    found : dict
        ``A`` and ``B`` (n, 2), px; optionally ``cov_A``, ``cov_B``, ``flagged_A``, ``flagged_B``, and ``cell``
        (n, 2) with ``d`` (n, 2). Without ``d`` it is taken from the columns.
    truth : Truth
    cell : float
        px.
    bounds : tuple of float
        Of A and B, px.
    """
    result: dict[str, Any] = {}
    rows, positions = {}, {}
    for site, true, best in zip("AB", (truth.a, truth.b), bounds, strict=True):
        place = found[site]
        finite = np.isfinite(place).all(1)
        rows[site], false, duplicates = _matched(place[finite], true, cell)
        positions[site] = place[finite]
        here = rows[site] >= 0
        error = positions[site][rows[site][here]] - true[here]
        rms = float(np.sqrt((error**2).mean()))
        result[site] = {
            "true": len(true), "found": int(here.sum()), "false": false, "duplicates": duplicates,
            "rmse_px": rms, "rmse_over_bound": rms / best,
        }  # fmt: skip
        if f"flagged_{site}" in found:
            again = _matched(found[f"flagged_{site}"], true, cell)[0]
            result[site] |= {
                "flagged": len(found[f"flagged_{site}"]),
                "flagged_true": int((again >= 0).sum()),
            }
        if f"cov_{site}" in found:
            variance = np.einsum("nii->ni", found[f"cov_{site}"][finite][rows[site][here]])
            pull = error[np.isfinite(variance)] / np.sqrt(variance[np.isfinite(variance)])
            result[site]["pull"] = float(pull.std())
    if "d" in found:
        row = _matched(found["cell"], truth.b, cell)[0]
        here = row >= 0
        d = found["d"][row[here]]
    else:
        here = (rows["B"] >= 0) & (rows["A"][truth.corners] >= 0).all(1)
        corners = positions["A"][rows["A"][truth.corners[here]]]
        d = corners.mean(1) - positions["B"][rows["B"][here]]
    rms = float(np.sqrt(((d - truth.d[here]) ** 2).mean()))
    best = float(np.hypot(bounds[0] / 2, bounds[1]))
    result["d"] = {"cells": int(here.sum()), "rmse_px": rms, "rmse_over_bound": rms / best}
    columns = result["A"]["found"] + result["B"]["found"]
    for key in ("seconds", "seconds_cpu", "seconds_cpu_given_lattice", "seconds_warm_up", "peak_mb"):
        if key in found:
            result[key] = float(found[key])
    return result | {
        "columns_per_cpu_second": columns / result["seconds_cpu"],
        "version": str(found["version"]),
    }


def median(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Entry by entry, over seeds."""
    result: dict[str, Any] = {}
    for key, value in scores[0].items():
        values = [score[key] for score in scores]
        if isinstance(value, dict):
            result[key] = median(values)
        else:
            result[key] = value if isinstance(value, str) else float(np.median(values))
    return result


def _matched(place: np.ndarray, true: np.ndarray, cell: float) -> tuple[np.ndarray, int, int]:
    """Row of the found column nearest to each true one (−1: none), and how many are false and duplicate."""
    row = np.full(len(true), -1)
    if not len(place):
        return row, 0, 0
    distance, nearest = KDTree(true).query(place)
    near = np.flatnonzero(distance < _NEAR * cell)
    order = near[np.argsort(-distance[near])]  # the closest comes last and stays
    row[nearest[order]] = order
    return row, len(place) - len(near), len(near) - int((row >= 0).sum())
