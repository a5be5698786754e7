"""Calibration of a trained model on fields that it has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dcnn._calibration import factors_of, reference_of
from dcnn._errors import ModelError
from dcnn._model import Model
from dcnn._prediction import answers_at
from dcnn._samples import Field
from dcnn._targets import read_targets


def calibrate(model: Model, fields: Sequence[Field], coverage: float = 0.9, *, device: str = "auto") -> Model:
    """Measure on fields that the model has never seen how far off it is, and what known cells look like.

    Intervals are split-conformal (Lei et al. 2018, doi:10.1080/01621459.2017.1307116): the ``coverage`` quantile of
    |error| / expected error, for six classes of expected error apart, between which factors are interpolated.

    Novelty is the Mahalanobis distance of a cell's features from those of known cells (Lee et al. 2018, arXiv:1807.03888), over its 99 %
    quantile; that of an image is the mean distance of its cells over the 99 % quantile of that among known images.

    Parameters
    ----------
    model : Model
    fields : sequence of (image, cells)
        At least 10, unlike any that was trained on but of the same kind.
    coverage : float
        Share of truths that the intervals are to hold.
    device : str

    Returns
    -------
    Model
        The same network with intervals and novelty, see `predict`.

    Raises
    ------
    ModelError
        If there are too few fields or labels, or ``coverage`` is no share.
    """
    if not 0.5 <= coverage < 1:
        raise ModelError(f"coverage must be from 0.5 to below 1, not {coverage!r}.")
    if len(fields) < 10:
        raise ModelError(f"{len(fields)} fields are too few to calibrate on; pass at least 10.")
    bare = Model(model.network, {k: v for k, v in model.card.items() if k not in ("calibration", "novelty")})
    errors, expected, features = [], [], []
    for number in range(len(fields)):
        image, cells = fields[number]
        labels = read_targets(cells, model.targets)
        rng = np.random.default_rng([model.settings.seed, number, 1])
        known = np.column_stack([cells["x"].values, cells["y"].values])
        at = known + rng.normal(0, model.settings.jitter_angstrom, known.shape)
        if model.windows.site == "A" and model.windows.mode == "centred":
            # The label of an A column is the mean of the four cells around it.
            places = np.column_stack([cells["x_a"].values, cells["y_a"].values])
            distance, near = cKDTree(known).query(places, k=4)
            inner = distance.max(axis=1) < 1.3 * np.median(distance)
            at, labels = places[inner], labels[near[inner]].mean(axis=1)
        table, of_cells = answers_at(bare, image, at, device)
        mean = _columns(table, model, "")
        expected.append(_columns(table, model, "_std"))
        errors.append(mean - labels[table["index"].values])
        features.append(of_cells)
    card = {
        **model.card,
        "calibration": factors_of(np.concatenate(errors), np.concatenate(expected), model, coverage),
    }
    card["novelty"], extra = reference_of(features)
    return Model(model.network, card, extra)


def _columns(table: Any, model: Model, suffix: str) -> NDArray[np.float64]:
    return np.concatenate(
        [table[t + suffix].values.reshape(table.sizes["cell"], -1) for t in model.targets], axis=1
    )
