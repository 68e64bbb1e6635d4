"""Methods behind the interface of `BaseCAM`, without its permanent hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import Tensor, nn

from cam_extras import methods
from cam_extras._checks import (
    check_finite,
    list_targets,
)
from cam_extras._host_classes import describe
from cam_extras._inputs import check_layer_is_named, map_tensors, on_device
from cam_extras._names import Fusion
from cam_extras._outputs import Output, check_output
from cam_extras.fusion import check_fusion, fuse
from cam_extras.layers import AnyLayer, as_layers, name_of, settle
from cam_extras.maps import layer_map
from cam_extras.methods.base import weigh_channels
from cam_extras.probe import Probe, ReshapeTransform, reference_tensor
from cam_extras.utilities import OutputTarget, as_target


class MethodCAM(BaseCAM):
    """A method of `cam_extras.methods` behind the interface of `pytorch_grad_cam.BaseCAM`.

    Call it with a batch (N, C, H, W) or (N, C, D, H, W) and one target per sample. It returns maps (N, H, W) or (N, D,
    H, W), float32 in [0, 1], from one forward pass. Scaling, aggregation over layers, `aug_smooth` and `eigen_smooth`
    are those of `BaseCAM`. Unlike `BaseCAM`, it leaves the model as found (no hook outlives a call, modes and gradients
    are restored), pairs each layer with its own activations, and raises if the number of targets is wrong.

    Args:
        model: the model.
        target_layers: the layer to explain, or a list of layers whose maps are fused: modules or their dotted names.
            An `nn.Sequential` counts as one layer. "auto" is the last feature map before pooling, found at the first
            call.
        reshape_transform: how the layer's output becomes a feature map (N, C, *S): "auto", see `Probe`; a function; or
            None for an output that is taken as it is.
        tta_transforms: the `ttach.Compose` of `aug_smooth`.
        output: where the class scores are in the model's output: a key or attribute, an index, or a function of the
            output, see `Probe`.
        fusion: how the maps of several layers become one: "mean", as in `BaseCAM`, "max", or "refine", their product,
            see `cam_extras.fusion`.
        hyper: the method's hyper-parameters.

    A subclass may override `get_cam_weights` as in `BaseCAM`: it takes NumPy arrays of the activations and gradients
    (N, C, *S) of one layer and returns channel weights (N, C), which replace the method's.

    Attributes:
        outputs: the model's output at the last call.
        activations_and_grads: holds the `activations` and `gradients` of the last call, one detached CPU tensor (N, C,
            *S) per target layer, until the next call or the end of the `with` block.
    """

    method_type: ClassVar[type[methods.Method]]
    activations_and_grads: Any

    def __init__(
        self,
        model: nn.Module,
        target_layers: AnyLayer,
        reshape_transform: ReshapeTransform = "auto",
        *,
        tta_transforms: Any = None,
        output: Output = None,
        fusion: Fusion = "mean",
        **hyper: Any,
    ):
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model must be a torch.nn.Module; got {type(model).__name__}")
        check_output(output)
        check_fusion(fusion)
        self._layers = as_layers(model, target_layers)
        self.fusion = fusion
        self.method = self.method_type.make(hyper)
        # BaseCAM puts the model in eval mode and hooks into the layers permanently, so it gets neither.
        super().__init__(nn.PReLU(), [], reshape_transform, uses_gradients=False, tta_transforms=tta_transforms)
        self.model = model
        self.target_layers = [layer for layer in self._layers if isinstance(layer, nn.Module)]
        self.activations_and_grads = _NoHooks(
            model,
            self.target_layers,
            getattr(self.method, "utility", "logit"),
            reshape_transform=reshape_transform,
            second_order=self.method.second_order,
            output=output,
        )
        self.device = self.activations_and_grads.device

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Any = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
        *,
        additional_forward_args: tuple[Any, ...] = (),
        additional_forward_kwargs: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Explain a batch: maps (N, *S), float32 in [0, 1].

        Args:
            input_tensor: the batch, shape (N, C, *S).
            targets: one callable per sample, output of the sample -> scalar, as in
                `pytorch_grad_cam.utils.model_targets`, which overrides the method's utility; or one of
                `cam_extras.targets`, for all; or a class index, or one per sample, read with the method's utility; None
                for the predicted class.
            aug_smooth: average over flips and contrasts of the input (six forward passes).
            eigen_smooth: project the contributions onto their first principal component instead of summing them.
            additional_forward_args: passed to the model after the batch, see `Probe`.
            additional_forward_kwargs: passed to the model by name.

        Raises:
            TypeError: see `Probe`; or `targets` are neither callables nor class indices.
            ValueError: see `Probe`; or there is not one target per sample, a target does not return a scalar, or
                `aug_smooth`, which flips the batch, is to flip a target of places or additional arguments.
        """
        if callable(targets) and not isinstance(targets, OutputTarget):
            list_targets(targets)  # raises: it must be in a list
        if isinstance(targets, Iterable) and not isinstance(targets, Tensor | np.ndarray | str):
            targets = list(targets)  # an iterator would be used up by the first of several passes
        self.activations_and_grads.others = (additional_forward_args, additional_forward_kwargs)
        if aug_smooth:
            _check_flips(targets, bool(additional_forward_args or additional_forward_kwargs))
        try:
            maps: np.ndarray = super().__call__(input_tensor, targets, aug_smooth, eigen_smooth)
        finally:
            self.activations_and_grads.others = ((), None)
        return maps

    def forward(
        self, input_tensor: Tensor, targets: Sequence[Callable[..., Any]] | None = None, eigen_smooth: bool = False
    ) -> np.ndarray:
        """Explain a batch without `aug_smooth`."""
        if "auto" in self._layers:
            check_layer_is_named(self._layers, any(self.activations_and_grads.others))
            x = self.activations_and_grads.on_device(input_tensor)
            self.target_layers = settle(
                self.model, self._layers, x, self.reshape_transform, self.activations_and_grads.options["output"]
            )
            self._layers = [*self.target_layers]
            self.activations_and_grads.layers = self.target_layers
        self.outputs = self.activations_and_grads(input_tensor)
        try:
            if type(self.method).maps is not methods.Method.maps and not eigen_smooth and not self._weighs_itself:
                return self._own_maps(targets)
            maps: np.ndarray = self.aggregate_multi_layers(
                self.compute_cam_per_layer(input_tensor, targets, eigen_smooth)
            )
            return maps
        finally:
            self.activations_and_grads.probes = []

    def compute_cam_per_layer(
        self, input_tensor: Tensor, targets: Sequence[Callable[..., Any]] | None, eigen_smooth: bool
    ) -> list[np.ndarray]:
        """Return one map (N, 1, *S) per layer at the input's size."""
        recorder = self.activations_and_grads
        recorder.seen = []  # BaseCAM would read gradients here, and so compute them, even if the method needs none
        self._set_targets(targets)
        maps: list[np.ndarray] = super().compute_cam_per_layer(input_tensor, targets, eigen_smooth)
        recorder.seen = [probe.without_graph() for probe in recorder.probes]
        return maps

    def _set_targets(self, targets: Sequence[Callable[..., Any]] | None) -> None:
        """Make the probes explain the targets."""
        if targets is not None:
            # One utility for all layers, so that they share a backward pass.
            utility = as_target(targets)
            self.activations_and_grads.probes = [
                probe.with_utility(utility) for probe in self.activations_and_grads.probes
            ]

    def _own_maps(self, targets: Sequence[Callable[..., Any]] | None) -> np.ndarray:
        """Return the maps (N, *S) that the method scales itself, fused over layers, without BaseCAM's scaling."""
        recorder = self.activations_and_grads
        self._set_targets(targets)
        maps = [self.method.maps(probe).float().cpu().numpy() for probe in recorder.probes]
        recorder.seen = [probe.without_graph() for probe in recorder.probes]
        return maps[0] if len(maps) == 1 else self.aggregate_multi_layers([layer[:, None] for layer in maps])

    def aggregate_multi_layers(self, cam_per_target_layer: Sequence[np.ndarray]) -> np.ndarray:
        """Return one map (N, *S) of those of the layers, (N, 1, *S) each."""
        if self.fusion == "mean" or len(cam_per_target_layer) == 1:  # BaseCAM's, to the last bit
            mean: np.ndarray = super().aggregate_multi_layers(cam_per_target_layer)
            return mean
        return fuse([torch.from_numpy(maps[:, 0]) for maps in cam_per_target_layer], self.fusion).numpy()

    def get_cam_image(
        self,
        input_tensor: Tensor,
        target_layer: nn.Module,
        targets: Sequence[Callable[..., Any]] | None,
        activations: None,
        grads: None,
        eigen_smooth: bool = False,
    ) -> np.ndarray:
        """Return the map (N, *S) of one layer at its own size, in [0, 1]."""
        probe = self.activations_and_grads.probes[self.target_layers.index(target_layer)]
        if self._weighs_itself:
            contributions = self._contributions_by_override(probe, input_tensor, target_layer, targets)
        else:
            contributions = self.method(probe)
        if contributions.ndim != input_tensor.ndim:
            raise ValueError(
                f"a feature map of shape {tuple(contributions.shape)} does not fit an input of shape "
                f"{tuple(input_tensor.shape)}: transformers need a reshape_transform"
            )
        if eigen_smooth and contributions.shape[1] > 1:
            check_finite("the map", contributions)
            projection = get_2d_projection(contributions.cpu().numpy())
            contributions = torch.from_numpy(projection)[:, None]
        # Normalised here: the absolute epsilon in BaseCAM's scaling would flatten maps with small values.
        return layer_map(contributions).cpu().numpy()

    @property
    def _weighs_itself(self) -> bool:
        """Whether a subclass overrides `get_cam_weights`."""
        return getattr(self.get_cam_weights, "__func__", None) is not BaseCAM.get_cam_weights

    def _contributions_by_override(
        self, probe: Probe, input_tensor: Tensor, target_layer: nn.Module, targets: Sequence[Callable[..., Any]] | None
    ) -> Tensor:
        """Weigh the channels with a subclass's `get_cam_weights`, called with the arguments that `BaseCAM` passes."""
        if probe.target is not None:
            targets = [ClassifierOutputTarget(category) for category in probe.target.tolist()]
        activations, gradients = probe.activations.cpu().numpy(), probe.gradients.cpu().numpy()
        weights = self.get_cam_weights(input_tensor, target_layer, targets, activations, gradients)
        weights = torch.as_tensor(weights).to(probe.activations)
        if weights.shape != probe.activations.shape[:2]:
            raise ValueError(
                f"get_cam_weights of {type(self).__name__} must return one weight a channel, shape "
                f"{tuple(probe.activations.shape[:2])}; got {tuple(weights.shape)}"
            )
        return weigh_channels(weights, probe.activations)

    def __repr__(self) -> str:
        return describe(self, self.model, [name_of(self.model, layer) for layer in self._layers], self.method)

    def __exit__(self, exc_type: object, exc_value: object, exc_tb: object) -> None:
        """Leave the `with` block; BaseCAM would swallow an IndexError here."""
        self.activations_and_grads.release()

    def __del__(self) -> None:
        """Do nothing: no hook outlives a call."""


def _check_flips(targets: Any, has_others: bool) -> None:
    """Raise ValueError if `aug_smooth` would flip the images and not what belongs to their places."""
    for target in as_target(targets).output_targets:
        if target.of_places:
            raise ValueError(f"aug_smooth flips the image, and {target!r} would stay in place: leave aug_smooth out")
    if has_others:
        raise ValueError("aug_smooth flips the image, and not the additional forward arguments: leave aug_smooth out")


class _NoHooks:
    """Replaces BaseCAM's permanent hooks: runs the model through probes when called.

    BaseCAM and FinerCAM call it for the outputs and then ask for the map of every layer.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], utility: str, **options: Any):
        self.model = model
        self.layers = layers
        self.utility = utility
        self.options = options
        self.probes: list[Probe] = []  # of the running call
        self.seen: list[Probe] = []  # of the last call
        self.others: tuple[tuple[Any, ...], Mapping[str, Any] | None] = ((), None)  # of the running call

    @property
    def activations(self) -> list[Tensor]:
        """The layers' feature maps (N, C, *S) at the last call, on the CPU."""
        return [probe.activations.cpu() for probe in self.seen]

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients (N, C, *S) of the utility, on the CPU; computed now if the method did not need them."""
        return [probe.gradients.cpu() for probe in self.seen]

    @property
    def device(self) -> torch.device:
        reference = reference_tensor(self.model)
        return torch.device("cpu") if reference is None else reference.device

    def on_device(self, x: Any) -> Any:
        """Return the input on the model's device."""
        return x.to(self.device) if isinstance(x, Tensor) and reference_tensor(self.model) is not None else x

    def __call__(self, x: Tensor) -> Any:
        self.release()
        move = on_device(self.device)
        args, kwargs = (map_tensors(part, move) for part in self.others)
        probes = Probe.several(
            self.model,
            self.layers,
            self.on_device(x),
            additional_forward_args=args,
            additional_forward_kwargs=kwargs,
            **self.options,
        )
        outputs = probes[0].outputs
        self.probes = self.seen = [probe.under(self.utility) for probe in probes]
        return outputs

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"probes": [], "seen": []}  # graphs cannot be copied

    def release(self) -> None:
        self.probes = []
        self.seen = []
