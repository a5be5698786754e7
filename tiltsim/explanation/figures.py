"""Pictures of an explanation: the answer, its evidence, what is known how well, and distributions before and after."""

from __future__ import annotations

from dataclasses import replace
from textwrap import fill

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

import analysis
from analysis.drawing import CONVENTION, PALETTE, SMALL, TEXT
from analysis.tiling import usable_cells
from tiltsim.explanation.attribution import CAUSES
from tiltsim.explanation.explaining import Explanation
from tiltsim.explanation.model import PRIORS
from tiltsim.explanation.profiles import Profile

Floats = NDArray[np.float64]

#: Two components: 90 % of a normal distribution lies within this many standard deviations.
_NINETY = 2.146

#: Colour of each cause, crystal first.
_CAUSE = dict(
    zip(
        (*CAUSES, "tilt of the columns"),
        ("#222222", "#999999", "#CC79A7", "#0072B2", "#56B4E9", "#DDDDDD", "#E69F00", "#0072B2"),
        strict=True,
    )
)

_SAID = {
    "thickness": ("thickness", "nm", 0.1), "defocus": ("defocus", "nm", 0.1), "C12_x": ("C12, 0°", "nm", 0.1),
    "C12_y": ("C12, 45°", "nm", 0.1), "C21_x": ("C21, x", "nm", 0.1), "C21_y": ("C21, y", "nm", 0.1),
}  # fmt: skip

_PROFILED = {
    "thickness": ("thickness", "nm", 0.1), "tilt_x": ("tilt x", "mrad", 1.0), "tilt_y": ("tilt y", "mrad", 1.0),
    "d_x": ("d x", "pm", 1.0), "d_y": ("d y", "pm", 1.0),
}  # fmt: skip


def plot_answer(found: Explanation, attribution: xr.Dataset | None, radius_pm: float = 40.0) -> Figure:
    """The map as it is, what tilt adds to it, and the map without; clouds, and the mean offset by cause.

    Parameters
    ----------
    found : Explanation
    attribution : Dataset or None
        From :func:`~tiltsim.explanation.attribution.attribute`; None where the verdict allows no correction.
    radius_pm : float
        Displacement of full colour.
    """
    figure = Figure(figsize=(10.6, 6.8), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=(1.0, 1.0), squeeze=False)
    upper, lower = parts[0, 0], parts[1, 0]
    cells, m = found.cells, found.measurement
    shown = [("as measured", cells["d"].values)]
    if attribution is not None:
        shown += [
            ("what the fit and tilt add", cells["bias"].values),
            ("corrected", cells["d_corrected"].values),
        ]
    for ax, (title, d) in zip(np.atleast_1d(upper.subplots(1, len(shown))), shown, strict=True):
        analysis.polarization_map(
            replace(m, unit_cells=cells.assign(d=(cells["d"].dims, d, cells["d"].attrs))),
            radius_pm=radius_pm,
            ax=ax,
        )
        ax.set_title(title, fontsize=TEXT + 2, loc="left")
    if attribution is None:
        left, right = lower.subplots(1, 2, width_ratios=(1.0, 2.0))
        _cloud(left, found, cells["d"].values, "apparent d")
        right.axis("off")
        text = "No corrected map: " + "; ".join(found.verdict.objections) + "."
        right.text(0.0, 0.95, fill(text, 80), va="top", fontsize=TEXT + 1, color="#a00000")
        right.text(
            0.0,
            0.35,
            fill("Would settle it: " + "; ".join(found.verdict.advice) + ".", 80),
            va="top",
            fontsize=TEXT + 1,
        )
    else:
        axes = lower.subplots(1, 3)
        limits = _cloud_limits(cells)
        _cloud(axes[0], found, cells["d"].values, "apparent d", limits)
        _offsets(axes[1], attribution)
        _cloud(axes[2], found, cells["d_corrected"].values, "corrected d", limits)
    figure.supxlabel(CONVENTION, fontsize=SMALL)
    return figure


def _cloud_limits(cells: xr.Dataset) -> float:
    both = np.concatenate([cells[n].values for n in ("d", "d_corrected") if n in cells])
    return float(np.nanpercentile(np.abs(both), 99.5)) * 1.15 + 2.0


def _cloud(ax: Axes, found: Explanation, d: Floats, title: str, limit: float | None = None) -> None:
    cells = found.cells
    good = usable_cells(cells)
    size = float(np.clip(3 * np.sqrt(800 / max(good.sum(), 1)), 0.6, 3.0))
    number = 0
    for region in found.regions:
        if region.name == "reference":
            rows, colour = region.rows[good[region.rows]], "0.6"
        else:
            rows, colour = region.rows[good[region.rows]], PALETTE[number % len(PALETTE)]
            number += 1
        ax.plot(*d[rows].T, ".", color=colour, markersize=size, markeredgewidth=0, alpha=0.5, rasterized=True)
        ax.plot(
            *np.nanmean(d[rows], axis=0),
            "D",
            color=colour,
            markeredgecolor="black",
            markersize=6,
            label=region.name,
        )
    limit = limit or float(np.nanpercentile(np.abs(d[good]), 99.5)) * 1.15 + 2.0
    ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    ax.axvline(0, color="0.7", linewidth=0.6, zorder=0)
    ax.set(xlim=(-limit, limit), ylim=(limit, -limit), aspect="equal")
    ax.set_xlabel("d along x (pm)", fontsize=TEXT)
    ax.set_ylabel("d along y, down (pm)", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    ax.legend(fontsize=SMALL - 1, loc="best")
    ax.set_title(title, fontsize=TEXT + 1)


def _offsets(ax: Axes, attribution: xr.Dataset) -> None:
    """Mean offset of the map along x and y, cause by cause, with one standard error."""
    for side, (statistic, label) in enumerate((("mean_x", "x"), ("mean_y", "y"))):
        one = attribution.sel(statistic=statistic)
        count = attribution.sizes["cause"]
        height = 0.8 / count
        for n, cause in enumerate(attribution.cause.values):
            ax.barh(
                side + (n - (count - 1) / 2) * height, float(one.contribution[n]), height * 0.9,
                xerr=float(one.contribution_std[n]), color=_CAUSE[str(cause)], ecolor="black", capsize=2,
                label=str(cause) if side == 0 else None,
            )  # fmt: skip
        ax.plot(
            [float(one.total)] * 2,
            [side - 0.45, side + 0.45],
            color="#D55E00",
            linewidth=1.8,
            label="the map" if side == 0 else None,
        )
        ax.text(
            0.01, (1 - side + 0.42) / 2, f"along {label}", transform=ax.transAxes, fontsize=TEXT, va="top"
        )
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.set(ylim=(1.5, -0.5), yticks=[])
    ax.set_xlabel("share in the mean of the map (pm)", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    ax.legend(fontsize=SMALL - 1, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)


def plot_evidence(found: Explanation) -> Figure:
    """The averaged cell of every region, the model's, and what is left, in standard deviations."""
    count = len(found.regions)
    figure = Figure(figsize=(7.0, 2.1 * count + 0.5), layout="constrained")
    axes = figure.subplots(count, 3, squeeze=False)
    for row, (region, image) in enumerate(zip(found.regions, found.inversion.solution.image, strict=True)):
        mean = np.roll(region.mean, (8, 8), (0, 1))
        model = np.roll(image, (8, 8), (0, 1))
        left = np.roll((region.mean - image) * np.sqrt(region.weight), (8, 8), (0, 1))
        for ax, picture, text in zip(
            axes[row],
            (mean, model, left),
            (f"{region.name}: mean of {region.cells} cells", "model", "left over"),
            strict=True,
        ):
            residual = picture is left
            drawn = ax.imshow(
                picture, cmap="RdBu_r" if residual else "gray", vmin=-5 if residual else mean.min(),
                vmax=5 if residual else mean.max(), extent=(0, region.edges[0], region.edges[1], 0),
            )  # fmt: skip
            ax.set_title(text, fontsize=TEXT)
            ax.tick_params(labelsize=SMALL)
            if residual:
                bar = figure.colorbar(drawn, ax=ax)
                bar.set_label("standard deviations", fontsize=SMALL)
                bar.ax.tick_params(labelsize=SMALL)
        axes[row, 0].set_ylabel("Å", fontsize=SMALL)
    figure.suptitle(f"averaged cells, reduced χ² {found.inversion.misfit.reduced:.2f}", fontsize=TEXT + 1)
    return figure


def plot_posterior(found: Explanation) -> Figure:
    """Tilt of every region by every estimator, with 90 % ellipses; thickness and lens with their priors; profile likelihoods."""
    figure = Figure(figsize=(10.0, 6.6), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=(2.0, 1.0), squeeze=False)
    left, right = parts[0, 0].subplots(1, 2)
    _tilts(left, found)
    _shared(right, found)
    count = len(found.profiles)
    for ax, profile in zip(
        np.atleast_1d(parts[1, 0].subplots(1, count, sharey=True)), found.profiles, strict=True
    ):
        _profile(ax, found, profile)
    parts[1, 0].axes[0].set_ylabel("−2 log posterior,\nless its least", fontsize=SMALL)
    return figure


def _tilts(ax: Axes, found: Explanation) -> None:
    colours = {
        e.name: c for e, c in zip(found.estimates, ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), strict=False)
    }
    for estimate in found.estimates:
        for v, (tilt, covariance) in enumerate(zip(estimate.tilt, estimate.tilt_cov, strict=True)):
            if not np.isfinite(tilt).all():
                continue
            _ellipse(ax, tilt, covariance, colours[estimate.name], estimate.name if v == 0 else None)
            ax.annotate(f"{v + 1}", tilt, fontsize=SMALL, xytext=(4, 4), textcoords="offset points")
    for number, region in enumerate(found.regions):
        if region.name == "reference":
            block = found.inversion.tilt_cov[2 * number : 2 * number + 2, 2 * number : 2 * number + 2]
            _ellipse(ax, found.inversion.tilt[number], block, "0.4", "reference, joint fit")
    if found.leans is not None and found.leans.decided:
        grain = found.regions[0].turn() @ found.leans.grain
        ax.errorbar(
            grain[0], grain[1], found.leans.grain_std[1], found.leans.grain_std[0], fmt="k*", markersize=10,
            label=f"grain (lean share {found.leans.share:.2f})",
        )  # fmt: skip
    ax.axhline(0, color="0.8", zorder=0)
    ax.axvline(0, color="0.8", zorder=0)
    ax.margins(0.15)
    ax.set_aspect("equal", adjustable="datalim")
    ax.invert_yaxis()
    ax.set_xlabel("tilt along x (mrad)", fontsize=TEXT)
    ax.set_ylabel("tilt along y, down (mrad)", fontsize=TEXT)
    ax.set_title("direction of the beam inside each variant, 90 %", fontsize=TEXT + 1)
    ax.legend(fontsize=SMALL)
    ax.tick_params(labelsize=SMALL)


def _shared(ax: Axes, found: Explanation) -> None:
    rows = list(_SAID)
    for row, name in enumerate(rows):
        value, error = found.inversion.number(name)
        label, unit, factor = _SAID[name]
        scale = PRIORS[name][1] if name in PRIORS else max(abs(value), 1.0)
        if name in PRIORS:
            ax.plot([-1.645, 1.645], [row, row], color="0.85", linewidth=9, solid_capstyle="butt")
        ax.errorbar(value / scale, row, xerr=1.645 * error / scale, fmt="o", color="#0072B2", capsize=3)
        ax.text(
            2.45,
            row,
            f"{label}: {factor * value:.2f} ± {factor * error:.2f} {unit}",
            fontsize=TEXT,
            va="center",
        )
    ax.set(yticks=[], xlim=(-2.4, 6.2), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xticks([-2, -1, 0, 1, 2])
    ax.set_xlabel(
        "in standard deviations of the prior (grey: its 90 %); thickness in its own", fontsize=SMALL
    )
    ax.set_title("what all domains share, 90 %", fontsize=TEXT + 1)
    ax.tick_params(labelsize=SMALL)


def _profile(ax: Axes, found: Explanation, profile: Profile) -> None:
    """One profile likelihood with the normal distribution that the standard error stands for, and its 90 %."""
    label, unit, factor = _PROFILED[profile.name]
    if profile.region >= 0:
        label += f", {found.regions[profile.region].name}"
    place = found.inversion.model.layout.place(profile.name, profile.region)
    best = float(found.inversion.solution.theta[place])
    fine = np.linspace(profile.values[0], profile.values[-1], 200)
    ax.plot(factor * fine, ((fine - best) / profile.std) ** 2, color="0.6", linestyle="--", label="normal")
    ax.plot(factor * profile.values, profile.rise, "o-", color="#0072B2", markersize=3, label="profile")
    low, high = np.clip(profile.interval, profile.values[0], profile.values[-1])
    ax.axvspan(factor * low, factor * high, color="#0072B2", alpha=0.12, linewidth=0)
    ax.set_ylim(0, 10)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_xlabel(f"{label} ({unit})", fontsize=SMALL)
    ax.tick_params(labelsize=SMALL)
    if profile is found.profiles[0]:
        ax.legend(fontsize=SMALL - 1, loc="upper center")


def _ellipse(ax: Axes, centre: Floats, covariance: Floats, colour: str, label: str | None) -> None:
    value, vector = np.linalg.eigh(covariance)
    width, height = 2 * _NINETY * np.sqrt(np.maximum(value, 0.0))
    angle = float(np.degrees(np.arctan2(vector[1, 0], vector[0, 0])))
    ax.add_patch(
        Ellipse(
            (centre[0], centre[1]), width, height, angle=angle, facecolor=colour, alpha=0.25, edgecolor=colour
        )
    )
    ax.plot(*centre, ".", color=colour, label=label)


def plot_distributions(found: Explanation) -> Figure:
    """Histograms of d along x, along y and of |d|, before and after."""
    cells = found.cells
    good = usable_cells(cells) & (cells["reference"].values == 0)
    before = cells["d"].values[good]
    after = cells["d_corrected"].values[good] if "d_corrected" in cells else None
    figure = Figure(figsize=(9.0, 2.9), layout="constrained")
    for ax, (label, of) in zip(
        figure.subplots(1, 3),
        (
            ("d along x", lambda d: d[:, 0]),
            ("d along y, down", lambda d: d[:, 1]),
            ("|d|", lambda d: np.hypot(*d.T)),
        ),
        strict=True,
    ):
        values = of(before) if after is None else np.concatenate([of(before), of(after)])
        low, high = (float(np.nanpercentile(values, q)) for q in (0.2, 99.8))
        bins = np.linspace(low, high, 60).tolist()
        ax.hist(of(before), bins, color="#D55E00", alpha=0.55, label="as measured")
        if after is not None:
            ax.hist(of(after), bins, histtype="step", color="#0072B2", linewidth=1.5, label="corrected")
        ax.axvline(0, color="0.5", linewidth=0.6)
        ax.set_xlabel(f"{label} (pm)", fontsize=TEXT)
        ax.set_ylabel("cells", fontsize=TEXT)
        ax.tick_params(labelsize=SMALL)
    figure.axes[0].legend(fontsize=SMALL)
    return figure
