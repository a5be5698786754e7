"""A small library with a lens, and films painted with it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

import tiltsim
from tiltsim.lens import LensBox, named
from tiltsim.library import Library
from tiltsim.library.errors import Errors, error_table
from tiltsim.library.lens_modes import assembled_lens
from tiltsim.library.periods import library_periods
from tiltsim.library.request import Node
from tiltsim.library.response import ERROR_KINDS
from tiltsim.synth.detection import Detection
from tiltsim.synth.faults import Faults
from tiltsim.synth.probe import ProbeFaults, transfer
from tiltsim.synth.recipe import Recipe
from tiltsim.synth.specimen_request import DomainRequest, SpecimenRequest

#: Aberrations with which 22 mrad have phases as large as the default ones with 30.
BOX = LensBox(defocus=50.0, C12=35.0, C21=1500.0)


def as_faults(lens):
    """Components of a lens as the probe's faults."""
    found = named(np.asarray(lens, dtype=float))
    degrees = {n: float(np.degrees(v)) for n, v in found.items() if n.startswith("phi")}
    return ProbeFaults(source_fwhm=0.0, **(found | degrees))


#: Errors of the small library's images, as shares of what aberrations do to them: root mean square.
WRONG = 0.01


def smooth_errors(changes, cells):
    """Errors as smooth as images are, of every node, as those of phonons and of the model are."""
    rng, found = np.random.default_rng(3), []
    for node, change in changes.items():
        n = change.shape[-1]
        size = WRONG * float(np.sqrt((change**2).mean()))
        k = np.fft.fftfreq(n, 1.0 / n)
        soft = np.exp(-0.1 * (k[:, None] ** 2 + k**2))
        for kind in ERROR_KINDS:
            noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, len(cells), n, n))) * soft).real
            found.append(Errors(kind, node.material, cells, (size * noise / noise.std()).astype(np.float32)))
    return found


@pytest.fixture(scope="session")
def lens_library(library):
    """The small library with the lens that painted fields follow: the ratio of transfer functions instead of the engine's.

    What the engine's own terms are is tested in tests/tiltsim/test_lens.py; this takes no simulation.
    """
    plain = library
    request = replace(plain.request, lens=BOX)
    tilts, cells = np.array(request.series.x), np.array(request.cells)
    changes, n = {}, plain.dataset.sizes["order_x"]
    for node in (Node("BiFeO3"), Node("BiFeO3", (1, 0)), Node("BiFeO3", (1, 1)), Node("SrTiO3")):
        edge = plain.edges[node.material]
        grid = np.stack(np.meshgrid(tilts, tilts, cells * edge, indexing="ij"), -1)
        thickness = np.clip(grid[..., 2], *plain.thickness_range)
        d = np.broadcast_to(np.array(node.place) * request.polar_pm, (*grid.shape[:-1], 2))
        material = plain.materials.index(node.material)
        images, _ = library_periods(plain, grid[..., :2], thickness, d, material=material, samples=n)
        k = np.fft.fftfreq(n, edge / n)
        kx, ky = np.meshgrid(k, k)
        microscope = replace(request.microscope, source_fwhm=0.0)
        ratios = np.stack(
            [transfer(as_faults(lens), microscope, kx, ky, thickness=60.0) for lens in BOX.design()]
        )
        terms = np.tensordot(BOX.projector(), ratios - ratios[:1], (1, 0))
        whole = np.fft.fft2(images)
        changes[node] = np.stack([np.fft.ifft2(whole * t).real for t in terms]).astype(np.float32)
    dataset = plain.dataset.merge(assembled_lens(request, changes), join="exact")
    dataset = dataset.merge(error_table(smooth_errors(changes, request.cells)), join="exact")
    dataset = dataset.assign_attrs(request=json.dumps(request.as_dict()), format=request.format)
    return Library(dataset.assign_attrs(content=Library(dataset).digest))


#: Two domains across a 180° wall in projection, each with its share of lean, on the library's microscope.
TILT, AZIMUTH, THICKNESS, LEAN = 4.0, -35.0, 62.0, 0.3
LENS = (15.0, 8.0, -10.0, 350.0, -400.0)


def film(
    library,
    seed=0,
    *,
    size=400,
    dose=4e4,
    lens=LENS,
    substrate=0.0,
    variants=("[111]",),
    pattern="wall",
    **changes,
):
    """A painted film; its field has the truth."""
    domains = DomainRequest(
        pattern=pattern,
        variants=variants,
        wall="109",
        reverses="xy" if pattern == "wall" else "",
        wall_width=2.0,
    )
    specimen = SpecimenRequest(
        phase="R3c", domains=domains, tilt=TILT, azimuth=AZIMUTH, thickness=THICKNESS, lean="variant", lean_scale=changes.pop("lean_scale", LEAN),
        substrate=substrate, rotation=1.0, **changes,
    )  # fmt: skip
    faults = Faults(probe=replace(as_faults(lens), source_fwhm=0.85), detection=Detection(dose_per_A2=dose))
    recipe = Recipe(size=(size, size), pixel=0.2, specimens=(specimen,), faults=faults)
    return tiltsim.synthesize(recipe, library, seed)


@pytest.fixture(scope="session")
def two_variants(lens_library):
    """A film of two variants and its explanation."""
    field = film(lens_library)
    return field, tiltsim.explain(field.image, lens_library)


def truth_of(field, found, region):
    """True mean tilt and d (2,) of the cells of a region, by the truth's nearest B columns."""
    cells = found.cells.isel(cell=region.rows)
    b = field.truth["b_image"].values.reshape(-1, 2)
    nearest = cKDTree(b).query(np.column_stack([cells.x, cells.y]))[1]
    return tuple(np.median(field.truth[n].values.reshape(-1, 2)[nearest], axis=0) for n in ("tilt", "d"))
