"""Adapters for deepinv's samplers: problem and prior in deepinv's terms, seeded draws."""

from __future__ import annotations

from functools import cached_property
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode

from invtoolbox.core.reductions import draw_normal
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.settings import check_graph
from invtoolbox.solvers.linear_systems import solve_quadratic

#: Conjugate gradient steps of a data step without a closed form.
_INNER = 30


class RandomNumbers(TorchFunctionMode):
    """Context in which normal random numbers come from one generator per sample.

    The numbers are the same for every item of the batch. deepinv's samplers draw from torch's
    global state, for all items at once; a draw would then depend on earlier draws and on the other
    items of the batch.

    Args:
        generators: one generator per sample; tensors have samples times items as first axis, the
            items of a sample next to each other.
        scale: a factor on every number.
    """

    def __init__(self, generators: list[Generator], scale: float = 1.0) -> None:
        super().__init__()
        self.generators, self.scale = generators, scale

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn_like:
            return self._normal(args[0].shape, args[0].dtype, args[0].device)
        if func is torch.randn:
            return self._normal(torch.Size(args[0]), kwargs["dtype"], kwargs["device"])
        if func is Tensor.normal_:
            return args[0].copy_(self._normal(args[0].shape, args[0].dtype, args[0].device))
        return func(*args, **kwargs)

    def _normal(self, shape: torch.Size, dtype: torch.dtype, device: Any) -> Tensor:
        # Without this context the call of torch.randn would come back here.
        with torch._C.DisableTorchFunction():
            return self.scale * draw_normal(self.generators, shape, dtype, device)


class Network(nn.Module):
    """A prior as a denoiser of images in [0, 1]."""

    def __init__(self, prior: ExplicitPrior, like: Tensor, low: float, high: float) -> None:
        super().__init__()
        self.prior, self.dtype, self.low, self.span = prior, like.dtype, low, high - low

    def forward(self, u: Tensor, sigma: Any, **unused: Any) -> Tensor:
        # x = low + span u maps [0, 1] to the intensity range, and a level of u to span times as
        # much.
        if isinstance(sigma, Tensor) and sigma.device == u.device:
            level = sigma.to(self.dtype).reshape(-1)
            level = level if level.numel() == 1 else level.expand(len(u))
        else:  # a number of the host, which a GPU fills in without a copy
            level = u.new_full((1,), float(sigma), dtype=self.dtype)
        noisy = self.low + self.span * u.to(self.dtype)
        x = check_graph(self.prior.denoise(noisy, self.span * level), noisy, self.prior)
        return ((x - self.low) / self.span).to(u.dtype)


class UnitRangeProblem:
    """A problem of images in [0, 1] whose noise has one standard deviation.

    ``A'(u) = c W (A(low + span u) - A(low)) / span``. W is the root of the weights, so that all
    measurements have the same noise level, `sigma`. With ``normalized``, c makes the norm of a
    linear A' about 1, for samplers that compare levels of images with levels of measurements. The
    items share their operator and their noise level.
    """

    def __init__(
        self, objective: Objective, count: int, low: float, high: float, normalized: bool = False
    ) -> None:
        items = torch.arange(objective.batch, device=objective.problem.y0.device).repeat(count)
        self.objective = objective.select(items)
        self.low, self.span = low, high - low
        problem, D = self.objective.problem, cast(LeastSquares, self.objective.problem.data_term)
        assert D.noise_std is not None
        # c = 1 / |A|; the items share their operator, so one number serves them all. It stays on
        # the device, so that a GPU need not wait for it.
        self.scale: float | Tensor = 1.0
        if normalized and isinstance(objective.problem.operator, LinearOperator):
            norm = objective.problem.operator.norm(
                dtype=problem.zeros().dtype, device=problem.y0.device
            )
            self.scale = 1 / norm.max().double()
        #: `sigma` on the device.
        self.deviation = self.scale * D.noise_std.double().reshape(()) / self.span
        weights = torch.ones_like(problem.y0[:1]) if D.weights is None else D.weights
        self.whiten = self.scale * weights.to(problem.y0).sqrt()
        # A(low), the measurements of a black image; 0 for a linear A and low = 0.
        self.dark = problem.operator(torch.full_like(problem.zeros(), low))
        self.y = (self.whiten * (problem.y - self.dark) / self.span).expand(
            len(items), *problem.y.shape[1:]
        )

    @cached_property
    def sigma(self) -> float:
        return float(self.deviation)

    @property
    def noise_model(self) -> Any:
        from deepinv.physics import GaussianNoise

        return GaussianNoise(self.sigma)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.y), *self.objective.problem.image_shape)

    def A(self, u: Tensor) -> Tensor:
        operator = self.objective.problem.operator
        if isinstance(operator, LinearOperator):
            return self.whiten * operator(u.to(self.y.dtype))
        return (
            self.whiten
            * (operator(self.low + self.span * u.to(self.y.dtype)) - self.dark)
            / self.span
        )

    def A_adjoint(self, y: Tensor) -> Tensor:
        return cast(LinearOperator, self.objective.problem.operator).adjoint(
            self.whiten * y.to(self.y.dtype)
        )

    def prox(self, z: Tensor, y: Tensor, physics: Any, gamma: Any) -> Tensor:
        """Return ``argmin_u gamma / 2 |A'(u) - y|^2 + |u - z|^2 / 2``, by a quadratic step."""
        step = float(gamma)
        # The normal operator of A' is the one of the data term, whose W is 1 / noise_std, times
        # this.
        factor = (self.sigma * self.span) ** 2
        rho = torch.full_like(self.objective.regularization, 1 / (step * factor))
        right = self.A_adjoint(y - self.A(z)) / factor
        change, _ = solve_quadratic(self.objective, [(rho, None)], right, _INNER)
        return (z.to(change) + change).to(z.dtype)


class SingularDecomposition:
    """The singular value decomposition of `UnitRangeProblem`, if it is cheap.

    The decomposition of a mask is the mask itself. A periodic convolution has Hartley's right
    singular vectors, which are real. The matrix of anything small is decomposed.
    """

    def __init__(self, measured: UnitRangeProblem) -> None:
        self.measured, self.noise_model = measured, SimpleNamespace(sigma=measured.sigma)
        # A' = U diag(s) V^T; `power` are the s^2 if V is Hartley's transform.
        power, exact = _symbol(measured)
        n = torch.Size(measured.shape[1:]).numel()
        self.matrix: Tensor | None = None
        if exact and power is not None:
            self.kind, singular = "hartley", power.clamp_min(0).sqrt()
        elif _has_mask(measured.objective.problem.operator):
            self.kind, singular = (
                "pixels",
                measured.A(
                    torch.ones(measured.shape, dtype=measured.y.dtype, device=measured.y.device)
                ).abs(),
            )
        else:
            identity = torch.eye(n, dtype=measured.y.dtype, device=measured.y.device).view(
                n, *measured.shape[1:]
            )
            # Row k of the product is A' e_k, column k of the matrix. There are n right singular
            # vectors, and those without a singular value have s = 0.
            columns = _one_item(measured, identity)
            _, values, self.matrix = torch.linalg.svd(columns.T, full_matrices=True)
            self.kind = "matrix"
            singular = torch.cat([values, values.new_zeros(n - len(values))]).view(
                1, *measured.shape[1:]
            )
        self.mask = singular.expand(measured.shape)[:1]

    def V(self, c: Tensor) -> Tensor:
        """Return the image of coefficients."""
        if self.kind == "hartley":
            return _hartley(c)
        return c if self.matrix is None else _product(c, self.matrix.to(c))

    def V_adjoint(self, u: Tensor) -> Tensor:
        if self.kind == "hartley":
            return _hartley(u)
        return u if self.matrix is None else _product(u, self.matrix.to(u).T)

    def U_adjoint(self, y: Tensor) -> Tensor:
        """Return ``diag(1 / s) V^T A^T y``, which needs no left singular vectors.

        It is 0 if the singular value is 0.
        """
        # A^T = V diag(s) U^T, so U^T y = diag(1 / s) V^T A^T y.
        s = self.mask.to(y)
        coefficients = self.V_adjoint(self.measured.A_adjoint(y))
        is_measured = s > 1e-6 * s.max()
        return torch.where(
            is_measured,
            coefficients / torch.where(is_measured, s, torch.ones_like(s)),
            torch.zeros_like(s),
        )


def undecomposed_reason(objective: Objective) -> str | None:
    """Return why there is no cheap singular value decomposition, or ``None``."""
    problem = objective.problem
    n = torch.Size(problem.image_shape).numel()
    D = cast(LeastSquares, problem.data_term)
    if not D.is_unweighted:
        return "DDRM takes measurements of one noise level, without weights"
    symbol = cast(LinearOperator, problem.operator).normal_symbol()
    is_diagonal = (symbol is not None and symbol[1]) or _has_mask(problem.operator)
    if n <= _LARGEST or is_diagonal:
        return None
    return (
        "DDRM needs a singular value decomposition: of a mask, a periodic convolution or an image "
        f"of at most {_LARGEST} pixels, and {problem.operator} has none"
    )


#: Largest number of pixels for which the operator is decomposed as a matrix.
_LARGEST = 1024


def _has_mask(operator: Any) -> bool:
    return set(operator.parameters()) == {"mask"} and operator.domain_shape == operator.range_shape


def _symbol(measured: UnitRangeProblem) -> tuple[Tensor | None, bool]:
    """Return the squared singular values under Hartley's transform, and whether they are exact.

    Their shape is ``(1, channel or 1, rows, columns)``.
    """
    symbol = cast(LinearOperator, measured.objective.problem.operator).normal_symbol()
    if symbol is None or not symbol[1]:
        return None, False
    spectrum = symbol[0].to(measured.y)[:1]
    # The other half of a convolution's spectrum belongs to the opposite frequencies.
    if spectrum[0].numel() > spectrum.shape[1]:
        mirrored, columns = spectrum, measured.shape[-1]
        # The frequency -k stands at the index n - k, and 0 stays.
        for axis in range(2, spectrum.ndim - 1):
            mirrored = mirrored.flip(axis).roll(1, axis)
        opposite = torch.arange(columns - spectrum.shape[-1], 0, -1, device=spectrum.device)
        spectrum = torch.cat([spectrum, mirrored[..., opposite]], -1)
    return spectrum * float(measured.whiten.flatten()[0]) ** 2, True


def _one_item(measured: UnitRangeProblem, x: Tensor) -> Tensor:
    """Apply the operator to images, with the weights of the measurements; one image per row."""
    operator = measured.objective.problem.operator
    return (measured.whiten.flatten()[0] * operator(x)).flatten(1)


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiply each image, as a row, by a matrix."""
    # Row by row, because a product of matrices rounds differently in a batch.
    return torch.cat([row @ matrix for row in x.flatten(1).split(1)]).view(x.shape)


def _hartley(u: Tensor) -> Tensor:
    """Apply Hartley's transform, which is real, symmetric and its own inverse.

    It diagonalizes the normal operator of every real periodic convolution.
    """
    # cas(t) = cos(t) + sin(t), and the Fourier transform has exp(-i t) = cos(t) - i sin(t).
    spectrum = torch.fft.fftn(u, dim=tuple(range(2, u.ndim)), norm="ortho")
    return spectrum.real - spectrum.imag
