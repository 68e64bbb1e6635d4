"""Data for the studies in this folder: photographs from a folder, or the demo's digits if no folder is given."""

from pathlib import Path

import torch
from torch import Tensor, nn

from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare


def load(folder: str | None, count: int, boxed: bool = False) -> tuple[nn.Module, nn.Module, Tensor, Tensor, list]:
    """Return a model, its layer to explain, and images with their classes and boxes of the object.

    Args:
        folder: with `models.py`, whose function `mobilenet_v2(file)` loads `mobilenet_v2_imagenet.safetensors`, and
            photographs that `imagenet/labels.csv` lists with their classes, or `imagenet_boxes/boxes.csv` with boxes,
            too. None for the classifier and the digits of `cam-extras demo`.
        count: how many images: evenly spread over the table, or all that it has.
        boxed: take the photographs with boxes.
    """
    if folder is None:
        canvases = make_canvases(count, "test", seed=0)
        model = load_classifier()
        return (
            model,
            model.get_submodule(LAYER),
            prepare(canvases.images),
            canvases.labels,
            list(canvases.boxes[:, None]),
        )
    # Imported here, for they take seconds that the digits do without.
    from cam_extras.models import load_model
    from cam_extras.runs.batches import Input, Reader
    from cam_extras.runs.sources import open_source

    weights = Path(folder, "mobilenet_v2_imagenet.safetensors")
    classifier = load_model(f"{Path(folder, 'models.py')}:mobilenet_v2", str(weights))
    table = Path(folder, "imagenet_boxes/boxes.csv" if boxed else "imagenet/labels.csv")
    source = open_source(table, labels_needed=True)
    reader = Reader(classifier.transform, target="label", object_needed=boxed)
    count = min(count, len(source))
    read = [reader.read(source, number * len(source) // count) for number in range(count)]
    inputs = [item for item in read if isinstance(item, Input)]  # a box may lie outside of what the model sees
    labels = torch.tensor([item.label for item in inputs])
    return (
        classifier.model,
        classifier.model.features[-1],
        torch.stack([item.x for item in inputs]),
        labels,
        [item.boxes for item in inputs],
    )
