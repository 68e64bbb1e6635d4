"""The settings of a run, declared once: arguments, flags, keys of YAML, types, defaults, help, what is compared."""

from __future__ import annotations

import dataclasses
import math
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cam_extras._catalogue import DEFAULT_METHODS, DEFAULT_METRICS
from cam_extras._names import Fusion, at_least, check_count
from cam_extras._options import check_fields, fits, hints_of


@dataclass(frozen=True)
class Setting:
    """What is known of a field of `RunConfig` besides its type and default.

    Args:
        help: for `--help`; the default is added to it.
        metavar: how a value is shown there.
        written: its type in flags and YAML, where Python may give an object instead.
        of_run: whether it is a setting of the run, and a key in YAML; others say how to start it.
        compared: whether results depend on it, so that it must be the same to resume a run.
        singular: another flag, which takes one value and may be repeated; if it has the setting's own name, it is the
            only one, and one value stands for itself.
        choices: values that have their own flags, and what they do.
    """

    help: str = ""
    metavar: str | None = None
    written: Any = None
    of_run: bool = True
    compared: bool = True
    singular: str = ""
    choices: tuple[tuple[str, str], ...] = ()


def _check_seed(name: str, value: object) -> None:
    check_count(name, value, least=0)
    if operator.index(value) >= 2**63:  # type: ignore[arg-type]
        raise ValueError(f"{name} must be less than 2**63; got {value}")


def _check_finite(name: str, value: object) -> None:
    if not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError(f"{name} must be finite; got {value}")


ALL_LABELS, _ABOVE = "all-labels", "above="


def is_by_label(target: object) -> bool:
    """Whether a target asks for one row for each image and label."""
    return isinstance(target, str) and (target == ALL_LABELS or target.startswith(_ABOVE))


def threshold_in(target: object) -> float | None:
    """Return P of the target "above=P"; None for another target.

    Raises:
        ValueError: P is not a number in [0, 1).

    >>> threshold_in("above=0.5"), threshold_in("label")
    (0.5, None)
    """
    if not isinstance(target, str) or not target.startswith(_ABOVE):
        return None
    try:
        threshold = float(target.removeprefix(_ABOVE))
    except ValueError:
        threshold = math.nan
    if not 0 <= threshold < 1:
        raise ValueError(f"the target above=P takes a probability, 0 <= P < 1, such as above=0.5; got {target!r:.80}")
    return threshold


_Methods = Sequence[str] | Mapping[str, Mapping[str, Any] | None]
PYTHON = Setting(of_run=False)  # an argument without a flag


@dataclass(frozen=True, kw_only=True, eq=False)
class RunConfig:
    """The settings of a run. `cam_extras.run.evaluate` describes each; once resolved, names become objects.

    Raises:
        TypeError: a setting has the wrong type.
        ValueError: a setting is out of range.
    """

    model: Annotated[
        Any,
        Setting(
            "torchvision model, or its weights file (NAME-HASH.pth); timm/NAME; hf/NAME (Hugging Face Hub) or hf/DIR "
            "(saved with save_pretrained); or FILE.py:FUNCTION or MODULE:FUNCTION that returns a model",
            "NAME|FILE",
            written=str,
        ),
    ]
    weights: Annotated[
        str | None, Setting("local weights file, used instead of a download", "FILE", compared=False)
    ] = None
    transform: Annotated[
        Any,
        Setting(
            "function that returns the image transform; default: that of the weights, or ImageNet's for a model of "
            "your own",
            "SOURCE:FUNCTION",
            written=str,
            compared=False,
        ),
    ] = None
    layer: Annotated[
        Any,
        Setting(
            "dotted name; auto is the last feature map before pooling; may be repeated: see --fusion",
            "NAME",
            written=str | Sequence[str],
            singular="layer",
        ),
    ] = "auto"
    fusion: Annotated[
        Fusion, Setting("how the maps of several layers become one; refine is their product", "mean|max|refine")
    ] = "mean"
    data: Annotated[
        Any,
        Setting(
            "folder (or one folder per class), CSV or Parquet with paths, or glob",
            "PATH|GLOB",
            written=str,
        ),
    ]
    methods: Annotated[
        Any,
        Setting(
            "names from `cam-extras list` or pytorch-grad-cam, such as FullGrad, or your own, FILE.py:CLASS; "
            "hyper-parameters follow a colon: OptiCAM:max_iterations=30,tolerance=0",
            "METHOD",
            written=_Methods,
            singular="method",
        ),
    ] = DEFAULT_METHODS
    metrics: Annotated[
        Any,
        Setting(
            "names or short names from `cam-extras list`, or your own, FILE.py:FUNCTION",
            "METRIC",
            written=Sequence[str],
            singular="metric",
        ),
    ] = DEFAULT_METRICS
    options: Annotated[
        Any, Setting("options of metrics, such as threshold=0.3 schedule=mi", "NAME=VALUE", written=Mapping[str, Any])
    ] = None
    target: Annotated[
        Any,
        Setting(
            "the class to explain; all-labels and above=P have one row for each image and label: for all labels of the "
            "data, or all classes with a probability above P",
            "predicted|label|CLASS|all-labels|above=P",
            written=str | int,
        ),
    ] = "predicted"
    against: Annotated[
        Any,
        Setting(
            "explain why the class and not this one: second is the best scored besides it",
            "second|label|CLASS",
            written=str | int,
        ),
    ] = None
    model_output: Annotated[
        Any,
        Setting(
            "where the class scores are in the model's output, if that is not plain: a key, an attribute or an index; "
            "or a function of it",
            "KEY|SOURCE:FUNCTION",
            written=str | int,
        ),
    ] = None
    confidence: Annotated[
        Any,
        Setting(
            "how class scores become probabilities; sigmoid is for labels of which any number may be true; or your own "
            "function, scores (N, C) -> (N, C)",
            "softmax|sigmoid|SOURCE:FUNCTION",
            written=str,
        ),
    ] = "softmax"
    output: Annotated[str | os.PathLike[str], Setting("the folder to write to", "DIR", written=str, compared=False)] = (
        "cam-extras-output/evaluate"
    )
    limit: Annotated[Annotated[int, at_least(1)] | None, Setting("use only the first N images", "N")] = None
    batch_size: Annotated[
        Literal["auto"] | Annotated[int, at_least(1)],
        Setting("images per batch; halved if memory runs out", "auto|N"),
    ] = "auto"
    images_per_part: Annotated[int, at_least(1), Setting("most images whose results an interruption loses", "N")] = 32
    device: Annotated[Any, Setting("default: cuda if available", "DEVICE", written=str)] = None
    engine: Annotated[Literal["local", "ray"], Setting("what runs the evaluation", compared=False)] = "local"
    workers: Annotated[int, at_least(1), Setting("for Ray: number of copies of the model", "N", compared=False)] = 1
    gpus_per_worker: Annotated[
        Annotated[float, _check_finite] | None,
        Setting("for Ray: may be a fraction; default: 1 on a GPU", "N", compared=False),
    ] = None
    address: Annotated[
        str | None,
        Setting("address of a running Ray cluster; default: start Ray on this machine", "ADDRESS", compared=False),
    ] = None
    seed: Annotated[int, _check_seed, Setting("seed of methods, metrics, bootstrap and random pictures", "N")] = 0
    maps: Annotated[bool, Setting("keep the maps in the results, as float16")] = False
    pictures: Annotated[
        int, at_least(0), Setting("number of best, worst and random images in the report, each", "N")
    ] = 8
    mode: Annotated[
        Literal["new", "resume", "overwrite"],
        Setting(
            of_run=False,
            choices=(
                ("resume", "continue the run in the folder"),
                ("overwrite", "replace the run in the folder"),
            ),
        ),
    ] = "new"
    retry_errors: Annotated[
        bool, Setting("with --resume: redo parts that have images without scores", of_run=False)
    ] = False
    insist: Annotated[
        bool,
        Setting(
            "resume even if images, functions or the model have changed, or if that cannot be checked; go on even if "
            "32 images in a row cannot be read",
            of_run=False,
        ),
    ] = False
    reshape_transform: Annotated[Any, PYTHON] = "auto"
    categories: Annotated[Any, PYTHON] = ()
    name: Annotated[str | None, PYTHON] = None
    settings: Annotated[Mapping[str, Any] | None, PYTHON] = None
    files: Annotated[Sequence[str], PYTHON] = ()
    progress: Annotated[bool | None, PYTHON] = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.retry_errors and self.mode != "resume":
            raise ValueError('retry_errors=True goes with mode="resume": there is nothing to retry without it')
        for field in fields(self):  # JSON has no NumPy integers
            value = getattr(self, field.name)
            if not isinstance(value, int) and fits(value, int):
                object.__setattr__(self, field.name, operator.index(value))

    def replaced(self, **changes: Any) -> RunConfig:
        """Return the configuration with other values for some settings."""
        return dataclasses.replace(self, **changes)

    def kept(self) -> dict[str, Any]:
        """Return the settings of the run as in YAML; none of them may be a Python object."""
        values = {name: getattr(self, name) for name, setting in known_settings().items() if setting.of_run}
        return {name: _plain(value) for name, value in values.items()}

    def compared(self, **described: Any) -> dict[str, Any]:
        """Return what results depend on, to compare when resuming: `described`, and all other settings as they are."""
        names = [name for name, setting in known_settings().items() if setting.of_run and setting.compared]
        return {name: described.get(name, getattr(self, name)) for name in names}


@cache
def known_settings() -> dict[str, Setting]:
    """Return the `Setting` of every field of `RunConfig`, by name."""
    return {
        name: next(part for part in get_args(hint) if isinstance(part, Setting))
        for name, hint in hints_of(RunConfig).items()
    }


@cache
def default_values() -> dict[str, Any]:
    """Return the default of every setting; None if it is required."""
    return {field.name: None if field.default is MISSING else field.default for field in fields(RunConfig)}


def written_type(name: str) -> Any:
    """Return the type of a setting in flags and YAML, without None: null, or no flag, stands for that."""
    annotation = known_settings()[name].written or hints_of(RunConfig)[name]
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if NoneType not in get_args(bare):
        return annotation
    return Union[tuple(part for part in get_args(bare) if part is not NoneType)]  # noqa: UP007


def types_of(annotation: Any) -> set[Any]:
    """Return the types that an annotation accepts."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return types_of(parts[0])
    if get_origin(annotation) in (Union, UnionType):
        return {kind for part in parts for kind in types_of(part)}
    return {get_origin(annotation) or annotation}


def _plain(value: Any) -> Any:
    """Turn sequences into lists and mappings into dicts."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
