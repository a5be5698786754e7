"""Trainings that are killed, shared between processes, started from another model."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dcnn import ModelError, TrainSettings, Windows, load, predict, train

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: Trains on a scene and saves; run as a process of its own, so that it can be killed.
SCRIPT = """
import importlib.util, sys, torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("scenes", sys.argv[1])
scenes = importlib.util.module_from_spec(spec)
sys.modules["scenes"] = scenes
spec.loader.exec_module(scenes)
import dcnn
network, checkpoint, result, epochs = sys.argv[2:6]
scene = scenes.build(14, 12)
settings = dcnn.TrainSettings(network=network, epochs=int(epochs), batch_size=4 if network == "dense" else 48, device="cpu",
                              train_fraction=1.0, weight_decay=0.01, augment=True)
def told(epoch, row):
    print("epoch", epoch, flush=True)
model = dcnn.train(scene.draw(noise=0.03), scene.cells, settings, checkpoint=None if checkpoint == "-" else checkpoint,
                   progress=told)
import os
if os.environ.get("RANK", "0") == "0":
    dcnn.save(model, result)
"""


def start(tmp_path, network, checkpoint, result, epochs=6, prefix=(), **environment):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [
            sys.executable,
            *prefix,
            str(script),
            str(HERE / "conftest.py"),
            network,
            str(checkpoint),
            str(result),
            str(epochs),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def weights(path):
    return load(path).network.state_dict()


@pytest.mark.parametrize("network", ["context", "dense"])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, network):
    finish(start(tmp_path, network, "-", tmp_path / "whole.safetensors"))
    checkpoint = tmp_path / "checkpoint.safetensors"
    process = start(tmp_path, network, checkpoint, tmp_path / "parts.safetensors")
    # At some step of the third epoch or later, wherever that is.
    for line in process.stdout:
        if line.startswith("epoch 2"):
            break
    time.sleep(0.03)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert checkpoint.is_file()
    assert not (tmp_path / "parts.safetensors").exists()
    text = finish(start(tmp_path, network, checkpoint, tmp_path / "parts.safetensors"))
    assert "epoch 1\n" not in text
    one, other = (weights(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert load(tmp_path / "whole.safetensors").card == load(tmp_path / "parts.safetensors").card


def test_two_processes_train_what_one_does(tmp_path, make_scene):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    finish(start(tmp_path, "baseline", "-", tmp_path / "one.safetensors", epochs=2))
    prefix = (
        "-m", "torch.distributed.run", "--nproc-per-node", "2", "--nnodes", "1",
        "--master-addr", "127.0.0.1", "--master-port", port,
    )  # fmt: skip
    finish(
        start(
            tmp_path,
            "baseline",
            "-",
            tmp_path / "two.safetensors",
            epochs=2,
            prefix=prefix,
            OMP_NUM_THREADS="1",
        )
    )
    one, other = (load(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    # The same batches and gradients, up to rounding, which Adam blows up, and windows that do not divide by two.
    scene = make_scene(14, 12)
    image = scene.draw(noise=0.03)
    d = [predict(m, image, scene.cells)["d"].values for m in (one, other)]
    assert np.sqrt(np.mean((d[0] - d[1]) ** 2)) < 0.1 * np.std(d[0])
    rows = [m.card["training"]["history"] for m in (one, other)]
    assert rows[0][-1]["validation_rmse_pm"] == pytest.approx(rows[1][-1]["validation_rmse_pm"], rel=0.08)


def test_a_checkpoint_of_another_training_is_refused(make_scene, tmp_path):
    small = make_scene(8, 8)
    image = small.draw(noise=0.03)
    path = tmp_path / "checkpoint.safetensors"
    settings = TrainSettings(epochs=1, device="cpu", train_fraction=1.0, batch_size=16)
    train(image, small.cells, settings, checkpoint=path)
    before = path.read_bytes()
    for other_image, other in (
        (image, TrainSettings(epochs=2, device="cpu", train_fraction=1.0, batch_size=16)),
        (image + 0.1 * image.mean() * np.sin(image.x), settings),
    ):
        with pytest.raises(ModelError, match="other settings, data"):
            train(other_image, small.cells, other, checkpoint=path)
    path.write_bytes(before[:-100])
    with pytest.raises(ModelError, match="checkpoint"):
        train(image, small.cells, settings, checkpoint=path)


def test_fine_tuning_begins_where_the_model_stands(make_scene):
    scene = make_scene(16, 12)
    image = scene.draw(noise=0.03)
    settings = TrainSettings(epochs=12, device="cpu", train_fraction=1.0, batch_size=32)
    first = train(image, scene.cells, settings)
    other = make_scene(10, 10, seed=3)
    few = TrainSettings(epochs=1, device="cpu", train_fraction=1.0, batch_size=32, learning_rate=1e-4)
    new, tuned = (train(other.draw(noise=0.03, seed=4), other.cells, few, start=s) for s in (None, first))
    rmse = [m.card["training"]["history"][-1]["validation_rmse_pm"] for m in (new, tuned)]
    assert rmse[1] < 0.5 * rmse[0]
    assert tuned.card["label_mean"] == first.card["label_mean"]
    json.dumps(tuned.card)
    for wrong, word in (
        (TrainSettings(network="residual", device="cpu"), "network"),
        (TrainSettings(Windows(size_angstrom=7.0), device="cpu"), "windows"),
        (TrainSettings(targets=("d", "tilt"), device="cpu"), "targets"),
    ):
        with pytest.raises(ModelError, match=word):
            train(image, scene.cells, wrong, start=first)
