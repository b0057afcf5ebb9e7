"""Truncated chamfer distance of point sets, and its sum over the steps of a sequence."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.core.constants import is_equal
from invtoolbox.core.guards import check_range
from invtoolbox.data_terms.base import DataTerm, Problem
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import length
from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.operators.algebra import take_blocks
from invtoolbox.operators.base import Shapes
from invtoolbox.operators.points import legs


class PointSetTerm(DataTerm):
    """Base class of misfits of point sets ``(batch, N, d)`` and ``(batch or 1, M, d)``."""

    is_convex = False

    def check_shape(
        self, y: Any, shape: Shapes, what: str, channelwise: bool = False, items: int | None = None
    ) -> None:
        """Raise an `InputError` unless ``y`` is ``(batch, M, d)`` and the predictions fit it."""
        dimensions = shape[-1]
        if (
            not isinstance(y, Tensor)
            or y.ndim != 3
            or not y.numel()
            or y.shape[-1] != dimensions
            or len(shape) != 2
        ):
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise InputError(
                f"{what} must be points (batch, M, {dimensions}), at least one, to compare with "
                f"predicted points (batch, {', '.join(map(str, shape))}); got {got}"
            )
        if items is not None and len(y) not in (1, items):
            raise InputError(
                f"{what} hold {len(y)} items, and the operator has {items}; give one point set per "
                "item, or one for all"
            )


class Chamfer(PointSetTerm):
    r"""Truncated chamfer distance of two point sets P (the prediction) and Q (the measurements).

    .. math:: \frac{1}{|P|} \sum_{p \in P} t(\min_{q \in Q} |p - q|^2)
              + \frac{1}{|Q|} \sum_{q \in Q} t(\min_{p \in P} |q - p|^2)

    with t(d) = d for d below the truncation and 0 beyond it. Points without a partner count in the
    mean and have no pull (as in Li, Pontes and Lucey, "Neural scene flow prior", NeurIPS 2021). The
    term is neither convex nor continuous: if a point crosses the truncation, the value jumps down.
    Elsewhere the gradient of the distances to the present neighbours is exact.

    The prediction is ``(batch, N, 3)`` and the measurements are ``(batch or 1, M, 3)``, in metres;
    N and M may differ.

    Args:
        truncation: truncation in square metres (2 is a distance of 1.41 m), or in metres if
            ``squared`` is False; None for no truncation.
        squared: whether the squares of the distances count.
        both_ways: whether the second sum, from every measured point to its nearest predicted point,
            is added to the first.

    >>> P, Q = torch.zeros(1, 1, 3), torch.tensor([[[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]]])
    >>> Chamfer().value(P, Q)  # 1 from P to Q; (1 + 0) / 2 back, since 25 is beyond the truncation
    tensor([1.5000])
    >>> Chamfer().grad(P, Q)
    tensor([[[-3., 0., 0.]]])
    """

    # The term is differentiable almost everywhere: between two neighbours the minimum has a crease
    # that points upwards, where no descent ends.
    is_smooth = True
    item_fields: ClassVar[tuple[str, ...]] = ("_trees",)
    _trees: tuple[Tree, ...] = ()

    def __init__(
        self, truncation: float | None = 2.0, squared: bool = True, both_ways: bool = True
    ) -> None:
        check_range(self, "(0, inf]", truncation=truncation)
        self.truncation, self.squared, self.both_ways = truncation, squared, both_ways

    # -- value and gradient ------------------------------------------------------------------------

    def value(self, prediction: Any, y: Any) -> Tensor:
        there, back = self._neighbours(prediction, y)
        batch = len(prediction)
        total = self._cost(prediction, _gather(y, there, batch))[0]
        return total if back is None else total + self._cost(y, _gather(prediction, back, batch))[0]

    def grad(self, prediction: Any, y: Any) -> Tensor:
        return self.value_and_grad(prediction, y)[1]

    def value_and_grad(self, prediction: Any, y: Any) -> tuple[Tensor, Tensor]:
        there, back = self._neighbours(prediction, y)
        value, slope = self._cost(prediction, _gather(y, there, len(prediction)))
        if back is None:
            return value, slope
        value_back, pull = self._cost(y, _gather(prediction, back, len(prediction)))
        # The distance changes by the opposite if the partner moves in place of the measured point.
        return value + value_back, slope.scatter_add(1, back[..., None].expand_as(pull), -pull)

    def _cost(self, points: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the mean cost of ``points``, ``(batch,)``, and its gradient ``(batch, n, 3)``."""
        apart = points - partners
        squares = apart.square().sum(-1)
        if self.squared:
            distance, slope = squares, 2 * apart
        else:
            # The root has no derivative at 0, where the distance is least and the pull should be 0.
            positive = squares > 0
            distance = torch.where(positive, squares, torch.ones_like(squares)).sqrt() * positive
            slope = apart / torch.where(positive, distance, torch.ones_like(distance))[..., None]
        if self.truncation is not None:
            near = ~(distance >= self.truncation)  # true for NaN, so that divergence stays visible
            distance = torch.where(near, distance, torch.zeros_like(distance))
            slope = slope * near[..., None]
        return distance.mean(1), slope / points.shape[1]

    # -- neighbours --------------------------------------------------------------------------------

    def _neighbours(self, prediction: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Find the measured partners ``(batch, N)``, and the predicted partners ``(batch, M)``."""
        bound = None
        if self.truncation is not None:
            # The bound is slightly larger than needed, so that the truncation is decided once, by
            # the distance that counts.
            bound = 1.001 * (self.truncation**0.5 if self.squared else self.truncation)
        there, back = [], []
        for k, points in enumerate(prediction.detach()):
            shared = min(k, len(y) - 1)
            there.append(self._tree(shared, y[shared]).query(points, bound)[1])
            if not self.both_ways:
                continue
            # On a GPU the search takes any numbers, and the test would have to be waited for.
            if points.is_cuda or bool(points.isfinite().all()):
                back.append(Tree(points).query(y[shared].to(points), bound)[1])
            else:  # the value of a diverged item is not finite, whatever the partners are
                back.append(torch.zeros(y.shape[1], dtype=torch.long, device=points.device))
        return torch.stack(there), torch.stack(back) if self.both_ways else None

    def _tree(self, k: int, y: Tensor) -> Tree:
        """Return the tree that `prepare` built for these measurements, or a new tree."""
        tree = self._trees[k] if k < len(self._trees) else None
        fits = (
            tree is not None
            and tree.points.device == y.device
            and tree.points.dtype == y.dtype
            and is_equal(tree.points, y)
        )
        return tree if tree is not None and fits else Tree(y)

    # -- methods called by the loop ----------------------------------------------------------------

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self.build_trees(problem.y)

    def build_trees(self, y: Tensor) -> Self:
        """Return a copy with the trees of the measurements ``(batch or 1, M, 3)``."""
        return self._replace(_trees=tuple(Tree(points) for points in y))

    def __repr__(self) -> str:
        return (
            f"Chamfer(truncation={self.truncation}, squared={self.squared}, "
            f"both_ways={self.both_ways})"
        )


def _gather(points: Tensor, index: Tensor, batch: int) -> Tensor:
    """Select points by index per item: ``(batch or 1, n, 3), (batch, m) -> (batch, m, 3)``."""
    return points.expand(batch, *points.shape[1:]).gather(
        1, index[..., None].expand(-1, -1, points.shape[-1])
    )


class RolloutChamfer(DataTerm):
    r"""Misfit between the predictions of `operators.EulerRollout` and the sweeps of a sequence.

    .. math:: T \left( \text{mean over legs of } \tfrac12 C(p_k, S_k) + \text{speed} \cdot h(|p_k -
    p_{k-1}|)
              \quad + \quad \text{cycle} \cdot \text{mean over first legs of } |p_{back} - p|
              \right)

    with the truncated `Chamfer` distance C, ``h = r + r^2 / 2`` of the excess r of a step's length
    over the limit, and the distance ``|p_back - p|`` between points and their position after one
    step forth and one step back. All three are means over points. T is the number of sweeps, so
    that the misfits of the windows of a sequence add up to the misfit of the whole, except for the
    legs that join them.

    Source: Vedder et al., "Neural Eulerian scene flow fields", ICLR 2025.

    Args:
        steps: number of steps, as in the operator.
        truncation: truncation of squared distances, square metres; None for no truncation.
        cycle: weight of the distance after one step forth and back.
        speed: weight of the excess of speed.
        limit: largest step without a penalty, metres from sweep to sweep.
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
        check_range(self, "[1, inf)", steps=steps)
        check_range(self, "[0, inf]", cycle=cycle, speed=speed, limit=limit)
        self.steps, self.cycle, self.speed, self.limit = steps, cycle, speed, limit
        self.chamfer = Chamfer(truncation)
        self.targets: tuple[Chamfer, ...] = ()  # one per sweep, with its tree

    def value(self, prediction: Any, y: Any) -> Tensor:
        all_legs = legs(len(y), self.steps)
        firsts = [leg for leg in all_legs if leg.step == 1]
        if len(prediction) != len(all_legs) + len(firsts):
            raise InputError(
                f"RolloutChamfer of {self.steps} steps among {len(y)} sweeps takes "
                f"{len(all_legs) + len(firsts)} clouds, got {len(prediction)}; give the operator and "
                "the data term the same steps"
            )
        arrived = dict(zip(all_legs, prediction))
        total = torch.zeros_like(prediction[0][:, 0, 0])
        for leg, points in arrived.items():
            target = self.targets[leg.end] if self.targets else self.chamfer
            before = y[leg.start] if leg.step == 1 else arrived[leg._replace(step=leg.step - 1)]
            total = total + (
                0.5 * target.value(points, y[leg.end])
                + self.speed * self._penalize_speed(points - before)
            ) / len(all_legs)
        for leg, back in zip(firsts, prediction[len(all_legs) :]):
            total = total + self.cycle / len(firsts) * length(back - y[leg.start]).mean(1)
        return len(y) * total

    def _penalize_speed(self, step: Tensor) -> Tensor:
        beyond = (length(step) - self.limit).clamp_min(0)
        return (beyond + 0.5 * beyond.square()).mean(1)

    # -- methods called by the loop ----------------------------------------------------------------

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self._replace(targets=tuple(self.chamfer.build_trees(sweep) for sweep in problem.y))

    def subset(self, index: Any, y: Any) -> Self:
        targets = tuple(take_blocks(self.targets, index)) if self.targets else ()
        return self._replace(targets=targets)

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
                f"{what} must be the sweeps of a sequence, a tuple of points (1, N, 3) each"
            )

    def __repr__(self) -> str:
        return f"RolloutChamfer(steps={self.steps}, cycle={self.cycle:g})"
