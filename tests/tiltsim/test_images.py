"""Fourier interpolation of one period is exact, wherever it is asked."""

import numpy as np
import pytest

from tiltsim.images import evaluate, resample

BOX = (3.9, 5.3)


def wave(x, y, box=BOX):
    """A band-limited periodic function without any symmetry; up to 3 waves along x and 4 along y."""
    u, v = 2 * np.pi * np.asarray(x) / box[0], 2 * np.pi * np.asarray(y)[:, None] / box[1]
    return (
        1.7 + np.cos(3 * u - v + 0.4) + 0.6 * np.sin(2 * u + 4 * v) - 0.3 * np.cos(u) + 0.2 * np.sin(v - 1.1)
    )


def sampled(ny, nx):
    """One period of it at ``k · box / n``."""
    return wave(np.arange(nx) * BOX[0] / nx, np.arange(ny) * BOX[1] / ny)


@pytest.mark.parametrize(("ny", "nx"), [(9, 7), (10, 8), (11, 16), (24, 7)])
def test_anywhere_from_the_fewest_samples_that_hold_the_function(ny, nx):
    """Coordinates that are uneven, before the origin and beyond the period, as in a distorted image."""
    generator = np.random.default_rng(1)
    x, y = np.sort(generator.uniform(-9, 17, 31)), generator.uniform(-6, 14, 23)
    np.testing.assert_allclose(evaluate(sampled(ny, nx), BOX, x, y), wave(x, y), atol=1e-12)


def test_samples_are_kept_and_leading_dimensions_go_along():
    stack = np.stack([sampled(9, 7), 2 * sampled(9, 7), np.random.default_rng(0).normal(size=(9, 7))])[
        :, None
    ]
    x, y = np.arange(7) * BOX[0] / 7, np.arange(9) * BOX[1] / 9
    back = evaluate(stack, BOX, x, y)
    assert back.shape == (3, 1, 9, 7)
    np.testing.assert_allclose(back, stack, atol=1e-12)


def test_even_samples_of_anything_stay_real_and_exact():
    """The highest frequency of an even number of samples stands for both of its signs."""
    noise = np.random.default_rng(2).normal(size=(6, 8))
    x, y = np.arange(16) * BOX[0] / 16, np.arange(12) * BOX[1] / 12
    np.testing.assert_allclose(evaluate(noise, BOX, x, y)[::2, ::2], noise, atol=1e-12)


def test_source_damps_each_wave_by_its_gaussian():
    """exp(−2π²σ²f²) for a full width at half maximum of 0.8 Å, with the period along its own axis."""
    sigma = 0.8 / 2.354820045
    x, y = np.linspace(0, 8, 17), np.linspace(-1, 7, 13)
    samples = np.cos(2 * np.pi * (2 * np.arange(9) / 9 + 3 * np.arange(11)[:, None] / 11))
    f2 = (2 / BOX[0]) ** 2 + (3 / BOX[1]) ** 2
    expected = np.cos(2 * np.pi * (2 * x / BOX[0] + 3 * y[:, None] / BOX[1])) * np.exp(
        -2 * np.pi**2 * sigma**2 * f2
    )
    np.testing.assert_allclose(evaluate(samples, BOX, x, y, 0.8), expected, atol=1e-9)


@pytest.mark.parametrize(("ny", "nx"), [(9, 7), (10, 12), (15, 8), (40, 31)])
def test_resampled_is_the_same_function(ny, nx):
    one = np.stack([sampled(9, 7), -sampled(9, 7)]).astype(np.float32)
    finer = resample(one, ny, nx)
    assert finer.dtype == np.float32
    np.testing.assert_allclose(finer, [sampled(ny, nx), -sampled(ny, nx)], atol=2e-6)
