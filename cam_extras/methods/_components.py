"""The first principal component of a feature map, for the Eigen-CAM methods."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_extras._checks import check_finite


def first_component(values: Tensor, guide: Tensor) -> Tensor:
    """Project every cell on the first principal component of all cells: X v, (N, C, *S) -> (N, 1, *S).

    X has a row for every cell and a column for every channel, whose mean is subtracted. v with |v| = 1 is the direction
    in which the cells vary most, found from X X^T or X^T X, whichever is smaller. -v is one as well: the sign is such
    that the projection grows with the guide, sum_s guide_s (X v)_s >= 0.

    Args:
        values: the feature map, shape (N, C, *S).
        guide: one value for every cell, shape (N, *S).

    Raises:
        ValueError: a value is NaN or infinite; samples are named.
    """
    check_finite("the feature map", values)
    device = torch.device("cpu") if values.device.type == "mps" else values.device  # which has no float64
    cells = values.flatten(2).mT.to(device, torch.float64)
    cells = cells - cells.mean(dim=1, keepdim=True)
    if cells.shape[1] < cells.shape[2]:
        direction = cells.mT @ _last_eigenvector(cells @ cells.mT)
        length = direction.norm(dim=1, keepdim=True)
        direction = torch.where(length > 0, direction / length, 0)
    else:
        direction = _last_eigenvector(cells.mT @ cells)
    projection = cells @ direction
    agreement = guide.flatten(1)[:, None].to(projection) @ projection
    projection = torch.where(agreement < 0, -projection, projection)
    return projection.mT.reshape(len(values), 1, *values.shape[2:]).to(values)


def _last_eigenvector(gram: Tensor) -> Tensor:
    """Return the eigenvector of the greatest eigenvalue of symmetric matrices: (N, D, D) -> (N, D, 1)."""
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors[..., -1:]
