"""Jitter, drift and turned frames, put into column tables on purpose and found again."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.signal import lfilter

import analysis
from analysis import MOTIFS
from analysis.cells import cell_table
from analysis.columns import FLAG_ATTRS
from analysis.distortion import correct_distortion, propagate_jitter, scan_distortion
from analysis.distortion_plots import plot_distortion
from analysis.frames import affine_from_pair, correct_pair
from analysis.lattice import Lattice, reduced
from analysis.measuring import Measurement
from analysis.scanlines import fit
from analysis.scans import line_model, scan_of

SIGMA, STEP = 0.5, 0.2  # Å: of a column, of the scan
SQUARE = 3.96 * np.eye(2)


def turn(angle):
    """Rotation from x towards y."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def felt(lines, y, power):
    """Weight of every line in the fitted position of Gaussian columns at y: (∂G/∂r)²."""
    away = (lines - y[:, None]) / SIGMA
    weight = away**power * np.exp(-(away**2))
    return weight / weight.sum(1, keepdims=True)


def jittered(places, rms, length, rng):
    """(n, 2) displacement of columns, `rms` (x, y) as they feel it, lines correlated over `length`."""
    y = np.concatenate(places)[:, 1]
    lines = np.arange(y.min() - 5, y.max() + 5, STEP)
    moved = [np.zeros_like(place) for place in places]
    fall = np.exp(-STEP / length)
    correlation = fall ** np.abs(np.arange(41)[:, None] - np.arange(41))
    for k in (0, 1):
        noise = rng.standard_normal(len(lines)) * np.sqrt(1 - fall**2)
        noise[0] /= np.sqrt(1 - fall**2)
        lines_moved = lfilter([1], [1, -fall], noise)
        middle = felt(STEP * np.arange(41), np.array([20.03 * STEP]), 2 * k)[0]
        for one, place in zip(moved, places, strict=True):
            one[:, k] = rms[k] * felt(lines, place[:, 1], 2 * k) @ lines_moved
            one[:, k] /= np.sqrt(middle @ correlation @ middle)
    return moved


def table(place_a, place_b, index_a, index_b, vectors, noise, rng, size):
    """Measurement of columns at given places, with independent noise (Å)."""
    place, index = np.concatenate([place_a, place_b]), np.concatenate([index_a, index_b])
    n = len(place)
    place = place + noise * rng.standard_normal((n, 2))
    cov = np.tile(noise**2 * np.eye(2), (n, 1, 1))
    site = np.repeat(np.array(["A", "B"], dtype=object), [len(place_a), len(place_b)])
    columns = xr.Dataset(
        {
            "x": ("column", place[:, 0], {"units": "Å"}),
            "y": ("column", place[:, 1], {"units": "Å"}),
            "position_cov": (("column", "component", "component_2"), cov, {"units": "Å2"}),
            "site": ("column", site),
            "a": ("column", index[:, 0]),
            "b": ("column", index[:, 1]),
            "amplitude": ("column", np.ones(n)),
            "intensity": ("column", np.ones(n)),
            "intensity_sem": ("column", np.full(n, 0.01)),
            "sigma_major": ("column", np.full(n, SIGMA)),
            "sigma_minor": ("column", np.full(n, SIGMA)),
            "theta": ("column", np.zeros(n)),
            "flag": ("column", np.zeros(n, np.uint8), FLAG_ATTRS),
        },
        attrs={"source": "drawn"},
    )
    lattice = Lattice((0.0, 0.0), tuple(vectors[0]), tuple(vectors[1]), MOTIFS["100"], "Å")
    steps = np.arange(0, size, STEP)
    image = xr.DataArray(np.zeros((len(steps),) * 2), dims=("y", "x"), coords={"y": steps, "x": steps})
    return Measurement(columns, cell_table(columns, lattice, {"source": "drawn"}), lattice, {}, image)


def frame(
    rms=(0.08, 0.06),
    length=2.0,
    noise=0.03,
    angle=0.2,
    cells=18,
    seed=0,
    d=lambda index: np.zeros((len(index), 2)),
    strain=lambda place: np.zeros_like(place),
):
    """One frame (Å, d in pm), and the jitter of its A and B columns."""
    rng = np.random.default_rng(seed)
    vectors = SQUARE @ turn(angle).T
    index = np.stack(np.meshgrid(*2 * [np.arange(cells)]), -1).reshape(-1, 2)
    places = [index @ vectors, (index + 0.5) @ vectors - d(index) / 100]
    places = [place + strain(place) for place in places]
    moved = jittered(places, rms, length, rng)
    a, b = (place + one for place, one in zip(places, moved, strict=True))
    return table(a, b, index, index, vectors, noise, rng, cells * 4.0), moved


def without_smooth(measurement, values):
    """Values of A columns without the terms that are not counted as jitter."""
    smooth = scan_of(measurement, "x", 50.0).smooth
    return values - smooth @ np.linalg.lstsq(smooth, values, rcond=None)[0]


def errors(measurement):
    return np.sqrt(np.einsum("nii->ni", measurement.unit_cells["d_cov"].values))


def test_jitter_is_found_with_sign_size_and_error():
    measurement, (moved, _) = frame()
    found = scan_distortion(measurement)
    true = 100 * without_smooth(measurement, moved)
    rms = np.sqrt((true**2).mean(0))
    assert np.abs(found["jitter_rms"].values - rms).max() < 1.5  # pm
    assert (np.abs(found["jitter_rms"].values - rms) < 2 * found["jitter_rms_sem"].values).all()
    assert (found["jitter_rms_sem"].values < 0.3 * rms).all()
    assert (found["jitter_gain"].values > 50).all()
    assert found["scatter"].values == pytest.approx(3.0, abs=0.3)
    y = measurement.columns["y"].values[: len(true)]
    inside = (y > 10) & (y < 60)
    for k in (0, 1):
        shown, sem = (
            np.interp(y, found["line"].values, found[n].values[:, k]) for n in ("jitter", "jitter_sem")
        )
        assert np.corrcoef(shown[inside], true[inside, k])[0, 1] > 0.95
        assert 0.6 < (((shown - true[:, k]) / sem)[inside]).std() < 1.4
    low, high = found["correlation_range"].values.T
    assert (low < 3).all()
    assert (high > 1.5).all()


def test_error_of_the_rms_is_its_spread():
    rms, sem, true = [], [], []
    for seed in range(30):
        measurement, (moved, _) = frame(cells=12, seed=seed, length=1.0)
        jitter, _ = fit([line_model(scan_of(measurement, "x", 50.0), 0, 0.0)])
        rms.append(jitter.rms)
        sem.append(jitter.rms_sem)
        true.append((without_smooth(measurement, moved)[:, 0] ** 2).mean())
    # The error is that of the process, of which each frame is one draw.
    process = np.sqrt(np.mean(true))
    assert np.mean(rms) == pytest.approx(process, abs=0.006)  # Å
    pull = (np.array(rms) - process) / np.array(sem)
    assert 0.75 < pull.std() < 1.25
    # As an error of what this very frame has it is large enough.
    assert (np.abs(rms - np.sqrt(true)) < 2 * np.array(sem)).all()


@pytest.mark.parametrize("angle", [0.0, 0.2])
def test_no_jitter_is_not_invented(angle):
    measurement, _ = frame(rms=(0, 0), angle=angle)
    found = scan_distortion(measurement)
    assert (found["jitter_rms"].values < 3 * found["jitter_rms_sem"].values).all()
    assert (found["jitter_rms"].values < 0.8).all()  # pm, of 3 pm scatter
    assert (found["jitter_gain"].values < 8).all()
    corrected = correct_distortion(measurement, found)
    assert np.abs(corrected.columns["x"].values - measurement.columns["x"].values).max() < 0.01
    assert (errors(corrected) < 1.05 * errors(measurement)).all()


def test_axes_are_exchanged_with_the_fast_axis():
    measurement, _ = frame(rms=(0.08, 0.02), cells=14)
    columns = measurement.columns
    swapped = columns.assign(x=columns["y"], y=columns["x"]).assign(
        theta=np.pi / 2 - columns["theta"], position_cov=columns["position_cov"][:, ::-1, ::-1]
    )
    along_x = scan_distortion(measurement)
    along_y = scan_distortion(replace(measurement, columns=swapped), fast_axis="y")
    np.testing.assert_allclose(along_y["jitter_rms"].values[::-1], along_x["jitter_rms"].values, rtol=1e-6)
    np.testing.assert_allclose(along_y["jitter"].values[:, ::-1], along_x["jitter"].values, atol=1e-6)
    np.testing.assert_allclose(
        along_y["linear_drift"].values[::-1], along_x["linear_drift"].values, atol=1e-6
    )
    assert along_y["axis"].values.tolist() == ["slow", "fast"]
    # Seen along the wrong axis, lines 8 pm out of place look like scatter.
    wrong = scan_distortion(measurement, fast_axis="y")
    assert wrong["jitter_rms"].values[0] < 0.5 * along_x["jitter_rms"].values[0]
    assert wrong["scatter"].values[0] > 1.7 * along_x["scatter"].values[0]


def test_strain_alike_in_all_directions_is_hardly_taken_for_jitter():
    rng = np.random.default_rng(4)
    field = gaussian_filter(rng.standard_normal((2, 300, 300)), (0, 12, 12))  # 6 Å
    field *= 0.06 / field.std()

    def strain(place):
        return np.stack([map_coordinates(one, (place.T + 60) * 2, order=1) for one in field], 1)

    measurement, _ = frame(rms=(0, 0), strain=strain, noise=0.01, angle=0.1)
    found = scan_distortion(measurement)
    assert (found["stiffness"].values > 1).all()
    assert (found["jitter_rms"].values < 1.6).all()  # pm, of strain of 6 pm
    scan = scan_of(measurement, "x", 50.0)
    taken_for_white = [100 * fit([line_model(scan, n, 0.0)])[0].rms for n in (0, 1)]
    assert (np.array(taken_for_white) > 2 * found["jitter_rms"].values).all()
    # What remains is as large with the axes exchanged: the crystal does not know how it was scanned.
    exchanged = scan_distortion(measurement, fast_axis="y")["jitter_rms"].values[::-1]
    assert np.abs(exchanged - found["jitter_rms"].values).max() < 1.0
    after = correct_distortion(measurement, found).unit_cells["d"].values
    assert after.std() < 1.05 * measurement.unit_cells["d"].values.std()


def test_linear_drift_has_the_sign_of_the_motion():
    def drift(place):  # lines further down are moved right by 20 and up by 10 pm per nm
        return place[:, 1:] * [0.02, -0.01]

    measurement, _ = frame(rms=(0, 0), strain=drift, angle=0.3)
    found = scan_distortion(measurement)
    # What is recorded at p was at p − s p_y: s = 0.02/0.99, −0.01/0.99.
    assert found["linear_drift"].values == pytest.approx([20.2, -10.1], abs=0.6)
    off = (found["linear_drift"].values - [20.2, -10.1]) / found["linear_drift_sem"].values
    assert np.abs(off).max() < 3.5
    vectors = measurement.lattice.vectors
    vectors = vectors + vectors[:, 1:] * [0.02, -0.01]
    np.testing.assert_allclose(found["lattice"].values, vectors, atol=0.002)
    length = np.hypot(*vectors.T)
    angle = np.degrees(np.arccos(vectors[0] @ vectors[1] / length.prod()))
    own = scan_distortion(measurement, reference=(*length, angle))
    assert own["linear_drift"].values == pytest.approx([0, 0], abs=0.6)
    assert "cannot tell" in found.attrs["note"]


def test_slow_drift_is_told_apart_from_jitter():
    def bend(place):
        return 1e-4 * np.stack([(place[:, 1] - 40) ** 2, 0 * place[:, 1]], 1)  # 16 pm at 40 Å

    measurement, _ = frame(rms=(0, 0), strain=bend, angle=0.1)
    found = scan_distortion(measurement)
    y = found["line"].values
    shown = found["slow_drift"].values[:, 0]
    inside = (y > 12) & (y < 65)
    curvature = np.polyfit(y[inside], shown[inside], 2)[0]
    assert curvature == pytest.approx(0.01, abs=0.0015)  # pm per Å²
    assert np.abs(found["slow_drift"].values[inside, 1]).max() < 2
    assert found["jitter_rms"].values.max() < 1


def test_correction_takes_off_the_jitter_and_says_what_is_left():
    before, after, predicted, added, pull = [], [], [], [], []
    for seed in range(3):
        measurement, _ = frame(seed=seed)
        found = scan_distortion(measurement)
        corrected, carried = correct_distortion(measurement, found), propagate_jitter(measurement, found)
        before.append(measurement.unit_cells["d"].values)
        after.append(corrected.unit_cells["d"].values)
        predicted.append(errors(corrected))
        added.append(errors(carried))
        np.testing.assert_array_equal(carried.unit_cells["d"].values, measurement.unit_cells["d"].values)
        pull.append(after[-1] / predicted[-1])
    rms = [np.sqrt((np.stack(v) ** 2).mean((0, 1))) for v in (before, after, predicted, added)]
    assert (rms[1] < 0.7 * rms[0]).all()
    assert rms[2] == pytest.approx(rms[1], rel=0.1)
    assert rms[3] == pytest.approx(rms[0], rel=0.2)
    assert (rms[2] > 3.3).all()  # never below the fit error, 3 pm · √(1 + 1/4)
    assert 0.85 < np.stack(pull).std() < 1.15


def test_rows_along_the_scan_hide_the_lines_of_b():
    measurement, _ = frame(angle=0.0, length=0.1, seed=2)
    found = scan_distortion(measurement)
    corrected = correct_distortion(measurement, found)
    # Nothing tells where B's lines were, and the error has to say so.
    assert (np.sqrt((errors(corrected) ** 2).mean(0)) > 6).all()
    assert 0.6 < (corrected.unit_cells["d"].values / errors(corrected)).std() < 1.5


@pytest.mark.parametrize("angle", [0.0, 0.2])
def test_polar_displacement_survives(angle):
    def d(index):  # a wall along a, and a gradient down the image
        return np.stack([np.where(index[:, 1] < 9, 40.0, -40.0), -20.0 + 2.0 * index[:, 1]], 1)

    measurement, _ = frame(d=d, angle=angle, length=4.0)
    corrected = correct_distortion(measurement, scan_distortion(measurement)).unit_cells
    index = np.stack([corrected["a"].values, corrected["b"].values], 1)
    wrong = corrected["d"].values - d(index)
    assert np.abs(wrong.mean(0)).max() < 1.0
    slope = np.polyfit(index[:, 1], corrected["d"].values[:, 1], 1)[0]
    assert slope == pytest.approx(2.0, abs=0.25)
    for side in (index[:, 1] < 9, index[:, 1] >= 9):
        assert np.abs(wrong[side].mean(0)).max() < 2.0
    untouched, _ = frame(rms=(0, 0), d=d, angle=angle)
    still = correct_distortion(untouched, scan_distortion(untouched)).unit_cells["d"].values
    np.testing.assert_allclose(still, untouched.unit_cells["d"].values, atol=1.0)


def test_a_misfit_column_does_not_count():
    measurement, _ = frame(rms=(0, 0), cells=12)
    columns = measurement.columns
    x = columns["x"].values.copy()
    x[30] += 0.8
    found = scan_distortion(replace(measurement, columns=columns.assign(x=("column", x, columns["x"].attrs))))
    clean = scan_distortion(measurement)
    assert found.attrs["columns_used"] == clean.attrs["columns_used"] - 1
    assert found["jitter_rms"].values == pytest.approx(clean["jitter_rms"].values, abs=0.6)
    assert found["scatter"].values == pytest.approx(clean["scatter"].values, abs=0.2)  # 7 pm with it


def test_b_columns_do_not_tell_the_jitter():
    measurement, _ = frame(cells=12)
    columns = measurement.columns
    is_b = columns["site"].values == "B"
    moved = columns.assign(x=columns["x"] + np.where(is_b, np.sin(columns["y"]), 0.0))
    one, other = scan_distortion(measurement), scan_distortion(replace(measurement, columns=moved))
    xr.testing.assert_identical(one, other)


def test_correcting_again_changes_nothing_and_leaves_the_input_alone(assert_units, tmp_path):
    measurement, _ = frame(cells=12)
    copy = measurement.columns.copy(deep=True), measurement.unit_cells.copy(deep=True)
    found = scan_distortion(measurement)
    assert_units(found)
    back = xr.load_dataset(analysis.write_dataset(found, tmp_path / "distortion.nc"))
    corrected = correct_distortion(measurement, back)
    xr.testing.assert_identical(measurement.columns, copy[0])
    xr.testing.assert_identical(measurement.unit_cells, copy[1])
    again = correct_distortion(corrected, scan_distortion(corrected))
    xr.testing.assert_identical(again.unit_cells, corrected.unit_cells)
    assert set(corrected.unit_cells.variables) == set(measurement.unit_cells.variables)
    assert "taken off" in corrected.unit_cells.attrs["scan_correction"]
    assert scan_distortion(corrected)["jitter_rms"].values.max() < 0.4 * found["jitter_rms"].values.min()
    with pytest.raises(analysis.ImageError, match="corrected already"):
        propagate_jitter(corrected, found)


def test_rows_of_an_image_shifted_on_purpose(lattice_image):
    rng = np.random.default_rng(3)
    angle, pixel = 0.2, 0.18
    a = 22 * turn(angle)[:, 0]
    image, _, _ = lattice_image(a=tuple(a), b=(-a[1], a[0]))
    rows = 0.4 * rng.standard_normal((len(image), 2)) * [1.0, 0.5]
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    shifted = map_coordinates(image, [y - rows[:, 1:], x - rows[:, :1]], order=5, mode="nearest")
    shifted += 0.003 * rng.standard_normal(image.shape)
    measurement = analysis.measure(analysis.as_image(shifted, pixel_size=pixel))
    found = scan_distortion(measurement)
    columns = measurement.columns
    good = (columns["site"].values == "A") & (columns["flag"].values == 0)
    at = columns["y"].values[good]
    lines = pixel * np.arange(len(image))
    sigma = 0.15 * 22 * pixel
    for k in (0, 1):
        away = (lines - at[:, None]) / sigma
        weight = away ** (2 * k) * np.exp(-(away**2))
        true = 100 * pixel * (weight / weight.sum(1, keepdims=True)) @ rows[:, k]
        shown = np.interp(at, found["line"].values, found["jitter"].values[:, k])
        assert np.corrcoef(shown, true)[0, 1] > (0.95, 0.8)[k]
        assert found["jitter_rms"].values[k] == pytest.approx(true.std(), rel=0.3)
    corrected = correct_distortion(measurement, found)
    cells = measurement.unit_cells["flag"].values == 0
    spread = [m.unit_cells["d"].values[cells].std(0) for m in (measurement, corrected)]
    assert (spread[1] < 0.75 * spread[0]).all()


def test_wrong_inputs_are_refused():
    measurement, _ = frame(cells=12)
    with pytest.raises(analysis.ImageError, match="fast_axis='z'"):
        scan_distortion(measurement, fast_axis="z")
    with pytest.raises(analysis.ImageError, match="smooth=-1"):
        scan_distortion(measurement, smooth=-1)
    with pytest.raises(analysis.ImageError, match="reference="):
        scan_distortion(measurement, reference=(1.0, 1.0, 0.0))
    bad = replace(measurement, columns=measurement.columns.assign(flag=measurement.columns["flag"] | 1))
    with pytest.raises(analysis.ImageError, match="0 good A columns"):
        scan_distortion(bad)
    strip = replace(measurement, columns=measurement.columns.isel(column=measurement.columns["b"].values < 5))
    with pytest.raises(analysis.ImageError, match="across the scan lines"):
        scan_distortion(strip)
    with pytest.raises(analysis.ImageError, match="scan_distortion returns"):
        correct_distortion(measurement, measurement.unit_cells)
    with pytest.raises(analysis.ImageError, match="scan_distortion returns"):
        plot_distortion(measurement.unit_cells)


def test_figure_shows_both_axes_and_the_numbers():
    measurement, _ = frame(cells=12)
    found = scan_distortion(measurement)
    figure = plot_distortion(found)
    words = " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))
    for k in (0, 1):
        assert f"jitter {found['jitter_rms'].values[k]:.2f} ±" in words
        assert f"{found['linear_drift'].values[k]:.2f} ±".replace("-", "−") in words
    assert "cannot tell" in words
    top = figure.axes[0].lines[0]
    np.testing.assert_array_equal(top.get_ydata(), found["jitter"].values[:, 0])


TRUE = np.array([[3.96, 0.02], [-0.05, 4.03]])
DRIFT = np.array([0.012, -0.007])


def random_d(index):
    """The same crystal in both frames: 20 pm over scatter of 10 pm."""
    rng = np.random.default_rng(11)
    field = rng.standard_normal((81, 81, 2)) * 10 + [20, -10]
    return field[index[:, 0] + 40, index[:, 1] + 40]


def recorded(rotation, seed, shift=(0.0, 0.0), rms=0.04, size=72.0):
    """A frame of the crystal TRUE drifting by DRIFT, scanned at `rotation` degrees."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*2 * [np.arange(-20, 21)]), -1).reshape(-1, 2)
    places = [index @ TRUE + shift, (index + 0.5) @ TRUE - random_d(index) / 100 + shift]
    back = np.linalg.inv(turn(np.radians(rotation)) - np.outer(DRIFT, [0, 1]))
    places = [place @ back.T for place in places]
    inside = [(np.abs(place) < size / 2 - 2).all(1) for place in places]
    places = [place[keep] for place, keep in zip(places, inside, strict=True)]
    moved = jittered(places, (rms, rms), 2.0, rng)
    seen = TRUE @ back.T
    own = reduced(seen)
    unit = np.linalg.inv(np.rint(np.linalg.solve(seen.T, own.T)))
    index_a = np.rint(index[inside[0]] @ unit.T).astype(int)
    index_b = np.rint((index[inside[1]] + 0.5) @ unit.T - 0.5).astype(int)
    a, b = (p + m + size / 2 - STEP / 2 for p, m in zip(places, moved, strict=True))
    return table(a, b, index_a, index_b, own, 0.03, rng, size)


@pytest.fixture(scope="module")
def pair():
    return recorded(0, 1), recorded(90.05, 2, shift=(4.3, -0.6))


def test_a_turned_pair_gives_drift_and_lattice(pair, assert_units):
    found = affine_from_pair(*pair)
    assert_units(found)
    assert found["drift"].values == pytest.approx(1e3 * DRIFT, abs=2.5)
    assert (np.abs(found["drift"].values - 1e3 * DRIFT) < 3 * found["drift_sem"].values).all()
    assert (found["drift_sem"].values < 2).all()
    assert found["drift_per_line"].values == pytest.approx(100 * DRIFT * STEP, abs=0.05)
    np.testing.assert_allclose(found["lattice"].values, TRUE, atol=0.01)
    length = np.hypot(*TRUE.T)
    angle = np.degrees(np.arccos(TRUE[0] @ TRUE[1] / length.prod()))
    assert float(found["angle"]) == pytest.approx(angle, abs=3 * float(found["angle_sem"]))
    assert float(found["ratio"]) == pytest.approx(length[1] / length[0], abs=3 * float(found["ratio_sem"]))
    assert float(found["ratio_sem"]) < 0.002
    assert float(found["angle_sem"]) < 0.15
    assert float(found["rotation_error"]) == pytest.approx(0.05, abs=3 * float(found["rotation_error_sem"]))
    assert float(found["misfit"]) < 7


def test_the_wrong_sense_of_rotation_does_not_fit(pair):
    other = recorded(-90, 5)
    assert float(affine_from_pair(pair[0], pair[1], rotation=-90)["misfit"]) > 10
    assert float(affine_from_pair(pair[0], other, rotation=90)["misfit"]) > 10
    right = affine_from_pair(pair[0], other, rotation=-90)
    assert float(right["misfit"]) < 7
    assert right["drift"].values == pytest.approx(1e3 * DRIFT, abs=2.5)


def test_cells_of_a_pair_are_averaged(pair, assert_units):
    cells = correct_pair(*pair)
    assert_units(cells)
    assert cells.sizes["cell"] > 200
    true = random_d(np.stack([cells["a"].values, cells["b"].values], 1))
    wrong = cells["d"].values - true
    expected = np.sqrt(np.einsum("nii->ni", cells["d_cov"].values))
    assert np.abs(wrong.mean(0)).max() < 1.2
    assert 0.8 < (wrong / expected).std() < 1.25
    single = np.sqrt(np.einsum("nii->ni", cells["d_difference_cov"].values))
    assert (expected < 0.6 * single).all()
    assert 0.8 < (cells["d_difference"].values / single).std() < 1.25
    # One whole cell of shift is seen in the pattern of d.
    assert cells.attrs["shift_between_frames_angstrom"] == pytest.approx([4.3, -0.6], abs=0.3)
    area = abs(np.linalg.det(TRUE))
    assert float(cells["area"].mean()) == pytest.approx(area, abs=0.1)
    place = np.stack([cells["x"].values, cells["y"].values], 1) - 36 + STEP / 2
    expected_place = (np.stack([cells["a"].values, cells["b"].values], 1) + 0.5) @ TRUE - true / 100
    assert np.abs(place - expected_place).mean() < 0.15


def test_pairs_that_do_not_belong_together_are_refused(pair):
    first, second = pair
    for rotation in (0.0, 355.0, np.nan):
        with pytest.raises(analysis.ImageError, match="rotation="):
            affine_from_pair(first, second, rotation=rotation)
    with pytest.raises(analysis.ImageError, match="not the first's turned by 45"):
        affine_from_pair(first, second, rotation=45)
    corrected = correct_distortion(first, scan_distortion(first))
    with pytest.raises(analysis.ImageError, match="first: is corrected already"):
        affine_from_pair(corrected, second)
    image = second.image.assign_coords(x=second.image["x"] * 1.01)
    with pytest.raises(analysis.ImageError, match="one pixel_size"):
        affine_from_pair(first, replace(second, image=image))
