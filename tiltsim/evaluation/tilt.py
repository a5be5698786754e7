"""How well a model tells tilt, from single cells to hundreds, against what the counts allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

import dcnn
from tiltsim.bounds.figures import in_powers
from tiltsim.bounds.fisher import NUISANCE, tilt_bound
from tiltsim.bounds.folding import Grating, fold
from tiltsim.bounds.likelihood import BINS, fit_folded, in_image_axes
from tiltsim.bounds.response import library_response
from tiltsim.errors import SettingsError
from tiltsim.evaluation.uniform_fields import (
    PIXEL,
    SOURCE,
    UniformField,
    cells_within,
    patches,
    priors,
    uniform_field,
)
from tiltsim.images import apply_dose
from tiltsim.library import Library
from tiltsim.seeds import EVALUATION

Floats = NDArray[np.float64]

#: What tells tilts: an image and its cells (``x``, ``y`` of B columns, Å) in, a dataset with ``tilt`` (cell, component) mrad out.
Predictor = Callable[[xr.DataArray, xr.Dataset], xr.Dataset]

_STREAM = 77


def as_predictor(model: dcnn.Model | Predictor) -> Predictor:
    """What :func:`tilt_accuracy` asks, from a network."""
    if not isinstance(model, dcnn.Model):
        return model
    if "tilt" not in getattr(model, "targets", ()):
        raise SettingsError('the model tells no tilt; train one with targets ("d", "tilt", "thickness").')

    def predictor(image: xr.DataArray, cells: xr.Dataset) -> xr.Dataset:
        return dcnn.predict(model, image, cells)

    return predictor


def tilt_accuracy(
    model: dcnn.Model | Predictor | None,
    library: Library,
    *,
    cells: Sequence[float] = (1, 20, 400),
    doses: Sequence[float] = (1e4, 4e4, 1e5),
    fields: int = 20,
    seed: int = 0,
    window: float = 6.0,
    most_patches: int = 9,
    likelihood: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Errors of a model's tilt on uniform crystals, beside the bound of the very pixels that it saw.

    Parameters
    ----------
    model : dcnn.Model, callable or None
        A network with the target "tilt"; or any :data:`Predictor`; None to leave it out. Its tilts are averaged over the cells.
    library : Library
    cells : sequence of float
        How many cells an image shows.
    doses : sequence of float
        Electrons per Å².
    fields : int
        Crystals of different tilt, thickness and d.
    seed : int
        Of the crystals; counts from :data:`tiltsim.seeds.EVALUATION`, where no training draws.
    window : float
        Least side of an image, Å: what the model must see to say anything about one cell. The bound is that of this area.
    most_patches : int
        Images of each size from each field.
    likelihood : bool
        Also fit each image by :func:`tiltsim.bounds.likelihood.fit_folded`, with a prior as wide as the tilts that are drawn.
    progress : callable, optional
        Called as ``progress(done, fields)``.

    Returns
    -------
    Dataset
        dims (estimator, field, dose, cells, patch, component): ``error``, mrad, NaN where there is no patch or no answer;
        ``bound``, ``bound_prior`` (field, dose, cells, component), without and with a Gaussian prior as wide as what was drawn;
        ``cells_seen`` (cells); ``tilt`` (field, component), ``thickness`` (field); and over all of it
        ``rmse`` (estimator, dose, cells) with its standard error ``rmse_sem``, ``rms_bound`` and ``rms_bound_prior`` (dose, cells)
        and ``ratio``, rms of error by ``bound``.

    Raises
    ------
    SettingsError
        If the model tells no tilt or an argument is impossible.
    """
    if fields < 1 or most_patches < 1 or not cells or not doses or min(cells) <= 0:
        raise SettingsError("fields, most_patches, cells and doses must be positive.")
    if model is None and not likelihood:
        raise SettingsError("give a model, or likelihood=True.")
    predictor = None if model is None else as_predictor(model)
    names = [
        name for name, used in (("model", predictor), ("likelihood", likelihood or None)) if used is not None
    ]
    shape = (fields, len(doses), len(cells), most_patches, 2)
    errors = {name: np.full(shape, np.nan) for name in names}
    bound, bound_prior = (np.full((*shape[:3], 2), np.nan) for _ in range(2))
    seen = np.zeros(len(cells))
    truth: list[UniformField] = []
    side = np.sqrt(max(cells)) * library.edges["BiFeO3"] * 1.02 + 2 * library.edges["BiFeO3"]
    known = priors(library)
    widths = {name: width for name, (_, width) in known.items()}
    for number in range(fields):
        field = uniform_field(library, max(side, 3 * window), EVALUATION + seed, number)
        truth.append(field)
        along = _turned_back(field.lattice, np.stack([field.tilt, field.d]))
        response = library_response(
            library, tilt=tuple(along[0]), thickness=field.thickness, d=tuple(along[1])
        )
        for k, dose in enumerate(doses):
            noise = int(np.random.default_rng([_STREAM, seed, number, k]).integers(2**31))
            noisy = replace(field, image=apply_dose(field.image, dose, noise))
            for m, wanted in enumerate(cells):
                pieces = patches(noisy, wanted, window, most_patches)
                folded = [fold(piece, field.lattice, BINS) for piece in pieces]
                seen[m] = folded[0].cells
                for result, prior in ((bound, None), (bound_prior, widths)):
                    one = tilt_bound(
                        response, dose_per_A2=dose, cells=folded[0].cells, source_fwhm=SOURCE, pixel=PIXEL, prior=prior
                    )  # fmt: skip
                    # In the mean of variances, which a turn of the axes keeps.
                    result[number, k, m] = np.sqrt((one["std"].values[:2] ** 2).mean())
                if predictor is not None:
                    for p, piece in enumerate(pieces):
                        told = _told(predictor, piece, cells_within(field.cells, piece))
                        errors["model"][number, k, m, p] = told - field.tilt
                if likelihood:
                    found = fit_folded(folded, library, prior=known)
                    fitted = in_image_axes(found, [field.lattice] * len(folded))["tilt"].values
                    errors["likelihood"][number, k, m, : len(pieces)] = fitted - field.tilt
        if progress is not None:
            progress(number + 1, fields)
    return _dataset(errors, bound, bound_prior, seen, truth, cells, doses, library)


def _told(predictor: Predictor, image: xr.DataArray, cells: xr.Dataset) -> Floats:
    """Mean tilt (2) that a model tells of an image's cells, mrad; NaN if it says nothing."""
    if not cells.sizes["cell"]:
        return np.full(2, np.nan)
    answer = predictor(image, cells)
    if not answer.sizes["cell"]:
        return np.full(2, np.nan)
    return np.asarray(answer["tilt"].transpose("cell", "component").values.mean(axis=0), dtype=float)


def _turned_back(lattice: Grating, vectors: Floats) -> Floats:
    """Components along the lattice's axes of ``vectors`` (…, 2) along the image's."""
    c, s = np.cos(lattice.angle), np.sin(lattice.angle)
    return np.stack(
        [c * vectors[..., 0] + s * vectors[..., 1], c * vectors[..., 1] - s * vectors[..., 0]], -1
    )


def _dataset(
    errors: dict[str, Floats], bound: Floats, bound_prior: Floats, seen: Floats, truth: Sequence[UniformField],
    cells: Sequence[float], doses: Sequence[float], library: Library,
) -> xr.Dataset:  # fmt: skip
    mrad = {"units": "mrad"}
    over = ("field", "patch", "component")
    table = xr.Dataset(
        {
            "error": (
                ("estimator", "field", "dose", "cells", "patch", "component"),
                np.stack(list(errors.values())), mrad | {"long_name": "tilt told − true tilt"},
            ),
            "bound": (("field", "dose", "cells", "component"), bound, mrad | {"long_name": "Cramér–Rao bound"}),
            "bound_prior": (("field", "dose", "cells", "component"), bound_prior, mrad | {"long_name": "with a prior"}),
            "cells_seen": ("cells", seen, {"units": "1", "long_name": "area of the image in cells"}),
            "tilt": (("field", "component"), np.stack([f.tilt for f in truth]), mrad),
            "thickness": ("field", [f.thickness for f in truth], {"units": "Å"}),
        },
        coords={
            "estimator": list(errors), "component": ["x", "y"],
            "cells": ("cells", np.asarray(cells, dtype=float), {"units": "1"}),
            "dose": ("dose", np.asarray(doses, dtype=float), {"units": "e/Å²"}),
        },
        attrs={"library": library.digest, "nuisance": ", ".join(NUISANCE)},
    )  # fmt: skip
    table["rmse"] = ((table["error"] ** 2).mean(over) ** 0.5).assign_attrs(mrad)
    # Errors within a field are of one crystal: fields scatter, not patches.
    of_field = (table["error"] ** 2).mean(("patch", "component"))
    sem = of_field.std("field", ddof=min(1, len(truth) - 1)) / np.sqrt(len(truth))
    table["rmse_sem"] = (sem / (2 * table["rmse"])).assign_attrs(mrad)
    for name in ("bound", "bound_prior"):
        table[f"rms_{name}"] = ((table[name] ** 2).mean(("field", "component")) ** 0.5).assign_attrs(mrad)
    table["ratio"] = (((table["error"] / table["bound"]) ** 2).mean(over) ** 0.5).assign_attrs(units="1")
    return table


def plot_tilt_accuracy(table: xr.Dataset) -> Figure:
    """Draw errors and bounds against the number of cells, one panel a dose.

    Parameters
    ----------
    table : Dataset
        From :func:`tilt_accuracy`.

    Returns
    -------
    Figure
        Root mean square errors of a component of tilt as marks, the Cramér–Rao bound as a line, with a prior dashed.
    """
    number = table.sizes["dose"]
    figure = Figure(figsize=(2.2 * number + 0.6, 2.7), layout="constrained")
    axes = figure.subplots(1, number, sharey=True, squeeze=False)[0]
    styles = {"model": ("o", "#D55E00", "network"), "likelihood": ("s", "#0072B2", "likelihood, with prior")}
    for letter, ax, dose in zip("abcdefgh", axes, table.dose.values, strict=False):
        one = table.sel(dose=dose).sortby("cells")
        ax.plot(one.cells_seen, one.rms_bound, color="k", lw=1.2, label="Cramér–Rao bound")
        ax.plot(one.cells_seen, one.rms_bound_prior, color="k", lw=1.0, ls="--", label="with prior")
        for name in one.estimator.values:
            marker, colour, label = styles.get(str(name), ("^", "#009E73", str(name)))
            ax.errorbar(
                one.cells_seen,
                one["rmse"].sel(estimator=name),
                one["rmse_sem"].sel(estimator=name),
                marker=marker,
                ms=4,
                lw=0.8,
                color=colour,
                label=label,
            )
        ax.set_xscale("log")
        ax.set_yscale("log")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("cells in the image", fontsize=8)
        ax.set_title(f"({letter}) {in_powers(float(dose))} e/Å²", fontsize=8, loc="left", pad=3)
        ax.tick_params(labelsize=7, direction="in", top=True, right=True, which="both")
        ax.grid(alpha=0.25, linewidth=0.4)
    axes[0].set_ylabel("error of a tilt component, rms (mrad)", fontsize=8)
    axes[-1].legend(fontsize=6.5, frameon=False)
    return figure
