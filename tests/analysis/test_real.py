"""Three real micrographs; what a careful fit found is in their README."""

import numpy as np
import pytest

import analysis


def test_bto_film(real_data):
    measurement = analysis.measure(analysis.load(real_data / "BTO_crystal_1.dm4"), lattice_parameter=4.0)
    numbers = analysis.summary(measurement)
    assert measurement.lattice.zone == "100"
    assert numbers["cells"] >= 1000
    assert np.abs(numbers["d_mean_pm"]).max() < 30
    assert np.hypot(*measurement.lattice.a) / np.hypot(*measurement.lattice.b) == pytest.approx(
        3.99 / 3.80, abs=0.01
    )


def test_sto_110_is_a_null_reference(real_data):
    image = analysis.load(real_data / "STO_ADF.hdf5")
    assert image.attrs["calibrated"] == 0
    measurement = analysis.measure(image, pixel_size=0.09326)
    numbers = analysis.summary(measurement)
    assert measurement.lattice.zone == "110"
    assert numbers["cells"] >= 745
    assert np.abs(numbers["d_mean_pm"]).max() <= 1.5
    assert np.max(numbers["d_std_pm"]) < 4
    assert measurement.lattice.lattice_parameter == pytest.approx(3.905, abs=0.02)


def test_nsmo_film_without_calibration(real_data):
    image = analysis.load(real_data / "kemstem_NSMO110_cryo.tif")
    with pytest.raises(analysis.ImageError, match="not calibrated"):
        analysis.measure(image)
    measurement = analysis.measure(image, lattice_parameter=3.85)
    assert analysis.summary(measurement)["cells"] >= 1764
    assert measurement.image.attrs["pixel_size_angstrom"] == pytest.approx(3.85 / 21, rel=0.05)
