"""Common base of operators, data terms and priors, which are copied instead of changed."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from invtoolbox.core.environment import device_named
from invtoolbox.core.pytrees import tree_map


class Settings:
    """Base class of objects that hold settings and tensors, and that no call changes.

    Attributes:
        item_fields: names of the attributes that hold one value per item: tensors whose first axis
            is the batch, tuples with one entry per item, and other `Settings`. A length of 1 is a
            value that all items share. `select` restricts them when finished items leave the batch.
        cache_fields: names of the attributes that hold computed values for later calls. They do not
            count as content when a run is resumed (`invtoolbox.core.content`).
    """

    item_fields: ClassVar[tuple[str, ...]] = ()
    cache_fields: ClassVar[tuple[str, ...]] = ()

    def to(
        self,
        target: torch.device | torch.dtype | str | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Return a copy on another device or in another precision.

        Examples are ``p.to("cuda")`` and ``p.to(torch.float64)``. Parameters and modules become
        parameters and modules of the copy.

        Args:
            target: a device or a dtype.
            device: the new device.
            dtype: the new precision.

        Returns:
            A copy, or the object itself if no argument is given.
        """
        if isinstance(target, torch.dtype):
            dtype = target
        elif target is not None:
            device = target
        if device is None and dtype is None:
            return self
        if isinstance(device, str):
            device = device_named(device, for_kernels=False)
        clone = copy.copy(self)
        for name, value in vars(self).items():
            object.__setattr__(clone, name, _move(value, device, dtype))
        return clone

    def select(self, index: Tensor) -> Self:
        """Return a copy for some items of the batch.

        Args:
            index: numbers of the items.

        >>> class Term(Settings):
        ...     item_fields = ("noise_std", "trees", "prior")
        ...     noise_std, trees, prior = torch.tensor([0.1, 0.2, 0.3]), ("a", "b", "c"), None
        >>> picked = Term().select(torch.tensor([2, 0]))
        >>> picked.noise_std, picked.trees
        (tensor([0.3000, 0.1000]), ('c', 'a'))
        """
        fields = {name: getattr(self, name, None) for name in self.item_fields}
        picked = {name: _select(value, index) for name, value in fields.items()}
        if all(value is fields[name] for name, value in picked.items()):
            return self
        clone = copy.copy(self)
        for name, value in picked.items():
            object.__setattr__(clone, name, value)
        return clone


def cast_dtype(old: torch.dtype, new: torch.dtype | None) -> torch.dtype:
    """Return a dtype after a change of precision: integers stay, complex stays complex.

    Args:
        old: dtype of the tensor.
        new: precision, or None for no change.
    """
    if new is None or not (old.is_floating_point or old.is_complex):
        return old
    if old.is_complex and not new.is_complex:
        return torch.complex128 if new == torch.float64 else torch.complex64
    return new


def _select(value: Any, index: Tensor) -> Any:
    """Return some items of a value with one entry per item; a shared value is returned as is."""
    if isinstance(value, Settings):
        return value.select(index)
    if isinstance(value, Tensor) and value.ndim and len(value) > 1:
        return value.index_select(0, index)
    if isinstance(value, tuple) and len(value) > 1:
        return tuple(value[k] for k in index.tolist())
    return value


def _move(value: Any, device: torch.device | str | None, dtype: torch.dtype | None) -> Any:
    if isinstance(value, Settings):
        return value.to(device=device, dtype=dtype)
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(device=device, dtype=dtype)
    if isinstance(value, (tuple, list)) and any(
        isinstance(v, (Settings, nn.Module)) for v in value
    ):
        parts = [_move(v, device, dtype) for v in value]
        # A named tuple takes its fields one by one.
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    # The settings may be a module themselves, whose modules are in a dict.
    if isinstance(value, dict) and any(
        isinstance(v, (Settings, nn.Module)) for v in value.values()
    ):
        return {k: _move(v, device, dtype) for k, v in value.items()}
    return tree_map(lambda t: _move_tensor(t, device, dtype), value)


def _move_tensor(t: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    converted = t.to(device=device, dtype=cast_dtype(t.dtype, dtype))
    if isinstance(t, nn.Parameter) and converted is not t:
        return nn.Parameter(converted.detach(), t.requires_grad)
    return converted
