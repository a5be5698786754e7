"""What a network does inside: feature maps and readings of its layers, and where on the cell it reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

import dcnn
from dcnn._attribution_views import plot_attribution, view_attribution
from dcnn._layer_views import plot_activations, view_layers
from tiltsim.errors import SettingsError
from tiltsim.library import Library
from tiltsim.network_studies.drawing import spacing
from tiltsim.network_studies.fields import StudyField, make_field
from tiltsim.network_studies.judging import learn
from tiltsim.network_studies.settings import NetworkStudy
from tiltsim.progress import Reporter, Silent

#: Fields are small and many, because all cells of one share its tilt.
_SIZE = 320
_LARGEST_TILT = 10.0

#: Networks that can be looked into.
_ON_WINDOWS = ("baseline", "residual")


@dataclass(frozen=True, eq=False)
class Windowed:
    """Windows of cells that a network has not seen, with what is true of them.

    Parameters
    ----------
    stack : ndarray, shape (n, pixels, pixels)
    labels : dict of ndarray, shape (n,)
        "d_x", "d_y" (pm), "tilt_x", "tilt_y" (mrad).
    field : ndarray of int, shape (n,)
        Number of the field that each is from.
    edge : float
        Distance between columns of one site, Å.
    """

    stack: NDArray[np.float32]
    labels: dict[str, NDArray[np.float64]]
    field: NDArray[np.int64]
    edge: float


def tilted_fields(
    study: NetworkStudy,
    library: Library,
    count: int,
    first: int = 0,
    reporter: Reporter | None = None,
) -> list[StudyField]:
    """Fields of R3c BiFeO3 of any tilt to 10 mrad (or the library's largest) in any direction, one each."""
    shown = reporter or Silent()
    recipe = study.recipe(0.0)
    largest = min(_LARGEST_TILT, 0.8 * library.tilt_limit)
    specimen = replace(recipe.specimens[0], tilt=(0.0, largest), azimuth=(0.0, 360.0))
    recipe = replace(recipe, size=(_SIZE, _SIZE), specimens=(specimen,))
    shown.stage("tilted fields", count)
    made = []
    for k in range(count):
        made.append(make_field(recipe, library, study.seed, first + k))
        shown.advance(k + 1)
    return made


def fresh_model(
    study: NetworkStudy, library: Library, count: int = 60, reporter: Reporter | None = None
) -> dcnn.Model:
    """A network trained on tilted fields: on d and tilt where labels are the truth, on d alone where they are fits.

    Raises
    ------
    SettingsError
        If the study's network does not see single windows.
    """
    if study.network not in _ON_WINDOWS:
        raise SettingsError(
            f"network {study.network!r} sees more than single windows; choose one of {', '.join(_ON_WINDOWS)}."
        )
    fields = tilted_fields(study, library, count, reporter=reporter)
    targets = ("d", "tilt") if study.labels == "truth" else ("d",)
    return learn(
        fields,
        study,
        dcnn.Windows(),
        reporter,
        targets=targets,
        train_fraction=1.0,
        weight_decay=0.01,
    )


def windows_of(model: dcnn.Model, fields: list[StudyField]) -> Windowed:
    """Cut a model's windows on the fitted columns of fields.

    Raises
    ------
    SettingsError
        If the model's windows do not stand on columns.
    """
    if model.windows.mode != "centred" or model.settings.network == "dense":
        raise SettingsError(
            "--model: its windows stand anywhere on a cell; give one trained with mode centred."
        )
    stacks, labels, numbers = [], [], []
    for k, field in enumerate(fields):
        image, cells = field.labelled("truth")
        cut = dcnn.labelled_windows(image, cells, model.windows, targets=("d", "tilt"))
        stacks.append(cut["intensity"].values)
        labels.append(np.column_stack([cut["d_label"].values, cut["tilt_label"].values]))
        numbers.append(np.full(cut.sizes["window"], k))
    names = ("d_x", "d_y", "tilt_x", "tilt_y")
    return Windowed(
        np.concatenate(stacks),
        dict(zip(names, np.concatenate(labels).T, strict=True)),
        np.concatenate(numbers),
        spacing(fields[0].cells),
    )


def features_study(model: dcnn.Model, windowed: Windowed, cells: int = 1600) -> xr.Dataset:
    """Feature maps, their responses to d and tilt, and linear readings of every layer, judged on the second half of fields.

    Parameters
    ----------
    model : dcnn.Model
    windowed : Windowed
    cells : int
        Number of windows, evenly from all.

    Returns
    -------
    Dataset
        See `dcnn.view_layers`.
    """
    some = _evenly(windowed, cells)
    held_out = windowed.field[some] >= (windowed.field.max() + 1) // 2
    labels = {name: values[some] for name, values in windowed.labels.items()}
    return view_layers(model, windowed.stack[some], labels, held_out)


def _evenly(windowed: Windowed, cells: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, len(windowed.stack) - 1, cells).astype(int))


def features_summary(result: xr.Dataset) -> dict[str, Any]:
    """R² of linear readings, for ``summary.json``."""
    return {
        "cells_held_out": result.attrs["cells_held_out"],
        "r2": {
            str(q): {
                str(layer): float(result.r2.sel(layer=layer, quantity=q)) for layer in result.layer.values
            }
            for q in result["quantity"].values
        },
    }


def saliency_study(model: dcnn.Model, windowed: Windowed, cells: int = 600) -> xr.Dataset:
    """Where on the cell a network reads what it predicts.

    Parameters
    ----------
    model : dcnn.Model
    windowed : Windowed
    cells : int
        Number of windows, evenly from all.

    Returns
    -------
    Dataset
        See `dcnn.view_attribution`.
    """
    some = _evenly(windowed, cells)
    half = windowed.edge / 2
    middle = [(0.0, 0.0)]
    corners = [(x, y) for x in (-half, half) for y in (-half, half)]
    on_b = model.windows.site == "B"
    places = {"A": corners if on_b else middle, "B": middle if on_b else corners}
    return view_attribution(model, windowed.stack[some], places)


def saliency_summary(result: xr.Dataset) -> dict[str, Any]:
    """Share of every target that is read on the columns of each site, for ``summary.json``."""
    return {
        "area": {str(s): float(result.area.sel(site=s)) for s in result.site.values},
        "on_site": {
            str(m): {
                str(t): {
                    str(s): float(result.on_site.sel(approach=m, target=t, site=s))
                    for s in result.site.values
                }
                for t in result.target.values
            }
            for m in result.approach.values
        },
    }


def plot_features(result: xr.Dataset) -> Figure:
    """See `dcnn.plot_activations`."""
    return plot_activations(result)


def plot_saliency(result: xr.Dataset) -> Figure:
    """See `dcnn.plot_attribution`."""
    return plot_attribution(result)
