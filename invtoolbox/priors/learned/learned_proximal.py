"""A learned proximal network as a prior.

`LearnedProximal` is the prior of a network that is a proximal operator by construction. `invert`
computes the inverse of the gradient of a convex network, and with it the value of the prior, by one
convex problem per item.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.core.rare_branches import is_any
from invtoolbox.errors import InputError
from invtoolbox.networks.convex_network import ConvexNetwork, item_sum
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.elementary import Identity
from invtoolbox.priors.base import ExplicitPrior, Problem
from invtoolbox.priors.settings import check_intensity_range, check_placement, replace

#: Default weight over that of Bayes' rule, which smooths a little too much.
_OF_BAYES = 0.6


class LearnedProximal(ExplicitPrior):
    """Prior R whose proximal operator is the gradient ``f = grad psi`` of a convex network.

    ``f(x) = argmin_u R(u) + 1/2 |u - x|^2`` holds exactly for any weights of the network, with
    ``R(f(y)) = <f(y), y> - 1/2 |f(y)|^2 - psi(y)``, which need not be convex and is known up to a
    constant. A network trained by proximal matching at the noise level sigma approaches
    ``R = -sigma^2 log p`` of the density p of its training images (Fang, Buchanan and Sulam,
    "What's in a prior? Learned proximal networks for inverse problems", ICLR 2024).

    The objective is ``D(A x, y) + w R(x)``. The network gives the prox of R at step 1 only, so
    solvers take the step ``1 / w``: the weight is the ADMM penalty, and the reciprocal of the step
    of proximal gradient. Both converge, and proximal gradient never increases the objective, if
    ``w > |A|^2 * curvature of D`` (``|A|^2 / noise_std^2`` with least squares). With less noise
    than in the training, such weights smooth too much. The default is 0.6 of the weight of Bayes'
    rule, ``1 / sigma^2`` in units of the noise. Most runs converge there, but not all, so without a
    named solver ADMM stops after 20 steps. With ``within_theorem=True`` the default is 1.05 times
    the least proven weight. `Denoiser` applies the same network at any step, in any solver, without
    an objective.

    Args:
        network: a `ConvexNetwork`.
        sigma: noise level of the training, in the units of the image.
        within_theorem: whether weights for which convergence is not known are refused, and the
            default weight is a proven one.
        intensity_range: the values ``(low, high)`` of the image that the network gets as 0 and 1. R
            then is in squared units of the image, as ``|u - x|^2`` is.
        channelwise: whether a network for one channel is applied to every channel separately.

    >>> import invtoolbox as it
    >>> prior = LearnedProximal(it.priors.ConvexDense(2, width=8, depth=2, strong_convexity=0.1))
    >>> y = torch.tensor([[[0.3, -0.4]]])
    >>> x, energy = prior.prox_and_energy(y, 1.0)
    >>> bool((prior.energy(x) - energy).abs() < 1e-5)
    True
    """

    is_convex = None
    is_smooth = False
    unit_step = True
    item_fields: ClassVar[tuple[str, ...]] = ("least_weight",)

    def __init__(
        self,
        network: ConvexNetwork,
        sigma: float = 0.05,
        *,
        within_theorem: bool = False,
        intensity_range: tuple[float, float] = (0.0, 1.0),
        channelwise: bool = False,
    ) -> None:
        if not isinstance(network, ConvexNetwork):
            raise InputError(
                "LearnedProximal takes a ConvexNetwork, whose output is the gradient of a convex "
                "function, got "
                f"{network if isinstance(network, type) else type(network).__name__}; "
                "Denoiser takes any network"
            )
        check_range(self, "(0, inf)", sigma=sigma)
        network.check_convex()
        self.network, self.sigma, self.within_theorem = network, float(sigma), within_theorem
        self.intensity_range = check_intensity_range(intensity_range)
        self.channelwise = channelwise
        self.least_weight: Tensor | None = None

    def prepare(self, problem: Problem, solve: Any) -> Self:
        if not self.within_theorem:
            return self
        A, curvature = problem.operator, problem.data_term.curvature(problem.y)
        if not isinstance(A, LinearOperator) or curvature is None:
            what = (
                f"{A} is not linear"
                if not isinstance(A, LinearOperator)
                else f"{problem.data_term!r} has no bounded curvature"
            )
            raise InputError(
                f"{self!r} is known to converge for linear operators and misfits of bounded "
                f"curvature, and {what}; leave within_theorem=True out"
            )
        real = problem.y0.real if problem.y0.is_complex() else problem.y0
        norm = A.norm(dtype=problem.y0.dtype, device=problem.y0.device).real.to(real)
        # The estimate approaches the norm from below.
        return replace(
            self, least_weight=((1.002 * norm).square() * curvature.to(real)).reshape(-1)
        )

    def usual_weight(self, variance: Tensor, denoiser_strength: float) -> tuple[Tensor, str] | None:
        """Return a fraction of the weight of Bayes' rule, ``-log p = R / sigma^2``."""
        return (
            _OF_BAYES * variance / self.sigma**2,
            f"the weight is {_OF_BAYES:g} of Bayes' rule, noise variance over {self.sigma:g}^2; "
            "convergence is proven for larger ones, which within_theorem=True takes",
        )

    def prox(self, x: Tensor, step: float | Tensor = 1.0) -> Tensor:
        self._check_step(step)
        with self._mode(x):
            return self._outside(map_items(self.network, self._inside(x)), x)

    def prox_and_energy(self, x: Tensor, step: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        """Return ``f(x)`` and ``R(f(x))``; the identity above needs no inversion."""
        self._check_step(step)
        with self._mode(x):
            inside = self._inside(x)
            psi, p = map_items(self.network.potential_and_gradient, inside)
            # <p, x> - |p|^2 / 2, without cancellation
            energy = 0.5 * (item_sum(inside.square()) - item_sum((p - inside).square())) - psi
            return self._outside(p, x), self._energy_outside(energy, x)

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        level = torch.as_tensor(sigma, dtype=torch.float64)
        if not bool(((level / self.sigma - 1).abs() < 1e-4).all()):
            raise InputError(
                f"{self!r} denoises at the noise level {self.sigma:g} only, "
                f"got {float(level.flatten()[0]):g}"
            )
        return self.prox(x)

    def psi(self, x: Tensor) -> Tensor:
        """Return the convex potential whose gradient is the prox, ``(batch,)``."""
        with self._mode(x):
            inside, (low, high) = self._inside(x), self.intensity_range
            psi = map_items(self.network.potential, inside).view(len(x), -1).sum(1)
            psi = (high - low) ** 2 * psi
            return psi if low == 0 else psi + low * item_sum(x).to(x.dtype)

    def inverse(self, x: Tensor, tolerance: float = 1e-7, max_iterations: int = 2000) -> Inversion:
        """Compute ``y`` with ``f(y) = x`` and ``R(x)``, from ``min psi(y) - <x, y>``.

        If the network has ``strong_convexity``, there is one y for every x. Otherwise x may lie
        outside the range of f. Then R is infinite there, and the returned energy is a lower bound
        that grows with the iterations. A small residual does not mean convergence, so check
        ``converged`` too.

        Args:
            x: images, ``(batch, channel, *space)``.
            tolerance: relative tolerance of the gradient, see `solvers.LBFGS`.
            max_iterations: number of iterations after which the solver stops.
        """
        inside = invert(self.network, self._inside(x), tolerance, max_iterations)
        low, high = self.intensity_range
        return Inversion(
            y=self._outside(inside.y, x),
            energy=self._energy_outside(inside.energy, x),
            residual=inside.residual.square().view(len(x), -1).sum(1).sqrt() * (high - low),
            converged=inside.converged.view(len(x), -1).all(1),
        )

    def energy(self, x: Tensor) -> Tensor:
        """Return ``R(x)``, ``(batch,)``, by `inverse`, which also returns the residual.

        `prox_and_energy` gives the energy of a prox without an inversion.
        """
        return self.inverse(x).energy

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return ``f^{-1}(x) - x``, the vector that the prox subtracts."""
        return self.inverse(x).y - x

    def _inside(self, x: Tensor) -> Tensor:
        """Return x in the network's intensities, with channels as items if ``channelwise``."""
        if not x.is_floating_point():
            raise InputError(f"{self!r} takes real images of floating point, got {x.dtype}")
        check_placement(self, self.network, x)
        low, high = self.intensity_range
        inside = x if (low, high) == (0, 1) else (x - low) / (high - low)
        return inside.reshape(-1, 1, *x.shape[2:]) if self.channelwise else inside

    def _outside(self, p: Tensor, like: Tensor) -> Tensor:
        low, high = self.intensity_range
        p = p.reshape(like.shape)
        return p if (low, high) == (0, 1) else p * (high - low) + low

    def _energy_outside(self, energy: Tensor, like: Tensor) -> Tensor:
        low, high = self.intensity_range
        return ((high - low) ** 2 * energy).view(len(like), -1).sum(1).to(like.dtype)

    def _mode(self, x: Tensor) -> torch.set_grad_enabled:
        if not isinstance(x, Tensor):
            raise InputError(
                f"{self!r} takes a tensor (batch, channel, *space), got {type(x).__name__}"
            )
        # The network is used, not trained: a graph is made only if the image requires gradients.
        return torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad)

    def _check_step(self, step: float | Tensor) -> None:
        times = torch.as_tensor(step, dtype=torch.float64).flatten()
        if is_any(~((times - 1).abs() < 1e-4)):
            raise InputError(
                f"{self!r} has its prox at step 1 only, and step times weight is "
                f"{float(times[(times - 1).abs().argmax()]):.4g}; use ADMM, ProximalGradient or "
                "DouglasRachford with their own step, or Denoiser(network), which disregards it"
            )

    def __repr__(self) -> str:
        free = ", within_theorem=True" if self.within_theorem else ""
        return f"LearnedProximal({type(self.network).__name__}, sigma={self.sigma:g}{free})"


class Inversion(NamedTuple):
    """Inverse of a learned prox.

    Attributes:
        y: the point with ``f(y) = x``, shaped like x.
        energy: ``R(x)``, ``(batch,)``; a lower bound of it if ``y`` was not reached.
        residual: ``|f(y) - x|``, ``(batch,)``.
        converged: whether the gradient fell to the tolerance, ``(batch,)``.
    """

    y: Tensor
    energy: Tensor
    residual: Tensor
    converged: Tensor


def invert(network: ConvexNetwork, x: Tensor, tolerance: float, max_iterations: int) -> Inversion:
    """Compute ``y`` with ``f(y) = x`` by L-BFGS in float64 from ``y = x``, without a graph."""
    import invtoolbox  # deferred: the solvers are imported above the priors

    precise = network if x.dtype == torch.float64 else copy.deepcopy(network).double()
    target = x.detach().double()
    problem = invtoolbox.Problem(target, Identity(target.shape[1:]))
    solution = invtoolbox.solve(
        problem,
        BeyondSquare(precise),
        "lbfgs",
        regularization=1.0,
        initial=target,
        tolerance=tolerance,
        max_iterations=max_iterations,
        progress=False,
    )
    y = solution.x
    with torch.no_grad():
        psi, reached = precise.potential_and_gradient(y)
    # This is a lower bound of psi* for any y, so rounding and early stops make R smaller, never
    # larger.
    energy = item_sum(target * y) - psi - 0.5 * item_sum(target.square())
    converged = torch.tensor([status == "converged" for status in solution.status], device=x.device)
    return Inversion(
        y.to(x.dtype),
        energy.to(x.dtype),
        item_sum((reached - target).square()).sqrt().to(x.dtype),
        converged,
    )


class BeyondSquare(ExplicitPrior):
    """Prior ``psi(y) - 1/2 |y|^2``, which turns a least-squares misfit into the inversion problem.

    With the misfit ``1/2 |y - x|^2`` the objective is ``psi(y) - <x, y> + 1/2 |x|^2``, whose
    minimum is ``-R(x)``.
    """

    is_smooth = True

    def __init__(self, network: ConvexNetwork) -> None:
        self.network = network

    def energy(self, x: Tensor) -> Tensor:
        return self.network.potential(x) - 0.5 * item_sum(x.square())
