"""Several layers: one map of their maps, the same in every host, from one forward pass."""

from __future__ import annotations

import json
from functools import partial
from math import prod

import numpy as np
import pytest
import pytorch_grad_cam
import reference
import torch
import yaml
from hosts import ANYWHERE, CAPTUM, PGC, SEVERAL_PASSES
from nets import CNN, TinyViT, in_double
from pytorch_grad_cam.base_cam import BaseCAM
from torch import nn
from torchvision.utils import save_image

from cam_extras.cli import main
from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import load_classifier
from cam_extras.evaluation import Evaluator
from cam_extras.fusion import FUSIONS, fuse, fused_maps
from cam_extras.methods import GradCAM, OptiCAM, as_method
from cam_extras.metrics import METRICS
from cam_extras.probe import Probe
from cam_extras.pytorch_grad_cam import UPSTREAM, Upstream
from cam_extras.quantus import explain
from cam_extras.run import evaluate
from cam_extras.runs.store import Run

LAYERS = ["layer", "stem"]
X = torch.randn(3, 3, 12, 16, generator=torch.Generator().manual_seed(1))
TARGET = torch.tensor([1, 3, 2])


def scaled(cells):
    """Min-max normalisation of numbers."""
    low, high = min(cells), max(cells)
    return [(cell - low) / (high - low) if high > low else 0.0 for cell in cells]


def by_hand(maps, fusion):
    """Maps (N, H, W) of layers -> one map (N, H, W), cell by cell in float64."""
    of_cells = {"mean": lambda values: sum(values) / len(values), "max": max, "refine": prod}[fusion]
    fused = torch.zeros(maps[0].shape, dtype=torch.float64)
    for sample in range(len(fused)):
        cells = [[float(cell) for cell in of_layer[sample].flatten()] for of_layer in maps]
        if fusion != "mean":
            cells = [scaled(of_layer) for of_layer in cells]
        one = scaled([of_cells(values) for values in zip(*cells, strict=True)])
        fused[sample] = torch.tensor(one, dtype=torch.float64).reshape(fused[sample].shape)
    return fused


def map_of(method, model, layer, x=X):
    """The map of one layer at the input's size, before it is scaled again, from a forward pass of its own."""
    probe = Probe(model, model.get_submodule(layer), x, target=TARGET)
    if isinstance(method, OptiCAM):
        return method.maps(probe)
    summed = method(probe).double().sum(dim=1).relu()
    planes = [
        torch.tensor(scaled(plane.flatten().tolist()), dtype=torch.float64).reshape(plane.shape) for plane in summed
    ]
    return torch.stack([reference.resize(plane, *x.shape[2:]) for plane in planes])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return in_double(CNN().eval())


class Counted(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.passes = net, 0

    def forward(self, x):
        self.passes += 1
        return self.net(x)


@pytest.mark.parametrize("fusion", FUSIONS)
class TestFunctions:
    def test_reference(self, fusion):
        maps = torch.rand(3, 2, 4, 5, dtype=torch.float64)
        maps[:, 1] = torch.rand(3, 1, 1)  # constant maps become 0
        maps[0, 0, 1] = 0
        torch.testing.assert_close(fuse(maps, fusion), by_hand(maps, fusion), rtol=0, atol=1e-12)
        assert not fuse(maps, fusion)[1].any()

    def test_one_layer_keeps_its_map(self, fusion):
        """Also Opti-CAM's, which need not reach 0 and 1."""
        model, method = CNN().eval(), OptiCAM(max_iterations=2, normalisation="sigmoid")
        expected = method.maps(Probe(model, model.layer, X, target=TARGET))
        assert expected.amin() > 0.01
        assert torch.equal(fused_maps(method, Probe(model, model.layer, X, target=TARGET), fusion), expected)
        for host in (
            PGC["OptiCAM"](model, "layer", fusion=fusion, max_iterations=2, normalisation="sigmoid")(X, TARGET),
            explain(method, layer=["layer"], fusion=fusion)(model, X, TARGET)[:, 0],
        ):
            np.testing.assert_allclose(host, expected.numpy(), atol=1e-6)

    def test_lines_and_volumes(self, fusion):
        for size in ((7,), (2, 3, 4)):
            maps = torch.rand(2, 2, *size, dtype=torch.float64)
            torch.testing.assert_close(fuse(maps, fusion), by_hand(maps, fusion), rtol=0, atol=1e-12)


def test_what_cannot_be_fused():
    with pytest.raises(ValueError, match="fusion must be one of 'mean', 'max', 'refine'; got 'sum'"):
        fuse([torch.rand(1, 2)], "sum")
    with pytest.raises(ValueError, match="at least one layer, got none"):
        fuse([], "mean")
    with pytest.raises(ValueError, match=r"one shape \(N, \*S\), that of the input; got .*\(1, 2, 2\)"):
        fuse([torch.rand(1, 2, 2), torch.rand(1, 4, 4)], "max")
    for make in (
        lambda: PGC["GradCAM"](CNN(), LAYERS, fusion="sum"),
        lambda: CAPTUM["GradCAM"](CNN(), LAYERS, fusion="sum"),
        lambda: explain("GradCAM", layer=LAYERS, fusion="sum"),
        lambda: Evaluator(CNN(), LAYERS, "GradCAM", fusion="sum"),
        lambda: evaluate(CNN(), LAYERS, [X[0]], "nowhere", fusion="sum"),
    ):
        with pytest.raises(ValueError, match="fusion must be one of 'mean', 'max', 'refine'; got 'sum'"):
            make()


def test_a_product_of_maps_with_nothing_in_common_is_told():
    maps = torch.zeros(2, 2, 3)
    maps[0, :, 0] = maps[1, 0, 0] = maps[1, 1, 2] = 1
    with pytest.warns(UserWarning, match="no place in common, so that their product is 0, in sample 1"):
        assert fuse(maps, "refine").tolist() == [[1, 0, 0], [0, 0, 0]]


class TestHosts:
    @pytest.mark.parametrize("fusion", FUSIONS)
    @pytest.mark.parametrize("name", ANYWHERE)
    def test_all_hosts_are_equal(self, model, name, fusion):
        hyper = SEVERAL_PASSES.get(name, {})
        method = as_method(name, hyper)
        expected = by_hand([map_of(method, model, layer) for layer in LAYERS], fusion)
        found = {
            "pytorch-grad-cam": PGC[name](model, LAYERS, fusion=fusion, **hyper)(X, TARGET),
            "Captum": CAPTUM[name](model, LAYERS, fusion=fusion, **hyper).attribute(X, TARGET)[:, 0],
            "Quantus": explain(name, layer=LAYERS, fusion=fusion, **hyper)(model, X, TARGET)[:, 0],
            "Evaluator": Evaluator(model, LAYERS, {"a": method}, "complexity", fusion=fusion)(X, TARGET).maps["a"],
        }
        for host, maps in found.items():
            np.testing.assert_allclose(np.asarray(maps), expected.numpy(), atol=1e-5, err_msg=host)

    @pytest.mark.parametrize("fusion", FUSIONS)
    def test_layers_of_a_transformer(self, fusion):
        """Tokens are arranged layer by layer."""
        vit, layers = TinyViT().eval(), ["patches", "blocks.1.norm1"]
        expected = by_hand([map_of(GradCAM(), vit, layer) for layer in layers], fusion).numpy()
        np.testing.assert_allclose(PGC["GradCAM"](vit, layers, fusion=fusion)(X, TARGET), expected, atol=1e-5)
        found = Evaluator(vit, layers, "GradCAM", "complexity", fusion=fusion)(X, TARGET).maps["GradCAM"]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)

    @pytest.mark.parametrize("fusion", FUSIONS)
    def test_classes_of_pytorch_grad_cam(self, model, fusion):
        """Each layer's map is that of their class for this layer."""
        plain = CNN().eval()
        expected = by_hand([map_of(Upstream(cam="FEM"), plain, layer) for layer in LAYERS], fusion).numpy()
        of_evaluator = Evaluator(plain, LAYERS, "FEM", "complexity", fusion=fusion)(X, TARGET).maps["FEM"]
        np.testing.assert_allclose(of_evaluator.numpy(), expected, atol=1e-5)
        found = explain(UPSTREAM["FEM"], layer=LAYERS, fusion=fusion)(plain, X, TARGET)[:, 0]
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_one_forward_pass(self):
        counted = Counted(CNN().eval())
        layers = [f"net.{layer}" for layer in LAYERS]
        explained = {
            "pytorch-grad-cam": lambda: PGC["ShapleyCAM"](counted, layers, fusion="refine")(X, TARGET),
            "Captum": lambda: CAPTUM["ShapleyCAM"](counted, layers, fusion="refine").attribute(X, TARGET),
            "Quantus": lambda: explain("ShapleyCAM", layer=layers, fusion="refine")(counted, X, TARGET),
        }
        for host, run in explained.items():
            run()  # finds out how the layers' outputs are arranged
            counted.passes = 0
            run()
            assert counted.passes == 1, host
        several = Evaluator(counted, layers, ["GradCAM", "ShapleyCAM"], ["average_drop", "coherency"])
        alone = Evaluator(counted, layers[0], ["GradCAM", "ShapleyCAM"], ["average_drop", "coherency"])
        passes = []
        for evaluator in (several, alone):
            evaluator(X, TARGET)
            counted.passes = 0
            evaluator(X, TARGET)
            passes.append(counted.passes)
        assert passes[0] == passes[1] == 3

    def test_auto_among_the_layers(self, model):
        plain = CNN().eval()
        named = Evaluator(plain, ["head", "stem"], "GradCAM", "complexity", fusion="max")(X, TARGET).maps["GradCAM"]
        found = Evaluator(plain, ["auto", "stem"], "GradCAM", "complexity", fusion="max")(X, TARGET).maps["GradCAM"]
        assert torch.equal(found, named)
        explained = explain("GradCAM", layer=["auto", "stem"], fusion="max")(plain, X, TARGET)[:, 0]
        np.testing.assert_array_equal(explained, named.numpy())

    def test_captum_without_a_fusion_gives_a_list(self, model):
        several = CAPTUM["GradCAM"](model, LAYERS).attribute(X, TARGET)
        for layer, found in zip(LAYERS, several, strict=True):
            assert torch.equal(found, CAPTUM["GradCAM"](model, layer).attribute(X, TARGET))
        fused = CAPTUM["GradCAM"](model, LAYERS, fusion="mean")
        (in_tuple,) = fused.attribute((X,), TARGET)
        assert torch.equal(in_tuple, fused.attribute(X, TARGET))
        with pytest.raises(ValueError, match="attr_dim_summation=False cannot be served with fusion='mean'"):
            fused.attribute(X, TARGET, attr_dim_summation=False)


class TestPytorchGradCAM:
    @pytest.fixture(scope="class")
    def plain(self):
        """With gradients beside which their absolute epsilons are nothing."""
        torch.manual_seed(2)
        model = CNN().eval()
        with torch.no_grad():
            model.classifier.weight *= 100_000
        return model

    @pytest.mark.parametrize("name", ["GradCAM", "ShapleyCAM", "LayerCAM", "OptiCAM"])
    def test_the_default_is_theirs_bit_for_bit(self, plain, name):
        hyper = SEVERAL_PASSES.get(name, {})
        cam = PGC[name](plain, LAYERS, **hyper)
        found = cam(X, TARGET)
        cam.aggregate_multi_layers = partial(BaseCAM.aggregate_multi_layers, cam)
        np.testing.assert_array_equal(found, cam(X, TARGET))

    @pytest.mark.parametrize("name", ["GradCAM", "GradCAMPlusPlus", "HiResCAM"])
    def test_their_mean_and_their_refine_cam(self, plain, name):
        theirs, targets = getattr(pytorch_grad_cam, name), [Class(index) for index in TARGET.tolist()]
        modules = [plain.stem, plain.layer]
        expected = theirs(plain, modules)(X, targets)
        np.testing.assert_allclose(PGC[name](plain, modules, fusion="mean")(X, targets), expected, atol=1e-5)
        expected = pytorch_grad_cam.RefineCAM(plain, modules, base_method=theirs)(X, targets)
        np.testing.assert_allclose(PGC[name](plain, modules, fusion="refine")(X, targets), expected, atol=1e-5)

    @pytest.mark.parametrize("name", ["OptiCAM", "MIGradCAM", "ScoreCAM"])
    def test_their_refine_cam_of_our_classes(self, plain, name):
        hyper = SEVERAL_PASSES.get(name, {})
        theirs = pytorch_grad_cam.RefineCAM(plain, [plain.stem, plain.layer], base_method=PGC[name], **hyper)
        expected = theirs(X, TARGET)
        np.testing.assert_allclose(PGC[name](plain, LAYERS, fusion="refine", **hyper)(X, TARGET), expected, atol=1e-5)

    def test_refine_with_eigen_smooth(self, plain):
        """Theirs passes it on as aug_smooth."""
        modules = [plain.stem, plain.layer]
        ours = PGC["GradCAM"](plain, modules, fusion="refine")
        each = [torch.from_numpy(PGC["GradCAM"](plain, layer)(X, TARGET, eigen_smooth=True)) for layer in modules]
        found = ours(X, TARGET, eigen_smooth=True)
        np.testing.assert_allclose(found, by_hand(each, "refine").numpy(), atol=1e-5)
        targets = [Class(index) for index in TARGET.tolist()]
        theirs = pytorch_grad_cam.RefineCAM(plain, modules, base_method=pytorch_grad_cam.GradCAM)
        assert np.abs(theirs(X, targets, eigen_smooth=True) - found).max() > 0.05

    def test_aug_smooth(self, plain):
        found = PGC["GradCAM"](plain, LAYERS, fusion="max")(X, TARGET, aug_smooth=True)
        assert found.shape == (3, 12, 16)
        assert not np.allclose(found, PGC["GradCAM"](plain, LAYERS, fusion="mean")(X, TARGET, aug_smooth=True))


class Class(pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget):
    pass


class TestEvaluator:
    NAMES = ("average_drop", "coherency", "complexity")

    @pytest.mark.parametrize("fusion", FUSIONS)
    def test_scores_by_hand(self, model, fusion):
        found = Evaluator(model, LAYERS, "GradCAM", self.NAMES, fusion=fusion)(X, TARGET)
        maps = by_hand([map_of(GradCAM(), model, layer) for layer in LAYERS], fusion)
        masked = X * maps[:, None]
        again = by_hand([map_of(GradCAM(), model, layer, masked) for layer in LAYERS], fusion)
        scores = found.scores["GradCAM"]
        torch.testing.assert_close(scores["complexity"].double(), maps.flatten(1).mean(1), rtol=0, atol=1e-5)
        compared = [sample for sample in range(3) if again[sample].any()]  # a map of 0 has no correlation
        assert compared
        for sample in compared:
            pearson = np.corrcoef(maps[sample].flatten(), again[sample].flatten())[0, 1]
            assert scores["coherency"][sample].item() == pytest.approx((1 + pearson) / 2, abs=1e-5)
        p, q = (model(x).softmax(dim=1)[range(3), TARGET] for x in (X, masked))
        torch.testing.assert_close(scores["average_drop"].double(), (p - q).relu() / p, rtol=0, atol=1e-4)
        alone = Evaluator(model, "layer", "GradCAM", self.NAMES, fusion=fusion)(X, TARGET)
        assert torch.equal(alone.maps["GradCAM"], Evaluator(model, "layer", "GradCAM")(X, TARGET).maps["GradCAM"])
        assert not torch.equal(alone.scores["GradCAM"]["coherency"], scores["coherency"])

    def test_channel_weights_are_those_of_one_layer(self, model):
        name = next(name for name in METRICS if name.startswith("counterfactual"))
        with pytest.raises(ValueError, match=f"{name} compares the weights of one layer's channels, and there are 2"):
            Evaluator(model, LAYERS, "GradCAM", name)
        Evaluator(model, LAYERS[:1], "GradCAM", name)
        with pytest.raises(ValueError, match="channel weights are those of one layer, and there are 2"):
            explain("GradCAM", layer=LAYERS).channel_weights(model, X, TARGET)


class TestRuns:
    LAYERS = ("layer1", "layer2")
    DATA = torch.randn(6, 3, 12, 16, generator=torch.Generator().manual_seed(3))

    @staticmethod
    def run(folder, layer, **options):
        torch.manual_seed(4)
        given = {"methods": ["GradCAM", "HiResCAM"], "metrics": ["complexity"], "images_per_part": 2, "pictures": 0}
        return evaluate(CNN().eval(), layer, list(TestRuns.DATA), folder, **given, maps=True, **options)

    def test_rows_are_those_of_the_evaluator(self, tmp_path):
        run = self.run(tmp_path, LAYERS, fusion="refine")
        assert run.configuration["layer"] == LAYERS
        assert run.configuration["fusion"] == "refine"
        torch.manual_seed(4)
        expected = Evaluator(CNN().eval(), LAYERS, ["GradCAM", "HiResCAM"], "complexity", fusion="refine")(self.DATA)
        for row in run.results.to_pylist():
            score = expected.scores[row["method"]]["complexity"][row["index"]].item()
            assert row["complexity"] == pytest.approx(score, abs=1e-5)
        assert "layers layer, stem; fusion: refine" in (tmp_path / "report.html").read_text()

    def test_resume(self, tmp_path):
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        for folder in (whole, broken):
            self.run(folder, LAYERS, fusion="max")
        for file in (broken / "parts").glob("00000002*"):
            file.unlink()
        self.run(broken, LAYERS, fusion="max", mode="resume")
        assert (broken / "results.parquet").read_bytes() == (whole / "results.parquet").read_bytes()
        with pytest.raises(ValueError, match='fusion: "max" -> "refine"'):
            self.run(broken, LAYERS, fusion="refine", mode="resume")
        with pytest.raises(ValueError, match=r"layer: .*stem.* -> "):
            self.run(broken, LAYERS[::-1], fusion="max", mode="resume")

    def test_of_one_layer_a_fusion_makes_no_difference(self, tmp_path):
        assert "fusion" not in self.run(tmp_path, ["layer"], fusion="max").configuration
        self.run(tmp_path, "layer", mode="resume")


class TestCommandLine:
    MODEL = "from cam_extras.demo.classifier import load_classifier\nmodel = load_classifier\n"

    @pytest.fixture
    def arguments(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mine.py").write_text(
            f"{self.MODEL}from torchvision import transforms\n"
            "def transform(): return transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])\n"
        )
        (tmp_path / "images").mkdir()
        for number, image in enumerate(make_canvases(2, "test", seed=7).images):
            save_image(image, tmp_path / "images" / f"{number}.png")
        return ["--model", "mine.py:model", "--method", "GradCAM"]

    @staticmethod
    def layers():
        names = [name for name, module in load_classifier().named_modules() if isinstance(module, nn.Conv2d)]
        return names[-2:]

    def test_evaluate_and_its_settings(self, arguments, tmp_path, capsys):
        first, second = self.layers()
        given = [
            "evaluate",
            *arguments,
            "--transform",
            "mine.py:transform",
            "--data",
            "images",
            "--metrics",
            "complexity",
        ]
        flags = ["--layer", first, "--layer", second, "--fusion", "refine"]
        assert main([*given, *flags, "--output", "a", "--maps"]) == 0
        assert f"layers {first}, {second}; fusion: refine" in " ".join(capsys.readouterr().out.split())
        run = Run(tmp_path / "a")
        assert run.configuration["layer"] == [first, second]
        settings = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
        assert (settings["layer"], settings["fusion"]) == ([first, second], "refine")
        assert main(["evaluate", "--config", "a/config.yaml", "--trust-code", "--output", "b"]) == 0
        assert run.results.equals(Run(tmp_path / "b").results)
        assert main(["evaluate", "--config", "a/config.yaml", "--trust-code", "--fusion", "mean", "--output", "c"]) == 0
        assert not run.results.equals(Run(tmp_path / "c").results)
        assert main(["evaluate", "--config", "a/config.yaml", "--trust-code", "--layer", second, "--output", "d"]) == 0
        assert Run(tmp_path / "d").configuration["layer"] == second

    def test_explain(self, arguments, tmp_path, capsys):
        first, second = self.layers()
        (tmp_path / "grey.py").write_text(
            f"{self.MODEL}from torch import nn\n"
            "class Grey(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.net = load_classifier()\n"
            "    def forward(self, x): return self.net(x.mean(dim=1, keepdim=True))\n"
        )
        arguments[1] = "grey.py:Grey"
        flags = ["--layer", f"net.{first}", "--layer", f"net.{second}", "--fusion", "max"]
        assert main(["explain", *arguments, *flags, "images/0.png", "images/1.png", "--output", "out"]) == 0
        run = json.loads((tmp_path / "out" / "run.json").read_text())
        assert run["configuration"]["layer"] == [f"net.{first}", f"net.{second}"]
        assert run["configuration"]["fusion"] == "max"

    def test_mistakes(self, arguments, capsys):
        given = ["evaluate", *arguments, "--data", "images", "--output", "out"]
        assert main([*given, "--fusion", "sum"]) == 2
        assert "--fusion must be one of 'mean', 'max', 'refine'; got 'sum'" in capsys.readouterr().err
        assert main([*given, "--layer", self.layers()[0], "--layer", "layr"]) == 2
        assert "there is no layer 'layr'" in capsys.readouterr().err
