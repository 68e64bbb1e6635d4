"""Methods x metrics on a batch: methods share the input's forward pass, metrics share those of masked inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cam_extras._checks import SampleError, stacklevel_of_the_caller
from cam_extras._inputs import check_layer_is_named
from cam_extras._names import Fusion
from cam_extras._outputs import Output, check_output, one_for_all
from cam_extras.fusion import check_fusion, fused_maps
from cam_extras.layers import as_layers, settle
from cam_extras.methods import Method, as_methods, channel_weights
from cam_extras.methods.base import controls_of
from cam_extras.metrics import (
    DEFAULT_METRICS,
    METRICS,
    Curve,
    Explained,
    Quantities,
    as_metrics,
    as_options,
    options_of,
    probabilities,
    sources_of,
    win_percentage,
)
from cam_extras.metrics.probabilities import AnyConfidence, check_confidence
from cam_extras.probe import Model, Probe, ReshapeTransform
from cam_extras.utilities import PerSampleUtility, TargetUtility, as_classes, as_target, select_class


@dataclass(frozen=True)
class Evaluation:
    """The results for one batch.

    Attributes:
        target: the class explained, shape (N,); 0 for a target that is no class of the image, such as a box.
        predicted: the class predicted, shape (N,), or 0.
        confidence: probability of the class explained, shape (N,), or the target's own confidence.
        maps: maps (N, *S) of each method, in [0, 1].
        scores: scores (N,) of each method and metric, (N, T, D) for box accuracy; metrics that compare methods leave
            out controls.
        curves: insertion and deletion curves of each method, if metrics needed them.
        weights: channel weights (N, K) of each method for x and its counterfactual, `weights` and
            `counterfactual_weights`, if metrics needed them.
        controls: the methods that are controls, see `cam_extras.methods.Method.control`.
        classes: the number of classes of the model; None for a target that is no class.
    """

    target: Tensor
    predicted: Tensor
    confidence: Tensor
    maps: dict[str, Tensor]
    scores: dict[str, dict[str, Tensor]]
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    classes: int | None = None

    def of_set(self) -> dict[str, dict[str, float]]:
        """Return the value of the whole set for each method and metric.

        >>> evaluator(x).of_set()["GradCAM"]["adcc"]  # doctest: +SKIP
        """
        return {
            method: {name: METRICS[name].of_set(scores) for name in scores} for method, scores in self.scores.items()
        }

    def win_percentage(self, metric: str = "average_drop") -> dict[str, float]:
        """Return for each method the share of samples on which it has the best score; ties are shared.

        Controls do not compete: a win of theirs means nothing.

        Raises:
            ValueError: there are fewer than two methods that are not controls.
        """
        competing = _competing(self.scores, self.controls)
        drops = torch.stack([self.scores[name][metric] for name in competing])
        wins = win_percentage(-drops if METRICS[metric].higher_is_better else drops)
        return dict(zip(competing, wins.mean(dim=1).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Explains batches with every method and scores the maps with every metric; forward passes are shared.

    A batch costs one forward pass, and further ones for each method if a metric needs them: one of x*H, for its
    confidence and its map together; one of x*(1-H); one of the pixels above the threshold; one for each point of the
    insertion and deletion curves; one of the counterfactual. An image filled with `fill` is run once for all batches,
    so the model must not change while an evaluator is in use.

    Args:
        model: the model, left as found.
        layer: the layer to explain: a module, its dotted name, or "auto" for the last feature map before pooling, found
            at the first call; or a list of layers, which share all passes and whose maps become one, see `fusion`.
        methods: one or several: names, classes, instances, or a mapping from your own names to these, see
            `cam_extras.methods.as_methods`.
        metrics: a name in `cam_extras.metrics.METRICS`, or a list of them; case does not matter, and short names work.
            By default those that need neither object locations nor channel weights, at four forward passes per method.
        options: options of the metrics, {"threshold": 0.7}, or the options dataclass of one, see
            `cam_extras.metrics.as_options`. A method with its own `fill`, such as Opti-CAM, should use the same;
            otherwise there is a warning.
        reshape_transform: see `Probe`.
        output: where the class scores are in the model's output, see `Probe`.
        confidence: how class scores become probabilities: "softmax", "sigmoid" for labels of which any number may be
            true, or a function, (N, C) -> (N, C); see `cam_extras.metrics.probabilities`.
        fusion: how the maps of several layers become one: "mean", "max", or "refine", their product; see
            `cam_extras.fusion`. Of one layer it has no effect.

    Raises:
        ValueError: there is no metric of that name, or no such option, confidence or fusion; or a metric compares
            methods, and fewer than two are not controls; or a metric compares channel weights, and there are several
            layers.
        TypeError: a metric needs channel weights and a method has none; or methods or layer have the wrong type.

    >>> evaluator = Evaluator(model, model.layer4, {"GradCAM": GradCAM()})  # doctest: +SKIP
    >>> evaluator(x).of_set()["GradCAM"]["adcc"]  # doctest: +SKIP
    """

    model: Model
    layer: Any
    methods: Any
    metrics: str | Sequence[str] = DEFAULT_METRICS
    options: Any = None
    reshape_transform: ReshapeTransform = "auto"
    output: Output = None
    confidence: AnyConfidence = "softmax"
    fusion: Fusion = "mean"

    _nothing: dict[tuple[object, ...], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", as_methods(self.methods))
        object.__setattr__(self, "metrics", as_metrics(self.metrics))
        object.__setattr__(self, "options", as_options(self.options, self.metrics))
        check_output(self.output)
        check_confidence(self.confidence)
        if not callable(self.model):
            raise TypeError(f"the model must be a torch.nn.Module or another callable; got {self.model!r:.80}")
        check_fusion(self.fusion)
        self._set_layers(as_layers(self.model, self.layer))
        if any(METRICS[name].of_methods for name in self.metrics):
            _competing(self.methods, controls_of(self.methods))
        of_weights = [name for name in self.metrics if "weights" in sources_of(name)]
        if of_weights:
            if isinstance(self.layer, list):
                raise ValueError(
                    f"{', '.join(of_weights)} compares the weights of one layer's channels, and there are "
                    f"{len(self.layer)} layers: give one layer, or leave the metric out"
                )
            for method in self.methods.values():
                channel_weights(method)
        if any("fill" in options_of(name) for name in self.metrics):
            self._check_fills()

    def _set_layers(self, layers: Sequence[Any]) -> None:
        object.__setattr__(self, "layer", layers[0] if len(layers) == 1 else list(layers))

    def _check_fills(self) -> None:
        """Warn of methods that optimise for another mask than the metrics show."""
        for name, method in self.methods.items():
            fill = getattr(method, "fill", self.options.fill)
            if (torch.as_tensor(fill).cpu() != torch.as_tensor(self.options.fill).cpu()).any():
                warnings.warn(
                    f"{name} optimises its maps for fill={fill}, and metrics mask with fill={self.options.fill}: it is "
                    "likely to score far below what it can; give both the same",
                    stacklevel=stacklevel_of_the_caller(),
                )

    def __call__(
        self,
        x: Tensor,
        target: Any = None,
        *,
        boxes: Sequence[Tensor] | None = None,
        masks: Tensor | None = None,
        frames: bool = True,
        additional_forward_args: tuple[Any, ...] = (),
        additional_forward_kwargs: Mapping[str, Any] | None = None,
        on_progress: Callable[[str], None] = lambda method: None,
    ) -> Evaluation:
        """Evaluate one batch.

        Args:
            x: the batch, shape (N, C, *S).
            target: the class to explain, or one per sample; by default the predicted class. Or host targets that name
                the class they read, such as pytorch-grad-cam's `ClassifierOutputTarget(3)`; or one of
                `cam_extras.targets`, for every sample, or a list with one for each. For a `Contrast` the metrics
                measure the probability of its class, for the others their own confidence.
            boxes: the object's boxes, (B, 4) for each sample, see `cam_extras.metrics.localisation`.
            masks: the object's boolean masks (N, H, W).
            frames: whether a model may return one row for the whole batch, as the score of all its images, which are
                the frames of a video or views of one thing; otherwise that is an error.
            additional_forward_args: passed to the model after x, see `Probe`.
            additional_forward_kwargs: passed to the model by name.
            on_progress: called with the name of each method when it is done.

        Raises:
            TypeError: see `Probe`.
            ValueError: see `Probe`; or the model does not return scores of two or more classes; or a metric needs boxes
                or masks; or a map or score is undefined: method and samples are named.
        """
        asked = as_target(target)
        if not asked.output_targets:
            asked = TargetUtility(as_classes(asked))
        layers = as_layers(self.model, self.layer)
        check_layer_is_named(layers, additional_forward_args or additional_forward_kwargs)
        settled = settle(self.model, layers, x, self.reshape_transform, self.output)
        self._set_layers(settled)
        probe, *_ = Probe.several(
            self.model,
            settled,
            x,
            utility=asked,
            reshape_transform=self.reshape_transform,
            additional_forward_args=additional_forward_args,
            additional_forward_kwargs=additional_forward_kwargs,
            second_order=any(method.second_order for method in self.methods.values()),
            output=self.output,
        )
        if probe.shares_output and not frames:
            raise one_for_all(len(x), "a data set has separate images")
        controls = tuple(controls_of(self.methods))
        own = _own_confidence(probe)
        found = self._confidence(probe) if own is None else _confidence_in(own, probe.outputs)
        result = Evaluation(*found, {}, {}, controls=controls, classes=probe.outputs.shape[1] if own is None else None)
        for name, method in self.methods.items():
            explained = _Explained(probe, method, self.fusion, self.confidence, self._nothing)
            try:
                quantities = Quantities(explained, self.options, boxes=boxes, masks=masks)
                result.scores[name] = quantities.scores(self.metrics)
            except SampleError as error:
                raise SampleError(f"{name}: {error.wrong}", error.samples, error.todo) from error
            result.maps[name] = explained.maps
            result.curves[name] = quantities.known("insertion_curve", "deletion_curve")
            result.weights[name] = quantities.known("weights", "counterfactual_weights")
            on_progress(name)
        for metric in (METRICS[name] for name in self.metrics if METRICS[name].of_methods):
            competing = _competing(result.scores, controls)
            needed = [torch.stack([result.scores[name][need] for name in competing]) for need in metric.needs]
            options = {option: getattr(self.options, option) for option in metric.options}
            for name, scores in zip(competing, metric.function(*needed, **options), strict=True):
                result.scores[name][metric.name] = scores
        return result

    def _confidence(self, probe: Probe) -> tuple[Tensor, Tensor, Tensor]:
        """Return the classes explained and predicted, and the probability of the one explained, shape (N,) each."""
        p = probabilities(probe.outputs, self.confidence)
        return probe.target, probe.outputs.argmax(dim=1), select_class(p, probe.target)


class _Explained(Explained):
    """A probe and a method; everything computed from them shares the probe's forward pass, of all its layers."""

    def __init__(
        self,
        probe: Probe,
        method: Method,
        fusion: Fusion,
        confidence: AnyConfidence,
        nothing: dict[tuple[object, ...], Tensor],
    ):
        self._own = _own_confidence(probe)  # then there is one column, and its number is the class
        self.x, self.of_frames = probe.x, probe.shares_output
        self.target = probe.target if self._own is None else _nothing(self.x)
        self._probe, self._method, self._fusion = probe, method, fusion
        self._confidence, self._nothing = confidence, nothing

    @cached_property
    def probabilities(self) -> Tensor:
        return self._read(self._probe.outputs)

    def _read(self, outputs: Any, samples: Tensor | None = None) -> Tensor:
        if self._own is None:
            return probabilities(outputs, self._confidence)
        own = self._own if samples is None else self._own.of_samples(samples)
        return own.confidence(outputs)[:, None]

    @cached_property
    def maps(self) -> Tensor:
        return fused_maps(self._method, self._probe, self._fusion)

    @cached_property
    def channel_weights(self) -> Tensor:
        return channel_weights(self._method)(self._probe)

    def at(self, x: Tensor) -> Explained:
        return _Explained(self._probe.at(x), self._method, self._fusion, self._confidence, self._nothing)

    def probabilities_of(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self._read(self._probe.run(images))

    def probabilities_of_samples(self, images: Tensor, samples: Tensor) -> Tensor:
        if not self._probe.divisible:
            raise ValueError(
                "this metric runs the model on some samples at a time, and it is not clear which additional forward "
                "arguments are theirs: give tensors with one row per sample"
            )
        with torch.no_grad():
            return self._read(self._probe.run(images, samples), samples)

    def probabilities_of_nothing(self, image: Tensor) -> Tensor:
        if self._own is not None or self._probe.other_inputs:  # it is another number for each sample
            return self.probabilities_of(image.expand(self.x.shape))
        nothing = image.expand(self.x.shape) if self.of_frames else image
        key = (nothing.shape, image.dtype, image.device)
        if key not in self._nothing:
            self._nothing[key] = self.probabilities_of(nothing)[: len(image)]
        return self._nothing[key]


def _competing(methods: Iterable[str], controls: Collection[str]) -> list[str]:
    """Return the methods that are compared, without controls."""
    competing = [name for name in methods if name not in controls]
    if len(competing) < 2:
        raise ValueError(f"expected two or more methods that are no controls; got {', '.join(competing) or 'none'}")
    return competing


def _own_confidence(probe: Probe) -> PerSampleUtility | None:
    """Return what tells the confidence if it is not the probability of a class.

    Raises:
        TypeError: some targets are classes, and some are not.
    """
    utility = probe.settled_utility
    if not isinstance(utility, PerSampleUtility):
        return None
    if utility.has_confidence:
        return utility
    if utility.target is None:
        raise TypeError(f"the targets of a batch must all be class targets, or all tell a confidence; got {utility!r}")
    return None


def _confidence_in(own: PerSampleUtility, outputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return what stands for the classes explained and predicted, and the targets' own confidence, shape (N,) each."""
    confidence = own.confidence(outputs)
    return _nothing(confidence), _nothing(confidence), confidence


def _nothing(values: Tensor) -> Tensor:
    """Return 0 for every sample."""
    return torch.zeros(len(values), dtype=torch.long, device=values.device)
