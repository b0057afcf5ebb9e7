"""Two sets of Gaussians for one scene, each a check on the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.gaussians import Splats
from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.operators.rendering.combined import OnBoth
from invtoolbox.priors.adaptive import AdaptivePrior, Intermediate, Transfer, select_leaves
from invtoolbox.priors.base import Problem
from invtoolbox.priors.implicit.gaussian_strategies import DEAD
from invtoolbox.priors.implicit.gaussians import Gaussians
from invtoolbox.priors.settings import replace

T = TypeVar("T")

_NAMES = ("first", "second")


class GaussianPair(AdaptivePrior):
    """Two scenes of Gaussians: x is two `geometry.Splats`, under ``operators.OnBoth(renderer)``.

    Each has the parameters of its own `Gaussians`. Both are fitted to the same pictures from
    different starts and with different draws (of the strategy, of its noise, of dropout). So they
    differ where the pictures give no information, and the difference measures the error without a
    ground truth. ``ThroughOperator(Disagreement(), OnBoth(renderer of further poses))`` makes them
    agree there. In addition they may prune each other: a Gaussian of one without a Gaussian of the
    other within ``apart`` is at a place where only one of them has a surface. The first is the
    scene, the second may be discarded.

    Source: Zhang et al., "CoR-GS: sparse-view 3D Gaussian splatting via co-regularization", ECCV
    2024.

    Args:
        first, second: the two sets of Gaussians, both with the same strategy.
        apart: distance in the unit of the world beyond which a Gaussian is alone; None for no
            pruning.
        prune_every: number of steps from one pruning to the next, a multiple of the strategy's
            steps.

    Raises:
        InputError: The strategies differ, or prunings fall between the steps at which the strategy
            acts.

    >>> low, high = (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)
    >>> first = Gaussians.random(50, low, high, seed=0)
    >>> pair = GaussianPair(first, Gaussians.random(60, low, high, seed=1))
    >>> [len(x) for x in pair.decode(pair.initial())]
    [50, 60]
    """

    def __init__(
        self,
        first: Gaussians,
        second: Gaussians,
        apart: float | None = None,
        prune_every: int = 500,
    ) -> None:
        if first.strategy != second.strategy:
            raise InputError(
                "both members of a GaussianPair need the same strategy, "
                f"got {first.strategy!r} and {second.strategy!r}"
            )
        check_range(self, "(0, inf]", apart=apart)
        every = 1 if first.strategy is None else first.strategy.every
        if apart is not None and (prune_every < 1 or prune_every % every):
            raise InputError(
                f"prune_every of GaussianPair is a multiple of the {every} steps after which its "
                f"strategy acts, got {prune_every}"
            )
        self.members = (first, second)
        self.apart, self.prune_every = apart, prune_every

    def prepare(self, problem: Problem, solve: Any) -> Self:
        if not isinstance(problem.operator, OnBoth):
            raise InputError(
                "GaussianPair is two scenes, so it needs an operators.OnBoth(...), "
                f"got {problem.operator}"
            )
        alone = problem._with(
            problem.y0.chunk(2, dim=1)[0], problem.operator.operator, problem.data_term
        )
        return self._each(lambda member: member.prepare(alone, solve))

    def at(self, iteration: int) -> Self:
        return self._each(lambda member: member.at(iteration))

    def select(self, index: Tensor) -> Self:
        return self._each(lambda member: member.select(index))

    def _each(self, change: Callable[[Gaussians], Gaussians]) -> Self:
        return replace(self, members=(change(self.members[0]), change(self.members[1])))

    def initial(self) -> dict[str, Tensor]:
        return _join([member.initial() for member in self.members])

    def decode(
        self, parameters: dict[str, Tensor], generator: Generator | None = None
    ) -> tuple[Splats, Splats]:
        draws = (None, None) if generator is None else _fork(generator)
        first, second = (
            member.decode(leaves, draw)
            for member, leaves, draw in zip(self.members, _split(parameters), draws)
        )
        return first, second

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        # The mean, because the misfit of pictures is a mean over the channels of both.
        first, second = (
            member.energy(leaves, splats)
            for member, leaves, splats in zip(self.members, _split(parameters), x)
        )
        return 0.5 * (first + second)

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        members = zip(self.members, _split(parameters))
        return _join([member.learning_rates(leaves) for member, leaves in members])

    # -- Gaussians come and go ---------------------------------------------------------------------

    @property
    def is_adaptive(self) -> bool:
        return self.apart is not None or self.members[0].is_adaptive

    def adapts(self, iteration: int) -> bool:
        return self.members[0].adapts(iteration) or self._prunes(iteration)

    def _prunes(self, iteration: int) -> bool:
        # With a strategy it happens while that acts, so that what it gathers is not thrown away in
        # between.
        strategy = self.members[0].strategy
        return (
            self.apart is not None
            and iteration % self.prune_every == 0
            and (strategy is None or strategy.adapts(iteration))
        )

    def statistics(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        members = zip(self.members, _split(parameters))
        return _join([member.statistics(leaves) for member, leaves in members])

    def gather(
        self,
        statistics: dict[str, Tensor],
        parameters: dict[str, Tensor],
        info: dict[str, Intermediate],
    ) -> dict[str, Tensor]:
        # The misfit is a mean over the channels of both, so each is pulled half as hard as it would
        # be alone.
        pulled = {
            name: Intermediate(t.value, None if t.gradient is None else 2 * t.gradient)
            for name, t in info.items()
        }
        members = zip(self.members, _split(statistics), _split(parameters), _split(pulled))
        return _join([member.gather(*arguments) for member, *arguments in members])

    def adapt(
        self,
        parameters: dict[str, Tensor],
        statistics: dict[str, Tensor],
        iteration: int,
        generator: Generator,
    ) -> tuple[dict[str, Tensor], Transfer]:
        new: list[dict[str, Tensor]] = _split(parameters)
        transfers: list[Transfer] = [_keep, _keep]
        if self.members[0].adapts(iteration):
            members = zip(self.members, _split(statistics), _fork(generator))
            for k, (member, gathered, draws) in enumerate(members):
                new[k], transfers[k] = member.adapt(new[k], gathered, iteration, draws)
        alone = [torch.zeros_like(leaves["logit_opacities"], dtype=torch.bool) for leaves in new]
        if self._prunes(iteration):
            assert self.apart is not None
            alone = [_far_from(a, b, self.apart) for a, b in zip(new, reversed(new))]
            for leaves, gone in zip(new, alone):
                leaves["logit_opacities"] = leaves["logit_opacities"].masked_fill(gone, DEAD)

        def transfer(name: str, tensor: Tensor) -> Tensor:
            which, leaf = name.split(".", 1)
            k = _NAMES.index(which)
            carried = transfers[k](leaf, tensor)
            gone = alone[k].view(*alone[k].shape, *[1] * (carried.ndim - 2))
            return carried.masked_fill(gone, 0.0)

        return _join(new), transfer

    def resize(
        self, parameters: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]
    ) -> dict[str, Tensor]:
        members = zip(self.members, _split(parameters), _split(shapes))
        return _join([member.resize(leaves, sizes) for member, leaves, sizes in members])

    def perturb(
        self, parameters: dict[str, Tensor], rate: float, generator: Generator
    ) -> dict[str, Tensor]:
        leaves = _split(parameters)
        members = zip(self.members, leaves, _fork(generator))
        noisy = [member.perturb(before, rate, draws) for member, before, draws in members]
        unchanged = all(after is before for after, before in zip(noisy, leaves))
        return parameters if unchanged else _join(noisy)

    def __repr__(self) -> str:
        pruned = (
            "" if self.apart is None else f", apart={self.apart:g}, prune_every={self.prune_every}"
        )
        return f"GaussianPair({self.members[0]!r}, {self.members[1]!r}{pruned})"


def _split(leaves: dict[str, Any]) -> list[dict[str, Any]]:
    """Split leaves into the leaves of the first and of the second, by their own names."""
    return [select_leaves(leaves, which) for which in _NAMES]


def _join(members: list[dict[str, T]]) -> dict[str, T]:
    return {
        f"{which}.{name}": leaf
        for which, leaves in zip(_NAMES, members)
        for name, leaf in leaves.items()
    }


def _fork(generator: Generator) -> tuple[Generator, Generator]:
    """Return one generator per member."""
    first, second = torch.randint(
        1 << 62, (2,), generator=generator, device=generator.device
    ).tolist()
    return torch.Generator(generator.device).manual_seed(first), torch.Generator(
        generator.device
    ).manual_seed(second)


def _keep(name: str, tensor: Tensor) -> Tensor:
    return tensor


def _far_from(parameters: dict[str, Tensor], others: dict[str, Tensor], apart: float) -> Tensor:
    """Return which Gaussians have none of the others within ``apart``, ``(B, N)``.

    In an item without others, no Gaussian counts as far.
    """
    far = torch.zeros_like(parameters["logit_opacities"], dtype=torch.bool)
    for k, (means, partners) in enumerate(zip(parameters["means"], others["means"])):
        living = partners[others["logit_opacities"][k] > DEAD + 1]
        if len(living):
            far[k] = Tree(living.detach()).query(means.detach())[0] > apart
    return far
