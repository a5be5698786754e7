"""Training a network in a study, and holding it against the truth beside column fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import dcnn
from tiltsim.network_studies.fields import StudyField
from tiltsim.network_studies.settings import NetworkStudy
from tiltsim.progress import Reporter, Silent


@dataclass(frozen=True)
class Score:
    """Errors over cells and both components.

    Parameters
    ----------
    rmse : float
        Root mean square error of a component, pm.
    bias : tuple of float
        Mean error along x and y, pm.
    r2 : float
        1 − mean square error / variance of the truth; NaN where the truth does not vary.
    n : int
        Cells, or windows.
    """

    rmse: float
    bias: tuple[float, float]
    r2: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        """For a summary."""
        return {"rmse_pm": self.rmse, "bias_pm": self.bias, "r2": self.r2, "n": self.n}


def score(d: NDArray[Any], truth: NDArray[Any]) -> Score:
    """Errors of ``d`` (n, 2) against ``truth`` (n, 2), pm."""
    error = d - truth
    square, spread = float(np.square(error).mean()), float(truth.var(axis=0).mean())
    bias = error.mean(axis=0)
    r2 = 1.0 - square / spread if spread > 0 else float("nan")
    return Score(square**0.5, (float(bias[0]), float(bias[1])), r2, len(error))


def learn(
    fields: Sequence[StudyField],
    study: NetworkStudy,
    windows: dcnn.Windows,
    reporter: Reporter | None = None,
    name: str = "train",
    **changes: Any,
) -> dcnn.Model:
    """Train a network on the left 2/3 of ``fields`` with the study's labels."""
    settings, shown = study.training(windows, **changes), reporter or Silent()
    shown.stage(name, settings.epochs)
    model = dcnn.train(
        [field.labelled(study.labels) for field in fields],
        settings,
        progress=lambda epoch, *_: shown.advance(epoch),
    )
    shown.advance(settings.epochs)  # where it stopped early
    return model


def judge(model: dcnn.Model, field: StudyField) -> xr.Dataset:
    """Predictions on either side of the line of a field, beside the truth and the fit.

    Returns
    -------
    Dataset
        Dim cell: ``x``, ``y`` (Å), ``d`` (prediction), ``d_true`` and ``d_fit`` (cell, component) pm and ``subset``, "train"
        or "test"; windows that the line crosses are left out. Off the B columns truth and fit are interpolated linearly
        between them. Attribute ``split_x_angstrom``.
    """
    table, _ = dcnn.evaluate_split(model, *field.labelled("truth"))
    fitted, _ = dcnn.evaluate_split(model, *field.labelled("fit"))
    kept = table[["x", "y", "d", "subset"]].assign(
        d_true=table["d_label"], d_fit=(("cell", "component"), fitted["d_label"].values, {"units": "pm"})
    )
    return kept.assign_attrs(table.attrs)


def held_out_score(fields: Sequence[xr.Dataset], name: str = "d") -> Score:
    """Score of variable ``name`` against the truth, right of the lines of all ``fields`` (from `judge`)."""
    parts = [f.isel(cell=np.flatnonzero(f["subset"].values == "test")) for f in fields]
    return score(
        np.concatenate([p[name].values for p in parts]), np.concatenate([p["d_true"].values for p in parts])
    )


def scatter(fields: Sequence[xr.Dataset], name: str = "d") -> float:
    """Error of a component, pm, that is left when d is calibrated: corrected by the best linear map to the truth.

    This takes away what is systematic, so that random error shows; a network that answers the same everywhere keeps the whole
    spread of the truth.
    """
    parts = [f.isel(cell=np.flatnonzero(f["subset"].values == "test")) for f in fields]
    d, truth = (np.concatenate([p[n].values for p in parts]) for n in (name, "d_true"))
    design = np.column_stack([d, np.ones(len(d))])
    left = truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]
    return float(np.sqrt(np.square(left).sum() / max(left.size - 2 * design.shape[1], 1)))
