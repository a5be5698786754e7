"""Aberrations that an image is asked for together: a box of them, and the polynomial that images follow inside it.

An image is not linear in aberrations, but inside a box of residual ones a polynomial foretells it: of third degree, and of fourth
in defocus and two-fold astigmatism. Measured for BiFeO3 at 5 to 30 nm, 200 kV, 30 mrad, 65–110 mrad, source 0.8 Å, defocus within
±30 Å, C12 within 20 Å, C21 within 600 Å: root mean square error 0.012 to 0.021 of the image's standard deviation (0.02 for third
degree, 0.04 for second, 0.12 for first; 0.25 to 0.33 where aberrations are left out, 0.09 to 0.18 with the ratio of transfer
functions of :mod:`tiltsim.synth.probe`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from tiltsim.errors import SettingsError

Floats = NDArray[np.float64]

#: Components of the aberrations of a box, Å: C12_x along 0°, C12_y along 45°, C21 along x and y. Directions turn from x
#: (right) towards y (down), as abTEM's.
COMPONENTS = ("defocus", "C12_x", "C12_y", "C21_x", "C21_y")

#: Degree of the polynomial; coma, whose phase is smaller, comes in terms of the lower degree only.
DEGREE, _DEGREE_WITH_COMA = 4, 3

#: Changes whenever the polynomial or what is kept of it does.
FORMAT = 2

#: Lenses for which it is kept what the polynomial leaves.
RESIDUALS = 8

#: Lenses that a polynomial is fitted to for each of its terms.
_LENSES_PER_TERM = 3


@dataclass(frozen=True)
class LensBox:
    """Residual aberrations, added to those of a microscope.

    Parameters
    ----------
    defocus : float
        Within ± this, Å.
    C12, C21 : float
        Length of two-fold astigmatism and of axial coma at most, Å.
    """

    defocus: float = 32.0
    C12: float = 22.0
    C21: float = 640.0

    def __post_init__(self) -> None:
        """Refuse boxes of nothing."""
        for name, value in asdict(self).items():
            if not 0 < value < np.inf:
                raise SettingsError(
                    f"lens.{name} {value:g} Å must be positive, e.g. {getattr(LensBox, name):g}."
                )

    @property
    def sizes(self) -> Floats:
        """Largest of each of :data:`COMPONENTS`, Å."""
        return np.array([self.defocus, self.C12, self.C12, self.C21, self.C21])

    def contains(self, aberrations: Floats) -> NDArray[np.bool_]:
        """Whether ``aberrations`` (..., 5), Å, lie within."""
        x = np.asarray(aberrations) / self.sizes
        return np.asarray(
            (np.abs(x[..., 0]) <= 1 + 1e-9)
            & (np.hypot(x[..., 1], x[..., 2]) <= 1 + 1e-9)
            & (np.hypot(x[..., 3], x[..., 4]) <= 1 + 1e-9)
        )

    def basis(self, aberrations: Floats, derivative: int | None = None) -> Floats:
        """Terms of the polynomial at ``aberrations``, or their derivatives.

        Parameters
        ----------
        aberrations : ndarray, shape (..., 5)
            :data:`COMPONENTS`, Å.
        derivative : int, optional
            By the component of this number, per Å.

        Returns
        -------
        ndarray, shape (..., term)
            Of :func:`terms`.
        """
        x = np.asarray(aberrations, dtype=float) / self.sizes
        powers = np.array(terms())
        if derivative is None:
            return np.asarray((x[..., None, :] ** powers).prod(axis=-1))
        lowered = powers.copy()
        lowered[:, derivative] = np.maximum(powers[:, derivative] - 1, 0)
        rise = powers[:, derivative] / self.sizes[derivative]
        return np.asarray(rise * (x[..., None, :] ** lowered).prod(axis=-1))

    def design(self) -> Floats:
        """Aberrations (lens, 5), Å, that are imaged to find the polynomial; the first lens has none."""
        return _design(self)

    def projector(self) -> Floats:
        """Terms (term, lens) from what each lens of :meth:`design` changes: least squares."""
        return np.asarray(np.linalg.pinv(self.basis(self.design())))

    def residuals(self) -> Floats:
        """What the polynomial leaves of some lenses (:data:`RESIDUALS`, lens), from what each lens of :meth:`design` changes.

        In units of what it leaves of lenses that it was not fitted to.
        """
        basis, projector = self.basis(self.design()), self.projector()
        lenses, count = basis.shape
        rows = np.eye(lenses)[_tried(lenses)] - basis[_tried(lenses)] @ projector
        return np.asarray(rows / (1.0 - count / lenses))

    def tried(self) -> Floats:
        """Those lenses (:data:`RESIDUALS`, 5), Å."""
        return self.design()[_tried(len(self.design()))]

    def spread(self) -> Floats:
        """Root mean square (term,) of each term inside the box."""
        return np.asarray(np.sqrt((self.basis(self.design()[1:]) ** 2).mean(axis=0)))


@lru_cache(maxsize=1)
def terms() -> tuple[tuple[int, ...], ...]:
    """Exponents of :data:`COMPONENTS` in every term of the polynomial, without the constant one."""
    found = []
    for degree in range(1, DEGREE + 1):
        for chosen in combinations_with_replacement(range(len(COMPONENTS)), degree):
            if degree <= _DEGREE_WITH_COMA or not {3, 4} & set(chosen):
                found.append(tuple(chosen.count(n) for n in range(len(COMPONENTS))))
    return tuple(found)


def _tried(lenses: int) -> NDArray[np.int_]:
    """Numbers of :data:`RESIDUALS` lenses of a design."""
    return np.asarray(1 + (np.arange(RESIDUALS) * (lenses - 1)) // RESIDUALS)


@lru_cache(maxsize=4)
def _design(box: LensBox) -> Floats:
    # Discs and an interval filled evenly by a sequence of low discrepancy.
    count = _LENSES_PER_TERM * len(terms())
    u = qmc.Halton(5, scramble=False).random(count + 1)[1:]
    result = np.zeros((count + 1, 5))
    result[1:, 0] = box.defocus * (2 * u[:, 0] - 1)
    for first, size, (r, angle) in ((1, box.C12, (1, 2)), (3, box.C21, (3, 4))):
        length, turn = size * np.sqrt(u[:, r]), 2 * np.pi * u[:, angle]
        result[1:, first], result[1:, first + 1] = length * np.cos(turn), length * np.sin(turn)
    return result


def named(aberrations: Floats) -> dict[str, float]:
    """:data:`COMPONENTS` (5,), Å, under abTEM's names, Å and rad."""
    defocus, x2, y2, x3, y3 = (float(v) for v in aberrations)
    return {
        "defocus": defocus,
        "C12": float(np.hypot(x2, y2)), "phi12": float(np.arctan2(y2, x2)) / 2,
        "C21": float(np.hypot(x3, y3)), "phi21": float(np.arctan2(y3, x3)),
    }  # fmt: skip


def components(aberrations: Mapping[str, Any]) -> Floats:
    """:data:`COMPONENTS` (5,), Å, of aberrations under abTEM's names; others are left out."""
    x2 = float(aberrations.get("C12", 0.0)) * np.exp(2j * float(aberrations.get("phi12", 0.0)))
    x3 = float(aberrations.get("C21", 0.0)) * np.exp(1j * float(aberrations.get("phi21", 0.0)))
    return np.array([float(aberrations.get("defocus", 0.0)), x2.real, x2.imag, x3.real, x3.imag])


def turned_terms(operation: NDArray[np.int_]) -> tuple[NDArray[np.int_], Floats]:
    """What a turn or mirror of the square does to the terms.

    Parameters
    ----------
    operation : ndarray, shape (2, 2)
        Of :data:`tiltsim.library.symmetry.OPERATIONS`.

    Returns
    -------
    source : ndarray of int (term,)
        Term of the crystal that becomes this term of the turned one.
    sign : ndarray (term,)
        And its factor.
    """
    listed = list(terms())
    swap = operation[0, 0] == 0
    mirror_x, mirror_y = (operation[n].sum() < 0 for n in (0, 1))
    source, sign = np.empty(len(listed), dtype=int), np.ones(len(listed))
    for number, (defocus, c12_x, c12_y, c21_x, c21_y) in enumerate(listed):
        # Mirrors keep lengths and reverse C12_y; then what pointed along x was along y before the swap.
        if mirror_x:
            sign[number] *= (-1.0) ** (c12_y + c21_x)
        if mirror_y:
            sign[number] *= (-1.0) ** (c12_y + c21_y)
        if swap:
            sign[number] *= (-1.0) ** c12_x
            c21_x, c21_y = c21_y, c21_x
        source[number] = listed.index((defocus, c12_x, c12_y, c21_x, c21_y))
    return source, sign
