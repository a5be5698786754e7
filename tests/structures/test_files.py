"""A user's own crystal goes through everything, and ours comes back as it went."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.spacegroup import crystal

import structures
from structures import SpecimenError


def test_extended_xyz_is_lossless(tmp_path):
    one = structures.build("Cc", samarium=0.1, thickness=24, seed=3)
    two = structures.read(structures.write(one, tmp_path / "film.xyz"))
    np.testing.assert_allclose(two.atoms.positions, one.atoms.positions, atol=1e-6)
    assert list(two.sites) == list(one.sites)
    assert two.atoms.get_chemical_formula() == one.atoms.get_chemical_formula()
    assert dict(two.specification) == dict(one.specification)
    assert two.lean_mrad == pytest.approx(one.lean_mrad)
    np.testing.assert_allclose(two.truth.cell_d, one.truth.cell_d, atol=1e-3)


def barium_titanate(path):
    """Tetragonal BaTiO3 with Ti 10 pm above centre along c."""
    unit = crystal(
        ["Ba", "Ti", "O", "O"],
        [(0, 0, 0), (0.5, 0.5, 0.525), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5)],
        spacegroup=99,
        cellpar=[4.0, 4.0, 4.0, 90, 90, 90],
    )
    ase.io.write(path, unit, format="cif")
    return path


def test_own_cif_becomes_a_specimen(tmp_path):
    path = barium_titanate(tmp_path / "BaTiO3.cif")
    specimen = structures.read(path, a_site=["Ba"], b_site=["Ti"], lateral=(1, 1), thickness=16)
    # Ti is displaced up, so d = A − B points down: +y
    np.testing.assert_allclose(specimen.truth.cell_d, [[0, 10.0]], atol=0.01)
    assert any("assumed" in a for a in specimen.specification["assumptions"])


@pytest.mark.parametrize("text", ["", "not a cif at all", "data_x\n_cell_length_a 4\n"])
def test_damaged_cif_is_one_sentence(tmp_path, text):
    path = tmp_path / "broken.cif"
    path.write_text(text)
    with pytest.raises(SpecimenError, match=r"broken\.cif"):
        structures.read(path, a_site=["Ba"], b_site=["Ti"])


def test_missing_file_sites_and_skew_cells_are_refused(tmp_path):
    with pytest.raises(SpecimenError, match="no such"):
        structures.read(tmp_path / "nowhere.cif")
    path = barium_titanate(tmp_path / "BaTiO3.cif")
    with pytest.raises(SpecimenError, match="a_site"):
        structures.read(path, a_site=["Pb"], b_site=["Ti"])
    with pytest.raises(SpecimenError, match="b_site"):
        structures.read(path, a_site=["Ba"])
    skew = Atoms(
        "BaTiO3",
        scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)],
        cell=[4, 4, 4, 90, 80, 90],
        pbc=True,
    )
    ase.io.write(tmp_path / "skew.cif", skew)
    with pytest.raises(SpecimenError, match="orthogonal"):
        structures.read(tmp_path / "skew.cif", a_site=["Ba"], b_site=["Ti"])


def test_misspelt_and_doubled_sites_are_refused(tmp_path):
    path = barium_titanate(tmp_path / "BaTiO3.cif")
    with pytest.raises(SpecimenError, match="Smm not found"):
        structures.read(path, a_site=["Ba", "Smm"], b_site=["Ti"])
    with pytest.raises(SpecimenError, match="once"):
        structures.read(path, a_site=["Ba"], b_site=["Ba"])


def test_damaged_settings_are_one_sentence(tmp_path):
    path = structures.write(structures.build("SrTiO3", thickness=8), tmp_path / "film.xyz")
    path.write_text(path.read_text().replace("layer", "lawyer"))
    with pytest.raises(SpecimenError, match="damaged"):
        structures.read(path)


def test_unknown_format_is_refused_before_writing(tmp_path):
    with pytest.raises(SpecimenError, match=r"\.xyz or \.cif"):
        structures.write(structures.build("SrTiO3", thickness=8), tmp_path / "film.pdb")
    assert list(tmp_path.iterdir()) == []
