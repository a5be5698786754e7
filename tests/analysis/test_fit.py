"""The compiled fit against brute force, and what it says about its own errors."""

import numpy as np
import pytest
from scipy.optimize import least_squares

import analysis
from analysis import gaussians
from analysis.noise import Residuals, inflation, measured
from analysis.population import scatter
from analysis.precision import couple, precision

PX = 0.16
ONE = np.array([2.0, 0.3, 15.3, 14.8, 1 / 2.9, 0.03, 1 / 2.4])
FLAT = np.array([1.0, 0.0, 1e-9])  # the same variance everywhere


def drawn(parameters, shape=(31, 32)):
    total = np.zeros(shape)
    gaussians.render(total, np.atleast_2d(parameters), 0, shape[0])
    return total


def model(parameters, shape=(31, 32)):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    amplitude, background, x0, y0, p, q, r = parameters
    u, v = x - x0, y - y0
    return background + amplitude * np.exp(-0.5 * ((p * u + q * v) ** 2 + (r * v) ** 2))


def fitted(image, start, *, total=None, radius=9.0, noise=FLAT, prior=None, steps=30, slope=(0.0, 0.0)):
    start = np.atleast_2d(start)
    mean, weight = prior if prior else (np.zeros_like(start), np.zeros_like(start))
    lower = np.full_like(start, -50.0)
    lower[:, [4, 6]] = 0.01
    result, converged = np.empty_like(start), np.zeros(len(start), bool)
    gaussians.fit(
        image, drawn(start, image.shape) if total is None else total, start, start[:, 2:4].copy(),
        np.tile(slope, (len(start), 1)), np.full(len(start), radius), noise, mean, weight, lower,
        np.full_like(start, 50.0), steps, 1e-10, result, converged,
    )  # fmt: skip
    return result, converged


def test_drawing_equals_the_formula_even_far_out_and_for_narrow_columns():
    for narrow in (1.0, 6.0):
        one = ONE * [1, 0, 1, 1, narrow, narrow, narrow]
        np.testing.assert_allclose(drawn(one), model(one), atol=1e-5 * one[0])
        near = np.abs(drawn(one) - model(one))[10:20, 10:20]
        assert near.max() < 1e-12 or narrow > 1


def test_fit_recovers_what_was_drawn():
    start = ONE * [0.7, 2, 1, 1, 1.3, 0, 0.8] + [0, 0, 0.6, -0.8, 0, 0, 0]
    result, converged = fitted(model(ONE), start)
    assert converged.all()
    np.testing.assert_allclose(result[0], ONE, rtol=1e-6, atol=1e-7)


def test_weighted_fit_is_the_least_squares_of_scipy():
    rng = np.random.default_rng(0)
    image = rng.poisson(model(ONE) * 50) / 50
    noise = np.array([0.01, 0.02, 1e-6])
    result, _ = fitted(image, ONE, noise=noise)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    inside = (x - ONE[2]) ** 2 + (y - ONE[3]) ** 2 <= 81
    error = np.sqrt(noise[0] + noise[1] * model(ONE))[inside]  # weights are those of the start
    best = least_squares(lambda p: ((image - model(p))[inside]) / error, ONE, xtol=1e-12, ftol=1e-12).x
    np.testing.assert_allclose(result[0], best, rtol=1e-5, atol=1e-6)


def test_a_prior_pulls_with_its_weight():
    image = model(ONE) + 0.05 * np.random.default_rng(1).standard_normal((31, 32))
    mean, weight = np.zeros((1, 7)), np.zeros((1, 7))
    mean[0, 4], weight[0, 4] = 0.5, 1e9
    assert fitted(image, ONE, prior=(mean, weight))[0][0, 4] == pytest.approx(0.5, abs=1e-3)
    weight[0, 4] = 1e-9
    free = fitted(image, ONE)[0]
    np.testing.assert_allclose(fitted(image, ONE, prior=(mean, weight))[0], free, atol=1e-6)


def test_nan_pixels_and_a_sloping_background_do_not_move_a_column():
    y, x = np.mgrid[:31, :32]
    image = model(ONE) + 0.02 * (x - ONE[2]) - 0.03 * (y - ONE[3])
    image[12:14, 18:22] = np.nan
    result, _ = fitted(image, ONE, slope=(0.02, -0.03))
    np.testing.assert_allclose(result[0], ONE, atol=1e-6)


def two(distance):
    other = ONE * [0.5, 1, 1, 1, 1, 1, 1] + [0, 0, distance, 0, 0, 0, 0]
    return np.stack([ONE, other])


def test_errors_with_a_neighbour_are_those_of_the_joint_fit():
    """Against the inverse of the full Fisher matrix, each column with a background of its own."""
    pair = two(9.0)
    total = drawn(pair, (31, 44))
    image = total + 0.3
    radius, noise = np.full(2, 30.0), np.array([0.0, 0.01, 1e-9])
    zero = np.zeros((2, 7))
    alone, quality, skew = np.empty((2, 7, 7)), np.empty((2, 2)), np.empty((2, 5))
    precision(image, total, pair, np.zeros((2, 2)), radius, noise, zero, zero, alone, quality, skew)
    both, cross = np.zeros((2, 7, 7)), np.zeros((2, 2, 2))
    couple(
        image, total, pair, np.zeros((2, 2)), radius, noise, alone, np.array([0, 1, 2]), np.array([1, 0]), 0, 2,
        both, cross,
    )  # fmt: skip
    weight = 1 / (0.01 * image)

    def slopes(parameters):
        steps = np.eye(7) * 1e-6
        return np.stack(
            [(model(parameters + s, (31, 44)) - model(parameters - s, (31, 44))) / 2e-6 for s in steps]
        )

    # Each column's window has a background of its own, which the other knows nothing of.
    for row, (one, other) in enumerate((pair, pair[::-1])):
        mine, its = slopes(one), slopes(other)
        its[1] = 0.0
        cut = np.concatenate([mine, its]).reshape(14, -1)
        fisher = cut * weight.ravel() @ cut.T
        fisher[7:, 7:] = np.linalg.inv(alone[1 - row])
        exact = np.linalg.inv(fisher)
        assert exact[2, 2] > 1.05 * alone[row, 2, 2]  # or there would be nothing to add
        np.testing.assert_allclose(both[row], exact[:7, :7], rtol=1e-2, atol=1e-2 * exact[2, 2])
        np.testing.assert_allclose(cross[row], exact[2:4, 9:11], rtol=1e-2, atol=1e-3 * exact[2, 2])


@pytest.mark.parametrize("skewed", [(0.4, 0.0), (0.0, -0.3)])
def test_skewness_has_sign_size_and_axis(skewed):
    one = np.array([1.0, 0.2, 15.0, 15.0, 1 / 3.0, 0.0, 1 / 3.0])
    y, x = np.mgrid[:31, :31].astype(float)
    t = np.stack([x - 15, y - 15]) / 3.0
    series = 1 + np.tensordot(skewed, t, 1) * ((t**2).sum(0) - 4) / 8
    image = 0.2 + np.exp(-0.5 * (t**2).sum(0)) * series
    best, _ = fitted(image, one, radius=14.0)
    skew = np.empty((1, 5))
    zero = np.zeros((1, 7))
    precision(
        image, drawn(best, image.shape), best, np.zeros((1, 2)), np.full(1, 14.0), FLAT, zero, zero,
        np.empty((1, 7, 7)), np.empty((1, 2)), skew,
    )  # fmt: skip
    np.testing.assert_allclose(skew[0, :2], skewed, atol=0.05)


def noisy_residuals(smooth, gain=0.02, offset=0.01):
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    level = np.broadcast_to(np.linspace(0.1, 2.0, 21), (300, 21, 21)).copy()
    white = rng.standard_normal(level.shape)
    if smooth:
        white = gaussian_filter(white, (0, smooth, smooth), mode="wrap")
        white /= white.std()
    return Residuals(white * np.sqrt(offset + gain * level), level, np.zeros(300, int), 1.0)


def test_noise_is_measured_as_a_line_in_intensity():
    found = measured(noisy_residuals(0.0), 1.0)
    assert found.gain == pytest.approx(0.02, rel=0.05)
    assert found.offset == pytest.approx(0.01, rel=0.1)
    assert found.measured


@pytest.mark.parametrize("smooth", [0.0, 0.45, 0.7, 1.2])
def test_correlated_noise_widens_errors_as_it_does_in_truth(smooth):
    """Positions fitted in images with smoothed noise scatter as much as they are said to."""
    from scipy.ndimage import gaussian_filter

    from analysis.noise import _autocorrelation

    rng = np.random.default_rng(2)
    one = np.array([1.0, 0.2, 15.0, 15.0, 1 / 3.0, 0.0, 1 / 3.0])
    clean, positions, rest = model(one, (31, 31)), [], []
    y, x = np.mgrid[:31, :31]
    outside = (x - 15) ** 2 + (y - 15) ** 2 > 81
    for _ in range(400):
        white = rng.standard_normal((31, 31))
        extra = gaussian_filter(white, smooth, mode="wrap") if smooth else white
        image = clean + 0.02 * extra / (extra.std() if smooth else 1.0)
        result, _ = fitted(image, one)
        positions.append(result[0, 2:4])
        rest.append(np.where(outside, np.nan, image - model(result[0], (31, 31))))
    rest = np.array(rest)
    white_error = 0.02 * np.sqrt(2 / np.pi)  # of a Gaussian of unit height in white noise
    truth = np.std(positions, 0).mean() / white_error
    factor = inflation(
        _autocorrelation(np.nan_to_num(rest), np.isfinite(rest)), one, 9.0,
        measured(Residuals(rest, np.ones_like(rest), np.zeros(400, int), 1.0), 1.0), np.zeros(7),
    )  # fmt: skip
    assert factor[2] == pytest.approx(truth, rel=0.12)


def test_scatter_sees_disorder_but_no_strain():
    rng = np.random.default_rng(0)
    index = np.stack(np.meshgrid(np.arange(30), np.arange(30)), -1).reshape(-1, 2)
    strained = index * 24.0 + 0.01 * index**2 + 0.1 * rng.standard_normal(index.shape)
    assert scatter(strained, index) == pytest.approx(0.01, rel=0.15)
    assert scatter(strained[:20], index[:20]) == np.inf


@pytest.mark.parametrize("estimator", ["mass", "template"])
def test_other_estimators_agree_on_symmetric_columns(lattice_image, estimator):
    d = np.array([12.0, -30.0])
    image = lattice_image(shape=(300, 300), shift=tuple(-d / 100 / PX))[0]
    image = image + 0.01 * np.random.default_rng(0).standard_normal(image.shape)
    cells = analysis.measure(analysis.as_image(image, pixel_size=PX), estimator=estimator).unit_cells
    cells = cells.isel(cell=np.flatnonzero(cells["flag"].values == 0))
    pulls = (cells["d"].values - d) / np.sqrt(np.einsum("nii->ni", cells["d_cov"].values))
    assert cells.sizes["cell"] > 120
    mean_error = cells["d"].values.std(0) / np.sqrt(cells.sizes["cell"])
    assert np.all(np.abs(cells["d"].values.mean(0) - d) < 4 * mean_error)
    assert mean_error.max() < 1.0
    assert np.all((pulls.std(0) > 0.8) & (pulls.std(0) < 1.25))


def test_mass_moves_with_a_tail_that_hardly_moves_the_gaussian(lattice_image):
    image, true_a, _ = lattice_image(shape=(240, 240), amplitudes=(1.0, 0.5))
    y, x = np.mgrid[:240, :240].astype(float)
    for px, py in true_a:  # a faint satellite on the right of every A column
        image += 0.1 * np.exp(-0.5 * ((x - px - 7.5) ** 2 + (y - py) ** 2) / 2.0**2)
    picture = analysis.as_image(image, pixel_size=PX)
    shift = {}
    for estimator in ("gaussian", "mass"):
        cells = analysis.measure(picture, estimator=estimator).unit_cells
        shift[estimator] = np.median(cells["d"].values[cells["flag"].values == 0], 0)
    assert shift["mass"][0] > 1.5 * shift["gaussian"][0] > 0.1
    assert abs(shift["mass"][1]) < 0.5


def test_unknown_settings_are_named(lattice_image):
    picture = analysis.as_image(lattice_image()[0], pixel_size=PX)
    for wrong in ({"weights": "none"}, {"estimator": "best"}):
        with pytest.raises(analysis.ImageError, match=f"{next(iter(wrong))}=.*choose one of"):
            analysis.measure(picture, **wrong)


@pytest.mark.parametrize("smooth", [0.5, 1.0, 1.5])
def test_errors_hold_in_smoothed_noise(lattice_image, smooth):
    """Noise as a filter leaves it: errors of positions neither too small nor much too large."""
    from scipy.ndimage import gaussian_filter
    from scipy.spatial import KDTree

    image, true_a, true_b = lattice_image(
        shape=(520, 520), a=(20.0, 0.0), b=(0.0, 20.0), shift=(-0.4, 0.6), vary=0.3, seed=3
    )
    noise = gaussian_filter(np.random.default_rng(5).standard_normal(image.shape), smooth)
    columns = analysis.measure(analysis.as_image(image + 0.03 * noise / noise.std(), pixel_size=0.2)).columns
    place = np.stack([columns["x"].values, columns["y"].values], 1) / 0.2
    for site, true in (("A", true_a), ("B", true_b)):
        rows = np.flatnonzero((columns["site"].values == site) & (columns["flag"].values == 0))
        gap, near = KDTree(true).query(place[rows])
        assert gap.max() < 2
        error = (place[rows] - true[near]) * 0.2
        pull = (error / np.sqrt(np.einsum("nii->ni", columns["position_cov"].values[rows]))).std()
        assert 0.8 < pull < 1.3  # 1.0 where the noise is known; its unfolding is not exact


def test_offset_and_scale_of_intensity_do_not_matter(lattice_image):
    image = lattice_image(shape=(200, 200))[0] + 0.01 * np.random.default_rng(0).standard_normal((200, 200))
    first, *others = (
        analysis.measure(analysis.as_image(f * image + o, pixel_size=PX))
        for f, o in ((1.0, 0.0), (1.0, 1e6), (1e9, -3e9), (1e-9, 0.0))
    )
    for m in others:
        np.testing.assert_allclose(m.unit_cells["d"].values, first.unit_cells["d"].values, atol=0.02)
        np.testing.assert_allclose(m.unit_cells["d_cov"].values, first.unit_cells["d_cov"].values, rtol=1e-2)
    scaled = others[1]
    np.testing.assert_allclose(
        scaled.columns["amplitude"].values, 1e9 * first.columns["amplitude"].values, rtol=1e-4
    )
    level = 1e9 * first.columns["background"].values - 3e9
    np.testing.assert_allclose(scaled.columns["background"].values, level, atol=1e6)
    assert scaled.quality["noise"]["gain"] == pytest.approx(1e9 * first.quality["noise"]["gain"], abs=1e5)


def test_counting_weights_want_counts(lattice_image):
    with pytest.raises(analysis.ImageError, match=r"weights='poisson'.*negative"):
        analysis.measure(analysis.as_image(lattice_image()[0] - 0.5, pixel_size=PX), weights="poisson")


def test_crowded_columns_are_measured_or_said_to_be_unsettled(lattice_image):
    image = lattice_image(shape=(300, 300), sigma=(0.2, 0.19), shift=(-1.0, 1.5))[0]
    counts = np.random.default_rng(1).poisson(100 * image) / 100
    m = analysis.measure(analysis.as_image(counts, pixel_size=0.2))
    d = m.unit_cells["d"].values[m.unit_cells["flag"].values == 0]
    away = np.abs(d.mean(0) - (20.0, -30.0))
    assert np.all(away < np.maximum(1.0, 4 * d.std(0) / np.sqrt(len(d)))) or not m.quality["settled"]
