"""Networks and column fitting against the truth of held-out fields; see `_dcnn.py` and `python benchmarks/dcnn.py --help`."""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    from _dcnn import main

    main()
elif __name__ == "dcnn":
    # A script of this folder wants the package of the same name, and Python looks in a script's own folder first.
    everywhere = sys.path[:]
    sys.path[:] = [p for p in everywhere if Path(p).resolve() != Path(__file__).parent]
    del sys.modules["dcnn"]
    importlib.import_module("dcnn")
    sys.path[:] = everywhere
