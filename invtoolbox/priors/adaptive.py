"""Implicit priors whose parameters change in number, such as Gaussians that split and vanish."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ImplicitPrior


class Intermediate(NamedTuple):
    """A tensor inside of the operator, and the gradient of the objective with respect to it.

    The gradient is None if the prediction does not depend on the tensor.
    """

    value: Tensor
    gradient: Tensor | None


#: The second result of `AdaptivePrior.adapt`.
Transfer = Callable[[str, Tensor], Tensor]


def select_leaves(leaves: dict[str, Any], owner: str) -> dict[str, Any]:
    """Return the leaves ``owner.NAME`` by NAME, for a prior made of several others.

    >>> select_leaves({"shape.means": 1, "motion.turns": 2}, "shape")
    {'means': 1}
    """
    start = f"{owner}."
    return {name.removeprefix(start): x for name, x in leaves.items() if name.startswith(start)}


class AdaptivePrior(ImplicitPrior):
    """An implicit prior that replaces its parameters by others between two steps.

    The new parameters may have another shape.

    Only solvers that implement `Solver.adapt` accept it (`Adam`). The loop calls `adapt` after the
    steps at which ``adapts`` is true. In between, the solver collects statistics of every
    evaluation by `gather`.
    """

    @property
    def is_adaptive(self) -> bool:
        """Whether the parameters of this instance ever change in number; True unless overridden."""
        return True

    def statistics(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the statistics right after an adaptation: tensors with the batch as first axis.

        They are part of a checkpoint.
        """
        return {}

    def gather(
        self,
        statistics: dict[str, Tensor],
        parameters: dict[str, Tensor],
        info: dict[str, Intermediate],
    ) -> dict[str, Tensor]:
        """Return the statistics after one more evaluation.

        ``info`` comes from the operator's `with_info`.
        """
        return statistics

    def adapts(self, iteration: int) -> bool:
        """Whether the loop calls `adapt` after this number of steps."""
        return self.is_adaptive

    @abstractmethod
    def adapt(
        self,
        parameters: dict[str, Tensor],
        statistics: dict[str, Tensor],
        iteration: int,
        generator: Generator,
    ) -> tuple[dict[str, Tensor], Transfer]:
        """Return the new parameters, and a function that carries tensors over to their shapes.

        ``transfer(name, tensor)`` maps a tensor of the shape of the old leaf (a running mean of its
        gradient, say) to the shape of the new leaf; entries of new parameters are 0. The statistics
        start anew. Random draws come from ``generator`` and are the same for every item.
        """

    def resize(
        self, parameters: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]
    ) -> dict[str, Tensor]:
        """Enlarge the leaves to these shapes without a change of what they decode to.

        The loop needs it for items that end before the parameters of others grow.
        """
        raise InputError(
            f"{self!r} cannot be enlarged without a change, so an item may not end before others "
            "have grown; solve them alone"
        )

    def perturb(
        self, parameters: dict[str, Tensor], rate: float, generator: Generator
    ) -> dict[str, Tensor]:
        """Add noise to the parameters, for priors that explore by noise.

        `Adam` calls it after every step. Unless overridden it returns ``parameters`` itself.
        ``rate`` is the solver's step for a leaf whose factor is 1.
        """
        return parameters
