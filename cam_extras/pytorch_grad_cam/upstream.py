"""pytorch-grad-cam's own classes: run without side effects on the model, and wrapped as methods like ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytorch_grad_cam as upstream
import torch
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from cam_extras import methods
from cam_extras._batching import granted
from cam_extras._checks import (
    check_choice,
    check_classes,
    check_input,
    check_name,
    check_unit_range,
)
from cam_extras._deprecated import renamed, with_new_names
from cam_extras.methods.random_cam import random_weights
from cam_extras.probe import Probe, ReshapeTransform, check_layers, hook_of_a_call, undisturbed
from cam_extras.utilities import UTILITIES, UtilityName

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
"""pytorch-grad-cam's own classes that explain one layer, by name; FinerCAM and SESS are not `BaseCAM`s."""


@renamed({"score": "utility"})
def upstream_maps(
    cam_type: type,
    model: nn.Module,
    layer: nn.Module,
    x: Tensor,
    targets: Tensor,
    reshape_transform: ReshapeTransform = "auto",
    hyper: Mapping[str, Any] = MappingProxyType({}),
    utility: UtilityName = "logit",
) -> Tensor:
    """Explain a batch with one of pytorch-grad-cam's own classes: maps (N, *S), float32 in [0, 1].

    The maps are what the class returns. But frozen models work, no parameter gradients are computed, and the model and
    the random states of NumPy and torch are left as found. RandomCAM uses neither random state: its weights are those
    of `cam_extras.methods.RandomCAM`, the same for a sample at every call and in every batch.

    Args:
        cam_type: a value of `UPSTREAM`, or a class with the same interface.
        model: the model; its output is (N, C).
        layer: the layer to explain. FullGrad ignores it and uses all layers with a bias.
        x: the batch, shape (N, C, *S).
        targets: class indices, shape (N,). FinerCAM compares each with the classes of the closest scores.
        reshape_transform: turns the layer's output into a feature map (N, C, *S), for transformers; AblationCAM then
            needs `ablation_layer=AblationLayerVit()`.
        hyper: arguments of the class and of its call: see `check_upstream`.
        utility: utility of the explained class, a key of `cam_extras.utilities.UTILITIES`. FinerCAM has its own.

    Raises:
        TypeError: see `check_upstream`; or the input holds no floating-point numbers.
        ValueError: there is not one target for each sample, the layer is not part of the model, the class cannot use
            the `reshape_transform` or the utility, or a map is NaN.
    """
    check_choice("utility", utility, UTILITIES)
    if utility != "logit" and issubclass(cam_type, upstream.FinerCAM):
        raise ValueError(f"FinerCAM compares logits and takes no other utility; got utility={utility!r}")
    of_call = check_upstream(cam_type, hyper)
    options = {name: value for name, value in hyper.items() if name not in of_call}
    at_call = {name: value for name, value in hyper.items() if name in of_call}
    if targets.shape != check_input(x).shape[:1]:
        raise ValueError(f"expected {len(x)} targets, one for each sample; got shape {tuple(targets.shape)}")
    layers = check_layers(model, [layer])
    if issubclass(cam_type, upstream.FullGrad):
        layers, reshape_transform = [], None
    elif reshape_transform == "auto":
        reshape_transform = Probe(model, layer, x, target=targets).reshape_transform
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
            base.batch_size = granted(getattr(base, "batch_size", 16))  # ScoreCAM's default
        second_order = not getattr(base, "detach", True)
        if second_order and reshape_transform is not None:
            raise ValueError(f"pytorch-grad-cam's {type(base).__name__} cannot use a reshape_transform: take ours")
        for parameter in model.parameters():
            # In torch a gradient that depends on nothing has no derivative, not even zero.
            parameter.requires_grad_(second_order and parameter.is_floating_point())
        x = x.detach().clone()
        if issubclass(cam_type, upstream.FinerCAM):  # with targets it would run only its base method
            found = [cam(x[n : n + 1], target_idx=target, **at_call) for n, target in enumerate(targets.tolist())]
            maps = np.concatenate(found)
        else:
            wanted = [_ClassTarget(target, utility) for target in targets.tolist()]
            maps = cam(x, wanted, **at_call)
    result = torch.from_numpy(np.float32(maps))
    check_unit_range(f"the map of {cam_type.__name__}", result)
    return result


class _RandomCAM(upstream.RandomCAM):
    """RandomCAM with weights fixed for each sample: upstream draws new ones from NumPy's generator for every batch."""

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: nn.Module, targets: object, activations: np.ndarray, grads: object
    ) -> np.ndarray:
        """Return the weights (N, C)."""
        return random_weights(input_tensor, activations.shape[1], seed=0).numpy()


class _ClassTarget(ClassifierOutputTarget):
    """A utility of a class."""

    def __init__(self, category: int, utility: str):
        super().__init__(category)
        self.utility = UTILITIES[utility](category)

    def __call__(self, model_output: Tensor) -> Tensor:
        return self.utility(model_output)


def _class_check(targets: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    """Return a forward hook of the model that raises for classes it does not have: some methods never read them."""

    def check(module: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        if isinstance(outputs, Tensor):
            check_classes(targets, outputs.shape[-1])

    return check


@dataclass(frozen=True, kw_only=True)
class Upstream(methods.Method):
    """One of pytorch-grad-cam's own classes as a method, so that runs and evaluators can score its maps.

    `cam_extras.evaluate` and the command line accept its name, such as "ScoreCAM". It runs its own forward passes, and
    its contributions are its maps (N, 1, *S) at the input's size.

    Args:
        cam: key of `UPSTREAM`.
        utility: utility of the explained class, a key of `cam_extras.utilities.UTILITIES`.
        hyper: arguments of the class and of its call, by name.

    Raises:
        TypeError: the class has no such argument.
        ValueError: there is no class of that name, or no such utility.
    """

    old_names: ClassVar[Mapping[str, str]] = {"score": "utility"}

    cam: str
    utility: UtilityName = "logit"
    hyper: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, hyper: Mapping[str, Any]) -> Upstream:
        """Make the method of a class by name, from the hyper-parameters of that class and `utility`."""
        hyper = with_new_names(hyper, cls.old_names)
        utility = hyper.pop("utility", "logit")
        return cls(cam=name, utility=utility, hyper=hyper)

    @property
    def control(self) -> bool:  # type: ignore[override]
        """Whether it is RandomCAM."""
        return self.cam == "RandomCAM"

    def __post_init__(self) -> None:
        check_name("class of pytorch-grad-cam", self.cam, UPSTREAM)
        super().__post_init__()
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
            self.utility,
        )
        return maps[:, None].to(probe.x.device)


def check_upstream(cam_type: type, hyper: Mapping[str, Any]) -> list[str]:
    """Raise TypeError for hyper-parameters that a class of `UPSTREAM` does not have; return the names of its call's."""
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
    """Forward hook: start recording at the layer if nothing below it is recorded."""
    if not torch.is_grad_enabled() or not isinstance(output, Tensor):
        return output
    # Clones: upstream detaches the stored activations and gradients in place, which torch forbids for views.
    features = (output if output.requires_grad else output.detach().requires_grad_()).clone()
    features.register_hook(Tensor.clone)
    return features


@contextmanager
def _traceless(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Allow code to add hooks, replace layers and accumulate gradients in a model, and restore everything when done."""
    tables: list[MutableMapping[Any, Any]] = [
        table for module in model.modules() for table in (module._forward_hooks, module._modules)
    ]
    entries = [dict(table) for table in tables]
    gradients = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    numpy_state = np.random.get_state()  # noqa: NPY002  (a class may draw from it)
    bars = [(module, module.tqdm) for module in (upstream.ablation_cam, upstream.score_cam)]
    with undisturbed(model, device) as interrupts, torch.inference_mode(False), torch.enable_grad():
        try:
            for module, _ in bars:  # their bars for every image would mix with those of a run
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
