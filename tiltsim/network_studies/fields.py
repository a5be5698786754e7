"""Fields of a study: image, fitted cells, and what is true of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

import analysis
import dcnn
from tiltsim.errors import SettingsError
from tiltsim.library import Library
from tiltsim.network_studies.settings import NetworkStudy
from tiltsim.synth.labelling import Labels, true_cells
from tiltsim.synth.recipe import Recipe
from tiltsim.synth.synthesis import synthesize

#: A fitted column this far (Å) from every true one is none of them.
_NEAREST = 1.0


@dataclass(frozen=True, eq=False)
class StudyField:
    """One synthetic image with its cells.

    Parameters
    ----------
    image : DataArray (y, x)
    cells : Dataset
        Dim cell: ``x``, ``y`` (Å) where the B column was fitted, ``d_fit`` and ``d_true`` (cell, component) pm, ``tilt``
        (cell, component) mrad, ``thickness`` Å, ``flag``; and ``x_a``, ``y_a`` (column_a) of fitted A columns, Å.
    """

    image: xr.DataArray
    cells: xr.Dataset

    def labelled(self, labels: Labels) -> tuple[xr.DataArray, xr.Dataset]:
        """Image and cells with labels ``d``, as `dcnn.train` takes them."""
        source = "d_fit" if labels == "fit" else "d_true"
        kept = self.cells.drop_vars(["d_fit", "d_true"]).assign(d=self.cells[source])
        # Fits know neither tilt nor thickness.
        return self.image, kept.drop_vars(["tilt", "thickness"]) if labels == "fit" else kept


def make_field(recipe: Recipe, library: Library, seed: int, field: int = 0) -> StudyField:
    """Synthesize a field and fit it.

    Raises
    ------
    SettingsError
        If the library does not reach as far, or fits find too few of the true cells for anything to be learned.
    """
    made = synthesize(recipe, library, seed, field)
    measured = analysis.measure(made.image)
    cells = matched(measured.unit_cells, true_cells(made.truth))
    return StudyField(made.image, dcnn.with_columns(cells, measured.columns))


def make_fields(
    study: NetworkStudy, library: Library, samarium: float, dose: float | None = None
) -> list[StudyField]:
    """All fields of one composition; another dose shows the same specimens."""
    recipe = study.recipe(samarium, dose)
    return [make_field(recipe, library, study.seed, k) for k in range(study.fields)]


def matched(fitted: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """Fitted cells that are not flagged, each with the truth of the true cell that it lies on."""
    good = fitted.isel(cell=np.flatnonzero(fitted["flag"].values == 0))
    at, found = _places(good), _places(truth)
    if not len(at) or not len(found):
        raise SettingsError("Column fits found no whole cell; raise dose_per_A2 or size.")
    distance, nearest = cKDTree(found).query(at)
    keep = np.flatnonzero(distance < _NEAREST)
    if len(keep) < 0.5 * len(found):
        raise SettingsError(
            f"Column fits found {len(keep)} of {len(found)} cells; raise dose_per_A2, or choose a tilt and thickness "
            "at which columns can be told apart."
        )
    good, true = good.isel(cell=keep), truth.isel(cell=nearest[keep])
    components = ["x", "y"]
    pm = {"units": "pm"}
    return xr.Dataset(
        {
            "x": ("cell", at[keep, 0], {"units": "Å"}),
            "y": ("cell", at[keep, 1], {"units": "Å"}),
            "d_fit": (
                ("cell", "component"),
                good["d"].sel(component=components).transpose("cell", "component").values,
                pm | {"long_name": "fitted displacement, mean of the surrounding A columns − B column"},
            ),
            "d_true": (
                ("cell", "component"),
                true["d"].sel(component=components).transpose("cell", "component").values,
                pm | {"long_name": "true displacement, mean of the surrounding A columns − B column"},
            ),
            "tilt": (("cell", "component"), true["tilt"].values, {"units": "mrad"}),
            "thickness": ("cell", true["thickness"].values, {"units": "Å"}),
            "flag": ("cell", np.zeros(len(keep), np.uint8), {"units": "1"}),
        },
        coords={"component": components},
    )


def _places(cells: xr.Dataset) -> NDArray[np.float64]:
    return np.column_stack([cells["x"].values, cells["y"].values]).astype(float)
