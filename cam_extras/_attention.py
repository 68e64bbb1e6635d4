"""Attention probabilities of vision transformers, seen where the model calls functions of torch.

That is `scaled_dot_product_attention`, as in torchvision, timm and Hugging Face by default, or `softmax` where
attention is written out. The model itself is not changed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cam_extras._guards import Switch
from cam_extras._inputs import leave_inference
from cam_extras._outputs import one_for_all, pick_output
from cam_extras.probe import Probe, _to_float, hook_of_a_call, undisturbed

_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
_of_thread = threading.local()


def attention_probabilities(probe: Probe) -> list[Tensor]:
    """Return the attention probabilities of every block at the probe's input, each (N, heads, T, T).

    It takes a forward pass. The model is left as found.

    Raises:
        ValueError: the model has no such attention, or it does not attend to all tokens of an image.
    """
    with torch.no_grad(), undisturbed(probe.model, probe.x.device), _recorded(len(probe.x)) as probabilities:
        _run(probe, probe.x)
    _check(probe, probabilities)
    return [_to_float(values) for values in probabilities]


def attention_gradients(probe: Probe) -> list[Tensor]:
    """Return d s / d A of every block, (N, heads, T, T), where A are its attention probabilities and s is its score.

    The score is the utility of the class if the model's head is given the mean of the block's tokens. It takes a
    forward pass of one image, one of the batch, and a backward pass within each block. The model is left as found.

    Raises:
        ValueError: the model has no such attention, it does not attend to all tokens of an image, or is not made of
            blocks with one attention each.
    """
    blocks = _blocks(probe)
    with ExitStack() as stack:
        stack.enter_context(undisturbed(probe.model, probe.x.device))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        probabilities = stack.enter_context(_recorded(len(probe.x)))
        means: list[Tensor] = []

        def score(module: nn.Module, args: Any, output: Any) -> Any:
            tokens = output[0] if isinstance(output, tuple) else output
            means.append(tokens.mean(dim=1, keepdim=True).expand_as(tokens))
            tokens = tokens.detach()  # a block's score is differentiated within the block
            if len(means) == len(blocks):  # the head, which may read any token, scores all blocks' means in this pass
                tokens = torch.cat([tokens, *means])
            return (tokens, *output[1:]) if isinstance(output, tuple) else tokens

        for block in blocks:
            hook = stack.enter_context(hook_of_a_call(score))
            stack.callback(block.register_forward_hook(hook).remove)
        _, *scores = _to_float(_run(probe, probe.x, copies=1 + len(blocks))).split(len(probe.x))
        value = sum(probe.utility_of(outputs).sum() for outputs in scores)
        gradients = torch.autograd.grad(value, probabilities)  # type: ignore[arg-type]
    return [_to_float(gradient) for gradient in gradients]


def _attend(
    fused: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options: Any,
) -> Tensor:
    """Do what `fused`, the function replaced, does; in a thread within `_recorded`, step by step."""
    record: Callable[[Tensor], Tensor] | None = getattr(_of_thread, "record", None)
    if record is None or is_causal or query.shape != key.shape:
        options |= {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
        return fused(query, key, value, **options)
    logits = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        logits = logits + attn_mask
    return record(torch.special.softmax(logits, dim=-1)) @ value


class _WrittenOut(TorchFunctionMode):
    """Records the softmax of attention that is written out, without `scaled_dot_product_attention`."""

    def __init__(self, record: Callable[[Tensor], Tensor]):
        super().__init__()
        self.record = record

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func not in _SOFTMAX or result.ndim != 4 or result.shape[2] != result.shape[3]:
            return result
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        return self.record(result) if dim in (-1, 3) else result


@contextmanager
def _patched() -> Iterator[None]:
    fused = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = partial(_attend, fused)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused


_PATCHED = Switch(_patched)


@contextmanager
def _recorded(samples: int) -> Iterator[list[Tensor]]:
    """Collect the probabilities of attention in this thread; gradients with respect to them can be computed."""
    found: list[Tensor] = []

    def record(probabilities: Tensor) -> Tensor:
        if probabilities.ndim != 4 or len(probabilities) != samples:
            raise ValueError(
                f"expected attention probabilities of shape ({samples}, heads, T, T), one matrix for all tokens of an "
                f"image; got {tuple(probabilities.shape)}: attention within windows has no such matrix"
            )
        found.append(probabilities.detach().requires_grad_(torch.is_grad_enabled()))
        return found[-1]

    # The mode does not see what `nn.MultiheadAttention` calls; what is patched does not see a softmax.
    with _PATCHED.on(), _WrittenOut(record):
        _of_thread.record = record
        try:
            yield found
        finally:
            _of_thread.record = None


def _run(probe: Probe, x: Tensor, copies: int = 1) -> Any:
    """Run the model, which returns `copies` outputs for every sample."""
    outputs = probe.other_inputs.mapped(leave_inference).call(probe.model, x.clone())
    scores, shared = pick_output(outputs, copies * len(x), probe.output)
    if shared:
        raise one_for_all(copies * len(x), "attention is read for separate images")
    return scores


def _blocks(probe: Probe) -> list[nn.Module]:
    """Return the outermost modules with one attention each that return tokens, in the order in which they run."""
    x = probe.x if probe.other_inputs else probe.x[:1]
    blocks: dict[int, nn.Module] = {}
    before: dict[str, int] = {}

    def enter(name: str, module: nn.Module, args: Any) -> None:
        before[name] = len(seen)

    def leave(name: str, module: nn.Module, args: Any, output: Any) -> None:
        tokens = output[0] if isinstance(output, tuple) and output else output
        if len(seen) != before[name] + 1 or not isinstance(tokens, Tensor) or tokens.ndim != 3:
            return
        if tokens.shape[:2] == (len(x), seen[-1].shape[-1]):
            blocks[before[name]] = module  # inner modules come first

    with ExitStack() as stack:
        stack.enter_context(undisturbed(probe.model, x.device))
        stack.enter_context(torch.no_grad())
        seen = stack.enter_context(_recorded(len(x)))
        for name, module in probe.model.named_modules() if isinstance(probe.model, nn.Module) else ():
            entering = stack.enter_context(hook_of_a_call(partial(enter, name)))
            leaving = stack.enter_context(hook_of_a_call(partial(leave, name)))
            stack.callback(module.register_forward_pre_hook(entering).remove)
            stack.callback(module.register_forward_hook(leaving).remove)
        _run(probe, x)
    _check(probe, seen)
    if len(set(blocks.values())) < len(seen):
        raise ValueError(
            f"{len(seen)} attentions were seen in this {type(probe.model).__name__} and {len(set(blocks.values()))} "
            "blocks that have one of them and return tokens (N, T, C): the method needs a block for every attention"
        )
    return [blocks[number] for number in range(len(seen))]


def _check(probe: Probe, probabilities: list[Tensor]) -> None:
    if not probabilities:
        raise ValueError(
            f"no attention was seen in this {type(probe.model).__name__}: the method needs a vision transformer whose "
            "attention calls torch.nn.functional.scaled_dot_product_attention or softmax, as those of torchvision, "
            'timm and Hugging Face (with attn_implementation="sdpa" or "eager") do'
        )
