"""Insertion and deletion written from the papers, pixel by pixel, in float64 for single samples.

An image is a tensor (C, *S), a map a tensor (*S), `confidence` a function of one image that returns a number.
"""

from __future__ import annotations

import math
from itertools import product

import torch


def places(size):
    """All pixels of an image, row by row."""
    return list(product(*(range(length) for length in size)))


def descending(plane):
    """The pixels from the highest value of the map to the lowest; equal ones row by row."""
    remaining, order = places(plane.shape), []
    while remaining:
        best = remaining[0]
        for place in remaining:
            if plane[place] > plane[best]:
                best = place
        remaining.remove(best)
        order.append(best)
    return order


def counts(step, pixels):
    """How many pixels have changed at each point of the curve."""
    found = [0]
    if isinstance(step, int):
        while found[-1] + step < pixels:
            found.append(found[-1] + step)
    elif step * pixels < 1:
        found = list(range(pixels))
    else:
        point = 1
        while round(point * (step * pixels)) < pixels:
            found.append(round(point * (step * pixels)))
            point += 1
    return [*found, pixels]


def gaussian_kernel(size, sigma):
    """An impulse amid `size` places, smoothed by a Gaussian of four sigmas with the signal reflected at its ends."""
    impulse = [0.0] * size
    impulse[size // 2] = 1.0
    signal = impulse
    reach = math.floor(4 * sigma + 0.5)
    while len(signal) < size + 2 * (reach + size):  # d c b a | a b c d | d c b a
        signal = impulse[::-1] + signal + impulse[::-1]
        impulse = impulse[::-1]
    start = (len(signal) - size) // 2
    weights = [math.exp(-offset * offset / (2 * sigma * sigma)) for offset in range(-reach, reach + 1)]
    total = math.fsum(weights)
    return [
        math.fsum(weights[reach + offset] / total * signal[start + i + offset] for offset in range(-reach, reach + 1))
        for i in range(size)
    ]


def blur(image, size=11, sigma=5.0):
    """Weighted mean of the neighbours of every pixel, those outside of the image being 0."""
    kernel = gaussian_kernel(size, sigma)
    out = torch.zeros_like(image)
    for channel in range(image.shape[0]):
        for place in places(image.shape[1:]):
            terms = []
            for shift in product(range(size), repeat=len(place)):
                there = tuple(p + s - size // 2 for p, s in zip(place, shift, strict=True))
                if all(0 <= t < length for t, length in zip(there, image.shape[1:], strict=True)):
                    weight = math.prod(kernel[s] for s in shift)
                    terms.append(weight * image[(channel, *there)].item())
            out[(channel, *place)] = math.fsum(terms)
    return out


def mean(image):
    out = torch.zeros_like(image)
    for channel in range(image.shape[0]):
        out[channel] = math.fsum(image[channel].flatten().tolist()) / image[channel].numel()
    return out


def zeros(image):
    return torch.zeros_like(image)


def curve(confidence, start, finish, plane, step):
    """Change pixels of `start` to those of `finish`; return the fractions and the confidence at each."""
    image, order = start.clone(), descending(plane)
    fractions, scores, changed = [], [], 0
    for count in counts(step, len(order)):
        while changed < count:
            for channel in range(image.shape[0]):
                image[(channel, *order[changed])] = finish[(channel, *order[changed])]
            changed += 1
        fractions.append(count / len(order))
        scores.append(confidence(image))
    return fractions, scores


def insertion(confidence, image, plane, step, substrate):
    return curve(confidence, substrate(image), image, plane, step)


def deletion(confidence, image, plane, step, substrate):
    return curve(confidence, image, substrate(image), plane, step)


def area(fractions, scores):
    return math.fsum(
        (fractions[i + 1] - fractions[i]) * (scores[i] + scores[i + 1]) / 2 for i in range(len(fractions) - 1)
    )
