"""The bound over thickness, dose and number of cells: a table and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from tiltsim.bounds.fisher import NUISANCE, UNITS, fisher_information, inverse, model_slopes
from tiltsim.bounds.response import library_response
from tiltsim.library import Library
from tiltsim.library.periods import SPECIMEN

#: Tilts (modulus, mrad, and direction, degrees) over which a table is averaged, in the mean of variances; d of bulk R3c.
_MODULI, _DIRECTIONS, _D = (0.0, 4.0, 8.0), (20.0, 110.0, 250.0), (-23.6, -23.6)

#: Colours and marks of numbers of cells, thin to thick (Okabe and Ito).
_COLOURS = ("#D55E00", "#009E73", "#0072B2", "#CC79A7")


def bound_table(
    library: Library,
    *,
    thicknesses: Sequence[float] | None = None,
    doses: Sequence[float] = (1e4, 4e4, 1e5),
    cells: Sequence[float] = (1, 20, 400),
    d: tuple[float, float] = _D,
    source_fwhm: float = 0.8,
    nuisance: Sequence[str] = tuple(NUISANCE),
    prior: Mapping[str, float] | None = None,
) -> xr.Dataset:
    """Bounds over thickness, dose and number of cells.

    Parameters
    ----------
    library : Library
    thicknesses : sequence of float, optional
        Å; default twelve over what the library holds.
    doses : sequence of float
        Electrons per Å².
    cells : sequence of float
    d : (float, float)
        pm.
    source_fwhm : float
        Å.
    nuisance : sequence of str
        As :func:`tiltsim.bounds.fisher.tilt_bound`'s.
    prior : mapping of str to float, optional
        Standard deviations, for ``std_prior``; default 4 mrad for the tilt.

    Returns
    -------
    Dataset
        dims (thickness, direction, dose, cells, parameter): ``std``, the bound of an unbiased estimate, and ``std_prior``,
        with the prior; ``direction`` numbers the tilts of 0 to 8 mrad that were looked at, with ``tilt_x`` and ``tilt_y``.
    """
    low, high = library.thickness_range
    if thicknesses is None:
        thicknesses = np.linspace(max(low, 30.0), high, 12).tolist()
    tilts = [(0.0, 0.0)] + [
        (m * np.cos(np.radians(a)), m * np.sin(np.radians(a))) for m in _MODULI[1:] for a in _DIRECTIONS
    ]
    priors = dict(prior) if prior is not None else {"tilt_x": 4.0, "tilt_y": 4.0}
    parameters = [*SPECIMEN, *nuisance]
    added = np.diag([1.0 / priors[p] ** 2 if p in priors else 0.0 for p in parameters])
    shape = (len(thicknesses), len(tilts), len(doses), len(cells), len(parameters))
    std, with_prior = np.empty(shape), np.empty(shape)
    for i, thickness in enumerate(thicknesses):
        for j, tilt in enumerate(tilts):
            response = library_response(library, tilt=tilt, thickness=float(thickness), d=d)
            image, slopes = model_slopes(response, parameters, source_fwhm=source_fwhm)
            area = response.edge**2 / image.size
            one = fisher_information(image, [slopes[p] for p in parameters], area)
            for k, dose in enumerate(doses):
                for m, number in enumerate(cells):
                    for result, prior_information in ((std, 0.0), (with_prior, added)):
                        covariance = inverse(one * dose * number + prior_information)
                        result[i, j, k, m] = np.sqrt(np.diag(covariance))
    dims = ("thickness", "direction", "dose", "cells", "parameter")
    return xr.Dataset(
        {
            "std": (dims, std, {"long_name": "least standard deviation without bias"}),
            "std_prior": (dims, with_prior, {"long_name": "least standard deviation with a prior"}),
        },
        coords={
            "thickness": ("thickness", np.asarray(thicknesses, dtype=float), {"units": "Å"}),
            "tilt_x": ("direction", [t[0] for t in tilts], {"units": "mrad"}),
            "tilt_y": ("direction", [t[1] for t in tilts], {"units": "mrad"}),
            "dose": ("dose", np.asarray(doses, dtype=float), {"units": "e/Å²"}),
            "cells": ("cells", np.asarray(cells, dtype=float), {"units": "1"}),
            "parameter": parameters,
            "unit": ("parameter", [UNITS[p] for p in parameters]),
        },
        attrs={
            "d_pm": list(d),
            "source_fwhm_angstrom": source_fwhm,
            "prior": "; ".join(f"{n} {w:g}" for n, w in priors.items()),
            "library": library.digest,
        },
    )


def component_rms(values: xr.DataArray, name: str) -> xr.DataArray:
    """Root mean square over the x and y of parameter ``name`` ("tilt" or "d") and over directions of tilt."""
    both = values.sel(parameter=[f"{name}_x", f"{name}_y"]) ** 2
    return both.mean([d for d in ("parameter", "direction") if d in both.dims]) ** 0.5


def plot_bound(table: xr.Dataset) -> Figure:
    """Draw the bounds of tilt and d.

    Parameters
    ----------
    table : Dataset
        From :func:`bound_table`.

    Returns
    -------
    Figure
        (a) Tilt against the number of cells, one line a dose, in the middle of the thicknesses; dashed with the prior. (b)
        Tilt and (c) d against thickness at the middle dose, one line a number of cells, the band from the best to the
        worst direction of tilt.
    """
    figure = Figure(figsize=(7.1, 2.6), layout=ConstrainedLayoutEngine(wspace=0.06))
    axes = figure.subplots(1, 3)
    middle = table.isel(thickness=table.sizes["thickness"] // 2)
    for shade, dose in zip(np.linspace(0.65, 0.0, table.sizes["dose"]), table.dose.values, strict=True):
        one = middle.sel(dose=dose)
        axes[0].plot(
            one.cells, component_rms(one["std"], "tilt"), color=str(shade), lw=1.2, label=in_powers(dose)
        )
        axes[0].plot(one.cells, component_rms(one["std_prior"], "tilt"), color=str(shade), lw=1.0, ls="--")
    axes[0].plot([], [], color="0.3", lw=1.0, ls="--", label="with prior")
    axes[0].set_xscale("log")
    axes[0].set_xticks(table.cells.values)
    axes[0].xaxis.set_minor_locator(NullLocator())
    axes[0].set_xlabel("averaged cells", fontsize=8)
    axes[0].legend(title="dose (e/Å²)", fontsize=6.5, title_fontsize=6.5, frameon=False)
    at_dose = table.isel(dose=table.sizes["dose"] // 2)
    for ax, name in ((axes[1], "tilt"), (axes[2], "d")):
        for number, colour in zip(table.cells.values, _COLOURS, strict=False):
            own = at_dose["std"].sel(cells=number)
            both = (own.sel(parameter=[f"{name}_x", f"{name}_y"]) ** 2).mean("parameter") ** 0.5
            nm = own.thickness / 10
            ax.fill_between(nm, both.min("direction"), both.max("direction"), color=colour, alpha=0.2, lw=0)
            label = f"{number:g} cell{'s' if number > 1 else ''}"
            ax.plot(nm, component_rms(own, name), "o-", ms=2.5, lw=1.2, color=colour, label=label)
        ax.set_xlabel("thickness (nm)", fontsize=8)
    axes[1].legend(
        fontsize=6.5, frameon=False, ncols=3, columnspacing=0.8, handlelength=1.2, loc="upper center"
    )
    at_b = table.thickness.values[table.sizes["thickness"] // 2] / 10
    labels = (
        f"least error of a tilt component\nat {at_b:.3g} nm (mrad)",
        f"least error of a tilt component\nat {in_powers(float(at_dose.dose))} e/Å² (mrad)",
        f"least error of a $d$ component\nat {in_powers(float(at_dose.dose))} e/Å² (pm)",
    )
    for letter, ax, label in zip("abc", axes, labels, strict=True):
        _tidy(ax, letter, label)
    axes[1].set_ylim(top=axes[1].get_ylim()[1] * 2.5)
    return figure


def _tidy(ax: Axes, letter: str, label: str) -> None:
    ax.set_yscale("log")
    for axis in (ax.yaxis, ax.xaxis) if ax.get_xscale() == "log" else (ax.yaxis,):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    ax.set_ylabel(label, fontsize=8)
    ax.set_title(f"({letter})", loc="left", fontsize=8, pad=3)
    ax.tick_params(labelsize=7, direction="in", top=True, right=True, which="both")
    ax.grid(alpha=0.25, linewidth=0.4)


def in_powers(dose: float) -> str:
    """A dose as the field writes it, 4·10⁴."""
    exponent = int(np.floor(np.log10(dose) + 1e-9))
    mantissa = dose / 10.0**exponent
    power = f"10$^{{{exponent}}}$"
    return power if abs(mantissa - 1) < 1e-6 else f"{mantissa:.2g}·{power}"
