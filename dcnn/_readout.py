"""Looking into a trained network: which of its outputs is what, and which networks can be looked into."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dcnn._errors import ModelError
from dcnn._model import Model
from dcnn._targets import channels

#: How each is written in a figure, and its unit.
SYMBOLS: dict[str, tuple[str, str]] = {
    "d_x": ("$d_x$", "pm"),
    "d_y": ("$d_y$", "pm"),
    "tilt_x": ("tilt $x$", "mrad"),
    "tilt_y": ("tilt $y$", "mrad"),
    "thickness": ("thickness", "Å"),
}

_ON_WINDOWS = ("baseline", "residual")
_BATCH = 1024  # bounds the memory of activations to some hundred MB


def channel(model: Model, target: str) -> int:
    """Which output of the network is ``target``.

    Raises
    ------
    ModelError
        If the model does not predict it.
    """
    known = channels(model.targets)
    if target not in known:
        raise ModelError(f"target {target!r} is not among what the model predicts: {', '.join(known)}.")
    return known.index(target)


def network_on_windows(model: Model) -> nn.Module:
    """The network of a model that sees single windows, in evaluation mode.

    Raises
    ------
    ModelError
        If it sees neighbourhoods or whole images.
    """
    kind = model.settings.network
    if kind not in _ON_WINDOWS:
        raise ModelError(
            f"network {kind!r} sees more than a window; pass a model of network {' or '.join(_ON_WINDOWS)}."
        )
    return model.network.eval()


def as_windows(model: Model, stack: NDArray[Any]) -> torch.Tensor:
    """Check that ``stack`` holds windows (n, pixels, pixels) as the model wants them.

    Raises
    ------
    ModelError
        If it does not, or holds values that are not finite.
    """
    stack, side = np.asarray(stack), model.windows.pixels
    if stack.ndim != 3 or stack.shape[1:] != (side, side) or not len(stack):
        raise ModelError(
            f"The windows must have shape (n, {side}, {side}), not {stack.shape}; cut them with "
            "dcnn.sub_images(image, model.windows, centres)."
        )
    if not np.isfinite(stack).all():
        raise ModelError("The windows hold values that are not finite; cut them with dcnn.sub_images.")
    return torch.from_numpy(np.ascontiguousarray(stack, dtype=np.float32))


def batches(stack: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """``stack`` in parts whose activations fit into memory."""
    return stack.split(_BATCH)
