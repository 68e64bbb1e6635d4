"""Every option of every host's class is seen: by inspect, help, type checkers and completion, and by repr."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_type_hints

import pytest
import torch
from hosts import CAPTUM, METHODS, PGC
from nets import CNN
from torch import nn

import cam_extras
from cam_extras import captum, methods, pytorch_grad_cam
from cam_extras._options import check_annotated, choices_of, expected

ROOT = Path(__file__).resolve().parent.parent
ALL_METHODS = pytest.mark.parametrize("name", METHODS)
CLASSES = pytest.mark.parametrize("classes", [PGC, CAPTUM], ids=["pytorch-grad-cam", "Captum"])


@CLASSES
@ALL_METHODS
def test_signature_and_help(name, classes):
    method, cls = METHODS[name], classes[name]
    parameters = inspect.signature(cls).parameters
    assert not [p for p in parameters.values() if p.kind is p.VAR_KEYWORD]
    text = pydoc.plain(pydoc.render_doc(cls))
    for field in dataclasses.fields(method):
        parameter = parameters[field.name]
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default == field.default
        assert parameter.annotation == get_type_hints(method)[field.name]
        assert f"{field.name}: " in text
    assert method.paper.partition(",")[0].split()[0] in text
    assert list(inspect.signature(cls.__init__).parameters)[-1] == "hyper"  # which the signature stands for


@ALL_METHODS
def test_options_with_few_values_are_literals(name):
    for option, hint in get_type_hints(METHODS[name]).items():
        if isinstance(getattr(METHODS[name], option, None), str) and option != "paper":
            assert choices_of(hint) or "Literal" in str(hint), option


@CLASSES
@ALL_METHODS
def test_repr_tells_method_layer_and_options(name, classes):
    model = CNN().eval()
    options = {field.name: field.default for field in dataclasses.fields(METHODS[name])}
    told = repr(classes[name](model, [model.layer]))
    assert told.startswith(f"{classes[name].__name__}(CNN, 'layer'")
    for option, default in options.items():
        assert f"{option}={default!r}" in told
    assert "'auto'" in repr(classes[name](model, "auto"))


def test_what_is_generated_is_up_to_date():
    command = [
        sys.executable,
        "-c",
        "import json, generate; print(json.dumps({str(p): t for p, t in generate.files().items()}))",
    ]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "tools", check=True).stdout
    files = {Path(path): text for path, text in json.loads(told).items()}
    stale = [path.name for path, text in files.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"run python tools/generate.py: {stale}"
    for module, classes in ((pytorch_grad_cam, PGC), (captum, CAPTUM)):
        stub = files[Path(module.__file__).with_suffix(".pyi")]
        for cls in classes.values():
            assert f"class {cls.__name__}(" in stub


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from cam_extras import OptiCAM; OptiCAM(norm", "normalisation="),
        ("from cam_extras.captum import LayerExpectedGradCam as L; L(base", "baselines="),
        ("from cam_extras.methods import MIGradCAM; MIGradCAM(est", "estimator="),
    ],
)
def test_completion(line, found):
    jedi = pytest.importorskip("jedi")
    names = [completion.name for completion in jedi.Script(line, path=ROOT / "completed.py").complete()]
    assert found in names


@pytest.mark.slow
def test_type_checker(tmp_path):
    script = tmp_path / "typed.py"
    script.write_text(
        "from torch import nn\n"
        "from cam_extras import OptiCAM, ScoreCAM\n"
        "from cam_extras.captum import LayerOptiCam\n"
        "model = nn.Sequential()\n"
        'OptiCAM(model, ["0"], normalisation="max", max_iterations=3)\n'
        'OptiCAM(model, "auto", normalisation="most")\n'
        'LayerOptiCam(model, "0", max_iterations="3")\n'
        "LayerOptiCam(model, model, iterations=3)\n"
    )
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(script)]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    if "error" not in told:
        pytest.skip(f"pyright does not run here: {told[-200:]}")
    assert re.findall(r":(\d+):\d+ - error", told) == ["6", "7", "8"], told


class TestChecksByAnnotation:
    @pytest.mark.parametrize(
        ("value", "annotation", "error", "told"),
        [
            ("last", Literal["first", "any"], ValueError, "x must be one of 'first', 'any'; got 'last'"),
            (3, Literal["first", "any"], ValueError, "x must be one of 'first', 'any'; got 3"),
            (True, int, TypeError, "x must be an integer; got True"),
            (1.5, int | None, TypeError, "x must be an integer or None; got 1.5"),
            ("1", float, TypeError, "x must be a number; got '1'"),
            ([1], list[str], TypeError, "x must be a list of text; got"),
            ({"a": "b"}, dict[str, int], TypeError, "x must be a mapping; got"),
            (1, bool, TypeError, "x must be True or False; got 1"),
            ("1", float | torch.Tensor, TypeError, "x must be a number or a Tensor; got '1'"),
        ],
    )
    def test_what_does_not_fit(self, value, annotation, error, told):
        with pytest.raises(error, match=re.escape(told)):
            check_annotated("x", value, annotation)

    @pytest.mark.parametrize(
        ("value", "annotation"),
        [
            (torch.tensor(3), int),
            (3, float),
            (None, int | None),
            ("any", Literal["first", "any"] | None),
            (["a"], list[str]),
            ({"a": 1}, dict[str, int]),
            (torch.ones(2), float | torch.Tensor),
        ],
    )
    def test_what_does(self, value, annotation):
        check_annotated("x", value, annotation)
        assert expected(annotation)


def test_a_method_listed_later_has_a_class_in_every_host():
    @methods.method
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class SquaredCAM(methods.ChannelMethod, methods.GradientMethod):
        """Squared-CAM: w_k = mean_S(G_k)^exponent."""

        paper = "none: an example"
        exponent: int = 2

        def weights(self, probe):
            return probe.gradients.mean(dim=(2, 3)) ** self.exponent

    try:
        model, x = CNN().eval(), torch.randn(2, 3, 12, 16)
        cam = pytorch_grad_cam.SquaredCAM(model, "layer", exponent=4)
        assert cam(x, 1).shape == (2, 12, 16)
        assert captum.LayerSquaredCam(model, "layer").attribute(x, 1).shape == (2, 1, 6, 8)
        assert "exponent" in inspect.signature(pytorch_grad_cam.SquaredCAM).parameters
        with pytest.raises(
            ValueError, match=r"there is a method 'SquaredCAM' already: .* METHODS\.pop\('SquaredCAM'\)"
        ):
            methods.method(SquaredCAM)
    finally:
        METHODS.pop("SquaredCAM")
        vars(pytorch_grad_cam).pop("SquaredCAM", None)
        vars(captum).pop("LayerSquaredCam", None)


@pytest.mark.parametrize(
    ("cls", "error", "told"),
    [
        (nn.ReLU, TypeError, "must derive from cam_extras.methods.Method"),
        (type("Bare", (methods.GradCAM,), {}), TypeError, "must be a dataclass: write @dataclass"),
        (
            dataclasses.dataclass(frozen=True, kw_only=True)(type("NoPaper", (methods.Method,), {})),
            ValueError,
            "NoPaper must say where it is from",
        ),
    ],
)
def test_what_is_no_method_is_not_listed(cls, error, told):
    before = dict(METHODS)
    with pytest.raises(error, match=told):
        methods.method(cls)
    assert before == METHODS


def test_names_of_the_package():
    assert "SquaredCAM" not in cam_extras.__all__
    assert set(METHODS) <= set(dir(pytorch_grad_cam))
