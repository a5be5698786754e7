"""Known truth in, known truth out; distances in pm."""

import json

import numpy as np
import pytest
import xarray as xr

import analysis

PX = 0.18
D = np.array([12.0, -30.0])  # pm, image axes, A − B
SHIFT = tuple(-D / 100 / PX)  # of B, px


def good(measurement):
    cells = measurement.unit_cells
    return cells.isel(cell=np.flatnonzero(cells["flag"].values == 0))


def measured(image, **kwargs):
    return analysis.measure(analysis.as_image(image, pixel_size=PX), **kwargs)


def rotated(degrees, length=22.0):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return {"a": (length * c, length * s), "b": (-length * s, length * c)}


def test_noise_free_displacement_is_exact_in_size_sign_and_axis(lattice_image):
    measurement = measured(lattice_image(shift=SHIFT)[0])
    cells = good(measurement)
    assert measurement.lattice.zone == "100"
    assert cells.sizes["cell"] == 90
    np.testing.assert_allclose(cells["d"].values, np.tile(D, (90, 1)), atol=0.05)


def test_columns_are_where_they_were_put(lattice_image):
    image, true_a, true_b = lattice_image(shift=SHIFT, amplitudes=(1.0, 0.4))
    columns = measured(image).columns
    for site, true, height in (("A", true_a, 1.0), ("B", true_b, 0.4)):
        rows = columns.isel(
            column=np.flatnonzero((columns["site"].values == site) & (columns["flag"].values == 0))
        )
        fitted = np.stack([rows["x"].values, rows["y"].values], 1) / PX
        gap = np.hypot(*(fitted[:, None] - true[None]).transpose(2, 0, 1)).min(1)
        assert gap.max() * PX * 100 < 0.05
        np.testing.assert_allclose(rows["amplitude"].values, height, rtol=2e-3)
        np.testing.assert_allclose(rows["background"].values, 0.2, atol=3e-3)


def test_flipping_the_image_flips_that_component_only(lattice_image):
    image = lattice_image(shift=SHIFT)[0]
    for flipped, expected in ((image[:, ::-1], D * [-1, 1]), (image[::-1], D * [1, -1]), (image.T, D[::-1])):
        np.testing.assert_allclose(good(measured(flipped))["d"].values.mean(0), expected, atol=0.05)


@pytest.mark.parametrize("degrees", [10, 30, 45, 77])
def test_rotation_of_the_lattice(lattice_image, degrees):
    measurement = measured(lattice_image(shift=SHIFT, **rotated(degrees))[0])
    cells = good(measurement)
    assert cells.sizes["cell"] > 70
    assert np.abs(cells["d"].values - D).max() < 0.05
    assert measurement.lattice.lattice_parameter == pytest.approx(22 * PX, abs=1e-4)


@pytest.mark.parametrize("pixels", [10, 13, 40, 60])
def test_scale(lattice_image, pixels):
    f = pixels / 22
    image = lattice_image(
        shape=(7 * pixels, 8 * pixels), a=(pixels, 0), b=(0, pixels), shift=np.array(SHIFT) * f,
        origin=(0.3 * pixels, 0.4 * pixels),
    )[0]  # fmt: skip
    cells = good(analysis.measure(analysis.as_image(image, pixel_size=PX / f)))
    assert cells.sizes["cell"] >= 35
    assert np.abs(cells["d"].values - D).max() < 0.05


@pytest.mark.parametrize("ratio", [0.25, 0.9])
def test_faint_and_strong_b(lattice_image, ratio):
    measurement = measured(lattice_image(shift=SHIFT, amplitudes=(1.0, ratio))[0])
    assert np.abs(good(measurement)["d"].values - D).max() < 0.05
    assert measurement.quality["b_over_a"] == pytest.approx(ratio, abs=0.005)


def test_overlapping_columns(lattice_image):
    cells = good(measured(lattice_image(shift=SHIFT, sigma=(0.2, 0.19))[0]))
    assert np.abs(cells["d"].values - D).max() < 0.1


@pytest.mark.parametrize(
    ("a", "b", "fraction"),
    [((22, 0), (0, 31), (0, 0.5)), ((31, 0), (0, 22), (0.5, 0)), ((20, 10), (-14, 28), (0, 0.5))],
)
def test_110_geometry(lattice_image, a, b, fraction):
    width = 3.2 / np.hypot(*a)
    measurement = measured(lattice_image(a=a, b=b, fraction=fraction, shift=SHIFT, sigma=(width, width))[0])
    assert measurement.lattice.zone == "110"
    assert measurement.lattice.b_fraction == fraction
    cells = good(measurement)
    assert cells.sizes["cell"] > 50
    assert np.abs(cells["d"].values - D).max() < 0.05
    area = abs(np.linalg.det(np.array([a, b]))) * PX**2
    np.testing.assert_allclose(cells["area"].values, area, rtol=1e-4)


def test_nan_border_is_kept_out_and_kept(lattice_image):
    image = lattice_image(shift=SHIFT)[0]
    image[:, :70] = np.nan
    image[150:] = np.nan
    measurement = measured(image)
    cells = good(measurement)
    assert cells.sizes["cell"] >= 30
    assert np.abs(cells["d"].values - D).max() < 0.05
    columns = measurement.columns
    assert columns["x"].values[columns["flag"].values == 0].min() > 70 * PX
    assert np.isnan(measurement.image.values[:, :70]).all()


def test_vacuum_holds_no_columns(lattice_image):
    image = lattice_image(shape=(400, 400), shift=SHIFT)[0]
    image[:, 250:] = 0.2
    image += 0.01 * np.random.default_rng(0).standard_normal(image.shape)
    measurement = measured(image)
    assert good(measurement).sizes["cell"] > 150
    columns = measurement.columns
    assert columns["x"].values[columns["flag"].values == 0].max() < 262 * PX


def test_background_gradient_does_not_move_columns(lattice_image):
    image = lattice_image(shape=(300, 300), shift=SHIFT)[0]
    y, _ = np.mgrid[:300, :300]
    slope = 0.01 * y  # a fifth of the A column in each cell
    assert np.abs(good(measured(image + slope))["d"].values - D).max() < 0.2


def test_missing_columns_are_missing_not_invented(lattice_image):
    image, true_a, _ = lattice_image(shift=SHIFT)
    gone = true_a[np.argmin(np.hypot(*(true_a - [120, 110]).T))]
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    image -= np.exp(-0.5 * ((x - gone[0]) ** 2 + (y - gone[1]) ** 2) / (0.15 * 22) ** 2)
    measurement = measured(image)
    columns = measurement.columns
    a = columns["site"].values == "A"
    nearest = np.hypot(columns["x"].values[a] / PX - gone[0], columns["y"].values[a] / PX - gone[1]).min()
    assert nearest > 15
    assert good(measurement).sizes["cell"] == 86
    assert np.abs(good(measurement)["d"].values - D).max() < 0.05


def test_errors_are_honest(lattice_image):
    image = lattice_image(shape=(500, 500), shift=SHIFT)[0]
    image = image + 0.05 * np.random.default_rng(3).standard_normal(image.shape)
    measurement = measured(image)
    cells = good(measurement)
    variance = np.einsum("nii->ni", cells["d_cov"].values)
    pulls = (cells["d"].values - D) / np.sqrt(variance)
    assert cells.sizes["cell"] > 400
    assert np.all((pulls.std(0) > 0.8) & (pulls.std(0) < 1.2))
    assert np.all(np.abs(pulls.mean(0)) < 4 / np.sqrt(len(pulls)))
    assert abs(measurement.quality["residual_correlation"]) < 0.05


def test_more_noise_gives_larger_errors(lattice_image):
    clean, noise = lattice_image()[0], np.random.default_rng(0).standard_normal((220, 240))
    errors = [analysis.summary(measured(clean + level * noise))["d_error_pm"][0] for level in (0.02, 0.06)]
    assert errors[1] / errors[0] == pytest.approx(3.0, rel=0.15)


def test_elliptical_columns_have_the_right_axes():
    y, x = np.mgrid[:200, :200].astype(float)
    image = np.zeros((200, 200))
    angle = 0.5  # from x towards y (down)
    for i, j in np.ndindex(12, 12):
        for site, height in ((0.0, 1.0), (10.0, 0.5)):
            u = (x - 20 * i - site) * np.cos(angle) + (y - 20 * j - site) * np.sin(angle)
            v = -(x - 20 * i - site) * np.sin(angle) + (y - 20 * j - site) * np.cos(angle)
            image += height * np.exp(-0.5 * ((u / 3.2) ** 2 + (v / 2.4) ** 2))
    columns = measured(image).columns
    columns = columns.isel(column=np.flatnonzero(columns["flag"].values == 0))
    np.testing.assert_allclose(columns["sigma_major"].values, 3.2 * PX, rtol=0.01)
    np.testing.assert_allclose(columns["sigma_minor"].values, 2.4 * PX, rtol=0.01)
    np.testing.assert_allclose(columns["theta"].values, angle, atol=0.02)


def test_a_site_dark_reverses_d(lattice_image):
    cells = good(measured(lattice_image(shift=SHIFT)[0], a_site="dark"))
    np.testing.assert_allclose(cells["d"].values.mean(0), -D, atol=0.05)


def test_same_answer_whatever_the_intensity_scale(lattice_image):
    image = lattice_image(shift=SHIFT)[0]
    small, large = (good(measured(f * image + o))["d"].values for f, o in ((1e-6, 0.0), (1e6, -3e6)))
    np.testing.assert_allclose(small, large, atol=0.01)


def test_uncalibrated_image_is_scaled_on_its_lattice(lattice_image):
    image = analysis.as_image(lattice_image(shift=SHIFT)[0])
    assert image.attrs["calibrated"] == 0
    with pytest.raises(analysis.ImageError, match=r"not calibrated.*pixel_size.*lattice_parameter"):
        analysis.measure(image)
    measurement = analysis.measure(image, lattice_parameter=22 * PX)
    assert measurement.image.attrs["pixel_size_angstrom"] == pytest.approx(PX, rel=1e-4)
    assert np.abs(good(measurement)["d"].values - D).max() < 0.05


def test_recalibrate_isotropic_and_anisotropic(lattice_image):
    image = analysis.as_image(lattice_image(a=(22.0, 0.0), b=(0.0, 21.0))[0], pixel_size=0.2)
    lattice = analysis.measure(image).lattice
    same = analysis.measure(analysis.recalibrate(image, lattice, 3.9)).lattice
    assert same.area == pytest.approx(3.9**2, rel=1e-4)
    assert same.a[0] / same.b[1] == pytest.approx(22 / 21, rel=1e-4)
    square = analysis.measure(analysis.recalibrate(image, lattice, 3.9, anisotropic=True)).lattice
    assert (square.a[0], square.b[1]) == (pytest.approx(3.9, rel=1e-4), pytest.approx(3.9, rel=1e-4))
    with pytest.raises(analysis.ImageError, match="lattice_parameter=-1"):
        analysis.recalibrate(image, lattice, -1)


def test_tables_have_units_and_survive_netcdf(polar, tmp_path, assert_units):
    measurement, _ = polar
    for name in ("columns", "unit_cells"):
        table = getattr(measurement, name)
        assert_units(table)
        path = analysis.write_dataset(table, tmp_path / "sub" / f"{name}.nc")
        xr.testing.assert_identical(xr.load_dataset(path), table)
        assert [p.name for p in path.parent.iterdir() if p.suffix != ".nc"] == []
    assert_units(xr.Dataset({"image": measurement.image}))


def test_cell_table_geometry(polar):
    measurement, _ = polar
    cells = good(measurement)
    np.testing.assert_allclose(cells["area"].values, (22 * PX) ** 2, rtol=1e-4)
    np.testing.assert_allclose(cells["angle"].values, 90, atol=0.01)
    np.testing.assert_allclose(cells["vector_a"].values, np.tile([22 * PX, 0], (90, 1)), atol=1e-3)
    step = cells["x"].values - cells["a"].values * 22 * PX
    assert np.ptp(step) < 1e-3


def test_summary_is_json(polar):
    measurement, d = polar
    numbers = json.loads(json.dumps(analysis.summary(measurement), allow_nan=False))
    assert numbers["cells"] == 90
    assert numbers["d_mean_pm"] == pytest.approx(d, abs=0.05)
    assert numbers["columns_a"] >= 110
    assert numbers["pixel_size_angstrom"] == pytest.approx(PX)
    assert numbers["lattice"]["zone"] == "100"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda draw: draw(amplitudes=(1.0, 0.0))[0], "one sublattice"),
        (lambda draw: draw(amplitudes=(1.0, 1.0))[0], "one sublattice"),
        (lambda draw: np.random.default_rng(0).standard_normal((200, 200)), "no lattice"),
        (lambda draw: np.tile(np.sin(np.arange(200) / 3), (200, 1)), "lattice"),
    ],
)
def test_images_that_cannot_be_measured(lattice_image, make, words):
    with pytest.raises(analysis.ImageError, match=words) as caught:
        measured(make(lattice_image))
    assert "\n" not in str(caught.value)


def test_wrong_zone_is_refused(lattice_image):
    with pytest.raises(analysis.ImageError, match="zone='110'"):
        measured(lattice_image()[0], zone="110")


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [({"zone": "111"}, "zone"), ({"a_site": "left"}, "a_site"), ({"pixel_size": -1.0}, "pixel_size"),
     ({"window": 9.0}, "window"), ({"lattice_parameter": 0.0}, "lattice_parameter")],
)  # fmt: skip
def test_wrong_parameters_are_named(lattice_image, kwargs, name):
    with pytest.raises(analysis.ImageError, match=name):
        measured(lattice_image()[0], **kwargs)
