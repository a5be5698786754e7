"""Whole fields by frozen-phonon multislice: what synthetic fields are held against.

The scattering-matrix engine propagates every plane wave that the probe holds through the whole field, with abTEM's potentials;
it agrees with abTEM's multislice to 1e-6 of the maximum on axis and 5e-3 off it (tests/tiltsim/test_smatrix.py), and takes minutes
where abTEM's probe-by-probe loop takes days (benchmarks/synthesis.py times it). Fields that are uniform along one axis are one cell
wide along it and repeated, each repetition with phonons of its own. Finished units are kept, so that pairs can be added.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import structures
from structures import Specimen, build_columns
from tiltsim import Detector, FrozenPhonons, Microscope, Numerics, TiltSeries
from tiltsim.checkpoints import Checkpoints
from tiltsim.simulate import prepare, sample

MICROSCOPE, DETECTOR = Microscope(), Detector(65.0, 110.0)
#: Cells along the beam after which images are read: between the nodes of the default library.
CELLS = (14, 20, 26)
#: Least width of the box that the probe sees, Å.
BOX = 15.8


@dataclass(frozen=True, eq=False)
class Reference:
    """A field to simulate, periodic.

    Attributes
    ----------
    shape : (int, int)
        Cells (rows, columns).
    tilt : (float, float)
        mrad.
    edge_y : (rows,) array, edge_x : float
        Å.
    d : (rows, columns, 2) array
        pm.
    material, material_a : (rows, columns) arrays of str
        Of the B column of each cell and of the A column at its upper left corner.
    pairs : int
        Phonon pairs for each that is asked for; small fields take more.
    """

    name: str
    title: str
    specimen: Specimen
    shape: tuple[int, int]
    tilt: tuple[float, float]
    edge_y: np.ndarray
    edge_x: float
    d: np.ndarray
    material: np.ndarray
    material_a: np.ndarray
    pairs: int = 1


def references() -> list[Reference]:
    edge, lateral = structures.phases.vegard(0.0), structures.phases.SRTIO3_A
    thickness = CELLS[-1] * edge
    # d_y and d_z turn over between cells 5 and 6 and, the box being periodic, between 11 and 0; half-width of a cell.
    x = np.arange(12) + 0.5
    profile = np.tanh(x) - np.tanh(x - 6) + np.tanh(x - 12)
    wall = np.stack([np.full((1, 12), -23.6), -23.6 * profile[None]], axis=-1)
    film = np.array([["BiFeO3"]] * 6 + [["SrTiO3"]] * 6)
    interface = np.where((film == "BiFeO3")[..., None], -23.6, 0.0) * np.ones(2)
    heights = np.where(film[:, 0] == "BiFeO3", 4.03, lateral)

    def bismuth(shape: tuple[int, int]) -> np.ndarray:
        return np.full(shape, "BiFeO3")

    return [
        Reference(
            "wall", "109° walls, 12 cells apart by 6, tilt (6, −4) mrad",
            build_columns(
                wall, thickness=thickness, d_z_pm=23.6 * profile[None], edge_x=edge, edge_y=edge, edge_z=edge, name="wall",
            ),
            (1, 12), (6.0, -4.0), np.full(1, edge), edge, wall, bismuth((1, 12)), bismuth((1, 12)),
        ),
        Reference(
            "uniform", "uniform R3c, tilt (3.7, −5.3) mrad", structures.build("R3c", thickness=thickness),
            (2, 2), (3.7, -5.3), np.full(2, edge), edge, np.full((2, 2, 2), -23.6), bismuth((2, 2)), bismuth((2, 2)), 4,
        ),
        Reference(
            "interface", "film on SrTiO3, tilt (−4, 5) mrad",
            build_columns(
                interface, thickness=thickness, edge_x=lateral, edge_y=list(heights), edge_z=edge, material=film, name="interface",
            ),
            (12, 1), (-4.0, 5.0), heights, lateral, interface, film, film,
        ),
        Reference(
            "samarium", "10 % Sm at random, 4 × 4 cells, tilt (5, 0) mrad",
            build_columns(
                np.full((4, 4, 2), -23.6), thickness=thickness, samarium=0.1, edge_x=edge, edge_y=edge, edge_z=edge, seed=3,
                name="samarium",
            ),
            (4, 4), (5.0, 0.0), np.full(4, edge), edge, np.full((4, 4, 2), -23.6), bismuth((4, 4)), bismuth((4, 4)),
        ),
    ]  # fmt: skip


def simulated(field: Reference, pairs: int, work: Path | None) -> np.ndarray:
    """Images over one period before the source's blur, means of u and −u, shape (pair, thickness, y, x)."""
    job = prepare(
        field.specimen,
        MICROSCOPE,
        TiltSeries((field.tilt[0],), (field.tilt[1],)),
        thicknesses=[n * field.specimen.layer / 2 for n in CELLS],
        detector=DETECTOR,
        phonons=FrozenPhonons(pairs=pairs * field.pairs, seed=77),
        numerics=Numerics(minimum_box=BOX),
    )[0]
    found = sample(job, Checkpoints(job, work))
    configs = found.periods[:, 0, 0].astype(float)
    return configs.reshape(-1, 2, *configs.shape[1:]).mean(axis=1)
