"""What a library says is wrong with itself: nothing where it foretells, exactly what is added where it does not."""

from dataclasses import replace

import numpy as np
import pytest

import tiltsim
from tests.tiltsim.explanation.conftest import lens_library  # noqa: F401
from tiltsim.lens import LensBox, terms
from tiltsim.library.errors import error_table, model_errors, phonon_errors
from tiltsim.library.periods import library_periods
from tiltsim.library.request import EDGES, Node


@pytest.fixture(scope="module")
def foretold(lens_library):  # noqa: F811
    """A held-out structure as the library itself foretells it: images, and changes by the lenses that are tried."""
    request = lens_library.request
    node, d = request.held_out[0]
    thickness = np.array(request.held_out_cells) * EDGES[node.material]
    axis = request.held_out_tilts.x
    samples = lens_library.dataset.sizes["order_x"]

    def shown(lens):
        state = {"d": np.broadcast_to(d, (len(thickness), 2)), "samples": samples, "aberrations": lens}
        return np.array(
            [[library_periods(lens_library, (x, y), thickness, **state)[0] for y in axis] for x in axis]
        )

    plain = shown(np.zeros(5))
    left = [shown(lens) - plain for lens in request.lens.tried()]
    changes = np.concatenate([np.zeros((len(terms()), *plain.shape)), left]).astype(np.float32)
    return node, d, plain, changes


def test_a_library_that_foretells_has_no_errors(lens_library, foretold):  # noqa: F811
    node, d, plain, changes = foretold
    found = model_errors(lens_library, node, d, plain, changes)
    count = len(lens_library.request.held_out_tilts.x) ** 2 * len(lens_library.request.lens.tried())
    assert found.images.shape[0] == count
    assert np.abs(found.images).max() < 1e-5 * plain.max()


def test_what_is_added_is_the_error_of_its_tilt_lens_and_thickness(lens_library, foretold):  # noqa: F811
    node, d, plain, changes = foretold
    tilts, lenses = len(lens_library.request.held_out_tilts.x), len(lens_library.request.lens.tried())
    changed = changes.copy()
    bump = np.zeros(plain.shape[-2:])
    bump[2, 5] = 0.1 * plain.max()
    changed[len(terms()) + 3, 1, 2, 2] += bump
    found = model_errors(lens_library, node, d, plain, changed).images.reshape(
        tilts, tilts, lenses, -1, *bump.shape
    )
    np.testing.assert_allclose(found[1, 2, 3, 2], -bump, atol=1e-5 * plain.max())
    found[1, 2, 3, 2] = 0.0
    assert np.abs(found).max() < 1e-5 * plain.max()


def test_samples_of_phonons_have_the_covariance_of_the_mean():
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((4000, 1, 1, 1, 2, 2)) * np.array([[1.0, 2.0], [3.0, 4.0]])
    pairs[..., 1, 1] += 0.5 * pairs[..., 0, 0]
    found = phonon_errors(Node("BiFeO3", (2, 1)), pairs, (6,)).images
    flat = found[::6].reshape(-1, 4)  # six tilts, here the same one
    expected = np.cov(pairs.reshape(-1, 4).T) / len(pairs)
    np.testing.assert_allclose(flat.T @ flat / len(flat), expected, rtol=0.02, atol=2e-5)


def test_a_single_pair_tells_nothing_of_phonons():
    found = phonon_errors(Node("SrTiO3"), np.ones((1, 3, 3, 2, 5, 5)), (6, 12))
    assert found.images.shape == (0, 2, 5, 5)
    other = replace(found, kind="model", images=np.ones((3, 2, 5, 5), np.float32))
    table = error_table([found, other])
    assert table.sizes["error"] == 6
    assert set(table.error_kind.values) == {"model"}
    np.testing.assert_array_equal(table.error_cells.values, [6, 12] * 3)


@pytest.mark.parametrize("tilts", [5, 7, 9, 11, 21, 41])
def test_held_out_tilts_lie_between_nodes(tilts):
    request = tiltsim.LibraryRequest(lens=LensBox(), tilts=tilts)
    step = 2 * request.largest_tilt / (tilts - 1)
    axis = np.array(request.held_out_tilts.x)
    np.testing.assert_allclose(axis, -axis[::-1])
    away = np.abs(axis / step - np.round(axis / step))
    assert away.min() >= 0.2
    assert np.abs(axis).max() < request.largest_tilt


def test_lenses_need_thicknesses_between():
    with pytest.raises(tiltsim.SettingsError, match="step_cells 2"):
        tiltsim.LibraryRequest(lens=LensBox(), step_cells=2)


def test_one_state_is_seen_through_many_lenses(lens_library):  # noqa: F811
    rng = np.random.default_rng(1)
    lenses = lens_library.lens.sizes * rng.uniform(-0.5, 0.5, (3, 5))
    many, slopes = library_periods(lens_library, (2.0, -3.0), 60.0, (15.0, -9.0), aberrations=lenses)
    for number, lens in enumerate(lenses):
        one, slope = library_periods(lens_library, (2.0, -3.0), 60.0, (15.0, -9.0), aberrations=lens)
        np.testing.assert_allclose(many[number], one, atol=1e-7)
        for name in slope:
            np.testing.assert_allclose(
                slopes[name][number], slope[name], atol=1e-6 * np.abs(slope[name]).max()
            )
