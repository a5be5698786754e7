"""Prediction, and how good it is on either side of the split."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from dcnn._errors import ModelError
from dcnn._labels import COMPONENTS, Subset, cells_like, labelled_windows, split_line
from dcnn._model import CONVENTIONS, Model
from dcnn._network import device_named, run
from dcnn._windows import Centres, grid, positions, sub_images

_SUBSETS: tuple[Subset, ...] = ("train", "test")


def predict(
    model: Model,
    image: xr.DataArray,
    centres: Centres | None = None,
    stride_angstrom: float | None = None,
    *,
    device: str = "auto",
) -> xr.Dataset:
    """Predict polar displacements from an image.

    Parameters
    ----------
    model : Model
        Its windows decide what is cut from the image.
    image : xarray.DataArray
        Dims ("y", "x"), coordinates in Å; any pixel size.
    centres : xarray.Dataset or array_like, optional
        B columns in Å (variables x and y, or shape (n, 2)); a centred model needs them. A sliding model
        makes its own grid where none are given.
    stride_angstrom : float, optional
        Distance between sliding windows; defaults to that of the training.
    device : str
        "auto", or a name torch knows.

    Returns
    -------
    xarray.Dataset
        The columns of ``cells``: dim cell, ``x``, ``y`` (Å), ``d`` (cell, component) in pm, and
        ``index``, the row among the centres. Windows that leave the image, touch a pixel that is not
        finite or hold no contrast are left out and counted in the attributes ``left_out_*``.

    Raises
    ------
    ModelError
        If the image cannot be read, or the arguments belong to the other mode.
    """
    windows = model.windows
    if windows.mode == "centred":
        if stride_angstrom is not None:
            raise ModelError(
                "The model was trained for mode 'centred' and takes no stride; pass centres instead."
            )
        if centres is None:
            raise ModelError("The model was trained for mode 'centred'; pass the centres of the B columns.")
    elif centres is not None and stride_angstrom is not None:
        raise ModelError("Pass either centres or stride_angstrom, not both.")
    if centres is not None:
        xy = positions(centres)
    else:
        stride = windows.stride_angstrom if stride_angstrom is None else stride_angstrom
        xy = grid(image, replace(windows, stride_angstrom=stride))
    cut = sub_images(image, windows, xy)
    index = cut["index"].values
    result = cells_like(xy[index], index, d=_apply(model, cut["intensity"].values, device))
    result.attrs = {
        "conventions": CONVENTIONS,
        "mode": windows.mode,
        **{name: value for name, value in cut.attrs.items() if str(name).startswith("left_out")},
    }
    return result


def evaluate_split(
    model: Model, image: xr.DataArray, cells: xr.Dataset, *, split_x: float | None = None
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Compare predictions with labels, left and right of the split.

    Windows in the guard band belong to neither side. "train" means left of the line; it includes the
    windows held back for validation.

    Parameters
    ----------
    model : Model
        A trained model.
    image, cells : xarray.DataArray, xarray.Dataset
        The field, usually the one it was trained on.
    split_x : float, optional
        Line in Å; defaults to the train_fraction of the training, of this image's width.

    Returns
    -------
    dataset : xarray.Dataset
        Dim cell: ``x``, ``y`` (Å), ``index``, ``d_label`` and ``d`` (cell, component) in pm, and
        ``subset`` ("train" or "test"); attribute ``split_x_angstrom``.
    metrics : dict
        JSON-able, one dict a subset: ``n``, and for components x and y ``rmse_pm``, ``bias_pm`` (mean of
        prediction − label), ``r2`` (None where labels do not vary) and ``baseline_rmse_pm`` (the error of
        predicting the mean training label everywhere).

    Raises
    ------
    ModelError
        If the field cannot be read, or a side of the line holds no window.
    """
    if split_x is None:
        split_x = split_line(image, model.settings.train_fraction)
    parts: list[xr.Dataset] = []
    metrics: dict[str, Any] = {}
    for subset in _SUBSETS:
        cut = labelled_windows(image, cells, model.windows, subset=subset, split_x=split_x)
        if not cut.sizes["window"]:
            raise ModelError(
                f"No {subset} window lies beside the line x = {split_x:.4g} Å; pass another split_x."
            )
        label = cut["d_label"].values
        d = _apply(model, cut["intensity"].values, model.settings.device)
        metrics[subset] = _metrics(label, d, np.asarray(model.card["label_mean_pm"]))
        xy = np.column_stack([cut["x"].values, cut["y"].values])
        part = cells_like(xy, cut["index"].values, d_label=label, d=d)
        part["subset"] = ("cell", np.full(len(xy), subset), {"units": "1"})
        parts.append(part)
    dataset = xr.concat(parts, "cell", data_vars="minimal")
    dataset.attrs = {
        "conventions": CONVENTIONS,
        "mode": model.windows.mode,
        "split_x_angstrom": split_x,
        "size_angstrom": float(model.windows.size_angstrom),
    }
    return dataset, metrics


def _apply(model: Model, stack: NDArray[np.float32], device: str) -> NDArray[np.float64]:
    """Displacements (n, 2) in pm for windows (n, pixels, pixels)."""
    place = device_named(device)
    # The user's model stays where it is; a copy goes to the GPU.
    network = model.network if place.type == "cpu" else copy.deepcopy(model.network).to(place)
    output = run(network, torch.from_numpy(stack).to(place)).cpu().numpy().astype(float)
    return output * model.card["label_scale_pm"] + np.asarray(model.card["label_mean_pm"])


def _metrics(
    label: NDArray[np.float64], d: NDArray[np.float64], training_mean: NDArray[np.float64]
) -> dict[str, Any]:
    error = d - label
    spread = label.var(axis=0)
    r2 = [1 - e / s if s > 0 else None for e, s in zip(np.square(error).mean(axis=0), spread, strict=True)]

    def named(values: Any) -> dict[str, float | None]:
        return {c: None if v is None else float(v) for c, v in zip(COMPONENTS, values, strict=True)}

    return {
        "n": len(label),
        "rmse_pm": named(np.sqrt(np.square(error).mean(axis=0))),
        "bias_pm": named(error.mean(axis=0)),
        "r2": named(r2),
        "baseline_rmse_pm": named(np.sqrt(np.square(label - training_mean).mean(axis=0))),
    }
