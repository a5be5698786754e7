"""Whole fields by frozen-phonon multislice, probe by probe: what synthetic fields are held against.

Potentials are abTEM's; transmission functions, propagator, tilt and detector are abTEM's formulas, run through torch, which is
ten times faster here than abTEM's own loop. `compare_abtem` runs a group through abTEM's Probe.scan as well: they are the same
to rounding. A group is one cell of probe positions. Its waves see the field's own displaced atoms within a box of five cells, cut out of the
periodic field: what lies further off is not reached at the thicknesses here. Every group of a configuration is a file, so that
an interrupted run goes on and further pairs can be added.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import abtem
import dask
import numpy as np
import torch
from ase import Atoms
from scipy.fft import next_fast_len

import structures
from structures import Specimen, build_columns
from tiltsim import Detector, FrozenPhonons, Microscope, readout
from tiltsim.phonons import configuration
from tiltsim.propagation import propagator, transmissions
from tiltsim.reciprocal import Grid

#: Cells along each side of the box that a group's waves see.
WINDOW = 5
#: Probe positions along each side of a cell: 0.7 of what is exact (docs/physics.md, "What the coarse scan costs").
PROBES = 14
#: Band limit over detector's outer angle + tilt; 1.75 elsewhere (docs/physics.md).
BAND = 1.75
MICROSCOPE, DETECTOR = Microscope(), Detector(65.0, 110.0)
#: Cells along the beam after which images are read.
CELLS = (12, 18, 26)


@dataclass(frozen=True, eq=False)
class Reference:
    """A field to simulate.

    Attributes
    ----------
    specimen : Specimen
        Periodic.
    shape : (int, int)
        Cells of the field (rows, columns).
    rows, columns : ranges of the cells that are scanned
    tilt : (float, float)
        mrad.
    """

    name: str
    title: str
    specimen: Specimen
    shape: tuple[int, int]
    rows: range
    columns: range
    tilt: tuple[float, float]
    edge_y: np.ndarray
    edge_x: float
    d: np.ndarray  # asked for, (rows, columns, 2), pm
    material: np.ndarray  # of B columns
    material_a: np.ndarray


def references() -> list[Reference]:
    thickness = CELLS[-1] * 3.9644
    edge = structures.phases.vegard(0.0)
    # d_y turns over between cells 5 and 6 and, the box being periodic, between 11 and 0; half-width of a cell.
    x = np.arange(12) + 0.5
    profile = np.tanh(x) - np.tanh(x - 6) + np.tanh(x - 12)
    wall = np.stack([np.full((6, 12), -23.6), np.broadcast_to(-23.6 * profile, (6, 12))], axis=-1)
    uniform = np.full((2, 2, 2), -23.6)
    film = np.array(["BiFeO3"] * 6 + ["SrTiO3"] * 6)
    material = np.repeat(film[:, None], 6, axis=1)
    interface = np.where((material == "BiFeO3")[..., None], -23.6, 0.0) * np.ones(2)
    # The A row at the top of row 0 closes the film on one side, that at the top of row 6 is strontium.
    heights = np.where(film == "BiFeO3", 4.03, structures.phases.SRTIO3_A)
    lateral = structures.phases.SRTIO3_A
    flat = np.full(12, edge)

    def same(shape: tuple[int, int]) -> np.ndarray:
        return np.full(shape, "BiFeO3")

    doped = np.full((4, 4, 2), -23.6)
    return [
        Reference(
            "wall", "109° walls, 12 × 6 cells, tilt (6, −4) mrad", build_columns(wall, thickness=thickness, name="wall"),
            (6, 12), range(2, 3), range(12), (6.0, -4.0), flat[:6], edge, wall, same((6, 12)), same((6, 12)),
        ),
        Reference(
            "uniform", "uniform R3c, tilt (3.7, −5.3) mrad", structures.build("R3c", thickness=thickness),
            (2, 2), range(2), range(2), (3.7, -5.3), flat[:2], edge, uniform, same((2, 2)), same((2, 2)),
        ),
        Reference(
            "interface", "film on SrTiO3, 6 × 12 cells, tilt (−4, 5) mrad",
            build_columns(
                interface, thickness=thickness, edge_x=lateral, edge_y=list(heights), edge_z=edge, material=material, name="interface",
            ),
            (12, 6), range(12), range(2, 3), (-4.0, 5.0), heights, lateral, interface, material, material,
        ),
        Reference(
            "samarium", "10 % Sm at random, 4 × 4 cells, tilt (5, 0) mrad",
            build_columns(doped, thickness=thickness, samarium=0.1, edge_x=edge, edge_y=edge, edge_z=edge, seed=3, name="samarium"),
            (4, 4), range(4), range(4), (5.0, 0.0), flat[:4], edge, doped, same((4, 4)), same((4, 4)),
        ),
    ]  # fmt: skip


def scan_group(field: Reference, atoms: Atoms, row: int, column: int, abtem_loop: bool = False) -> np.ndarray:
    """Images of one cell, shape (thickness, y, x), from probes at its PROBES × PROBES positions."""
    specimen = field.specimen
    # A field of four cells is its own box.
    window = min(WINDOW, max(4, max(field.shape)))
    tops = np.concatenate([[0.0], np.cumsum(field.edge_y)])
    lefts = column * field.edge_x, tops[row]
    size = np.array([field.edge_x, field.edge_y[row]])
    box = np.array([window * field.edge_x, window * float(np.mean(field.edge_y))])
    corner = np.array(lefts) + size / 2 - box / 2
    period = np.diag(atoms.cell.array)[:2]
    # Copies of the field around the window, those inside kept.
    shifts = [np.array([i, j]) * period for i in range(-4, 5) for j in range(-4, 5)]
    xy = np.concatenate([atoms.positions[:, :2] + s for s in shifts]) - corner
    inside = ((xy >= 0) & (xy < box)).all(axis=1)
    positions = np.c_[xy, np.tile(atoms.positions[:, 2], len(shifts))][inside]
    numbers = np.tile(atoms.numbers, len(shifts))[inside]
    slab = Atoms(numbers, positions=positions, cell=[*box, atoms.cell[2, 2]], pbc=True)
    angle = BAND * (DETECTOR.outer + float(np.hypot(*field.tilt))) * 1e-3
    sampling = (2 / 3) / (2 * angle / MICROSCOPE.wavelength)
    gpts = [4 * next_fast_len(int(np.ceil(length / sampling / 4)), real=True) for length in box]
    slice_thickness = specimen.slice_thickness
    planes = tuple(n * specimen.slices // 2 - 1 for n in CELLS)
    potential = abtem.Potential(
        slab, gpts=tuple(gpts), slice_thickness=(slice_thickness,) * round(specimen.thickness / slice_thickness),
        projection="infinite", exit_planes=planes,
    ).build(0, planes[-1] + 1, lazy=False)  # fmt: skip
    start = np.array(lefts) - corner
    run = _by_abtem if abtem_loop else _by_torch
    return run(potential, field.tilt, start, size, tuple(box), slice_thickness, planes)


def _by_abtem(potential, tilt, start, size, box, slice_thickness, planes) -> np.ndarray:
    probe = abtem.Probe(
        energy=MICROSCOPE.energy_keV * 1e3, semiangle_cutoff=MICROSCOPE.semiangle_cutoff, tilt=tilt
    )
    probe.grid.match(potential)
    scan = abtem.GridScan(start=tuple(start), end=tuple(start + size), gpts=(PROBES, PROBES), endpoint=False)
    measured = probe.scan(
        potential, scan=scan, detectors=abtem.AnnularDetector(inner=DETECTOR.inner, outer=DETECTOR.outer), max_batch=8, lazy=True
    )  # fmt: skip
    array = np.asarray(measured.compute().array, dtype=float).reshape(len(planes), PROBES, PROBES)
    return array.transpose(0, 2, 1)


def _by_torch(potential, tilt, start, size, box, slice_thickness, planes) -> np.ndarray:
    array = np.asarray(potential.array)
    grid = Grid(box, (array.shape[1], array.shape[2]), (1, 1), MICROSCOPE.wavelength)
    transmission = transmissions(array, grid, MICROSCOPE.energy_keV, torch.device("cpu"))
    kx = np.fft.fftfreq(grid.gpts[0], box[0] / grid.gpts[0])[:, None]
    ky = np.fft.fftfreq(grid.gpts[1], box[1] / grid.gpts[1])[None]
    # A tilted beam drifts by +tan(tilt) per depth.
    drift = np.tan(np.array(tilt) * 1e-3) * slice_thickness
    step = propagator(grid, (0, 0), slice_thickness) * np.exp(-2j * np.pi * (kx * drift[0] + ky * drift[1]))
    step = torch.as_tensor(step.astype(np.complex64))
    vectors = torch.as_tensor(np.stack(np.broadcast_arrays(kx, ky), axis=-1).reshape(-1, 2))
    angles = (float(grid.angular_step[0]), float(grid.angular_step[1]))
    lens = readout.aperture(vectors, MICROSCOPE, angles)
    lens = (lens / torch.sqrt((lens**2).sum())).reshape(grid.gpts)
    zero = torch.zeros(2, dtype=vectors.dtype)
    ring = readout.collection(vectors, zero, DETECTOR, grid.wavelength, angles)[0].reshape(grid.gpts).float()
    result = np.empty((len(planes), PROBES, PROBES))
    for j in range(PROBES):
        for i in range(PROBES):
            x, y = start + size * np.array([i, j]) / PROBES
            wave = lens * torch.as_tensor(np.exp(-2j * np.pi * (kx * x + ky * y)))
            wave = wave.to(torch.complex64)
            for n in range(planes[-1] + 1):
                wave = torch.fft.ifft2(wave).mul_(transmission[n])
                wave = torch.fft.fft2(wave).mul_(step)
                if n in planes:
                    result[planes.index(n), j, i] = float((wave.abs().square() * ring).sum())
    return result


def compute(
    work: Path, pairs: int, report: Callable[[str], None] = print, only: tuple[str, ...] = ()
) -> None:
    """All groups of all fields and configurations that are not in ``work`` yet."""
    for pair in range(pairs):
        for field in references():
            if only and field.name not in only:
                continue
            for sign in (1, -1):
                atoms = configuration(field.specimen, FrozenPhonons(pairs=pairs, seed=77), pair, sign)
                for row in field.rows:
                    for column in field.columns:
                        path = work / f"{field.name}-{pair}{'pm'[sign < 0]}-{row:02d}-{column:02d}.npy"
                        if path.exists():
                            continue
                        with (
                            abtem.config.set({"diagnostics.progress_bar": False}),
                            dask.config.set(scheduler="threads", num_workers=1),
                        ):
                            image = scan_group(field, atoms, row, column)
                        partial = path.with_suffix(f".{os.getpid()}.partial")
                        with partial.open("wb") as file:
                            np.save(file, image)
                        os.replace(partial, path)
                        report(path.stem)
