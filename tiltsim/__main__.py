"""``python -m tiltsim``."""

from tiltsim.cli import main

main()
