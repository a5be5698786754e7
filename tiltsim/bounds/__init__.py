"""How well tilt, thickness and displacement can be known from an image, and the likelihood fit that comes up to it."""

from tiltsim.bounds.figures import bound_table, plot_bound
from tiltsim.bounds.fisher import NUISANCE, tilt_bound
from tiltsim.bounds.folding import Grating, fold, grating
from tiltsim.bounds.likelihood import fit_folded, likelihood_tilt
from tiltsim.bounds.response import CellResponse, engine_derivatives, library_response

__all__ = [
    "NUISANCE",
    "CellResponse",
    "Grating",
    "bound_table",
    "engine_derivatives",
    "fit_folded",
    "fold",
    "grating",
    "library_response",
    "likelihood_tilt",
    "plot_bound",
    "tilt_bound",
]
