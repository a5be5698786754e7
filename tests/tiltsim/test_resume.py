"""Whatever interrupts a simulation, the same call goes on with what was finished, to an identical result."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import abtem
import ase.io
import numpy as np
import pyfftw
import pytest
import torch
import xarray as xr

import analysis
import structures
import tiltsim
from tiltsim.checkpoints import Checkpoints
from tiltsim.errors import SettingsError
from tiltsim.scheduling import engine_units, reproducible
from tiltsim.simulate import prepare

PAIRS = 6
SETTINGS = {
    "tilts": tiltsim.TiltSeries.cross(8.0, 3),
    "thicknesses": [24.0],
    "detector": tiltsim.Detector(65.0, 80.0),
    "phonons": tiltsim.FrozenPhonons(PAIRS),
    "numerics": tiltsim.Numerics(wave_vectors=2, pixel=0.2),
}
#: Residual wave vectors × signs × pairs.
UNITS = 4 * 2 * PAIRS


def film():
    """SrTiO3, one cell wide and six deep: a unit takes a twentieth of a second."""
    return structures.build("SrTiO3", lateral=(1, 1), thickness=24.0)


def run(out, progress=None, scheduler=None, **changed):
    """Simulate into ``out`` as the command line does: checkpoints in ``.work`` and the dataset in ``images.nc``."""
    images = tiltsim.simulate(
        film(), **{**SETTINGS, **changed}, keep_configs=True, checkpoints=out / ".work", progress=progress,
        scheduler=scheduler,
    )  # fmt: skip
    analysis.write_dataset(images, out / "images.nc")
    return images


def finished(out):
    """Time of writing and digest of every finished unit, by path."""
    return {
        path.relative_to(out): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(out.glob(".work/*/*.npy"))
    }


def assert_kept(out, before):
    """Nothing that had been finished has been written again."""
    after = finished(out)
    assert {path: after.get(path) for path in before} == before


def assert_same_images(one, other):
    with xr.open_dataset(one / "images.nc") as a, xr.open_dataset(other / "images.nc") as b:
        xr.testing.assert_identical(a.load(), b.load())


def stop_after(number, error):
    """A progress callback that raises ``error`` once ``number`` units are finished."""

    def progress(done, _):
        if done >= number:
            raise error

    return progress


@contextmanager
def largest_file(size):
    """Files cannot grow beyond ``size`` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    run(out)
    assert len(finished(out)) == UNITS
    return out


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of the finished units of ``whole``."""
    shutil.copytree(whole / ".work", tmp_path / "out" / ".work")
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _leaves_no_trace():
    """Neither threads nor changed settings of torch and abTEM, however a test ends."""

    def settings():
        return torch.get_num_threads(), *map(
            abtem.config.get, ("diagnostics.progress_bar", "fftw.planning_effort")
        )

    before = settings()
    yield
    assert settings() == before
    assert not [t.name for t in threading.enumerate() if t.name.startswith("tiltsim")]


SCRIPT = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("resumed", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.run(pathlib.Path(sys.argv[2]))
"""


@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_kill_nine_loses_nothing(whole, tmp_path, kills):
    rng = np.random.default_rng(kills)
    before = {}
    for _ in range(kills):
        with subprocess.Popen([sys.executable, "-c", SCRIPT, __file__, str(tmp_path)]) as process:
            wanted = len(before) + rng.integers(1, 5)
            while process.poll() is None and len(list(tmp_path.glob(".work/*/*.npy"))) < wanted:
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.1))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert_kept(tmp_path, before)
        before = finished(tmp_path)
        assert wanted <= len(before) < UNITS
        assert not (tmp_path / "images.nc").exists()
    counts = []
    run(tmp_path, progress=lambda done, _: counts.append(done))
    assert counts == list(range(len(before), UNITS + 1))
    assert_kept(tmp_path, before)
    assert_same_images(tmp_path, whole)


def test_a_damaged_checkpoint_is_computed_again(whole, copied):
    content = next(copied.glob(".work/*/*.npy")).read_bytes()
    result = np.load(next(copied.glob(".work/*/*.npy")))

    def flipped(byte):
        return content[:byte] + bytes([content[byte] ^ 1]) + content[byte + 1 :]

    damages = [
        b"", content[:1], content[:100], content[:-1], content + b"\0", bytes(len(content)), b"PK" + content[2:],
        b"no result", flipped(20), flipped(len(content) // 2), flipped(len(content) - 1),
    ]  # fmt: skip
    arrays = [np.full_like(result, np.nan), result[..., :-1], result.astype(np.float64), np.array(["x"])]
    paths = sorted(finished(copied))[::3][: len(damages) + len(arrays) + 1]
    for path, damage in zip(paths, damages, strict=False):
        (copied / path).write_bytes(damage)
    for path, array in zip(paths[len(damages) :], arrays, strict=False):
        np.save(copied / path, array)
    (copied / paths[-1]).rename((copied / paths[-1]).with_name(".a1b2.partial"))
    intact = {path: state for path, state in finished(copied).items() if path not in paths}
    counts = []
    run(copied, progress=lambda done, _: counts.append(done))
    assert counts[0] == UNITS - len(paths) == len(intact)
    assert_kept(copied, intact)
    assert_same_images(copied, whole)
    assert {p: s[1] for p, s in finished(copied).items()} == {p: s[1] for p, s in finished(whole).items()}


def moved():
    specimen = film()
    specimen.atoms.positions[0, 0] += 1e-6
    return specimen


@pytest.mark.parametrize(
    ("specimen", "changed"),
    [
        (film, {"seed": 1}),
        (film, {"detector": tiltsim.Detector(65.0, 80.1)}),
        (film, {"numerics": replace(SETTINGS["numerics"], band_limit=160.0)}),
        (film, {"tilts": tiltsim.TiltSeries.cross(7.0, 3)}),
        (film, {"microscope": tiltsim.Microscope(aberrations={"C30": 1e4})}),
        (moved, {}),
    ],
)
def test_a_changed_setting_finds_nothing(copied, specimen, changed):
    (job,) = prepare(specimen(), **{**SETTINGS, **changed})
    store = Checkpoints(job, copied / ".work")
    assert all(store.get(unit) is None for unit in engine_units(job, 0, 1))


def test_what_changes_no_unit_finds_all(copied):
    for changed in (
        {"phonons": tiltsim.FrozenPhonons.until(0.1)},
        {"microscope": tiltsim.Microscope(source_fwhm=0.5)},
        {"numerics": replace(SETTINGS["numerics"], pixel=0.1, memory_GB=1.0)},
    ):
        (job,) = prepare(film(), **{**SETTINGS, **changed})
        store = Checkpoints(job, copied / ".work")
        assert all(store.get(unit) is not None for unit in engine_units(job, 0, 1))


def test_more_pairs_reuse_the_old_ones(whole, copied):
    before, counts = finished(copied), []
    more = run(copied, phonons=tiltsim.FrozenPhonons(PAIRS + 1), progress=lambda done, _: counts.append(done))
    assert counts == list(range(UNITS, UNITS + 9))
    assert_kept(copied, before)
    with xr.open_dataset(whole / "images.nc") as images:
        xr.testing.assert_equal(
            more.intensity_period.isel(config=slice(0, 2 * PAIRS)).drop_vars("config", errors="ignore"),
            images.intensity_period.load(),
        )


def test_adaptive_pairs_go_on_to_the_same_number(tmp_path):
    phonons = tiltsim.FrozenPhonons.until(0.8, max_pairs=12)
    one, other = tmp_path / "one", tmp_path / "other"
    images = run(one, phonons=phonons)
    assert 2 < images.pairs[0] < 12
    for stop in (5, 18):  # among the pairs to begin with, and among those added
        with pytest.raises(KeyboardInterrupt):
            run(other, phonons=phonons, progress=stop_after(stop, KeyboardInterrupt()))
    before = finished(other)
    run(other, phonons=phonons)
    assert_kept(other, before)
    assert_same_images(one, other)


def test_the_reference_engine_resumes_too(tmp_path):
    changed = {
        "engine": "multislice",
        "tilts": tiltsim.TiltSeries((-8.0, 8.0)),
        "phonons": tiltsim.FrozenPhonons(0),
        "numerics": replace(SETTINGS["numerics"], scan_oversampling=0.66),
    }
    counts = []
    first = run(tmp_path, **changed, progress=lambda done, _: counts.append(done))
    assert counts == [0, 1, 2]  # not abTEM's own tasks
    last = sorted(tmp_path.glob(".work/*/*.npy"))[-1]
    last.unlink()
    before = finished(tmp_path)
    assert len(before) == 1
    xr.testing.assert_identical(run(tmp_path, **changed), first)
    assert_kept(tmp_path, before)


def test_ctrl_c_keeps_what_is_finished(whole, tmp_path):
    """A real SIGINT; units under way in other threads are finished and kept as well, and no further one begins."""

    def press(done, _):
        if done == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=press)
    before = finished(tmp_path)
    assert 5 <= len(before) <= 5 + (os.cpu_count() or 1)
    run(tmp_path)
    assert_kept(tmp_path, before)
    assert_same_images(tmp_path, whole)


def test_a_failing_unit_says_its_own_sentence(tmp_path):
    rng, frame, path = np.random.default_rng(0), film().atoms, tmp_path / "md.xyz"
    frames = [frame.copy() for _ in range(4)]
    for copy in frames:
        copy.positions += rng.normal(0, 0.05, copy.positions.shape)
    ase.io.write(path, frames)

    def lose(done, _):
        if done == 4:
            path.unlink(missing_ok=True)

    with pytest.raises(SettingsError, match=r"phonons\.trajectory .*md\.xyz"):
        run(tmp_path, phonons=tiltsim.FrozenPhonons(4, trajectory=str(path)), progress=lose)
    assert 4 <= len(finished(tmp_path)) <= 4 + (os.cpu_count() or 1)


def test_torch_keeps_the_callers_threads(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        run(tmp_path, phonons=tiltsim.FrozenPhonons(1))
        assert torch.get_num_threads() == 3
        with pytest.raises(RuntimeError, match="mine"):
            run(
                tmp_path,
                phonons=tiltsim.FrozenPhonons(2),
                progress=stop_after(9, RuntimeError("mine")),
            )
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_full_disk_stops_at_once_and_keeps_what_is_finished(whole, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done, _):
        if done == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    try:
        with pytest.raises(SettingsError, match=r"cannot be written \(File too large\)"):
            run(tmp_path, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    before = finished(tmp_path)
    assert 4 <= len(before) <= 4 + (os.cpu_count() or 1)
    assert not list(tmp_path.glob(".work/*/.*"))
    run(tmp_path)
    assert_kept(tmp_path, before)
    assert_same_images(tmp_path, whole)


@pytest.fixture
def simulate_command(tiltsim_command, tmp_path):
    """Run ``tiltsim simulate`` on a thin film; returns (exit code, what it printed)."""
    structures.write(film(), tmp_path / "film.xyz")

    def command(out, *options):
        return tiltsim_command(
            "simulate", tmp_path / "film.xyz", "--out", out, "--thicknesses", 24, "--layout", "cross",
            "--steps", 3, "--outer", 80, *options,
        )  # fmt: skip

    return command


def assert_one_sentence(code, text, *words):
    said = [line for line in text.splitlines() if line.startswith("tiltsim: ")]
    assert (code, len(said)) == (2, 1), text
    assert "Traceback" not in text
    for word in words:
        assert word in said[0]


def test_the_command_says_that_the_disk_is_full(simulate_command, tmp_path):
    out = tmp_path / "out"
    with largest_file(1000):
        assert_one_sentence(*simulate_command(out), str(out), "cannot be written")
    assert finished(out) == {}
    assert sorted(p.name for p in out.iterdir()) == [".work"]


def test_the_command_says_that_the_dataset_does_not_fit(simulate_command, tmp_path):
    """Checkpoints fit, images.nc does not: it is not there, half or whole, and the next run simulates nothing."""
    out = tmp_path / "out"
    with largest_file(20_000):
        assert_one_sentence(*simulate_command(out), "images.nc", "cannot be written")
    before = finished(out)
    assert len(before) > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.xyz", "out"]
    assert sorted(p.name for p in out.iterdir()) == [".work"]
    code, text = simulate_command(out)
    assert code == 0, text
    assert finished(out) == before
    assert json.loads((out / "summary.json").read_text())["pairs"] == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_the_command_says_that_checkpoints_cannot_be_written(simulate_command, tmp_path):
    locked = tmp_path / "out" / ".work"
    locked.mkdir(parents=True)
    locked.chmod(0o500)
    assert_one_sentence(*simulate_command(tmp_path / "out"), str(locked), "cannot be written")


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes that listen on the loopback interface only."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0",
        memory_limit=None,
    ) as running:  # fmt: skip
        yield running


def test_a_cluster_gives_what_threads_give(whole, tmp_path, cluster):
    assert cluster.scheduler_address.startswith("tcp://127.0.0.1:")
    run(tmp_path, scheduler=cluster.scheduler_address)
    assert_same_images(tmp_path, whole)


def kill_a_worker(cluster):
    """A progress callback that kills one of the cluster's worker processes after three units."""
    from distributed import Client

    with Client(cluster.scheduler_address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout="60s")
        victim = min(client.run(os.getpid).values())
    assert victim != os.getpid()

    def kill(done, _):
        if done == 3:
            os.kill(victim, signal.SIGKILL)

    return kill


def test_a_killed_worker_is_survived(whole, tmp_path, cluster):
    run(tmp_path, scheduler=cluster.scheduler_address, progress=kill_a_worker(cluster))
    assert_same_images(tmp_path, whole)


def test_units_that_kill_workers_are_said(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(SettingsError, match="memory"):
        run(tmp_path, scheduler=cluster.scheduler_address, progress=kill_a_worker(cluster))
    assert len(finished(tmp_path)) >= 3


def test_an_error_on_a_worker_is_the_users_sentence(tmp_path, cluster):
    phonons = tiltsim.FrozenPhonons(1, trajectory=str(tmp_path / "nowhere.xyz"))
    with pytest.raises(SettingsError, match=r"phonons\.trajectory .*nowhere\.xyz"):
        run(tmp_path, phonons=phonons, scheduler=cluster.scheduler_address)


def test_a_lost_scheduler_keeps_what_is_finished(whole, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address="127.0.0.1:0",
    ) as running:  # fmt: skip

        def close(done, _):
            if done == 3:
                running.close()

        with pytest.raises(SettingsError, match="has been lost"):
            run(tmp_path, scheduler=running.scheduler_address, progress=close)
    before = finished(tmp_path)
    assert 3 <= len(before) < UNITS
    run(tmp_path)
    assert_kept(tmp_path, before)
    assert_same_images(tmp_path, whole)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "scheduler"])
def test_an_unreachable_scheduler_is_one_sentence(simulate_command, tmp_path, address):
    start = time.perf_counter()
    assert_one_sentence(*simulate_command(tmp_path / "out", "--scheduler", address), "--scheduler", address)
    assert time.perf_counter() - start < 30  # most of it the ten seconds that a slow network is given


def test_fourier_transforms_do_not_remember_what_others_measured():
    shape = (4, 90, 90)
    waves = np.random.default_rng(0).standard_normal(shape).astype(np.complex64)

    def transformed():
        with reproducible(1):
            return abtem.core.fft.fft2(waves.copy(), overwrite_x=False)

    pyfftw.forget_wisdom()
    before = transformed()
    with abtem.config.set({"fftw.planning_effort": "FFTW_MEASURE"}):
        abtem.core.fft.fft2(waves.copy(), overwrite_x=False)

    def wisdom():
        return [sorted(part.split(b"\n")) for part in pyfftw.export_wisdom()]

    measured = wisdom()
    np.testing.assert_array_equal(transformed(), before)
    assert wisdom() == measured


def test_threads_are_each_callers_own_again():
    before = torch.get_num_threads()
    entered, leave = threading.Event(), threading.Event()
    found = []

    def other():
        with reproducible(1):
            entered.set()
            leave.wait(10)
        found.append(torch.get_num_threads())

    try:
        torch.set_num_threads(3)
        with reproducible(2):
            with reproducible(1):
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 2
            thread = threading.Thread(target=other)
            thread.start()
            assert entered.wait(10)
        assert torch.get_num_threads() == 3
        leave.set()
        thread.join()
        assert found == [3]
    finally:
        torch.set_num_threads(before)
