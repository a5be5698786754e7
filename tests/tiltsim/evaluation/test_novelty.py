"""Images of other things, and curves of how well they are told apart."""

import numpy as np
import pytest

import tiltsim
from tiltsim.evaluation.novelty import auc, novelty_roc, roc
from tiltsim.evaluation.novelty_figures import plot_roc
from tiltsim.evaluation.novelty_kinds import KINDS, known_field


def period_power(image, places):
    """How much brighter the image is around ``places`` than on the average, in its standard deviations."""
    rows, columns = (
        np.clip(np.round((places[:, i] - axis[0]) / (axis[1] - axis[0])).astype(int), 0, len(axis) - 1)
        for i, axis in ((1, image.y.values), (0, image.x.values))
    )
    values = image.values.astype(float)
    return (values[rows, columns].mean() - values.mean()) / values.std()


def contrast(image):
    """Standard deviation by mean of an image smoothed over five pixels, so that counting hardly shows."""
    values = image.values.astype(float)
    rows, columns = (5 * (n // 5) for n in values.shape)
    coarse = values[:rows, :columns].reshape(rows // 5, 5, columns // 5, 5).mean(axis=(1, 3))
    return float(coarse.std() / coarse.mean())


def test_areas_and_curves_of_known_distributions():
    rng = np.random.default_rng(0)
    known, other = rng.normal(0, 1, 4000), rng.normal(1.5, 1, 4000)
    # Φ(1.5 / √2)
    assert auc(known, other) == pytest.approx(0.8556, abs=0.01)
    assert auc(known, known) == pytest.approx(0.5)
    assert auc(known, np.full(3, np.nan)) is not None
    assert np.isnan(auc(known, np.full(3, np.nan)))
    assert auc(np.array([0.0, 1.0]), np.array([1.0, 2.0])) == 0.875
    rates = np.linspace(0, 1, 401)
    curve = roc(known, other)
    assert np.all(np.diff(curve) >= 0)
    assert np.trapezoid(curve, rates) == pytest.approx(auc(known, other), abs=2e-3)
    # At 16 % false alarms the threshold is 1: Φ(0.5) of the others lie above.
    assert np.interp(0.1587, rates, curve) == pytest.approx(0.691, abs=0.03)
    assert roc(np.array([0.0, 0.1]), np.array([5.0, 6.0]))[0] == 1.0


def test_a_score_that_knows_contrast_tells_counts_from_a_lattice(library):
    # A lattice has contrast, counts have none: a sound score is large where contrast is low.
    def scorer(image, centres):
        return 0.375 / contrast(image), np.full(len(centres), 0.25 / contrast(image))

    table = novelty_roc(scorer, library, fields=3, kinds=["counts only", "source ×3"], seed=4)
    assert list(table.kind.values) == ["known", "counts only", "source ×3"]
    assert float(table.auc.sel(kind="counts only")) == 1.0
    assert float(table.cell_auc.sel(kind="counts only")) == 1.0
    assert float(table.flagged.sel(kind="counts only")) == 1.0
    assert float(table.flagged.sel(kind="known")) == 0.0
    assert float(table.auc.sel(kind="known")) == 0.5
    # Blur takes contrast away, but leaves the lattice.
    assert 1.0 >= float(table.auc.sel(kind="source ×3")) > 0.5
    np.testing.assert_array_equal(table.true_positive.sel(kind="counts only"), 1.0)
    figure = plot_roc(table)
    assert len(figure.axes) == 3 + 3


def test_kinds_are_what_they_say(library):
    known = known_field(library, 3, 0)
    assert period_power(known.image, known.centres) > -0.5
    samples = {name: make(library, 3, 0) for name, make in KINDS.items()}
    for name, sample in samples.items():
        assert np.isfinite(sample.image.values).all(), name
        assert sample.image.values.min() >= 0, name
        assert len(sample.centres) > 30, name
        inside = (sample.centres > 0) & (sample.centres < float(sample.image.x[-1]) + 1.0)
        assert inside.all(), name
    # No B columns: what was there is darker than in the same field with them.
    assert period_power(samples["no B columns"].image, samples["no B columns"].centres) < -0.4
    gaps = [np.sort(np.hypot(*(s.centres[:1] - s.centres).T))[1] for s in (known, samples["magnified ×1.4"])]
    assert gaps[1] / gaps[0] == pytest.approx(1.4, rel=0.05)
    # [110]: B columns are a/√2 apart.
    zone = samples["[110] zone"].centres
    assert np.sort(np.hypot(*(zone[:1] - zone).T))[1] == pytest.approx(2.80, abs=0.01)
    assert period_power(samples["[110] zone"].image, zone) > 0.1
    # At 45° the nearest neighbours lie along the diagonals.
    turned = samples["turned by 45°"].centres
    middle = turned[np.argmin(((turned - turned.mean(0)) ** 2).sum(1))]
    apart = turned - middle
    nearest = apart[np.argsort(np.hypot(*apart.T))[1]]
    assert abs(abs(np.degrees(np.arctan2(nearest[1], nearest[0]))) % 90 - 45) < 6.5
    assert contrast(samples["source ×3"].image) < 0.7 * contrast(known.image)
    assert contrast(samples["counts only"].image) < 0.1


def test_samples_are_functions_of_their_seed(library):
    for make in (known_field, KINDS["amorphous"]):
        one, same, other = make(library, 3, 1), make(library, 3, 1), make(library, 3, 2)
        np.testing.assert_array_equal(one.image.values, same.image.values)
        assert one.image.shape != other.image.shape or not np.array_equal(
            one.image.values, other.image.values
        )


def test_what_cannot_be_asked_is_refused(library):
    def scorer(image, centres):
        return 0.0, np.zeros(len(centres))

    with pytest.raises(tiltsim.SettingsError, match="unknown"):
        novelty_roc(scorer, library, kinds=["snow"])
    with pytest.raises(tiltsim.SettingsError, match="at least 2"):
        novelty_roc(scorer, library, fields=1)
