"""The chamfer distance of point sets, truncated.

The misfit of points carried along a sequence: how far they are from the sweeps that they pass.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import length
from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.operators.algebra import take_blocks
from invtoolbox.operators.base import Shapes
from invtoolbox.operators.points import legs

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


class Chamfer(DataTerm):
    r"""How far two point sets P (the prediction) and Q (the measurements) are from each other:

    .. math:: \frac{1}{|P|} \sum_{p \in P} t(\min_{q \in Q} |p - q|^2) + \frac{1}{|Q|} \sum_{q \in Q} t(\min_{p \in P} |q - p|^2)

    with t(d) = d where d is below the truncation and 0 beyond it. Points without a partner count in the mean and pull at nothing
    (as in Li, Pontes and Lucey, "Neural scene flow prior", NeurIPS 2021). It is neither convex nor continuous: where a point crosses
    the truncation, the value jumps down. Elsewhere the gradient is that of the distances to the present neighbours, which is exact.

    The prediction is ``(batch, N, 3)`` and the measurements are ``(batch or 1, M, 3)``, in metres; the two need not have as many points.

    Args:
        truncation: in square metres (2 is a distance of 1.41 m), or in metres where ``squared`` is False; None for none.
        squared: whether distances count by their square.
        both_ways: whether every measured point looks for its nearest predicted one too; without, only the first sum is taken.

    >>> P, Q = torch.zeros(1, 1, 3), torch.tensor([[[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]]])
    >>> Chamfer().value(P, Q)  # 1 from P to Q; (1 + 0) / 2 back, since 25 is beyond the truncation
    tensor([1.5000])
    >>> Chamfer().grad(P, Q)
    tensor([[[-3., 0., 0.]]])
    """

    is_convex = False
    # Differentiable almost everywhere: between two neighbours the minimum has a crease that points upwards, where no descent ends.
    is_smooth = True
    item_fields: ClassVar[tuple[str, ...]] = ("_trees",)
    _trees: tuple[Tree, ...] = ()

    def __init__(
        self, truncation: float | None = 2.0, squared: bool = True, both_ways: bool = True
    ) -> None:
        if truncation is not None and not truncation > 0:
            raise InputError(f"Chamfer takes a positive truncation or None, got {truncation}")
        self.truncation, self.squared, self.both_ways = truncation, squared, both_ways

    # -- value and gradient ----------------------------------------------------------------------------------------

    def value(self, prediction: Any, y: Any) -> Tensor:
        there, back = self._neighbours(prediction, y)
        total = self._cost(prediction, _taken(y, there, len(prediction)))[0]
        return (
            total
            if back is None
            else total + self._cost(y, _taken(prediction, back, len(prediction)))[0]
        )

    def grad(self, prediction: Any, y: Any) -> Tensor:
        return self.value_and_grad(prediction, y)[1]

    def value_and_grad(self, prediction: Any, y: Any) -> tuple[Tensor, Tensor]:
        there, back = self._neighbours(prediction, y)
        value, slope = self._cost(prediction, _taken(y, there, len(prediction)))
        if back is None:
            return value, slope
        other, pull = self._cost(y, _taken(prediction, back, len(prediction)))
        return value + other, slope.scatter_add(1, back[..., None].expand_as(pull), -pull)

    def _cost(self, points: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over ``points`` of what they count, and its gradient in them: ``(batch,)`` and ``(batch, n, 3)``."""
        apart = points - partners
        squares = apart.square().sum(-1)
        if self.squared:
            distance, slope = squares, 2 * apart
        else:
            # The root has no derivative at 0, where the distance is least and nothing should pull.
            positive = squares > 0
            distance = torch.where(positive, squares, torch.ones_like(squares)).sqrt() * positive
            slope = apart / torch.where(positive, distance, torch.ones_like(distance))[..., None]
        if self.truncation is not None:
            near = ~(distance >= self.truncation)  # also of NaN: who has run away must be seen to
            distance, slope = (
                torch.where(near, distance, torch.zeros_like(distance)),
                slope * near[..., None],
            )
        return distance.mean(1), slope / points.shape[1]

    # -- neighbours ------------------------------------------------------------------------------------------------

    def _neighbours(self, prediction: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """For every predicted point its measured partner, ``(batch, N)``, and the other way round, ``(batch, M)``."""
        bound = None
        if self.truncation is not None:
            # A little more than needed: what is beyond the truncation is decided once, by the distance that counts.
            bound = 1.001 * (self.truncation**0.5 if self.squared else self.truncation)
        there, back = [], []
        for k, points in enumerate(prediction.detach()):
            shared = min(k, len(y) - 1)
            there.append(self._tree(shared, y[shared]).query(points, bound)[1])
            if self.both_ways and bool(points.isfinite().all()):
                back.append(Tree(points).query(y[shared].to(points), bound)[1])
            elif (
                self.both_ways
            ):  # an item that has diverged: its value is not finite whatever its partners are
                back.append(torch.zeros(y.shape[1], dtype=torch.long, device=points.device))
        return torch.stack(there), torch.stack(back) if self.both_ways else None

    def _tree(self, k: int, y: Tensor) -> Tree:
        """The tree that `prepare` made for these measurements; a new one for others."""
        kept = self._trees[k] if k < len(self._trees) else None
        fits = (
            kept is not None
            and kept.points.device == y.device
            and kept.points.dtype == y.dtype
            and torch.equal(kept.points, y)
        )
        return kept if kept is not None and fits else Tree(y)

    # -- life in the loop ------------------------------------------------------------------------------------------

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self.towards(problem.y)

    def towards(self, y: Tensor) -> Self:
        """A copy with the trees of the measurements ``(batch or 1, M, 3)``."""
        bound = copy.copy(self)
        bound._trees = tuple(Tree(points) for points in y)
        return bound

    def check_shape(
        self, y: Any, shape: Shapes, what: str, channelwise: bool = False, items: int | None = None
    ) -> None:
        check_point_sets(y, shape, what, items)

    def __repr__(self) -> str:
        return f"Chamfer(truncation={self.truncation}, squared={self.squared}, both_ways={self.both_ways})"


def check_point_sets(y: Any, shape: Shapes, what: str, items: int | None) -> None:
    """Raise an `InputError` where ``y`` is no ``(batch, M, 3)``, or the predictions are not point sets of that dimension."""
    wanted = shape[-1]
    if (
        not isinstance(y, Tensor)
        or y.ndim != 3
        or not y.numel()
        or y.shape[-1] != wanted
        or len(shape) != 2
    ):
        given = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise InputError(
            f"{what} are points (batch, M, {wanted}), at least one, to compare with predicted ones "
            f"(batch, {', '.join(map(str, shape))}); got {given}"
        )
    if items is not None and len(y) not in (1, items):
        raise InputError(
            f"{what} hold {len(y)} items, and the operator has {items}; give one point set an item, or one for all"
        )


def _taken(points: Tensor, index: Tensor, batch: int) -> Tensor:
    """The points of an index for each item: ``(batch or 1, n, 3), (batch, m) -> (batch, m, 3)``."""
    return points.expand(batch, *points.shape[1:]).gather(
        1, index[..., None].expand(-1, -1, points.shape[-1])
    )


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
        other.targets = tuple(take_blocks(self.targets, index)) if self.targets else ()
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
