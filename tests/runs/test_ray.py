"""The Ray engine: the very tables of the local engine, whatever happens to its processes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import LAYER
from cam_extras.methods import ExpectedGradCAM, GradCAM, RandomCAM
from cam_extras.metrics import METRICS, as_options
from cam_extras.models import Classifier, load_model
from cam_extras.run import evaluate
from cam_extras.runs.batches import Reader
from cam_extras.runs.config import RunConfig
from cam_extras.runs.engines.local import Job
from cam_extras.runs.engines.ray import _running, ray_parts
from cam_extras.runs.pictures import choose_images, image_values
from cam_extras.runs.sources import open_source

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install cam_extras[ray]")
pytestmark = [
    pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning"),  # of Ray Data, about itself
    pytest.mark.filterwarnings("ignore:subprocess [0-9]+ is still running:ResourceWarning"),
]

IMAGES, PART = 26, 4
BROKEN, TROUBLED = 5, 11
WHOLE = ("results.parquet", "errors.parquet", "summary.csv", "summary.json")
PREPARE = transforms.Compose([transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize([0.0], [0.26])])
METHODS = {"GradCAM": GradCAM(), "random": RandomCAM(seed=3), "expected": ExpectedGradCAM(n_samples=2, seed=4)}
# A model as a user has it in a file, which no other process could import. It notes which processes it runs in.
FILE = """
import os
import time
import warnings

from torch import nn

from cam_extras.demo.classifier import load_classifier


class Net(nn.Module):
    def __init__(self, log):
        super().__init__()
        self.features = load_classifier()
        self.log = log

    def forward(self, x):
        with open(self.log, "a") as log:
            log.write(f"{os.getpid()}\\n")
        time.sleep(0.005)
        if (x.flatten(1).amin(dim=1) > 1).any():
            warnings.warn("white is nothing I know")
            raise RuntimeError("this picture is not for me")
        return self.features(x)


def build(log):
    return Net(log)
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(make_canvases(IMAGES, "test", seed=3).images):
        pixels = np.full((64, 64), 255) if number == TROUBLED else image[0].numpy() * 255
        Image.fromarray(pixels.round().astype(np.uint8)).save(folder / f"{number:02}.png")
    (folder / f"{BROKEN:02}.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "net.py"
    path.write_text(FILE)
    model = load_model(f"{path}:build", "").model
    return Classifier(model, PREPARE, tuple(map(str, range(10))))


@pytest.fixture(scope="module")
def start(classifier, images):
    """Evaluate the images in a folder; options go to `evaluate`."""

    def evaluated(folder, **options):
        log = options.pop("log", folder.with_suffix(".log"))
        classifier.model.log = str(log)
        options = {"methods": METHODS, "metrics": ["adcc", "insertion"], "images_per_part": PART, **options}
        return evaluate(classifier, f"features.{LAYER}", images, folder, maps=True, pictures=2, **options), log

    return evaluated


@pytest.fixture(scope="module")
def local(start, tmp_path_factory):
    with pytest.warns(UserWarning, match="white is nothing I know"):
        return start(tmp_path_factory.mktemp("local") / "out")[0]


@pytest.fixture(scope="module")
def running():
    """Ray on this machine, as the engine starts it; nothing of it is left after that."""

    def state():
        names = ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED", "RAY_BACKEND_LOG_LEVEL", "RAY_AUTH_MODE")
        names = (*names, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
        return ray.is_initialized(), signal.getsignal(signal.SIGTERM), [os.environ.get(name) for name in names]

    before = state()
    with _running(ray, None, workers=2):
        assert ray.cluster_resources()["CPU"] == 2
        yield
    assert state() == before


def processes(log):
    return set(map(int, log.read_text().split())) if log.exists() else set()


def same(run, other):
    return all((run.folder / name).read_bytes() == (other.folder / name).read_bytes() for name in WHOLE)


@pytest.mark.slow
class TestRuns:
    """With two workers each."""

    def test_results_are_those_of_the_local_engine(self, start, local, running, tmp_path):
        """One of two workers is killed at some moment of a run that the local engine began."""
        shutil.copytree(local.folder, tmp_path / "out")
        for name in (*WHOLE, "report.html"):
            (tmp_path / "out" / name).unlink()
        for part in (0, BROKEN // PART, TROUBLED // PART, 4, 6):
            for path in (tmp_path / "out" / "parts").glob(f"{part:08}*"):
                path.unlink()
        # An attribute of the model, which has to be what it was.
        log, killed = local.folder.with_suffix(".log"), []
        log.unlink()

        def kill():
            calls = random.randint(1, 20)
            while not log.exists() or len(log.read_text().split()) < calls:
                time.sleep(0.001)
            killed.append(random.choice(sorted(processes(log))))
            os.kill(killed[0], signal.SIGKILL)

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        with pytest.warns(UserWarning, match="white is nothing I know"):
            run, log = start(tmp_path / "out", engine="ray", workers=2, mode="resume", log=log)
        thread.join()
        assert ray.is_initialized()
        assert same(run, local)
        assert run.results.num_rows == (IMAGES - 2) * len(METHODS)
        errors = [(row["index"], row["stage"]) for row in run.errors.to_pylist()]
        assert errors == [(BROKEN, "read"), (TROUBLED, "model")]
        assert killed[0] in processes(log)
        assert len(processes(log)) == 3
        assert os.getpid() not in processes(log)
        rows = run.results.to_pylist()
        parts = ([row[name] for row in rows] for name in ("index", "method", "adcc"))
        values = image_values(*parts, "adcc", controls={"random"})
        assert set(local.pictures()) == {
            index for group in choose_images(values, 2, seed=0).values() for index in group
        }
        for path in (local.folder / "parts").iterdir():
            assert path.read_bytes() == (run.folder / "parts" / path.name).read_bytes()

    def test_rows_for_each_image_and_class(self, start, running, tmp_path):
        with pytest.warns(UserWarning, match="white is nothing I know"):
            here, there = (
                start(tmp_path / engine, engine=engine, workers=workers, target="above=0.05")[0]
                for engine, workers in (("local", 1), ("ray", 2))
            )
        assert same(here, there)
        rows = here.results.num_rows // len(METHODS)
        assert rows > IMAGES - 2  # some images have several
        assert {row["stage"] for row in here.errors.to_pylist()} == {"read", "label"}

    def test_first_images_that_all_fail_alike(self, running, classifier, tmp_path, capfd):
        """The run stops with the message of the local engine and no other, and keeps none of the parts."""
        white = [torch.full((1, 64, 64), 2.0)] * 20
        classifier.model.log = str(tmp_path / "log")
        with pytest.raises(
            RuntimeError, match=r"^all of the first 16 images failed in the same way: RuntimeError: this picture"
        ):
            evaluate(
                classifier.model,
                f"features.{LAYER}",
                white,
                tmp_path / "out",
                methods=["GradCAM"],
                metrics=["average_drop"],
                images_per_part=16,
                engine="ray",
                workers=2,
            )
        assert not list((tmp_path / "out" / "parts").iterdir())
        assert ray.is_initialized()
        told = "".join(capfd.readouterr()).splitlines()
        assert not [line for line in told if "(raylet)" not in line]  # on a busy machine it tells of stopped workers

    def test_nobody_else_gets_in(self, running):
        """The Ray that is started listens to this machine alone, and to nobody without its token."""
        psutil = pytest.importorskip("psutil")  # which Ray brings along
        listening = [
            connection.laddr.ip
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) >= 5
        assert {address.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1", "::1"}
        code = f"import ray; ray.init({ray.get_runtime_context().gcs_address!r}, logging_level=50); print('in')"

        def gets_in(seconds, **environment):
            """Whether a client does in so many seconds; Ray has it try again and again."""
            run = [sys.executable, "-c", code]
            environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # so that it looks for Ray on 127.0.0.1
            with contextlib.suppress(subprocess.TimeoutExpired):
                client = subprocess.run(
                    run, capture_output=True, text=True, env=os.environ | environment, timeout=seconds
                )
                return "in" in client.stdout.split()
            return False

        begun = time.monotonic()
        assert gets_in(120, RAY_AUTH_MODE="token")
        assert not gets_in(2 * (time.monotonic() - begun) + 5, RAY_AUTH_MODE="disabled")

    def test_a_method_and_a_metric_of_ones_own(self, running, start, tmp_path):
        """They are in a file that the workers do not import, and in no registry of theirs."""
        (tmp_path / "own.py").write_text(
            "from cam_extras.methods import GradCAM\nfrom cam_extras.metrics.base import metric\n"
            "class Mine(GradCAM):\n    paper = 'mine'\n"
            "@metric(title='M', short='M', higher_is_better=True, meaning='m', paper='none')\n"
            "def own_of_ray(maps):\n    return maps.flatten(1).mean(dim=1)\n"
        )
        options = {"methods": f"{tmp_path / 'own.py'}:Mine", "metrics": ["adcc", f"{tmp_path / 'own.py'}:own_of_ray"]}
        try:
            runs = [
                start(tmp_path / engine, engine=engine, workers=workers, **options)[0]
                for engine, workers in (("local", 1), ("ray", 2))
            ]
        finally:
            METRICS.pop("own_of_ray", None)
        assert same(*runs)
        assert {row["metric"] for row in runs[0].summary} >= {"adcc", "own_of_ray"}

    def test_more_than_there_is(self, running, start, tmp_path):
        with pytest.raises(ValueError, match="7 workers need 4 CPUs, and Ray has 2: give fewer by workers="):
            start(tmp_path / "out", engine="ray", workers=7)


class TestTrouble:
    """What is told before any Ray is started."""

    @pytest.fixture(autouse=True)
    def _never_started(self, monkeypatch):
        monkeypatch.setattr(ray, "is_initialized", lambda: pytest.fail("Ray was asked for"))

    @pytest.fixture
    def parts(self, classifier, images):
        """Ask for the parts of a job in which something is changed."""

        def asked(source=None, device="cpu", done=(), options=None, **changes):
            reader = Reader(changes.pop("transform", PREPARE), "predicted", object_needed=False)
            settings = {
                "model": classifier.model,
                "data": None,
                "layer": LAYER,
                "methods": METHODS,
                "metrics": ("adcc",),
                "options": as_options(None, ["adcc"]),
                "images_per_part": PART,
            }
            job = Job(RunConfig(**{**settings, **(options or {}), **changes}), reader)
            source = source or open_source(images)
            return ray_parts(job, source, set(done), torch.device(device), lambda images: None)

        return asked

    def test_no_ray(self, parts, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(ValueError, match=r"engine='ray' needs Ray.*: pip install cam_extras\[ray\]"):
            parts()

    @pytest.mark.parametrize("version", ["2.30.0", "2.59.1", "1.13.0"])
    def test_a_ray_that_lets_everybody_in(self, parts, monkeypatch, version):
        monkeypatch.setattr(ray, "__version__", version)
        with pytest.raises(ValueError, match=rf"needs Ray 2.60 or later, .* there is {version}: pip install --upgrade"):
            parts()

    def test_images_in_one_order_only(self, parts):
        with pytest.raises(ValueError, match=r"one after the other: give a folder.*or engine='local'"):
            parts(open_source(iter([torch.zeros(1, 64, 64)])))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"workers": 0}, "workers must be 1 or more; got 0"),
            (
                {"gpus_per_worker": 1},
                "gpus_per_worker= is for a model on a GPU, and more than 0; got 1, the model on cpu",
            ),
        ],
    )
    def test_numbers(self, parts, options, message):
        with pytest.raises(ValueError, match=message):
            parts(options=options)

    def test_no_part_of_a_gpu(self, parts):
        with pytest.raises(ValueError, match="more than 0; got 0, the model on cuda"):
            parts(device="cuda", options={"gpus_per_worker": 0})

    @pytest.mark.parametrize("name", ["model", "transform", "reshape_transform", "methods", "data"])
    def test_what_cannot_be_sent_is_named(self, parts, name):
        lock = threading.Lock()

        def held(image):
            return lock

        changes = {name: held}
        if name == "data":
            changes = {"source": open_source([held])}
        if name == "methods":
            changes = {"methods": {"GradCAM": held}}
        with pytest.raises(
            ValueError, match=f"the {name} cannot be sent to the workers of Ray .*cannot pickle '_thread.lock'"
        ):
            parts(**changes)

    def test_nothing_to_do(self, parts):
        assert list(parts(done=range(7))) == []
