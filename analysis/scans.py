"""The A columns of one frame, seen along its scan axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu

from .errors import ImageError
from .measuring import Measurement
from .scanlines import Lines, prepare

Floats = NDArray[np.float64]

AXES = ("x", "y")
_LEAST_COLUMNS, _LEAST_LINES = 40, 8
_HIGHEST = 12  # order of the smooth polynomials
_REACH = 5.0  # of the weights' Gaussian, in its standard deviations
#: Of the scatter's correlation: neighbours are alike by 0, 0.09, 0.22, 0.34, 0.45 and 0.54.
STIFFNESS = (0.0, 0.13, 0.65, 2.2, 7.5, 25.0)
_OUTLIER = 8.0  # robust standard deviations from the median of the neighbours in the same lines


@dataclass(frozen=True)
class Scan:
    """Good A columns of a measurement, seen along (fast, slow) axes."""

    order: tuple[int, int]  # image component of fast, slow
    slow: Floats  # (n,)
    vectors: Floats  # (2, 2) straight lattice, rows a and b, (fast, slow), Å
    centre: Floats  # (2,) of the field, Å
    half: Floats  # (2,) half its extent
    terms: NDArray[np.int64]  # (p, 2) polynomial orders along fast, slow
    widths: dict[str, float]  # site -> of its weights of lines, Å
    nodes: Floats  # (m,) where lines are described
    smooth: Floats  # (n, p) terms at the columns
    displacement: Floats  # (n, 2) from the straight lattice, Å
    edges: NDArray[np.int64]  # (k, 2) neighbouring columns
    period: float  # Å, shortest of the smooth terms along the slow axis
    fit_error: Floats  # (2,) rms, Å


def scan_of(measurement: Measurement, fast_axis: str, smooth: float) -> Scan:
    """A measurement's good A columns and what varies smoothly; parameters as in `analysis.scan_distortion`.

    Raises
    ------
    ImageError
        A parameter is wrong, or there are too few good columns.
    """
    if fast_axis not in AXES:
        raise ImageError(f"fast_axis={fast_axis!r} must be 'x' or 'y', the axis along the scan lines.")
    if not (np.isfinite(smooth) and smooth > 0):
        raise ImageError(f"smooth={smooth} must be a positive number of Å.")
    columns = measurement.columns
    order = (0, 1) if fast_axis == "x" else (1, 0)
    position = np.stack([columns["x"].values, columns["y"].values], 1)[:, order]
    good = (columns["site"].values == "A") & (columns["flag"].values == 0) & np.isfinite(position).all(1)
    position = position[good]
    index = np.stack([columns["a"].values, columns["b"].values], 1)[good].astype(float)
    design = np.column_stack([np.ones(len(index)), index])
    if len(index) < _LEAST_COLUMNS or np.linalg.matrix_rank(design) < 3:
        raise ImageError(
            f"measurement: has {len(index)} good A columns; scan distortion needs {_LEAST_COLUMNS} that span a field."
        )
    straight, *_ = np.linalg.lstsq(design, position, rcond=None)
    nominal = design @ straight
    spacing = float(np.hypot(*straight[1:].T).min())
    extent = np.ptp(nominal, axis=0)
    if extent[1] < _LEAST_LINES * spacing:
        raise ImageError(
            f"measurement: spans {extent[1]:.0f} Å across the scan lines; give a field of at least {_LEAST_LINES} cells."
        )
    half, centre = 0.5 * extent, 0.5 * (nominal.min(0) + nominal.max(0))
    orders = np.clip((2 * extent / smooth).astype(int), 2, _HIGHEST)
    terms = np.array([(m, n) for m in range(orders[0] + 1) for n in range(orders[1] + 1)
                      if m / orders[0] + n / orders[1] <= 1 + 1e-9])  # fmt: skip
    model = legendre(nominal, centre, half, terms)
    keep = _consistent(position - nominal, model, nominal[:, 1], spacing)
    displacement, model = (position - nominal)[keep], model[keep]
    # Where the smooth lattice has a column: its measured place would let fit errors choose its line.
    slow = nominal[keep, 1] + model @ np.linalg.lstsq(model, displacement[:, 1], rcond=None)[0]
    widths = {site: _weight_width(columns, order[1], site) for site in ("A", "B")}
    step = min(widths.values())
    margin = 5 * max(widths.values()) + spacing
    nodes = np.arange(slow.min() - margin, slow.max() + margin + step, step)
    variance = np.einsum("nii->ni", columns["position_cov"].values[good][keep])[:, order]
    return Scan(
        order, slow, straight[1:], centre, half, terms, widths, nodes, model, displacement,
        _neighbours(index[keep].astype(int)), float(2 * extent[1] / orders[1]), np.sqrt(variance.mean(0)),
    )  # fmt: skip


def line_model(scan: Scan, component: int, stiffness: float) -> Lines:
    """What `scanlines` needs of one component (0 fast, 1 slow), with neighbours' scatter alike to a degree."""
    slow_terms = np.flatnonzero(scan.terms[:, 0] == 0)
    return prepare(
        scan.nodes,
        line_weights(scan.nodes, scan.slow, scan.widths["A"], 2 * component),
        scan.smooth,
        scan.displacement[:, component],
        slow_terms,
        slow_polynomials(scan, scan.nodes)[:, slow_terms],
        _precision(scan.edges, len(scan.slow), stiffness),
    )


def slow_polynomials(scan: Scan, slow: Floats) -> Floats:
    """(n, p) smooth terms in the middle of lines; constant beyond the field."""
    inside = np.clip(slow, scan.centre[1] - scan.half[1], scan.centre[1] + scan.half[1])
    return legendre(
        np.column_stack([np.full(len(slow), scan.centre[0]), inside]), scan.centre, scan.half, scan.terms
    )


def line_weights(nodes: Floats, slow: Floats, width: float, power: int) -> sparse.csr_array:
    """(n, m) weights, each row adding up to 1, of the nodes around each column.

    Shifts of lines move a Gaussian column's fitted centre in proportion to (∂G/∂r)², r the direction of the
    shift, summed along the line: a Gaussian √2 narrower than the column for shifts along the fast axis,
    and that times the distance squared for shifts along the slow one.

    Parameters
    ----------
    nodes : (m,) array
        Even steps, not longer than `width`.
    slow : (n,) array
        Columns' positions along the slow axis.
    width : float
        Standard deviation of the Gaussian in the weight, Å.
    power : int
        Of the distance in the weight: 0 for shifts along the fast, 2 along the slow axis.
    """
    step = nodes[1] - nodes[0]
    reach = int(np.ceil(_REACH * width / step))
    middle = np.clip(np.rint((slow - nodes[0]) / step).astype(int), 0, len(nodes) - 1)
    near = np.clip(middle[:, None] + np.arange(-reach, reach + 1), 0, len(nodes) - 1)
    # Clipped neighbours repeat the last node; the sparse constructor adds them up.
    away = (nodes[near] - slow[:, None]) / width
    weight = away**power * np.exp(-0.5 * away**2)
    weight /= weight.sum(1, keepdims=True)
    rows = np.repeat(np.arange(len(slow)), near.shape[1])
    return sparse.csr_array((weight.ravel(), (rows, near.ravel())), shape=(len(slow), len(nodes)))


def variance_of(rows: sparse.csr_array, covariance: Floats) -> Floats:
    """(n,) variances of the linear combinations in the (few-entry) rows of a sparse matrix."""
    rows = rows.copy()
    rows.sum_duplicates()  # and sort
    first = rows.indices[rows.indptr[:-1]]
    last = rows.indices[rows.indptr[1:] - 1]
    reach = int((last - first).max())
    near = sparse.diags_array(
        [np.diagonal(covariance, k) for k in range(-reach, reach + 1)],
        offsets=range(-reach, reach + 1), shape=covariance.shape,
    )  # fmt: skip
    return np.asarray(((rows @ near.tocsr()) * rows).sum(1)).ravel()


def legendre(place: Floats, centre: Floats, half: Floats, terms: NDArray[np.int64]) -> Floats:
    """(n, p) products of Legendre polynomials, of orders `terms` along fast and slow."""
    unit = (place - centre) / half
    fast, slow = (np.polynomial.legendre.legvander(unit[:, k], int(terms[:, k].max())) for k in (0, 1))
    return fast[:, terms[:, 0]] * slow[:, terms[:, 1]]


def _consistent(displacement: Floats, model: Floats, slow: Floats, spacing: float) -> NDArray[np.bool_]:
    """Columns that do as those next to them in the same lines: a misfit must not pass for jitter."""
    solution, *_ = np.linalg.lstsq(model, displacement, rcond=None)
    rest = (displacement - model @ solution)[np.argsort(slow, kind="stable")]
    in_line = max(5, int(0.5 * len(slow) * spacing / np.ptp(slow)))
    rest = rest - ndimage.median_filter(rest, size=(in_line, 1), mode="nearest")
    # Many columns are the median themselves: the tenth that lie furthest tell the spread better.
    limit = _OUTLIER * np.quantile(np.abs(rest), 0.9, axis=0) / 1.645 + 1e-9
    keep = np.empty(len(slow), bool)
    keep[np.argsort(slow, kind="stable")] = (np.abs(rest) <= limit).all(1)
    return keep


def _weight_width(columns: xr.Dataset, slow: int, site: str) -> float:
    rows = np.flatnonzero((columns["site"].values == site) & (columns["flag"].values == 0))
    if len(rows) == 0:
        raise ImageError(f"measurement: has no good {site} columns; mend the fit first.")
    major, minor, theta = (columns[name].values[rows] for name in ("sigma_major", "sigma_minor", "theta"))
    along, across = (np.cos(theta), np.sin(theta)) if slow == 0 else (np.sin(theta), np.cos(theta))
    return float(np.median(np.hypot(major * along, minor * across))) / np.sqrt(2.0)


def _neighbours(index: NDArray[np.int64]) -> NDArray[np.int64]:
    rows = {(i, j): n for n, (i, j) in enumerate(index.tolist())}
    pairs = [(n, rows.get(other)) for (i, j), n in rows.items() for other in ((i + 1, j), (i, j + 1))]
    return np.array([pair for pair in pairs if pair[1] is not None], dtype=np.int64).reshape(-1, 2)


def _precision(edges: NDArray[np.int64], count: int, stiffness: float) -> tuple[sparse.csr_array, float]:
    """1 + stiffness × graph Laplacian, scaled to unit variance inside a square net, and its log-determinant.

    A Markov field of the columns: strain that lies between white noise and the smooth terms.
    """
    one, other = edges.T
    links = sparse.csr_array((np.ones(len(edges)), (one, other)), shape=(count, count))
    links = links + links.T
    laplacian = sparse.diags_array(np.asarray(links.sum(1)).ravel()) - links
    cosine = np.cos(2 * np.pi * (np.arange(64) + 0.5) / 64)
    spectrum = 1 / (1 + stiffness * (4 - 2 * cosine[:, None] - 2 * cosine))
    matrix = sparse.csr_array(float(spectrum.mean()) * (sparse.eye_array(count) + stiffness * laplacian))
    factor = splu(
        matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}, diag_pivot_thresh=0.0
    )
    return matrix, float(np.log(np.abs(factor.U.diagonal())).sum())
