"""Read image files as a person sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

_WHITE = (255, 255, 255, 255)


def read_image(path: Path) -> Image.Image:
    """Read an image file as RGB with 8 bits a channel, turned upright; what is transparent becomes white.

    Raises:
        ValueError: there is no such file, it is no image or too large to be one in earnest, or its values have no
            known range (floating point, 32-bit integers).
    """
    if not path.is_file():
        raise ValueError(f"there is no image {path}")
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(upright).astype(np.uint32) // 257).astype(np.uint8)).convert("RGB")
    if upright.mode in ("I", "F"):
        raise ValueError(f"{path} holds {upright.mode!r} values, whose range is not known: convert it to 8 or 16 bits")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, _WHITE), upright)
    return upright.convert("RGB")
