"""From the scores of fields to those of conditions, with standard errors from drawing fields anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import dcnn
from tiltsim.evaluation.scoring import QUANTITIES, FieldScore

Floats = NDArray[np.float64]

#: Times that fields are drawn anew, and the seed of it.
DRAWS, BOOTSTRAP_SEED = 1000, 20250

#: What each number is; {q} stands for d, tilt or thickness, and the unit "q" for its unit.
MEANING: dict[str, tuple[str, str]] = {
    "rmse": ("q", "root mean square of prediction − truth over the cells of all fields"),
    "spread": ("q", "root mean square of the deviation of a cell's error from the mean error of its field"),
    "bias": ("q", "mean over fields of the field's mean error"),
    "bias_along": ("q", "mean over fields of the field's mean error, along the azimuth of the tilt or of coma"),
    "bias_across": ("q", "the same, across it: 90° further from +x towards +y"),
    "bias_abs": ("q", "mean over fields of the length of the field's mean error vector; nothing is taken off"),
    "bias_floor": ("q", "what bias_abs would be without any bias, if the spread were independent from cell to cell"),
    "coverage": ("1", "share of the components whose truth lies within the interval meant to hold 90 % of them"),
    "width": ("q", "mean half width of that interval"),
    "gain": ("1", "slope of prediction against truth among the cells of a field"),
}  # fmt: skip

_AXES = ("x", "y")


def statistics(scores: Sequence[FieldScore], azimuths: Floats, weights: Floats) -> dict[str, Floats]:
    """Statistics of the fields of a condition under several sets of weights.

    Parameters
    ----------
    scores : sequence of FieldScore
    azimuths : ndarray, shape (fields,)
        Of the direction that counts as "along", degrees from +x towards +y.
    weights : ndarray, shape (draws, fields)
        How often each field counts.

    Returns
    -------
    dict of str to ndarray
        Shape (draws,), under names such as ``d_rmse``, ``d_rmse_x``; NaN where nothing is known.
    """
    out: dict[str, Floats] = {}
    angle = np.radians(azimuths)
    with np.errstate(invalid="ignore", divide="ignore"):
        for quantity in QUANTITIES:
            for name, value in _of_quantity(quantity, scores, angle, weights).items():
                out[f"{quantity}_{name}"] = value
        seen = np.array([s.cells for s in scores])
        out["predicted"] = weights @ np.array([s.d.n for s in scores]) / (weights @ seen)
        out["lattice_found"] = weights @ np.array([s.found for s in scores]) / weights.sum(axis=1)
        novelty = np.array([s.novelty for s in scores])
        known = np.isfinite(novelty)
        out["novel"] = weights[:, known] @ (novelty[known] > dcnn.NOVEL) / weights[:, known].sum(axis=1)
    return out


def _of_quantity(
    quantity: str, scores: Sequence[FieldScore], angle: Floats, weights: Floats
) -> dict[str, Floats]:
    parts = [getattr(s, quantity) for s in scores]
    n = np.array([p.n for p in parts])
    error, square = np.stack([p.error for p in parts]), np.stack([p.square for p in parts])
    known = n > 0
    mean = np.where(known[:, None], error / np.where(known, n, 1)[:, None], 0.0)
    inner = np.maximum(square - n[:, None] * mean**2, 0.0)
    cells, fields = weights @ n, weights @ known
    components = error.shape[1]
    out = {
        "rmse": np.sqrt((weights @ square).sum(axis=1) / (components * cells)),
        "spread": np.sqrt((weights @ inner).sum(axis=1) / (components * cells)),
    }
    if quantity == "thickness":
        out["bias"] = weights @ mean[:, 0] / fields
        lengths = np.abs(mean[:, 0])
        floor = np.sqrt(2.0 / np.pi)
    else:
        for k, axis in enumerate(_AXES):
            out[f"rmse_{axis}"] = np.sqrt((weights @ square)[:, k] / cells)
            out[f"bias_{axis}"] = weights @ mean[:, k] / fields
        along = mean[:, 0] * np.cos(angle) + mean[:, 1] * np.sin(angle)
        across = mean[:, 1] * np.cos(angle) - mean[:, 0] * np.sin(angle)
        out["bias_along"], out["bias_across"] = weights @ along / fields, weights @ across / fields
        lengths = np.hypot(*mean.T)
        floor = np.sqrt(np.pi / 2.0)
    out["bias_abs"] = weights @ lengths / fields
    # Mean length of a Gaussian vector whose components have the standard error of a field's mean.
    each = np.where(n > 1, np.sqrt(inner.sum(axis=1) / components / np.maximum(n * (n - 1), 1)), 0.0)
    out["bias_floor"] = floor * (weights @ each) / fields
    intervals = weights @ np.array([p.intervals for p in parts])
    hits, widths = (weights @ np.stack([getattr(p, name) for p in parts]) for name in ("hits", "widths"))
    out["coverage"] = hits.sum(axis=1) / (components * intervals)
    out["width"] = widths.sum(axis=1) / (components * intervals)
    if components == 2:
        for k, axis in enumerate(_AXES):
            out[f"coverage_{axis}"] = hits[:, k] / intervals
    if quantity == "d":  # tilt and thickness do not vary within a field
        out["gain"] = (weights @ np.array([p.common_scatter for p in parts])) / (
            weights @ np.array([p.truth_scatter for p in parts])
        )
    return out


def resampled(fields: int) -> Floats:
    """Weights of fields: all once, then drawn with replacement; shape (1 + draws, fields).

    Errors within a field are correlated (one thickness, one tilt), so that fields and not cells are drawn. All estimators
    and conditions are drawn alike.
    """
    rng = np.random.default_rng([BOOTSTRAP_SEED, fields])
    drawn = rng.multinomial(fields, np.full(fields, 1.0 / fields), size=DRAWS)
    return np.concatenate([np.ones((1, fields)), drawn.astype(float)])


def with_errors(scores: Sequence[FieldScore], azimuths: Floats) -> dict[str, tuple[float, float]]:
    """Each statistic of a condition with its standard error; NaN for a single field."""
    table = statistics(scores, azimuths, resampled(len(scores)))
    return {name: (float(value[0]), _scatter(value[1:], len(scores))) for name, value in table.items()}


def _scatter(values: Floats, fields: int) -> float:
    """Standard error from draws; a sample of n scatters less around its own mean than around the truth."""
    values = values[np.isfinite(values)]
    if fields < 2 or len(values) < DRAWS // 2:
        return float("nan")
    return float(values.std() * np.sqrt(fields / (fields - 1)))


def field_values(one: FieldScore) -> dict[str, Any]:
    """Numbers of a single field, for the dataset: mean error and root mean square error of each quantity."""
    out: dict[str, Any] = {"predicted": one.d.n / one.cells if one.cells else np.nan, "novelty": one.novelty}
    for quantity in QUANTITIES:
        sums = getattr(one, quantity)
        n = sums.n or np.nan
        out[f"{quantity}_bias"] = sums.error / n
        out[f"{quantity}_rmse"] = float(np.sqrt(sums.square.sum() / (len(sums.square) * n)))
        intervals = sums.intervals or np.nan
        out[f"{quantity}_coverage"] = float(sums.hits.sum() / (len(sums.hits) * intervals))
    return out


def unit_of(name: str) -> str:
    """Unit of a statistic by its name."""
    quantity, _, rest = name.partition("_")
    if quantity not in QUANTITIES:
        return "1"
    unit = MEANING[_stem(rest)][0]
    return QUANTITIES[quantity][1] if unit == "q" else unit


def meaning_of(name: str) -> str:
    """What a statistic is, in words."""
    plain = {
        "predicted": "share of the true cells that have a prediction",
        "lattice_found": "share of the fields in which column fitting found the lattice",
        "novel": "share of the fields that the network flags as unlike its training",
    }
    quantity, _, rest = name.partition("_")
    if quantity not in QUANTITIES:
        return plain[name]
    axis = rest.rpartition("_")[2]
    return f"{quantity}: {MEANING[_stem(rest)][1]}" + (f", {axis} alone" if axis in _AXES else "")


def _stem(rest: str) -> str:
    return rest if rest in MEANING else rest.rpartition("_")[0]


def assemble(columns: dict[str, Floats]) -> xr.Dataset:
    """Dataset of statistics (estimator, condition), their errors named ``…_sem``, with units and meanings."""
    dataset = xr.Dataset()
    for name, values in columns.items():
        stem = name.removesuffix("_sem")
        text = meaning_of(stem)
        if stem != name:
            text = f"standard error, fields drawn anew: {text}"
        dataset[name] = (("estimator", "condition"), values, {"units": unit_of(stem), "long_name": text})
    return dataset
