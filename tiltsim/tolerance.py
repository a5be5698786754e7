"""How well a specimen must be tilted, and which detector forgives most: the design of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

import analysis
from analysis.drawing import SMALL, TEXT
from structures import Specimen
from tiltsim.dataset import pair_images
from tiltsim.errors import SettingsError
from tiltsim.settings import Detector, FrozenPhonons, Microscope, TiltSeries
from tiltsim.simulate import simulate

Floats = NDArray[np.float64]

#: Least change, in standard errors, that counts as one.
_CLEAR = 2.0


def tilt_tolerance(
    specimens: Sequence[Specimen],
    detectors: Sequence[Detector],
    *,
    energies: Sequence[float] = (200.0,),
    semiangle: float = 30.0,
    thicknesses: Sequence[float] = (50.0, 100.0, 200.0, 400.0),
    target_pm: float = 2.0,
    largest_tilt: float = 10.0,
    tilts: int = 9,
    pairs: int = 2,
    seed: int = 0,
    checkpoints: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Largest tilt along x and along y at which tilt changes the apparent d by no more than a target.

    Parameters
    ----------
    specimens : sequence of Specimen
    detectors : sequence of Detector
        All are read from the same scattering matrix: they cost next to nothing.
    energies : sequence of float
        keV.
    semiangle : float
        Convergence, mrad.
    thicknesses : sequence of float
        Å.
    target_pm : float
        Of the length of the change, against the same crystal on the zone axis.
    largest_tilt : float
        mrad; where the target is not reached by then, the result is this, and ``reached`` False.
    tilts : int
        Along each axis, odd.
    pairs, seed : int
        Phonon pairs, and where they begin.
    checkpoints : Path, optional
        Folder for finished units.
    device : {"auto", "cpu", "cuda"}
    progress : callable, optional
        Called as ``progress(done, expected)``.

    Returns
    -------
    Dataset
        dims (energy, detector, phase, thickness): ``tolerance`` (mrad) and ``tolerance_sem``, ``reached``; ``slope``, pm per mrad, largest in any direction, of a
        straight line through all tilts, and ``slope_sem``; ``change`` (…, axis, tilt) and ``change_sem``: length of the change of d, pm.

    Raises
    ------
    SettingsError
        If an argument makes no sense.
    """
    if not (np.isfinite(target_pm) and target_pm > 0):
        raise SettingsError(f"target {target_pm:g} pm must be positive, e.g. 2.")
    if not detectors or len({d.label for d in detectors}) < len(detectors):
        raise SettingsError("detectors: give at least one, each once.")
    series = TiltSeries.cross(largest_tilt, tilts)
    named = [replace(d, name=d.name or d.label) for d in detectors]
    results = []
    for number, energy in enumerate(energies):

        def counted(done: int, expected: int, number: int = number) -> None:
            if progress is not None:
                progress(number * expected + done, len(energies) * expected)

        images = simulate(
            list(specimens), Microscope(energy, semiangle), series, thicknesses=thicknesses, detector=named,
            phonons=FrozenPhonons(pairs=pairs, seed=seed), keep_configs=True, device=device, checkpoints=checkpoints,
            progress=counted,
        )  # fmt: skip
        resolved = pair_images(images)
        truth = {s.name: s.truth for s in specimens}
        rings = [
            resolved.isel(detector=n, drop=True) if "detector" in resolved.dims else resolved
            for n in range(len(named))
        ]
        found = [_of_response(analysis.tilt_response(ring, truth), target_pm) for ring in rings]
        results.append(
            xr.concat(found, xr.DataArray([d.label for d in detectors], dims="detector", name="detector"))
        )
    energy_axis = xr.DataArray(list(energies), dims="energy", name="energy", attrs={"units": "keV"})
    return xr.concat(results, energy_axis).assign_attrs(
        target_pm=target_pm, semiangle_mrad=semiangle, pairs=pairs, seed=seed,
        convention="d = mean of surrounding A columns - B column; tilt: direction of the beam inside the crystal",
    )  # fmt: skip


def _of_response(response: xr.Dataset, target: float) -> xr.Dataset:
    """Tolerances of one detector at one energy."""
    along = {
        "x": response.sel(tilt_y=0.0, drop=True),
        "y": response.sel(tilt_x=0.0, drop=True).rename(tilt_y="tilt_x"),
    }
    values = np.stack(
        [a.d_bias.transpose("phase", "thickness", "tilt_x", "component").values for a in along.values()], 2
    )
    tilt = along["x"].tilt_x.values
    middle = len(tilt) // 2
    moved = values - values[:, :, :, middle : middle + 1]
    change = np.hypot(moved[..., 0], moved[..., 1])
    # All tilts share their phonons: the error of a change is that of the slope times the tilt.
    slopes = response.d_bias_per_mrad.transpose("phase", "thickness", "component", "tilt_axis").values
    slope_sem = response.d_bias_per_mrad_sem.transpose("phase", "thickness", "tilt_axis", "component").values
    sem = np.hypot(slope_sem[..., 0], slope_sem[..., 1])[..., None] * np.abs(tilt)
    shape = values.shape[:2]
    tolerance, reached = np.full(shape, float(tilt[-1])), np.zeros(shape, dtype=bool)
    for place in np.ndindex(*shape):
        ends = []
        for axis in (0, 1):
            for curve in (change[place][axis][middle:], change[place][axis][middle::-1]):
                ends.append(_crossing(tilt[middle:], curve, target))
        best = min(ends)
        reached[place] = bool(np.isfinite(best))
        tolerance[place] = min(best, float(tilt[-1]))
    slope = np.linalg.svd(slopes, compute_uv=False)[..., 0]
    worst_sem = np.hypot(slope_sem[..., 0], slope_sem[..., 1]).max(axis=2)
    dims = ("phase", "thickness")
    return xr.Dataset(
        {
            "tolerance": (dims, tolerance, {"units": "mrad", "long_name": "largest tilt along x and y within the target"}),
            "reached": (dims, reached, {"long_name": "whether the target is exceeded at any tilt that was simulated"}),
            "slope": (dims, slope, {"units": "pm per mrad", "long_name": "largest in any direction, of a straight line through all tilts"}),
            "tolerance_sem": (
                dims, np.where(reached, worst_sem * tolerance**2 / target, np.nan),
                {"units": "mrad", "long_name": "standard error, as if the change grew evenly up to there"},
            ),
            "slope_sem": (dims, worst_sem, {"units": "pm per mrad"}),
            "change": ((*dims, "axis", "tilt"), change, {"units": "pm"}),
            "change_sem": ((*dims, "axis", "tilt"), sem, {"units": "pm"}),
        },
        coords={
            "phase": response.phase.values, "thickness": ("thickness", response.thickness.values, {"units": "Å"}),
            "axis": ["x", "y"], "tilt": ("tilt", tilt, {"units": "mrad"}),
        },
    )  # fmt: skip


def _crossing(tilt: Floats, change: Floats, target: float) -> float:
    """Where a curve that begins at 0 first exceeds the target, by straight lines between points; inf if never."""
    above = np.flatnonzero(change > target)
    if not len(above):
        return float("inf")
    n = int(above[0])
    low, high = change[n - 1], change[n]
    return float(tilt[n - 1] + (target - low) / (high - low) * (tilt[n] - tilt[n - 1]))


def best_detectors(found: xr.Dataset) -> list[str]:
    """A sentence for each energy, phase and thickness: the detectors with the least slope, as far as errors tell them apart."""
    said = []
    for energy in found.energy.values:
        for phase in found.phase.values:
            for thickness in found.thickness.values:
                one = found.sel(energy=energy, phase=phase, thickness=thickness)
                one = one.isel(detector=np.argsort(one.slope.values))
                names, slope, sem = one.detector.values, one.slope.values, one.slope_sem.values
                alike = slope - slope[0] <= _CLEAR * np.hypot(sem, sem[0])
                text = f"{phase}, {energy:g} kV, {thickness / 10:g} nm: "
                if alike.all():
                    said.append(text + "no detector is clearly less sensitive than another")
                    continue
                best = " and ".join(str(n) for n in names[alike])
                said.append(
                    text
                    + f"{best} {'is' if alike.sum() == 1 else 'are'} least sensitive, {slope[0]:.2f} ± {sem[0]:.2f} pm per mrad "
                    f"(most: {names[-1]}, {slope[-1]:.2f} ± {sem[-1]:.2f})"
                )
    return said


def plot_tolerance(found: xr.Dataset) -> Figure:
    """Tolerance by detector and thickness, one panel an energy and phase, and the change of d against tilt."""
    rows, columns = found.sizes["energy"], found.sizes["phase"]
    figure = Figure(
        figsize=(4.6 * columns + 0.8, 0.55 * found.sizes["detector"] * rows + 3.4 * rows),
        layout="constrained",
    )
    axes = figure.subplots(
        2 * rows, columns, squeeze=False, height_ratios=[max(0.28 * found.sizes["detector"], 0.5), 1.0] * rows
    )
    top = float(found.tilt.max())
    for i, energy in enumerate(found.energy.values):
        for j, phase in enumerate(found.phase.values):
            one = found.sel(energy=energy, phase=phase)
            ax = axes[2 * i, j]
            values = one.tolerance.transpose("detector", "thickness").values
            ax.imshow(values, cmap="RdYlGn", vmin=0, vmax=top, aspect="auto")
            for a in range(values.shape[0]):
                for b in range(values.shape[1]):
                    sure = bool(one.reached.transpose("detector", "thickness").values[a, b])
                    ax.text(
                        b,
                        a,
                        f"{'' if sure else '> '}{values[a, b]:.1f}",
                        ha="center",
                        va="center",
                        fontsize=TEXT,
                    )
            ax.set_xticks(
                range(values.shape[1]), [f"{t / 10:g}" for t in found.thickness.values], fontsize=SMALL
            )
            ax.set_yticks(range(values.shape[0]), [str(d) for d in found.detector.values], fontsize=SMALL)
            ax.set_xlabel("thickness (nm)", fontsize=SMALL)
            ax.set_title(
                f"{phase}, {energy:g} kV: mrad of tilt for {found.attrs['target_pm']:g} pm", fontsize=TEXT + 1
            )
            below = axes[2 * i + 1, j]
            for n, thickness in enumerate(found.thickness.values):
                for axis, style in (("x", "-"), ("y", "--")):
                    curve = one.isel(detector=0).sel(thickness=thickness, axis=axis)
                    below.errorbar(
                        found.tilt, curve.change, curve.change_sem, fmt=style, color=f"C{n}", linewidth=1.2, capsize=2,
                        label=f"{thickness / 10:g} nm" if axis == "x" else None,
                    )  # fmt: skip
            below.axhline(float(found.attrs["target_pm"]), color="0.4", linewidth=0.8, linestyle=":")
            below.set_xlabel("tilt along x (solid) or y (dashed), mrad", fontsize=SMALL)
            below.set_ylabel("change of apparent d (pm)", fontsize=SMALL)
            below.set_title(f"detector {found.detector.values[0]}", fontsize=SMALL)
            below.tick_params(labelsize=SMALL)
            below.legend(fontsize=SMALL)
    return figure
