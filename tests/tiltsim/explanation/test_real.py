"""A real micrograph: not the library's crystal, not its microscope, and filtered. It must be measured, and not corrected."""

import analysis
import tiltsim


def test_a_film_of_another_crystal_is_not_corrected(real_data, lens_library):
    image = analysis.load(real_data / "BTO_crystal_1.dm4")
    found = tiltsim.explain(image, lens_library, lattice_parameter=4.0)
    assert found.cells.sizes["cell"] > 1000
    assert not found.verdict.identified
    assert found.verdict.objections
    assert "d_corrected" not in found.cells
