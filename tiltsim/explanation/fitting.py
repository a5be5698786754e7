"""The maximum of the posterior of one joint model: many starts, then damped steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltsim.bounds.fisher import inverse
from tiltsim.explanation.model import PRIORS, SOURCE, TRUST, Model
from tiltsim.explanation.regions import Region

Floats = NDArray[np.float64]

#: Starts: tilts along each axis as shares of the library's limit, and distance of thicknesses, Å.
_START_TILTS, _START_STEP = (-0.75, -0.375, 0.0, 0.375, 0.75), 25.0

#: Steps from every thickness, how many of the ends are followed, steps for them, and the fall of χ² at which a fit has ended.
_FIRST, _FOLLOWED, _STEPS, _CONVERGED = 8, 6, 40, 1e-3

#: Share of the variance of the library's errors that all variants have in common, each in its own mirror image. They are images of the
#: same simulated structures with the same phonons, whose errors at tilts 4 to 16 mrad apart correlate by 0.98 to 0.8; errors of the lens'
#: effect do by 0.9 to 0.3 for one lens, by 0.1 for different ones, and mirrored crystals see mirrored lenses.
_COMMON = {"phonons": 0.85, "model": 0.0}

#: Errors of less than this share of the noise are none.
_SMALL = 0.1

#: Where −2 log posterior for each bin ends higher than this, guesses at a defocus of this share of the library's are followed too.
_POOR, _FAR = 1.5, 0.6

#: Two ends are one solution if no unknown differs by more than this many standard errors.
_SAME = 1.0


@dataclass(frozen=True, eq=False)
class Solution:
    """A maximum of the posterior.

    Parameters
    ----------
    theta : ndarray (unknown,)
    covariance : ndarray (unknown, unknown)
        From curvature alone.
    gain : ndarray (unknown, region · n · n)
        How the maximum moves with each bin's mean: dθ = gain · d(mean).
    chi2, prior : float
        Σ (mean − model)² / variance over all bins, and the priors' share.
    image : ndarray (region, n, n)
        The model there.
    at_limit : tuple of str
        Unknowns that have ended where the library or sense does.
    """

    theta: Floats
    covariance: Floats
    gain: Floats
    chi2: float
    prior: float
    image: Floats
    at_limit: tuple[str, ...]

    @property
    def value(self) -> float:
        """−2 log posterior, up to a constant."""
        return self.chi2 + self.prior


class Posterior:
    """Data, model and priors.

    Parameters
    ----------
    model : Model
    regions : sequence of Region
    priors : mapping of str to (float, float)
        Mean and standard deviation, by the unknown's name.
    """

    def __init__(
        self,
        model: Model,
        regions: Sequence[Region],
        priors: Mapping[str, tuple[float, float]] = PRIORS,
    ) -> None:
        self.model, self.regions = model, list(regions)
        self.data = np.stack([r.mean for r in regions])
        self.weight = np.stack([r.weight for r in regions])
        names = model.layout.names
        self.mean = np.array([priors[n][0] if n in priors else 0.0 for n, _ in names])
        self.known = np.array([1.0 / priors[n][1] ** 2 if n in priors else 0.0 for n, _ in names])
        self.low, self.high = model.limits
        self._trust = model.layout.each(TRUST)
        #: What is wrong with the library's images (region · bin, sample), and what it takes off the weights; none at first.
        self.errors: Floats = np.zeros((self.data.size, 0))
        self._taken: Floats = self.errors

    def doubt(self, theta: Floats) -> None:
        """From now on weigh bins also by the errors of the library's images, as they are near ``theta`` (p,).

        The covariance of all regions' bins is D + U Uᵀ, D their variances and U (region · bin, m) errors; its inverse is
        D⁻¹ − T Tᵀ.
        """
        found = [np.zeros((self.data.size, 0))]
        materials = [r.material for r in self.regions]
        for material in dict.fromkeys(materials):
            every = {n: self.model.errors(theta, n) for n, m in enumerate(materials) if m == material}
            for kind, common in _COMMON.items():
                samples = {n: errors[kind] for n, errors in every.items() if kind in errors}
                if common and samples:
                    found.append(self._telling({n: np.sqrt(common) * s for n, s in samples.items()}))
                found += [self._telling({n: np.sqrt(1.0 - common) * s}) for n, s in samples.items()]
        u = np.concatenate(found, axis=1)
        weight = self.weight.ravel()[:, None]
        inner = np.eye(u.shape[1]) + u.T @ (weight * u)
        self.errors = u
        self._taken = weight * u @ np.linalg.inv(np.linalg.cholesky(inner)).T

    def _telling(self, samples: Mapping[int, Floats]) -> Floats:
        """Few columns (region · bin, m) with the covariance of samples (k, n, n) by region, where noise does not hide it."""
        size = self.data[0].size
        rows = np.concatenate([np.arange(number * size, (number + 1) * size) for number in samples])
        u = np.concatenate([images.reshape(len(images), size) for images in samples.values()], axis=1).T
        power, turn = np.linalg.eigh(u.T @ (self.weight.ravel()[rows, None] * u))
        kept = power > _SMALL**2
        found = np.zeros((self.data.size, int(kept.sum())))
        found[rows] = u @ turn[:, kept]
        return found

    def _weighted(self, bins: Floats) -> Floats:
        """Inverse covariance of all bins times ``bins`` (..., region, n, n), flat (..., region · n · n)."""
        flat = bins.reshape(*bins.shape[:-3], -1)
        return np.asarray(flat * self.weight.ravel() - (flat @ self._taken) @ self._taken.T)

    def value(self, theta: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """χ² (k,), the priors' share (k,), information (k, p, p) and score (k, p) at ``theta`` (k, p)."""
        image, slopes = self.model.predict(theta)
        left = self.data - image
        weighted = self._weighted(left)
        chi2 = (weighted * left.reshape(len(theta), -1)).sum(axis=1)
        flat = slopes.reshape(*slopes.shape[:2], -1)
        information = self._weighted(slopes) @ np.swapaxes(flat, 1, 2) + np.diag(self.known)
        score = np.einsum("kpb,kb->kp", flat, weighted)
        score += self.known * (self.mean - theta)
        return chi2, (self.known * (theta - self.mean) ** 2).sum(axis=1), information, score

    def climb(
        self, theta: Floats, steps: int, fixed: int | None = None, converged: float = _CONVERGED
    ) -> tuple[Floats, Floats]:
        """Follow guesses (k, p) uphill, the unknown ``fixed`` where it is; where they end, and −2 log posterior there."""
        theta = self.model.within(theta)
        damping = np.full(len(theta), 1e-3)
        chi2, prior, information, score = self.value(theta)
        best = chi2 + prior
        going = np.ones(len(theta), dtype=bool)
        for _ in range(steps):
            at = np.flatnonzero(going)
            if not len(at):
                break
            held = ((theta[at] <= self.low) & (score[at] < 0)) | ((theta[at] >= self.high) & (score[at] > 0))
            if fixed is not None:
                held[:, fixed] = True
            curvature = np.where(held[:, :, None] | held[:, None, :], 0.0, information[at])
            diagonal = np.einsum("kpp->kp", curvature)
            diagonal += diagonal * damping[at, None] + held + 1e-12
            step = np.linalg.solve(curvature, np.where(held, 0.0, score[at])[..., None])[..., 0]
            step /= np.maximum(np.abs(step / self._trust).max(axis=1, keepdims=True), 1.0)
            proposed = self.model.within(theta[at] + step)
            c, p, i, s = self.value(proposed)
            gained = best[at] - (c + p)
            better = gained > 0
            up = at[better]
            theta[up], best[up] = proposed[better], (c + p)[better]
            information[up], score[up] = i[better], s[better]
            damping[up] = np.maximum(damping[up] / 5.0, 1e-8)
            damping[at[~better]] *= 6.0
            # A small gain of a heavily damped step says nothing.
            ended = (better & (gained < converged) & (damping[at] < 1e-2)) | (damping[at] > 1e5)
            going[at[ended]] = False
        return theta, best

    def start(self, defocus: float = 0.0) -> Floats:
        """Guesses (k, p): for each thickness, the tilts with which each region's linear model explains it best, at one ``defocus``, Å."""
        library, layout = self.model.library, self.model.layout
        thin, thick = library.thickness_range
        count = max(2, int(np.ceil((thick - thin) / _START_STEP)))
        thicknesses = np.linspace(thin, thick, 2 * count + 1)[1::2]
        tilts = np.array([(x, y) for x in _START_TILTS for y in _START_TILTS]) * library.tilt_limit
        base = layout.each({name: 0.0 for name, _ in layout.names})
        base[[layout.place("source_xx"), layout.place("source_yy")]] = SOURCE
        base[layout.place("scale")], base[layout.place("defocus")] = 1.0, defocus
        for number, region in enumerate(self.regions):
            if region.material != layout.null:
                along = np.linalg.solve(region.stretch(), region.apparent)
                limit = 0.9 * library.d_limit
                for axis, name in enumerate(("d_x", "d_y")):
                    base[layout.place(name, number)] = np.clip(along[axis], -limit, limit)
        trust = np.where(np.isfinite(self._trust), 3.0 * self._trust, 1e3)
        starts = np.tile(base, (len(thicknesses), 1))
        starts[:, layout.place("thickness")] = thicknesses
        for row, start in enumerate(starts):
            guesses = np.tile(start, (len(tilts), 1))
            for axis, name in enumerate(("tilt_x", "tilt_y")):
                guesses[:, layout.of(name)] = tilts[:, axis, None]
            image, slopes = self.model.predict(guesses)
            # Scale and offset first, by least squares, so that what is linear is near.
            scale, offset = _levels(image, self.data, self.weight)
            image = scale[:, None, None, None] * image + offset[:, None, None, None]
            slopes = slopes * scale[:, None, None, None, None]
            slopes[:, layout.place("offset")] = 1.0
            guesses[:, layout.place("scale")] = scale
            guesses[:, layout.place("offset")] = np.clip(offset, -0.3, 0.3)
            chosen = start.copy()
            chosen[layout.place("scale")], chosen[layout.place("offset")] = (
                np.median(scale),
                np.median(guesses[:, layout.place("offset")]),
            )
            for number in range(len(self.regions)):
                mine = [p for p, (_, r) in enumerate(layout.names) if r in (-1, number)]
                flat = slopes[:, mine, number].reshape(len(tilts), len(mine), -1)
                weight = self.weight[number].ravel()
                # As if no more than so much were known: linear models of images that are nowhere near would be believed.
                weight = weight * min(
                    1.0, _COMPARED / max(float((weight * self.data[number].ravel() ** 2).sum()), 1e-9)
                )
                left = (self.data[number] - image[:, number]).reshape(len(tilts), -1)
                information = (flat * weight) @ np.swapaxes(flat, 1, 2)
                information += np.diag(self.known[mine] + 1.0 / trust[mine] ** 2)
                score = np.einsum("kpb,kb->kp", flat, left * weight)
                step = np.linalg.solve(information, score[..., None])[..., 0]
                value = (left**2 @ weight) - (score * step).sum(axis=1)
                best = int(np.argmin(value))
                for name in ("tilt_x", "tilt_y", "d_x", "d_y", "origin_x", "origin_y"):
                    place = layout.of(name)[number]
                    if place >= 0:
                        limit = 3.0 * self._trust[place]
                        chosen[place] = guesses[best, place] + np.clip(
                            step[best, mine.index(place)], -limit, limit
                        )
            starts[row] = chosen
        return self.model.within(starts)

    def solutions(self) -> list[Solution]:
        """All distinct maxima that were found, the best first."""
        theta, value = self._ends(0.0)
        if value.min() > _POOR * self.data.size:
            # Beyond focus and short of it lie valleys of their own.
            far = _FAR * self.high[self.model.layout.place("defocus")]
            more = [(theta, value), *(self._ends(sign * far) for sign in (-1.0, 1.0))]
            theta, value = (np.concatenate(parts) for parts in zip(*more, strict=True))
            order = np.argsort(value)[:_FOLLOWED]
            theta, value = theta[order], value[order]
        self.doubt(theta[np.argmin(value)])
        theta, value = self.climb(theta, _STEPS)
        found: list[Solution] = []
        for row in np.argsort(value):
            one = self._solution(theta[row])
            error = np.sqrt(np.diag(one.covariance))
            if all((np.abs(one.theta - other.theta) > _SAME * error).any() for other in found):
                found.append(one)
        return found

    def _ends(self, defocus: float) -> tuple[Floats, Floats]:
        """Where the best guesses at a ``defocus`` lead to, and −2 log posterior there."""
        theta, value = self.climb(self.start(defocus), _FIRST)
        return self.climb(theta[np.argsort(value)[:_FOLLOWED]], _STEPS)

    def _solution(self, theta: Floats) -> Solution:
        image, slopes = self.model.predict(theta[None])
        chi2, prior, information, _ = self.value(theta[None])
        covariance = inverse(information[0])
        held = (theta <= self.low) | (theta >= self.high)
        for pair in self.model.lens_pairs:
            held[pair] |= np.hypot(*(theta[pair] / self.high[pair])) >= 1.0 - 1e-6
        names = tuple(
            f"{n} of {self.regions[r].name}" if r >= 0 else n
            for (n, r), h in zip(self.model.layout.names, held, strict=True)
            if h
        )
        return Solution(
            theta,
            covariance,
            covariance @ self._weighted(slopes[0]),
            float(chi2[0]),
            float(prior[0]),
            image[0],
            names,
        )

    def sandwich(self, solution: Solution) -> Floats:
        """Covariance (p, p) of the solution from how bands of scan lines differ, noise of any kind, and from errors of the library.

        Never less than the curvature tells: bands are few.
        """
        total = np.zeros_like(solution.covariance)
        size = self.data[0].size
        for number, region in enumerate(self.regions):
            moved = region.scatter() @ solution.gain[:, number * size : (number + 1) * size].T
            total += moved.T @ moved
        wrong = solution.gain @ self.errors
        total += wrong @ wrong.T
        # Priors add what they do not know.
        total += solution.covariance @ np.diag(self.known) @ solution.covariance
        least = np.sqrt(np.maximum(np.diag(solution.covariance) / np.maximum(np.diag(total), 1e-300), 1.0))
        return np.asarray(total * least[:, None] * least)


def _levels(image: Floats, data: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Scale and offset (k,) that bring images (k, region, n, n) nearest to the data."""
    axes = (1, 2, 3)
    total = weight.sum()
    m, d = (weight * image).sum(axis=axes) / total, (weight * data).sum() / total
    away = image - m[:, None, None, None]
    scale = (weight * away * (data - d)).sum(axis=axes) / np.maximum((weight * away**2).sum(axis=axes), 1e-30)
    scale = np.maximum(scale, 1e-3)
    return scale, d - scale * m


#: Starts are compared as if the averaged cell were known no better than this signal to noise ratio, squared.
_COMPARED = 2e5
