"""The film of domains shows the simulated cells where and as the truth says."""

import numpy as np
import pytest

import analysis
import structures
import tiltsim
from tests.tiltsim.conftest import DETECTOR
from tiltsim import SettingsError
from tiltsim.config import FieldRequest
from tiltsim.film import film_truth, lay_out, render


@pytest.fixture(scope="module")
def simulated():
    specimen = structures.build("R3c", thickness=16.0)
    images = tiltsim.simulate(
        specimen,
        tilts=tiltsim.TiltSeries.cross(6.0, 3),
        thicknesses=[16.0],
        detector=DETECTOR,
        phonons=tiltsim.FrozenPhonons(0),
    )
    return specimen, images


@pytest.fixture(scope="module")
def film(simulated):
    return lay_out(simulated[1], FieldRequest(cells=(24, 24), domains=8), ["R3c"], seed=2)


def inside(cells, truth):
    """Fitted d and true d of the cells well inside a domain."""
    found = np.c_[cells.x, cells.y]
    wanted = np.c_[truth.x, truth.y]
    nearest = np.linalg.norm(found[:, None] - wanted[None], axis=-1).argmin(axis=1)
    keep = (truth.share.values[nearest] > 0.99) & (cells.flag.values == 0)
    return cells.d.values[keep], truth.d.values[nearest][keep], truth.kind.values[nearest][keep]


def test_fitted_cells_agree_with_the_truth_in_all_four_variants(simulated, film):
    specimen, images = simulated
    picture = render(film, images, (0.0, 0.0), 16.0)
    fitted, true, kind = inside(
        analysis.measure(picture, zone="100").unit_cells, film_truth(film, {"R3c": specimen.truth}, ["R3c"])
    )
    assert set(kind) == {0, 1, 2, 3}
    assert len(fitted) > 150
    # the known on-axis bias of the Fe–O column is a few pm; a flipped sign would be 47 pm
    assert np.abs(fitted - true).max() < 10.0


def test_mirrored_domains_see_the_same_tilt(simulated, film):
    """What tilt does to a variant is the mirror of what mirrored tilt does to the simulated one."""
    specimen, images = simulated
    response = analysis.tilt_response(images, {"R3c": specimen.truth}).isel(phase=0, thickness=0)
    truth = film_truth(film, {"R3c": specimen.truth}, ["R3c"])

    def cells(tilt):
        # Images without noise: weighted as in the response.
        picture = render(film, images, (tilt, 0.0), 16.0)
        return inside(analysis.measure(picture, zone="100", weights="poisson").unit_cells, truth)

    fitted = {tilt: cells(tilt) for tilt in (-6.0, 6.0)}
    changes = []
    for k, (_, (mx, my)) in enumerate(film.kinds):
        at = response.d_apparent.sel(tilt_y=0.0)
        expected = (at.sel(tilt_x=mx * 6.0) - at.sel(tilt_x=-mx * 6.0)).values * (mx, my)
        minus, plus = (np.median(d[kind == k], axis=0) for d, _, kind in fitted.values())
        np.testing.assert_allclose(plus - minus, expected, atol=0.7)
        changes.append(expected[0])
    assert min(np.abs(changes)) > 1.5  # a lost mirror would show


def test_layout_is_seeded_and_shares_evenly(simulated):
    request = FieldRequest(cells=(24, 24), domains=16)
    one, two, other = (lay_out(simulated[1], request, ["R3c"], seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.weights, two.weights)
    assert np.abs(one.weights - other.weights).max() > 0.5
    np.testing.assert_allclose(one.weights.sum(axis=0), 1, atol=1e-5)
    assert one.weights.mean(axis=(1, 2)).min() > 0.1


def test_tilts_that_were_not_simulated_are_refused(simulated, film):
    for tilt in ((3.0, 0.0), (6.0, 6.0)):
        with pytest.raises(SettingsError, match="simulated"):
            render(film, simulated[1], tilt, 16.0)
