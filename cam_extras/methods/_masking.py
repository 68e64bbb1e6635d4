"""Shared by methods that weigh channels by the utility of the image behind a mask made from each of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cam_extras._batching import best_rows
from cam_extras._checks import check_count, check_fill, check_finite
from cam_extras.maps import blend, normalise, resize, warn_of_a_single_cell
from cam_extras.methods._channel_scores import first_alike, score_channels
from cam_extras.methods.base import ChannelMethod, UtilityMethod, rows_for
from cam_extras.probe import Probe


@dataclass(frozen=True, kw_only=True)
class MaskingMethod(ChannelMethod, UtilityMethod):
    """A method with weights softmax_k(1/n sum_i u(x * M_ki)), where the masks M_ki are made from channel k.

    Args:
        utility: the utility u, a key of `cam_extras.utilities.UTILITIES`; a function given to the host overrides it.
        fill: value where the mask is 0, in the model's input space: a number, or a tensor that broadcasts to an image
            (C, *S), such as `cam_extras.maps.black(mean, std)`.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            one 224 x 224 image, and 8 at most. With additional forward arguments that cannot be divided, or a utility
            of the whole batch, a pass holds one image for every sample of the batch instead.
        progress: show a progress bar.
    """

    fill: float | Tensor = 0.0
    internal_batch_size: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        check_fill(self.fill)
        super().__post_init__()
        if self.internal_batch_size is not None:
            check_count("internal_batch_size", self.internal_batch_size)

    @abstractmethod
    def changes(self, x: Tensor) -> Sequence[Callable[[Tensor], Tensor]]:
        """Return functions that make M_k1, M_k2, ... from masks (m, *S) of the input's size."""

    def enlarge(self, masks: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return normalised channels (m, *S) in the input's size."""
        return resize(masks, size)

    def weights(self, probe: Probe) -> Tensor:
        """Return the weights, shape (N, K), positive, with sum 1."""
        probe.check_target()
        check_finite("the layer", probe.activations)
        warn_of_a_single_cell(probe.activations)
        x, size = probe.x, tuple(probe.x.shape[2:])
        shape = probe.activations.shape
        masks = normalise(probe.activations.flatten(0, 1)).unflatten(0, shape[:2])
        changes = self.changes(x)
        first = first_alike(masks)

        def score(step: int, samples: Tensor, channels: Tensor) -> Tensor:
            shown = changes[step](self.enlarge(masks[samples, channels], size))
            return probe.utility(blend(x[samples], shown, self.fill), samples)

        scores = score_channels(
            probe,
            first == torch.arange(shape[1], device=first.device),
            rows_for(probe, self.internal_batch_size or _best_rows(x)),
            score,
            len(changes),
            type(self).__name__ if self.progress else "",
        )
        return scores.gather(1, first).softmax(dim=1)


def _best_rows(x: Tensor) -> int:
    """Return how many images suit the device best: on the CPU fewer than for methods that go back through the model."""
    rows = best_rows(x.shape[2:], x.device)
    return max(1, rows // 4) if x.device.type == "cpu" else rows
