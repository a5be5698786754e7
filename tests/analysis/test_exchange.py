"""What goes out to other programs and comes back keeps its numbers, signs and units."""

from types import SimpleNamespace

import ase.io
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import analysis
from analysis import exchange, polar_signs


@pytest.fixture
def atomap_file(tmp_path):
    """The layout of Atomap 0.4.2: one B column and two A columns at 0.02 nm per px; returns its path."""
    path = tmp_path / "lattice.hdf5"
    pixels = np.random.default_rng(0).random((40, 50))
    with h5py.File(path, "w") as file:
        file["image_data"] = np.zeros_like(pixels)
        file["original_image_data"] = pixels
        file.attrs["name"] = "lattice"
        # Groups come in alphabetical order, sublattices in that of their index.
        for index, name, positions, wide, high, rotation in (
            (0, "heavy", [[10.0, 20.0], [30.0, 21.0]], [3.0, 2.0], [2.0, 3.0], [0.4, 0.4]),
            (1, "faint", [[20.0, 5.5]], [1.5], [1.0], [3.0]),
        ):
            group = file.create_group(f"{name}_sublattice")
            group["atom_positions"] = np.array(positions)
            group["sigma_x"], group["sigma_y"], group["rotation"] = map(np.array, (wide, high, rotation))
            group["original_image_data"] = group["modified_image_data"] = pixels
            group.attrs.update({"name": name, "pixel_size": 0.02, "units": "nm", "sublattice_index": index})
    return path, pixels


def signal(values, units="nm", scale=(0.02, 0.03), offset=(0.0, 0.0), **kwargs):
    """What `as_image` touches of a HyperSpy signal; x comes first in `scale` and `offset`."""
    axes = [
        SimpleNamespace(scale=s, offset=o, units=units, **kwargs) for s, o in zip(scale, offset, strict=True)
    ]
    return SimpleNamespace(
        data=values, axes_manager=SimpleNamespace(signal_axes=tuple(axes), navigation_axes=())
    )


def test_signal_brings_scale_offset_and_unit():
    values = np.random.default_rng(0).random((20, 30))
    image = analysis.as_image(signal(values, offset=(1.0, -0.3)))
    np.testing.assert_array_equal(image.values, values)
    np.testing.assert_allclose(image["x"].values, 10.0 + 0.2 * np.arange(30))
    np.testing.assert_allclose(image["y"].values, -3.0 + 0.3 * np.arange(20))
    assert image["x"].attrs["units"] == "Å"
    given = analysis.as_image(signal(values), pixel_size=0.1)
    np.testing.assert_allclose(given["y"].values, 0.1 * np.arange(20))


def test_signal_without_unit_stays_in_pixels():
    image = analysis.as_image(signal(np.eye(20), units="<undefined>", scale=(1.0, 1.0)))
    assert image.attrs["calibrated"] == 0
    assert image["x"].attrs["units"] == "px"


def test_unusable_signals_are_refused():
    values = np.eye(20)
    mixed = signal(values)
    mixed.axes_manager.signal_axes[1].units = "pm"
    stack = signal(values)
    stack.axes_manager.navigation_axes = (stack.axes_manager.signal_axes[0],)
    uneven = signal(values)
    del uneven.axes_manager.signal_axes[0].scale
    for bad, words in ((mixed, "two units"), (stack, "2-D"), (uneven, "uneven")):
        with pytest.raises(analysis.ImageError, match=words):
            analysis.as_image(bad)
    with pytest.raises(analysis.ImageError, match="diffraction"):
        analysis.as_image(signal(values, units="1/nm"))


def test_atomap_file_in_angstrom(atomap_file, assert_units):
    path, pixels = atomap_file
    image, columns = exchange.load_atomap(path, sites={"heavy": "A", "faint": "B"})
    np.testing.assert_array_equal(image.values, pixels)
    np.testing.assert_allclose(image["x"].values, 0.2 * np.arange(50))
    assert list(columns["site"].values) == ["A", "A", "B"]
    np.testing.assert_allclose(columns["x"].values, [2.0, 6.0, 4.0])
    np.testing.assert_allclose(columns["y"].values, [4.0, 4.2, 1.1])
    np.testing.assert_allclose(columns["sigma_major"].values, [0.6, 0.6, 0.3])
    np.testing.assert_allclose(columns["sigma_minor"].values, [0.4, 0.4, 0.2])
    # Atomap's sigma_x leans up where ours, with y down, leans down; the second column is longer along sigma_y.
    np.testing.assert_allclose(columns["theta"].values, [-0.4, np.pi / 2 - 0.4, np.pi - 3.0])
    assert_units(columns)
    assert columns["x"].attrs["units"] == "Å"


def test_atomap_file_with_its_own_names_and_in_pixels(atomap_file):
    path, _ = atomap_file
    assert list(exchange.load_atomap(path)[1]["site"].values) == ["heavy", "heavy", "faint"]
    with h5py.File(path, "r+") as file:
        for group in ("heavy_sublattice", "faint_sublattice"):
            file[group].attrs.update({"units": "pixel", "pixel_size": 1.0})
    image, columns = exchange.load_atomap(path)
    assert image.attrs["calibrated"] == 0
    assert columns["x"].attrs["units"] == "px"
    np.testing.assert_allclose(columns["x"].values, [10.0, 30.0, 20.0])
    given = exchange.load_atomap(path, pixel_size=0.5)[1]
    assert given["sigma_major"].attrs["units"] == "Å"
    np.testing.assert_allclose(given["sigma_major"].values, [1.5, 1.5, 0.75])


def test_bad_atomap_files_are_refused(atomap_file, tmp_path):
    path, _ = atomap_file
    with pytest.raises(analysis.ImageError, match="light is no sublattice"):
        exchange.load_atomap(path, sites={"light": "A"})
    with pytest.raises(analysis.ImageError, match="pixel_size=-1"):
        exchange.load_atomap(path, pixel_size=-1)
    with pytest.raises(analysis.ImageError, match="no such file"):
        exchange.load_atomap(tmp_path / "none.hdf5")
    text = tmp_path / "text.hdf5"
    text.write_text("no HDF5")
    empty = tmp_path / "empty.hdf5"
    h5py.File(empty, "w").close()
    for bad in (text, empty):
        with pytest.raises(analysis.ImageError, match=bad.name):
            exchange.load_atomap(bad)


def test_dataframe_has_every_number_and_its_unit(polar):
    measurement, _ = polar
    cells = measurement.unit_cells
    frame = exchange.to_dataframe(cells)
    assert len(frame) == cells.sizes["cell"]
    np.testing.assert_array_equal(frame["d_y"], cells["d"].sel(component="y"))
    np.testing.assert_array_equal(frame["d_cov_xy"], cells["d_cov"].sel(component="x", component_2="y"))
    assert "d_cov_yx" not in frame
    units = frame.attrs["units"]
    assert set(units) == set(frame.columns)
    assert (units["d_x"], units["d_cov_yy"], units["vector_a_x"]) == ("pm", "pm2", "Å")
    assert frame.attrs["convention"] == cells.attrs["convention"]
    columns = exchange.to_dataframe(measurement.columns)
    assert set(columns["site"]) == {"A", "B"}
    with pytest.raises(analysis.ImageError, match="dims"):
        exchange.to_dataframe(cells.expand_dims(tilt_x=[0.0]))


def test_csv_reads_back(polar, tmp_path):
    cells = polar[0].unit_cells
    path = exchange.write_csv(cells, tmp_path / "new" / "cells.csv")
    pd.testing.assert_frame_equal(
        pd.read_csv(path, comment="#"),
        exchange.to_dataframe(cells),
        check_dtype=False,
        rtol=1e-12,
    )
    head = path.read_text(encoding="utf-8")
    assert "# d_x [pm]\n" in head
    assert "# convention: d = mean of the surrounding A columns - central B column" in head
    assert [p.name for p in path.parent.iterdir()] == ["cells.csv"]


def test_csv_keeps_words_with_a_comment_sign(tmp_path):
    table = xr.Dataset({"site": ("column", np.array(["#1", "a,b"], dtype=object), {"units": "1"})})
    path = exchange.write_csv(table, tmp_path / "sites.csv")
    assert list(pd.read_csv(path, comment="#")["site"]) == ["#1", "a,b"]


def test_xyz_reads_back(polar, tmp_path):
    measurement, d = polar
    columns = measurement.columns
    path = exchange.write_xyz(measurement, tmp_path / "columns.xyz", elements={"A": "Pb", "B": "Ti"})
    atoms = ase.io.read(path)
    is_b = columns["site"].values == "B"
    assert {*np.array(atoms.get_chemical_symbols())[is_b]} == {"Ti"}
    np.testing.assert_allclose(atoms.positions[:, 0], columns["x"].values, atol=1e-6)
    np.testing.assert_allclose(atoms.positions[:, 1], columns["y"].values, atol=1e-6)
    assert (atoms.positions[:, 2] == 0).all()
    np.testing.assert_allclose(atoms.cell.lengths(), [240 * 0.18, 220 * 0.18, 1.0], atol=1e-6)
    np.testing.assert_allclose(atoms.info["Origin"], [-0.09, -0.09, 0.0])
    np.testing.assert_allclose(atoms.arrays["sigma_major"], columns["sigma_major"].values, atol=1e-7)
    np.testing.assert_array_equal(atoms.arrays["flag"], columns["flag"].values)
    measured = np.isfinite(atoms.arrays["d"]).all(1)
    assert measured.sum() == measurement.unit_cells.sizes["cell"]
    assert not measured[~is_b].any()
    good = measured & (atoms.arrays["flag"] == 0)
    np.testing.assert_allclose(np.median(atoms.arrays["d"][good], 0), [*d, 0.0], atol=0.05)
    assert "pm" in atoms.info["convention"]


def test_xyz_puts_each_displacement_on_its_own_column(polar, tmp_path):
    measurement, _ = polar
    cells = measurement.unit_cells.copy(deep=True)
    cells["d"][:] = np.stack([cells["x"].values, cells["y"].values], 1)
    marked = analysis.Measurement(
        measurement.columns, cells, measurement.lattice, measurement.quality, measurement.image
    )
    atoms = ase.io.read(exchange.write_xyz(marked, tmp_path / "columns.xyz"))
    there = np.isfinite(atoms.arrays["d"][:, 0])
    np.testing.assert_allclose(atoms.arrays["d"][there], atoms.positions[there], atol=1e-6)


def test_xyz_names_a_wrong_element(polar, tmp_path):
    for elements, words in (({"A": "Bi"}, "site B"), ({"A": "Bi", "B": "Xx"}, "Xx")):
        with pytest.raises(analysis.ImageError, match=words):
            exchange.write_xyz(polar[0], tmp_path / "columns.xyz", elements=elements)
    assert not list(tmp_path.iterdir())


#: A square of A columns, px, y down, and B 1 px right of its centre and 2 px below it.
CENTRE, B = np.array([10.0, 20.0]), np.array([11.0, 22.0])
#: So d points left and up: −1 and −2 px of 0.2 Å, in pm.
EXPECTED = [-20.0, -40.0]


def test_atomap_points_from_b_to_the_centre():
    cells = polar_signs.from_atomap(*CENTRE, *(CENTRE - B), pixel_size=0.2)
    np.testing.assert_allclose(cells["d"].values, [EXPECTED])
    np.testing.assert_allclose([cells["x"].item(), cells["y"].item()], B * 0.2)
    assert cells["d"].attrs["units"] == "pm"


def test_temul_points_from_the_centre_to_b():
    cells = polar_signs.from_temul(*CENTRE, *(B - CENTRE), pixel_size=0.2)
    np.testing.assert_allclose(cells["d"].values, [EXPECTED])
    np.testing.assert_allclose([cells["x"].item(), cells["y"].item()], B * 0.2)


@pytest.mark.parametrize("package", ["atomap", "temul"])
def test_signs_there_and_back(polar, package):
    there, back = (getattr(polar_signs, f"{way}_{package}") for way in ("to", "from"))
    cells = polar[0].unit_cells
    arrows = there(cells, origin=(1.0, -2.0))
    again = back(*arrows, pixel_size=0.18, origin=(1.0, -2.0))
    for name in ("x", "y", "d"):
        np.testing.assert_allclose(again[name].values, cells[name].values, atol=1e-9)
    # A pixel can be oblong: the same arrow then has other lengths in px.
    oblong = there(cells, pixel_size=(0.09, 0.36), origin=(1.0, -2.0))
    np.testing.assert_allclose(oblong.u, 2 * arrows.u)
    np.testing.assert_allclose(oblong.v, arrows.v / 2)


def test_signs_of_a_measurement(polar):
    measurement, d = polar
    cells = measurement.unit_cells.isel(cell=measurement.unit_cells["flag"].values == 0)
    atomap, temul = polar_signs.to_atomap(cells), polar_signs.to_temul(cells)
    np.testing.assert_allclose(atomap.u.mean(), d[0] / 100 / 0.18, atol=1e-3)
    np.testing.assert_allclose(atomap.v.mean(), d[1] / 100 / 0.18, atol=1e-3)
    np.testing.assert_array_equal(temul.u, -atomap.u)
    np.testing.assert_array_equal(temul.v, -atomap.v)
    # Both start in the middle of the A columns.
    np.testing.assert_allclose((atomap.x * 0.18 - cells["x"].values).mean(), d[0] / 100, atol=1e-3)
    np.testing.assert_array_equal(temul.x, atomap.x)


def test_unusable_arrows_are_refused(polar):
    with pytest.raises(analysis.ImageError, match="same length"):
        polar_signs.from_atomap([1, 2], [1, 2], [1, 2], [1], 0.2)
    with pytest.raises(analysis.ImageError, match="pixel_size"):
        polar_signs.from_temul(1, 2, 3, 4, 0.0)
    with pytest.raises(analysis.ImageError, match="pixel_size"):
        polar_signs.to_atomap(polar[0].unit_cells.drop_attrs())
