"""Networks that come with tiltsim, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from tiltsim.errors import SettingsError

#: ``tilt-aware``: d, tilt and thickness for the default microscope (docs/networks.md), see its card.
MODELS = ("tilt-aware",)


def model_path(model: str | Path) -> Path:
    """The file of a model: one of :data:`MODELS`, or a path, which is returned as it is.

    Raises
    ------
    SettingsError
        If it is a name, and no file, that does not come with tiltsim.
    """
    if str(model) in MODELS:
        return Path(str(files("tiltsim").joinpath("models", f"{model}.safetensors")))
    path = Path(model)
    if not path.suffix and not path.exists():
        raise SettingsError(f"model {str(model)!r} is neither a file nor one of {', '.join(MODELS)}.")
    return path
