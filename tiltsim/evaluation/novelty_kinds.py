"""Images of things that a network for perovskites along [100] has never been shown, and of those that it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import analysis
from tiltsim.images import apply_dose
from tiltsim.library import Library
from tiltsim.synth import synthesize
from tiltsim.synth.detection import Detection
from tiltsim.synth.recipe import Recipe, load_recipe
from tiltsim.synth.synthesis import Field

Floats = NDArray[np.float64]

#: Doses of all images, e/Å², drawn evenly in the logarithm; side, px; stream of random numbers; edge of a cell, Å.
_DOSES, _SIZE, _STREAM, _EDGE = (1e4, 1e5), 256, 91, 3.96

#: Real micrographs are cut into pieces this wide, Å.
_PIECE = 32.0


@dataclass(frozen=True, eq=False)
class Sample:
    """An image and where a model is to look: B columns where there are any, or a square grid; (n, 2), Å."""

    image: xr.DataArray
    centres: Floats


def known_recipe(library: Library) -> Recipe:
    """The recipe of training, on smaller fields and within what ``library`` holds."""
    recipe = load_recipe("synth-networks")
    low, high = library.thickness_range
    kinds = []
    for kind in recipe.specimens:
        # Wedges, bending and leans of the variants come on top of the mean.
        thick = (max(50.0, low), min(390.0, high))
        if thick[0] >= 0.9 * thick[1] or low > 40.0 or high < 390.0:
            thick = (low + 0.1 * (high - low), high - 0.1 * (high - low))
        changes: dict[str, Any] = {"thickness": thick, "tilt": (0.0, min(12.0, 0.75 * library.tilt_limit))}
        if library.tilt_limit < 15.0:
            changes |= {"lean_scale": 0.0, "bending": 0.0}
        kinds.append(replace(kind, **changes))
    return replace(recipe, specimens=tuple(kinds), size=(_SIZE, _SIZE))


def known_field(library: Library, seed: int, number: int) -> Sample:
    """A held-out field like those of the training."""
    return _from_field(synthesize(known_recipe(library), library, seed, number))


def _from_field(field: Field) -> Sample:
    return Sample(field.image, _centres(field))


def _centres(field: Field) -> Floats:
    inside = field.truth.inside.values
    return np.asarray(field.truth.b_image.values[inside], dtype=float)


def _rng(seed: int, number: int, kind: int) -> np.random.Generator:
    return np.random.default_rng([_STREAM, seed, number, kind])


def _dose(rng: np.random.Generator) -> float:
    return float(_DOSES[0] * (_DOSES[1] / _DOSES[0]) ** rng.random())


def _counted(values: Floats, pixel: float, rng: np.random.Generator) -> xr.DataArray:
    """Poisson noise on fractions of the beam."""
    axis = {d: (d, np.arange(n) * pixel, {"units": "Å"}) for d, n in zip("yx", values.shape, strict=True)}
    image = xr.DataArray(
        values, dims=("y", "x"), coords=axis, attrs={"units": "1", "pixel_size_angstrom": pixel}
    )
    return apply_dose(image, _dose(rng), int(rng.integers(2**31)))


def _grid(image: xr.DataArray) -> Floats:
    """A square grid of places a cell apart."""
    places = [np.arange(v[0] + _EDGE, v[-1] - _EDGE, _EDGE) for v in (image.x.values, image.y.values)]
    return np.stack(np.meshgrid(*places), -1).reshape(-1, 2)


def _blank(rng: np.random.Generator) -> tuple[float, float]:
    """Pixel, Å, and mean fraction of the beam of an image without a lattice."""
    return float(rng.uniform(0.16, 0.24)), float(rng.uniform(0.01, 0.08))


def poisson(library: Library, seed: int, number: int) -> Sample:
    """Nothing but counts: vacuum, or a hole with some background."""
    rng = _rng(seed, number, 0)
    pixel, mean = _blank(rng)
    image = _counted(np.full((_SIZE, _SIZE), mean), pixel, rng)
    return Sample(image, _grid(image))


def amorphous(library: Library, seed: int, number: int) -> Sample:
    """Thin amorphous material: random contrast within the probe's band, with no spacing of its own but that of neighbours, 2 to 4 Å."""
    rng = _rng(seed, number, 1)
    pixel, mean = _blank(rng)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(_SIZE, pixel), np.fft.fftfreq(_SIZE, pixel)))
    centre, width = rng.uniform(0.25, 0.5), rng.uniform(0.08, 0.2)
    power = np.exp(-0.5 * ((k - centre) / width) ** 2) + 0.3 * np.exp(-0.5 * (k / 0.1) ** 2)
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((_SIZE, _SIZE))) * np.sqrt(power)).real
    contrast = rng.uniform(0.1, 0.4) * noise / noise.std()
    image = _counted(mean * np.exp(contrast), pixel, rng)
    return Sample(image, _grid(image))


def zone_110(library: Library, seed: int, number: int) -> Sample:
    """A perovskite along [110]: A and B columns alternate along [001] in rows a/√2 apart; Gaussian columns on a background."""
    rng = _rng(seed, number, 2)
    pixel, mean = _blank(rng)
    x, y = np.meshgrid(np.arange(_SIZE) * pixel, np.arange(_SIZE) * pixel)
    angle = np.radians(rng.uniform(-5, 5) + rng.choice([0.0, 90.0]))
    c, s = np.cos(angle), np.sin(angle)
    u, v = c * x + s * y, c * y - s * x
    ratio, sigma = rng.uniform(0.2, 0.5), rng.uniform(0.4, 0.55)
    values = np.full(x.shape, 0.3 * mean)
    phase = rng.random(2)
    period = np.array([_EDGE / np.sqrt(2.0), _EDGE])
    for height, shift in ((1.0, 0.0), (ratio, 0.5)):
        p = u / period[0] + phase[0]
        q = v / period[1] + phase[1] + shift
        apart = ((p - np.round(p)) * period[0]) ** 2 + ((q - np.round(q)) * period[1]) ** 2
        values += 3.0 * mean * height * np.exp(-0.5 * apart / sigma**2)
    image = _counted(values, pixel, rng)
    # The B columns, so that a centred network sees one in the middle.
    half = 2 * int(_SIZE * pixel / period[0]) + 4
    i, j = np.meshgrid(np.arange(-half, half), np.arange(-half, half))
    uv = np.stack([(i - phase[0]) * period[0], (j - phase[1] - 0.5) * period[1]], -1).reshape(-1, 2)
    places = np.stack([c * uv[:, 0] - s * uv[:, 1], s * uv[:, 0] + c * uv[:, 1]], -1)
    inside = ((places > _EDGE) & (places < _SIZE * pixel - _EDGE)).all(axis=1)
    return Sample(image, places[inside])


def _changed(library: Library, seed: int, number: int, **faults: object) -> Field:
    recipe = known_recipe(library)
    return synthesize(replace(recipe, faults=replace(recipe.faults, **faults)), library, seed, number)  # type: ignore[arg-type]


def turned_45(library: Library, seed: int, number: int) -> Sample:
    """The lattice at 45° to the scan, where training had it within 5°."""
    recipe = known_recipe(library)
    kinds = tuple(replace(kind, rotation=(40.0, 50.0)) for kind in recipe.specimens)
    return _from_field(synthesize(replace(recipe, specimens=kinds), library, seed, number))


def magnified(library: Library, seed: int, number: int) -> Sample:
    """A pixel size that is wrong by 1.4."""
    field = synthesize(known_recipe(library), library, seed, number)
    image = field.image.assign_coords(
        {d: (d, field.image[d].values * 1.4, {"units": "Å"}) for d in ("y", "x")}
    )
    image.attrs = {**field.image.attrs, "pixel_size_angstrom": field.image.attrs["pixel_size_angstrom"] * 1.4}
    return Sample(image, _centres(field) * 1.4)


def blurred(library: Library, seed: int, number: int) -> Sample:
    """A source three times as wide as it should be, 2.4 Å."""
    recipe = known_recipe(library)
    probe = replace(recipe.faults.probe, source_fwhm=(2.2, 2.6))
    return _from_field(_changed(library, seed, number, probe=probe))


def without_b(library: Library, seed: int, number: int) -> Sample:
    """The B columns taken out: what stands there becomes the background between columns."""
    field = _changed(library, seed, number, detection=Detection())
    rng = _rng(seed, number, 3)
    pixel = float(field.image.attrs["pixel_size_angstrom"])
    values = field.image.values.astype(float)
    x, y = field.image.x.values, field.image.y.values
    places = field.truth.b_image.values.reshape(-1, 2)
    apart = np.full(values.shape, np.inf)
    for bx, by in places:  # within 2 Å of a column only
        rows, columns = (np.flatnonzero(np.abs(axis - b) < 2.0) for axis, b in ((y, by), (x, bx)))
        if len(rows) and len(columns):
            window = np.ix_(rows, columns)
            found = (x[columns] - bx) ** 2 + (y[rows, None] - by) ** 2
            apart[window] = np.minimum(apart[window], found)
    share = np.exp(-0.5 * (apart / 0.8**2) ** 2)  # flat over the column, gone where A begins
    background = np.percentile(values, 10.0)
    image = _counted(np.maximum(values * (1 - share) + background * share, 0.0), pixel, rng)
    return Sample(image, _centres(field))


def contaminated(library: Library, seed: int, number: int) -> Sample:
    """A lattice that is lost under contamination: smooth blobs as bright as the columns over all of it."""
    field = _changed(library, seed, number, detection=Detection())
    rng = _rng(seed, number, 4)
    pixel = float(field.image.attrs["pixel_size_angstrom"])
    values = field.image.values.astype(float)
    blobs = gaussian_filter(rng.standard_normal(values.shape), 1.5 / pixel, mode="wrap")
    blobs = np.maximum(blobs / blobs.std(), 0.0) * np.percentile(values, 99)
    return Sample(_counted(values + blobs, pixel, rng), _centres(field))


#: Makers of samples that are unlike the training's, by name: called with a library, a seed and the number of the image.
KINDS: dict[str, Callable[[Library, int, int], Sample]] = {
    "counts only": poisson,
    "amorphous": amorphous,
    "[110] zone": zone_110,
    "turned by 45°": turned_45,
    "magnified ×1.4": magnified,
    "source ×3": blurred,
    "no B columns": without_b,
    "contamination": contaminated,
}


def real_110(folder: Path) -> list[Sample]:
    """Pieces of a micrograph of SrTiO3 along [110], ``STO_ADF.hdf5``; empty where it is not in ``folder``."""
    path = Path(folder) / "STO_ADF.hdf5"
    if not path.is_file():
        return []
    # Its pixel size carries no unit; nanometres give the lattice of SrTiO3.
    image = analysis.load(path, pixel_size=0.09326)
    found = []
    pixel = float(image.x[1] - image.x[0])
    size = int(_PIECE / pixel)
    for top in range(0, image.sizes["y"] - size + 1, size):
        for left in range(0, image.sizes["x"] - size + 1, size):
            piece = image.isel(y=slice(top, top + size), x=slice(left, left + size))
            found.append(Sample(piece, _grid(piece)))
    return found
