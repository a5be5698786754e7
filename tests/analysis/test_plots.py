"""Colours and figures say what the numbers say."""

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from skimage.color import rgb2lab

import analysis


def test_directions_are_equally_light_and_distinct():
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    colours = analysis.direction_colours(np.stack([np.cos(angle), np.sin(angle)], -1), 1.0)
    assert np.ptp(rgb2lab(colours)[:, 0]) < 6  # of 100; a plain HSV wheel spans 65
    steps = np.linalg.norm(np.diff(rgb2lab(colours), axis=0, append=rgb2lab(colours[:1])), axis=1)
    assert steps.max() / steps.min() < 2.5
    assert colours.min() >= 0
    assert colours.max() <= 1


def test_magnitude_and_missing():
    zero, one, two, missing = analysis.direction_colours(
        np.array([[0.0, 0], [50, 0], [500, 0], [np.nan, 0]]), 50.0
    )
    assert zero.min() > 0.9
    np.testing.assert_allclose(one, two)
    np.testing.assert_allclose(missing, 0.5)


def test_figures_are_written_and_leave_no_state(polar, tmp_path):
    measurement, _ = polar
    before = pyplot.get_fignums()
    figure = analysis.plot_polarization(measurement.image, measurement)
    assert isinstance(figure, Figure)
    written = analysis.save(figure, tmp_path / "new" / "figure.v1")
    assert [path.name for path in written] == ["figure.v1.png", "figure.v1.svg"]
    assert written[0].read_bytes()[:4] == b"\x89PNG"
    assert b"</svg>" in written[1].read_bytes()[-20:]
    assert sorted(p.name for p in written[0].parent.iterdir()) == ["figure.v1.png", "figure.v1.svg"]
    assert pyplot.get_fignums() == before


def test_figure_states_conventions_and_means(polar):
    measurement, d = polar
    figure = analysis.plot_polarization(measurement.image, measurement, radius_pm=40.0)
    words = " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))
    assert "A columns − central B column" in words
    assert "y down" in words
    assert "rim 40 pm" in words
    assert f"{d[0]:.2f}" in words
    assert "nm" in words or "Å" in words


def test_uncalibrated_image_is_drawn_on_the_measured_scale(lattice_image):
    image = analysis.as_image(lattice_image()[0])
    measurement = analysis.measure(image, lattice_parameter=3.96)
    axes = analysis.plot_columns(image, measurement).axes[0]
    assert axes.get_xlim()[1] == pytest.approx(240 * 0.18, rel=0.01)


def test_failed_write_leaves_nothing(polar, tmp_path):
    measurement, _ = polar
    bad = measurement.columns.assign_attrs(broken={"not": "netCDF"})
    with pytest.raises((TypeError, ValueError)):
        analysis.write_dataset(bad, tmp_path / "columns.nc")
    assert list(tmp_path.iterdir()) == []
