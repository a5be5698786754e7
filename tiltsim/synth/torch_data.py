"""Synthetic fields for training: out of a set on disk, or made as they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import Dataset

from tiltsim.errors import SettingsError
from tiltsim.library import Library, open_library
from tiltsim.synth.reading import find_store, read_set
from tiltsim.synth.recipe import PARTS, Recipe, load_recipe
from tiltsim.synth.shards import check_reach
from tiltsim.synth.synthesis import synthesize

#: An image (1, rows, columns) and its truth, and what a transform makes of them.
Sample = tuple[Tensor, dict[str, Tensor]]
Transform = Callable[[Tensor, dict[str, Tensor]], Any]


class FieldDataset(Dataset):
    """Fields of one part of a set that ``tiltsim synth`` wrote.

    An item is ``(image, truth)``: float32 of shape (1, rows, columns), and a dictionary of tensors: all numeric variables
    of the set (positions in Å, d in pm, …), and ``pixel``, Å, and ``field``, the number in the set. All items have the
    same shapes, so that PyTorch's default collation makes batches of them. May be used by any number of worker
    processes, forked or spawned.

    Parameters
    ----------
    path : path
        Folder of the set.
    split : str
        "train", "validation", "test", or "all".
    transform : callable, optional
        Given image and truth, returns what takes the place of both.

    Raises
    ------
    SettingsError
        If there is no such set or part.
    """

    def __init__(self, path: str | Path, split: str = "train", transform: Transform | None = None) -> None:
        if split not in (*PARTS, "all"):
            raise SettingsError(f"split {split!r} is unknown; choose one of {', '.join(PARTS)}, all.")
        self._path = find_store(path)
        self._transform = transform
        self._opened: xr.Dataset | None = None
        self._opener = 0
        of_all = self._fields().split
        self.numbers = np.flatnonzero(np.ones(len(of_all)) if split == "all" else (of_all == split).values)

    def __len__(self) -> int:
        """Number of fields."""
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        """Image and truth of one field."""
        one = self._fields().isel(field=int(self.numbers[index]))
        sample = as_tensors(one.image, {str(name): one[name] for name in _numeric(one)})
        return self._transform(*sample) if self._transform else sample

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process gets: it opens the set by itself."""
        return self.__dict__ | {"_opened": None}

    def _fields(self) -> xr.Dataset:
        # Neither HDF5's nor zarr's open files are to be shared with a forked process.
        if self._opened is None or self._opener != os.getpid():
            self._opened, self._opener = read_set(self._path), os.getpid()
        return self._opened


class SyntheticFields(Dataset):
    """Fields that are synthesized when they are asked for; the same index gives the same field, in whatever process.

    Items are as those of :class:`FieldDataset`: field k is that of the set which ``tiltsim synth`` makes with the same
    recipe, library and seed. Another ``seed`` gives fields that none of that set equals.

    Parameters
    ----------
    recipe : Recipe or path
        Or the name of one that comes with tiltsim.
    library : Library or path
        With a path, each worker process opens it by itself.
    length : int
        Number of fields.
    seed : int
    transform : callable, optional
        Given image and truth, returns what takes the place of both.
    """

    def __init__(
        self,
        recipe: Recipe | str | Path,
        library: Library | str | Path,
        length: int,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        if length < 1:
            raise SettingsError(f"length {length} must be at least 1.")
        self._recipe = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe
        self._path = library if isinstance(library, str | Path) else None
        self._library = open_library(library) if isinstance(library, str | Path) else library
        check_reach(self._recipe, self._library)
        self._length, self._seed, self._transform = length, seed, transform

    def __len__(self) -> int:
        """Number of fields."""
        return self._length

    def __getitem__(self, index: int) -> Any:
        """Image and truth of one field."""
        number = range(self._length)[index]
        made = synthesize(self._recipe, self._library, self._seed, number)
        truth = {str(name): made.truth[name] for name in made.truth.data_vars}
        extra = {"pixel": xr.DataArray(made.recipe.pixel), "field": xr.DataArray(number)}
        sample = as_tensors(made.image, truth | extra)
        return self._transform(*sample) if self._transform else sample

    def __getstate__(self) -> dict[str, Any]:
        """What a spawned worker process gets: the library itself only if it was given as such."""
        return self.__dict__ | ({"_library": None} if self._path else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the library again where it was given by its path."""
        self.__dict__.update(state)
        if self._path is not None:
            self._library = open_library(self._path)


def _numeric(field: xr.Dataset) -> list[Any]:
    """Variables of a field but its image that PyTorch has a type for."""
    names = [*field.data_vars, "pixel", "field"]
    return [name for name in names if name != "image" and field[name].dtype.kind in "fiub"]


def as_tensors(image: xr.DataArray, truth: Mapping[str, xr.DataArray]) -> Sample:
    """An image as float32 with a leading channel, and its truth: float32, int64 or bool."""
    tensors = {}
    for name, variable in truth.items():
        values = np.asarray(variable.values)
        kind = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}[values.dtype.kind]
        tensors[name] = torch.from_numpy(np.array(values, dtype=kind))
    return torch.from_numpy(np.array(image.values, dtype=np.float32)[None]), tensors
