"""Short texts of results, for notebooks and logs."""

from __future__ import annotations

import dataclasses
from typing import Any


class ShortText:
    """A dataclass whose text names the shapes of its tensors in place of their values.

    >>> import torch
    >>> Pair = dataclasses.make_dataclass("Pair", ["x", "notes"], bases=(ShortText,), repr=False)
    >>> Pair(torch.zeros(1, 2, 3), ("late",))
    Pair(x=Tensor (1, 2, 3), notes=('late',))
    """

    def __repr__(self) -> str:
        assert dataclasses.is_dataclass(self)
        shown = (f for f in dataclasses.fields(self) if f.repr)
        texts = (f"{f.name}={_text(getattr(self, f.name))}" for f in shown)
        return f"{type(self).__name__}({', '.join(texts)})"


def _text(value: Any) -> str:
    if hasattr(value, "shape") and not callable(value):
        return f"{type(value).__name__} {tuple(value.shape)}"
    if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    return f"{type(value).__name__}(...)" if dataclasses.is_dataclass(value) else repr(value)
