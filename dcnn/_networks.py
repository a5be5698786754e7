"""The networks: windows or images in, for each target a mean and the logarithm of a variance out.

All see windows or images of zero mean and unit contrast, and answer in standardised units (see `Model`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dcnn._errors import ModelError

PITCH = 0.25
"""Å between the samples that the dense network sees."""

STRIDE = 8
"""Samples between two outputs of the dense network: its output j lies on its input's sample 8 j."""


class Network(nn.Module):
    """What all networks have in common: features of a place by itself, and an answer that they lead to."""

    def features(self, seen: Tensor) -> Tensor:
        """What the last layers read: (n, pixels, pixels) to (n, f), or images (b, rows, columns) to (b, f, …)."""
        raise NotImplementedError

    def answer(self, features: Tensor, xy: Tensor | None = None) -> Tensor:
        """Outputs from features, for "context" of cells (b, m, f) at ``xy`` (b, m, 2), Å."""
        raise NotImplementedError


class _Chain(Network):
    """Windows through one layer after the other; the last is linear."""

    layers: nn.Sequential

    def features(self, stack: Tensor) -> Tensor:
        """What the last layer reads: windows (n, pixels, pixels) to (n, f)."""
        return self.layers[:-1](stack[:, None])

    def answer(self, features: Tensor, xy: Tensor | None = None) -> Tensor:
        """Map features (n, f) to (n, outputs)."""
        return self.layers[-1](features)

    def forward(self, stack: Tensor) -> Tensor:
        """Map windows (n, pixels, pixels) to (n, outputs)."""
        return self.answer(self.features(stack))


class Baseline(_Chain):
    """Three convolutions and two dense layers, in the spirit of Nelson et al. 2021; some 170,000 weights.

    Strided convolutions take the place of pooling: pooling forgets where in its patch a maximum lay, and
    the displacement is a fraction of a sample.

    Parameters
    ----------
    pixels : int
        Samples across a window.
    outputs : int
        Numbers a window: means, then logarithms of variances.
    """

    def __init__(self, pixels: int, outputs: int) -> None:
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
            nn.Linear(64, outputs),
        )


class _Block(nn.Module):
    """Two convolutions added to their input; ``dilation`` widens what they see."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.two = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x + self.two(functional.silu(self.one(x))))


class Residual(_Chain):
    """Residual blocks at half and a quarter of the window's sampling; some 410,000 weights."""

    def __init__(self, pixels: int, outputs: int) -> None:
        super().__init__()
        side = math.ceil(math.ceil(pixels / 2) / 2)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 5, stride=2, padding=2),
            nn.SiLU(),
            _Block(32),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            _Block(64),
            nn.Flatten(),
            nn.Linear(64 * side * side, 128),
            nn.SiLU(),
            nn.Linear(128, outputs),
        )


class _Attention(nn.Module):
    """Cells of a neighbourhood look at each other, the less the farther apart."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.widest = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        # Decay of attention with distance, per 10 Å: from a few cells to the whole neighbourhood.
        self.decay = nn.Parameter(torch.empty(heads))

    def forward(self, x: Tensor, distance: Tensor) -> Tensor:
        b, m, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(b, m, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Beyond exp(−20) a cell counts for nothing, and what is smaller still becomes denormal: eight times slower.
        bias = (-functional.softplus(self.decay)[:, None, None] * distance[:, None]).clamp(min=-20.0)
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.out(seen.transpose(1, 2).reshape(b, m, width))
        return x + self.widest(functional.silu(self.wide(self.after(x))))


class Context(Network):
    """A small encoder for every cell, and attention between the cells of a neighbourhood; some 440,000 weights.

    A single cell at 10⁴ e/Å² says little of tilt (its bound is several mrad), while a grain is tilted as one: hundreds of
    cells know it to a fraction of a mrad. Attention lets each cell ask those around it that are like it.
    """

    def __init__(self, pixels: int, outputs: int, width: int = 128) -> None:
        super().__init__()
        side = math.ceil(math.ceil(pixels / 2) / 2)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * side * side, width),
            nn.SiLU(),
            nn.Linear(width, width),
        )
        self.attention = nn.ModuleList([_Attention(width, 4) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def features(self, stack: Tensor) -> Tensor:
        """What is known of each cell by itself: windows (n, pixels, pixels) to (n, width)."""
        return self.layers(stack[:, None])

    def forward(self, stack: Tensor, xy: Tensor) -> Tensor:
        """Map windows (b, m, pixels, pixels) at ``xy`` (b, m, 2), Å, to (b, m, outputs)."""
        b, m = stack.shape[:2]
        return self.answer(self.features(stack.flatten(0, 1)).view(b, m, -1), xy)

    def answer(self, features: Tensor, xy: Tensor | None = None) -> Tensor:
        """Map features (b, m, width) of cells at ``xy`` (b, m, 2) to (b, m, outputs)."""
        assert xy is not None
        # Not by way of a matrix product, which loses half of the digits.
        distance = torch.cdist(xy, xy, compute_mode="donot_use_mm_for_euclid_dist") / 10.0
        for layer in self.attention:
            features = layer(features, distance)
        return self.head(self.norm(features))


class Dense(Network):
    """Fully convolutional: an image in, a map every 2 Å out, in one pass; some 450,000 weights.

    First as a sliding window would, with a kernel that sees 7 Å, a cell and more: a map of which each place sees less than both kinds
    of column never begins to learn. Dilated blocks then let each place ask those up to 30 Å around it.
    """

    def __init__(self, outputs: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 7, stride=2, padding=3),
            nn.SiLU(),
            *(_Block(width, dilation) for dilation in (1, 2, 4)),
        )
        self.head = nn.Conv2d(width, outputs, 1)

    def features(self, image: Tensor) -> Tensor:
        """What the last layer reads: images (b, rows, columns) to (b, width, rows/8, columns/8)."""
        return self.layers(image[:, None])

    def forward(self, image: Tensor) -> Tensor:
        """Map images (b, rows, columns) to (b, rows/8, columns/8, outputs)."""
        return self.answer(self.features(image)).movedim(1, -1)

    def answer(self, features: Tensor, xy: Tensor | None = None) -> Tensor:
        """Map features (b, width, rows, columns) to (b, outputs, rows, columns)."""
        return self.head(features)


NETWORKS: dict[str, Callable[[int, int], Network]] = {
    "baseline": Baseline,
    "residual": Residual,
    "context": Context,
    "dense": lambda pixels, outputs: Dense(outputs),
}
"""Networks by name, made from the samples across a window and the number of outputs."""


def blank(name: str, pixels: int, outputs: int) -> Network:
    """Build a network without values, so that none are drawn from the user's random state."""
    with torch.device("meta"):
        return NETWORKS[name](pixels, outputs)


def initialised(name: str, pixels: int, outputs: int, generator: torch.Generator) -> Network:
    """Build a network with weights drawn from ``generator`` (He et al. 2015, doi:10.1109/ICCV.2015.123).

    The second convolution of a residual block begins at nothing, so that a deep network begins as a shallow one.
    """
    network = blank(name, pixels, outputs).to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, _Block):
            nn.init.zeros_(module.two.weight)
        elif isinstance(module, _Attention):
            nn.init.xavier_normal_(module.qkv.weight, generator=generator)
            nn.init.zeros_(module.out.weight)
            nn.init.zeros_(module.widest.weight)
            with torch.no_grad():
                module.decay.copy_(torch.linspace(0.5, -4.0, module.heads))
    with torch.no_grad():
        last_layer(network).weight.mul_(0.1)
    return network


def last_layer(network: Network) -> nn.Conv2d | nn.Linear:
    """The layer that the outputs come from; it has a bias."""
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)][-1]


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
