"""Honest intervals, and knowing what one does not know: split-conformal factors, and a distance to what is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dcnn._errors import ModelError
from dcnn._model import Model
from dcnn._targets import channels, vectors

_BINS = 6  # of the expected error: what is sharp and what is vague are calibrated apart
_LIMIT = 0.99  # share of known cells, and of known images, with a novelty below 1
_LEAST = 50  # labels a bin
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
    whole = float(distance.mean() / limits["image_limit"]) if len(distance) else float("nan")
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
            ratio = np.sort(error[rows] / sigma[rows])
            rank = min(int(np.ceil(coverage * (len(ratio) + 1))), len(ratio)) - 1
            middles.append(float(np.log(np.maximum(np.median(sigma[rows]), 1e-12))))
            factors.append(float(ratio[rank]))
        of_channel[name] = {"log_std": middles, "factor": factors}
    return {"coverage": coverage, "channels": of_channel, "labels": len(errors)}


def reference_of(features: list[NDArray[np.float32]]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Limits for the card, and the mean and whitening of features (cell, f) of images, for the model."""
    every = np.concatenate(features).astype(float)
    mean, whitening = _whitened(every)
    images = [float(_distance(one, mean, whitening).mean()) for one in features if len(one)]
    limits = {
        "cell_limit": float(np.quantile(_distance(every, mean, whitening), _LIMIT)),
        "image_limit": float(np.quantile(images, _LIMIT)),
        "cells": len(every),
        "images": len(images),
    }
    extra = {"mean": mean, "whitening": whitening}
    return limits, {k: torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32)) for k, v in extra.items()}


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
