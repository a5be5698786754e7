"""Slabs: axes, signs, leans, doping, truth."""

import numpy as np
import pytest

import structures
from structures import SpecimenError


def d_of(**arguments):
    return structures.build("R3c", thickness=8, **arguments).truth.cell_d.mean("cell").values


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        # beam [100], up [001]: image x is [0-10], image y (down) is [00-1]
        ("[111]", (-23.62, -23.62)),
        ("[1-11]", (+23.62, -23.62)),
        ("[11-1]", (-23.62, +23.62)),
        ("[-111]", (-23.62, -23.62)),  # the component along the beam is not seen
        ("[-1-1-1]", (+23.62, +23.62)),
    ],
)
def test_d_points_where_the_variant_does(variant, expected):
    np.testing.assert_allclose(d_of(variant=variant), expected, atol=0.05)


def test_up_points_up():
    # d along +[001] must point up the image, so −y
    assert d_of(variant="[111]", beam="[100]", up="[001]")[1] < 0
    assert d_of(variant="[111]", beam="[100]", up="[00-1]")[1] > 0


def test_axes_are_right_handed_and_beam_reverses_x():
    assert d_of(beam="[100]")[0] == pytest.approx(-d_of(beam="[-100]")[0], abs=1e-6)


def test_110_projection_shows_d_along_one_axis_only():
    specimen = structures.build("R3c", thickness=12, beam="[110]")
    d = specimen.truth.cell_d.mean("cell").values
    np.testing.assert_allclose(d, [0, -23.62], atol=0.05)
    assert specimen.box[0] == pytest.approx(2 * 2**0.5 * 3.9646, abs=0.06)


@pytest.mark.parametrize("phase", ["R3c", "Cc"])
@pytest.mark.parametrize("beam", ["[110]", "[1-10]", "[100]", "[001]"])
def test_every_variant_can_be_seen_along_every_beam(phase, beam):
    up = "[010]" if beam == "[001]" else "[001]"
    for variant in ("[111]", "[-111]", "[1-11]", "[11-1]", "[-1-1-1]"):
        truth = structures.build(phase, thickness=8, beam=beam, up=up, variant=variant).truth
        assert truth.attrs["zone"] == ("110" if beam in ("[110]", "[1-10]") else "100")
        assert 10 < float(np.hypot(*truth.cell_d.mean("cell"))) < 50


def test_truth_is_that_of_every_whole_period():
    """Antipolar Pnma alternates along [001]; thicknesses are whole periods, so the projection is not polar."""
    for thickness in (40, 44, 100):
        specimen = structures.build("Pnma", samarium=0.13, thickness=thickness, beam="[001]", up="[010]")
        np.testing.assert_allclose(specimen.truth.cell_d, 0, atol=0.01)
        assert specimen.thickness / specimen.layer == pytest.approx(
            round(specimen.thickness / specimen.layer)
        )


def test_null_is_null_and_has_one_column_of_each():
    specimen = structures.build("SrTiO3", lateral=(1, 1), thickness=20)
    np.testing.assert_allclose(specimen.truth.cell_d, 0, atol=1e-9)
    assert specimen.truth.sizes["column"] == 2


def test_rhombohedral_shear_is_carried_as_lean():
    r3c = structures.build("R3c", thickness=8)
    np.testing.assert_allclose(np.abs(r3c.lean_mrad), np.cos(np.radians(89.431)) * 1e3, atol=0.02)
    # Mirrored variants lean the other way; only one of two can be on axis.
    other = structures.build("R3c", thickness=8, variant="[1-11]")
    assert r3c.lean_mrad[0] == pytest.approx(-other.lean_mrad[0])
    assert r3c.lean_mrad[1] == pytest.approx(other.lean_mrad[1])
    np.testing.assert_allclose(r3c.atoms.cell.angles(), 90)
    assert structures.build("SrTiO3", thickness=8).lean_mrad == (0.0, 0.0)


def test_lean_sign_puts_the_sheared_crystal_back():
    """Shifting atoms by +lean·z restores the angle between the columns and the surface."""
    specimen = structures.build("R3c", thickness=40)
    parent = structures.phases.rhombohedral()
    axes = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]) @ parent.pseudocubic
    for component in (0, 1):
        cosine = axes[component] @ axes[2] / np.prod(np.linalg.norm(axes[[component, 2]], axis=1))
        assert specimen.lean_mrad[component] == pytest.approx(1e3 * cosine, abs=1e-9)


def test_no_atom_is_lost_or_doubled():
    for arguments in (
        {"phase": "R3c"},
        {"phase": "Pnma", "samarium": 0.13},
        {"phase": "R3c", "beam": "[110]"},
    ):
        specimen = structures.build(thickness=40, **arguments)
        a, b, x = (np.sum(specimen.sites == s) for s in "ABX")
        assert a == b
        assert x == 3 * a
        distances = specimen.atoms.get_all_distances(mic=True)
        assert distances[np.triu_indices(len(specimen.atoms), 1)].min() > 1.7


def test_planes_sit_at_the_centre_of_slices():
    specimen = structures.build("SrTiO3", lateral=(1, 1), thickness=40)
    depth = specimen.atoms.positions[:, 2] / specimen.slice_thickness
    np.testing.assert_allclose(depth % 1, 0.5, atol=1e-6)


def test_samarium_is_seeded_exact_and_on_the_a_site():
    one, two, other = (structures.build("Cc", samarium=0.1, thickness=80, seed=s) for s in (1, 1, 2))
    symbols = [np.array(s.atoms.get_chemical_symbols()) for s in (one, two, other)]
    assert np.all(symbols[0] == symbols[1])
    assert np.any(symbols[0] != symbols[2])
    assert np.sum(symbols[0] == "Sm") == round(0.1 * np.sum(one.sites == "A"))
    assert set(one.sites[symbols[0] == "Sm"]) == {"A"}
    assert one.name == "Cc-Sm10"


def test_born_polarization_of_bifeo3():
    specimen = structures.build("R3c", thickness=8)
    p = specimen.polarization
    # 4.37·(A cage) + 3.49·Fe − 2.61·O of the 298 K structure, along [111]
    assert np.linalg.norm(p) == pytest.approx(98, abs=2)
    # parallel to d: image x and y negative, beam component positive for [111] seen along [100]
    assert p[0] < 0
    assert p[1] < 0
    assert p[2] > 0
    assert np.all(np.isnan(structures.build("SrTiO3", thickness=8).polarization))


def test_born_polarization_vanishes_in_pnma():
    np.testing.assert_allclose(structures.build("Pnma", samarium=0.13, thickness=8).polarization, 0, atol=0.5)


def test_truth_has_units_everywhere_and_round_trips(tmp_path):
    import xarray as xr

    truth = structures.build("Cc", samarium=0.07, thickness=40).truth
    assert all("units" in truth[name].attrs for name in truth.data_vars)
    truth.to_netcdf(tmp_path / "truth.nc")
    with xr.open_dataset(tmp_path / "truth.nc") as back:
        xr.testing.assert_identical(truth, back.load())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"phase": "R4c"}, "R4c"),
        ({"samarium": 7}, "samarium"),
        ({"lateral": (3, 2)}, "lateral"),
        ({"thickness": float("nan")}, "thickness"),
        ({"thickness": 1e6}, "thickness"),
        ({"variant": "[112]"}, "variant"),
        ({"beam": "up"}, "beam"),
        ({"beam": "[100]", "up": "[100]"}, "parallel"),
        ({"beam": "[100]", "up": "[110]"}, "orthogonal"),
        ({"phase": "SrTiO3", "samarium": 0.1}, "samarium"),
        ({"seed": -1, "samarium": 0.1}, "seed"),
        ({"name": "a/b"}, "name"),
        ({"name": "../x"}, "name"),
    ],
)
def test_bad_requests_name_the_argument(arguments, word):
    with pytest.raises(SpecimenError, match=word) as error:
        structures.build(**{"phase": "R3c", **arguments})
    assert "\n" not in str(error.value)
