"""Lists of arrays of different length to padded tensors and back."""

from collections.abc import Sequence
from typing import Any

import torch
from thinc.api import Ops, torch2xp, xp2torch
from thinc.types import Floats2d
from torch.nn.utils.rnn import pad_sequence


def pad(arrays: Sequence[Floats2d], *, requires_grad: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack arrays, filling up with zeros.

    arrays (Sequence[Floats2d]): One a post, (rows, width); at least one.
    requires_grad (bool): Whether the tensor is to receive a gradient.
    RETURNS (Tuple[torch.Tensor, torch.Tensor]): (b, most rows, width), and the mask, bool (b, most rows).
    """
    tensors = [xp2torch(array) for array in arrays]
    padded = pad_sequence(tensors, batch_first=True).detach()
    lengths = torch.tensor([len(array) for array in arrays], device=padded.device)
    mask = torch.arange(padded.shape[1], device=padded.device) < lengths.unsqueeze(1)
    return padded.requires_grad_(requires_grad), mask


def unpad(tensor: torch.Tensor, lengths: Sequence[int]) -> list[Floats2d]:
    """The inverse of `pad`.

    tensor (torch.Tensor): (b, rows, width).
    lengths (Sequence[int]): Real rows of each post.
    RETURNS (List[Floats2d]): Arrays of their own, (rows of the post, width).
    """
    array: Any = torch2xp(tensor.detach())
    return [array[i, :length].copy() for i, length in enumerate(lengths)]


def zeros_like(ops: Ops, arrays: Sequence[Floats2d]) -> list[Floats2d]:
    """RETURNS (List[Floats2d]): Zeros of the same shapes."""
    return [ops.alloc2f(*array.shape) for array in arrays]
