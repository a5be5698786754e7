"""Synthetic fields as a network wants them: an image, and its cells with labels."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

import analysis
import dcnn
from tiltsim.errors import SettingsError
from tiltsim.library import Library, open_library
from tiltsim.synth.reading import find_store, read_set
from tiltsim.synth.recipe import PARTS, Recipe
from tiltsim.synth.shards import check_reach
from tiltsim.synth.synthesis import Field, synthesize

#: Labels of cells: what the specimen is, or what column fitting finds in the image.
Labels = Literal["truth", "fit"]

LABELS = get_args(Labels)

#: An image and its cells.
Labelled = tuple[xr.DataArray, xr.Dataset]


def labelled(field: Field, labels: Labels = "truth") -> Labelled:
    """An image and its cells, as :func:`dcnn.train` takes them.

    Parameters
    ----------
    field : Field
        From :func:`~tiltsim.synth.synthesis.synthesize`.
    labels : {"truth", "fit"}
        Truth, at the true places of the columns; or what :func:`analysis.measure` finds, tilts and thicknesses being unknown.

    Returns
    -------
    image : DataArray (y, x)
    cells : Dataset
        Dim cell: ``x``, ``y`` (Å), ``d`` (cell, component) pm as the scan shows it, ``flag``; with truth also ``tilt``
        (cell, component) mrad and ``thickness`` Å; and ``x_a``, ``y_a`` (column_a), the A columns, Å.

    Raises
    ------
    SettingsError
        If the labels are of another kind.
    analysis.ImageError
        If labels are fitted and no lattice is found.
    """
    check_labels(labels)
    return _with_labels(field.image, field.truth, labels)


def check_labels(labels: str) -> None:
    """Refuse labels of another kind."""
    if labels not in LABELS:
        raise SettingsError(f"labels {labels!r} are unknown; choose one of {', '.join(LABELS)}.")


def _with_labels(image: xr.DataArray, truth: xr.Dataset, labels: str) -> Labelled:
    if labels == "fit":
        measured = analysis.measure(image)
        return image, dcnn.with_columns(measured.unit_cells, measured.columns)
    return image, true_cells(truth)


def true_cells(truth: xr.Dataset) -> xr.Dataset:
    """Table of the cells that the image shows whole, see :func:`labelled`."""
    cells = truth[["b_image", "d_image", "tilt", "thickness", "inside"]].stack(
        cell=("row", "column"), create_index=False
    )
    cells = cells.isel(cell=np.flatnonzero(cells.inside.values))
    vectors = {
        name: cells[source].transpose("cell", "component").assign_attrs(truth[source].attrs)
        for name, source in (("d", "d_image"), ("tilt", "tilt"))
    }
    place = {
        axis: cells.b_image.sel(component=axis, drop=True).assign_attrs(units="Å") for axis in ("x", "y")
    }
    table = xr.Dataset({**place, **vectors, "thickness": cells.thickness})
    table["flag"] = ("cell", np.zeros(table.sizes["cell"], np.uint8), {"units": "1"})
    for axis in ("x", "y"):
        at = truth.a_image.sel(component=axis, drop=True).values.ravel()
        table[f"{axis}_a"] = ("column_a", at, {"units": "Å", "long_name": "place of an A column"})
    return table.assign_attrs(convention=truth.attrs.get("convention", ""))


class SetFields(Sequence[Labelled]):
    """Labelled fields of one part of a set that ``tiltsim synth`` wrote, read when they are asked for.

    Parameters
    ----------
    path : path
        Folder of the set, or its store.
    part : str
        "train", "validation" or "test".
    labels : {"truth", "fit"}

    Raises
    ------
    SettingsError
        If there is no such set or part.
    """

    def __init__(self, path: str | Path, part: str = "train", labels: Labels = "truth") -> None:
        check_labels(labels)
        if part not in PARTS:
            raise SettingsError(f"part {part!r} is unknown; choose one of {', '.join(PARTS)}.")
        self._set = read_set(find_store(path))
        self._labels = labels
        self._numbers = np.flatnonzero((self._set.split == part).values)

    @property
    def about(self) -> dict[str, Any]:
        """Where the fields come from, for the card of a model: JSON-able."""
        known = ("recipe", "recipe_digest", "library_digest", "seed", "tiltsim_version")
        attrs = {name: _plain(self._set.attrs[name]) for name in known if name in self._set.attrs}
        return {"set": attrs, "fields": len(self), "labels": self._labels}

    def __len__(self) -> int:
        """Number of fields."""
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        """Image and cells of one field."""
        one = self._set.isel(field=int(self._numbers[index])).load()
        about = json.loads(str(one.about.values))
        pixel = float(one.pixel)
        at = {axis: (axis, np.arange(one.sizes[axis]) * pixel, {"units": "Å"}) for axis in ("y", "x")}
        image = xr.DataArray(one.image.values, dims=("y", "x"), coords=at, attrs=about["image"])
        return _with_labels(image, one.assign_attrs(about["truth"]), self._labels)


class SynthesizedFields(Sequence[Labelled]):
    """Labelled fields that are synthesized when they are asked for, and while the one before is worked on.

    Parameters
    ----------
    recipe : Recipe
    library : Library or path
    length : int
        Number of fields.
    seed : int
        Field k is that of the set which ``tiltsim synth`` makes with this seed.
    labels : {"truth", "fit"}
    first : int
        Number of the first field.
    ahead : int
        Fields made ahead by one other process, where they are asked for in order and the library is a path; 0: none.
    """

    def __init__(
        self,
        recipe: Recipe,
        library: Library | str | Path,
        length: int,
        seed: int = 0,
        labels: Labels = "truth",
        first: int = 0,
        ahead: int = 8,
    ) -> None:
        check_labels(labels)
        if length < 1:
            raise SettingsError(f"The number of fields must be at least 1, not {length}.")
        self._library = library if isinstance(library, Library) else open_library(library)
        self._path = None if isinstance(library, Library) else Path(library)
        check_reach(recipe, self._library)
        self._recipe, self._length, self._seed, self._labels = recipe, length, seed, labels
        self._first, self._ahead = first, ahead
        self._pool: ProcessPoolExecutor | None = None
        self._made: dict[int, Future[Labelled]] = {}

    @property
    def about(self) -> dict[str, Any]:
        """Where the fields come from, for the card of a model: JSON-able."""
        return {
            "recipe": self._recipe.as_dict(),
            "library": self._library.digest,
            "seed": self._seed,
            "first_field": self._first,
            "fields": self._length,
            "labels": self._labels,
        }

    def __len__(self) -> int:
        """Number of fields."""
        return self._length

    def __getitem__(self, index: Any) -> Any:
        """Image and cells of one field."""
        number = range(self._length)[index]
        if self._path is None or self._ahead == 0:
            field = synthesize(self._recipe, self._library, self._seed, self._first + number)
            return labelled(field, self._labels)
        if self._pool is None:
            # Forked, a process would share locks of threads that are not in it.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=_open, initargs=(str(self._path),))
        for n in range(number, min(number + self._ahead, self._length)):
            if n not in self._made:
                of_one = (self._recipe, self._seed, self._first + n, self._labels)
                self._made[n] = self._pool.submit(_make, *of_one)
        made = self._made.pop(number).result()
        if number == self._length - 1:
            self.close()
        return made

    def close(self) -> None:
        """End the other process."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool, self._made = None, {}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


_OPENED: dict[str, Library] = {}


def _open(path: str) -> None:
    _OPENED["library"] = open_library(path)


def _make(recipe: Recipe, seed: int, number: int, labels: Labels) -> Labelled:
    return labelled(synthesize(recipe, _OPENED["library"], seed, number), labels)
