"""Colours and figures say what the numbers say."""

import colorsys
import dataclasses
import re

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver, QuiverKey
from skimage.color import rgb2lab

import analysis
from analysis import domain_maps, maps, plots
from analysis.clouds import cloud, histograms
from analysis.domains import find_domains
from analysis.drawing import CONVENTION, FLAGGED, PALETTE, save_figure
from analysis.maps import arrow_map, block_means, polarization_map, ratio_map, strain_map, uncertainty_map
from analysis.plots import plot_all
from analysis.tiling import middles

PX = 0.18
SHAPES = {"strain_xx", "strain_yy", "strain_xy", "intensity_ratio"}


@pytest.fixture(scope="module")
def halves(lattice_image):
    """Two domains, the wall at x = 190 px; d of (20, -20) pm on the left and of (-20, 20) pm on the right."""
    parts = [
        lattice_image(shape=(240, 380), shift=tuple(-np.array(d) / 100 / PX))[0]
        for d in ((20, -20), (-20, 20))
    ]
    image = np.where(np.arange(380) < 190, *parts) + np.random.default_rng(0).normal(0, 0.02, (240, 380))
    return analysis.measure(analysis.as_image(image, pixel_size=PX))


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))


def flagged(measurement, *rows):
    cells = measurement.unit_cells.copy(deep=True)
    cells["flag"].values[list(rows)] = 1
    return dataclasses.replace(measurement, unit_cells=cells)


def polygons(figure):
    return next(c for c in figure.axes[0].collections if isinstance(c, PolyCollection))


def test_directions_are_equally_light_and_distinct():
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    colours = analysis.direction_colours(np.stack([np.cos(angle), np.sin(angle)], -1), 1.0)
    assert np.ptp(rgb2lab(colours)[:, 0]) < 6  # of 100; a plain HSV wheel spans 65
    steps = np.linalg.norm(np.diff(rgb2lab(colours), axis=0, append=rgb2lab(colours[:1])), axis=1)
    assert steps.max() / steps.min() < 2.5
    assert colours.min() >= 0
    assert colours.max() <= 1


def test_magnitude_and_missing():
    zero, one, two, missing = analysis.direction_colours(
        np.array([[0.0, 0], [50, 0], [500, 0], [np.nan, 0]]), 50.0
    )
    assert zero.min() > 0.9
    np.testing.assert_allclose(one, two)
    np.testing.assert_allclose(missing, 0.5)


def hue(d):
    return colorsys.rgb_to_hsv(*analysis.direction_colours(np.array(d, float), 1.0))[0] * 360


def test_colours_rotate_with_direction():
    """Right is pink, up (−y) ochre, left turquoise, down blue: hues grow counter-clockwise as seen."""
    right, up, left, down = (hue(d) for d in ((1, 0), (0, -1), (-1, 0), (0, 1)))
    assert 320 < right < 360
    assert 30 < up < 60
    assert 165 < left < 195
    assert 210 < down < 250


def test_wheel_shows_the_colours_up_as_up():
    ax = Figure().subplots()
    analysis.colour_wheel(ax, 50.0, pixels=101)
    rgb = ax.images[0].get_array()[..., :3]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # row 0 is drawn at the top
    np.testing.assert_allclose(rgb[0, 50], analysis.direction_colours(np.array([0.0, -1]), 1.0), atol=1e-9)
    np.testing.assert_allclose(rgb[50, -1], analysis.direction_colours(np.array([1.0, 0]), 1.0), atol=1e-9)


def test_map_puts_every_cell_in_its_colour_at_its_place(halves):
    figure = polarization_map(halves, radius_pm=40.0)
    drawn, cells = polygons(figure), halves.unit_cells
    corners = np.array([path.vertices[:4] for path in drawn.get_paths()])
    np.testing.assert_allclose(corners.mean(1), middles(cells), atol=1e-6)
    # The middle of the A columns lies half a cell from where the fixture puts its A columns.
    index = (middles(cells) / PX - np.array([7.3, 9.1])) / 22
    np.testing.assert_allclose(index % 1, 0.5, atol=0.02)
    area = np.abs(np.linalg.det(corners[:, 1:3] - corners[:, :2]))
    np.testing.assert_allclose(area, (22 * PX) ** 2, rtol=0.02)
    expected = analysis.direction_colours(cells["d"].values, 40.0)
    np.testing.assert_allclose(drawn.get_facecolors()[:, :3], expected, atol=1e-6)
    left, right = figure.axes[0].get_xlim()
    bottom, top = figure.axes[0].get_ylim()
    assert (right - left, bottom - top) == pytest.approx((380 * PX, 240 * PX))
    assert left == pytest.approx(-PX / 2)


def test_flagged_cells_are_grey_and_counted(halves):
    measurement = flagged(halves, 3, 40)
    for figure in (polarization_map(measurement), uncertainty_map(measurement)):
        colours = polygons(figure).get_facecolors()[:, :3]
        grey = np.isclose(colours, FLAGGED).all(1)
        assert np.flatnonzero(grey).tolist() == [3, 40]
        assert "grey: 2 flagged" in words(figure)
    shown = polygons(arrow_map(measurement))
    np.testing.assert_allclose(shown.get_facecolors()[:, :3], [FLAGGED])
    assert len(shown.get_paths()) == 2


def test_arrows_point_and_scale_as_d(halves):
    figure = arrow_map(halves)
    arrows = next(c for c in figure.axes[0].collections if isinstance(c, Quiver))
    block, position, d = block_means(halves.unit_cells)
    assert block == 1
    np.testing.assert_allclose(np.stack([arrows.X, arrows.Y], 1), position)
    # In axes with y down a negative V points up, as a negative d_y does.
    ratio = np.stack([arrows.U, arrows.V], 1) / d
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-9)
    key = figure.findobj(QuiverKey)[0]
    assert key.text.get_text() == "50 pm"  # is one cell long
    assert ratio[0, 0] == pytest.approx(np.sqrt(halves.lattice.area) / 50)
    assert pytest.approx(np.sqrt(halves.lattice.area)) == key.U


def test_many_cells_become_block_means(halves, monkeypatch):
    monkeypatch.setattr(maps, "_MOST_ARROWS", 6)
    cells = flagged(halves, 0).unit_cells
    block, position, d = block_means(cells)
    assert block == 3
    assert len(d) < 0.2 * cells.sizes["cell"]
    inside = np.abs(position[:, 0] - 190 * PX) > 3 * 22 * PX
    expected = np.where(position[:, :1] < 190 * PX, [20.0, -20.0], [-20.0, 20.0])
    np.testing.assert_allclose(d[inside], expected[inside], atol=1.5)


def test_uncertainty_is_the_larger_axis_of_one_standard_error(halves):
    cells = halves.unit_cells.copy(deep=True)
    cells["d_cov"].values[:] = [[5.0, 4.0], [4.0, 5.0]]  # axes of 9 and 1 pm²
    figure = uncertainty_map(dataclasses.replace(halves, unit_cells=cells))
    assert "median 3 pm" in words(figure)


def test_strain_and_ratio_are_drawn_where_measured(halves):
    cells = halves.unit_cells.copy(deep=True)
    count = cells.sizes["cell"]
    strain = np.zeros((count, 2, 2))
    strain[:, 0, 0] = np.where(cells["x"].values < 190 * PX, 0.01, -0.01)
    cells["strain"] = (("cell", "component", "component_2"), strain, {"units": "1"})
    cells["intensity_ratio"] = ("cell", np.linspace(0.2, 0.4, count), {"units": "1"})
    measurement = dataclasses.replace(halves, unit_cells=cells)
    figure = strain_map(measurement, "xx")
    red, _, blue = polygons(figure).get_facecolors()[:, :3].T
    assert ((red > blue) == (cells["x"].values < 190 * PX)).all()  # red is stretched
    assert figure.axes[1].get_ylim() == pytest.approx((-1.0, 1.0))  # percent
    assert ratio_map(measurement).axes[1].get_ylim() == pytest.approx((0.2, 0.4), abs=0.01)
    for draw in (strain_map, ratio_map):
        with pytest.raises(analysis.ImageError, match="holds no"):
            draw(dataclasses.replace(halves, unit_cells=cells.drop_vars(["strain", "intensity_ratio"])))
    with pytest.raises(analysis.ImageError, match="component='zz'"):
        strain_map(measurement, "zz")


def test_domain_and_wall_maps_show_both_sides(halves):
    domains = find_domains(halves.unit_cells)
    assert domains.sizes["variant"] == 2
    figure = domain_maps.domain_map(halves, domains)
    colours = polygons(figure).get_facecolors()[:, :3]
    x = middles(halves.unit_cells)[:, 0]
    for side in (x < 170 * PX, x > 210 * PX):
        k = domains["domain"].values[side][0]
        np.testing.assert_allclose(
            colours[side], np.tile(mpl.colors.to_rgb(PALETTE[k]), (side.sum(), 1)), atol=0.01
        )
    arrows = [t for t in figure.axes[0].texts if getattr(t, "arrow_patch", None)]
    ways = {t.xy[0] < 190 * PX: tuple(np.sign(np.subtract(t.xy, t.xyann)).astype(int)) for t in arrows}
    assert ways == {True: (1, -1), False: (-1, 1)}
    walls = domain_maps.wall_map(halves, domains)
    lines = next(c for c in walls.axes[0].collections if isinstance(c, LineCollection))
    ends = np.concatenate(lines.get_segments())
    assert np.abs(ends[:, 0] / PX - 190).max() < 23
    assert "180°" in words(walls)


def test_cloud_shows_means_and_centre(halves):
    figure = cloud(halves)
    ax = figure.axes[0]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # y down
    lines = {line.get_label().split(":")[0]: line for line in ax.lines}
    centre = np.array([lines["inversion centre"].get_xdata()[0], lines["inversion centre"].get_ydata()[0]])
    np.testing.assert_allclose(centre, 0, atol=0.5)
    means = np.stack(lines["mean of a variant"].get_data(), 1)
    np.testing.assert_allclose(np.sort(means[:, 0]), [-20, 20], atol=0.5)
    np.testing.assert_allclose(means[:, 0], -means[:, 1], atol=1)
    ellipse = ax.patches[0]
    assert ellipse.width == pytest.approx(
        2 * np.sqrt(np.linalg.eigvalsh(np.median(halves.unit_cells["d_cov"], 0))[1])
    )


def test_noise_is_reported_as_noise():
    rng = np.random.default_rng(0)
    cells = xr.Dataset(
        {
            "d": (("cell", "component"), rng.normal(0, 4.0, (4000, 2))),
            "d_cov": (("cell", "component", "component_2"), np.tile(16.0 * np.eye(2), (4000, 1, 1))),
            "flag": ("cell", np.zeros(4000, np.uint8)),
        }
    )
    assert "95 % at the noise floor, 9.8 pm" in words(histograms(cells))  # 4 pm √(−2 ln 0.05)
    cells["flag"].values[:100] = 1
    bars = histograms(cells).axes[0].containers
    assert sum(p.get_height() for p in bars[1].patches) == pytest.approx(100, abs=3)
    cells["flag"].values[:] = 1
    with pytest.raises(analysis.ImageError, match="every cell is flagged"):
        histograms(cells)


def test_every_figure_says_what_d_is_and_has_a_scale_bar(halves):
    figures = [
        draw(halves) for draw in (polarization_map, arrow_map, uncertainty_map, domain_maps.domain_map)
    ]
    for figure in [*figures, analysis.plot_columns(halves.image, halves)]:
        assert CONVENTION in words(figure)
        assert " nm" in words(figure)
    for figure in (cloud(halves), histograms(halves), analysis.plot_polarization(halves.image, halves)):
        assert CONVENTION in words(figure)


def test_no_text_is_tiny_or_off_the_page(halves):
    for figure in (
        arrow_map(halves),
        domain_maps.domain_map(halves),
        analysis.plot_polarization(halves.image, halves),
    ):
        figure.draw_without_rendering()
        for text in figure.findobj(mpl.text.Text):
            if text.get_text().strip() and text.get_visible():
                assert text.get_fontsize() >= 6
                box = text.get_window_extent()
                assert box.x0 > -1, text.get_text()
                assert box.x1 < figure.bbox.x1 + 1, text.get_text()


@pytest.fixture
def names_only(monkeypatch):
    """Draw but do not write; takes a second for each file otherwise."""

    def record(figure, stem, formats):
        assert isinstance(figure, Figure)
        return [stem.with_suffix(f".{kind}") for kind in formats]

    monkeypatch.setattr(plots, "save_figure", record)


def test_everything_that_was_measured_is_drawn(polar, halves, tmp_path, names_only):
    always = {
        "polarization",
        "columns",
        "polarization_map",
        "arrows",
        "uncertainty",
        "cloud",
        "histograms",
    } | SHAPES
    assert {path.name for path in plot_all(polar[0], tmp_path, formats=("svg", "pdf"))} == {
        f"{name}.{kind}" for name in always for kind in ("svg", "pdf")
    }
    written = plot_all(halves, tmp_path)
    assert {path.stem for path in written} == always | {"domains", "walls"}
    assert {path.suffix for path in written} == {".png", ".svg", ".pdf"}


def test_files_are_whole_alike_and_leave_no_setting_behind(polar, tmp_path):
    measurement, _ = polar
    before = dict(mpl.rcParams)
    paths = save_figure(histograms(measurement), tmp_path / "histograms")
    assert [path.suffix for path in paths] == [".png", ".svg", ".pdf"]
    assert paths[0].read_bytes()[:4] == b"\x89PNG"
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", paths[1].read_text())
    assert CONVENTION in texts  # text stays text
    assert paths[2].read_bytes()[:5] == b"%PDF-"
    assert b"/Type3" not in paths[2].read_bytes()
    first = paths[1].read_bytes(), paths[2].read_bytes()
    again = save_figure(histograms(measurement), tmp_path / "histograms")
    assert (again[1].read_bytes(), again[2].read_bytes()) == first
    assert dict(mpl.rcParams) == before
    with pytest.raises(analysis.ImageError, match="formats='gif'"):
        save_figure(histograms(measurement), tmp_path / "x", formats=("gif",))


def test_panels_go_where_they_are_told(polar):
    measurement, _ = polar
    figure = Figure()
    first, second = figure.subplots(1, 2)
    assert polarization_map(measurement, ax=second) is figure
    assert not first.collections
    assert second.collections


def test_missing_sites_are_marked(polar):
    measurement, _ = polar
    sites = xr.Dataset({"x": ("site", [10.0, 14.0]), "y": ("site", [12.0, 12.0])})
    figure = analysis.plot_columns(measurement.image, measurement, missing=sites)
    assert "missing (2)" in words(figure)
    np.testing.assert_allclose(figure.axes[0].collections[-1].get_offsets(), [(10, 12), (14, 12)])
    with pytest.raises(analysis.ImageError, match="missing: lacks x"):
        analysis.plot_columns(measurement.image, measurement, missing=sites.drop_vars("x"))


def test_few_cells_still_make_a_page(polar, tmp_path, names_only):
    measurement, _ = polar
    few = dataclasses.replace(measurement, unit_cells=measurement.unit_cells.isel(cell=[20, 21, 30, 31]))
    assert "4 unflagged cells" in " ".join(words(analysis.plot_polarization(few.image, few)).split())
    none = flagged(measurement, *range(measurement.unit_cells.sizes["cell"]))
    names = {path.stem for path in plot_all(none, tmp_path, formats=("pdf",))}
    assert names == {"polarization", "columns", "polarization_map", "arrows", "uncertainty"} | SHAPES


@pytest.mark.parametrize("draw", [polarization_map, arrow_map])
def test_a_radius_must_be_positive(polar, draw):
    with pytest.raises(analysis.ImageError, match="radius_pm=0"):
        draw(polar[0], radius_pm=0.0)


def test_figures_are_written_and_leave_no_state(polar, tmp_path):
    measurement, _ = polar
    before = pyplot.get_fignums()
    figure = analysis.plot_polarization(measurement.image, measurement)
    assert isinstance(figure, Figure)
    written = analysis.save(figure, tmp_path / "new" / "figure.v1")
    assert [path.name for path in written] == ["figure.v1.png", "figure.v1.svg"]
    assert written[0].read_bytes()[:4] == b"\x89PNG"
    assert b"</svg>" in written[1].read_bytes()[-20:]
    assert sorted(p.name for p in written[0].parent.iterdir()) == ["figure.v1.png", "figure.v1.svg"]
    assert pyplot.get_fignums() == before


def test_figure_states_conventions_and_means(polar):
    measurement, d = polar
    figure = analysis.plot_polarization(measurement.image, measurement, radius_pm=40.0)
    said = words(figure)
    assert "A columns − central B column" in said
    assert "y down" in said
    assert "rim 40 pm" in said
    assert f"{d[0]:.2f}" in said
    assert "nm" in said or "Å" in said


def test_uncalibrated_image_is_drawn_on_the_measured_scale(lattice_image):
    image = analysis.as_image(lattice_image()[0])
    measurement = analysis.measure(image, lattice_parameter=3.96)
    axes = analysis.plot_columns(image, measurement).axes[0]
    assert axes.get_xlim()[1] == pytest.approx(240 * 0.18, rel=0.01)


def test_failed_write_leaves_nothing(polar, tmp_path):
    measurement, _ = polar
    bad = measurement.columns.assign_attrs(broken={"not": "netCDF"})
    with pytest.raises((TypeError, ValueError)):
        analysis.write_dataset(bad, tmp_path / "columns.nc")
    assert list(tmp_path.iterdir()) == []
