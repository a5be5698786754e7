"""Calibration of a trained model on fields that it has never seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dcnn._calibration import factors_of, reference_of
from dcnn._errors import ModelError
from dcnn._labels import around, between, centres_of, usable_cells
from dcnn._model import Model
from dcnn._prediction import answers_at
from dcnn._samples import Field
from dcnn._windows import grid


def calibrate(model: Model, fields: Sequence[Field], coverage: float = 0.9, *, device: str = "auto") -> Model:
    """Measure on fields that the model has never seen how far off it is, and what known cells look like.

    Intervals are split-conformal (Lei et al. 2018, doi:10.1080/01621459.2017.1307116): the ``coverage`` quantile of
    |error| / expected error, for six classes of expected error apart, between which factors are interpolated.

    Novelty is the Mahalanobis distance of a cell's features from those of known cells (Lee et al. 2018, arXiv:1807.03888), over its 99 %
    quantile; that of an image is the mean distance of its cells over the 99 % quantile of the mean of as many cells of known images.

    A sliding or dense model is calibrated on B columns and on its own grid in equal parts.

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
        rng = np.random.default_rng([model.settings.seed, number, 1])
        for at, labels in _places(model, image, cells, rng):
            table, of_cells = answers_at(bare, image, at, device)
            if not table.sizes["cell"]:
                continue
            mean = _columns(table, model, "")
            expected.append(_columns(table, model, "_std"))
            errors.append(mean - labels[table["index"].values])
            features.append(of_cells)
    if not errors:
        raise ModelError("No field shows a cell whole; pass larger ones, or check their flags.")
    card = {
        **model.card,
        "calibration": factors_of(np.concatenate(errors), np.concatenate(expected), model, coverage),
    }
    card["novelty"], extra = reference_of(features)
    return Model(model.network, card, extra)


def _places(
    model: Model, image: xr.DataArray, cells: xr.Dataset, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Where the model will be asked, Å, and the labels there: columns, and for those that need none also places between."""
    known, labels = usable_cells(cells, model.targets)
    if not len(known):
        return
    windows, dense = model.windows, model.settings.network == "dense"
    if windows.site == "A" and windows.mode == "centred":
        at = centres_of(cells, windows)
        yield at, around(known, labels, at)
        return
    yield known + rng.normal(0, model.settings.jitter_angstrom, known.shape), labels
    if dense or windows.mode == "sliding":
        at = grid(image, replace(windows, stride_angstrom=2.0) if dense else windows)
        # As many as there are columns, so that neither counts for more.
        at = at[rng.permutation(len(at))[: len(known)]]
        # At a border there is no label, but what it looks like is known.
        yield at, between(known, labels, at)


def _columns(table: Any, model: Model, suffix: str) -> NDArray[np.float64]:
    return np.concatenate(
        [table[t + suffix].values.reshape(table.sizes["cell"], -1) for t in model.targets], axis=1
    )
