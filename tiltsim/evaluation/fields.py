"""Held-out fields: what an estimator gets to see, and the truth it is held against."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import xarray as xr

import analysis
from tiltsim.evaluation.suites import Condition
from tiltsim.library import Library
from tiltsim.seeds import EVALUATION
from tiltsim.synth.labelling import true_cells
from tiltsim.synth.synthesis import synthesize

#: Of what a synthetic image says about itself, all that an experimental one says too: the rest would give the truth away.
_KNOWN = ("units", "pixel_size_angstrom", "calibrated", "source")


@dataclass(frozen=True, eq=False)
class Sight:
    """What every estimator sees of a field.

    Parameters
    ----------
    image : DataArray (y, x)
        Coordinates in Å.
    cells : Dataset
        Unit cells that column fitting found, see :func:`analysis.measure`: dim cell, ``x`` and ``y`` of the B columns, Å.
    """

    image: xr.DataArray
    cells: xr.Dataset


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A field of a condition.

    Parameters
    ----------
    number : int
        Of the field.
    sight : Sight or None
        None if no lattice was found in the image.
    truth : Dataset
        Dim cell, see :func:`tiltsim.synth.labelling.true_cells`.
    drawn : dict of str to float
        ``azimuth`` (of the condition's frame, degrees from +x towards +y), ``tilt`` (mrad), ``thickness`` (Å), ``dose`` (e/Å²).
    """

    number: int
    sight: Sight | None
    truth: xr.Dataset
    drawn: dict[str, float]


def make(condition: Condition, library: Library, seed: int, number: int) -> HeldOut:
    """Field ``number`` of a condition; ``seed`` counts from :data:`~tiltsim.seeds.EVALUATION`."""
    field = synthesize(condition.recipe, library, EVALUATION + seed, number)
    image = field.image.copy()
    image.attrs = {name: value for name, value in image.attrs.items() if name in _KNOWN}
    try:
        # Columns are fitted once; everybody starts from the same places.
        cells = analysis.measure(image).unit_cells
        placed = np.isfinite(cells.x.values) & np.isfinite(cells.y.values)
        sight = Sight(image, cells.isel(cell=np.flatnonzero(placed))) if placed.any() else None
    except analysis.ImageError:
        sight = None
    specimen, faults = field.recipe.specimens[0], field.recipe.faults
    azimuth = specimen.azimuth if condition.frame == "tilt" else faults.probe.phi21
    drawn = {
        "azimuth": azimuth,
        "tilt": specimen.tilt,
        "thickness": specimen.thickness,
        "dose": faults.detection.dose_per_A2,
    }
    return HeldOut(
        number, sight, true_cells(field.truth), {k: float(np.asarray(v)) for k, v in drawn.items()}
    )


def make_all(condition: Condition, library: Library, seed: int, workers: int) -> Iterator[HeldOut]:
    """All fields of a condition in their order, ``workers`` at a time; they are the same whatever the number."""
    with ThreadPoolExecutor(workers, thread_name_prefix="tiltsim") as pool:
        made = [pool.submit(make, condition, library, seed, k) for k in range(condition.fields)]
        try:
            for one in made:
                yield one.result()
        finally:
            for one in made:
                one.cancel()
