"""Images that others simulated, with what is true about them, labelled as synthetic fields are.

So that a model can be tested on abTEM's, Prismatic's or muSTEM's images too, whatever their signs and units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr

from analysis.calibration import is_calibrated, pixel_sizes
from tiltsim.errors import SettingsError
from tiltsim.synth.foreign import Picture, pictures
from tiltsim.synth.truth_tables import TILT, Columns, Floats, TableConventions, cells_of, read_truth, turned

#: Two statements of a tilt, mrad, or of a thickness, Å, that differ by less say the same.
_SAME = {"tilt": 0.01, "thickness": 0.5}


@dataclass(frozen=True, eq=False)
class Imported:
    """Somebody else's image with its truth.

    Parameters
    ----------
    image : DataArray (y, x)
        Coordinates in Å, y down; intensities as they were.
    truth : Dataset
        Dims (cell, component); see :func:`tiltsim.synth.truth_tables.cells_of`. ``tilt`` and ``thickness`` are left out where
        nobody stated them.
    """

    image: xr.DataArray
    truth: xr.Dataset


def import_images(
    source: Any,
    truth: Any,
    *,
    conventions: TableConventions | None = None,
    pixel_size: float | None = None,
    dataset: str | int | None = None,
    thickness: float | None = None,
    tilt_mrad: tuple[float, float] | None = None,
) -> list[Imported]:
    """Label images that were simulated elsewhere.

    Parameters
    ----------
    source : path, abtem Images, DataArray, HyperSpy signal or array
        - abTEM's ``Images``, one or a list (of several detectors), or the zarr file they were written to. Phonon configurations
          are averaged; every tilt, thickness or other parameter becomes a field of its own.
        - The h5 or emd file of Prismatic (1.2 or later).
        - Whatever ``analysis.load`` reads: mrc, tif, dm4, hspy, npy, …
        - An array, row 0 on top, or a DataArray (y, x). muSTEM writes bare numbers: read them with numpy.
    truth : path, Dataset, DataFrame or mapping
        Table of cells that belongs to all images of ``source``; see :func:`tiltsim.synth.truth_tables.read_truth`.
    conventions : TableConventions, optional
        Signs, axes and units of the table. Default: the toolkit's own.
    pixel_size : float, optional
        Å per px, instead of what ``source`` states.
    dataset : str or int, optional
        Which of several: number of the detector for abTEM, name for others.
    thickness : float, optional
        Of the whole image, Å, where neither ``source`` nor the table states it.
    tilt_mrad : (float, float), optional
        Likewise, in the table's axes and sign.

    Returns
    -------
    list of Imported
        One for every image, in the order of abTEM's axes; images of thickness 0, which show no specimen, are left out.
        ``image.attrs`` has what abTEM states of each.

    Raises
    ------
    SettingsError
        If there is no pixel size, a pixel is no number, two statements of tilt or thickness contradict each other, or the
        table cannot be used.
    ImageError
        If there is no usable image in ``source``.

    Notes
    -----
    Positions refer to the entrance surface: where columns lie, not where tilt makes them appear. abTEM's second axis, y, is taken to
    run down the image, as everywhere here; a table in the same coordinates needs no flip. abTEM states the beam's tilt to the
    box; where it is 0 and the crystal was turned in its box, the table or ``tilt_mrad`` says by how much.
    """
    conventions = conventions or TableConventions()
    given: dict[str, Floats] = {}
    if tilt_mrad is not None:
        given["tilt"] = turned(
            _given("tilt_mrad", tilt_mrad, (2,), "(x, y) in mrad", -200.0, 200.0), conventions
        )
    if thickness is not None:
        given["thickness"] = _given("thickness", thickness, (), "Å along the beam", 1.0, 5000.0)
    columns, name = read_truth(truth)
    found = [
        _labelled(one, columns, name, conventions, given) for one in pictures(source, pixel_size, dataset)
    ]
    if not found:
        raise SettingsError("image: none has a thickness above 0; add exit planes within the specimen.")
    return found


def import_image(image: Any, truth: Any, **options: Any) -> Imported:
    """Label the only image of a source; all else is that of :func:`import_images`.

    Raises
    ------
    SettingsError
        Also if ``image`` holds several, such as tilts or thicknesses of abTEM.
    """
    found = import_images(image, truth, **options)
    if len(found) > 1:
        raise SettingsError(
            f"image: holds {len(found)}; pick one, such as images[0], or take them all with import_images."
        )
    return found[0]


def _given(name: str, value: Any, shape: tuple[int, ...], meaning: str, low: float, high: float) -> Floats:
    number = np.asarray(value, dtype=float)
    if number.shape != shape or not ((number >= low) & (number <= high)).all():
        raise SettingsError(f"{name} {value} is none; give {meaning}, from {low:g} to {high:g}.")
    return number


def _labelled(
    picture: Picture, columns: Columns, name: str, conventions: TableConventions, given: Mapping[str, Floats]
) -> Imported:
    image = picture.image
    called = image.attrs.get("source", "image")
    if not is_calibrated(image):
        raise SettingsError(f"pixel_size: {called} does not state it; give Å per px.")
    across, down = pixel_sizes(image)
    if abs(across / down - 1.0) > 1e-3:
        raise SettingsError(
            f"{called}: is sampled at {across:.4g} × {down:.4g} Å; interpolate it to square pixels first."
        )
    bad = int((~np.isfinite(image.values)).sum())
    if bad:
        raise SettingsError(
            f"{called}: {bad} of {image.size} pixels are no finite numbers; simulate them again or cut them off."
        )
    cells = cells_of(columns, name, conventions, image)
    for quantity, stated, attrs in (
        ("tilt", picture.tilt, TILT),
        ("thickness", picture.thickness, {"units": "Å"}),
    ):
        said = {name: cells[quantity].values} if quantity in cells else {}
        if quantity in given:
            said["tilt_mrad" if quantity == "tilt" else quantity] = given[quantity]
        if stated is not None and not (said and quantity == "tilt" and picture.on_axis):
            said[called] = np.asarray(stated, dtype=float)
        _refuse_contradictions(quantity, said)
        if said and quantity not in cells:
            value = next(iter(said.values()))
            values = np.broadcast_to(value, (cells.sizes["cell"], *value.shape)).copy()
            cells[quantity] = ("cell", "component")[: values.ndim], values, dict(attrs)
    return Imported(image, cells.assign_attrs(source=called))


def _refuse_contradictions(quantity: str, said: Mapping[str, Floats]) -> None:
    for (one, value), (other, also) in combinations(said.items(), 2):
        away = float(np.abs(value - also).max())
        if away > _SAME[quantity]:
            unit = "mrad" if quantity == "tilt" else "Å"
            raise SettingsError(
                f"{quantity}: {one} and {other} differ by up to {away:.4g} {unit}; leave it out of one, or import images apart."
            )
