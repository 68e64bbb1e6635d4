"""Saturation along the path from a baseline to the image: Buono et al., "Expected Grad-CAM", 2024."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cam_extras._checks import SampleError, check_class_scores, check_count, check_finite, which
from cam_extras._deprecated import warn
from cam_extras.maps import broadcast_to
from cam_extras.methods._sampling import as_image, probe_at
from cam_extras.methods.base import rows_for
from cam_extras.probe import Model, Probe, ReshapeTransform
from cam_extras.utilities import Logit, Softmax


class SaturationCurves(NamedTuple):
    """A model's response to x0 + a (x - x0), for T values of a from 0 to 1; in float64.

    Attributes:
        fractions: a, shape (T,), in order.
        logit: logit of the class explained, shape (N, T).
        softmax: its probability, shape (N, T), in [0, 1].
        similarity: cosine similarity of the layer's embedding with that of x, shape (N, T), in [-1, 1]; 1 at a = 1.
            It is 0 where the embedding is all 0 and has no direction (a net without biases, at black).
    """

    fractions: Tensor
    logit: Tensor
    softmax: Tensor
    similarity: Tensor

    @property
    def score(self) -> Tensor:
        """The logit, by its old name."""
        warn("SaturationCurves.score", "SaturationCurves.logit")
        return self.logit


def saturation_curves(
    model: Model,
    layer: nn.Module,
    x: Tensor,
    *,
    baseline: float | Tensor = 0.0,
    steps: int = 50,
    target: int | Sequence[int] | Tensor | None = None,
    reshape_transform: ReshapeTransform = "auto",
    internal_batch_size: int | None = None,
) -> SaturationCurves:
    """Follow a class's logit and probability, and a layer's embedding, from a baseline x0 to x.

    Where they flatten before a = 1, the model is saturated at x: the gradient there says little about what was built up
    along the path, and methods that average over the path (Expected and Integrated Grad-CAM) say more. It costs one
    forward pass for the batch and `steps` for each image.

    The paper leaves three points open. The embedding is the layer's whole feature map as one vector, all channels and
    cells, as in the work it follows (Sundararajan et al., "Gradients of Counterfactuals", 2016); with a
    `reshape_transform`, what that keeps. The class is that of x on the whole path. The values of a are regular, i /
    steps, where the paper draws 25 at random: this includes both ends, and is the same for all images.

    Args:
        model: the model, left as found. It must return scores of two or more classes.
        layer: the layer whose embedding is compared.
        x: the batch, shape (N, C, *S).
        baseline: x0, a number or a tensor that broadcasts to x, in the model's input space; see
            `cam_extras.maps.black`.
        steps: number of steps from x0 to x, so that T = steps + 1.
        target: the class to explain, or one for each sample; by default the class predicted for x.
        reshape_transform: see `Probe`.
        internal_batch_size: most images in a forward pass, except the first, of the whole batch; by default 32, on the
            CPU only as many as have the pixels of four 224 x 224 images, which fit in its cache.

    Raises:
        TypeError: see `Probe`; or the input is not made of floating-point numbers, or the target is a function.
        ValueError: see `Probe`; or a count is less than 1, the baseline is not finite or has another shape, the model
            does not return class scores, its output is not finite, or the embedding of x is all 0, so that nothing can
            be compared with it: samples are named.

    Buono et al., "Expected Grad-CAM: Towards gradient faithfulness", 2024, appendix B.1, figures 2a, 10 and 11.
    """
    check_count("steps", steps)
    if internal_batch_size is not None:
        check_count("internal_batch_size", internal_batch_size)
    if callable(target):
        raise TypeError("the target must be a class index, or one for each sample: a function has no probability")
    probe = Probe(model, layer, x, target=target, reshape_transform=reshape_transform, second_order=False)
    image = as_image(probe)
    start = broadcast_to("the baseline", baseline, image).detach()
    check_class_scores(probe.outputs)

    nowhere = (probe.activations == 0).flatten(1).all(dim=1)
    if nowhere.any():
        raise SampleError("the layer's embedding of the input is all 0", which(nowhere), "choose another layer")

    samples = torch.arange(len(x), device=probe.x.device)
    fractions = torch.arange(steps + 1, dtype=torch.float64, device=probe.x.device) / steps
    rows = rows_for(probe, internal_batch_size)
    parts = []
    for part in samples.tensor_split(math.ceil(len(samples) / rows)):
        goal = _directions(probe.activations[part])
        measured = []
        for some in fractions[:-1].split(max(1, rows // len(part))):
            a = some.to(image).reshape(-1, *(1,) * image.ndim)
            there = probe_at(probe, start[part] + a * (image[part] - start[part]), part)
            similarity = (_directions(there.activations).unflatten(0, (len(some), len(part))) * goal).sum(dim=2)
            measured.append(
                torch.stack([*_class_utilities(there), similarity.flatten()]).unflatten(1, similarity.shape)
            )
        parts.append(torch.cat(measured, dim=1))
    logit, softmax = _class_utilities(probe)  # a = 1 is the batch itself
    end = torch.stack([logit, softmax, torch.ones_like(logit)])
    curves = torch.cat([torch.cat(parts, dim=2), end[:, None]], dim=1).transpose(1, 2)
    for what, values in zip(("logit", "probability", "similarity"), curves, strict=True):
        check_finite(f"the {what} on the way from the baseline", values)
    return SaturationCurves(fractions, curves[0], curves[1], curves[2].clamp(-1, 1))


def _class_utilities(probe: Probe) -> tuple[Tensor, Tensor]:
    """Return the logit and the probability of the class explained, in float64: in float32 it reaches 1 too soon."""
    outputs = probe.outputs.double()
    return Logit(probe.target)(outputs), Softmax(probe.target)(outputs)


def _directions(activations: Tensor) -> Tensor:
    """Return every sample's embedding with norm 1, or 0 where it is all 0: (N, K, *S) -> (N, D), in float64."""
    embeddings = activations.flatten(1).double()
    greatest = embeddings.abs().amax(dim=1, keepdim=True)
    embeddings = embeddings / torch.where(greatest == 0, 1, greatest)  # squares of small activations would underflow
    norms = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    return embeddings / torch.where(norms == 0, 1, norms)
