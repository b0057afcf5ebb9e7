"""A field of flow: how far matter goes from one sweep to the next, anywhere and at any time."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from invtoolbox.settings import Settings


class FlowField(Settings, ABC):
    """Displacements from sweep to sweep as a function of place, time and the direction of time."""

    @abstractmethod
    def displacement(self, points: Tensor, time: Tensor, direction: Tensor) -> Tensor:
        """How far matter at ``points`` goes until the next sweep, or since the one before: metres, ``(batch, n, 3)``.

        Args:
            points: ``(batch, n, 3)``, metres, in a frame that stands still.
            time: ``(n,)``, in sweeps.
            direction: ``(n,)``, 1 forward and -1 backward in time.
        """

    def flow(self, points: Tensor, time: float) -> Tensor:
        """The displacement forward in time from one time: ``(batch, n, 3)``."""
        ones = torch.ones(points.shape[1], dtype=points.dtype, device=points.device)
        return self.displacement(points, time * ones, ones)
