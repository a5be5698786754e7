import numpy as np
import pytest

from dcnn import ModelError, TrainSettings, Windows, labelled_windows, split, split_line
from dcnn._labels import usable_cells
from dcnn._training import _map_samples

SLIDING = Windows("sliding", stride_angstrom=1.5)


def pixels_seen(centres, size):
    """Interval of x that each window covers, (n, 2)."""
    return np.column_stack([centres - size / 2, centres + size / 2])


@pytest.mark.parametrize("windows", [Windows(), SLIDING, Windows(size_angstrom=9.0)])
def test_no_training_window_overlaps_a_test_window(make_scene, windows):
    scene = make_scene(15, 6)
    image = scene.draw(noise=0.01)
    line = split_line(image)
    assert line == pytest.approx(2 / 3 * image.x.values[-1])
    train, test = (
        labelled_windows(image, scene.cells, windows, subset=subset, split_x=line)
        for subset in ("train", "test")
    )
    assert pixels_seen(train["x"].values, windows.size_angstrom).max() <= line
    assert pixels_seen(test["x"].values, windows.size_angstrom).min() >= line
    # The band is no wider than it must be: windows begin within a stride or a cell of the line.
    assert train["x"].max() > line - windows.size_angstrom / 2 - 8
    assert test["x"].min() < line + windows.size_angstrom / 2 + 8


def test_split_names_three_sides():
    sides = split([(6.9, 0), (7.0, 0), (7.1, 0), (12.9, 0), (13.0, 0)], Windows(size_angstrom=6.0), 10.0)
    assert sides.tolist() == ["train", "train", "guard", "guard", "test"]


def test_labels_of_one_side_know_nothing_of_the_other(make_scene):
    scene = make_scene(15, 6)
    image = scene.draw(noise=0.01)
    line = split_line(image)
    changed = scene.cells.copy(deep=True)
    changed["d"].values[split(changed, SLIDING, line) != "train"] = 1e6
    before, after = (
        labelled_windows(image, cells, SLIDING, subset="train", split_x=line)
        for cells in (scene.cells, changed)
    )
    np.testing.assert_array_equal(before["d_label"], after["d_label"])


def test_maps_of_one_side_know_nothing_of_the_other(make_scene):
    scene = make_scene(15, 12)
    image = scene.draw(noise=0.01)
    line = split_line(image)
    changed_image, changed = image.copy(deep=True), scene.cells.copy(deep=True)
    changed["d"].values[split(changed, Windows(), line) != "train"] = 1e6
    changed_image.values[:, image.x.values > line] = 7.0
    before, after = (
        _map_samples([field], TrainSettings(network="dense"), hold=False)[0]
        for field in ((image, scene.cells), (changed_image, changed))
    )
    np.testing.assert_array_equal(before.maps[0], after.maps[0])
    np.testing.assert_array_equal(before.images[0], after.images[0])


def test_centred_labels_belong_to_their_windows(make_scene):
    scene = make_scene(8, 8)
    cells = scene.cells.copy(deep=True)
    cells["flag"][[3, 10]] = 2
    image = scene.draw()
    image.values[:, :50] = np.nan  # drops whole columns of cells, so rows no longer line up
    cut = labelled_windows(image, cells, Windows())
    assert 0 < cut.sizes["window"] < 62
    for x, y, d in zip(cut["x"].values, cut["y"].values, cut["d_label"].values, strict=True):
        row = int(np.argmin(np.hypot(cells["x"].values - x, cells["y"].values - y)))
        assert row not in (3, 10)
        assert d.tolist() == cells["d"].values[row].tolist()


def test_sliding_labels_are_interpolated_and_stay_inside_the_cells(make_scene):
    scene = make_scene(8, 8)
    cells = scene.cells.copy(deep=True)
    # A plane is what linear interpolation reproduces exactly.
    cells["d"].values[:] = np.column_stack([2 * cells.x - cells.y, 0.5 * cells.y + 3])
    cut = labelled_windows(scene.draw(noise=0.01), cells, SLIDING)
    np.testing.assert_allclose(cut["d_label"][:, 0], 2 * cut.x - cut.y, atol=1e-9)
    np.testing.assert_allclose(cut["d_label"][:, 1], 0.5 * cut.y + 3, atol=1e-9)
    assert cut["x"].min() >= cells["x"].min()
    assert cut["y"].max() <= cells["y"].max()


def test_sliding_labels_bridge_one_missing_cell_but_no_gap(make_scene):
    scene = make_scene(12, 12)
    image = scene.draw(noise=0.01)
    ix, iy = np.arange(144) % 12, np.arange(144) // 12
    one = scene.cells.isel(cell=np.flatnonzero((ix != 5) | (iy != 5)))
    gap = scene.cells.isel(cell=np.flatnonzero((abs(ix - 5) > 1) | (abs(iy - 5) > 1)))
    whole = labelled_windows(image, scene.cells, SLIDING)
    assert labelled_windows(image, one, SLIDING).sizes == whole.sizes
    assert labelled_windows(image, gap, SLIDING).sizes["window"] < whole.sizes["window"] - 20


def test_components_are_read_by_name_not_by_place(make_scene):
    cells = make_scene(4, 4).cells
    turned = cells.isel(component=[1, 0]).transpose("component", "cell")
    np.testing.assert_array_equal(usable_cells(cells)[1], usable_cells(turned)[1])


def test_labels_that_cannot_be_used_are_refused(make_scene):
    cells = make_scene(4, 4).cells
    holed = cells.copy(deep=True)
    holed["d"][2, 1] = np.nan
    with pytest.raises(ModelError, match="1 cells have a displacement that is not finite"):
        usable_cells(holed)
    holed["flag"][2] = 1
    assert len(usable_cells(holed)[1]) == 15
    metres = cells.assign(d=cells["d"].assign_attrs(units="Å"))
    pixels = cells.assign(x=cells["x"].assign_attrs(units="px"))
    for bad, word in (
        (metres, "pm"),
        (pixels, "Å"),
        (cells.drop_vars("d"), "variables"),
        (cells.drop_vars("component"), "components"),
    ):
        with pytest.raises(ModelError, match=word):
            usable_cells(bad)
    with pytest.raises(ModelError, match="split_x"):
        labelled_windows(make_scene(4, 4).draw(), cells, Windows(), subset="train")
