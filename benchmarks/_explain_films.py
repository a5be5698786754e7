"""Explain blind films and hold every answer against the truth that only the painter knows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import xarray as xr
from _blind_films import Film, draw_film, render

import analysis
import tiltsim
from tiltsim import Microscope
from tiltsim.explanation import Explanation
from tiltsim.explanation.inversion import in_image_axes
from tiltsim.explanation.regions import BINS

#: Seeds of the sets, and what each is about.
SETS = {
    "blind": 0, "single": 1, "three-fold": 2, "wrong aperture": 3, "few cells": 4, "few electrons": 5, "reference": 6,
}  # fmt: skip

#: Sets whose evidence cannot decide: to be flagged.
UNDECIDABLE = ("three-fold", "wrong aperture", "few cells", "few electrons")


def film_sets(count: int, others: int, cells: int | None = None, first: int = 0) -> dict[str, list[Film]]:
    """Films by set: ``count`` blind ones, ``others`` of each other kind, numbered from ``first``; all of ``cells`` thickness, where given."""
    rng = np.random.default_rng(5)
    some, few = range(first, first + count), range(first, first + others)
    thick = {} if cells is None else {"cells": cells}

    def drawn(number: int, name: str, **changes: object) -> Film:
        return draw_film(number, SETS[name], **thick, **changes)

    def one_variant(number: int, name: str, **changes: object) -> Film:
        return drawn(number, name, variants=drawn(number, name).variants[:1], **changes)

    turns = dict(zip(few, rng.uniform(0, 2 * np.pi / 3, others), strict=True))
    return {
        "blind": [drawn(n, "blind", substrate=0.3 if n % 4 == 0 else 0.0) for n in some],
        "single": [one_variant(n, "single") for n in few],
        "three-fold": [
            drawn(n, "three-fold", faults={"C23": 1000.0, "phi23": float(turns[n])}) for n in few
        ],
        "wrong aperture": [
            drawn(n, "wrong aperture", microscope=Microscope(semiangle_cutoff=25.0, source_fwhm=0.0)) for n in few
        ],
        "few cells": [one_variant(n, "few cells", size=112) for n in few],
        "few electrons": [one_variant(n, "few electrons", dose=1e3, size=400) for n in few],
        "reference": [drawn(n, "reference", substrate=0.35, lean_scale=0.0) for n in few],
    }  # fmt: skip


#: Ways to correct a map, of which ours is the last.
COMPARATORS = ("as measured", "subtract the mean", "inversion centre", "null reference", "ours")

#: A corrected d is wrong if it is out by more than this, pm, and by more than four of its standard errors.
_WRONG = 2.5


@dataclass(frozen=True)
class Answer:
    """What came of one film; pm and mrad, one row a variant."""

    film: int
    identified: bool
    refused: str = ""
    objections: tuple[str, ...] = ()
    chi2: float = float("nan")
    tilt_true: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    tilt_error: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    tilt_std: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    d_true: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    d_error: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    d_std: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    comparators: dict[str, np.ndarray] = field(default_factory=dict)
    thickness: tuple[float, float, float] = (0.0, 0.0, 0.0)
    seconds: float = 0.0
    own_tilt_std: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    own_d_std: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    def __str__(self) -> str:
        """One line."""
        if self.refused:
            return f"refused: {self.refused}"
        size = [float(np.abs(v).max(initial=0.0)) for v in (self.tilt_error, self.d_error)]
        return (
            f"{'corrected' if self.identified else 'not corrected'}, largest error {size[0]:.2f} mrad, {size[1]:.2f} pm, χ² {self.chi2:.2f}, "
            f"{self.seconds:.0f} s" + "".join(f"; {o[:90]}" for o in self.objections)
        )

    @property
    def wrong(self) -> bool:
        """Whether the corrected d of some variant is out by more than its error tells."""
        return bool((np.abs(self.d_error) > np.maximum(4 * self.d_std, _WRONG)).any())


@lru_cache(maxsize=1)
def _library(path: str) -> tiltsim.Library:
    return tiltsim.open_library(path)


def answer_film(job: tuple[Film, Sequence[np.ndarray], str, int]) -> Answer:
    """Explain one film; for a pool of processes."""
    film, images, path, seed = job
    image, truth = render(film, images, seed)
    library = _library(path)
    start = time.perf_counter()
    try:
        found = tiltsim.explain(image, library)
    except analysis.ImageError as error:
        return Answer(film.number, False, refused=str(error))
    return _compared(film, images, truth, found, time.perf_counter() - start)


def _compared(
    film: Film, images: Sequence[np.ndarray], truth: xr.Dataset, found: Explanation, seconds: float
) -> Answer:
    regions = [r for r in found.regions if r.name != "reference"]
    count, cells = len(regions), found.cells
    share = truth.share.values
    rows = []
    for region in regions:
        one = cells.isel(cell=region.rows)
        places = [
            np.clip(np.round(one[n].values / film.pixel).astype(int), 0, film.size - 1) for n in ("y", "x")
        ]
        rows.append(int(np.argmax(share[:, places[0], places[1]].mean(axis=1))))
    d_true, tilt_true = truth.d.values[rows], truth.tilt.values[rows]
    inversion = found.inversion
    apparent = np.stack([r.apparent for r in regions])
    film_cells = (cells["reference"].values == 0) & (cells["flag"].values == 0)
    by_name = {e.name: e for e in found.estimates}
    comparators = {
        "as measured": apparent - d_true,
        "subtract the mean": apparent - np.nanmean(cells["d"].values[film_cells], axis=0) - d_true,
        "inversion centre": apparent - by_name["variant symmetry"].bias - d_true,
        "null reference": apparent - by_name["null reference"].bias - d_true,
        "ours": inversion.d[:count] - d_true,
    }
    return Answer(
        film.number, found.verdict.identified, "", found.verdict.objections, inversion.misfit.reduced,
        tilt_true, inversion.tilt[:count] - tilt_true, np.sqrt(np.diag(inversion.tilt_cov)).reshape(-1, 2)[:count],
        d_true, inversion.d[:count] - d_true, np.sqrt(np.diag(inversion.bias_cov)).reshape(-1, 2)[:count],
        comparators, (*inversion.number("thickness"), film.thickness), seconds, *_own_noise(images, found, rows),
    )  # fmt: skip


def _own_noise(
    images: Sequence[np.ndarray], found: Explanation, rows: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors (variant, 2) of tilt, mrad, and d, pm, because the film's own phonons are few.

    A micrograph averages over hundreds of cells with phonons of their own; a film repeats a few pairs. How its pairs differ, through
    the fit's own gain, is what its answer owes to them.
    """
    inversion = found.inversion
    model, theta, gain = inversion.model, inversion.solution.theta, inversion.solution.gain
    pairs = len(images[0])
    moved = np.zeros((pairs, len(theta)))
    size = BINS * BINS
    for number, region in enumerate(inversion.regions):
        one = images[-1] if region.name == "reference" else images[rows[number]]
        away = model.soften(one - one.mean(axis=0), theta, number)
        moved += away.reshape(pairs, size) @ gain[:, number * size : (number + 1) * size].T
    _, _, turn_tilt, turn_d = in_image_axes(model, inversion.regions, theta)
    errors = [
        np.sqrt(((moved @ turn.T) ** 2).sum(axis=0) / max(pairs * (pairs - 1), 1))
        for turn in (turn_tilt, turn_d)
    ]
    return errors[0].reshape(-1, 2)[: len(rows)], errors[1].reshape(-1, 2)[: len(rows)]


def statistics(answers: Sequence[Answer]) -> dict[str, float]:
    """Of films that were answered with confidence.

    Coverage is of intervals that count the film's own few phonons too, "_alone" of those that `explain` gives.
    """
    told = [a for a in answers if a.identified]
    if not told:
        return {"films": len(answers), "identified": 0}
    tilt, tilt_std, d, d_std, true, own_tilt, own_d = (
        np.concatenate([getattr(a, n) for a in told])
        for n in ("tilt_error", "tilt_std", "d_error", "d_std", "d_true", "own_tilt_std", "own_d_std")
    )
    means = np.array([a.d_error.mean(axis=0) for a in told])
    apparent = np.concatenate([a.comparators["as measured"] for a in told])
    sign = np.sign(true + d) != np.sign(true)
    return {
        "films": len(answers),
        "refused": sum(bool(a.refused) for a in answers),
        "identified": len(told),
        "tilt_rmse_mrad": float(np.sqrt((tilt**2).mean())),
        "tilt_bias_mrad": float(np.hypot(*tilt.mean(axis=0))),
        "tilt_coverage90": float((np.abs(tilt) < 1.645 * np.hypot(tilt_std, own_tilt)).mean()),
        "tilt_coverage90_alone": float((np.abs(tilt) < 1.645 * tilt_std).mean()),
        "tilt_std_median_mrad": float(np.median(tilt_std)),
        "tilt_own_rms_mrad": float(np.sqrt((own_tilt**2).mean())),
        "d_rmse_pm": float(np.sqrt((d**2).mean())),
        "d_bias_pm": float(np.hypot(*d.mean(axis=0))),
        "d_film_bias_pm": float(np.hypot(*means.T).mean()),
        "d_coverage90": float((np.abs(d) < 1.645 * np.hypot(d_std, own_d)).mean()),
        "d_coverage90_alone": float((np.abs(d) < 1.645 * d_std).mean()),
        "d_std_median_pm": float(np.median(d_std)),
        "d_own_rms_pm": float(np.sqrt((own_d**2).mean())),
        "uncorrected_rmse_pm": float(np.sqrt((apparent**2).mean())),
        "uncorrected_film_bias_pm": float(
            np.mean([np.hypot(*a.comparators["as measured"].T).mean() for a in told])
        ),
        "wrong_sign": int(sign.sum()),
        "confident_and_wrong": sum(a.wrong for a in told),
        "seconds_median": float(np.median([a.seconds for a in told])),
    }


def comparison(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Errors of the mean d of each variant with every comparator, where it answers."""
    told = [a for a in answers if a.identified]
    result = {}
    for name in COMPARATORS:
        errors = np.concatenate([a.comparators[name] for a in told])
        errors = errors[np.isfinite(errors).all(axis=1)]
        films = sum(bool(np.isfinite(a.comparators[name]).all()) for a in told)
        result[name] = {
            "films": films,
            "rmse_pm": float(np.sqrt((errors**2).mean())) if len(errors) else float("nan"),
            "worst_pm": float(np.abs(errors).max()) if len(errors) else float("nan"),
        }
    return result
