"""Bounds on tilt, thickness and displacement: derivatives, information, priors, Monte Carlo."""

import numpy as np
import pytest
import xarray as xr

import tiltsim
from tests.tiltsim.conftest import SMALL_LIBRARY
from tiltsim.bounds.figures import bound_table, component_rms, plot_bound
from tiltsim.bounds.fisher import NUISANCE, UNITS, fisher_information, model_slopes, tilt_bound
from tiltsim.bounds.response import (
    ABERRATIONS,
    aberration,
    engine_derivatives,
    library_response,
)
from tiltsim.library.periods import SPECIMEN, library_periods
from tiltsim.synth.probe import ProbeFaults, transfer

STATE = {"tilt": (4.1, -2.3), "thickness": 61.0, "d": (-14.0, 9.0)}


@pytest.fixture(scope="module")
def response(library):
    return library_response(library, **STATE)


def test_periods_are_the_librarys_images(library, response):
    axis = np.arange(40) / 40
    np.testing.assert_allclose(response.image, library.uniform_image(axis, axis, **STATE), atol=1e-7)


@pytest.mark.parametrize("name", SPECIMEN)
def test_slopes_are_those_of_finite_differences(library, response, name):
    step = {"tilt_x": 0.05, "tilt_y": 0.05, "thickness": 0.5, "d_x": 0.5, "d_y": 0.5}[name]
    ends = []
    for sign in (1, -1):
        state = {k: np.array(v, dtype=float) for k, v in STATE.items()}
        if name == "thickness":
            state["thickness"] += sign * step
        else:
            state[name[:-2]]["xy".index(name[-1])] += sign * step
        ends.append(library_periods(library, **state)[0])
    numeric = (ends[0] - ends[1]) / (2 * step)
    error = np.sqrt(((response.slopes[name] - numeric) ** 2).mean() / (numeric**2).mean())
    assert error < 3e-3


def test_many_states_at_once_are_each_as_alone(library, response):
    tilt, thickness, d = (np.array([STATE[n], STATE[n]]) for n in ("tilt", "thickness", "d"))
    tilt[1] += 1.0
    image, slopes = library_periods(library, tilt, thickness, d)
    np.testing.assert_allclose(image[0], response.image, rtol=1e-6)
    np.testing.assert_allclose(slopes["d_x"][0], response.slopes["d_x"], atol=1e-8)
    assert not np.allclose(image[1], image[0], rtol=1e-3)


def test_blur_and_origin_have_their_derivatives(response):
    def image(fwhm):
        return model_slopes(response, [], source_fwhm=fwhm, pixel=0.1)[0]

    _, slopes = model_slopes(response, list(NUISANCE), pixel=0.1)
    up, down = 0.805, 0.795
    variance = (up**2 - down**2) / (8 * np.log(2))
    wider = (image(up) - image(down)) / variance
    np.testing.assert_allclose(
        slopes["source_xx"] + slopes["source_yy"], wider, atol=2e-3 * np.abs(wider).max()
    )
    # A is at the origin: moved right, the pixel right of it gains.
    assert slopes["origin_x"][0, 3] > 0 > slopes["origin_x"][0, -3]
    assert slopes["origin_y"][3, 0] > 0 > slopes["origin_y"][-3, 0]
    np.testing.assert_array_equal(slopes["offset"], 1.0)


def test_aberrations_of_either_sign_are_opposite():
    k = np.array([[0.1, 0.2, -0.3]])
    microscope = tiltsim.Microscope(semiangle_cutoff=22.0)
    for name in ABERRATIONS:
        factors = []
        for sign in (1.0, -1.0):
            settings = {
                n: float(np.degrees(v)) if n.startswith("phi") else v
                for n, v in aberration(name, sign).items()
            }
            assert all(abs(v) <= 180 for n, v in settings.items() if n.startswith("phi"))
            faults = ProbeFaults(source_fwhm=0.0, **settings)
            factors.append(transfer(faults, microscope, k, k[:, ::-1], thickness=60.0) - 1.0)
        # Small aberrations act linearly but for squares of a phase of 0.01 rad.
        assert np.abs(factors[0] + factors[1]).max() < 0.1 * np.abs(factors[0]).max() + 1e-6, name


def test_bounds_fall_with_counts_and_rise_with_what_is_unknown(response):
    one = tilt_bound(response, dose_per_A2=4e4)
    many = tilt_bound(response, dose_per_A2=1e4, cells=400)
    np.testing.assert_allclose(many["std"], one["std"] / 10, rtol=1e-6)
    fewer = tilt_bound(response, dose_per_A2=4e4, nuisance=("scale",))
    more = tilt_bound(response, dose_per_A2=4e4, nuisance=(*NUISANCE, *ABERRATIONS))
    for name in SPECIMEN:
        small, middle, large = (float(b["std"].sel(parameter=name)) for b in (fewer, one, more))
        assert small < middle < large
        assert float(one.std_alone.sel(parameter=name)) < middle
    # Finer pixels hold the same information, once the image is resolved.
    fine = tilt_bound(response, dose_per_A2=4e4, pixel=0.1)
    np.testing.assert_allclose(fine["std"], one["std"], rtol=0.02)
    assert [str(u) for u in one.unit.values] == [UNITS[str(p)] for p in one.parameter.values]
    np.testing.assert_allclose(np.diag(one.correlation), 1.0)


def test_a_prior_adds_its_information(response):
    single = {"dose_per_A2": 1e4, "cells": 1.0}
    free = tilt_bound(response, **single)["std"]
    bound = tilt_bound(response, **single, prior_tilt_mrad=1.0)["std"]
    assert float(bound.sel(parameter="tilt_x")) < min(1.0, float(free.sel(parameter="tilt_x")))
    # With a prior on one component only, its information adds to what is left when all else is unknown.
    alone = tilt_bound(response, **single, prior={"tilt_x": 2.0})["std"].sel(parameter="tilt_x")
    expected = (1 / float(free.sel(parameter="tilt_x")) ** 2 + 1 / 2.0**2) ** -0.5
    assert float(alone) == pytest.approx(expected, rel=1e-6)


def test_poisson_counts_scatter_as_the_bound_says(response):
    """Maximum likelihood of a model that is linear around the truth, for 600 draws of all parameters at once."""
    parameters = [*SPECIMEN, *NUISANCE]
    image, slopes = model_slopes(response, parameters)
    electrons = 4e4 * 400 * (response.edge / len(image)) ** 2
    bound = tilt_bound(response, dose_per_A2=4e4, cells=400)["std"].values
    design = np.stack([slopes[p].ravel() * b for p, b in zip(parameters, bound, strict=True)], axis=1)
    rng = np.random.default_rng(7)
    counts = rng.poisson(electrons * image.ravel(), size=(600, image.size))
    found = np.zeros((600, len(parameters)))
    for _ in range(6):  # Newton's method on each log likelihood
        expected = electrons * (image.ravel() + found @ design.T)
        score = ((counts / expected - 1.0) * electrons) @ design
        curvature = np.einsum("np,kn,nq->kpq", design, counts / expected**2 * electrons**2, design)
        found += np.linalg.solve(curvature, score[..., None])[..., 0]
    assert np.abs(score).max() < 1e-3  # converged
    # The scatter of 600 draws is known to 3 %.
    np.testing.assert_allclose(found.std(axis=0), 1.0, atol=0.1)
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=0.2)
    expected_correlation = tilt_bound(response, dose_per_A2=4e4, cells=400)["correlation"].values
    np.testing.assert_allclose(np.corrcoef(found.T), expected_correlation, atol=0.15)


def test_information_of_a_brightness_is_that_of_counting():
    # N electrons tell a mean of f to √(f / N).
    information = fisher_information(np.full((4, 4), 0.04), [np.ones((4, 4))], 1000.0)
    assert information[0, 0] ** -0.5 == pytest.approx(np.sqrt(0.04 / 16000.0))


def test_a_table_and_its_picture(library):
    table = bound_table(library, thicknesses=[40.0, 80.0], doses=(1e4, 4e4, 1e5))
    tilt = component_rms(table["std"], "tilt").sel(dose=4e4)
    assert tilt.dims == ("thickness", "cells")
    np.testing.assert_allclose(tilt.sel(cells=1), 20 * tilt.sel(cells=400), rtol=1e-6)
    one = tilt_bound(library, tilt=(0.0, 0.0), thickness=40.0, d=(-23.6, -23.6), dose_per_A2=4e4, cells=20)
    np.testing.assert_allclose(
        table["std"].isel(thickness=0, direction=0).sel(dose=4e4, cells=20), one["std"], rtol=1e-6
    )
    assert (table.std_prior <= table["std"] * (1 + 1e-9)).all()
    assert len(plot_bound(table).axes) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dose_per_A2": 0.0}, "positive"),
        ({"dose_per_A2": np.inf}, "finite"),
        ({"dose_per_A2": 1e4, "nuisance": ("charm",)}, "unknown"),
        ({"dose_per_A2": 1e4, "prior": {"tilt_x": 0.0}}, "positive width"),
    ],
)
def test_what_cannot_be_asked_is_refused(response, arguments, words):
    with pytest.raises(tiltsim.SettingsError, match=words):
        tilt_bound(response, **arguments)


def test_a_library_needs_its_state(library):
    with pytest.raises(tiltsim.SettingsError, match="must be given"):
        tilt_bound(library, dose_per_A2=1e4)
    with pytest.raises(tiltsim.SettingsError, match="lies outside"):
        tilt_bound(library, tilt=(50.0, 0.0), thickness=50.0, dose_per_A2=1e4)


@pytest.mark.slow
def test_the_engines_own_derivatives_give_the_librarys_bounds(library):
    """The small library has nodes 6 mrad apart and a single phonon pair: slopes differ by 10 to 25 %, bounds by less."""
    state = {"tilt": (4.0, -2.0), "thickness": 40.0, "d": (-15.0, 10.0)}
    engine = engine_derivatives(SMALL_LIBRARY, **state)
    same = library_response(library, tilt=engine.tilt, thickness=engine.thickness, d=engine.d)
    bounds = [tilt_bound(source, dose_per_A2=4e4, cells=400)["std"] for source in (engine, same)]
    for name in SPECIMEN:
        pictures = [model_slopes(source, [name])[1][name].ravel() for source in (engine, same)]
        assert np.corrcoef(*pictures)[0, 1] > 0.95, name
        ratio = xr.apply_ufunc(np.divide, *bounds).sel(parameter=name)
        assert 0.75 < float(ratio) < 1.33, name
