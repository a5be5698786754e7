"""The scattering-matrix engine: every tilt, detector and thickness from one propagation.

A tilted specimen is the same scattering matrix read through a shifted aperture and a shifted detector, and a
repeated supercell scatters each residual wave vector by itself (docs/design.md, "All tilts from one scattering matrix").
One unit of work is one residual wave vector of one phonon configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tiltsim import readout
from tiltsim.jobs import Job, Unit
from tiltsim.multislice import potential
from tiltsim.phonons import configuration
from tiltsim.propagation import scattering_matrix, torch_device, transmissions
from tiltsim.reciprocal import Ints, beams, pixels, shifts


def units(job: Job, pair: int, sign: int) -> list[Unit]:
    """The residual wave vectors of one configuration."""
    if job.lens:  # terms take much room, and are added up before they are kept
        return [Unit(pair, sign, 0)]
    return [Unit(pair, sign, part) for part in range(len(job.grid.wave_vectors))]


def compute(job: Job, unit: Unit, passes: int = 1) -> NDArray[np.float32]:
    """Contribution of one residual wave vector of one configuration to every image.

    Parameters
    ----------
    job, unit
        What to compute.
    passes : int
        The exit waves are kept in this many portions, propagating anew for each: less memory, more time.

    Returns
    -------
    ndarray, shape (segment, tilt, thickness, y, x)
        Intensities over one period, fraction of the incident beam.
    """
    if job.lens is None:
        return _read(job, unit, passes).images()
    parts = [replace(unit, part=n) for n in range(len(job.grid.wave_vectors))]
    reader = _read(job, parts[0], passes)
    for part in parts[1:]:
        reader.include(_read(job, part, passes))
    return reader.images()


def _read(job: Job, unit: Unit, passes: int) -> Reader:
    grid, device = job.grid, torch_device(job.device)
    q = grid.wave_vectors[unit.part]
    transmission = transmission_functions(job, unit, device)
    incident = beams(grid, job.microscope, job.points, q)
    wanted = pixels(grid, job.detectors, job.points, q)
    reader = Reader(job, q, incident, device)
    for portion in np.array_split(wanted, passes):
        planes = scattering_matrix(
            transmission, grid, q, job.specimen.slice_thickness, incident, portion, job.plan.exit_planes
        )
        reader.add(planes, portion)
    return reader


def transmission_functions(job: Job, unit: Unit, device: torch.device) -> Tensor:
    """Transmission functions (slices, nx, ny) of the configuration that ``unit`` sees."""
    if job.phonons.spread and unit.sign:
        return _built(job, unit.pair, unit.sign, unit.part, device)
    return _shared_by_wave_vectors(job, unit.pair, unit.sign, device)


def _built(job: Job, pair: int, sign: int, part: int, device: torch.device) -> Tensor:
    atoms = configuration(job.specimen, job.phonons, pair, sign, part)
    single = replace(job.plan, repeats=(1, 1))
    built = potential(job.specimen, atoms, single, "cpu", job.plan.exit_planes[-1] + 1)
    return transmissions(np.asarray(built.array), job.grid, job.microscope.energy_keV, device)


@lru_cache(maxsize=1)
def _shared_by_wave_vectors(job: Job, pair: int, sign: int, device: torch.device) -> Tensor:
    """Of a configuration that all residual wave vectors see, kept while they follow each other."""
    return _built(job, pair, sign, 0, device)


class Reader:
    """Sums the images of one residual wave vector over portions of exit waves.

    Parameters
    ----------
    job : Job
    q : (int, int)
        Residual wave vector.
    incident : ndarray (n, 2)
        Reciprocal vectors of the incident waves.
    device : torch.device
        Where the scattering matrix is.
    """

    def __init__(self, job: Job, q: tuple[int, int], incident: Ints, device: torch.device) -> None:
        self._job, self._q, self._device = job, q, device
        self._grid = job.grid
        self._step = (float(self._grid.angular_step[0]), float(self._grid.angular_step[1]))
        self._half = ((job.plan.samples[0] - 1) // 2, (job.plan.samples[1] - 1) // 2)
        self._indices = torch.as_tensor(incident, device=device)
        self._waves = torch.as_tensor(self._grid.vectors(incident, q), device=device)
        self._everything = torch.as_tensor(
            np.concatenate(
                [
                    self._grid.vectors(beams(self._grid, job.microscope, job.points, other), other)
                    for other in self._grid.wave_vectors
                ]
            ),
            device=device,
        )
        shape = (len(job.segments), len(job.points), len(job.plan.exit_planes))
        self._total = torch.zeros((*shape, *job.plan.samples), dtype=torch.complex128, device=device)
        # What the lens' terms bring: (tilt, Q, term, plane)
        self._lens = job.lens and readout.Lens(job.lens, job.microscope, self._indices, self._half)
        self._changes: list[Tensor | float] = [0.0] * len(job.points)

    def add(self, planes: Sequence[Tensor], portion: Ints) -> None:
        """Add what the exit waves of ``portion`` (m, 2) bring to all images; ``planes`` are (m, n)."""
        job = self._job
        exits = torch.as_tensor(self._grid.vectors(portion, self._q), device=self._device)
        centres = [torch.as_tensor(s, device=self._device) for s in shifts(job.points, self._grid.wavelength)]
        probes = [
            readout.probe(
                self._waves, self._everything, centre, job.microscope, job.microscope.aberrations, self._step
            ).to(torch.complex64)
            for centre in centres
        ]
        used = [torch.nonzero(p.abs() > 0)[:, 0] for p in probes]
        weights = [self._collection(exits, centre) for centre in centres]
        middle = self._collection(exits, torch.stack(centres).mean(0))
        for segment in range(len(middle)):
            ours = [w[segment] for w in weights]
            shared = self._shared(planes, middle[segment], ours, used)
            for tilt, (p, use, weight) in enumerate(zip(probes, used, ours, strict=True)):
                index = readout.difference_index(self._indices[use], self._half)
                gain = weight - middle[segment] if shared else weight
                rows = torch.nonzero(gain)[:, 0]
                matrices = []
                for plane, amplitudes in enumerate(planes):
                    part = amplitudes.index_select(0, rows).index_select(1, use)
                    matrix = readout.overlap(part, gain[rows])
                    if shared:
                        matrix = matrix + shared[plane][use[:, None], use[None, :]]
                    self._total[segment, tilt, plane] += readout.coefficients(
                        matrix, p[use], index, self._half
                    )
                    matrices.append(matrix)
                if self._lens:
                    relative = self._waves[use] - centres[tilt]
                    self._changes[tilt] += self._lens.changes(torch.stack(matrices), p[use], relative, use)

    def _collection(self, exits: Tensor, centre: Tensor) -> Tensor:
        """Weights (segment, m) of all detectors' segments, float32."""
        return torch.cat(
            [
                readout.collection(exits, centre, detector, self._grid.wavelength, self._step)
                for detector in self._job.detectors
            ]
        ).float()

    @staticmethod
    def _shared(
        planes: Sequence[Tensor], middle: Tensor, weights: Sequence[Tensor], used: Sequence[Tensor]
    ) -> list[Tensor]:
        """Overlaps for the detector of the middle tilt, if correcting them at the rims is less work than anew."""
        n = planes[0].shape[1]
        rims = sum(
            int(((w - middle) != 0).sum()) * len(use) ** 2 for w, use in zip(weights, used, strict=True)
        )
        anew = sum(int((w != 0).sum()) * len(use) ** 2 for w, use in zip(weights, used, strict=True))
        rows = torch.nonzero(middle)[:, 0]
        if 0.625 * len(rows) * n**2 + rims >= anew:
            return []
        return [readout.hermitian_overlap(s.index_select(0, rows), middle[rows]) for s in planes]

    def include(self, other: Reader) -> None:
        """Add what another residual wave vector brings."""
        self._total += other._total
        self._changes = [mine + its for mine, its in zip(self._changes, other._changes, strict=True)]

    def images(self) -> NDArray[np.float32]:
        """The images so far, shape (segment, tilt, thickness, y, x), and after the segments the terms of the lens and what they leave."""
        images = readout.period_image(self._total).to(torch.float32).cpu().numpy()
        if not self._lens:
            return images
        terms = [
            readout.period_image(self._lens.whole(change.permute(1, 2, 0))).to(torch.float32).cpu().numpy()
            for change in self._changes
            if isinstance(change, Tensor)
        ]
        return np.concatenate([images, np.stack(terms, axis=1)])
