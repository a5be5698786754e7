"""Others' simulated images: axes, signs and units end up as ours."""

import abtem
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from abtem.measurements import Images

import tiltsim
from tiltsim.conventions import TiltConvention
from tiltsim.synth.importing import TableConventions, import_image

TABLE = pd.DataFrame({"x": [2.0, 6.0], "y": [3.0, 7.0], "d_x": [10.0, -5.0], "d_y": [20.0, 1.0], "tilt_x": [1.0, 1.0],
                      "tilt_y": [2.0, 2.0], "thickness": [100.0, 100.0]})  # fmt: skip


def spot():
    """An image (y, x) with one bright pixel at x = 2 Å, y = 3 Å of 0.5 Å pixels."""
    image = np.zeros((24, 32))
    image[6, 4] = 1.0
    return image


def test_an_array_with_our_conventions_stays_as_it_is():
    got = import_image(spot(), TABLE, pixel_size=0.5)
    assert float(got.image.sel(x=2.0, y=3.0)) == 1.0
    np.testing.assert_allclose(got.truth.d, [[10, 20], [-5, 1]])
    np.testing.assert_allclose(got.truth.tilt, [[1, 2], [1, 2]])
    np.testing.assert_allclose(got.truth.thickness, 100.0)
    assert got.truth.d.attrs["units"] == "pm"


def test_abtem_images_have_x_first(tmp_path):
    image = Images(spot().T, sampling=(0.5, 0.5))
    got = import_image(image, TABLE)
    assert float(got.image.sel(x=2.0, y=3.0)) == 1.0
    assert got.image.sizes == {"y": 24, "x": 32}
    image.to_zarr(str(tmp_path / "image.zarr"))
    again = import_image(tmp_path / "image.zarr", TABLE)
    np.testing.assert_array_equal(again.image.values, got.image.values)


def test_a_real_abtem_scan_is_found_where_its_atom_is():
    from ase import Atoms

    atoms = Atoms("Bi", positions=[[2.0, 3.0, 1.0]], cell=[8.0, 6.0, 2.0])
    potential = abtem.Potential(atoms, sampling=0.05, slice_thickness=2.0)
    probe = abtem.Probe(energy=200e3, semiangle_cutoff=25)
    scan = abtem.GridScan(start=(0, 0), end=(8, 6), sampling=0.25, endpoint=False)
    with abtem.config.set({"diagnostics.progress_bar": False}):
        measured = probe.scan(potential, scan=scan, detectors=abtem.AnnularDetector(60, 150)).compute()
    got = import_image(measured, TABLE)
    y, x = np.unravel_index(int(got.image.values.argmax()), got.image.shape)
    assert (got.image.x[x], got.image.y[y]) == (2.0, 3.0)


def test_upward_y_turns_places_displacements_and_tilts_over():
    height = 23 * 0.5
    table = TABLE.assign(y=height - TABLE.y, d_y=-TABLE.d_y, tilt_y=-TABLE.tilt_y)
    ours = import_image(spot(), TABLE, pixel_size=0.5).truth
    xr.testing.assert_allclose(
        import_image(spot(), table, pixel_size=0.5, conventions=TableConventions(y_up=True)).truth, ours
    )


@pytest.mark.parametrize(
    ("conventions", "change"),
    [
        (
            TableConventions(length="nm"),
            lambda t: t.assign(x=t.x / 10, y=t.y / 10, thickness=t.thickness / 10),
        ),
        (TableConventions(length="px"), lambda t: t.assign(x=t.x / 0.5, y=t.y / 0.5)),
        (TableConventions(displacement="Å"), lambda t: t.assign(d_x=t.d_x / 100, d_y=t.d_y / 100)),
        (TableConventions(d="B-A"), lambda t: t.assign(d_x=-t.d_x, d_y=-t.d_y)),
        (
            TableConventions(tilt=TiltConvention.SPECIMEN),
            lambda t: t.assign(tilt_x=-t.tilt_x, tilt_y=-t.tilt_y),
        ),
    ],
)
def test_other_units_and_signs_come_to_the_same(conventions, change):
    ours = import_image(spot(), TABLE, pixel_size=0.5).truth
    theirs = import_image(spot(), change(TABLE), pixel_size=0.5, conventions=conventions).truth
    xr.testing.assert_allclose(theirs, ours)


def test_tables_come_from_csv_and_netcdf_and_from_arguments(tmp_path):
    TABLE.to_csv(tmp_path / "truth.csv", index=False)
    xr.Dataset({k: ("cell", v.to_numpy()) for k, v in TABLE.items()}).to_netcdf(tmp_path / "truth.nc")
    ours = import_image(spot(), TABLE, pixel_size=0.5).truth
    for name in ("truth.csv", "truth.nc"):
        xr.testing.assert_allclose(import_image(spot(), tmp_path / name, pixel_size=0.5).truth, ours)
    bare = TABLE[["x", "y", "d_x", "d_y"]]
    given = import_image(spot(), bare, pixel_size=0.5, thickness=100.0, tilt_mrad=(1.0, 2.0)).truth
    xr.testing.assert_allclose(given, ours)
    assert "tilt" not in import_image(spot(), bare, pixel_size=0.5).truth


@pytest.mark.parametrize(
    ("table", "keywords", "says"),
    [
        (TABLE.drop(columns="d_x"), {"pixel_size": 0.5}, "lacks column 'd_x'"),
        (TABLE.assign(d_x=[np.nan, 1.0]), {"pixel_size": 0.5}, "'d_x' is empty or not finite"),
        (TABLE.assign(x=["a", "b"]), {"pixel_size": 0.5}, "'x' holds what is no number"),
        (TABLE.assign(x=[2e4, 1.0]), {"pixel_size": 0.5}, "far off"),
        (TABLE.assign(d_x=[9e3, 1.0]), {"pixel_size": 0.5}, "more than any perovskite"),
        (TABLE, {}, "pixel_size"),
        ("missing.csv", {"pixel_size": 0.5}, "no such truth table"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(table, keywords, says):
    with pytest.raises(tiltsim.SettingsError, match=says):
        import_image(spot(), table, **keywords)


def test_ensembles_uneven_pixels_and_unknown_units_are_refused():
    with pytest.raises(tiltsim.SettingsError, match="square pixels"):
        import_image(Images(spot().T, sampling=(0.5, 0.6)), TABLE)
    with pytest.raises(tiltsim.SettingsError, match="pick one"):
        import_image(Images(np.stack([spot().T] * 2), sampling=(0.5, 0.5), ensemble_axes_metadata=[abtem.core.axes.OrdinalAxis(values=(0, 1))]), TABLE)  # fmt: skip
    with pytest.raises(tiltsim.SettingsError, match="length 'inch'"):
        TableConventions(length="inch")
