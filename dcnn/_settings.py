"""What is asked of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dcnn._errors import ModelError
from dcnn._networks import NETWORKS
from dcnn._targets import TARGETS
from dcnn._windows import Windows, require_positive


@dataclass(frozen=True)
class TrainSettings:
    """How to train a network.

    Parameters
    ----------
    windows : Windows
        What the network sees.
    network : {"baseline", "residual", "context", "dense"}
        A small CNN on windows; residual blocks on windows; an encoder for each cell with attention between the cells of
        a neighbourhood, which tilt needs; or a fully convolutional network on the whole image, whose ``windows`` only say
        how wide the guard band is.
    targets : tuple of str
        What it learns: ("d",), or with ("d", "tilt", "thickness") what makes fitted d wrong. Labels that cells lack are left out.
    epochs : int
        Passes over the training windows, at most.
    batch_size : int
        Windows a step.
    learning_rate : float
        Peak rate of AdamW; after a short rise it falls to zero along a cosine.
    weight_decay : float
        Of AdamW. A thousand windows of one noisy image invite memorising (0.01 instead of the default cost 10 to 25 % in test
        error); a million synthetic ones do not: take 0.01.
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
        to be on the zone axis where data are scarce, or for synthetic fields of all directions of tilt, whose labels are the
        truth: there mirrors, with tilts mirrored too, are as true as what they mirror.
    jitter_angstrom : float
        Shift windows at random off their columns, Å rms. Labels at true places need it: a network sees fitted places later,
        which tilt and noise have moved.

    Raises
    ------
    ModelError
        If a value is out of range.
    """

    windows: Windows = field(default_factory=Windows)
    network: str = "baseline"
    targets: tuple[str, ...] = ("d",)
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.3
    seed: int = 0
    device: str = "auto"
    train_fraction: float = 2 / 3
    validation_fraction: float = 0.15
    patience: int = 20
    augment: bool = False
    jitter_angstrom: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.windows, Windows):
            raise ModelError("windows must be a dcnn.Windows.")
        if self.network not in NETWORKS:
            raise ModelError(f"network must be one of {', '.join(NETWORKS)}, not {self.network!r}.")
        object.__setattr__(self, "targets", tuple(self.targets))
        if not self.targets or self.targets[0] != "d" or set(self.targets) - set(TARGETS):
            raise ModelError(
                f"targets must begin with 'd' and hold no others than {', '.join(TARGETS)}, not {self.targets!r}."
            )
        if (
            self.network in ("context", "dense")
            and self.windows.mode == "centred"
            and self.windows.site == "A"
        ):
            raise ModelError(f"network {self.network!r} looks at cells; use windows with site 'B'.")
        if self.network == "context" and self.windows.mode != "centred":
            raise ModelError("network 'context' looks at cells; use windows with mode 'centred'.")
        for name in ("weight_decay", "jitter_angstrom"):
            if not 0 <= getattr(self, name) < 10:
                raise ModelError(f"{name} must be from 0 to 10, not {getattr(self, name)!r}.")
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
    changed = {"windows": Windows(**values["windows"]), "targets": tuple(values["targets"])}
    return TrainSettings(**{**values, **changed})
