import numpy as np
import pytest
import xarray as xr

from dcnn import ModelError, Windows, sub_images


def flat(nx=101, ny=81, pixel=0.2):
    units = {"units": "Å"}
    coords = {"y": ("y", np.arange(ny) * pixel, units), "x": ("x", np.arange(nx) * pixel, units)}
    return xr.DataArray(np.ones((ny, nx)), dims=("y", "x"), coords=coords)


def test_a_window_holds_the_image_at_the_right_place_and_the_right_way_up():
    # A spot right of and above the centre: at larger x (col) and smaller y (row).
    image = flat()
    image = image + np.exp(-((image.x - 11.0) ** 2 + (image.y - 7.5) ** 2) / 0.4)
    cut = sub_images(image.transpose("y", "x").assign_coords(image.coords), Windows(), [(10.0, 8.5)])
    window = cut["intensity"].isel(window=0)
    peak = window.where(window == window.max(), drop=True)
    assert abs(float(peak.col[0]) - 1.0) <= 0.13
    assert abs(float(peak.row[0]) + 1.0) <= 0.13


def test_windows_of_a_plane_are_the_plane():
    # A ramp goes through smoothing and splines unchanged, so every sample has a known value.
    image = flat()
    ramp = image * (2 * image.x + 3 * image.y)
    ramp = ramp.transpose("y", "x").assign_coords(image.coords)
    cut = sub_images(ramp, Windows(), [(9.93, 8.11)])
    expected = 2 * cut.col.values[None, :] + 3 * cut.row.values[:, None]
    expected = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(cut["intensity"][0], expected, atol=2e-3)


def test_windows_are_normalised_and_blind_to_gain_and_offset(make_scene):
    scene = make_scene(8, 8)
    image = scene.draw()
    one = sub_images(image, Windows(), scene.cells)
    other = sub_images((7 * image + 300).assign_coords(image.coords), Windows(), scene.cells)
    values = one["intensity"].values
    np.testing.assert_allclose(values.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=(1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(values, other["intensity"].values, atol=1e-3)


def test_windows_do_not_depend_on_the_pixel_size(make_scene):
    scene = make_scene(8, 8)
    fine, coarse = (sub_images(scene.draw(pixel), Windows(), scene.cells) for pixel in (0.1, 0.15))
    assert fine.sizes == coarse.sizes
    difference = np.abs(fine["intensity"].values - coarse["intensity"].values)
    # The yardstick is a window moved by a single picometre.
    moved = sub_images(scene.draw(0.1), Windows(), scene.cells.assign(x=scene.cells.x + 0.01))
    picometre = np.abs(fine["intensity"].values - moved["intensity"].values).max()
    assert difference.max() < 0.25 * picometre


def test_fine_pixels_are_averaged_not_skipped():
    # White noise in 0.05 Å pixels: a window sample 0.25 Å wide averages 25 of them, about 5 times less noise.
    image = flat(401, 401, 0.05)
    image.values[:] = np.random.default_rng(0).normal(size=image.shape) + 10 * np.sin(image.x.values)
    windows = Windows()
    clean = image.copy(data=np.broadcast_to(10 * np.sin(image.x.values), image.shape).copy())
    noisy, quiet = (sub_images(i, windows, [(10.0, 10.0)])["intensity"][0] for i in (image, clean))
    spread = float((noisy - quiet).std()) * 10 * np.sin(image.x.values[140:260]).std()
    assert 0.1 < spread < 0.3


def test_windows_that_touch_nan_are_left_out_and_the_rest_are_unchanged(make_scene):
    scene = make_scene(10, 10)
    image = scene.draw()
    torn = image.copy(deep=True)
    torn.values[:, image.x.values < 9.0] = np.nan
    whole, cut = (sub_images(i, Windows(), scene.cells) for i in (image, torn))
    kept = whole["x"].values - 3.0 >= 9.0
    assert cut.attrs["left_out_nan"] == (~kept).sum() > 0
    np.testing.assert_allclose(cut["intensity"], whole["intensity"][kept], atol=0.02)
    np.testing.assert_array_equal(cut["index"], whole["index"][kept])
    # One bad pixel in the middle of a window is enough.
    image.values[image.shape[0] // 2, image.shape[1] // 2] = np.nan
    assert sub_images(image, Windows(), scene.cells).attrs["left_out_nan"] >= 1


def test_windows_off_the_image_or_without_contrast_are_counted():
    image = flat()
    image.values[:, :40] += np.random.default_rng(0).normal(size=(81, 40))
    cut = sub_images(image, Windows(), [(4.0, 8.0), (2.9, 8.0), (15.0, 8.0), (17.1, 8.0)])
    assert (cut.sizes["window"], cut.attrs["left_out_border"], cut.attrs["left_out_flat"]) == (1, 2, 1)
    assert cut["index"].values.tolist() == [0]


def test_sliding_windows_fill_the_image_at_the_stride():
    image = flat()  # 20 × 16 Å: centres from 3 to 17 and from 3 to 13
    image.values[:] = np.random.default_rng(0).normal(size=image.shape)
    cut = sub_images(image, Windows("sliding", stride_angstrom=2.0))
    assert np.unique(cut["x"]).tolist() == pytest.approx([3, 5, 7, 9, 11, 13, 15, 17])
    assert np.unique(cut["y"]).tolist() == pytest.approx([3, 5, 7, 9, 11, 13])
    assert cut.sizes["window"] == 48


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"mode": "moving"}, "mode"),
        ({"size_angstrom": -1.0}, "size_angstrom"),
        ({"size_angstrom": float("nan")}, "size_angstrom"),
        ({"stride_angstrom": 0.0}, "stride_angstrom"),
        ({"pixels": 4}, "pixels"),
        ({"pixels": 24.0}, "pixels"),
    ],
)
def test_absurd_windows_are_refused(bad, word):
    with pytest.raises(ModelError, match=word):
        Windows(**bad)


def test_images_that_cannot_be_cut_are_refused():
    image = flat()
    bare = xr.DataArray(image.values, dims=("y", "x"))
    pixels = image.assign_coords(x=("x", np.arange(101.0), {"units": "px"}))
    uneven = image.assign_coords(x=("x", np.linspace(1, 5, 101) ** 2, {"units": "Å"}))
    falling = image.assign_coords(y=("y", image.y.values[::-1], {"units": "Å"}))
    for bad, word in ((bare, "Å"), (pixels, "Å"), (uneven, "evenly"), (falling, "rise"), (image.T, "dims")):
        with pytest.raises(ModelError, match=word):
            sub_images(bad, Windows(), [(8.0, 8.0)])
    with pytest.raises(ModelError, match="larger than the image"):
        sub_images(image, Windows(size_angstrom=17.0), [(8.0, 8.0)])
    with pytest.raises(ModelError, match="need centres"):
        sub_images(image, Windows())
    with pytest.raises(ModelError, match="shape"):
        sub_images(image, Windows(), [8.0, 8.0, 8.0])
    with pytest.raises(ModelError, match="not finite"):
        sub_images(image, Windows(), [(8.0, np.nan)])
