"""Evaluation: many methods and many metrics on one batch, sharing forward passes."""

from cam_extras.evaluation.batch import Evaluation, Evaluator

__all__ = ["Evaluation", "Evaluator"]
