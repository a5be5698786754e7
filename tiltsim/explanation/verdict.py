"""Whether to believe an answer: what must hold, what speaks against it, and what to measure where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from tiltsim.explanation.estimators import Estimate
from tiltsim.explanation.inversion import Inversion, in_image_axes
from tiltsim.explanation.leans import Leans
from tiltsim.explanation.misfit import WORST_CHI2
from tiltsim.explanation.model import OWN, SHARED
from tiltsim.explanation.profiles import Profile

Floats = NDArray[np.float64]

#: Largest χ² of nine priors: by chance one microscope in fifty is further from what it is taken to be.
FARTHEST = 20.0

#: Largest standard error of the bias, pm, and of tilt, mrad, along either axis; smaller for one variant without a reference, where
#: nothing checks the answer.
LARGEST_BIAS_STD, LARGEST_TILT_STD, ALONE = 1.5, 1.5, 0.7

#: Fewest cells that are averaged in all, and of each variant.
FEWEST_CELLS, FEWEST_EACH = 20, 10

#: Two domains are different variants if their d differ by this angle at least, degrees.
_APART = 45.0

#: Rival solutions matter if they say another bias by this much, pm, or another tilt, mrad.
RIVAL_BIAS, RIVAL_TILT = 1.5, 1.5

#: Estimators contradict each other if a difference like theirs would occur by chance less often than once in a thousand:
#: χ² of two components. Beyond their own errors, what each takes for granted may be out by this much, pm.
CONTRADICTION, GRANTED = 13.8, 0.5

#: Thinner than this, Å, a film may hide that the microscope is not the library's: with an aperture of 25 instead of 30 mrad, films of 56 and
#: 87 Å were answered without a sign of it, and 3 pm out (`benchmarks/explain.py`).
THIN = 90.0

#: Chance below which leans do not explain the tilts of all domains.
_LEANS = 1e-4

#: Largest profiled interval that holds 90 %, as a multiple of the one that the standard error gives.
LARGEST_STRETCH = 1.6

#: Unknowns whose ends tell that the model does not reach, or that nothing is known.
_TELLING = (
    "thickness",
    "defocus",
    "C12_x",
    "C12_y",
    "C21_x",
    "C21_y",
    "source_xx",
    "source_yy",
    "tilt_x",
    "tilt_y",
    "d_x",
    "d_y",
)

#: What one would call a change of an unknown, in its unit: directions of weak knowledge are told in these.
_NOTICEABLE = {
    "thickness": 20.0, "source_xx": 0.01, "source_yy": 0.01, "source_xy": 0.01, "defocus": 10.0, "C12_x": 5.0,
    "C12_y": 5.0, "C21_x": 100.0, "C21_y": 100.0, "scale": np.inf, "offset": np.inf, "tilt_x": 1.0, "tilt_y": 1.0,
    "d_x": 1.0, "d_y": 1.0, "origin_x": np.inf, "origin_y": np.inf,
}  # fmt: skip

_SAID = {
    "thickness": "thickness", "source_xx": "the source's width along x", "source_yy": "the source's width along y",
    "source_xy": "the source's direction", "defocus": "defocus", "C12_x": "astigmatism C12 along 0°",
    "C12_y": "astigmatism C12 along 45°", "C21_x": "coma C21 along x", "C21_y": "coma C21 along y",
    "scale": "brightness", "offset": "the black level", "tilt_x": "tilt along x", "tilt_y": "tilt along y", "d_x": "d along x", "d_y": "d along y",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What can be said.

    Parameters
    ----------
    identified : bool
        Whether a corrected map is given.
    objections : tuple of str
        Why not, one sentence each; empty where it is.
    remarks : tuple of str
        What to know all the same.
    advice : tuple of str
        What would settle it.
    weakest : str
        The combination of unknowns that the image tells worst.
    """

    identified: bool
    objections: tuple[str, ...]
    remarks: tuple[str, ...]
    advice: tuple[str, ...]
    weakest: str


def judge(
    inversion: Inversion,
    estimates: Sequence[Estimate],
    profiles: Sequence[Profile] = (),
    leans: Leans | None = None,
) -> Verdict:
    """Decide whether the inversion's answer is given.

    Parameters
    ----------
    inversion : Inversion
    estimates : sequence of Estimate
        The inversion's first.
    profiles : sequence of Profile
    leans : Leans, optional
        Whether these explain all tilts says what a reference's contradiction means.
    """
    variants = [r for r in inversion.regions if r.name != "reference"]
    count = len(variants)
    alone = len(inversion.regions) == count and not _differ(inversion.d[:count])
    objections: list[str] = []
    remarks: list[str] = []
    misfit = inversion.misfit
    if misfit.reduced > WORST_CHI2:
        objections.append(
            f"the averaged cells differ from every image of the library by more than noise and the library's own errors (reduced χ² "
            f"{misfit.reduced:.2f}, at most {WORST_CHI2:g}): microscope, crystal or aberrations are not the library's"
        )
    pulls = (inversion.solution.theta - inversion.posterior.mean) ** 2 * inversion.posterior.known
    if inversion.solution.prior > FARTHEST:
        names = [_SAID.get(n, n) for n, _ in inversion.model.layout.names]
        farthest = " and ".join(names[place] for place in np.argsort(-pulls)[:2] if pulls[place] > 4.0)
        objections.append(
            f"the fit needs a microscope unlike the library's: {farthest} lie far from what is taken to be known (χ² of the priors "
            f"{inversion.solution.prior:.0f}, at most {FARTHEST:g})"
        )
    thickness, _ = inversion.number("thickness")
    if thickness < THIN:
        remarks.append(
            f"the film is only {thickness / 10:.1f} nm thick, which hides it if the library's aperture, voltage or detector are not the microscope's: "
            "make sure of them"
        )
    ended = [name for name in inversion.solution.at_limit if name.split(" of ")[0] in _TELLING]
    if ended:
        objections.append(f"{', '.join(ended)} ended where the library does: the answer may lie beyond it")
    factor = ALONE if alone else 1.0
    own = estimates[0]
    for name, covariance, limit, unit in (
        ("what tilt adds to d", own.bias_cov, LARGEST_BIAS_STD * factor, "pm"),
        ("tilt", own.tilt_cov, LARGEST_TILT_STD * factor, "mrad"),
    ):
        worst = float(np.sqrt(np.einsum("kii->ki", covariance)).max())
        if worst > limit:
            objections.append(
                f"{name} is known to ± {worst:.1f} {unit} only (at most {limit:.1f}"
                f"{' with one variant and no reference' if alone else ''})"
            )
    few = sum(r.cells for r in variants)
    if few < FEWEST_CELLS:
        objections.append(f"only {few} cells are averaged (at least {FEWEST_CELLS})")
    for region in variants:
        if few >= FEWEST_CELLS and region.cells < FEWEST_EACH:
            objections.append(
                f"only {region.cells} cells of {region.name} are averaged (at least {FEWEST_EACH})"
            )
    for rival in inversion.rivals:
        tilt, d, _, _ = in_image_axes(inversion.model, inversion.regions, rival.theta)
        apart = float(np.abs(d - inversion.d)[:count].max())
        turned = float(np.abs(tilt - inversion.tilt)[:count].max())
        if apart > RIVAL_BIAS or turned > RIVAL_TILT:
            place = inversion.model.layout.place("thickness")
            objections.append(
                f"another solution, at a thickness of {rival.theta[place] / 10:.0f} nm, explains the image nearly as well and "
                f"differs by {apart:.1f} pm and {turned:.1f} mrad"
            )
            break
    for one in profiles:
        if not one.stretch <= LARGEST_STRETCH:
            low, high = one.interval
            whose = "" if one.region < 0 else f" in {inversion.regions[one.region].name}"
            objections.append(
                f"{_SAID[one.name]}{whose} is not told as its error says: profiled, 90 % lie between {low:.4g} and {high:.4g} "
                f"{(SHARED | OWN)[one.name]}"
            )
    for other in estimates[1:]:
        if not other.speaks:
            continue
        clash = contradiction(own, other)
        if clash > CONTRADICTION:
            # What others take for granted is more than the joint fit does: they warn. A reference does not where leans tell why.
            grave = other.name == "null reference" and (
                leans is None or chi2.sf(leans.chi2, max(leans.freedom, 1)) < _LEANS
            )
            text = f"{other.name} contradicts the image inversion (χ² {clash:.0f} for two components); it assumes that {other.assumes}"
            (objections if grave else remarks).append(text)
    return Verdict(
        not objections,
        tuple(objections),
        tuple(remarks),
        _advice(inversion, bool(objections)),
        weakest(inversion),
    )


def _differ(d: Floats) -> bool:
    """Whether some of d (variant, 2) point in unlike directions."""
    unit = d / np.maximum(np.hypot(*d.T), 1e-9)[:, None]
    return bool((unit @ unit.T).min() < np.cos(np.radians(_APART)))


def contradiction(one: Estimate, other: Estimate) -> float:
    """Largest χ², over the variants, of the difference of the inversion's bias and of another estimate."""
    covariances = one.bias_cov + other.bias_cov if other.apart_cov is None else other.apart_cov
    found = []
    for a, b, covariance in zip(one.bias, other.bias, covariances, strict=True):
        if np.isfinite(a).all() and np.isfinite(b).all():
            apart = a - b
            found.append(float(apart @ np.linalg.solve(covariance + GRANTED**2 * np.eye(2), apart)))
    return max(found, default=0.0)


def _advice(inversion: Inversion, needed: bool) -> tuple[str, ...]:
    if not needed:
        return ()
    variants = [r for r in inversion.regions if r.name != "reference"]
    found = []
    if inversion.misfit.reduced > WORST_CHI2:
        found.append(
            "a library built for this microscope and detector (`tiltsim library build --lens`), and less three-fold "
            "astigmatism and coma"
        )
    if len(variants) == 1:
        found.append("an image of the opposite domain under the same tilt: what both share is tilt's")
    if all(r.name != "reference" for r in inversion.regions):
        found.append("an image that also shows the substrate, whose cells have no d")
    found.append("a second image at a tilt changed by a known few mrad, or tilt and thickness from PACBED")
    if min(r.cells for r in variants) < 400:
        found.append("more cells, or a higher dose: errors fall with the root of cells × dose")
    return tuple(found)


def weakest(inversion: Inversion) -> str:
    """A sentence about the direction in which the unknowns are known worst, in noticeable units."""
    names = inversion.model.layout.names
    unit = np.array([_NOTICEABLE[n] for n, _ in names])
    scaled = inversion.covariance / unit / unit[:, None]
    power, vectors = np.linalg.eigh(scaled)
    direction = vectors[:, -1] * np.sqrt(power[-1]) * np.where(np.isfinite(unit), unit, 0.0)
    share = np.where(np.isfinite(unit), np.abs(direction) / unit, 0.0)
    share /= share.max()
    direction *= np.sign(direction[int(np.argmax(share))])
    parts: dict[str, float] = {}
    for place in np.argsort(-share):
        name = names[place][0]
        if share[place] > 0.35 and name in _SAID and name not in parts and len(parts) < 4:
            parts[name] = float(direction[place])
    units = {"thickness": "Å", "defocus": "Å", "tilt_x": "mrad", "tilt_y": "mrad", "d_x": "pm", "d_y": "pm"}
    said = [
        f"{_SAID[n]} by {v:+.2g} {units.get(n, 'Å²' if n.startswith('source') else 'Å')}"
        for n, v in parts.items()
    ]
    if len(said) == 1:
        return f"the image tells worst: {said[0]} goes unnoticed (one standard deviation)"
    return f"the image hardly tells apart changes of {', '.join(said[:-1])} and {said[-1]} together (one standard deviation)"
