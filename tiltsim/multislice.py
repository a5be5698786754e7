"""The reference engine: abTEM's multislice, one tilt after another, on a potential built once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import abtem
import dask
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from structures import Specimen
from tiltsim.errors import SettingsError
from tiltsim.jobs import Job, Unit
from tiltsim.phonons import configuration
from tiltsim.planning import Plan
from tiltsim.settings import Detector, Microscope

#: Waves propagated together: 64 measured fastest of 4 to 361 at 144² on two cores.
_BATCH = 64


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


def potential(specimen: Specimen, atoms: Atoms, setup: Plan, device: str, slices: int | None = None) -> Any:
    """Built abTEM potential of one configuration (independent-atom model, Lobato's parametrization).

    ``slices`` leaves out what lies beneath that many slices, where no image is asked for.
    """
    slab = atoms * (*setup.repeats, 1)
    slab.pbc = True
    whole = abtem.Potential(
        slab,
        gpts=(setup.gpts[0] * setup.repeats[0], setup.gpts[1] * setup.repeats[1]),
        # One by one: from a single number abTEM may round up to a slice too many.
        slice_thickness=(specimen.slice_thickness,) * round(specimen.thickness / specimen.slice_thickness),
        projection="infinite",
        exit_planes=setup.exit_planes,
        device=device,
    )
    return whole.build(0, slices, lazy=False) if slices else whole.build(lazy=False)


def refuse_edges(microscope: Microscope, detectors: Sequence[Detector]) -> None:
    """Refuse smooth edges, which abTEM does not have."""
    for name, edge in [("microscope", microscope.edge), *(("detector", d.edge) for d in detectors)]:
        if edge > 0:
            raise SettingsError(
                f"{name}.edge {edge:g} mrad needs engine 'smatrix'; set it to 0 for engine 'multislice'."
            )


def _abtem_detector(detector: Detector) -> Any:
    # abTEM tilts the propagator, not the wave: the ring stays centred on the tilted beam.
    if detector.segments == 1:
        return abtem.AnnularDetector(inner=detector.inner, outer=detector.outer)
    # Its azimuth runs from kx towards ky as ours does, in radians (its documentation says mrad).
    return abtem.SegmentedDetector(
        nbins_radial=1,
        nbins_azimuthal=detector.segments,
        inner=detector.inner,
        outer=detector.outer,
        rotation=np.deg2rad(detector.rotation),
    )


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
    ndarray, shape (segment, thickness, y, x)
        Fraction of the incident beam on each segment of each detector: detectors in order, their segments
        within. A diffraction pixel on a border between sectors counts to the one that begins there.

    Raises
    ------
    SettingsError
        If the aperture or a detector has a smooth edge.
    """
    refuse_edges(microscope, detectors)
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
        detectors=[_abtem_detector(d) for d in detectors],
        max_batch=_BATCH,
        lazy=True,
    )
    each = measured if isinstance(measured, list) else [measured]
    arrays = dask.compute(*(m.to_cpu().array for m in each))
    segmented = [
        np.asarray(a, dtype=np.float64).reshape(len(setup.exit_planes), *setup.scan, d.segments)
        for a, d in zip(arrays, detectors, strict=True)
    ]
    return np.concatenate(segmented, axis=-1).transpose(3, 0, 2, 1)


def units(job: Job, pair: int, sign: int) -> list[Unit]:
    """The tilts of one configuration."""
    return [Unit(pair, sign, part) for part in range(len(job.points))]


def compute(job: Job, unit: Unit) -> NDArray[np.float32]:
    """Images of one tilt of one configuration, shape (segment, 1, thickness, y, x)."""
    on = abtem_device(job.device)
    with (
        abtem.config.set({"device": on, "diagnostics.progress_bar": False}),
        dask.config.set(scheduler="threads", num_workers=os.cpu_count() or 1),
    ):
        built = _built(job, unit.pair, unit.sign, on)
        tilt = job.points[unit.part]
        image = scan_image(built, job.specimen, job.microscope, job.detectors, tilt, job.plan, on)
    return image[:, None].astype(np.float32)


@lru_cache(maxsize=1)
def _built(job: Job, pair: int, sign: int, on: str) -> Any:
    """Potential of one configuration, kept while its tilts follow each other."""
    return potential(job.specimen, configuration(job.specimen, job.phonons, pair, sign), job.plan, on)
