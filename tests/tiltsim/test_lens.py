"""The lens' polynomial: its symmetry, its derivatives, and that the engine's images follow it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tiltsim
from tests.tiltsim.conftest import SMALL_LIBRARY
from tiltsim.jobs import combine
from tiltsim.lens import RESIDUALS, LensBox, components, named, terms, turned_terms
from tiltsim.library.building import node_job
from tiltsim.library.request import Node
from tiltsim.library.symmetry import OPERATIONS
from tiltsim.readout import aberration_phase
from tiltsim.smatrix import compute, units

BOX = LensBox()
RNG = np.random.default_rng(3)


def turned_back(lens, operation):
    """The lens that a crystal sees if the one that it was turned with is turned back: C21 is a vector, C12 a tensor."""
    m = operation.T  # inverse
    two = m @ np.array([[lens[1], lens[2]], [lens[2], -lens[1]]]) @ m.T
    three = m @ lens[3:]
    return np.array([lens[0], two[0, 0], two[0, 1], *three])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_turning_the_lens_and_the_wave_together_changes_nothing(operation):
    lens = RNG.uniform(-1, 1, 5) * BOX.sizes
    k = RNG.normal(size=(40, 2))
    there = aberration_phase(torch.as_tensor(k), named(lens), 0.025)
    back = aberration_phase(torch.as_tensor(k @ operation), named(turned_back(lens, operation)), 0.025)
    np.testing.assert_allclose(there, back, atol=1e-9)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_terms_turn_as_their_lens_does(operation):
    lens = RNG.uniform(-1, 1, 5) * BOX.sizes
    crystal = RNG.normal(size=len(terms()))
    source, sign = turned_terms(operation)
    turned = sign * crystal[source]
    assert turned @ BOX.basis(lens) == pytest.approx(
        crystal @ BOX.basis(turned_back(lens, operation)), abs=1e-9
    )


def test_derivatives_are_those_of_the_terms():
    lens = RNG.uniform(-0.7, 0.7, 5) * BOX.sizes
    for n in range(5):
        step = np.zeros(5)
        step[n] = 1e-3 * BOX.sizes[n]
        difference = (BOX.basis(lens + step) - BOX.basis(lens - step)) / (2 * step[n])
        np.testing.assert_allclose(BOX.basis(lens, n), difference, atol=1e-5 / BOX.sizes[n])


def test_names_and_components_are_each_others_inverse():
    lens = RNG.uniform(-1, 1, 5) * BOX.sizes
    np.testing.assert_allclose(components(named(lens)), lens, atol=1e-9)


def test_the_design_fills_the_box_and_fixes_every_term():
    design = BOX.design()
    assert BOX.contains(design).all()
    assert not design[0].any()
    assert len(terms()) == 70
    assert np.linalg.cond(BOX.basis(design[1:])) < 300


def test_a_box_of_nothing_is_refused():
    with pytest.raises(tiltsim.SettingsError, match=r"lens\.C12 0 Å must be positive"):
        LensBox(C12=0.0)


@pytest.fixture(scope="module")
def readings():
    """A job without, and one with a lens, and the images of both."""
    tilts = tiltsim.TiltSeries((0.0, 4.0), (-6.0,))
    plain = node_job(SMALL_LIBRARY, Node("BiFeO3", (1, 0)), tilts, (6, 14), device="cpu")
    # A smaller aperture follows the polynomial further: the same largest phase.
    box = LensBox(defocus=40.0, C12=27.0, C21=1000.0)
    together = replace(plain, lens=box)
    images = combine(
        together, units(together, 0, 1), {u: compute(together, u) for u in units(together, 0, 1)}
    )
    return plain, box, images


def test_the_first_image_is_that_without_a_lens(readings):
    plain, _, images = readings
    listed = units(plain, 0, 1)
    expected = combine(plain, listed, {u: compute(plain, u) for u in listed})
    np.testing.assert_allclose(images[:1], expected, atol=2e-8)
    assert images.shape[0] == 1 + len(terms()) + RESIDUALS


def softened(images):
    """Through a source of 0.8 Å: what an experiment sees of them."""
    n = images.shape[-1]
    k = np.fft.fftfreq(n, 1.0 / n) / 3.964
    soft = np.exp(-2 * (np.pi * 0.8 / np.sqrt(8 * np.log(2))) ** 2 * (k[:, None] ** 2 + k**2))
    return np.fft.ifft2(np.fft.fft2(images) * soft).real


@pytest.mark.parametrize(
    "lens",
    [
        (30.0, 0, 0, 0, 0),
        (0, -20.0, 15.0, 0, 0),
        (0, 0, 0, 600.0, -500.0),
        (-25.0, 12.0, 15.0, -500.0, 600.0),
    ],
)
def test_images_with_aberrations_follow_the_polynomial(readings, lens):
    plain, box, images = readings
    aberrated = replace(plain, microscope=replace(plain.microscope, aberrations=named(np.array(lens))))
    listed = units(aberrated, 0, 1)
    expected = softened(combine(aberrated, listed, {u: compute(aberrated, u) for u in listed})[0])
    images = softened(images)
    foretold = images[0] + np.tensordot(box.basis(np.array(lens)), images[1 : 1 + len(terms())], (0, 0))
    error = np.sqrt(((foretold - expected) ** 2).mean()) / expected.std()
    effect = np.sqrt(((images[0] - expected) ** 2).mean()) / expected.std()
    # Signs and axes: a mirrored lens would be out by more than the effect itself.
    print(effect, error)
    assert effect > 0.05
    assert error < 0.15 * effect
