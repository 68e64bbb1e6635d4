"""State that must be restored whatever happens: process-wide settings, which threads share, and interrupts."""

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
    """A process-wide setting, shared by threads: the first to need it sets it, the last to finish restores it.

    Args:
        setting: makes a context manager that sets it, and restores it.
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[Any]]):
        self._setting = setting
        self._lock = threading.Lock()
        self._users = 0
        self._set: AbstractContextManager[Any] = nullcontext()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Keep it set during the block."""
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


# PyTorch calls no hooks in the fast path of attention or in compiled code.
NO_FAST_PATH = Switch(_no_fast_path)
PLAIN_CODE = Switch(_plain_code)
# Fused kernels have no second derivative.
MATHEMATICAL_ATTENTION = Switch(lambda: sdpa_kernel(SDPBackend.MATH))

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_making = threading.Lock()


def lock_of(model: Any) -> AbstractContextManager[Any]:
    """Return the lock of a model: only one pass at a time may set its modes and hooks."""
    if not isinstance(model, nn.Module):
        return nullcontext()
    with _making:
        return _locks.setdefault(model, threading.RLock())


class Interrupts:
    """Delays Ctrl-C while something is changed that must be restored: an interrupt midway would leave it half restored.

    A context manager: it starts by holding interrupts; `let` lets them through, `hold` holds them again, and so does
    the first one let through; at the end, one that was held is raised. Python delivers interrupts to the main thread
    only; in other threads, or if SIGINT is not handled in Python, nothing is done.
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
            self._held = True  # hold further ones while the first is handled and state is restored
            self._handler(number, frame)

    def let(self) -> None:
        """Let interrupts through."""
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
