from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

import analysis

Draw = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]


def draw(
    shape=(220, 240),
    a=(22.0, 0.0),
    b=(0.0, 22.0),
    fraction=(0.5, 0.5),
    shift=(0.0, 0.0),
    amplitudes=(1.0, 0.5),
    sigma=(0.15, 0.14),
    origin=(7.3, 9.1),
    vary=0.0,
    seed=0,
):
    """Image of Gaussians (px), with B moved by `shift` px off its high-symmetry place.

    Returns the image and the A and B positions.
    """
    rng = np.random.default_rng(seed)
    a, b = np.array(a, float), np.array(b, float)
    span = np.arange(-60, 61)
    index = np.stack(np.meshgrid(span, span), -1).reshape(-1, 2)
    where_a = index @ np.array([a, b]) + origin
    where_b = where_a + np.array(fraction) @ np.array([a, b]) + shift
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    image = np.zeros(shape)
    kept = []
    for places, height, width in zip(
        (where_a, where_b), amplitudes, np.array(sigma) * np.hypot(*a), strict=True
    ):
        inside = ((places > -5 * width) & (places < np.array(shape[::-1]) + 5 * width)).all(1)
        places = places[inside] + vary * rng.standard_normal((inside.sum(), 2))
        for px, py in places:
            x0, x1 = (int(np.clip(px + s * 8 * width, 0, shape[1])) for s in (-1, 1))
            y0, y1 = (int(np.clip(py + s * 8 * width, 0, shape[0])) for s in (-1, 1))
            part = np.s_[y0:y1, x0:x1]
            image[part] += height * np.exp(-0.5 * ((x[part] - px) ** 2 + (y[part] - py) ** 2) / width**2)
        kept.append(places)
    return image + 0.2, kept[0], kept[1]


@pytest.fixture(scope="session")
def lattice_image() -> Draw:
    return draw


@pytest.fixture
def assert_units():
    def check(ds: xr.Dataset) -> None:
        bare = [name for name, variable in ds.variables.items() if not variable.attrs.get("units")]
        assert not bare, f"without units: {bare}"

    return check


@pytest.fixture(scope="session")
def polar() -> tuple[analysis.Measurement, np.ndarray]:
    """d = A − B of (+12, −30) pm at 0.18 Å per px."""
    d = np.array([12.0, -30.0])
    image, _, _ = draw(shift=tuple(-d / 100 / 0.18))
    return analysis.measure(analysis.as_image(image, pixel_size=0.18)), d
