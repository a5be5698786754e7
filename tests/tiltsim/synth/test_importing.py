"""Others' images with their truth: nothing transposed, every sign and unit as stated, contradictions refused."""

import abtem
import ase
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from abtem.core.axes import FrozenPhononsAxis, ThicknessAxis

import analysis
import structures
from tiltsim import SettingsError, TiltConvention
from tiltsim.synth.augment import augment
from tiltsim.synth.faults import Faults
from tiltsim.synth.importing import import_image, import_images
from tiltsim.synth.truth_tables import TableConventions

#: One gold atom 18 Å beneath the entrance surface of a box of 6 × 8 × 20 Å.
ATOM, BOX, TILT = np.array([2.0, 5.0, 18.0]), (6.0, 8.0, 20.0), (20.0, -12.0)

TABLE = {"x [Å]": [2.0, 3.1], "y [Å]": [5.0, 1.2], "d_x [pm]": [10.0, -4.0], "d_y [pm]": [-30.0, 7.0]}


@pytest.fixture(scope="module")
def images():
    """ADF images of the atom without and with tilt, at thicknesses 0, 10 and 20 Å."""
    atoms = ase.Atoms("Au", positions=[ATOM], cell=BOX, pbc=True)
    with abtem.config.set({"diagnostics.progress_bar": False}):
        potential = abtem.Potential(atoms, gpts=(48, 64), slice_thickness=2.0, exit_planes=5)
        probe = abtem.Probe(energy=200e3, semiangle_cutoff=20.0, tilt=np.array([(0.0, 0.0), TILT]))
        probe.grid.match(potential)
        scan = abtem.GridScan((0, 0), BOX[:2], gpts=(24, 32), endpoint=False)
        return probe.scan(potential, scan=scan, detectors=abtem.AnnularDetector(30, 60)).compute()


def picture(shape=(30, 40)):
    return np.random.default_rng(0).random(shape)


def imported(truth=TABLE, source=None, pixel_size=0.2, **others):
    return import_image(picture() if source is None else source, truth, pixel_size=pixel_size, **others)


def brightest(image):
    """Mass centre of the brightest place, Å."""
    weight = np.clip(image.values - 0.5 * image.values.max(), 0, None)
    return np.array([(image[n] * xr.DataArray(weight, dims=("y", "x"))).sum() / weight.sum() for n in "xy"])


# abTEM


def test_abtem_images_show_the_atom_where_the_table_has_it(images):
    fields = import_images(images, TABLE)
    # Vacuum is left out; of the rest thickness runs slower than tilt.
    assert [float(f.truth.thickness[0]) for f in fields] == [10.0, 10.0, 20.0, 20.0]
    np.testing.assert_allclose(fields[2].truth.tilt, 0.0)
    np.testing.assert_allclose(fields[3].truth.tilt, [TILT, TILT])
    straight, tilted = (brightest(f.image) for f in fields[2:])
    cell = fields[2].truth.isel(cell=0)
    np.testing.assert_allclose(straight, [cell.x, cell.y], atol=0.02)
    # The tilt says where the atom appears: the sign of the toolkit's convention.
    assert np.abs(tilted - straight).min() > 0.15
    shift = -np.tan(fields[3].truth.tilt[0] * 1e-3) * ATOM[2]
    np.testing.assert_allclose(tilted - straight, shift, atol=0.05)


def test_abtem_images_have_their_sampling_and_metadata(images):
    image = import_images(images, TABLE)[0].image
    assert image.shape == (32, 24)
    np.testing.assert_allclose([image.x[1], image.y[1]], [0.25, 0.25])
    assert image.x.attrs["units"] == image.y.attrs["units"] == "Å"
    assert '"energy": 200000.0' in image.attrs["abtem"]


def test_a_zarr_file_gives_what_the_images_give(images, tmp_path):
    images.to_zarr(str(tmp_path / "images.zarr"))
    there, here = (import_images(s, TABLE) for s in (tmp_path / "images.zarr", images))
    assert len(there) == len(here) == 4
    for one, other in zip(there, here, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        xr.testing.assert_equal(one.truth, other.truth)


def test_phonon_configurations_are_averaged_thicknesses_kept():
    stack = np.random.default_rng(1).random((3, 2, 20, 24))
    axes = [FrozenPhononsAxis(), ThicknessAxis(values=(10.0, 30.0))]
    images = abtem.measurements.Images(stack, sampling=0.2, ensemble_axes_metadata=axes)
    fields = import_images(images, TABLE)
    assert [float(f.truth.thickness[0]) for f in fields] == [10.0, 30.0]
    np.testing.assert_allclose(fields[1].image, stack[:, 1].mean(axis=0).T)


def test_one_of_several_detectors_is_chosen_by_number():
    pair = [abtem.measurements.Images(picture((30, 30)) * k, sampling=0.2) for k in (1.0, 2.0)]
    with pytest.raises(SettingsError, match="dataset=0 to 1"):
        import_images(pair, TABLE)
    assert import_images(pair, TABLE, dataset=1)[0].image.max() == pair[1].array.max()


def test_what_is_no_image_of_abtem_is_refused():
    pattern = abtem.measurements.DiffractionPatterns(picture(), sampling=0.1)
    with pytest.raises(SettingsError, match="DiffractionPatterns"):
        import_images(pattern, TABLE)


# signs, axes, units


def test_the_toolkits_own_convention_changes_nothing():
    truth = imported(TABLE | {"tilt_x [mrad]": [1.0, 2.0], "tilt_y [mrad]": [-3.0, 4.0]}).truth
    np.testing.assert_allclose(truth.x, [2.0, 3.1])
    np.testing.assert_allclose(truth.y, [5.0, 1.2])
    np.testing.assert_allclose(truth.d, [[10.0, -30.0], [-4.0, 7.0]])
    np.testing.assert_allclose(truth.tilt, [[1.0, -3.0], [2.0, 4.0]])
    assert "thickness" not in truth  # nobody stated it
    assert truth.inside.all()


def test_a_y_axis_that_points_up_turns_places_displacements_and_tilts():
    conventions = TableConventions(y_up=True)
    truth = imported(TABLE, conventions=conventions, tilt_mrad=(2.0, 3.0)).truth
    # 30 rows of 0.2 Å: y = 0 is the last row, at 5.8 Å.
    np.testing.assert_allclose(truth.y, [0.8, 4.6])
    np.testing.assert_allclose(truth.x, [2.0, 3.1])
    np.testing.assert_allclose(truth.d, [[10.0, 30.0], [-4.0, -7.0]])
    np.testing.assert_allclose(truth.tilt, [[2.0, -3.0]] * 2)


def test_flipping_image_and_table_together_is_the_same_field():
    image = picture()
    up = TABLE | {"y [Å]": 5.8 - np.array(TABLE["y [Å]"]), "d_y [pm]": -np.array(TABLE["d_y [pm]"])}
    there = imported(up, image, conventions=TableConventions(y_up=True)).truth
    xr.testing.assert_allclose(there, imported(TABLE, image).truth)


def test_displacements_from_a_to_b_are_turned_round():
    truth = imported(TABLE, conventions=TableConventions(d="B-A")).truth
    np.testing.assert_allclose(truth.d, [[-10.0, 30.0], [4.0, -7.0]])


def test_tilts_of_the_specimen_are_turned_round():
    conventions = TableConventions(tilt=TiltConvention.SPECIMEN)
    table = TABLE | {"tilt_x [mrad]": [1.0, 2.0], "tilt_y [mrad]": [-3.0, 0.0]}
    np.testing.assert_allclose(
        imported(table, conventions=conventions).truth.tilt, [[-1.0, 3.0], [-2.0, 0.0]]
    )
    np.testing.assert_allclose(
        imported(TABLE, conventions=conventions, tilt_mrad=(1.0, -3.0)).truth.tilt[0], [-1, 3]
    )


def test_units_are_those_of_the_table_or_the_convention():
    stated = {
        "x [nm]": [0.2], "y (pm)": [500.0], "d_x [Å]": [0.1], "d_y (nm)": [-0.03], "tilt_x [rad]": [0.004],
        "tilt_y [deg]": [0.1], "thickness [nm]": [12.0],
    }  # fmt: skip
    bare = {"x": [10.0], "y": [25.0], "d_x": [0.5], "d_y": [-1.5]}
    truth = imported(stated).truth
    np.testing.assert_allclose([truth.x[0], truth.y[0]], [2.0, 5.0])
    np.testing.assert_allclose(truth.d, [[10.0, -30.0]])
    np.testing.assert_allclose(truth.tilt, [[4.0, 1.7453293]])
    np.testing.assert_allclose(truth.thickness, [120.0])
    in_pixels = TableConventions(length="px", displacement="px")
    truth = imported(bare | {"thickness": [90.0]}, conventions=in_pixels, pixel_size=0.2).truth
    np.testing.assert_allclose([truth.x[0], truth.y[0], *truth.d[0], truth.thickness[0]], [2, 5, 10, -30, 90])
    in_nm = TableConventions(length="nm", displacement="angstrom", angle="deg")
    truth = imported(stated, conventions=in_nm).truth  # what the table states counts
    np.testing.assert_allclose([truth.x[0], truth.y[0], *truth.d[0]], [2.0, 5.0, 10.0, -30.0])
    bare = {
        "x": [0.2],
        "y": [0.5],
        "d_x": [0.1],
        "d_y": [-0.3],
        "tilt_x": [0.1],
        "tilt_y": [0],
        "thickness": [9],
    }
    truth = imported(bare, conventions=in_nm).truth
    np.testing.assert_allclose([truth.x[0], truth.y[0], *truth.d[0], truth.thickness[0]], [2, 5, 10, -30, 90])
    np.testing.assert_allclose(truth.tilt, [[1.7453293, 0.0]])


def test_the_origin_is_where_the_table_begins():
    truth = imported(conventions=TableConventions(origin=(0.5, -0.3))).truth
    np.testing.assert_allclose([truth.x, truth.y], [[2.5, 3.6], [4.7, 0.9]])
    truth = imported(conventions=TableConventions(y_up=True, origin=(0.0, 6.0))).truth
    np.testing.assert_allclose(truth.y, [1.0, 4.8])


def test_cells_beside_the_image_are_marked():
    table = TABLE | {"x [Å]": [2.0, 8.1]}
    assert imported(table).truth.inside.values.tolist() == [True, False]


# tables


def test_csv_netcdf_and_frames_give_the_same(tmp_path):
    cells = xr.Dataset(
        {
            "x": ("cell", [2.0, 3.1], {"units": "Å"}),
            "y": ("cell", [0.5, 0.12], {"units": "nm"}),
            "d": (("cell", "component"), [[10.0, -30.0], [-4.0, 7.0]], {"units": "pm"}),
            "tilt": ("component", [1.0, 2.0], {"units": "mrad"}),
            "thickness": ((), 80.0, {"units": "Å"}),
        },
        coords={"component": ["x", "y"]},
    )
    expected = imported(cells).truth
    np.testing.assert_allclose(expected.tilt, [[1.0, 2.0]] * 2)
    np.testing.assert_allclose(expected.thickness, 80.0)
    cells.to_netcdf(tmp_path / "cells.nc")
    xr.testing.assert_equal(imported(tmp_path / "cells.nc").truth.drop_attrs(), expected.drop_attrs())
    # What this toolkit writes as CSV, units in comments.
    rows = cells[["x", "y", "d"]]
    for truth in (
        analysis.exchange.write_csv(rows, tmp_path / "own.csv"),
        analysis.exchange.to_dataframe(rows),
    ):
        xr.testing.assert_equal(imported(truth).truth.d, expected.d)
        np.testing.assert_allclose(imported(truth).truth.y, expected.y)
    # What others write.
    text = "# made by hand\nnumber; x [Å]; y [nm]; d_x [pm]; d_y [pm]; site\n0; 2; 0.5; 10; -30; Ti\n1; 3.1; 0.12; -4; 7; Ti\n"
    (tmp_path / "theirs.csv").write_text(text)
    xr.testing.assert_allclose(imported(tmp_path / "theirs.csv").truth.d, expected.d)


def test_the_truth_of_a_specimen_is_taken_as_it_is():
    specimen = structures.build("R3c", thickness=8.0)
    truth = imported(specimen.truth, picture((60, 60))).truth
    np.testing.assert_allclose(truth.d, specimen.truth.cell_d)
    np.testing.assert_allclose(truth.x, specimen.truth.cell_x)


def test_an_imported_field_can_be_augmented():
    field = imported(source=picture((60, 60)))
    image, cells = augment(field.image, field.truth, Faults(), seed=0)
    assert image.shape == (60, 60)
    np.testing.assert_allclose(cells.d, field.truth.d)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_y [pm]": None}, "has no d_y"),
        ({"x [Å]": [2.0, np.nan]}, "x is no finite number in 1 of 2 rows, first in row 1"),
        ({"x [Å]": [2.0]}, "differ in length"),
        ({"x [Å]": [2.0, "left"]}, "x holds words"),
        ({"x": [1.0, 2.0]}, "two columns x"),
        ({"tilt_x [mrad]": [1.0, 2.0]}, "tilt_x but no tilt_y"),
        ({"thickness [Å]": [80.0, 0.0]}, "give positive ones"),
        ({"thickness [inch]": [80.0, 80.0]}, "'inch', which is not known"),
        ({"d_x [pm]": None, "d_x [nm]": [10.0, 1.0]}, "d of 1e.04 pm is beyond the 200 pm"),
        ({"x [Å]": None, "x [nm]": [0.2, 3.1]}, "do not lie on the image"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused_in_a_sentence(change, message):
    table = {k: v for k, v in (TABLE | change).items() if v is not None}
    with pytest.raises(SettingsError, match=message) as refused:
        imported(table)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [{"d": "A to B"}, {"tilt": "beam"}, {"length": "inch"}, {"displacement": "mrad"}, {"angle": "turns"}, {"origin": (0, np.nan)}],
)  # fmt: skip
def test_conventions_that_mean_nothing_are_refused(given):
    with pytest.raises(SettingsError, match=f"^{next(iter(given))} "):
        TableConventions(**given)


def test_files_that_are_no_tables_are_refused(tmp_path):
    (tmp_path / "table.csv").write_bytes(bytes(range(256)))
    (tmp_path / "table.nc").write_text("x,y\n")
    for name in ("table.csv", "table.nc", "none.csv"):
        with pytest.raises(SettingsError, match=name):
            imported(tmp_path / name)
    with pytest.raises(SettingsError, match="ndarray"):
        imported(np.zeros((4, 4)))


# statements that contradict each other


def test_tilt_and_thickness_of_table_call_and_image_must_agree(images):
    tilted = TABLE | {"tilt_x [mrad]": [20.0, 20.0], "tilt_y [mrad]": [-12.0, -12.0]}
    with pytest.raises(SettingsError, match="tilt: truth and tilt_mrad differ by up to 8 mrad"):
        imported(tilted, tilt_mrad=(20.0, -4.0))
    with pytest.raises(SettingsError, match="thickness: thickness and image differ by up to 15 Å"):
        import_images(images, TABLE, thickness=25.0)
    with pytest.raises(SettingsError, match="tilt: truth and image differ"):  # by the image without tilt
        import_images(images, tilted)
    assert len(import_images(images[:, 1], tilted)) == 2
    with pytest.raises(SettingsError, match="give \\(x, y\\) in mrad"):
        imported(tilt_mrad=(1.0,))
    with pytest.raises(SettingsError, match="thickness 0 is none"):
        imported(thickness=0)


def test_a_crystal_may_be_turned_in_the_box_of_an_untilted_beam():
    images = abtem.measurements.Images(
        picture(), sampling=0.2, metadata={"base_tilt_x": 0.0, "base_tilt_y": 0.0}
    )
    np.testing.assert_allclose(imported(source=images).truth.tilt, 0.0)
    np.testing.assert_allclose(imported(source=images, tilt_mrad=(3.0, -4.0)).truth.tilt, [[3.0, -4.0]] * 2)
    images = abtem.measurements.Images(
        picture(), sampling=0.2, metadata={"base_tilt_x": 1.0, "base_tilt_y": 0.0}
    )
    with pytest.raises(SettingsError, match="tilt: tilt_mrad and image differ by up to 4 mrad"):
        imported(source=images, tilt_mrad=(3.0, -4.0))


# images


def test_pixels_that_are_no_numbers_are_refused():
    image = picture()
    image[3, 4] = np.nan
    with pytest.raises(SettingsError, match="1 of 1200 pixels"):
        imported(source=image)


def test_images_need_a_pixel_size(tmp_path):
    np.save(tmp_path / "image.npy", picture())
    for source in (picture(), tmp_path / "image.npy"):
        with pytest.raises(SettingsError, match=r"pixel_size: .* does not state it"):
            import_images(source, TABLE)
        field = imported(source=source, pixel_size=0.25)
        np.testing.assert_allclose(field.image.x[:2], [0.0, 0.25])
    with pytest.raises(analysis.ImageError, match="shape"):
        imported(source=picture((2, 30, 30, 2)))


def test_uneven_pixels_are_refused_x_named_first():
    images = abtem.measurements.Images(picture(), sampling=(0.25, 0.2))
    with pytest.raises(SettingsError, match=r"sampled at 0.25 × 0.2 Å; interpolate it to square pixels"):
        imported(source=images, pixel_size=None)


def test_one_image_is_asked_for_one():
    images = abtem.measurements.Images(
        np.stack([picture()] * 2), sampling=0.2, ensemble_axes_metadata=[ThicknessAxis(values=(0.0, 30.0))]
    )
    assert float(imported(source=images).truth.thickness[0]) == 30.0
    images.ensemble_axes_metadata[0].values = (10.0, 30.0)
    with pytest.raises(SettingsError, match="pick one"):
        imported(source=images)
    images.ensemble_axes_metadata[0].values = (0.0, 0.0)
    with pytest.raises(SettingsError, match="none has a thickness above 0"):
        imported(source=images)


def test_a_labelled_image_keeps_its_coordinates():
    image = analysis.as_image(picture(), pixel_size=0.2)
    image = image.assign_coords(x=image.x + 1.0)
    field = imported(source=image.transpose("x", "y"), pixel_size=None)
    xr.testing.assert_identical(field.image.x, image.x)
    np.testing.assert_array_equal(field.image, image)
    assert field.truth.inside.all()
    with pytest.raises(SettingsError, match="dims"):
        imported(source=image.rename(x="column"), pixel_size=None)


def prismatic(path, names=("annular_detector_depth0000",), inner="realslice", shape=(24, 30), unit="[n_m]"):
    """A file as Prismatic 1.2 lays it out: probes along x first, lengths in Å under the name of nm."""
    array = picture(shape)
    with h5py.File(path, "w") as file:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 5
        file.create_group("4DSTEM_simulation/metadata/metadata_0/original/simulation_parameters")
        for name in names:
            group = file.create_group(f"4DSTEM_simulation/data/realslices/{name}")
            group.attrs["emd_group_type"] = 1
            group[inner] = array
            for i, n in enumerate(shape):
                dim = group.create_dataset(f"dim{i + 1}", data=np.arange(n) * (0.2, 0.2, 1.0)[i] + 0.1)
                dim.attrs["name"] = ("R_x", "R_y", "bin_outer_angle")[i]
                dim.attrs["units"] = unit
    return array


@pytest.mark.parametrize(("inner", "unit"), [("realslice", "[n_m]"), ("data", "[Å]")])
def test_prismatic_files_are_in_angstrom_with_x_first(tmp_path, inner, unit):
    array = prismatic(tmp_path / "out.h5", inner=inner, unit=unit)
    image = imported(source=tmp_path / "out.h5", pixel_size=None).image
    np.testing.assert_array_equal(image, array.T)
    np.testing.assert_allclose([image.x[1] - image.x[0], image.y[1] - image.y[0]], [0.2, 0.2])


def test_prismatic_files_of_several_images_or_rings_ask_for_one(tmp_path):
    prismatic(tmp_path / "two.h5", names=("annular_detector_depth0000", "annular_detector_depth0001"))
    with pytest.raises(SettingsError, match="annular_detector_depth0000, annular_detector_depth0001"):
        imported(source=tmp_path / "two.h5")
    assert imported(source=tmp_path / "two.h5", dataset="annular_detector_depth0001").image.shape == (30, 24)
    prismatic(tmp_path / "rings.h5", names=("virtual_detector_depth0000",), shape=(24, 30, 5))
    with pytest.raises(SettingsError, match="sum the rings"):
        imported(source=tmp_path / "rings.h5", dataset="virtual_detector_depth0000")


def test_prismatic_files_that_are_cut_short_are_refused(tmp_path):
    prismatic(tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5", "a") as file:
        del file["4DSTEM_simulation/metadata"]
    with pytest.raises(SettingsError, match=r"out.h5: cannot be read as Prismatic's"):
        imported(source=tmp_path / "out.h5")


def test_zarr_that_is_not_abtems_is_refused(tmp_path):
    (tmp_path / "other.zarr").mkdir()
    for name in ("other.zarr", "none.zarr"):
        with pytest.raises(SettingsError, match=name):
            import_images(tmp_path / name, TABLE)


def test_frames_state_units_of_their_own():
    frame = pd.DataFrame({"x": [2.0], "y": [5.0], "d_x": [0.1], "d_y": [-0.3]})
    frame.attrs["units"] = {"x": "Å", "y": "Å", "d_x": "Å", "d_y": "Å"}
    np.testing.assert_allclose(imported(frame).truth.d, [[10.0, -30.0]])
