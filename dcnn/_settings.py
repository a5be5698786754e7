"""What is asked of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dcnn._errors import ModelError
from dcnn._windows import Windows, require_positive


@dataclass(frozen=True)
class TrainSettings:
    """How to train a network.

    Parameters
    ----------
    windows : Windows
        What the network sees.
    epochs : int
        Passes over the training windows, at most.
    batch_size : int
        Windows a step.
    learning_rate : float
        Peak rate of AdamW; it falls to zero along a cosine.
    seed : int
        Seed of the initial weights, the order of the windows, the validation blocks and the augmentation.
        On one machine's CPU the same seed gives the same weights.
    device : str
        "auto" (a GPU where there is one), or a name torch knows.
    train_fraction : float
        Share of the width of each field, from the left, that is trained on; 1 uses whole fields.
    validation_fraction : float
        Share of the training windows held back, in compact blocks, to choose the best epoch; 0 trains for
        all epochs and keeps the last.
    patience : int
        Epochs without a better validation error after which training stops.
    augment : bool
        Also show each window mirrored in x (d_x changes sign), in y (d_y changes sign) and transposed
        (d_x and d_y change places). Off by default: a tilted specimen, like a detector that is off
        centre or a scan that drifts, makes mirrored images *unequal* to images of a mirrored crystal at
        the same tilt. Training on mirrors forces the network's bias to average to zero over mirror
        images, and so hides the very tilt bias this project measures. Switch it on only for images known
        to be on the zone axis, where data are scarce.

    Raises
    ------
    ModelError
        If a value is out of range.
    """

    windows: Windows = field(default_factory=Windows)
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 2e-3
    seed: int = 0
    device: str = "auto"
    train_fraction: float = 2 / 3
    validation_fraction: float = 0.15
    patience: int = 20
    augment: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.windows, Windows):
            raise ModelError("windows must be a dcnn.Windows.")
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ModelError(f"{name} must be a whole number of at least {least}, not {value!r}.")
        require_positive("learning_rate", self.learning_rate)
        require_positive("train_fraction", self.train_fraction)
        if self.train_fraction > 1:
            raise ModelError(f"train_fraction must be above 0 and at most 1, not {self.train_fraction!r}.")
        if not 0 <= self.validation_fraction <= 0.5:
            raise ModelError(f"validation_fraction must be from 0 to 0.5, not {self.validation_fraction!r}.")
        if self.device != "auto":
            try:
                torch.device(self.device)
            except (RuntimeError, TypeError) as error:
                raise ModelError(
                    f"device {self.device!r} is unknown to torch; use 'auto' or 'cpu'."
                ) from error


def settings_from(card: Mapping[str, Any]) -> TrainSettings:
    """Rebuild settings from the nested dict that ``dataclasses.asdict`` made of them."""
    values = dict(card)
    return TrainSettings(**{**values, "windows": Windows(**values["windows"])})
