"""The peer: AtomAI's image → vector regressor on the very sub-images that the baseline is trained and tested on.

AtomAI (Ziatdinov et al., Nature Machine Intelligence 4, 1101 (2022), doi:10.1038/s42256-022-00555-8) is used as its
documentation goes about regression: ``Regressor(out_dim=2)``, its default MobileNetV2, Adam at 1e-3, mini-batches of 64. Labels are
standardised, as the baseline's are. It runs in a process of its own, by a Python that has it:

    python _atomai_peer.py PROBLEM.npz RESULT.npz

This file is imported by Pythons with and without AtomAI, so both AtomAI and dcnn are imported where they are needed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

_BATCH = 64
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def has_atomai(python: str = sys.executable) -> bool:
    """Whether ``python`` can import AtomAI, torch and torchvision of versions that fit included."""
    if python == sys.executable and importlib.util.find_spec("atomai") is None:
        return False
    return subprocess.run([python, "-c", "import atomai"], capture_output=True).returncode == 0


def compared(
    image: Any,
    cells: Any,
    settings: Any = None,
    *,
    python: str = sys.executable,
    batches: int = 100,
    seconds: float = 120.0,
    threads: int = 2,
) -> dict[str, Any]:
    """Baseline and AtomAI on one field: left 2/3 to train, right 1/3 to test, windows across the line in neither.

    Parameters
    ----------
    image, cells : DataArray, Dataset
        As ``dcnn.train`` takes them.
    settings : dcnn.TrainSettings, optional
        Of the baseline; its windows, split and seed are also AtomAI's.
    python : str
        A Python that has AtomAI.
    batches, seconds : int, float
        The two budgets: so many mini-batches of 64, or so much time.
    threads : int
        For each.

    Returns
    -------
    dict
        ``n_train``, ``n_test``, ``mean_label_rmse_pm``; for each budget ``baseline`` and ``AtomAI``: ``rmse_pm`` and ``r2`` {x, y},
        ``seconds``, ``batches``, ``weights``. ``AtomAI`` is "not installed" where it is not.
    """
    import dcnn

    settings = settings or dcnn.TrainSettings(device="cpu")
    line = dcnn.split_line(image, settings.train_fraction)
    parts = {
        subset: dcnn.labelled_windows(image, cells, settings.windows, subset=subset, split_x=line)
        for subset in ("train", "test")
    }
    label = {subset: part["d_label"].values for subset, part in parts.items()}
    constant = label["train"].mean(axis=0)
    result: dict[str, Any] = {
        "n_train": len(label["train"]),
        "n_test": len(label["test"]),
        "mean_label_rmse_pm": _rms(label["test"] - constant),
    }
    installed = has_atomai(python)
    for name, budget in (
        (f"{batches} mini-batches", {"batches": batches}),
        (f"{seconds:g} s", {"seconds": seconds}),
    ):
        result[name] = {
            "baseline": _baseline(image, cells, settings, label["test"], threads, **budget),
            "AtomAI": _elsewhere(parts, label, settings.seed, python, threads, **budget)
            if installed
            else "not installed",
        }
    return result


def table(result: dict[str, Any]) -> Any:
    """What one reads first, as a rich table."""
    from rich.table import Table

    made = Table(
        title=f"d of {result['n_test']} test windows, {result['n_train']} to train on; the mean label errs by "
        f"{result['mean_label_rmse_pm']['x']:.1f}, {result['mean_label_rmse_pm']['y']:.1f} pm"
    )
    for head in (
        "budget",
        "network",
        "weights",
        "batches",
        "seconds",
        "RMSE x, pm",
        "RMSE y, pm",
        "R² x",
        "R² y",
    ):
        made.add_column(head, justify="left" if head in ("budget", "network") else "right")
    for budget, networks in result.items():
        if not isinstance(networks, dict) or "baseline" not in networks:
            continue
        for name, one in networks.items():
            if isinstance(one, str):
                made.add_row(budget, name, one, *[""] * 6)
                continue
            numbers = [f"{one['rmse_pm'][c]:.2f}" for c in "xy"] + [f"{one['r2'][c]:.3f}" for c in "xy"]
            made.add_row(
                budget, name, f"{one['weights']:,}", str(one["batches"]), f"{one['seconds']:.1f}", *numbers
            )
    return made


def _baseline(
    image: Any,
    cells: Any,
    settings: Any,
    wanted: np.ndarray,
    threads: int,
    batches: int | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Our baseline within a budget, cutting its windows included."""
    import torch

    import dcnn

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        settings = replace(settings, batch_size=_BATCH)
        if seconds is not None:
            # Cutting windows and one epoch, then what two more take: how many there is time for.
            laps = []
            for epochs in (1, 3):
                start = time.perf_counter()
                trial = dcnn.train(image, cells, replace(settings, epochs=epochs))
                laps.append(time.perf_counter() - start)
            one = max((laps[1] - laps[0]) / 2, 1e-4)
            epochs = max(1, int((seconds - laps[0]) / one))
        else:
            trial = dcnn.train(image, cells, replace(settings, epochs=1))
            epochs = max(1, round(batches / _batches(trial)))
        start = time.perf_counter()
        model = dcnn.train(image, cells, replace(settings, epochs=epochs, patience=epochs))
        taken = time.perf_counter() - start
        compared_, _ = dcnn.evaluate_split(model, image, cells)
    finally:
        torch.set_num_threads(before)
    test = compared_["subset"].values == "test"
    np.testing.assert_array_equal(compared_["d_label"].values[test], wanted)
    return _scores(compared_["d"].values[test], wanted) | {
        "seconds": taken,
        "batches": epochs * _batches(model),
        "weights": sum(p.numel() for p in model.network.parameters()),
    }


def _batches(model: Any) -> int:
    """Of an epoch."""
    return -(-int(model.card["training"]["n_train"]) // _BATCH)


def _elsewhere(
    parts: dict[str, Any], label: dict[str, np.ndarray], seed: int, python: str, threads: int, **budget: float
) -> dict[str, Any]:
    """AtomAI within a budget, in a process of ``python``."""
    mean, scale = label["train"].mean(axis=0), label["train"].std()
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "problem.npz", Path(folder) / "result.npz"
        np.savez(
            given,
            train=parts["train"]["intensity"].values.astype(np.float32),
            label=((label["train"] - mean) / scale).astype(np.float32),
            test=parts["test"]["intensity"].values.astype(np.float32),
            seed=seed,
            **{name: np.array(value) for name, value in budget.items()},
        )
        environment = os.environ | dict.fromkeys(THREADS, str(threads)) | {"MPLBACKEND": "agg"}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [python, str(Path(__file__).resolve()), str(given), str(result)],
            env=environment, cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"AtomAI failed:\n{done.stderr[-2000:]}")
        with np.load(result) as found:
            d = found["d"] * scale + mean
            return _scores(d, label["test"]) | {
                "seconds": float(found["seconds"]),
                "batches": int(found["batches"]),
                "weights": int(found["weights"]),
                "version": str(found["version"]),
            }


def regressed(
    train: np.ndarray,
    label: np.ndarray,
    test: np.ndarray,
    seed: int = 0,
    batches: int | None = None,
    seconds: float | None = None,
) -> dict[str, np.ndarray]:
    """Train AtomAI's regressor and apply it; for a Python that has it.

    Parameters
    ----------
    train, test : ndarray, shape (n, pixels, pixels)
    label : ndarray, shape (n, 2)
        Standardised.
    seed : int
    batches, seconds : int, float
        Budget: one of both.

    Returns
    -------
    dict
        ``d`` (n, 2) of the test windows, standardised; ``seconds`` of the training, ``batches``, ``weights``, ``version``.
    """
    import atomai

    order = np.random.default_rng(seed).permutation(len(train))
    train, label = train[order, None], label[order]
    # AtomAI looks at test data after every step; it chooses nothing by them. One batch of known windows costs it least.
    known = train[:_BATCH], label[:_BATCH]
    quiet = {"plot_training_history": False, "filename": "atomai", "print_loss": 10**9, "batch_size": _BATCH}

    def new() -> Any:
        return atomai.models.Regressor(out_dim=2, seed=seed)

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        if seconds is None:
            assert batches is not None
            model = new()
            model.fit(train, label, *known, training_cycles=batches, full_epoch=False, **quiet)
        else:
            each = -(-len(train) // _BATCH)
            new().fit(train, label, *known, training_cycles=1, full_epoch=True, **quiet)
            lap = time.perf_counter()
            new().fit(train, label, *known, training_cycles=2, full_epoch=True, **quiet)
            one = (time.perf_counter() - lap) / 2
            cycles = max(1, int(seconds / one))
            start = time.perf_counter()
            model = new()
            model.fit(train, label, *known, training_cycles=cycles, full_epoch=True, **quiet)
            batches = cycles * each
        taken = time.perf_counter() - start
        d = model.predict(test[:, None], norm=False, verbose=False)
    return {
        "d": np.asarray(d),
        "seconds": np.array(taken),
        "batches": np.array(batches),
        "weights": np.array(sum(p.numel() for p in model.net.parameters())),
        "version": np.array(version("atomai")),
    }


def _scores(d: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    r2 = 1 - np.square(d - label).mean(axis=0) / label.var(axis=0)
    return {"rmse_pm": _rms(d - label), "r2": dict(zip("xy", r2.tolist(), strict=True))}


def _rms(error: np.ndarray) -> dict[str, float]:
    return dict(zip("xy", np.sqrt(np.square(error).mean(axis=0)).tolist(), strict=True))


if __name__ == "__main__":
    with np.load(sys.argv[1]) as problem:
        asked = {name: problem[name] for name in problem.files}
    numbers = {name: asked.pop(name).item() for name in ("seed", "batches", "seconds") if name in asked}
    np.savez(sys.argv[2], **regressed(**asked, **numbers))
