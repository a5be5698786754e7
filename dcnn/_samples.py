"""What a network is trained on: windows, neighbourhoods of windows, or images with maps of labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from dcnn._errors import ModelError
from dcnn._labels import labelled_windows, split_line
from dcnn._networks import STRIDE
from dcnn._settings import TrainSettings
from dcnn._symmetry import mirrored_maps, mirrored_windows
from dcnn._targets import vectors

Field = tuple[xr.DataArray, xr.Dataset]
"""An image and its cells."""

Batch = tuple[tuple[Tensor, ...], Tensor]
"""What goes into a network, and labels (…, channel) for what comes out; NaN where there is none."""

#: Cells of a neighbourhood in training, and how often: mostly many, but the network must know what few are worth.
_CELLS, _OFTEN = (1, 4, 16, 64, 144, 256, 400), (0.04, 0.06, 0.1, 0.15, 0.2, 0.25, 0.2)


class Samples(Protocol):
    """Something that batches are drawn from; labels are standardised by the one who trains."""

    def __len__(self) -> int:
        """Number of windows or images."""

    def labels(self) -> NDArray[np.float32]:
        """All labels (n, channel)."""

    def standardise(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        """Subtract ``mean`` (channel,) of all labels, and divide them by ``scale``."""

    def batches(self, settings: TrainSettings, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch in random order."""

    def in_order(self, settings: TrainSettings) -> Iterator[Batch]:
        """All once, always alike."""


@dataclass(eq=False)
class WindowSamples:
    """Windows of all fields.

    Parameters
    ----------
    stack : ndarray, shape (n, pixels, pixels)
    target : ndarray, shape (n, channel)
    xy : ndarray, shape (n, 2)
        Centres, Å.
    field : ndarray of int, shape (n,)
        Which field a window is from.
    """

    stack: NDArray[np.float32]
    target: NDArray[np.float32]
    xy: NDArray[np.float64]
    field: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.target)

    def labels(self) -> NDArray[np.float32]:
        """All labels (n, channel)."""
        return self.target

    def standardise(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        """See `Samples`."""
        self.target = ((self.target - mean) / scale).astype(np.float32)

    def take(self, rows: NDArray[np.int64]) -> WindowSamples:
        """Some of them."""
        return type(self)(self.stack[rows], self.target[rows], self.xy[rows], self.field[rows])

    def batches(self, settings: TrainSettings, generator: torch.Generator) -> Iterator[Batch]:
        """See `Samples`."""
        stack, target = torch.from_numpy(self.stack), torch.from_numpy(self.target)
        for rows in torch.randperm(len(self), generator=generator).split(settings.batch_size):
            seen, wanted = stack[rows], target[rows]
            if settings.augment:
                seen, wanted, _ = mirrored_windows(seen, wanted, vectors(settings.targets), generator)
            yield (seen,), wanted

    def in_order(self, settings: TrainSettings) -> Iterator[Batch]:
        """See `Samples`."""
        for start in range(0, len(self), 2048):
            part = slice(start, start + 2048)
            yield (torch.from_numpy(self.stack[part]),), torch.from_numpy(self.target[part])


class BagSamples(WindowSamples):
    """Neighbourhoods: a cell and those nearest to it, of one field."""

    def batches(self, settings: TrainSettings, generator: torch.Generator) -> Iterator[Batch]:
        """As many cells an epoch as there are."""
        starts = np.flatnonzero(np.r_[True, np.diff(self.field) != 0])
        ends = np.r_[starts[1:], len(self)]
        trees = [cKDTree(self.xy[a:b]) for a, b in zip(starts, ends, strict=True)]
        stack, target = torch.from_numpy(self.stack), torch.from_numpy(self.target)
        often = torch.tensor(_OFTEN)
        left = len(self)
        while left > 0:
            cells = _CELLS[int(torch.multinomial(often, 1, generator=generator))]
            bags = max(1, settings.batch_size // cells)
            middle = torch.randint(len(self), (bags,), generator=generator).numpy()
            where = np.searchsorted(starts, middle, side="right") - 1
            cells = min(cells, int((ends - starts)[where].min()))
            rows = np.stack(
                [
                    starts[f] + np.atleast_1d(trees[f].query(self.xy[m], k=cells)[1])
                    for f, m in zip(where, middle, strict=True)
                ]
            )
            seen, wanted = stack[rows], target[rows]
            at = torch.from_numpy(centred_places(self.xy[rows]))
            if settings.augment:
                # Mirrors of a neighbourhood leave distances alone, but all its cells must be mirrored alike.
                flat, wide = seen.flatten(0, 1), wanted.flatten(0, 1)
                which = torch.randint(8, (bags,), generator=generator).repeat_interleave(cells)
                flat, wide, _ = mirrored_windows(flat, wide, vectors(settings.targets), generator, which)
                seen, wanted = flat.view_as(seen), wide.view_as(wanted)
            left -= bags * cells
            yield (seen, at), wanted

    def in_order(self, settings: TrainSettings) -> Iterator[Batch]:
        """Fields tile by tile."""
        for f in np.unique(self.field):
            own = np.flatnonzero(self.field == f)
            for members, inner in neighbourhoods(self.xy[own]):
                rows = own[members[inner]]  # the middle first, as `respond` orders them
                order = np.r_[rows, own[members[~inner]]]
                target = np.full((1, len(order), self.target.shape[1]), np.nan, np.float32)
                target[0, : len(rows)] = self.target[rows]
                yield (
                    (
                        torch.from_numpy(self.stack[order][None]),
                        torch.from_numpy(centred_places(self.xy[order])[None]),
                    ),
                    torch.from_numpy(target),
                )


def centred_places(xy: NDArray[np.float64]) -> NDArray[np.float32]:
    """Places (…, m, 2) about their mean: single precision has no digits to spare for where in a large image they are."""
    return (xy - xy.mean(axis=-2, keepdims=True)).astype(np.float32)


def neighbourhoods(
    xy: NDArray[np.float64], core: float = 44.0, halo: float = 18.0
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Part cells into square tiles, each with what surrounds it.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Å.
    core, halo : float
        Side of a tile, and how far its neighbourhood reaches beyond, Å. Some 400 cells of 4 Å together: what the network was
        trained on. Tiles at the border of an image look farther inwards instead.

    Yields
    ------
    members : ndarray of int
        Cells of the neighbourhood.
    inner : ndarray of bool
        Those that lie in the tile; each cell does in one only.
    """
    low, high = xy.min(axis=0), xy.max(axis=0)
    extent = np.maximum(high - low, 1e-9)
    count = np.maximum(np.ceil(extent / core), 1).astype(int)
    # An image little larger than a neighbourhood is one.
    count[extent <= core + 2 * halo] = 1
    step = extent / count
    index = np.minimum(((xy - low) / step).astype(int), count - 1)
    width = np.minimum(core + 2 * halo, extent)
    for i in range(count[0]):
        for j in range(count[1]):
            inner = (index == (i, j)).all(axis=1)
            if not inner.any():
                continue
            middle = low + (np.array([i, j]) + 0.5) * step
            begin = np.clip(middle - width / 2, low, high - width)
            near = ((xy >= begin - 1e-6) & (xy <= begin + width + 1e-6)).all(axis=1) | inner
            members = np.flatnonzero(near)
            yield members, inner[members]


@dataclass(eq=False)
class MapSamples:
    """Images (rows, columns) at the dense network's sampling with maps (rows/8, columns/8, channel) of labels."""

    images: list[NDArray[np.float32]]
    maps: list[NDArray[np.float32]]

    @property
    def side(self) -> int:
        """Outputs along a crop: 34 Å, or what the smallest image has.

        Not more: d hardly varies within a domain, and a step on few large crops would know few d.
        """
        return min(17, *(min(m.shape[:2]) for m in self.maps))

    def __len__(self) -> int:
        """Crops of an epoch."""
        return max(1, round(sum(m.shape[0] * m.shape[1] for m in self.maps) / self.side**2))

    def labels(self) -> NDArray[np.float32]:
        """All labels (n, channel) that there are."""
        flat = np.concatenate([m.reshape(-1, m.shape[-1]) for m in self.maps])
        return flat[np.isfinite(flat[:, 0])]

    def standardise(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        """See `Samples`."""
        self.maps = [((m - mean) / scale).astype(np.float32) for m in self.maps]

    def batches(self, settings: TrainSettings, generator: torch.Generator) -> Iterator[Batch]:
        """Crops of one size, so many that each image is seen about once."""
        side = self.side
        areas = torch.tensor([float(m.shape[0] * m.shape[1]) for m in self.maps])
        picks = torch.multinomial(areas, len(self), replacement=True, generator=generator)
        for group in picks.split(settings.batch_size):
            seen, wanted = [], []
            for k in group.tolist():
                image, labels = self.images[k], self.maps[k]
                i, j = (
                    int(torch.randint(labels.shape[axis] - side + 1, (1,), generator=generator))
                    for axis in (0, 1)
                )
                reach = STRIDE * (side - 1) + 1
                seen.append(image[STRIDE * i : STRIDE * i + reach, STRIDE * j : STRIDE * j + reach])
                wanted.append(labels[i : i + side, j : j + side])
            images, labels_ = torch.from_numpy(np.stack(seen)), torch.from_numpy(np.stack(wanted))
            if settings.augment:
                images, labels_ = mirrored_maps(images, labels_, vectors(settings.targets), generator)
            yield (images,), labels_

    def in_order(self, settings: TrainSettings) -> Iterator[Batch]:
        """See `Samples`."""
        for image, labels in zip(self.images, self.maps, strict=True):
            yield (torch.from_numpy(image[None]),), torch.from_numpy(labels[None])


def gather(fields: Sequence[Field], settings: TrainSettings) -> tuple[WindowSamples, list[float]]:
    """Cut the windows of all ``fields`` left of their split lines; each field is asked for once.

    Returns
    -------
    samples : WindowSamples
    lines : list of float
        The split line of each field, Å.

    Raises
    ------
    ModelError
        If a field cannot be read, or no window is left.
    """
    if not len(fields):
        raise ModelError("There is no field to train on; pass at least one (image, cells).")
    kind = BagSamples if settings.network == "context" else WindowSamples
    names = [f"{t}_label" for t in settings.targets]
    parts, lines, side = [], [], settings.windows.pixels
    for number in range(len(fields)):
        image, cells = fields[number]
        lines.append(split_line(image, settings.train_fraction))
        jitter = None
        if settings.jitter_angstrom and settings.windows.mode == "centred":
            rng = np.random.default_rng([settings.seed, number])
            jitter = rng.normal(0, settings.jitter_angstrom, (2 * cells.sizes["cell"] + 1000, 2))
        cut = labelled_windows(
            image,
            cells,
            settings.windows,
            subset="train",
            split_x=lines[-1],
            targets=settings.targets,
            jitter=jitter,
        )
        count = cut.sizes["window"]
        label = np.concatenate([np.atleast_2d(cut[n].values.T) for n in names]).T
        parts.append(
            (
                cut["intensity"].values.reshape(-1, side, side),
                label.astype(np.float32),
                np.column_stack([cut["x"].values, cut["y"].values]),
                np.full(count, number),
            )
        )
    stack, target, xy, field = (np.concatenate(one) for one in zip(*parts, strict=True))
    if not len(target):
        raise ModelError(
            "No window is left to train on; check that unflagged cells lie in the image, left of the split."
        )
    return kind(stack, target, xy, field), lines


def hold_back(samples: WindowSamples, settings: TrainSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose validation windows in whole blocks, and training windows that overlap none of them.

    Single windows drawn at random would share most of their pixels, noise included, with training
    windows beside them, and the validation error would then reward overfitting.
    """
    everything = np.arange(len(samples))
    if settings.validation_fraction == 0:
        return everything[:0], everything
    size = settings.windows.size_angstrom
    block = max(min(4 * size, float(np.ptp(samples.xy, axis=0).max()) / 4), 1e-9)
    keys = np.column_stack([samples.field, np.floor(samples.xy / block).astype(int)])
    _, label = np.unique(keys, axis=0, return_inverse=True)
    count = np.bincount(label.ravel())
    order = np.random.default_rng(settings.seed).permutation(len(count))
    wanted = settings.validation_fraction * len(everything)
    taken = order[: int(np.searchsorted(count[order].cumsum(), wanted)) + 1]
    held = np.isin(label.ravel(), taken)
    # A third coordinate far larger than any window keeps windows of different fields apart.
    apart = np.column_stack([samples.xy, samples.field * 10 * size])
    distance, _ = cKDTree(apart[held]).query(apart, p=np.inf)
    free = ~held & (distance >= size)
    if not free.any():
        raise ModelError(
            "The training area is too small to hold windows back; set validation_fraction to 0 or add fields."
        )
    return np.flatnonzero(held), np.flatnonzero(free)
