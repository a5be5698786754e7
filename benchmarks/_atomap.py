"""The peer: Atomap, as its documentation goes about a perovskite; a process of its own.

python _atomap.py PROBLEM.npz RESULT.npz
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from importlib.metadata import version

import atomap.api as am
import hyperspy.api as hs
import numpy as np
from atomap.tools import remove_atoms_from_image_using_2d_gaussian

_SEPARATION = 0.75  # cells: least distance of two maxima, between A-B (0.71) and A-A (1)


def columns(image: np.ndarray, cell: float) -> dict[str, np.ndarray]:
    """Positions (x, y) of A and B, px, and seconds.

    A is found, refined by its centre of mass and then by Gaussians, and taken out of the image; B is then
    refined likewise, from the middle between two A columns along a diagonal of the cell.
    """
    start, process = time.perf_counter(), time.process_time()
    found = am.get_atom_positions(hs.signals.Signal2D(image), separation=_SEPARATION * cell)
    first = _refined(found, image)
    first.construct_zone_axes()
    diagonal = first.zones_axis_average_distances[2]  # they come shortest first
    between = first.find_missing_atoms_from_zone_vector(diagonal)
    without = remove_atoms_from_image_using_2d_gaussian(image, first, show_progressbar=False)
    second = _refined(between, without)
    return {
        "A": first.atom_positions,
        "B": second.atom_positions,
        "seconds_cpu": np.array(time.process_time() - process),
        "seconds": np.array(time.perf_counter() - start),
        "version": np.array(version("atomap")),
    }


def _refined(positions: np.ndarray, image: np.ndarray) -> am.Sublattice:
    sublattice = am.Sublattice(positions, image=image, fix_negative_values=True)
    sublattice.find_nearest_neighbors()
    sublattice.refine_atom_positions_using_center_of_mass(show_progressbar=False)
    sublattice.refine_atom_positions_using_2d_gaussian(show_progressbar=False)
    return sublattice


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    problem = np.load(sys.argv[1])
    np.savez(sys.argv[2], **columns(problem["image"], float(problem["cell"])))
