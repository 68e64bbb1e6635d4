"""The demo's classifier: a small convolutional network for canvases, with its weights in the package."""

from __future__ import annotations

from importlib.resources import as_file, files

from safetensors.torch import load_file
from torch import Tensor, nn

LAYER = "features.block4"
SCALE = 0.26  # standard deviation of the pixels; black stays 0, so that masking paints black
WEIGHTS = "classifier.safetensors"


class Classifier(nn.Module):
    """Five convolutions, global average pooling and one linear layer: (N, 1, 64, 64) -> (N, 10) logits.

    `features.block4` is 48 x 8 x 8. One block follows it, so that the methods differ there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels = 1
        for number, width in enumerate((16, 32, 48, 48, 64), start=1):
            block = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
            self.features.add_module(f"block{number}", block)
            if number < 4:
                self.features.add_module(f"pool{number}", nn.AvgPool2d(2))
            channels = width
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the ten digits."""
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


def prepare(images: Tensor) -> Tensor:
    """Scale canvases as the classifier was trained."""
    return images / SCALE


def load_classifier() -> Classifier:
    """Return the trained classifier in eval mode."""
    model = Classifier()
    with as_file(files("cam_extras.demo") / WEIGHTS) as path:
        model.load_state_dict(load_file(path))
    return model.eval()
