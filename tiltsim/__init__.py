"""From specimen to image at every tilt, and the study that joins all of it."""

from tiltsim.conventions import TiltConvention
from tiltsim.dataset import pair_images
from tiltsim.errors import SettingsError
from tiltsim.images import apply_dose, evaluate
from tiltsim.settings import Detector, FrozenPhonons, Microscope, Numerics, TiltSeries
from tiltsim.simulate import simulate

__all__ = [
    "Detector",
    "FrozenPhonons",
    "Microscope",
    "Numerics",
    "SettingsError",
    "TiltConvention",
    "TiltSeries",
    "apply_dose",
    "evaluate",
    "pair_images",
    "simulate",
]
