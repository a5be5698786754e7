"""From a micrograph to an answer: how much of its polarization is the crystal's and how much is tilt's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

import analysis
import dcnn
from analysis import Measurement
from analysis.errors import ImageError
from tiltsim.errors import SettingsError
from tiltsim.explanation.bending import Bending, find_bending
from tiltsim.explanation.estimators import (
    Estimate,
    from_inversion,
    from_network,
    from_reference,
    from_symmetry,
)
from tiltsim.explanation.forward import Forward
from tiltsim.explanation.inversion import Inversion, invert
from tiltsim.explanation.leans import Leans, part_leans
from tiltsim.explanation.model import OWN, PRIORS, SHARED, UNKNOWN_BLACK
from tiltsim.explanation.profiles import OWN as PROFILED_OWN
from tiltsim.explanation.profiles import SHARED as PROFILED_SHARED
from tiltsim.explanation.profiles import Profile, find_profiles
from tiltsim.explanation.reference import find_reference, in_box
from tiltsim.explanation.regions import Region, gather
from tiltsim.explanation.verdict import Verdict, judge
from tiltsim.library import Library

Floats = NDArray[np.float64]

#: What happens, in order, as progress is told.
STAGES = (
    "fit columns", "find domains", "average cells", "invert the image", "profile the likelihood", "ask other estimators", "judge",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Explanation:
    """What an image says about its tilt and its polarization.

    Parameters
    ----------
    measurement : Measurement
    cells : Dataset
        ``measurement.unit_cells`` with ``domain`` (cell; −1 none), ``reference`` (cell), and, where the verdict allows it,
        ``d_corrected`` and ``bias`` (cell, component), pm, ``bias_cov`` (what the whole domain shares; a cell's own fit error,
        ``d_cov``, comes on top) and ``wall`` (1 beside another domain, where the correction is uncertain).
    domains : Dataset
        From ``analysis.find_domains`` of the cells that are no reference.
    regions : list of Region
    inversion : Inversion
    forward : Forward
        What that says of other tilts, thicknesses and lenses.
    profiles : list of Profile
        Profile likelihoods of thickness, and of tilt and d of the largest variant.
    leans : Leans or None
    bending : Bending or None
        A gradient of tilt; counted in the correction where ``bending.found``.
    estimates : list of Estimate
    verdict : Verdict
    summary : Dataset
        Every number, see :func:`summarized`.
    """

    measurement: Measurement
    cells: xr.Dataset
    domains: xr.Dataset
    regions: list[Region]
    inversion: Inversion
    forward: Forward
    profiles: list[Profile]
    leans: Leans | None
    bending: Bending | None
    estimates: list[Estimate]
    verdict: Verdict
    summary: xr.Dataset


def explain(
    image: xr.DataArray | Measurement,
    library: Library,
    *,
    reference: str | tuple[float, float, float, float] = "auto",
    variants: int | None = None,
    network: dcnn.Model | None = None,
    samarium: float = 0.0,
    lattice_parameter: float | None = None,
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> Explanation:
    """Read mis-tilt from an image and correct its polarization for it.

    Parameters
    ----------
    image : DataArray (y, x) or Measurement
        ADF-STEM image of a perovskite film along [100]; or what ``analysis.measure`` made of it. With an attribute
        ``black_level``, what the detector gives without electrons, in the image's unit; else it is an unknown.
    library : Library
        Of the image's microscope and detector, built with a lens (``tiltsim library build --lens``).
    reference : {"auto", "none"} or (x0, y0, x1, y1)
        The region without polarization, as a box in Å, or found by its dimmer A columns.
    variants : int, optional
        Number of variants; by default decided by the image.
    network : dcnn.Model, optional
        A tilt-aware network, asked as one estimator more.
    samarium : float
        Fraction of A sites with Sm, in the film.
    lattice_parameter : float, optional
        Å; recalibrates the image, see ``analysis.measure``.
    device : {"auto", "cpu", "cuda"}
    progress : callable, optional
        Called with each of :data:`STAGES` as it begins.

    Returns
    -------
    Explanation

    Raises
    ------
    ImageError
        If the image cannot be measured.
    SettingsError
        If the library has no lens, or an argument makes no sense.
    """
    if library.lens is None:
        raise SettingsError(
            "library: holds no aberrations, without which coma is taken for tilt; build it with `tiltsim library build --lens`."
        )
    tell = progress or (lambda stage: None)
    tell(STAGES[0])
    if isinstance(image, Measurement):
        measurement = image
    else:
        measurement = analysis.measure(image, lattice_parameter=lattice_parameter, device=device)
    tell(STAGES[1])
    cells = measurement.unit_cells
    null = _reference(cells, reference)
    film = np.flatnonzero(~null)
    if len(film) < 8:
        raise ImageError("image: all of its cells are the reference; there is nothing to explain.")
    domains = analysis.find_domains(cells.isel(cell=film), variants)
    labels = np.full(cells.sizes["cell"], -1)
    labels[film] = domains["domain"].values
    count = domains.sizes["variant"]
    if null.any():
        labels[null] = count
    tell(STAGES[2])
    regions = gather(measurement, labels, reference=count if null.any() else None)
    if not any(r.name != "reference" for r in regions):
        raise ImageError("image: no variant has enough whole cells away from walls; give a larger image.")
    tell(STAGES[3])
    if not 0.0 <= samarium <= 1.0:
        raise SettingsError(f"samarium {samarium:g} must be a fraction from 0 to 1, e.g. 0.07.")
    priors = PRIORS if "black_level" in measurement.image.attrs else UNKNOWN_BLACK
    inversion = invert(regions, library, samarium=samarium, priors=priors)
    tell(STAGES[4])
    wanted = [(name, -1) for name in PROFILED_SHARED] + [(name, 0) for name in PROFILED_OWN]
    profiles = find_profiles(inversion.posterior, inversion.solution, inversion.covariance, wanted)
    tell(STAGES[5])
    pixel = float(abs(measurement.image.x[1] - measurement.image.x[0]))
    forward = Forward(inversion, pixel)
    estimates = [
        from_inversion(inversion),
        from_reference(inversion),
        from_symmetry(cells.isel(cell=film), domains, regions),
    ]
    if network is not None:
        estimates.append(from_network(network, measurement.image, cells, regions, device))
    tell(STAGES[6])
    leans = _leans(inversion)
    verdict = judge(inversion, estimates, profiles, leans)
    bending = find_bending(inversion)
    corrected = _corrected(cells, labels, null, forward, verdict, bending)
    summary = summarized(inversion, profiles, estimates, verdict, leans, bending, library)
    return Explanation(
        measurement,
        corrected,
        domains,
        regions,
        inversion,
        forward,
        profiles,
        leans,
        bending,
        estimates,
        verdict,
        summary,
    )


def _reference(cells: xr.Dataset, wanted: str | tuple[float, float, float, float]) -> NDArray[np.bool_]:
    if not isinstance(wanted, str):
        return in_box(cells, wanted)
    if wanted not in ("auto", "none"):
        raise SettingsError(f'reference "{wanted}" must be auto, none or a box x0,y0,x1,y1 in Å.')
    return find_reference(cells) if wanted == "auto" else np.zeros(cells.sizes["cell"], dtype=bool)


def _leans(inversion: Inversion) -> Leans | None:
    """All tilts turned to the lattice of the first region, where leans have signs."""
    back = inversion.regions[0].turn().T
    count = len(inversion.regions)
    turn = np.kron(np.eye(count), back)
    d = [
        None if region.name == "reference" else back @ one
        for region, one in zip(inversion.regions, inversion.d, strict=True)
    ]
    return part_leans(inversion.tilt @ back.T, turn @ inversion.tilt_cov @ turn.T, d)


def _corrected(
    cells: xr.Dataset,
    labels: NDArray[np.int_],
    null: NDArray[np.bool_],
    forward: Forward,
    verdict: Verdict,
    bending: Bending | None,
) -> xr.Dataset:
    """The table with domains, and with corrected d where that may be given."""
    result = cells.assign(
        domain=("cell", np.where(null, -1, labels).astype(np.int32), {"units": "1", "note": "-1: none"}),
        reference=("cell", null.astype(np.int8), {"units": "1", "long_name": "1 in the region without polarization"}),
    )  # fmt: skip
    if not verdict.identified:
        return result
    bias, covariance = np.full((len(labels), 2), np.nan), np.full((len(labels), 2, 2), np.nan)
    inversion = forward.inversion
    d = cells["d"].values
    xy = np.stack([cells["x"].values, cells["y"].values], -1)
    for number, region in enumerate(inversion.regions):
        rows = region.rows
        bias[rows] = inversion.bias[number]
        covariance[rows] = inversion.bias_cov[2 * number : 2 * number + 2, 2 * number : 2 * number + 2]
        if region.name == "reference":
            continue
        moved = np.zeros((len(rows), 2))
        if bending is not None and bending.found:
            slope = forward.slopes(number, ("tilt_x", "tilt_y"))[1] @ region.turn().T
            moved = bending.tilt(number, xy[rows]) @ slope.T
            covariance[rows] += slope @ bending.tilt_cov(number, xy[rows]) @ slope.T
        # A cell with another d than the domain's mean has another bias.
        stretch = forward.slopes(number, ("d_x", "d_y"))[1] @ np.linalg.inv(region.stretch())
        share = stretch @ np.linalg.inv(np.eye(2) + stretch)
        bias[rows] += moved + np.nan_to_num(d[rows] - region.apparent - moved) @ share.T
    wall = _walls(cells, np.where(null, -1, labels))
    # At a wall the beam sees both domains: which bias holds is open by as much as theirs differ.
    means = np.stack([inversion.bias[n] for n in range(forward.variants)])
    apart = means.max(axis=0) - means.min(axis=0)
    covariance[wall] += np.diag(apart**2) / 4.0
    pm = {"units": "pm", "convention": cells["d"].attrs.get("convention", "")}
    square = ("cell", "component", "component_2")
    return result.assign(
        d_corrected=(("cell", "component"), d - bias, pm | {"long_name": "d without what tilt and fit add to it"}),
        bias=(("cell", "component"), bias, pm | {"long_name": "apparent d less d"}),
        bias_cov=(square, covariance, {"units": "pm2", "long_name": "error of the bias, which a whole domain shares"}),
        wall=("cell", wall.astype(np.int8), {"units": "1", "long_name": "1 beside another domain, where the correction is uncertain"}),
    )  # fmt: skip


def _walls(cells: xr.Dataset, labels: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Cells with a neighbour of another domain."""
    index = np.stack([cells["a"].values, cells["b"].values], -1).astype(np.int64)
    index -= index.min(axis=0)
    grid = np.full(index.max(axis=0) + 1, -1)
    grid[tuple(index.T)] = labels
    low = minimum_filter(np.where(grid < 0, np.iinfo(grid.dtype).max, grid), 3)
    high = maximum_filter(grid, 3)
    return np.asarray((low < high)[tuple(index.T)] & (labels >= 0))


def summarized(
    inversion: Inversion,
    profiles: list[Profile],
    estimates: list[Estimate],
    verdict: Verdict,
    leans: Leans | None,
    bending: Bending | None,
    library: Library,
) -> xr.Dataset:
    """Every number of an explanation.

    Returns
    -------
    Dataset
        dims region, component, estimator, unknown: ``apparent``, ``d``, ``tilt`` and their errors of each region from the inversion;
        ``estimate_bias``, ``estimate_tilt`` (estimator, variant, component) with their covariances; ``shared``,
        ``shared_std`` of the unknowns that all regions share; ``posterior``, ``posterior_cov`` of all unknowns along the
        lattice's axes; ``profile_value`` and ``profile_rise`` (profiled, place) with ``profile_interval`` (profiled, end), see
        :class:`~tiltsim.explanation.profiles.Profile`; ``bias_cov``, ``tilt_cov`` of all regions together; attributes with the verdict.
    """
    regions = inversion.regions
    count = len(regions)
    pm, mrad, pm2 = {"units": "pm"}, {"units": "mrad"}, {"units": "pm2"}
    pair = ("region", "component")
    both = ("region", "component", "region_2", "component_2")
    values = [inversion.number(name) for name in SHARED]
    names = [n if r < 0 else f"{n} of {regions[r].name}" for n, r in inversion.model.layout.names]
    shape = (count, 2, count, 2)
    attrs: dict[str, object] = {
        "identified": int(verdict.identified), "objections": "; ".join(verdict.objections),
        "remarks": "; ".join(verdict.remarks), "advice": "; ".join(verdict.advice), "weakest": verdict.weakest,
        "reduced_chi2": inversion.misfit.reduced, "chi2_freedom": inversion.misfit.freedom, "rivals": len(inversion.rivals), "library": library.digest,
        "estimators": "; ".join(f"{e.name}: assumes that {e.assumes}{'; silent: ' + e.silent if e.silent else ''}" for e in estimates),
        "convention": "d = mean of surrounding A columns - B column; x right, y down; tilt: direction of the beam inside the crystal",
        "tiltsim_version": version("tiltsim"),
    }  # fmt: skip
    result = xr.Dataset(
        {
            "cells": ("region", [r.cells for r in regions], {"units": "1"}),
            "apparent": (pair, np.stack([r.apparent for r in regions]), pm),
            "apparent_cov": ((*pair, "component_2"), np.stack([r.apparent_cov for r in regions]), pm2),
            "d": (pair, inversion.d, pm),
            "bias": (pair, inversion.bias, pm | {"long_name": "apparent d less d"}),
            "bias_cov": (both, inversion.bias_cov.reshape(shape), pm2),
            "tilt": (pair, inversion.tilt, mrad | {"long_name": "direction of the beam inside this crystal"}),
            "tilt_cov": (both, inversion.tilt_cov.reshape(shape), {"units": "mrad2"}),
            "shared": ("shared_unknown", [v for v, _ in values]),
            "shared_std": ("shared_unknown", [e for _, e in values]),
            "posterior": ("unknown", inversion.solution.theta, {"note": "along the lattice's axes"}),
            "posterior_cov": (("unknown", "unknown_2"), inversion.covariance),
            "profile_value": (("profiled", "place"), np.stack([p.values for p in profiles])),
            "profile_rise": (
                ("profiled", "place"), np.stack([p.rise for p in profiles]),
                {"units": "1", "long_name": "-2 log posterior, scaled to the standard error, less its least"},
            ),
            "profile_interval": (
                ("profiled", "end"), np.array([p.interval for p in profiles]), {"long_name": "holds 90 %"},
            ),
            "estimate_bias": (("estimator", "variant", "component"), np.stack([e.bias for e in estimates]), pm),
            "estimate_bias_cov": (
                ("estimator", "variant", "component", "component_2"), np.stack([e.bias_cov for e in estimates]), pm2,
            ),
            "estimate_tilt": (("estimator", "variant", "component"), np.stack([e.tilt for e in estimates]), mrad),
            "estimate_tilt_cov": (
                ("estimator", "variant", "component", "component_2"), np.stack([e.tilt_cov for e in estimates]),
                {"units": "mrad2"},
            ),
        },
        coords={
            "region": [r.name for r in regions], "component": ["x", "y"], "unknown": names,
            "unknown_unit": ("unknown", [(SHARED | OWN)[n] for n, _ in inversion.model.layout.names]),
            "shared_unknown": list(SHARED), "shared_unit": ("shared_unknown", list(SHARED.values())),
            "estimator": [e.name for e in estimates],
            "profiled": [p.name if p.region < 0 else f"{p.name} of {regions[p.region].name}" for p in profiles],
            "profile_unit": ("profiled", [(SHARED | OWN)[p.name] for p in profiles]), "end": ["low", "high"],
        },
        attrs=attrs,
    )  # fmt: skip
    if bending is not None:
        per = {"units": "mrad per 100 Angstrom", "long_name": "change of tilt (component) along x and y"}
        result["bending"] = (("component", "component_2"), 100.0 * bending.gradient, per)
        errors = 100.0 * np.sqrt(np.diag(bending.gradient_cov)).reshape(2, 2)
        result["bending_std"] = (("component", "component_2"), errors, {"units": "mrad per 100 Angstrom"})
        result.attrs |= {"bending_found": int(bending.found), "bending_gain_chi2": bending.gain}
    if leans is not None:
        result["grain_tilt"] = ("component", regions[0].turn() @ leans.grain, mrad)
        result["grain_tilt_std"] = ("component", leans.grain_std, mrad)
        result["lean"] = (pair, leans.leans @ regions[0].turn().T, mrad)
        result["along_beam"] = (
            "region", list(leans.along), {"units": "1", "long_name": "sign of d along the beam, by its lean; 0: none"},
        )  # fmt: skip
        result.attrs |= {
            "lean_share": leans.share, "lean_share_std": leans.share_std, "lean_chi2": leans.chi2,
            "lean_freedom": leans.freedom, "lean_decided": int(leans.decided),
        }  # fmt: skip
    return result
