"""A folder of micrographs: each measured by itself, once, and no bad one in the way of the others."""

import csv
import json
import os
import re
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import xarray as xr

import analysis
from tests.tiltsim.test_cli import lattice_image
from tiltsim import measuring_folder
from tiltsim.measuring import MeasureOptions, measure_into
from tiltsim.measuring_folder import SUFFIXES, find_images, folder_names, measure_many

OPTIONS = MeasureOptions(pixel_size=0.2)


@pytest.fixture
def tiltsim_command(tiltsim_command):
    """Run ``tiltsim measure`` with arguments; returns (exit code, what it printed)."""
    return lambda *arguments: tiltsim_command("measure", *arguments)


@pytest.fixture
def drawn_fast(monkeypatch):
    """Figures as empty files: what they show is tested elsewhere."""

    def save(_, stem):
        for kind in ("png", "svg"):
            stem.with_name(f"{stem.name}.{kind}").touch()

    monkeypatch.setattr(analysis, "save", save)
    monkeypatch.setattr(analysis, "plot_polarization", lambda *_, **__: None)
    monkeypatch.setattr(analysis, "plot_columns", lambda *_: None)


@pytest.fixture
def session(tmp_path):
    """Two images that differ in d, among other things."""
    folder = tmp_path / "session"
    folder.mkdir()
    np.save(folder / "left.npy", lattice_image(120, d=(2.0, -0.7)))
    np.save(folder / "right.npy", lattice_image(120, d=(-1.0, 0.5)))
    return folder


def table(out):
    with (out / "table.csv").open() as file:
        return list(csv.DictReader(file))


def summary(out):
    return json.loads((out / "summary.json").read_text())


def test_folder_gives_a_row_and_a_folder_an_image(tiltsim_command, session, tmp_path):
    (session / "notes.txt").write_text("hello")
    (session / ".hidden.npy").write_bytes(b"no image")
    (session / "Sm_0_0_UCParameterization.h5").write_bytes(b"cells, no image")
    (session / "deeper").mkdir()
    out = tmp_path / "out"
    code, text = tiltsim_command(session, "--pixel-size", 0.2, "--out", out)
    assert code == 0, text
    assert "2 measured, 0 skipped, 0 failed, 3 other files ignored" in text.replace("\n", " ")
    rows = table(out)
    assert [row["folder"] for row in rows] == ["left", "right"]
    # d = A − B, and B was moved by −d; 20 px of 0.2 Å a cell
    for row, d in zip(rows, ((40.0, -14.0), (-20.0, 10.0)), strict=True):
        assert float(row["d_mean_x_pm"]) == pytest.approx(d[0], abs=0.5)
        assert float(row["d_mean_y_pm"]) == pytest.approx(d[1], abs=0.5)
        assert float(row["lattice_parameter_angstrom"]) == pytest.approx(4.0, abs=0.005)
        assert row["status"] == "measured"
        assert row["failure"] == ""
        one = summary(out / row["folder"])
        assert one["cells"] == int(row["cells"]) > 10
        assert {"columns.nc", "unit_cells.nc", "polarization.png", "columns.svg"} <= {
            p.name for p in (out / row["folder"]).iterdir()
        }
    assert summary(out)["ignored"] == 3
    assert summary(out)["unfinished"] == []


def test_bad_files_do_not_stop_good_ones(tiltsim_command, drawn_fast, session, tmp_path):
    np.save(session / "all_nan.npy", np.full((120, 120), np.nan))
    np.save(session / "stack.npy", np.zeros((3, 120, 120)))
    np.save(session / "line.npy", np.zeros(120))
    (session / "text.tif").write_text("this is no image")
    (session / "cut.dm4").write_bytes(b"\x00\x00\x00\x04" + b"\x00" * 200)
    whole = (session / "left.npy").read_bytes()
    (session / "cut.npy").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    code, text = tiltsim_command(session, tmp_path / "missing.dm4", "--pixel-size", 0.2, "--out", out)
    assert code == 2
    assert "Traceback" not in text
    assert "2 measured, 0 skipped, 7 failed" in text.replace("\n", " ")
    failures = {os.path.basename(path): reason for path, reason in summary(out)["failures"].items()}
    bad = {"all_nan.npy", "stack.npy", "line.npy", "text.tif", "cut.dm4", "cut.npy", "missing.dm4"}
    assert set(failures) == bad
    for name, reason in failures.items():
        assert name in reason
        assert reason.count("\n") == 0
        assert reason in text
    assert {row["image"].rsplit("/")[-1] for row in table(out) if row["status"] == "failed"} == bad
    assert {p.name for p in out.iterdir()} == {"left", "right", "table.csv", "summary.json"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write anywhere")
def test_no_permission_is_a_sentence(tiltsim_command, drawn_fast, session, tmp_path):
    (session / "left.npy").chmod(0o000)
    code, text = tiltsim_command(session, "--pixel-size", 0.2, "--out", tmp_path / "out")
    assert code == 2
    assert "Permission denied" in summary(tmp_path / "out")["failures"][str(session / "left.npy")]
    (tmp_path / "locked").mkdir(mode=0o500)
    code, text = tiltsim_command(session, "--pixel-size", 0.2, "--out", tmp_path / "locked" / "out")
    assert code == 2
    assert "cannot be written" in text
    assert "Traceback" not in text


def test_unreadable_file_costs_only_itself(monkeypatch, drawn_fast, session, tmp_path):
    """As without permission, also for root."""
    real = analysis.load

    def load(path, **kwargs):
        if path.name == "left.npy":
            raise analysis.ImageError(f"{path}: not a readable .npy file (Permission denied); save it again.")
        return real(path, **kwargs)

    monkeypatch.setattr(analysis, "load", load)
    total = measure_many([session], tmp_path / "out", OPTIONS)
    assert list(total["failures"]) == [str(session / "left.npy")]
    assert total["measured"] == 1


def test_faults_of_the_program_cost_only_one_image(monkeypatch, drawn_fast, session, tmp_path):
    real = analysis.measure

    def measure(image, **kwargs):
        if image.attrs["source"] == "left.npy":
            raise IndexError("out of bounds")
        return real(image, **kwargs)

    monkeypatch.setattr(analysis, "measure", measure)
    total = measure_many([session], tmp_path / "out", OPTIONS)
    assert total["measured"] == 1
    assert "IndexError" in total["failures"][str(session / "left.npy")]


def test_empty_folder_is_one_sentence_and_leaves_nothing(tiltsim_command, tmp_path):
    (tmp_path / "empty").mkdir()
    code, text = tiltsim_command(tmp_path / "empty", "--out", tmp_path / "out")
    assert code == 2
    assert "holds no image" in text
    assert not (tmp_path / "out").exists()


def test_empty_folder_beside_a_good_one_is_a_failure(drawn_fast, session, tmp_path):
    (tmp_path / "empty").mkdir()
    total = measure_many([tmp_path / "empty", session], tmp_path / "out", OPTIONS)
    assert list(total["failures"]) == [str(tmp_path / "empty")]
    assert total["measured"] == 2


def test_output_that_is_a_file_is_refused_before_any_work(tiltsim_command, session, tmp_path):
    (tmp_path / "taken").write_text("mine")
    code, text = tiltsim_command(session, "--pixel-size", 0.2, "--out", tmp_path / "taken")
    assert code == 2
    assert "cannot be written" in text
    assert (tmp_path / "taken").read_text() == "mine"


def test_finished_images_are_skipped_until_something_changes(drawn_fast, session, tmp_path):
    out, said = tmp_path / "out", []
    assert measure_many([session], out, OPTIONS)["measured"] == 2
    before = (out / "left" / "summary.json").stat().st_mtime_ns

    total = measure_many([session], out, OPTIONS, say=said.append)
    assert (total["measured"], total["skipped"]) == (0, 2)
    assert len([text for text in said if "skipped" in text]) == 2
    assert (out / "left" / "summary.json").stat().st_mtime_ns == before
    assert float(table(out)[0]["d_mean_x_pm"]) == pytest.approx(40.0, abs=0.5)
    assert {row["status"] for row in table(out)} == {"skipped"}

    # other content
    np.save(session / "left.npy", lattice_image(120, d=(1.0, 0.0)))
    total = measure_many([session], out, OPTIONS)
    assert (total["measured"], total["skipped"]) == (1, 1)
    assert float(table(out)[0]["d_mean_x_pm"]) == pytest.approx(20.0, abs=0.5)

    # other options, a damaged result, and by force
    assert measure_many([session], out, MeasureOptions(pixel_size=0.21))["measured"] == 2
    (out / "left" / "unit_cells.nc").unlink()
    assert measure_many([session], out, MeasureOptions(pixel_size=0.21))["measured"] == 1
    (out / "left" / "summary.json").write_text("[]")
    assert measure_many([session], out, MeasureOptions(pixel_size=0.21))["measured"] == 1
    assert measure_many([session], out, MeasureOptions(pixel_size=0.21), force=True)["measured"] == 2


def test_other_versions_measure_again(monkeypatch, drawn_fast, session, tmp_path):
    measure_many([session], tmp_path / "out", OPTIONS)
    monkeypatch.setattr("tiltsim.measuring.version", lambda _: "99.0")
    assert measure_many([session], tmp_path / "out", OPTIONS)["measured"] == 2


def test_interrupt_leaves_finished_ones_whole(monkeypatch, drawn_fast, session, tmp_path):
    real, out = analysis.write_dataset, tmp_path / "out"

    def write(ds, path):
        if ds.attrs["source"] == "right.npy" and path.name == "unit_cells.nc":
            raise KeyboardInterrupt
        return real(ds, path)

    monkeypatch.setattr(analysis, "write_dataset", write)
    with pytest.raises(KeyboardInterrupt):
        measure_many([session], out, OPTIONS)
    assert {p.name for p in out.iterdir()} == {"left", "table.csv", "summary.json"}
    assert summary(out)["unfinished"] == [str(session / "right.npy")]
    assert [row["folder"] for row in table(out)] == ["left"]
    monkeypatch.setattr(analysis, "write_dataset", real)
    total = measure_many([session], out, OPTIONS)
    assert (total["measured"], total["skipped"]) == (1, 1)


def test_a_half_replaced_result_does_not_count_as_finished(monkeypatch, drawn_fast, session, tmp_path):
    """Ended between moving the new tables in and writing the summary that vouches for them."""
    out = tmp_path / "out"
    measure_many([session], out, OPTIONS)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tiltsim.measuring.write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            measure_many([session], out, OPTIONS, force=True)
    assert measure_many([session], out, OPTIONS)["measured"] == 1


def test_names_stay_apart_where_stems_collide(tmp_path):
    files = [
        tmp_path / "a" / "film.dm4",
        tmp_path / "a" / "Film.tif",
        tmp_path / "b" / "film.dm4",
        tmp_path / "b" / "other.npy",
        tmp_path / "b" / "other-npy.dm3",
        tmp_path / "b" / "table.csv.npy",
        tmp_path / "c" / "b" / "film.dm4",
    ]
    names = folder_names(files)
    assert names == [
        "a-film-dm4",
        "Film-tif",
        "b-film-dm4",
        "other",
        "other-npy",
        "table.csv-2",
        "b-film-dm4-2",
    ]
    assert len({name.casefold() for name in names}) == len(files)
    assert folder_names(files[:1]) == ["film"]


def test_a_file_is_measured_once_however_often_it_is_named(session, tmp_path):
    (session / "link.npy").symlink_to(session / "left.npy")
    found = find_images([session / "right.npy", session, session / "left.npy"])
    assert [p.name for p in found.images] == ["right.npy", "left.npy"]


def test_ser_files_are_read_through_their_emi(tmp_path):
    for name in ("scan.emi", "scan_1.ser", "scan_2.ser", "alone_1.ser"):
        (tmp_path / name).touch()
    found = find_images([tmp_path])
    assert [p.name for p in found.images] == ["alone_1.ser", "scan.emi"]
    assert found.ignored == 0


def test_folders_offer_every_type_that_can_be_loaded(tmp_path):
    (tmp_path / "image.xyz").touch()
    with pytest.raises(analysis.ImageError) as error:
        analysis.load(tmp_path / "image.xyz")
    assert set(re.findall(r"\.\w+", str(error.value).split("one of")[1])) == set(SUFFIXES)


@pytest.mark.slow
def test_processes_give_what_one_gives(session, tmp_path):
    measure_many([session], tmp_path / "one", OPTIONS)
    (session / "bad.tif").write_text("no image")
    total = measure_many([session], tmp_path / "two", OPTIONS, jobs=2)
    assert total["measured"] == 2
    assert list(total["failures"]) == [str(session / "bad.tif")]
    good = [row for row in table(tmp_path / "two") if row["status"] == "measured"]
    assert good == table(tmp_path / "one")


def test_a_process_that_dies_costs_only_its_image(monkeypatch, drawn_fast, session, tmp_path):
    """The first pool breaks, as when a process is killed for its memory: the next image gets a new one."""
    np.save(session / "third.npy", lattice_image(120))
    pools = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers, context, initializer):
            super().__init__(1)
            pools.append(self)

        def submit(self, attempt, image, *others):
            if self is not pools[0]:
                return super().submit(attempt, image, *others)
            if image.name != "left.npy":
                raise BrokenProcessPool
            broken = Future()
            broken.set_exception(BrokenProcessPool())
            return broken

    monkeypatch.setattr(measuring_folder, "ProcessPoolExecutor", Pool)
    total = measure_many([session], tmp_path / "out", OPTIONS, jobs=2)
    assert list(total["failures"]) == [str(session / "left.npy")]
    assert "--jobs" in total["failures"][str(session / "left.npy")]
    assert total["measured"] == 2


def test_reasons_name_options_of_the_command(tiltsim_command, drawn_fast, session, tmp_path):
    code, text = tiltsim_command(session, "--out", tmp_path / "out")
    assert code == 2
    assert "--pixel-size" in text
    code, _ = tiltsim_command(session, "--jobs", 0, "--out", tmp_path / "other")
    assert code == 2
    assert not (tmp_path / "other").exists()


def test_help_says_what_happens_to_failures(tiltsim_command):
    code, text = tiltsim_command("--help")
    assert code == 0
    assert "exit code is 2 if any failed" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("scan", ["report", "correct", "propagate"])
def test_scan_jitter_is_reported_corrected_or_carried_into_errors(tmp_path, scan):
    path = tmp_path / "film.npy"
    image = lattice_image(n=260)
    rng = np.random.default_rng(0)
    np.save(
        path,
        np.stack([np.roll(line, n) for line, n in zip(image, rng.integers(-1, 2, len(image)), strict=True)]),
    )
    plain = measure_into(path, tmp_path / "plain", MeasureOptions(pixel_size=0.18))
    out = tmp_path / scan
    summary = measure_into(path, out, MeasureOptions(pixel_size=0.18, scan=scan))
    assert (out / "distortion.png").stat().st_size > 10_000
    with xr.open_dataset(out / "distortion.nc") as found:
        assert (found["jitter_rms"].values >= 0).all()
    assert summary["cells"] == plain["cells"]
    assert (summary["d_error_pm"] == plain["d_error_pm"]) == (scan == "report")
