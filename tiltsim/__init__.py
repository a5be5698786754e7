"""From specimen to image at every tilt, and the study that joins all of it."""

from tiltsim.asymmetry import AsymmetryRequest, asymmetry_study
from tiltsim.conventions import TiltConvention
from tiltsim.dataset import pair_images
from tiltsim.errors import SettingsError
from tiltsim.explanation import explain
from tiltsim.images import apply_dose, evaluate
from tiltsim.library import Library, LibraryRequest, build_library, check_library, open_library
from tiltsim.settings import Detector, FrozenPhonons, Microscope, Numerics, TiltSeries
from tiltsim.simulate import simulate
from tiltsim.synth import load_recipe, synthesize, write_set

__all__ = [
    "AsymmetryRequest",
    "Detector",
    "FrozenPhonons",
    "Library",
    "LibraryRequest",
    "Microscope",
    "Numerics",
    "SettingsError",
    "TiltConvention",
    "TiltSeries",
    "apply_dose",
    "asymmetry_study",
    "build_library",
    "check_library",
    "evaluate",
    "explain",
    "load_recipe",
    "open_library",
    "pair_images",
    "simulate",
    "synthesize",
    "write_set",
]
