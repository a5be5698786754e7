"""What the studies of networks are made of: compositions, imaging, training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import dcnn
from tiltsim.errors import SettingsError
from tiltsim.synth.detection import Detection
from tiltsim.synth.faults import Faults
from tiltsim.synth.labelling import LABELS, Labels
from tiltsim.synth.recipe import Recipe
from tiltsim.synth.specimen_request import DomainRequest, SpecimenRequest

#: Sm fraction, and the factor on d of R3c BiFeO3 (23.6 pm along x and y) that these studies give it.
COMPOSITIONS: dict[float, float] = {0.0: 1.0, 0.07: 1.0, 0.10: 0.8, 0.13: 0.4, 0.20: 0.0}


@dataclass(frozen=True)
class NetworkStudy:
    """Fields, labels and training that all studies share.

    **Model specimens.** Every composition is R3c BiFeO3 with that fraction of Sm on A (drawn column by column, in images
    and lattice parameter), and d scaled by `COMPOSITIONS`: full at 0 and 7 %, 0.8 at 10 %, 0.4 at 13 %, none at 20 %.
    This follows the trend across the boundary from rhombohedral to non-polar that Nelson et al. (npj Comput. Mater. 7, 149,
    2021) and the work they cite report; the factors are **model values**, not measured ones, and 20 % is non-polar without
    the antipolar order that real films show. Domains of all eight variants meet at walls of two cells; every column is off its place by
    ``disorder`` at random, so that even the non-polar film has something to be mapped. Leans of variants are left out: a tilt of 0
    is 0 in every domain.

    Parameters
    ----------
    labels : {"fit", "truth"}
        What networks learn: column fits of the same image, as published, or the true displacement of the cells.
    dose_per_A2 : float
        Incident electrons per Å².
    thickness : float
        Å.
    tilt, azimuth : float
        Mis-tilt of the whole field, mrad, and its direction from x (right) towards y (down), degrees.
    size : int
        Rows and columns of a field, px.
    pixel : float
        Å.
    fields : int
        Fields that one network learns from and is tested on, left and right of their lines.
    disorder : float
        Static displacements of A and B columns, pm rms along each axis.
    epochs : int
        Passes over the training windows.
    network : str
        Network of `dcnn.TrainSettings`.
    seed : int
        Of specimens, noise and weights.
    device : str
        "auto", or a name torch knows.

    Raises
    ------
    SettingsError, dcnn.ModelError
        If a value is out of range, of specimens or of training.
    """

    labels: Labels = "fit"
    dose_per_A2: float = 5e4
    thickness: float = 100.0
    tilt: float = 0.0
    azimuth: float = 0.0
    size: int = 768
    pixel: float = 0.2
    fields: int = 1
    disorder: float = 3.0
    epochs: int = 60
    network: str = "baseline"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what no field or training can be."""
        if self.labels not in LABELS:
            raise SettingsError(f"labels {self.labels!r} are unknown; choose one of {', '.join(LABELS)}.")
        if self.fields < 1 or self.epochs < 1 or self.seed < 0:
            raise SettingsError(
                f"fields {self.fields} and epochs {self.epochs} must be at least 1, seed {self.seed} not negative."
            )
        if self.size * self.pixel < 60.0:
            raise SettingsError(
                f"size {self.size} px of pixel {self.pixel:g} Å is too little to split; use 60 Å or more."
            )
        # What recipes and trainings refuse is refused here, before any work.
        self.recipe(0.0)
        self.training(dcnn.Windows())

    @property
    def quick(self) -> NetworkStudy:
        """The same with small fields and short training: shows that all works, not how well."""
        return replace(self, size=448, epochs=15)

    def recipe(self, samarium: float, dose_per_A2: float | None = None) -> Recipe:
        """Fields of one composition."""
        specimen = SpecimenRequest(
            domains=DomainRequest(pattern="random", count=10, wall_width=8.0),
            polar=COMPOSITIONS[samarium],
            samarium=samarium,
            disorder_a=self.disorder,
            disorder_b=self.disorder,
            tilt=self.tilt,
            azimuth=self.azimuth,
            lean="common",
            thickness=self.thickness,
        )
        dose = self.dose_per_A2 if dose_per_A2 is None else dose_per_A2
        return Recipe(
            title=f"{samarium:.0%} Sm",
            size=(self.size, self.size),
            pixel=self.pixel,
            specimens=(specimen,),
            faults=Faults(detection=Detection(dose_per_A2=dose)),
        )

    def training(self, windows: dcnn.Windows, **changes: Any) -> dcnn.TrainSettings:
        """How networks of these studies are trained."""
        given: dict[str, Any] = {
            "network": self.network,
            "epochs": self.epochs,
            "seed": self.seed,
            "device": self.device,
        }
        return dcnn.TrainSettings(windows=windows, **(given | changes))


def percent(samarium: float) -> str:
    """A composition as figures name it."""
    return f"{100 * samarium:.0f} % Sm"
