"""The nuclear norm of a tensor under products of tubes, for dynamic series and video."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.images.nuclear_norm import NuclearNorm
from invtoolbox.priors.settings import format_changes


class TubalNuclearNorm(ExplicitPrior):
    r"""Tubal nuclear norm, which favors tensors that are products of few tubes.

    ``R(x) = 1/n sum_k |F(x)_k|_*``: the mean nuclear norm of the frontal slices after a Fourier
    transform along the tubes, which have n entries (the t-SVD). A series whose frames only move has
    a high rank as a Casorati matrix, but every temporal frequency of it may have a low one. Tubes of
    one entry give the nuclear norm of the matrix.

    The prox is soft thresholding of the singular values of every slice at ``step / sqrt(n)`` of the
    unitary transform. Real images need only the slices of nonnegative frequency.

    Source: Lu, Feng, Chen, Liu, Lin and Yan, "Tensor robust principal component analysis with a new
    tensor nuclear norm", IEEE TPAMI 42, 2020, definition 7 and theorem 4.2.

    Args:
        tubes: axis of the image that holds the tubes, counted with the batch as axis 0: 1, the
            channel or the frame, or an axis of space.
        rows: axis of the rows of the slices. All other axes form the columns.

    >>> frame = torch.outer(torch.arange(4.0), torch.ones(5))
    >>> series = torch.stack([frame.roll(t, 0) for t in range(4)])[None]  # a frame that moves
    >>> TubalNuclearNorm().energy(series) / NuclearNorm().energy(series)
    tensor([0.5000])
    """

    is_convex = True

    def __init__(self, tubes: int = 1, rows: int = 2) -> None:
        check_axes(self, tubes, rows)
        self.tubes, self.rows = tubes, rows

    def energy(self, x: Tensor) -> Tensor:
        return map_items(self._energy, x)

    def _energy(self, x: Tensor) -> Tensor:
        slices, n, frequencies = self._slices(x)
        norms = NuclearNorm().energy(slices).view(len(x), frequencies)
        if frequencies < n:  # the slices of negative frequency are conjugate, with the same norm
            twice = torch.full_like(norms[0], 2.0)
            # Frequency 0, and n / 2 of an even n, are their own conjugates.
            twice[0] = 1.0
            if n % 2 == 0:
                twice[-1] = 1.0
            norms = norms * twice
        # 1/n sqrt(n), because F is sqrt(n) times the unitary transform of the slices.
        return norms.sum(1) / math.sqrt(n)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        steps = torch.as_tensor(step, dtype=x.real.dtype, device=x.device)
        return map_items(self._prox, x, steps.reshape(-1))

    def _prox(self, x: Tensor, steps: Tensor) -> Tensor:
        slices, n, frequencies = self._slices(x)
        # Lu et al. 2020, theorem 4.2: the unitary transform keeps distances, so the prox acts on
        # every slice by itself, with the factor 1 / sqrt(n) of the energy.
        steps = (steps / math.sqrt(n)).view(-1, 1).expand(len(x), frequencies).flatten()
        spectrum = NuclearNorm().prox(slices, steps).unflatten(0, (len(x), frequencies))
        if x.is_complex():
            tensor = torch.fft.ifft(spectrum, dim=1, norm="ortho")
        else:
            tensor = torch.fft.irfft(spectrum, n=n, dim=1, norm="ortho")
        return tensor.movedim((1, 2), (self.tubes, self.rows)).contiguous()

    def _slices(self, x: Tensor) -> tuple[Tensor, int, int]:
        """Return the slices, the length of the tubes and the number of frequencies.

        The slices are ``(batch * frequencies, rows, *columns)``.
        """
        check_shape(self, tuple(x.shape))
        tensor = x.movedim((self.tubes, self.rows), (1, 2))
        # Unitary along the tubes, so that norms and distances stay.
        transform = torch.fft.fft if x.is_complex() else torch.fft.rfft
        spectrum = transform(tensor, dim=1, norm="ortho")
        return spectrum.flatten(0, 1), tensor.shape[1], spectrum.shape[1]

    def __repr__(self) -> str:
        return f"TubalNuclearNorm({format_changes(self, tubes=1, rows=2)})"


def check_axes(prior: object, tubes: int, rows: int) -> None:
    """Raise `InputError` unless tubes and rows are two axes of an image."""
    if tubes < 1 or rows < 1 or tubes == rows:
        raise InputError(
            f"tubes and rows of {type(prior).__name__} are two axes of the image, counted from 1, "
            f"the channel, got {tubes} and {rows}"
        )


def check_shape(prior: Any, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless images of a shape with the batch have tubes, rows and columns."""
    if len(shape) < 4 or len(shape) <= max(prior.tubes, prior.rows):
        raise InputError(
            f"{type(prior).__name__} needs axes {prior.tubes} and {prior.rows} and at least one "
            f"more, and the image has the shape {shape}"
        )
