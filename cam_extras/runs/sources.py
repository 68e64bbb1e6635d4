"""Where the images of a run come from: folders, tables, globs, data sets and streams, in a fixed order."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path, PurePath
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, Subset, default_collate

from cam_extras._checks import check_count
from cam_extras.runs.flags import check_location
from cam_extras.runs.identity import Contents, describe, hash_file
from cam_extras.runs.images import read_image, to_rgb

_FILE_COLUMNS = ("path", "file", "filename", "image")
_LABEL_COLUMNS = ("label", "class_index", "target", "class")
_BOX_COLUMNS = ("xmin", "ymin", "xmax", "ymax")
_KEYS = ("image", "label", "path", "boxes", "mask")
_READERS = min(4, os.cpu_count() or 1)
_MAGIC = re.compile(r"[*?[]")
_EXPECTED = (
    'expected a Pillow image or a tensor (C, *S), a pair of that and a label, or a dict with "image" and, if known, '
    '"label", "path", "boxes" and "mask"'
)
_one_at_a_time = threading.Lock()  # data sets are made for one thread; of the module, so that `Items` can be pickled

_Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Sample:
    """An image of a data set.

    Attributes:
        index: its place in the data set, from 0.
        path: its file, relative to the data if it lies below it, otherwise as given; "item {index}" if no file is
            known.
        label: its class, if known.
        image: a Pillow image, RGB, as `read_image` returns it; or an input as the model takes it, shape (C, *S).
        boxes: where the object is: integers (B, 4), xmin, ymin, xmax, ymax in pixels of the image, the maximum
            exclusive.
        mask: the same as a boolean mask (H, W).
        target: the class to explain, if the sample has one of its own; a text says why it has none.
    """

    index: int
    path: str
    label: int | None
    image: Image.Image | Tensor
    boxes: Tensor | None = None
    mask: Tensor | None = None
    target: int | str | None = None


class Source(ABC):
    """The images of a data set, in an order that is always the same."""

    @property
    @abstractmethod
    def size(self) -> int | None:
        """The number of images; None if it is known only at the end."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what distinguishes this data from other data, in JSON types, without reading its images."""

    @abstractmethod
    def contents(self) -> Contents:
        """Return what the images show, for `cam_extras.runs.identity.identify`."""

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]: ...


class Indexed(Source):
    """A source whose images can be read in any order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def path(self, index: int) -> str:
        """Return the path of a sample, as far as it is known without reading it."""

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Return a sample, or raise an error if it cannot be read."""

    @property
    def size(self) -> int:
        """The number of images."""
        return len(self)

    def __iter__(self) -> Iterator[Sample]:
        return (self.read(index) for index in range(len(self)))


@dataclass(frozen=True, eq=False)
class Files(Indexed):
    """Image files, opened only when they are read.

    Attributes:
        location: the folder, table or glob, as given.
        root: the absolute folder that paths are relative to.
        paths: one per file, relative or absolute.
        labels: one per file.
        boxes: by index, for the files that have any.
        all_labels: the labels of each file, where it may have several; `labels` has none then.
    """

    location: str
    root: str
    paths: tuple[str, ...]
    labels: tuple[int | None, ...]
    boxes: Mapping[int, tuple[_Box, ...]]
    all_labels: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Return the path of a sample."""
        return self.paths[index]

    def read(self, index: int) -> Sample:
        """Return a sample.

        Raises:
            ValueError: the file cannot be read, see `read_image`.
        """
        boxes = self.boxes.get(index)
        return Sample(
            index,
            self.paths[index],
            self.labels[index],
            read_image(Path(self._file(index))),
            None if boxes is None else torch.tensor(boxes),
        )

    def labels_of(self, index: int) -> tuple[int, ...]:
        """Return all labels of a sample."""
        return self.all_labels[index]

    def describe(self) -> dict[str, Any]:
        """Return the location, the number of images and a hash over paths, labels, boxes and sizes of files."""
        facts = (
            (path, self.labels[index], self.boxes.get(index), _bytes_of(self._file(index)))
            for index, path in enumerate(self.paths)
        )
        return {"kind": "files", "location": self.location, "images": len(self), "sha256": sha256_of(facts)}

    def contents(self) -> Contents:
        """Return a hash of each file."""
        return Contents(_hashes(map(self._file, range(len(self)))))

    def _file(self, index: int) -> str:
        return os.path.join(self.root, self.paths[index])


class Items(Indexed):
    """The items of a map-style data set or a list; torchvision data sets also give the paths of their files.

    Args:
        data: has a length, and an item for each index.
        labels: how labels are read.
        limit: take only the first `limit` items.
    """

    def __init__(self, data: Any, labels: Labels, limit: int | None = None):
        self._data, self._labels = data, labels
        self._count = len(data) if limit is None else min(limit, len(data))
        if not self._count:
            raise ValueError(f"there are no images in the {type(data).__name__}: its length is 0")

    def __len__(self) -> int:
        return self._count

    def path(self, index: int) -> str:
        """Return the path of a sample, as far as it is known without reading it."""
        return self._path(index, self._known(index))

    def read(self, index: int) -> Sample:
        """Return a sample.

        Raises:
            TypeError: the item has an unknown format.
            ValueError: there is no such label, or boxes or mask do not fit.
        """
        with _one_at_a_time:
            item = _parts(self._data[index])
            return _sample(index, self._path(index, {**self._known(index), **item}), item, self._labels)

    def labels_of(self, index: int) -> tuple[int, ...]:
        """Return all labels of a sample, none if it cannot be read, or raise ValueError for an ambiguous one."""
        try:
            with _one_at_a_time:
                item = _parts(self._data[index])
        except Exception:  # data sets may raise anything; it is reported when the run reads the item
            return ()
        return self._labels.read_all(item.get("label"), f"item {index}")

    def describe(self) -> dict[str, Any]:
        """Return kind, root, number of items, transform, and a hash of what is known without reading."""
        whole, _ = self._at(0)
        facts = (
            (self.path(index), self._at(index)[1], known.get("label"), known.get("boxes"))
            for index in range(len(self))
            for known in [self._known(index)]
        )
        return {
            "kind": _name_of(whole),
            "location": _root_of(whole),
            "images": len(self),
            "sha256": sha256_of(facts),
            "transform": describe(getattr(whole, "transform", None)),
        }

    def contents(self) -> Contents:
        """Return the data set and hashes of its files, if it names them; otherwise its items, read one by one."""
        whole, _ = self._at(0)
        if not isinstance(whole, list | tuple):
            files = [self._known(index).get("path") for index in range(len(self))]
            if all(isinstance(file, str | os.PathLike) and os.path.isfile(file) for file in files):
                return Contents(chain([whole], _hashes(os.fspath(file) for file in files if file is not None)))
        return Contents(map(self._item, range(len(self))))

    def _item(self, index: int) -> Any:
        try:
            with _one_at_a_time:
                return self._data[index]
        except Exception as error:  # data sets may raise anything; it is reported when the run reads the item
            return f"error: {_name_of(error)}"

    def _at(self, index: int) -> tuple[Any, int]:
        """Return the data set behind any `Subset`s, and the place of an item in it."""
        data: Any = self._data
        while isinstance(data, Subset):
            data, index = data.dataset, int(data.indices[index])
        return data, index

    def _known(self, index: int) -> dict[str, Any]:
        """Return what is known of an item without loading its image."""
        whole, place = self._at(index)
        if isinstance(whole, list | tuple):
            item = whole[place]
            if isinstance(item, list | tuple) and len(item) == 2:
                return {"label": item[1]}
            return {key: item.get(key) for key in ("label", "path", "boxes")} if isinstance(item, Mapping) else {}
        known: dict[str, Any] = {}
        for name in ("samples", "imgs", "targets"):
            entries: Any = getattr(whole, name, None)
            if not isinstance(entries, Sequence | Tensor | np.ndarray) or len(entries) != len(whole):
                continue
            entry = entries[place]
            if name == "targets":
                known["label"] = entry
            else:
                known["path"] = entry[0] if isinstance(entry, list | tuple) else entry
        return known

    def _path(self, index: int, known: Mapping[str, Any]) -> str:
        return _path_in(known, _root_of(self._at(index)[0])) or f"item {index}"


class Stream(Source):
    """The items of an iterable, in its order; can be read again if the iterable can.

    Args:
        data: yields items, or batches of them.
        labels: how labels are read.
        limit: take only the first `limit` samples.
    """

    def __init__(self, data: Iterable[Any], labels: Labels, limit: int | None = None):
        self._data, self._labels, self._limit = data, labels, limit
        self._of_batches = False
        self._known: Items | None = None
        if isinstance(data, DataLoader):
            _check_order(data)
            self._of_batches = data.batch_sampler is not None
            indexed = not isinstance(data.dataset, IterableDataset)
            if self._of_batches and data.collate_fn is default_collate and indexed:
                count = len(data.dataset)  # type: ignore[arg-type]
                if data.drop_last:
                    count -= count % data.batch_sampler.batch_size  # type: ignore[union-attr]
                self._known = Items(data.dataset, labels, count if limit is None else min(limit, count))

    @property
    def size(self) -> int | None:
        """The number of images; None if it is known only at the end."""
        return None if self._known is None else len(self._known)

    def describe(self) -> dict[str, Any]:
        """Return what is known before the end, which is less than for other sources."""
        if self._known is not None:
            return {**self._known.describe(), "loader": _name_of(self._data)}
        return {"kind": _name_of(self._data), "images": None}

    def contents(self) -> Contents:
        """Return those of a `DataLoader`'s data set; of anything else they are unknown until all has been read."""
        if self._known is not None:
            return self._known.contents()
        return Contents(unknown=f"what comes out of a {type(self._data).__name__} is known only when it has been read")

    def __iter__(self) -> Iterator[Sample]:
        index = -1
        for index, parts in enumerate(islice(self._items(), self._limit)):
            path = f"item {index}" if self._known is None else self._known.path(index)
            yield _sample(index, _path_in(parts) or path, parts, self._labels)
        if index < 0:
            raise ValueError(f"there are no images in the {type(self._data).__name__}, or it has been read already")

    def _items(self) -> Iterator[Mapping[str, Any]]:
        for item in self._data:
            parts = _parts(item)
            if self._of_batches or _is_batch(parts):
                yield from _split(parts)
            else:
                yield parts


class Labels:
    """How labels are read.

    Args:
        categories: class names, if known.
        needed: whether an unknown class name is an error; otherwise it counts as an unknown label.
        several: whether an image may have several labels, which `read_all` reads if they are needed.
    """

    def __init__(self, categories: Sequence[str] = (), needed: bool = False, several: bool = False):
        self.classes, self.needed, self.several = len(categories), needed, several
        self._numbers: dict[str, int | None] = {}
        for number, name in enumerate(categories):
            key = name.strip().lower()
            self._numbers[key] = None if key in self._numbers else number  # a name that two classes share names neither

    def number(self, text: str) -> int | None:
        """Return the class of a number or a name."""
        if text.isascii() and text.isdigit():
            return int(text)
        return self._numbers.get(text.lower())

    def read(self, value: Any, where: str) -> int | None:
        """Return the class that a label stands for, None for a missing label.

        Args:
            value: a number, a text, or an array of one of them.
            where: the item that has the label, for messages.

        Raises:
            ValueError: it is not a text or a number from 0 to the last known class; or the name is unknown and
                labels are needed.
        """
        if isinstance(value, Tensor | np.ndarray | np.generic):
            values = value.reshape(-1).tolist()
            value = values[0] if len(values) == 1 else value
        if isinstance(value, str):
            text = value.strip()
            number = self.number(text)
            try:
                value = number if number is not None else float(text) if text else None
            except ValueError:
                if self.needed:
                    raise ValueError(f"{where}: {self._unknown(text)}") from None
                return None
        if isinstance(value, float):  # tables turn integers into floats if one is missing
            if math.isnan(value):
                return None
            value = int(value) if value.is_integer() else value
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise ValueError(f"{where}: a label must be a class number, 0 or more, or a name; got {value!r:.80}")
        if self.classes and value >= self.classes:
            raise ValueError(f"{where}: the label {value} is not one of the {self.classes} classes, which count from 0")
        return value

    def read_all(self, value: Any, where: str) -> tuple[int, ...]:
        """Return the classes, in order, that the labels of an image stand for.

        Args:
            value: what `read` takes; a text with several labels, "3;5"; several labels in a list or array; or a yes or
                no for each class, as booleans or as floating-point numbers 1, 0 and NaN (not known, which counts as
                no).
            where: see `read`.

        Raises:
            ValueError: see `read`; or a yes or no is missing for a class; or integers may be either.
        """
        if isinstance(value, Tensor | np.ndarray | np.generic):
            value = value.tolist()
        parts = value.split(";") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        kinds = {type(part) for part in parts} - {NoneType}
        if len(parts) > 1 and kinds <= {bool, float, int} and kinds & {bool, float}:
            if self.classes and len(parts) != self.classes:
                raise ValueError(f"{where}: expected a yes or no for each of {self.classes} classes; got {len(parts)}")
            return self.chosen(dict(enumerate(parts)), where)
        if len(parts) > 1 and kinds == {int} and {*parts} <= {0, 1, None}:
            raise ValueError(
                f"{where}: {parts!r:.80} may be class numbers, or a yes or no for each class: give a yes or no as "
                "booleans or floating-point numbers, and class numbers as a text, '0;1'"
            )
        found = {self.read(part, where) for part in parts}
        return tuple(sorted(label for label in found if label is not None))

    def chosen(self, answers: Mapping[int, Any], where: str) -> tuple[int, ...]:
        """Return the classes whose answer is yes.

        Args:
            answers: for each class 1, 0, or None or NaN where it is not known, which counts as no; also as text.
            where: see `read`.

        Raises:
            ValueError: an answer is anything else, such as -1 for "uncertain".
        """
        found = []
        for number, answer in answers.items():
            try:
                value = math.nan if answer is None else float(answer)
            except (TypeError, ValueError):
                value = math.inf
            if value not in (0, 1) and not math.isnan(value):
                raise ValueError(
                    f"{where}: the yes or no of class {number} must be 1 or 0, or missing where it is not known; got "
                    f"{answer!r:.80}"
                )
            if value == 1:
                found.append(number)
        return tuple(sorted(found))

    def _unknown(self, name: str) -> str:
        if not self.classes:
            return f"the number of class {name!r} is not known, as the model has no class names: give the number"
        classes = "more than one" if name.lower() in self._numbers else "none"
        return f"{name!r} is the name of {classes} of the {self.classes} classes: give the number"


def open_source(
    data: Any,
    *,
    categories: Sequence[str] = (),
    labels_needed: bool = False,
    several_labels: bool = False,
    limit: int | None = None,
) -> Source:
    """Open a data set; no image is read.

    Labels are class numbers or texts: digits for a number, anything else for a class name, in upper or lower case.
    A name that is not among `categories` is an unknown label.

    - A folder, with everything below it, in the order of relative paths. Hidden files and folders (names starting with
      ".") are skipped, and so is every file whose extension Pillow does not know as an image. If no image lies in the
      folder itself, its sub-folders are the classes, by number or name. If no sub-folder's name fits, and no categories
      are known or there are exactly as many, classes follow the order of the names (as in
      `torchvision.datasets.ImageFolder`, empty folders included).
    - A table, .csv or .parquet, with a column of files (path, file, filename or image), absolute or relative to the
      table's folder, and optional columns of labels (label, class_index, target or class) and boxes (xmin, ymin, xmax,
      ymax, whole pixels of the upright image, the maximum exclusive). Several rows for one file give several boxes of
      that image, which takes the place of its first row.
    - A glob such as "photos/**/*.jpg", without labels; it skips what folders skip.
    - A list of image paths, without labels.
    - A data set with a length and an item for each index, such as those of torchvision, or a list. An item is an image,
      a pair (image, label), or a dict with "image" and optionally "label", "path", "boxes" (B, 4) and "mask" (H, W). An
      image is a Pillow image, which becomes upright RGB as files do, or an input tensor (C, *S). Items are read one at
      a time. To check whether a run can be resumed, all are read once before it starts; if the data set names the
      files of its items, as `torchvision.datasets.ImageFolder` does, the files are read instead.
    - A `DataLoader` that does not shuffle. Its batches are x, (x, y) or dicts of the same keys, x of shape (N, C, *S).
    - Any other iterable of such items. An item is a batch if its image is a tensor of four or more dimensions with one
      label per element of the first; a tensor alone is always one input. An error in the iterable ends the run.

    Args:
        data: see above.
        categories: class names, if known.
        labels_needed: raise an error if there are no labels; a single image may still lack one.
        several_labels: an image may have several labels, see `Labels.read_all`: in several rows of a table, in a list
            or a text "3;5", or as a yes or no for each class; in a table without a column of labels, each of the
            columns that are named like classes has 1, 0 or nothing. `labels_of` of the source returns them, if they are
            needed, and samples have no label.
        limit: take only the first `limit` images.

    Raises:
        TypeError: data or limit has an unsupported type.
        ValueError: there is no such file, there are no images, labels are needed but missing, a row of a table is
            wrong, or a `DataLoader` shuffles.
    """
    if limit is not None:
        check_count("limit", limit)
    labels = Labels(categories, labels_needed, several_labels)
    if isinstance(data, str | os.PathLike):
        return _open_files(os.fspath(data), labels, limit)
    if isinstance(data, list | tuple) and data and all(isinstance(item, str | os.PathLike) for item in data):
        return _listed_files([PurePath(path).as_posix() for path in data[:limit]], labels)
    if not isinstance(data, Mapping | bytes | Tensor | np.ndarray):
        indexed = hasattr(data, "__len__") and hasattr(data, "__getitem__")
        if indexed and not isinstance(data, DataLoader | IterableDataset):
            return Items(data, labels, limit)
        if isinstance(data, Iterable):
            return Stream(data, labels, limit)
    raise TypeError(
        "data must be a folder, a CSV or Parquet file, a glob, a data set with a length, a list, a DataLoader or "
        f"another iterable; got {_kind(data)}"
    )


def _open_files(location: str, labels: Labels, limit: int | None) -> Files:
    place = os.path.expanduser(location)
    boxes: dict[int, list[_Box]] = {}
    of_paths: list[tuple[int, ...]]
    if os.path.isdir(place):
        root = place
        paths, of_folders = _in_folder(place, labels)
        of_paths = [() if label is None else (label,) for label in of_folders]
    elif os.path.isfile(place):
        root = os.path.dirname(place)
        paths, of_paths, boxes = _in_table(place, labels)
    else:
        check_location(location)
        root = place
        while _MAGIC.search(root):
            root = os.path.dirname(root)
        found = glob.glob(os.path.relpath(place, root or os.curdir), root_dir=root or os.curdir, recursive=True)
        paths = sorted({PurePath(path).as_posix() for path in found if _is_image(path)})
        of_paths = [()] * len(paths)
    if not paths:
        raise ValueError(
            f"there are no images in {location!r}: expected rows in a table, or files that are not hidden and end in "
            f"{', '.join(sorted(_extensions()))}"
        )
    if labels.needed and not any(of_paths):
        raise ValueError(
            f"{location!r} has no labels, and the class to explain or to compare with is the label: give class numbers "
            "in a column 'label' of a CSV file, or a folder whose sub-folders are classes and hold all images"
        )
    return Files(
        location=location,
        root=os.path.abspath(root),
        paths=tuple(paths[:limit]),
        labels=tuple(found[0] if found and not labels.several else None for found in of_paths[:limit]),
        boxes={index: tuple(rows) for index, rows in boxes.items() if limit is None or index < limit},
        all_labels=tuple(of_paths[:limit]) if labels.several else (),
    )


def _listed_files(paths: list[str], labels: Labels) -> Files:
    if labels.needed:
        raise ValueError(
            "a list of paths has no labels, and the class to explain or to compare with is the label: give a CSV file"
        )
    return Files(f"{len(paths)} paths", os.getcwd(), tuple(paths), (None,) * len(paths), {})


def _in_folder(folder: str, labels: Labels) -> tuple[list[str], list[int | None]]:
    paths = sorted(_below(folder, "", frozenset()))
    if any("/" not in path for path in paths):
        return paths, [None] * len(paths)
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if _is_folder(entry) and not entry.name.startswith("."))
    numbers = {name: labels.number(name) for name in names}
    if all(number is None for number in numbers.values()) and labels.classes in (0, len(names)):
        numbers = {name: number for number, name in enumerate(names)}
    unknown = [name for name, number in numbers.items() if number is None]
    if unknown and labels.needed:
        raise ValueError(
            f"the class numbers of {len(unknown)} of the {len(names)} folders in {folder!r} are not known, such as "
            f"{unknown[0]!r}: rename them to numbers or names of classes, or give a CSV file with class numbers"
        )
    return paths, [numbers[path.partition("/")[0]] for path in paths]


def _below(folder: str, prefix: str, above: frozenset[str]) -> Iterator[str]:
    """Yield the relative paths of the images below a folder; a link to a folder above is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(f"cannot look into {folder}: {error.strerror}") from error
    for entry in visible:
        if _is_folder(entry):
            yield from _below(entry.path, f"{prefix}{entry.name}/", above | {real})
        elif _is_image(entry.name):
            yield prefix + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # For a circular link the entry raises an error; for anything else it knows without reading the disk.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


@lru_cache(maxsize=1)
def _extensions() -> frozenset[str]:
    Image.init()
    return frozenset(suffix for suffix, format_ in Image.registered_extensions().items() if format_ in Image.OPEN)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _extensions()


def _in_table(table: str, labels: Labels) -> tuple[list[str], list[tuple[int, ...]], dict[int, list[_Box]]]:
    columns, of_classes = _read_table(table, labels)
    folder = os.path.abspath(os.path.dirname(table))
    places: dict[str, int] = {}
    of_paths: list[tuple[int, ...]] = []
    boxes: dict[int, list[_Box]] = {}
    for row, name in enumerate(columns["file"], start=1):
        where = f"{table}, row {row}"
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{where}: expected the path of a file, as text; got {name!r}")
        index = places.setdefault(_relative(name, folder), len(places))
        found = _labels_in_row(
            columns["label"][row - 1] if "label" in columns else None,
            {number: column[row - 1] for number, column in of_classes.items()},
            labels,
            where,
        )
        if index == len(of_paths):
            of_paths.append(())
        above, of_paths[index] = of_paths[index], tuple(sorted({*of_paths[index], *found}))
        if len(of_paths[index]) > 1 and not labels.several:
            raise ValueError(f"{where}: {name!r} has the label {found[0]}, and {above[0]} in a row above")
        box = _box([columns[side][row - 1] for side in _BOX_COLUMNS if side in columns], where)
        if box is not None:
            boxes.setdefault(index, []).append(box)
    return list(places), of_paths, boxes


def _labels_in_row(value: Any, answers: Mapping[int, Any], labels: Labels, where: str) -> tuple[int, ...]:
    if labels.several:
        found = labels.read_all(value, where) if labels.needed else ()
        return found or labels.chosen(answers, where)
    label = labels.read(value, where)
    return () if label is None else (label,)


def _read_table(table: str, labels: Labels) -> tuple[dict[str, list[Any]], dict[int, list[Any]]]:
    """Return the needed columns, by the names used here, and those of classes, by number, if they are the labels."""
    try:
        if table.lower().endswith(".csv"):
            parse = pa_csv.ParseOptions(newlines_in_values=True)
            with pa_csv.open_csv(table, parse_options=parse) as reader:
                names, classes = _columns(table, reader.schema.names, labels)
            needed = [*names.values(), *classes.values()]
            convert = pa_csv.ConvertOptions(
                column_types=dict.fromkeys(needed, pa.string()),  # "007" is not a number
                include_columns=needed,
                null_values=[""],
                strings_can_be_null=True,
            )
            read = pa_csv.read_csv(table, parse_options=parse, convert_options=convert)
        elif table.lower().endswith(".parquet"):
            with pq.ParquetFile(table) as file:
                names, classes = _columns(table, file.schema_arrow.names, labels)
                read = file.read(columns=[*names.values(), *classes.values()])
        else:
            raise ValueError(f"{table} is not a table: expected a folder, a .csv or .parquet file, or a glob")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot read {table}: {error}") from error
    columns = {key: read[name].to_pylist() for key, name in names.items()}
    return columns, {number: read[name].to_pylist() for number, name in classes.items()}


def _columns(table: str, names: Sequence[str], labels: Labels) -> tuple[dict[str, str], dict[int, str]]:
    """Return what a table calls the needed columns, and those of classes; or raise ValueError."""
    found: dict[str, str] = {}
    choices = {"file": _FILE_COLUMNS, "label": _LABEL_COLUMNS, **{side: (side,) for side in _BOX_COLUMNS}}
    for key, accepted in choices.items():
        for choice in accepted:
            alike = [name for name in names if name.strip().lower() == choice]
            if len(alike) > 1:
                raise ValueError(f"{table} has {len(alike)} columns {choice!r}: expected one")
            if alike:
                found[key] = alike[0]
                break
    if "file" not in found:
        raise ValueError(f"{table} has no column {' or '.join(map(repr, _FILE_COLUMNS))}; it has {', '.join(names)}")
    lacking = [side for side in _BOX_COLUMNS if side not in found]
    if 0 < len(lacking) < len(_BOX_COLUMNS):
        raise ValueError(f"{table} has no column {', '.join(map(repr, lacking))}: a box needs all four")
    of_classes: dict[int, str] = {}
    if labels.several and labels.needed and "label" not in found:
        for name in names:
            number = None if name in found.values() else labels.number(name.strip())
            if number is None or number >= labels.classes:
                continue
            if number in of_classes:
                raise ValueError(f"{table} has two columns of class {number}: {of_classes[number]!r} and {name!r}")
            of_classes[number] = name
    return found, of_classes


def _box(values: Sequence[Any], where: str) -> _Box | None:
    """Return a box from numbers or texts; None if all are missing."""
    try:
        sides = [math.nan if value is None else float(value) for value in values]
    except (TypeError, ValueError):
        sides = [math.inf]
    if all(map(math.isnan, sides)):
        return None
    if len(sides) == 4 and all(side.is_integer() for side in sides):
        left, top, right, bottom = map(int, sides)
        if 0 <= left < right and 0 <= top < bottom:
            return left, top, right, bottom
    raise ValueError(
        f"{where}: a box must be xmin, ymin, xmax, ymax in whole pixels, with 0 <= xmin < xmax and 0 <= ymin < ymax; "
        f"got {', '.join(map(str, values))}"
    )


def _parts(item: Any) -> Mapping[str, Any]:
    """Return an item, or a batch, by `_KEYS`."""
    if isinstance(item, Mapping):
        if "image" not in item:
            raise TypeError(f"{_EXPECTED}; got {_kind(item)}")
        return {key: item[key] for key in _KEYS if item.get(key) is not None}
    if isinstance(item, list | tuple) and len(item) in (1, 2):
        return dict(zip(_KEYS, item, strict=False))
    return {"image": item}


def _is_batch(parts: Mapping[str, Any]) -> bool:
    """Tell whether an item of an iterable is a batch such as a `DataLoader` makes."""
    image, label = parts["image"], parts.get("label")
    return (
        isinstance(image, Tensor)
        and image.ndim >= 4
        and isinstance(label, Tensor | np.ndarray | list | tuple)
        and getattr(label, "ndim", 1) == 1
        and len(label) == len(image)
    )


def _split(parts: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    images = parts["image"]
    if not isinstance(images, Tensor) or images.ndim < 3:
        raise TypeError(
            f'batches must be x, (x, y) or dicts with "image", x a tensor (N, C, *S); got {_kind(images)}: give the '
            "data set itself"
        )
    for key, values in parts.items():
        if isinstance(values, str) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0:
            raise TypeError(f"expected one {key} for each of the {len(images)} images of a batch; got {_kind(values)}")
        if len(values) != len(images):
            raise ValueError(f"expected one {key} for each of the {len(images)} images of a batch; got {len(values)}")
    for place in range(len(images)):
        yield {key: values[place] for key, values in parts.items()}


def _sample(index: int, path: str, parts: Mapping[str, Any], labels: Labels) -> Sample:
    where, image = f"item {index}", parts["image"]
    size: tuple[int, ...]
    if isinstance(image, Image.Image):
        image = to_rgb(image)
        size = image.size[::-1]
    elif isinstance(image, Tensor) and image.ndim >= 2:
        size = tuple(image.shape[1:])
    else:
        raise TypeError(f"{where}: {_EXPECTED}; got {_kind(image)}")
    boxes, mask = parts.get("boxes"), parts.get("mask")
    if boxes is not None:
        boxes = torch.as_tensor(boxes)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{where}: boxes must have shape (B, 4); got {tuple(boxes.shape)}")
        boxes = torch.tensor([_box(row, where) for row in boxes.tolist()]) if len(boxes) else None
    if mask is not None:
        mask = torch.as_tensor(mask)
        if mask.dtype != torch.bool or mask.shape != size:
            got = f"{mask.dtype} {tuple(mask.shape)}"
            raise ValueError(f"{where}: the mask must be boolean, of the image's shape {size}; got {got}")
    label = None if labels.several else labels.read(parts.get("label"), where)
    return Sample(index, path, label, image, boxes, mask)


def _check_order(loader: DataLoader[Any]) -> None:
    """Raise ValueError unless the batches of a loader come in the order of its data set."""
    if isinstance(loader.dataset, IterableDataset):
        in_order = True
    elif loader.batch_sampler is None:
        in_order = type(loader.sampler) is SequentialSampler
    else:
        batches = loader.batch_sampler
        in_order = type(batches) is BatchSampler and type(batches.sampler) is SequentialSampler
    if not in_order or (loader.num_workers > 1 and not getattr(loader, "in_order", True)):
        raise ValueError(
            "the DataLoader shuffles or has its own sampler, but a run numbers images in the order of the data set: "
            "give the data set itself, or a DataLoader with shuffle=False and no sampler"
        )


def _root_of(data: Any) -> str | None:
    root = getattr(data, "root", None)
    return os.fspath(root) if isinstance(root, str | os.PathLike) else None


def _path_in(parts: Mapping[str, Any], root: str | None = None) -> str | None:
    path = parts.get("path")
    return _relative(path, root) if isinstance(path, str | os.PathLike) else None


def _relative(path: str | os.PathLike[str], root: str | None) -> str:
    """Return a path, relative to a folder if it lies below it, with forward slashes."""
    pure = PurePath(path)
    if root is not None and pure.is_relative_to(root):
        pure = pure.relative_to(root)
    return pure.as_posix()


def _hashes(files: Iterable[str]) -> Iterator[str | None]:
    """Yield the hash of each file, None where it cannot be read."""
    with ThreadPoolExecutor(_READERS, "hash") as pool:
        yield from pool.map(hash_file, files)


def _bytes_of(file: str) -> int | None:
    try:
        return os.stat(file).st_size
    except (OSError, ValueError):  # reading it reports the error
        return None


def sha256_of(facts: Iterable[Any]) -> str:
    """Return a hash over facts in JSON types, tensors and arrays."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(json.dumps(fact, default=_plain).encode() + b"\n")
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else _name_of(value)


def _name_of(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _kind(value: Any) -> str:
    """Describe a value for a message."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with the keys {', '.join(map(repr, value))}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__
