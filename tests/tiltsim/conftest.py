"""Small real simulations, run once a session."""

import sys

import pytest

import structures
import tiltsim
from tiltsim.cli import main

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
