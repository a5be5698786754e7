"""Tilt, thickness and displacement of a uniform crystal by maximum likelihood: the reference that any estimator is held against.

The cells of an image are folded into one, whose Poisson counts are fitted by the library's images with everything that
:func:`tiltsim.bounds.fisher.tilt_bound` takes as unknown: tilt, thickness, d, scale, offset, origin and the source's covariance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from tiltsim.bounds.fisher import NUISANCE, UNITS, inverse
from tiltsim.bounds.folding import Folded, Grating, fold, grating, stack
from tiltsim.errors import SettingsError
from tiltsim.library import Library
from tiltsim.library.periods import SPECIMEN, library_periods

Floats = NDArray[np.float64]

#: Counts, incident electrons (k, n, n) and mean places of pixels in their bins (2, k, n, n).
Counts = tuple[Floats, Floats, Floats]

PARAMETERS = (*SPECIMEN, *NUISANCE)

#: Bins along a cell's edge: 0.11 Å, of which the source's free covariance takes up the blur.
BINS = 36

#: How far a step may go, and how far a start's linear model is trusted; in the parameters' units and order.
_TRUST = np.array([3.0, 3.0, 25.0, 12.0, 12.0, 0.2, 0.01, 15.0, 15.0, 0.05, 0.05, 0.03])

#: Covariance of the source to begin with, Å², and its limits: a library has nothing finer than a source of 0.5 Å.
_SOURCE, _SHARPEST, _WIDEST = 0.8**2 / (8 * np.log(2)), 0.045, 2.0

#: Starts: tilts along each axis, distance of thicknesses, Å, and how many starts are followed.
_START_TILTS, _START_STEP, _FOLLOWED = 5, 30.0, 4

#: Starts are compared as if no more electrons than these had been detected: with more, linear models of images that are nowhere near
#: would be believed.
_COMPARED = 2e5

#: Of them steps as long as this many times what is trusted are allowed.
_WIDTH = 4.0

#: Steps for every start that is followed, and for the best of them; gain of the log likelihood at which a fit has ended.
_FIRST, _ITERATIONS, _CONVERGED = 6, 40, 1e-3

#: Least fraction of the beam that the model may foretell.
_FAINT = 1e-5


@dataclass(frozen=True, eq=False)
class _Model:
    """Fraction of the beam (k, n, n) in every bin, its derivatives (k, parameter, n, n), and the edge of the cell, Å."""

    image: Floats
    slopes: Floats
    edge: float

    def expected(self, data: Counts) -> Floats:
        """Counts in every bin: pixels need not lie in the middle of theirs, which the slopes make good."""
        _, electrons, offset = data
        # Slopes by the origin, per pm, are minus those by the place.
        moved = -100.0 * self.edge * (offset[0] * self.slopes[:, 7] + offset[1] * self.slopes[:, 8])
        return np.asarray(electrons * np.maximum(self.image + moved, _FAINT))

    def information(self, data: Counts) -> Floats:
        """Fisher information (k, parameter, parameter)."""
        weight = data[1] / np.maximum(self.image, _FAINT)
        flat = self.slopes.reshape(*self.slopes.shape[:2], -1)
        return (flat * weight.reshape(len(weight), 1, -1)) @ np.swapaxes(flat, 1, 2)

    def score(self, data: Counts) -> Floats:
        """Derivative of the log likelihood (k, parameter)."""
        surplus = (data[0] / np.maximum(self.expected(data), 1e-12) - 1.0) * data[1]
        return np.asarray(np.einsum("kpyx,kyx->kp", self.slopes, surplus))


def likelihood_tilt(
    image: xr.DataArray,
    cells: xr.Dataset,
    library: Library,
    *,
    lattice: Grating | None = None,
    prior: Mapping[str, tuple[float, float]] | None = None,
) -> xr.Dataset:
    """Fit the averaged cell of an image.

    Parameters
    ----------
    image : DataArray (y, x)
        Of one uniform crystal, with its dose in the attributes, see :func:`tiltsim.bounds.folding.electrons_of`.
    cells : Dataset
        Dim cell: ``x``, ``y`` of the B columns, Å. They only say where the lattice is; all of the image is fitted.
    library : Library
        Of the image's microscope.
    lattice : Grating, optional
        Instead of that of ``cells``, which must be at least 3 × 3.
    prior : mapping of str to (float, float), optional
        Mean and standard deviation of Gaussian priors, in the parameters' units, along the lattice's axes.

    Returns
    -------
    Dataset
        Dim cell of length 1, at the mean of the cells: ``tilt``, ``tilt_std``, ``d``, ``d_std`` (cell, component) along the image's axes,
        mrad and pm; ``thickness``, ``thickness_std`` (cell) Å; and along the lattice's axes ``estimate`` and ``std`` (cell,
        parameter); ``deviance`` (cell), 1 where the model explains the counts.

    Raises
    ------
    SettingsError
        If the image has no dose, or the cells no lattice.
    """
    if lattice is None:
        lattice = grating(np.column_stack([cells.x.values, cells.y.values]))
    found = fit_folded([fold(image, lattice, BINS)], library, prior=prior)
    result = in_image_axes(found, [lattice])
    for name in ("x", "y"):
        result[name] = ("cell", [float(cells[name].mean())], {"units": "Å"})
    return result


def in_image_axes(found: xr.Dataset, lattices: Sequence[Grating]) -> xr.Dataset:
    """Vectors along the images' axes beside what :func:`fit_folded` found along the lattices'."""
    found = found.copy()
    for name, unit in (("tilt", "mrad"), ("d", "pm")):
        both = [f"{name}_x", f"{name}_y"]
        values, errors = (found[v].sel(parameter=both).values for v in ("estimate", "std"))
        turned = np.stack([g.turned(v) for g, v in zip(lattices, values, strict=True)])
        spread = np.stack([np.hypot(*g.turned(np.diag(e)).T) for g, e in zip(lattices, errors, strict=True)])
        found[name] = (("cell", "component"), turned, {"units": unit})
        found[f"{name}_std"] = (("cell", "component"), spread, {"units": unit})
    for name, source in (("thickness", "estimate"), ("thickness_std", "std")):
        found[name] = ("cell", found[source].sel(parameter="thickness").values, {"units": "Å"})
    return found.assign_coords(component=["x", "y"])


def fit_folded(
    folded: Sequence[Folded], library: Library, *, prior: Mapping[str, tuple[float, float]] | None = None
) -> xr.Dataset:
    """Maximum likelihood of each of several folded cells, by Fisher scoring from the best of many starts.

    Parameters
    ----------
    folded : sequence of Folded
        With :data:`BINS` bins.
    library : Library
    prior : mapping of str to (float, float), optional
        Mean and standard deviation of Gaussian priors.

    Returns
    -------
    Dataset
        ``estimate``, ``std`` (cell, parameter), ``deviance`` (cell), ``at_limit`` (cell): whether tilt, thickness or d ended
        where the library does.
    """
    mean, information = np.zeros(len(PARAMETERS)), np.zeros(len(PARAMETERS))
    for name, (centre, width) in (prior or {}).items():
        if name not in PARAMETERS or not width > 0:
            raise SettingsError(
                f"prior {name}: give (mean, positive width) of one of {', '.join(PARAMETERS)}."
            )
        mean[PARAMETERS.index(name)], information[PARAMETERS.index(name)] = centre, 1.0 / width**2
    data = stack(folded)
    theta = _begin(library, data, mean, information).reshape(-1, len(PARAMETERS))
    every: Counts = tuple(np.repeat(v, _FOLLOWED, axis=-3) for v in data)  # type: ignore[assignment]
    theta, value, _ = _scored(library, every, theta, mean, information, _FIRST)
    pick = np.argmax(value.reshape(-1, _FOLLOWED), axis=1) + np.arange(len(folded)) * _FOLLOWED
    chosen, _, spread = _scored(library, data, theta[pick], mean, information, _ITERATIONS)
    low, high = _limits(library)
    model = _model(library, chosen)
    expected, seen = model.expected(data), data[1] > 0
    residual = np.where(seen, (data[0] - expected) ** 2 / np.maximum(expected, 1e-12), 0.0).sum(axis=(-1, -2))
    return xr.Dataset(
        {
            "estimate": (("cell", "parameter"), chosen),
            "std": (("cell", "parameter"), spread),
            "deviance": ("cell", residual / seen.sum(axis=(-1, -2)), {"units": "1"}),
            "at_limit": (
                "cell",
                ((chosen <= low + 1e-6) | (chosen >= high - 1e-6))[:, : len(SPECIMEN)].any(axis=1),
            ),
        },
        coords={"parameter": list(PARAMETERS), "unit": ("parameter", [UNITS[p] for p in PARAMETERS])},
    )


def _limits(library: Library) -> tuple[Floats, Floats]:
    t, d, (thin, thick) = library.tilt_limit, library.d_limit, library.thickness_range
    low = [-t, -t, thin, -d, -d, 0.2, -0.05, -150.0, -150.0, _SHARPEST, _SHARPEST, -0.5]
    high = [t, t, thick, d, d, 5.0, 0.2, 150.0, 150.0, _WIDEST, _WIDEST, 0.5]
    return np.array(low), np.array(high)


def _model(library: Library, theta: Floats) -> _Model:
    """Images and derivatives for parameters ``theta`` (k, parameter)."""
    image, slopes = library_periods(library, theta[:, :2], theta[:, 2], theta[:, 3:5], samples=BINS)
    edge = library.edges["BiFeO3"]
    k = np.fft.fftfreq(BINS, edge / BINS)
    half = np.fft.rfftfreq(BINS, edge / BINS)
    kx, ky = half[None, :], k[:, None]
    origin_x, origin_y, xx, yy, xy = (theta[:, i, None, None] for i in (7, 8, 9, 10, 11))
    factor = np.exp(
        -2.0 * np.pi**2 * (xx * kx**2 + yy * ky**2 + 2.0 * xy * kx * ky)
        - 2j * np.pi * (kx * origin_x + ky * origin_y) / 100.0
    )
    c = np.fft.rfft2(image) * factor
    changes = (
        -2j * np.pi * kx / 100.0,
        -2j * np.pi * ky / 100.0,
        -2.0 * np.pi**2 * kx**2,
        -2.0 * np.pi**2 * ky**2,
        -4.0 * np.pi**2 * kx * ky,
    )
    specimen = np.fft.rfft2(np.stack([slopes[n] for n in SPECIMEN])) * factor
    everything = np.concatenate([c[None], specimen, np.stack([c * change for change in changes])])
    pictures = np.fft.irfft2(everything, s=(BINS, BINS))
    scale = theta[:, 5, None, None]
    parts = [scale * p for p in pictures[1:6]]
    parts += [pictures[0], np.ones_like(pictures[0])]
    parts += [scale * p for p in pictures[6:]]
    return _Model(scale * pictures[0] + theta[:, 6, None, None], np.stack(parts, axis=1), edge)


@lru_cache(maxsize=2)
def _starts(library: Library) -> tuple[Floats, _Model]:
    """Parameters (start, parameter) from which fits begin, and the images there."""
    thin, thick = library.thickness_range
    tilts = np.linspace(-0.75, 0.75, _START_TILTS) * library.tilt_limit
    number = int(np.ceil((thick - thin) / _START_STEP))
    thicknesses = np.linspace(thin, thick, 2 * number + 1)[1::2]
    theta = np.zeros((_START_TILTS**2 * number, len(PARAMETERS)))
    theta[:, :3] = np.stack(np.meshgrid(tilts, tilts, thicknesses), -1).reshape(-1, 3)
    theta[:, 5], theta[:, 9:11] = 1.0, _SOURCE
    return theta, _model(library, theta)


def _begin(library: Library, data: Counts, mean: Floats, known: Floats) -> Floats:
    """The best starts (k, followed, parameter) of each cell: those whose linear model explains the counts best."""
    starts, model = _starts(library)
    low, high = _limits(library)
    result = np.empty((len(data[0]), _FOLLOWED, len(PARAMETERS)))
    trust = np.diag(1.0 / (_WIDTH * _TRUST) ** 2)
    for number in range(len(data[0])):
        share = min(1.0, _COMPARED / max(data[0][number].sum(), 1.0))
        one: Counts = (share * data[0][number], share * data[1][number], data[2][:, number, None])
        plain = model.expected(one)
        scale = one[0].sum() / plain.sum(axis=(-1, -2))
        theta = starts.copy()
        theta[:, 5] = scale
        slopes = model.slopes * scale[:, None, None, None]
        slopes[:, 5:7] = model.slopes[:, 5:7]
        # Weights of the data's own, the same for all starts: those of a start that is far off would be the worse for it.
        near = [gaussian_filter(v, 1.5, mode="wrap") for v in one[:2]]
        weight = (one[1] ** 2 / np.maximum(one[1] * near[0] / np.maximum(near[1], 1e-12), 1e-12)).ravel()
        left = ((one[0] - scale[:, None, None] * plain) / np.maximum(one[1], 1e-12)).reshape(len(theta), -1)
        flat = slopes.reshape(*slopes.shape[:2], -1)
        information = (flat * weight) @ np.swapaxes(flat, 1, 2) + np.diag(known) + trust
        score = np.einsum("kpb,kb->kp", flat, left * weight) + known * (mean - theta)
        step = np.linalg.solve(information, score[..., None])[..., 0]
        value = -(left**2 @ weight) - (known * (theta - mean) ** 2).sum(axis=1) + (score * step).sum(axis=1)
        chosen = np.argsort(-value)[:_FOLLOWED]
        limited = np.clip(step[chosen], -_WIDTH * _TRUST, _WIDTH * _TRUST)
        result[number] = np.clip(theta[chosen] + limited, low, high)
    return result


def _likelihood(model: _Model, data: Counts) -> Floats:
    expected = np.maximum(model.expected(data), 1e-12)
    return np.asarray((data[0] * np.log(expected) - expected).sum(axis=(-1, -2)))


def _scored(
    library: Library, data: Counts, theta: Floats, mean: Floats, known: Floats, iterations: int
) -> tuple[Floats, Floats, Floats]:
    """Follow each start uphill; parameters (k, parameter), log likelihoods (k), standard deviations (k, parameter)."""
    low, high = _limits(library)
    theta, damping = theta.copy(), np.full(len(theta), 1e-3)
    value, spread = np.full(len(theta), -np.inf), np.zeros_like(theta)
    step, going = np.zeros_like(theta), np.arange(len(theta))
    proposed = theta.copy()
    information, score = np.zeros((*theta.shape, theta.shape[1])), np.zeros_like(theta)
    for _ in range(iterations):
        part: Counts = (data[0][going], data[1][going], data[2][:, going])
        model = _model(library, proposed[going])
        reached = _likelihood(model, part) - 0.5 * (known * (proposed[going] - mean) ** 2).sum(axis=1)
        better = reached > value[going]
        up = going[better]
        small = np.abs(step[going]).max(axis=1, initial=0.0, where=np.isfinite(step[going]))
        gained = reached - value[going]
        theta[up], value[up] = proposed[up], reached[better]
        information[up] = model.information(part)[better] + np.diag(known)
        score[up] = model.score(part)[better] + known * (mean - theta[up])
        damping[up] = np.maximum(damping[up] / 5.0, 1e-7)
        damping[going[~better]] *= 8.0
        done = (better & (gained < _CONVERGED)) | (~better & (small < 1e-9)) | (damping[going] > 1e6)
        going = going[~done]
        if not len(going):
            break
        # Parameters at a limit that they would leave stay there.
        held = ((theta[going] <= low) & (score[going] < 0)) | ((theta[going] >= high) & (score[going] > 0))
        curvature = np.where(held[:, :, None] | held[:, None, :], 0.0, information[going])
        diagonal = np.einsum("kpp->kp", curvature)
        diagonal += diagonal * damping[going, None] + held
        wanted = np.linalg.solve(curvature, np.where(held, 0.0, score[going])[..., None])[..., 0]
        # Shortened as a whole, so that it still goes uphill.
        wanted /= np.maximum(np.abs(wanted / _TRUST).max(axis=1, keepdims=True), 1.0)
        proposed[going] = np.clip(theta[going] + wanted, low, high)
        step[going] = proposed[going] - theta[going]
    for number in range(len(theta)):
        spread[number] = np.sqrt(np.diag(inverse(information[number])))
    return theta, value, spread
