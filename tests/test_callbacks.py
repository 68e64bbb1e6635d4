"""Maps while a model is trained: right, and training goes on as it would without, to the bit."""

from __future__ import annotations

import copy
import importlib
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hosts import ANYWHERE, SEVERAL_PASSES
from nets import CNN
from state import equal
from torch import nn
from torchvision import transforms

import cam_extras as ours
from cam_extras.callbacks import MapLogger
from cam_extras.captum import LayerGradCam
from cam_extras.methods import METHODS
from cam_extras.report import overlay

NORMALISE = transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


class Kept:
    """A logger that keeps what it gets."""

    def __init__(self):
        self.figures = {}

    def add_image(self, tag, img_tensor, global_step):
        assert global_step not in self.figures
        self.figures[global_step] = (tag, img_tensor.clone())


@pytest.fixture
def batch():
    return torch.randn(2, 3, 16, 12)


def network():
    torch.manual_seed(0)
    return CNN(batch_norm=True)  # with dropout, too: running statistics and random numbers could be disturbed


def train(model, steps, at=lambda when, step: None, autocast=False):
    """Train on random batches, as people do, and return all that a call in between could disturb."""
    torch.manual_seed(1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    gradients = []
    at("before", 0)
    for step in range(1, steps + 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 16, 12)), torch.randint(5, (4,)))
            at("between forward and backward", step)
        loss.backward()
        at("before the optimiser", step)
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        optimiser.step()
        at("after", step)
        optimiser.zero_grad()
    modes = [module.training for module in model.modules()]
    return copy.deepcopy(model.state_dict()), gradients, modes, torch.get_rng_state(), optimiser.state_dict()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ANYWHERE)
def test_training_is_the_same_with_and_without(name, autocast, batch):
    expected = train(network(), 4, autocast=autocast)
    kept, model = Kept(), network()
    maps = MapLogger(batch, kept, method=METHODS[name](**SEVERAL_PASSES.get(name, {})), layer="layer", every=2)

    def at(when, step):
        if when == "before":
            maps.log_figure(model, step)
        elif when == "between forward and backward":
            maps.figure(model)
        elif when == "after":
            maps.log_figure_if_due(model, step)

    before = np.random.get_state()[1].copy()  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "the gradient of the utility|the channels' contributions")
        assert equal(train(model, 4, at, autocast), expected)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert [*kept.figures] == [0, 2, 4]
    if name != "FakeCAM":  # its maps are of ones whatever the weights
        assert name == "RandomCAM" or not torch.equal(kept.figures[0][1], kept.figures[4][1])


@pytest.mark.parametrize("where", ["between forward and backward", "before the optimiser", "after"])
def test_maps_inside_training_are_those_outside(where, batch):
    found, expected = [], []

    def at(when, step):
        if when != where:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the training mode
            found.append(ours.ShapleyCAM(model, "layer")(batch, [1, 2]))
            found.append(LayerGradCam(model, "layer").attribute(batch, [1, 2]).numpy())
        outside = copy.deepcopy(model).eval()
        expected.append(ours.ShapleyCAM(outside, "layer")(batch, [1, 2]))
        expected.append(LayerGradCam(outside, "layer").attribute(batch, [1, 2]).numpy())

    model = network()
    train(model, 3, at)
    assert len(found) == 6
    for inside, outside in zip(found, expected, strict=True):
        np.testing.assert_array_equal(inside, outside)
        assert outside.any()


@pytest.mark.parametrize("name", ANYWHERE)
def test_maps_inside_inference_mode_and_autocast(name, batch):
    """Inside inference mode to the bit, whatever was made there; in bfloat16, which has 8 bits, within its rounding."""
    model = network().eval()
    cam = getattr(ours, name)(model, "layer", **SEVERAL_PASSES.get(name, {}))
    expected = cam(batch, [1, 2])
    with torch.inference_mode():
        np.testing.assert_array_equal(cam(batch.clone(), [1, 2]), expected)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = cam(batch.clone(), [1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(cam(batch, [1, 2]), rounded)
    if name not in ("FakeCAM", "RandomCAM"):
        for mine, theirs in zip(rounded, expected, strict=True):
            assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > (
                0.95 if name == "AblationCAM" else 0.98
            )  # which subtracts scores


class TestFigure:
    def test_shows_images_and_their_maps(self, batch):
        pictures = torch.rand(2, 3, 16, 12)
        x = torch.stack([NORMALISE(picture) for picture in pictures])
        model = network()
        figure = MapLogger(x, method="HiResCAM", layer="layer", target=[1, 3], transform=NORMALISE).figure(model)
        maps = torch.from_numpy(ours.HiResCAM(copy.deepcopy(model).eval(), "layer")(x, [1, 3]))
        assert figure.shape == (3, 2 * 16, 2 * 12)
        for number in range(2):
            row = figure[:, 16 * number : 16 * (number + 1)]
            torch.testing.assert_close(row[:, :, :12], pictures[number])
            expected = torch.from_numpy(overlay(pictures[number], maps[number])).permute(2, 0, 1)
            torch.testing.assert_close(row[:, :, 12:], expected.float(), rtol=0, atol=0.02)  # 1 of 256 colours

    def test_of_one_channel(self):
        figure = MapLogger(torch.rand(1, 1, 16, 12), layer="layer").figure(CNN(channels=1))
        assert figure.shape == (3, 16, 24)
        assert torch.equal(figure[0, :, :12], figure[2, :, :12])

    def test_of_a_submodule_with_its_layer_found_once(self, batch):
        holder = nn.ModuleDict({"net": network()})
        maps = MapLogger(batch, submodule="net")
        assert torch.equal(maps.figure(holder), MapLogger(batch, layer=maps.layer).figure(holder["net"]))
        assert maps.layer == "head"

    def test_of_one_of_several_outputs(self, batch):
        class Pair(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = network()

            def forward(self, x):
                scores = self.net(x)
                return {"first": scores.flip(1), "second": scores}

        maps = MapLogger(batch, layer="net.layer", output="second")
        assert torch.equal(maps.figure(Pair()), MapLogger(batch, layer="layer").figure(network()))

    def test_in_the_models_own_type(self, batch):
        assert MapLogger(batch, layer="layer").figure(network().double()).dtype == torch.float32


class TestErrors:
    def test_arguments(self, batch):
        for options, error, match in (
            ({"every": 0}, ValueError, "every must be 1 or more"),
            ({"method": "GradCam2"}, ValueError, "GradCam2"),
            ({"logger": object()}, TypeError, r"must have add_image\(tag, image, step\).*got object: give logger="),
        ):
            with pytest.raises(error, match=match):
                MapLogger(batch, **options)
        with pytest.raises(ValueError, match=r"a figure shows images: give inputs \(N, C, H, W\); got \(2, 3, 8\)"):
            MapLogger(torch.randn(2, 3, 8))

    def test_at_the_start_they_are_raised(self, batch):
        with pytest.raises(TypeError, match="got NoneType: give logger="):
            MapLogger(batch, layer="layer").log_figure(network(), 0)
        with pytest.raises(ValueError, match="'leyer'"):
            MapLogger(batch, Kept(), layer="leyer").log_figure(network(), 0)

    def test_later_they_are_told_and_training_goes_on(self, batch):
        model, kept = network(), Kept()
        maps = MapLogger(batch, kept, layer="layer", every=1)
        maps.log_figure(model, 0)
        model.fail = True
        with pytest.warns(UserWarning, match="there is no figure of step 1: RuntimeError: the model fails on purpose"):
            maps.log_figure_if_due(model, 1)
        model.fail = False
        maps.log_figure_if_due(model, 2)
        assert [*kept.figures] == [0, 2]

    @pytest.mark.parametrize(("host", "todo"), [("lightning", "lightning"), ("transformers", r"cam_extras\[hf\]")])
    def test_hosts_that_are_missing(self, host, todo, monkeypatch):
        monkeypatch.setitem(sys.modules, host, None)
        monkeypatch.delitem(sys.modules, f"cam_extras.callbacks.{host}", raising=False)
        with pytest.raises(ImportError, match=rf"cam_extras.callbacks.{host} needs {host} \(.*\): pip install {todo}"):
            importlib.import_module(f"cam_extras.callbacks.{host}")


def hosts_callback(host):
    pytest.importorskip(host, reason=f"needs {host}: pip install cam_extras[models]")
    return importlib.import_module(f"cam_extras.callbacks.{host}").MapCallback


@pytest.mark.models
class TestLightning:
    def fit(self, callbacks, logger=False, **options):
        import lightning.pytorch as lightning

        class Module(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = network()

            def training_step(self, batch, index):
                return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

            def validation_step(self, batch, index):
                self.net(batch[0])

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

        torch.manual_seed(0)
        data = torch.utils.data.TensorDataset(torch.randn(16, 3, 16, 12), torch.randint(5, (16,)))
        loader = torch.utils.data.DataLoader(data, 4, shuffle=True)
        module = Module()
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=2,
            log_every_n_steps=1,
            logger=logger,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(module, loader, torch.utils.data.DataLoader(data, 4))
        return module.state_dict(), torch.get_rng_state()

    @pytest.mark.parametrize(
        ("options", "steps"),
        [({}, [0, 3, 6]), ({"accumulate_grad_batches": 2}, [0, 3]), ({"precision": "bf16-mixed"}, [0, 3, 6])],
    )
    @pytest.mark.filterwarnings("ignore:.*num_workers", "ignore:.*LeafSpec", "ignore:.*gradient of the utility")
    def test_training_is_the_same_with_and_without(self, options, steps, batch):
        callback, kept = hosts_callback("lightning"), Kept()
        maps = callback(batch, kept, layer="layer", submodule="net", every=3)
        with_maps = self.fit([maps], **options)
        assert equal(with_maps, self.fit([], **options))
        assert [*kept.figures] == steps

    @pytest.mark.filterwarnings("ignore:.*num_workers", "ignore:.*LeafSpec")
    def test_the_trainers_own_logger(self, batch, tmp_path):
        callback = hosts_callback("lightning")
        from lightning.pytorch.loggers import CSVLogger

        class Logger(CSVLogger):
            kept = Kept()
            experiment = kept

            def save(self):
                pass

        self.fit([callback(batch, layer="layer", submodule="net", every=4)], Logger(tmp_path))
        assert [*Logger.kept.figures] == [0, 4, 8]
        for logger in (False, CSVLogger(tmp_path)):
            with pytest.raises(TypeError, match="must have add_image"):
                self.fit([callback(batch, layer="layer", submodule="net")], logger)

    def test_models_split_over_devices(self, batch):
        trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(), is_global_zero=True)
        with pytest.raises(ValueError, match="SimpleNamespace splits the model over devices"):
            hosts_callback("lightning")(batch, Kept()).on_train_start(trainer, network())


class TestTransformers:
    def fit(self, folder, callbacks):
        import transformers

        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        torch.manual_seed(0)
        config = transformers.ViTConfig(**sizes, image_size=16, patch_size=4, hidden_dropout_prob=0.5, num_labels=5)
        model = transformers.ViTForImageClassification(config)
        data = [{"pixel_values": torch.randn(3, 16, 16), "labels": int(torch.randint(5, ()))} for _ in range(16)]
        arguments = transformers.TrainingArguments(
            folder,
            max_steps=4,
            per_device_train_batch_size=4,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            learning_rate=0.01,
        )
        transformers.Trainer(model, arguments, train_dataset=data, callbacks=callbacks).train()
        return model.state_dict(), torch.get_rng_state()

    @pytest.mark.models
    def test_training_is_the_same_with_and_without(self, tmp_path):
        callback, kept = hosts_callback("transformers"), Kept()
        pytest.importorskip("accelerate", reason="the Trainer needs accelerate: pip install cam_extras[models]")
        maps = callback(
            torch.randn(2, 3, 16, 16),
            kept,
            every=2,
        )
        with_maps = self.fit(tmp_path, [maps])
        assert equal(with_maps, self.fit(tmp_path, []))
        assert [*kept.figures] == [0, 2, 4]
        assert not torch.equal(kept.figures[0][1], kept.figures[4][1])
        assert maps.layer == "vit.layers.1.layernorm_before"

    @pytest.mark.parametrize("option", ["fsdp", "deepspeed"])
    def test_models_split_over_devices(self, option, batch):
        arguments = SimpleNamespace(**{option: "on"})
        with pytest.raises(ValueError, match="split the model over devices"):
            hosts_callback("transformers")(batch, Kept()).on_train_begin(arguments, None, None, model=network())
