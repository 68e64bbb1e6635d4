"""Where a run keeps its results: killed, out of room, opened twice, resumed with something else; and bad input."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cam_extras.runs import store as module
from cam_extras.runs.store import Failure, NoSpaceError, Store, atomic_write, pack_map, unpack_map

METRICS = ("average_drop", "adcc")
CONFIGURATION = {"model": "resnet18", "methods": {"GradCAM": {}, "OptiCAM": {"max_iterations": 100}}, "seed": 0}


def rows_of(part, count=3, **more):
    rng = np.random.default_rng(part)
    return [
        {
            "index": count * part + n,
            "path": f"images/{count * part + n}.png",
            "method": "GradCAM",
            "label": None if n else 1,
            "target": 2,
            "predicted": 3,
            "probability": rng.random(),
            "map_mean": rng.random(),
            "map_max": 1.0,
            "average_drop": rng.random(),
            "adcc": rng.random(),
            **more,
        }
        for n in range(count)
    ]


def start(folder, mode="new", configuration=CONFIGURATION, **options):
    return Store.open(folder, configuration, mode, metrics=METRICS, **options)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {".lock"}


def test_parts_come_back_in_order(tmp_path):
    folder = tmp_path / "lr=0.1" / "run"  # a name that pyarrow makes a column of if it may
    with start(folder, environment={"torch": "2"}) as store:
        failure = Failure(9, "images/9.png", "decode", "cannot identify image file")
        store.write(10, rows_of(10), [failure])
        assert store.done() == {10}
        store.write(2, rows_of(2))
        store.write(0, [], [Failure(0, "a.png", "read", "")])
        assert store.done() == {0, 2, 10}
        assert store.results().to_pylist() == rows_of(2) + rows_of(10)
        assert store.results(["adcc", "index"]).to_pylist() == [
            {"adcc": row["adcc"], "index": row["index"]} for row in rows_of(2) + rows_of(10)
        ]
        assert store.errors().to_pylist()[1] == vars(failure)
        store.finish()
        assert pq.ParquetFile(folder / "results.parquet").read().equals(store.results())
        assert pq.ParquetFile(folder / "errors.parquet").read().equals(store.errors())
    assert json.loads((folder / "run.json").read_text())["configuration"] == CONFIGURATION
    parts = {f"parts/{name}.parquet" for name in ("00000000", "00000000.errors", "00000002", "00000010")}
    sums = {f"parts/{name}.sha256" for name in ("00000000", "00000002", "00000010")}
    assert files(folder) == {"run.json", "results.parquet", "errors.parquet", "tables.sha256"} | parts | sums | {
        "parts/00000010.errors.parquet"
    }


def test_columns_of_any_kind(tmp_path):
    rows = rows_of(0)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["target"] = torch.tensor(columns["target"])
    columns["adcc"] = np.array(columns["adcc"])
    with start(tmp_path) as store:
        store.write(0, columns)
        assert store.results().to_pylist() == rows


def test_nothing_known_and_nothing_succeeded(tmp_path):
    """A column without a value in one part is still one of numbers."""
    unknown = rows_of(0, adcc=None)
    for row in unknown:
        del row["label"]
    with start(tmp_path / "some") as store:
        store.write(0, unknown)
        store.write(1, [])
        store.write(2, rows_of(2))
        results = store.results()
        assert results["adcc"].to_pylist() == [None] * 3 + [row["adcc"] for row in rows_of(2)]
        assert results["label"].to_pylist() == [None] * 3 + [1, None, None]
        store.finish()
    with start(tmp_path / "none") as store:
        store.finish()
        store.write(0, [], [Failure(n, f"{n}.png", "decode", "broken") for n in range(3)])
        store.finish()
        assert len(store.results()) == 0
        found = pq.ParquetFile(tmp_path / "none" / "results.parquet").read()
        assert found.schema.equals(results.schema)
        assert pq.ParquetFile(tmp_path / "none" / "errors.parquet").read()["index"].to_pylist() == [0, 1, 2]


def test_maps(tmp_path):
    maps = torch.rand(3, 4, 5)
    with start(tmp_path, maps=True) as store:
        store.write(0, [row | pack_map(image) for row, image in zip(rows_of(0), maps, strict=True)])
        store.write(1, rows_of(1))
        rows = store.results().to_pylist()
    for row, image in zip(rows[:3], maps, strict=True):
        assert np.array_equal(unpack_map(row), image.half().numpy())
    assert rows[3]["map"] is None


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    with start(tmp_path, configuration={"data": name}) as store:
        store.write(0, rows_of(0, path=name), [Failure(0, name, "decode", f"cannot read {name}")])
        assert store.results()["path"][0].as_py() == "caf\\udce9.png"
        assert store.errors()["message"][0].as_py() == "cannot read caf\\udce9.png"
    start(tmp_path, "resume", {"data": name}).close()


class TestModes:
    def test_new(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        start(tmp_path).close()
        with pytest.raises(ValueError, match=r'already \(run.json\): give mode="resume" .* or mode="overwrite"'):
            start(tmp_path)
        (tmp_path / "run.json").unlink()
        (tmp_path / "results.parquet").touch()
        for mode in module.MODES:
            with pytest.raises(ValueError, match=r"holds results.parquet, which no run.json of an evaluation lists"):
                start(tmp_path, mode)
        (tmp_path / "results.parquet").unlink()
        with pytest.raises(ValueError, match="mode must be one of 'new', 'resume', 'overwrite'; got 'old'"):
            start(tmp_path, "old")

    def test_resume(self, tmp_path):
        with start(tmp_path, "resume", environment={"torch": "2.14"}) as store:
            store.write(0, rows_of(0))
        with start(tmp_path, "resume", environment={"torch": "2.15"}) as store:
            assert store.done() == {0}
            with pytest.raises(ValueError, match="part 0 is done"):
                store.write(0, rows_of(1))
            assert store.results().to_pylist() == rows_of(0)
        assert json.loads((tmp_path / "run.json").read_text())["starts"] == [{"torch": "2.14"}, {"torch": "2.15"}]

    def test_differences(self, tmp_path):
        start(tmp_path, configuration={"a": {"b": {"c": 1, "d": [1, 2]}, "e": None}, "f": "x", "same": (1, 2)}).close()
        stored = (tmp_path / "run.json").read_bytes()
        with pytest.raises(ValueError, match="another configuration") as found:
            start(tmp_path, "resume", {"a": {"b": {"c": 1, "d": [1, 3]}, "e": True}, "g": "é", "same": [1, 2]})
        lines = [line.strip() for line in str(found.value).splitlines() if line.startswith("  ")]
        assert lines == ["a.b.d: [1, 2] -> [1, 3]", "a.e: null -> true", 'f: "x" -> nothing', 'g: nothing -> "é"']
        assert (tmp_path / "run.json").read_bytes() == stored
        with pytest.raises(ValueError, match=r"columns: \['index', .*'same'|columns: .*'adcc'\] -> .*'map_shape'\]"):
            Store.open(tmp_path, json.loads(stored)["configuration"], "resume", metrics=METRICS, maps=True)

    @pytest.mark.parametrize("text", ["{", "[]", '{"configuration": {}}', ""])
    def test_broken_run(self, tmp_path, text):
        (tmp_path / "run.json").write_text(text)
        for mode in module.MODES:
            with pytest.raises(ValueError, match=r"holds run.json, which no run.json of .* give another output folder"):
                start(tmp_path, mode)
        assert files(tmp_path) == {"run.json"}
        assert (tmp_path / "run.json").read_text() == text

    @pytest.mark.parametrize("mode", module.MODES)
    def test_files_of_no_run_stay_as_they_are(self, tmp_path, mode):
        """Whatever is asked for, and nothing is left beside them, not even a lock."""
        theirs = {"config.yaml": "a: 1", "report.html": "<p>", "summary.csv": "b", "parts/00000000.parquet": "c"}
        for name, text in theirs.items():
            folder = tmp_path / name.replace("/", "-")
            (folder / "parts").mkdir(parents=True)
            (folder / name).write_text(text)
            with pytest.raises(ValueError, match=f"holds {name}, which no run.json .* move it away"):
                start(folder, mode)
            assert files(folder) == {name}
            assert not (folder / ".lock").exists()
            assert (folder / name).read_text() == text

    def test_overwrite_removes_what_is_listed_alone(self, tmp_path):
        """A run that writes no config.yaml does not own one."""
        with start(tmp_path, files=["results.parquet", "errors.parquet", "gallery.png"]) as store:
            store.write(0, rows_of(0))
        (tmp_path / "config.yaml").write_text("mine")
        (tmp_path / "gallery.png").touch()
        with pytest.raises(ValueError, match=r"holds config.yaml, which no run.json"):
            start(tmp_path, "overwrite")
        parts = {"parts/00000000.parquet", "parts/00000000.sha256"}
        assert files(tmp_path) == {"run.json", "config.yaml", "gallery.png", *parts}
        start(tmp_path, "overwrite", files=["results.parquet"]).close()
        assert files(tmp_path) == {"run.json", "config.yaml"}
        assert (tmp_path / "config.yaml").read_text() == "mine"

    def test_a_resumed_run_lists_what_either_start_writes(self, tmp_path):
        for mode, names in (("new", ["results.parquet"]), ("resume", ["config.yaml"])):
            start(tmp_path, mode, files=names).close()
        assert module.read_run(tmp_path)["files"] == ["run.json", "results.parquet", "config.yaml"]

    @pytest.mark.parametrize("name", ["../precious", "/etc/hostname", "..", "parts/x"])
    def test_a_list_that_reaches_out_of_the_folder_is_no_run(self, tmp_path, name):
        folder = tmp_path / "run"
        start(folder).close()
        run = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(run | {"files": ["run.json", name]}))
        (tmp_path / "precious").touch()
        with pytest.raises(ValueError, match=r"holds run.json, which no run.json"):
            start(folder, "overwrite")
        assert (tmp_path / "precious").exists()

    def test_no_name(self):
        with pytest.raises(ValueError, match='the output folder is ""'):
            start("")

    def test_overwrite(self, tmp_path):
        with start(tmp_path) as store:
            store.write(0, rows_of(0), [Failure(0, "", "", "")])
            store.finish()
        (tmp_path / "summary.csv").touch()
        mine = {"notes.txt", "parts/notes.txt", "other.parquet", "parts/1.parquet"}
        for name in mine:
            (tmp_path / name).touch()
        with start(tmp_path, "overwrite", {"model": "other"}) as store:
            assert store.done() == set()
        assert files(tmp_path) == mine | {"run.json"}
        assert json.loads((tmp_path / "run.json").read_text())["configuration"] == {"model": "other"}

    def test_parts_never_outlive_their_configuration(self, tmp_path, monkeypatch):
        """Whatever an overwrite is stopped at, what is there is of the run that is described."""
        for stop in range(1, 30):
            folder = tmp_path / str(stop)
            with start(folder) as store:
                store.write(0, rows_of(0), [Failure(0, "", "", "")])
                store.finish()
            calls = iter(range(stop))

            def stopped(real, calls=calls):
                def call(*args, **options):
                    if next(calls, None) is None:
                        raise KeyboardInterrupt
                    return real(*args, **options)

                return call

            with monkeypatch.context() as patch:
                for owner, name in ((Path, "unlink"), (os, "replace")):
                    patch.setattr(owner, name, stopped(getattr(owner, name)))
                try:
                    start(folder, "overwrite", {"model": "other"}).close()
                    finished = True
                except KeyboardInterrupt:
                    finished = False
            stored = json.loads((folder / "run.json").read_text())["configuration"]
            if stored != CONFIGURATION:
                assert not any(name.endswith(".parquet") for name in files(folder))
        assert finished


class TestBadInput:
    @pytest.mark.parametrize(
        ("configuration", "error", "match"),
        [
            ({"a": {"b": [1, float("nan")]}}, ValueError, r"configuration.a.b\[1\] must be finite; got nan"),
            ({"a": float("inf")}, ValueError, "configuration.a must be finite; got inf"),
            ({"data": Path("x")}, TypeError, "configuration.data must be of a JSON type; got PosixPath"),
            ({"a": {1: 2}}, TypeError, "keys of configuration.a must be strings; got 1"),
            ({"a": np.float32(1)}, TypeError, "configuration.a must be of a JSON type; got float32"),
        ],
    )
    def test_configuration(self, tmp_path, configuration, error, match):
        with pytest.raises(error, match=match):
            start(tmp_path / "run", configuration=configuration)
        with pytest.raises(error, match=match.replace("configuration", "environment")):
            start(tmp_path / "run", environment=configuration)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("rows", "error", "match"),
        [
            (rows_of(0, adc=1.0), ValueError, "there is no column 'adc'; there are"),
            (rows_of(0, adcc=float("nan")), ValueError, "'adcc' is NaN or infinite: give None for a score"),
            (rows_of(0, map_mean=float("inf")), ValueError, "'map_mean' is NaN or infinite"),
            (rows_of(0, method=None), ValueError, "every row must have 'method'"),
            (rows_of(0, path=3), TypeError, "str|bytes"),
            (rows_of(0, target="cat"), ValueError, "cat"),
            ({"index": [0], "path": ["a", "b"]}, ValueError, "."),
        ],
    )
    def test_rows(self, tmp_path, rows, error, match):
        with start(tmp_path) as store:
            with pytest.raises(error, match=match):
                store.write(0, rows)
            assert files(tmp_path) == {"run.json"}

    def test_part(self, tmp_path):
        with start(tmp_path) as store:
            with pytest.raises(ValueError, match="part must be 0 or more; got -1"):
                store.write(-1, [])
            with pytest.raises(TypeError, match="part must be an integer"):
                store.write(0.5, [])


class TestLock:
    def test_in_one_process(self, tmp_path):
        with start(tmp_path), pytest.raises(RuntimeError, match="is open already in this process: close it first"):
            start(tmp_path / "." / "x" / "..", "resume")
        store = start(tmp_path, "resume")
        store.close()
        store.close()
        with pytest.raises(ValueError, match="holds a run"):
            start(tmp_path)
        start(tmp_path, "resume").close()

    def test_of_another_process(self, tmp_path):
        """And the one of a process that is killed is gone, even where it has forked workers that live on."""
        code = (
            "import os, time\n"
            "from cam_extras.runs.store import Store\n"
            f"store = Store.open({str(tmp_path)!r}, {{}}, 'new', metrics=[])\n"
            "worker = os.fork()\n"
            "if worker: print(worker, flush=True)\n"
            "time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            worker = int(process.stdout.readline())
            try:
                for mode in module.MODES:
                    with pytest.raises(RuntimeError, match=r"another process is working on .*: wait for it"):
                        start(tmp_path, mode)
                process.kill()
                process.wait()
                os.kill(worker, 0)  # it lives
                Store.open(tmp_path, {}, "resume", metrics=[]).close()
            finally:
                process.kill()
                os.kill(worker, signal.SIGKILL)

    def test_where_there_are_none(self, tmp_path, monkeypatch):
        def lockf(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.lockf", lockf)
        with pytest.warns(UserWarning, match="cannot be locked .*let only one process work on it"):
            start(tmp_path).close()


def write_all(folder, parts, most=None):
    """Write all parts that are not done; or so many at most, and then wait to be killed."""
    with start(folder, "resume") as store:
        for part in sorted(set(range(parts)) - store.done())[:most]:
            failures = [Failure(part, "x.png", "decode", "broken")] if part % 3 == 0 else []
            store.write(part, rows_of(part, 50), failures)
            if part % 10 == 9:
                store.finish()
        if most is not None:
            time.sleep(60)
        store.finish()


def in_a_child(function, *args, then=lambda child: None):
    """Run a function in a process of its own, do something to that, and return its exit status, -9 if killed."""
    child = os.fork()
    if child == 0:
        try:
            function(*args)
            os._exit(0)
        finally:
            os._exit(1)  # an error must not come back as a second parent
    then(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def interrupt(folder, parts):
    """Run in a fresh interpreter, which forks well: kill 10 writers at random moments, then let one finish."""
    moments, done = random.Random(0), []

    def count():
        return len(list(folder.glob("parts/*[0-9].parquet")))

    def kill(child):
        least, deadline = count() + moments.randint(0, 4), time.monotonic() + 60
        while count() < least and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)

    for _ in range(10):
        done.append((in_a_child(write_all, folder, parts, 5, then=kill), count()))
    done.append((in_a_child(write_all, folder, parts), count()))
    print(json.dumps(done))


def die_everywhere(folder, parts):
    """Run in a fresh interpreter: let a writer die before each of its first system calls that change what is kept."""

    def write_and_die(folder, call):
        calls = iter(range(call))

        def dying(real):
            def die(*args, **options):
                if next(calls, None) is None:
                    os._exit(9)
                return real(*args, **options)

            return die

        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, dying(getattr(os, name)))
        write_all(folder, parts)

    call = 0
    while in_a_child(write_and_die, folder / str(call), call) == 9:
        assert in_a_child(write_all, folder / str(call), parts) == 0
        call += 1
    print(call)


def in_a_fresh_interpreter(function, *args):
    folders = [str(folder) for folder in Path(__file__).parents[:2]]
    code = f"import sys; sys.path[:0] = {folders}; from pathlib import Path, PosixPath; import test_store as t"
    code += "; t.pa.array([1.0])"  # which imports pandas: better once, here, than in every child
    code += f"; t.{function.__name__}(*{args!r})"
    return json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def same(one, other):
    return all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in ("results.parquet", "errors.parquet")
    )


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """kill -9, ten times: the tables are those of a run that was left alone, to the bit."""
    parts = 55
    write_all(tmp_path / "whole", parts)
    found = in_a_fresh_interpreter(interrupt, tmp_path / "killed", parts)
    assert [status for status, _ in found] == [-9] * 10 + [0]
    done = [count for _, count in found]
    assert done == sorted(done)
    assert 0 < done[-2] < parts == done[-1]
    assert same(tmp_path / "whole", tmp_path / "killed")
    assert files(tmp_path / "whole") == files(tmp_path / "killed")
    assert len(pq.ParquetFile(tmp_path / "killed" / "results.parquet").read()) == 50 * parts


@pytest.mark.slow
def test_killed_before_every_step(tmp_path):
    write_all(tmp_path / "whole", 1)
    steps = in_a_fresh_interpreter(die_everywhere, tmp_path, 1)
    assert steps >= 12
    for step in range(steps):
        assert same(tmp_path / "whole", tmp_path / str(step))
        assert files(tmp_path / "whole") == files(tmp_path / str(step))


def test_row_groups_are_of_their_own_size(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ROW_GROUP_ROWS", 7)
    with start(tmp_path) as store:
        for part in range(6):
            store.write(part, rows_of(part) if part != 2 else [])
        store.finish()
        found = pq.ParquetFile(tmp_path / "results.parquet")
        assert [found.metadata.row_group(n).num_rows for n in range(found.num_row_groups)] == [9, 6]
        assert found.read().equals(store.results())


def test_memory_does_not_grow(tmp_path, monkeypatch):
    """40 parts of 1 MB of maps each, joined in groups of 4 MB."""
    monkeypatch.setattr(module, "_ROW_GROUP_BYTES", 4_000_000)
    noise = np.random.default_rng(0)
    before, held = pa.total_allocated_bytes(), []
    read = Store._read

    def measured(self, *args):
        for table in read(self, *args):
            held.append(pa.total_allocated_bytes() - before)
            yield table

    monkeypatch.setattr(Store, "_read", measured)
    with start(tmp_path, maps=True) as store:
        for part in range(40):
            store.write(part, rows_of(part, 10, **pack_map(noise.random((200, 250)))))
            held.append(pa.total_allocated_bytes() - before)
        assert max(held) < 2e6
        store.finish()
    assert len(held) == 80
    assert max(held) < 20e6
    assert (tmp_path / "results.parquet").stat().st_size > 1e6


class TestNoRoom:
    @pytest.fixture(params=["disk", "limit"])
    def room(self, tmp_path, request):
        """A folder, a way to take all room in it and one to give it back."""
        folder = tmp_path / "run"
        if request.param == "disk":
            folder.mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
            if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
                pytest.skip("no small disk can be mounted")

            def take():
                with open(folder / "big", "wb", buffering=0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(4096))

            try:
                yield folder, take, lambda: (folder / "big").unlink()
            finally:
                subprocess.run(["umount", str(folder)], check=True)
        else:
            import resource

            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            try:
                yield (
                    folder,
                    lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1])),
                    lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
                )
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def test_what_is_done_is_kept(self, room, tmp_path):
        folder, take, give = room
        with start(folder) as store:
            store.write(0, rows_of(0, 20))
            take()
            there = files(folder)
            with pytest.raises(
                NoSpaceError, match=r'no room to write 00000001\.(sha256|parquet) in .*parts .*go on with mode="resume"'
            ):
                store.write(1, rows_of(1, 20))
            with pytest.raises(NoSpaceError, match=r"no room to write (errors|results).parquet in "):
                store.finish()
            assert files(folder) - {"errors.parquet", "parts/00000001.sha256"} == there
            assert store.done() == {0}
            assert store.results().to_pylist() == rows_of(0, 20)
        give()
        with start(folder, "resume") as store:
            store.write(1, rows_of(1, 20))
            store.finish()
        with start(tmp_path / "whole") as store:
            for part in range(2):
                store.write(part, rows_of(part, 20))
            store.finish()
        assert same(tmp_path / "whole", folder)

    def test_at_the_start(self, room):
        folder, take, give = room
        big = CONFIGURATION | {"note": "x" * 2000}
        folder.mkdir(exist_ok=True)
        (folder / ".lock").touch()
        take()
        with pytest.raises(NoSpaceError, match=r"no room to write run\.json"):
            start(folder, configuration=big)
        assert files(folder) <= {"big"}
        give()
        start(folder, configuration=big).close()


def test_other_errors_stay_what_they_are(tmp_path):
    (tmp_path / "file").write_text("before")
    with pytest.raises(ZeroDivisionError):
        atomic_write(tmp_path / "file", lambda file: file.write(b"after") / 0)
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "none" / "file", lambda file: None)
    assert (tmp_path / "file").read_text() == "before"
    assert files(tmp_path) == {"file"}


def test_files_left_by_a_killed_run_are_removed(tmp_path):
    with start(tmp_path) as store:
        store.write(0, rows_of(0))
    for name in (".run.json.partial", ".results.parquet.partial", "parts/.00000001.parquet.partial"):
        (tmp_path / name).touch()
    (tmp_path / ".mine.partial").touch()
    start(tmp_path, "resume").close()
    assert files(tmp_path) == {"run.json", "parts/00000000.parquet", "parts/00000000.sha256", ".mine.partial"}


def picture_rows(*indices):
    return [{"index": index, "method": "", "picture": bytes([index]) * 50} for index in indices]


class TestDamage:
    @pytest.fixture
    def whole(self, tmp_path):
        with start(tmp_path / "run") as store:
            for part in range(3):
                store.write(part, rows_of(part), [Failure(part, "x.png", "read", "gone")], picture_rows(part, 9))
            store.finish()
        return tmp_path / "run"

    def flips(self, path, count):
        """Flip a bit of a file at `count` places, one after the other."""
        content = path.read_bytes()
        for place in np.linspace(0, len(content) - 1, count).astype(int):
            changed = bytearray(content)
            changed[place] ^= 1 << int(place % 8)
            path.write_bytes(changed)
            yield
        path.write_bytes(content)

    def resumed(self, folder, named):
        """Resume, doing again what is to be done, and return which parts were."""
        with pytest.warns(RuntimeWarning, match=rf"{named} is damaged: .*; part 1 is done again"):
            store = start(folder, "resume")
        with store:
            missing = set(range(3)) - store.done()
            for part in missing:
                store.write(part, rows_of(part), [Failure(part, "x.png", "read", "gone")], picture_rows(part, 9))
            store.finish()
        return missing

    @pytest.mark.parametrize("kind", ["", ".errors", ".pictures"])
    def test_any_flipped_bit_of_a_part(self, whole, kind):
        """In pages, headers or footer: the file is named, and the part done again on resume."""
        path = whole / "parts" / f"00000001{kind}.parquet"
        before = {name: (whole / name).read_bytes() for name in files(whole) if name != "run.json"}
        for _ in self.flips(path, 12):
            assert self.resumed(whole, path.name) == {1}
            assert before == {name: (whole / name).read_bytes() for name in before}
            path = whole / "parts" / f"00000001{kind}.parquet"

    @pytest.mark.parametrize("kind", [".parquet", ".errors.parquet", ".pictures.parquet", ".sha256"])
    @pytest.mark.parametrize("damage", ["cut off", "empty", "gone"])
    def test_what_is_cut_off_or_gone(self, whole, kind, damage, recwarn):
        path = whole / "parts" / f"00000001{kind}"
        before = {name: (whole / name).read_bytes() for name in files(whole) if name != "run.json"}
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: 70 if damage == "cut off" else 0])
        with start(whole, "resume") as store:
            assert set(range(3)) - store.done() == {1}
            store.write(1, rows_of(1), [Failure(1, "x.png", "read", "gone")], picture_rows(1, 9))
            store.finish()
        told = [str(warning.message) for warning in recwarn]
        if (kind, damage) != (".parquet", "gone"):  # a part that is not done
            assert len(told) == 1
            assert path.name in told[0]
        assert before == {name: (whole / name).read_bytes() for name in before}

    def test_while_a_run_is_open(self, whole):
        with start(whole, "resume") as store:
            path = whole / "parts" / "00000001.parquet"
            path.write_bytes(path.read_bytes()[:-1])
            for use in (store.results, store.finish):
                with pytest.raises(ValueError, match=r"00000001.parquet is damaged: it does not match its checksum"):
                    use()

    @pytest.mark.parametrize("name", ["results", "errors"])
    def test_any_flipped_bit_of_a_table(self, whole, name):
        for _ in self.flips(whole / f"{name}.parquet", 50):
            with pytest.raises(ValueError, match=rf'{name}.parquet cannot be read .*is damaged.*with mode="resume"'):
                getattr(module.Run(whole), name)
        assert len(getattr(module.Run(whole), name))

    def test_pictures_of_a_finished_run(self, whole):
        path = whole / "parts" / "00000001.pictures.parquet"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(
            ValueError, match=r'00000001.pictures.parquet cannot be read .*is damaged.*with mode="resume"'
        ):
            module.Run(whole).pictures()

    def test_checksums_are_those_of_sha256sum(self, whole):
        for folder, sums in ((whole, "tables.sha256"), (whole / "parts", "00000001.sha256")):
            subprocess.run(["sha256sum", "--check", "--strict", sums], cwd=folder, check=True, capture_output=True)

    def test_pages_have_checksums_that_other_readers_check(self, whole):
        """Of the finished tables, whose own readers know nothing of the file beside them."""
        told, silent, expected = 0, 0, module.Run(whole).results
        for _ in self.flips(whole / "results.parquet", 50):
            try:
                table = pq.ParquetFile(whole / "results.parquet", page_checksum_verification=True).read()
                silent += not table.equals(expected)
            except (OSError, ValueError):
                told += 1
        assert silent <= 2  # in the footer, of which they know nothing
        assert told >= 25


class TestPictures:
    def test_only_those_chosen_are_kept(self, tmp_path):
        """Whatever else was drawn, the folder is the same."""
        contents = []
        for number, drawn in enumerate(((0, 1, 2), (1, 2), (2, 1, 0, 7))):
            folder = tmp_path / str(number)
            with start(folder) as store:
                store.write(0, rows_of(0), [], picture_rows(*sorted({1, 2} & set(drawn)), *({0, 7} & set(drawn))))
                store.write(1, rows_of(1), [], picture_rows(5) if number else [])
                store.write(2, rows_of(2))
                store.keep_pictures({1, 2})
                store.keep_pictures({1, 2})
                store.finish()
            contents.append({name: (folder / name).read_bytes() for name in files(folder)})
            assert set(module.Run(folder).pictures()) == {1, 2}
        assert contents[0] == contents[1] == contents[2]
        assert "parts/00000001.pictures.parquet" not in contents[1]
        start(folder, "resume").close()

    def test_stopped_at_every_step(self, tmp_path, monkeypatch):
        """The part is whole wherever the removal is cut short, and the folder the same when that is done again."""

        def written(name):
            with start(tmp_path / name) as store:
                store.write(0, rows_of(0), [], picture_rows(0, 1))
                store.write(1, rows_of(1), [], picture_rows(3))
            return tmp_path / name

        def all_of(folder):
            return {name: (folder / name).read_bytes() for name in files(folder) if name != "run.json"}

        whole = written("whole")
        with start(whole, "resume") as store:
            store.keep_pictures({0})
        for stop in range(20):
            folder = written(str(stop))
            calls = iter(range(stop))

            def stopped(real, calls=calls):
                def call(*args, **options):
                    if next(calls, None) is None:
                        raise KeyboardInterrupt
                    return real(*args, **options)

                return call

            with start(folder, "resume") as store, monkeypatch.context() as patch:
                for owner, name in ((Path, "unlink"), (os, "replace")):
                    patch.setattr(owner, name, stopped(getattr(owner, name)))
                try:
                    store.keep_pictures({0})
                    finished = True
                except KeyboardInterrupt:
                    finished = False
            with start(folder, "resume") as store:
                assert store.done() == {0, 1}
                store.keep_pictures({0})
            assert all_of(folder) == all_of(whole)
        assert finished
