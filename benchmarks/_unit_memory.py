"""Peak memory of one unit of work in a process of its own: `python _unit_memory.py '{"tilts": 49, …}'` prints JSON."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import structures
import tiltsim
from tiltsim import estimate, smatrix
from tiltsim.jobs import Job, Unit
from tiltsim.simulate import prepare


def job_of(tilts: int, thickness: float, cells: tuple[int, int], outer: float) -> Job:
    """R3c, ``tilts`` to ±10 mrad on a square grid, one thickness in Å, one detector from 65 to ``outer`` mrad."""
    (job,) = prepare(
        structures.build("R3c", lateral=tuple(cells), thickness=thickness),
        tilts=tiltsim.TiltSeries.grid(10.0, round(tilts**0.5)),
        thicknesses=[thickness],
        detector=tiltsim.Detector(65.0, outer),
        phonons=tiltsim.FrozenPhonons(1),
        numerics=tiltsim.Numerics(memory_GB=1000.0),
        device="cpu",
    )
    return job


def _status(name: str) -> float:
    """Of this process, GB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024 / 1e9
    raise KeyError(name)


def _measure(settings: dict[str, Any]) -> dict[str, float]:
    # Imports, thread pools and abTEM's tables are the program, not the unit.
    smatrix.compute(job_of(1, 8.0, (2, 2), 70.0), Unit(0, 1, 0))
    torch.set_num_threads(1)
    job = job_of(**settings)
    gc.collect()
    with contextlib.suppress(
        OSError, AttributeError
    ):  # what the warm-up freed goes back to the system (glibc)
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with contextlib.suppress(OSError):  # the peak starts anew
        Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    smatrix.compute(job, Unit(0, 1, 0))
    own = Path("/proc/self/status").exists()
    peak = _status("VmHWM") if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"measured_GB": peak - before, "planned_GB": estimate.needs(job, workers=1).memory_GB}


def unit_memory(**settings: Any) -> dict[str, float]:
    """Peak memory of one unit beyond the program, GB, and the planner's word."""
    command = [sys.executable, __file__, json.dumps(settings)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ})
    result = json.loads(done.stdout.splitlines()[-1])
    return {**result, "planned_over_measured": result["planned_GB"] / result["measured_GB"]}


if __name__ == "__main__":
    print(json.dumps(_measure(json.loads(sys.argv[1]))))
