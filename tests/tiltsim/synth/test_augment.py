"""Faults added to labelled images: labels stay true, noise adds up, records are kept."""

import json

import numpy as np
import pytest
import xarray as xr
from scipy.spatial import KDTree

import analysis
import tiltsim
from tiltsim import SettingsError
from tiltsim.synth.augment import augment
from tiltsim.synth.covering import Covering
from tiltsim.synth.detection import Detection
from tiltsim.synth.faults import Faults
from tiltsim.synth.probe import ProbeFaults
from tiltsim.synth.scanning import ScanFaults

PIXEL, EDGE, SIGMA = 0.2, 3.96, 0.5
D = np.array([20.0, -12.0])  # pm


def lattice(start=(3.0, -5.0), size=300):
    """Image of Gaussian columns that starts at ``start`` (x, y), Å."""
    x, y = (s + PIXEL * np.arange(size) for s in start)
    image = np.full((size, size), 0.01)
    for shift, height in (((0.0, 0.0), 0.1), (np.array([0.5, 0.5]) * EDGE - D / 100, 0.04)):
        along_x, along_y = (
            sum(np.exp(-0.5 * ((axis - s - n * EDGE) / SIGMA) ** 2) for n in range(-4, 22))
            for axis, s in ((x, shift[0]), (y, shift[1]))
        )
        image += height * np.outer(along_y, along_x)
    coords = {"y": ("y", y, {"units": "Å"}), "x": ("x", x, {"units": "Å"})}
    return xr.DataArray(image.astype(np.float32), dims=("y", "x"), coords=coords, attrs={"title": "lattice"})


@pytest.fixture(scope="module")
def labelled():
    image = lattice()
    return image, analysis.measure(image).unit_cells


def found_again(image, cells):
    """Distance (px) of each label from the column measured nearest to it, away from the border, and d measured there."""
    measured = analysis.measure(image).unit_cells
    mine = np.stack([cells["x"], cells["y"]], 1)
    low, high = (np.array([float(image[a][n]) for a in "xy"]) for n in (0, -1))
    inner = ((mine > low + 6) & (mine < high - 6)).all(1)
    distance, which = KDTree(np.stack([measured["x"], measured["y"]], 1)).query(mine[inner])
    return distance / PIXEL, measured["d"].values[which], cells["d"].values[inner]


def test_no_fault_changes_nothing(labelled):
    image, cells = labelled
    same, moved = augment(image, cells, Faults(), seed=0)
    np.testing.assert_array_equal(same.values, image.values)
    for name in ("x", "y", "d", "d_cov", "centre", "vector_a"):
        np.testing.assert_allclose(moved[name].values, cells[name].values, atol=1e-9)
    assert same.attrs["title"] == "lattice"
    xr.testing.assert_equal(same.x, image.x)


@pytest.mark.parametrize(
    "scan",
    [
        {"rotation": 3.0},
        {"shear": 20.0, "scale_x": 0.02, "scale_y": -0.02},
        {"drift": 6.0, "drift_direction": 130.0},
        {"wander": 0.3, "wander_rows": 100.0},
        {"flyback": 0.8, "flyback_pixels": 60.0},
    ],
)
def test_labels_are_where_the_columns_are(labelled, scan):
    image, cells = labelled
    new, moved = augment(image, cells, Faults(scan=ScanFaults(**scan)), seed=3)
    distance, measured, label = found_again(new, moved)
    assert len(distance) > 80
    assert distance.max() < 0.02
    assert np.abs(new.values - image.values)[np.isfinite(new.values)].max() > 0.01
    if "wander" not in scan and "flyback" not in scan:
        np.testing.assert_allclose(measured, label, atol=0.3)


def test_d_turns_with_the_scan(labelled):
    image, cells = labelled
    _, moved = augment(image, cells, Faults(scan=ScanFaults(rotation=10.0)), seed=0)
    angle = np.radians(-10.0)  # the crystal appears turned back
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(moved["d"].mean("cell"), turn @ D, atol=0.3)
    assert "strain" not in moved
    assert 0.6 * cells.sizes["cell"] < moved.sizes["cell"] < cells.sizes["cell"]


def test_labels_follow_jitter_as_the_columns_do(labelled):
    image, cells = labelled
    jitter = Faults(scan=ScanFaults(jitter_x=0.06, jitter_rows=20.0))
    new, moved = augment(image, cells, jitter, seed=1)
    distance, _, label = found_again(new, moved)
    still, _, _ = found_again(new, cells)
    assert np.sqrt((distance**2).mean()) < 0.5 * np.sqrt((still**2).mean())
    np.testing.assert_allclose(label, np.broadcast_to(D, label.shape), atol=0.3)


def test_a_wider_source_blurs_by_what_it_is_wider(labelled):
    image, _ = labelled
    wide, _ = augment(image, None, Faults(probe=ProbeFaults(source_fwhm=1.2)), seed=0)
    added = np.sqrt(1.2**2 - 0.8**2) / np.sqrt(8 * np.log(2))
    columns = analysis.measure(wide).columns
    inner = columns.isel(column=(columns.site.values == "A"))
    assert float(inner["sigma_major"].median()) == pytest.approx(np.hypot(SIGMA, added), rel=0.01)
    with pytest.raises(SettingsError, match=r"probe\.source_fwhm 0\.5 Å is below"):
        augment(image, None, Faults(probe=ProbeFaults(source_fwhm=0.5)), seed=0)


def test_coma_is_that_of_the_transfer(labelled):
    image, _ = labelled
    shifted, _ = augment(image, None, Faults(probe=ProbeFaults(C21=800.0, phi21=0.0)), seed=0)
    # Columns move to the left, as in the engine.
    before, after = (analysis.measure(i).unit_cells["centre"].mean("cell").values for i in (image, shifted))
    assert -0.25 < (after - before)[0] < -0.08
    assert abs((after - before)[1]) < 0.005


def test_dose_adds_up_and_is_recorded(labelled):
    image, cells = labelled
    faults = Faults(
        cover=Covering(contamination=(0.001, 0.002)), detection=Detection(dose_per_A2=1e4, bits=16)
    )
    counts, _ = augment(image * 1000 + 7, cells, faults, 5, 2, dose_per_A2=1e5, fraction_per_unit=1e-3, black_level=7)  # fmt: skip
    again, _ = augment(image * 1000 + 7, cells, faults, 5, 2, dose_per_A2=1e5, fraction_per_unit=1e-3, black_level=7)  # fmt: skip
    other, _ = augment(image, cells, faults, 5, 3, dose_per_A2=1e5)
    assert counts.dtype == np.uint16
    assert counts.attrs["units"] == "counts"
    np.testing.assert_array_equal(counts, again)
    assert (counts.values != other.values).mean() > 0.5
    record = json.loads(counts.attrs["augmented"])
    assert 0.001 <= record["faults"]["cover"]["contamination"] <= 0.002
    assert (record["seed"], record["field"], record["dose_per_A2"]) == (5, 2, 1e5)
    fraction = counts.values / record["detected"]["counts_per_fraction"]
    assert fraction.mean() == pytest.approx(
        image.values.mean() + record["faults"]["cover"]["contamination"], rel=0.03
    )
    with pytest.raises(SettingsError, match="must be below"):
        augment(image, None, faults, 0, dose_per_A2=1e3)


def test_missing_pixels_stay_missing_and_their_cells_go(labelled):
    image, cells = labelled
    holed = image.copy()
    holed[100:150, 60:140] = np.nan
    scan = ScanFaults(scale_x=0.01)
    new, moved = augment(holed, cells, Faults(ProbeFaults(source_fwhm=1.0), scan), seed=0)
    assert 0.9 * 4000 < np.isnan(new.values[90:160, 50:150]).sum() < 1.2 * 4000
    _, all_moved = augment(image, cells, Faults(scan=scan), seed=0)
    assert moved.sizes["cell"] < all_moved.sizes["cell"]


def test_images_without_a_scale_are_refused(labelled):
    image, _ = labelled
    oblong = image.assign_coords(y=("y", image.y.values * 1.1, {"units": "Å"}))
    with pytest.raises(SettingsError, match="not square"):
        augment(oblong, None, Faults(), seed=0)
    with pytest.raises(SettingsError, match="must be in Å"):
        augment(image.assign_coords(x=("x", image.x.values, {"units": "px"})), None, Faults(), seed=0)


def test_another_microscope_may_be_given(labelled):
    image, _ = labelled
    sharp = tiltsim.Microscope(source_fwhm=0.5)
    same, _ = augment(image, None, Faults(probe=ProbeFaults(source_fwhm=0.5)), 0, microscope=sharp)
    np.testing.assert_array_equal(same.values, image.values)
