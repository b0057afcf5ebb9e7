"""A penalty on the nuclear norm of a denoiser's Jacobian, without singular values and without a Jacobian."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.operators.base import inner
from invtoolbox.priors.explicit.convex_network import ConvexNetwork
from invtoolbox.training.losses import Loss


@dataclass(frozen=True)
class JacobianNuclearNorm(Loss):
    r"""``loss + weight * |J_f(x)|_* / n``, n the values of an item x that the network f is shown: f shall keep to few directions.

    Of a network that comes apart as ``f = g(h(x))`` this adds ``1/2 (|J_h(x)|_F^2 + |J_g(h(x))|_F^2)``, which is never below the nuclear
    norm, and equals it for the best of all ways to come apart, which training finds (Scarvelis and Solomon, "Nuclear norm regularization
    for deep learning", NeurIPS 2024). Squared Frobenius norms are estimated by differences along random directions,
    ``|h(x + step e) - h(x)|^2 / step^2``. The Jacobian of a `ConvexNetwork` is symmetric and has no negative eigenvalue, so there the
    nuclear norm is the trace, ``<e, f(x + step e) - f(x)> / step``.

    Shown noisy images alone, which it should give back (`Crops` of them), a network learns by `L2` to denoise where the weight is
    ``2 noise_std^2``: the sum then is the unbiased estimate of the risk (Stein 1981), with the nuclear norm in place of the trace.

    Args:
        loss: what the penalty is added to.
        weight: of the penalty.
        step: of the differences, in the units of the image; in float32 a large network needs a longer one.
        probes: directions an item, orthogonal to each other; with as many as an item, and a code, has values, a linear f is measured
            exactly.

    >>> network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    >>> with torch.no_grad():
    ...     _ = [layer.weight.copy_(torch.diag(torch.tensor([2.0, 1.0, 0.5]))) for layer in network]
    >>> from invtoolbox.training import L2
    >>> penalty = JacobianNuclearNorm(L2(), 1.0, probes=3).penalty(network, torch.zeros(1, 3), torch.Generator().manual_seed(0))
    >>> round(float(penalty.detach()), 3)  # 4 + 1 + 1/4
    5.25
    """

    loss: Loss
    weight: float
    step: float = 1e-3
    probes: int = 1

    def __post_init__(self) -> None:
        if not (self.weight > 0 and self.step > 0 and self.probes >= 1):
            raise InputError(
                f"JacobianNuclearNorm needs a positive weight and step and at least one probe, got {self.weight}, {self.step} "
                f"and {self.probes}"
            )

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        """The loss alone."""
        return self.loss(result, wanted)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        judged = self.loss.of_network(network, shown, wanted, generator)
        return judged + self.weight / shown[0].numel() * self.penalty(network, shown, generator).to(
            judged.dtype
        )

    def penalty(self, network: nn.Module, x: Tensor, generator: Generator) -> Tensor:
        """The estimate of ``|J_f(x)|_*``, or of what lies above it, ``(count,)``.

        Raises:
            InputError: where the network does not come apart.
        """
        if isinstance(network, ConvexNetwork):
            return self._mean(network, network(x), x, generator, lambda change, e: inner(change, e))
        encode, decode = halves(network)
        code = encode(x)
        first = self._mean(encode, code, x, generator, lambda change, e: inner(change, change))
        return 0.5 * (
            first
            + self._mean(
                decode, decode(code), code, generator, lambda change, e: inner(change, change)
            )
        )

    def _mean(
        self,
        f: Callable[[Tensor], Tensor],
        value: Tensor,
        x: Tensor,
        generator: Generator,
        measure: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Over the probes, of the derivative along each."""
        directions = _directions(x, min(self.probes, x[0].numel()), generator)
        return torch.stack(
            [measure((f(x + self.step * e) - value) / self.step, e) for e in directions]
        ).mean(0)


def halves(network: nn.Module) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """h and g of a network ``g(h(x))``: its methods ``encode`` and ``decode``, or the two modules of an ``nn.Sequential``."""
    if isinstance(network, nn.Sequential) and len(network) == 2:
        return network[0], network[1]
    encode, decode = getattr(network, "encode", None), getattr(network, "decode", None)
    if callable(encode) and callable(decode):
        return encode, decode
    raise InputError(
        f"the nuclear norm of a Jacobian is penalised by the two halves of a network, and {type(network).__name__} is not "
        "known to have any; a way around its middle, as in a network that predicts the noise, breaks it. Give one with "
        "methods encode and decode (Bottleneck), an nn.Sequential of two modules, or a ConvexNetwork"
    )


def _directions(x: Tensor, count: int, generator: Generator) -> Tensor:
    """Orthogonal and of length ``sqrt(n)``, ``(count, *x.shape)``: squares of derivatives along them then have the right mean."""
    n = x[0].numel()
    drawn = torch.randn(
        len(x), n, count, generator=generator, dtype=torch.float32, device=x.device
    ).to(x.dtype)
    frame = drawn / drawn.norm(dim=1, keepdim=True) if count == 1 else torch.linalg.qr(drawn)[0]
    return (math.sqrt(n) * frame).movedim(2, 0).reshape(count, *x.shape)
