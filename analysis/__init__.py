"""From an atomically resolved ADF image to columns, unit cells and polar displacement."""

from .calibration import recalibrate
from .cells import local_average
from .clouds import cloud, histograms
from .colours import colour_wheel, direction_colours
from .distortion import correct_distortion, propagate_jitter, scan_distortion
from .distortion_plots import plot_distortion
from .domain_maps import domain_map, wall_map
from .domains import find_domains, find_walls
from .drawing import save_figure
from .errors import ImageError
from .exchange import load_atomap, to_dataframe, write_csv, write_xyz
from .frames import affine_from_pair, correct_pair
from .inversion import inversion_centre
from .lattice import Lattice
from .loading import as_image, load, load_published_cells
from .maps import arrow_map, polarization_map, ratio_map, strain_map, uncertainty_map
from .measuring import Measurement, measure, summary
from .motif import MOTIFS, Motif
from .plots import plot_all, plot_columns, plot_polarization
from .polar_signs import from_atomap, from_temul, to_atomap, to_temul
from .tilts import largest_sem, tilt_response
from .writing import save, write_dataset

__all__ = [
    "MOTIFS",
    "ImageError",
    "Lattice",
    "Measurement",
    "Motif",
    "affine_from_pair",
    "arrow_map",
    "as_image",
    "cloud",
    "colour_wheel",
    "correct_distortion",
    "correct_pair",
    "direction_colours",
    "domain_map",
    "find_domains",
    "find_walls",
    "from_atomap",
    "from_temul",
    "histograms",
    "inversion_centre",
    "largest_sem",
    "load",
    "load_atomap",
    "load_published_cells",
    "local_average",
    "measure",
    "plot_all",
    "plot_columns",
    "plot_distortion",
    "plot_polarization",
    "polarization_map",
    "propagate_jitter",
    "ratio_map",
    "recalibrate",
    "save",
    "save_figure",
    "scan_distortion",
    "strain_map",
    "summary",
    "tilt_response",
    "to_atomap",
    "to_dataframe",
    "to_temul",
    "uncertainty_map",
    "wall_map",
    "write_csv",
    "write_dataset",
    "write_xyz",
]
