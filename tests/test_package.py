"""The package as a whole: what importing it costs, who may import whom, and whether the README tells the truth."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cam_extras

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


@pytest.mark.parametrize(
    "module", ["methods", "metrics", "probe", "maps", "scores", "evaluation", "report", "run", "cli"]
)
def test_only_the_front_ends_import_a_host(module):
    loaded = in_a_fresh_interpreter(f"import sys, cam_extras.{module}; print([m for m in {HOSTS} if m in sys.modules])")
    assert loaded == "[]"


@pytest.mark.parametrize("host", HOSTS)
def test_a_front_end_imports_its_own_host_alone(host):
    others = tuple(set(HOSTS) - {host})
    loaded = in_a_fresh_interpreter(f"import sys, cam_extras.{host}; print([m for m in {others} if m in sys.modules])")
    # Quantus imports Captum itself where it is installed.
    assert loaded == ("['captum']" if host == "quantus" else "[]")


LAYERS = {
    "_checks": set(),
    "batches": set(),
    "scores": {"_checks"},
    "probe": {"_checks", "scores"},
    "maps": {"_checks"},
    "methods": {"_checks", "batches", "scores", "probe", "maps", "methods"},
    "metrics": {"_checks", "batches", "scores", "maps", "metrics"},
    "configuration": {"_checks", "methods", "metrics"},
    "evaluation": {
        *("_checks", "batches", "scores", "probe", "maps", "methods", "metrics", "configuration", "images"),
        "evaluation",
    },
    "report": {"_checks", "evaluation", "methods", "metrics", "report"},
    "models": {"_checks", "probe"},
    "images": set(),
    "run": {"_checks", "configuration", "evaluation", "methods", "metrics", "models", "probe", "report"},
    "settings": {"_checks", "configuration", "metrics", "run"},
    "demo": {"_checks", "demo"},
}


@pytest.mark.parametrize("part", LAYERS)
def test_arrows_point_one_way(part):
    paths = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else (PACKAGE / part).glob("*.py")
    imported = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cam_extras."):
                imported.add(node.module.split(".")[1])
    assert imported <= LAYERS[part]


def test_no_assert_and_no_print_outside_the_command_line():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Assert), path
            is_print = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            assert not is_print, path


def test_public_names_are_lazy_and_listed():
    assert set(dir(cam_extras)) == set(cam_extras.__all__)
    with pytest.raises(AttributeError, match="no attribute 'GradCam'"):
        cam_extras.GradCam  # noqa: B018


def test_demo_weights_are_small():
    assert (PACKAGE / "demo" / "classifier.safetensors").stat().st_size <= 300_000


def test_readme_examples_run(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        subprocess.run([sys.executable, "-c", block], check=True, cwd=tmp_path)


@pytest.mark.parametrize("page", ["metrics.md", "quantus.md"])
def test_documentation_runs(page, tmp_path):
    """The blocks of a page belong together."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)
    environment = os.environ | {"MPLBACKEND": "agg"}
    subprocess.run([sys.executable, "-c", "\n".join(blocks)], check=True, cwd=tmp_path, env=environment)


def test_the_guide_to_evaluation_runs(tmp_path):
    """Its blocks, of Python and of the shell, one after the other."""
    text = (ROOT / "docs" / "evaluate.md").read_text()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    blocks = re.findall(r"```(python|sh)\n(.*?)```", text, flags=re.DOTALL)
    assert {"sh", "python"} == {language for language, _ in blocks}
    for language, block in blocks:
        command = [sys.executable, "-c"] if language == "python" else ["bash", "-euc"]
        subprocess.run([*command, block], check=True, cwd=tmp_path, env=os.environ | {"PATH": path})
    assert (tmp_path / "comparison.html").exists()
    told = {path.name for path in (tmp_path / "runs" / "first").iterdir()} - {".lock"}
    assert told == set(re.findall(r"`([\w.]+)/?`", "".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)))) & told


def test_documentation_names_every_metric_and_its_options():
    from cam_extras.metrics import METRICS, options_of

    text = (ROOT / "docs" / "metrics.md").read_text()
    above: list[str] = []
    for name in METRICS:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        cell = row.split("|")[4]
        above = above if cell == " the same " else re.findall(r"`(\w+)`", cell)
        assert above == options_of(name)


def test_readme_names_every_method_and_metric():
    from cam_extras.methods import METHODS
    from cam_extras.metrics import METRICS

    text = (ROOT / "README.md").read_text()
    for name in METHODS:
        assert f"`{name}`" in text
    for name in METRICS:
        assert f"`{name}`" in text


@pytest.mark.parametrize("example", ["three_hosts.py"])
def test_examples_run(example, tmp_path):
    subprocess.run([sys.executable, ROOT / "examples" / example], check=True, cwd=tmp_path, capture_output=True)
