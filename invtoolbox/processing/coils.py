"""Coils of MRI: whitening of their noise, and compression to fewer virtual coils.

Source: Pruessmann et al., MRM 46, 2001 (noise decorrelation); Buehrer et al., MRM 57, 2007, and Huang
et al., MRI 26, 2008 (array compression).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.datasets.measurement import Measurement
from invtoolbox.datasets.mri.kspace import KSpace
from invtoolbox.errors import InputError


def whitening_matrix(noise: Tensor, bandwidth_ratio: float = 1.0) -> Tensor:
    r"""Compute the matrix that makes the noise of coils white, with standard deviation 1.

    .. math:: W = \sqrt{2 r} \, L^{-1}, \qquad L L^H = \frac{1}{M} \sum_m n_m n_m^H,

    so that the real part and the imaginary part of every coil of ``W y`` have a noise of standard
    deviation 1. The noise of samples is proportional to their bandwidth, hence the ratio r.

    Args:
        noise: samples without signal, complex, ``(coil, samples)``.
        bandwidth_ratio: noise bandwidth of these samples over the bandwidth of the samples to be
            whitened: the dwell time of the latter over the dwell time of the former, times the
            relative bandwidth of the receiver's noise.

    Returns:
        The matrix ``(coil, coil)``, lower triangular.

    Raises:
        InputError: fewer samples than coils, or coils whose noise depends on each other.

    >>> n = torch.randn(2, 4000, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    >>> noise = torch.tensor([[2.0], [0.5]]) * n
    >>> whitening_matrix(noise).abs().round(decimals=1)
    tensor([[0.7000, 0.0000],
            [0.0000, 2.8000]])
    >>> whitening_matrix(noise, bandwidth_ratio=4.0)[0, 0].real.round(decimals=1)  # noisier than y
    tensor(1.4000)
    """
    check_range("whitening_matrix", "(0, inf)", bandwidth_ratio=bandwidth_ratio)
    if noise.ndim != 2 or not noise.is_complex() or not bool(noise.isfinite().all()):
        raise InputError(
            f"noise of coils is complex and finite, (coil, samples), got {noise.dtype} of "
            f"{tuple(noise.shape)}"
        )
    coils, samples = noise.shape
    if samples < 2 * coils:
        raise InputError(
            f"{samples} samples of noise do not show the covariance of {coils} coils; give at least "
            f"{2 * coils}"
        )
    exact = noise.to(torch.complex128)
    covariance = exact @ exact.conj().T / samples
    factor, fault = torch.linalg.cholesky_ex(covariance)
    diagonal = factor.diagonal().real
    if int(fault) or not bool(diagonal.min() > 1e-6 * diagonal.max()):
        raise InputError(
            "the noise of some coils is zero or a mixture of the noise of others, so it cannot be made "
            "white; leave these coils out"
        )
    unit = torch.eye(coils, dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, unit, upper=False)
    return ((2 * bandwidth_ratio) ** 0.5 * inverse).to(noise.dtype)


def mix_coils(matrix: Tensor, y: Tensor, axis: int = 1) -> Tensor:
    """Apply a matrix to the coils of k-space or of images.

    Args:
        matrix: weights ``(virtual coil, coil)``.
        y: values with the coils along an axis.
        axis: this axis.

    >>> mix_coils(torch.tensor([[1.0, 1.0]]), torch.ones(1, 2, 3, 3)).shape
    torch.Size([1, 1, 3, 3])
    """
    return torch.tensordot(y, matrix.to(y), dims=([axis], [1])).movedim(-1, axis)


def compression_matrix(y: Tensor, coils: int | None = None, share: float = 0.99) -> Tensor:
    r"""Compute orthonormal mixtures of the coils that hold most of the energy of k-space.

    They are the leading left singular vectors of the matrix of all samples ``(coil, samples)``,
    conjugated. White noise stays white with the same level.

    Args:
        y: k-space of one item, ``(1, coil, *samples)``.
        coils: number of virtual coils; by default as few as hold the share of the energy.
        share: share of the energy of the samples, with their noise, that virtual coils hold if their
            number is not given.

    Returns:
        The matrix ``(virtual coil, coil)``, for `mix_coils`. The energy of the first virtual coil is
        the largest.

    Raises:
        InputError: more virtual coils than coils, or k-space without samples.

    >>> y = torch.randn(1, 1, 8, 8, dtype=torch.complex64) * torch.tensor([1, 2j, -1]).view(1, 3, 1, 1)
    >>> compression_matrix(y).shape
    torch.Size([1, 3])
    """
    if y.ndim < 3 or len(y) != 1 or not bool((y != 0).any()):
        raise InputError(
            f"k-space of one item is (1, coil, *samples) and not 0 everywhere, got {tuple(y.shape)}"
        )
    check_range("compression_matrix", f"[1, {y.shape[1]}]", coils=coils)
    check_range("compression_matrix", "(0, 1]", share=share)
    flat = y[0].flatten(1)
    # The eigenvectors of the small matrix of energies are the singular vectors.
    energies, vectors = torch.linalg.eigh(flat @ flat.conj().T)
    energies, vectors = energies.flip(0).clamp_min(0), vectors.flip(1)
    if coils is None:
        sums = energies.double().cumsum(0) / energies.double().sum()
        coils = min(int((sums < share).sum()) + 1, len(energies))
    return vectors[:, :coils].conj().T.contiguous()


def compress_coils(item: Measurement, coils: int | None = None, share: float = 0.99) -> Measurement:
    """Return a measurement of fewer virtual coils; see `compression_matrix`.

    Args:
        item: k-space ``(1, coil, *samples)`` whose geometry is a `invtoolbox.datasets.KSpace`.
        coils: number of virtual coils; by default as few as hold the share of the energy.
        share: share of the energy of the samples.

    Returns:
        The measurement; a note in its ``meta["notes"]`` states the number of virtual coils and the
        share of the energy that they hold.
    """
    if not isinstance(item.geometry, KSpace):
        raise InputError("coils are those of k-space; give an item of an ISMRMRD or fastMRI file")
    matrix = compression_matrix(item.y, coils, share)
    y = mix_coils(matrix, item.y)
    energy = float(y.abs().square().sum() / item.y.abs().square().sum())
    note = (
        f"{item.y.shape[1]} coils were compressed to {len(matrix)}, which hold {energy:.2%} of the "
        "energy"
    )
    meta = {**item.meta, "notes": (*item.meta.get("notes", ()), note)}
    geometry = item.geometry.mix_coils(matrix)
    return dataclasses.replace(item, y=y, geometry=geometry, meta=meta)
