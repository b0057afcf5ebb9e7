"""The misfit of points carried along a sequence: how far they are from the sweeps that they pass."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.chamfer import Chamfer
from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import picked
from invtoolbox.operators.base import Shapes
from invtoolbox.operators.euler_rollout import legs
from invtoolbox.scenes.vectors import length

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


class RolloutChamfer(DataTerm):
    r"""What `operators.EulerRollout` predicts, against the sweeps:

    .. math:: T \left( \text{mean over legs of } \tfrac12 C(p_k, S_k) + \text{speed} \cdot h(|p_k - p_{k-1}|) \quad + \quad
              \text{cycle} \cdot \text{mean over first legs of } |p_{back} - p| \right)

    with the truncated `Chamfer` distance C, ``h = r + r^2 / 2`` of what a step is longer than the limit, and how far points that went
    one step and came back are from where they were, means over points all three. T is the number of sweeps, so that the misfits of
    the windows of a sequence add up to that of the whole, but for the legs that join them.

    Source: Vedder et al., "Neural Eulerian scene flow fields", ICLR 2025.

    Args:
        steps: as of the operator.
        truncation: of squared distances, square metres.
        cycle: the weight of what does not come back.
        speed: the weight of what is too fast.
        limit: metres from sweep to sweep.
    """

    is_convex = False
    is_smooth = True

    def __init__(
        self,
        steps: int = 3,
        truncation: float | None = 2.0,
        cycle: float = 0.01,
        speed: float = 1.0,
        limit: float = 6.0,
    ) -> None:
        if steps < 1 or not (cycle >= 0 and speed >= 0 and limit >= 0):
            raise InputError(
                f"RolloutChamfer needs a step at least and weights and a limit that are not negative, got steps={steps}, "
                f"cycle={cycle}, speed={speed}, limit={limit}"
            )
        self.steps, self.cycle, self.speed, self.limit = steps, cycle, speed, limit
        self.chamfer = Chamfer(truncation)
        self.targets: tuple[Chamfer, ...] = ()  # one a sweep, with its tree

    def value(self, prediction: Any, y: Any) -> Tensor:
        ways = legs(len(y), self.steps)
        firsts = [leg for leg in ways if leg.step == 1]
        if len(prediction) != len(ways) + len(firsts):
            raise InputError(
                f"RolloutChamfer of {self.steps} steps among {len(y)} sweeps takes {len(ways) + len(firsts)} clouds, got "
                f"{len(prediction)}; give the operator and the data term the same steps"
            )
        arrived = dict(zip(ways, prediction))
        total = torch.zeros_like(prediction[0][:, 0, 0])
        for leg, points in arrived.items():
            target = self.targets[leg.end] if self.targets else self.chamfer
            before = y[leg.start] if leg.step == 1 else arrived[leg._replace(step=leg.step - 1)]
            total = total + (
                0.5 * target.value(points, y[leg.end])
                + self.speed * self._too_fast(points - before)
            ) / len(ways)
        for leg, back in zip(firsts, prediction[len(ways) :]):
            total = total + self.cycle / len(firsts) * length(back - y[leg.start]).mean(1)
        return len(y) * total

    def _too_fast(self, step: Tensor) -> Tensor:
        beyond = (length(step) - self.limit).clamp_min(0)
        return (beyond + 0.5 * beyond.square()).mean(1)

    # -- life in the loop ------------------------------------------------------------------------------------------

    def prepare(self, problem: Problem, solve: Any) -> Self:
        other = copy.copy(self)
        other.targets = tuple(self.chamfer.towards(sweep) for sweep in problem.y)
        return other

    def subset(self, index: Any, y: Any) -> Self:
        other = copy.copy(self)
        other.targets = tuple(picked(self.targets, index)) if self.targets else ()
        return other

    def check_shape(
        self, y: Any, shape: Shapes, what: str, channelwise: bool = False, items: int | None = None
    ) -> None:
        if not isinstance(y, tuple) or any(
            not isinstance(p, Tensor)
            or p.ndim != 3
            or p.shape[-1] != 3
            or len(p) != 1
            or not p.shape[1]
            for p in y
        ):
            raise InputError(
                f"{what} are the sweeps of a sequence, a tuple of points (1, N, 3) each"
            )

    def __repr__(self) -> str:
        return f"RolloutChamfer(steps={self.steps}, cycle={self.cycle:g})"
