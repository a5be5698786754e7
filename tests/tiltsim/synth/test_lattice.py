"""The crystal holds what was asked for: positions to 1e-6 pm, signs, slopes, statistics."""

from dataclasses import replace

import numpy as np
import pytest

import structures
from tiltsim.errors import SettingsError
from tiltsim.synth.crystal import around
from tiltsim.synth.lattice import grid_shape, lay_out
from tiltsim.synth.ranges import settle, stream
from tiltsim.synth.slab import BEYOND, MARGIN, reach
from tiltsim.synth.specimen_request import DomainRequest, SpecimenRequest
from tiltsim.synth.variants import VARIANTS, variant

EXTENT = (120.0, 90.0)
CENTRE = np.array(EXTENT) / 2


def crystal(seed=0, extent=EXTENT, limits=None, domains=None, **asked):
    asked.setdefault("domains", DomainRequest(variants=("[111]",)) if domains is None else domains)
    request = settle(SpecimenRequest(**asked), stream(seed, 0, "settings"))
    return lay_out(request, extent, stream(seed, 0, "crystal"), **(limits or {}))


def slope(values, cage, direction):
    """Change of ``values`` per Å along ``direction`` within the scanned area."""
    inside = ((cage > 0) & (cage < EXTENT)).all(axis=-1)
    return np.polyfit(((cage - CENTRE) @ direction)[inside], values[inside], 1)[0]


# --- displacement and lean ---


@pytest.mark.parametrize("phase", ["R3c", "Cc"])
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_have_the_d_and_lean_of_structures(phase, name):
    built = structures.build(phase, samarium=0.1, thickness=8.0, variant=name)
    made = crystal(
        phase=phase,
        samarium=0.1,
        domains=DomainRequest(variants=(name,)),
        lean="variant",
        tilt=3.0,
        azimuth=90.0,
    )
    expected = np.broadcast_to(built.truth.cell_d.mean("cell").values, made.d.shape)
    np.testing.assert_allclose(made.d, expected, atol=1e-6)
    # A domain that leans by L is seen at T − L.
    np.testing.assert_allclose(
        made.tilt + built.lean_mrad, np.broadcast_to([0, 3.0], made.tilt.shape), atol=1e-9
    )
    assert made.domain_names == (name,)


def test_polar_and_lean_scale():
    made = crystal(polar=0.5, lean="variant", lean_scale=0.4)
    np.testing.assert_allclose(made.d, -0.5 * 23.6208 * np.ones_like(made.d), atol=1e-3)
    np.testing.assert_allclose(made.tilt, 0.4 * 9.9298 * np.ones_like(made.tilt), atol=1e-3)


def test_wall_in_the_crystal_reverses_one_component():
    wall = DomainRequest("wall", ("[111]",), "109", wall_width=6.0)
    made = crystal(domains=wall, lean="variant")
    profile = np.tanh((made.cage[..., 0] - CENTRE[0]) / 6.0)
    d, lean = variant("R3c", "[111]").d[0], variant("R3c", "[111]").lean
    np.testing.assert_allclose(made.d[..., 0], d[0], atol=1e-6)
    np.testing.assert_allclose(made.d[..., 1], -d[1] * profile, atol=1e-6)
    # y and z reverse: the lean along x does, that along y does not.
    np.testing.assert_allclose(made.tilt[..., 0], lean[0] * profile, atol=1e-9)
    np.testing.assert_allclose(made.tilt[..., 1], -lean[1], atol=1e-9)
    # On a wall that fits together columns are parallel, and tilt is against them.
    np.testing.assert_array_equal(crystal(domains=wall).tilt, 0.0)
    np.testing.assert_array_equal(made.domain, (profile > 0).astype(int))


def test_no_displacement():
    made = crystal(domains=DomainRequest("none"), lean="variant")
    np.testing.assert_allclose(made.d, 0.0, atol=1e-9)
    np.testing.assert_array_equal(made.tilt, 0.0)
    assert made.domain_names == ("none",)
    titanate = crystal(phase="SrTiO3", lean="variant", samarium=0.3)
    np.testing.assert_allclose(titanate.d, 0.0, atol=1e-9)
    np.testing.assert_array_equal(titanate.tilt, 0.0)
    assert titanate.domain_names == ("SrTiO3",)
    assert (titanate.material == 1).all()
    assert (titanate.material_a == 1).all()
    assert not titanate.samarium.any()
    assert titanate.a[0, 1, 0] - titanate.a[0, 0, 0] == pytest.approx(3.905)


# --- lattice ---


def steps(made):
    return (made.a[:, 1:] - made.a[:, :-1]).mean(axis=(0, 1)), (made.a[1:] - made.a[:-1]).mean(axis=(0, 1))


def test_rotation_turns_lattice_and_d_from_x_towards_y():
    upright, turned = crystal(lean="variant"), crystal(lean="variant", rotation=10.0)
    c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
    edge = steps(upright)[0][0]
    along, down = steps(turned)
    np.testing.assert_allclose(along, [c * edge, s * edge], atol=1e-9)
    np.testing.assert_allclose(down, [-s * edge, c * edge], atol=1e-9)
    dx, dy = upright.d[0, 0]
    np.testing.assert_allclose(turned.d[0, 0], [c * dx - s * dy, s * dx + c * dy], atol=1e-6)
    tx, ty = upright.tilt[0, 0]
    np.testing.assert_allclose(turned.tilt[0, 0], [c * tx - s * ty, s * tx + c * ty], atol=1e-9)


def test_strain_draws_the_lattice():
    edge = steps(crystal())[0][0]
    along, down = steps(crystal(strain_xx=0.02, strain_yy=-0.01, strain_xy=0.005))
    np.testing.assert_allclose(along, [1.02 * edge, 0.005 * edge], atol=1e-9)
    np.testing.assert_allclose(down, [0.005 * edge, 0.99 * edge], atol=1e-9)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"phase": "Cc", "substrate": (0.0, 1.0), "rotation": (-8.0, 8.0)},
        {"rotation": (-180.0, 180.0), "strain_xx": (-0.03, 0.03), "strain_xy": (-0.03, 0.03)},
        {"phase": "SrTiO3", "samarium": (0.0, 0.2)},
        {"substrate": (0.05, 0.95), "samarium": (0.0, 1.0), "shear": True, "rotation": (0.0, 45.0)},
    ],
)
@pytest.mark.parametrize("extent", [(60.0, 60.0), (150.0, 40.0)])
def test_every_draw_covers_the_scanned_area_with_one_shape(asked, extent):
    request = SpecimenRequest(**asked)
    shape = grid_shape(request, extent)
    for seed in range(20):
        settled = settle(request, stream(seed, 0, "settings"))
        made = lay_out(settled, extent, stream(seed, 0, "crystal"), shape=shape)
        assert made.b.shape == (*shape, 2)
        rim = np.concatenate([made.a[0], made.a[-1], made.a[:, 0], made.a[:, -1]])
        # No rim column lies nearer to the scanned area than the margin.
        gap = np.maximum(np.maximum(-rim, rim - extent), 0)
        assert np.hypot(*gap.T).min() > MARGIN * 3.7


def test_a_shape_too_small_is_refused():
    with pytest.raises(ValueError, match="grid_shape"):
        crystal(limits={"shape": (10, 10)})


def test_origin_is_random_within_a_cell():
    starts = np.array([np.mod(crystal(seed).a[0, 0], 3.964) for seed in range(30)])
    assert starts.min() < 0.8
    assert starts.max() > 3.2


@pytest.mark.parametrize(
    ("first", "wall", "reverses"), [("[111]", "109", "yz"), ("[1-11]", "109", "xz"), ("[11-1]", "180", "xyz")]
)
def test_shear_gives_rows_the_angle_of_each_variant(first, wall, reverses):
    made = crystal(
        domains=DomainRequest("wall", (first,), wall, reverses=reverses, wall_width=1.0), shear=True
    )
    along, down = (made.a[:-1, 1:] - made.a[:-1, :-1]), (made.a[1:, :-1] - made.a[:-1, :-1])
    short = (along * down).sum(axis=-1) / np.hypot(*along[0, 0]) / np.hypot(*down[0, 0]) * 1e3
    for corner in ((0, 0), (-1, -1)):
        name = made.domain_names[made.domain[corner]]
        assert short[corner] == pytest.approx(variant("R3c", name).shear, abs=0.01)
    assert {made.domain[0, 0], made.domain[-1, -1]} == {0, 1}
    # No cracks: every step is close to the edge.
    assert np.abs(np.hypot(*np.moveaxis(along, -1, 0)) - 3.964).max() < 2e-3


# --- interface ---


def test_film_ends_at_the_interface():
    made = crystal(phase="Cc", substrate=0.4, interface_width=8.0, lean="variant", samarium=0.1)
    level = 0.6 * EXTENT[1]
    below = made.cage[..., 1] > level
    assert 0.3 < below.mean() < 0.5
    np.testing.assert_array_equal(made.material, below.astype(int))
    np.testing.assert_allclose(made.d[below], 0.0, atol=1e-6)
    np.testing.assert_array_equal(made.tilt[below], 0.0)
    film = variant("Cc", "[111]")
    full = 0.9 * film.d[0] + 0.1 * film.d[1]
    rise = np.tanh((level - made.cage[~below][:, 1]) / 8.0)
    np.testing.assert_allclose(made.d[~below], rise[:, None] * full, atol=1e-6)
    np.testing.assert_allclose(made.tilt[~below], -rise[:, None] * film.lean, atol=1e-6)
    assert made.domain_names[made.domain[-1, 0]] == "SrTiO3"
    # Coherent across, each with its own edge along y, and sharp.
    np.testing.assert_allclose(np.diff(made.a[..., 0], axis=1), 3.905, atol=1e-9)
    heights = np.diff(made.a[:, 0, 1])
    c = structures.build("Cc", samarium=0.1, thickness=8.0).box[1] / 2
    np.testing.assert_allclose(heights, np.where(below[:, 0], 3.905, c), atol=1e-9)
    # On TiO2 the shared row of A columns is the film's, on SrO it is the substrate's.
    shared = np.argmin(np.abs(made.a[:, 0, 1] - level))
    assert made.a[shared, 0, 1] == pytest.approx(level)
    assert (made.material_a[:, 0] == (np.arange(len(heights) + 1) > shared)).all()
    assert not made.samarium[shared + 1 :].any()
    on_sro = crystal(phase="Cc", substrate=0.4, termination="SrO")
    assert (on_sro.material_a[:, 0] == (np.arange(len(heights) + 1) >= shared)).all()


def test_interface_of_no_width_and_clamped_bulk():
    made = crystal(substrate=0.5, interface_width=0.0)
    film = made.material == 0
    np.testing.assert_allclose(made.d[film], np.broadcast_to([-23.6208], made.d[film].shape), atol=1e-3)
    np.testing.assert_allclose(np.diff(made.a[..., 0], axis=1), 3.905, atol=1e-9)
    assert (crystal(termination="SrO").material_a == 0).all()


# --- tilt, thickness, terraces ---


def test_bending_changes_the_tilt_along_its_direction():
    made = crystal(tilt=4.0, azimuth=180.0, bending=2.5, bending_direction=30.0)
    e = np.array([np.cos(np.pi / 6), 0.5])
    middle = np.argmin(np.hypot(*np.moveaxis(made.cage - CENTRE, -1, 0)))
    assert np.hypot(*(made.tilt.reshape(-1, 2)[middle] - [-4.0, 0])) < 0.1
    assert slope(made.tilt @ e, made.cage, e) * 100 == pytest.approx(2.5)
    np.testing.assert_allclose(made.tilt @ [-e[1], e[0]], 4.0 * e[1], atol=1e-9)


def test_gradients_end_beyond_the_scanned_area():
    made = crystal(extent=(60.0, 60.0), wedge=50.0, wedge_direction=0.0, rotation=(40.0))
    assert made.cage[..., 0].max() > 60.0 + BEYOND
    assert made.thickness.max() <= 200.0 + 0.5 * (30.0 + BEYOND) + 1e-9


def test_wedge():
    made = crystal(thickness=150.0, wedge=20.0, wedge_direction=90.0)
    assert slope(made.thickness, made.cage, np.array([0, 1.0])) * 100 == pytest.approx(20.0)
    np.testing.assert_allclose(
        made.thickness, 150.0 + 0.2 * np.clip(made.cage[..., 1] - 45.0, -45 - BEYOND, 45 + BEYOND)
    )
    np.testing.assert_array_equal(made.height, 0.0)


def test_terraces_are_steps_of_a_cell_on_the_entrance_side():
    made = crystal(terraces=4, thickness=150.0)
    edge = steps(made)[0][0]
    np.testing.assert_allclose(made.thickness + made.height, 150.0, atol=1e-9)
    levels = made.height / edge
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-9)
    assert 1 < len(np.unique(np.round(levels))) <= 5
    middle = np.argmin(np.hypot(*np.moveaxis(made.cage - CENTRE, -1, 0)))
    assert abs(levels.ravel()[middle]) < 1.01


# --- samarium and disorder ---


def test_samarium_is_binomial_in_each_column():
    made = crystal(samarium=0.1, thickness=200.0, extent=(300.0, 300.0))
    n = round(200.0 / steps(made)[0][0])
    counts = made.samarium * n
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
    columns = made.samarium.size
    assert columns > 5000
    error = np.sqrt(0.09 / n / columns)
    assert made.samarium.mean() == pytest.approx(0.1, abs=4 * error)
    assert made.samarium.var() == pytest.approx(0.09 / n, rel=4 * np.sqrt(2 / columns) + 0.02)
    exact = crystal(samarium=0.1, samarium_disorder=False)
    np.testing.assert_array_equal(exact.samarium, 0.1)


def test_samarium_gradient_moves_d_too():
    made = crystal(
        phase="Cc", samarium=0.2, samarium_gradient=0.1, samarium_direction=180.0, samarium_disorder=False
    )
    here = 0.2 - 0.1 * np.clip(made.cage[..., 0] - 60.0, -60 - BEYOND, 60 + BEYOND) / 100
    np.testing.assert_allclose(around(made.samarium), here, atol=2e-3)
    assert slope(around(made.samarium), made.cage, np.array([1.0, 0])) * 100 == pytest.approx(-0.1, rel=1e-6)
    # The Cc model's polar amplitude is 1 − x.
    np.testing.assert_allclose(made.d, (1 - here)[..., None] * variant("Cc", "[111]").d[0], atol=1e-6)
    # It stops at pure BiFeO3.
    steep = crystal(samarium=0.05, samarium_gradient=0.2, samarium_direction=0.0)
    left = steep.cage[..., 0] < 35.0
    assert not around(steep.samarium)[left & (steep.cage[..., 0] < 30.0)].any()
    np.testing.assert_allclose(
        steep.d[left], np.broadcast_to(variant("R3c", "[111]").d[0], steep.d[left].shape), atol=1e-6
    )


def test_disorder_of_a_and_b_apart():
    calm = crystal(extent=(300.0, 300.0))
    made = crystal(extent=(300.0, 300.0), disorder_a=6.0, disorder_b=2.0)
    a, b = (made.a - calm.a) * 100, (made.b - calm.b) * 100
    assert a.std() == pytest.approx(6.0, rel=0.03)
    assert b.std() == pytest.approx(2.0, rel=0.03)
    assert abs(a.mean()) < 0.3
    # d holds what really is: the mean of four A columns shakes half as much as one.
    assert (made.d - calm.d).std() == pytest.approx(np.hypot(3.0, 2.0), rel=0.03)


# --- determinism, limits, errors ---

BUSY = {
    "phase": "Cc", "domains": DomainRequest("random", wall_width=(2.0, 6.0)), "samarium": (0.0, 0.2), "substrate": (0.1, 0.4),
    "disorder_a": 3.0, "tilt": (0.0, 5.0), "terraces": 2, "thickness": (100.0, 200.0),
}  # fmt: skip


def test_same_seed_same_crystal():
    one, two, other = crystal(1, **BUSY), crystal(1, **BUSY), crystal(2, **BUSY)
    for name in ("a", "b", "tilt", "thickness", "height", "samarium", "material_a", "material", "domain"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.domain_names == two.domain_names
    shape = grid_shape(SpecimenRequest(**BUSY), EXTENT)
    assert (
        np.abs(
            crystal(1, limits={"shape": shape}, **BUSY).a - crystal(2, limits={"shape": shape}, **BUSY).a
        ).max()
        > 0.01
    )
    assert other.domain_names != one.domain_names or other.thickness[0, 0] != one.thickness[0, 0]


def test_one_kind_of_disorder_leaves_the_others_alone():
    one, two = crystal(3, **BUSY), crystal(3, **{**BUSY, "terraces": 5})
    np.testing.assert_array_equal(one.a, two.a)
    np.testing.assert_array_equal(one.domain, two.domain)


def test_limits_of_the_library_are_kept():
    with pytest.raises(
        SettingsError, match=r"specimen\.tilt.* 9\.93 mrad along an axis, beyond the library's 9 mrad"
    ):
        crystal(lean="variant", limits={"tilt_limit_mrad": 9.0})
    with pytest.raises(SettingsError, match=r"specimen\.thickness"):
        crystal(thickness=100.0, wedge=80.0, limits={"thickness_limits": (80.0, 400.0)})
    with pytest.raises(SettingsError, match=r"specimen\.thickness"):
        crystal(thickness=10.0, wedge=80.0)
    crystal(lean="variant", limits={"tilt_limit_mrad": 10.0, "thickness_limits": (80.0, 400.0)})


@pytest.mark.parametrize(
    "domains", [DomainRequest("random"), DomainRequest("stripes"), DomainRequest("wall")]
)
def test_no_draw_goes_beyond_its_reach(domains):
    request = SpecimenRequest(
        domains=domains, tilt=(1.0, 4.0), bending=(-3.0, 2.0), lean_scale=(0.2, 0.9), thickness=(150.0, 250.0),
        wedge=(-10.0, 30.0), terraces=2,
    )  # fmt: skip
    tilt, (thin, thick) = reach(request, EXTENT)
    seen = []
    for seed in range(30):
        made = lay_out(settle(request, stream(seed, 0, "settings")), EXTENT, stream(seed, 0, "crystal"))
        seen.append(np.abs(made.tilt).max())
        assert thin <= made.thickness.min()
        assert made.thickness.max() <= thick
    assert 0.4 * tilt < max(seen) <= tilt


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"phase": "Pnma"}, "specimen.phase"),
        ({"samarium": 1.2}, "specimen.samarium"),
        ({"thickness": (300.0, 200.0)}, "specimen.thickness"),
        ({"termination": "O"}, "specimen.termination"),
        ({"lean": "none"}, "specimen.lean"),
        ({"terraces": 1.5}, "specimen.terraces"),
        ({"strain_xy": 0.5}, "specimen.strain_xy"),
        ({"shear": True, "domains": DomainRequest("random")}, "specimen.shear"),
        ({"shear": True, "domains": DomainRequest("wall", normal=10.0)}, "specimen.shear"),
        ({"shear": True, "domains": DomainRequest("stripes"), "substrate": (0.0, 0.3)}, "specimen.substrate"),
    ],
)
def test_errors_name_their_setting(asked, named):
    with pytest.raises(SettingsError, match=named):
        SpecimenRequest(**asked)


def test_settled_request_can_be_changed_and_laid_out_again():
    request = settle(SpecimenRequest(**BUSY), stream(0, 0, "settings"))
    made = lay_out(replace(request, substrate=0.0), EXTENT, stream(0, 0, "crystal"))
    assert (made.material == 0).all()
