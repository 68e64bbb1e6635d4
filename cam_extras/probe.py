"""Probe: one model, one layer, one batch. The only code in the package that hooks into a model."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from threading import Lock
from types import MappingProxyType
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor, fx, nn

from cam_extras._axes import Arrangement, AxisTracker, Unclear
from cam_extras._checks import SampleError, check_input, check_name, stacklevel_of_the_caller, which
from cam_extras._deprecated import renamed, warn
from cam_extras._guards import MATHEMATICAL_ATTENTION, NO_FAST_PATH, PLAIN_CODE, Interrupts, lock_of
from cam_extras._inputs import OtherInputs, leave_inference
from cam_extras._outputs import Output, Picked, check_output, one_for_all, pick_output
from cam_extras.utilities import (
    AnyUtility,
    CustomUtility,
    OutputTarget,
    PerSampleUtility,
    Target,
    Utility,
    as_target,
)

Model = Callable[..., Any]
ReshapeTransform: TypeAlias = Callable[[Tensor], Tensor] | Literal["auto"] | None
"""How a layer's output becomes a feature map: "auto", a linear function, or None where it is one."""
# Error messages of layers for an input with the wrong channels, dimensions, size or type.
_UNFIT = (
    r"to have \d+ channels|batched\) input to|cannot be multiplied|should be the same|same dtype|expected scalar type"
)

_SMALL = 32  # pixels a side that are enough for most models
_NOT_DIVISIBLE = (
    "samples cannot be chosen with a utility of the whole batch, with additional forward arguments that are no tensors "
    "and have one entry per sample, or with one output for the whole batch"
)


class Probe:
    """What happens in one layer of a model for one batch, computed on first use and then cached.

    The model runs once, under no-grad up to the layer and recorded from there on. So the backward pass stops at the
    layer, frozen models work, and no parameter gradient is ever computed. All methods called with one probe share that
    forward pass, and those with the same utility share its gradients.

    The model is left as found: modes, gradients, `requires_grad`, hooks and the state of torch's random number
    generators, even if it raises. It runs in eval mode, and uncompiled. If it was in training mode, there is a
    `UserWarning`, once per model.

    Args:
        model: the model; any callable, but only an `nn.Module` can be put in eval mode. For a `DataParallel` on one
            device, its module is used.
        layer: the module whose output (N, C, *S) is recorded. It must run exactly once in a forward pass.
        x: the batch, shape (N, C, *S).
        target: what to explain: a class index, one per sample, or a function that reads one value per sample from the
            class scores; None for the predicted class. The method chooses the utility (logit, ReST, ...) of the class.
        utility: instead of `target`, the whole function to explain, model output -> (N,), or one function per sample,
            output of the sample -> scalar. It overrides the method's utility.
        reshape_transform: how the layer's output becomes a feature map (N, C, *S). "auto" follows the axes of the input
            to the layer, in a forward pass of at most two samples of its own when a layer is first used: feature maps
            stay as they are; tokens, windows and maps with their channels last are arranged, and tokens of no patch
            (class, registers) dropped. Or a linear function; or None for an output that is taken as it is.
        additional_forward_args: passed to the model after `x`. Of tensors with one row per sample, a pass of some
            samples gets theirs; everything else is the same for all.
        additional_forward_kwargs: the same by name, such as `{"attention_mask": mask}`. If they name the model's first
            parameter, as `input_ids` of a CLIP, `x` is the first that they do not name.
        attribute_to_layer_input: use the layer's first input instead of its output.
        second_order: allow Hessian-vector products. False lets fused attention kernels run above the layer, which have
            no second derivative in PyTorch.
        output: where the class scores are in the model's output: a key or attribute, an index, or a function of the
            output. By default they are found in tensors, `.logits`, mappings, tuples and lists, if there is no doubt.
            If the model returns one row for all N samples, such as the frames of a video, every sample has that row as
            its output, and the gradient of each is that of the one score.

    Raises:
        TypeError: `layer` is not a module, the layer's output or the input is not a floating-point tensor, the model
            returns no class scores, or several tensors that could be meant, or its modules are not called, as on
            several devices or when exported.
        ValueError: the layer is not part of the model, did not run, ran more than once, or has no spatial dimensions;
            the utility does not depend on it, or only through what the `reshape_transform` drops; "auto" cannot tell
            where the places of the input are in it; a module above it is quantised; or the input is empty or not
            finite.
    """

    @renamed({"score": "utility"})
    def __init__(
        self,
        model: Model,
        layer: nn.Module,
        x: Tensor,
        *,
        target: Target = None,
        utility: AnyUtility | None = None,
        reshape_transform: ReshapeTransform = "auto",
        additional_forward_args: tuple[Any, ...] = (),
        additional_forward_kwargs: Mapping[str, Any] | None = None,
        attribute_to_layer_input: bool = False,
        second_order: bool = True,
        output: Output = None,
    ):
        self._recording = _Recording(
            model,
            [layer],
            x,
            reshape_transform,
            OtherInputs(additional_forward_args, additional_forward_kwargs, len(check_input(x))),
            attribute_to_layer_input,
            second_order,
            output,
        )
        self._layer = 0
        self._utility = _make_utility(target, utility)
        self._utility_name = "logit"

    @classmethod
    def several(cls, model: Model, layers: Sequence[nn.Module], x: Tensor, **options: Any) -> list[Probe]:
        """Make one probe per layer, all sharing one forward pass; options as for a single probe."""
        if not layers:
            raise ValueError("expected at least one layer, got none")
        first = cls(model, layers[0], x, **options)
        first._recording.layers = check_layers(model, layers)
        return first.of_each_layer()

    def of_each_layer(self) -> list[Probe]:
        """Return the probes of all layers that share this one's forward pass, in the order given to `several`."""
        return [self._with(_layer=index) for index in range(len(self._recording.layers))]

    @property
    def model(self) -> Model:
        """The model."""
        return self._recording.model

    @property
    def layer(self) -> nn.Module:
        """The layer."""
        return self._recording.layers[self._layer]

    @property
    def reshape_transform(self) -> Callable[[Tensor], Tensor] | None:
        """The function that turns the layer's output into a feature map; None if it is one."""
        return self._recording.transform(self._layer)

    @property
    def output(self) -> Output:
        """Where the class scores are in the model's output, as given."""
        return self._recording.output

    @property
    def shares_output(self) -> bool:
        """Whether the model returned one row for all samples, as for the frames of a video."""
        return self._recording.shared

    @property
    def x(self) -> Tensor:
        """The batch."""
        return self._recording.x

    @property
    def other_inputs(self) -> OtherInputs:
        """What the model takes besides `x`."""
        return self._recording.others

    @property
    def outputs(self) -> Any:
        """The model's output, detached."""
        return _map_tensors(torch.Tensor.detach, self._recording.outputs)

    @property
    def target(self) -> Any:
        """The class explained, shape (N,), the predicted one if no target was given; None for your own function."""
        return getattr(self._utility.resolved(self._recording.outputs), "target", None)

    @property
    def activations(self) -> Tensor:
        """A: the layer's feature map (N, C, *S), in float32 or better."""
        return self._recording.feature_maps[self._layer]

    @property
    def gradients(self) -> Tensor:
        """G = d utility / d A, shape (N, C, *S).

        A `UserWarning` names samples whose gradient is exactly 0, unless this probe was made by `at`.
        """
        return self._recording.gradient_map(self._utility, self._utility_name, self._layer)

    def cells_reached(self) -> int:
        """Return how many cells of the layer's feature map the utility depends on at x: those with a gradient not 0.

        The most of any sample.

        Raises:
            ValueError: the utility does not depend on the layer at all.
        """
        gradient = self._recording.gradient(self._utility, self._utility_name, self._layer).detach()
        return int(self._recording.as_feature_map(gradient, self._layer).any(dim=1).flatten(1).sum(dim=1).max())

    def output_gradients(self) -> Tensor:
        """Return d utility / d y, where y is the model's output, in its shape; it costs no pass through the model.

        Raises:
            TypeError: the output is not a tensor.
        """
        outputs = self.outputs
        if not isinstance(outputs, Tensor):
            raise TypeError(f"the model must return a tensor (N, C) of class scores; got {type(outputs).__name__}")
        with torch.inference_mode(False), torch.enable_grad():
            outputs = outputs.detach().clone().requires_grad_()
            (gradients,) = torch.autograd.grad(self.utility_of(outputs).sum(), outputs)
        return gradients

    def not_reached(self) -> ValueError:
        """Return the error to raise if the utility depends on nothing that the `reshape_transform` keeps."""
        return self._recording.not_reached(self._layer)

    def hessian_vector_product(self, v: Tensor) -> Tensor:
        """H v, where H is the Hessian of the utility with respect to A; `v` and the result have A's shape.

        Samples do not mix. With a `reshape_transform`, H is the Hessian with respect to the resulting feature map: what
        is dropped (a class token, for instance) is held fixed.
        """
        return self._recording.hessian_vector_product(self._utility, self._utility_name, self._layer, v)

    def check_target(self) -> None:
        """Raise if the target does not fit the model's output, as differentiating the utility would.

        For methods that do not use the utility; it costs no extra forward pass.
        """
        self._recording.check_utility(self._utility, self._utility_name)

    def under(self, utility: str) -> Probe:
        """Return this probe with the gradients of another utility of the target, a key of `utilities.UTILITIES`.

        The user's own function is not changed.
        """
        return self._with(_utility_name=utility)

    def with_utility(self, utility: AnyUtility) -> Probe:
        """Return this probe with the gradients of another utility; the forward pass is shared.

        Probes of several layers share their backward pass if they get the same `Utility`.
        """
        return self._with(_utility=_make_utility(None, utility))

    def scored_by(self, utility: str) -> Probe:
        """Old name of `under`."""
        warn("Probe.scored_by", "Probe.under")
        return self.under(utility)

    def with_score(self, score: AnyUtility) -> Probe:
        """Old name of `with_utility`."""
        warn("Probe.with_score", "Probe.with_utility")
        return self.with_utility(score)

    def score(self, x: Tensor, samples: Tensor | None = None) -> Tensor:
        """Old name of `utility`."""
        warn("Probe.score", "Probe.utility")
        return self.utility(x, samples)

    def without_graph(self) -> Probe:
        """Return this probe with its computed values but without the graph, which uses memory.

        Returns this very probe if its gradients are not computed yet, since they would be lost.
        """
        recording = self._recording.without_graph(self._utility, self._utility_name)
        return self if recording is None else self._with(_recording=recording)

    @property
    def divisible(self) -> bool:
        """Whether `at` accepts samples in any number and order.

        It does not with a utility of the whole batch, with additional forward arguments that are no tensors and have
        one entry per sample, or if the model returns one row for the whole batch.
        """
        nobody = torch.zeros(0, dtype=torch.long, device=self.x.device)
        return (
            self._recording.others.divisible
            and self.settled_utility.of_samples(nobody) is not None
            and not self.shares_output
        )

    def at(self, x: Tensor, samples: Tensor | None = None) -> Probe:
        """Return the same probe at another input, for the class explained here.

        Args:
            x: the input, one row per sample, or per entry of `samples`.
            samples: positions in this probe's batch of the samples in `x`, in order, with repeats allowed; by default
                all. Only a `divisible` probe accepts them.
        """
        utility, others = self.settled_utility, self._recording.others
        if samples is not None:
            if not self.divisible:
                raise ValueError(_NOT_DIVISIBLE)
            utility(self._recording.outputs, self._utility_name)  # raises if there is not one target per sample here
            with torch.inference_mode(False):  # a backward pass keeps the indices
                utility = utility.of_samples(samples)  # type: ignore[assignment]
            others = others.of_samples(samples)
        return self._with(_recording=self._recording.at(x, others), _utility=utility)

    def utility(self, x: Tensor, samples: Tensor | None = None) -> Tensor:
        """Return the utility of another input, shape (N,), for the class explained here.

        It runs in the caller's grad mode, so the utility can be differentiated with respect to what `x` was made from.

        Args:
            x: the input, one row per sample, or per entry of `samples`.
            samples: positions in this probe's batch of the samples in `x`, in order; by default all. Repeats are
                allowed if the probe is `divisible`.
        """
        utility, whole = self._utility_of(samples), None
        if utility is None:
            utility = self.settled_utility
            x, whole, samples = self.x.index_put((samples,), x), samples, None
        if x.requires_grad and torch.is_grad_enabled():
            check_not_quantised(self.model)
        scores, shared = self._recording.run(x, samples)
        values = utility(_to_float(scores), self._utility_name)
        if shared:
            _check_one_value(values)
        values = values if whole is None else values[whole]
        if shared:  # so that the gradient of their sum is that of the one score
            values = values.detach() + (values - values.detach()) / len(values)
        return values

    def utility_of(self, outputs: Any) -> Tensor:
        """Return the utility of an output of the model, shape (N,), for the class explained here."""
        return self.settled_utility(outputs, self._utility_name)

    def above(self, features: Tensor, samples: Tensor | None = None) -> Tensor:
        """Return the utility with the layer's feature map replaced, shape (M,), in the caller's grad mode.

        If the layer is `separable`, only what lies above it runs on all rows; otherwise the whole model does. What a
        `reshape_transform` drops, such as a class token, keeps its value.

        Args:
            features: shape (M, C, *S), one row per sample, or per entry of `samples`. The model may overwrite it.
            samples: positions in this probe's batch of the samples in `features`, in order, with repeats allowed; by
                default all. Only a `divisible` probe accepts others.

        Raises:
            ValueError: the `reshape_transform` computes values, so that it cannot be undone.
        """
        utility = self._utility_of(samples)
        if utility is None:
            raise ValueError(_NOT_DIVISIBLE)
        return utility(_to_float(self._recording.above(features, samples, self._layer)), self._utility_name)

    @property
    def separable(self) -> bool:
        """Whether what lies above the layer can run alone: nothing below reaches the output except through the layer.

        Found out by running the model on two other images with the layer's output held fixed. Where additional forward
        arguments differ by sample, it is not known, and False.
        """
        return self._recording.stand_in(self._layer) is not None

    def run(self, x: Tensor, samples: Tensor | None = None) -> Any:
        """Return the model's output for another input, in the caller's grad mode; records nothing.

        A model that returns one row for the whole batch takes as many samples as there.

        Args:
            x: the input, of any length.
            samples: positions in this probe's batch of the samples in `x`, in order, which choose the rows of
                additional forward arguments; by default all.
        """
        return _to_float(self._recording.run(x, samples).scores)

    def _utility_of(self, samples: Tensor | None) -> Utility | None:
        """Return the utility of some of the samples; None if the whole batch is needed."""
        utility = self.settled_utility
        if samples is None or torch.equal(samples, torch.arange(len(self.x), device=samples.device)):
            return utility
        return utility.of_samples(samples) if self.divisible else None

    @property
    def settled_utility(self) -> Utility:
        """What is differentiated, for the class predicted here; a given class needs no forward pass."""
        if not self._utility.predicts:
            return self._utility
        with torch.inference_mode(False):  # a backward pass keeps the class indices
            return self._utility.resolved(self._recording.outputs)

    def _with(self, **changes: Any) -> Probe:
        probe = copy.copy(self)
        probe.__dict__.update(changes)
        return probe


@dataclass(frozen=True)
class _StandIn:
    """What runs below a layer whose output is replaced, if nothing of it reaches the output.

    Attributes:
        image: shape (1, C, *S).
        results: what the largest modules below the layer, and the layer, return for it: they need not run.
    """

    image: Tensor
    results: Mapping[nn.Module, Any]


class _Recording:
    """One forward pass, recorded from the first requested layer upwards, and values derived from it."""

    def __init__(
        self,
        model: Model,
        layers: Sequence[nn.Module],
        x: Tensor,
        reshape_transform: ReshapeTransform,
        others: OtherInputs,
        attribute_to_layer_input: bool,
        second_order: bool,
        output: Output,
    ):
        if not callable(model):
            raise TypeError(f"the model must be callable; got {type(model).__name__}")
        if isinstance(model, nn.DataParallel) and len(model.device_ids) < 2:
            model = model.module
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise TypeError(
                f"{type(model).__name__} runs replicas of the layer, or counts on a backward pass: "
                "give the model's .module"
            )
        self.model = model
        self.layers = check_layers(model, layers)
        self.x = check_input(x).detach()
        if not (reshape_transform is None or reshape_transform == "auto" or callable(reshape_transform)):
            raise TypeError(
                'reshape_transform must be "auto", a function that takes the layer\'s output, or None; got '
                f"{reshape_transform!r:.80}"
            )
        self.reshape_transform = reshape_transform
        self.others = others
        self.attribute_to_layer_input = attribute_to_layer_input
        self.second_order = second_order
        check_output(output)
        self.output = output
        self._origin: _Recording | None = None
        self._shared: bool | None = None  # not known yet
        self.tells_of_zeros = True
        self._told_of_zeros: set[tuple[Any, ...]] = set()
        self._recorded: list[Tensor] = []
        self._outputs: Any = None
        self._feature_maps: list[Tensor] = []
        self._gradients: dict[tuple[Any, ...], list[Tensor | None]] = {}
        self._arrangements: dict[int, Arrangement | Unclear | None] = {}
        self._curvature: dict[tuple[Any, ...], Tensor] = {}
        self._stand_ins: dict[int, _StandIn | None] = {}
        self._places: dict[int, Tensor] = {}
        self._checked: set[tuple[Any, ...]] = set()

    def at(self, x: Tensor, others: OtherInputs) -> _Recording:
        there = _Recording(
            self.model,
            self.layers,
            x,
            self.reshape_transform,
            others,
            self.attribute_to_layer_input,
            self.second_order,
            self.output,
        )
        there._origin = self
        there.tells_of_zeros = False  # a baseline may have zero gradient, and its rows are not the user's samples
        return there

    def without_graph(self, utility: Utility, name: str) -> _Recording | None:
        """Return a copy with the computed values and no graph; None if these gradients are not computed yet."""
        key = utility.key(name)
        if key not in self._gradients:
            return None
        known = copy.copy(self)
        known._feature_maps = self.feature_maps
        known._gradients = {key: [None if gradient is None else gradient.detach() for gradient in self._gradients[key]]}
        known._recorded, known._outputs, known._curvature = [], None, {}
        return known

    def run(self, x: Tensor, samples: Tensor | None) -> Picked:
        """Run the model in the caller's grad mode and leave it as found."""
        others = self.others if samples is None else self.others.of_samples(samples)
        with undisturbed(self.model, x.device):
            picked = pick_output(others.call(self.model, x), len(x), self.output)
        if picked.shared:
            self.check_frames(len(x))
        return picked

    @property
    def shared(self) -> bool:
        """Whether the model returned one row for several samples."""
        if self._shared is None and len(self.x) > 1:
            self._record()
        return bool(self._shared)

    def check_frames(self, samples: int) -> None:
        """Raise ValueError if one row for other samples cannot be one for the very frames of this batch."""
        if not self.shared or samples != len(self.x):
            batch = f"the batch of {len(self.x)} " + ("frames together" if self.shared else "has one for each sample")
            raise one_for_all(samples, f"{batch}, and images beside it cannot share one")

    def above(self, features: Tensor, samples: Tensor | None, index: int) -> Any:
        """Return the model's output with the feature map of a layer replaced, row by row for these samples."""
        if samples is None:
            samples = torch.arange(len(self.x), device=self.x.device)
        output, stand_in = self._as_output(features, samples, index), self.stand_in(index)
        if stand_in is None:
            return self._run_replacing(self.x[samples], output, index, self.others.of_samples(samples))
        return self._run_replacing(stand_in.image.clone(), output, index, self.others, skipping=stand_in.results)

    def _run_replacing(
        self,
        x: Tensor,
        output: Tensor,
        index: int,
        others: OtherInputs,
        skipping: Mapping[nn.Module, Any] = MappingProxyType({}),
        results: dict[nn.Module, Any] | None = None,
    ) -> Any:
        """Run the model with a layer's output replaced, in rows of any number.

        Modules are skipped if their results are known. `results` are those of the largest modules below the layer.
        """
        reached, seen = False, set[nn.Module]()
        known = {} if results is None else results

        def replace(index: int, features: Any) -> Tensor:
            nonlocal reached
            reached = True
            return output

        def note(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
            if reached or module in seen:  # it runs above the layer, too, or with other results
                known.pop(module, None)
            else:
                for inner in module.modules():
                    known.pop(inner, None)
                known[module] = result
            seen.add(module)

        with undisturbed(self.model, x.device) as interrupts, hook_of_a_call(note) as hook, ExitStack() as stack:
            interrupts.hold()
            if results is not None and isinstance(self.model, nn.Module):
                for module in self.model.modules():
                    if not isinstance(module, torch.jit.ScriptModule):
                        stack.callback(module.register_forward_hook(hook).remove)
            stack.enter_context(self._hooked(self.layers[index], index, replace))
            for module, result in skipping.items():
                stack.callback(_restore, module, "forward", vars(module).get("forward"))
                vars(module)["forward"] = partial(_return, result)
            try:
                interrupts.let()
                outputs = others.mapped(leave_inference).call(self.model, x)
            finally:
                interrupts.hold()
        scores, shared = pick_output(outputs, len(output), self.output)
        if shared:
            self.check_frames(len(output))
        return scores

    def stand_in(self, index: int) -> _StandIn | None:
        """Return what to run below a layer whose output is replaced; None if it must be the samples' own."""
        if index not in self._stand_ins:
            self._record()
            with torch.inference_mode(False), torch.no_grad():
                found = (self._try_below(image, index) for image in self._images_unlike_x())
                self._stand_ins[index] = next((stand_in for stand_in in found if stand_in is not None), None)
        return self._stand_ins[index]

    def _images_unlike_x(self) -> Iterator[Tensor]:
        """Make a small image, which is fast, and one of the size of x, for models that take no other."""
        if not self.x.is_floating_point():
            return
        image = 1 - 0.5 * self.x[:1]
        small = image[tuple(slice(_SMALL if dim > 1 else None) for dim in range(image.ndim))]
        if small.shape != image.shape:
            yield small.clone()
        yield image

    def _try_below(self, image: Tensor, index: int) -> _StandIn | None:
        """Return the stand-in made from an image, if the output does not depend on what runs below the layer.

        With the layer's output held fixed it must be the same to the bit for this image, for another one and with
        modules skipped; and the same, but for rounding, as for x.
        """
        samples = torch.arange(len(self.x), device=self.x.device)
        samples = samples[:2] if len(samples) > 1 else samples.repeat(2)  # one row would fit the image's one
        features = self._recorded[index].detach()
        results: dict[nn.Module, Any] = {}

        def values(image: Tensor, **options: Any) -> Tensor:
            return _values(self._run_replacing(image, features[samples], index, self.others, **options))

        try:
            found = values(image.clone(), results=results)
            again = [values(image.flip(-1) / 2), values(image.clone(), skipping=results)]
        except Exception:  # for an image of another size, one row below and two above, or inputs of several samples
            return None
        known = self._outputs
        expected = _values(known[samples] if isinstance(known, Tensor) else [known[n] for n in samples.tolist()])
        tolerance = torch.finfo(features.dtype).eps ** 0.5
        alike = (
            len(found) == len(expected) > 0
            and all(torch.equal(found, other) for other in again)
            and bool((found - expected).abs().max() <= tolerance * expected.abs().max())
        )
        return _StandIn(image, results) if alike else None

    def _as_output(self, features: Tensor, samples: Tensor, index: int) -> Tensor:
        """Undo the reshape_transform; what it drops keeps its value."""
        self._record()
        recorded = self._recorded[index].detach()
        features = features.to(recorded.dtype)
        if self.transform(index) is None:
            return features
        if index not in self._places:
            self._places[index] = self._find_places(recorded, index)
        output = recorded[samples].flatten(1).index_copy_(1, self._places[index], features.flatten(1))
        return output.reshape(len(samples), *recorded.shape[1:])

    def _find_places(self, recorded: Tensor, index: int) -> Tensor:
        """Return where in the layer's output the values of the feature map come from."""
        size = recorded[0].numel()
        numbers = torch.arange(size, dtype=torch.float64, device=recorded.device).reshape(1, *recorded.shape[1:])
        places = self.transform(index)(numbers).flatten().long()  # type: ignore[misc]
        if (
            ((places < 0) | (places >= size)).any()
            or len(places.unique()) < len(places)
            or not torch.equal(self._reshape(recorded, index).flatten(1), recorded.flatten(1)[:, places])
        ):
            raise ValueError(
                "the reshape_transform computes new values, so that a changed feature map cannot be put back in the "
                "layer's output: it must only move and drop values, as slices, reshape and permute do"
            )
        return places

    @property
    def outputs(self) -> Any:
        self._record()
        return self._outputs

    @property
    def feature_maps(self) -> list[Tensor]:
        if not self._feature_maps:
            self._record()
            self._feature_maps = [self.as_feature_map(values.detach(), n) for n, values in enumerate(self._recorded)]
        return self._feature_maps

    def transform(self, index: int) -> Callable[[Tensor], Tensor] | None:
        """Return the function that turns a layer's output into a feature map; None if it is one."""
        if callable(self.reshape_transform) or self.reshape_transform is None:
            return self.reshape_transform
        if index not in self._arrangements and not self._recorded:
            known = known_arrangement(self.model, self.layers[index], self.x, self.attribute_to_layer_input)
            if known is not None and known[1] is None:
                return None
            self._record()
        found = self._arrangements[index]
        if isinstance(found, Unclear):
            raise ValueError(
                f"expected a feature map of shape ({len(self.x)}, C, *S) as the {self._what} of layer "
                f"{_name(self.model, self.layers[index])}; got {tuple(self._recorded[index].shape)}, and {found}: "
                'choose a layer with spatial dimensions, such as the one that "auto" finds, or give a reshape_transform'
            )
        return found

    @property
    def _what(self) -> str:
        return "input" if self.attribute_to_layer_input else "output"

    def as_feature_map(self, values: Tensor, index: int) -> Tensor:
        maps: Tensor = _to_float(self._reshape(values, index))
        return maps

    def _reshape(self, values: Tensor, index: int) -> Tensor:
        transform = self.transform(index)
        maps = values if transform is None else transform(values)
        if not isinstance(maps, Tensor) or maps.ndim < 3 or maps.shape[0] != len(self.x):
            raise ValueError(
                f"expected a feature map of shape ({len(self.x)}, C, *S) from the layer; got "
                f"{tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__}: "
                "choose a layer with spatial dimensions or give a reshape_transform"
            )
        return maps

    def _record(self) -> None:
        if self._recorded:
            return
        with torch.inference_mode(False), torch.enable_grad():
            # A model may switch the grad mode itself and then restore what it found: no-grad. Recording the whole pass
            # costs more but is immune to that.
            recording = self._forward(record_below=False)
            if recording is None:
                recording = self._forward(record_below=True)
            self._recorded, self._outputs = recording[0], _to_float(recording[1])  # type: ignore[index]

    def _forward(self, record_below: bool) -> tuple[list[Tensor], Any] | None:
        """Run the model; return None if it must be recorded from below the layer."""
        recorded: dict[int, Tensor] = {}
        known = [known_arrangement(self.model, layer, self.x, self.attribute_to_layer_input) for layer in self.layers]
        follows = self.reshape_transform == "auto" and None in known
        with ExitStack() as stack:
            interrupts = stack.enter_context(undisturbed(self.model, self.x.device))
            interrupts.hold()
            stack.enter_context(torch.set_grad_enabled(record_below))
            x = self.x.clone()  # the model may work in place on its input
            tracker = AxisTracker(x)

            def record(index: int, features: Any) -> Tensor:
                self._check_features(index, features, already=index in recorded)
                if follows:
                    self._arrange(index, features, tracker)
                if not recorded:
                    torch.set_grad_enabled(True)
                    if self.second_order:
                        interrupts.hold()
                        stack.enter_context(MATHEMATICAL_ATTENTION.on())
                        interrupts.let()
                # The graph of an earlier recorded layer leads up to this one; any other graph is cut off here. Clones
                # on both sides: the next module may work in place, and the layer's output may be its own input.
                leads_up = bool(recorded) and features.requires_grad
                recorded[index] = features.clone() if leads_up else features.detach().clone().requires_grad_()
                return recorded[index].clone()

            for index, layer in enumerate(self.layers):
                stack.enter_context(self._hooked(layer, index, record))
            if follows:
                stack.enter_context(tracker)
            try:
                interrupts.let()
                outputs = self.others.mapped(leave_inference).call(self.model, x)
            except RuntimeError as error:
                if not record_below and "no_grad mode and is being modified inplace" in str(error):
                    return None
                if re.search(_UNFIT, str(error)):
                    raise ValueError(
                        f"the model does not take an input of shape {tuple(self.x.shape)} and type {self.x.dtype}: "
                        f"{error}"
                    ) from error
                raise
            if not record_below and not torch.is_grad_enabled() and recorded:
                return None
            picked = pick_output(outputs, len(self.x), self.output)
            interrupts.hold()
        missing = [i for i in range(len(self.layers)) if i not in recorded]
        if missing:
            layer = self.layers[missing[0]]
            raise ValueError(
                f"layer {_name(self.model, layer)} did not run in the model's forward pass: "
                f"{_what_runs(self.model, layer)}"
            )
        if not follows and self.reshape_transform == "auto":
            for index, (shape, arrangement) in enumerate(found for found in known if found is not None):
                if arrangement is not None and shape != recorded[index].shape[1:]:  # the model is not as it was
                    _arrangements.pop(self.layers[index])
                    return self._forward(record_below)
                self._arrangements[index] = arrangement
        if picked.shared and self._origin is not None:
            self._origin.check_frames(len(self.x))
        self._shared = picked.shared
        return [recorded[i] for i in range(len(self.layers))], picked.scores

    def _arrange(self, index: int, features: Tensor, tracker: AxisTracker) -> None:
        """Find out how a layer's output becomes a feature map."""
        try:
            found = tracker.arrangement(features)
        except Unclear as unclear:
            self._arrangements[index] = unclear
            return
        self._arrangements[index] = found
        of_input = self.attribute_to_layer_input
        remember_arrangement(self.model, self.layers[index], self.x, features.shape, found, of_input)

    @contextmanager
    def _hooked(self, layer: nn.Module, index: int, record: Callable[[int, Any], Tensor]) -> Iterator[None]:
        def record_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            place, features = only_tensor(output)
            if place is None:
                return record(index, features)
            return (*output[:place], record(index, features), *output[place + 1 :])

        def record_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (record(index, args[0]), *args[1:]), kwargs
            name, features = next(iter(kwargs.items()), ("", None))
            return args, kwargs | {name: record(index, features)}

        with hook_of_a_call(record_input if self.attribute_to_layer_input else record_output) as hook:
            try:
                if self.attribute_to_layer_input:
                    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
                else:
                    handle = layer.register_forward_hook(hook)
            except RuntimeError as error:
                if not isinstance(layer, torch.jit.ScriptModule):
                    raise
                raise ValueError(
                    f"layer {_name(self.model, layer)} is TorchScript and takes no hook: {_ONLY_THE_ORIGINAL}"
                ) from error
            try:
                yield
            finally:
                handle.remove()

    def _check_features(self, index: int, features: Any, already: bool) -> None:
        name = _name(self.model, self.layers[index])
        if already:
            raise ValueError(
                f"layer {name} ran more than once in a forward pass, so which {self._what} is meant is ambiguous: "
                "choose the module around it, or one that is used once"
            )
        if not isinstance(features, Tensor) or not features.is_floating_point():
            kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(
                f"the {self._what} of layer {name} must be one floating-point tensor (N, C, *S); got {kind}: "
                "choose a module inside or after it"
            )

    def check_utility(self, utility: Utility, name: str) -> None:
        key = utility.key(name)
        if key not in self._checked:  # the user's own functions are called once, for any number of layers
            self._record()
            with self._differentiating():
                utility(self._outputs, name)
            self._checked.add(key)

    def gradients(self, utility: Utility, name: str) -> list[Tensor | None]:
        """Return d utility / d layer for every layer, in the layers' own shapes; None if it does not depend on it."""
        key = utility.key(name)
        if key not in self._gradients:
            self._record()
            with self._differentiating():
                value = utility(self._outputs, name)
                gradients: Sequence[Tensor | None] = [None] * len(self._recorded)
                if value.requires_grad:
                    gradients = torch.autograd.grad(
                        self._total(value),
                        self._recorded,
                        create_graph=self.second_order,
                        retain_graph=True,
                        allow_unused=True,
                    )
            self._gradients[key] = list(gradients)
        return self._gradients[key]

    def gradient(self, utility: Utility, name: str, index: int) -> Tensor:
        """Return d utility / d layer of one layer, in its own shape."""
        gradient = self.gradients(utility, name)[index]
        if gradient is None:
            check_not_quantised(self.model)
            raise ValueError(
                f"the utility does not depend on layer {_name(self.model, self.layers[index])}: choose a layer on the "
                "way to it, and a model and utility that can be differentiated (no detach, no inference_mode)"
            )
        return gradient

    def _total(self, values: Tensor) -> Tensor:
        """Return what is differentiated: the sum over samples, but one output's utility only once."""
        if not self._shared:
            return values.sum()
        _check_one_value(values)
        return values.mean()

    def gradient_map(self, utility: Utility, name: str, index: int) -> Tensor:
        """Return d utility / d A of a layer; on first use, warn of samples in which it is 0."""
        gradient = self.gradient(utility, name, index).detach()
        maps = self.as_feature_map(gradient, index)
        layer = self.layers[index]
        if self.transform(index) is not None and not maps.any() and gradient.any():
            raise self.not_reached(index)
        key = (*utility.key(name), index)
        if self.tells_of_zeros and key not in self._told_of_zeros:
            self._told_of_zeros.add(key)
            nothing = ~maps.flatten(1).any(dim=1)
            if nothing.any():
                error = SampleError(
                    f"the gradient of the utility in layer {_name(self.model, layer)} is exactly 0",
                    which(nothing),
                    "maps made from it show nothing; inactive units pass no gradient on, and neither does a saturated "
                    "utility",
                )
                warnings.warn(str(error), stacklevel=stacklevel_of_the_caller())
        return maps

    def not_reached(self, index: int) -> ValueError:
        return ValueError(
            f"the utility depends on layer {_name(self.model, self.layers[index])} only through what the "
            "reshape_transform drops, such as the class token, and the map would be 0: choose a layer before the last "
            "attention, such as blocks[-1].norm1"
        )

    def hessian_vector_product(self, utility: Utility, name: str, index: int, v: Tensor) -> Tensor:
        if not self.second_order:
            raise ValueError("Hessian-vector products need a probe made with second_order=True")
        if v is not self.feature_maps[index]:
            return self._hessian_vector_product(utility, name, index, v)
        key = (*utility.key(name), index)  # several methods need H A
        if key not in self._curvature:
            self._curvature[key] = self._hessian_vector_product(utility, name, index, v)
        return self._curvature[key]

    def _hessian_vector_product(self, utility: Utility, name: str, index: int, v: Tensor) -> Tensor:
        gradient = self.gradient(utility, name, index)
        recorded = self._recorded[index]
        product = None
        with self._differentiating():
            direction = v.to(recorded.dtype)
            if self.transform(index) is not None:
                leaf = recorded.detach().requires_grad_()
                (direction,) = torch.autograd.grad(self._reshape(leaf, index), leaf, direction)
            if gradient.requires_grad:
                try:
                    (product,) = torch.autograd.grad(
                        gradient, recorded, direction, retain_graph=True, allow_unused=True
                    )
                except RuntimeError as error:
                    if not re.search("derivative for|double backward", str(error)):
                        raise
                    raise ValueError(
                        f"an operation above layer {_name(self.model, self.layers[index])} has no second derivative "
                        f"in PyTorch ({error}): use a method of first order, such as GradCAM, or a higher layer"
                    ) from error
        # Without a path back to the layer the gradient is constant: the utility is linear in the layer.
        return self.as_feature_map(torch.zeros_like(recorded) if product is None else product.detach(), index)

    @contextmanager
    def _differentiating(self) -> Iterator[None]:
        """Differentiate whatever the caller's mode, in the types of the forward pass.

        Checkpointed modules run again in a backward pass, and need the modes and kernels of the first run.
        """
        with ExitStack() as stack:
            interrupts = stack.enter_context(undisturbed(self.model, self.x.device))
            interrupts.hold()
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autocast(self.x.device.type, enabled=False))
            if self.second_order:
                stack.enter_context(MATHEMATICAL_ATTENTION.on())
            try:
                interrupts.let()
                yield
            finally:
                interrupts.hold()


_arrangements: WeakKeyDictionary[nn.Module, dict[Any, tuple[torch.Size, Arrangement | None]]] = WeakKeyDictionary()


def remember_arrangement(
    model: Model, layer: nn.Module, x: Tensor, shape: torch.Size, found: Arrangement | None, of_input: bool = False
) -> None:
    """Keep how a layer's output becomes a feature map, so that it is found out once."""
    key = _key_of_arrangement(model, x, found is None, of_input)
    if key is not None:
        _arrangements.setdefault(layer, {})[key] = shape[1:], found


def known_arrangement(
    model: Model, layer: nn.Module, x: Tensor, of_input: bool
) -> tuple[torch.Size, Arrangement | None] | None:
    """Return what was kept: the shape of the output without its samples, and the arrangement; or None."""
    kept = _arrangements.get(layer, {})
    found = kept.get(_key_of_arrangement(model, x, True, of_input))
    return found or kept.get(_key_of_arrangement(model, x, False, of_input))


def _key_of_arrangement(model: Model, x: Tensor, of_any_size: bool, of_input: bool) -> Any:
    """Return the key of a layer's arrangement; what is a feature map is one for inputs of any size."""
    sizes = x.ndim if of_any_size else (x.shape[1:], len(x) == 1)
    try:
        # A bound method is made anew each time it is looked up.
        key = ref(getattr(model, "__self__", model)), getattr(model, "__func__", None), sizes, of_input
        hash(key)
    except TypeError:
        return None
    return key


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return the module with a dotted name, or raise ValueError with similar names."""
    modules: dict[str, nn.Module] = {
        known: module for known, module in model.named_modules(remove_duplicate=False) if known
    }
    check_name("layer", name, modules)
    return modules[name]


def reference_tensor(model: nn.Module) -> Tensor | None:
    """Return a tensor with the type and device that a model's input must have; None if the model has no tensors."""
    return next((t for t in chain(model.parameters(), model.buffers()) if t.is_floating_point()), None)


def only_tensor(output: Any) -> tuple[int | None, Any]:
    """Return what a tuple holds beside None, such as a layer's output without attention weights, and where.

    What is no such tuple is returned as it is, with None.
    """
    if type(output) is tuple:
        places = [place for place, item in enumerate(output) if item is not None]
        if len(places) == 1:
            return places[0], output[places[0]]
    return None, output


class _Hook:
    """A forward hook that does nothing once its call is over; nor do its copies in copies of the model.

    If the model copies itself and runs the copy in the same pass, the copy's layer is recorded instead.
    """

    def __init__(self, function: Callable[..., Any] | None = None):
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return None if self.function is None else self.function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return self

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


@contextmanager
def hook_of_a_call(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Make a forward hook from a function for one call; copies of it in a copied model do nothing afterwards."""
    hook = _Hook(function)
    try:
        yield hook
    finally:
        hook.function = None


_ONLY_THE_ORIGINAL = (
    "traced, scripted and exported models run the code of their modules without calling them, so that only the "
    "original module can be explained"
)


def _what_runs(model: Model, layer: nn.Module) -> str:
    """Say what to do about a layer that did not run."""
    if isinstance(layer, torch.jit.ScriptModule):
        return _ONLY_THE_ORIGINAL
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, fx.GraphModule):
            called = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
            called = [name for name in called if not name.startswith("_")]  # torch.export's own
            if called:
                return f"of the modules in a graph choose one that it calls, such as {' or '.join(called[-3:])}"
            return _ONLY_THE_ORIGINAL
    return "choose one that does"


def check_not_quantised(model: Model) -> None:
    """Raise ValueError if a module is quantised: PyTorch cannot differentiate it."""
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        if ".nn.quantized." in type(module).__module__:
            raise ValueError(
                f"module {name!r} is quantised, and PyTorch does not differentiate quantised modules: explain the "
                "model as it was before"
            )


_told_to_be_in_training_mode: WeakSet[nn.Module] = WeakSet()
_telling = Lock()


def _warn_of_training_mode(model: nn.Module) -> None:
    with _telling:
        if model in _told_to_be_in_training_mode:
            return
        _told_to_be_in_training_mode.add(model)
    warnings.warn(
        f"this {type(model).__name__} is in training mode: it is explained in eval mode and then put back, so your "
        "own calls of it still use dropout and batch statistics; call model.eval() first, unless you "
        "are training it",
        stacklevel=stacklevel_of_the_caller(),
    )


def training_is_meant(model: nn.Module) -> None:
    """Do not warn that this model is in training mode: it is being trained."""
    with _telling:
        _told_to_be_in_training_mode.add(model)


@contextmanager
def undisturbed(model: Model, device: torch.device) -> Iterator[Interrupts]:
    """Run a model on `device` in eval mode and uncompiled, and restore modes and random states when done.

    Only one thread at a time runs a model. Interrupts (Ctrl-C) wait while state is restored; code that restores state
    before the end of the block calls `hold` on the yielded object.

    Warn if a model was in training mode: hosts put models in eval mode permanently, and scripts rely on it. A new
    wrapper in training mode around a model in eval mode does not count.
    """
    with Interrupts() as interrupts, lock_of(model), ExitStack() as stack:
        modules = model.modules() if isinstance(model, nn.Module) else ()
        training = [module for module in modules if module.training]
        if isinstance(model, nn.Module) and any(next(module.children(), None) is None for module in training):
            _warn_of_training_mode(model)
        devices = [device] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices, device_type="cuda"))
        stack.enter_context(NO_FAST_PATH.on())
        stack.enter_context(PLAIN_CODE.on())
        stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
        # The caller's own training step must not find weights in the cache that were cast under no-grad.
        torch.set_autocast_cache_enabled(False)
        for module in training:
            stack.callback(setattr, module, "training", True)
            module.training = False  # not eval(), which may be overridden, and would need train() to restore
        try:
            interrupts.let()
            yield interrupts
        finally:
            interrupts.hold()


def _make_utility(target: Target, utility: AnyUtility | None) -> Utility:
    if utility is None:
        return as_target(target)
    if isinstance(utility, Utility):
        return utility
    if target is not None:
        raise ValueError("give a target or a utility, not both: a function already says what is explained")
    if isinstance(utility, OutputTarget):
        return as_target(utility)
    return CustomUtility(utility) if callable(utility) else PerSampleUtility(utility)


def check_layers(model: Model, layers: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the layers as a list, or raise if one is not a module of the model, or the model calls no modules."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"the model is TorchScript: {_ONLY_THE_ORIGINAL}")
    if isinstance(model, torch.export.ExportedProgram):
        raise TypeError(f"an ExportedProgram has no modules to call: {_ONLY_THE_ORIGINAL}")
    for layer in layers:
        if not isinstance(layer, nn.Module):
            raise TypeError(f"the layer must be a torch.nn.Module of the model; got {layer!r}")
        if isinstance(model, nn.Module) and all(layer is not module for module in model.modules()):
            raise ValueError(
                f"the layer {type(layer).__name__} is not a module of this {type(model).__name__}: "
                "take it from the very model that is explained, not from a copy"
            )
    return list(layers)


def _check_one_value(values: Tensor) -> None:
    """Raise ValueError unless samples that share one output have one target."""
    if not torch.allclose(values, values[:1], equal_nan=True):
        raise ValueError(
            f"the model returned 1 output for {len(values)} samples, as for the frames of one video, and the samples "
            "have different targets: explain one target at a time"
        )


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list):
        return [_map_tensors(function, item) for item in value]
    if isinstance(value, dict):
        return {key: _map_tensors(function, item) for key, item in value.items()}
    return value


def _return(result: Any, *args: Any, **kwargs: Any) -> Any:
    return result


def _restore(module: nn.Module, name: str, value: Any) -> None:
    """Set an attribute of the instance again, or delete it if it had none."""
    vars(module).pop(name)
    if value is not None:
        vars(module)[name] = value


def _values(outputs: Any) -> Tensor:
    """Return all numbers in a model's output as one vector."""
    parts: list[Tensor] = []
    _map_tensors(lambda tensor: parts.append(tensor.flatten().double()) or tensor, outputs)  # type: ignore[func-returns-value]
    return torch.cat(parts) if parts else torch.zeros(0)


def _to_float(value: Any) -> Any:
    """Convert half precision, float16 and bfloat16, to float32."""

    def widen(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor

    return _map_tensors(widen, value)


def _name(model: Model, layer: nn.Module) -> str:
    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if module is layer:
                return repr(name or type(model).__name__)
    return type(layer).__name__
