"""Synthetic micrographs with ground truth."""

from tiltsim.synth.augment import augment
from tiltsim.synth.crystal import Crystal
from tiltsim.synth.faults import Faults
from tiltsim.synth.importing import Imported, import_image, import_images
from tiltsim.synth.painting import paint
from tiltsim.synth.path import ScanPath
from tiltsim.synth.reading import read_set
from tiltsim.synth.recipe import Recipe, load_recipe
from tiltsim.synth.shards import write_set
from tiltsim.synth.specimen_request import DomainRequest, SpecimenRequest
from tiltsim.synth.synthesis import Field, synthesize
from tiltsim.synth.torch_data import FieldDataset, SyntheticFields
from tiltsim.synth.truth_tables import TableConventions

__all__ = [
    "Crystal",
    "DomainRequest",
    "Faults",
    "Field",
    "FieldDataset",
    "Imported",
    "Recipe",
    "ScanPath",
    "SpecimenRequest",
    "SyntheticFields",
    "TableConventions",
    "augment",
    "import_image",
    "import_images",
    "load_recipe",
    "paint",
    "read_set",
    "synthesize",
    "write_set",
]
