"""A colour for every displacement: hue is direction, saturation and depth are magnitude."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# OKLab to linear sRGB, Björn Ottosson, "A perceptual color space for image processing" (2020).
_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
# The largest chroma that stays inside sRGB for every hue at this lightness.
_LIGHTNESS, _CHROMA = 0.72, 0.122
_CENTRE = 0.97  # lightness of no displacement: nearly white, as on paper


def direction_colours(d: Floats, radius: float) -> Floats:
    """Colours of displacements, equally bright for all directions.

    Parameters
    ----------
    d : (..., 2) array
        (x, y) components, y down.
    radius : float
        Magnitude of full colour, in the unit of `d`; larger ones look the same.

    Returns
    -------
    (..., 3) array
        sRGB, 0 to 1; mid-grey where `d` is NaN.
    """
    size = np.clip(np.hypot(d[..., 0], d[..., 1]) / radius, 0, 1)
    # Up (negative y) is drawn as up, so the angle is taken against -y.
    angle = np.arctan2(-d[..., 1], d[..., 0])
    lightness = _CENTRE + (_LIGHTNESS - _CENTRE) * size
    chroma = _CHROMA * size
    lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], -1)
    linear = np.clip((lab @ _TO_LMS.T) ** 3 @ _TO_RGB.T, 0, 1)
    colour = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.where(np.isfinite(size)[..., None], colour, 0.5)


def colour_wheel(ax: Axes, radius_pm: float, *, pixels: int = 256) -> None:
    """Draw the legend of `direction_colours` into an axes.

    Parameters
    ----------
    ax : Axes
        Emptied of ticks and frame; up in it is up in the image, −y.
    radius_pm : float
        Magnitude at the rim, pm.
    pixels : int
        Across the wheel.
    """
    line = np.linspace(-1, 1, pixels)
    x, y = np.meshgrid(line, line)  # row 0 is the top: y is down
    distance = np.hypot(x, y)
    rgba = np.ones((pixels, pixels, 4))
    rgba[..., :3] = direction_colours(np.stack([x, y], -1), 1.0)
    # A soft rim of one pixel instead of a jagged one.
    rgba[..., 3] = np.clip((1 - distance) * pixels / 2 + 0.5, 0, 1)
    ax.imshow(rgba, extent=(-1, 1, 1, -1), interpolation="bilinear")
    ax.set_xlim(-1.12, 1.12)
    ax.set_ylim(1.12, -1.12)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.text(0, -1.08, "up: −y", ha="center", va="bottom", fontsize=7)
    ax.text(0, 1.1, f"rim {radius_pm:g} pm", ha="center", va="top", fontsize=7)
