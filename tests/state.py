"""What a call must leave as it was."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import torch

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def snapshot(model: torch.nn.Module, *tensors: torch.Tensor) -> dict:
    """Everything that a call could disturb."""
    return {
        "state": copy.deepcopy(model.state_dict()),
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "hooks": [len(getattr(m, kind)) for m in model.modules() for kind in HOOKS],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "rng": torch.get_rng_state(),
        "grad_enabled": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": ((torch.ones(1, 1) @ torch.ones(1, 1)).dtype, torch.is_autocast_cache_enabled()),
        "attention": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
        ),
        "tensors": [(t.clone(), t.requires_grad, t.grad) for t in tensors],
    }


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a.nan_to_num(7.5), b.nan_to_num(7.5))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@contextmanager
def untouched(model: torch.nn.Module, *tensors: torch.Tensor):
    """Give every parameter a gradient, and check afterwards that nothing changed."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    before = snapshot(model, *tensors)
    try:
        yield
    finally:
        after = snapshot(model, *tensors)
        changed = [what for what in before if not equal(before[what], after[what])]
        assert not changed, f"the call changed {changed}"
        for parameter in model.parameters():
            parameter.grad = None
