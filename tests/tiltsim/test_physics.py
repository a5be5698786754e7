"""Signs, symmetries and limits of the simulated images, in pm."""

import json

import abtem
import numpy as np
import pytest
import xarray as xr
from ase import Atoms

import analysis
import structures
import tiltsim
from tests.tiltsim.conftest import DETECTOR
from tiltsim import multislice
from tiltsim.phonons import configuration
from tiltsim.planning import Plan, box_width, repeats
from tiltsim.simulate import prepare


def layer_at(depth, box=8.0):
    """One Bi and one Fe atom at ``depth`` Å below the entrance surface of a box of vacuum."""
    atoms = Atoms(
        "BiFe",
        positions=[(box / 4, box / 4, depth), (3 * box / 4, 3 * box / 4, depth)],
        cell=[box, box, depth + 2.0],
        pbc=(True, True, False),
    )
    return structures.Specimen("layer", atoms, np.array(["A", "B"]), layer=2.0, sigmas={"Bi": 0.0, "Fe": 0.0})


def test_a_layer_under_vacuum_moves_by_minus_tan_tilt_times_depth():
    """The documented sign: a scatterer at depth z appears at −tan(tilt)·z, and only along the tilted axis."""
    depth, box = 31.0, 8.0
    images = tiltsim.simulate(
        layer_at(depth, box),
        tiltsim.Microscope(aberrations={"defocus": depth}),
        tiltsim.TiltSeries((0.0, 8.0), (0.0, 8.0), axes_only=True),
        thicknesses=[depth + 2.0],
        detector=DETECTOR,
        phonons=tiltsim.FrozenPhonons(0),
        field=box,
    ).intensity.squeeze()

    def bismuth(tilt_x, tilt_y):
        """Centroid of the brightest peak, Å."""
        image = images.sel(tilt_x=tilt_x, tilt_y=tilt_y)
        peak = image.where(image > 0.5 * image.max(), 0.0)
        return np.array([float((peak * peak[axis]).sum() / peak.sum()) for axis in ("x", "y")])

    drift = np.tan(8e-3) * depth  # 0.248 Å
    np.testing.assert_allclose(bismuth(8, 0) - bismuth(0, 0), [-drift, 0], atol=0.02)
    np.testing.assert_allclose(bismuth(0, 8) - bismuth(0, 0), [0, -drift], atol=0.02)


def test_still_null_has_no_polarization_on_axis(null, still):
    response = analysis.tilt_response(still, {null.name: null.truth})
    on_axis = response.sel(tilt_x=0, tilt_y=0)
    np.testing.assert_allclose(on_axis.d_apparent, 0, atol=0.02)
    np.testing.assert_allclose(on_axis["shift"], 0, atol=0.02)


def test_still_null_is_odd_in_tilt_and_alike_along_x_and_y(null, still):
    response = analysis.tilt_response(still, {null.name: null.truth}).isel(phase=0)
    along_x = response.d_apparent.sel(tilt_y=0, component="x")
    along_y = response.d_apparent.sel(tilt_x=0, component="y")
    np.testing.assert_allclose(along_x.sel(tilt_x=8), -along_x.sel(tilt_x=-8), atol=0.05)
    np.testing.assert_allclose(along_x.sel(tilt_x=8), along_y.sel(tilt_y=8), atol=0.05)
    assert abs(along_x.sel(tilt_x=8)).max() > 0.5  # tilt does fake polarization
    # and nothing across the tilt
    across = response.d_apparent.sel(tilt_y=0, component="y")
    np.testing.assert_allclose(across.sel(tilt_x=[-8, 8]), 0, atol=0.05)
    a = response["shift"].sel(site="A", tilt_x=8, tilt_y=0, component="x")
    assert a.isel(thickness=0) < -1.0  # deeper scatterers appear at −tan(tilt)·z


def test_null_with_phonons_is_within_two_standard_errors(shaken):
    specimen, images = shaken
    response = analysis.tilt_response(tiltsim.pair_images(images), {specimen.name: specimen.truth})
    zero = response.sel(tilt_x=0)
    both = np.hypot(zero.shift_sem.sel(site="A"), zero.shift_sem.sel(site="B"))
    np.testing.assert_allclose(
        zero.d_apparent_sem, both
    )  # cells share A columns: no more samples than columns
    assert (abs(zero.d_apparent) <= np.maximum(1.0, 2 * zero.d_apparent_sem)).all()
    odd = response.d_apparent.sel(tilt_x=8) + response.d_apparent.sel(tilt_x=-8)
    error = np.hypot(response.d_apparent_sem.sel(tilt_x=8), response.d_apparent_sem.sel(tilt_x=-8))
    assert (abs(odd) <= np.maximum(0.5, 2 * error)).all()


def test_pairs_cancel_most_of_what_one_configuration_fakes(shaken):
    specimen, images = shaken
    one = tiltsim.pair_images(images.isel(config=[0]))
    fake = abs(analysis.tilt_response(one, {specimen.name: specimen.truth})["shift"].sel(tilt_x=0)).mean()
    pair = abs(
        analysis.tilt_response(tiltsim.pair_images(images), {specimen.name: specimen.truth})["shift"].sel(
            tilt_x=0
        )
    ).mean()
    assert pair < 0.3 * fake


def test_sign_and_axes_of_d_survive_the_whole_chain():
    """d of each in-plane variant is found in the images with its signs, within the known on-axis bias."""
    for variant in ("[111]", "[1-11]", "[11-1]"):
        specimen = structures.build("R3c", thickness=16, variant=variant)
        images = tiltsim.simulate(
            specimen,
            tilts=tiltsim.TiltSeries(),
            thicknesses=[16.0],
            detector=DETECTOR,
            phonons=tiltsim.FrozenPhonons(0),
        )
        measured = analysis.tilt_response(images, {"R3c": specimen.truth}).squeeze()
        true = specimen.truth.cell_d.mean("cell")
        np.testing.assert_allclose(measured.d_apparent, true, atol=8.0)
        np.testing.assert_allclose(measured.d_true, true, atol=0.01)


def test_abtem_by_hand_gives_the_same_columns():
    """The engine against abTEM driven directly: same columns to 0.05 pm."""
    specimen = structures.build("R3c", samarium=0.1, thickness=24.0)
    microscope = tiltsim.Microscope()
    tilt = (5.3, -3.1)
    ours = tiltsim.simulate(
        specimen,
        microscope,
        tiltsim.TiltSeries((tilt[0],), (tilt[1],)),
        thicknesses=[24.0],
        detector=DETECTOR,
        phonons=tiltsim.FrozenPhonons(1, seed=5),
        numerics=tiltsim.Numerics(wave_vectors=1),
        engine="multislice",
    )
    grid = json.loads(ours.attrs["specification"])["plans"][specimen.name]["gpts"]
    total = 0.0
    for sign in (1, -1):
        atoms = configuration(specimen, tiltsim.FrozenPhonons(1, seed=5), 0, sign)
        atoms.pbc = True
        potential = abtem.Potential(
            atoms,
            gpts=grid,
            slice_thickness=specimen.slice_thickness,
            projection="infinite",
        )
        probe = abtem.Probe(energy=200e3, semiangle_cutoff=30, tilt=tilt)
        probe.grid.match(potential)
        scan = abtem.GridScan(start=(0, 0), end=specimen.box, sampling=0.19, endpoint=False)
        measured = probe.scan(potential, scan=scan, detectors=abtem.AnnularDetector(65, 80)).compute(
            progress_bar=False
        )
        total = (
            total
            + measured.interpolate(gpts=(80, 80))
            .gaussian_filter(0.8 / (8 * np.log(2)) ** 0.5)
            .tile((3, 3))
            .array
            / 2
        )
    n = total.shape[0]
    axis = np.arange(n) * specimen.box[0] / 80
    image = xr.DataArray(
        total.T,
        dims=("y", "x"),
        coords={"y": ("y", axis, {"units": "Å"}), "x": ("x", axis, {"units": "Å"})},
    )
    hand = image.to_dataset(name="intensity").expand_dims(
        phase=[specimen.name], tilt_x=[tilt[0]], tilt_y=[tilt[1]], thickness=[24.0]
    )
    truth = {specimen.name: specimen.truth}
    # All pixels alike: ripples of the interpolated scan lie where it is dark, where counting weights are high.
    one, two = (analysis.tilt_response(d, truth, weights="uniform")["shift"] for d in (ours, hand))
    np.testing.assert_allclose(one, two, atol=0.05)


def test_scan_below_the_band_limit_costs_under_a_twentieth_of_a_picometre(null):
    """What the quick preset saves on, measured against the exact scan."""
    shifts = [
        analysis.tilt_response(
            tiltsim.simulate(
                null,
                tilts=tiltsim.TiltSeries((8.0,)),
                thicknesses=[60.0],
                detector=DETECTOR,
                phonons=tiltsim.FrozenPhonons(0),
                numerics=tiltsim.Numerics(scan_oversampling=ratio, wave_vectors=2),
                engine="multislice",
            ),
            {null.name: null.truth},
        )["shift"]
        for ratio in (1.0, 0.66)
    ]
    np.testing.assert_allclose(shifts[0], shifts[1], atol=0.05)


def test_intensity_is_a_fraction_of_the_beam_and_grows_with_thickness(shaken):
    mean = shaken[1].intensity.sel(tilt_x=0, tilt_y=0).mean(("x", "y"))
    assert (mean > 0).all()
    assert (mean < 0.2).all()
    assert (mean.diff("thickness") > 0).all()


@pytest.mark.parametrize(
    ("samarium", "thickness", "beam"),
    [(0.1, 60, "[100]"), (0.1, 120, "[100]"), (0.07, 40, "[001]"), (0.0, 24, "[110]"), (0.03, 80, "[100]")],
)
def test_no_slice_too_many(samarium, thickness, beam):
    """Every slice holds its plane and the last plane is inside, whatever the rounding of the box."""
    up = "[010]" if beam == "[001]" else "[001]"
    specimen = structures.build("R3c", samarium=samarium, thickness=thickness, beam=beam, up=up)
    wanted = round(specimen.thickness / specimen.layer) * specimen.slices
    setup = Plan((1, 1), (32, 32), (4, 4), (9, 9), (wanted - 1,), (60.0,), (specimen.thickness,), 50.0)
    built = multislice.potential(specimen, specimen.atoms, setup, "cpu")
    assert len(built.slice_thickness) == wanted
    assert sum(built.slice_thickness) == pytest.approx(specimen.thickness)


def test_110_projection_goes_through_the_chain():
    specimen = structures.build("SrTiO3", beam="[110]", thickness=11.0)
    images = tiltsim.simulate(
        specimen,
        tilts=tiltsim.TiltSeries(),
        thicknesses=[11.0],
        detector=DETECTOR,
        phonons=tiltsim.FrozenPhonons(0),
    )
    response = analysis.tilt_response(images, {"SrTiO3": specimen.truth})
    assert response.attrs["zone"] == "110"
    np.testing.assert_allclose(response.d_apparent, 0, atol=0.05)
    with pytest.raises(analysis.ImageError, match="zone"):
        analysis.tilt_response(images, {"SrTiO3": specimen.truth}, zone="100")


def test_box_grows_with_the_probe_and_its_drift():
    numerics, microscope = tiltsim.Numerics(), tiltsim.Microscope()
    on_axis, tilted = tiltsim.TiltSeries(), tiltsim.TiltSeries((0.0, 10.0))
    assert box_width(50.0, microscope, on_axis, numerics) == 15.0
    assert box_width(400.0, microscope, on_axis, numerics) == pytest.approx(24.0)
    assert box_width(400.0, microscope, tilted, numerics) == pytest.approx(28.0, abs=0.01)
    assert repeats((7.9, 11.9), 400.0, microscope, on_axis, numerics) == (4, 3)


def test_plan_holds_the_band_limit(null):
    (job,) = prepare(null, tilts=tiltsim.TiltSeries.cross(8.0, 3), thicknesses=[40.0], detector=DETECTOR)
    assert job.plan.band_limit == pytest.approx(1.75 * 88)
    assert job.grid.limit * 1e3 >= job.plan.band_limit
    assert null.box[0] * job.plan.repeats[0] >= 15.0
