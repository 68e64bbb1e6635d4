"""Evaluation: many methods and many metrics on one batch, sharing forward passes."""

from cam_extras.evaluation.batch import Evaluation, evaluate_batch

__all__ = ["Evaluation", "evaluate_batch"]
