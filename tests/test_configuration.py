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
from cam_extras.metrics import MetricOptions, Schedule
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


class TestOptions:
    def test_fields_by_name(self):
        options = read_options({"threshold": 0.25, "schedule": "mi"}, 4)
        assert (options.threshold, options.schedule, options.seed) == (0.25, "mi", 4)
        assert read_options({"seed": 1}, 4).seed == 1
        assert read_options({"schedule": {"step": 0.5, "delete_to": "mean"}}, 4).schedule == Schedule(
            0.5, "blur", "mean"
        )

    def test_unknown(self):
        with pytest.raises(ValueError, match="there is no option of metrics 'treshold': did you mean threshold"):
            read_options({"treshold": 0.25}, 0)


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
            MetricOptions(),
            MetricOptions(fill=tensor),
            MetricOptions(fill=tensor.bfloat16()),
            MetricOptions(schedule=Schedule(7)),
            MetricOptions(schedule=Schedule(7, "mean")),
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
            ("model: m\ndata: d\nbatch_size: many", "batch size must be auto or a number; got 'many'"),
        ],
    )
    def test_mistakes(self, tmp_path, text, match):
        (tmp_path / "run.yaml").write_text(text)
        with pytest.raises(ValueError, match=match):
            self.read("--config", str(tmp_path / "run.yaml"))

    def test_no_file(self, tmp_path):
        with pytest.raises(ValueError, match=r"nowhere\.yaml cannot be read"):
            self.read("--config", str(tmp_path / "nowhere.yaml"))
