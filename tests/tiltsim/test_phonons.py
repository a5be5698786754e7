"""Frozen-phonon configurations: statistics, independence, and what a file must hold."""

import os
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.io import write

import structures
import tiltsim
from tiltsim import SettingsError
from tiltsim.phonons import configuration, labels


@pytest.fixture(scope="module")
def null():
    return structures.build("SrTiO3", thickness=40)


@pytest.fixture(scope="module")
def doped():
    """R3c with 30 % Sm, whose rms displacements are far apart by element."""
    specimen = structures.build("R3c", samarium=0.3, thickness=60, seed=3)
    return replace(specimen, sigmas={"Bi": 0.05, "Sm": 0.2, "Fe": 0.07, "O": 0.1})


def moved(specimen, phonons, pair=0, sign=1, part=0):
    return configuration(specimen, phonons, pair, sign, part).positions - specimen.atoms.positions


def test_labels():
    assert labels(tiltsim.FrozenPhonons(0), 0) == [(0, 0)]
    assert labels(tiltsim.FrozenPhonons(2), 3) == [(0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1)]


def test_pairs_are_opposite_seeded_and_leave_the_specimen_alone(null):
    phonons = tiltsim.FrozenPhonons(2, seed=1)
    before = null.atoms.positions.copy()
    for pair in (1, 0):  # in any order
        sigma = np.array([null.sigmas[s] for s in null.atoms.get_chemical_symbols()])
        u = np.random.default_rng((1, pair)).normal(size=before.shape) * sigma[:, None]
        np.testing.assert_array_equal(configuration(null, phonons, pair, 1).positions, before + u)
        np.testing.assert_array_equal(configuration(null, phonons, pair, -1).positions, before - u)
    np.testing.assert_array_equal(configuration(null, phonons, 0, 0).positions, before)
    np.testing.assert_array_equal(null.atoms.positions, before)


def test_einstein_displacements_have_the_rms_of_their_element(null):
    u = np.array([moved(null, tiltsim.FrozenPhonons(40), pair) for pair in range(40)])
    symbols = np.array(null.atoms.get_chemical_symbols())
    for element, sigma in null.sigmas.items():
        one = u[:, symbols == element]
        assert one.std() == pytest.approx(sigma, rel=5 / (2 * one.size) ** 0.5)
        assert abs(one.mean()) < 5 * sigma / one.size**0.5


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 7])
def test_pairs_and_parts_are_independent_draws(null, seed):
    phonons = tiltsim.FrozenPhonons(3, seed)
    draws = [moved(null, phonons, pair, 1, part).ravel() for pair in range(3) for part in range(5)]
    draws.append(moved(null, replace(phonons, seed=seed + 1)).ravel())
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / draws[0].size ** 0.5
    np.testing.assert_allclose(moved(null, phonons, 1, 1, 2), -moved(null, phonons, 1, -1, 2), atol=1e-13)


def test_redraw_shuffles_the_a_sites_and_nothing_else(doped):
    phonons = tiltsim.FrozenPhonons(200, redraw=True)
    a = doped.sites == "A"
    drawn = []
    for pair in range(200):
        plus, minus = (configuration(doped, phonons, pair, sign) for sign in (1, -1))
        np.testing.assert_array_equal(plus.numbers, minus.numbers)
        np.testing.assert_array_equal(plus.numbers[~a], doped.atoms.numbers[~a])
        assert sorted(plus.numbers[a]) == sorted(doped.atoms.numbers[a])
        drawn.append(plus.numbers[a] == 62)
    share = np.mean(drawn, axis=0)  # of the pairs in which a site holds Sm
    expected = float(np.mean(doped.atoms.numbers[a] == 62))
    assert np.abs(share - expected).max() < 5 * (expected * (1 - expected) / 200) ** 0.5
    # another residual wave vector draws its own, and without redraw nothing moves
    assert not np.array_equal(configuration(doped, phonons, 0, 1, 1).numbers[a] == 62, drawn[0])
    still = configuration(doped, tiltsim.FrozenPhonons(), 0, 1)
    np.testing.assert_array_equal(still.numbers, doped.atoms.numbers)


def test_displacements_follow_the_redrawn_element(doped):
    phonons = tiltsim.FrozenPhonons(60, redraw=True)
    samarium = []
    for pair in range(60):
        atoms = configuration(doped, phonons, pair, 1)
        samarium.append((atoms.positions - doped.atoms.positions)[atoms.numbers == 62])
    values = np.concatenate(samarium)
    assert values.std() == pytest.approx(0.2, rel=5 / (2 * values.size) ** 0.5)


# --- trajectories ---------------------------------------------------------------------------------------


def trajectory(specimen, path, frames=6, wander=True):
    """Frames about the specimen's positions, 0.3 Å off, some atoms across the box; their excursions."""
    rng = np.random.default_rng(0)
    u = rng.normal(scale=0.1, size=(frames, len(specimen.atoms), 3))
    images = []
    for one in u:
        atoms = specimen.atoms.copy()
        boxes = rng.integers(-1, 2, size=(len(atoms), 3)) if wander else 0
        atoms.positions += one + [0.3, 0.0, 0.0] + boxes * atoms.cell.lengths()
        images.append(atoms)
    write(path, images)
    return u - u.mean(axis=0)


@pytest.mark.parametrize("suffix", ["traj", "xyz"])
def test_frames_of_a_trajectory_are_used_once_each(null, tmp_path, suffix):
    path = tmp_path / f"md.{suffix}"
    u = trajectory(null, path)
    phonons = tiltsim.FrozenPhonons(6, trajectory=str(path))

    def frame(pair, part=0, seed=0):
        change = moved(null, replace(phonons, seed=seed), pair, 1, part)
        np.testing.assert_allclose(
            moved(null, replace(phonons, seed=seed), pair, -1, part), -change, atol=1e-12
        )
        errors = np.abs(u - change).max(axis=(1, 2))
        assert errors.min() < 1e-6
        return int(errors.argmin())

    order = [frame(pair) for pair in range(6)]
    assert sorted(order) == list(range(6))
    assert [frame(pair, part=1) for pair in range(6)] != order
    assert [frame(pair, seed=1) for pair in range(6)] != order
    with pytest.raises(SettingsError, match="holds 6 frames for 7 pairs"):
        moved(null, replace(phonons, pairs=7), 0, 1)


def test_a_changed_file_is_read_again(null, tmp_path):
    path = tmp_path / "md.traj"
    trajectory(null, path, frames=2)
    phonons = tiltsim.FrozenPhonons(1, trajectory=str(path))
    first = moved(null, phonons)
    trajectory(null, path, frames=3)
    os.utime(path, ns=(1, 1))
    assert np.abs(moved(null, phonons) - first).max() > 0.01


def test_trajectories_that_do_not_fit_are_refused(null, tmp_path):
    other = structures.build("SrTiO3", lateral=(1, 1), thickness=40)
    path = tmp_path / "md.traj"

    def refused(words):
        with pytest.raises(SettingsError, match=r"phonons\.trajectory .*md\.traj") as error:
            configuration(null, tiltsim.FrozenPhonons(1, trajectory=str(path)), 0, 1)
        assert words in str(error.value)

    refused("No such file")
    path.write_text("not a trajectory")
    refused("ASE cannot read it")
    trajectory(other, path)
    refused(f"has {len(other.atoms)} atoms")
    trajectory(null, path, frames=1)
    refused("has 1 frame")
    swapped = null.atoms.copy()
    swapped.symbols[0] = "Ba"
    write(path, [swapped, swapped])
    refused("elements of frame 0")
    away = null.atoms.copy()
    away.positions[3] += [0.0, 1.2, 0.0]
    write(path, [away, away])
    refused("mean of atom 3 is 1.20 Å")
    away.positions[3] = np.nan
    write(path, [null.atoms, away])
    refused("frame 1 has positions that are not finite")


# --- force constants ------------------------------------------------------------------------------------


def molecule(formula):
    """Atoms in a row, as a specimen."""
    atoms = Atoms(formula, cell=[9, 9, 2], pbc=True)
    atoms.positions[:, 0] = 1.5 * np.arange(len(atoms))
    return structures.Specimen("row", atoms, np.array(["A"] * len(atoms)), layer=2.0)


def springs(*stiffness):
    """Force constants (3N, 3N) of a chain of isotropic springs, eV/Å²."""
    n = len(stiffness) + 1
    chain = np.zeros((n, n))
    for i, k in enumerate(stiffness):
        chain[i : i + 2, i : i + 2] += k * np.array([[1, -1], [-1, 1]])
    return np.kron(chain, np.eye(3))


def save(path, array):
    np.save(path, array)
    os.utime(path, ns=(1, save.count))  # files of one test may be written within one tick of the clock
    save.count += 1
    return str(path)


save.count = 1


@pytest.mark.parametrize("temperature", [0.0, 300.0])
def test_a_spring_of_two_atoms_vibrates_as_a_quantum_oscillator(tmp_path, temperature):
    specimen, k, n = molecule("OFe"), 8.0, 3000
    file = save(tmp_path / "fc.npy", springs(k))
    phonons = tiltsim.FrozenPhonons(n, force_constants=file, temperature=temperature)
    u = np.array([moved(specimen, phonons, pair) for pair in range(n)])  # (pair, atom, axis)

    m1, m2 = specimen.atoms.get_masses()
    reduced = m1 * m2 / (m1 + m2)
    hbar = units._hbar * units.J * units.s
    omega = (k / reduced) ** 0.5
    occupation = 1 / np.expm1(hbar * omega / (units.kB * temperature)) if temperature else 0.0
    variance = hbar / (reduced * omega) * (occupation + 0.5)

    np.testing.assert_allclose(m1 * u[:, 0] + m2 * u[:, 1], 0.0, atol=1e-12)  # the centre rests
    bond = u[:, 1] - u[:, 0]
    np.testing.assert_allclose(np.cov(bond.T), variance * np.eye(3), atol=5 * variance * (2 / n) ** 0.5)


def test_a_hot_chain_stretches_each_bond_independently(tmp_path):
    """In the classical limit the bonds of a chain have variance kT/k and no covariance, whatever the masses.

    Independent oscillators would give them a negative covariance, through the atom they share.
    """
    specimen, n = molecule("BiFeSm"), 3000
    stiffness = np.array([10.0, 4.0])
    constants = springs(*stiffness)
    file = save(tmp_path / "fc.npy", constants)
    phonons = tiltsim.FrozenPhonons(n, force_constants=file, temperature=2000.0)
    u = np.array([moved(specimen, phonons, pair) for pair in range(n)])
    bonds = np.diff(u, axis=1)[..., 0]
    expected = units.kB * 2000.0 / stiffness
    noise = 5 * np.sqrt(np.outer(expected, expected) * 2 / n)
    assert (np.abs(np.cov(bonds.T) - np.diag(expected)) < noise).all()
    four = save(tmp_path / "four.npy", constants.reshape(3, 3, 3, 3))
    np.testing.assert_array_equal(moved(specimen, replace(phonons, force_constants=four), 5), u[5])
    np.testing.assert_allclose(moved(specimen, phonons, 5, -1), -u[5], atol=1e-13)
    assert np.abs(moved(specimen, phonons, 5, 1, part=1) - u[5]).max() > 0.01


def test_force_constants_that_cannot_be_are_refused(tmp_path):
    specimen, path = molecule("BiFeSm"), tmp_path / "fc.npy"
    good = springs(10.0, 4.0)

    def refused(words):
        with pytest.raises(SettingsError, match=r"phonons\.force_constants .*fc\.npy") as error:
            configuration(specimen, tiltsim.FrozenPhonons(1, force_constants=str(path)), 0, 1)
        assert words in str(error.value)
        assert "\n" not in str(error.value)

    refused("No such file")
    path.write_text("text")
    refused("NumPy cannot read it")
    save(path, good[:6, :6])
    refused("shape (6, 6)")
    save(path, good.astype(complex))
    refused("real numbers")
    save(path, np.where(good == 10.0, np.nan, good))
    refused("not finite")
    save(path, good + np.triu(np.ones_like(good), 1))
    refused("not symmetric")
    save(path, springs(10.0, -4.0))
    refused("unstable")
    save(path, good + 5 * np.eye(9))
    refused("translate")
    save(path, springs(10.0, 1e-3))
    refused("would vibrate")
    save(path, good)
    assert np.isfinite(moved(specimen, tiltsim.FrozenPhonons(1, force_constants=str(path)))).all()
