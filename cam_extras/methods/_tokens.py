"""Maps from values of a transformer's tokens."""

from __future__ import annotations

from torch import Tensor

from cam_extras.probe import Probe


def map_of_tokens(probe: Probe, values: Tensor) -> Tensor:
    """Arrange values of tokens (N, T) as the layer's cells: (N, 1, *S).

    The layer's tokens say how: with the `reshape_transform` that makes their feature map.

    Raises:
        ValueError: the layer has no cells for the tokens.
    """
    channels, size = probe.activations.shape[1], probe.activations.shape[2:]
    arrange = probe.reshape_transform
    if arrange is None or len(size) != probe.x.ndim - 2 or size.numel() > values.shape[1]:
        raise ValueError(
            f"{values.shape[1]} tokens do not fit a layer with a feature map of size {tuple(size)}: choose a layer of "
            "the transformer's blocks that returns tokens, such as blocks[-1].norm1"
        )
    return arrange(values[..., None].expand(-1, -1, channels).contiguous())[:, :1]


def check_class_token(probe: Probe, tokens: int) -> None:
    """Raise ValueError unless there are tokens beside the layer's cells, of which the first is the class token."""
    if tokens <= probe.activations.shape[2:].numel():
        raise ValueError(
            f'the {tokens} tokens are the cells of the layer, and none is a class token: give query="mean"'
        )
