"""Whether errors are what they say: coverage over many crystals, what is left over, profiles, errors of the library itself."""

from dataclasses import replace

import numpy as np
import pytest

import tiltsim
from tests.tiltsim.explanation.conftest import LENS, film, truth_of
from tiltsim.explanation.fitting import Posterior
from tiltsim.explanation.inversion import invert, shared_turn
from tiltsim.explanation.misfit import find_misfit, harmonics
from tiltsim.explanation.model import PRIORS, SHARED, SOURCE, Model
from tiltsim.explanation.profiles import find_profiles
from tiltsim.explanation.regions import BINS, Region
from tiltsim.lens import COMPONENTS
from tiltsim.library.periods import library_periods

CELLS, DOSE = 300, 4e4


def crystal(library, rng, *, lens=None, wrong=0.0, black=0.0):
    """A variant's averaged cell and its truth, drawn from the library: tilt, d (lattice axes) and thickness."""
    edge = library.edges["BiFeO3"]
    tilt, d = rng.uniform(-7, 7, 2), rng.choice((-1, 1), 2) * rng.uniform(12, 24, 2)
    thickness = rng.uniform(45.0, 85.0)
    if lens is None:
        lens = library.lens.sizes * rng.uniform(-0.55, 0.55, 5)
    image, _ = library_periods(library, tilt, np.array(thickness), d, samples=BINS, aberrations=lens)
    if wrong:
        errors = library.errors("BiFeO3", thickness, (int(np.sign(d[0])), int(np.sign(d[1]))))
        errors = np.concatenate(list(errors.values()))
        spectrum = np.fft.fft2(errors).reshape(len(errors), -1)
        n = errors.shape[-1]
        k = np.fft.fftfreq(n, 1.0 / n)
        waves = np.exp(2j * np.pi * np.arange(BINS)[:, None] / BINS * k)
        drawn = (rng.standard_normal(len(errors)) @ spectrum).reshape(n, n) / n**2
        image = image + wrong * np.real(waves @ drawn @ waves.T)
    k = np.fft.fftfreq(BINS, edge / BINS)
    image = np.fft.ifft2(np.fft.fft2(image) * np.exp(-2 * np.pi**2 * SOURCE * (k[:, None] ** 2 + k**2))).real
    image = image + black * image.mean()
    bands = 24
    electrons = DOSE * edge**2 / BINS**2 * CELLS / bands
    counts = rng.poisson(np.maximum(image, 0) * electrons, (bands, BINS, BINS)) / electrons
    level = image.mean()
    variance = np.maximum(image, 1e-6) / electrons / bands / level**2
    ones = np.ones_like(counts)
    region = Region(
        "variant 1", "BiFeO3", counts / level, ones, counts / level, ones, np.zeros((2, BINS, BINS)), variance, np.eye(2) * edge,
        CELLS, np.arange(CELLS), np.zeros((bands, 2)), d, np.eye(2),
    )  # fmt: skip
    return region, tilt, d, thickness


@pytest.fixture(scope="module")
def many(lens_library):
    """Inversions of thirty crystals with errors of the library's kind, and their truth."""
    rng = np.random.default_rng(11)
    found = []
    for _ in range(30):
        region, tilt, d, thickness = crystal(lens_library, rng, wrong=1.0)
        found.append((invert([region], lens_library), tilt, d, thickness))
    return found


def test_intervals_of_90_percent_hold_the_truth_as_often(many):
    pulls = {"tilt": [], "d": []}
    for inversion, tilt, d, _ in many:
        pulls["tilt"] += list((inversion.tilt[0] - tilt) / np.sqrt(np.diag(inversion.tilt_cov)))
        pulls["d"] += list((inversion.d[0] - d) / np.sqrt(np.diag(inversion.bias_cov)))
    for name, values in pulls.items():
        inside = np.mean(np.abs(values) < 1.645)
        # Sixty numbers, of which pairs are related: 0.9 ± 0.05.
        assert 0.76 < inside <= 1.0, (name, inside)
        assert abs(np.mean(values)) < 0.5, name
        # Nor are errors far too large.
        assert np.std(values) > 0.5, name


def test_what_a_faithful_model_leaves_is_chance(many):
    chances = np.array([inversion.misfit.chance for inversion, *_ in many])
    assert (chances > 1e-4).all()
    assert 0.2 < chances.mean() < 0.95
    assert np.mean([inversion.misfit.reduced for inversion, *_ in many]) == pytest.approx(1.0, abs=0.2)


def test_a_lens_far_from_its_prior_is_no_misfit(lens_library):
    rng = np.random.default_rng(4)
    far = lens_library.lens.sizes * np.array([0.7, 0.45, 0.3, 0.35, -0.35])
    region, tilt, *_ = crystal(lens_library, rng, lens=far)
    found = invert([region], lens_library)
    assert found.misfit.chance > 1e-3
    np.testing.assert_allclose(found.tilt[0], tilt, atol=1.0)


def test_aberrations_that_are_left_out_are_a_misfit(lens_library):
    rng = np.random.default_rng(5)
    region, *_ = crystal(lens_library, rng, lens=np.array(LENS))
    model = Model(lens_library, [region])
    none = {name: (0.0, 1e-3) for name in COMPONENTS}
    posterior = Posterior(model, [region], PRIORS | none)
    misfit = find_misfit(posterior, posterior.solutions()[0])
    assert misfit.chance < 1e-4


def test_errors_of_the_library_are_in_the_answers_errors(lens_library):
    region, *_ = crystal(lens_library, np.random.default_rng(6))
    model = Model(lens_library, [region])
    posterior = Posterior(model, [region])
    solution = posterior.solutions()[0]
    with_them = posterior.sandwich(solution)
    posterior.errors = posterior.errors[:, :0]
    without = posterior.sandwich(solution)
    assert (np.diag(with_them) >= np.diag(without) - 1e-12).all()
    assert with_them[0, 0] > without[0, 0]


def test_errors_of_mirrored_variants_mirror(lens_library):
    plain = lens_library.errors("BiFeO3", 60.0, (1, 1))
    mirrored = lens_library.errors("BiFeO3", 60.0, (-1, 1))
    assert list(plain) == ["phonons", "model"]
    for kind, images in plain.items():
        # About the A column on the first sample.
        np.testing.assert_allclose(mirrored[kind][:, :, 1:], images[:, :, :0:-1], atol=1e-12)
        np.testing.assert_allclose(mirrored[kind][:, :, 0], images[:, :, 0], atol=1e-12)
        assert np.abs(images).max() > 0


def test_variants_share_errors_of_phonons_and_no_others(lens_library):
    rng = np.random.default_rng(8)
    regions = [crystal(lens_library, rng)[0] for _ in range(2)]
    posterior = Posterior(Model(lens_library, regions), regions)
    theta = posterior.start()[0]
    posterior.doubt(theta)
    size = BINS * BINS
    first, second = posterior.errors[:size], posterior.errors[size:]
    alike, mirrored = (posterior.model.errors(theta, n) for n in (0, 1))
    shared = {k: alike[k].reshape(-1, size).T @ mirrored[k].reshape(-1, size) for k in alike}
    whole = sum(images.reshape(-1, size).T @ images.reshape(-1, size) for images in alike.values())
    scale = np.abs(whole).max()
    alone = np.abs(shared["phonons"]).max()
    assert alone > 0.2 * scale
    np.testing.assert_allclose(first @ second.T, 0.85 * shared["phonons"], atol=0.05 * alone)
    np.testing.assert_allclose(first @ first.T, whole, atol=0.02 * scale)


def test_profiles_of_a_well_known_unknown_are_parabolas(many):
    inversion = many[0][0]
    profiles = find_profiles(
        inversion.posterior,
        inversion.solution,
        inversion.covariance,
        [("thickness", -1), ("tilt_x", 0), ("d_y", 0), ("d_x", 7)],
    )
    assert [p.name for p in profiles] == ["thickness", "tilt_x", "d_y"]
    for profile in profiles:
        assert profile.stretch == pytest.approx(1.0, abs=0.3), profile.name
        low, high = profile.interval
        place = inversion.model.layout.place(profile.name, profile.region)
        assert low < inversion.solution.theta[place] < high


def test_a_profile_that_does_not_rise_has_no_end(many):
    from tiltsim.explanation.profiles import _interval

    values = np.linspace(-2.0, 2.0, 9)
    assert _interval(values, np.where(values < 0, 4.0 * values**2, 0.1 * values))[1] == np.inf
    low, high = _interval(values, values**2)
    assert (low, high) == pytest.approx((-1.645, 1.645), abs=0.01)


def test_harmonics_are_orthonormal():
    modes = harmonics()
    np.testing.assert_allclose(modes @ modes.T, np.eye(len(modes)), atol=1e-12)
    assert 100 < len(modes) < 130


def test_a_trend_along_the_image_is_no_noise_of_the_mean():
    rng = np.random.default_rng(0)
    bands = 20
    counts = 1.0 + 1e-3 * rng.standard_normal((bands, BINS, BINS))
    trend = np.linspace(-1, 1, bands)[:, None, None] * np.cos(2 * np.pi * np.arange(BINS) / BINS)
    base = {
        "name": "variant 1", "material": "BiFeO3", "pixels": np.ones_like(counts), "band_pixels": np.ones_like(counts),
        "offset": np.zeros((2, BINS, BINS)), "variance": np.ones((BINS, BINS)), "frame": np.eye(2) * 4, "cells": 9, "rows": np.arange(9),
        "places": np.zeros((bands, 2)), "apparent": np.zeros(2), "apparent_cov": np.eye(2),
    }  # fmt: skip
    flat = Region(counts=counts, band_counts=counts, **base)
    bent = Region(counts=counts + trend, band_counts=counts + trend, **base)
    expected = 1e-6 / bands * BINS**2
    assert (flat.scatter() ** 2).sum() == pytest.approx(expected, rel=0.05)
    assert (bent.scatter() ** 2).sum() == pytest.approx(expected, rel=0.05)


def test_the_lens_is_told_along_the_images_axes(lens_library):
    region, *_ = crystal(lens_library, np.random.default_rng(1))
    angle = np.radians(20.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = replace(region, frame=turn @ region.frame)
    matrix, names = shared_turn(turned), list(SHARED)
    lens = np.zeros(len(names))
    lens[names.index("C21_x")], lens[names.index("C12_x")] = 400.0, 10.0
    lens[names.index("source_xx")], lens[names.index("source_yy")] = 0.2, 0.1
    shown = dict(zip(names, matrix @ lens, strict=True))
    assert shown["C21_x"] == pytest.approx(400.0 * np.cos(angle))
    assert shown["C21_y"] == pytest.approx(400.0 * np.sin(angle))
    assert shown["C12_x"] == pytest.approx(10.0 * np.cos(2 * angle))
    assert shown["C12_y"] == pytest.approx(10.0 * np.sin(2 * angle))
    whole = turn @ np.diag([0.2, 0.1]) @ turn.T
    assert (shown["source_xx"], shown["source_yy"], shown["source_xy"]) == pytest.approx(
        (whole[0, 0], whole[1, 1], whole[0, 1])
    )


def test_the_fit_stays_where_the_lens_polynomial_was_fitted(lens_library):
    region, *_ = crystal(lens_library, np.random.default_rng(2))
    model = Model(lens_library, [region])
    theta = np.zeros((1, len(model.layout.names)))
    corner = lens_library.lens.sizes
    for name, value in zip(COMPONENTS, corner, strict=True):
        theta[0, model.layout.place(name)] = value
    moved = model.within(theta)[0]
    lens = np.array([moved[model.layout.place(name)] for name in COMPONENTS])
    assert lens_library.lens.contains(lens)
    assert lens[0] == corner[0]


def test_an_unknown_black_level_does_not_move_tilt_or_d(lens_library):
    field = film(lens_library, size=420, dose=1e5)
    image = field.image.copy(data=field.image.values + 0.3 * field.image.values.mean())
    image.attrs.pop("black_level", None)
    found = tiltsim.explain(image, lens_library)
    assert found.inversion.number("offset")[0] > 0.1
    tilt, d = truth_of(field, found, found.regions[0])
    np.testing.assert_allclose(found.inversion.tilt[0], tilt, atol=0.8)
    np.testing.assert_allclose(found.inversion.d[0], d, atol=1.2)


def test_samarium_that_is_given_is_seen(lens_library):
    region, *_ = crystal(lens_library, np.random.default_rng(3))
    plain, doped = Model(lens_library, [region]), Model(lens_library, [region], samarium=0.1)
    theta = np.zeros((1, len(plain.layout.names)))
    theta[0, plain.layout.place("thickness")], theta[0, plain.layout.place("scale")] = 60.0, 1.0
    change = (doped.predict(theta)[0] - plain.predict(theta)[0])[0, 0]
    # Sm is lighter than Bi: the A column at the origin dims.
    assert change[0, 0] < 0
    assert abs(change[0, 0]) > 3 * abs(change[BINS // 2, BINS // 2])
