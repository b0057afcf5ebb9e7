"""Pytrees: nested tuples, lists, dicts and dataclasses of tensors.

The loop needs three operations on the state of any solver: select some items of the batch, combine
two states item by item, and name every tensor so that it can be written to a checkpoint. The batch
is the first axis of every tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

from invtoolbox.core.contexts import setting
from invtoolbox.core.interrupts import check_time

T = TypeVar("T")

_TOGETHER = ContextVar("together", default=False)


def tree_map(function: Callable[[Tensor], Any], tree: T) -> T:
    """Apply a function to every tensor; other values are kept.

    Args:
        function: function of a tensor.
        tree: pytree.

    >>> tree_map(lambda t: t + 1, {"a": (torch.zeros(2), "name")})["a"][0]
    tensor([1., 1.])
    """
    return _rebuild(tree, lambda path, leaf: function(leaf), "")


def tree_leaves(tree: Any) -> Iterator[tuple[str, Tensor]]:
    """Return every tensor with the path that names it, in a fixed order.

    Args:
        tree: pytree.

    >>> [name for name, _ in tree_leaves({"a": (torch.zeros(2), 3.0), "b": torch.zeros(1)})]
    ['a.0', 'b']
    """
    leaves: list[tuple[str, Tensor]] = []

    def visit(path: str, leaf: Tensor) -> Tensor:
        leaves.append((path, leaf))
        return leaf

    _rebuild(tree, visit, "")
    return iter(leaves)


def tree_restore(tree: T, leaves: dict[str, Tensor]) -> T:
    """Return a pytree with copies of other tensors in its places.

    Args:
        tree: pytree that gives the structure and the device of every tensor.
        leaves: tensor of every path.

    Raises:
        KeyError: if a path is missing.
    """

    def take(path: str, old: Tensor) -> Tensor:
        if path not in leaves:
            raise KeyError(path)
        # A copy in aligned memory, because the rounding of sums depends on the alignment.
        return leaves[path].to(device=old.device).clone()

    return _rebuild(tree, take, "")


def tree_replace(tree: T, leaves: dict[str, Tensor]) -> T:
    """Return a pytree with other tensors in its places, without a copy.

    Args:
        tree: pytree that gives the structure.
        leaves: tensor of every path, as `tree_leaves` names them.

    >>> tree_replace({"a": (torch.zeros(2), "name")}, {"a.0": torch.ones(1)})
    {'a': (tensor([1.]), 'name')}
    """
    return _rebuild(tree, lambda path, old: leaves[path], "")


def select_items(tree: T, index: Tensor) -> T:
    """Select items of the batch in every tensor.

    Args:
        tree: pytree.
        index: numbers of the items.
    """
    return tree_map(lambda t: t.index_select(0, index), tree)


def join_items(parts: Sequence[T]) -> T:
    """Join pytrees of some items each into one pytree of all items.

    Args:
        parts: pytrees of one structure.

    >>> join_items([{"a": torch.zeros(1)}, {"a": torch.ones(2)}])
    {'a': tensor([0., 1., 1.])}
    """
    leaves = [dict(tree_leaves(tree)) for tree in parts]
    return _rebuild(parts[0], lambda path, _: _join([tensors[path] for tensors in leaves]), "")


def map_items(function: Callable[..., T], *tensors: Tensor) -> T:
    """Apply a function to the items of a batch, on a CPU to each item alone.

    On a CPU the last bits of convolutions, Fourier transforms and products of matrices depend on
    the number of items, and some on the address of a tensor: each item is aligned as a tensor of
    its own. Under `items_together` the function gets the whole batch.

    Args:
        function: function of tensors, which returns a pytree.
        tensors: tensors of the batch; a tensor of one item belongs to all items.

    >>> map_items(torch.add, torch.zeros(3), torch.ones(1))
    tensor([1., 1., 1.])
    """
    check_time()
    batch = max(map(len, tensors))
    if tensors[0].device.type != "cpu" or _TOGETHER.get():
        return function(*tensors)
    if batch <= 1:
        return function(*map(align, tensors))
    items = zip(*(_split(t.expand(batch, *t.shape[1:])) for t in tensors))
    return join_items([function(*item) for item in items])


def align(x: Tensor) -> Tensor:
    """Return x, or a copy of it if x does not begin with a cache line.

    A library's product may round depending on where in a cache line its arguments begin; the place
    of an item in its batch must not matter.

    Args:
        x: tensor.

    >>> align(torch.arange(3.0)[1:]).storage_offset()
    0
    """
    try:
        start = x.data_ptr()
    except RuntimeError:  # a tensor of torch.func has an offset, and no address
        start = int(x.storage_offset()) * x.element_size()
    return x.clone() if start % 64 else x


class _Split(torch.autograd.Function):
    """Aligned items of a batch; the gradients that they get are aligned items too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(item.clone() for item in x.split(1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Join.apply(*gradients)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Split.apply(*tangents)


class _Join(torch.autograd.Function):
    """Batch of some items, the transpose of `_Split`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*items: Tensor) -> Tensor:
        return torch.cat(items)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Split.apply(*gradients)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Join.apply(*tangents)


def _split(x: Tensor) -> Sequence[Tensor]:
    if torch.is_grad_enabled() and x.requires_grad:
        return _Split.apply(x)
    return [align(item) for item in x.split(1)]


def _join(items: Sequence[Tensor]) -> Tensor:
    if torch.is_grad_enabled() and any(item.requires_grad for item in items):
        return _Join.apply(*items)
    return torch.cat(tuple(items))


def items_together() -> AbstractContextManager[None]:
    """Let `map_items` compute a batch at once, for a training, whose items need no equal bits.

    >>> with items_together():
    ...     map_items(lambda x: torch.tensor([float(len(x))]), torch.zeros(3))
    tensor([3.])
    """
    return setting(_TOGETHER, True)


def blank_items(mask: Tensor, tree: T) -> T:
    """Set the items of a mask to NaN in every floating-point tensor of the batch.

    Args:
        mask: bool ``(batch,)``.
        tree: pytree; tensors without the batch axis are kept.

    >>> blank_items(torch.tensor([True, False]), torch.ones(2, 2))
    tensor([[nan, nan],
            [1., 1.]])
    """

    def blank(leaf: Tensor) -> Tensor:
        has_nan = leaf.is_floating_point() or leaf.is_complex()
        if leaf.ndim == 0 or len(leaf) != len(mask) or not has_nan:
            return leaf
        return leaf.masked_fill(mask.to(leaf.device).view(-1, *[1] * (leaf.ndim - 1)), torch.nan)

    return tree_map(blank, tree)


def where_items(mask: Tensor, new: T, old: T) -> T:
    """Take ``new`` for the items of a mask and ``old`` for the others; shapes must agree.

    Args:
        mask: bool ``(batch,)``.
        new: pytree whose items are taken where the mask is True.
        old: pytree whose items are taken where the mask is False.
    """
    previous = dict(tree_leaves(old))

    def choose(path: str, leaf: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (leaf.ndim - 1)), leaf, previous[path])

    return _rebuild(new, choose, "")


def scatter_items(index: Tensor, part: T, whole: T) -> T:
    """Return a copy of ``whole`` with some items replaced by those of ``part``.

    Args:
        index: numbers of the items that are replaced.
        part: pytree with one item per number.
        whole: pytree of the whole batch.
    """
    pieces = dict(tree_leaves(part))
    return _rebuild(
        whole, lambda path, leaf: leaf.index_copy(0, index, pieces[path].to(leaf.dtype)), ""
    )


def _rebuild(tree: Any, visit: Callable[[str, Tensor], Any], path: str) -> Any:
    def child(name: str) -> str:
        return f"{path}.{name}" if path else name

    if isinstance(tree, Tensor):
        return visit(path, tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_rebuild(v, visit, child(k)) for k, v in zip(tree._fields, tree)))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_rebuild(v, visit, child(str(k))) for k, v in enumerate(tree))
    if isinstance(tree, dict):
        return {k: _rebuild(v, visit, child(str(k))) for k, v in tree.items()}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        changes = {
            f.name: _rebuild(getattr(tree, f.name), visit, child(f.name))
            for f in dataclasses.fields(tree)
            if f.init
        }
        return dataclasses.replace(tree, **changes)
    return tree
