"""Scan distortion: what the A columns' lattice says about lines that jitter and a specimen that drifts.

Only A columns are looked at: B columns carry the polar displacement. See docs/distortion.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import rq

from .cells import cell_table, differences, restated, whole_cells
from .errors import ImageError
from .measuring import Measurement
from .scanlines import (
    Jitter,
    Lines,
    Posterior,
    fit,
    posterior,
    power_spectrum,
    prior_covariance,
)
from .scans import AXES, STIFFNESS, Scan, line_model, line_weights, scan_of, slow_polynomials, variance_of

Floats = NDArray[np.float64]

#: Strain that varies more slowly than this (Å, a full period) is left alone.
SMOOTH = 50.0
#: Said in every result.
AMBIGUITY = (
    "one frame cannot tell linear drift from a real departure of the lattice from the reference, nor slow drift "
    "or row-by-row shifts from real strain that varies along the slow axis only"
)
_PM = 100.0  # pm in 1 Å


def scan_distortion(
    measurement: Measurement,
    *,
    fast_axis: str = "x",
    reference: tuple[float, float, float] | None = None,
    smooth: float = SMOOTH,
) -> xr.Dataset:
    """Jitter of the scan lines, slow drift and affine departure, from the A columns of one frame.

    Parameters
    ----------
    measurement : Measurement
    fast_axis : {"x", "y"}
        Along the scan lines. The crystal does not know it: strain feigns jitter with the axes exchanged too,
        so compare both before you believe a jitter that is small against the scatter.
    reference : tuple of float, optional
        (a, b, angle in degrees) of the undistorted A lattice; only b/a and the angle count. By default
        square, or 1 : √2 seen along [110].
    smooth : float
        Period, Å, of the quickest smooth strain that is fitted (as polynomials) and not counted as jitter.

    Returns
    -------
    xr.Dataset
        Along ``line`` (position on the slow axis, Å) and ``component``, pm: ``jitter`` and ``jitter_sem``,
        as a column there feels it, and ``slow_drift`` with its error. Per component: ``jitter_rms``,
        ``jitter_gain`` (fall of −2 log-likelihood: below 6 there is no sign of any), ``correlation_length``
        and its 68 % range, ``scatter`` (not common to lines), made of ``fit_error`` and ``disorder``,
        ``linear_drift``. ``spectrum`` along ``frequency``; ``lattice`` and ``lattice_cov``.

    Raises
    ------
    ImageError
        A parameter is wrong, or there are too few good A columns.

    Notes
    -----
    ``jitter`` is a shrunk estimate: its own rms is below ``jitter_rms``, the more so the noisier it is.
    """
    scan = scan_of(measurement, fast_axis, smooth)
    jitters, models, stiffnesses = [], [], []
    for n in (0, 1):
        candidates = [line_model(scan, n, stiffness) for stiffness in STIFFNESS]
        jitter, chosen = fit(candidates)
        jitters.append(jitter)
        models.append(candidates[chosen])
        stiffnesses.append(STIFFNESS[chosen])
    found = [posterior(model, jitter) for model, jitter in zip(models, jitters, strict=True)]
    line = np.arange(scan.slow.min(), scan.slow.max() + models[0].step, models[0].step)
    spacing = float(np.hypot(*scan.vectors.T).min())
    spectra = [
        power_spectrum(model, each, scan.slow, jitter.scatter, 2 * spacing)
        for model, each, jitter in zip(models, found, jitters, strict=True)
    ]
    lattice, lattice_cov = _lattice(scan, found)
    drift, drift_sem = _linear_drift(scan, lattice, lattice_cov, _reference(measurement, reference))
    shown = [_shown(scan, n, each, line) for n, each in enumerate(found)]

    back = list(np.argsort(scan.order))  # from (fast, slow) to (x, y)

    def per_axis(values: Any) -> Floats:
        return np.array(values, float)[back]

    scatter = per_axis([j.scatter for j in jitters]) * _PM
    fit_error = per_axis(scan.fit_error) * _PM
    component = ("component",)
    both, spectral, tried = ("line", "component"), ("frequency", "component"), ("component", "tried")
    pm = {"units": "pm"}
    per_length = {"units": "pm/nm", "note": AMBIGUITY}
    data = {
        "jitter": (both, per_axis([s[0] for s in shown]).T, pm | {"note": "as an A column at this line feels it"}),
        "jitter_sem": (both, per_axis([s[1] for s in shown]).T, pm),
        "slow_drift": (both, per_axis([s[2] for s in shown]).T, pm | {"note": AMBIGUITY}),
        "slow_drift_sem": (both, per_axis([s[3] for s in shown]).T, pm),
        "jitter_rms": (component, per_axis([j.rms for j in jitters]) * _PM, pm | {"note": "free of fit error"}),
        "jitter_rms_sem": (component, per_axis([j.rms_sem for j in jitters]) * _PM, pm),
        "jitter_gain": (component, per_axis([j.gain for j in jitters]), {"units": "1", "long_name": "fall of -2 log-likelihood"}),
        "correlation_length": (component, per_axis([j.length(0.5)[0] for j in jitters]), {"units": "Å"}),
        "correlation_range": (("component", "bound"), per_axis([j.length(0.16, 0.84) for j in jitters]), {"units": "Å", "long_name": "68 % interval"}),
        "tried_length": (tried, per_axis([j.lengths for j in jitters]), {"units": "Å", "long_name": "correlation lengths the columns allow"}),
        "tried_ratio": (tried, per_axis([j.ratios for j in jitters]), {"units": "1", "long_name": "variance of jitter over that of scatter"}),
        "tried_weight": (tried, per_axis([j.weights for j in jitters]), {"units": "1", "long_name": "share of the probability"}),
        "stiffness": (component, per_axis(stiffnesses), {"units": "1", "long_name": "of the scatter: 0 if independent from column to column"}),
        "scatter": (component, scatter, pm | {"long_name": "standard deviation of what is not common to lines"}),
        "fit_error": (component, fit_error, pm | {"long_name": "rms of the columns' own standard errors"}),
        "disorder": (component, np.sqrt(np.maximum(scatter**2 - fit_error**2, 0)), pm | {"long_name": "scatter beyond fit error"}),
        "linear_drift": (component, per_axis(drift) * 1e3, per_length | {"long_name": "drift that would make the reference look so"}),
        "linear_drift_sem": (component, per_axis(drift_sem) * 1e3, per_length),
        "spectrum": (spectral, per_axis([s[:, 1] for s in spectra]).T * _PM**2, {"units": "pm2 Å", "note": "two-sided, less the scatter's share"}),
        "lattice": (("vector", "component"), lattice[:, back], {"units": "Å"}),
        "lattice_cov": (("component", "vector", "vector_2"), lattice_cov[back], {"units": "Å2"}),
    }  # fmt: skip
    names = {"component": AXES, "vector": ("a", "b"), "vector_2": ("a", "b"), "bound": ("low", "high")}
    coords = {
        "line": ("line", line, {"units": "Å", "long_name": f"position along the slow axis, {AXES[scan.order[1]]}"}),
        "frequency": ("frequency", spectra[0][:, 0], {"units": "1/Å"}),
        "axis": ("component", np.array(["fast", "slow"], dtype=object)[back], {"units": "1"}),
    } | {key: (key, np.array(value, dtype=object), {"units": "1"}) for key, value in names.items()}  # fmt: skip
    attrs = {
        "fast_axis": fast_axis,
        "smooth_angstrom": float(smooth),
        "smooth_period_angstrom": scan.period,
        "columns_used": len(scan.slow),
        "source": str(measurement.columns.attrs.get("source", "array")),
        "directions": "x right, y down; a positive value moves columns towards +x or +y",
        "note": AMBIGUITY,
    }
    return xr.Dataset(data, coords, attrs)


def correct_distortion(measurement: Measurement, distortion: xr.Dataset) -> Measurement:
    """The measurement with the jitter of its lines taken off A and B columns.

    Smooth strain, slow and linear drift stay: they hardly touch d, and may be the specimen's. B columns
    move by what A columns tell about their lines, so no polar displacement is lost; where lines at B are
    independent of those at A (jitter shorter than half a cell and rows along the scan), nothing can be
    known and the error in ``d_cov`` says so.

    Parameters
    ----------
    measurement : Measurement
    distortion : xr.Dataset
        From `scan_distortion`: gives the statistics; the lines are estimated from `measurement` itself.

    Returns
    -------
    Measurement
        Itself, if its lines are corrected already. Else columns and cells with ``x``, ``y``, ``d`` corrected;
        ``d_cov`` is the fit's plus that of the correction. The latter is common to all cells along a line, and
        neglects that a cell's own A columns are among the n that tell its lines' shift (too much by about 1/n).

    Raises
    ------
    ImageError
        `distortion` is not of `scan_distortion`, or there are too few columns.
    """
    if "scan_correction" in measurement.columns.attrs:
        return measurement
    scan, models, jitters = _again(measurement, distortion)
    columns = measurement.columns
    moved, covariances = {}, []
    for n, (model, jitter) in enumerate(zip(models, jitters, strict=True)):
        estimate = posterior(model, jitter)
        name = AXES[scan.order[n]]
        moved[name] = columns[name].copy(
            data=columns[name].values - _weights(columns, scan, n) @ estimate.lines
        )
        covariances.append(estimate.lines_cov)
    note = f"jitter of scan lines along {distortion.attrs['fast_axis']} taken off"
    corrected = columns.assign(moved).assign_attrs(scan_correction=note)
    cells = _with_covariance(
        measurement, corrected, scan, covariances, "error of the correction of scan lines"
    )
    return replace(
        measurement, columns=corrected, unit_cells=cells.assign_attrs(scan_correction=note),
        quality=measurement.quality | {"scan_jitter_rms_pm": [float(v) for v in distortion["jitter_rms"].values]},
    )  # fmt: skip


def propagate_jitter(measurement: Measurement, distortion: xr.Dataset) -> Measurement:
    """The measurement as it is, with what the jitter does to d added to ``d_cov``.

    Parameters
    ----------
    measurement : Measurement
        Not corrected.
    distortion : xr.Dataset
        From `scan_distortion`.

    Raises
    ------
    ImageError
        The measurement is corrected already, or `distortion` is not of `scan_distortion`.
    """
    if "scan_correction" in measurement.columns.attrs:
        raise ImageError("measurement: its scan lines are corrected already; pass the one from measure.")
    scan, models, jitters = _again(measurement, distortion)
    covariances = [prior_covariance(model, jitter) for model, jitter in zip(models, jitters, strict=True)]
    cells = _with_covariance(measurement, measurement.columns, scan, covariances, "jitter of scan lines")
    return replace(measurement, unit_cells=cells)


def propagated(function: Callable[[Floats], Any], at: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """Value of a smooth function of uncertain numbers, and its covariance to first order."""
    value = np.atleast_1d(function(at))
    step = 1e-6 * max(float(np.abs(at).max()), 1e-9)
    slope = np.stack(
        [
            (np.atleast_1d(function(at + step * e)) - np.atleast_1d(function(at - step * e))) / (2 * step)
            for e in np.eye(len(at))
        ],
        1,
    )
    return value, slope @ covariance @ slope.T


def _again(measurement: Measurement, distortion: xr.Dataset) -> tuple[Scan, list[Lines], list[Jitter]]:
    if not {"jitter_rms", "tried_length", "stiffness"} <= set(distortion.data_vars):
        raise ImageError("distortion: is not what scan_distortion returns; pass that dataset.")
    scan = scan_of(measurement, distortion.attrs["fast_axis"], distortion.attrs["smooth_angstrom"])
    models, jitters = [], []
    for n in (0, 1):
        one = distortion.isel(component=scan.order[n])
        rms, sem, scatter = (float(one[name]) / _PM for name in ("jitter_rms", "jitter_rms_sem", "scatter"))
        tried = (one[f"tried_{name}"].values for name in ("length", "ratio", "weight"))
        jitters.append(Jitter(rms, sem, scatter, float(one["jitter_gain"]), *tried))
        models.append(line_model(scan, n, float(one["stiffness"])))
    return scan, models, jitters


def _weights(columns: xr.Dataset, scan: Scan, component: int) -> sparse.csr_array:
    """(all columns, nodes) weights of the lines in every column."""
    nodes = scan.nodes
    slow = columns[AXES[scan.order[1]]].values
    is_a = sparse.diags_array((columns["site"].values == "A").astype(float))
    of_a, of_b = (line_weights(nodes, slow, scan.widths[site], 2 * component) for site in ("A", "B"))
    return sparse.csr_array(of_b + is_a @ (of_a - of_b))


def _with_covariance(
    measurement: Measurement, columns: xr.Dataset, scan: Scan, covariances: list[Floats], what: str
) -> xr.Dataset:
    """Cells of the columns, with the lines' covariance carried into ``d_cov``."""
    cells = cell_table(columns, measurement.lattice, measurement.unit_cells.attrs)
    index = np.stack([columns["a"].values, columns["b"].values], 1).astype(int)
    site = columns["site"].values
    b_row, corners = whole_cells(index, site == "A", site == "B", measurement.lattice)
    combine = sparse.csr_array(differences(b_row, corners, len(site)))
    d_cov = cells["d_cov"].values.copy()
    for n, covariance in enumerate(covariances):
        k = scan.order[n]
        d_cov[:, k, k] += (
            variance_of(sparse.csr_array(combine @ _weights(columns, scan, n)), covariance) * _PM**2
        )
    cells = restated(cells, cells["d"].values, d_cov)
    note = f"{cells['d_cov'].attrs['note']}; plus {what}"
    return cells.assign(d_cov=cells["d_cov"].assign_attrs(note=note))


def _shown(
    scan: Scan, component: int, found: Posterior, line: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Jitter, slow drift and their errors along the lines, pm."""
    rows = line_weights(found.nodes, line, scan.widths["A"], 2 * component)
    slow_terms = np.flatnonzero(scan.terms[:, 0] == 0)
    bent = scan.terms[slow_terms, 1] >= 2
    basis = slow_polynomials(scan, line)[:, slow_terms[bent]]
    cov = found.slow_cov[np.ix_(bent, bent)]
    return (
        rows @ found.lines * _PM,
        np.sqrt(variance_of(rows, found.lines_cov)) * _PM,
        basis @ found.slow[bent] * _PM,
        np.sqrt(np.einsum("ni,ij,nj->n", basis, cov, basis)) * _PM,
    )


def _lattice(scan: Scan, found: list[Posterior]) -> tuple[Floats, Floats]:
    """(2, 2) mean A vectors, rows a and b, and (component, 2, 2) covariance, in (fast, slow)."""
    linear = [int(np.flatnonzero((scan.terms == term).all(1))[0]) for term in ((1, 0), (0, 1))]
    per_unit = scan.vectors / scan.half
    lattice = scan.vectors + per_unit @ np.stack([each.smooth[linear] for each in found], 1)
    cov = [per_unit @ each.smooth_cov[np.ix_(linear, linear)] @ per_unit.T for each in found]
    return lattice, np.array(cov)


def _reference(
    measurement: Measurement, given: tuple[float, float, float] | None
) -> tuple[float, float, float]:
    if given is None:
        b_fraction = measurement.lattice.b_fraction
        long = np.sqrt(2.0)
        return (long if b_fraction[1] == 0 else 1.0, long if b_fraction[0] == 0 else 1.0, 90.0)
    if len(given) != 3 or not np.isfinite(given).all() or min(given[:2]) <= 0 or not 10 <= given[2] <= 170:
        raise ImageError(f"reference={given} must be two positive lengths and an angle of 10 to 170 degrees.")
    return given


def _linear_drift(
    scan: Scan, lattice: Floats, lattice_cov: Floats, reference: tuple[float, float, float]
) -> tuple[Floats, Floats]:
    """Drift per length of slow scan, (fast, slow), that makes the reference look like the lattice."""
    a, b, angle = reference[0], reference[1], np.radians(reference[2])
    hand = np.sign(np.linalg.det(lattice))
    undistorted = np.array([[a, b * np.cos(angle)], [0.0, hand * b * np.sin(angle)]])

    def drift(flat: Floats) -> Floats:
        # Distorted = upper triangle (what drift does) × rotation × reference.
        upper, _ = rq(flat.reshape(2, 2).T @ np.linalg.inv(undistorted))
        upper = upper * np.sign(np.diagonal(upper))
        return np.array([upper[0, 1] / upper[1, 1], 1 - upper[0, 0] / upper[1, 1]])

    cov = np.zeros((4, 4))
    for n in (0, 1):
        cov[n::2, n::2] = lattice_cov[n]
    value, value_cov = propagated(drift, lattice.ravel(), cov)
    return value, np.sqrt(np.diagonal(value_cov))
