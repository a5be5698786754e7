"""Window sizes as people write them: in Å, in unit cells or in pixels."""

from __future__ import annotations

import math
import re

from dcnn._errors import ModelError
from dcnn._windows import LARGEST, SMALLEST

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_SIZE = re.compile(rf"({_NUMBER})\s*([^\d\s.].*)?", re.IGNORECASE)
# Three signs look like Å: the letter, the obsolete sign U+212B, and A with a combining ring.
_ANGSTROM = {"", "å", "\u212b", "a\u030a", "a", "angstrom", "angstroms", "ångström"}
_CELLS = {"cell", "cells", "uc"}
_PIXELS = {"px", "pixel", "pixels"}


def window_angstrom(
    size: str | float, *, pixel_angstrom: float | None = None, cell_angstrom: float | None = None
) -> float:
    """Width of a window in Å, from a number or from text with a unit.

    Parameters
    ----------
    size : str or float
        A number means Å. Text is a number and a unit: ``"6"``, ``"6A"``, ``"6 Å"``, ``"1.5cells"``
        (pseudocubic unit cells) or ``"30px"`` (pixels of the image).
    pixel_angstrom : float, optional
        Pixel size of the image in Å; needed by a size in pixels.
    cell_angstrom : float, optional
        Lattice parameter of the image in Å; needed by a size in cells.

    Returns
    -------
    float
        Å, from 2 to 100.

    Raises
    ------
    ModelError
        If the size cannot be read, is out of range, or needs a calibration that is missing or absurd.

    Examples
    --------
    >>> window_angstrom("6A")
    6.0
    >>> window_angstrom("1.5cells", cell_angstrom=3.96)
    5.94
    >>> window_angstrom("30px", pixel_angstrom=0.2)
    6.0
    """
    number, unit = _read(size)
    if unit in _CELLS:
        scale = _calibration(size, "cells", "the lattice parameter", "cell_angstrom", cell_angstrom)
    elif unit in _PIXELS:
        scale = _calibration(size, "pixels", "the pixel size", "pixel_angstrom", pixel_angstrom)
    else:
        scale = 1.0
    # 1.5 × 3.96 is 5.9399999999999995 in binary; a name or a card should say 5.94.
    width = float(f"{number * scale:.12g}")
    if not SMALLEST <= width <= LARGEST:
        became = "" if scale == 1.0 and width == number else f" ({width:.4g} Å)"
        raise ModelError(
            f"window {_shown(size)}{became} must be from {SMALLEST:g} to {LARGEST:g} Å; about one and a half unit "
            "cells (6 Å) is usual."
        )
    return width


def _read(size: str | float) -> tuple[float, str]:
    """Number and unit, the unit in lower case."""
    if isinstance(size, bool) or not isinstance(size, str | int | float):
        raise ModelError(f"window must be a number in Å or text such as '6A' or '1.5cells', not {size!r}.")
    if not isinstance(size, str):
        return float(size), ""
    found = _SIZE.fullmatch(size.strip())
    unit = (found.group(2) or "").strip().lower() if found else ""
    if not found or unit not in _ANGSTROM | _CELLS | _PIXELS:
        raise ModelError(
            f"window {size!r} cannot be read; write a number and a unit: '6A' (Å), '1.5cells' or '30px'."
        )
    return float(found.group(1)), unit


def _calibration(size: str | float, units: str, what: str, name: str, value: float | None) -> float:
    """Å per unit, or what is missing."""
    if value is None:
        raise ModelError(
            f"window {_shown(size)} is in {units} but {what} is not known; pass {name} or write the size in Å ('6A')."
        )
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(f"{name} must be a finite number above 0, in Å, not {value!r}.")
    return float(value)


def _shown(size: str | float) -> str:
    return repr(size) if isinstance(size, str) else f"{size:g}"
