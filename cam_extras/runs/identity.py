"""Fingerprints of what a run works with: the same in every process for the same things, different otherwise."""

from __future__ import annotations

import copyreg
import functools
import hashlib
import inspect
import logging
import os
import re
import site
import sys
import sysconfig
import threading
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cam_extras.methods import Method

VERSION = 1  # of what fingerprints cover, and how: fingerprints of different versions cannot be compared
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
# These say nothing about results: only their presence counts.
_MUTE = (type(threading.Lock()), type(threading.RLock()), threading.local, logging.Logger, logging.Handler, weakref.ref)
_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_OF_METACLASSES = ("_abc_impl", "_backward_cls")  # put into classes by metaclasses: caches and counters
_MANY = 8  # reasons shown at most


def identify(things: Mapping[str, Any]) -> dict[str, Any]:
    """Return fingerprints of things by name, in JSON types.

    They cover values, attributes of objects, and the code of functions and classes with their defaults, closures and
    the globals they name; for models, the modules' types, settings, code and tensors. Installed code, Python's own
    library and this package count by name only: their versions are noted elsewhere. Modules imported inside a function
    are not followed. Memory addresses, the order of sets and `hash` play no part.

    Returns:
        `version`, of what is covered; `python`, whose bytecode was read, None if none was; `sha256`, by name;
        `unknown`, what could not be identified, and why.
    """
    unknown: list[str] = []
    digests, code = {}, False
    for name, thing in things.items():
        walk = _Walk(name)
        digests[name] = walk.digest(thing).hex()[:16]
        unknown += walk.unknown
        code |= walk.code
    if len(unknown) > _MANY:
        unknown[_MANY:] = [f"and {len(unknown) - _MANY} more"]
    return {
        "version": VERSION,
        "python": sys.implementation.cache_tag if code else None,
        "sha256": digests,
        "unknown": unknown,
    }


def describe(value: Any) -> Any:
    """Return what identifies a value, in JSON types: fields of dataclasses, hashes of tensors, names of code."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Method):
        return {"method": type(value).__name__, **_fields(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, Mapping):
        return {str(name): describe(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    if isinstance(value, Tensor):
        values = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()  # NumPy has no bfloat16
        return f"{value.dtype} {tuple(value.shape)} sha256 {hashlib.sha256(values.tobytes()).hexdigest()[:16]}"
    if isinstance(value, partial):
        return {"call": describe(value.func), "arguments": describe([*value.args]), "options": describe(value.keywords)}
    if not isinstance(value, nn.Module) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return _ADDRESS.sub("", repr(value))


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: describe(getattr(value, field.name)) for field in fields(value) if field.init}


_DEEPEST = 100  # about six calls each, of the thousand that Python allows


class Contents:
    """A thing whose fingerprint is made from many others, each read and released in turn.

    Args:
        facts: the things; may be made lazily.
        unknown: why they cannot be identified; None if they can.
    """

    def __init__(self, facts: Iterable[Any] = (), unknown: str | None = None):
        self.facts, self.unknown = facts, unknown


class _Walk:
    """One walk through everything that can be reached from a thing. A digest is made from those of its parts."""

    def __init__(self, name: str):
        self.unknown: list[str] = []
        self.code = False
        self._path = [name]
        self._known: dict[int, bytes] = {}
        self._kept: list[Any] = []  # so that no other thing gets the same id
        self._open: dict[int, int] = {}  # things being read, and their depth

    def digest(self, thing: Any) -> bytes:
        """Return the digest of a thing."""
        if type(thing) in _ATOMS:
            return _sha(type(thing).__name__, repr(thing))
        if isinstance(thing, Contents):
            return self._contents(thing)
        key = id(thing)
        if key in self._open:  # relative, as the path to here is not part of the thing
            return _sha("above", str(len(self._open) - self._open[key]))
        if key not in self._known:
            self._open[key] = len(self._open)
            try:
                deep = len(self._open) > _DEEPEST
                found = self._cannot_tell("it is nested too deeply") if deep else self._look(thing)
            finally:
                del self._open[key]
            self._known[key] = found
            self._kept.append(thing)
        return self._known[key]

    def _at(self, name: str, thing: Any) -> bytes:
        self._path.append(name)
        try:
            return self.digest(thing)
        finally:
            self._path.pop()

    def _all(self, kind: str, things: Iterable[tuple[str, Any]]) -> bytes:
        return _sha(kind, *(part for name, thing in things for part in (name, self._at(name, thing))))

    def _cannot_tell(self, why: str) -> bytes:
        self.unknown.append(f"{'.'.join(self._path)}: {why}")
        return _sha("unknown")

    def _contents(self, contents: Contents) -> bytes:
        if contents.unknown is not None:
            return self._cannot_tell(contents.unknown)
        digest = hashlib.sha256()
        for number, fact in enumerate(contents.facts):
            item = _Walk(f"{'.'.join(self._path)}[{number}]")  # a separate walk, so that what it keeps is released
            digest.update(item.digest(fact))
            self.unknown += item.unknown
            self.code |= item.code
        return digest.digest()

    def _look(self, thing: Any) -> bytes:
        kind = type(thing)
        if kind in (list, tuple):
            return self._all(kind.__name__, ((str(number), part) for number, part in enumerate(thing)))
        if kind in (dict, types.MappingProxyType):
            pairs = [(self.digest(key), str(key)[:40], value) for key, value in thing.items()]
            return _sha("dict", *(part for key, name, value in pairs for part in (key, self._at(name, value))))
        if kind in (set, frozenset):
            return _sha("set", *sorted(self.digest(part) for part in thing))
        if isinstance(thing, _MUTE):
            return _sha("mute", _name(kind))
        if isinstance(thing, Enum):
            return self._all(f"enum {_name(kind)} {thing.name}", [("value", thing.value)])
        if isinstance(thing, Tensor):
            return self._tensor(thing)
        if isinstance(thing, np.ndarray | np.generic):
            return self._array(thing)
        if isinstance(thing, torch.device | torch.dtype | torch.layout | torch.memory_format):
            return _sha("torch", repr(thing))
        if isinstance(thing, torch.Generator):
            return self._all("generator", [("state", thing.get_state())])
        if isinstance(thing, Image.Image):
            return self._image(thing)
        if isinstance(thing, PurePath):
            return _sha("path", str(thing))
        if isinstance(thing, nn.Module):
            return self._module(thing)
        if isinstance(thing, type):
            return self._class(thing)
        return self._callable(thing) or self._object(thing)

    def _tensor(self, tensor: Tensor) -> bytes:
        try:
            if tensor.layout != torch.strided or tensor.is_quantized:
                return self._object(tensor)
            plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
            values = plain.flatten().view(torch.uint8).numpy().data  # NumPy has no bfloat16
        except Exception as error:  # tensor subclasses may raise anything
            return self._cannot_tell(f"the values of a {type(tensor).__name__} cannot be read ({error})")
        return _sha("tensor", _name(type(tensor)), str(tensor.dtype), str(tuple(tensor.shape)), values)

    def _array(self, array: Any) -> bytes:
        array = np.asarray(array)
        if array.dtype.hasobject:
            return self._all("array", [("shape", array.shape), ("values", array.ravel().tolist())])
        return _sha("array", str(array.dtype.descr), str(array.shape), array.tobytes())

    def _image(self, image: Image.Image) -> bytes:
        try:
            name = getattr(image, "filename", "")
            if getattr(image, "tile", None) and name:  # not loaded yet, and should not stay in memory
                with Image.open(name) as again:
                    return self._pixels(again)
            return self._pixels(image)
        except Exception as error:  # of decoders
            return _sha("broken image", type(error).__name__)

    def _pixels(self, image: Image.Image) -> bytes:
        image.load()
        transparency = self.digest(image.info.get("transparency"))
        palette = image.palette.tobytes() if image.palette is not None else b""
        turned = self.digest(dict(image.getexif()).get(0x0112))
        return _sha("image", image.mode, str(image.size), image.tobytes(), palette, transparency, turned)

    def _module(self, module: nn.Module) -> bytes:
        if isinstance(module, torch.jit.ScriptModule):
            return self._cannot_tell("it is a ScriptModule, whose program cannot be read")
        try:
            settings = _ADDRESS.sub("", module.extra_repr())
        except Exception as error:  # modules may raise anything
            settings = self._cannot_tell(f"its extra_repr fails ({type(error).__name__}: {error})").hex()
        graph = isinstance(module, torch.fx.GraphModule)
        attributes = {
            name: value
            for name, value in module.__dict__.items()
            if name not in _OF_EVERY_MODULE and not (graph and name == "_graph")
        }
        parts: list[tuple[str, Any]] = [("class", type(module)), ("graph", str(module.code) if graph else None)]
        parts += [(name, [*getattr(module, name, {}).values()]) for name in _HOOKS]
        for name in ("_parameters", "_buffers", "_modules"):
            parts += module.__dict__[name].items()
        return _sha("module", settings, self._all("parts", [*parts, *attributes.items()]))

    def _class(self, kind: type) -> bytes:
        if _is_library(kind):
            return _sha("class", _name(kind))
        members: list[tuple[str, Any]] = [(f"base {n}", base) for n, base in enumerate(kind.__bases__)]
        for name, member in vars(kind).items():
            code = isinstance(member, types.FunctionType | staticmethod | classmethod | property)
            told_elsewhere = isinstance(member, types.GetSetDescriptorType | types.MemberDescriptorType)
            if (code or not _is_dunder(name)) and not told_elsewhere and name not in _OF_METACLASSES:
                members.append((name, member))
        return _sha("class", kind.__name__, self._all("members", members))

    def _callable(self, thing: Any) -> bytes | None:
        """Return the digest of code; None if the thing is not code."""
        if isinstance(thing, types.FunctionType):
            return self._function(thing)
        if isinstance(thing, types.CodeType):
            return self._code(thing)
        if isinstance(thing, types.MethodType):
            return self._all("method", [("self", thing.__self__), ("function", thing.__func__)])
        if isinstance(thing, functools.partial):
            return self._all("partial", [("func", thing.func), ("args", thing.args), ("keywords", thing.keywords)])
        if isinstance(thing, staticmethod | classmethod):
            return self._all(type(thing).__name__, [("function", thing.__func__)])
        if isinstance(thing, property):
            return self._all("property", [("get", thing.fget), ("set", thing.fset)])
        if isinstance(thing, functools._lru_cache_wrapper):
            return self._all("cached", [("function", thing.__wrapped__)])
        if isinstance(thing, types.ModuleType):
            return _sha("python module", thing.__name__)
        if isinstance(thing, types.BuiltinFunctionType):
            owner = thing.__self__
            of_object = owner is not None and not isinstance(owner, types.ModuleType)
            return self._all(f"builtin {thing.__module__}.{thing.__qualname__}", [("self", owner)] if of_object else [])
        if isinstance(thing, np.ufunc):
            return _sha("ufunc", thing.__name__)
        slots = (types.WrapperDescriptorType, types.MethodDescriptorType, types.MethodWrapperType)
        if isinstance(thing, (*slots, types.ClassMethodDescriptorType)):
            return _sha("builtin", thing.__qualname__)
        return None

    def _function(self, function: types.FunctionType) -> bytes:
        code = function.__code__
        parts: list[tuple[str, Any]] = [("defaults", function.__defaults__), ("defaults", function.__kwdefaults__)]
        parts += [(name, value) for name, value in vars(function).items() if name != "__wrapped__"]
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                parts.append((name, cell.cell_contents))
            except ValueError:  # an empty cell
                parts.append((name, "an empty cell"))
        if _in_library(code.co_filename):
            return _sha("function", f"{function.__module__}.{function.__qualname__}", self._all("parts", parts))
        names = {*_names_in(code)}
        named: list[bytes] = []
        for name in sorted(names & function.__globals__.keys()):
            self._path.append(name)
            named += [name.encode(), self._named(function.__globals__[name], names, set())]
            self._path.pop()
        return _sha("function", self._code(code), self._all("parts", parts), *named)

    def _named(self, thing: Any, names: set[str], above: set[int]) -> bytes:
        """Return the digest of a global; for the user's own modules, that of the entries that code names."""
        if not isinstance(thing, types.ModuleType) or _is_library_module(thing) or id(thing) in above:
            return self.digest(thing)
        entries = sorted(names & vars(thing).keys())
        above = above | {id(thing)}
        return _sha("names", *(part for n in entries for part in (n, self._named(vars(thing)[n], names, above))))

    def _code(self, code: types.CodeType) -> bytes:
        self.code = True
        constants = [
            self._code(part) if isinstance(part, types.CodeType) else self.digest(part) for part in code.co_consts
        ]
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (*code.co_names, "|", *code.co_varnames, "|", *code.co_freevars, "|", *code.co_cellvars)
        exceptions = getattr(code, "co_exceptiontable", b"")
        return _sha("code", code.co_code, exceptions, str(counts), *names, *constants)

    def _object(self, thing: Any) -> bytes:
        """Return the digest of what pickling would write for an object."""
        kind = type(thing)
        if isinstance(thing, Iterator):
            return self._cannot_tell(f"what comes out of a {kind.__name__} is known only when it has been read")
        try:
            special = copyreg.dispatch_table.get(kind)  # of regular expressions, for one
            reduced = thing.__reduce_ex__(4) if special is None else special(thing)
            if isinstance(reduced, str):
                return _sha("global", _name(kind), reduced)
            parts = list(reduced[:3])
            parts += [[*items] if items is not None else None for items in reduced[3:5]]
        except Exception as error:  # objects may raise anything
            return self._cannot_tell(f"a {kind.__name__} does not tell what it holds ({error})")
        return self._all("object", [("made by", parts[0]), *_state(parts[1:])])


def _state(parts: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield what pickling writes besides the function that makes an object, attributes by name."""
    yield "made of", parts[0]
    for part in parts[1:]:
        if isinstance(part, dict) and all(isinstance(name, str) for name in part):
            yield from part.items()
        else:
            yield "state", part


def hash_file(path: str) -> str | None:
    """Return the SHA-256 of a file; None if it cannot be read, which is reported later."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(2**20):
                digest.update(block)
    except (OSError, ValueError):  # ValueError: of names that no file can have
        return None
    return digest.hexdigest()


def _sha(*parts: Any) -> bytes:
    """Return a digest of texts and bytes, each with its length, so that different splits differ."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(f"{len(content)}:".encode())
        digest.update(content)
    return digest.digest()


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


@functools.lru_cache(maxsize=1)
def _library() -> tuple[str, ...]:
    """Return the folders of installed code, Python's own library and this package."""
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    of_site: list[str] = getattr(site, "getsitepackages", list)()  # missing in some virtual environments
    folders |= {*of_site, site.getusersitepackages(), os.path.dirname(os.path.dirname(__file__))}
    return tuple(os.path.join(os.path.normcase(os.path.realpath(folder)), "") for folder in folders if folder)


@functools.lru_cache(maxsize=4096)
def _in_library(file: str) -> bool:
    if file.startswith("<frozen "):
        return True
    return os.path.normcase(os.path.realpath(file)).startswith(_library()) if os.path.isabs(file) else False


def _is_library_module(module: types.ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return _in_library(file) if file is not None else module.__name__ != "__main__"


def _is_library(kind: type) -> bool:
    """Whether a class is found under its own name, in installed code."""
    found: Any = sys.modules.get(kind.__module__)
    if not kind.__flags__ & 1 << 9:  # not a heap type: made in C
        return True
    if not isinstance(found, types.ModuleType) or not _is_library_module(found):
        return False
    for name in kind.__qualname__.split("."):
        found = inspect.getattr_static(found, name, None)
    return found is kind
