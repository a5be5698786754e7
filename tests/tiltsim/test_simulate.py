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
    assert specification["detector"] == {"inner": 65.0, "outer": 80.0}
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
    np.testing.assert_allclose(images.intensity_config.mean("config"), images.intensity, atol=1e-7)
    pairs = tiltsim.pair_images(images)
    assert pairs.intensity.dims[0] == "pair"
    np.testing.assert_allclose(pairs.intensity.isel(pair=0), images.intensity, atol=1e-7)


def test_same_seed_same_phonons():
    import structures
    from tiltsim.phonons import configurations

    specimen = structures.build("SrTiO3", thickness=40)

    def draw(seed):
        return list(configurations(specimen.atoms, specimen.sigmas, tiltsim.FrozenPhonons(2, seed)))

    one, two, other = draw(1), draw(1), draw(2)
    still = specimen.atoms.positions
    for (pair, sign, a), (_, _, b) in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        assert (pair, sign) in {(0, 1), (0, -1), (1, 1), (1, -1)}
    np.testing.assert_allclose(one[0][2].positions - still, still - one[1][2].positions, atol=1e-12)
    assert np.abs(one[0][2].positions - other[0][2].positions).max() > 0.01
    assert np.abs(one[0][2].positions - one[2][2].positions).max() > 0.01
    oxygen = np.array(specimen.atoms.get_chemical_symbols()) == "O"
    rms = (one[0][2].positions - still)[oxygen].std()
    assert abs(rms - specimen.sigmas["O"]) < 0.1 * specimen.sigmas["O"]
