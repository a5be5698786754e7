"""Requests are checked when made, with messages that name the setting."""

import numpy as np
import pytest

import structures
import tiltsim
from tiltsim import SettingsError, TiltConvention
from tiltsim.images import evaluate


def test_series():
    cross = tiltsim.TiltSeries.cross(8.0, 5)
    assert cross.x == (-8.0, -4.0, 0.0, 4.0, 8.0)
    assert len(cross.points()) == 9
    assert cross.largest == 8.0
    grid = tiltsim.TiltSeries.grid(10.0, 7)
    assert len(grid.points()) == 49
    assert grid.largest == pytest.approx(10 * 2**0.5)


def test_other_conventions_are_the_opposite_sign():
    assert TiltConvention.SPECIMEN.to_beam((3.0, -2.0)) == (-3.0, 2.0)
    assert TiltConvention.SPECIMEN.from_beam(TiltConvention.SPECIMEN.to_beam((3.0, -2.0))) == (3.0, -2.0)
    assert TiltConvention.BEAM.to_beam((3.0, -2.0)) == (3.0, -2.0)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: tiltsim.TiltSeries.cross(25.0, 3), "1°"),
        (lambda: tiltsim.TiltSeries((2.0, 1.0)), "ascending"),
        (lambda: tiltsim.TiltSeries((1.0,), axes_only=True), "needs 0"),
        (lambda: tiltsim.TiltSeries.cross(-1.0, 3), "tilt"),
        (lambda: tiltsim.Detector(100.0, 80.0), "outer"),
        (lambda: tiltsim.Detector(float("nan"), 80.0), "inner"),
        (lambda: tiltsim.Microscope(energy_keV=200e3), "keV"),
        (lambda: tiltsim.Microscope(semiangle_cutoff=0.03), "mrad"),
        (lambda: tiltsim.Microscope(source_fwhm=-1), "source"),
        (lambda: tiltsim.FrozenPhonons(-1), "pairs"),
        (lambda: tiltsim.FrozenPhonons(1, seed=-1), "seed"),
        (lambda: tiltsim.Microscope(aberrations={"deffocus": 10.0}), "deffocus"),
        (lambda: tiltsim.Microscope(aberrations={"C10": float("nan")}), "C10"),
        (lambda: tiltsim.Numerics(pixel=5.0), "pixel"),
    ],
)
def test_absurd_settings_name_themselves(make, word):
    with pytest.raises(SettingsError, match=word):
        make()


def test_simulation_refuses_what_it_cannot_do():
    null = structures.build("SrTiO3", lateral=(1, 1), thickness=20)
    with pytest.raises(SettingsError, match="band limit"):
        tiltsim.simulate(null, numerics=tiltsim.Numerics(band_limit=100.0), thicknesses=[20.0])
    with pytest.raises(SettingsError, match="thickness 50"):
        tiltsim.simulate(null, thicknesses=[50.0])
    with pytest.raises(SettingsError, match="ascend"):
        tiltsim.simulate(null, thicknesses=[16.0, 16.5])
    with pytest.raises(SettingsError, match="names"):
        tiltsim.simulate([null, null], thicknesses=[20.0])
    with pytest.raises(SettingsError, match="engine"):
        tiltsim.simulate(null, thicknesses=[20.0], engine="magic")
    with pytest.raises(SettingsError, match="device"):
        tiltsim.simulate(null, thicknesses=[20.0], device="tpu")


def wave(x, y, box):
    """A periodic image with a known band limit, not symmetric in x and y."""
    return (
        1.0
        + 0.4 * np.cos(2 * np.pi * (2 * x[None, :] / box[0] + y[:, None] / box[1]) + 0.3)
        + 0.2 * np.sin(2 * np.pi * 3 * y[:, None] / box[1])
    )


def test_fourier_interpolation_is_exact_below_the_band_limit():
    box = (7.9, 7.2)
    period = wave(np.arange(8) * box[0] / 8, np.arange(9) * box[1] / 9, box)
    x, y = np.linspace(0, 15, 31), np.linspace(-3, 11, 23)
    np.testing.assert_allclose(evaluate(period, box, x, y), wave(x, y, box), atol=1e-12)


def test_source_size_damps_a_frequency_by_its_transfer():
    box, fwhm = (8.0, 8.0), 0.8
    x = np.arange(16) * 0.5
    period = np.tile(np.cos(2 * np.pi * 4 * x / 8.0), (16, 1))
    blurred = evaluate(period, box, x, x, fwhm)
    sigma = fwhm / (8 * np.log(2)) ** 0.5
    np.testing.assert_allclose(blurred, period * np.exp(-2 * (np.pi * sigma * 0.5) ** 2), atol=1e-12)


def test_dose_is_poisson_in_the_pixel_area():
    import xarray as xr

    axis = np.arange(300) * 0.2
    flat = xr.DataArray(np.full((300, 300), 0.05), dims=("y", "x"), coords={"x": axis, "y": axis})
    noisy = tiltsim.apply_dose(flat, 1e4, seed=1)
    electrons = 1e4 * 0.04
    assert float(noisy.mean()) == pytest.approx(0.05, rel=0.005)
    assert float(noisy.var()) == pytest.approx(0.05 / electrons, rel=0.03)
    assert noisy.equals(tiltsim.apply_dose(flat, 1e4, seed=1))
    assert not noisy.equals(tiltsim.apply_dose(flat, 1e4, seed=2))
    assert tiltsim.apply_dose(flat, float("inf"), seed=1).equals(flat)
    with pytest.raises(SettingsError, match="dose"):
        tiltsim.apply_dose(flat, 0.0, seed=1)


def test_library_leaves_the_users_configuration_alone(still):
    import abtem
    import dask

    assert abtem.config.get("diagnostics.progress_bar") != False  # noqa: E712  # "tqdm" by default
    assert dask.config.get("scheduler", None) is None
    assert still.sizes["tilt_x"] == 3
