"""Slow, obvious re-implementations of every formula, loop by loop, from the papers; in float64 for single samples.

Methods: (head, activations (K, H, W), class, input (C, H, W), model) -> contributions (K, H, W), where `head` is the
part of the model above the layer, activations (1, K, H, W) -> logits (1, C). Metrics: quantities of one sample -> a
number.
"""

from __future__ import annotations

import math

import reference_insertion_deletion
import reference_localisation
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

METHODS: dict = {}
METRICS: dict = {}


def method(name):
    def register(function):
        METHODS[name] = function
        return function

    return register


def metric(name):
    def register(function):
        METRICS[name] = function
        return function

    return register


def _logit(head, c):
    return lambda a: head(a[None])[0, c]


def _rest(head, c):
    def utility(a):
        logits = head(a[None])[0]
        return logits[c] + torch.log(torch.exp(logits[c]) / torch.exp(logits).sum())

    return utility


def _mean(plane) -> float:
    total = 0.0
    for i in range(plane.shape[0]):
        for j in range(plane.shape[1]):
            total += plane[i, j].item()
    return total / (plane.shape[0] * plane.shape[1])


def _weigh(weights, a):
    out = torch.zeros_like(a)
    for k in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                out[k, i, j] = weights[k] * a[k, i, j]
    return out


@method("GradCAM")
def grad_cam(head, a, c, x, model):
    gradient = jacobian(_logit(head, c), a)
    return _weigh([_mean(gradient[k]) for k in range(len(a))], a)


@method("HiResCAM")
def hires_cam(head, a, c, x, model):
    gradient = jacobian(_logit(head, c), a)
    out = torch.zeros_like(a)
    for k in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                out[k, i, j] = gradient[k, i, j] * a[k, i, j]
    return out


@method("XGradCAM")
def xgrad_cam(head, a, c, x, model):
    gradient = jacobian(_logit(head, c), a)
    out = torch.zeros_like(a)
    for k in range(a.shape[0]):
        total = sum(a[k, i, j] for i in range(a.shape[1]) for j in range(a.shape[2]))
        weight = 0.0
        if total != 0:
            for i in range(a.shape[1]):
                for j in range(a.shape[2]):
                    weight += gradient[k, i, j] * a[k, i, j] / total
        out[k] = weight * a[k]
    return out


@method("GradCAMPlusPlus")
def grad_cam_plus_plus(head, a, c, x, model, epsilon=0.0):
    gradient = jacobian(_logit(head, c), a)
    weights = []
    for k in range(a.shape[0]):
        weight = 0.0
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                g = gradient[k, i, j].item()
                denominator = 2 * g**2 + sum(a[k].flatten().tolist()) * g**3 + epsilon
                if denominator != 0:
                    weight += g**2 / denominator * max(g, 0.0)
        weights.append(weight)
    return _weigh(weights, a)


@method("LayerCAM")
def layer_cam(head, a, c, x, model):
    gradient = jacobian(_logit(head, c), a)
    out = torch.zeros_like(a)
    for k in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                out[k, i, j] = max(0.0, gradient[k, i, j].item()) * a[k, i, j]
    return out


@method("GradCAMElementWise")
def grad_cam_element_wise(head, a, c, x, model):
    products = hires_cam(head, a, c, x, model)
    for k in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                products[k, i, j] = max(0.0, products[k, i, j].item())
    return products


@method("CAM")
def cam(head, a, c, x, model):
    return _weigh(model.classifier.weight[c].tolist(), a)


def principal_component(planes, guide):
    """The component of the largest variance, by a singular value decomposition, which grows with the guide."""
    cells = torch.stack([planes[:, i, j] for i in range(planes.shape[1]) for j in range(planes.shape[2])])
    cells = cells - torch.stack([cells[:, k].mean() for k in range(cells.shape[1])])
    directions = torch.linalg.svd(cells)[2]
    component = (cells @ directions[0]).reshape(1, *planes.shape[1:])
    return component if (component[0] * guide).sum() > 0 else -component


@method("EigenCAM")
def eigen_cam(head, a, c, x, model):
    return principal_component(a, sum(abs(plane) for plane in a))


@method("EigenGradCAM")
def eigen_grad_cam(head, a, c, x, model):
    products = hires_cam(head, a, c, x, model)
    return principal_component(products, sum(products) + 0.001 * sum(abs(plane) for plane in products))


def shapley_weights(head, a, c):
    """W^k_ij = [U' - 1/2 A^T H]^k_ij, with the whole Hessian written out."""
    gradient = jacobian(_rest(head, c), a)
    second = hessian(_rest(head, c), a)
    weights = torch.zeros_like(a)
    for k in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                curvature = (second[:, :, :, k, i, j] * a).sum()
                weights[k, i, j] = gradient[k, i, j] - 0.5 * curvature
    return weights


@method("ShapleyCAM")
def shapley_cam(head, a, c, x, model):
    weights = shapley_weights(head, a, c)
    return _weigh([_mean(weights[k]) for k in range(len(a))], a)


@method("ShapleyCAMH")
def shapley_cam_h(head, a, c, x, model):
    return shapley_weights(head, a, c) * a


@method("ShapleyCAME")
def shapley_cam_e(head, a, c, x, model):
    products = shapley_weights(head, a, c) * a
    for k in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                products[k, i, j] = max(0.0, products[k, i, j].item())
    return products


def block_of_vit(block, tokens, attention=None):
    """A block of `TinyViT` on the tokens (T, C) of one image: its attention (heads, T, T), unless given, and output."""
    count, heads = len(tokens), block.attention.heads
    normed = block.norm1(tokens)
    query, key, value = [
        part.reshape(count, heads, -1).permute(1, 0, 2) for part in block.attention.qkv(normed).chunk(3, dim=1)
    ]
    if attention is None:
        attention = torch.zeros(heads, count, count, dtype=tokens.dtype)
        for h in range(heads):
            for i in range(count):
                row = torch.stack([query[h, i] @ key[h, j] / math.sqrt(query.shape[2]) for j in range(count)])
                attention[h, i] = torch.exp(row) / torch.exp(row).sum()
    mixed = torch.cat([attention[h] @ value[h] for h in range(heads)], dim=1)
    tokens = tokens + block.attention.out(mixed)
    return attention, tokens + block.out(block.mlp(block.norm2(tokens)))


def blocks_of_vit(model, x):
    """Of every block: the tokens (T, C) that enter it and its attention (heads, T, T)."""
    with torch.no_grad():
        patches = model.patches(x[None])[0].flatten(1).T
        tokens, found = torch.cat([model.token[0], patches]) + model.position[0], []
        for block in model.blocks:
            attention, after = block_of_vit(block, tokens)
            found.append((block, tokens, attention))
            tokens = after
    return found


@method("LeGrad")
def le_grad(head, a, c, x, model):
    total = torch.zeros(a.shape[1] * a.shape[2], dtype=a.dtype)
    found = blocks_of_vit(model, x)
    for block, tokens, attention in found:

        def score(values, block=block, tokens=tokens):
            after = block_of_vit(block, tokens, values)[1]
            return model.classifier(model.norm(sum(after) / len(after)))[c]

        gradient = jacobian(score, attention)
        heads, count, _ = gradient.shape
        for j in range(1, count):
            positive = [max(0.0, gradient[h, i, j].item()) for h in range(heads) for i in range(count)]
            total[j - 1] += sum(positive) / len(positive) / len(found)
    return total.reshape(1, *a.shape[1:])


@method("AttentionRollout")
def attention_rollout(head, a, c, x, model):
    rollout = torch.eye(1 + a.shape[1] * a.shape[2], dtype=a.dtype)
    for _, _, attention in blocks_of_vit(model, x):
        mean = sum(attention) / len(attention)
        rollout = (0.5 * mean + 0.5 * torch.eye(len(mean), dtype=a.dtype)) @ rollout
    return rollout[0, 1:].reshape(1, *a.shape[1:])


@method("RawAttention")
def raw_attention(head, a, c, x, model):
    _, _, attention = blocks_of_vit(model, x)[-1]
    return (sum(attention) / len(attention))[0, 1:].reshape(1, *a.shape[1:])


@method("FakeCAM")
def fake_cam(head, a, c, x, model):
    out = torch.ones(1, *x.shape[1:], dtype=a.dtype)
    out[0, 0, 0] = 0
    return out


@method("RandomCAM")
def random_cam(head, a, c, x, model):
    generator = torch.Generator().manual_seed(0)

    def draw(count):
        return [2 * torch.rand(1, generator=generator, dtype=torch.float64).item() - 1 for _ in range(count)]

    start, by_direction, by_size = draw(len(a)), draw(len(a)), draw(len(a))
    values = x.flatten().tolist()
    size = math.sqrt(math.fsum(value**2 for value in values))
    along = math.fsum(d * value for d, value in zip(draw(len(values)), values, strict=True)) / size
    weights = []
    for u, v, w in zip(start, by_direction, by_size, strict=True):
        turns = u + 25 * (v * along + w * math.log(size))
        weights.append(2 * abs(2 * (turns - math.floor(turns)) - 1) - 1)
    return _weigh(weights, a)


def enlarge(plane: Tensor, height: int, width: int) -> list[float]:
    """Nearest neighbour, row by row."""
    rows, columns = plane.shape
    return [plane[i * rows // height, j * columns // width].item() for i in range(height) for j in range(width)]


def grey(x) -> list[float]:
    return [
        0.299 * x[0, i, j].item() + 0.587 * x[1, i, j].item() + 0.114 * x[2, i, j].item()
        for i in range(x.shape[1])
        for j in range(x.shape[2])
    ]


def histogram_information(a: list[float], b: list[float], bins: int) -> float:
    """Mutual information of two variables by their joint histogram, in nats."""

    def bin_of(value, values):
        low, high = min(values), max(values)
        return 0 if low == high else min(int((value - low) / (high - low) * bins), bins - 1)

    joint = [[0] * bins for _ in range(bins)]
    for u, v in zip(a, b, strict=True):
        joint[bin_of(u, a)][bin_of(v, b)] += 1
    n = len(a)
    of_a = [sum(row) / n for row in joint]
    of_b = [sum(row[j] for row in joint) / n for j in range(bins)]
    terms = []
    for i in range(bins):
        for j in range(bins):
            if joint[i][j] > 0:
                terms.append(joint[i][j] / n * math.log(joint[i][j] / n / (of_a[i] * of_b[j])))
    return math.fsum(terms)


@method("MIGradCAM")
def mi_grad_cam(head, a, c, x, model):
    gradient = jacobian(_logit(head, c), a)
    information = [histogram_information(enlarge(plane, *x.shape[1:]), grey(x), 64) for plane in a]
    return _weigh([_mean(gradient[k]) * information[k] / sum(information) for k in range(len(a))], a)


def opti_cam_mask(u, a, size, normalisation="range", rectifier="identity"):
    """The mask (H, W) of channels a (K, rectifier, w) weighed by softmax(u)."""
    weights = torch.exp(u) / torch.exp(u).sum()
    saliency = sum(weights[k] * a[k] for k in range(len(a)))
    if rectifier == "relu":
        saliency = saliency.clamp(min=0)
    s = F.interpolate(saliency[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    if normalisation == "range":
        return (s - s.min()) / (s.max() - s.min())
    if normalisation == "max":
        return s.clamp(min=0) / s.max()
    return 1 / (1 + torch.exp(-s))


def opti_cam_start(a):
    """0, or each channel's standard deviation over space by the greatest where the mean channel does not vary."""
    mean = sum(a) / len(a)
    span = sum(channel.max() - channel.min() for channel in a) / len(a)
    if mean.max() - mean.min() > 1e-3 * span:
        return torch.zeros(len(a), dtype=a.dtype)
    deviations = [torch.sqrt(((channel - channel.mean()) ** 2).mean()) for channel in a]
    return torch.stack(deviations) / max(deviations)


def opti_cam_iterates(
    model,
    a,
    c,
    x,
    iterations,
    objective="mask",
    normalisation="range",
    rectifier="identity",
    fill=0.0,
    optimiser="adam",
    learning_rate=0.1,
    utility="logit",
):
    """u before every update and after the last, and the objective before every update; Adam and NAdam written out."""
    u = opti_cam_start(a)
    first, second = torch.zeros_like(u), torch.zeros_like(u)
    iterates, objectives = [u], []
    for t in range(1, iterations + 1):
        v = u.clone().requires_grad_()
        s = opti_cam_mask(v, a, x.shape[1:], normalisation, rectifier)

        def g(image):
            logits = model(image[None])[0]
            return logits[c] if utility == "logit" else torch.log(torch.exp(logits[c]) / torch.exp(logits).sum())

        inside, outside = g(x * s + fill * (1 - s)), g(x * (1 - s) + fill * s)
        value = {
            "mask": inside,
            "diff": -abs(g(x) - inside),
            "iomask": inside - outside,
            "iodiff": -abs(g(x) - inside) + abs(g(x) - outside),
        }[objective]
        (gradient,) = torch.autograd.grad(-value, v)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        step = first / (1 - 0.9**t)
        if optimiser == "nadam":  # Dozat, 2016: the mean as it will be, with this gradient for the next one
            step = 0.9 * first / (1 - 0.9 ** (t + 1)) + 0.1 * gradient / (1 - 0.9**t)
        u = u - learning_rate * step / (torch.sqrt(second / (1 - 0.999**t)) + 1e-8)
        iterates.append(u)
        objectives.append(value.item())
    return iterates, objectives


@method("OptiCAM")
def opti_cam(head, a, c, x, model):
    u = opti_cam_iterates(model, a, c, x, 100)[0][-1]
    weighed = _weigh((torch.exp(u) / torch.exp(u).sum()).tolist(), a)
    return weighed - weighed.sum(dim=0).min() / len(a)


@method("AblationCAM")
def ablation_cam(head, a, c, x, model, replacement="zero"):
    whole = head(a[None])[0, c]
    weights = []
    for k in range(len(a)):
        without = a.clone()
        without[k] = {"zero": 0.0, "mean": _mean(a[k]), "minimum": a.min()}[replacement]
        weights.append((whole - head(without[None])[0, c]) / abs(whole))
    return _weigh(weights, a)


def enlarged_corners(plane, height, width):
    """Linear interpolation, pixel by pixel, with the corner cells' centres at the corners."""
    out = torch.zeros(height, width, dtype=plane.dtype)
    for i in range(height):
        for j in range(width):
            u, v = i * (plane.shape[0] - 1) / (height - 1), j * (plane.shape[1] - 1) / (width - 1)
            for m in range(plane.shape[0]):
                for n in range(plane.shape[1]):
                    out[i, j] += plane[m, n] * max(0.0, 1 - abs(u - m)) * max(0.0, 1 - abs(v - n))
    return out


def _range(plane):
    span = plane.max() - plane.min()
    return (plane - plane.min()) / span if span > 0 else 0 * plane


def softmax(values):
    exponentials = [math.exp(value - max(values)) for value in values]
    return [value / math.fsum(exponentials) for value in exponentials]


def score_cam_mask(plane, size, variant="pytorch-grad-cam"):
    if variant == "torch-cam":
        return resize(_range(plane), *size)
    return _range(enlarged_corners(_range(plane), *size))


@method("ScoreCAM")
def score_cam(head, a, c, x, model, variant="pytorch-grad-cam", fill=0.0):
    masks = [score_cam_mask(plane, x.shape[1:], variant) for plane in a]
    scores = [model((x * mask + fill * (1 - mask))[None])[0, c].item() for mask in masks]
    return _weigh(softmax(scores), a)


@method("SSCAM")
def ss_cam(head, a, c, x, model, n=35, noise=2.0, seed=0):
    seeds = torch.randint(2**31, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    scores = []
    for plane in a:
        mask, total = score_cam_mask(plane, x.shape[1:], "torch-cam"), 0.0
        for number in seeds:
            drawn = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(number), dtype=torch.float32)
            total += model((x * (mask + noise * drawn.double()))[None])[0, c].item()
        scores.append(total / n)
    return _weigh(softmax(scores), a)


@method("ISCAM")
def is_cam(head, a, c, x, model, n=10, path="accumulated"):
    scores = []
    for plane in a:
        mask, total = score_cam_mask(plane, x.shape[1:], "torch-cam"), 0.0
        for i in range(1, n + 1):
            share = sum(j / n for j in range(1, i + 1)) if path == "accumulated" else i / n
            total += model((x * share * mask)[None])[0, c].item()
        scores.append(total / n)
    return _weigh(softmax(scores), a)


def activations_at(model, x):
    """Activations (K, H, W) of `model.layer` for one input (C, H, W)."""
    seen = []
    handle = model.layer.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    model(x[None])
    handle.remove()
    return seen[0][0]


def gradient_at(head, c, model, x):
    return jacobian(_logit(head, c), activations_at(model, x))


def blurred(x):
    """Gaussian of a twentieth of the height and width, pixel by pixel; what lies outside has no weight."""
    channels, height, width = x.shape
    out = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            rows = [math.exp(-((i - u) ** 2) / (2 * (0.05 * height) ** 2)) for u in range(height)]
            columns = [math.exp(-((j - v) ** 2) / (2 * (0.05 * width) ** 2)) for v in range(width)]
            for k in range(channels):
                total = sum(
                    rows[u] * columns[v] * x[k, u, v].item()
                    for u in range(height)
                    for v in range(width)
                    if rows[u] * columns[v] > 0
                )
                out[k, i, j] = total / (sum(rows) * sum(columns))
    return out


def expected_weights(head, a, c, x, model, starts, positions, noises, difference="activation"):
    """w_k = mean_S[ 1/n sum_s D_k(x, x'_s) G_k(x' + a_s (x - x') + e_s) ]."""
    total = torch.zeros_like(a)
    for start, position, noise in zip(starts, positions, noises, strict=True):
        gradient = gradient_at(head, c, model, start + position * (x - start) + noise)
        for k in range(a.shape[0]):
            if difference == "none":
                total[k] += gradient[k]
            elif difference == "activation":
                total[k] += (a[k] - activations_at(model, start)[k]) * gradient[k]
            else:
                total[k] += activations_at(model, x - start)[k] * gradient[k]
    return [_mean(total[k] / len(starts)) for k in range(a.shape[0])]


def draws(x, n, choices=1, seed=0):
    """What a method draws from its seed: positions, choices of baselines, a seed for each baseline and each noise."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.rand(n, generator=generator, dtype=torch.float64)
    positions = [(s + inside[s].item()) / n for s in range(n)]
    seeds = torch.randint(2**31, (2 * n,), generator=generator).tolist()
    chosen = []
    while len(chosen) < n:
        chosen += torch.randperm(choices, generator=generator).tolist()
    return positions, chosen[:n], seeds[:n], seeds[n:]


def noise(x, seed, width, distribution):
    generator = torch.Generator().manual_seed(seed)
    if distribution == "uniform":
        unit = torch.empty(x.shape, dtype=torch.float32).uniform_(-0.5, 0.5, generator=generator)
    else:
        unit = torch.empty(x.shape, dtype=torch.float32).normal_(generator=generator)
    values = x.flatten().tolist()
    return width * (max(values) - min(values)) * unit.to(x.dtype)


@method("ExpectedGradCAM")
def expected_grad_cam(head, a, c, x, model):
    positions, _, _, seeds = draws(x, 16)
    noises = [noise(x, seed, 0.1, "uniform") for seed in seeds]
    return _weigh(expected_weights(head, a, c, x, model, [torch.zeros_like(x)] * 16, positions, noises), a)


@method("IntegratedGradCAM")
def integrated_grad_cam(head, a, c, x, model):
    zero = torch.zeros_like(x)
    total = torch.zeros_like(a)
    for s in range(1, 51):
        total += gradient_at(head, c, model, (s - 0.5) / 50 * x)
    difference = a - activations_at(model, zero)
    return _weigh([_mean(difference[k] * total[k] / 50) for k in range(len(a))], a)


def integrated_grad_cam_maps(head, a, c, x, model, n=50):
    """As the authors' notebook does it: n Grad-CAM maps of the scaled image, rectified and added."""
    total = torch.zeros_like(a[:1])
    for i in range(n):
        there = activations_at(model, i / n * x)
        gradient = jacobian(_logit(head, c), there)
        saliency = sum(_mean(gradient[k]) * there[k] for k in range(len(a)))
        for row in range(a.shape[1]):
            for column in range(a.shape[2]):
                total[0, row, column] += max(0.0, saliency[row, column].item())
    return total


@method("SmoothGradCAMPlusPlus")
def smooth_grad_cam_plus_plus(head, a, c, x, model, n=10, width=0.3, distribution="normal", seed=0):
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**31, (n,), generator=generator).tolist()
    gradients = [gradient_at(head, c, model, x + noise(x, number, width, distribution)) for number in seeds]
    weights = []
    for k in range(a.shape[0]):
        weight = 0.0
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                first = sum(g[k, i, j].item() for g in gradients) / n
                second = sum(g[k, i, j].item() ** 2 for g in gradients) / n
                third = sum(g[k, i, j].item() ** 3 for g in gradients) / n
                denominator = 2 * second + sum(a[k].flatten().tolist()) * third
                if denominator != 0:
                    weight += second / denominator * max(first, 0.0)
        weights.append(weight)
    return _weigh(weights, a)


def normalise(plane: Tensor) -> Tensor:
    values = plane.flatten().tolist()
    low, high = min(values), max(values)
    if low == high:
        return torch.zeros_like(plane)
    return torch.tensor([(v - low) / (high - low) for v in values], dtype=plane.dtype).reshape(plane.shape)


def resize(plane: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with pixel centres at half integers and the border repeated (align_corners=False)."""
    rows, columns = plane.shape
    out = torch.zeros(height, width, dtype=plane.dtype)
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            v, u = y - top, x - left
            out[i, j] = (1 - v) * ((1 - u) * plane[top, left] + u * plane[top, right]) + v * (
                (1 - u) * plane[bottom, left] + u * plane[bottom, right]
            )
    return out


def input_map(contributions: Tensor, height: int, width: int) -> Tensor:
    total = torch.zeros_like(contributions[0])
    for channel in contributions:
        total = total + channel
    for i in range(total.shape[0]):
        for j in range(total.shape[1]):
            total[i, j] = max(0.0, total[i, j].item())
    return normalise(resize(normalise(total), height, width))


@metric("average_drop")
def average_drop(q):
    return max(0, q["p"] - q["o"]) / q["p"]


@metric("increase_in_confidence")
def increase_in_confidence(q):
    return 1 if q["o"] > q["p"] else 0


@metric("average_gain")
def average_gain(q):
    return max(0, q["o"] - q["p"]) / (1 - q["p"])


@metric("drop_in_deletion")
def drop_in_deletion(q):
    return max(0, q["p"] - q["d"]) / q["p"]


@metric("coherency")
def coherency(q):
    a, b = q["maps"].flatten().tolist(), q["masked_maps"].flatten().tolist()
    if len(set(a)) == 1 or len(set(b)) == 1:
        return 0
    n = len(a)
    mean_a, mean_b = math.fsum(a) / n, math.fsum(b) / n
    covariance = math.fsum((u - mean_a) * (v - mean_b) for u, v in zip(a, b, strict=True)) / n
    sigma_a = math.sqrt(math.fsum((u - mean_a) ** 2 for u in a) / n)
    sigma_b = math.sqrt(math.fsum((v - mean_b) ** 2 for v in b) / n)
    return covariance / (sigma_a * sigma_b) / 2 + 1 / 2


@metric("complexity")
def complexity(q):
    values = q["maps"].flatten().tolist()
    return math.fsum(abs(v) for v in values) / len(values)


@metric("adcc")
def adcc(q):
    parts = [coherency(q), 1 - complexity(q), 1 - average_drop(q)]
    if min(parts) <= 0:
        return 0
    return 3 / (1 / parts[0] + 1 / parts[1] + 1 / parts[2])


@metric("thresholded_drop")
def thresholded_drop(q):
    return max(0, q["p"] - q["o_t"]) / q["p"]


@metric("thresholded_increase")
def thresholded_increase(q):
    return max(0, q["o_t"] - q["b"]) / q["o_t"]


@metric("hci")
def hci(q):
    kept, added = 1 - thresholded_drop(q), thresholded_increase(q)
    if kept == 0 or added == 0:
        return 0
    return 2 * kept * added / (kept + added)


@metric("insertion")
def insertion(q):
    return reference_insertion_deletion.area(*q["insertion_curve"])


@metric("deletion")
def deletion(q):
    return reference_insertion_deletion.area(*q["deletion_curve"])


@metric("insertion_deletion")
def insertion_deletion(q):
    return insertion(q) - deletion(q)


def imputed(image, missing):
    """Every missing pixel the weighted mean of its neighbours: all equations written out as one full matrix."""
    channels, height, width = image.shape
    holes = [(i, j) for i in range(height) for j in range(width) if missing[i, j]]
    matrix, right = torch.zeros(len(holes), len(holes)).double(), torch.zeros(len(holes), channels).double()
    for row, (i, j) in enumerate(holes):
        for m in (i - 1, i, i + 1):
            for n in (j - 1, j, j + 1):
                if (m, n) == (i, j) or not (0 <= m < height and 0 <= n < width):
                    continue
                weight = 1 / 6 if m == i or n == j else 1 / 12
                matrix[row, row] += weight
                if (m, n) in holes:
                    matrix[row, holes.index((m, n))] -= weight
                else:
                    right[row] += weight * image[:, m, n]
    filled = image.clone()
    for (i, j), value in zip(holes, torch.linalg.solve(matrix, right), strict=True):
        filled[:, i, j] = value
    return filled


def road_at(q, percentiles, noise=0.01):
    order = reference_insertion_deletion.descending(q["maps"])
    total = 0.0
    for percentile in percentiles:
        kept = math.ceil((len(order) - 1) * percentile / 100)
        for sign, shown in ((1, order[:kept]), (-1, order[len(order) - kept :])):
            missing = torch.ones_like(q["maps"], dtype=torch.bool)
            for place in shown:
                missing[place] = False
            seed = 2 * kept + (1 if sign > 0 else 0)
            drawn = torch.randn(q["x"].shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
            image = imputed(q["x"], missing) + noise * drawn.double() * missing
            total += sign * q["confidence"](image[None]).item()
    return total / len(percentiles) / 2


@metric("road")
def road(q):
    return road_at(q, range(10, 100, 10))


@metric("arcc")
def arcc(q):
    parts = [coherency(q), 1 - complexity(q), min(max(2 * road_at(q, [20, 40, 60, 80]), 0.0), 1.0)]
    return 3 / sum(1 / part for part in parts) if min(parts) > 0 else 0.0


@metric("saco")
def saco(q, groups=10):
    order = reference_insertion_deletion.descending(q["maps"])
    size, more = divmod(len(order), groups)
    parts, start = [], 0
    for number in range(groups):
        parts.append(order[start : start + size + (number < more)])
        start += len(parts[-1])
    salience, drops = [], []
    for part in parts:
        image = q["x"].clone()
        for place in part:
            for channel, plane in enumerate(q["x"]):
                image[(channel, *place)] = plane.mean()
        salience.append(math.fsum(q["maps"][place].item() for place in part) / len(part))
        drops.append(q["confidence"](q["x"][None]).item() - q["confidence"](image[None]).item())
    total = weights = 0.0
    for i in range(groups):
        for j in range(i + 1, groups):
            weight = salience[i] - salience[j]
            total += weight if drops[i] >= drops[j] else -weight
            weights += abs(weight)
    return total / weights if q["maps"].max() > q["maps"].min() else 0.0


@metric("pointing_game")
def pointing_game(q):
    return reference_localisation.pointing_game(q["maps"].tolist(), reference_localisation.union(q["boxes"].tolist()))


@metric("energy_pointing_game")
def energy_pointing_game(q):
    return reference_localisation.precision(q["maps"].tolist(), reference_localisation.union(q["boxes"].tolist()))


@metric("pixel_f1")
def pixel_f1(q):
    return reference_localisation.pixel_f1(q["maps"].tolist(), reference_localisation.union(q["boxes"].tolist()))


@metric("localisation_error")
def localisation_error(q):
    return reference_localisation.localisation_error(q["maps"].tolist(), q["boxes"].tolist())


@metric("official_metric")
def official_metric(q):
    return reference_localisation.official_metric(q["maps"].tolist(), q["boxes"].tolist(), q["correct"])


@metric("box_accuracy")
def box_accuracy(q, thresholds, overlaps):
    """A list of lists: one row for each threshold, with one number for each overlap."""
    maps, boxes = q["maps"].tolist(), q["boxes"].tolist()
    return [[reference_localisation.box_accuracy(maps, boxes, t, d) for d in overlaps] for t in thresholds]


@metric("win_percentage")
def win_percentage(drops):
    """Of one sample, from the drops of all methods to the shares of all."""
    winners = [drop == min(drops) for drop in drops]
    return [1 / winners.count(True) if won else 0 for won in winners]


@metric("saliency_metric")
def saliency_metric(q):
    return reference_localisation.saliency_metric(q["x"], q["maps"].tolist(), lambda crop: q["confidence"](crop[None]))


@metric("counterfactual_sensitivity")
def counterfactual_sensitivity(q):
    before, after = q["weights"].tolist(), q["counterfactual_weights"].tolist()
    change = math.fsum((a - b) ** 2 for a, b in zip(before, after, strict=True))
    return math.sqrt(change) / math.sqrt(math.fsum(a**2 for a in before))
