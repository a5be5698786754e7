"""A response library: symmetry, nodes, derivatives, limits, files."""

import numpy as np
import pytest
import xarray as xr

import tiltsim
from tests.tiltsim.conftest import SMALL_LIBRARY
from tiltsim.images import evaluate
from tiltsim.library import LibraryRequest, build_library, check_library, open_library, splines
from tiltsim.library.building import node_job, simulated
from tiltsim.library.symmetry import OPERATIONS, symmetrized, turned

AXIS = np.arange(-0.5, 0.5, 1 / 40)
STATE = {"tilt": (4.1, -2.3), "thickness": 61.0, "d": (-14.0, 9.0), "samarium": 0.06}


def picture(library, **changes):
    state = STATE | changes
    return library.uniform_image(AXIS, AXIS, source_fwhm=0.2, **state)


def rms(image):
    return float(np.sqrt((image**2).mean()))


def test_splines_reproduce_cubics_and_their_slopes():
    x = np.arange(7.0)
    c = splines.coefficients(1 + 2 * x - 3 * x**2 + 0.5 * x**3, 0)
    value, slope = np.zeros(4), np.zeros(4)
    for place in (0.0, 0.3, 2.5, 5.9, 6.0):
        first = splines.weights(place, 7, value, slope)
        assert value @ c[first : first + 4] == pytest.approx(
            1 + 2 * place - 3 * place**2 + 0.5 * place**3, abs=1e-11
        )
        assert slope @ c[first : first + 4] == pytest.approx(2 - 6 * place + 1.5 * place**2, abs=1e-11)


def test_the_square_has_eight_operations():
    assert len({tuple(op.ravel()) for op in OPERATIONS}) == 8
    assert all(abs(round(float(np.linalg.det(op)))) == 1 for op in OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_turning_takes_a_spot_and_its_tilt_with_it(operation):
    images = np.zeros((3, 3, 5, 5))
    tilt, spot = np.array([1, 0]), np.array([2, 1])  # of tilts −1, 0, 1; spot in samples (x, y)
    images[tilt[0] + 1, tilt[1] + 1, spot[1], spot[0]] = 1.0
    new_tilt, new_spot = operation @ tilt, (operation @ spot) % 5
    expected = np.zeros_like(images)
    expected[new_tilt[0] + 1, new_tilt[1] + 1, new_spot[1], new_spot[0]] = 1.0
    np.testing.assert_array_equal(turned(images, operation), expected)


def test_symmetrized_images_are_symmetric_and_impossible_places_are_refused():
    images = np.random.default_rng(0).normal(size=(3, 3, 5, 5))
    once = symmetrized(images, (1, 1), (1, 1))
    np.testing.assert_allclose(turned(once, np.array([[0, 1], [1, 0]])), once)
    with pytest.raises(ValueError, match="no turn"):
        symmetrized(images, (1, 0), (1, 1))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_turned_crystal_under_a_turned_beam_gives_the_turned_image(library, operation):
    here = picture(library)
    there = picture(
        library, tilt=tuple(operation @ np.array(STATE["tilt"])), d=tuple(operation @ np.array(STATE["d"]))
    )
    # What is at r here is at operation @ r there.
    x, y = np.meshgrid(np.arange(-10, 11), np.arange(-10, 11))
    new_x, new_y = np.einsum("ij,jkl->ikl", operation, np.stack([x, y]))
    np.testing.assert_allclose(there[new_y + 20, new_x + 20], here[y + 20, x + 20], atol=2e-5 * here.max())


def test_nodes_come_back(library, library_file):
    node = SMALL_LIBRARY.nodes[2]
    job = node_job(SMALL_LIBRARY, node, SMALL_LIBRARY.series, SMALL_LIBRARY.cells)
    images = symmetrized(simulated(job, library_file.parent / "work").mean(axis=0), (1, 1), (1, 1))
    edge = library.edges["BiFeO3"]
    for i, j, k in ((0, 3, 1), (2, 2, 3), (4, 1, 0)):
        simulation = evaluate(images[i, j, k], (edge, edge), AXIS * edge, AXIS * edge, 0.8)
        foretold = library.uniform_image(
            AXIS, AXIS, source_fwhm=0.8 / edge, d=(23.6, 23.6),
            tilt=(SMALL_LIBRARY.series.x[i], SMALL_LIBRARY.series.y[j]), thickness=SMALL_LIBRARY.cells[k] * edge,
        )  # fmt: skip
        assert rms(foretold - simulation) < 3e-3 * rms(simulation)


def test_a_tilted_beam_shows_columns_against_the_tilt_and_sm_dims_only_a(library):
    def centre(image):
        window = np.exp(-((AXIS / 0.15) ** 2))
        return float(
            (image * window * window[:, None] * AXIS).sum() / (image * window * window[:, None]).sum()
        )

    straight, leaning = (
        library.cell_image("A", AXIS, AXIS, source_fwhm=0.2, tilt=(t, 0.0), thickness=90.0)
        for t in (0.0, 6.0)
    )
    assert centre(straight) == pytest.approx(0.0, abs=1e-6)
    assert centre(leaning) < -0.002
    pure, doped = (picture(library, samarium=x) for x in (0.0, 0.2))
    assert 0.95 * pure[20, 20] < doped[20, 20] < 0.99 * pure[20, 20]
    b = 20 + 20  # the corner of the axis is the B column, but for d
    assert doped[b % 40, b % 40] == pytest.approx(pure[b % 40, b % 40], rel=0.03)


@pytest.mark.parametrize(
    ("name", "small", "argument"),
    [
        ("tilt_x", 0.02, lambda v: {"tilt": (4.1 + v, -2.3)}),
        ("tilt_y", 0.02, lambda v: {"tilt": (4.1, -2.3 + v)}),
        ("thickness", 0.2, lambda v: {"thickness": 61.0 + v}),
        ("d_x", 0.5, lambda v: {"d": (-14.0 + v, 9.0)}),
        ("d_y", 0.5, lambda v: {"d": (-14.0, 9.0 + v)}),
        ("samarium", 0.01, lambda v: {"samarium": 0.06 + v}),
    ],
)
@pytest.mark.parametrize("site", ["A", "B"])
def test_derivatives_are_those_of_finite_differences(library, site, name, small, argument):
    above, below = (
        library.scores(site, **(STATE | argument(sign * small))).astype(float) for sign in (1, -1)
    )
    derivative = library.scores(site, **STATE, derivative=name)
    scale = np.abs(derivative).max()
    assert scale > 0
    np.testing.assert_allclose((above - below) / (2 * small), derivative, atol=0.02 * scale)


def test_states_may_be_mixed_and_come_back_in_order(library):
    rng = np.random.default_rng(1)
    n = 50
    tilt, d = rng.uniform(-12, 12, (n, 2)), rng.uniform(-35, 35, (n, 2))
    thickness, samarium, material = rng.uniform(25, 90, n), rng.uniform(0, 0.3, n), rng.integers(0, 2, n)
    together = library.scores("B", tilt=tilt, d=d, thickness=thickness, samarium=samarium, material=material)
    for i in range(0, n, 7):
        alone = library.scores(
            "B", tilt=tilt[i], d=d[i], thickness=thickness[i], samarium=samarium[i], material=material[i]
        )
        np.testing.assert_array_equal(together[i], alone)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"tilt": (13.0, 0.0)}, "tilt_x"),
        ({"tilt": (0.0, np.nan)}, "tilt_y"),
        ({"thickness": 200.0}, "thickness"),
        ({"thickness": 5.0}, "thickness"),
        ({"d": (0.0, -60.0)}, "d_y"),
        ({"samarium": -0.1}, "samarium"),
    ],
)
def test_beyond_the_library_is_refused_by_name(library, change, name):
    with pytest.raises(tiltsim.SettingsError, match=f"^{name} .*library"):
        library.scores("A", **(STATE | change))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"tilts": 4}, "tilts"),
        ({"step_cells": 5}, "step_cells"),
        ({"polar_pm": 200.0}, "polar_pm"),
        ({"samarium": 0.0}, "samarium"),
        ({"thickest": 50.0}, "thickest"),
        ({"phonons": tiltsim.FrozenPhonons(pairs=2)}, "redraw"),
        ({"detector": tiltsim.Detector(10, 40, segments=4)}, "detector.segments"),
        ({"microscope": tiltsim.Microscope(aberrations={"C21": 100.0})}, "aberrations.C21"),
    ],
)
def test_requests_that_cannot_be_are_refused(change, name):
    with pytest.raises(tiltsim.SettingsError, match=name):
        LibraryRequest(**change)


def test_an_interrupted_build_goes_on_to_the_same_content(library, library_file):
    again = build_library(SMALL_LIBRARY, work=library_file.parent / "work")
    assert again.attrs["content"] == library.digest
    assert LibraryRequest().digest != SMALL_LIBRARY.digest


def test_damaged_and_foreign_files_are_refused(library_file, tmp_path):
    with xr.open_dataset(library_file) as dataset:
        changed = dataset.load()
    changed["scores_SrTiO3"][0, 0, 0, 0, 0] += 1e-3
    changed.to_netcdf(tmp_path / "changed.nc")
    with pytest.raises(tiltsim.SettingsError, match="numbers have changed"):
        open_library(tmp_path / "changed.nc")
    xr.Dataset({"a": 1.0}).to_netcdf(tmp_path / "foreign.nc")
    with pytest.raises(tiltsim.SettingsError, match="no response library"):
        open_library(tmp_path / "foreign.nc")
    (tmp_path / "cut.nc").write_bytes(library_file.read_bytes()[:5000])
    with pytest.raises(tiltsim.SettingsError, match="truncated"):
        open_library(tmp_path / "cut.nc")
    changed.attrs["format"] = 999
    changed.to_netcdf(tmp_path / "later.nc")
    with pytest.raises(tiltsim.SettingsError, match="format"):
        open_library(tmp_path / "later.nc")


def test_held_out_points_are_foretold(library):
    check = check_library(library, thickest=65.0)
    same = check.isel(check=slice(0, 2))
    # Four thicknesses and tilts 6 mrad apart, and the first held-out thickness lies beside the thinnest node.
    thin, thick = (float(np.sqrt((same.nrmse.isel(cells=n) ** 2).mean())) for n in (0, -1))
    assert thin < 0.06
    assert thick < 0.02
    assert float(np.sqrt((same.position_error**2).mean())) < 1.0
    # Other phonons differ by more than interpolation does, one pair by a few per cent.
    assert float(check.nrmse.isel(check=-1).mean()) < 0.1
