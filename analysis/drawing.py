"""What every figure shares: sizes, images, scale bars, titles, and files in three formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar  # type: ignore[import-untyped]
from numpy.typing import NDArray

from .errors import ImageError
from .writing import write_whole as writewrite_whole

Floats = NDArray[np.float64]

#: Said on every figure.
CONVENTION = (
    "d = mean of the surrounding A columns − central B column;  x right, y down (up in the image is −y)"
)
#: Flagged cells; darker than any colour of the wheel, and no colour of viridis.
FLAGGED = (0.55, 0.55, 0.55)
NO_DATA = "#5b6b7a"
#: Distinct for colour-blind readers too: Okabe and Ito (2008) without black, and indigo of P. Tol's muted scheme.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#332288")
ARROW = "#F0E442"  # stands out on a grey image
TEXT, SMALL = 8, 7  # pt

#: More marks than this become pixels inside vector files, so that these stay small.
DENSE = 1500
_WIDTH, _TALLEST = 7.2, 8.2  # inches
_SIDE = 1.45  # inches beside a map, for wheel, colour bar or legend
FORMATS = ("png", "svg", "pdf")
_DPI = {"png": 300, "svg": 190, "pdf": 190}
_PLAIN: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "tiltsim"}
_DATES = {"png": None, "svg": "Date", "pdf": "CreationDate"}


def save_figure(figure: Figure, stem: str | Path, formats: tuple[str, ...] = FORMATS) -> list[Path]:
    """Write a figure as PNG (300 dpi) and as vectors, in which text stays text.

    Parameters
    ----------
    figure : Figure
    stem : str or Path
        Path without the suffix; folders are made.
    formats : tuple of str
        Of "png", "svg" and "pdf".

    Returns
    -------
    list of Path
        One a format.

    Raises
    ------
    ImageError
        A format is unknown, or there is no room or permission to write.
    """
    unknown = [kind for kind in formats if kind not in _DPI]
    if unknown:
        raise ImageError(f"formats={unknown[0]!r} is unknown; choose from {', '.join(_DPI)}.")
    base = Path(stem)
    written = []
    engine = figure.get_layout_engine()
    with mpl.rc_context(_PLAIN):
        # One layout serves all formats: it takes as long as drawing.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for kind in formats:
            # Files of equal figures are equal: no date in them.
            options: dict[str, Any] = {"format": kind, "dpi": _DPI[kind]}
            if _DATES[kind]:
                options["metadata"] = {_DATES[kind]: None}
            written.append(
                writewrite_whole(
                    base.parent / f"{base.name}.{kind}",
                    lambda temporary, options=options: figure.savefig(temporary, **options),  # type: ignore[misc]
                )
            )
    figure.set_layout_engine(engine)
    return written


def map_axes(image: xr.DataArray, ax: Axes | None, side: float = _SIDE) -> Axes:
    """The axes to draw a map of an image into: `ax`, or those of a new figure that states the convention."""
    if ax is not None:
        return ax
    left, right, bottom, top = extent(image)
    ratio = (bottom - top) / (right - left)
    width = min(_WIDTH - side, _TALLEST / ratio)
    # A very wide field still needs room for what stands beside it.
    return new_figure(max(width + side, 5.6), max(width * ratio, 1.5) + 0.75).subplots()


def new_figure(width: float, height: float) -> Figure:
    """A figure, inches, below which stands what d means and where x and y point."""
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.05)
    figure.supxlabel(CONVENTION, fontsize=SMALL)
    return figure


def figure_of(ax: Axes) -> Figure:
    """The whole figure that an axes belongs to."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def extent(image: xr.DataArray) -> tuple[float, float, float, float]:
    """Left, right, bottom, top of an image with its pixels' outer edges, Å; bottom is the larger y."""
    x, y = image["x"].values, image["y"].values
    dx, dy = x[1] - x[0], y[1] - y[0]
    return x[0] - dx / 2, x[-1] + dx / 2, y[-1] + dy / 2, y[0] - dy / 2


def frame(ax: Axes, image: xr.DataArray) -> None:
    """Limit an axes to an image, y down, without ticks."""
    left, right, bottom, top = extent(image)
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=[], yticks=[])


def show_image(ax: Axes, image: xr.DataArray) -> None:
    """Draw an image in grey, blueish where it has no data."""
    low, high = np.nanpercentile(image.values, (0.5, 99.7))
    ax.imshow(image.values, cmap="gray", vmin=low, vmax=high, extent=extent(image), interpolation="auto")
    ax.set_facecolor(NO_DATA)
    frame(ax, image)


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, as printed."""
    return f"{value:+.{digits}f}".replace("-", "−")


def with_error(value: Floats, error: Floats) -> tuple[str, str]:
    """Numbers x, y and their errors as printed, to the digits that the smaller error asks for."""
    digits = 1 if error.min() >= 0.1 else 2
    return ", ".join(signed(v, digits) for v in value), ", ".join(f"{e:.{digits}f}" for e in error)


def title(ax: Axes, text: str, letter: str = "") -> None:
    """Title an axes on the left, a panel with its letter in bold."""
    ax.set_title(f"     {text}" if letter else text, loc="left", pad=5, fontsize=TEXT)
    if letter:
        ax.annotate(
            letter, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=11,
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def scale_bar(ax: Axes, share: float = 0.2) -> None:
    """Draw a bar of a round length, about a `share` of the width of an axes in Å, into its lower left corner."""
    width = abs(np.ptp(ax.get_xlim()))
    options = np.outer(10.0 ** np.arange(-1, 5), (1, 2, 5)).ravel()
    length = float(options[np.argmin(np.abs(np.log(options / (share * width))))])
    text = f"{length:g} Å" if length < 10 else f"{length / 10:g} nm"
    bar = AnchoredSizeBar(
        ax.transData, length, text, "lower left", pad=0.35, borderpad=0.5, sep=3, color="white", frameon=True,
        size_vertical=0.008 * width, fontproperties=FontProperties(size=TEXT),
    )  # fmt: skip
    bar.patch.set(facecolor="black", alpha=0.65, linewidth=0)
    bar.zorder = 8
    ax.add_artist(bar)
