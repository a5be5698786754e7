"""The studies of Nelson et al. (npj Comput. Mater. 7, 149, 2021) with known truth: each one function and one figure."""

from tiltsim.network_studies.centred import centred_study, centred_summary, plot_centred
from tiltsim.network_studies.cross import cross_study, cross_summary, plot_cross
from tiltsim.network_studies.fields import StudyField, make_field, make_fields
from tiltsim.network_studies.looking import (
    Windowed,
    features_study,
    features_summary,
    fresh_model,
    plot_features,
    plot_saliency,
    saliency_study,
    saliency_summary,
    tilted_fields,
    windows_of,
)
from tiltsim.network_studies.maps import maps_study, maps_summary, plot_maps
from tiltsim.network_studies.noise import noise_study, noise_summary, plot_noise
from tiltsim.network_studies.settings import COMPOSITIONS, NetworkStudy

__all__ = [
    "COMPOSITIONS",
    "NetworkStudy",
    "StudyField",
    "Windowed",
    "centred_study",
    "centred_summary",
    "cross_study",
    "cross_summary",
    "features_study",
    "features_summary",
    "fresh_model",
    "make_field",
    "make_fields",
    "maps_study",
    "maps_summary",
    "noise_study",
    "noise_summary",
    "plot_centred",
    "plot_cross",
    "plot_features",
    "plot_maps",
    "plot_noise",
    "plot_saliency",
    "saliency_study",
    "saliency_summary",
    "tilted_fields",
    "windows_of",
]
