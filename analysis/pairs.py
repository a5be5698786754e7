"""How far the columns of single phonon pairs lie from those of the mean over the pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .columns import FittedColumns
from .sweeps import sweep_all

Floats = NDArray[np.float64]

# The start is within a few pm, where one Gauss-Newton step is good to some percent. The second sweep takes
# the next step, with the neighbours' tails where the first has put them: the scatter is then that of pairs
# measured by themselves to 1e-3.
_SWEEPS = 3


def pair_moves(pairs: Floats, mean: Floats, fitted: FittedColumns) -> Floats:
    """Refit every column in every pair's image, from where the mean image has it.

    Parameters
    ----------
    pairs : (n_pair, ny, nx) array
        Images of the same pixels as `mean`, NaN at no more of them.
    mean : (ny, nx) array
        The image that `fitted` was found in.
    fitted : FittedColumns

    Returns
    -------
    (n_pair, n, 2) array
        Position in the pair's image minus position in the mean image, px.

    Notes
    -----
    Windows, the noise and the slope of the background stay those of the mean image, and what the mean image's
    own fit would still move is taken off: an image equal to the mean has no moves.
    """
    moved = np.stack([_refitted(image, fitted) for image in (mean, *pairs)])
    return moved[1:, :, 2:4] - moved[0, :, 2:4]


def _refitted(image: Floats, fitted: FittedColumns) -> Floats:
    now, centre = fitted.fit.parameters, fitted.fit.parameters[:, 2:4]
    for _ in range(_SWEEPS):
        now, _ = sweep_all(image, now, centre, fitted.kind, fitted.setting, steps=1)
    return now
