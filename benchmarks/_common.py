"""What every benchmark prints and writes."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tiltsim import FrozenPhonons, Library, LibraryRequest, build_library, open_library


def parser(description: str) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--json", type=Path, help="also write the results to this file")
    result.add_argument("--quick", action="store_true", help="a smaller problem, for a smoke test")
    return result


def arguments(description: str) -> argparse.Namespace:
    return parser(description).parse_args()


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    packages = ("tiltsim", "abtem", "numpy", "scipy", "torch")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


LIBRARY_HELP = (
    "library.nc of the default microscope; default: built anew, twenty minutes (--quick: a small one)"
)


def library_of(options: argparse.Namespace) -> Library:
    """The library that ``--library`` names, or a new one."""
    if options.library:
        return open_library(options.library)
    if options.quick:
        return Library(
            build_library(
                LibraryRequest(
                    largest_tilt=16.0, tilts=5, thickest=120.0, phonons=FrozenPhonons(1, redraw=True)
                )
            )
        )
    return Library(build_library(LibraryRequest()))


def report(results: dict[str, Any], path: Path | None) -> None:
    text = json.dumps(results, indent=2)
    if path:
        path.write_text(text + "\n", encoding="utf-8")
    print(text)
