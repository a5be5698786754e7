"""From an atomically resolved ADF image to columns, unit cells and polar displacement."""

from .calibration import recalibrate
from .colours import colour_wheel, direction_colours
from .errors import ImageError
from .exchange import load_atomap, to_dataframe, write_csv, write_xyz
from .lattice import Lattice
from .loading import as_image, load, load_published_cells
from .measuring import Measurement, measure, summary
from .plots import plot_columns, plot_polarization
from .polar_signs import from_atomap, from_temul, to_atomap, to_temul
from .tilts import largest_sem, tilt_response
from .writing import save, write_dataset

__all__ = [
    "ImageError",
    "Lattice",
    "Measurement",
    "as_image",
    "colour_wheel",
    "direction_colours",
    "from_atomap",
    "from_temul",
    "largest_sem",
    "load",
    "load_atomap",
    "load_published_cells",
    "measure",
    "plot_columns",
    "plot_polarization",
    "recalibrate",
    "save",
    "summary",
    "tilt_response",
    "to_atomap",
    "to_dataframe",
    "to_temul",
    "write_csv",
    "write_dataset",
    "write_xyz",
]
