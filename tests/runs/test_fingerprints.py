"""Fingerprints of what a run works with: the same in every process, other for other things; runs resume by them."""

from __future__ import annotations

import copy
import functools
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from cam_extras.cli import main
from cam_extras.methods import METHODS
from cam_extras.metrics import METRICS
from cam_extras.run import evaluate
from cam_extras.runs.identity import Contents, hash_file, identify
from cam_extras.runs.sources import open_source
from cam_extras.runs.store import Run

FACTOR = 2.0
LOG = logging.getLogger(__name__)


def digest(thing):
    found = identify({"thing": thing})
    assert not found["unknown"]
    return found["sha256"]["thing"]


def reasons(thing):
    return identify({"thing": thing})["unknown"]


def made(source, name="made", **variables):
    """Return what source defines, as if in a file of its own."""
    space = {"torch": torch, "nn": nn, "__name__": "theirs", **variables}
    exec(compile(source, "theirs.py", "exec"), space)
    return space[name]


def shifted(by):
    return lambda image: transforms.functional.to_tensor(image) + by


class Scale:
    def __init__(self, factor):
        self.factor, self.lock = factor, threading.Lock()

    def __call__(self, x):
        LOG.debug("scaled")
        return x * self.factor


class Slots:
    __slots__ = ("a", "b")

    def __init__(self, a, b):
        self.a, self.b = a, b


class Net(nn.Module):
    def __init__(self, act=None, pool=None, power=1):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.act, self.pool, self.power = act or nn.ReLU(), pool or nn.AvgPool2d(2), power
        self.head = nn.Linear(4, 3)
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) + number / 10)

    def forward(self, x):
        return self.head(self.pool(self.act(self.conv(x))).mean(dim=(2, 3)) ** self.power)


class OtherForward(Net):
    def forward(self, x):
        return self.head(self.pool(self.act(self.conv(x))).amax(dim=(2, 3)) ** self.power)


def of_attribute(value):
    net = Net()
    net.hidden[0] = value
    return net


def hooked(function):
    net = Net()
    net.conv.register_forward_hook(function)
    return net


PAIRS = {
    "numbers": (1, 2),
    "1 and 1.0": (1, 1.0),
    "True and 1": (True, 1),
    "texts and bytes": ("a", b"a"),
    "lists": ([1, [2]], [1, 2]),
    "what stands where": (["ab", "c"], ["a", "bc"]),
    "sets": ({1, 2}, {1, 3}),
    "dicts": ({"a": 1}, {"a": 2}),
    "tensors": (torch.zeros(3), torch.tensor([0.0, 0.0, 1e-30])),
    "shapes": (torch.zeros(3, 1), torch.zeros(1, 3)),
    "types": (torch.zeros(2, dtype=torch.float32), torch.zeros(2, dtype=torch.int32)),
    "arrays": (np.zeros(3), np.array([0, 0, 1e-300])),
    "arrays of objects": (np.array(["a", None]), np.array(["b", None])),
    "generators": (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
    "pictures": (Image.new("L", (2, 2), 1), Image.new("L", (2, 2), 2)),
    "patterns": (re.compile("a+"), re.compile("a*")),
    "flags of patterns": (re.compile("a"), re.compile("a", re.IGNORECASE)),
    "lambdas": (lambda x: x + 1, lambda x: x + 2),
    "lambdas of one line": (*[lambda x: x * 2, lambda x: x * 3],),
    "names": (lambda x: x.amin(), lambda x: x.amax()),
    "defaults": (made("def made(x, f=1): return x * f"), made("def made(x, f=2): return x * f")),
    "defaults by keyword": (made("def made(x, *, f=1): return x"), made("def made(x, *, f=2): return x")),
    "bodies": (made("def made(x): return x + 1"), made("def made(x):\n  x = -x\n  return x + 1")),
    "globals": (made("def made(x): return x * F", F=1), made("def made(x): return x * F", F=2)),
    "functions called": (
        made("def g(x): return x\ndef made(x): return g(x)"),
        made("def g(x): return -x\ndef made(x): return g(x)"),
    ),
    "functions in functions": (
        made("def made(x):\n  def g(y): return y + 1\n  return g(x)"),
        made("def made(x):\n  def g(y): return y + 2\n  return g(x)"),
    ),
    "closures": (shifted(1), shifted(2)),
    "partials": (functools.partial(max, 1), functools.partial(max, 2)),
    "methods": (Scale(1).__call__, Scale(2).__call__),
    "attributes": (Scale(1), Scale(2)),
    "slots": (Slots(1, 2), Slots(1, 3)),
    "classes": (
        made("class made:\n  def __call__(self, x): return x")(),
        made("class made:\n  def __call__(self, x): return -x")(),
    ),
    "bases": (
        made("class B:\n  f = 1\nclass made(B): pass")(),
        made("class B:\n  f = 2\nclass made(B): pass")(),
    ),
    "transforms": (transforms.Normalize(0.0, 1.0), transforms.Normalize(0.0, 2.0)),
    "transforms in a row": (transforms.Compose([transforms.Resize(8)]), transforms.Compose([transforms.Resize(9)])),
    "lambdas in transforms": (transforms.Lambda(lambda x: x), transforms.Lambda(lambda x: -x)),
    "methods of ours": (METHODS["OptiCAM"](), METHODS["OptiCAM"](max_iterations=3)),
    "options": (METRICS["hci"].Options(fill=torch.zeros(2)), METRICS["hci"].Options(fill=torch.ones(2))),
    "pooling": (Net(), Net(pool=nn.MaxPool2d(2))),
    "pooling's settings": (Net(), Net(pool=nn.AvgPool2d(2, ceil_mode=True))),
    "activations": (Net(), Net(act=nn.Softplus())),
    "settings": (Net(act=nn.LeakyReLU(0.1)), Net(act=nn.LeakyReLU(0.2))),
    "plain attributes": (Net(), Net(power=2)),
    "forward": (Net(), OtherForward()),
    "buffers that no state dict has": (of_attribute(1.0), of_attribute(2.0)),
    "hooks": (hooked(lambda *_: None), hooked(lambda module, x, y: y * 2)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_other_things_have_another_fingerprint(name):
    first, second = PAIRS[name]
    assert digest(first) != digest(second)
    assert digest(first) == digest(first)
    if name not in ("generators", "hooks"):  # neither of which a copy has all of
        assert digest(copy.copy(first)) == digest(first)


class TestSame:
    def test_in_every_process(self):
        """Whatever the order of sets and the addresses of objects."""
        code = (
            f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import json; "
            "import test_fingerprints as t; "
            "from cam_extras.runs.identity import identify; "
            "things = {f'{name} {n}': thing for name, pair in t.PAIRS.items() for n, thing in enumerate(pair)}; "
            "things['set'] = {'b', 'a', 'c', ('d', 1)}; print(json.dumps(identify(things)))"
        )
        found = []
        for seed in ("1", "2"):
            environment = os.environ | {"PYTHONHASHSEED": seed}
            run = [sys.executable, "-c", code]
            found.append(
                json.loads(subprocess.run(run, check=True, capture_output=True, text=True, env=environment).stdout)
            )
        assert found[0] == found[1]
        assert not found[0]["unknown"]

    def test_whatever_stands_around_code(self):
        """Comments, lines and names of variables in other functions are no part of what it does."""
        assert digest(made("def made(x): return x + 1")) == digest(made("\n# why\ndef made(x):\n    return x + 1"))

    def test_after_use(self):
        net, scale = Net(), Scale(2)
        before = digest([net, scale])
        net(torch.rand(1, 3, 8, 8))
        scale(1)
        net.train()
        assert digest([net, scale]) == before
        assert digest([copy.deepcopy(net), Scale(2)]) == before

    def test_circles(self):
        one, two = [1], [1]
        one.append(one)
        two.append(two)
        assert digest(one) == digest(two)
        assert digest({"a": one}) != digest({"a": [1, 1]})

    def test_equal_parts_whether_or_not_they_are_one(self):
        part = [1, 2]
        assert digest([part, part]) == digest([[1, 2], [1, 2]])

    def test_python_is_named_where_its_bytecode_counts(self):
        assert identify({"a": lambda x: x})["python"] == sys.implementation.cache_tag
        assert identify({"a": nn.ReLU(), "b": METRICS, "c": transforms.Resize(3)})["python"] is None

    def test_pictures_are_not_kept_in_memory(self, tmp_path):
        Image.new("L", (2, 2), 1).save(tmp_path / "a.png")
        Image.new("L", (2, 2), 2).save(tmp_path / "b.png")
        image = Image.open(tmp_path / "a.png")
        before = digest(image)
        assert image.tile
        image.load()
        assert digest(image) == before != digest(Image.open(tmp_path / "b.png"))


class TestUnknown:
    @pytest.mark.parametrize(
        ("thing", "why"),
        [
            ({"a": (x for x in "ab")}, "thing.a: what comes out of a generator is known only when it has been read"),
            ([1, io.TextIOWrapper(io.BytesIO())], "thing.1: what comes out of a TextIOWrapper is known only"),
            (torch.zeros(1, device="meta"), "thing: the values of a Tensor cannot be read"),
            (functools.reduce(lambda inner, _: [inner], range(5000), []), "it is nested too deeply"),
            (Contents(unknown="nobody knows"), "thing: nobody knows"),
        ],
    )
    def test_reasons(self, thing, why):
        (reason,) = reasons(thing)
        assert why in reason

    def test_an_object_that_fails(self):
        class Odd:
            def __reduce_ex__(self, protocol):
                raise OSError("not me")

        assert reasons([Odd()]) == ["thing.0: a Odd does not tell what it holds (not me)"]

    def test_no_more_reasons_than_can_be_read(self):
        found = reasons([iter([]) for _ in range(20)])
        assert len(found) == 9
        assert found[-1] == "and 12 more"

    def test_a_program_that_cannot_be_read(self):
        class Doubled(nn.Module):
            def forward(self, x):
                return x * 2

        assert reasons(torch.jit.trace(Doubled(), torch.zeros(1)))[0].endswith("whose program cannot be read")


def contents(data, **options):
    return identify({"data": open_source(data, **options).contents()})


class Squares(Dataset):
    """Images that are made when they are read."""

    def __init__(self, scale=1.0, broken=None):
        self.scale, self.broken = scale, broken

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index == self.broken:
            raise OSError("gone")
        return torch.full((3, 8, 8), self.scale * index)


class TestContents:
    @pytest.fixture
    def folder(self, tmp_path):
        for number in range(4):
            (tmp_path / "a").mkdir(exist_ok=True)
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "a" / f"{number}.bmp")
        return tmp_path

    def repaint(self, folder):
        path = folder / "a" / "2.bmp"
        size = path.stat().st_size
        Image.new("RGB", (4, 4), (200, 0, 0)).save(path)
        assert path.stat().st_size == size

    @pytest.mark.parametrize("kind", ["folder", "list", "data set", "subset", "loader"])
    def test_files_of_the_same_size(self, folder, kind):
        def data():
            return {
                "folder": lambda: folder,
                "list": lambda: [str(path) for path in sorted(folder.rglob("*.bmp"))],
                "data set": lambda: ImageFolder(folder, transforms.ToTensor()),
                "subset": lambda: Subset(ImageFolder(folder, transforms.ToTensor()), [1, 2]),
                "loader": lambda: DataLoader(ImageFolder(folder, transforms.ToTensor()), 2),
            }[kind]()

        before, described = contents(data()), open_source(data()).describe()
        assert contents(data()) == before
        self.repaint(folder)
        assert open_source(data()).describe() == described
        assert contents(data()) != before

    def test_a_file_that_is_gone(self, folder):
        paths = [str(path) for path in sorted(folder.rglob("*.bmp"))]
        before = contents(paths)
        os.remove(paths[0])
        assert contents(paths) != before
        assert hash_file(paths[0]) is None
        assert hash_file("a\0b") is None

    def test_values_in_memory(self):
        images = torch.rand(5, 3, 8, 8)
        other = images.clone()
        other[4, 0, 0, 0] += 1
        for make in (list, TensorDataset, lambda x: DataLoader(TensorDataset(x), 2)):
            assert contents(make(images)) == contents(make(images.clone()))
            assert contents(make(images)) != contents(make(other))
        assert contents(list(images), limit=4) == contents(list(other), limit=4)
        assert contents(list(images), limit=4) != contents(list(images), limit=3)

    def test_what_is_made_when_it_is_read(self):
        assert contents(Squares()) == contents(Squares())
        assert not contents(Squares())["unknown"]
        assert contents(Squares()) != contents(Squares(scale=2.0))
        assert contents(Squares(broken=3)) == contents(Squares(broken=3)) != contents(Squares())

    def test_streams_cannot_be_told(self):
        for data in (iter([torch.zeros(3, 8, 8)]), DataLoader(Squares(), 2, collate_fn=torch.stack)):
            (why,) = contents(data)["unknown"]
            assert "is known only when it has been read" in why

    @pytest.mark.realdata
    def test_time(self, realdata, tmp_path, capsys):
        """Nothing beside a run: the 200 photographs, and 5,000 small files, in less than the time of some images."""
        for number in range(5000):
            (tmp_path / f"{number}.png").write_bytes(number.to_bytes(4, "big") * 750)
        spent = {}
        for name, folder in (("200 photographs", realdata.folder / "imagenet"), ("5,000 files of 3 kB", tmp_path)):
            start = time.perf_counter()
            contents(folder)
            spent[name] = time.perf_counter() - start
        with capsys.disabled():
            print("\nfingerprints:", ", ".join(f"{name} {seconds:.2f} s" for name, seconds in spent.items()))
        assert max(spent.values()) < 20


QUICK = {"methods": ["GradCAM"], "metrics": ["average_drop"], "images_per_part": 2, "pictures": 0}
IMAGES = [torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(number)) for number in range(3)]


class TestResume:
    """What is not the run that was begun is refused, and nothing of it is touched."""

    def check(self, folder, one, other, reason, monkeypatch=None):
        """Run with one set of arguments, and resume with another."""
        arguments = {"model": Net(), "layer": "act", "data": IMAGES, "output": folder / "out", **QUICK}
        first = evaluate(**{**arguments, **one()})
        before = {path: path.read_bytes() for path in folder.joinpath("out").rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match="not known to be the same") as caught:
            evaluate(**{**arguments, **other()}, mode="resume")
        assert f"  {reason}: " in str(caught.value)
        assert "insist=True to go on all the same" in str(caught.value)
        assert before == {path: path.read_bytes() for path in before}
        assert evaluate(**{**arguments, **one()}, mode="resume").results.equals(first.results)
        run = evaluate(**{**arguments, **other()}, mode="resume", insist=True)
        assert "insisted" not in run.starts[1]
        assert run.starts[-1]["insisted"][0].startswith(f"{reason}: ")

    @pytest.mark.parametrize(
        ("one", "other", "reason"),
        [
            (dict, lambda: {"data": [IMAGES[1], IMAGES[0], IMAGES[2]]}, "data"),
            (dict, lambda: {"model": Net(pool=nn.MaxPool2d(2))}, "model"),
            (dict, lambda: {"model": Net(act=nn.Softplus())}, "model"),
            (dict, lambda: {"model": Net(power=2)}, "model"),
        ],
        ids=["tensors", "AvgPool to MaxPool", "ReLU to Softplus", "attribute"],
    )
    def test_values_and_modules(self, tmp_path, one, other, reason):
        self.check(tmp_path, one, other, reason)

    def test_forward(self, tmp_path):
        source = "class made(Net):\n  def forward(self, x): return self.head(self.act(self.conv(x)).{}(dim=(2, 3)))"

        def model(reduced):
            return lambda: {"model": made(source.format(reduced), Net=Net)()}

        self.check(tmp_path, model("mean"), model("amax"), "model")

    @pytest.mark.parametrize("kind", ["lambda", "closure", "function", "attribute", "compose"])
    def test_transforms(self, tmp_path, kind):
        pictures = [
            Image.fromarray(
                np.full((12, 12, 3), 80 * n, np.uint8) // (1 + np.arange(12)[:, None, None].astype(np.uint8))
            )
            for n in (1, 2, 3)
        ]
        to_tensor = transforms.functional.to_tensor
        source = "def made(image): return to_tensor(image) {} 0.5"

        def shift(sign):
            class Shift:
                def __call__(self, image):
                    return to_tensor(image) + self.sign

            found = Shift()
            found.sign = sign
            return found

        one, other = {
            "lambda": (lambda image: to_tensor(image) + 0.1, lambda image: to_tensor(image) + 0.2),
            "closure": (shifted(0.1), shifted(0.2)),
            "function": tuple(made(source.format(sign), to_tensor=to_tensor) for sign in "+-"),
            "attribute": (shift(0.1), shift(0.2)),
            "compose": tuple(
                transforms.Compose([transforms.ToTensor(), transforms.Lambda(function)])
                for function in (lambda x: x + 0.1, lambda x: x + 0.2)
            ),
        }[kind]
        self.check(
            tmp_path,
            lambda: {"data": pictures, "transform": one},
            lambda: {"data": pictures, "transform": other},
            "transform",
        )

    def test_what_cannot_be_told(self, tmp_path):
        def run(mode, **options):
            return evaluate(Net(), "act", iter(IMAGES), tmp_path, mode=mode, **QUICK, **options)

        first = run("new")
        with pytest.raises(
            ValueError, match="cannot be checked: data: what comes out of a list_iterator is known only"
        ):
            run("resume")
        assert run("resume", insist=True).results.equals(first.results)

    def test_another_version(self, tmp_path):
        def run(**options):
            return evaluate(Net(), "act", IMAGES, tmp_path, **QUICK, **options)

        run()
        stored = json.loads((tmp_path / "run.json").read_text())
        for changed in ({}, {"identity": {**stored["identity"], "version": 0}}):
            old = {name: value for name, value in stored.items() if name != "identity"} | changed
            (tmp_path / "run.json").write_text(json.dumps(old))
            for insist in (False, True):
                with pytest.raises(
                    ValueError, match=r'of another version of cam_extras.*or mode="overwrite" to start anew'
                ):
                    run(mode="resume", insist=insist)

    def test_another_python(self, tmp_path):
        def run(**options):
            return evaluate(Net(), "act", IMAGES, tmp_path, **QUICK, **options)

        run()
        stored = json.loads((tmp_path / "run.json").read_text())
        stored["identity"]["python"] = "cpython-39"
        (tmp_path / "run.json").write_text(json.dumps(stored))
        with pytest.raises(ValueError, match=r"python: the bytecode is of cpython-39, and now of .*:"):
            run(mode="resume")

    def test_by_command(self, tmp_path, capsys):
        """Another picture of the same size in bytes; and the way to insist."""
        (tmp_path / "mine.py").write_text(
            "import sys\n"
            f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
            "from test_fingerprints import Net\n"
            "from torchvision import transforms\n"
            "def model(): return Net()\n"
            "def transform(): return transforms.ToTensor()\n"
        )
        folder = tmp_path / "images"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for number in range(3):
            Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).save(folder / f"{number}.bmp")
        command = ["evaluate", f"--model={tmp_path}/mine.py:model", f"--transform={tmp_path}/mine.py:transform"]
        command += [f"--data={folder}", "--layer=act", f"--output={tmp_path}/out", "--methods", "GradCAM"]
        command += ["--metrics", "average_drop"]
        assert main(command) == 0
        size = (folder / "1.bmp").stat().st_size
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).save(folder / "1.bmp")
        assert (folder / "1.bmp").stat().st_size == size
        capsys.readouterr()
        assert main([*command, "--resume"]) == 2
        error = capsys.readouterr().err
        assert "data: the images have changed" in error
        assert "or another folder, --overwrite to start anew, or --insist to go on all the same" in error
        assert main([*command, "--resume", "--insist"]) == 0
        assert Run(tmp_path / "out").starts[-1]["insisted"] == [
            "data: the images have changed, or other items are read"
        ]
