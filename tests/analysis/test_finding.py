"""Every column of nasty images, and no others; positions in px."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import analysis
from analysis.folding import find_sublattices
from analysis.growth import grow
from analysis.lattice import Lattice, find_periods
from analysis.motif import MOTIFS, Motif
from analysis.patches import binned, despiked, flattened

_spec = importlib.util.spec_from_file_location("pictures", Path(__file__).with_name("_pictures.py"))
P = importlib.util.module_from_spec(_spec)
__import__("sys").modules["pictures"] = P
_spec.loader.exec_module(P)

HEXAGONAL = Motif("hexagonal", (("A", 0, 0), ("B", 1 / 3, 2 / 3)), angle=120)
CENTRED = Motif("centred", (("A", 0, 0), ("A2", 0.5, 0.5), ("B", 0.5, 0.0)), ratio=1.5)


def find(picture, **kwargs):
    lattice = find_sublattices(picture.image, find_periods(picture.image), **kwargs)
    near = lattice.neighbour_distance
    sites = grow(picture.image, lattice, radius=max(0.5 * near, 2), least_coverage=0.6)
    return lattice, sites, P.score(sites, picture, near)


def assert_all(score, missing=0, wrong=0):
    for site in score:
        assert site.expected > 0
        assert site.found >= site.expected - missing, score
        assert site.wrong <= wrong, score


# --- one crystal ---


@pytest.mark.parametrize(
    ("kwargs", "counts"),
    [
        ({}, 200), ({}, 20), ({"sigma": (4.2, 3.8)}, 200), ({"amplitude": (1, 0.2)}, 200),
        ({"amplitude": (1, 0.9)}, 200), ({"amplitude": (1, 0.9)}, 20),
    ],
    ids=["show", "low dose", "wide", "faint B", "strong B", "strong B at low dose"],
)  # fmt: skip
def test_all_columns_and_no_others(kwargs, counts):
    picture = P.crystal(shape=(640, 640), count=24, **kwargs).noisy(counts)
    lattice, sites, score = find(picture)
    assert lattice.zone == "100"
    assert_all(score)
    assert [s.expected for s in score] == [576, 529]
    assert sites.expected == 576


def test_faint_b_at_low_dose_is_nearly_all_found():
    picture = P.crystal(shape=(640, 640), count=24, amplitude=(1, 0.2)).noisy(20)
    assert_all(find(picture)[2], missing=2, wrong=2)


@pytest.mark.parametrize("degrees", [7, 45, 63, 131, 262])
def test_any_rotation(degrees):
    picture = P.crystal(shape=(500, 560), count=15, vectors=P.turned(degrees)).noisy(100)
    lattice, _, score = find(picture)
    assert_all(score)
    turned = P.turned(degrees)
    steps = lattice.vectors @ np.linalg.inv(turned)
    np.testing.assert_allclose(steps, np.rint(steps), atol=0.004)
    assert lattice.a[0] >= abs(lattice.a[1]) * 0.99
    assert lattice.b[1] > 0


@pytest.mark.parametrize("cell", [10, 17, 60])
def test_any_scale(cell):
    f = cell / 24
    picture = P.crystal(
        shape=(13 * cell, 14 * cell), vectors=P.turned(5, cell), count=9, sigma=(2.8 * f, 2.5 * f), disorder=0.15 * f
    ).noisy(100)  # fmt: skip
    _, sites, score = find(picture)
    assert_all(score)
    a = sites.position[sites.is_a]
    gap = np.hypot(*(a[:, None] - picture.places[0]).transpose(2, 0, 1)).min(1)
    assert np.median(gap) < 0.25 * np.sqrt(f) + 0.05


def test_indices_follow_the_vectors_and_b_its_cell():
    picture = P.crystal(shape=(300, 300), count=9, disorder=0.0)
    lattice, sites, _ = find(picture)
    inside = sites.inside
    steps = sites.position - sites.index @ lattice.vectors
    for kind, fraction in enumerate(lattice.motif.fractions):
        rest = steps[inside & (sites.kind == kind)] - fraction @ lattice.vectors
        assert np.abs(rest - np.median(rest, 0)).max() < 0.3
    start = np.median(steps[inside & sites.is_a], 0)
    assert np.abs(start - np.median(steps[inside & ~sites.is_a] - [12, 12], 0)).max() < 0.3
    assert np.hypot(*(picture.places[0] - lattice.origin).T).min() < 1.0


def test_columns_beyond_the_border_copy_one_of_their_kind():
    picture = P.crystal(shape=(240, 240), count=30)
    _, sites, _ = find(picture)
    ghost = np.flatnonzero(~sites.inside)
    assert len(ghost) > 20
    assert sites.inside[sites.neighbour[ghost]].all()
    assert (sites.kind[sites.neighbour[ghost]] == sites.kind[ghost]).all()
    assert (sites.neighbour[sites.inside] == -1).all()


@pytest.mark.parametrize("ratio", [0.86, 1.25])
@pytest.mark.parametrize("amplitude", [(1, 0.35), (1, 0.9)])
def test_tetragonal_cells_are_100(ratio, amplitude):
    vectors = P.turned(14, 22, 22 * ratio)
    lattice, _, score = find(P.crystal((500, 500), vectors, 15, amplitude=amplitude).noisy(100))
    assert lattice.zone == "100"
    assert_all(score)


@pytest.mark.parametrize(("degrees", "turned"), [(3, False), (40, False), (-80, True), (100, True)])
@pytest.mark.parametrize("b", [0.3, 0.85])
def test_110_in_every_orientation(degrees, turned, b):
    picture = P.crystal(
        (520, 520), P.turned(degrees, 31, 22), 13, fractions=((0.5, 0),), amplitude=(1, b)
    ).noisy(100)
    lattice, _, score = find(picture)
    assert lattice.zone == "110"
    assert lattice.b_fraction == ((0, 0.5) if turned else (0.5, 0))
    assert lattice.motif.a_offsets.tolist() == [[0, 0], [0, 1] if turned else [1, 0]]
    assert_all(score)
    assert lattice.lattice_parameter == pytest.approx(31.05, abs=0.1)


@pytest.mark.parametrize(
    ("period", "shift", "brightness"), [(2, 1.5, 0), (2, 0, 0.3), (3, 1, 0.3), (4, 1.7, 0)]
)
def test_superstructures_keep_the_small_cell(period, shift, brightness):
    plain = P.crystal((480, 480), count=15, disorder=0)
    a, b = plain.places
    phase = 2 * np.pi * np.rint((a - a.min(0)) / 24).sum(1) / period
    wave = shift * np.cos(phase + 0.3)
    places = [a + np.stack([wave, -wave], 1), b]
    picture = P.drawn((480, 480), places, (1 + brightness * np.cos(phase + 0.1), 0.35)).noisy(100)
    lattice, _, score = find(picture)
    assert_all(score)
    assert lattice.lattice_parameter == pytest.approx(24, abs=0.1)


def test_displaced_b_and_domains():
    plain = P.crystal((480, 480), count=16)
    b = plain.places[1] + np.where(plain.places[1][:, :1] > 240, [2.9, 0], [-2.0, 2.0])
    assert_all(find(P.drawn((480, 480), [plain.places[0], b]).noisy(50))[2])


# --- nasty surroundings ---


def test_gradient_and_uneven_illumination():
    y, x = np.mgrid[:500, :500]
    plain = P.crystal((500, 500), count=17)
    light = 0.15 + 0.85 * np.exp(-((x - 100) ** 2 + (y - 400) ** 2) / 2 / 200**2)
    assert_all(find(P.Picture(plain.image * light + x / 1000 + y / 2000, plain.places).noisy(200))[2])


@pytest.mark.parametrize("size", [2.5, 4.0])
def test_amorphous_half_holds_no_columns(size):
    shape = (600, 600)
    plain = P.crystal(shape, P.turned(12), 23, keep=lambda xy: xy[:, 0] < 320)
    beside = np.arange(600) > 332
    grain = (P.speckle(shape, size, 3) + 1.5).clip(0)
    _, sites, score = find(P.Picture(plain.image + 0.5 * grain * beside, plain.places).noisy(50))
    assert_all(score[:1], wrong=1)
    assert_all(score[1:], missing=1, wrong=4)
    assert sites.expected <= score[0].expected + 6


def test_vacuum_is_left_empty():
    picture = P.crystal((600, 600), P.turned(30), 22, keep=lambda xy: xy @ [1, 0.3] < 330).noisy(20)
    assert_all(find(picture)[2])


def test_irregular_holes_in_the_data():
    shape = (600, 600)
    plain = P.crystal(shape, P.turned(20), 40)
    dead = P.speckle(shape, 30, 1) > 0.8
    assert 0.1 < dead.mean() < 0.4
    _, sites, score = find(plain.cut(dead).noisy(100))
    assert_all(score, missing=2)
    at = np.rint(sites.position[sites.inside]).astype(int)
    assert not dead[at[:, 1], at[:, 0]].any()


def test_missing_columns_are_missing_and_counted():
    rng = np.random.default_rng(1)
    places = [p[rng.random(len(p)) > 0.04] for p in P.crystal((500, 500), count=17).places]
    _, sites, score = find(P.drawn((500, 500), places).noisy(100))
    assert_all(score)
    outer = 1  # a missing column at the edge is no hole
    assert 289 - 3 * outer <= sites.expected <= 289
    assert score[0].found < sites.expected


def test_extra_columns_change_nothing():
    plain = P.crystal((500, 500), count=17)
    extra = np.random.default_rng(1).uniform(60, 440, (20, 2))
    picture = P.Picture(plain.image + P.render((500, 500), extra, 0.6, 2.6, 0), plain.places)
    assert_all(find(picture.noisy(100))[2])


def test_hot_pixels_and_jittered_rows():
    plain = P.crystal((500, 500), P.turned(8), 17)
    rng = np.random.default_rng(1)
    image = np.stack(
        [np.interp(np.arange(500) + 0.5 * rng.standard_normal(), np.arange(500), row) for row in plain.image]
    )
    image = P.Picture(image, plain.places).noisy(100).image
    image[tuple(rng.integers(0, 500, (2, 400)))] = 50.0
    assert_all(find(P.Picture(image, plain.places))[2], missing=1)


def test_strain_and_bending():
    def bent(xy):
        away = (xy - 300) / 300
        turn = 0.06 * away[:, :1]
        return 300 + 300 * away * (1 + 0.04 * away) + 300 * np.concatenate(
            [-turn * away[:, 1:], 0.5 * turn * away[:, :1]], 1
        )  # fmt: skip

    picture = P.crystal((600, 600), count=21, bend=bent)
    assert_all(find(picture.noisy(100))[2], missing=1)


# --- two crystals ---


@pytest.mark.parametrize("coherent", [True, False])
@pytest.mark.parametrize("heights", [((1, 0.3), (0.45, 0.3)), ((1, 0.3), (0.5, 0.7))])
def test_film_on_a_substrate(coherent, heights):
    picture = P.film(misfit=0.05, coherent=coherent, heights=heights).noisy(100)
    _, _, score = find(picture)
    # Position, not brightness, says which columns of the substrate are A. Only at misfit dislocations, where
    # columns of both crystals overlap, may some go wrong.
    assert_all(score, missing=0 if coherent else 3, wrong=0 if coherent else 2)
    assert score[0].expected > 670


def test_growth_crosses_the_interface_in_step():
    picture = P.film(misfit=0.04, coherent=True).noisy(100)
    _, sites, _ = find(picture)
    a = sites.is_a & sites.inside
    column = np.rint((sites.position[a, 0] - 300) / 22).astype(int)
    offset = sites.index[a, 0] - column
    assert np.ptp(offset) == 0
    order = np.argsort(sites.position[a, 1])
    rows = sites.index[a, 1][order]
    assert np.all(np.diff(rows[np.abs(column[order]) == 0]) == 1)


@pytest.mark.parametrize("heights", [(1, 0.35), (0.4, 0.7)])
def test_across_a_narrow_gap_the_lattice_says_what_is_a(heights):
    left = P.crystal((500, 500), count=19, keep=lambda xy: xy[:, 0] < 230)
    right = P.crystal((500, 500), count=19, keep=lambda xy: xy[:, 0] > 280)
    places = [np.concatenate(pair) for pair in zip(left.places, right.places, strict=True)]
    amplitude = [
        np.repeat([P.AMPLITUDE[k], heights[k]], [len(left.places[k]), len(right.places[k])]) for k in (0, 1)
    ]
    _, sites, score = find(P.drawn((500, 500), places, amplitude).noisy(100))
    assert_all(score)
    # Indices run on as if nothing were missing.
    a = sites.inside & sites.is_a
    assert np.ptp(np.rint(sites.position[a] / 24 - sites.index[a] - 0.4), axis=0).max() == 0


@pytest.mark.parametrize("shift", [(0, 0), (12, 12), (12, 0), (5, 9)])
def test_across_a_wide_gap_brightness_says_what_is_a(shift):
    plain = P.crystal(
        (500, 700), count=27, keep=lambda xy: (np.abs(xy[:, 0] - 300) > 70) & (np.abs(xy[:, 1] - 250) < 200),
        bend=lambda xy: xy + np.where(xy[:, :1] > 300, shift, (0, 0)),
    )  # fmt: skip
    assert_all(find(plain.noisy(100))[2])


# --- what is refused ---


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"vectors": P.turned(5, 22, 22, 120), "fractions": ((1 / 3, 2 / 3),), "amplitude": (1, 0.5)}, "120°.*not that of a perovskite"),
        ({"vectors": P.turned(5, 22, 22, 120), "fractions": ((1 / 3, 2 / 3),), "amplitude": (1, 1)}, "not that of a perovskite"),
        ({"vectors": P.turned(5, 22, 22, 120), "amplitude": (1, 0)}, "not that of a perovskite"),
        ({"vectors": P.turned(5, 16, 40)}, "not that of a perovskite|one sublattice"),
        ({"amplitude": (1, 0)}, "one sublattice"),
        ({"amplitude": (1, 1), "sigma": (2.8, 2.8)}, "one sublattice"),
    ],
)  # fmt: skip
def test_other_crystals_are_refused(kwargs, words):
    with pytest.raises(analysis.ImageError, match=words) as caught:
        find(P.crystal((400, 400), count=30, **kwargs).noisy(100))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [0, 2, 4])
def test_noise_and_speckle_are_refused(seed, size):
    image = 5 + (
        P.speckle((500, 500), size, seed) if size else np.random.default_rng(seed).standard_normal((500, 500))
    )
    with pytest.raises(analysis.ImageError):
        find(P.Picture(image, ()))


def test_stripes_are_refused():
    y, x = np.mgrid[:400, :400]
    with pytest.raises(analysis.ImageError, match="no lattice in two dimensions"):
        find(P.Picture(P.Picture(1 + np.sin(x / 4 + y / 9), ()).noisy(100).image, ()))


# --- motifs ---


@pytest.mark.parametrize("degrees", [0, 40, 100, 250, 300])
@pytest.mark.parametrize("angle", [120, -120])
def test_hexagonal_motif_in_any_orientation_from_either_side(degrees, angle):
    picture = P.crystal(
        (400, 400), P.turned(degrees, 24, 24, angle), 30, fractions=((1 / 3, 2 / 3),), amplitude=(1, 0.6)
    ).noisy(100)
    lattice, _, score = find(picture, motif=HEXAGONAL)
    assert lattice.motif is HEXAGONAL
    assert_all(score, missing=1)


def test_motif_with_two_columns_of_one_kind():
    picture = P.crystal(
        (450, 450), P.turned(25, 22, 33), 30, fractions=((0.5, 0.5), (0.5, 0)), amplitude=(1, 1, 0.4),
        sigma=(2.5, 2.5, 2.5),
    ).noisy(100)  # fmt: skip
    lattice, sites, score = find(picture, motif=CENTRED)
    assert_all(score, missing=1)
    assert set(sites.kind) == {0, 1, 2}
    assert lattice.lattice_parameter == pytest.approx(np.sqrt(22 * 33), abs=0.1)
    assert lattice.neighbour_distance == pytest.approx(11, abs=0.1)


def test_rocksalt_like_motif_is_told_from_its_centred_cell():
    motif = Motif("rocksalt", (("A", 0, 0), ("B", 0.5, 0.5)))
    picture = P.crystal((400, 400), P.turned(33, 22), 30, amplitude=(1, 0.7)).noisy(100)
    lattice, _, score = find(picture, motif=motif)
    assert_all(score, missing=1)
    assert lattice.area == pytest.approx(22**2, abs=2)


@pytest.mark.parametrize(
    ("motif", "picture"),
    [
        (HEXAGONAL, {"vectors": P.turned(0, 24), "fractions": ((0.5, 0.5),), "amplitude": (1, 0.4)}),
        (HEXAGONAL, {"vectors": P.turned(0, 24, 24, 120), "fractions": ((1 / 3, 2 / 3),), "amplitude": (1, 0)}),
        (CENTRED, {"vectors": P.turned(3, 22, 33), "fractions": ((0.5, 0.5),), "amplitude": (1, 1)}),
    ],
)  # fmt: skip
def test_a_motif_that_the_image_does_not_show_is_refused(motif, picture):
    with pytest.raises(analysis.ImageError, match="motif"):
        find(P.crystal((350, 350), count=25, **picture).noisy(100), motif=motif)


def test_measure_with_a_motif():
    shift = np.array([0.6, -0.9])
    picture = P.crystal(
        (360, 360), P.turned(0, 24, 24, 120), 25, fractions=((1 / 3, 2 / 3),), amplitude=(1, 0.6), shift=shift, disorder=0
    )  # fmt: skip
    m = analysis.measure(analysis.as_image(picture.image, pixel_size=0.12), motif=HEXAGONAL)
    cells = m.unit_cells.isel(cell=np.flatnonzero(m.unit_cells["flag"].values == 0))
    assert cells.sizes["cell"] > 150
    np.testing.assert_allclose(cells["d"].values, np.tile(-shift * 12, (cells.sizes["cell"], 1)), atol=0.3)
    with pytest.raises(analysis.ImageError, match="a_site"):
        analysis.measure(m.image, motif=HEXAGONAL, a_site="dark")


def test_a_columns_around_b():
    assert MOTIFS["100"].a_offsets.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert MOTIFS["110"].a_offsets.tolist() == [[0, 0], [1, 0]]
    assert MOTIFS["110"].turned().a_offsets.tolist() == [[0, 0], [0, 1]]
    assert HEXAGONAL.a_offsets.tolist() == [[0, 0], [0, 1], [1, 1]]
    sheared = Lattice((0, 0), (10, 0), (3, 12), MOTIFS["100"])
    assert len(sheared.a_offsets) == 4
    assert sheared.neighbour_distance == pytest.approx(np.hypot(3.5, 6))
    assert sheared.zone == "100"
    assert sheared.b_fraction == (0.5, 0.5)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"sites": (("B", 0, 0), ("A", 0.5, 0.5))}, "first site"),
        ({"sites": (("A", 0.1, 0), ("B", 0.5, 0.5))}, "first site"),
        ({"sites": (("A", 0, 0), ("B", 1.0, 0.5))}, r"\[0, 1\)"),
        ({"sites": (("A", 0, 0), ("C", 0.5, 0.5))}, 'no site "B"'),
        ({"sites": (("A", 0, 0), ("B", 0.99, 0.0))}, "one place"),
        ({"sites": (("A", 0, 0), ("", 0.5, 0.0))}, "label"),
        ({"angle": 15}, "angle"),
        ({"ratio": 6}, "ratio"),
        ({"name": ""}, "name"),
    ],
)
def test_wrong_motifs_are_named(kwargs, words):
    good = {"name": "x", "sites": (("A", 0, 0), ("B", 0.5, 0.5))}
    with pytest.raises(analysis.ImageError, match=words):
        Motif(**(good | kwargs))


# --- parts ---


def test_spikes_are_taken_out_and_columns_left():
    image = P.crystal((200, 200), count=7).image
    hot = image.copy()
    hot[50, 60] = hot[50, 61] = 40.0
    hot[120, 33] = -40.0
    np.testing.assert_allclose(despiked(hot), image, atol=0.6)
    np.testing.assert_array_equal(despiked(image), image)


def test_binning_keeps_means_and_holes():
    image = np.arange(48.0).reshape(6, 8)
    image[0, 0] = np.nan
    image[2:4, 2:4] = np.nan
    coarse = binned(image, 2)
    assert coarse.shape == (3, 4)
    assert coarse[0, 0] == pytest.approx((1 + 8 + 9) / 3)
    assert np.isnan(coarse[1, 1])
    assert coarse[2, 3] == pytest.approx(np.mean([38, 39, 46, 47]))


def test_slow_background_is_removed():
    y, x = np.mgrid[:200, :240]
    fast = np.sin(x / 2) * np.sin(y / 2)
    flat = flattened(fast + 5 + x / 40 + y / 60, 20.0)
    assert np.abs(flat - fast)[40:-40, 40:-40].max() < 0.1


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_intensity_scale_changes_nothing(factor):
    image = P.crystal((300, 300), count=10).noisy(100).image
    (_, one, _), (_, other, _) = (
        find(P.Picture(i, (np.zeros((0, 2)),) * 2)) for i in (image, factor * image - 3 * factor)
    )
    np.testing.assert_allclose(one.position, other.position, atol=0.02)
