"""How far the columns of single phonon pairs lie from those of the mean over the pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .columns import FittedColumns, neighbours
from .gaussians import fit_gaussians

Floats = NDArray[np.float64]

# The start is within a few pm, where one Gauss-Newton step is good to some percent. The second sweep takes
# the next step, with the neighbours' tails where the first has put them: the scatter is then that of pairs
# measured by themselves to 1e-3.
_SWEEPS = 2


def pair_moves(pairs: Floats, mean: Floats, fitted: FittedColumns, near: float) -> Floats:
    """Refit every column in every pair's image, from where the mean image has it.

    Parameters
    ----------
    pairs : (n_pair, ny, nx) array
        Images of the same pixels as `mean`, NaN at no more of them.
    mean : (ny, nx) array
        The image that `fitted` was found in.
    fitted : FittedColumns
    near : float
        Shortest A-B distance, px.

    Returns
    -------
    (n_pair, n, 2) array
        Position in the pair's image minus position in the mean image, px.

    Notes
    -----
    Windows, their weights and the slope of the background stay those of the mean image's last sweep, and
    only the change of the neighbours' tails is taken away: an image equal to the mean has no moves.
    """
    held, before = fitted.windows, fitted.fit.parameters
    count, columns = len(pairs), len(before)
    column = np.clip(held.x, 0, mean.shape[1] - 1).astype(int)
    row = np.clip(held.y, 0, mean.shape[0] - 1).astype(int)
    target = held.data + np.nan_to_num(pairs[:, row, column] - mean[row, column])

    def stacked(array: Floats) -> Floats:
        return np.broadcast_to(array, (count, *array.shape)).reshape(-1, array.shape[-1])

    def tails(parameters: Floats) -> Floats:
        return neighbours(parameters, held.ghost_row, held.ghost_offset, held.x, held.y, mean.shape, near)

    weight, x, y, lower, upper = map(stacked, (held.weight, held.x, held.y, held.lower, held.upper))
    tails_before = tails(before)
    now, data = stacked(before), target
    for sweep in range(_SWEEPS):
        if sweep:
            data = target - (np.stack([tails(one) for one in now.reshape(count, columns, -1)]) - tails_before)
        now = fit_gaussians(
            data.reshape(count * columns, -1), weight, x, y, now, lower=lower, upper=upper,
            max_iterations=1, errors=False,
        ).parameters  # fmt: skip
    return now.reshape(count, columns, -1)[..., 2:4] - before[:, 2:4]
