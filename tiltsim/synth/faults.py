"""All that a microscope does wrong, in the order in which it does."""

from __future__ import annotations

from dataclasses import dataclass, field

from tiltsim.synth.covering import Covering
from tiltsim.synth.detection import Detection
from tiltsim.synth.probe import ProbeFaults
from tiltsim.synth.scanning import ScanFaults


@dataclass(frozen=True)
class Faults:
    """Sections of a recipe; by default an ideal microscope whose source is 0.8 Å wide.

    Parameters
    ----------
    probe : ProbeFaults
        Source and aberrations.
    scan : ScanFaults
        Where the beam stands.
    cover : Covering
        What lies on the specimen.
    detection : Detection
        Dose, detector, digits.
    """

    probe: ProbeFaults = field(default_factory=ProbeFaults)
    scan: ScanFaults = field(default_factory=ScanFaults)
    cover: Covering = field(default_factory=Covering)
    detection: Detection = field(default_factory=Detection)
