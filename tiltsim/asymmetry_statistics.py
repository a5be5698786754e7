"""How lopsided a distribution of d is, with standard errors from drawing blocks of cells anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltsim.asymmetry_cells import MatchedCells

Floats = NDArray[np.float64]

#: Times that blocks are drawn anew, and the seed of it beside the study's.
DRAWS, BOOTSTRAP_SEED = 1000, 20251


@dataclass(frozen=True)
class Meaning:
    """Of a statistic: its dims beyond (samarium, tilt), unit, and what it says."""

    dims: tuple[str, ...]
    unit: str
    text: str


_VARIANT, _FILM, _POLAR = ("variant", "component"), ("component",), ()

#: All that :func:`statistics` gives. Each variant weighs half of its film, whatever its number of cells.
MEANING: dict[str, Meaning] = {
    "d_true": Meaning(_VARIANT, "pm", "mean true d"),
    "d_apparent": Meaning(_VARIANT, "pm", "mean apparent d"),
    "contribution_A": Meaning(_VARIANT, "pm", "mean s_A: what A columns add to apparent d"),
    "contribution_B": Meaning(_VARIANT, "pm", "mean −s_B: what the B column adds to apparent d"),
    "offset": Meaning(_FILM, "pm", "mean of the whole distribution of apparent d, 0 in truth"),
    "offset_A": Meaning(_FILM, "pm", "part of the offset that is A columns'"),
    "offset_B": Meaning(_FILM, "pm", "part of the offset that is B columns'"),
    "offset_polar": Meaning(_POLAR, "pm", "offset along the polar axis"),
    "offset_polar_A": Meaning(_POLAR, "pm", "part of the offset along the polar axis that is A columns'"),
    "offset_polar_B": Meaning(_POLAR, "pm", "part of the offset along the polar axis that is B columns'"),
    "magnitude_difference": Meaning(_POLAR, "pm", "|mean apparent d| of the first variant − that of the second"),
    "skewness": Meaning(_POLAR, "1", "third central moment of apparent d along the polar axis over its standard deviation cubed"),
    "skewness_about_zero": Meaning(_POLAR, "1", "the same with moments about d = 0, about which the truth is symmetric"),
}  # fmt: skip


def statistics(cells: MatchedCells, axis: Floats, seed: int) -> dict[str, tuple[Floats, Floats]]:
    """Value and standard error of everything in :data:`MEANING`.

    Parameters
    ----------
    cells : MatchedCells
    axis : ndarray, shape (2,)
        Polar axis.
    seed : int
        Of the study; blocks are drawn with it and :data:`BOOTSTRAP_SEED`.
    """
    polar = cells.d_apparent @ axis
    of_cell = np.column_stack(
        [
            np.ones(len(polar)),
            cells.d_true,
            cells.d_apparent,
            cells.s_a,
            -cells.s_b,
            polar,
            polar**2,
            polar**3,
        ]
    )
    names, block = np.unique(cells.block, return_inverse=True)
    sums = np.zeros((2, len(names), of_cell.shape[1]))
    np.add.at(sums, (cells.variant, block), of_cell)
    rng = np.random.default_rng([BOOTSTRAP_SEED, seed])
    drawn = rng.multinomial(len(names), np.full(len(names), 1.0 / len(names)), DRAWS)
    total = np.vstack([np.ones(len(names)), drawn]) @ sums  # (variant, 1 + draws, quantity)
    with np.errstate(invalid="ignore"):  # a draw without a single cell of a variant tells nothing
        mean = total[..., 1:] / total[..., :1]
    return {
        name: (value[0], np.nanstd(value[1:], axis=0, ddof=1))
        for name, value in _of_means(mean, axis).items()
    }


def _of_means(mean: Floats, axis: Floats) -> dict[str, Floats]:
    """Statistics, draws first, from means (variant, draws, quantity)."""
    pairs = {
        name: mean[..., 2 * k : 2 * k + 2]
        for k, name in enumerate(("d_true", "d_apparent", "contribution_A", "contribution_B"))
    }
    out = {name: np.moveaxis(value, 0, 1) for name, value in pairs.items()}
    for suffix, name in (("", "d_apparent"), ("_A", "contribution_A"), ("_B", "contribution_B")):
        out[f"offset{suffix}"] = pairs[name].mean(axis=0)
        out[f"offset_polar{suffix}"] = out[f"offset{suffix}"] @ axis
    size = np.linalg.norm(pairs["d_apparent"], axis=-1)
    out["magnitude_difference"] = size[0] - size[1]
    first, second, third = np.moveaxis(mean[..., 8:].mean(axis=0), -1, 0)
    variance = second - first**2
    out["skewness"] = (third - 3 * first * variance - first**3) / variance**1.5
    out["skewness_about_zero"] = third / second**1.5
    return out
