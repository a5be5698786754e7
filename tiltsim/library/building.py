"""Build a response library with the scattering-matrix engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tiltsim.checkpoints import Checkpoints
from tiltsim.images import resample
from tiltsim.jobs import Job
from tiltsim.lens import terms
from tiltsim.library.errors import error_table, model_errors, phonon_errors
from tiltsim.library.lens_modes import assembled_lens
from tiltsim.library.places import SITES, around, filtered
from tiltsim.library.request import EDGES, WAVE_VECTORS, LibraryRequest, Node, specimen
from tiltsim.library.response import Library
from tiltsim.library.symmetry import symmetrized
from tiltsim.planning import band_limit
from tiltsim.settings import Numerics, TiltSeries
from tiltsim.simulate import prepare, sample

Floats = NDArray[np.float64]

#: Share of the images' root mean square that modes left out may carry, after the blur of :func:`~tiltsim.library.places.filtered`.
#: Phonons leave 1e-2 of noise. The less where tilt is read from images, the second: what is left out is taken for tilt.
_LEFT_OUT, _LEFT_OUT_TO_FIT = 2.5e-3, 1e-3

Progress = Callable[[int, int], None]


def node_job(
    request: LibraryRequest,
    node: Node,
    tilts: TiltSeries,
    cells: tuple[int, ...],
    d_pm: tuple[float, float] | None = None,
    device: str = "auto",
) -> Job:
    """The simulation of one structure; ``d_pm`` replaces the node's own."""
    edge = EDGES[node.material]
    d = d_pm or (node.place[0] * request.step_pm, node.place[1] * request.step_pm)
    slab = specimen(node.material, d, cells[-1] + cells[-1] % 2, samarium=node.samarium, name=node.name)
    return prepare(
        slab,
        replace(request.microscope, source_fwhm=0.0),
        tilts,
        thicknesses=[n * edge for n in cells],
        detector=request.detector,
        phonons=request.phonons,
        # That of all tilts, whichever are asked for here: what is held out must not differ in it.
        numerics=Numerics(
            band_limit=band_limit([request.detector], request.microscope, request.series, Numerics()),
            wave_vectors=WAVE_VECTORS,
        ),
        device=device,
    )[0]


def simulated(
    job: Job, work: Path | None, scheduler: str | None = None, progress: Progress | None = None
) -> Floats:
    """Images of a node, shape (pair, tilt_x, tilt_y, cells, y, x): means of u and −u over one period."""
    return _simulated(job, work, scheduler, progress)[0]


def _simulated(
    job: Job, work: Path | None, scheduler: str | None, progress: Progress | None
) -> tuple[Floats, NDArray[np.float32]]:
    """Images of a node as :func:`simulated`, and their mean change by every term of a lens (term, tilt_x, …)."""
    found = sample(job, Checkpoints(job, work), scheduler=scheduler, progress=progress)
    grid = (len(job.tilts.x), len(job.tilts.y))
    configs = found.periods[:, 0].astype(np.float64)
    numbers = np.array([pair for pair, _ in found.labels])
    pairs = np.stack([configs[numbers == n].mean(axis=0) for n in np.unique(numbers)])
    changes = found.periods[:, 1:].mean(axis=0) if job.lens else found.periods[0, :0]
    return pairs.reshape(len(pairs), *grid, *pairs.shape[2:]), changes.reshape(-1, *grid, *changes.shape[2:])


def library_jobs(request: LibraryRequest, device: str = "auto") -> list[Job]:
    """What is simulated: the nodes, and with a lens also what is held out to learn the library's errors from."""
    jobs = [node_job(request, n, request.series, request.cells, device=device) for n in request.nodes]
    if request.lens is None:
        return jobs
    # How Sm changes the effect of aberrations is left out: an effect on an effect.
    lenses = [None if n.samarium else request.lens for n in request.nodes]
    jobs = [replace(job, lens=lens) for job, lens in zip(jobs, lenses, strict=True)]
    tilts, cells = request.held_out_tilts, request.held_out_cells
    held = [node_job(request, node, tilts, cells, d, device) for node, d in request.held_out]
    return jobs + [replace(job, lens=request.lens) for job in held]


def build_library(
    request: LibraryRequest,
    *,
    work: Path | None = None,
    device: str = "auto",
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Simulate the nodes and reduce their images to modes.

    Parameters
    ----------
    request : LibraryRequest
    work : Path, optional
        Folder for finished units: the same call goes on where it was interrupted.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    scheduler : str, optional
        Address of a ``distributed`` scheduler.
    progress : callable, optional
        Called as ``progress(done, expected)`` in units of work.

    Returns
    -------
    xarray.Dataset
        With a lens also what :func:`~tiltsim.library.lens_modes.assembled_lens` gives.
        ``coefficients`` (site, mode, order_y, order_x, part): Fourier coefficients of every mode over one cell, around
        an A or a B column; ``scores_BiFeO3`` (site, d_x, d_y, tilt_x, tilt_y, cells, mode), ``scores_samarium``
        (site, tilt_x, tilt_y, cells, mode) per unit fraction of Sm, ``scores_SrTiO3``; ``noise`` (node, cells):
        standard error of the mean image over phonon pairs, rms, as a share of the image's rms.
    """
    found, done_before = [], 0
    jobs = library_jobs(request, device)
    for number, job in enumerate(jobs):
        latest = 0

        def counted(
            done: int, expected: int, base: int = done_before, left: int = len(jobs) - number
        ) -> None:
            nonlocal latest
            latest = done
            if progress is not None:
                progress(base + done, base + expected * left)

        found.append(_simulated(job, work, scheduler, counted))
        done_before += latest
    of_nodes = dict(zip(request.nodes, found, strict=False))
    images = {n: pairs.mean(axis=0) for n, (pairs, _) in of_nodes.items()}
    dataset = assembled(request, images, np.array([_noise(pairs) for pairs, _ in of_nodes.values()]))
    if request.lens is not None:
        plain = [n for n in request.nodes if not n.samarium]
        changes = {n: of_nodes[n][1][: len(terms())] for n in plain}
        dataset = dataset.merge(assembled_lens(request, changes), join="exact")
        library = Library(dataset)
        errors = [phonon_errors(n, of_nodes[n][0], request.cells) for n in plain]
        for (node, d), (pairs, changed) in zip(request.held_out, found[len(of_nodes) :], strict=True):
            errors.append(model_errors(library, node, d, pairs.mean(axis=0), changed))
        dataset = dataset.merge(error_table(errors), join="exact")
    return dataset.assign_attrs(content=Library(dataset).digest)


def _noise(pairs: Floats) -> Floats:
    """Rms standard error of the mean over pairs, over the image's rms, for each thickness; NaN for one pair."""
    if len(pairs) < 2:
        return np.full(pairs.shape[3], np.nan)
    error = pairs.var(axis=0, ddof=1) / len(pairs)
    return np.asarray(
        np.sqrt(error.mean(axis=(0, 1, 3, 4)) / (pairs.mean(axis=0) ** 2).mean(axis=(0, 1, 3, 4)))
    )


def assembled(request: LibraryRequest, images: dict[Node, Floats], noise: Floats) -> xr.Dataset:
    """The library's dataset from the mean images of its nodes; see :func:`build_library`."""
    most = max(max(i.shape[-2:]) for i in images.values())
    images = {n: resample(i.astype(np.float32), most, most).astype(np.float64) for n, i in images.items()}
    polar = {n.place: i for n, i in images.items() if n.material == "BiFeO3" and not n.samarium}
    places = request.places
    grid = np.empty((len(places), len(places), *images[request.nodes[0]].shape))
    for ix, px in enumerate(places):
        for iy, py in enumerate(places):
            base = (max(abs(px), abs(py)), min(abs(px), abs(py)))
            grid[ix, iy] = symmetrized(polar[base], base, (px, py))
    doped, null = (
        symmetrized(images[n], (0, 0), (0, 0))[None, None]
        for n in request.nodes
        if n.samarium or n.material == "SrTiO3"
    )
    coefficients, scores = [], []
    step = request.step_pm / 100.0 / EDGES["BiFeO3"]
    for site in SITES:
        states = [
            np.array(
                [
                    [around(site, one, (px * step, py * step)) for one, py in zip(row, places, strict=True)]
                    for row, px in zip(grid, places, strict=True)
                ]
            ),
            around(site, doped, (0.0, 0.0)),
            around(site, null, (0.0, 0.0)),
        ]
        soft = [filtered(s, 1.0) for s in states]
        modes = _modes(
            np.concatenate([s.reshape(-1, most * most) for s in soft]),
            _LEFT_OUT if request.lens is None else _LEFT_OUT_TO_FIT,
        )
        sharp = filtered(modes.reshape(-1, most, most), -1.0)
        coefficients.append(np.fft.fft2(sharp) / most**2)
        scores.append([s.reshape(*s.shape[:-2], -1) @ modes.T for s in soft])
    modes_kept = max(len(c) for c in coefficients)
    stacked = np.zeros((2, modes_kept, most, most), dtype=complex)
    for n, c in enumerate(coefficients):
        stacked[n, : len(c)] = np.fft.fftshift(c, axes=(-2, -1))
    parts = [_padded([s[n] for s in scores], modes_kept) for n in range(3)]
    samarium = (parts[1][:, 0, 0] - parts[0][:, request.d_steps, request.d_steps]) / request.samarium_placed
    orders = np.arange(most) - most // 2
    tail = ("tilt_x", "tilt_y", "cells", "mode")
    one = {"units": "1"}
    amplitude = one | {"long_name": "share of each mode in the image, fraction of the incident beam"}
    tilts = np.array(request.series.x)
    mrad = {"units": "mrad", "long_name": "direction of the beam inside the crystal"}
    d = np.array(places) * request.step_pm
    pm = {"units": "pm", "long_name": "mean of surrounding A columns − B column"}
    return xr.Dataset(
        {
            "coefficients": (
                ("site", "mode", "order_y", "order_x", "part"),
                np.stack([stacked.real, stacked.imag], axis=-1).astype(np.float32),
                one | {"long_name": "Fourier coefficients of the modes over one cell"},
            ),
            "scores_BiFeO3": (("site", "d_x", "d_y", *tail), parts[0].astype(np.float32), amplitude),
            "scores_samarium": (("site", *tail), samarium.astype(np.float32), amplitude | {"comment": "change per unit Sm fraction of BiFeO3"}),
            "scores_SrTiO3": (("site", *tail), parts[2][:, 0, 0].astype(np.float32), amplitude),
            "noise": (
                ("node", "cells"), noise,
                one | {"long_name": "standard error over phonon pairs / image, rms, before symmetry is used"},
            ),
        },
        coords={
            "site": list(SITES), "part": ["real", "imaginary"], "node": [n.name for n in request.nodes],
            "d_x": ("d_x", d, pm), "d_y": ("d_y", d, pm),
            "tilt_x": ("tilt_x", tilts, mrad), "tilt_y": ("tilt_y", tilts, mrad),
            "cells": ("cells", np.array(request.cells), one | {"long_name": "thickness in pseudocubic cells"}),
            "order_y": ("order_y", orders, one), "order_x": ("order_x", orders, one),
            "mode": ("mode", np.arange(modes_kept), one),
        },
        attrs={
            "title": "response of perovskite cells to displacement, composition, tilt and thickness",
            "format": request.format,
            "digest": request.digest,
            "request": json.dumps(request.as_dict(), ensure_ascii=False),
            "edges_angstrom": json.dumps(EDGES),
            "axes": "x right, y down, beam into the page; origin on the site's own column",
            "tiltsim_version": version("tiltsim"),
            "abtem_version": version("abtem"),
        },
    )  # fmt: skip


def _modes(states: Floats, left_out: float) -> Floats:
    """Orthonormal rows that hold all ``states`` (n, samples) but the share ``left_out`` of their rms."""
    power, vectors = np.linalg.eigh(states.T @ states)
    order = np.argsort(power)[::-1]
    left = 1.0 - np.cumsum(power[order]) / power.sum()
    count = int(np.argmax(left < left_out**2)) + 1
    return vectors[:, order[:count]].T


def _padded(scores: list[Floats], modes: int) -> Floats:
    """Scores of both sites side by side, zero for modes that a site does not have; shape (site, …, mode)."""
    return np.stack([np.pad(s, [(0, 0)] * (s.ndim - 1) + [(0, modes - s.shape[-1])]) for s in scores])
