"""Where on the cell a network reads each of its targets, as one dataset and one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from dcnn._attribution import attribution
from dcnn._model import Model
from dcnn._readout import SYMBOLS, as_windows
from dcnn._targets import channels
from dcnn._windows import ANGSTROM

_FONT = 8
_METHODS = ("integrated_gradients", "saliency")
_NAMES = {"integrated_gradients": "integrated gradients", "saliency": "saliency"}
_MARKS = {"A": "o", "B": "s"}


def view_attribution(
    model: Model,
    windows: NDArray[Any],
    places: Mapping[str, ArrayLike],
    *,
    targets: Sequence[str] | None = None,
    radius_angstrom: float = 1.0,
) -> xr.Dataset:
    """Where a network reads, by integrated gradients and by saliency, and how much of it on the columns of each site.

    Parameters
    ----------
    model : Model
        Of network "baseline" or "residual".
    windows : ndarray, shape (n, pixels, pixels)
        Windows that stand alike on their cells, so that their average means something.
    places : mapping of str to array_like, shape (m, 2)
        Places (x, y), Å from the window's middle, of the columns of sites "A" and "B".
    targets : sequence of str, optional
        Such as "d_x"; default all that the model predicts.
    radius_angstrom : float
        A sample this near a column counts as on it.

    Returns
    -------
    xarray.Dataset
        ``share`` (approach, target, row, col), shares of `attribution` per Å²; ``mean`` (row, col), the mean window; ``on_site``
        (approach, target, site), share within the radius of the site's columns, and ``area`` (site), the share of the window's
        area that these take: what a network would read there by chance. ``place`` (column, component), Å.

    Raises
    ------
    ModelError
        If windows or targets do not fit.
    """
    wanted = tuple(channels(model.targets) if targets is None else targets)
    stack = as_windows(model, windows).numpy()
    offsets = model.windows.offsets
    pitch = float(offsets[1] - offsets[0])
    share = np.array([[attribution(model, stack, t, m) for t in wanted] for m in _METHODS])  # type: ignore[arg-type]
    x, y = np.meshgrid(offsets, offsets)
    columns = {site: np.asarray(at, dtype=float).reshape(-1, 2) for site, at in places.items()}
    on = np.array(
        [
            (np.hypot(x[..., None] - at[:, 0], y[..., None] - at[:, 1]) < radius_angstrom).any(axis=-1)
            for at in columns.values()
        ]
    )
    length = {"units": ANGSTROM}
    return xr.Dataset(
        {
            "share": (
                ("approach", "target", "row", "col"),
                share / pitch**2,
                {"units": "1/Å²", "long_name": "share of the answer"},
            ),
            "mean": (("row", "col"), stack.mean(axis=0), {"units": "1", "long_name": "mean window"}),
            "on_site": (
                ("approach", "target", "site"),
                np.einsum("mtrc,src->mts", share, on),
                {"units": "1"},
            ),
            "area": ("site", on.mean(axis=(1, 2)), {"units": "1"}),
            "place": (("column", "component"), np.concatenate(list(columns.values())), length),
            "column_site": ("column", [site for site, at in columns.items() for _ in at]),
        },
        coords={
            "approach": list(_METHODS),
            "target": list(wanted),
            "site": list(columns),
            "row": ("row", offsets, length),
            "col": ("col", offsets, length),
            "component": ["x", "y"],
        },
        attrs={"windows": len(stack), "radius_angstrom": radius_angstrom},
    )


def plot_attribution(views: xr.Dataset) -> Figure:
    """Draw the mean window, and for every target where it is read; circles are A columns, squares B.

    Parameters
    ----------
    views : xarray.Dataset
        From `view_attribution`.

    Returns
    -------
    matplotlib.figure.Figure
        A row a method; shares written in are those on the columns of each site.
    """
    targets = [str(t) for t in views.target.values]
    figure = Figure(figsize=(7.1, 3.9), layout="constrained", dpi=200)
    wide = [1.0, *[1.0] * len(targets)]
    axes = figure.subplots(2, 1 + len(targets), sharex=True, sharey=True, width_ratios=wide, squeeze=False)
    half = float(views.col[-1]) + float(views.col[1] - views.col[0]) / 2
    box = (-half, half, half, -half)
    axes[0, 0].imshow(views["mean"], cmap="gray", extent=box)
    axes[0, 0].set_title("(a) mean window", fontsize=_FONT, loc="left")
    axes[1, 0].set_visible(False)
    _mark(axes[0, 0], views, named=True)
    for row, method in enumerate(_METHODS):
        of_method = views.sel(approach=method)
        # A few samples on the columns would make everything between them look empty.
        end = 100 * float(np.quantile(np.abs(of_method["share"]), 0.99))
        signed = method == "integrated_gradients"
        for column, target in enumerate(targets, 1):
            ax, one = axes[row, column], of_method.sel(target=target)
            picture = ax.imshow(
                100 * one["share"], cmap="RdBu_r" if signed else "magma", vmin=-end if signed else 0, vmax=end, extent=box
            )  # fmt: skip
            _mark(ax, views, colour="k" if signed else "w")
            letter = "bcdefghijk"[row * len(targets) + column - 1]
            ax.set_title(f"({letter}) {SYMBOLS[target][0]}", fontsize=_FONT, loc="left")
            shares = zip(one.site.values, one.on_site.values, strict=True)
            text = ", ".join(f"{site} {round(100 * float(value))} %" for site, value in shares)
            ax.text(
                0.5, 0.03, text.replace("-", "−"), transform=ax.transAxes, ha="center", fontsize=_FONT - 2,
                bbox={"facecolor": "w", "alpha": 0.85, "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        bar = figure.colorbar(
            picture, ax=axes[row, :], pad=0.01, aspect=14, extend="both" if signed else "max"
        )
        bar.set_label(f"{_NAMES[method]}\n(% of the answer per Å²)", fontsize=_FONT - 1)
        bar.ax.tick_params(labelsize=_FONT - 1)
    for ax in axes.flat:
        ax.tick_params(labelsize=_FONT - 1, length=2)
    for ax in (axes[0, 0], *axes[1, 1:]):
        ax.set_xlabel("x (Å)", fontsize=_FONT - 1)
    axes[0, 0].tick_params(labelbottom=True)
    axes[1, 1].tick_params(labelleft=True)
    for ax in (axes[0, 0], axes[1, 1]):
        ax.set_ylabel("y (Å)", fontsize=_FONT - 1)
    return figure


def _mark(ax: Axes, views: xr.Dataset, *, colour: str = "y", named: bool = False) -> None:
    """Columns' places."""
    for site in views.site.values:
        at = views["place"].values[views["column_site"].values == site]
        ax.plot(
            *at.T, ls="", marker=_MARKS.get(str(site), "D"), mfc="none", mec=colour, ms=4, mew=0.7,
            label=f"{site} column" if named else None,
        )  # fmt: skip
    if named:
        ax.legend(fontsize=_FONT - 2, loc="upper center", bbox_to_anchor=(0.5, -0.35), frameon=False)
