"""Image classifiers of Hugging Face's transformers, from the Hub or a folder. Transformers is imported when needed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

_NAME_OF_THE_HUB = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_NO_NAME = re.compile(r"LABEL_\d+")  # what transformers calls a class without a name
_BY_FUNCTION = "give a function that returns the model, FILE.py:FUNCTION"


@dataclass(frozen=True)
class ProcessorTransform:
    """Image -> input (C, H, W), by an image processor of transformers.

    Attributes:
        processor: the image processor.
        mean: what is taken off the pixels, which lie in [0, 1], for each channel of the input.
        std: what they are divided by then.
        reverses_channels: whether the input has blue first, as MobileViT's.
    """

    processor: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reverses_channels: bool

    @classmethod
    def of(cls, processor: Any) -> ProcessorTransform:
        """Make the transform of a processor; its normalisation is measured, since processors say it in many ways.

        Raises:
            ValueError: the processor does not turn an image into one tensor (C, H, W), or not every channel of it
                tells black from white.
        """

        def centre(*colour: int) -> Tensor:
            x = _processed(processor, Image.new("RGB", (64, 64), colour))
            return x[:, x.shape[1] // 2, x.shape[2] // 2]

        black, white, red = centre(0, 0, 0), centre(255, 255, 255), centre(255, 0, 0)
        if not (white > black).all():
            raise ValueError(f"{type(processor).__name__} makes inputs in which white is not brighter than black")
        std = 1 / (white - black)
        return cls(processor, tuple((-black * std).tolist()), tuple(std.tolist()), bool(red[-1] > red[0]))

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the input for an image."""
        return _processed(self.processor, image)


def _processed(processor: Any, image: Image.Image) -> Tensor:
    found = processor(images=image, return_tensors="pt")
    x = found.get("pixel_values")
    if not isinstance(x, Tensor) or x.ndim != 4 or len(x) != 1 or not x.is_floating_point():
        made = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else f"the keys {sorted(found)}"
        raise ValueError(
            f"{type(processor).__name__} must turn an image into floating-point pixel_values of shape (1, C, H, W); "
            f"got {made}: {_BY_FUNCTION}"
        )
    return x[0]


def load_hugging_face(
    place: str, *, with_transform: bool = True
) -> tuple[nn.Module, ProcessorTransform | None, tuple[str, ...]]:
    """Load a model, its transform and the names of its classes.

    Weights are read from safetensors only, and no code of the model's own is run.

    Args:
        place: a folder written by `save_pretrained`, of which nothing is looked up elsewhere; or a name on the Hub.
        with_transform: whether the image processor is wanted; if not, None takes the transform's place.

    Raises:
        ValueError: transformers is missing; there is no such folder, or no such model can be loaded; or it is no image
            classifier, or one whose weights, such as those of its head, are not all in the file.
    """
    try:
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
    except ImportError as error:
        raise ValueError(f"hf/{place} needs transformers ({error}): pip install cam_extras[hf]") from error
    folder = os.path.expanduser(place)
    local = os.path.isdir(folder)
    if not local and (os.path.exists(folder) or not _NAME_OF_THE_HUB.fullmatch(place)):
        raise ValueError(
            f"there is no folder {folder}: hf/DIR is a folder written by save_pretrained, hf/NAME a model of the "
            "Hugging Face Hub"
        )
    source = folder if local else place
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    elsewhere = "" if local else "give a folder, hf/DIR, where it cannot be downloaded"
    with _failures_of(place, "its configuration", elsewhere):
        config = AutoConfig.from_pretrained(source, **options)
    _check_kind(place, config, type(config) in AutoModelForImageClassification._model_mapping)
    if local and not any(name.endswith(".safetensors") for name in os.listdir(folder)):
        raise ValueError(
            f"the folder {folder} has no model.safetensors, and weights are not read from pickles, which can hold any "
            "code: load the model with transformers, save it with save_pretrained, and give that folder"
        )
    with _failures_of(place, "its weights", elsewhere), _without_reports():
        # A configuration may name attention kernels to download, which are code.
        config._attn_implementation = None
        model, found = AutoModelForImageClassification.from_pretrained(
            source,
            config=config,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    _check_weights(place, model, found)
    transform = None
    if with_transform:
        with _failures_of(place, "its image processor", "save one in the folder, or give transform="):
            processor = AutoImageProcessor.from_pretrained(source, **options)
        transform = ProcessorTransform.of(processor)
    return model, transform, _categories(config)


def _check_kind(place: str, config: Any, classifies: bool) -> None:
    """Raise ValueError for a model that is not an image classifier."""
    kinds = config.architectures or []
    if not classifies or (kinds and not any("ForImageClassification" in kind for kind in kinds)):
        raise ValueError(
            f"hf/{place} is not an image classifier but a {' or '.join(kinds) or config.model_type}: for a detector, a "
            f"segmenter or an embedding, {_BY_FUNCTION}"
        )
    if not config.num_labels:
        raise ValueError(f"hf/{place} returns features, no scores of classes: its configuration has no labels")


def _check_weights(place: str, model: Any, found: dict[str, Any]) -> None:
    """Raise ValueError if transformers filled in weights at random, or took them from elsewhere."""
    missing = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"the weights of hf/{place} lack {', '.join(missing[:3])}{more}, which would be random: give a "
            f"{type(model).__name__} that was trained and saved with its head"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(f"hf/{place} holds an adapter of another model: merge them, save that and give its folder")


def _categories(config: Any) -> tuple[str, ...]:
    """Return the names of the classes; none if they are only numbered, or if their numbers have gaps."""
    if sorted(config.id2label) != [*range(config.num_labels)]:
        return ()
    names = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    return () if all(map(_NO_NAME.fullmatch, names)) else names


@contextmanager
def _failures_of(place: str, what: str, todo: str) -> Iterator[None]:
    """Report in one line what transformers, or a download, raised."""
    try:
        yield
    except Exception as error:  # depends on the versions of transformers and huggingface_hub
        told = shorten(str(error), 300, placeholder=" …")
        if "trust_remote_code" in str(error):
            told, todo = "it needs code of its own, which is not run", _BY_FUNCTION
        raise ValueError(f"hf/{place}: {what} could not be loaded ({told}){todo and ': '}{todo}") from error


@contextmanager
def _without_reports() -> Iterator[None]:
    """Silence the report that transformers prints of weights that are missing, which are an error here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
