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
from cam_extras.methods import METHODS

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


@pytest.mark.slow
def test_only_the_front_ends_import_a_host():
    modules = ["methods", "metrics", "probe", "maps", "scores", "evaluation", "runs", "report", "run", "cli"]
    loaded = in_a_fresh_interpreter(
        "import sys\nfrom importlib import import_module\n"
        f"for module in {modules}:\n"
        "    import_module(f'cam_extras.{module}')\n"
        f"    print(*[(module, host) for host in {HOSTS} if host in sys.modules], end='')"
    )
    assert loaded == ""


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_a_front_end_imports_its_own_host_alone(host):
    others = tuple(set(HOSTS) - {host})
    loaded = in_a_fresh_interpreter(f"import sys, cam_extras.{host}; print([m for m in {others} if m in sys.modules])")
    # Quantus imports Captum itself where it is installed.
    assert loaded == ("['captum']" if host == "quantus" else "[]")


LAYERS = {  # and `_text`, which is of text alone
    "_text": set(),
    "_checks": set(),
    "_guards": set(),
    "_batching": set(),
    "scores": {"_checks"},
    "probe": {"_checks", "_guards", "scores"},
    "maps": {"_checks"},
    "methods": {"_checks", "_batching", "scores", "probe", "maps", "methods"},
    "metrics": {"_checks", "_options", "_batching", "scores", "maps", "metrics"},
    "configuration": {"_checks", "methods", "metrics", "pytorch_grad_cam"},
    "evaluation": {"_checks", "scores", "probe", "maps", "methods", "metrics", "evaluation"},
    "runs": {"_checks", "_batching", "configuration", "probe", "methods", "metrics", "evaluation", "runs"},
    "report": {"_checks", "runs", "methods", "metrics", "report"},
    "layers": {"_checks", "probe"},
    "models": {"_checks", "layers", "probe"},
    "_options": set(),
    "run": {"_checks", "configuration", "runs", "layers", "methods", "metrics", "models", "probe", "report"},
    "settings": {"_checks", "configuration", "metrics", "run"},
    "demo": {"_checks", "demo"},
}


@pytest.mark.parametrize("part", LAYERS)
def test_arrows_point_one_way(part):
    paths = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else (PACKAGE / part).rglob("*.py")
    imported = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cam_extras."):
                imported.add(node.module.split(".")[1])
    assert imported - {"_text"} <= LAYERS[part]


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
        "from cam_extras import GradCAM, ScoreCAM; print(GradCAM.__module__, ScoreCAM.__module__)"
    )
    assert told == "cam_extras.pytorch_grad_cam pytorch_grad_cam.score_cam"


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
