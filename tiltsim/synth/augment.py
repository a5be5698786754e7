"""Faults for images that have labels already: real micrographs, or somebody else's simulations."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import map_coordinates

from analysis.calibration import is_calibrated, pixel_sizes
from tiltsim.errors import SettingsError
from tiltsim.settings import Microscope
from tiltsim.synth.covering import cover
from tiltsim.synth.detection import detect
from tiltsim.synth.faults import Faults
from tiltsim.synth.limits import number
from tiltsim.synth.path import ScanPath
from tiltsim.synth.probe import ProbeFaults, transfer
from tiltsim.synth.ranges import settle, stream
from tiltsim.synth.scanning import draw_path

Floats = NDArray[np.float64]

#: Å by which an image is mirrored beyond its border before it is filtered: wider than any probe.
_MIRRORED = 12.0

#: Of the table of an added aberration's transfer, along each axis.
_NODES = 81

#: Of fitted cells, what no longer holds once the image is distorted and covered.
_SPOILED = (
    "magnitude", "magnitude_sem", "at_noise_floor", "area", "angle", "strain", "strain_sem", "rotation",
    "intensity_a", "intensity_a_sem", "intensity_b", "intensity_b_sem", "intensity_ratio", "intensity_ratio_sem",
)  # fmt: skip


def augment(
    image: xr.DataArray,
    cells: xr.Dataset | None,
    faults: Faults,
    seed: int,
    field: int = 0,
    *,
    microscope: Microscope | None = None,
    thickness: float = 100.0,
    dose_per_A2: float = float("inf"),
    fraction_per_unit: float = 1.0,
    black_level: float = 0.0,
) -> tuple[xr.DataArray, xr.Dataset | None]:
    """Add faults, and faults only, to an image with labels.

    Parameters
    ----------
    image : DataArray (y, x)
        Coordinates in Å, square pixels; NaN where there is no data.
    cells : Dataset, optional
        Dims (cell, component): ``x``, ``y`` of the B columns, Å, and ``d``, pm, as ``analysis.measure(image).unit_cells``;
        ``centre``, ``vector_a``, ``vector_b`` (Å) and ``d_cov`` (pm²) are taken along where they are there.
    faults : Faults
        Ranges are drawn from with ``seed`` and ``field``.
    seed, field : int
        Of all that is drawn; each field of a seed is another draw.
    microscope : Microscope, optional
        That the image was taken with; its source and aberrations are in the image already. Default: 0.8 Å of source, no
        aberrations, 200 kV, 30 mrad.
    thickness : float
        Of the specimen, Å; for added aberrations, which it hardly matters to beyond 60 Å.
    dose_per_A2 : float
        That the image was taken with. The electrons of an experimental image are seldom known, and cannot be thinned one by one:
        the Poisson noise that is missing at the lower dose is added (see ``detection.detect``). ``inf``: no noise of its own.
    fraction_per_unit, black_level : float
        ``(image − black_level) × fraction_per_unit`` is the fraction of the incident beam, which covering and dose
        refer to. By default the image is that fraction.

    Returns
    -------
    image : DataArray (y, x)
        On the same coordinates, with its attributes and ``augmented``, all that was done as JSON; NaN where the scan left the image.
        Fraction of the beam, or counts where there is a dose or there are digits.
    cells : Dataset or None
        Where the new image shows them; cells that it does not show are left out, and so are variables that no longer hold
        (strain, areas, intensities, magnitudes).

    Raises
    ------
    SettingsError
        If the image's pixels are not square Å, its source is wider than the one asked for, or its dose lower.

    Notes
    -----
    Positions follow the whole scan path, jitter and all. d, d_cov and cell vectors follow its steady part only (the Jacobian of scale,
    shear, rotation and linear drift), as an error-free measurement of many cells would see them: what jitter adds to the d of one
    cell is noise, not a label.

    The image's own noise is blurred, distorted and covered with it. A wider source therefore weakens it, and resampling smooths it a little.
    """
    step = pixel_sizes(image)
    if not is_calibrated(image):
        raise SettingsError("image: coordinates must be in Å; give its pixel size with analysis.load.")
    if abs(step[0] - step[1]) > 1e-3 * step[0]:
        raise SettingsError(
            f"image: pixels of {step[0]:.4g} × {step[1]:.4g} Å are not square; resample the image."
        )
    pixel = float(np.mean(step))
    microscope = microscope or Microscope()
    chosen = settle(faults, stream(seed, field, "settings"))
    values = (image.values.astype(np.float32) - np.float32(black_level)) * np.float32(fraction_per_unit)
    values = _filtered(values, chosen.probe, microscope, pixel, thickness)
    shape = (values.shape[0], values.shape[1])
    path = draw_path(chosen.scan, shape, pixel, stream(seed, field, "scan"))
    values = _rescanned(values, path)
    values = cover(values, chosen.cover, pixel, stream(seed, field, "cover"))
    counts, record = detect(
        values, chosen.detection, pixel, stream(seed, field, "detection"), own_dose=dose_per_A2
    )
    done: dict[str, Any] = {
        "faults": asdict(chosen), "seed": seed, "field": field, "microscope": asdict(microscope),
        "dose_per_A2": dose_per_A2, "thickness": thickness, "fraction_per_unit": fraction_per_unit, "black_level": black_level, "detected": record,
    }  # fmt: skip
    counted = bool(chosen.detection.bits) or np.isfinite(record["dose_per_A2"])
    result = image.copy(data=counts)
    result.attrs = image.attrs | {"augmented": json.dumps(done), "units": "counts" if counted else "1"}
    if cells is None:
        return result, None
    return result, _moved(cells, path, image, np.isfinite(values))


def _filtered(
    values: NDArray[np.float32], probe: ProbeFaults, microscope: Microscope, pixel: float, thickness: float
) -> NDArray[np.float32]:
    """The image through the source and aberrations that are added to the microscope's own."""
    wide, own = number(probe, "probe", "source_fwhm"), microscope.source_fwhm
    if wide < own - 1e-9:
        raise SettingsError(
            f"probe.source_fwhm {wide:g} Å is below the {own:g} Å of the image's microscope, and a blur cannot be taken off; "
            "raise it, or give the microscope the image was taken with."
        )
    added = replace(probe, source_fwhm=float(np.sqrt(max(wide**2 - own**2, 0.0))))
    if added.source_fwhm == 0.0 and not added.aberrations:
        return values
    known = np.isfinite(values)
    rim = min(int(np.ceil(_MIRRORED / pixel)), min(values.shape) - 1)
    padded = np.pad(
        np.where(known, values, values[known].mean(dtype=float)).astype(np.float32), rim, mode="reflect"
    )
    kx, ky = np.meshgrid(fft.rfftfreq(padded.shape[1], pixel), fft.fftfreq(padded.shape[0], pixel))
    factor = _tabulated(added, microscope, kx, ky, thickness)
    result = fft.irfft2(fft.rfft2(padded) * factor, s=padded.shape)
    inner = result[rim : rim + values.shape[0], rim : rim + values.shape[1]].astype(np.float32)
    return np.where(known, inner, np.float32(np.nan))


def _tabulated(
    added: ProbeFaults, microscope: Microscope, kx: Floats, ky: Floats, thickness: float
) -> NDArray[np.complex64]:
    """:func:`transfer` on many frequencies: the source's part directly, that of aberrations between nodes of a table."""
    sharp = replace(added, source_fwhm=0.0)
    blur = transfer(ProbeFaults(source_fwhm=added.source_fwhm), microscope, kx, ky)
    if not sharp.aberrations:
        return blur.astype(np.complex64)
    reach = microscope.image_cutoff * 1.02
    nodes = np.linspace(-reach, reach, _NODES)
    table = transfer(sharp, microscope, *np.meshgrid(nodes, nodes), thickness)
    at = np.stack([ky, kx]) * ((_NODES - 1) / 2 / reach) + (_NODES - 1) / 2
    real, imaginary = (map_coordinates(part, at, order=3, cval=0.0) for part in (table.real, table.imag))
    return (blur * (real + 1j * imaginary)).astype(np.complex64)


def _rescanned(values: NDArray[np.float32], path: ScanPath) -> NDArray[np.float32]:
    """The image where the beam stands, by cubic splines; NaN beyond what it shows."""
    x, y = path.positions()
    at = np.stack([y, x]) / path.pixel
    nominal = np.stack(np.meshgrid(*(np.arange(n) for n in path.shape), indexing="ij"))
    if np.abs(at - nominal).max() < 1e-9:
        return values
    # Rounding must not lose the border.
    edge = np.array(path.shape)[:, None, None] - 1
    at = np.where((at > -1e-6) & (at < edge + 1e-6), np.clip(at, 0, edge), at)
    known = np.isfinite(values)
    if known.all():
        return map_coordinates(values, at, order=3, mode="constant", cval=np.nan)
    filled = np.where(known, values, values[known].mean(dtype=float)).astype(np.float32)
    result = map_coordinates(filled, at, order=3, mode="constant", cval=np.nan)
    whole = map_coordinates(known.astype(np.float32), at, order=1, mode="constant", cval=0.0) > 0.999
    return np.where(whole, result, np.float32(np.nan))


def _moved(cells: xr.Dataset, path: ScanPath, image: xr.DataArray, shown: NDArray[np.bool_]) -> xr.Dataset:
    """Cells where ``path`` shows them, without those on pixels that are not ``shown``."""
    corner = np.array([float(image["x"][0]), float(image["y"][0])])
    place = path.shown_at(np.stack([cells["x"].values, cells["y"].values], axis=-1) - corner)
    # From the specimen to the image, without jitter.
    steady = path.pixel * np.linalg.inv(path.matrix)
    changed: dict[str, Any] = {
        "x": cells["x"].copy(data=place[:, 0] + corner[0]),
        "y": cells["y"].copy(data=place[:, 1] + corner[1]),
        "d": cells["d"].copy(data=cells["d"].values @ steady.T),
    }
    if "d_cov" in cells:
        changed["d_cov"] = cells["d_cov"].copy(data=steady @ cells["d_cov"].values @ steady.T)
    if "centre" in cells:
        changed["centre"] = cells["centre"].copy(data=path.shown_at(cells["centre"].values - corner) + corner)
    for name in ("vector_a", "vector_b"):
        if name in cells:
            changed[name] = cells[name].copy(data=cells[name].values @ steady.T)
    column, row = np.rint(place / path.pixel).astype(int).T
    rows, columns = shown.shape
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    inside[inside] = shown[row[inside], column[inside]]
    return cells.drop_vars(_SPOILED, errors="ignore").assign(changed).isel(cell=inside)
