"""Draw docs/images/gallery_1.png and gallery_2.png: twelve synthetic fields, each with its truth beside it.

python docs/make_gallery.py out/library/library.nc
"""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from analysis.colours import colour_wheel, direction_colours
from tiltsim.library import open_library
from tiltsim.synth import Field, synthesize
from tiltsim.synth.recipe import parse_recipe

#: Full colour, pm.
RADIUS = 35.0

#: What every field has unless it says otherwise.
USUAL: dict[str, Any] = {
    "probe": {"source_fwhm": 0.8},
    "scan": {"jitter_x": 0.04, "jitter_y": 0.02, "drift": 0.8, "drift_direction": 60.0},
    "cover": {"contamination": 0.003},
    "detection": {"dose_per_A2": 3.0e4, "bits": 12},
}

FIELDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "one domain, 10 nm, on axis",
        {"phase": "R3c", "thickness": 100.0, "disorder_a": 2.0, "disorder_b": 2.0, "rotation": 4.0},
        {},
    ),
    (
        "the same at 8 mrad",
        {"phase": "R3c", "thickness": 100.0, "tilt": 8.0, "azimuth": 20.0, "disorder_a": 2.0, "disorder_b": 2.0,
         "rotation": 4.0},
        {},
    ),
    (
        "180° wall, 20 nm",
        {"phase": "R3c", "thickness": 200.0, "tilt": 3.0, "domains": {"pattern": "wall", "wall": "180", "wall_width": 4.0}},
        {},
    ),
    (
        "109° wall, 15 nm",
        {"phase": "R3c", "thickness": 150.0, "tilt": 4.0, "domains": {"pattern": "wall", "wall": "109", "wall_width": 3.0}},
        {},
    ),
    (
        "71° wall, 15 nm",
        {"phase": "R3c", "thickness": 150.0, "tilt": 2.0, "domains": {"pattern": "wall", "wall": "71", "wall_width": 3.0}},
        {},
    ),
    (
        "109° stripes, each with half its own lean, 25 nm",
        {"phase": "R3c", "thickness": 250.0, "tilt": 2.0, "lean": "variant", "lean_scale": 0.5,
         "domains": {"pattern": "stripes", "wall": "109", "period": 60.0, "wall_width": 3.0}},
        {},
    ),
    (
        "film with 7 % Sm on SrTiO3, 30 nm",
        {"phase": "Cc", "samarium": 0.07, "substrate": 0.4, "interface_width": 6.0, "thickness": 300.0, "tilt": 3.0,
         "lean_scale": 0.3, "domains": {"pattern": "single"}},
        {},
    ),
    (
        "0 to 15 % Sm from left to right, 12 nm",
        {"phase": "Cc", "samarium": 0.075, "samarium_gradient": 0.18, "samarium_direction": 0.0, "thickness": 120.0},
        {},
    ),
    (
        "six domains, 8 nm, with carbon and an amorphous layer",
        {"phase": "R3c", "thickness": 80.0, "tilt": 3.0, "lean_scale": 0.5, "domains": {"pattern": "random", "count": 6}},
        {"cover": {"contamination": 0.008, "unevenness": 0.4, "amorphous": 25.0}},
    ),
    (
        "bent (16 mrad per 100 Å) and wedge-shaped, 10 nm",
        {"phase": "R3c", "thickness": 100.0, "wedge": 40.0, "wedge_direction": 90.0, "bending": 16.0,
         "bending_direction": 0.0},
        {},
    ),
    (
        "SrTiO3, 6 mrad, coma and drift",
        {"phase": "SrTiO3", "thickness": 150.0, "tilt": 6.0, "azimuth": -45.0, "rotation": 9.0},
        {"probe": {"source_fwhm": 0.9, "C21": 500.0, "phi21": 30.0, "C12": 10.0},
         "scan": {"drift": 6.0, "drift_direction": 10.0, "jitter_x": 0.08, "jitter_y": 0.03, "flyback": 1.5, "flyback_pixels": 15.0}},
    ),
    (
        "fast scan: 4·10³ e/Å², afterglow, 8 bits",
        {"phase": "R3c", "thickness": 120.0, "tilt": 2.0, "domains": {"pattern": "wall", "wall": "180"}},
        {"scan": {"jitter_x": 0.15, "jitter_y": 0.06},
         "detection": {"dose_per_A2": 4.0e3, "tail": 0.25, "tail_pixels": 2.0, "flicker": 0.02, "readout": 0.5, "bits": 8}},
    ),
]  # fmt: skip


def main(library_file: str) -> None:
    """Draw both pages."""
    library = open_library(library_file)
    folder = Path(__file__).parent / "images"
    for page in (0, 1):
        figure = Figure(figsize=(9.6, 7.9), layout="constrained")
        axes = figure.subplots(3, 4)
        for n, (title, specimen, faults) in enumerate(FIELDS[6 * page : 6 * page + 6]):
            recipe = parse_recipe(
                {"size": [400, 400], "pixel": 0.2, "specimens": [specimen], **USUAL, **faults}
            )
            field = synthesize(recipe, library, seed=5, field=6 * page + n)
            left, right = axes[n // 2, 2 * (n % 2) : 2 * (n % 2) + 2]
            draw_image(left, field, f"{'abcdefghijkl'[6 * page + n]}  {title}")
            draw_truth(right, field)
        colour_wheel(axes[2, 3].inset_axes((1.02, 0.0, 0.26, 0.26)), RADIUS)
        figure.savefig(folder / f"gallery_{page + 1}.png", dpi=120)


def draw_image(ax: Axes, field: Field, title: str) -> None:
    """The image as recorded, with a bar of 2 nm."""
    low, high = np.percentile(field.image, [0.2, 99.8])
    side = 400 * 0.2
    ax.imshow(
        field.image, cmap="gray", vmin=low, vmax=high, extent=(0, side, side, 0), interpolation="nearest"
    )
    ax.plot([4, 24], [76, 76], color="white", lw=2.5, solid_capstyle="butt")
    ax.set_title(fill(title, 40), fontsize=7, loc="left")
    ax.set_xticks([])
    ax.set_yticks([])


def draw_truth(ax: Axes, field: Field) -> None:
    """Cells coloured by their true d, where the image shows them, and the tilt across the field as arrows."""
    truth = field.truth
    corners = truth.a_image.values
    cells = np.stack(
        [corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1]], axis=2
    ).reshape(-1, 4, 2)
    colours = direction_colours(truth.d.values.reshape(-1, 2), RADIUS)
    ax.add_collection(PolyCollection(list(cells), facecolors=list(colours), edgecolors="none"))
    place, tilt = truth.b_image.values[::5, ::5].reshape(-1, 2), truth.tilt.values[::5, ::5].reshape(-1, 2)
    ax.quiver(
        *place.T, *tilt.T, angles="xy", scale_units="xy", scale=0.7, width=0.008, color="0.25", pivot="middle"
    )
    ax.set_xlim(0, 80)
    ax.set_ylim(80, 0)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    size = np.hypot(*truth.tilt.values[truth.inside.values].T)
    ax.set_title(f"true d; arrows: tilt, {_span(size)} mrad", fontsize=6, color="0.3")


def _span(values: np.ndarray) -> str:
    low, high = f"{values.min():.1f}", f"{values.max():.1f}"
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main(sys.argv[1])
