"""How far estimators of polar displacement can be trusted, condition by condition, against held-out synthetic fields."""

from tiltsim.evaluation.card import write_card
from tiltsim.evaluation.curves import plot_curves
from tiltsim.evaluation.estimators import Estimator, estimator
from tiltsim.evaluation.evaluating import evaluate
from tiltsim.evaluation.fields import Sight
from tiltsim.evaluation.novelty import novelty_roc
from tiltsim.evaluation.novelty_figures import plot_roc
from tiltsim.evaluation.suites import SUITES, Condition, Suite, suite
from tiltsim.evaluation.tilt import plot_tilt_accuracy, tilt_accuracy

__all__ = [
    "SUITES",
    "Condition",
    "Estimator",
    "Sight",
    "Suite",
    "estimator",
    "evaluate",
    "novelty_roc",
    "plot_curves",
    "plot_roc",
    "plot_tilt_accuracy",
    "suite",
    "tilt_accuracy",
    "write_card",
]
