"""Maps while a model is trained: a figure of a fixed batch every few steps. Training goes on as it would without."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cam_extras._checks import check_count, check_input
from cam_extras._outputs import Output
from cam_extras.layers import AnyLayer, as_layer, name_of, settle
from cam_extras.methods.named import AnyMethod, as_method
from cam_extras.models import picture_of
from cam_extras.probe import Probe, ReshapeTransform, reference_tensor, training_is_meant
from cam_extras.report import overlay
from cam_extras.utilities import Target


class ImageLogger(Protocol):
    """What takes the figures: TensorBoard's `SummaryWriter`, or any object with this method."""

    def add_image(self, tag: str, img_tensor: Tensor, global_step: int) -> Any:
        """Take the figure of a step, shape (3, H, W), in [0, 1]."""


class MapLogger:
    """Logs a figure of a fixed batch: a row for each image, which shows the image and its map over it.

    Weights, gradients, modes, running statistics and random states are left as found: a model trained with it ends with
    the very weights that it would have without. In a training loop of your own, call `log_figure` before the first
    step, so that what does not fit the model is an error there, and `log_figure_if_due` after each. For Lightning there
    is `cam_extras.callbacks.lightning.MapCallback`, for the `Trainer` of transformers
    `cam_extras.callbacks.transformers.MapCallback`.

    Args:
        images: the inputs to explain, shape (N, C, H, W); moved to the model's device and type.
        logger: takes the figures.
        method: a method by name, class or instance, see `cam_extras.methods.as_method`.
        layer: the layer to explain: a module, its dotted name, or "auto", which is found at the start and then kept.
        target: the class to explain, one for all images or one for each; None for the predicted class of the moment.
        every: number of steps from figure to figure.
        reshape_transform: see `cam_extras.probe.Probe`.
        output: where the class scores are in the model's output, see `cam_extras.probe.Probe`.
        transform: the transform that made the inputs from images, to show them without its normalisation.
        submodule: dotted name of the module that returns class scores for images, if that is not the whole model, such
            as "net" of a `LightningModule` without a `forward`.
        tag: the figure's name in the logger.

    Raises:
        TypeError: the inputs are not floating-point numbers, or the logger has no `add_image`.
        ValueError: `every` is less than 1, there is no such method, or the inputs are not images, empty or not finite.
    """

    def __init__(
        self,
        images: Tensor,
        logger: ImageLogger | None = None,
        *,
        method: AnyMethod = "GradCAM",
        layer: AnyLayer = "auto",
        target: Target = None,
        every: int = 100,
        reshape_transform: ReshapeTransform = "auto",
        output: Output = None,
        transform: Callable[..., Any] | None = None,
        submodule: str = "",
        tag: str = "maps",
    ):
        check_count("every", every)
        if check_input(images).ndim != 4:
            raise ValueError(f"a figure shows images: give inputs (N, C, H, W); got {tuple(images.shape)}")
        self.logger = None if logger is None else check_logger(logger)
        self.images, self.method = images.detach().clone(), as_method(method)
        self.layer, self.target, self.every = layer, target, every
        self.reshape_transform, self.output, self.transform = reshape_transform, output, transform
        self.submodule, self.tag = submodule, tag
        self._last: int | None = None

    def log_figure(self, model: nn.Module, step: int, logger: ImageLogger | None = None) -> None:
        """Log a figure, to another logger if one is given.

        Raises:
            TypeError: see `Probe`; or there is no logger.
            ValueError: see `Probe` and `cam_extras.layers.auto_layer`.
        """
        self._last = step
        check_logger(self.logger if logger is None else logger).add_image(self.tag, self.figure(model), step)

    def log_figure_if_due(self, model: nn.Module, step: int, logger: ImageLogger | None = None) -> None:
        """Log a figure every n-th step; what goes wrong is a `UserWarning`, and training goes on."""
        if step % self.every or step == self._last:
            return
        try:
            self.log_figure(model, step, logger)
        except Exception as error:  # the model's, or the logger's
            warnings.warn(f"there is no figure of step {step}: {type(error).__name__}: {error}", stacklevel=2)

    def figure(self, model: nn.Module) -> Tensor:
        """Return the figure, shape (3, N * H, 2 * W), in [0, 1]."""
        module = model.get_submodule(self.submodule)
        training_is_meant(module)
        x = self.images.to(reference_tensor(module))
        layer = settle(module, [as_layer(module, self.layer)], x, self.reshape_transform, self.output)[0]
        if self.layer == "auto":
            self.layer = name_of(module, layer)
        probe = Probe(
            module,
            layer,
            x,
            target=self.target,
            reshape_transform=self.reshape_transform,
            output=self.output,
            second_order=self.method.second_order,
        )
        maps, picture = self.method.maps(probe), picture_of(self.transform)
        return torch.cat([_row(picture(image), heat) for image, heat in zip(self.images, maps, strict=True)], dim=1)


def _row(picture: Tensor, heat: Tensor) -> Tensor:
    """Return a picture (C, H, W) and, beside it, the map (H, W) over it: (3, H, 2 * W)."""
    shown = picture if len(picture) == 3 else picture.mean(dim=0, keepdim=True).expand(3, -1, -1)
    over = torch.from_numpy(overlay(shown, heat)).permute(2, 0, 1)
    return torch.cat([shown.cpu().float(), over.float()], dim=2)


def check_logger(logger: Any) -> ImageLogger:
    """Return the logger, or raise TypeError if it takes no images."""
    if not callable(getattr(logger, "add_image", None)):
        raise TypeError(
            "the logger must have add_image(tag, image, step), as TensorBoard's SummaryWriter; got "
            f"{type(logger).__name__}: give logger= an object that has it"
        )
    logger_of_images: ImageLogger = logger
    return logger_of_images
