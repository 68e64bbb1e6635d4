"""The package as a whole: what importing it costs, and who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import cam_extras
from cam_extras import _catalogue
from cam_extras.methods import DEFAULT_METHODS, METHODS
from cam_extras.metrics import DEFAULT_METRICS
from cam_extras.pytorch_grad_cam import UPSTREAM
from cam_extras.report.tables import method_entries, metric_entries

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cam_extras"
HOSTS = ("pytorch_grad_cam", "captum", "quantus")


def in_a_fresh_interpreter(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_imports_no_host_and_no_torch():
    loaded = in_a_fresh_interpreter(
        f"import sys, cam_extras; print([m for m in (*{HOSTS}, 'torch', 'matplotlib') if m in sys.modules])"
    )
    assert loaded == "[]"


HEAVY = (*HOSTS, "torch", "torchvision", "numpy", "pyarrow", "matplotlib", "PIL", "yaml", "rich", "ray")
ANSWERED_AT_ONCE = {
    "--help": 0,
    "evaluate --help": 0,
    "list": 0,
    "list opticam AD": 0,
    "evalute": 2,
    "evaluate --model resnet50 --data . --metrics adccc": 2,
    "evaluate --model resnet50 --data . --methods GradCamm": 2,
    "evaluate --model resnet50 --data . --limit ten": 2,
    "evaluate --model resnet50 --data nowhere": 2,
    "evaluate --model resnet50 --data . --weights nowhere.pth": 2,
    "evaluate --config nowhere.yaml": 2,
    "explain --model resnet50 nowhere.png": 2,
    "compare nowhere neither": 2,
}


@pytest.mark.parametrize("arguments", ANSWERED_AT_ONCE)
def test_what_needs_no_model_is_answered_before_anything_heavy_is_imported(arguments):
    """That takes a tenth of a second of the processor; importing torch alone takes one or more."""
    loaded = in_a_fresh_interpreter(
        "import sys, contextlib, io\nfrom cam_extras.__main__ import main\n"
        f"sys.argv[1:] = {arguments.split()!r}\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    try:\n        status = main()\n    except SystemExit as end:\n        status = end.code\n"
        f"print(status, *(name for name in {HEAVY} if name in sys.modules))"
    )
    needed = {"list": "rich", "list opticam AD": "rich", "evaluate --config nowhere.yaml": "yaml"}.get(arguments, "")
    assert loaded == f"{ANSWERED_AT_ONCE[arguments]} {needed}".strip()


def test_the_catalogue_is_that_of_the_registries():
    renewed = {
        "METHODS": tuple(method_entries()),
        "METRICS": tuple(metric_entries()),
        "UPSTREAM": tuple(sorted(UPSTREAM)),
        "DEFAULT_METHODS": DEFAULT_METHODS,
        "DEFAULT_METRICS": DEFAULT_METRICS,
    }
    stale = [name for name, value in renewed.items() if getattr(_catalogue, name) != value]
    assert not stale, "cam_extras/_catalogue.py is stale: run python tools/generate.py"


def test_names_and_short_names_mean_one_thing():
    """With no regard to case."""
    methods = {*(method.name for method in _catalogue.METHODS), *_catalogue.UPSTREAM}
    metrics = {text for metric in _catalogue.METRICS for text in {metric.name.replace("_", ""), metric.short.lower()}}
    assert len({name.lower() for name in methods}) == len(methods)
    assert len(metrics) == sum(
        len({metric.name.replace("_", ""), metric.short.lower()}) for metric in _catalogue.METRICS
    )


@pytest.mark.slow
def test_only_the_front_ends_import_a_host():
    modules = [
        *("methods", "metrics", "probe", "maps", "utilities", "layers", "evaluation", "runs", "report", "run", "cli"),
        "commands",
    ]
    loaded = in_a_fresh_interpreter(
        "import sys\nfrom importlib import import_module\n"
        f"for module in {modules}:\n"
        "    import_module(f'cam_extras.{module}')\n"
        f"    print(*[(module, host) for host in {HOSTS} if host in sys.modules], end='')"
    )
    assert loaded == ""


@pytest.mark.slow
def test_optional_libraries_are_imported_when_they_are_needed():
    optional = ("transformers", "timm", "lightning", "open_clip", "monai", "ultralytics", "ray")
    loaded = in_a_fresh_interpreter(
        "import sys, cam_extras.commands, cam_extras.models, cam_extras.callbacks, cam_extras.pytorch_grad_cam\n"
        f"print([m for m in {optional} if m in sys.modules])"
    )
    assert loaded == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_a_front_end_imports_its_own_host_alone(host):
    others = tuple(set(HOSTS) - {host})
    loaded = in_a_fresh_interpreter(f"import sys, cam_extras.{host}; print([m for m in {others} if m in sys.modules])")
    # Quantus imports Captum itself where it is installed.
    assert loaded == ("['captum']" if host == "quantus" else "[]")


PLAIN = {"_text", "_names", "_options", "_deprecated"}  # text, names and values alone: for everybody, and without torch
LAYERS = {
    "_text": set(),
    "_names": set(),
    "_code": set(),
    "_listing": set(),
    "_catalogue": {"_listing"},
    "_checks": set(),
    "_guards": set(),
    "_batching": set(),
    "_inputs": set(),
    "_outputs": set(),
    "_attention": {"_guards", "_inputs", "_outputs", "probe"},
    "utilities": {"_checks"},
    "targets": {"_checks", "utilities", "metrics"},
    "_axes": set(),
    "probe": {"_axes", "_checks", "_guards", "_inputs", "_outputs", "utilities"},
    "maps": {"_checks"},
    "methods": {
        *("_attention", "_batching", "_checks", "_code", "maps", "methods", "probe", "pytorch_grad_cam", "utilities"),
    },
    "metrics": {"_checks", "_batching", "_code", "_outputs", "utilities", "maps", "metrics"},
    "fusion": {"_checks", "maps", "methods", "probe"},
    "evaluation": {
        "_checks",
        "fusion",
        "_inputs",
        "_outputs",
        "layers",
        "utilities",
        "probe",
        "maps",
        "methods",
        "metrics",
        "evaluation",
    },
    "runs": {
        "_checks",
        "_outputs",
        "_batching",
        "_code",
        "_catalogue",
        "probe",
        "methods",
        "metrics",
        "evaluation",
        "runs",
        "targets",
    },
    "report": {"_checks", "_listing", "runs", "methods", "metrics", "report"},
    "layers": {"_axes", "_checks", "_outputs", "probe"},
    "_hugging_face": set(),
    "models": {"_checks", "_code", "_hugging_face"},
    "callbacks": {"_checks", "_outputs", "callbacks", "layers", "methods", "models", "probe", "report", "utilities"},
    "_options": set(),
    "_deprecated": set(),
    "_host_classes": {"methods"},
    "run": {
        "_checks",
        "_outputs",
        "utilities",
        "runs",
        "layers",
        "methods",
        "metrics",
        "models",
        "probe",
        "report",
    },
    "demo": {"_checks", "demo"},
    "cli": {"_catalogue", "_listing", "demo", "runs", "commands"},
    "commands": {"_code", "demo", "methods", "metrics", "models", "report", "run", "runs"},
}


@pytest.mark.parametrize("part", LAYERS)
def test_arrows_point_one_way(part):
    paths = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else (PACKAGE / part).rglob("*.py")
    imported = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cam_extras."):
                imported.add(node.module.split(".")[1])
    assert imported - PLAIN <= LAYERS[part]


def test_no_assert_and_no_print_outside_the_command_line():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Assert), path
            is_print = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            assert not is_print, path


def test_every_name_of_pytorch_grad_cam_is_ours_too():
    import pytorch_grad_cam

    import cam_extras.pytorch_grad_cam as front_end

    theirs = {
        name
        for name, value in vars(pytorch_grad_cam).items()
        if callable(value) and value.__module__.startswith("pytorch_grad_cam")
    }
    assert len(theirs) > 20
    assert theirs <= set(cam_extras.__all__)
    for name in theirs:
        value = getattr(cam_extras, name)
        assert getattr(front_end, name) is value
        own = issubclass(value, front_end.MethodCAM) if isinstance(value, type) else False
        assert own == (name in METHODS)
        assert own or value is getattr(pytorch_grad_cam, name)
    with pytest.raises(AttributeError, match="no attribute 'utils'"):
        front_end.utils  # noqa: B018
    told = in_a_fresh_interpreter(
        "from cam_extras import GradCAM, KPCA_CAM; print(GradCAM.__module__, KPCA_CAM.__module__)"
    )
    assert told == "cam_extras.pytorch_grad_cam pytorch_grad_cam.kpca_cam"


def test_public_names_are_lazy_and_listed():
    assert set(dir(cam_extras)) == set(cam_extras.__all__)
    assert all(hasattr(cam_extras, name) for name in cam_extras.__all__)
    with pytest.raises(AttributeError, match="no attribute 'GradCam'"):
        cam_extras.GradCam  # noqa: B018


def test_one_version_everywhere():
    version = cam_extras.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == version
    assert metadata.version("cam_extras") == version


def test_demo_weights_are_small():
    assert (PACKAGE / "demo" / "classifier.safetensors").stat().st_size <= 300_000
