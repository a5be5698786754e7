"""How far estimators of polar displacement can be trusted, condition by condition, against held-out synthetic fields."""

from tiltsim.evaluation.card import write_card
from tiltsim.evaluation.curves import plot_curves
from tiltsim.evaluation.estimators import Estimator, estimator
from tiltsim.evaluation.evaluating import evaluate
from tiltsim.evaluation.fields import Sight
from tiltsim.evaluation.suites import SUITES, Condition, Suite, suite

__all__ = [
    "SUITES",
    "Condition",
    "Estimator",
    "Sight",
    "Suite",
    "estimator",
    "evaluate",
    "plot_curves",
    "suite",
    "write_card",
]
