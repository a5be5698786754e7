"""Small real simulations, run once a session."""

import sys

import pytest

import analysis
import structures
import tiltsim
from tiltsim.cli import main
from tiltsim.library import LibraryRequest, build_library, open_library

#: Detector small enough for seconds, at the full band limit factor.
DETECTOR = tiltsim.Detector(65.0, 80.0)


@pytest.fixture(scope="session")
def null():
    """SrTiO3, one cell wide."""
    return structures.build("SrTiO3", lateral=(1, 1), thickness=60.0)


@pytest.fixture(scope="session")
def still(null):
    """A still SrTiO3 lattice off axis: exactly symmetric."""
    return tiltsim.simulate(
        null,
        tilts=tiltsim.TiltSeries.cross(8.0, 3),
        thicknesses=[24.0, 60.0],
        detector=DETECTOR,
        phonons=tiltsim.FrozenPhonons(0),
    )


@pytest.fixture(scope="session")
def shaken():
    """SrTiO3 with one phonon pair, 2×2 cells."""
    specimen = structures.build("SrTiO3", thickness=48.0)
    images = tiltsim.simulate(
        specimen,
        tilts=tiltsim.TiltSeries((-8.0, 0.0, 8.0)),
        thicknesses=[24.0, 48.0],
        detector=DETECTOR,
        phonons=tiltsim.FrozenPhonons(1),
        keep_configs=True,
    )
    return specimen, images


#: A library of seconds: smaller aperture and ring than a user's, everything else as real.
SMALL_LIBRARY = LibraryRequest(
    tiltsim.Microscope(semiangle_cutoff=22.0),
    tiltsim.Detector(45.0, 75.0),
    largest_tilt=12.0,
    tilts=5,
    thickest=96.0,
    phonons=tiltsim.FrozenPhonons(pairs=1, redraw=True),
)


@pytest.fixture(scope="session")
def library_file(tmp_path_factory):
    """A small response library on disk; its units of work lie beside it in ``work``."""
    folder = tmp_path_factory.mktemp("library")
    dataset = build_library(SMALL_LIBRARY, work=folder / "work")
    return analysis.write_dataset(dataset, folder / "library.nc")


@pytest.fixture(scope="session")
def library(library_file):
    """The same, opened."""
    return open_library(library_file)


@pytest.fixture
def tiltsim_command(monkeypatch, capsys):
    """Run ``tiltsim`` with arguments; returns (exit code, what it printed)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tiltsim", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run
