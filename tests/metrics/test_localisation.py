"""Localisation metrics: against slow references, against other libraries, by hand, and with bad input."""

import csv
import math

import numpy as np
import pytest
import quantus
import reference_localisation as reference
import torch
from sklearn.metrics import f1_score
from torchvision.ops import box_iou

from cam_extras._checks import SampleError
from cam_extras.metrics import _boxes
from cam_extras.metrics.localisation import (
    box_accuracy,
    box_mask,
    box_study,
    component_boxes,
    crop_boxes,
    energy_pointing_game,
    localisation_error,
    max_box_accuracy,
    official_metric,
    pixel_f1,
    pointing_game,
    predicted_boxes,
    saliency_metric,
    selectivity,
)

pytestmark = pytest.mark.numerical

HEIGHT, WIDTH = 9, 12


def random_boxes(number, generator):
    boxes = []
    for _ in range(number):
        rows = []
        for _ in range(int(torch.randint(1, 4, (), generator=generator))):
            xmin = int(torch.randint(0, WIDTH - 1, (), generator=generator))
            ymin = int(torch.randint(0, HEIGHT - 1, (), generator=generator))
            xmax = int(torch.randint(xmin + 1, WIDTH + 1, (), generator=generator))
            ymax = int(torch.randint(ymin + 1, HEIGHT + 1, (), generator=generator))
            rows.append([xmin, ymin, xmax, ymax])
        boxes.append(torch.tensor(rows))
    return boxes


def random_maps():
    """Maps from noise to blobs, of few values and of many, and boxes: sixty samples."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(30, 1, 3, 4, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")[:, 0]
    noise = torch.rand(30, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    noise[::2] = (3 * noise[::2]).round() / 3  # many equal values
    return torch.cat([smooth, noise]), random_boxes(60, generator)


MAPS, BOXES = random_maps()
MASKS = box_mask(BOXES, (HEIGHT, WIDTH))
ROWS, CORNERS = MAPS.tolist(), [rows.tolist() for rows in BOXES]


def assert_equal(scores, expected):
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


class TestAgainstReferences:
    def test_box_mask(self):
        for mask, boxes in zip(MASKS, CORNERS, strict=True):
            assert {tuple(pixel) for pixel in mask.nonzero().tolist()} == reference.union(boxes)

    def test_component_boxes(self):
        for threshold in (0.2, 0.5, 0.8):
            for boxes, h in zip(component_boxes(threshold < MAPS), ROWS, strict=True):
                assert boxes.dtype == torch.int64
                assert [tuple(box) for box in boxes.tolist()] == reference.boxes_above(h, threshold)

    def test_predicted_boxes(self):
        for boxes, h in zip(predicted_boxes(MAPS), ROWS, strict=True):
            assert boxes.shape == (1, 4)
            assert reference.pixels_of(boxes[0].tolist()) == reference.predicted_box(h)

    @pytest.mark.parametrize("ties", ["first", "any"])
    def test_pointing_game(self, ties):
        expected = [reference.pointing_game(h, reference.union(b), ties) for h, b in zip(ROWS, CORNERS, strict=True)]
        assert_equal(pointing_game(MAPS, MASKS, ties=ties), expected)
        assert 0 < sum(expected) < len(expected)

    def test_ties_matter_here(self):
        assert (pointing_game(MAPS, MASKS) != pointing_game(MAPS, MASKS, ties="any")).any()

    def test_energy_pointing_game(self):
        expected = [reference.precision(h, reference.union(b)) for h, b in zip(ROWS, CORNERS, strict=True)]
        assert_equal(energy_pointing_game(MAPS, MASKS), expected)

    def test_pixel_f1(self):
        expected = [reference.pixel_f1(h, reference.union(b)) for h, b in zip(ROWS, CORNERS, strict=True)]
        assert_equal(pixel_f1(MAPS, MASKS), expected)

    def test_localisation_error(self):
        expected = [reference.localisation_error(h, b) for h, b in zip(ROWS, CORNERS, strict=True)]
        assert_equal(localisation_error(MAPS, BOXES), expected)

    def test_official_metric(self):
        correct = torch.arange(len(MAPS)) % 3 > 0
        expected = [reference.official_metric(h, b, c) for h, b, c in zip(ROWS, CORNERS, correct.tolist(), strict=True)]
        assert_equal(official_metric(MAPS, BOXES, correct), expected)

    @pytest.mark.parametrize("components", ["largest", "all"])
    def test_box_accuracy(self, components):
        thresholds, overlaps = (0.0, 1 / 3, 0.5, 0.7, 1.0), (0.1, 0.3, 0.5)
        hits = box_accuracy(MAPS, BOXES, thresholds=thresholds, overlaps=overlaps, components=components)
        expected = [
            [[reference.box_accuracy(h, b, t, d, components) for d in overlaps] for t in thresholds]
            for h, b in zip(ROWS, CORNERS, strict=True)
        ]
        assert_equal(hits, expected)
        best = reference.max_box_accuracy(ROWS, CORNERS, thresholds, overlaps, components)
        assert_equal(max_box_accuracy(hits), best)
        assert 0 < best < 1

    def test_default_box_accuracy(self):
        maps, boxes = MAPS[:5], BOXES[:5]
        thresholds = [step / 100 for step in range(100)]
        hits = box_accuracy(maps, boxes)
        assert hits.shape == (5, 100, 3)
        assert torch.equal(
            hits, box_accuracy(maps, boxes, thresholds=thresholds, overlaps=[0.3, 0.5, 0.7], components="largest")
        )

    def test_saliency_metric(self):
        maps, rows = MAPS[::6], ROWS[::6]
        x = torch.rand(len(maps), 3, HEIGHT, WIDTH, dtype=torch.float64)
        weights = torch.rand(3, HEIGHT, WIDTH, dtype=torch.float64)

        def confidence(images):
            return (images * weights).mean(dim=(-3, -2, -1))

        expected = [
            reference.saliency_metric(image, h, lambda crop: confidence(crop).item())
            for image, h in zip(x, rows, strict=True)
        ]
        assert_equal(saliency_metric(x, maps, confidence), expected)

    def test_every_sample_is_alone(self):
        correct = torch.ones(1, dtype=torch.bool)
        for n in range(0, len(MAPS), 7):
            one, boxes, masks = MAPS[n : n + 1], BOXES[n : n + 1], MASKS[n : n + 1]
            assert localisation_error(one, boxes) == localisation_error(MAPS, BOXES)[n]
            assert official_metric(one, boxes, correct) == localisation_error(MAPS, BOXES)[n]
            assert energy_pointing_game(one, masks) == energy_pointing_game(MAPS, MASKS)[n]


class TestAgainstLibraries:
    def test_f1_of_binary_maps_equals_sklearn(self):
        maps = (MAPS > 0.5).double()
        expected = [f1_score(mask.flatten(), h.flatten()) for mask, h in zip(MASKS, maps, strict=True)]
        assert_equal(pixel_f1(maps, MASKS), expected)

    def test_overlap_equals_torchvision(self):
        for predicted, boxes in zip(predicted_boxes(MAPS), BOXES, strict=True):
            expected = box_iou(predicted.double(), boxes.double())
            torch.testing.assert_close(_boxes.overlap(predicted, boxes), expected, rtol=0, atol=1e-15)
        expected = [
            1 - box_iou(p.double(), b.double()).max() for p, b in zip(predicted_boxes(MAPS), BOXES, strict=True)
        ]
        assert_equal(localisation_error(MAPS, BOXES), expected)

    def test_pointing_game_equals_quantus(self):
        metric = quantus.PointingGame(abs=False, normalise=False, disable_warnings=True)
        x = np.zeros((len(MAPS), 1, HEIGHT, WIDTH))
        scores = metric(
            model=torch.nn.Identity(),
            x_batch=x,
            y_batch=np.zeros(len(MAPS), dtype=int),
            a_batch=MAPS[:, None].numpy(),
            s_batch=MASKS[:, None].numpy(),
            channel_first=True,
        )
        assert_equal(pointing_game(MAPS, MASKS, ties="any"), [float(score) for score in scores])


def picture(*rows):
    """A map of digits, tenths, with # for 1."""
    return torch.tensor([[[1.0 if c == "#" else int(c) / 10 for c in row] for row in rows]], dtype=torch.float64)


class TestByHand:
    two_blobs = picture(
        "00000000",
        "08800000",
        "08800999",
        "00000099",
        "0000000#",
    )

    def test_predicted_box_is_that_of_the_largest_component(self):
        assert predicted_boxes(self.two_blobs)[0].tolist() == [[5, 2, 8, 5]]
        assert [box.tolist() for box in component_boxes(self.two_blobs > 0)[0]] == [[5, 2, 8, 5], [1, 1, 3, 3]]

    def test_diagonal_neighbours_are_not_connected(self):
        diagonal = torch.eye(3).bool()[None]
        assert component_boxes(diagonal)[0].tolist() == [[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3]]

    def test_components_do_not_reach_into_the_next_sample(self):
        boxes = component_boxes(torch.ones(2, 2, 3, dtype=torch.bool))
        assert [rows.tolist() for rows in boxes] == [[[0, 0, 3, 2]]] * 2

    def test_samples_without_components_keep_their_place(self):
        masks = torch.zeros(4, 2, 3, dtype=torch.bool)
        masks[2, 1, 2] = True
        assert [rows.tolist() for rows in component_boxes(masks)] == [[], [], [[2, 1, 3, 2]], []]
        assert all(rows.shape[1] == 4 for rows in component_boxes(masks))

    def test_threshold_is_the_mean_exclusive(self):
        h = picture("0550", "0550", "0#00", "0005")  # mean 0.21875
        assert predicted_boxes(h)[0].tolist() == [[1, 0, 3, 3]]
        equal_to_mean = picture("0555#")  # mean 0.5
        assert predicted_boxes(equal_to_mean)[0].tolist() == [[4, 0, 5, 1]]

    def test_overlaps(self):
        h = picture("00##", "00##", "0000")
        boxes = {(2, 0, 4, 2): 1, (2, 0, 4, 3): 4 / 6, (0, 0, 3, 2): 2 / 8, (0, 2, 4, 3): 0, (0, 0, 4, 3): 4 / 12}
        for box, overlap in boxes.items():
            assert_equal(localisation_error(h, [torch.tensor([box])]), [1 - overlap])
        assert_equal(localisation_error(h, [torch.tensor(list(boxes))]), [0])
        assert_equal(official_metric(h, [torch.tensor(list(boxes))], torch.tensor([False])), [1])

    def test_boxes_that_touch_do_not_overlap(self):
        h = picture("##00", "##00")
        assert_equal(localisation_error(h, [torch.tensor([[2, 0, 4, 2]])]), [1])
        h = picture("##0", "##0", "000")  # apart in both directions: both differences are negative
        assert_equal(localisation_error(h, [torch.tensor([[2, 2, 3, 3]])]), [1])

    def test_union_counts_pixels_once(self):
        h = picture("#0", "#0")
        boxes = [torch.tensor([[0, 0, 1, 2], [0, 1, 2, 2]])]
        masks = box_mask(boxes, (2, 2))
        assert masks.int().tolist() == [[[1, 0], [1, 1]]]
        assert_equal(energy_pointing_game(h, masks), [1])
        assert_equal(pixel_f1(h, masks), [2 * 2 / (2 + 3)])

    def test_overlap_at_the_limit_is_a_hit(self):
        h = picture("#00#######")
        for box, overlap in (((3, 0, 4, 1), 1 / 7), ((0, 0, 10, 1), 0.7), ((7, 0, 10, 1), 3 / 7)):
            hits = box_accuracy(
                h, [torch.tensor([box])], thresholds=[0.5], overlaps=[overlap, math.nextafter(overlap, 1)]
            )
            assert hits.tolist() == [[[1, 0]]]
        hits = box_accuracy(picture("###0000000"), [torch.tensor([[0, 0, 10, 1]])], thresholds=[0.5], overlaps=[0.3])
        assert hits.tolist() == [[[1]]]

    def test_value_at_the_threshold_is_not_above_it(self):
        h = picture("333#").float()  # 0.3 in float32 is not 0.3 in float64
        hits = box_accuracy(h, [torch.tensor([[3, 0, 4, 1]])], thresholds=[0.29, 0.3], overlaps=[0.5])
        assert hits.tolist() == [[[0], [1]]]

    def test_any_component_may_hit_in_version_two(self):
        boxes = [torch.tensor([[1, 1, 3, 3]])]
        assert box_accuracy(self.two_blobs, boxes, thresholds=[0.5], overlaps=[0.5]).item() == 0
        assert box_accuracy(self.two_blobs, boxes, thresholds=[0.5], overlaps=[0.5], components="all").item() == 1

    def test_options_by_position(self):
        """As they once were."""
        given = [torch.tensor([[3, 0, 4, 1]])]
        with pytest.warns(DeprecationWarning, match="give thresholds, overlaps by keyword"):
            hits = box_accuracy(picture("0001#####0"), given, [0.29, 0.5], [0.5])
        assert torch.equal(hits, box_accuracy(picture("0001#####0"), given, thresholds=[0.29, 0.5], overlaps=[0.5]))

    def test_best_threshold_is_that_of_the_set_and_of_each_overlap(self):
        hits = torch.tensor(
            [  # thresholds x overlaps
                [[1.0, 0.0], [1.0, 1.0]],
                [[1.0, 0.0], [0.0, 1.0]],
            ]
        )
        assert_equal(max_box_accuracy(hits), (1 + 1) / 2)
        assert_equal(max_box_accuracy(hits[:, :, :1]), 1)
        assert_equal(max_box_accuracy(hits[:, 1:]), (1 / 2 + 1) / 2)
        # every image has its own best threshold, but the set only one
        assert_equal(max_box_accuracy(torch.eye(3)[:, :, None]), 1 / 3)

    def test_first_of_several_maxima(self):
        h = picture("0#0", "#0#")
        for pixel, first in (((0, 1), 1), ((1, 0), 0), ((1, 2), 0)):
            mask = torch.zeros(1, 2, 3, dtype=torch.bool)
            mask[0, pixel[0], pixel[1]] = True
            assert_equal(pointing_game(h, mask), [first])
            assert_equal(pointing_game(h, mask, ties="any"), [1])
        assert_equal(pointing_game(h, (h == 0)), [0])
        assert_equal(pointing_game(h, (h == 0), ties="any"), [0])

    def test_fake_cam_hits_only_if_any_maximum_counts(self):
        """The Opti-CAM paper's table has 99.8 per cent for Fake-CAM."""
        fake = torch.ones(1, HEIGHT, WIDTH)
        fake[0, 0, 0] = 0
        mask = box_mask([torch.tensor([[4, 3, 7, 8]])], (HEIGHT, WIDTH))
        assert pointing_game(fake, mask).item() == 0
        assert pointing_game(fake, mask, ties="any").item() == 1
        # its predicted box is the whole image
        assert predicted_boxes(fake)[0].tolist() == [[0, 0, WIDTH, HEIGHT]]

    def test_map_that_misses(self):
        h, masks = picture("00##"), torch.tensor([[[True, False, False, False]]])
        assert_equal(pixel_f1(h, masks), [0])
        assert_equal(energy_pointing_game(h, masks), [0])

    def test_saliency_metric(self):
        x = torch.arange(200.0, dtype=torch.float64).reshape(2, 1, 10, 10)
        maps = torch.zeros(2, 10, 10)
        maps[0, 2:7, 4:8] = 1  # 5 x 4 of 100
        maps[1, 9, 9] = 1  # 1 of 100: counts as 5
        seen = []

        def confidence(images):
            seen.append(images)
            return torch.tensor([0.5, 0.25], dtype=torch.float64)

        scores = saliency_metric(x, maps, confidence)
        assert_equal(scores, [math.log(0.2) - math.log(0.5), math.log(0.05) - math.log(0.25)])
        (crops,) = seen
        assert crops.shape == x.shape
        torch.testing.assert_close(crops[0, 0, 0, 0], x[0, 0, 2, 4])
        torch.testing.assert_close(crops[0, 0, 9, 9], x[0, 0, 6, 7])
        torch.testing.assert_close(crops[1], x[1, :, 9:, 9:].expand_as(crops[1]))

    def test_best_saliency_metric(self):
        x, h = torch.rand(1, 3, 10, 10), torch.zeros(1, 10, 10)
        h[0, 5, 5] = 1
        assert saliency_metric(x, h, lambda images: torch.ones(1)).item() == pytest.approx(math.log(0.05))

    def test_box_study(self):
        maps, masks = MAPS.float(), MASKS
        study = box_study(maps, masks)
        assert list(study) == ["map", "inside", "outside", "box", "complement"]
        assert all(values.shape == maps.shape and values.dtype == maps.dtype for values in study.values())
        assert torch.equal(study["map"], maps)
        assert torch.equal(study["inside"], torch.where(masks, maps, 0))
        assert torch.equal(study["outside"], torch.where(masks, 0, maps))
        assert torch.equal(study["box"], masks.float())
        assert torch.equal(study["complement"], (~masks).float())

    def test_selectivity(self):
        h = torch.tensor([[0.0, 0.25, 1.0]])
        assert selectivity(h, 0.5).tolist() == [[0, 0.5, 1]]
        assert selectivity(h, 1).tolist() == h.tolist()
        assert selectivity(h, 2).tolist() == [[0, 0.0625, 1]]


class TestConstantMaps:
    """A constant map has no predicted box; what else it scores is what its formula says."""

    boxes = (torch.tensor([[0, 0, 6, 3]]),)
    masks = box_mask(boxes, (HEIGHT, WIDTH))

    @pytest.mark.parametrize("value", [0.0, 0.1, 0.7, 1.0])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_boxes(self, value, dtype):
        h = torch.full((1, HEIGHT, WIDTH), value, dtype=dtype)
        assert predicted_boxes(h)[0].shape == (0, 4)
        assert_equal(localisation_error(h, self.boxes), [1])
        assert_equal(official_metric(h, self.boxes, torch.tensor([True])), [1])

    def test_rounding_of_the_mean_makes_no_box(self):
        """Added up, 0.1 comes out below itself for some of these sizes."""
        for size in range(1, 60):
            assert len(predicted_boxes(torch.full((1, size, 7), 0.1, dtype=torch.float64))[0]) == 0

    def test_values(self):
        h = torch.full((1, HEIGHT, WIDTH), 0.5)
        share = 6 * 3 / (HEIGHT * WIDTH)
        assert_equal(pointing_game(h, self.masks), [1])  # the box holds the first pixel
        assert_equal(pointing_game(h, ~self.masks), [0])
        assert_equal(energy_pointing_game(h, self.masks), [share])
        assert_equal(pixel_f1(h, self.masks), [2 * share * 0.5 / (share + 0.5)])
        assert_equal(pixel_f1(0 * h, self.masks), [0])

    def test_box_accuracy(self):
        h = torch.full((1, HEIGHT, WIDTH), 0.5)
        whole = [torch.tensor([[0, 0, WIDTH, HEIGHT]])]
        for components in ("largest", "all"):
            hits = box_accuracy(h, whole, thresholds=[0.4, 0.5, 0.6], overlaps=[1.0], components=components)
            assert hits.flatten().tolist() == [1, 0, 0]

    def test_saliency_metric_is_undefined(self):
        maps = MAPS[:4].clone()
        maps[1], maps[3] = 0.5, 0
        with pytest.raises(SampleError, match=r"undefined for a constant map.*in samples 1, 3: leave") as caught:
            saliency_metric(torch.rand(4, 3, HEIGHT, WIDTH), maps, lambda images: images.mean(dim=(1, 2, 3)))
        assert caught.value.samples == [1, 3]

    def test_energy_of_nothing_is_undefined(self):
        maps = MAPS[:4].clone()
        maps[2] = 0
        with pytest.raises(SampleError, match=r"undefined for a map that is 0 everywhere.*in sample 2: leave"):
            energy_pointing_game(maps, MASKS[:4])


WITH_MASKS = [pointing_game, energy_pointing_game, pixel_f1, box_study]
WITH_BOXES = [
    localisation_error,
    box_accuracy,
    lambda maps, boxes: official_metric(maps, boxes, torch.ones(len(maps), dtype=torch.bool)),
]


class TestBadInput:
    maps, masks, boxes = MAPS[:3].float(), MASKS[:3], BOXES[:3]

    @pytest.mark.parametrize("function", WITH_MASKS)
    @pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.5])
    def test_maps_with_masks(self, function, value):
        maps = self.maps.clone()
        maps[1, 2, 3] = value
        with pytest.raises(SampleError, match=r"the map must lie in \[0, 1\]; got .* in sample 1"):
            function(maps, self.masks)

    @pytest.mark.parametrize("function", WITH_BOXES)
    @pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.5])
    def test_maps_with_boxes(self, function, value):
        maps = self.maps.clone()
        maps[1, 2, 3] = value
        with pytest.raises(SampleError, match=r"the map must lie in \[0, 1\]; got .* in sample 1"):
            function(maps, self.boxes)

    @pytest.mark.parametrize("value", [math.nan, 1.5])
    def test_maps_of_other_functions(self, value):
        maps = self.maps.clone()
        maps[1, 2, 3] = value
        for function in (
            predicted_boxes,
            lambda maps: selectivity(maps, 2),
            lambda maps: saliency_metric(maps[:, None], maps, None),
        ):
            with pytest.raises(SampleError, match=r"the map must lie in .* in sample 1"):
                function(maps)

    @pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (3, 1, HEIGHT, WIDTH), (0, HEIGHT, WIDTH), (3, 0, WIDTH)])
    def test_shape_of_maps(self, shape):
        for function in WITH_MASKS:
            with pytest.raises(ValueError, match=r"expected maps of shape \(N, H, W\); got \("):
                function(torch.zeros(shape), self.masks)
        for function in (localisation_error, box_accuracy):
            with pytest.raises(ValueError, match=r"expected maps of shape \(N, H, W\); got \("):
                function(torch.zeros(shape), self.boxes)

    def test_type_of_maps(self):
        for function in WITH_MASKS:
            with pytest.raises(TypeError, match=r"floating point; got torch.int64: convert them with .float\(\)"):
                function(torch.ones(3, HEIGHT, WIDTH, dtype=torch.int64), self.masks)

    @pytest.mark.parametrize("function", WITH_MASKS)
    def test_masks(self, function):
        with pytest.raises(ValueError, match=r"expected boolean masks .* got torch.float32 of shape \(3, 9, 12\)"):
            function(self.maps, self.masks.float())
        with pytest.raises(ValueError, match=r"expected boolean masks .* got torch.bool of shape \(3, 1, 9, 12\)"):
            function(self.maps, self.masks[:, None])
        with pytest.raises(ValueError, match=r"expected masks of the maps' shape \(3, 9, 12\); got \(2, 9, 12\)"):
            function(self.maps, self.masks[:2])
        masks = self.masks.clone()
        masks[2] = False
        with pytest.raises(SampleError, match="the mask of the object is empty in sample 2: leave"):
            function(self.maps, masks)

    def test_component_boxes(self):
        with pytest.raises(ValueError, match="expected boolean masks"):
            component_boxes(self.maps)
        with pytest.raises(ValueError, match="expected boolean masks"):
            component_boxes(self.masks[0])

    @pytest.mark.parametrize("function", [*WITH_BOXES, lambda maps, boxes: box_mask(boxes, (HEIGHT, WIDTH))])
    def test_boxes(self, function):
        def check(error, message, *wrong, samples=None):
            boxes = [*self.boxes[: 3 - len(wrong)], *wrong]
            with pytest.raises(error, match=message) as caught:
                function(self.maps, boxes)
            if samples:
                assert caught.value.samples == samples

        none = torch.zeros(0, 4, dtype=torch.int64)
        check(SampleError, "there is no box in sample 2: leave", none, samples=[2])
        check(SampleError, "there is no box in samples 1, 2: leave", none, none, samples=[1, 2])
        check(SampleError, r"tensor of shape \(B, 4\); got shape \(4,\) in sample 2", torch.tensor([0, 0, 1, 1]))
        check(SampleError, r"tensor of shape \(B, 4\); got shape \(1, 5\) in sample 2", torch.ones(1, 5).long())
        check(SampleError, r"tensor of shape \(B, 4\); got shape \(0,\) in sample 2", torch.zeros(0).long())
        check(SampleError, r"tensor of shape \(B, 4\); got list in sample 2", [[0, 0, 1, 1]])
        for dtype in (torch.float32, torch.bool, torch.complex64):
            check(TypeError, f"must be integers, in pixels; got {dtype} in sample 2", torch.ones(1, 4, dtype=dtype))
        for box in ([3, 1, 3, 2], [4, 1, 3, 2], [3, 2, 4, 2], [3, 3, 4, 2]):
            check(
                SampleError, "a box is empty in sample 2: .* exclusive", torch.tensor([[0, 0, 1, 1], box]), samples=[2]
            )
        for box in ([-1, 0, 2, 2], [0, -1, 2, 2], [0, 0, WIDTH + 1, 2], [0, 0, 2, HEIGHT + 1]):
            message = r"outside the image of 12 x 9 pixels \(width x height\) in sample 2: clip"
            check(SampleError, message, torch.tensor([[0, 0, 1, 1], box]), samples=[2])

    def test_boxes_to_the_edge_are_inside(self):
        assert box_mask([torch.tensor([[0, 0, WIDTH, HEIGHT]])], (HEIGHT, WIDTH)).all()

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32])
    def test_boxes_of_other_integers(self, dtype):
        boxes = [torch.tensor([[0, 0, 20, 20]], dtype=dtype)]
        h = torch.zeros(1, 30, 30)
        h[0, :20, :10] = 1
        assert localisation_error(h, boxes).item() == 0.5

    @pytest.mark.parametrize("function", WITH_BOXES)
    def test_number_of_boxes(self, function):
        with pytest.raises(ValueError, match=r"expected boxes for 3 samples, one tensor \(B, 4\) for each; got 2"):
            function(self.maps, self.boxes[:2])

    def test_ties(self):
        with pytest.raises(ValueError, match="ties must be one of 'first', 'any'; got 'all'"):
            pointing_game(self.maps, self.masks, ties="all")

    def test_components(self):
        with pytest.raises(ValueError, match="components must be one of 'largest', 'all'; got 'any'"):
            box_accuracy(self.maps, self.boxes, components="any")

    @pytest.mark.parametrize("thresholds", [[], [-0.1], [0.5, 1.1], [math.nan]])
    def test_thresholds(self, thresholds):
        with pytest.raises(ValueError, match=r"thresholds must be one or more numbers in \[0, 1\]; got \["):
            box_accuracy(self.maps, self.boxes, thresholds=thresholds)

    @pytest.mark.parametrize("overlaps", [[], [0.0], [0.5, 1.1], [math.nan]])
    def test_overlaps(self, overlaps):
        with pytest.raises(ValueError, match=r"overlaps must be one or more numbers in \(0, 1\]; got \["):
            box_accuracy(self.maps, self.boxes, overlaps=overlaps)

    @pytest.mark.parametrize("shape", [(), (3,), (3, 4), (0, 4, 2)])
    def test_hits(self, shape):
        with pytest.raises(ValueError, match=r"expected hits of shape \(samples, thresholds, overlaps\); got \("):
            max_box_accuracy(torch.ones(shape))

    @pytest.mark.parametrize("correct", [torch.tensor([1, 0, 1]), torch.tensor([True, False])])
    def test_correct(self, correct):
        with pytest.raises(ValueError, match=r"correct must be boolean of shape \(3,\), predicted == target; got"):
            official_metric(self.maps, self.boxes, correct)

    def test_input_of_the_saliency_metric(self):
        for shape in ((3, HEIGHT, WIDTH), (3, 3, WIDTH, HEIGHT), (2, 3, HEIGHT, WIDTH)):
            with pytest.raises(ValueError, match=r"expected an input \(N, C, H, W\) and maps \(N, H, W\); got"):
                saliency_metric(torch.rand(shape), self.maps, None)

    def test_confidence_of_the_saliency_metric(self):
        x = torch.rand(3, 2, HEIGHT, WIDTH)
        with pytest.raises(ValueError, match=r"the confidence must have shape \(3,\); got \(3, 5\)"):
            saliency_metric(x, self.maps, lambda images: torch.ones(3, 5))
        with pytest.raises(SampleError, match=r"the confidence in the crop must lie in \[0, 1\]; got 2 in sample 1"):
            saliency_metric(x, self.maps, lambda images: torch.tensor([1.0, 2.0, 0.5]))
        with pytest.raises(SampleError, match="undefined where the confidence in the crop is 0, in samples 0, 2"):
            saliency_metric(x, self.maps, lambda images: torch.tensor([0.0, 1.0, 0.0]))

    @pytest.mark.parametrize("exponent", [0, -1, math.inf, math.nan])
    def test_exponent(self, exponent):
        with pytest.raises(ValueError, match="exponent must be a positive number; got"):
            selectivity(self.maps, exponent)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_do_not_overflow_in_half_precision(dtype):
    """The sum of a map of 300 x 300 pixels is more than float16 holds."""
    h, masks = torch.ones(1, 300, 300, dtype=dtype), torch.ones(1, 300, 300, dtype=torch.bool)
    assert_equal(energy_pointing_game(h, masks), [1])
    assert_equal(pixel_f1(h, masks), [1])
    h[0, 0, 0] = 0
    assert predicted_boxes(h)[0].tolist() == [[0, 0, 300, 300]]


def test_nothing_given_is_changed():
    maps, masks, boxes = MAPS.clone(), MASKS.clone(), [rows.clone() for rows in BOXES]
    for function in WITH_MASKS:
        function(maps, masks)
    for function in WITH_BOXES:
        function(maps, boxes)
    assert torch.equal(maps, MAPS)
    assert torch.equal(masks, MASKS)
    assert all(torch.equal(a, b) for a, b in zip(boxes, BOXES, strict=True))


@pytest.mark.gpu
def test_on_the_gpu():
    maps, correct = MAPS.cuda(), torch.ones(len(MAPS), dtype=torch.bool)
    for function in (pointing_game, energy_pointing_game, pixel_f1):
        scores = function(maps, MASKS)
        assert scores.is_cuda
        torch.testing.assert_close(scores.cpu(), function(MAPS, MASKS))
    for scores, expected in (
        (localisation_error(maps, BOXES), localisation_error(MAPS, BOXES)),
        (official_metric(maps, [rows.cuda() for rows in BOXES], correct), official_metric(MAPS, BOXES, correct)),
        (box_accuracy(maps, BOXES, thresholds=[0.5]), box_accuracy(MAPS, BOXES, thresholds=[0.5])),
    ):
        assert scores.is_cuda
        assert torch.equal(scores.cpu(), expected)


@pytest.mark.realdata
def test_real_boxes(realdata):
    """Boxes of the fifteen validation images in the central crop: the shares that the folder's README tells."""
    from PIL import Image

    boxes: dict[str, list[list[int]]] = {}
    with open(realdata.folder / "imagenet_boxes" / "boxes.csv") as file:
        for row in csv.DictReader(file):
            boxes.setdefault(row["file"], []).append([int(row[key]) for key in ("xmin", "ymin", "xmax", "ymax")])
    assert len(boxes) == 15
    cropped = []
    for name, rows in boxes.items():
        width, height = Image.open(realdata.folder / "imagenet_boxes" / name).size
        shift = torch.tensor([round((width - 224) / 2), round((height - 224) / 2)] * 2)
        cropped.append((torch.tensor(rows) - shift).clamp(0, 224))
    masks = box_mask(cropped, (224, 224))
    fake = torch.ones(15, 224, 224)
    fake[:, 0, 0] = 0
    shares = energy_pointing_game(fake, masks)
    percent = (100 * shares).round()
    assert (percent >= 92).sum() == 6
    assert percent.min() == 19
    # the whole image is Fake-CAM's box: LE tells the share of the largest box, which is at most that of all
    assert (1 - localisation_error(fake, cropped) <= shares + 1e-4).all()
    assert pointing_game(fake, masks, ties="any").all()


def test_crop_boxes_pixel_by_pixel():
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(12, (30, 2), generator=generator)
    boxes = [torch.cat([low, low + 1 + torch.randint(6, (30, 2), generator=generator)], dim=1)]
    (found,) = crop_boxes(boxes, corner=(4, 2), size=(6, 9))
    expected = []
    for box in boxes[0].tolist():
        inside = {(y - 2, x - 4) for y, x in reference.pixels_of(box) if 2 <= y < 8 and 4 <= x < 13}
        if inside:
            expected.append(list(reference.box_around(inside)))
    assert found.tolist() == expected
    assert 0 < len(expected) < 30
    (nothing,) = crop_boxes([torch.tensor([[0, 0, 2, 2]])], corner=(4, 2), size=(6, 9))
    assert nothing.shape == (0, 4)
