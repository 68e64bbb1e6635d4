"""Front end for pytorch-grad-cam: every method as a `BaseCAM`.

>>> from cam_extras.pytorch_grad_cam import ShapleyCAM  # was: from pytorch_grad_cam import ShapleyCAM

pytorch-grad-cam's own classes that we do not have, such as `ScoreCAM`, are here by name, too. `UPSTREAM` lists those
that explain one layer, `upstream_maps` calls one without a trace on the model, and `Upstream` makes it a method like
ours.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytorch_grad_cam as upstream
import torch
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import Tensor, nn

from cam_extras import __all__ as public_names
from cam_extras import methods
from cam_extras._checks import (
    check_choice,
    check_classes,
    check_finite,
    check_input,
    check_name,
    check_targets,
    check_unit_range,
    list_targets,
)
from cam_extras.batches import granted
from cam_extras.maps import layer_map
from cam_extras.methods.base import weigh_channels
from cam_extras.methods.random_cam import random_weights
from cam_extras.probe import Probe, check_layers, hook_of_a_call, reference_tensor, undisturbed
from cam_extras.scores import SCORES, PerSampleScorer


class MethodCAM(BaseCAM):
    """A method of `cam_extras.methods` behind the interface of `pytorch_grad_cam.BaseCAM`.

    Calling it with a batch (N, C, H, W), or (N, C, D, H, W), and one target a sample returns maps of shape (N, H, W),
    or (N, D, H, W), float32 in [0, 1], from one forward pass. Scaling, aggregation of several layers, `aug_smooth`
    and `eigen_smooth` are `BaseCAM`'s. Unlike there, the model is left as found: no hook outlives a call, modes and
    gradients are put back; layers are paired with their own activations; a wrong number of targets raises.

    Args:
        model: the model.
        target_layers: list of the layers to explain, whose maps are averaged; or one layer, which an `nn.Sequential`
            is, too.
        reshape_transform: makes a feature map (N, C, *S) of the layer's output, for transformers.
        tta_transforms: the `ttach.Compose` of `aug_smooth`.
        hyper: the method's hyper-parameters.

    A subclass may override `get_cam_weights` as it would `BaseCAM`'s: NumPy arrays of the activations and gradients
    (N, C, *S) of one layer -> the channels' weights (N, C), which take the place of the method's.

    Attributes:
        outputs: the model's output at the last call.
        activations_and_grads: its `activations` and `gradients` are those of the last call, one detached tensor
            (N, C, *S) on the CPU for each of the target layers, until the next call or the end of the `with` block.
    """

    method_type: ClassVar[type[methods.Method]]
    activations_and_grads: Any

    def __init__(
        self,
        model: nn.Module,
        target_layers: nn.Module | Sequence[nn.Module],
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        tta_transforms: Any = None,
        **hyper: Any,
    ):
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model must be a torch.nn.Module; got {type(model).__name__}")
        if isinstance(target_layers, nn.Module) and not isinstance(target_layers, nn.ModuleList):
            target_layers = [target_layers]
        if not isinstance(target_layers, Sequence | nn.ModuleList):
            raise TypeError(f"target_layers must be a module or a list of modules; got {type(target_layers).__name__}")
        self.method = self.method_type.make(hyper)
        # BaseCAM calls eval() on the model and hooks into the layers for good, so it is given neither.
        super().__init__(nn.PReLU(), [], reshape_transform, uses_gradients=False, tta_transforms=tta_transforms)
        self.model = model
        self.target_layers = check_layers(model, target_layers)
        self.activations_and_grads = _NoHooks(
            model,
            self.target_layers,
            getattr(self.method, "score", "logit"),
            reshape_transform=reshape_transform,
            second_order=self.method.second_order,
        )
        self.device = self.activations_and_grads.device

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[Callable] | None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> np.ndarray:
        """Explain a batch: maps (N, *S), float32 in [0, 1].

        Args:
            input_tensor: the batch, shape (N, C, *S).
            targets: one callable for each sample, output of the sample -> scalar, as in
                `pytorch_grad_cam.utils.model_targets`; None explains the predicted class with the method's utility.
            aug_smooth: average over flips and contrasts of the input (six forward passes).
            eigen_smooth: project the contributions on their first principal component instead of summing them.

        Raises:
            TypeError: see `Probe`; or `targets` are not callables.
            ValueError: see `Probe`; or there is not one target for each sample, or one that returns no scalar.
        """
        if targets is not None:
            targets = list_targets(targets)  # an iterator would be used up by the first of several passes
        return super().__call__(input_tensor, targets, aug_smooth, eigen_smooth)

    def forward(
        self, input_tensor: Tensor, targets: Sequence[Callable] | None = None, eigen_smooth: bool = False
    ) -> np.ndarray:
        """Explain a batch without `aug_smooth`."""
        self.outputs = self.activations_and_grads(input_tensor)
        try:
            if type(self.method).maps is not methods.Method.maps and not eigen_smooth and not self._weighs_itself:
                return self._own_maps(targets)
            return self.aggregate_multi_layers(self.compute_cam_per_layer(input_tensor, targets, eigen_smooth))
        finally:
            self.activations_and_grads.probes = []

    def compute_cam_per_layer(
        self, input_tensor: Tensor, targets: Sequence[Callable] | None, eigen_smooth: bool
    ) -> list[np.ndarray]:
        """Return one map (N, 1, *S) a layer at the input's size."""
        recorder = self.activations_and_grads
        recorder.seen = []  # BaseCAM would read, and thereby compute, what the method may not need
        self._set_targets(targets)
        maps = super().compute_cam_per_layer(input_tensor, targets, eigen_smooth)
        recorder.seen = [probe.without_graph() for probe in recorder.probes]
        return maps

    def _set_targets(self, targets: Sequence[Callable] | None) -> None:
        """Let the probes score the targets."""
        if targets is not None:
            # One scorer for all layers, so that they share a backward pass.
            probes = self.activations_and_grads.probes
            scorer = PerSampleScorer(check_targets(targets, len(probes[0].x)))
            self.activations_and_grads.probes = [probe.with_score(scorer) for probe in probes]

    def _own_maps(self, targets: Sequence[Callable] | None) -> np.ndarray:
        """Return the maps (N, *S) that the method scales itself, and BaseCAM would change; of layers their mean."""
        recorder = self.activations_and_grads
        self._set_targets(targets)
        maps = [self.method.maps(probe).float().cpu().numpy() for probe in recorder.probes]
        recorder.seen = [probe.without_graph() for probe in recorder.probes]
        return maps[0] if len(maps) == 1 else self.aggregate_multi_layers([layer[:, None] for layer in maps])

    def get_cam_image(
        self,
        input_tensor: Tensor,
        target_layer: nn.Module,
        targets: Sequence[Callable] | None,
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
        # Normalised here, so that the absolute epsilon of BaseCAM's own scaling cannot squash a small map.
        return layer_map(contributions).cpu().numpy()

    @property
    def _weighs_itself(self) -> bool:
        """Whether a subclass overrides `get_cam_weights`."""
        return getattr(self.get_cam_weights, "__func__", None) is not BaseCAM.get_cam_weights

    def _contributions_by_override(
        self, probe: Probe, input_tensor: Tensor, target_layer: nn.Module, targets: Sequence[Callable] | None
    ) -> Tensor:
        """Weigh the channels as a subclass's `get_cam_weights` does, which is given what `BaseCAM` gives it."""
        if targets is None and probe.target is not None:
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

    def __exit__(self, exc_type: object, exc_value: object, exc_tb: object) -> None:
        """Leave the `with` block; BaseCAM would swallow an IndexError here."""
        self.activations_and_grads.release()

    def __del__(self) -> None:
        """Do nothing: no hook outlives a call."""


class _NoHooks:
    """Stands where BaseCAM keeps its permanent hooks: runs the model through probes when called.

    BaseCAM and FinerCAM call it for the outputs and then ask for the map of every layer.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], score: str, **options: Any):
        self.model = model
        self.layers = layers
        self.score = score
        self.options = options
        self.probes: list[Probe] = []  # of the call that runs
        self.seen: list[Probe] = []  # of the last one

    @property
    def activations(self) -> list[Tensor]:
        """The layers' feature maps (N, C, *S) at the last call, on the CPU."""
        return [probe.activations.cpu() for probe in self.seen]

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients (N, C, *S) of what was explained, on the CPU; computed now where the method did not."""
        return [probe.gradients.cpu() for probe in self.seen]

    @property
    def device(self) -> torch.device:
        reference = reference_tensor(self.model)
        return torch.device("cpu") if reference is None else reference.device

    def __call__(self, x: Tensor) -> Any:
        self.release()
        if isinstance(x, Tensor) and reference_tensor(self.model) is not None:
            x = x.to(self.device)
        probes = Probe.several(self.model, self.layers, x, **self.options)
        outputs = probes[0].outputs
        self.probes = self.seen = [probe.scored_by(self.score) for probe in probes]
        return outputs

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"probes": [], "seen": []}  # graphs cannot be copied

    def release(self) -> None:
        self.probes = []
        self.seen = []


class GradCAM(MethodCAM):
    """Grad-CAM: see `cam_extras.methods.GradCAM` for its hyper-parameters."""

    method_type = methods.GradCAM


class HiResCAM(MethodCAM):
    """HiResCAM: see `cam_extras.methods.HiResCAM` for its hyper-parameters."""

    method_type = methods.HiResCAM


class ShapleyCAM(MethodCAM):
    """ShapleyCAM: see `cam_extras.methods.ShapleyCAM` for its hyper-parameters."""

    method_type = methods.ShapleyCAM


class ShapleyCAMH(MethodCAM):
    """ShapleyCAM-H: see `cam_extras.methods.ShapleyCAMH` for its hyper-parameters."""

    method_type = methods.ShapleyCAMH


class ShapleyCAME(MethodCAM):
    """ShapleyCAM-E: see `cam_extras.methods.ShapleyCAME` for its hyper-parameters."""

    method_type = methods.ShapleyCAME


class MIGradCAM(MethodCAM):
    """MI-Grad-CAM: see `cam_extras.methods.MIGradCAM` for its hyper-parameters."""

    method_type = methods.MIGradCAM


class ExpectedGradCAM(MethodCAM):
    """Expected Grad-CAM: see `cam_extras.methods.ExpectedGradCAM` for its hyper-parameters."""

    method_type = methods.ExpectedGradCAM


class IntegratedGradCAM(MethodCAM):
    """Integrated Grad-CAM: see `cam_extras.methods.IntegratedGradCAM` for its hyper-parameters."""

    method_type = methods.IntegratedGradCAM


class SmoothGradCAMPlusPlus(MethodCAM):
    """Smooth Grad-CAM++: see `cam_extras.methods.SmoothGradCAMPlusPlus` for its hyper-parameters."""

    method_type = methods.SmoothGradCAMPlusPlus


class OptiCAM(MethodCAM):
    """Opti-CAM: see `cam_extras.methods.OptiCAM` for its hyper-parameters."""

    method_type = methods.OptiCAM
    FAST = methods.OptiCAM.FAST


class FakeCAM(MethodCAM):
    """Fake-CAM, a control: see `cam_extras.methods.FakeCAM`."""

    method_type = methods.FakeCAM


class RandomCAM(MethodCAM):
    """Random-CAM, a control: see `cam_extras.methods.RandomCAM` for its hyper-parameters."""

    method_type = methods.RandomCAM


UPSTREAM: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        upstream.GradCAM,
        upstream.FinerCAM,
        upstream.ShapleyCAM,
        upstream.FEM,
        upstream.HiResCAM,
        upstream.GradCAMElementWise,
        upstream.AblationCAM,
        upstream.XGradCAM,
        upstream.GradCAMPlusPlus,
        upstream.ScoreCAM,
        upstream.LayerCAM,
        upstream.EigenCAM,
        upstream.EigenGradCAM,
        upstream.KPCA_CAM,
        upstream.RandomCAM,
        upstream.FullGrad,
        upstream.SegEigenCAM,
        upstream.SESS,
    )
}
"""pytorch-grad-cam's own classes that explain one layer, by name; FinerCAM and SESS are no `BaseCAM`."""


def upstream_maps(
    cam_type: type,
    model: nn.Module,
    layer: nn.Module,
    x: Tensor,
    targets: Tensor,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    hyper: Mapping[str, Any] = MappingProxyType({}),
    score: str = "logit",
) -> Tensor:
    """Explain a batch with one of pytorch-grad-cam's own classes: its maps (N, *S), float32 in [0, 1].

    The maps are what the class returns. Unlike there, frozen models work, no parameter gradient is computed, and the
    model is left as found; so are NumPy's and torch's random states. RandomCAM draws from none of them: its weights are
    those of `cam_extras.methods.RandomCAM`, which a sample has at every call and in every batch.

    Args:
        cam_type: a value of `UPSTREAM`, or a class that is called in the same way.
        model: the model; its output is (N, C).
        layer: the layer to explain. FullGrad goes its own way: it takes all layers with a bias.
        x: the batch, shape (N, C, *S).
        targets: class indices, shape (N,). FinerCAM compares each with the classes of the nearest scores.
        reshape_transform: makes a feature map (N, C, *S) of the layer's output, for transformers; AblationCAM needs
            `ablation_layer=AblationLayerVit()` with it.
        hyper: arguments of the class, and of its call: see `check_upstream`.
        score: the utility of the class that is explained, a key of `cam_extras.scores.SCORES`. FinerCAM has its own.

    Raises:
        TypeError: see `check_upstream`; or the input holds no floating-point numbers.
        ValueError: there is not one target for each sample, the layer is not part of the model, the class cannot use
            the `reshape_transform` or the score, or a map is NaN.
    """
    check_choice("score", score, SCORES)
    if score != "logit" and issubclass(cam_type, upstream.FinerCAM):
        raise ValueError(f"FinerCAM compares logits and takes no other score; got score={score!r}")
    of_call = check_upstream(cam_type, hyper)
    options = {name: value for name, value in hyper.items() if name not in of_call}
    at_call = {name: value for name, value in hyper.items() if name in of_call}
    if targets.shape != check_input(x).shape[:1]:
        raise ValueError(f"expected {len(x)} targets, one for each sample; got shape {tuple(targets.shape)}")
    layers = check_layers(model, [layer])
    if issubclass(cam_type, upstream.FullGrad):
        layers, reshape_transform = [], None
    with (
        _traceless(model, x.device),
        hook_of_a_call(_begin_recording) as record,
        hook_of_a_call(_class_check(targets)) as check,
    ):
        layer.register_forward_hook(record)
        model.register_forward_hook(check)
        made = _RandomCAM if cam_type is upstream.RandomCAM else cam_type
        cam = made(model, layers, reshape_transform, **options)
        base = getattr(cam, "base_cam", cam)
        if hasattr(base, "batch_size") or isinstance(base, upstream.ScoreCAM):
            base.batch_size = granted(getattr(base, "batch_size", 16))  # what ScoreCAM takes where it is told nothing
        second_order = not getattr(base, "detach", True)
        if second_order and reshape_transform is not None:
            raise ValueError(f"pytorch-grad-cam's {type(base).__name__} cannot use a reshape_transform: take ours")
        for parameter in model.parameters():
            # A gradient that depends on nothing has no derivative in torch, not even zero.
            parameter.requires_grad_(second_order and parameter.is_floating_point())
        x = x.detach().clone()
        if issubclass(cam_type, upstream.FinerCAM):  # given targets, it is its base method
            found = [cam(x[n : n + 1], target_idx=target, **at_call) for n, target in enumerate(targets.tolist())]
            maps = np.concatenate(found)
        else:
            wanted = [_ClassTarget(target, score) for target in targets.tolist()]
            maps = cam(x, wanted, **at_call)
    result = torch.from_numpy(np.float32(maps))
    check_unit_range(f"the map of {cam_type.__name__}", result)
    return result


class _RandomCAM(upstream.RandomCAM):
    """RandomCAM whose weights are a sample's own: it draws from NumPy's generator, for whatever batch comes by."""

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: nn.Module, targets: object, activations: np.ndarray, grads: object
    ) -> np.ndarray:
        """Return the weights (N, C)."""
        return random_weights(input_tensor, activations.shape[1], seed=0).numpy()


class _ClassTarget(ClassifierOutputTarget):
    """Score a class."""

    def __init__(self, category: int, score: str):
        super().__init__(category)
        self.score = SCORES[score](category)

    def __call__(self, model_output: Tensor) -> Tensor:
        return self.score(model_output)


def _class_check(targets: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    """Return a forward hook of the model that raises for classes it does not have: not all methods read the score."""

    def check(module: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        if isinstance(outputs, Tensor):
            check_classes(targets, outputs.shape[-1])

    return check


@dataclass(frozen=True, kw_only=True)
class Upstream(methods.Method):
    """One of pytorch-grad-cam's own classes as a method, so that runs and evaluators score its maps, too.

    `cam_extras.evaluate` and the command line take it by its name, such as "ScoreCAM". It explains with forward passes
    of its own, and its contributions are its maps (N, 1, *S) at the input's size.

    Args:
        cam: key of `UPSTREAM`.
        score: the utility of the class that is explained, a key of `cam_extras.scores.SCORES`.
        hyper: arguments of the class, and of its call, by name.

    Raises:
        TypeError: the class has no such argument.
        ValueError: there is no class of that name, or no such score.
    """

    cam: str
    score: str = "logit"
    hyper: Mapping[str, Any] = field(default_factory=dict)

    @property
    def control(self) -> bool:  # type: ignore[override]
        """Whether it is RandomCAM."""
        return self.cam == "RandomCAM"

    def __post_init__(self) -> None:
        check_name("class of pytorch-grad-cam", self.cam, UPSTREAM)
        check_choice("score", self.score, SCORES)
        check_upstream(UPSTREAM[self.cam], self.hyper)

    def __call__(self, probe: Probe) -> Tensor:
        """Return the maps (N, 1, *S)."""
        if not isinstance(probe.model, nn.Module) or probe.target is None:
            raise TypeError("pytorch-grad-cam's classes explain a class index of an nn.Module")
        maps = upstream_maps(
            UPSTREAM[self.cam],
            probe.model,
            probe.layer,
            probe.x,
            probe.target,
            probe.reshape_transform,
            self.hyper,
            self.score,
        )
        return maps[:, None].to(probe.x.device)


def check_upstream(cam_type: type, hyper: Mapping[str, Any]) -> list[str]:
    """Raise TypeError for hyper-parameters that a class of `UPSTREAM` does not have; return those of its call."""
    call = cam_type.__call__ if issubclass(cam_type, BaseCAM) else getattr(cam_type, "forward", cam_type.__call__)
    called = list(inspect.signature(call).parameters)
    of_call = [name for name in called if name in ("aug_smooth", "eigen_smooth", "alpha", "comparison_categories")]
    options = list(inspect.signature(cam_type).parameters.values())[3:]  # after the model, layers, reshape_transform
    known = [option.name for option in options] + of_call
    unknown = sorted(set(hyper) - set(known))
    if unknown and all(option.kind is not option.VAR_KEYWORD for option in options):
        raise TypeError(
            f"{cam_type.__name__} has no hyper-parameter {', '.join(map(repr, unknown))}: it has {', '.join(known)}"
        )
    return of_call


def _begin_recording(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """Forward hook: record from the layer on, where nothing below is recorded."""
    if not torch.is_grad_enabled() or not isinstance(output, Tensor):
        return output
    # Clones: upstream detaches in place what it kept of the layer and its gradient, which torch forbids for views.
    features = (output if output.requires_grad else output.detach().requires_grad_()).clone()
    features.register_hook(Tensor.clone)
    return features


@contextmanager
def _traceless(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run what hooks into a model, replaces its layers and accumulates gradients, and put all back when done."""
    tables: list[MutableMapping[Any, Any]] = [
        table for module in model.modules() for table in (module._forward_hooks, module._modules)
    ]
    entries = [dict(table) for table in tables]
    gradients = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    numpy_state = np.random.get_state()  # noqa: NPY002  (what a class may draw from)
    bars = [(module, module.tqdm) for module in (upstream.ablation_cam, upstream.score_cam)]
    with undisturbed(model, device) as interrupts, torch.inference_mode(False), torch.enable_grad():
        try:
            for module, _ in bars:  # a bar for every image, in the midst of those of a run
                module.tqdm = SimpleNamespace(tqdm=iter)
            for parameter, _, _ in gradients:
                parameter.grad = None
            try:
                yield
            finally:
                interrupts.hold()
        finally:
            for table, entry in zip(tables, entries, strict=True):
                table.clear()
                table.update(entry)
            for parameter, requires_grad, gradient in gradients:
                parameter.requires_grad_(requires_grad).grad = gradient
            for module, tqdm in bars:
                module.tqdm = tqdm
            np.random.set_state(numpy_state)  # noqa: NPY002


def __getattr__(name: str) -> Any:
    if name in public_names and hasattr(upstream, name):
        return getattr(upstream, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
