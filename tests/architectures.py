"""Image classifiers of the libraries that people use: the real classes, small and untrained, and an input for each.

The sizes are not square where the library allows it, so that a map with rows and columns swapped is seen.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CLASSES = 6


class Architecture(NamedTuple):
    """A model that can be built without a download.

    Attributes:
        library: the package that has the model.
        name: the model's name there, or its class.
        size: (C, *S) of an input.
        build: makes the model.
    """

    library: str
    name: str
    size: tuple[int, ...]
    build: Callable[[], nn.Module]

    def model_and_input(self) -> tuple[nn.Module, Tensor]:
        """Return the model, always the same, and a batch of one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.build()
            x = torch.randn(1, *self.size)
            as_if_trained(model, x)
        return model, x

    def __str__(self) -> str:
        return f"{self.library} {self.name}"


def as_if_trained(model: nn.Module, x: Tensor) -> None:
    """Give a fresh model weights of which none are switched off, and statistics that fit its features.

    Libraries set heads, position embeddings and the scales of residual branches to 0 or nearly 0 at first. Cells that
    should not mix would then not mix for the wrong reason.
    """
    for parameter in model.parameters():
        values = parameter.data
        if values.is_floating_point() and values.numel() > 1 and values.std() == 0 and values.abs().max() < 0.01:
            if values.ndim > 1:
                values.normal_(std=0.02)
            elif values.abs().max() > 0:  # the scale of a branch
                values.fill_(0.1)
    for name, parameter in model.named_parameters():
        if name.endswith("attention_biases"):  # the first is of a place's own distance, 0
            parameter.data[:, 0] = 20
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            stress_the_middle(module.weight.data)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        if norm.weight is not None and norm.weight.abs().mean() < 0.1:
            nn.init.constant_(norm.weight, 0.5)
    model.eval()
    if norms:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train().momentum = None
        with torch.no_grad():
            model(torch.randn(4, *x.shape[1:]))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval().momentum = momentum


def stress_the_middle(kernel: Tensor) -> None:
    """Let a kernel with a middle depend mostly on it, as a trained one does on average."""
    size = kernel.shape[2:]
    if math.prod(size) > 1 and all(length % 2 for length in size):
        middle = (slice(None), slice(None), *(length // 2 for length in size))
        kept = kernel[middle].clone() * math.prod(size) ** 0.5
        kernel.mul_(0.1)
        kernel[middle] = kept


class Inside(nn.Module):
    """A model inside another, as a LightningModule has it: what it says of itself is out of sight."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


class InADict(Inside):
    """The same with the scores in a dict."""

    def forward(self, x: Tensor) -> Any:
        scores = self.net(x)
        return {"logits": getattr(scores, "logits", scores)}


class Pick(Inside):
    """A model whose scores are one entry of what it returns."""

    def __init__(self, net: nn.Module, pick: Callable[[Any], Tensor]):
        super().__init__(net)
        self.pick = pick

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(self.net(x))


class Similarity(nn.Module):
    """Classes as directions in the space of image embeddings, as those of texts are in CLIP."""

    def __init__(self, encoder: nn.Module, width: int, pick: Callable[[Any], Tensor] = lambda embeddings: embeddings):
        super().__init__()
        self.encoder = encoder
        self.pick = pick
        self.texts = nn.Parameter(torch.randn(CLASSES, width))

    def forward(self, x: Tensor) -> Tensor:
        images = self.pick(self.encoder(x))
        return 10 * nn.functional.normalize(images, dim=-1) @ nn.functional.normalize(self.texts, dim=-1).T


# Hugging Face --------------------------------------------------------------------------------------------------------

_VIT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 96,
    "patch_size": 16,
}
_PYRAMID = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 48, 64]}
_SWIN = {
    "image_size": (128, 96),
    "window_size": 2,
    "embed_dim": 24,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 3, 6],
}

_HUGGING_FACE: list[tuple[str, str, tuple[int, ...], dict[str, Any]]] = [
    ("ViT", "ForImageClassification", (3, 96, 96), _VIT),
    ("DeiT", "ForImageClassification", (3, 96, 96), _VIT),
    ("DeiT", "ForImageClassificationWithTeacher", (3, 96, 96), _VIT),
    ("ViTMSN", "ForImageClassification", (3, 96, 96), _VIT),
    ("IJepa", "ForImageClassification", (3, 96, 96), _VIT),
    ("Dinov2", "ForImageClassification", (3, 84, 56), {**_VIT, "patch_size": 14}),
    ("Dinov2WithRegisters", "ForImageClassification", (3, 84, 56), {**_VIT, "patch_size": 14}),
    ("Beit", "ForImageClassification", (3, 96, 96), {**_VIT, "use_relative_position_bias": True}),
    ("Data2VecVision", "ForImageClassification", (3, 96, 96), {**_VIT, "use_relative_position_bias": True}),
    ("Siglip", "ForImageClassification", (3, 96, 96), {"vision_config": _VIT}),
    ("CLIP", "ForImageClassification", (3, 96, 96), {"vision_config": _VIT}),
    ("Swin", "ForImageClassification", (3, 128, 96), _SWIN),
    ("Swinv2", "ForImageClassification", (3, 128, 96), _SWIN),
    ("DonutSwin", "ForImageClassification", (3, 128, 96), _SWIN),
    (
        "Hiera",
        "ForImageClassification",
        (3, 96, 128),
        {"image_size": (96, 128), "embed_dim": 24, "depths": [1, 1, 2, 1]},
    ),
    ("ConvNext", "ForImageClassification", (3, 128, 96), _PYRAMID),
    ("ConvNextV2", "ForImageClassification", (3, 128, 96), _PYRAMID),
    ("ResNet", "ForImageClassification", (3, 128, 96), {**_PYRAMID, "embedding_size": 16}),
    ("RegNet", "ForImageClassification", (3, 128, 96), {**_PYRAMID, "embedding_size": 16, "groups_width": 8}),
    ("Bit", "ForImageClassification", (3, 128, 96), {**_PYRAMID, "embedding_size": 16, "num_groups": 8}),
    ("MobileNetV2", "ForImageClassification", (3, 128, 96), {"depth_multiplier": 0.5}),
    (
        "EfficientNet",
        "ForImageClassification",
        (3, 128, 96),
        {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    ),
    ("MobileViT", "ForImageClassification", (3, 192, 128), {"image_size": 128}),
    ("MobileViTV2", "ForImageClassification", (3, 192, 128), {"image_size": 128, "width_multiplier": 0.5}),
    ("Pvt", "ForImageClassification", (3, 128, 128), {"image_size": 128, "depths": [1, 1, 1, 1]}),
    ("PvtV2", "ForImageClassification", (3, 128, 96), {"image_size": 128, "depths": [1, 1, 1, 1]}),
    ("Segformer", "ForImageClassification", (3, 128, 96), {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 40, 64]}),
    ("PoolFormer", "ForImageClassification", (3, 128, 96), _PYRAMID),
    ("FocalNet", "ForImageClassification", (3, 128, 96), {"image_size": 128, "embed_dim": 24, "depths": [1, 1, 1, 1]}),
    ("Levit", "ForImageClassification", (3, 256, 256), {"image_size": 256}),
    ("Cvt", "ForImageClassification", (3, 128, 96), {}),
    ("SwiftFormer", "ForImageClassification", (3, 128, 96), {"depths": [1, 1, 1, 1]}),
]


def _hugging_face(family: str, task: str, options: dict[str, Any]) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{family}Config")(**options, num_labels=CLASSES)
    return getattr(transformers, family + task)(config)


def _clip_with_texts() -> nn.Module:
    import transformers

    config = transformers.CLIPVisionConfig(**_VIT, projection_dim=32)
    return Similarity(transformers.CLIPVisionModelWithProjection(config), 32, lambda found: found.image_embeds)


# timm ----------------------------------------------------------------------------------------------------------------

_SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
_FOUR = (1, 1, 1, 1)

_TIMM: list[tuple[str, tuple[int, int], dict[str, Any]]] = [
    # plain vision transformers
    ("vit_tiny_patch16_224", (96, 64), {"img_size": (96, 64), **_SMALL}),
    ("vit_medium_patch16_gap_240", (96, 64), {"img_size": (96, 64), **_SMALL}),
    ("vit_wee_patch16_reg1_gap_256", (96, 64), {"img_size": (96, 64), **_SMALL}),
    ("vit_small_patch14_reg4_dinov2", (84, 56), {"img_size": (84, 56), **_SMALL}),
    ("vit_base_patch16_siglip_224", (96, 64), {"img_size": (96, 64), **_SMALL}),
    ("vit_relpos_small_patch16_224", (96, 64), {"img_size": (96, 64), **_SMALL}),
    ("vit_tiny_r_s16_p8_224", (128, 96), {"img_size": (128, 96), **_SMALL}),
    ("naflexvit_base_patch16_gap", (96, 64), _SMALL),
    ("samvit_base_patch16_224", (96, 64), {"img_size": (96, 64), **_SMALL}),
    ("deit_tiny_patch16_224", (96, 64), {"img_size": (96, 64), **_SMALL}),
    ("deit_tiny_distilled_patch16_224", (96, 64), {"img_size": (96, 64), **_SMALL}),
    ("deit3_small_patch16_224", (96, 64), {"img_size": (96, 64), **_SMALL}),
    ("eva02_tiny_patch14_224", (84, 56), {"img_size": (84, 56), "depth": 2, "embed_dim": 48}),
    ("beit_base_patch16_224", (96, 64), {"img_size": (96, 64), **_SMALL}),
    ("beitv2_base_patch16_224", (96, 64), {"img_size": (96, 64), **_SMALL}),
    ("cait_xxs24_224", (96, 64), {"img_size": (96, 64), **_SMALL}),
    ("xcit_nano_12_p16_224", (96, 64), {"img_size": (96, 64), "depth": 2}),
    ("convit_tiny", (96, 96), {"img_size": 96, "depth": 3, "local_up_to_layer": 2}),
    ("tnt_s_patch16_224", (96, 64), {"img_size": (96, 64), "depth": 2, "embed_dim": 48}),
    ("crossvit_tiny_240", (240, 240), {}),
    # transformers with stages
    ("swin_tiny_patch4_window7_224", (128, 96), {"img_size": (128, 96), "depths": (1, 1, 2, 1), "embed_dim": 24}),
    ("swinv2_tiny_window8_256", (128, 96), {"img_size": (128, 96), "depths": (1, 1, 2, 1), "embed_dim": 24}),
    ("swinv2_cr_tiny_ns_224", (128, 96), {"img_size": (128, 96), "depths": (1, 1, 2, 1), "embed_dim": 24}),
    ("focalnet_tiny_srf", (128, 96), {}),
    ("maxvit_pico_rw_256", (128, 128), {"img_size": 128}),
    ("coatnet_nano_rw_224", (128, 96), {"img_size": (128, 96), "depths": _FOUR, "embed_dim": (16, 32, 64, 64)}),
    ("levit_128s", (256, 192), {"img_size": (256, 192)}),
    ("levit_conv_128s", (256, 192), {"img_size": (256, 192)}),
    ("coat_tiny", (128, 96), {"img_size": (128, 96)}),
    ("coat_lite_tiny", (128, 96), {"img_size": (128, 96)}),
    ("hiera_tiny_224", (96, 128), {"img_size": (96, 128), "stages": (1, 1, 2, 1), "embed_dim": 24}),
    ("volo_d1_224", (96, 64), {"img_size": (96, 64)}),
    ("pvt_v2_b0", (128, 96), {"depths": _FOUR}),
    ("mvitv2_tiny", (128, 128), {"img_size": 128}),
    ("davit_tiny", (128, 96), {"depths": _FOUR, "embed_dims": (24, 48, 72, 96), "num_heads": (1, 2, 3, 4)}),
    ("gcvit_xxtiny", (128, 96), {"img_size": (128, 96)}),
    ("nest_tiny", (128, 128), {"img_size": 128}),
    ("pit_ti_224", (128, 96), {"img_size": (128, 96)}),
    ("pit_ti_distilled_224", (128, 96), {"img_size": (128, 96)}),
    ("twins_svt_small", (128, 96), {"img_size": (128, 96), "depths": _FOUR}),
    ("twins_pcpvt_small", (128, 96), {"img_size": (128, 96), "depths": _FOUR}),
    ("tiny_vit_5m_224", (128, 96), {"depths": _FOUR}),
    ("nextvit_small", (128, 96), {}),
    ("vitamin_small_224", (128, 96), {"img_size": (128, 96)}),
    # convolutions with attention
    ("efficientformer_l1", (224, 224), {}),
    ("efficientformerv2_s0", (128, 128), {"img_size": 128, "depths": (1, 1, 2, 2)}),
    ("efficientvit_b0", (128, 96), {}),
    ("efficientvit_m0", (224, 224), {}),
    ("fastvit_t8", (128, 96), {"layers": _FOUR}),
    ("fastvit_sa12", (128, 96), {"layers": _FOUR}),
    ("mobilevit_xxs", (192, 128), {}),
    ("mobilevitv2_050", (192, 128), {}),
    ("edgenext_xx_small", (128, 96), {}),
    ("visformer_tiny", (128, 96), {"img_size": (128, 96)}),
    ("caformer_s18", (128, 96), {}),
    ("swiftformer_xs", (128, 96), {}),
    ("repvit_m0_9", (128, 96), {}),
    ("shvit_s1", (128, 96), {}),
    # without convolutions or attention
    ("mixer_s32_224", (128, 96), {"img_size": (128, 96)}),
    ("gmlp_ti16_224", (96, 64), {"img_size": (96, 64)}),
    ("resmlp_12_224", (96, 64), {"img_size": (96, 64)}),
    ("sequencer2d_s", (112, 84), {"img_size": (112, 84), "layers": _FOUR, "embed_dims": (24, 48, 48, 48)}),
    ("poolformer_s12", (128, 96), {}),
    # convolutions
    ("convnext_atto", (128, 96), {"depths": _FOUR}),
    ("convmixer_768_32", (112, 84), {}),
    ("inception_next_atto", (128, 96), {"depths": _FOUR}),
    ("mambaout_femto", (128, 96), {"depths": _FOUR}),
    ("resnet18", (128, 96), {}),
    ("resnetv2_50", (128, 96), {"layers": _FOUR}),
    ("res2net50_14w_8s", (128, 96), {"layers": _FOUR}),
    ("regnetx_002", (128, 96), {}),
    ("nfnet_l0", (128, 96), {}),
    ("vgg11", (128, 96), {}),
    ("densenet121", (128, 96), {"growth_rate": 8, "block_config": (2, 2, 2, 2)}),
    ("efficientnet_lite0", (128, 96), {}),
    ("mobilenetv3_small_050", (128, 96), {}),
    ("mobilenetv4_conv_small_050", (128, 96), {}),
    ("ghostnet_050", (128, 96), {}),
    ("rexnet_100", (128, 96), {}),
    ("starnet_s1", (128, 96), {}),
    ("hrnet_w18_small", (128, 96), {}),
    ("dla34", (128, 96), {}),
    ("vovnet39a", (128, 96), {}),
    ("xception41", (128, 96), {}),
]


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)


# torchvision ---------------------------------------------------------------------------------------------------------

_TORCHVISION: list[tuple[str, tuple[int, ...]]] = [
    ("alexnet", (3, 128, 96)),
    ("convnext_tiny", (3, 128, 96)),
    ("densenet121", (3, 128, 96)),
    ("efficientnet_b0", (3, 128, 96)),
    ("efficientnet_v2_s", (3, 128, 96)),
    ("googlenet", (3, 128, 96)),
    ("inception_v3", (3, 160, 128)),
    ("maxvit_t", (3, 224, 224)),
    ("mnasnet0_5", (3, 128, 96)),
    ("mobilenet_v2", (3, 128, 96)),
    ("mobilenet_v3_small", (3, 128, 96)),
    ("regnet_x_400mf", (3, 128, 96)),
    ("resnet18", (3, 128, 96)),
    ("resnext50_32x4d", (3, 128, 96)),
    ("shufflenet_v2_x0_5", (3, 128, 96)),
    ("squeezenet1_1", (3, 128, 96)),
    ("swin_t", (3, 128, 96)),
    ("swin_v2_t", (3, 128, 96)),
    ("vgg11", (3, 128, 96)),
    ("wide_resnet50_2", (3, 128, 96)),
    ("r3d_18", (3, 8, 64, 48)),
    ("swin3d_t", (3, 4, 96, 64)),
]


def _torchvision(name: str) -> nn.Module:
    from torchvision.models import get_model

    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return get_model(name, weights=None, num_classes=CLASSES, **options)


def _torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(96, 16, num_layers=2, num_heads=3, hidden_dim=48, mlp_dim=96, num_classes=CLASSES)


# open_clip, ultralytics, MONAI ---------------------------------------------------------------------------------------


def _open_clip(**vision: Any) -> nn.Module:
    import open_clip

    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    return Similarity(open_clip.CLIP(32, {"image_size": 96, **vision}, text).visual, 32)


def _ultralytics(name: str) -> nn.Module:
    from ultralytics.nn.tasks import ClassificationModel

    return Pick(ClassificationModel(f"{name}.yaml", nc=CLASSES, verbose=False), lambda found: found[-1])


def _monai_densenet() -> nn.Module:
    from monai.networks.nets import DenseNet

    return DenseNet(3, 1, CLASSES, init_features=16, growth_rate=8, block_config=(2, 2, 2, 2))


def _monai_vit() -> nn.Module:
    from monai.networks.nets import ViT

    options = {"hidden_size": 48, "mlp_dim": 96, "num_layers": 2, "num_heads": 3, "num_classes": CLASSES}
    return Pick(ViT(1, (32, 48, 64), 16, classification=True, **options), lambda found: found[0])


ARCHITECTURES: list[Architecture] = [
    *(
        Architecture("transformers", family + task, size, lambda f=family, t=task, o=options: _hugging_face(f, t, o))
        for family, task, size, options in _HUGGING_FACE
    ),
    Architecture("transformers", "CLIPVisionModelWithProjection", (3, 96, 96), _clip_with_texts),
    *(Architecture("timm", name, (3, *size), lambda n=name, o=options: _timm(n, o)) for name, size, options in _TIMM),
    *(Architecture("torchvision", name, size, lambda n=name: _torchvision(n)) for name, size in _TORCHVISION),
    Architecture("torchvision", "VisionTransformer", (3, 96, 96), _torchvision_vit),
    Architecture("open_clip", "ViT", (3, 96, 96), lambda: _open_clip(layers=2, width=48, head_width=16, patch_size=16)),
    Architecture("open_clip", "RN50", (3, 96, 96), lambda: _open_clip(layers=(1, 1, 1, 1), width=16, head_width=16)),
    Architecture(
        "open_clip",
        "timm tower",
        (3, 96, 96),
        lambda: _open_clip(timm_model_name="resnet18", timm_pool="avg", timm_proj="linear"),
    ),
    Architecture("ultralytics", "yolov8n-cls", (3, 128, 96), lambda: _ultralytics("yolov8n-cls")),
    Architecture("ultralytics", "yolo11n-cls", (3, 128, 96), lambda: _ultralytics("yolo11n-cls")),
    Architecture("monai", "DenseNet, 3D", (1, 64, 96, 64), _monai_densenet),
    Architecture("monai", "ViT, 3D", (1, 32, 48, 64), _monai_vit),
]


def available(architecture: Architecture) -> bool:
    """Return whether the library of an architecture is installed."""
    return importlib.util.find_spec(architecture.library) is not None
