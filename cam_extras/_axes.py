"""Where the axes of an input go: a forward pass in which every operation says what the dimensions of its result are.

A layer's output may be a feature map (N, C, *S), the same with its channels last, tokens (N, T, C) with a class token
in front, windows of a map, or tokens in an order of their own. Its shape alone does not tell. So each dimension of each
tensor is described by the parts of the input's axes that it runs over, from the input upwards. What cannot be followed
is called unknown, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

BATCH = -1
"""The axis of the samples; those of space count from 0."""

LOST = -2
"""What may be places, put in another order or mixed in a way that is not followed."""


class Part(NamedTuple):
    """A run over an axis, or over the coarse or the fine part of one: windows, patches.

    Attributes:
        axis: an axis of space, `BATCH`, or None for anything else, such as channels.
        size: how many places.
        step: their distance, in units of the finest places that the axis had.
        shift: by how many places the axis was rolled.
    """

    axis: int | None
    size: int
    step: int = 1
    shift: int = 0


class Padded(NamedTuple):
    """Patches with other tokens before or after them: class, distillation, registers."""

    before: int
    parts: tuple[Part, ...]
    after: int

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return self.before + _size(self.parts) + self.after


Item: TypeAlias = Part | Padded
Dim: TypeAlias = tuple[Item, ...]
"""What a dimension runs over, slowest first; empty if its size is 1."""


class CannotFollow(Exception):
    """The dimensions of a result cannot be followed."""


class Unclear(ValueError):
    """A tensor cannot be arranged as a feature map; the message says why."""


class Scrambled(Unclear):
    """A tensor has what may be places of the input, mixed or in another order."""


def _size(items: Iterable[Item]) -> int:
    return math.prod(item.size for item in items)


def unknown(size: int) -> Dim:
    """Return a dimension of which nothing is known, such as channels."""
    return (Part(None, size),) if size != 1 else ()


def _parts(dim: Dim) -> list[Part]:
    return [part for item in dim for part in (item.parts if isinstance(item, Padded) else (item,))]


def _is_space(dim: Dim) -> bool:
    return any(part.axis is not None and part.axis >= 0 for part in _parts(dim))


def _changed(dim: Dim, size: int) -> Dim:
    """Return a dimension that has other places than before, if it had any."""
    return (Part(LOST, size),) if _may_be_space(dim) and size > 1 else unknown(size)


def _mixed(dim: Dim, others: Sequence[Dim], size: int) -> Dim:
    """Follow weights that run over a dimension: over all places of an axis, or only over those within each patch."""
    left = {part.axis for other in others for part in _parts(other)}
    within = all(part.axis in left for part in _parts(dim) if part.axis is not None)
    return unknown(size) if within else _changed(dim, size)


def _may_be_space(dim: Dim) -> bool:
    return any(part.axis is not None and part.axis != BATCH for part in _parts(dim))


def _is_known(dim: Dim) -> bool:
    return any(part.axis is not None and part.axis != LOST for part in _parts(dim))


def _joined(items: Iterable[Item]) -> Dim:
    """Join neighbours that are the coarse and the fine part of one axis."""
    done: list[Item] = []
    for item in items:
        last = done[-1] if done else None
        if isinstance(item, Part) and isinstance(last, Part) and item.axis == last.axis and item.shift == last.shift:
            if item.axis is None:
                done[-1] = Part(None, last.size * item.size)
                continue
            if last.step == item.size * item.step:
                done[-1] = item._replace(size=last.size * item.size)
                continue
        if item.size != 1 or (isinstance(item, Part) and item.axis is not None):
            done.append(item)
    return tuple(done)


def regroup(dims: Sequence[Dim], shape: Sequence[int]) -> list[Dim]:
    """Follow a view: share the parts out among dimensions of other sizes.

    Raises:
        CannotFollow: the new sizes cut through what belongs together.
    """
    queue = list(_joined(item for dim in dims for item in dim))
    found = []
    for number, size in enumerate(shape):
        taken: list[Item] = []
        missing = size
        while missing > 1:
            if not queue:
                raise CannotFollow
            item = queue.pop(0)
            if missing % item.size == 0:
                taken.append(item)
                missing //= item.size
            elif item.size % missing == 0 and isinstance(item, Part):
                rest = item.size // missing
                taken.append(item._replace(size=missing, step=item.step * rest))
                queue.insert(0, item._replace(size=rest))
                missing = 1
            else:
                raise CannotFollow
        # An axis with a single place belongs to some dimension: to the next one, if that has a single place, too.
        following = shape[number + 1] if number + 1 < len(shape) else 0
        while queue and queue[0].size == 1 and (size == 1 or following != 1):
            taken.append(queue.pop(0))
        found.append(_joined(taken))
    return found


def merge(first: Dim, second: Dim) -> Dim:
    """Follow an elementwise operation: what is known of one operand holds for the result."""
    if _places(first) == _places(second) or second == unknown(_size(second)):
        return first
    if first == unknown(_size(first)) or not _is_known(first):
        return second
    return first if not _is_known(second) else (Part(LOST, _size(first)),)  # two different axes


def _places(dim: Dim) -> list[Any]:
    return [
        (item.before, _places(item.parts), item.after) if isinstance(item, Padded) else item._replace(step=1)
        for item in dim
    ]


def _resized(dim: Dim, size: int) -> Dim:
    """Follow padding, pooling, interpolation and convolution: the places of an axis become more or fewer."""
    if _size(dim) == size:
        return dim
    if len(dim) == 1 and isinstance(dim[0], Part) and dim[0].axis is not None:
        return (dim[0]._replace(size=size, step=1),)
    return _changed(dim, size)


def _padded(dim: Dim, before: int, after: int) -> Dim:
    """Follow padding with a constant: of an axis, or of tokens."""
    size = before + _size(dim) + after
    if before < 0 or after < 0 or (len(dim) < 2 and not (dim and isinstance(dim[0], Padded))):
        return _resized(dim, size)
    return _concatenated([unknown(before), dim, unknown(after)], [before, _size(dim), after])


def _cut(dim: Dim, start: int, stop: int, step: int = 1) -> Dim:
    """Follow a slice."""
    size = len(range(start, stop, step))
    if size == _size(dim) and step == 1:
        return dim
    if len(dim) == 1 and step == 1 and isinstance(dim[0], Padded):
        first, parts, _ = dim[0]
        last = first + _size(parts)
        if start <= first and stop >= last:
            left = Padded(first - start, parts, stop - last)
            return (left,) if left.before or left.after else parts
        return unknown(size) if stop <= first or start >= last else _changed(dim, size)
    if len(dim) == 1 and isinstance(dim[0], Part) and dim[0].axis is not None and not dim[0].shift:
        return (dim[0]._replace(size=size, step=dim[0].step * step),)
    return _changed(dim, size)


def _concatenated(dims: Sequence[Dim], sizes: Sequence[int]) -> Dim:
    """Follow a concatenation along a dimension: patches may get other tokens before and after them."""
    known = [number for number, dim in enumerate(dims) if _may_be_space(dim)]
    if not known:
        return unknown(sum(sizes))
    if len(known) > 1 or not _is_space(dims[known[0]]):
        return (Part(LOST, sum(sizes)),)
    number = known[0]
    before, after = sum(sizes[:number]), sum(sizes[number + 1 :])
    dim = dims[number]
    if not before and not after:
        return dim
    if len(dim) == 1 and isinstance(dim[0], Padded):
        return (Padded(dim[0].before + before, dim[0].parts, dim[0].after + after),)
    if any(isinstance(item, Padded) for item in dim):
        return (Part(LOST, sum(sizes)),)
    return (Padded(before, tuple(_parts(dim)), after),)


_VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "view_copy", "flatten"}
_MOVES = {"permute", "transpose", "t", "expand", "slice", "select", "unbind", "split", "split_with_sizes", "chunk"}
_SAME = {"clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh"}
_COMPUTES_NOTHING = _VIEWS | _MOVES | _SAME
_REDUCTIONS = {
    *("mean", "sum", "amax", "amin", "max", "min", "prod", "std", "var", "var_mean", "std_mean", "norm", "argmax"),
    *("linalg_vector_norm", "logsumexp", "argmin", "any", "all", "median"),
}
_RESIZES = ("pool", "upsample", "pad", "pixel_shuffle", "pixel_unshuffle")
_CONVOLUTIONS = {"convolution", "_convolution", "deform_conv2d"}
# Results of the input's shape whose places are in another order, or are something else than places.
_DISORDERS = (
    "sort",
    "flip",
    "gather",
    "fft",
    "scatter",
    "index",
    "take",
    "unfold",
    "as_strided",
    "rot90",
    "grid_sampler",
)


class AxisTracker(TorchDispatchMode):
    """Follows an input's axes through whatever runs in the block.

    Args:
        x: the input, shape (N, C, *S).
        at_work: called for each operation that mixes places as attention does, and for each that computes anything.
    """

    def __init__(self, x: Tensor, at_work: Callable[[bool], None] = lambda mixes: None):
        super().__init__()  # type: ignore[no-untyped-call]
        self.space = x.ndim - 2
        self.samples = len(x)
        self.at_work = at_work
        self.first: set[torch.Size] = set()
        self.last: set[torch.Size] = set()
        self._dims: dict[tuple[Any, ...], list[Dim]] = {}
        axes = [BATCH, None, *range(self.space)]
        self._dims[_key(x)] = [
            (Part(axis, size),) if size > 1 else () for axis, size in zip(axes, x.shape, strict=False)
        ]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
        results = [item for item in (result if isinstance(result, tuple | list) else [result]) if _is_plain(item)]
        if not results:
            return result
        try:
            given |= kwargs or {}
            found = self._follow(name, given, results)
        except Exception:  # an operation used in a way that its rule does not know
            found = []
        if name not in _COMPUTES_NOTHING:
            self.at_work(self._mixes(name, given))
        for number, tensor in enumerate(results):
            dims = found[number] if number < len(found) else []
            if [_size(dim) for dim in dims] != list(tensor.shape):
                dims = self._lost(given, tensor.shape)
            self._dims[_key(tensor)] = dims
        return result

    def _lost(self, given: dict[str, Any], shape: torch.Size) -> list[Dim]:
        """Return what is left to say of a result whose operation cannot be followed."""
        operands = [
            item for value in given.values() for item in (value if isinstance(value, list | tuple) else [value])
        ]
        dims = [dim for operand in operands if _is_plain(operand) for dim in self.of(operand)]
        whole = tuple(item for dim in dims for item in dim)
        return [unknown(size) if number == 0 else _changed(whole, size) for number, size in enumerate(shape)]

    def of(self, tensor: Tensor) -> list[Dim]:
        """Return what the dimensions of a tensor run over."""
        found = self._dims.get(_key(tensor)) if _is_plain(tensor) else None
        return found if found is not None else [unknown(size) for size in tensor.shape]

    def _mixes(self, name: str, given: dict[str, Any]) -> bool:
        if name in ("bmm", "baddbmm"):
            operands = [value for value in given.values() if isinstance(value, Tensor)]
            return _is_space(self.of(operands[-2])[2])
        return "scaled_dot_product" in name and _is_space(self.of(given["key"])[-2])

    def _follow(self, name: str, given: dict[str, Any], results: list[Tensor]) -> list[list[Dim]]:
        """Return the dimensions of an operation's results."""
        shape = results[0].shape
        x: Any = given.get("self", given.get("input"))
        dims = self.of(x) if isinstance(x, Tensor) else []
        if name in _VIEWS:
            return [regroup(dims, shape)]
        if name in ("permute", "transpose", "t"):
            order = list(range(len(dims)))
            if name == "permute":
                order = [dim % len(dims) for dim in given["dims"]]
            elif len(order) > 1:
                one, other = given.get("dim0", 0), given.get("dim1", 1)
                order[one], order[other] = order[other], order[one]
            return [[dims[dim] for dim in order]]
        if name in ("expand", "repeat"):
            old = [unknown(1)] * (len(shape) - len(dims)) + dims
            return [[dim if _size(dim) == size else unknown(size) for dim, size in zip(old, shape, strict=True)]]
        if name in ("slice", "select", "unbind", "split", "split_with_sizes", "chunk"):
            return self._pieces(name, given, dims, x, results)
        if name == "cat":
            return [self._cat(given["tensors"], given.get("dim", 0))]
        if name == "roll":
            return [self._rolled(dims, given)]
        if name in _CONVOLUTIONS:
            return [self._convolved(given, dims, shape)]
        if name in ("im2col", "col2im"):
            return [self._unfolded(name, given, dims, shape)]
        if name == "constant_pad_nd":
            pads = [(0, 0)] * len(dims)
            for number in range(len(given["pad"]) // 2):
                pads[-1 - number] = given["pad"][2 * number], given["pad"][2 * number + 1]
            return [[_padded(dim, *pad) for dim, pad in zip(dims, pads, strict=True)]]
        if any(word in name for word in _RESIZES) and len(dims) == len(shape):
            self.first |= {x.shape, shape} if "pool" in name else set()
            return [[_resized(dim, size) for dim, size in zip(dims, shape, strict=True)]] * len(results)
        if name in ("mm", "addmm", "bmm", "baddbmm", "_addmm_activation"):
            one, other = (self.of(value) for value in [v for v in given.values() if isinstance(v, Tensor)][-2:])
            batch = [merge(one[0], other[0])] if len(one) == 3 else []
            rows, columns = one[-2], other[-1]
            # Weights that run over places may put them in any order; attention runs over the places of both.
            if not _may_be_space(other[-2]) and not _is_known(columns):
                columns = _mixed(one[-1], one[:-1], _size(columns))
            elif not _may_be_space(one[-1]) and not _is_known(rows):
                rows = _mixed(other[-2], other[-1:], _size(rows))
            return [[*batch, rows, columns]]
        if name == "linear":
            self.last |= {x.shape, shape}
            return [[*dims[:-1], _mixed(dims[-1], dims[:-1], shape[-1])]]
        if "scaled_dot_product" in name:
            query, value = self.of(given["query"]), self.of(given["value"])
            return [[*query[:-1], value[-1]], *([query[:-1]] * (len(results) - 1))]
        if name in _REDUCTIONS:
            return [self._reduced(given, dims, result.shape) for result in results]
        if any(word in name for word in _DISORDERS):
            return [self._disordered(given, dims, result.shape) for result in results]
        if "norm" in name and len(dims) > 2:
            last = "normalized_shape" in given and len(given["normalized_shape"]) == 1
            (self.last if last else self.first).add(shape)
        return [self._elementwise(given, result.shape) for result in results]

    def _elementwise(self, given: dict[str, Any], shape: torch.Size) -> list[Dim]:
        merged = [unknown(size) for size in shape]
        for value in given.values():
            for tensor in value if isinstance(value, list | tuple) else [value]:
                if not isinstance(tensor, Tensor) or tensor.ndim > len(shape):
                    continue
                start = len(shape) - tensor.ndim
                if any(size not in (1, shape[start + n]) for n, size in enumerate(tensor.shape)):
                    continue
                for number, dim in enumerate(self.of(tensor)):
                    if tensor.shape[number] == shape[start + number]:
                        merged[start + number] = merge(merged[start + number], dim)
        return merged

    def _pieces(
        self, name: str, given: dict[str, Any], dims: list[Dim], x: Tensor, results: list[Tensor]
    ) -> list[list[Dim]]:
        at = given.get("dim", 0) % len(dims)
        if name in ("select", "unbind"):
            return [dims[:at] + dims[at + 1 :]] * len(results)
        found, start = [], 0
        if name == "slice":
            start = given.get("start") or 0
            start = max(start + x.shape[at], 0) if start < 0 else start
        step = given.get("step", 1)
        for result in results:
            stop = start + result.shape[at] * step - (step - 1)
            found.append([*dims[:at], _cut(dims[at], start, stop, step), *dims[at + 1 :]])
            start = stop
        return found

    def _cat(self, tensors: Sequence[Tensor], at: int) -> list[Dim]:
        kept = [tensor for tensor in tensors if tensor.shape != (0,)]
        at %= kept[0].ndim
        all_dims = [self.of(tensor) for tensor in kept]
        merged = list(all_dims[0])
        for dims in all_dims[1:]:
            merged = [
                merge(one, other) if n != at else one for n, (one, other) in enumerate(zip(merged, dims, strict=True))
            ]
        merged[at] = _concatenated([dims[at] for dims in all_dims], [tensor.shape[at] for tensor in kept])
        return merged

    def _rolled(self, dims: list[Dim], given: dict[str, Any]) -> list[Dim]:
        rolled = list(dims)
        for shift, at in zip(given["shifts"], given.get("dims", ()), strict=True):
            dim = rolled[at]
            if len(dim) == 1 and isinstance(dim[0], Part) and dim[0].axis is not None:
                rolled[at] = (dim[0]._replace(shift=(dim[0].shift + shift) % dim[0].size),)
            else:
                rolled[at] = _changed(dim, _size(dim))
        return rolled

    def _convolved(self, given: dict[str, Any], dims: list[Dim], shape: torch.Size) -> list[Dim]:
        x = given["input"]
        self.first |= {x.shape, shape}
        space = [_resized(dim, size) for dim, size in zip(dims[2:], shape[2:], strict=True)]
        if len(space) == self.space and not any(map(_may_be_space, dims[2:])):
            # Lost on the way, as where images are padded to a batch one by one; a convolution runs over space.
            space = [(Part(axis, size),) for axis, size in enumerate(shape[2:])]
        else:
            space = [
                (Part(dim[0].axis, size),)  # coarse places are the places from now on
                if len(dim) == 1 and isinstance(dim[0], Part) and dim[0].axis is not None and not dim[0].shift
                else dim
                for dim, size in zip(space, shape[2:], strict=True)
            ]
        batch = dims[0]
        if not _is_known(batch) and shape[0] == self.samples > 1:
            batch = (Part(BATCH, shape[0]),)
        return [batch, _mixed(dims[1], dims[2:], shape[1]), *space]

    def _unfolded(self, name: str, given: dict[str, Any], dims: list[Dim], shape: torch.Size) -> list[Dim]:
        if name == "col2im":
            return [dims[0], unknown(shape[1]), *((Part(axis, size),) for axis, size in enumerate(shape[2:]))]
        x = given["self"]
        sizes = []
        for size, kernel, dilation, padding, stride in zip(
            x.shape[2:], given["kernel_size"], given["dilation"], given["padding"], given["stride"], strict=True
        ):
            sizes.append((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
        grid = [_resized(dim, size) for dim, size in zip(dims[2:], sizes, strict=True)]
        # Each place is a window now: its step is that between windows.
        places = [item._replace(step=1) if isinstance(item, Part) else item for dim in grid for item in dim]
        return [dims[0], unknown(shape[1]), tuple(places)]

    def _disordered(self, given: dict[str, Any], dims: list[Dim], shape: torch.Size) -> list[Dim]:
        if len(shape) != len(dims):
            raise CannotFollow
        over = given.get("dim", given.get("dims"))
        if "indices" in given:
            over = [number for number, index in enumerate(given["indices"]) if index is not None]
        over = range(len(dims)) if over is None else [over] if isinstance(over, int) else over
        moved = {number % len(dims) for number in over}
        return [
            dim if number not in moved else _changed(dim, size)
            for number, (dim, size) in enumerate(zip(dims, shape, strict=True))
        ]

    def _reduced(self, given: dict[str, Any], dims: list[Dim], shape: torch.Size) -> list[Dim]:
        over = given.get("dim", given.get("dims"))
        over = range(len(dims)) if over is None or over == [] else [over] if isinstance(over, int) else over
        reduced = {dim % len(dims) for dim in over}
        if len(shape) == len(dims):
            return [unknown(1) if number in reduced else dim for number, dim in enumerate(dims)]
        return [dim for number, dim in enumerate(dims) if number not in reduced]

    def arrangement(self, tensor: Tensor) -> Arrangement | None:
        """Return what makes a feature map (N, C, *S) of a tensor; None if it is one.

        Raises:
            Unclear: not every axis of space is known to be in the tensor, once and complete.
        """
        if self.space < 1:  # token ids, say: there are no places to look for
            return None
        dims = self.of(tensor)
        items = [item for dim in dims for item in dim]
        parts = _parts(tuple(items))
        if any(part.axis == LOST for part in parts):
            raise Scrambled("its places are mixed or in another order")
        axes = [part.axis for part in parts if part.axis is not None and part.axis >= 0]
        at_home = tensor.ndim == self.space + 2
        if at_home and not axes:
            if tensor.shape in self.last and tensor.shape not in self.first:
                raise Unclear("which of its dimensions are places of the input cannot be seen")
            return None
        if at_home and all(_is_home(dim, number - 2) for number, dim in enumerate(dims)):
            return None
        if missing := set(range(self.space)) - set(axes):
            one = "dimensions" if len(missing) > 1 else "dimension"
            raise Unclear(
                f"{len(missing)} of the input's {self.space} spatial {one} cannot be found in it"
                if axes
                else "its places cannot be found in it"
            )
        if any(part.shift for part in parts):
            raise Unclear("its places are shifted, as in the windows of a Swin")
        return _arrange(items, self.samples, self.space)


def _is_home(dim: Dim, axis: int) -> bool:
    """Whether a dimension is where (N, C, *S) has it; `axis` is negative for samples and channels."""
    if axis < 0 or not dim:
        return not _is_space(dim)
    return len(dim) == 1 and isinstance(dim[0], Part) and dim[0].axis == axis and not dim[0].shift


def _arrange(items: Sequence[Item], samples: int, space: int) -> Arrangement:
    """Sort parts into samples, channels and axes of space."""
    whole: list[int] = []
    cuts = []
    parts: list[Part] = []
    for number, item in enumerate(items):
        whole.append(item.size)
        if isinstance(item, Part) and item.axis == BATCH:
            whole[-1] = -1
        if isinstance(item, Padded):
            cuts.append((number, item.before, _size(item.parts)))
            parts.extend(item.parts)
        else:
            parts.append(item)
    batch = [number for number, part in enumerate(parts) if part.axis == BATCH]
    if not batch and samples > 1 and items and items[0] == Part(None, samples):
        batch, parts[0], whole[0] = [0], Part(BATCH, samples), -1
    if samples > 1 and (len(batch) != 1 or parts[batch[0]].size != samples):
        raise Unclear("its samples are not in one dimension")
    channels = [number for number, part in enumerate(parts) if part.axis is None]
    order, sizes = [*batch, *channels], []
    for axis in range(space):
        numbers = sorted(
            (number for number, part in enumerate(parts) if part.axis == axis), key=lambda number: -parts[number].step
        )
        chain = [parts[number] for number in numbers]
        if any(coarse.step != fine.size * fine.step for coarse, fine in pairwise(chain)):
            raise Unclear("places of the input are in it more than once")
        order += numbers
        sizes.append(_size(chain))
    return Arrangement(
        whole=tuple(whole),
        cuts=tuple(cuts),
        parts=tuple(-1 if part.axis == BATCH else part.size for part in parts),
        order=tuple(order),
        grid=tuple(sizes),
        channels=_size(parts[number] for number in channels),
    )


@dataclass(frozen=True)
class Arrangement:
    """Makes a feature map (N, C, *S) of a layer's output: a linear function that only moves and drops values.

    Attributes:
        whole: the sizes into which the output's dimensions are split; -1 for the samples.
        cuts: (dimension, first, count) of the patches where there are other tokens.
        parts: the sizes after that.
        order: how those are permuted, to samples, channels, and the axes of space.
        grid: the sizes of the feature map, *S.
        channels: C.
    """

    whole: tuple[int, ...]
    cuts: tuple[tuple[int, int, int], ...]
    parts: tuple[int, ...]
    order: tuple[int, ...]
    grid: tuple[int, ...]
    channels: int

    def __call__(self, values: Tensor) -> Tensor:
        """Return the feature map (N, C, *S) of an output."""
        rows = -1 if -1 in self.whole else 1
        try:
            values = values.reshape(self.whole)
            for dim, first, count in self.cuts:
                values = values.narrow(dim, first, count)
            values = values.reshape(self.parts).permute(self.order)
        except RuntimeError as error:
            raise ValueError(f"an output of shape {tuple(values.shape)} is not arranged as before: {error}") from error
        return values.reshape(rows, self.channels, *self.grid)


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and not is_lazy(value) and value.layout == torch.strided and not value.is_quantized


def _key(tensor: Tensor) -> tuple[Any, ...]:
    """Return what a tensor is known by: views are objects of their own below autograd, and memory is used again."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()
