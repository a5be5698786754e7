"""Honest intervals, and knowing what one does not know: split-conformal factors, and a distance to what is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dcnn._errors import ModelError
from dcnn._model import Model
from dcnn._targets import channels, vectors

NOVEL = 1.5
"""Novelty of an image above which nothing that is said of it should be trusted. Of the known mixture 1 % exceed 1; an image from one corner of
it may reach 1.5 and still be predicted as well as the calibration promises, and what is strange begins at 1.7 (docs/networks.md)."""

_BINS = 6  # of the expected error: what is sharp and what is vague are calibrated apart
_LIMIT = 0.99  # share of known cells, and of known images, with a novelty below 1
_LEAST = 50  # labels a bin
_FEW, _DRAWS = (1, 4, 20, 100), 50  # cells of small images, and how many are drawn from each known one
_FLOOR = 1e-4  # of the mean variance of features: below lies rounding


def calibrated(model: Model, std: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half widths (n, channel) of intervals for expected errors (n, channel)."""
    widths = np.empty_like(std)
    for name, column in zip(channels(model.targets), range(std.shape[1]), strict=True):
        bins = model.card["calibration"]["channels"][name]
        at = np.log(np.maximum(std[:, column], 1e-12))
        widths[:, column] = std[:, column] * np.interp(at, bins["log_std"], bins["factor"])
    return widths


def novelty_of(model: Model, features: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Novelty of cells (n,) and of their image, from features (n, f)."""
    limits = model.card["novelty"]
    distance = _distance(
        features, *(model.extra[name].numpy().astype(float) for name in ("mean", "whitening"))
    )
    whole = float("nan")
    if len(distance):
        of = limits["image_limits"]
        whole = float(distance.mean() / np.interp(np.log(len(distance)), np.log(of["cells"]), of["limit"]))
    return distance / limits["cell_limit"], whole


def factors_of(
    errors: NDArray[np.float64], expected: NDArray[np.float64], model: Model, coverage: float
) -> dict[str, Any]:
    """Factors on expected errors (n, channel), by class of expected error, that make intervals of ``errors``; for the card."""
    names = channels(model.targets)
    groups: dict[int, tuple[int, ...]] = {i: (i,) for i in range(len(names))}
    for x, y in vectors(model.targets):
        groups[x] = groups[y] = (x, y)  # a square crystal knows no difference
    of_channel = {}
    for i, name in enumerate(names):
        error, sigma = (v[:, list(groups[i])].ravel() for v in (np.abs(errors), expected))
        known = np.isfinite(error)
        error, sigma = error[known], sigma[known]
        if len(error) < _LEAST:
            raise ModelError(f"{len(error)} labels of {name} are too few to calibrate on; pass more fields.")
        bins = max(1, min(_BINS, len(error) // _LEAST))
        order = np.argsort(sigma, kind="stable")
        middles, factors = [], []
        for rows in np.array_split(order, bins):
            middles.append(float(np.log(np.maximum(np.median(sigma[rows]), 1e-12))))
            factors.append(_upper(error[rows] / sigma[rows], coverage))
        of_channel[name] = {"log_std": middles, "factor": factors}
    return {"coverage": coverage, "channels": of_channel, "labels": len(errors)}


def _upper(values: NDArray[np.float64], share: float) -> float:
    """What one more value will not exceed with a probability of ``share``, as long as there are values enough; else the largest."""
    rank = min(int(np.ceil(share * (len(values) + 1))), len(values)) - 1
    return float(np.sort(values)[rank])


def reference_of(features: list[NDArray[np.float32]]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Limits for the card, and the mean and whitening of features (cell, f) of images, for the model."""
    every = np.concatenate(features).astype(float)
    mean, whitening = _whitened(every)
    images = [_distance(one, mean, whitening) for one in features if len(one)]
    limits = {
        "cell_limit": _upper(np.concatenate(images), _LIMIT),
        "image_limits": _image_limits(images),
        "cells": len(every),
        "images": len(images),
    }
    extra = {"mean": mean, "whitening": whitening}
    return limits, {k: torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32)) for k, v in extra.items()}


def _image_limits(images: list[NDArray[np.float64]]) -> dict[str, list[float]]:
    """Limits of the mean distance for images of few cells, in which it scatters, to whole ones."""
    rng = np.random.default_rng(0)
    whole = int(np.median([len(one) for one in images]))
    cells: list[float] = []
    limits: list[float] = []
    for number in (n for n in _FEW if n < whole):
        means = [
            rng.choice(one, number).mean() for one in images if len(one) >= number for _ in range(_DRAWS)
        ]
        cells.append(number)
        limits.append(_upper(np.array(means), _LIMIT))
    cells.append(whole)
    limits.append(_upper(np.array([one.mean() for one in images]), _LIMIT))
    return {"cells": cells, "limit": limits}


def _whitened(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (f,) and a matrix (f, f) that makes the covariance one; directions of hardly any variance count as if they had some."""
    mean = values.mean(axis=0)
    spread, axes = np.linalg.eigh(np.cov(values.T))
    floor = _FLOOR * max(float(spread.mean()), 1e-12)
    return mean, axes / np.sqrt(np.maximum(spread, floor))


def _distance(
    values: NDArray[Any], mean: NDArray[np.float64], whitening: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.sqrt(np.square((values - mean) @ whitening).mean(axis=1))
