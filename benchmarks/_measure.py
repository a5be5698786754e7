"""This toolkit's `analysis.measure`, nothing given but the pixel size; a process of its own.

python _measure.py PROBLEM.npz RESULT.npz
"""

from __future__ import annotations

import resource
import sys
import time
from importlib.metadata import version

import numpy as np

import analysis

_CELL = 3.84  # Å: what a cell stands for
_WARM_UP = 8  # cells a side
_LARGE = 2048  # px: above, measure once only


def columns(image: np.ndarray, cell: float) -> dict[str, np.ndarray]:
    """Positions (x, y) of unflagged columns and cells, px, their covariances, seconds and peak memory."""
    size = _CELL / cell
    warm = int(_WARM_UP * cell)
    begin = time.perf_counter()
    analysis.measure(analysis.as_image(image[:warm, :warm], pixel_size=size))  # imports, compilers, caches
    labelled = analysis.as_image(image, pixel_size=size)
    start, process = time.perf_counter(), time.process_time()
    measured = analysis.measure(labelled)
    result = {
        "seconds": time.perf_counter() - start,
        "seconds_cpu": time.process_time() - process,
        "seconds_warm_up": start - begin,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "version": version("tiltsim"),
    }
    if len(image) <= _LARGE:
        process = time.process_time()
        analysis.measure(labelled, lattice=measured.lattice)
        result["seconds_cpu_given_lattice"] = time.process_time() - process
    table, cells = measured.columns, measured.unit_cells
    site, good = table["site"].values, table["flag"].values == 0
    for name in "AB":
        rows = table.isel(column=good & (site == name))
        result[name] = np.stack([rows["x"].values, rows["y"].values], 1) / size
        result[f"cov_{name}"] = rows["position_cov"].values / size**2
        flagged = table.isel(column=~good & (site == name))
        result[f"flagged_{name}"] = np.stack([flagged["x"].values, flagged["y"].values], 1) / size
    cells = cells.isel(cell=cells["flag"].values == 0)
    result["cell"] = np.stack([cells["x"].values, cells["y"].values], 1) / size
    result["d"] = cells["d"].values / 100 / size
    return {key: np.asarray(value) for key, value in result.items()}


if __name__ == "__main__":
    problem = np.load(sys.argv[1])
    np.savez(sys.argv[2], **columns(problem["image"], float(problem["cell"])))
