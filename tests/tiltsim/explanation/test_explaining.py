"""What is read from painted films, against their truth: tilt, d, lens, leans, and what is refused."""

import numpy as np
import pytest

import tiltsim
from tests.tiltsim.explanation.conftest import LEAN, LENS, THICKNESS, film, truth_of
from tiltsim.explanation.verdict import THIN
from tiltsim.lens import COMPONENTS


def pulls(found, field):
    """(error − 0) / standard error of tilt and d of all variants."""
    result = []
    for n, region in enumerate(found.regions):
        if region.name == "reference":
            continue
        tilt, d = truth_of(field, found, region)
        block = slice(2 * n, 2 * n + 2)
        result.append((found.inversion.tilt[n] - tilt) / np.sqrt(np.diag(found.inversion.tilt_cov)[block]))
        result.append((found.inversion.d[n] - d) / np.sqrt(np.diag(found.inversion.bias_cov)[block]))
    return np.array(result)


def test_a_thin_film_is_told_to_hide_a_wrong_microscope(two_variants):
    _, found = two_variants
    assert found.inversion.number("thickness")[0] < THIN
    assert sum("make sure of them" in remark for remark in found.verdict.remarks) == 1


def test_tilt_and_d_of_two_variants_are_read_within_their_errors(two_variants):
    field, found = two_variants
    assert found.verdict.identified, found.verdict
    assert len(found.regions) == 2
    for n, region in enumerate(found.regions):
        tilt, d = truth_of(field, found, region)
        np.testing.assert_allclose(found.inversion.tilt[n], tilt, atol=0.6)
        np.testing.assert_allclose(found.inversion.d[n], d, atol=1.2)
        # Not what the fit of columns says.
        assert np.abs(region.apparent - d).max() > 2.0
    assert np.abs(pulls(found, field)).max() < 4.0


def test_thickness_and_lens_are_read(two_variants):
    _, found = two_variants
    thickness, error = found.inversion.number("thickness")
    assert abs(thickness - THICKNESS) < max(4 * error, 3.0)
    for name, true, tolerance in zip(COMPONENTS, LENS, (3.0, 2.0, 2.0, 150.0, 150.0), strict=True):
        assert found.inversion.number(name)[0] == pytest.approx(true, abs=tolerance)


def test_corrected_map_has_the_true_mean_in_every_domain(two_variants):
    field, found = two_variants
    for region in found.regions:
        _, d = truth_of(field, found, region)
        corrected = found.cells["d_corrected"].values[region.rows]
        np.testing.assert_allclose(np.nanmedian(corrected, axis=0), d, atol=1.5)


def test_leans_are_parted_from_the_grain(two_variants):
    field, found = two_variants
    grain = found.regions[0].turn() @ found.leans.grain
    # Opposite leans: the grain lies between the two.
    tilts = np.array([truth_of(field, found, r)[0] for r in found.regions])
    np.testing.assert_allclose(grain, tilts.mean(axis=0), atol=0.5)
    assert found.leans.share == pytest.approx(LEAN, abs=0.06)


def test_a_mirrored_image_has_mirrored_tilt_and_d(two_variants, lens_library):
    field, found = two_variants
    mirrored = field.image.copy(data=field.image.values[:, ::-1].copy())
    other = tiltsim.explain(mirrored, lens_library)
    assert len(other.regions) == 2
    for n, region in enumerate(found.regions):
        d = found.inversion.d[n] * (-1, 1)
        match = int(np.argmin(np.abs(other.inversion.d - d).sum(axis=1)))
        np.testing.assert_allclose(other.inversion.tilt[match], found.inversion.tilt[n] * (-1, 1), atol=0.15)
        np.testing.assert_allclose(other.inversion.d[match], d, atol=0.4)
        assert other.regions[match].cells == pytest.approx(region.cells, abs=30)


def test_everything_is_in_the_dataset(two_variants, tmp_path):
    import analysis
    from tiltsim.output import read_dataset

    _, found = two_variants
    analysis.write_dataset(found.summary, tmp_path / "e.nc")
    back = read_dataset(tmp_path / "e.nc")
    np.testing.assert_allclose(back.tilt, found.inversion.tilt)
    assert back.attrs["identified"] == 1
    assert back.tilt.attrs["units"] == "mrad"
    assert back.bias_cov.dims == ("region", "component", "region_2", "component_2")


def test_one_variant_with_few_electrons_is_not_corrected(lens_library):
    field = film(lens_library, pattern="single", size=180, dose=1e3)
    found = tiltsim.explain(field.image, lens_library)
    assert not found.verdict.identified
    assert found.verdict.objections
    assert any("opposite domain" in a for a in found.verdict.advice)
    assert "d_corrected" not in found.cells


def test_one_variant_with_hundreds_of_clean_cells_is_identified(lens_library):
    field = film(lens_library, pattern="single", size=480, dose=1e5)
    found = tiltsim.explain(field.image, lens_library)
    assert found.verdict.identified, found.verdict
    tilt, d = truth_of(field, found, found.regions[0])
    np.testing.assert_allclose(found.inversion.tilt[0], tilt, atol=0.6)
    np.testing.assert_allclose(found.inversion.d[0], d, atol=1.0)
    # One tilt alone cannot be parted.
    assert found.leans is None


def test_a_library_without_a_lens_is_refused(library, two_variants):
    with pytest.raises(tiltsim.SettingsError, match="library build --lens"):
        tiltsim.explain(two_variants[0].image, library)
