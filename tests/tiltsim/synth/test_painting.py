"""Painting: a uniform crystal is the library's image, columns keep their places, frames and scans act as they should."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import analysis
import structures
import tiltsim
from tests.tiltsim.conftest import SMALL_LIBRARY
from tiltsim.library.building import node_job
from tiltsim.simulate import run_jobs
from tiltsim.synth.crystal import Crystal, around, at_corners
from tiltsim.synth.painting import paint
from tiltsim.synth.path import ScanPath

EDGE = 3.9643
D = np.array([-18.0, 11.0])


def crystal(n=14, d=D, tilt=(3.0, -2.0), thickness=60.0, turn=0.0, material=0, edge=EDGE):
    """Uniform; an A column at (8, 8) cells from the corner of the lattice, which is at −3 cells."""
    c, s = np.cos(turn), np.sin(turn)
    step = np.stack(np.meshgrid(np.arange(n + 1) - 3.0, np.arange(n + 1) - 3.0), axis=-1) * edge
    a = step @ np.array([[c, s], [-s, c]])
    cells = (n, n)
    return Crystal(
        a=a,
        b=around(a) - np.asarray(d) / 100.0,
        tilt=np.broadcast_to(np.array(tilt, float), (*cells, 2)).copy(),
        thickness=np.full(cells, thickness),
        height=np.zeros(cells),
        samarium=np.zeros((n + 1, n + 1)),
        material_a=np.full((n + 1, n + 1), material),
        material=np.full(cells, material),
        domain=np.zeros(cells, int),
    )


def scan(pixels=140, pixel=0.2):
    return ScanPath.ideal((pixels, pixels), pixel)


def largest(difference, image):
    return float(np.abs(difference).max() / image.max())


def test_a_uniform_crystal_is_painted_as_the_library_foretells(library):
    path = scan()
    image = paint(crystal(), library, path, 0.8)
    axis = np.arange(140) * 0.2 / EDGE
    expected = library.uniform_image(
        axis, axis, source_fwhm=0.8 / EDGE, d=tuple(D), tilt=(3.0, -2.0), thickness=60.0
    )
    assert largest(image - expected, expected) < 5e-4


def test_a_moved_scan_moves_the_image_and_jitter_moves_its_row(library):
    path = scan()
    still = paint(crystal(), library, path)
    moved = paint(crystal(), library, replace(path, origin=np.array([0.4, -0.2])))
    np.testing.assert_allclose(moved[1:, :-2], still[:-1, 2:], atol=1e-5)
    offset = path.row_offset.copy()
    offset[50] = [0.6, 0.0]
    shaken = paint(crystal(), library, replace(path, row_offset=offset))
    np.testing.assert_allclose(shaken[50, :-3], still[50, 3:], atol=1e-5)
    np.testing.assert_array_equal(shaken[49], still[49])


def test_a_turned_scan_sees_the_crystal_turned_back(library):
    # Columns move with the lattice: what lies at r in the first is at r turned in the second.
    angle = 0.04
    c, s = np.cos(angle), np.sin(angle)
    path = scan()
    straight = paint(crystal(n=20), library, path)
    turned_scan = replace(path, matrix=0.2 * np.array([[c, -s], [s, c]]))
    # A turned crystal's displacement turns with it, and the beam is tilted the same way against it.
    turn = np.array([[c, -s], [s, c]])
    other = crystal(n=20, d=turn @ D, tilt=turn @ np.array([3.0, -2.0]), turn=angle)
    turned = paint(other, library, turned_scan)
    assert largest(turned - straight, straight) < 1e-4


def test_aberrations_keep_their_direction_whichever_way_the_crystal_lies(library):
    def smeared(kx, ky):  # along x only, and off to the right
        return np.exp(-2 * np.pi**2 * (0.5**2 * kx**2 + 0.2**2 * ky**2) - 2j * np.pi * 0.3 * kx)

    plain = {"n": 20, "d": (0.0, 0.0), "tilt": (0.0, 0.0)}
    straight = paint(crystal(**plain), library, scan(), smeared)
    turned = crystal(**plain, turn=np.pi / 2)
    aside = replace(turned, a=turned.a + np.array([11 * EDGE, 0.0]), b=turned.b + np.array([11 * EDGE, 0.0]))
    np.testing.assert_allclose(paint(aside, library, scan(), smeared), straight, atol=1e-4 * straight.max())


def test_a_stretched_lattice_keeps_its_columns_in_place(library):
    image = paint(crystal(n=16, edge=4.05, d=(0.0, 0.0), tilt=(0.0, 0.0)), library, scan(200))
    axes = {n: (n, np.arange(200) * 0.2, {"units": "Å"}) for n in "yx"}
    fitted = analysis.measure(
        xr.DataArray(image.astype(float), dims=("y", "x"), coords=axes), weights="poisson"
    )
    a = fitted.columns.isel(column=np.flatnonzero(fitted.columns.site.values == "A"))
    off = np.c_[a.x, a.y] / 4.05
    off = (off - np.round(off))[(np.abs(np.c_[a.x, a.y] - 20).max(axis=1) < 12)]
    assert np.abs(off).max() * 405 < 0.3  # pm


def test_height_moves_columns_against_the_tilt_and_thickness_dims(library):
    path = scan()
    flat = crystal(tilt=(6.0, 0.0))
    sunk = replace(flat, height=np.full((14, 14), 40.0))
    image, low = paint(flat, library, path), paint(sunk, library, path)
    shift = np.tan(6e-3) * 40.0  # Å, to the left
    moved = paint(flat, library, replace(path, origin=np.array([shift, 0.0])))
    assert largest(low - moved, image) < 2e-4
    thin = paint(replace(flat, thickness=np.full((14, 14), 40.0)), library, path)
    assert thin.mean() < 0.9 * image.mean()


def test_cells_show_their_own_displacement_and_material(library):
    path = scan()
    one = crystal(d=(20.0, 0.0))
    d = np.broadcast_to([20.0, 0.0], (14, 14, 2)).copy()
    d[7, 7] = [-20.0, 0.0]
    other = replace(one, b=one.cage - d / 100.0)
    difference = paint(other, library, path) - paint(one, library, path)
    y, x = np.unravel_index(np.abs(difference).argmax(), difference.shape)
    assert np.hypot(*(np.array([x, y]) * 0.2 - one.b[7, 7])) < 1.0
    # More on the right of where the column was, less on the left: d is A − B.
    at = (one.cage[7, 7] / 0.2).round().astype(int)
    assert difference[at[1], at[0] + 4] > 0 > difference[at[1], at[0] - 4]
    null = paint(crystal(material=1, d=(0.0, 0.0)), library, path)
    assert null.max() < 0.8 * paint(one, library, path).max()


def test_sm_dims_its_own_column(library):
    one = crystal(tilt=(0.0, 0.0))
    samarium = np.zeros((15, 15))
    samarium[7, 7] = 0.5
    ratio = paint(replace(one, samarium=samarium), library, scan()) / paint(one, library, scan())
    y, x = np.unravel_index(ratio.argmin(), ratio.shape)
    assert np.hypot(*(np.array([x, y]) * 0.2 - one.a[7, 7])) < 2.2
    at = (one.a[7, 7] / 0.2).round().astype(int)
    assert 0.8 < ratio[at[1], at[0]] < 0.97
    beside = (one.a[7, 9] / 0.2).round().astype(int)
    assert ratio[beside[1], beside[0]] == pytest.approx(1.0, abs=1e-6)


def test_where_there_is_no_crystal_there_is_no_image(library):
    image = paint(crystal(n=8), library, scan())
    assert np.isfinite(image[:60, :60]).all()
    assert np.isnan(image[120:, 120:]).all()


def test_what_the_library_lacks_is_refused(library):
    with pytest.raises(tiltsim.SettingsError, match="thickness"):
        paint(crystal(thickness=500.0), library, scan())


def test_corners_and_cells():
    values = np.arange(12.0).reshape(3, 4)
    assert around(values)[0, 0] == pytest.approx((0 + 1 + 4 + 5) / 4)
    assert at_corners(values).shape == (4, 5)
    assert at_corners(values)[1, 1] == pytest.approx((0 + 1 + 4 + 5) / 4)
    assert at_corners(values)[0, 0] == 0.0


def test_bias_curves_of_painted_fields_are_those_of_the_engine(library, library_file):
    """Slopes of A and B, pm per mrad, from painted fields against the engine's own tilt response."""
    node = SMALL_LIBRARY.nodes[2]
    thick, tilts = SMALL_LIBRARY.cells[2], SMALL_LIBRARY.series
    job = node_job(SMALL_LIBRARY, node, tilts, SMALL_LIBRARY.cells)
    images = run_jobs([job], checkpoints=library_file.parent / "work")
    at = images.thickness.values[2]
    edge = library.edges["BiFeO3"]
    axis = np.arange(100) * 0.2
    truth = {node.name: structures.build_columns(
        np.full((1, 1, 2), 23.6), thickness=20.0, edge_x=edge, edge_y=edge, edge_z=edge
    ).truth}  # fmt: skip
    coords = {
        "tilt_x": ("tilt_x", np.array(tilts.x), {"units": "mrad"}),
        "tilt_y": ("tilt_y", np.array(tilts.y), {"units": "mrad"}),
        "thickness": ("thickness", [thick * edge], {"units": "Å"}),
        "y": ("y", axis, {"units": "Å"}),
        "x": ("x", axis, {"units": "Å"}),
        "phase": [node.name],
    }
    painted = np.empty((1, 5, 5, 1, 100, 100))
    for i, tx in enumerate(tilts.x):
        for j, ty in enumerate(tilts.y):
            field = crystal(d=(23.6, 23.6), tilt=(tx, ty), thickness=thick * edge, edge=edge)
            painted[0, i, j, 0] = paint(field, library, scan(100), 0.0)
    dims = ("phase", "tilt_x", "tilt_y", "thickness", "y", "x")
    ours = analysis.tilt_response(xr.Dataset({"intensity": (dims, painted)}, coords), truth)
    engine = analysis.tilt_response(images.sel(thickness=[at]), truth)
    difference = (ours.shift_per_mrad.values - engine.shift_per_mrad.values)[0, 0]
    # The engine's one pair lacks the mirrored pair that the library averages: noise of 0.1 pm per mrad.
    assert np.abs(difference[0]).max() < 0.2
    assert np.abs(difference[1]).max() < 0.2
