from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parent.parent
REALDATA = Path(os.environ.get("CAM_EXTRAS_REALDATA", ROOT.parent / "shared" / "realdata"))


if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # two processes with as many threads as there are cores wait for each other


@pytest.fixture(autouse=True, scope="module")
def images_are_opened_by_pillow():
    """Put back what ultralytics replaces when it is imported: it looks for another package at every broken image."""
    opened = Image.open
    yield
    Image.open = opened


def pytest_collection_modifyitems(items):
    for item in items:
        if "realdata" in item.keywords and not REALDATA.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no real models and images in {REALDATA}"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def global_flags():
    """What torch keeps for the whole process."""
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast cache": torch.is_autocast_cache_enabled(),
        "attention fast path": torch.backends.mha.get_fastpath_enabled(),
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "math": torch.backends.cuda.math_sdp_enabled(),
        "dtype": torch.get_default_dtype(),
    }


FLAGS = global_flags()


@pytest.fixture(autouse=True)
def _fixed_seed_and_flags():
    torch.manual_seed(0)
    yield
    assert global_flags() == FLAGS


@pytest.fixture(scope="session")
def realdata():
    """The real MobileNet-V2 and a way to read its images."""
    from PIL import Image
    from torchvision import transforms

    from cam_extras.models import load_model

    weights = REALDATA / "mobilenet_v2_imagenet.safetensors"
    classifier = load_model(f"{REALDATA / 'models.py'}:mobilenet_v2", str(weights))
    crop = transforms.Compose([transforms.CenterCrop(224), transforms.ToTensor()])
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    prepare = transforms.Compose([crop, normalise])
    paths = sorted((REALDATA / "imagenet").glob("*.JPEG"))

    def read(count: int):
        return torch.stack([prepare(Image.open(path)) for path in paths[:: len(paths) // count][:count]])

    return SimpleNamespace(
        folder=REALDATA, model=classifier.model, weights=weights, paths=paths, read=read, prepare=prepare
    )


@pytest.fixture(scope="session")
def digits():
    """The demo's classifier, canvases and labels."""
    from cam_extras.demo.canvases import make_canvases
    from cam_extras.demo.classifier import load_classifier, prepare

    canvases = make_canvases(7, "test", seed=3)
    return load_classifier(), prepare(canvases.images).numpy(), canvases.labels.numpy()


@pytest.fixture(scope="session")
def double_digits(digits):
    """The same with a classifier that computes in float64, for comparisons between batches of different sizes."""
    from nets import in_double

    model, x, y = digits
    return in_double(model), x, y
