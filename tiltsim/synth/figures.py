"""Pictures of synthetic fields with their truth."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

#: Width of what a panel shows, Å: a dozen cells, so that arrows can be told from columns.
_WIDTH = 48.0

#: Smaller d are left out, pm: static disorder, not polarization.
_LEAST = 8.0

#: Length of an arrow, Å a pm: bulk BiFeO3's 33 pm becomes half a cell.
_ARROW = 0.06


def plot_fields(dataset: xr.Dataset, width: float = _WIDTH) -> Figure:
    """The middle of each field, and an arrow along the true d of each cell, coloured by its direction.

    Parameters
    ----------
    dataset : Dataset
        Some fields of a set, see :func:`tiltsim.synth.shards.read_set`.
    width : float
        Of what is shown, Å.

    Returns
    -------
    Figure
        Four panels a row.
    """
    n = dataset.sizes["field"]
    columns = min(n, 4)
    rows = -(-n // columns)
    fig = Figure(figsize=(2.6 * columns, 2.9 * rows + 0.3), layout="constrained")
    for i, ax in enumerate(np.atleast_1d(fig.subplots(rows, columns, squeeze=False)).ravel()):
        if i < n:
            _panel(ax, dataset.isel(field=i), width)
        else:
            ax.axis("off")
    fig.supxlabel("arrows: true d = A − B (x right, y down); bar: 10 Å", fontsize=7)
    return fig


def _panel(ax: Axes, field: xr.Dataset, width: float) -> None:
    pixel = float(field.pixel)
    shape = np.array([field.sizes["x"], field.sizes["y"]]) * pixel
    low = np.maximum((shape - width) / 2, 0.0)
    high = np.minimum(low + width, shape)
    first, last = np.round(low / pixel).astype(int), np.round(high / pixel).astype(int)
    part = field.image.values[first[1] : last[1], first[0] : last[0]]
    left, top = (first - 0.5) * pixel
    right, bottom = (last - 0.5) * pixel
    ax.imshow(part, cmap="gray", extent=(left, right, bottom, top), interpolation="nearest")
    place, d = _pairs(field, "b_image"), _pairs(field, "d_image")
    shown = np.all((place > low) & (place < high), axis=1) & (np.hypot(*d.T) > _LEAST)
    angle = np.arctan2(d[shown, 1], d[shown, 0]) / (2 * np.pi) % 1.0
    colours = hsv_to_rgb(np.stack([angle, np.full_like(angle, 0.9), np.ones_like(angle)], axis=-1))
    ax.quiver(
        *place[shown].T, *d[shown].T, color=colours, angles="xy", scale_units="xy", scale=1.0 / _ARROW,
        width=0.006, headwidth=3.5, headlength=4.0, headaxislength=4.0, pivot="middle",
    )  # fmt: skip
    ax.plot([low[0] + 2, low[0] + 12], [high[1] - 2] * 2, color="white", lw=2, solid_capstyle="butt")
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(high[1], low[1])
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(_caption(field), fontsize=7)


def _pairs(field: xr.Dataset, name: Hashable) -> np.ndarray:
    return field[name].transpose(..., "component").values.reshape(-1, 2)


def _caption(field: xr.Dataset) -> str:
    """Number, part, mean tilt and thickness of a field."""
    tilt = np.nanmean(_pairs(field, "tilt"), axis=0)
    return (
        f"field {int(field.field)} ({field.split.item()})\n"
        f"tilt ({tilt[0]:+.1f}, {tilt[1]:+.1f}) mrad, {float(field.thickness.mean()) / 10:.1f} nm"
    )
