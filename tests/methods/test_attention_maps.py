"""LeGrad, attention rollout and raw attention: on three libraries' transformers, and what they refuse."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from nets import CNN, TinyViT
from state import untouched
from torch import nn
from torchvision.models import VisionTransformer, swin_t

from cam_extras.maps import normalise
from cam_extras.methods import AttentionRollout, LeGrad, RawAttention
from cam_extras.probe import Probe

pytestmark = pytest.mark.numerical

ALL = pytest.mark.parametrize("method", [LeGrad(), AttentionRollout(), RawAttention()], ids=lambda m: type(m).__name__)
CLASSES = [1, 0, 4]


def reshape(tokens):
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, 4, 4)


def of_torchvision():
    model = VisionTransformer(64, 16, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=5)
    nn.init.normal_(model.heads.head.weight, std=0.5)
    return model, model.encoder.layers[-1].ln_1, model.encoder.ln, model.heads


def of_timm():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    size = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 4}
    model = timm.models.VisionTransformer(**size, num_classes=5)
    return model, model.blocks[-1].norm1, model.norm, model.head


def of_hugging_face():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    size = {"image_size": 64, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**size, intermediate_size=64, num_labels=5))
    return model, model.get_submodule(blocks_of(model)[-1] + ".layernorm_before"), model.vit.layernorm, model.classifier


def blocks_of(model):
    """Names of the blocks of a model of Hugging Face, whose place depends on the version."""
    return [name for name, module in model.named_modules() if type(module).__name__ == "ViTLayer"]


MADE = {"torchvision": of_torchvision, "timm": of_timm, "Hugging Face": of_hugging_face}


@pytest.fixture(params=MADE)
def made(request):
    torch.manual_seed(0)
    model, layer, norm, head = MADE[request.param]()
    return model.double().eval(), layer, norm, head, torch.randn(3, 3, 64, 64, dtype=torch.float64)


def probe_of(model, layer, x, **options):
    return Probe(model, layer, x, **{"target": CLASSES, "reshape_transform": reshape} | options)


@ALL
def test_batches_and_traces(made, method):
    model, layer, _, _, x = made
    together = method(probe_of(model, layer, x))
    assert together.shape == (3, 1, 4, 4)
    fused = F.scaled_dot_product_attention
    with untouched(model, x):
        alone = [method(probe_of(model, layer, x[n : n + 1], target=c)) for n, c in enumerate(CLASSES)]
    assert F.scaled_dot_product_attention is fused
    torch.testing.assert_close(together, torch.cat(alone))
    assert (together.flatten(1).amax(dim=1) > together.flatten(1).amin(dim=1)).all()


def test_le_grad_is_the_gradient_of_each_blocks_score(made):
    """By finite differences: the last block's attention is changed in one place."""
    model, layer, norm, head, x = made
    x, fused, step = x[:1], F.scaled_dot_product_attention, 1e-6
    found = LeGrad(blocks=1)(probe_of(model, layer, x, target=1))

    def score(place=None):
        calls = []

        def attend(query, key, value, *args, **options):
            calls.append(1)
            attention = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
            if place is not None and len(calls) == 3:
                attention[(0, *place)] += step
            return attention @ value

        seen = []
        handle = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        F.scaled_dot_product_attention = attend
        try:
            model(x)  # not under no-grad, where torchvision takes a way of its own
            handle.remove()
            return head(norm(seen[0].mean(dim=1)))[0, 1].item()
        finally:
            F.scaled_dot_product_attention = fused

    start = score()
    for key in (1, 6, 16):
        slopes = [(score((h, i, key)) - start) / step for h in range(4) for i in range(17)]
        expected = sum(max(0.0, slope) for slope in slopes) / len(slopes)
        assert found[0, 0].flatten()[key - 1].item() == pytest.approx(expected, rel=1e-3)


def test_le_grad_of_torchcam():
    torchcam = pytest.importorskip("torchcam", reason="torch-cam is not installed: pip install torchcam")
    torch.manual_seed(0)
    model, layer, _, _ = of_torchvision()
    model, x = model.double().eval(), torch.randn(3, 3, 64, 64, dtype=torch.float64)
    for blocks in (1, 2, 3):
        with torchcam.methods.LeGrad(model, list(model.encoder.layers)[-blocks:]) as cam:
            (theirs,) = cam(CLASSES, model(x))
        ours = normalise(LeGrad(blocks=blocks)(probe_of(model, layer, x))[:, 0])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # they add 1e-8


def test_attentions_of_hugging_face():
    """What the model returns itself, if asked for eager attention."""
    torch.manual_seed(0)
    model, layer, _, _ = of_hugging_face()
    x = torch.randn(2, 3, 64, 64)
    model.eval()
    maps = [method(probe_of(model, layer, x, target=1)) for method in (RawAttention(), AttentionRollout())]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = [values.mean(dim=1) for values in model(x, output_attentions=True).attentions]
    rollout = torch.eye(17)
    for attention in attentions:
        rollout = (attention + torch.eye(17)) / 2 @ rollout
    for found, expected in zip(maps, (attentions[-1], rollout), strict=True):
        torch.testing.assert_close(found.flatten(1), expected[:, 0, 1:])
    # Written out, it is seen as well.
    eager = [method(probe_of(model, layer, x, target=1)) for method in (RawAttention(), AttentionRollout())]
    torch.testing.assert_close(eager, maps)


@ALL
def test_attention_that_timm_writes_out(method):
    torch.manual_seed(0)
    model, layer, _, _ = of_timm()
    model, x = model.eval(), torch.randn(2, 3, 64, 64)
    fused = method(probe_of(model, layer, x, target=1))
    for block in model.blocks:
        block.attn.fused_attn = False
    torch.testing.assert_close(method(probe_of(model, layer, x, target=1)), fused)


def test_without_a_class_token():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    size = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    model = timm.models.VisionTransformer(**size, class_token=False, global_pool="avg").eval()
    x = torch.randn(2, 3, 64, 64)
    probe = Probe(model, model.blocks[-1].norm1, x, target=1, reshape_transform=lambda t: t.mT.unflatten(2, (4, 4)))
    assert LeGrad()(probe).amax() > 0
    for method in (AttentionRollout, RawAttention):
        with pytest.raises(ValueError, match=r'the 16 tokens are the cells of the layer.*give query="mean"'):
            method()(probe)
        torch.testing.assert_close(method(query="mean")(probe).sum(dim=(1, 2, 3)), torch.ones(2))


def test_the_class_decides_for_le_grad_alone(made):
    model, layer, _, _, x = made
    probes = [probe_of(model, layer, x, target=c) for c in (0, 3)]
    assert not torch.allclose(*(LeGrad()(probe) for probe in probes))
    assert torch.equal(*(AttentionRollout()(probe) for probe in probes))


def test_a_layer_before_the_tokens():
    """The patch embedding has a feature map of its own: which tokens are its cells, it does not tell."""
    torch.manual_seed(0)
    model, *_ = of_torchvision()
    model, x = model.eval(), torch.randn(2, 3, 64, 64)
    before = Probe(model, model.conv_proj, x, target=1, reshape_transform=None)
    with pytest.raises(ValueError, match="choose a layer of the transformer's blocks that returns tokens"):
        LeGrad()(before)


@ALL
@pytest.mark.parametrize(("kind", "layer"), [(CNN, "layer"), (swin_t, "features.0")])
def test_models_without_such_attention(method, kind, layer):
    model = kind().eval()
    probe = Probe(model, model.get_submodule(layer), torch.randn(1, 3, 32, 32), target=1, reshape_transform=None)
    with pytest.raises(ValueError, match=r"no attention was seen in this CNN|attention within windows has no such"):
        method(probe)


@ALL
def test_a_layer_that_is_no_feature_map(method):
    model = TinyViT().eval()
    probe = Probe(model, model.layer, torch.randn(1, 3, 12, 16), target=1, reshape_transform=None)
    with pytest.raises(ValueError, match="13 tokens do not fit a layer with a feature map of size"):
        method(probe)


def test_blocks():
    model = TinyViT().eval()
    probe = Probe(model, model.layer, torch.randn(1, 3, 12, 16), target=1, reshape_transform=TinyViT.reshape)
    with pytest.raises(ValueError, match="the model has 2 blocks; got blocks=3"):
        LeGrad(blocks=3)(probe)
    with pytest.raises(ValueError, match="blocks must be"):
        LeGrad(blocks=0)


def test_other_threads_keep_the_fused_kernel():
    """While one thread watches attention, another one calls the function as ever."""
    model = TinyViT().eval()
    x, seen = torch.randn(1, 3, 12, 16), []

    def call():
        q = torch.randn(1, 2, 5, 4, requires_grad=True)
        seen.append(type(F.scaled_dot_product_attention(q, q, q).grad_fn).__name__)

    def elsewhere(module, args):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    model.norm.register_forward_pre_hook(elsewhere)
    RawAttention()(Probe(model, model.layer, x, target=1, reshape_transform=TinyViT.reshape, second_order=False))
    assert len(seen) == 2
    assert all("ScaledDotProduct" in name for name in seen)
