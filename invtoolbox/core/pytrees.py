"""Walk nested containers of tensors: tuples, lists, dicts and dataclasses.

The loop needs three things of a solver's state, whatever its shape: pick some items of the batch, mix two
states item by item, and name every tensor so that it can be written to a checkpoint.
In all of them the batch is the first axis of every tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def tree_map(function: Callable[[Tensor], Any], tree: T) -> T:
    """Apply ``function`` to every tensor; everything that is not a tensor is kept.

    >>> tree_map(lambda t: t + 1, {"a": (torch.zeros(2), "name")})["a"][0]
    tensor([1., 1.])
    """
    return _rebuild(tree, lambda path, leaf: function(leaf), "")


def tree_leaves(tree: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with the path that names it, in a fixed order.

    >>> [name for name, _ in tree_leaves({"a": (torch.zeros(2), 3.0), "b": torch.zeros(1)})]
    ['a.0', 'b']
    """
    found: list[tuple[str, Tensor]] = []

    def visit(path: str, leaf: Tensor) -> Tensor:
        found.append((path, leaf))
        return leaf

    _rebuild(tree, visit, "")
    return iter(found)


def tree_restore(tree: T, leaves: dict[str, Tensor]) -> T:
    """The same container with every tensor replaced by the one of that name."""

    def take(path: str, old: Tensor) -> Tensor:
        if path not in leaves:
            raise KeyError(path)
        return (
            leaves[path].to(device=old.device).clone()
        )  # own, aligned memory: sums depend on the alignment

    return _rebuild(tree, take, "")


def tree_replace(tree: T, leaves: dict[str, Tensor]) -> T:
    """The same container holding other tensors, those of `tree_leaves` names, uncopied.

    >>> tree_replace({"a": (torch.zeros(2), "name")}, {"a.0": torch.ones(1)})
    {'a': (tensor([1.]), 'name')}
    """
    return _rebuild(tree, lambda path, old: leaves[path], "")


def select_items(tree: T, index: Tensor) -> T:
    """Keep the items ``index`` of the batch in every tensor."""
    return tree_map(lambda t: t.index_select(0, index), tree)


def where_items(mask: Tensor, new: T, old: T) -> T:
    """Take ``new`` for the items where ``mask`` holds and ``old`` elsewhere; shapes must agree."""
    previous = dict(tree_leaves(old))

    def choose(path: str, leaf: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (leaf.ndim - 1)), leaf, previous[path])

    return _rebuild(new, choose, "")


def scatter_items(index: Tensor, part: T, whole: T) -> T:
    """Write the items of ``part`` into the places ``index`` of (a copy of) ``whole``."""
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
