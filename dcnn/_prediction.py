"""Prediction, and how good it is on either side of the split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dcnn._calibration import calibrated, novelty_of
from dcnn._errors import ModelError
from dcnn._labels import Subset, cells_like, centres_of, labelled_windows, split_line
from dcnn._maps import map_places, read_map, resampled
from dcnn._model import CONVENTIONS, Model
from dcnn._responses import answer_image, answer_windows, tile_samples
from dcnn._targets import COMPONENTS, TARGETS, as_variables
from dcnn._windows import ANGSTROM, Centres, grid, sub_images

_SUBSETS: tuple[Subset, ...] = ("train", "test")

Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""


def predict(
    model: Model,
    image: xr.DataArray,
    centres: Centres | None = None,
    stride_angstrom: float | None = None,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Predict polar displacements from an image.

    Parameters
    ----------
    model : Model
        Its windows decide what is cut from the image.
    image : xarray.DataArray
        Dims ("y", "x"), coordinates in Å; any pixel size.
    centres : xarray.Dataset or array_like, optional
        B columns in Å (variables x and y, or shape (n, 2)); a centred model needs them. A model centred on A columns needs
        those (`with_columns`, or shape (n, 2)). A sliding or dense model makes its own grid where none are given.
    stride_angstrom : float, optional
        Distance between places of a sliding or dense model; defaults to that of the training, 2 Å for "dense".
    device : str
        "auto", or a name torch knows.
    progress : callable, optional
        Called as the work goes on, see `Progress`.

    Returns
    -------
    xarray.Dataset
        The columns of ``cells``: dim cell, ``x``, ``y`` (Å), ``index``, the row among the centres, ``d`` and ``d_std``, the
        error that the network expects (cell, component), pm; also ``tilt`` (mrad) and ``thickness`` (Å) where it
        was trained for them. A calibrated model adds ``d_interval`` etc., half widths of intervals that hold the share of
        the truth in attribute ``coverage``, and ``novelty``: 1 is as unlike the known as 1 % of known cells; the attribute
        of that name is the whole image's, and above `NOVEL` nothing here should be trusted. Lattice indices ``a`` and
        ``b`` and ``flag`` of given cells are handed on. Windows that leave the image, touch a pixel that is not
        finite or hold no contrast are left out and counted in the attributes ``left_out_*``.

    Raises
    ------
    ModelError
        If the image cannot be read, or the arguments belong to the other mode.
    """
    windows = model.windows
    dense = model.settings.network == "dense"
    if windows.mode == "centred" and not dense:
        if stride_angstrom is not None:
            raise ModelError(
                "The model was trained for mode 'centred' and takes no stride; pass centres instead."
            )
        if centres is None:
            raise ModelError(
                f"The model was trained for mode 'centred'; pass the centres of the {windows.site} columns."
            )
    elif centres is not None and stride_angstrom is not None:
        raise ModelError("Pass either centres or stride_angstrom, not both.")
    if centres is not None:
        xy = centres_of(centres, windows)
    elif dense and stride_angstrom is None:
        stride_angstrom = 2.0
        xy = grid(image, replace(windows, stride_angstrom=2.0))
    else:
        stride = windows.stride_angstrom if stride_angstrom is None else stride_angstrom
        xy = grid(image, replace(windows, stride_angstrom=stride))
    result, _ = answers_at(model, image, xy, device, progress)
    if isinstance(centres, xr.Dataset) and windows.site == "B":
        for name in ("a", "b", "flag"):
            if name in centres and centres[name].dims == ("cell",):
                result[name] = ("cell", centres[name].values[result["index"].values], centres[name].attrs)
    return result


def answers_at(
    model: Model, image: xr.DataArray, xy: NDArray[np.float64], device: str, progress: Progress | None = None
) -> tuple[xr.Dataset, NDArray[np.float32]]:
    """What `predict` returns for places ``xy`` (n, 2), Å, and the features (cell, f) that it came from."""
    windows = model.windows
    if model.settings.network == "dense":
        index, mean, std, features, left_out = _from_map(model, image, xy, device, progress)
    else:
        cut = sub_images(image, windows, xy)
        index, done = cut["index"].values, [0]

        def tick(n: int) -> None:
            done[0] += n
            if progress is not None:
                progress(done[0] / max(len(index), 1))

        mean, std, features = answer_windows(model, cut["intensity"].values, xy[index], device, tick)
        left_out = {str(name): value for name, value in cut.attrs.items() if str(name).startswith("left_out")}
    result = cells_like(xy[index], index)
    result = result.assign(_variables(model, mean, std)).assign_coords(component=list(COMPONENTS))
    result.attrs = {
        "conventions": CONVENTIONS,
        "mode": windows.mode,
        "network": model.settings.network,
        **left_out,
    }
    if "calibration" in model.card:
        cell, whole = novelty_of(model, features)
        result["novelty"] = (
            "cell",
            cell,
            {"units": "1", "long_name": "1: as unlike the known as 1 % of known cells"},
        )
        result.attrs |= {"novelty": whole, "coverage": float(model.card["calibration"]["coverage"])}
    return result, features


def predict_map(
    model: Model,
    image: xr.DataArray,
    stride_angstrom: float | None = None,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Map an image in one pass of a dense network, or by its sliding windows.

    Parameters
    ----------
    model : Model
        "dense", or of mode "sliding".
    image : xarray.DataArray
        Dims ("y", "x"), coordinates in Å; any size: large ones go through in overlapping tiles that fade into each other.
    stride_angstrom : float, optional
        Step of a sliding model, default that of its training; a dense one has 2 Å.
    device : str
    progress : callable, optional
        See `Progress`.

    Returns
    -------
    xarray.Dataset
        Dims (y, x[, component]) every 2 Å (or every stride): the variables of `predict`; NaN where the image is not finite.

    Raises
    ------
    ModelError
        If the image cannot be read or the model needs to know where columns are.
    """
    if model.settings.network != "dense":
        if model.windows.mode == "centred":
            raise ModelError(
                "A map needs a dense or sliding model; this one is centred on columns: use predict."
            )
        windows = replace(model.windows, stride_angstrom=stride_angstrom or model.windows.stride_angstrom)
        places = grid(image, windows)
        table = predict(model, image, places, device=device, progress=progress)
        x, y = np.unique(places[:, 0]), np.unique(places[:, 1])
        full = np.full((len(places), 0), np.nan)
        variables: dict[str, Any] = {}
        for name in table.data_vars:
            if name in ("x", "y", "index"):
                continue
            values = table[name].values.reshape(table.sizes["cell"], -1)
            full = np.full((len(places), values.shape[1]), np.nan)
            full[table["index"].values] = values
            shape = (len(y), len(x), *table[name].shape[1:])
            variables[str(name)] = (("y", "x", *table[name].dims[1:]), full.reshape(shape), table[name].attrs)
        attrs = table.attrs
    else:
        if stride_angstrom is not None:
            raise ModelError("A dense map has a place every 2 Å; leave out stride_angstrom, or use predict.")
        samples, origin, bad = resampled(image)
        mean, std, features = _map_answers(model, samples, device, progress)
        x, y = map_places(samples.shape, origin)
        hole = bad[::8, ::8]
        shape = mean.shape[:2]
        k = mean.shape[-1]
        mean[hole], std[hole] = np.nan, np.nan
        flat = _variables(model, mean.reshape(-1, k), std.reshape(-1, k))
        variables = {
            name: (("y", "x", *dims[1:]), values.reshape(*shape, *values.shape[1:]), extra)
            for name, (dims, values, extra) in flat.items()
        }
        attrs = {"conventions": CONVENTIONS, "network": "dense"}
        if "calibration" in model.card:
            cell, attrs["novelty"] = novelty_of(model, features.reshape(-1, features.shape[-1]))
            variables["novelty"] = (("y", "x"), cell.reshape(shape), {"units": "1"})
    length = {"units": ANGSTROM}
    coordinates = {"x": ("x", x, length), "y": ("y", y, length), "component": list(COMPONENTS)}
    return xr.Dataset(variables, coords=coordinates, attrs=attrs)


def _map_answers(
    model: Model, samples: NDArray[np.float32], device: str, progress: Progress | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
    whole, done = tile_samples((samples.shape[0], samples.shape[1])), [0]

    def tick(n: int) -> None:
        done[0] += n
        if progress is not None:
            progress(min(done[0] / whole, 1.0))

    return answer_image(model, samples, device, tick)


def _from_map(
    model: Model, image: xr.DataArray, xy: NDArray[np.float64], device: str, progress: Progress | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float32], dict[str, int]]:
    """A dense network's answers at places ``xy``: which of them it has, means, deviations, features, what is left out."""
    samples, origin, bad = resampled(image)
    mean, std, features = _map_answers(model, samples, device, progress)
    mean[bad[::8, ::8]] = np.nan
    x, y = map_places(samples.shape, origin)
    both = read_map(np.concatenate([mean, std, features], axis=-1), x, y, xy)
    k = len(model.mean)
    known = np.isfinite(both[:, 0])
    inside = ((xy >= [x[0], y[0]]) & (xy <= [x[-1], y[-1]])).all(axis=1)
    counts = {
        "left_out_border": int((~inside).sum()),
        "left_out_nan": int((inside & ~known).sum()),
        "left_out_flat": 0,
    }
    index = np.flatnonzero(known)
    both = both[index]
    return index, both[:, :k], both[:, k : 2 * k], both[:, 2 * k :].astype(np.float32), counts


def _variables(
    model: Model, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> dict[str, tuple[Any, ...]]:
    """Variables (cell[, component]) of a table."""
    made = as_variables(mean, model.targets) | as_variables(std, model.targets, "_std")
    if "calibration" in model.card:
        made |= as_variables(calibrated(model, std), model.targets, "_interval")
    return made


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
        Dim cell: ``x``, ``y`` (Å), ``index``, ``d_label`` and ``d`` (cell, component) in pm, other targets likewise, and
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
        # A dense network is read at the B columns, each side seen by itself.
        dense = model.settings.network == "dense"
        windows = replace(model.windows, mode="centred") if dense else model.windows
        cut = labelled_windows(image, cells, windows, subset=subset, split_x=split_x, targets=model.targets)
        if not cut.sizes["window"]:
            raise ModelError(
                f"No {subset} window lies beside the line x = {split_x:.4g} Å; pass another split_x."
            )
        xy = np.column_stack([cut["x"].values, cut["y"].values])
        if dense:
            side = image.x.values <= split_x
            own = image.isel(x=side if subset == "train" else ~side)
            known, mean, std, _, _ = _from_map(model, own, xy, model.settings.device, None)
            cut, xy = cut.isel(window=known), xy[known]
        else:
            mean, std, _ = answer_windows(model, cut["intensity"].values, xy, model.settings.device)
        label = cut["d_label"].values
        metrics[subset] = _metrics(label, mean[:, :2], model.mean[:2])
        part = cells_like(xy, cut["index"].values).assign(_variables(model, mean, std))
        for name in model.targets:
            dims = TARGETS[name].dims
            part[f"{name}_label"] = (dims, cut[f"{name}_label"].values, part[name].attrs)
        part["subset"] = ("cell", np.full(len(xy), subset), {"units": "1"})
        parts.append(part)
    dataset = xr.concat(parts, "cell", data_vars="minimal")
    dataset.attrs = {
        "conventions": CONVENTIONS,
        "mode": model.windows.mode,
        "network": model.settings.network,
        "split_x_angstrom": split_x,
        "size_angstrom": float(model.windows.size_angstrom),
    }
    return dataset, metrics


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
