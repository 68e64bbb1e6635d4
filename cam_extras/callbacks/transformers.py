"""A callback for the `Trainer` of transformers; needs transformers."""

from __future__ import annotations

from typing import Any

from torch import nn

from cam_extras.callbacks import MapLogger

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        f"cam_extras.callbacks.transformers needs transformers ({error}): pip install cam_extras[hf]"
    ) from error


class MapCallback(MapLogger, TrainerCallback):
    """Logs a figure of maps of a fixed batch at the start and after every n-th step, see `MapLogger`.

    >>> Trainer(model, callbacks=[MapCallback(images, SummaryWriter("runs/maps"), every=500)])  # doctest: +SKIP

    Args:
        images, logger, method, layer, target, every, reshape_transform, transform, submodule, tag: see `MapLogger`.

    Raises:
        TypeError: see `MapLogger`; at the start, if there is no logger.
        ValueError: see `MapLogger`; at the start, if weights are split over devices, by FSDP or DeepSpeed.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: nn.Module, **more: Any) -> None:
        """Log the figure before the first step."""
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            raise ValueError(
                "FSDP and DeepSpeed split the model over devices, and maps need it whole on one: train without them, "
                "or explain checkpoints afterwards"
            )
        if state.is_world_process_zero:
            self.log_figure(model, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, **more: Any) -> None:
        """Log the figure if it is due; steps are the optimiser's."""
        if state.is_world_process_zero:
            self.log_figure_if_due(model, state.global_step)
