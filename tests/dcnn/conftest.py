"""A small generator of fields: Gaussian columns on a perovskite lattice, with known displacements."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import xarray as xr

A0 = 4.0  # Å


@dataclass(frozen=True)
class Scene:
    """Columns of a field, to be drawn at any pixel size; ``cells`` is the truth."""

    columns: np.ndarray  # (n, 3): x, y in Å, height
    cells: xr.Dataset
    extent: tuple[float, float]

    def draw(self, pixel: float = 0.2, noise: float = 0.0, seed: int = 0) -> xr.DataArray:
        x, y = (np.arange(0, e + 1e-9, pixel) for e in self.extent)
        sigma = 0.45
        image = np.full((len(y), len(x)), 0.1)
        for cx, cy, height in self.columns:
            i0, i1 = np.searchsorted(y, [cy - 4 * sigma, cy + 4 * sigma])
            j0, j1 = np.searchsorted(x, [cx - 4 * sigma, cx + 4 * sigma])
            gy = np.exp(-((y[i0:i1] - cy) ** 2) / (2 * sigma**2))
            gx = np.exp(-((x[j0:j1] - cx) ** 2) / (2 * sigma**2))
            image[i0:i1, j0:j1] += height * np.outer(gy, gx)
        # Noise of equal strength per Å², whatever the pixel size.
        image += np.random.default_rng(seed).normal(0, noise * 0.2 / pixel, image.shape)
        units = {"units": "Å"}
        return xr.DataArray(image, dims=("y", "x"), coords={"y": ("y", y, units), "x": ("x", x, units)})


def build(
    nx: int = 30, ny: int = 20, seed: int = 0, change: Callable[[np.ndarray], np.ndarray] = lambda d: d
) -> Scene:
    """Domains of d = (±20, ±20) pm in random bands, with a spread of 5 pm from cell to cell."""
    rng = np.random.default_rng(seed)
    ix, iy = (v.ravel() for v in np.meshgrid(np.arange(nx), np.arange(ny)))
    sign_x = np.where((ix + iy // 2) // 5 % 2, 1, -1)
    sign_y = np.where((ix // 3 + 2 * iy) // 9 % 2, 1, -1)
    d = 20.0 * np.column_stack([sign_x, sign_y]) + rng.normal(0, 5, (len(ix), 2))
    d = change(d)
    margin = 3.0
    centre = np.column_stack([ix, iy]) * A0 + A0 / 2 + margin
    b = centre - d / 100  # the A columns stay on the lattice: d = A − B
    jx, jy = (v.ravel() for v in np.meshgrid(np.arange(nx + 1), np.arange(ny + 1)))
    a = np.column_stack([jx, jy]) * A0 + margin
    columns = np.vstack(
        [np.column_stack([a, np.full(len(a), 1.0)]), np.column_stack([b, np.full(len(b), 0.4)])]
    )
    cells = xr.Dataset(
        {
            "x": ("cell", b[:, 0], {"units": "Å"}),
            "y": ("cell", b[:, 1], {"units": "Å"}),
            "d": (("cell", "component"), d, {"units": "pm"}),
            "flag": ("cell", np.zeros(len(b), dtype=int), {"units": "1"}),
        },
        coords={"component": ["x", "y"]},
    )
    return Scene(columns, cells, (nx * A0 + 2 * margin, ny * A0 + 2 * margin))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    # Small batches on a shared machine spend their time waiting for each other's threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., Scene]:
    return build
