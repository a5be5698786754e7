"""What tests of several packages share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    for folder in (os.environ.get("TILTSIM_DATA"), Path(__file__).resolve().parents[2] / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("no real micrographs: set TILTSIM_DATA or put them in ../shared/data")
