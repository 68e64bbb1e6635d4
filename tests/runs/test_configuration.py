"""What a run is made of, read from text: methods, options of metrics, settings from flags and YAML."""

from __future__ import annotations

import argparse
import inspect
import json
import shlex
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.transforms import Compose, Normalize

from cam_extras._options import check_fields
from cam_extras._text import code_in, read_settings
from cam_extras.methods import METHODS, ExpectedGradCAM, GradCAM, OptiCAM, RandomCAM, as_methods
from cam_extras.metrics import METRICS, Schedule, as_metrics, as_options
from cam_extras.pytorch_grad_cam import Upstream
from cam_extras.run import evaluate
from cam_extras.runs.config import RunConfig, known_settings
from cam_extras.runs.flags import add_config_flags, add_flags, find_method, find_metric, in_flags, read_config
from cam_extras.runs.identity import describe


class TestMethods:
    def test_names_with_and_without_hyper_parameters(self):
        methods = as_methods(
            ["GradCAM", "OptiCAM:max_iterations=30,utility=softmax", "RandomCAM", "RandomCAM:seed=5"], 3
        )
        assert methods == {
            "GradCAM": GradCAM(),
            "OptiCAM:max_iterations=30,utility=softmax": OptiCAM(max_iterations=30, utility="softmax"),
            "RandomCAM": RandomCAM(seed=3),
            "RandomCAM:seed=5": RandomCAM(seed=5),
        }

    def test_every_method_by_name(self):
        for name, method in as_methods(list(METHODS), 0).items():
            assert method == METHODS[name]()

    def test_mappings(self):
        given = {
            "fast": {"method": "OptiCAM", "max_iterations": 3},
            "ExpectedGradCAM": {"n_samples": 4},
            "mine": RandomCAM(seed=9),
        }
        methods = as_methods(given, 2)
        assert methods["fast"] == OptiCAM(max_iterations=3)
        assert methods["ExpectedGradCAM"] == ExpectedGradCAM(n_samples=4, seed=2)
        assert methods["mine"] is given["mine"]
        assert list(methods) == list(given)
        assert given["fast"] == {"method": "OptiCAM", "max_iterations": 3}

    def test_objects_and_a_single_name(self):
        assert as_methods([GradCAM(), OptiCAM(max_iterations=1)], 0) == {
            "GradCAM": GradCAM(),
            "OptiCAM": OptiCAM(max_iterations=1),
        }
        assert as_methods("GradCAM", 0) == {"GradCAM": GradCAM()}

    def test_classes_of_pytorch_grad_cam(self):
        given = ["FEM", "KPCA_CAM:utility=rest", "FEM:aug_smooth=True", "GradCAM"]
        assert list(as_methods(given, 3).values()) == [
            Upstream(cam="FEM"),
            Upstream(cam="KPCA_CAM", utility="rest"),
            Upstream(cam="FEM", hyper={"aug_smooth": True}),
            GradCAM(),
        ]

    @pytest.mark.parametrize(
        ("given", "error", "match"),
        [
            ([], ValueError, "there is no method: give one or more"),
            (["ScoreCam"], ValueError, "there is no method 'ScoreCam': did you mean ScoreCAM"),
            (["FEM:steps=3"], TypeError, "FEM has no hyper-parameter 'steps': it has"),
            (["FEM:utility=logits"], ValueError, "utility must be one of"),
            (["GradCam"], ValueError, "there is no method 'GradCam': did you mean GradCAM"),
            (["GradCAM", "GradCAM"], ValueError, "two methods named 'GradCAM'"),
            ([OptiCAM(), OptiCAM(max_iterations=3)], ValueError, "two methods named 'OptiCAM': give them names"),
            (["OptiCAM:steps=3"], TypeError, "OptiCAM has no hyper-parameter 'steps': it has"),
            (
                ["OptiCAM:max_iterations"],
                ValueError,
                "expected NAME=VALUE, such as max_iterations=30; got 'max_iterations'",
            ),
            (["GradCAM:utility=logits"], ValueError, "utility must be one of"),
            ({"fast": {"max_iterations": 3}}, ValueError, "there is no method 'fast'"),
        ],
    )
    def test_mistakes(self, given, error, match):
        with pytest.raises(error, match=match):
            as_methods(given, 0)

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"a": 3}, r"methods must map names to methods, or to hyper-parameters .*; got \{'a': 3\}"),
            ({1: GradCAM()}, r"methods must map names to methods, .*; got \{1: GradCAM"),
            ([dict], 'such as "GradCAM", a class or a method, such as GradCAM.*; got <class'),
            ([{"fast": {}}], "methods must be names or methods"),
            (3, "methods must be names or methods, in a list or a mapping; got 3"),
        ],
    )
    def test_no_methods(self, given, match):
        with pytest.raises(TypeError, match=match):
            as_methods(given, 0)


class TestOptions:
    def test_fields_by_name(self):
        options = as_options({"threshold": 0.25, "schedule": "mi"}, METRICS, seed=4)
        assert (options.threshold, options.schedule, options.seed) == (0.25, "mi", 4)
        assert as_options({"seed": 1}, METRICS, seed=4).seed == 1
        given = {"schedule": {"step": 0.5, "delete_to": "mean"}}
        assert as_options(given, ["insertion"], seed=4).schedule == Schedule(0.5, "blur", "mean")

    def test_unknown(self):
        with pytest.raises(ValueError, match="there is no option of metrics 'treshold': did you mean threshold"):
            as_options({"treshold": 0.25}, ["hci"], seed=0)


def test_settings():
    given = ["a=1", "b=0.5", "c=None", "d=True", "e=(1, 2)", "f=softmax", "g = x=y ", "h='1'", "i="]
    assert read_settings(given) == {
        "a": 1, "b": 0.5, "c": None, "d": True, "e": (1, 2), "f": "softmax", "g": "x=y", "h": "1", "i": ""
    }  # fmt: skip


class TestDescribe:
    def test_tells_values_apart_and_knows_equal_ones(self):
        tensor = torch.rand(2, 3)
        values = [
            ExpectedGradCAM(),
            ExpectedGradCAM(n_samples=5),
            ExpectedGradCAM(baselines=tensor),
            ExpectedGradCAM(baselines=tensor + 1),
            ExpectedGradCAM(baselines=tensor.double()),
            ExpectedGradCAM(baselines=tensor.reshape(3, 2)),
            ExpectedGradCAM(baselines=torch.zeros_like),
            METRICS["hci"].Options(),
            METRICS["hci"].Options(fill=tensor),
            METRICS["hci"].Options(fill=tensor.bfloat16()),
            METRICS["insertion"].Options(schedule=Schedule(7)),
            METRICS["insertion"].Options(schedule=Schedule(7, "mean")),
            Normalize((0.5,), (0.25,)),
            Normalize((0.5,), (0.5,)),
            Compose([Normalize((0.5,), (0.5,))]),
            partial(torch.sum, dim=1),
            partial(torch.sum, dim=2),
            partial(torch.sum),
            torch.nn.Linear(2, 3),
            None,
            [1, (2.5, "a")],
        ]
        texts = [json.dumps(describe(value)) for value in values]
        assert len(set(texts)) == len(texts)
        assert describe(ExpectedGradCAM(baselines=tensor.clone())) == describe(ExpectedGradCAM(baselines=tensor))

    def test_methods_say_their_class_and_all_hyper_parameters(self):
        assert describe({"fast": OptiCAM(max_iterations=3)})["fast"]["method"] == "OptiCAM"
        assert describe(replace(OptiCAM(), max_iterations=3))["max_iterations"] == 3

    def test_has_no_addresses(self):
        class Anything:
            pass

        assert describe(Anything()) == describe(Anything())
        assert describe(lambda x: x) == describe(lambda x: x)


DEFAULTS = RunConfig(model=None, data=None).kept()


class TestSettings:
    @pytest.fixture(autouse=True)
    def _data(self, tmp_path, monkeypatch):
        for name in ("d.csv", "x", "a", "b", "a:b", "mine.py"):
            (tmp_path / name).touch()
        monkeypatch.chdir(tmp_path)

    def read(self, *arguments):
        parser = argparse.ArgumentParser()
        add_config_flags(parser)
        add_flags(parser)
        return read_config(parser.parse_args(arguments)).kept()

    def test_defaults(self):
        assert self.read("--model", "resnet50", "--data", "x") == DEFAULTS | {"model": "resnet50", "data": "x"}

    def test_evaluate_has_the_settings_and_defaults_of_the_configuration(self):
        """Beside the weights, which come with the model."""
        parameters = inspect.signature(evaluate).parameters
        assert set(parameters) == set(known_settings()) - {"weights"}
        defaults = {field.name: field.default for field in fields(RunConfig)}
        for name, parameter in parameters.items():
            if name in ("model", "layer", "data", "output"):
                assert parameter.default is parameter.empty
            else:
                assert parameter.default == defaults[name], name

    def test_flags(self):
        arguments = shlex.split(
            "--model m:f --weights w.pth --transform m:t --layer layer3 --layer layer4 --fusion max"
            " --data d.csv --methods GradCAM OptiCAM:max_iterations=3 --metrics adcc insertion"
            " --options threshold=0.3 schedule=mi --target label --against second"
            " --model-output 1 --confidence sigmoid --output out --limit 5 --batch-size 7"
            " --images-per-part 9 --device cpu --engine ray --workers 2 --gpus-per-worker 0.5"
            " --address auto --seed 4 --maps --pictures 0"
        )
        assert self.read(*arguments) == {
            "model": "m:f",
            "weights": "w.pth",
            "transform": "m:t",
            "layer": ["layer3", "layer4"],
            "fusion": "max",
            "data": "d.csv",
            "methods": ["GradCAM", "OptiCAM:max_iterations=3"],
            "metrics": ["adcc", "insertion"],
            "options": {"threshold": 0.3, "schedule": "mi"},
            "target": "label",
            "against": "second",
            "model_output": 1,
            "confidence": "sigmoid",
            "output": "out",
            "limit": 5,
            "batch_size": 7,
            "images_per_part": 9,
            "device": "cpu",
            "engine": "ray",
            "workers": 2,
            "gpus_per_worker": 0.5,
            "address": "auto",
            "seed": 4,
            "maps": True,
            "pictures": 0,
        }

    def test_file_and_flags_that_win(self, tmp_path):
        (tmp_path / "run.yaml").write_text("model: resnet50\ndata: a\nmethods: {fast: {method: OptiCAM}}\nseed: 3\n")
        settings = self.read("--config", str(tmp_path / "run.yaml"), "--data", "b")
        assert settings == DEFAULTS | {
            "model": "resnet50", "data": "b", "methods": {"fast": {"method": "OptiCAM"}}, "seed": 3
        }  # fmt: skip
        assert yaml.safe_load(yaml.safe_dump(settings)) == settings

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("model: [", "cannot be read as YAML"),
            ("- model", "must hold settings, NAME: VALUE; it holds list"),
            ("modle: resnet50", "there is no setting in .*run.yaml 'modle': did you mean model"),
            ("model: resnet50", "give --data, or a --config FILE that has it"),
            ("data: x", "give --model, or"),
        ],
    )
    def test_mistakes(self, tmp_path, text, match):
        (tmp_path / "run.yaml").write_text(text)
        with pytest.raises(ValueError, match=match):
            self.read("--config", str(tmp_path / "run.yaml"))

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ('maps: "no"', "maps must be True or False; got 'no'"),
            ("maps: 1", "maps must be True or False"),
            ("limit: true", "limit must be an integer; got True"),
            ("limit: 2.0", "limit must be an integer; got 2.0"),
            ("seed: null", "seed must be an integer; got None"),
            ("images_per_part: '3'", "images_per_part must be an integer; got '3'"),
            ("pictures: no", "pictures must be an integer; got False"),
            ("workers: [1]", "workers must be an integer"),
            ("batch_size: many", "batch_size must be 'auto' or an integer; got 'many'"),
            ("batch_size: true", "batch_size must be 'auto' or an integer; got True"),
            ("gpus_per_worker: half", "gpus_per_worker must be a number; got 'half'"),
            ("gpus_per_worker: .nan", "gpus_per_worker must be finite; got nan"),
            ("model: 3", "model must be text; got 3"),
            ("weights: 3", "weights must be text; got 3"),
            ("weights: null", None),
            ("transform: [a]", "transform must be text"),
            ("layer: 4", "layer must be text or a list of text; got 4"),
            ("layer: null", "layer must be text or a list of text; got None"),
            ("data: [a, b]", "data must be text"),
            ("limit: ten", "limit must be an integer; got 'ten'"),
            ("limit: 0", "limit must be 1 or more; got 0"),
            ("limit: null", None),
            ("output: 2024-01-01", "output must be text; got datetime.date"),
            ("device: 0", "device must be text; got 0"),
            ("engine: 1", "engine must be one of 'local', 'ray'; got 1"),
            ("address: 6379", "address must be text; got 6379"),
            ("target: true", "target must be text or an integer; got True"),
            ("target: 281", None),
            ("methods: {a: 3}", "methods must be a list of text or a mapping; got"),
            ("methods: {a: {1: 2}}", "methods must be"),
            ("methods: {1: {}}", "methods must be"),
            ("methods: [1]", "methods must be"),
            ("methods: GradCAM", "methods must be"),
            ("methods: {GradCAM: }", None),
            ("metrics: adcc", "metrics must be a list of text; got 'adcc'"),
            ("metrics: [1]", "metrics must be a list of text"),
            ("options: [threshold]", "options must be a mapping; got"),
        ],
    )
    def test_types_of_values_in_a_file(self, tmp_path, text, match):
        (tmp_path / "run.yaml").write_text(text)
        arguments = ["--config", str(tmp_path / "run.yaml"), "--data", "x", "--model", "m"]
        if text.startswith("data"):
            arguments[2:4] = []
        if text.startswith("model"):
            arguments[4:] = []
        if match is None:
            self.read(*arguments)
        else:
            with pytest.raises((TypeError, ValueError), match=rf"run\.yaml: {match}"):
                self.read(*arguments)

    def test_every_setting_has_a_type(self, tmp_path):
        for name in DEFAULTS:
            (tmp_path / "run.yaml").write_text(f"{name}: 2024-01-01")
            with pytest.raises((TypeError, ValueError), match=rf"run\.yaml: {name} must be .*; got datetime"):
                self.read("--config", str(tmp_path / "run.yaml"))

    @pytest.mark.parametrize("text", ["[" * 5000, "a: " + "{a: " * 5000])
    def test_thousands_of_brackets(self, tmp_path, text):
        (tmp_path / "run.yaml").write_text(text)
        with pytest.raises(ValueError, match="cannot be read as YAML"):
            self.read("--config", str(tmp_path / "run.yaml"))
        assert read_settings(["a=" + "(" * 5000]) == {"a": "(" * 5000}

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ('model: "os:system"\nweights: touch FILE', "model: os:system"),
            ("model: mine.py:model", "model: mine.py:model"),
            ("transform: os:getcwd", "transform: os:getcwd"),
            ("methods: [GradCAM, 'mine.py:MyCAM:n=3']", "methods: mine.py:MyCAM:n=3"),
            ("methods: {fast: {method: 'mine.py:MyCAM', n: 3}}", "methods: mine.py:MyCAM"),
            ("metrics: [adcc, 'mine.py:my_metric']", "metrics: mine.py:my_metric"),
            ("metrics: ['os:a=b']", "metrics: os:a=b"),
            ("engine: ray\naddress: evil.example:6379", "address: evil.example:6379"),
        ],
    )
    def test_code_that_a_file_names_needs_trust(self, tmp_path, text, named):
        (tmp_path / "run.yaml").write_text("data: x\n" + text)
        arguments = ["--config", str(tmp_path / "run.yaml")]
        arguments += ["--model", "resnet18"] if "model" not in text else []
        with pytest.raises(ValueError, match=rf"run\.yaml names code, .* \({named}\): check it, then add --tru"):
            self.read(*arguments)
        name, value = named.split(": ")
        assert value in str(self.read(*arguments, "--trust-code")[name])
        assert value in self.read(*arguments, f"--{name}={value}")[name]  # of the command line it is the user's own

    @pytest.mark.parametrize("methods", [{"os:a=b": {"n": 3}}, {"fast": {"method": "os:a=b"}}, {"os:f:a=b": None}])
    def test_code_with_what_looks_like_options(self, tmp_path, methods):
        """Of a mapping nothing is split off: what is taken for code when it is loaded is taken for code here."""
        assert code_in({"methods": methods})["methods"].startswith("os:")
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({"model": "resnet18", "data": "x", "methods": methods}))
        with pytest.raises(ValueError, match=r"names code, which could do|there is no method 'os'"):
            self.read("--config", str(tmp_path / "run.yaml"))

    def test_no_code(self, tmp_path):
        (tmp_path / "run.yaml").write_text("model: resnet18\nweights: a:b\ndata: 'a:b'\noutput: 'c:d'\naddress: auto\n")
        (tmp_path / "a:b").touch()
        assert self.read("--config", str(tmp_path / "run.yaml"))["weights"] == "a:b"

    def test_no_file(self, tmp_path):
        with pytest.raises(ValueError, match=r"nowhere\.yaml cannot be read"):
            self.read("--config", str(tmp_path / "nowhere.yaml"))

    @pytest.mark.parametrize(
        ("flags", "name", "expected"),
        [
            ("--method GradCAM --method OptiCAM", "methods", ["GradCAM", "OptiCAM"]),
            ("--methods GradCAM --methods OptiCAM FakeCAM", "methods", ["GradCAM", "OptiCAM", "FakeCAM"]),
            ("--methods gradcam --method opti-cam:n=1 --method GradCAM", "methods", ["GradCAM", "OptiCAM:n=1"]),
            ("--method scorecam --method mine.py:MyCAM:n=3", "methods", ["ScoreCAM", "mine.py:MyCAM:n=3"]),
            ("--metric AD --metrics ad adcc ADCC HCI", "metrics", ["average_drop", "adcc", "hci"]),
            ("--metric mine.py:my_metric", "metrics", ["mine.py:my_metric"]),
            ("--target 3", "target", 3),
            ("--batch-size auto", "batch_size", "auto"),
        ],
    )
    def test_names_and_numbers_as_they_are_typed(self, flags, name, expected):
        assert self.read("--model", "m", "--data", "x", *shlex.split(flags))[name] == expected

    @pytest.mark.parametrize(
        ("flags", "match"),
        [
            ("--limit ten", "^--limit must be an integer; got 'ten'"),
            ("--limit 0", "^--limit must be 1 or more; got 0"),
            ("--limit 2.5", "^--limit must be an integer; got '2.5'"),
            ("--seed 9223372036854775808", r"^--seed must be less than 2\*\*63"),
            ("--engine spark", "^--engine must be one of 'local', 'ray'; got 'spark'"),
            ("--gpus-per-worker nan", "^--gpus-per-worker must be finite; got nan"),
            ("--methods OptiCam2", "^there is no method 'OptiCam2': did you mean OptiCAM"),
            ("--methods OptiCAM:max_iterations", "^expected NAME=VALUE, such as max_iterations=30"),
            ("--metrics adccc", "^there is no metric 'adccc': did you mean adcc"),
            ("--metrics xyzzy", "^there is no metric 'xyzzy': there are average_drop, increase"),
            ("--methods nowhere.py:MyCAM", "^there is no file nowhere.py"),
            ("--metrics nowhere.py:mine", "^there is no file nowhere.py"),
            ("--transform nowhere.py:f", "^there is no file nowhere.py"),
            ("--model nowhere.py:f", "^there is no file nowhere.py"),
            ("--model resnet18-1234.pth", "^there is no weights file resnet18-1234.pth"),
            ("--weights nowhere.pth", "^there is no weights file nowhere.pth"),
            ("--data nowhere", "^there is no 'nowhere': give a folder"),
            ("--retry-errors", 'retry_errors=True goes with mode="resume"'),
        ],
    )
    def test_mistakes_of_flags(self, flags, match):
        with pytest.raises((TypeError, ValueError), match=match):
            self.read("--model", "resnet18", "--data", "x", *shlex.split(flags))


class TestTypesOfArguments:
    @pytest.mark.parametrize(
        ("changes", "error", "match"),
        [
            ({"limit": "ten"}, TypeError, "limit must be an integer or None; got 'ten'"),
            ({"limit": 2.0}, TypeError, "limit must be an integer or None; got 2.0"),
            ({"batch_size": "many"}, ValueError, "batch_size must be 'auto' or an integer; got 'many'"),
            ({"maps": 1}, TypeError, "maps must be True or False; got 1"),
            ({"workers": 0}, ValueError, "workers must be 1 or more; got 0"),
            ({"gpus_per_worker": "half"}, TypeError, "gpus_per_worker must be a number or None; got 'half'"),
            ({"address": 6379}, TypeError, "address must be text or None; got 6379"),
            ({"mode": "append"}, ValueError, "mode must be one of 'new', 'resume', 'overwrite'; got 'append'"),
            ({"insist": "yes"}, TypeError, "insist must be True or False; got 'yes'"),
        ],
    )
    def test_are_checked_before_anything_is_looked_at(self, changes, error, match):
        with pytest.raises(error, match=match):
            evaluate(model=None, layer=None, data=None, output="", **changes)


class TestWordsOfTheCommandLine:
    @pytest.mark.parametrize(
        ("library", "command"),
        [
            ('give mode="resume" to go on, or mode="overwrite"', "give --resume to go on, or --overwrite"),
            ('mode="resume", retry_errors=True; or with insist=True', "--resume, --retry-errors; or with --insist"),
            ("give a local file by weights=", "give a local file by --weights"),
            ("or weights='some/resnet.pth'.", "or --weights some/resnet.pth."),
            ("or weights='a file.pth'", "or --weights 'a file.pth'"),
            ("or take engine='local'", "or take --engine local"),
            ("a smaller gpus_per_worker=, or workers=2", "a smaller --gpus-per-worker, or --workers 2"),
            ("internal_batch_size=3 stays", "internal_batch_size=3 stays"),
            ("reshape_transform=f has no flag", "reshape_transform=f has no flag"),
            ("/data/limit=3/x.png and a/seed=4", "/data/limit=3/x.png and a/seed=4"),
        ],
    )
    def test_arguments_are_said_as_flags(self, library, command):
        assert in_flags(library) == command


USERS_FILE = """
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from cam_extras.methods import GradCAM
from cam_extras.metrics.base import metric

@dataclass(frozen=True, kw_only=True)
class MyCAM(GradCAM):
    paper: ClassVar[str] = "mine"
    n: int = 1

a_method = MyCAM(n=7)
number = 3

@metric(title="Mine", short="Mine", higher_is_better=True, meaning="the mean", paper="none")
def {metric}(maps):
    return maps.flatten(1).mean(dim=1)

def not_listed(maps):
    return maps
"""


class TestCodeOfOnesOwn:
    @pytest.fixture
    def file(self, tmp_path):
        (tmp_path / "mine.py").write_text(USERS_FILE.replace("{metric}", "my_own_metric"))
        yield f"{tmp_path / 'mine.py'}"
        METRICS.pop("my_own_metric", None)

    def test_methods(self, file):
        given = [f"{file}:MyCAM", f"{file}:MyCAM:n=3,utility=softmax", f"{file}:a_method"]
        methods = as_methods(given, 0)
        assert list(methods) == ["MyCAM", "MyCAM:n=3,utility=softmax", "a_method"]
        assert [method.n for method in methods.values()] == [1, 3, 7]
        for method in methods.values():
            check_fields(method)  # its annotations are text, and its module is in no sys.modules
        assert methods["MyCAM:n=3,utility=softmax"].utility == "softmax"
        assert as_methods({"fast": {"method": f"{file}:MyCAM", "n": 2}}, 0)["fast"].n == 2
        assert as_methods(f"{file}:a_method:n=3", 0)["a_method:n=3"].n == 3

    @pytest.mark.parametrize(
        ("name", "error", "match"),
        [
            ("MyCam", ValueError, "there is no method in .*mine.py 'MyCam': did you mean MyCAM"),
            (
                "number",
                TypeError,
                r"mine.py:number must be a cam_extras.methods.Method, its class or an instance; it is 3",
            ),
            ("a_method:m=3", TypeError, "MyCAM has no hyper-parameter 'm'"),
            ("MyCAM:m=3", TypeError, "MyCAM has no hyper-parameter 'm'"),
        ],
    )
    def test_no_methods(self, file, name, error, match):
        with pytest.raises(error, match=match):
            as_methods([f"{file}:{name}"], 0)

    def test_metrics(self, file):
        """A file is run once, however often it is named; and again where something else is in it."""
        for _ in range(2):
            assert as_metrics([f"{file}:my_own_metric", "adcc"]) == ("my_own_metric", "adcc")
        METRICS.pop("my_own_metric")
        Path(file).write_text(USERS_FILE.replace("{metric}", "my_own_metric") + "# changed\n")
        assert as_metrics(f"{file}:my_own_metric") == ("my_own_metric",)
        with pytest.raises(ValueError, match=r"mine.py:not_listed is not in METRICS: put @metric"):
            as_metrics([f"{file}:not_listed"])

    def test_of_installed_packages(self, file, monkeypatch):
        from importlib.metadata import EntryPoint

        from cam_extras import _code

        def entries(group):
            kind = group.partition(".")[2]
            names = {"methods": ["MyCAM", "a_method"], "metrics": ["my_own_metric"]}[kind]
            return [EntryPoint(name, f"mine:{name}", group) for name in names]

        monkeypatch.syspath_prepend(str(Path(file).parent))
        monkeypatch.setattr(_code, "entry_points", entries)
        _code.installed.cache_clear()
        try:
            assert [method.n for method in as_methods(["MyCAM:n=4", "a_method"], 0).values()] == [4, 7]
            assert as_metrics(["my_own_metric"]) == ("my_own_metric",)
            assert find_method("mycam:n=3") == "MyCAM:n=3"
            assert find_metric("my-own-metric") == "my_own_metric"
            with pytest.raises(ValueError, match="there is no method 'MyCAMM': did you mean MyCAM"):
                as_methods(["MyCAMM"], 0)
        finally:
            _code.installed.cache_clear()
            sys.modules.pop("mine", None)
