"""Every format comes out the same; every bad file gives one sentence."""

import h5py
import numpy as np
import pytest
import tifffile
from rsciio import hspy

import analysis


@pytest.fixture
def picture():
    return np.random.default_rng(0).random((40, 50)).astype(np.float32)


def hspy_file(path, values, scale=0.02, units="nm", axes=None):
    axes = axes or [
        {
            "name": n,
            "size": s,
            "index_in_array": i,
            "scale": scale,
            "offset": 0.0,
            "units": units,
            "navigate": False,
        }
        for i, (n, s) in enumerate(zip(("y", "x"), values.shape, strict=True))
    ]
    signal = {
        "data": values, "axes": axes, "metadata": {"General": {"title": "t"}, "Signal": {"signal_type": ""}},
        "original_metadata": {}, "attributes": {"_lazy": False, "ragged": False}, "package_info": {},
        "tmp_parameters": {}, "learning_results": {}, "models": {},
    }  # fmt: skip
    hspy.file_writer(str(path), signal)
    return path


@pytest.mark.parametrize(
    ("units", "scale", "angstrom"),
    [("nm", 0.02, 0.2), ("pm", 20.0, 0.2), ("µm", 2e-5, 0.2), ("m", 2e-11, 0.2), ("Å", 0.2, 0.2)],
)
def test_units_become_angstrom(tmp_path, picture, units, scale, angstrom):
    image = analysis.load(hspy_file(tmp_path / "a.hspy", picture, scale, units))
    assert image.dims == ("y", "x")
    assert image.attrs["calibrated"] == 1
    assert image.attrs["pixel_size_angstrom"] == pytest.approx(angstrom)
    assert image["x"].attrs["units"] == "Å"
    np.testing.assert_allclose(image["x"].values, np.arange(50) * angstrom)
    np.testing.assert_array_equal(image.values, picture)


@pytest.mark.parametrize(("units", "scale"), [("", 0.009), ("nm", 35.0), ("furlong", 1.0)])
def test_no_calibration_is_invented(tmp_path, picture, units, scale):
    image = analysis.load(hspy_file(tmp_path / "a.hspy", picture, scale, units))
    assert image.attrs["calibrated"] == 0
    assert image["x"].attrs["units"] == "px"
    assert "pixel_size_angstrom" not in image.attrs
    assert image.attrs["calibration"].startswith("none")
    given = analysis.load(tmp_path / "a.hspy", pixel_size=0.1)
    assert given.attrs["calibrated"] == 1
    assert float(given["y"][1]) == pytest.approx(0.1)


def test_diffraction_pattern_is_refused(tmp_path, picture):
    with pytest.raises(analysis.ImageError, match="diffraction"):
        analysis.load(hspy_file(tmp_path / "a.hspy", picture, 0.01, "1/nm"))


def test_formats(tmp_path, picture):
    np.save(tmp_path / "a.npy", picture)
    tifffile.imwrite(tmp_path / "a.tif", picture)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["some/where"] = picture
    for name in ("a.npy", "a.tif", "a.h5"):
        image = analysis.load(tmp_path / name)
        np.testing.assert_array_equal(image.values, picture)
        assert image.attrs["source"] == name


def test_published_pair(tmp_path, picture):
    picture[:3] = np.nan
    with h5py.File(tmp_path / "Sm_0_0_HAADF.h5", "w") as file:
        file["MainImage"] = picture
        file["Other"] = picture[:20]
    image = analysis.load(tmp_path / "Sm_0_0_HAADF.h5")
    assert np.isnan(image.values[:3]).all()
    assert np.isfinite(image.values[3:]).all()
    assert image.attrs["calibrated"] == 0
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        file["ab"] = np.arange(10).reshape(2, 5)
        file["xy_COM"] = np.arange(10.0).reshape(2, 5)
        file["Pxy"] = -np.arange(10.0).reshape(2, 5)
        file["I5"] = np.arange(5.0)[None]
    cells = analysis.load_published_cells(tmp_path / "cells.h5")
    assert cells.sizes["cell"] == 5
    np.testing.assert_array_equal(cells["Pxy"].sel(component="y").values, -np.arange(5.0, 10))
    np.testing.assert_array_equal(cells["I5"].values, np.arange(5.0))
    with pytest.raises(analysis.ImageError, match="xy_COM"):
        analysis.load_published_cells(tmp_path / "Sm_0_0_HAADF.h5")


def test_several_images_need_a_choice(tmp_path, picture):
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["one"], file["two"] = picture, 2 * picture
    with pytest.raises(analysis.ImageError, match=r"'one', 'two'.*dataset="):
        analysis.load(tmp_path / "two.h5")
    np.testing.assert_array_equal(analysis.load(tmp_path / "two.h5", dataset="two").values, 2 * picture)


def test_pickles_only_when_asked(tmp_path, picture):
    content = {"Sm_0_0": {"main_image": picture}, "Sm_7_0": {"main_image": 2 * picture}}
    np.save(tmp_path / "dict.npy", np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(analysis.ImageError, match="allow_pickle=True"):
        analysis.load(tmp_path / "dict.npy")
    with pytest.raises(analysis.ImageError, match="Sm_7_0"):
        analysis.load(tmp_path / "dict.npy", allow_pickle=True)
    image = analysis.load(tmp_path / "dict.npy", allow_pickle=True, dataset="Sm_7_0")
    np.testing.assert_array_equal(image.values, 2 * picture)


def write(path, content):
    if path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".tif" and not isinstance(content, bytes):
        tifffile.imwrite(path, content)
    else:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.dm4", b"not a micrograph", "cannot be read"),
        ("a.dm3", b"", "cannot be read"),
        ("a.mrc", b"\0" * 50, "cannot be read"),
        ("a.emd", b"\0" * 50, "HDF5"),
        ("a.hspy", b"\x89HDF\r\n\x1a\n" + b"\0" * 30, "HDF5"),
        ("a.tif", b"II*\0", "TIFF"),
        ("a.npy", b"\x93NUMPY\x01", "npy"),
        ("a.jpg", b"\xff\xd8", "unknown file type"),
        ("c.npy", np.ones((40, 40)), "constant"),
        ("n.npy", np.full((40, 40), np.nan), "no finite pixel"),
        ("s.npy", np.random.default_rng(0).random((8, 40)), "only 40×8 px"),
        ("z.npy", np.ones((40, 40), complex), "complex"),
        ("t.npy", np.full((40, 40), "x"), "not numbers"),
        ("d.npy", np.random.default_rng(0).random((5, 40, 40)), "shape"),
        ("rgb.tif", np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8), "colour"),
        ("rgb.npy", np.random.default_rng(0).random((40, 40, 3)), "colour"),
    ],
)
def test_bad_files_get_one_sentence(tmp_path, name, content, words):
    path = tmp_path / name
    write(path, content)
    with pytest.raises(analysis.ImageError, match=words) as caught:
        analysis.load(path)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert message.endswith(".")


def test_missing_file_and_wrong_pixel_size(tmp_path, picture):
    with pytest.raises(analysis.ImageError, match="no such file"):
        analysis.load(tmp_path / "none.dm4")
    np.save(tmp_path / "a.npy", picture)
    with pytest.raises(analysis.ImageError, match="pixel_size"):
        analysis.load(tmp_path / "a.npy", pixel_size=0.0)


def test_truncated_real_file(tmp_path, real_data):
    whole = (real_data / "BTO_crystal_1.dm4").read_bytes()
    (tmp_path / "half.dm4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(analysis.ImageError, match=r"half\.dm4.*truncated"):
        analysis.load(tmp_path / "half.dm4")
