"""Stubs of the classes that are made when the package runs, for type checkers, IDEs and the API pages."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytorch_grad_cam
import torch
from torch import nn

import cam_extras.captum
import cam_extras.pytorch_grad_cam
from cam_extras.layers import AnyLayer
from cam_extras.methods import METHODS

PACKAGE = Path(__file__).resolve().parent.parent / "cam_extras"
HEAD = '"""{doc}"""\n\n# Written by tools/generate.py: edit the methods, and run it again.\n\n'
IMPORTS = """
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Generator, Tensor, nn

from cam_extras import methods
from cam_extras.layers import AnyLayer
"""
_NAMES = {
    AnyLayer: "AnyLayer",
    torch.Tensor: "Tensor",
    torch.Generator: "Generator",
    nn.Module: "nn.Module",
    type(None): "None",
    Any: "Any",
    ...: "...",
}


def spell(annotation: Any) -> str:
    """Write an annotation as source code."""
    for known, name in _NAMES.items():
        if annotation is known or annotation == known:
            return name
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " | ".join(map(spell, parts))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, parts))}]"
    if origin is Callable:
        arguments = "..." if parts[0] is ... else f"[{', '.join(map(spell, parts[0]))}]"
        return f"Callable[{arguments}, {spell(parts[1])}]"
    if origin in (Mapping, Sequence, dict, list, tuple):
        return f"{origin.__name__}[{', '.join(map(spell, parts))}]"
    return annotation.__name__


def parameters(function: Callable[..., Any]) -> str:
    """Write the parameters of a function with types and defaults, after `self`."""
    written, starred = ["self"], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            written, starred = [*written, "*"], True
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        written.append(f"{parameter.name}: {spell(parameter.annotation)}{default}")
    return ", ".join(written)


def class_stub(cls: type, base: str) -> str:
    """Write the stub of a class that differs from its base in its options alone."""
    presets = "".join(f"{name}: ClassVar[dict[str, Any]]\n" for name in vars(cls) if name.isupper())
    doc = textwrap.indent(inspect.cleandoc(cls.__doc__ or ""), "    ", lambda line: bool(line.strip()))
    return (
        f"class {cls.__name__}({base}):\n"
        f'    r"""{doc.strip()}\n    """\n'
        f"    method_type: ClassVar[type[methods.{cls.method_type.__name__}]]\n"
        f"{textwrap.indent(presets, '    ')}"
        f"    def __init__({parameters(cls)}) -> None: ...\n"
    )


def host_stub(module: Any, base: type, name_of: Callable[[str], str], imports: str) -> str:
    """Write the stub of a host's module: its classes, and what it has besides."""
    doc = f"{module.__doc__.strip()}\n"
    classes = [class_stub(getattr(module, name_of(name)), base.__name__) for name in METHODS]
    return HEAD.format(doc=doc) + IMPORTS + imports + "\n" + "\n".join(classes)


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
    """Return source code as ruff formats it, imports in order and without those that are not used."""
    for command in (["check", "--fix-only", "--quiet", "--select", "I,F401"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(PACKAGE / "stub.pyi"), "-"]
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    return text
