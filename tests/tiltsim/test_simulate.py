"""The ``images`` dataset keeps its contract."""

import json

import numpy as np
import xarray as xr

import analysis
import tiltsim


def test_contract(still):
    assert still.intensity.dims == ("phase", "tilt_x", "tilt_y", "thickness", "y", "x")
    assert still.intensity.dtype == np.float32
    for name in [*still.data_vars, "tilt_x", "tilt_y", "thickness", "x", "y"]:
        assert still[name].attrs["units"], name
    specification = json.loads(still.attrs["specification"])
    (detector,) = specification["detectors"]
    assert (detector["inner"], detector["outer"]) == (65.0, 80.0)
    assert specification["specimens"]["SrTiO3"]["seed"] == 0
    assert still.attrs["tilt_convention"] == "beam"
    # a cross: its corners were not asked for
    assert np.isnan(still.intensity.sel(tilt_x=8, tilt_y=8)).all()
    assert np.isfinite(still.intensity.sel(tilt_x=8, tilt_y=0)).all()


def test_dataset_reads_back_equal(still, tmp_path):
    analysis.write_dataset(still, tmp_path / "images.nc")
    with xr.open_dataset(tmp_path / "images.nc") as back:
        xr.testing.assert_identical(still, back.load())


def test_configurations_average_to_the_image_and_pairs_keep_apart(shaken):
    _, images = shaken
    assert images.sizes["config"] == 2
    assert list(images.sign.values) == [1, -1]
    assert images.intensity_period.dims[0] == "config"
    assert "before the source's blur" in images.intensity_period.attrs["comment"]
    pairs = tiltsim.pair_images(images)
    assert pairs.intensity.dims[0] == "pair"
    np.testing.assert_allclose(pairs.intensity.isel(pair=0), images.intensity, atol=1e-7)


def test_pairs_of_several_detectors_are_those_of_each(shaken):
    _, images = shaken
    periods = images.intensity_period
    halved = xr.concat([periods, periods / 2], dim="detector").transpose("config", "detector", "phase", ...)
    pairs = tiltsim.pair_images(images.assign(intensity_period=halved)).intensity
    alone = tiltsim.pair_images(images).intensity
    assert pairs.dims == ("pair", "detector", *images.intensity.dims)
    np.testing.assert_allclose(pairs.isel(detector=0), alone, atol=1e-7)
    np.testing.assert_allclose(pairs.isel(detector=1), alone / 2, atol=1e-7)
