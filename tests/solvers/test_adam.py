"""Parts of Adam that need no run."""

from __future__ import annotations

import torch

from invtoolbox.solvers.adam import _clip


def test_long_gradients_are_shortened_per_item() -> None:
    gradient = torch.tensor([[[3.0, 4.0]], [[0.3, 0.4]]])
    expected = torch.tensor([[[0.6, 0.8]], [[0.3, 0.4]]])
    torch.testing.assert_close(_clip(gradient, 1.0), expected)
