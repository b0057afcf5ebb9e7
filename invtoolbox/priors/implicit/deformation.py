"""A shape and its motion: Gaussians or voxels at rest, moved to where they are at each of several times."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.priors.implicit.motions import Motion
from invtoolbox.scenes.moving import Moving, mapped, places_of
from invtoolbox.scenes.splats import Splats
from invtoolbox.scenes.voxels import Voxels

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


class Deformation(ImplicitPrior):
    r"""x is `scenes.moving.Moving`: the shape at rest, and displacements and turns of its points at T times.

    Under `operators.OverTime`, which renders each time with its own cameras, and with any prior of rigidity beside it, which looks at the
    displacements: ``Deformation(splats, PointMotion()) + 10.0 * ARAP(graph=NeighbourGraph.of_points(splats.means[0]))``. A prior of one
    flow takes the mean over the times. The shape is one that is known, or is found along with its motion.

    Args:
        shape: `Splats` or `Voxels` that are known, or an implicit prior of such: `VoxelGrid`, `Gaussians` with ``strategy=None``.
        motion: `ControlNodes`, `PointMotion` or `NetworkMotion`.
        rate: the factor on the step of the motion's parameters.

    Raises:
        InputError: for a shape that cannot be moved, or one whose parameters change in number.

    >>> import torch
    >>> from invtoolbox.priors.implicit.motions import ControlNodes
    >>> ball = Splats.of_points(torch.rand(1, 50, 3), torch.ones(1, 50, 3), 0.1, 0.9)
    >>> prior = Deformation(ball, ControlNodes(8, times=3)).prepare(None, None)
    >>> prior.decode(prior.initial()).displacements.shape
    torch.Size([1, 3, 50, 3])
    """

    def __init__(
        self, shape: Splats | Voxels | ImplicitPrior, motion: Motion, rate: float = 1.0
    ) -> None:
        if not isinstance(shape, (Splats, Voxels, ImplicitPrior)):
            raise InputError(
                f"Deformation moves Splats, Voxels or an implicit prior of such, got {type(shape).__name__}"
            )
        if isinstance(shape, ImplicitPrior) and shape.is_adaptive:
            raise InputError(
                f"what Deformation moves keeps its number of points, and {shape!r} does not; give it strategy=None"
            )
        if not isinstance(motion, Motion):
            raise InputError(
                f"Deformation moves by a Motion such as ControlNodes(), got {type(motion).__name__}"
            )
        if not rate > 0:
            raise InputError(f"the rate of Deformation is positive, got {rate}")
        self.shape, self.motion, self.rate = shape, motion, float(rate)

    def prepare(self, problem: Problem | None, solve: Any) -> Self:
        other = copy.copy(self)
        shape = self.shape
        if isinstance(shape, ImplicitPrior):
            assert problem is not None
            shape = other.shape = shape.prepare(problem, solve)
            shape = shape.decode(shape.initial())
        elif problem is not None:
            shape = other.shape = mapped(shape, lambda t: t.to(problem.first))
        other.motion = self.motion.bind(places_of(shape).detach())
        return other

    def at(self, iteration: int) -> Self:
        if not isinstance(self.shape, ImplicitPrior):
            return self
        other = copy.copy(self)
        other.shape = self.shape.at(iteration)
        return other

    def initial(self) -> dict[str, Tensor]:
        """The leaves of the motion and, where the shape is unknown, its own as ``shape.NAME``."""
        if not self.motion.size:
            raise InputError(f"{self!r} must be prepared with a problem first; it.solve does so")
        own = self.shape.initial() if isinstance(self.shape, ImplicitPrior) else {}
        return {
            **{f"motion.{name}": leaf for name, leaf in self.motion.initial().items()},
            **{f"shape.{name}": leaf for name, leaf in own.items()},
        }

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Moving:
        shape = self.shape
        if isinstance(shape, ImplicitPrior):
            shape = shape.decode(_part(parameters, "shape"), generator)
        displacements, turns = self.motion.moved(_part(parameters, "motion"), places_of(shape))
        turns_or_none = turns if isinstance(shape, Splats) else None
        return Moving(
            displacements,
            turns_or_none,
            mapped(shape, lambda t: t.expand(len(displacements), *t.shape[1:])),
        )

    def energy(self, parameters: dict[str, Tensor], x: Moving) -> Tensor:
        energy = self.motion.energy(_part(parameters, "motion"))
        return (
            energy + self.shape.energy(_part(parameters, "shape"), x.shape)
            if isinstance(self.shape, ImplicitPrior)
            else energy
        )

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        own = (
            self.shape.learning_rates(_part(parameters, "shape"))
            if isinstance(self.shape, ImplicitPrior)
            else {}
        )
        rates = {name: self.rate for name in parameters if name.startswith("motion.")}
        return {
            **rates,
            **{
                f"shape.{name}": rate for name, rate in own.items() if f"shape.{name}" in parameters
            },
        }

    def select(self, index: Tensor) -> Self:
        other = copy.copy(self)
        other.motion = self.motion.select(index)
        if isinstance(self.shape, ImplicitPrior):
            other.shape = self.shape.select(index)
        else:
            other.shape = mapped(
                self.shape, lambda t: t.index_select(0, index) if len(t) > 1 else t
            )
        return other

    def __repr__(self) -> str:
        return f"Deformation({self.shape!r}, {self.motion!r})"


def _part(parameters: dict[str, Tensor], owner: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{owner}."): leaf
        for name, leaf in parameters.items()
        if name.startswith(f"{owner}.")
    }
