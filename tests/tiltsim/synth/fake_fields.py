"""Stands in for the synthesis where only the writing of fields is tested: random counts, and a truth of its layout."""

import os
import time
from types import SimpleNamespace

import numpy as np
import xarray as xr

from tiltsim.synth.ranges import stream
from tiltsim.synth.recipe import draw, parse_recipe

LIBRARY = SimpleNamespace(digest="fake", tilt_limit=16.0, thickness_range=(20.0, 400.0))

TABLE = {
    "title": "fake",
    "size": [64, 80],
    "pixel": 0.25,
    "specimens": [{"weight": 3, "samarium": [0.0, 0.1]}, {"thickness": [50.0, 100.0]}],
    "detection": {"dose_per_A2": [1e4, 1e5]},
}

RECIPE = parse_recipe(TABLE)


def synthesize(recipe, library, seed=0, field=0):
    """A field that follows from the seed and the number, and takes ``FAKE_SECONDS``."""
    time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
    settled = draw(recipe, seed, field)
    rng = stream(seed, field, "detection")
    rows, columns = recipe.size
    y, x = (np.arange(n) * settled.pixel for n in recipe.size)
    length = {"units": "Å"}
    image = xr.DataArray(
        rng.poisson(20.0, recipe.size).astype(np.uint16),
        {"y": ("y", y, length), "x": ("x", x, length)},
        name="image",
        attrs={"units": "counts", "gain": rng.random()},
    )
    cells = (rows // 16, columns // 16)
    place = np.stack(np.meshgrid(np.arange(cells[1]) * 4.0 + 2, np.arange(cells[0]) * 4.0 + 2), axis=-1)
    pair = ("row", "column", "component")
    offset = rng.normal(0, 0.1, place.shape)
    d = rng.normal(0, 20, place.shape)
    truth = xr.Dataset(
        {
            "b_image": (pair, place + offset, length),
            "d": (pair, d, {"units": "pm"}),
            "d_image": (pair, d, {"units": "pm"}),
            "tilt": (pair, np.full(place.shape, 3.0), {"units": "mrad"}),
            "thickness": (("row", "column"), np.full(cells, 80.0), length),
            "a": (("row_a", "column_a", "component"), rng.random((cells[0] + 1, cells[1] + 1, 2)), length),
            "domain": (("row", "column"), np.zeros(cells, dtype=np.int16)),
            "inside": (("row", "column"), np.ones(cells, dtype=bool)),
        },
        coords={"component": ["x", "y"]},
        attrs={"domain_names": ["[111]"]},
    )
    return SimpleNamespace(image=image, truth=truth, recipe=settled)
