"""Where a run keeps its results: a folder of parts, each written whole or not at all, so that a run can be resumed."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cam_extras._checks import check_choice, check_count
from cam_extras.runs.identity import hash_file

MODES = ("new", "resume", "overwrite")
_RUN, _PARTS, _RESULTS, _ERRORS, _SUMMARY = "run.json", "parts", "results.parquet", "errors.parquet", "summary.json"
_SUMS = "tables.sha256"
# The files of a run besides its parts, whoever writes them; those made from the parts come first.
RUN_FILES = ("report.html", "config.yaml", "summary.csv", _SUMMARY, _SUMS, _RESULTS, _ERRORS, _RUN)
_PART = re.compile(r"(\d{8,})\.parquet")
_OF_PARTS = re.compile(r"\d{8,}((\.errors|\.pictures)?\.parquet|\.sha256)")
_ROW_GROUP_ROWS, _ROW_GROUP_BYTES = 2**16, 2**26
_FIXED = (
    pa.field("index", pa.int64(), nullable=False),
    pa.field("path", pa.string(), nullable=False),
    pa.field("method", pa.string(), nullable=False),
    pa.field("label", pa.int64()),
    pa.field("target", pa.int64(), nullable=False),
    pa.field("predicted", pa.int64(), nullable=False),
    pa.field("probability", pa.float64(), nullable=False),
    pa.field("map_mean", pa.float64(), nullable=False),
    pa.field("map_max", pa.float64(), nullable=False),
)
_CURVES = ("insertion_curve", "deletion_curve", "curve_fractions")
_MAPS = (pa.field("map", pa.binary()), pa.field("map_shape", pa.list_(pa.int32())))
_PICTURES = pa.schema([("index", pa.int64()), ("method", pa.string()), ("picture", pa.binary())])
_FAILURES = pa.schema([("index", pa.int64()), ("path", pa.string()), ("stage", pa.string()), ("message", pa.string())])
_CONTROLS = {"FakeCAM", "RandomCAM"}  # for runs that do not list their controls
_here: set[Path] = set()  # folders open in this process: a POSIX lock keeps out only other processes


class NoSpaceError(OSError):
    """The disk, or a quota on it, is full."""


@dataclass(frozen=True)
class Failure:
    """An image that has no scores.

    Attributes:
        index: its position in the data set.
        path: its file.
        stage: the step that failed.
        message: what went wrong.
    """

    index: int
    path: str
    stage: str
    message: str


class Store:
    """The folder of one run. Part k holds the results of a fixed slice of the data set. Close it, or use `with`.

    `run.json` has the configuration, and the environment of every start. `parts/` has, for each part that is done, a
    file of results, a file of errors and one of pictures if there are any, and their checksums.

    >>> with Store.open("run", {"model": "resnet50"}, "resume", metrics=["adcc"]) as store:  # doctest: +SKIP
    ...     for part in set(range(100)) - store.done():
    ...         store.write(part, *evaluate(part))
    ...     store.finish()
    """

    def __init__(self, folder: Path, schema: pa.Schema, lock: int):
        self.folder, self.schema, self._lock = folder, schema, lock
        self._parts = folder / _PARTS

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        configuration: Mapping[str, Any],
        mode: str,
        *,
        metrics: Sequence[str],
        curves: bool = False,
        maps: bool = False,
        dims: Mapping[str, int] | None = None,
        environment: Mapping[str, Any] | None = None,
        identity: Mapping[str, Any] | None = None,
        insist: bool = False,
        files: Sequence[str] = RUN_FILES,
    ) -> Store:
        """Start a run in a folder, or resume the one that is there.

        Args:
            folder: created if it does not exist.
            configuration: everything that results depend on, in JSON types.
            mode: "new", for a folder without a run; "resume", to continue a run of the same configuration or to
                start one; "overwrite", to remove the files listed in the `run.json` of the run there, and no others,
                and start again.
            metrics: names of the score columns.
            curves: whether rows have an `insertion_curve`, a `deletion_curve` and their `curve_fractions`.
            maps: whether rows have a `map` and its `map_shape`, see `pack_map`.
            dims: by name, the number of dimensions of each score that is not a single number but nested lists.
            environment: facts that may change between starts, such as versions and the date, in JSON types.
            identity: what `cam_extras.runs.identity.identify` returns for everything that results depend on.
            insist: resume even if the identity differs or cannot be checked; `run.json` notes it.
            files: names of the files that the run will write besides the parts; `run.json` lists them.

        Raises:
            TypeError: a value is not of a JSON type; the message names the key.
            ValueError: a value is NaN or infinite; the folder holds parts or files of these names that no
                `run.json` lists; or the mode does not fit what is in the folder: the message lists every difference
                in configuration and identity.
            RuntimeError: another process is working on the folder.
            NoSpaceError: the disk is full.
        """
        check_choice("mode", mode, MODES)
        _check_json(configuration, "configuration")
        _check_json(environment or {}, "environment")
        _check_json(identity or {}, "identity")
        scores = [pa.field(name, _nested((dims or {}).get(name, 0))) for name in metrics]
        lists = [pa.field(name, pa.list_(pa.float64())) for name in _CURVES if curves]
        schema = pa.schema([*_FIXED, *scores, *lists, *(_MAPS if maps else ())])
        check_not_in_the_way(folder, files)  # here too, so that a refused folder stays unchanged
        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        store = cls(folder, schema, _lock(folder))
        try:
            run = json.loads(json.dumps({"configuration": configuration, "identity": identity or {}}))
            run |= {"columns": schema.names, "starts": [dict(environment or {})]}
            store._start(run, mode, insist, files)
        except BaseException:
            store.close()
            raise
        return store

    def _start(self, run: dict[str, Any], mode: str, insist: bool, files: Sequence[str]) -> None:
        check_not_in_the_way(self.folder, files)
        before = read_run(self.folder)
        listed = [] if before is None else before["files"]
        run["files"] = list(dict.fromkeys([_RUN, *listed, *files] if mode == "resume" else [_RUN, *files]))
        if mode == "new" and before is not None:
            raise ValueError(
                f"{self.folder} holds a run already ({_RUN}): give "
                'mode="resume" to go on with it, or mode="overwrite" to start anew'
            )
        if mode == "resume" and before is not None:
            run = self._resumed(run, before, insist)
        if before is not None:  # left by a run that was killed
            for name in listed:
                _temporary(self.folder / name).unlink(missing_ok=True)
            for path in self._parts.glob(".*.partial"):
                path.unlink()
        if mode == "overwrite" and before is not None:
            for name in listed:
                if name != _RUN and os.path.lexists(self.folder / name):
                    (self.folder / name).unlink()  # run.json stays until it is replaced: parts are never without one
            for path in _parts_in(self.folder):
                path.unlink()
            if self._parts.exists():
                _sync(self._parts)
        text = json.dumps(run, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")
        atomic_write(self.folder / _RUN, lambda file: file.write(text))
        self._parts.mkdir(exist_ok=True)
        _sync(self.folder)
        self._drop_damaged()

    def _resumed(self, run: dict[str, Any], stored: dict[str, Any], insist: bool) -> dict[str, Any]:
        """Return the stored run with one more start, or raise ValueError if it is not the run to resume."""
        configuration, columns, starts = stored["configuration"], stored["columns"], stored["starts"]
        identity = run["identity"]
        if identity and (stored.get("identity") or {}).get("version") != identity["version"]:
            raise ValueError(
                f"{self.folder} holds a run of another version of cam_extras, whose fingerprints of images, functions "
                "and modules cannot be compared with this version's: finish it with that version, or give another "
                'folder, or mode="overwrite" to start anew'
            )
        differences = [*_differences(configuration, run["configuration"])]
        if differences or columns != self.schema.names:
            lines = "\n  ".join(differences or [f"columns: {columns} -> {self.schema.names}"])
            raise ValueError(
                f"{self.folder} holds a run of another configuration (stored -> given):\n  {lines}\n"
                'give what is stored, or another folder, or mode="overwrite" to start anew'
            )
        doubts = [*_doubts(stored["identity"], identity)] if identity else []
        if doubts and not insist:
            lines = "\n  ".join(doubts)
            raise ValueError(
                f"{self.folder} holds a run that is not known to be the same:\n  {lines}\n"
                'give what was there, or another folder, mode="overwrite" to start anew, '
                "or insist=True to go on all the same"
            )
        start = {**run["starts"][0], **({"insisted": doubts} if doubts else {})}
        return {**stored, "files": run["files"], "starts": [*starts, start]}

    def done(self) -> set[int]:
        """Return the parts that are done."""
        return {int(found[1]) for path in self._parts.iterdir() if (found := _PART.fullmatch(path.name))}

    def with_errors(self) -> set[int]:
        """Return the parts that are done and have images without scores."""
        return {part for part in self.done() if ".errors" in dict(self._sums(part))}

    def _drop_damaged(self) -> None:
        """Drop the parts that are damaged, so that they are done again, and warn about each."""
        for part in sorted(self.done()):
            try:
                for kind in {"": "", **dict(self._sums(part))}:
                    _read_checked(self._part(part, kind))
            except (OSError, ValueError) as error:
                self._part(part).unlink()
                warnings.warn(f"{error}; part {part} is done again", RuntimeWarning, stacklevel=4)

    def write(
        self,
        part: int,
        rows: Sequence[Mapping[str, Any]] | Mapping[str, Any],
        errors: Sequence[Failure] = (),
        pictures: Sequence[Mapping[str, Any]] = (),
        *,
        replace: bool = False,
    ) -> None:
        """Write a part, which then counts as done.

        Args:
            part: its number.
            rows: one dict per row, or a dict of columns; None, or a missing key, stands for an unknown value.
            errors: the images of the part without scores.
            pictures: pictures of some images of the part, for the report: dicts with `index`, `method` ("" for the
                image itself) and `picture`, the bytes of an image file.
            replace: whether the part may be done already.

        Raises:
            TypeError: a value has another type than its column.
            ValueError: the part is done already; there is no such column; a required value is missing; or a score is
                NaN or infinite.
            NoSpaceError: the disk is full; the parts that are done are intact.
        """
        check_count("part", part, least=0)
        results = self._table(rows)
        path = self._part(part)
        if path.exists() and not replace:
            raise ValueError(f"part {part} is done already")
        failures = [{name: _text(value) for name, value in asdict(error).items()} for error in errors]
        contents = {"": _parquet(self.schema, results)}
        for kind, schema, found in ((".errors", _FAILURES, failures), (".pictures", _PICTURES, list(pictures))):
            if found:
                contents[kind] = _parquet(schema, pa.Table.from_pylist(found, schema))
        path.unlink(missing_ok=True)
        # Results come last: they mark the part as done, so its other files must be there before.
        for kind in (".errors", ".pictures"):
            if kind in contents:
                _write_bytes(self._part(part, kind), contents[kind])
            else:
                self._part(part, kind).unlink(missing_ok=True)  # left by an interrupted attempt
        self._write_sums(part, [(kind, _sha256(content)) for kind, content in contents.items()])
        _write_bytes(path, contents[""])

    def _write_sums(self, part: int, sums: Iterable[tuple[str, str]]) -> None:
        """Write the checksums of a part's files, by kind, in the format of `sha256sum --check`."""
        lines = (f"{checksum}  {self._part(part, kind).name}\n" for kind, checksum in sums)
        _write_bytes(_sums_of(self._part(part)), "".join(lines).encode())

    def _sums(self, part: int) -> list[tuple[str, str]]:
        """Return kinds and checksums of a part's files, or raise ValueError if they are not known."""
        kinds = {self._part(part, kind).name: kind for kind in ("", ".errors", ".pictures")}
        return [(kinds[name], checksum) for checksum, name in _read_sums(_sums_of(self._part(part))) if name in kinds]

    def keep_pictures(self, indices: Collection[int]) -> None:
        """Remove the pictures of all other images, so that those left depend on the results alone.

        Raises:
            ValueError: a file is damaged.
            NoSpaceError: the disk is full; the parts are intact.
        """
        for part in sorted(self.done()):
            path, sums = self._part(part, ".pictures"), self._sums(part)
            others = [(kind, checksum) for kind, checksum in sums if kind != ".pictures"]
            table = _open_parquet(_read_checked(path)) if len(others) < len(sums) else _PICTURES.empty_table()
            chosen = table.filter(pa.array([index in indices for index in table["index"].to_pylist()], pa.bool_()))
            content = _parquet(_PICTURES, chosen)
            after = [*others, (".pictures", _sha256(content))] if len(chosen) else others
            # Wherever this is interrupted, the checksum of the file is among those noted, or none is noted.
            if after != sums:
                self._write_sums(part, [*sums, after[-1]] if len(chosen) else after)
            if not len(chosen):
                path.unlink(missing_ok=True)
            elif after != sums:
                _write_bytes(path, content)
                self._write_sums(part, after)

    def _table(self, rows: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> pa.Table:
        if isinstance(rows, Mapping):
            columns, count = rows, len(next(iter(rows.values()), ()))
        else:
            names = dict.fromkeys(name for row in rows for name in row)
            columns, count = {name: [row.get(name) for row in rows] for name in names}, len(rows)
        unknown = [name for name in columns if name not in self.schema.names]
        if unknown:
            raise ValueError(f"there is no column {', '.join(map(repr, unknown))}; there are {self.schema.names}")
        arrays = []
        for field in self.schema:
            values = columns.get(field.name, [None] * count)
            values = values.tolist() if hasattr(values, "tolist") else values  # of arrays and tensors
            array = pa.array([*map(_text, values)], field.type)
            if array.null_count and not field.nullable:
                raise ValueError(f"every row must have {field.name!r}")
            if field.type == pa.float64() and not np.isfinite(array.drop_null().to_numpy()).all():
                raise ValueError(f"{field.name!r} is NaN or infinite: give None for a score that is undefined")
            arrays.append(array)
        return pa.table(arrays, schema=self.schema)

    def results(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of all parts that are done, in order of part and row: all columns, or those named."""
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        return pa.concat_tables([schema.empty_table(), *self._read("", schema)])

    def errors(self) -> pa.Table:
        """Return the errors of all parts that are done, in order of part."""
        return pa.concat_tables([_FAILURES.empty_table(), *self._read(".errors", _FAILURES)])

    def pictures(self) -> Iterator[pa.Table]:
        """Yield the pictures of each part that is done and has any, in order of part."""
        yield from self._read(".pictures", _PICTURES)

    def finish(self) -> None:
        """Write `results.parquet` and `errors.parquet`, bit for bit the same however often the run was interrupted.

        Raises:
            ValueError: a part is damaged.
            NoSpaceError: the disk is full; the parts are intact.
        """
        (self.folder / _SUMS).unlink(missing_ok=True)
        _write_parquet(self.folder / _ERRORS, _FAILURES, self._read(".errors", _FAILURES))
        _write_parquet(self.folder / _RESULTS, self.schema, self._read("", self.schema))
        lines = (f"{hash_file(str(self.folder / name))}  {name}\n" for name in (_ERRORS, _RESULTS))
        _write_bytes(self.folder / _SUMS, "".join(lines).encode())

    def _part(self, part: int, kind: str = "") -> Path:
        return self._parts / f"{part:08}{kind}.parquet"

    def _read(self, kind: str, schema: pa.Schema) -> Iterator[pa.Table]:
        for part in sorted(self.done()):
            if kind == "" or kind in dict(self._sums(part)):
                yield _open_parquet(_read_checked(self._part(part, kind)), schema.names).select(schema.names)

    def close(self) -> None:
        """Let other processes work on the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
            _here.discard(self.folder)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder.

    Attributes:
        folder: where it is.

    Raises:
        ValueError: on reading an attribute whose file is missing or cannot be read.
    """

    folder: Path

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """Everything that the results depend on."""
        configuration: dict[str, Any] = self._json(_RUN)["configuration"]
        return configuration

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """The environment of every start: versions, date and the state of the code."""
        starts: list[dict[str, Any]] = self._json(_RUN)["starts"]
        return starts

    @cached_property
    def controls(self) -> frozenset[str]:
        """The methods that are controls, see `cam_extras.methods.Method.control`, by their names in the results."""
        told = self.starts[-1].get("controls") if self.starts else None
        if told is not None:
            return frozenset(told)
        methods = self.configuration.get("methods", {})
        return frozenset(name for name, about in methods.items() if _CONTROLS & {about.get("method"), about.get("cam")})

    @cached_property
    def results(self) -> pa.Table:
        """One row for each image and method."""
        return self._table(_RESULTS)

    @cached_property
    def errors(self) -> pa.Table:
        """One row for each image without scores: index, path, stage and message."""
        return self._table(_ERRORS)

    @cached_property
    def summary(self) -> list[dict[str, Any]]:
        """One row for each method and metric, see `cam_extras.runs.summary.summarise`."""
        rows: list[dict[str, Any]] = self._json(_SUMMARY)
        return rows

    def pictures(self) -> dict[int, dict[str, bytes]]:
        """Return image files by index and method ("" for the image itself), for the images that were drawn."""
        drawn: dict[int, dict[str, bytes]] = {}
        for path in sorted((self.folder / _PARTS).glob("*.pictures.parquet")):
            for row in self._of_part(path).to_pylist():
                drawn.setdefault(row["index"], {})[row["method"]] = row["picture"]
        return drawn

    def _of_part(self, path: Path) -> pa.Table:
        try:
            return _open_parquet(_read_checked(path))
        except (OSError, ValueError) as error:
            raise self._unreadable(f"{_PARTS}/{path.name}", error) from error

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._unreadable(name, error) from error

    def _table(self, name: str) -> pa.Table:
        try:
            sums = self.folder / _SUMS
            if sums.exists():  # runs of earlier versions have none
                _check_sum(self.folder / name, sums, hash_file(str(self.folder / name)))
            return _read_parquet(self.folder / name)
        except (OSError, ValueError) as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> ValueError:
        return ValueError(
            f"{self.folder} does not hold a finished run: {name} cannot be read ({error}); give the output folder of "
            'an evaluation, and finish one that was interrupted with mode="resume"'
        )


def read_run(folder: Path) -> dict[str, Any] | None:
    """Return the contents of a folder's `run.json`, or None if there is none, or none that a run wrote."""
    try:
        run = json.loads((folder / _RUN).read_text(encoding="utf-8"))
        columns = [field.name for field in _FIXED]
        files = run.setdefault("files", [*RUN_FILES])  # earlier versions wrote no list
        ours = (
            isinstance(run["configuration"], dict)
            and run["columns"][: len(columns)] == columns
            and isinstance(run["starts"], list)
            and all(os.path.basename(name) == name not in ("", ".", "..") for name in files)  # never outside the folder
        )
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None
    return run if ours else None


def check_not_in_the_way(folder: str | os.PathLike[str], files: Sequence[str] = RUN_FILES) -> None:
    """Raise ValueError if a run would overwrite files in a folder that belong to no run; nothing is touched.

    Args:
        folder: need not exist.
        files: names of the files that the run will write besides the parts.
    """
    if not os.fspath(folder):
        raise ValueError('the output folder is "": give the name of a folder, or "." for the working folder')
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the output {folder} is a file: give a folder")
    run = read_run(folder)
    listed = () if run is None else run["files"]
    there = [name for name in dict.fromkeys([*files, _RUN]) if os.path.lexists(folder / name) and name not in listed]
    if run is None:
        there += [f"{_PARTS}/{path.name}" for path in _parts_in(folder)]
    if there:
        names = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "")
        raise ValueError(
            f"{folder} holds {names}, which no {_RUN} of an evaluation lists and this run would replace: give another "
            f"output folder, or move {'it' if len(there) == 1 else 'them'} away"
        )


def _parts_in(folder: Path) -> list[Path]:
    return [path for path in sorted((folder / _PARTS).glob("*")) if _OF_PARTS.fullmatch(path.name)]


def pack_map(saliency: Any) -> dict[str, Any]:
    """Return the columns `map`, little-endian float16, and `map_shape` of one map, an array or a tensor on the CPU."""
    array = np.asarray(saliency)
    return {"map": array.astype("<f2").tobytes(), "map_shape": list(array.shape)}


def unpack_map(row: Mapping[str, Any]) -> np.ndarray:
    """Return the map of a row, in float16."""
    saliency: np.ndarray = np.frombuffer(row["map"], "<f2").reshape(row["map_shape"])
    return saliency


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file completely or not at all, even if the process or the machine stops.

    Args:
        path: the file, replaced if it exists.
        write: writes its contents.

    Raises:
        NoSpaceError: the disk, or a quota on it, is full.
    """
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpaceError(
                f"there was no room to write {path.name} in {path.parent} ({os.strerror(error.errno)}): what is done "
                'is kept; make room, then go on with mode="resume"'
            ) from error
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _sync(folder: Path) -> None:
    """Make the names in a folder survive a crash of the machine; not possible on Windows."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables in row groups whose size depends on the tables alone, holding one group at a time."""

    def write(file: BinaryIO) -> None:
        with _writer(file, schema) as writer:
            held: list[pa.Table] = []
            rows = size = 0
            for table in tables:
                held.append(table)
                rows, size = rows + len(table), size + table.nbytes
                if rows >= _ROW_GROUP_ROWS or size >= _ROW_GROUP_BYTES:
                    writer.write_table(pa.concat_tables(held), row_group_size=rows)
                    held, rows, size = [], 0, 0
            if rows:
                writer.write_table(pa.concat_tables(held), row_group_size=rows)

    atomic_write(path, write)


def _writer(file: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(file, schema, compression="zstd", version="2.6", write_page_checksum=True)


def _parquet(schema: pa.Schema, table: pa.Table) -> bytes:
    """Return the contents of a Parquet file with a table in one row group."""
    file = io.BytesIO()
    with _writer(file, schema) as writer:
        if len(table):
            writer.write_table(table, row_group_size=len(table))
    return file.getvalue()


def _read_parquet(source: Path | pa.BufferReader, columns: Sequence[str] | None = None) -> pa.Table:
    # read_table would make columns of folders named key=value
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        return file.read(columns, use_threads=False)


def _open_parquet(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    return _read_parquet(pa.BufferReader(content), columns)


def _write_bytes(path: Path, content: bytes) -> None:
    atomic_write(path, lambda file: file.write(content))


# Parquet's own page checksums leave out its headers, so whole files have checksums too.


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sums_of(part: Path) -> Path:
    """Return the checksum file of a part, given any of the part's files."""
    return part.with_name(f"{part.name.partition('.')[0]}.sha256")


def _read_sums(sums: Path) -> list[tuple[str, str]]:
    """Return checksums and names of files, or raise ValueError if they cannot be read."""
    try:
        lines = [line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines()]
        return [(checksum, name) for checksum, name in lines]
    except (OSError, ValueError) as error:
        raise ValueError(f"{sums}, the checksums of files, cannot be read ({error})") from error


def _check_sum(path: Path, sums: Path, checksum: str | None) -> None:
    """Raise ValueError unless a file has one of the checksums noted for it."""
    if (checksum, path.name) not in _read_sums(sums):
        raise ValueError(f"{path} is damaged: it does not match its checksum in {sums.name}")


def _read_checked(path: Path) -> bytes:
    """Return the contents of a file of a part, or raise ValueError if it is damaged."""
    content = path.read_bytes()
    _check_sum(path, _sums_of(path), _sha256(content))
    return content


def _lock(folder: Path) -> int:
    """Return a descriptor that keeps other processes out of a folder until it is closed or the process ends.

    A POSIX lock belongs to the process that took it: forked workers do not keep it if that is killed.
    """
    if folder in _here:
        raise RuntimeError(f"{folder} is open already in this process: close it first")
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            os.close(lock)
            raise RuntimeError(
                f"another process is working on {folder}: wait for it, or give another folder"
            ) from error
        warnings.warn(f"{folder} cannot be locked ({error}): let only one process work on it", stacklevel=3)
    _here.add(folder)
    return lock


def _text(value: Any) -> Any:
    """Escape what UTF-8 cannot encode: file names may hold any bytes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _nested(dims: int) -> pa.DataType:
    """Return the type of lists of numbers, nested `dims` deep."""
    return pa.list_(_nested(dims - 1)) if dims else pa.float64()


def _check_json(value: object, key: str) -> None:
    if isinstance(value, Mapping):
        for name, part in value.items():
            if not isinstance(name, str):
                raise TypeError(f"keys of {key} must be strings; got {name!r}")
            _check_json(part, f"{key}.{name}")
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            _check_json(part, f"{key}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} must be finite; got {value}")
    elif value is not None and not isinstance(value, (str, int, float)):
        raise TypeError(f"{key} must be of a JSON type; got {type(value).__name__} {value!r}")


def _differences(stored: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield a line for every key whose value differs."""
    for key in {**stored, **given}:
        if isinstance(stored.get(key), dict) and isinstance(given.get(key), dict):
            yield from _differences(stored[key], given[key], f"{prefix}{key}.")
        elif key not in stored or key not in given or stored[key] != given[key]:
            sides = [
                json.dumps(side[key], ensure_ascii=False) if key in side else "nothing" for side in (stored, given)
            ]
            yield f"{prefix}{key}: {' -> '.join(sides)}"


_LOOKED_AT = {
    "data": "the images have changed, or other items are read",
    "model": "its modules, their settings, their tensors or their code have changed",
}


def _doubts(stored: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for everything that may have changed."""
    if stored["python"] != given["python"]:
        yield f"python: the bytecode is of {stored['python']}, and now of {given['python']}: it cannot be compared"
    for name in {**stored["sha256"], **given["sha256"]}:
        if stored["sha256"].get(name) != given["sha256"].get(name):
            yield f"{name}: {_LOOKED_AT.get(name, 'its values, its attributes or its code have changed')}"
    for unknown in dict.fromkeys([*stored["unknown"], *given["unknown"]]):
        yield f"cannot be checked: {unknown}"
