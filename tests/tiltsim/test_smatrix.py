"""The scattering-matrix engine against abTEM, and against itself computed another way."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import analysis
import structures
import tiltsim
from tiltsim import estimate, smatrix
from tiltsim.jobs import combine
from tiltsim.planning import box_width
from tiltsim.simulate import prepare

STILL = tiltsim.FrozenPhonons(0)
WAVELENGTH = tiltsim.Microscope().wavelength
RING = tiltsim.Detector(65.0, 80.0)
FOUR = (
    tiltsim.Detector.bright_field(30),
    tiltsim.Detector.annular_bright_field(30),
    tiltsim.Detector(60, 85, name="HAADF"),
    tiltsim.Detector(10, 40, name="quadrants", segments=4, rotation=-38.0),
)
ABERRATIONS = {
    "defocus": 40.0, "C12": 20.0, "phi12": 0.3, "C21": 300.0, "phi21": 0.7, "C23": 200.0, "phi23": -0.4,
    "C30": -1e4, "C32": 3e3, "phi32": 0.2, "C34": 4e3, "phi34": 0.9,
}  # fmt: skip


def series(*tilt):
    return tiltsim.TiltSeries((float(tilt[0]),), (float(tilt[1]),))


def on_grid(steps, width):
    """Tilt (mrad) by whole ``steps`` of the waves of a box ``width`` Å wide: both engines sample the same waves."""
    return float(np.arctan(steps * WAVELENGTH / width) * 1e3)


def both(specimen, tilts, thicknesses, **settings):
    """Images of the scattering matrix and of abTEM."""
    return [
        tiltsim.simulate(
            specimen, tilts=tilts, thicknesses=thicknesses, engine=engine, device="cpu", **settings
        )
        for engine in ("smatrix", "multislice")
    ]


def difference(ours, theirs):
    """Largest difference as a fraction of the maximum, for each image."""
    a, b = ours.intensity, theirs.intensity
    assert a.dims == b.dims
    assert np.isfinite(a).all()
    assert float(a.min()) >= -1e-6 * float(a.max())
    return abs(a - b).max(("x", "y")) / b.max(("x", "y"))


def fitted_apart(ours, theirs, specimen):
    """Largest difference between fitted A and B positions, pm."""
    one, two = (analysis.tilt_response(d, {specimen.name: specimen.truth})["shift"] for d in (ours, theirs))
    assert np.isfinite(one).all()
    return float(abs(one - two).max())


@pytest.fixture(scope="module")
def oblong():
    """SrTiO3 twice as long as wide and shaken, so that no exchange of x and y, no sign and no mirror is hidden."""
    specimen = structures.build("SrTiO3", lateral=(1, 2), thickness=8.0)
    specimen.atoms.rattle(0.1, seed=4)
    return specimen


@pytest.fixture(scope="module")
def small():
    """One cell of SrTiO3, shaken."""
    specimen = structures.build("SrTiO3", lateral=(1, 1), thickness=8.0)
    specimen.atoms.rattle(0.1, seed=3)
    return specimen


@pytest.mark.parametrize("steps", [(0, 0), (1, -1)])
def test_aberrated_probe_on_every_detector_is_abtems(oblong, steps):
    """With the tilt on the grid of waves, both engines read the very same waves: only the band limit differs."""
    tilt = [on_grid(n, width) for n, width in zip(steps, oblong.box, strict=True)]
    ours, theirs = both(
        oblong,
        series(*tilt),
        [4.0, 8.0],
        microscope=tiltsim.Microscope(aberrations=ABERRATIONS),
        detector=FOUR,
        phonons=STILL,
        numerics=tiltsim.Numerics(wave_vectors=1),
    )
    assert list(ours.detector.values) == ["BF", "ABF", "HAADF", *(f"quadrants [{i}]" for i in range(4))]
    found = difference(ours, theirs)
    # abTEM's band limit is centred on the beam, the scattering matrix's on the zone axis.
    assert (found.sel(detector="HAADF") < (4e-3 if any(steps) else 1e-5)).all(), found
    assert (found.drop_sel(detector="HAADF") < (2e-4 if any(steps) else 1e-5)).all(), found


def test_off_grid_tilts_are_abtems():
    """Between the waves of the grid, engines differ in how they sample sharp edges."""
    specimen = structures.build("SrTiO3", lateral=(1, 1), thickness=12.0)
    ours, theirs = both(
        specimen,
        tiltsim.TiltSeries((-7.1,), (0.0, 3.9)),
        [4.0, 12.0],
        detector=RING,
        phonons=STILL,
        numerics=tiltsim.Numerics(wave_vectors=3),
    )
    assert (difference(ours, theirs) < 5e-3).all()
    assert fitted_apart(ours, theirs, specimen) < 0.1


@pytest.fixture(scope="module")
def samarium():
    """R3c BiFeO3, polar along x, y and z, with Sm in one of its four columns of A cations."""
    specimen = structures.build("R3c", samarium=0.125, lateral=(2, 2), thickness=16.0)
    assert specimen.atoms.symbols.count("Sm") == 2
    return specimen


@pytest.mark.parametrize("steps", [pytest.param((0, 0), marks=pytest.mark.slow), (3, -1)])
def test_shaken_bismuth_ferrite_is_abtems(samarium, steps):
    ours, theirs = both(
        samarium,
        series(*(on_grid(n, width) for n, width in zip(steps, samarium.box, strict=True))),
        [8.0, 16.0],
        detector=RING,
        phonons=tiltsim.FrozenPhonons(1, seed=3, spread=False),
        numerics=tiltsim.Numerics(wave_vectors=1),
    )
    assert (difference(ours, theirs) < (4e-3 if any(steps) else 1e-5)).all()
    assert fitted_apart(ours, theirs, samarium) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("tilt", [(0.0, 0.0), (10.0, 0.0), (0.0, -6.3), (4.7, -6.3)])
def test_shaken_bismuth_ferrite_off_the_grid_is_abtems(samarium, tilt):
    ours, theirs = both(
        samarium,
        series(*tilt),
        [8.0, 16.0],
        detector=RING,
        phonons=tiltsim.FrozenPhonons(1, seed=3, spread=False),
        numerics=tiltsim.Numerics(wave_vectors=2),
    )
    assert (difference(ours, theirs) < (5e-3 if any(tilt) else 5e-4)).all()
    assert fitted_apart(ours, theirs, samarium) < 0.1


@pytest.mark.slow
def test_aberrated_probe_off_the_grid_is_abtems(oblong):
    """The difference shrinks with the grid step: 1.1e-2, 4.6e-3, 3.8e-3 at 2, 3, 4 wave vectors, alike without aberrations."""
    ours, theirs = both(
        oblong,
        series(-7.1, 3.9),
        [8.0],
        microscope=tiltsim.Microscope(aberrations=ABERRATIONS),
        detector=RING,
        phonons=STILL,
        numerics=tiltsim.Numerics(wave_vectors=3),
    )
    assert (difference(ours, theirs) < 5e-3).all()


#: Small, for comparing the engine with itself.
INNER = tiltsim.Detector(30, 60)
SEVERAL = (tiltsim.Detector.bright_field(30), INNER, tiltsim.Detector(10, 40, segments=3, rotation=20.0))


def job_of(specimen, tilts=None, detector=INNER, phonons=STILL, thicknesses=(8.0,), **numerics):
    numerics = {"band_limit": 80.0, "wave_vectors": 2, **numerics}
    (job,) = prepare(
        specimen,
        tilts=tilts or tiltsim.TiltSeries((-6.3, 0.0, 2.9), (0.0, 4.1)),
        thicknesses=thicknesses,
        detector=detector,
        phonons=phonons,
        numerics=tiltsim.Numerics(**numerics),
        device="cpu",
    )
    return job


def images_of(job, pair=0, sign=0):
    units = smatrix.units(job, pair, sign)
    return combine(job, units, {unit: smatrix.compute(job, unit) for unit in units})


def test_residual_wave_vectors_add_up_to_the_bigger_supercell(small):
    """A period read at 2 × 2 residual wave vectors is the same crystal in one box of 2 × 2 periods."""
    big = replace(small, atoms=small.atoms * (2, 2, 1), sites=np.tile(small.sites, 4))
    parts = job_of(small, detector=SEVERAL)
    whole = job_of(big, detector=SEVERAL, wave_vectors=1)
    # The same sampling, whatever lengths Fourier transforms like.
    gpts = tuple(2 * n for n in parts.plan.gpts)
    whole = replace(whole, plan=replace(whole.plan, gpts=gpts))
    assert len(smatrix.units(parts, 0, 0)) == 4
    assert len(smatrix.units(whole, 0, 0)) == 1
    one, two = images_of(parts), images_of(whole)
    axis = np.arange(0, big.box[0], 0.15)
    one, two = (tiltsim.evaluate(v, s.box, axis, axis) for v, s in ((one, small), (two, big)))
    error = abs(one - two).max((-2, -1)) / two.max((-2, -1))
    assert error.max() < 1e-5


def test_portions_of_exit_waves_add_up(small):
    job = job_of(small, detector=SEVERAL)
    unit = smatrix.units(job, 0, 0)[2]
    at_once = smatrix.compute(job, unit)
    np.testing.assert_allclose(
        smatrix.compute(job, unit, passes=3), at_once, rtol=0, atol=2e-6 * at_once.max()
    )


@pytest.mark.parametrize("detector", [INNER, tiltsim.Detector(30, 60, edge=9.0), SEVERAL])
def test_sharing_the_detectors_overlap_changes_nothing(small, detector, monkeypatch):
    """One overlap for all tilts, corrected at the rims, against one anew for each tilt."""
    job = job_of(small, tiltsim.TiltSeries.grid(10.0, 5), detector, wave_vectors=1)
    (unit,) = smatrix.units(job, 0, 0)
    original, taken = smatrix.Reader._shared, []

    def watched(*args):
        found = original(*args)
        taken.append(bool(found))
        return found

    monkeypatch.setattr(smatrix.Reader, "_shared", staticmethod(watched))
    shared = smatrix.compute(job, unit)
    assert any(taken)
    monkeypatch.setattr(smatrix.Reader, "_shared", staticmethod(lambda *_: []))
    anew = smatrix.compute(job, unit)
    assert (abs(shared - anew).max((-2, -1)) <= 1e-5 * anew.max((-2, -1))).all()


def test_one_tilt_is_the_same_alone_and_among_many(small):
    many = job_of(small, tiltsim.TiltSeries.grid(10.0, 5), INNER)
    together = images_of(many)
    for number in (0, 12, 17):
        alone = replace(many, tilts=series(*many.points[number]))
        image = images_of(alone)[:, 0]
        np.testing.assert_allclose(together[:, number], image, rtol=0, atol=1e-5 * image.max())


def test_images_change_smoothly_with_tilt_despite_sharp_edges(small):
    """A wave that enters the aperture or leaves a detector must do so little by little."""
    tilts = tiltsim.TiltSeries(tuple(2.9 + 0.05 * np.arange(13)), (1.0,))
    images = images_of(job_of(small, tilts, SEVERAL))
    step = abs(np.diff(images, axis=1)).max((-2, -1)) / images.max((-2, -1))[:, 1:]
    assert 0 < step.max() < 1e-2


def test_a_large_detector_collects_the_beam(small):
    job = job_of(small, detector=tiltsim.Detector(0, 250), band_limit=260.0, wave_vectors=1)
    images = images_of(job)
    np.testing.assert_allclose(images, 1.0, atol=5e-3)
    assert images.max() < 1 + 1e-4


def test_units_do_not_depend_on_their_order(small):
    phonons = tiltsim.FrozenPhonons(1, seed=5)
    job = job_of(small, phonons=phonons)
    units = smatrix.units(job, 0, -1)
    forwards = {unit: smatrix.compute(job, unit) for unit in units}
    backwards = {unit: smatrix.compute(job, unit) for unit in reversed(units)}
    np.testing.assert_array_equal(combine(job, units, forwards), combine(job, units, backwards))


def test_spread_phonons_have_the_same_mean(small):
    """Each residual wave vector with displacements of its own: another sample of the same mean, with less scatter."""
    pairs, mean, error = 4, [], []
    for spread in (True, False):
        phonons = tiltsim.FrozenPhonons(pairs, seed=7 + spread, spread=spread)
        job = job_of(small, series(6.0, 0.0), phonons=phonons, thicknesses=(4.0,))
        each = np.stack([images_of(job, p, 1) + images_of(job, p, -1) for p in range(pairs)]) / 2
        mean.append(each.mean(0))
        error.append(each.std(0, ddof=1) / np.sqrt(pairs))
    expected = np.sqrt((np.square(error[0]) + np.square(error[1])).mean())
    assert 0.3 < np.sqrt(np.square(mean[0] - mean[1]).mean()) / expected < 2.0
    assert 0 < error[0].mean() < 0.8 * error[1].mean()  # four times the draws
    assert expected < 0.05 * mean[1].mean()  # else the comparison would say nothing


@pytest.fixture(scope="module")
def demanding():
    """A job of half a gigabyte or so; nothing is computed."""
    specimen = structures.build("R3c", samarium=0.25, thickness=400.0)
    return job_of(
        specimen,
        tiltsim.TiltSeries.grid(10.0, 5),
        tiltsim.Detector(),
        thicknesses=(50.0, 100.0, 200.0, 400.0),
        memory_GB=64.0,
        band_limit=None,
    )


def with_memory(job, gigabytes):
    return replace(job, numerics=replace(job.numerics, memory_GB=gigabytes))


def test_less_memory_takes_fewer_workers_then_more_passes(demanding):
    one = estimate.needs(demanding, workers=1)
    assert (one.workers, one.passes) == (1, 1)
    plenty = estimate.needs(with_memory(demanding, 8.01 * one.memory_GB), workers=8)
    assert (plenty.workers, plenty.passes) == (8, 1)
    some = estimate.needs(with_memory(demanding, 3.5 * one.memory_GB), workers=8)
    assert (some.workers, some.passes) == (3, 1)
    before = 1
    for share in (0.9, 0.65, 0.55):
        tight = estimate.needs(with_memory(demanding, share * one.memory_GB), workers=8)
        assert tight.workers == 1
        assert tight.passes > before
        assert tight.memory_GB <= share * one.memory_GB
        before = tight.passes


def test_too_little_memory_is_refused_in_a_sentence(demanding):
    with pytest.raises(
        tiltsim.SettingsError, match=r"^numerics\.memory_GB 0\.1 GB is too small: .*raise it"
    ) as e:
        estimate.needs(with_memory(demanding, 0.1))
    assert str(e.value).count("\n") == 0


def test_no_more_memory_is_used_than_said(small):
    """The largest tensors that are alive together while one unit is computed."""
    job = job_of(small, tiltsim.TiltSeries.grid(10.0, 3), tiltsim.Detector(30, 60), wave_vectors=1)
    (unit,) = smatrix.units(job, 0, 0)
    with torch.profiler.profile(profile_memory=True) as profile:
        smatrix.compute(job, unit)
    used, most = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            used += event.nbytes()
            most = max(most, used)
    said = estimate.needs(job, workers=1).memory_GB * 1e9
    assert 0.2 * said < most < 1.1 * said


def test_the_grid_holds_the_aperture_whatever_the_detector():
    """A small bright-field detector must not cut the probe."""
    specimen = structures.build("SrTiO3", lateral=(1, 1), thickness=4.0)
    small = tiltsim.Detector(0.0, 10.0)
    images = [
        tiltsim.simulate(
            specimen, tilts=tiltsim.TiltSeries(), thicknesses=[4.0], detector=small,
            phonons=tiltsim.FrozenPhonons(0), numerics=tiltsim.Numerics(band_limit=limit),
        ).intensity.values
        for limit in (None, 100.0)
    ]  # fmt: skip
    assert abs(images[0] - images[1]).max() < 0.02 * images[1].max()


def test_a_defocused_probe_gets_a_wider_box():
    for aberrations, width in (
        ({"defocus": 300.0}, 18.0),
        ({"C10": -300.0}, 18.0),
        ({"defocus": -300.0}, 24.0),
    ):
        microscope = tiltsim.Microscope(aberrations=aberrations)
        wide = box_width(100.0, microscope, tiltsim.TiltSeries(), tiltsim.Numerics())
        assert wide == pytest.approx(width)
