"""Evaluation: many methods and many metrics on one batch, sharing forward passes; and the analysis of saturation."""

from cam_extras.evaluation.evaluator import Evaluation, Evaluator
from cam_extras.evaluation.saturation import SaturationCurves, saturation_curves

__all__ = ["Evaluation", "Evaluator", "SaturationCurves", "saturation_curves"]
