"""Layers: their names, and the layer with the last feature map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from cam_extras._axes import Arrangement, AxisTracker, Scrambled, Unclear
from cam_extras._checks import check_input
from cam_extras._outputs import Output
from cam_extras.probe import (
    Probe,
    ReshapeTransform,
    check_layers,
    find_layer,
    hook_of_a_call,
    only_tensor,
    remember_arrangement,
    undisturbed,
)

# Modules that pool the last feature map: they make no map of their own.
_POOLING = (
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
)


class FoundLayer(NamedTuple):
    """The layer with the last feature map.

    Attributes:
        name: its dotted name.
        layer: the module.
        reshape_transform: turns its output into a feature map (N, C, *S); None if it is one.
    """

    name: str
    layer: nn.Module
    reshape_transform: Callable[[Tensor], Tensor] | None


def auto_layer(
    model: nn.Module, x: Tensor, reshape_transform: ReshapeTransform = "auto", *, output: Output = None
) -> FoundLayer:
    """Find the layer with the last feature map before pooling.

    One forward pass is watched: every operation says where the axes of the input are in its result, through any
    wrapping. A feature map is an output in which all axes of space are known, as (N, C, *S), with the channels last, as
    tokens with or without a class token, or as windows. The layer is the module that finishes last among those that run
    once, return a feature map of more than one cell, and whose cells the utility of the predicted class depends on.

    Skipped are pooling, modules that compute nothing, such as dropout and identities, and what is inside an attention:
    queries, keys and values. A container finishes after its last child, so a container that returns its child's map is
    chosen instead of the child: `layer4` of a ResNet, not `layer4.1.relu`; `features` of a VGG, DenseNet, MobileNet,
    EfficientNet or ConvNeXt; `norm` of a Swin, whose head pools it. A ViT with a class token has
    `encoder.layers.encoder_layer_11.ln_1`: after the last attention only that token matters. A map of one cell shows
    nothing, so for small images a layer further down is chosen.

    Args:
        model: the model. It is left as found.
        x: a batch for the model, shape (N, C, *S), on the model's device; two samples are used, or one twice.
        reshape_transform: "auto", or a function that turns the outputs of layers into feature maps: then the last layer
            for which it does is taken, layer norms first. None takes only outputs that are feature maps as they are.
        output: where the class scores are in the model's output, see `Probe`.

    Returns:
        The layer's dotted name, the layer, and the function that turns its output into a feature map, or None.

    Raises:
        TypeError: the input is not made of floating-point numbers, or the model returns no class scores.
        ValueError: no layer returns a feature map, or the utility depends on none; a later layer goes on with cells
            that cannot be followed, so that the last feature map is not to be seen; `reshape_transform` is None and the
            last feature map is not one as it is; or the input is empty or not finite.
    """
    x = check_input(x).detach()[:2]
    if len(x) == 1:
        x = x.repeat(2, *[1] * (x.ndim - 1))  # one sample does not show where the samples are
    seen = _watch(model, x)
    given = reshape_transform if callable(reshape_transform) else None
    names = seen.candidates if given is None else _made_by(model, x, given, seen)
    name, reason = _last_reached(model, x, names, "auto" if given is None else given, output)
    if name is None:
        raise ValueError(
            f"{type(model).__name__} has no feature map (N, C, *S) that the utility depends on ({reason}): give the "
            "layer by name, and for a transformer a reshape_transform"
        )
    if given is not None:
        return FoundLayer(name, model.get_submodule(name), given)
    found = seen.arranged[name]
    if lost := seen.lost_after(name):
        raise ValueError(
            f"{name!r} returns the last feature map of this {type(model).__name__} that can be followed, and {lost!r} "
            "goes on with its cells in a way that cannot, so that a map of it would be wrong: give the layer by name, "
            "and a reshape_transform that makes a feature map of what it returns"
        )
    if found is not None and reshape_transform is None:
        raise ValueError(
            f"{name!r} returns the last feature map of this {type(model).__name__}, {tuple(seen.shapes[name])}, "
            'and not as (N, C, *S): give reshape_transform="auto", or a function that makes a feature map of it'
        )
    return FoundLayer(name, model.get_submodule(name), found)


def _last_reached(
    model: nn.Module, x: Tensor, names: Sequence[str], reshape_transform: ReshapeTransform, output: Output
) -> tuple[str | None, str]:
    """Return the last layer that the utility of the predicted class depends on, or None and why there is none."""
    reason = "no layer that runs once returns one of more than one cell"
    last = None
    rest = list(names)
    count = 1  # most often it is the last one, else one of a few
    while rest:
        part, rest = rest[-count:], rest[:-count]
        count = 8
        layers = [model.get_submodule(name) for name in part]
        probes = Probe.several(model, layers, x, reshape_transform=reshape_transform, second_order=False, output=output)
        for name, probe in zip(reversed(part), reversed(probes), strict=True):
            try:
                cells = probe.cells_reached()
                if cells > 1:
                    return name, ""
                # A single one is what a maximum over cells leaves of a map; another branch may see them all.
                last = last or (name if cells else None)
                reason = "the gradients are 0 in all of them: is the model trained?"
            except ValueError as error:  # the utility does not depend on it
                reason = str(error)
    return last, reason


def _made_by(model: nn.Module, x: Tensor, transform: Callable[[Tensor], Tensor], seen: _Watched) -> list[str]:
    """Return the layers of whose output a user's function makes a feature map: norms if there are any."""
    outputs: dict[str, Tensor] = {}
    with undisturbed(model, x.device), torch.no_grad(), ExitStack() as stack:
        for name in dict.fromkeys(seen.once):

            def keep(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                outputs[name] = only_tensor(output)[1]

            hook = stack.enter_context(hook_of_a_call(keep))
            stack.callback(model.get_submodule(name).register_forward_hook(hook).remove)
        model(x.clone())
    names = []
    for name, output in outputs.items():
        try:
            made = transform(output)
        except (RuntimeError, ValueError, IndexError):  # it only fits the outputs of some layers
            continue
        # Anything but a tensor is kept: a probe of the layer says what is wrong.
        if not isinstance(made, Tensor) or (made.ndim == x.ndim and len(made) == len(x) and made[0, 0].numel() > 1):
            names.append(name)
    names.sort(key=seen.finished.index)
    return [name for name in names if "norm" in type(model.get_submodule(name)).__name__.lower()] or names


class _Watched:
    """What a forward pass shows about a model's modules.

    Attributes:
        finished: names of the modules, in the order in which they finish.
        shapes: shapes of the outputs that are tensors.
        arranged: how the outputs become feature maps, for modules that return one.
        lost: modules whose output has places of the input that cannot be followed.
        attention: modules that mix cells as attention does.
        working: modules that compute something.
    """

    def __init__(self) -> None:
        self.finished: list[str] = []
        self.shapes: dict[str, torch.Size] = {}
        self.arranged: dict[str, Arrangement | None] = {}
        self.lost: set[str] = set()
        self.attention: set[str] = set()
        self.working: set[str] = set()

    @property
    def once(self) -> list[str]:
        """The modules that run once and return a tensor, in the order in which they finish."""
        times = Counter(self.finished)
        return [name for name in self.finished if times[name] == 1 and name in self.shapes]

    @property
    def candidates(self) -> list[str]:
        """The modules that run once and make a feature map, in the order in which they finish."""
        return [
            name for name in self.once if name in self.arranged and name in self.working and not self._is_inside(name)
        ]

    def lost_after(self, name: str) -> str | None:
        """Return the first module after a layer that returns more than one cell, it may be, that cannot be followed."""
        last = len(self.finished) - 1 - self.finished[::-1].index(name)
        lost = self.lost & self.working
        return next(
            (other for other in self.finished[last + 1 :] if other in lost and not self._is_inside(other)), None
        )

    def _is_inside(self, name: str) -> bool:
        return any(name.startswith(f"{attention}.") for attention in self.attention)


def _watch(model: nn.Module, x: Tensor) -> _Watched:
    """Run a model and record what its modules return."""
    seen = _Watched()
    running: list[str] = []

    def at_work(mixes: bool) -> None:
        seen.working.update(running)
        if mixes and running:
            seen.attention.add(running[-1])

    with undisturbed(model, x.device), torch.inference_mode(False), torch.no_grad(), ExitStack() as stack:
        x = x.clone()  # the model may work in place on its input
        tracker = AxisTracker(x, at_work)

        def begin(name: str, *args: Any) -> None:
            running.append(name)

        def end(name: str, module: nn.Module, args: Any, output: Any) -> None:
            running.pop()
            seen.finished.append(name)
            output = only_tensor(output)[1]
            if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 3:
                return
            seen.shapes[name] = output.shape
            if isinstance(module, _POOLING):
                return
            try:
                found = tracker.arrangement(output)
            except Scrambled:
                seen.lost.add(name)
                return
            except Unclear:
                return
            cells = output.shape[2:] if found is None else torch.Size(found.grid)
            if cells.numel() > 1:
                seen.arranged[name] = found
            remember_arrangement(model, module, x, output.shape, found)

        for name, module in model.named_modules():
            if name:
                for register, look in ((module.register_forward_pre_hook, begin), (module.register_forward_hook, end)):
                    hook = stack.enter_context(hook_of_a_call(partial(look, name)))
                    stack.callback(register(hook).remove)
        with tracker:
            model(x)
    return seen


AnyLayer: TypeAlias = str | nn.Module | Sequence[str | nn.Module]
"""A module, its dotted name, "auto", or a list of them; an `nn.Sequential` is one layer."""


def as_layers(model: Any, given: AnyLayer) -> list[nn.Module | Literal["auto"]]:
    """Return layers as modules; "auto" is kept, since finding it needs an input: see `settle`.

    Raises:
        TypeError: a layer is neither a module nor a name, or the model is a function, which has no named layers.
        ValueError: there is no layer of that name, a layer is not part of the model, or the list is empty.
    """
    found: list[nn.Module | Literal["auto"]] = []
    for layer in listed(given):
        if not isinstance(layer, str):
            check_layers(model, [layer])
            found.append(layer)
        elif layer == "auto":
            found.append("auto")
        elif isinstance(model, nn.Module):
            found.append(find_layer(model, layer))
        else:
            raise TypeError(
                f"{layer!r} names a layer, and this {type(model).__name__} has none: give the module itself"
            )
    if not found:
        raise ValueError("expected at least one layer, got none")
    return found


def listed(given: AnyLayer) -> list[str | nn.Module]:
    """Return one layer or several as a list.

    Raises:
        TypeError: it is neither a module, nor a name, nor a list.
    """
    if isinstance(given, str) or (isinstance(given, nn.Module) and not isinstance(given, nn.ModuleList)):
        return [given]
    if not isinstance(given, Sequence | nn.ModuleList):
        raise TypeError(f'the layer must be a module, its dotted name, "auto", or a list of them; got {given!r:.80}')
    return list(given)


def as_layer(model: Any, given: AnyLayer) -> nn.Module | Literal["auto"]:
    """Return a single layer, which may be in a list: see `as_layers`.

    Raises:
        ValueError: there are several layers.
    """
    layers = as_layers(model, given)
    if len(layers) > 1:
        raise ValueError(
            f"expected one layer, got {len(layers)}: the classes for pytorch-grad-cam and Captum, Quantus' explain, "
            "Evaluator and evaluate take several"
        )
    return layers[0]


def settle(
    model: Any,
    layers: Iterable[nn.Module | Literal["auto"]],
    x: Tensor,
    reshape_transform: ReshapeTransform = "auto",
    output: Output = None,
) -> list[nn.Module]:
    """Return layers with "auto" replaced by the layer that `auto_layer` finds for an input."""
    settled: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.Module):
            settled.append(layer)
            continue
        if not isinstance(model, nn.Module):
            raise TypeError(f'layer="auto" looks for a layer in a torch.nn.Module; got {type(model).__name__}')
        settled.append(auto_layer(model, x, reshape_transform, output=output).layer)
    return settled


def name_of(model: Any, layer: nn.Module | str) -> str:
    """Return the dotted name of a layer, or its type if it has none; "auto" stays "auto".

    >>> name_of(nn.Sequential(nn.ReLU()), nn.ReLU())
    'ReLU'
    """
    if isinstance(layer, str):
        return layer
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    return next((name for name, module in modules if module is layer and name), type(layer).__name__)
