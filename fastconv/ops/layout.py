"""Gradients in the memory format of what they are gradients of.

An operator writes its result in the format of its operands. A gradient may arrive in another one: a reshape before the
classifier, a sum, a view. Left alone, it would carry that format back through the whole network, and every layer on
the way, torch's BatchNorm above all, would read two formats at once.
"""

import torch
from torch import Tensor


def is_channels_last(t: Tensor) -> bool:
    """Whether an image lies in channels_last; False where its strides read both ways."""
    if t.stride(1) != 1:
        return False
    _, channels, height, width = t.shape
    return channels > 1 and (height > 1 or width > 1)


def writes_channels_last(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution of these does, by torch's rule."""
    return is_channels_last(x) or is_channels_last(weight)


def in_format(dy: Tensor, channels_last: bool) -> Tensor:
    """dy, copied if need be, so that what is computed from it is written in the format of the forward pass."""
    if not channels_last:
        return dy.contiguous() if is_channels_last(dy) else dy
    _, channels, height, width = dy.shape
    if height == width == 1 and dy.is_contiguous():  # nothing to move, but torch tells formats by strides
        return dy.as_strided(dy.shape, (channels, 1, channels, channels))
    return dy.contiguous(memory_format=torch.channels_last)
