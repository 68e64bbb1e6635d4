"""SaCo: Wu et al., "On the Faithfulness of Vision Transformer Explanations", CVPR 2024."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from cam_extras._batching import rows_of_a_pass
from cam_extras._checks import check_count, check_input, check_tensor, check_unit_range
from cam_extras.metrics.base import metric
from cam_extras.metrics.insertion_and_deletion import Confidence, InternalBatchSize, ranks_of

Groups = Annotated[int, check_count, "groups of pixels that are compared"]


@metric(
    title="SaCo",
    short="SaCo",
    higher_is_better=True,
    meaning="whether groups of pixels that the map shows more also matter more to the confidence, weighted by how much",
    paper="Wu et al., On the Faithfulness of Vision Transformer Explanations (SaCo), 2024",
    range=(-1.0, 1.0),
)
def saco(
    x: Tensor,
    maps: Tensor,
    confidence: Confidence,
    *,
    groups: Groups = 10,
    internal_batch_size: InternalBatchSize = None,
) -> Tensor:
    """SaCo sum_{i<j} +-(s_i - s_j) / sum_{i<j} |s_i - s_j|, with + where d_i >= d_j and - elsewhere.

    The pixels, from the map's highest value to its lowest, fall into K groups of equal size; s_i is the mean of the map
    in group i, and d_i = f_c(x) - f_c(x with group i replaced by the image's mean colour). Where the number of pixels
    is not a multiple of K, the first groups have one more. It costs K forward passes.

    Args:
        x: the input, shape (N, C, *S).
        maps: H in [0, 1], shape (N, *S).
        confidence: (images (M, C, *S), indices (M,) of their samples) -> f_c (M,), as for `insertion_curve`.
        groups: K.
        internal_batch_size: most images in a forward pass.

    Returns:
        Shape (N,), in [-1, 1]; higher is better. 0 where the map is constant: it says of no group that it matters more.

    Raises:
        TypeError: the input is not a floating-point tensor.
        ValueError: the maps differ from the input in size, are not finite or leave [0, 1]; or there are more groups
            than pixels, or fewer than two.

    Wu et al., "On the Faithfulness of Vision Transformer Explanations", CVPR 2024.
    """
    check_input(x)
    check_tensor("the map", maps)
    check_unit_range("the map", maps)
    if maps.shape != (len(x), *x.shape[2:]):
        raise ValueError(
            f"expected maps of shape {(len(x), *x.shape[2:])} for an input of shape {tuple(x.shape)}; "
            f"got {tuple(maps.shape)}"
        )
    pixels = maps[0].numel()
    if not 2 <= groups <= pixels:
        raise ValueError(f"groups must be 2 or more, and at most the {pixels} pixels of an image; got {groups}")
    sizes = torch.tensor([len(part) for part in torch.arange(pixels).tensor_split(groups)], device=x.device)
    group_of_rank = torch.arange(groups, device=x.device).repeat_interleave(sizes)
    group = group_of_rank[ranks_of(maps)]  # (N, pixels)
    salience = maps.new_zeros(len(x), groups).scatter_add(1, group, maps.flatten(1)) / sizes
    colour = x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
    scores = []
    with torch.no_grad():
        for row in torch.arange(len(x) * groups, device=x.device).split(rows_of_a_pass(x, internal_batch_size)):
            samples = row // groups
            replaced = (group[samples] == (row % groups)[:, None]).reshape(-1, 1, *x.shape[2:])
            scores.append(confidence(torch.where(replaced, colour[samples], x[samples]), samples).detach())
    without = torch.cat(scores).reshape(len(x), groups)  # d_i >= d_j where this is at most that of j
    first, second = torch.triu_indices(groups, groups, 1, device=x.device)
    differences = salience[:, first] - salience[:, second]
    agree = torch.where(without[:, first] <= without[:, second], 1, -1)
    total = differences.abs().sum(dim=1)
    constant = maps.flatten(1).amin(dim=1) == maps.flatten(1).amax(dim=1)  # rounding must not tell groups apart
    return torch.where(constant, 0, (agree * differences).sum(dim=1) / torch.where(total > 0, total, 1))
