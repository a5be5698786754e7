"""What the averaged cells of all regions should look like, and how that changes with every unknown: one model, jointly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tiltsim.explanation.regions import BINS, Region
from tiltsim.lens import COMPONENTS
from tiltsim.library import Library
from tiltsim.library.periods import library_periods

Floats = NDArray[np.float64]

#: Unknowns that all regions share, and their units. ``scale`` and ``offset`` are those of the image, in units of its mean.
SHARED = {
    "thickness": "Å", "source_xx": "Å²", "source_yy": "Å²", "source_xy": "Å²",
    **dict.fromkeys(COMPONENTS, "Å"), "scale": "1", "offset": "1",
}  # fmt: skip

#: Unknowns of each region, along its lattice's axes.
OWN = {
    "tilt_x": "mrad", "tilt_y": "mrad", "d_x": "pm", "d_y": "pm", "origin_x": "pm", "origin_y": "pm",
}  # fmt: skip

#: Means and standard deviations of the Gaussian priors: what a corrected microscope's residual aberrations are, a source of 0.8 ± 0.2 Å,
#: a detector whose black level is known and taken off. None of tilt, thickness and scale; d only has the library's range.
SOURCE = 0.8**2 / (8 * np.log(2))
PRIORS: dict[str, tuple[float, float]] = {
    "source_xx": (SOURCE, 0.05), "source_yy": (SOURCE, 0.05), "source_xy": (0.0, 0.03),
    "defocus": (0.0, 20.0), "C12_x": (0.0, 10.0), "C12_y": (0.0, 10.0), "C21_x": (0.0, 300.0), "C21_y": (0.0, 300.0),
    "offset": (0.0, 0.02),
}  # fmt: skip

#: The same where nobody knows the black level: detectors' often lies at a third of the mean.
UNKNOWN_BLACK: dict[str, tuple[float, float]] = PRIORS | {"offset": (0.0, 0.4)}

#: How far a step may go at once.
TRUST = {
    "thickness": 25.0, "source_xx": 0.04, "source_yy": 0.04, "source_xy": 0.03, "defocus": 10.0, "C12_x": 6.0,
    "C12_y": 6.0, "C21_x": 200.0, "C21_y": 200.0, "scale": np.inf, "offset": 0.1, "tilt_x": 3.0, "tilt_y": 3.0,
    "d_x": 10.0, "d_y": 10.0, "origin_x": 10.0, "origin_y": 10.0,
}  # fmt: skip

#: Limits of the source's covariance, Å²: the library has nothing finer than 0.5 Å.
_SHARPEST, _WIDEST = 0.045, 0.6


@dataclass(frozen=True)
class Layout:
    """Which unknown is where in a vector of all.

    Parameters
    ----------
    regions : tuple of str
        Materials of the regions; in those of ``null``, d is 0 and no unknown.
    null : str
        Material without polarization.
    """

    regions: tuple[str, ...]
    null: str = "SrTiO3"

    @property
    def names(self) -> list[tuple[str, int]]:
        """Name and region (−1: shared) of every unknown."""
        found = [(name, -1) for name in SHARED]
        for number, material in enumerate(self.regions):
            found += [(n, number) for n in OWN if not (material == self.null and n.startswith("d_"))]
        return found

    def place(self, name: str, region: int = -1) -> int:
        """Of an unknown in the vector."""
        return self.names.index((name, region))

    def of(self, name: str) -> NDArray[np.int_]:
        """Places of an unknown of every region, −1 where it is none."""
        names = self.names
        return np.array(
            [names.index((name, r)) if (name, r) in names else -1 for r in range(len(self.regions))]
        )

    def each(self, values: dict[str, float]) -> Floats:
        """A number for every unknown from one for every name."""
        return np.array([values[name] for name, _ in self.names])


class Model:
    """Averaged cells of regions from a library.

    Parameters
    ----------
    library : Library
        With a lens.
    regions : sequence of Region
    samarium : float
        Fraction, in the film.
    """

    def __init__(self, library: Library, regions: Sequence[Region], samarium: float = 0.0) -> None:
        self.samarium = samarium
        self.library, self.layout = library, Layout(tuple(r.material for r in regions))
        self._material = np.array([library.materials.index(r.material) for r in regions])
        self._edges = np.stack([r.edges for r in regions])
        self._offset = np.stack([r.offset for r in regions], axis=1)

    @cached_property
    def limits(self) -> tuple[Floats, Floats]:
        """Least and largest of every unknown: the library's, and what makes sense."""
        library = self.library
        t, d, (thin, thick) = library.tilt_limit, library.d_limit, library.thickness_range
        lens = library.lens.sizes if library.lens else np.zeros(5)
        high = {
            "thickness": thick, "source_xx": _WIDEST, "source_yy": _WIDEST, "source_xy": 0.3, "scale": np.inf,
            "offset": 0.9, "tilt_x": t, "tilt_y": t, "d_x": d, "d_y": d, "origin_x": 150.0, "origin_y": 150.0,
            **dict(zip(COMPONENTS, lens, strict=True)),
        }  # fmt: skip
        low = {n: -v for n, v in high.items()} | {
            "thickness": thin, "source_xx": _SHARPEST, "source_yy": _SHARPEST, "scale": 1e-6,
        }  # fmt: skip
        return self.layout.each(low), self.layout.each(high)

    @cached_property
    def lens_pairs(self) -> list[NDArray[np.int_]]:
        """Places of the components of C12 and of C21: the library's lens holds discs of them."""
        return [np.array([self.layout.place(f"{n}_{axis}") for axis in "xy"]) for n in ("C12", "C21")]

    def within(self, theta: Floats) -> Floats:
        """``theta`` (..., unknown) moved to where the library reaches."""
        low, high = self.limits
        theta = np.clip(theta, low, high)
        for pair in self.lens_pairs:
            theta[..., pair] /= np.maximum(np.hypot(*np.moveaxis(theta[..., pair] / high[pair], -1, 0)), 1.0)[
                ..., None
            ]
        return np.asarray(theta)

    def predict(self, theta: Floats) -> tuple[Floats, Floats]:
        """Images of all regions and their derivatives.

        Parameters
        ----------
        theta : ndarray, shape (k, unknown)
            Several guesses at once.

        Returns
        -------
        image : ndarray, shape (k, region, n, n)
            In units of the image's mean.
        slopes : ndarray, shape (k, unknown, region, n, n)
        """
        layout, count = self.layout, len(self.layout.regions)
        k = len(theta)

        def shared(name: str) -> Floats:
            return np.repeat(theta[:, layout.place(name), None], count, axis=1)

        def own(name: str) -> Floats:
            places = layout.of(name)
            return np.where(places >= 0, theta[:, np.maximum(places, 0)], 0.0)

        image, slopes = library_periods(
            self.library,
            np.stack([own("tilt_x"), own("tilt_y")], -1),
            shared("thickness"),
            np.stack([own("d_x"), own("d_y")], -1),
            material=np.broadcast_to(self._material, (k, count)),
            samples=BINS,
            aberrations=np.stack([shared(name) for name in COMPONENTS], -1),
            edges=np.broadcast_to(self._edges, (k, count, 2)),
            samarium=np.broadcast_to(np.where(self._material == 0, self.samarium, 0.0), (k, count)),
        )
        # The source acts on the image as it lies; the lattice's angle is small against what its covariance tells.
        kx = np.fft.rfftfreq(BINS)[None, :] * BINS / self._edges[:, 0, None, None]
        ky = np.fft.fftfreq(BINS)[:, None] * BINS / self._edges[:, 1, None, None]
        xx, yy, xy, ox, oy = (
            v[..., None, None]
            for v in (*(shared(f"source_{n}") for n in ("xx", "yy", "xy")), own("origin_x"), own("origin_y"))
        )
        factor = np.exp(
            -2.0 * np.pi**2 * (xx * kx**2 + yy * ky**2 + 2.0 * xy * kx * ky)
            - 2j * np.pi * (kx * ox + ky * oy) / 100.0
        )
        c = np.fft.rfft2(image) * factor
        changes = {
            "source_xx": -2.0 * np.pi**2 * kx**2, "source_yy": -2.0 * np.pi**2 * ky**2,
            "source_xy": -4.0 * np.pi**2 * kx * ky, "origin_x": -2j * np.pi * kx / 100.0,
            "origin_y": -2j * np.pi * ky / 100.0,
        }  # fmt: skip
        names = [n for n in (*SHARED, *OWN) if n in slopes]
        everything = np.concatenate(
            [
                c[None],
                np.fft.rfft2(np.stack([slopes[n] for n in names])) * factor,
                np.stack([c * change for change in changes.values()]),
            ]
        )
        pictures = np.fft.irfft2(everything, s=(BINS, BINS))
        parts = dict(zip(("", *names, *changes), pictures, strict=True))
        # Pixels need not lie in the middle of their bins.
        along_x, along_y = (100.0 * self._edges[:, n, None, None] * self._offset[n] for n in (0, 1))
        shift = -along_x * parts["origin_x"] - along_y * parts["origin_y"]
        plain = parts.pop("") + shift
        scale = shared("scale")[..., None, None]
        result = np.zeros((k, len(theta[0]), count, BINS, BINS))
        for place, (name, region) in enumerate(layout.names):
            if name == "scale":
                result[:, place] = plain
            elif name == "offset":
                result[:, place] = 1.0
            elif region < 0:
                result[:, place] = scale * parts[name]
            else:
                result[:, place, region] = scale[:, region] * parts[name][:, region]
        return scale * plain + shared("offset")[..., None, None], result

    def errors(self, theta: Floats, region: int) -> dict[str, Floats]:
        """Samples (m, n, n) of what is wrong with the library's image of a region, by kind, in units of the image's mean."""
        layout = self.layout
        places = [layout.of(name)[region] for name in ("d_x", "d_y")]
        signs = tuple(1 if p < 0 or theta[p] >= 0 else -1 for p in places)
        thickness = float(theta[layout.place("thickness")])
        found = self.library.errors(layout.regions[region], thickness, (signs[0], signs[1]))
        return {kind: self.soften(images, theta, region) for kind, images in found.items()}

    def soften(self, periods: Floats, theta: Floats, region: int) -> Floats:
        """Images (m, n, n) of one period, fraction of the beam, as bins of a region show them: blurred by the source, in units of the image's mean."""
        n = periods.shape[-1]
        k = np.fft.fftfreq(n, 1.0 / n)
        kx, ky = k[None, :] / self._edges[region, 0], k[:, None] / self._edges[region, 1]
        xx, yy, xy = (float(theta[self.layout.place(f"source_{c}")]) for c in ("xx", "yy", "xy"))
        soft = np.exp(-2.0 * np.pi**2 * (xx * kx**2 + yy * ky**2 + 2.0 * xy * kx * ky))
        spectrum = np.fft.fft2(periods) / n**2 * soft
        waves = np.exp(2j * np.pi * np.arange(BINS)[:, None] / BINS * k)
        return np.asarray(float(theta[self.layout.place("scale")]) * np.real(waves @ spectrum @ waves.T))
