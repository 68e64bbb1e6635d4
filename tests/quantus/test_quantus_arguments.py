"""What explain functions are given: arrays and tensors, hyper-parameters of the call, and Quantus' own arguments."""

from __future__ import annotations

import ast
import functools
import inspect
from dataclasses import dataclass

import numpy as np
import pytest
import pytorch_grad_cam as upstream
import quantus
import torch
from hosts import ANYWHERE
from nets import CNN
from quantus.functions import explanation_func
from quantus_calls import ALL_METRICS, score
from state import untouched

import cam_extras.quantus as ours
from cam_extras.captum import LayerFakeCam
from cam_extras.methods import FakeCAM

Y = np.array([0, 1, 2])


@pytest.fixture
def model():
    return CNN().eval()


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(3, 3, 12, 16)).astype(np.float32)


class Elsewhere(torch.Tensor):
    """A tensor that NumPy cannot read, as one on a GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert a tensor on another device to numpy")


class TestTensors:
    @pytest.mark.parametrize("name", ["GradCAM", "FakeCAM", "FEM", "FinerCAM"])
    @pytest.mark.parametrize(
        "of",
        [
            lambda x: x.requires_grad_(x.is_floating_point()),
            lambda x: x.requires_grad_(x.is_floating_point()) * 1,
            lambda x: x.as_subclass(Elsewhere),
            lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
            lambda x: x.double() if x.is_floating_point() else x.int(),
        ],
        ids=["leaf", "not a leaf", "elsewhere", "strided", "other types"],
    )
    def test_give_what_arrays_give(self, name, of, model, x):
        explain_func = ours.explain(name, layer="layer")
        expected = explain_func(model, x, Y)
        inputs, targets = of(torch.from_numpy(x.copy())), of(torch.from_numpy(Y.copy()))
        with untouched(model):
            maps = explain_func(model, inputs, targets)
        assert type(maps) is np.ndarray
        np.testing.assert_array_equal(maps, expected)
        np.testing.assert_array_equal(inputs.detach().as_subclass(torch.Tensor), x)
        assert not inputs.is_leaf or inputs.grad is None

    def test_channel_weights(self, model, x):
        explain_func = ours.explain("GradCAM", layer="layer")
        weights = explain_func.channel_weights(model, torch.from_numpy(x).requires_grad_(), torch.from_numpy(Y))
        np.testing.assert_array_equal(weights, explain_func.channel_weights(model, x, Y))

    def test_too_few_targets(self, model, x):
        with pytest.raises(ValueError, match=r"expected 3 targets, one for each sample; got shape \(2,\)"):
            ours.explain("GradCAM", layer="layer")(model, torch.from_numpy(x), torch.from_numpy(Y[:2]))

    @pytest.mark.gpu
    def test_on_a_gpu(self, x):
        model = CNN().eval().cuda()
        inputs, targets = torch.from_numpy(x).cuda(), torch.from_numpy(Y).cuda()
        explain_func = ours.explain("GradCAM", layer="layer")
        np.testing.assert_allclose(explain_func(model, inputs, targets), explain_func(model, x, Y), rtol=0, atol=1e-6)


class TestHyperParametersOfACall:
    @pytest.mark.parametrize(
        ("method", "hyper"),
        [
            ("OptiCAM", {"max_iterations": 3, "learning_rate": 0.5}),
            ("SmoothGradCAMPlusPlus", {"n_samples": 2, "noise": 0.1}),
            ("GradCAM", {"utility": "softmax"}),
            (upstream.FEM, {"k": 1}),
            (upstream.GradCAM, {"eigen_smooth": True}),
            (upstream.FinerCAM, {"base_method": upstream.LayerCAM, "alpha": 0.5}),
        ],
    )
    def test_win_over_those_of_explain(self, method, hyper, model, x):
        expected = ours.explain(method, layer="layer", **hyper)(model, x, Y)
        plain = ours.explain(method, layer="layer")
        before = plain(model, x, Y)
        assert np.abs(before - expected).max() > 1e-3
        np.testing.assert_array_equal(plain(model, x, Y, **hyper), expected)
        np.testing.assert_array_equal(plain(model, x, Y), before)  # of that call alone

    def test_win_over_those_of_pytorch_grad_cam_too(self, model, x):
        given = ours.explain(upstream.FEM, layer="layer", k=2)
        expected = ours.explain(upstream.FEM, layer="layer", k=1)(model, x, Y)
        assert np.abs(given(model, x, Y) - expected).max() > 1e-3
        np.testing.assert_array_equal(given(model, x, Y, k=1), expected)

    def test_others_stay(self, model, x):
        given = ours.explain("OptiCAM", layer="layer", max_iterations=2)
        expected = ours.explain("OptiCAM", layer="layer", max_iterations=2, learning_rate=0.5)(model, x, Y)
        np.testing.assert_array_equal(given(model, x, Y, learning_rate=0.5), expected)

    def test_weights(self, model, x):
        weights = ours.explain("RandomCAM", layer="layer").channel_weights(model, x, Y, seed=7)
        expected = ours.explain("RandomCAM", layer="layer", seed=7).channel_weights(model, x, Y)
        np.testing.assert_array_equal(weights, expected)

    def test_wrong_values_raise(self, model, x):
        with pytest.raises(ValueError, match="utility must be one of"):
            ours.explain("GradCAM", layer="layer")(model, x, Y, utility="logits")

    @pytest.mark.parametrize("name", ["GradCAM", "EigenCAM", "FEM"])
    @pytest.mark.parametrize("unknown", ["max_iterations", "layer", "batch_size", "reshape_transform", "num_samples"])
    def test_unknown_names_raise(self, name, unknown, model, x):
        explain_func = ours.explain(name, layer="layer")
        with pytest.raises(TypeError, match=f"{name} has no hyper-parameter '{unknown}': it has "):
            explain_func(model, x, Y, **{unknown: 5})
        with pytest.raises(TypeError, match=f"no hyper-parameter '{unknown}'|does not tell its channel weights"):
            explain_func.channel_weights(model, x, Y, **{unknown: 5})

    @ALL_METRICS
    def test_reach_the_explain_func_through_every_metric(self, metric, model, x):
        def scores(given, **hyper):
            explain_func = ours.explain("RandomCAM", layer="layer", **hyper)
            return score(metric, model, x, Y, explain_func=explain_func, explain_func_kwargs=given)

        assert scores({"seed": 7}) == pytest.approx(scores({}, seed=7), abs=1e-6)
        with pytest.raises(TypeError, match="RandomCAM has no hyper-parameter 'max_iterations'"):
            scores({"max_iterations": 3})


def read_by(*functions):
    """The names that functions read from their `kwargs`, and their parameters."""
    names = set()
    for function in functions:
        names |= {p.name for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD}
        for node in ast.walk(ast.parse(inspect.getsource(function))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "kwargs.get":
                names.add(node.args[0].value)
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "kwargs":
                names.add(node.slice.value)
            elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "kwargs":
                names.add(node.left.value)
    return names


class TestArgumentsOfQuantus:
    def test_are_those_of_the_installed_version(self):
        read = read_by(
            explanation_func.explain,
            explanation_func.get_explanation,
            explanation_func.generate_captum_explanation,
            explanation_func.generate_zennit_explanation,
        )
        assert read - {"model", "inputs", "targets", "device"} == ours.QUANTUS_ARGUMENTS

    @pytest.mark.parametrize("name", ["GradCAM", "FEM"])
    def test_are_left_alone(self, name, model, x):
        explain_func = ours.explain(name, layer="layer")
        given = dict.fromkeys(ours.QUANTUS_ARGUMENTS, "anything")
        np.testing.assert_array_equal(explain_func(model, x, Y, **given), explain_func(model, x, Y))
        if name == "GradCAM":
            np.testing.assert_array_equal(
                explain_func.channel_weights(model, x, Y, **given), explain_func.channel_weights(model, x, Y)
            )

    def test_no_method_has_one(self):
        for kind in ours.METHODS.values():
            assert not ours.QUANTUS_ARGUMENTS & set(inspect.signature(kind).parameters)

    def test_a_method_of_your_own_may_have_one(self, model, x):
        @dataclass(frozen=True, kw_only=True)
        class Corner(FakeCAM):
            baseline: float = 0.0

            def __call__(self, probe):
                return super().__call__(probe) * torch.linspace(self.baseline, 1, probe.x.shape[-1])

        explain_func = ours.explain(Corner, layer="layer")
        np.testing.assert_array_equal(
            explain_func(model, x, Y, baseline=0.9), ours.explain(Corner, layer="layer", baseline=0.9)(model, x, Y)
        )
        assert np.abs(explain_func(model, x, Y, baseline=0.9) - explain_func(model, x, Y)).max() > 0

    @pytest.mark.filterwarnings("ignore::UserWarning:quantus")
    @pytest.mark.parametrize("device", [None, "cpu"])
    def test_evaluate_hands_them_over(self, device, model, x):
        """`evaluate` adds the name of a method, metrics the device, and a dict's arguments go to all that follow."""
        seen = []

        def recording(model, inputs, targets, **kwargs):
            seen.append(set(kwargs))
            return ours.explain("GradCAM", layer="layer")(model, inputs, targets, **kwargs)

        results = quantus.evaluate(
            metrics={"ADCC": ours.ADCC(), "Max-Sensitivity": quantus.MaxSensitivity(nr_samples=2)},
            xai_methods={
                "first": ours.explain("GradCAM", layer="layer"),
                "Saliency": {"xai_lib": "captum", "keepdims": True, "reduce_axes": (1,), "softmax": False},
                "third": recording,
            },
            model=model,
            x_batch=x,
            y_batch=Y,
            explain_func_kwargs={},
            call_kwargs={"one": {"device": device}, "two": {"device": device, "batch_size": 2}},
        )
        leaked = {"xai_lib", "keepdims", "reduce_axes", "softmax"}
        handed_over = {"method"} | ({"device"} if device else set())
        assert set.union(*seen) - leaked == handed_over
        assert set.union(*seen) <= ours.QUANTUS_ARGUMENTS | {"device"}
        for name in ("first", "Saliency", "third"):
            assert np.isfinite(results[name]["ADCC"]["one"]).all()
        assert results["first"]["ADCC"] == results["third"]["ADCC"]

    def test_hyper_parameters_given_to_evaluate(self, model, x):
        def evaluate(explain_func, given):
            return quantus.evaluate(
                metrics={"ADCC": ours.ADCC()},
                xai_methods={"m": explain_func},
                model=model,
                x_batch=x,
                y_batch=Y,
                explain_func_kwargs=given,
            )["m"]["ADCC"]

        opti_cam = functools.partial(ours.explain, "OptiCAM", layer="layer")
        assert evaluate(opti_cam(), {"max_iterations": 2}) == evaluate(opti_cam(max_iterations=2), {})
        with pytest.raises(TypeError, match="GradCAM has no hyper-parameter 'max_iterations'"):
            evaluate(ours.explain("GradCAM", layer="layer"), {"max_iterations": 2})


class Table(torch.nn.Module):
    """Takes (N, F), has a layer (N, C, F), and three classes."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = torch.nn.Conv1d(1, 4, 3, padding=1), torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.layer(x[:, None]).relu().mean(dim=2))


class TestTables:
    """A table (N, F) has no pixels that a map could show."""

    MATCH = r"must have pixels, shape \(N, C, \*S\); got \(3, 8\): a table \(N, F\) has none"

    @ALL_METRICS
    @pytest.mark.parametrize("given", [True, False])
    def test_in_metrics(self, metric, given):
        x = np.random.default_rng(0).random((3, 8)).astype(np.float32)
        a_batch = x if given else None
        s_batch = np.ones((3, 1, 8), bool)
        with pytest.raises(ValueError, match=self.MATCH):
            score(metric, Table().eval(), x, Y, a_batch, s_batch, explain_func=lambda model, inputs, **given: inputs)

    @pytest.mark.parametrize("name", [*ANYWHERE, "FEM", "KPCA_CAM"])
    def test_in_explain_functions(self, name):
        x = np.random.default_rng(0).random((3, 8)).astype(np.float32)
        with pytest.raises(ValueError, match=self.MATCH):
            ours.explain(name, layer="layer")(Table().eval(), x, Y)

    def test_in_captum(self):
        """Others have attributions of the layer's size; this has those of the input, which would all be 0."""
        model = Table().eval()
        with pytest.raises(ValueError, match=self.MATCH):
            LayerFakeCam(model, model.layer).attribute(torch.rand(3, 8), 0)

    def test_signals_have_positions(self):
        model = torch.nn.Sequential(
            torch.nn.Conv1d(1, 4, 3, padding=1), torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten()
        )
        x = np.random.default_rng(0).random((3, 1, 8)).astype(np.float32)
        assert ours.explain("GradCAM", layer="0")(model.eval(), x, Y).shape == (3, 1, 8)
