"""A film on a substrate, off the axis: mapped as truth plus known bias, in every domain and with its sign."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import analysis
import structures
import tiltsim
from tests.tiltsim.conftest import DETECTOR
from tiltsim import SettingsError
from tiltsim.film import beside_truth, domain_shares, film_truth, render
from tiltsim.substrate import film_bias, lay_out_on_substrate

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "film_map.py"
TILT, THICKNESS = (6.0, -4.0), 16.0
FILM, SUBSTRATE = "R3c", "SrTiO3"


@pytest.fixture(scope="module")
def simulated():
    """Still lattices, so that nothing is random."""
    specimens = [structures.build(name, thickness=THICKNESS) for name in (FILM, SUBSTRATE)]
    images = tiltsim.simulate(
        specimens,
        tilts=tiltsim.TiltSeries((-6.0, 6.0), (-4.0, 4.0)),
        thicknesses=[THICKNESS],
        detector=DETECTOR,
        phonons=tiltsim.FrozenPhonons(0),
    )
    return {s.name: s.truth for s in specimens}, images


@pytest.fixture(scope="module")
def film(simulated):
    return lay_out_on_substrate(simulated[1], FILM, SUBSTRATE, cells=(24, 24))


@pytest.fixture(scope="module")
def bias(simulated, film):
    truth, images = simulated
    return film_bias(film, truth, analysis.tilt_response(images, truth), TILT, THICKNESS)


def test_layout_is_two_domains_above_a_substrate(film):
    assert film.lattice == pytest.approx(3.905)  # the substrate's, so that the interface is coherent
    x, y = np.array([(6.5, 4.5), (17.5, 4.5), (12.5, 20.5), (12.0, 4.5), (6.5, 16.0)]).T * film.lattice
    share = domain_shares(film, x, y)
    np.testing.assert_allclose(share[:3], np.eye(3), atol=1e-3)
    # half and half where they meet, above the wall and along the interface
    np.testing.assert_allclose(share[3:], [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]], atol=0.03)


def test_right_domain_is_the_mirrored_variant(simulated, film):
    truth = film_truth(film, simulated[0], [FILM, SUBSTRATE])
    left, right, below = (
        truth.d.values[(truth.kind.values == k) & (truth.share.values > 0.999)] for k in range(3)
    )
    drawn = 3.905 / 3.965  # cells are drawn as large as the substrate's, and d with them
    np.testing.assert_allclose(left.mean(axis=0), [-23.6 * drawn, -23.6 * drawn], atol=0.3)
    np.testing.assert_allclose(right.mean(axis=0), left.mean(axis=0) * (-1, 1), atol=0.05)
    np.testing.assert_allclose(below, 0.0, atol=0.05)


def test_map_is_truth_plus_bias_in_both_variants(simulated, film, bias):
    truth, images = simulated
    # Counts enough to leave no noise to speak of, since weights of pixels follow from it.
    image = tiltsim.apply_dose(render(film, images, TILT, THICKNESS), 1e7, seed=0)
    measured = analysis.measure(image, zone="100").unit_cells
    cells = beside_truth(measured, film_truth(film, truth, [FILM, SUBSTRATE]), TILT, film.lattice)
    inside = (cells.share.values > 0.995) & (cells.flag.values == 0)
    for k in range(2):  # so thin a substrate is too faint beside the film
        chosen = inside & (cells.kind.values == k)
        assert chosen.sum() > 60
        rest = (cells.d.values - cells.d_true.values)[chosen].mean(axis=0) - bias.d_bias.values[k]
        np.testing.assert_allclose(rest, 0.0, atol=0.5)


def test_bias_of_a_mirrored_domain_is_the_mirrored_bias(simulated, film, bias):
    truth, images = simulated
    response = analysis.tilt_response(images, truth).isel(thickness=0)
    drawn = film.lattice / (images.period_x.values[0] / 2)
    direct = response.d_bias.sel(phase=FILM, tilt_x=6.0, tilt_y=-4.0).values
    mirrored = response.d_bias.sel(phase=FILM, tilt_x=-6.0, tilt_y=-4.0).values
    np.testing.assert_allclose(bias.d_bias.values[0], direct * drawn, rtol=1e-6)
    np.testing.assert_allclose(bias.d_bias.values[1], mirrored * drawn * (-1, 1), rtol=1e-6)
    # the two differ by more than errors, so that a lost mirror would show
    assert abs(bias.d_bias.values[1, 0] - bias.d_bias.values[0, 0]) > 1.5
    np.testing.assert_allclose(
        bias.d_bias.values[2], response.d_bias.sel(phase=SUBSTRATE, tilt_x=6.0, tilt_y=-4.0).values, rtol=1e-6
    )


def test_what_was_not_simulated_is_refused(simulated, film):
    truth, images = simulated
    response = analysis.tilt_response(images.sel(tilt_x=[6.0]), truth)
    for tilt, thickness in ((TILT, THICKNESS), ((3.0, 0.0), THICKNESS), (TILT, 99.0)):
        with pytest.raises(SettingsError, match="tilt response"):
            film_bias(film, truth, response, tilt, thickness)
    with pytest.raises(SettingsError, match="LaAlO3"):
        lay_out_on_substrate(images, FILM, "LaAlO3")


@pytest.mark.slow
def test_noisy_map_is_within_the_noise_of_truth_plus_bias(tmp_path):
    result = tmp_path / "film.json"
    figure = tmp_path / "film.png"
    subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--json", result, "--figure", figure],
        check=True,
        timeout=900,
        capture_output=True,
    )
    report = json.loads(result.read_text())
    assert figure.stat().st_size < 300_000
    inside = report["inside"]
    assert inside["left domain"]["cells"] > 400
    assert inside["right domain"]["cells"] > 400
    assert inside["substrate"]["cells"] > 400
    for name, region in inside.items():
        for rest, error, other, other_error in zip(
            region["residual_pm"],
            region["error_pm"],
            region["residual_other_phonons_pm"],
            region["error_other_phonons_pm"],
            strict=True,
        ):
            assert abs(rest) < 3 * error + 0.1, name  # 0.1 pm: images drawn smaller and interpolated
            assert abs(other) < 3 * other_error + 0.1, name
            assert error < 0.5
    # the errors that single cells report are those that they have
    number = [region["cells"] for region in inside.values()]
    pull = np.sqrt(np.average([np.square(r["pull"]).mean() for r in inside.values()], weights=number))
    assert 0.9 < pull < 1.15
    # variants differ in what tilt does to them, far beyond the errors
    left, right = (inside[name]["d_measured_pm"][0] for name in ("left domain", "right domain"))
    assert right + left < -1.5
    assert right > 20
    for border in report["borders"].values():
        assert max(border["rms_pm"]) < 8.0
