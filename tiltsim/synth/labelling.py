"""Synthetic fields as a network wants them: an image, and its cells with labels."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import xarray as xr

import analysis
from tiltsim.errors import SettingsError
from tiltsim.synth.synthesis import Field

#: Labels of cells: what the specimen is, or what column fitting finds in the image.
Labels = Literal["truth", "fit"]

LABELS = get_args(Labels)


def labelled(field: Field, labels: Labels = "truth") -> tuple[xr.DataArray, xr.Dataset]:
    """An image and its cells, as :func:`dcnn.train` takes them.

    Parameters
    ----------
    field : Field
        From :func:`~tiltsim.synth.synthesis.synthesize`.
    labels : {"truth", "fit"}
        Truth, at the true places of the B columns; or what :func:`analysis.measure` finds, tilts and thicknesses being unknown.

    Returns
    -------
    image : DataArray (y, x)
    cells : Dataset
        Dim cell: ``x``, ``y`` (Å), ``d`` (cell, component) pm as the scan shows it, ``flag``; with truth also ``tilt``
        (cell, component) mrad and ``thickness`` Å.

    Raises
    ------
    SettingsError
        If the labels are of another kind.
    analysis.ImageError
        If labels are fitted and no lattice is found.
    """
    if labels not in LABELS:
        raise SettingsError(f"labels {labels!r} are unknown; choose one of {', '.join(LABELS)}.")
    if labels == "fit":
        return field.image, analysis.measure(field.image).unit_cells
    return field.image, true_cells(field.truth)


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
    return table.assign_attrs(convention=truth.attrs["convention"])
