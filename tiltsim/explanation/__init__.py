"""Is it the crystal or the tilt: mis-tilt read from an image, maps corrected for it, and what cannot be known."""

from tiltsim.explanation.attribution import attribute
from tiltsim.explanation.estimators import Estimate
from tiltsim.explanation.explaining import Explanation, explain
from tiltsim.explanation.forward import Forward
from tiltsim.explanation.inversion import Inversion, invert
from tiltsim.explanation.regions import Region, gather
from tiltsim.explanation.verdict import Verdict, judge

__all__ = [
    "Estimate",
    "Explanation",
    "Forward",
    "Inversion",
    "Region",
    "Verdict",
    "attribute",
    "explain",
    "gather",
    "invert",
    "judge",
]
