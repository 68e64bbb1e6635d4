"""Threads that explain side by side, and Ctrl-C at any moment: what is shared is put back, and maps are right."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hosts import ANYWHERE
from nets import CNN, TinyViT
from state import equal, snapshot

from cam_extras._guards import Interrupts, Switch
from cam_extras.methods import METHODS
from cam_extras.probe import Probe
from cam_extras.pytorch_grad_cam import UPSTREAM, upstream_maps

NAMES = ("GradCAM", "ShapleyCAM", "OptiCAM")
FEW = {"ExpectedGradCAM": {"n_samples": 2}, "IntegratedGradCAM": {"n_samples": 2}}


def process_settings():
    import torch._dynamo.eval_frame as eval_frame

    return {
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "stance": eval_frame._stance.stance,
        "attention": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
        ),
    }


def make_method(name):
    return METHODS[name](**({"max_iterations": 2} if name == "OptiCAM" else {}))


def explain(model, x, name):
    options = {"reshape_transform": TinyViT.reshape} if isinstance(model, TinyViT) else {}
    return make_method(name).maps(Probe(model, model.layer, x, target=1, **options))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_threads_share_a_model(training):
    """In train mode a map was silently another where one thread put the mode back during the pass of another."""
    model = CNN(batch_norm=True).double().train(training)
    inputs = [torch.randn(2, 3, 12, 16, dtype=torch.float64) for _ in range(4)]
    jobs = [(name, x) for name in NAMES for x in inputs] * 4
    expected = [explain(model, x, name) for name, x in jobs]
    before, settings = snapshot(model), process_settings()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda job: explain(model, job[1], job[0]), jobs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    assert process_settings() == settings
    after = snapshot(model)
    assert [what for what in before if what != "rng" and not equal(before[what], after[what])] == []


def test_threads_with_models_of_their_own():
    """The first to start was the first to end, and put back what the second had changed: it stayed for the process."""
    models = [TinyViT().double().eval() for _ in range(6)]
    x = torch.randn(2, 3, 12, 16, dtype=torch.float64)
    expected = [explain(model, x, "ShapleyCAM") for model in models]
    settings = process_settings()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda model: [explain(model, x, "ShapleyCAM") for _ in range(8)], models))
    assert process_settings() == settings
    for of_model, right in zip(found, expected, strict=True):
        for one in of_model:
            torch.testing.assert_close(one, right, rtol=0, atol=1e-9)


def test_a_switch_is_put_back_by_the_last_whatever_the_order():
    values = ["before"]

    class Setting:
        def __enter__(self):
            self.found = values[-1]
            values.append("set")

        def __exit__(self, *error):
            values.append(self.found)

    switch = Switch(Setting)
    first, second = switch.on(), switch.on()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert values == ["before", "set"]
    second.__exit__(None, None, None)
    assert values == ["before", "set", "before"]
    with switch.on():
        assert values[-1] == "set"


class TestInterrupts:
    def test_wait_while_held_and_come_at_the_end(self):
        steps = []

        def interrupted():
            with Interrupts() as interrupts:
                signal.raise_signal(signal.SIGINT)
                steps.append("held at the start")
                with pytest.raises(KeyboardInterrupt):
                    interrupts.let()
                signal.raise_signal(signal.SIGINT)
                steps.append("held after the first")

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert steps == ["held at the start", "held after the first"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_of_an_inner_pass_hold_the_outer_one_too(self):
        steps = []

        def interrupted():
            with Interrupts() as outer:
                outer.let()
                try:
                    with Interrupts() as inner:
                        inner.let()
                        signal.raise_signal(signal.SIGINT)
                finally:
                    signal.raise_signal(signal.SIGINT)  # while the first is on its way
                    steps.append("put back")

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert steps == ["put back"]

    def test_in_a_thread_nothing_is_done(self):
        def handler_within():
            with Interrupts():
                return signal.getsignal(signal.SIGINT)

        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(handler_within).result() is signal.default_int_handler

    @pytest.mark.parametrize("way", ["ours", "pytorch-grad-cam's"])
    def test_at_random_moments_leave_nothing_changed(self, way):
        """150 interrupts, evenly over the length of a call."""
        model = TinyViT()
        x = torch.randn(1, 3, 12, 16)

        def call():
            if way == "ours":
                explain(model, x, "ShapleyCAM")
            else:
                upstream_maps(UPSTREAM["GradCAM"], model, model.layer, x, torch.tensor([1]), TinyViT.reshape)

        call()
        start = time.perf_counter()
        call()
        length = time.perf_counter() - start
        before, settings = snapshot(model), process_settings()
        main, drawn, came, changed = threading.main_thread().ident, random.Random(0), 0, []
        for round_ in range(150):
            timer = threading.Timer(drawn.uniform(0, length), signal.pthread_kill, (main, signal.SIGINT))
            try:
                timer.start()
                while timer.is_alive():
                    call()
                timer.join()
                call()
            except KeyboardInterrupt:
                came += 1
            after = snapshot(model)
            changed += [(round_, what) for what in before if what != "rng" and not equal(before[what], after[what])]
            changed += [(round_, "settings")] if process_settings() != settings else []
        assert came > 140  # Python ignores what is raised while an object is deleted
        assert changed == []
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_many_calls_hold_no_memory():
    """Four thousand calls, of methods in turn, of which one in ten raises."""
    model = CNN().eval()
    x = torch.randn(1, 3, 12, 16)
    names = [
        name for name in ANYWHERE if name not in ("MIGradCAM", "OptiCAM", "SmoothGradCAMPlusPlus", "SSCAM", "ISCAM")
    ]

    def calls(count):
        for number in range(count):
            model.fail = number % 10 == 9
            with contextlib.suppress(RuntimeError):
                METHODS[names[number % len(names)]](**FEW.get(names[number % len(names)], {})).maps(
                    Probe(model, model.layer, x, target=1)
                )
        gc.collect()

    calls(500)
    tracemalloc.start()
    calls(500)
    before, _ = tracemalloc.get_traced_memory()
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    calls(4000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 2**19
    assert sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()) == tensors
