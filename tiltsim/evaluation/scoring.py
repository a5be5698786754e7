"""One field's predictions against its truth, as sums from which every statistic of a condition follows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tiltsim.errors import SettingsError

Floats = NDArray[np.float64]

#: A prediction belongs to the true B column nearest to it, if that is no further, Å.
REACH = 1.0

#: What may be predicted: number of components and unit.
QUANTITIES: dict[str, tuple[int, str]] = {"d": (2, "pm"), "tilt": (2, "mrad"), "thickness": (1, "Å")}


@dataclass(frozen=True, eq=False)
class Sums:
    """Of one quantity over the cells of a field; arrays have shape (components,).

    Parameters
    ----------
    n : float
        Cells compared.
    error, square : ndarray
        Sums of prediction − truth, and of its square.
    intervals : float
        Cells that have an interval.
    hits, widths : ndarray
        How many of these hold the truth; sum of half widths.
    truth_scatter, common_scatter : float
        Sums over cells and components of (truth − its mean)², and of (truth − its mean) (prediction − its mean).
    """

    n: float
    error: Floats
    square: Floats
    intervals: float
    hits: Floats
    widths: Floats
    truth_scatter: float
    common_scatter: float


@dataclass(frozen=True, eq=False)
class FieldScore:
    """What one estimator made of one field.

    Parameters
    ----------
    cells : float
        True cells that the image shows whole.
    found : float
        1 if the image's lattice was found, else 0: then nothing is predicted.
    d, tilt, thickness : Sums
    novelty : float
        Of the whole image, in units of the limit above which it counts as unlike the training; NaN if unknown.
    """

    cells: float
    found: float
    d: Sums
    tilt: Sums
    thickness: Sums
    novelty: float


def score(found: xr.Dataset | None, truth: xr.Dataset, name: str = "the estimator") -> FieldScore:
    """Compare.

    Parameters
    ----------
    found : Dataset or None
        See :class:`~tiltsim.evaluation.estimators.Estimator`; None where no lattice was found.
    truth : Dataset
        See :func:`tiltsim.synth.labelling.true_cells`.
    name : str
        Whose predictions they are, for errors.

    Returns
    -------
    FieldScore

    Raises
    ------
    SettingsError
        If predictions lack a variable, or are not finite.
    """
    cells = float(truth.sizes["cell"])
    if found is None:
        empty = {q: _sums(np.empty((0, k)), np.empty((0, k)), None) for q, (k, _) in QUANTITIES.items()}
        return FieldScore(cells, 0.0, novelty=np.nan, **empty)
    for variable in ("x", "y", "d"):
        if variable not in found:
            raise SettingsError(f"{name} returned a dataset without {variable!r}; see dcnn.predict.")
    which, target = matched(found, truth)
    sums = {}
    for quantity, (components, _) in QUANTITIES.items():
        if quantity not in found:
            sums[quantity] = _sums(np.empty((0, components)), np.empty((0, components)), None)
            continue
        predicted = _table(found, quantity)[which]
        if not np.isfinite(predicted).all():
            raise SettingsError(f"{name} returned a {quantity} that is not finite; leave such cells out.")
        interval = f"{quantity}_interval"
        half = _table(found, interval)[which] if interval in found else None
        sums[quantity] = _sums(predicted, _table(truth, quantity)[target], half)
    novelty = float(found.attrs.get("novelty", np.nan))
    return FieldScore(cells, 1.0, novelty=novelty, **sums)


def matched(found: xr.Dataset, truth: xr.Dataset) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of predictions and of the true cells that they are of: each cell once, with the prediction nearest to it."""
    places, cells = (np.column_stack([t.x.values, t.y.values]).astype(float) for t in (found, truth))
    if not len(places) or not len(cells):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    distance, cell = cKDTree(cells).query(places)
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] <= REACH]
    cell_of = cell[order]
    _, first = np.unique(cell_of, return_index=True)
    return order[first], cell_of[first]


def _table(dataset: xr.Dataset, name: str) -> Floats:
    """A variable as (cell, components), x before y."""
    variable = dataset[name]
    if "component" in variable.dims:
        if "component" in variable.coords:
            variable = variable.sel(component=["x", "y"])
        variable = variable.transpose("cell", "component")
    values = np.asarray(variable.values, dtype=np.float64)
    return values.reshape(len(values), -1)


def _sums(predicted: Floats, truth: Floats, half: Floats | None) -> Sums:
    error = predicted - truth
    n, components = error.shape
    nothing = np.zeros(components)
    known = half is not None and n > 0
    centred = truth - truth.mean(axis=0) if n else truth
    return Sums(
        n=float(n),
        error=error.sum(axis=0),
        square=np.square(error).sum(axis=0),
        intervals=float(n) if known else 0.0,
        hits=(np.abs(error) <= half).sum(axis=0).astype(float) if known else nothing,
        widths=half.sum(axis=0) if known and half is not None else nothing,
        truth_scatter=float(np.square(centred).sum()),
        common_scatter=float((centred * predicted).sum()),
    )


def as_table(score: FieldScore) -> dict[str, Any]:
    """JSON-able form, for checkpoints."""
    table: dict[str, Any] = {name: getattr(score, name) for name in ("cells", "found", "novelty")}
    for quantity in QUANTITIES:
        sums = getattr(score, quantity)
        table[quantity] = {f.name: np.asarray(getattr(sums, f.name)).tolist() for f in fields(Sums)}
    return table


def from_table(table: dict[str, Any]) -> FieldScore:
    """Read back what :func:`as_table` made; nothing (null) stands for NaN."""
    parts: dict[str, Sums] = {}
    for quantity in QUANTITIES:
        values: dict[str, Any] = {
            k: np.asarray(v) if isinstance(v, list) else float(v) for k, v in table[quantity].items()
        }
        parts[quantity] = Sums(**values)
    novelty = table["novelty"]
    return FieldScore(
        float(table["cells"]),
        float(table["found"]),
        novelty=np.nan if novelty is None else float(novelty),
        **parts,
    )
