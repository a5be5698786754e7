"""The reference engine: abTEM's multislice, one tilt after another, on a potential built once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import abtem
import dask
import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from structures import Specimen
from tiltsim.errors import SettingsError
from tiltsim.phonons import configurations
from tiltsim.settings import Detector, FrozenPhonons, Microscope, Numerics, TiltSeries

#: Waves propagated together: 64 measured fastest of 4 to 361 at 144² on two cores.
_BATCH = 64


@dataclass(frozen=True)
class Plan:
    """Everything that follows from the settings for one specimen.

    Parameters
    ----------
    tile : (int, int)
        How often the specimen's box is repeated for the probe.
    gpts : (int, int)
        Grid of the wave over the repeated box (x, y).
    scan : (int, int)
        Probe positions over one period of the specimen (x, y).
    exit_planes : tuple of int
        Slice after which each thickness is read.
    thicknesses : tuple of float
        Actual thicknesses, Å.
    band_limit : float
        mrad.
    """

    tile: tuple[int, int]
    gpts: tuple[int, int]
    scan: tuple[int, int]
    exit_planes: tuple[int, ...]
    thicknesses: tuple[float, ...]
    band_limit: float


def plan(
    specimen: Specimen,
    microscope: Microscope,
    tilts: TiltSeries,
    thicknesses: tuple[float, ...],
    detector: Detector,
    numerics: Numerics,
) -> Plan:
    """Grid, scan and exit planes for a simulation.

    Raises
    ------
    SettingsError
        If a thickness exceeds the specimen or the detector exceeds the band limit.
    """
    angle = numerics.angle(detector, tilts)
    box = np.array(specimen.box)
    tile = np.maximum(1, np.ceil(numerics.box(max(thicknesses), microscope) / box - 1e-6)).astype(int)
    # abTEM keeps the inner two thirds of the reciprocal grid.
    sampling = (2.0 / 3.0) / (2.0 * angle * 1e-3 / microscope.wavelength)
    gpts = [next_fast_len(int(np.ceil(length / sampling)), real=True) for length in box * tile]
    scan = [
        int(np.ceil(2.0 * microscope.image_cutoff * length * numerics.scan_oversampling)) for length in box
    ]
    layers = []
    for t in thicknesses:
        n = round(t / specimen.layer)
        if not np.isfinite(t) or n < 1 or t > specimen.thickness + specimen.layer / 2:
            raise SettingsError(
                f"thickness {t:g} Å is outside the specimen's {specimen.layer:.1f} to {specimen.thickness:.1f} Å; "
                "build a thicker specimen or ask for thinner images."
            )
        layers.append(n)
    if sorted(set(layers)) != layers:
        raise SettingsError(
            f"thicknesses {list(thicknesses)} Å must ascend by at least one layer ({specimen.layer:.2f} Å)."
        )
    return Plan(
        (int(tile[0]), int(tile[1])),
        (gpts[0], gpts[1]),
        (scan[0], scan[1]),
        tuple(n * specimen.slices - 1 for n in layers),
        tuple(n * specimen.layer for n in layers),
        angle,
    )


def abtem_device(device: str) -> str:
    """Name of ``device`` ("auto", "cpu" or "cuda") in abTEM; auto takes CUDA where CuPy finds one.

    Raises
    ------
    SettingsError
        If the name is unknown or CUDA was asked for and is not there.
    """
    if device == "cpu":
        return "cpu"
    if device not in ("auto", "cuda"):
        raise SettingsError(f"device {device!r} is unknown; choose auto, cpu or cuda.")
    try:
        import cupy  # type: ignore[import-not-found]

        found = cupy.cuda.runtime.getDeviceCount() > 0
    except (ImportError, RuntimeError):
        found = False
    if device == "cuda" and not found:
        raise SettingsError("device 'cuda' needs CuPy and a CUDA GPU, which were not found; use auto or cpu.")
    return "gpu" if found else "cpu"


def potential(specimen: Specimen, atoms: Atoms, setup: Plan, device: str) -> Any:
    """Built abTEM potential of one configuration (independent-atom model, Lobato's parametrization)."""
    slab = atoms * (*setup.tile, 1)
    slab.pbc = True
    return abtem.Potential(
        slab,
        gpts=setup.gpts,
        # One by one: from a single number abTEM may round up to a slice too many.
        slice_thickness=(specimen.slice_thickness,) * round(specimen.thickness / specimen.slice_thickness),
        projection="infinite",
        exit_planes=setup.exit_planes,
        device=device,
    ).build(lazy=False)


def scan_image(
    built: Any,
    specimen: Specimen,
    microscope: Microscope,
    detectors: Sequence[Detector],
    tilt_mrad: tuple[float, float],
    setup: Plan,
    device: str,
) -> NDArray[np.float64]:
    """Intensities over one period of the specimen for one tilt.

    Returns
    -------
    ndarray, shape (detector, thickness, y, x)
        Fraction of the incident beam on each detector.
    """
    probe = abtem.Probe(
        energy=microscope.energy_keV * 1e3,
        semiangle_cutoff=microscope.semiangle_cutoff,
        tilt=tilt_mrad,
        aberrations=dict(microscope.aberrations),
        device=device,
    )
    probe.grid.match(built)
    scan = abtem.GridScan(start=(0, 0), end=specimen.box, gpts=setup.scan, endpoint=False)
    measured = probe.scan(
        built,
        scan=scan,
        # abTEM tilts the propagator, not the wave: the ring stays centred on the tilted beam.
        detectors=[abtem.AnnularDetector(inner=d.inner, outer=d.outer) for d in detectors],
        max_batch=_BATCH,
        lazy=True,
    )
    each = measured if isinstance(measured, list) else [measured]
    arrays = dask.compute(*(m.to_cpu().array for m in each))
    values = np.asarray(arrays, dtype=np.float64)
    return np.swapaxes(values.reshape(len(detectors), len(setup.exit_planes), *setup.scan), 2, 3)


def run(
    specimen: Specimen,
    microscope: Microscope,
    tilts: TiltSeries,
    detector: Detector,
    phonons: FrozenPhonons,
    setup: Plan,
    device: str = "auto",
) -> Iterator[tuple[int, int, int, int, NDArray[np.float64]]]:
    """Every image of a tilt series, as it is finished.

    Yields
    ------
    pair, sign : int
        Phonon configuration, see :func:`tiltsim.phonons.configurations`.
    i, j : int
        Indices of the tilt in ``tilts.x`` and ``tilts.y``.
    image : ndarray, shape (thickness, y, x)
        Intensities over one period of the specimen, fraction of the incident beam.
    """
    on = abtem_device(device)
    for pair, sign, atoms in configurations(specimen.atoms, specimen.sigmas, phonons):
        built = None
        for i, j in tilts.points():
            # Entered anew for every image: between yields the caller's own configuration holds.
            with (
                abtem.config.set({"device": on, "diagnostics.progress_bar": False}),
                dask.config.set(scheduler="threads", num_workers=os.cpu_count() or 1),
            ):
                if built is None:
                    built = potential(specimen, atoms, setup, on)
                image = scan_image(
                    built, specimen, microscope, [detector], (tilts.x[i], tilts.y[j]), setup, on
                )[0]
            yield pair, sign, i, j, image
