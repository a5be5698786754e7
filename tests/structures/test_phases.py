"""The crystals are the ones the literature and the model describe."""

import numpy as np
import pytest

import structures
from structures.parents import ideal_perovskite
from structures.phases import decompose, monoclinic, orthorhombic, rhombohedral, strontium_titanate, vegard


@pytest.mark.parametrize(
    ("parent", "number"),
    [
        (rhombohedral(), 161),
        (monoclinic(0.0), 9),
        (monoclinic(0.07), 9),
        (monoclinic(0.10), 9),
        (orthorhombic(0.13), 62),
        (orthorhombic(0.20), 62),
        (strontium_titanate(), 221),
    ],
)
def test_space_groups(parent, number):
    assert structures.space_group(parent.atoms)[0] == number


@pytest.mark.parametrize("signs", [(1, -1, 1), (-1, -1, -1), (-1, 1, 1)])
def test_every_variant_is_the_same_crystal(signs):
    assert structures.space_group(rhombohedral().variant(signs).atoms)[0] == 161
    assert structures.space_group(monoclinic(0.07).variant(signs).atoms)[0] == 9


def test_r3c_is_the_neutron_structure():
    parent = rhombohedral()
    lengths, angles = parent.atoms.cell.lengths() / 2, parent.atoms.cell.angles()
    np.testing.assert_allclose(lengths, 3.965, atol=5e-4)
    np.testing.assert_allclose(angles, 89.43, atol=5e-3)
    # Fe from the centre of its eight Bi, which are an ideal lattice here
    ideal, sites = ideal_perovskite((2, 2, 2))
    iron = sites == "B"
    centre = ideal[iron] @ parent.pseudocubic
    offset = parent.atoms.positions[iron] - centre
    along = np.array([1, 1, 1]) @ parent.pseudocubic
    np.testing.assert_allclose(
        offset @ along / np.linalg.norm(along), -0.413, atol=5e-4
    )  # d = A − B = +41.3 pm along +[111]
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1), 0.413, atol=5e-4)


def test_octahedral_rotation_of_r3c_is_a_dozen_degrees():
    assert 10 < np.degrees(decompose(rhombohedral()).rotation) < 14


def test_cc_polar_axis_turns_towards_the_film_normal():
    d = structures.build("Cc", thickness=8).truth.cell_d.mean("cell").values
    assert d[1] == pytest.approx(1.2 * d[0], abs=0.05)  # [11v] seen along [100]: up v, across u


def test_cc_amplitude_falls_with_samarium_as_asked():
    model = structures.MonoclinicModel(polar_slope=2.0)
    full = structures.build("Cc", thickness=8, model=model).truth.cell_d.values
    less = structures.build("Cc", samarium=0.1, thickness=8, model=model).truth.cell_d.values
    np.testing.assert_allclose(less, 0.8 * full, atol=0.05)


def test_vegard_joins_the_end_members():
    assert vegard(0) == pytest.approx(3.9645, abs=1e-3)
    assert vegard(1) == pytest.approx((5.649 * 7.716 * 5.389 / 4) ** (1 / 3), abs=1e-6)
    assert vegard(1) < vegard(0.2) < vegard(0)


def test_pnma_is_antipolar():
    parent = orthorhombic(0.13)
    ideal, sites = ideal_perovskite((2, 2, 2))
    u = parent.atoms.get_scaled_positions(wrap=False) * 2 - ideal
    a = u[sites == "A"] - u[sites == "A"].mean(axis=0)
    assert np.abs(a).max() > 0.03
    still = orthorhombic(0.13, antipolar=0.0)
    v = still.atoms.get_scaled_positions(wrap=False) * 2 - ideal
    np.testing.assert_allclose(np.ptp(v[sites == "A"], axis=0), 0, atol=1e-9)
