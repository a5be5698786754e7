"""Turning, mirroring or rescaling an image turns, mirrors or rescales what is measured, and changes nothing else."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

import analysis

PX = 0.2  # Å
SHAPE = (112, 132)
TOLERANCE = 1e-3  # px

few = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # a measurement is too slow for shrinking
    suppress_health_check=[HealthCheck.too_slow],
)

#: What a symmetry does to pixels and, with y down, to (x, y).
SYMMETRIES = {
    "rotation": (np.rot90, [[0, 1], [-1, 0]]),
    "mirror x": (lambda image: image[:, ::-1], [[-1, 0], [0, 1]]),
    "mirror y": (lambda image: image[::-1], [[1, 0], [0, -1]]),
    "transpose": (np.transpose, [[0, 1], [1, 0]]),
}


@dataclass(frozen=True)
class Crystal:
    length: float  # of the cell, px
    angle: float  # of the lattice, rad
    shift: tuple[float, float]  # of B, px
    stretch: float  # sigma along / across
    lean: float  # of the columns, rad
    seed: int

    def image(self) -> np.ndarray:
        """Elliptical columns with little noise: fits stop within a part of the standard error."""
        rng = np.random.default_rng(self.seed)
        turn = np.array([[np.cos(self.angle), np.sin(self.angle)], [-np.sin(self.angle), np.cos(self.angle)]])
        span = np.arange(-12, 13)
        index = np.stack(np.meshgrid(span, span), -1).reshape(-1, 2)
        origin = np.array([66.3, 56.7])
        a = index @ turn * self.length + origin
        b = (index + 0.5) @ turn * self.length + origin + self.shift
        along = np.array([np.cos(self.lean), np.sin(self.lean)])
        across = np.array([-along[1], along[0]])
        width = 0.13 * self.length
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        image = 0.2 + 0.002 * rng.standard_normal(SHAPE)
        for places, height in ((a, 1.0), (b, 0.5)):
            near = (np.abs(places - origin) < np.array(SHAPE[::-1]) / 2 + 4 * width).all(1)
            for place in places[near]:
                away = np.stack([x - place[0], y - place[1]], -1)
                u, v = away @ along / (width * self.stretch), away @ across / width
                image += height * np.exp(-0.5 * (u**2 + v**2))
        return image


crystals = st.builds(
    Crystal,
    length=st.floats(15, 20),
    angle=st.floats(-0.7, 0.7),
    shift=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    stretch=st.floats(1.1, 1.3),
    lean=st.floats(0, np.pi),
    seed=st.integers(0, 9),
)


def measured(image):
    return analysis.measure(analysis.as_image(image, pixel_size=PX))


def good(table):
    """Unflagged rows, and where they stand, px."""
    rows = table.isel({table["x"].dims[0]: table["flag"].values == 0})
    return rows, np.stack([rows["x"].values, rows["y"].values], 1) / PX


def inner(table):
    """Of these, the rows at least 20 px inside the image: there every fit window is whole."""
    rows, place = good(table)
    inside = ((place > 20) & (place < np.array(SHAPE[::-1]) - 21)).all(1)
    return rows.isel({rows["x"].dims[0]: inside}), place[inside]


def partners(table, expected):
    """The good rows that stand at the expected places, px."""
    rows, place = good(table)
    distance, row = KDTree(place).query(expected)
    assert distance.max() < TOLERANCE
    return rows.isel({rows["x"].dims[0]: row})


@pytest.mark.parametrize("name", SYMMETRIES)
@few
@given(crystal=crystals)
def test_a_symmetry_carries_everything_along(name, crystal):
    change, matrix = SYMMETRIES[name]
    matrix = np.array(matrix)
    image = crystal.image()
    before, after = measured(image), measured(change(image))
    # The corner that the matrix turns out of the image comes back by its last pixel.
    corner = np.minimum(matrix @ (np.array(SHAPE[::-1]) - 1), 0)

    columns, place = inner(before.columns)
    assert len(place) > 20
    same = partners(after.columns, place @ matrix.T - corner)
    np.testing.assert_array_equal(same["site"].values, columns["site"].values)
    for key in ("amplitude", "background", "sigma_major", "sigma_minor"):
        np.testing.assert_allclose(same[key].values, columns[key].values, atol=1e-3)
    # Directions have no sign; compare the doubled angle as a vector.
    lean = columns["theta"].values
    along = np.stack([np.cos(lean), np.sin(lean)], 1) @ matrix.T
    turned = 2 * np.arctan2(along[:, 1], along[:, 0])
    off = np.angle(np.exp(1j * (2 * same["theta"].values - turned))) / 2
    assert np.abs(off).max() < 0.01
    covariance = columns["position_cov"].values
    np.testing.assert_allclose(
        same["position_cov"].values, matrix @ covariance @ matrix.T, atol=0.1 * covariance.max()
    )

    cells, place = inner(before.unit_cells)
    assert len(place) > 5
    same = partners(after.unit_cells, place @ matrix.T - corner)
    np.testing.assert_allclose(same["d"].values, cells["d"].values @ matrix.T, atol=100 * PX * TOLERANCE)
    covariance = cells["d_cov"].values
    np.testing.assert_allclose(
        same["d_cov"].values, matrix @ covariance @ matrix.T, atol=0.1 * covariance.max()
    )

    # The same lattice, whichever of its vectors are called a and b.
    steps = before.lattice.vectors @ matrix.T @ np.linalg.inv(after.lattice.vectors)
    np.testing.assert_allclose(steps, np.round(steps), atol=TOLERANCE)
    assert abs(np.linalg.det(np.round(steps))) == 1


@few
@given(crystal=crystals, scale=st.floats(1e-3, 1e3), offset=st.floats(-2, 5))
def test_intensity_scale_and_offset_touch_only_intensities(crystal, scale, offset):
    image = crystal.image()
    before, after = measured(image), measured(scale * (image + offset))
    columns, place = inner(before.columns)
    same = partners(after.columns, place)
    np.testing.assert_array_equal(same["site"].values, columns["site"].values)
    np.testing.assert_allclose(same["amplitude"].values / scale, columns["amplitude"].values, atol=1e-3)
    np.testing.assert_allclose(
        same["background"].values / scale, columns["background"].values + offset, atol=1e-3
    )
    np.testing.assert_allclose(same["theta"].values, columns["theta"].values, atol=0.01)
    np.testing.assert_allclose(
        same["position_cov"].values, columns["position_cov"].values, rtol=0.1, atol=1e-9
    )
    cells, place = inner(before.unit_cells)
    same = partners(after.unit_cells, place)
    np.testing.assert_allclose(same["d"].values, cells["d"].values, atol=100 * PX * TOLERANCE)
    np.testing.assert_allclose(after.lattice.vectors, before.lattice.vectors, atol=PX * TOLERANCE)
