"""Tilt from single cells and averages: an oracle, the likelihood, and the lattice that both lean on."""

import numpy as np
import pytest
import xarray as xr

import tiltsim
from tiltsim.bounds.fisher import tilt_bound
from tiltsim.bounds.folding import Grating, electrons_of, fold, grating
from tiltsim.bounds.likelihood import BINS, fit_folded, likelihood_tilt
from tiltsim.evaluation.tilt import plot_tilt_accuracy, tilt_accuracy
from tiltsim.evaluation.uniform_fields import patches, uniform_field
from tiltsim.seeds import EVALUATION

STATE = {"tilt": (4.1, -2.3), "thickness": 61.0, "d": (-14.0, 9.0)}


def picture(library, dose, seed, side=14.0, pixel=0.2):
    """A uniform crystal, its B columns, and where its lattice is."""
    edge = library.edges["BiFeO3"]
    axis = np.arange(0, side, pixel)
    origin = 1.3  # of an A column
    values = library.uniform_image(
        (axis - origin) / edge, (axis - origin) / edge, source_fwhm=0.8 / edge, **STATE
    )
    image = xr.DataArray(values, dims=("y", "x"), coords={"y": axis, "x": axis})
    b = origin + edge / 2 - np.array(STATE["d"]) / 100
    lattice = Grating((float(b[0]), float(b[1])), np.eye(2) * edge)
    return tiltsim.apply_dose(image, dose, seed), lattice


def test_a_lattice_is_found_turned_and_strained():
    frame = np.array([[3.99, -0.21], [0.20, 3.93]])
    index = np.stack(np.meshgrid(np.arange(-4, 9), np.arange(-3, 12)), -1).reshape(-1, 2)
    noise = np.random.default_rng(0).normal(0, 0.02, index.shape)
    found = grating(index @ frame.T + 7.0 + noise)
    np.testing.assert_allclose(found.frame, frame, atol=5e-3)
    assert np.degrees(found.angle) == pytest.approx(2.97, abs=0.1)
    places = (np.array(found.origin) - 7.0) @ np.linalg.inv(frame).T
    np.testing.assert_allclose(places, np.round(places), atol=5e-3)
    with pytest.raises(tiltsim.SettingsError, match="too few"):
        grating(np.zeros((4, 2)))


def test_folding_keeps_every_electron(library):
    image, lattice = picture(library, 1e5, 0)
    folded = fold(image, lattice, BINS)
    counts, incident = electrons_of(image)
    assert folded.counts.sum() == pytest.approx(counts.sum())
    assert folded.electrons.sum() == pytest.approx(incident * image.size)
    assert folded.cells == pytest.approx(14.0**2 / library.edges["BiFeO3"] ** 2, rel=1e-6)
    # A, the brighter, at the corner; B in the middle.
    fraction = folded.counts / np.maximum(folded.electrons, 1e-9)
    bright = np.roll(fraction, (3, 3), (0, 1))
    assert bright[:7, :7].sum() > 1.5 * fraction[15:22, 15:22].sum()
    assert np.abs(folded.offset).max() <= 0.5 / BINS + 1e-9
    with pytest.raises(tiltsim.SettingsError, match="apply a dose"):
        electrons_of(image.assign_attrs(dose_per_A2=np.inf))


def test_the_likelihood_finds_the_truth_to_the_bound(library):
    dose, draws = 4e5, 12
    folded = []
    for seed in range(draws):
        image, lattice = picture(library, dose, seed)
        folded.append(fold(image, lattice, BINS))
    found = fit_folded(folded, library)
    bound = tilt_bound(library, **STATE, dose_per_A2=dose, cells=folded[0].cells)["std"]
    truth = {"tilt_x": 4.1, "tilt_y": -2.3, "thickness": 61.0, "d_x": -14.0, "d_y": 9.0}
    for name, value in truth.items():
        errors = (found.estimate.sel(parameter=name) - value) / float(bound.sel(parameter=name))
        # The rms of 12 draws is known to 20 %.
        assert 0.4 < float(np.sqrt((errors**2).mean())) < 1.6, name
        np.testing.assert_allclose(
            found["std"].sel(parameter=name), float(bound.sel(parameter=name)), rtol=0.25
        )
    np.testing.assert_allclose(found.deviance, 1.0, atol=0.15)
    assert not found.at_limit.any()


def test_one_image_is_fitted_from_its_cells(library):
    image, lattice = picture(library, 1e6, 5, side=22.0)
    index = np.stack(np.meshgrid(np.arange(-1, 6), np.arange(-1, 6)), -1).reshape(-1, 2)
    xy = np.array(lattice.origin) + index @ lattice.frame.T
    cells = xr.Dataset({"x": ("cell", xy[:, 0]), "y": ("cell", xy[:, 1])})
    found = likelihood_tilt(image, cells, library)
    np.testing.assert_allclose(found.tilt.values[0], STATE["tilt"], atol=5 * float(found.tilt_std.max()))
    assert float(found.tilt_std.max()) < 0.5
    np.testing.assert_allclose(found.d.values[0], STATE["d"], atol=5 * float(found.d_std.max()))
    assert float(found.thickness[0]) == pytest.approx(61.0, abs=5 * float(found.thickness_std[0]))


def test_fields_are_uniform_and_patches_hold_what_is_asked(library):
    field = uniform_field(library, 40.0, 3, 0)
    assert np.ptp(field.cells.tilt.values, axis=0).max() < 1e-6
    area = abs(np.linalg.det(field.lattice.frame))
    for cells, window in ((9, 6.0), (1, 6.0)):
        pieces = patches(field, cells, window, 4)
        shown = pieces[0].size * 0.04
        assert shown == pytest.approx(max(cells * area, 6.4**2), rel=0.08)
        assert 1 <= len(pieces) <= 4
    # A single window has a B column in its middle.
    xy = np.column_stack([field.cells.x, field.cells.y])
    for piece in pieces:
        middle = np.array([float(piece.x.mean()), float(piece.y.mean())])
        assert np.hypot(*(xy - middle).T).min() < 0.2
    with pytest.raises(tiltsim.SettingsError, match="do not fit"):
        patches(field, 400, 6.0, 1)


def test_an_oracle_with_noise_has_the_error_that_it_was_given(library):
    rng = np.random.default_rng(1)
    given: dict[int, list] = {}

    def oracle(image, cells):
        noise = rng.normal(0.0, 2.0, (cells.sizes["cell"], 2))
        given.setdefault(image.sizes["x"], []).append((cells.sizes["cell"], *noise.mean(axis=0)))
        return xr.Dataset({"tilt": (("cell", "component"), cells.tilt.values + noise)})

    table = tilt_accuracy(oracle, library, cells=(1, 16), doses=(4e4,), fields=6, most_patches=6, seed=2)
    rmse = table.rmse.sel(estimator="model", dose=4e4)
    for cells, size in zip((1, 16), sorted(given), strict=True):
        means = np.array(given[size])
        assert float(rmse.sel(cells=cells)) == pytest.approx(np.sqrt((means[:, 1:] ** 2).mean()), rel=1e-3)
        # A window of 6.4 Å shows the one B column that it is centred on; 4 × 4 cells show 3 to 5 rows of them.
        assert (means[:, 0] >= (1 if cells == 1 else 9)).all()
        assert (means[:, 0] <= (1 if cells == 1 else 25)).all()
    assert (table.cells_seen > table.cells * 0.9).all()
    # Bounds fall as counts do.
    by_area = table.rms_bound * np.sqrt(table.cells_seen)
    np.testing.assert_allclose(by_area, float(by_area[0, 0]), rtol=0.02)
    assert (table.rms_bound_prior < table.rms_bound).all()
    assert len(plot_tilt_accuracy(table).axes) == 1
    # Errors scatter by their standard error over the root of twice their number, if they are independent.
    assert 0.01 < float(table.rmse_sem.sel(estimator="model", dose=4e4, cells=1)) < 1.0


def test_crystals_are_none_that_a_training_has_seen(library):
    def silent(image, cells):
        return xr.Dataset({"tilt": (("cell", "component"), np.zeros((cells.sizes["cell"], 2)))})

    table = tilt_accuracy(silent, library, cells=(1,), doses=(4e4,), fields=2, most_patches=1)
    trained = [uniform_field(library, 18.0, 0, number).tilt for number in range(2)]
    judged = [uniform_field(library, 18.0, EVALUATION, number).tilt for number in range(2)]
    np.testing.assert_allclose(table.tilt, judged)
    assert np.abs(np.subtract(judged, trained)).min() > 1e-3


def test_a_bias_shows(library):
    def biased(image, cells):
        return xr.Dataset({"tilt": (("cell", "component"), cells.tilt.values + np.array([3.0, 0.0]))})

    table = tilt_accuracy(biased, library, cells=(9,), doses=(1e5,), fields=2, most_patches=1)
    assert table.rmse.item() == pytest.approx(3.0 / np.sqrt(2.0), rel=1e-3)
    np.testing.assert_allclose(
        table["error"].isel(estimator=0).mean(("field", "patch")).squeeze(), [3.0, 0.0], atol=1e-3
    )


def test_the_likelihood_comes_near_the_bound_on_painted_fields(library):
    table = tilt_accuracy(
        None, library, cells=(25,), doses=(1e5,), fields=4, most_patches=4, seed=5, likelihood=True
    )
    # 16 fits of two components: the ratio of an efficient estimator is 1 ± 0.15.
    assert 0.5 < table.ratio.item() < 1.6


def test_a_model_without_tilt_and_nothing_to_do_are_refused(library):
    with pytest.raises(tiltsim.SettingsError, match="likelihood=True"):
        tilt_accuracy(None, library)
    with pytest.raises(tiltsim.SettingsError, match="positive"):
        tilt_accuracy(lambda image, cells: cells, library, fields=0)
