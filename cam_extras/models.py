"""Load a classifier: by torchvision or timm name, from a weights file, or from a function."""

from __future__ import annotations

import difflib
import hashlib
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torchvision import models as torchvision_models
from torchvision.transforms._presets import ImageClassification

from cam_extras._checks import check_name
from cam_extras._code import failures_of, load_code
from cam_extras._deprecated import names_of, warn
from cam_extras._text import names_code

_WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Classifier:
    """A classifier, with the meaning of its input and output.

    Attributes:
        model: in eval mode.
        transform: Pillow image -> input (C, H, W).
        categories: names of the classes; empty if not known.
    """

    model: nn.Module
    transform: Callable[..., Tensor]
    categories: tuple[str, ...] = ()

    @property
    def reshape_transform(self) -> Callable[[Tensor], Tensor] | None:
        """Old way to turn a layer's output into a feature map; `reshape_transform="auto"` does it for any layer."""
        warn("Classifier.reshape_transform", 'reshape_transform="auto"')
        model = self.model
        if isinstance(model, torchvision_models.VisionTransformer):
            side = model.image_size // model.patch_size
            return partial(tokens_to_map, prefix=1, grid=(side, side))
        # timm models are recognised by their attributes, so that timm need not be imported.
        prefix = getattr(model, "num_prefix_tokens", None)
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        if isinstance(prefix, int) and grid is not None:
            return partial(tokens_to_map, prefix=prefix, grid=tuple(grid))
        if isinstance(model, torchvision_models.SwinTransformer) or getattr(model, "output_fmt", None) == "NHWC":
            widths = {module.normalized_shape[-1] for module in model.modules() if isinstance(module, nn.LayerNorm)}
            return partial(channels_first, widths=tuple(sorted(widths)))
        return None

    def category(self, index: int) -> str:
        """Return the name of a class."""
        return self.categories[index] if index < len(self.categories) else f"class {index}"

    def class_index(self, target: str) -> int:
        """Return the index of a class given by number or by name."""
        if target.isascii() and target.removeprefix("-").isdigit():
            return int(target)
        if not self.categories:
            raise ValueError(f"the names of the model's classes are not known: give {target!r:.80} by its number")
        names = [name.lower() for name in self.categories]
        check_name("class", target.lower(), names)
        return names.index(target.lower())


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


def load_model(
    spec: str, weights: str | None = None, transform: str | Callable[..., Tensor] | None = None
) -> Classifier:
    """Load a classifier.

    Args:
        spec: a torchvision model name; timm/NAME for a timm model, with or without a tag; a weights file named like
            torchvision's, NAME-HASH.pth (also .pt and .safetensors); or FILE.py:FUNCTION or MODULE:FUNCTION, a function
            that returns the model or a `Classifier`.
        weights: a local file with the model's weights, instead of downloading them from torchvision or timm; for a
            function, its first argument.
        transform: Pillow image -> input (C, H, W), or FILE.py:FUNCTION or MODULE:FUNCTION, a function that returns it;
            by default the one that belongs to the weights; for a function that returns a model, 224 x 224 with ImageNet
            normalisation.

    Raises:
        TypeError: the transform cannot be called.
        ValueError: there is no such model, file or function, the weights do not fit the model, or timm is missing.
    """
    classifier = _load_model(spec, weights)
    if transform is None:
        return classifier
    if isinstance(transform, str):
        if not names_code(transform):
            raise ValueError(f"expected FILE.py:FUNCTION or MODULE:FUNCTION for the transform; got {transform!r}")
        function = load_code(transform)
        with failures_of(transform):
            transform = function()
    if not callable(transform):
        raise TypeError(f"a transform is called with an image; got {type(transform).__name__}")
    return replace(classifier, transform=transform)


def _load_model(spec: str, weights: str | None) -> Classifier:
    if names_code(spec):
        return _from_function(spec, weights)
    names = torchvision_models.list_models(module=torchvision_models)
    if spec.endswith(_WEIGHT_SUFFIXES):
        published = [name for name in names if _published_weights(name, spec) is not None]
        name = published[0] if published else Path(spec).stem.split("-")[0]
        if name not in names:
            raise ValueError(
                f"the name of {spec} does not begin with a torchvision model name: give such a name, and "
                f"weights={spec!r}"
            )
        spec, weights = name, spec
    if spec.startswith("timm/"):
        return _from_timm(spec.removeprefix("timm/"), weights)
    check_name("torchvision model", spec, names)
    return _from_torchvision(spec, weights)


def _published_weights(name: str, path: str) -> Any:
    """Return the torchvision weights of a model that are published under this file name; None if there are none."""
    members = torchvision_models.get_model_weights(name)
    return next((member for member in members if Path(member.url).stem == Path(path).stem), None)


def _from_torchvision(name: str, weights: str | None) -> Classifier:
    members = torchvision_models.get_model_weights(name)
    published = members.DEFAULT if weights is None else _published_weights(name, weights) or members.DEFAULT
    categories = tuple(published.meta["categories"])
    if weights is None:
        try:
            model = torchvision_models.get_model(name, weights=published)
        except (URLError, OSError) as error:
            raise ValueError(
                f"the weights of {name} could not be downloaded ({error}): give a local file by weights="
            ) from error
    else:
        # Google's networks were trained with a different normalisation; torchvision's modules convert the inputs.
        google = name in ("googlenet", "inception_v3")
        options = {"transform_input": True, "init_weights": False} if google else {}
        state = _read_state(weights)
        with torch.device("meta"):
            head = list(torchvision_models.get_model(name, weights=None, **options).state_dict())[-1]
        classes = len(state[head]) if head in state else len(categories)
        model = torchvision_models.get_model(name, weights=None, num_classes=classes, **options)
        _load_state(model, state, f"{weights} does not hold the weights of {name}")
        categories = categories if classes == len(categories) else ()
    return Classifier(model.eval(), published.transforms(), categories)


def _from_timm(name: str, weights: str | None) -> Classifier:
    try:
        import timm
        from timm import data as timm_data
        from timm import models as timm_models
    except ImportError as error:
        raise ValueError(f"timm/{name} needs timm ({error}): pip install cam_extras[timm]") from error
    names = [*timm.list_models(), *timm.list_models(include_tags=True)]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
        raise ValueError(f"there is no timm model {name!r}: {meant}")
    published = timm_models.get_pretrained_cfg(name)
    classes = published.num_classes
    state = None if weights is None else _read_state(weights)
    if state is not None:
        heads = [published.classifier] if isinstance(published.classifier, str) else published.classifier or ()
        rows = [len(state[f"{head}.weight"]) for head in heads if f"{head}.weight" in state]
        classes = rows[0] if rows else classes
    if classes == 0:
        raise ValueError(f"timm/{name} returns features, no scores of classes: give those of a classifier by weights=")
    if state is None:
        try:
            model = timm.create_model(name, pretrained=True)
        except Exception as error:  # download errors depend on the version of huggingface_hub
            raise ValueError(
                f"the weights of timm/{name} could not be loaded ({error}): give a local file by weights="
            ) from error
    else:
        model = timm.create_model(name, num_classes=classes)
        _load_state(model, state, f"{weights} does not hold the weights of timm/{name}")
    transform = timm_data.create_transform(**timm_data.resolve_model_data_config(model))
    subset = timm_data.infer_imagenet_subset(model)
    categories: tuple[str, ...] = ()
    if classes == len(_imagenet_categories()):
        categories = _imagenet_categories()
    elif subset is not None:
        categories = tuple(timm_data.ImageNetInfo(subset).label_descriptions())
    return Classifier(model.eval(), transform, categories)


def _load_state(model: nn.Module, state: Mapping[str, Tensor], failure: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{failure}: {error}") from error


def _imagenet_categories() -> tuple[str, ...]:
    return tuple(torchvision_models.MobileNet_V2_Weights.DEFAULT.meta["categories"])


def _from_function(spec: str, weights: str | None) -> Classifier:
    function = load_code(spec)
    with failures_of(spec):
        model = function(weights) if weights is not None else function()
    if isinstance(model, Classifier):
        return replace(model, model=model.model.eval())
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} must return a torch.nn.Module or a Classifier; it returned {type(model).__name__}")
    categories: tuple[str, ...] = ()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if linear and linear[-1].out_features == 1000:
        categories = _imagenet_categories()
    return Classifier(model.eval(), ImageClassification(crop_size=224), categories)


def _read_state(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise ValueError(f"there is no weights file {path}")
    try:
        state = load_file(path) if path.endswith(".safetensors") else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # unpickling garbage may raise anything
        raise ValueError(
            f"{path} does not hold a state dict that can be read safely: "
            "write it with torch.save(model.state_dict(), FILE) or safetensors"
        ) from error
    for name in ("state_dict", "model"):  # training scripts save the weights under these keys
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold a state dict, names with tensors; it holds a {type(state).__name__}")
    state = dict(state)
    consume_prefix_in_state_dict_if_present(state, "module.")
    # torchvision's DenseNet files are older than the names in its modules.
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name): state[name] for name in state}


def picture_of(transform: Callable[..., Any] | None) -> Callable[[Tensor], Tensor]:
    """Return the function that turns an input back into a visible picture.

    It takes an input (C, *S) and returns a tensor of that shape in [0, 1]: the input before normalisation, undone with
    the mean and standard deviation of torchvision's presets, or of every `Normalize` in a composed transform. Without
    any it returns the input itself if that lies in [0, 1], else the input scaled to [0, 1].

    Args:
        transform: the transform from image to input.
    """
    steps = tuple(_normalisations(transform))
    return partial(_undo, steps=steps) if steps else _stretch


def _normalisations(transform: Any) -> Iterator[tuple[list[float], list[float]]]:
    """Yield the mean and standard deviation of each normalisation in a transform, in order."""
    mean, std = (getattr(transform, name, None) for name in ("mean", "std"))
    if mean is not None and std is not None:
        yield torch.as_tensor(mean).flatten().tolist(), torch.as_tensor(std).flatten().tolist()
        return
    for part in getattr(transform, "transforms", ()):
        yield from _normalisations(part)
    if isinstance(transform, nn.Module):
        for part in transform.children():
            yield from _normalisations(part)


def _undo(x: Tensor, steps: tuple[tuple[list[float], list[float]], ...]) -> Tensor:
    for step in reversed(steps):
        mean, std = (x.new_tensor(values).reshape(-1, *[1] * (x.ndim - 1)) for values in step)
        x = x * std + mean
    return x.clamp(0, 1)


def _stretch(x: Tensor) -> Tensor:
    low, high = x.min(), x.max()
    if low >= 0 and high <= 1:
        return x
    return (x - low) / (high - low) if high > low else torch.zeros_like(x)


def fingerprint(model: nn.Module) -> str:
    """Return a SHA-256 of a model's state dict: names, types, shapes and values, in order.

    It identifies a set of weights, on any device, but not the model's code.

    Raises:
        ValueError: an entry cannot be read: it has no values, as on the "meta" device, or cannot be pickled.
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        try:
            if type(value) is Tensor and value.layout == torch.strided and not value.is_quantized:
                kind = f"{value.dtype} {tuple(value.shape)}"
                value = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
                content = value.flatten().view(torch.uint8).numpy().data  # NumPy has no bfloat16
            else:  # other objects that modules store, and other kinds of tensors
                file = io.BytesIO()
                torch.save(value, file)
                kind, content = f"{type(value).__name__} {len(file.getvalue())}", file.getbuffer()
        except Exception as error:  # a module may put anything there
            raise ValueError(f"cannot read {name} of {type(model).__name__}: {error}") from error
        digest.update(f"{name} {kind}\n".encode())
        digest.update(content)
    return digest.hexdigest()


__getattr__ = names_of(__name__, {"auto_layer": "cam_extras.layers.auto_layer"})
