"""The documentation: its code runs, its links lead somewhere, and it names what there is."""

from __future__ import annotations

import multiprocessing
import os
import pydoc
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import matplotlib
import numpy as np
import pytest
import torch
import yaml

import cam_extras
from cam_extras import captum, evaluation, methods, metrics, pytorch_grad_cam, quantus, report
from cam_extras.metrics import METRICS, options_of
from cam_extras.runs.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = "README.md"
PAGES = [README, *sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))]
RUN = ("python", "sh")
NOT_RUN = ("text", "console")  # what is printed, and commands that need a download, a cluster or data of one's own


class Block(NamedTuple):
    """A fenced block of a page: the line of its fence, its language and what it holds."""

    line: int
    language: str
    code: str


def read(page: str) -> tuple[list[Block], list[str]]:
    """Return the blocks of a page, and its lines with those of the blocks empty."""
    blocks, prose, opened = [], [], None
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        fence = re.match(r" *(```+|~~~+) *(\S*)", line)
        if fence and opened is None:
            opened = number, fence[2]
        elif fence:
            first, language = opened
            blocks.append(Block(first, language, "\n".join(lines[first : number - 1]) + "\n"))
            opened = None
        prose.append("" if fence or opened else line)
    assert opened is None, f"{page}:{opened[0]} is not closed"
    return blocks, prose


def count(languages: tuple[str, ...]) -> dict[str, int]:
    counts = {page: sum(block.language in languages for block in read(page)[0]) for page in PAGES}
    return {page: blocks for page, blocks in counts.items() if blocks}


# Imported once, by the process that those of the pages are forked from: it takes longer than most of the pages.
SHARED_IMPORTS = ["torchvision", "matplotlib.pyplot", "cam_extras.captum", "cam_extras.quantus", "cam_extras.run"]


def run_blocks(blocks: list[Block], page: str, folder: Path, log: Path) -> None:
    """Run a page's blocks in this process; the README's stand alone, those of a page belong together."""
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.chdir(folder)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    # Pages use untrained models; one in a hundred of those has maps of 0 everywhere, which Quantus refuses.
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  pages use it, as Quantus does
    matplotlib.use("agg")
    names = {"__name__": "__main__"}
    for line, language, code in blocks:
        if language == "sh":
            subprocess.run(["bash", "-euc", code], check=True)
            continue
        names = {"__name__": "__main__"} if page == README else names
        exec(compile("\n" * line + code, page, "exec"), names)  # with the page's own lines in tracebacks


def run_page(page: str, folder: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(SHARED_IMPORTS)
    empty, log = folder / "empty", folder / "log.txt"
    empty.mkdir()
    blocks = [block for block in read(page)[0] if block.language in RUN]
    process = context.Process(target=run_blocks, args=(blocks, page, empty, log))
    process.start()
    process.join()
    assert process.exitcode == 0, log.read_text()


SLOW = ("README.md", "docs/evaluate.md", "docs/faq.md", "docs/metrics.md", "docs/pytorch_grad_cam.md", "docs/tour.md")


@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW)) for page in count(RUN)])
def test_blocks_run(page, tmp_path):
    run_page(page, tmp_path)
    if page == "docs/evaluate.md":
        assert (tmp_path / "empty" / "comparison.html").exists()
        told = {path.name for path in (tmp_path / "empty" / "runs" / "first").iterdir()} - {".lock"}
        table = "".join(re.findall(r"^\| (`.*?) \|", (ROOT / page).read_text(), re.MULTILINE))
        assert told <= set(re.findall(r"`([\w.]+)/?`", table))


@pytest.mark.parametrize(
    ("block", "told"), [("python\nx = 1\nx / 0", '"page.md", line 5'), ("sh\nfalse\ntrue", "non-zero exit status 1")]
)
def test_a_block_that_fails_is_noticed(block, told, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "page.md").write_text(f"Text\n\n```{block}\n```\n")
    with pytest.raises(AssertionError, match=told):
        run_page("page.md", tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_say_what_they_are(page):
    for line, language, code in read(page)[0]:
        assert language in (*RUN, *NOT_RUN, "yaml"), f"{page}:{line}"
        if language == "yaml":
            settings = yaml.safe_load(code)
            assert set(settings) <= set(RunConfig(model=None, data=None).kept()), (
                f"{page}:{line} is no configuration of a run"
            )


def test_what_is_not_run():
    """A block that could run should; what cannot is counted here."""
    assert count(NOT_RUN) == {
        "docs/adding_a_method.md": 1,
        "docs/detection.md": 1,
        "docs/evidence.md": 1,
        "docs/index.md": 1,
        "docs/model_sources.md": 6,
        "docs/performance.md": 1,
        "docs/ray.md": 2,
        "docs/tour.md": 1,
        "docs/training.md": 3,
    }


def nav_entries(entries) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [page for value in values for page in nav_entries(value)]


def test_every_page_is_in_the_navigation_once():
    entries = nav_entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(entries) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def anchors(page: str) -> set[str]:
    """Return the headings of a page that have the same anchor on GitHub and on the site."""
    found = set()
    for line in read(page)[1]:
        if heading := re.match(r"#+ +(.*)", line):
            text = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading[1]).strip().lower()
            on_github = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
            on_the_site = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip())
            found |= {on_github} & {on_the_site}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = "\n".join(re.sub(r"`[^`]*`", "", line) for line in read(page)[1])
    for target in re.findall(r"\]\(([^)\s]*)[^)]*\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.is_file(), f"{page}: {target}"
        if page != README:
            assert file.resolve().is_relative_to(DOCS), f"{page}: {target} is not on the site"
        if anchor:
            assert anchor in anchors(file.resolve().relative_to(ROOT).as_posix()), f"{page}: {target}"


def test_api_names_every_public_name():
    text = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    shown = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert len(shown) == len(set(shown))
    for name in shown:
        assert pydoc.locate(name) is not None, name
    public = {
        f"{module.__name__}.{name}" for module in (methods, metrics, evaluation, report) for name in module.__all__
    }
    constants = {name for name in public if name.rpartition(".")[2].isupper() and not name.endswith("CAM")}
    public |= {f"cam_extras.pytorch_grad_cam.{name}" for name in cam_extras.__all__ if name in methods.METHODS}
    public |= {
        f"{captum.__name__}.{name}"
        for name, value in vars(captum).items()
        if isinstance(value, type) and issubclass(value, captum.MethodAttribution)
    }
    public |= {f"{quantus.__name__}.{cls.__name__}" for cls in (*quantus.METRIC_CLASSES, quantus.MapMetric)}
    public |= {"cam_extras.run.evaluate", f"{pytorch_grad_cam.__name__}.MethodCAM", f"{quantus.__name__}.explain"}
    modules = [name for name in shown if isinstance(pydoc.locate(name), ModuleType)]  # with all that is theirs
    there = {name for name in public - constants if pydoc.locate(name).__module__.startswith(tuple(modules))}
    assert public - constants - there <= set(shown)
    for name in constants:
        assert f"`{name.rpartition('.')[2]}`" in text


def test_options_are_those_of_the_metrics():
    text = (DOCS / "metrics.md").read_text()
    above: list[str] = []
    table = text[text.index("| metric | made of |") :].partition("\n\n")[0]
    named = []
    for row in table.splitlines()[2:]:
        _, name, _, _, options, _ = (cell.strip() for cell in row.split("|"))
        above = above if options == "the same" else re.findall(r"`(\w+)`", options)
        assert above == options_of(name.strip("`"))
        named.append(name.strip("`"))
    assert set(named) <= set(METRICS)


def test_readme_names_every_method():
    text = (ROOT / README).read_text()
    for name in methods.METHODS:
        assert f"`{name}`" in text


def test_readme_lists_the_metrics():
    """Its table and METRICS are the same list."""
    text = (ROOT / README).read_text()
    table = text[text.index("| function in `cam_extras.metrics` |") :].partition("\n\n")[0]
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    expected = {
        name: (name if metric.of_methods else metric.class_name, "higher" if metric.higher_is_better else "lower")
        for name, metric in METRICS.items()
    }
    assert {function: (in_quantus, better) for function, in_quantus, _, better in rows} == expected
    assert len(rows) == len(METRICS)
