"""What this toolkit says about Atomap, HyperSpy and TEMUL holds for the packages themselves, where installed."""

import numpy as np
import pytest

import analysis
from analysis import exchange, polar_signs

PX = 0.2  # Å
SHIFT = (1.0, -2.0)  # of B, px: right and up
D = -100 * PX * np.array(SHIFT)  # pm


@pytest.fixture
def lattice_of():
    """Makes an Atomap lattice from an image and A and B positions, px."""
    am = pytest.importorskip("atomap.api", reason="Atomap is not installed")

    def build(image, a, b):
        first, second = (
            am.Sublattice(positions, image, name=name, pixel_size=PX / 10, units="nm")
            for positions, name in ((a, "Bi"), (b, "Fe"))
        )
        return am.Atom_Lattice(image=image, name="test", sublattice_list=[first, second])

    return build


@pytest.fixture
def vectors(lattice_of):
    """Rows of Atomap's polarization of a grid whose B columns are moved by SHIFT, and those columns."""
    grid = np.stack(np.meshgrid(np.arange(10.0, 130, 20), np.arange(10.0, 110, 20)), -1).reshape(-1, 2)
    b = grid[(grid < [110, 90]).all(1)] + 10 + SHIFT
    a, b = lattice_of(np.eye(130), grid, b).sublattice_list
    a.construct_zone_axes()
    zones = a.zones_axis_average_distances[:2]
    signal = a.get_polarization_from_second_sublattice(*zones, b)
    return np.array(signal.metadata.vector_list, dtype=float), b.atom_positions


def test_atomaps_sign_and_start(vectors):
    rows, b = vectors
    cells = polar_signs.from_atomap(*rows.T, PX)
    np.testing.assert_allclose(cells["d"].values, np.tile(D, (20, 1)), atol=1e-2)
    found = np.stack([cells["x"].values, cells["y"].values], 1) / PX
    assert np.hypot(*(found[:, None] - b).transpose(2, 0, 1)).min(1).max() < 1e-3
    np.testing.assert_allclose(np.stack(polar_signs.to_atomap(cells), 1), rows, atol=1e-4)


def test_temuls_sign(vectors):
    polarisation = pytest.importorskip("temul.topotem.polarisation", reason="TEMUL is not installed")
    rows, _ = vectors
    centre = rows[:, :2]
    b = centre - rows[:, 2:]
    u, v = polarisation.find_polarisation_vectors(centre.tolist(), b.tolist())
    cells = polar_signs.from_temul(*centre.T, u, v, PX)
    np.testing.assert_allclose(cells["d"].values, np.tile(D, (20, 1)), atol=1e-2)
    again = polar_signs.to_temul(cells)
    np.testing.assert_allclose(again.u, u, atol=1e-9)
    np.testing.assert_allclose(again.v, v, atol=1e-9)
    # Angles are counted with y up: B moved right and up, 63° above the horizontal.
    angle = polarisation.get_angles_from_uv(again.u, -again.v, degrees=True)
    np.testing.assert_allclose(angle, np.degrees(np.arctan2(2, 1)), atol=1e-2)


def test_atomaps_file_and_its_leaning_columns(lattice_of, tmp_path):
    gaussian = pytest.importorskip("atomap.external.gaussian2d").Gaussian2D
    y, x = np.mgrid[:60, :80].astype(float)
    image = np.full(x.shape, 0.1)
    a, b = np.array([[20.0, 30.0]]), np.array([[60.0, 31.0]])
    for centre, rotation in ((a[0], 0.4), (b[0], 2.5)):
        column = gaussian(100.0, 5.0, 3.0, *centre, rotation)
        image += column.function(x, y)
    lattice = lattice_of(image, a, b)
    for sublattice in lattice.sublattice_list:
        for atom in sublattice.atom_list:
            atom.sigma_x = atom.sigma_y = 4.0
        sublattice.refine_atom_positions_using_2d_gaussian(mask_radius=14, show_progressbar=False)
    lattice.save(str(tmp_path / "lattice.hdf5"))
    found, columns = exchange.load_atomap(tmp_path / "lattice.hdf5", sites={"Bi": "A", "Fe": "B"})
    np.testing.assert_array_equal(found.values, image)
    assert list(columns["site"].values) == ["A", "B"]
    np.testing.assert_allclose(columns["x"].values, [20 * PX, 60 * PX], atol=0.05 * PX)
    # Second moments of the picture itself say how the columns lean, from x towards y down.
    for n, part in enumerate((np.s_[:, :40], np.s_[:, 40:])):
        weight = image[part] - 0.1
        dx, dy = (
            x[part] - (weight * x[part]).sum() / weight.sum(),
            y[part] - (weight * y[part]).sum() / weight.sum(),
        )
        xx, yy, xy = ((weight * m).sum() for m in (dx * dx, dy * dy, dx * dy))
        theta = 0.5 * np.arctan2(2 * xy, xx - yy)
        assert columns["theta"].values[n] == pytest.approx(theta, abs=0.03)
        assert columns["sigma_major"].values[n] == pytest.approx(5 * PX, abs=0.03)


def test_hyperspy_signal():
    hs = pytest.importorskip("hyperspy.api", reason="HyperSpy is not installed")
    values = np.random.default_rng(0).random((20, 30))
    signal = hs.signals.Signal2D(values)
    assert analysis.as_image(signal).attrs["calibrated"] == 0
    for axis, scale, offset in zip(signal.axes_manager.signal_axes, (0.02, 0.03), (1.0, -0.3), strict=True):
        axis.scale, axis.offset, axis.units = scale, offset, "nm"
    for variant in (signal, signal.as_lazy()):
        image = analysis.as_image(variant)
        np.testing.assert_array_equal(image.values, values)
        np.testing.assert_allclose(image["x"].values, 10.0 + 0.2 * np.arange(30))
        np.testing.assert_allclose(image["y"].values, -3.0 + 0.3 * np.arange(20))
    with pytest.raises(analysis.ImageError, match="2-D"):
        analysis.as_image(hs.signals.Signal2D(np.zeros((3, 20, 30))))
