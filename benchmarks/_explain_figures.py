"""Pictures of `benchmarks/explain.py`: errors before and after, tilt against the truth, pulls, what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from _explain_films import COMPARATORS, Answer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm

from analysis.drawing import PALETTE, SMALL, TEXT

_GOOD = 1.645


def plot_blind(answers: Mapping[str, Sequence[Answer]]) -> Figure:
    """Tilt, d and pulls of the blind films; what of every set is answered."""
    figure = Figure(figsize=(10.6, 6.8), layout="constrained")
    axes = figure.subplots(2, 2)
    told = [a for a in answers["blind"] if a.identified]
    if told:
        _tilt(axes[0, 0], told)
        _comparators(axes[0, 1], told)
        _pulls(axes[1, 0], told)
    _verdicts(axes[1, 1], answers)
    for ax in axes.ravel():
        ax.tick_params(labelsize=SMALL)
    return figure


def _tilt(ax: Axes, told: Sequence[Answer]) -> None:
    true = np.concatenate([a.tilt_true for a in told])
    error, std = (np.concatenate([getattr(a, n) for a in told]) for n in ("tilt_error", "tilt_std"))
    for axis, (name, colour) in enumerate((("x", PALETTE[0]), ("y", PALETTE[1]))):
        ax.errorbar(
            true[:, axis], error[:, axis], _GOOD * std[:, axis], fmt="o", markersize=3, color=colour, elinewidth=0.7,
            alpha=0.8, label=f"along {name}",
        )  # fmt: skip
    ax.axhline(0, color="0.4", linewidth=0.8)
    ax.set_xlabel("true tilt of the beam in a variant (mrad)", fontsize=TEXT)
    ax.set_ylabel("tilt read − true (mrad), 90 %", fontsize=TEXT)
    ax.set_title(
        f"mis-tilt from the image alone: RMSE {np.sqrt((error**2).mean()):.2f} mrad", fontsize=TEXT + 1
    )
    ax.legend(fontsize=SMALL)


def _comparators(ax: Axes, told: Sequence[Answer]) -> None:
    rng = np.random.default_rng(0)
    for row, name in enumerate(COMPARATORS):
        size = np.concatenate([np.hypot(*a.comparators[name].T) for a in told])
        size = size[np.isfinite(size)]
        if not len(size):
            continue
        ax.plot(
            size,
            row + rng.uniform(-0.25, 0.25, len(size)),
            ".",
            color=PALETTE[row % len(PALETTE)],
            markersize=4,
            alpha=0.7,
        )
        rms = float(np.sqrt((size**2).mean()))
        ax.plot([rms, rms], [row - 0.38, row + 0.38], color="black", linewidth=1.6)
        ax.text(rms, row - 0.4, f"{rms:.1f}", fontsize=SMALL, ha="center", va="bottom")
    ax.set_yticks(range(len(COMPARATORS)), COMPARATORS, fontsize=TEXT)
    ax.set(ylim=(len(COMPARATORS) - 0.4, -0.75), xlim=(0.1, None), xscale="log")
    ax.set_xlabel("length of the error of a variant's mean d (pm); bar: root mean square", fontsize=TEXT)
    ax.set_title("the same films, five ways", fontsize=TEXT + 1)


def _pulls(ax: Axes, told: Sequence[Answer]) -> None:
    x = np.linspace(-5, 5, 200)
    for name, label, colour in (("tilt", "tilt", PALETTE[0]), ("d", "d", PALETTE[1])):
        pull = np.concatenate(
            [
                (
                    getattr(a, f"{name}_error")
                    / np.hypot(getattr(a, f"{name}_std"), getattr(a, f"own_{name}_std"))
                ).ravel()
                for a in told
            ]
        )
        inside = float((np.abs(pull) < _GOOD).mean())
        ax.hist(
            np.clip(pull, -5, 5),
            np.linspace(-5, 5, 31).tolist(),
            density=True,
            histtype="step",
            color=colour,
            linewidth=1.5,
            label=f"{label}: {100 * inside:.0f} % within 90 % intervals",
        )
    ax.plot(x, norm.pdf(x), color="0.4", linestyle="--", linewidth=1.0, label="normal")
    ax.set_xlabel("error / standard error", fontsize=TEXT)
    ax.set_ylabel("density", fontsize=TEXT)
    ax.set_title("are the errors what they say?", fontsize=TEXT + 1)
    ax.legend(fontsize=SMALL)


def _verdicts(ax: Axes, answers: Mapping[str, Sequence[Answer]]) -> None:
    names = list(answers)
    for row, name in enumerate(names):
        found = answers[name]
        shares = (
            ("corrected", sum(a.identified and not a.wrong for a in found), "#009E73"),
            ("corrected, and wrong", sum(a.identified and a.wrong for a in found), "#D55E00"),
            ("not corrected, says why", sum(not a.identified for a in found), "0.7"),
        )
        left = 0
        for label, number, colour in shares:
            ax.barh(row, number, left=left, color=colour, label=label if row == 0 else None)
            if number:
                ax.text(left + number / 2, row, str(number), ha="center", va="center", fontsize=SMALL)
            left += number
    ax.set_yticks(range(len(names)), names, fontsize=TEXT)
    ax.set(ylim=(len(names) - 0.5, -0.5))
    ax.set_xlabel("films", fontsize=TEXT)
    ax.set_title("what is answered, and what is not", fontsize=TEXT + 1)
    ax.legend(fontsize=SMALL, loc="lower right")
