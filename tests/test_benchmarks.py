"""Every benchmark runs, in its small form, and says what it must."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(p.name for p in FOLDER.glob("[a-z]*.py")))
def test_benchmark_runs(script, tmp_path):
    result = tmp_path / "result.json"
    subprocess.run([sys.executable, FOLDER / script, "--quick", "--json", result], check=True, timeout=900)
    report = json.loads(result.read_text())
    assert report["machine"]["abtem"]
    assert len(report) > 1
