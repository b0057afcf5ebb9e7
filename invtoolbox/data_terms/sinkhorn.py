"""Sinkhorn divergence of images as distributions of mass, by entropic optimal transport."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.core.reductions import sum_items
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError

#: Share of the mass by which the marginals of the final plan may be wrong.
_TOLERANCE = 1e-8
#: Factor of the blur from one step of the descent to the next.
_DESCENT = 0.6
#: Largest relaxation; the updates diverge at 2.
_RELAXATION = 1.9
#: Largest exponent of a factor of a softmin. Terms below ``exp(-708)`` lose digits in float64; they
#: are then less than ``exp(650 - 708)`` of the sum.
_EXPONENT = 650.0
#: Number of values per block of a softmin, which bounds its memory.
_BLOCK = 2**17


class Sinkhorn(DataTerm):
    r"""Debiased entropic transport between images that are not negative.

    Every channel of an item is a distribution of mass on the grid of pixels. Divided by their sums,
    prediction and measurements are distributions a and b, and D is the sum over the channels of

    .. math:: S(a, b) + \frac m2 \log^2 \frac{\sum p}{\sum y}, \quad
        S(a, b) = \mathrm{OT}(a, b) - \tfrac12 \mathrm{OT}(a, a) - \tfrac12 \mathrm{OT}(b, b)

    with the weight m of the total mass. OT is the cost of transport with :math:`c = |i - j|^2 / 2`
    and the entropy of the plan, weighted by :math:`\varepsilon` = blur squared,

    .. math:: \mathrm{OT}(a, b) = \max_{f, g} \langle a, f \rangle + \langle b, g \rangle
        - \varepsilon \langle a \otimes b, e^{(f + g - c) / \varepsilon} - 1 \rangle.

    S is 0 if a is b, and positive otherwise. For a copy that has moved by d it is
    :math:`|d|^2 / 2`, also without overlap. Details below the blur count less (Feydy, Sejourne,
    Vialard, Amari, Trouve and Peyre, "Interpolating between optimal transport and MMD using
    Sinkhorn divergences", AISTATS 2019; Cuturi, "Sinkhorn distances", NeurIPS 2013).

    Values below 0 of the prediction count as 0, so solve with a bound such as `NonNegative`; D is
    infinite for a prediction without mass. Second derivatives leave out the change of f and g.

    Args:
        blur: square root of epsilon, in the unit of the spacing.
        spacing: distance of neighbors, one number or one per axis of space.
        iterations: largest number of iterations at this blur, after larger ones.
        mass: weight m of the ratio of the sums.

    >>> y = torch.zeros(1, 1, 16)
    >>> y[..., 3:5] = 1.0
    >>> Sinkhorn(blur=0.5).value(y.roll(6, -1), y)  # 6^2 / 2
    tensor([18.])
    """

    is_convex = False
    is_for_nonnegative = True

    def __init__(
        self,
        blur: float = 1.0,
        spacing: float | Sequence[float] = 1.0,
        iterations: int = 100,
        mass: float = 1.0,
    ) -> None:
        lengths = torch.as_tensor(spacing, dtype=torch.float64).flatten()
        check_range(self, "(0, inf)", blur=blur, spacing=lengths, iterations=iterations)
        check_range(self, "[0, inf)", mass=mass)
        self.blur, self.spacing = float(blur), tuple(lengths.tolist())
        self.iterations, self.mass = int(iterations), float(mass)

    def value(self, prediction: Any, y: Any) -> Tensor:
        return map_items(self._value, prediction, y)

    def _value(self, p: Tensor, y: Tensor) -> Tensor:
        axes = tuple(range(2, y.ndim))
        spacing = self.spacing * len(axes) if len(self.spacing) == 1 else self.spacing
        # In float64, because the potentials are differences of squares of long distances.
        wide, measured = p.double(), y.double()
        # At 0 the derivative is the one-sided one; that of a clamp there differs between versions.
        wide = torch.where(wide < 0, 0.0, wide)
        empty = wide.sum(axes, keepdim=True) == 0
        wide = torch.where(empty, measured, wide)
        mass_p, mass_y = wide.sum(axes, keepdim=True), measured.sum(axes, keepdim=True)
        a, b = wide / mass_p, measured / mass_y
        with torch.no_grad():
            plan = _Transport(self.blur**2, spacing, a)
            log_a, log_b = a.log(), b.log()
            f, g = plan.potentials(log_a, log_b, self.iterations)
            to_themselves = plan.own_potentials(torch.cat([log_a, log_b], 1))
            # The gradients of S in a and in b.
            f, g = (torch.cat([f, g], 1) - to_themselves).chunk(2, 1)
        amount = 0.5 * self.mass * (mass_p / mass_y).log().square()
        divergence = (a * f + b * g).sum(axes, keepdim=True) + amount
        # Without mass there is no gradient; this one adds mass.
        outside = math.inf - p.double().sum(axes, keepdim=True) / mass_y
        return sum_items(torch.where(empty, outside, divergence)).to(p.dtype)

    def value_and_grad(self, prediction: Any, y: Any) -> tuple[Tensor, Any]:
        if prediction.requires_grad or y.requires_grad:
            return super().value_and_grad(prediction, y)
        with torch.enable_grad():
            free = prediction.detach().requires_grad_(True)
            value = self.value(free, y)
            return value.detach(), torch.autograd.grad(value.sum(), free)[0]

    def gauss_newton(self, prediction: Any, y: Any) -> Any:
        raise InputError(
            "Sinkhorn has no products with a Hessian; use a solver of first order, such as LBFGS"
        )

    def fitting_prediction(self, y: Any) -> Any:
        """Return y, at which D is 0."""
        return y

    def check(self, y: Any) -> None:
        if isinstance(y, tuple) or y.is_complex() or y.ndim < 3:
            raise InputError(
                "Sinkhorn compares real images (batch, channel, *space) with an axis of space"
            )
        if len(self.spacing) not in (1, y.ndim - 2):
            raise InputError(
                f"the spacing of Sinkhorn has {len(self.spacing)} numbers, and the images have "
                f"{y.ndim - 2} axes of space; give one number, or one per axis"
            )
        bad = ~(y.isfinite() & (y >= 0))
        if bool(bad.any()):
            raise InputError(
                f"Sinkhorn takes finite values that are not negative, got {int(bad.sum())} others, "
                f"the first at index {tuple(bad.nonzero()[0].tolist())}"
            )
        empty = (y == 0).flatten(2).all(2).nonzero()
        if len(empty):
            item, channel = empty[0].tolist()
            raise InputError(
                f"channel {channel} of item {item} is 0 everywhere; Sinkhorn needs mass to transport"
            )

    def __repr__(self) -> str:
        return f"Sinkhorn(blur={self.blur:g})"


class _Transport:
    """Potentials of entropic optimal transport on a grid, per item and channel."""

    def __init__(self, epsilon: float, spacing: Sequence[float], like: Tensor) -> None:
        size = math.hypot(*((n - 1) * h for n, h in zip(like.shape[2:], spacing)))
        steps = math.ceil(math.log(max(size / math.sqrt(epsilon), 1.0)) / -math.log(_DESCENT))
        self.descent = [epsilon * _DESCENT ** (-2 * k) for k in range(steps, -1, -1)]
        self.epsilon, self.spacing = epsilon, tuple(spacing)
        self.kernels = self._kernels(epsilon, like)

    def potentials(self, log_a: Tensor, log_b: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        """Return f and g of ``OT(a, b)``, the last two of a series of softmins.

        At the final epsilon the updates are over-relaxed (Lehmann, von Renesse, Sambale and
        Uschmajew, "A note on overrelaxation in the Sinkhorn algorithm", Optim. Lett. 16, 2022).
        """
        f, g = torch.zeros_like(log_a), torch.zeros_like(log_b)
        for epsilon in self.descent:
            new = (f + self.softmin(log_b, g, epsilon)) / 2
            f, g = new, (g + self.softmin(log_a, f, epsilon)) / 2
        a, omega, error = log_a.exp(), 1.5, math.inf
        for k in range(iterations):
            new = self.softmin(log_b, g)
            if k % 5 == 4:
                # To first order, the share of the mass by which the marginal of the plan is wrong.
                share = (a * (new - f).abs()).flatten(2).sum(2) / self.epsilon
                # A diverged item must not stop the others.
                before, error = error, float(share.nan_to_num().max())
                if error <= _TOLERANCE:
                    break
                if k % 10 == 9 and error < before:
                    # The rate r of plain updates, and the best omega for it.
                    rate = (error / before) ** 0.2
                    r = min((rate + omega - 1) ** 2 / (rate * omega**2), 1.0)
                    omega = max(omega, min(2 / (1 + math.sqrt(1 - r)), _RELAXATION))
            f = self.relax(f, new, omega)
            g = self.relax(g, self.softmin(log_a, f), omega)
        f = self.softmin(log_b, g)
        return f, self.softmin(log_a, f)

    def own_potentials(self, log_a: Tensor) -> Tensor:
        """Return potentials of the transport of every channel to itself, for ``OT(a, a) / 2``."""
        f = torch.zeros_like(log_a)
        # The error at least halves with every one of the last steps.
        for epsilon in [*self.descent, *[None] * 20]:
            f = (f + self.softmin(log_a, f, epsilon)) / 2
        f = self.softmin(log_a, f)
        return (f + self.softmin(log_a, f)) / 2

    def relax(self, f: Tensor, new: Tensor, omega: float) -> Tensor:
        """Return ``f + omega (new - f)``, bounded so that the dual value never falls.

        A step by (x + s) epsilon instead of x epsilon raises it if ``exp(s) - s <= exp(-x) + x``,
        which holds for ``s = log(1 + x)`` and for every s between x and 0 if x is negative.
        """
        x = (new - f) / self.epsilon
        return new + self.epsilon * torch.minimum((omega - 1) * x, x.clamp_min(0).log1p())

    def softmin(self, log_b: Tensor, g: Tensor, epsilon: float | None = None) -> Tensor:
        """Compute ``-epsilon log sum_j b_j exp((g_j - c_ij) / epsilon)``, one axis at a time."""
        kernels = self.kernels if epsilon is None else self._kernels(epsilon, g)
        epsilon = epsilon or self.epsilon
        h = log_b + g / epsilon
        for axis, kernel in enumerate(kernels, 2):
            last = h.movedim(axis, -1)
            h = _log_blur(last.flatten(0, -2), *kernel).view(last.shape).movedim(-1, axis)
        return -epsilon * h

    def _kernels(self, epsilon: float, like: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [_kernel(n, epsilon / h**2, like) for n, h in zip(like.shape[2:], self.spacing)]


def _kernel(n: int, width: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors of a Gaussian kernel on n samples, for `_log_blur`.

    An output i = c + o near a centre c is a product of matrices, because the square ``(i - j)^2``
    is ``(c - j)^2 + 2 o (c - j) + o^2``. The centres are as far apart as `_EXPONENT` allows.
    """
    # The largest o with o (n - 1 + o) <= _EXPONENT width.
    reach = math.floor((math.sqrt((n - 1) ** 2 + 4 * _EXPONENT * width) - (n - 1)) / 2)
    reach = min(reach, n // 2)
    samples = torch.arange(-reach, n + reach, dtype=like.dtype, device=like.device)
    offsets, middle = samples[: 2 * reach + 1], samples[reach : reach + n]
    gap = samples[2 * reach :: 2 * reach + 1, None] - middle
    mixed = (-gap[:, :, None] * offsets / width).exp()
    return gap.square() / (2 * width), mixed, offsets.square() / (2 * width)


def _log_blur(h: Tensor, far: Tensor, mixed: Tensor, near: Tensor) -> Tensor:
    """Compute ``log sum_j exp(h_j - (i - j)^2 / (2 width))`` of lines ``(lines, n)``."""
    blocks = []
    for lines in h.split(max(1, _BLOCK // far.numel())):
        exponent = lines - far[:, None]
        largest = exponent.amax(2, keepdim=True).clamp_min(torch.finfo(h.dtype).min)
        sums = (exponent - largest).exp() @ mixed
        logs = sums.log() + largest - near
        blocks.append(logs.movedim(1, 0).flatten(1)[:, : h.shape[1]])
    return torch.cat(blocks)
