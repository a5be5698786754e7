"""The symmetry of the square projection: eight turns and mirrors of d, tilt and image alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Turns and mirrors of the square, acting on (x, y).
OPERATIONS = tuple(
    np.array([[sign_x, 0], [0, sign_y]]) @ np.array([[0, 1], [1, 0]] if swap else [[1, 0], [0, 1]])
    for sign_x in (1, -1)
    for sign_y in (1, -1)
    for swap in (False, True)
)


def turned(images: NDArray[np.float64], operation: NDArray[np.int_]) -> NDArray[np.float64]:
    """Response of the crystal turned by ``operation``, given that of the crystal.

    What the crystal shows at (tilt, place), the turned crystal shows at (turned tilt, turned place).

    Parameters
    ----------
    images : ndarray, shape (tilt_x, tilt_y, ..., y, x)
        Tilts from −largest to largest; one period of the image with an A column on its first sample.
    operation : ndarray, shape (2, 2)
        One of :data:`OPERATIONS`.
    """
    result = images
    swap = operation[0, 0] == 0
    if swap:
        result = np.swapaxes(np.swapaxes(result, 0, 1), -1, -2)
    for component, (tilt_axis, image_axis) in enumerate(((0, -1), (1, -2))):
        if operation[component].sum() < 0:
            result = np.flip(result, tilt_axis)
            # A period k = 0 … n − 1 mirrored about its first sample.
            result = np.roll(np.flip(result, image_axis), 1, image_axis)
    return result


def symmetrized(
    images: NDArray[np.float64], base: tuple[int, int], place: tuple[int, int]
) -> NDArray[np.float64]:
    """Response at ``place`` from that at ``base``: mean over all operations that take one to the other.

    Raises
    ------
    ValueError
        If no operation does.
    """
    found = [op for op in OPERATIONS if tuple(op @ np.array(base)) == tuple(place)]
    if not found:
        raise ValueError(f"no turn or mirror of the square takes {base} to {place}")
    return np.asarray(np.mean([turned(images, op) for op in found], axis=0))
