"""The Ray engine: tasks read the parts of a data set, and actors, each with the model, score them."""

from __future__ import annotations

import io
import logging
import os
import pickle
import re
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from cam_extras.runs.batches import Input, Reader, Scored, Scorer
from cam_extras.runs.engines.local import Job
from cam_extras.runs.sources import Indexed, Source
from cam_extras.runs.store import Failure

_LEAST_VERSION = (2, 60)  # the first known to require a token by default
_READERS = 4  # most tasks at a time per worker; with as many tasks as workers, Ray Data would let the workers read
_CPUS = 0.5  # requested by each worker or task: little, so that tasks fit beside the workers
_ATTEMPTS = 4  # at a part whose process keeps dying: without a limit, a crash would keep the run busy for ever


def ray_parts(
    job: Job,
    source: Source,
    done: set[int],
    device: torch.device,
    on_progress: Callable[[int], None],
) -> Iterator[tuple[int, Scored]]:
    """Return an iterator over the number of each part that is not done, in any order, with its results.

    What needs no running Ray is checked before this returns. Ray is started, or a cluster joined, when the first part
    is requested, and stopped or left when the iterator ends or is closed. If this process already uses Ray, that is
    used and left as it is.

    Args:
        job: what to do with every image; the workers get all of it. Its configuration gives the number of `workers`;
            their `gpus_per_worker`, by default one if the model is on a GPU; and the `address` of a running cluster:
            "auto" for the one this machine belongs to; None for the environment variable RAY_ADDRESS or, if that is
            not set, a Ray on this machine only.
        source: where images come from; the workers read them from the same paths.
        done: the parts that are done.
        device: where the model is; the workers use a device of the same type.
        on_progress: called with the number of images that are done.

    Raises:
        ValueError: Ray is not installed; the images can only be read in order; something cannot be sent to the
            workers; there is no such cluster, or it is too small.
        RuntimeError: see `Scorer`; or the processes that worked on a part died, one after the other.
    """
    ray = _import_ray()
    if not isinstance(source, Indexed):
        raise ValueError(
            "engine='ray' reads images in parallel, but these can only be read one after the other: give a folder, a "
            "table, a glob or a data set with a length and an item for each index, or engine='local'"
        )
    config = job.config
    gpus = float(device.type == "cuda") if config.gpus_per_worker is None else config.gpus_per_worker
    if (gpus > 0) != (device.type == "cuda"):
        raise ValueError(
            f"gpus_per_worker= is for a model on a GPU, and more than 0; got {gpus:g}, the model on {device}"
        )
    todo = [part for part in job.parts(len(source)) if part not in done]
    if not todo:
        return iter(())
    shipment = _pack(job, source)

    def parts() -> Iterator[tuple[int, Scored]]:
        first = None if done else 0
        held: list[tuple[int, Scored]] = []
        with _running(ray, config.address, config.workers), _quiet():
            for part, scored in _results(ray, shipment, todo, first, device, config.workers, gpus):
                held.append((part, scored))
                if part == first:
                    first = None
                # Later parts wait for the first: if all its images fail alike, nothing is kept.
                while first is None and held:
                    on_progress(min(config.images_per_part, len(source) - held[0][0] * config.images_per_part))
                    yield held.pop(0)

    return parts()


def _import_ray() -> ModuleType:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(f"engine='ray' needs Ray ({error}): pip install cam_extras[ray]") from error
    numbers = tuple(int(number) for number in re.findall(r"\d+", ray.__version__)[:2])
    if numbers < _LEAST_VERSION:
        raise ValueError(
            f"engine='ray' needs Ray {'.'.join(map(str, _LEAST_VERSION))} or later, which lets nobody in without a "
            f"token; there is {ray.__version__}: pip install --upgrade cam_extras[ray]"
        )
    module: ModuleType = ray
    return module


@contextmanager
def _running(ray: ModuleType, address: str | None, workers: int) -> Iterator[None]:
    """Keep Ray running during the block, then restore the state before."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        options = {"num_cpus": max(torch.get_num_threads(), workers // 2 + 1), "include_dashboard": False}
    elif address != "auto":
        _check_address(address)
    defaults = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    variables: dict[str, str | None] = {name: os.environ.get(name, default) for name, default in defaults.items()}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # processes here find the modules found here
    variables["RAY_AUTH_MODE"] = os.environ.get("RAY_AUTH_MODE")  # which Ray sets
    on_termination = signal.getsignal(signal.SIGTERM)
    with _environment(**variables):  # to the end, as Ray Data checks here whether to collect usage statistics
        try:
            try:
                with _on_loopback() if address == "local" else nullcontext():
                    ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ValueError(f"no Ray answers at {address!r}: {error}") from error
            yield
        finally:
            ray.shutdown()
            if threading.current_thread() is threading.main_thread():  # Ray has installed its own handler
                signal.signal(signal.SIGTERM, on_termination)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Make a new Ray listen to this machine only, as it does by default without clusters."""
    from ray._private import ray_constants

    clusters = ray_constants.ENABLE_RAY_CLUSTER  # read when Ray is imported, and by its other processes from there:
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with _environment(**{ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters


def _check_address(address: str) -> None:
    """Raise ValueError if nothing listens; Ray itself takes a quarter of an hour to notice."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        raise ValueError(f"address= must be HOST:PORT, as `ray start --head` prints it, or 'auto'; got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"no Ray answers at {address!r}: {error}") from error


@contextmanager
def _environment(**variables: str | None) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep messages of Ray Data off the terminal; its log files have them."""
    consoles = [handler for handler in logging.getLogger("ray.data").handlers if handler.name == "console"]
    levels = [handler.level for handler in consoles]
    for handler in consoles:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for handler, level in zip(consoles, levels, strict=True):
            handler.setLevel(level)


def _results(
    ray: ModuleType,
    shipment: dict[str, bytes],
    todo: list[int],
    first: int | None,
    device: torch.device,
    workers: int,
    gpus: float,
) -> Iterator[tuple[int, Scored]]:
    threads = _threads(ray, workers, gpus)
    workers = min(workers, len(todo))
    reading, scoring = (ray.put(shipment.pop(name)) for name in ("reading", "scoring"))
    attempts = _count_attempts(ray)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.enable_stats_summary_collection = False
    context.execution_no_progress_timeout_s = -1  # a part takes as long as it takes
    context.max_consecutive_actor_init_deaths = _ATTEMPTS
    with ray.data.DataContext.current(context):
        # One part is one block throughout, so memory holds little more than what is being worked on.
        parts = ray.data.from_items([{"part": part} for part in todo], override_num_blocks=len(todo))
        inputs = parts.map_batches(
            _read,
            fn_kwargs={"shipped": reading, "attempts": attempts},
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(size=min(_READERS * workers, len(todo))),
            num_cpus=_CPUS,
        )
        results = inputs.map_batches(
            _Worker,
            fn_constructor_kwargs={
                "shipped": scoring,
                "attempts": attempts,
                "device": device.type,
                "sent_from": str(device),
                "threads": threads,
                "first": first,
            },
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=_CPUS,
            num_gpus=gpus,
        )
    seen: dict[Any, Any] = {}
    try:
        for table in results.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
            outcome = _load(table["outcome"][0].as_buffer())
            for message, category, file, line in outcome.warned:
                warnings.warn_explicit(message, category, file, line, registry=seen)
            if outcome.error is not None:
                raise outcome.error from RuntimeError(f"raised by a worker of Ray:\n{outcome.trace}")
            yield table["part"][0].as_py(), outcome.value
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"Ray gave up: {error}") from error


def _threads(ray: ModuleType, workers: int, gpus: float) -> int:
    """Return the number of threads per worker, or raise ValueError if Ray has no room for that many workers."""
    there = ray.cluster_resources()
    cpus = there.get("CPU", 0)
    for kind, needed, found in (("CPUs", _CPUS * (workers + 1), cpus), ("GPUs", gpus * workers, there.get("GPU", 0))):
        if needed > found:
            raise ValueError(
                f"{workers} workers need {needed:g} {kind}, and Ray has {found:g}: give fewer by workers="
                + (", or a smaller gpus_per_worker=" if kind == "GPUs" else "")
            )
    return max(1, int(cpus) // workers)


def _count_attempts(ray: ModuleType) -> Any:
    """Start an actor that counts attempts at each part, as Ray retries without limit when a process dies."""

    class Attempts:  # defined here, so that its process need not import this module and torch
        def __init__(self) -> None:
            self._begun: dict[tuple[str, int], int] = {}

        def begin(self, what: str, part: int) -> int:
            self._begun[what, part] = self._begun.get((what, part), 0) + 1
            return self._begun[what, part]

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()


def _begin(attempts: Any, what: str, part: int) -> None:
    import ray

    if ray.get(attempts.begin.remote(what, part)) > _ATTEMPTS:
        raise RuntimeError(
            f"{_ATTEMPTS} processes died {what} part {part}, one after the other: check whether memory runs out, or "
            "whether an image crashes the process"
        )


def _read(table: pa.Table, shipped: Any, attempts: Any) -> pa.Table:
    """Read and decode the images of a part."""
    part = table["part"][0].as_py()

    def read() -> list[Input | Failure]:
        _begin(attempts, "reading", part)
        reader, source, images = _reading(shipped)
        indices = range(part * images, min((part + 1) * images, len(source)))
        return [_alone(reader.read(source, index)) for index in indices]

    return _row(part, _Outcome.of(read))


@lru_cache(maxsize=1)
def _reading(shipped: Any) -> tuple[Reader, Indexed, int]:
    reading: tuple[Reader, Indexed, int] = _unpack(shipped)
    return reading


def _alone(item: Input | Failure) -> Input | Failure:
    """Return an input that is not a view of a larger tensor, as all of that would be sent along."""
    if isinstance(item, Failure):
        return item

    def alone(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.detach().clone()

    return replace(item, x=item.x.detach().clone(), boxes=alone(item.boxes), mask=alone(item.mask))


class _Worker:
    """An actor that holds the model and scores parts."""

    def __init__(
        self, shipped: Any, attempts: Any, device: str, sent_from: str, threads: int, first: int | None
    ) -> None:
        self._shipped, self._attempts, self._first = shipped, attempts, first
        self._device, self._sent_from = torch.device(device), sent_from
        torch.set_num_threads(min(threads, os.cpu_count() or 1))

    def __call__(self, table: pa.Table) -> pa.Table:
        read = _load(table["outcome"][0].as_buffer())
        if read.error is not None:
            return table
        part = table["part"][0].as_py()
        scored = _Outcome.of(lambda: self._scored(part, read.value))
        scored.warned = read.warned + scored.warned
        return _row(part, scored)

    def _scored(self, part: int, inputs: list[Input | Failure]) -> Scored:
        _begin(self._attempts, "scoring", part)
        if part == self._first:  # "first" means the images of the first part, not the first ones to arrive here
            return self._job.scorer(self._device, stop_early=True)(inputs)
        return self._scorer(inputs)

    @cached_property
    def _job(self) -> Job:
        job: Job = _unpack(self._shipped, {self._sent_from: self._device.type})
        return job

    @cached_property
    def _scorer(self) -> Scorer:
        return self._job.scorer(self._device, stop_early=False)


@dataclass
class _Outcome:
    """The outcome of a call in another process.

    Attributes:
        value: what it returned.
        error: what it raised.
        trace: its traceback.
        warned: message, category, file and line of each warning.
    """

    value: Any = None
    error: Exception | None = None
    trace: str = ""
    warned: list[tuple[str, type[Warning], str, int]] = field(default_factory=list)

    @classmethod
    def of(cls, call: Callable[[], Any]) -> _Outcome:
        outcome = cls()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")  # the main process decides which are shown
            try:
                outcome.value = call()
            except Exception as error:
                outcome.error, outcome.trace = _sendable(error), traceback.format_exc()
        outcome.warned = [
            (str(warning.message), warning.category, warning.filename, warning.lineno) for warning in told
        ]
        return outcome


def _sendable(error: Exception) -> Exception:
    try:
        _load(_dump(error))
    except Exception:  # unpickling its class may do anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _row(part: int, outcome: _Outcome) -> pa.Table:
    return pa.table({"part": [part], "outcome": pa.array([_dump(outcome)], pa.large_binary())})


def _pack(job: Job, source: Indexed) -> dict[str, bytes]:
    """Return what tasks and actors need, or raise ValueError naming what cannot be sent to them."""
    try:
        return {"reading": _dump((job.reader, source, job.config.images_per_part)), "scoring": _dump(job)}
    except Exception:  # pickling calls the user's code
        for name, value in {
            "data": source,
            "transform": job.reader.transform,
            "reshape_transform": job.config.reshape_transform,
            "model": job.config.model,
            "methods": job.config.methods,
            "options": job.config.options,
        }.items():
            try:
                _dump(value)
            except Exception as error:
                raise ValueError(
                    f"the {name} cannot be sent to the workers of Ray ({type(error).__name__}: {error}): "
                    "leave out what cannot be pickled, such as open files, locks and generators, or use engine='local'"
                ) from error
        raise


def _unpack(shipped: Any, devices: dict[str, str] | None = None) -> Any:
    import ray

    try:
        return _load(ray.get(shipped), devices)
    except Exception as error:
        raise RuntimeError(
            f"a worker of Ray cannot unpickle what it was sent ({type(error).__name__}: {error}): it needs the same "
            "versions of the same packages, and must find every module that this process has imported"
        ) from error


def _dump(value: Any) -> bytes:
    """Pickle a value, including its functions and classes if no importable module has them."""
    from ray import cloudpickle

    file = io.BytesIO()
    torch.save(value, file, cloudpickle, pickle.HIGHEST_PROTOCOL)
    return file.getvalue()


def _load(data: Any, devices: dict[str, str] | None = None) -> Any:
    """Unpickle what `_dump` pickled, with its tensors moved to other devices."""
    return torch.load(io.BytesIO(data), devices, weights_only=False)
