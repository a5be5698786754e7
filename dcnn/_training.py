"""Training: fields in, model out, with no random number that is not seeded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, overload

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dcnn._errors import ModelError
from dcnn._labels import labelled_windows, split_line
from dcnn._model import CONVENTIONS, FORMAT, Model
from dcnn._network import Regressor, device_named, initialised, run
from dcnn._settings import TrainSettings

Field = tuple[xr.DataArray, xr.Dataset]
"""An image and its cells."""

Progress = Callable[[int, Mapping[str, float]], None]
"""Called after each epoch with its number (from 1) and ``train_rmse_pm``, ``validation_rmse_pm``."""

_WEIGHT_DECAY = 0.3  # a thousand windows with noise invite memorising; 0.01 cost 10 to 25 % in test error


@dataclass(frozen=True)
class _Samples:
    """Windows of all fields: stack (n, pixels, pixels), labels (n, 2) pm, centres (n, 2) Å, field (n,)."""

    stack: NDArray[np.float32]
    labels: NDArray[np.float64]
    xy: NDArray[np.float64]
    field: NDArray[np.int64]


@overload
def train(
    image: xr.DataArray,
    cells: xr.Dataset,
    settings: TrainSettings | None = None,
    *,
    progress: Progress | None = None,
) -> Model: ...


@overload
def train(
    image: Sequence[Field],
    cells: TrainSettings | None = None,
    settings: TrainSettings | None = None,
    *,
    progress: Progress | None = None,
) -> Model: ...


def train(
    image: xr.DataArray | Sequence[Field],
    cells: xr.Dataset | TrainSettings | None = None,
    settings: TrainSettings | None = None,
    *,
    progress: Progress | None = None,
) -> Model:
    """Train a network on the left part of one or more fields.

    Call ``train(image, cells, settings)`` or ``train([(image, cells), ...], settings)``.

    The loss is the mean squared error of both components in pm: an error counts the same along x and y.
    The network of the epoch with the smallest validation error is kept.

    Parameters
    ----------
    image : xarray.DataArray or sequence of (image, cells)
        Dims ("y", "x"), coordinates in Å.
    cells : xarray.Dataset
        ``x``, ``y`` (Å, the B column) and ``d`` (cell, component) in pm, the mean of the surrounding A
        columns − the B column. Cells with a nonzero ``flag`` are left out.
    settings : TrainSettings, optional
        Defaults to ``TrainSettings()``.
    progress : callable, optional
        Called after each epoch, see `Progress`.

    Returns
    -------
    Model
        On the CPU, whatever it was trained on.

    Raises
    ------
    ModelError
        If a field cannot be read, or no window is left to train on.
    """
    if isinstance(image, xr.DataArray):
        if not isinstance(cells, xr.Dataset):
            raise ModelError("An image needs its cells; call train(image, cells, settings).")
        fields: list[Field] = [(image, cells)]
    else:
        fields = list(image)
        if isinstance(cells, TrainSettings):
            settings = cells
        elif cells is not None:
            raise ModelError(
                "Several fields bring their own cells; call train([(image, cells), ...], settings)."
            )
    settings = settings or TrainSettings()

    lines = [split_line(image, settings.train_fraction) for image, _ in fields]
    samples = _gather(fields, lines, settings)
    validation, training = _hold_back(samples, settings)
    mean = samples.labels[training].mean(axis=0)
    # One scale for both components keeps the loss isotropic; the floor serves labels that do not vary.
    scale = max(float(np.sqrt(samples.labels[training].var(axis=0).mean())), 1e-3)
    generator = torch.Generator().manual_seed(settings.seed)
    network = initialised(settings.windows.pixels, generator)
    standardised = ((samples.labels - mean) / scale).astype(np.float32)
    history, best = _fit(
        network,
        samples.stack,
        standardised,
        training,
        validation,
        mean / scale,
        scale,
        settings,
        generator,
        progress,
    )
    card: dict[str, Any] = {
        "format": FORMAT,
        "version": _version(),
        "conventions": CONVENTIONS,
        "settings": asdict(settings),
        "label_mean_pm": [float(v) for v in mean],
        "label_scale_pm": scale,
        "fields": [
            {"split_x_angstrom": line, "windows": int((samples.field == k).sum())}
            for k, line in enumerate(lines)
        ],
        "training": {
            "n_train": len(training),
            "n_validation": len(validation),
            "best_epoch": best,
            "train_rmse_pm": [row["train_rmse_pm"] for row in history],
            "validation_rmse_pm": [row["validation_rmse_pm"] for row in history if len(validation)],
            "baseline_rmse_pm": _rms(samples.labels[validation if len(validation) else training] - mean),
        },
    }
    return Model(network.eval(), card)


def _gather(fields: Sequence[Field], lines: Sequence[float], settings: TrainSettings) -> _Samples:
    if not fields:
        raise ModelError("There is no field to train on; pass at least one (image, cells).")
    parts = [
        labelled_windows(image, cells, settings.windows, subset="train", split_x=line)
        for (image, cells), line in zip(fields, lines, strict=True)
    ]
    samples = _Samples(
        np.concatenate([part["intensity"].values for part in parts]),
        np.concatenate([part["d_label"].values for part in parts]),
        np.concatenate([np.column_stack([part["x"].values, part["y"].values]) for part in parts]),
        np.repeat(np.arange(len(parts)), [part.sizes["window"] for part in parts]),
    )
    if not len(samples.labels):
        raise ModelError(
            "No window is left to train on; check that unflagged cells lie in the image, left of the split."
        )
    return samples


def _hold_back(samples: _Samples, settings: TrainSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose validation windows in whole blocks, and training windows that overlap none of them.

    Single windows drawn at random would share most of their pixels, noise included, with training
    windows beside them, and the validation error would then reward overfitting.
    """
    everything = np.arange(len(samples.labels))
    if settings.validation_fraction == 0:
        return everything[:0], everything
    size = settings.windows.size_angstrom
    block = max(min(4 * size, float(np.ptp(samples.xy, axis=0).max()) / 4), 1e-9)
    keys = np.column_stack([samples.field, np.floor(samples.xy / block).astype(int)])
    _, label = np.unique(keys, axis=0, return_inverse=True)
    count = np.bincount(label.ravel())
    order = np.random.default_rng(settings.seed).permutation(len(count))
    wanted = settings.validation_fraction * len(everything)
    taken = order[: int(np.searchsorted(count[order].cumsum(), wanted)) + 1]
    held = np.isin(label.ravel(), taken)
    # A third coordinate far larger than any window keeps windows of different fields apart.
    apart = np.column_stack([samples.xy, samples.field * 10 * size])
    distance, _ = cKDTree(apart[held]).query(apart, p=np.inf)
    free = ~held & (distance >= size)
    if not free.any():
        raise ModelError(
            "The training area is too small to hold windows back; set validation_fraction to 0 or add fields."
        )
    return np.flatnonzero(held), np.flatnonzero(free)


def _fit(
    network: Regressor,
    stack: NDArray[np.float32],
    labels: NDArray[np.float32],
    training: NDArray[np.int64],
    validation: NDArray[np.int64],
    origin: NDArray[np.float64],
    scale: float,
    settings: TrainSettings,
    generator: torch.Generator,
    progress: Progress | None,
) -> tuple[list[dict[str, float]], int]:
    """Run the epochs, leave the best weights in ``network``, return the history and the best epoch."""
    device = device_named(settings.device)
    network.to(device)
    x, y = (torch.from_numpy(a[training]).to(device) for a in (stack, labels))
    x_held, y_held = (torch.from_numpy(a[validation]).to(device) for a in (stack, labels))
    zero = torch.from_numpy(origin.astype(np.float32)).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs)
    history: list[dict[str, float]] = []
    best, best_error, best_state = 0, np.inf, copy.deepcopy(network.state_dict())
    for epoch in range(1, settings.epochs + 1):
        network.train()
        total = torch.zeros((), device=device)
        # Drawn on the CPU so that the order does not depend on the device.
        for batch in torch.randperm(len(x), generator=generator).split(settings.batch_size):
            picked = batch.to(device)
            seen, wanted = x[picked], y[picked]
            if settings.augment:
                seen, wanted = _mirrored(seen, wanted, zero, generator)
            optimiser.zero_grad()
            loss = (network(seen) - wanted).square().mean()
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(batch)
        schedule.step()
        row = {"train_rmse_pm": float((total / len(x)).sqrt()) * scale}
        held = _rms((run(network, x_held) - y_held).cpu().numpy()) * scale if len(validation) else np.nan
        row["validation_rmse_pm"] = held
        history.append(row)
        if progress is not None:
            progress(epoch, row)
        if not np.isfinite(row["train_rmse_pm"]):
            raise ModelError("Training diverged; lower learning_rate.")
        if not len(validation):
            best = epoch
        elif held < best_error:
            best, best_error, best_state = epoch, held, copy.deepcopy(network.state_dict())
        elif epoch - best >= settings.patience:
            break
    if len(validation):
        network.load_state_dict(best_state)
    network.to("cpu")
    return history, best


def _mirrored(
    stack: torch.Tensor, labels: torch.Tensor, zero: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror and transpose each window at random, with its label.

    ``labels`` are standardised, (d − mean)/scale, and ``zero`` is mean/scale: signs and places change
    for d itself, so the mean is put back first.
    """
    flip_x, flip_y, swap = torch.randint(0, 2, (3, len(stack)), generator=generator).bool().to(stack.device)
    d = labels + zero
    stack = torch.where(flip_x[:, None, None], stack.flip(2), stack)
    stack = torch.where(flip_y[:, None, None], stack.flip(1), stack)
    stack = torch.where(swap[:, None, None], stack.transpose(1, 2), stack)
    sign = 1 - 2 * torch.stack([flip_x, flip_y], dim=1).to(d.dtype)
    d = d * sign
    d = torch.where(swap[:, None], d.flip(1), d)
    return stack, d - zero


def _rms(values: NDArray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else float("nan")


def _version() -> str:
    try:
        return version("tiltsim")
    except PackageNotFoundError:
        # Running from a source tree that was never installed.
        return "unknown"
