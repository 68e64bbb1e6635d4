"""Canvases: scikit-learn's handwritten digits on a larger, cluttered background, with known boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cam_extras._checks import check_choice

SIZE = 64
DIGIT_SIZES = (22, 26, 30)
FRAGMENT_CELLS = 4  # of the 8 x 8 cells of a digit
FRAGMENTS = 9
NOISE = 0.15  # at most
HELD_OUT = 397  # the last digits of the data set, never trained on


@dataclass(frozen=True)
class Canvases:
    """A batch of canvases.

    Attributes:
        images: shape (N, 1, 64, 64), in [0, 1].
        labels: the digits, shape (N,).
        boxes: around the digits, shape (N, 4): xmin, ymin, xmax, ymax in pixels, the maxima exclusive.
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor


def make_canvases(count: int, split: str, seed: int) -> Canvases:
    """Draw canvases: one digit each among fragments of other digits and noise.

    Args:
        count: number of canvases.
        split: "train", or "test" for digits that the demo's classifier was not trained on.
        seed: the same seed gives the same canvases.
    """
    from sklearn.datasets import load_digits  # here, as it is slow to import and other commands do not need it

    check_choice("split", split, ("train", "test"))
    data = load_digits()
    part = slice(None, -HELD_OUT) if split == "train" else slice(-HELD_OUT, None)
    digits = torch.from_numpy(data.images[part]).float()[:, None] / 16
    labels = torch.from_numpy(data.target[part])
    generator = torch.Generator().manual_seed(seed)

    def random_integers(high: int, size: int = 1) -> list[int]:
        return torch.randint(high, (size,), generator=generator).tolist()

    images = torch.zeros(count, 1, SIZE, SIZE)
    boxes = []
    chosen = torch.randint(len(digits), (count,), generator=generator)
    for image, index in zip(images, chosen, strict=True):
        size = DIGIT_SIZES[random_integers(len(DIGIT_SIZES))[0]]
        for other in random_integers(len(digits), FRAGMENTS):
            row, column = random_integers(8 - FRAGMENT_CELLS + 1, 2)
            fragment = digits[other, :, row : row + FRAGMENT_CELLS, column : column + FRAGMENT_CELLS]
            _paint(image, fragment, size * FRAGMENT_CELLS // 8, random_integers(SIZE, 2))
        top, left = random_integers(SIZE - size + 1, 2)
        image[:, top : top + size, left : left + size] = 0
        _paint(image, digits[index], size, (top, left))
        boxes.append((left, top, left + size, top + size))
    noise = NOISE * torch.rand(count, 1, 1, 1, generator=generator)
    images += noise * torch.randn(images.shape, generator=generator)
    return Canvases(images.clamp(0, 1), labels[chosen], torch.tensor(boxes))


def _paint(image: Tensor, strokes: Tensor, size: int, corner: tuple[int, int] | list[int]) -> None:
    """Paint strokes (1, h, w), enlarged to size x size, where they are brighter than the image."""
    top, left = corner
    patch = F.interpolate(strokes[None], (size, size), mode="bilinear", align_corners=False)[0]
    target = image[:, top : top + size, left : left + size]
    torch.maximum(target, patch[:, : target.shape[1], : target.shape[2]], out=target)
