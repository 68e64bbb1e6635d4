"""Slow, obvious re-implementations of the localisation metrics, pixel by pixel, for one sample.

`h` is a map as a list of rows, `boxes` a list of (xmin, ymin, xmax, ymax), and boxes are sets of pixels, as in the
paper (Opti-CAM, appendix B).
"""

from __future__ import annotations

import math


def pixels_of(box):
    xmin, ymin, xmax, ymax = box
    return {(y, x) for y in range(ymin, ymax) for x in range(xmin, xmax)}


def union(boxes):
    found = set()
    for box in boxes:
        found |= pixels_of(box)
    return found


def iou(a, b):
    if not a | b:
        return 0.0
    return len(a & b) / len(a | b)


def everywhere(h):
    return [(y, x) for y in range(len(h)) for x in range(len(h[0]))]


def mean(h):
    return math.fsum(h[y][x] for y, x in everywhere(h)) / len(everywhere(h))


def components(pixels):
    """Flood fill in reading order, through the four sides; the largest first, of equals the first found."""
    left, found = set(pixels), []
    for start in sorted(pixels):
        if start not in left:
            continue
        component, queue = set(), [start]
        left.remove(start)
        while queue:
            y, x = queue.pop()
            component.add((y, x))
            for neighbour in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    queue.append(neighbour)
        found.append(component)
    return sorted(found, key=lambda component: -len(component))


def box_around(component):
    ys, xs = [y for y, _ in component], [x for _, x in component]
    return min(xs), min(ys), max(xs) + 1, max(ys) + 1


def boxes_above(h, threshold):
    return [
        box_around(component) for component in components([(y, x) for y, x in everywhere(h) if h[y][x] > threshold])
    ]


def predicted_box(h):
    """B_p as a set of pixels, empty for a constant map."""
    if len({h[y][x] for y, x in everywhere(h)}) == 1:
        return set()
    return pixels_of(boxes_above(h, mean(h))[0])


def pointing_game(h, u, ties="first"):
    highest = max(h[y][x] for y, x in everywhere(h))
    maxima = [(y, x) for y, x in everywhere(h) if h[y][x] == highest]
    if ties == "first":
        return 1 if maxima[0] in u else 0
    return 1 if any(pixel in u for pixel in maxima) else 0


def precision(h, u):
    return math.fsum(h[y][x] for y, x in u) / math.fsum(h[y][x] for y, x in everywhere(h))


def recall(h, u):
    return math.fsum(h[y][x] for y, x in u) / len(u)


def pixel_f1(h, u):
    if recall(h, u) == 0:
        return 0
    return 2 * precision(h, u) * recall(h, u) / (precision(h, u) + recall(h, u))


def localisation_error(h, boxes):
    return 1 - max(iou(pixels_of(box), predicted_box(h)) for box in boxes)


def official_metric(h, boxes, correct):
    return 1 - max(iou(pixels_of(box), predicted_box(h)) for box in boxes) * (1 if correct else 0)


def box_accuracy(h, boxes, threshold, overlap, components="largest"):
    found = boxes_above(h, threshold)
    if components == "largest":
        found = found[:1]
    for predicted in found:
        for box in boxes:
            if iou(pixels_of(predicted), pixels_of(box)) >= overlap:
                return 1
    return 0


def max_box_accuracy(maps, boxes, thresholds, overlaps, components="largest"):
    best = []
    for overlap in overlaps:
        accuracies = []
        for threshold in thresholds:
            hits = [box_accuracy(h, b, threshold, overlap, components) for h, b in zip(maps, boxes, strict=True)]
            accuracies.append(sum(hits) / len(hits))
        best.append(max(accuracies))
    return sum(best) / len(best)


def saliency_metric(x, h, confidence):
    """`x` is (C, H, W), and `confidence` a function of such an image."""
    import reference
    import torch

    xmin, ymin, xmax, ymax = box_around(predicted_box(h))
    crop = torch.stack([reference.resize(plane[ymin:ymax, xmin:xmax], *x.shape[1:]) for plane in x])
    area = len(predicted_box(h)) / (x.shape[1] * x.shape[2])
    return math.log(max(0.05, area)) - math.log(confidence(crop))
