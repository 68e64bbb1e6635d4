"""Stubs of the classes that are made at import, for type checkers, IDEs and the API pages."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytorch_grad_cam

import cam_extras.captum
import cam_extras.pytorch_grad_cam
from cam_extras.methods import METHODS

PACKAGE = Path(__file__).resolve().parent.parent / "cam_extras"
HEAD = '"""{doc}"""\n\n# Written by tools/generate.py: edit the methods, and run it again.\n\n'
_PUBLIC = {"torch._C": "torch", "torch.nn.modules.module": "torch.nn"}

Places = set[tuple[str, str]]
"""Where names are found: modules and what is imported from them."""


def spelt(annotation: Any, places: Places) -> str:
    """Return an annotation as source, and note the imports it needs.

    >>> spelt(int | None, set())
    'int | None'
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, str):
        return annotation
    if annotation is ...:
        return "..."
    if origin in (Union, types.UnionType):
        return " | ".join(spelt(part, places) for part in parts)
    if annotation is type(None):
        return "None"
    if isinstance(annotation, list):
        return f"[{', '.join(spelt(part, places) for part in annotation)}]"
    if origin is Literal:
        places.add(("typing", "Literal"))
        return f"Literal[{', '.join(map(quoted, parts))}]"
    kind = origin or annotation
    name = getattr(kind, "__qualname__", str(kind).rpartition(".")[2])
    if kind.__module__ != "builtins":
        places.add((_PUBLIC.get(kind.__module__, kind.__module__), name))
    return name + (f"[{', '.join(spelt(part, places) for part in parts)}]" if parts else "")


def quoted(value: Any) -> str:
    """Return a value as source, with quotes as ruff writes them."""
    return json.dumps(value) if isinstance(value, str) else repr(value)


def import_lines(places: Places) -> str:
    """Return the noted imports as source."""
    return "".join(f"from {module} import {name}\n" for module, name in sorted(places))


def parameters(function: Callable[..., Any], places: Places) -> str:
    """Write the parameters of a function with types and defaults, after `self`."""
    written, starred = ["self"], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            written, starred = [*written, "*"], True
        default = "" if parameter.default is parameter.empty else f" = {quoted(parameter.default)}"
        written.append(f"{parameter.name}: {spelt(parameter.annotation, places)}{default}")
    return ", ".join(written)


def class_stub(cls: type, base: str, places: Places) -> str:
    """Write the stub of a class that differs from its base only in its options."""
    presets = "".join(f"{name}: ClassVar[dict[str, Any]]\n" for name in vars(cls) if name.isupper())
    doc = textwrap.indent(inspect.cleandoc(cls.__doc__ or ""), "    ", lambda line: bool(line.strip()))
    return (
        f"class {cls.__name__}({base}):\n"
        f'    r"""{doc.strip()}\n    """\n'
        f"    method_type: ClassVar[type[methods.{cls.method_type.__name__}]]\n"
        f"{textwrap.indent(presets, '    ')}"
        f"    def __init__({parameters(cls, places)}) -> None: ...\n"
    )


def host_stub(module: Any, base: type, name_of: Callable[[str], str], imports: str) -> str:
    """Write the stub of a host's module: its classes, and what else it has."""
    doc = f"{module.__doc__.strip()}\n"
    places: Places = {("typing", "Any"), ("typing", "ClassVar"), ("cam_extras", "methods")}
    classes = [class_stub(getattr(module, name_of(name)), base.__name__, places) for name in METHODS]
    return HEAD.format(doc=doc) + import_lines(places) + imports + "\n" + "\n".join(classes)


def stubs() -> dict[Path, str]:
    """Return what each file should hold."""
    pgc, captum = cam_extras.pytorch_grad_cam, cam_extras.captum
    theirs = [name for name in cam_extras.__all__ if hasattr(pytorch_grad_cam, name) and name not in METHODS]
    of_pgc = "".join(f"from pytorch_grad_cam import {name} as {name}\n" for name in theirs) + (
        "from cam_extras.pytorch_grad_cam._host import MethodCAM as MethodCAM\n"
        "from cam_extras.pytorch_grad_cam.upstream import UPSTREAM as UPSTREAM\n"
        "from cam_extras.pytorch_grad_cam.upstream import Upstream as Upstream\n"
        "from cam_extras.pytorch_grad_cam.upstream import check_upstream as check_upstream\n"
        "from cam_extras.pytorch_grad_cam.upstream import upstream_maps as upstream_maps\n"
    )
    of_captum = (
        "from cam_extras.captum._host import MethodAttribution as MethodAttribution\n"
        "\ndef class_name(method: str) -> str: ...\n"
    )
    of_package = "".join(f"from cam_extras.pytorch_grad_cam import {name} as {name}\n" for name in [*METHODS, *theirs])
    package = (
        HEAD.format(doc=f"{(cam_extras.__doc__ or '').strip()}\n")
        + of_package
        + "from cam_extras.run import evaluate as evaluate\n"
        "\n__version__: str\n"
    )
    return {
        PACKAGE / "__init__.pyi": formatted(package),
        PACKAGE / "pytorch_grad_cam" / "__init__.pyi": formatted(host_stub(pgc, pgc.MethodCAM, str, of_pgc)),
        PACKAGE / "captum" / "__init__.pyi": formatted(
            host_stub(captum, captum.MethodAttribution, captum.class_name, of_captum)
        ),
    }


def formatted(text: str) -> str:
    """Return source code formatted by ruff, with imports sorted and unused ones removed."""
    for command in (["check", "--fix-only", "--quiet", "--select", "I,F401"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(PACKAGE / "stub.pyi"), "-"]
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    return text
