"""Score functions against pytorch-grad-cam's and against their definitions."""

import pytest
import torch
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputReST,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)

from cam_extras.utilities import UTILITIES, Logit, LogSoftmax, ReST, Softmax

pytestmark = pytest.mark.numerical

OUTPUTS = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [(Logit, ClassifierOutputTarget), (Softmax, ClassifierOutputSoftmaxTarget), (ReST, ClassifierOutputReST)],
)
def test_equals_upstream(mine, theirs):
    for c in range(6):
        for row in OUTPUTS:
            torch.testing.assert_close(mine(c)(row), theirs(c)(row).reshape(()), rtol=1e-12, atol=0)
        torch.testing.assert_close(mine(c)(OUTPUTS), theirs(c)(OUTPUTS), rtol=1e-12, atol=0)


@pytest.mark.parametrize("score", UTILITIES.values())
def test_batch_equals_one_by_one(score):
    classes = [5, 0, 3, 3]
    together = score(classes)(OUTPUTS)
    alone = torch.stack([score(c)(row) for c, row in zip(classes, OUTPUTS, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)
    assert torch.equal(score(torch.tensor(classes))(OUTPUTS), together)


def test_rest_is_logit_plus_log_probability():
    torch.testing.assert_close(ReST(2)(OUTPUTS), Logit(2)(OUTPUTS) + LogSoftmax(2)(OUTPUTS))
    torch.testing.assert_close(LogSoftmax(2)(OUTPUTS), Softmax(2)(OUTPUTS).log())


def test_rest_of_extreme_logits_is_finite():
    outputs = torch.tensor([[1000.0, -1000.0]])
    assert ReST(1)(outputs).item() == -3000
    assert ReST(0)(outputs).item() == 1000


@pytest.mark.parametrize("score", UTILITIES.values())
@pytest.mark.parametrize(
    ("target", "error", "match"),
    [
        (6, ValueError, r"must lie in \[0, 6\); got 6 in samples 0, 1, 2, 3"),
        (-1, ValueError, r"must lie in \[0, 6\)"),
        ([0, 1], ValueError, "or 4, one for each sample"),
        (1.5, TypeError, "must be integers"),
        (True, TypeError, "must be integers"),
    ],
)
def test_bad_target(score, target, error, match):
    with pytest.raises(error, match=match):
        score(target)(OUTPUTS)


def test_segmentation_output_needs_a_score_of_its_own():
    with pytest.raises(ValueError, match=r"needs a model output of shape \(N, C\)"):
        Logit(0)(torch.randn(2, 3, 4, 4))
