"""Kernel Stein discrepancy: how far samples are from a density that is known by its score."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice
from invtoolbox.errors import InputError


def kernel_stein_discrepancy(
    samples: Tensor, scores: Tensor, kernel: Literal["linear", "imq"] = "linear"
) -> Tensor:
    r"""Compute the kernel Stein discrepancy of samples from their scores, one value per item.

    It compares samples of a posterior with the posterior itself and needs neither true images nor
    exact samples: the score is ``-grad D(A(x), y) + grad log p(x)``, and a denoiser gives the
    second part by Tweedie's formula, ``(denoise(x, s) - x) / s^2``.

    With the Stein kernel ``u(z, z') = s^T s' k + s^T grad_z' k + s'^T grad_z k + div_z div_z' k`` of
    scores s and s', the result is the square root of the mean of u over all pairs of different
    samples, divided by n, the number of values; it is 0 if chance makes the mean negative (Liu, Lee
    and Jordan, "A kernelized Stein discrepancy for goodness-of-fit tests", ICML 2016). Two kernels:

    - ``"linear"``, ``k = 1 + z^T z'``: the discrepancy is the root mean square, over directions, of
      ``|E[s]|`` and ``|E[s z^T] + I|``. It sees wrong means and spreads in any number of dimensions
      (for a Gaussian of right mean and variance r times the exact one, it is ``|1 - r|``).
    - ``"imq"``, ``k = (1 + |z - z'|^2 / c^2)^{-1/2}``, c the median distance (Gorham and Mackey,
      "Measuring sample quality with kernels", ICML 2017): it sees every difference within a mode,
      but in many dimensions hardly a spread that is too small.

    Both use coordinates in which the samples are white, ``x = L z`` with ``s = L^T grad log p``. L is
    the root of their covariance if there are at least four samples per value, and of its diagonal
    otherwise. So the result has no unit. Both are blind to the weights of modes that are far apart.

    Args:
        samples: samples ``(number, batch, channel, *space)``.
        scores: gradients of the log density at the samples, of the same shape.
        kernel: k.

    Returns:
        Discrepancies ``(batch,)``.

    Raises:
        InputError: The shapes differ, there are fewer than two samples, the values are complex or
            not finite, or the kernel is unknown.

    >>> z = torch.randn(2000, 1, 1, 4, generator=torch.Generator().manual_seed(0))
    >>> exact = kernel_stein_discrepancy(z, -z)
    >>> half_the_variance = kernel_stein_discrepancy(z / 2**0.5, -z / 2**0.5)
    >>> bool(exact < 0.1), round(float(half_the_variance), 1)
    (True, 0.5)
    """
    if samples.shape != scores.shape or samples.ndim < 3 or len(samples) < 2:
        raise InputError(
            "samples and scores have one shape (number, batch, channel, *space) with at least two "
            f"samples, got {tuple(samples.shape)} and {tuple(scores.shape)}"
        )
    if samples.is_complex() or scores.is_complex():
        raise InputError(
            "samples and scores are real; give complex ones as torch.view_as_real(...)"
        )
    if not bool((samples.isfinite() & scores.isfinite()).all()):
        raise InputError("samples or scores hold NaN or infinite values")
    check_choice("kernel_stein_discrepancy", ("linear", "imq"), kernel=kernel)
    return torch.stack(
        [
            _of_item(samples[:, k].flatten(1), scores[:, k].flatten(1), kernel)
            for k in range(samples.shape[1])
        ]
    ).to(samples.dtype)


def _of_item(x: Tensor, score: Tensor, kernel: str) -> Tensor:
    z, s = _whiten(x.double(), score.double())
    number, n = z.shape
    # u(z, z') for all pairs of samples, (number, number).
    products = (s * z).sum(1)
    if kernel == "linear":
        # k = 1 + z^T z': grad_z' k = z, grad_z k = z', and the double divergence is n.
        u = (s @ s.T) * (1 + z @ z.T) + products[:, None] + products + n
    else:
        # k = q^(-1/2), q = 1 + |z - z'|^2 / c^2: grad_z' k = (z - z') q^(-3/2) / c^2.
        apart = torch.cdist(z, z).square()
        c2 = apart[~torch.eye(number, dtype=torch.bool, device=z.device)].median()
        c2 = torch.where(c2 > 0, c2, 1.0)
        q = 1 + apart / c2
        cross = s @ z.T
        along = products[:, None] - cross - cross.T + products  # (s - s')^T (z - z')
        u = (s @ s.T) * q**-0.5 + (along + n) / c2 * q**-1.5 - 3 * apart / c2**2 * q**-2.5
    pairs = u.sum() - u.diagonal().sum()
    return (pairs / (number * (number - 1) * n)).clamp_min(0).sqrt()


def _whiten(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return white samples, and the scores of their density."""
    x = x - x.mean(0)
    if len(x) < 4 * x.shape[1]:
        deviation = x.square().mean(0).sqrt().clamp_min(1e-30)
        return x / deviation, s * deviation
    eigenvalues, vectors = torch.linalg.eigh(x.T @ x / len(x))
    deviation = eigenvalues.clamp_min(1e-30).sqrt()
    return x @ vectors / deviation, s @ vectors * deviation
