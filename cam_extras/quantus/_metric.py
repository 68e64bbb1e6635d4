"""Base of all metric classes: a function of `cam_extras.metrics` behind the interface of Quantus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property
from inspect import Parameter, signature
from textwrap import fill, indent
from typing import Any, ClassVar

import numpy as np
import torch
from quantus.helpers import utils
from quantus.helpers.enums import DataType, EvaluationCategory, ModelType, ScoreDirection
from quantus.helpers.model.model_interface import ModelInterface
from quantus.metrics.base import Metric
from torch import Tensor, nn

from cam_extras._checks import SampleError, check_class_scores, check_finite, check_pixels
from cam_extras._options import bare
from cam_extras._outputs import Output, check_output, one_for_all, pick_output
from cam_extras.maps import normalise
from cam_extras.metrics import (
    METRICS,
    Curve,
    Explained,
    Quantities,
    as_options,
    options_of,
    probabilities,
    quantities_of,
    sources_of,
)
from cam_extras.metrics.base import Metric as Entry
from cam_extras.metrics.base import declared_options, kept_of
from cam_extras.metrics.options import option_lines
from cam_extras.metrics.probabilities import AnyConfidence, check_confidence
from cam_extras.quantus._explain import to_tensor


def _normalise_maps(attributions: np.ndarray) -> np.ndarray:
    """Turn attributions (N, C, *S) into maps (N, 1, *S) in [0, 1]: mean over channels, min-max per sample."""
    return normalise(_mean_over_channels(attributions)).numpy()[:, None]


def _normalise_absolute_maps(attributions: np.ndarray) -> np.ndarray:
    """Turn absolute attributions into maps. Quantus takes absolute values after normalising, which is too late here."""
    return _normalise_maps(np.abs(attributions))


def _mean_over_channels(attributions: np.ndarray) -> Tensor:
    values = to_tensor(attributions)
    return (values if values.is_floating_point() else values.float()).mean(dim=1)


def _no_explain_func(**kwargs: Any) -> np.ndarray:
    """Placeholder for the function that Quantus expects, if none was given."""
    raise ValueError("there is nothing to explain with: give an explain_func, not only an a_batch")


class MapMetric(Metric[list[float]]):
    """Base of the metric classes: computes what a function of `cam_extras.metrics` needs and calls it.

    A subclass names the function in `metric`. From its entry in `METRICS` it gets the options, with their defaults, in
    its signature, and `name`, `score_direction` and `evaluation_category`. `class_of` makes one.

    A sample's score does not depend on the batch it is in.

    Args:
        abs: take absolute values of the attributions, before the default `normalise_func`, or after your own: for
            signed attributions whose large negative values matter, such as gradients.
        normalise: turn the attributions into maps in [0, 1].
        normalise_func: how; by default mean over channels, then min-max per sample. Your own function must return
            values in [0, 1], and treat each sample separately if scores should not depend on the batch.
        normalise_func_kwargs: passed to `normalise_func`.
        return_aggregate: return one value for the whole set.
        aggregate_func: how; by default the mean over samples; for ADCC and HCI, computed from the means of their parts.
        default_plot_func: used by `plot`.
        disable_warnings: suppress warnings.
        display_progressbar: show progress.
        output: where the class scores are in the model's output: a key or attribute, an index, or a function of the
            output, see `cam_extras.probe.Probe`.
        confidence: how class scores become probabilities: "softmax", "sigmoid" for labels of which any number may be
            true, or a function, (N, C) -> (N, C). By default as the call's `softmax` says, which it overrides.
        options: options of the metric and of its parts, such as `fill`; `cam_extras.metrics.options_of` lists them.

    Attributes:
        options: options of the metric, a frozen dataclass.
        details: what the last call's scores were computed from, for plots; see the classes.
    """

    metric: ClassVar[str] = ""
    kept: ClassVar[tuple[str, ...]] = ()  # names of the quantities in `details`

    data_applicability = {DataType.IMAGE, DataType.TIMESERIES}  # noqa: RUF012  (as Quantus declares it)
    model_applicability = {ModelType.TORCH}  # noqa: RUF012

    def __init_subclass__(cls) -> None:
        """Take from the function's entry in `METRICS` what the class does not define itself."""
        if "metric" not in vars(cls) or cls.metric not in METRICS:
            return
        entry = METRICS[cls.metric]
        localises = entry.category == "localisation"
        told = {
            "name": entry.title_in_quantus or entry.title,
            "score_direction": ScoreDirection.HIGHER if entry.higher_is_better else ScoreDirection.LOWER,
            "evaluation_category": EvaluationCategory[entry.category.upper()],
            "data_applicability": {DataType.IMAGE} if localises else MapMetric.data_applicability,
            "kept": kept_of(entry.name),
            "__init__": _with_options(entry),
        }
        for name, value in told.items():
            if not any(name in vars(base) for base in cls.__mro__[: cls.__mro__.index(MapMetric)]):
                setattr(cls, name, value)

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = True,
        normalise_func: Callable[..., np.ndarray] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[list[float]], float] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        *,
        output: Output = None,
        confidence: AnyConfidence | None = None,
        **options: Any,
    ):
        """Make the metric. `score_direction` says whether higher or lower is better."""
        check_output(output)
        if confidence is not None:
            check_confidence(confidence)
        own = {name: options.pop(name) for name in self.option_names() if name in options}
        super().__init__(
            abs=abs,
            normalise=normalise,
            normalise_func=normalise_func or (_normalise_absolute_maps if abs else _normalise_maps),
            normalise_func_kwargs=normalise_func_kwargs,
            return_aggregate=return_aggregate,
            aggregate_func=aggregate_func or self.of_set,
            default_plot_func=default_plot_func,
            disable_warnings=disable_warnings,
            display_progressbar=display_progressbar,
            **options,  # which raises
        )
        if isinstance(own.get("fill"), np.ndarray):
            own["fill"] = to_tensor(own["fill"])
        self.options = as_options(own, [self.metric])
        self.details: dict[str, Any] = {}
        self._parts: list[dict[str, Tensor]] = []
        self._kept: list[dict[str, Any]] = []
        self._given: np.ndarray | None = None
        self.output, self.confidence = output, confidence
        self._confidence: AnyConfidence | None = None  # of the running call; None if the model returns probabilities

    def __repr__(self) -> str:
        """Show the class name and the options."""
        options = ", ".join(f"{field.name}={getattr(self.options, field.name)!r}" for field in fields(self.options))
        return f"{type(self).__name__}({options})"

    @classmethod
    def option_names(cls) -> list[str]:
        """Return the names of the metric's options, besides those of Quantus."""
        return options_of(cls.metric)

    def __call__(
        self,
        model: nn.Module,
        x_batch: np.ndarray,
        y_batch: np.ndarray,
        a_batch: np.ndarray | None = None,
        s_batch: np.ndarray | None = None,
        channel_first: bool | None = None,
        explain_func: Callable[..., np.ndarray] | None = None,
        explain_func_kwargs: dict[str, Any] | None = None,
        model_predict_kwargs: dict[str, Any] | None = None,
        softmax: bool | None = True,
        device: str | None = None,
        batch_size: int = 64,
        custom_batch: Sequence[np.ndarray] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        """Score explanations: one number per sample, or one in total with `return_aggregate`.

        Args:
            model: in eval mode.
            x_batch: inputs (N, C, *S), or (N, *S, C).
            y_batch: class indices (N,).
            a_batch: attributions (N, *S), or with one channel or the input's channels, in the input's layout; by
                default made by `explain_func`.
            s_batch: for localisation metrics, the object's masks, (N, 1, H, W) or (N, H, W), not 0 on the object.
            channel_first: whether channels come first; inferred if None.
            explain_func: (model, inputs, targets, **kwargs) -> attributions.
            explain_func_kwargs: passed to `explain_func`.
            model_predict_kwargs: passed to the model.
            softmax: whether to turn the model's output into probabilities, if the metric has no `confidence`. Also True
                for a model that ends in an `nn.Softmax` module, which Quantus detects; False for one that returns
                probabilities in another way.
            device: where to compute.
            batch_size: how many samples at a time.
            custom_batch: for metrics of localisation the object's boxes, instead of its masks: for each sample integers
                (B, 4) of xmin, ymin, xmax, ymax, the maximum exclusive.
            kwargs: none; others raise.

        Raises:
            ValueError: the inputs have no pixels, as tables have none; a map or confidence is undefined, not finite or
                outside [0, 1], or the object is missing; samples are named by their position in `x_batch`.
                `quantus.evaluate` prints the message and then fails with a KeyError.
            TypeError: attributions are no array; or counterfactual sensitivity needs an `explain_func` with channel
                weights.
        """
        self.details, self._parts, self._kept = {}, [], []
        if "object" in self.sources() and s_batch is None and custom_batch is None:
            raise ValueError(
                f"{self.name} compares maps with the object: give its masks as s_batch, of shape (N, 1, H, W), or its "
                "boxes as custom_batch, (B, 4) for each sample"
            )
        check_pixels(np.shape(x_batch))
        if channel_first is None:
            channel_first = utils.infer_channel_first(x_batch)
        if not channel_first:  # Quantus would move the axes of the inputs alone, and explain none of them
            size = x_batch.shape[1:-1]
            if a_batch is not None and a_batch.shape[1:-1] == size:
                a_batch = np.moveaxis(a_batch, -1, 1)
            if s_batch is not None and s_batch.shape[1:-1] == size:
                s_batch = np.moveaxis(s_batch, -1, 1)
            x_batch = np.moveaxis(x_batch, -1, 1)
        self._confidence = self.confidence
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        if self._confidence is None and softmax and modules and not isinstance(modules[-1], nn.Softmax):
            self._confidence = "softmax"  # in float32, as Quantus has it, it reaches 1 too soon
        self._given = a_batch
        scores: list[float] = super().__call__(
            model=model,
            x_batch=x_batch,
            y_batch=y_batch,
            a_batch=None,  # see custom_preprocess
            s_batch=s_batch,
            channel_first=True,
            explain_func=_no_explain_func if explain_func is None else explain_func,
            explain_func_kwargs=dict(explain_func_kwargs or {}),  # a copy: Quantus adds the device
            model_predict_kwargs=model_predict_kwargs,
            softmax=softmax and self._confidence is None,
            device=device,
            batch_size=batch_size,
            custom_batch=custom_batch,
            **kwargs,
        )
        return scores

    def custom_preprocess(
        self, *, model: Any, x_batch: np.ndarray, y_batch: np.ndarray, **data: Any
    ) -> dict[str, Any] | None:
        """Turn the given attributions into maps, or explain batch by batch.

        Quantus' own methods for both are final, and reject attributions that are all constant.
        """
        given, self._given = self._given, None
        if given is not None:
            return {"a_batch": self._maps_of(given, x_batch)}
        return {"a_batch": _Lazy(self, model, x_batch, y_batch)}

    def explained(self, model: Any, x_batch: np.ndarray, y_batch: np.ndarray) -> np.ndarray:
        """Explain a batch and turn its attributions into maps; unlike `explain_batch`, also if all are constant."""
        if isinstance(model, ModelInterface):
            unwrap: Callable[[], Any] = model.get_model
            model = unwrap()
        attributions = self.explain_func(model=model, inputs=x_batch, targets=y_batch, **self.explain_func_kwargs)
        return self._maps_of(attributions, x_batch)

    def _maps_of(self, attributions: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Turn attributions (N, *S), (N, 1, *S) or (N, C, *S) into the form in which they are scored."""
        if not isinstance(attributions, np.ndarray):
            raise TypeError(f"attributions must be a numpy array; got {type(attributions).__name__}")
        forms = [(len(x), *channels, *x.shape[2:]) for channels in ((), (1,), x.shape[1:2])]
        if attributions.shape not in forms:
            raise ValueError(
                f"expected attributions of shape {' or '.join(map(str, dict.fromkeys(forms)))} for inputs of shape "
                f"{x.shape}; got {attributions.shape}"
            )
        if attributions.shape == forms[0]:
            attributions = attributions[:, None]
        if self.normalise and self.normalise_func is not None:
            attributions = self.normalise_func(attributions.copy())  # some of Quantus' work in place
        return np.abs(attributions) if self.abs else attributions

    @classmethod
    def sources(cls) -> set[str]:
        """Return what the metric needs besides the model and maps, see `cam_extras.metrics.sources_of`."""
        return sources_of(cls.metric)

    def evaluate_batch(
        self,
        model: Any,
        x_batch: np.ndarray,
        y_batch: np.ndarray,
        a_batch: np.ndarray,
        s_batch: np.ndarray | None = None,
        custom_batch: Sequence[np.ndarray] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        """Score one batch of explanations."""
        x = to_tensor(x_batch, torch.float32)  # what Quantus feeds to the model
        shown = getattr(self.options, "fill", 0.0)
        if isinstance(shown, Tensor) and shown.ndim == x.ndim and len(shown) > 1:
            raise ValueError(f"fill must be the same for every sample; got shape {tuple(shown.shape)}")
        known: dict[str, Any] = {}
        if "object" in self.sources():
            if s_batch is not None:
                known["masks"] = _object_masks(s_batch, x)
            if custom_batch is not None:
                known["boxes"] = [to_tensor(boxes) for boxes in custom_batch]
        with _counting(sum(len(batch[self.metric]) for batch in self._parts)):
            explained = _Explained(self, model, x, y_batch, _mean_over_channels(a_batch))
            quantities = Quantities(explained, self.options, **known)
            scores = quantities.scores([self.metric])
        self._parts.append(scores)
        self._kept.append({name: quantities[name] for name in self.kept})
        if METRICS[self.metric].vector is not None:
            return [0.0] * len(x)  # replaced when the whole set is scored
        return scores[self.metric].tolist()

    def custom_postprocess(self, **data: Any) -> None:
        """Join the details of all batches, and the scores if a sample has several."""
        self.details = {name: _together([batch[name] for batch in self._kept]) for name in self.kept}
        self._kept = []
        vector = METRICS[self.metric].vector
        if vector is not None:
            self.details["hits"] = _together([batch[self.metric] for batch in self._parts])
            self.evaluation_scores = vector.of_samples(self.details["hits"]).tolist()

    def of_set(self, scores: list[float]) -> float:
        """Return the value of the set evaluated last; for ADCC and HCI, computed from the means of their parts."""
        parts = {name: torch.cat([batch[name] for batch in self._parts]) for name in self._parts[0]}
        return METRICS[self.metric].of_set(parts)

    def channel_weights(self, model: nn.Module, x: Tensor, y: np.ndarray) -> Tensor:
        """Return the channel weights that the call's explain function gives for inputs, shape (N, K)."""
        if self.explain_func is _no_explain_func:
            _no_explain_func()
        function = getattr(self.explain_func, "channel_weights", None)
        if function is None:
            raise TypeError(
                f"{self.name} looks at channel weights, which this explain_func does not have: give one made by "
                "cam_extras.quantus.explain of a method that weighs channels, such as GradCAM or MIGradCAM"
            )
        return to_tensor(function(model=model, inputs=x.clone().numpy(), targets=y, **self.explain_func_kwargs))


def class_of(entry: Entry, module: str) -> type[MapMetric]:
    """Make the class of a metric, as a member of a module."""
    return type(entry.class_name, (MapMetric,), {"metric": entry.name, "__doc__": _doc_of(entry), "__module__": module})


def _doc_of(entry: Entry) -> str:
    """Document what is specific to a class."""
    paragraphs = [f"{entry.title}: see `cam_extras.metrics.{entry.name}`."]
    if "masked_maps" in quantities_of(entry.name) or "weights" in sources_of(entry.name):
        paragraphs.append("It also explains modified inputs, so it needs an `explain_func`.")
    if entry.of_means:
        paragraphs.append(
            f"Scores are per sample. `return_aggregate=True` gives the {entry.title} of the means of the parts, which "
            "the papers' tables print; with `aggregate_func=numpy.mean` the mean of the per-sample values."
        )
    if entry.vector is not None:
        paragraphs.append(
            "The score of a sample is one number, which depends on the whole set; `return_aggregate=True` gives their "
            "mean. After a call `details['hits']` has all numbers, (N, ...)."
        )
    if kept := kept_of(entry.name):
        named = " and ".join(f"`details[{name!r}]`" for name in kept)
        paragraphs.append(f"After a call {named} {'is' if len(kept) == 1 else 'are'} what the scores are made of.")
    if lines := option_lines([entry.name]):
        paragraphs.append("\n".join(["Args:", *(f"    {line}" for line in lines)]))
    first, *others = (_wrapped(part) for part in paragraphs)
    return "\n\n".join([first, *(indent(other, "    ") for other in others)]) + ("\n    " if others else "")


def _wrapped(paragraph: str) -> str:
    """Wrap lines as in this package's code, with a hanging indent for arguments."""
    lines = paragraph.split("\n")
    return "\n".join(fill(line, 112, subsequent_indent="        " if line.startswith(" ") else "") for line in lines)


def _with_options(entry: Entry) -> Callable[..., None]:
    """Return an `__init__` whose signature shows the options of a metric."""

    def __init__(self: MapMetric, *args: Any, **kwargs: Any) -> None:
        MapMetric.__init__(self, *args, **kwargs)

    quantus = [p for p in signature(MapMetric.__init__).parameters.values() if p.kind != Parameter.VAR_KEYWORD]
    options = [
        Parameter(option.name, Parameter.KEYWORD_ONLY, default=option.default, annotation=bare(option.annotation))
        for option in declared_options([entry.name]).values()
    ]
    __init__.__doc__ = MapMetric.__init__.__doc__
    __init__.__signature__ = signature(MapMetric.__init__).replace(parameters=[*quantus, *options])  # type: ignore[attr-defined]
    return __init__


@contextmanager
def _counting(first: int) -> Iterator[None]:
    """Name samples by their position in the data, not in the batch, which begins with sample `first`."""
    try:
        yield
    except SampleError as error:
        raise error.counted_from(first) from error


class _Lazy(Sequence[Any]):
    """The maps of all inputs; a slice is explained when Quantus takes it for a batch."""

    def __init__(self, metric: MapMetric, model: Any, x: np.ndarray, y: np.ndarray):
        self._metric, self._model, self._x, self._y = metric, model, x, y

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, part: Any) -> Any:
        with _counting(part.start):
            return self._metric.explained(self._model, self._x[part], self._y[part])


class _Explained(Explained):
    """A batch from Quantus, for `Quantities`. It passes on copies, since callees may work in place."""

    def __init__(self, metric: MapMetric, model: Any, x: Tensor, y: np.ndarray, maps: Tensor | None = None):
        self.x, self.target = x, to_tensor(y)
        self._metric, self._model, self._y, self._maps = metric, model, y, maps

    @cached_property
    def probabilities(self) -> Tensor:
        return self.probabilities_of(self.x)

    @cached_property
    def maps(self) -> Tensor:
        if self._maps is not None:
            return self._maps
        return _mean_over_channels(self._metric.explained(self._model, self.x.clone().numpy(), self._y))

    @cached_property
    def channel_weights(self) -> Tensor:
        return self._metric.channel_weights(self._model.get_model(), self.x, self._y)

    def at(self, x: Tensor) -> Explained:
        return _Explained(self._metric, self._model, x, self._y)

    def probabilities_of(self, images: Tensor) -> Tensor:
        scores = _class_scores(self._model, images, self._metric.output)
        if self._metric._confidence is not None:
            return probabilities(scores, self._metric._confidence)
        check_class_scores(scores)
        given: Tensor = scores.double()
        return given


def _class_scores(interface: Any, images: Tensor, output: Output) -> Any:
    """Return the class scores of images, as Quantus' `predict` does for models that return a tensor."""
    model = interface.get_model()
    if not isinstance(model, nn.Module) or model.training:  # which raises
        return torch.from_numpy(interface.predict(images.clone().numpy()))
    with torch.no_grad():
        adjusted = interface.get_softmax_arg_model()
        returned = adjusted(images.clone().to(interface.device), **interface.model_predict_kwargs)
    scores, shared = pick_output(returned, len(images), output)
    if shared:
        raise one_for_all(len(images), "a data set for Quantus has separate images")
    return scores.cpu() if isinstance(scores, Tensor) else scores


def _object_masks(s_batch: np.ndarray, x: Tensor) -> Tensor:
    """Return masks (N, 1, *S) or (N, *S) of numbers as booleans (N, *S)."""
    masks = to_tensor(s_batch)
    check_finite("the mask of the object", masks)
    masks = masks != 0
    if masks.ndim == x.ndim and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.shape != (len(x), *x.shape[2:]):
        raise ValueError(
            f"expected masks s_batch of shape {(len(x), 1, *x.shape[2:])} for inputs of shape {tuple(x.shape)}; "
            f"got {s_batch.shape}"
        )
    return masks


def _together(batches: list[Any]) -> Any:
    if isinstance(batches[0], Curve):
        return Curve(batches[0].fractions, torch.cat([curve.scores for curve in batches]))
    return torch.cat(batches)
