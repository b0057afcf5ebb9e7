"""Fixed numbers on a device, predicates of fixed tensors, and tensors that are the same memory.

They spare an accelerator the copies and waits of every step. None of them changes a result.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


def constant(values: float | Sequence[float], like: Tensor) -> Tensor:
    """Return numbers as a tensor of the precision and on the device of ``like``.

    They are copied to the device once. The tensor is shared: do not write to it.

    Args:
        values: a number, or a sequence of numbers.
        like: tensor that gives precision and device.

    >>> constant((1.0, 2.0), torch.zeros(1, dtype=torch.float64))
    tensor([1., 2.], dtype=torch.float64)
    """
    if isinstance(values, (int, float)):
        return torch.full((), values, dtype=like.dtype, device=like.device)
    # As bytes, because 0 and -0 are equal numbers.
    return _constant(struct.pack(f"{len(values)}d", *values), like.dtype, like.device)


@lru_cache(maxsize=512)
def _constant(values: bytes, dtype: torch.dtype, device: torch.device) -> Tensor:
    numbers = struct.unpack(f"{len(values) // 8}d", values)
    with torch.inference_mode(False):  # later calls may record gradients
        return torch.tensor(numbers, dtype=dtype, device=device)


def compute_once(predicate: Callable[[Tensor], bool], tensor: Tensor) -> bool:
    """Return the value of a predicate of a tensor, which the host waits for once.

    The value is stored until the tensor is written to.

    Args:
        predicate: module-level function of a tensor.
        tensor: tensor, usually a setting that stays the same.

    >>> zeros = torch.zeros(3)
    >>> compute_once(is_nonzero, zeros), zeros.add_(1)[0].item(), compute_once(is_nonzero, zeros)
    (False, 1.0, True)
    """
    if tensor.is_inference():
        return predicate(tensor)
    answers = _ANSWERS.setdefault(tensor, {})
    version, answer = answers.get(predicate, (None, False))
    if version != tensor._version:
        answer = predicate(tensor)
        answers[predicate] = tensor._version, answer
    return answer


def convert(tensor: Tensor, like: Tensor) -> Tensor:
    """Return ``tensor.to(like)``; a copy to another device is stored until the tensor changes.

    The copy is shared: do not write to it.
    """
    if tensor.device == like.device or tensor.requires_grad or tensor.is_inference():
        return tensor.to(like)
    copies = _COPIES.setdefault(tensor, {})
    key = like.dtype, like.device, tensor._version
    if key not in copies:
        with torch.inference_mode(False):
            copies.clear()
            copies[key] = tensor.to(like)
    return copies[key]


_COPIES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_ANSWERS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def is_nonzero(tensor: Tensor) -> bool:
    """Return whether some entry of a tensor is not 0."""
    return bool((tensor != 0).any())


def is_equal(a: Tensor, b: Tensor) -> bool:
    """Return ``torch.equal(a, b)``, without a comparison if both are the same memory."""
    return (
        a is b
        or (
            a.dtype == b.dtype
            and a.shape == b.shape
            and a.stride() == b.stride()
            and a.device == b.device
            and a.data_ptr() == b.data_ptr()
        )
        or torch.equal(a, b)
    )
