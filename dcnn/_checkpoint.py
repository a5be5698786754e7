"""The state of a training after each epoch, from which it goes on to the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcnn._errors import ModelError
from dcnn._model import read_tensors, write_tensors

FORMAT = "tiltsim-training/1"


@dataclass
class Progressed:
    """How far a training has come.

    Parameters
    ----------
    epoch : int
        Epochs done.
    best : int
        Epoch with the smallest validation error; 0 before the first.
    best_error : float
        That error, pm.
    best_weights : dict
        The network's then.
    history : list of dict
        A row an epoch.
    """

    epoch: int
    best: int
    best_error: float
    best_weights: dict[str, Tensor]
    history: list[dict[str, float]]


def write_checkpoint(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, state: Progressed, key: str
) -> None:
    """Replace the file at ``path`` by the present state; ``key`` says what is being trained on what."""
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in state.best_weights.items()}
    for k, of_one in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{k}.{name}": value.clone() for name, value in of_one.items()}
    card = {
        "key": key,
        "epoch": state.epoch,
        "best": state.best,
        "best_error": state.best_error,
        "history": state.history,
    }
    write_tensors(path, tensors, card, FORMAT)


def read_checkpoint(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, key: str
) -> Progressed | None:
    """Bring ``network`` and ``optimiser`` to the state in the file at ``path``; None where there is no file.

    Raises
    ------
    ModelError
        If the file is damaged or is of another training.
    """
    if not path.is_file():
        return None
    tensors, card = read_tensors(path, FORMAT)
    if not isinstance(card, dict) or card.get("key") != key:
        raise ModelError(
            f"{path} is of a training with other settings, data or torch version; choose another --out, or delete it."
        )
    network.load_state_dict(_part(tensors, "network."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimiser.").items():
        number, what = name.split(".", 1)
        state.setdefault(int(number), {})[what] = value
    groups: Any = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    return Progressed(
        card["epoch"], card["best"], card["best_error"], _part(tensors, "best."), list(card["history"])
    )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
