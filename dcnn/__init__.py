"""Polarization from an atomically resolved image by a small network, without finding every atom.

A network is trained on sub-images of the left part of a field and tested on the right part, in the spirit
of Nelson et al., npj Comput. Mater. 7, 149 (2021). Everywhere d = mean of the surrounding A columns − B
column, in pm, x right and y down; positions in Å.
"""

from dcnn._calibrating import calibrate
from dcnn._calibration import NOVEL
from dcnn._errors import ModelError
from dcnn._labels import labelled_windows, split, split_line, with_columns
from dcnn._model import Model, load, save
from dcnn._plotting import plot_learning_curve, plot_prediction, plot_split_maps
from dcnn._prediction import evaluate_split, predict, predict_map
from dcnn._settings import TrainSettings
from dcnn._training import train
from dcnn._window_sizes import window_angstrom
from dcnn._windows import Windows, sub_images

__all__ = [
    "NOVEL",
    "Model",
    "ModelError",
    "TrainSettings",
    "Windows",
    "calibrate",
    "evaluate_split",
    "labelled_windows",
    "load",
    "plot_learning_curve",
    "plot_prediction",
    "plot_split_maps",
    "predict",
    "predict_map",
    "save",
    "split",
    "split_line",
    "sub_images",
    "train",
    "window_angstrom",
    "with_columns",
]
