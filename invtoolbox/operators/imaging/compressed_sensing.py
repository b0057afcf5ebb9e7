"""Compressed sensing: random projections, dense and fast; the draw is a function of the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, expand
from invtoolbox.operators.matrix import Matrix


class GaussianSensing(Matrix):
    """Random projection ``A x = M x`` with ``m`` rows of independent normal entries.

    The entries have the variance ``1 / m``, so that ``E |A x|^2 = |x|^2``. The matrix is stored,
    ``m * n`` numbers for images of n pixels; beyond some ten thousand pixels use `HadamardSensing`.
    `norm` and `pseudo_inverse` are those of `Matrix`.

    Args:
        image_shape: shape ``(channel, *space)``, or ``(row, column)``.
        measurements: number of rows ``m``; measurements have the shape ``(batch, 1, m)``.
        seed: seed of the draw, which is made in float64 on the CPU.
        complex: whether the matrix is complex; real and imaginary part then have the variance
            ``1 / (2 m)`` each.

    >>> A = GaussianSensing((4, 4), measurements=8)
    >>> A.domain_shape, A.range_shape
    ((1, 4, 4), (1, 8))
    """

    # deepinv's CompressedSensing computes a pseudo-inverse in its constructor: 3.3 s for 1,024 of
    # 4,096, compared with 0.3 here. Its adjoint returns images of three axes only.

    def __init__(
        self, image_shape: Sequence[int], measurements: int, seed: int = 0, complex: bool = False
    ) -> None:
        shape, count = _check_sizes(image_shape, measurements)
        generator = torch.Generator().manual_seed(seed)
        size = (count, math.prod(shape))
        normal = torch.randn(*size, 2 if complex else 1, generator=generator, dtype=torch.float64)
        matrix = (
            torch.view_as_complex(normal) / math.sqrt(2 * count)
            if complex
            else normal.squeeze(2) / math.sqrt(count)
        )
        super().__init__(matrix.to(torch.complex64 if complex else torch.float32), shape)

    def __repr__(self) -> str:
        return f"GaussianSensing({self.domain_shape}, {self.range_shape[1]})"


class HadamardSensing(LinearOperator):
    r"""Subsampled randomised Hadamard transform ``A x = sqrt(N / m) S H D x``.

    D multiplies by random signs, H is the Walsh-Hadamard transform, and S selects ``m`` of its N
    entries (Ailon & Chazelle 2006; Tropp, Adv. Adapt. Data Anal. 3, 2011). It is as good as a
    Gaussian matrix for compressed sensing, costs ``N log N`` operations, and stores only signs and
    indices. N is the number of pixels, padded with zeros to a power of two. ``E |A x|^2 = |x|^2``.

    If the number of pixels is a power of two, the rows are orthogonal, and `norm`, `pseudo_inverse`
    and `normal_resolvent` are exact.

    Args:
        image_shape: shape ``(channel, *space)``, or ``(row, column)``.
        measurements: number of entries that are kept, at most N; measurements have the shape
            ``(batch, 1, m)``.
        seed: seed of signs and entries.

    >>> A = HadamardSensing((4, 4), measurements=16)
    >>> x = torch.arange(16.0).view(1, 1, 4, 4)
    >>> bool(torch.allclose(A.adjoint(A(x)), x, atol=1e-5))
    True
    """

    def __init__(self, image_shape: Sequence[int], measurements: int, seed: int = 0) -> None:
        self.domain_shape, count = _check_sizes(image_shape, measurements)
        self.pixels = math.prod(self.domain_shape)
        self.padded = 1 << max(self.pixels - 1, 0).bit_length()
        if count > self.padded:
            raise InputError(
                f"HadamardSensing has at most {self.padded} measurements of {self.domain_shape}, "
                f"got {count}"
            )
        generator = torch.Generator().manual_seed(seed)
        self.signs = torch.randint(0, 2, (self.pixels,), generator=generator).to(torch.int8) * 2 - 1
        self.index = torch.randperm(self.padded, generator=generator)[:count].sort().values
        self.range_shape = (1, count)
        self._scale, self._orthogonal = math.sqrt(self.padded / count), self.padded == self.pixels

    def _forward(self, x: Tensor) -> Tensor:
        values = torch.nn.functional.pad(
            x.flatten(1) * self._signs(x), (0, self.padded - self.pixels)
        )
        return (self._scale * _hadamard(values).index_select(1, self.index)).unsqueeze(1)

    def _adjoint(self, y: Tensor) -> Tensor:
        values = y.new_zeros(y.shape[0], self.padded).index_copy(
            1, self.index, self._scale * y.squeeze(1)
        )
        image = _hadamard(values)[:, : self.pixels] * self._signs(y)
        return image.reshape(y.shape[0], *self.domain_shape)

    def _signs(self, like: Tensor) -> Tensor:
        return self.signs.to(like.real.dtype)

    def _known_norm(self) -> Tensor:
        # This is exact without padding, and otherwise an upper bound that is nearly reached.
        return torch.tensor([self._scale], dtype=torch.float64)

    @property
    def has_normal_resolvent(self) -> bool:
        return self._orthogonal

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """Compute ``v / rho - w / (rho (rho + w N / m)) A^T A v``.

        ``A A^T`` is N / m times the identity.
        """
        if not self._orthogonal:
            return super().normal_resolvent(v, rho, weight)
        real = v.real
        w, r = expand(weight, real), expand(rho, real)
        return v / r - (w / (r * (r + w * self._scale**2))) * self.normal(v)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Compute ``m / N A^T y``: without padding, the image of smallest norm that explains y."""
        self._check_measurements("pseudo-inverse", y)
        if not self._orthogonal:
            return super().pseudo_inverse(y)
        return self._adjoint(y) / self._scale**2

    def __repr__(self) -> str:
        return f"HadamardSensing({self.domain_shape}, {self.range_shape[1]})"


def _hadamard(values: Tensor) -> Tensor:
    """Apply the orthonormal Walsh-Hadamard transform to the last axis of ``(batch, 2^k)``.

    The transform is its own inverse.
    """
    size = values.shape[1]
    half = 1
    # Butterflies (a + b, a - b) of entries at the distances 1, 2, 4, ... (Sylvester's order).
    while half < size:
        pairs = values.view(len(values), -1, 2, half)
        values = torch.stack(
            [pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2
        ).view(len(values), size)
        half *= 2
    return values / math.sqrt(size)


def _check_sizes(image_shape: Sequence[int], measurements: int) -> tuple[tuple[int, ...], int]:
    """Return ``(channel, *space)`` and the number of measurements, after checking both."""
    shape = tuple(int(n) for n in image_shape)
    shape = (1, *shape) if len(shape) == 2 else shape
    if not shape or min(shape) < 1 or measurements != int(measurements) or measurements < 1:
        raise InputError(
            "compressed sensing takes a positive image_shape and number of measurements, got "
            f"{shape} and {measurements}"
        )
    return shape, int(measurements)
