"""The prior graphLa+Psi: sparsity of the graph Laplacian of a first reconstruction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Generator, Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError, unknown_name
from invtoolbox.operators.base import LinearOperator, check_shape
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.operators.graph_laplacian import PixelGraphLaplacian
from invtoolbox.priors.base import ExplicitPrior, Prior, Problem
from invtoolbox.priors.images.constraints import intensity_range
from invtoolbox.priors.images.smoothed_norm import SmoothedNorm
from invtoolbox.priors.images.total_variation import TotalVariation
from invtoolbox.priors.settings import replace, require_bound

if TYPE_CHECKING:
    from invtoolbox.parameter_choice.base import WeightRule

_FIRST = ("fbp", "pseudo-inverse", "tikhonov", "tv")


class GraphLaplacian(ExplicitPrior):
    """Sparsity ``R(x) = |Delta x|_1`` of the graph Laplacian of a first reconstruction ``x~``.

    Pixels p and q at most ``radius`` apart (in the maximum norm) are joined by an edge of weight
    ``exp(-|x~(p) - x~(q)|^2 / (intensity_scale r^2))``, r the intensity range of ``x~``. W is
    divided by its Frobenius norm, and ``Delta = diag(W 1) - W``. So the prior favors an ``x`` that
    is constant where ``x~`` is constant, and lets it jump where ``x~`` jumps: the result keeps the
    edges of the first reconstruction and not its errors of intensity.

    The l1 norm is smoothed, ``|t| ~ sqrt(t^2 + eps^2) - eps`` with ``eps = smoothing r``. Delta is
    tiny after its normalization (about ``1e-3`` per entry at 128x128), so ``|Delta x|`` stays below
    eps nearly everywhere, and the term acts like ``|Delta x|^2 / (2 eps)``. This is the method of
    the paper, whose figures belong to ``smoothing=0.1``; a much smaller value is another method.
    The normalization also makes weights of 1e4 to 1e9 normal: leave them to the discrepancy
    principle.

    Source: Bianchi, Evangelista, Aleotti, Donatelli, Loli Piccolomini & Li, "A data-dependent
    regularization method based on the graph Laplacian", arXiv 2312.16936.

    Args:
        first: source of ``x~``: ``"tv"``, ``"tikhonov"`` (squared differences),
            ``"pseudo-inverse"`` or ``"fbp"`` (synonyms), a prior to solve with first (such as a
            `Denoiser`), a network that refines the pseudo-inverse (`torch.nn.Module`), an image
            ``(batch or 1, channel, *space)``, or a function of the problem that returns an image.
        radius: half width of the window in pixels; 4 means 9x9, which is 80 neighbors.
        intensity_scale: whole denominator of the exponent, for an image of intensity range 1.
        intensity_range: r, in the unit of the image; measured in ``x~`` by default.
        smoothing: eps for an image of intensity range 1.
        power: exponent q of ``sum |Delta x|^q``.
        first_regularization: weight of the first reconstruction, or the rule that chooses it.

    >>> import invtoolbox as it
    >>> edge = torch.tensor([0., 1.]).repeat_interleave(8).expand(1, 1, 16, 16)
    >>> noisy = edge + 0.1 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> A = it.operators.Identity((1, 16, 16))
    >>> problem = it.Problem(noisy, A, it.data_terms.LeastSquares(0.1))
    >>> x = it.solve(problem, GraphLaplacian(first="tv"), regularization=2e5, progress=False).x
    >>> bool((x - edge).norm() < 0.4 * (noisy - edge).norm())
    True
    """

    is_convex = True
    is_made_from_data = True
    is_smooth = True
    item_fields: ClassVar[tuple[str, ...]] = (
        "first",
        "first_regularization",
        "guess",
        "_laplacian",
        "_norm",
    )

    def __init__(
        self,
        first: str | Prior | nn.Module | Tensor | Callable[[Problem], Tensor] = "tv",
        radius: int = 4,
        intensity_scale: float = 1e-3,
        intensity_range: float | None = None,
        smoothing: float = 0.1,
        power: float = 1.0,
        first_regularization: float | Tensor | str | WeightRule = "auto",
    ) -> None:
        if isinstance(first, str) and first not in _FIRST:
            raise unknown_name("first reconstruction", first, _FIRST)
        check_range(self, "[1, inf)", radius=radius)
        check_range(
            self,
            "(0, inf]",
            intensity_scale=intensity_scale,
            intensity_range=intensity_range,
            smoothing=smoothing,
        )
        self.first, self.first_regularization = first, first_regularization
        self.radius, self.intensity_scale, self.intensity_range = (
            int(radius),
            intensity_scale,
            intensity_range,
        )
        self.smoothing, self.power = smoothing, power
        self.is_convex = power >= 1
        self.guess: Tensor | None = None
        self._laplacian: PixelGraphLaplacian | None = None
        self._norm = SmoothedNorm(power, smoothing)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        """Compute the first reconstruction and its graph, unless the prior is bound already."""
        if self._laplacian is not None:
            return self
        image, weight = self._first_image(problem, solve)
        return replace(self.bind(image), first_regularization=weight)

    def unbind(self) -> Self:
        return replace(self, guess=None, _laplacian=None)

    def bind(self, image: Tensor) -> Self:
        """Return a copy with the graph of the image ``(batch, channel, *space)``."""
        # r, per item.
        spread = (
            intensity_range(image)
            if self.intensity_range is None
            else image.new_full(image.shape[:1], self.intensity_range)
        )
        # Both scales are settings for an image of range 1: the exponent is quadratic in r, and the
        # smoothing of the norm linear.
        return replace(
            self,
            guess=image,
            _laplacian=PixelGraphLaplacian.from_image(
                image, self.radius, self.intensity_scale * spread.square()
            ),
            _norm=SmoothedNorm(self.power, self.smoothing * spread),
        )

    def _first_image(self, problem: Problem, solve: Any) -> tuple[Tensor, Any]:
        """Return the first reconstruction, and its weight if a prior made it."""
        first, weight = self.first, self.first_regularization
        if isinstance(first, Tensor):
            check_shape(
                first, problem.image_shape, "the image that GraphLaplacian is given as first="
            )
            if first.shape[0] not in (1, problem.batch):
                raise InputError(
                    f"first= has {first.shape[0]} images, expected 1 or {problem.batch}"
                )
            image = first.detach().to(problem.y0).expand(problem.batch, *problem.image_shape)
        elif isinstance(first, str) and first in ("fbp", "pseudo-inverse"):
            image = _pseudo_inverse(problem)
        elif isinstance(first, nn.Module):
            with torch.no_grad():
                image = first(_pseudo_inverse(problem))
        elif isinstance(first, (str, Prior)):
            image, weight = self._solve(problem, solve, first)
        else:
            image = first(problem)
        if not isinstance(image, Tensor) or tuple(image.shape) != (
            problem.batch,
            *problem.image_shape,
        ):
            got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise InputError(
                "the first reconstruction has to be an image "
                f"{(problem.batch, *problem.image_shape)}, got {got}"
            )
        # Neighbours of a complex image are alike if their magnitudes are.
        image = image.abs() if image.is_complex() else image
        if not bool(torch.isfinite(image).all()):
            raise InputError(
                "the first reconstruction holds NaN or infinite values, so no graph can be built "
                "from it"
            )
        return image.detach().contiguous(), weight

    def _solve(self, problem: Problem, solve: Any, first: str | Prior) -> tuple[Tensor, Tensor]:
        solver = None
        if isinstance(first, str):
            # R(x) = |D x|_1 for "tv" and |D x|_2^2 for "tikhonov".
            differences = FiniteDifference(problem.image_shape)
            # The paper's TV is anisotropic and smoothed; the Krylov method does this if the misfit
            # is quadratic and everything is real.
            is_real = isinstance(problem.y, Tensor) and not problem.y.is_complex()
            if problem.is_linear and problem.data_term.is_quadratic and is_real:
                solver = "krylov-mm"
            first = (
                TotalVariation(isotropic=False)
                if first == "tv"
                else SmoothedNorm(2.0) @ differences
            )
        solution = solve(
            problem, first, solver=solver, regularization=self.first_regularization, progress=False
        )
        return solution.x, solution.regularization

    @property
    def laplacian(self) -> PixelGraphLaplacian:
        """The operator Delta of a prior that is bound to a problem."""
        return require_bound(self, self._laplacian)

    def energy(self, x: Tensor) -> Tensor:
        return self._norm.energy(self.laplacian(x))

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        # Delta^T phi'(Delta x), phi the smoothed norm; Delta depends on the first image, not on x.
        return self.laplacian.adjoint(self._norm.gradient(self.laplacian(x)))

    def split(self) -> tuple[LinearOperator, ExplicitPrior]:
        return self.laplacian, self._norm

    def __repr__(self) -> str:
        if isinstance(self.first, (str, Prior)):
            return f"GraphLaplacian(first={self.first!r})"
        name = getattr(self.first, "__name__", type(self.first).__name__)
        return f"GraphLaplacian(first={'an image' if isinstance(self.first, Tensor) else name})"


def _pseudo_inverse(problem: Problem) -> Tensor:
    if not isinstance(problem.operator, LinearOperator):
        raise InputError(
            f"{problem.operator} is not linear and has no pseudo-inverse; "
            "use first='tv' or an image"
        )
    return problem.operator.pseudo_inverse(problem.y)
