"""What windows must be for every image: the same scene, the same windows; and nothing of the test part in the training part."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dcnn
from dcnn import Windows, labelled_windows, split_line, sub_images, with_columns

A0 = 4.0  # Å, as in conftest


def a_columns(scene):
    """Places (x, y) of the scene's A columns: the bright ones."""
    return scene.columns[scene.columns[:, 2] == 1.0, :2]


def drawn(scene, step_x, step_y, origin=(0.0, 0.0)):
    """The scene on pixels that need not be square, first pixel at ``origin``."""
    x = np.arange(origin[0], scene.extent[0] + 1e-9, step_x)
    y = np.arange(origin[1], scene.extent[1] + 1e-9, step_y)
    gx, gy = (
        np.exp(-((v[None] - scene.columns[:, k, None]) ** 2) / (2 * 0.45**2)) for k, v in ((0, x), (1, y))
    )
    image = 0.1 + (scene.columns[:, 2, None] * gy).T @ gx
    units = {"units": "Å"}
    return xr.DataArray(image, dims=("y", "x"), coords={"y": ("y", y, units), "x": ("x", x, units)})


def rms(difference):
    """Largest rms difference of a window; windows have unit contrast."""
    return float(np.sqrt(np.square(difference).mean(axis=(1, 2))).max())


@pytest.fixture(scope="module")
def scene(make_scene):
    return make_scene(7, 6)


@pytest.fixture(scope="module")
def reference(scene):
    """Windows of the finest pixels."""
    return sub_images(drawn(scene, 0.05, 0.05), Windows(), scene.cells)


@settings(max_examples=15, deadline=None)
@given(
    step=st.tuples(st.floats(0.1, 0.3), st.floats(0.1, 0.3)),
    origin=st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
)
def test_windows_of_a_scene_do_not_depend_on_its_pixels(scene, reference, step, origin):
    """Neither on their size, nor their shape, nor on where they lie."""
    # A few pixels inside the border, where no pixel size cuts a window off.
    cut = sub_images(drawn(scene, *step, origin), Windows(), scene.cells)
    common, i, j = np.intersect1d(cut["index"], reference["index"], return_indices=True)
    assert len(common) >= 20
    assert rms(cut["intensity"].values[i] - reference["intensity"].values[j]) < 0.015
    # The yardstick: a window moved by 10 pm differs by far more.
    moved = scene.cells.assign(x=scene.cells["x"] + 0.1)
    other = sub_images(drawn(scene, 0.1, 0.1), Windows(), moved)
    _, i, j = np.intersect1d(other["index"], reference["index"], return_indices=True)
    assert rms(other["intensity"].values[i] - reference["intensity"].values[j]) > 0.05


def test_stretched_pixels_do_not_stretch_windows(scene, reference):
    """Coordinates count, not pixels: an image whose pixels are half as high as wide."""
    cut = sub_images(drawn(scene, 0.24, 0.12), Windows(), scene.cells)
    as_square = xr.DataArray(
        drawn(scene, 0.24, 0.12).values,
        dims=("y", "x"),
        coords={
            "y": ("y", np.arange(drawn(scene, 0.24, 0.12).sizes["y"]) * 0.24, {"units": "Å"}),
            "x": drawn(scene, 0.24, 0.12).x,
        },
    )
    wrong = sub_images(as_square, Windows(), scene.cells)
    both = np.intersect1d(cut["index"], reference["index"], return_indices=True)
    assert rms(cut["intensity"].values[both[1]] - reference["intensity"].values[both[2]]) < 0.015
    both = np.intersect1d(wrong["index"], reference["index"], return_indices=True)
    assert rms(wrong["intensity"].values[both[1]] - reference["intensity"].values[both[2]]) > 0.5


@settings(max_examples=25, deadline=None)
@given(
    border=st.tuples(*[st.integers(0, 12)] * 4),
    holes=st.lists(st.tuples(st.floats(0.02, 0.98), st.floats(0.02, 0.98)), max_size=3),
    mode=st.sampled_from(["centred", "sliding"]),
)
def test_bad_pixels_drop_the_windows_that_touch_them_and_no_others(scene, border, holes, mode):
    image = drawn(scene, 0.2, 0.2)
    whole_values = image.values.copy()
    torn = image.copy(deep=True)
    left, right, top, bottom = border
    bad = np.zeros(image.shape, dtype=bool)
    bad[:, :left], bad[:top] = True, True
    bad[:, image.sizes["x"] - right :], bad[image.sizes["y"] - bottom :] = True, True
    for v, u in holes:
        bad[int(v * image.sizes["y"]), int(u * image.sizes["x"])] = True
    torn.values[bad] = np.nan
    windows = Windows(mode, stride_angstrom=1.7)
    centres = scene.cells if mode == "centred" else None
    whole, cut = (sub_images(i, windows, centres) for i in (image, torn))
    # By hand: a window is kept when no bad pixel lies within half its width, give or take the pixel that its edge falls in.
    half, pixel = windows.size_angstrom / 2, 0.2
    y_bad, x_bad = (image[dim].values[index] for dim, index in zip("yx", np.nonzero(bad), strict=True))
    for row, (x, y, index) in enumerate(
        zip(whole["x"].values, whole["y"].values, whole["index"].values, strict=True)
    ):
        distance = np.maximum(np.abs(x_bad - x), np.abs(y_bad - y)).min() if bad.any() else np.inf
        kept = np.flatnonzero(cut["index"].values == index)
        if distance <= half:
            assert not len(kept)
        elif distance >= half + pixel:
            assert len(kept) == 1
            difference = cut["intensity"].values[kept[0]] - whole["intensity"].values[row]
            assert np.sqrt(np.square(difference).mean()) < 0.01
    assert cut.attrs["left_out_nan"] == whole.sizes["window"] - cut.sizes["window"]
    np.testing.assert_array_equal(image.values, whole_values)


def marked(image, centres, size):
    """Which pixels lie in any of the windows, edges included: window by window, pixel by pixel."""
    x, y = image.x.values, image.y.values
    mark = np.zeros(image.shape, dtype=bool)
    for cx, cy in centres:
        mark[np.ix_(np.abs(y - cy) <= size / 2, np.abs(x - cx) <= size / 2)] = True
    return mark


def sides(image, scene, windows):
    """Centres (n, 2) of the training and of the test windows."""
    line = split_line(image)
    columns = a_columns(scene) if windows.site == "A" and windows.mode == "centred" else None
    for subset in ("train", "test"):
        cut = labelled_windows(image, scene.cells, windows, subset=subset, split_x=line, columns=columns)
        yield np.column_stack([cut["x"].values, cut["y"].values])


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from([("centred", "B"), ("centred", "A"), ("sliding", "B")]),
    size=st.floats(4.0, 9.0),
    stride=st.floats(0.7, 4.0),
    step=st.floats(0.15, 0.3),
    origin=st.floats(-50.0, 50.0),
)
def test_no_pixel_of_a_training_window_is_in_a_test_window(make_scene, kind, size, stride, step, origin):
    scene = make_scene(11, 3)
    mode, site = kind
    image = scene.draw(step)
    shifted = scene.cells.assign(x=scene.cells["x"] + origin)
    shifted["x"].attrs = {"units": "Å"}
    image = image.assign_coords(x=("x", image.x.values + origin, {"units": "Å"}))
    moved = type(scene)(scene.columns + np.array([origin, 0, 0]), shifted, scene.extent)
    windows = Windows(mode, size_angstrom=size, stride_angstrom=stride, site=site)
    train, test = (marked(image, centres, size) for centres in sides(image, moved, windows))
    assert train.any()
    assert test.any()
    # A pixel on the very line may be the edge of both; pixels further in may not.
    on_line = np.abs(image.x.values - split_line(image)) < 1e-6
    assert not (train & test)[:, ~on_line].any()


@pytest.mark.parametrize("mode", ["centred", "sliding"])
def test_a_guard_band_is_as_wide_as_a_window(make_scene, mode):
    """What is lost to it is what must be lost: a window could be put on either side of the line, but not across."""
    scene = make_scene(12, 4)
    image = scene.draw(0.2)
    windows = Windows(mode, stride_angstrom=0.5)
    train, test = sides(image, scene, windows)
    gap = test[:, 0].min() - train[:, 0].max()
    # Labels are known between cells of one side only, so that sliding windows too end at a cell.
    assert windows.size_angstrom <= gap <= windows.size_angstrom + 2 * A0


@settings(max_examples=15, deadline=None)
@given(slope=st.tuples(*[st.floats(-3, 3)] * 4), offset=st.tuples(*[st.floats(-30, 30)] * 2))
def test_windows_on_a_columns_take_the_displacement_between_their_b_columns(make_scene, slope, offset):
    scene = make_scene(8, 6)
    cells = scene.cells.copy(deep=True)
    plane = np.array(slope).reshape(2, 2)
    cells["d"].values[:] = np.column_stack([cells.x, cells.y]) @ plane.T + offset
    cut = labelled_windows(scene.draw(), cells, Windows(site="A"), columns=a_columns(scene))
    at = np.column_stack([cut["x"].values, cut["y"].values])
    # The mean of the four cells around, whose B columns need not be centred on the A column.
    b = np.column_stack([cells.x, cells.y])
    middle = np.array([b[np.argsort(np.hypot(*(b - a).T))[:4]].mean(axis=0) for a in at])
    np.testing.assert_allclose(cut["d_label"], middle @ plane.T + offset, atol=1e-6)
    # All inner A columns are there, and only columns that cells surround.
    a = a_columns(scene)
    inner = ((a > a.min(axis=0) + 1) & (a < a.max(axis=0) - 1)).all(axis=1)
    assert cut.sizes["window"] == inner.sum()


def test_windows_on_a_columns_have_the_brightest_in_their_middle(make_scene):
    scene = make_scene(8, 6)
    cells = with_columns(
        scene.cells,
        xr.Dataset(
            {
                "x": ("column", scene.columns[:, 0], {"units": "Å"}),
                "y": ("column", scene.columns[:, 1], {"units": "Å"}),
                "site": ("column", np.where(scene.columns[:, 2] == 1.0, "A", "B")),
            }
        ),
    )
    image = scene.draw()
    on_a = labelled_windows(image, cells, Windows(site="A"))
    on_b = labelled_windows(image, cells, Windows())
    assert on_a.sizes["window"] > 20
    middle = np.abs(on_a.row.values) < 0.3
    for cut, bright in ((on_a, True), (on_b, False)):
        core = cut["intensity"].values[:, middle][:, :, middle].mean(axis=(1, 2))
        corner = (
            cut["intensity"].values[:, 3:6, 3:6].mean(axis=(1, 2))
        )  # (−2, −2) Å: the other kind of column
        assert ((core > corner) == bright).all()
    # Symmetric about the column to a fraction of a sample: the middle of mass of the core is the centre.
    weight = on_a["intensity"].values - on_a["intensity"].values.min()
    near = np.abs(on_a.row.values) < 1.0
    core = weight[:, near][:, :, near]
    offset = (core * on_a.col.values[near]).sum(axis=(1, 2)) / core.sum(axis=(1, 2))
    assert np.abs(offset).max() < 0.02


def test_flagged_a_columns_centre_no_window(make_scene):
    scene = make_scene(8, 6)
    a = a_columns(scene)
    columns = xr.Dataset(
        {
            "x": ("column", a[:, 0], {"units": "Å"}),
            "y": ("column", a[:, 1], {"units": "Å"}),
            "site": ("column", np.full(len(a), "A")),
            "flag": ("column", np.arange(len(a)) % 7 == 0),
        }
    )
    image = scene.draw()
    whole = labelled_windows(image, with_columns(scene.cells, columns.drop_vars("flag")), Windows(site="A"))
    cut = labelled_windows(image, with_columns(scene.cells, columns), Windows(site="A"))
    good = a[np.arange(len(a)) % 7 != 0]
    at = np.column_stack([cut["x"].values, cut["y"].values])
    assert np.abs(at[:, None] - good).max(axis=-1).min(axis=1).max() < 1e-9
    assert 0 < cut.sizes["window"] < whole.sizes["window"]


def test_a_columns_that_are_not_given_are_asked_for(make_scene):
    scene = make_scene(4, 4)
    with pytest.raises(dcnn.ModelError, match="with_columns"):
        labelled_windows(scene.draw(), scene.cells, Windows(site="A"))


def reach(image, centres, windows, line):
    """How far beyond ``line``, Å, pixels change what windows on ``centres`` hold, by more than 0.1 % of their contrast."""
    before = sub_images(image, windows, centres)["intensity"].values
    farthest = 0.0
    for column in np.flatnonzero(np.abs(image.x.values - line) < 2.0):
        changed = image.copy(deep=True)
        changed.values[:, column] += 0.1 * float(image.std()) * np.cos(1.7 * image.y.values)
        after = sub_images(changed, windows, centres)["intensity"].values
        outward = np.sign(line - centres[0, 0]) * (image.x.values[column] - line)
        if np.abs(after - before).max() > 1e-3 * 0.1:
            farthest = max(farthest, float(outward))
    return farthest


@pytest.mark.parametrize("step", [0.1, 0.2, 0.3])
def test_a_window_feels_pixels_beyond_its_edge_by_at_most_four(make_scene, step):
    """Smoothing and splines read on: by little more than an ångström where pixels are coarse."""
    scene = make_scene(8, 4)
    image = drawn(scene, step, step)
    windows = Windows()
    centre = np.array([[12.3, 10.0]])
    edge = centre[0, 0] + windows.size_angstrom / 2
    assert reach(image, centre, windows, edge) <= 4 * step + 1e-6


def test_jitter_carries_no_training_window_over_the_line(make_scene):
    scene = make_scene(12, 4)
    image = scene.draw(0.2)
    line = split_line(image)
    jitter = np.random.default_rng(0).normal(0, 0.3, (200, 2))
    for windows in (Windows(), Windows(size_angstrom=5.0), Windows(size_angstrom=7.0)):
        cut = labelled_windows(image, scene.cells, windows, subset="train", split_x=line, jitter=jitter)
        assert cut["x"].max() + windows.size_angstrom / 2 <= line
