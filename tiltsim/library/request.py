"""What is asked of a response library, and the few structures that it takes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from structures import Specimen, build_columns
from structures.phases import SRTIO3_A, vegard
from tiltsim.errors import SettingsError
from tiltsim.lens import LensBox
from tiltsim.settings import Detector, FrozenPhonons, Microscope, TiltSeries

#: Change whenever the numbers or the layout of a library, or of one with a lens, change for the same request.
FORMAT, LENS_FORMAT = 1, 2

#: Materials a library holds, and their pseudocubic edges, Å: bulk BiFeO3 by volume, and SrTiO3.
EDGES = {"BiFeO3": vegard(0.0), "SrTiO3": SRTIO3_A}

#: Residual wave vectors along each axis: a box of 15.8 Å, in which one cell of every column is drawn 16 times.
WAVE_VECTORS = 4


@dataclass(frozen=True)
class Node:
    """A structure whose images are simulated.

    Parameters
    ----------
    material : str
    place : (int, int)
        d along x and y in steps of the request's ``step_pm``: one of each kind that the square's symmetry tells apart.
    samarium : float
        Fraction.
    """

    material: str
    place: tuple[int, int] = (0, 0)
    samarium: float = 0.0

    @property
    def name(self) -> str:
        """Label, usable as a file name."""
        return f"{self.material}-{self.place[0]}{self.place[1]}-{self.samarium:g}"


@dataclass(frozen=True)
class LibraryRequest:
    """The response of a cell under one microscope, over displacement, composition, tilt and thickness.

    Parameters
    ----------
    microscope : Microscope
        Its ``source_fwhm`` is left to the user of the library.
    detector : Detector
        One ring without segments. Default 65–110 mrad, which does nearly what 200 mrad does for a third of the
        work (docs/physics.md).
    largest_tilt : float
        Of the beam inside a crystal along x and along y, mrad: the specimen's tilt and the lean of a variant
        (R3c: 9.9 mrad along both) together.
    tilts : int
        Odd number of tilts along each axis from −``largest_tilt`` to ``largest_tilt``.
    thickest : float
        Å.
    step_cells : int
        Cells along the beam between thicknesses, even; also the least thickness.
    polar_pm : float
        d is interpolated between −``polar_pm``, 0 and ``polar_pm`` along each axis, and a little beyond. Default: bulk
        BiFeO3's, which is then a node; between nodes positions are out by up to 1 pm (measured, `tiltsim library check`).
    samarium : float
        Fraction at which the effect of Sm is computed; it is taken as linear.
    phonons : FrozenPhonons
        Pairs for each structure; each pair holds 16 independent draws.
    lens : LensBox, optional
        Residual aberrations that the library answers for too, which takes more than twice the time: `tiltsim explain` needs them.
    d_steps : int
        Steps of d from 0 to ``polar_pm`` along each axis: 1, or 2, which takes twice the time and leaves no picometre out between nodes.
    """

    microscope: Microscope = field(default_factory=Microscope)
    detector: Detector = field(default_factory=lambda: Detector(65.0, 110.0))
    largest_tilt: float = 16.0
    tilts: int = 9
    thickest: float = 400.0
    step_cells: int = 6
    polar_pm: float = 23.6
    samarium: float = 0.2
    phonons: FrozenPhonons = field(default_factory=lambda: FrozenPhonons(pairs=4, redraw=True))
    lens: LensBox | None = None
    d_steps: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be interpolated."""
        if self.tilts < 5 or self.tilts % 2 == 0:
            raise SettingsError(
                f"tilts {self.tilts} must be odd and at least 5, so that splines pass through zero."
            )
        if self.step_cells < 2 or self.step_cells % 2:
            raise SettingsError(
                f"step_cells {self.step_cells} must be even: octahedra alternate along the beam."
            )
        if self.lens is not None and self.step_cells < 4:
            raise SettingsError(
                f"step_cells {self.step_cells} leaves no thickness between, from which a library with a lens learns its errors; "
                "give at least 4."
            )
        if not 5.0 <= self.polar_pm <= 60.0:
            raise SettingsError(
                f"polar_pm {self.polar_pm:g} pm is outside 5 to 60 pm; 23.6 is bulk BiFeO3's."
            )
        if self.d_steps not in (1, 2):
            raise SettingsError(f"d_steps {self.d_steps} must be 1 or 2.")
        if not 0.0 < self.samarium <= 1.0:
            raise SettingsError(f"samarium {self.samarium:g} is not a fraction above 0; give e.g. 0.2.")
        if not self.phonons.redraw or self.phonons.trajectory or self.phonons.force_constants:
            raise SettingsError(
                "phonons: a library needs redraw=True, so that Sm is not at the same depths in every draw, and neither a "
                "trajectory nor force_constants, which fit one structure only."
            )
        if self.detector.segments > 1:
            raise SettingsError(
                "detector.segments: a library holds one whole ring; build one for each sector's ring."
            )
        if self.microscope.aberrations:
            unlike = [
                n for n, v in self.microscope.aberrations.items() if v and n not in ("defocus", "C10", "C30")
            ]
            if unlike:
                raise SettingsError(
                    f"aberrations.{unlike[0]}: a library needs a round probe, whose symmetry it uses; leave it to the "
                    "faults of the synthesis."
                )
        if len(self.cells) < 4:
            raise SettingsError(
                f"thickest {self.thickest:g} Å leaves {len(self.cells)} thicknesses of {self.step_cells} cells; at least 4 "
                "are needed."
            )

    @property
    def cells(self) -> tuple[int, ...]:
        """Thicknesses, in cells along the beam."""
        most = int(self.thickest / min(EDGES.values()) + 1e-9)
        return tuple(range(self.step_cells, most + 1, self.step_cells))

    @property
    def thickness_range(self) -> tuple[float, float]:
        """Least and largest thickness that all materials will have, Å."""
        return self.cells[0] * max(EDGES.values()), self.cells[-1] * min(EDGES.values())

    @property
    def samarium_placed(self) -> float:
        """Fraction that ``samarium`` comes to in whole atoms of one column."""
        return round(self.samarium * self.cells[-1]) / self.cells[-1]

    @property
    def step_pm(self) -> float:
        """Of d between nodes, pm."""
        return self.polar_pm / self.d_steps

    @property
    def places(self) -> tuple[int, ...]:
        """Nodes of d along each axis, in steps."""
        return tuple(range(-self.d_steps, self.d_steps + 1))

    @property
    def series(self) -> TiltSeries:
        """The tilts to simulate."""
        return TiltSeries.grid(self.largest_tilt, self.tilts)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The structures to simulate: all others follow by the symmetry of the square."""
        return (
            *(Node("BiFeO3", (i, j)) for i in range(self.d_steps + 1) for j in range(i + 1)),
            Node("BiFeO3", samarium=self.samarium), Node("SrTiO3"),
        )  # fmt: skip

    @property
    def held_out(self) -> tuple[tuple[Node, tuple[float, float]], ...]:
        """Structures that no node is interpolated from, and their d, pm: what a library with a lens foretells of them tells its errors."""
        p = self.polar_pm
        polar = Node("BiFeO3", (1, 1))
        return ((polar, (0.75 * p, 0.75 * p)), (polar, (1.1 * p, 1.1 * p)), (Node("SrTiO3"), (0.0, 0.0)))

    @property
    def held_out_tilts(self) -> TiltSeries:
        """Of theirs; between the nodes, and symmetric."""
        step = 2.0 * self.largest_tilt / (self.tilts - 1)
        found = []
        for share in (0.15, 0.6):
            place = share * self.largest_tilt / step
            if abs(place - round(place)) < 0.25:  # too near to a node
                place = round(place) - 0.5 if round(place) else 0.5
            found.append(round(place * step, 6))
        return TiltSeries((-found[1], -found[0], *found), (-found[1], -found[0], *found))

    @property
    def held_out_cells(self) -> tuple[int, ...]:
        """Thicknesses of theirs, between the nodes but the last: phonons are those of one slab."""
        return tuple(sorted({*(n + 2 for n in self.cells[:-1]), self.cells[-1]}))

    @property
    def format(self) -> int:
        """Of its library."""
        return FORMAT if self.lens is None else LENS_FORMAT

    @cached_property
    def digest(self) -> str:
        """Of everything that the library's numbers follow from, except versions of other programs."""
        text = json.dumps(self.as_dict() | {"format": self.format, "edges": EDGES}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able form."""
        table = asdict(self)
        if self.lens is None:
            del table["lens"]
        if self.d_steps == 1:  # as libraries had before there was a choice
            del table["d_steps"]
        return table


def small_library(
    microscope: Microscope | None = None, detector: Detector | None = None, seed: int = 0
) -> LibraryRequest:
    """Enough to try everything, to 12 nm and 12 mrad, in two minutes."""
    return LibraryRequest(
        microscope or Microscope(), detector or Detector(65.0, 110.0), largest_tilt=12.0, tilts=7, thickest=120.0,
        phonons=FrozenPhonons(pairs=2, seed=seed, redraw=True),
    )  # fmt: skip


def specimen(
    material: str,
    d_pm: tuple[float, float],
    thickness_cells: int,
    *,
    samarium: float = 0.0,
    name: str = "node",
) -> Specimen:
    """One cell wide slab of a ``material`` with in-plane ``d_pm``; the lattice is the undoped material's."""
    edge = EDGES[material]
    return build_columns(
        np.array(d_pm, dtype=float).reshape(1, 1, 2), thickness=thickness_cells * edge, edge_x=edge, edge_y=edge,
        edge_z=edge, samarium=samarium, material=material, name=name,
    )  # fmt: skip
