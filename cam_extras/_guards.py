"""What must be put back whatever happens: settings of the whole process, which threads share, and interrupts."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class Switch:
    """A setting of the whole process while anybody needs it: the first to come sets it, the last to go puts it back.

    Args:
        setting: makes a context manager that sets it, and puts back what was there.
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[Any]]):
        self._setting = setting
        self._lock = threading.Lock()
        self._users = 0
        self._set: AbstractContextManager[Any] = nullcontext()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Have it set for the length of the block."""
        with self._lock:
            if self._users == 0:
                self._set = self._setting()
                self._set.__enter__()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._set.__exit__(None, None, None)


@contextmanager
def _no_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _plain_code() -> AbstractContextManager[Any]:
    if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
        stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance
    return nullcontext()


# PyTorch calls no hook in the fast path of attention, nor in compiled code.
NO_FAST_PATH = Switch(_no_fast_path)
PLAIN_CODE = Switch(_plain_code)
# Fused kernels have no second derivative.
MATHEMATICAL_ATTENTION = Switch(lambda: sdpa_kernel(SDPBackend.MATH))

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_making = threading.Lock()


def lock_of(model: Any) -> AbstractContextManager[Any]:
    """Return the lock of a model: its modes and hooks are those of one pass at a time."""
    if not isinstance(model, nn.Module):
        return nullcontext()
    with _making:
        return _locks.setdefault(model, threading.RLock())


class Interrupts:
    """Ctrl-C while something is changed that must be put back: once it has come, or while held, it waits for the end.

    Where it comes in the middle of putting back, what is left would stay as it is. A context manager: at its start
    interrupts are held, `let` lets them come, `hold` holds them; at its end one that was held comes. Python tells
    interrupts to the main thread alone; in others nothing is done, nor where SIGINT is not handled in Python.
    """

    def __enter__(self) -> Interrupts:
        self._held, self._came = True, False
        self._handler: Any = None
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._handler = handler
                signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        if self._held:
            self._came = True
        else:
            self._held = True  # what it raises is on its way, and what is put back for that is to be left in peace
            self._handler(number, frame)

    def let(self) -> None:
        """Let interrupts come."""
        self._held = False
        if self._came:
            self._came = False
            self._held = True
            self._handler(signal.SIGINT, None)

    def hold(self) -> None:
        """Hold interrupts from here to the end."""
        self._held = True

    def __exit__(self, *error: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            if self._came:
                self._handler(signal.SIGINT, None)
