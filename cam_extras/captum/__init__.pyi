"""Front end for Captum: every method as a `LayerAttribution`.

>>> from cam_extras.captum import LayerShapleyCam  # next to: from captum.attr import LayerGradCam
"""

# Written by tools/generate.py: edit the methods, and run it again.

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from torch import Generator, Tensor
from torch.nn import Module

from cam_extras import methods
from cam_extras.captum._host import MethodAttribution as MethodAttribution

def class_name(method: str) -> str: ...

class LayerGradCam(MethodAttribution):
    r"""Grad-CAM: contributions w_k A_k with w_k = mean_S(G_k).

    The baseline method: use it for comparison. It costs one forward pass and a backward pass that stops at the layer.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.GradCAM]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        utility: Literal["logit", "softmax", "log_softmax", "rest"] = "logit",
    ) -> None: ...

class LayerHiResCam(MethodAttribution):
    r"""HiResCAM: contributions G * A, element by element.

    Use it below the last layer, where a channel may support the class in one place and oppose it in another. It costs
    one forward pass and a backward pass that stops at the layer.

    Draelos and Carin, "Use HiResCAM instead of Grad-CAM for Faithful Explanations of Convolutional Neural
    Networks", arXiv:2011.08891, 2020.

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.HiResCAM]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        utility: Literal["logit", "softmax", "log_softmax", "rest"] = "logit",
    ) -> None: ...

class LayerXGradCam(MethodAttribution):
    r"""XGrad-CAM: contributions w_k A_k with w_k = sum_S(G_k A_k) / sum_S(A_k).

    The gradient is averaged over space with the activations as weights, so a channel's weight comes from where it is
    active. If sum_S(A_k) is 0, the weight is 0.

    Use it instead of Grad-CAM below the last layer, where activations are not negative: on signed layers sum_S(A_k) may
    be close to 0 and the weight unbounded. It costs one forward pass and a backward pass that stops at the layer.

    Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs", BMVC 2020.

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.XGradCAM]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        utility: Literal["logit", "softmax", "log_softmax", "rest"] = "logit",
    ) -> None: ...

class LayerShapleyCam(MethodAttribution):
    r"""ShapleyCAM: contributions w_k A_k with w = mean_S(G - 1/2 H A), under the ReST utility.

    Use it instead of Grad-CAM where the utility is not linear above the layer: below the last layer, or with a utility
    other than the logit. Where the utility is linear in the layer (the logit, global average pooling and one linear
    layer), H = 0 and it equals Grad-CAM. It costs one forward pass and two backward passes that stop at the layer.

    Cai, "CAMs as Shapley Value-based Explainers", arXiv:2501.06261, 2025.

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.ShapleyCAM]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        utility: Literal["logit", "softmax", "log_softmax", "rest"] = "rest",
    ) -> None: ...

class LayerShapleyCamH(MethodAttribution):
    r"""ShapleyCAM-H: contributions (G - 1/2 H A) * A, element by element, under the ReST utility.

    Use it like HiResCAM, below the last layer. It costs one forward pass and two backward passes that stop at the
    layer.

    Cai, "CAMs as Shapley Value-based Explainers", arXiv:2501.06261, 2025.

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.ShapleyCAMH]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        utility: Literal["logit", "softmax", "log_softmax", "rest"] = "rest",
    ) -> None: ...

class LayerShapleyCamE(MethodAttribution):
    r"""ShapleyCAM-E: contributions ReLU((G - 1/2 H A) * A), rectified per channel, under the ReST utility.

    Use it for maps that show all evidence; they depend less on the class than those of the other two (section 5). It
    costs one forward pass and two backward passes that stop at the layer.

    Cai, "CAMs as Shapley Value-based Explainers", arXiv:2501.06261, 2025.

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.ShapleyCAME]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        utility: Literal["logit", "softmax", "log_softmax", "rest"] = "rest",
    ) -> None: ...

class LayerMIGradCam(MethodAttribution):
    r"""MI-Grad-CAM: contributions w_k A_k with w_k = mean_S(G_k) m_k, m_k = I(A_k; X) / sum_j I(A_j; X).

    I is the mutual information between a channel and the grey image, see `mutual_information`. If it is 0 for all
    channels of a sample, all m_k are equal, which gives Grad-CAM, with a warning.

    Use it to damp channels that fire whatever the image shows, in layers whose maps have a few dozen cells or more. It
    costs one forward pass and a backward pass that stops at the layer; the histogram adds a fifth of a forward pass for
    1000 to 2000 channels of 7 x 7 cells.

    Args:
        utility: the utility of the class to differentiate: a key of `cam_extras.utilities.UTILITIES`. A function given
            to the host overrides it.
        estimator: estimator of the mutual information: "histogram", "discrete" or "knn".
        bins: number of histogram bins for each of the two variables; 2 to 4096.
        upsample: how channels are upsampled to the image: "nearest" or "bilinear".
        activation: applied to the sum over channels: "relu", or "leaky_relu", "sigmoid" or "elu" as in the paper's
            table 9. With the last three the contributions are the activated sum minus its minimum, (N, 1, *S), so that
            the hosts' ReLU removes nothing.
        seed: for the choice of pixels that "knn" samples.

    "MI-Grad-CAM: Letting Your Model Reveal What's Most Informative", equations (9) to (12).

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.MIGradCAM]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        utility: Literal["logit", "softmax", "log_softmax", "rest"] = "logit",
        estimator: Literal["histogram", "discrete", "knn"] = "histogram",
        bins: int = 64,
        upsample: Literal["nearest", "bilinear"] = "nearest",
        activation: Literal["relu", "leaky_relu", "sigmoid", "elu"] = "relu",
        seed: int = 0,
    ) -> None: ...

class LayerExpectedGradCam(MethodAttribution):
    r"""Expected Grad-CAM: contributions w_k A_k(x) with gradients averaged along paths from random baselines to x.

    w_k = mean_S[ 1/n sum_s D_k(x, x'_s) G_k(z_s) ] with z_s = x' + a_s (x - x') + e_s for s = 1 ... n, baselines x'_s,
    positions a_s ~ U(0, 1), noise e_s, and G the gradient of the utility of the class explained at x. The paper's
    smoothing kernel k is the noise. D is

    ============  ===============================================================
    `activation`  A(x) - A(x'), the change in the layer along the path
    `none`        1: the expected gradient alone
    `input`       A(x - x'), equation (21) of the paper taken literally
    ============  ===============================================================

    Use it where the model is saturated at x, so that the gradient there says little, and on layers without negative
    activations: w_k is already a contribution, and a negative A_k would flip its sign.

    Positions are stratified, one in each of n equal parts of [0, 1], and all baselines of a set are used equally often.
    Every image of a batch gets the same random numbers, so its map does not depend on the batch or on its place in it.
    An image costs n + 1 forward passes, and one more for each distinct baseline, except for other images of the batch,
    whose activations are known.

    Args:
        utility: the utility of the class to differentiate: a key of `cam_extras.utilities.UTILITIES`. A function given
            to the host overrides it.
        n_samples: n.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            four 224 x 224 images, which fit in its cache. With additional forward arguments, or a utility of the whole
            batch, a pass holds one point for every image of the batch instead.
        baselines: where paths start: "zeros"; "blur", the image without its detail; "noise", uniform between the
            image's minimum and maximum; "batch", the other images of the batch, on which the map then depends; a tensor
            (R, C, *S) of reference images; or a function (x, generator) -> tensor like x, called for one image at a
            time, shape (1, C, *S), with the same random numbers for each.
        difference: D: "activation", "none" or "input".
        noise: width of e as a fraction of the image's range (maximum minus minimum): the full interval around 0 if
            "uniform", the standard deviation if "normal". 0 for none.
        distribution: distribution of the noise, "uniform" or "normal".
        seed: seed for all random numbers.

    Raises:
        TypeError: the input is not made of floating-point numbers, or `baselines` is or returns something else.
        ValueError: the baselines differ from the input in shape or device or are not finite, or the batch has no other
            image.

    Buono et al., "Expected Grad-CAM: Towards gradient faithfulness", 2024, equations (18) and (21).

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.ExpectedGradCAM]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        utility: Literal["logit", "softmax", "log_softmax", "rest"] = "logit",
        n_samples: int = 16,
        internal_batch_size: int | None = None,
        baselines: Literal["zeros", "blur", "noise", "batch"]
        | Tensor
        | Callable[[Tensor, Generator], Tensor] = "zeros",
        difference: Literal["activation", "none", "input"] = "activation",
        noise: float = 0.1,
        distribution: Literal["uniform", "normal"] = "uniform",
        seed: int = 0,
    ) -> None: ...

class LayerIntegratedGradCam(MethodAttribution):
    r"""Integrated Grad-CAM: gradients averaged along the straight path from zero to x.

    Contributions w_k A_k(x) with w_k = mean_S[ (A(x) - A(0))_k 1/n sum_s G_k(a_s x) ], a_s = (s - 1/2) / n for
    s = 1 ... n: Expected Grad-CAM with zero as the only baseline, regular positions and no noise. `variant="maps"` does
    what the authors' code does: sum_i ReLU( sum_k mean_S(G_k(x_i)) A_k(x_i) ), x_i = (i / n) x for i = 0 ... n - 1,
    shape (N, 1, *S).

    Use it where the model is saturated at x and zero is a natural baseline, or to compare with the paper. An image
    costs n + 1 forward passes, plus one for the batch.

    Args:
        utility: the utility of the class to differentiate: a key of `cam_extras.utilities.UTILITIES`. A function given
            to the host overrides it.
        n_samples: n.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            four 224 x 224 images, which fit in its cache. With additional forward arguments, or a utility of the whole
            batch, a pass holds one point for every image of the batch instead.
        variant: "weights" or "maps".

    Raises:
        TypeError: the input is not made of floating-point numbers.

    Sattarzadeh et al., "Integrated Grad-CAM: Sensitivity-Aware Visual Explanation of Deep Convolutional Networks via
    Integrated Gradient-Based Scoring", ICASSP 2021; remark 3.3 of the paper of Expected Grad-CAM.

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.IntegratedGradCAM]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        utility: Literal["logit", "softmax", "log_softmax", "rest"] = "logit",
        n_samples: int = 50,
        internal_batch_size: int | None = None,
        variant: Literal["weights", "maps"] = "weights",
    ) -> None: ...

class LayerSmoothGradCamPlusPlus(MethodAttribution):
    r"""Smooth Grad-CAM++: contributions w_k A_k(x) with Grad-CAM++ weights from gradients averaged over noisy copies.

    w_k = sum_S alpha_k ReLU(D1_k), alpha_k = D2_k / (2 D2_k + D3_k sum_S A_k), where D1, D2 and D3 are the means of G,
    G^2 and G^3 over n noisy copies x + e of the input.

    Use it below the last layer, where single gradients are noisy; on the last layer of MobileNet-V2, Grad-CAM was at
    least as faithful (see docs/decisions.md). An image costs n + 1 forward passes.

    Args:
        utility: the utility of the class to differentiate: a key of `cam_extras.utilities.UTILITIES`. A function given
            to the host overrides it.
        n_samples: n.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            four 224 x 224 images, which fit in its cache. With additional forward arguments, or a utility of the whole
            batch, a pass holds one copy of every image of the batch instead.
        noise: width of e as a fraction of the image's range (maximum minus minimum): the standard deviation if
            "normal", the full interval around 0 if "uniform". 0 for none.
        distribution: distribution of the noise, "normal" or "uniform".
        seed: seed of the noise. Every image of a batch gets the same noise, up to scale.

    Raises:
        TypeError: the input is not made of floating-point numbers.

    Omeiza et al., "Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep Convolutional
    Neural Network Models", arXiv:1908.01224, 2019.

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.SmoothGradCAMPlusPlus]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        utility: Literal["logit", "softmax", "log_softmax", "rest"] = "logit",
        n_samples: int = 10,
        internal_batch_size: int | None = None,
        noise: float = 0.3,
        distribution: Literal["uniform", "normal"] = "normal",
        seed: int = 0,
    ) -> None: ...

class LayerOptiCam(MethodAttribution):
    r"""Opti-CAM: contributions softmax(u)_k A_k, with u optimised so that the model sees the class in the masked image.

    S(u) = h(sum_k softmax(u)_k A_k) is enlarged to the input's size and normalised to the mask s = n(Up(S(u))), and
    Adam, or NAdam, maximises one of

    =========  =====================================================
    `mask`     g(x*s)
    `diff`     -|g(x) - g(x*s)|
    `iomask`   g(x*s) - g(x*(1-s))
    `iodiff`   -|g(x) - g(x*s)| + |g(x) - g(x*(1-s))|
    =========  =====================================================

    over u, where g is the utility of the class. u starts at 0, which gives the mean over channels. If that mean is
    constant over space, as after a LayerNorm with its initial weights, u starts at the channels' standard deviations
    over space, divided by the largest. Samples do not influence each other; converged samples leave the batch.

    Every host shows the mask s of the last u. With `normalisation="range"` the minimum of S over space is subtracted
    from the contributions, split evenly over channels: their sum is S - min S, which hosts rectify and normalise to s.
    With the other two they are the mask itself, (N, 1, *input size).

    Use it where confidence in what the map shows matters more than time. An iteration costs a forward pass of the
    masked input and a backward pass to it (two of each for the last two objectives); no parameter gradients are
    computed.

    In float32 the iteration is chaotic: rounding, for instance with another batch size, changes single pixels of the
    final map, but not the average of a metric.

    Args:
        utility: g, a key of `cam_extras.utilities.UTILITIES`; a function given to the host overrides it.
        objective: "mask", "diff", "iomask" or "iodiff".
        normalisation: n: "range", min-max; "max", division by the maximum, after a ReLU where values are negative; or
            "sigmoid".
        rectifier: h, "identity", as in the paper's experiments, or "relu". They differ only for layers with negative
            values, as in transformers: there ReLU may leave nothing of the mean over channels, where u starts.
        optimiser: "adam", or "nadam", Adam with Nesterov's momentum.
        learning_rate: learning rate of the optimiser.
        max_iterations: maximum number of updates of u.
        tolerance: a sample has converged when its objective changes by less in one iteration.
        fill: value where the mask is 0, in the model's input space: a number, or a tensor that broadcasts to an image
            (C, *S), such as `cam_extras.maps.black(mean, std)`. Use the same for the metrics of the map.
        internal_batch_size: most images in a forward pass; by default 32, on the CPU only as many as have the pixels of
            four 224 x 224 images, which fit in its cache. With additional forward arguments, or a utility of the whole
            batch, a pass holds all images.
        progress: show a progress bar.

    Raises:
        SampleError: (when called) the objective does not depend on u at the start: the layer has the same value in all
            cells, `rectifier="relu"` leaves nothing, or the utility has no gradient. It is a ValueError that names the
            samples. If no mask changes the utility, as with a saturated probability, there is only a `UserWarning`.

    `OptiCAM(**OptiCAM.FAST)` reaches most of the average gain in three tenths of the time: see docs/decisions.md.

    Zhang et al., "Opti-CAM: Optimizing saliency maps for interpretability", 2024, equations (8) to (11), and its
    section 4.6 for objectives and normalisations.

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.OptiCAM]]
    FAST: ClassVar[dict[str, Any]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        utility: Literal["logit", "softmax", "log_softmax", "rest"] = "logit",
        objective: Literal["mask", "diff", "iomask", "iodiff"] = "mask",
        normalisation: Literal["range", "max", "sigmoid"] = "range",
        rectifier: Literal["identity", "relu"] = "identity",
        optimiser: Literal["adam", "nadam"] = "adam",
        learning_rate: float = 0.1,
        max_iterations: int = 100,
        tolerance: float = 1e-10,
        fill: float | Tensor = 0.0,
        internal_batch_size: int | None = None,
        progress: bool = False,
    ) -> None: ...

class LayerFakeCam(MethodAttribution):
    r"""Fake-CAM: one everywhere except in the top-left input pixel, which is zero; shape (N, 1, *input size).

    Use it to test metrics, at the cost of one forward pass. It explains nothing, yet gets an almost perfect average
    drop, increase in confidence and coherency. A good metric must see through it.

    Poppi et al., "Revisiting the Evaluation of Class Activation Mapping for Explainability", CVPR Workshops 2021.

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.FakeCAM]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
    ) -> None: ...

class LayerRandomCam(MethodAttribution):
    r"""Random-CAM: contributions w_k A_k with w_k ~ U(-1, 1), drawn for each sample.

    Use it to see what a method is worth, at the cost of one forward pass. A sample's weights depend only on `seed`, the
    number of channels and the values of its input. They are the same at every call and in every batch, and differ
    between images, also between an image and its masked copy, which coherency compares. The baseline of Cai, "CAMs as
    Shapley Value-based Explainers", 2025.

    Args:
        seed: seed of the weights, used together with the input.

    See `MethodAttribution` for the arguments before these, and for what a call takes and returns.
    """

    method_type: ClassVar[type[methods.RandomCAM]]
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | Module | Sequence[str | Module],
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        seed: int = 0,
    ) -> None: ...
