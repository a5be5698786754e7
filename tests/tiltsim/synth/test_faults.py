"""Microscope faults: limits, signs, statistics, seeds, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tiltsim import SettingsError
from tiltsim.synth.covering import Covering, cover
from tiltsim.synth.detection import Detection, detect
from tiltsim.synth.faults import Faults
from tiltsim.synth.path import ScanPath
from tiltsim.synth.probe import ProbeFaults
from tiltsim.synth.ranges import settle
from tiltsim.synth.scanning import ScanFaults, draw_path, margin

SHAPE, PIXEL = (256, 200), 0.2


def rng(seed=0):
    return np.random.default_rng(seed)


def flat(level=0.05, shape=(400, 400)):
    return np.full(shape, level, np.float32)


def test_no_fault_changes_nothing():
    image = rng().random(SHAPE).astype(np.float32)
    ideal = Faults()
    np.testing.assert_array_equal(cover(image, ideal.cover, PIXEL, rng()), image)
    counts, record = detect(image, ideal.detection, PIXEL, rng())
    np.testing.assert_array_equal(counts, image)
    assert (record["counts_per_fraction"], record["black_level"], record["saturated"]) == (1.0, 0.0, 0.0)
    x, y = draw_path(ideal.scan, SHAPE, PIXEL, rng()).positions()
    true_x, true_y = ScanPath.ideal(SHAPE, PIXEL).positions()
    np.testing.assert_allclose(x, true_x, atol=1e-9)
    np.testing.assert_allclose(y, true_y, atol=1e-9)


# Scan


def path(seed=0, shape=SHAPE, **faults):
    return draw_path(ScanFaults(**faults), shape, PIXEL, rng(seed))


def test_a_drifting_specimen_appears_further_along_the_later_its_row():
    shown = path(drift=4.0, drift_direction=30.0)
    top, bottom = (shown.shown_at(np.array([20.0, y])) - [20.0, y] for y in (0.0, 51.0))
    np.testing.assert_allclose(bottom - top, 4.0 * np.array([np.sqrt(3) / 2, 0.5]), rtol=0.08)
    first, second = (shown.shown_at(np.array([20.0, y])) for y in (10.0, 30.0))
    # Drifting down stretches the crystal along y.
    assert (second - first)[1] > 20.0


def test_wrong_scales_shear_and_rotation():
    larger = path(scale_x=0.02, scale_y=-0.01)
    moved = larger.shown_at(np.array([[10.0, 10.0], [20.0, 20.0]]))
    np.testing.assert_allclose(moved[1] - moved[0], [10 / 1.02, 10 / 0.99], atol=1e-6)
    x, _ = path(shear=10.0).positions()
    np.testing.assert_allclose(x[101, 0] - x[1, 0], 100 * PIXEL * 0.01, atol=1e-9)
    x, y = path(rotation=90 / 9).positions()
    assert y[0, -1] > y[0, 0]  # rows run from the left down to the right
    origin, right = path(rotation=10.0).shown_at(np.array([[20.0, 20.0], [30.0, 20.0]]))
    assert np.degrees(np.arctan2(*(right - origin)[::-1])) == pytest.approx(-10.0, abs=1e-6)


def test_steady_faults_keep_the_middle_of_the_frame():
    x, y = path(drift=5.0, rotation=3.0, scale_x=0.05, shear=20.0, shape=(201, 301)).positions()
    assert (x[100, 150], y[100, 150]) == pytest.approx((30.0, 20.0), abs=1e-9)


def test_after_flying_back_the_beam_stands_too_far_right():
    late = path(flyback=1.0, flyback_pixels=10.0)
    x, y = late.positions()
    excess = x[7] - np.arange(200) * PIXEL
    np.testing.assert_allclose(excess[[0, 10, 20]], [1.0, np.exp(-1), np.exp(-2)], atol=1e-9)
    np.testing.assert_allclose(y[7], 7 * PIXEL, atol=1e-9)
    # So a column near the left border appears too far left.
    assert late.shown_at(np.array([3.0, 20.0]))[0] < 2.8


def test_jitter_has_its_rms_and_correlation():
    offset = path(3, (20_000, 4), jitter_x=0.05, jitter_y=0.02).row_offset
    np.testing.assert_allclose(offset.std(axis=0), [0.05, 0.02], rtol=0.03)
    assert abs(np.corrcoef(offset[1:, 0], offset[:-1, 0])[0, 1]) < 0.03
    slow = path(3, (20_000, 4), jitter_x=0.05, jitter_rows=5.0).row_offset
    assert slow[:, 0].std() == pytest.approx(0.05, rel=0.06)
    assert np.corrcoef(slow[1:, 0], slow[:-1, 0])[0, 1] == pytest.approx(np.exp(-0.2), abs=0.02)
    assert (slow[:, 1] == 0).all()


def test_wander_has_its_rms_and_is_slow():
    offset = path(5, (40_000, 4), wander=0.4, wander_rows=30.0).row_offset
    np.testing.assert_allclose(offset.std(axis=0), 0.4, rtol=0.1)
    # Of Gaussian smoothing: the correlation over a lag is exp(−lag²/4σ²).
    assert np.corrcoef(offset[60:, 0], offset[:-60, 0])[0, 1] == pytest.approx(np.exp(-1), abs=0.08)
    short = np.array([path(s, (64, 4), wander=0.4, wander_rows=30.0).row_offset for s in range(300)])
    np.testing.assert_allclose(short.std(axis=(0, 2)), 0.4, rtol=0.15)
    # First and last rows know nothing of each other.
    assert abs(np.corrcoef(short[:, 0].ravel(), short[:, -1].ravel())[0, 1]) < 0.45


def test_the_margin_holds_every_scan_that_may_be_drawn():
    faults = ScanFaults(
        drift=(0.0, 8.0), drift_direction=(-180.0, 180.0), wander=(0.0, 0.5), jitter_x=0.05, flyback=(0.0, 1.0),
        shear=(-10.0, 10.0), scale_x=(-0.02, 0.02), scale_y=(-0.03, 0.03), rotation=(-3.0, 3.0),
    )  # fmt: skip
    allowed = margin(faults, SHAPE, PIXEL)
    assert margin(ScanFaults(), SHAPE, PIXEL) == 0.0
    worst = 0.0
    for seed in range(60):
        x, y = draw_path(settle(faults, rng(seed)), SHAPE, PIXEL, rng(seed)).positions()
        worst = max(worst, -x.min(), -y.min(), x.max() - 199 * PIXEL, y.max() - 255 * PIXEL)
    assert 0.3 * allowed < worst < allowed


def test_a_beam_that_turns_back_is_refused():
    with pytest.raises(SettingsError, match=r"scan\.flyback 5 Å"):
        path(flyback=5.0, flyback_pixels=10.0)


# Covering


def test_contamination_has_its_level_and_unevenness():
    added = cover(
        flat(0.0, (1500, 1500)), Covering(contamination=0.01, unevenness=0.2, patch=5.0), PIXEL, rng()
    )
    assert added.mean() == pytest.approx(0.01, rel=0.03)
    assert added.std() == pytest.approx(0.002, rel=0.1)
    # Bumps on a grid of knots have the correlation exp(−lag²/4σ²) of Gaussian smoothing.
    step = added[:, 50:] - added[:, :-50]
    assert step.var() / added.var() / 2 == pytest.approx(1 - np.exp(-(50**2) / 4 / 25.0**2), rel=0.15)


def test_an_amorphous_layer_adds_speckle_as_wide_as_the_probe():
    layer = Covering(amorphous=20.0, speckle=0.3)
    added = cover(flat(0.0, (800, 800)), layer, PIXEL, rng())
    mean, s = 20 * 2.5e-4, 1.1 / np.sqrt(8 * np.log(2))
    assert added.mean() == pytest.approx(mean, rel=0.02)
    assert added.std() / mean == pytest.approx(0.3 / np.sqrt(4 * np.pi * s**2 * 20 / 62.4), rel=0.05)
    lag = 3
    correlation = np.corrcoef(added[:, lag:].ravel(), added[:, :-lag].ravel())[0, 1]
    assert correlation == pytest.approx(np.exp(-((lag * PIXEL) ** 2) / (4 * s**2)), abs=0.03)
    assert added.min() >= 0


def test_an_amorphous_layer_takes_contrast_but_no_electrons():
    x = np.arange(400) * PIXEL
    wave = np.tile(0.05 + 0.02 * np.cos(2 * np.pi * x / 4.0), (400, 1)).astype(np.float32)
    layer = Covering(amorphous=23.0, amorphous_per_angstrom=0.0)
    covered = cover(wave, layer, PIXEL, rng())
    assert covered.mean() == pytest.approx(wave.mean(), rel=1e-4)
    kept, s = np.exp(-0.1), 4.0 / np.sqrt(8 * np.log(2))
    contrast = kept + (1 - kept) * np.exp(-2 * (np.pi * s / 4.0) ** 2)
    assert np.ptp(covered[:, 50:-50]) / np.ptp(wave) == pytest.approx(contrast, abs=1e-3)


def test_holes_in_the_specimen_stay():
    image = flat()
    image[100:120, 50:90] = np.nan
    covered = cover(image, Covering(contamination=0.01, amorphous=10.0), PIXEL, rng())
    np.testing.assert_array_equal(np.isnan(covered), np.isnan(image))
    counts, _ = detect(covered, Detection(dose_per_A2=1e4), PIXEL, rng())
    np.testing.assert_array_equal(np.isnan(counts), np.isnan(image))
    whole, _ = detect(covered, Detection(dose_per_A2=1e4, bits=8), PIXEL, rng())
    assert (whole[np.isnan(image)] == 0).all()
    assert np.median(whole) > 100


# Detection


@pytest.mark.parametrize("dose", [300.0, 1e4, 1e6])
def test_counts_are_poisson_distributed(dose):
    counts, record = detect(flat(), Detection(dose_per_A2=dose), PIXEL, rng())
    expected = 0.05 * dose * PIXEL**2
    assert record["counts_per_fraction"] == pytest.approx(dose * PIXEL**2)
    values, seen = np.unique(counts, return_counts=True)
    assert counts.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / counts.size))
    assert counts.var() == pytest.approx(expected, rel=4 * np.sqrt(2 / counts.size) + 0.01)
    likely = stats.poisson.pmf(values, expected) * counts.size
    common = likely > 25
    assert stats.chi2.sf(((seen - likely) ** 2 / likely)[common].sum(), common.sum()) > 1e-3


def test_rows_flicker():
    steady, _ = detect(flat(), Detection(flicker=0.05), PIXEL, rng())
    assert (steady.std(axis=1) < 1e-6).all()
    assert steady.mean(axis=1).std() / 0.05 == pytest.approx(0.05, rel=0.15)


def test_afterglow_smears_to_the_right_and_into_the_next_row():
    spot = flat(0.0, (20, 50))
    spot[5, 48] = 1.0
    seen, _ = detect(spot, Detection(tail=0.3, tail_pixels=4.0), PIXEL, rng())
    kept = np.exp(-1 / 4)
    assert seen[5, 48] == pytest.approx(0.7 + 0.3 * (1 - kept), abs=1e-6)
    line = seen.ravel()
    assert line[: 5 * 50 + 48].max() == 0
    np.testing.assert_allclose(line[299:303], 0.3 * (1 - kept) * kept ** np.arange(1, 5), atol=1e-6)
    assert seen.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(
        detect(flat(), Detection(tail=0.3, tail_pixels=4.0), PIXEL, rng())[0], 0.05, rtol=1e-5
    )


def test_readout_noise_and_gain():
    asked = Detection(dose_per_A2=1e4, readout=3.0, counts_per_electron=2.0)
    counts, record = detect(flat(), asked, PIXEL, rng())
    assert counts.mean() == pytest.approx(2 * 20, rel=0.01)
    assert counts.var() == pytest.approx(4 * (20 + 9), rel=0.02)
    fraction = (counts - record["black_level"]) / record["counts_per_fraction"]
    assert fraction.mean() == pytest.approx(0.05, rel=0.01)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_digits_fill_the_scale_as_asked(bits):
    image = np.linspace(0, 0.1, 40_000, dtype=np.float32).reshape(200, 200)
    counts, record = detect(image, Detection(bits=bits, exposure=0.8, offset=0.1), PIXEL, rng())
    top = 2**bits - 1
    assert counts.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert counts.min() == pytest.approx(0.1 * top, abs=1)
    assert counts.max() == pytest.approx((0.1 + 0.8 * 0.9) * top, abs=1)
    back = (counts - record["black_level"]) / record["counts_per_fraction"]
    assert np.abs(back - image).max() <= 0.51 / record["counts_per_fraction"]
    assert record["saturated"] == 0


def test_what_is_too_bright_saturates():
    image = np.linspace(0, 0.1, 40_000, dtype=np.float32).reshape(200, 200)
    counts, record = detect(image, Detection(bits=8, exposure=2.0), PIXEL, rng())
    assert counts.max() == 255
    assert record["saturated"] == pytest.approx(0.5, abs=0.01)
    counts, record = detect(image, Detection(exposure=1.0, saturation=0.75), PIXEL, rng())
    assert counts.max() == pytest.approx(0.075)
    assert record["saturated"] == pytest.approx(0.25, abs=0.01)


def test_the_noise_that_is_missing_at_a_lower_dose_is_added():
    taken, record = detect(flat(), Detection(dose_per_A2=2e4), PIXEL, rng(1))
    fraction = taken / record["counts_per_fraction"]
    lower, record = detect(fraction, Detection(dose_per_A2=5e3), PIXEL, rng(2), own_dose=2e4)
    assert record["counts_per_fraction"] == pytest.approx(5e3 * PIXEL**2)
    assert lower.mean() == pytest.approx(10.0, rel=0.01)
    assert lower.var() == pytest.approx(10.0, rel=0.02)
    with pytest.raises(SettingsError, match="must be below the 20000"):
        detect(fraction, Detection(dose_per_A2=3e4), PIXEL, rng(2), own_dose=2e4)


# Seeds and refusals


def test_same_seed_same_image_and_other_seed_another():
    layers = Covering(contamination=0.01, amorphous=10.0)
    asked = Detection(dose_per_A2=1e4, flicker=0.02, tail=0.1, readout=1.0, bits=16)

    def whole(seed):
        return detect(cover(flat(), layers, PIXEL, rng(seed)), asked, PIXEL, rng(seed))[0]

    np.testing.assert_array_equal(whole(1), whole(1))
    assert (whole(1) != whole(2)).mean() > 0.9


def test_a_change_to_one_stage_leaves_the_noise_of_others():
    without, _ = detect(flat(), Detection(dose_per_A2=1e4), PIXEL, rng())
    read, _ = detect(flat(), Detection(dose_per_A2=1e4, readout=0.01), PIXEL, rng())
    assert np.abs(read - without).max() < 0.1


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ProbeFaults(defocus=500.0), "probe.defocus 500"),
        (lambda: ProbeFaults(C12=(-5.0, 5.0)), "probe.C12"),
        (lambda: ScanFaults(jitter_x=float("nan")), "scan.jitter_x"),
        (lambda: Covering(contamination=(0.2, 0.1)), "cover.contamination"),
        (lambda: Covering(speckle=2.0), "cover.speckle"),
        (lambda: Detection(dose_per_A2=0.0), "detection.dose_per_A2"),
        (lambda: Detection(dose_per_A2=float("nan")), "detection.dose_per_A2"),
        (lambda: Detection(dose_per_A2=(1e4, float("inf"))), "detection.dose_per_A2"),
        (lambda: Detection(bits=10), "detection.bits 10"),
        (lambda: Detection(readout=2.0), "detection.readout"),
        (lambda: Detection(tail=0.9), "detection.tail"),
    ],
)
def test_settings_no_microscope_has_are_refused(make, named):
    with pytest.raises(SettingsError, match=named.replace(".", r"\.")):
        make()


def test_ranges_must_be_settled_first():
    for use in (
        lambda: draw_path(ScanFaults(drift=(0.0, 1.0)), SHAPE, PIXEL, rng()),
        lambda: cover(flat(), Covering(amorphous=(0.0, 1.0)), PIXEL, rng()),
        lambda: detect(flat(), Detection(dose_per_A2=(1e3, 1e4)), PIXEL, rng()),
    ):
        with pytest.raises(SettingsError, match="is a range"):
            use()
    drawn = settle(
        Faults(scan=ScanFaults(drift=(1.0, 2.0)), detection=Detection(dose_per_A2=(1e3, 1e4))), rng()
    )
    assert 1.0 <= drawn.scan.drift <= 2.0
    assert 1e3 <= drawn.detection.dose_per_A2 <= 1e4
    assert replace(drawn.scan, drift=0.0) == ScanFaults()


def test_doses_are_drawn_evenly_in_their_logarithm():
    source = rng()
    doses = [settle(Detection(dose_per_A2=(1e3, 1e5)), source).dose_per_A2 for _ in range(2000)]
    assert stats.kstest((np.log10(doses) - 3) / 2, "uniform").pvalue > 1e-3
