"""Variants lie where they were asked for; walls have their width, normal and components."""

import numpy as np
import pytest

import structures
from tiltsim.errors import SettingsError
from tiltsim.synth.domains import across, lay_pattern, spread, wall_normal
from tiltsim.synth.specimen_request import WALLS, DomainRequest, SpecimenRequest
from tiltsim.synth.variants import VARIANTS, edges, named, signs, variant

EXTENT = (200.0, 160.0)


def places(step=0.5):
    x, y = (np.arange(-e / 2, e / 2, step) for e in EXTENT)
    return np.stack(np.meshgrid(x, y), axis=-1)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("phase", ["R3c", "Cc"])
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_those_of_structures(phase, name):
    built = structures.build(phase, samarium=0.25, thickness=8.0, variant=name)
    found = variant(phase, name)
    d = found.d[0] + 0.25 * (found.d[1] - found.d[0])
    np.testing.assert_allclose(d, built.truth.cell_d.mean("cell"), atol=1e-9)
    np.testing.assert_allclose(found.lean, built.lean_mrad, atol=1e-9)
    assert found.shear == pytest.approx(built.shear_mrad, abs=1e-9)
    x, y, z = signs(name)
    assert np.sign(d).tolist() == [x, y]
    assert named((x, y, z)) == name
    # The rhombohedral angle falls short of 90° between axes along which d has one sign.
    assert np.sign(found.shear) == x * y
    assert np.sign(found.lean[1]) == y * z


def test_edges_are_those_of_structures():
    film = structures.build("Cc", samarium=0.2, thickness=8.0).atoms.cell.lengths() / 2
    np.testing.assert_allclose(edges("Cc", 0.2, False), film, atol=1e-9)
    bulk = structures.build("R3c", samarium=0.2, thickness=8.0).atoms.cell.lengths() / 2
    # Vegard's edge is that of a cube of the same volume: 0.0002 Å less.
    np.testing.assert_allclose(edges("R3c", 0.2, False), bulk, atol=5e-4)
    assert edges("R3c", 0.2, True)[0] == edges("SrTiO3", 0.0, False)[0] == 3.905


@pytest.mark.parametrize(("wall", "reverses"), [(w, r) for w, rs in WALLS.items() for r in rs])
@pytest.mark.parametrize("first", VARIANTS)
def test_walls_have_their_angle_and_fit_together(wall, reverses, first):
    second = across(first, reverses)
    one, two = np.array(signs(first)), np.array(signs(second))
    assert np.degrees(np.arccos(one @ two / 3)) == pytest.approx(
        {"180": 180, "109": 109.47, "71": 70.53}[wall], abs=0.01
    )
    assert {axis for axis, a, b in zip("xyz", one, two, strict=True) if a != b} == set(reverses)

    request = DomainRequest("wall", wall=wall, reverses=reverses)
    normal = wall_normal(first, request)
    # Spontaneous shears agree on the plane: their difference has no component between directions within it.
    strain = np.outer(one, one) - np.outer(two, two)
    within = np.array([[-normal[1], normal[0], 0], [0, 0, 1]])
    np.testing.assert_allclose(within @ strain @ within.T, 0, atol=1e-9)
    charge = (one - two)[:2] @ normal
    neutral = {"xyz", "yz", "xz", "z"}
    assert (abs(charge) < 1e-9) == (reverses in neutral)


def test_wall_follows_tanh_across_its_normal():
    request = DomainRequest(
        "wall", ("[111]",), "109", normal=30.0, orientation="given", wall_width=6.0, position=0.4
    )
    place = places()
    pattern = lay_pattern(request, place, EXTENT, rng())
    assert pattern.names == ("[111]", "[-11-1]")
    normal = np.array([np.cos(np.pi / 6), 0.5])
    distance = place @ normal + 0.1 * (200 * normal[0] + 160 * 0.5)
    np.testing.assert_allclose(
        pattern.shares[..., 1] - pattern.shares[..., 0], np.tanh(distance / 6.0), atol=1e-9
    )


def test_normal_turns_from_the_compatible_one():
    assert wall_normal("[111]", DomainRequest("wall", wall="109")) @ [1, 0] == pytest.approx(1)
    turned = wall_normal("[111]", DomainRequest("wall", wall="109", normal=90.0))
    np.testing.assert_allclose(turned, [0, 1], atol=1e-12)  # +90° from x is down
    d = np.array(signs("[1-11]")[:2])
    assert wall_normal("[1-11]", DomainRequest("wall", wall="180")) @ d == pytest.approx(0)


def test_stripes_have_their_period_and_equal_shares():
    request = DomainRequest("stripes", ("[111]",), "109", period=50.0, wall_width=2.0)
    pattern = lay_pattern(request, places(0.25), EXTENT, rng(3))
    share = pattern.shares[0, :, 1]
    np.testing.assert_allclose(share[:-200], share[200:], atol=1e-9)
    np.testing.assert_allclose(share[:-100], 1 - share[100:], atol=1e-9)
    assert share.mean() == pytest.approx(0.5, abs=0.01)
    crossing = np.flatnonzero(np.diff(np.sign(share - 0.5)))
    slope = np.abs(np.diff(share))[crossing].max() / 0.25
    assert slope == pytest.approx(0.5 / 2.0, rel=0.01)
    other = lay_pattern(request, places(0.25), EXTENT, rng(4)).shares[0, :, 1]
    assert np.abs(share - other).max() > 0.5


def test_random_domains():
    request = DomainRequest("random", count=16)
    place = places(2.0)
    pattern = lay_pattern(request, place, EXTENT, rng(1))
    assert set(pattern.names) == set(VARIANTS)
    np.testing.assert_allclose(pattern.shares.sum(axis=-1), 1, atol=1e-12)
    same = lay_pattern(request, place, EXTENT, rng(1))
    np.testing.assert_array_equal(pattern.shares, same.shares)
    few = lay_pattern(DomainRequest("random", VARIANTS[:3], count=7), place, EXTENT, rng(1))
    assert set(few.names) == set(VARIANTS[:3])


def test_two_random_domains_meet_halfway_in_a_tanh():
    request = DomainRequest("random", ("[111]", "[1-11]"), count=2, wall_width=5.0)
    place = places()
    pattern = lay_pattern(request, place, EXTENT, rng(2))
    seeds = spread(rng(2), 2, np.array(EXTENT)) - np.array(EXTENT) / 2
    normal = (seeds[1] - seeds[0]) / np.linalg.norm(seeds[1] - seeds[0])
    expected = np.tanh((place - seeds.mean(axis=0)) @ normal / 5.0)
    np.testing.assert_allclose(pattern.shares[..., 1] - pattern.shares[..., 0], expected, atol=1e-9)


def test_neighbours_of_one_variant_have_no_wall():
    pattern = lay_pattern(DomainRequest("random", ("[111]",), count=5), places(2.0), EXTENT, rng())
    np.testing.assert_array_equal(pattern.shares, 1.0)


def test_single_is_drawn_from_the_variants():
    request = DomainRequest("single", ("[11-1]", "[-111]"))
    drawn = {lay_pattern(request, places(20.0), EXTENT, rng(s)).names for s in range(20)}
    assert drawn == {("[11-1]",), ("[-111]",)}


@pytest.mark.parametrize(
    ("change", "named_setting"),
    [
        ({"pattern": "spots"}, "domains.pattern"),
        ({"wall": "90"}, "domains.wall"),
        ({"wall": "71", "reverses": "xy"}, "domains.reverses"),
        ({"variants": ("[110]",)}, "domains.variants"),
        ({"variants": "[111]"}, "domains.variants"),
        ({"variants": ()}, "domains.variants"),
        ({"wall_width": (3.0, 1.0)}, "domains.wall_width"),
        ({"pattern": "stripes", "period": 20.0, "wall_width": 6.0}, "domains.wall_width"),
        ({"count": 0}, "domains.count"),
        ({"orientation": "free"}, "domains.orientation"),
        ({"position": 1.2}, "domains.position"),
    ],
)
def test_errors_name_their_setting(change, named_setting):
    with pytest.raises(SettingsError, match=named_setting):
        DomainRequest(**change)


def test_an_unsettled_request_is_refused():
    with pytest.raises(TypeError, match="settle"):
        lay_pattern(DomainRequest("wall", wall_width=(1.0, 2.0)), places(20.0), EXTENT, rng())


@pytest.mark.parametrize(
    ("domains", "own"),
    [
        (DomainRequest("single"), False),
        (DomainRequest("wall"), False),
        (DomainRequest("wall", normal=(0.0, 20.0)), True),
        (DomainRequest("stripes"), True),
        (DomainRequest("random"), True),
    ],
)
def test_where_variants_have_their_own_lean(domains, own):
    assert SpecimenRequest(domains=domains).own_leans is own
    assert SpecimenRequest(domains=domains, lean="variant").own_leans
    assert not SpecimenRequest(domains=domains, lean="common").own_leans
