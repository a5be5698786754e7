"""The parts of an explanation, each by itself: leans, references, what-if, verdicts, strained cells, the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile

import analysis
import tiltsim
from tests.tiltsim.explanation.conftest import LENS, film, truth_of
from tiltsim.explanation.estimators import from_reference
from tiltsim.explanation.leans import full_lean, part_leans
from tiltsim.explanation.reference import find_reference, in_box
from tiltsim.explanation.what_if import WhatIf, parse_what_if, what_if
from tiltsim.lens import COMPONENTS
from tiltsim.library.periods import library_periods
from tiltsim.library.scoring import _through_nodes

SMALL = np.eye(4) * 0.01


def test_leans_of_opposite_variants_are_told_from_the_grain():
    lean = full_lean()
    assert lean == pytest.approx(9.93, abs=0.05)
    grain, share = np.array([3.0, -1.0]), 0.4
    d = [np.array([20.0, 20.0]), np.array([20.0, -20.0])]
    tilts = np.array([grain - share * lean * np.array([1, 1]), grain + share * lean * np.array([1, -1])])
    found = part_leans(tilts, SMALL, d)
    assert found.share == pytest.approx(share, abs=1e-6)
    np.testing.assert_allclose(found.grain, grain, atol=1e-6)
    assert found.along == (1, -1)
    assert found.decided


def test_leans_that_may_be_read_two_ways_are_not_decided():
    # One variant and its opposite, both with d along the beam reversed too, lean alike: any share will do.
    found = part_leans(
        np.array([[4.0, 4.0], [4.0, 4.0]]), SMALL, [np.array([20.0, 20.0]), np.array([-20.0, -20.0])]
    )
    assert not found.decided


def test_domains_that_all_lean_alike_leave_grain_and_share_open():
    # Opposite d and opposite d along the beam: the same columns.
    found = part_leans(
        np.array([[4.0, -4.0], [4.0, -4.0]]), SMALL, [np.array([20.0, 20.0]), np.array([-20.0, -20.0])]
    )
    assert not found.decided
    assert found.grain_std.min() > 1.0
    assert found.along == (0, 0)


def test_no_lean_says_nothing_about_the_sign_along_the_beam():
    found = part_leans(
        np.array([[3.0, -1.0], [3.02, -0.97]]), SMALL, [np.array([20.0, 20.0]), np.array([20.0, -20.0])]
    )
    assert found.along == (0, 0)
    np.testing.assert_allclose(found.grain, (3.0, -1.0), atol=0.1)


def test_one_tilt_is_not_parted():
    assert part_leans(np.zeros((1, 2)), np.eye(2), [np.ones(2)]) is None


def test_a_reference_makes_the_grain_known():
    lean = full_lean()
    found = part_leans(
        np.array([[1.0 - 0.5 * lean, 2.0 - 0.5 * lean], [1.0, 2.0]]), SMALL, [np.array([9.0, 9.0]), None]
    )
    np.testing.assert_allclose(found.grain, (1.0, 2.0), atol=1e-6)
    assert found.along == (1, 0)
    assert found.decided


@pytest.mark.parametrize("side", [3, 5])
def test_weights_through_nodes_reproduce_polynomials_and_their_slopes(side):
    weights = np.empty(side)
    nodes = np.arange(side) - side // 2
    coefficients = np.random.default_rng(0).normal(size=side)
    for s in (-0.7, 0.0, 0.31, 1.4):
        _through_nodes(s, False, weights)
        assert weights @ np.polyval(coefficients, nodes) == pytest.approx(
            np.polyval(coefficients, s), abs=1e-10
        )
        _through_nodes(s, True, weights)
        slope = np.polyval(np.polyder(coefficients), s)
        assert weights @ np.polyval(coefficients, nodes) == pytest.approx(slope, abs=1e-10)


def test_what_if_is_read():
    assert parse_what_if("tilt 4,-2") == WhatIf(tilt=(4.0, -2.0))
    assert parse_what_if("tilt 0,0 coma 1e2,-.5; thickness 150") == WhatIf(
        (0.0, 0.0), 150.0, None, (100.0, -0.5)
    )
    assert str(parse_what_if("thickness 150 tilt 1,2")) == "tilt 1,2 thickness 150"


@pytest.mark.parametrize(
    "text", ["", "tilt 4", "tilt", "height 3", "tilt 4,-2,1", "thickness 1,2", "tilt a,b", "tilt nan,1"]
)
def test_what_if_that_makes_no_sense_is_refused(text):
    with pytest.raises(tiltsim.SettingsError, match="--what-if"):
        parse_what_if(text)


def test_what_if_of_the_same_tilt_is_the_same_map_and_of_another_moves_it(two_variants):
    _, found = two_variants
    grain = found.regions[0].turn() @ found.leans.grain
    good = (found.cells.flag.values == 0) & np.isfinite(found.cells.d_corrected.values).all(axis=1)
    same = what_if(found, WhatIf(tilt=(float(grain[0]), float(grain[1]))))
    moved = same.d_what_if.values[good].mean(axis=0) - found.cells.d.values[good].mean(axis=0)
    np.testing.assert_allclose(moved, 0.0, atol=0.6)
    other = what_if(found, WhatIf(tilt=(float(grain[0]) + 4.0, float(grain[1]))))
    assert (
        np.abs(other.d_what_if.values[good].mean(axis=0) - same.d_what_if.values[good].mean(axis=0)).max()
        > 1.0
    )
    with pytest.raises(tiltsim.SettingsError, match="beyond the library's 12 mrad"):
        what_if(found, WhatIf(tilt=(40.0, 0.0)))
    with pytest.raises(tiltsim.SettingsError, match="thickness 900"):
        what_if(found, WhatIf(thickness=900.0))


def test_causes_add_up_to_the_map_and_tilt_is_the_tilts(two_variants):
    from tiltsim.explanation.attribution import attribute, polar_axis, statistics

    _, found = two_variants
    parts = attribute(found)
    apparent = np.stack([r.apparent for r in found.regions])
    np.testing.assert_allclose(parts.bias.sum("cause").values, apparent, atol=1e-6)
    # The model's columns are fitted as the image's were.
    assert np.abs(parts.bias.sel(cause="not explained")).max() < 0.6
    # Opposite leans of opposite variants move d opposite ways; the grain's tilt moves both alike.
    lean, grain = (parts.bias.sel(cause=c).values for c in ("lean of the variants", "tilt of the grain"))
    assert np.abs(lean.sum(axis=0)).max() < 0.5 * np.abs(lean).max()
    assert np.abs(grain[0] - grain[1]).max() < np.abs(grain).max()
    d = np.array([[10.0, 10.0], [9.0, 11.0], [-10.0, -9.0]])
    axis = polar_axis(d)
    assert abs(axis @ (1, 1)) == pytest.approx(np.sqrt(2), abs=0.01)
    found_statistics = dict(
        zip(parts.statistic.values, statistics(d, np.array([0, 0, 1]), axis), strict=True)
    )
    assert abs(found_statistics["population"]) == pytest.approx(100 / 3)
    assert found_statistics["mean_x"] == pytest.approx(3.0)


def test_jitter_of_scan_lines_is_a_cause_and_none_is_not(two_variants, lens_library):
    from tiltsim.explanation.attribution import scan_shifts

    assert np.abs(scan_shifts(two_variants[1].measurement)[0]).max() == 0.0
    field = film(lens_library, size=300, dose=1e5)
    # Every line moved by up to some 10 pm along x.
    rng = np.random.default_rng(0)
    values, x = field.image.values, field.image.x.values
    moved = np.stack([np.interp(x + 0.12 * rng.standard_normal(), x, line) for line in values])
    measured = analysis.measure(field.image.copy(data=moved))
    shifts, covariance = scan_shifts(measured)
    assert 0.5 < shifts[:, 0].std() < 10.0
    assert shifts[:, 0].std() > 3 * shifts[:, 1].std()
    assert np.isfinite(covariance).all()


def test_strained_cells_keep_their_columns(lens_library):
    state = {"tilt": (2.0, -1.0), "thickness": 60.0, "d": (12.0, -8.0), "aberrations": np.array(LENS)}
    plain, _ = library_periods(lens_library, **state, samples=64)
    edge = lens_library.edges["BiFeO3"]
    wide, _ = library_periods(lens_library, **state, samples=64, edges=(1.1 * edge, edge))
    # Around A: the same at the same distance in Å.
    x = np.arange(-10, 11)
    np.testing.assert_allclose(
        np.interp(1.1 * x, np.arange(-32, 32), np.roll(plain, 32, 1)[0]),
        np.roll(wide, 32, 1)[0][x + 32], rtol=0.02,
    )  # fmt: skip


def test_slopes_by_aberrations_are_derivatives(lens_library):
    state = {"tilt": (2.0, -1.0), "thickness": 60.0, "d": (12.0, -8.0)}
    lens = np.array(LENS)
    _, slopes = library_periods(lens_library, **state, aberrations=lens)
    for n, name in enumerate(COMPONENTS):
        step = np.zeros(5)
        step[n] = 0.5 if n < 3 else 10.0
        up, down = (library_periods(lens_library, **state, aberrations=lens + s * step)[0] for s in (1, -1))
        np.testing.assert_allclose(
            slopes[name], (up - down) / (2 * step[n]), atol=2e-3 * np.abs(slopes[name]).max()
        )


def test_the_substrate_is_found_and_a_film_without_one_has_none(lens_library, two_variants):
    field = film(lens_library, substrate=0.35)
    measured = analysis.measure(field.image)
    found = find_reference(measured.unit_cells)
    y = measured.unit_cells.y.values
    assert found.sum() > 50
    assert y[found].min() > np.median(y)
    assert not find_reference(two_variants[1].measurement.unit_cells).any()
    box = (0.0, float(y[found].min()), 1e3, 1e3)
    assert in_box(measured.unit_cells, box).sum() >= found.sum()
    with pytest.raises(tiltsim.SettingsError, match="holds no cell"):
        in_box(measured.unit_cells, (1e4, 1e4, 2e4, 2e4))


def test_the_substrate_tells_the_film_its_tilt(lens_library):
    field = film(lens_library, size=480, substrate=0.35)
    found = tiltsim.explain(field.image, lens_library)
    assert [r.name for r in found.regions].count("reference") == 1
    reference = found.regions[-1]
    tilt, _ = truth_of(field, found, reference)
    by_name = {e.name: e for e in found.estimates}
    null = by_name["null reference"]
    assert null.speaks
    error = np.sqrt(np.diag(null.tilt_cov[0]))
    assert error.max() < 1.5
    np.testing.assert_array_less(np.abs(null.tilt[0] - tilt), 3.0 * error + 0.3)


def test_the_reference_foretells_the_bias_of_a_film_that_does_not_lean(lens_library):
    field = film(lens_library, size=480, substrate=0.35, lean_scale=0.0)
    found = tiltsim.explain(field.image, lens_library)
    null = {e.name: e for e in found.estimates}["null reference"]
    for number, region in enumerate(found.regions[:-1]):
        _, d = truth_of(field, found, region)
        error = np.sqrt(np.diag(null.bias_cov[number]))
        assert error.max() < 1.0
        np.testing.assert_array_less(np.abs(region.apparent - null.bias[number] - d), 3.0 * error + 0.3)


def test_the_reference_is_the_fit_with_tilts_held_together(lens_library):
    # A film that leans, so that holding its tilt to the reference's moves d.
    field = film(lens_library, size=480, substrate=0.35)
    inversion = tiltsim.explain(field.image, lens_library).inversion
    null = from_reference(inversion)
    layout, solution, posterior = inversion.model.layout, inversion.solution, inversion.posterior
    count = len(inversion.regions) - 1
    for number in range(count):
        apart = np.zeros((2, len(solution.theta)))
        apart[:, [layout.place(n, number) for n in ("tilt_x", "tilt_y")]] = np.eye(2)
        turn = inversion.regions[number].turn().T @ inversion.regions[count].turn()
        apart[:, [layout.place(n, count) for n in ("tilt_x", "tilt_y")]] = -turn
        # The same as data that say so with certainty: one step of the fit from its best.
        _, _, information, score = posterior.value(solution.theta[None])
        heavy = 1e6 * apart.T @ apart
        theta = solution.theta + np.linalg.solve(information[0] + heavy, score[0] - heavy @ solution.theta)
        d = inversion.regions[number].stretch() @ [theta[layout.place(n, number)] for n in ("d_x", "d_y")]
        told = inversion.regions[number].apparent - null.bias[number]
        np.testing.assert_allclose(told, d, atol=0.05)
        assert np.hypot(*(told - inversion.d[number])) > 0.2


def test_command_writes_a_page_and_its_numbers(lens_library, tmp_path, tiltsim_command):
    library = analysis.write_dataset(lens_library.dataset, tmp_path / "library.nc")
    tifffile.imwrite(tmp_path / "film.tif", film(lens_library, size=260).image.values.astype(np.float32))
    code, printed = tiltsim_command(
        "explain", tmp_path / "film.tif", "--library", library, "--pixel-size", 0.2, "--out", tmp_path / "out",
        "--what-if", "tilt 0,0",
    )  # fmt: skip
    assert code == 0, printed
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["identified"]
    page = (tmp_path / "out" / "explain.html").read_text()
    assert "Is it the crystal or the tilt" in page
    assert page.count("data:image/png;base64,") == 4
    for name in ("explanation.nc", "attribution.nc", "unit_cells.csv", "answer.svg", "what_if.png"):
        assert (tmp_path / "out" / name).is_file(), name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--library", "missing.nc"), "no such file"),
        (("--reference", "1,2,3"), "--reference"),
        (("--what-if", "tilt 4"), "--what-if"),
        (("--radius", "-1"), "--radius"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, said, tmp_path, tiltsim_command):
    given = arguments if "--library" in arguments else (*arguments, "--library", tmp_path / "l.nc")
    code, printed = tiltsim_command("explain", tmp_path / "film.tif", *given, "--out", tmp_path / "out")
    assert code == 2
    assert said in printed
    assert not (tmp_path / "out").exists()


def test_a_microscope_file_must_agree_with_the_library(lens_library, tmp_path, tiltsim_command):
    library = analysis.write_dataset(lens_library.dataset, tmp_path / "library.nc")
    file = tmp_path / "mine.toml"
    file.write_text(
        "[microscope]\nenergy_keV = 200\nsemiangle_cutoff = 30\n[detector]\ninner = 45\nouter = 75\n"
    )
    tifffile.imwrite(tmp_path / "film.tif", film(lens_library, size=100).image.values.astype(np.float32))
    code, printed = tiltsim_command(
        "explain",
        tmp_path / "film.tif",
        "--library",
        library,
        "--microscope",
        file,
        "--out",
        tmp_path / "out",
    )
    assert code == 2
    assert "is 30 mrad, but the library was built for 22 mrad" in printed
    code, printed = tiltsim_command("explain", tmp_path / "film.tif", "--out", tmp_path / "out")
    assert code == 2
    assert "--microscope" in printed


def test_a_library_of_another_kind_is_refused(library_file, tmp_path, tiltsim_command):
    tifffile.imwrite(tmp_path / "film.tif", np.random.default_rng(0).random((80, 80)).astype(np.float32))
    code, printed = tiltsim_command(
        "explain",
        tmp_path / "film.tif",
        "--pixel-size",
        0.2,
        "--library",
        library_file,
        "--out",
        tmp_path / "out",
    )
    assert code == 2
    assert "--lens" in printed


def test_noise_without_a_lattice_is_refused(lens_library):
    found = film(lens_library, size=200)
    noise = found.image.copy(
        data=np.random.default_rng(0).poisson(20.0, found.image.shape).astype(np.float32)
    )
    with pytest.raises(analysis.ImageError):
        tiltsim.explain(noise, lens_library)


def test_verdict_needs_no_single_threshold_to_be_told_why(two_variants):
    from tiltsim.explanation.verdict import judge

    _, found = two_variants
    assert judge(found.inversion, found.estimates, found.profiles, found.leans).identified
    misfit = replace(found.inversion.misfit, chi2=5.0 * found.inversion.misfit.freedom, chance=0.0)
    verdict = judge(replace(found.inversion, misfit=misfit), found.estimates)
    assert not verdict.identified
    assert any("χ² 5.00" in o for o in verdict.objections)
    assert any("library build --lens" in a for a in verdict.advice)
    wide = replace(found.profiles[0], interval=(50.0, np.inf))
    verdict = judge(found.inversion, found.estimates, [wide])
    assert any("thickness is not told" in o for o in verdict.objections)


def test_a_contradicting_reference_is_grave_unless_leans_explain_it(two_variants):
    from tiltsim.explanation.verdict import judge

    _, found = two_variants
    own = found.estimates[0]
    other = replace(own, name="null reference", assumes="it is so", bias=own.bias + 20.0)
    alone = judge(found.inversion, [own, other])
    assert any("null reference contradicts" in o for o in alone.objections)
    told = judge(found.inversion, [own, other], leans=replace(found.leans, chi2=0.5, freedom=1))
    assert told.identified
    assert any("null reference contradicts" in r for r in told.remarks)


def test_bending_is_read_where_it_is_and_not_where_it_is_not(two_variants, lens_library):
    from scipy.spatial import cKDTree

    assert not two_variants[1].bending.found
    field = film(lens_library, size=560, dose=1e5, bending=4.0, bending_direction=30.0)
    found = tiltsim.explain(field.image, lens_library)
    assert found.bending.found
    direction = np.array([np.cos(np.radians(31.0)), np.sin(np.radians(31.0))])  # the lattice is turned by 1°
    np.testing.assert_allclose(100.0 * found.bending.gradient, 4.0 * np.outer(direction, direction), atol=1.0)
    # The corrected map of each variant is flat, the apparent one is not; walls, where leans mix, aside.
    cells = found.cells.isel(cell=found.regions[0].rows)
    b = field.truth["b_image"].values.reshape(-1, 2)
    nearest = cKDTree(b).query(np.column_stack([cells.x, cells.y]))[1]
    d = field.truth["d"].values.reshape(-1, 2)[nearest]
    along = (np.column_stack([cells.x, cells.y]) - found.bending.middles[0]) @ direction
    plain = np.hypot(*(d - np.median(d, axis=0)).T) < 0.5
    good = plain & (cells.flag.values == 0) & np.isfinite(cells.d.values).all(axis=1)

    def slope(values):
        """Along the bend, pm per 100 Å, and its standard error."""
        found = [np.polyfit(along[good], (values - d)[good, n], 1, cov=True) for n in (0, 1)]
        return 100.0 * np.array([f[0][0] for f in found]), 100.0 * np.sqrt([f[1][0, 0] for f in found])

    (before, error), (after, _) = slope(cells.d.values), slope(cells.d_corrected.values)
    assert np.abs(before / error).max() > 5.0
    assert np.abs(after / error).max() < 3.0
