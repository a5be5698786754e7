"""A synthetic tilt series with imposed linear shifts gives them back."""

import numpy as np
import pytest
import xarray as xr

import analysis

CELL, REPEAT = 3.96, 2
PERIOD = CELL * REPEAT
PIXELS = 44
D = np.array([20.0, -14.0])  # pm
TILT_X, TILT_Y = np.array([-6.0, 0.0, 6.0]), np.array([-4.0, 0.0, 4.0])
# pm per mrad, rows = component, columns = tilt axis
SLOPE = {"A": np.array([[-8.0, 0.0], [0.3, -8.0]]), "B": np.array([[-7.0, 0.5], [-0.3, -6.5]])}
ZERO = {"A": np.array([1.0, 2.0]), "B": np.array([-3.0, 5.0])}

CORNERS = np.array([(i, j) for i in range(REPEAT) for j in range(REPEAT)]) * CELL
TRUE_A = CORNERS + np.array([0.4, 0.6])
TRUE_B = TRUE_A + CELL / 2 - D / 100


def picture(shift_a, shift_b):
    step = PERIOD / PIXELS
    y, x = np.mgrid[:PIXELS, :PIXELS] * step
    image = np.full((PIXELS, PIXELS), 0.05)
    for places, height in ((TRUE_A + shift_a / 100, 1.0), (TRUE_B + shift_b / 100, 0.4)):
        for px, py in places:
            for i, j in np.ndindex(3, 3):
                gap = (x - px - (i - 1) * PERIOD) ** 2 + (y - py - (j - 1) * PERIOD) ** 2
                image += height * np.exp(-0.5 * gap / 0.55**2)
    return image


def series(pairs=0, jitter=0.0, seed=0):
    rng = np.random.default_rng(seed)
    thickness = np.array([50.0, 100.0])
    shape = (1, max(pairs, 1), len(TILT_X), len(TILT_Y), 2)
    values = np.full((*shape, PIXELS, PIXELS), np.nan)
    noise = {(p, s): jitter * rng.standard_normal((4, 2)) for p in range(max(pairs, 1)) for s in "AB"}
    for _, p, i, j, k in np.ndindex(*shape):
        tilt = np.array([TILT_X[i], TILT_Y[j]])
        if tilt.all():
            continue  # a cross of tilts: the corners were not simulated
        shift = {s: SLOPE[s] @ tilt * thickness[k] / 100 + ZERO[s] + noise[p, s] for s in "AB"}
        values[0, p, i, j, k] = picture(shift["A"], shift["B"])
    axis = np.arange(PIXELS) * PERIOD / PIXELS
    images = xr.Dataset(
        {"intensity": (("phase", "pair", "tilt_x", "tilt_y", "thickness", "y", "x"), values)},
        {"phase": ["R3c"], "tilt_x": TILT_X, "tilt_y": TILT_Y, "thickness": thickness,
         "x": ("x", axis, {"units": "Å"}), "y": ("y", axis, {"units": "Å"})},
    )  # fmt: skip
    return images if pairs else images.isel(pair=0)


@pytest.fixture(scope="module")
def truth():
    both = np.vstack([TRUE_A, TRUE_B])
    return {
        "R3c": xr.Dataset(
            {
                "x": ("column", both[:, 0]),
                "y": ("column", both[:, 1]),
                "site": ("column", ["A"] * 4 + ["B"] * 4),
                "unique": ("column", np.arange(8)),
                "cell_x": ("cell", TRUE_B[:, 0]),
                "cell_y": ("cell", TRUE_B[:, 1]),
                "cell_d": (("cell", "component"), np.tile(D, (4, 1))),
            },
            attrs={"period_x": PERIOD, "period_y": PERIOD},
        )
    }


@pytest.fixture(scope="module")
def response(truth):
    return analysis.tilt_response(series(), truth)


def test_slopes_and_signs(response):
    at = response.sel(phase="R3c", thickness=100.0)
    for site in "AB":
        np.testing.assert_allclose(at["shift_per_mrad"].sel(site=site).values, SLOPE[site], atol=0.01)
        np.testing.assert_allclose(at["shift_at_zero"].sel(site=site).values, ZERO[site], atol=0.02)
    np.testing.assert_allclose(at["d_bias_per_mrad"].values, SLOPE["A"] - SLOPE["B"], atol=0.01)
    half = response.sel(phase="R3c", thickness=50.0)
    np.testing.assert_allclose(half["shift_per_mrad"].sel(site="A").values, SLOPE["A"] / 2, atol=0.01)


def test_bias_and_apparent_displacement(response):
    one = response.sel(phase="R3c", thickness=50.0, tilt_x=6.0, tilt_y=0.0)
    bias = (SLOPE["A"] - SLOPE["B"]) @ [6.0, 0.0] / 2 + ZERO["A"] - ZERO["B"]
    np.testing.assert_allclose(one["d_bias"].values, bias, atol=0.05)
    np.testing.assert_allclose(one["d_true"].values, D)
    np.testing.assert_allclose(one["d_apparent"].values, D + bias, atol=0.05)


def test_images_not_simulated_stay_nan(response):
    corner = response.sel(phase="R3c", thickness=50.0, tilt_x=6.0, tilt_y=4.0)
    for name in ("shift", "d_apparent", "d_true", "amplitude"):
        assert np.isnan(corner[name].values).all(), name
    assert response["shift"].notnull().sum() == 5 * 2 * 2 * 2


def test_contract_units_and_netcdf(response, tmp_path, assert_units):
    assert response["shift"].dims == ("phase", "tilt_x", "tilt_y", "thickness", "site", "component")
    assert response["shift_per_mrad"].dims == ("phase", "thickness", "site", "component", "tilt_axis")
    assert_units(response)
    xr.testing.assert_identical(
        xr.load_dataset(analysis.write_dataset(response, tmp_path / "r.nc")), response
    )


def test_shared_scatter_cancels_in_slopes_but_not_in_shifts(truth):
    seen = []
    result = analysis.tilt_response(
        series(pairs=3, jitter=4.0), truth, progress=lambda done, of: seen.append((done, of))
    )
    assert seen[-1] == (54, 54)
    one = result.sel(phase="R3c", thickness=100.0)
    assert int(one["samples"].sel(site="A")) == 12
    # 4 pm of scatter over 12 columns: 1.15 pm; every tilt has the same, so slopes do not see it.
    sem = one["shift_sem"].sel(tilt_x=0.0, tilt_y=0.0).values
    assert np.all((sem > 0.5) & (sem < 2.2))
    assert np.all(one["shift_per_mrad_sem"].values < 0.01)
    assert np.all(np.abs(one["shift_at_zero"].sel(site="A").values - ZERO["A"]) < 4.5)


def test_error_names_the_image(truth):
    images = series()
    images["intensity"][{"tilt_x": 2, "tilt_y": 1, "thickness": 1}] = 0.3
    with pytest.raises(
        analysis.ImageError, match=r"phase R3c, tilt \(6, 0\) mrad, thickness 100 Å.*constant"
    ):
        analysis.tilt_response(images, truth)


def test_missing_phase_and_wrong_truth(truth):
    with pytest.raises(analysis.ImageError, match="R3c"):
        analysis.tilt_response(series(), {})
    with pytest.raises(analysis.ImageError, match="period_x"):
        analysis.tilt_response(series(), {"R3c": truth["R3c"].drop_attrs()})
    with pytest.raises(analysis.ImageError, match="intensity"):
        analysis.tilt_response(xr.Dataset(), truth)
