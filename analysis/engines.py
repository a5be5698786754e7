"""What draws and fits columns: loops compiled for the processor, or torch on a graphics card."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import gaussians
from .errors import ImageError

Floats = NDArray[np.float64]

#: Where columns may be fitted.
DEVICES = ("auto", "cpu", "cuda")

_WORTH = 100  # columns, or rows of pixels: a thread for fewer costs more than it saves
_DRIVER = (Path("/proc/driver/nvidia"), Path("/dev/dxg"))  # of NVIDIA GPUs on Linux, and under Windows


class Engine(Protocol):
    """Draws and fits columns. Images that it holds or draws are arrays of its own kind, for itself only."""

    def hold(self, values: Floats) -> Any:
        """The image as `fit` takes it; NaN pixels take no part."""

    def draw(self, shape: tuple[int, ...], parameters: Floats) -> Any:
        """Sum of all Gaussians (n, 7), without backgrounds, as `fit` takes it."""

    def fit(
        self, image: Any, total: Any, parameters: Floats, centre: Floats, slope: Floats, radius: Floats, noise: Floats,
        prior_mean: Floats, prior_weight: Floats, lower: Floats, upper: Floats, most: int, tolerance: float,
    ) -> tuple[Floats, NDArray[np.bool_]]:  # fmt: skip
        """Parameters (n, 7) of columns with all others held where they are, and which have converged.

        See `analysis.gaussians.fit`.
        """


class Compiled:
    """Loops over columns on all processors."""

    def hold(self, values: Floats) -> Floats:
        """The image itself."""
        return values

    def draw(self, shape: tuple[int, ...], parameters: Floats) -> Floats:
        """See `Engine`."""
        total = np.zeros(shape)
        in_parts(shape[0], lambda first, last: gaussians.render(total, parameters, first, last))
        return total

    def fit(
        self, image: Floats, total: Floats, parameters: Floats, centre: Floats, slope: Floats, radius: Floats,
        noise: Floats, prior_mean: Floats, prior_weight: Floats, lower: Floats, upper: Floats,
        most: int, tolerance: float,
    ) -> tuple[Floats, NDArray[np.bool_]]:  # fmt: skip
        """See `Engine`."""
        result, converged = np.empty_like(parameters), np.zeros(len(parameters), bool)

        def work(first: int, last: int) -> None:
            s = slice(first, last)
            gaussians.fit(
                image, total, parameters[s], centre[s], slope[s], radius[s], noise, prior_mean[s], prior_weight[s],
                lower[s], upper[s], most, tolerance, result[s], converged[s],
            )  # fmt: skip

        in_parts(len(parameters), work)
        return result, converged


COMPILED = Compiled()


def chosen(device: str) -> Engine:
    """The engine for "auto", "cpu" or "cuda"; auto takes CUDA where torch finds it.

    Raises
    ------
    ImageError
        The name is unknown, or CUDA was asked for and is not there.
    """
    if device not in DEVICES:
        raise ImageError(f"device={device!r} is unknown; choose one of {', '.join(DEVICES)}.")
    if device == "cpu" or (
        device == "auto" and sys.platform == "linux" and not any(p.exists() for p in _DRIVER)
    ):
        return COMPILED
    import torch  # takes a second, which machines without a GPU need not wait for

    if torch.cuda.is_available():
        from .gaussians_torch import TorchEngine

        return TorchEngine("cuda")
    if device == "cuda":
        raise ImageError(
            "device='cuda' needs a CUDA GPU that torch can use and none was found; pass auto or cpu."
        )
    return COMPILED


def in_parts(count: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(first, last)`` on parts of a range, one a processor."""
    affinity = getattr(os, "sched_getaffinity", None)
    threads = max(1, min(len(affinity(0)) if affinity else os.cpu_count() or 1, count // _WORTH))
    if threads == 1:
        if count:
            work(0, count)
        return
    edges = np.linspace(0, count, threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))
