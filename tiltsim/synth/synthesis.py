"""One synthetic micrograph with its truth: a recipe, a library and a seed in, an image and every cell out."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

import numpy as np
import xarray as xr

from tiltsim.errors import SettingsError
from tiltsim.library import Library
from tiltsim.scheduling import reproducible
from tiltsim.synth.covering import cover
from tiltsim.synth.crystal import MATERIALS, Crystal
from tiltsim.synth.detection import detect
from tiltsim.synth.lattice import grid_shape, lay_out
from tiltsim.synth.painting import paint
from tiltsim.synth.path import ScanPath
from tiltsim.synth.probe import transfer
from tiltsim.synth.ranges import stream
from tiltsim.synth.recipe import Recipe, draw
from tiltsim.synth.scanning import draw_path

_ANGSTROM, _PM, _MRAD, _ONE = ({"units": u} for u in ("Å", "pm", "mrad", "1"))


@dataclass(frozen=True, eq=False)
class Field:
    """A synthetic micrograph.

    Parameters
    ----------
    image : DataArray (y, x)
        What the microscope records; coordinates are pixel numbers times the nominal pixel size, Å.
    truth : Dataset
        See :func:`tiltsim.synth.synthesis.describe`.
    recipe : Recipe
        With the numbers drawn for this field.
    """

    image: xr.DataArray
    truth: xr.Dataset
    recipe: Recipe


def synthesize(recipe: Recipe, library: Library, seed: int = 0, field: int = 0) -> Field:
    """Draw one field of a set.

    Parameters
    ----------
    recipe : Recipe
    library : Library
        Its microscope and detector are the image's.
    seed : int
        Of the set.
    field : int
        Which field of the set: every field is a pure function of (recipe, library, seed, field).

    Returns
    -------
    Field

    Raises
    ------
    SettingsError
        If a draw lies beyond what the library holds, naming the setting.
    """
    if seed < 0 or field < 0:
        raise SettingsError(f"seed {seed} and field {field} must not be negative.")
    settled = draw(recipe, seed, field)
    specimen, faults, pixel = settled.specimens[0], settled.faults, float(np.asarray(settled.pixel))
    # The crystal reaches as far as the beam of any field may stray.
    beyond = (recipe.reached[0] - recipe.extent[0]) / 2
    shapes = [grid_shape(kind, recipe.reached) for kind in recipe.specimens]
    crystal = lay_out(
        specimen,
        (settled.size[1] * pixel + 2 * beyond, settled.size[0] * pixel + 2 * beyond),
        stream(seed, field, "crystal"),
        shape=(max(s[0] for s in shapes), max(s[1] for s in shapes)),
        tilt_limit_mrad=library.tilt_limit,
        thickness_limits=library.thickness_range,
    )
    crystal = replace(crystal, a=crystal.a - beyond, b=crystal.b - beyond)
    path = draw_path(faults.scan, settled.size, pixel, stream(seed, field, "scan"))
    microscope = library.request.microscope
    thickness = float(crystal.thickness.mean())
    with reproducible(1):  # sums may depend in their last bit on the number
        image = paint(
            crystal, library, path, partial(transfer, faults.probe, microscope, thickness=thickness)
        )
        image = cover(image, faults.cover, pixel, stream(seed, field, "cover"))
        recorded, attributes = detect(image, faults.detection, pixel, stream(seed, field, "detection"))
    rows, columns = settled.size
    return Field(
        xr.DataArray(
            recorded,
            dims=("y", "x"),
            coords={
                "y": ("y", np.arange(rows) * pixel, {**_ANGSTROM, "long_name": "down the image"}),
                "x": ("x", np.arange(columns) * pixel, _ANGSTROM),
            },
            attrs={
                "units": "counts" if faults.detection.bits or np.isfinite(attributes["dose_per_A2"]) else "1",
                **attributes,
                "pixel_size_angstrom": pixel,
                "calibrated": 1,
                "source": "tiltsim synthetic field",
                "seed": seed,
                "field": field,
                "library": library.digest,
                "recipe": json.dumps(settled.as_dict(), ensure_ascii=False),
                "tiltsim_version": version("tiltsim"),
            },
        ),
        describe(crystal, path),
        settled,
    )


def describe(crystal: Crystal, path: ScanPath) -> xr.Dataset:
    """The truth of a field.

    Returns
    -------
    Dataset
        dims (row, column) of cells and (row_a, column_a) of A columns, one more each. ``a``, ``b``: true mean positions on
        the specimen, Å; ``a_image``, ``b_image``: where the image shows those places, Å (pixel number × nominal pixel size,
        scan faults and the entrance surface's height included); ``d``: mean of the surrounding A columns − B column on the
        specimen, pm; ``d_image``: the same as turned, sheared and scaled by the scan: the label of an image that nobody has
        corrected; ``tilt``: of the beam in the cell's crystal, mrad; ``thickness``, ``height``, Å; ``samarium``: of each A column; ``domain`` and ``material``: numbers of
        the attributes' names; ``inside``: whether the image shows the whole cell.
    """
    a_image, b_image = path.shown_at(crystal.shown_a), path.shown_at(crystal.shown_b)
    # Scale, shear, rotation and steady drift of the scan; what varies from row to row is noise on d.
    steady = np.linalg.inv(path.matrix) * path.pixel
    limits = (np.array(path.shape[::-1]) - 1) * path.pixel
    corners = np.asarray(np.all((a_image >= 0) & (a_image <= limits), axis=-1))
    inside = corners[:-1, :-1] & corners[1:, :-1] & corners[:-1, 1:] & corners[1:, 1:]
    cell, corner, vector = ("row", "column"), ("row_a", "column_a"), ("component",)
    entrance = {"long_name": "true mean position on the entrance surface"}
    image = {"long_name": "where the image shows it"}
    return xr.Dataset(
        {
            "a": ((*corner, *vector), crystal.a, _ANGSTROM | entrance),
            "b": ((*cell, *vector), crystal.b, _ANGSTROM | entrance),
            "a_image": ((*corner, *vector), a_image, _ANGSTROM | image),
            "b_image": ((*cell, *vector), b_image, _ANGSTROM | image),
            "d": ((*cell, *vector), crystal.d, _PM | {"long_name": "mean of surrounding A columns − B column"}),
            "d_image": ((*cell, *vector), crystal.d @ steady.T, _PM | {"long_name": "d as a steady scan shows it"}),
            "tilt": ((*cell, *vector), crystal.tilt, _MRAD | {"long_name": "direction of the beam inside this crystal"}),
            "thickness": (cell, crystal.thickness, _ANGSTROM),
            "height": (cell, crystal.height, _ANGSTROM | {"long_name": "depth of the entrance surface"}),
            "samarium": (corner, crystal.samarium, _ONE | {"long_name": "fraction of Sm in the A column"}),
            "domain": (cell, crystal.domain.astype(np.int16), _ONE),
            "material": (cell, crystal.material.astype(np.int16), _ONE),
            "inside": (cell, inside, _ONE | {"long_name": "the image shows the whole cell"}),
        },
        coords={"component": ["x", "y"]},
        attrs={
            "domain_names": "; ".join(crystal.domain_names),
            "material_names": "; ".join(MATERIALS),
            "convention": "d = mean of surrounding A columns − B column; x right, y down",
        },
    )  # fmt: skip
