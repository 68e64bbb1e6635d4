"""The stub of cam_extras/quantus/__init__.py: the classes of the metrics, for type checkers and editors.

The classes themselves are made from `cam_extras.metrics.METRICS` when the package is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import Parameter, signature
from pathlib import Path

from stubs import import_lines, quoted, spelt

import cam_extras.quantus as front_end

STUB = Path(front_end.__file__).with_suffix(".pyi")
_HEAD = '''\
"""{doc}"""

# Written by tools/generate.py: run that after changing a metric's options, title or docstring.

{imports}

METHODS: dict[str, type]
'''
_FROM = {
    "_classes": ("METRIC_CLASSES", "register", "unregister", "win_percentage"),
    "_explain": ("QUANTUS_ARGUMENTS", "Explainer", "UpstreamExplainer", "explain"),
    "_metric": ("MapMetric",),
}
_NAMED = {
    "Any": "typing",
    "AnyConfidence": "cam_extras.metrics.probabilities",
    "Callable": "collections.abc",
    "Output": "cam_extras._outputs",
}
_LONG = 60


def text_of_stub() -> str:
    """Return what the file should hold."""
    places: set[tuple[str, str]] = set()
    classes = "".join(_class(cls, places) for cls in front_end.METRIC_CLASSES)
    own = [
        f"from cam_extras.quantus.{module} import {name} as {name}\n"
        for module, names in _FROM.items()
        for name in names
    ]
    imports = import_lines(places) + "".join(own)
    return _HEAD.format(doc=(front_end.__doc__ or "").rstrip() + "\n", imports=imports) + classes


def _class(cls: type, places: set[tuple[str, str]]) -> str:
    parameters = "".join(f"        {line},\n" for line in _parameters(cls, places))
    head = f'class {cls.__name__}(MapMetric):\n    """{cls.__doc__}"""\n'
    return f"\n{head}\n    def __init__(\n{parameters}    ) -> None: ...\n"


def _parameters(cls: type, places: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the parameters of a class as source, and note the imports that their annotations need."""
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
            places |= {(module, name) for name, module in _NAMED.items() if name in re.findall(r"\w+", annotation)}
            annotation = annotation.replace("np.ndarray", "ndarray")
            places |= {("numpy", "ndarray")} if "ndarray" in annotation else set()
        default = quoted(parameter.default)
        yield f"{parameter.name}: {spelt(annotation, places)} = {default if len(default) <= _LONG else '...'}"
