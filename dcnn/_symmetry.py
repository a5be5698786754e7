"""The eight mirrors and turns of a square, for windows and images together with their vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mirrored_windows(
    stack: Tensor,
    labels: Tensor,
    vectors: Sequence[tuple[int, int]],
    generator: torch.Generator,
    which: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror and transpose each window at random, with its label.

    Parameters
    ----------
    stack : Tensor, shape (n, pixels, pixels)
    labels : Tensor, shape (n, channel)
        Standardised with no mean, so that signs and places can change.
    vectors : sequence of (int, int)
        Places of x and y of every vector among the channels.
    generator : Generator
    which : Tensor of int, shape (n,), optional
        0 to 7: bit 0 mirrors in x, bit 1 in y, bit 2 transposes afterwards; default at random.

    Returns
    -------
    stack, labels, which
    """
    if which is None:
        which = torch.randint(8, (len(stack),), generator=generator)
    flip_x, flip_y, swap = ((which.to(stack.device) >> bit & 1).bool() for bit in range(3))
    stack = torch.where(flip_x[:, None, None], stack.flip(2), stack)
    stack = torch.where(flip_y[:, None, None], stack.flip(1), stack)
    stack = torch.where(swap[:, None, None], stack.transpose(1, 2), stack)
    return stack, _turned(labels, vectors, flip_x, flip_y, swap), which


def mirrored_maps(
    images: Tensor, maps: Tensor, vectors: Sequence[tuple[int, int]], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The same for images (n, side, side) with maps (n, side', side', channel) of labels."""
    n, rows, columns, channels = maps.shape
    which = torch.randint(8, (n,), generator=generator)
    flip_x, flip_y, swap = ((which >> bit & 1).bool() for bit in range(3))
    turned = []
    for values, lead in ((images, ()), (maps, (None,))):
        at = (slice(None), None, None, *lead)
        values = torch.where(flip_x[at], values.flip(2), values)
        values = torch.where(flip_y[at], values.flip(1), values)
        turned.append(torch.where(swap[at], values.transpose(1, 2), values))
    each = rows * columns
    flat = turned[1].reshape(n * each, channels)
    own = (v.repeat_interleave(each) for v in (flip_x, flip_y, swap))
    return turned[0], _turned(flat, vectors, *own).view(n, rows, columns, channels)


def _turned(
    labels: Tensor, vectors: Sequence[tuple[int, int]], flip_x: Tensor, flip_y: Tensor, swap: Tensor
) -> Tensor:
    labels = labels.clone()
    for x, y in vectors:
        along_x = torch.where(flip_x, -labels[:, x], labels[:, x])
        along_y = torch.where(flip_y, -labels[:, y], labels[:, y])
        labels[:, x] = torch.where(swap, along_y, along_x)
        labels[:, y] = torch.where(swap, along_x, along_y)
    return labels
