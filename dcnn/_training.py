"""Training: fields in, model out, with no random number that is not seeded."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from dcnn._checkpoint import Progressed, read_checkpoint, write_checkpoint
from dcnn._distributed import Team, team
from dcnn._errors import ModelError
from dcnn._labels import split, split_line
from dcnn._maps import label_map, resampled
from dcnn._model import CONVENTIONS, FORMAT, Model
from dcnn._networks import Network, initialised, last_layer
from dcnn._samples import Field, MapSamples, Samples, gather, hold_back
from dcnn._settings import TrainSettings
from dcnn._targets import channels, vectors

Progress = Callable[[int, Mapping[str, float]], None]
"""Called after each epoch with its number (from 1) and ``train_rmse_pm``, ``train_loss``, ``learning_rate`` and, where
windows are held back, ``validation_rmse_pm`` and those of other targets."""

_WARM = 0.02  # of all steps: the rate rises from nothing, since Adam's first steps know no scale
_CLIP = 1.0  # largest norm of a gradient
_BETA = 0.5  # see `_loss`


@overload
def train(
    image: xr.DataArray,
    cells: xr.Dataset,
    settings: TrainSettings | None = None,
    *,
    validation: Sequence[Field] | None = None,
    start: Model | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Model: ...


@overload
def train(
    image: Sequence[Field],
    cells: TrainSettings | None = None,
    settings: TrainSettings | None = None,
    *,
    validation: Sequence[Field] | None = None,
    start: Model | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Model: ...


def train(
    image: xr.DataArray | Sequence[Field],
    cells: xr.Dataset | TrainSettings | None = None,
    settings: TrainSettings | None = None,
    *,
    validation: Sequence[Field] | None = None,
    start: Model | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train a network on the left part of one or more fields.

    Call ``train(image, cells, settings)`` or ``train([(image, cells), ...], settings)``. Any sequence of fields will do,
    such as one that synthesizes them when they are asked for; each is asked for once.

    Every label is learned as a Gaussian: a mean and a variance. Components of a vector count the same. The network of the
    epoch with the smallest validation error of d is kept. The same settings and data give the same weights on one
    machine's CPU, also when a training was interrupted and goes on from its ``checkpoint``.

    Started by ``torchrun``, all processes train one model, each on its share of every batch.

    Parameters
    ----------
    image : xarray.DataArray or sequence of (image, cells)
        Dims ("y", "x"), coordinates in Å.
    cells : xarray.Dataset
        ``x``, ``y`` (Å, the B column) and ``d`` (cell, component) in pm, the mean of the surrounding A
        columns − the B column; optionally ``tilt`` (cell, component) in mrad and ``thickness`` in Å. Cells with a nonzero
        ``flag`` are left out.
    settings : TrainSettings, optional
        Defaults to ``TrainSettings()``.
    validation : sequence of (image, cells), optional
        Other fields, whole, that choose the best epoch; default a part of the training windows, see ``validation_fraction``.
    start : Model, optional
        Train its weights further, for instance on an experiment, instead of new ones.
    checkpoint : path-like, optional
        File written after every epoch, and gone on from where it exists.
    progress : callable, optional
        Called after each epoch, see `Progress`.

    Returns
    -------
    Model
        On the CPU, whatever it was trained on.

    Raises
    ------
    ModelError
        If a field cannot be read, no window is left to train on, or ``start`` is another kind of network.
    """
    if isinstance(image, xr.DataArray):
        if not isinstance(cells, xr.Dataset):
            raise ModelError("An image needs its cells; call train(image, cells, settings).")
        fields: Sequence[Field] = [(image, cells)]
    else:
        fields = image
        if isinstance(cells, TrainSettings):
            settings = cells
        elif cells is not None:
            raise ModelError(
                "Several fields bring their own cells; call train([(image, cells), ...], settings)."
            )
    settings = settings or TrainSettings()
    if start is not None:
        _check_start(start, settings)
    if checkpoint is not None and not Path(checkpoint).parent.is_dir():
        raise ModelError(f"The folder of checkpoint {os.fspath(checkpoint)} does not exist; make it first.")
    training, held, lines = _collect(fields, validation, settings)
    mean, scale = _standards(training.labels(), settings, start)
    training.standardise(mean, scale)
    if held is not None:
        held.standardise(mean, scale)
    generator = torch.Generator().manual_seed(settings.seed)
    outputs = 2 * len(channels(settings.targets))
    network = initialised(settings.network, settings.windows.pixels, outputs, generator)
    if start is not None:
        network.load_state_dict(copy.deepcopy(start.network.state_dict()))
        with torch.no_grad():
            bias = last_layer(network).bias
            assert bias is not None
            bias[: len(mean)] += torch.as_tensor((start.mean - mean) / scale)
    with team(settings.device) as crew:
        key = _key(training, held, settings, start, crew.size) if checkpoint is not None else ""
        state = _fit(network, training, held, scale, settings, crew, checkpoint, key, progress)
    card: dict[str, Any] = {
        "format": FORMAT,
        "version": _version(),
        "conventions": CONVENTIONS,
        "settings": json.loads(json.dumps(asdict(settings))),
        "label_mean": [float(v) for v in mean],
        "label_scale": [float(v) for v in scale],
        "fields": {"number": len(lines), "split_x_angstrom": [float(v) for v in lines[:100]]},
        "training": {
            "n_train": len(training),
            "n_validation": 0 if held is None else len(held),
            "best_epoch": state.best,
            "history": state.history,
            "baseline_rmse_pm": _rms((training if held is None else held).labels()[:, :2] * scale[:2]),
            **({} if start is None else {"started_from": start.card.get("training", {}).get("best_epoch")}),
        },
    }
    return Model(network.eval(), card)


def _collect(
    fields: Sequence[Field], validation: Sequence[Field] | None, settings: TrainSettings
) -> tuple[Samples, Samples | None, list[float]]:
    """What to train on, what to choose the epoch with, and the line of each field."""
    whole = replace(settings, train_fraction=1.0)
    if settings.network == "dense":
        training, held, lines = _map_samples(fields, settings, validation is None)
        if validation is not None:
            held, _, _ = _map_samples(validation, whole, False)
        return training, held, lines
    samples, lines = gather(fields, settings)
    if validation is not None:
        return samples, gather(validation, whole)[0], lines
    rows_held, rows = hold_back(samples, settings)
    return samples.take(rows), samples.take(rows_held) if len(rows_held) else None, lines


def _map_samples(
    fields: Sequence[Field], settings: TrainSettings, hold: bool
) -> tuple[MapSamples, MapSamples | None, list[float]]:
    """Images with maps of labels for the dense network, and where ``hold``, the lowest strip of each image held back."""
    if not len(fields):
        raise ModelError("There is no field to train on; pass at least one (image, cells).")
    training, held, lines = MapSamples([], []), MapSamples([], []), []
    for number in range(len(fields)):
        image, cells = fields[number]
        line = split_line(image, settings.train_fraction)
        lines.append(line)
        # What the network sees around a place may not reach over the line, nor may labels that are interpolated.
        image = image.isel(x=image.x.values <= line)
        if settings.train_fraction < 1:
            own = split(cells, settings.windows, line) == "train"
            cells = cells.isel(cell=np.flatnonzero(own))
        parts = [(training, image)]
        share = settings.validation_fraction if hold else 0.0
        if share:
            cut = float(image.y[0]) + (1 - share) * float(image.y[-1] - image.y[0])
            parts = [
                (training, image.isel(y=image.y.values <= cut)),
                (held, image.isel(y=image.y.values > cut)),
            ]
        for samples, part in parts:
            seen, origin, bad = resampled(part)
            labels = label_map(cells, settings.targets, seen.shape, origin)
            labels[bad[::8, ::8]] = np.nan
            samples.images.append(seen)
            samples.maps.append(labels)
    if not len(training.labels()):
        raise ModelError(
            "No label is left to train on; check that unflagged cells lie in the image, left of the split."
        )
    return training, held if held.images and len(held.labels()) else None, lines


def _check_start(start: Model, settings: TrainSettings) -> None:
    given = start.settings
    for name in ("network", "targets"):
        if getattr(given, name) != getattr(settings, name):
            raise ModelError(
                f"The model to start from has {name} {getattr(given, name)!r}, the settings "
                f"{getattr(settings, name)!r}; use the same."
            )
    one, other = given.windows, settings.windows
    if (one.pixels, one.size_angstrom, one.mode, one.site) != (
        other.pixels,
        other.size_angstrom,
        other.mode,
        other.site,
    ):
        raise ModelError("The model to start from has other windows than the settings; use the same.")


def _standards(
    labels: NDArray[np.float32], settings: TrainSettings, start: Model | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What is subtracted of labels, and what they are divided by: one number for both components of a vector."""
    pairs = vectors(settings.targets)
    if start is not None:
        mean = start.mean
        if settings.augment:
            mean[[k for pair in pairs for k in pair]] = 0.0
        return mean, start.scale
    finite = np.where(np.isfinite(labels), labels, np.nan).astype(float)
    count = np.isfinite(finite).sum(axis=0)
    mean = np.where(count, np.nansum(finite, axis=0) / np.maximum(count, 1), 0.0)
    if settings.augment:
        mean[[k for pair in pairs for k in pair]] = 0.0  # as it is over all mirrors
    square = np.nansum(np.square(finite - mean), axis=0) / np.maximum(count, 1)
    for x, y in pairs:
        square[[x, y]] = square[[x, y]].mean()
    # The floor serves labels that do not vary, or that there are none of.
    return mean, np.where(square > 1e-6, np.sqrt(square), 1.0)


def _fit(
    network: Network,
    training: Samples,
    held: Samples | None,
    scale: NDArray[np.float64],
    settings: TrainSettings,
    crew: Team,
    checkpoint: str | os.PathLike[str] | None,
    key: str,
    progress: Progress | None,
) -> Progressed:
    """Run the epochs and leave the best weights in ``network``."""
    network.to(crew.device)
    optimiser = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    path = None if checkpoint is None else Path(checkpoint)
    state = read_checkpoint(path, network, optimiser, key) if path is not None else None
    if state is None:
        state = Progressed(0, 0, math.inf, copy.deepcopy(network.state_dict()), [])
    together = crew.wrapped(network)
    while state.epoch < settings.epochs and state.epoch - state.best < settings.patience:
        state.epoch += 1
        network.train()
        # Each epoch has its own random numbers, so that one may begin where another process stopped.
        generator = torch.Generator().manual_seed(_seed_of(settings.seed, state.epoch))
        total, count, square = torch.zeros((), device=crew.device), 0, torch.zeros(2, device=crew.device)
        for inputs, wanted in training.batches(settings, generator):
            share = crew.share(len(wanted))
            done = state.epoch - 1 + min(count / max(len(training), 1), 1.0)
            rate = settings.learning_rate * _schedule(done / settings.epochs)
            for group in optimiser.param_groups:
                group["lr"] = rate
            with _precision(crew.device):
                answer = together(*(v[share].to(crew.device) for v in inputs))
            labels = wanted[share].to(crew.device)
            loss = _loss(answer.float(), labels)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
            optimiser.step()
            size = _labelled(wanted)
            total += loss.detach() * size
            count += size
            error = answer.detach()[..., :2] - labels[..., :2]
            square += torch.stack([error.square().nansum(), torch.isfinite(error).sum()])
        rmse = float((square[0] / square[1]).sqrt()) * float(scale[0])
        row = {"train_rmse_pm": rmse, "train_loss": float(total) / max(count, 1), "learning_rate": rate}
        if held is not None:
            row |= _errors(network, held, scale, settings, crew.device)
        if not np.isfinite([row["train_loss"], row.get("validation_rmse_pm", 0.0)]).all():
            raise ModelError("Training diverged; lower learning_rate.")
        state.history.append(row)
        if held is None or row["validation_rmse_pm"] < state.best_error:
            state.best, state.best_error = state.epoch, row.get("validation_rmse_pm", math.inf)
            state.best_weights = copy.deepcopy(network.state_dict())
        if path is not None and crew.leads:
            write_checkpoint(path, network, optimiser, state, key)
        if progress is not None and crew.leads:
            progress(state.epoch, row)
    network.load_state_dict(state.best_weights)
    network.to("cpu")
    return state


def _labelled(wanted: Tensor) -> int:
    """How much of an epoch a batch with labels ``wanted`` is, in the unit of ``len(samples)``."""
    return len(wanted) if wanted.ndim != 3 else wanted.shape[0] * wanted.shape[1]


def _schedule(done: float) -> float:
    """Learning rate over its peak, when this share of all epochs is done."""
    return min(1.0, (done + 1e-3) / _WARM) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def _seed_of(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _precision(device: torch.device) -> Any:
    """Half precision on a GPU that has bfloat16, whose range needs no scaling of the loss."""
    half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def _loss(answer: Tensor, wanted: Tensor) -> Tensor:
    """Gaussian likelihood, weighted by σ: mean over all labels that there are.

    Plain likelihood neglects what is hard to predict, plain squares the rest; the weight σ^(2β) with β = 0.5 lies between
    (Seitzer et al. 2022, arXiv:2203.09168).
    """
    known = torch.isfinite(wanted)
    k = wanted.shape[-1]
    logarithm = answer[..., k:].clamp(-10.0, 6.0)
    error = answer[..., :k] - torch.where(known, wanted, 0.0)
    likelihood = 0.5 * (error.square() * torch.exp(-logarithm) + logarithm)
    weighted = likelihood * torch.exp(_BETA * logarithm.detach())
    return torch.where(known, weighted, 0.0).sum() / known.sum().clamp(min=1)


def _errors(
    network: Network,
    held: Samples,
    scale: NDArray[np.float64],
    settings: TrainSettings,
    device: torch.device,
) -> dict[str, float]:
    """RMSE of every target over what is held back."""
    network.eval()
    k = len(scale)
    square, count = np.zeros(k), np.zeros(k)
    with torch.inference_mode():
        for inputs, wanted in held.in_order(settings):
            answer = network(*(v.to(device) for v in inputs))[..., :k].float().cpu()
            known = torch.isfinite(wanted).reshape(-1, k).numpy()
            error = (answer - wanted).reshape(-1, k).numpy().astype(float) * scale
            square += np.where(known, error**2, 0.0).sum(axis=0)
            count += known.sum(axis=0)
    mean = np.sqrt(square / np.maximum(count, 1))
    pairs = {name: value for name, value, n in zip(channels(settings.targets), mean, count, strict=True) if n}
    row = {"validation_rmse_pm": float(np.hypot(pairs["d_x"], pairs["d_y"]) / math.sqrt(2))}
    # What has no labels, such as the tilt of an experiment, has no error either.
    if "tilt_x" in pairs:
        row["validation_tilt_mrad"] = float(np.hypot(pairs["tilt_x"], pairs["tilt_y"]) / math.sqrt(2))
    if "thickness" in pairs:
        row["validation_thickness_angstrom"] = float(pairs["thickness"])
    return row


def _key(
    training: Samples, held: Samples | None, settings: TrainSettings, start: Model | None, processes: int
) -> str:
    """Of everything that the weights depend on."""
    digest = hashlib.sha256(repr(sorted(asdict(replace(settings, device="cpu")).items())).encode())
    digest.update(f"{torch.__version__} {processes}".encode())
    for samples in (training, held):
        if samples is not None:
            digest.update(np.ascontiguousarray(samples.labels()).tobytes())
            for seen, _ in samples.in_order(settings):
                digest.update(seen[0].numpy().tobytes())
    for value in [] if start is None else start.network.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _rms(values: NDArray) -> float:
    return float(np.sqrt(np.nanmean(np.square(values)))) if len(values) else float("nan")


def _version() -> str:
    try:
        return version("tiltsim")
    except PackageNotFoundError:
        # Running from a source tree that was never installed.
        return "unknown"
