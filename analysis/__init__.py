"""From an atomically resolved ADF image to columns, unit cells and polar displacement."""

from .calibration import recalibrate
from .colours import colour_wheel, direction_colours
from .errors import ImageError
from .lattice import Lattice
from .loading import as_image, load, load_published_cells
from .measuring import Measurement, measure, summary
from .plots import plot_columns, plot_polarization
from .tilts import largest_sem, tilt_response
from .writing import save, write_dataset

__all__ = [
    "ImageError",
    "Lattice",
    "Measurement",
    "as_image",
    "colour_wheel",
    "direction_colours",
    "largest_sem",
    "load",
    "load_published_cells",
    "measure",
    "plot_columns",
    "plot_polarization",
    "recalibrate",
    "save",
    "summary",
    "tilt_response",
    "write_dataset",
]
