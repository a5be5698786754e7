"""What aberrations do to the images of a library, reduced to modes of all terms of the lens' polynomial together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tiltsim.images import resample
from tiltsim.lens import COMPONENTS, LensBox, terms, turned_terms
from tiltsim.library.places import SITES, around, filtered
from tiltsim.library.request import EDGES, LibraryRequest, Node
from tiltsim.library.symmetry import OPERATIONS, turned

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

#: Share of the effect of aberrations, root mean square, that modes left out may carry, under a source as narrow as microscopes have, Å.
#: The polynomial itself leaves 0.03 under one of 0.85 Å, modes and states that they were not found from 0.007. A share of 0.03 under 0.5 Å
#: left 0.02, and with it 0.45 mrad of tilt and 0.6 pm of d (films of `benchmarks/explain.py`).
_LEFT_OUT, _SOURCE = 0.01, 0.7

#: States that modes are found from.
_STATES = 2750

#: Share that orders left out may carry.
_LEFT_OUT_ORDERS = 1e-3


def assembled_lens(request: LibraryRequest, changes: Mapping[Node, Singles]) -> xr.Dataset:
    """Modes and scores of what aberrations change.

    Parameters
    ----------
    request : LibraryRequest
        With a lens.
    changes : mapping of Node to ndarray (term, tilt_x, tilt_y, cells, y, x)
        Of the nodes without Sm.

    Returns
    -------
    Dataset
        ``lens_coefficients`` (site, lens_mode, term, lens_order, part): Fourier coefficients over one cell by which each term of
        the lens changes the image around a column, of orders ``lens_order_y``, ``lens_order_x``; those of opposite orders are
        conjugate; ``lens_scores_BiFeO3`` (site, d_x, d_y, tilt_x, tilt_y, cells,
        lens_mode), ``lens_scores_SrTiO3``; ``exponents`` (term, aberration).
    """
    box = request.lens or LensBox()
    most = max(max(c.shape[-2:]) for c in changes.values())
    weight = box.spread()[:, None, None].astype(np.float32)
    states: list[Singles] = []  # (state, term, y, x), an A column at the origin
    steps: list[tuple[float, float]] = []
    step = request.step_pm / 100.0 / EDGES["BiFeO3"]
    polar = {n.place: n for n in changes if n.material == "BiFeO3"}
    for px in request.places:
        for py in request.places:
            base = (max(abs(px), abs(py)), min(abs(px), abs(py)))
            states.append(symmetrized_terms(resample(changes[polar[base]], most, most), base, (px, py)))
            steps.append((px * step, py * step))
    null = next(n for n in changes if n.material == "SrTiO3")
    states.append(symmetrized_terms(resample(changes[null], most, most), (0, 0), (0, 0)))
    steps.append((0.0, 0.0))
    grid = states[0].shape[1:4]
    coefficients, scores = [], []
    power = np.zeros((most, most))
    for site in SITES:
        flat = []
        for state, place in zip(states, steps, strict=True):
            listed = np.empty((int(np.prod(grid)), len(state), most, most), dtype=np.float32)
            for term in range(len(state)):  # one at a time: together they take gigabytes
                one_term = state[term].reshape(-1, most, most).astype(np.float64)
                listed[:, term] = filtered(around(site, one_term, place), 1.0, _SOURCE) * weight[term]
            flat.append(listed.reshape(len(listed), -1))
        modes = _modes(flat)
        found = np.stack([f @ modes.T for f in flat])
        soft = modes.reshape(len(modes), -1, most, most)
        weights = (found.reshape(-1, len(modes)) ** 2).mean(axis=0)
        power += np.tensordot(weights, (np.abs(np.fft.fft2(soft)) ** 2).sum(axis=1), (0, 0))
        unweighted = np.asarray(soft / weight, dtype=np.float64)
        coefficients.append(np.fft.fft2(filtered(unweighted, -1.0, _SOURCE)) / most**2)
        scores.append(found.reshape(len(flat), *grid, -1))
    count, side = max(len(c) for c in coefficients), len(request.places)
    rows, columns = _strongest(power)
    stacked = np.stack(
        [np.pad(c[..., rows, columns], [(0, count - len(c))] + [(0, 0)] * 2) for c in coefficients]
    )
    padded = np.stack([np.pad(s, [(0, 0)] * 4 + [(0, count - s.shape[-1])]) for s in scores])
    one = {"units": "1"}
    amplitude = one | {"long_name": "share of each lens mode, fraction of the incident beam"}
    tail = ("tilt_x", "tilt_y", "cells", "lens_mode")
    return xr.Dataset(
        {
            "lens_coefficients": (
                ("site", "lens_mode", "term", "lens_order", "part"),
                np.stack([stacked.real, stacked.imag], axis=-1).astype(np.float32),
                one | {"long_name": "Fourier coefficients by which each term of the lens changes the image"},
            ),
            "lens_scores_BiFeO3": (
                ("site", "d_x", "d_y", *tail), padded[:, :-1].reshape(2, side, side, *padded.shape[2:]), amplitude,
            ),
            "lens_scores_SrTiO3": (("site", *tail), padded[:, -1], amplitude),
            "exponents": (
                ("term", "aberration"), np.array(terms()),
                one | {"long_name": "power of each aberration over its size", "sizes_angstrom": box.sizes.tolist()},
            ),
        },
        coords={
            "lens_order_y": ("lens_order", rows, one), "lens_order_x": ("lens_order", columns, one),
            "lens_mode": ("lens_mode", np.arange(count), one), "aberration": list(COMPONENTS),
        },
    )  # fmt: skip


def symmetrized_terms(changes: Singles, base: tuple[int, int], place: tuple[int, int]) -> Singles:
    """Changes (term, tilt_x, tilt_y, cells, y, x) at ``place`` from those at ``base``, see `tiltsim.library.symmetry`."""
    total, count = np.zeros(changes.shape, np.float32), 0
    for operation in OPERATIONS:
        if tuple(operation @ np.array(base)) != tuple(place):
            continue
        source, sign = turned_terms(operation)
        for term in range(len(changes)):
            total[term] += np.float32(sign[term]) * turned(changes[source[term]], operation)
        count += 1
    return total / np.float32(count)


def _strongest(power: Floats) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Orders along y and x of Fourier coefficients whose mean squares (order_y, order_x) matter, one of each pair of opposite ones."""
    n = len(power)
    orders = np.rint(np.fft.fftfreq(n, 1.0 / n)).astype(int)
    y, x = np.meshgrid(orders, orders, indexing="ij")
    half = (y > 0) | ((y == 0) & (x >= 0))
    y, x, power = y[half], x[half], power[half] / power.sum()
    order = np.argsort(power)[::-1]
    left = power.sum() - np.cumsum(power[order])
    kept = np.sort(order[: int(np.argmax(left < _LEFT_OUT_ORDERS**2)) + 1])
    return y[kept], x[kept]


def _modes(flat: list[Singles]) -> Singles:
    """Orthonormal rows (mode, terms × samples) that hold all but a share of the states' root mean square."""
    total = sum(len(f) for f in flat)
    every = np.concatenate([f[:: max(1, total // _STATES)] for f in flat]).astype(np.float64)
    power, vectors = np.linalg.eigh(every @ every.T)
    order = np.argsort(power)[::-1]
    left = 1.0 - np.cumsum(power[order]) / power.sum()
    chosen = order[: int(np.argmax(left < _LEFT_OUT**2)) + 1]
    modes = (every.T @ vectors[:, chosen] / np.sqrt(power[chosen])).T
    return modes.astype(np.float32)
