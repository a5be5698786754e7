"""Response libraries: the image of a cell over displacement, tilt, thickness and composition."""

from tiltsim.library.building import build_library
from tiltsim.library.checking import check_library
from tiltsim.library.request import LibraryRequest
from tiltsim.library.response import Library, open_library

__all__ = ["Library", "LibraryRequest", "build_library", "check_library", "open_library"]
