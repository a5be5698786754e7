"""Domains, walls and the inversion centre of clouds whose truth is known; distances in pm."""

import numpy as np
import pytest
import xarray as xr

from analysis.domains import find_domains, find_walls
from analysis.errors import ImageError
from analysis.inversion import inversion_centre

CELL = 4.0  # Å
CENTRE = np.array([3.0, -4.0])
SIDE = (np.indices((30, 30))[1] >= 20).astype(int)  # 0 left, 1 right of x = 80 Å
OPPOSITE = np.array([(20.0, -15.0), (-20.0, 15.0)]) + CENTRE
SQUARE = np.array([(20.0, -20.0), (-20.0, 20.0), (20.0, 20.0), (-20.0, -20.0)]) + CENTRE
QUARTERS = 2 * (np.indices((30, 30))[0] >= 18) + SIDE  # 360, 180, 240 and 120 cells


def drawn(kind, means, noise=8.0, seed=0, tails=False):
    """Cells in rows and columns, of the given kinds, whose columns have the errors that make `noise` in d."""
    rng = np.random.default_rng(seed)
    rows, columns = kind.shape
    sigma = noise / np.sqrt(1.25)
    a_error = rng.normal(0, sigma, (rows + 1, columns + 1, 2))
    error = (a_error[1:, 1:] + a_error[:-1, 1:] + a_error[1:, :-1] + a_error[:-1, :-1]) / 4
    error = error - rng.normal(0, sigma, (rows, columns, 2))
    if tails:
        error = rng.standard_t(3, (rows, columns, 2)) * noise
    j, i = (n.ravel() for n in np.indices(kind.shape))
    d = np.asarray(means, float)[kind.ravel()] + error.reshape(-1, 2)
    middle = (np.stack([i, j], 1) + 0.5) * CELL
    position, count = middle - d / 100, kind.size
    vector = ("cell", "component")
    return xr.Dataset(
        {
            "x": ("cell", position[:, 0]), "y": ("cell", position[:, 1]), "a": ("cell", i), "b": ("cell", j),
            "d": (vector, d), "d_cov": ((*vector, "component_2"), np.tile(noise**2 * np.eye(2), (count, 1, 1))),
            "vector_a": (vector, np.tile([CELL, 0.0], (count, 1))), "vector_b": (vector, np.tile([0.0, CELL], (count, 1))),
            "area": ("cell", np.full(count, CELL**2)), "flag": ("cell", np.zeros(count, np.uint8)),
        },
        attrs={"zone": "100"},
    )  # fmt: skip


def agreement(found, kind):
    """Share of cells that are in the variant that most cells of their kind are in."""
    label, kind = found["domain"].values, kind.ravel()
    return np.mean([np.bincount(label[kind == k]).max() / (kind == k).sum() for k in np.unique(kind)])


def pull(cells, found):
    result = inversion_centre(cells, found)
    value, vector = np.linalg.eigh(result["centre_cov"].values)
    return (result["centre"].values - CENTRE) @ vector / np.sqrt(value)


@pytest.mark.parametrize("noise", [5.0, 12.0, 18.0])
def test_two_domains_are_found_and_cells_assigned(noise):
    cells = drawn(SIDE, OPPOSITE, noise)
    found = find_domains(cells)
    assert found.sizes["variant"] == 2
    assert agreement(found, SIDE) >= 0.98
    error = np.sqrt(np.einsum("kii->ki", found["mean_cov"].values))
    assert (np.abs(found["mean"].values - OPPOSITE) < 4 * error).all()
    np.testing.assert_allclose(found["area"].values, found["cells"].values * CELL**2 / 100)
    assert found["angle"].values[0] == pytest.approx(np.degrees(np.arctan2(19, 23)), abs=6)  # up is −y


def test_neighbours_help():
    cells = drawn(SIDE, OPPOSITE, 18.0)
    alone = find_domains(cells, 2, coupling=0.0)
    assert agreement(alone, SIDE) < 0.95 < 0.98 < agreement(find_domains(cells, 2), SIDE)


def test_a_cell_with_strong_evidence_stands_against_its_neighbours():
    kind = SIDE.copy()
    kind[10, 5] = 1
    found = find_domains(drawn(kind, OPPOSITE, 3.0))
    assert agreement(found, kind) == 1.0


def test_four_variants():
    found = find_domains(drawn(QUARTERS, SQUARE, 8.0))
    assert found.sizes["variant"] == 4
    assert agreement(found, QUARTERS) >= 0.98
    assert min(found["bic"].values) == found["bic"].sel(n=4)


@pytest.mark.parametrize("tails", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_one_noisy_cloud_is_one_variant(seed, tails):
    cells = drawn(0 * SIDE, [(8.0, -15.0)], 8.0, seed, tails)
    found = find_domains(cells)
    assert found.sizes["variant"] == 1
    assert found["cells"].values.tolist() == [900]


def test_a_d_that_varies_by_less_than_its_spread_is_one_variant():
    assert find_domains(drawn(SIDE, [(0.0, 0.0), (12.0, 0.0)])).sizes["variant"] == 1
    assert find_domains(drawn(SIDE, [(0.0, 0.0), (24.0, 0.0)])).sizes["variant"] == 2


def test_unequal_errors_are_weighed():
    cells = drawn(0 * SIDE, [CENTRE], 2.0)
    noisy = np.arange(900) % 2 == 0
    cells["d"].values[noisy] += np.random.default_rng(1).normal(0, 40, (450, 2))
    cells["d_cov"].values[noisy] += 40**2 * np.eye(2)
    found = find_domains(cells)
    assert found.sizes["variant"] == 1
    np.testing.assert_allclose(
        found["mean"].values[0], CENTRE, atol=0.5
    )  # without weights the error is about 1 pm
    assert np.sqrt(found["mean_cov"].values[0, 0, 0]) < 0.3
    assert np.sqrt(np.trace(found["spread"].values[0])) < 1.0  # errors explain all of it


def test_errors_of_means_know_that_cells_share_columns():
    """A and B columns of equal errors: the mean of d has 1.6 times the variance of independent cells."""
    ratio = [
        np.trace(find_domains(drawn(0 * SIDE, [CENTRE], 8.0, seed), 1)["mean_cov"].values[0])
        / (2 * 8.0**2 / 900)
        for seed in range(6)
    ]
    assert np.mean(ratio) == pytest.approx(1.6, abs=0.25)


def test_flagged_cells_are_left_out_and_vote_for_nothing():
    cells = drawn(SIDE, OPPOSITE)
    cells["flag"].values[5:9] = 1
    cells["d"].values[5:9] = 1e4
    cells["d"].values[100] = np.nan
    found = find_domains(cells)
    assert found["domain"].values[[5, 8, 100]].tolist() == [-1, -1, -1]
    assert np.isnan(found["probability"].values[5])
    assert int(found["cells"].sum()) == 895


def test_results_are_written_and_read_back(tmp_path, assert_units):
    cells = drawn(SIDE, OPPOSITE)
    found = find_domains(cells)
    for n, result in enumerate((found, find_walls(cells, found), inversion_centre(cells, found))):
        assert_units(result)
        result.to_netcdf(tmp_path / f"{n}.nc")
        xr.testing.assert_equal(xr.load_dataset(tmp_path / f"{n}.nc"), result)
    xr.testing.assert_identical(find_domains(cells), found)


def test_wall_lies_where_it_was_put():
    cells = drawn(SIDE, OPPOSITE, 5.0)
    found = find_domains(cells)
    walls = find_walls(cells, found, CENTRE)
    assert walls.sizes["wall"] == 30
    np.testing.assert_allclose(walls["x0"], 80.0, atol=1e-9)
    np.testing.assert_allclose(walls["x1"], 80.0, atol=1e-9)
    np.testing.assert_allclose(np.sort(np.minimum(walls["y0"], walls["y1"])), np.arange(30) * CELL, atol=1e-9)
    assert set(walls["nominal"].values) == {180}
    assert set(zip(walls["variant_1"].values, walls["variant_2"].values, strict=True)) == {(0, 1)}


def test_horizontal_walls_and_classes():
    kind = (np.indices((30, 30))[0] >= 12).astype(int)  # wall at y = 48 Å
    cells = drawn(kind, SQUARE[[0, 2]] - CENTRE, 5.0)
    walls = find_walls(cells, find_domains(cells))
    np.testing.assert_allclose(walls["y0"], 48.0, atol=1e-9)
    assert np.ptp(np.sort(np.concatenate([walls["x0"], walls["x1"]]))) == pytest.approx(120.0)
    assert set(walls["nominal"].values) == {90}
    np.testing.assert_allclose(walls["angle"], 90.0, atol=4)


def test_no_wall_in_one_domain():
    cells = drawn(0 * SIDE, [CENTRE])
    assert find_walls(cells, find_domains(cells)).sizes["wall"] == 0


def test_inversion_centre_is_right_where_the_mean_is_wrong():
    cells = drawn(SIDE, OPPOSITE)
    found = find_domains(cells)
    assert np.abs(cells["d"].values.mean(0) - CENTRE).max() > 4  # two thirds of the cells are of one variant
    assert np.abs(pull(cells, found)).max() < 3
    assert np.sqrt(inversion_centre(cells, found)["centre_cov"].values[0, 0]) < 0.6
    assert inversion_centre(cells, found)["partner"].values.tolist() == [1, 0]


def test_inversion_centre_of_quiet_cells():
    cells = drawn(SIDE, OPPOSITE, 1.5)
    np.testing.assert_allclose(inversion_centre(cells)["centre"].values, CENTRE, atol=0.2)


def test_errors_of_the_centre_are_honest():
    pulls = []
    for seed in range(40):
        cells = drawn(SIDE[:20, 8:24], OPPOSITE, 10.0, seed)
        pulls.append(pull(cells, find_domains(cells, 2)))
    assert np.abs(np.mean(pulls)) < 0.4
    assert 0.75 < np.std(pulls) < 1.3


def test_four_variants_pair_up_with_their_opposites():
    for seed in range(3):
        cells = drawn(QUARTERS, SQUARE, 8.0, seed)
        found = find_domains(cells)
        result = inversion_centre(cells, found)
        assert result.attrs["pairs"] == 2
        mean, partner = found["mean"].values - CENTRE, result["partner"].values
        assert np.abs(mean + mean[partner]).max() < 4
        assert np.abs(pull(cells, found)).max() < 3


@pytest.mark.parametrize(
    ("kind", "means", "reason"),
    [
        (0 * SIDE, [(9.0, 9.0)], "one variant only"),
        (SIDE, [(20.0, 20.0), (20.0, -20.0)], "opposite directions"),
    ],
)
def test_no_centre_without_opposite_variants(kind, means, reason):
    result = inversion_centre(drawn(kind, means))
    assert np.isnan(result["centre"].values).all()
    assert reason in result.attrs["reason"]
    assert (result["partner"].values == -1).all()


def test_no_centre_from_variants_that_hide_others():
    cells = drawn(QUARTERS, SQUARE, 6.0)
    result = inversion_centre(cells, find_domains(cells, 2))
    assert np.isnan(result["centre"].values).all()
    assert result.attrs["reason"]


def test_flipped_y_flips_the_results():
    cells = drawn(SIDE, OPPOSITE)
    flipped = cells.copy(deep=True)
    flipped["d"].values[:, 1] *= -1
    one, other = find_domains(cells, 2), find_domains(flipped, 2)
    np.testing.assert_allclose(other["mean"].values, one["mean"].values * [1, -1], atol=0.1)
    np.testing.assert_allclose(other["angle"].values, -one["angle"].values, atol=0.5)


@pytest.mark.parametrize(
    ("arguments", "words"), [({"n": 9}, "n=9"), ({"coupling": -1.0}, "coupling=-1"), ({"n": 0}, "n=0")]
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ImageError, match=words):
        find_domains(drawn(SIDE, OPPOSITE), **arguments)


def test_bad_tables_are_named():
    cells = drawn(SIDE, OPPOSITE)
    with pytest.raises(ImageError, match="3 unflagged cells"):
        find_domains(cells.isel(cell=[0, 1, 2]))
    with pytest.raises(ImageError, match="lacks d_cov"):
        find_domains(cells.drop_vars("d_cov"))
    with pytest.raises(ImageError, match="900 cells but unit_cells of 10"):
        find_walls(cells.isel(cell=slice(10)), find_domains(cells))
