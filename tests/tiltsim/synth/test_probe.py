"""Transfer of an aberrated probe: limits, brute force, and the engine."""

import numpy as np
import pytest
import torch

import tiltsim
from structures.columns import build_columns
from tiltsim.readout import aberration_phase
from tiltsim.synth.probe import ProbeFaults, optical_transfer, transfer

MICROSCOPE = tiltsim.Microscope()
CUTOFF = 0.5 * MICROSCOPE.image_cutoff
K = np.meshgrid(np.linspace(-2.6, 2.6, 27), np.linspace(-2.6, 2.6, 27))


def test_without_aberrations_only_the_source_is_left():
    factor = transfer(ProbeFaults(source_fwhm=0.9), MICROSCOPE, *K)
    sigma = 0.9 / np.sqrt(8 * np.log(2))
    np.testing.assert_allclose(factor, np.exp(-2 * np.pi**2 * sigma**2 * (K[0] ** 2 + K[1] ** 2)), rtol=1e-12)
    assert (transfer(ProbeFaults(source_fwhm=0.0), MICROSCOPE, *K) == 1).all()


def test_the_ideal_otf_is_that_of_a_circular_pupil():
    q = np.array([0.0, 0.3, 1.1, 2.0, 2.5])
    found = optical_transfer(np.stack([q, 0 * q], 1), MICROSCOPE, ({},))[0]
    s = np.clip(q / (2 * CUTOFF), 0, 1)
    np.testing.assert_allclose(found, 2 / np.pi * (np.arccos(s) - s * np.sqrt(1 - s**2)), atol=1e-9)


@pytest.mark.parametrize("edge", [0.0, 4.0])
def test_the_otf_is_the_autocorrelation_of_the_pupil(edge):
    lens = tiltsim.Microscope(aberrations={"C30": 2e4}, edge=edge)
    added = {"defocus": 30.0, "C12": 20.0, "phi12": 0.4, "C21": 600.0, "phi21": 1.0}
    step, whole = CUTOFF / 200, {**added, "C30": 2e4}
    axis = np.arange(-3 * CUTOFF, 3 * CUTOFF, step)
    x, y = np.meshgrid(axis, axis)
    alpha = np.hypot(x, y) * lens.wavelength * 1e3
    ramp = np.clip((30 - alpha) / edge + 0.5, 0, 1) if edge else alpha < 30
    passed = ramp * ramp * (3 - 2 * ramp) if edge else ramp
    chi = aberration_phase(torch.as_tensor(np.stack([x.ravel(), y.ravel()], 1)), whole, lens.wavelength)
    pupil = passed * np.exp(-1j * chi.numpy().reshape(x.shape))
    for shift in ((40, 17), (-87, 60), (13, -267)):
        later = np.roll(pupil, (-shift[1], -shift[0]), (0, 1))
        expected = (pupil * later.conj()).sum() / (np.abs(pupil) ** 2).sum()
        found = optical_transfer(np.array([shift]) * step, lens, (added,))[0][0]
        assert found == pytest.approx(expected, abs=3e-3)


def test_factors_are_those_of_a_real_image_and_vanish_with_the_aberration():
    faults = ProbeFaults(defocus=20.0, C12=15.0, phi12=30.0, C21=500.0, phi21=10.0, C23=300.0)
    factor = transfer(faults, MICROSCOPE, *K)
    np.testing.assert_allclose(factor[::-1, ::-1], factor.conj(), atol=1e-12)
    beyond = np.hypot(*K) > MICROSCOPE.image_cutoff
    assert (factor[beyond] == 0).all()
    assert factor[13, 13] == pytest.approx(1.0)
    slight = transfer(ProbeFaults(source_fwhm=0.0, C21=1e-4), MICROSCOPE, *K)
    np.testing.assert_allclose(slight[~beyond], 1.0, atol=1e-3)


def test_a_depth_is_a_defocus():
    k = np.array([[0.0, 0.0], [0.3, 0.1], [-0.5, 0.8], [1.4, -0.9], [0.2, 2.0]])
    depths = np.linspace(0, 40, 201)
    layers = optical_transfer(k, MICROSCOPE, [{"defocus": 10 - z} for z in depths])
    weights = np.exp(-depths / 30)
    weights[[0, -1]] /= 2
    mean = np.tensordot(weights / weights.sum(), np.array(layers), 1)
    np.testing.assert_allclose(
        optical_transfer(k, MICROSCOPE, ({"defocus": 10.0},), 40.0)[0], mean, atol=1e-4
    )


@pytest.fixture(scope="module")
def engine():
    """Images (aberrated and not) of a BiFeO3 slab of 24 Å, the frequencies of their coefficients, and their period."""
    slab = build_columns(np.zeros((1, 1, 2)), thickness=24.0)

    def image(**aberrations):
        images = tiltsim.simulate(
            slab,
            tiltsim.Microscope(aberrations=aberrations),
            tiltsim.TiltSeries(),
            thicknesses=[24.0],
            detector=tiltsim.Detector(65, 110),
            phonons=tiltsim.FrozenPhonons(1),
            numerics=tiltsim.Numerics(wave_vectors=4),
            keep_configs=True,
        )
        return images.intensity_period.mean("config").values.squeeze().astype(float)

    plain = image()
    box = slab.box[0]
    k = np.fft.fftfreq(len(plain), box / len(plain))
    return image, plain, np.meshgrid(k, k), box


def seen(image, k, **faults):
    """``image`` through the faults."""
    factor = transfer(ProbeFaults(**faults), MICROSCOPE, *k, thickness=24.0)
    return np.fft.ifft2(np.fft.fft2(image) * factor).real


@pytest.mark.parametrize(
    ("fault", "share"),
    [
        ({"defocus": -20.0}, 0.15),
        ({"C12": 20.0, "phi12": 30.0}, 0.2),
        ({"C23": 600.0, "phi23": 10.0}, 0.35),
        ({"C21": 600.0, "phi21": 20.0}, 0.2),
    ],
)
def test_a_thin_slab_shows_the_engines_aberrations(engine, fault, share):
    image, plain, k, box = engine
    true = seen(image(**{n: np.radians(v) if n.startswith("phi") else v for n, v in fault.items()}), k)
    made, without = seen(plain, k, **fault), seen(plain, k)
    # Half of what the aberration does would leave 0.5, the wrong sign or direction more than 1.
    assert np.sqrt(((made - true) ** 2).mean()) < share * np.sqrt(((without - true) ** 2).mean())
    if "C21" in fault:
        # Coma moves columns to the left and up for phi21 in the first quadrant (x right, y down).
        def place(picture):
            c = np.fft.fft2(picture)
            return -np.angle([c[0, 1], c[1, 0]]) / (2 * np.pi) * box * 100

        expected, found = place(true) - place(without), place(made) - place(without)
        assert (expected < -2).all()
        np.testing.assert_allclose(found, expected, atol=2.0)
