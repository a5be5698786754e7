"""Does a model know what it has never seen? Images of other things, its novelty score for them, and ROC curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import dcnn
from tiltsim.errors import SettingsError
from tiltsim.evaluation.novelty_kinds import KINDS, Sample, known_field, real_110
from tiltsim.library import Library
from tiltsim.seeds import EVALUATION

Floats = NDArray[np.float64]

#: Novelty of an image, and of each of its cells: an image and places to look at (n, 2), Å, in.
Scorer = Callable[[xr.DataArray, Floats], tuple[float, Floats]]

#: Score above which a cell counts as strange; images have :data:`dcnn.NOVEL`.
CELL_LIMIT = 1.0

#: Cells kept of an image, and false positive rates of the curves.
_CELLS, _RATES = 100, np.linspace(0.0, 1.0, 401)

#: Side of the example pictures, px and Å.
_EXAMPLE, _SIDE = 96, 20.0


def as_scorer(model: dcnn.Model | Scorer) -> Scorer:
    """What :func:`novelty_roc` asks, from a calibrated network."""
    if not isinstance(model, dcnn.Model):
        return model
    places = model.windows.mode == "centred"

    def scorer(image: xr.DataArray, centres: Floats) -> tuple[float, Floats]:
        found = dcnn.predict(model, image, centres if places else None)
        if "novelty" not in found:
            raise SettingsError("the model has no novelty; calibrate it with dcnn.calibrate first.")
        return float(found.attrs["novelty"]), found["novelty"].values.astype(float)

    return scorer


def novelty_roc(
    model: dcnn.Model | Scorer,
    library: Library,
    *,
    fields: int = 40,
    kinds: Sequence[str] | None = None,
    seed: int = 0,
    data: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Scores of images of other things against those of held-out fields like the training's.

    Parameters
    ----------
    model : dcnn.Model or callable
        A calibrated network, or any :data:`Scorer`.
    library : Library
        What both kinds of fields are painted from.
    fields : int
        Known fields, and images of each kind.
    kinds : sequence of str, optional
        Of :data:`tiltsim.evaluation.novelty_kinds.KINDS`; default all.
    seed : int
        Of all fields; counts from :data:`tiltsim.seeds.EVALUATION`, where no training draws.
    data : Path, optional
        Folder with ``STO_ADF.hdf5``, a micrograph of SrTiO3 along [110], of which pieces are looked at too.
    progress : callable, optional
        Called as ``progress(done, expected)`` in images.

    Returns
    -------
    Dataset
        ``score`` (kind, field) of images and ``cell_score`` (kind, field, cell), NaN where there are fewer, kind 0 being "known";
        ``auc``, ``cell_auc`` (kind), the probability that something of this kind scores above something known;
        ``flagged``, ``cells_flagged`` (kind), the share above :data:`dcnn.NOVEL` and 1 (of the known: false alarms); ``true_positive``,
        ``cell_true_positive`` (kind, false_positive); and ``example`` (kind, row, column), pieces of images.

    Raises
    ------
    SettingsError
        If a kind is unknown, the model is not calibrated, or an argument is impossible.
    """
    scorer = as_scorer(model)
    chosen = list(KINDS) if kinds is None else list(kinds)
    for kind in chosen:
        if kind not in KINDS:
            raise SettingsError(f"kind {kind!r} is unknown; choose among {', '.join(KINDS)}.")
    if fields < 2:
        raise SettingsError(f"fields {fields}: at least 2 of each kind make a curve.")
    real = real_110(data) if data is not None else []
    makers: dict[str, Callable[[int], Sample]] = {
        "known": lambda n: known_field(library, EVALUATION + seed, n)
    }
    for kind in chosen:
        makers[kind] = lambda n, make=KINDS[kind]: make(library, EVALUATION + seed, n)  # type: ignore[misc]
    if real:
        makers["real [110]"] = lambda n: real[n]
    counts = {name: len(real) if name == "real [110]" else fields for name in makers}
    score = np.full((len(makers), fields), np.nan)
    cell_score = np.full((len(makers), fields, _CELLS), np.nan)
    examples = np.zeros((len(makers), _EXAMPLE, _EXAMPLE), np.float32)
    done, total = 0, sum(counts.values())
    for k, (name, make) in enumerate(makers.items()):
        for n in range(min(counts[name], fields)):
            sample = make(n)
            if n == 0:
                examples[k] = _example(sample.image)
            score[k, n], cells = scorer(sample.image, sample.centres)
            cells = np.asarray(cells, dtype=float)
            if len(cells) > _CELLS:
                cells = np.random.default_rng([seed, k, n]).choice(cells, _CELLS, replace=False)
            cell_score[k, n, : len(cells)] = cells
            done += 1
            if progress is not None:
                progress(done, total)
    return _dataset(list(makers), score, cell_score, examples, library)


def _example(image: xr.DataArray) -> NDArray[np.float32]:
    """The middle of an image, every time as many Å, between its own 1 % and 99 % as 0 and 1."""
    places = []
    for name in ("y", "x"):
        axis = image[name].values
        middle = (axis[0] + axis[-1]) / 2
        wanted = middle + np.linspace(-0.5, 0.5, _EXAMPLE) * min(_SIDE, axis[-1] - axis[0])
        places.append(np.rint((wanted - axis[0]) / (axis[1] - axis[0])).astype(int))
    piece = image.values[np.ix_(*places)].astype(np.float32)
    low, high = np.nanpercentile(piece, [1, 99])
    return np.asarray(np.clip((piece - low) / max(float(high - low), 1e-9), 0, 1), dtype=np.float32)


def auc(known: Floats, other: Floats) -> float:
    """Probability that one of ``other`` exceeds one of ``known``, ties counting half (Mann and Whitney); NaN for none."""
    known, other = np.sort(known[np.isfinite(known)]), other[np.isfinite(other)]
    if not len(known) or not len(other):
        return float("nan")
    below, up_to = (np.searchsorted(known, other, side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(known))


def roc(known: Floats, other: Floats, rates: Floats = _RATES) -> Floats:
    """Share of ``other`` above the score that a share of ``rates`` of ``known`` exceed, shape of ``rates``."""
    known, other = known[np.isfinite(known)], other[np.isfinite(other)]
    if not len(known) or not len(other):
        return np.full(len(rates), np.nan)
    thresholds = np.unique(np.concatenate([known, other]))[::-1]
    false = np.concatenate([[0.0], [(known >= t).mean() for t in thresholds]])
    true = np.concatenate([[0.0], [(other >= t).mean() for t in thresholds]])
    return np.asarray(np.interp(rates, *_upper(false, true)))


def _upper(false: Floats, true: Floats) -> tuple[Floats, Floats]:
    """The best true rate at each false rate, which are then ascending."""
    values, first = np.unique(false[::-1], return_index=True)
    return values, true[::-1][first]


def _dataset(
    names: list[str], score: Floats, cell_score: Floats, examples: NDArray[np.float32], library: Library
) -> xr.Dataset:
    one = {"units": "1"}
    flat = cell_score.reshape(len(names), -1)
    with np.errstate(invalid="ignore"):
        flagged, cells_flagged = (
            np.array([np.mean(s[np.isfinite(s)] > limit) if np.isfinite(s).any() else np.nan for s in v])
            for v, limit in ((score, dcnn.NOVEL), (flat, CELL_LIMIT))
        )
    columns: Mapping[str, object] = {
        "score": (("kind", "field"), score, one | {"long_name": "novelty of an image"}),
        "cell_score": (("kind", "field", "cell"), cell_score, one | {"long_name": "novelty of a cell"}),
        "auc": ("kind", [auc(score[0], s) for s in score], one),
        "cell_auc": ("kind", [auc(flat[0], s) for s in flat], one),
        "flagged": ("kind", flagged, one | {"long_name": f"share of images above {dcnn.NOVEL:g}"}),
        "cells_flagged": ("kind", cells_flagged, one | {"long_name": f"share of cells above {CELL_LIMIT:g}"}),
        "true_positive": (("kind", "false_positive"), np.stack([roc(score[0], s) for s in score]), one),
        "cell_true_positive": (("kind", "false_positive"), np.stack([roc(flat[0], s) for s in flat]), one),
        "example": (("kind", "row", "column"), examples, one),
    }
    return xr.Dataset(
        dict(columns),
        coords={"kind": names, "false_positive": ("false_positive", _RATES, one)},
        attrs={"library": library.digest, "limit": dcnn.NOVEL, "cell_limit": CELL_LIMIT},
    )
