"""The stub of cam_extras/quantus/__init__.py: the classes of the metrics, for type checkers and editors.

The classes themselves are made from `cam_extras.metrics.METRICS` when the package is imported.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import cam_extras.quantus as front_end

STUB = Path(front_end.__file__).with_suffix(".pyi")
_HEAD = '''\
"""{doc}"""

# Written by tools/generate.py: run that after a change of a metric's options, title or docstring.

{imports}

METHODS: dict[str, type]
'''
_FROM = {
    "_classes": ("METRIC_CLASSES", "register", "unregister", "win_percentage"),
    "_explain": ("QUANTUS_ARGUMENTS", "Explainer", "UpstreamExplainer", "explain"),
    "_metric": ("MapMetric",),
}
_LONG = 60


def text_of_stub() -> str:
    """Return what the file is to hold."""
    places: set[tuple[str, str]] = set()
    classes = "".join(_class(cls, places) for cls in front_end.METRIC_CLASSES)
    sections: dict[int, list[str]] = {0: [], 1: [], 2: []}  # the standard library's, others' and ours
    for module in sorted({module for module, _ in places}):
        names = sorted(name for other, name in places if other == module)
        section = 2 if module.startswith("cam_extras") else int(module.partition(".")[0] not in sys.stdlib_module_names)
        sections[section].append(f"from {module} import {', '.join(names)}")
    sections[2] += [
        f"from cam_extras.quantus.{module} import {name} as {name}" for module, names in _FROM.items() for name in names
    ]
    imports = "\n\n".join("\n".join(lines) for lines in sections.values())
    return _HEAD.format(doc=(front_end.__doc__ or "").rstrip() + "\n", imports=imports) + classes


def _class(cls: type, places: set[tuple[str, str]]) -> str:
    parameters = "".join(f"        {line},\n" for line in _parameters(cls, places))
    head = f'class {cls.__name__}(MapMetric):\n    """{cls.__doc__}"""\n'
    return f"\n{head}\n    def __init__(\n{parameters}    ) -> None: ...\n"


def _quoted(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _parameters(cls: type, places: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the parameters of a class as source, and note where what they are annotated with is to be had."""
    keyword_only = False
    for parameter in signature(cls.__init__).parameters.values():  # type: ignore[misc]
        if parameter.kind == Parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            yield "*"
        if parameter.annotation is Parameter.empty:
            yield parameter.name
            continue
        annotation = parameter.annotation
        if isinstance(annotation, str):
            known = {"Any": "typing", "Callable": "collections.abc", "np": ""}
            places |= {(module, name) for name, module in known.items() if module and name in annotation}
            annotation = annotation.replace("np.ndarray", "ndarray")
            places |= {("numpy", "ndarray")} if "ndarray" in annotation else set()
        default = _quoted(parameter.default)
        yield f"{parameter.name}: {spelt(annotation, places)} = {default if len(default) <= _LONG else '...'}"


def spelt(annotation: Any, places: set[tuple[str, str]]) -> str:
    """Return an annotation as source, and note where its names are to be had.

    >>> spelt(int | None, set())
    'int | None'
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, str):
        return annotation
    if origin in (Union, types.UnionType):
        return " | ".join(spelt(part, places) for part in parts)
    if annotation is type(None):
        return "None"
    if origin is Literal:
        places.add(("typing", "Literal"))
        return f"Literal[{', '.join(map(_quoted, parts))}]"
    kind = origin or annotation
    if kind.__module__ != "builtins":
        places.add((kind.__module__, kind.__qualname__))
    return kind.__qualname__ + (f"[{', '.join(spelt(part, places) for part in parts)}]" if parts else "")
