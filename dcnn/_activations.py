"""Layer by layer: what a network makes of windows, and what can be read from each of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn

from dcnn._errors import ModelError
from dcnn._model import Model
from dcnn._readout import as_windows, batches, network_on_windows

_RIDGES = np.logspace(-6, 3, 19)  # relative to the mean variance that the samples share


def layers(model: Model) -> dict[str, nn.Module]:
    """Convolutions and dense layers of a network in the order of its modules: "conv1", "conv2", …, "dense1", ….

    Raises
    ------
    ModelError
        If the network does not see single windows.
    """
    found: dict[str, nn.Module] = {}
    for kind, name in ((nn.Conv2d, "conv"), (nn.Linear, "dense")):
        modules = [m for m in network_on_windows(model).modules() if isinstance(m, kind)]
        found |= {f"{name}{k}": module for k, module in enumerate(modules, 1)}
    return found


def activations(model: Model, windows: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """What every layer hands on to the next one.

    That is what the next layer reads: the layer's output after its nonlinearity, and after what a residual block
    adds. The last dense layer's is the network's answer itself, in standardised units.

    Parameters
    ----------
    model : Model
        Of network "baseline" or "residual".
    windows : ndarray, shape (n, pixels, pixels)
        From `sub_images`: ``intensity``, of zero mean and unit contrast.

    Returns
    -------
    dict of ndarray
        "conv1", "conv2", …: (n, map, row, col); "dense1", …: (n, unit). Dimensionless.

    Raises
    ------
    ModelError
        If the windows do not fit the model, or its network does not see single windows.
    """
    network, stack, named = network_on_windows(model), as_windows(model, windows), layers(model)
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in named}
    shape: dict[str, torch.Size] = {}
    ran: list[str] = []

    def before(name: str, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if ran:
            # What this layer reads is what the one before handed on, flattened perhaps.
            parts[ran[-1]].append(inputs[0].reshape(shape[ran[-1]]).cpu().numpy())

    def after(name: str, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        shape[name] = output.shape
        ran.append(name)

    hooks = [module.register_forward_pre_hook(partial(before, name)) for name, module in named.items()]
    hooks += [module.register_forward_hook(partial(after, name)) for name, module in named.items()]
    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            for part in batches(stack):
                ran.clear()
                output = network(part.to(device))
                parts[ran[-1]].append(output.reshape(shape[ran[-1]]).cpu().numpy())
    finally:
        for hook in hooks:
            hook.remove()
    return {name: np.concatenate(values) for name, values in parts.items()}


def probe_layers(
    model: Model,
    windows: NDArray[Any],
    labels: Mapping[str, NDArray[Any]],
    held_out: NDArray[np.bool_],
) -> xr.Dataset:
    """How well quantities can be read linearly from each layer, on cells held out.

    One ridge regression for each layer and quantity, after Alain and Bengio 2016 (arXiv:1610.01644): trained on the other
    cells, its strength chosen by leaving each of those out in turn. A layer that computes a quantity lets a straight
    line read it; one that has thrown it away does not, whatever the network answers.

    Parameters
    ----------
    model : Model
        Of network "baseline" or "residual".
    windows : ndarray, shape (n, pixels, pixels)
        From `sub_images`.
    labels : mapping of str to ndarray, shape (n,)
        Quantities to read, such as "d_x" (pm) and "tilt_x" (mrad), whether the network was trained on them or not.
    held_out : ndarray of bool, shape (n,)
        Cells to judge on; take them from other fields, or from beyond a guard band.

    Returns
    -------
    xarray.Dataset
        Dims (layer, quantity): ``r2``, 1 − mean square error / variance on the cells held out; coordinate ``layer``
        begins with "input", the window itself.

    Raises
    ------
    ModelError
        If windows or labels do not fit, or either part has fewer than 10 cells.
    """
    stack = as_windows(model, windows)
    held = np.asarray(held_out, dtype=bool)
    if held.shape != (len(stack),) or min(held.sum(), (~held).sum()) < 10:
        raise ModelError("held_out must tell for each window, and leave 10 or more cells on either side.")
    for name, values in labels.items():
        if np.shape(values) != (len(stack),) or not np.isfinite(values).all():
            raise ModelError(f"Label {name!r} must be one finite number a window.")
    wanted = np.column_stack([np.asarray(values, dtype=float) for values in labels.values()])
    seen = {"input": stack.numpy(), **activations(model, windows)}
    r2 = [_ridge_r2(values.reshape(len(stack), -1), wanted, held) for values in seen.values()]
    return xr.Dataset(
        {
            "r2": (
                ("layer", "quantity"),
                np.array(r2),
                {"units": "1", "long_name": "R² of a linear reading on cells held out"},
            )
        },
        coords={"layer": list(seen), "quantity": list(labels)},
        attrs={"cells": int((~held).sum()), "cells_held_out": int(held.sum())},
    )


def responses(values: NDArray[Any], labels: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Change of activations with each label, the others held fixed: slopes of one least-squares fit over the cells.

    Parameters
    ----------
    values : ndarray, shape (n, …)
        Activations of one layer.
    labels : mapping of str to ndarray, shape (n,)

    Returns
    -------
    dict of ndarray, shape (…)
        Per unit of the label. A label that does not vary gives zeros.
    """
    design = np.column_stack([np.asarray(v, dtype=float) - np.mean(v) for v in labels.values()])
    flat = np.asarray(values, dtype=float).reshape(len(values), -1)
    slopes = np.linalg.lstsq(design, flat - flat.mean(axis=0), rcond=None)[0]
    return {name: slope.reshape(np.shape(values)[1:]) for name, slope in zip(labels, slopes, strict=True)}


def _ridge_r2(x: NDArray[Any], y: NDArray[np.float64], held: NDArray[np.bool_]) -> NDArray[np.float64]:
    """R² (quantity,) of ridge regressions from features (n, feature); through the cells' Gram matrix, as cells are fewer."""
    x = x.astype(np.float64)
    x = x - x[~held].mean(axis=0)
    mean = y[~held].mean(axis=0)
    gram = x[~held] @ x[~held].T
    value, vector = np.linalg.eigh(gram)
    value = np.clip(value, 0.0, None)
    level = float(value.mean()) or 1.0
    turned = vector.T @ (y[~held] - mean)
    guess = np.empty((held.sum(), y.shape[1]))
    across = x[held] @ x[~held].T
    best = np.full(y.shape[1], np.inf)
    for ridge in _RIDGES * level:
        shrunk = turned / (value + ridge)[:, None]
        weights = vector @ shrunk
        # Leaving a cell out changes its residual by 1/(1 − leverage); both follow from one decomposition.
        left = weights / (vector**2 @ (1.0 / (value + ridge)))[:, None]
        error = np.square(left).mean(axis=0)
        better = error < best
        best = np.where(better, error, best)
        guess[:, better] = (across @ weights + mean)[:, better]
    wanted = y[held]
    spread = np.square(wanted - wanted.mean(axis=0)).mean(axis=0)
    missed = np.square(guess - wanted).mean(axis=0)
    return np.where(spread > 0, 1 - missed / np.where(spread > 0, spread, 1.0), np.nan)
