"""Load a classifier for the command line: by torchvision name, from a weights file, or from a function."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.transforms._presets import ImageClassification

from cam_extras._checks import check_name

_WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Classifier:
    """A classifier with what its input and output mean.

    Attributes:
        model: in eval mode.
        transform: Pillow image -> input (C, H, W).
        categories: names of the classes; empty where they are not known.
    """

    model: nn.Module
    transform: Callable[..., Tensor]
    categories: tuple[str, ...] = ()

    def category(self, index: int) -> str:
        """Name a class."""
        return self.categories[index] if index < len(self.categories) else f"class {index}"

    def class_index(self, target: str) -> int:
        """Read a class given by number or by name."""
        if target.lstrip("-").isdigit():
            return int(target)
        names = [name.lower() for name in self.categories]
        check_name("class", target.lower(), names)
        return names.index(target.lower())


def load_model(spec: str, weights: str | None = None) -> Classifier:
    """Load a classifier.

    Args:
        spec: a torchvision model name; a weights file named as torchvision's own, NAME-HASH.pth (also .pt and
            .safetensors); or FILE.py:FUNCTION or MODULE:FUNCTION, a function that returns the model.
        weights: a local file with the model's weights, instead of those that torchvision downloads; for a function,
            its first argument.

    Raises:
        ValueError: there is no such model, file or function, or the weights do not fit the model.
    """
    if ":" in spec:
        return _from_function(spec, weights)
    if spec.endswith(_WEIGHT_SUFFIXES):
        name = Path(spec).stem.split("-")[0]
        if name not in torchvision_models.list_models():
            raise ValueError(
                f"the name of {spec} does not begin with a torchvision model name: say --model NAME --weights {spec}"
            )
        spec, weights = name, spec
    return _from_torchvision(spec, weights)


def _from_torchvision(name: str, weights: str | None) -> Classifier:
    check_name("torchvision model", name, torchvision_models.list_models(module=torchvision_models))
    default = torchvision_models.get_model_weights(name).DEFAULT
    categories = tuple(default.meta["categories"])
    if weights is None:
        try:
            model = torchvision_models.get_model(name, weights=default)
        except (URLError, OSError) as error:
            raise ValueError(
                f"the weights of {name} could not be downloaded ({error}): give a local file with --weights"
            ) from error
    else:
        # Google's networks were trained on inputs normalised in another way; torchvision's modules convert them.
        options = {"transform_input": True} if name in ("googlenet", "inception_v3") else {}
        state = _read_state(weights)
        head = list(torchvision_models.get_model(name, weights=None).state_dict())[-1]
        classes = len(state[head]) if head in state else len(categories)
        model = torchvision_models.get_model(name, weights=None, num_classes=classes, **options)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{weights} does not hold the weights of {name}: {error}") from error
        categories = categories if classes == len(categories) else ()
    return Classifier(model.eval(), default.transforms(), categories)


def _from_function(spec: str, weights: str | None) -> Classifier:
    source, _, function_name = spec.rpartition(":")
    module = _import(source)
    if not hasattr(module, function_name):
        functions = [name for name, value in vars(module).items() if inspect.isroutine(value) and name[0] != "_"]
        check_name(f"function in {source}", function_name, functions)
    function = getattr(module, function_name)
    model = function(weights) if weights is not None else function()
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} must return a torch.nn.Module; it returned {type(model).__name__}")
    imagenet = ImageClassification(crop_size=224)
    categories: tuple[str, ...] = ()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if linear and linear[-1].out_features == 1000:
        categories = tuple(torchvision_models.MobileNet_V2_Weights.DEFAULT.meta["categories"])
    return Classifier(model.eval(), imagenet, categories)


def _import(source: str) -> Any:
    if not source.endswith(".py"):
        try:
            return importlib.import_module(source)
        except ImportError as error:
            raise ValueError(f"cannot import {source}: {error}") from error
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"there is no file {source}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{source} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read_state(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise ValueError(f"there is no weights file {path}")
    if path.endswith(".safetensors"):
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("state_dict", state)
