"""Requests are checked when made, with messages that name the setting."""

import tomllib
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

import structures
import tiltsim
from tiltsim import SettingsError, TiltConvention
from tiltsim.config import parse_study
from tiltsim.images import evaluate
from tiltsim.jobs import Unit
from tiltsim.scheduling import compute_unit
from tiltsim.simulate import prepare


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
        (lambda: tiltsim.Numerics(memory_GB=0.0), r"numerics\.memory_GB"),
        (lambda: tiltsim.Numerics(wave_vectors=0), r"numerics\.wave_vectors"),
        (lambda: tiltsim.Microscope(edge=31.0), r"microscope\.edge"),
        (lambda: tiltsim.Detector(65.0, 80.0, edge=16.0), r"detector\.edge"),
        (lambda: tiltsim.Detector(segments=0), r"detector\.segments"),
        (lambda: tiltsim.Detector(rotation=float("inf")), r"detector\.rotation"),
        (lambda: tiltsim.FrozenPhonons.until(0.001), r"phonons\.target_sem_pm"),
        (lambda: tiltsim.FrozenPhonons.until(float("nan")), r"phonons\.target_sem_pm"),
        (lambda: tiltsim.FrozenPhonons(1, target_sem_pm=0.3), r"phonons\.pairs 1 .*at least 2"),
        (lambda: tiltsim.FrozenPhonons.until(max_pairs=1), r"phonons\.max_pairs 1"),
        (lambda: tiltsim.FrozenPhonons(max_pairs=0), r"phonons\.max_pairs"),
        (lambda: tiltsim.FrozenPhonons(temperature=-1), r"phonons\.temperature"),
        (lambda: tiltsim.FrozenPhonons(trajectory="a.traj", force_constants="b.npy"), "exclude each other"),
    ],
)
def test_absurd_settings_name_themselves(make, word):
    with pytest.raises(SettingsError, match=word):
        make()


def test_until_asks_for_pairs_up_to_a_standard_error():
    phonons = tiltsim.FrozenPhonons.until(0.5, max_pairs=8, seed=3, redraw=True)
    assert (phonons.pairs, phonons.target_sem_pm, phonons.max_pairs) == (2, 0.5, 8)
    assert (phonons.seed, phonons.redraw) == (3, True)
    assert tiltsim.FrozenPhonons.until(pairs=4).pairs == 4


def test_detectors_label_themselves():
    assert tiltsim.Detector(65.0, 200.0).labels == ("65-200 mrad",)
    quarters = tiltsim.Detector(7.5, 30.0, name="DF4", segments=4)
    assert quarters.labels == ("DF4 [0]", "DF4 [1]", "DF4 [2]", "DF4 [3]")
    disc = tiltsim.Detector.bright_field(30.0)
    assert (disc.label, disc.inner, disc.outer) == ("BF", 0.0, 30.0)
    ring = tiltsim.Detector.annular_bright_field(30.0, segments=2)
    assert (ring.inner, ring.outer, ring.labels) == (15.0, 30.0, ("ABF [0]", "ABF [1]"))


def test_a_toml_study_knows_the_settings_of_the_scattering_matrix():
    study = parse_study(
        tomllib.loads("""
            [[specimens]]
            phase = "SrTiO3"
            [microscope]
            edge = 0.5
            [detector]
            inner = 0
            outer = 30.0
            name = "DPC"
            segments = 4
            rotation = -45
            edge = 1.0
            [phonons]
            pairs = 2
            target_sem_pm = 0.3
            max_pairs = 16
            spread = false
            redraw = true
            force_constants = "fc.npy"
            temperature = 80
            [numerics]
            memory_GB = 2
            wave_vectors = 4
        """)
    )
    assert study.microscope == tiltsim.Microscope(edge=0.5)
    assert study.detector == tiltsim.Detector(0.0, 30.0, "DPC", 4, -45.0, 1.0)
    assert study.phonons == tiltsim.FrozenPhonons(
        2, 0, 0.3, 16, spread=False, redraw=True, force_constants="fc.npy", temperature=80.0
    )
    assert study.numerics == tiltsim.Numerics(memory_GB=2.0, wave_vectors=4)
    with pytest.raises(SettingsError, match=r"study: phonons\.max_pairs 1 is below"):
        parse_study(
            {"specimens": [{"phase": "R3c"}], "phonons": {"pairs": 2, "target_sem_pm": 1, "max_pairs": 1}}
        )


@pytest.fixture(params=["multislice", "smatrix"])
def scanned(request):
    """Images (segment, y, x) of a still specimen at its full thickness, from either engine."""

    def images(specimen, detectors, tilt=(0.0, 0.0)):
        (job,) = prepare(
            specimen,
            tilts=tiltsim.TiltSeries((tilt[0],), (tilt[1],)),
            thicknesses=[specimen.thickness],
            detector=[replace(d, name=str(n)) for n, d in enumerate(detectors)],
            phonons=tiltsim.FrozenPhonons(0),
            numerics=tiltsim.Numerics(wave_vectors=1),
            engine=request.param,
            device="cpu",
        )
        return compute_unit(job, Unit(0, 0, 0), passes=1, threads=2)[:, 0, 0].astype(float)

    return images


def test_an_atom_deflects_the_probe_towards_it(scanned):
    """Segments lie right, down, left, up; a probe right of an atom is pulled left."""
    box, (x, y) = (8.0, 9.0), (2.0, 5.0)
    atoms = Atoms("Bi", positions=[(x, y, 1.0)], cell=[*box, 2.0], pbc=(True, True, False))
    specimen = structures.Specimen("atom", atoms, np.array(["A"]), layer=2.0, slices=1)
    images = scanned(specimen, [tiltsim.Detector(0.0, 60.0, segments=4, rotation=-45.0)])
    offsets = np.array([-0.4, 0.0, 0.4])
    right, down, left, up = evaluate(images, box, x + offsets, y + offsets)
    across, along = right - left, down - up
    assert across[1, 0] > 0.1
    assert across[1, 2] < -0.1
    assert along[0, 1] > 0.1
    assert along[2, 1] < -0.1
    # no deflection across the direction to the atom, up to diffraction pixels on the borders of sectors
    assert np.abs(across[:, 1]).max() < 0.02
    assert np.abs(along[1, :]).max() < 0.02


def test_sectors_turn_from_x_towards_y(scanned):
    """A first sector that begins at 30° of twelve is the second of those that begin at 0°."""
    null = structures.build("SrTiO3", lateral=(1, 1), thickness=8)
    twelve = tiltsim.Detector(20.0, 60.0, segments=12, rotation=3.0)
    turned = tiltsim.Detector(20.0, 60.0, segments=12, rotation=33.0)
    images = scanned(null, [twelve, turned], tilt=(3.0, 1.0))
    np.testing.assert_allclose(images[12:23], images[1:12], rtol=1e-5)
    np.testing.assert_allclose(images[23], images[0], rtol=1e-5)


def test_segments_add_up_to_the_ring_and_detectors_keep_their_order(scanned):
    null = structures.build("SrTiO3", lateral=(1, 1), thickness=8)
    ring, disc = tiltsim.Detector(30.0, 60.0), tiltsim.Detector(0.0, 30.0)
    detectors = [
        ring,
        replace(disc, segments=4, rotation=-45.0),
        disc,
        replace(ring, segments=7, rotation=13),
    ]
    images = scanned(null, detectors, tilt=(8.0, -5.0))
    assert len(images) == sum(len(d.labels) for d in detectors) == 13
    np.testing.assert_allclose(images[1:5].sum(0), images[5], rtol=1e-5)
    np.testing.assert_allclose(images[6:].sum(0), images[0], rtol=1e-5)


def test_multislice_refuses_smooth_edges():
    null = structures.build("SrTiO3", lateral=(1, 1), thickness=8)
    ring = tiltsim.Detector(65.0, 80.0)
    for microscope, detector, name in (
        (tiltsim.Microscope(), replace(ring, edge=1.0), r"detector\.edge 1 mrad"),
        (tiltsim.Microscope(edge=0.5), ring, r"microscope\.edge 0\.5 mrad"),
    ):
        with pytest.raises(SettingsError, match=f"{name} needs engine 'smatrix'"):
            prepare(null, microscope, thicknesses=[8.0], detector=detector, engine="multislice")


def test_a_disc_of_nine_by_nine_has_49_tilts():
    disc = tiltsim.TiltSeries.disc(10.0, 9)
    assert len(disc.points()) == 49
    assert disc.largest == pytest.approx(10.0)


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
