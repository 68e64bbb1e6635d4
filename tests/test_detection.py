"""A box as target: read from the outputs of torchvision, ultralytics and DETR, and scored by metrics."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import torch
from hosts import CAPTUM
from torch import nn
from torchvision.models import detection

import cam_extras.pytorch_grad_cam as pgc_host
import cam_extras.quantus as quantus_host
from cam_extras.evaluation import Evaluator
from cam_extras.maps import input_map
from cam_extras.probe import Probe
from cam_extras.targets import Box

BOXES = torch.tensor([[0.0, 0, 10, 10], [8, 0, 20, 10], [40, 10, 60, 30], [41, 11, 61, 30]])  # left, top, right, bottom
SCORES = torch.tensor([[0.9, 0.05], [0.2, 0.7], [0.1, 0.8], [0.5, 0.3]])  # of two classes
LABELS = SCORES.argmax(dim=1)


def intersection_over_union(a, b):
    """Count pixels on a fine grid."""
    grid = np.stack(np.meshgrid(np.arange(0.05, 70, 0.1), np.arange(0.05, 40, 0.1)))
    inside = [
        (grid[0] > left) & (grid[0] < right) & (grid[1] > top) & (grid[1] < bottom)
        for left, top, right, bottom in np.asarray([a, b], float)
    ]
    return (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()


def centred(boxes):
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)


def in_torchvision():
    scores = SCORES.amax(dim=1).requires_grad_()
    return {"boxes": BOXES, "labels": LABELS, "scores": scores}, scores


def in_yolo():
    output = torch.cat([centred(BOXES), SCORES], dim=1).T.clone().requires_grad_()
    return output, output


def in_yolo_end_to_end():
    output = torch.cat([BOXES, SCORES.amax(dim=1, keepdim=True), LABELS[:, None].float()], dim=1).requires_grad_()
    return output, output


def in_detr():
    """With a class "no object", which takes what the others leave."""
    logits = torch.cat([SCORES, 1 - SCORES.sum(dim=1, keepdim=True)], dim=1).clamp(min=1e-9).log().requires_grad_()
    return {"logits": logits, "pred_boxes": centred(BOXES)}, logits


class TestReading:
    @pytest.mark.parametrize("make", [in_torchvision, in_yolo, in_yolo_end_to_end, in_detr])
    @pytest.mark.parametrize("label", [None, 0, 1])
    @pytest.mark.parametrize("box", [(1, 0, 11, 10), (8, 0, 20, 11), (41, 10, 61, 30), (0, 20, 10, 30)])
    def test_score_of_the_best_overlap(self, make, label, box):
        output, leaf = make()
        every_class = make in (in_yolo, in_detr)
        mine = [n for n in range(4) if label is None or every_class or LABELS[n] == label]
        overlaps = {n: intersection_over_union(box, BOXES[n]) for n in mine}
        best = max(overlaps, key=overlaps.get, default=None)
        found = best is not None and overlaps[best] >= 0.5
        target = Box(box, label)
        if not found:
            assert target(output).item() == 0
            assert target(output).requires_grad  # maps are 0, which is warned of
            with pytest.raises(ValueError, match=r"no detection.* overlaps the box .* in sample 0: give a box"):
                target.resolved([output])
            return
        expected = SCORES[best, LABELS[best] if label is None else label] if every_class else SCORES[best].amax()
        assert target(output).item() == pytest.approx(expected.item(), abs=1e-6)
        (gradient,) = torch.autograd.grad(target(output), leaf)
        assert gradient.any()
        assert target.resolved([output]).label == (LABELS[best] if label is None else label)
        assert pickle.loads(pickle.dumps(target))(output) == target(output)

    def test_sigmoid_has_no_class_of_nothing(self):
        output = {"logits": SCORES.logit(), "pred_boxes": centred(BOXES)}
        assert Box(BOXES[1], probability="sigmoid")(output).item() == pytest.approx(0.7)
        assert Box(BOXES[1], 0, probability="sigmoid")(output).item() == pytest.approx(0.2)

    def test_nothing_is_detected(self):
        output = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
        assert Box(BOXES[0])(output).item() == 0

    def test_each_image_has_its_own_class(self):
        output = in_torchvision()[0]
        other = {**output, "labels": 1 - LABELS}
        found = Box(BOXES[0]).resolved([output, other])
        assert [target.label for target in found.each(2)] == [0, 1]
        assert found.each(2)[0](other).item() == 0

    @pytest.mark.parametrize(
        ("make", "error", "match"),
        [
            (lambda: Box([1, 2, 3]), TypeError, "left, top, right and bottom"),
            (lambda: Box([5, 2, 5, 9]), ValueError, "right > left"),
            (lambda: Box(BOXES[0], iou_threshold=0), ValueError, r"must lie in \(0, 1\]"),
            (lambda: Box(BOXES[0], -1), ValueError, "label must be 0 or more"),
            (lambda: Box(BOXES[0], 2)(in_yolo()[0]), ValueError, r"must lie in \[0, 2\); got 2"),
            (lambda: Box(BOXES[0], 2)(in_detr()[0]), ValueError, r"must lie in \[0, 2\); got 2"),
            (lambda: Box(BOXES[0])(torch.rand(5)), TypeError, r"the model returns shape \(5,\) for a sample"),
            (lambda: Box(BOXES[0])({"a": 1}), TypeError, "the model returns a dict of a for a sample"),
        ],
    )
    def test_bad_arguments(self, make, error, match):
        with pytest.raises(error, match=match):
            make()


class Squares(nn.Module):
    """Finds bright squares of 8 x 8 pixels, with torchvision's kind of output."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 8, stride=8, bias=False)
        nn.init.constant_(self.layer.weight, 1 / 64)

    def forward(self, x):
        scores = (10 * (self.layer(x)[:, 0] - 0.5)).sigmoid()
        found = []
        for image in scores:
            rows, columns = (image > 0.5).nonzero().T
            corners = 8 * torch.stack([columns, rows, columns + 1, rows + 1], dim=1).float()
            found.append({"boxes": corners, "labels": torch.ones(len(rows)).long(), "scores": image[rows, columns]})
        return found


def bright(*cells):
    image = torch.zeros(1, 32, 32)
    for row, column in cells:
        image[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = torch.linspace(0.6, 1, 8)
    return image


class TestMetrics:
    model = Squares().eval()
    x = torch.stack([bright((0, 1), (2, 3), (3, 0)), bright((1, 1), (2, 2))])
    boxes = torch.tensor([[24.0, 16, 32, 24], [8, 8, 16, 16]])
    targets = [Box(box) for box in boxes]  # noqa: RUF012

    def test_maps_lie_in_the_box(self):
        methods = ["HiResCAM", "GradCAM"]  # a weight for the whole channel shows the other squares too
        names = ["pointing_game", "energy_pointing_game", "insertion", "deletion", "average_drop", "hci"]
        evaluator = Evaluator(self.model, self.model.layer, methods, names)
        found = evaluator(self.x, self.targets, boxes=[box[None].long() for box in self.boxes])
        mine, other = (found.scores[name] for name in methods)
        assert mine["pointing_game"].tolist() == [1, 1]
        assert (mine["energy_pointing_game"] > 1.5 * other["energy_pointing_game"]).all()
        assert (mine["insertion"] >= other["insertion"]).all()
        assert (mine["deletion"] <= other["deletion"]).all()
        assert (found.target.tolist(), found.classes) == ([0, 0], None)

    def test_scores_are_those_of_the_detections(self):
        """Insertion and deletion, in loops over images and steps; a square that is not found counts as 0."""
        evaluator = Evaluator(self.model, self.model.layer, "HiResCAM", ["insertion", "deletion", "average_drop"])
        found = evaluator(self.x, self.targets)
        with torch.no_grad():
            expected = [target(output) for target, output in zip(self.targets, self.model(self.x), strict=True)]
        torch.testing.assert_close(found.confidence, torch.stack(expected).double())
        maps = found.maps["HiResCAM"]
        for curve_name in ("insertion_curve", "deletion_curve"):
            curve = found.curves["HiResCAM"][curve_name]
            for n, target in enumerate(self.targets):
                ranks = maps[n].flatten().argsort(descending=True, stable=True).argsort().reshape(32, 32)
                for fraction, score in zip(curve.fractions.tolist(), curve.scores[n].tolist(), strict=True):
                    high = ranks < round(fraction * 32 * 32)
                    image = self.x[n] * (high if curve_name == "insertion_curve" else ~high)
                    assert score == pytest.approx(target(self.model(image[None])[0]).item(), abs=1e-6)
        masked = [
            target(self.model(x[None])[0]) for target, x in zip(self.targets, self.x * maps[:, None], strict=True)
        ]
        drop = [(p - o.item()) / p for p, o in zip(found.confidence.tolist(), masked, strict=True)]
        assert found.scores["HiResCAM"]["average_drop"].tolist() == pytest.approx(drop, abs=1e-5)

    def test_what_is_not_found_is_named(self):
        with pytest.raises(ValueError, match=r"no detection overlaps the box \[0.0, 0.0, 8.0, 8.0\] .* in sample"):
            pgc_host.GradCAM(self.model, [self.model.layer])(self.x, Box([0, 0, 8, 8]))

    def test_flips_would_move_the_box(self):
        with pytest.raises(ValueError, match="aug_smooth flips the image, and Box"):
            pgc_host.GradCAM(self.model, [self.model.layer])(self.x, self.targets, aug_smooth=True)

    def test_every_host(self):
        expected = pgc_host.HiResCAM(self.model, [self.model.layer])(self.x, self.targets)
        captum = CAPTUM["HiResCAM"](self.model, self.model.layer).attribute(self.x, self.targets)
        np.testing.assert_allclose(input_map(captum.detach(), (32, 32)), expected, atol=1e-6)
        quantus = quantus_host.explain("HiResCAM", layer="layer", batch_size=1)(self.model, self.x, self.targets)
        np.testing.assert_allclose(quantus[:, 0], expected, atol=1e-6)

    def test_methods_that_look_at_other_images(self):
        """What they see of an image in which the box is not found is 0, not an error."""
        probe = Probe(self.model, self.model.layer, self.x, target=self.targets)
        assert probe.utility(self.x * 0).tolist() == [0, 0]
        assert probe.utility(self.x.flip(0)[:1], torch.tensor([0])).tolist() == [0]
        assert not probe.at(self.x * 0).gradients.any()


def small_yolo(name):
    tasks = pytest.importorskip("ultralytics.nn.tasks", reason="ultralytics, which is AGPL, is not installed")
    torch.manual_seed(0)
    model = tasks.DetectionModel(f"{name}.yaml", verbose=False).eval()
    for classes, sides in zip(model.model[-1].cv3, model.model[-1].cv2, strict=True):
        nn.init.normal_(classes[-1].weight, std=0.1)  # as it is made, all scores are alike, and near 0
        nn.init.zeros_(classes[-1].bias)
        nn.init.normal_(sides[-1].weight, std=0.3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.3)
    return model


class First(nn.Module):
    """What pytorch-grad-cam's own classes need: the first of a model's outputs."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)[0]


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n"])
class TestYOLO:
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))

    def found(self, model):
        with torch.no_grad():
            outputs = model(self.x)[0]
        targets = []
        for output in outputs:
            box, label = output[:4], output[4:].amax(dim=0).argmax()
            targets.append(Box(torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])[:, label]))
        return targets, outputs

    def test_strides_together_as_pytorch_grad_cam_averages_them(self, name):
        """The last layers of the three strides; its own class gets the same target, times a million.

        It adds a small number to the largest value of each layer's map, which may be less than that here.
        """
        model = small_yolo(name)
        targets, _ = self.found(model)
        layers = [model.model[index] for index in model.model[-1].f]
        assert len(layers) == 3
        ours = pgc_host.HiResCAM(model, layers)(self.x, targets)
        larger = [lambda output, target=target: 1e6 * target(output) for target in targets]
        theirs = upstream.HiResCAM(First(model), layers)(self.x, larger)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
        assert ours.reshape(2, -1).max(axis=1) == pytest.approx([1, 1], abs=1e-3)

    def test_gradients_are_those_of_one_score(self, name):
        model = small_yolo(name)
        targets, _ = self.found(model)
        layer = model.model[model.model[-1].f[0]]
        kept = []
        handle = layer.register_forward_hook(lambda module, args, output: kept.append(output.retain_grad() or output))
        scores = model(self.x)[0]
        handle.remove()
        for sample, target in enumerate(targets):
            boxes = scores[sample, :4].T.detach()
            corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1)
            overlaps = torch.tensor([_overlap(target.box, corner) for corner in corners])
            anchor = int(overlaps.argmax())
            assert overlaps[anchor] > 0.99
            (gradient,) = torch.autograd.grad(scores[sample, 4:, anchor].amax(), kept[0], retain_graph=True)
            found = Probe(model, layer, self.x, target=targets).gradients
            torch.testing.assert_close(found[sample], gradient[sample])

    def test_has_second_derivatives(self, name):
        model = small_yolo(name)
        targets, _ = self.found(model)
        maps = pgc_host.ShapleyCAM(model, [model.model[model.model[-1].f[0]]])(self.x, targets)
        assert np.isfinite(maps).all()


def _overlap(a, b):
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(shared / (sum(areas) - shared))


@pytest.fixture(scope="module")
def detectors():
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 4, "min_size": 64, "max_size": 96}
    rcnn = detection.fasterrcnn_mobilenet_v3_large_320_fpn(**options, box_score_thresh=0.0).eval()
    retina = detection.retinanet_resnet50_fpn(**options, score_thresh=0.0).eval()
    return {"rcnn": (rcnn, rcnn.backbone.body["16"]), "retina": (retina, retina.backbone.body.layer4)}


class TestTorchvision:
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))

    def targets(self, model):
        with torch.no_grad():
            found = model(self.x)
        largest = [int((one["boxes"][:, 2:] - one["boxes"][:, :2]).prod(dim=1).argmax()) for one in found]
        return [Box(one["boxes"][n], int(one["labels"][n])) for one, n in zip(found, largest, strict=True)]

    @pytest.mark.parametrize("name", ["rcnn", "retina"])
    def test_equals_their_class(self, detectors, name):
        """Up to the small number that it adds to the largest value of a map, which is small here."""
        model, layer = detectors[name]
        targets = self.targets(model)
        ours = pgc_host.GradCAM(model, [layer])(self.x, targets)
        theirs = upstream.GradCAM(model, [layer])(self.x, targets)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.02 if name == "rcnn" else 1e-4)
        assert (ours.reshape(2, -1).max(axis=1) > 0.99).all()

    def test_roi_align_has_no_second_derivative(self, detectors):
        model, layer = detectors["rcnn"]
        for cam in (pgc_host.ShapleyCAM, pgc_host.ShapleyCAME):
            with pytest.raises(ValueError, match=r"no second derivative .*roi_align.* such as GradCAM"):
                cam(model, [layer])(self.x, self.targets(model))

    def test_without_roi_align_there_is_one(self, detectors):
        model, layer = detectors["retina"]
        assert np.isfinite(pgc_host.ShapleyCAM(model, [layer])(self.x, self.targets(model))).all()


class TestDETR:
    def test_gradients_are_those_of_one_score(self):
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")
        torch.manual_seed(0)
        backbone = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
        )
        sizes = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "d_model": 32}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 6, "num_labels": 4}
        none = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
        config = transformers.DetrConfig(backbone_config=backbone, **sizes, **heads, **none)
        model = transformers.DetrForObjectDetection(config).eval()
        layer = model.model.backbone.model.encoder.stages[-1]
        x = torch.rand(2, 3, 64, 96)
        kept = []
        handle = layer.register_forward_hook(
            lambda module, args, output: kept.append(output.detach().requires_grad_()) or kept[0]
        )
        outputs = model(x)
        handle.remove()
        targets, expected = [], torch.zeros_like(kept[0])
        for sample, query in enumerate((3, 5)):
            centre, size = outputs.pred_boxes[sample, query].detach().split(2)
            targets.append(Box(torch.cat([centre - size / 2, centre + size / 2]), 2))
            score = outputs.logits[sample].softmax(dim=1)[query, 2]
            (gradient,) = torch.autograd.grad(score, kept[0], retain_graph=True)
            expected[sample] = gradient[sample]
        torch.testing.assert_close(Probe(model, layer, x, target=targets).gradients, expected)
        found = Evaluator(model, layer, "GradCAM", ["average_drop"])(x, targets)
        score = [outputs.logits[n].double().softmax(dim=1)[q, 2].item() for n, q in enumerate((3, 5))]
        assert found.confidence.tolist() == pytest.approx(score, abs=1e-5)
