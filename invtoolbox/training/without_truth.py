"""Losses that need no ground truth: a network learns to reconstruct from measurements alone.

Each loss has the form of a residual in the measurements, so the pairs of a training are
`Measurements`, the same measurements as input and as target. `Sure` removes the noise,
`MeasurementSplitting` predicts measurements that the network has not seen, and
`EquivariantImaging` also learns the null space of the operator. `EveryWeight` learns the minimizer
of an objective for all weights of its prior.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.data_terms import DataTerm, LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.training.losses import Loss, as_real, mean_square
from invtoolbox.training.symmetries import Rotations, Symmetry, measure_equivariance


class ArtifactRemoval(nn.Module):
    """Reconstruction by an approximate inverse, followed by a network: ``f(A^+ y)``.

    It is the simplest network that maps measurements to images, and the one that
    `MeasurementSplitting` needs, because ``A^+`` also exists for a part of the measurements.

    Args:
        operator: A, with a `pseudo_inverse`.
        network: network from images to images of the same shape.

    >>> import invtoolbox as it
    >>> A = it.operators.Blur(torch.ones(3, 3) / 9, (8, 8))
    >>> network = ArtifactRemoval(A, it.priors.DnCNN(depth=3, width=8))
    >>> network(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, operator: LinearOperator, network: nn.Module) -> None:
        super().__init__()
        self.operator, self.network = operator, network

    def forward(self, y: Tensor) -> Tensor:
        """Reconstruct images from all measurements."""
        return self.network(self.operator.pseudo_inverse(y))


class MeasurementLoss(Loss, ABC):
    """Base class of losses of a network from measurements y to images x.

    A subclass writes `of_image`. Called with images and measurements, a loss is the plain residual
    ``|A x - y|^2 / m``, m the number of measurements, which is deepinv's `MCLoss`.
    """

    operator: Operator

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        from deepinv.loss import MCLoss

        return MCLoss(_distance)(wanted, result, SimpleNamespace(A=self.operator))

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        return self.of_image(network, network(shown), shown, generator)

    @abstractmethod
    def of_image(self, network: nn.Module, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        """Return the loss per item, ``(count,)``.

        Args:
            network: f.
            x: ``f(y)``.
            y: measurements ``(count, channel, *space)``.
            generator: source of all random draws.
        """


@dataclass(frozen=True)
class MeasurementConsistency(MeasurementLoss):
    """Residual ``|A f(y) - y|^2 / m``. It fits the noise and learns nothing of the null space."""

    operator: Operator

    def of_image(self, network: nn.Module, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        return self(x, y)


@dataclass(frozen=True)
class Sure(MeasurementLoss):
    r"""Stein's unbiased estimate of the error of ``A f(y)`` against noiseless measurements.

    The noise of y is Gaussian, Poisson or both, with the variance ``v = sigma^2 + gain y``:

    ``|A f(y) - y|^2 / m - sum(v) / m + 2 / (m h) b^T (v * (A f(y + h b) - A f(y)))``

    b has random signs, and the last term, the mean over the probes b, estimates the divergence by
    one difference per probe. The formula is exact for Gaussian noise and h to 0 (Stein, Annals of
    Statistics 9, 1981; Ramani, Blu and Unser, IEEE TIP 17, 2008) and of first order in the gain for
    counts (Le Montagner, Angelini and Olivo-Marin, IEEE TIP 23, 2014).

    The derivative of a network with kinks jumps, so the gradient of the training is noisy if h is
    tiny, and a large h is biased. Compared with training on clean pictures, the default loses 0.15
    dB, a 30th of it 0.7 dB (noise 0.1, ``benchmarks/learn_without_truth.py``).

    For real measurements whose items all have the same step, this is deepinv's `SurePGLoss`, which
    takes neither complex values nor a step per item.

    Args:
        operator: A; the identity for a denoiser.
        noise_std: sigma, in the units of y; complex measurements have it in both of their parts.
        gain: variance of a count divided by its mean; 1 for photon counts.
        step: h, as a fraction of the standard deviation of the noise, the mean over an item.
        probes: number of random vectors b.

    Raises:
        InputError: Neither noise_std nor gain is positive, or there is no probe.

    >>> import invtoolbox as it
    >>> loss = Sure(it.operators.Identity((1, 8, 8)), noise_std=0.1)
    >>> y = torch.rand(2, 1, 8, 8)
    >>> loss.of_network(torch.nn.Identity(), y, y, torch.Generator()).sub(0.01).abs() < 1e-4
    tensor([True, True])
    """

    operator: Operator
    noise_std: float = 0.0
    gain: float = 0.0
    step: float = 0.15
    probes: int = 1

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "probes")
        if min(self.noise_std, self.gain) < 0 or max(self.noise_std, self.gain) <= 0:
            raise InputError(
                "Sure needs the noise of the measurements: a positive noise_std, which "
                "it.parameter_choice.estimate_noise_std(y, A) estimates, or a positive gain; got "
                f"{self.noise_std} and {self.gain}"
            )
        check_range(self, "(0, inf]", "step")

    def of_image(self, network: nn.Module, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        if y.is_complex() and self.gain > 0:
            raise InputError("counts are real, and these measurements are complex; give no gain")
        predicted = as_real(self.operator(x))
        values = as_real(y)
        variance = self.noise_std**2 + self.gain * values
        step = self.step * variance.flatten(1).mean(1).clamp_min(1e-30).sqrt()
        step = step.view(-1, *[1] * (values.ndim - 1))
        change = torch.zeros_like(values)
        for _ in range(self.probes):
            signs = 2.0 * (_uniform(values, generator) > 0.5).to(values.dtype) - 1
            perturbed = values + step * signs
            perturbed = torch.view_as_complex(perturbed) if y.is_complex() else perturbed
            apart = as_real(self.operator(network(perturbed))) - predicted
            change = change + signs * apart / (self.probes * step)
        return ((predicted - values).square() - variance + 2 * variance * change).flatten(1).mean(1)


@dataclass(frozen=True)
class MeasurementSplitting(MeasurementLoss):
    r"""Error in predicting one part of the measurements from the other part.

    Each draw splits the measurements, ``y = (y_1, y_2)`` and ``A = (A_1, A_2)``; the loss is
    ``|A_2 f(A_1^+ y_1) - y_2|^2 / m_2``. Noise that is independent from one measurement to the next
    cannot be predicted, so it is not learned (Yaman et al., "Self-supervised learning of
    physics-guided reconstruction neural networks without fully sampled reference data", Magnetic
    Resonance in Medicine 84, 2020). A scan is split by views. Other measurements are split entry by
    entry: hidden entries are set to 0 and the network receives the rest.

    With ``symmetry`` the reconstruction becomes equivariant by a random transformation T per item,
    ``T f(T^{-1} A_1^+ y_1)``, so that directions which no split measures are learned as well
    (Sechaud, Scanvic, Barthelemy, Abry and Tachella, "Equivariant splitting", ICLR 2026).

    Args:
        operator: A.
        share: share of the measurements that the network receives.
        consistency: weight of the residual on the received part, ``|A_1 f - y_1|^2 / m_1``; keep 0
            if there is noise.
        symmetry: group of transformations under which the images do not change, if any.

    Raises:
        InputError: A part would be empty.
    """

    operator: LinearOperator
    share: float = 0.5
    consistency: float = 0.0
    symmetry: Symmetry | None = None

    def __post_init__(self) -> None:
        check_range(self, "(0, 1)", "share")
        check_range(self, "[0, inf]", "consistency")
        blocks = self.operator.blocks
        if blocks is not None and not 0 < round(self.share * blocks) < blocks:
            raise InputError(
                f"MeasurementSplitting with share {self.share} leaves one part of the {blocks} "
                "views empty; use a share nearer to 0.5"
            )

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        if not isinstance(network, ArtifactRemoval):
            raise InputError(
                "MeasurementSplitting trains ArtifactRemoval(A, network), whose inverse exists for "
                f"a part of the measurements, and got a {type(network).__name__}"
            )
        mask, start = self._split(shown, generator)
        if self.symmetry is None:
            x = network.network(start)
        else:
            elements = self.symmetry.draw(len(start), generator)
            x = network.network(self.symmetry.transform(start, elements, inverse=True))
            x = self.symmetry.transform(x, elements)
        error = (self.operator(x) - shown).abs().square() / (2 if shown.is_complex() else 1)
        sampled = torch.ones_like(mask) if self.operator.sampled is None else self.operator.sampled
        loss = _mean_over(error, (sampled * (1 - mask)).expand_as(error))
        if not self.consistency:
            return loss
        return loss + self.consistency * _mean_over(error, (sampled * mask).expand_as(error))

    def of_image(self, network: nn.Module, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        return self.of_network(network, y, y, generator)

    def _split(self, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return a map of 1 at received measurements, and their approximate inverse."""
        blocks = self.operator.blocks
        if blocks is None:
            mask = (_uniform(y, generator) < self.share).to(as_real(y).dtype)
            return mask, self.operator.pseudo_inverse(y * mask)
        first = self.operator.draw_blocks(round(self.share * blocks), generator).sort().values
        mask = torch.zeros(blocks, device=y.device, dtype=as_real(y).dtype)
        mask = mask.index_fill(0, first.to(y.device), 1.0).view(blocks, *[1] * (y.ndim - 3))
        operator: Any = self.operator.subset(first)
        return mask, operator.pseudo_inverse(y.index_select(2, first.to(y.device)))


@dataclass(frozen=True)
class EquivariantImaging(MeasurementLoss):
    r"""Loss that also learns what the operator does not measure, from the symmetry of images.

    ``loss(f(y)) + weight |f(A T x + noise) - T x|^2 / n`` with ``x = f(y)`` and a random
    transformation T of a group under which the set of images does not change. T moves the null
    space of A, so f must be right there too (Chen, Tachella and Davies, "Equivariant imaging:
    learning beyond the range space", ICCV 2021; with noise, "Robust equivariant imaging", CVPR
    2022). The second term is deepinv's `EILoss`.

    Args:
        operator: A.
        symmetry: group of transformations.
        weight: weight of the second term.
        noise_std: standard deviation of the noise of the new measurements, that of y.
        loss: first term; `Sure` if the noise of y matters, otherwise the plain residual.

    Raises:
        InputError: ``A^T A`` commutes with the group, so that nothing would be learned.
    """

    operator: Operator
    symmetry: Symmetry = field(default_factory=Rotations)
    weight: float = 1.0
    noise_std: float = 0.0
    loss: MeasurementLoss | None = None

    def __post_init__(self) -> None:
        check_range(self, "(0, inf]", "weight")
        check_range(self, "[0, inf]", "noise_std")
        if isinstance(self.operator, LinearOperator):
            gap = measure_equivariance(self.operator, self.symmetry)
            if gap < 1e-3:
                raise InputError(
                    f"{self.operator} measures transformed images in the same way: A^T A commutes "
                    f"with {self.symmetry} up to {gap:.1g}, so equivariant imaging learns nothing; "
                    "use another group"
                )

    def of_image(self, network: nn.Module, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        first = MeasurementConsistency(self.operator) if self.loss is None else self.loss

        def transform(x: Tensor) -> Tensor:
            return self.symmetry.transform(x, self.symmetry.draw(len(x), generator))

        def measure(x: Tensor) -> Tensor:
            again: Tensor = self.operator(x)
            return again + self.noise_std * _normal(again, generator) if self.noise_std else again

        from deepinv.loss import EILoss

        loss = EILoss(transform, _distance, apply_noise=False, weight=self.weight)
        second: Tensor = loss(x, SimpleNamespace(A=measure), lambda y, _: network(y))
        return first.of_image(network, x, y, generator) + second


@dataclass(frozen=True)
class EveryWeight(Loss):
    r"""Objective ``D(A f(y, w), y) + w R(f(y, w))`` at random weights, per value of the image.

    A `unrolling.Conditioned` network f learns the minimizer for every weight of its range. One
    weight per item is drawn by `Conditioned.draw`. The inputs of the pairs are the measurements y;
    their targets are not used.

    Args:
        operator: A.
        prior: R, one explicit prior whose energy has a gradient.
        data_term: D; least squares by default.

    >>> import invtoolbox as it
    >>> A = it.as_operator(torch.tensor([[1.0, 1.0]]))
    >>> network = it.unrolling.Conditioned(nn.Linear(1, 2), weights=(0.1, 10.0))
    >>> loss = EveryWeight(A, it.priors.Tikhonov())
    >>> y = torch.ones(3, 1, 1)
    >>> loss.of_network(network, y, y, torch.Generator().manual_seed(0)).shape
    torch.Size([3])
    """

    operator: Operator
    prior: ExplicitPrior
    data_term: DataTerm = field(default_factory=LeastSquares)

    def __post_init__(self) -> None:
        if not isinstance(self.prior, ExplicitPrior) or "energy" not in self.prior.offers:
            raise InputError(
                "EveryWeight takes one explicit prior with an energy and without a weight, such as "
                f"HuberTV(), got {self.prior!r}"
            )

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        """Return the misfit alone."""
        return self.data_term.value(self.operator(result), wanted) / result[0].numel()

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        draw: Any = getattr(network, "draw", None)
        if draw is None:
            raise InputError(
                "EveryWeight trains a network that knows the weight, "
                f"it.unrolling.Conditioned(network, weights), and got {type(network).__name__}"
            )
        weight = draw(len(shown), generator)
        x = network(shown, weight)
        penalty = self.prior.energy(x)
        return self(x, shown) + weight.to(penalty.dtype) * penalty / x[0].numel()


def _distance(x: Tensor, reference: Tensor) -> Tensor:
    # The metric of deepinv counts the two parts of a complex value as one value.
    return mean_square(x - reference)


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)


def _uniform(like: Tensor, generator: Generator) -> Tensor:
    dtype = as_real(like).dtype
    return torch.rand(like.shape, generator=generator, dtype=dtype, device=like.device)


def _normal(like: Tensor, generator: Generator) -> Tensor:
    values = as_real(like)
    drawn = torch.randn(values.shape, generator=generator, dtype=values.dtype, device=values.device)
    return torch.view_as_complex(drawn) if like.is_complex() else drawn
