"""Linear spectral unmixing: the bands of every pixel mix the spectra of known materials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor
from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, expand


class Unmixing(LinearOperator):
    r"""Linear mixing of spectra, ``y[band, i] = sum_m spectra[band, m] x[m, i]``.

    The operator maps abundances of materials to bands, pixel by pixel (Bioucas-Dias et al., IEEE
    JSTARS 5, 2012). Abundances are not negative and add up to 1; priors state this. Closed forms
    exist for `norm`, `pseudo_inverse` (least squares, pixel by pixel) and `normal_resolvent`.

    Args:
        spectra: spectra of the materials, ``(band, material)``, or ``(batch, band, material)`` for
            other spectra in every item.
        space: shape of the image, ``(row, column)``.

    Raises:
        InputError: if the spectra have a wrong shape, or are not finite.

    >>> A = Unmixing(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), (1, 1))
    >>> A(torch.tensor([0.25, 0.75]).view(1, 2, 1, 1)).flatten()
    tensor([0.2500, 0.5000, 0.7500])
    """

    # This is one matrix product; deepinv's HyperSpectralUnmixing keeps the pseudo-inverse of its
    # first spectra when the spectra are replaced.

    has_batch_axis = True

    def __init__(self, spectra: Any, space: Sequence[int]) -> None:
        self.spectra = _check_spectra(as_tensor(spectra))
        _, bands, materials = self.spectra.shape
        size = tuple(int(n) for n in space)
        self.domain_shape, self.range_shape = (materials, *size), (bands, *size)
        self.items = len(self.spectra) if len(self.spectra) > 1 else None

    def parameters(self) -> dict[str, Tensor]:
        """``spectra``, of shape ``(1 or batch, band, material)``."""
        return {"spectra": self.spectra}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        if "spectra" not in parameters:
            return super()._replace(parameters)
        spectra = _check_spectra(parameters["spectra"])
        if spectra.shape[1:] != self.spectra.shape[1:]:
            raise InputError(
                f"{self} has spectra of shape {tuple(self.spectra.shape[1:])}, got "
                f"{tuple(spectra.shape[1:])}"
            )
        unmixing = super()._replace({"spectra": spectra})
        return unmixing._with_items(len(spectra) if len(spectra) > 1 else None)

    def _product(self, matrix: Tensor, x: Tensor) -> Tensor:
        product = map_items(torch.matmul, matrix.to(x.dtype), x.flatten(2))
        return product.unflatten(2, x.shape[2:])

    def _forward(self, x: Tensor) -> Tensor:
        return self._product(self.spectra, x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._product(self.spectra.mT, y)

    def _known_norm(self) -> Tensor:
        return torch.linalg.matrix_norm(self.spectra.double(), 2)

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """Compute ``(weight M^T M + rho I)^{-1} v``, pixel by pixel."""
        spectra = self.spectra.double()
        identity = torch.eye(spectra.shape[2], dtype=torch.float64, device=spectra.device)
        matrix = expand(weight, spectra) * (spectra.mT @ spectra) + expand(rho, spectra) * identity
        return self._product(torch.linalg.inv(matrix), v)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Compute the least-squares abundances of smallest norm, of any sign."""
        self._check_measurements("pseudo-inverse", y)
        return self._product(torch.linalg.pinv(self.spectra.double()), y)

    def __repr__(self) -> str:
        return f"Unmixing({self.spectra.shape[2]} materials, {self.spectra.shape[1]} bands)"


def _check_spectra(spectra: Tensor) -> Tensor:
    """Return the spectra as ``(1 or batch, band, material)``, after checking them."""
    full = spectra.unsqueeze(0) if spectra.ndim == 2 else spectra
    if full.ndim != 3 or full.is_complex() or not bool(full.isfinite().all()):
        raise InputError(
            "the spectra of Unmixing must be real, finite and of shape (band, material) or "
            f"(batch, band, material), got {spectra.dtype} of shape {tuple(spectra.shape)}"
        )
    return full if full.is_floating_point() else full.to(torch.float32)
