"""What the specimen is, and what is true about it."""

from structures.columns import build_columns
from structures.errors import SpecimenError
from structures.files import read, write
from structures.phases import MonoclinicModel
from structures.specimen import PHASES, Specimen, build
from structures.symmetry import space_group

__all__ = [
    "PHASES",
    "MonoclinicModel",
    "Specimen",
    "SpecimenError",
    "build",
    "build_columns",
    "read",
    "space_group",
    "write",
]
