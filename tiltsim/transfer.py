"""What synthetic pre-training is worth on a real image, measured against its own column fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

import dcnn

TRAININGS = ("scratch", "pre-trained", "fine-tuned")
"""Trained on the labels of this image alone; on synthetic fields alone; on these and then on the labels."""

Kept = Callable[[str, float, int, dcnn.Model], None]
"""Called with the training, the share, the repeat and the network of everything that was trained."""

#: Learning rate of fine-tuning, over that of the training that it goes on from; see :func:`fine_tuning`.
GENTLY = 1 / 8

_COMPONENTS = ["x", "y"]
_PM, _ONE = {"units": "pm"}, {"units": "1"}


@dataclass(frozen=True)
class _Score:
    """Test numbers of one network, (component,), and what it says of every window, (cell, component) pm."""

    rmse: NDArray[np.float64]
    bias: NDArray[np.float64]
    d: NDArray[np.float64]


def fine_tuning(start: dcnn.Model, **changes: Any) -> dcnn.TrainSettings:
    """Settings for going on with the training of ``start`` on the left 2/3 of one image.

    As for a network that begins anew, but with small batches, and an eighth of the learning rate of ``start``: with all of it, 24
    labelled cells of a synthetic field undid what was learned (from 2.8 to 6.5 pm rms; a quarter of it brings 1.4, a thirteenth
    1.6 pm). Windows are no longer shifted off their columns: labels fitted to an image belong to the very places that are
    fitted there.
    """
    one_image = dcnn.TrainSettings()
    names = (
        "epochs",
        "patience",
        "weight_decay",
        "train_fraction",
        "validation_fraction",
        "augment",
        "jitter_angstrom",
    )
    usual: dict[str, Any] = {name: getattr(one_image, name) for name in names}
    usual["batch_size"] = min(start.settings.batch_size, one_image.batch_size)
    usual["learning_rate"] = start.settings.learning_rate * GENTLY
    return replace(start.settings, **usual | changes)


def transfer_study(
    image: xr.DataArray,
    cells: xr.Dataset,
    start: dcnn.Model,
    settings: dcnn.TrainSettings | None = None,
    shares: Sequence[float] = (0.1, 0.25, 0.5, 1.0),
    *,
    scratch: dcnn.TrainSettings | None = None,
    repeats: int = 3,
    keep: Kept | None = None,
) -> xr.Dataset:
    """Test networks on the right part of an image, against the share of its left part that has labels.

    Labels are those of one band across the training area, as high as ``share`` of it: what somebody who labels
    an image bit by bit has. Its distance to the test area does not depend on the share, and each
    repeat draws its place anew. Windows that the split line crosses belong to neither side.

    Every training takes as many steps: ``epochs`` and ``patience`` count passes over all labels, and grow as the share shrinks.

    Labels are column fits, not the truth: no prediction of the *true* d can agree with them better than ``label_noise``.
    ``r2_corrected`` takes that noise off both error and variance. That is right for errors that are independent of the fit's; but network
    and fit see the same electrons, and a network that repeats the fit's noise exceeds 1. R² proper is the lower bound.

    Parameters
    ----------
    image : DataArray (y, x)
        Å.
    cells : Dataset
        As ``analysis.measure`` gives them: ``x``, ``y``, ``d``, ``flag``; without ``d_cov`` (cell, component, component_2;
        pm²) the noise is unknown.
    start : dcnn.Model
        The pre-trained network.
    settings : dcnn.TrainSettings, optional
        Of the fine-tuning, with the windows, network and targets of ``start``; default :func:`fine_tuning`.
    shares : sequence of float
        Above 0, up to 1.
    scratch : dcnn.TrainSettings, optional
        Of networks that begin anew; default ``TrainSettings`` for d with windows, network, split, seed and steps of
        ``settings``.
    repeats : int
        Draws of the labelled band, of weights and of batches.
    keep : callable, optional
        See `Kept`.

    Returns
    -------
    Dataset
        Dims (training, share, repeat, component): ``rmse`` and ``bias`` (prediction − label), pm, ``r2``, ``r2_corrected``, all on the test
        part; ``labelled`` (share, repeat), the number of labelled cells left of the line; of the test labels (component)
        ``label_std``, ``label_noise`` (pm), ``reliability`` (share of their variance that is not noise) and ``mean_rmse`` (pm),
        the error of always saying the mean of the training labels. Maps (cell): ``x``, ``y`` (Å), ``subset``, ``d_label`` and, of the first repeat,
        ``d`` (training, share, cell, component).

    Raises
    ------
    dcnn.ModelError
        If shares, repeats or settings do not fit, or a share leaves nothing to train on.
    """
    settings = settings or fine_tuning(start)
    scratch = scratch or dcnn.TrainSettings(
        windows=settings.windows,
        network=settings.network,
        epochs=settings.epochs,
        patience=settings.patience,
        train_fraction=settings.train_fraction,
        validation_fraction=settings.validation_fraction,
        batch_size=settings.batch_size,
        seed=settings.seed,
        device=settings.device,
        augment=settings.augment,
    )
    shares = [float(s) for s in shares]
    _check(start, settings, scratch, shares, repeats)
    line = dcnn.split_line(image, settings.train_fraction)
    truth, _ = dcnn.evaluate_split(start, image, cells, split_x=line)
    ready = _score(truth)

    shape = (len(TRAININGS), len(shares), repeats, 2)
    rmse, bias = np.empty(shape), np.empty(shape)
    maps = np.empty((len(TRAININGS), len(shares), truth.sizes["cell"], 2))
    labelled = np.empty((len(shares), repeats), dtype=int)
    for i, share in enumerate(shares):
        for k in range(repeats):
            part = _labelled_band(cells, share, np.random.default_rng([settings.seed, k]))
            for m, kind in enumerate(TRAININGS):
                score = ready
                if kind != "pre-trained":
                    asked = scratch if kind == "scratch" else settings
                    asked = _as_many_steps(replace(asked, seed=settings.seed + k), share)
                    model = _trained(image, part, asked, start if kind == "fine-tuned" else None)
                    score = _score(dcnn.evaluate_split(model, image, cells, split_x=line)[0])
                    if keep is not None:
                        keep(kind, share, k, model)
                rmse[m, i, k], bias[m, i, k] = score.rmse, score.bias
                if k == 0:
                    maps[m, i] = score.d
            labelled[i, k] = _training_cells(part, settings.windows, line)

    dims = ("training", "share", "repeat", "component")
    result = xr.Dataset(
        {
            "rmse": (dims, rmse, _PM | {"long_name": "RMS of prediction − label, test part"}),
            "bias": (dims, bias, _PM | {"long_name": "mean of prediction − label, test part"}),
            "labelled": (
                ("share", "repeat"),
                labelled,
                _ONE | {"long_name": "labelled cells of the training area"},
            ),
            "d": (("training", "share", "cell", "component"), maps, _PM),
            "d_label": truth["d_label"],
            "subset": truth["subset"],
            "x": truth["x"],
            "y": truth["y"],
        },
        coords={
            "training": list(TRAININGS),
            "share": ("share", shares, _ONE),
            "repeat": np.arange(repeats),
            "component": _COMPONENTS,
        },
        attrs={
            "conventions": "d = mean A − B, pm, x right, y down",
            "split_x_angstrom": line,
            "repeats": repeats,
            "seed": settings.seed,
        },
    )
    result = result.merge(_of_labels(truth, cells))
    variance, noise = result["label_std"] ** 2, result["label_noise"] ** 2
    result["r2"] = (1 - result["rmse"] ** 2 / variance).assign_attrs(_ONE)
    left = (variance - noise).where(result["reliability"] > 0)
    result["r2_corrected"] = (1 - (result["rmse"] ** 2 - noise) / left).assign_attrs(
        _ONE | {"long_name": "R² with the noise of labels taken off error and variance"}
    )
    return result


def best_map(study: xr.Dataset) -> tuple[str, float]:
    """Training and share of the smallest test error, both components and all repeats together."""
    error = (study["rmse"] ** 2).mean(["repeat", "component"]).transpose("training", "share").values
    m, i = np.unravel_index(int(error.argmin()), error.shape)
    return str(study["training"].values[m]), float(study["share"].values[i])


def _check(
    start: dcnn.Model,
    settings: dcnn.TrainSettings,
    scratch: dcnn.TrainSettings,
    shares: Sequence[float],
    repeats: int,
) -> None:
    if not shares or not all(0 < s <= 1 for s in shares):
        raise dcnn.ModelError(f"shares must be numbers above 0 and at most 1, not {list(shares)}.")
    if len(set(shares)) < len(shares):
        raise dcnn.ModelError(f"shares {list(shares)} must differ from each other.")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise dcnn.ModelError(f"repeats must be a whole number of at least 1, not {repeats!r}.")
    for name in ("windows", "network", "targets"):
        if getattr(settings, name) != getattr(start.settings, name):
            raise dcnn.ModelError(
                f"settings.{name} must be those of the pre-trained network; begin with fine_tuning(start)."
            )
    if scratch.windows != settings.windows or scratch.train_fraction != settings.train_fraction:
        raise dcnn.ModelError(
            "scratch must have the windows and the train_fraction of settings: else the tests differ."
        )
    if settings.train_fraction == 1:
        raise dcnn.ModelError("train_fraction must be below 1, so that a part is left for the test.")


def _labelled_band(cells: xr.Dataset, share: float, rng: np.random.Generator) -> xr.Dataset:
    """Cells of a band across the image, as high as ``share`` of the cells' extent."""
    y = np.asarray(cells["y"].values, dtype=float)
    low, high = y.min(), y.max()
    place = low + rng.random() * (1 - share) * (high - low)
    inside = (y >= place - 1e-9) & (y <= place + share * (high - low) + 1e-9)
    return cells.isel(cell=np.flatnonzero(inside))


def _as_many_steps(settings: dcnn.TrainSettings, share: float) -> dcnn.TrainSettings:
    """More passes over fewer windows, so that what is compared is the labels and not the number of steps."""
    epochs, patience = (round(n / share) for n in (settings.epochs, settings.patience))
    return replace(settings, epochs=epochs, patience=patience)


def _training_cells(cells: xr.Dataset, windows: dcnn.Windows, line: float) -> int:
    good = cells["flag"].values == 0 if "flag" in cells else np.ones(cells.sizes["cell"], dtype=bool)
    return int((good & (dcnn.split(cells, windows, line) == "train")).sum())


def _trained(
    image: xr.DataArray, cells: xr.Dataset, settings: dcnn.TrainSettings, start: dcnn.Model | None
) -> dcnn.Model:
    return dcnn.train(image, cells, settings, start=start)


def _score(compared: xr.Dataset) -> _Score:
    test = compared["subset"].values == "test"
    d = compared["d"].values
    error = (d - compared["d_label"].values)[test]
    return _Score(np.sqrt(np.square(error).mean(axis=0)), error.mean(axis=0), d)


def _of_labels(compared: xr.Dataset, cells: xr.Dataset) -> xr.Dataset:
    """How much the test labels vary, and how much of that is the noise that fits state."""
    test = compared["subset"].values == "test"
    label = compared["d_label"].values
    spread = label[test].std(axis=0)
    noise = np.full(2, np.nan)
    if "d_cov" in cells:
        variance = np.stack(
            [cells["d_cov"].sel(component=c, component_2=c).values for c in _COMPONENTS], axis=1
        )
        known = np.flatnonzero(np.isfinite(variance).all(axis=1))
        tree = cKDTree(np.column_stack([cells["x"].values, cells["y"].values])[known])
        # A sliding window has no cell of its own: the nearest one's noise is an upper bound of its interpolated label's.
        at = np.column_stack([compared["x"].values, compared["y"].values])[test]
        noise = np.sqrt(variance[known][tree.query(at)[1]].mean(axis=0))
    constant = label[~test].mean(axis=0)
    mean_rmse = np.sqrt(np.square(label[test] - constant).mean(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        reliability = 1 - noise**2 / spread**2
    return xr.Dataset(
        {
            "label_std": ("component", spread, _PM),
            "label_noise": ("component", noise, _PM | {"long_name": "rms standard error of the fits"}),
            "reliability": ("component", reliability, _ONE),
            "mean_rmse": ("component", mean_rmse, _PM),
        },
        coords={"component": _COMPONENTS},
    )
