"""Two models of one scene that are to look alike where nobody looked."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.priors.base import ExplicitPrior


class Disagreement(ExplicitPrior):
    r"""``R(p) = mean |p_1 - p_2|``, or of the squares; p_1 is the first half of the channels, p_2 the second.

    Of what `operators.OnBoth` predicts. Two models of few views differ most where both are wrong, so pictures of poses that no camera took
    on which they agree are more likely right: ``ThroughOperator(Disagreement(), OnBoth(renderer of such poses), subset_size=1)``.

    Source: Zhang et al., "CoR-GS: sparse-view 3D Gaussian splatting via co-regularization", ECCV 2024, which adds structural similarity.

    Args:
        power: 1 for the modulus, 2 for squares.

    >>> import torch
    >>> pictures = torch.cat([torch.zeros(1, 3, 2, 4, 4), torch.full((1, 3, 2, 4, 4), 0.5)], dim=1)
    >>> Disagreement().energy(pictures), Disagreement(power=2).energy(pictures)
    (tensor([0.5000]), tensor([0.2500]))
    """

    is_convex = True
    is_smooth = True  # but where both agree exactly; the modulus has the slope 0 there

    def __init__(self, power: Literal[1, 2] = 1) -> None:
        if power not in (1, 2):
            raise unknown_name("power of Disagreement", str(power), ("1", "2"))
        self.power = power

    def energy(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            raise InputError(
                f"{self!r} compares two halves of the channels, as operators.OnBoth predicts them, got {x.shape[1]} channels"
            )
        first, second = x.chunk(2, dim=1)
        apart = first - second
        return (apart.abs() if self.power == 1 else apart.square()).flatten(1).mean(1)

    def __repr__(self) -> str:
        return f"Disagreement(power={self.power})"
