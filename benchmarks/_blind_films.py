"""Films whose truth is hidden from the estimator: every variant's image comes from the engine, with phonons, tilts, thicknesses and a lens of its own.

No response library is involved. One propagation of a structure serves all films that show it: each of their variants, a mirror of it,
is read through its own aperture, lens and exit plane.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from scipy.ndimage import map_coordinates

from tiltsim import Detector, FrozenPhonons, LibraryRequest, Microscope, TiltSeries, readout
from tiltsim.images import resample
from tiltsim.jobs import Unit
from tiltsim.lens import named
from tiltsim.library.building import node_job
from tiltsim.library.request import EDGES, Node
from tiltsim.library.response import column_share
from tiltsim.library.symmetry import turned
from tiltsim.propagation import scattering_matrix, torch_device
from tiltsim.reciprocal import beams, pixels, shifts
from tiltsim.smatrix import transmission_functions
from tiltsim.synth.detection import Detection, detect
from tiltsim.synth.scanning import ScanFaults, draw_path

#: d of the structures relative to bulk's 23.6 pm along x and y: none is a node of a library.
POLAR = (0.72, 0.88, 1.06)
BULK = 23.62

#: Lean of R3c along x and y for d along the beam in +z, mrad, see docs/physics.md.
LEAN = 9.93

#: Of the phonons here; libraries take 0 by default.
PHONONS = 4711

_LARGEST_TILT = 16.0


@dataclass(frozen=True)
class Film:
    """What is asked of one film.

    Parameters
    ----------
    number : int
    polar : int
        Which of :data:`POLAR`.
    variants : tuple of (int, int, int)
        Signs of d along x, y and the beam.
    tilt : (float, float)
        Of the grain, mrad.
    lean_scale : float
        Share of its own lean that each variant has.
    cells : int
        Thickness.
    lens : tuple of float
        See :data:`tiltsim.lens.COMPONENTS`, Å.
    dose, source, jitter, rotation
        e/Å², Å, Å rms a row, degrees.
    size, pixel
        Pixels along an edge, Å.
    substrate : float
        Share of the height that is SrTiO3.
    faults : mapping
        Further aberrations, abTEM's names, Å and rad.
    microscope : Microscope
    """

    number: int
    polar: int
    variants: tuple[tuple[int, int, int], ...]
    tilt: tuple[float, float]
    lean_scale: float
    cells: int
    lens: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    dose: float = 4e4
    source: float = 0.8
    jitter: float = 0.0
    rotation: float = 0.0
    size: int = 800
    pixel: float = 0.2
    substrate: float = 0.0
    faults: Mapping[str, float] = field(default_factory=dict)
    microscope: Microscope = field(default_factory=lambda: Microscope(source_fwhm=0.0))

    @cached_property
    def tilts(self) -> np.ndarray:
        """Direction of the beam inside each variant (variant, 2), mrad."""
        return np.array(
            [np.array(self.tilt) - self.lean_scale * LEAN * z * np.array([x, y]) for x, y, z in self.variants]
        )

    @property
    def d(self) -> np.ndarray:
        """(variant, 2), pm."""
        return POLAR[self.polar] * BULK * np.array([v[:2] for v in self.variants], dtype=float)

    @property
    def thickness(self) -> float:
        """Å."""
        return self.cells * EDGES["BiFeO3"]


def draw_film(number: int, seed: int = 0, **changes: object) -> Film:
    """Film ``number`` of a set: two to four variants, tilt to 10 mrad, 5 to 39 nm, 10⁴ to 10⁵ e/Å², residual aberrations."""
    rng = np.random.default_rng([seed, number])
    inplane = [(x, y) for x in (-1, 1) for y in (-1, 1)]
    chosen = rng.permutation(4)[: rng.integers(2, 5)]
    variants = tuple((*inplane[i], int(rng.choice((-1, 1)))) for i in chosen)
    radius, azimuth = 10.0 * np.sqrt(rng.random()), 2 * np.pi * rng.random()
    lens = np.zeros(5)
    lens[0] = rng.uniform(-30, 30)
    for first, size in ((1, 20.0), (3, 600.0)):
        length, angle = size * np.sqrt(rng.random()), 2 * np.pi * rng.random()
        lens[first : first + 2] = length * np.cos(angle), length * np.sin(angle)
    between = [n for n in range(14, 99, 2) if n % 6]
    film = Film(
        number,
        int(rng.integers(len(POLAR))),
        variants,
        (radius * np.cos(azimuth), radius * np.sin(azimuth)),
        float(rng.uniform(0, 0.5)),
        int(rng.choice(between)),
        tuple(float(v) for v in lens),
        dose=float(10 ** rng.uniform(4, 5)),
        source=float(rng.uniform(0.7, 1.1)),
        jitter=float(rng.uniform(0, 0.04)),
        rotation=float(rng.uniform(-3, 3)),
    )
    return replace(film, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Point:
    """A reading: tilt (mrad) inside the structure, thickness in cells, aberrations in abTEM's names."""

    tilt: tuple[float, float]
    cells: int
    aberrations: dict[str, float]
    microscope: Microscope


def _points(film: Film) -> list[tuple[str, _Point]]:
    """Structure and reading of each variant, and of the substrate where there is one."""
    found = []
    for (sx, sy, _), tilt in zip(film.variants, film.tilts, strict=True):
        # The crystal mirrored into d = (+, +), and tilt and lens with it.
        f, c2x, c2y, c3x, c3y = film.lens
        aberrations = named(np.array([f, c2x, c2y * sx * sy, c3x * sx, c3y * sy]))
        extra = dict(film.faults)
        if extra.get("C23"):  # three-fold: a mirror of x takes φ to π − φ, and so 3φ to π − 3φ
            angle = extra["phi23"]
            angle = np.pi - angle if sx < 0 else angle
            extra["phi23"] = -angle if sy < 0 else angle
        point = _Point((tilt[0] * sx, tilt[1] * sy), film.cells, aberrations | extra, film.microscope)
        found.append((f"polar-{film.polar}", point))
    if film.substrate:
        cells = 2 * round(film.thickness / EDGES["SrTiO3"] / 2)
        found.append(
            (
                "null",
                _Point(film.tilt, cells, named(np.array(film.lens)) | dict(film.faults), film.microscope),
            )
        )
    return found


def _request(pairs: int) -> LibraryRequest:
    return LibraryRequest(
        Microscope(source_fwhm=0.0), Detector(65.0, 110.0), largest_tilt=_LARGEST_TILT,
        phonons=FrozenPhonons(pairs=pairs, redraw=True, seed=PHONONS),
    )  # fmt: skip


def _read(structure: str, unit: Unit, points: Sequence[_Point], pairs: int) -> np.ndarray:
    """Images (point, y, x) that one residual wave vector of one configuration brings."""
    torch.set_num_threads(1)
    cells = tuple(sorted({p.cells for p in points}))
    d = None if structure == "null" else (POLAR[int(structure[-1])] * BULK,) * 2
    node = Node("SrTiO3" if d is None else "BiFeO3")
    job = node_job(_request(pairs), node, TiltSeries((0.0,), (0.0,)), tuple(sorted({*cells, 98})), d, "cpu")
    grid = job.grid
    q = grid.wave_vectors[unit.part]
    tilts = [p.tilt for p in points]
    incident = beams(grid, job.microscope, tilts, q)
    wanted = pixels(grid, job.detectors, tilts, q)
    planes = scattering_matrix(
        transmission_functions(job, unit, torch_device("cpu")), grid, q, job.specimen.slice_thickness, incident,
        wanted, job.plan.exit_planes,
    )  # fmt: skip
    step = (float(grid.angular_step[0]), float(grid.angular_step[1]))
    half = ((job.plan.samples[0] - 1) // 2, (job.plan.samples[1] - 1) // 2)
    indices, waves = torch.as_tensor(incident), torch.as_tensor(grid.vectors(incident, q))
    exits = torch.as_tensor(grid.vectors(wanted, q))
    every = torch.as_tensor(
        np.concatenate([grid.vectors(beams(grid, job.microscope, tilts, o), o) for o in grid.wave_vectors])
    )
    depth = {n: k for k, n in enumerate(sorted({*cells, 98}))}
    total = torch.zeros((len(points), *job.plan.samples), dtype=torch.complex128)
    for n, (point, shift) in enumerate(zip(points, shifts(tilts, grid.wavelength), strict=True)):
        centre = torch.as_tensor(shift)
        lens = readout.probe(waves, every, centre, point.microscope, point.aberrations, step).to(
            torch.complex64
        )
        use = torch.nonzero(lens.abs() > 0)[:, 0]
        weights = readout.collection(exits, centre, job.detectors[0], grid.wavelength, step).float()[0]
        rows = torch.nonzero(weights)[:, 0]
        part = planes[depth[point.cells]].index_select(0, rows).index_select(1, use)
        index = readout.difference_index(indices[use], half)
        total[n] = readout.coefficients(readout.overlap(part, weights[rows]), lens[use], index, half)
    return readout.period_image(total).numpy()


def _digest(points: Sequence[_Point]) -> str:
    """Of what is read: images of other films are not taken for these."""
    return hashlib.sha256(repr(points).encode()).hexdigest()[:12]


def simulate_films(films: Sequence[Film], work: Path, pairs: int = 6) -> list[list[np.ndarray]]:
    """Period images (pair, y, x) of each variant of each film, in their own orientation, an A column at the origin.

    What is painted is the mean over pairs; how they differ tells how far the film itself is from a crystal of endless phonons.
    """
    work.mkdir(parents=True, exist_ok=True)
    listed = [(n, *p) for n, film in enumerate(films) for p in _points(film)]
    result: list[list[np.ndarray]] = [[] for _ in films]
    found: dict[int, np.ndarray] = {}
    for structure in sorted({s for _, s, _ in listed}):
        mine = [(k, point) for k, (_, s, point) in enumerate(listed) if s == structure]
        points = [p for _, p in mine]
        every = []
        for pair in range(pairs):
            file = work / f"{structure}-{pair}-{_digest(points)}.npy"
            if not file.is_file():
                units = [Unit(pair, sign, part) for sign in (1, -1) for part in range(16)]
                with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
                    parts = pool.map(
                        _read, [structure] * len(units), units, [points] * len(units), [pairs] * len(units)
                    )
                    np.save(file, sum(parts) / 2)
                print(f"{structure}: pair {pair + 1} of {pairs}", flush=True)
            every.append(np.load(file))
        for (k, _), image in zip(mine, np.stack(every, axis=1), strict=True):
            found[k] = image
    for k, (n, structure, _) in enumerate(listed):
        image = found[k]
        if structure != "null":
            sx, sy, _ = films[n].variants[len(result[n])]
            image = np.stack([turned(one[None, None], np.diag([sx, sy]))[0, 0] for one in image])
        result[n].append(image)
    return result


def render(film: Film, images: Sequence[np.ndarray], seed: int = 0) -> tuple[xr.DataArray, xr.Dataset]:
    """The micrograph of a film, counts, and what is true of every variant.

    Domains meet in straight walls; the substrate, coherent with the film, lies below.
    """
    rng = np.random.default_rng([seed, film.number, 1])
    shape = (film.size, film.size)
    path = draw_path(ScanFaults(jitter_x=film.jitter, jitter_y=film.jitter), shape, film.pixel, rng)
    x, y = path.positions()
    middle = film.size * film.pixel / 2
    turn = np.radians(film.rotation)
    u = np.cos(turn) * (x - middle) + np.sin(turn) * (y - middle)
    v = -np.sin(turn) * (x - middle) + np.cos(turn) * (y - middle)
    edge = EDGES["BiFeO3"]
    share = _shares(film, u, v, rng)
    u, v = u / edge, v / edge
    picture = np.zeros(shape)
    for n, (part, image) in enumerate(zip(share, images, strict=True)):
        own = EDGES["SrTiO3"] if n == len(film.variants) else edge
        image = image.mean(axis=0)
        fine = resample(image.astype(np.float32), 12 * image.shape[0] + 1, 12 * image.shape[1] + 1)
        fine = _blurred(fine, film.source / own)
        if own == edge:
            picture += part * _read_period(fine, u, v)
            continue
        # The substrate takes the film's edges: its columns keep their images and stand further apart.
        around = []
        for place in (0.0, 0.5):
            across = [(w - place - np.round(w - place)) * edge / own + place for w in (u, v)]
            around.append(_read_period(fine, *across))
        weight = [column_share(u - place, v - place) for place in (0.0, 0.5)]
        picture += part * (weight[0] * around[0] + weight[1] * around[1]) / (weight[0] + weight[1])
    counts, attributes = detect(picture, Detection(dose_per_A2=film.dose), film.pixel, rng)
    axis = np.arange(film.size) * film.pixel
    image = xr.DataArray(
        counts, dims=("y", "x"),
        coords={"y": ("y", axis, {"units": "Å"}), "x": ("x", axis, {"units": "Å"})},
        attrs={"units": "counts", **attributes, "pixel_size_angstrom": film.pixel, "calibrated": 1,
               "source": "blind film"},
    )  # fmt: skip
    c, s = np.cos(turn), np.sin(turn)
    rotate = np.array([[c, -s], [s, c]])
    truth = xr.Dataset(
        {
            "tilt": (("variant", "component"), film.tilts @ rotate.T, {"units": "mrad"}),
            "d": (("variant", "component"), film.d @ rotate.T, {"units": "pm"}),
            "grain": ("component", rotate @ np.array(film.tilt), {"units": "mrad"}),
            "share": (("variant", "y", "x"), share[: len(film.variants)].astype(np.float32)),
        },
        coords={"component": ["x", "y"]},
        attrs={"thickness": film.thickness, "lens": list(film.lens)},
    )
    return image, truth


def _read_period(fine: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A finely sampled period at places in cells."""
    n = len(fine)
    return map_coordinates(fine, np.stack([v % 1.0 * n, u % 1.0 * n]), order=3, mode="grid-wrap")


def _shares(film: Film, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Share of each variant, and of the substrate, in every pixel; walls are one cell wide."""
    count, edge = len(film.variants), EDGES["BiFeO3"]
    width = film.size * film.pixel
    angle = 2 * np.pi * rng.random()
    # Sectors of equal angle about the middle, or halves.
    phi = (np.arctan2(v, u) - angle) % (2 * np.pi)
    limits = np.linspace(0, 2 * np.pi, count + 1)
    radius = np.hypot(u, v)
    share = np.ones((count, *u.shape))
    if count > 1:
        for k, (low, high) in enumerate(pairwise(limits)):
            inside = np.minimum(
                _signed((phi - low + np.pi) % (2 * np.pi) - np.pi, radius),
                -_signed((phi - high + np.pi) % (2 * np.pi) - np.pi, radius),
            )
            if count > 2:  # sectors of less than half a turn
                share[k] = 0.5 * (1 + np.tanh(inside / edge * 2))
            else:
                across = radius * np.sin(phi)
                share[k] = 0.5 * (1 + np.tanh((across if k == 0 else -across) / edge * 2))
        share /= share.sum(axis=0)
    if film.substrate:
        # Along a row of A columns.
        level = edge * round((0.5 - film.substrate) * width / edge)
        below = 0.5 * (1 + np.tanh((v - level) / edge * 4))
        share = np.concatenate([share * (1 - below), below[None]])
    return share


def _signed(angle: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Distance from the ray at ``angle`` 0, positive beyond it; far where the ray lies behind."""
    return np.where(np.abs(angle) < np.pi / 2, radius * np.sin(angle), np.sign(angle) * radius)


def _blurred(image: np.ndarray, source: float) -> np.ndarray:
    """Over one cell, by a Gaussian source, cells."""
    n = len(image)
    k = np.fft.fftfreq(n, 1 / n)
    sigma = source / np.sqrt(8 * np.log(2))
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * (k[:, None] ** 2 + k**2))
    return np.asarray(np.fft.ifft2(np.fft.fft2(image) * gain).real)
