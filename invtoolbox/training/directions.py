"""Training of the directions that `solvers.LearnedDirection` proposes.

The right-hand sides are made for a problem, so no images are needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.networks.direction_network import DirectionNetwork
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.priors.base import Prior, PriorSum
from invtoolbox.problem import Problem
from invtoolbox.solve import bind
from invtoolbox.solvers.conjugate_gradient import apply_hessian, quadratic_reason
from invtoolbox.solvers.learned_direction import LearnedDirection
from invtoolbox.training.losses import Loss
from invtoolbox.training.pairs import Pairs
from invtoolbox.training.stages import Stage, train


class NormalEquations(Settings):
    """System ``H = A^T W A + sum_i w_i L_i^T L_i`` of a quadratic problem, as a map of images.

    Args:
        problem: problem of one item; only the shape of its measurements counts.
        prior: quadratic prior, as in `invtoolbox.solve`.
        regularization: weight of the prior.

    Raises:
        InputError: The problem has several items, or is not quadratic.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.zeros(1, 1, 2), it.operators.Identity((1, 2)))
    >>> NormalEquations(problem, it.priors.Tikhonov(), 3.0)(torch.ones(2, 1, 2))
    tensor([[[4., 4.]],
            [[4., 4.]]])
    """

    def __init__(
        self, problem: Problem, prior: Prior | None = None, regularization: float = 1.0
    ) -> None:
        if problem.batch != 1:
            raise InputError(
                "a direction is learned for the system of one item, "
                f"and this problem has {problem.batch}"
            )
        priors = PriorSum() if prior is None else prior.as_sum()
        objective, _, _ = bind(problem, priors, float(regularization))
        self.problem, self.prior, self.regularization = (
            objective.problem,
            objective.prior,
            float(regularization),
        )
        reason = quadratic_reason(objective, "a learned direction")
        if reason is not None or problem.image_dtype.is_complex:
            raise InputError(
                reason or "a learned direction is one of real images, and these are complex"
            )

    def __call__(self, v: Tensor) -> Tensor:
        return apply_hessian(self._objective(), v, self.problem.operator(v))

    def _objective(self) -> Objective:
        real = self.problem.y0
        return Objective(
            self.problem,
            self.prior,
            torch.full((1,), self.regularization, dtype=real.dtype, device=real.device),
        )

    def __repr__(self) -> str:
        return f"NormalEquations({self.problem!r}, {self.regularization:g} * ({self.prior!r}))"


class RitzVectors(Pairs):
    """Right-hand sides ``b = sum_i c_i q_i`` of unit length, with normal coefficients c.

    The q are the Ritz vectors of a system. Lanczos' method finds ``vectors`` of them from a random
    start, all kept orthogonal. Conjugate gradients need most iterations for the lower end of the
    spectrum, which is a small part of a random right-hand side. So the coefficients of its lower
    ``share`` count ``boost`` times as much (Kaneda et al., ICML 2023, who boost a good half, 9
    times).

    Args:
        system: the normal equations.
        vectors: number of Ritz vectors.
        boost: factor of the coefficients of the lower end of the spectrum.
        share: share of the spectrum that is boosted.
        seed: seed of the random start.

    >>> import invtoolbox as it
    >>> A = it.operators.Matrix(torch.diag(torch.arange(1.0, 7.0)))
    >>> system = NormalEquations(it.Problem(torch.zeros(1, 1, 6), A))
    >>> pairs = RitzVectors(system, vectors=6)
    >>> torch.allclose(pairs.values, torch.arange(1.0, 7.0, dtype=torch.float64) ** 2)
    True
    >>> pairs.draw(4, torch.Generator().manual_seed(0))[0].shape
    torch.Size([4, 1, 6])
    """

    def __init__(
        self,
        system: NormalEquations,
        vectors: int = 1000,
        boost: float = 9.0,
        share: float = 0.55,
        seed: int = 0,
    ) -> None:
        check_range(self, "[1, inf)", vectors=vectors)
        check_range(self, "(0, inf]", boost=boost)
        check_range(self, "[0, 1]", share=share)
        self.values, self.vectors = _ritz(system, vectors, seed)
        self.boost, self.share, self.about = boost, share, repr(system)

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        number = len(self.values)
        weights = torch.where(
            torch.arange(number, device=self.vectors.device) < self.share * number,
            self.boost,
            1.0,
        )
        c = torch.randn(count, number, generator=generator, device=self.vectors.device) * weights
        b = torch.einsum("ck,k...->c...", c.to(self.vectors.dtype), self.vectors)
        b = b / expand(item_norm(b), b)
        return b, b

    def __repr__(self) -> str:
        size = float(self.values.sum())
        settings = f"boost={self.boost:g}, share={self.share:g}"
        return f"RitzVectors({len(self.values)} of {self.about}, sum {size:.6g}, {settings})"


@dataclass(frozen=True)
class ResidualLeft(Loss):
    """Relative residual after the best step along a direction.

    ``|b - alpha H f(b)| / |b|`` with ``alpha = <f(b), b> / <f(b), H f(b)>``. It does not depend on
    the length of f(b), and is 0 if ``H f(b)`` is parallel to b (Kaneda et al., ICML 2023, section
    4).

    Args:
        system: the normal equations with the matrix H.
    """

    system: NormalEquations

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        product = self.system.to(device=wanted.device, dtype=wanted.dtype)(result)
        bent = inner(result, product)
        alpha = inner(result, wanted) / bent.clamp_min(torch.finfo(bent.dtype).tiny)
        return item_norm(torch.addcmul(wanted, expand(-alpha, product), product)) / item_norm(
            wanted
        )

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        rms = item_norm(shown) / math.sqrt(shown[0].numel())  # the scaling of `LearnedDirection`
        return self(network(shown / expand(rms, shown)).to(wanted.dtype), wanted)


def train_direction(
    problem: Problem,
    prior: Prior | None = None,
    regularization: float = 1.0,
    network: nn.Module | None = None,
    *,
    stages: Sequence[tuple[int, float]] = ((600, 2e-3), (200, 2e-4)),
    count: int = 32,
    vectors: int = 1000,
    boost: float = 9.0,
    share: float = 0.55,
    conjugations: int = 2,
    seed: int = 0,
    folder: str | Path | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> LearnedDirection:
    """Learn directions for `ConjugateGradient` on problems with one operator, data term and prior.

    No images are needed. Train on small images: the directions then serve larger ones, whose
    spectrum is similar but longer.

    Args:
        problem: problem of one item; its measurements do not count.
        prior: quadratic prior.
        regularization: weight of the prior that will be used.
        network: network that is trained; a `DirectionNetwork` for the image by default.
        stages: number of steps and learning rate of each stage.
        count: number of right-hand sides per step.
        vectors: see `RitzVectors`.
        boost: see `RitzVectors`.
        share: see `RitzVectors`.
        conjugations: setting of the `LearnedDirection` that is returned.
        seed: seed of all draws.
        folder: folder of checkpoints, from which an interrupted training continues.
        device: as in `train`.
        progress: as in `train`.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.zeros(1, 1, 16), it.operators.Identity((1, 16)))
    >>> smooth = it.priors.Tikhonov(it.operators.FiniteDifference((1, 16)))
    >>> train_direction(problem, smooth, 50.0, stages=[(3, 1e-3)], progress=False)
    LearnedDirection(DirectionNetwork of size ..., conjugations=2)
    """
    system = NormalEquations(problem, prior, regularization).to(dtype=torch.float32)
    if network is None:
        shape = problem.image_shape
        network = DirectionNetwork(shape[0], dimensions=len(shape) - 1, seed=seed)
    trained = train(
        network,
        RitzVectors(system, vectors, boost, share, seed),
        [Stage(ResidualLeft(system), steps, rate, count, clip=1.0) for steps, rate in stages],
        seed=seed,
        folder=folder,
        device=device,
        progress=progress,
    )
    return LearnedDirection(trained.network, conjugations)


def _ritz(system: NormalEquations, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return Ritz values, the smallest first, and Ritz vectors ``(count, *image_shape)``.

    The values are float64, the vectors in the precision of the problem.
    """
    precise = system.to(dtype=torch.float64)
    like = precise.problem.zeros()
    count = min(count, like.numel())
    generator = torch.Generator().manual_seed(seed)
    basis = torch.zeros(count, like.numel(), dtype=torch.float64, device=like.device)
    diagonal, off_diagonal = (
        torch.zeros(count, dtype=torch.float64),
        torch.zeros(count, dtype=torch.float64),
    )
    v = torch.randn(like.numel(), generator=generator, dtype=torch.float64).to(like.device)
    largest = 0.0
    for k in range(count):
        # Orthogonalize twice, because of the rounding errors of the first pass.
        for _ in range(2):
            v = v - basis[:k].T @ (basis[:k] @ v)
        norm = float(v.norm())
        if k > 0 and norm <= 1e-10 * largest:
            # The space is invariant under the system; another random start finds the complement.
            v = torch.randn(like.numel(), generator=generator, dtype=torch.float64).to(like.device)
            for _ in range(2):
                v = v - basis[:k].T @ (basis[:k] @ v)
            norm = 0.0
        if k > 0:
            off_diagonal[k - 1] = norm
        basis[k] = v / v.norm()
        product = precise(basis[k].view_as(like)).flatten()
        diagonal[k] = float(basis[k] @ product)
        largest, v = max(largest, float(product.norm())), product
    values, rotation = torch.linalg.eigh(
        torch.diag(diagonal) + torch.diag(off_diagonal[:-1], 1) + torch.diag(off_diagonal[:-1], -1)
    )
    vectors = (rotation.T.to(like.device) @ basis).view(count, *like.shape[1:])
    return values, vectors.to(system.problem.y0.dtype)
