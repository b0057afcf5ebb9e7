"""Sums per item of a batch whose bits depend neither on the batch nor on the number of threads.

torch divides the terms of a single sum of 32,768 values or more among its threads, but computes each
of several sums in one thread. So the sum of an item alone would differ in its last bits from its sum
in a batch. Within `invtoolbox.core.ranks.summing_over` an item is divided over ranks, and the sums of
the ranks are added up in their order. `quantile` takes tensors of any size; those of torch are
limited to 16 million values. `draw_normal` draws numbers that all items share, or that are
independent within a context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Generator, Tensor

from invtoolbox.core.contexts import setting
from invtoolbox.core.ranks import current_ranks, sum_over_ranks

#: Number of terms from which torch divides a sum among its threads.
_DIVIDED = 32768
#: Number of values in one block of a norm.
_BLOCK = 1 << 16


def sum_items(x: Tensor) -> Tensor:
    """Return the sum of each item, ``(batch,)``.

    Args:
        x: tensor with a batch axis.

    >>> sum_items(torch.ones(2, 3, 4))
    tensor([12., 12.])
    """
    return sum_over_ranks(_reduce(x, lambda terms: terms.sum(1)))


def mean_items(x: Tensor) -> Tensor:
    """Return the mean of each item, ``(batch,)``.

    Args:
        x: tensor with a batch axis.
    """
    count = x[:1].numel()
    if current_ranks() is None:
        return sum_items(x) / max(count, 1)
    total = sum_over_ranks(torch.tensor([float(count)], device=x.device))
    return sum_items(x) / total.clamp_min(1)


def norm_items(x: Tensor) -> Tensor:
    """Return the Euclidean norm of each item, ``(batch,)``.

    Args:
        x: tensor with a batch axis.
    """
    if x.is_complex():
        # Of real and imaginary parts: torch takes the modulus of every complex number by itself,
        # which is 20 times slower for an image and no more accurate.
        x = torch.view_as_real(x.resolve_conj())
    norm = _reduce(x, _norms)
    return norm if current_ranks() is None else sum_over_ranks(norm.square()).sqrt()


def _norms(terms: Tensor) -> Tensor:
    """Return the norm of every row; of long rows, the norm of the norms of blocks."""
    count = terms.shape[1]
    if count <= _BLOCK or terms.device.type != "cpu":
        return torch.linalg.vector_norm(terms, dim=1)
    # torch adds the squares of a row one after another: of 16 million values in float32, the norm
    # is off by 6e-4.
    whole = count - count % _BLOCK
    blocks = torch.linalg.vector_norm(terms[:, :whole].unflatten(1, (-1, _BLOCK)), dim=2)
    rest = torch.linalg.vector_norm(terms[:, whole:], dim=1, keepdim=True)
    return torch.linalg.vector_norm(torch.cat([blocks, rest], 1), dim=1)


def _reduce(x: Tensor, reduction: Callable[[Tensor], Tensor]) -> Tensor:
    terms = x.flatten(1)
    items, count = terms.shape  # `len` of a tensor costs more than its shape
    is_divided = items == 1 and count >= _DIVIDED and terms.device.type == "cpu"
    if is_divided and torch.get_num_threads() > 1:
        return reduction(terms.expand(2, -1))[:1]
    return reduction(terms)


#: Largest number of values that are sorted; more are thinned out to this number.
_MOST = 2**22


def quantile(values: Tensor, share: float | Tensor) -> Tensor:
    """Return quantiles over the last axis, of every k-th value if there are many.

    Args:
        values: real numbers ``(*, number)``.
        share: one share from 0 to 1, or several.

    >>> import torch
    >>> round(float(quantile(torch.linspace(0, 1, 2**24 + 2), 0.25)), 3)
    0.25
    """
    # An odd step meets all columns of a picture whose number of columns is even.
    step = -(-values.shape[-1] // _MOST) // 2 * 2 + 1
    return values[..., ::step].quantile(share, dim=-1)


_INDEPENDENT: ContextVar[bool] = ContextVar("items_are_independent", default=False)


def independent_items() -> AbstractContextManager[None]:
    """Let samplers draw numbers of their own for every item of a batch.

    By default the items share their numbers, so that an item has the same draws alone and in a
    batch. Items that are repetitions of an experiment need independent draws.

    >>> with independent_items():
    ...     items_are_independent()
    True
    """
    return setting(_INDEPENDENT, True)


def items_are_independent() -> bool:
    """Return whether samplers draw numbers of their own for every item."""
    return _INDEPENDENT.get()


def draw_normal(
    generators: Sequence[Generator], shape: Sequence[int], dtype: torch.dtype, device: Any
) -> Tensor:
    """Draw standard normal numbers ``(samples * batch, ...)`` from one generator per sample.

    The items of a batch, which lie next to each other, have the same numbers, except within
    `independent_items`.
    """
    if items_are_independent():
        per_item = (shape[0] // len(generators), *shape[1:])
        return torch.cat(
            [torch.randn(per_item, generator=g, dtype=dtype, device=device) for g in generators]
        )
    numbers = torch.stack(
        [torch.randn(shape[1:], generator=g, dtype=dtype, device=device) for g in generators]
    )
    return numbers.repeat_interleave(shape[0] // len(generators), 0)
