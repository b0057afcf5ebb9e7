"""How the items of a batch share the vector registers of the CPU."""

from __future__ import annotations

from torch import Tensor


def plan_lanes(tensor: Tensor) -> list[tuple[int, int, int]]:
    """Parts of a batch as (first item, items, lanes): on the CPU, items that lie next to each other in
    memory.

    A vector of 64 bytes is hardly slower than one number, so some empty lanes cost less than another pass.

    >>> import torch
    >>> plan_lanes(torch.zeros(19, 2, 2))
    [(0, 16, 16), (16, 3, 4)]
    """
    batch = tensor.shape[0]
    if tensor.device.type == "cuda":
        return [(0, batch, 1)]
    size = tensor.element_size()
    wide, narrow = 64 // size, 16 // size
    plan, start = [], 0
    while start < batch:
        left = batch - start
        lanes = wide if left > narrow else narrow if left > 1 else 1
        plan.append((start, min(left, lanes), lanes))
        start += lanes
    return plan


def pad_lines(values: Tensor, lanes: int) -> Tensor:
    """Items ``(count, lines, across)`` with two zeros on either side of every line, and the items innermost.

    Returns:
        shape (items, lines, across + 4, lanes), where items is ``count`` for one lane and 1 otherwise; empty
        lanes are zero.
    """
    count, length, across = values.shape
    padded = values.new_empty(count if lanes == 1 else 1, length, across + 4, lanes)
    padded[:, :, :2] = 0
    padded[:, :, across + 2 :] = 0
    inside = padded[:, :, 2 : across + 2]
    if lanes == 1:
        inside[..., 0] = values
    else:
        inside[0, :, :, :count] = values.permute(1, 2, 0)
        inside[0, :, :, count:] = 0
    return padded


def interleave(values: Tensor, lanes: int) -> Tensor:
    """Items ``(count, ...)`` as (count, numbers) for one lane, else (numbers, lanes) with empty lanes
    zero."""
    flat = values.reshape(values.shape[0], -1)
    if lanes == 1:
        return flat.contiguous()
    out = flat.new_empty(flat.shape[1], lanes)
    out[:, : flat.shape[0]] = flat.t()
    out[:, flat.shape[0] :] = 0
    return out
