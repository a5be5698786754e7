"""The network: three convolutions and two dense layers, about 170,000 weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from dcnn._errors import ModelError

_EVALUATION_BATCH = 2048  # bounds the memory of activations to about 200 MB


class Regressor(nn.Module):
    """Small convolutional regressor from a sub-image to two standardised labels.

    Strided convolutions take the place of pooling: pooling forgets where in its patch a maximum lay, and
    the displacement is a fraction of a sample.

    Parameters
    ----------
    pixels : int
        Samples across a window.
    """

    def __init__(self, pixels: int) -> None:
        super().__init__()
        side = math.ceil(math.ceil(pixels / 2) / 2)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * side * side, 64),
            nn.SiLU(),
            nn.Linear(64, 2),
        )

    def forward(self, stack: torch.Tensor) -> torch.Tensor:
        """Map windows (n, pixels, pixels) to standardised displacements (n, 2), ordered (x, y)."""
        return self.layers(stack[:, None])


def blank(pixels: int) -> Regressor:
    """Build a network without values, so that none are drawn from the user's random state."""
    with torch.device("meta"):
        return Regressor(pixels)


def initialised(pixels: int, generator: torch.Generator) -> Regressor:
    """Build a network with weights drawn from ``generator`` (He et al. 2015, doi:10.1109/ICCV.2015.123)."""
    network = blank(pixels).to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def device_named(name: str) -> torch.device:
    """Turn "auto" into the GPU where there is one, else the CPU; other names are torch's.

    Raises
    ------
    ModelError
        If torch does not know the device, or this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"device {name!r} cannot be used on this machine; use 'auto' or 'cpu'.") from error
    return device


def run(network: Regressor, stack: torch.Tensor) -> torch.Tensor:
    """Apply the network in batches without keeping gradients: (n, pixels, pixels) to (n, 2)."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in stack.split(_EVALUATION_BATCH)])
