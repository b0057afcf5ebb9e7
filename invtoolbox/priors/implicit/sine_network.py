"""A coordinate network of sines (SIREN), whose frequency follows from the spectrum of the image."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import sum_items
from invtoolbox.errors import InputError
from invtoolbox.priors.base import Problem
from invtoolbox.priors.implicit.coordinate_network import CoordinateNetwork, apply_layer
from invtoolbox.priors.settings import replace, require_bound

#: Frequencies that are compared, number of untrained networks per frequency, length of the spectra,
#: and length of the axes of the grid on which the networks are evaluated.
_CANDIDATES = (10, 15, 20, 30, 40, 50, 60, 75, 90, 105, 120)
_DRAWS, _BINS, _GRID = 2, 64, 96
#: Frequency of the hidden layers (Sitzmann et al. 2020).
_HIDDEN = 30.0


class SineNetwork(CoordinateNetwork):
    r"""Network of sines of position, ``h_1 = sin(omega (W p + b))``, ``h_k = sin(30 (W h + b))``.

    p lies in ``[-1, 1]`` along the longest axis. The frequency omega of the first layer is the
    strength of the prior: a network with a low frequency cannot draw fine detail, and a network
    with a high frequency draws noise between the measurements (SIREN; Sitzmann et al. 2020). Offset
    and scale follow from a first image as in `CoordinateNetwork`.

    With ``frequency="spectrum"`` each item has its own frequency: of eleven between 10 and 120, the
    one at which untrained networks have the spectrum nearest to the spectrum of the first image,
    five CGLS steps (FreSh; Kania et al., ICLR 2025). The distance is Wasserstein's between the
    amplitudes of 64 bands without the mean. If there are fewer measurements m than the n pixels,
    the frequency is at most ``pi m^(1/d) / 8`` for d axes, because a faster network can fit the
    measurements with any values between them.

    Args:
        width: width of the hidden layers.
        depth: number of hidden layers.
        frequency: omega, or ``"spectrum"``.
        seed: seed of the first weights, which are the same for every item.

    Raises:
        InputError: a frequency that is not positive and finite; or, when the problem is known,
            complex images, or ``"spectrum"`` with a nonlinear operator or a misfit that is not
            quadratic.

    >>> import invtoolbox as it
    >>> place = torch.linspace(-1, 1, 64)
    >>> waves = torch.stack([torch.sin(8 * place), torch.sin(40 * place)])[:, None]
    >>> problem = it.Problem(waves, it.operators.Identity((1, 64)))
    >>> prior = SineNetwork(width=32, frequency="spectrum").prepare(problem, it.solve)
    >>> bool(prior.omega[0] < prior.omega[1])
    True
    """

    item_fields: ClassVar[tuple[str, ...]] = ("scale", "offset", "omega")

    def __init__(
        self,
        width: int = 128,
        depth: int = 3,
        frequency: float | Literal["spectrum"] = 30.0,
        seed: int = 0,
    ) -> None:
        if not isinstance(frequency, str):
            check_range(self, "(0, inf)", frequency=frequency)
        elif frequency != "spectrum":
            raise InputError(
                f"the frequency of SineNetwork is a number or 'spectrum', got {frequency!r}"
            )
        super().__init__(width=width, depth=depth, seed=seed)
        self.frequency = frequency
        self.omega = torch.ones(1)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        bound = super().prepare(problem, solve)
        if not isinstance(self.frequency, str):
            return replace(bound, omega=bound.scale.new_full((1,), self.frequency))
        if not (problem.is_linear and problem.data_term.is_quadratic):
            raise InputError(
                "SineNetwork(frequency='spectrum') needs a linear operator and a quadratic data "
                "term for a first image; give the frequency as a number"
            )
        image = solve(problem, solver="cgls", max_iterations=5, progress=False).x
        counts = _count_measurements(problem)
        omega = [bound._nearest_frequency(x, m) for x, m in zip(image.split(1), counts)]
        return replace(bound, omega=bound.scale.new_tensor(omega))

    def initial(self) -> dict[str, Tensor]:
        """Draw the weights as Sitzmann et al. do."""
        return self._draw(self.seed + 1, require_bound(self, self.inputs))

    def _draw(self, seed: int, inputs: Tensor) -> dict[str, Tensor]:
        sizes = [inputs.shape[-1], *[self.width] * self.depth, self.image_shape[0]]
        generator = torch.Generator().manual_seed(seed)
        parameters: dict[str, Tensor] = {}
        for k, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            bound = 1 / n_in if k == 0 else math.sqrt(6 / n_in) / _HIDDEN
            for name, shape in (("weight", (1, n_in, n_out)), ("bias", (1, 1, n_out))):
                draw = torch.rand(shape, generator=generator)
                parameters[f"{name}{k}"] = (bound * (2 * draw - 1)).to(inputs)
        return parameters

    def _features(self, positions: Tensor) -> Tensor:
        return 2 * positions

    def _network(self, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        x, factor = inputs, self.omega.view(-1, 1, 1)
        for k in range(self.depth):
            x = (factor * apply_layer(parameters, k, x)).sin()
            factor = torch.full_like(factor, _HIDDEN)
        return apply_layer(parameters, self.depth, x)

    def _nearest_frequency(self, image: Tensor, measured: int) -> float:
        """Return the frequency of the untrained networks with the spectrum nearest to an image."""
        shape = self.image_shape[1:]
        highest = float(max(_CANDIDATES))
        if measured < image.numel():
            highest = math.pi * measured ** (1 / max(sum(n > 1 for n in shape), 1)) / 8
        spectrum = _spectrum(image)
        # The bands are slow compared with the pixels, so networks are drawn on a coarser grid.
        grid = tuple(min(n, _GRID) for n in shape)
        axes = [
            torch.linspace(-1, 1, n).to(image) * m / max(shape) if n > 1 else image.new_zeros(1)
            for n, m in zip(grid, shape)
        ]
        inputs = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)[None]
        best, least = highest, math.inf
        for omega in sorted({*(c for c in _CANDIDATES if c < highest), highest}):
            network = replace(self, omega=image.new_tensor([float(omega)]))
            gap = 0.0
            for k in range(_DRAWS):
                values = network._network(self._draw(self.seed + 1 + k, inputs), inputs)
                drawn = _spectrum(values.transpose(1, 2).reshape(1, -1, *grid))
                n = min(len(drawn), len(spectrum))
                # Wasserstein's distance in one dimension: the sum of |F - G| over the bands.
                shares = [s[:n] / s[:n].sum().clamp_min(1e-30) for s in (drawn, spectrum)]
                gap += float((shares[0] - shares[1]).cumsum(0).abs().sum())
            if gap < least:
                best, least = float(omega), gap
        return best

    def __repr__(self) -> str:
        return (
            f"SineNetwork(width={self.width}, depth={self.depth}, frequency={self.frequency!r}, "
            f"seed={self.seed})"
        )


def _count_measurements(problem: Problem) -> list[int]:
    """Return the number of measurements of every item that its operator takes."""
    tensors = problem.y if isinstance(problem.y, tuple) else (problem.y,)
    sampled = problem.operator.sampled
    if sampled is None or isinstance(problem.y, tuple):
        return [sum(y[0].numel() for y in tensors)] * problem.batch
    taken = (sampled != 0).expand(problem.batch, *problem.y0.shape[1:])
    return [int(count) for count in sum_items(taken)]


def _spectrum(image: Tensor) -> Tensor:
    """Return the amplitudes of an image ``(1, channel, *space)``, summed over bands.

    The k-th band holds the waves of which the numbers of cycles along the axes add up to k + 1. An
    axis of one pixel has no waves.
    """
    image = image.reshape(*image.shape[:2], *([n for n in image.shape[2:] if n > 1] or [1]))
    axes = tuple(range(2, image.ndim))
    amplitude = torch.fft.fftn(image, dim=axes).abs().sum((0, 1))
    total = torch.zeros(amplitude.shape, device=image.device)
    for axis, n in enumerate(amplitude.shape):
        cycles = torch.fft.fftfreq(n, 1 / n, device=image.device).abs()
        total = total + cycles.view([-1 if k == axis else 1 for k in range(amplitude.ndim)])
    bands = min(_BINS, min(amplitude.shape) // 2)
    index = total.round().long().clamp_max(bands + 1)
    sums = amplitude.new_zeros(bands + 2).index_add(0, index.flatten(), amplitude.flatten())
    return sums[1 : bands + 1]
