"""Travel times of the first arrivals of waves, as a function of the velocity of the medium."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.kernels.grids.eikonal import Eikonal, solve_eikonal
from invtoolbox.kernels.points.sparse_product import SparseProduct
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.survey_places import Survey, corner_weights


class TravelTimes(Survey):
    r"""First arrivals of a survey as a function of the velocity, ``(batch, 1, *grid)``.

    The time T at which a wave from the place of a shot arrives solves the eikonal equation

    .. math:: |\nabla T| = 1 / x, \quad T = 0 \text{ at the shot},

    with the velocity x in m/s at the nodes of the grid, the middles of the cells of `AcousticWaves`.
    It is solved by fast sweeping in the factored form T = d tau, with the distance d from the shot,
    so that the point of the source costs no accuracy, and then with differences of second order. A(x)
    holds seconds, ``(batch, 1, shots, receivers)``. The operator is nonlinear. Its derivative and the
    adjoint are those of the discrete equation, exact to rounding as long as the wave reaches
    neighbouring nodes in the same order; where the order changes, A(x) jumps by no more than the error
    of the discretization.

    The first axis of the grid is the depth by convention. Positions are in metres from the first
    node, in the order of the axes of the grid. The shots are the blocks of solvers with
    ``subset_size``. The derivative takes about 80 bytes per node and shot in two dimensions.

    Args:
        grid: number of nodes along each axis, two or three axes.
        spacing: distance of neighbouring nodes, metres; a number, or one per axis.
        shots: places of the shots, ``(shots, axes)``.
        receivers: places of the receivers, ``(receivers, axes)``, the same for all shots, or
            ``(shots, receivers, axes)``.
        velocities: least and largest velocity that x may have, m/s; other velocities count as the
            nearest one. Bound x by the prior ``it.priors.Box(*A.velocities)``.

    Raises:
        InputError: a grid of another number of axes, velocities that are not positive, or a place
            outside of the grid.

    Sources: Zhao, Mathematics of Computation 74, 2005, for the sweeps; Fomel, Luo and Zhao, Journal
    of Computational Physics 228, 2009, for the factors; Treister and Haber, Journal of Computational
    Physics 324, 2016, for the derivative.

    >>> shots, receivers = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0], [80.0, 60.0]])
    >>> A = TravelTimes((11, 11), 10.0, shots, receivers, velocities=(500, 5000))
    >>> A(torch.full((1, 1, 11, 11), 2000.0))
    tensor([[[[0.0500, 0.0500]]]])
    """

    def __init__(
        self,
        grid: Sequence[int],
        spacing: float | Sequence[float],
        shots: Tensor,
        receivers: Tensor,
        velocities: tuple[float, float],
    ) -> None:
        super().__init__(grid, spacing, shots, receivers, velocities)
        self.shots, self.receivers = self.shots.double(), self.receivers.double()
        self._set_places()

    def _set_places(self) -> None:
        """Set the shape of the times and the matrices that interpolate at shots and receivers."""
        count, nodes = len(self.shots), math.prod(self.grid)
        receivers = self.receivers.expand(count, -1, -1)
        self.range_shape = (1, count, receivers.shape[1])
        self._at_shots = _interpolation(*corner_weights(self.shots, self.grid), nodes)
        # T = d tau at a receiver, from tau at the nodes of the grid of its shot.
        offsets = (receivers - self.shots[:, None]) * receivers.new_tensor(self.spacing)
        distance = offsets.square().sum(-1, keepdim=True).sqrt()
        corners, weights = corner_weights(receivers, self.grid)
        corners = corners + nodes * torch.arange(count, device=corners.device)[:, None, None]
        self._at_receivers = _interpolation(
            corners.flatten(0, 1), (distance * weights).flatten(0, 1), count * nodes
        )

    def _forward(self, x: Tensor) -> Tensor:
        return _Times.apply(x, self)

    def linearize(self, x: Tensor) -> LinearOperator:
        """Return the derivative at x: integrals along the rays of the first arrivals."""
        return _TimesJacobian(self, x, self.solve(x))

    def solve(self, x: Tensor) -> Eikonal:
        """Solve the eikonal equation of every shot.

        Args:
            x: velocities, ``(batch, 1, *grid)``.
        """
        slowness = 1 / x[:, 0].detach().double().clamp(*self.velocities)
        shots = self.shots.to(x.device, torch.float64)
        distance, inside = self._around(shots)
        flat = slowness.flatten(1)
        # Rays are straight near the source, with the mean of the slownesses at their ends.
        mean = 0.5 * (flat[:, None] + self._at_shots(flat[..., None]))
        near = torch.where(inside, mean, math.inf)
        return solve_eikonal(slowness, shots, distance, near, self.spacing)

    def times(self, x: Tensor) -> Tensor:
        """Compute the times at every node of the grid, ``(batch, shots, *grid)``, in seconds.

        Args:
            x: velocities, ``(batch, 1, *grid)``.
        """
        distance = self._around(self.shots.to(x.device, torch.float64))[0]
        return (self.solve(x).tau * distance).unflatten(-1, self.grid).to(x.dtype)

    def _around(self, shots: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances of the nodes from the shots, and whether they are next to them.

        Both have the shape ``(shots, nodes)``.
        """
        axes = [torch.arange(n, dtype=torch.float64, device=shots.device) for n in self.grid]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
        offsets = places - shots[:, None]
        distance = (offsets * offsets.new_tensor(self.spacing)).square().sum(-1).sqrt()
        return distance, (offsets.abs() <= 1).all(-1)

    def _sample(self, tau: Tensor) -> Tensor:
        """Compute ``T = d tau`` at the receivers, ``(batch, 1, shots, receivers)``."""
        return self._at_receivers(tau.flatten(1)[..., None]).view(-1, *self.range_shape)

    def _spread(self, y: Tensor) -> Tensor:
        """Compute the adjoint of `_sample`, ``(batch, shots, nodes)``."""
        tau = self._at_receivers.T(y.double().flatten(1)[..., None])
        return tau.view(len(y), len(self.shots), -1)


def _interpolation(nodes: Tensor, weights: Tensor, count: int) -> SparseProduct:
    """Return the matrix that interpolates ``count`` values, from `corner_weights` ``(places, n)``."""
    rows = torch.arange(len(nodes), device=nodes.device)[:, None].expand_as(nodes)
    shape = (len(nodes), count)
    return SparseProduct(rows.flatten(), nodes.flatten(), weights.flatten(), shape)


class _TimesJacobian(LinearOperator):
    """Derivative of `TravelTimes` at a point, from the solution of the eikonal equation there."""

    def __init__(self, operator: TravelTimes, x: Tensor, solution: Eikonal) -> None:
        self.operator, self.point, self.solution = operator, x.detach(), solution
        self.domain_shape, self.range_shape = operator.domain_shape, operator.range_shape
        self.items = len(x)

    def _rate(self) -> Tensor:
        """Return the derivative of the slowness in the velocity, ``-1 / x^2`` inside the bounds."""
        low, high = self.operator.velocities
        x = self.point[:, 0].double().flatten(1)
        return torch.where((x >= low) & (x <= high), -x.reciprocal().square(), 0.0)

    def _forward(self, x: Tensor) -> Tensor:
        A = self.operator
        inside = A._around(A.shots.to(x.device, torch.float64))[1]
        slowness = self._rate() * x[:, 0].double().flatten(1)
        mean = 0.5 * (slowness[:, None] + A._at_shots(slowness[..., None]))
        change = torch.where(inside, mean, self.solution.slope * slowness[:, None])
        return A._sample(self.solution.propagate(change)).to(x.dtype)

    def _adjoint(self, y: Tensor) -> Tensor:
        A = self.operator
        inside = A._around(A.shots.to(y.device, torch.float64))[1]
        tau = self.solution.propagate(A._spread(y), adjoint=True)
        near = torch.where(inside, 0.5 * tau, 0.0)
        slowness = (near + self.solution.slope * tau).sum(1)
        slowness = slowness + A._at_shots.T(near.sum(-1, keepdim=True))[..., 0]
        return (self._rate() * slowness).view(len(y), *self.domain_shape).to(y.dtype)

    def select(self, index: Tensor) -> _TimesJacobian:
        point, solution = self.point.index_select(0, index), self.solution.select(index)
        return _TimesJacobian(self.operator, point, solution)

    def __repr__(self) -> str:
        return f"{self.operator}.linearize(x)"


class _Times(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, operator: TravelTimes) -> Tensor:
        solution = operator.solve(x)
        context.jacobian = _TimesJacobian(operator, x, solution)
        return operator._sample(solution.tau).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.jacobian._adjoint(gradients[0]), None
