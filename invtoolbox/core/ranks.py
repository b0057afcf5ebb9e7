"""Ranks of a process group: sums in a fixed order, and planes and rows from other ranks.

A rank is one process of a run on several machines. Every rank holds a slab of the volume and some
rows of the projections, and all ranks take the same steps. Within `summing_over` the sums of
`invtoolbox.core.reductions` and the inner products of operators are sums over all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.core.contexts import setting
from invtoolbox.errors import InputError, RankLost

#: Words of errors of gloo and nccl if a process at the other end is gone or silent.
_LOST = ("closed", "reset", "refused", "broken pipe", "timed out", "timeout", "aborted", "socket")


@dataclass(frozen=True)
class Ranks:
    """The ranks of a process group, and the place of this process among them.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        group: process group of torch; None for the default one.
        stages: whether messages pass through the memory of the host, because the backend does not
            send tensors of an accelerator.
    """

    rank: int
    size: int
    group: Any = None
    stages: bool = False

    @classmethod
    def of_group(cls, group: Any = None) -> Self:
        """Return the ranks of a process group.

        Args:
            group: process group of torch; None for the default one.

        Raises:
            InputError: no process group was made, or this process is no member of it.
        """
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_initialized():
            raise InputError(
                "ranks need a process group, and there is none; start the program with torchrun and "
                "call torch.distributed.init_process_group() first"
            )
        rank = dist.get_rank(group)
        if rank < 0:
            raise InputError(
                "this process is no member of the process group; call it on the members alone"
            )
        stages = dist.get_backend(group) != "nccl"
        return cls(rank, dist.get_world_size(group), group, stages)

    def sum(self, terms: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, added up in the order of the ranks.

        Every rank gets the same bits, whatever the order in which the messages arrive.

        Args:
            terms: tensor of the same shape on every rank.
        """
        import torch.distributed as dist

        if self.size == 1:
            return terms
        sent = self._wire(terms)
        gathered = [torch.empty_like(sent) for _ in range(self.size)]
        with self._naming_loss():
            dist.all_gather(gathered, sent, group=self.group)
        total = gathered[0]
        for summand in gathered[1:]:
            total = total + summand
        return total.to(terms.device)

    def exchange(
        self, pieces: Mapping[int, Tensor], shapes: Mapping[int, tuple[int, ...]], like: Tensor
    ) -> dict[int, Tensor]:
        """Send one tensor each to some ranks, and return those that come from others.

        Args:
            pieces: tensor for each rank that gets one.
            shapes: shape of the tensor of each rank that sends one.
            like: tensor whose type and device those that arrive have.
        """
        import torch.distributed as dist

        sent = {rank: self._wire(piece) for rank, piece in pieces.items()}
        arrived = {
            rank: torch.empty(shape, dtype=like.dtype, device=self._place(like))
            for rank, shape in shapes.items()
        }
        messages = [
            dist.P2POp(call, tensor, self._global(rank), self.group)
            for call, tensors in ((dist.irecv, arrived), (dist.isend, sent))
            for rank, tensor in tensors.items()
        ]
        if messages:
            with self._naming_loss():
                for message in dist.batch_isend_irecv(messages):
                    message.wait()
        return {rank: tensor.to(like.device) for rank, tensor in arrived.items()}

    def shift(self, planes: Tensor, by: int, wraps: bool = False) -> Tensor | None:
        """Send planes to the rank ``rank + by``, and return the planes of the rank ``rank - by``.

        Args:
            planes: tensor of the same shape on every rank.
            by: 1 or -1.
            wraps: whether the first and the last rank are neighbours.

        Returns:
            The planes of the neighbour; None if there is no neighbour on that side.
        """
        target, source = self.rank + by, self.rank - by
        if wraps:
            target, source = target % self.size, source % self.size
        if source == target == self.rank:
            return planes
        pieces = {target: planes} if 0 <= target < self.size else {}
        shapes = {source: tuple(planes.shape)} if 0 <= source < self.size else {}
        return self.exchange(pieces, shapes, planes).get(source)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, small objects, in the order of the ranks.

        Args:
            value: value of this rank.
        """
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with self._naming_loss():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def _wire(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self._place(tensor)).contiguous()

    def _place(self, like: Tensor) -> torch.device:
        return torch.device("cpu") if self.stages else like.device

    def _global(self, rank: int) -> int:
        import torch.distributed as dist

        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    @contextmanager
    def _naming_loss(self) -> Iterator[None]:
        """Turn the error of a message into one sentence, if a rank is gone."""
        try:
            yield
        except RuntimeError as error:
            if not any(word in str(error).lower() for word in _LOST):
                raise
            raise RankLost(
                f"rank {self.rank} of {self.size} stopped because another rank did; the message of that "
                "rank says why, and the run goes on from its checkpoints with any number of ranks"
            ) from error


_RANKS: ContextVar[Ranks | None] = ContextVar("ranks", default=None)


def summing_over(ranks: Ranks | None) -> AbstractContextManager[None]:
    """Let sums per item be sums over all ranks within a block.

    Args:
        ranks: the ranks; None for this process alone.

    >>> with summing_over(Ranks(0, 1)):
    ...     current_ranks()
    Ranks(rank=0, size=1, group=None, stages=False)
    """
    return setting(_RANKS, ranks)


def current_ranks() -> Ranks | None:
    """Return the ranks that sums are taken over, None for this process alone."""
    return _RANKS.get()


def sum_over_ranks(terms: Tensor) -> Tensor:
    """Return a sum over all ranks of the current block, or the terms themselves outside of one.

    Args:
        terms: sums of this rank, of the same shape on every rank.

    >>> sum_over_ranks(torch.ones(2))
    tensor([1., 1.])
    """
    ranks = _RANKS.get()
    return terms if ranks is None else ranks.sum(terms)
