"""The tables of five papers next to ours: same methods, metrics, masks and thresholds, on your data and model.

    python examples/paper_tables.py --paper mi|expected|opti|adcc|shapley --data DIR [--model NAME] [--limit N]

DIR is a folder with `models.py`, weights and `imagenet/`, as for the tests marked `realdata`; --model is then
`mobilenet_v2` (the default), or `resnet20` or `resnet56` for CIFAR-10. Or it is anything that
`cam-extras evaluate --data` accepts, for example ImageNet's validation images in one folder per class; --model is then
what `cam-extras evaluate --model` accepts, by default all of the paper's own models that torchvision has.

Each cell is the paper's figure / ours (the difference). The rows below show whether the order of the methods agrees:
Kendall's tau with its 95 % bootstrap interval over images, for each of the paper's models, and in the last column the
mean tau of the paper's models with each other. Controls, which explain nothing, are below the methods. An interrupted
run continues where it stopped.
"""

import argparse
import re
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau, rankdata
from torchvision import transforms

from cam_extras import evaluate
from cam_extras.methods import METHODS
from cam_extras.metrics import METRICS, win_percentage
from cam_extras.models import load_model
from cam_extras.runs.sources import open_source
from cam_extras.runs.summary import resampled_means

PAPERS = {
    "mi": "mi_grad_cam",
    "expected": "expected_grad_cam",
    "opti": "opti_cam",
    "adcc": "adcc",
    "shapley": "shapley_cam",
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, and of the CIFAR models


class Spread:
    """A number of images evenly spread over a folder or table: the first of one that is sorted may all be fish."""

    def __init__(self, data, categories, count):
        self.source = open_source(data, categories=categories)
        count = min(count, len(self.source))
        self.places = [number * len(self.source) // count for number in range(count)]
        self.samples = [(self.source.path(place), None) for place in self.places]  # what a run that goes on compares

    def __len__(self):
        return len(self.places)

    def __getitem__(self, number):
        sample = self.source.read(self.places[number])
        return {"image": sample.image, "label": sample.label, "path": sample.path, "boxes": sample.boxes}


def black_of(transform):
    """Return what a transform makes of black, shape (C, 1, 1): the fill that is black for the transform's model.

    Raises:
        ValueError: the transform makes something else of black than a colour.
    """
    x = transform(Image.new("RGB", (512, 512)))
    values = x.flatten(1)
    if (values != values[:, :1]).any():
        raise ValueError(
            "the paper masks with black, and the transform does not make one colour of a black image: give a transform "
            "that draws no random numbers and paints nothing"
        )
    return values[:, :1, None]


def classifier_and_data(folder, model, weights, layer, boxes, limit):
    """Return what `evaluate` takes as model, layer and data, and what makes the model's input of an image."""

    def limited(data):
        return data if limit is None else Spread(data, classifier.categories, limit)

    if not (folder / "models.py").exists():
        classifier = load_model(model, weights)
        return classifier, layer, limited(folder), classifier.transform
    normalise = transforms.Normalize(MEAN, STD)
    if model == "mobilenet_v2":
        prepare = transforms.Compose([transforms.CenterCrop(224), transforms.ToTensor(), normalise])
        weights = str(folder / "mobilenet_v2_imagenet.safetensors")
        classifier = load_model(f"{folder / 'models.py'}:mobilenet_v2", weights, prepare)
        data = limited(folder / ("imagenet_boxes/boxes.csv" if boxes else "imagenet/labels.csv"))
        return classifier, layer, data, prepare
    sys.path.insert(0, str(folder))
    from models import resnet_cifar

    depth = int(model.removeprefix("resnet"))
    file = np.load(folder / "cifar10_test500.npz")
    x = torch.from_numpy(file["images"]).permute(0, 3, 1, 2) / 255
    items = list(zip(normalise(x), file["labels"].tolist(), strict=True))[:limit]
    prepare = transforms.Compose([transforms.ToTensor(), normalise])
    return resnet_cifar(depth, folder / f"resnet{depth}_cifar10.safetensors"), layer, items, prepare


def methods_of(table, without, fill):
    """Return hyper-parameters of the table's methods that can be run, by the paper's names."""
    methods = {}
    for name, row in table["rows"].items():
        kind = row.get("ours")
        if kind is None or kind in without or name in without:
            continue
        scored = kind not in METHODS or hasattr(METHODS[kind], "utility")
        utility = {"utility": table["measured"]["utility"]} if "utility" in table["measured"] and scored else {}
        masked = {"fill": fill} if kind == "OptiCAM" else {}  # it optimises what the metrics show
        methods[name] = {"method": kind, **utility, **masked}
    return methods


def values_of(results, methods, columns, samples):
    """Return our values of the set by method and column of the paper, those of the bootstrap's resamples after it."""
    table = results.to_pandas().pivot(index="index", columns="method")

    def mean(of_images):
        return np.concatenate([[of_images.mean()], resampled_means(of_images[None], samples, seed=0)[:, 0]])

    values = {method: {} for method in methods}
    for column, about in columns.items():
        name, times = about["ours"], about["times"]
        if name == "win_percentage":
            drop = next(other["ours"] for other in columns.values() if other["ours"].endswith("drop"))
            shares = win_percentage(torch.tensor(table[drop][list(methods)].to_numpy().T)).numpy()
            for method, share in zip(methods, shares, strict=True):
                values[method][column] = times * mean(share)
            continue
        metric = METRICS[name]
        for method in methods:
            means = [mean(table[need][method].to_numpy()) for need in (metric.needs if metric.of_means else [name])]
            of_set = metric.function(*map(torch.from_numpy, means)).numpy() if metric.of_means else means[0]
            values[method][column] = times * of_set
    return values


def agreement(theirs, ours):
    """Return Kendall's tau of two orders of methods and its interval, or None for fewer than three methods."""
    common = [method for method in ours if method in theirs]
    if len(common) < 3:
        return None
    paper = [theirs[method] for method in common]
    rows = np.stack([ours[method] for method in common], axis=1).round(6)  # what is equal differs by rounding
    orders, of_row = np.unique(rankdata(rows, axis=1), axis=0, return_inverse=True)  # many resamples have the same
    taus = np.array([kendalltau(paper, order).statistic for order in orders])[of_row.ravel()]
    if np.isnan(taus).all():  # all of the paper's values, or of ours, are the same
        return None
    return taus[0], *np.nanquantile(taus[1:], [0.025, 0.975])


def show(title, headings, rows, console, markdown, controls=()):
    """Print a table, and write it as Markdown; rows of controls below the others."""
    table = Table(title=title)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    if controls:
        apart = [["Controls", *[""] * (len(headings) - 1)], *controls]
        table.add_section()
        for row in apart:
            table.add_row(*row)
        rows = [*rows, *apart]
    console.print(table)
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    markdown.write(f"{title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n")


def compare(paper, table, model, run, samples, console, markdown):
    """Show a table of a paper beside ours."""
    default = 100 if table["unit"].startswith("per cent") else 1
    columns = {
        name: {"times": default, **about}
        for name, about in table["metrics"].items()
        if about.get("ours") in {*METRICS, "win_percentage"}
    }
    methods = run.configuration["methods"]
    ours = values_of(run.results, methods, columns, samples)
    beside = next((name for name in table["models"] if paper["torchvision"].get(name) == model), table["models"][0])
    rows, controls = [], []
    for method, row in table["rows"].items():
        cells = []
        for column, about in columns.items():
            theirs, mine = row.get(beside, {}).get(column), ours.get(method, {}).get(column)
            digits = 1 if about["times"] == 100 else 3
            left, right = ("-" if v is None else f"{v:.{digits}f}" for v in (theirs, None if mine is None else mine[0]))
            difference = "" if theirs is None or mine is None else f" ({mine[0] - theirs:+.{digits}f})"
            cells.append(f"{left} / {right}{difference}")
        is_control = getattr(METHODS.get(row.get("ours")), "control", False)
        (controls if is_control else rows).append([method, *cells])
    arrows = [f"{name} {'↑' if about['better'] == 'higher' else '↓'}" for name, about in columns.items()]
    images, failed = len(set(run.results["index"].to_pylist())), run.errors.num_rows
    title = f"Table {table['number']}, {beside} / ours, {model}, {images} images" + f", {failed} failed" * bool(failed)
    show(title, ["method", *arrows], rows, console, markdown, controls)

    def of_paper(name, column):
        return {
            method: row[name][column]
            for method, row in table["rows"].items()
            if method in methods and column in row.get(name, {})
        }

    rows = []
    for column in columns:
        cells = []
        for name in table["models"]:
            tau = agreement(of_paper(name, column), {method: ours[method][column] for method in ours})
            cells.append("-" if tau is None else f"{tau[0]:.2f} [{tau[1]:.2f}, {tau[2]:.2f}]")
        among = []
        for first, second in combinations(table["models"], 2):
            one, other = of_paper(first, column), of_paper(second, column)
            tau = agreement(one, {method: np.full(2, value) for method, value in other.items()})
            among += [] if tau is None else [tau[0]]
        rows.append([column, *cells, f"{np.mean(among):.2f}" if among else "-"])
    title = f"Order of the methods, table {table['number']}: Kendall's tau of ours and the paper's"
    show(title, ["metric", *table["models"], "among the paper's"], rows, console, markdown)


def main():
    """Run the paper's methods and show its tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--paper", required=True, choices=PAPERS)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", help="default: mobilenet_v2 in a folder with models.py, else all of the paper's")
    parser.add_argument("--weights", help="local weights of the model")
    parser.add_argument("--layer", default="auto", help="default: the last feature map before pooling")
    parser.add_argument("--table", nargs="+", help="numbers of tables; default: all that need no boxes")
    parser.add_argument("--without", nargs="+", default=[], metavar="METHOD", help="methods to leave out")
    parser.add_argument("--limit", type=int, help="number of images, evenly spread (for CIFAR-10 the first ones)")
    parser.add_argument("--samples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--output", type=Path, default=Path("paper_tables-output"))
    options = parser.parse_args()

    file = Path(__file__).parent / "papers" / f"{PAPERS[options.paper]}.yaml"
    paper = yaml.safe_load(file.read_text(encoding="utf-8"))
    known = {table["number"]: table for table in paper["tables"] if "measured" in table}
    if unknown := set(options.table or ()) - set(known):
        parser.error(f"no table {', '.join(unknown)}: of this paper there are {', '.join(known)}")
    tables = [known[number] for number in options.table or known]
    if options.table is None:
        tables = [table for table in tables if "boxes" not in table["measured"]]

    def torchvision_models(table):
        return {paper["torchvision"][name] for name in table["models"] if name in paper["torchvision"]}

    everywhere = set().union(*map(torchvision_models, tables))
    if options.model:
        models = [options.model]
    else:
        models = ["mobilenet_v2"] if (options.data / "models.py").exists() else sorted(everywhere)

    def wanted(table, model):
        """A model stands beside the tables that have it; one of none, beside all tables of convolutional networks."""
        if options.table or model in torchvision_models(table):
            return True
        return model not in everywhere and "transformers" not in table["measured"]

    console = Console()
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / f"{options.paper}.md").open("w", encoding="utf-8") as markdown:
        for model in models:
            for table in (table for table in tables if wanted(table, model)):
                about = table["measured"]
                settings = dict(about.get("options", {}))
                place = options.data, model, options.weights, options.layer, about.get("boxes", False), options.limit
                classifier, layer, data, prepare = classifier_and_data(*place)
                if settings.get("fill") == "black":
                    settings["fill"] = black_of(prepare)
                metrics = [column["ours"] for column in table["metrics"].values() if column.get("ours") in METRICS]
                methods = methods_of(table, options.without, settings.get("fill", 0.0))
                folder = options.output / re.sub(r"[^\w.]+", "_", f"{options.paper}_{table['number']}_{model}")
                run = evaluate(
                    classifier,
                    layer,
                    data,
                    folder,
                    methods=methods,
                    metrics=metrics,
                    options=settings,
                    target=about["target"],
                    name=model,
                    mode="resume",
                )
                compare(paper, table, model, run, options.samples, console, markdown)
    console.print(f"tables: {options.output / options.paper}.md")


if __name__ == "__main__":
    main()
