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
from cam_extras._names import at_least, check_count
from cam_extras._options import check_fields, fits, hints_of


@dataclass(frozen=True)
class Setting:
    """What there is to a field of `RunConfig` beside its type and its default.

    Args:
        help: for `--help`; the default is added to it.
        metavar: how a value is shown there.
        written: the type of what flags and YAML have for it, where Python may give an object instead.
        of_run: whether it is a setting of the run, and a key of YAML; others say how it is started.
        compared: whether results depend on it, so that a run is resumed with the same alone.
        singular: another flag, which takes one value and may be repeated.
        choices: values that are flags of their own, and what they do.
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


_Methods = Sequence[str] | Mapping[str, Mapping[str, Any] | None]
PYTHON = Setting(of_run=False)  # an argument that has no flag


@dataclass(frozen=True, kw_only=True, eq=False)
class RunConfig:
    """The settings of a run. `cam_extras.run.evaluate` says what each is; a resolved one has objects for names.

    Raises:
        TypeError: a setting is of another type.
        ValueError: a setting is out of its range.
    """

    model: Annotated[
        Any,
        Setting(
            "torchvision model; timm/NAME; its weights file (NAME-HASH.pth); or FILE.py:FUNCTION or MODULE:FUNCTION, "
            "which returns a model",
            "NAME|FILE",
            written=str,
        ),
    ]
    weights: Annotated[
        str | None, Setting("local weights, instead of those that are downloaded", "FILE", compared=False)
    ] = None
    transform: Annotated[
        Any,
        Setting(
            "returns what makes an input of an image; default: the weights' own, or for a model of your own that of "
            "ImageNet",
            "SOURCE:FUNCTION",
            written=str,
            compared=False,
        ),
    ] = None
    layer: Annotated[Any, Setting("dotted name; auto is the last feature map before pooling", "NAME", written=str)] = (
        "auto"
    )
    data: Annotated[
        Any, Setting("folder (of folders, one a class), CSV or Parquet with paths, or glob", "PATH|GLOB", written=str)
    ]
    methods: Annotated[
        Any,
        Setting(
            "of `cam-extras list`, also pytorch-grad-cam's, such as ScoreCAM, or your own, FILE.py:CLASS; with "
            "hyper-parameters as OptiCAM:max_iterations=30,tolerance=0",
            "METHOD",
            written=_Methods,
            singular="method",
        ),
    ] = DEFAULT_METHODS
    metrics: Annotated[
        Any,
        Setting(
            "names or short names of `cam-extras list`, or your own, FILE.py:FUNCTION",
            "METRIC",
            written=Sequence[str],
            singular="metric",
        ),
    ] = DEFAULT_METRICS
    options: Annotated[
        Any, Setting("of metrics, such as threshold=0.3 schedule=mi", "NAME=VALUE", written=Mapping[str, Any])
    ] = None
    target: Annotated[Any, Setting("the class to explain", "predicted|label|CLASS", written=str | int)] = "predicted"
    output: Annotated[str | os.PathLike[str], Setting("the folder to write to", "DIR", written=str, compared=False)] = (
        "cam-extras-output/evaluate"
    )
    limit: Annotated[Annotated[int, at_least(1)] | None, Setting("the first N images only", "N")] = None
    batch_size: Annotated[
        Literal["auto"] | Annotated[int, at_least(1)],
        Setting("images at a time; halved where memory runs out", "auto|N"),
    ] = "auto"
    images_per_part: Annotated[int, at_least(1), Setting("most images that an interruption costs", "N")] = 32
    device: Annotated[Any, Setting("default: cuda where there is one", "DEVICE", written=str)] = None
    engine: Annotated[Literal["local", "ray"], Setting("what does the work", compared=False)] = "local"
    workers: Annotated[int, at_least(1), Setting("of Ray: copies of the model", "N", compared=False)] = 1
    gpus_per_worker: Annotated[
        Annotated[float, _check_finite] | None,
        Setting("of Ray: a part of one will do; default: 1 on a GPU", "N", compared=False),
    ] = None
    address: Annotated[
        str | None,
        Setting("of a running Ray cluster; default: Ray is started on this machine", "ADDRESS", compared=False),
    ] = None
    seed: Annotated[int, _check_seed, Setting("of methods, metrics, bootstrap and random pictures", "N")] = 0
    maps: Annotated[bool, Setting("keep the maps, as float16")] = False
    pictures: Annotated[int, at_least(0), Setting("best, worst and random images in the report, of each", "N")] = 8
    mode: Annotated[
        Literal["new", "resume", "overwrite"],
        Setting(
            of_run=False,
            choices=(("resume", "go on with the run in the output folder"), ("overwrite", "start anew there")),
        ),
    ] = "new"
    retry_errors: Annotated[bool, Setting("with --resume: do again what has images without scores", of_run=False)] = (
        False
    )
    insist: Annotated[
        bool,
        Setting(
            "resume though images, functions or the model differ, or where it cannot be told whether they do; go on "
            "where 32 images in a row cannot be read",
            of_run=False,
        ),
    ] = False
    reshape_transform: Annotated[Any, PYTHON] = None
    categories: Annotated[Any, PYTHON] = ()
    name: Annotated[str | None, PYTHON] = None
    settings: Annotated[Mapping[str, Any] | None, PYTHON] = None
    files: Annotated[Sequence[str], PYTHON] = ()
    progress: Annotated[bool | None, PYTHON] = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.retry_errors and self.mode != "resume":
            raise ValueError('retry_errors=True goes with mode="resume": there is nothing to retry without it')
        for field in fields(self):  # NumPy's integers are none of JSON's
            value = getattr(self, field.name)
            if not isinstance(value, int) and fits(value, int):
                object.__setattr__(self, field.name, operator.index(value))

    def replaced(self, **changes: Any) -> RunConfig:
        """Return the configuration with other values for some settings."""
        return dataclasses.replace(self, **changes)

    def kept(self) -> dict[str, Any]:
        """Return the settings of the run as YAML has them, where none is an object of Python."""
        values = {name: getattr(self, name) for name, setting in known_settings().items() if setting.of_run}
        return {name: _plain(value) for name, value in values.items()}

    def compared(self, **described: Any) -> dict[str, Any]:
        """Return what results depend on, and a run is resumed by: `described`, and all other settings as they are."""
        names = [name for name, setting in known_settings().items() if setting.of_run and setting.compared]
        return {name: described.get(name, getattr(self, name)) for name in names}


@cache
def known_settings() -> dict[str, Setting]:
    """Return what `RunConfig` says of every setting, by name."""
    return {
        name: next(part for part in get_args(hint) if isinstance(part, Setting))
        for name, hint in hints_of(RunConfig).items()
    }


@cache
def default_values() -> dict[str, Any]:
    """Return the default of every setting; None where it is needed."""
    return {field.name: None if field.default is MISSING else field.default for field in fields(RunConfig)}


def written_type(name: str) -> Any:
    """Return the type of what flags and YAML have for a setting; null, or no flag, stands for a default of None."""
    annotation = known_settings()[name].written or hints_of(RunConfig)[name]
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if NoneType not in get_args(bare):
        return annotation
    return Union[tuple(part for part in get_args(bare) if part is not NoneType)]  # noqa: UP007


def types_of(annotation: Any) -> set[Any]:
    """Return the types that an annotation has side by side."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return types_of(parts[0])
    if get_origin(annotation) in (Union, UnionType):
        return {kind for part in parts for kind in types_of(part)}
    return {get_origin(annotation) or annotation}


def _plain(value: Any) -> Any:
    """Return lists and dicts for what is like them."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
