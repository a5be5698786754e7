"""The networks that benchmarks compare: how each is trained, once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dcnn
from tiltsim.library import Library
from tiltsim.seeds import VALIDATION
from tiltsim.synth.labelling import Labels, SynthesizedFields
from tiltsim.synth.recipe import Recipe, load_recipe, on_axis

ALL = ("d", "tilt", "thickness")


@dataclass(frozen=True)
class Training:
    """Fields and settings of a network.

    Parameters
    ----------
    about : str
    fields, settings
        Number of fields of the recipe synth-networks, and how they are learned.
    tilted : bool
        Whether the fields are tilted.
    labels : {"truth", "fit"}
    """

    about: str
    fields: int
    settings: dcnn.TrainSettings
    tilted: bool = False
    labels: Labels = "truth"


def _settings(**changed: Any) -> dcnn.TrainSettings:
    common = {
        "train_fraction": 1.0,
        "weight_decay": 0.01,
        "augment": True,
        "jitter_angstrom": 0.08,
        "batch_size": 256,
        "patience": 100,
    }
    return dcnn.TrainSettings(**{**common, **changed})


TRAININGS = {
    "centred": Training("baseline CNN on B columns, truth, on the zone axis", 500, _settings(epochs=8)),
    "sliding": Training(
        "baseline CNN on a plain grid, truth, on the zone axis",
        90,
        _settings(windows=dcnn.Windows("sliding"), epochs=7),
    ),
    "dense": Training(
        "fully convolutional, truth, on the zone axis",
        300,
        _settings(network="dense", epochs=14, batch_size=16),
    ),
    "naive": Training(
        "baseline CNN on B columns, labels fitted, any tilt to 12 mrad",
        250,
        _settings(epochs=10, augment=False, jitter_angstrom=0.0),
        tilted=True,
        labels="fit",
    ),
    "aware": Training(
        "attention between cells, truth of d, tilt and thickness, any tilt to 12 mrad",
        3000,
        _settings(network="context", targets=ALL, epochs=12, batch_size=1024, learning_rate=1e-3),
        tilted=True,
    ),
}


def recipe_for(one: Training, library: Library) -> Recipe:
    """The recipe of its fields, within what ``library`` holds."""
    recipe = load_recipe("synth-networks")
    low, high = library.thickness_range
    if high < 390.0:
        thin = (max(low, 50.0) + 3.0, high - 10.0)
        recipe = replace(
            recipe, specimens=tuple(replace(s, thickness=thin, wedge=(-1.0, 1.0)) for s in recipe.specimens)
        )
    return recipe if one.tilted else on_axis(recipe)


def network(
    name: str, library: Library, path: Path | None, folder: Path, quick: bool = False
) -> tuple[dcnn.Model, Mapping[str, Any]]:
    """A network out of ``folder``, or trained and put there; with the seconds that its training took, if it did now.

    ``path`` is the library's file, with which fields are made by a process of their own.
    """
    one = TRAININGS[name]
    file = folder / f"{name}.safetensors"
    if file.is_file():
        return dcnn.load(file), {"about": one.about, "seconds": None}
    start = time.perf_counter()
    number, settings = one.fields, one.settings
    if quick:
        number, settings = 12, replace(settings, epochs=2)
    recipe, source = recipe_for(one, library), path or library
    few = 10 if quick else 60
    print(f"training {name}: {one.about}; {number} fields, {settings.epochs} epochs", flush=True)
    model = dcnn.train(
        SynthesizedFields(recipe, source, number, 0, one.labels),
        settings,
        validation=SynthesizedFields(recipe, source, few, VALIDATION, one.labels),
        checkpoint=folder / f".{name}.checkpoint.safetensors",
        progress=lambda epoch, row: print(f"  epoch {epoch}: {row['validation_rmse_pm']:.2f} pm", flush=True),
    )
    model = dcnn.calibrate(model, SynthesizedFields(recipe, source, max(few, 12), VALIDATION, first=few))
    dcnn.save(model, file)
    (folder / f".{name}.checkpoint.safetensors").unlink(missing_ok=True)
    return model, {"about": one.about, "seconds": time.perf_counter() - start}
