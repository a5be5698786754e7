"""Fitted columns as a labelled dataset, in Å."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .columns import FLAG_ATTRS, FLAGS, FittedColumns

Floats = NDArray[np.float64]

#: Said in every dataset and on every figure.
SIGN_CONVENTION = "d = mean of the surrounding A columns - central B column; x right, y down"
COVARIANCE_NOTE = (
    "inverse Fisher information with overlapping neighbours, times chi2 where that exceeds 1, widened where "
    "residuals are correlated between pixels, at most the scatter about neighbours; without scan distortion"
)


def column_table(
    fitted: FittedColumns, labels: tuple[str, ...], pixel_size: tuple[float, float], attrs: dict[str, Any]
) -> xr.Dataset:
    """One row a column, in Å.

    Parameters
    ----------
    fitted : FittedColumns
        In px.
    labels : tuple of str
        Site of each kind, A first.
    pixel_size : tuple of float
        (x, y), Å per px.
    attrs : dict
        Of the dataset.

    Returns
    -------
    xr.Dataset
        dims ``column`` (and ``component``, ``component_2``); where columns overlap also ``overlap``: pairs of columns
        whose errors are correlated.
    """
    scale = np.array(pixel_size)
    fit = fitted.fit
    parameters, covariance = fit.parameters, fit.covariance
    position = parameters[:, 2:4] * scale
    position_cov = covariance[:, 2:4, 2:4] * np.outer(scale, scale)
    shape, shape_sem = _shape(parameters[:, 4:], covariance[:, 4:, 4:], scale)
    integral, integral_sem = _integrated(parameters, covariance, float(scale.prod()))

    def sem(n: int) -> Floats:
        return np.sqrt(covariance[:, n, n])

    intensity = {"units": "1", "note": "in the image's own intensity unit"}
    column = "column"
    matrix = (column, "component", "component_2")
    skewness = {"units": "1", "long_name": "E[t |t|2], t in the column's own standard deviations"}
    variables = {
        "x": (column, position[:, 0], {"units": "Å"}),
        "y": (column, position[:, 1], {"units": "Å", "direction": "down"}),
        "position_cov": (matrix, position_cov, {"units": "Å2", "note": COVARIANCE_NOTE}),
        "site": (column, np.array(labels, object)[fitted.kind], {"units": "1", "note": "A is the brighter unless it was chosen otherwise"}),
        "a": (column, fitted.index[:, 0].astype(np.int32), {"units": "1", "long_name": "lattice index"}),
        "b": (column, fitted.index[:, 1].astype(np.int32), {"units": "1", "long_name": "lattice index"}),
        "amplitude": (column, parameters[:, 0], intensity),
        "amplitude_sem": (column, sem(0), intensity),
        "intensity": (column, integral, {"units": "Å2", "long_name": "integral of the Gaussian", **_note(intensity)}),
        "intensity_sem": (column, integral_sem, {"units": "Å2", **_note(intensity)}),
        "background": (column, parameters[:, 1], intensity),
        "background_sem": (column, sem(1), intensity),
        "sigma_major": (column, shape[:, 0], {"units": "Å"}),
        "sigma_major_sem": (column, shape_sem[:, 0], {"units": "Å"}),
        "sigma_minor": (column, shape[:, 1], {"units": "Å"}),
        "sigma_minor_sem": (column, shape_sem[:, 1], {"units": "Å"}),
        "theta": (column, shape[:, 2], {"units": "rad", "long_name": "major axis, from x towards y (down)"}),
        "theta_sem": (column, shape_sem[:, 2], {"units": "rad"}),
        "skewness": ((column, "component"), fit.skewness, skewness),
        "skewness_cov": (matrix, fit.skewness_cov, {"units": "1"}),
        "residual": (column, fit.residual, intensity | {"long_name": "root mean square residual"}),
        "chi2": (column, fit.chi2, {"units": "1", "long_name": "per degree of freedom, for the noise of the image"}),
        "flag": (column, fitted.flag, FLAG_ATTRS),
    }  # fmt: skip
    table = xr.Dataset(variables, components(), attrs)
    return table.assign(_overlaps(fitted, scale))


def flag_counts(flag: NDArray[np.uint8]) -> dict[str, int]:
    """How many rows carry each flag."""
    return {name: int(((flag & bit) != 0).sum()) for name, bit in FLAGS.items()}


def components() -> dict[str, Any]:
    """Coordinates of vectors and covariances."""
    labels = np.array(["x", "y"], dtype=object)
    attrs = {"units": "1", "note": "image axes: x right, y down"}
    return {"component": ("component", labels, attrs), "component_2": ("component_2", labels, attrs)}


def _note(attrs: dict[str, str]) -> dict[str, str]:
    return {"note": attrs["note"]}


def _overlaps(fitted: FittedColumns, scale: Floats) -> dict[str, Any]:
    """Covariances between columns of different kinds, each pair once, A (or the lower kind) first."""
    first, second = fitted.fit.neighbours.T
    use = fitted.kind[first] < fitted.kind[second]
    if not use.any():
        return {}
    covariance = fitted.fit.neighbour_cov[use] * np.outer(scale, scale)
    row = {"units": "1", "long_name": "row of a column"}
    return {
        "overlap_first": ("overlap", first[use].astype(np.int32), row),
        "overlap_second": ("overlap", second[use].astype(np.int32), row),
        "overlap_cov": (
            ("overlap", "component", "component_2"), covariance,
            {"units": "Å2", "long_name": "covariance of their positions, the first's along component"},
        ),
    }  # fmt: skip


def _integrated(parameters: Floats, covariance: Floats, area: float) -> tuple[Floats, Floats]:
    """Integral 2π A / (p r) of every Gaussian, Å², and its standard error."""
    amplitude, p, r = parameters[:, 0], parameters[:, 4], parameters[:, 6]
    integral = 2 * np.pi * amplitude / (p * r) * area
    gradient = np.zeros((len(parameters), 7))
    gradient[:, 0] = 2 * np.pi * area / (p * r)
    gradient[:, 4], gradient[:, 6] = -integral / p, -integral / r
    return integral, np.sqrt(np.einsum("ni,nij,nj->n", gradient, covariance, gradient))


def _shape(factor: Floats, covariance: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """(n, 3) sigma_major, sigma_minor, theta and their standard errors, by numerical propagation."""
    base = principal_axes(factor, scale)
    gradient = np.empty((*base.shape, 3))
    for n in range(3):
        step = np.zeros(3)
        step[n] = 1e-5
        size = np.maximum(np.abs(factor[:, :1]), 1e-6)
        change = principal_axes(factor + step * size, scale) - principal_axes(factor - step * size, scale)
        change[:, 2] = (change[:, 2] + np.pi / 2) % np.pi - np.pi / 2
        gradient[:, :, n] = change / (2e-5 * size)
    variance = np.einsum("nki,nij,nkj->nk", gradient, covariance, gradient)
    # An angle is unknown by at most π/√12, that of a round column.
    error = np.sqrt(np.maximum(variance, 0))
    error[:, 2] = np.minimum(error[:, 2], np.pi / np.sqrt(12))
    return base, error


def principal_axes(factor: Floats, scale: Floats) -> Floats:
    """(n, 3) sigma_major, sigma_minor, theta of fitted (n, 3) p, q, r; `scale` is the pixel size (x, y)."""
    p, q, r = factor.T
    # Covariance of the Gaussian: the inverse of [[p², pq], [pq, q² + r²]].
    xx = (q**2 + r**2) / (p * r) ** 2 * scale[0] ** 2
    yy = 1 / r**2 * scale[1] ** 2
    xy = -q / (p * r**2) * scale[0] * scale[1]
    mean, half = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    minor = (xx * yy - xy**2) / (mean + half)
    theta = 0.5 * np.arctan2(2 * xy, xx - yy)
    return np.stack([np.sqrt(mean + half), np.sqrt(np.maximum(minor, 0)), theta], 1)
