"""How long networks take: the training behind a published figure, and the map of a large image."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xarray as xr
from _common import machine
from _micrograph import Case, micrograph

import dcnn

PIXEL = 0.2  # Å
_ANGSTROM = {"units": "Å"}

#: What is asked of two cores: to train for a figure, and to map an image of 4096² pixels, s.
TRAINING_TARGET, DENSE_TARGET = 300.0, 60.0


def gaussian_field(size: int = 768, seed: int = 0) -> tuple[xr.DataArray, xr.Dataset]:
    """A stand-in of ``size``² pixels for when no library is at hand: Gaussian columns, counts, d of 12 pm rms along each axis."""
    case = Case(size=size, cell=4.0 / PIXEL, disorder=0.55, sigma=(2.2, 2.0))
    picture, truth = micrograph(case, seed)
    place = np.arange(size) * PIXEL
    image = xr.DataArray(
        picture, {"y": ("y", place, _ANGSTROM), "x": ("x", place, _ANGSTROM)}, dims=("y", "x")
    )
    cells = xr.Dataset(
        {
            "x": ("cell", truth.b[:, 0] * PIXEL, _ANGSTROM),
            "y": ("cell", truth.b[:, 1] * PIXEL, _ANGSTROM),
            "d": (("cell", "component"), truth.d * PIXEL * 100, {"units": "pm"}),
        },
        coords={"component": ["x", "y"]},
    )
    return image, cells


def training_speed(
    image: xr.DataArray | None = None,
    cells: xr.Dataset | None = None,
    settings: dcnn.TrainSettings | None = None,
    *,
    threads: int = 2,
    repeats: int = 3,
) -> dict[str, Any]:
    """Train the baseline on the left 2/3 of one image and test it on the rest, everything included: windows, training, test.

    Parameters
    ----------
    image, cells : DataArray, Dataset, optional
        The field; default a `gaussian_field` of 768² pixels.
    settings : dcnn.TrainSettings, optional
    threads, repeats : int

    Returns
    -------
    dict
        ``seconds`` (median) of ``runs``, ``target_seconds``, ``windows``, ``epochs`` that were run, ``test_rmse_pm`` and ``test_r2``
        {x, y}, ``threads``, ``machine``.
    """
    if image is None or cells is None:
        image, cells = gaussian_field()
    settings = settings or dcnn.TrainSettings(device="cpu")
    runs = []
    with using(threads):
        for _ in range(repeats):
            start = time.perf_counter()
            model = dcnn.train(image, cells, settings)
            _, metrics = dcnn.evaluate_split(model, image, cells)
            runs.append(time.perf_counter() - start)
    training = model.card["training"]
    return {
        "size_px": list(image.shape),
        "seconds": statistics.median(runs),
        "runs": runs,
        "target_seconds": TRAINING_TARGET,
        "windows": training["n_train"] + training["n_validation"],
        "epochs": len(training["history"]),
        "test_rmse_pm": metrics["test"]["rmse_pm"],
        "test_r2": metrics["test"]["r2"],
        "threads": threads,
        "machine": machine(),
    }


def dense_speed(model: dcnn.Model, size: int = 4096, *, threads: int = 2, repeats: int = 3) -> dict[str, Any]:
    """Map an image of ``size``² pixels of 0.2 Å with a dense or sliding network, from the pixels to the table of d.

    Returns
    -------
    dict
        ``seconds`` (median) of ``runs``, ``target_seconds`` for 4096² pixels, ``places`` that got a d, ``megapixels_per_second``,
        ``peak_gb`` of this process so far, ``threads``, ``machine``.
    """
    tile, _ = gaussian_field(
        min(size, 500)
    )  # 25 cells; its border of empty cells is repeated too, which takes as long
    times = -(-size // tile.sizes["x"])
    place = np.arange(size) * PIXEL
    image = xr.DataArray(
        np.tile(tile.values.astype(np.float32), (times, times))[:size, :size],
        {"y": ("y", place, _ANGSTROM), "x": ("x", place, _ANGSTROM)},
        dims=("y", "x"),
    )
    runs = []
    with using(threads):
        for _ in range(repeats):
            start = time.perf_counter()
            found = dcnn.predict_map(model, image, device="cpu")
            runs.append(time.perf_counter() - start)
    seconds = statistics.median(runs)
    return {
        "size_px": size,
        "network": model.settings.network,
        "seconds": seconds,
        "runs": runs,
        "target_seconds": DENSE_TARGET,
        "places": int(np.isfinite(found["d"].values).all(axis=-1).sum()),
        "megapixels_per_second": size**2 / 1e6 / seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "threads": threads,
        "machine": machine(),
    }


@contextmanager
def using(threads: int) -> Iterator[None]:
    """So many threads of torch, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
