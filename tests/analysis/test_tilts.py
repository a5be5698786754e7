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


def jitters(pairs, seed=0):
    """How every pair displaces its columns, in units of the jitter: (pair, column, component) by site."""
    rng = np.random.default_rng(seed)
    drawn = [(p, s, rng.standard_normal((4, 2))) for p in range(pairs) for s in "AB"]
    return {site: np.stack([one for _, s, one in drawn if s == site]) for site in "AB"}


def series(pairs=0, jitter=0.0, slope_jitter=0.0):
    """Jitter in pm and, growing with thickness and the tilt along each component, pm per mrad at 100 Å."""
    thickness = np.array([50.0, 100.0])
    shape = (1, max(pairs, 1), len(TILT_X), len(TILT_Y), 2)
    values = np.full((*shape, PIXELS, PIXELS), np.nan)
    noise, slope_noise = jitters(max(pairs, 1)), jitters(max(pairs, 1), seed=1)
    for _, p, i, j, k in np.ndindex(*shape):
        tilt = np.array([TILT_X[i], TILT_Y[j]])
        if tilt.all():
            continue  # a cross of tilts: the corners were not simulated
        per_mrad = {s: SLOPE[s] @ tilt + slope_jitter * slope_noise[s][p] * tilt for s in "AB"}
        shift = {s: per_mrad[s] * thickness[k] / 100 + ZERO[s] + jitter * noise[s][p] for s in "AB"}
        values[0, p, i, j, k] = picture(shift["A"], shift["B"])
    axis = np.arange(PIXELS) * PERIOD / PIXELS
    images = xr.Dataset(
        {"intensity": (("phase", "pair", "tilt_x", "tilt_y", "thickness", "y", "x"), values)},
        {"phase": ["R3c"], "tilt_x": TILT_X, "tilt_y": TILT_Y, "thickness": thickness,
         "x": ("x", axis, {"units": "Å"}), "y": ("y", axis, {"units": "Å"})},
    )  # fmt: skip
    return images if pairs else images.isel(pair=0)


def cropped(images, pixels=128):
    """The same crystal on images that do not cover whole periods, so that columns are cut by the border."""
    values = images["intensity"]
    copies = np.concatenate([np.concatenate([values.values] * 3, -1)] * 3, -2)[..., :pixels, :pixels]
    axis = np.arange(pixels) * PERIOD / PIXELS
    coords = {d: images[d].values for d in ("phase", "tilt_x", "tilt_y", "thickness")} | {
        "x": axis,
        "y": axis,
    }
    return xr.Dataset({"intensity": (values.dims, copies)}, coords)


def sem_of(samples):
    """Of the mean over columns that may differ: (pair, ..., component), each column with its own spread."""
    by_column = samples.reshape(len(samples), -1, 2)
    return np.sqrt((by_column.var(0, ddof=1) / len(samples)).sum(0)) / by_column.shape[1]


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
    assert seen == [(n, 18) for n in range(1, 19)]  # 3 x 3 tilts x 2 thicknesses; pairs are one image
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


@pytest.mark.parametrize(
    "framed", [lambda images: images, cropped], ids=["whole periods", "cut by the border"]
)
def test_scatter_of_pairs_is_the_error_of_their_mean(truth, framed):
    """Against the very displacements drawn: no statistics are left in the comparison."""
    result = analysis.tilt_response(framed(series(pairs=4, jitter=5.0, slope_jitter=0.5)), truth)
    one = result.sel(phase="R3c", thickness=100.0)
    zero = one.sel(tilt_x=0.0, tilt_y=0.0)
    moved, slopes = jitters(4), jitters(4, seed=1)
    for site in "AB":
        np.testing.assert_allclose(zero["shift_sem"].sel(site=site), sem_of(5.0 * moved[site]), atol=0.01)
        mean = ZERO[site] + 5.0 * moved[site].mean((0, 1))
        np.testing.assert_allclose(zero["shift"].sel(site=site), mean, atol=0.05)
        along = one["shift_per_mrad_sem"].sel(site=site).values[[0, 1], [0, 1]]
        np.testing.assert_allclose(along, sem_of(0.5 * slopes[site]), atol=0.002)


def test_mean_image_agrees_with_pairs_measured_alone(truth):
    """To a small part of the standard error, in shifts and in slopes."""
    images = series(pairs=3, jitter=5.0, slope_jitter=0.5)
    together = analysis.tilt_response(images, truth)
    alone = xr.concat(
        [analysis.tilt_response(images.isel(pair=n), truth) for n in range(3)], "pair", join="exact"
    ).mean("pair")
    for name in ("shift", "shift_per_mrad", "shift_at_zero", "d_bias", "d_bias_per_mrad"):
        gap = abs(together[name] - alone[name]) / together[f"{name}_sem"]
        if "per_mrad" in name:  # across the tilt, columns keep their distances and nothing scatters
            gap = gap.isel(
                component=xr.DataArray([0, 1], dims="along"), tilt_axis=xr.DataArray([0, 1], dims="along")
            )
        assert float(gap.max()) < 0.05, name


def test_phases_with_fewer_pairs(truth):
    images = series(pairs=3, jitter=4.0)
    fewer = images.where(images["intensity"]["pair"] != 1).assign_coords(phase=["fewer"])
    result = analysis.tilt_response(
        xr.concat([images, fewer], "phase"), {"R3c": truth["R3c"], "fewer": truth["R3c"]}
    )
    assert result["samples"].values.tolist() == [[12, 12], [8, 8]]
    by_itself = analysis.tilt_response(images.isel(pair=[0, 2]), truth)
    for name in ("shift", "shift_sem", "shift_per_mrad", "shift_at_zero_sem", "d_apparent", "amplitude"):
        np.testing.assert_allclose(
            result[name].sel(phase="fewer"), by_itself[name].sel(phase="R3c"), atol=1e-9
        )
    assert (result["shift_sem"].sel(phase="fewer") != result["shift_sem"].sel(phase="R3c")).any()


def test_columns_that_differ_are_no_error_when_pairs_agree(truth):
    """Turned octahedra and Sm make columns differ for good; one pair alone cannot tell that from an error."""
    images = series(jitter=5.0)
    once = analysis.tilt_response(images, truth)
    twice = analysis.tilt_response(xr.concat([images, images], "pair"), truth)
    np.testing.assert_allclose(twice["shift"], once["shift"], atol=1e-6)
    assert (once["shift_sem"].max(("tilt_x", "tilt_y", "component")) > 0.5).all()
    assert float(twice["shift_sem"].max()) < 1e-3


def test_an_image_does_not_depend_on_the_tilt_it_started_from(truth):
    images = cropped(series())
    # Lopsided columns, which no Gaussian fits: there a start could show.
    images["intensity"] = images["intensity"] + 0.3 * images["intensity"].shift(x=2, y=1, fill_value=0.05)
    together = analysis.tilt_response(images, truth)
    for i, j in ((0, 1), (1, 0), (1, 2), (2, 1)):
        alone = analysis.tilt_response(images.isel(tilt_x=[i], tilt_y=[j]), truth)
        for name in ("shift", "d_apparent"):
            gap = together[name].isel(tilt_x=[i], tilt_y=[j]) - alone[name]
            assert float(abs(gap).max()) < 0.02, name


def test_largest_sem_is_the_worst_of_each_phase():
    error = np.full((3, 2, 2, 1, 2, 2), 0.2)
    error[0, 1, 0, 0, 1, 1], error[1, 0, 1, 0, 0, 0] = 0.9, np.nan
    error[2] = np.nan
    dims = ("phase", "tilt_x", "tilt_y", "thickness", "site", "component")
    worst = analysis.largest_sem(xr.Dataset({"shift_sem": (dims, error)}, {"phase": ["a", "b", "c"]}))
    assert worst.dims == ("phase",)
    assert worst.attrs["units"] == "pm"
    np.testing.assert_array_equal(worst, [0.9, 0.2, np.nan])


def test_unknown_zone_and_window(truth):
    for wrong in ({"zone": "111"}, {"window": 2.0}):
        with pytest.raises(analysis.ImageError, match=next(iter(wrong))):
            analysis.tilt_response(series(), truth, **wrong)
