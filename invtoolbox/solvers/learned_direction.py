"""Directions that a network proposes to the method of conjugate gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import tree_map
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.networks.direction_network import DirectionNetwork
from invtoolbox.networks.foreign_weights import read_weights
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.solvers.linear_systems import quotient

#: Directions and their products with the system, the last one first.
Recent = tuple[tuple[Tensor, Tensor], ...]


class LearnedDirection(Settings):
    r"""Next direction of `ConjugateGradient` from a network f and the residual r.

    ``d = f(r / rms(r))``.

    The direction is made conjugate to the last ones, ``d - sum_i p_i <d, H p_i> / <p_i, H p_i>``,
    and the step along it is the exact minimizer, so that the error decreases in the norm of the
    system H for every f. With ``f(r) = r`` the iterates are those of conjugate gradients; with
    ``f(r) = H^-1 r`` one iteration is enough. After Kaneda et al., "A deep conjugate direction
    method for iteratively solving linear systems", ICML 2023. `training.train_direction` makes such
    a network for a problem; being convolutional, it also serves other measurements, and images of
    other sizes. On Poisson's equation 4 iterations replace 67 (32x32 pixels), and 5 replace 124
    (64x64, with the same network).

    A direction that is all but orthogonal to the residual would hardly lower anything, so the
    residual itself replaces it. That makes the method convergent for every f, because each step
    then gains at least ``least_cosine^2`` of the gain of steepest descent.

    Args:
        network: called with residuals ``(batch, channel, *space)``; runs in evaluation mode, in its
            own precision and on its own device.
        conjugations: number of last directions to which a new one is made conjugate. f is not
            linear, so two help more than one.
        least_cosine: least cosine of the angle between direction and residual.

    >>> import invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.tensor([[[1.0, 2.0]]]),
    ...     it.operators.Matrix(torch.tensor([[2.0, 0.0], [1.0, 1.0]])),
    ... )
    >>> solver = it.solvers.ConjugateGradient(direction=LearnedDirection(torch.nn.Identity()))
    >>> solution = it.solve(problem, solver=solver, progress=False)
    >>> solution.x, int(solution.iterations[0])
    (tensor([[[0.5000, 1.5000]]]), 2)
    """

    def __init__(
        self, network: nn.Module, conjugations: int = 2, least_cosine: float = 1e-4
    ) -> None:
        if not isinstance(network, nn.Module):
            raise InputError(
                f"the network of a LearnedDirection is an nn.Module, got {type(network).__name__}"
            )
        check_range("LearnedDirection", "[0, inf)", conjugations=conjugations)
        check_range("LearnedDirection", "(0, 1)", least_cosine=least_cosine)
        self.network, self.conjugations, self.least_cosine = network, conjugations, least_cosine

    @classmethod
    def load(cls, path: str | Path, conjugations: int = 2) -> Self:
        """Load a `DirectionNetwork` from a file that `save` wrote."""
        return cls(DirectionNetwork.from_weights(read_weights(path)), conjugations)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the network's weights as safetensors."""
        from safetensors.torch import save

        from invtoolbox.datasets.output import write_bytes

        write_bytes(
            Path(path),
            save({k: v.contiguous() for k, v in self.network.state_dict().items()}),
            overwrite=overwrite,
        )
        return Path(path)

    def proposal(self, residual: Tensor) -> Tensor:
        """Return the direction for a residual, shaped like it.

        It is the residual itself if the direction of the network hardly lowers anything.
        """
        reference = next(self.network.parameters(), residual)
        if reference.device != residual.device:
            raise InputError(
                f"the network of {self!r} is on {reference.device} and the problem on "
                f"{residual.device}; move it with direction.to({str(residual.device)!r})"
            )
        # rms(r) = |r| / sqrt(n)
        size = item_norm(residual) / residual[0].numel() ** 0.5
        # f(r / rms(r)): the network sees residuals of one size, as those it was trained on.
        unit = residual / expand(torch.where(size > 0, size, torch.ones_like(size)), residual)
        with torch.no_grad():
            proposed = self.network(unit.to(reference.dtype)).to(residual.dtype)
        if proposed.shape != residual.shape:
            raise InputError(
                f"the network of {self!r} must keep the shape {tuple(residual.shape)}, it gave "
                f"{tuple(proposed.shape)}"
            )
        length = item_norm(proposed) * item_norm(residual)
        # The cosine of the angle to the residual; its sign does not matter to an exact step.
        useful = inner(proposed, residual).abs() > self.least_cosine * length
        return torch.where(useful.view(-1, *[1] * (residual.ndim - 1)), proposed, residual)

    def next(self, residual: Tensor, recent: Recent) -> Tensor:
        """Return the proposal, conjugate to the recent directions."""
        direction = self.proposal(residual)
        # d <- d - p <d, H p> / <p, H p>, with the H p of the step along p.
        for past, product in recent:
            share = quotient(inner(direction, product), inner(past, product))
            direction = torch.addcmul(direction, expand(-share, past), past)
        return direction

    def remember(self, direction: Tensor, product: Tensor, recent: Recent) -> Recent:
        """Return the recent directions with one more; the oldest leaves if no place is free."""
        return ((direction, product), *recent)[: self.conjugations] if self.conjugations else ()

    def none_yet(self, like: Tensor) -> Recent:
        """Return empty places for the recent directions."""
        return tuple(
            (torch.zeros_like(like), torch.zeros_like(like)) for _ in range(self.conjugations)
        )

    def __eq__(self, other: object) -> bool:
        """Whether the other direction uses the same network with the same weights in the same way.

        Settings compare by their contents.
        """
        if (
            not isinstance(other, LearnedDirection)
            or repr(self) != repr(other)
            or self.least_cosine != other.least_cosine
        ):
            return False
        weights, theirs = self.network.state_dict(), other.network.state_dict()
        return weights.keys() == theirs.keys() and all(
            torch.equal(weight, theirs[name]) for name, weight in weights.items()
        )

    def __hash__(self) -> int:
        return hash((type(self.network), self.conjugations, self.least_cosine))

    def __repr__(self) -> str:
        weights = sum(float(p.detach().double().abs().sum()) for p in self.network.parameters())
        return (
            f"LearnedDirection({type(self.network).__name__} of size {weights:.6g}, "
            f"conjugations={self.conjugations})"
        )


def mask_pairs(recent: Recent, keep: Tensor) -> Recent:
    """Return the recent directions of the items in ``keep``.

    The directions of other items are forgotten.
    """
    return tree_map(
        lambda t: torch.where(keep.view(-1, *[1] * (t.ndim - 1)), t, torch.zeros_like(t)), recent
    )
