"""Summaries of a run, one value over the set per method and metric with bootstrap intervals, and paired comparisons."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cam_extras._checks import check_count, check_name, check_seed
from cam_extras._text import csv_cell
from cam_extras.metrics import METRICS, Metric
from cam_extras.runs.store import atomic_write

Row = dict[str, Any]
FIELDS = ("method", "metric", "value", "low", "high", "images", "missing")
_DRAWN_AT_ONCE = 2**22


@dataclass(frozen=True)
class _Statistic:
    """A number for a set of images: a function of the means of columns (k, N) over the images that have all of them.

    The columns are those of one or more scores, each of one or more numbers; `shapes` has the shape of each score.
    """

    function: Callable[..., Tensor]
    columns: np.ndarray
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, function: Callable[..., Tensor], *scores: np.ndarray) -> _Statistic:
        """Make one from scores (N, *shape); the function takes their means, (..., *shape) each."""
        columns = np.concatenate([values.reshape(len(values), -1).T for values in scores])
        return cls(function, columns, tuple(values.shape[1:] for values in scores))

    def of_averages(self, means: Tensor) -> Tensor:
        """Return the number from the means of the columns, (..., k) -> (...)."""
        parts = torch.split(means, [math.prod(shape) for shape in self.shapes], dim=-1)
        return self.function(
            *(part.reshape((*part.shape[:-1], *shape)) for part, shape in zip(parts, self.shapes, strict=True))
        )

    @property
    def present(self) -> np.ndarray:
        return np.asarray(~np.isnan(self.columns).any(axis=0))

    def of_set(self) -> float | None:
        present = self.present
        if not present.any():
            return None
        means = torch.stack([torch.from_numpy(column[present]).mean() for column in self.columns])
        return float(self.of_averages(means))


def summarise(
    table: Any,
    metrics: Sequence[str],
    *,
    controls: Collection[str] = (),
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Row]:
    """Return a row for each method and metric: the value over the set with its bootstrap percentile interval.

    A value is over the `images` that have the score; `missing` counts those that only have scores of other methods or
    metrics. All methods see the same resamples of images; a resample in which no image has the score is left out of
    the interval. Metrics that compare methods are added if two or more methods have the scores needed, over the images
    that have them for every method: from average drops `win_percentage`, the share in [0, 1] of images on which a
    method has the lowest. Controls do not compete.

    Args:
        table: a `pyarrow.Table`, or columns by name, with `index`, `method`, the metrics, and the scores that
            metrics of means need; None or NaN is a missing score. A score of several numbers is a list, maybe nested.
        metrics: keys of `METRICS`.
        controls: methods that are not compared with others.
        samples: number of bootstrap resamples.
        seed: of the bootstrap.
        confidence: the share of resamples within the interval.

    Returns:
        Dicts with the keys `FIELDS`; `value`, `low` and `high` are None where no image has the score.

    Raises:
        TypeError: a count or seed is not an integer.
        ValueError: there is no such metric or column, two rows of one image and method, or an infinite score.
    """
    images, scores = _by_method(table, "index", metrics)
    if not images:
        return []
    statistics = {
        (method, name): _statistic(name, columns, len(images))
        for method, columns in scores.items()
        for name in metrics
        if not METRICS[name].of_methods
    }
    competing = {method: columns for method, columns in scores.items() if method not in controls}
    for metric in METRICS.values():
        if metric.of_methods and len(competing) > 1 and all({*metric.needs} <= {*has} for has in competing.values()):
            for method, values in zip(competing, _compared(metric, list(competing.values())), strict=True):
                statistics[method, metric.name] = _Statistic.of(metric.of_averages, values)
    keys = sorted(statistics, key=lambda key: list(scores).index(key[0]))  # stable: a method's rows stay in order
    intervals = _intervals([statistics[key] for key in keys], len(images), samples, seed, confidence)
    rows = []
    for key, (low, high) in zip(keys, intervals, strict=True):
        count = int(statistics[key].present.sum())
        values = (*key, statistics[key].of_set(), low, high, count, len(images) - count)
        rows.append(dict(zip(FIELDS, values, strict=True)))
    return rows


def paired_differences(
    table_a: Any,
    table_b: Any,
    metrics: Sequence[str],
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Row]:
    """Return for each method and metric how far the second run's value over the set is above the first's.

    Both values are over pairs: images (by `path`) that have the score in both runs. The bootstrap draws images, with
    both scores of each. Except for metrics of means, this is the mean difference.

    Args:
        table_a: the first run, as for `summarise`, but with `path` instead of `index`.
        table_b: the second.
        metrics: see `summarise`.
        samples: see `summarise`.
        seed: see `summarise`.
        confidence: see `summarise`.

    Returns:
        Dicts with `method`, `metric`, the values `a` and `b`, `difference` (b - a) with `low` and `high`, and `pairs`;
        all numbers are None if there are no pairs, as for a method that only one run has.

    Raises:
        TypeError: see `summarise`.
        ValueError: see `summarise`; or a metric compares methods, which works only within a run.
    """
    if comparing := [name for name in metrics if name in METRICS and METRICS[name].of_methods]:
        raise ValueError(f"{', '.join(comparing)} compares the methods of one run, so it has no pairs: leave it out")
    (paths_a, scores_a), (paths_b, scores_b) = (_by_method(table, "path", metrics) for table in (table_a, table_b))
    common, at_a, at_b = np.intersect1d(
        np.asarray(paths_a, dtype=object), np.asarray(paths_b, dtype=object), assume_unique=True, return_indices=True
    )
    keys, pairs = [], []
    for method in dict.fromkeys([*scores_a, *scores_b]):
        for name in metrics:
            a = _statistic(name, scores_a.get(method, {}), len(paths_a))
            b = _statistic(name, scores_b.get(method, {}), len(paths_b))
            keys.append((method, name))
            pairs.append(_paired(a, b, at_a, at_b))
    intervals = _intervals([difference for *_, difference in pairs], len(common), samples, seed, confidence)
    return [
        {
            "method": method,
            "metric": name,
            "a": a.of_set(),
            "b": b.of_set(),
            "difference": difference.of_set(),
            "low": low,
            "high": high,
            "pairs": int(difference.present.sum()),
        }
        for (method, name), (a, b, difference), (low, high) in zip(keys, pairs, intervals, strict=True)
    ]


def resampled_means(columns: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Return the means (samples, k) of columns (k, N) over bootstrap resamples of the N images.

    All columns, and all calls with the same number of images and seed, see the same resamples. NaN is a missing score
    and is left out; the mean of a resample without scores is NaN.
    """
    images = columns.shape[1]
    present = ~np.isnan(columns)
    matrix = np.concatenate([np.where(present, columns, 0), present]).T
    rng = np.random.default_rng(seed)
    sums = []
    for start in range(0, samples, at_once := max(1, _DRAWN_AT_ONCE // images)):
        count = min(at_once, samples - start)
        drawn = rng.integers(0, images, (count, images)) + images * np.arange(count)[:, None]
        # How often each image was drawn: its product with the matrix gives all sums at once.
        sums.append(np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images).astype(float) @ matrix)
    of_values, counts = np.split(np.concatenate(sums), 2, axis=1)
    means: np.ndarray = np.divide(of_values, counts, out=np.full_like(counts, np.nan), where=counts > 0)
    return means


def write_summary(folder: str | Path, rows: Sequence[Row]) -> None:
    """Write rows to `summary.csv` and `summary.json` in a folder, each file completely or not at all.

    Raises:
        NoSpaceError: the disk is full.
    """
    lines = io.StringIO(newline="")
    # Without quotes, a carriage return would start a new row.
    writer = csv.DictWriter(lines, rows[0] if rows else FIELDS, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    text = json.dumps(list(rows), indent=2, allow_nan=False) + "\n"
    atomic_write(Path(folder) / "summary.csv", lambda file: file.write(lines.getvalue().encode()))
    atomic_write(Path(folder) / "summary.json", lambda file: file.write(text.encode()))


def _statistic(name: str, columns: Mapping[str, np.ndarray], images: int) -> _Statistic:
    metric = METRICS[name]
    return _Statistic.of(
        metric.of_averages,
        *(columns[part] if part in columns else np.full((images, *_empty(part)), np.nan) for part in metric.parts),
    )


def _empty(name: str) -> tuple[int, ...]:
    """Return a shape for the scores of an image if no image has any."""
    vector = METRICS[name].vector
    return (1,) * vector.dims if vector else ()


def _compared(metric: Metric, competing: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Return the scores (M, N) of a metric that compares methods, NaN if a method lacks a score it needs."""
    needed = np.stack([[columns[need] for columns in competing] for need in metric.needs])
    common = ~np.isnan(needed).any(axis=(0, 1))
    found = np.full(needed.shape[1:], np.nan)
    if common.any():
        found[:, common] = metric.function(*torch.from_numpy(needed[..., common])).numpy()
    return found


def _paired(a: _Statistic, b: _Statistic, at_a: np.ndarray, at_b: np.ndarray) -> tuple[_Statistic, ...]:
    """Return the statistics of the pairs of two runs: first run, second run and difference."""
    both = np.concatenate([a.columns[:, at_a], b.columns[:, at_b]])
    both[:, np.isnan(both).any(axis=0)] = np.nan
    columns, scores = len(a.columns), len(a.shapes)

    def difference(*means: Tensor) -> Tensor:
        return b.function(*means[scores:]) - a.function(*means[:scores])

    first, second = replace(a, columns=both[:columns]), replace(b, columns=both[columns:])
    return first, second, _Statistic(difference, both, (*a.shapes, *b.shapes))


def _by_method(table: Any, key: str, metrics: Iterable[str]) -> tuple[list[Any], dict[str, dict[str, np.ndarray]]]:
    """Return the images in order, and for each method and column the scores of all images, NaN if missing."""
    for name in metrics:
        check_name("metric", name, METRICS)
    there = table.column_names if hasattr(table, "column_names") else list(table)
    comparing = [metric.name for metric in METRICS.values() if metric.of_methods]
    needed = {part for name in metrics for part in (METRICS[name].needs if name in comparing else METRICS[name].parts)}
    lacking = sorted({key, "method", *needed} - set(there))
    if lacking:
        raise ValueError(f"the table has no column {', '.join(lacking)}; it has {', '.join(there)}")
    needed |= {need for name in comparing for need in METRICS[name].needs if need in there}
    of_row, methods_of_row = _list(table[key]), _list(table["method"])
    images, methods = sorted(set(of_row)), list(dict.fromkeys(methods_of_row))
    place, number = {image: n for n, image in enumerate(images)}, {method: n for n, method in enumerate(methods)}
    cells = np.array([number[method] for method in methods_of_row], dtype=int) * len(images)
    cells += np.array([place[image] for image in of_row], dtype=int)
    found, first = np.unique(cells, return_index=True)
    if len(found) < len(cells):
        row = next(iter(set(range(len(cells))) - set(first.tolist())))
        raise ValueError(f"there are two rows of {key} {of_row[row]!r} and method {methods_of_row[row]!r}")
    scores: dict[str, dict[str, np.ndarray]] = {method: {} for method in methods}
    for name in sorted(needed):
        column = _list(table[name])
        shape = next((np.shape(score) for score in column if score is not None and np.ndim(score)), _empty(name))
        values = np.full((len(methods) * len(images), *shape), np.nan)
        values[cells] = np.array([np.full(shape, np.nan) if score is None else score for score in column], dtype=float)
        if np.isinf(values).any():
            raise ValueError(f"the {name} is infinite for an image, so the set has no mean")
        for method, row_of_values in zip(methods, values.reshape(len(methods), len(images), *shape), strict=True):
            scores[method][name] = row_of_values
    return images, scores


def _list(column: Any) -> list[Any]:
    return column.to_pylist() if hasattr(column, "to_pylist") else [*getattr(column, "tolist", lambda: column)()]


def _intervals(
    statistics: Sequence[_Statistic], images: int, samples: int, seed: int, confidence: float
) -> list[tuple[float | None, float | None]]:
    """Return the bootstrap percentile intervals of statistics of the same images, over the same resamples."""
    check_count("samples", samples)
    check_seed(seed)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence}")
    if not images or not statistics:
        return [(None, None)] * len(statistics)
    columns = np.concatenate([np.where(statistic.present, statistic.columns, np.nan) for statistic in statistics])
    means = np.split(
        resampled_means(columns, samples, seed),
        np.cumsum([len(statistic.columns) for statistic in statistics])[:-1],
        axis=1,
    )
    intervals: list[tuple[float | None, float | None]] = []
    for statistic, of_statistic in zip(statistics, means, strict=True):
        some = torch.from_numpy(of_statistic[~np.isnan(of_statistic[:, 0])])  # all columns miss the same resamples
        if len(some):
            tails = [(1 - confidence) / 2, (1 + confidence) / 2]
            low, high = np.quantile(statistic.of_averages(some).numpy(), tails)
            intervals.append((float(low), float(high)))
        else:
            intervals.append((None, None))
    return intervals
