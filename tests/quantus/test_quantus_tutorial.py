"""Quantus' tutorials with our explain functions in the place of `quantus.explain`, and what Quantus calls of ours."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import quantus
import torch
from nets import CNN
from quantus.metrics.base import Metric
from quantus_calls import ALL_METRICS, score
from state import untouched

import cam_extras.quantus as ours
from cam_extras.maps import input_map

SIZE = (12, 16)
QUANTUS_OPTIONS = {"method": "LayerGradCam", "gc_layer": "model.layer", "interpolate": None}


def quantus_maps(model, inputs, targets, **kwargs):
    """The maps of `quantus.explain`, Captum's Grad-CAM, at the input's size and in [0, 1]."""
    attributions = quantus.explain(model, inputs, targets, **{**kwargs, **QUANTUS_OPTIONS})
    return input_map(torch.from_numpy(attributions), SIZE).numpy()[:, None]


@pytest.fixture
def device():
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def model(device):
    """As a training leaves it, in train mode, which dropout and batch norm react to."""
    model = CNN(batch_norm=True).to(device)
    for _ in range(3):
        model(torch.randn(8, 3, *SIZE, device=device))
    return model


@pytest.fixture
def batch(device):
    """Tensors on the device, as they come out of a loader."""
    loader = [(torch.randn(4, 3, *SIZE), torch.tensor([0, 3, 2, 1]))]
    x_batch, y_batch = next(iter(loader))
    return x_batch.to(device), y_batch.to(device)


@pytest.mark.filterwarnings("ignore::UserWarning")
class TestTutorial:
    @pytest.mark.parametrize("requires_grad", [False, True])
    def test_explain(self, requires_grad, model, batch):
        x_batch, y_batch = batch
        x_batch.requires_grad_(requires_grad)
        grad_cam = ours.explain("GradCAM", layer="layer")
        with untouched(model):
            a_batch = grad_cam(model, x_batch, y_batch)
        assert model.training
        theirs = quantus_maps(copied := copy.deepcopy(model), x_batch, y_batch)
        assert not copied.training  # what scripts count on that do not call eval() themselves
        assert isinstance(a_batch, np.ndarray)
        np.testing.assert_allclose(a_batch, theirs, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("metric", [quantus.PixelFlipping(features_in_step=48), ours.AverageDrop()])
    def test_without_eval(self, metric, model, batch):
        """As in the tutorial of all metrics on ImageNet, which counts on `quantus.explain`."""
        x_batch, y_batch = (tensor.cpu().numpy() for tensor in batch)
        grad_cam = ours.explain("GradCAM", layer="layer")
        with pytest.raises(AttributeError, match="needs to be in the evaluation mode"):
            metric(model, x_batch, y_batch, explain_func=grad_cam)
        before = metric(copy.deepcopy(model).eval(), x_batch, y_batch, explain_func=grad_cam)
        assert metric(model, x_batch, y_batch, explain_func=quantus_maps) == pytest.approx(np.array(before), abs=1e-5)
        assert metric(model, x_batch, y_batch, explain_func=grad_cam) == pytest.approx(np.array(before), abs=1e-5)

    def test_metrics(self, model, batch, device):
        """The same numbers from a metric of Quantus' and from one of ours, given the device."""
        x_batch, y_batch = (tensor.cpu().numpy() for tensor in batch)
        model.eval()
        for metric in (quantus.MaxSensitivity(nr_samples=3, disable_warnings=True), ours.ADCC()):
            scores = []
            for explain_func, given in (
                (quantus_maps, {}),
                (ours.explain("GradCAM", layer="layer"), {"method": "GradCAM", "softmax": False}),
            ):
                np.random.seed(0)  # noqa: NPY002  (what Quantus draws from)
                scores.append(
                    metric(
                        model=model,
                        x_batch=x_batch,
                        y_batch=y_batch,
                        a_batch=None,
                        device=device,
                        explain_func=explain_func,
                        explain_func_kwargs=given,
                    )
                )
            assert np.std(scores[0]) > 1e-3
            np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-5)

    def test_evaluate(self, model, batch, device):
        x_batch, y_batch = (tensor.cpu().numpy() for tensor in batch)
        np.random.seed(0)  # noqa: NPY002
        results = quantus.evaluate(
            metrics={"ADCC": ours.ADCC(), "Sparseness": quantus.Sparseness(disable_warnings=True)},
            xai_methods={"theirs": quantus_maps, "ours": ours.explain("GradCAM", layer="layer")},
            model=model.eval(),
            x_batch=x_batch,
            y_batch=y_batch,
            agg_func=np.mean,
            explain_func_kwargs={"method": "GradCAM", "device": device},
            call_kwargs={"0": {}},
        )
        for name in ("ADCC", "Sparseness"):
            assert results["ours"][name] == pytest.approx(results["theirs"][name], abs=1e-5)


class TestQuantusCallsOurs:
    """Maps are made where `Metric` lets its subclasses work: an update may go round that without an error."""

    CALLED = ("custom_preprocess", "explained", "evaluate_batch", "custom_postprocess")

    def test_no_final_method_is_overridden(self):
        final = {name for name, value in vars(Metric).items() if getattr(value, "__final__", False)}
        assert {"batch_preprocess", "explain_batch"} <= final
        assert not final & {name for cls in (ours.MapMetric, *ours.METRIC_CLASSES) for name in vars(cls)}

    @ALL_METRICS
    def test_they_are_called(self, metric, monkeypatch):
        calls = dict.fromkeys(self.CALLED, 0)

        def counting(name):
            original = getattr(metric, name)

            def called(self, *args, **kwargs):
                calls[name] += 1
                return original(self, *args, **kwargs)

            return called

        def never(*args, **kwargs):
            raise AssertionError("Quantus explained the batch itself")

        for name in calls:
            monkeypatch.setattr(metric, name, counting(name))
        monkeypatch.setattr(Metric, "explain_batch", never)
        x, y = np.random.default_rng(0).normal(size=(3, 3, *SIZE)).astype(np.float32), np.array([0, 1, 2])
        explain_func = ours.explain("GradCAM", layer="layer")
        score(metric, CNN().eval(), x, y, explain_func=explain_func, batch_size=2)
        explains_again = metric in (ours.Coherency, ours.ADCC, ours.ARCC)  # what the maps show
        assert calls["explained"] == (4 if explains_again else 2)
        assert calls["evaluate_batch"] == 2
        assert calls["custom_preprocess"] == calls["custom_postprocess"] == 1
