"""A trained model and its file."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcnn._errors import ModelError
from dcnn._networks import Network, blank
from dcnn._settings import TrainSettings, settings_from
from dcnn._targets import channels
from dcnn._windows import Windows

FORMAT = "tiltsim-dcnn/3"
CONVENTIONS = "d = mean A − B, pm, x right, y down; tilt of the beam inside the crystal, mrad"

_EXTRA = "extra."  # tensors of a file that are not the network's


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network with the card that says how it came about.

    Parameters
    ----------
    network : torch.nn.Module
        Gives standardised means and logarithms of variances; lives on the CPU.
    card : dict
        JSON-able: ``format``, ``version``, ``conventions``, ``settings``, ``label_mean`` and ``label_scale`` (a number a
        channel of ``targets``, in its unit), ``fields`` (one entry a field), ``training`` (history and counts), and once
        calibrated ``calibration``.
    extra : dict of torch.Tensor
        What `calibrate` keeps of the features of known cells.
    """

    network: Network
    card: dict[str, Any]
    extra: dict[str, Tensor] = field(default_factory=dict)

    @property
    def settings(self) -> TrainSettings:
        """The settings it was trained with."""
        return settings_from(self.card["settings"])

    @property
    def windows(self) -> Windows:
        """The windows it was trained on, and wants."""
        return self.settings.windows

    @property
    def targets(self) -> tuple[str, ...]:
        """What it predicts, see `TrainSettings`."""
        return self.settings.targets

    @property
    def mean(self) -> NDArray[np.float64]:
        """Subtracted of labels before training, (channel,)."""
        return np.asarray(self.card["label_mean"], dtype=float)

    @property
    def scale(self) -> NDArray[np.float64]:
        """That labels were divided by, (channel,)."""
        return np.asarray(self.card["label_scale"], dtype=float)


def network_for(settings: TrainSettings) -> Network:
    """The network that ``settings`` ask for, without values."""
    return blank(settings.network, settings.windows.pixels, 2 * len(channels(settings.targets)))


def save(model: Model, path: str | os.PathLike[str]) -> Path:
    """Write a model as safetensors, with its card in the metadata.

    The file appears under its name only when it is complete.

    Parameters
    ----------
    model : Model
        What to write.
    path : path-like
        Where, usually ending in ``.safetensors``.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    ModelError
        If the file cannot be written.
    """
    tensors = {**model.network.state_dict(), **{_EXTRA + name: v for name, v in model.extra.items()}}
    return write_tensors(Path(path), tensors, model.card, FORMAT)


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model written by `save`; nothing in the file is executed.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    Model
        On the CPU.

    Raises
    ------
    ModelError
        If the file is missing, foreign, truncated or damaged, or of another format version.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There is no model file {path}; check the path.")
    tensors, card = read_tensors(path, FORMAT)
    extra = {
        name.removeprefix(_EXTRA): tensors.pop(name) for name in list(tensors) if name.startswith(_EXTRA)
    }
    try:
        network = network_for(settings_from(card["settings"]))
        network.load_state_dict(tensors, assign=True)
        model = Model(network.eval(), card, extra)
        _check(model)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"{path} holds a card and weights that do not belong together; train it again."
        ) from error
    return model


def _check(model: Model) -> None:
    """Raise ValueError, or what comes of a card without its parts, unless everything is there that predictions need."""
    names = channels(model.targets)
    for values in (model.mean, model.scale):
        if values.shape != (len(names),) or not np.isfinite(values).all():
            raise ValueError("label_mean and label_scale must be a finite number for each channel")
    if not (model.scale > 0).all():
        raise ValueError("label_scale must be positive")
    for value in [*model.network.state_dict().values(), *model.extra.values()]:
        if value.dtype != torch.float32 or not torch.isfinite(value).all():
            raise ValueError("weights must be finite float32")
    if ("calibration" in model.card) != ("novelty" in model.card):
        raise ValueError("calibration and novelty belong together")
    if "calibration" in model.card:
        of_channel = model.card["calibration"]["channels"]
        limits = model.card["novelty"]
        tables = [(of_channel[n]["log_std"], of_channel[n]["factor"]) for n in names]
        tables.append((limits["image_limits"]["cells"], limits["image_limits"]["limit"]))
        for at, values in (np.asarray(t, dtype=float) for t in tables):
            if at.ndim != 1 or not len(at) or not np.isfinite([at, values]).all() or (np.diff(at) < 0).any():
                raise ValueError("calibration must be tables of finite, rising numbers")
        width = len(model.extra["mean"])
        if model.extra["whitening"].shape != (width, width) or not float(limits["cell_limit"]) > 0:
            raise ValueError("novelty needs a mean, a whitening and a limit")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any], format: str) -> Path:
    """Write tensors and a card to ``path``, which appears only when it is complete; see `save`."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(card, sort_keys=True)
    metadata = {"format": format, "card": text, "sha256": _digest(text, plain)}
    content = safetensors.torch.save(plain, metadata=metadata)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ModelError(f"Cannot write {path}: {error.strerror}; choose a folder that exists.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise ModelError(f"Cannot write {path}: {error.strerror}.") from error
    return path


def read_tensors(path: Path, format: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote; see `load`."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a whole safetensors file; train or copy the model again.") from error
    if metadata.get("format") != format:
        raise ModelError(
            f"{path} has format {metadata.get('format')!r}, not {format!r}; use a file of this version of tiltsim."
        )
    text = metadata.get("card", "")
    if metadata.get("sha256") != _digest(text, tensors):
        raise ModelError(f"{path} is damaged (its checksum does not match); train or copy the model again.")
    try:
        card = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"{path} has a card that is no JSON; train it again.") from error
    return tensors, card


def _digest(card: str, tensors: Mapping[str, Tensor]) -> str:
    """Checksum over the card and every weight: safetensors itself would not notice a flipped bit."""
    digest = hashlib.sha256(card.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
