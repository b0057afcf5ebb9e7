"""Phase retrieval: measurements are the intensities of a linear transform, without its phase."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.core.reductions import mean_items, sum_items
from invtoolbox.errors import InputError
from invtoolbox.operators.algebra import _Combination
from invtoolbox.operators.base import LinearOperator, check_shape, expand, inner, item_norm


class PhaseRetrieval(_Combination):
    r"""Intensities ``A(x) = |B x|^2`` for a linear operator B.

    The operator is nonlinear and differentiable, with real measurements of complex images. ``x``
    and ``exp(i phi) x`` have the same measurements, so compare with a reference after
    `align_phase`. The misfit is not convex: start from `spectral_initialization` (Candes, Li &
    Soltanolkotabi, IEEE TIT 61, 2015)::

        start = it.operators.spectral_initialization(A, y)
        it.solve(it.Problem(y, A), solver=it.solvers.GradientDescent(), initial=start)

    Args:
        B: a linear operator, such as ``GaussianSensing(..., complex=True)``, or a `Fourier` of a
            masked and padded image.
        complex: whether images are complex; otherwise they are real, and known up to their sign.

    >>> from invtoolbox.operators import Fourier
    >>> PhaseRetrieval(Fourier((1, 4)))(torch.ones(1, 1, 4, dtype=torch.complex64))
    tensor([[[0., 0., 4., 0.]]])
    """

    # deepinv's PhaseRetrieval has the same formula, without a forward derivative, and its spectral
    # method draws from the global generator, so that two calls differ. `it.as_operator` converts
    # it.

    parts: tuple[LinearOperator, ...]  # type: ignore[assignment]

    def __init__(self, B: LinearOperator, complex: bool = True) -> None:
        if not isinstance(B, LinearOperator) or (
            B.range_shape and isinstance(B.range_shape[0], tuple)
        ):
            raise InputError(
                f"PhaseRetrieval takes a linear operator with one tensor of measurements, got {B!r}"
            )
        super().__init__((B,))
        self.domain_shape, self.range_shape = B.domain_shape, B.range_shape
        self.complex_images = bool(complex)

    def _forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.parts[0]._forward(x)
        # This is not abs().square(), because the modulus has no derivative at 0.
        return image.real.square() + image.imag.square() if image.is_complex() else image.square()

    def __repr__(self) -> str:
        return f"PhaseRetrieval({self.parts[0]})"


def spectral_initialization(
    A: PhaseRetrieval, y: Tensor, iterations: int = 100, seed: int = 0
) -> Tensor:
    r"""Compute an initial guess for intensities ``y`` by the spectral method (Chen & Candes 2015).

    The guess is the leading eigenvector of ``B^H diag(y 1[y <= 9 mean(y)]) B``. Large intensities
    are cut off because they would dominate. The eigenvector comes from the power method with a
    fixed random start, item by item. Its length is such that the total intensity is explained,
    ``sum |B x|^2 = sum y``.

    Args:
        A: the operator.
        y: intensities ``(batch, *A.range_shape)``; negative intensities (noise) count as 0.
        iterations: number of iterations of the power method.
        seed: seed of its start.

    >>> from invtoolbox.operators import GaussianSensing
    >>> A = PhaseRetrieval(GaussianSensing((1, 2), 40, complex=True))
    >>> x = torch.tensor([[[[1.0, 2.0j]]]])
    >>> bool((align_phase(spectral_initialization(A, A(x)), x) - x).norm() < 0.5 * x.norm())
    True
    """
    check_shape(y, A.range_shape, f"the intensities of {A}", A.channelwise, A.items)
    B = A.parts[0]
    y = y.clamp_min(0)
    mean = mean_items(y)
    weights = torch.where(y <= 9 * expand(mean, y), y, 0) / expand(
        mean.clamp_min(torch.finfo(y.dtype).tiny), y
    )
    channels = y.shape[1] if A.channelwise else A.domain_shape[0]
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(
        1, channels, *A.domain_shape[1:], 2, generator=generator, dtype=torch.float64
    )
    start = torch.view_as_complex(normal) if A.complex_images else normal[..., 0]
    dtype = (
        (torch.complex128 if y.dtype == torch.float64 else torch.complex64)
        if A.complex_images
        else y.dtype
    )
    x = start.to(dtype=dtype, device=y.device).expand(y.shape[0], *start.shape[1:]).contiguous()
    tiny = torch.finfo(y.dtype).tiny
    with torch.no_grad():
        for _ in range(iterations):
            x = B.adjoint(weights * B(x))
            x = x if A.complex_images or not x.is_complex() else x.real
            x = x / expand(item_norm(x).clamp_min(tiny), x)
        total = sum_items(A(x)).clamp_min(tiny)
        return x * expand((sum_items(y) / total).sqrt(), x)


def align_phase(x: Tensor, reference: Tensor) -> Tensor:
    """Multiply every item of ``x`` by the phase (or sign) that brings it nearest to a reference.

    >>> align_phase(torch.tensor([[[-1.0, -2.0]]]), torch.tensor([[[1.0, 2.0]]]))
    tensor([[[1., 2.]]])
    """
    if not x.is_complex():
        return x * expand(torch.where(inner(x, reference) < 0, -1.0, 1.0), x)
    overlap = sum_items(x.conj() * reference)
    phase = torch.where(overlap.abs() > 0, overlap / overlap.abs().clamp_min(1e-30), 1)
    return x * phase.view(-1, *[1] * (x.ndim - 1))
