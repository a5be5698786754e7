"""What images are made of: lens, aperture, detector, overlaps, Fourier coefficients and their gradients."""

import math

import abtem
import numpy as np
import pytest
import torch
from abtem.transfer import Aberrations, polar_aliases, polar_symbols, soft_aperture

import structures
import tiltsim
from tiltsim import propagation, readout, reciprocal

WAVELENGTH = tiltsim.Microscope().wavelength
#: Angle between neighbouring waves, rad; different along x and y, so that exchanging them shows.
STEP = (2.1e-3, 1.3e-3)


def waves(half=(30, 48)):
    """Every wave (n, 2) of a grid of STEP, 1/Å."""
    axes = [torch.arange(-n, n + 1, dtype=torch.float64) * s for n, s in zip(half, STEP, strict=True)]
    return torch.cartesian_prod(*axes) / WAVELENGTH


def polar(k):
    alpha = WAVELENGTH * torch.linalg.norm(k, dim=1)
    return alpha.numpy(), torch.atan2(k[:, 1], k[:, 0]).numpy()


def worth(symbol, radians=2.0, at=30e-3):
    """Coefficient that turns the phase by ``radians`` at the rim of the aperture, Å."""
    n = int(symbol[1])
    return radians * (n + 1) * WAVELENGTH / (2 * math.pi * at ** (n + 1))


@pytest.mark.parametrize(
    "name", [n for n in (*polar_symbols, *polar_aliases) if polar_aliases.get(n, n).startswith("C")]
)
def test_every_aberration_is_abtems(name):
    """Coefficients and angles, under abTEM's symbols and its aliases, defocus with its opposite sign."""
    symbol = polar_aliases.get(name, name)
    settings = {name: worth(symbol)}
    angle = f"phi{symbol[1:]}"
    if angle in polar_symbols:
        settings[angle if name == symbol else polar_symbols[angle]] = 0.37
    k = waves((14, 23))
    theirs = Aberrations(settings, energy=200e3)._evaluate_from_angular_grid(*polar(k))
    phase = readout.aberration_phase(k, settings, WAVELENGTH).numpy()
    assert np.ptp(phase) > 1.0
    np.testing.assert_allclose(np.exp(-1j * phase), theirs, atol=1e-4)


def test_aberrations_add_up():
    k = waves((14, 23))
    several = {"C30": worth("C30"), "C12": worth("C12"), "phi12": 0.4, "C34": worth("C34")}
    apart = [{"C30": several["C30"]}, {"C12": several["C12"], "phi12": 0.4}, {"C34": several["C34"]}]
    total = sum(readout.aberration_phase(k, one, WAVELENGTH) for one in apart)
    torch.testing.assert_close(readout.aberration_phase(k, several, WAVELENGTH), total)


def test_positive_defocus_focuses_below_the_entrance_surface():
    """After propagating over the defocus the phase of the lens is gone: the sign that focusing needs."""
    k = waves((14, 23))
    lens = readout.aberration_phase(k, {"defocus": 120.0}, WAVELENGTH)
    fresnel = math.pi * WAVELENGTH * 120.0 * (k**2).sum(1)  # the propagator multiplies by exp(-i fresnel)
    torch.testing.assert_close(lens + fresnel, torch.zeros_like(lens), atol=1e-9, rtol=0)


def test_sharp_aperture_is_abtems():
    k = waves()
    ours = readout.aperture(k, tiltsim.Microscope(), STEP)
    shape = (61, 97)
    alpha, phi = (np.fft.ifftshift(v.reshape(shape)) for v in polar(k))  # abTEM wants the beam first
    theirs = np.fft.fftshift(soft_aperture(alpha, phi, 30e-3, tuple(1e3 * s for s in STEP)))
    assert ((theirs > 0.01) & (theirs < 0.99)).sum() > 20
    np.testing.assert_allclose(ours.numpy().reshape(shape), theirs, atol=2e-5)


def test_smooth_aperture_fades_over_its_width():
    microscope = tiltsim.Microscope(edge=4.0)
    angles = np.array([0.0, 27.9, 29.0, 30.0, 31.0, 32.1]) * 1e-3 / WAVELENGTH
    k = torch.as_tensor(np.stack([0.6 * angles, 0.8 * angles], axis=1))
    ramp = 0.75**2 * (3 - 2 * 0.75)
    ours = readout.aperture(k, microscope, STEP).numpy()
    np.testing.assert_allclose(ours, [1, 1, ramp, 0.5, 1 - ramp, 0], atol=1e-6)


def test_probe_has_intensity_one_and_moves_with_the_tilt():
    k, shift = waves(), torch.tensor([0.31, -0.22], dtype=torch.float64)
    intensity = readout.probe(k, k, shift, tiltsim.Microscope(), {"C30": 1e5}, STEP).abs() ** 2
    assert float(intensity.sum()) == pytest.approx(1.0)
    torch.testing.assert_close((intensity[:, None] * k).sum(0), shift, atol=2e-3, rtol=0)


TILTS = [(0.0, 0.0), (3.0, 0.0), (0.0, -4.1), (6.3, 5.2), (-9.7, 2.6)]


@pytest.mark.parametrize("edge", [0.0, 6.0])
@pytest.mark.parametrize("ring", [(0.0, 25.0), (15.0, 40.0)])
def test_detector_moves_with_the_beam_and_keeps_its_area(edge, ring):
    """Its area must not jump from tilt to tilt, and its centre of mass is where the beam is."""
    k, detector = waves(), tiltsim.Detector(*ring, edge=edge)
    area = []
    for tilt in TILTS:
        shift = torch.as_tensor(reciprocal.shifts([tilt], WAVELENGTH)[0])
        weight = readout.collection(k, shift, detector, WAVELENGTH, STEP)[0]
        area.append(float(weight.sum()))
        centre = (weight[:, None] * k).sum(0) / weight.sum()
        torch.testing.assert_close(centre, shift, atol=1e-9 if edge == 0 else 5e-4, rtol=0)
        assert 0 <= float(weight.min()) <= float(weight.max()) <= 1
    np.testing.assert_allclose(area, area[0], rtol=1e-3)
    whole = math.pi * (ring[1] ** 2 - ring[0] ** 2) * 1e-6 / (STEP[0] * STEP[1])
    assert area[0] == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize("edge", [0.0, 6.0])
def test_segments_lie_where_they_are_told_and_sum_to_the_ring(edge):
    k, shift = waves(), torch.tensor([0.13, -0.07], dtype=torch.float64)
    ring = readout.collection(k, shift, tiltsim.Detector(10, 40, edge=edge), WAVELENGTH, STEP)
    detector = tiltsim.Detector(10, 40, segments=4, rotation=-45.0, edge=edge)
    four = readout.collection(k, shift, detector, WAVELENGTH, STEP)
    torch.testing.assert_close(four.sum(0), ring[0])
    centres = (four @ (k - shift)) / four.sum(1, keepdim=True) * WAVELENGTH * 1e3
    right_down_left_up = 1.0 * np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
    assert (np.einsum("nc,nc->n", centres.numpy(), right_down_left_up) > 20).all()
    assert (abs(np.einsum("nc,nc->n", centres.numpy(), right_down_left_up[:, ::-1])) < 3).all()


def random_amplitudes(pixels, beams, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((pixels, beams), dtype=torch.complex128, generator=generator)


@pytest.mark.parametrize("panels", [1, 3, 4])
def test_half_the_overlap_is_all_of_it(panels):
    amplitudes, weights = random_amplitudes(23, 13), torch.linspace(-0.5, 1.0, 23, dtype=torch.float64)
    torch.testing.assert_close(
        readout.hermitian_overlap(amplitudes, weights, panels), readout.overlap(amplitudes, weights)
    )


def test_period_image_is_the_wave_of_its_coefficient():
    """c(Q) = exp(−2πi Q·r0)/2 and its mirror image are a cosine with its crest at r0, in (y, x) order."""
    half, q, r0 = (4, 6), (2, -3), (0.21, 0.34)
    c = torch.zeros((9, 13), dtype=torch.complex128)
    phase = 2 * math.pi * (q[0] * r0[0] + q[1] * r0[1])
    c[half[0] + q[0], half[1] + q[1]] = 0.5 * np.exp(-1j * phase)
    c[half[0] - q[0], half[1] - q[1]] = 0.5 * np.exp(1j * phase)
    c[half] = 3.0
    x, y = np.arange(9) / 9, np.arange(13)[:, None] / 13
    expected = 3.0 + np.cos(2 * np.pi * (q[0] * (x - r0[0]) + q[1] * (y - r0[1])))
    np.testing.assert_allclose(readout.period_image(c).numpy(), expected, atol=1e-12)


def test_coefficients_are_those_of_a_scanned_probe():
    """The same intensities as adding up waves at every probe position, pixel by pixel."""
    indices = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-1, 4))
    amplitudes, weights = random_amplitudes(17, len(indices)), torch.rand(17, dtype=torch.float64)
    lens = random_amplitudes(1, len(indices), seed=1)[0]
    half = (4, 4)
    index = readout.difference_index(indices, half)
    c = readout.coefficients(readout.overlap(amplitudes, weights), lens, index, half)
    image = readout.period_image(c)
    for column, row in ((0, 0), (2, 7), (8, 3)):
        place = torch.tensor([column / 9, row / 9], dtype=torch.float64)
        wave = amplitudes @ (lens * torch.exp(-2j * math.pi * (indices.double() @ place)))
        assert float(image[row, column]) == pytest.approx(float((weights * wave.abs() ** 2).sum()))


@pytest.fixture(scope="module")
def crystal():
    """Scattering matrix of three cells of SrTiO3, shaken so that nothing is symmetric, and all it takes to read it."""
    specimen = structures.build("SrTiO3", lateral=(1, 1), thickness=11.7)
    specimen.atoms.rattle(0.08, seed=2)
    microscope, detector = tiltsim.Microscope(edge=4.0), tiltsim.Detector(50.0, 80.0, edge=6.0)
    grid = reciprocal.Grid(specimen.box, (48, 48), (1, 1), microscope.wavelength)
    with abtem.config.set({"diagnostics.progress_bar": False}):
        built = abtem.Potential(
            specimen.atoms, gpts=grid.gpts, slice_thickness=specimen.slice_thickness, projection="infinite"
        ).build(lazy=False)
    transmission = propagation.transmissions(
        np.asarray(built.array), grid, microscope.energy_keV, torch.device("cpu")
    )
    corners = [(x, y) for x in (-10.0, 10.0) for y in (-10.0, 10.0)]
    incident = reciprocal.beams(grid, microscope, corners, (0, 0))
    exits = reciprocal.pixels(grid, [detector], corners, (0, 0))
    (matrix,) = propagation.scattering_matrix(
        transmission, grid, (0, 0), specimen.slice_thickness, incident, exits, [len(transmission) - 1]
    )
    return microscope, detector, grid, incident, exits, matrix.to(torch.complex128)


PARAMETERS = {
    "tilt_x": 4.3, "tilt_y": -2.6, "defocus": 35.0, "C12": 25.0, "phi12": 0.4, "C21": 600.0, "phi21": -0.8,
    "C30": 2e4,
}  # fmt: skip


def read(crystal, values):
    """Image (y, x) for tensors or numbers named as in PARAMETERS."""
    microscope, detector, grid, incident, exits, matrix = crystal
    values = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()}
    tilt = torch.stack([values["tilt_x"], values["tilt_y"]])
    shift = torch.tan(tilt * 1e-3) / grid.wavelength
    lens = {name: value for name, value in values.items() if not name.startswith("tilt")}
    k, out = (torch.as_tensor(grid.vectors(i, (0, 0))) for i in (incident, exits))
    step = tuple(grid.angular_step)
    probe = readout.probe(k, k, shift, microscope, lens, step)
    weight = readout.collection(out, shift, detector, grid.wavelength, step)[0]
    half = tuple(int(v) for v in np.ptp(incident, axis=0))
    index = readout.difference_index(torch.as_tensor(incident), half)
    return readout.period_image(readout.coefficients(readout.overlap(matrix, weight), probe, index, half))


def point(image):
    return image[3, 5]


def centroid(image):
    """Like a fitted position: where the first harmonic along x and y has its crest, as a fraction of the period."""
    ny, nx = image.shape
    x = torch.exp(-2j * math.pi * torch.arange(nx, dtype=torch.float64) / nx)
    y = torch.exp(-2j * math.pi * torch.arange(ny, dtype=torch.float64) / ny)
    return torch.angle((image * x).sum()) + 2 * torch.angle((image * y[:, None]).sum())


@pytest.mark.parametrize("measure", [point, centroid])
def test_gradients_are_the_finite_differences(crystal, measure):
    leaves = {n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in PARAMETERS.items()}
    measure(read(crystal, leaves)).backward()
    for name, value in PARAMETERS.items():
        h = 1e-4 * max(1.0, abs(value))
        up, down = (float(measure(read(crystal, {**PARAMETERS, name: value + s * h}))) for s in (1, -1))
        slope = (up - down) / (2 * h)
        assert slope != 0
        assert float(leaves[name].grad) == pytest.approx(slope, rel=1e-3), name


def test_gradients_are_finite_on_the_axis_of_a_perfect_lens(crystal):
    leaves = {n: torch.tensor(0.0, dtype=torch.float64, requires_grad=True) for n in PARAMETERS}
    centroid(read(crystal, leaves)).backward()
    assert all(torch.isfinite(leaf.grad) for leaf in leaves.values())
