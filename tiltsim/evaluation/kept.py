"""Finished conditions of an evaluation, kept so that an interrupted one goes on and a further model costs only its own time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tiltsim.evaluation.estimators import Estimator
from tiltsim.evaluation.scoring import FieldScore, as_table, from_table
from tiltsim.evaluation.suites import Condition
from tiltsim.output import make_folder, write_json

#: Raised whenever what is kept changes its meaning.
_VERSION = 1

Drawn = list[dict[str, float]]


class Kept:
    """Scores of one estimator under one condition each, in a folder or, without one, in memory.

    Parameters
    ----------
    library : str
        Digest of the library.
    seed : int
    folder : Path, optional
        Default: nothing is kept after the process ends.
    """

    def __init__(self, library: str, seed: int, folder: Path | None = None) -> None:
        self._library, self._seed, self._folder = library, seed, folder
        self._held: dict[str, dict[str, Any]] = {}

    def _key(self, estimator: Estimator, condition: Condition) -> str:
        parts = [_VERSION, version("tiltsim"), self._library, self._seed, condition.recipe.digest]
        parts += [condition.fields, condition.frame, estimator.kind, estimator.digest or estimator.name]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def get(self, estimator: Estimator, condition: Condition) -> tuple[list[FieldScore], Drawn] | None:
        """Scores and drawn settings of the fields, or None if they are not there or damaged."""
        key = self._key(estimator, condition)
        table = self._held.get(key)
        if table is None and self._folder is not None and estimator.digest:
            try:
                table = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return None
        if table is None:
            return None
        try:
            return [from_table(one) for one in table["scores"]], list(table["drawn"])
        except (KeyError, TypeError, ValueError):
            return None

    def put(
        self, estimator: Estimator, condition: Condition, scores: Sequence[FieldScore], drawn: Drawn
    ) -> None:
        """Keep the scores of one condition; those of estimators without a file last as long as the process."""
        key = self._key(estimator, condition)
        table = {"scores": [as_table(s) for s in scores], "drawn": drawn}
        self._held[key] = table
        if self._folder is not None and estimator.digest:
            make_folder(self._folder)
            write_json(table, self._folder / f"{key}.json")
