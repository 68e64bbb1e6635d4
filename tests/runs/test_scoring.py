"""Rows of scores: the same whatever the batches, and what goes wrong with an image stays with it."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.evaluation import Evaluator
from cam_extras.methods import ExpectedGradCAM, FakeCAM, GradCAM, OptiCAM, RandomCAM, as_methods
from cam_extras.probe import find_layer
from cam_extras.report import overlay
from cam_extras.runs.batches import Drawing, Input, Reader, Scorer
from cam_extras.runs.sources import Sample
from cam_extras.runs.store import Failure, unpack_map

IMAGES = 7
CANVASES = make_canvases(IMAGES, "test", seed=3)
METRICS = ("average_drop", "adcc", "insertion", "deletion", "pointing_game")


def inputs(**changes):
    x = prepare(CANVASES.images)
    return [
        Input(
            index, f"{index}.png", int(CANVASES.labels[index]), x[index], CANVASES.boxes[index : index + 1], **changes
        )
        for index in range(IMAGES)
    ]


def scorer(model=None, metrics=METRICS, **options):
    model = model or load_classifier()
    layer = next(module for name, module in model.named_modules() if name.endswith(LAYER))
    methods = {"GradCAM": GradCAM(), "RandomCAM": RandomCAM(), "FakeCAM": FakeCAM()}
    return Scorer(Evaluator(model, layer, methods, metrics), **options)


def without(rows, *columns):
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


class Troubled(nn.Module):
    """The demo's classifier, with trouble for batches in which a picture is."""

    def __init__(self, trouble, most=IMAGES * 10):
        super().__init__()
        self.net, self.trouble, self.most = load_classifier(), trouble, most
        self.calls = []

    def forward(self, x):
        self.calls.append(len(x))
        return self.trouble(x, self.net)


def raising_on(*troubled, error=None):
    error = error or RuntimeError("this picture is not for me")
    marks = [prepare(CANVASES.images)[index] for index in troubled]

    def trouble(x, net):
        if any(torch.equal(image, mark) for image in x for mark in marks):
            raise error
        return net(x)

    return trouble


@pytest.mark.numerical
class TestRows:
    def test_equal_those_of_the_evaluator(self):
        model = load_classifier()
        x, boxes = prepare(CANVASES.images), list(CANVASES.boxes[:, None])
        methods = {"GradCAM": GradCAM(), "RandomCAM": RandomCAM(), "FakeCAM": FakeCAM()}
        expected = Evaluator(model, find_layer(model, LAYER), methods, METRICS)(x, CANVASES.labels, boxes=boxes)
        scored = scorer(model, target="label", batch_size=IMAGES, maps=True)(inputs())
        assert not scored.errors
        assert [(row["index"], row["method"]) for row in scored.rows] == [
            (index, method) for index in range(IMAGES) for method in methods
        ]
        for row in scored.rows:
            index, method = row["index"], row["method"]
            assert row["path"] == f"{index}.png"
            assert row["label"] == row["target"] == CANVASES.labels[index]
            assert row["predicted"] == expected.predicted[index]
            assert row["probability"] == expected.confidence[index].item()
            assert row["map_mean"] == pytest.approx(expected.maps[method][index].double().mean().item(), rel=1e-12)
            assert row["map_max"] == expected.maps[method][index].max()
            for name in METRICS:
                assert row[name] == expected.scores[method][name][index].item()
            for name in ("insertion_curve", "deletion_curve"):
                curve = expected.curves[method][name]
                assert row[name] == curve.scores[index].tolist()
                assert row["curve_fractions"] == curve.fractions.tolist()
            np.testing.assert_array_equal(unpack_map(row), expected.maps[method][index].half().numpy())

    @pytest.mark.parametrize("batch_size", [1, 3, None])
    def test_do_not_depend_on_batches(self, batch_size, double_digits):
        """In float64: rounding would change the order of pixels that are almost equal."""
        model = double_digits[0]
        expected = scorer(model, batch_size=IMAGES)(inputs()).rows
        exact = {"index", "path", "method", "label", "target", "predicted", "curve_fractions"}
        for row, other in zip(scorer(model, batch_size=batch_size)(inputs()).rows, expected, strict=True):
            assert row.keys() == other.keys()
            for name, value in row.items():
                assert value == other[name] if name in exact else value == pytest.approx(other[name], abs=1e-6), name

    def test_targets(self):
        given = inputs()
        predicted = scorer(metrics=["average_drop"])(given).rows
        assert all(row["target"] == row["predicted"] for row in predicted)
        assert {row["target"] for row in scorer(metrics=["average_drop"], target=4)(given).rows} == {4}

    def test_batches_have_one_shape(self):
        """In order of index, whatever comes first."""
        given = inputs(), inputs()
        mixed = [
            item if item.index % 2 else Input(item.index, item.path, None, item.x[:, 8:, 8:], item.boxes - 8)
            for item in given[0]
        ]
        model = Troubled(lambda x, net: net(x))
        scored = scorer(model, metrics=["average_drop"], batch_size=2)(mixed)
        assert [row["index"] for row in scored.rows] == [index for index in range(IMAGES) for _ in range(3)]
        assert not scored.errors
        assert max(model.calls) <= 2

    def test_progress(self):
        seen = []
        scorer(batch_size=2, metrics=["average_drop"], on_progress=seen.append)(
            [*inputs(), Failure(7, "7.png", "read", "no")]
        )
        assert sum(seen) == IMAGES + 1
        assert max(seen) == 2


class TestTrouble:
    @pytest.mark.parametrize("batch_size", [1, 4, IMAGES])
    @pytest.mark.parametrize("troubled", [(0,), (3, 4), (6,)])
    def test_model_that_raises_on_images(self, batch_size, troubled):
        scored = scorer(Troubled(raising_on(*troubled)), ["adcc"], batch_size=batch_size)(inputs())
        message = "RuntimeError: this picture is not for me"
        assert scored.errors == [Failure(index, f"{index}.png", "model", message) for index in troubled]
        whole = [index for index in range(IMAGES) if index not in troubled]
        expected = scorer(None, ["adcc"], batch_size=IMAGES)([item for item in inputs() if item.index in whole]).rows
        assert [row["index"] for row in scored.rows] == [index for index in whole for _ in range(3)]
        for row, other in zip(scored.rows, expected, strict=True):
            assert row["adcc"] == pytest.approx(other["adcc"], abs=1e-5)

    @pytest.mark.parametrize("batch_size", [1, 4, IMAGES])
    def test_scores_that_are_undefined(self, batch_size):
        """A confidence of 0 has no drop; an input that is not finite has nothing."""
        given = inputs()
        given[5].x[0, 3, 3] = torch.inf

        def certain(x, net):
            logits = net(x)
            sure = torch.tensor([torch.equal(image, given[2].x) for image in x])
            return torch.where(sure[:, None], logits.detach() * 0 + torch.eye(10)[9] * 1e6 + logits, logits)

        scored = scorer(Troubled(certain), target=1, batch_size=batch_size, metrics=["average_drop"])(given)
        assert [(error.index, error.stage) for error in scored.errors] == [(2, "score"), (5, "score")]
        assert "is 0" in scored.errors[0].message or "0" in scored.errors[0].message
        assert "the input is NaN or infinite" in scored.errors[1].message
        assert [row["index"] for row in scored.rows] == [index for index in (0, 1, 3, 4, 6) for _ in range(3)]

    def test_what_comes_as_a_failure_stays_one(self):
        failure = Failure(2, "2.png", "read", "no image")
        given = inputs()
        given[2] = failure
        scored = scorer(metrics=["average_drop"])(given)
        assert scored.errors == [failure]
        assert len(scored.rows) == 3 * (IMAGES - 1)

    @pytest.mark.parametrize(
        "error",
        [
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
            MemoryError(),
        ],
    )
    def test_out_of_memory_halves_the_batch_and_says_so(self, error):
        def trouble(x, net):
            if len(x) > 2:
                raise error
            return net(x)

        model = Troubled(trouble)
        small = scorer(model, batch_size=6, metrics=["average_drop"])
        with pytest.warns(RuntimeWarning) as told:
            scored = small(inputs())
        assert [str(warning.message) for warning in told] == [
            "there is no memory for 6 images at a time: going on with 3",
            "there is no memory for 3 images at a time: going on with 2",
        ]
        assert not scored.errors
        assert [row["index"] for row in scored.rows] == [index for index in range(IMAGES) for _ in range(3)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(small(inputs()).rows) == 3 * IMAGES  # it stays with what fits
        expected = scorer(batch_size=2, metrics=["average_drop"])(inputs()).rows
        for row, other in zip(scored.rows, expected, strict=True):
            assert row["average_drop"] == pytest.approx(other["average_drop"], abs=1e-5)

    @pytest.mark.parametrize("name", ["insertion", "ExpectedGradCAM", "OptiCAM", "ScoreCAM", "AblationCAM", "blur"])
    def test_out_of_memory_reaches_passes_inside_of_a_batch(self, name):
        """A model that takes 3 rows at most: everything is scored, as without that."""

        def trouble(x, net):
            if len(x) > 3:
                raise MemoryError
            return net(x)

        methods = {
            "insertion": {"GradCAM": GradCAM()},
            "ExpectedGradCAM": {"expected": ExpectedGradCAM(n_samples=16, internal_batch_size=20)},
            "blur": {"blur": ExpectedGradCAM(n_samples=4, baselines="blur", difference="input")},
            "OptiCAM": {"opti": OptiCAM(max_iterations=2)},
        }.get(name) or as_methods([name], 0)
        metrics = ["insertion"] if name == "insertion" else ["average_drop"]
        given = [replace(item, x=item.x.double()) for item in inputs()]

        def score(trouble):
            model = Troubled(trouble)
            model.double()
            evaluator = Evaluator(model, find_layer(model, f"net.{LAYER}"), methods, metrics)
            return Scorer(evaluator, batch_size=6)(given), model

        expected, _ = score(lambda x, net: net(x))
        with pytest.warns(RuntimeWarning) as told:
            scored, model = score(trouble)
        assert scored.errors == []
        messages = [str(warning.message) for warning in told if "no memory" in str(warning.message)]
        if name not in ("OptiCAM", "AblationCAM"):  # of which a pass has no more images than the batch
            assert "internal_batch_size=" in messages[-1]
        assert len(messages) <= 6
        assert max(rows for rows in model.calls if rows <= 3) == 3 or name == "OptiCAM"
        for row, other in zip(scored.rows, expected.rows, strict=True):
            for column in metrics:
                assert row[column] == pytest.approx(other[column], abs=1e-6 if name == "ScoreCAM" else 1e-9), column

    def test_an_image_that_is_too_large_does_not_slow_down_the_others(self):
        given = inputs()
        given[1].x.mul_(100 / given[1].x.max())

        def trouble(x, net):
            if any(image.max() > 20 and not torch.equal(image, given[1].x) for image in x):
                raise MemoryError
            return net(x)

        model = Troubled(trouble)
        layer = find_layer(model, f"net.{LAYER}")
        evaluator = Evaluator(model, layer, {"expected": ExpectedGradCAM(n_samples=16)}, ["average_drop"])
        with pytest.warns(RuntimeWarning) as told:
            scored = Scorer(evaluator, batch_size=1)(given[:3])
        halved = [f"internal_batch_size={rows}" for rows in (16, 8, 4, 2, 1)]
        assert [str(warning.message).split()[-1] for warning in told] == halved
        assert [(error.index, error.stage) for error in scored.errors] == [(1, "memory")]
        assert 16 in model.calls[-4:]  # the passes of the last image

    def test_no_memory_for_one_image(self):
        def trouble(x, net):
            if any(torch.equal(image, given[1].x) for image in x):
                raise MemoryError
            return net(x)

        given = inputs()
        with pytest.warns(RuntimeWarning, match="going on with 1"):
            scored = scorer(Troubled(trouble), batch_size=2, metrics=["average_drop"])(given)
        assert [(error.index, error.stage, error.message) for error in scored.errors] == [(1, "memory", "MemoryError")]
        assert len(scored.rows) == 3 * (IMAGES - 1)

    def test_a_lost_device_stops_the_run(self):
        error = RuntimeError("CUDA error: device-side assert triggered")
        with pytest.raises(RuntimeError, match="cpu cannot go on: RuntimeError: CUDA error"):
            scorer(Troubled(raising_on(3, error=error)))(inputs())

    def many(self, count):
        return [Input(index, "", None, inputs()[index % IMAGES].x) for index in range(count)]

    def test_first_images_that_all_fail_alike(self):
        model = Troubled(raising_on(*range(IMAGES)))
        with pytest.raises(
            RuntimeError, match="all of the first 16 images failed in the same way: RuntimeError: this picture"
        ):
            scorer(model, metrics=["average_drop"])(self.many(20))
        assert len(scorer(model, metrics=["average_drop"])(self.many(15)).errors) == 15
        assert len(scorer(model, metrics=["average_drop"], stop_early=False)(self.many(20)).errors) == 20

    def test_first_images_that_fail_after_one_that_did_not(self):
        scored = scorer(Troubled(raising_on(*range(1, IMAGES))), metrics=["average_drop"])(self.many(40))
        assert len(scored.errors) == 34

    def test_first_images_that_fail_differently(self):
        def trouble(x, net):
            raise RuntimeError(f"about {x.sum():.5f}")

        assert len(scorer(Troubled(trouble), metrics=["average_drop"])(self.many(20)).errors) == 20

    def test_interrupts_pass(self):
        with pytest.raises(KeyboardInterrupt):
            scorer(Troubled(raising_on(3, error=KeyboardInterrupt())))(inputs())


class TestPictures:
    def drawn(self, count, **options):
        drawing = Drawing(lambda x: x * 0.26, overlay, count, "average_drop", seed=0)
        return scorer(metrics=["average_drop"], drawing=drawing, **options)(inputs())

    def test_best_worst_and_random(self):
        """By GradCAM: with the two controls in the mean others were chosen."""
        scored = self.drawn(1, batch_size=IMAGES)

        def extremes(methods):
            rows = [row for row in scored.rows if row["method"] in methods]
            means = {
                index: np.mean([row["average_drop"] for row in rows if row["index"] == index])
                for index in range(IMAGES)
            }
            return min(means, key=means.get), max(means, key=means.get)

        assert extremes(["GradCAM"]) != extremes(["GradCAM", "RandomCAM", "FakeCAM"])
        indices = {picture["index"] for picture in scored.pictures}
        assert {*extremes(["GradCAM"])} <= indices
        assert len(indices) <= 3
        assert [picture["method"] for picture in scored.pictures] == ["", "GradCAM", "RandomCAM", "FakeCAM"] * len(
            indices
        )

    def test_what_they_show(self):
        scored = self.drawn(IMAGES, batch_size=IMAGES, maps=True)
        maps = {(row["index"], row["method"]): unpack_map(row) for row in scored.rows}
        assert len(scored.pictures) == 4 * IMAGES
        for picture in scored.pictures:
            pixels = CANVASES.images[picture["index"]]
            with Image.open(io.BytesIO(picture["picture"])) as image:
                shown = np.asarray(image.convert("RGB")) / 255
            expected = (
                pixels.permute(1, 2, 0).numpy()
                if not picture["method"]
                else overlay(pixels, torch.from_numpy(maps[picture["index"], picture["method"]].copy()))
            )
            assert np.abs(shown - expected).mean() < 0.02

    def test_large_images_become_small_ones(self):
        large = Input(0, "", None, torch.rand(1, 512, 256))
        drawing = Drawing(lambda x: x, overlay, 1, "average_drop", seed=0)
        scored = scorer(metrics=["average_drop"], drawing=drawing)([large])
        with Image.open(io.BytesIO(scored.pictures[0]["picture"])) as image:
            assert image.size == (112, 224)

    def test_none_of_what_is_no_picture(self):
        drawing = Drawing(lambda x: x, overlay, 1, "average_drop", seed=0)
        assert drawing.draw(None, [Input(0, "", None, torch.rand(5, 8, 8))], 0) == []
        assert drawing.draw(None, [Input(0, "", None, torch.rand(1, 8, 8, 8))], 0) == []


class Images:
    def __init__(self, *samples):
        self.samples = samples

    def path(self, index):
        return f"{index}.png"

    def read(self, index):
        sample = self.samples[index]
        if isinstance(sample, Exception):
            raise sample
        return sample


class TestReader:
    image = Image.fromarray(np.arange(100 * 80 * 3, dtype=np.uint32).reshape(80, 100, 3).astype(np.uint8))
    crop = transforms.Compose(
        [
            transforms.Resize(40),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.2] * 3),
        ]
    )

    def test_inputs(self):
        reader = Reader(self.crop, "predicted", False)
        found = reader.read(Images(Sample(0, "a.png", 3, self.image)), 0)
        assert (found.index, found.path, found.label, found.boxes, found.mask) == (0, "a.png", 3, None, None)
        assert torch.equal(found.x, self.crop(self.image))
        x = torch.rand(3, 8, 8)
        assert Reader(None, "predicted", False).prepare(Sample(0, "", None, x)).x is x

    def test_boxes_and_masks_move_with_the_pixels(self):
        """80 x 100 becomes 40 x 50, of which columns 9 to 41 and rows 4 to 36 are left."""
        boxes = torch.tensor([[20, 20, 60, 50], [0, 0, 100, 80], [0, 0, 10, 10]])
        found = Reader(self.crop, "predicted", True).prepare(Sample(0, "", None, self.image, boxes))
        assert found.boxes.tolist() == [[1, 6, 21, 21], [0, 0, 32, 32]]  # the third is cropped away
        mask = torch.zeros(80, 100, dtype=torch.bool)
        mask[20:50, 20:60] = True
        expected = torch.zeros(32, 32, dtype=torch.bool)
        expected[6:21, 1:21] = True
        found = Reader(self.crop, "predicted", True).prepare(Sample(0, "", None, self.image, None, mask))
        assert torch.equal(found.mask, expected)

    def test_boxes_of_inputs_stay(self):
        boxes = torch.tensor([[2, 3, 4, 5]])
        found = Reader(None, "predicted", True).prepare(Sample(0, "", None, torch.rand(3, 8, 8), boxes))
        assert torch.equal(found.boxes, boxes)

    @pytest.mark.parametrize(
        ("sample", "options", "stage", "message"),
        [
            (ValueError("cannot read 0.png: cut off"), {}, "read", "cannot read 0.png: cut off"),
            (KeyError("image"), {}, "read", "KeyError: 'image'"),
            (Sample(0, "0.png", None, image), {"target": "label"}, "label", "this image has none"),
            (Sample(0, "0.png", 1, image), {"object_needed": True}, "object", "neither boxes nor a mask"),
            (Sample(0, "0.png", 1, image), {"transform": None}, "transform", "expected a tensor (C, *S)"),
            (Sample(0, "0.png", 1, image), {"transform": lambda image: 1 / 0}, "transform", "ZeroDivisionError"),
            (
                Sample(0, "0.png", 1, image, torch.tensor([[0, 0, 5, 5]])),
                {"object_needed": True},
                "transform",
                "nothing is left of the object after the transform",
            ),
            (
                Sample(0, "0.png", 1, image, None, torch.zeros(80, 100, dtype=torch.bool)),
                {"object_needed": True},
                "transform",
                "the mask of the object is empty",
            ),
            (
                Sample(0, "0.png", 1, image, torch.tensor([[100, 0, 120, 5], [0, 80, 5, 90]])),
                {"object_needed": True},
                "transform",
                "the boxes lie outside the image, which is 100 pixels wide and 80 high",
            ),
            (Sample(0, "0.png", 1, image), {"transform": None}, "transform", "got Image: give a transform"),
            (
                Sample(0, "0.png", 1, image),
                {"transform": np.asarray},
                "transform",
                "ndarray: the transform must make one",
            ),
        ],
    )
    def test_failures(self, sample, options, stage, message):
        options = {"transform": self.crop, "target": "predicted", "object_needed": False} | options
        failure = Reader(**options).read(Images(sample), 0)
        assert isinstance(failure, Failure)
        assert (failure.index, failure.path, failure.stage) == (0, "0.png", stage)
        assert message in failure.message
