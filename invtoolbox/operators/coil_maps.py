"""Coil sensitivities from the fully sampled middle of k-space."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.fourier import centred_ifft


def estimate_coil_maps(
    y: Tensor,
    calibration: int | tuple[int, int] = 24,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.9,
) -> Tensor:
    r"""Coil sensitivities ``(batch, coil, row, column)`` by ESPIRiT (Uecker et al., MRM 71, 2014), the first set of maps.

    Every patch of ``kernel x kernel`` samples of all coils lies in the row space of the matrix of the patches of the
    calibration region. In the image domain the projection onto that space is a matrix of ``coils x coils`` at every pixel, and
    the sensitivities are its eigenvector to the eigenvalue 1. They have norm 1, their phase is relative to that of the first
    principal component of the coils, and they are 0 where the eigenvalue is below ``crop``: outside the object.

    Args:
        y: k-space ``(batch, coil, row, column)``, frequency zero in the middle (index ``n // 2``).
        calibration: rows and columns in the middle that are fully sampled.
        kernel: size of the patches.
        threshold: singular values of the patches below this fraction of the largest are noise.
        crop: least eigenvalue of a pixel that counts as seen; 0 keeps all.

    Raises:
        InputError: a calibration region that is larger than k-space, smaller than a patch, or not fully sampled.

    >>> from invtoolbox.operators import Fourier
    >>> coils = torch.tensor([0.6, 0.8j]).view(1, 2, 1, 1) * torch.ones(32, 32)  # two coils that see all pixels alike
    >>> maps = estimate_coil_maps(Fourier((2, 32, 32))(coils * torch.rand(32, 32)))
    >>> maps.shape, maps[0, :, 16, 16].abs().round(decimals=2)
    (torch.Size([1, 2, 32, 32]), tensor([0.6000, 0.8000]))
    """
    rows, columns = (calibration, calibration) if isinstance(calibration, int) else calibration
    height, width = y.shape[-2:]
    if y.ndim != 4 or not y.is_complex():
        raise InputError(
            f"estimate_coil_maps takes complex k-space (batch, coil, row, column), got {y.dtype} of {tuple(y.shape)}"
        )
    if not (kernel <= rows <= height and kernel <= columns <= width):
        raise InputError(
            f"the calibration region of {rows}x{columns} samples must hold a patch of {kernel}x{kernel} and lie in "
            f"k-space of {height}x{width}"
        )
    middle = y[..., height // 2 - rows // 2 :, width // 2 - columns // 2 :][..., :rows, :columns]
    if bool((middle == 0).any()):
        raise InputError(
            f"the middle {rows}x{columns} samples of k-space are not all there, so they do not show the coils; give "
            "calibration= the size of the region that is fully sampled"
        )
    return torch.stack(
        [_maps_of(item, (height, width), kernel, threshold, crop) for item in middle]
    )


def _maps_of(
    middle: Tensor, size: tuple[int, int], kernel: int, threshold: float, crop: float
) -> Tensor:
    coils = len(middle)
    patches = middle.unfold(1, kernel, 1).unfold(
        2, kernel, 1
    )  # (coil, places, places, kernel, kernel)
    matrix = patches.permute(1, 2, 0, 3, 4).reshape(-1, coils * kernel * kernel)
    _, strength, rows = torch.linalg.svd(matrix, full_matrices=False)
    kept = rows[strength > threshold * strength[0]].reshape(-1, coils, kernel, kernel)
    # The coefficients of all patches are a correlation with the basis, and in the image domain a product.
    power = torch.zeros(coils, coils, *size, dtype=middle.dtype, device=middle.device)
    for basis in kept:  # one by one: all of them at once would take hundreds of images of memory
        image = _transformed(basis, size)
        power.addcmul_(image.unsqueeze(1), image.conj().unsqueeze(0))
    values, vectors = torch.linalg.eigh(power.permute(2, 3, 0, 1))  # ascending
    maps = vectors[..., -1].permute(2, 0, 1)
    seen = values[..., -1] >= crop
    # The eigenvector's phase is arbitrary at every pixel; a fixed mixture of the coils, their strongest, is made real.
    _, _, mixture = torch.linalg.svd(middle.reshape(coils, -1).T, full_matrices=False)
    reference = (mixture[0].conj()[:, None, None] * maps).sum(0) if coils > 1 else maps[0]
    phase = torch.where(reference.abs() > 0, reference.conj() / reference.abs().clamp_min(1e-30), 1)
    return torch.where(seen, maps * phase, 0)


def _transformed(basis: Tensor, size: tuple[int, int]) -> Tensor:
    """The kernels ``(coil, kernel, kernel)`` as images ``(coil, row, column)``, scaled so that a projection has eigenvalues up to 1."""
    kernel = basis.shape[-1]
    padded = basis.new_zeros(len(basis), *size)
    top, left = size[0] // 2 - kernel // 2, size[1] // 2 - kernel // 2
    padded[:, top : top + kernel, left : left + kernel] = basis
    return centred_ifft(padded, 2) * (size[0] * size[1]) ** 0.5 / kernel
