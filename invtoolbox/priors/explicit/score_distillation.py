"""Score distillation: a scene moves to where a diffusion model likes its pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.scores import Score


class ScoreDistillation(ExplicitPrior):
    r"""A gradient without an energy: ``mean over pictures of w(t) (score.noise(z, t) - e)``, z the picture under the noise e at step t.

    For pictures ``(batch, channel, row, column)``, or ``(batch, channel, picture, row, column)`` as renderers give them: ``w *
    ScoreDistillation(score) @ A`` moves a scene so that its renderings become likely. t and e are drawn from the seed and the iteration,
    for every picture anew and the same for all items. A model of latents is differentiated through its encoder, not through its network.

    With a ``reference`` it is the difference of two scores: ``w(t) (score.noise(z, t) - reference.noise(z, t))``, which is free of the
    drawn noise, and where the models agree nothing is pulled: what one knows and the other does not (a motion, an edit).

    Sources: Poole et al., "DreamFusion", ICLR 2023, equation 3; Sella et al., "Vox-E", ICCV 2023 (steps and their schedule); Animus3D,
    2025, and Hertz et al., "Delta denoising score", ICCV 2023 (differences).

    Args:
        score: a `Score`: `GaussianScore`, `DenoiserScore`, `DiffusersScore`, or your own.
        reference: another one, in place of the drawn noise.
        steps: the range of t, as shares of all steps.
        weight: w as a function of alpha_bar; ``1 - alpha_bar`` by default.
        noise: where e comes from: called with a tensor like the noise and the generator, or the noise itself (that of an inversion);
            standard normal draws by default.
        shrink: ``(after, every, factor, floor)``: from the iteration ``after`` on, the largest step shrinks by ``factor`` every so many
            iterations, down to ``floor``; Vox-E has (4000, 600, 0.75, 0.22).

    >>> from invtoolbox.priors import GaussianScore
    >>> score = GaussianScore(torch.ones(1, 2, 2), std=0.0, alphas=torch.tensor([0.5]))
    >>> x = torch.zeros(1, 1, 2, 2)
    >>> ScoreDistillation(score).gradient(x, torch.Generator().manual_seed(0)).mean()  # w sqrt(a / (1 - a)) (x - mean)
    tensor(-0.5000)
    """

    def __init__(
        self,
        score: Score,
        reference: Score | None = None,
        steps: tuple[float, float] = (0.02, 0.98),
        weight: Callable[[Tensor], Tensor] | None = None,
        noise: Tensor | Callable[[Tensor, Generator], Tensor] | None = None,
        shrink: tuple[int, int, float, float] | None = None,
    ) -> None:
        if not 0 <= steps[0] <= steps[1] <= 1:
            raise InputError(
                f"steps of ScoreDistillation are shares of all steps, from low to high within 0 to 1, got {steps}"
            )
        if reference is not None and not torch.equal(reference.alphas, score.alphas):
            raise InputError(
                "the two scores of ScoreDistillation have different schedules of noise; give both the same alphas"
            )
        if shrink is not None and not (
            shrink[1] >= 1 and 0 < shrink[2] <= 1 and 0 <= shrink[3] <= 1
        ):
            raise InputError(
                f"shrink of ScoreDistillation is (after, every, factor, floor) with factor and floor up to 1, got {shrink}"
            )
        self.score, self.reference, self.steps, self.weight, self.noise, self.shrink = (
            score,
            reference,
            steps,
            weight,
            noise,
            shrink,
        )

    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        if x.ndim not in (4, 5):
            raise InputError(
                f"{self!r} takes pictures (batch, channel, row, column) or (batch, channel, picture, row, column), got "
                f"{tuple(x.shape)}; renderers of voxels give pictures with block='picture'"
            )
        generator = torch.Generator(x.device) if generator is None else generator
        pictures = 1 if x.ndim == 4 else x.shape[2]
        with torch.enable_grad():
            free = x.detach().requires_grad_(True)
            flat = free if x.ndim == 4 else free.transpose(1, 2).flatten(0, 1)
            latent = self.score.encode(flat)
            slope = self._slope(latent.detach(), len(x), pictures, generator) / pictures
            (result,) = torch.autograd.grad(latent, free, slope)
        return result

    def _slope(self, latent: Tensor, batch: int, pictures: int, generator: Generator) -> Tensor:
        """The pull on what the score sees, ``(batch * picture, ...)``."""
        with torch.no_grad():
            last = len(self.score.alphas) - 1
            low, high = (round(share * last) for share in self.steps)
            t = torch.randint(
                low, max(high, low) + 1, (pictures,), generator=generator, device=latent.device
            ).repeat(batch)
            one = latent[:pictures]
            drawn = (
                self._noise(one, generator).expand_as(one).repeat(batch, *[1] * (latent.ndim - 1))
            )
            a, b = self.score.at_steps(t, latent)
            z = a * latent + b * drawn
            less = drawn if self.reference is None else self.reference.noise(z, t)
            alphas = self.score.alphas.to(latent.device)[t]
            w = 1 - alphas if self.weight is None else self.weight(alphas)
            return expand(w.to(latent), latent) * (self.score.noise(z, t) - less)

    def _noise(self, like: Tensor, generator: Generator) -> Tensor:
        if isinstance(self.noise, Tensor):
            return self.noise.to(like)
        if self.noise is not None:
            return self.noise(like, generator)
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)

    def at(self, iteration: int) -> Self:
        if self.shrink is None or iteration < self.shrink[0]:
            return self
        after, every, factor, floor = self.shrink
        other = copy.copy(self)
        low, high = self.steps
        other.steps = (
            low,
            max(low, min(high, max(floor, high * factor ** ((iteration - after) // every + 1)))),
        )
        other.shrink = None
        return other

    def subset(self, index: Any) -> Self:
        other = copy.copy(self)
        other.score = self.score.subset(index)
        other.reference = None if self.reference is None else self.reference.subset(index)
        if isinstance(self.noise, Tensor) and self.noise.ndim == 4 and len(self.noise) > 1:
            other.noise = self.noise[index]
        return other

    def __repr__(self) -> str:
        less = "" if self.reference is None else f", reference={type(self.reference).__name__}"
        return f"ScoreDistillation({type(self.score).__name__}{less})"
