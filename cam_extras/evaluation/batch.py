"""Methods x metrics on one batch: the input's forward pass serves all methods, a masked one all metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from cam_extras._checks import check_class_scores
from cam_extras.maps import input_map
from cam_extras.methods import Method
from cam_extras.metrics import METRICS, Quantities
from cam_extras.probe import Model, Probe
from cam_extras.scores import Softmax


@dataclass(frozen=True)
class Evaluation:
    """What came out for one batch.

    Attributes:
        target: the class explained, shape (N,).
        predicted: the class predicted, shape (N,).
        confidence: softmax probability of the class explained, shape (N,).
        maps: for each method its maps (N, *S), in [0, 1].
        scores: for each method and metric the scores (N,).
    """

    target: Tensor
    predicted: Tensor
    confidence: Tensor
    maps: dict[str, Tensor]
    scores: dict[str, dict[str, Tensor]]

    def of_set(self) -> dict[str, dict[str, float]]:
        """Return for each method and metric the value of the whole set."""
        return {
            method: {name: METRICS[name].of_set(scores) for name in scores} for method, scores in self.scores.items()
        }


def evaluate_batch(
    model: Model,
    layer: nn.Module,
    x: Tensor,
    methods: Mapping[str, Method],
    metrics: Iterable[str],
    *,
    target: int | Sequence[int] | Tensor | None = None,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    fill: float | Tensor = 0.0,
    on_progress: Callable[[str], None] = lambda method: None,
) -> Evaluation:
    """Explain a batch with every method and score it with every metric.

    Costs one forward pass for the batch and, for each method, one of x*H and one of x*(1-H) where a metric asks.

    Args:
        model: the model, left as found.
        layer: the layer to explain.
        x: the batch, shape (N, C, *S).
        methods: by name.
        metrics: keys of `cam_extras.metrics.METRICS`.
        target: the class to explain, or one for each sample; by default the predicted class.
        reshape_transform: see `Probe`.
        fill: what stands where a map is 0, see `cam_extras.maps.mask`.
        on_progress: called with the name of each method when it is done.

    Raises:
        TypeError: see `Probe`.
        ValueError: see `Probe`; or the model does not return scores of two or more classes; or a map or score is
            undefined: samples are named.
    """
    probe = Probe(
        model,
        layer,
        x,
        target=target,
        reshape_transform=reshape_transform,
        second_order=any(method.second_order for method in methods.values()),
    )
    size = tuple(x.shape[2:])
    metrics = list(metrics)
    confidence = _confidence(probe)
    maps, scores = {}, {}
    for name, method in methods.items():
        maps[name] = input_map(method(probe), size)
        shared = _SharedProbes(probe)
        quantities = Quantities(
            probe.x,
            maps[name],
            confidence=lambda y, at=shared.at: _confidence(at(y)),  # type: ignore[misc]
            explain=lambda y, at=shared.at, method=method: input_map(method(at(y)), size),  # type: ignore[misc]
            fill=fill,
        )
        scores[name] = quantities.scores(metrics)
        on_progress(name)
    return Evaluation(probe.target, probe.outputs.argmax(dim=1), confidence, maps, scores)


def _confidence(probe: Probe) -> Tensor:
    """Return the softmax probability of the class explained, in float64: in float32 it reaches 1 too soon."""
    check_class_scores(probe.outputs)
    return Softmax(probe.target)(probe.outputs.double())


class _SharedProbes:
    """Probes at other inputs, one for each: the confidence and the map of a masked input share a forward pass."""

    def __init__(self, probe: Probe):
        self._probe = probe
        self._known: list[tuple[Tensor, Probe]] = [(probe.x, probe)]

    def at(self, y: Tensor) -> Probe:
        for x, probe in self._known:
            if x is y:
                return probe
        self._known.append((y, self._probe.at(y)))
        return self._known[-1][1]
