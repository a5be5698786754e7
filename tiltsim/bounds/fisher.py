"""How well tilt, thickness and displacement can be known at best: the Cramér–Rao bound of an averaged cell's image.

Counts are Poisson's: where a fraction f of the beam reaches the detector, an area of dose N electrons tells about parameters
i and j the Fisher information Σ N ∂_i f ∂_j f / f (A. van den Bos, Parameter Estimation for Scientists and Engineers, 2007). The
inverse of its matrix bounds the covariance of every unbiased estimator. A prior adds its own information (H. L. Van Trees,
Detection, Estimation and Modulation Theory I, 1968), which matters where the unbiased bound exceeds what tilts there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tiltsim.bounds.response import ABERRATIONS, CellResponse, aberration, library_response
from tiltsim.errors import SettingsError
from tiltsim.library import Library
from tiltsim.library.periods import SPECIMEN
from tiltsim.synth.probe import ProbeFaults, transfer

Floats = NDArray[np.float64]

#: What else an experiment does not know, and units. ``source`` are components of the source's covariance.
NUISANCE = {
    "scale": "1", "offset": "fraction of the beam", "origin_x": "pm", "origin_y": "pm", "source_xx": "Å²",
    "source_yy": "Å²", "source_xy": "Å²",
}  # fmt: skip

#: Units of all parameters.
UNITS = SPECIMEN | NUISANCE | dict.fromkeys(ABERRATIONS, "Å")

#: Steps with which aberrations are differentiated, Å: small against what changes an image.
_STEPS = {"defocus": 5.0, "C12": 2.0, "C21": 50.0}

#: Least fraction of the beam that counts: Fourier interpolation may dip below zero between columns.
_FAINT = 1e-6


def fisher_information(image: Floats, slopes: Sequence[Floats], electrons: float) -> Floats:
    """Fisher information of Poisson counts.

    Parameters
    ----------
    image : ndarray
        Fraction of the beam at every pixel.
    slopes : sequence of ndarray
        Its derivatives, one array a parameter.
    electrons : float
        Incident on a pixel.

    Returns
    -------
    ndarray, shape (parameter, parameter)
        Per the product of the parameters' units.
    """
    flat = np.stack([np.ravel(s) for s in slopes])
    weight = electrons / np.maximum(np.ravel(image), _FAINT)
    return np.asarray((flat * weight) @ flat.T)


def model_slopes(
    response: CellResponse, parameters: Sequence[str], *, source_fwhm: float = 0.8, pixel: float = 0.2
) -> tuple[Floats, dict[str, Floats]]:
    """Image of a cell through a Gaussian source, and its derivatives by any of :data:`UNITS`.

    Parameters
    ----------
    response : CellResponse
    parameters : sequence of str
    source_fwhm : float
        Å.
    pixel : float
        Distance of samples, Å, rounded to a whole number a cell.

    Returns
    -------
    image : ndarray, shape (n, n)
        Fraction of the beam.
    slopes : dict of str to ndarray (n, n)

    Notes
    -----
    Aberrations that the response does not hold act on the finished image, by the ratio of transfer functions that
    :mod:`tiltsim.synth.probe` describes, with its errors.
    """
    unknown = [name for name in parameters if name not in UNITS]
    if unknown:
        raise SettingsError(f"parameter {unknown[0]!r} is unknown; choose among {', '.join(UNITS)}.")
    n, edge = response.image.shape[-1], response.edge
    samples = max(4, round(edge / pixel))
    k = np.fft.fftfreq(n, edge / n)
    kx, ky = k[None, :], k[:, None]
    variance = source_fwhm**2 / (8.0 * np.log(2.0))
    soft = np.exp(-2.0 * np.pi**2 * variance * (kx**2 + ky**2))
    waves = np.exp(2j * np.pi * k[:, None] * (np.arange(samples) * edge / samples))

    def sampled(coefficients: NDArray[np.complex128]) -> Floats:
        return np.asarray(np.real(waves.T @ (coefficients * soft) @ waves)) / n**2

    whole = np.fft.fft2(response.image)
    image = sampled(whole)
    passing = partial(transfer, microscope=response.microscope, kx=kx + 0 * ky, ky=ky + 0 * kx)
    factors = {
        "origin_x": -2j * np.pi * kx / 100.0,  # per pm
        "origin_y": -2j * np.pi * ky / 100.0,
        "source_xx": -2.0 * np.pi**2 * kx**2,
        "source_yy": -2.0 * np.pi**2 * ky**2,
        "source_xy": -4.0 * np.pi**2 * kx * ky,
    }
    slopes: dict[str, Floats] = {}
    for name in parameters:
        if name in response.slopes:
            slopes[name] = sampled(np.fft.fft2(response.slopes[name]))
        elif name == "scale":
            slopes[name] = image
        elif name == "offset":
            slopes[name] = np.ones_like(image)
        elif name in ABERRATIONS:
            step = _STEPS[ABERRATIONS[name][0]]
            up, down = (
                passing(_faults(aberration(name, sign * step)), thickness=response.thickness)
                for sign in (1.0, -1.0)
            )
            slopes[name] = sampled(whole * (up - down) / (2 * step))
        else:
            slopes[name] = sampled(whole * factors[name])
    return image, slopes


def _faults(aberrations: Mapping[str, float]) -> ProbeFaults:
    """Aberrations in Å and rad as the probe's faults, which are in degrees."""
    settings = {n: float(np.degrees(v)) if n.startswith("phi") else v for n, v in aberrations.items()}
    return ProbeFaults(source_fwhm=0.0, **settings)


def tilt_bound(
    source: Library | CellResponse,
    *,
    tilt: tuple[float, float] | None = None,
    thickness: float | None = None,
    d: tuple[float, float] = (0.0, 0.0),
    dose_per_A2: float,
    cells: float = 1,
    source_fwhm: float = 0.8,
    nuisance: Sequence[str] = tuple(NUISANCE),
    pixel: float = 0.2,
    prior_tilt_mrad: float | None = None,
    prior: Mapping[str, float] | None = None,
) -> xr.Dataset:
    """Least standard deviation with which each parameter of a uniform crystal can be told from its image.

    Parameters
    ----------
    source : Library or CellResponse
        A library, asked at the state that follows; or the response of a state from
        :func:`~tiltsim.bounds.response.engine_derivatives`.
    tilt, d : (float, float)
        mrad, pm. A library needs ``tilt``.
    thickness : float
        Å. A library needs it.
    dose_per_A2 : float
        Incident electrons per Å².
    cells : float
        That share all parameters and are averaged, or fitted together: bounds fall with the root of it.
    source_fwhm : float
        Å.
    nuisance : sequence of str
        Unknown besides tilt, thickness and d: of :data:`NUISANCE` (default: all) and of
        :data:`~tiltsim.bounds.response.ABERRATIONS`.
    pixel : float
        Å.
    prior_tilt_mrad : float, optional
        Standard deviation of a Gaussian prior of each component of tilt.
    prior : mapping of str to float, optional
        Likewise for any other parameter, in its unit; 0 is not allowed.

    Returns
    -------
    xarray.Dataset
        Dim parameter with ``unit``: ``std``, the bound; ``std_alone``, if all else were known; ``correlation`` (parameter,
        other) of the errors of an efficient estimator. With priors they are Bayesian.

    Raises
    ------
    SettingsError
        If the state lies beyond the library, or an argument is impossible.
    """
    if not dose_per_A2 > 0 or not np.isfinite(dose_per_A2) or not cells > 0:
        raise SettingsError(
            f"dose_per_A2 {dose_per_A2:g} and cells {cells:g} must be positive and finite, e.g. 4e4 and 400."
        )
    if isinstance(source, Library):
        if tilt is None or thickness is None:
            raise SettingsError("tilt and thickness must be given where the source is a library.")
        source = library_response(source, tilt=tilt, thickness=thickness, d=d)
    parameters = [*SPECIMEN, *nuisance]
    priors = dict(prior or {})
    if prior_tilt_mrad is not None:
        priors |= {"tilt_x": prior_tilt_mrad, "tilt_y": prior_tilt_mrad}
    for name, width in priors.items():
        if name not in parameters or not width > 0:
            raise SettingsError(
                f"prior {name} = {width:g} must be a positive width of one of {', '.join(parameters)}."
            )
    image, slopes = model_slopes(source, parameters, source_fwhm=source_fwhm, pixel=pixel)
    area = source.edge**2 / image.size
    information = fisher_information(image, [slopes[p] for p in parameters], dose_per_A2 * area * cells)
    for name, width in priors.items():
        place = parameters.index(name)
        information[place, place] += 1.0 / width**2
    covariance = inverse(information)
    std = np.sqrt(np.diag(covariance))
    return xr.Dataset(
        {
            "std": ("parameter", std, {"long_name": "least standard deviation"}),
            "std_alone": (
                "parameter", 1.0 / np.sqrt(np.diag(information)),
                {"long_name": "least standard deviation with all else known"},
            ),
            "correlation": (("parameter", "other"), covariance / std / std[:, None], {"units": "1"}),
        },
        coords={
            "parameter": parameters, "other": parameters,
            "unit": ("parameter", [UNITS[p] for p in parameters]),
        },
        attrs={
            "tilt_mrad": list(source.tilt), "thickness_angstrom": source.thickness, "d_pm": list(source.d),
            "dose_per_A2": dose_per_A2, "cells": float(cells), "source_fwhm_angstrom": source_fwhm,
            "prior": "; ".join(f"{n} {w:g}" for n, w in priors.items()),
        },
    )  # fmt: skip


def inverse(information: Floats) -> Floats:
    """Covariance of an information matrix, whatever the parameters' units; directions without any get a huge variance."""
    scale = np.sqrt(np.maximum(np.diag(information), 1e-300))
    power, vectors = np.linalg.eigh(information / scale / scale[:, None])
    return np.asarray((vectors / np.maximum(power, 1e-13)) @ vectors.T / scale / scale[:, None])
