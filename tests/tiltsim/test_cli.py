"""The command line as a newcomer meets it: results whole or not at all, mistakes in one sentence."""

import json
import os

import numpy as np
import pytest
import xarray as xr


def lattice_image(n=160, cell=20.0, d=(2.0, -0.7)):
    """A square perovskite lattice of Gaussian columns, px; B moved by −d."""
    axis = np.arange(n)
    image = np.full((n, n), 0.1)
    for i in range(-1, n // int(cell) + 2):
        for j in range(-1, n // int(cell) + 2):
            for x, y, height in (
                (i * cell + 7, j * cell + 9, 1.0),
                ((i + 0.5) * cell + 7 - d[0], (j + 0.5) * cell + 9 - d[1], 0.4),
            ):
                image += height * np.exp(-((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * 2.6**2))
    return image


def test_help_teaches_every_verb(tiltsim_command):
    code, text = tiltsim_command("--help")
    assert code == 0
    for verb in ("structure", "simulate", "measure", "train", "predict", "study", "report"):
        assert verb in text


VERBS = (
    *("structure", "simulate", "converge", "measure", "synth", "train", "predict", "evaluate", "transfer"),
    *("study", "asymmetry", "library build", "library check"),
    *(f"networks {verb}" for verb in ("maps", "noise", "cross", "centred", "features", "saliency")),
)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example(tiltsim_command, verb):
    code, text = tiltsim_command(*verb.split(), "--help")
    assert code == 0, text
    assert "Example" in text
    assert "--out" in text


def test_structure_then_files(tiltsim_command, tmp_path):
    out = tmp_path / "film"
    code, text = tiltsim_command("structure", "Cc", "--samarium", 0.07, "--thickness", 24, "--out", out)
    assert code == 0, text
    summary = json.loads((out / "summary.json").read_text())
    assert summary["d_true_pm"][0] == pytest.approx(-20.7, abs=0.1)
    assert {p.name for p in out.iterdir()} == {"Cc-Sm7.xyz", "Cc-Sm7.cif", "truth.nc", "summary.json"}
    # the CIF comes back in by naming its sites
    code, text = tiltsim_command(
        "structure", out / "Cc-Sm7.cif", "--a-site", "Bi,Sm", "--b-site", "Fe", "--beam", "[001]",
        "--up", "[0-10]", "--lateral", 1, "--out", tmp_path / "again",
    )  # fmt: skip
    assert code == 0, text
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert again["d_true_pm"] == pytest.approx(summary["d_true_pm"], abs=0.01)


def test_measure_keeps_signs_and_writes_everything(tiltsim_command, tmp_path):
    np.save(tmp_path / "film.npy", lattice_image())
    out = tmp_path / "measured"
    code, text = tiltsim_command("measure", tmp_path / "film.npy", "--pixel-size", 0.2, "--out", out)
    assert code == 0, text
    summary = json.loads((out / "summary.json").read_text())
    # d = A − B: B was moved by −d
    np.testing.assert_allclose(summary["d_mean_pm"], [40.0, -14.0], atol=0.5)
    assert summary["pixel_size_angstrom"] == pytest.approx(0.2)
    for key in ("cells", "columns_a", "columns_b", "d_std_pm", "seconds"):
        assert key in summary
    names = {p.name for p in out.iterdir()}
    assert {"columns.nc", "unit_cells.nc", "polarization.png", "polarization.svg", "summary.json"} <= names
    for name in ("columns.nc", "unit_cells.nc"):
        with xr.open_dataset(out / name) as dataset:
            assert all("units" in v.attrs for v in dataset.data_vars.values())


def test_train_then_predict(tiltsim_command, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "film.npy", lattice_image(400) + rng.normal(0, 0.02, (400, 400)))
    net = tmp_path / "net"
    common = ("--pixel-size", 0.2)
    code, text = tiltsim_command("train", tmp_path / "film.npy", "--epochs", 3, "--out", net, *common)
    assert code == 0, text
    assert json.loads((net / "summary.json").read_text())["metrics"]["test"]["n"] > 20
    code, text = tiltsim_command(
        "predict", net / "model.safetensors", tmp_path / "film.npy", "--out", tmp_path / "p", *common
    )
    assert code == 0, text
    assert json.loads((tmp_path / "p" / "summary.json").read_text())["cells"] > 200
    # Where no window is whole, nothing is said, and nothing is left behind.
    wide = tmp_path / "wide"
    code, text = tiltsim_command(
        "train",
        tmp_path / "film.npy",
        "--mode",
        "sliding",
        "--window",
        20,
        "--epochs",
        1,
        "--out",
        wide,
        *common,
    )
    assert code == 0, text
    hole = lattice_image(130)
    hole[60:70, 60:70] = np.nan
    np.save(tmp_path / "hole.npy", hole)
    code, text = tiltsim_command(
        "predict", wide / "model.safetensors", tmp_path / "hole.npy", "--out", tmp_path / "q", *common
    )
    assert code == 2
    assert "shows no cell whole" in text
    assert not (tmp_path / "q").exists()


def bad_files(folder):
    np.save(folder / "constant.npy", np.ones((200, 200)))
    np.save(folder / "nan.npy", np.full((200, 200), np.nan))
    np.save(folder / "noise.npy", np.random.default_rng(0).normal(size=(200, 200)))
    np.save(folder / "stack.npy", np.zeros((3, 3, 200, 200)))
    (folder / "truncated.dm4").write_bytes(b"\x00\x00\x00\x04" + b"\x00" * 200)
    (folder / "foreign.tif").write_text("this is no image")
    (folder / "notes.txt").write_text("hello")
    one = np.zeros((200, 200))
    one[10::20, 10::20] = 1.0
    from scipy.ndimage import gaussian_filter

    np.save(folder / "one_sublattice.npy", gaussian_filter(one, 2.5))


@pytest.mark.parametrize(
    "name",
    [
        "missing.dm4", "constant.npy", "nan.npy", "noise.npy", "stack.npy", "truncated.dm4",
        "foreign.tif", "notes.txt", "one_sublattice.npy",
    ],
)  # fmt: skip
def test_bad_images_are_one_sentence_and_exit_2(tiltsim_command, tmp_path, name):
    bad_files(tmp_path)
    out = tmp_path / "out"
    code, text = tiltsim_command("measure", tmp_path / name, "--pixel-size", 0.2, "--out", out)
    assert code == 2, text
    said = [line for line in text.splitlines() if line.startswith("tiltsim: ")]
    assert len(said) == 1
    assert "Traceback" not in text
    assert not out.exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--pixel-size", 1e9), "--pixel-size"),
        (("--pixel-size", 0.02), "--pixel-size"),
        (("--lattice-parameter", 0.39), "--lattice-parameter"),
        (("--pixel-size", 0.2, "--radius", -3), "--radius"),
        (("--pixel-size", 0.2, "--zone", "111"), "zone"),
    ],
)
def test_implausible_options_are_refused_by_name(tiltsim_command, tmp_path, options, word):
    np.save(tmp_path / "film.npy", lattice_image())
    code, text = tiltsim_command("measure", tmp_path / "film.npy", *options, "--out", tmp_path / "out")
    assert code == 2, text
    assert word in text
    assert not (tmp_path / "out").exists()


def test_preset_can_be_printed_changed_and_read(tiltsim_command, tmp_path):
    code, text = tiltsim_command("study", "quick", "--show")
    assert code == 0
    from tiltsim.config import load_study

    (tmp_path / "mine.toml").write_text(text)
    assert load_study(tmp_path / "mine.toml") == load_study("quick")


def test_no_pixel_size_is_said(tiltsim_command, tmp_path):
    np.save(tmp_path / "film.npy", lattice_image())
    code, text = tiltsim_command("measure", tmp_path / "film.npy", "--out", tmp_path / "out")
    assert code == 2
    assert "pixel" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("structure", "R9c"), "R9c"),
        (("structure", "R3c", "--samarium", "7"), "samarium"),
        (("structure", "R3c", "--lateral", "inf"), "--lateral"),
        (("structure", "R3c", "--seed", "-1"), "--seed"),
        (("simulate", "my.cif"), "tiltsim structure"),
        (("structure", "R3c", "--thickness", "1e9", "--out", "a/b"), "thickness"),
        (("structure", "nowhere.cif", "--a-site", "Bi", "--b-site", "Fe"), "nowhere.cif"),
        (("simulate", "nowhere.xyz"), "nowhere.xyz"),
        (("study", "nowhere.toml"), "nowhere.toml"),
        (("predict", "nowhere.safetensors", "film.dm4"), "nowhere.safetensors"),
        (("predict", "nowhere", "film.dm4"), "tilt-aware"),
        (("train", "synth-networks", "--library", "nowhere.nc"), "nowhere.nc"),
        (("report", "nowhere"), "nowhere"),
        # Seeds of fields on which networks are judged are not for training.
        (("train", "networks", "--seed", "900000"), "--seed"),
        (("measure", "film.dm4", "--pixel-size", "-1"), "film.dm4"),
    ],
)
def test_bad_requests_exit_2_and_leave_nothing(tiltsim_command, tmp_path, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    code, text = tiltsim_command(*arguments)
    assert code == 2
    assert word in text
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


def test_simulate_refuses_tilt_and_detector_beyond_the_method(tiltsim_command, tmp_path):
    code, text = tiltsim_command("structure", "SrTiO3", "--thickness", 8, "--out", tmp_path / "s")
    assert code == 0, text
    code, text = tiltsim_command(
        "simulate", tmp_path / "s" / "SrTiO3.xyz", "--tilt", 30, "--out", tmp_path / "i"
    )
    assert code == 2
    assert "1°" in text
    assert not (tmp_path / "i").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_output_is_one_sentence(tiltsim_command, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, text = tiltsim_command("structure", "SrTiO3", "--out", tmp_path / "locked" / "out")
    assert code == 2
    assert "cannot be written" in text


def test_output_that_is_a_file_is_one_sentence(tiltsim_command, tmp_path):
    (tmp_path / "taken").write_text("mine")
    code, text = tiltsim_command("structure", "SrTiO3", "--thickness", 8, "--out", tmp_path / "taken")
    assert code == 2
    assert "cannot be written" in text
    assert (tmp_path / "taken").read_text() == "mine"
