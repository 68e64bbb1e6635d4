"""Opti-CAM: Zhang et al., "Opti-CAM: Optimizing saliency maps for interpretability", 2024."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from rich.progress import track
from torch import Tensor

from cam_extras._checks import (
    SampleError,
    check_count,
    check_fill,
    stacklevel_of_the_caller,
    which,
)
from cam_extras.maps import mask, normalise, resize, warn_of_a_single_cell
from cam_extras.methods.base import ChannelMethod, GradientMethod, above_minimum, method, rows_for, weigh_channels
from cam_extras.probe import Probe


def _divide_by_maximum(maps: Tensor) -> Tensor:
    maps = maps.relu()  # a mask has no negative values, but signed layers do
    high = maps.amax(dim=tuple(range(1, maps.ndim)), keepdim=True)
    return torch.where(high > 0, maps / torch.where(high > 0, high, 1), 0)


def _start(activations: Tensor) -> Tensor:
    """Return the initial u, shape (N, C): 0, or the channels' deviations if their mean is constant over space."""
    flat = activations.flatten(2)
    spans = flat.amax(dim=2) - flat.amin(dim=2)
    mean = flat.mean(dim=1)
    # If the mean is the same in all cells, only rounding errors are left, which would be scaled up to a mask.
    varies = mean.amax(dim=1) - mean.amin(dim=1) > 1e-3 * spans.mean(dim=1)
    deviations = flat.std(dim=2, correction=0)
    high = deviations.amax(dim=1, keepdim=True)
    return torch.where(varies[:, None], 0, deviations / torch.where(high > 0, high, 1))


NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "range": normalise,
    "max": _divide_by_maximum,
    "sigmoid": torch.sigmoid,
}
OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "nadam": partial(torch.optim.NAdam, momentum_decay=1e4),  # decays at once, so that momentum is Adam's
}
RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "identity": lambda maps: maps}


@dataclass(frozen=True)
class Optimum:
    """The result of an optimisation.

    Attributes:
        weights: softmax(u), shape (N, C); positive, with sum 1.
        masks: s, shape (N, *input size), in [0, 1].
        objective: F before every update, one tensor (iterations,) per sample; lengths may differ.
    """

    weights: Tensor
    masks: Tensor
    objective: tuple[Tensor, ...]


@method
@dataclass(frozen=True, kw_only=True)
class OptiCAM(ChannelMethod, GradientMethod):
    """Opti-CAM: contributions softmax(u)_k A_k, with u optimised so that the model sees the class in the masked image.

    S(u) = h(sum_k softmax(u)_k A_k) is enlarged to the input's size and normalised to the mask s = n(Up(S(u))), and
    Adam, or NAdam, maximises one of

    =========  =====================================================
    `mask`     g(x*s)
    `diff`     -|g(x) - g(x*s)|
    `iomask`   g(x*s) - g(x*(1-s))
    `iodiff`   -|g(x) - g(x*s)| + |g(x) - g(x*(1-s))|
    =========  =====================================================

    over u, where g is the utility of the class. u starts at 0, which gives the mean over channels. If that mean is
    constant over space, as after a LayerNorm with its initial weights, u starts at the channels' standard deviations
    over space, divided by the largest. Samples do not influence each other; converged samples leave the batch.

    Every host shows the mask s of the last u. With `normalisation="range"` the minimum of S over space is subtracted
    from the contributions, split evenly over channels: their sum is S - min S, which hosts rectify and normalise to s.
    With the other two they are the mask itself, (N, 1, *input size).

    Use it where confidence in what the map shows matters more than time. An iteration costs a forward pass of the
    masked input and a backward pass to it (two of each for the last two objectives); no parameter gradients are
    computed.

    In float32 the iteration is chaotic: rounding, for instance with another batch size, changes single pixels of the
    final map, but not the average of a metric.

    Args:
        utility: g, a key of `cam_extras.utilities.UTILITIES`; a function given to the host overrides it.
        objective: "mask", "diff", "iomask" or "iodiff".
        normalisation: n: "range", min-max; "max", division by the maximum, after a ReLU where values are negative; or
            "sigmoid".
        rectifier: h, "identity", as in the paper's experiments, or "relu". They differ only for layers with negative
            values, as in transformers: there ReLU may leave nothing of the mean over channels, where u starts.
        optimiser: "adam", or "nadam", Adam with Nesterov's momentum.
        learning_rate: learning rate of the optimiser.
        max_iterations: maximum number of updates of u.
        tolerance: a sample has converged when its objective changes by less in one iteration.
        fill: value where the mask is 0, in the model's input space: a number, or a tensor that broadcasts to an image
            (C, *S), such as `cam_extras.maps.black(mean, std)`. Use the same for the metrics of the map.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            four 224 x 224 images, which fit in its cache. With additional forward arguments that cannot be divided, or
            a utility of the whole batch, a pass holds all images.
        progress: show a progress bar.

    Raises:
        SampleError: (when called) the objective does not depend on u at the start: the layer has the same value in all
            cells, `rectifier="relu"` leaves nothing, or the utility has no gradient. It is a ValueError that names the
            samples. If no mask changes the utility, as with a saturated probability, there is only a `UserWarning`.

    `OptiCAM(**OptiCAM.FAST)` reaches most of the average gain in three tenths of the time: see docs/decisions.md.

    Zhang et al., "Opti-CAM: Optimizing saliency maps for interpretability", 2024, equations (8) to (11), and its
    section 4.6 for objectives and normalisations.
    """

    paper: ClassVar[str] = "Zhang et al., Opti-CAM, 2024"
    old_names: ClassVar[Mapping[str, str]] = {**GradientMethod.old_names, "h": "rectifier"}
    FAST: ClassVar[dict[str, Any]] = {
        "optimiser": "nadam",
        "learning_rate": 0.35,
        "max_iterations": 30,
    }

    objective: Literal["mask", "diff", "iomask", "iodiff"] = "mask"
    normalisation: Literal["range", "max", "sigmoid"] = "range"
    rectifier: Literal["identity", "relu"] = "identity"
    optimiser: Literal["adam", "nadam"] = "adam"
    learning_rate: float = 0.1
    max_iterations: int = 100
    tolerance: float = 1e-10
    fill: float | Tensor = 0.0
    internal_batch_size: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        check_fill(self.fill)
        super().__post_init__()
        check_count("max_iterations", self.max_iterations)
        if self.internal_batch_size is not None:
            check_count("internal_batch_size", self.internal_batch_size)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive; got {self.learning_rate}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must be 0 or more; got {self.tolerance}")

    def optimise(self, probe: Probe) -> Optimum:
        """Return the optimal weights, their masks, and the objective at every step."""
        probe = probe.under(self.utility)
        with torch.inference_mode(False), torch.enable_grad():
            x, activations = probe.x.clone(), probe.activations
            with torch.no_grad():
                unmasked = probe.utility(x) if self.objective in ("diff", "iodiff") else x.new_zeros(len(x))
            u = _start(activations)
            optimiser = OPTIMISERS[self.optimiser]([u], self.learning_rate)
            found, u.grad = torch.empty_like(u), torch.zeros_like(u)
            curves: list[list[Tensor]] = [[] for _ in x]
            running = torch.arange(len(x), device=x.device)
            previous = torch.full((len(x),), torch.inf, dtype=u.dtype, device=x.device)
            rows = rows_for(probe, self.internal_batch_size)
            for iteration in track(range(self.max_iterations), "Opti-CAM", disable=not self.progress):
                parts = []
                for some in running.split(rows):
                    v = u[some].requires_grad_()
                    part = self._objective(probe, x[some], activations[some], v, unmasked[some], some)
                    (u.grad[some],) = torch.autograd.grad(-part.sum(), v)
                    parts.append(part.detach())
                objective = torch.cat(parts)
                if iteration == 0:
                    self._check_start(probe, u, u.grad, objective)
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
            with torch.no_grad():
                masks = self._masks(activations, found, tuple(x.shape[2:]))
        return Optimum(found.softmax(dim=1), masks, tuple(torch.stack(curve) for curve in curves))

    def _sum(self, activations: Tensor, u: Tensor) -> Tensor:
        """Return S(u), shape (N, *S)."""
        return RECTIFIERS[self.rectifier](weigh_channels(u.softmax(dim=1), activations).sum(dim=1))

    def _masks(self, activations: Tensor, u: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return s = n(Up(S(u))), shape (N, *size)."""
        summed = self._sum(activations, u)
        if self.normalisation == "range":  # a constant, of which rounding makes none when it is enlarged, stays one
            summed = normalise(summed)
        return NORMALISATIONS[self.normalisation](resize(summed, size))

    def _check_start(self, probe: Probe, u: Tensor, gradient: Tensor, objective: Tensor) -> None:
        """Raise SampleError for samples whose optimisation cannot start, and say why; warn where that is no loss."""
        activations = probe.activations
        warn_of_a_single_cell(activations)
        if activations.shape[2:].numel() == 1:
            return
        summed = weigh_channels(u.softmax(dim=1), activations).sum(dim=1).flatten(1)
        emptied = (
            (summed <= 0).all(dim=1)
            & (summed < 0).any(dim=1)
            & (self.rectifier == "relu" or self.normalisation == "max")
        )
        constant = (summed == summed[:, :1]).all(dim=1)
        # A single channel leaves nothing to weigh, and neither do two cells under min-max, which always give 0 and 1.
        # And "diff" is already at its optimum if the masked image does as well as the whole one.
        nothing_to_weigh = activations.shape[1] == 1 or (self.normalisation == "range" and summed.shape[1] == 2)
        done = torch.full_like(constant, nothing_to_weigh) | ((objective == 0) & (self.objective == "diff"))
        stuck = (gradient == 0).all(dim=1) & (emptied | constant | ~done)
        if not stuck.any():
            return
        some = torch.nonzero(stuck).flatten()
        with torch.no_grad():
            x = probe.x[some]
            shown = mask(x, self._masks(activations[some], u[some], tuple(x.shape[2:])), self.fill)
            kept = torch.zeros_like(stuck)
            kept[some] = probe.utility(shown, some) == probe.utility(x, some)
        causes = (
            (
                stuck & emptied,
                "ReLU leaves nothing of the sum over channels",
                'take rectifier="identity" and normalisation="range"',
            ),
            (stuck & constant, "the layer has the same value in all cells", "take another layer"),
            (
                stuck & ~kept,
                "the utility of the masked image has no gradient",
                'take utility="logit", or another layer',
            ),
        )
        for samples, cause, todo in causes:
            if samples.any():
                raise SampleError(f"Opti-CAM cannot start: {cause}", which(samples), todo)
        # If the utility is saturated, or the image is all fill, no mask makes it worse: there is nothing to gain.
        error = SampleError(
            "every mask keeps the utility", which(stuck), "Opti-CAM leaves all channels the same weight"
        )
        warnings.warn(str(error), stacklevel=stacklevel_of_the_caller())

    def _objective(
        self, probe: Probe, x: Tensor, activations: Tensor, u: Tensor, unmasked: Tensor, samples: Tensor
    ) -> Tensor:
        """Return F for some of the probe's samples, shape (n,)."""
        shown = self._masks(activations, u, tuple(x.shape[2:]))
        inside = probe.utility(mask(x, shown, self.fill), samples)
        if self.objective == "mask":
            return inside
        if self.objective == "diff":
            return -(unmasked - inside).abs()
        outside = probe.utility(mask(x, 1 - shown, self.fill), samples)
        if self.objective == "iomask":
            return inside - outside
        return -(unmasked - inside).abs() + (unmasked - outside).abs()

    def weights(self, probe: Probe) -> Tensor:
        """Return softmax(u), shape (N, C)."""
        return self.optimise(probe).weights

    def contributions(self, probe: Probe) -> Tensor:
        """Return softmax(u)_k A_k - min S / C, shape (N, C, *S), or the mask (N, 1, *input size): see the class."""
        optimum = self.optimise(probe)
        if self.normalisation != "range":
            return optimum.masks[:, None]
        contributions = weigh_channels(optimum.weights, probe.activations)
        return contributions if self.rectifier == "relu" else above_minimum(contributions)

    def maps(self, probe: Probe) -> Tensor:
        """Return the masks that were optimised, (N, *input size) in [0, 1]."""
        return self.optimise(probe).masks
