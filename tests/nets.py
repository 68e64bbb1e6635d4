"""Small networks, one for each thing that a model may do to a hook."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 5


class CNN(nn.Module):
    """Convolutions in 1, 2 or 3 dimensions; a smooth head after `layer` gives the score a Hessian."""

    def __init__(self, dims: int = 2, channels: int = 3, inplace: bool = False, batch_norm: bool = False):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1] if batch_norm else nn.Identity
        self.stem = nn.Sequential(
            conv(channels, 6, 3, stride=2, padding=1), norm(6) if batch_norm else norm(), nn.ReLU()
        )
        self.layer = conv(6, 7, 3, padding=1)
        self.activation = nn.ReLU(inplace=inplace)
        self.head = nn.Sequential(conv(7, 8, 3, stride=2, padding=1), norm(8) if batch_norm else norm(), nn.GELU())
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(8, CLASSES)
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.activation(self.layer(self.stem(x))))
        if self.fail:
            raise RuntimeError("the model fails on purpose")
        return self.classifier(self.dropout(x.flatten(2).mean(dim=2)))


class LinearHead(nn.Module):
    """Global average pooling and one linear layer after `layer`: logits are linear in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 7, 3, stride=2, padding=1), nn.ReLU())
        self.classifier = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.layer(x).mean(dim=(2, 3)))


class Attention(nn.Module):
    """Self-attention on PyTorch's fused kernel."""

    def __init__(self, width: int, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        samples, length, width = tokens.shape
        qkv = self.qkv(tokens).reshape(samples, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(samples, length, width))


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 2 * width), nn.GELU())
        self.out = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.out(self.mlp(self.norm2(tokens)))


class TinyViT(nn.Module):
    """Patches, a class token, two blocks. `layer` gives tokens (N, 1 + H * W, C)."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 13, width))
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.layer = self.blocks[1].norm1
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, CLASSES)
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1) + self.position
        tokens = self.blocks(tokens)
        if self.fail:
            raise RuntimeError("the model fails on purpose")
        return self.classifier(self.norm(tokens)[:, 0])

    @staticmethod
    def reshape(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, 3, 4)


class TinySwin(nn.Module):
    """Feature maps with channels last (N, H, W, C)."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.layer = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.classifier = nn.Linear(width, CLASSES)
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        features = self.patches(x).permute(0, 2, 3, 1)
        features = features + self.mlp(self.layer(features))
        if self.fail:
            raise RuntimeError("the model fails on purpose")
        return self.classifier(features.mean(dim=(1, 2)))

    @staticmethod
    def reshape(features: Tensor) -> Tensor:
        return features.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Setting:
    """A model in some state, its layers and what it takes to call it."""

    model: nn.Module
    layers: list[nn.Module]
    x: Tensor
    options: dict = field(default_factory=dict)


def make_setting(name: str) -> Setting:
    torch.manual_seed(0)
    setting = SETTINGS[name]()
    spread_predictions(setting.model, setting.x)
    if name != "batch_norm_train":
        setting.model.eval()
    return setting


def rounding_apart(setting: Setting) -> Setting:
    """The setting where rounding cannot tell a batch from its samples, which are to be compared.

    In float64; in bf16, whose rounding shows in any map, with layers that take one sample at a time.
    """
    if setting.x.dtype != torch.bfloat16:
        return replace(setting, model=setting.model.double(), x=setting.x.double())
    for module in setting.model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.forward = lambda x, forward=module.forward: torch.cat([forward(sample) for sample in x.split(1)])
    return setting


def _to_double(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0].double(),)


def in_double(model: nn.Module) -> nn.Module:
    """A copy that computes in float64 whatever it is given: no batch, order or front end rounds it differently."""
    model = copy.deepcopy(model).double()
    model.register_forward_pre_hook(_to_double)
    return model


def spread_predictions(model: nn.Module, x: Tensor) -> None:
    """Shift the logits so that the samples have different predicted classes: mixed up, they would be noticed."""
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(x)
        model.classifier.bias -= logits.mean(dim=0)
        model.classifier.weight *= 20
        model.classifier.bias *= 20
        predicted = model(x).argmax(dim=1)
    model.train(training)
    assert len(set(predicted.tolist())) > 1


def _image(*size: int, channels: int = 3) -> Tensor:
    return torch.randn(3, channels, *(size or (12, 16)))


def _cnn(**options) -> Setting:
    model = CNN(**options)
    return Setting(model, [model.layer], _image())


def _batch_norm_train() -> Setting:
    model = CNN(batch_norm=True)
    with torch.no_grad():
        model.train()(_image())  # running statistics of its own
    return Setting(model, [model.layer], _image())


def _frozen() -> Setting:
    model = CNN().requires_grad_(False)
    return Setting(model, [model.layer], _image())


def _volume() -> Setting:
    model = CNN(dims=3, channels=1)
    return Setting(model, [model.layer], _image(8, 10, 12, channels=1))


def _vit() -> Setting:
    model = TinyViT()
    return Setting(model, [model.layer], _image(), {"reshape_transform": TinyViT.reshape})


def _swin() -> Setting:
    model = TinySwin()
    return Setting(model, [model.layer], _image(), {"reshape_transform": TinySwin.reshape})


def _two_layers() -> Setting:
    model = CNN()
    # Not in the order in which they run.
    return Setting(model, [model.layer, model.stem], _image())


def _bf16() -> Setting:
    model = CNN().bfloat16()
    return Setting(model, [model.layer], _image().bfloat16())


SETTINGS: dict[str, Callable[[], Setting]] = {
    "plain": _cnn,
    "inplace": lambda: _cnn(inplace=True),
    "batch_norm_train": _batch_norm_train,
    "frozen": _frozen,
    "volume": _volume,
    "vit": _vit,
    "swin": _swin,
    "two_layers": _two_layers,
    "bf16": _bf16,
}
