"""What methods do well and where they fail, on the demo's digits: the figures of docs/choosing_a_method.md.

    python examples/choosing_a_method.py [--canvases 30] [--output DIR]

Prints three tables and writes `choosing_methods.png` and `choosing_failures.png`. Less than a minute on one core.
"""

import argparse
import copy
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor, nn

from cam_extras.demo.canvases import SIZE, Canvases, make_canvases
from cam_extras.demo.classifier import LAYER, load_classifier, prepare
from cam_extras.maps import input_map, mask
from cam_extras.methods import METHODS, ExpectedGradCAM, GradCAM, Method, OptiCAM, ShapleyCAM
from cam_extras.metrics import average_drop
from cam_extras.probe import Probe
from cam_extras.utilities import select_class

OPTIONS = {
    "OptiCAM": OptiCAM.FAST,
    "IntegratedGradCAM": {"n_samples": 20},
    "SSCAM": {"n_samples": 4},
    "ISCAM": {"n_samples": 3},
}
BOX, OTHER_BOX = "#56B4E9", "#E69F00"  # Okabe and Ito's colours


def two_digits(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Paste a second digit into a corner of canvases: images (N, 1, 64, 64), labels (N, 2), boxes (N, 2, 4)."""
    first, second = make_canvases(count, "test", seed), make_canvases(count, "test", seed + 1)
    images, labels, boxes = [], [], []
    for n in range(count):
        box, (left, top, right, bottom) = first.boxes[n].tolist(), second.boxes[n].tolist()
        size = right - left
        corners = [(x, y) for x in (0, SIZE - size) for y in (0, SIZE - size)]
        free = [(x, y) for x, y in corners if x + size <= box[0] or x >= box[2] or y + size <= box[1] or y >= box[3]]
        if not free or first.labels[n] == second.labels[n]:
            continue
        x, y = free[0]
        image = first.images[n].clone()
        image[:, y : y + size, x : x + size] = second.images[n, :, top:bottom, left:right]
        images.append(image)
        labels.append([int(first.labels[n]), int(second.labels[n])])
        boxes.append([box, [x, y, x + size, y + size]])
    return torch.stack(images), torch.tensor(labels), torch.tensor(boxes)


def inside(boxes: Tensor) -> Tensor:
    """Masks (N, 64, 64) of boxes (N, 4)."""
    masks = torch.zeros(len(boxes), SIZE, SIZE)
    for image, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        image[top:bottom, left:right] = 1
    return masks


def share(maps: Tensor, boxes: Tensor) -> Tensor:
    """Share of each map in its box, (N,); NaN where the map is zero everywhere."""
    return (maps * inside(boxes)).sum(dim=(1, 2)) / maps.sum(dim=(1, 2))


def likeness(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of maps, (N,); NaN where one is constant."""
    a, b = (maps.flatten(1) - maps.flatten(1).mean(dim=1, keepdim=True) for maps in (a, b))
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))


def explain(method: Method, model: nn.Module, x: Tensor, target: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Maps (N, 64, 64) in [0, 1]."""
    probe = Probe(model, layer or model.get_submodule(LAYER), x, target=target, second_order=method.second_order)
    return input_map(method(probe), (SIZE, SIZE))


@torch.no_grad()
def confidence(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Probability of the class, (N,), in float64."""
    return select_class(model(x).double().softmax(dim=1), target)


def table(columns: list[str], rows: dict[str, list[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n| | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, cells in rows.items():
        print(f"| `{name}` | {' | '.join(cells)} |")


def per_cent(values: Tensor) -> str:
    """Mean over what is defined."""
    return f"{100 * values.nanmean():.0f}"


def show(axes: Axes, image: Tensor, heat: Tensor | None, title: str, below: str = "", boxes: tuple = ()) -> None:
    """Draw an image, grey, or a map over it, with boxes."""
    axes.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1)
    if heat is not None:
        axes.imshow(heat.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.75)
    for (left, top, right, bottom), colour in zip(boxes, (BOX, OTHER_BOX), strict=False):
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, ec=colour, lw=1.2))
    axes.set_title(title, fontsize=7, pad=2)
    axes.set_xlabel(below, fontsize=7, labelpad=2)
    axes.set_xticks([])
    axes.set_yticks([])


def save(figure: plt.Figure, path: Path, colours: int, dpi: int = 100) -> None:
    """Save as a PNG of few colours, which is small."""
    figure.savefig(path, dpi=dpi)
    plt.close(figure)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path}")


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--canvases", type=int, default=30)
    parser.add_argument("--output", type=Path, default=Path("choosing_a_method-output"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    model = load_classifier()
    methods = {name: kind(**OPTIONS.get(name, {})) for name, kind in METHODS.items() if not kind.particular}

    # Two digits on a canvas, each explained in turn, where the model has seen both.
    images, labels, boxes = two_digits(3 * options.canvases, seed=20)
    with torch.no_grad():
        two_best = model(prepare(images)).topk(2, dim=1).indices
    seen = (two_best.sort(dim=1).values == labels.sort(dim=1).values).all(dim=1)
    images, labels, boxes = (values[seen][: options.canvases] for values in (images, labels, boxes))
    x = prepare(images)
    both = {name: [explain(method, model, x, labels[:, which]) for which in (0, 1)] for name, method in methods.items()}

    # One digit, and a class that is not there: the next digit.
    single = make_canvases(options.canvases, "test", seed=30)
    one = prepare(single.images)
    absent = (single.labels + 1) % 10
    there = {name: explain(method, model, one, single.labels) for name, method in methods.items()}
    not_there = {name: explain(method, model, one, absent) for name, method in methods.items()}

    print(f"{len(x)} canvases with two digits, {len(one)} with one")
    rows = {}
    for name, (first, second) in both.items():
        on_it = torch.cat([share(first, boxes[:, 0]), share(second, boxes[:, 1])])
        on_other = torch.cat([share(first, boxes[:, 1]), share(second, boxes[:, 0])])
        alike = likeness(first, second)
        alike[alike.isnan()] = 0
        found = confidence(model, mask(one, not_there[name]), absent)
        rows[name] = [
            per_cent(share(there[name], single.boxes)),
            per_cent(on_it),
            per_cent(on_other),
            f"{alike.mean():.2f}",
            per_cent((found > 0.5).double()),
        ]
    area = [inside(group).mean(dim=(1, 2)) for group in (single.boxes, boxes[:, 0], boxes[:, 1])]
    rows["area of the box"] = [per_cent(area[0]), per_cent(torch.cat(area[1:])), per_cent(torch.cat(area[1:]))] + [
        ""
    ] * 2
    table(
        ["one digit: % on it", "two: % on it", "% on the other", "likeness of the two maps", "fooled, %"],
        rows,
    )
    before = confidence(model, one, absent)
    print(f"\nthe absent class before masking: {(before > 0.5).double().mean():.0%} above one half")
    draw_methods(options.output / "choosing_methods.png", single, there, images, labels, boxes, both, absent, not_there)
    failures(options.output / "choosing_failures.png", model, methods, single, images, labels, boxes, both, not_there)


def draw_methods(
    path: Path,
    single: Canvases,
    there: dict[str, Tensor],
    images: Tensor,
    labels: Tensor,
    boxes: Tensor,
    both: dict[str, list[Tensor]],
    absent: Tensor,
    not_there: dict[str, Tensor],
) -> None:
    """Draw all methods: one digit, two digits explained in turn, and a digit that is not there."""
    names = list(there)
    figure, grid = plt.subplots(4, len(names) + 1, figsize=(1.0 * (len(names) + 1), 5.0), layout="constrained")
    leak = share(both["GradCAM"][0], boxes[:, 1])
    two = int((leak - leak.nanmedian()).abs().argmin())  # neither the best nor the worst
    digit, first, second = int(single.labels[0]), *labels[two].tolist()
    show(grid[0, 0], single.images[0], None, "image", f"a {digit}", (single.boxes[0].tolist(),))
    here, other = boxes[two].tolist()
    show(grid[1, 0], images[two], None, "", f"the {first}?", (here, other))
    show(grid[2, 0], images[two], None, "", f"the {second}?", (other, here))
    show(grid[3, 0], single.images[0], None, "", f"a {int(absent[0])}?", ())
    for column, name in enumerate(names, start=1):
        shown = name.replace("GradCAM", "\nGradCAM").replace("CAMPlusPlus", "CAM++").strip()
        one = there[name][:1]
        inside_one = share(one, single.boxes[:1])
        show(
            grid[0, column],
            single.images[0],
            one[0],
            shown,
            f"{per_cent(inside_one)} on it",
            (single.boxes[0].tolist(),),
        )
        for which in (0, 1):
            heat, order = both[name][which][two], [which, 1 - which]
            shares = [per_cent(share(heat[None], boxes[two : two + 1, place])) for place in order]
            around = tuple(boxes[two, place].tolist() for place in order)
            show(grid[1 + which, column], images[two], heat, "", f"{shares[0]}, other {shares[1]}", around)
        heat = not_there[name][0]
        show(grid[3, column], single.images[0], heat, "", "zero map" if heat.max() == 0 else "")
    save(figure, path, colours=64, dpi=90)


def failures(
    path: Path,
    model: nn.Module,
    methods: dict[str, Method],
    single: Canvases,
    images: Tensor,
    labels: Tensor,
    boxes: Tensor,
    both: dict[str, list[Tensor]],
    not_there: dict[str, Tensor],
) -> None:
    """Measure and draw five failures, each next to what to do instead."""
    figure, grid = plt.subplots(3, 5, figsize=(9.0, 5.9), layout="constrained")
    one = prepare(single.images)
    n = len(one)

    # Grad-CAM on the other digit.
    leak = share(both["GradCAM"][0], boxes[:, 1])
    worst = int(leak.nan_to_num(0).argmax())
    around = tuple(boxes[worst].tolist())
    first = int(labels[worst, 0])
    show(grid[0, 0], images[worst], None, "1. the other object", f"explained: the {first} (blue)", around)
    for row, name in enumerate(("GradCAM", "HiResCAM"), start=1):
        heat = both[name][0][worst]
        there, other = (per_cent(share(heat[None], boxes[worst : worst + 1, which])) for which in (0, 1))
        show(grid[row, 0], images[worst], heat, name, f"{there} % on it, {other} % on the other", around)

    # A mask that makes the model see what is not there.
    absent = (single.labels + 1) % 10
    masked = {name: mask(one, not_there[name]) for name in ("OptiCAM", "GradCAM")}
    fooled = confidence(model, masked["OptiCAM"], absent)
    before = confidence(model, one, absent)
    case = int((fooled - before - 10 * (before > 0.05)).argmax())
    seen = int(model(one[case : case + 1]).argmax())
    show(
        grid[0, 1], single.images[case], None, "2. a class that is not there",
        f"seen as {seen}; explained: {int(absent[case])} (p = {before[case]:.2f})",
    )  # fmt: skip
    for row, name in enumerate(("OptiCAM", "GradCAM"), start=1):
        o = confidence(model, masked[name][case : case + 1], absent[case : case + 1])
        hidden = (masked[name][case] / one.max()).clamp(0, 1) / single.images[case].max()
        show(grid[row, 1], hidden, None, f"what {name} shows", f"p({int(absent[case])}) = {o.item():.2f}")

    # A saturated class: the same model, with the logits ten times as large.
    sure = load_classifier()
    with torch.no_grad():
        sure.classifier.weight *= 10
        sure.classifier.bias *= 10
        certain = select_class(sure(one).softmax(dim=1), single.labels) == 1
    utilities = {"softmax": GradCAM(utility="softmax"), "logit": GradCAM(), "rest": ShapleyCAM()}
    exactly = copy.deepcopy(sure).double()
    by_score = {score: explain(method, sure, one, single.labels) for score, method in utilities.items()}
    print(f"\nlogits ten times as large: p is 1 in float32 on {int(certain.sum())} of {n} canvases, where")
    for score, maps in by_score.items():
        in_double = explain(utilities[score], exactly, one.double(), single.labels).float()
        alike = likeness(maps, in_double)[certain]
        on_it = share(maps, single.boxes)[certain]
        zero = int((maps[certain].amax(dim=(1, 2)) == 0).sum())
        print(
            f"{score}: {per_cent(on_it)} % on the digit, {zero} zero maps; likeness to the maps in float64 "
            f"{alike.nanmean():.2f}"
        )
        if score == "softmax":
            case = int(torch.where(certain, share(in_double, single.boxes) - share(maps, single.boxes), -1).argmax())
    around = (single.boxes[case].tolist(),)
    show(grid[0, 2], single.images[case], None, "3. a saturated class", "p = 1 in float32", around)
    for row, (score, name) in enumerate(
        {"softmax": 'GradCAM(utility="softmax")', "rest": "ShapleyCAM (ReST)"}.items(), start=1
    ):
        heat = by_score[score][case]
        on_it = per_cent(share(heat[None], single.boxes[case : case + 1]))
        show(grid[row, 2], single.images[case], heat, name, f"{on_it} % on it" if heat.any() else "zero map", around)

    # A layer with negative values.
    signed = model.get_submodule(LAYER)[1]  # before the ReLU
    drops = {}
    p = confidence(model, one, single.labels)
    maps = {
        "GradCAM": explain(GradCAM(), model, one, single.labels, signed),
        "ExpectedGradCAM": explain(ExpectedGradCAM(), model, one, single.labels, signed),
        'ExpectedGradCAM, difference="none"': explain(
            ExpectedGradCAM(difference="none"), model, one, single.labels, signed
        ),
        "ExpectedGradCAM after the ReLU": explain(ExpectedGradCAM(), model, one, single.labels),
    }
    print("\nbefore the ReLU:")
    for name, of_name in maps.items():
        drops[name] = average_drop(p, confidence(model, mask(one, of_name), single.labels))
        print(f"{name}: average drop {drops[name].mean():.1%}, {per_cent(share(of_name, single.boxes))} % on the digit")
    worse = drops["ExpectedGradCAM"] - drops["ExpectedGradCAM after the ReLU"]
    case = int(worse.argsort()[3 * n // 4])  # the upper quartile
    around = (single.boxes[case].tolist(),)
    show(
        grid[0, 3],
        single.images[case],
        None,
        "4. a layer with negative values",
        f"a {int(single.labels[case])}",
        around,
    )
    for row, name in enumerate(("ExpectedGradCAM", "ExpectedGradCAM after the ReLU"), start=1):
        where = "before the ReLU" if row == 1 else "after the ReLU"
        below = f"{where}: drop {drops[name][case]:.0%}"
        show(grid[row, 3], single.images[case], maps[name][case], "ExpectedGradCAM", below, around)

    # A map that has nothing to do with the model, and scores well.
    case = int((p - p.median()).abs().argmin())
    show(grid[0, 4], single.images[case], None, "5. a good score for nothing", f"a {int(single.labels[case])}", ())
    for row, name in enumerate(("FakeCAM", "GradCAM"), start=1):
        heat = explain(methods[name], model, one[case : case + 1], single.labels[case : case + 1])
        o = confidence(model, mask(one[case : case + 1], heat), single.labels[case : case + 1])
        drop = average_drop(p[case : case + 1], o)
        show(grid[row, 4], single.images[case], heat[0], name, f"drop {drop.item():.0%}, mean {heat.mean():.2f}", ())
    for row, word in enumerate(("image", "fails", "instead")):
        grid[row, 0].set_ylabel(word, fontsize=8)
    save(figure, path, colours=64, dpi=88)


if __name__ == "__main__":
    main()
