"""How well a model tells tilt, from single cells to hundreds, against what the counts allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

import dcnn
from tiltsim.errors import SettingsError
from tiltsim.fisher import NUISANCE, tilt_bound
from tiltsim.folding import Grating, fold, grating
from tiltsim.images import apply_dose
from tiltsim.library import Library
from tiltsim.synth import synthesize
from tiltsim.synth.faults import Faults
from tiltsim.synth.labelling import true_cells
from tiltsim.synth.probe import ProbeFaults
from tiltsim.synth.recipe import Recipe
from tiltsim.synth.specimen_request import SpecimenRequest
from tiltsim.tilt_likelihood import BINS, fit_folded, in_image_axes

Floats = NDArray[np.float64]

#: What tells tilts: an image and its cells (``x``, ``y`` of B columns, Å) in, a dataset with ``tilt`` (cell, component) mrad out.
Predictor = Callable[[xr.DataArray, xr.Dataset], xr.Dataset]

#: Largest tilt of a field, mrad; static disorder, pm, of every other field; pixel, Å; source, Å.
_TILT, _DISORDER, _PIXEL, _SOURCE = 10.0, 2.0, 0.2, 0.8

#: Thicknesses that are drawn, Å, where the library has them, and d relative to bulk.
_THICKNESS, _POLAR = (50.0, 390.0), (0.2, 1.2)

#: Two pixels to spare around a window.
_SPARE = 2

_STREAM = 77


@dataclass(frozen=True, eq=False)
class UniformField:
    """A crystal that is the same everywhere, free of noise, and what is true of it."""

    image: xr.DataArray
    cells: xr.Dataset
    lattice: Grating
    tilt: Floats
    thickness: float
    d: Floats


def uniform_field(library: Library, edge: float, seed: int, number: int) -> UniformField:
    """Draw one field.

    Parameters
    ----------
    library : Library
    edge : float
        Of the square image, Å.
    seed, number : int
        Every field is a function of the library and of these; odd ones have static disorder of 2 pm.
    """
    low, high = library.thickness_range
    limit = min(_TILT, library.tilt_limit / 1.3)
    disorder = _DISORDER * (number % 2)
    specimen = SpecimenRequest(
        phase="R3c", polar=_POLAR, tilt=(0.0, limit), rotation=(-3.0, 3.0), disorder_a=disorder, disorder_b=disorder,
        thickness=(max(low * 1.02, min(_THICKNESS[0], high / 2)), min(_THICKNESS[1], high * 0.98)),
    )  # fmt: skip
    pixels = int(np.ceil(edge / _PIXEL))
    recipe = Recipe(
        title="One uniform crystal", size=(max(64, pixels),) * 2, pixel=_PIXEL, specimens=(specimen,),
        faults=Faults(probe=ProbeFaults(source_fwhm=_SOURCE)),
    )  # fmt: skip
    field = synthesize(recipe, library, seed, number)
    cells = true_cells(field.truth)
    lattice = grating(np.column_stack([cells.x.values, cells.y.values]))
    return UniformField(
        field.image,
        cells,
        lattice,
        cells["tilt"].values.mean(axis=0),
        float(cells["thickness"].mean()),
        cells["d"].values.mean(axis=0),
    )


def patches(field: UniformField, cells: float, window: float, most: int) -> list[xr.DataArray]:
    """Disjoint square pieces of an image that show as many ``cells``, or one ``window`` (Å) where that is more.

    The first piece lies as central as a whole number of pieces allows; a piece of a single window is centred on a B column.
    """
    area = float(abs(np.linalg.det(field.lattice.frame)))
    side = max(np.sqrt(cells * area), window + _SPARE * _PIXEL)
    size = round(side / _PIXEL)
    rows, columns = field.image.shape
    if size > min(rows, columns):
        raise SettingsError(
            f"cells {cells:g} do not fit into a field of {rows} × {columns} pixels; make it larger."
        )
    found: list[xr.DataArray] = []
    xy = np.column_stack([field.cells.x.values, field.cells.y.values])
    count = min(rows, columns) // size
    start = (min(rows, columns) - count * size) // 2
    for i in range(count):
        for j in range(count):
            corner = np.array([start + j * size, start + i * size])  # x, y
            if side > np.sqrt(cells * area):
                # Onto the column nearest to the middle; pieces may then overlap by a part of a cell's edge at most.
                middle = (corner + size / 2) * _PIXEL
                nearest = xy[np.argmin(((xy - middle) ** 2).sum(axis=1))]
                corner = np.clip(
                    np.round(nearest / _PIXEL - (size - 1) / 2), 0, min(rows, columns) - size
                ).astype(int)
            found.append(
                field.image.isel(y=slice(corner[1], corner[1] + size), x=slice(corner[0], corner[0] + size))
            )
    # Spread over the field rather than from one corner.
    chosen = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))
    return [found[n] for n in chosen]


def cells_within(cells: xr.Dataset, image: xr.DataArray) -> xr.Dataset:
    """Those of ``cells`` whose B column ``image`` shows."""
    inside = np.ones(cells.sizes["cell"], dtype=bool)
    for name in ("x", "y"):
        axis = image[name].values
        inside &= (cells[name].values >= axis[0]) & (cells[name].values <= axis[-1])
    return cells.isel(cell=np.flatnonzero(inside))


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
    window : float
        Least side of an image, Å: what the model must see to say anything about one cell. The bound is that of this area.
    most_patches : int
        Images of each size from each field.
    likelihood : bool
        Also fit each image by :func:`tiltsim.tilt_likelihood.fit_folded`, with a prior as wide as the tilts that are drawn.
    progress : callable, optional
        Called as ``progress(done, fields)``.

    Returns
    -------
    Dataset
        dims (estimator, field, dose, cells, patch, component): ``error``, mrad, NaN where there is no patch or no answer;
        ``bound``, ``bound_prior`` (field, dose, cells, component), without and with a Gaussian prior as wide as what was drawn;
        ``cells_seen`` (cells); ``tilt`` (field, component), ``thickness`` (field); and over all of it
        ``rmse`` (estimator, dose, cells), ``rms_bound`` and ``rms_bound_prior`` (dose, cells) and ``ratio``, rms of error by
        ``bound``.

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
    priors = _priors(library)
    for number in range(fields):
        field = uniform_field(library, max(side, 3 * window), seed, number)
        truth.append(field)
        along = _turned_back(field.lattice, np.stack([field.tilt, field.d]))
        for k, dose in enumerate(doses):
            noise = int(np.random.default_rng([_STREAM, seed, number, k]).integers(2**31))
            noisy = apply_dose(field.image, dose, noise)
            noisy_field = UniformField(
                noisy, field.cells, field.lattice, field.tilt, field.thickness, field.d
            )
            for m, wanted in enumerate(cells):
                pieces = patches(noisy_field, wanted, window, most_patches)
                folded = [fold(piece, field.lattice, BINS) for piece in pieces]
                seen[m] = folded[0].cells
                for result, prior in ((bound, None), (bound_prior, priors)):
                    one = tilt_bound(
                        library, tilt=tuple(along[0]), thickness=field.thickness, d=tuple(along[1]), dose_per_A2=dose,
                        cells=folded[0].cells, source_fwhm=_SOURCE, pixel=_PIXEL,
                        prior={n: w for n, (_, w) in prior.items()} if prior else None,
                    )  # fmt: skip
                    # In the mean of variances, which a turn of the axes keeps.
                    result[number, k, m] = np.sqrt((one["std"].values[:2] ** 2).mean())
                for p, piece in enumerate(pieces if predictor is not None else []):
                    here = cells_within(field.cells, piece)
                    assert predictor is not None
                    answer = predictor(piece, here) if here.sizes["cell"] else None
                    if answer is not None and answer.sizes["cell"]:
                        told = answer["tilt"].transpose("cell", "component").values.mean(axis=0)
                        errors["model"][number, k, m, p] = told - field.tilt
                if likelihood:
                    found = fit_folded(folded, library, prior=priors)
                    told = in_image_axes(found, [field.lattice] * len(folded))["tilt"].values
                    errors["likelihood"][number, k, m, : len(pieces)] = told - field.tilt
        if progress is not None:
            progress(number + 1, fields)
    return _dataset(errors, bound, bound_prior, seen, truth, cells, doses, library)


def _turned_back(lattice: Grating, vectors: Floats) -> Floats:
    """Components along the lattice's axes of ``vectors`` (…, 2) along the image's."""
    c, s = np.cos(lattice.angle), np.sin(lattice.angle)
    return np.stack(
        [c * vectors[..., 0] + s * vectors[..., 1], c * vectors[..., 1] - s * vectors[..., 0]], -1
    )


def _priors(library: Library) -> dict[str, tuple[float, float]]:
    """Means and widths of Gaussians as wide as what :func:`uniform_field` draws."""
    limit = min(_TILT, library.tilt_limit / 1.3)
    low, high = library.thickness_range
    low, high = max(low * 1.02, min(_THICKNESS[0], high / 2)), min(_THICKNESS[1], high * 0.98)
    # A modulus that is even in 0 to limit, in any direction.
    tilt = limit / np.sqrt(6.0)
    d = 23.6 * float(np.sqrt((_POLAR[1] ** 3 - _POLAR[0] ** 3) / 3 / (_POLAR[1] - _POLAR[0])))
    return {
        "tilt_x": (0.0, tilt), "tilt_y": (0.0, tilt), "thickness": ((low + high) / 2, (high - low) / np.sqrt(12)),
        "d_x": (0.0, d), "d_y": (0.0, d),
    }  # fmt: skip


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
    table["rmse"] = np.sqrt((table["error"] ** 2).mean(over)).assign_attrs(mrad)
    for name in ("bound", "bound_prior"):
        table[f"rms_{name}"] = np.sqrt((table[name] ** 2).mean(("field", "component"))).assign_attrs(mrad)
    table["ratio"] = np.sqrt(((table["error"] / table["bound"]) ** 2).mean(over)).assign_attrs(units="1")
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
            ax.plot(
                one.cells_seen,
                one["rmse"].sel(estimator=name),
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
        ax.set_title(f"({letter}) {dose:.3g} e/Å²", fontsize=8, loc="left", pad=3)
        ax.tick_params(labelsize=7, direction="in", top=True, right=True, which="both")
        ax.grid(alpha=0.25, linewidth=0.4)
    axes[0].set_ylabel("error of a tilt component, rms (mrad)", fontsize=8)
    axes[-1].legend(fontsize=6.5, frameon=False)
    return figure
