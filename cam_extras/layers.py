"""Layers: their names, the layer with the last feature map, and feature maps from tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from cam_extras._checks import check_input
from cam_extras._outputs import Output
from cam_extras.probe import Probe, check_layers, find_layer, hook_of_a_call, undisturbed

_MOST_PREFIX_TOKENS = 16  # tokens before the patches: class, distillation, registers
# Modules that pool the last feature map or leave it as it is: they make no map of their own.
_NO_MAP_OF_THEIR_OWN = (
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.dropout._DropoutNd,
    nn.Identity,
)


def tokens_to_map(tokens: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """Arrange the tokens (N, prefix + H * W, C) of a vision transformer as a map; the prefix may be missing.

    If their number does not match the model's own grid, as for images of another size, the grid is taken to be square.
    """
    patches = math.prod(grid)
    if tokens.ndim == 4 and tokens.shape[2] in (patches, prefix + patches):
        raise ValueError(f"{tuple(tokens.shape)} are queries or keys of an attention, not tokens (N, T, C)")
    if tokens.ndim != 3:
        return tokens
    count = tokens.shape[1]
    if count not in (patches, prefix + patches):
        side = math.isqrt(max(count - prefix, 0))
        grid, patches = (side, side), side * side
        if not patches or count != prefix + patches:
            raise ValueError(
                f"{count} tokens are not {prefix} and a grid, neither the model's own nor a square one: give a "
                "reshape_transform"
            )
    return tokens[:, count - patches :].transpose(1, 2).reshape(len(tokens), -1, *grid)


def channels_first(features: Tensor, widths: tuple[int, ...]) -> Tensor:
    """Move the channels of features to the front if they are last.

    Args:
        features: (N, H, W, C), or (N, C, H, W) as convolutions and pooling return them.
        widths: the channel counts that occur in the model.
    """
    if features.ndim != 4 or (features.shape[1] in widths and features.shape[3] not in widths):
        return features
    return features.permute(0, 3, 1, 2)


def auto_layer(
    model: nn.Module,
    x: Tensor,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    *,
    output: Output = None,
) -> tuple[str, nn.Module]:
    """Pick the layer with the last feature map before pooling.

    It is the module that finishes last among those that run once, return a map (N, C, *S) with as many dimensions as
    the input and more than one cell, and have cells that the utility of the predicted class depends on. Average and
    adaptive pooling, dropout and identities are skipped. A container finishes after its last child, so a container that
    returns its child's map is chosen instead of the child: `layer4` of a ResNet, not `layer4.1.relu`; `features` of a
    VGG, DenseNet, MobileNet, EfficientNet or ConvNeXt, not `features.18`. A map of one cell shows nothing, so for small
    images a layer further down is chosen.

    With a `reshape_transform`, layer norms are preferred, as is usual for transformers: `norm` of a Swin, whose head
    pools it, and `encoder.layers.encoder_layer_11.ln_1` of a ViT, which does not pool: after the last attention only
    the class token matters. Without a `reshape_transform`, every map is assumed to have its channels first.

    Args:
        model: the model. It is left as found.
        x: a batch for the model, shape (N, C, *S), on the model's device; only the first sample is used.
        reshape_transform: turns the layers' outputs into feature maps, see `Classifier.reshape_transform`.
        output: where the class scores are in the model's output, see `Probe`.

    Returns:
        The layer's dotted name and the layer.

    Raises:
        TypeError: the input is not made of floating-point numbers, or the model returns no class scores.
        ValueError: no layer returns such a map, or the utility depends on none; the last map is followed by attention
            or by a layer that takes its cells as tokens, so that it is a patch embedding or a stem; its channels are
            last; the input is empty or not finite.
    """
    x = check_input(x).detach()[:1]
    seen = _watch(model, x, reshape_transform)
    candidates = seen.candidates
    if reshape_transform is not None:
        norms = [name for name in candidates if "norm" in type(model.get_submodule(name)).__name__.lower()]
        candidates = norms or candidates
    reason = "no layer that runs once returns one of more than one cell"
    for name in reversed(candidates):
        layer = model.get_submodule(name)
        probe = Probe(model, layer, x, reshape_transform=reshape_transform, second_order=False, output=output)
        try:
            if probe.is_reached():
                if reshape_transform is None:
                    _check_last(model, seen, name)
                return name, layer
            reason = "the gradients are 0 in all of them: is the model trained?"
        except _NotTheLast:
            raise
        except ValueError as error:  # the utility does not depend on it
            reason = str(error)
    raise ValueError(
        f"{type(model).__name__} has no feature map (N, C, *S) that the utility depends on ({reason}): give the layer "
        "by name, and for a transformer a reshape_transform"
    )


def _check_last(model: nn.Module, seen: _Watched, name: str) -> None:
    """Raise ValueError for a feature map whose cells are mixed later, or whose channels are last."""
    norm = seen.before_the_last_attention(model)
    todo = "give the layer by name" + ("" if norm is None else f", such as {norm!r},")
    mixer = seen.mixed_by(name)
    if mixer is not None:
        raise _NotTheLast(
            f"{name!r} returns the last feature map (N, C, *S) of this {type(model).__name__}, and {mixer!r} goes on "
            f"with its cells, as tokens or by attention, so that a map of it would be wrong: {todo} and a "
            "reshape_transform that makes a feature map of what it returns"
        )
    widths = {
        module.normalized_shape[0]
        for module in model.modules()
        if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1
    }
    shape = seen.shapes[name]
    if shape[-1] in widths and shape[1] not in widths:
        raise _NotTheLast(
            f"{name!r} returns the last feature map of this {type(model).__name__}, {tuple(shape)}, with its channels "
            "last, it seems: give a reshape_transform that moves them, such as lambda t: t.movedim(-1, 1)"
        )


class _NotTheLast(ValueError):
    """The layer found is not the right one, and no other layer will be."""


class _Watched(NamedTuple):
    """What a forward pass shows about a model's modules.

    Attributes:
        finished: names of the modules, in the order in which they finish.
        shapes: shapes of the feature maps, for modules that return one.
        tokens: sequence lengths, for modules that return a sequence of vectors.
        attention: modules that are attention, judging by their class name.
    """

    finished: list[str]
    shapes: dict[str, torch.Size]
    tokens: dict[str, int]
    attention: set[str]

    @property
    def candidates(self) -> list[str]:
        """The modules that run once and return a feature map, in the order in which they finish."""
        return [name for name in self.finished if name in self.shapes and self.finished.count(name) == 1]

    def mixed_by(self, name: str) -> str | None:
        """Return the first module after a feature map that is attention or takes the map's cells as tokens."""
        cells = self.shapes[name][2:].numel()
        for other in self.finished[self.finished.index(name) + 1 :]:
            if other in self.attention or 0 <= self.tokens.get(other, -1) - cells <= _MOST_PREFIX_TOKENS:
                return other
        return None

    def before_the_last_attention(self, model: nn.Module) -> str | None:
        """Return the last norm before the last attention, where a transformer is usually explained."""
        last = max((n for n, name in enumerate(self.finished) if name in self.attention), default=0)
        norms = [name for name in self.finished[:last] if "norm" in type(model.get_submodule(name)).__name__.lower()]
        return norms[-1] if norms else None


def _watch(model: nn.Module, x: Tensor, reshape_transform: Callable[[Tensor], Tensor] | None) -> _Watched:
    """Run a model and record what its modules return."""
    seen = _Watched([], {}, {}, set())

    def look(name: str, module: nn.Module, args: Any, output: Any) -> None:
        seen.finished.append(name)
        if any(word in type(module).__name__.lower() for word in ("attention", "attn")):
            seen.attention.add(name)
        if isinstance(output, tuple) and len(output) == 1:
            output = output[0]
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if reshape_transform is not None:
            try:
                output = reshape_transform(output)
            except (RuntimeError, ValueError, IndexError):  # it only fits the outputs of some layers
                return
        if not isinstance(output, Tensor):  # from a reshape_transform: a probe of the layer raises for that
            return
        a_map = output.ndim == x.ndim > 2 and len(output) == len(x) and output[0, 0].numel() > 1
        if a_map and not isinstance(module, _NO_MAP_OF_THEIR_OWN):
            seen.shapes[name] = output.shape
        elif output.ndim == 3 < x.ndim and len(output) == len(x):
            seen.tokens[name] = output.shape[1]

    with ExitStack() as stack:
        stack.enter_context(undisturbed(model, x.device))
        stack.enter_context(torch.no_grad())
        for name, module in model.named_modules():
            if name:
                hook = stack.enter_context(hook_of_a_call(partial(look, name)))
                stack.callback(module.register_forward_hook(hook).remove)
        model(x.clone())  # the model may change its input in place
    return seen


AnyLayer: TypeAlias = str | nn.Module | Sequence[str | nn.Module]
"""A module, its dotted name, "auto", or a list of them; an `nn.Sequential` is one layer."""


def as_layers(model: Any, given: AnyLayer) -> list[nn.Module | Literal["auto"]]:
    """Return layers as modules; "auto" is kept, since finding it needs an input: see `settle`.

    Raises:
        TypeError: a layer is neither a module nor a name, or the model is a function, which has no named layers.
        ValueError: there is no layer of that name, a layer is not part of the model, or the list is empty.
    """
    if isinstance(given, str) or (isinstance(given, nn.Module) and not isinstance(given, nn.ModuleList)):
        given = [given]
    if not isinstance(given, Sequence | nn.ModuleList):
        raise TypeError(f'the layer must be a module, its dotted name, "auto", or a list of them; got {given!r:.80}')
    found: list[nn.Module | Literal["auto"]] = []
    for layer in given:
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


def as_layer(model: Any, given: AnyLayer) -> nn.Module | Literal["auto"]:
    """Return a single layer, which may be in a list: see `as_layers`.

    Raises:
        ValueError: there are several layers.
    """
    layers = as_layers(model, given)
    if len(layers) > 1:
        raise ValueError(
            f"expected one layer, got {len(layers)}: the classes for pytorch-grad-cam and Captum take several"
        )
    return layers[0]


def settle(
    model: Any,
    layers: Iterable[nn.Module | Literal["auto"]],
    x: Tensor,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
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
        settled.append(auto_layer(model, x, reshape_transform, output=output)[1])
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
