"""Opti-CAM: Zhang et al., "Opti-CAM: Optimizing saliency maps for interpretability", 2024."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from rich.progress import track
from torch import Tensor

from cam_extras._checks import check_choice, check_count, check_fill, check_number
from cam_extras.maps import mask, normalise, resize
from cam_extras.methods.base import GradientMethod, rows_of_a_pass, weigh_channels
from cam_extras.probe import Probe


def _divide_by_maximum(maps: Tensor) -> Tensor:
    high = maps.amax(dim=tuple(range(1, maps.ndim)), keepdim=True)
    return torch.where(high > 0, maps / torch.where(high > 0, high, 1), 0)


OBJECTIVES = ("mask", "diff", "iomask", "iodiff")
NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "range": normalise,
    "max": _divide_by_maximum,
    "sigmoid": torch.sigmoid,
}
OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "nadam": partial(torch.optim.NAdam, momentum_decay=1e4),  # decays at once: momentum as Adam's
}
RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "identity": lambda maps: maps}


@dataclass(frozen=True)
class Optimum:
    """What an optimisation came to.

    Attributes:
        weights: softmax(u), shape (N, C); positive, with sum 1.
        objective: F before every update, one tensor (iterations,) for each sample; they may differ in length.
    """

    weights: Tensor
    objective: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class OptiCAM(GradientMethod):
    """Opti-CAM: contributions softmax(u)_k A_k, with u optimised so that the class is seen in the masked image.

    S(u) = h(sum_k softmax(u)_k A_k) is enlarged to the input's size and normalised to the mask s = n(Up(S(u))), and
    Adam, or NAdam, maximises one of

    =========  =====================================================
    `mask`     g(x*s)
    `diff`     -|g(x) - g(x*s)|
    `iomask`   g(x*s) - g(x*(1-s))
    `iodiff`   -|g(x) - g(x*s)| + |g(x) - g(x*(1-s))|
    =========  =====================================================

    over u, starting at 0, where g is the score of the class. Samples do not influence each other; one that has
    converged leaves the batch.

    Use it where confidence in what the map shows matters more than time. An iteration costs a forward pass of the
    masked input and a backward pass to it (two of each for the last two objectives); no gradient of a parameter is
    computed.

    In float32 the iteration is chaotic: rounding, another batch size for instance, moves single pixels of the final
    map, but not the average of a metric.

    Args:
        score: g, a key of `cam_extras.scores.SCORES`; a score function given to the host wins over it.
        objective: "mask", "diff", "iomask" or "iodiff".
        normalisation: n: "range", min-max; "max", division by the maximum; or "sigmoid".
        h: "relu", as the front ends do with the sum over channels, or "identity". They differ only for layers whose
            values can be negative.
        optimiser: "adam", or "nadam", Adam with Nesterov's momentum.
        learning_rate: of the optimiser.
        max_iterations: updates of u.
        tolerance: a sample has converged when its objective changes by less in one iteration.
        fill: what stands where the mask is 0, in the values that the model sees: a number, or a tensor that broadcasts
            to an image (C, *S), such as `cam_extras.maps.black(mean, std)`. Metrics of the map want the same.
        internal_batch_size: images in a forward pass at most; by default 32, and on the CPU no more than have as many
            pixels as 4 of 224 x 224, which its cache holds. With additional forward arguments, or a score function of
            the whole batch, a pass has all images.
        progress: show a progress bar.

    `OptiCAM(**OptiCAM.FAST)` has most of its average gain in three tenths of the time: see docs/decisions.md.

    Zhang et al., "Opti-CAM: Optimizing saliency maps for interpretability", 2024, equations (8) to (11), and its
    section 4.6 for objectives and normalisations.
    """

    paper: ClassVar[str] = "Zhang et al., Opti-CAM, 2024"
    FAST: ClassVar[dict[str, Any]] = {
        "optimiser": "nadam",
        "learning_rate": 0.35,
        "max_iterations": 30,
    }

    objective: str = "mask"
    normalisation: str = "range"
    h: str = "relu"
    optimiser: str = "adam"
    learning_rate: float = 0.1
    max_iterations: int = 100
    tolerance: float = 1e-10
    fill: float | Tensor = 0.0
    internal_batch_size: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("normalisation", self.normalisation, NORMALISATIONS)
        check_choice("h", self.h, RECTIFIERS)
        check_choice("optimiser", self.optimiser, OPTIMISERS)
        check_fill(self.fill)
        check_count("max_iterations", self.max_iterations)
        if self.internal_batch_size is not None:
            check_count("internal_batch_size", self.internal_batch_size)
        check_number("learning_rate", self.learning_rate)
        check_number("tolerance", self.tolerance)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive; got {self.learning_rate}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must be 0 or more; got {self.tolerance}")

    def optimise(self, probe: Probe) -> Optimum:
        """Return the optimal weights and how the objective came there."""
        probe = probe.scored_by(self.score)
        with torch.inference_mode(False), torch.enable_grad():
            x, activations = probe.x.clone(), probe.activations
            with torch.no_grad():
                unmasked = probe.score(x) if self.objective in ("diff", "iodiff") else x.new_zeros(len(x))
            u = torch.zeros(activations.shape[:2], dtype=activations.dtype, device=x.device)
            optimiser = OPTIMISERS[self.optimiser]([u], self.learning_rate)
            found, u.grad = torch.empty_like(u), torch.zeros_like(u)
            curves: list[list[Tensor]] = [[] for _ in x]
            running = torch.arange(len(x), device=x.device)
            previous = torch.full((len(x),), torch.inf, dtype=u.dtype, device=x.device)
            rows = rows_of_a_pass(probe, self.internal_batch_size)
            for _ in track(range(self.max_iterations), "Opti-CAM", disable=not self.progress):
                parts = []
                for some in running.split(rows):
                    v = u[some].requires_grad_()
                    part = self._objective(probe, x[some], activations[some], v, unmasked[some], some)
                    (u.grad[some],) = torch.autograd.grad(-part.sum(), v)
                    parts.append(part.detach())
                objective = torch.cat(parts)
                for sample, value in zip(running.tolist(), objective, strict=True):
                    curves[sample].append(value)
                converged = (objective - previous[running]).abs() < self.tolerance
                found[running[converged]] = u[running[converged]]
                previous[running] = objective.to(previous.dtype)
                running = running[~converged]
                if len(running) == 0:
                    break
                with torch.device(u.device):  # steps are counted in a tensor
                    optimiser.step()
            found[running] = u[running]
        return Optimum(found.softmax(dim=1), tuple(torch.stack(curve) for curve in curves))

    def _objective(
        self, probe: Probe, x: Tensor, activations: Tensor, u: Tensor, unmasked: Tensor, samples: Tensor
    ) -> Tensor:
        """Return F for some of the probe's samples, shape (n,)."""
        summed = RECTIFIERS[self.h](weigh_channels(u.softmax(dim=1), activations).sum(dim=1))
        shown = NORMALISATIONS[self.normalisation](resize(summed, tuple(x.shape[2:])))
        inside = probe.score(mask(x, shown, self.fill), samples)
        if self.objective == "mask":
            return inside
        if self.objective == "diff":
            return -(unmasked - inside).abs()
        outside = probe.score(mask(x, 1 - shown, self.fill), samples)
        if self.objective == "iomask":
            return inside - outside
        return -(unmasked - inside).abs() + (unmasked - outside).abs()

    def channel_weights(self, probe: Probe) -> Tensor:
        """Return softmax(u), shape (N, C)."""
        return self.optimise(probe).weights

    def contributions(self, probe: Probe) -> Tensor:
        """Return softmax(u)_k A_k, shape (N, C, *S)."""
        return weigh_channels(self.channel_weights(probe), probe.activations)
