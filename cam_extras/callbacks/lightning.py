"""A callback for Lightning's `Trainer`; needs lightning."""

from __future__ import annotations

from typing import Any

from torch import nn

from cam_extras.callbacks import MapLogger

try:
    from lightning.pytorch import Callback
    from lightning.pytorch.strategies import DDPStrategy
except ImportError as error:
    raise ImportError(f"cam_extras.callbacks.lightning needs lightning ({error}): pip install lightning") from error


class MapCallback(MapLogger, Callback):
    """Logs a figure of maps of a fixed batch at the start and after every n-th step, see `MapLogger`.

    >>> Trainer(callbacks=[MapCallback(images, every=500, submodule="net")])  # doctest: +SKIP

    Args:
        images, method, layer, target, every, reshape_transform, transform, submodule, tag: see `MapLogger`.
        logger: takes the figures; by default the trainer's own, `trainer.logger.experiment`, as of `TensorBoardLogger`.

    Raises:
        TypeError: see `MapLogger`; at the start, if the trainer's logger takes no images.
        ValueError: see `MapLogger`; at the start, if weights are split over devices, as by FSDP.
    """

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Log the figure before the first step."""
        if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
            raise ValueError(
                f"{type(trainer.strategy).__name__} splits the model over devices, and maps need it whole on one: "
                "train with DDP or on one device, or explain checkpoints afterwards"
            )
        if trainer.is_global_zero:
            self.log_figure(pl_module, trainer.global_step, self._logger_of(trainer))

    def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the figure if it is due; steps are the optimiser's."""
        if trainer.is_global_zero:
            self.log_figure_if_due(pl_module, trainer.global_step, self._logger_of(trainer))

    def _logger_of(self, trainer: Any) -> Any:
        return self.logger if self.logger is not None else getattr(trainer.logger, "experiment", None)
