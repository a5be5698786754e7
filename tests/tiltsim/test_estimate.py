"""What a dry run says is what the simulation does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import structures
import tiltsim
from tiltsim import estimate, smatrix
from tiltsim.reciprocal import pixels
from tiltsim.scheduling import count_units
from tiltsim.simulate import prepare

SETTINGS = {
    "tilts": tiltsim.TiltSeries((-8.0, 0.0, 8.0)),
    "thicknesses": [8.0, 16.0],
    "detector": tiltsim.Detector(65.0, 80.0),
    "numerics": tiltsim.Numerics(wave_vectors=2, pixel=0.2),
}


@pytest.fixture(scope="module")
def film():
    return structures.build("SrTiO3", lateral=(1, 1), thickness=16.0)


@pytest.mark.parametrize(
    ("phonons", "engine", "number"),
    [
        (tiltsim.FrozenPhonons(0), "smatrix", 4),
        (tiltsim.FrozenPhonons(3), "smatrix", 4 * 2 * 3),
        (tiltsim.FrozenPhonons.until(0.3, max_pairs=9), "smatrix", 4 * 2 * 2),
        (tiltsim.FrozenPhonons(0), "multislice", 3),
        (tiltsim.FrozenPhonons(2), "multislice", 3 * 2 * 2),
    ],
)
def test_units_are_wave_vectors_or_tilts_of_every_configuration(film, phonons, engine, number):
    (job,) = prepare(film, phonons=phonons, engine=engine, **SETTINGS)
    assert count_units(job) == number


def test_the_simulation_does_as_many_units_as_it_said(film):
    phonons, counts = tiltsim.FrozenPhonons(1), []
    tiltsim.simulate(film, phonons=phonons, progress=lambda *both: counts.append(both), **SETTINGS)
    expected = count_units(prepare(film, phonons=phonons, **SETTINGS)[0])
    assert counts[-1] == (expected, expected)


def test_a_dry_run_names_units_waves_and_the_most_pairs(film):
    jobs = [
        prepare(film, phonons=phonons, engine=engine, **SETTINGS)[0]
        for phonons, engine in (
            (tiltsim.FrozenPhonons.until(0.3, max_pairs=9), "smatrix"),
            (tiltsim.FrozenPhonons(1), "multislice"),
        )
    ]
    text = "\n".join(estimate.forecast(jobs))
    assert "2 × 2 residual wave vectors (box 7.8 × 7.8 Å): as numerics.wave_vectors asks" in text
    assert "16 units of work" in text
    assert "that is 2 phonon pairs; more are added, up to 9" in text
    assert "6 multislice runs" in text


def test_reading_is_timed_on_as_many_exit_waves_as_a_pass_has(film, monkeypatch):
    """Every tilt and pass is one reading of a portion: of all planes, with waves from all over the ring."""
    (job,) = prepare(film, phonons=tiltsim.FrozenPhonons(1), **SETTINGS)
    add, seen, clock = smatrix.Reader.add, [], iter(np.arange(100.0))

    def watched(reader, planes, portion):
        seen.append((len(planes), planes[0].shape[0], len(portion)))
        add(reader, planes, portion)

    monkeypatch.setattr(smatrix.Reader, "add", watched)
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(clock))
    seconds = estimate._reading_seconds(job, 3, torch.device("cpu"))
    one = replace(job, tilts=tiltsim.TiltSeries((-8.0,)))
    portion = -(-len(pixels(one.grid, one.detectors, one.points, (0, 0))) // 3)
    assert set(seen) == {(2, portion, portion)}
    assert seconds == pytest.approx(3 * 3 * 1.0)  # tilts × passes × one tick
