"""Networks that come with tiltsim, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

#: ``tilt-aware``: d, tilt and thickness for the default microscope (docs/networks.md), see its card.
MODELS = ("tilt-aware",)


def model_path(model: str | Path) -> Path:
    """The file of a model: one of :data:`MODELS`, or a path, which is returned as it is."""
    if str(model) in MODELS:
        return Path(str(files("tiltsim").joinpath("models", f"{model}.safetensors")))
    return Path(model)
