"""What a run is made of, read from text: methods, options of metrics, settings from flags and YAML."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import replace
from functools import partial

import pytest
import torch
import yaml
from torchvision.transforms import Compose, Normalize

from cam_extras.configuration import describe, read_methods, read_options, read_settings
from cam_extras.methods import METHODS, ExpectedGradCAM, GradCAM, OptiCAM, RandomCAM
from cam_extras.metrics import METRICS, Schedule
from cam_extras.pytorch_grad_cam import Upstream
from cam_extras.settings import DEFAULTS, add_flags, read_all


class TestMethods:
    def test_names_with_and_without_hyper_parameters(self):
        methods = read_methods(
            ["GradCAM", "OptiCAM:max_iterations=30,score=softmax", "RandomCAM", "RandomCAM:seed=5"], 3
        )
        assert methods == {
            "GradCAM": GradCAM(),
            "OptiCAM:max_iterations=30,score=softmax": OptiCAM(max_iterations=30, score="softmax"),
            "RandomCAM": RandomCAM(seed=3),
            "RandomCAM:seed=5": RandomCAM(seed=5),
        }

    def test_every_method_by_name(self):
        for name, method in read_methods(list(METHODS), 0).items():
            assert method == METHODS[name]()

    def test_mappings(self):
        given = {
            "fast": {"method": "OptiCAM", "max_iterations": 3},
            "ExpectedGradCAM": {"n_samples": 4},
            "mine": RandomCAM(seed=9),
        }
        methods = read_methods(given, 2)
        assert methods["fast"] == OptiCAM(max_iterations=3)
        assert methods["ExpectedGradCAM"] == ExpectedGradCAM(n_samples=4, seed=2)
        assert methods["mine"] is given["mine"]
        assert list(methods) == list(given)
        assert given["fast"] == {"method": "OptiCAM", "max_iterations": 3}

    def test_objects_and_a_single_name(self):
        assert read_methods([GradCAM(), OptiCAM(max_iterations=1)], 0) == {
            "GradCAM": GradCAM(),
            "OptiCAM": OptiCAM(max_iterations=1),
        }
        assert read_methods("GradCAM", 0) == {"GradCAM": GradCAM()}

    def test_classes_of_pytorch_grad_cam(self):
        given = ["ScoreCAM", "GradCAMPlusPlus:score=rest", "ScoreCAM:aug_smooth=True", "GradCAM"]
        assert list(read_methods(given, 3).values()) == [
            Upstream(cam="ScoreCAM"),
            Upstream(cam="GradCAMPlusPlus", score="rest"),
            Upstream(cam="ScoreCAM", hyper={"aug_smooth": True}),
            GradCAM(),
        ]

    @pytest.mark.parametrize(
        ("given", "error", "match"),
        [
            ([], ValueError, "no method to evaluate"),
            (["ScoreCam"], ValueError, "there is no method 'ScoreCam': did you mean ScoreCAM"),
            (["ScoreCAM:steps=3"], TypeError, "ScoreCAM has no hyper-parameter 'steps': it has"),
            (["ScoreCAM:score=logits"], ValueError, "score must be one of"),
            (["GradCam"], ValueError, "there is no method 'GradCam': did you mean GradCAM"),
            (["GradCAM", "GradCAM"], ValueError, "two methods named 'GradCAM'"),
            ([OptiCAM(), OptiCAM(max_iterations=3)], ValueError, "two methods named 'OptiCAM': give them names"),
            (["OptiCAM:steps=3"], TypeError, "OptiCAM has no hyper-parameter 'steps': it has"),
            (
                ["OptiCAM:max_iterations"],
                ValueError,
                "expected NAME=VALUE, such as max_iterations=30; got 'max_iterations'",
            ),
            (["GradCAM:score=logits"], ValueError, "score must be one of"),
            ({"fast": {"max_iterations": 3}}, ValueError, "there is no method 'fast'"),
        ],
    )
    def test_mistakes(self, given, error, match):
        with pytest.raises(error, match=match):
            read_methods(given, 0)

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"a": 3}, r"methods must map names to methods, or to hyper-parameters .*; got \{'a': 3\}"),
            ({1: GradCAM()}, r"methods must map names to methods, .*; got \{1: GradCAM"),
            ([GradCAM], 'such as "GradCAM" or GradCAM.*; got <class'),
            ([{"fast": {}}], "methods must be names or methods"),
            (3, "methods must be names or methods, in a list or a mapping; got 3"),
        ],
    )
    def test_no_methods(self, given, match):
        with pytest.raises(TypeError, match=match):
            read_methods(given, 0)


class TestOptions:
    def test_fields_by_name(self):
        options = read_options({"threshold": 0.25, "schedule": "mi"}, METRICS, 4)
        assert (options.threshold, options.schedule, options.seed) == (0.25, "mi", 4)
        assert read_options({"seed": 1}, METRICS, 4).seed == 1
        given = {"schedule": {"step": 0.5, "delete_to": "mean"}}
        assert read_options(given, ["insertion"], 4).schedule == Schedule(0.5, "blur", "mean")

    def test_unknown(self):
        with pytest.raises(ValueError, match="there is no option of metrics 'treshold': did you mean threshold"):
            read_options({"treshold": 0.25}, ["hci"], 0)


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


class TestSettings:
    def read(self, *arguments):
        parser = argparse.ArgumentParser()
        add_flags(parser)
        return read_all(parser.parse_args(arguments))

    def test_defaults(self):
        assert self.read("--model", "resnet50", "--data", "x") == DEFAULTS | {"model": "resnet50", "data": "x"}

    def test_flags(self):
        arguments = shlex.split(
            "--model m:f --weights w.pth --transform m:t --layer layer4 --data d.csv --methods GradCAM"
            " OptiCAM:max_iterations=3 --metrics adcc insertion --options threshold=0.3 schedule=mi"
            " --target label --output out --limit 5"
            " --batch-size 7 --images-per-part 9 --device cpu --engine ray --workers 2 --gpus-per-worker 0.5"
            " --address auto --seed 4 --maps --pictures 0"
        )
        assert self.read(*arguments) == {
            "model": "m:f",
            "weights": "w.pth",
            "transform": "m:t",
            "layer": "layer4",
            "data": "d.csv",
            "methods": ["GradCAM", "OptiCAM:max_iterations=3"],
            "metrics": ["adcc", "insertion"],
            "options": {"threshold": 0.3, "schedule": "mi"},
            "target": "label",
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
            ('maps: "no"', "maps must be true or false, without quotes; got 'no'"),
            ("maps: 1", "maps must be true or false"),
            ("limit: true", "limit must be a whole number; got True"),
            ("limit: 2.0", "limit must be a whole number; got 2.0"),
            ("seed: null", "seed must be a whole number; got None"),
            ("images_per_part: '3'", "images_per_part must be a whole number; got '3'"),
            ("pictures: no", "pictures must be a whole number; got False"),
            ("workers: [1]", "workers must be a whole number"),
            ("batch_size: many", "batch_size must be auto or a whole number; got 'many'"),
            ("batch_size: true", "batch_size must be auto or a whole number; got True"),
            ("gpus_per_worker: half", "gpus_per_worker must be a number; got 'half'"),
            ("gpus_per_worker: .nan", "gpus_per_worker must be a number; got nan"),
            ("model: 3", "model must be text; got 3"),
            ("model: null", None),
            ("weights: 3", "weights must be text; got 3"),
            ("weights: null", None),
            ("transform: [a]", "transform must be text"),
            ("layer: 4", "layer must be text; got 4"),
            ("layer: null", "layer must be text; got None"),
            ("data: [a, b]", "data must be text"),
            ("output: 2024-01-01", "output must be text; got datetime.date"),
            ("device: 0", "device must be text; got 0"),
            ("engine: 1", "engine must be text; got 1"),
            ("address: 6379", "address must be text; got 6379"),
            ("target: true", "target must be predicted, label, or a class by number or name; got True"),
            ("target: 281", None),
            ("methods: {a: 3}", "methods must be a list of names, or a mapping of names to hyper"),
            ("methods: {a: {1: 2}}", "methods must be"),
            ("methods: {1: {}}", "methods must be"),
            ("methods: [1]", "methods must be"),
            ("methods: GradCAM", "methods must be"),
            ("methods: {GradCAM: }", None),
            ("metrics: adcc", "metrics must be a list of names; got 'adcc'"),
            ("metrics: [1]", "metrics must be a list of names"),
            ("options: [threshold]", "options must be a mapping, NAME: VALUE"),
        ],
    )
    def test_types_of_values_in_a_file(self, tmp_path, text, match):
        (tmp_path / "run.yaml").write_text(text)
        arguments = ["--config", str(tmp_path / "run.yaml"), "--model", "m", "--data", "d"]
        if match is None:
            self.read(*arguments)
        else:
            with pytest.raises(TypeError, match=rf"run\.yaml: {match}"):
                self.read(*arguments)

    def test_every_setting_has_a_type(self, tmp_path):
        for name in DEFAULTS:
            (tmp_path / "run.yaml").write_text(f"{name}: 2024-01-01")
            with pytest.raises(TypeError, match=rf"run\.yaml: {name} must be .*; got datetime"):
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
            ("model: FILE.py:model", "model: FILE.py:model"),
            ("transform: os:getcwd", "transform: os:getcwd"),
            ("engine: ray\naddress: evil.example:6379", "address: evil.example:6379"),
        ],
    )
    def test_code_that_a_file_names_needs_trust(self, tmp_path, text, named):
        (tmp_path / "run.yaml").write_text("data: x\n" + text)
        arguments = ["--config", str(tmp_path / "run.yaml")]
        arguments += ["--model", "resnet18"] if "model" not in text else []
        with pytest.raises(ValueError, match=rf"run\.yaml names code, .* \({named}\): look at it, and add --tru"):
            self.read(*arguments)
        name, value = named.split(": ")
        assert self.read(*arguments, "--trust-code")[name] == value
        assert self.read(*arguments, f"--{name}={value}")[name] == value  # of the command line it is the user's own

    def test_no_code(self, tmp_path):
        (tmp_path / "run.yaml").write_text("model: resnet18\nweights: a:b\ndata: 'a:b'\noutput: 'c:d'\naddress: auto\n")
        assert self.read("--config", str(tmp_path / "run.yaml"))["weights"] == "a:b"

    def test_no_file(self, tmp_path):
        with pytest.raises(ValueError, match=r"nowhere\.yaml cannot be read"):
            self.read("--config", str(tmp_path / "nowhere.yaml"))
