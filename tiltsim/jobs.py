"""A simulation as independent units of work, the same whichever engine does them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from structures import Specimen
from tiltsim.lens import FORMAT as LENS_FORMAT
from tiltsim.lens import LensBox
from tiltsim.planning import Plan
from tiltsim.reciprocal import Grid
from tiltsim.settings import Detector, FrozenPhonons, Microscope, Numerics, TiltSeries

#: Changes whenever the numbers in a checkpoint change for the same settings.
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Job:
    """One specimen under one microscope, with everything that its images depend on.

    Parameters
    ----------
    engine : {"smatrix", "multislice"}
        Who computes.
    device : {"auto", "cpu", "cuda"}
        Where.
    lens : LensBox, optional
        Also the polynomial that the images follow as the lens' aberrations change: its terms come after the image where segments
        would. One detector without segments, engine "smatrix"; a whole configuration is then one unit.
    """

    specimen: Specimen
    microscope: Microscope
    tilts: TiltSeries
    detectors: tuple[Detector, ...]
    phonons: FrozenPhonons
    numerics: Numerics
    plan: Plan
    engine: str = "smatrix"
    device: str = "auto"
    lens: LensBox | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and (self.key, self.device) == (other.key, other.device)

    def __hash__(self) -> int:
        return hash((self.key, self.device))

    @property
    def points(self) -> list[tuple[float, float]]:
        """Tilts (x, y) in the order of results, mrad."""
        return [(self.tilts.x[i], self.tilts.y[j]) for i, j in self.tilts.points()]

    @property
    def segments(self) -> list[str]:
        """Labels of all detectors' segments, in the order of results."""
        return [label for detector in self.detectors for label in detector.labels]

    @cached_property
    def grid(self) -> Grid:
        """The specimen's box with the grid of its waves and its repeats."""
        return Grid(self.specimen.box, self.plan.gpts, self.plan.repeats, self.microscope.wavelength)

    @cached_property
    def key(self) -> str:
        """Digest of everything that a unit's result depends on, and not of how many units are asked for."""
        atoms = self.specimen.atoms
        lens = {"lens": asdict(self.lens), "lens_format": LENS_FORMAT} if self.lens else {}
        settled = replace(self.phonons, pairs=1, target_sem_pm=None, max_pairs=1)
        description = json.dumps(
            {
                "format": _FORMAT,
                "specimen": [
                    self.specimen.layer, self.specimen.slices, "".join(self.specimen.sites),
                    sorted(self.specimen.sigmas.items()),
                ],
                "still": self.phonons.pairs == 0,
                "microscope": asdict(replace(self.microscope, source_fwhm=0.0)),
                "tilts": asdict(self.tilts),
                "detectors": [asdict(d) for d in self.detectors],
                "phonons": asdict(settled),
                "files": [_content(p) for p in (settled.trajectory, settled.force_constants) if p],
                "plan": asdict(self.plan),
                "engine": self.engine,
                **lens,
                "versions": [version(name) for name in ("tiltsim", "abtem", "torch")],
            },
            sort_keys=True,
        )  # fmt: skip
        parts = (
            description.encode(), atoms.positions.round(9).tobytes(), atoms.cell.array.round(9).tobytes(),
            atoms.numbers.tobytes(),
        )  # fmt: skip
        return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]


def _content(path: str) -> str:
    """Digest of a file; the path's own where it cannot be read, which whoever needs the file reports."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return path


@dataclass(frozen=True)
class Unit:
    """One piece of a job.

    Parameters
    ----------
    pair, sign : int
        Phonon configuration, see :func:`tiltsim.phonons.labels`.
    part : int
        Number of the residual wave vector (scattering matrix; 0 for all of them with a lens) or of the tilt (multislice).
    """

    pair: int
    sign: int
    part: int

    @property
    def name(self) -> str:
        """File name of its checkpoint."""
        return f"{self.pair:05d}{ {1: 'p', -1: 'm', 0: 's'}[self.sign] }{self.part:05d}"


class Results(Protocol):
    """What holds the results of finished units."""

    def __getitem__(self, unit: Unit) -> NDArray[np.float32]:
        """Result of a finished ``unit``."""


def combine(job: Job, units: list[Unit], results: Results) -> NDArray[np.float64]:
    """Image of one configuration from its units, shape (segment, tilt, thickness, y, x).

    Residual wave vectors add up; tilts lie side by side. Always in the order of ``units``, so that the sum is the same
    to the last bit whoever finished first.
    """
    if job.engine == "multislice":
        return np.concatenate([results[unit] for unit in units], axis=1).astype(np.float64)
    total = results[units[0]].astype(np.float64)
    for unit in units[1:]:
        total += results[unit]
    return total
