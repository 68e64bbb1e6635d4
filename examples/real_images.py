"""Every method and every metric on MobileNet-V2 and real ImageNet photographs.

    python examples/real_images.py FOLDER [--images 16] [--layer features.17] [--output DIR]

FOLDER contains `models.py` with a function `mobilenet_v2(weights)`, the weights `mobilenet_v2_imagenet.safetensors`,
and `imagenet/*.JPEG`.
"""

import argparse
from pathlib import Path

from cam_extras.cli import main

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("folder", type=Path)
parser.add_argument("--images", type=int, default=16)
parser.add_argument("--layer", default="features.17")
parser.add_argument("--output", default="cam-extras-output/real_images")
options = parser.parse_args()

images = sorted((options.folder / "imagenet").glob("*.JPEG"))
chosen = images[:: max(1, len(images) // options.images)][: options.images]
raise SystemExit(
    main(
        [
            "explain",
            *map(str, chosen),
            f"--model={options.folder / 'models.py'}:mobilenet_v2",
            f"--weights={options.folder / 'mobilenet_v2_imagenet.safetensors'}",
            f"--layer={options.layer}",
            f"--output={options.output}",
        ]
    )
)
