"""A trained model and its file."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from dcnn._errors import ModelError
from dcnn._network import Regressor, blank
from dcnn._settings import TrainSettings, settings_from
from dcnn._windows import Windows

FORMAT = "tiltsim-dcnn/1"
CONVENTIONS = "d = mean A − B, pm, x right, y down"


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network with the card that says how it came about.

    Parameters
    ----------
    network : torch.nn.Module
        Maps windows (n, pixels, pixels) to standardised displacements (n, 2); lives on the CPU.
    card : dict
        JSON-able: ``format``, ``version``, ``conventions``, ``settings``, ``label_mean_pm`` (x, y),
        ``label_scale_pm``, ``fields`` (one entry a field) and ``training`` (history and counts).
    """

    network: Regressor
    card: dict[str, Any]

    @property
    def settings(self) -> TrainSettings:
        """The settings it was trained with."""
        return settings_from(self.card["settings"])

    @property
    def windows(self) -> Windows:
        """The windows it was trained on, and wants."""
        return self.settings.windows


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
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    card = json.dumps(model.card, sort_keys=True)
    metadata = {"format": FORMAT, "card": card, "sha256": _digest(card, tensors)}
    content = safetensors.torch.save(tensors, metadata=metadata)
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
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a whole safetensors file; train or copy the model again.") from error
    if metadata.get("format") != FORMAT:
        raise ModelError(
            f"{path} has format {metadata.get('format')!r}, not {FORMAT!r}; use a model saved by dcnn.save."
        )
    card_text = metadata.get("card", "")
    if metadata.get("sha256") != _digest(card_text, tensors):
        raise ModelError(f"{path} is damaged (its checksum does not match); train or copy the model again.")
    try:
        card = json.loads(card_text)
        network = blank(settings_from(card["settings"]).windows.pixels)
        network.load_state_dict(tensors, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} holds a card and weights that do not belong together; train it again."
        ) from error
    return Model(network.eval(), card)


def _digest(card: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Checksum over the card and every weight: safetensors itself would not notice a flipped bit."""
    digest = hashlib.sha256(card.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
