"""Read image files as a person sees them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

_WHITE = (255, 255, 255, 255)
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
# Formats that Pillow reads with an external program, Ghostscript, or that may contain such an image.
_READ_ELSEWHERE = ("EPS", "IPTC")
_SIXTEEN_BITS = ("PNG", "PPM")  # formats whose values "I" Pillow scales to 16 bits


def read_image(path: Path) -> Image.Image:
    """Read an image file as RGB with 8 bits a channel, turned upright; transparent parts become white.

    Of several pictures in a file, the first is read. Colour profiles are ignored, and more than 8 bits are scaled, not
    clipped.

    Raises:
        ValueError: there is no such file; it is empty, truncated, not an image, or has more pixels than
            `PIL.Image.MAX_IMAGE_PIXELS`; its values have no known range (floating point, 32-bit integers); or it is
            PostScript (EPS), which is a program.
    """
    if not os.path.isfile(path):  # unlike Path.is_file it never raises
        raise ValueError(f"there is no image {path}{': it is a folder' if os.path.isdir(path) else ''}")
    try:
        if not path.stat().st_size:
            raise ValueError("the file is empty")
        with Image.open(path) as image:
            _check_size(image)
            return to_rgb(image)
    except Exception as error:  # decoders may raise anything on garbage
        raise ValueError(f"cannot read {path}: {str(error) or type(error).__name__}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as `read_image` returns a file: upright RGB, transparent parts white.

    Raises:
        ValueError: its values have no known range (floating point, 32-bit integers), or it is PostScript (EPS).
    """
    if image.format in _READ_ELSEWHERE:
        raise ValueError(f"it is {image.format}, which Ghostscript would have to run: convert it to PNG or JPEG")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format in _SIXTEEN_BITS):
        return Image.fromarray(_eight_bits(upright, getattr(image, "tag_v2", {}))).convert("RGB")
    if upright.mode in ("I", "F"):
        raise ValueError(f"it holds {upright.mode!r} values, whose range is not known: convert it to 8 or 16 bits")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, _WHITE), upright)
    return upright.convert("RGB")


def _check_size(image: Image.Image) -> None:
    """Refuse images above Pillow's limit; Pillow only warns up to twice the limit."""
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise Image.DecompressionBombError(
            f"its {pixels} pixels exceed the limit of {limit}: it could be a decompression bomb"
        )


def _eight_bits(image: Image.Image, tiff_tags: Mapping[int, Any]) -> np.ndarray:
    """Scale 16-bit grey values; from TIFF, Pillow leaves 12-bit values, and values with 0 for white, unchanged."""
    largest = 4095 if tiff_tags.get(_TIFF_BITS) == (12,) else 65535
    values = np.asarray(image).astype(np.uint32)
    if tiff_tags.get(_TIFF_PHOTOMETRIC) == 0:
        values = largest - values
    return (values * 255 // largest).astype(np.uint8)
